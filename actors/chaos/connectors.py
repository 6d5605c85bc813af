"""Scenario 2: connectors against the simulator's venues, killed one at a time.

Every trade of each venue's tape must be in ``events`` or inside a ``gap``; with two legs there is no gap at
all. Afterwards each published book is the venue's own: at the same sequence, or at the same time where it
has none; each sum in ``flow`` is that of the trades on the tape; and what the stages wrote is, by number
and text, what an undisturbed fold makes of the very same ``raw``.
"""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.chaos.places import Control, Place, all_of, calm, config
from actors.chaos.report import Report
from actors.chaos.stages import READS, compare
from actors.formation import Formation, await_true, free_port

SYMBOLS: Final[Mapping[str, tuple[str, ...]]] = {
    "binance": ("BTC-USDT", "ETH-USDT", "SOL-USDT"),
    "kraken": ("BTC-USD", "ETH-USD", "XRP-USD"),
    "okx": ("BTC-USDT", "BTC-USDT-PERP"),
}
_CHANNELS: Final = {"binance": ["trade", "book", "l1"], "kraken": ["trade", "book"], "okx": ["trade", "book"]}
_EVENTS_PER_S: Final = 300  # a venue
_PATIENCE_S: Final = 90.0  # a venue's budget of connections is a minute's, and kills may have spent it
_CALM_S: Final = 0.4  # what a leg is left alone for after it speaks again


@dataclass(frozen=True)
class Plan:
    """How many kills, and with how many legs."""

    kills: int
    legs: int


class Scenario:
    """One run of it."""

    def __init__(self, made: Formation, control: Control, report: Report, dice: random.Random) -> None:
        self._made = made
        self._control = control
        self._report = report
        self._dice = dice
        self._places = [Place(venue, symbols, made, control) for venue, symbols in SYMBOLS.items()]

    def run(self, plan: Plan) -> None:
        """Start, kill, calm the market, compare."""
        self._made.run("simulator")
        for role in ("connector", "connector", *READS):
            self._made.run(role)
        legs = ["a", "b"][: plan.legs]
        await_true("the first trades arrive", all_of(self._places, Place.all_trade), 40, 0.2)
        for i in range(plan.kills):
            apart = all_of(self._places, lambda place: place.apart(legs))
            await_true("the legs are on instances of their own", apart, 60, 0.05)
            self._speak(legs, {place: place.watch.head("raw").k for place in self._places})
            self._kill(self._places[i % len(self._places)], legs[i % len(legs)], legs)
        time.sleep(2.0)  # let everybody recover
        calm(self._places, self._control)
        for place in self._places:
            self._compare(place, plan)
        self._made.close_actors()
        for place in self._places:
            compare(place.watch, self._report, has_l1="l1" in _CHANNELS[place.venue])

    def _speak(self, legs: list[str], since: Mapping[Place, int]) -> None:
        for place, k in since.items():
            for leg in legs:
                what = f"leg {leg} of {place.venue} speaks"
                await_true(what, lambda p=place, leg=leg, k=k: p.speaks(leg, k), _PATIENCE_S, 0.03)

    def _kill(self, place: Place, leg: str, legs: list[str]) -> None:
        """Kill the owner of a leg, and with it whatever else it holds; wait until all of it goes on."""
        owner = await_true(f"leg {leg} has an owner", lambda: place.watch.leg_owner(leg), 30)
        victim = self._made.child_of(owner)
        lost = [(p, each) for p in self._places for each in legs if p.watch.leg_owner(each) == owner]
        before = {p: p.watch.head("raw").k for p in self._places}
        victim.kill()
        at = time.monotonic()
        self._report.kills += 1
        self._made.run("connector")
        for p, each in lost:

            def goes_on(p: Place = p, each: str = each) -> bool:
                return p.watch.leg_owner(each) not in (None, owner) and p.speaks(each, before[p])

            await_true(f"leg {each} of {p.venue} goes on", goes_on, _PATIENCE_S, 0.01)
        self._report.recoveries_s.append(time.monotonic() - at)
        time.sleep(self._dice.uniform(0.0, _CALM_S))

    def _compare(self, place: Place, plan: Plan) -> None:
        report, before = self._report, self._report.gaps
        place.compare(report)
        shown = place.books()
        report.books_differing += sum(
            not self._control.shows(place.venue, symbol, shown.get(symbol)) for symbol in place.symbols
        )
        if plan.legs > 1:
            report.unexplained += report.gaps - before  # with two legs there is no reason for one


def run(folder: Path, report: Report, plan: Plan, server: str | None = None) -> None:
    """Run the scenario in ``folder`` and add to ``report``."""
    port = free_port()
    also = {
        venue: f"channels = {channels!r}\nredundancy = {plan.legs}" for venue, channels in _CHANNELS.items()
    }
    pace = f"events_per_s = {_EVENTS_PER_S}"
    made = Formation(folder, config(port, SYMBOLS, also, pace), server)
    try:
        made.start_redis()
        Scenario(made, Control(port), report, random.Random(report.seed)).run(plan)
    finally:
        made.close()
