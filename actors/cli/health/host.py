"""This machine: ports, leftovers of an earlier run, file limits, disk, who may read the secrets."""

import json
import os
import resource
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from actors.cli.health.finding import Finding, bad, ok, warn
from actors.cli.health.process import Listeners, actors_here, alive, family
from actors.config import Settings
from actors.demo import METRICS_PORT, RUNNING, Running, formation_lines, ports_of
from actors.runtime.embedded import HOME
from actors.runtime.supervisor import TARGETS

_OTHER_FILES: Final = 256  # connections to Redis and venues, files of the master, the libraries' own
_LITTLE_BYTES: Final = 256 << 20
_SOME_BYTES: Final = 2 << 30


def examine(settings: Settings, config: Path, offset: int) -> list[Finding]:
    """Return what is found; ``offset``: of the ports."""
    guide = _guide()
    ours = family(guide.pid) if guide is not None and alive(guide.pid) else frozenset[int]()
    return [
        *_ports(settings, offset, ours),
        *_leftovers(guide, ours),
        _files(settings),
        *_disk(settings),
        *_secrets(settings, config),
    ]


def _guide() -> Running | None:
    try:
        return msgspec.json.decode(RUNNING.read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None


def _ports(settings: Settings, offset: int, ours: frozenset[int]) -> Iterator[Finding]:
    """Yield who has our ports."""
    wanted = ports_of(settings, METRICS_PORT + offset, formation_lines())
    if settings.redis.url is None:
        wanted["redis.port"] = ("127.0.0.1", settings.redis.port)
    listeners = Listeners()
    free: list[int] = []
    running: list[int] = []
    for what, (_, port) in wanted.items():
        owner = listeners.owner(port)
        if owner is None:
            free.append(port)
        elif owner.pid in ours:
            running.append(port)
        else:
            setting = "" if what.startswith("metrics") else f", or set {what}"
            remedy = f"stop it{setting}, or shift all ports with TAPELINE_PORT_OFFSET"
            yield bad("ports", f"{port} ({what}) is used by {owner}", remedy)
    if free:
        yield ok("ports", f"free: {' '.join(map(str, sorted(free)))}")
    if running:
        yield ok("ports", f"used by the Tapeline of this folder: {' '.join(map(str, sorted(running)))}")


def _leftovers(guide: Running | None, ours: frozenset[int]) -> Iterator[Finding]:
    """Yield what an earlier run left behind."""
    found = False
    if guide is not None and not alive(guide.pid):
        found = True
        says = f"{RUNNING} is of process {guide.pid}, which is gone"
        yield warn("leftovers", says, f"rm {RUNNING} (the next start does)")
    stray = {pid: what for pid, what in actors_here().items() if pid not in ours}
    if stray:
        found = True
        named = ", ".join(f"{pid} ({what})" for pid, what in sorted(stray.items()))
        pids = " ".join(map(str, sorted(stray)))
        says = f"processes run in this folder that no tapeline demo or up of it started: {named}"
        yield warn("leftovers", says, f"if nobody wants them: kill {pids}")
    listeners = Listeners()
    dead = [file for file in sorted(TARGETS.glob("*.json")) if not _is_served(file, listeners)]
    if dead:
        found = True
        says = f"{len(dead)} targets of processes that are gone: Prometheus asks them in vain"
        yield warn("leftovers", says, f"rm {' '.join(map(str, dead))}")
    if not found:
        yield ok("leftovers", "none")


def _is_served(file: Path, listeners: Listeners) -> bool:
    try:
        targets: list[dict[str, Any]] = json.loads(file.read_bytes())
        ports = [int(str(target).rpartition(":")[2]) for of in targets for target in of["targets"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all(listeners.owner(port) is not None for port in ports)


def _files(settings: Settings) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(settings.broadcaster.max_clients, settings.master.max_connections) + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        says = f"a process may open {hard} files; {wanted} are wanted for broadcaster.max_clients"
        return warn("files", says, f"raise the hard limit (ulimit -Hn {wanted}), or lower max_clients")
    return ok("files", f"a process may open {soft} files, and raise that to {_amount(hard)}")


def _amount(limit: int) -> str:
    return "any number" if limit == resource.RLIM_INFINITY else str(limit)


def _disk(settings: Settings) -> Iterator[Finding]:
    if settings.redis.url is not None and not settings.master.enabled:
        return  # nothing is written here
    folder = HOME if HOME.exists() else Path.cwd()
    free = shutil.disk_usage(folder).free
    says = f"{free / (1 << 30):.1f} GiB are free for {folder}"
    remedy = "make room: a server that cannot write its log takes no more writes"
    if not os.access(folder, os.W_OK):
        yield bad("disk", f"{folder.resolve()} cannot be written to", "run in a folder of yours")
    elif free < _LITTLE_BYTES:
        yield bad("disk", says, remedy)
    else:
        yield Finding("disk", "warn" if free < _SOME_BYTES else "ok", says, remedy)


def _secrets(settings: Settings, config: Path) -> Iterator[Finding]:
    """Yield the files of secrets that others can read."""
    files = [
        settings.redis.url_file,
        settings.broadcaster.token_file,
        settings.forwarder.key_file,
        settings.master.keys_file,
        settings.broadcaster.tls_key,
        settings.master.tls_key,
        config if config.suffix == ".json" else None,  # FTSOBest's has the key in it
    ]
    for file in files:
        if file is not None and file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            yield warn("secrets", f"{file} can be read by others", f"chmod 600 {file}")
