"""The stage loop on a real server: exact, whoever is killed, whatever is lost."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType

import anyio
import pytest

from actors.runtime import commits as committing
from actors.runtime import folding, housekeeping
from actors.runtime.lifecycle import Actor, Refused, make_actor
from actors.runtime.loop import run_stage
from actors.runtime.metrics import Metrics
from actors.runtime.stage import Stage
from actors.stages.fold import Output
from actors.streams.client import connect, hot
from actors.streams.keys import Cursor, Keys, Partition
from actors.streams.lease import Lease
from actors.streams.ledger import Ledger
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


async def eventually(true: Callable[[], object], within_s: float = 30.0) -> object:
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


async def test_killed_again_and_again_it_says_the_same_to_the_byte(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed:
            await feed.push(words(1500))
            want = told(feed.words)
            for _ in range(3):
                with child(server, ttl_s=0.3, pace_s=0.0005):
                    start = len(said(client))
                    await eventually(lambda start=start: len(said(client)) > start + 150)
            with child(server, ttl_s=0.3):
                await eventually(lambda: len(said(client)) >= len(want))
            assert said(client) == want


async def test_a_stopped_owner_is_succeeded_and_fenced_when_it_wakes(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed:
            await feed.push(words(200))
            with child(server, ttl_s=0.3, pace_s=0.001) as first:
                await eventually(lambda: said(client))
                first.send_signal(signal.SIGSTOP)
                was = client.hget(KEYS.lease(P, "toy"), "owner")
                with child(server, ttl_s=0.3, pace_s=0.0002):
                    await eventually(lambda: client.hget(KEYS.lease(P, "toy"), "owner") != was)
                    first.send_signal(signal.SIGCONT)
                    await feed.push(words(800, 200))
                    want = told(feed.words)
                    await eventually(lambda: len(said(client)) >= len(want))
                    assert said(client) == want
                    assert first.poll() is None


async def test_what_cannot_be_folded_is_laid_aside_and_the_rest_goes_on(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    metrics = Metrics()
    with server.client() as client:
        async with feeding(settings) as feed:
            await feed.push(["a", "b", "bad", "c", "d", "bad", "e"], batch=4)
            want = told(feed.words, skipping=frozenset({3, 6}))
            async with running(settings, metrics=metrics):
                await eventually(lambda: len(said(client)) == len(want))
                await eventually(lambda: len(said(client, DEAD)) == 2)
                await feed.push(["f"])
                want = told(feed.words, skipping=frozenset({3, 6}))
                await eventually(lambda: len(said(client)) == len(want))
            assert said(client) == want
            letters = [json.loads(line) for _, line in said(client, DEAD)]
            assert [letter["id"].rpartition("-")[2] for letter in letters] == ["3", "6"]
            assert all("bad word" in letter["reason"] and letter["stage"] == "toy" for letter in letters)
            assert letters[0]["record"].endswith(" - f bad")
            assert value(metrics, "tapeline_poison_total") == 2
            # A refold honours the skip list: without its checkpoint the heir folds from an earlier one.
            async with running(settings):
                await feed.push(["g"])
                want = told(feed.words, skipping=frozenset({3, 6}))
                await eventually(lambda: len(said(client)) == len(want))
            assert said(client) == want
            assert len(said(client, DEAD)) == 2


async def test_a_commit_may_end_within_an_entry(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed:
            await feed.push(["big"] * 20 + words(20), batch=40)  # one entry, 2 MB of outputs
            with child(server, ttl_s=0.3, pace_s=0.02):
                # Killed while the cursor lies within the entry.
                await eventually(
                    lambda: 0 < int((client.hget(KEYS.cursor(P, "toy"), "c:raw") or "0-0").split("-")[1]) < 20
                )
            assert Cursor.parse(client.hget(KEYS.cursor(P, "toy"), "c:raw")).k < 40
            async with running(settings):
                want = told(feed.words)
                await eventually(lambda: len(said(client)) == len(want))
            assert said(client) == want
            assert max(sum(map(len, e.lines)) for e in entries(client, EVENTS)) < 512 * 1024


async def test_outputs_do_not_wait_for_a_large_checkpoint(redis_server, settings_for, monkeypatch):
    monkeypatch.setattr(committing, "_CHECKPOINT_LEAST_S", 0.0)
    monkeypatch.setattr(committing, "_CHECKPOINT_SHARE", 1000.0)  # with every commit
    commits: list[tuple[bool, bool]] = []
    commit = Ledger.commit

    def spy(self, *args, entries, checkpoint=None, **rest):
        commits.append((bool(entries), checkpoint is not None))
        return commit(self, *args, entries=entries, checkpoint=checkpoint, **rest)

    class Large(toy.Toy):
        def dump(self) -> bytes:
            return super().dump() + b" " * folding.COMMIT_BYTES

    monkeypatch.setattr(Ledger, "commit", spy)
    stage = Stage("toy", "raw", ("events", "control"), Large)
    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed:
            for start in (0, 100):
                async with running(settings, stage):
                    for at in range(start, start + 100, 20):
                        await feed.push(words(20, at))
                        await eventually(lambda: len(said(client)) == len(told(feed.words)))
            assert said(client) == told(feed.words)
            assert client.hget(KEYS.state(P, "toy"), "c:raw") == client.hget(KEYS.cursor(P, "toy"), "c:raw")
    # The first of each life belongs to its commit: a newer program has not folded before it is stored.
    assert commits.count((True, True)) == 2
    assert commits.count((False, True)) >= 4


async def test_what_retention_took_is_told_with_its_exact_range(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    metrics = Metrics()
    with server.client() as client:
        async with feeding(settings) as feed:
            async with running(settings):
                await feed.push(words(20), batch=10)
                await eventually(lambda: len(said(client)) == len(told(feed.words)))
            before = len(told(feed.words))
            await feed.push(words(40, 20), batch=10)
            ids = [i for i, _ in client.xrange(RAW)]
            client.xtrim(RAW, minid=ids[-2], approximate=False)  # events 21 to 40 are gone
            async with running(settings, metrics=metrics):
                await eventually(lambda: len(said(client)) > before + 20)
            texts = [text for _, text in said(client)]
            assert texts[before].split(b" ", 1)[1] == b"jump 21 40 retention"
            assert [k for k, _ in said(client)] == list(range(1, len(texts) + 1))
            assert texts[before + 1].split()[1] == b"41"
            assert value(metrics, "tapeline_trimmed_unread_total") == 20


async def test_a_checkpoint_that_cannot_be_refolded_is_jumped_over(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed:
            async with running(settings):
                await feed.push(words(20), batch=10)
                await eventually(lambda: len(said(client)) == len(told(feed.words)))
            client.delete(KEYS.state(P, "toy"))
            before = len(said(client))
            async with running(settings):
                await feed.push(["x"])
                await eventually(lambda: len(said(client)) == before + 2)
            assert [text for _, text in said(client)][before:] == [
                f"{before + 1} jump 1 20 retention".encode(),
                f"{before + 2} 21 21 x".encode(),
            ]


async def test_a_checkpoint_that_its_fold_cannot_read_is_done_without(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed:
            async with running(settings):
                await feed.push(words(20))
                await eventually(lambda: len(said(client)) == len(told(feed.words)))
            client.hset(KEYS.state(P, "toy"), "blob", "{not json")
            before = len(said(client))
            async with running(settings):
                await feed.push(["x"])
                await eventually(lambda: len(said(client)) == before + 2)
            assert said(client)[before][1].endswith(b"jump 1 20 retention")


async def test_a_checkpoint_of_a_newer_program_is_refused(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed:
            async with running(settings):
                await feed.push(words(20))
                await eventually(lambda: len(said(client)) == len(told(feed.words)))
            client.hset(KEYS.state(P, "toy"), "format", 9)
            with pytest.raises(ExceptionGroup) as caught:
                async with running(settings):
                    await anyio.sleep(10)
            assert caught.group_contains(
                Refused, match="format 9, this program knows up to 1: run the newer", depth=None
            )


async def test_an_older_checkpoint_starts_again_and_says_so(redis_server, settings_for):
    class Newer(toy.Toy):
        FORMAT = 2

    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed:
            async with running(settings):
                await feed.push(words(20))
                await eventually(lambda: len(said(client)) == len(told(feed.words)))
            before = len(said(client))
            async with running(settings, Stage("toy", "raw", ("events", "control"), Newer)):
                await feed.push(["x"])
                await eventually(lambda: len(said(client)) == before + 2)
            assert b"retention" in said(client)[before][1]
            assert client.hget(KEYS.state(P, "toy"), "format") == "2"


async def test_redis_killed_and_started_again_loses_nothing(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    metrics = Metrics()
    with server.client() as client:
        async with feeding(settings) as feed, running(settings, metrics=metrics):
            restarts = 0

            async def push() -> None:
                for at in count(0, 10):
                    await feed.push(words(10, at))
                    await anyio.sleep(0.005)
                    if restarts == 3 and at >= 1200:
                        return

            async with anyio.create_task_group() as tg:
                tg.start_soon(push)
                while restarts < 3:
                    folded = int((client.hget(KEYS.cursor(P, "toy"), "c:raw") or "0-0").split("-")[1])
                    await eventually(
                        lambda so_far=folded: said(client)[-1:] and len(said(client)) > so_far + 60
                    )
                    await anyio.to_thread.run_sync(server.restart)
                    restarts += 1
            want = told(feed.words)
            await eventually(lambda: len(said(client)) == len(want))
            assert said(client) == want
            assert value(metrics, "tapeline_redis_reconnects_total") > 0
            assert feed.appender.outages > 0


async def test_forgotten_scripts_are_taught_again(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    with server.client() as client:
        async with feeding(settings) as feed, running(settings):
            for part in range(3):
                await feed.push(words(50, 50 * part))
                client.script_flush()
            want = told(feed.words)
            await eventually(lambda: len(said(client)) == len(want))
            assert said(client) == want


async def test_a_failover_that_lost_acknowledged_writes_is_a_new_epoch_and_counted(
    redis_server, settings_for
):
    server = redis_server()
    settings = settings_for(server)
    metrics = Metrics()
    with server.client() as client:
        async with feeding(settings) as feed, running(settings, metrics=metrics):
            await feed.push(words(100))
            await eventually(lambda: len(said(client)) == len(told(feed.words)))
            await eventually(lambda: client.exists(KEYS.state(P, "toy")))
            raw = server.client()
            raw.connection_pool.connection_kwargs["decode_responses"] = False
            with raw:
                names = [n for n in raw.keys(f"tl:{{{P}}}:*") if b"lease" not in n]
                kept = {name: raw.dump(name) for name in names}
                await feed.push(words(60, 100))
                await eventually(lambda: len(said(client)) == len(told(feed.words)))
                lost = set(raw.keys(f"tl:{{{P}}}:*")) - set(names)
                pipe = raw.pipeline(transaction=True)
                for name in lost:
                    if b"lease" not in name:
                        pipe.delete(name)
                for name, blob in kept.items():
                    pipe.restore(name, 0, blob, replace=True)
                pipe.execute()
            epoch = int(client.hget(KEYS.lease(P, "toy"), "epoch"))
            feed.words = feed.words[:100]
            await feed.push(["after"] * 30)
            want = told(feed.words)
            await eventually(lambda: len(said(client)) == len(want))
            assert said(client) == want
            assert feed.appender.rollbacks == 1
            assert value(metrics, "tapeline_rollbacks_total") == 1
            assert entries(client, EVENTS)[-1].epoch > epoch


async def test_readers_hold_trimming_back_and_the_floor_lets_go(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server, retention_s=1.0)
    with server.client() as client:
        async with feeding(settings) as feed, running(settings):
            client.hset(KEYS.cursor(P, "outsider"), "c:events", "0-0")
            await feed.push(["big " + "x" * 5000] * 10, batch=1)
            await eventually(lambda: client.xlen(RAW) == 1, within_s=20)  # folded and old
            assert len(said(client)) == 10  # somebody has not read them
            client.delete(KEYS.cursor(P, "outsider"))
            await eventually(lambda: client.xlen(EVENTS) <= 1, within_s=20)


async def test_a_reader_that_is_never_seen_is_forgotten_but_not_its_writings(
    redis_server, settings_for, monkeypatch
):
    server = redis_server()
    monkeypatch.setattr(housekeeping, "_UNSEEN_S", 0.8)
    with server.client() as client:
        async with feeding(settings_for(server)) as feed, running(settings_for(server, retention_s=1.0)):
            client.hset(KEYS.cursor(P, "gone"), mapping={"c:events": "0-0", "i:flow": "1-5"})
            client.hset(KEYS.cursor(P, "connector:a"), "c:control", "7-1")  # nothing was asked of it since
            await feed.push(words(10))
            await eventually(lambda: not client.hexists(KEYS.cursor(P, "gone"), "c:events"))
            assert client.hget(KEYS.cursor(P, "gone"), "i:flow") == "1-5"
            assert client.hget(KEYS.cursor(P, "connector:a"), "c:control") == "7-1"
            assert client.hexists(KEYS.cursor(P, "toy"), "c:raw")


async def test_everything_deleted_under_it_begins_again(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server, lease_ttl_s=0.5)
    with server.client() as client:
        async with feeding(settings) as feed, running(settings):
            await feed.push(words(30))
            await eventually(lambda: len(said(client)) == len(told(feed.words)))
            client.flushall()
        async with feeding(settings) as feed, running(settings):
            await feed.push(words(20))
            await eventually(lambda: len(said(client)) == len(told(feed.words)))
            assert said(client) == told(feed.words)


async def test_who_lost_a_partition_no_longer_shows_how_far_it_was_behind(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server, lease_ttl_s=0.5)
    metrics = Metrics()
    with server.client() as client:
        async with feeding(settings) as feed, running(settings, metrics=metrics):
            await feed.appender.append([b"%d - f late" % (time.time_ns() - 60_000_000_000)])
            await eventually(lambda: value(metrics, "tapeline_lag_seconds") > 50)
            client.hset(KEYS.lease(P, "toy"), mapping={"owner": "another", "until": 2**50, "epoch": 2**50})
            await eventually(lambda: value(metrics, "tapeline_lag_seconds") == 0, within_s=3)
            assert value(metrics, "tapeline_lag_events") == 0
