"""A whole broadcaster in this process, on a real server, beside a stage that writes its streams."""

import contextlib
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import anyio
from broadcaster_rig import PARTITION, Script, heard, until
from native_rig import Heard, NativeClient, dial
from websockets.asyncio.client import ClientConnection, connect

from actors import broadcaster
from actors.config import Settings
from actors.model.events import Event
from actors.runtime.metrics import Metrics
from actors.streams.keys import Keys, Stream


class Stage:
    """Writes entries the way a stage's commit does, and runs a broadcaster beside."""

    def __init__(self, server: Any, settings: Settings) -> None:
        self.server = server
        self.settings = settings
        self.script = Script()
        self.keys = Keys()
        self.metrics = Metrics()
        self.stopping = anyio.Event()

    def write(self, stream: Stream, *events: Event) -> None:
        _, entry = self.script.entry(stream, *events)
        fields = {"n": len(entry.lines), "d": b"\n".join(entry.lines)}
        with self.server.client() as client:
            client.xadd(self.keys.stream(PARTITION, stream), fields, id=str(entry.cursor))

    def write_line(self, stream: Stream, line: bytes) -> None:
        self.script.k[stream] += 1
        with self.server.client() as client:
            client.xadd(
                self.keys.stream(PARTITION, stream), {"n": 1, "d": line}, id=f"1-{self.script.k[stream]}"
            )

    @contextlib.asynccontextmanager
    async def broadcasting(self) -> AsyncIterator[None]:
        actor: Any = SimpleNamespace(
            settings=self.settings, keys=self.keys, role="broadcaster", instance="broadcaster.here.1.0",
            number=1, metrics=self.metrics, metrics_address=None, stopping=self.stopping,
        )  # fmt: skip
        async with anyio.create_task_group() as tg:
            tg.start_soon(broadcaster.run, actor)
            try:
                await until(lambda: self.listening, 10)
                yield
            finally:
                self.stopping.set()

    @property
    def listening(self) -> bool:

        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.settings.broadcaster.port)) == 0

    @contextlib.asynccontextmanager
    async def client(self, query: str = "") -> AsyncIterator[ClientConnection]:
        url = f"ws://127.0.0.1:{self.settings.broadcaster.port}/{query}"
        async with connect(url, proxy=None, compression=None) as client:
            assert (await heard(client))["type"] == "welcome"
            yield client

    async def stands_at(self, cursor: str) -> None:
        """Return once it reads ``events`` from ``cursor`` on: what came before is not told."""
        url = f"http://127.0.0.1:{self.settings.broadcaster.port}/healthz"
        async with aiohttp.ClientSession() as http:
            with anyio.fail_after(20):
                while True:
                    async with http.get(url) as answer:
                        partitions = (await answer.json())["partitions"]
                    if partitions[str(PARTITION)]["cursors"]["events"] == cursor:
                        return

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.settings.broadcaster.port}"

    async def native(self, of: Heard | None = None) -> NativeClient:
        return await dial(self.url, of)
