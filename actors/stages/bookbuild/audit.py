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


class Audit(msgspec.Struct, array_like=True):
    """The audits of one book, as they are kept in a checkpoint, too.

    Attributes:
        every: As configured.
        due: When the next one begins.
        passed_at: When the last one passed, None: none did, or too long ago.
        noting: Changes have to be noted.
        since: The venue's time of the last change before the first note.
        bids: When a price changed last, by the venue's time.
        asks: The same.
        ask_at: When to ask.
        tries: Questions so far.
        answer: What has come and was not looked at yet.
        judge_at: When to look at it.
        made: When the last answer that was looked at was made, by the venue.
        told: The venue's time of the book's last change then.
        wrong_bids: What differed in it, and has not changed since.
        wrong_asks: The same.
    """

    every: int
    due: int
    passed_at: int | None = None
    noting: bool = False
    since: int = 0
    bids: dict[str, int] = {}
    asks: dict[str, int] = {}
    ask_at: int = 0
    tries: int = 0
    answer: BookSnapshot | None = None
    judge_at: int = 0
    made: int = 0
    told: int = 0
    wrong_bids: _Sizes = {}
    wrong_asks: _Sizes = {}

    @classmethod
    def of(cls, every_s: int, now: int, place: int) -> "Audit":
        """Begin with a book that was joined ``now``; ``place``: any number of its own, to spread books."""
        return cls(every_s * SECOND, now + (FIRST_S + place % min(SPREAD_S, every_s)) * SECOND)

    def _begin(self, since: int, now: int) -> None:
        self.noting, self.since = True, since
        self.bids, self.asks, self.wrong_bids, self.wrong_asks = {}, {}, {}, {}
        self.tries, self.answer, self.made, self.told = 0, None, 0, 0
        self.ask_at = now + LEAD_S * SECOND

    def _rest(self, due: int) -> None:
        self._begin(0, 0)
        self.noting, self.due = False, due

    def restart(self, now: int) -> None:
        """Begin an audit under way anew: the book has become a newer one, and nobody noted what changed."""
        if self.noting:
            self._rest(now)

    def note(self, delta: BookDelta) -> None:
        """Note what ``delta`` changes."""
        at = maxsize if delta.ts_event is None else delta.ts_event
        sides = ((self.bids, self.wrong_bids, delta.bids), (self.asks, self.wrong_asks, delta.asks))
        for notes, wrong, levels in sides:
            for price, _ in levels:
                notes[price] = at
                wrong.pop(price, None)  # a change makes good whatever was missed before

    def take(self, answer: BookSnapshot, now: int) -> None:
        """Take what the venue says; ``step`` will tell what it means."""
        if self.tries:  # else nobody waits for it any more
            self.answer = answer
            self.judge_at = now + SETTLE_S * SECOND

    def step(self, book: Levels, at: int | None, now: int) -> Step | None:
        """Let time pass; return what to do, or what an answer says of ``book``, None for nothing.

        ``at``: the venue's time of the book's last change.
        """
        if self.passed_at is not None and now - self.passed_at > LASTING * self.every:
            self.passed_at = None
        if not self.noting:
            if now >= self.due:
                self._begin(at or 0, now)
            return None
        if self.answer is not None:
            return self._judge(self.answer, book, at or 0, now) if now >= self.judge_at else None
        if now < self.ask_at:
            return None
        if self.tries >= TRIES or max(len(self.bids), len(self.asks)) > MOST_NOTES:
            # Where many wait for their turn none may have come: every one gets it the sooner.
            self._rest(now + (self.every if self.made else min(SPREAD_S * SECOND, self.every)))
            return None
        self.tries += 1
        self.ask_at = now + WAIT_S * SECOND
        return "ask"

    def _judge(self, answer: BookSnapshot, book: Levels, at: int, now: int) -> Step:
        self.answer = None
        self.ask_at = now + AGAIN_S * SECOND
        made = answer.ts_event
        if made is None or made < self.since:
            return "unclear"
        theirs = Levels()
        theirs.load(answer.bids, answer.asks)
        bids = _differing(book.bids, theirs.bids, self.bids, made - SLACK_NS)
        asks = _differing(book.asks, theirs.asks, self.asks, made - SLACK_NS)
        if bids == asks == {}:
            self.passed_at = now
            self._rest(now + self.every)
            return "passed"
        is_another = made != self.made  # a cache may give the same one twice
        is_behind = at != self.told and at < self.made + SLACK_NS
        was_bids, was_asks = self.wrong_bids, self.wrong_asks
        self.made, self.told, self.wrong_bids, self.wrong_asks = made, at, bids or {}, asks or {}
        is_same = was_bids.items() & self.wrong_bids.items() or was_asks.items() & self.wrong_asks.items()
        return "differs" if is_same and is_another and not is_behind else "unclear"


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
