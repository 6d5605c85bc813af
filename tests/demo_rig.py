"""A whole demo as child processes: in a folder and on ports of its own, found again by a mark."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import redis

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
METRICS = {
    "simulator": 7500, "connector": 7600, "normalizer": 7700, "bookbuilder": 7800, "analytics": 7900,
    "broadcaster": 8000, "forwarder": 8100, "master": 8200,
}  # fmt: skip
FEW = "binance,kraken,okx"  # of the demo's venues: enough for most tests
PORTS = (6391, 7400, *METRICS.values(), 8766, 9001, 9700)


def await_true(what: str, probe: Callable[[], T], within_s: float = 60.0) -> T:
    """Return the first true answer of ``probe``. A crowded machine needs what a quiet one does not."""
    deadline = time.monotonic() + within_s
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)
    return answer


def free_offset() -> int:
    """Return an offset that makes every port free, below the ports that the system hands out."""
    while True:
        offset = random.randrange(10_000, 22_000)
        try:
            for port in PORTS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return offset


class Demo:
    """One ``tapeline demo``. ``mark`` is in the environment of all its processes.

    ``venues``: which of those that are configured; None: all.
    """

    def __init__(self, folder: Path, venues: str | None = None) -> None:
        self.folder = folder
        self.venues = venues
        self.offset = free_offset()
        self.mark = f"DEMO_MARK={uuid.uuid4().hex}"
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0

    @property
    def env(self) -> dict[str, str]:
        """The environment for commands that speak to it."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TAPELINE_") and k != "REDIS_URL"}
        chosen = {} if self.venues is None else {"TAPELINE_VENUES": self.venues}
        return {**kept, **chosen, "TAPELINE_PORT_OFFSET": str(self.offset), "COLUMNS": "200"}

    @property
    def out(self) -> Path:
        return self.folder / f"out-{self.started}"

    def start(self, *arguments: str, command: str = "demo") -> "Demo":
        self.started += 1
        name, _, value = self.mark.partition("=")
        with self.out.open("ab") as out:
            self.process = subprocess.Popen(
                [BIN / "tapeline", command, *arguments],
                cwd=self.folder,
                env={**self.env, name: value},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return self

    def said(self) -> str:
        return self.out.read_text(errors="replace")

    def live(self) -> "Demo":
        assert self.process is not None
        process = self.process

        def probe() -> bool:
            assert process.poll() is None, self.said()
            return "Ctrl-C stops everything" in self.said()

        await_true("the guide has said all", probe)
        return self

    def processes(self) -> dict[int, str]:
        """Return pid -> command line of every process of it, honcho's helpers and the server included."""
        found: dict[int, str] = {}
        for folder in Path("/proc").iterdir():
            try:
                if not folder.name.isdecimal():
                    continue
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                # The server writes its title over its environment; its port is as good a mark.
                ours = command.endswith(f"-server 127.0.0.1:{6391 + self.offset}")
                if command and (ours or self.mark.encode() in (folder / "environ").read_bytes()):
                    found[int(folder.name)] = command  # a zombie has no command
            except (OSError, UnicodeDecodeError):
                continue
        return found

    def pid(self, what: str) -> int:
        """Return the process whose command line ends with ``what``."""
        return await_true(
            f"a process: {what}",
            lambda: next((pid for pid, command in self.processes().items() if command.endswith(what)), 0),
        )

    def client(self) -> "redis.Redis":
        return redis.Redis(port=6391 + self.offset, decode_responses=True, socket_timeout=20)

    def get(self, path: str, port: int = 9001) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port + self.offset}{path}", timeout=20) as answer:
            return answer.read()

    def tapeline(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [BIN / "tapeline", *arguments, "--config", ROOT / "config/demo.toml"],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        return json.loads(self.tapeline("status", "--json").stdout)

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@contextmanager
def demo(folder: Path, venues: str | None = None) -> Iterator[Demo]:
    """Yield a demo, not started yet; nothing of it is left afterwards."""
    made = Demo(folder, venues)
    try:
        yield made
    finally:
        made.close()
        if made.started:
            sys.stdout.write(made.said())  # pytest shows it where the test failed
