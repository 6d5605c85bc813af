"""``tapeline master tail`` and ``count``: what a master has in its files."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from actors.cli.session import running
from actors.config import ConfigError, load
from actors.dialects import ftsobest
from actors.master import folder_of
from actors.master.reading import Follower, Summary, streams, summary

_POLL_S: Final = 0.2
_LOOK_S: Final = 1.0  # how soon a new stream is seen

Keep = Callable[[bytes], bool]


def _folder(folder: Path | None, config: Path | None, env: Mapping[str, str]) -> Path:
    found = folder_of(load(*running(config, env))) if folder is None else folder
    if not found.is_dir():
        raise ConfigError(f"no master has written to {found}: name its folder with --folder, or the --config")
    return found


def count(folder: Path | None, config: Path | None, env: Mapping[str, str], *, as_json: bool) -> int:
    """Print what every stream holds.

    Raises:
        ConfigError: There is no such folder.
    """
    found = _folder(folder, config, env)
    rows = [summary(found, place) for place in streams(found)]
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(msgspec.to_builtins(rows)) + b"\n")
    else:
        sys.stdout.write("".join(f"{_row(row)}\n" for row in rows))
        total = sum(sum(row.messages.values()) for row in rows)
        sys.stdout.write(f"{total} messages in {found}\n")
    return 0


def _row(row: Summary) -> str:
    held = ", ".join(f"{n} {type_}" for type_, n in row.messages.items()) or "no message"
    span = "" if row.first is None else f"  {row.first} to {row.last}"
    return f"{row.stream:<40} {held}  ({row.bytes:,} bytes, {row.files} files){span}"


def tail(
    folder: Path | None,
    config: Path | None,
    env: Mapping[str, str],
    *,
    kind: str,
    exchange: str,
    symbol: str,
    lines: int,
    follow: bool,
) -> int:
    """Print the newest messages, then what comes, until interrupted.

    Raises:
        ConfigError: There is no such folder, or no such kind of message.
    """
    found = _folder(folder, config, env)
    if kind not in ftsobest.TYPES and not {*kind} & {*"*?["}:
        raise ConfigError(f'there is no kind "{kind}" ({", ".join(ftsobest.TYPES)})')
    keep = _keep(kind, exchange, symbol)
    try:
        _print(found, keep, lines, follow=follow)
    except BrokenPipeError:  # `tapeline master tail | head` has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _keep(kind: str, exchange: str, symbol: str) -> Keep:
    wanted = ftsobest.ours(symbol)

    def keep(line: bytes) -> bool:
        message: dict[str, Any] = orjson.loads(line)
        return (
            fnmatchcase(str(message.get("type")), kind)
            and fnmatchcase(str(message.get("exchange")), exchange)
            and (wanted == "*" or fnmatchcase(ftsobest.ours(str(message.get("symbol"))), wanted))
        )

    return keep


def _print(folder: Path, keep: Keep, lines: int, *, follow: bool) -> None:
    followers = {place: Follower(place) for place in streams(folder)}
    newest = [line for follower in followers.values() for line in follower.last(lines) if keep(line)]
    newest.sort(key=lambda line: orjson.loads(line).get("timestamp") or 0)
    _write(newest[-lines:] if lines else [])
    looked = time.monotonic()
    while follow:
        time.sleep(_POLL_S)
        if time.monotonic() - looked > _LOOK_S:
            followers |= {place: Follower(place) for place in streams(folder) if place not in followers}
            looked = time.monotonic()
        for follower in followers.values():
            _write([line for line in follower.more() if keep(line)])


def _write(lines: list[bytes]) -> None:
    if lines:
        sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
        sys.stdout.buffer.flush()
