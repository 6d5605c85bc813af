"""Kraken through the normalizer's and the bookbuilder's folds: answers a symbol, silence, wrong checksums."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from actors.model import codec
from actors.model.events import L1, Book, BookState, Channel, Event, Gap, Status, Ticker, Trade
from actors.model.instruments import Instrument, UnknownInstrument
from actors.stages import raw
from actors.stages.book import Levels
from actors.stages.bookbuild import Bookbuild
from actors.stages.control import ControlRequest
from actors.stages.fold import Output
from actors.stages.normalize import Normalize
from actors.venues import kraken
from actors.venues.base import Answer

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND
SYMBOLS = ("BTC-USD", "ETH-USD", "XRP-USD")
KNOWN = {s: Instrument(s, s.replace("-", "/"), *s.split("-")) for s in SYMBOLS}
VENUE = kraken.at_depth(10)


class Chain:
    """One connection's lines of ``raw``, folded twice; tells what was said since one last looked."""

    def __init__(self) -> None:
        self.normalize = Normalize(VENUE, "kraken.0")
        self.bookbuild = Bookbuild("kraken", VENUE.book_rule)
        self.first = Output(("events", "control", "dead"))
        self.second = Output(("books", "control", "dead"))
        self.now = START
        self.lines = self.events = self.ids = 0
        self.books = {symbol: Levels(10) for symbol in SYMBOLS}
        for instrument in KNOWN.values():
            self.say("i", instrument, "a.*")
        self.say("o", b"ws://x/v2")

    def say(self, kind: str, payload: Any, conn: str = "a.1") -> None:
        self.lines += 1
        text = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        self.normalize.fold(self.lines, raw.line(self.now, conn, kind, text), self.first)
        for line in self.first.lines["events"][self.events :]:
            self.events += 1
            self.bookbuild.fold(self.events, line, self.second)

    def send(self, channel: Channel, *symbols: str, op: str = "subscribe") -> int:
        items = [(channel, symbol) for symbol in symbols]
        frames = VENUE.subscribe if op == "subscribe" else VENUE.unsubscribe
        [subscription] = frames(items, KNOWN, self.ids + 1)
        self.ids += 1
        self.say("s", subscription)
        return self.ids

    def ack(self, number: int, channel: str, *symbols: str, method: str = "subscribe") -> None:
        for symbol in symbols:
            result = {"channel": channel, "symbol": KNOWN[symbol].native}
            self.frame(method=method, result=result, success=True, req_id=number)

    def refuse(self, number: int, error: str, method: str = "subscribe", **more: Any) -> None:
        self.frame(error=error, method=method, success=False, req_id=number, **more)

    def frame(self, **document: Any) -> None:
        self.say("f", json.dumps(document, separators=(",", ":")).encode())

    def book(
        self,
        symbol: str,
        bids: Iterable[tuple[str, str]],
        asks: Iterable[tuple[str, str]] = (),
        *,
        snapshot: bool = False,
        wrong: bool = False,
    ) -> None:
        mine = self.books[symbol]
        (mine.load if snapshot else mine.update)(list(bids), list(asks))
        crc = kraken.book_checksum(mine) ^ wrong
        sides = [",".join(f'{{"price":{p},"qty":{q}}}' for p, q in side) for side in (bids, asks)]
        kind = "snapshot" if snapshot else "update"
        self.say(
            "f",
            b'{"channel":"book","type":"%b","data":[{"symbol":"%b","bids":[%b],"asks":[%b],"checksum":%d}]}'
            % (kind.encode(), KNOWN[symbol].native.encode(), *(side.encode() for side in sides), crc),
        )

    def heartbeat(self) -> None:
        self.frame(channel="heartbeat")

    def wait(self, seconds: int, *, heartbeats: bool = True) -> None:
        for _ in range(seconds):
            self.now += SECOND
            if heartbeats:
                self.heartbeat()
            self.say("k", raw.LegsAlive(["a"]), "-")

    def told(self, *kinds: type[Event]) -> list[Any]:
        lines = self.first.lines["events"] + self.second.lines["books"]
        events = [event for line in lines if isinstance(event := codec.decode(line), kinds)]
        self.first.lines["events"].clear()
        self.second.lines["books"].clear()
        self.events = 0
        return events

    def asked(self) -> list[tuple[str, str | None, str | None]]:
        lines = self.first.lines["control"] + self.second.lines["control"]
        requests = [msgspec.json.decode(line, type=ControlRequest) for line in lines]
        self.first.lines["control"].clear()
        self.second.lines["control"].clear()
        return [(request.op, request.channel, request.symbol) for request in requests]

    def states(self) -> dict[str, Any]:
        return {f"{s.channel} {s.symbol}": s.state for s in self.told(Status) if s.symbol is not None}


BIDS = [("100.0", "1.00000000"), ("99.5", "2.50000000")]
ASKS = [("100.5", "0.05000000"), ("101.0", "3.00000000")]


@pytest.fixture
def chain() -> Chain:
    return Chain()


def live(chain: Chain, *symbols: str) -> None:
    number = chain.send("book", *symbols)
    for symbol in symbols:
        chain.book(symbol, BIDS, ASKS, snapshot=True)  # data may come before its acknowledgement
    chain.ack(number, "book", *symbols)


def test_one_frame_is_acknowledged_symbol_by_symbol(chain: Chain) -> None:
    number = chain.send("trade", *SYMBOLS)
    chain.told()
    chain.ack(number, "trade", "ETH-USD")
    assert chain.states() == {"trade ETH-USD": "subscribed"}
    chain.ack(number, "trade", "BTC-USD", "XRP-USD")
    assert chain.states() == {"trade BTC-USD": "subscribed", "trade XRP-USD": "subscribed"}


def test_one_symbol_of_a_frame_is_refused_and_the_others_go_on(chain: Chain) -> None:
    first, second = chain.send("trade", *SYMBOLS), chain.send("ticker", "ETH-USD")
    chain.told()
    chain.ack(first, "trade", "BTC-USD")
    chain.refuse(first, "Currency pair not supported ETH/USD", symbol="ETH/USD")
    chain.ack(first, "trade", "XRP-USD")
    chain.ack(second, "ticker", "ETH-USD")
    assert chain.states() == {
        "trade BTC-USD": "subscribed",
        "trade ETH-USD": "refused",
        "trade XRP-USD": "subscribed",
        "ticker ETH-USD": "subscribed",
    }
    assert not chain.first.lines["dead"]


def test_a_refused_depth_refuses_what_was_sent_though_the_socket_lives(chain: Chain) -> None:
    number = chain.send("book", *SYMBOLS)
    chain.told()
    chain.refuse(number, "Subscription depth not supported")
    chain.wait(30)
    assert chain.states() == {f"book {symbol}": "refused" for symbol in SYMBOLS}
    assert chain.asked() == []  # tried again, but seldom
    chain.wait(40)
    assert chain.asked()[:3] == [("subscribe", "book", symbol) for symbol in SYMBOLS]


def test_answers_survive_a_checkpoint_between_them(chain: Chain) -> None:
    number = chain.send("trade", *SYMBOLS)
    chain.ack(number, "trade", "BTC-USD")
    chain.normalize = Normalize(VENUE, "kraken.0", chain.normalize.dump())
    chain.told()
    chain.ack(number, "trade", "ETH-USD")
    chain.refuse(number, "no", symbol="XRP/USD")
    assert chain.states() == {"trade ETH-USD": "subscribed", "trade XRP-USD": "refused"}


def test_a_book_acknowledged_and_then_silent_is_asked_for_anew_and_a_quiet_trade_channel_is_not(
    chain: Chain,
) -> None:
    for channel in kraken.CHANNELS:
        chain.ack(chain.send(channel, "BTC-USD"), channel, "BTC-USD")
    chain.told()
    chain.wait(12)
    assert chain.states() == {"book BTC-USD": "stale", "ticker BTC-USD": "stale"}
    assert chain.asked() == [("resubscribe", "book", "BTC-USD"), ("resubscribe", "ticker", "BTC-USD")]


def test_a_book_that_has_come_may_be_silent_as_long_as_hearts_beat(chain: Chain) -> None:
    live(chain, "BTC-USD")
    chain.told()
    chain.wait(300)
    assert chain.states() == {}
    assert chain.asked() == []


def test_a_connection_without_heartbeats_is_stale_replaced_and_live_when_they_come_back(chain: Chain) -> None:
    live(chain, "BTC-USD")
    chain.wait(3)
    chain.told()
    chain.wait(6, heartbeats=False)
    told = chain.told(Status, Book)
    assert [(s.channel, s.state, s.conn) for s in told if isinstance(s, Status)] == [(None, "stale", "a.1")]
    assert [b.state for b in told if isinstance(b, Book)] == ["stale"]
    assert [op for op, *_ in chain.asked()] == ["reconnect"]
    chain.wait(2)
    told = chain.told(Status, Book)
    assert [(s.channel, s.state, s.conn) for s in told if isinstance(s, Status)] == [(None, "live", "a.1")]
    assert [b.state for b in told if isinstance(b, Book)] == ["live"]


@pytest.mark.parametrize("comes", [True, False])
def test_an_outage_of_ours_is_no_silence_of_the_venue(chain: Chain, comes: bool) -> None:
    live(chain, "BTC-USD")
    chain.wait(3)
    chain.told()
    chain.now += 20 * SECOND  # Redis is away: no tick, and what is heard waits
    chain.say("k", raw.LegsAlive(["a"]), "-")
    if comes:
        chain.heartbeat()
    chain.wait(1, heartbeats=False)
    assert [s.state for s in chain.told(Status)] == ([] if comes else ["stale"])
    assert [op for op, *_ in chain.asked()] == ([] if comes else ["reconnect"])


def test_a_connection_of_which_nothing_is_acknowledged_owes_no_heartbeat(chain: Chain) -> None:
    chain.refuse(chain.send("trade", "BTC-USD"), "no")
    chain.told()
    chain.wait(20, heartbeats=False)
    assert chain.told(Status) == []


def test_a_wrong_checksum_resyncs_exactly_that_book_by_a_new_subscription(chain: Chain) -> None:
    live(chain, *SYMBOLS)
    assert {b.symbol: (b.state, b.verified) for b in chain.told(Book)} == dict.fromkeys(
        SYMBOLS, ("live", "checksum")
    )
    assert chain.asked() == []
    chain.book("ETH-USD", [("100.0", "7.00000000")], wrong=True)
    chain.book("BTC-USD", [("100.0", "8.00000000")])
    told = chain.told(Gap, Book)
    assert [(g.symbol, g.channel, g.cause) for g in told if isinstance(g, Gap)] == [
        ("ETH-USD", "book", "checksum")
    ]
    expected: list[tuple[str, BookState]] = [("ETH-USD", "resyncing"), ("BTC-USD", "live")]
    assert [(b.symbol, b.state) for b in told if isinstance(b, Book)] == expected
    assert chain.asked() == [("resubscribe", "book", "ETH-USD")]
    number = chain.send("book", "ETH-USD", op="unsubscribe")
    chain.book("ETH-USD", [("99.0", "1.00000000")])  # still under way: of a book that is no more
    chain.ack(number, "book", "ETH-USD", method="unsubscribe")
    assert chain.asked() == [("subscribe", "book", "ETH-USD")]
    assert [b.symbol for b in chain.told(Book) if b.state == "live"] == []
    number = chain.send("book", "ETH-USD")
    chain.ack(number, "book", "ETH-USD")
    chain.book("ETH-USD", BIDS, ASKS, snapshot=True)
    chain.book("ETH-USD", [("99.8", "1.00000000")])
    books = chain.told(Book)
    assert [(b.symbol, b.type, b.state) for b in books] == [
        ("ETH-USD", "snapshot", "live"),
        ("ETH-USD", "delta", "live"),
    ]
    assert books[0].bids == BIDS
    chain.wait(20)
    assert chain.asked() == []


def test_an_end_that_the_venue_refuses_is_followed_by_the_new_subscription(chain: Chain) -> None:
    live(chain, "BTC-USD")
    chain.book("BTC-USD", [("1.0", "1.0")], wrong=True)
    number = chain.send("book", "BTC-USD", op="unsubscribe")
    chain.asked()
    chain.refuse(number, "Subscription Not Found", "unsubscribe", symbol="BTC/USD")
    assert chain.asked() == [("subscribe", "book", "BTC-USD")]


def test_a_snapshot_with_a_wrong_checksum_is_never_live_and_is_asked_for_ever_later(chain: Chain) -> None:
    chain.ack(chain.send("book", "BTC-USD"), "book", "BTC-USD")
    asked_at: list[int] = []
    chain.book("BTC-USD", BIDS, ASKS, snapshot=True, wrong=True)
    for second in range(60):
        if ("resubscribe", "book", "BTC-USD") in chain.asked():
            asked_at.append(second)
            chain.book("BTC-USD", BIDS, ASKS, snapshot=True, wrong=True)
        chain.wait(1)
    assert {b.state for b in chain.told(Book)} == {"resyncing"}
    assert asked_at == [0, 1, 3, 7, 15, 31]


@pytest.mark.parametrize(
    ("channel", "row"),
    [
        (
            "trade",
            {"side": "buy", "price": None, "qty": 1, "trade_id": 5, "timestamp": "2026-06-23T20:48:52Z"},
        ),
        ("ticker", {"last": None, "high": 1, "low": 1, "volume": 1}),
    ],
)
def test_an_unreadable_frame_of_another_channel_costs_no_book(chain: Chain, channel: str, row: Any) -> None:
    live(chain, "BTC-USD")
    chain.told()
    chain.frame(channel=channel, type="update", data=[{"symbol": "BTC/USD", **row}])
    assert len(chain.first.lines["dead"]) == 1
    assert chain.told(Gap, Book) == []
    assert chain.asked() == []


def test_an_unreadable_frame_of_books_costs_those_that_it_names(chain: Chain) -> None:
    live(chain, *SYMBOLS)
    chain.asked()
    chain.frame(channel="book", type="update", data=[{"symbol": "ETH/USD", "bids": [], "asks": []}])
    assert chain.asked() == [("resubscribe", "book", "ETH-USD")]


def book_row(native: str) -> dict[str, Any]:
    return {"symbol": native, "bids": [{"price": 1.0, "qty": 1.0}], "asks": [], "checksum": 1}


def test_a_frame_of_a_pair_that_nobody_knows_costs_no_other_book(chain: Chain) -> None:
    live(chain, *SYMBOLS)
    chain.asked()
    chain.frame(channel="book", type="update", data=[book_row("POL/USD")])  # renamed, say
    assert len(chain.first.lines["dead"]) == 1
    assert chain.asked() == []
    chain.frame(channel="book", type="update", data=[book_row("ETH/USD"), book_row("POL/USD")])
    assert chain.asked() == [("resubscribe", "book", "ETH-USD")]


def test_an_unreadable_frame_costs_no_book_whose_name_ends_the_one_that_it_names(chain: Chain) -> None:
    live(chain, *SYMBOLS)
    chain.asked()
    chain.frame(channel="book", type="update", data=[book_row("WBTC/USD")])
    assert chain.asked() == []


def test_a_pong_with_a_result_costs_no_book(chain: Chain) -> None:
    live(chain, *SYMBOLS)
    chain.asked()
    chain.frame(method="pong", result={"warnings": ["soon"]}, success=True, req_id=42)
    assert chain.asked() == []


def test_a_pair_that_is_listed_again_is_told_of_and_its_quiet_book_comes_back(chain: Chain) -> None:
    live(chain, *SYMBOLS)
    chain.ack(chain.send("trade", "BTC-USD"), "trade", "BTC-USD")
    chain.told()
    chain.asked()
    chain.say("i", UnknownInstrument("BTC-USD", []), "a.*")  # in maintenance, say
    told = chain.told(Status, Book)
    assert [(e.symbol, e.state) for e in told] == [("BTC-USD", "refused"), ("BTC-USD", "stale")]
    chain.say("i", KNOWN["BTC-USD"], "a.*")
    assert chain.states() == {"book BTC-USD": "live", "trade BTC-USD": "subscribed"}
    assert chain.asked() == [("resubscribe", "book", "BTC-USD")]
    chain.say("i", KNOWN["BTC-USD"], "b.*")
    assert (chain.told(Status, Book), chain.asked()) == ([], [])
    number = chain.send("book", "BTC-USD", op="unsubscribe")
    chain.ack(number, "book", "BTC-USD", method="unsubscribe")
    chain.ack(chain.send("book", "BTC-USD"), "book", "BTC-USD")
    chain.book("BTC-USD", BIDS, ASKS, snapshot=True)
    assert [(b.symbol, b.state) for b in chain.told(Book)][-1:] == [("BTC-USD", "live")]


def test_l1_is_the_top_of_the_book_and_the_ticker_is_none(chain: Chain) -> None:
    live(chain, "BTC-USD")
    chain.book("BTC-USD", [("100.2", "0.50000000")])
    chain.frame(
        channel="ticker",
        type="update",
        data=[{"symbol": "BTC/USD", "bid": 1, "last": 100.25, "volume": 5, "low": 99, "high": 101}],
    )
    told = chain.told(L1, Ticker)
    assert [(e.bid, e.bid_size, e.ask, e.ask_size) for e in told if isinstance(e, L1)] == [
        ("100.0", "1.00000000", "100.5", "0.05000000"),
        ("100.2", "0.50000000", "100.5", "0.05000000"),
    ]
    assert [e.last for e in told if isinstance(e, Ticker)] == ["100.25"]


def test_history_is_no_news_and_a_batch_is_every_trade_of_it(chain: Chain) -> None:
    def rows(*ids: int) -> list[dict[str, Any]]:
        at = "2026-06-23T20:48:52.692198Z"
        return [
            {"symbol": "BTC/USD", "side": "buy", "price": 1.5, "qty": 2.0, "trade_id": n, "timestamp": at}
            for n in ids
        ]

    chain.send("trade", "BTC-USD")
    chain.frame(channel="trade", type="snapshot", data=rows(1, 2, 3))
    chain.frame(channel="trade", type="update", data=rows(10, 11, 12))
    chain.frame(channel="trade", type="update", data=rows(12, 15))
    chain.wait(1)
    told = chain.told(Trade, Gap)
    assert [e.id if isinstance(e, Trade) else (e.first, e.last) for e in told] == [
        "10", "11", "12", ("13", "14"), "15",
    ]  # fmt: skip
    assert chain.asked() == [("backfill", "trade", "BTC-USD")]


AT = 1_782_247_732_692_198_000  # 2026-06-23T20:48:52.692198Z


def past(number: int, side: str = "b", price: str = "1.50000") -> list[Any]:
    return [price, "2.00000000", 1_782_247_732.7 + number / 1e4, side, "l", "", number]


def hole(chain: Chain) -> ControlRequest:
    """Let trades 13 and 14 be missing; return what is asked for."""
    at = "2026-06-23T20:48:52.692198Z"
    row = {"symbol": "BTC/USD", "side": "buy", "price": 1.5, "qty": 2.0, "timestamp": at}
    chain.send("trade", "BTC-USD")
    for number in (12, 15):
        chain.frame(channel="trade", type="update", data=[{**row, "trade_id": number}])
    chain.told()
    [line] = chain.first.lines["control"]
    chain.first.lines["control"].clear()
    return msgspec.json.decode(line, type=ControlRequest)


def answer(chain: Chain, request: ControlRequest, body: object) -> None:
    assert (request.first, request.last, request.after) == ("13", "14", AT)
    rest = kraken.backfill_after(KNOWN["BTC-USD"], "13", "14", AT)
    chain.say("h", Answer(rest, 200, json.dumps(body), request.id), "a.*")


def test_missing_trades_are_fetched_by_their_time_and_taken_by_their_ids(chain: Chain) -> None:
    request = hole(chain)
    rest = kraken.backfill_after(KNOWN["BTC-USD"], "13", "14", AT)
    assert rest.path == "/0/public/Trades?pair=XBTUSD&since=1782247732691198000&count=1000"
    rows = [past(16), past(14, "s", "1.60000"), past(13), past(12), past(15)]
    answer(chain, request, {"error": [], "result": {"XXBTZUSD": rows, "last": "1782247733"}})
    told = chain.told(Trade, Gap)
    assert [(t.id, t.price, t.aggressor, t.backfilled) for t in told if isinstance(t, Trade)] == [
        ("13", "1.50000", "buy", True),
        ("14", "1.60000", "sell", True),
    ]
    assert told[0].ts_event // 1000 == 1_782_247_732_701_300
    assert [(g.first, g.last, g.filled) for g in told if isinstance(g, Gap)] == [("13", "14", True)]
    assert chain.asked() == []


@pytest.mark.parametrize(
    "body",
    [
        {"error": ["EGeneral:Too many requests"]},
        {"error": [], "result": {}},
        {"error": [], "result": {"XXBTZUSD": [past(13)], "XETHZUSD": [past(14)], "last": "1"}},
        {"error": [], "result": {"XXBTZUSD": [["1.5", "2.0", 1.7, "b", "l", ""]]}},  # ids came in 2023
        {"error": [], "result": {"XXBTZUSD": [past(13, "buy")]}},
        {"error": [], "result": {"XXBTZUSD": [past(13, price="0.0")]}},
        {"error": [], "result": {"XXBTZUSD": [["1.5", "2.0", -1.7, "b", "l", "", 13]]}},
    ],
)
def test_an_answer_that_is_none_is_kept_and_asked_for_again(chain: Chain, body: object) -> None:
    answer(chain, hole(chain), body)
    assert chain.told(Trade, Gap) == []
    assert len(chain.first.lines["dead"]) == 1
    assert chain.asked() == [("backfill", "trade", "BTC-USD")]


def test_the_second_thousand_is_asked_for_from_where_the_first_ended(chain: Chain) -> None:
    at = "2026-06-23T20:48:52.692198Z"
    row = {"symbol": "BTC/USD", "side": "buy", "price": 1.5, "qty": 2.0, "timestamp": at}
    chain.send("trade", "BTC-USD")
    for number in (1, 1502):
        chain.frame(channel="trade", type="update", data=[{**row, "trade_id": number}])
    requests = []
    for _ in range(2):
        [line] = chain.first.lines["control"]
        chain.first.lines["control"].clear()
        request = msgspec.json.decode(line, type=ControlRequest)
        requests.append((request.first, request.last, request.after))
        rest = kraken.backfill_after(KNOWN["BTC-USD"], request.first, request.last, request.after)
        numbers = range(int(request.first), int(request.last) + 1)
        result = {"XXBTZUSD": [past(n) for n in numbers], "last": "1"}
        chain.say("h", Answer(rest, 200, json.dumps({"error": [], "result": result}), request.id), "a.*")
    assert requests == [("2", "1001", AT), ("1002", "1501", 1_782_247_732_800_100_000)]
    assert [g.filled for g in chain.told(Gap)] == [False, True]


def test_a_book_deeper_than_subscribed_is_cut_for_readers_too(chain: Chain) -> None:
    bids = [(f"{100 - n}.0", "1.00000000") for n in range(10)]
    chain.send("book", "BTC-USD")
    chain.book("BTC-USD", bids, ASKS, snapshot=True)
    chain.book("BTC-USD", [("100.5", "0.0"), ("100.1", "1.00000000")])
    delta = chain.told(Book)[-1]
    assert delta.type == "delta"
    assert ("91.0", "0") in delta.bids  # fell out of the depth; the venue never says so


def test_there_is_no_book_of_another_depth() -> None:
    with pytest.raises(ValueError, match="not of 27"):
        kraken.at_depth(27)
    assert [kraken.at_depth(depth).book_rule.depth for depth in kraken.DEPTHS] == list(kraken.DEPTHS)
    [connection] = kraken.at_depth(1000).plan(VENUE.endpoints, [KNOWN["BTC-USD"]], ["book"])
    [subscription] = connection.subscriptions
    assert json.loads(subscription.frame) == {
        "method": "subscribe",
        "params": {"channel": "book", "depth": 1000, "snapshot": True, "symbol": ["BTC/USD"]},
        "req_id": 1,
    }


def test_no_limit_is_above_the_documented_one() -> None:
    # Guide "WebSocket limits": 150 connections in 10 minutes; clients keep below 20 messages a second. REST:
    # about one request a second. A connection that is not heard for a minute is closed.
    limits, keepalive = VENUE.limits, VENUE.keepalive
    assert limits.connects_per_minute * 10 <= 150
    assert limits.frames_per_s <= 20
    assert limits.weight_per_s == 1
    assert limits.weight_per_minute <= 60
    assert keepalive is not None
    assert keepalive.every_s < 60
    assert json.loads(keepalive.frame) == {"method": "ping"}
