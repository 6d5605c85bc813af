"""The recorded session of Coinbase, ten products, through the whole pipeline in a real Redis."""

import json
from typing import Any

import pytest
from recorded_rig import Passed, assert_nothing_is_missing, best_first, read, through
from replay import Manner, Replay, recording

from actors.model.events import Book, BookDelta, Ticker, Trade
from actors.venues import coinbase
from actors.venues.base import Limits

pytestmark = pytest.mark.redis

BASES = {
    "USD": ["SKL"],
    "BTC": ["SKL", "BAND", "YFI", "DASH"],
    "GBP": ["BAND", "NU", "SKL"],
    "EUR": ["NMR", "CRV"],
}
NATIVES = {f"{base}-{quote}": (base, quote) for quote, bases in BASES.items() for base in bases}
MANNER = Manner(("/products", lambda _: recording("coinbase/spot-http-products")[0]["raw"]))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return recording("coinbase/spot-session-1")


async def passed_through(rows: list[dict[str, Any]], redis_server: Any) -> Passed:
    replay = Replay(rows, NATIVES, MANNER, asks=len(NATIVES))  # a frame a product
    return await through("coinbase", replay, coinbase.STREAMS, redis_server())


def heard(rows: list[dict[str, Any]], *types: str) -> list[dict[str, Any]]:
    frames = [json.loads(row["raw"]) for row in rows if row["dir"] == "in"]
    return [frame for frame in frames if frame["type"] in types]


async def test_the_recorded_session_comes_out_whole(rows, redis_server):
    passed = await passed_through(rows, redis_server)
    assert_nothing_is_missing(passed)

    # trades: in order, contiguous, the aggressor on the other side of the maker
    matches = heard(rows, "match")
    trades = [event for event in passed.events if isinstance(event, Trade)]
    assert len(matches) == 97
    assert [(t.symbol, t.id, t.price, t.size, t.aggressor) for t in trades] == [
        (
            m["product_id"],
            str(m["trade_id"]),
            m["price"],
            m["size"],
            {"buy": "sell", "sell": "buy"}[m["side"]],
        )
        for m in matches
    ]
    seeds = {m["product_id"]: m["trade_id"] for m in heard(rows, "last_match")}
    for product, seed in seeds.items():
        ids = [int(trade.id) for trade in trades if trade.symbol == product]
        assert ids == list(range(seed + 1, seed + 1 + len(ids)))

    # tickers, whose side is the taker's: it agrees with the aggressor of the same trade
    tickers = heard(rows, "ticker")
    sides = {(t["product_id"], str(t["trade_id"])): t["side"] for t in tickers}
    same = [sides[trade.symbol, trade.id] for trade in trades if (trade.symbol, trade.id) in sides]
    assert [t.aggressor for t in trades if (t.symbol, t.id) in sides] == same
    assert len(same) > 80
    told = [event for event in passed.events if isinstance(event, Ticker)]
    assert [(e.symbol, e.last, e.volume_base) for e in told] == [
        (t["product_id"], t["price"], t["volume_24h"]) for t in tickers
    ]

    # books: every update passed, and in the end the book is that of plain dicts
    assert sum(isinstance(event, BookDelta) for event in passed.events) == 9719
    reference: dict[str, dict[str, dict[str, str]]] = {}
    for frame in heard(rows, "snapshot", "l2update"):
        if frame["type"] == "snapshot":
            reference[frame["product_id"]] = {"buy": dict(frame["bids"]), "sell": dict(frame["asks"])}
        for side, price, size in frame.get("changes", ()):
            reference[frame["product_id"]][side][price] = size
    readers = read(passed.books)
    assert len(readers) == len(reference) == 10
    for product, sides_of in reference.items():
        left = [{p: s for p, s in sides_of[side].items() if float(s)} for side in ("buy", "sell")]
        bids, asks = best_first(*left)
        ours = readers[product].levels
        assert readers[product].state == "live"
        assert len(bids) == len(ours[0])
        assert min(len(asks), 900) <= len(ours[1]) <= 1000 or len(asks) == len(ours[1])
        assert ours == (bids, asks[: len(ours[1])])
    books = [event for event in passed.books if isinstance(event, Book)]
    assert {event.verified for event in books if event.state == "live"} == {"none"}


async def test_a_snapshot_of_several_megabytes_is_taken_and_its_best_levels_kept(redis_server):
    bids = [[f"{60_000 - n * 0.01:.2f}", "0.10000000"] for n in range(95_000)]
    asks = [[f"{60_000.01 + n * 0.01:.2f}", "0.20000000"] for n in range(95_000)]
    frames: list[dict[str, Any]] = [
        {"type": "subscriptions", "channels": [{"name": "level2_50", "product_ids": ["BTC-USD"]}]},
        {"type": "snapshot", "product_id": "BTC-USD", "asks": asks, "bids": bids},
        {"type": "l2update", "product_id": "BTC-USD", "changes": [["buy", "60000.00", "0.00"]]},
    ]
    rows = [{"dir": "in", "url": "", "raw": json.dumps(frame)} for frame in frames]
    # The size that was recorded: more than the libraries take unasked, and than venues are allowed as a rule.
    assert len(rows[1]["raw"]) > 4_800_000 > Limits(1, 1, 1, 1).max_frame_bytes > 1 << 20
    product = {"id": "BTC-USD", "base_currency": "BTC", "quote_currency": "USD", "status": "online"}
    replay = Replay(rows, {"BTC-USD": ("BTC", "USD")}, Manner(("/products", lambda _: [product])))
    passed = await through("coinbase", replay, ["book"], redis_server())
    assert_nothing_is_missing(passed)
    assert replay.connects == 1
    levels = read(passed.books)["BTC-USD"].levels
    expected = [tuple(level) for level in bids[1:1000]], [tuple(level) for level in asks[:1000]]
    assert levels == expected
