"""``tapeline master tail`` and ``count`` look into the files of a master that runs, or did."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest
from master_rig import KEY, batch, heard, master, plain, until
from redis_rig import free_port
from websockets.sync.client import connect

from actors.dialects import ftsobest
from actors.master.journal import files
from actors.master.reading import Follower, streams, summary

ROOT = Path(__file__).resolve().parents[2]


def tapeline(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "actors", "master", *arguments, "--folder", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


async def filled(folder: Path) -> None:
    async with master(folder, rotate_bytes=4096) as rig:
        async with rig.collector() as socket:
            await heard(socket)
            for k in range(1, 60):
                await socket.send(batch(k, k))
                await heard(socket)
        async with rig.collector(ftsobest.login(KEY)) as socket:
            await socket.send(plain(1))
            await until(lambda: len(streams(folder)) == 2)


async def test_count_says_what_is_held_by_stream_and_type(tmp_path: Path):
    await filled(tmp_path)
    (path,) = (tmp_path / "acked/one/binance.0/events",)
    with files(path)[-1].open("ab") as file:
        file.write(b'{"type":"trade","half a li')
    done = await anyio.to_thread.run_sync(tapeline, tmp_path, "count", "--json")
    assert done.returncode == 0, done.stderr
    acked, plainly = json.loads(done.stdout)
    assert acked["messages"] == {"trade": 59}
    assert (acked["first"], acked["last"]) == ("7-0", "7-59")
    assert acked["files"] > 1
    assert (plainly["stream"], plainly["messages"]) == ("ftsobest/gateio/trade", {"trade": 1})
    shown = await anyio.to_thread.run_sync(tapeline, tmp_path, "count")
    assert "60 messages in " in shown.stdout


async def test_tail_shows_the_newest_of_what_was_asked_for(tmp_path: Path):
    await filled(tmp_path)
    done = await anyio.to_thread.run_sync(
        tapeline, tmp_path, "tail", "trade", "binance", "BTC/USDT", "-n", "3", "--no-follow"
    )
    assert done.returncode == 0, done.stderr
    cursors = [json.loads(line)["cursor"] for line in done.stdout.splitlines()]
    assert cursors == [f"binance.0/events/7-{k}" for k in (57, 58, 59)]
    none = await anyio.to_thread.run_sync(tapeline, tmp_path, "tail", "trade", "kraken", "--no-follow")
    assert (none.returncode, none.stdout) == (0, "")


async def test_a_follower_misses_nothing_over_new_files(tmp_path: Path):
    place = tmp_path / "acked/one/binance.0/events"
    async with master(tmp_path, rotate_bytes=4096) as rig, rig.collector() as socket:
        await heard(socket)
        await socket.send(batch(1, 5))
        await heard(socket)
        follower = Follower(place)
        assert [json.loads(line)["timestamp"] for line in follower.last(2)] == [4, 5]
        for k in range(6, 80):
            await socket.send(batch(k, k))
            await heard(socket)
            if k % 7 == 0:
                assert [json.loads(line)["timestamp"] for line in follower.more()] == [*range(k - 6, k + 1)][
                    -7 if k > 7 else -2 :
                ]
        assert len(files(place)) > 2
        assert [json.loads(line)["timestamp"] for line in follower.more()] == [78, 79]
        assert [json.loads(line)["timestamp"] for line in Follower(place).last(70)] == [*range(10, 80)]
    assert summary(tmp_path, place).messages == {"trade": 79}


def following(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "actors", "master", "tail", "--folder", str(folder), "-n", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_tail_follows_until_it_is_told_to_stop(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector() as socket:
        await heard(socket)
        await socket.send(batch(1, 1))
        await heard(socket)
        process = following(tmp_path)
        lines: list[str] = []
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True)
        reader.start()
        try:
            await until(lambda: len(lines) == 1, 10)
            await socket.send(batch(2, 3))
            await until(lambda: len(lines) == 3, 10)
        finally:
            process.terminate()
            process.wait(30)
            reader.join(30)
            process.stdout.close()
        assert [json.loads(line)["timestamp"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize("arguments", [("count",), ("tail", "--no-follow")])
def test_no_files_is_one_plain_message(tmp_path: Path, arguments: tuple[str, ...]):
    done = tapeline(tmp_path / "nowhere", *arguments)
    assert done.returncode == 2
    assert "no master has written to" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_master_runs_alone_on_its_keys(tmp_path: Path):
    folder, port = tmp_path / "files", free_port()
    command = [sys.executable, "-m", "actors", "master", "--config", str(ROOT / "config/tapeline.toml")]
    command += ["--folder", str(folder), "--port", str(port)]
    env = {**os.environ, "TAPELINE_MASTER__KEYS": "secret"}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    try:
        with contextlib.ExitStack() as stack:
            deadline = time.monotonic() + 10
            while True:
                try:
                    socket = stack.enter_context(connect(f"ws://127.0.0.1:{port}", open_timeout=30))
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    assert process.poll() is None
                    time.sleep(0.02)
            socket.send("key=secret&role=collector&protocol=acked&source=one")
            assert json.loads(socket.recv(30)) == {"op": "welcome", "cursors": {}}
            socket.send(batch(1, 2))
            assert json.loads(socket.recv(30))["last"] == "7-2"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        said = process.stderr.read()
        process.stderr.close()
    assert b"secret" not in said
    assert summary(folder, folder / "acked/one/binance.0/events").messages == {"trade": 2}


def test_a_master_needs_keys(tmp_path: Path):
    config = tmp_path / "x.toml"
    config.write_text('mode = "live"\n[venues]\n')
    done = subprocess.run(
        [sys.executable, "-m", "actors", "master", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "needs keys" in done.stderr
