"""The best levels of a book, as those who listen to their changes have them.

For venues that tell of so many levels a side and remove what falls out of them.
"""

from bisect import bisect_left, bisect_right
from sys import maxsize

from actors.simulator.book import Book


class Window:
    """The best ``depth`` levels a side, from now on.

    Attributes:
        levels: Key (see ``book``) -> size.
    """

    __slots__ = ("_book", "_depth", "_floors", "_seen", "levels")

    def __init__(self, book: Book, depth: int) -> None:
        self._book = book
        self._depth = depth
        self.levels = self._present()
        self._floors = self._lowest()  # the least key of either side that is within
        self._seen = book.sequence  # up to which there is nothing more to tell

    def follow(self) -> list[int]:
        """Go on to the book as it is now; return the keys whose size is another."""
        book, levels = self._book, self.levels
        if book.sequence == self._seen:
            return []
        if self._seen < book.oldest:  # nobody knows what changed: look at everything
            looked = {*levels, *self._present()}
        else:
            bids, asks = book.changed(self._seen)
            looked = {price for price, _ in bids} | {-price for price, _ in asks}
        self._seen = book.sequence
        floors = self._lowest()
        for side, old, new in zip(book.sides(), self._floors, floors, strict=True):
            looked.update(side[bisect_left(side, min(old, new)) : bisect_right(side, max(old, new))])
        self._floors = floors
        changed: list[int] = []
        for key in looked:
            size = book.size(key) if key >= floors[key < 0] else 0
            if size == levels.get(key, 0):
                continue
            changed.append(key)
            if size:
                levels[key] = size
            else:
                del levels[key]
        return changed

    def _present(self) -> dict[int, int]:
        levels = self._book.depth(self._depth)
        return {**dict(levels.bids), **{-price: size for price, size in levels.asks}}

    def _lowest(self) -> tuple[int, int]:
        depth = self._depth
        bids, asks = (side[-depth] if len(side) >= depth else -maxsize for side in self._book.sides())
        return bids, asks
