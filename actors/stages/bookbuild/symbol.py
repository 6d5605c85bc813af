"""What the fold of books keeps of one symbol: its candidates, and what readers were told of them."""

from sys import maxsize
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from actors.model.decimals import to_base
from actors.model.events import BookState, Level
from actors.model.instruments import ContractKind
from actors.stages.bookbuild.alignment import Alignment
from actors.stages.bookbuild.sync import Sync, SyncState

if TYPE_CHECKING:
    from actors.stages.book import Levels

CLEAN: Final = maxsize  # when a latest-value key is to be written that says all


class Contract(NamedTuple):
    """What one contract of a symbol is of, where sizes are told in contracts."""

    size: str
    kind: ContractKind


class SymbolState(msgspec.Struct, array_like=True):
    """A ``Symbol`` as data, for the checkpoint."""

    symbol: str
    state: BookState | None
    active: str | None
    prev: int
    next_at: int
    has_l1: bool
    best: tuple[Level | None, Level | None] | None
    top: bytes | None
    top_state: BookState
    book_at: int
    book_due: int
    top_at: int
    top_due: int
    syncs: list[SyncState]


class Symbol:
    """One symbol.

    Attributes:
        name: Canonical.
        contract: What sizes in contracts are of, None: not known.
        syncs: The candidates, by connection, in order of their birth.
        active: The candidate that is published.
        shown: Its levels while readers have them (``live`` and ``empty``).
        state: As told last, None before the first.
        prev: Number in ``books`` of the event told last.
        next_at: Fold time of the next periodic snapshot.
        has_l1: The venue's own L1 comes, so that none is derived.
        best: The best levels of the L1 derived last.
        top: The line of the L1 told last.
        top_state: What the venue's own L1 is.
        book_at: Fold time when the key of the book was written last.
        book_due: When it is to be written, ``CLEAN`` where it says all.
        top_at: The same of the key of the L1.
        top_due: The same of the key of the L1.
    """

    __slots__ = (
        "active", "best", "book_at", "book_due", "contract", "has_l1", "name", "next_at", "prev", "shown",
        "state", "syncs", "top", "top_at", "top_due", "top_state",
    )  # fmt: skip

    def __init__(self, name: str, contract: Contract | None, *, has_l1: bool) -> None:
        self.name = name
        self.contract = contract
        self.has_l1 = has_l1
        self.syncs: dict[str, Sync] = {}
        self.active: Sync | None = None
        self.shown: Levels | None = None
        self.state: BookState | None = None
        self.prev = 0
        self.next_at = 0
        self.best: tuple[Level | None, Level | None] | None = None
        self.top: bytes | None = None
        self.top_state: BookState = "stale"
        self.book_at = 0
        self.book_due = CLEAN
        self.top_at = 0
        self.top_due = CLEAN

    def in_base(self, sync: Sync, levels: list[Level]) -> list[Level]:
        """Return levels of ``sync`` with sizes in units of the base currency."""
        if sync.unit == "base":
            return levels
        assert self.contract is not None  # noqa: S101 - without one nothing is shown
        size, kind = self.contract
        return [(price, to_base(contracts, size, kind, price)) for price, contracts in levels]

    def levels(self, most: int | None = None) -> tuple[list[Level], list[Level]]:
        """Return what is shown, (bids, asks), best first, at most ``most`` a side; else no levels."""
        sync = self.active
        if sync is None or self.shown is None:
            return [], []
        bids, asks = sync.book.best_first(most)
        return self.in_base(sync, bids), self.in_base(sync, asks)

    def dump(self) -> SymbolState:
        """Return everything that decides what comes next."""
        return SymbolState(
            symbol=self.name,
            state=self.state,
            active=None if self.active is None else self.active.conn,
            prev=self.prev,
            next_at=self.next_at,
            has_l1=self.has_l1,
            best=self.best,
            top=self.top,
            top_state=self.top_state,
            book_at=self.book_at,
            book_due=self.book_due,
            top_at=self.top_at,
            top_due=self.top_due,
            syncs=[sync.dump() for sync in self.syncs.values()],
        )

    @classmethod
    def load(cls, alignment: Alignment, contract: Contract | None, was: SymbolState) -> "Symbol":
        """Return the symbol that ``dump`` described."""
        symbol = cls(was.symbol, contract, has_l1=was.has_l1)
        symbol.syncs = {sync.conn: Sync.load(alignment, sync, was.symbol) for sync in was.syncs}
        symbol.active = None if was.active is None else symbol.syncs[was.active]
        symbol.state = was.state
        if symbol.active is not None and was.state in ("live", "empty"):
            symbol.shown = symbol.active.book
        symbol.prev = was.prev
        symbol.next_at = was.next_at
        symbol.best = was.best
        symbol.top = was.top
        symbol.top_state = was.top_state
        symbol.book_at, symbol.book_due = was.book_at, was.book_due
        symbol.top_at, symbol.top_due = was.top_at, was.top_due
        return symbol
