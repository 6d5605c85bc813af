"""The books of one partition as their readers must see them, folded only when a newcomer asks.

For each symbol: the last snapshot and the deltas since, as lines. A line costs a look at its head;
levels are decoded for the clients who get updates, and folded for the one who asks for the whole.
States of a symbol::

    unknown   nothing may be said: no snapshot yet, a hole in its chain, or the book is not live
    live      every change is an update; a periodic snapshot repeats what the deltas said, so it is
              not said again and only lets us forget the lines before it

Only a live snapshot, periodic or not, leads from unknown to live, and it is said as a snapshot.
"""

from collections import deque
from typing import Final, Literal, NamedTuple

import msgspec

from actors.model.events import Book, BookState
from actors.stages.book import Levels

_MOST_LINES: Final = 4096  # chosen: about 1 MB a symbol; above it the oldest are folded
_SLICE: Final = 64  # chosen: folding so many takes well under a millisecond


class Head(msgspec.Struct, gc=False):
    """What must be known of every book line; the levels are skipped."""

    symbol: str
    type: Literal["snapshot", "delta"]
    prev: int
    state: BookState
    ts_recv: int
    periodic: bool = False


class Change(NamedTuple):
    """What to say of a book line. ``line``: it, with all its levels."""

    symbol: str
    what: Literal["snapshot", "update"]
    line: bytes


# A line that holds until the next of its kind and symbol, after the epoch and ``k`` of its place.
# A plain tuple: one is made for every L1 and every sum.
Standing = tuple[int, int, bytes]

head_of = msgspec.json.Decoder(Head).decode
decode_book = msgspec.json.Decoder(Book).decode


# What decoding and folding lines may raise that are not what they should be.
BAD_LINE: Final = (msgspec.MsgspecError, ArithmeticError, ValueError, LookupError)


class _Folded:
    """A book and the deltas not yet in it."""

    __slots__ = ("epoch", "k", "last", "levels", "lines", "whole")

    def __init__(self, epoch: int, k: int, line: bytes) -> None:
        self.epoch = epoch  # of the symbol's last event, as ``k``
        self.k = k
        self.lines: deque[bytes] = deque((line,))  # not folded yet; the first is a snapshot if last is None
        self.levels = Levels()
        self.last: Book | None = None  # the event that was folded last
        self.whole: Book | None = None  # the folded book as one snapshot, until the next line

    def fold(self, most: int | None = None) -> Book:
        for _ in range(len(self.lines) if most is None else most):
            event = decode_book(self.lines.popleft())
            if self.last is None:
                self.levels.load(event.bids, event.asks)
            else:
                self.levels.update(event.bids, event.asks)
            self.last = event
        assert self.last is not None  # noqa: S101 -- a book begins with a snapshot
        return self.last

    def snapshot(self) -> Book:
        if self.whole is None:
            self.whole = self.top(None)
        return self.whole

    def top(self, depth: int | None) -> Book:
        last = self.fold()
        bids, asks = self.levels.best_first(depth)
        return msgspec.structs.replace(last, type="snapshot", periodic=False, bids=bids, asks=asks)


class Shelf:
    """The books of one partition."""

    def __init__(self) -> None:
        self._books: dict[str, _Folded] = {}
        self.doubtful: dict[str, Standing] = {}  # symbols whose book is not live: the line that says so
        self.holes = 0  # deltas that did not continue their book, ever

    def clear(self) -> None:
        """Forget all books: what comes next does not continue them."""
        self._books.clear()
        self.doubtful.clear()

    def live(self) -> list[str]:
        """Return the symbols whose book is live."""
        return [*self._books]

    def snapshot(self, symbol: str) -> Book | None:
        """Return a live book whole as of its last line, levels best first; the same object until the next.

        None where it is not live, or where a line's levels turn out not to be levels (a hole).
        """
        book = self._books.get(symbol)
        if book is None:
            return None
        try:
            return book.snapshot()
        except BAD_LINE:
            self.lose(symbol)
            return None

    def top(self, symbol: str, depth: int) -> Book | None:
        """Return the best ``depth`` levels a side of a live book, best first; None as ``snapshot``."""
        book = self._books.get(symbol)
        if book is None:
            return None
        try:
            return book.top(depth)
        except BAD_LINE:
            self.lose(symbol)
            return None

    def place(self, symbol: str) -> tuple[int, int]:
        """Return epoch and ``k`` of the last event of a live book."""
        book = self._books[symbol]
        return book.epoch, book.k

    def lose(self, symbol: str) -> None:
        """Give a book up until its next snapshot: a change of it could not be used."""
        if self._books.pop(symbol, None) is not None:
            self.holes += 1

    def take(self, epoch: int, k: int, line: bytes) -> Change | None:
        """File the ``book`` event ``k``; return what is to be said of it, None for nothing.

        Raises:
            BAD_LINE: The line is no book event, or a line before it had levels that are none.
        """
        head = head_of(line)
        symbol = head.symbol
        book = self._books.get(symbol)
        if head.state != "live":
            self._books.pop(symbol, None)
            self.doubtful[symbol] = epoch, k, line
            return None
        if head.type == "snapshot":
            continues = book is not None and head.periodic and head.prev == book.k
            self._books[symbol] = _Folded(epoch, k, line)
            self.doubtful.pop(symbol, None)
            return None if continues else Change(symbol, "snapshot", line)
        if book is None:
            return None
        if head.prev != book.k:
            self.lose(symbol)
            return None
        book.epoch = epoch
        book.k = k
        book.whole = None
        book.lines.append(line)
        if len(book.lines) > _MOST_LINES:
            try:
                book.fold(_SLICE)
            except BAD_LINE:
                self.lose(symbol)
                raise
        return Change(symbol, "update", line)
