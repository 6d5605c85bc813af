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
from wire_form import frame_of

from actors.model import codec
from actors.model.errors import Unparseable
from actors.model.events import Event
from actors.model.instruments import Instrument
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

CASES = Path(__file__).parent / "cases"
RECV = 1_800_000_000_000_000_000
CONN = "a.1"


def load(venue: str) -> tuple[dict[str, Instrument], list[dict[str, Any]]]:
    head, *cases = [json.loads(line) for line in (CASES / f"{venue}.jsonl").read_text("utf-8").splitlines()]
    instruments = [msgspec.convert(row, Instrument) for row in head["instruments"]]
    for case in cases:
        case["before"] = [*head.get("before", ()), *case.get("before", ())]
    return {instrument.native: instrument for instrument in instruments}, cases


def cases() -> list[Any]:
    return [
        pytest.param(venue, case, id=f"{venue}: {case['why']}") for venue in VENUES for case in load(venue)[1]
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


def outcome(venue: str, case: dict[str, Any], instruments: dict[str, Instrument]) -> list[dict[str, Any]]:
    scratch = Scratch(CONN, instruments, venue=venue)
    scratch.recv = RECV
    frame = frame_of(case["frame"])
    if "rows" in case:
        return [msgspec.to_builtins(row) for row in listed(VENUES[venue], frame)]
    if "request" in case:
        request = msgspec.convert(case["request"], Request)
        answer = Answer(request, 200, case["frame"], conn=CONN)
        return [shown(event) for event in VENUES[venue].decode_rest(answer, scratch)]
    for earlier in case["before"]:
        with suppress(Unparseable):
            VENUES[venue].decode(frame_of(earlier), scratch)
    return [shown(said) for said in VENUES[venue].decode(frame, scratch)]


@pytest.mark.parametrize(("venue", "case"), cases())
def test_a_frame_says_what_its_table_says(venue: str, case: dict[str, Any]) -> None:
    instruments, _ = load(venue)
    expected = case.get("rows", case.get("events"))
    reason = expected if isinstance(expected, dict) else expected[0] if len(expected) == 1 else {}
    if "unparseable" in reason:
        with pytest.raises(Unparseable) as caught:
            outcome(venue, case, instruments)
        assert reason["unparseable"] in str(caught.value)
    else:
        assert outcome(venue, case, instruments) == expected


def test_every_venue_has_a_table_and_every_case_its_reason() -> None:
    assert {path.stem for path in CASES.glob("*.jsonl")} == set(VENUES)
    for venue in VENUES:
        table = load(venue)[1]
        assert all(case["why"] and case["source"] for case in table)
