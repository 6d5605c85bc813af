"""Leases: who takes what, when, and what happens to the work under them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest

from actors.config import Settings
from actors.runtime.lifecycle import Actor, make_actor
from actors.runtime.metrics import Metrics
from actors.streams.client import connect, hot
from actors.streams.errors import Fenced
from actors.streams.keys import Keys, Partition, partitions
from actors.streams.lease import Lease, Wanted, keep, living

pytestmark = pytest.mark.redis

KEYS = Keys()
TTL_S = 0.6


def two_by_two() -> list[Wanted]:
    return [(Partition("binance", shard), leg) for shard in (0, 1) for leg in ("a", "b")]


@dataclass
class Instance:
    """An actor whose work is to hold."""

    actor: Actor
    now: dict[Wanted, Lease] = field(default_factory=dict)
    begun: int = 0

    async def work(self, lease: Lease) -> None:
        item = (lease.partition, lease.leg)
        self.now[item] = lease
        self.begun += 1
        try:
            await lease.ending.wait()
        finally:
            del self.now[item]


def instance(settings: Settings) -> Instance:
    return Instance(make_actor("connector", settings, Metrics(), "127.0.0.1:1"))


@asynccontextmanager
async def keeping(*instances: Instance, wanted: list[Wanted]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tg:
        for one in instances:

            async def run(one: Instance = one) -> None:
                await keep(one.actor, wanted, one.work, lease_role="connector")

            tg.start_soon(run)
        yield
        for one in instances:
            one.actor.stopping.set()


async def eventually(true: Callable[[], object], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true"
        await anyio.sleep(0.01)


async def test_instances_share_fairly_and_two_legs_live_apart(redis_server, settings_for):
    settings = settings_for(redis_server(), lease_ttl_s=TTL_S)
    one, two, wanted = instance(settings), instance(settings), two_by_two()
    async with keeping(one, wanted=wanted):
        await eventually(lambda: len(one.now) == 4)  # alone it takes all
        async with keeping(two, wanted=wanted):
            await eventually(lambda: len(one.now) == 2 and len(two.now) == 2)
            assert set(one.now) | set(two.now) == set(wanted)
            assert {p for p, _ in one.now} == {p for p, _ in two.now} == {w[0] for w in wanted}
        began = time.monotonic()
        await eventually(lambda: len(one.now) == 4)  # the other stopped: its leases were given back
        assert time.monotonic() - began < 2 * TTL_S + 1


async def test_nothing_is_given_away_because_a_dead_instance_counts_beside_its_successor(
    redis_server, settings_for
):
    """Just then the other leg of what would be given away may be one that died."""
    settings = settings_for(redis_server(), lease_ttl_s=TTL_S)
    wanted: list[Wanted] = [(Partition("binance", shard), leg) for shard in range(3) for leg in ("a", "b")]
    one, killed, successor = (instance(settings) for _ in range(3))
    async with anyio.create_task_group() as tg:

        async def live() -> None:
            await keep(killed.actor, wanted, killed.work, lease_role="connector")

        async with keeping(one, wanted=wanted):
            dying = anyio.CancelScope()

            async def until_killed() -> None:
                with dying:
                    await live()

            tg.start_soon(until_killed)
            await eventually(lambda: len(one.now) == 3 and len(killed.now) == 3)
            begun, kept = one.begun, dict(one.now)
            dying.cancel()  # its leases and its membership last on, as after a kill
            async with keeping(successor, wanted=wanted):
                await eventually(lambda: len(successor.now) == 3)
                assert (one.begun, one.now) == (begun, kept)


async def test_what_a_dead_owner_held_is_taken_when_it_runs_out(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server, lease_ttl_s=TTL_S)
    client = await connect(settings, "test")
    dead = Lease(client, KEYS, Partition("binance", 0), role="connector", leg="a", owner="dead", ttl_s=0.5)
    assert await dead.take()
    heir = instance(settings)
    async with keeping(heir, wanted=[(Partition("binance", 0), "a")]):
        await eventually(lambda: heir.now)
        (lease,) = heir.now.values()
        assert lease.epoch > dead.epoch
        assert not await dead.renew()
        with pytest.raises(Fenced):
            await dead.force()
    await client.aclose()


async def test_a_stop_gives_back_leases_and_leaves_the_members(redis_server, settings_for):
    server = redis_server()
    one = instance(settings_for(server, lease_ttl_s=TTL_S))
    with server.client() as admin:
        async with keeping(one, wanted=two_by_two()):
            await eventually(lambda: len(one.now) == 4)
            assert list(admin.hgetall(KEYS.members("connector"))) == [one.actor.instance]
            began = time.monotonic()
        assert time.monotonic() - began < 2.5
        assert all(admin.hget(KEYS.lease(p, "connector", leg), "until") == "0" for p, leg in two_by_two())
        assert not admin.exists(KEYS.members("connector"))


async def test_work_is_cancelled_when_its_lease_is_taken_away(redis_server, settings_for):
    server = redis_server()
    one, item = instance(settings_for(server, lease_ttl_s=TTL_S)), (Partition("binance", 0), "a")
    with server.client() as admin:
        async with keeping(one, wanted=[item]):
            await eventually(lambda: one.now)
            name = KEYS.lease(item[0], "connector", "a")
            admin.hset(name, mapping={"owner": "thief", "until": str(2**50), "epoch": str(2**45)})
            await eventually(lambda: not one.now)
            admin.hset(name, "until", "1")
            await eventually(lambda: one.now)
            assert one.begun == 2
            assert one.now[item].epoch > 2**45


async def test_a_lease_that_ran_out_untaken_goes_on_under_a_new_epoch(redis_server, settings_for):
    server = redis_server()
    one, item = instance(settings_for(server, lease_ttl_s=TTL_S)), (Partition("binance", 0), "a")
    with server.client() as admin:
        async with keeping(one, wanted=[item]):
            await eventually(lambda: one.now)
            epoch = one.now[item].epoch
            admin.hset(KEYS.lease(item[0], "connector", "a"), "until", "1")
            await eventually(lambda: one.now[item].epoch > epoch)
            assert one.begun == 1


@asynccontextmanager
async def far_away(port: int, there_and_back_s: float) -> AsyncIterator[str]:
    """Lead to the server on ``port`` by a long way; yield the URL."""
    loop = asyncio.get_running_loop()

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            loop.call_later(there_and_back_s / 2, sink.write, data)
        loop.call_later(there_and_back_s / 2, sink.close)

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, back), carry(there, writer), return_exceptions=True)

    server = await asyncio.start_server(session, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()


async def test_many_leases_on_a_distant_server_all_last(redis_server, settings_for):
    server = redis_server()
    wanted: list[Wanted] = [(Partition("binance", shard), "a") for shard in range(20)]
    async with far_away(server.port, 0.05) as url:  # one after the other they would take a second
        one = instance(settings_for(url, lease_ttl_s=TTL_S))
        async with keeping(one, wanted=wanted):
            await eventually(lambda: len(one.now) == len(wanted))
            epochs = {item: lease.epoch for item, lease in one.now.items()}
            await anyio.sleep(3 * TTL_S)  # as long as three would have run out
            assert {item: lease.epoch for item, lease in one.now.items()} == epochs


async def test_a_lease_taken_back_by_a_failover_rises_above_what_was_written(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    client = await connect(settings, "test")
    lease = Lease(client, KEYS, Partition("binance", 0), role="toy", leg=None, owner="me", ttl_s=3)
    assert await lease.take()
    with server.client() as admin:
        before = admin.hgetall(lease.key)
        await lease.force()
        written_under = lease.epoch
        admin.hset(lease.key, mapping=before)
        assert await lease.renew()
        assert lease.epoch > written_under
        assert int(admin.hget(lease.key, "epoch")) == lease.epoch
    await client.aclose()


async def test_work_that_is_fenced_is_sought_again_and_other_errors_end_the_actor(redis_server, settings_for):
    settings = settings_for(redis_server(), lease_ttl_s=TTL_S)
    one, item = instance(settings), (Partition("binance", 0), "a")
    tries = 0

    async def work(_: Lease) -> None:
        nonlocal tries
        tries += 1
        raise Fenced("taken") if tries < 3 else ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught, anyio.fail_after(30):
        await keep(one.actor, [item], work, lease_role="connector")
    assert caught.group_contains(ZeroDivisionError, depth=None)
    assert tries == 3


async def test_leases_outlive_a_server_that_is_away_for_longer_than_they_last(redis_server, settings_for):
    server = redis_server()
    one, item = instance(settings_for(server, lease_ttl_s=0.3)), (Partition("binance", 0), "a")
    async with keeping(one, wanted=[item]):
        await eventually(lambda: one.now)
        epoch = one.now[item].epoch
        server.kill9()
        await anyio.sleep(0.5)  # an outage longer than the lease is what this is about
        await anyio.to_thread.run_sync(server.start)
        await eventually(lambda: one.now[item].epoch > epoch)
        assert one.begun == 1


async def test_ticks_can_ask_which_legs_live(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    client = await connect(settings, "test")
    (partition,) = partitions(settings)
    connection = await hot(settings, KEYS.stream(partition, "raw"))
    for leg in "ab":
        await Lease(client, KEYS, partition, role="connector", leg=leg, owner="me", ttl_s=60).take()
    with server.client() as admin:
        admin.hset(KEYS.lease(partition, "connector", "b"), "until", "1")
    now, alive = await living(connection, KEYS, partition, "connector", "abc")
    assert alive == ["a"]
    assert abs(now - time.time_ns()) < 60 * 10**9
    await connection.aclose()
    await client.aclose()
