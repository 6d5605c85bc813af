"""FTSOBest's words to the letter, and their acknowledged form: every shape against its JSON Schema."""

import json

import pytest
from jsonschema import ValidationError
from schemas import conforms, validator

from actors.dialects import ftsobest
from actors.model.events import Event, Gap, Ticker, Trade

NS = 1_730_000_000_123_456_789


def trade(venue: str = "gateio", symbol: str = "BTC-USDT", ts_event: int | None = NS) -> Trade:
    return Trade(venue, symbol, ts_event, NS + 5_000_000, 7, "7", "97000.1", "0.1", "buy")


def said(event: Event, *, acked: bool = False) -> str:
    words = ftsobest.Words(event.venue, acked=acked).say(event, f"{event.venue}.0/events/9-7")
    assert words is not None
    return words.text


def test_a_trade_is_the_predecessor_s_to_the_letter():
    assert said(trade()) == (
        '{"type":"trade","exchange":"gateio","symbol":"BTC/USDT","timestamp":1730000000123,'
        '"price":"97000.1","amount":"0.1","side":"buy"}'
    )


def test_a_book_is_the_predecessor_s_to_the_letter():
    words = ftsobest.Words("gateio", acked=False)
    message = words.book("BTC-USDT", NS, [("97000.1", "2")], [("97000.2", "1")], "x")
    assert message is not None
    assert message.text == (
        '{"type":"book","exchange":"gateio","symbol":"BTC/USDT","timestamp":1730000000123,'
        '"asks":[["97000.2","1"]],"bids":[["97000.1","2"]]}'
    )


def test_a_ticker_says_null_where_the_venue_is_silent():
    assert said(Ticker("okx", "BTC-USDT", NS, NS, None)) == (
        '{"type":"ticker","exchange":"okx","symbol":"BTC/USDT","timestamp":1730000000123,'
        '"bid":null,"ask":null,"last":null,"vol_24h":null}'
    )
    message = json.loads(said(Ticker("okx", "BTC-USDT", NS, NS, None, last="9.50", volume_base="12")))
    assert (message["last"], message["vol_24h"]) == ("9.50", "12")


def test_a_venue_without_a_time_has_the_receive_time():
    assert json.loads(said(trade(ts_event=None)))["timestamp"] == 1_730_000_000_128


@pytest.mark.parametrize("venue", sorted(ftsobest.EXCHANGES))
@pytest.mark.parametrize("acked", [False, True])
def test_every_shape_is_of_its_schema(venue: str, acked: bool):
    name = "acked" if acked else "ftsobest"
    part = "message" if acked else None
    assert conforms(name, said(trade(venue), acked=acked), part)["exchange"] == ftsobest.EXCHANGES[venue]
    conforms(name, said(Ticker(venue, "BTC-USDT", None, NS, None, last="1"), acked=acked), part)
    book = ftsobest.Words(venue, acked=acked).book("BTC-USDT", NS, [("1", "2")], [], f"{venue}.0/books/9-7")
    assert book is not None
    conforms(name, book.text, part)


def test_the_predecessor_knows_no_contracts_gaps_or_other_venues():
    words = ftsobest.Words("okx", acked=False)
    assert words.say(trade("okx", "BTC-USDT-PERP"), "x") is None
    assert words.say(Gap("okx", "BTC-USDT", None, NS, None, "trade", "sequence", "1", "2"), "x") is None
    assert words.book("BTC-USDT-PERP", NS, [], [], "x") is None
    assert not words.knows("BTC-USDT-PERP")
    assert words.knows("BTC-USDT")
    assert ftsobest.Words("bybit_linear", acked=False).say(trade("bybit_linear"), "x") is None


def test_the_acknowledged_form_knows_them_and_says_the_cursor():
    message = conforms("acked", said(trade("bybit_linear", "BTC-USDT-PERP"), acked=True), "message")
    assert (message["exchange"], message["symbol"]) == ("bybit_linear", "BTC/USDT-PERP")
    assert message["cursor"] == "bybit_linear.0/events/9-7"
    assert ftsobest.ours("BTC/USDT-PERP") == "BTC-USDT-PERP"
    gap = Gap("okx", None, None, NS, None, None, "retention", "3", "9")
    assert conforms("acked", said(gap, acked=True), "message") == {
        "type": "gap", "exchange": "okx", "symbol": None, "timestamp": NS // 10**6, "channel": None,
        "cause": "retention", "first": "3", "last": "9", "filled": False, "cursor": "okx.0/events/9-7",
    }  # fmt: skip


def test_frames_between_the_two_are_of_their_schema_and_read_back():
    text = ftsobest.batch(
        "okx.0", "events", after="9-4", first="9-5", last="9-7", messages=[said(trade("okx"), acked=True)]
    )
    conforms("acked", text)
    batch = ftsobest.from_collector(text)
    assert isinstance(batch, ftsobest.Batch)
    assert (batch.after, batch.first, batch.last) == ("9-4", "9-5", "9-7")
    head = ftsobest.head_of(batch.messages[0])
    assert (head.type, head.exchange, head.cursor) == ("trade", "okx", "okx.0/events/9-7")
    for frame in (
        ftsobest.Welcome({"okx.0/events": "9-7"}),
        ftsobest.Refused("no such key"),
        ftsobest.Ack("okx.0", "events", "9-7"),
    ):
        conforms("acked", ftsobest.encode(frame))
        assert ftsobest.from_master(ftsobest.encode(frame)) == frame
    for text in (ftsobest.PING, ftsobest.PONG):
        conforms("acked", text)
    conforms("ftsobest", ftsobest.PING)


@pytest.mark.parametrize(
    "wrong",
    [
        '{"type":"trade","exchange":"gate","symbol":"BTC/USDT","timestamp":1,"price":"1","amount":"1","side":"buy"}',
        '{"type":"trade","exchange":"okx","symbol":"BTC-USDT","timestamp":1,"price":"1","amount":"1","side":"buy"}',
        '{"type":"trade","exchange":"okx","symbol":"BTC/USDT","timestamp":1.5,"price":"1","amount":"1","side":"buy"}',
        '{"type":"trade","exchange":"okx","symbol":"BTC/USDT","timestamp":1,"price":1,"amount":"1","side":"buy"}',
        '{"type":"trade","exchange":"okx","symbol":"BTC/USDT","timestamp":1,"price":"1e-7","amount":"1","side":"buy"}',
        '{"type":"book","exchange":"okx","symbol":"BTC/USDT","timestamp":1,"asks":[["1"]],"bids":[]}',
    ],
)
def test_the_schema_refuses_what_is_not_the_predecessor_s(wrong: str):
    with pytest.raises(ValidationError):
        validator("ftsobest").validate(json.loads(wrong))


def test_a_login_is_the_predecessor_s_and_reads_back():
    assert ftsobest.login("k&=1") == "key=k&=1&role=collector"
    assert ftsobest.parse_login("key=k&=1&role=collector") == ("k&=1", False, "default")
    text = ftsobest.login("k", acked=True, source="a1b2")
    assert text == "key=k&role=collector&protocol=acked&source=a1b2"
    assert ftsobest.parse_login(text) == ("k", True, "a1b2")


@pytest.mark.parametrize(
    "wrong",
    [
        "", "hello", '{"op":"ping"}', "key=k", "key=k&role=reader", "key=k&role=collector&protocol=v9",
        "key=k&role=collector&protocol=acked&source=..", "key=k&role=collector&protocol=acked&source=a/b",
        "key=k&role=collector&source=" + "x" * 65, "key=secret&role=collector\n",
    ],
)  # fmt: skip
def test_what_is_no_login_is_refused_without_saying_what_it_was(wrong: str):
    with pytest.raises(ftsobest.LoginError) as caught:
        ftsobest.parse_login(wrong)
    assert "secret" not in str(caught.value)


def test_the_demo_and_metrics_lines_are_the_predecessor_s():
    assert ftsobest.demo_line('{"op":"ping"}') == 'DEMO → {"op":"ping"}'
    line = ftsobest.metrics_line(ftsobest.Counters(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12))
    assert line == (
        "[METRICS] ex=1 ws=2 tp=3 ob=4 recv=5 sent=6 dropped=7 parse_err=8 send_err=9 reconnects=10 "
        "sub_send=11 sub_send_err=12"
    )
