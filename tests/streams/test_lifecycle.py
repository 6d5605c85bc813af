"""An actor's life: what a user causes is one plain line and an exit code, a signal is a clean end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import structlog.testing

from actors.config import ConfigError, Settings
from actors.runtime import lifecycle
from actors.runtime.lifecycle import Actor, Refused
from actors.streams.errors import RedisUnusable

TOY = Path(__file__).with_name("toy.py")


@pytest.fixture
def settings(settings_for, monkeypatch) -> Settings:
    monkeypatch.delenv("PORT", raising=False)
    # Logging is set up once a process, on the standard error of that moment: not on a test's.
    monkeypatch.setattr(lifecycle.logs, "setup", lambda *_: None)
    monkeypatch.setattr(lifecycle, "log", structlog.testing.CapturingLogger())
    return settings_for("redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("port 9001 is taken"), 2),
        (RedisUnusable("no Redis answers"), 1),
        (Refused("a newer format"), 1),
        (ExceptionGroup("g", [ExceptionGroup("h", [RedisUnusable("no Redis answers")])]), 1),
    ],
)
def test_what_a_user_can_cause_is_one_plain_line(settings, capfd, error: Exception, code: int):
    async def run(_: Actor) -> None:
        raise error

    assert lifecycle.main("normalizer", run, settings) == code
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("tapeline normalizer: ")]
    assert not any("Traceback" in line for line in lines)


def test_a_bug_is_a_traceback_and_exit_code_1(settings):
    async def run(_: Actor) -> None:
        raise ZeroDivisionError

    assert lifecycle.main("normalizer", run, settings) == 1
    (failure,) = [call for call in lifecycle.log.calls if call.method_name == "critical"]
    assert isinstance(failure.kwargs["exc_info"], ExceptionGroup)


def test_an_actor_knows_its_number_and_has_a_name_of_its_own(settings, monkeypatch):
    monkeypatch.setenv("HONCHO_PROCESS_NAME", "normalizer.3")
    seen: list[Actor] = []

    async def run(actor: Actor) -> None:
        seen.append(actor)

    for _ in range(2):
        assert lifecycle.main("normalizer", run, settings) == 0
    assert [actor.number for actor in seen] == [3, 3]
    assert seen[0].instance.startswith("normalizer.")
    assert seen[0].instance != seen[1].instance


@pytest.mark.redis
def test_a_signal_ends_an_actor_cleanly_and_in_time(redis_server):
    server = redis_server()
    process = subprocess.Popen(
        [sys.executable, str(TOY), server.url, "1"], cwd=TOY.parents[2], stderr=subprocess.DEVNULL
    )
    try:
        with server.client() as client:
            deadline = time.monotonic() + 20
            while not client.keys("tl:*:lease:toy"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert time.monotonic() - began < 2.5
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", ["absent", "mute"])
def test_a_signal_ends_an_actor_that_still_waits_for_redis(tmp_path, how: str):
    (tmp_path / "tapeline.toml").write_text('mode = "live"\n[venues.binance]\nsymbols = ["BTC-USDT"]\n')
    with socket.socket() as mute, (tmp_path / "out").open("w+b") as out:
        mute.bind(("127.0.0.1", 0))
        if how == "mute":
            mute.listen()  # it takes connections and says nothing
        process = subprocess.Popen(
            [sys.executable, "-m", "actors", "run", "normalizer", "--config", "tapeline.toml"],
            cwd=tmp_path,
            env={**os.environ, "REDIS_URL": f"redis://127.0.0.1:{mute.getsockname()[1]}/0"},
            stderr=out,
        )
        try:
            deadline = time.monotonic() + 20
            while b"actor_started" not in (tmp_path / "out").read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
        finally:
            process.kill()
            process.wait()
