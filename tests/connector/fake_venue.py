"""A venue of a few lines that speaks as Binance does, and misbehaves when told to."""

import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import anyio
import msgspec
from redis import Redis
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from actors.config import Settings, VenueSettings
from actors.connector import run
from actors.runtime.metrics import Metrics
from actors.stages.control import ControlRequest
from actors.stages.raw import split
from actors.streams.keys import Keys, Partition

PARTITION = Partition("binance", 0)
KEYS = Keys()
RAW = KEYS.stream(PARTITION, "raw")
CONTROL = KEYS.stream(PARTITION, "control")


class Line:
    """A line of raw, taken apart."""

    def __init__(self, text: bytes) -> None:
        self.recv, self.conn, self.kind, payload = split(text)
        self.payload = payload.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    def __repr__(self) -> str:
        return f"{self.conn} {self.kind} {self.payload[:80]}"


def listing(*symbols: str) -> str:
    rows = []
    for symbol in symbols:
        base, quote = symbol.split("-")
        rows.append({"symbol": base + quote, "status": "TRADING", "baseAsset": base, "quoteAsset": quote})
    return json.dumps({"symbols": rows})


def trade(number: int, native: str = "BTCUSDT") -> str:
    data = {"e": "trade", "E": 1723161255343, "s": native, "t": number, "p": "61837.63", "q": "0.02",
            "T": 1723161255342, "m": True}  # fmt: skip
    return json.dumps({"stream": f"{native.lower()}@trade", "data": data}, separators=(",", ":"))


class FakeVenue:
    """Sockets and REST on one port.

    Attributes:
        sockets: Every connection that came in, in order.
        received: (number of the connection, frame) as they came.
        asked: Paths of REST requests; ``posted``: of those by POST.
        dialed: Paths of attempts to connect.
        answers: What the next REST requests of a path prefix get: (status, headers, body).
        refusals: What the next connects get instead of a socket: (status, headers).
        acknowledges: Whether subscriptions are answered.
        welcome: What a connection is told at once, None for nothing.
        greets: Frames sent after the acknowledgement of a subscription.
    """

    def __init__(self, *symbols: str) -> None:
        self.listing = listing(*(symbols or ("BTC-USDT", "ETH-USDT")))
        self.sockets: list[ServerConnection] = []
        self.received: list[tuple[int, dict[str, Any]]] = []
        self.asked: list[str] = []
        self.posted: list[str] = []
        self.dialed: list[str] = []
        self.welcome: str | None = None
        self.answers: dict[str, deque[tuple[int, dict[str, str], str]]] = {}
        self.refusals: deque[tuple[int, dict[str, str]]] = deque()
        self.connects = 0
        self.acknowledges = True
        self.greets: Callable[[], list[str]] = list
        self.server: Server | None = None
        self.port = 0

    @property
    def settings(self) -> VenueSettings:
        return VenueSettings(
            symbols=["BTC-USDT"],
            channels=["trade"],
            ws_url=f"ws://127.0.0.1:{self.port}",
            rest_url=f"http://127.0.0.1:{self.port}",
        )

    def venue(self, **changes: Any) -> dict[str, VenueSettings]:
        return {"binance": self.settings.model_copy(update=changes)}

    @property
    def open(self) -> list[ServerConnection]:
        return [socket for socket in self.sockets if socket.close_code is None]

    def answer(self, path: str, body: str, status: int = 200, **headers: str) -> None:
        self.answers.setdefault(path, deque()).append((status, headers, body))

    async def push(self, *frames: str | bytes) -> None:
        for socket in self.open:
            with suppress(ConnectionClosed):  # it was open a moment ago
                for frame in frames:
                    await socket.send(frame)

    def _process(self, _socket: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            self.connects += 1
            self.dialed.append(request.path)
            return self._response(*self.refusals.popleft(), "") if self.refusals else None
        (self.asked if request.method == "GET" else self.posted).append(request.path)
        for path, answers in self.answers.items():
            if answers and request.path.startswith(path):
                return self._response(*answers.popleft())
        if request.path.startswith("/api/v3/exchangeInfo"):
            return self._response(200, {}, self.listing)
        if request.path.startswith("/api/v3/depth"):
            return self._response(200, {}, '{"lastUpdateId":1,"bids":[],"asks":[]}')
        return self._response(404, {}, "{}")

    @staticmethod
    def _response(status: int, headers: dict[str, str], body: str) -> Response:
        data = body.encode()
        named = Headers({name.replace("_", "-"): value for name, value in headers.items()})
        named["Content-Length"] = str(len(data))
        return Response(status, "said", named, data)

    async def _handle(self, socket: ServerConnection) -> None:
        number = len(self.sockets)
        self.sockets.append(socket)
        try:
            if self.welcome is not None:
                await socket.send(self.welcome)
            async for text in socket:
                frame = json.loads(text)
                self.received.append((number, frame))
                if self.acknowledges and "id" in frame:
                    await socket.send(json.dumps({"result": None, "id": frame["id"]}))
                    for greeting in self.greets():
                        await socket.send(greeting)
        except ConnectionClosed:
            return

    async def start(self, port: int = 0) -> None:
        self.server = await serve(
            self._handle, "127.0.0.1", port, process_request=self._process, compression=None, close_timeout=1
        )
        self.port = next(iter(self.server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()
            self.server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class Actor:
    """What ``run`` needs of an actor."""

    def __init__(self, settings: Settings, number: int = 1) -> None:
        self.settings = settings
        self.keys = KEYS
        self.role = "connector"
        self.instance = f"connector.test.{number}"
        self.number = number
        self.metrics = Metrics()
        self.metrics_address = None
        self.stopping = anyio.Event()

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def running(settings: Settings, number: int = 1) -> AsyncIterator[Actor]:
    """Run a connector for the length of the block, then stop it as SIGTERM does."""
    actor = Actor(settings, number)
    async with anyio.create_task_group() as tg:
        tg.start_soon(run, actor)
        yield actor
        actor.stopping.set()


async def until(condition: Callable[[], Any], seconds: float = 8.0) -> Any:
    """Return what ``condition`` returns, once it is true."""
    with anyio.fail_after(seconds):
        while not (found := condition()):
            await anyio.sleep(0.01)
    return found


def lines(client: Redis) -> list[Line]:
    """Return all of raw."""
    entries: Any = client.xrange(RAW)
    return [Line(text.encode()) for _, fields in entries for text in fields["d"].split("\n")]


def kinds(client: Redis) -> str:
    return "".join(line.kind for line in lines(client))


def of(client: Redis, kind: str) -> list[Line]:
    return [line for line in lines(client) if line.kind == kind]


def ask(client: Redis, *requests: ControlRequest) -> None:
    """Append one entry of requests to control."""
    text = b"\n".join(msgspec.json.encode(request) for request in requests)
    client.xadd(CONTROL, {"n": len(requests), "d": text})
