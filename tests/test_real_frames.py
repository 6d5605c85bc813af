"""Recorded frames through connector, raw, normalizer and bookbuilder in a real Redis.

What comes out is compared with few lines of plain dicts that follow the venue's own procedure, and with the
best bid and offer that was recorded beside the books.
"""

import json
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import redis
from replay import Replay, recording

from actors import bookbuilder, connector, normalizer
from actors.config import Settings, VenueSettings
from actors.model import codec
from actors.model.events import L1, AnyEvent, Book, Gap, Status, Trade
from actors.runtime.lifecycle import make_actor
from actors.runtime.metrics import Metrics
from actors.streams.keys import Keys, Partition, Stream

pytestmark = pytest.mark.redis

KEYS = Keys()
PARTITION = Partition("binance", 0)
ROLES = {"connector": connector.run, "normalizer": normalizer.run, "bookbuilder": bookbuilder.run}
MIXED = {"BTCUSDT": ("BTC", "USDT")}
FOUR = {
    "NKNUSDT": ("NKN", "USDT"),
    "BLZETH": ("BLZ", "ETH"),
    "LRCBTC": ("LRC", "BTC"),
    "RUNEEUR": ("RUNE", "EUR"),
}
Levels = list[tuple[str, str]]


@asynccontextmanager
async def pipeline(settings: Settings) -> AsyncIterator[None]:
    """Run one instance of each role for the length of the block."""
    async with anyio.create_task_group() as tg:
        actors = [make_actor(role, settings, Metrics()) for role in ROLES]
        for actor, run in zip(actors, ROLES.values(), strict=True):
            tg.start_soon(run, actor)
        yield
        for actor in actors:
            actor.stopping.set()


def events(client: redis.Redis, stream: Stream) -> list[AnyEvent]:
    entries: Any = client.xrange(KEYS.stream(PARTITION, stream))
    return [codec.decode(text.encode()) for _, fields in entries for text in fields["d"].split("\n")]


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
    best_first = sorted(bids.items(), key=lambda level: -float(level[0]))
    return best_first, sorted(asks.items(), key=lambda level: float(level[0])), last


class Reader:
    """What any reader of ``books`` does: a snapshot replaces, a delta changes."""

    def __init__(self) -> None:
        self.bids: dict[str, str] = {}
        self.asks: dict[str, str] = {}
        self.seq: int | None = None
        self.state = "none"

    def apply(self, event: Book) -> None:
        if event.type == "snapshot":
            self.bids, self.asks = {}, {}
        for side, changes in ((self.bids, event.bids), (self.asks, event.asks)):
            for price, size in changes:
                if float(size):
                    side[price] = size
                else:
                    side.pop(price, None)  # a venue removes what nobody was told of, too
        self.seq, self.state = event.seq, event.state

    @property
    def levels(self) -> tuple[Levels, Levels]:
        bids = sorted(self.bids.items(), key=lambda level: -float(level[0]))
        return bids, sorted(self.asks.items(), key=lambda level: float(level[0]))


async def run_through(
    name: str, natives: dict[str, tuple[str, str]], redis_server: Any
) -> tuple[list[dict[str, Any]], list[AnyEvent], list[AnyEvent]]:
    """Return the recording, and what ``events`` and ``books`` hold once it has passed."""
    rows = recording(f"binance/{name}")
    ends = {f"{b}-{q}": reference(rows, native)[2] for native, (b, q) in natives.items()}
    server = redis_server()
    async with Replay(rows, natives) as replay:
        settings = Settings(
            mode="live",
            redis={"url": server.url},
            venues={
                "binance": VenueSettings(
                    symbols=list(ends),
                    channels=["trade", "book", "l1"],
                    ws_url=f"ws://127.0.0.1:{replay.port}",
                    rest_url=f"http://127.0.0.1:{replay.port}",
                )
            },
        )
        async with pipeline(settings):
            with server.client() as client:
                with anyio.fail_after(25):
                    await replay.played.wait()
                    while not _through(client, ends):
                        await anyio.sleep(0.05)
                return rows, events(client, "events"), events(client, "books")


def _through(client: redis.Redis, ends: dict[str, int]) -> bool:
    """Tell whether the book of every symbol has reached its last update, and all of raw was folded."""
    told = {e.symbol: e.seq for e in events(client, "books") if isinstance(e, Book) and e.state == "live"}
    raw: Any = client.xrevrange(KEYS.stream(PARTITION, "raw"), count=1)
    folded = client.hget(KEYS.cursor(PARTITION, "normalizer"), "c:raw")
    ticks = folded is not None and int(folded.split("-")[1]) >= int(raw[0][0].split("-")[1]) - 2
    return ticks and all(told.get(symbol, 0) >= last for symbol, last in ends.items())


def of_symbol(books: list[AnyEvent], symbol: str) -> list[Book]:
    return [event for event in books if isinstance(event, Book) and event.symbol == symbol]


def fold(books: list[AnyEvent]) -> dict[str, Reader]:
    readers: dict[str, Reader] = {}
    for event in books:
        if isinstance(event, Book) and event.symbol is not None:
            readers.setdefault(event.symbol, Reader()).apply(event)
    return readers


def assert_books_are_the_reference(
    rows: list[dict[str, Any]], natives: dict[str, tuple[str, str]], books: list[AnyEvent]
) -> None:
    readers = fold(books)
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


def assert_nothing_is_missing(found: list[AnyEvent], books: list[AnyEvent]) -> None:
    assert not [event for event in (*found, *books) if isinstance(event, Gap)]
    assert not [event for event in found if isinstance(event, Status) and event.state in ("stale", "refused")]


async def test_a_recording_of_one_symbol_comes_out_whole(redis_server):
    rows, found, books = await run_through("spot-btcusdt-mixed", MIXED, redis_server)
    assert_nothing_is_missing(found, books)
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
    _, found, books = await run_through("spot-btcusdt-mixed", MIXED, redis_server)
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
    rows, found, books = await run_through("spot-book_diff", FOUR, redis_server)
    assert_nothing_is_missing(found, books)
    assert_books_are_the_reference(rows, FOUR, books)
