"""The role on a real server: trades in, sums out, going on over instances and over what retention took."""

import anyio
import pytest

from actors import analytics
from actors.model import codec
from actors.model.events import Cvd, Gap, Tick, Trade
from actors.runtime.lifecycle import make_actor
from actors.runtime.metrics import Metrics

SECOND = 1_000_000_000
EVENTS, FLOW = ("tl:{binance.0}:" + name for name in ("events", "flow"))

pytestmark = pytest.mark.redis


class Events:
    """The stream ``events``, written by the test."""

    def __init__(self, client):
        self.client = client
        self.k = 0

    def write(self, *events):
        self.k += len(events)
        lines = b"\n".join(map(codec.encode, events))
        self.client.xadd(EVENTS, {"n": len(events), "d": lines}, id=f"1-{self.k}")


def trade(size, aggressor, symbol="BTC-USDT"):
    return Trade("binance", symbol, None, 5 * SECOND, None, "1", "100.5", size, aggressor)


def flow(client):
    """Return what stands in ``flow``: (symbol, base, quote) of a sum, the event itself of a gap."""
    lines = [line for _, fields in client.xrange(FLOW) for line in fields["d"].splitlines()]
    events = [codec.decode(line.encode()) for line in lines]
    return [(e.symbol, e.delta_base, e.delta_quote) if isinstance(e, Cvd) else e for e in events]


async def until(condition):
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.02)


async def test_sums_go_on_with_the_next_instance_and_name_what_was_not_seen(redis_server, settings_for):
    server = redis_server()
    with server.client() as client:
        events = Events(client)

        async def folding(expected):
            actor = make_actor("analytics", settings_for(server), Metrics())
            async with anyio.create_task_group() as tg:
                tg.start_soon(analytics.run, actor)
                await until(lambda: len(flow(client)) >= len(expected))
                actor.stopping.set()
            assert flow(client) == expected

        events.write(trade("2", "buy"), Tick("binance", None, None, 6 * SECOND, None), trade("0.50", "sell"))
        events.write(trade("3", "sell", "ETH-USDT"))
        told = [("BTC-USDT", "2", "201"), ("BTC-USDT", "1.5", "150.75"), ("ETH-USDT", "-3", "-301.5")]
        await folding(told)
        events.write(trade("1", "buy"))
        told.append(("BTC-USDT", "2.5", "251.25"))
        await folding(told)
        events.k += 10  # retention took these
        events.write(trade("0.5", "sell"))
        gap = Gap("binance", None, None, 6 * SECOND, None, "trade", "retention", "6", "15")
        await folding([*told, gap, ("BTC-USDT", "2", "201")])
        assert [entry.rpartition("-")[2] for entry, _ in client.xrange(FLOW)][-1] == "6"  # dense
