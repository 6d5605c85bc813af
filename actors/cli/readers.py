"""``tapeline readers``: who holds back trimming, and how to forget one that will not come back."""

import sys
from collections.abc import Mapping
from pathlib import Path

from actors.cli.session import Session, within
from actors.config import ConfigError
from actors.config.words import nearest
from actors.streams.client import hot
from actors.streams.keys import Partition, partitions
from actors.streams.partition import closing
from actors.streams.readers import Reader, forget, readers


def show(config: Path | None, env: Mapping[str, str], *, action: str | None, role: str | None) -> int:
    """List the readers of every partition, or forget ``role`` in all of them.

    Raises:
        ConfigError: The words make no sense.
    """
    if action is None:
        return within(config, env, "readers", _list)
    if action != "forget":
        raise ConfigError(f'"{action}" is nothing to do with readers{nearest(action, ("forget",))}')
    if role is None:
        raise ConfigError("forget which reader? tapeline readers lists them")
    gone = role

    async def work(session: Session) -> int:
        return await _forget(session, gone)

    return within(config, env, "readers", work)


async def _all(session: Session) -> list[tuple[Partition, Reader]]:
    found: list[tuple[Partition, Reader]] = []
    for partition in partitions(session.settings):
        async with closing(await hot(session.settings, session.keys.stream(partition, "raw"))) as connection:
            found += [(partition, reader) for reader in await readers(connection, session.keys, partition)]
    return found


async def _list(session: Session) -> int:
    now_ms = await session.now_ms()
    for partition, reader in await _all(session):
        at = " ".join(f"{stream} {cursor}" for stream, cursor in sorted(reader.cursors.items()))
        seen_s = (now_ms - reader.seen_ms) // 1000 if reader.seen_ms else None
        seen = "never seen" if seen_s is None else f"seen {max(0, seen_s)} s ago"
        sys.stdout.write(f"{partition!s:<14} {reader.role:<14} {at or 'no cursor'}, {seen}\n")
    return 0


async def _forget(session: Session, role: str) -> int:
    known = {reader.role for _, reader in await _all(session)}
    if role not in known:
        sys.stderr.write(
            f'tapeline: no reader "{role}"{nearest(role, sorted(known))} ({", ".join(sorted(known))})\n'
        )
        return 1
    for partition in partitions(session.settings):
        async with closing(await hot(session.settings, session.keys.stream(partition, "raw"))) as connection:
            if await forget(connection, session.keys, partition, role):
                sys.stdout.write(f"{partition}: forgot {role}\n")
    return 0
