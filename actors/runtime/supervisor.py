"""Keep one actor alive: start it again whenever it ends, and end it when the formation ends.

Standard library only: one of these stands behind every Procfile line, and all start at once.

honcho starts ``/bin/sh -c "exec tapeline supervise <role>"`` in a session of its own, from a helper process
that ignores SIGTERM; so our parent is the helper and our grandparent honcho. honcho killed -9 would leave
everything running: hence the watch on the ancestors. An actor dies with its supervisor twice over: by
PDEATHSIG (Linux) and by the lifeline, a pipe whose end tells it so (anywhere).

========================= ==================================================================
what happens              what we do
========================= ==================================================================
actor ends                start it again: at once, or after a back-off if it lived under 5 s
actor ends with code 2    its configuration is wrong: end with 2, honcho stops the formation
SIGTERM, SIGINT, SIGHUP   SIGTERM to the actor, SIGKILL at 3.5 s; end
an ancestor is gone       the same, and end honcho's helper, which may hang on its own queue
========================= ==================================================================
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from actors.runtime.backoff import backoff

SETTLED_S: Final = 5.0  # an actor that lived this long is started again at once
GRACE_S: Final = 3.5  # actors drain in 2.5 s
REDIS_GRACE_S: Final = 4.6  # its line waits 3 s for leases, then stops its server; honcho kills at 5 s
LIFELINE: Final = "TAPELINE_LIFELINE"
GUIDE: Final = "TAPELINE_GUIDE"
TARGETS: Final = Path(".tapeline/targets")
CONFIG_ERROR: Final = 2
_WATCH_S: Final = 0.5
STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)  # before any fork: dlopen is nothing for a child between fork and exec


def die_with_parent(with_signal: int = signal.SIGKILL) -> None:
    """Ask the kernel, between fork and exec, to send ``with_signal`` when the parent ends. Linux only."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0)


def hold_lifeline(env: Mapping[str, str]) -> None:
    """In an actor: end at once when the supervisor that started us is gone."""
    fd = env.get(LIFELINE)
    if fd is None:
        return

    def watch(lifeline: int) -> None:
        os.read(lifeline, 1)  # nothing is ever written: it returns at the end
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, args=(int(fd),), name="lifeline", daemon=True).start()


class Signals:
    """Signals as values: ``wait`` returns those that came. For a main thread without an event loop."""

    def __init__(self, *numbers: int) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        os.set_blocking(self._read, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _noted)

    def wait(self, timeout_s: float | None) -> list[int]:
        """Return the signals that came within ``timeout_s``; none when it is over."""
        ready, _, _ = select.select([self._read], [], [], timeout_s)
        return list(os.read(self._read, 64)) if ready else []

    def wait_for(self, *numbers: int) -> None:
        """Return once one of ``numbers`` came."""
        while not {*self.wait(None)} & {*numbers}:
            pass


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the wake-up pipe has it."""


def parent_of(pid: int) -> int | None:
    """Return the parent of a process, None when there is no such process."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            return int(stat.read_bytes().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return None
    asked = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, check=False)  # noqa: S603, S607 - macOS has no /proc
    return int(asked.stdout) if asked.stdout.strip() else None


class Ancestors:
    """The processes that our life hangs on: honcho's helper, honcho, and the guide where there is one."""

    def __init__(self, env: Mapping[str, str]) -> None:
        guide = int(env[GUIDE]) if GUIDE in env else None
        self._chain: list[int] = []
        if "HONCHO_PROCESS_NAME" not in env:
            return  # started by hand or by an init system: it may well outlive the shell
        pid: int | None = os.getppid()
        while pid is not None and pid > 0 and len(self._chain) < 8:
            self._chain.append(pid)
            if pid == guide or (guide is None and len(self._chain) == 2):
                return
            pid = parent_of(pid)
        self._chain.append(-1)  # the guide is gone already: nobody's parent

    @property
    def helper(self) -> int | None:
        """Our parent, where honcho started us."""
        return self._chain[0] if self._chain else None

    def alive(self) -> bool:
        """Return whether every ancestor is still the parent of the next."""
        if not self._chain:
            return True
        if os.getppid() != self._chain[0]:
            return False
        return all(
            parent_of(child) == parent for child, parent in zip(self._chain, self._chain[1:], strict=False)
        )


class _Out:
    """Our own few lines, in the manner of the actors' logs. Whoever read them may be gone."""

    def __init__(self, role: str, env: Mapping[str, str]) -> None:
        self._role = role
        pretty = env.get("TAPELINE_LOG__PRETTY", "").lower() in {"1", "true", "yes", "on"}
        self._pretty = pretty or sys.stderr.isatty()

    def say(self, level: str, event: str, **fields: object) -> None:
        if self._pretty:
            text = f"[{level}] {event} " + " ".join(f"{name}={value}" for name, value in fields.items())
        else:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            text = json.dumps({"ts": now, "role": self._role, "level": level, "event": event, **fields})
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except OSError:
            sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the rest of our life


class Supervisor:
    """One actor's supervisor; ``command`` starts the actor."""

    def __init__(self, role: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._role = role
        self._command = list(command)
        self._env = dict(env)
        self._out = _Out(role, env)
        self._grace_s = REDIS_GRACE_S if role == "redis" else GRACE_S
        self._ancestors = Ancestors(env)
        self._signals = Signals(signal.SIGCHLD, *STOP)
        self._restarts = 0

    def run(self) -> int:
        """Supervise until told to stop; return the exit code."""
        target = _write_target(self._role, self._env)
        try:
            return self._run()
        finally:
            if target is not None:
                target.unlink(missing_ok=True)

    def _run(self) -> int:
        delays = backoff(0.2, 2.0, 10.0)
        while True:
            started = time.monotonic()
            actor, lifeline = self._start()
            stopping = self._watch(actor, None)
            if stopping:
                code = self._stop(actor)
                os.close(lifeline)
                return code
            os.close(lifeline)
            lived_s = time.monotonic() - started
            if actor.returncode == CONFIG_ERROR:
                self._out.say(
                    "error", "actor_cannot_run", reason="its message stands above", code=CONFIG_ERROR
                )
                return CONFIG_ERROR
            if lived_s >= SETTLED_S:
                delays = backoff(0.2, 2.0, 10.0)
            delay_s = 0.0 if lived_s >= SETTLED_S else next(delays)
            self._restarts += 1
            self._out.say(
                "warning",
                "actor_ended",
                how=_how(actor.returncode),
                lived_s=round(lived_s, 1),
                again_in_s=round(delay_s, 1),
                restarts=self._restarts,
            )
            if delay_s and self._watch(None, delay_s):
                return 0

    def _start(self) -> tuple["subprocess.Popen[bytes]", int]:
        """Start the actor; return it with our end of its lifeline."""
        theirs, ours = os.pipe()
        env = {**self._env, LIFELINE: str(theirs), "TAPELINE_RESTARTS": str(self._restarts)}
        try:
            actor = subprocess.Popen(  # noqa: S603 - our own command line
                self._command,
                stdin=subprocess.DEVNULL,
                env=env,
                pass_fds=(theirs,),
                process_group=0,  # honcho signals our whole group: the actor must hear it from us, once
                preexec_fn=die_with_parent,  # noqa: PLW1509 - we have no threads
            )
        finally:
            os.close(theirs)
        return actor, ours

    def _watch(self, actor: "subprocess.Popen[bytes] | None", for_s: float | None) -> bool:
        """Wait until ``actor`` ended or ``for_s`` passed; return True when told to stop before."""
        end = None if for_s is None else time.monotonic() + for_s
        while actor is None or actor.poll() is None:
            left_s = _WATCH_S if end is None else min(_WATCH_S, end - time.monotonic())
            if left_s <= 0:
                return False
            came = self._signals.wait(left_s)
            if any(number in STOP for number in came):
                return True
            if not self._ancestors.alive():
                self._out.say("warning", "formation_gone", reason="honcho or what started it was killed")
                return True
        return False

    def _stop(self, actor: "subprocess.Popen[bytes]") -> int:
        actor.terminate()
        end = time.monotonic() + self._grace_s
        while actor.poll() is None:
            if time.monotonic() >= end:
                self._out.say("warning", "actor_killed", reason=f"did not end within {self._grace_s} s")
                actor.kill()
                actor.wait()
                break
            self._signals.wait(min(0.05, max(0.0, end - time.monotonic())))
        helper = self._ancestors.helper
        if helper is not None and os.getppid() == helper and not self._ancestors.alive():
            # It writes to a queue that nobody reads any more, and would wait for ever once that is full.
            os.kill(helper, signal.SIGKILL)
        return max(0, actor.returncode)


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


def target_of(role: str, env: Mapping[str, str]) -> Path | None:
    """Return the file that tells Prometheus of this process (file_sd), None without a fixed port."""
    if env.get("PORT", "0") == "0" or role == "redis":
        return None
    return TARGETS / f"{env.get('HONCHO_PROCESS_NAME', role)}.json"


def _write_target(role: str, env: Mapping[str, str]) -> Path | None:
    """Write where Prometheus finds this process; return the file. An actor that idles removes it."""
    file = target_of(role, env)
    if file is None:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    target = {"targets": [f"127.0.0.1:{env['PORT']}"], "labels": {"process": file.stem}}
    partial.write_text(json.dumps([target]) + "\n")
    partial.replace(file)
    return file


def main(arguments: Sequence[str]) -> int:
    """Run ``tapeline supervise <role> [options of run]``."""
    if not arguments or arguments[0].startswith("-"):
        sys.stderr.write("usage: tapeline supervise <role> [--config FILE]\n")
        return CONFIG_ERROR
    role = arguments[0]
    command = [sys.executable, "-m", "actors", "run", *arguments]
    return Supervisor(role, command, os.environ).run()
