"""What is said in ``books``: which candidate is published, its deltas, snapshots, states and derived L1.

A symbol's published states::

    live       a candidate is joined and passes its rule: deltas, and a snapshot every 10 s
    empty      the same, and the venue's book has no level
    crossed    the published candidate's best bid is not below its best ask; lost if that lasts
    resyncing  no candidate is joined, one is at work on it
    stale      no connection carries the book, or all that do are silent

Outside ``live`` an event has no levels. Every change of state or connection is told by a snapshot that
is not ``periodic``; a switch between two live candidates by their difference as one delta, then that
snapshot.
"""

from typing import Final

import msgspec

from actors.model.events import L1, SECOND, Book, BookState, Cause, Gap, Level
from actors.stages.book import difference
from actors.stages.bookbuild.candidates import choose
from actors.stages.bookbuild.latest import LatestKeys
from actors.stages.bookbuild.symbol import CLEAN, Symbol
from actors.stages.bookbuild.sync import Sync
from actors.stages.fold import Output

PERIOD_NS: Final = 10 * SECOND  # DESIGN 6: a snapshot of every book

_EVENTS: Final = "tapeline_events_total"
_BOOK: Final = (_EVENTS, "book")
_L1: Final = (_EVENTS, "l1")
_GAP: Final = (_EVENTS, "gap")
_NO_LEVEL: Final = (None, None)
_encode = msgspec.json.Encoder().encode


class Publish:
    """The events of one partition's ``books``.

    Attributes:
        out: Where they go.
        now: Fold time, ns.
        recv: Receive time of the event in hand.
        k: How many events ``books`` has.
    """

    __slots__ = ("_latest", "_venue", "k", "now", "out", "recv")

    def __init__(self, venue: str, latest: LatestKeys, out: Output) -> None:
        self.out = out
        self.now = 0
        self.recv = 0
        self.k = 0
        self._venue = venue
        self._latest = latest

    def time(self, recv: int) -> int:
        """Turn to an event received at ``recv``; return the fold time."""
        self.recv = recv
        if recv > self.now:  # noqa: PLR1730 - the hot path: no call
            self.now = recv
        return self.now

    def settle(self, symbol: Symbol) -> None:
        """Choose anew what is published, and say what that changes."""
        sync = choose(symbol)
        moved = sync is not symbol.active
        symbol.active = sync
        if sync is None:
            at_work = any(not candidate.silence for candidate in symbol.syncs.values())
            self._state(symbol, "resyncing" if at_work else "stale")
            return
        if sync.crossed_since is not None:
            self._state(symbol, "crossed", moved=moved)
            return
        state: BookState = "empty" if sync.book.empty else "live"
        shown = symbol.shown
        if state == symbol.state and sync.book is shown and not moved:
            return
        if state == symbol.state == "live" and shown is not None and shown is not sync.book:
            bids = difference(shown.bids, sync.book.bids)
            asks = difference(shown.asks, sync.book.asks)
            symbol.shown = sync.book
            if bids or asks:
                self.delta(symbol, sync, (bids, asks), sync.ts_event)
            if not moved:
                return
        symbol.state = state
        symbol.shown = sync.book
        self.whole(symbol, periodic=False)

    def forget(self, symbol: Symbol) -> None:
        """Drop all candidates of a symbol, and say that there is none."""
        symbol.syncs.clear()
        symbol.active = None
        if symbol.state is not None:
            # Said again if it was so: where the state is older than the stream, readers know another.
            self._state(symbol, "resyncing", moved=True)

    def delta(
        self, symbol: Symbol, sync: Sync, changes: tuple[list[Level], list[Level]], ts_event: int | None
    ) -> None:
        """Say what has changed in the candidate that is shown."""
        bids, asks = changes
        if sync.unit != "base":
            bids, asks = symbol.in_base(sync, bids), symbol.in_base(sync, asks)
        book = Book(
            self._venue,
            symbol.name,
            ts_event,
            self.recv,
            sync.seq,
            "delta",
            symbol.prev,
            "live",
            sync.verified,
            bids,
            asks,
        )
        self._say(_encode(book), _BOOK)
        symbol.prev = self.k
        if not symbol.has_l1:
            self._derive_l1(symbol, sync)
        if symbol.book_due == CLEAN:  # seldom: a key is due ten times a second
            self._latest.mark_book(symbol, self.now)

    def whole(self, symbol: Symbol, *, periodic: bool) -> None:
        """Say the book and its state: all levels where they are shown, else none."""
        sync, state = symbol.active, symbol.state
        assert state is not None  # noqa: S101 - it is set by whoever says it
        book = Book(
            self._venue,
            symbol.name,
            None if sync is None else sync.ts_event,
            self.recv,
            None if sync is None else sync.seq,
            "snapshot",
            symbol.prev,
            state,
            "none" if sync is None or symbol.shown is None else sync.verified,
            *symbol.levels(),
            periodic,
        )
        self._say(_encode(book), _BOOK)
        symbol.prev = self.k
        symbol.next_at = self.now + PERIOD_NS
        self.derive_l1(symbol)
        self._latest.mark_book(symbol, self.now)

    def _state(self, symbol: Symbol, state: BookState, *, moved: bool = False) -> None:
        if symbol.state == state and not moved:
            return
        symbol.state = state
        symbol.shown = None
        symbol.best = None
        self.whole(symbol, periodic=False)
        if not symbol.has_l1:
            self._latest.mark_top(symbol, self.now)

    def derive_l1(self, symbol: Symbol) -> None:
        """Say the best levels of what is shown, where the venue has no L1 of its own and they changed."""
        if symbol.active is not None and symbol.shown is not None and not symbol.has_l1:
            self._derive_l1(symbol, symbol.active)

    def _derive_l1(self, symbol: Symbol, sync: Sync) -> None:
        best = sync.book.best()
        if best == symbol.best:
            return
        symbol.best = best
        bid, ask = best
        if sync.unit != "base":
            bid, ask = (None if level is None else symbol.in_base(sync, [level])[0] for level in best)
        bid_price, bid_size = bid or _NO_LEVEL
        ask_price, ask_size = ask or _NO_LEVEL
        l1 = L1(
            self._venue,
            symbol.name,
            sync.ts_event,
            self.recv,
            sync.seq,
            bid_price,
            bid_size,
            ask_price,
            ask_size,
        )
        symbol.top = _encode(l1)
        self._say(symbol.top, _L1)
        self._latest.mark_top(symbol, self.now)

    def pass_on(self, symbol: Symbol, line: bytes, recv: int) -> None:
        """Say the venue's own L1 of ``line``, received at ``recv``."""
        self.recv = recv  # the most frequent of all: ``time`` and ``_say`` without a call
        if recv > self.now:  # noqa: PLR1730 - no call of max() either
            self.now = recv
        out = self.out
        self.k += 1
        out.lines["books"].append(line)
        out.counts[_L1] += 1
        symbol.has_l1 = True
        symbol.top = line
        symbol.top_state = "live"
        if symbol.top_due == CLEAN:
            self._latest.mark_top(symbol, self.now)

    def gap(
        self,
        symbol: str | None,
        cause: Cause,
        first: str | None,
        last: str | None,
        conn: str | None = None,
    ) -> None:
        """Say what is missing of books."""
        gap = Gap(self._venue, symbol, None, self.recv, None, "book", cause, first, last, conn=conn)
        self._say(_encode(gap), _GAP)
        self.out.counts["tapeline_gaps_total", f"book/{cause}"] += 1

    def _say(self, line: bytes, counted: tuple[str, str]) -> None:
        out = self.out
        self.k += 1
        out.lines["books"].append(line)
        out.counts[counted] += 1
