"""Three masters: every key of a partition in one slot, so append, fold, commit and trim work unchanged."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
import redis
from redis_rig import Server

from actors.config import Settings, VenueSettings
from actors.runtime.lifecycle import make_actor
from actors.runtime.loop import run_stage
from actors.runtime.metrics import Metrics
from actors.streams.client import connect, hot
from actors.streams.errors import RedisUnusable
from actors.streams.keys import Keys, Partition, partitions
from actors.streams.lease import Lease, keep
from actors.streams.partition import Appender, newest
from actors.streams.wire import Hot

sys.path.insert(0, str(Path(__file__).parent))
import toy

pytestmark = [pytest.mark.redis, pytest.mark.cluster]

KEYS = Keys()


@contextmanager
def cluster(folder: Path) -> Iterator[list[Server]]:
    servers: list[Server] = []
    try:
        for n in range(3):
            (folder / str(n)).mkdir()
            server = Server(
                "redis7", folder / str(n), "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"
            )
            while server.port > 55_000:  # the bus listens 10,000 above
                server = Server("redis7", server.folder, *server._args)
            servers.append(server.start())
        places = [f"127.0.0.1:{s.port}" for s in servers]
        subprocess.run(
            [Path(servers[0].binary).with_name("redis-cli"), "--cluster", "create", *places, "--cluster-yes"],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while not all(_ok(server) for server in servers):
            assert time.monotonic() < deadline, "the cluster does not come up"
            time.sleep(0.05)
        yield servers
    finally:
        for server in servers:
            server.close()


def _ok(server: Server) -> bool:
    with server.client() as client:
        info = client.execute_command("CLUSTER INFO")
        return "cluster_state:ok" in str(info) or info.get("cluster_state") == "ok"


def settings_of(servers: list[Server], shards: int) -> Settings:
    hosts = ",".join(f"127.0.0.1:{s.port}" for s in servers[:2])
    base = toy.settings(f"redis+cluster://{hosts}", 0.5)
    return base.model_copy(update={"venues": {"binance": VenueSettings(symbols=["BTC-USDT"], shards=shards)}})


async def test_partitions_on_three_masters_are_folded_exactly(tmp_path: Path, settings_for):
    with cluster(tmp_path) as servers:
        settings = settings_of(servers, shards=4)
        with pytest.raises(RedisUnusable, match=r"write redis\+cluster://"):
            await connect(settings_for(servers[0]), "test", wait_s=0)
        client = await connect(settings, "test")
        plain = redis.cluster.RedisCluster(host="127.0.0.1", port=servers[0].port)
        places = {p: plain.get_node_from_key(KEYS.stream(p, "raw")).port for p in partitions(settings)}
        assert len(set(places.values())) > 1
        actor = make_actor("toy", settings, Metrics())
        async with anyio.create_task_group() as tg:
            tg.start_soon(run_stage, actor, toy.STAGE)
            for p in places:
                connection = await hot(settings, KEYS.stream(p, "raw"))
                appender = await appending(connection, client, p)
                for n in range(20):
                    await appender.append([f"0 - f w{n}.{i}".encode() for i in range(5)])
                with anyio.fail_after(30):
                    while (await newest(connection, KEYS, p, "events")).k < 100:
                        await anyio.sleep(0.02)
                assert (await newest(connection, KEYS, p, "events")).k == 100
                assert plain.get(KEYS.latest(p, "top", "BTC-USDT")) == b"5050"
                await connection.aclose()
            actor.stopping.set()
        here = next(iter(places))
        there = next(p for p in places if places[p] != places[here])
        await the_wrong_node_is_left(settings, client, here, there)
        await a_master_comes_back(settings, next(s for s in servers if s.port == places[here]), here)
        plain.close()
        await client.aclose()


async def test_leases_on_other_masters_outlast_one_that_is_away(tmp_path: Path):
    with cluster(tmp_path) as servers:
        for server in servers:
            with server.client() as client:
                client.config_set("cluster-require-full-coverage", "no")
        settings = settings_of(servers, shards=9)
        settings = settings.model_copy(
            update={"streams": settings.streams.model_copy(update={"lease_ttl_s": 1.2})}
        )
        actor = make_actor("toy", settings, Metrics())
        plain = redis.cluster.RedisCluster(
            host="127.0.0.1", port=servers[0].port, require_full_coverage=False
        )
        gone = plain.get_node_from_key(KEYS.members("toy")).port
        names = {p: KEYS.lease(p, "toy") for p in partitions(settings)}
        others = [p for p, name in names.items() if plain.get_node_from_key(name).port != gone]
        assert 0 < len(others) < len(names)
        begun: set[Partition] = set()

        async def work(lease: Lease) -> None:
            begun.add(lease.partition)
            await lease.ending.wait()

        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: keep(actor, [(p, None) for p in names], work, lease_role="toy"))
            with anyio.fail_after(20):
                while len(begun) < len(names):
                    await anyio.sleep(0.02)
            next(server for server in servers if server.port == gone).kill9()
            over = time.monotonic() + 4  # three times what a lease lasts
            while time.monotonic() < over:
                for p in others:
                    assert int(plain.hget(names[p], "until")) > time.time() * 1000, p
                await anyio.sleep(0.05)
            actor.stopping.set()
        plain.close()


async def appending(connection: Hot, client: redis.asyncio.Redis, p: Partition) -> Appender:
    lease = Lease(client, KEYS, p, role="connector", leg="a", owner="me", ttl_s=60)
    assert await lease.take()
    return await Appender.open(connection, KEYS, p, "a", lease)


async def the_wrong_node_is_left(
    settings: Settings, client: redis.asyncio.Redis, here: Partition, there: Partition
) -> None:
    """A connection to a node that does not own the slot dials again, to the one that does."""
    connection = await hot(settings, KEYS.stream(here, "raw"))
    lost = await hot(settings, KEYS.stream(there, "raw"))
    right, dials = connection._dial, 0

    async def dial() -> object:
        nonlocal dials
        dials += 1
        return await (lost._dial if dials == 1 else right)()

    connection._dial = dial
    await connection.reconnect()
    appender = await appending(connection, client, here)
    await appender.append([b"0 - f last"])
    assert dials == 2
    assert (await newest(connection, KEYS, here, "raw")).k == 101
    await connection.aclose()
    await lost.aclose()


async def a_master_comes_back(settings: Settings, master: Server, p: Partition) -> None:
    """A master killed -9 and started again is waited for; what was under way is in once."""
    client = await connect(settings, "test")
    connection = await hot(settings, KEYS.stream(p, "raw"))
    appender = await appending(connection, client, p)
    actor = make_actor("toy", settings, Metrics())
    async with anyio.create_task_group() as tg:
        tg.start_soon(run_stage, actor, toy.STAGE)
        await appender.append([b"0 - f before"])
        master.kill9()
        tg.start_soon(anyio.to_thread.run_sync, master.start)
        cursor = await appender.append([b"0 - f after"])
        with anyio.fail_after(20):
            while (await newest(connection, KEYS, p, "events")).k < cursor.k:
                await anyio.sleep(0.02)
        actor.stopping.set()
    assert cursor.k == 103
    assert appender.outages > 0
    await connection.aclose()
    await client.aclose()
