"""The WebSocket clients of a dialect in which a connection has one filter, and who of them gets what.

A batch is framed once and written straight to every client's transport: no task and no queue while
the socket keeps up (see ``peers``). A client is first waiting, with its welcome; it is served when its
newcomer's messages are written: from then on it gets every batch that passes its filter. Above its
limit of unread bytes it is closed. Clients with the same filter form a group, so a filter costs once a
batch, not once a client.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode
from websockets.protocol import OPEN

from actors.broadcaster.peers import Peer, Peers, Turnstile, frame
from actors.runtime.metrics import Metrics

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


class _Group(Generic[T]):
    """Clients that want the same."""

    __slots__ = ("clients", "matches", "wants")

    def __init__(self, wants: Wants[T]) -> None:
        self.wants = wants
        self.clients: dict[Client[T], None] = {}
        self.matches = _Matches(wants)


class _Matches(dict[T, bool], Generic[T]):
    """Topic -> whether it passes; learned once a topic."""

    def __init__(self, wants: Wants[T]) -> None:
        self._wants = wants

    def __missing__(self, topic: T) -> bool:
        passes = self[topic] = self._wants.passes(topic)
        return passes


class Client(Peer, Generic[T]):
    """One connection and its filter; ``group``: once it is served."""

    __slots__ = ("group", "wants")

    def __init__(self, connection: ServerConnection, wants: Wants[T], limit: int) -> None:
        super().__init__(connection, limit)
        self.wants = wants
        self.group: _Group[T] | None = None


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
        self.peers: Peers[Client[T]] = Peers(
            dialect, metrics, slow_bytes=slow_bytes, deadline_s=deadline_s,
            slow=self._too_slow, gone=self._withdraw,
        )  # fmt: skip
        self._metrics = metrics
        self._everything = everything
        self._greet = greet
        self._groups: dict[Wants[T], _Group[T]] = {}
        self._waiting: Turnstile[Client[T]] = Turnstile(self._serve)
        self.version = 0  # changes when ``wants`` may have changed

    def __len__(self) -> int:
        return len(self.peers)

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
            size = len(data)
            for client in group.clients:  # Peer.slow and Peer.write, not called in the hottest loop
                transport = client.transport
                if transport.get_write_buffer_size() > client.limit:
                    slow.append(client)
                elif client.protocol.state is OPEN:
                    transport.write(data)
                    client.given += size
            written += len(picked) * len(group.clients)
        if written:
            self._metrics.count("tapeline_client_frames_total", written, dialect=self.peers.dialect)
        for client in slow:
            self.peers.close_slow(client)

    # -- coming and going

    def join(self, connection: ServerConnection, wants: Wants[T], welcome: bytes) -> Client[T]:
        """Take a new connection in: its welcome now, then the newcomer's messages, then every batch."""
        client = Client(connection, wants, self.peers.slow_bytes)
        client.write(frame(welcome))
        self.peers.add(client)
        self._waiting.add(client)
        self.version += 1
        return client

    def leave(self, client: Client[T]) -> None:
        """Forget a connection that has ended; harmless when it is forgotten already."""
        self.peers.leave(client)

    def close(self, client: Client[T], code: CloseCode, reason: str, label: str) -> None:
        """Close a client for what it did; ``label`` is the reason in the metrics."""
        self.peers.close(client, code, reason, label)

    def _too_slow(self, client: Client[T]) -> None:
        self.peers.close_slow(client)

    def _withdraw(self, client: Client[T]) -> None:
        self.version += 1
        self._waiting.remove(client)
        group, client.group = client.group, None
        if group is not None:
            del group.clients[client]
            if not group.clients:
                del self._groups[group.wants]

    def _serve(self, client: Client[T]) -> None:
        group = self._groups.get(client.wants)
        if group is None:
            group = self._groups[client.wants] = _Group(client.wants)
        for framed in self._greet(client.wants):
            client.write(framed)  # shared bytes: a crowd of newcomers holds one copy
            client.allow(len(framed))
        client.group = group
        group.clients[client] = None
