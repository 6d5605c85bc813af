"""The stage loop on a real server: exact, whoever is killed, whatever is lost."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType

import anyio
import pytest

from actors.runtime.lifecycle import Actor, Refused, make_actor
from actors.runtime.loop import Stage, run_stage
from actors.runtime.metrics import Metrics
from actors.stages.fold import Output
from actors.streams.client import connect, hot
from actors.streams.keys import START, Cursor, Keys, Partition
from actors.streams.lease import Lease
from actors.streams.partition import Appender, Entry, entry_of

pytestmark = pytest.mark.redis

KEYS = Keys()
P = Partition("binance", 0)
RAW, EVENTS, DEAD, CONTROL = (KEYS.stream(P, s) for s in ("raw", "events", "dead", "control"))
TOY = Path(__file__).with_name("toy.py")


def _load_toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy", TOY)
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy"] = module
    spec.loader.exec_module(module)
    return module


toy = _load_toy()


def raw_line(word: str) -> bytes:
    return f"{time.time_ns()} - f {word}".encode()


def told(words: list[str], skipping: frozenset[int] = frozenset()) -> list[tuple[int, bytes]]:
    """What an undisturbed fold says: (k, text)."""
    fold, out = toy.Toy(P, None), Output(("events", "control", "dead"))
    pace, toy.Toy.pace_s = toy.Toy.pace_s, 0.0
    for k, word in enumerate(words, 1):
        if k not in skipping:
            fold.fold(k, raw_line(word), out)
    toy.Toy.pace_s = pace
    return list(enumerate(out.lines["events"], 1))


def entries(client, stream: str) -> list[Entry]:
    # The server's client decodes; entries want bytes.
    return [
        entry_of(i.encode(), [f.encode() for pair in fields.items() for f in pair])
        for i, fields in client.xrange(stream)
    ]


def said(client, stream: str = EVENTS) -> list[tuple[int, bytes]]:
    return [(e.first + i, line) for e in entries(client, stream) for i, line in enumerate(e.lines)]


async def eventually(true: Callable[[], object], within_s: float = 15.0) -> object:
    deadline = time.monotonic() + within_s
    while not (value := true()):
        assert time.monotonic() < deadline, "the condition did not come true"
        await anyio.sleep(0.01)
    return value


class Feed:
    """The connector's side: appends words under a lease of its own."""

    def __init__(self, appender: Appender) -> None:
        self.appender = appender
        self.words: list[str] = []

    async def push(self, words: list[str], batch: int = 7) -> None:
        for at in range(0, len(words), batch):
            some = words[at : at + batch]
            await self.appender.append([raw_line(w) for w in some])
            self.words += some


@asynccontextmanager
async def feeding(settings) -> AsyncIterator[Feed]:
    client = await connect(settings, "test")
    connection = await hot(settings, RAW)
    lease = Lease(client, KEYS, P, role="connector", leg="a", owner="feed", ttl_s=3600)
    assert await lease.take()
    try:
        yield Feed(await Appender.open(connection, KEYS, P, "a", lease))
    finally:
        await connection.aclose()
        await client.aclose()


@asynccontextmanager
async def running(settings, stage: Stage = toy.STAGE, metrics: Metrics | None = None) -> AsyncIterator[Actor]:
    actor = make_actor(stage.role, settings, metrics or Metrics())
    async with anyio.create_task_group() as tg:
        tg.start_soon(run_stage, actor, stage)
        yield actor
        actor.stopping.set()


@contextmanager
def child(server, ttl_s: float = 0.5, pace_s: float = 0.0) -> Iterator[subprocess.Popen]:
    command = [sys.executable, str(TOY), server.url, str(ttl_s), str(pace_s)]
    process = subprocess.Popen(
        command, cwd=TOY.parents[2], env={**os.environ, "PORT": "0"}, stderr=sys.stderr
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()


def words(n: int, start: int = 0) -> list[str]:
    odd = {3: "quiet", 11: "many 3"}
    return [odd.get(i % 17, f"w{i}") for i in range(start, start + n)]


def value(metrics: Metrics, name: str) -> float:
    return sum(s.value for family in metrics.registry.collect() for s in family.samples if s.name == name)


async def test_what_is_appended_comes_out_once_in_order(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed, running(settings):
            await feed.push(words(500))
            want = told(feed.words)
            await eventually(lambda: len(said(client)) == len(want))
            assert said(client) == want
            assert client.get(KEYS.latest(P, "top", "BTC-USDT")) == str(500 * 501 // 2)
            assert len(said(client, CONTROL)) == 10


async def test_a_stop_leaves_a_checkpoint_at_the_cursor_and_frees_the_lease(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed:
            async with running(settings):
                await feed.push(words(100))
                await eventually(
                    lambda: client.hget(KEYS.cursor(P, "toy"), "c:raw") == client.hget(KEYS.writer(P), "id")
                )
                began = time.monotonic()
            assert time.monotonic() - began < 2.5
            assert client.hget(KEYS.state(P, "toy"), "c:raw") == client.hget(KEYS.cursor(P, "toy"), "c:raw")
            assert client.hget(KEYS.lease(P, "toy"), "until") == "0"
            assert client.hgetall(KEYS.members("toy")) == {}
            async with running(settings):
                await feed.push(words(100, 100))
                want = told(feed.words)
                await eventually(lambda: len(said(client)) == len(want))
            assert said(client) == want
