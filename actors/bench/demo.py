"""What ``tapeline demo`` takes, all of it: processor time and memory of every process."""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from actors.config import load
from actors.config.reader import OFFSET
from actors.demo import DEMO, METRICS_PORT, formation_lines, ports_of
from actors.formation import Unfinished, await_true, cpu_s
from actors.runtime.supervisor import die_with_parent, parent_of

_SETTLED_S: Final = 5.0  # chosen: the first snapshots of all books are over
_START_S: Final = 60.0
_STOP_S: Final = 15.0


def demo_once(seconds: float) -> tuple[float, float]:
    """Run the demo; return the cores it used over ``seconds``, and MiB at their end.

    Memory shared by several processes counts once (proportional set size).

    Raises:
        Unfinished: It ended, or not every venue said how it does within a minute.
    """
    with tempfile.TemporaryDirectory(prefix="tapeline-bench-") as folder, _running(Path(folder)) as guide:
        time.sleep(_SETTLED_S)
        before, began = {pid: _cpu_s(pid) for pid in _tree(guide)}, time.monotonic()
        time.sleep(seconds)
        used = [max(0.0, _cpu_s(pid) - was) for pid, was in before.items()]
        cores = sum(used) / (time.monotonic() - began)
        return cores, sum(map(_mib, before))


@contextmanager
def _running(folder: Path) -> Generator[int]:
    """Yield the process of a demo in ``folder`` whose venues are all live; nothing is left of it."""
    said = folder / "said"
    environment = {**os.environ, OFFSET: str(_free_offset())}
    with said.open("wb") as out:
        guide = subprocess.Popen(
            [sys.executable, "-m", "actors", "demo"],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl, no Python threads involved
        )

    def told_all() -> bool:
        if guide.poll() is not None:
            raise Unfinished(f"the demo ended: {said.read_text()}")
        return "Ctrl-C stops everything" in said.read_text()

    try:
        await_true("every venue said how it does", told_all, _START_S)
        yield guide.pid
    finally:
        guide.send_signal(signal.SIGINT)
        try:
            guide.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            guide.kill()  # supervisors see it and end their actors
            guide.wait()


def _free_offset() -> int:
    """Return an offset that makes every port of the demo free, below those that the system hands out."""
    lines = formation_lines()
    while True:
        offset = random.randrange(10_000, 22_000)
        settings = load(DEMO, {OFFSET: str(offset)})
        ports = [port for _, port in ports_of(settings, METRICS_PORT + offset, lines).values()]
        try:
            for port in (settings.redis.port, *ports):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return offset


def _tree(root: int) -> set[int]:
    """Return ``root`` and every process below it."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
    parents = {pid: parent_of(pid) for pid in pids}
    found = {root}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return found


# Nothing is asked twice of a process that ends meanwhile, as Redis' forks do: it counts as nothing.


def _cpu_s(pid: int) -> float:
    try:
        return cpu_s(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _mib(pid: int) -> float:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024
