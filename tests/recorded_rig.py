"""A recording through connector, raw, normalizer and bookbuilder in a real Redis, and a reader of books."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import redis
from replay import Replay

from actors import bookbuilder, connector, normalizer
from actors.config import Settings, VenueSettings
from actors.model import codec
from actors.model.events import AnyEvent, Book, Channel, Gap, Status
from actors.runtime.lifecycle import make_actor
from actors.runtime.metrics import Metrics
from actors.streams.keys import Keys, Partition, Stream

KEYS = Keys()
ROLES = {"connector": connector.run, "normalizer": normalizer.run, "bookbuilder": bookbuilder.run}
READ_BY: tuple[tuple[str, Stream], ...] = (("normalizer", "raw"), ("bookbuilder", "events"))
Levels = list[tuple[str, str]]


class Passed(NamedTuple):
    """What the streams hold once a recording has passed."""

    events: list[AnyEvent]
    books: list[AnyEvent]
    dead: list[str]


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


def lines(client: redis.Redis, partition: Partition, stream: Stream) -> list[str]:
    entries: Any = client.xrange(KEYS.stream(partition, stream))
    return [line for _, fields in entries for line in fields["d"].split("\n")]


def _is_frame(line: str) -> bool:
    return line.split(" ", 3)[2] in ("f", "b")


def _decoded(client: redis.Redis, partition: Partition, stream: Stream) -> list[AnyEvent]:
    return [codec.decode(line.encode()) for line in lines(client, partition, stream)]


def _readers(client: redis.Redis, partition: Partition) -> Iterable["Reader"]:
    return read(_decoded(client, partition, "books")).values()


def _last(client: redis.Redis, partition: Partition, stream: Stream) -> int:
    newest: Any = client.xrevrange(KEYS.stream(partition, stream), count=1)
    return int(newest[0][0].split("-")[1]) if newest else 0


def _folded(client: redis.Redis, partition: Partition, role: str, stream: Stream) -> int:
    cursor: Any = client.hget(KEYS.cursor(partition, role), f"c:{stream}")
    return 0 if cursor is None else int(cursor.split("-")[1])


async def through(
    venue: str, replay: Replay, channels: Iterable[Channel], server: Any, *, live: int = 0, end: str = ""
) -> Passed:
    """Return what comes of the recording that ``replay`` serves, once the last of it was folded.

    ``live``: how many books must be, for those whose snapshot is asked for. ``end``: of their symbols.
    """
    symbols = [f"{base}-{quote}{end}" for base, quote in replay.natives.values()]
    partition = Partition(venue, 0)
    async with replay:
        settings = Settings(
            mode="live",
            redis={"url": server.url},
            venues={
                venue: VenueSettings(
                    symbols=symbols,
                    channels=list(channels),
                    ws_url=f"ws://127.0.0.1:{replay.port}",
                    rest_url=f"http://127.0.0.1:{replay.port}",
                )
            },
        )
        async with pipeline(settings):
            with server.client() as client, anyio.fail_after(25):
                await replay.played.wait()
                while sum(map(_is_frame, lines(client, partition, "raw"))) < replay.sent:
                    await anyio.sleep(0.05)
                while sum(reader.state == "live" for reader in _readers(client, partition)) < live:
                    await anyio.sleep(0.05)
                for role, stream in READ_BY:
                    last = _last(client, partition, stream)
                    while _folded(client, partition, role, stream) < last:
                        await anyio.sleep(0.05)
                return Passed(
                    _decoded(client, partition, "events"),
                    _decoded(client, partition, "books"),
                    lines(client, partition, "dead"),
                )


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
        return best_first(self.bids, self.asks)


def best_first(bids: dict[str, str], asks: dict[str, str]) -> tuple[Levels, Levels]:
    """Return both sides of a book of plain dicts as levels, best first."""
    return (
        sorted(bids.items(), key=lambda level: -float(level[0])),
        sorted(asks.items(), key=lambda level: float(level[0])),
    )


def read(books: list[AnyEvent]) -> dict[str, Reader]:
    """Return what a reader of ``books`` has of each symbol in the end."""
    readers: dict[str, Reader] = {}
    for event in books:
        if isinstance(event, Book) and event.symbol is not None:
            readers.setdefault(event.symbol, Reader()).apply(event)
    return readers


def assert_nothing_is_missing(passed: Passed) -> None:
    assert not [event for event in (*passed.events, *passed.books) if isinstance(event, Gap)]
    assert not [e for e in passed.events if isinstance(e, Status) and e.state in ("stale", "refused")]
    assert not [e for e in passed.books if isinstance(e, Book) and e.state == "crossed"]
    assert not passed.dead
