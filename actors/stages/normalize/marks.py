"""Which trades of one symbol have been seen, where ids are contiguous: once each, holes found and closed.

Trades come from several connections, each in order of its own; the first to bring an id wins. Each id is
one above the last, so a jump is a hole.

States of an id, and what a trade with it does:

========== ===================================================================================
new        one above the highest: it passes
ahead      beyond that: what lies between is a hole; or it is *held*, while another connection that has
           not come so far may still bring what is missing
missing    inside an open hole: it passes, and the last one closes the hole
early      below the first id ever seen (the slower of two connections at the very start): it passes,
           and what lies between is a hole
duplicate  any other: dropped and counted
========== ===================================================================================

An id far below the highest with a later event time means that the venue started its ids again. What was
held is of the former ids, and passes before; one far above the highest with an earlier event time, too, but
whether that has passed nobody knows any more.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from actors.model.events import Cause, Trade

MOST_HOLES: Final = 64  # DESIGN 6; beyond it the oldest is no longer watched, and stays open in the data
MOST_HELD: Final = 1024  # chosen: a second of a wild market
RESET_BELOW: Final = 10_000  # chosen: ids that far back are no late duplicates when their time is later


class Hole(msgspec.Struct):
    """Trade ids ``first`` to ``last`` that were not seen when their successor came.

    Attributes:
        first: As announced, never changed.
        last: As announced, never changed.
        missing: What is missing still: ranges in order, both ends included.
        cause: What was known when it was found.
        afters: By the first id of each of these: event time of the trade before it, ns; None: not known.
        hopeless: No longer asked for.
        given_up: Nor are ids up to this one, though what is behind them is.
    """

    first: int
    last: int
    missing: list[tuple[int, int]]
    cause: Cause
    hopeless: bool = False
    afters: dict[int, int | None] = {}
    given_up: int = -1

    def wanted(self) -> tuple[int, int] | None:
        """Return the first range that is missing and worth asking for, or None."""
        if self.hopeless:
            return None
        return next((low_high for low_high in self.missing if low_high[1] > self.given_up), None)


class Opened(msgspec.Struct, frozen=True):
    """A hole was found, before the trade that follows it."""

    hole: Hole


class Filled(msgspec.Struct, frozen=True):
    """The last id of a hole was seen, after it passed."""

    hole: Hole


class Duplicate(msgspec.Struct, frozen=True):
    """A trade was dropped: its id has been seen."""


class Reset(msgspec.Struct, frozen=True):
    """The venue started its ids again; holes of the former ids are forgotten."""


Step = Trade | Opened | Filled | Duplicate | Reset


def span(trade: Trade) -> tuple[int, int]:
    """Return the first and last id that ``trade`` stands for."""
    last = int(trade.id)
    return (last if trade.first_id is None else int(trade.first_id)), last


class Marks(msgspec.Struct):
    """What has been seen of one symbol.

    Attributes:
        low: First id ever seen.
        high: Highest id that passed.
        ts: Event time of the highest, ns.
        cause: What a hole would be blamed on if one were found now.
        holes: Open, oldest first.
        held: Ahead of a hole that may fill by itself, in order of their ids.
        held_since: Fold time of the first held, ns.
        claimed: Id that the venue said is there, to be missed if it does not come.
        claimed_at: Fold time of that, ns.
        asked: Range of ids that a backfill was asked for and has not answered.
        asked_at: Fold time when its answer is overdue, ns.
        failures: Backfills in a row that brought nothing.
    """

    low: int
    high: int
    ts: int | None
    cause: Cause = "sequence"
    holes: list[Hole] = []
    held: list[Trade] = []
    held_since: int = 0
    claimed: int = -1
    claimed_at: int = 0
    asked: tuple[int, int] | None = None
    asked_at: int = 0
    failures: int = 0

    @classmethod
    def of(cls, trade: Trade) -> "Marks":
        """Begin with the first trade ever seen."""
        first, last = span(trade)
        return cls(first, last, trade.ts_event)

    def passes(self, trade: Trade) -> bool:
        """Tell whether ``trade`` is simply the next one, and note it: the way of nearly all."""
        if (
            trade.first_id is not None
            or int(trade.id) != self.high + 1
            or self.held
            or self.cause != "sequence"
        ):
            return False
        self.high += 1
        self.ts = trade.ts_event
        return True

    def see(self, trade: Trade, now: int, wait: bool) -> list[Step]:
        """Take one trade from a socket.

        Args:
            trade: As decoded.
            now: Fold time, ns.
            wait: Another connection may still bring what lies before ``trade``.
        """
        first, last = span(trade)
        if first > self.high + 1:
            if self.is_former(trade):
                return [Duplicate()]
            steps: list[Step] = [] if self._hold(trade, first, now) else [Duplicate()]
            return steps if wait and len(self.held) < MOST_HELD else [*steps, *self.declare()]
        if last > self.high:
            self._pass(trade, last)
            return [trade, *self._continue()]
        return list(self._behind(trade, first, last))

    def _pass(self, trade: Trade, last: int) -> None:
        self.high = last
        self.ts = trade.ts_event
        self.cause = "sequence"

    def _hold(self, trade: Trade, first: int, now: int) -> bool:
        if not self.held:
            self.held_since = now
        at = len(self.held)
        while at and span(self.held[at - 1])[0] > first:
            at -= 1
        if at and span(self.held[at - 1])[0] == first:
            return False  # the other connection has brought it before
        self.held.insert(at, trade)
        return True

    def _continue(self) -> Iterator[Step]:
        """Let those held pass that are next now."""
        while self.held:
            first, last = span(self.held[0])
            if first > self.high + 1:
                return
            trade = self.held.pop(0)
            if last <= self.high:
                yield Duplicate()
            else:
                self._pass(trade, last)
                yield trade

    def declare(self) -> Iterator[Step]:
        """Give up waiting: name the holes before those held, and let them pass."""
        while self.held:
            trade = self.held.pop(0)
            first, last = span(trade)
            if first > self.high + 1:
                yield self._open(self.high + 1, first - 1, self.ts)
            if last > self.high:
                self._pass(trade, last)
                yield trade
            else:
                yield Duplicate()

    def claim(self, last: int, now: int) -> None:
        """Learn that there is a trade ``last``; while an earlier one is awaited that alone counts."""
        if self.claimed <= self.high < last:
            self.claimed, self.claimed_at = last, now

    def miss(self) -> Iterator[Step]:
        """Give up waiting for what was claimed: it is a hole like one before a trade."""
        yield from self.declare()
        if self.claimed > self.high:
            yield self._open(self.high + 1, self.claimed, self.ts)
            self.high, self.cause = self.claimed, "sequence"

    def _open(self, first: int, last: int, after: int | None) -> Opened:
        hole = Hole(first, last, [(first, last)], self.cause, afters={first: after})
        self.holes.append(hole)
        del self.holes[:-MOST_HOLES]
        return Opened(hole)

    def _behind(self, trade: Trade, first: int, last: int) -> Iterator[Step]:
        hole = self._hole_of(first, last)
        if hole is not None:
            yield from self._fill(hole, trade, first, last)
        elif self._is_reset(trade, last):
            yield from self.declare()
            self.claimed = -1
            self.low, self.high, self.ts, self.cause = first, last, trade.ts_event, "sequence"
            self.holes, self.asked, self.failures = [], None, 0
            yield Reset()
            yield trade
        elif last < self.low and self.low - last < RESET_BELOW:
            if last + 1 < self.low:
                yield self._open(last + 1, self.low - 1, trade.ts_event)
            self.low = first
            yield trade
        else:
            yield Duplicate()

    def _is_reset(self, trade: Trade, last: int) -> bool:
        later = trade.ts_event is not None and self.ts is not None and trade.ts_event > self.ts
        return later and not trade.backfilled and self.high - last > RESET_BELOW

    def is_former(self, trade: Trade) -> bool:
        """Tell whether the id of ``trade`` is of before the venue started its ids again."""
        earlier = trade.ts_event is not None and self.ts is not None and trade.ts_event < self.ts
        return earlier and span(trade)[0] - self.high > RESET_BELOW

    def _hole_of(self, first: int, last: int) -> Hole | None:
        for hole in self.holes:
            if hole.first <= last and first <= hole.last:
                touches = any(low <= last and first <= high for low, high in hole.missing)
                return hole if touches else None
        return None

    def _fill(self, hole: Hole, trade: Trade, first: int, last: int) -> Iterator[Step]:
        left: list[tuple[int, int]] = []
        afters: dict[int, int | None] = {}
        for low, high in hole.missing:
            if low < first:
                left.append((low, min(high, first - 1)))
                afters[low] = hole.afters.get(low)
            if high > last:
                begin = max(low, last + 1)
                left.append((begin, high))
                afters[begin] = hole.afters.get(low) if begin == low else trade.ts_event
        hole.missing, hole.afters = left, afters
        yield trade
        if not left:
            self.holes.remove(hole)
            yield Filled(hole)

    def fill(self, trade: Trade) -> list[Step]:
        """Take one trade from a backfill: it fills a hole, or is a duplicate."""
        first, last = span(trade)
        hole = self._hole_of(first, last)
        return [Duplicate()] if hole is None else list(self._fill(hole, trade, first, last))

    def wanted(self, most: int) -> tuple[int, int, int | None] | None:
        """Return the next range to ask for, of at most ``most`` ids, and the time before it; or None."""
        for hole in self.holes:
            if (wanted := hole.wanted()) is not None:
                low, high = wanted
                return low, min(high, low + most - 1), hole.afters.get(low)
        return None

    def lacks(self, first: int, last: int) -> bool:
        """Tell whether any of the ids ``first`` to ``last`` is missing."""
        return any(low <= last and first <= high for hole in self.holes for low, high in hole.missing)

    def give_up(self, first: int, *, all_of_it: bool) -> None:
        """Ask no more for the range that begins with ``first``; ``all_of_it``: for nothing of its hole.

        What lies behind trades that were given may be given, too.
        """
        for hole in self.holes:
            wanted = hole.wanted()
            if wanted is not None and wanted[0] == first:
                hole.given_up = wanted[1]
                hole.hopeless = all_of_it or hole.wanted() is None

    def wait_anew(self, now: int) -> None:
        """Give what is awaited all its time again: what brings it may not have been read yet."""
        self.held_since = self.claimed_at = now
