"""Serves recorded frames of one venue: its sockets and its REST on one port of 127.0.0.1.

A recording is JSON lines of ``dir`` (``in``: a frame, ``http``: a REST answer), ``raw`` (its exact text, or
``raw_b64`` its bytes) and ``url``. Frames follow the first subscription, in the order of the recording and as
fast as they are read. Where a REST answer stands in it they wait until it has been asked for, so that a
snapshot falls where it fell. What differs from venue to venue is a ``Manner``.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self
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


def frame_in(row: Mapping[str, Any]) -> str | bytes:
    """Return a recorded frame as it came: text, or binary."""
    return base64.b64decode(row["raw_b64"]) if "raw_b64" in row else row["raw"]


Natives = Mapping[str, tuple[str, str]]  # native symbol -> base, quote


def _symbol(url: str) -> str:
    return parse_qs(urlsplit(url).query).get("symbol", [""])[0] if "/depth?" in url else ""


def _binance_listing(natives: Natives) -> Any:
    rows = [
        {"symbol": native, "status": "TRADING", "baseAsset": base, "quoteAsset": quote}
        for native, (base, quote) in natives.items()
    ]
    return {"symbols": rows}


class Manner(NamedTuple):
    """How a venue is asked.

    Attributes:
        listing: Path of the instrument list, and the list itself as JSON or as it was recorded.
        asked: URL of a REST request -> which recorded answer it wants, empty for none.
        answer: The first frame that comes in -> what answers it and is not in the recording.
        waits: Where a REST answer stands, frames wait for its request.
        also: Path of another request, and its answer.
        greeting: What a connection is told before it says anything, empty for nothing.
    """

    listing: tuple[str, Callable[[Natives], Any]]
    asked: Callable[[str], str] = lambda _url: ""
    answer: Callable[[Any], Any] = lambda _asked: None
    waits: bool = True
    also: tuple[str, str] = ("", "")
    greeting: str = ""


BINANCE = Manner(
    ("/api/v3/exchangeInfo", _binance_listing), _symbol, lambda asked: {"result": None, "id": asked["id"]}
)


class Replay:
    """One recording, served.

    Attributes:
        rest_of: What is asked for -> the recorded answer.
        played: Set once the last frame was sent.
        connects: Connections that came in.
        sent: Frames that were sent.

    Frames follow once ``asks`` frames have come in.
    """

    def __init__(
        self, rows: Iterable[Mapping[str, Any]], natives: Natives, manner: Manner = BINANCE, asks: int = 1
    ) -> None:
        self.asks = asks
        self.rows = list(rows)
        self.natives = natives
        self.manner = manner
        self.rest_of = {manner.asked(row["url"]): row["raw"] for row in self.rows if row["dir"] == "http"}
        self.played = anyio.Event()
        self.connects = self.sent = 0
        self.port = 0
        self._asked = {asked: anyio.Event() for asked in self.rest_of}
        self._server: Server | None = None

    def _process(self, _socket: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        path, listing = self.manner.listing
        if request.path.startswith(path):
            listed = listing(self.natives)
            return _response(200, listed if isinstance(listed, str) else json.dumps(listed))
        if request.path == self.manner.also[0]:
            return _response(200, self.manner.also[1])
        asked = self.manner.asked(request.path)
        if asked in self.rest_of:
            self._asked[asked].set()
            return _response(200, self.rest_of[asked])
        return _response(404, "{}")

    async def _handle(self, socket: ServerConnection) -> None:
        self.connects += 1
        try:
            if self.manner.greeting:
                await self._send(socket, self.manner.greeting)
            asked = [json.loads(await socket.recv()) for _ in range(self.asks)]
            answer = self.manner.answer(asked[0])
            if answer is not None:
                await self._send(socket, json.dumps(answer))
            await self._play(socket)
            async for _ in socket:
                pass
        except ConnectionClosed:
            return

    async def _send(self, socket: ServerConnection, frame: str | bytes) -> None:
        await socket.send(frame)
        self.sent += 1

    async def _play(self, socket: ServerConnection) -> None:
        for row in self.rows:
            if row["dir"] == "in":
                await self._send(socket, frame_in(row))
            elif row["dir"] == "http" and self.manner.waits:
                with anyio.fail_after(30):
                    await self._asked[self.manner.asked(row["url"])].wait()
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


def _response(status: int, body: str) -> Response:
    data = body.encode()
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(data))})
    return Response(status, "recorded", headers, data)
