"""An actor's life: start, signals, stop; the one way in for every role."""

import os
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
import structlog
from redis.exceptions import RedisClusterException, RedisError

from actors.config import ConfigError, Settings
from actors.runtime import log as logs
from actors.runtime.exporter import exporting, watch_loop
from actors.runtime.memory import keep_freed
from actors.runtime.metrics import Metrics
from actors.streams.client import connect
from actors.streams.errors import Corrupt, RedisUnusable
from actors.streams.keys import Keys

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2

log = structlog.get_logger()


class Refused(Exception):
    """The actor cannot go on, and not for a bug; the message says why and what to do. Exit code 1."""


@dataclass(frozen=True, slots=True)
class Actor:
    """What a role is given. ``stopping`` is set by SIGTERM and SIGINT: drain, commit, release, return."""

    settings: Settings
    keys: Keys
    role: str
    instance: str  # <role>.<host>.<pid>.<8 random hex>, new at each start: the owner of leases
    number: int  # 1 for the first of its kind on this host (HONCHO_PROCESS_NAME)
    metrics: Metrics
    metrics_address: str | None  # host:port, None where nothing is served
    stopping: anyio.Event


Run = Callable[[Actor], Awaitable[None]]


def main(role: str, run: Run, settings: Settings, *, on_redis: bool = False) -> int:
    """Run ``role`` until it is told to stop; return its exit code.

    What a user can cause ends with one plain line on standard error, anything else with a traceback.

    Args:
        role: For logs, metrics and messages.
        run: The role.
        settings: Of this process.
        on_redis: Wait until Redis will do before ``run``, so that a signal is obeyed meanwhile.
    """
    logs.setup(role, settings)
    keep_freed()
    metrics = Metrics()
    try:
        with exporting(metrics, role) as address:
            actor = partial(make_actor, role, settings, metrics, address)
            anyio.run(_live, actor, run, on_redis, backend_options={"use_uvloop": True})
    except Exception as e:  # noqa: BLE001 - the last place that can say anything
        return _explain(role, e)
    return OK


def make_actor(role: str, settings: Settings, metrics: Metrics, address: str | None = None) -> Actor:
    """Return the actor of this process. Inside a running event loop only."""
    host = socket.gethostname()
    return Actor(
        settings=settings,
        keys=Keys(settings.redis.prefix, settings.redis.pubsub_prefix),
        role=role,
        instance=f"{role}.{host}.{os.getpid()}.{secrets.token_hex(4)}",
        number=_number(os.environ.get("HONCHO_PROCESS_NAME", "")),
        metrics=metrics,
        metrics_address=address,
        stopping=anyio.Event(),
    )


def _number(process_name: str) -> int:
    """Return the number in honcho's ``normalizer.2``."""
    number = process_name.rpartition(".")[2]
    return int(number) if number.isdecimal() else 1


async def _live(make: Callable[[], Actor], run: Run, on_redis: bool) -> None:
    actor = make()
    async with anyio.create_task_group() as tg:
        await tg.start(_obey, actor.stopping, tg.cancel_scope)
        log.info("actor_started", role=actor.role, instance=actor.instance)
        tg.start_soon(watch_loop, actor.metrics, actor.role)
        if on_redis:
            await _await_redis(actor)
        if not actor.stopping.is_set():
            await run(actor)
        tg.cancel_scope.cancel()
    log.info("actor_stopped", role=actor.role)


async def _await_redis(actor: Actor) -> None:
    """Return once Redis will do, or the actor is told to stop: it has nothing to give back yet.

    Raises:
        RedisUnusable: It will not.
    """

    async def watch() -> None:
        await actor.stopping.wait()
        tg.cancel_scope.cancel()

    async with anyio.create_task_group() as tg:
        tg.start_soon(watch)
        await (await connect(actor.settings, actor.role)).aclose()
        tg.cancel_scope.cancel()


async def _obey(
    stopping: anyio.Event,
    everything: anyio.CancelScope,
    *,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Turn the first signal into ``stopping``, the second into a cancellation."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            if stopping.is_set():
                everything.cancel()
            stopping.set()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            yield from _leaves(inner)  # pyright: ignore[reportUnknownArgumentType]
    else:
        yield error


def _explain(role: str, error: Exception) -> int:
    plain: dict[str, int] = {}
    for leaf in _leaves(error):
        match leaf:
            case ConfigError():
                plain[str(leaf)] = USAGE
            case RedisUnusable() | Refused() | Corrupt():
                plain[str(leaf)] = FAILURE
            case RedisError() | RedisClusterException():
                plain[f"Redis refuses: {str(leaf).partition(chr(10))[0]}"] = FAILURE
            case _:
                log.critical("actor_failed", role=role, exc_info=error)
                return FAILURE
    for line in plain:
        sys.stderr.write(f"tapeline {role}: {line}\n")
    sys.stderr.flush()
    return max(plain.values())
