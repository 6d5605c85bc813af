"""The one port: WebSocket clients by dialect, a page and a health check over plain HTTP.

Who may come in is decided before the handshake is answered, in this order: room for sockets, path,
token, filter, room for clients; ``websockets`` itself checks the origin and the handshake. Nothing is
ever read from disk for a request.
"""

import hmac
import logging
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import anyio
import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Opcode
from websockets.http11 import Request, Response
from websockets.typing import Origin

from actors.broadcaster.clients import Client
from actors.broadcaster.outlet import BarterOutlet
from actors.broadcaster.page import Pages
from actors.config import Settings
from actors.dialects import barter
from actors.runtime.listening import Rate, cannot_listen, make_room, tls_context
from actors.runtime.metrics import Metrics

log: Any = structlog.get_logger()

_NATIVE: Final = "/v1"
_SPARE_SOCKETS: Final = 64  # chosen: handshakes and page visits beside the clients
_OPEN_TIMEOUT_S: Final = 5  # chosen: a handshake is one round trip
_PING_S: Final = 20  # chosen: under the half minute after which some proxies drop an idle connection
_CLOSE_TIMEOUT_S: Final = 1.0  # SIGTERM leaves 2.5 s for everything
_FRAMES_QUEUED: Final = 4  # unread frames of one client before its socket is not read any more

# What our close frames say, as a reason in the metrics; 1013 is counted where it is decided.
_LABELS: Final[dict[int, str]] = {
    CloseCode.PROTOCOL_ERROR: "protocol",
    CloseCode.INVALID_DATA: "not_utf8",
    CloseCode.MESSAGE_TOO_BIG: "too_big",
    CloseCode.INTERNAL_ERROR: "no_pong",
}


class _Connection(ServerConnection):
    """A connection that gives back what it took: a socket's place and, once let in, a client's."""

    gate: "Gate"  # of the subclass that a server makes for itself

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.place: str | None = None  # the address that it counts for
        self.filter: barter.Filter = barter.EVERYTHING
        self.on_ping: Callable[[], object] | None = None

    def process_event(self, event: Any) -> None:
        super().process_event(event)
        if self.on_ping is not None and event.opcode is Opcode.PING:
            self.on_ping()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.gate.sockets += 1
        if self.gate.sockets > self.gate.most_sockets:
            self.gate.refused("sockets")
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gate.sockets -= 1
        if self.request is None and self.protocol.handshake_exc is not None:
            self.gate.refused("handshake")
        self.gate.give_back(self)
        super().connection_lost(exc)


class Gate:
    """Who may come in."""

    def __init__(self, settings: Settings, metrics: Metrics, pages: Pages) -> None:
        self._settings = settings.broadcaster
        self._metrics = metrics
        self._pages = pages
        venues = {name: venue for name, venue in settings.venues.items() if venue.enabled}
        symbols = {symbol for venue in venues.values() for symbol in venue.symbols}
        self._filter = partial(barter.parse_filter, venues=sorted(venues), symbols=sorted(symbols))
        self._token = None
        if self._settings.token is not None:
            self._token = b"Bearer " + self._settings.token.get_secret_value().encode()
        self._places: dict[str, int] = {}  # address -> clients
        self._clients = 0
        self.sockets = 0
        self.most_sockets = self._settings.max_clients + _SPARE_SOCKETS

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._metrics.count("tapeline_clients_refused_total", reason=reason)

    def give_back(self, connection: _Connection) -> None:
        """Free the place of a connection that is gone."""
        place, connection.place = connection.place, None
        if place is not None:
            self._clients -= 1
            self._places[place] -= 1
            if not self._places[place]:
                del self._places[place]

    def request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain request, refuse, or let in (None)."""
        assert isinstance(connection, _Connection)  # noqa: S101
        path, _, query = request.path.partition("?")
        if "Upgrade" not in request.headers:
            return self._pages.answer(request.method, path)
        refusal = self._refusal(connection, request, path, query)
        if refusal is None:
            return None
        status, reason, text = refusal
        self.refused(reason)
        response = connection.respond(status, text + "\n")
        if status is HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _refusal(
        self, connection: _Connection, request: Request, path: str, query: str
    ) -> tuple[HTTPStatus, str, str] | None:
        if path == _NATIVE or path.startswith(_NATIVE + "/"):
            text = f"nothing is served at {_NATIVE}; any other path speaks Barter Data Server's protocol"
            return HTTPStatus.NOT_FOUND, "path", text
        if self._token is not None:
            given = request.headers.get_all("Authorization")
            shown = given[0].encode("latin-1", "replace") if len(given) == 1 else b""
            if not hmac.compare_digest(shown, self._token):
                text = "a token is needed: Authorization: Bearer <broadcaster.token>"
                return HTTPStatus.UNAUTHORIZED, "token", text
        try:
            connection.filter = self._filter(query)
        except barter.FilterError as e:
            return HTTPStatus.BAD_REQUEST, "filter", str(e)
        return self._no_room(connection)

    def _no_room(self, connection: _Connection) -> tuple[HTTPStatus, str, str] | None:
        if self._clients >= self._settings.max_clients:
            text = f"full: {self._settings.max_clients} clients (broadcaster.max_clients)"
            return HTTPStatus.SERVICE_UNAVAILABLE, "full", text
        address = str(connection.remote_address[0])
        if self._places.get(address, 0) >= self._settings.max_clients_per_address:
            most = self._settings.max_clients_per_address
            text = f"{most} clients from {address} already (broadcaster.max_clients_per_address)"
            return HTTPStatus.TOO_MANY_REQUESTS, "address", text
        connection.place = address
        self._clients += 1
        self._places[address] = self._places.get(address, 0) + 1
        return None

    def response(
        self, connection: ServerConnection, _request: Request, response: Response
    ) -> Response | None:
        """Count what the library refused."""
        if connection.protocol.handshake_exc is not None:
            forbidden = response.status_code == HTTPStatus.FORBIDDEN
            self.refused("origin" if forbidden else "handshake")
        return None


class WebSocketServer:
    """The listening socket and the conversations on it."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        outlet: BarterOutlet,
        health: Callable[[], dict[str, Any]],
        number: int = 1,
    ) -> None:
        self._settings = settings.broadcaster
        self._hub = outlet.hub
        port = self._settings.port
        self._port = port if self._settings.reuse_port or not port else port + number - 1
        self._tls = tls_context("broadcaster", self._settings.tls_certificate, self._settings.tls_key)
        self._pages = Pages(health, self.url)
        self._gate = Gate(settings, metrics, self._pages)
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, once it is."""
        if self._server is None:
            return self._port
        return self._server.sockets[0].getsockname()[1]

    def url(self) -> str:
        """Where clients connect."""
        host = self._settings.host
        return f"{'ws' if self._tls is None else 'wss'}://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: The port or the address cannot be had.
        """
        settings = self._settings
        make_room(self._gate.most_sockets, "broadcaster.max_clients")
        origins = None if settings.origins is None else [*map(Origin, settings.origins), None]
        library = logging.getLogger("tapeline.websockets")
        library.setLevel(logging.CRITICAL)  # what clients do wrong is counted by reason, see metrics
        try:
            self._server = await serve(
                self._converse,
                settings.host,
                self._port,
                origins=origins,
                compression=None,
                process_request=self._gate.request,
                process_response=self._gate.response,
                server_header=None,
                open_timeout=_OPEN_TIMEOUT_S,
                ping_interval=_PING_S,
                ping_timeout=_PING_S,
                close_timeout=_CLOSE_TIMEOUT_S,
                max_size=settings.max_message_bytes,
                max_queue=_FRAMES_QUEUED,
                logger=library,
                create_connection=type("_GatedConnection", (_Connection,), {"gate": self._gate}),
                ssl=self._tls,
                reuse_port=settings.reuse_port or None,
            )
        except OSError as e:
            raise cannot_listen("broadcaster", settings.host, self._port, e) from e

    async def stop(self, within_s: float) -> None:
        """Close every client (1001) and the port; abort whoever has not gone in time."""
        server = self._server
        if server is None:
            return
        server.close(code=CloseCode.GOING_AWAY, reason="the broadcaster stops")
        with anyio.move_on_after(within_s):
            await server.wait_closed()
        for connection in [*server.all_connections]:
            connection.transport.abort()
        with anyio.move_on_after(0.5, shield=True):
            await server.wait_closed()

    async def _converse(self, connection: ServerConnection) -> None:
        assert isinstance(connection, _Connection)  # noqa: S101
        client = self._hub.join(connection, connection.filter, barter.welcome(time.time_ns()))
        rate = Rate(self._settings.max_messages_per_s)
        connection.on_ping = partial(self._within, rate, client)
        try:
            async for message in connection:
                self._hear(client, rate, message)
        except ConnectionClosed:
            log.debug("client_gone", code=connection.close_code, reason=connection.close_reason)
        finally:
            self._hub.leave(client)
            protocol = connection.protocol
            if protocol.close_sent is not None and not protocol.close_rcvd_then_sent:
                label = _LABELS.get(protocol.close_sent.code)
                if label is not None:
                    self._gate.refused(label)

    def _within(self, rate: Rate, client: Client[barter.Topic]) -> bool:
        """Close a client that says too much, pings included; False when it is closed, now or before."""
        if client.deadline is None and not rate.take():
            reason = f"more than {self._settings.max_messages_per_s:g} messages a second"
            self._hub.close(client, CloseCode.POLICY_VIOLATION, reason, "rate")
        return client.deadline is None

    def _hear(self, client: Client[barter.Topic], rate: Rate, message: str | bytes) -> None:
        # The predecessor heard nothing of what clients say; a request is refused, so that nobody waits.
        if not self._within(rate, client):
            return
        if isinstance(message, bytes):
            self._hub.close(client, CloseCode.UNSUPPORTED_DATA, "text frames only", "binary")
        elif message.lstrip().startswith("{") and '"op"' in message:
            reason = "no requests here: filters go in the query, ?kind=trade&symbol=BTC-USDT"
            self._hub.close(client, CloseCode.POLICY_VIOLATION, reason, "op")
