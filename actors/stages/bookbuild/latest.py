"""The latest-value keys of books and L1: when they are due, and what they say."""

from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Final, Literal

import msgspec

from actors.model.events import L1, SECOND, BookState, Level, Verified
from actors.stages.bookbuild.symbol import CLEAN, Symbol

KEY_NS: Final = SECOND // 10  # DESIGN 3: at most 10 writes a second of one key
KEY_LEVELS: Final = 20

Keys = dict[tuple[Literal["book", "top"], str], bytes]

_l1_decoder = msgspec.json.Decoder(L1)
_encode = msgspec.json.Encoder().encode


class _BookKey(msgspec.Struct):
    """The value of ``book:<symbol>``; ``ts`` is the fold time of writing, ns."""

    venue: str
    symbol: str
    state: BookState
    verified: Verified
    ts: int
    ts_event: int | None
    seq: int | None
    bids: list[Level]
    asks: list[Level]


class _TopKey(msgspec.Struct):
    """The value of ``top:<symbol>``; ``ts`` is the fold time of writing, ns."""

    venue: str
    symbol: str
    state: BookState
    ts: int
    ts_event: int | None
    ts_recv: int
    seq: int | None
    bid: str | None
    bid_size: str | None
    ask: str | None
    ask_size: str | None


class LatestKeys:
    """The keys of one partition.

    Attributes:
        due: Fold time when the next of them is to be written, ``CLEAN`` while all say all.
    """

    def __init__(self, venue: str, symbols: Mapping[str, Symbol]) -> None:
        self.due = CLEAN
        self._venue = venue
        self._symbols = symbols
        self._heap: list[tuple[int, str]] = []  # when a key is due, of which symbol

    def mark_book(self, symbol: Symbol, now: int) -> None:
        """Note that the book has changed."""
        if symbol.book_due == CLEAN:
            symbol.book_due = max(now, symbol.book_at + KEY_NS)
            self._mark(symbol.name, symbol.book_due)

    def mark_top(self, symbol: Symbol, now: int) -> None:
        """Note that the L1 has changed."""
        if symbol.top_due == CLEAN:
            symbol.top_due = max(now, symbol.top_at + KEY_NS)
            self._mark(symbol.name, symbol.top_due)

    def restore(self, symbol: Symbol) -> None:
        """Note again what was noted of a symbol from a checkpoint."""
        for due in (symbol.book_due, symbol.top_due):
            if due != CLEAN:
                self._mark(symbol.name, due)

    def _mark(self, name: str, due: int) -> None:
        heappush(self._heap, (due, name))
        self.due = self._heap[0][0]

    def write(self, now: int, keys: Keys) -> None:
        """Write to ``keys`` those that are due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, name = heappop(heap)
            symbol = self._symbols[name]
            if symbol.book_due <= now:
                symbol.book_due = CLEAN
                symbol.book_at = now
                keys["book", name] = self._book(symbol, symbol.state, now)
            if symbol.top_due <= now:
                symbol.top_due = CLEAN
                symbol.top_at = now
                if symbol.top is not None:
                    state = symbol.top_state if symbol.has_l1 else symbol.state
                    keys["top", name] = self._top(symbol.top, state, now)
        self.due = heap[0][0] if heap else CLEAN

    def stale(self, now: int) -> Keys:
        """Return what all keys have to say while time itself stands still."""
        keys: Keys = {}
        for name, symbol in self._symbols.items():
            if symbol.state is not None:
                keys["book", name] = self._book(symbol, None, now)
            if symbol.top is not None:
                keys["top", name] = self._top(symbol.top, "stale", now)
        return keys

    def _book(self, symbol: Symbol, state: BookState | None, now: int) -> bytes:
        """Return the value of a book's key; in a ``state`` other than its own without levels."""
        sync = symbol.active
        shown = sync is not None and symbol.shown is not None and state == symbol.state
        bids, asks = symbol.levels(KEY_LEVELS) if shown else ([], [])
        return _encode(
            _BookKey(
                self._venue,
                symbol.name,
                state or "stale",
                sync.verified if sync is not None and shown else "none",
                now,
                None if sync is None else sync.ts_event,
                None if sync is None else sync.seq,
                bids,
                asks,
            )
        )

    def _top(self, line: bytes, state: BookState | None, now: int) -> bytes:
        l1 = _l1_decoder.decode(line)
        return _encode(
            _TopKey(
                self._venue,
                l1.symbol or "",
                state or "stale",
                now,
                l1.ts_event,
                l1.ts_recv,
                l1.seq,
                l1.bid,
                l1.bid_size,
                l1.ask,
                l1.ask_size,
            )
        )
