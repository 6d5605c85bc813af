"""The venues' case tables, ``cases/<venue>.jsonl``; ``test_venue_cases`` says what stands in one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from actors.model.instruments import Instrument

CASES = Path(__file__).parent / "cases"
_MUST: Final = ("why", "source", "frame")
_KEYS: Final = (*_MUST, "before", "request", "events", "rows")


class TableError(Exception):
    """A table cannot be used; says which line of it and why."""


class Table(NamedTuple):
    """What a connection knows, by native symbol; the cases, each with its ``line``; what it has heard."""

    instruments: dict[str, Instrument]
    cases: list[dict[str, Any]]
    before: list[Any]


def table(venue: str, folder: Path = CASES) -> Table:
    """Return a venue's table.

    Raises:
        TableError: There is none, or a line that is no case.
    """
    path = folder / f"{venue}.jsonl"
    if not path.exists():
        raise TableError(f"tests/cases/{path.name} is missing: a venue has a case table (CONTRIBUTING.md)")
    lines = enumerate(path.read_text("utf-8").splitlines(), 1)
    head, *cases = [_line(f"tests/cases/{path.name}:{n}", n, text) for n, text in lines] or [{}]
    try:
        instruments = msgspec.convert(head.get("instruments"), list[Instrument])
    except msgspec.ValidationError as e:
        raise TableError(f"tests/cases/{path.name}:1: instruments that the connection knows: {e}") from e
    return Table({row.native: row for row in instruments}, cases, head.get("before", []))


def _line(at: str, n: int, text: str) -> dict[str, Any]:
    try:
        case: Any = json.loads(text)
    except ValueError as e:
        raise TableError(f"{at}: not JSON: {e}") from e
    if not isinstance(case, dict):
        raise TableError(f"{at}: not an object")
    if n > 1:
        _check(at, case)
        case["line"] = n
    return case


def _check(at: str, case: Mapping[str, Any]) -> None:
    if missing := [key for key in _MUST if key not in case or (key != "frame" and not case[key])]:
        raise TableError(f"{at}: there is no {' and no '.join(missing)}")
    if unknown := [key for key in case if key not in _KEYS]:
        raise TableError(f"{at}: a case has no {', '.join(unknown)}; it may have {', '.join(_KEYS)}")
    if ("events" in case) == ("rows" in case):
        raise TableError(f"{at}: what comes of a frame is either events or rows")
