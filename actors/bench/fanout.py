"""Both ends of the fan-out row: events straight into ``events``, and a process full of cheap clients."""

import asyncio
import time
from pathlib import Path
from typing import Final, cast

import redis
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from actors.bench.bare import run_on_uvloop
from actors.bench.progress import Progress
from actors.model.codec import encode
from actors.model.events import Tick, Trade
from actors.streams.keys import Keys, Partition

_AHEAD: Final = 2000  # events in flight; a hundred clients each have as many frames to take
_BATCH: Final = 64
_EVENTS: Final = Keys().stream(Partition("binance", 0), "events")


def feed(port: int, progress_path: Path, ahead: int = _AHEAD) -> None:
    """Append trades, numbered and packed as the normalizer does, as fast as they are taken at the end."""
    client = redis.Redis(port=port)
    progress = Progress(progress_path)
    while not progress["ready"]:
        time.sleep(0.01)
    sent = 0
    while not (progress["stop"] or progress["halt"]):
        if sent - progress["received"] >= ahead:
            time.sleep(0.0005)
            continue
        now = time.time_ns()
        trades = (
            Trade("binance", "BTC-USDT", now, now, i, str(10**12 + i), "61837.63000000", "0.02000000", "buy")
            for i in range(sent, sent + _BATCH - 1)
        )
        lines = [*map(encode, trades), encode(Tick("binance", None, None, now, None))]
        number = sent // (_BATCH - 1) * _BATCH + _BATCH
        client.xadd(_EVENTS, {"n": _BATCH, "d": b"\n".join(lines)}, id=f"1-{number}", maxlen=1000)
        sent += _BATCH - 1
        progress["sent"] = sent


class _Client(asyncio.Protocol):
    """One WebSocket client: the library's handshake, then frames are only counted, by their length."""

    def __init__(self, uri: str) -> None:
        self._protocol = ClientProtocol(parse_uri(uri))
        self._open = False
        self.bytes = 0
        self.frame = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.send_request(self._protocol.connect())
        cast("asyncio.WriteTransport", transport).write(b"".join(self._protocol.data_to_send()))

    def data_received(self, data: bytes) -> None:
        if self._open:
            self.bytes += len(data)
            return
        self._protocol.receive_data(data)
        # The handshake's answer, the welcome, and perhaps the first trade, which gives the frame's length.
        for event in self._protocol.events_received():
            payload = getattr(event, "data", b"")
            if payload.startswith(b'{"time_exchange"'):
                self._open = True
                self.frame = len(payload) + 4

    @property
    def frames(self) -> int:
        """How many frames came after the first."""
        return self.bytes // self.frame if self.frame else 0


def listen(port: int, clients: int, progress_path: Path) -> None:
    """Connect ``clients`` and count what the slowest of them has received."""
    run_on_uvloop(_listen, port, clients, Progress(progress_path))


async def _listen(port: int, clients: int, progress: Progress) -> None:
    loop = asyncio.get_running_loop()
    uri = f"ws://127.0.0.1:{port}/"
    connected = [
        (await loop.create_connection(lambda: _Client(uri), "127.0.0.1", port))[1] for _ in range(clients)
    ]
    await asyncio.sleep(0.5)
    progress["ready"] = 1
    while not progress["stop"]:
        await asyncio.sleep(0.001)
        progress["received"] = min(client.frames for client in connected)
