"""``tapeline deadletter``: what could not be understood, with the reason."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from actors.cli import paper
from actors.cli.run import say
from actors.cli.session import Session, within
from actors.config import ConfigError
from actors.config.words import nearest
from actors.streams.keys import Partition, partitions

_EXCERPT: Final = 60


class Letter(msgspec.Struct, frozen=True):
    """One letter. ``id``: ``<partition>/<entry>/<line>``; ``event``: number or cursor of what it was."""

    id: str
    at: str
    stage: str
    reason: str
    event: int | str
    record: str


class NoSuchLetter(Exception):
    """There is no letter of this name."""


class _Written(msgspec.Struct):
    reason: str
    stage: str
    id: int | str
    record: str


def show_list(
    config: Path | None, env: Mapping[str, str], *, venue: str | None, last: int, as_json: bool
) -> int:
    """Print the newest letters, oldest first.

    Raises:
        ConfigError: The configuration has no such venue.
    """

    async def work(session: Session) -> int:
        letters = [
            each for partition in _places(session, venue) for each in await _newest(session, partition, last)
        ]
        letters = sorted(letters, key=lambda each: each.at)[-last:]
        if as_json:
            paper.json(letters)
        elif letters:
            rows = ((each.id, each.at, each.stage, each.reason, _excerpt(each.record)) for each in letters)
            paper.show(paper.table("Dead letters", ("id", "at", "stage", "reason", "record"), rows))
        else:
            paper.write("none\n")
        return 0

    return within(config, env, "deadletter", work)


def show_one(config: Path | None, env: Mapping[str, str], *, letter: str, as_json: bool) -> int:
    """Print one letter whole; return 1 when there is none of this name.

    Raises:
        ConfigError: It is no name of a letter.
    """
    where, _, rest = letter.partition("/")
    entry, _, number = rest.partition("/")
    if not entry or not number.isdecimal():
        raise ConfigError(f'"{letter}" is no letter: tapeline deadletter list names them')

    async def work(session: Session) -> int:
        place = next((each for each in partitions(session.settings) if str(each) == where), None)
        found = [] if place is None else await _read(session, place, entry, entry, 1)
        one = next((each for each in found if each.id == letter), None)
        if one is None:
            return say(NoSuchLetter(f"there is no letter {letter} (any more): tapeline deadletter list"), 1)
        if as_json:
            paper.json(one)
        else:
            head = {"at": one.at, "stage": one.stage, "event": one.event, "reason": one.reason}
            lines = (f"{name:<8}{value}\n" for name, value in head.items())
            paper.write(f"{one.id}\n{''.join(lines)}\n{one.record}\n")
        return 0

    return within(config, env, "deadletter", work)


def _places(session: Session, venue: str | None) -> list[Partition]:
    places = partitions(session.settings)
    known = [*dict.fromkeys(place.venue for place in places)]
    if venue is not None and venue not in known:
        raise ConfigError(f'no configured venue is "{venue}"{nearest(venue, known)} ({", ".join(known)})')
    return [place for place in places if venue in (None, place.venue)]


async def _newest(session: Session, partition: Partition, last: int) -> list[Letter]:
    return (await _read(session, partition, "+", "-", last))[-last:]


async def _read(session: Session, partition: Partition, end: str, start: str, count: int) -> list[Letter]:
    """Return the letters of the newest ``count`` entries between two ids, oldest first."""
    key = session.keys.stream(partition, "dead")
    found = cast(
        "list[tuple[bytes, dict[bytes, bytes]]]",
        await cast("Any", session.client).xrevrange(key, end, start, count=count),
    )
    return [
        _letter(partition, entry.decode(), number, line)
        for entry, fields in reversed(found)
        for number, line in enumerate(fields[b"d"].split(b"\n"), 1)
    ]


def _letter(partition: Partition, entry: str, number: int, line: bytes) -> Letter:
    written = msgspec.json.decode(line, type=_Written)
    at = datetime.fromtimestamp(int(entry.partition("-")[0]) / 1000, UTC)
    stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    identity = f"{partition}/{entry}/{number}"
    return Letter(identity, stamp, written.stage, written.reason, written.id, written.record)


def _excerpt(record: str) -> str:
    return record if len(record) <= _EXCERPT else f"{record[: _EXCERPT - 3]}..."
