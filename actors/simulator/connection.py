"""One WebSocket of a client, seen from the simulator: what it is sent, and what is wrong with it."""

import socket
import struct
from typing import TYPE_CHECKING, Final

import anyio
import structlog
from aiohttp import web
from websockets.frames import Frame, Opcode

from actors.model.events import MS, SECOND
from actors.simulator.faults import EDITS, Active, Fault, Hurt
from actors.simulator.session import Binary, Session
from actors.simulator.venue import Venue

if TYPE_CHECKING:
    import asyncio

log = structlog.get_logger()

MOST_BUFFERED: Final = 32 * 1024 * 1024  # chosen: half a minute at 20,000 frames a second
CLOSE_S: Final = 1.0  # chosen: how long a closing handshake may take


def _header(opcode: Opcode, size: int) -> bytes:
    return Frame(opcode, bytes(size)).serialize(mask=False)[: -size or None]


class Headers(dict[int, bytes]):
    """The header of an unmasked text frame depends on its length only, so each is made once."""

    def __missing__(self, size: int) -> bytes:
        header = _header(Opcode.TEXT, size)
        if size < 1 << 16:
            self[size] = header
        return header


class Connection:
    """One socket: what its session says, and what is wrong with it."""

    def __init__(
        self, venue: Venue, session: Session, ws: web.WebSocketResponse, request: web.Request
    ) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        self.venue = venue
        self.session = session
        self.peer = request.remote or ""
        self.path = request.path_qs
        self.frames = 0
        self.sent_bytes = 0
        self.bytes_per_s: float | None = None  # slow
        self.half_open = False
        self.closing = False
        self.pinged: int | None = None  # the ping that waits for its pong, ns
        self.talked = session.opened  # when the client, or as far as is known the venue, said anything
        self._last_ping = session.opened
        self._checked = 0  # frames
        self._ws = ws
        self._transport: asyncio.Transport = transport
        self._slow = bytearray()
        self._allowance = 0.0

    def flush(self, headers: Headers, elapsed_s: float) -> None:
        """Write what the session has said since the last time."""
        out = self.session.out
        if out:
            if self.half_open or self.closing:
                out.clear()
                return
            parts: list[bytes] = []
            pack = self.venue.house.pack
            for said in out:
                binary, payload = type(said) is Binary, said
                if pack is not None and not binary:
                    binary, payload = True, pack(said)
                parts.append(_header(Opcode.BINARY, len(payload)) if binary else headers[len(payload)])
                parts.append(payload)
            self.frames += len(out)
            out.clear()
            self._write(b"".join(parts))
        if self.bytes_per_s is not None:
            self._trickle(elapsed_s * self.bytes_per_s)

    def _write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self.sent_bytes += len(data)
        if self.bytes_per_s is not None:
            self._slow += data
            buffered = len(self._slow)
        else:
            self._transport.write(data)
            buffered = self._transport.get_write_buffer_size()
        if buffered > MOST_BUFFERED:
            log.warning("client_too_slow", venue=self.venue.house.name, connection=self.session.number)
            self._transport.abort()

    def _trickle(self, allowed: float) -> None:
        self._allowance = min(self._allowance + allowed, self.bytes_per_s or 0.0)
        n = int(self._allowance)
        if n and self._slow and not self._transport.is_closing():
            self._transport.write(bytes(self._slow[:n]))
            del self._slow[:n]
            self._allowance -= n

    def hurt(self, active: Active) -> None:
        """Begin a fault of its frames, if it is one that the venue's frames can have."""
        edits = self.venue.edits
        if active.fault.kind not in EDITS or active.fault.kind in edits:
            self.session.wounds.append(Hurt(active.id, active.fault, edits))

    def suffer(self, fault: Fault, now: int) -> None:
        """Begin a fault of this socket; those of other kinds do nothing here."""
        match fault.kind:
            case "reset":
                self.reset()
            case "half_open":
                self.freeze()
            case "slow":
                self.bytes_per_s = fault.bytes_per_s
            case "shutdown":
                self.venue.announce(self.session, now)
            case _:
                pass

    def recover(self, active: Active) -> None:
        """End a fault: slowness lets go of what has piled up, half open becomes a reset."""
        session = self.session
        session.wounds = [wound for wound in session.wounds if wound.id != active.id]
        if active.fault.kind == "half_open":
            self.reset()
        elif active.fault.kind == "slow":
            self.bytes_per_s = None
            if self._slow and not self._transport.is_closing():
                self._transport.write(bytes(self._slow))
            self._slow.clear()

    def check(self, now: int) -> None:
        """Ping where it is time, and close what has been silent or open for too long."""
        limits, goodbyes = self.venue.house.limits, self.venue.house.goodbyes

        def after(since: int, limit: str) -> bool:
            return limit in limits and now - since > limits[limit] * SECOND

        if self.frames != self._checked:
            self._checked, self.talked = self.frames, now
        if after(self._last_ping, "ping_every_s"):
            self._ping(now)
        if self.pinged is not None and after(self.pinged, "pong_within_s"):
            self.session.close = goodbyes["pong"]
        if after(self.talked, "idle_s"):
            self.session.close = goodbyes["idle"]
        if after(self.session.opened, "lifetime_s"):
            self.session.close = goodbyes["age"]

    def _ping(self, now: int) -> None:
        self._last_ping = now
        self.pinged = now if self.pinged is None else self.pinged
        if not self.half_open and not self.closing:
            self._write(Frame(Opcode.PING, b"%d" % (now // MS)).serialize(mask=False))

    def pong(self, payload: bytes) -> None:
        """Answer a client's ping."""
        if not self.half_open and not self.closing:
            self._write(Frame(Opcode.PONG, payload).serialize(mask=False))

    async def close(self, code: int, reason: str) -> None:
        """Close as a venue does, or by force if the client does not answer."""
        if self.closing:
            return
        self.closing = True
        if self._slow or self.half_open:
            self._transport.abort()  # a close frame must not land within another
            return
        with anyio.move_on_after(CLOSE_S) as scope:
            await self._ws.close(code=code, message=reason.encode())
        if scope.cancelled_caught:
            self._transport.abort()

    def reset(self) -> None:
        """Drop the connection with a RST."""
        self.closing = True
        raw = self._transport.get_extra_info("socket")
        if raw is not None and not self._transport.is_closing():
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def freeze(self) -> None:
        """Neither read nor write from now on, as if the path to the client had vanished."""
        self.half_open = True
        if not self._transport.is_closing():
            self._transport.pause_reading()
