"""Recorded sessions of Kraken through the whole pipeline in a real Redis."""

from datetime import datetime
from typing import Any

import pytest
from kraken_reference import Levels, Reference, frame_of
from recorded_rig import Reader, assert_nothing_is_missing, through
from replay import Manner, Natives, Replay, recording

from actors.model.events import Book, BookSnapshot, Channel, Gap, Status, Ticker, Trade
from actors.venues import VENUES, kraken

pytestmark = pytest.mark.redis

BTC = {"BTC/USD": ("BTC", "USD")}


def listing(natives: Natives) -> Any:
    pairs = {
        f"{base}{quote}": {
            "wsname": native.replace("BTC", "XBT"),
            "pair_decimals": 1,
            "lot_decimals": 8,
            "status": "online",
        }
        for native, (base, quote) in natives.items()
    }
    return {"error": [], "result": pairs}


MANNER = Manner(("/0/public/AssetPairs", listing))


def ns(timestamp: str | None) -> int | None:
    if timestamp is None:
        return None
    at = datetime.fromisoformat(timestamp)
    return int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1000


def steps(rows: list[dict[str, Any]], depth: int) -> dict[int | None, tuple[Levels, Levels]]:
    """Return the reference's book after each frame, by the frame's time; every checksum matches."""
    reference, after = Reference(depth), dict[int | None, tuple[Levels, Levels]]()
    for row in rows:
        frame = frame_of(row["raw"]) if row["dir"] == "in" else {}
        for data in frame.get("data", ()) if frame.get("channel") == "book" else ():
            reference.apply(frame["type"], data)
            assert reference.checksum() == int(data["checksum"])
            after[ns(data.get("timestamp"))] = reference.levels
    return after


@pytest.mark.parametrize(
    ("name", "depth", "natives", "checksums"),
    [
        ("spot-book-d10", 10, BTC, 54),
        ("spot-book-d25-quiet", 25, {"MINA/GBP": ("MINA", "GBP")}, 30),
        ("spot-doc-checksum", 10, BTC, 1),
    ],
)
async def test_a_recorded_book_is_the_reference_s_after_each_frame(
    redis_server, monkeypatch: pytest.MonkeyPatch, *, name: str, depth: int, natives: Natives, checksums: int
) -> None:
    monkeypatch.setitem(VENUES, "kraken", kraken.at_depth(depth))
    rows = recording(f"kraken/{name}")
    passed = await through("kraken", Replay(rows, natives, MANNER), ["book"], redis_server())
    assert_nothing_is_missing(passed)
    wanted = steps(rows, depth)
    assert len(wanted) == checksums
    reader, compared = Reader(), set[int | None]()
    for event in passed.books:
        if isinstance(event, Book):
            reader.apply(event)
            if event.state == "live":
                assert event.verified == "checksum"
                assert reader.levels == wanted[event.ts_event]
                compared.add(event.ts_event)
    assert compared == set(wanted)


async def test_one_changed_digit_is_found_and_nothing_is_live_from_there_on(
    redis_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VENUES, "kraken", kraken.at_depth(10))
    rows = recording("kraken/spot-book-d10")
    updates = [i for i, row in enumerate(rows) if '"type":"update","data":[{"symbol"' in row["raw"]]
    hurt = updates[20]
    rows[hurt] = {**rows[hurt], "raw": rows[hurt]["raw"].replace('"qty":', '"qty":1', 1)}
    passed = await through("kraken", Replay(rows, BTC, MANNER), ["book"], redis_server())
    assert [g.cause for g in passed.books if isinstance(g, Gap)] == ["checksum"]
    states = [event.state for event in passed.books if isinstance(event, Book)]
    assert [s for i, s in enumerate(states) if i == 0 or states[i - 1] != s] == ["live", "resyncing"]
    assert sum(s == "live" for s in states) == 21  # the snapshot and the twenty before it


async def test_history_is_no_news_and_a_sleeping_market_has_no_price(redis_server) -> None:
    natives = {name: tuple(name.split("/")) for name in ("BTC/USD", "ETH/USD", "BNB/USD", "USDG/USD")}
    sleeping = (
        '{"channel":"ticker","type":"snapshot","data":[{"symbol":"ETH/USD","bid":0,"bid_qty":0,"ask":0,'
        '"ask_qty":0,"last":0,"volume":0,"vwap":0,"low":0,"high":0,"change":0,"change_pct":0,'
        '"timestamp":"1970-01-01T00:00:00.000000Z"}]}'
    )
    rows = [row for row in recording("kraken/spot-misc") if "USDT/USD" not in row["raw"]]
    rows.append({"dir": "in", "url": "", "raw": sleeping})
    channels: list[Channel] = ["trade", "book", "ticker"]
    passed = await through("kraken", Replay(rows, natives, MANNER, asks=3), channels, redis_server())
    assert not [event for event in passed.events if isinstance(event, Trade)]
    assert [event.symbol for event in passed.events if isinstance(event, BookSnapshot)] == ["USDG-USD"]
    tickers = [event for event in passed.events if isinstance(event, Ticker)]
    assert [(t.symbol, t.last, t.volume_base) for t in tickers] == [
        ("BTC-USD", "60108.7", "4473.99704028"),
        ("BTC-USD", "62702.9", "1947.83637005"),
        ("BNB-USD", "600.21", "485.14555"),
        ("ETH-USD", None, "0"),
    ]
    assert (tickers[-1].ts_event, tickers[-2].ts_event) == (None, None)
    live = [b.symbol for b in passed.books if isinstance(b, Book) and b.state == "live"]
    assert live == ["USDG-USD"], "an update without its snapshot is no book"
    assert [s for s in passed.events if isinstance(s, Status) and s.state == "refused"] == []
