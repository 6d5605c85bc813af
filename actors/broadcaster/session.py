"""One connection of the native protocol: its requests and their answers."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup
from websockets.asyncio.server import ServerConnection

from actors.broadcaster.archive import Archive
from actors.broadcaster.native import NativeOutlet
from actors.broadcaster.peers import Peer, frame
from actors.broadcaster.replay import Playback, first_cursors, replay
from actors.broadcaster.subscriptions import Subscription, name
from actors.config import Settings
from actors.dialects import native
from actors.dialects.native import Refusal
from actors.model.events import SCHEMA_VERSION
from actors.runtime.metrics import Metrics
from actors.streams.errors import FAULTS, Corrupt

log: Any = structlog.get_logger()

_STREAMS: Final = tuple(native.OF_STREAM)


class Session:
    """What a connection has asked for."""

    def __init__(self, door: "Door", peer: Peer, tasks: TaskGroup) -> None:
        """Make it without subscriptions; ``tasks`` end with the connection."""
        self.peer = peer
        self._door = door
        self._tasks = tasks
        self._subs = door.outlet.subscriptions(peer)
        self._scopes: dict[int, anyio.CancelScope] = {}

    def hear(self, text: str) -> None:
        """Answer a request."""
        try:
            answer = self._answer(native.parse(text))
        except Refusal as e:
            self._door.metrics.count("tapeline_request_errors_total", reason=e.code)
            answer = native.error(e)
        if answer is not None:
            self._say(answer)

    def _say(self, message: bytes) -> None:
        self.peer.write(frame(message))

    def _answer(self, request: native.Request) -> bytes | None:
        match request:
            case native.Subscribe():
                return self._subscribe(request)
            case native.Unsubscribe():
                sub = self._subs.pop(request.id, None)
                if sub is None:
                    there = ", ".join(map(str, self._subs)) or "none"
                    raise Refusal(
                        "unknown_id", f"no subscription {request.id}: there are {there}", request.id
                    )
                self._door.outlet.end(sub)
                scope = self._scopes.pop(request.id, None)
                if scope is not None:
                    scope.cancel()
                return native.unsubscribed(request.id)
            case native.Ask(op="ping"):
                return native.pong(request.id, time.time_ns())
            case native.Ask():
                return native.subscriptions(request.id, [sub.choice for sub in self._subs.values()])

    def _subscribe(self, request: native.Subscribe) -> None:
        door, most = self._door, self._door.settings.broadcaster.max_subscriptions
        if request.id in self._subs:
            raise Refusal("duplicate_id", f"subscription {request.id} is there already", request.id)
        if len(self._subs) >= most:
            raise Refusal(
                "too_many_subscriptions", f"{most} already (broadcaster.max_subscriptions)", request.id
            )
        choice = native.choose(request, door.outlet.there)
        sub = Subscription(self.peer, choice, door.outlet.places(choice.symbols, choice.selector.streams))
        at = first_cursors(sub, request.cursors or {}, door.places)
        self._subs[sub.id] = sub
        self._say(native.subscribed(choice))
        if at and door.archive is not None:
            scope = self._scopes[sub.id] = anyio.CancelScope()
            self._tasks.start_soon(self._replay, door.archive, sub, Playback(sub, at), scope)
        else:
            door.outlet.start(sub)

    async def _replay(
        self, archive: Archive, sub: Subscription, playback: Playback, scope: anyio.CancelScope
    ) -> None:
        told = partial(self._door.metrics.count, "tapeline_replayed_events_total")
        with scope:
            try:
                await replay(self._door.outlet, archive, sub, playback, told)
            except (Corrupt, *FAULTS) as e:
                log.warning("replay_failed", reason=str(e))
                self._subs.pop(sub.id, None)
                self._door.outlet.end(sub)
                self._door.metrics.count("tapeline_request_errors_total", reason="unavailable")
                self._say(native.error(Refusal("unavailable", f"cannot be read back: {e}", sub.id)))


class Door:
    """Where connections of the native protocol come in."""

    def __init__(
        self, settings: Settings, metrics: Metrics, outlet: NativeOutlet, archive: Archive | None
    ) -> None:
        """Make it; ``archive`` None: nothing can be read back."""
        self.settings = settings
        self.metrics = metrics
        self.outlet = outlet
        self.archive = archive
        self.places = {name(place): place for place in outlet.places(outlet.there, _STREAMS)}

    @asynccontextmanager
    async def open(self, connection: ServerConnection) -> AsyncGenerator[Session]:
        """Greet a connection; forget it at the end of the block."""
        hello = await self._hello()
        peer = Peer(connection, self.outlet.peers.slow_bytes)
        async with anyio.create_task_group() as tasks:
            self.outlet.join(peer, hello)
            try:
                yield Session(self, peer, tasks)
            finally:
                self.outlet.peers.leave(peer)
                tasks.cancel_scope.cancel()

    async def _hello(self) -> bytes:
        of = self.settings.broadcaster
        retained = None if self.archive is None else await self.archive.retained()
        return native.hello(
            schema=SCHEMA_VERSION,
            mode=self.settings.mode,
            time=time.time_ns(),
            heartbeat_s=of.heartbeat_s,
            kinds=native.KINDS,
            symbols=self.outlet.there,
            streams=list(self.places),
            retained=retained,
            limits={
                "message_bytes": of.max_message_bytes,
                "messages_per_s": of.max_messages_per_s,
                "subscriptions": of.max_subscriptions,
                "unread_bytes": of.slow_client_bytes,
            },
        )
