"""Run one actor: ``tapeline run <role>``. Imports no more than the role needs."""

import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from actors.config import ConfigError, Settings, load
from actors.config.words import nearest
from actors.runtime.supervisor import LIFELINE, STOP, Signals, hold_lifeline, target_of

ROLES: Final = (
    "connector", "normalizer", "bookbuilder", "analytics", "broadcaster", "simulator", "forwarder", "master",
)  # fmt: skip
_ALONE: Final = ("simulator", "master")  # they need no Redis
LINES: Final = ("redis", *ROLES)  # what a Procfile line may name
ALL: Final = "all"  # of them, as FTSOBest's users start a collector


def run_with(role: str, arguments: Sequence[str]) -> int:
    """Run ``role`` with the arguments of a Procfile line: nothing, or the config file."""
    return run(role, Path(arguments[0]) if arguments else None, os.environ)


def run(role: str, config: Path | None, env: Mapping[str, str]) -> int:
    """Run an actor of ``role`` until it is told to stop; return its exit code.

    A role that the configuration has no use for idles: honcho stops everything when a line ends.
    """
    hold_lifeline(env)
    if role not in LINES and role != ALL:
        known = (*LINES, ALL)
        return say(ConfigError(f'there is no role "{role}"{nearest(role, known)} ({", ".join(known)})'), 2)
    try:
        if role == ALL:
            return run_all(config, env, None)
        return run_role(role, load(config, env))
    except ConfigError as e:
        return say(e, 2)


def run_all(config: Path | None, env: Mapping[str, str], instances: str | None) -> int:
    """Run the whole formation: ``tapeline up``.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    from actors.demo import LIVE, guide  # noqa: PLC0415 - only this needs it

    return guide(Path(env.get("TAPELINE_CONFIG", LIVE)) if config is None else config, env, instances)


def run_role(role: str, settings: Settings) -> int:
    """Run an actor under settings that are checked already."""
    if role == "redis":
        return _redis(settings)
    if (reason := _useless(role, settings)) is not None:
        return _idle(role, settings, reason)
    from actors.runtime import lifecycle  # noqa: PLC0415 - the two lines above need none of it

    run_it = importlib.import_module(f"actors.{role}").run
    return lifecycle.main(role, run_it, settings, on_redis=role not in _ALONE)


def _useless(role: str, settings: Settings) -> str | None:
    """Return why the configuration has no use for a role, None where it has."""
    match role:
        case "simulator" if settings.mode == "live":
            return "the configuration is a live one"
        case "forwarder" if not settings.forwarder.active:
            return "neither forwarder.url nor forwarder.demo is set"
        case "master" if not settings.master.enabled:
            return "master.enabled is not set"
        case _:
            return None


def say(error: Exception, code: int) -> int:
    """Print what went wrong, as one plain message; return the exit code."""
    sys.stderr.write(f"tapeline: {error}\n")
    sys.stderr.flush()
    return code


def _redis(settings: Settings) -> int:
    from actors.runtime import embedded, log  # noqa: PLC0415 - only this line needs them

    log.setup("redis", settings)
    try:
        return embedded.main(settings)
    except embedded.ServerEnded as e:
        return say(e, 1)


def _idle(role: str, settings: Settings, reason: str) -> int:
    import structlog  # noqa: PLC0415 - only this needs it

    from actors.runtime import log  # noqa: PLC0415

    log.setup(role, settings)
    signals = Signals(signal.SIGCHLD, *STOP)
    target = target_of(role, os.environ) if LIFELINE in os.environ else None  # else it is another's
    if target is not None:
        target.unlink(missing_ok=True)  # it serves no metrics
    structlog.get_logger().info(f"{role}_idle", reason=reason)
    signals.wait_for(*STOP)
    return 0
