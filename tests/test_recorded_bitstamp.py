"""The recorded session of Bitstamp, ten markets, through the whole pipeline in a real Redis."""

import json
from collections import Counter
from typing import Any

import pytest
from recorded_rig import assert_nothing_is_missing, best_first, read, through
from replay import Manner, Replay, recording

from actors.model.events import Book, BookDelta, Trade
from actors.model.instruments import Instrument
from actors.venues import bitstamp
from actors.venues.base import Scratch

NATIVES = {
    f"{base}{quote}".lower(): (base, quote)
    for base, quote in (
        ("SGB", "EUR"), ("ETH", "USD"), ("XRP", "EUR"), ("BAT", "EUR"), ("USDT", "EUR"),
        ("USDT", "USD"), ("XLM", "GBP"), ("ADA", "EUR"), ("BAT", "BTC"), ("GALA", "EUR"),
    )
}  # fmt: skip
QUIET = "SGB-EUR"  # no change of it was recorded, so nobody asks for its book


def _market(url: str) -> str:
    return url.partition("/order_book/")[2].partition("/")[0]


MANNER = Manner(
    ("/api/v2/trading-pairs-info/", lambda _: recording("bitstamp/spot-http-pairs")[0]["raw"]),
    _market,
    waits=False,  # the recorded client asked at once, before the first changes
)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return recording("bitstamp/spot-session-1")


def reference(rows: list[dict[str, Any]], native: str) -> tuple[dict[str, str], dict[str, str], int, int]:
    """Follow the venue's procedure on plain dicts: bids, asks, the last time, how many changes it took."""
    whole = next(json.loads(row["raw"]) for row in rows if _market(row["url"]) == native)
    at, applied = int(whole["microtimestamp"]), 0
    sides = {"bids": dict(whole["bids"]), "asks": dict(whole["asks"])}
    for row in rows:
        frame = json.loads(row["raw"])
        if frame.get("channel") != f"diff_order_book_{native}" or frame["event"] != "data":
            continue
        if int(frame["data"]["microtimestamp"]) > at:
            at, applied = int(frame["data"]["microtimestamp"]), applied + 1
            for side, levels in sides.items():
                levels.update(frame["data"][side])
    left = [{price: size for price, size in sides[side].items() if float(size)} for side in ("bids", "asks")]
    return left[0], left[1], at, applied


@pytest.mark.redis
async def test_the_recorded_session_comes_out_whole(rows, redis_server):
    replay = Replay(rows, NATIVES, MANNER, asks=2 * len(NATIVES))  # a frame a channel
    passed = await through("bitstamp", replay, bitstamp.STREAMS, redis_server(), live=len(NATIVES) - 1)
    assert_nothing_is_missing(passed)

    frames = [json.loads(row["raw"]) for row in rows if row["dir"] == "in"]
    sent = [frame["data"] for frame in frames if frame["event"] == "trade"]
    trades = [event for event in passed.events if isinstance(event, Trade)]
    assert len(sent) == 10
    assert [(t.id, t.price, t.size, t.aggressor) for t in trades] == [
        (str(d["id"]), d["price_str"], d["amount_str"], "sell" if d["type"] else "buy") for d in sent
    ]
    # The taker's order is the later one, so its id is the larger: an independent witness of the side.
    assert [t.aggressor for t in trades] == [
        "buy" if d["buy_order_id"] > d["sell_order_id"] else "sell" for d in sent
    ]

    assert sum(isinstance(event, BookDelta) for event in passed.events) == 717
    readers, total = read(passed.books), 0
    assert set(readers) == {f"{b}-{q}" for b, q in NATIVES.values()} - {QUIET}
    for native, (base, quote) in NATIVES.items():
        if f"{base}-{quote}" == QUIET:
            continue
        *sides, at, applied = reference(rows, native)
        reader, total = readers[f"{base}-{quote}"], total + applied
        assert (reader.state, reader.seq) == ("live", at)
        for whole, ours in zip(best_first(*sides), reader.levels, strict=True):
            assert min(len(whole), 900) <= len(ours) <= bitstamp.LEVELS
            assert ours == whole[: len(ours)]
    assert total == 615
    live = [event for event in passed.books if isinstance(event, Book) and event.state == "live"]
    assert {event.verified for event in live} == {"none"}


def test_recorded_frames_of_2026_all_mean_something():
    known = {"btcusd": Instrument("BTC-USD", "btcusd", "BTC", "USD")}
    said: Counter[str] = Counter()
    for name in ("spot-diff-2026", "spot-misc", "perp-funding-2026"):
        for row in recording(f"bitstamp/{name}"):
            if row["dir"] == "in":
                decoded = bitstamp.decode(row["raw"].encode(), Scratch("a.1", known))
                said.update(type(one).__name__ for one in decoded)
    assert said == {"BookDelta": 11, "Acked": 1, "Trade": 1, "Ignored": 2}
