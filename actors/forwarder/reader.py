"""From one stream of Redis to runs of messages that wait to be sent; reads no further than may wait."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import anyio
import structlog

from actors.forwarder.tellers import Enough, Message, Teller, Told, Views, received
from actors.model.events import SECOND, Cause, Gap
from actors.runtime.metrics import Metrics
from actors.streams.keys import START, Cursor, Keys, Partition, Stream
from actors.streams.partition import Entry, Tail, persist, read_back, rolled_back
from actors.streams.wire import Hot

log: Any = structlog.get_logger()

_MOST_RUNS: Final = 32  # chosen: at 50 ms a round trip 300,000 messages a second
_MOST_BYTES: Final = 8 * 1024 * 1024
_RUN_MESSAGES: Final = 512  # chosen: the JSON of one run takes either side about a millisecond
_RUN_BYTES: Final = 256 * 1024
_EMPTY_S: Final = 1.0  # how often the cursor moves while there is nothing to tell
_BLOCK_MS: Final = 250  # what is kept back for its time is told this late, where nothing comes
_BACK_NS: Final = 30 * SECOND  # a live book has a snapshot about every 10 s
_BACK_BYTES: Final = 64 * 1024 * 1024


class Run(NamedTuple):
    """A stretch of a stream: all there is to tell of the events after ``after`` up to ``last``."""

    after: Cursor
    last: Cursor
    messages: list[Message]
    size: int
    ts_recv: int  # of its newest, ns


class Outbox:
    """Runs that wait for the master, oldest first: a bounded number. One reader, one sender."""

    def __init__(self) -> None:
        self.runs: deque[Run] = deque()
        self._size = 0
        self._changed = anyio.Event()
        self._room = anyio.Event()

    @property
    def full(self) -> bool:
        """Whether the reader should wait."""
        return len(self.runs) >= _MOST_RUNS or self._size > _MOST_BYTES

    def put(self, run: Run) -> None:
        """Add the newest."""
        self.runs.append(run)
        self._size += run.size
        self.wake()

    def pop(self) -> Run:
        """Take the oldest out."""
        run = self.runs.popleft()
        self._size -= run.size
        self.made_room()
        return run

    def clear(self) -> None:
        """Drop all of them: the reader goes on elsewhere."""
        self.runs.clear()
        self._size = 0
        self.made_room()

    def wake(self) -> None:
        """Let the sender look again."""
        self._changed.set()
        self._changed = anyio.Event()

    def made_room(self) -> None:
        """Let the reader look again."""
        self._room.set()
        self._room = anyio.Event()

    async def changed(self) -> None:
        """Wait for ``wake``."""
        await self._changed.wait()

    async def room(self) -> None:
        """Wait for ``made_room``."""
        await self._room.wait()


class Reader:
    """Reads one stream into an outbox, from wherever it is told to go on."""

    def __init__(
        self,
        partition: Partition,
        stream: Stream,
        teller: Teller,
        metrics: Metrics,
        symbols: Sequence[str],
    ) -> None:
        """Make a reader.

        Args:
            partition: Whose.
            stream: Which.
            teller: What makes messages of it.
            metrics: What it counts with.
            symbols: Whose books there may be; only spares reading further back for one that has none.
        """
        self.stream: Stream = stream
        self.outbox = Outbox()
        self.position = START  # everything up to here is in runs, or has been
        self._partition = partition
        self._teller = teller
        self._metrics = metrics
        self._symbols = symbols
        self._moved: Cursor | None = None  # where to go on, None: where it is
        self._at = START  # everything up to here has been read
        self._pending: list[Message] = []
        self._told: Cursor | None = None  # what is pending goes up to here, None: nothing is
        self._ts_recv = 0
        self._empty_due = 0.0
        self._stopped = False

    def go(self, to: Cursor) -> None:
        """Go on after ``to``; what waits in the outbox is dropped."""
        self._moved = self.position = to
        self.outbox.clear()

    def stop(self) -> None:
        """Read no more: what waits in the outbox is the last."""
        self._stopped = True

    async def run(self, hot: Hot, keys: Keys, lost: Callable[[Exception], None]) -> None:
        """Read until cancelled, from where ``go`` said."""
        tail = Tail(hot, keys, self._partition, {self.stream: START})
        tail.lost = lost
        while True:
            while self.outbox.full or self._stopped:
                await self.outbox.room()
            while self._moved is not None:
                tail.cursors[self.stream] = to = self._moved
                await self._stand(hot, keys, to, lost)
            found = await tail.read(block_ms=_BLOCK_MS)
            if self._moved is None and not self._stopped:  # else these are not what comes next
                self._take([entry for _, entry in found])

    async def _stand(self, hot: Hot, keys: Keys, to: Cursor, lost: Callable[[Exception], None]) -> None:
        """Become what reading up to ``to`` would have made."""
        teller = self._teller
        if isinstance(teller, Views):
            key = keys.stream(self._partition, self.stream)
            enough = partial(Enough, self._symbols, to, _BACK_NS, _BACK_BYTES)
            entries = await persist(hot, lambda: read_back(hot, key, to, enough()), lost)
            teller.restore(entries, to)
        self._pending.clear()
        self._told, self._at = None, to
        self._empty_due = time.monotonic() + _EMPTY_S
        if self._moved == to:
            self._moved = None

    def _take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            hole = self._hole(entry)
            if hole is not None:
                self._add(self._teller.hole(*hole))
            self._add(self._teller.take(entry))
            self._at = entry.cursor
        if not entries:
            self._add(self._teller.waiting(time.time_ns()))
        skipped, self._teller.skipped = self._teller.skipped, 0
        unreadable, self._teller.unreadable = self._teller.unreadable, 0
        for reason, n in (("dialect", skipped), ("unreadable", unreadable)):
            if n:
                self._metrics.count("tapeline_forward_skipped_total", n, reason=reason)

    def _hole(self, entry: Entry) -> tuple[Gap, Cursor] | None:
        """Return what should stand before ``entry`` and does not."""
        cursor, missing = self._at, entry.first - self._at.k - 1
        place = {"role": "forwarder", "partition": str(self._partition)}
        cause: Cause
        if rolled_back(entry, cursor):
            cause, first, last = "rollback", entry.first, cursor.k
            self._metrics.count("tapeline_rollbacks_total", **place)
        elif missing > 0:
            cause, first, last = "retention", cursor.k + 1, entry.first - 1
            self._metrics.count("tapeline_trimmed_unread_total", missing, **place)
        else:
            return None
        log.warning(cause, partition=place["partition"], stream=self.stream, first=first, last=last)
        ts = received(entry.lines[0])
        gap = Gap(self._partition.venue, None, None, ts, None, None, cause, str(first), str(last))
        return gap, Cursor(entry.epoch, entry.first - 1)

    def _add(self, told: Sequence[Told]) -> None:
        """Make runs of what is told; of messages as they come, of none once a second."""
        for part in told:
            self._pending += part.messages
            self._ts_recv = max(self._ts_recv, part.ts_recv)
            self._told = part.last
        if self._told is not None and (self._pending or time.monotonic() >= self._empty_due):
            for run in self._runs(self._told):
                self.outbox.put(run)
            self._told = None
            self._empty_due = time.monotonic() + _EMPTY_S

    def _runs(self, last: Cursor) -> Iterator[Run]:
        """Yield what is pending as runs, the last of which ends at ``last``."""
        messages, self._pending = self._pending, []
        part: list[Message] = []
        size = 0
        for message in messages:
            if part and (len(part) >= _RUN_MESSAGES or size >= _RUN_BYTES):
                yield self._run(part[-1].cursor, part, size)
                part, size = [], 0
            part.append(message)
            size += len(message.said.text)
        yield self._run(last, part, size)

    def _run(self, last: Cursor, messages: list[Message], size: int) -> Run:
        run = Run(self.position, last, messages, size, self._ts_recv)
        self.position = last
        return run
