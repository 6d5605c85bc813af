"""The sockets to the master: each logs in, is used by some lanes, breaks and comes back by itself.

States of a socket::

    waiting      until its back-off is over; begins anew at 0.5 s once the master has shown that it listens
    connecting   handshake, login; with version 2 until the welcome, with version 1 until a refusal would
                 have come
    ready        lanes may use it

Version 2 listens to acknowledgements. Version 1's master says nothing, so what has arrived is learnt from
WebSocket pings: whoever answers one has received all frames before it. What is behind the last answer
when the socket breaks is counted: at most so many messages are lost.
"""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Final, Protocol

import anyio
import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidProxy, InvalidStatus, WebSocketException
from websockets.frames import CloseCode

from actors.config.judge import is_loopback
from actors.dialects import ftsobest
from actors.runtime.backoff import backoff
from actors.runtime.metrics import Metrics
from actors.streams.keys import Cursor

log: Any = structlog.get_logger()

_OPEN_S: Final = 10.0  # chosen: a connection is had within 10 s or not at all
_WELCOME_S: Final = 10.0
_PING_S: Final = 20.0  # a dead peer is noticed within twice this
_REFUSAL_S: Final = 0.25  # chosen: who refuses a key closes within so long of answering a ping
_PROOF_S: Final = 1.0  # chosen: how often version 1 asks whether what it said has arrived
_MOST_FRAME: Final = 4 * 1024 * 1024  # a welcome names every stream
_ID: Final = 2**63  # what a cursor's parts stay below

_STATES: Final[tuple[str, ...]] = ("connecting", "ready", "waiting")

_NO_PROXY: Final = "the proxy of the environment (HTTPS_PROXY) cannot be used"

Key = tuple[str, str]  # partition, stream


async def _dial(url: str) -> ClientConnection:
    """Return an open socket.

    Raises:
        OSError, WebSocketException, TimeoutError: It was not had.
    """
    options: dict[str, Any] = {"proxy": None} if is_loopback(url) else {}
    try:
        return await connect(
            url,
            compression=None,
            max_size=_MOST_FRAME,
            open_timeout=_OPEN_S,
            ping_interval=_PING_S,
            ping_timeout=_PING_S,
            close_timeout=0.5,
            user_agent_header="tapeline",
            **options,
        )
    except InvalidProxy as e:  # its own text may hold a password
        raise ConnectionError(f"{_NO_PROXY}: {e.msg}") from e
    except ImportError as e:
        raise ConnectionError(f"{_NO_PROXY}: SOCKS is not spoken") from e
    except ValueError as e:
        raise ConnectionError(f"{_NO_PROXY}: {e}") from e


class Lost(Exception):
    """The socket broke; what was sent on it may or may not have arrived."""


class Lane(Protocol):
    """Who uses a socket: one stream."""

    @property
    def key(self) -> Key:
        """Partition and stream."""
        ...

    def acked(self, last: Cursor) -> None:
        """Learn that the master holds the stream up to ``last``."""
        ...

    def proved(self, last: Cursor) -> None:
        """Learn that what was sent up to ``last`` has arrived, or was counted as lost."""
        ...

    def wake(self) -> None:
        """Look again: the socket has changed."""
        ...


class Link(Protocol):
    """A way to the master, in use by a lane."""

    @property
    def up(self) -> bool:
        """Whether it still is one."""
        ...

    @property
    def crowded(self) -> bool:
        """Whether a lane of it had better use another, as soon as nothing of it is on its way."""
        ...

    def owes(self, lane: Lane) -> bool:
        """Tell whether something that a lane has sent is not known to have arrived (version 1)."""
        ...

    def cursor(self, key: Key) -> Cursor | None:
        """Return what the master said at the login that it holds of a stream."""
        ...

    async def send(self, text: str, messages: int) -> None:
        """Send a frame that carries ``messages``.

        Raises:
            Lost: It may or may not have arrived.
        """
        ...

    def sent(self, lane: Lane, last: Cursor) -> None:
        """Note that everything of a lane up to ``last`` has been sent (version 1)."""
        ...

    def drop(self, reason: str) -> None:
        """Give it up: the master does not do what it should."""
        ...


class Way(Protocol):
    """Where lanes get their links."""

    def use(self, lane: Lane) -> AbstractAsyncContextManager[Link]:
        """Wait for a link and use it for the length of a block."""
        ...


class Socket:
    """One place of the pool. See the module's states."""

    def __init__(self, pool: "Pool") -> None:
        self.up = False
        self.lanes: dict[Key, Lane] = {}
        self._pool = pool
        self._socket: ClientConnection | None = None
        self._cursors: dict[Key, Cursor] = {}
        self._unproved: list[tuple[Lane, Cursor]] = []
        self._messages = 0  # sent and not proved
        self._proved = False  # the master has shown that it listens
        self._why: str | None = None
        self._misses = 0  # attempts in a row that found nobody

    # -- what lanes do

    def cursor(self, key: Key) -> Cursor | None:
        """Return what the master said at the login that it holds of a stream."""
        return self._cursors.get(key)

    async def send(self, text: str, messages: int) -> None:
        """Send a frame that carries ``messages``.

        Raises:
            Lost: It may or may not have arrived.
        """
        socket = self._socket
        if socket is None or not self.up:
            raise Lost
        self._messages += messages
        try:
            await socket.send(text)
        except ConnectionClosed as e:
            self.up = False  # whoever listens has not run yet
            raise Lost from e

    @property
    def crowded(self) -> bool:
        """Whether another socket has at least two lanes fewer: they come back one by one."""
        most = len(self.lanes) - 2
        return most >= 0 and any(socket.up and len(socket.lanes) <= most for socket in self._pool.sockets)

    def owes(self, lane: Lane) -> bool:
        """Tell whether something that a lane has sent is not known to have arrived."""
        return any(of is lane for of, _ in self._unproved)

    def sent(self, lane: Lane, last: Cursor) -> None:
        """Note that everything of a lane up to ``last`` has been sent."""
        self._unproved.append((lane, last))

    def drop(self, reason: str) -> None:
        """Give it up."""
        self._why, self.up = reason, False
        if self._socket is not None:
            self._socket.transport.abort()

    # -- its life

    async def run(self) -> None:
        """Come back for ever."""
        delays = backoff()
        while True:
            with self._pool.counted("connecting"):
                await self._live()
            if self._proved:
                delays = backoff()
            with self._pool.counted("waiting"):
                await anyio.sleep(next(delays))

    async def close(self) -> None:
        """Say goodbye."""
        if self._socket is not None:
            await self._socket.close(CloseCode.GOING_AWAY, "the forwarder stops")

    async def _live(self) -> None:
        """Live once."""
        pool = self._pool
        self._why, self._proved = None, False
        try:
            async with await _dial(pool.url) as socket:
                self._socket = socket
                await socket.send(pool.login)
                if pool.acked:
                    await self._await_welcome(socket)
                await socket.send(ftsobest.PING)
                if not pool.acked:
                    await self._await_silence(socket)
                with pool.counted("connecting", -1), pool.counted("ready"):
                    await self._serve(socket)
        except _Refused as e:
            self._gone("refused", e.reason)
        except ConnectionClosed as e:
            self._gone("closed", _closing(e))
        except InvalidStatus as e:
            self._gone("http", f"HTTP {e.response.status_code}")
        except TimeoutError:
            self._gone("timeout", f"no answer within {_OPEN_S:g} s")
        except OSError as e:
            self._gone("unreachable", e.strerror or str(e) or type(e).__name__)
        except WebSocketException as e:
            self._gone("handshake", str(e))
        finally:
            self._socket = None
            self._settle()

    def _gone(self, label: str, reason: str) -> None:
        if self._why is not None:
            label, reason = "dropped", self._why
        self._pool.metrics.count("tapeline_forward_reconnects_total", reason=label)
        self._misses += label == "unreachable"
        is_stopping = reason.startswith(f"{CloseCode.GOING_AWAY.value}:")  # it says so, and is tried again
        is_first = label == "unreachable" and self._misses == 1  # it may be about to start, as we are
        said = log.info if is_stopping or is_first else log.warning
        said("master_lost", reason=label, why=reason)

    def _settle(self) -> None:
        """Count what is not known to have arrived, and let the lanes go on elsewhere."""
        if self._messages and not self._pool.acked:
            self._pool.metrics.count("tapeline_forward_lost_total", self._messages, reason="socket")
            log.warning("perhaps_lost", messages=self._messages)
        for lane, last in self._unproved:
            lane.proved(last)
        self._messages, self._unproved = 0, []
        for lane in [*self.lanes.values()]:
            lane.wake()

    async def _await_welcome(self, socket: ClientConnection) -> None:
        with anyio.fail_after(_WELCOME_S):
            said = _heard(await socket.recv())
        match said:
            case ftsobest.Welcome(cursors=cursors):
                self._cursors = {_key(name): _cursor(text) for name, text in cursors.items()}
                self._proved = True
            case ftsobest.Refused(reason=reason):
                raise _Refused(reason)
            case _:
                raise _Refused('its first answer is no welcome: does it speak protocol = "acked"?')

    async def _await_silence(self, socket: ClientConnection) -> None:
        """Version 1: wait until the login must have been read, so that nothing is given to who refuses it.

        Raises:
            ConnectionClosed, TimeoutError: It is refused, or nobody is there.
        """
        with anyio.fail_after(_WELCOME_S):
            await (await socket.ping())
        with anyio.move_on_after(_REFUSAL_S):
            while True:
                await socket.recv()

    async def _serve(self, socket: ClientConnection) -> None:
        """Speak and listen until it breaks.

        Raises:
            ConnectionClosed, _Refused: It broke.
        """
        broken: ConnectionClosed | _Refused | None = None
        async with anyio.create_task_group() as tg:
            tg.start_soon(_ping, socket)
            if not self._pool.acked:
                tg.start_soon(self._prove, socket)
            self.up = True
            self._misses = 0
            self._pool.wake()
            log.info("master_ready", url=self._pool.url)
            try:
                while True:
                    answer = self._hear(await socket.recv())
                    if answer is not None:
                        await socket.send(answer)
            except (ConnectionClosed, _Refused) as e:
                broken = e
            finally:
                self.up = False
            tg.cancel_scope.cancel()
        if broken is not None:
            raise broken

    def _hear(self, text: str | bytes) -> str | None:
        """Take what the master says; return what to answer."""
        if not self._pool.acked:
            return None  # the predecessor listened to nothing
        match _heard(text):
            case ftsobest.Ack(partition=partition, stream=stream, last=last):
                at, lane = _cursor(last), self.lanes.get((partition, stream))
                if lane is not None:
                    lane.acked(at)
            case ftsobest.Ping():
                return ftsobest.PONG
            case ftsobest.Refused(reason=reason):
                raise _Refused(reason)
            case _:
                pass
        return None

    async def _prove(self, socket: ClientConnection) -> None:
        """Version 1: learn what has arrived."""
        while True:
            messages, unproved = self._messages, len(self._unproved)
            try:
                await (await socket.ping())
            except ConnectionClosed:
                return  # whoever listens finds the same
            self._proved = True
            self._messages -= messages
            done, self._unproved = self._unproved[:unproved], self._unproved[unproved:]
            for lane, last in done:
                lane.proved(last)
            await anyio.sleep(_PROOF_S)


class _Refused(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _heard(text: str | bytes) -> ftsobest.FromMaster:
    try:
        return ftsobest.from_master(text)
    except (msgspec.MsgspecError, RecursionError) as e:
        raise _Refused(f"it says what is not of this protocol: {e}") from e


def _cursor(text: str) -> Cursor:
    """Return a cursor that the master names: Redis is asked for what follows it."""
    try:
        cursor = Cursor.parse(text)
    except ValueError as e:
        raise _Refused(f"it names a cursor that is none: {text[:64]!r}") from e
    if min(cursor) < 0 or max(cursor) >= _ID:
        raise _Refused(f"it names a cursor that cannot be: {text[:64]!r}")
    return cursor


def _key(name: str) -> Key:
    partition, _, stream = name.rpartition("/")
    return partition, stream


def _closing(e: ConnectionClosed) -> str:
    received = e.rcvd
    return f"{received.code}: {received.reason}" if received is not None else "closed without a word"


async def _ping(socket: ClientConnection) -> None:
    try:
        while True:
            await anyio.sleep(ftsobest.PING_S)
            await socket.send(ftsobest.PING)
    except ConnectionClosed:
        return  # whoever listens finds the same


class Pool:
    """All sockets of this instance."""

    def __init__(self, url: str, login: str, metrics: Metrics, *, connections: int, acked: bool) -> None:
        self.url = url
        self.login = login  # holds the key: never shown
        self.metrics = metrics
        self.acked = acked
        self.sockets = [Socket(self) for _ in range(connections)]
        self._states: dict[str, int] = dict.fromkeys(_STATES, 0)
        self._changed = anyio.Event()
        for state in _STATES:
            metrics.gauge("tapeline_forward_connections", 0, state=state)

    async def run(self) -> None:
        """Keep all of them until cancelled."""
        async with anyio.create_task_group() as tg:
            for socket in self.sockets:
                tg.start_soon(socket.run)

    async def close(self) -> None:
        """Say goodbye on all of them."""
        async with anyio.create_task_group() as tg:
            for socket in self.sockets:
                tg.start_soon(socket.close)

    @contextmanager
    def counted(self, state: str, n: int = 1) -> Generator[None]:
        """Count a socket that is in a state (-1: that is not, for once) during the block."""
        self._count(state, n)
        try:
            yield
        finally:
            self._count(state, -n)

    def _count(self, state: str, change: int) -> None:
        self._states[state] += change
        self.metrics.gauge("tapeline_forward_connections", self._states[state], state=state)

    def wake(self) -> None:
        """Let whoever waits for a socket, or had better use another, look again."""
        self._changed.set()
        self._changed = anyio.Event()
        for socket in self.sockets:
            for lane in socket.lanes.values():
                lane.wake()

    @property
    def ready(self) -> int:
        """How many sockets may be used now."""
        return self._states["ready"]

    @asynccontextmanager
    async def use(self, lane: Lane) -> AsyncGenerator[Link]:
        """Wait for a ready socket, and use the one with the fewest lanes for the length of a block."""
        while not (ready := [socket for socket in self.sockets if socket.up]):
            await self._changed.wait()
        socket = min(ready, key=lambda each: len(each.lanes))
        socket.lanes[lane.key] = lane
        try:
            yield socket
        finally:
            del socket.lanes[lane.key]


class Printer:
    """Demo: no socket at all; every message is printed, and with that it has arrived."""

    up = True
    crowded = False

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._lines: list[str] = []

    @asynccontextmanager
    async def use(self, lane: Lane) -> AsyncGenerator[Link]:  # noqa: ARG002 - as any way
        """Use it for the length of a block."""
        yield self

    def cursor(self, key: Key) -> Cursor | None:  # noqa: ARG002 - as any link
        """Return None: nobody holds anything."""
        return None

    async def send(self, text: str, messages: int) -> None:  # noqa: ARG002 - as any link
        """Print a message with the next that end a run."""
        self._lines.append(ftsobest.demo_line(text))

    def owes(self, lane: Lane) -> bool:  # noqa: ARG002 - as any link
        """Return False: what is printed has arrived."""
        return False

    def sent(self, lane: Lane, last: Cursor) -> None:
        """Print what was said since."""
        if self._lines:
            self._write("\n".join(self._lines) + "\n")
            self._lines.clear()
        lane.proved(last)

    def drop(self, reason: str) -> None:
        """Do nothing: there is nothing to give up."""
