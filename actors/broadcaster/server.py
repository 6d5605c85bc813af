"""The one port: WebSocket clients by dialect, a page and a health check over plain HTTP.

Who may come in is decided before the handshake is answered, in this order: room for sockets, token,
filter, room for clients; ``websockets`` itself checks the origin and the handshake. Nothing is ever
read from disk for a request.

A token comes in the header ``Authorization: Bearer <token>``, or, since browsers cannot send headers, as
a subprotocol ``bearer.<token, percent-encoded>`` beside ``tapeline``, the one that is chosen (what is
chosen is sent back, and the token shall not be). Both are checked before the handshake is answered, so
nobody without it holds a place or hears a word; a query would end up in logs.
"""

import hmac
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import unquote

import anyio
import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Opcode
from websockets.http11 import Request, Response
from websockets.typing import Origin, Subprotocol

from actors.broadcaster.clients import Client, Hub
from actors.broadcaster.outlet import BarterOutlet
from actors.broadcaster.page import Pages
from actors.broadcaster.peers import Peer, Peers
from actors.broadcaster.session import Door
from actors.config import Settings
from actors.dialects import barter
from actors.runtime.listening import Rate, cannot_listen, make_room, tls_context
from actors.runtime.metrics import Metrics

log: Any = structlog.get_logger()

_NATIVE: Final = ("/v1", "/v1/")
_SUBPROTOCOL: Final = Subprotocol("tapeline")
_BEARER: Final = "bearer."
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
        self.native = False
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


def _offered(request: Request) -> list[str]:
    headers = request.headers.get_all("Sec-WebSocket-Protocol")
    return [text.strip() for header in headers for text in header.split(",")]


def _choose(_connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Choose our subprotocol where it is offered; a client that offers others gets none, as ever."""
    return _SUBPROTOCOL if _SUBPROTOCOL in offered else None


class Conversation(Protocol):
    """One client's words, in its dialect."""

    @property
    def peer(self) -> Peer:
        """Whose they are."""
        ...

    def hear(self, text: str) -> None:
        """Take a message of the client."""
        ...


class _Overheard:
    """A Barter client's. The predecessor heard nothing; a request is refused, so that nobody waits."""

    def __init__(self, hub: Hub[barter.Topic], client: Client[barter.Topic]) -> None:
        self.peer = client
        self._hub = hub

    def hear(self, text: str) -> None:
        if text.lstrip().startswith("{") and '"op"' in text:
            reason = "no requests here: filters go in the query, ?kind=trade&symbol=BTC-USDT; /v1 takes them"
            self._hub.close(self.peer, CloseCode.POLICY_VIOLATION, reason, "op")


@asynccontextmanager
async def _overhear(
    hub: Hub[barter.Topic], connection: ServerConnection, filter_: barter.Filter
) -> AsyncGenerator[_Overheard]:
    client = hub.join(connection, filter_, barter.welcome(time.time_ns()))
    try:
        yield _Overheard(hub, client)
    finally:
        hub.leave(client)


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
            self._token = self._settings.token.get_secret_value().encode()
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
        if self._token is not None and not self._knows_token(request, self._token):
            text = (
                "a token is needed: Authorization: Bearer <broadcaster.token>, or from a browser the "
                "subprotocols tapeline and bearer.<token>"
            )
            return HTTPStatus.UNAUTHORIZED, "token", text
        connection.native = path in _NATIVE
        if connection.native and query:
            return HTTPStatus.BAD_REQUEST, "filter", f"{path} takes no query: subscribe says what is wanted"
        try:
            connection.filter = self._filter(query)
        except barter.FilterError as e:
            return HTTPStatus.BAD_REQUEST, "filter", str(e)
        return self._no_room(connection)

    def _knows_token(self, request: Request, token: bytes) -> bool:
        headers = request.headers.get_all("Authorization")
        if headers:
            scheme, _, shown = headers[0].partition(" ")
            return (
                len(headers) == 1
                and scheme == "Bearer"
                and hmac.compare_digest(shown.encode("latin-1", "replace"), token)
            )
        offered = _offered(request)
        shown = [text.removeprefix(_BEARER) for text in offered if text.startswith(_BEARER)]
        return (
            _SUBPROTOCOL in offered
            and len(shown) == 1
            and hmac.compare_digest(unquote(shown[0]).encode("utf-8", "replace"), token)
        )

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
        door: Door,
        health: Callable[[], dict[str, Any]],
        *,
        number: int = 1,
    ) -> None:
        self._settings = settings.broadcaster
        self._hub = outlet.hub
        self._door = door
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
                select_subprotocol=_choose,
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
        dialect: AbstractAsyncContextManager[Conversation]
        crowd: Peers[Any]
        if connection.native:
            dialect, crowd = self._door.open(connection), self._door.outlet.peers
        else:
            dialect, crowd = _overhear(self._hub, connection, connection.filter), self._hub.peers
        rate = Rate(self._settings.max_messages_per_s)
        try:
            async with dialect as conversation:
                connection.on_ping = partial(self._within, rate, crowd, conversation.peer)
                await self._listen(connection, rate, crowd, conversation)
        finally:
            protocol = connection.protocol
            if protocol.close_sent is not None and not protocol.close_rcvd_then_sent:
                label = _LABELS.get(protocol.close_sent.code)
                if label is not None:
                    self._gate.refused(label)

    async def _listen(
        self, connection: ServerConnection, rate: Rate, crowd: Peers[Any], conversation: Conversation
    ) -> None:
        peer = conversation.peer
        try:
            async for message in connection:
                if not self._within(rate, crowd, peer):
                    continue
                if isinstance(message, bytes):
                    crowd.close(peer, CloseCode.UNSUPPORTED_DATA, "text frames only", "binary")
                else:
                    conversation.hear(message)
        except ConnectionClosed:
            log.debug("client_gone", code=connection.close_code, reason=connection.close_reason)

    def _within(self, rate: Rate, crowd: Peers[Any], peer: Peer) -> bool:
        """Close a client that says too much, pings included; False when it is closed, now or before."""
        if peer.deadline is None and not rate.take():
            reason = f"more than {self._settings.max_messages_per_s:g} messages a second"
            crowd.close(peer, CloseCode.POLICY_VIOLATION, reason, "rate")
        return peer.deadline is None
