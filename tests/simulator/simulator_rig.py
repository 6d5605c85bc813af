"""A simulator on a free port, with clients that wait for what they want to see."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import msgspec
import websockets
from websockets.asyncio.client import ClientConnection

from actors.simulator.binance import LISTINGS
from actors.simulator.server import serving
from actors.simulator.simulation import Simulator

DEADLINE_S = 10


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
    async def connect(self, path: str, **more: Any) -> AsyncIterator[ClientConnection]:
        url = f"ws://127.0.0.1:{self.port}/binance{path}"
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
