"""Lines of ``raw`` through the normalizer's and the bookbuilder's folds of any venue, without a network."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from actors.model import codec
from actors.model.events import Channel, Event, Status
from actors.model.instruments import Instrument
from actors.stages import raw
from actors.stages.bookbuild import Bookbuild
from actors.stages.control import ControlRequest
from actors.stages.fold import Output
from actors.stages.normalize import Normalize
from actors.venues.base import Answer, Venue

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND


class Chain:
    """What both folds make of what is heard; tells what was said since one last looked.

    Attributes:
        now: Receive time of the next line, ns.
    """

    def __init__(self, venue: Venue, *instruments: Instrument) -> None:
        self.venue = venue
        self.instruments = instruments
        self.known = {instrument.symbol: instrument for instrument in instruments}
        self.normalize = Normalize(venue, f"{venue.name}.0")
        self.bookbuild = Bookbuild(venue.name, venue.book_rule)
        self.first = Output(("events", "control", "dead"))
        self.second = Output(("books", "control", "dead"))
        self.now = START
        self._lines = self._folded = self._events = 0
        for instrument in instruments:
            self.say("i", instrument, "a.*")

    def say(self, kind: str, payload: Any, conn: str = "a.1") -> None:
        self._lines += 1
        text = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        self.normalize.fold(self._lines, raw.line(self.now, conn, kind, text), self.first)
        for line in self.first.lines["events"][self._folded :]:
            self._folded += 1
            self._events += 1
            self.bookbuild.fold(self._events, line, self.second)

    def open(self, *channels: Channel, conn: str = "a.1") -> None:
        """Open a connection and send what the venue's plan says."""
        self.say("o", b"ws://x", conn)
        [planned] = self.venue.plan(self.venue.endpoints, self.instruments, channels)
        for subscription in planned.subscriptions:
            self.say("s", subscription, conn)

    def hear(self, *frames: Any, conn: str = "a.1") -> None:
        for frame in frames:
            text = frame if isinstance(frame, str) else json.dumps(frame, separators=(",", ":"))
            self.say("f", text.encode(), conn)

    def close(self, conn: str = "a.1") -> None:
        self.say("x", raw.Closed(1006, "gone"), conn)

    def answer(self, request: ControlRequest, body: Any, status: int = 200) -> None:
        make = self.venue.audit if request.op == "audit" else self.venue.snapshot
        assert make is not None
        rest = make(self.known[request.symbol or ""])
        self.say("h", Answer(rest, status, json.dumps(body), request.id, request.conn), request.conn or "a.*")

    def wait(self, seconds: int, *heard: Any) -> None:
        """Let time pass; ``heard`` comes in each second."""
        for _ in range(seconds):
            self.now += SECOND
            self.hear(*heard)
            self.say("k", raw.LegsAlive(["a", "b"]), "-")

    def told(self, *kinds: type[Event]) -> list[Any]:
        lines = self.first.lines["events"] + self.second.lines["books"]
        events = [event for line in lines if isinstance(event := codec.decode(line), kinds)]
        self.first.lines["events"].clear()
        self.second.lines["books"].clear()
        self._folded = 0
        return events

    def states(self) -> dict[str, Any]:
        """Return the last state told of each item."""
        return {f"{s.channel} {s.symbol}": s.state for s in self.told(Status) if s.symbol is not None}

    def asked(self) -> list[ControlRequest]:
        outputs: Iterable[Output] = (self.first, self.second)
        lines = [line for out in outputs for line in out.lines["control"]]
        for out in outputs:
            out.lines["control"].clear()
        return [msgspec.json.decode(line, type=ControlRequest) for line in lines]

    def dead(self) -> list[str]:
        return [json.loads(line)["reason"] for line in self.first.lines["dead"]]
