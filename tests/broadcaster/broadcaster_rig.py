"""A broadcaster without Redis: server, outlet and followers that are fed by hand."""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect

from actors.broadcaster.feed import Feed, Listeners
from actors.broadcaster.native import NativeOutlet
from actors.broadcaster.outlet import BarterOutlet
from actors.broadcaster.peers import watch
from actors.broadcaster.server import WebSocketServer
from actors.broadcaster.session import Door
from actors.config import BroadcasterSettings, Settings, VenueSettings
from actors.model import codec
from actors.model.events import Book, Event, Level, Tick, Trade
from actors.runtime.metrics import Metrics
from actors.streams.keys import START, Keys, Partition, Stream, partitions
from actors.streams.partition import Entry

SYMBOLS = ["BTC-USDT", "ETH-USDT"]
PARTITION = Partition("binance", 0)
PERIOD = 10**9


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    with anyio.fail_after(within_s):
        while not condition():
            await anyio.sleep(0.005)


class NoTap:
    """Pub/sub that nobody listens to."""

    def take(self, partition: Partition, stream: Stream, lines: object) -> None:
        pass


class Script:
    """Writes events as the stages do: dense ``k`` a stream, ``prev`` a symbol."""

    def __init__(self) -> None:
        self.k: dict[Stream, int] = {"events": 0, "books": 0, "flow": 0}
        self.prev: dict[str, int] = {}
        self.epoch = 1
        self.trades = 0

    def trade(self, symbol: str = "BTC-USDT", **changes: Any) -> Trade:
        self.trades += 1
        fields = {
            "venue": "binance", "symbol": symbol, "ts_event": time.time_ns(), "ts_recv": time.time_ns(),
            "seq": None, "id": str(self.trades), "price": "100.5", "size": "1", "aggressor": "buy",
        }  # fmt: skip
        return Trade(**{**fields, **changes})

    def book(
        self, what: str, bids: list[Level], asks: list[Level], symbol: str = "BTC-USDT", **changes: Any
    ) -> Book:
        fields = {
            "venue": "binance", "symbol": symbol, "ts_event": None, "ts_recv": time.time_ns(), "seq": 1,
            "type": what, "prev": self.prev.get(symbol, 0), "state": "live", "verified": "sequence",
            "bids": bids, "asks": asks,
        }  # fmt: skip
        return Book(**{**fields, **changes})

    def entry(self, stream: Stream, *events: Event) -> tuple[Stream, Entry]:
        for event in events:
            self.k[stream] += 1
            if isinstance(event, Book):
                assert event.symbol is not None
                self.prev[event.symbol] = self.k[stream]
        return stream, Entry(self.epoch, self.k[stream], [codec.encode(event) for event in events])


class Rig:
    """A broadcaster in this process."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(
            mode="demo",
            broadcaster=BroadcasterSettings(**{"port": 0, **settings}),
            venues={"binance": VenueSettings(symbols=SYMBOLS)},
        )
        self.metrics = Metrics()
        self.outlet = BarterOutlet(self.settings.broadcaster, self.metrics)
        self.hub = self.outlet.hub
        self.native = NativeOutlet(self.settings, self.metrics, None)
        self.door = Door(self.settings, self.metrics, self.native, None)
        listeners = Listeners([self.outlet, self.native], NoTap(), self.metrics)
        self.feed = Feed(self.settings, Keys(), partitions(self.settings), listeners)
        (self.follower,) = self.feed.followers
        self.follower._stand_at(START)
        self.server = WebSocketServer(
            self.settings, self.metrics, self.outlet, self.door,
            lambda: {**self.feed.health(), "clients": len(self.hub)},
        )  # fmt: skip
        self.script = Script()

    @property
    def url(self) -> str:
        return self.server.url()

    async def tell(self, *found: tuple[Stream, Entry]) -> None:
        await self.follower.take(list(found))

    async def tick(self, age_s: float = 0.0) -> None:
        tick = Tick("binance", None, None, time.time_ns() - int(age_s * 1e9), None)
        await self.tell(self.script.entry("events", tick))

    @contextlib.asynccontextmanager
    async def client(
        self, query: str = "", *, served: bool = True, **options: Any
    ) -> AsyncIterator[ClientConnection]:
        before = self.served()
        async with connect(self.url + query, proxy=None, compression=None, **options) as client:
            if served:
                await until(lambda: self.served() > before)
            yield client

    def served(self) -> int:
        return sum(len(group.clients) for group in self.hub._groups.values())

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def refused(self, reason: str) -> float:
        return self.count("tapeline_clients_refused_total", reason=reason)


async def heard(client: ClientConnection, kind: str | None = None) -> Any:
    """The next message of this kind."""
    with anyio.fail_after(20):
        while True:
            message = json.loads(await client.recv())
            if kind is None or message.get("kind") == kind:
                return message


@contextlib.asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Rig]:
    """A broadcaster that listens, and is stopped at the end."""
    made = Rig(**settings)
    await made.server.start()
    async with anyio.create_task_group() as tg:
        tg.start_soon(watch, [made.hub.peers, made.native.peers], made.metrics)
        tg.start_soon(made.native.run)
        try:
            yield made
        finally:
            with anyio.CancelScope(shield=True):
                await made.server.stop(1.0)
            tg.cancel_scope.cancel()
