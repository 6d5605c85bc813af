"""Recordings served over the simulated venue's URLs."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from simulator_rig import command, frame, rig, silent

from actors.simulator.faults import Faults
from actors.simulator.generate import generate
from actors.simulator.replay import RecordingError, Replay, paced, read, written
from actors.simulator.simulation import Simulator

ROOT = Path(__file__).resolve().parents[2]
WIRE = ROOT.parent / "shared" / "wire" / "binance"
STREAM = "wss://stream.binance.com:9443/stream"


def line(raw: object, recv_ts: float | None, dir: str = "in", url: str = STREAM) -> bytes:  # noqa: A002
    text = raw if isinstance(raw, str) else msgspec.json.encode(raw).decode()
    return msgspec.json.encode({"recv_ts": recv_ts, "dir": dir, "url": url, "raw": text})


def trade(n: int) -> dict[str, Any]:
    return {
        "e": "trade",
        "E": n,
        "s": "BTCUSDT",
        "t": n,
        "p": "1.10",
        "q": "2.0",
        "T": n,
        "m": True,
        "M": True,
    }


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    depth_url = "https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=1000"
    rows = [
        line({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1}, 1_000.0, dir="out"),
        line({"result": None, "id": 1}, 1_000.0),
        line({"stream": "btcusdt@trade", "data": trade(1)}, 1_000.1),
        line({"lastUpdateId": 5, "bids": [["1.00", "2"]], "asks": []}, 1_000.2, dir="http", url=depth_url),
        line(trade(2), 1_000.3, url="wss://stream.binance.com:9443/ws/0"),
        line({"u": 9, "s": "BTCUSDT", "b": "1.0", "B": "1", "a": "2.0", "A": "1"}, 1_000.4),
        line({"lastUpdateId": 8, "bids": [["1.10", "2"]], "asks": []}, 1_000.5, dir="http", url=depth_url),
    ]
    path = tmp_path / "recording.jsonl"
    path.write_bytes(b"\n".join(rows) + b"\n")
    return path


def replaying(path: Path, speed: float) -> Any:
    faults = Faults()
    return rig(Simulator(replay=Replay(read(path), faults, speed), faults=faults))


async def test_frames_come_back_to_the_letter_wrapped_as_the_path_wants(recording: Path) -> None:
    async with replaying(recording, 0) as it, it.stream("btcusdt@trade", "btcusdt@bookTicker") as ws:
        async with it.connect("/ws") as bare:
            assert await command(bare, "SUBSCRIBE", "btcusdt@trade", "btcusdt@kline_1m") == {
                "result": None,
                "id": 1,
            }
            assert [(await frame(ws))["data"].get("t", "top") for _ in range(3)] == [1, 2, "top"]
            assert await frame(bare) == trade(1)
            assert await frame(bare) == trade(2)
        status = await it.get("/control/status")
        assert status["replay"] == {"position": 3, "total": 3, "speed": 0.0}
        assert await silent(ws, 0.1)


async def test_rest_answers_are_those_of_the_moment(recording: Path) -> None:
    async with replaying(recording, 1) as it:
        first = await it.get("/binance/api/v3/depth", symbol="BTCUSDT", limit=5)
        assert first["lastUpdateId"] == 5
        async with it.stream("btcusdt@bookTicker") as ws:
            await frame(ws)
            while (await it.get("/binance/api/v3/depth", symbol="BTCUSDT"))["lastUpdateId"] != 8:
                pass
        info = await it.get("/binance/api/v3/exchangeInfo")
        assert [(r["symbol"], r["baseAsset"], r["quoteAsset"]) for r in info["symbols"]] == [
            ("BTCUSDT", "BTC", "USDT")
        ]
        assert (await it.ask("/binance/api/v3/depth", symbol="ETHUSDT"))[0] == 400


async def test_a_paused_replay_waits_and_its_truth_is_not_known(recording: Path) -> None:
    async with replaying(recording, 0) as it:
        await it.post("/control/pause")
        async with it.stream("btcusdt@trade") as ws:
            assert await silent(ws, 1.3)
            await it.post("/control/resume")
            await frame(ws)
        assert (await it.ask("/control/truth", symbol="BTC-USDT"))[0] == 404


async def test_faults_hurt_a_replay_too(recording: Path) -> None:
    async with replaying(recording, 0) as it:
        await it.fault("rest", status=418, count=1, symbol="BTC-USDT")
        assert (await it.ask("/binance/api/v3/depth", symbol="BTCUSDT"))[0] == 418
        async with it.stream("btcusdt@trade") as ws:
            await it.fault("duplicate")
            assert [(await frame(ws))["data"]["t"] for _ in range(3)] == [1, 1, 2]


def test_generated_frames_can_be_recorded_and_paced(tmp_path: Path) -> None:
    generated = generate(1, 200)
    path = tmp_path / "generated.jsonl"
    path.write_bytes(b"".join(written(generated)))
    recording = paced(read(path), 1_000)
    assert [b'{"stream":"%b","data":%b}' % (f.stream.encode(), f.payload) for f in recording.frames] == (
        generated.frames
    )
    assert [frame.at_s for frame in recording.frames[:3]] == [0, 0.001, 0.002]
    replay = Replay(recording, Faults())
    for symbol, body in generated.snapshots.items():
        assert replay.rest("/api/v3/depth", {"symbol": symbol.replace("-", "")}, 0).body == body


def test_a_broken_recording_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(line(trade(1), None) + b"\n{nonsense\n")
    with pytest.raises(RecordingError, match="line 2"):
        read(path)
    with pytest.raises(RecordingError, match="No such file"):
        read(tmp_path / "nothing.jsonl")


@pytest.mark.skipif(not WIRE.is_dir(), reason=f"no recordings beside the project ({WIRE})")
def test_every_frame_of_the_real_recordings_has_its_stream() -> None:
    mixed = read(WIRE / "spot-btcusdt-mixed.jsonl")
    kinds = [each.stream for each in mixed.frames]
    assert len(kinds) == 3678
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "btcusdt@bookTicker": 2735,
        "btcusdt@trade": 611,
        "btcusdt@depth@100ms": 332,
    }
    assert list(mixed.answers) == [("/api/v3/depth", "BTCUSDT")]
    rows = msgspec.json.decode(Replay(mixed, Faults()).rest("/api/v3/exchangeInfo", {}, 0).body)["symbols"]
    assert [row["symbol"] for row in rows] == ["BTCUSDT"]
