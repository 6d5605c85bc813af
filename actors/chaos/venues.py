"""Scenario 3: all venues of the demo at once, with faults, and any actor killed meanwhile.

Faults come at random: frames dropped, doubled, swapped, damaged, with crossed books or wrong checksums,
connections closed, reset, silent or refused, snapshots that are old, subscriptions that are refused, not
answered, or granted and never served, symbols that are not listed, a wrong clock. When they have ended each
book must be live, proved, and the venue's own; no trade came twice, and none that never was; where ids are
contiguous each trade of the tape is in ``events`` or inside a ``gap``. And as ever all that the stages wrote
is what an undisturbed fold makes of ``raw``.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError

import structlog

from actors.chaos.places import Control, Place, all_of, calm, config
from actors.chaos.report import Report
from actors.chaos.stages import READS, compare
from actors.config import load
from actors.demo import DEMO
from actors.formation import Formation, await_true, free_port
from actors.model.events import Level, Verified
from actors.stages.book import View
from actors.stages.bookbuild.audit import AGAIN_S, LEAD_S
from actors.venues import VENUES

log: Any = structlog.get_logger()

FAULTS: Final[Sequence[Mapping[str, object]]] = (
    {"kind": "gap"}, {"kind": "gap", "count": 3}, {"kind": "duplicate", "count": 3}, {"kind": "reorder"},
    {"kind": "corrupt"}, {"kind": "corrupt", "how": "binary"}, {"kind": "corrupt", "how": "negative"},
    {"kind": "null_price"}, {"kind": "crossed"}, {"kind": "checksum"}, {"kind": "renumber"},
    {"kind": "drop"}, {"kind": "reset"}, {"kind": "shutdown", "for_s": 2}, {"kind": "silence", "for_s": 3},
    {"kind": "half_open", "for_s": 5}, {"kind": "slow", "for_s": 2}, {"kind": "stale_snapshot", "for_s": 2},
    {"kind": "refuse", "for_s": 2}, {"kind": "rest", "for_s": 2, "status": 503},
    {"kind": "oversize"}, {"kind": "unlist", "for_s": 2}, {"kind": "no_ack", "for_s": 2},
    {"kind": "maintenance", "for_s": 2}, {"kind": "connect", "for_s": 2, "status": 503},
    {"kind": "clock", "for_s": 3, "offset_s": -2},
)  # fmt: skip
SILENT: Final[Mapping[str, object]] = {"kind": "silent_ack", "for_s": 2}  # found after a minute, or two
_PAUSE_S: Final = 0.4  # between two faults, at most
_AUDIT_S: Final = 10  # of books that only audits prove: what they missed must be found soon
_FOUND_S: Final = _AUDIT_S + LEAD_S + 3 * AGAIN_S  # by then audits have found whatever a book has missed
_OVER_S: Final = 8.0  # by then connections have closed that were told so, or have been half open for 5 s
_HEARD_S: Final = 75.0  # by then trades that are granted and never come have been missed
_LIVE_S: Final = 240.0  # what was refused or is silent is tried again within two minutes, and audited then


@dataclass(frozen=True)
class Plan:
    """How many faults and kills, and at which venues; None: all of the demo.

    ``silent``: with ``SILENT``.
    """

    faults: int
    kills: int
    venues: Sequence[str] | None = None
    silent: bool = False


def symbols_of(wanted: Sequence[str] | None) -> dict[str, list[str]]:
    """Return the symbols of some of the demo's venues."""
    venues = load(DEMO, {}).venues
    return {name: venue.symbols for name, venue in venues.items() if wanted is None or name in wanted}


class Scenario:
    """One run of it."""

    def __init__(self, made: Formation, places: Sequence[Place], control: Control, report: Report) -> None:
        self._made = made
        self._places = places
        self._control = control
        self._report = report
        self._dice = random.Random(report.seed)

    def run(self, plan: Plan) -> None:
        """Start, make trouble, end it, compare."""
        self._made.run("simulator")
        for role in ("connector", *READS) * 2:
            self._made.run(role)
        await_true("the first trades arrive", all_of(self._places, Place.all_trade), 60, 0.5)
        due = sorted(self._dice.sample(range(plan.faults), plan.kills))
        for i in range(plan.faults):
            self._hurt(self._dice.choice(self._places), (*FAULTS, SILENT) if plan.silent else FAULTS)
            if i in due:
                self._kill()
            time.sleep(self._dice.uniform(0.0, _PAUSE_S))
        self._control.delete("faults")
        audited = any(VENUES[place.venue].audit for place in self._places)
        time.sleep(_HEARD_S if plan.silent else _FOUND_S if audited else _OVER_S)
        await_true("all books are live", all_of(self._places, self._is_live), _LIVE_S, 1.0)
        time.sleep(2.0)
        calm(self._places, self._control)
        for place in self._places:
            place.compare(self._report)
            self._compare_books(place)
        self._made.close_actors()
        for place in self._places:
            has_l1 = "l1" in VENUES[place.venue].channels
            compare(place.watch, self._report, has_l1=has_l1, audit_s=_AUDIT_S)

    def _hurt(self, place: Place, faults: Sequence[Mapping[str, object]]) -> None:
        """Do something to a venue; not every one can have every fault."""
        while True:
            try:
                self._control.post("fault", {"venue": place.venue, **self._dice.choice(faults)})
            except HTTPError as e:
                if e.code != 400:
                    raise
            else:
                self._report.faults += 1
                return

    def _kill(self) -> None:
        victim = self._dice.choice([c for c in self._made.children if c.running and c.role != "simulator"])
        victim.kill()
        self._report.kills += 1
        self._made.run(victim.role)

    @staticmethod
    def _is_live(place: Place) -> bool:
        shown = place.books()
        proof = VENUES[place.venue].book_rule.verified
        return all(symbol in shown and _can_be_trusted(shown[symbol], proof) for symbol in place.symbols)

    def _compare_books(self, place: Place) -> None:
        shown = place.books()
        for symbol in place.symbols:
            if not equal(shown.get(symbol), self._control.book(place.venue, symbol)):
                self._report.books_differing += 1
                log.error("chaos_differs", what="book", venue=place.venue, symbol=symbol)


def _can_be_trusted(view: View, proof: Verified) -> bool:
    return view.state == "live" and view.verified == proof


def equal(view: View | None, truth: Sequence[Sequence[Level]]) -> bool:
    """Whether a published book is live and its best 20 levels are the venue's now, as numbers."""
    if view is None or view.state != "live":
        return False
    return all(
        _numbers(mine[:20]) == _numbers(theirs[:20]) for mine, theirs in zip(view.levels, truth, strict=True)
    )


def _numbers(levels: Sequence[Level]) -> list[tuple[Decimal, Decimal]]:
    return [(Decimal(price), Decimal(size)) for price, size in levels]


def run(folder: Path, report: Report, plan: Plan, server: str | None = None) -> None:
    """Run the scenario in ``folder`` and add to ``report``."""
    port, symbols = free_port(), symbols_of(plan.venues)
    audits = {venue: f"audit_s = {_AUDIT_S}" for venue in symbols if VENUES[venue].audit}
    made = Formation(folder, config(port, symbols, audits), server)
    control = Control(port)
    try:
        made.start_redis()
        places = [Place(venue, of_one, made, control) for venue, of_one in symbols.items()]
        Scenario(made, places, control, report).run(plan)
    finally:
        made.close()
