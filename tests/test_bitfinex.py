"""Bitfinex's ways through the folds: a connection's sequence, checksums, channel numbers, trades two trades
of one id."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from chain_rig import SECOND, START, Chain

from actors.model.events import Book, BookSnapshot, Gap, Level, Status, Trade
from actors.model.instruments import Instrument
from actors.stages.book import Levels
from actors.venues import bitfinex
from actors.venues.base import Scratch

BTC = Instrument("BTC-USDT", "tBTCUST", "BTC", "USDT")
ETH = Instrument("ETH-USDT", "tETHUST", "ETH", "USDT")
MS = START // 1_000_000
# Calculated with JavaScript's own numbers and String(number).
SMALL = (
    [["0.0000105", "1e21"], ["0.000001", "123456789012345680000"], ["9.7e-7", "2.2626931299999997"],
     ["0.0000005", "1e-8"]],
    [["0.00001051", "-5e-7"], ["1.1e-05", "-0.10"]],
    -1286725186,
)  # fmt: skip
DEEP = (
    [[f"{1000 - n * 0.1:.1f}", repr(0.1 * (n + 1))] for n in range(30)],
    [[repr(1000.1 + n * 0.1), repr(-1 / (n + 3))] for n in range(27)],
    -724156729,
)
ONE_SIDE = ([["1", "2"]], [], 932632908)


class Connection:
    """One connection of the venue: numbers its channels and its frames."""

    def __init__(self, chain: Chain, conn: str, first: int) -> None:
        self.chain, self.conn, self.seq = chain, conn, 0
        self.chans: dict[tuple[str, str], int] = {}
        chain.open("trade", "book", conn=conn)
        self.hear('{"event":"info","version":2,"serverId":"x","platform":{"status":1}}')
        self.hear(f'{{"event":"conf","status":"OK","flags":{bitfinex.FLAGS}}}')
        for number, (channel, native) in enumerate(
            [(c, i.native) for i in chain.instruments for c in ("trades", "book")], first
        ):
            self.chans[channel, native] = number
            ack = {"event": "subscribed", "channel": channel, "chanId": number, "symbol": native}
            self.hear(json.dumps(ack))

    def hear(self, frame: str) -> None:
        self.chain.hear(frame, conn=self.conn)

    def data(self, channel: str, of: Instrument, payload: str, *, lost: bool = False) -> None:
        self.seq += 1
        if not lost:
            self.hear(f"[{self.chans[channel, of.native]},{payload},{self.seq},{MS}]")

    def book(self, of: Instrument, bids: Sequence[Any], asks: Sequence[Any]) -> None:
        rows = ",".join(f"[{price},1,{size}]" for price, size in (*bids, *asks))
        self.data("book", of, f"[{rows}]")

    def trade(self, of: Instrument, identity: int, *, lost: bool = False, word: str = "te") -> None:
        self.data("trades", of, f'"{word}",[{identity},{MS},0.5,100.5]', lost=lost)


@pytest.fixture
def chain() -> Chain:
    return Chain(bitfinex.VENUE, BTC, ETH)


@pytest.fixture
def one(chain: Chain) -> Connection:
    made = Connection(chain, "a.1", 17)
    made.book(BTC, [("100", "1")], [("101", "-2")])
    made.book(ETH, [("10", "1")], [("11", "-2")])
    return made


def gaps(told: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [(gap.channel, gap.symbol, gap.cause, gap.first, gap.last) for gap in told]


@pytest.mark.parametrize(("bids", "asks", "told"), [SMALL, DEEP, ONE_SIDE])
def test_a_checksum_is_over_numbers_as_javascript_writes_them(
    chain: Chain, bids: Any, asks: Any, told: int
) -> None:
    connection = Connection(chain, "a.1", 17)
    connection.book(BTC, bids, asks)
    connection.data("book", BTC, f'"cs",{told}')
    assert not chain.told(Gap)
    connection.data("book", BTC, f'"cs",{told ^ 1}')
    assert gaps(chain.told(Gap)) == [("book", "BTC-USDT", "checksum", "3", "3")]
    assert [(request.op, request.conn) for request in chain.asked()] == [("resubscribe", "a.1")]
    assert not chain.dead()


def test_the_public_vector_of_a_raw_book_reproduces() -> None:
    class Fixed(Levels):
        def best_first(self, most: int | None = None) -> tuple[list[Level], list[Level]]:
            level = ("0", "0.000005")  # ten orders a side, all of id 0
            assert most == 25
            return [level] * 10, [level] * 10

    assert bitfinex.book_checksum(Fixed()) == 190468240  # ws-websocket-checksum; recorded beside that book


def test_a_lost_frame_loses_every_book_of_its_connection_at_once_quiet_ones_too(
    chain: Chain, one: Connection
) -> None:
    one.trade(BTC, 500)
    chain.told()
    one.trade(BTC, 501, lost=True)
    one.data("book", BTC, "[100,1,3]")
    told = chain.told(Gap, Book)
    assert gaps([event for event in told if isinstance(event, Gap)]) == [
        ("trade", "BTC-USDT", "sequence", "501", None),
        ("trade", "ETH-USDT", "sequence", None, None),
        ("book", "BTC-USDT", "sequence", "2", "4"),
        ("book", "ETH-USDT", "sequence", "3", "4"),
    ]
    assert {event.symbol: event.state for event in told if isinstance(event, Book)} == {
        "BTC-USDT": "resyncing", "ETH-USDT": "resyncing",
    }  # fmt: skip
    assert {(request.op, request.conn) for request in chain.asked()} == {("resubscribe", "a.1")}
    two = Connection(chain, "a.2", 31)  # other numbers, and the sequence begins again
    two.book(BTC, [("100", "3")], [("101", "-2")])
    two.book(ETH, [("10", "1")], [("11", "-2")])
    assert {event.symbol for event in chain.told(Book) if event.state == "live"} == {"BTC-USDT", "ETH-USDT"}
    chain.close("a.1")
    assert not chain.told(Gap)


@pytest.mark.parametrize("unreadable", ['"te",[502,0,0.5,100.5]', "[100,1,0]"], ids=["trade", "book"])
def test_a_loss_that_an_unreadable_frame_shows_is_told_by_the_next(
    chain: Chain, one: Connection, unreadable: str
) -> None:
    one.trade(BTC, 500)
    one.trade(BTC, 501, lost=True)
    chain.told()
    one.data("trades" if "te" in unreadable else "book", BTC, unreadable)
    assert len(chain.dead()) == 1
    one.data("book", ETH, '"hb"')
    assert {gap[:3] for gap in gaps(chain.told(Gap))} == {
        ("trade", "BTC-USDT", "sequence"), ("trade", "ETH-USDT", "sequence"),
        ("book", "BTC-USDT", "sequence"), ("book", "ETH-USDT", "sequence"),
    }  # fmt: skip


def test_a_change_that_cannot_be_read_costs_its_book_and_no_trade(chain: Chain, one: Connection) -> None:
    one.trade(BTC, 500)
    chain.told()
    one.data("book", BTC, "[100,1,0]")
    one.data("book", BTC, "[100,1,3]")
    assert gaps(chain.told(Gap)) == [("book", "BTC-USDT", "sequence", "2", "4")]


def test_what_another_connection_gives_is_no_gap(chain: Chain, one: Connection) -> None:
    two = Connection(chain, "b.1", 99)
    for connection in (one, two):
        connection.trade(BTC, 500)
    two.book(BTC, [("100", "1")], [("101", "-2")])
    chain.now += 3 * SECOND  # it has been there for a while: a witness
    chain.told()
    one.trade(BTC, 501, lost=True)
    two.trade(BTC, 501)
    one.data("book", BTC, "[100,1,3]")
    one.trade(BTC, 502)
    two.trade(BTC, 502)
    two.trade(BTC, 501, word="tu")
    told = chain.told(Gap, Trade, Book)
    assert [event.id for event in told if isinstance(event, Trade)] == ["501", "502"]
    assert {gap[:2] for gap in gaps([e for e in told if isinstance(e, Gap)])} == {
        ("book", "BTC-USDT"), ("book", "ETH-USDT"),
    }  # fmt: skip
    states = [event.state for event in told if isinstance(event, Book) and event.symbol == "BTC-USDT"]
    assert states == ["live"]  # of the other connection


def test_a_heartbeat_before_its_acknowledgement_counts_and_hurts_nobody(chain: Chain) -> None:
    chain.open("trade", "book", conn="a.1")
    chain.hear('[18,"hb",1]', '{"event":"subscribed","channel":"book","chanId":18,"symbol":"tBTCUST"}')
    chain.hear("[18,[[100,1,1],[101,1,-1]],2]", "[18,[100,0,1],3]")
    books = [event for event in chain.told(Book) if event.state == "live"]
    assert [(event.type, event.bids) for event in books] == [
        ("snapshot", [("100", "1")]),
        ("delta", [("100", "0")]),
    ]
    assert not chain.told(Gap)
    assert not chain.dead()


def test_a_restart_is_a_reconnection_at_once_and_a_pause_is_not(chain: Chain, one: Connection) -> None:
    chain.asked()
    one.hear('{"event":"info","code":20060,"msg":"pause"}')
    assert not chain.asked()
    one.hear('{"event":"info","code":20051,"msg":"restart"}')
    assert [(request.op, request.conn) for request in chain.asked()] == [("reconnect", "a.1")]


@pytest.mark.usefixtures("one")
def test_a_connection_without_any_frame_for_twenty_seconds_is_replaced(chain: Chain) -> None:
    chain.told()
    chain.asked()
    chain.wait(20)
    assert not chain.asked()
    chain.wait(1)
    assert [(s.state, s.conn) for s in chain.told(Status) if s.channel is None] == [("stale", "a.1")]
    assert [request.op for request in chain.asked()] == ["reconnect"]


def test_what_opens_with_a_snapshot_and_has_none_is_told_though_heartbeats_come() -> None:
    chain = Chain(bitfinex.VENUE, BTC)
    chain.open("book", "ticker")
    for number, channel in enumerate(("book", "ticker"), 17):
        ack = {"event": "subscribed", "channel": channel, "chanId": number, "symbol": BTC.native}
        chain.hear(json.dumps(ack))
    chain.states()
    for second in range(1, 16):
        chain.wait(1, f'[17,"hb",{second},{MS}]')
    assert not chain.states()
    chain.wait(1, f'[17,"hb",16,{MS}]')
    assert chain.states() == {"book BTC-USDT": "stale", "ticker BTC-USDT": "stale"}


def test_connections_hold_twenty_five_channels_and_open_with_the_flags() -> None:
    many = [Instrument(f"A{n}-USD", f"tA{n}:USD", f"A{n}", "USD") for n in range(20)]
    connections = bitfinex.plan(bitfinex.VENUE.endpoints, many, ["trade", "book", "ticker"])
    assert [len(connection.subscriptions) for connection in connections] == [1 + 24, 1 + 24, 1 + 12]
    for connection in connections:
        conf, *subscriptions = [json.loads(s.frame) for s in connection.subscriptions]
        assert conf == {"event": "conf", "flags": 32768 + 65536 + 131072}
        assert {"event": "subscribe", "channel": "book", "symbol": subscriptions[1]["symbol"],
                "prec": "P0", "freq": "F0", "len": "100"} == subscriptions[1]  # fmt: skip


def test_a_trade_is_told_once_though_it_comes_twice(chain: Chain, one: Connection) -> None:
    chain.told()
    one.trade(BTC, 7)
    one.trade(BTC, 7, word="tu")
    one.trade(BTC, 8)
    one.trade(ETH, 9)
    one.trade(BTC, 8, word="tu")
    assert [(event.symbol, event.id) for event in chain.told(Trade)] == [
        ("BTC-USDT", "7"), ("BTC-USDT", "8"), ("ETH-USDT", "9"),
    ]  # fmt: skip


@pytest.mark.parametrize(("bids", "asks"), [SMALL[:2], DEEP[:2]])
def test_a_snapshot_that_is_written_otherwise_says_the_same(bids, asks):
    plain = "[" + ",".join(f"[{price},2,{size}]" for price, size in (*bids, *asks)) + "]"
    first, *others = [
        heard_of(f"[5,{snapshot},9,{MS}]")
        for snapshot in (plain, plain.replace(",", ", "), plain.replace("e-", "E-"))
    ]
    assert [len(first.bids), len(first.asks)] == [len(bids), len(asks)]
    assert others == [first, first]


def heard_of(frame: str) -> BookSnapshot:
    memory = {"seq": 8, "channels": {"5": ["book", "BTC-USDT", None]}}
    [snapshot] = bitfinex.decode(frame.encode(), Scratch("a.1", {"tBTCUST": BTC}, memory))
    assert isinstance(snapshot, BookSnapshot)
    return snapshot
