"""A master in this process, on a free port, and collectors that speak to it by hand."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect

from actors.config import MasterSettings, Settings, VenueSettings
from actors.dialects import ftsobest
from actors.master.journal import batches, files
from actors.master.server import MasterServer
from actors.master.store import Store
from actors.model.events import Trade
from actors.runtime.metrics import Metrics

KEY = "canary-key-93c1"
PLACE = ("binance.0", "events")


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    with anyio.fail_after(within_s):
        while not condition():
            await anyio.sleep(0.005)


def trade(k: int, epoch: int = 7, partition: str = "binance.0", stream: str = "events") -> str:
    event = Trade("binance", "BTC-USDT", k * 10**6, k * 10**6, k, str(k), "1.5", "2", "buy")
    said = ftsobest.Words("binance", acked=True).say(event, f"{partition}/{stream}/{epoch}-{k}")
    assert said is not None
    return said.text


def plain(k: int, exchange: str = "gateio") -> str:
    event = Trade(exchange, "BTC-USDT", k * 10**6, k * 10**6, k, str(k), "1.5", "2", "buy")
    said = ftsobest.Words(exchange, acked=False).say(event, "")
    assert said is not None
    return said.text


def batch(first: int, last: int, after: int | None = None, epoch: int = 7, place: Any = PLACE) -> str:
    after = first - 1 if after is None else after
    messages = [trade(k, epoch, *place) for k in range(first, last + 1)]
    return ftsobest.batch(
        *place, after=f"{epoch}-{after}", first=f"{epoch}-{first}", last=f"{epoch}-{last}", messages=messages
    )


def stored(folder: Path, *parts: str) -> list[dict[str, Any]]:
    """Return every message of a stream's files."""
    place = folder.joinpath(*parts)
    if not place.exists():
        return []
    return [
        json.loads(line)
        for path in files(place)
        for _, lines, _ in batches(path.read_bytes())
        for line in lines
    ]


class Rig:
    """One master."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = Settings(
            mode="live",
            master=MasterSettings(**{"port": 0, "keys": [KEY, "second"], "folder": folder, **settings}),
            venues={"binance": VenueSettings(symbols=["BTC-USDT"])},
        )
        self.metrics = Metrics()
        self.store = Store(folder, self.settings.master, self.metrics)
        self.server = MasterServer(self.settings, self.metrics, self.store)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}"

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @contextlib.asynccontextmanager
    async def collector(
        self, login: str = ftsobest.login(KEY, acked=True, source="one")
    ) -> AsyncIterator[ClientConnection]:
        async with connect(self.url, proxy=None, compression=None) as socket:
            await socket.send(login)
            yield socket

    def ids(self, source: str = "one", partition: str = "binance.0", stream: str = "events") -> list[int]:
        held = stored(self.folder, "acked", source, partition, stream)
        return [int(message["cursor"].rpartition("-")[2]) for message in held]


@contextlib.asynccontextmanager
async def master(folder: Path, **settings: Any) -> AsyncIterator[Rig]:
    rig = Rig(folder, **settings)
    try:
        await rig.server.start()
        async with anyio.create_task_group() as tg:
            tg.start_soon(rig.store.run)
            yield rig
            await rig.server.stop(0.5)
            tg.cancel_scope.cancel()
        await rig.store.commit()
    finally:
        rig.store.close()


async def heard(socket: ClientConnection) -> dict[str, Any]:
    with anyio.fail_after(30):
        return json.loads(await socket.recv())
