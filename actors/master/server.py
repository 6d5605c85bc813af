"""The master's port: collectors by WebSocket, a health check over plain HTTP.

A connection is let in by its first message, the login, which has to come within 5 s. Who breaks a rule
is told which (``{"op":"refused","reason":…}`` where it listens, the close frame in any case) and counted.
Too many messages a second are no offence: the socket is read more slowly, and the collector waits.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import anyio
import orjson
import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from actors.config import MasterSettings, Settings
from actors.dialects import ftsobest
from actors.master.session import AckedCollector, Collector, Misbehaved
from actors.master.store import Store
from actors.runtime.listening import Rate, cannot_listen, make_room, tls_context
from actors.runtime.metrics import Metrics

log: Any = structlog.get_logger()

_SPARE_SOCKETS: Final = 32  # chosen: health checks beside the collectors
_LOGIN_S: Final = 5.0  # chosen: one round trip
_LOGIN_BYTES: Final = 4096
_PING_S: Final = 20.0
_FRAMES_QUEUED: Final = 16  # unread frames of one collector before its socket is not read any more
_WHY: Final = 120  # bytes of a close frame's reason, at most 123


class _Refused(Exception):
    """A connection is not let in, or no longer: the reason for its collector, and one for the metrics."""

    def __init__(self, reason: str, label: str, code: int = CloseCode.POLICY_VIOLATION) -> None:
        super().__init__(reason)
        self.reason = reason
        self.label = label
        self.code = code


class MasterServer:
    """The listening socket and the conversations on it."""

    def __init__(self, settings: Settings, metrics: Metrics, store: Store) -> None:
        self._settings: MasterSettings = settings.master
        self._keys = [key.encode() for key in settings.master_keys()]
        self._metrics = metrics
        self._store = store
        self._tls = tls_context("master", self._settings.tls_certificate, self._settings.tls_key)
        self._server: Server | None = None
        self._collectors = {"ftsobest": 0, "acked": 0}
        self._open = 0

    @property
    def port(self) -> int:
        """The port that is listened on, once it is."""
        if self._server is None:
            return self._settings.port
        return self._server.sockets[0].getsockname()[1]

    def health(self) -> dict[str, Any]:
        """Return what ``/healthz`` says."""
        return {
            "ok": self._store.failing is None,
            "reason": self._store.failing,
            "fsync": self._settings.fsync,
            "collectors": self._collectors,
            "waiting_bytes": self._store.waiting_bytes,
            "streams": {name: stream._asdict() for name, stream in self._store.streams().items()},
        }

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: The port or the address cannot be had.
        """
        settings = self._settings
        make_room(settings.max_connections + _SPARE_SOCKETS, "master.max_connections")
        library = logging.getLogger("tapeline.websockets")
        library.setLevel(logging.CRITICAL)  # what collectors do wrong is counted by reason, see metrics
        try:
            self._server = await serve(
                self._converse,
                settings.host,
                settings.port,
                compression=None,
                process_request=self._request,
                server_header=None,
                open_timeout=_LOGIN_S,
                ping_interval=None,  # see ``_next``
                close_timeout=1.0,
                max_size=settings.max_message_bytes,
                max_queue=_FRAMES_QUEUED,
                logger=library,
                ssl=self._tls,
            )
        except OSError as e:
            raise cannot_listen("master", settings.host, settings.port, e) from e

    async def stop(self, within_s: float) -> None:
        """Close every connection (1001) and the port; abort what has not gone in time."""
        server = self._server
        if server is None:
            return
        server.close(code=CloseCode.GOING_AWAY, reason="the master stops")
        with anyio.move_on_after(within_s):
            await server.wait_closed()
        for connection in [*server.connections]:
            connection.transport.abort()
        with anyio.move_on_after(0.5, shield=True):
            await server.wait_closed()

    # -- plain HTTP

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" not in request.headers:
            return self._page(request.path.partition("?")[0])
        if self._open >= self._settings.max_connections:
            self._refuse_count("full")
            text = f"full: {self._settings.max_connections} connections (master.max_connections)\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, text)
        return None

    def _page(self, path: str) -> Response:
        if path == "/healthz":
            health = self.health()
            status = HTTPStatus.OK if health["ok"] else HTTPStatus.SERVICE_UNAVAILABLE
            return _response(status, "application/json", orjson.dumps(health) + b"\n")
        text = "nothing here: collectors connect with a WebSocket, /healthz says how it is\n"
        return _response(HTTPStatus.NOT_FOUND, "text/plain", text.encode())

    # -- conversations

    async def _converse(self, connection: ServerConnection) -> None:
        self._open += 1
        try:
            await self._admit(connection)
        except _Refused as e:
            self._refuse_count(e.label)
            log.warning("collector_refused", reason=e.reason, address=_address(connection))
            await _say_no(connection, e)
        except ConnectionClosed as e:
            log.debug("collector_gone", reason=str(e))
            if e.sent is not None and not e.rcvd_then_sent and e.sent.code in _LABELS:
                self._refuse_count(_LABELS[e.sent.code])
        finally:
            self._open -= 1

    def _refuse_count(self, label: str) -> None:
        self._metrics.count("tapeline_master_refused_total", reason=label)

    async def _admit(self, connection: ServerConnection) -> None:
        login = await self._login(connection)
        dialect = "acked" if login.acked else "ftsobest"
        if login.acked:
            collector = AckedCollector(self._store, self._metrics, login.source)
            await connection.send(collector.welcome())
        else:
            collector = Collector(self._store, self._metrics)
        log.info("collector_joined", dialect=dialect, source=login.source, address=_address(connection))
        self._count_collectors(dialect, 1)
        try:
            await self._serve(connection, collector)
        finally:
            self._count_collectors(dialect, -1)

    def _count_collectors(self, dialect: str, change: int) -> None:
        self._collectors[dialect] += change
        self._metrics.gauge("tapeline_master_connections", self._collectors[dialect], dialect=dialect)

    async def _login(self, connection: ServerConnection) -> ftsobest.Login:
        message: str | bytes | None = None
        with anyio.move_on_after(_LOGIN_S):
            message = await connection.recv()
        if message is None:
            raise _Refused(f"no login within {_LOGIN_S:g} s", "login")
        if isinstance(message, bytes) or len(message) > _LOGIN_BYTES:
            raise _Refused("the first message must be key=<KEY>&role=collector, as text", "login")
        try:
            login = ftsobest.parse_login(message)
        except ftsobest.LoginError as e:
            raise _Refused(str(e), "login") from e
        if not _known(login.key.encode(), self._keys):
            raise _Refused("the key is not one of this master's", "key")
        return login

    async def _serve(self, connection: ServerConnection, collector: Collector | AckedCollector) -> None:
        refused: _Refused | None = None
        gone: ConnectionClosed | None = None
        async with anyio.create_task_group() as tg:
            tg.start_soon(_tell, collector, connection)
            try:
                await self._listen(connection, collector)
            except Misbehaved as e:
                refused = _Refused(str(e), "protocol")
            except _Refused as e:
                refused = e
            except ConnectionClosed as e:
                gone = e
            tg.cancel_scope.cancel()
        if refused is not None:
            raise refused
        if gone is not None:
            raise gone

    async def _listen(self, connection: ServerConnection, collector: Collector | AckedCollector) -> None:
        rate = Rate(self._settings.max_messages_per_s)
        while True:
            message = await _next(connection)
            if isinstance(message, bytes):
                raise _Refused("text frames only", "binary", CloseCode.UNSUPPORTED_DATA)
            answer = collector.hear(message)
            if answer is not None:
                await connection.send(answer)
            if owed_s := rate.owe():
                self._metrics.count("tapeline_master_throttled_total")
                await anyio.sleep(owed_s)
            await self._store.room()


_LABELS: Final[dict[int, str]] = {
    CloseCode.PROTOCOL_ERROR: "protocol",
    CloseCode.INVALID_DATA: "not_utf8",
    CloseCode.MESSAGE_TOO_BIG: "too_big",
}


async def _next(connection: ServerConnection) -> str | bytes:
    """Return the next message.

    A collector that is silent is asked whether it is there. One that waits to be read is not: its answer
    would stand behind what is unread.

    Raises:
        _Refused: It is not.
    """
    pong: asyncio.Future[float] | None = None
    while True:
        with anyio.move_on_after(_PING_S):
            return await connection.recv()
        if pong is not None and not pong.done():
            break
        with anyio.move_on_after(_PING_S) as asking:
            pong = asyncio.ensure_future(await connection.ping())
        if asking.cancelled_caught:
            break
    raise _Refused("no answer to a ping", "no_pong", CloseCode.INTERNAL_ERROR)


async def _tell(collector: Collector | AckedCollector, connection: ServerConnection) -> None:
    try:
        await collector.tell(connection.send)
    except ConnectionClosed:
        return  # whoever listens to it finds the same


async def _say_no(connection: ServerConnection, e: _Refused) -> None:
    with anyio.move_on_after(1.0):
        try:
            await connection.send(ftsobest.encode(ftsobest.Refused(e.reason)).decode())
        except ConnectionClosed:
            return
        await connection.close(e.code, e.reason.encode()[:_WHY].decode(errors="ignore"))


def _known(key: bytes, keys: Sequence[bytes]) -> bool:
    """Compare with every key, each in a time that tells nothing of it."""
    found = False
    for known in keys:
        found |= hmac.compare_digest(key, known)
    return found


def _address(connection: ServerConnection) -> str:
    return str(connection.remote_address[0]) if connection.remote_address else ""


def _response(status: HTTPStatus, kind: str, body: bytes) -> Response:
    headers = Headers(
        {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Cache-Control": "no-store",
            "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
        }
    )
    return Response(status.value, status.phrase, headers, body)
