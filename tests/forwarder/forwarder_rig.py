"""A forwarder in this process, streams written by hand into a real Redis, and masters to forward to."""

import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import msgspec
from redis_rig import Server
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from actors import forwarder
from actors.config import ForwarderSettings, RedisSettings, Settings, StreamSettings, VenueSettings
from actors.model import codec
from actors.model.events import Book, Event, Level, Tick, Trade
from actors.runtime.lifecycle import Actor, make_actor
from actors.runtime.metrics import Metrics
from actors.stages.book import View
from actors.streams.keys import Cursor, Keys, Partition, Stream
from actors.streams.partition import Entry

StartServer = Callable[..., Server]
KEY = "canary-key-93c1"
SYMBOLS = ["BTC-USDT", "ETH-USDT", "SOL-USDT"]
PARTITION = Partition("binance", 0)
MS = 1_000_000
BEGIN = 1_730_000_000_000 * MS


async def until(condition: Callable[[], Any], within_s: float = 10.0) -> None:
    with anyio.fail_after(within_s):
        while not condition():
            await anyio.sleep(0.005)


class Script:
    """Writes events as the stages do: dense ``k`` a stream, ``prev`` a symbol, time by the event."""

    def __init__(self, seed: int = 1, epoch: int = 7) -> None:
        self.dice = random.Random(seed)
        self.epoch = epoch
        self.k: dict[Stream, int] = {"events": 0, "books": 0}
        self.now = BEGIN
        self.views: dict[str, View] = {}
        self.trades = 0

    def trade(self, symbol: str | None = None) -> Trade:
        self.trades += 1
        self.now += MS
        symbol = symbol or self.dice.choice(SYMBOLS)
        return Trade(
            "binance", symbol, self.now, self.now, self.trades, str(self.trades), "100.5", "1", "buy"
        )

    def tick(self) -> Tick:
        return Tick("binance", None, None, self.now, None)

    def _entry(self, stream: Stream, events: list[Event]) -> Entry:
        self.k[stream] += len(events)
        return Entry(self.epoch, self.k[stream], [codec.encode(event) for event in events])

    def events(self, n: int) -> Entry:
        """An entry of ``n`` events: trades, a tick, and what is not forwarded."""
        return self._entry("events", [*(self.trade() for _ in range(n - 1)), self.tick()])

    def books(self, n: int, step_ms: int = 7) -> Entry:
        """An entry of ``n`` changes of random books; each symbol begins with a snapshot."""
        events: list[Event] = []
        for i in range(1, n + 1):
            self.now += self.dice.randrange(step_ms * MS) + 1
            symbol = self.dice.choice(SYMBOLS)
            events.append(self._book(symbol, self.k["books"] + i))
        return self._entry("books", events)

    def _book(self, symbol: str, k: int) -> Book:
        view = self.views.get(symbol)
        if view is None:
            view = self.views[symbol] = View()
        fresh = view.k is None or self.dice.random() < 0.02
        bids, asks = self._levels(100, -1, fresh), self._levels(101, 1, fresh)
        book = Book(
            "binance", symbol, None, self.now, k, "snapshot" if fresh else "delta", view.k or 0, "live",
            "sequence", bids, asks, periodic=fresh and view.k is not None,
        )  # fmt: skip
        if fresh and view.k is not None:  # a periodic one repeats what the deltas have said
            bids, asks = view.levels
            book = msgspec.structs.replace(book, bids=bids, asks=asks)
        view.apply(book, k)
        return book

    def _levels(self, price: int, sign: int, whole: bool) -> list[Level]:
        places = range(30) if whole else sorted(self.dice.sample(range(30), 3))
        size = (lambda: "1") if whole else (lambda: self.dice.choice(("0", "1", "2.5")))
        return [(str(price + sign * i), size()) for i in places]


class Streams:
    """The streams of one partition in a server."""

    def __init__(self, server: Server, partition: Partition = PARTITION) -> None:
        self.client = server.client()
        self.keys = Keys()
        self.partition = partition

    def add(self, stream: Stream, entry: Entry) -> None:
        body = b"\n".join(entry.lines)
        fields = {"n": len(entry.lines), "d": body}
        self.client.xadd(self.keys.stream(self.partition, stream), fields, id=str(entry.cursor))

    def cursor(self, stream: Stream, mark: str = "c") -> Cursor | None:
        text = self.client.hget(self.keys.cursor(self.partition, "forwarder"), f"{mark}:{stream}")
        return None if text is None else Cursor.parse(text)

    def trim(self, stream: Stream, to: Cursor) -> None:
        self.client.xtrim(self.keys.stream(self.partition, stream), minid=str(to), approximate=False)


def settings_of(server: Server, url: str | None, *, ttl_s: float = 1.0, **changes: Any) -> Settings:
    fields: dict[str, Any] = {"url": url, "key": KEY, "protocol": "acked", "update_interval_ms": 100}
    return Settings(
        mode="live",
        redis=RedisSettings(url=server.url),
        streams=StreamSettings(lease_ttl_s=ttl_s),
        forwarder=ForwarderSettings(**{**fields, **changes}),
        venues={"binance": VenueSettings(symbols=SYMBOLS)},
    )


class Running:
    """A forwarder in this process."""

    def __init__(self, actor: Actor, metrics: Metrics) -> None:
        self.actor = actor
        self.metrics = metrics
        self.stopped = anyio.Event()

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def stop(self) -> None:
        self.actor.stopping.set()
        with anyio.fail_after(20):
            await self.stopped.wait()


@contextlib.asynccontextmanager
async def forwarding(settings: Settings, *, kill: bool = False) -> AsyncIterator[Running]:
    """Run a forwarder for the length of a block; ``kill``: cancel it in the end, as kill -9 would."""
    metrics = Metrics()
    made = Running(make_actor("forwarder", settings, metrics), metrics)

    async def run() -> None:
        await forwarder.run(made.actor)
        made.stopped.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(run)
        yield made
        if not kill and not made.stopped.is_set():
            await made.stop()
        tg.cancel_scope.cancel()


class Predecessor:
    """A small server like the predecessor's master: it takes what comes on any socket, and says nothing."""

    def __init__(self) -> None:
        self.frames: list[list[str]] = []  # by socket, in the order they were opened
        self.sockets: list[ServerConnection] = []
        self.port = 0

    async def _take(self, socket: ServerConnection) -> None:
        frames: list[str] = []
        self.frames.append(frames)
        self.sockets.append(socket)
        try:
            async for frame in socket:
                assert isinstance(frame, str)
                frames.append(frame)
        except ConnectionClosed:
            return
        finally:
            self.sockets.remove(socket)

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["Predecessor"]:
        async with serve(self._take, "127.0.0.1", port, compression=None, close_timeout=0.1) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def messages(self) -> list[dict[str, Any]]:
        return [
            json.loads(frame)
            for frames in self.frames
            for frame in frames[1:]
            if not frame.startswith('{"op"')
        ]
