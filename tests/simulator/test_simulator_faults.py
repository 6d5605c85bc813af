"""Every fault, as a client meets it."""

from itertools import pairwise
from typing import Any

import anyio
import msgspec
import pytest
import websockets
from simulator_rig import closed, command, frame, frames, past, rig, silent

TRADES = "btcusdt@trade"
DEPTH = "btcusdt@depth@100ms"


async def test_drop_closes_with_the_code_that_was_asked_for() -> None:
    async with rig() as it, it.stream(TRADES) as ws, it.stream(TRADES) as other:
        await frame(ws)
        asked = await it.fault("drop", code=1013, reason="try later", connection="oldest")
        assert asked["connections"] == [1]
        assert await closed(ws) == (1013, "try later")
        await frame(other)


async def test_reset_ends_without_a_closing_handshake() -> None:
    async with rig() as it, it.stream(TRADES) as ws:
        await frame(ws)
        await it.fault("reset")
        assert await closed(ws) == (None, "")


async def test_gap_leaves_out_frames_of_one_connection_only() -> None:
    async with rig() as it, it.stream(TRADES) as ws, it.stream(TRADES) as other:
        ids = [(await frame(ws))["data"]["t"]]
        await it.fault("gap", symbol="btc/usdt", channel="trade", count=3, connection=1)
        with anyio.fail_after(30):
            while len(ids) < 2 or ids[-1] == ids[-2] + 1:
                ids.append((await frame(ws))["data"]["t"])
        assert ids[-1] == ids[-2] + 4
        whole = [(await frame(other))["data"]["t"]]
        while whole[-1] < ids[-1]:
            whole.append((await frame(other))["data"]["t"])
        assert whole == list(range(whole[0], whole[-1] + 1))


async def test_a_gap_in_a_book_breaks_its_sequence_once() -> None:
    async with rig() as it, it.stream(DEPTH, "ethusdt@depth@100ms") as ws:
        last: dict[str, int] = {}
        jumps: list[str] = []
        asked, more = False, 12
        with anyio.fail_after(30):
            while more:
                data = (await frame(ws))["data"]
                if data["U"] != last.get(data["s"], data["U"] - 1) + 1:
                    jumps.append(data["s"])
                last[data["s"]] = data["u"]
                more -= bool(jumps)
                if len(last) == 2 and not asked:
                    asked = bool(await it.fault("gap", symbol="BTC-USDT", channel="book"))
        assert jumps == ["BTCUSDT"]


def trade_id(document: Any) -> int:
    return document["data"]["t"]


async def test_duplicates_and_reordered_frames() -> None:
    async with rig() as it, it.stream(TRADES) as ws:
        await frame(ws)
        await it.fault("duplicate")
        ids = [trade_id(d) for d in await past(ws, lambda a, b: trade_id(b) == trade_id(a))]
        assert sorted(after - before for before, after in pairwise(ids))[:2] == [0, 1]
        await it.fault("reorder")
        ids = [trade_id(d) for d in await past(ws, lambda a, b: trade_id(b) < trade_id(a))]
        assert sorted(ids) == list(range(min(ids), max(ids) + 1))
        assert sum(after < before for before, after in pairwise(ids)) == 1


def is_price(text: object) -> bool:
    return isinstance(text, str) and text[0].isdigit() and "e" not in text


@pytest.mark.parametrize(
    ("how", "wrong"),
    [("nan", "NaN"), ("huge", "1e400"), ("negative", "-"), ("number", None), ("null", None)],
)
async def test_one_price_is_wrong_and_no_other(how: str, wrong: str | None) -> None:
    async with rig() as it, it.stream(TRADES) as ws:
        await (it.fault("null_price") if how == "null" else it.fault("corrupt", how=how))
        seen = await past(ws, lambda before, _: not is_price(before["data"]["p"]))
        hurt = [p for document in seen if not is_price(p := document["data"]["p"])]
        assert len(hurt) == 1
        assert hurt[0].startswith(wrong) if wrong else not isinstance(hurt[0], str)


def is_json(frame: str | bytes) -> bool:
    try:
        msgspec.json.decode(frame)
    except msgspec.DecodeError:
        return False
    return True


@pytest.mark.parametrize("how", ["truncated", "garbage"])
async def test_one_frame_is_no_json_and_no_other(how: str) -> None:
    async with rig() as it, it.stream(TRADES) as ws:
        await it.fault("corrupt", how=how)
        with anyio.fail_after(20):
            while is_json(await ws.recv()):  # what waited when the fault began
                pass
            assert all([is_json(await ws.recv()) for _ in range(40)])


async def test_frames_that_are_no_text_or_no_utf8() -> None:
    async with rig() as it:
        async with it.stream(TRADES) as ws:
            await it.fault("corrupt", how="binary")
            with anyio.fail_after(30):
                while isinstance(await ws.recv(), str):
                    pass
                assert isinstance(await ws.recv(), str)
        async with it.stream(TRADES) as ws:
            await it.fault("corrupt", how="utf8")
            assert await closed(ws) == (None, "")
            assert ws.close_code == 1006
            assert ws.protocol.close_sent is not None
            assert ws.protocol.close_sent.code == 1007


async def test_an_oversized_frame() -> None:
    async with rig() as it, it.stream(TRADES) as ws:
        await it.fault("oversize", size=300_000)
        with anyio.fail_after(30):
            sizes = [len(await ws.recv())]
            while sizes[-1] <= 1_000:
                sizes.append(len(await ws.recv()))
            sizes += [len(await ws.recv()) for _ in range(40)]
        assert [size for size in sizes if size > 1_000] == [300_000]


async def test_a_crossed_book_carries_a_bid_above_the_best_ask() -> None:
    async with rig() as it, it.stream(DEPTH) as ws:
        await it.fault("crossed", symbol="BTC-USDT")
        crossed = [False]
        with anyio.fail_after(30):
            while not any(crossed[:-2]):  # two more after it
                data = (await frame(ws))["data"]
                truth = await it.get("/control/truth", symbol="BTC-USDT", seq=data["u"], depth=1)
                bids = [float(price) for price, size in data["b"] if float(size)]
                crossed.append(bool(bids) and max(bids) > float(truth["asks"][0][0]))
        assert sum(crossed) == 1


async def test_silence_withholds_what_it_names_and_ends() -> None:
    async with rig() as it, it.stream(TRADES, "ethusdt@trade") as ws:
        await frame(ws)
        asked = await it.fault("silence", symbol="BTC-USDT", for_s=30)
        seen = ["BTCUSDT"]
        with anyio.fail_after(30):
            while "BTCUSDT" in seen[-60:]:  # the first may have been on their way
                seen.append((await frame(ws))["data"]["s"])
        await ws.ping()
        await it.http.delete(f"http://127.0.0.1:{it.port}/control/faults", params={"id": str(asked["id"])})
        await frame(ws, lambda d: d["data"]["s"] == "BTCUSDT")


async def test_silence_is_the_venues_so_a_new_connection_has_it_too() -> None:
    async with rig() as it:
        await it.fault("silence", for_s=0.3)
        async with it.stream(TRADES) as ws:
            assert await silent(ws, 0.1)
            await frame(ws)


async def test_a_half_open_connection_hears_and_says_nothing() -> None:
    async with rig() as it, it.stream(TRADES) as ws:
        await frame(ws)
        await it.fault("half_open", for_s=0.5)
        while not await silent(ws, 0.1):
            pass
        pong = await ws.ping()
        assert await silent(ws, 0.1)
        assert not pong.done()
        assert await closed(ws) == (None, "")


async def test_a_slow_connection_gets_everything_late() -> None:
    async with rig() as it, it.stream(TRADES) as ws:
        await frame(ws)
        await it.fault("slow", bytes_per_s=2_000, for_s=0.5)
        ids = [document["data"]["t"] for document in await frames(ws, 200)]
        assert ids == list(range(ids[0], ids[0] + 200))


async def test_a_shutdown_is_announced_and_then_happens() -> None:
    async with rig() as it, it.stream(TRADES) as wrapped, it.connect(f"/ws/{TRADES}") as bare:
        await it.fault("shutdown", for_s=0.2)
        notice = await frame(wrapped, lambda d: d["stream"] == "!serverShutdown")
        assert notice["data"]["e"] == "serverShutdown"
        assert set(await frame(bare, lambda d: d["e"] == "serverShutdown")) == {"e", "E"}
        assert (await closed(wrapped))[0] == 1001


async def test_maintenance_drops_everybody_and_lets_nobody_in_until_it_ends() -> None:
    async with rig() as it, it.stream(TRADES) as ws:
        asked = await it.fault("maintenance", for_s=30, retry_after_s=5)
        assert (await closed(ws))[0] == 1001
        with pytest.raises(websockets.InvalidStatus) as e:
            await websockets.connect(f"ws://127.0.0.1:{it.port}/binance/ws")
        assert e.value.response.status_code == 503
        assert e.value.response.headers["Retry-After"] == "5"
        assert (await it.ask("/binance/api/v3/ping"))[0] == 503
        assert it.simulator.clear(asked["id"]) == 1
        async with it.stream(TRADES) as again:
            await frame(again)


async def test_handshakes_can_be_refused_with_any_status() -> None:
    async with rig() as it:
        await it.fault("connect", status=418, count=2, retry_after_s=1)
        for _ in range(2):
            with pytest.raises(websockets.InvalidStatus) as e:
                await websockets.connect(f"ws://127.0.0.1:{it.port}/binance/ws")
            assert e.value.response.status_code == 418
        async with it.connect("/ws"):
            pass


async def test_rest_answers_can_be_refused_or_late() -> None:
    async with rig() as it:
        await it.fault("rest", status=429, retry_after_s=3, count=1)
        status, document, headers = await it.ask("/binance/api/v3/depth", symbol="BTCUSDT")
        assert (status, headers["Retry-After"], document["code"]) == (429, "3", -1003)
        await it.fault("rest", status=0, delay_s=30, path="/api/v3/time")
        with pytest.raises(TimeoutError), anyio.fail_after(0.1):
            await it.ask("/binance/api/v3/time")
        assert (await it.ask("/binance/api/v3/ping"))[0] == 200


async def test_refused_subscriptions_over_a_socket() -> None:
    async with rig() as it, it.connect("/stream") as ws:
        await it.fault("refuse", symbol="BTC-USDT")
        assert await command(ws, "SUBSCRIBE", TRADES, "ethusdt@trade") == {"result": None, "id": 1}
        assert {document["stream"] for document in await frames(ws, 40)} == {"ethusdt@trade"}


async def test_the_venues_clock_can_be_off() -> None:
    async with rig() as it, it.stream(TRADES) as ws:
        right = (await frame(ws))["data"]["E"]
        await it.fault("clock", offset_s=-60, for_s=30)
        wrong = await frame(ws, lambda d: d["data"]["E"] < right - 10_000)  # far more than they jitter
        assert 50_000 < right - wrong["data"]["E"] < 61_000
        assert abs((await it.get("/binance/api/v3/time"))["serverTime"] - wrong["data"]["E"]) < 10_000


async def test_a_schedule_comes_in_its_time_and_can_be_called_off() -> None:
    async with rig() as it, it.stream(TRADES) as ws:
        url = f"http://127.0.0.1:{it.port}/control/fault"
        schedule = [
            {"kind": "duplicate", "after_s": 0.1, "times": 2, "every_s": 0.1},
            {"kind": "drop", "after_s": 60},
        ]
        async with it.http.post(url, json=schedule) as answer:
            ids = [each["id"] for each in await answer.json()]
        waiting = (await it.get("/control/faults"))["waiting"]
        assert [each["id"] for each in waiting] == [ids[0], ids[0], ids[1]]
        seen: list[int] = []
        with anyio.fail_after(30):
            while sum(before == after for before, after in pairwise(seen)) < 2:
                seen.append((await frame(ws))["data"]["t"])
        it.simulator.clear(ids[1])
        assert (await it.get("/control/faults")) == {"active": [], "waiting": []}
