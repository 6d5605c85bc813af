"""The normalizer as an actor on a real server: what it reads, commits and ticks."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
import pytest

from actors import normalizer
from actors.config import VenueSettings
from actors.model import codec
from actors.model.events import Status, Tick, Trade
from actors.model.instruments import Instrument
from actors.runtime.lifecycle import make_actor
from actors.runtime.metrics import Metrics
from actors.stages import raw
from actors.streams.client import connect, hot
from actors.streams.keys import Keys, Partition
from actors.streams.lease import Lease
from actors.streams.partition import Appender

pytestmark = pytest.mark.redis
PARTITION = Partition("binance", 0)
BTC = Instrument("BTC-USDT", "BTCUSDT", "BTC", "USDT")
FRAME = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":%d,"p":"1.5","q":"2",'
    b'"T":1700000000000,"m":true}}'
)


async def until(told: Callable[[], Awaitable[Any]], deadline_s: float = 10) -> Any:
    with anyio.fail_after(deadline_s):
        while not (found := await told()):
            await anyio.sleep(0.02)
    return found


async def test_raw_becomes_events_and_each_second_is_told(redis_server, settings_for) -> None:
    venues = {"binance": VenueSettings(symbols=["BTC-USDT"], redundancy=2)}
    settings = settings_for(redis_server(), venues=venues, lease_ttl_s=0.5)
    metrics = Metrics()
    actor = make_actor("normalizer", settings, metrics)
    keys: Keys = actor.keys
    client = await connect(settings, "test")

    async def events() -> list[Any]:
        entries = await client.xrange(keys.stream(PARTITION, "events"))
        return [codec.decode(line) for _, fields in entries for line in fields[b"d"].split(b"\n")]

    async def ticks() -> list[list[str]]:
        entries = await client.xrange(keys.stream(PARTITION, "raw"))
        lines = [line for _, fields in entries for line in fields[b"d"].split(b"\n")]
        return [json.loads(line.split(b" ", 3)[3])["legs"] for line in lines if b" - k " in line]

    lease = Lease(client, keys, PARTITION, role="connector", leg="b", owner="test", ttl_s=30)
    assert await lease.take()
    writing = await hot(settings, keys.stream(PARTITION, "raw"))
    appender = await Appender.open(writing, keys, PARTITION, "b", lease)
    lines = [raw.line(1, "b.*", "i", msgspec.json.encode(BTC)), raw.line(2, "b.1", "o", b"ws://x")]
    await appender.append([*lines, *(raw.line(n, "b.1", "f", FRAME % n) for n in (3, 4))])

    async with anyio.create_task_group() as tg:
        tg.start_soon(normalizer.run, actor)
        await until(lambda: _some(ticks, lambda told: ["b"] in told))
        await lease.release()
        await until(lambda: _some(ticks, lambda told: told[-1] == []))
        await until(
            lambda: _some(events, lambda told: any(_is_down(event) for event in told)),
        )
        actor.stopping.set()
    said = await events()
    assert [event.id for event in said if isinstance(event, Trade)] == ["3", "4"]
    times = [event.ts_recv for event in said if isinstance(event, Tick)]
    seconds, _ = await client.time()
    assert times == sorted(times)
    assert all(abs(time / 1e9 - int(seconds)) < 60 for time in times)
    live = metrics.registry.get_sample_value(
        "tapeline_subscriptions", {"partition": "binance.0", "channel": "trade", "state": "down"}
    )
    assert live == 0
    await writing.aclose()
    await client.aclose()


def _is_down(event: Any) -> bool:
    return isinstance(event, Status) and event.conn == "b.1" and event.state == "down"


async def _some(told: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> bool:
    found = await told()
    return bool(found) and wanted(found)
