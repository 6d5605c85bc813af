"""Scenario 2: connectors against the simulator, killed one at a time.

Every trade of the simulator's tape must be in ``events`` or inside a ``gap``; with two legs there is no
gap at all. Afterwards each published book equals the simulator's at the same sequence.
"""

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import orjson
import structlog

from actors.chaos.report import Report
from actors.chaos.stages import LEASE_TTL_S, Watch, agrees, numbered, views
from actors.formation import Formation, Unfinished, await_true, free_port
from actors.model import codec
from actors.model.events import Gap, Trade
from actors.stages.book import View
from actors.streams.keys import Keys

log = structlog.get_logger()

SYMBOLS: Final = ("BTC-USDT", "ETH-USDT", "SOL-USDT")
_EVENTS_PER_S: Final = 500
_CALM_S: Final = 0.4  # what a leg is left alone for after it speaks again


@dataclass(frozen=True)
class Plan:
    """How many kills, and with how many legs."""

    kills: int
    legs: int


def config(simulator: int, legs: int) -> str:
    """Return the configuration of this scenario."""
    return f"""mode = "demo"
[streams]
lease_ttl_s = {LEASE_TTL_S}
retention_s = 86400
retention_bytes = 4294967296
[simulator]
port = {simulator}
events_per_s = {_EVENTS_PER_S}
[venues.binance]
symbols = {list(SYMBOLS)!r}
channels = ["trade", "book", "l1"]
redundancy = {legs}
ws_url = "ws://127.0.0.1:{simulator}/binance"
rest_url = "http://127.0.0.1:{simulator}/binance"
"""


class Control:
    """The simulator's control port."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/control"

    def get(self, path: str) -> Any:
        """Ask."""
        with urlopen(f"{self._base}/{path}", timeout=20) as answer:  # noqa: S310 - loopback
            return orjson.loads(answer.read())

    def post(self, path: str, document: object | None = None) -> Any:
        """Tell."""
        request = Request(f"{self._base}/{path}", orjson.dumps(document or {}), method="POST")  # noqa: S310
        with urlopen(request, timeout=20) as answer:  # noqa: S310
            return orjson.loads(answer.read())

    def book(self, symbol: str, sequence: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the true book at ``sequence``: (bids, asks)."""
        truth = self.get(f"truth?symbol={symbol}&seq={sequence}")
        return [(p, s) for p, s in truth["bids"]], [(p, s) for p, s in truth["asks"]]

    def last_trades(self) -> dict[str, int]:
        """Return the id of each symbol's last trade."""
        symbols = self.get("status")["venues"]["binance"]["symbols"]
        return {symbol: symbols[symbol]["last_trade"] for symbol in SYMBOLS}


class Scenario:
    """One run of it."""

    def __init__(self, made: Formation, control: Control, report: Report, dice: random.Random) -> None:
        self._made = made
        self._control = control
        self._report = report
        self._dice = dice
        self._keys = Keys()
        self._watch = Watch(made, self._keys)

    def run(self, plan: Plan) -> None:
        """Start, kill, calm the market, compare."""
        self._made.run("simulator")
        for role in ("connector", "connector", "normalizer", "bookbuilder"):
            self._made.run(role)
        legs = ["a", "b"][: plan.legs]
        await_true("the first trades arrive", self._trades_flow, 30)
        for leg in legs:
            await_true(f"leg {leg} speaks", lambda leg=leg: self._frames_of(leg, 0), 30)
        for i in range(plan.kills):
            await_true("the legs are on instances of their own", lambda: self._apart(legs), 60, 0.05)
            for leg in legs:
                head = self._watch.head("raw").k
                await_true(f"leg {leg} speaks", lambda leg=leg, k=head: self._frames_of(leg, k), 30)
            self._kill(legs[i % len(legs)])
        self._calm()
        self._compare(plan)

    def _trades_flow(self) -> bool:
        return len(self._symbols_seen()) == len(SYMBOLS)

    def _symbols_seen(self) -> set[str]:
        events = (
            codec.decode(line) for _, line in numbered(self._watch.entries("events")) if _is_trade(line)
        )
        return {event.symbol for event in events if event.symbol}

    def _frames_of(self, leg: str, after_k: int) -> bool:
        """Whether leg has written a frame after number ``after_k`` of raw."""
        mark = f" {leg}.".encode()
        return any(
            entry.k > after_k
            and any(mark in line[:24] and b' f {"stream' in line[:60] for line in entry.lines)
            for entry in self._watch.newest_entries("raw", 400)
        )

    def _apart(self, legs: list[str]) -> bool:
        """Whether no process holds two legs: else its kill would be that of both."""
        owners = [self._watch.leg_owner(leg) for leg in legs]
        return None not in owners and len(set(owners)) == len(owners)

    def _kill(self, leg: str) -> None:
        owner = await_true(f"leg {leg} has an owner", lambda: self._watch.leg_owner(leg), 30)
        victim = self._made.child_of(owner)
        before = self._watch.head("raw").k
        victim.kill()
        at = time.monotonic()
        self._report.kills += 1
        self._made.run("connector")
        await_true(f"leg {leg} goes on", lambda: self._frames_of_new(leg, before, owner), 60)
        self._report.recoveries_s.append(time.monotonic() - at)
        time.sleep(self._dice.uniform(0.0, _CALM_S))

    def _frames_of_new(self, leg: str, after_k: int, former: str) -> bool:
        return self._watch.leg_owner(leg) not in (None, former) and self._frames_of(leg, after_k)

    def _calm(self) -> None:
        """Let everybody recover, stop the market, and wait until its last trade has come through."""
        time.sleep(2.0)
        self._control.post("pause")
        last = self._control.last_trades()

        def arrived() -> bool:
            seen, holes = self._trades()
            return all(
                any(first <= wanted <= final for first, final in holes.get(symbol, ()))
                or wanted in seen[symbol]
                for symbol, wanted in last.items()
            )

        await_true("the last trades arrive", arrived, 60, 0.3)

        def quiet() -> bool:
            head = self._watch.head("events").k
            return self._watch.cursor("bookbuilder").k >= head - 2  # ticks go on

        await_true("the books are built", quiet, 30)
        try:
            await_true("the gaps are filled", lambda: not any(self._trades()[1].values()), 20, 0.3)
        except Unfinished:
            log.info("chaos_gaps_stay_open", gaps=self._trades()[1])
        time.sleep(1.0)

    def _trades(self) -> tuple[dict[str, Counter[int]], dict[str, list[tuple[int, int]]]]:
        """Return trade ids with how often each came, and the ranges of gaps that are still open."""
        seen: dict[str, Counter[int]] = {symbol: Counter() for symbol in SYMBOLS}
        holes: dict[str, list[tuple[int, int]]] = {}
        found = 0
        for _, line in numbered(self._watch.entries("events")):
            if _is_trade(line):
                trade = codec.decode(line)
                if isinstance(trade, Trade) and trade.symbol:
                    seen[trade.symbol][int(trade.id)] += 1
            elif line.startswith(b'{"kind":"gap"'):
                gap = codec.decode(line)
                if isinstance(gap, Gap) and gap.channel == "trade" and gap.symbol and gap.first and gap.last:
                    span = (int(gap.first), int(gap.last))
                    if gap.filled:
                        holes[gap.symbol].remove(span)
                    else:
                        found += 1
                        holes.setdefault(gap.symbol, []).append(span)
        self._gaps = found
        return seen, holes

    def _compare(self, plan: Plan) -> None:
        report = self._report
        seen, holes = self._trades()
        last = self._control.last_trades()
        for symbol in SYMBOLS:
            ids = seen[symbol]
            report.events += ids.total()
            report.duplicated += ids.total() - len(ids)
            inside = holes.get(symbol, [])
            tape = self._control.get(f"tape?symbol={symbol}&first={min(ids)}&last={last[symbol]}")
            on_tape = {int(trade["id"]) for trade in tape["trades"]}
            report.lost += len(set(range(min(ids), last[symbol] + 1)) - on_tape)  # the tape itself is whole
            for trade in on_tape - set(ids):
                report.unexplained += not any(first <= trade <= final for first, final in inside)
            report.unexplained += len(set(ids) - on_tape)  # a trade that never was
        report.gaps += self._gaps
        if plan.legs > 1:
            report.unexplained += self._gaps  # with two legs there is no reason for one
        shown = views(numbered(self._watch.entries("books")))
        for symbol in SYMBOLS:
            view = shown.get(symbol)
            report.books_differing += not (view is not None and self._is_true(symbol, view))

    def _is_true(self, symbol: str, view: View) -> bool:
        if view.event is None or view.event.seq is None:
            return False
        return agrees(view, self._control.book(symbol, view.event.seq))


def _is_trade(line: bytes) -> bool:
    return line.startswith(codec.TRADE)


def run(folder: Path, report: Report, plan: Plan, server: str | None = None) -> None:
    """Run the scenario in ``folder`` and add to ``report``."""
    port = free_port()
    made = Formation(folder, config(port, plan.legs), server)
    try:
        made.start_redis()
        Scenario(made, Control(port), report, random.Random(report.seed)).run(plan)
    finally:
        made.close()
