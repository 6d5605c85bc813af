"""One WebSocket to a venue: frames handed over as they are parsed, without a queue or a task of ours.

``websockets`` calls ``process_event`` for each frame of what it read. Taking them there costs 3.3 us a
frame of 180 bytes, the line for ``raw`` included, against 4.8 through ``recv(decode=False)`` (best of 3,
40,000 frames in one burst), and no task switch at market rates. All that knows the library is here.
"""

from functools import partial
from ssl import SSLError
from typing import Any, Final, Protocol, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.datastructures import MultipleValuesError
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidStatus,
    WebSocketException,
)
from websockets.frames import Opcode
from websockets.protocol import Event, State

from actors.config.judge import is_loopback
from actors.connector.rest import USER_AGENT, Reply, retry_after
from actors.model.errors import Unparseable
from actors.venues.base import Handshake

OPEN_S: Final = 10.0  # DESIGN: a connection is had within 10 s or not at all
PING_S: Final = 20.0  # documented as safe (Binance counts our pings among 5 messages a second)
CLOSE_S: Final = 1.0  # chosen: what a closing handshake may take; SIGTERM leaves 2.5 s in all
_TEXT: Final = Opcode.TEXT
_DATA: Final = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})


class Handler(Protocol):
    """What happens on a socket, told in order, synchronously."""

    def opened(self) -> None:
        """The handshake is done."""
        ...

    def frame(self, data: bytes | bytearray, text: bool) -> None:
        """A whole frame came in."""
        ...

    def closed(self, code: int, reason: str, by_us: bool) -> None:
        """It is over; said once, and only after ``opened``."""
        ...


class Refused(Exception):
    """A connection was not had.

    Attributes:
        status: HTTP status of the answer, or None.
        retry_after_s: What the venue asks to wait, or None.
        cause: A word of a closed set, for metrics.
        reached: Somebody took the connection, so that the venue may have counted the attempt.
    """

    def __init__(
        self,
        cause: str,
        reason: str,
        status: int | None = None,
        retry_after_s: float | None = None,
        *,
        reached: bool = True,
    ) -> None:
        super().__init__(reason)
        self.cause = cause
        self.status = status
        self.retry_after_s = retry_after_s
        self.reached = reached


class Socket(ClientConnection):
    """A connection that gives its frames to a handler."""

    def __init__(self, handler: Handler, protocol: ClientProtocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self._handler = handler
        self._frame = handler.frame
        self._parts: list[bytes | bytearray] = []  # of a message in several frames
        self._is_text = True
        self._closing = False
        self._was_open = False

    def process_event(self, event: Event) -> None:
        """Take one frame, or what the handshake answered."""
        if not self._was_open:
            super().process_event(event)
            if self.protocol.state is State.OPEN:
                self._was_open = True
                self._handler.opened()
            return
        frame: Any = event
        opcode = frame.opcode
        if opcode is _TEXT and frame.fin:
            self._frame(frame.data, True)
        elif opcode in _DATA:
            self._data(frame, opcode)
        else:
            super().process_event(event)

    def _data(self, frame: Any, opcode: Opcode) -> None:
        if frame.fin and opcode is Opcode.BINARY:
            self._frame(frame.data, False)
            return
        if opcode is not Opcode.CONT:
            self._is_text = opcode is _TEXT
        self._parts.append(frame.data)
        if frame.fin:
            whole = b"".join(self._parts)
            self._parts.clear()
            self._frame(whole, self._is_text)

    def data_received(self, data: bytes) -> None:
        """Parse what came; see to it that a connection which failed also ends."""
        super().data_received(data)
        if self.protocol.state is State.CLOSING:
            self._end_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell why it ended."""
        super().connection_lost(exc)
        if self._was_open:
            self._handler.closed(*self._why())

    def write(self, text: str) -> bool:
        """Send a text frame at once; False if the connection is closing."""
        if self.protocol.state is not State.OPEN:
            return False
        self.protocol.send_text(text.encode())
        self.send_data()
        return True

    def leave(self, code: int, reason: str) -> None:
        """Close without waiting: the closing handshake gets ``CLOSE_S``."""
        if self.protocol.state is State.OPEN:
            self.protocol.send_close(code, reason)
            self.send_data()
        self._end_soon()

    def _end_soon(self) -> None:
        if not self._closing:
            self._closing = True
            # Whoever answers a close by sending on would otherwise be read for ever.
            self.loop.call_later(CLOSE_S, self.transport.abort)

    def _why(self) -> tuple[int, str, bool]:
        sent, received = self.protocol.close_sent, self.protocol.close_rcvd
        if sent is not None and not (received is not None and self.protocol.close_rcvd_then_sent):
            return int(sent.code), sent.reason, True
        if received is not None:
            return int(received.code), received.reason, False
        cause = self.connection_exc or "closed without a closing handshake"
        return 1006, str(cause) or type(cause).__name__, False


def address(handshake: Handshake, planned: str, reply: Reply, unique: str) -> str:
    """Return the URL to dial, as the venue's answer has it.

    Raises:
        Refused: The answer is none. Whoever asked has minded how long to wait.
    """
    if reply.status != 200:
        status = f"HTTP {reply.status}: " if reply.status else ""
        raise Refused("handshake", f"before dialing: {status}{reply.text[:200]}")
    try:
        return handshake.url(planned, reply.body, unique)
    except Unparseable as e:
        raise Refused("handshake", f"before dialing: {e}") from e


async def dial(url: str, handler: Handler, max_bytes: int) -> Socket:
    """Return an open connection; ``handler`` may have been given frames by then.

    Raises:
        Refused: It was not had.
    """
    make = cast("type[ClientConnection]", partial(Socket, handler))
    options: dict[str, Any] = {"proxy": None} if is_loopback(url) else {}
    try:
        opened = await connect(
            url,
            create_connection=make,
            compression=None,  # no venue needs it, and inflating costs 2 us a frame
            max_size=max_bytes,
            open_timeout=OPEN_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            close_timeout=CLOSE_S,
            user_agent_header=USER_AGENT,
            **options,
        )
    except (InvalidProxy, ImportError) as e:  # the text of the first may hold a password
        why = e.msg if isinstance(e, InvalidProxy) else "SOCKS is not spoken"
        says = f"the proxy of the environment (HTTPS_PROXY) cannot be used: {why}"
        raise Refused("unreachable", says, reached=False) from e
    except InvalidStatus as e:
        response = e.response
        raise Refused(
            "refused",
            f"HTTP {response.status_code} {response.reason_phrase}".strip(),
            response.status_code,
            retry_after(next(iter(response.headers.get_all("Retry-After")), None)),
        ) from e
    except MultipleValuesError as e:  # of a redirection
        raise Refused("handshake", f"more than one {e} in the answer") from e
    except (InvalidHandshake, ConnectionClosed) as e:
        raise Refused("handshake", _unsaid(str(e), url)) from e
    except TimeoutError as e:
        raise Refused("timeout", f"no answer within {OPEN_S:g} s") from e
    except OSError as e:
        reached = isinstance(e, SSLError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError)
        reason = e.strerror or str(e) or type(e).__name__
        raise Refused("unreachable", reason, reached=reached) from e
    except ValueError as e:  # a host that cannot be
        raise Refused("unreachable", _unsaid(str(e), url), reached=False) from e
    except WebSocketException as e:
        raise Refused("handshake", _unsaid(str(e), url)) from e
    return cast("Socket", opened)


def _unsaid(reason: str, url: str) -> str:
    """Return ``reason`` without the query of ``url``: it may hold a secret, and a redirection repeats it."""
    for part in filter(None, url.partition("?")[2].split("&")):
        reason = reason.replace(part, "...")
    return reason
