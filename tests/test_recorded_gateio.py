"""Gate through the folds: recorded frames of 2021 and 2026, and what is easiest to get wrong."""

import json
from collections import Counter
from typing import Any

import pytest
from chain_rig import Chain
from recorded_rig import assert_nothing_is_missing, best_first, read, through
from replay import Manner, Replay, recording

from actors.model.errors import Unparseable
from actors.model.events import Book, BookDelta, Gap, Trade
from actors.model.instruments import Instrument
from actors.venues import VENUES, gateio
from actors.venues.base import Scratch

BTC = Instrument("BTC-USDT", "BTC_USDT", "BTC", "USDT")
COUNTS = {
    "spot-obu-2026": {"BookSnapshot": 1, "Acked": 1, "BookDelta": 1},
    "spot-trades-2026": {"Acked": 1, "Trade": 2},
    "spot-ticker-2026": {"Acked": 1, "Ticker": 2},
    "spot-trades": {"Acked": 1, "Unparseable": 9},  # of 2021: without the number that counts a pair's trades
    "spot-ticker": {"Acked": 1, "Ticker": 22},
    "spot-order_book_update": {"Acked": 10, "BookDelta": 172},
    "spot-docs_examples": {
        "Ignored": 3,
        "Acked": 2,
        "Closing": 1,
        "L1": 1,
        "BookSnapshot": 2,
        "BookDelta": 1,
    },
}


class Everything(dict[str, Instrument]):
    """Knows every pair."""

    def get(self, key: str, *_: object) -> Instrument | None:  # type: ignore[override]
        base, dash, quote = key.partition("_")
        return None if not dash else Instrument(f"{base}-{quote}", key, base, quote)


def frames(name: str) -> list[str]:
    return [row["raw"] for row in recording(f"gate/{name}") if row["dir"] == "in"]


def said_in(name: str) -> list[Any]:
    said: list[Any] = []
    for frame in frames(name):
        try:
            said += gateio.decode(frame.encode(), Scratch("a.1", Everything(), venue="gateio"))
        except Unparseable as e:
            said.append(e)
    return said


def test_recorded_frames_all_mean_something() -> None:
    assert {name: dict(Counter(type(one).__name__ for one in said_in(name))) for name in COUNTS} == COUNTS


def test_recorded_trades_count_on_and_bear_microseconds() -> None:
    trades = [one for one in said_in("spot-trades-2026") if isinstance(one, Trade)]
    assert [(t.id, t.ts_event) for t in trades] == [
        ("214976613", 1786539952742901000),
        ("214976614", 1786539953309174000),
    ]


def test_recorded_pairs_that_trade_are_listed() -> None:
    [row] = recording("gate/spot-instruments")
    every = json.loads(row["raw"])
    listed = gateio.rows(row["raw"].encode())
    assert {i.native for i in listed} == {p["id"] for p in every if p["trade_status"] != "untradable"}
    assert len(listed) < len(every) == 60


def test_the_recorded_book_that_came_before_its_acknowledgement_is_live() -> None:
    chain = Chain(gateio.VENUE, BTC)
    chain.open("book")
    first, consent, change = frames("spot-obu-2026")
    chain.hear(first)
    [opened] = [e for e in chain.told(Book, Gap) if isinstance(e, Book) and e.state == "live"]
    assert (len(opened.bids), len(opened.asks)) == (50, 50)
    chain.hear(consent, change)
    [delta] = chain.told(Book, Gap)
    assert (delta.type, delta.bids, delta.asks) == ("delta", [("63915.2", "0.022796")], [])
    assert chain.states().get("book BTC-USDT", "live") == "live"


def pair_of(url: str) -> str:
    return url.partition("currency_pair=")[2].partition("&")[0]


def listing(natives: Any) -> str:
    """Return the recorded list, with the pairs that it lacks in its manner."""
    [row] = recording("gate/spot-instruments")
    every = {pair["id"]: pair for pair in json.loads(row["raw"])}
    shape = every["BTC_USDT"]
    for native, (base, quote) in natives.items():
        every[native] = shape | {"id": native, "base": base, "quote": quote}
    return json.dumps(list(every.values()))


MANNER = Manner(("/api/v4/spot/currency_pairs", listing), pair_of)


def reference(changes: list[Any], snapshot: Any) -> tuple[dict[str, str], dict[str, str], int, int]:
    """Follow the venue's procedure on plain dicts: bids, asks, the last number, how many applied."""
    bids, asks, last, applied = dict(snapshot["bids"]), dict(snapshot["asks"]), snapshot["id"], 0
    for change in changes:
        if change["u"] <= last:
            continue
        assert change["U"] <= last + 1
        last, applied = change["u"], applied + 1
        bids.update(dict(change["b"]))
        asks.update(dict(change["a"]))
    return bids, asks, last, applied


@pytest.mark.redis
async def test_the_recorded_books_of_the_older_feed_come_out_whole(redis_server, monkeypatch) -> None:
    monkeypatch.setitem(VENUES, "gateio", gateio.OLDER)
    rows = recording("gate/spot-order_book_update")
    raws = {pair_of(row["url"]): row["raw"] for row in rows if row["dir"] == "http"}
    natives = {native: (native.partition("_")[0], native.partition("_")[2]) for native in raws}
    replay = Replay(rows, natives, MANNER, asks=len(natives))  # a frame a book
    passed = await through("gateio", replay, ["book"], redis_server(), live=len(natives))
    assert_nothing_is_missing(passed)
    assert sum(isinstance(event, BookDelta) for event in passed.events) == 172
    results = [json.loads(frame)["result"] for frame in frames("spot-order_book_update")]
    readers, total = read(passed.books), 0
    assert set(readers) == {f"{base}-{quote}" for base, quote in natives.values()}
    for native, (base, quote) in natives.items():
        changes = [result for result in results if result.get("s") == native]
        *sides, last, applied = reference(changes, json.loads(raws[native]))
        reader = readers[f"{base}-{quote}"]
        total += applied
        assert (reader.state, reader.seq) == ("live", last)
        theirs = best_first(*({p: s for p, s in side.items() if float(s)} for side in sides))
        for whole, ours in zip(theirs, reader.levels, strict=True):
            assert min(len(whole), 50) <= len(ours) <= gateio.OLDER_LEVELS
            assert ours == whole[: len(ours)]
    assert total == 159
    live = [event for event in passed.books if isinstance(event, Book) and event.state == "live"]
    assert {event.verified for event in live} == {"sequence"}


def obu(first: int, last: int, **sides: Any) -> dict[str, Any]:
    return {
        "channel": "spot.obu",
        "result": {"t": 1786541318151, "s": "ob.BTC_USDT.400", "U": first, "u": last} | sides,
    }


def test_a_side_left_out_is_as_it_was_and_a_jump_asks_for_the_book_anew() -> None:
    chain = Chain(gateio.VENUE, BTC)
    chain.open("book")
    whole = obu(0, 10, full=True, b=[["9", "1"], ["8", "1"]], a=[["11", "1"]])
    chain.hear(whole, obu(11, 12, a=[["11", "2"]]), obu(13, 15), obu(16, 16, b=[["8", "0"]]))
    told = chain.told(Book, Gap)
    assert [(e.type, e.bids, e.asks) for e in told if not (e.type == "snapshot" and e.state != "live")] == [
        ("snapshot", [("9", "1"), ("8", "1")], [("11", "1")]),
        ("delta", [], [("11", "2")]),
        ("delta", [], []),
        ("delta", [("8", "0")], []),
    ]
    chain.hear(obu(18, 18, b=[["7", "1"]]))
    [gap] = [event for event in chain.told(Book, Gap) if isinstance(event, Gap)]
    assert (gap.cause, gap.first, gap.last) == ("sequence", "17", "17")
    assert [request.op for request in chain.asked()] == ["resubscribe"]


@pytest.mark.parametrize("heard", [[], [obu(11, 12)]], ids=["after the whole book", "after a change"])
def test_a_change_that_overlaps_what_is_known_asks_for_the_book_anew(heard: list[Any]) -> None:
    chain = Chain(gateio.VENUE, BTC)
    chain.open("book")
    chain.hear(obu(0, 10, full=True, b=[["9", "1"]], a=[["11", "1"]]), *heard)
    chain.told()
    chain.hear(obu(9, 14, b=[["9", "2"]]))  # begins before the last one that is known
    assert [gap.cause for gap in chain.told(Gap)] == ["sequence"]
    assert [request.op for request in chain.asked()] == ["resubscribe"]


def test_pings_that_nobody_answers_end_the_connection() -> None:
    chain = Chain(gateio.VENUE, BTC)
    chain.open("book")
    chain.hear(obu(0, 10, full=True, b=[["9", "1"]], a=[["11", "1"]]))
    chain.asked()
    chain.wait(45)
    assert not chain.asked()
    chain.wait(1)
    assert [request.op for request in chain.asked()] == ["reconnect"]


def test_an_unknown_book_is_acknowledged_and_its_silence_is_told() -> None:
    chain = Chain(gateio.VENUE, BTC)
    chain.open("book")
    chain.hear({"id": 1, "channel": "spot.obu", "event": "subscribe", "result": {"status": "success"}})
    pong = {"time": 1, "channel": "spot.pong", "event": "", "error": None, "result": None}
    chain.wait(20, pong)
    assert chain.states()["book BTC-USDT"] == "stale"
    assert "resubscribe" in [request.op for request in chain.asked()]


def test_frames_bear_the_time_of_their_sending() -> None:
    [subscription] = gateio.subscribe([("trade", "BTC-USDT")], {"BTC-USDT": BTC}, 1)
    assert gateio.VENUE.stamp is not None
    assert json.loads(gateio.VENUE.stamp(subscription.frame, 1786539950)) == {
        "time": 1786539950,
        "id": 1,
        "channel": "spot.trades",
        "event": "subscribe",
        "payload": ["BTC_USDT"],
    }
    assert gateio.VENUE.keepalive is not None
    ping = gateio.VENUE.stamp(gateio.VENUE.keepalive.frame, 1545404023)
    assert json.loads(ping) == {"time": 1545404023, "channel": "spot.ping"}
