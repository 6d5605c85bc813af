"""A venue at a desk, its clock moved by hand; and a simulator on a free port, with clients that wait."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import anyio
import msgspec
import websockets
from websockets.asyncio.client import ClientConnection

from actors.simulator.binance import LISTINGS
from actors.simulator.faults import Fault, Faults, Hurt
from actors.simulator.market import Market
from actors.simulator.server import serving
from actors.simulator.session import Reply, Session
from actors.simulator.simulation import Simulator
from actors.simulator.street import load
from actors.simulator.venue import accept, hear

DEADLINE_S = 10
START = 1_767_225_600_000_000_000
MS = 1_000_000
S = 1_000_000_000


class Desk:
    """One venue without a socket, with a clock that the test moves."""

    def __init__(self, name: str, *symbols: str, seed: int = 1) -> None:
        file = load(name)
        self.now = START
        chosen = [each for each in file.LISTINGS if not symbols or each.symbol in symbols]
        self.faults = Faults()
        self.market = Market(seed, chosen, START // 1000)
        self.venue = file.serve(self.market, self.faults, START, chosen)
        self.house = self.venue.house
        self.opened = 0
        self.still = False  # nobody trades, no order comes

    def knock(self, url: str) -> Session | Reply:
        """Try to open a connection; scheme and host of ``url`` do not matter."""
        self.opened += 1
        parts = urlsplit(url)
        return accept(self.venue, self.opened, parts.path, dict(parse_qsl(parts.query)), self.now)

    def open(self, url: str) -> Session:
        session = self.knock(url)
        assert isinstance(session, Session)
        return session

    def run(self, seconds: float, step_s: float = 0.1) -> None:
        """Let the market go on at its own pace, a step at a time."""
        until = self.now + int(seconds * S)
        while self.now < until:
            self.now += int(step_s * S)
            while not self.still and START + self.market.due * S <= self.now:
                self.market.step(START + int(self.market.due * S))
            self.venue.publish(self.now)

    def tell(self, session: Session, text: str) -> None:
        """Let the client say something, never too fast."""
        self.now += S
        hear(self.venue, session, text, self.now)

    def say(self, session: Session, text: str) -> Any:
        """The same; return the one answer."""
        session.out.clear()
        self.tell(session, text)
        assert len(session.out) == 1
        return msgspec.json.decode(session.out.pop())

    def ask(self, path: str, **query: str) -> Reply:
        return self.venue.rest(path, query, self.now)

    def get(self, path: str, **query: str) -> Any:
        reply = self.ask(path, **query)
        assert reply.status == 200, reply.body
        return msgspec.json.decode(reply.body)

    def fault(self, kind: str, *sessions: Session, **more: object) -> None:
        """Begin a fault; one of frames is in those of ``sessions``."""
        fault = msgspec.convert({"kind": kind, **more}, Fault)
        if sessions:
            for session in sessions:
                session.wounds.append(Hurt(1, fault, self.venue.edits))
        else:
            self.faults.ask(fault, self.now)
            self.faults.due(self.now)


def heard(session: Session) -> list[Any]:
    """Return what a session was told since the last time."""
    documents = [msgspec.json.decode(payload) for payload in session.out]
    session.out.clear()
    return documents


class Rig:
    def __init__(self, simulator: Simulator, port: int, http: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.port = port
        self.http = http

    async def get(self, path: str, **query: object) -> Any:
        status, document, _ = await self.ask(path, **query)
        assert status == 200, document
        return document

    async def ask(self, path: str, **query: object) -> tuple[int, Any, dict[str, str]]:
        params = {name: str(value) for name, value in query.items()}
        async with self.http.get(f"http://127.0.0.1:{self.port}{path}", params=params) as answer:
            body = await answer.read()
            return answer.status, msgspec.json.decode(body) if body else None, dict(answer.headers)

    async def post(self, path: str, status: int = 200, /, **document: object) -> Any:
        async with self.http.post(f"http://127.0.0.1:{self.port}{path}", json=document) as answer:
            body = await answer.json()
            assert answer.status == status, body
            return body

    async def fault(self, kind: str, **more: object) -> Any:
        return await self.post("/control/fault", kind=kind, **more)

    @asynccontextmanager
    async def connect(
        self, path: str, venue: str = "binance", **more: Any
    ) -> AsyncIterator[ClientConnection]:
        url = f"ws://127.0.0.1:{self.port}/{venue}{path}"
        async with websockets.connect(url, max_size=None, close_timeout=1, **more) as ws:
            yield ws

    def stream(self, *names: str) -> Any:
        return self.connect("/stream?streams=" + "/".join(names))


@asynccontextmanager
async def rig(simulator: Simulator | None = None, pace: float | None = 2_000) -> AsyncIterator[Rig]:
    if simulator is None:
        two = [each for each in LISTINGS if each.symbol in ("BTC-USDT", "ETH-USDT")]
        simulator = Simulator(seed=1, events_per_s=pace, listings=two)
    async with serving(simulator) as port, aiohttp.ClientSession() as http:
        yield Rig(simulator, port, http)


async def frame(ws: ClientConnection, wanted: Callable[[Any], bool] = bool) -> Any:
    """Return the next frame, decoded, that is wanted."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            document = msgspec.json.decode(await ws.recv())
            if wanted(document):
                return document


async def frames(ws: ClientConnection, n: int) -> list[Any]:
    return [await frame(ws) for _ in range(n)]


async def past(ws: ClientConnection, happened: Callable[[Any, Any], bool], n: int = 40) -> list[Any]:
    """Return the frames up to the first that ``happened(before, it)`` accepts, and ``n`` more.

    What waited when a fault began comes first, however much a busy machine let wait.
    """
    seen = [await frame(ws), await frame(ws)]
    with anyio.fail_after(DEADLINE_S):
        while not happened(*seen[-2:]):
            seen.append(await frame(ws))
    return seen + await frames(ws, n)


async def command(ws: ClientConnection, method: str, *params: object, request: object = 1) -> Any:
    """Send a control message; return its answer."""
    document: dict[str, object] = {"method": method, "id": request}
    if params:
        document["params"] = list(params)
    await ws.send(msgspec.json.encode(document).decode())
    return await frame(ws, lambda answer: "result" in answer or "code" in answer)


async def closed(ws: ClientConnection) -> tuple[int | None, str]:
    """Return how the connection ended."""
    with anyio.fail_after(DEADLINE_S):
        try:
            while True:
                await ws.recv()
        except websockets.ConnectionClosed as e:
            return (e.rcvd.code, e.rcvd.reason) if e.rcvd else (None, "")


async def silent(ws: ClientConnection, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        await ws.recv()
        return False
    return True
