"""A client cut off and a broadcaster killed -9, again and again, under load: each cursor once.

``TAPELINE_NATIVE_ROUNDS=50`` is the longer form (``make chaos``).
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from broadcaster_rig import Script, until
from load_rig import Load, arrived, each_once, same_books
from native_rig import Heard, NativeClient, dial, side
from redis_rig import Server, free_port
from websockets.exceptions import WebSocketException

pytestmark = [pytest.mark.redis, pytest.mark.timeout(900)]
ROUNDS = int(os.environ.get("TAPELINE_NATIVE_ROUNDS", "2"))
WITHIN_S = 60  # a process starts in one second, on a machine that is busy with other tests in many
CONFIG = """
mode = "demo"
[broadcaster]
port = {port}
heartbeat_s = 0.3
[venues.binance]
symbols = ["BTC-USDT", "ETH-USDT"]
ws_url = "ws://127.0.0.1:1"
rest_url = "http://127.0.0.1:1"
"""


class Broadcaster:
    """The actor, as a supervisor runs it; started again when it is killed."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.port = free_port()
        self._config = folder / "tapeline.toml"
        self._config.write_text(CONFIG.format(port=self.port))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TAPELINE_")}
        self._env = {**kept, "REDIS_URL": server.url}
        self._out = folder / "broadcaster.log"
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "actors", "run", "broadcaster", "--config", str(self._config)]
        with self._out.open("ab") as out:
            return subprocess.Popen(command, env=self._env, stdout=out, stderr=out)

    def kill9(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = self._start()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Follower:
    """One client for ever: it comes back whenever it is cut off, and goes on by its cursors."""

    def __init__(self, url: str, **wishes: Any) -> None:
        self.url = url
        self.wishes = wishes
        self.heard = Heard(keep=False)
        self.first: dict[str, int] = {}
        self.client: NativeClient | None = None
        self.connections = 0

    async def run(self) -> None:
        while True:
            try:
                self.client = await dial(self.url, self.heard)
            except (OSError, WebSocketException):  # it is being killed, or starts
                await anyio.sleep(0.02)
                continue
            self.connections += 1
            await self._talk(self.client)

    async def _talk(self, client: NativeClient) -> None:
        begin = client.resume if self.heard.lives else client.subscribe
        if await client.survives(begin(**self.wishes)):
            if not self.first and await client.survives(client.until("live")):
                self.first = {stream: int(c.split("-")[1]) for stream, c in self.heard.cursors.items()}
            await client.pump()

    def cut(self) -> None:
        if self.client is not None:
            self.client.connection.transport.abort()


async def test_neither_cut_clients_nor_a_killed_broadcaster_cost_an_event(redis_server, tmp_path: Path):
    server = redis_server("valkey")
    load, rng = Load(server, Script()), random.Random(ROUNDS)
    for _ in range(5):
        load.write()
    broadcaster = Broadcaster(tmp_path, server)
    url = f"ws://127.0.0.1:{broadcaster.port}"
    everything = Follower(url)
    trades = Follower(url, kinds=["trade"], symbols=["ETH-*"])
    books = Follower(url, kinds=["book", "l1"], symbols=["BTC-USDT"])
    view = Follower(url, kinds=["book", "trade"], depth=5, interval_ms=50)
    followers = (everything, trades, books, view)
    try:
        async with anyio.create_task_group() as tg:
            for follower in followers:
                tg.start_soon(follower.run)
            await until(lambda: all(follower.first for follower in followers), WITHIN_S)
            tg.start_soon(load.run, 0.01)
            for _ in range(ROUNDS):
                for _ in range(rng.randint(1, 3)):
                    await anyio.sleep(rng.uniform(0, 0.2))
                    rng.choice(followers).cut()
                for follower in followers:  # never before everybody is connected: each kill is one to them
                    was = follower.connections
                    follower.cut()
                    await until(
                        lambda f=follower, n=was: f.connections > n and f.client is not None, WITHIN_S
                    )
                await anyio.sleep(rng.uniform(0, 0.3))
                counts = [follower.connections for follower in followers]
                await anyio.to_thread.run_sync(broadcaster.kill9)
                await until(
                    lambda c=counts: all(f.connections > n for f, n in zip(followers, c, strict=True)),
                    WITHIN_S,
                )
            load.stopped = True
            await until(lambda: all(arrived(follower.heard, load) for follower in followers), WITHIN_S)
            await anyio.sleep(0.2)  # a view's last word
            tg.cancel_scope.cancel()
    finally:
        broadcaster.close()
    each_once(everything.heard, load, everything.first)
    same_books(everything.heard, load)
    each_once(trades.heard, load, trades.first, {"trade"}, "ETH-*")
    each_once(books.heard, load, books.first, {"book", "l1"}, "BTC-USDT")
    each_once(view.heard, load, view.first, {"trade"})
    for symbol, (bids, asks) in load.books.items():
        said = view.heard.last["book", symbol]
        assert side(said["bids"]) == {p: bids[p] for p in sorted(bids, reverse=True)[:5]}
        assert side(said["asks"]) == {p: asks[p] for p in sorted(asks)[:5]}
    assert not any(follower.heard.notices for follower in followers)
