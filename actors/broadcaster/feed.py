"""The way in: one follower a partition, from ``events``, ``books`` and ``flow`` to the outlets and pub/sub.

A follower writes no cursor: it starts at the newest entries, its books folded from the last snapshots.
When entries are missing (retention, a rollback) it counts them, reads the books again and says them
whole; while Redis is away it waits, and the clients stay.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anyio
import anyio.lowlevel
import msgspec
import structlog

from actors.broadcaster.books import BAD_LINE, Change, Head, Shelf, head_of
from actors.broadcaster.outlet import Missed, Outlet
from actors.config import Settings
from actors.model import codec
from actors.model.errors import Unparseable
from actors.model.events import SECOND, STALE_S
from actors.model.instruments import shard
from actors.runtime.metrics import Metrics
from actors.streams.client import cold
from actors.streams.keys import START, Cursor, Keys, Partition, Stream
from actors.streams.partition import Entry, Tail, entry_of, newest, persist, rolled_back
from actors.streams.wire import Hot

log: Any = structlog.get_logger()

_FLUSH_BYTES: Final = 64 * 1024  # chosen: a write of a few of these fits the kernel's buffers
_PAGE: Final = 16  # entries a request when the books are read back
_BACK_NS: Final = 30 * SECOND  # a live book has a snapshot about every 10 s; without one it is not live
_BACK_BYTES: Final = 64 * 1024 * 1024  # chosen: half a minute at full speed
_BOOK: Final = codec.prefix("book")
_PLAIN: Final[tuple[Stream, ...]] = ("events", "flow")  # every event stands for itself


class Clock:
    """Our clock as Redis reads it: ticks carry its time, so hosts need not agree."""

    def __init__(self) -> None:
        self._ahead_ns = 0

    def set(self, redis_ns: int) -> None:
        """Learn what Redis' TIME is now."""
        self._ahead_ns = redis_ns - time.time_ns()

    def now_ns(self) -> int:
        """Return the time on Redis' clock."""
        return time.time_ns() + self._ahead_ns


class Tap(Protocol):
    """Whoever else wants the lines of a partition as they come (pub/sub)."""

    def take(self, partition: Partition, stream: Stream, lines: Sequence[bytes]) -> None:
        """Take lines; never waits."""
        ...


class _Moment(msgspec.Struct, gc=False):
    ts_recv: int


_moment_of = msgspec.json.Decoder(_Moment).decode


@dataclass(frozen=True, slots=True)
class Listeners:
    """Whom a follower tells, and what it measures with."""

    outlets: Sequence[Outlet]
    tap: Tap
    metrics: Metrics
    clock: Clock = field(default_factory=Clock)


class Follower:
    """One partition: its cursors, its books, its last tick."""

    def __init__(self, partition: Partition, symbols: Sequence[str], listeners: Listeners) -> None:
        """Make a follower that has read nothing.

        Args:
            partition: What it follows.
            symbols: Whose books there may be; only spares reading further back for one that has none.
            listeners: Who is told.
        """
        self.partition = partition
        self.shelf = Shelf()
        self.cursors: dict[Stream, Cursor] = {"events": START, "books": START, "flow": START}
        self.ready = False  # it stands somewhere, and its books are whole
        self.events = 0  # lines of ``events`` seen by this process
        self._symbols = frozenset(symbols)
        self._outlets = listeners.outlets
        self._tap = listeners.tap
        self._metrics = listeners.metrics
        self._clock = listeners.clock
        self._tick_ns: int | None = None
        self._torn = False  # entries of books are missing: read again
        self._holes = 0
        self._said_ns = 0  # receive time of what was said last, since the last flush
        listeners.metrics.stand("broadcaster", venue=partition.venue, partition=str(partition))
        for outlet in self._outlets:
            outlet.add(partition, self)

    # -- what others ask

    def tick_age_s(self) -> float | None:
        """Return how old the last tick is, None before the first."""
        if self._tick_ns is None:
            return None
        return max(0.0, (self._clock.now_ns() - self._tick_ns) / SECOND)

    def stale(self) -> bool:
        """Tell whether what is delivered of this partition is not to be trusted now."""
        age = self.tick_age_s()
        return age is None or age > STALE_S

    # -- reading

    async def run(self, settings: Settings, keys: Keys) -> None:
        """Follow until cancelled."""
        hot = await cold(settings, keys.stream(self.partition, "events"))
        try:
            await persist(hot, lambda: self._begin(hot, keys), self._lost)
            while True:
                await persist(hot, lambda: self._read_back(hot, keys), self._lost)
                tail = Tail(hot, keys, self.partition, self.cursors)
                tail.lost = self._lost
                while not self._torn:
                    await self.take(await tail.read())
        finally:
            await hot.aclose()

    def _lost(self, error: Exception) -> None:
        self._metrics.count("tapeline_redis_reconnects_total", role="broadcaster")
        log.warning("redis_away", partition=str(self.partition), reason=str(error))

    async def _begin(self, hot: Hot, keys: Keys) -> None:
        """Stand at the newest of all that needs nothing from before."""
        for stream in _PLAIN:
            self.cursors[stream] = await newest(hot, keys, self.partition, stream)

    async def _read_back(self, hot: Hot, keys: Keys) -> None:
        """Fold the books from their last snapshots, and stand at the end of what was read."""
        key = keys.stream(self.partition, "books")
        end = await newest(hot, keys, self.partition, "books")
        missing = set(self._symbols)
        pages: list[Entry] = []
        before, size, newest_ns, oldest_ns = str(end), 0, 0, 0
        while missing and newest_ns - oldest_ns < _BACK_NS and size < _BACK_BYTES:
            answer = await hot.call("XREVRANGE", key, before, "-", "COUNT", _PAGE)
            page = [entry_of(*entry) for entry in answer]
            if not page:
                break
            pages += page
            before = f"({page[-1].cursor}"
            for entry in page:
                size += sum(map(len, entry.lines))
                for head in _heads(entry.lines):
                    newest_ns, oldest_ns = newest_ns or head.ts_recv, head.ts_recv
                    if head.type == "snapshot" or head.state != "live":
                        missing.discard(head.symbol)
        self.shelf.clear()
        for entry in reversed(pages):
            for k, line in enumerate(entry.lines, entry.first):
                if line.startswith(_BOOK):
                    self._file(entry.epoch, k, line)
        self._holes = self.shelf.holes
        self._stand_at(end)

    def _stand_at(self, end: Cursor) -> None:
        """Go on after ``end`` of ``books``, which has been read back, and say what was not said."""
        was, self.cursors["books"] = self.cursors["books"], end
        torn, self._torn = self._torn, False
        self.ready = True
        for outlet in self._outlets:
            if torn and was != end:  # what a rollback took back was told when it was seen: these are there
                outlet.missed(self.partition, "books", Missed("retention", was, end))
            outlet.renewed(self.partition)

    async def take(self, found: Sequence[tuple[Stream, Entry]]) -> None:
        """Pass on what was read. Lets the event loop run between pieces, so that sockets drain."""
        size = 0
        for stream, entry in found:
            if not self._torn or stream != "books":
                self._compare(stream, entry)
            if self._torn and stream == "books":
                continue  # read back with the rest
            self.cursors[stream] = entry.cursor
            self._tap.take(self.partition, stream, entry.lines)
            for outlet in self._outlets:
                outlet.entry(self.partition, stream, entry)
            if stream == "books":
                self._books(entry)
            else:
                self._plain(stream, entry)
            size += sum(map(len, entry.lines))
            if size > _FLUSH_BYTES:
                self._flush()
                size = 0
                await anyio.lowlevel.checkpoint()
        self._flush()

    def _compare(self, stream: Stream, entry: Entry) -> None:
        cursor = self.cursors[stream]
        place = {"role": "broadcaster", "partition": str(self.partition)}
        missing = entry.first - cursor.k - 1
        if rolled_back(entry, cursor):
            self._metrics.count("tapeline_rollbacks_total", **place)
            log.warning("rollback", partition=place["partition"], stream=stream, seen=str(cursor))
            said = Missed("rollback", Cursor(cursor.epoch, entry.first - 1), cursor)
        elif missing > 0:
            self._metrics.count("tapeline_trimmed_unread_total", missing, **place)
            log.warning("trimmed_unread", partition=place["partition"], stream=stream, missing=missing)
            said = Missed("retention", cursor, Cursor(entry.epoch, entry.first - 1))
        else:
            return
        if stream == "books":
            self._torn = True
            self.ready = False
        if stream != "books" or said.cause == "rollback":
            for outlet in self._outlets:
                outlet.missed(self.partition, stream, said)
        if stream == "books" and said.cause == "rollback":
            self.cursors["books"] = said.after  # what came after it never was

    def _flush(self) -> None:
        for outlet in self._outlets:
            outlet.flush()
        if self._said_ns:
            waited_s = max(0, time.time_ns() - self._said_ns) / SECOND
            self._metrics.observe("tapeline_delivery_seconds", waited_s)
            self._said_ns = 0

    def _plain(self, stream: Stream, entry: Entry) -> None:
        if stream == "events":
            self.events += len(entry.lines)
        wanted = frozenset[bytes]().union(*(outlet.wanted(stream) for outlet in self._outlets))
        for line in entry.lines:
            kind = line[9 : line.find(b'"', 9)]  # see codec.kind_of; without its two calls
            if kind in wanted:
                self._tell(line)
            elif kind == b"tick":
                self._tick(line)

    def _books(self, entry: Entry) -> None:
        wanted = frozenset[bytes]().union(*(outlet.wanted("books") for outlet in self._outlets))
        for k, line in enumerate(entry.lines, entry.first):
            kind = line[9 : line.find(b'"', 9)]
            if kind == b"book":
                self._book(entry.epoch, k, line)
            elif kind in wanted:
                self._tell(line)
        if self.shelf.holes != self._holes:
            self._metrics.count(
                "tapeline_gaps_total",
                self.shelf.holes - self._holes,
                venue=self.partition.venue,
                channel="book",
                reason="broken_chain",
            )
            self._holes = self.shelf.holes

    def _tell(self, line: bytes) -> None:
        try:
            event = codec.decode(line)
            for outlet in self._outlets:
                outlet.event(event)
        except (Unparseable, ValueError, OverflowError) as e:
            self._untold(e)
        else:
            self._said_ns = event.ts_recv

    def _tick(self, line: bytes) -> None:
        try:
            self._tick_ns = _moment_of(line).ts_recv
        except msgspec.MsgspecError as e:
            self._untold(e)

    def _book(self, epoch: int, k: int, line: bytes) -> None:
        change = self._file(epoch, k, line)
        if change is None:
            return
        try:
            for outlet in self._outlets:
                outlet.change(self.partition, change)
        except (msgspec.MsgspecError, ValueError, OverflowError) as e:
            self.shelf.lose(change.symbol)
            self._untold(e)

    def _file(self, epoch: int, k: int, line: bytes) -> Change | None:
        try:
            return self.shelf.take(epoch, k, line)
        except BAD_LINE as e:
            self._untold(e)
            return None

    def _untold(self, error: Exception) -> None:
        self._metrics.count("tapeline_skipped_total", reason="untranslatable")
        log.error("untranslatable_event", partition=str(self.partition), reason=str(error))


def _heads(lines: Sequence[bytes]) -> Iterator[Head]:
    """Yield the heads of the book events among ``lines``, newest first; what is none is counted later."""
    for line in reversed(lines):
        if line.startswith(_BOOK):
            with contextlib.suppress(msgspec.MsgspecError):
                yield head_of(line)


class Feed:
    """All partitions of the configuration."""

    def __init__(
        self, settings: Settings, keys: Keys, places: Sequence[Partition], listeners: Listeners
    ) -> None:
        self._settings = settings
        self._keys = keys
        self.clock = listeners.clock
        self.followers = [Follower(place, _symbols_of(settings, place), listeners) for place in places]

    async def run(self) -> None:
        """Follow all of them until cancelled."""
        async with anyio.create_task_group() as tg:
            for follower in self.followers:
                tg.start_soon(follower.run, self._settings, self._keys)

    def health(self) -> dict[str, Any]:
        """Return ``ok`` and by partition what ``/healthz`` says of it."""
        partitions: dict[str, dict[str, Any]] = {}
        for follower in self.followers:
            age = follower.tick_age_s()
            partitions[str(follower.partition)] = {
                "stale": follower.stale(),
                "tick_age_s": None if age is None else round(age, 3),
                "books": sorted(follower.shelf.live()),
                "events": follower.events,
                "cursors": {stream: str(cursor) for stream, cursor in follower.cursors.items()},
            }
        return {"ok": not any(of["stale"] for of in partitions.values()), "partitions": partitions}


def _symbols_of(settings: Settings, partition: Partition) -> list[str]:
    venue = settings.venues[partition.venue]
    mine = (symbol for symbol in venue.symbols if shard(symbol, venue.shards) == partition.shard)
    return [symbol for symbol in mine if venue.wants("book", symbol)]
