"""What the commands that look into Redis share: settings, a client, one plain message for what goes wrong."""

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import cast

import anyio
import msgspec
from redis.asyncio import Redis

from actors.cli.run import say
from actors.config import Settings, load
from actors.config.reader import OFFSET, ONLY
from actors.demo import RUNNING, Running
from actors.streams.client import connect, server_ms
from actors.streams.errors import FAULTS, RedisUnusable
from actors.streams.keys import Keys

Work = Callable[["Session"], Awaitable[int]]


class Session(msgspec.Struct, frozen=True):
    """A command's view of one Tapeline."""

    settings: Settings
    keys: Keys
    client: Redis

    async def now_ms(self) -> int:
        """Return the server's time."""
        return await server_ms(self.client)


def within(config: Path | None, env: Mapping[str, str], command: str, work: Work) -> int:
    """Run ``work`` with a session; return its exit code, or 1 with a message where Redis will not do.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    settings = load(*running(config, env))

    async def session() -> int:
        client = await connect(settings, command, wait_s=0, claim=False)
        try:
            keys = Keys(settings.redis.prefix, settings.redis.pubsub_prefix)
            return await work(Session(settings, keys, client))
        finally:
            with anyio.CancelScope(shield=True):
                await client.aclose()

    try:
        return anyio.run(session, backend_options={"use_uvloop": True})
    except BrokenPipeError:  # `tapeline tail | head` has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RedisUnusable, *FAULTS) as e:
        return say(e, 1)


def running(config: Path | None, env: Mapping[str, str]) -> tuple[Path | None, Mapping[str, str]]:
    """Return what to look at: what is named, else what ``tapeline demo`` or ``up`` runs from this folder."""
    if config is not None or "TAPELINE_CONFIG" in env:
        return config, env
    try:
        found = msgspec.json.decode(RUNNING.read_bytes(), type=Running)
        os.kill(found.pid, 0)
    except (OSError, OverflowError, msgspec.MsgspecError):
        return None, env  # nothing runs here, or not as us
    named = {} if found.venues is None else {ONLY: found.venues}
    return Path(found.config), {OFFSET: found.port_offset, **named, **env}


def peeled(error: BaseException) -> BaseException:
    """Return the first error that task groups wrapped."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return peeled(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
