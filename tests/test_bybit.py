"""Bybit's ways through the folds: whole requests refused, nameless answers, one ticker for three channels."""

import json
from itertools import pairwise
from typing import Any

import pytest
from chain_rig import START, Chain

from actors.model.events import L1, Book, Channel, Funding, Gap, OpenInterest, Ticker, Trade
from actors.model.instruments import Instrument
from actors.venues import bybit, bybit_linear
from actors.venues.base import Request, Venue

BTC = Instrument("BTC-USDT", "BTCUSDT", "BTC", "USDT")
ETH = Instrument("ETH-USDT", "ETHUSDT", "ETH", "USDT")
PERP = Instrument("BTC-USDT-PERP", "BTCUSDT", "BTC", "USDT", "1", "linear")
MS = START // 1_000_000


def book(kind: str, u: int, bids: Any = (), asks: Any = (), *, depth: int = 200) -> dict[str, Any]:
    data = {"s": "BTCUSDT", "b": list(bids), "a": list(asks), "u": u, "seq": 1}
    return {"topic": f"orderbook.{depth}.BTCUSDT", "type": kind, "ts": MS, "data": data, "cts": MS}


def fill(identity: str) -> dict[str, Any]:
    data = [{"i": identity, "T": MS, "p": "10", "v": "1", "S": "Buy", "s": "BTCUSDT", "BT": False}]
    return {"topic": "publicTrade.BTCUSDT", "ts": MS, "type": "snapshot", "data": data}


def ticker(kind: str, **fields: str) -> dict[str, Any]:
    data = {"symbol": "BTCUSDT"} | fields
    return {"topic": "tickers.BTCUSDT", "type": kind, "data": data, "cs": 1, "ts": MS}


def consent(number: str = "", op: str = "subscribe") -> dict[str, Any]:
    return {"success": True, "ret_msg": "", "conn_id": "x", "req_id": number, "op": op}


WORDS = ("error:handler not found,topic:{}", "Invalid symbol :[{}]")  # captured; told by other clients


def refusal(topic: str, number: str = "", words: str = WORDS[0]) -> dict[str, Any]:
    reason = words.format(topic)
    return {"success": False, "ret_msg": reason, "conn_id": "x", "req_id": number, "op": "subscribe"}


@pytest.fixture
def chain() -> Chain:
    made = Chain(bybit.VENUE, BTC)
    made.open("trade", "book", "l1")
    made.hear(consent("1"))
    return made


# ---- subscriptions --------------------------------------------------------------------------------------


def test_no_request_has_more_than_ten_topics_and_no_connection_too_many_characters() -> None:
    many = [Instrument(f"A{n}-USDT-PERP", f"1000000A{n}USDT", f"A{n}", "USDT") for n in range(300)]
    for venue in (bybit.VENUE, bybit_linear.VENUE):
        for connection in venue.plan(venue.endpoints, many, sorted(venue.channels)):
            args = [json.loads(subscription.frame)["args"] for subscription in connection.subscriptions]
            assert all(len(part) <= 10 for part in args)
            assert len(json.dumps([topic for part in args for topic in part])) < 21_000


def test_three_channels_are_one_topic_asked_for_once() -> None:
    channels: list[Channel] = ["ticker", "open_interest", "funding", "trade"]
    [connection] = bybit_linear.VENUE.plan(bybit_linear.VENUE.endpoints, [PERP], channels)
    [subscription] = connection.subscriptions
    assert json.loads(subscription.frame)["args"] == ["tickers.BTCUSDT", "publicTrade.BTCUSDT"]
    assert subscription.items == [(channel, PERP.symbol) for channel in channels]
    assert connection.url.endswith("/v5/public/linear")


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("number", ["1", ""])
def test_one_bad_topic_costs_the_others_of_its_request_nothing_but_a_moment(number: str, words: str) -> None:
    chain = Chain(bybit.VENUE, BTC, ETH)
    chain.open("trade", "book")
    chain.hear(refusal("orderbook.200.ETHUSDT", number, words))
    asked = chain.asked()
    assert [(r.op, r.channel, r.symbol, r.conn) for r in asked] == [
        ("subscribe", "trade", "BTC-USDT", "a.1"),
        ("subscribe", "book", "BTC-USDT", "a.1"),
        ("subscribe", "trade", "ETH-USDT", "a.1"),
    ]
    for n, request in enumerate(asked, 2):
        item = (request.channel, request.symbol)
        for subscription in bybit.subscribe([item], chain.known, n):
            chain.say("s", subscription)
        chain.hear(consent(str(n)))
    assert chain.states() == {
        "trade BTC-USDT": "subscribed",
        "book BTC-USDT": "subscribed",
        "trade ETH-USDT": "subscribed",
        "book ETH-USDT": "refused",
    }
    chain.wait(30, consent())  # answers to nothing change nothing
    assert chain.states().get("book ETH-USDT", "refused") == "refused"


@pytest.mark.parametrize("number", ["1", ""])
def test_a_request_that_is_refused_without_a_topic_is_asked_again_one_by_one(number: str) -> None:
    chain = Chain(bybit_linear.VENUE, PERP)
    chain.open("ticker", "open_interest", "trade")
    chain.hear(refusal("", number, "Request failed"))
    asked = chain.asked()
    assert [(r.op, r.channel) for r in asked] == [
        ("subscribe", c) for c in ("ticker", "open_interest", "trade")
    ]
    for n, request in enumerate(asked, 2):
        [subscription] = bybit.subscribe([(request.channel, PERP.symbol)], chain.known, n)
        chain.say("s", subscription)
        topic = json.loads(subscription.frame)["args"][0]
        chain.hear(consent() if request.channel == "trade" else refusal(topic, words="Request failed"))
    assert chain.states() == {
        "ticker BTC-USDT-PERP": "refused",
        "open_interest BTC-USDT-PERP": "refused",
        "trade BTC-USDT-PERP": "subscribed",
    }
    assert chain.asked() == []


def test_a_consent_that_never_came_costs_the_next_resync_nothing() -> None:
    chain = Chain(bybit_linear.VENUE, PERP)
    chain.open("book")
    chain.hear(book("snapshot", 5, [["9", "1"]], [["11", "1"]]))  # data without an answer
    chain.hear(book("delta", 8))
    [request] = chain.asked()
    assert request.op == "resubscribe"
    [ended] = bybit.unsubscribe([("book", PERP.symbol)], chain.known, 2)
    chain.say("s", ended)
    chain.hear(consent(op="unsubscribe"))
    assert [(r.op, r.channel) for r in chain.asked()] == [("subscribe", "book")]
    [anew] = bybit.subscribe([("book", PERP.symbol)], chain.known, 3)
    chain.say("s", anew)
    chain.hear(book("snapshot", 9, [["9", "1"]], [["11", "1"]]), consent())
    assert chain.told(Book)[-1].state == "live"
    chain.wait(30, book("snapshot", 10, [["9", "1"]], [["11", "1"]]))
    assert chain.asked() == []


def test_one_topic_of_three_channels_is_asked_for_again_until_all_of_them_have_it() -> None:
    chain = Chain(bybit_linear.VENUE, PERP)
    chain.open("ticker", "open_interest", "funding", "liquidation")
    chain.hear(refusal("allLiquidation.BTCUSDT"))
    asked = chain.asked()
    assert [(r.op, r.channel) for r in asked] == [
        ("subscribe", c) for c in ("ticker", "open_interest", "funding")
    ]
    for n, request in enumerate(asked, 2):
        for subscription in bybit.subscribe([(request.channel, PERP.symbol)], chain.known, n):
            chain.say("s", subscription)
        chain.hear(
            consent() if n == 2 else refusal("tickers.BTCUSDT", words="error:already subscribed,topic:{}")
        )
    assert chain.states() == {
        "ticker BTC-USDT-PERP": "subscribed",
        "open_interest BTC-USDT-PERP": "subscribed",
        "funding BTC-USDT-PERP": "subscribed",
        "liquidation BTC-USDT-PERP": "refused",
    }


def test_a_ticker_that_is_refused_is_three_channels_and_the_rest_is_asked_for_again() -> None:
    chain = Chain(bybit_linear.VENUE, PERP)
    chain.open("ticker", "trade", "open_interest", "funding")
    chain.hear(refusal("tickers.BTCUSDT"))
    assert [(r.op, r.channel) for r in chain.asked()] == [("subscribe", "trade")]
    states = chain.states()
    assert {channel.partition(" ")[0] for channel, state in states.items() if state == "refused"} == {
        "ticker", "open_interest", "funding"
    }  # fmt: skip


def test_a_nameless_consent_is_to_the_oldest_request_that_is_unanswered() -> None:
    chain = Chain(bybit_linear.VENUE, PERP)
    chain.say("o", b"ws://x")
    for n, item in enumerate([("liquidation", PERP.symbol), ("trade", PERP.symbol)], 1):
        [subscription] = bybit.subscribe([item], chain.known, n)  # type: ignore[list-item]
        chain.say("s", subscription)
    chain.hear(consent())
    assert chain.states() == {"liquidation BTC-USDT-PERP": "subscribed", "trade BTC-USDT-PERP": "wanted"}
    chain.hear(consent())
    assert chain.states() == {"trade BTC-USDT-PERP": "subscribed"}


def test_only_what_was_asked_for_comes_of_a_ticker() -> None:
    frames = [
        ticker("snapshot", lastPrice="10", openInterest="8", singleOpenInterest="4", markPrice="10.5"),
        ticker("delta", lastPrice="11"),
        ticker("delta", markPrice="10.6", fundingRate="0.0001"),
    ]
    chain = Chain(bybit_linear.VENUE, PERP)
    chain.open("funding")
    chain.hear(*frames)
    assert [event.mark for event in chain.told(Ticker, OpenInterest, Funding)] == ["10.5", "10.6"]
    unseen = Chain(bybit_linear.VENUE, PERP)  # its opening was lost: nobody knows what it was asked for
    unseen.hear(*frames)
    told = unseen.told(Ticker, OpenInterest, Funding)
    assert [type(event) for event in told] == [Ticker, OpenInterest, Funding, Ticker, Funding]


# ---- books ----------------------------------------------------------------------------------------------


def test_a_jump_of_u_is_a_gap_and_asks_for_the_topic_anew(chain: Chain) -> None:
    chain.hear(book("snapshot", 5, [["9", "1"]], [["11", "1"]]), book("delta", 6, [["9", "2"]]))
    chain.told(Book)
    chain.hear(book("delta", 8, [["8", "1"]]))
    [gap] = [event for event in chain.told(Gap, Book) if isinstance(event, Gap)]
    assert (gap.channel, gap.cause, gap.first, gap.last) == ("book", "sequence", "7", "7")
    [request] = chain.asked()
    assert (request.op, request.channel, request.symbol) == ("resubscribe", "book", "BTC-USDT")


def test_jumps_again_and_again_are_followed_ever_more_seldom(chain: Chain) -> None:
    jumping = [book("snapshot", 10, [["9", "1"]], [["11", "1"]]), book("delta", 15)]
    top = book("snapshot", 1, [["9", "1"]], depth=1)
    chain.hear(*jumping)
    asked: list[int] = []
    for second in range(300):
        chain.wait(1, top)
        if any(request.op == "resubscribe" and request.channel == "book" for request in chain.asked()):
            asked.append(second)
            chain.hear(*jumping)
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert 5 <= len(asked) <= 20
    assert max(pauses) == pauses[-1] >= 20 > pauses[0]


def test_a_snapshot_of_u_1_replaces_the_book_and_the_next_delta_follows_it(chain: Chain) -> None:
    chain.hear(
        book("snapshot", 500, [["9", "1"]], [["11", "1"]]),
        book("snapshot", 1, [["7", "1"]], [["12", "1"]]),
        book("delta", 1, [["6", "1"]]),
        book("delta", 2, [["8", "1"]]),
    )
    told = [event for event in chain.told(Book, Gap) if not (isinstance(event, Book) and event.periodic)]
    assert {type(event) for event in told} == {Book}
    assert (told[-1].state, told[-1].seq, told[-1].bids) == ("live", 2, [("8", "1")])
    assert not chain.asked()


def test_a_delta_before_its_snapshot_is_no_book_and_no_gap(chain: Chain) -> None:
    chain.hear(book("delta", 5, [["9", "1"]]))
    assert [event.state for event in chain.told(Book, Gap)] in ([], ["resyncing"])
    chain.hear(book("snapshot", 9, [["9", "1"]], [["11", "1"]]))
    assert [event.state for event in chain.told(Book, Gap)][-1] == "live"


def test_levels_beyond_the_depth_are_cut(chain: Chain) -> None:
    bids = [[str(1000 - n), "1"] for n in range(50)]
    chain.hear(
        book("snapshot", 1, bids, [["2000", "1"]], depth=50), book("delta", 2, [["1001", "1"]], depth=50)
    )
    changes = chain.told(Book)[-1].bids
    assert changes == [("1001", "1"), ("951", "0")]


def test_best_bid_and_offer_said_again_keep_the_subscription_live(chain: Chain) -> None:
    top = book("snapshot", 7, [["9", "1"]], [["11", "1"]], depth=1)
    chain.hear(top, book("snapshot", 5, [["9", "1"]], [["11", "1"]]))
    chain.wait(60, top)
    assert len(chain.told(L1)) >= 61
    assert chain.states().get("l1 BTC-USDT", "live") == "live"
    chain.wait(25, {"success": True, "ret_msg": "pong", "op": "ping"})
    assert chain.states()["l1 BTC-USDT"] == "stale"


# ---- trades ---------------------------------------------------------------------------------------------


def test_fills_of_two_connections_pass_once_though_their_ids_are_no_numbers() -> None:
    chain = Chain(bybit_linear.VENUE, PERP)
    chain.open("trade")
    chain.open("trade", conn="b.1")
    ids = ["20f43950-d8dd-5b31-9112-a178eb6023af", "00000000-d8dd-5b31-9112-a178eb6023af", "f"]
    for identity in ids:
        chain.hear(fill(identity))
    for identity in [*ids, "g"]:
        chain.hear(fill(identity), conn="b.1")
    assert [trade.id for trade in chain.told(Trade)] == [*ids, "g"]


ODD: list[Any] = [
    {"success": False, "ret_msg": None, "conn_id": "x", "op": "ping"},
    {"success": False, "ret_msg": "error:request parse error", "conn_id": "x", "op": ""},
    '{"topic":"tickers.BTCUSDT","type":"snapshot","data":{"symbol":"BTCUSDT","lastPrice":1},"ts":1}',
    '{"topic":"orderbook.1.BTCUSDT","type":"snapshot","data":null}',
]


@pytest.mark.parametrize("odd", ODD)
def test_a_frame_that_is_odd_but_no_trade_costs_no_trades(odd: Any) -> None:
    chain = Chain(bybit_linear.VENUE, PERP)
    chain.open("trade", "ticker", "l1")
    chain.hear(consent(), fill("f"), odd)
    assert not chain.told(Gap)
    chain.hear('{"topic":"publicTrade.BTCUSDT","type":"snapshot","data":null}')
    assert [(gap.channel, gap.symbol) for gap in chain.told(Gap)] == [("trade", PERP.symbol)]


def test_an_instrument_whose_name_ends_another_s_loses_nothing_with_it() -> None:
    meth = Instrument("METH-USDT", "METHUSDT", "METH", "USDT")
    chain = Chain(bybit.VENUE, ETH, meth)
    chain.open("trade")
    chain.hear(consent("1"), '{"topic":"publicTrade.METHUSDT","type":"snapshot","data":[{"s":"METHUSDT"}]}')
    assert [(gap.channel, gap.symbol) for gap in chain.told(Gap)] == [("trade", meth.symbol)]


# ---- pages ----------------------------------------------------------------------------------------------


def test_the_next_page_is_asked_for_with_the_cursor_as_it_came() -> None:
    [first] = bybit_linear.VENUE.instruments
    body = {"retCode": 0, "result": {"list": [], "nextPageCursor": "first%3D10000&last=x"}}
    second = bybit.next_page(first, json.dumps(body).encode())
    assert second is not None
    assert second.path.startswith(
        "/v5/market/instruments-info?category=linear&limit=1000&cursor=first%253D10000"
    )
    third = bybit.next_page(second, json.dumps(body | {"result": {"nextPageCursor": "z"}}).encode())
    assert third == Request("instruments", f"{first.path}&cursor=z")
    assert bybit.next_page(first, b'{"retCode":0,"result":{"list":[],"nextPageCursor":""}}') is None


# ---- what the venue allows ------------------------------------------------------------------------------


@pytest.mark.parametrize("venue", [bybit.VENUE, bybit_linear.VENUE], ids=lambda venue: venue.name)
def test_we_ask_for_no_more_than_is_documented(venue: Venue) -> None:
    limits = venue.limits  # sheet 2
    assert limits.connects_per_minute * 5 <= 500
    assert limits.weight_per_minute <= 600, "which are allowed in 5 s"
    assert limits.forbidden_s == 10 * 60
    # No limit of frames is published: what a connection may be asked for is sent within a few seconds.
    frames = limits.items_per_connection / bybit.TOPICS_PER_FRAME
    assert 1 <= frames / limits.frames_per_s <= 10


@pytest.mark.parametrize("venue", [bybit.VENUE, bybit_linear.VENUE], ids=lambda venue: venue.name)
def test_pings_and_patience_are_as_documented(venue: Venue) -> None:
    assert venue.keepalive is not None
    assert json.loads(venue.keepalive.frame) == {"op": "ping"}  # sheet 4
    assert venue.keepalive.every_s <= 20  # sheet 4
    assert venue.quiet_s is not None
    assert 2 * venue.keepalive.every_s < venue.quiet_s < 600, "two pongs are missing; the venue waits 10 min"
    # Sheet 5.2: best bid and offer are said again each 3 s. 5.4: mark and index price move each second.
    assert 3 * 3 <= venue.silence_s["l1"] <= 60
    assert venue.silence_s.get("funding", 60) == 60
    assert set(venue.silence_s) <= {"l1", "funding"}, "all else may be silent for ever"
    # Sheet 5.2 and 5.4: book and ticker open with a snapshot.
    of_ticker = {c for c, stream in bybit.STREAMS.items() if stream in (bybit.BOOK, "tickers")}
    assert set(venue.first_s) == of_ticker & venue.channels
    assert all(5 <= seconds <= 30 for seconds in venue.first_s.values())


def test_a_connection_without_pongs_is_replaced_and_one_with_them_is_not() -> None:
    pong = {"success": True, "ret_msg": "pong", "conn_id": "x", "op": "ping"}
    chain = Chain(bybit.VENUE, BTC)
    chain.open("trade")
    chain.hear(consent("1"))
    for _ in range(20):
        chain.wait(20)
        chain.hear(pong)
    assert not chain.asked()
    chain.wait(60)
    assert [(r.op, r.conn) for r in chain.asked()] == [("reconnect", "a.1")]
