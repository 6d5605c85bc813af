"""The supervisor: it brings its actor back, and nothing outlives the formation, however it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.runtime.supervisor import parent_of

# An actor that writes its pid to a new file at each start, and drains on SIGTERM unless told to be deaf.
ACTOR = """
import os, signal, sys, time
folder, how = sys.argv[1], sys.argv[2]
from actors.runtime.supervisor import hold_lifeline
hold_lifeline(os.environ)
def stop(*_):
    open(f"{folder}/drained", "a").write("x")
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "deaf" else stop)
open(f"{folder}/{os.getpid()}.partial", "w").write(os.environ["TAPELINE_RESTARTS"])
os.rename(f"{folder}/{os.getpid()}.partial", f"{folder}/{os.getpid()}.started")
if how == "config":
    sys.exit(2)
while True:
    time.sleep(60)
"""
SUPERVISE = """
import os, sys
from actors.runtime.supervisor import Supervisor
sys.exit(Supervisor("connector", [sys.executable, "-c", *sys.argv[1:]], os.environ).run())
"""
# Like honcho 2: a helper process that ignores SIGTERM, and the supervisor in a session of its own.
HONCHO = """
import os, signal, subprocess, sys, time
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(sys.argv[1:], start_new_session=True)
    open("supervisor.pid", "w").write(str(child.pid))
    child.wait()
    time.sleep(60)  # a helper that hangs on its queue
    os._exit(0)
time.sleep(60)
"""
# Like tapeline demo: what honcho itself hangs on.
GUIDE = """
import os, subprocess, sys
os.environ["TAPELINE_GUIDE"] = str(os.getpid())
subprocess.run(sys.argv[1:], start_new_session=True)
"""


def await_true(what: Callable[[], object], within_s: float = 8.0) -> object:
    deadline = time.monotonic() + within_s
    while not (answer := what()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
    return answer


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def started(self) -> list[int]:
        found = sorted(self.folder.glob("*.started"), key=lambda file: file.stat().st_mtime_ns)
        return [int(file.stem) for file in found]

    def start(self, how: str = "good", *, under_honcho: bool = False, under_guide: bool = False) -> None:
        command = [sys.executable, "-c", SUPERVISE, ACTOR, str(self.folder), how]
        given = {"PORT": "7499", "HONCHO_PROCESS_NAME": "connector.1"} if under_honcho else {}
        if under_honcho:
            command = [sys.executable, "-c", HONCHO, *command]
        if under_guide:
            command = [sys.executable, "-c", GUIDE, *command]
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **given},
            stderr=(self.folder / "err").open("ab"),
            start_new_session=True,
        )

    def supervisor(self) -> int:
        file = self.folder / "supervisor.pid"
        return int(str(await_true(lambda: file.exists() and file.read_text())))

    def actor(self, number: int = 1) -> int:
        return list(await_true(lambda: len(self.started()) >= number and self.started()))[number - 1]  # type: ignore[call-overload]

    def said(self) -> str:
        return (self.folder / "err").read_text()

    def close(self) -> None:
        for pid in self.started():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_a_killed_actor_is_started_again_and_told_how_often(rig: Rig):
    rig.start()
    os.kill(rig.actor(1), signal.SIGKILL)
    second = rig.actor(2)
    os.kill(second, signal.SIGKILL)
    third = rig.actor(3)
    assert (rig.folder / f"{third}.started").read_text() == "2"
    lines = [json.loads(line) for line in rig.said().splitlines()]
    assert [line["how"] for line in lines] == ["killed by SIGKILL"] * 2
    assert all(0 < line["again_in_s"] <= 0.4 for line in lines)  # it lived under 5 s: a back-off


def test_sigterm_drains_the_actor_and_ends_both(rig: Rig):
    rig.start()
    actor = rig.actor()
    assert rig.process is not None
    rig.process.send_signal(signal.SIGTERM)
    assert rig.process.wait(5) == 0
    assert not alive(actor)
    assert (rig.folder / "drained").read_text() == "x"


def test_an_actor_deaf_to_sigterm_is_killed(rig: Rig):
    rig.start("deaf")
    actor = rig.actor()
    assert rig.process is not None
    rig.process.send_signal(signal.SIGTERM)
    assert rig.process.wait(6) == 0
    assert not alive(actor)
    assert "did not end within 3.5 s" in rig.said()


def test_a_wrong_configuration_is_not_tried_again(rig: Rig):
    rig.start("config")
    assert rig.process is not None
    assert rig.process.wait(5) == 2
    assert len(rig.started()) == 1


def test_an_actor_dies_with_its_killed_supervisor(rig: Rig):
    rig.start()
    actor = rig.actor()
    assert rig.process is not None
    rig.process.kill()
    rig.process.wait()
    await_true(lambda: not alive(actor), 3)


def test_all_ends_when_honcho_is_killed_its_stuck_helper_included(rig: Rig):
    rig.start(under_honcho=True)
    supervisor, actor = rig.supervisor(), rig.actor()
    helper = parent_of(supervisor)
    assert rig.process is not None
    rig.process.kill()
    rig.process.wait()
    await_true(lambda: not any(alive(pid) for pid in (supervisor, actor, helper) if pid))
    assert (rig.folder / "drained").read_text() == "x"


def test_all_ends_when_the_guide_above_honcho_is_killed(rig: Rig):
    rig.start(under_honcho=True, under_guide=True)
    supervisor, actor = rig.supervisor(), rig.actor()
    helper = parent_of(supervisor)
    honcho = parent_of(helper) if helper else None
    assert rig.process is not None
    rig.process.kill()
    rig.process.wait()
    await_true(lambda: not any(alive(pid) for pid in (supervisor, actor, helper) if pid))
    if honcho:
        os.kill(honcho, signal.SIGKILL)  # the real one ends when its processes do


def test_prometheus_finds_the_process_while_it_is_supervised(rig: Rig):
    rig.start(under_honcho=True)
    rig.actor()
    file = rig.folder / ".tapeline" / "targets" / "connector.1.json"
    assert json.loads(file.read_text()) == [
        {"targets": ["127.0.0.1:7499"], "labels": {"process": "connector.1"}}
    ]
    os.kill(rig.supervisor(), signal.SIGTERM)
    await_true(lambda: not file.exists())


def test_a_supervisor_imports_nothing_but_the_standard_library():
    code = (
        "import sys; from actors.runtime import supervisor; "
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    foreign = {name for name in modules if name not in sys.stdlib_module_names and name != "actors"}
    # The editable install's own finder and .pth hooks are loaded by the interpreter, not by us.
    assert {name for name in foreign if not name.startswith(("_", "sitecustomize", "distutils"))} == set()
