"""What waits between sockets and ``raw``: batches of lines, bounded while Redis is away.

A batch goes out when the one before was answered and it is full (frames, bytes) or has waited for the
linger. Lines leave in the order in which they came, from all connections of a leg.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio

_LINE_OVERHEAD = 64  # a bytes object and its place in a list (sys.getsizeof(b"") is 33)

Append = Callable[[Sequence[bytes]], Awaitable[object]]


class Room:
    """The memory that all sinks of this process share, in bytes."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def roomy(self) -> bool:
        """Whether it is at most half full: time to connect again after an overflow."""
        return self.used * 2 <= self.limit


class _Batch(NamedTuple):
    lines: list[bytes]
    size: int  # as counted in the room


class Sink:
    """The lines of one leg on their way to ``raw``.

    Attributes:
        taken: Lines ever put in.
        written: Lines ever appended; a line is in ``raw`` once this has reached ``taken`` as it was then.
    """

    def __init__(self, room: Room, batch_lines: int, batch_bytes: int, linger_s: float) -> None:
        self._room = room
        self._batch_lines = batch_lines
        self._batch_bytes = batch_bytes
        self._linger_s = linger_s
        self._loop = asyncio.get_running_loop()
        self._full: deque[_Batch] = deque()
        self._open: list[bytes] = []
        self._open_size = 0
        self._flying = 0  # size of the batch that is being appended
        self._due = 0.0  # when the open batch has lingered enough
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False
        self._awaited: list[tuple[int, anyio.Event]] = []
        self.taken = 0
        self.written = 0

    def put(self, line: bytes) -> bool:
        """Take a frame's line, unless there is no room: then False, and nothing was taken."""
        room = self._room
        if room.used + len(line) + _LINE_OVERHEAD > room.limit:
            return False
        self.note(line)
        return True

    def note(self, line: bytes) -> int:
        """Take a line that must not be lost (an ``x``), room or not; return the ticket for ``wait``."""
        size = len(line) + _LINE_OVERHEAD
        self._room.used += size
        self.taken += 1
        lines = self._open
        lines.append(line)
        self._open_size += size
        waiter = self._waiter
        if len(lines) >= self._batch_lines or self._open_size >= self._batch_bytes:
            self._full.append(_Batch(lines, self._open_size))
            self._open, self._open_size = [], 0
            if waiter is not None:
                self._wake()
        elif len(lines) == 1:
            self._due = self._loop.time() + self._linger_s
            if waiter is not None and self._timer is None:
                self._timer = self._loop.call_at(self._due, self._ripen)
        return self.taken

    def _ripen(self) -> None:
        # uvloop's timers count whole ms and may come early: whoever looked at the clock again would spin.
        self._due = 0.0
        self._wake()

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _next(self) -> _Batch | None:
        """Return the next batch that is ready, waiting for it; None at the end."""
        while True:
            if self._full:
                return self._full.popleft()
            if self._open and (self._ending or self._loop.time() >= self._due):
                batch = _Batch(self._open, self._open_size)
                self._open, self._open_size = [], 0
                return batch
            if self._ending:
                return None
            # A bare future and timer: an Event and a deadline scope a flush cost more than the append.
            self._waiter = self._loop.create_future()
            if self._open:
                self._timer = self._loop.call_at(self._due, self._ripen)
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def run(self, append: Append) -> None:
        """Append batch after batch, until ``finish`` was called and nothing is left."""
        while (batch := await self._next()) is not None:
            self._flying = batch.size
            await append(batch.lines)
            self._room.used -= batch.size
            self._flying = 0
            self.written += len(batch.lines)
            if self._awaited:
                self._tell()

    def _tell(self) -> None:
        for ticket, event in self._awaited:
            if ticket <= self.written:
                event.set()
        self._awaited = [waiting for waiting in self._awaited if not waiting[1].is_set()]

    async def wait(self, ticket: int) -> None:
        """Return once the line that ``note`` gave this ticket for is in ``raw``."""
        if ticket > self.written:
            event = anyio.Event()
            self._awaited.append((ticket, event))
            await event.wait()

    def finish(self) -> None:
        """Let ``run`` end as soon as all that was taken is written; do not linger any more."""
        self._ending = True
        self._wake()

    def forget(self) -> None:
        """Drop what waits: the leg is another's now, whose first line closes our connections."""
        self._room.used -= self._flying + self._open_size + sum(batch.size for batch in self._full)
        self._full.clear()
        self._open, self._open_size, self._flying = [], 0, 0
