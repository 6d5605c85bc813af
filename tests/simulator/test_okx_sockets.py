"""The simulated OKX over real sockets: idleness, limits, faults, truth; the connector keeps it awake."""

from typing import Any

import anyio
import msgspec
import pytest
import websockets
from simulator_rig import Rig, frame, rig
from websockets.asyncio.client import ClientConnection

from actors import connector
from actors.config import Settings, VenueSettings
from actors.runtime.lifecycle import make_actor
from actors.runtime.metrics import Metrics
from actors.simulator.okx import LISTINGS
from actors.simulator.simulation import Simulator
from actors.venues import VENUES
from actors.venues.base import Keepalive

PUBLIC = "/ws/v5/public"
TWO = [each for each in LISTINGS if each.symbol in ("BTC-USDT", "BTC-USDT-PERP")]


def okx(pace: float | None = 1_000) -> Any:
    return rig(Simulator(1, pace, venues=["okx"], listings=TWO))


async def subscribe(ws: ClientConnection, *args: tuple[str, str]) -> list[Any]:
    """Subscribe; return an answer for each argument."""
    request = {"op": "subscribe", "args": [{"channel": c, "instId": i} for c, i in args]}
    await ws.send(msgspec.json.encode(request).decode())
    return [await frame(ws, lambda document: "event" in document) for _ in args]


async def test_who_hears_and_says_nothing_is_closed_and_a_bare_ping_keeps_awake() -> None:
    async with okx() as it:
        await it.post("/control/pause")
        await it.post("/control/limits", venue="okx", idle_s=1.5)
        async with it.connect(PUBLIC, "okx") as idle, it.connect(PUBLIC, "okx") as awake:
            with anyio.fail_after(30):
                while idle.close_code is None:
                    await awake.send("ping")
                    assert await awake.recv() == "pong"
                    await anyio.sleep(0.05)
            assert (idle.close_code, idle.close_reason) == (4004, "No data received in 30s")
            assert awake.close_code is None


async def test_a_storm_of_connections_is_refused() -> None:
    async with okx() as it:
        await it.post("/control/limits", venue="okx", connects_s=60)
        for _ in range(3):
            async with it.connect(PUBLIC, "okx"):
                pass
        with pytest.raises(websockets.InvalidStatus) as e:
            async with it.connect(PUBLIC, "okx"):
                pass
        assert e.value.response.status_code == 429


async def test_a_gap_in_a_book_breaks_its_pointer_once_and_no_other() -> None:
    async with okx() as it, it.connect(PUBLIC, "okx") as ws:
        await subscribe(ws, ("books", "BTC-USDT"), ("books", "BTC-USDT-SWAP"))
        last: dict[str, int] = {}
        broken: list[str] = []

        async def follow() -> None:
            document = await frame(ws, lambda d: d.get("action") == "update")
            inst, data = document["arg"]["instId"], document["data"][0]
            if last.get(inst, data["prevSeqId"]) != data["prevSeqId"]:
                broken.append(inst)
            last[inst] = data["seqId"]

        with anyio.fail_after(30):
            while len(last) < 2:
                await follow()
            await it.fault("gap", venue="okx", channel="book", symbol="BTC-USDT")
            while not broken:
                await follow()
        assert broken == ["BTC-USDT"]


async def test_truth_tape_and_liquidations_are_told_over_http() -> None:
    async with okx(3_000) as it, it.connect(PUBLIC, "okx") as ws:
        args = [{"channel": "liquidation-orders", "instType": "SWAP"}]
        await ws.send(msgspec.json.encode({"op": "subscribe", "args": args}).decode())
        document = await frame(ws, lambda d: "data" in d)
        query = {"venue": "okx", "symbol": "btc/usdt-perp"}
        told = (await it.get("/control/liquidations", **query))["liquidations"]
        true = {(each["price"], each["contracts"], each["side"]) for each in told}
        details = document["data"][0]["details"]
        assert {(detail["bkPx"], detail["sz"], detail["side"]) for detail in details} <= true
        assert (await it.get("/control/liquidations", **query, first=int(told[-1]["id"]) + 10**9))[
            "liquidations"
        ] == []
        assert (await it.get("/control/liquidations", venue="okx", symbol="BTC-USDT"))["liquidations"] == []
        book = await it.get("/control/truth", **query, depth=400)
        assert max(len(book["bids"]), len(book["asks"])) <= 400
        await _wrong(it, "checksum")


async def _wrong(it: Rig, kind: str) -> None:
    refused = await it.post("/control/fault", 400, kind=kind, venue="okx")
    assert "okx sends nothing that could have the fault" in refused["error"]


@pytest.mark.redis
async def test_the_connector_keeps_a_quiet_connection_awake(redis_server, settings_for, monkeypatch) -> None:
    quick = msgspec.structs.replace(VENUES["okx"], keepalive=Keepalive("ping", 0.2))
    monkeypatch.setitem(VENUES, "okx", quick)
    async with okx() as it:
        await it.post("/control/pause")
        await it.post("/control/limits", venue="okx", idle_s=2)
        url = f"127.0.0.1:{it.port}/okx"
        venue = VenueSettings(
            symbols=["BTC-USDT"], channels=["trade"], ws_url=f"ws://{url}", rest_url=f"http://{url}"
        )
        settings: Settings = settings_for(redis_server(), {"okx": venue})
        async with anyio.create_task_group() as tg:
            actor = make_actor("connector", settings, Metrics())
            tg.start_soon(connector.run, actor)
            with anyio.fail_after(30):
                while not (opened := list(it.simulator.connections.values())) or opened[0].frames < 12:
                    await anyio.sleep(0.05)
            (connection,) = it.simulator.connections.values()
            assert connection.session.number == 1, "it was never closed and opened again"
            assert connection.frames >= 12, "an acknowledgement, and nothing but pongs"
            actor.stopping.set()
