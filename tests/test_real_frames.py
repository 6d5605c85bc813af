"""Recorded frames through connector, raw, normalizer and bookbuilder in a real Redis.

What comes out is compared with few lines of plain dicts that follow the venue's own procedure, and with the
best bid and offer that was recorded beside the books.
"""

import json
from bisect import bisect_right
from typing import Any

import pytest
from recorded_rig import Levels, Passed, Reader, assert_nothing_is_missing, best_first, read, through
from replay import Replay, recording

from actors.model.events import L1, AnyEvent, Book, Trade

pytestmark = pytest.mark.redis

MIXED = {"BTCUSDT": ("BTC", "USDT")}
FOUR = {
    "NKNUSDT": ("NKN", "USDT"),
    "BLZETH": ("BLZ", "ETH"),
    "LRCBTC": ("LRC", "BTC"),
    "RUNEEUR": ("RUNE", "EUR"),
}


def depth_of(rows: list[dict[str, Any]], native: str) -> list[dict[str, Any]]:
    data = [json.loads(row["raw"])["data"] for row in rows if row["dir"] == "in"]
    return [d for d in data if d.get("e") == "depthUpdate" and d["s"] == native]


def reference(rows: list[dict[str, Any]], native: str) -> tuple[Levels, Levels, int]:
    """Follow the venue's procedure on plain dicts; return bids and asks best first, and the last id."""
    snapshot = next(json.loads(row["raw"]) for row in rows if row["dir"] == "http" and native in row["url"])
    last = snapshot["lastUpdateId"]
    bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
    for data in depth_of(rows, native):
        if data["u"] <= last:
            continue
        assert data["U"] <= last + 1
        for side, changes in ((bids, data["b"]), (asks, data["a"])):
            for price, size in changes:
                if float(size):
                    side[price] = size
                else:
                    side.pop(price, None)
        last = data["u"]
    return *best_first(bids, asks), last


async def run_through(
    name: str, natives: dict[str, tuple[str, str]], redis_server: Any
) -> tuple[list[dict[str, Any]], Passed]:
    """Return the recording, and what ``events`` and ``books`` hold once it has passed."""
    rows = recording(f"binance/{name}")
    return rows, await through("binance", Replay(rows, natives), ["trade", "book", "l1"], redis_server())


def of_symbol(books: list[AnyEvent], symbol: str) -> list[Book]:
    return [event for event in books if isinstance(event, Book) and event.symbol == symbol]


def assert_books_are_the_reference(
    rows: list[dict[str, Any]], natives: dict[str, tuple[str, str]], books: list[AnyEvent]
) -> None:
    readers = read(books)
    assert len(readers) == len(natives)
    for native, (base, quote) in natives.items():
        reader = readers[f"{base}-{quote}"]
        joined = next(e for e in of_symbol(books, f"{base}-{quote}") if e.state == "live")
        assert (joined.type, joined.verified) == ("snapshot", "sequence")
        bids, asks, last = reference(rows, native)
        ours = reader.levels
        assert (reader.state, reader.seq) == ("live", last)
        # Below the 1,000 levels of the snapshot nothing is known, so nothing is told of them.
        assert len(ours[0]) >= min(len(bids), 800)
        assert len(ours[1]) >= min(len(asks), 800)
        assert ours == (bids[: len(ours[0])], asks[: len(ours[1])])


async def test_a_recording_of_one_symbol_comes_out_whole(redis_server):
    rows, passed = await run_through("spot-btcusdt-mixed", MIXED, redis_server)
    assert_nothing_is_missing(passed)
    found, books, _ = passed
    assert_books_are_the_reference(rows, MIXED, books)

    sent = [json.loads(row["raw"])["data"] for row in rows if row["dir"] == "in"]
    trades = [event for event in found if isinstance(event, Trade)]
    assert [int(trade.id) for trade in trades] == list(
        range(int(trades[0].id), int(trades[0].id) + len(trades))
    )
    assert [(t.id, t.price, t.size, t.aggressor) for t in trades] == [
        (str(d["t"]), d["p"], d["q"], "sell" if d["m"] else "buy") for d in sent if d.get("e") == "trade"
    ]
    native = [event for event in found if isinstance(event, L1)]
    assert [(e.seq, e.bid, e.bid_size, e.ask, e.ask_size) for e in native] == [
        (d["u"], d["b"], d["B"], d["a"], d["A"]) for d in sent if "e" not in d
    ]
    assert [event for event in books if isinstance(event, L1)] == native


async def test_recorded_books_agree_with_the_best_bid_and_offer_recorded_beside_them(redis_server):
    _, (found, books, _) = await run_through("spot-btcusdt-mixed", MIXED, redis_server)
    best = [(e.seq, (e.bid, e.bid_size), (e.ask, e.ask_size)) for e in found if isinstance(e, L1)]
    numbers = [seq for seq, _, _ in best]
    reader, compared = Reader(), 0
    for event in books:
        if not isinstance(event, Book):
            continue
        reader.apply(event)
        if event.state != "live" or event.seq is None:
            continue
        at = bisect_right(numbers, event.seq) - 1
        if 0 <= at < len(best) - 1:  # every change of the best is sent: the last one at or before it holds
            bids, asks = reader.levels
            assert best[at][1:] == (bids[0], asks[0])
            compared += 1
    assert compared > 300


async def test_recorded_books_of_four_symbols_on_one_socket_come_out_whole(redis_server):
    rows, passed = await run_through("spot-book_diff", FOUR, redis_server)
    assert_nothing_is_missing(passed)
    assert_books_are_the_reference(rows, FOUR, passed.books)
