"""Each venue's frames, one case a line of ``cases/<venue>.jsonl``: what a frame says, or why it says nothing.

First line: ``instruments`` that the connection knows, ``before``: frames that it has heard. Every other:
``why``, ``source`` (where the shape stands), ``frame`` and what comes of it: ``events``, or with ``rows`` the
instruments a list gives. A frame is text, or binary as ``wire_form`` says. With ``request`` it is the body of
its answer. A case, too, may say what was heard ``before`` it. An outcome that is no event is named by its
key: ``acked``, ``ended``, ``refused``, ``closing``, ``latest``, ``missed``, ``ignored``, ``unparseable`` (a
part of the reason).
A new venue adds its table; nothing here.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from case_table import CASES, TableError, table
from wire_form import frame_of

from actors.model import codec
from actors.model.errors import Unparseable
from actors.model.events import Event
from actors.venues import VENUES
from actors.venues.base import (
    Acked,
    Answer,
    Closing,
    Decoded,
    Ignored,
    Latest,
    Missed,
    Refused,
    Request,
    Scratch,
    listed,
)

RECV = 1_800_000_000_000_000_000
CONN = "a.1"


TABLES = {venue: table(venue) for venue in VENUES}


def cases() -> list[Any]:
    return [
        pytest.param(venue, case, id=f"{venue}: {case['why']}")
        for venue in VENUES
        for case in TABLES[venue].cases
    ]


def shown(said: Decoded) -> dict[str, Any]:
    if isinstance(said, Event):
        event = json.loads(codec.encode(said))
        assert event.pop("venue") in VENUES
        assert event.pop("ts_recv") == RECV
        return event
    match said:
        case Acked(id, items, op):
            named = {} if items is None else {"items": [list(item) for item in items]}
            return {"acked" if op == "subscribe" else "ended": id} | named
        case Refused(reason, id, items, whole):
            named = {} if items is None else {"items": [list(item) for item in items]}
            return {"refused": reason, "id": id} | named | ({"whole": True} if whole else {})
        case Latest(symbol, id):
            return {"latest": id, "symbol": symbol}
        case Closing(reason) | Ignored(reason):
            return {"closing" if isinstance(said, Closing) else "ignored": reason}
        case Missed():
            return {"missed": True}


def outcome(venue: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    instruments, _, before = TABLES[venue]
    scratch = Scratch(CONN, instruments, venue=venue)
    scratch.recv = RECV
    frame = frame_of(case["frame"])
    if "rows" in case:
        return [msgspec.to_builtins(row) for row in listed(VENUES[venue], frame)]
    if "request" in case:
        request = msgspec.convert(case["request"], Request)
        answer = Answer(request, 200, case["frame"], conn=CONN)
        return [shown(event) for event in VENUES[venue].decode_rest(answer, scratch)]
    for earlier in (*before, *case.get("before", ())):
        with suppress(Unparseable):
            VENUES[venue].decode(frame_of(earlier), scratch)
    return [shown(said) for said in VENUES[venue].decode(frame, scratch)]


def differs(venue: str, case: dict[str, Any]) -> str | None:
    """Return how a case and its venue differ, each as a table writes it; None where they do not."""
    expected = case.get("rows", case.get("events"))
    alone = expected[0] if isinstance(expected, list) and len(expected) == 1 else expected
    reason = alone.get("unparseable") if isinstance(alone, dict) else None
    try:
        said = outcome(venue, case)
    except Unparseable as e:
        if reason is not None and reason in str(e):
            return None
        said = [{"unparseable": str(e)}]
    if said == expected:
        return None
    at = f"tests/cases/{venue}.jsonl:{case['line']}: {case['why']}"
    told, ours = (json.dumps(each, ensure_ascii=False) for each in (expected, said))
    return f"{at}\nthe table says: {told}\nthe venue says: {ours}"


@pytest.mark.parametrize(("venue", "case"), cases())
def test_a_frame_says_what_its_table_says(venue: str, case: dict[str, Any]) -> None:
    if difference := differs(venue, case):
        pytest.fail(difference, pytrace=False)


def test_every_table_is_a_venue_s() -> None:
    assert {path.stem for path in CASES.glob("*.jsonl")} == set(VENUES)


def test_what_differs_is_told_as_a_table_writes_it() -> None:
    case = {"line": 7, "why": "a ping", "frame": "{}", "events": []}
    told = differs("binance", case)
    assert told is not None
    at, table_says, venue_says = told.splitlines()
    assert at == "tests/cases/binance.jsonl:7: a ping"
    assert table_says == "the table says: []"
    assert venue_says.startswith('the venue says: [{"unparseable": "no frame of this venue')


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "x.jsonl:2: not JSON"),
        ("[]", "x.jsonl:2: not an object"),
        ('{"why": "", "source": "s"}', "x.jsonl:2: there is no why and no frame"),
        ('{"why": "w", "source": "s", "frame": ""}', "x.jsonl:2: what comes of a frame is either"),
        ('{"why": "w", "source": "s", "frame": "", "event": []}', "x.jsonl:2: a case has no event; it may"),
    ],
)
def test_a_line_that_is_no_case_is_named(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "x.jsonl").write_text('{"instruments": []}\n' + line)
    with pytest.raises(TableError, match=reason):
        table("x", tmp_path)


def test_a_table_that_is_not_there_or_lists_no_instruments_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"tests/cases/x\.jsonl is missing"):
        table("x", tmp_path)
    (tmp_path / "x.jsonl").write_text("{}")
    with pytest.raises(TableError, match=r"x\.jsonl:1: instruments"):
        table("x", tmp_path)
