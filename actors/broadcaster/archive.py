"""What the native protocol reads from Redis beside the live streams: what is retained, and what stands.

Every reader has connections of its own, so that nobody who is live waits for it.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import anyio
import msgspec
import structlog

from actors.broadcaster.books import Standing
from actors.broadcaster.subscriptions import Place
from actors.config import Settings
from actors.dialects.native import AFTER_TOPIC, OF_STREAM
from actors.model import codec
from actors.model.events import L1, BookState
from actors.runtime.metrics import Metrics
from actors.streams.client import cold
from actors.streams.errors import FAULTS
from actors.streams.keys import START, Cursor, Keys, Partition
from actors.streams.partition import Entry, entry_of, newest, persist
from actors.streams.wire import Hot

log: Any = structlog.get_logger()
T = TypeVar("T")

_PAGE: Final = 16  # entries a request
_READERS: Final = 8  # chosen: replays at a time; further ones wait for their turn
_BACK_BYTES: Final = 4 * 1024 * 1024  # chosen: how far back a symbol's newest L1 and sum are looked for
_RETAINED_S: Final = 1.0  # chosen: how old an answer about retained ranges may be, and may take


class _Top(msgspec.Struct):
    """Of a latest L1 key, what an L1 has."""

    venue: str
    symbol: str
    state: BookState
    ts_event: int | None
    ts_recv: int
    seq: int | None
    bid: str | None
    bid_size: str | None
    ask: str | None
    ask_size: str | None


_top_of = msgspec.json.Decoder(_Top).decode


def _top(value: bytes | None) -> _Top | None:
    try:
        return None if value is None else _top_of(value)
    except msgspec.MsgspecError as e:  # readable by all, and perhaps written by others
        log.warning("no_top", reason=str(e))
        return None


class Reader:
    """Reads the streams of any partitions, one command at a time."""

    def __init__(self, settings: Settings, keys: Keys, metrics: Metrics) -> None:
        self._settings = settings
        self._keys = keys
        self._metrics = metrics
        self._hots: dict[Partition, Hot] = {}

    async def _ask(self, partition: Partition, question: Callable[[Hot], Awaitable[T]]) -> T:
        hot = self._hots.get(partition)
        if hot is None:
            hot = self._hots[partition] = await cold(self._settings, self._keys.stream(partition, "events"))
        there = hot
        return await persist(there, lambda: question(there), self._lost)

    def _lost(self, error: Exception) -> None:
        self._metrics.count("tapeline_redis_reconnects_total", role="broadcaster")
        log.warning("redis_away", reason=str(error), reader="archive")

    async def newest(self, place: Place) -> Cursor:
        """Return the place after the last entry of a stream."""
        return await self._ask(place[0], lambda hot: newest(hot, self._keys, *place))

    async def page(self, place: Place, after: Cursor, to: Cursor) -> list[Entry]:
        """Return the next entries that have something after ``after``, none beyond ``to``."""
        key = self._keys.stream(*place)
        command = ("XRANGE", key, f"({after}", str(to), "COUNT", _PAGE)
        return [entry_of(*e) for e in await self._ask(place[0], lambda hot: hot.call(*command))]

    async def back(self, place: Place, to: Cursor | None) -> list[Entry]:
        """Return the entries before ``to`` (None: the newest), newest first; empty: there are none."""
        key = self._keys.stream(*place)
        command = ("XREVRANGE", key, "+" if to is None else f"({to}", "-", "COUNT", _PAGE)
        return [entry_of(*e) for e in await self._ask(place[0], lambda hot: hot.call(*command))]

    async def range(self, place: Place) -> tuple[Cursor, Cursor]:
        """Return what a stream retains: after the first, up to and with the second."""
        key = self._keys.stream(*place)
        answer = await self._ask(place[0], lambda hot: hot.call("XRANGE", key, "-", "+", "COUNT", 1))
        if not answer:
            return START, START
        oldest = entry_of(*answer[0])
        return Cursor(oldest.epoch, oldest.first - 1), await self.newest(place)

    async def tops(self, partition: Partition, symbols: Sequence[str]) -> list[bytes]:
        """Return the lines of the latest L1 of those symbols that have one to be trusted."""
        if not symbols:
            return []
        names = [self._keys.latest(partition, "top", symbol) for symbol in symbols]
        values: list[bytes | None] = await self._ask(partition, lambda hot: hot.call("MGET", *names))
        return [
            codec.encode(
                L1(
                    top.venue, top.symbol, top.ts_event, top.ts_recv, top.seq,
                    top.bid, top.bid_size, top.ask, top.ask_size,
                )
            )
            for top in map(_top, values)
            if top is not None and top.state == "live"
        ]  # fmt: skip

    async def standing(
        self, place: Place, kind: str, symbols: int, position: Callable[[], Cursor]
    ) -> dict[bytes, Standing]:
        """Return the newest line of a kind of each symbol, by what it is about, as of the live position.

        Args:
            place: The stream.
            kind: What to look for.
            symbols: How many there may be; when so many are found, or enough was read, that is all.
            position: The live position; lines after it come by themselves.
        """
        found: dict[bytes, Standing] = {}
        prefix = codec.prefix(kind)
        before: Cursor | None = None
        size = 0
        while len(found) < symbols and size < _BACK_BYTES:
            page = await self.back(place, before)
            if not page:
                break
            before, most = page[-1].cursor, position()
            for entry in page:
                size += sum(map(len, entry.lines))
                for k in range(entry.k, entry.first - 1, -1):
                    line = entry.lines[k - entry.first]
                    if line.startswith(prefix) and (entry.epoch, k) <= most:
                        found.setdefault(line[: line.find(AFTER_TOPIC)], (entry.epoch, k, line))
        return found

    async def aclose(self) -> None:
        """Close its connections."""
        for hot in self._hots.values():
            await hot.aclose()


class Archive:
    """The retained streams of all partitions."""

    def __init__(
        self, settings: Settings, keys: Keys, metrics: Metrics, partitions: Sequence[Partition]
    ) -> None:
        """Make it; nothing is connected yet."""
        self._make = lambda: Reader(settings, keys, metrics)
        self._places: list[Place] = [(partition, stream) for partition in partitions for stream in OF_STREAM]
        self._room = anyio.CapacityLimiter(_READERS)
        self._asking = anyio.Lock()
        self._retained: dict[str, Any] | None = None
        self._asked_at = 0.0

    @asynccontextmanager
    async def reader(self) -> AsyncGenerator[Reader]:
        """Give a reader for as long as the block lasts; waits while too many are at work."""
        async with self._room, self.opened() as reader:
            yield reader

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Reader]:
        """Give a reader at once, for a question or two."""
        reader = self._make()
        try:
            yield reader
        finally:
            with anyio.CancelScope(shield=True):
                await reader.aclose()

    async def retained(self) -> dict[str, Any] | None:
        """Return partition -> stream -> what is retained, a second old at most; None: Redis does not say."""
        with anyio.move_on_after(_RETAINED_S):
            async with self._asking:
                if time.monotonic() - self._asked_at > _RETAINED_S:
                    self._retained = None
                    try:
                        async with self.opened() as reader:
                            self._retained = await self._ranges(reader)
                    except FAULTS as e:
                        log.warning("retained_unknown", reason=str(e))
                    self._asked_at = time.monotonic()
                return self._retained
        return None

    async def _ranges(self, reader: Reader) -> dict[str, Any]:
        ranges: dict[str, Any] = {}
        for place in self._places:
            after, to = await reader.range(place)
            ranges.setdefault(str(place[0]), {})[place[1]] = {"after": str(after), "to": str(to)}
        return ranges
