"""Serves recorded frames of one venue: its sockets and its REST on one port of 127.0.0.1.

A recording is JSON lines of ``dir`` (``in``: a frame, ``http``: a REST answer), ``raw`` (its exact text) and
``url``. Frames follow the first subscription, in the order of the recording and as fast as they are read.
Where a REST answer stands in it they wait until it has been asked for, so that a snapshot falls where it
fell.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

WIRE = Path(__file__).parents[2] / "shared" / "wire"


def recording(name: str) -> list[dict[str, Any]]:
    """Return the lines of ``../shared/wire/<name>.jsonl``; skips the test, saying so, where it is missing."""
    path = WIRE / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded frames at ../shared/wire/{name}.jsonl")
    return [json.loads(text) for text in path.read_text().splitlines()]


class Replay:
    """One recording of Binance's, served.

    Attributes:
        rest_of: Native symbol -> the recorded depth snapshot.
        played: Set once the last frame was sent.
        connects: Connections that came in.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], natives: Mapping[str, tuple[str, str]]) -> None:
        self.rows = list(rows)
        self.natives = natives
        self.rest_of = {_symbol(row["url"]): row["raw"] for row in self.rows if row["dir"] == "http"}
        self.played = anyio.Event()
        self.connects = 0
        self.port = 0
        self._asked = {native: anyio.Event() for native in self.rest_of}
        self._server: Server | None = None

    def _listing(self) -> str:
        rows = [
            {"symbol": native, "status": "TRADING", "baseAsset": base, "quoteAsset": quote}
            for native, (base, quote) in self.natives.items()
        ]
        return json.dumps({"symbols": rows})

    def _process(self, _socket: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        if request.path.startswith("/api/v3/exchangeInfo"):
            return _response(200, self._listing())
        native = _symbol(request.path)
        if request.path.startswith("/api/v3/depth") and native in self.rest_of:
            self._asked[native].set()
            return _response(200, self.rest_of[native])
        return _response(404, "{}")

    async def _handle(self, socket: ServerConnection) -> None:
        self.connects += 1
        try:
            asked = json.loads(await socket.recv())
            await socket.send(json.dumps({"result": None, "id": asked["id"]}))
            await self._play(socket)
            async for _ in socket:
                pass
        except ConnectionClosed:
            return

    async def _play(self, socket: ServerConnection) -> None:
        for row in self.rows:
            if row["dir"] == "in":
                await socket.send(row["raw"])
            elif row["dir"] == "http":
                with anyio.fail_after(10):
                    await self._asked[_symbol(row["url"])].wait()
        self.played.set()

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle, "127.0.0.1", 0, process_request=self._process, compression=None, close_timeout=1
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


def _symbol(url: str) -> str:
    return parse_qs(urlsplit(url).query).get("symbol", [""])[0]


def _response(status: int, body: str) -> Response:
    data = body.encode()
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(data))})
    return Response(status, "recorded", headers, data)
