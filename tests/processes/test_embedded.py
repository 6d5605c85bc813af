"""The redis line: a server of our own, stopped last, never somebody else's port or data."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from actors.runtime.embedded import find_server, server_command

CONFIG = 'mode = "live"\n[venues.binance]\nsymbols = ["BTC-USDT"]\n'


def await_true(what: Callable[[], object], within_s: float = 8.0) -> object:
    deadline = time.monotonic() + within_s
    while not (answer := what()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
    return answer


class Line:
    """A running ``tapeline run redis`` in a folder of its own."""

    def __init__(self, folder: Path, port: int, **env: str) -> None:
        self.folder, self.port = folder, port
        (folder / "tapeline.toml").write_text(CONFIG)
        self.out = folder / f"out-{time.monotonic_ns()}"
        env = {k: v for k, v in os.environ.items() if k != "REDIS_URL"} | env
        self.process = subprocess.Popen(
            [sys.executable, "-m", "actors", "run", "redis", "--config", "tapeline.toml"],
            cwd=folder,
            env=env | {"TAPELINE_REDIS__PORT": str(port)},
            stderr=self.out.open("ab"),
        )

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=2)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def up(self) -> "Line":
        await_true(self.answers)
        return self

    def stop(self, within_s: float = 6) -> int:
        self.process.terminate()
        return self.process.wait(within_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Callable[..., Line]]:
    started: list[Line] = []
    port = free_port()

    def start(**env: str) -> Line:
        started.append(Line(tmp_path, port, **env))
        return started[-1]

    yield start
    for line in started:
        if line.process.poll() is None:
            line.stop()


def test_the_server_is_ready_with_the_settings_that_the_pipeline_needs(lines: Callable[..., Line]):
    line = lines().up()
    with line.client() as client:
        wanted = {
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "bind": "127.0.0.1",
            "dir": str((line.folder / ".tapeline" / "live").resolve()),
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
    assert line.stop() == 0
    assert not line.answers()


def test_data_survive_a_stop_and_a_kill(lines: Callable[..., Line]):
    line = lines().up()
    with line.client() as client:
        client.set("kept", "1")
    assert line.stop() == 0
    line = lines().up()
    with line.client() as client:
        assert client.get("kept") == "1"
        client.set("kept", "2")
    line.process.kill()  # the server hears of it and ends by itself
    line.process.wait()
    line = lines().up()
    await_true(line.answers)
    with line.client() as client:
        assert client.get("kept") == "2"


@pytest.mark.parametrize("prefix", ["tl", "[a-b]*"])
def test_it_waits_for_leases_before_it_stops_its_server(lines: Callable[..., Line], prefix: str):
    line = lines(TAPELINE_REDIS__PREFIX=prefix).up()
    lease = f"{prefix}:{{binance.0}}:lease:normalizer"
    with line.client() as client:
        until = int(client.time()[0]) * 1000 + 60_000
        client.hset(lease, mapping={"owner": "x", "until": until})
        line.process.terminate()
        time.sleep(0.3)  # long enough to have stopped, had it not looked
        assert line.process.poll() is None
        client.hset(lease, "until", 0)
    assert line.process.wait(3) == 0


def test_a_lease_that_is_never_given_back_holds_it_three_seconds_at_most(lines: Callable[..., Line]):
    line = lines().up()
    with line.client() as client:
        until = int(client.time()[0]) * 1000 + 60_000
        client.hset("tl:{binance.0}:lease:normalizer", mapping={"owner": "x", "until": until})
    assert line.stop(4.6) == 0
    assert "leases_left" in line.out.read_text()


def test_a_server_that_ends_by_itself_ends_the_line(lines: Callable[..., Line]):
    line = lines().up()
    with line.client() as client:
        os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
    assert line.process.wait(5) == 1
    assert "the Redis server ended" in line.out.read_text()


def test_a_taken_port_is_named_with_the_settings_that_change_it(lines: Callable[..., Line]):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        line = lines(TAPELINE_PORT_OFFSET="0")
        line.stop()
        port = other.getsockname()[1]
        line = Line(line.folder, port)
        assert line.process.wait(10) == 2
    said = line.out.read_text()
    assert re.search(rf"port {port} .* in use .* redis\.port .*TAPELINE_PORT_OFFSET.* REDIS_URL", said), said
    assert "Traceback" not in said


def test_a_second_tapeline_on_the_same_data_is_refused(lines: Callable[..., Line]):
    first = lines().up()
    second = lines()
    assert second.process.wait(5) == 2
    assert "another Tapeline runs on the data" in second.out.read_text()
    assert first.answers()


def test_with_a_redis_url_the_line_idles(lines: Callable[..., Line]):
    line = lines(REDIS_URL="redis://127.0.0.1:1/0")
    await_true(lambda: "redis_line_idle" in line.out.read_text())
    assert not line.answers()
    assert line.stop() == 0


def test_no_server_anywhere_is_one_message():
    code = (
        "import importlib.util, os; os.environ['PATH'] = ''\nimportlib.util.find_spec = lambda name: None\n"
        "from actors.runtime.embedded import find_server\n"
        "try: find_server()\nexcept Exception as e: print(type(e).__name__, e)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ConfigError there is no Redis here")


def test_the_command_takes_any_server(tmp_path: Path):
    assert server_command(1, tmp_path / "a", binary="/x/redis-server")[0] == "/x/redis-server"
    assert server_command(1, tmp_path / "b")[0] == str(find_server())
    assert json.dumps(server_command(1, tmp_path / "b")).count("noeviction") == 1
