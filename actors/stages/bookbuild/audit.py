"""Books that nothing in their stream proves: compared, now and then, with the one that REST gives.

An answer shows the book as it was a moment ago: some of its changes may still be on their way to us, and ours
has gone on since. So it waits until the stream has caught up. From a while before the question on, the prices
that change are noted, with the venue's time of each; what changed since the answer was made, or right before,
is left out, and so is what lies below the deepest level of either. All else must be equal. What differs in
the same way in two answers running, and did not change between, is wrong: a change was missed. Unless the
stream is behind: as long as what comes is older than the first of them, the change may be on its way.

States::

    resting   until ``due``
    noting    prices that change are noted; from ``ask_at`` on the venue is asked, and again where the answer
              does not come, is older than the first note, or differs for the first time

Time is fold time, ns.
"""

from collections.abc import Mapping
from decimal import Decimal
from sys import maxsize
from typing import Final, Literal

import msgspec

from actors.model.events import SECOND, BookDelta, BookSnapshot, Level
from actors.stages.book import Key, Levels, Side

FIRST_S: Final = 5  # chosen: a book joined for so long is audited
SPREAD_S: Final = 60  # chosen: over so long, book by book: an answer may have megabytes
LEAD_S: Final = 10  # chosen: answers come from caches, older ones from before the notes are of no use
WAIT_S: Final = 30  # chosen: a question unanswered for so long is asked again
SETTLE_S: Final = 3  # chosen: an answer is looked at so long after it came
AGAIN_S: Final = 5  # chosen: so long after an answer that decided nothing
TRIES: Final = 6  # chosen: questions of one audit
SLACK_NS: Final = SECOND  # chosen: an answer's time and a change's may come from different clocks
MOST_NOTES: Final = 20_000  # chosen: prices, a side
LASTING: Final = 3  # periods that a proof lasts, where later audits decide nothing

Step = Literal["ask", "passed", "differs", "unclear"]
_Sizes = dict[str, tuple[str, str]]  # by price: ours and the venue's, "0" for none


class AuditState(msgspec.Struct, array_like=True):
    """An ``Audit`` as data, for the checkpoint."""

    due: int
    passed_at: int | None
    noting: bool
    since: int
    bids: dict[str, int]
    asks: dict[str, int]
    ask_at: int
    tries: int
    made: int | None
    wrong_bids: _Sizes
    wrong_asks: _Sizes
    answer: BookSnapshot | None
    judge_at: int
    told: int | None = None
    every: int = 0


class Audit:
    """The audits of one book.

    Attributes:
        noting: Changes have to be noted.
        passed_at: When the last one passed, None: none did, or too long ago.
    """

    __slots__ = (
        "_answer", "_ask_at", "_asks", "_bids", "_due", "_every", "_judge_at", "_made", "_since", "_told",
        "_tries", "_wrong", "noting", "passed_at",
    )  # fmt: skip

    def __init__(self, every_s: int, now: int, place: int) -> None:
        """Begin with a book that was joined ``now``; ``place``: any number of its own, to spread books."""
        self._every = every_s * SECOND
        self._due = now + (FIRST_S + place % min(SPREAD_S, every_s)) * SECOND
        self.passed_at: int | None = None
        self._begin(0)
        self.noting = False

    def _begin(self, since: int) -> None:
        self.noting = True
        self._since = since  # the venue's time of the last change before the first note
        self._bids: dict[str, int] = {}
        self._asks: dict[str, int] = {}
        self._ask_at = 0
        self._tries = 0
        self._made: int | None = None  # when the last answer was made, by the venue
        self._told: int | None = None  # when it was looked at: the venue's time of the book's last change
        self._wrong: tuple[_Sizes, _Sizes] = ({}, {})  # what differed in it
        self._answer: BookSnapshot | None = None  # not looked at yet
        self._judge_at = 0

    def _rest(self, now: int) -> None:
        self._begin(0)
        self.noting = False
        self._due = now + self._every

    def restart(self, now: int) -> None:
        """Begin an audit under way anew: the book has become a newer one, and nobody noted what changed."""
        if self.noting:
            self._rest(now)
            self._due = now

    def note(self, delta: BookDelta) -> None:
        """Note what ``delta`` changes."""
        at = maxsize if delta.ts_event is None else delta.ts_event
        sides = ((self._bids, self._wrong[0], delta.bids), (self._asks, self._wrong[1], delta.asks))
        for notes, wrong, levels in sides:
            for price, _ in levels:
                notes[price] = at
                wrong.pop(price, None)  # a change makes good whatever was missed before

    def answer(self, answer: BookSnapshot, now: int) -> None:
        """Take what the venue says; ``step`` will tell what it means."""
        if self._tries and self._answer is None:  # else nobody waits for it any more
            self._answer = answer
            self._judge_at = now + SETTLE_S * SECOND

    def step(self, book: Levels, at: int | None, now: int) -> Step | None:
        """Let time pass; return what to do, or what an answer says of ``book``, None for nothing.

        ``at``: the venue's time of the book's last change.
        """
        if self.passed_at is not None and now - self.passed_at > LASTING * self._every:
            self.passed_at = None
        if not self.noting:
            if now >= self._due:
                self._begin(at or 0)
                self._ask_at = now + LEAD_S * SECOND
            return None
        if self._answer is not None:
            return self._judge(self._answer, book, at, now) if now >= self._judge_at else None
        if now < self._ask_at:
            return None
        if self._tries >= TRIES or max(len(self._bids), len(self._asks)) > MOST_NOTES:
            self._rest(now)
            return None
        self._tries += 1
        self._ask_at = now + WAIT_S * SECOND
        return "ask"

    def _judge(self, answer: BookSnapshot, book: Levels, at: int | None, now: int) -> Step:
        made = answer.ts_event
        if made is not None and made < self._since:
            return self._unclear(now)
        theirs = Levels()
        theirs.load(answer.bids, answer.asks)
        after = 0 if made is None else made - SLACK_NS
        bids_differ = _differing(book.bids, theirs.bids, self._bids, after)
        asks_differ = _differing(book.asks, theirs.asks, self._asks, after)
        wrong = bids_differ or {}, asks_differ or {}
        if bids_differ == asks_differ == {}:
            self.passed_at = now
            self._rest(now)
            return "passed"
        is_another = made is None or made != self._made  # a cache may give the same one twice
        is_behind = at != self._told and (at or 0) < (self._made or 0) + SLACK_NS
        (bids, asks), self._wrong = self._wrong, wrong
        self._made, self._told = made, at
        is_same = bids.items() & wrong[0].items() or asks.items() & wrong[1].items()
        if is_same and is_another and not is_behind:
            return "differs"
        return self._unclear(now)

    def _unclear(self, now: int) -> Step:
        self._answer = None
        self._ask_at = now + AGAIN_S * SECOND
        return "unclear"

    def dump(self) -> AuditState:
        """Return everything that decides what comes next."""
        return AuditState(
            due=self._due,
            passed_at=self.passed_at,
            noting=self.noting,
            since=self._since,
            bids=self._bids,
            asks=self._asks,
            ask_at=self._ask_at,
            tries=self._tries,
            made=self._made,
            wrong_bids=self._wrong[0],
            wrong_asks=self._wrong[1],
            answer=self._answer,
            judge_at=self._judge_at,
            told=self._told,
            every=self._every,
        )

    @classmethod
    def load(cls, every_s: int, state: AuditState | None) -> "Audit | None":
        """Return the audits that ``dump`` described; None: there were none, or of another period."""
        if state is None or state.every != every_s * SECOND:
            return None
        audit = cls(every_s, 0, 0)
        audit._due = state.due
        audit.passed_at = state.passed_at
        audit.noting = state.noting
        audit._since = state.since
        audit._bids, audit._asks = state.bids, state.asks
        audit._ask_at = state.ask_at
        audit._tries = state.tries
        audit._made, audit._told = state.made, state.told
        audit._wrong = state.wrong_bids, state.wrong_asks
        audit._answer, audit._judge_at = state.answer, state.judge_at
        return audit


def _differing(ours: Side, theirs: Side, notes: Mapping[str, int], after: int) -> _Sizes | None:
    """Return where the sides differ, without what was noted with a time of ``after`` or later.

    None: nothing else is there, so that nothing is proved.
    """
    if ours.exact is not theirs.exact:
        ours.make_exact()
        theirs.make_exact()
    told, said = _by_key(ours), _by_key(theirs)
    changed = {ours.key(price) for price, at in notes.items() if at >= after}
    deepest: Key = max(ours.horizon, theirs.keys[0]) if theirs.keys else ours.horizon
    keys = told.keys() | said.keys()
    compared = sorted(key for key in keys if key >= deepest and key not in changed)
    if keys and not compared:
        return None
    found: _Sizes = {}
    for key in compared:
        price, our = told.get(key, (said[key][0] if key in said else "", "0"))
        their = said[key][1] if key in said else "0"
        if our != their and Decimal(our) != Decimal(their):
            found[price] = our, their
    return found


def _by_key(side: Side) -> dict[Key, Level]:
    return dict(zip(side.keys, side.levels, strict=True))
