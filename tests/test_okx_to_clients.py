"""The simulated OKX through every role to a WebSocket client: all kinds in the shape their users know."""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise
from typing import Any

import anyio
import pytest
from redis_rig import free_port
from websockets.asyncio.client import ClientConnection, connect

from actors import analytics, bookbuilder, broadcaster, connector, normalizer
from actors.config import BroadcasterSettings, Settings, VenueSettings
from actors.runtime.lifecycle import Actor, make_actor
from actors.runtime.metrics import Metrics
from actors.simulator.market import Listing
from actors.simulator.okx import LISTINGS
from actors.simulator.server import serving
from actors.simulator.simulation import Simulator

pytestmark = pytest.mark.redis

SEED = 14  # prices that move at once
SYMBOLS = ["BTC-USDT", "BTC-USDT-PERP", "BTC-USD-PERP"]
ROLES: dict[str, Callable[[Actor], Awaitable[None]]] = {
    "connector": connector.run,
    "normalizer": normalizer.run,
    "bookbuilder": bookbuilder.run,
    "analytics": analytics.run,
    "broadcaster": broadcaster.run,
}
NUMBER, TEXT = r"-?\d+(\.\d+)?", r'"\d+(\.\d+)?"'
TIME = r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"'
SIDE, BEST = '"(Buy|Sell)"', rf'(null|{{"amount":{TEXT},"price":{TEXT}}})'
LEVELS = rf'{{"levels":\[({{"amount":{TEXT},"price":{TEXT}}},?)*\]}}'
DATA = {
    "trade": rf'"amount":{NUMBER},"id":"\d+","price":{NUMBER},"side":{SIDE}',
    "liquidation": rf'"price":{NUMBER},"quantity":{NUMBER},"side":{SIDE},"time":{TIME}',
    "open_interest": rf'"contracts":{NUMBER},"notional":{NUMBER},"time":{TIME}',
    "cumulative_volume_delta": rf'"delta_base":{NUMBER},"delta_quote":{NUMBER}',
    "funding_rate": rf'"next_time":{TIME},"rate":{NUMBER},"time":{TIME}',
    "order_book_l1": rf'"best_ask":{BEST},"best_bid":{BEST},"last_update_time":{TIME}',
    "order_book_l2": (
        rf'"(Snapshot|Update)":{{"asks":{LEVELS},"bids":{LEVELS},"sequence":\d+,"time_engine":{TIME}}}'
    ),
}
INSTRUMENT = r'{"base":"btc","quote":"usdt?","kind":"(Spot|Perpetual)"}'
MESSAGES = {
    kind: re.compile(
        rf'{{"time_exchange":{TIME},"time_received":{TIME},"exchange":"Okx","instrument":{INSTRUMENT},'
        rf'"kind":"{kind}","data":{{{data}}}}}'
    )
    for kind, data in DATA.items()
}
OF_SWAPS = ("liquidation", "open_interest", "funding_rate")


@asynccontextmanager
async def formation(
    server: Any, listings: list[Listing]
) -> AsyncIterator[tuple[Simulator, ClientConnection]]:
    """Run the simulator and one instance of each role; yield it and a client that hears the first event.

    So it misses no funding rate, which comes each half minute.
    """
    simulator = Simulator(SEED, 400, venues=["okx"], listings=listings)
    port = free_port()
    async with serving(simulator) as at:
        okx = VenueSettings(
            symbols=[listing.symbol for listing in listings],
            ws_url=f"ws://127.0.0.1:{at}/okx",
            rest_url=f"http://127.0.0.1:{at}/okx",
        )
        settings = Settings(
            mode="demo",
            redis={"url": server.url},
            broadcaster=BroadcasterSettings(port=port),
            venues={"okx": okx},
        )
        async with anyio.create_task_group() as tg:
            actors = [make_actor(role, settings, Metrics()) for role in ROLES]
            for actor in reversed(actors):
                if actor.role == "connector":
                    client = await _connected(port)
                tg.start_soon(ROLES[actor.role], actor)
            async with client:
                yield simulator, client
            for actor in actors:
                actor.stopping.set()


async def _connected(port: int) -> ClientConnection:
    with anyio.fail_after(30):
        while True:
            try:
                return await connect(f"ws://127.0.0.1:{port}", proxy=None, compression=None)
            except OSError:
                await anyio.sleep(0.02)


async def hear(client: ClientConnection, done: Callable[[], bool], take: Callable[[str], None]) -> None:
    """Hand every message after the welcome to ``take`` until ``done``."""
    with anyio.fail_after(20):
        assert json.loads(await client.recv())["type"] == "welcome"
        while not done():
            text = await client.recv()
            assert isinstance(text, str)
            take(text)


async def test_a_client_sees_every_kind_of_spot_and_swaps_to_the_letter(redis_server):
    listings = [each for each in LISTINGS if each.symbol in SYMBOLS]
    seen: Counter[tuple[str, str, str]] = Counter()
    said: list[dict[str, Any]] = []

    def take(text: str) -> None:
        message = json.loads(text, parse_float=Decimal, parse_int=Decimal)
        kind = message["kind"]
        assert MESSAGES[kind].fullmatch(text), text[:500]
        said.append(message)
        instrument = message["instrument"]
        seen[kind, instrument["quote"], instrument["kind"]] += 1

    markets = [("usdt", "Spot"), ("usdt", "Perpetual"), ("usd", "Perpetual")]
    wanted = {
        (kind, *market) for kind in DATA for market in markets if market[1] != "Spot" or kind not in OF_SWAPS
    }
    async with formation(redis_server(), listings) as (simulator, client):
        await hear(
            client,
            lambda: wanted <= seen.keys() and seen["trade", *markets[1]] > 60,
            take,
        )
        assert wanted == seen.keys(), "a spot pair has no liquidations, open interest or funding"
        shop = simulator.venues["okx"].house.by_symbol["BTC-USDT-PERP"]
        true = {
            (Decimal(each.price), Decimal(each.contracts) * Decimal("0.01"), each.side.capitalize())
            for each in shop.liquidations()
        }
    swap = [m for m in said if m["instrument"] == {"base": "btc", "quote": "usdt", "kind": "Perpetual"}]
    liquidated = [m["data"] for m in swap if m["kind"] == "liquidation"]
    assert {(d["price"], d["quantity"], d["side"]) for d in liquidated} <= true
    assert_sums_go_on(swap)
    assert any("Snapshot" in m["data"] for m in swap if m["kind"] == "order_book_l2")


def assert_sums_go_on(messages: list[dict[str, Any]]) -> None:
    """Each trade moves the sums by exactly what it says, in order: buys up, sells down."""
    moves = [
        (amount, amount * m["data"]["price"])
        for m in messages
        if m["kind"] == "trade"
        for amount in [m["data"]["amount"] * (1 if m["data"]["side"] == "Buy" else -1)]
    ]
    sums = [m["data"] for m in messages if m["kind"] == "cumulative_volume_delta"]
    steps = [
        (b["delta_base"] - a["delta_base"], b["delta_quote"] - a["delta_quote"]) for a, b in pairwise(sums)
    ]
    # The two come by streams of their own, so one may be some ahead at the beginning and at the end.
    fits = [
        sum(step == move for step, move in zip(steps[max(0, -n) :], moves[max(0, n) :], strict=False))
        for n in range(-len(steps) // 2, len(moves) // 2)
    ]
    assert max(fits) >= min(len(steps), len(moves)) - 40
    assert max(fits) > 20
