"""Scenario 2: connectors against the simulator's venues, killed one at a time.

Every trade of each venue's tape must be in ``events`` or inside a ``gap``; with two legs there is no gap at
all. Afterwards each published book is the venue's own: at the same sequence, or at the same time where it
has none; each sum in ``flow`` is that of the trades on the tape; and what the stages wrote is, by number
and text, what an undisturbed fold makes of the very same ``raw``.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import orjson
import structlog

from actors.chaos.report import Report
from actors.chaos.stages import LEASE_TTL_S, READS, Watch, agrees, compare, numbered, views
from actors.formation import Formation, Unfinished, await_true, free_port
from actors.model import codec
from actors.model.events import Cvd, Gap, Level, Trade
from actors.stages.book import View
from actors.stages.normalize.marks import span
from actors.streams.keys import Keys, Partition

log = structlog.get_logger()

SYMBOLS: Final[Mapping[str, tuple[str, ...]]] = {
    "binance": ("BTC-USDT", "ETH-USDT", "SOL-USDT"),
    "kraken": ("BTC-USD", "ETH-USD", "XRP-USD"),
    "okx": ("BTC-USDT", "BTC-USDT-PERP"),
}
_CHANNELS: Final = {"binance": ["trade", "book", "l1"], "kraken": ["trade", "book"], "okx": ["trade", "book"]}
_EVENTS_PER_S: Final = 300  # a venue
_PATIENCE_S: Final = 90.0  # a venue's budget of connections is a minute's, and kills may have spent it
_CALM_S: Final = 0.4  # what a leg is left alone for after it speaks again
_NEWEST: Final = 400  # entries of raw to look for a leg's frames in


@dataclass(frozen=True)
class Plan:
    """How many kills, and with how many legs."""

    kills: int
    legs: int


def config(simulator: int, legs: int) -> str:
    """Return the configuration of this scenario."""
    head = f"""mode = "demo"
[streams]
lease_ttl_s = {LEASE_TTL_S}
retention_s = 86400
retention_bytes = 4294967296
[simulator]
port = {simulator}
events_per_s = {_EVENTS_PER_S}
"""
    return head + "".join(
        f"""[venues.{venue}]
symbols = {list(symbols)!r}
channels = {_CHANNELS[venue]!r}
redundancy = {legs}
ws_url = "ws://127.0.0.1:{simulator}/{venue}"
rest_url = "http://127.0.0.1:{simulator}/{venue}"
"""
        for venue, symbols in SYMBOLS.items()
    )


class Control:
    """The simulator's control port."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/control"

    def get(self, path: str, **query: object) -> Any:
        """Ask."""
        asked = f"{path}?{urlencode({k: v for k, v in query.items() if v is not None})}"
        with urlopen(f"{self._base}/{asked}", timeout=20) as answer:  # noqa: S310 - loopback
            return orjson.loads(answer.read())

    def post(self, path: str, document: object | None = None) -> Any:
        """Tell."""
        request = Request(f"{self._base}/{path}", orjson.dumps(document or {}), method="POST")  # noqa: S310
        with urlopen(request, timeout=20) as answer:  # noqa: S310
            return orjson.loads(answer.read())

    def book(
        self, venue: str, symbol: str, *, seq: int | None = None, ts: int | None = None
    ) -> tuple[list[Level], list[Level]]:
        """Return the true book, (bids, asks): at a sequence, as it was told with a time (ns), or now."""
        truth = self.get("truth", venue=venue, symbol=symbol, seq=seq, ts=ts)
        return [(p, s) for p, s in truth["bids"]], [(p, s) for p, s in truth["asks"]]

    def shows(self, venue: str, symbol: str, view: View | None) -> bool:
        """Whether a published book is live and the venue's own, where its last event says that it stands."""
        if view is None or view.event is None:
            return False
        seq, ts = view.event.seq, view.event.ts_event
        return agrees(view, self.book(venue, symbol, seq=seq, ts=ts if seq is None else None))

    def tape(self, venue: str, symbol: str, first: int) -> dict[int, dict[str, str]]:
        """Return every trade from id ``first`` on, by id."""
        trades = self.get("tape", venue=venue, symbol=symbol, first=first)["trades"]
        return {int(trade["id"]): trade for trade in trades}

    def last_trades(self, venue: str) -> dict[str, int]:
        """Return the id of each symbol's last trade."""
        symbols = self.get("status")["venues"][venue]["symbols"]
        return {symbol: symbols[symbol]["last_trade"] for symbol in symbols}


class Place:
    """What stands in the streams of one venue."""

    def __init__(self, venue: str, made: Formation, keys: Keys) -> None:
        self.venue = venue
        self.symbols = SYMBOLS[venue]
        self.watch = Watch(made, keys, Partition(venue, 0))

    def speaks(self, leg: str, after_k: int) -> bool:
        """Whether a leg has written data after number ``after_k`` of raw."""
        mark = f" {leg}.".encode()
        return any(
            entry.k > after_k and any(mark in line[:24] and _is_data(line) for line in entry.lines)
            for entry in self.watch.newest_entries("raw", _NEWEST)
        )

    def apart(self, legs: list[str]) -> bool:
        """Whether no process holds two legs: else its kill would be that of both."""
        owners = [self.watch.leg_owner(leg) for leg in legs]
        return None not in owners and len(set(owners)) == len(owners)

    def folded(self) -> bool:
        """Whether the stages have come to the end of what they read, but for the last ticks."""
        watch = self.watch
        return all(watch.cursor(role).k >= watch.head(stream).k - 2 for role, stream in READS.items())

    def all_trade(self) -> bool:
        """Whether every symbol has traded."""
        return {trade.symbol for trade in self._found() if isinstance(trade, Trade)} == {*self.symbols}

    def _found(self) -> Iterator[Trade | Gap]:
        for _, line in numbered(self.watch.entries("events")):
            if line.startswith((codec.TRADE, b'{"kind":"gap"')):
                event = codec.decode(line)
                if isinstance(event, Trade | Gap):
                    yield event

    def trades(self) -> tuple[dict[str, Counter[int]], dict[str, list[tuple[int, int]]], int]:
        """Return ids with how often each came, the ranges of gaps still open, and how many there were."""
        seen: dict[str, Counter[int]] = {symbol: Counter() for symbol in self.symbols}
        holes: dict[str, list[tuple[int, int]]] = {symbol: [] for symbol in self.symbols}
        found = 0
        for event in self._found():
            symbol = event.symbol or ""
            if isinstance(event, Trade):
                first, last = span(event)
                seen[symbol].update(range(first, last + 1))
            elif event.channel == "trade" and event.first and event.last:
                hole = (int(event.first), int(event.last))
                holes[symbol].remove(hole) if event.filled else holes[symbol].append(hole)
                found += not event.filled
        return seen, holes, found

    def sums(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Return the last sums of each symbol."""
        events = (codec.decode(line) for _, line in numbered(self.watch.entries("flow")))
        cvds = (event for event in events if isinstance(event, Cvd))
        return {cvd.symbol or "": (Decimal(cvd.delta_base), Decimal(cvd.delta_quote)) for cvd in cvds}


class Scenario:
    """One run of it."""

    def __init__(self, made: Formation, control: Control, report: Report, dice: random.Random) -> None:
        self._made = made
        self._control = control
        self._report = report
        self._dice = dice
        self._places = [Place(venue, made, Keys()) for venue in SYMBOLS]

    def run(self, plan: Plan) -> None:
        """Start, kill, calm the market, compare."""
        self._made.run("simulator")
        for role in ("connector", "connector", *READS):
            self._made.run(role)
        legs = ["a", "b"][: plan.legs]
        await_true("the first trades arrive", self._all(lambda place: place.all_trade()), 40, 0.2)
        for i in range(plan.kills):
            await_true("the legs are on instances of their own", self._all(lambda p: p.apart(legs)), 60, 0.05)
            self._speak(legs, {place: place.watch.head("raw").k for place in self._places})
            self._kill(self._places[i % len(self._places)], legs[i % len(legs)], legs)
        self._calm()
        for place in self._places:
            self._compare(place, plan)
        self._made.close_actors()
        for place in self._places:
            compare(place.watch, self._report, has_l1="l1" in _CHANNELS[place.venue])

    def _all(self, holds: Callable[[Place], bool]) -> Callable[[], bool]:
        return lambda: all(holds(place) for place in self._places)

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

    def _calm(self) -> None:
        """Let everybody recover, stop the market, and wait until its last trade has come through."""
        time.sleep(2.0)
        self._control.post("pause")

        def arrived(place: Place) -> bool:
            seen, holes, _ = place.trades()
            last = self._control.last_trades(place.venue)
            return all(
                last[symbol] in seen[symbol] or any(a <= last[symbol] <= b for a, b in holes[symbol])
                for symbol in place.symbols
            )

        def filled(place: Place) -> bool:
            return not any(place.trades()[1].values())

        await_true("the last trades arrive", self._all(arrived), 60, 0.3)
        for place in self._places:
            try:
                await_true("the gaps are filled", lambda place=place: filled(place), 10, 0.3)
            except Unfinished:
                log.info("chaos_gaps_stay_open", venue=place.venue, gaps=place.trades()[1])
        time.sleep(1.0)
        await_true("all is folded", self._all(lambda place: place.folded()), 30, 0.1)

    def _compare(self, place: Place, plan: Plan) -> None:
        report = self._report
        seen, holes, gaps = place.trades()
        last = self._control.last_trades(place.venue)
        sums = place.sums()
        shown = views(numbered(place.watch.entries("books")))
        for symbol in place.symbols:
            ids = seen[symbol]
            tape = self._control.tape(place.venue, symbol, min(ids))
            report.events += ids.total()
            report.duplicated += ids.total() - len(ids)
            torn = set(range(min(ids), last[symbol] + 1)) - set(tape)  # the tape itself is whole
            report.lost += len(torn)
            if torn:
                log.error(
                    "chaos_differs", what="tape", venue=place.venue, symbol=symbol, ids=sorted(torn)[:3]
                )
            for trade in set(tape) - set(ids):
                report.unexplained += not any(first <= trade <= final for first, final in holes[symbol])
            report.unexplained += len(set(ids) - set(tape))  # a trade that never was
            report.sums_differing += sums.get(symbol) != sums_of(tape[i] for i in ids if i in tape)
            report.books_differing += not self._control.shows(place.venue, symbol, shown.get(symbol))
        report.gaps += gaps
        if plan.legs > 1:
            report.unexplained += gaps  # with two legs there is no reason for one


def sums_of(trades: Iterable[Mapping[str, str]]) -> tuple[Decimal, Decimal]:
    """Return what the cumulative volume delta of these trades of a tape is, in base and in quote."""
    base = quote = Decimal(0)
    for trade in trades:
        size = Decimal(trade["size"]) * (1 if trade["aggressor"] == "buy" else -1)
        base += size
        quote += size * Decimal(trade["price"])
    return base, quote


def _is_data(line: bytes) -> bool:
    return b" f {" in line[:60] and b'"data":' in line and b'"channel":"status"' not in line


def run(folder: Path, report: Report, plan: Plan, server: str | None = None) -> None:
    """Run the scenario in ``folder`` and add to ``report``."""
    port = free_port()
    made = Formation(folder, config(port, plan.legs), server)
    try:
        made.start_redis()
        Scenario(made, Control(port), report, random.Random(report.seed)).run(plan)
    finally:
        made.close()
