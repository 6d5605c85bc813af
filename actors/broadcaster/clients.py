"""The WebSocket clients of one dialect: who gets what, and what becomes of those who do not read.

A batch is framed once and written straight to every client's transport: no task and no queue while
the socket keeps up. A client is in one of these states::

    waiting   has its welcome; becomes served when its newcomer's messages are written
    served    gets every batch that passes its filter; above its limit of unread bytes: doomed
    doomed    got a close frame (1013), gets nothing more; aborted at the deadline

A served client whose socket takes nothing at all for as long as the deadline is aborted at once.
Clients with the same filter form a group, so a filter costs once a batch, not once a client.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, Protocol, TypeVar

import anyio
import structlog
from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN

from actors.runtime.metrics import Metrics

log: Any = structlog.get_logger()

_SWEEP_S: Final = 0.25  # chosen: how late a deadline may be; costs a microsecond a client
_ADMIT_MOST: Final = 64  # chosen: newcomers at once, so that a crowd of them delays no batch for long
_ADMIT_SHARE: Final = 0.2  # chosen: of the time that may go into newcomers' books

T = TypeVar("T", bound=Hashable)
T_contra = TypeVar("T_contra", contravariant=True)


class Wants(Protocol[T_contra]):
    """A filter: hashable, so that equal ones share a group."""

    def passes(self, topic: T_contra, /) -> bool:
        """Tell whether messages of ``topic`` are wanted."""
        ...

    def kind(self, kind: str, /) -> bool:
        """Tell whether any messages of this kind are wanted."""
        ...

    def __hash__(self) -> int: ...


@lru_cache(maxsize=4096)
def _header(length: int) -> bytes:
    return Frame(Opcode.TEXT, bytes(length)).serialize(mask=False)[: -length or None]


def frame(payload: bytes) -> bytes:
    """Return the WebSocket text frame of ``payload``, as a server sends it."""
    return _header(len(payload)) + payload


class _Group(Generic[T]):
    """Clients that want the same; ``sent``: bytes given to each of them so far."""

    __slots__ = ("clients", "matches", "sent", "wants")

    def __init__(self, wants: Wants[T]) -> None:
        self.wants = wants
        self.clients: dict[Client[T], None] = {}
        self.matches = _Matches(wants)
        self.sent = 0


class _Matches(dict[T, bool], Generic[T]):
    """Topic -> whether it passes; learned once a topic."""

    def __init__(self, wants: Wants[T]) -> None:
        self._wants = wants

    def __missing__(self, topic: T) -> bool:
        passes = self[topic] = self._wants.passes(topic)
        return passes


class Client(Generic[T]):
    """One connection and what is known of its reading. Times are of the monotonic clock, in seconds."""

    __slots__ = (
        "base",
        "connection",
        "deadline",
        "drained",
        "group",
        "limit",
        "progress_at",
        "protocol",
        "transport",
        "wants",
    )

    def __init__(self, connection: ServerConnection, wants: Wants[T], limit: int) -> None:
        self.connection = connection
        self.protocol = connection.protocol
        self.transport = connection.transport
        self.wants = wants
        self.group: _Group[T] | None = None
        self.base = 0  # group.sent - base: bytes given to this client
        self.limit = limit
        self.drained = 0
        self.progress_at = time.monotonic()
        self.deadline: float | None = None  # of a doomed client

    def unread(self) -> int:
        """Return the bytes that the kernel has not taken yet."""
        return self.transport.get_write_buffer_size()


class Hub(Generic[T]):
    """All clients of one dialect."""

    def __init__(
        self,
        dialect: str,
        metrics: Metrics,
        everything: Wants[T],
        greet: Callable[[Wants[T]], Iterable[bytes]],
        *,
        slow_bytes: int,
        deadline_s: float,
    ) -> None:
        """Make an empty hub.

        Args:
            dialect: Its name in the metrics.
            metrics: What it counts with.
            everything: The filter that passes every topic.
            greet: The frames that a newcomer of this filter gets before the next batch.
            slow_bytes: Unread bytes above which a client is closed.
            deadline_s: How long a client may take nothing before it is aborted.
        """
        self.dialect = dialect
        self._metrics = metrics
        self._everything = everything
        self._greet = greet
        self._slow_bytes = slow_bytes
        self._deadline_s = deadline_s
        self._groups: dict[Wants[T], _Group[T]] = {}
        self._waiting: dict[Client[T], None] = {}
        self._doomed: dict[Client[T], None] = {}
        self._admit_at = 0.0
        self._admitting = False
        self.version = 0  # changes when ``wants`` may have changed

    def __len__(self) -> int:
        served = sum(len(group.clients) for group in self._groups.values())
        return served + len(self._waiting) + len(self._doomed)

    def wants(self) -> Iterable[Wants[T]]:
        """Return the filters that somebody has now, newcomers included."""
        return {*self._groups, *(client.wants for client in self._waiting)}

    # -- the hot path

    def send(self, topics: Sequence[T], frames: Sequence[bytes]) -> None:
        """Give a batch to everybody who wants it, in one write each.

        The event loop has to run between batches: a transport flushes at the end of an iteration.

        Args:
            topics: What each frame is about.
            frames: Whole WebSocket frames, see ``frame``.
        """
        slow: list[Client[T]] = []
        written = 0
        for group in self._groups.values():
            if group.wants == self._everything:
                picked = frames
            else:
                matches = group.matches
                picked = [framed for topic, framed in zip(topics, frames, strict=True) if matches[topic]]
            if not picked:
                continue
            data = b"".join(picked)
            for client in group.clients:
                transport = client.transport
                if transport.get_write_buffer_size() > client.limit:
                    slow.append(client)
                elif client.protocol.state is OPEN:
                    transport.write(data)
            group.sent += len(data)
            written += len(picked) * len(group.clients)
        if written:
            self._metrics.count("tapeline_client_frames_total", written, dialect=self.dialect)
        for client in slow:
            self._doom(client)

    # -- coming and going

    def join(self, connection: ServerConnection, wants: Wants[T], welcome: bytes) -> Client[T]:
        """Take a new connection in: its welcome now, then the newcomer's messages, then every batch."""
        client = Client(connection, wants, self._slow_bytes)
        client.transport.write(frame(welcome))
        self._waiting[client] = None
        self.version += 1
        self._admit_soon()
        self._count()
        return client

    def leave(self, client: Client[T]) -> None:
        """Forget a connection that has ended; harmless when it is forgotten already."""
        self._withdraw(client)
        self._doomed.pop(client, None)
        self._count()

    def _count(self) -> None:
        self._metrics.gauge("tapeline_clients", len(self), dialect=self.dialect)

    def _withdraw(self, client: Client[T]) -> None:
        self.version += 1
        self._waiting.pop(client, None)
        group, client.group = client.group, None
        if group is not None:
            del group.clients[client]
            if not group.clients:
                del self._groups[group.wants]

    def _admit_soon(self) -> None:
        if self._waiting and not self._admitting:
            self._admitting = True
            loop = next(iter(self._waiting)).connection.loop
            loop.call_later(max(0.0, self._admit_at - time.monotonic()), self._admit)

    def _admit(self) -> None:
        self._admitting = False
        started = time.monotonic()
        for client in list(self._waiting)[:_ADMIT_MOST]:
            del self._waiting[client]
            self._serve(client)
        now = time.monotonic()
        self._admit_at = now + (now - started) * (1 / _ADMIT_SHARE - 1)
        self._admit_soon()

    def _serve(self, client: Client[T]) -> None:
        group = self._groups.get(client.wants)
        if group is None:
            group = self._groups[client.wants] = _Group(client.wants)
        size = 0
        if client.protocol.state is OPEN:
            for framed in self._greet(client.wants):
                client.transport.write(framed)  # shared bytes: a crowd of newcomers holds one copy
                size += len(framed)
        client.limit += size  # books may be large; the allowance goes as they are read, see sweep
        client.base = group.sent - size
        client.group = group
        group.clients[client] = None

    # -- those who do not read

    def close(self, client: Client[T], code: CloseCode, reason: str, label: str) -> None:
        """Close a client for what it did; ``label`` is the reason in the metrics."""
        self._withdraw(client)
        self._metrics.count("tapeline_clients_refused_total", reason=label)
        if client.protocol.state is OPEN:
            client.protocol.send_close(code, reason)
            client.connection.send_data()
        client.deadline = time.monotonic() + self._deadline_s
        self._doomed[client] = None

    def _doom(self, client: Client[T]) -> None:
        unread = client.unread()
        log.warning("slow_client_closed", dialect=self.dialect, unread_bytes=unread)
        self.close(
            client,
            CloseCode.TRY_AGAIN_LATER,
            f"too slow: {unread} bytes unread, the limit is {client.limit}",
            "slow",
        )

    def sweep(self, now: float) -> int:
        """Close and abort those whose time is up; return the unread bytes of all. ``now``: monotonic, s."""
        unread = 0
        for client in [*self._doomed]:
            unread += client.unread()
            if client.deadline is not None and now >= client.deadline:
                self._doomed.pop(client)
                client.transport.abort()
        served = [client for group in self._groups.values() for client in group.clients]
        for client in (*self._waiting, *served):
            size = client.unread()
            unread += size
            if client.protocol.state is not OPEN:
                self._withdraw(client)  # it or the library has said goodbye: the other side has to hear it
                client.deadline = now + self._deadline_s
                self._doomed[client] = None
            elif size > client.limit:
                self._doom(client)
            elif self._stalled(client, size, now):
                log.warning("client_aborted", dialect=self.dialect, unread_bytes=size)
                self._metrics.count("tapeline_clients_refused_total", reason="stalled")
                self._withdraw(client)
                client.transport.abort()
            else:
                client.limit = max(self._slow_bytes, min(client.limit, size + self._slow_bytes))
        return unread

    def _stalled(self, client: Client[T], size: int, now: float) -> bool:
        given = client.group.sent - client.base if client.group is not None else 0
        drained = given - size  # pongs are not in ``given``: they make this less, never more
        if size == 0 or drained > client.drained:
            client.drained = max(client.drained, drained)
            client.progress_at = now
        return now - client.progress_at > self._deadline_s

    async def watch(self) -> None:
        """Sweep until cancelled."""
        while True:
            await anyio.sleep(_SWEEP_S)
            unread = self.sweep(time.monotonic())
            self._metrics.gauge("tapeline_client_buffer_bytes", unread)
