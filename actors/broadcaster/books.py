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
from decimal import Decimal
from typing import Final, Literal, NamedTuple

import msgspec

from actors.model.events import Book, BookState, Level

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


head_of = msgspec.json.Decoder(Head).decode
decode_book = msgspec.json.Decoder(Book).decode


def _key(price: str) -> str:
    # One price may be spelled 1.5 and 1.50; a float would merge prices of more than 15 digits.
    return price.rstrip("0").rstrip(".") if "." in price else price


class _Side:
    """One side of a folded book; the text of a price is the last one seen."""

    __slots__ = ("levels",)

    def __init__(self, levels: list[Level]) -> None:
        self.levels = {_key(level[0]): level for level in levels}

    def apply(self, levels: list[Level]) -> None:
        for level in levels:
            if level[1].strip("0."):
                self.levels[_key(level[0])] = level
            else:
                self.levels.pop(_key(level[0]), None)

    def best_first(self, sign: int) -> list[Level]:
        return sorted(self.levels.values(), key=lambda level: sign * Decimal(level[0]))


class _Folded:
    """A book and the deltas not yet in it."""

    __slots__ = ("asks", "bids", "k", "last", "lines", "whole")

    def __init__(self, k: int, line: bytes) -> None:
        self.k = k  # of the symbol's last event
        self.lines: deque[bytes] = deque((line,))  # not folded yet; the first is a snapshot if bids is None
        self.bids: _Side | None = None
        self.asks: _Side | None = None
        self.last: Book | None = None  # the event that was folded last
        self.whole: Book | None = None  # the folded book as one snapshot, until the next line

    def fold(self, most: int | None = None) -> None:
        for _ in range(len(self.lines) if most is None else most):
            event = decode_book(self.lines.popleft())
            self.last = event
            if self.bids is None or self.asks is None:
                self.bids, self.asks = _Side(event.bids), _Side(event.asks)
            else:
                self.bids.apply(event.bids)
                self.asks.apply(event.asks)

    def snapshot(self) -> Book:
        if self.whole is None:
            self.fold()
            assert self.last is not None  # noqa: S101 -- a book begins with a snapshot
            assert self.bids is not None  # noqa: S101
            assert self.asks is not None  # noqa: S101
            self.whole = msgspec.structs.replace(
                self.last,
                type="snapshot",
                periodic=False,
                bids=self.bids.best_first(-1),
                asks=self.asks.best_first(1),
            )
        return self.whole


class Shelf:
    """The books of one partition."""

    def __init__(self) -> None:
        self._books: dict[str, _Folded] = {}
        self.holes = 0  # deltas that did not continue their book, ever

    def clear(self) -> None:
        """Forget all books: what comes next does not continue them."""
        self._books.clear()

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
        except (msgspec.MsgspecError, ArithmeticError):
            self.lose(symbol)
            return None

    def lose(self, symbol: str) -> None:
        """Give a book up until its next snapshot: a change of it could not be used."""
        if self._books.pop(symbol, None) is not None:
            self.holes += 1

    def take(self, k: int, line: bytes) -> Change | None:
        """File the ``book`` event ``k``; return what is to be said of it, None for nothing.

        Raises:
            msgspec.MsgspecError: The line is no book event.
        """
        head = head_of(line)
        symbol = head.symbol
        book = self._books.get(symbol)
        if head.state != "live":
            self._books.pop(symbol, None)
            return None
        if head.type == "snapshot":
            continues = book is not None and head.periodic and head.prev == book.k
            self._books[symbol] = _Folded(k, line)
            return None if continues else Change(symbol, "snapshot", line)
        if book is None:
            return None
        if head.prev != book.k:
            self.lose(symbol)
            return None
        book.k = k
        book.whole = None
        book.lines.append(line)
        if len(book.lines) > _MOST_LINES:
            try:
                book.fold(_SLICE)
            except msgspec.MsgspecError:
                self.lose(symbol)
                raise
        return Change(symbol, "update", line)
