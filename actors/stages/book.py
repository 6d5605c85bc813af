"""One book: two sorted sides, keyed by number, kept as the venue's own text; and a reader's copy of it.

A side is two parallel lists, best level *last*, so that changes near the touch move few entries. Keys
are floats: two decimals of at most 15 significant digits never share a double, so order and equality
are exact. A price with more digits turns both sides to ``Decimal`` keys, some three times slower.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import islice
from operator import itemgetter, lt, neg
from sys import maxsize
from typing import Final, cast

from actors.model.events import Book, BookState, Level, Verified

_FLOAT_DIGITS: Final = 15  # IEEE 754: every decimal of so many significant digits survives a double
_NO_HORIZON: Final = float("-inf")
_price: Final = itemgetter(0)
_size: Final = itemgetter(1)

Key = float  # or Decimal, once a side is exact; nothing but comparing and negating is done with it


def _beyond_float(price: str) -> bool:
    return len(price.replace(".", "").strip("0")) > _FLOAT_DIGITS


def _ask_float(price: str) -> Key:
    return -float(price)


def _bid_exact(price: str) -> Key:
    return cast("Key", Decimal(price))


def _ask_exact(price: str) -> Key:
    return cast("Key", Decimal(price).copy_negate())  # copy_negate: unary minus would round to 28 digits


class Side:
    """One side of a book. Keys ascend towards the best level: prices of bids, negated prices of asks.

    Attributes:
        keys: Sort keys, parallel to ``levels``.
        levels: (price, size) as the venue wrote them, best last.
        limit: Most levels kept; deeper ones are pruned.
        horizon: Key of the deepest price up to which the side is known whole; minus infinity: all.
        exact: Keys are ``Decimal``.
    """

    __slots__ = ("_is_ask", "_number", "_open_end", "exact", "horizon", "keys", "levels", "limit")

    def __init__(self, *, is_ask: bool, limit: int | None = None, open_end: bool = False) -> None:
        """Make an empty side.

        Args:
            is_ask: Asks; else bids.
            limit: Levels the venue guarantees; None for all.
            open_end: The venue's book goes on below ``limit`` and its changes there are sent. What is
                below the horizon is then unknown until the next snapshot, and ignored: so the side
                is always the best levels of the venue's book, with none missing in between.
        """
        self.keys: list[Key] = []
        self.levels: list[Level] = []
        self.limit = maxsize if limit is None else limit
        self.horizon: Key = _NO_HORIZON
        self.exact = False
        self._is_ask = is_ask
        self._open_end = open_end and limit is not None
        self._number = _ask_float if is_ask else float

    def key(self, price: str) -> Key:
        """Return the key of a price."""
        return self._number(price)

    def load(self, best_first: Sequence[Level]) -> None:
        """Replace all levels. They may come in any order; the last of equal prices counts, zeros do not."""
        self.keys.clear()
        self.levels.clear()
        self.horizon = _NO_HORIZON
        self._mind_digits(best_first)
        keys = self._keys(reversed(best_first))
        if all(map(lt, keys, islice(keys, 1, None))) and all(map(float, map(_size, best_first))):
            self.keys = keys[-self.limit :]
            self.levels = [*reversed(best_first[: self.limit])]
        else:
            self.update([*best_first])
        if self._open_end and len(self.keys) == self.limit:
            self.horizon = self.keys[0]

    def update(self, changes: list[Level]) -> list[Level]:
        """Set absolute sizes; zero removes.

        Returns:
            What a reader of this side has to do to follow: mostly ``changes`` itself; without what
            lies below the horizon, and with the removal of what was pruned.
        """
        keys = self.keys
        levels = self.levels
        horizon = self.horizon
        exact, is_ask = self.exact, self._is_ask
        skipped = False
        for level in changes:
            price, size = level
            if exact:
                key = self._number(price)
            elif len(price) > _FLOAT_DIGITS and _beyond_float(price):
                self.make_exact()
                return self.update(changes)  # from the start: sizes are absolute
            else:
                key = -float(price) if is_ask else float(price)  # as _number, which would be one more call
            i = bisect_left(keys, key)
            zero = size[0] == "0" and not size.strip("0.")  # decimals.is_zero: most are told by one digit
            if i < len(keys) and keys[i] == key:
                if zero:
                    del keys[i]
                    del levels[i]
                else:
                    levels[i] = level
            elif key < horizon:
                skipped = True
            elif not zero:
                keys.insert(i, key)
                levels.insert(i, level)
        if not skipped and len(keys) <= self.limit:
            return changes
        number = self._number
        kept = [level for level in changes if number(level[0]) >= horizon] if skipped else changes
        return kept + self._prune()

    def _prune(self) -> list[Level]:
        excess = len(self.keys) - self.limit
        if excess <= 0:
            return []
        pruned = [(price, "0") for price, _ in self.levels[:excess]]
        del self.keys[:excess]
        del self.levels[:excess]
        if self._open_end:
            self.horizon = self.keys[0]
        return pruned

    def _keys(self, levels: Iterable[Level]) -> list[Key]:
        prices = map(_price, levels)
        if self._is_ask and not self.exact:
            return list(map(neg, map(float, prices)))  # as _number, a third cheaper
        return list(map(self._number, prices))

    def _mind_digits(self, changes: Sequence[Level]) -> None:
        if self.exact or max(map(len, map(_price, changes)), default=0) <= _FLOAT_DIGITS:
            return
        if any(len(price) > _FLOAT_DIGITS and _beyond_float(price) for price, _ in changes):
            self.make_exact()

    def make_exact(self) -> None:
        """Go over to ``Decimal`` keys, for good."""
        if self.exact:
            return
        self.exact = True
        self._number = _ask_exact if self._is_ask else _bid_exact
        self.keys = self._keys(self.levels)
        if self.horizon != _NO_HORIZON:
            # The horizon is a former level's key: repr of a double of at most 15 digits is that decimal.
            self.horizon = cast("Key", Decimal(repr(self.horizon)))

    @property
    def thin(self) -> bool:
        """So little is left above the horizon that a new snapshot is due.

        A quarter of the limit: busy Binance books of 1,000 levels then ask every few minutes (recorded:
        105 levels gone in 33 s), and 250 levels last while the answer is on its way.
        """
        return self.horizon != _NO_HORIZON and len(self.keys) * 4 <= self.limit

    @property
    def spent(self) -> bool:
        """Nothing is left above the horizon: the side looks empty and is not known to be."""
        return not self.keys and self.horizon != _NO_HORIZON

    def best_first(self, most: int | None = None) -> list[Level]:
        """Return the levels, best first, at most ``most``."""
        if most is None:
            return self.levels[::-1]
        return self.levels[: -most - 1 : -1]

    def restore(self, levels: list[Level], horizon: str | None) -> None:
        """Set what ``dump`` said."""
        self._mind_digits(levels)
        self.levels = levels
        self.keys = self._keys(levels)
        if horizon is not None:
            exact = self.exact or _beyond_float(horizon.removeprefix("-"))
            if exact:
                self.make_exact()
            self.horizon = cast("Key", Decimal(horizon)) if exact else float(horizon)

    def dump(self) -> tuple[list[Level], str | None]:
        """Return the levels, best last, and the horizon's key as text."""
        return self.levels, None if self.horizon == _NO_HORIZON else str(self.horizon)


class Levels:
    """Both sides of one book."""

    __slots__ = ("asks", "bids")

    def __init__(self, limit: int | None = None, *, open_end: bool = False) -> None:
        self.bids = Side(is_ask=False, limit=limit, open_end=open_end)
        self.asks = Side(is_ask=True, limit=limit, open_end=open_end)

    def load(self, bids: Sequence[Level], asks: Sequence[Level]) -> None:
        """Replace the book."""
        self.bids.load(bids)
        self.asks.load(asks)

    def update(self, bids: list[Level], asks: list[Level]) -> tuple[list[Level], list[Level]]:
        """Set absolute sizes; return the changes a reader has to follow (see ``Side.update``)."""
        return (self.bids.update(bids) if bids else bids), (self.asks.update(asks) if asks else asks)

    @property
    def crossed(self) -> bool:
        """The best bid is not below the best ask: crossed or locked."""
        bids, asks = self.bids, self.asks
        if not bids.keys or not asks.keys:
            return False
        if not bids.exact and not asks.exact:
            return bids.keys[-1] >= -asks.keys[-1]
        bids.make_exact()  # a double and a Decimal of the same price need not be equal
        asks.make_exact()
        # Unary minus would round to 28 digits.
        return bids.keys[-1] >= cast("Key", cast("Decimal", asks.keys[-1]).copy_negate())

    @property
    def empty(self) -> bool:
        """No level on either side."""
        return not self.bids.keys and not self.asks.keys

    @property
    def thin(self) -> bool:
        """One side has lost most of what is known of it."""
        return self.bids.thin or self.asks.thin

    @property
    def spent(self) -> bool:
        """One side has lost all that is known of it."""
        return self.bids.spent or self.asks.spent

    def best_first(self, most: int | None = None) -> tuple[list[Level], list[Level]]:
        """Return (bids, asks), best first, at most ``most`` a side."""
        return self.bids.best_first(most), self.asks.best_first(most)

    def best(self) -> tuple[Level | None, Level | None]:
        """Return the best bid and ask, None where a side is empty."""
        bids, asks = self.bids.levels, self.asks.levels
        return (bids[-1] if bids else None), (asks[-1] if asks else None)


def difference(old: Side, new: Side) -> list[Level]:
    """Return the changes that make ``old`` into ``new``, best first; removals as size ``0``."""
    if old.exact is not new.exact:
        old.make_exact()
        new.make_exact()
    before = dict(zip(old.keys, old.levels, strict=True))
    after = dict(zip(new.keys, new.levels, strict=True))
    changed = [(key, level) for key, level in after.items() if before.get(key) != level]
    gone = [(key, (level[0], "0")) for key, level in before.items() if key not in after]
    return [level for _, level in sorted(changed + gone, key=_price, reverse=True)]


class BrokenChain(ValueError):
    """A delta does not continue the copy: events between were not seen; wait for a snapshot."""


class View:
    """A reader's copy of one published book, folded from its ``book`` events.

    Attributes:
        state: What may be done with it; None before the first snapshot. Without ``live`` no levels.
        k: Number of the last event applied, where the reader gave it.
        event: The last event applied (its seq and times are the book's), None before the first.
    """

    __slots__ = ("_levels", "event", "k", "state", "verified")

    def __init__(self) -> None:
        self._levels = Levels()
        self.state: BookState | None = None
        self.verified: Verified = "none"
        self.k: int | None = None
        self.event: Book | None = None

    def apply(self, book: Book, k: int | None = None) -> None:
        """Take the next event of this symbol; ``k`` is its number in ``books``.

        Raises:
            BrokenChain: A delta without the snapshot before it, or (where numbers are given) one
                whose ``prev`` is not the event applied last. The copy is left as it was.
        """
        if book.type == "delta":
            if self.state is None or (k is not None and self.k is not None and book.prev != self.k):
                raise BrokenChain(f"{book.symbol}: delta after event {book.prev}, the copy is at {self.k}")
            self._levels.update(book.bids, book.asks)
        else:
            self._levels = Levels()
            self._levels.load(book.bids, book.asks)
        self.state = book.state
        self.verified = book.verified
        self.k = k
        self.event = book

    @property
    def levels(self) -> tuple[list[Level], list[Level]]:
        """All levels, (bids, asks), best first; no levels unless ``live``."""
        return self._levels.best_first()

    def top(self, most: int) -> tuple[list[Level], list[Level]]:
        """Return the best ``most`` levels a side, best first."""
        return self._levels.best_first(most)
