"""A whole pipeline as child processes in a folder of its own, to be killed at will.

The chaos runs, the benchmarks and the end-to-end tests stand on it. It needs nothing but a free folder:
a Redis server on a free port, a config file, and actors started as ``tapeline run <role>``.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar, cast

import redis

from actors.runtime.embedded import server_command
from actors.runtime.supervisor import die_with_parent

T = TypeVar("T")


Rows = Sequence[tuple[str, dict[str, str]]]


class Client(Protocol):
    """What is asked of the server, in types that the client's own hints leave open."""

    def ping(self) -> bool: ...  # noqa: D102
    def time(self) -> tuple[int, int]: ...  # noqa: D102
    def info(self, section: str) -> dict[str, object]: ...  # noqa: D102
    def hget(self, name: str, key: str) -> str | None: ...  # noqa: D102
    def hmget(self, name: str, keys: Sequence[str]) -> list[str | None]: ...  # noqa: D102
    def xlen(self, name: str) -> int: ...  # noqa: D102
    def xrange(self, name: str, min: str, count: int) -> Rows: ...  # noqa: A002, D102
    def xrevrange(self, name: str, *, count: int) -> Rows: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Unfinished(Exception):
    """A condition did not come true in time; the message says which, and what was seen last."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def await_true(what: str, probe: Callable[[], T | None], within_s: float = 20.0, every_s: float = 0.01) -> T:
    """Return the first true answer of ``probe``.

    Raises:
        Unfinished: None came within ``within_s``.
    """
    deadline = time.monotonic() + within_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Unfinished(f"not within {within_s:g} s: {what}")
        time.sleep(every_s)


def cpu_s(pid: int) -> float:
    """Return the CPU time a process has used so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Child:
    """One child process and where its output went."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    @property
    def role(self) -> str:
        """The role that it is an instance of."""
        return self.name.partition(".")[0]

    @property
    def running(self) -> bool:
        """Whether it has not exited."""
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill -9 and reap."""
        self.process.kill()
        self.process.wait()

    def stop(self, within_s: float = 5.0) -> int:
        """Ask it to end, kill it when it does not; return its exit code."""
        if self.running:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def cpu_s(self) -> float:
        """Return the CPU time it has used so far, in seconds."""
        return cpu_s(self.pid)

    def tail(self, characters: int = 2000) -> str:
        """Return the end of what it printed."""
        return self.log.read_text(errors="replace")[-characters:]


@dataclass
class Formation:
    """Redis and actors as children.

    ``config`` is TOML text without ``[redis]``; ``server`` is a binary, None for the embedded one.
    """

    folder: Path
    config: str
    server: str | None = None
    port: int = field(default_factory=free_port)
    children: list[Child] = field(default_factory=list[Child])
    _server: Child | None = None
    _count: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "tapeline.toml"
        self.path.write_text(self.config)

    @property
    def url(self) -> str:
        """Redis URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def redis(self) -> Child:
        """The server's process."""
        if self._server is None:
            raise RuntimeError("start_redis() first")
        return self._server

    def client(self) -> Client:
        """Return a client of the server."""
        return cast("Client", redis.Redis(port=self.port, socket_timeout=10, decode_responses=True))

    def start_redis(self) -> None:
        """Start the server on its data, AOF everysec, and wait until it answers."""
        command = server_command(self.port, self.folder / "redis", binary=self.server)
        self._server = self._start("redis", command, {})
        client = self.client()

        def answers() -> bool:
            if not self.redis.running:
                raise Unfinished(f"the Redis server ended: {self.redis.tail()}")
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):
                return False

        await_true("the Redis server answers", answers)
        client.close()

    def kill_redis(self) -> None:
        """Kill -9 the server; its data stay."""
        self.redis.kill()

    def run(self, role: str, environment: Mapping[str, str] | None = None) -> Child:
        """Start one more instance of a role."""
        number = self._count[role] = self._count.get(role, 0) + 1
        command = [sys.executable, "-m", "actors", "run", role, "--config", str(self.path)]
        env = {
            "REDIS_URL": self.url,
            "PORT": "0",
            "HONCHO_PROCESS_NAME": f"{role}.{number}",
            **(environment or {}),
        }
        child = self._start(f"{role}.{number}", command, env)
        self.children.append(child)
        return child

    def _start(self, name: str, command: list[str], env: Mapping[str, str]) -> Child:
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(  # noqa: S603 - our own command line
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl, no Python threads involved
            )
        return Child(name, process, log)

    def child_of(self, owner: str) -> Child:
        """Return the child that is this lease owner (``<role>.<host>.<pid>.<hex>``)."""
        pid = int(owner.rsplit(".", 2)[1])
        return next(child for child in self.children if child.pid == pid)

    def close_actors(self) -> None:
        """End the actors; the server goes on."""
        for child in self.children:
            if child.running:
                child.process.send_signal(signal.SIGCONT)
                child.process.terminate()
        for child in self.children:
            child.stop()

    def close(self) -> None:
        """End everything; nothing is left."""
        self.close_actors()
        if self._server is not None:
            self._server.stop()
