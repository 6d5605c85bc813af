"""The role that delivers: WebSocket clients in two dialects, pub/sub, a page and a health check."""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import anyio

from actors.broadcaster.archive import Archive
from actors.broadcaster.feed import Feed, Listeners
from actors.broadcaster.native import NativeOutlet
from actors.broadcaster.outlet import BarterOutlet
from actors.broadcaster.peers import watch
from actors.broadcaster.publisher import Publisher
from actors.broadcaster.server import WebSocketServer
from actors.broadcaster.session import Door
from actors.model.events import SECOND
from actors.runtime.lifecycle import Actor
from actors.streams.client import cold, connect
from actors.streams.errors import FAULTS, is_passing
from actors.streams.keys import partitions
from actors.streams.wire import Hot

_LOOK_S: Final = 1.0
_CLOSE_S: Final = 1.2  # of the 2.5 s that SIGTERM gives


async def run(actor: Actor) -> None:
    """Serve until the actor stops.

    Raises:
        ConfigError: The port cannot be had.
        RedisUnusable: At the start.
    """
    settings, places = actor.settings, partitions(actor.settings)
    client = await connect(settings, actor.role)
    outlet = BarterOutlet(settings.broadcaster, actor.metrics)
    archive = Archive(settings, actor.keys, actor.metrics, places)
    native = NativeOutlet(settings, actor.metrics, archive)
    door = Door(settings, actor.metrics, native, archive)
    publisher = Publisher(client, actor.keys, actor.metrics)
    feed = Feed(settings, actor.keys, places, Listeners([outlet, native], publisher, actor.metrics))
    crowds = [outlet.hub.peers, native.peers]
    server = WebSocketServer(
        settings, actor.metrics, outlet, door, lambda: feed.health() | {"clients": sum(map(len, crowds))},
        number=actor.number,
    )  # fmt: skip
    try:
        await server.start()
        await _serve(
            actor, server, feed, publisher, [feed.run, native.run, partial(watch, crowds, actor.metrics)]
        )
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(0)
            await client.aclose()


async def _serve(
    actor: Actor,
    server: WebSocketServer,
    feed: Feed,
    publisher: Publisher,
    works: Sequence[Callable[[], Coroutine[Any, Any, None]]],
) -> None:
    hot = await cold(actor.settings, actor.keys.meta())
    published = anyio.Event()

    async def publish() -> None:
        await publisher.run(actor, partitions(actor.settings))
        published.set()

    try:
        async with anyio.create_task_group() as tg:
            for work in (*works, publish):
                tg.start_soon(work)
            tg.start_soon(_look, actor, hot, feed, publisher)
            await actor.stopping.wait()
            await server.stop(_CLOSE_S)
            await published.wait()  # it releases its leases by itself, within its own deadline
            tg.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await hot.aclose()


async def _look(actor: Actor, hot: Hot, feed: Feed, publisher: Publisher) -> None:
    """Each second: what Redis' clock says, who listens to pub/sub, how old what we deliver is."""
    while True:
        try:
            if hot.lost:
                await hot.reconnect()
            seconds, micros = await hot.call("TIME")
            feed.clock.set(int(seconds) * SECOND + int(micros) * 1000)
            await publisher.ask()
        except FAULTS as e:
            if not is_passing(e):
                raise
        for follower in feed.followers:
            age = follower.tick_age_s()
            if age is not None:
                place: dict[str, Any] = {"role": actor.role, "partition": str(follower.partition)}
                actor.metrics.gauge("tapeline_lag_seconds", age, **place)
        await anyio.sleep(_LOOK_S)
