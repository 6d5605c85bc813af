"""Processes and who listens where, as Linux tells it in /proc; elsewhere only whether a port is free."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from actors.runtime.supervisor import parent_of

_PROC: Final = Path("/proc")
_LISTEN: Final = "0A"  # state in /proc/net/tcp


class Owner(NamedTuple):
    """Who listens. ``pid`` None: nobody who we may know."""

    pid: int | None
    command: str

    def __str__(self) -> str:
        return (
            "another program (of another user)"
            if self.pid is None
            else f"process {self.pid} ({self.command})"
        )


class Listeners:
    """Who listens on which TCP port, at one moment."""

    def __init__(self) -> None:
        self._inodes = dict(_listening())
        self._pids = _pids_of({*self._inodes.values()}) if self._inodes else {}

    def owner(self, port: int) -> Owner | None:
        """Return who listens on ``port`` of any address, None where nobody does."""
        inode = self._inodes.get(port)
        if inode is None:
            return None if self._inodes or not _answers(port) else Owner(None, "")
        pid = self._pids.get(inode)
        return Owner(pid, "" if pid is None else command_of(pid))


def _listening() -> Iterator[tuple[int, str]]:
    """Yield port and inode of every listening socket."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN:
                yield int(fields[1].rpartition(":")[2], 16), fields[9]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _pids() -> Iterator[int]:
    if _PROC.exists():
        yield from (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())


def _pids_of(inodes: set[str]) -> dict[str, int]:
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, int] = {}
    for pid in _pids():
        try:
            for link in (_PROC / str(pid) / "fd").iterdir():
                inode = wanted.get(str(link.readlink()))
                if inode is not None:
                    found.setdefault(inode, pid)
        except OSError:  # it is gone, or another user's
            continue
    return found


def command_of(pid: int) -> str:
    """Return a process' command line, shortened."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "gone"
    text = " ".join(word for word in words if word)
    return text if len(text) <= 80 else f"{text[:77]}..."


def alive(pid: int) -> bool:
    """Return whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def family(pid: int) -> frozenset[int]:
    """Return ``pid`` and all that descend from it."""
    parents = {each: parent_of(each) for each in _pids()}
    found = {pid}
    while more := {each for each, parent in parents.items() if parent in found and each not in found}:
        found |= more
    return frozenset(found)


def actors_here() -> dict[int, str]:
    """Return the actors and supervisors that run in this folder: pid -> what."""
    here = Path.cwd()
    found: dict[int, str] = {}
    for pid in _pids():
        try:
            words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if (_PROC / str(pid) / "cwd").resolve() != here:
                continue
        except OSError:
            continue
        match words:
            case [_, "-m", "actors", "run", role, *_] if role:
                found[pid] = f"run {role}"
            case [_, tapeline, "supervise", role, *_] if tapeline.endswith("tapeline") and role:
                found[pid] = f"supervise {role}"
            case _:
                continue
    return found
