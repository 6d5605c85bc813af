"""The hot connection: commands in one write, replies in order, on an asyncio protocol and hiredis.

redis-py is the client for everything else; append, read and commit cost it five times as much.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import hiredis
from redis import exceptions

Command = tuple[str | bytes | int | float, ...]
_INCOMPLETE: Final = object()
# hiredis' own stub takes a tuple of one element only.
_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

_CODES: Final[dict[str, type[exceptions.RedisError]]] = {
    "NOSCRIPT": exceptions.NoScriptError,
    "OOM": exceptions.OutOfMemoryError,
    "READONLY": exceptions.ReadOnlyError,
    "LOADING": exceptions.BusyLoadingError,
    "WRONGPASS": exceptions.AuthenticationError,
    "NOAUTH": exceptions.AuthenticationError,
    "NOPERM": exceptions.NoPermissionError,
    "CLUSTERDOWN": exceptions.ClusterDownError,
    "MASTERDOWN": exceptions.MasterDownError,
    "TRYAGAIN": exceptions.TryAgainError,
    "MOVED": exceptions.MovedError,
    "ASK": exceptions.AskError,
}


def _error(text: str) -> Exception:
    code, _, rest = text.partition(" ")
    match code:
        case "MOVED" | "ASK":
            return _CODES[code](rest)  # redis-py reads slot, host and port out of it
        case "ERR" if " -READONLY " in rest:  # 6.2, of a script
            return exceptions.ReadOnlyError(text)
        case _:
            return _CODES.get(code, exceptions.ResponseError)(text)


class Reply:
    """One answer to come. Awaitable once; a server error is raised there."""

    __slots__ = ("_future", "deadline")

    def __init__(self, future: asyncio.Future[Any], deadline: float) -> None:
        self._future = future
        self.deadline = deadline

    def __await__(self) -> Any:
        value = yield from self._future
        if isinstance(value, Exception):
            raise value
        return value

    @property
    def done(self) -> bool:
        """Whether it is there, or given up."""
        return self._future.done()

    def settle(self, value: object) -> None:
        """Give the answer, unless it was given up."""
        if not self._future.done():
            self._future.set_result(value)

    def give_up(self) -> None:
        """Stop waiting: whoever awaits it gets None now, the real answer is thrown away."""
        self.settle(None)


class Wire(asyncio.Protocol):
    """One TCP or unix connection: a parser and the answers that are due, in order."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(
            protocolError=exceptions.InvalidResponse, replyError=_error, notEnoughData=_INCOMPLETE
        )
        self._due: deque[Reply] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._suspect: Reply | None = None
        self._transport: asyncio.WriteTransport | None = None
        self.closed = self._loop.create_future()
        self.lost: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass of it
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        reader, due = self._reader, self._due
        reader.feed(data)
        try:
            while (value := reader.gets()) is not _INCOMPLETE:
                due.popleft().settle(value)
        except (exceptions.InvalidResponse, IndexError) as e:
            self.drop(exceptions.ConnectionError(f"not a Redis that answers: {e}"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._fail(exceptions.ConnectionError(f"connection to Redis lost: {exc or 'closed by the server'}"))
        if not self.closed.done():
            self.closed.set_result(None)

    def drop(self, why: Exception) -> None:
        """Close at once and fail what is due: an answer that comes late must not meet the next question."""
        self._fail(why)
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, why: Exception) -> None:
        self.lost = self.lost or why
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._due:
            self._due.popleft().settle(self.lost)

    def send(self, commands: Sequence[Command], timeout_s: float) -> list[Reply]:
        """Write ``commands`` at once; each answer may take ``timeout_s``."""
        if self.lost is not None or self._transport is None:
            raise self.lost or exceptions.ConnectionError("not connected to Redis")
        loop = self._loop
        deadline = loop.time() + timeout_s
        replies = [Reply(loop.create_future(), deadline) for _ in commands]
        self._due.extend(replies)
        packed = [_pack(command) for command in commands]
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._overdue)
        return replies

    def _overdue(self) -> None:
        # One timer a connection that looks at the oldest question: a timer a command would cost more.
        self._timer = None
        if not self._due:
            return
        oldest, now = self._due[0], self._loop.time()
        if oldest.deadline > now:
            self._timer = self._loop.call_at(oldest.deadline, self._overdue)
        elif oldest is not self._suspect:
            # This process may have been stopped or busy: let the loop read its sockets before judging.
            self._suspect = oldest
            self._timer = self._loop.call_at(now + 0.1, self._overdue)
        else:
            self.drop(exceptions.TimeoutError("no answer from Redis in time"))


class Hot:
    """A connection to the node that owns a partition; can be dialled again after it broke.

    Attributes:
        timeout_s: What an answer may take; a blocking read adds its own time.
        dialled: How often it has been dialled: another number, perhaps another server.
    """

    def __init__(self, dial: Callable[[], Awaitable[Wire]], timeout_s: float = 2.0) -> None:
        self._dial = dial
        self._wire: Wire | None = None
        self.timeout_s = timeout_s
        self.dialled = 0

    @property
    def lost(self) -> bool:
        """Whether it must be dialled again."""
        return self._wire is None or self._wire.lost is not None

    async def reconnect(self) -> None:
        """Dial again, to whichever node is the right one now. Raises what dialling raises."""
        if self._wire is not None:
            self._wire.drop(exceptions.ConnectionError("dialled again"))
            self._wire = None
        wire = await self._dial()
        if not self.lost:  # another task was faster: of two connections nobody would close the first
            wire.drop(exceptions.ConnectionError("dialled twice"))
            return
        self._wire = wire
        self.dialled += 1

    def send(self, commands: Sequence[Command], block_s: float = 0.0) -> list[Reply]:
        """Write ``commands`` at once; return their answers to come.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: The connection is lost.
        """
        if self._wire is None:
            raise exceptions.ConnectionError("not connected to Redis")
        return self._wire.send(commands, self.timeout_s + block_s)

    async def call(self, *args: str | bytes | float, block_s: float = 0.0) -> Any:
        """Send one command and return its answer (RESP2 shapes).

        Raises:
            redis.exceptions.RedisError: The server's error, or the connection is lost.
        """
        return await self.send((args,), block_s)[0]

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send ``commands`` in one write and return their answers; the first error is raised at the end."""
        answers: list[Any] = []
        failed: exceptions.RedisError | None = None
        for reply in self.send(commands):
            try:
                answers.append(await reply)
            except exceptions.RedisError as e:
                failed = failed or e
        if failed is not None:
            raise failed
        return answers

    async def aclose(self) -> None:
        """Close the connection; harmless when it is closed."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.drop(exceptions.ConnectionError("closed"))
            await wire.closed
