"""Recorded frames of Binance US and of USD-M perpetuals through the whole pipeline in a real Redis."""

import json
from typing import Any

import pytest
from recorded_rig import Levels, Passed, assert_nothing_is_missing, best_first, read, through
from replay import Manner, Natives, Replay, recording

from actors.model.events import L1, BookDelta, Trade

pytestmark = pytest.mark.redis

Rows = list[dict[str, Any]]
US = {"COMPUSDT": ("COMP", "USDT"), "CRVUSDT": ("CRV", "USDT")}


def natives_of(rows: Rows) -> dict[str, tuple[str, str]]:
    natives = {json.loads(row["raw"])["data"]["s"] for row in rows if row["dir"] == "in"}
    quotes = ("USDT", "BUSD", "USD")
    return {n: next((n.removesuffix(q), q) for q in quotes if n.endswith(q)) for n in sorted(natives)}


def symbol_of(url: str) -> str:
    return url.partition("symbol=")[2].partition("&")[0] if "/depth?" in url else ""


def acked(asked: Any) -> Any:
    return {"result": None, "id": asked["id"]}


def us_listing(natives: Natives) -> Any:
    return {
        "symbols": [
            {"symbol": n, "status": "TRADING", "baseAsset": b, "quoteAsset": q}
            for n, (b, q) in natives.items()
        ]
    }


def usdm_listing(natives: Natives) -> Any:
    return {
        "symbols": [
            {
                "symbol": n,
                "contractType": "PERPETUAL",
                "status": "TRADING",
                "baseAsset": b,
                "quoteAsset": q,
            }
            for n, (b, q) in natives.items()
        ]
    }


US_MANNER = Manner(("/api/v3/exchangeInfo", us_listing), symbol_of, acked)
USDM_MANNER = Manner(("/fapi/v1/exchangeInfo", usdm_listing), symbol_of, acked)


def diffs(rows: Rows, native: str) -> list[dict[str, Any]]:
    data = [json.loads(row["raw"])["data"] for row in rows if row["dir"] == "in"]
    return [d for d in data if d.get("e") == "depthUpdate" and d["s"] == native]


def reference(rows: Rows, native: str, *, pointers: bool) -> tuple[Levels, Levels, int, int]:
    """Follow the venue's procedure on plain dicts; return bids, asks, the last id and how many applied."""
    snapshot = next(json.loads(row["raw"]) for row in rows if row["dir"] == "http" and native in row["url"])
    last = snapshot["lastUpdateId"]
    bids, asks, applied, chained = dict(snapshot["bids"]), dict(snapshot["asks"]), 0, False
    for data in diffs(rows, native):
        if pointers:
            if data["u"] < last:
                continue
            assert data["pu"] == last if chained else data["U"] <= last <= data["u"] or data["pu"] == last
        else:
            if data["u"] <= last:
                continue
            assert data["U"] == last + 1 if chained else data["U"] <= last + 1
        chained = True
        applied += 1
        for side, changes in ((bids, data["b"]), (asks, data["a"])):
            for price, size in changes:
                if float(size):
                    side[price] = size
                else:
                    side.pop(price, None)
        last = data["u"]
    return *best_first(bids, asks), last, applied


def assert_books_equal(rows: Rows, natives: Natives, passed: Passed, end: str, *, pointers: bool) -> int:
    readers, total = read(passed.books), 0
    for native, (base, quote) in natives.items():
        bids, asks, last, applied = reference(rows, native, pointers=pointers)
        reader = readers[f"{base}-{quote}{end}"]
        assert (reader.state, reader.seq) == ("live", last)
        for ours, theirs in zip(reader.levels, (bids, asks), strict=True):
            assert ours == theirs[: len(ours)]  # what lies beyond the snapshot's depth is not kept
            assert len(ours) >= min(len(theirs), 900)
        total += applied
    return total


async def test_the_recorded_books_of_binance_us_come_out_whole(redis_server: Any) -> None:
    rows = recording("binance_us/spot-book_diff")
    natives = natives_of(rows)
    assert len(natives) == 4
    replay = Replay(rows, natives, US_MANNER)
    passed = await through("binance_us", replay, ["book"], redis_server(), live=4)
    assert_nothing_is_missing(passed)
    assert assert_books_equal(rows, natives, passed, "", pointers=False) == 332
    assert {event.venue for event in passed.events} == {"binance_us"}


async def test_the_recorded_quotes_of_binance_us_come_out_as_they_were(redis_server: Any) -> None:
    rows = recording("binance_us/spot-bbo")
    passed = await through("binance_us", Replay(rows, natives_of(rows), US_MANNER), ["l1"], redis_server())
    told = [(e.seq, e.bid, e.ask_size) for e in passed.events if isinstance(e, L1)]
    data = [json.loads(row["raw"])["data"] for row in rows if row["dir"] == "in"]
    assert told == [(d["u"], d["b"], d["A"]) for d in data]
    assert len(told) == 128


@pytest.mark.parametrize(
    ("name", "books", "applied"), [("perp-book_diff", 4, 752), ("perp-btcusdt-mixed", 1, 230)]
)
async def test_the_recorded_books_of_usd_m_chain_by_their_pointers(
    name: str, books: int, applied: int, redis_server: Any
) -> None:
    rows = recording(f"binance_usdm/{name}")
    natives = natives_of(rows)
    assert len(natives) == books
    replay = Replay(rows, natives, USDM_MANNER)
    passed = await through("binance_usdm", replay, ["book", "l1"], redis_server(), live=books, end="-PERP")
    assert_nothing_is_missing(passed)
    assert assert_books_equal(rows, natives, passed, "-PERP", pointers=True) == applied
    jumps = [e for e in passed.events if isinstance(e, BookDelta) and e.first_seq != (e.prev_seq or 0) + 1]
    assert len(jumps) > applied * 0.9  # sequences are the engine's: only the pointer chains


async def test_the_recorded_trades_of_usd_m_are_contiguous(redis_server: Any) -> None:
    rows = recording("binance_usdm/perp-aggtrade")
    replay = Replay(rows, natives_of(rows), USDM_MANNER)
    passed = await through("binance_usdm", replay, ["trade"], redis_server(), end="-PERP")
    assert_nothing_is_missing(passed)
    trades = [e for e in passed.events if isinstance(e, Trade)]
    data = [json.loads(row["raw"])["data"] for row in rows if row["dir"] == "in"]
    assert [(t.id, t.price, t.size, t.aggressor) for t in trades] == [
        (str(d["a"]), d["p"], d["q"], "sell" if d["m"] else "buy") for d in data
    ]
    for symbol in {t.symbol for t in trades}:
        ids = [int(t.id) for t in trades if t.symbol == symbol]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
