"""The trades of a partition: each passes once, by its id; holes are named, and filled by backfill.

Whichever connection brings a trade first. Where ids are contiguous (``marks``) a hole is named before its
successor, once no connection can bring what is missing any more; else (``recent``) where connections end or
pages do not meet.
"""

from collections.abc import Iterable
from typing import Final

from actors.model.events import SECOND, Cause, Event, Gap, Trade
from actors.stages.control import retry_delay_s
from actors.stages.normalize.connections import Lost
from actors.stages.normalize.marks import Duplicate, Filled, Hole, Marks, Opened, Reset, Step
from actors.stages.normalize.recent import Recent
from actors.stages.normalize.sink import Sink
from actors.stages.normalize.subscriptions import Conn, Ledger, Sub
from actors.venues.base import Answer, Latest, Venue

HOLD_NS: Final = 2 * SECOND  # chosen: how long a lagging leg may take to bring what another skipped
MOST_BACKFILL_CHUNKS: Final = 1000  # chosen: beyond, the venue started anew or was away for half a day
BACKFILL_OVERDUE_NS: Final = 60 * SECOND  # chosen: an answer that long missing was lost
MOST_EMPTY: Final = 3  # chosen: a venue's REST may lag its socket by a second or two
MOST_UNREAD: Final = 60  # chosen: an hour; of the words of a maintenance no trade can be read, either

_HOPELESS: Final = frozenset((400, 404))  # the venue will not give it, however often asked


class Trades:
    """What is done with trades. ``now`` (fold time) and the way out are the sink's.

    Attributes:
        take: Take a trade of a symbol that a subscription brought.
    """

    def __init__(
        self,
        venue: Venue,
        marks: dict[str, Marks],
        recent: dict[str, Recent],
        ledger: Ledger,
        sink: Sink,
    ) -> None:
        """Go on with ``marks`` and ``recent``, by symbol; they are changed in place."""
        self._venue = venue
        self._marks = marks
        self._recent = recent
        self._ledger = ledger
        self._sink = sink
        self._increasing = venue.trade_ids == "increasing"
        self.take = self._numbered if venue.trade_ids == "contiguous" else self._unnumbered

    def missed(self, cause: Cause) -> None:
        """Learn that lines are missing: what the next trade finds is to be blamed on that."""
        for marks in self._marks.values():
            marks.cause = cause

    def lost(self, lost: Lost, cause: Cause) -> None:
        """Say what a connection leaves missing. Contiguous ids tell it by their next."""
        symbol = lost.item[1]
        marks = self._marks.get(symbol)
        if marks is not None:
            marks.cause = cause
            self._resolve(symbol, marks)
            return
        first, recent = lost.seq, self._recent.get(symbol)
        if not lost.last or (recent is not None and recent.holed):
            return
        if recent is not None:
            recent.holed = True
            after = lost.last_id if cause == "sequence" and lost.last_id else recent.high
            first = after + 1 if self._increasing else None
        self._sink.gap(symbol, "trade", cause, first)

    def wait_anew(self) -> None:
        """Learn that time has passed in which nothing was heard: what is awaited may come yet."""
        for marks in self._marks.values():
            marks.wait_anew(self._sink.now)

    def tick(self) -> None:
        """Let time pass."""
        for symbol, marks in self._marks.items():
            if marks.held or marks.asked is not None or marks.claimed > marks.high:
                self._resolve(symbol, marks)

    def _unnumbered(self, symbol: str, trade: Trade, sub: Sub) -> None:
        recent = self._recent.get(symbol)
        if recent is None:
            recent = self._recent[symbol] = Recent()
        if not self._news(symbol, recent, trade):
            self._sink.count("tapeline_duplicates_total", "trade")
        if self._increasing:
            sub.last_id = max(sub.last_id, min(int(trade.id), recent.high))  # none of former ids

    def _news(self, symbol: str, recent: Recent, trade: Trade) -> bool:
        """Let ``trade`` pass unless it was seen; return whether it did."""
        step = recent.see(trade, increasing=self._increasing)
        if isinstance(step, Duplicate):
            return False
        if step is not None:
            self._restarted(symbol)
        recent.holed = False
        self._sink.event(trade)
        return True

    def _numbered(self, symbol: str, trade: Trade, sub: Sub) -> None:
        marks = self._marks.get(symbol)
        if marks is None:
            marks = self._marks[symbol] = Marks.of(trade)
        elif not marks.passes(trade):
            self._steps(symbol, marks, marks.see(trade, self._sink.now, wait=True))
            if not marks.is_former(trade):
                sub.last_id = max(sub.last_id, int(trade.id))
            if marks.held:
                self._resolve(symbol, marks)
            return
        sub.last_id = marks.high
        self._sink.event(trade)

    def latest(self, conn: Conn, said: Latest) -> None:
        """Learn the id of a symbol's last trade: it is to be missed if it does not come."""
        sub = conn.subs.get(("trade", said.symbol))
        if sub is None or sub.state == "refused":
            return  # its trades are not asked for, so none of them is missing
        marks = self._marks.get(said.symbol)
        if marks is None:
            self._marks[said.symbol] = Marks(said.id + 1, said.id, None)
        else:
            marks.claim(said.id, self._sink.now)

    def _resolve(self, symbol: str, marks: Marks) -> None:
        """Stop waiting for what no connection can bring any more, ask again for what was not answered."""
        if marks.held and not self._may_come(symbol, marks):
            self._steps(symbol, marks, marks.declare())
        if marks.claimed > marks.high and self._sink.now - marks.claimed_at > HOLD_NS:
            self._steps(symbol, marks, marks.miss())
        if marks.asked is not None and self._sink.now > marks.asked_at:
            marks.asked = None
            self._backfill(symbol, marks)

    def _may_come(self, symbol: str, marks: Marks) -> bool:
        """Tell whether a connection that is behind the hole lives, and has had no time to say so."""
        if self._sink.now - marks.held_since > HOLD_NS:
            return False
        return any(sub.last_id <= marks.high for sub in self._ledger.giving(("trade", symbol)))

    def _steps(self, symbol: str, marks: Marks, steps: Iterable[Step]) -> None:
        opened = False
        for step in steps:
            match step:
                case Trade():
                    self._sink.event(step)
                case Opened():
                    hole, opened = step.hole, True
                    hole.hopeless = not self._can_fill(hole)
                    self._sink.gap(symbol, "trade", hole.cause, hole.first, hole.last)
                case Filled():
                    self._sink.gap(
                        symbol, "trade", step.hole.cause, step.hole.first, step.hole.last, filled=True
                    )
                case Duplicate():
                    self._sink.count("tapeline_duplicates_total", "trade")
                case Reset():
                    self._restarted(symbol)
        if opened:
            self._backfill(symbol, marks)

    def _can_fill(self, hole: Hole) -> bool:
        venue = self._venue
        by_time = venue.backfill_after is not None and hole.afters.get(hole.first) is not None
        few = hole.last - hole.first < MOST_BACKFILL_CHUNKS * venue.backfill_most
        return few and (by_time or venue.backfill is not None)

    def _restarted(self, symbol: str) -> None:
        self._ledger.forget_ids(("trade", symbol))
        self._sink.count("tapeline_duplicates_total", "venue_reset")
        self._sink.gap(symbol, "trade", "sequence")

    def _backfill(self, symbol: str, marks: Marks, delay_s: float | None = None) -> None:
        """Ask for the next missing trades, one request of a symbol at a time."""
        if marks.asked is None and (wanted := marks.wanted(self._venue.backfill_most)) is not None:
            first, last, after = wanted
            marks.asked = first, last
            marks.asked_at = self._sink.now + BACKFILL_OVERDUE_NS + round((delay_s or 0) * SECOND)
            self._sink.request(
                "backfill",
                symbol=symbol,
                channel="trade",
                first=str(first),
                last=str(last),
                after=None if self._venue.backfill_after is None else after,
                delay_s=delay_s,
            )

    def page(self, symbol: str, page: list[Trade | Gap]) -> list[str]:
        """Take the latest trades, oldest first: those that are new pass.

        Pages overlap. One that does not reach back to the highest id seen may have missed some; what is
        in the very first was before anybody asked. A gap stands for a trade that cannot be read, and is told
        once. Return the ids of those that were.
        """
        recent = self._recent.get(symbol)
        first = recent is None
        if recent is None:
            recent = self._recent[symbol] = Recent()
        elif page and -1 < recent.high < _id(page[0]) - 1:
            self._sink.gap(symbol, "trade", "sequence", recent.high + 1, _id(page[0]) - 1)
        unread: list[str] = []
        for one in page:
            if isinstance(one, Gap):
                if recent.miss(_id(one)) and not first:
                    self._sink.gap(symbol, "trade", "sequence", _id(one), _id(one))
                    unread.append(str(_id(one)))
            elif first:
                recent.see(one, increasing=self._increasing)
            elif not self._news(symbol, recent, one):
                self._sink.count("tapeline_duplicates_total", "page")
        return unread

    def backfilled(self, symbol: str, answer: Answer, events: list[Event] | None) -> None:
        """Take the answer to a backfill; ``events``: what it holds, None where it is none."""
        marks = self._marks.get(symbol)
        if marks is None:
            return
        steps = [step for event in events or () if isinstance(event, Trade) for step in marks.fill(event)]
        self._steps(symbol, marks, steps)
        request = answer.request
        asked = marks.asked
        if asked is None or (str(asked[0]), str(asked[1])) != (request.first, request.last):
            return  # an answer to a question that has been asked anew since
        marks.asked = None
        if any(isinstance(step, Trade) for step in steps) or not marks.lacks(*asked):
            marks.failures = 0
            self._backfill(symbol, marks)
            return
        marks.failures += 1
        most = MOST_EMPTY if events is not None else MOST_UNREAD
        if answer.status in _HOPELESS or (answer.status == 200 and marks.failures >= most):
            marks.failures = 0
            marks.give_up(asked[0], all_of_it=answer.status in _HOPELESS)
            self._backfill(symbol, marks)
        else:
            self._backfill(symbol, marks, retry_delay_s(marks.failures))


def _id(one: Trade | Gap) -> int:
    return int(one.id if isinstance(one, Trade) else one.first or 0)
