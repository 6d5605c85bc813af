"""A limit order book with price-time priority, and the record of each of its changes.

Prices are whole steps, sizes whole lots, both above zero. A *key* is a price with its side: ``+price``
for a bid, ``-price`` for an ask, so that on either side the higher key is the better one, and an order
of key ``k`` meets the other side's keys from the best down to ``-k``.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple


class Fill(NamedTuple):
    """A part of a taker's order that met one resting order."""

    maker: int  # id of the resting order
    price: int
    size: int


class Levels(NamedTuple):
    """A whole book, best first: (price, size) in steps and lots."""

    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


class Forgotten(LookupError):
    """A sequence that the record does not reach, or that has not been yet."""


class _Level:
    __slots__ = ("orders", "total")

    def __init__(self) -> None:
        self.orders: dict[int, int] = {}  # order id -> size left; a dict keeps the order of arrival
        self.total = 0


class Book:
    """One instrument's orders.

    ``sequence`` numbers the changes of levels: each change of one level's size is one more, and so is
    what ``count`` counts, with key 0. The last ``keep`` of them, and up to as many more, are on record.
    """

    __slots__ = (
        "_asks", "_bids", "_keep", "_keys", "_levels", "_olds", "_orders", "_recorded_from", "next_id",
        "sequence",
    )  # fmt: skip

    def __init__(self, sequence: int = 0, keep: int = 1 << 16) -> None:
        self.sequence = sequence
        self.next_id = 1
        self._bids: list[int] = []  # keys, worst first: the best is popped from the end
        self._asks: list[int] = []
        self._levels: dict[int, _Level] = {}  # both sides: keys of the two differ in sign
        self._orders: dict[int, int] = {}  # order id -> key
        self._keep = keep
        self._recorded_from = sequence  # change n is at index n - recorded_from - 1
        self._keys = array("q")
        self._olds = array("q")  # the level's size before the change

    def __len__(self) -> int:
        return len(self._orders)

    def submit(self, key: int, size: int, *, rest: bool = True) -> tuple[int, list[Fill]]:
        """Match an order against the other side and let the remainder rest.

        Args:
            key: Limit price and side.
            size: Lots, above zero.
            rest: False drops the remainder (immediate or cancel).

        Returns:
            The order's id, 0 if nothing of it rests; and its fills, oldest maker of the best price first.
        """
        fills: list[Fill] = []
        other = self._asks if key > 0 else self._bids
        levels = self._levels
        while size and other and other[-1] >= -key:
            met = other[-1]
            level = levels[met]
            old = level.total
            size = self._fill(level, abs(met), size, fills)
            self._record(met, old)
            if not level.total:
                other.pop()
                del levels[met]
        if not size or not rest:
            return 0, fills
        return self._rest(key, size), fills

    def _fill(self, level: _Level, price: int, size: int, fills: list[Fill]) -> int:
        orders = level.orders
        while size and orders:
            maker = next(iter(orders))
            left = orders[maker]
            if left > size:
                orders[maker] = left - size
                taken = size
            else:
                del orders[maker]
                del self._orders[maker]
                taken = left
            level.total -= taken
            size -= taken
            fills.append(Fill(maker, price, taken))
        return size

    def _rest(self, key: int, size: int) -> int:
        level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = _Level()
            insort(self._bids if key > 0 else self._asks, key)
        order_id = self.next_id
        self.next_id += 1
        self._record(key, level.total)
        level.orders[order_id] = size
        level.total += size
        self._orders[order_id] = key
        return order_id

    def cancel(self, order_id: int) -> bool:
        """Take back what is left of an order; False if nothing is."""
        key = self._orders.pop(order_id, None)
        if key is None:
            return False
        level = self._levels[key]
        self._record(key, level.total)
        level.total -= level.orders.pop(order_id)
        if not level.orders:
            del self._levels[key]
            side = self._bids if key > 0 else self._asks
            del side[bisect_left(side, key)]
        return True

    def count(self) -> None:
        """Number a change that is none of a level's, for venues that count more than these."""
        self._record(0, 0)

    def _record(self, key: int, old: int) -> None:
        self.sequence += 1
        self._keys.append(key)
        self._olds.append(old)
        if len(self._keys) >= 2 * self._keep:
            del self._keys[: self._keep]
            del self._olds[: self._keep]
            self._recorded_from += self._keep

    def size(self, key: int) -> int:
        """Return the size of one level, 0 where there is none."""
        level = self._levels.get(key)
        return 0 if level is None else level.total

    def orders_at(self, key: int) -> int:
        """Return how many orders rest at one level."""
        level = self._levels.get(key)
        return 0 if level is None else len(level.orders)

    def top(self) -> tuple[int, int, int, int]:
        """Return best bid, its size, best ask, its size; zeros for an empty side."""
        bid = ask = bid_size = ask_size = 0
        if self._bids:
            bid = self._bids[-1]
            bid_size = self._levels[bid].total
        if self._asks:
            key = self._asks[-1]
            ask = -key
            ask_size = self._levels[key].total
        return bid, bid_size, ask, ask_size

    def depth(self, most: int | None = None) -> Levels:
        """Return the best ``most`` levels a side as they are now."""
        levels = self._levels
        return Levels(
            [(key, levels[key].total) for key in islice(reversed(self._bids), most)],
            [(-key, levels[key].total) for key in islice(reversed(self._asks), most)],
        )

    @property
    def oldest(self) -> int:
        """The first sequence that ``at`` and ``changed`` still know."""
        return self._recorded_from

    def at(self, sequence: int, most: int | None = None) -> Levels:
        """Return the best ``most`` levels a side as they were at a sequence.

        Raises:
            Forgotten: The sequence is older than the record, or in the future.
        """
        sizes = {key: level.total for key, level in self._levels.items()}
        for index in range(len(self._keys) - 1, self._index(sequence) - 1, -1):
            sizes[self._keys[index]] = self._olds[index]
        ordered = sorted((key for key, size in sizes.items() if size), reverse=True)
        bids = [key for key in ordered if key > 0]
        asks = [key for key in ordered if key < 0]
        return Levels([(key, sizes[key]) for key in bids[:most]], [(-key, sizes[key]) for key in asks[:most]])

    def changed(self, since: int) -> Levels:
        """Return the levels that changed after ``since`` with their size now (0: gone), best first.

        Raises:
            Forgotten: ``since`` is older than the record, or in the future.
        """
        keys = sorted(set(self._keys[self._index(since) :]), reverse=True)
        size = self.size
        return Levels([(k, size(k)) for k in keys if k > 0], [(-k, size(k)) for k in keys if k < 0])

    def changes(self, since: int) -> list[tuple[int, int, int]]:
        """Return each change after ``since``, oldest first: its number, its key, the level's size after it.

        Raises:
            Forgotten: ``since`` is older than the record, or in the future.
        """
        found: list[tuple[int, int, int]] = []
        later: dict[int, int] = {}  # size of a level before the change that was looked at last
        for index in range(len(self._keys) - 1, self._index(since) - 1, -1):
            key = self._keys[index]
            found.append((self._recorded_from + index + 1, key, later.get(key, self.size(key))))
            later[key] = self._olds[index]
        return found[::-1]

    def _index(self, sequence: int) -> int:
        index = sequence - self._recorded_from
        if not 0 <= index <= len(self._keys):
            raise Forgotten(f"sequence {sequence} is outside {self._recorded_from} to {self.sequence}")
        return index

    def orders(self) -> Iterable[tuple[int, int, int]]:
        """Yield every resting order: id, key, size left."""
        for order_id, key in self._orders.items():
            yield order_id, key, self._levels[key].orders[order_id]

    def sides(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the keys of bids and asks, worst first; to look at only."""
        return self._bids, self._asks
