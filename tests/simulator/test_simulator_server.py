"""The simulator over real sockets: data, REST, truth, pace, heartbeat, stop."""

import socket
import time
from datetime import datetime

import anyio
import pytest
import websockets
from simulator_rig import closed, command, frame, frames, rig, silent

from actors.config import ConfigError, Settings
from actors.simulator.role import wanted
from actors.simulator.server import serving
from actors.simulator.simulation import Simulator


async def test_a_book_from_snapshot_and_frames_equals_the_truth_over_http() -> None:
    async with rig(pace=3_000) as it, it.stream("ethusdt@depth@100ms") as ws:
        await frame(ws)
        snapshot = await it.get("/binance/api/v3/depth", symbol="ETHUSDT", limit=5000)
        bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
        book_id = snapshot["lastUpdateId"]
        for document in await frames(ws, 5):
            data = document["data"]
            if data["u"] <= book_id:
                continue
            assert data["U"] <= book_id + 1
            for side, rows in ((bids, data["b"]), (asks, data["a"])):
                side.update(rows)
            book_id = data["u"]
        truth = await it.get("/control/truth", venue="binance", symbol="eth/usdt", seq=book_id)
        assert {p: s for p, s in bids.items() if float(s)} == dict(truth["bids"])
        assert {p: s for p, s in asks.items() if float(s)} == dict(truth["asks"])


async def test_a_paused_market_shows_its_last_state_and_stays() -> None:
    async with rig() as it, it.stream("btcusdt@depth@100ms", "btcusdt@trade") as ws:
        last = await frame(ws, lambda d: d["data"]["e"] == "depthUpdate")
        await it.post("/control/pause")
        final = (await it.get("/control/truth", symbol="BTC-USDT", depth=1))["seq"]
        while last["data"].get("u") != final:
            last = await frame(ws)
        assert await silent(ws, 0.3)
        assert (await it.get("/control/truth", symbol="BTC-USDT", depth=1))["seq"] == final
        await it.post("/control/resume")
        await frame(ws)


async def test_the_tape_holds_every_trade_that_was_sent() -> None:
    async with rig() as it, it.stream("btcusdt@trade") as ws:
        sent = [document["data"] for document in await frames(ws, 30)]
        tape = await it.get("/control/tape", symbol="BTC-USDT", first=sent[0]["t"], last=sent[-1]["t"])
        assert [t["id"] for t in tape["trades"]] == [str(t["t"]) for t in sent]
        assert [t["price"] for t in tape["trades"]] == [t["p"] for t in sent]


async def test_subscriptions_by_message_and_the_status_that_shows_them() -> None:
    async with rig() as it, it.connect("/stream") as ws:
        assert await command(ws, "SUBSCRIBE", "btcusdt@trade", "ethusdt@bookTicker") == {
            "result": None,
            "id": 1,
        }
        await frame(ws, lambda d: d.get("stream") == "btcusdt@trade")
        status = await it.get("/control/status")
        (connection,) = status["connections"]
        assert connection["subscribed"] == ["btcusdt@trade", "ethusdt@bookTicker"]
        assert connection["frames"] >= 2
        assert status["venues"]["binance"]["symbols"]["BTC-USDT"]["seq"] > 0


async def test_ids_start_at_the_clock_so_that_a_restart_repeats_nothing() -> None:
    before = time.time_ns() // 1000
    async with rig() as it:
        symbol = (await it.get("/control/status"))["venues"]["binance"]["symbols"]["BTC-USDT"]
    assert before <= symbol["oldest_seq"] <= time.time_ns() // 1000
    assert before <= symbol["first_trade"] <= time.time_ns() // 1000


async def test_the_pace_can_be_changed_and_is_kept() -> None:
    async with rig(pace=None) as it:
        await it.post("/control/rate", events_per_s=5_000)
        market = it.simulator.market
        begun, at = market.published, time.perf_counter()
        await anyio.sleep(0.4)
        expected = 5_000 * (time.perf_counter() - at)
        assert market.published - begun <= 1.2 * expected + 50
        assert market.published > begun
        await it.post("/control/rate", 400, events_per_s=0)
        await it.post("/control/rate", 400, speed=2)


async def test_a_client_that_answers_pings_stays_and_one_that_does_not_is_closed() -> None:
    async with rig() as it:
        limits = it.simulator.venues["binance"].house.limits
        limits["ping_every_s"], limits["pong_within_s"] = 0.1, 0.4
        reader, writer = await _handshake(it.port)
        async with it.stream("btcusdt@trade") as ws, reader, writer:
            with anyio.fail_after(30):
                while b"Pong timeout" not in await reader.receive():
                    pass
            await frame(ws)
            assert ws.close_code is None


async def _handshake(port: int) -> tuple[anyio.abc.SocketStream, anyio.abc.SocketStream]:
    raw = await anyio.connect_tcp("127.0.0.1", port)
    await raw.send(
        b"GET /binance/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert b"101" in await raw.receive()
    return raw, raw


async def test_a_client_that_talks_too_much_is_closed() -> None:
    async with rig() as it, it.connect("/ws") as ws:
        for n in range(6):
            await ws.send(f'{{"method":"LIST_SUBSCRIPTIONS","id":{n}}}')
        assert await closed(ws) == (1008, "Too many requests")


async def test_a_connection_ends_at_its_age() -> None:
    async with rig() as it, it.stream("btcusdt@trade") as ws:
        await it.post("/control/limits", venue="binance", lifetime_s=0.1)
        assert (await closed(ws))[0] == 1001


async def test_what_a_venue_does_not_serve_is_refused() -> None:
    async with rig() as it:
        for path in ("/nowhere/ws", "/binance/v2", "/nothing"):
            with pytest.raises(websockets.InvalidStatus) as e:
                await websockets.connect(f"ws://127.0.0.1:{it.port}{path}")
            assert e.value.response.status_code == 404


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("truth", {"symbol": "NO-COIN"}, 404),
        ("truth", {"symbol": "BTC-USDT", "venue": "nowhere"}, 404),
        ("truth", {"symbol": "BTC-USDT", "seq": "1"}, 404),
        ("truth", {"symbol": "BTC-USDT", "seq": "-1"}, 400),
        ("tape", {"symbol": "BTC-USDT", "first": "x"}, 400),
    ],
)
async def test_wrong_questions_get_a_plain_answer(path: str, query: dict[str, str], status: int) -> None:
    async with rig() as it:
        answered, document, _ = await it.ask(f"/control/{path}", **query)
        assert answered == status
        assert document["error"]


async def test_wrong_faults_and_limits_are_refused_with_the_reason() -> None:
    async with rig() as it:
        for document, reason in [
            ({"kind": "boredom"}, "boredom"),
            ({"kind": "gap", "bogus": 1}, "bogus"),
            ({"kind": "gap", "count": 0}, "at least 1"),
            ({"kind": "drop", "code": 99}, "close code"),
            ({"kind": "silence", "for_s": -1}, "for_s"),
        ]:
            assert reason in (await it.post("/control/fault", 400, **document))["error"]
        assert "nowhere" in (await it.post("/control/fault", 404, kind="drop", venue="nowhere"))["error"]
        fault = await it.post("/control/fault", 400, kind="checksum", venue="binance")
        assert "sends nothing" in fault["error"]
        assert "weight" in (await it.post("/control/limits", 400, patience=1))["error"]


async def test_a_stop_closes_every_client_going_away() -> None:
    async with serving(Simulator(seed=1)) as port:
        ws = await websockets.connect(f"ws://127.0.0.1:{port}/binance/ws/btcusdt@trade")
    assert (await closed(ws))[0] == 1001


async def test_a_port_in_use_is_named_with_the_setting_that_changes_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"{port}: the port is in use.*simulator\.port"):
            async with serving(Simulator(seed=1), port=port):
                pass
    with pytest.raises(ConfigError, match=r"simulator\.host"):
        async with serving(Simulator(seed=1), host="192.0.2.1"):
            pass


async def test_generous_clients_are_not_disturbed_by_one_that_never_reads() -> None:
    async with rig(pace=5_000) as it, it.stream("btcusdt@trade") as ws:
        reader, writer = await _handshake(it.port)
        async with reader, writer:
            assert len(await frames(ws, 50)) == 50


async def test_two_venues_share_a_market_and_one_without_sequences_tells_its_truth_by_time() -> None:
    simulator = Simulator(seed=1, events_per_s=2_000, venues=["binance", "kraken"])
    async with rig(simulator) as it, it.connect("/v2", "kraken") as ws:
        await ws.send('{"method":"subscribe","params":{"channel":"book","symbol":["BTC/USD"],"depth":10}}')
        book = (await frame(ws, lambda d: d.get("channel") == "book" and d["type"] == "update"))["data"][0]
        at = datetime.fromisoformat(book["timestamp"])
        ts = int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1_000
        truth = await it.get("/control/truth", venue="kraken", symbol="BTC-USD", ts=ts, depth=10)
        levels = {float(p): float(s) for side in ("bids", "asks") for p, s in truth[side]}
        changed = [level for side in ("bids", "asks") for level in book[side] if level["qty"]]
        assert changed
        assert all(levels[level["price"]] == level["qty"] for level in changed)
        assert (await it.ask("/control/truth", venue="kraken", symbol="BTC-USD", ts=ts + 1))[0] == 404
        tops = [
            float((await it.get("/control/truth", venue=venue, symbol=symbol, depth=1))["bids"][0][0])
            for venue, symbol in (("kraken", "BTC-USD"), ("binance", "BTC-USDT"))
        ]
        assert abs(tops[0] / tops[1] - 1) < 0.01
        assert {*(await it.get("/control/status"))["venues"]} == {"binance", "kraken"}


async def test_only_the_venues_that_are_asked_for_are_served() -> None:
    async with rig(Simulator(venues=["kraken"])) as it:
        assert {*(await it.get("/control/status"))["venues"]} == {"kraken"}
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(f"ws://127.0.0.1:{it.port}/binance/ws")


@pytest.mark.parametrize(
    ("configured", "named", "served"),
    [
        (["binance"], None, ["binance"]),
        (["kraken", "binance"], None, ["kraken", "binance"]),
        (["binance"], ["kraken", "kraken"], ["kraken"]),
    ],
)
def test_the_configuration_says_which_venues_are_served(
    configured: list[str], named: list[str] | None, served: list[str]
) -> None:
    assert wanted(settings_of(configured, named)) == served


def test_a_venue_that_cannot_be_simulated_is_named() -> None:
    with pytest.raises(ConfigError, match=r'simulator\.venues: kracken .*did you mean "kraken"'):
        wanted(settings_of(["binance"], ["kracken"]))


def test_a_venue_without_a_simulator_is_left_to_its_own_address_but_in_a_demo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.simulator.role.simulated", lambda: ["binance"])
    assert wanted(settings_of(["kraken", "binance"], None, "live")) == ["binance"]
    assert wanted(settings_of(["kraken", "binance"], ["binance"])) == ["binance"]
    with pytest.raises(ConfigError, match=r"venues\.kraken: cannot be simulated, as a demo's must be"):
        wanted(settings_of(["kraken", "binance"], None))


def settings_of(configured: list[str], named: list[str] | None, mode: str = "demo") -> Settings:
    return Settings.model_validate(
        {
            "mode": mode,
            "venues": {name: {"symbols": ["BTC-USDT"]} for name in configured},
            "simulator": {"venues": named},
        }
    )
