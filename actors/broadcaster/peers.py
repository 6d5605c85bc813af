"""Connections of one dialect and how well they read: who is slow, stalled, or to be gone by when.

A peer is in one of these states::

    present   is served; its dialect decides what becomes of it above its limit of unread bytes
    doomed    got a close frame, gets nothing more; aborted at the deadline

A present peer whose socket takes nothing at all for as long as the deadline is aborted at once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

import anyio
import structlog
from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN

from actors.runtime.metrics import Metrics

log: Any = structlog.get_logger()

_SWEEP_S: Final = 0.25  # chosen: how late a deadline may be; costs a microsecond a peer
_ADMIT_MOST: Final = 64  # chosen: newcomers at once, so that a crowd of them delays no batch for long
_ADMIT_SHARE: Final = 0.2  # chosen: of the time that may go into newcomers' books


@lru_cache(maxsize=4096)
def header(length: int) -> bytes:
    """Return the header of a WebSocket text frame of ``length`` bytes, as a server sends it."""
    return Frame(Opcode.TEXT, bytes(length)).serialize(mask=False)[: -length or None]


def frame(payload: bytes) -> bytes:
    """Return the WebSocket text frame of ``payload``, as a server sends it."""
    return header(len(payload)) + payload


class Peer:
    """One connection and what is known of its reading. Times are of the monotonic clock, in seconds."""

    __slots__ = (
        "connection",
        "deadline",
        "drained",
        "given",
        "limit",
        "progress_at",
        "protocol",
        "transport",
    )

    def __init__(self, connection: ServerConnection, limit: int) -> None:
        self.connection = connection
        self.protocol = connection.protocol
        self.transport = connection.transport
        self.limit = limit
        self.given = 0  # bytes written
        self.drained = 0
        self.progress_at = time.monotonic()
        self.deadline: float | None = None  # of a doomed peer, or one that was aborted

    def unread(self) -> int:
        """Return the bytes that the kernel has not taken yet."""
        return self.transport.get_write_buffer_size()

    @property
    def slow(self) -> bool:
        """Whether more is unread than it may leave unread."""
        return self.transport.get_write_buffer_size() > self.limit

    def write(self, framed: bytes) -> None:
        """Give whole frames to the socket, unless it or we have said goodbye."""
        if self.protocol.state is OPEN:
            self.transport.write(framed)
            self.given += len(framed)

    def allow(self, size: int) -> None:
        """Let it leave ``size`` bytes more unread: books may be large; it goes as they are read."""
        self.limit += size


P = TypeVar("P", bound=Peer)


class Peers(Generic[P]):
    """The connections of one dialect, present and doomed."""

    def __init__(
        self,
        dialect: str,
        metrics: Metrics,
        *,
        slow_bytes: int,
        deadline_s: float,
        slow: Callable[[P], None],
        gone: Callable[[P], None],
    ) -> None:
        """Make it empty.

        Args:
            dialect: Its name in the metrics.
            metrics: What it counts with.
            slow_bytes: Unread bytes above which a peer is slow.
            deadline_s: How long a peer may take nothing before it is aborted.
            slow: What becomes of a peer that is found to be slow.
            gone: Is told of each that is not to be served any more.
        """
        self.dialect = dialect
        self.slow_bytes = slow_bytes
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._slow = slow
        self._gone = gone
        self._present: dict[P, None] = {}
        self._doomed: dict[P, None] = {}

    def __len__(self) -> int:
        return len(self._present) + len(self._doomed)

    def add(self, peer: P) -> None:
        """Take a new connection in."""
        self._present[peer] = None
        self._count()

    def leave(self, peer: P) -> None:
        """Forget a connection that has ended; harmless when it is forgotten already."""
        self._withdraw(peer)
        self._doomed.pop(peer, None)
        self._count()

    def _count(self) -> None:
        self._metrics.gauge("tapeline_clients", len(self), dialect=self.dialect)

    def _withdraw(self, peer: P) -> None:
        if peer in self._present:
            del self._present[peer]
            self._gone(peer)

    def _sentence(self, peer: P, now: float) -> None:
        peer.deadline = now + self._deadline_s
        self._doomed[peer] = None

    def close(self, peer: P, code: CloseCode, reason: str, label: str) -> None:
        """Close a peer for what it did; ``label`` is the reason in the metrics."""
        self._withdraw(peer)
        self._metrics.count("tapeline_clients_refused_total", reason=label)
        if peer.protocol.state is OPEN:
            peer.protocol.send_close(code, reason)
            peer.connection.send_data()
        self._sentence(peer, time.monotonic())

    def close_slow(self, peer: P) -> None:
        """Close a peer that does not keep up."""
        unread = peer.unread()
        log.warning("slow_client_closed", dialect=self.dialect, unread_bytes=unread)
        reason = f"too slow: {unread} bytes unread, the limit is {peer.limit}"
        self.close(peer, CloseCode.TRY_AGAIN_LATER, reason, "slow")

    def sweep(self, now: float) -> int:
        """Judge all, abort those whose time is up; return the unread bytes of all. ``now``: monotonic, s."""
        unread = 0
        for peer in [*self._doomed]:
            unread += peer.unread()
            if peer.deadline is not None and now >= peer.deadline:
                self._doomed.pop(peer)
                peer.transport.abort()
        for peer in [*self._present]:
            size = peer.unread()
            unread += size
            if peer.protocol.state is not OPEN:
                self._withdraw(peer)  # it or the library has said goodbye: the other side has to hear it
                self._sentence(peer, now)
                continue
            if size > peer.limit:
                self._slow(peer)
            else:
                peer.limit = max(self.slow_bytes, min(peer.limit, size + self.slow_bytes))
            if peer in self._present and self._stalled(peer, size, now):
                log.warning("client_aborted", dialect=self.dialect, unread_bytes=size)
                self._metrics.count("tapeline_clients_refused_total", reason="stalled")
                self._withdraw(peer)
                peer.deadline = now  # what it has said in this moment is not heard
                peer.transport.abort()
        return unread

    def _stalled(self, peer: P, size: int, now: float) -> bool:
        drained = peer.given - size  # pongs are not in ``given``: they make this less, never more
        if size == 0 or drained > peer.drained:
            peer.drained = max(peer.drained, drained)
            peer.progress_at = now
        return now - peer.progress_at > self._deadline_s


async def watch(crowds: Sequence[Peers[Any]], metrics: Metrics) -> None:
    """Sweep them until cancelled."""
    while True:
        await anyio.sleep(_SWEEP_S)
        now = time.monotonic()
        metrics.gauge("tapeline_client_buffer_bytes", sum(crowd.sweep(now) for crowd in crowds))


T = TypeVar("T")


class Turnstile(Generic[T]):
    """Lets newcomers in one after the other, so that a crowd of them takes a share of the time only."""

    def __init__(self, admit: Callable[[T], None]) -> None:
        """Make it empty; ``admit`` serves one newcomer, without waiting."""
        self._admit_one = admit
        self._queue: deque[T] = deque()
        self._again_at = 0.0
        self._armed = False

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, newcomer: T) -> None:
        """Put a newcomer at the end of the queue."""
        self._queue.append(newcomer)
        self._arm()

    def remove(self, newcomer: T) -> None:
        """Take one out that has gone away; harmless when it is not there."""
        if newcomer in self._queue:
            self._queue.remove(newcomer)

    def __iter__(self) -> Iterator[T]:
        return iter(self._queue)

    def _arm(self) -> None:
        if self._queue and not self._armed:
            self._armed = True
            wait_s = max(0.0, self._again_at - time.monotonic())
            asyncio.get_running_loop().call_later(wait_s, self._admit)

    def _admit(self) -> None:
        self._armed = False
        started = time.monotonic()
        for _ in range(min(_ADMIT_MOST, len(self._queue))):
            self._admit_one(self._queue.popleft())
        now = time.monotonic()
        self._again_at = now + (now - started) * (1 / _ADMIT_SHARE - 1)
        self._arm()
