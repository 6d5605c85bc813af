"""The fold from ``events`` to ``books``: one candidate book per symbol and connection, one of them published.

A symbol's published states::

    live       a candidate is joined and passes its rule: deltas, and a snapshot every 10 s
    empty      the same, and the venue's book has no level
    crossed    the published candidate's best bid is not below its best ask; lost if that lasts
    resyncing  no candidate is joined, one is at work on it
    stale      no connection carries the book, or all that do are silent

Outside ``live`` an event has no levels. Every change of state or connection is told by a snapshot that
is not ``periodic``; a switch between two live candidates by their difference as one delta, then that
snapshot. A candidate is born with the first delta of a connection (or the first snapshot, where the
stream brings it), lost by a fault (``sync``), silent by ``status`` ``stale``, gone by ``status``
``down``, ``refused`` or ``unsubscribed`` and by a jump of the input.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from sys import maxsize
from typing import ClassVar, Final, Literal, NamedTuple

import msgspec

from actors.model.decimals import to_base
from actors.model.errors import Unparseable
from actors.model.events import (
    L1,
    SECOND,
    Book,
    BookDelta,
    BookSnapshot,
    BookState,
    Cause,
    Gap,
    InstrumentEvent,
    Level,
    Status,
    Verified,
)
from actors.model.instruments import ContractKind
from actors.stages.book import Levels, difference
from actors.stages.control import ControlRequest
from actors.stages.fold import JumpCause, Output
from actors.stages.sync import CONNECTION, ITEM, Alignment, Fault, Outcome, Sync, SyncState
from actors.venues.base import BookRule

ROLE: Final = "bookbuilder"
PERIOD_NS: Final = 10 * SECOND  # DESIGN 6: a snapshot of every book
KEY_NS: Final = SECOND // 10  # DESIGN 3: at most 10 writes a second of one latest-value key
KEY_LEVELS: Final = 20
TICK_LEVELS: Final = 4000  # some 120 KB: periodic snapshots of quiet books in one commit
STATES: Final[tuple[BookState, ...]] = ("live", "resyncing", "stale", "crossed", "empty")
CANDIDATES: Final = 8  # chosen: two legs, each rotating, need four

_CLEAN: Final = maxsize
_EVENTS: Final = "tapeline_events_total"
_BOOK: Final = (_EVENTS, "book")
_L1: Final = (_EVENTS, "l1")
_GONE: Final = ("down", "refused", "unsubscribed")


class _Stamp(msgspec.Struct):
    """Of a line that is passed on or only tells the time, what is needed here."""

    symbol: str | None
    ts_recv: int


class _Contract(NamedTuple):
    size: str
    kind: ContractKind


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


class _SymbolState(msgspec.Struct, array_like=True):
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


class _State(msgspec.Struct, array_like=True):
    now: int
    k: int
    contracts: list[tuple[str, str, ContractKind]]
    symbols: list[_SymbolState]


class _Symbol:
    """What is kept of one symbol.

    ``active`` is the candidate that is published; ``shown`` its levels while readers have them (``live``
    and ``empty``). ``best`` is the L1 derived last, ``top`` the line of the L1 told last. ``*_due``: when
    a latest-value key is to be written, ``_CLEAN`` where it says all.
    """

    __slots__ = (
        "active", "best", "book_at", "book_due", "contract", "has_l1", "next_at", "prev", "shown", "state",
        "symbol", "syncs", "top", "top_at", "top_due", "top_state",
    )  # fmt: skip

    def __init__(self, symbol: str, contract: _Contract | None, *, has_l1: bool) -> None:
        self.symbol = symbol
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
        self.book_due = _CLEAN
        self.top_at = 0
        self.top_due = _CLEAN


_delta_decoder = msgspec.json.Decoder(BookDelta)
_snapshot_decoder = msgspec.json.Decoder(BookSnapshot)
_stamp_decoder = msgspec.json.Decoder(_Stamp)
_l1_decoder = msgspec.json.Decoder(L1)
_status_decoder = msgspec.json.Decoder(Status)
_gap_decoder = msgspec.json.Decoder(Gap)
_instrument_decoder = msgspec.json.Decoder(InstrumentEvent)
_encode = msgspec.json.Encoder().encode
_Handler = Callable[[bytes, Output], None]
_state_encoder = msgspec.msgpack.Encoder()
_state_decoder = msgspec.msgpack.Decoder(_State)


class Bookbuild:
    """The books of one partition: a ``Fold`` over ``events``, into ``books`` and ``control``."""

    FORMAT: ClassVar[int] = 1

    def __init__(
        self, venue: str, rule: BookRule, state: bytes | None = None, *, has_l1: bool = False
    ) -> None:
        """Begin empty, or where ``dump`` ended.

        Args:
            venue: Name of the venue.
            rule: How its books are put together.
            state: What ``dump`` returned, or None.
            has_l1: The venue's own L1 is subscribed; else L1 is derived from the books.

        Raises:
            ValueError: The rule names a checksum that does not exist.
            msgspec.MsgspecError: ``state`` is not of this format.
        """
        self._venue = venue
        self._alignment = Alignment(rule)
        self._rule = rule
        self._has_l1 = has_l1
        self._now = 0  # fold time
        self._recv = 0  # of the event in hand
        self._in = 0  # its number
        self._asked = 0  # requests it has caused
        self._k = 0  # events written to books
        self._contracts: dict[str, _Contract] = {}
        self._symbols: dict[str, _Symbol] = {}
        self._due_keys: list[tuple[int, str]] = []  # heap: when a latest-value key is due, of which symbol
        self._key_due = _CLEAN  # the earliest of them
        self._handlers: dict[bytes, _Handler] = {
            b"book_": self._on_book,
            b'l1","': self._on_l1,
            b'tick"': self._on_tick,
            b"statu": self._on_status,
            b'gap",': self._on_gap,
            b"instr": self._on_instrument,
        }
        if state is not None:
            self._load(_state_decoder.decode(state))

    def resume(self, counts: dict[str, int]) -> None:
        """Learn, when there is no state, how many events ``books`` has."""
        self._k = counts.get("books", 0)

    def fold(self, k: int, line: bytes, out: Output) -> None:
        """Take event ``k`` of ``events``; kinds that say nothing of books are not decoded."""
        handler = self._handlers.get(line[9:14])
        if handler is None:
            return
        self._in = k
        self._asked = 0
        handler(line, out)
        if self._now >= self._key_due:
            self._write_keys(out)

    def jump(self, first: int, last: int, cause: JumpCause, out: Output) -> None:
        """Forget every book: whatever was missed may have changed or ended it."""
        self._recv = self._now
        self._in = last
        self._asked = 0
        gap = Gap(self._venue, None, None, self._now, None, "book", cause, str(first), str(last))
        self._say_gap(gap, out)
        for symbol in self._symbols.values():
            self._forget(symbol, out)

    @property
    def now(self) -> int:
        """Fold time, ns."""
        return self._now

    def stale_keys(self) -> dict[tuple[Literal["book", "top"], str], bytes]:
        """Return what the latest-value keys have to say while time itself stands still."""
        keys: dict[tuple[Literal["book", "top"], str], bytes] = {}
        for name, symbol in self._symbols.items():
            if symbol.state is not None:
                keys["book", name] = self._book_key(symbol, None)
            if symbol.top is not None:
                keys["top", name] = self._top_key(symbol.top, "stale")
        return keys

    def states(self) -> dict[BookState, int]:
        """Return how many symbols are in each state."""
        counts: dict[BookState, int] = dict.fromkeys(STATES, 0)
        for symbol in self._symbols.values():
            if symbol.state is not None:
                counts[symbol.state] += 1
        return counts

    # What comes in

    def _on_book(self, line: bytes, out: Output) -> None:
        if line[14] != 100:  # "book_d" is a delta
            self._on_snapshot(line, out)
            return
        delta = _delta_decoder.decode(line)
        self._time(delta.ts_recv)
        symbol = self._symbol(delta.symbol)
        sync = symbol.syncs.get(delta.conn)
        if sync is None:
            sync = self._new_sync(symbol, delta.conn)
        outcome = sync.delta(delta, len(line), self._now)
        if outcome == "applied" and symbol.state == "live":
            if sync is not symbol.active:
                return
            if sync.crossed_since is None and not sync.book.empty:
                self._say_delta(symbol, sync, sync.changes, delta.ts_event, out)
                if self._now >= symbol.next_at:
                    self._say_whole(symbol, out, periodic=True)
                return
        self._follow_up(symbol, sync, outcome, out)

    def _on_snapshot(self, line: bytes, out: Output) -> None:
        snapshot = _snapshot_decoder.decode(line)
        self._time(snapshot.ts_recv)
        symbol = self._symbol(snapshot.symbol)
        sync = symbol.syncs.get(snapshot.conn)
        if sync is None:
            if self._rule.snapshot == "rest":
                return  # the answer to a connection that has ended
            sync = self._new_sync(symbol, snapshot.conn)
        outcome = sync.snapshot(snapshot, self._now)
        self._follow_up(symbol, sync, outcome, out)

    def _on_l1(self, line: bytes, out: Output) -> None:
        stamp = _stamp_decoder.decode(line)
        self._time(stamp.ts_recv)
        self._k += 1
        out.lines["books"].append(line)
        out.counts[_L1] += 1
        symbol = self._symbol(stamp.symbol)
        symbol.has_l1 = True
        symbol.top = line
        symbol.top_state = "live"
        if symbol.top_due == _CLEAN:
            self._mark_top(symbol)

    def _on_tick(self, line: bytes, out: Output) -> None:
        self._time(_stamp_decoder.decode(line).ts_recv)
        now = self._now
        levels = 0
        for symbol in self._symbols.values():
            for sync in symbol.syncs.values():
                outcome = sync.tick(now)
                if outcome == "lost" or (sync.due is not None and now >= sync.due):
                    self._follow_up(symbol, sync, outcome, out)
            if now >= symbol.next_at and symbol.state is not None and levels < TICK_LEVELS:
                self._say_whole(symbol, out, periodic=True)
                shown = symbol.shown
                levels += 0 if shown is None else len(shown.bids.keys) + len(shown.asks.keys)

    def _on_status(self, line: bytes, out: Output) -> None:
        status = _status_decoder.decode(line)
        self._time(status.ts_recv)
        if status.symbol is None:
            symbols = list(self._symbols.values())
        else:
            known = self._symbols.get(status.symbol)
            symbols = [] if known is None else [known]
        for symbol in symbols:
            if status.channel is None or status.channel == "book":
                self._on_book_status(symbol, status, out)
            if status.channel == "l1" and status.conn is None:
                self._on_l1_status(symbol, status)

    def _on_book_status(self, symbol: _Symbol, status: Status, out: Output) -> None:
        syncs = symbol.syncs
        conns = [conn for conn in syncs if status.conn is None or conn == status.conn]
        if not conns:
            return
        if status.state in _GONE:
            for conn in conns:
                del syncs[conn]
        elif status.state == "resyncing":
            for conn in conns:
                self._renew(symbol, syncs[conn])
        elif status.state == "stale":
            for conn in conns:
                syncs[conn].silence |= CONNECTION if status.symbol is None else ITEM
        elif status.state == "live" and status.symbol is None:
            for conn in conns:  # it speaks, though perhaps not of this symbol: its own silence stays
                syncs[conn].silence &= ~CONNECTION
        else:
            return
        self._settle(symbol, out)

    def _renew(self, symbol: _Symbol, sync: Sync) -> None:
        """Begin a book anew whose subscription is: what comes now is another stream, it was fine or not."""
        if sync.joined and not sync.silence:
            symbol.syncs[sync.conn] = Sync(self._alignment, sync.conn, self._now)

    def _on_l1_status(self, symbol: _Symbol, status: Status) -> None:
        if status.state in ("refused", "unsubscribed"):
            symbol.has_l1 = False  # from now on derived, if the book is there
            symbol.top = None
        elif status.state not in ("down", "stale"):
            return
        symbol.top_state = "stale"
        self._mark_top(symbol)

    def _on_gap(self, line: bytes, out: Output) -> None:
        gap = _gap_decoder.decode(line)
        self._time(gap.ts_recv)
        if gap.channel is not None and gap.channel != "book":
            return
        # Sequences show what they lack; a lost raw line may have been a close, which nothing shows.
        blind = self._rule.chain == "none" and gap.cause == "overflow"
        if not blind and gap.cause not in ("retention", "rollback"):
            return
        for symbol in self._symbols.values():
            if gap.symbol is None or gap.symbol == symbol.symbol:
                self._forget(symbol, out)

    def _on_instrument(self, line: bytes, out: Output) -> None:
        event = _instrument_decoder.decode(line)
        self._time(event.ts_recv)
        if event.symbol is None or event.contract_size is None or event.contract_kind is None:
            return
        contract = _Contract(event.contract_size, event.contract_kind)
        if self._contracts.get(event.symbol) == contract:
            return
        self._contracts[event.symbol] = contract
        symbol = self._symbols.get(event.symbol)
        if symbol is not None:
            symbol.contract = contract
            symbol.shown = None  # its sizes are others now
            symbol.best = None
            self._settle(symbol, out)

    # Candidates

    def _time(self, recv: int) -> None:
        self._recv = recv
        if recv > self._now:  # noqa: PLR1730 - the hot path: no call
            self._now = recv

    def _symbol(self, name: str | None) -> _Symbol:
        if name is None:
            raise Unparseable("an event of a book without its symbol")
        symbol = self._symbols.get(name)
        if symbol is None:
            symbol = _Symbol(name, self._contracts.get(name), has_l1=self._has_l1)
            self._symbols[name] = symbol
        return symbol

    def _new_sync(self, symbol: _Symbol, conn: str) -> Sync:
        if len(symbol.syncs) >= CANDIDATES:
            oldest = next(c for c, sync in symbol.syncs.items() if sync is not symbol.active)
            del symbol.syncs[oldest]
        sync = Sync(self._alignment, conn, self._now)
        symbol.syncs[conn] = sync
        return sync

    def _follow_up(self, symbol: _Symbol, sync: Sync, outcome: Outcome, out: Output) -> None:
        if outcome == "lost" and sync.fault is not None:
            fault = sync.fault
            if sync is symbol.active and fault.cause in {"checksum", None}:
                symbol.shown = None  # the delta that showed it is in these levels, but was not told
            if fault.cause is not None:
                self._say_fault(symbol, sync, fault.cause, fault, out)
            out.counts["tapeline_resyncs_total", fault.cause or "depth"] += 1
            if fault.cause == "checksum":
                out.counts["tapeline_checksum_failures_total", ""] += 1
        self._settle(symbol, out)
        if sync.due is not None and sync.ask(self._now):
            self._ask(symbol, sync, out)

    def _ask(self, symbol: _Symbol, sync: Sync, out: Output) -> None:
        self._asked += 1
        request = ControlRequest(
            id=f"{ROLE}/{self._in}/{self._asked}",
            op="snapshot" if self._rule.snapshot == "rest" else "resubscribe",
            symbol=symbol.symbol,
            channel="book",
            conn=sync.conn,
            reason=sync.reason,
        )
        out.lines["control"].append(_encode(request))

    def _forget(self, symbol: _Symbol, out: Output) -> None:
        symbol.syncs.clear()
        symbol.active = None
        if symbol.state is not None:
            # Said again if it was so: where the state is older than the stream, readers know another.
            self._say_state(symbol, "resyncing", out, moved=True)

    # Which candidate, in which state

    def _may_be_shown(self, symbol: _Symbol, sync: Sync) -> bool:
        return sync.joined and not sync.silence and (sync.unit == "base" or symbol.contract is not None)

    def _choose(self, symbol: _Symbol) -> Sync | None:
        active = symbol.active
        if active is not None and symbol.syncs.get(active.conn) is not active:
            active = None
        if active is not None and self._may_be_shown(symbol, active):
            return active
        best: Sync | None = None
        rank = (False, -maxsize)
        for sync in symbol.syncs.values():
            if self._may_be_shown(symbol, sync):
                # The one that is furthest, so that a switch goes back in time as little as can be.
                here = (sync.crossed_since is None, -maxsize if sync.seq is None else sync.seq)
                if best is None or here > rank:
                    best, rank = sync, here
        return best

    def _settle(self, symbol: _Symbol, out: Output) -> None:
        """Choose anew what is published, and say what that changes."""
        sync = self._choose(symbol)
        moved = sync is not symbol.active
        symbol.active = sync
        if sync is None:
            at_work = any(not candidate.silence for candidate in symbol.syncs.values())
            self._say_state(symbol, "resyncing" if at_work else "stale", out)
            return
        if sync.crossed_since is not None:
            self._say_state(symbol, "crossed", out, moved=moved)
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
                self._say_delta(symbol, sync, (bids, asks), sync.ts_event, out)
            if not moved:
                return
        symbol.state = state
        symbol.shown = sync.book
        self._say_whole(symbol, out, periodic=False)

    # What goes out

    def _say_delta(
        self,
        symbol: _Symbol,
        sync: Sync,
        changes: tuple[list[Level], list[Level]],
        ts_event: int | None,
        out: Output,
    ) -> None:
        bids, asks = changes
        if sync.unit != "base":
            bids, asks = self._in_base(symbol, bids), self._in_base(symbol, asks)
        book = Book(
            self._venue,
            symbol.symbol,
            ts_event,
            self._recv,
            sync.seq,
            "delta",
            symbol.prev,
            "live",
            self._rule.verified,
            bids,
            asks,
        )
        self._k = symbol.prev = self._k + 1
        out.lines["books"].append(_encode(book))
        out.counts[_BOOK] += 1
        if not symbol.has_l1:
            self._derive_l1(symbol, sync, out)
        if symbol.book_due == _CLEAN:
            self._mark_book(symbol)

    def _say_whole(self, symbol: _Symbol, out: Output, *, periodic: bool) -> None:
        """Say the book and its state: all levels where they are shown, else none."""
        sync, state = symbol.active, symbol.state
        assert state is not None  # noqa: S101 - it is set by whoever says it
        bids: list[Level] = []
        asks: list[Level] = []
        if sync is not None and symbol.shown is not None:
            bids, asks = self._levels(symbol, sync, None)
        book = Book(
            self._venue,
            symbol.symbol,
            None if sync is None else sync.ts_event,
            self._recv,
            None if sync is None else sync.seq,
            "snapshot",
            symbol.prev,
            state,
            self._rule.verified if symbol.shown is not None else "none",
            bids,
            asks,
            periodic,
        )
        self._k = symbol.prev = self._k + 1
        out.lines["books"].append(_encode(book))
        out.counts[_BOOK] += 1
        symbol.next_at = self._now + PERIOD_NS
        if sync is not None and symbol.shown is not None and not symbol.has_l1:
            self._derive_l1(symbol, sync, out)
        if symbol.book_due == _CLEAN:
            self._mark_book(symbol)

    def _say_state(self, symbol: _Symbol, state: BookState, out: Output, *, moved: bool = False) -> None:
        if symbol.state == state and not moved:
            return
        symbol.state = state
        symbol.shown = None
        symbol.best = None
        self._say_whole(symbol, out, periodic=False)
        if not symbol.has_l1:
            self._mark_top(symbol)

    def _say_fault(self, symbol: _Symbol, sync: Sync, cause: Cause, fault: Fault, out: Output) -> None:
        gap = Gap(
            self._venue,
            symbol.symbol,
            None,
            self._recv,
            None,
            "book",
            cause,
            fault.first,
            fault.last,
            conn=sync.conn,
        )
        self._say_gap(gap, out)

    def _say_gap(self, gap: Gap, out: Output) -> None:
        self._k += 1
        out.lines["books"].append(_encode(gap))
        out.counts[_EVENTS, "gap"] += 1
        out.counts["tapeline_gaps_total", f"book/{gap.cause}"] += 1

    def _derive_l1(self, symbol: _Symbol, sync: Sync, out: Output) -> None:
        best = sync.book.best()
        if best == symbol.best:
            return
        symbol.best = best
        bid, ask = (None if level is None else self._level_in_base(symbol, sync, level) for level in best)
        l1 = L1(
            self._venue,
            symbol.symbol,
            sync.ts_event,
            self._recv,
            sync.seq,
            None if bid is None else bid[0],
            None if bid is None else bid[1],
            None if ask is None else ask[0],
            None if ask is None else ask[1],
        )
        line = _encode(l1)
        self._k += 1
        out.lines["books"].append(line)
        out.counts[_L1] += 1
        symbol.top = line
        self._mark_top(symbol)

    def _levels(self, symbol: _Symbol, sync: Sync, most: int | None) -> tuple[list[Level], list[Level]]:
        bids, asks = sync.book.best_first(most)
        if sync.unit != "base":
            return self._in_base(symbol, bids), self._in_base(symbol, asks)
        return bids, asks

    def _level_in_base(self, symbol: _Symbol, sync: Sync, level: Level) -> Level:
        return level if sync.unit == "base" else self._in_base(symbol, [level])[0]

    def _in_base(self, symbol: _Symbol, levels: list[Level]) -> list[Level]:
        contract = symbol.contract
        assert contract is not None  # noqa: S101 - without one nothing is shown
        size, kind = contract
        return [(price, to_base(contracts, size, kind, price)) for price, contracts in levels]

    # Latest-value keys

    def _mark_book(self, symbol: _Symbol) -> None:
        if symbol.book_due == _CLEAN:
            symbol.book_due = max(self._now, symbol.book_at + KEY_NS)
            self._mark(symbol.symbol, symbol.book_due)

    def _mark_top(self, symbol: _Symbol) -> None:
        if symbol.top_due == _CLEAN:
            symbol.top_due = max(self._now, symbol.top_at + KEY_NS)
            self._mark(symbol.symbol, symbol.top_due)

    def _mark(self, name: str, due: int) -> None:
        heappush(self._due_keys, (due, name))
        self._key_due = self._due_keys[0][0]

    def _write_keys(self, out: Output) -> None:
        now = self._now
        due_keys = self._due_keys
        while due_keys and due_keys[0][0] <= now:
            _, name = heappop(due_keys)
            symbol = self._symbols[name]
            if symbol.book_due <= now:
                symbol.book_due = _CLEAN
                symbol.book_at = now
                out.keys["book", name] = self._book_key(symbol, symbol.state)
            if symbol.top_due <= now:
                symbol.top_due = _CLEAN
                symbol.top_at = now
                if symbol.top is not None:
                    state = symbol.top_state if symbol.has_l1 else symbol.state
                    out.keys["top", name] = self._top_key(symbol.top, state)
        self._key_due = due_keys[0][0] if due_keys else _CLEAN

    def _book_key(self, symbol: _Symbol, state: BookState | None) -> bytes:
        """Return the value of a book's key; in a ``state`` other than its own without levels."""
        sync = symbol.active
        shown = sync is not None and symbol.shown is not None and state == symbol.state
        bids, asks = self._levels(symbol, sync, KEY_LEVELS) if sync is not None and shown else ([], [])
        return _encode(
            _BookKey(
                self._venue,
                symbol.symbol,
                state or "stale",
                self._rule.verified if shown else "none",
                self._now,
                None if sync is None else sync.ts_event,
                None if sync is None else sync.seq,
                bids,
                asks,
            )
        )

    def _top_key(self, line: bytes, state: BookState | None) -> bytes:
        l1 = _l1_decoder.decode(line)
        return _encode(
            _TopKey(
                self._venue,
                l1.symbol or "",
                state or "stale",
                self._now,
                l1.ts_event,
                l1.ts_recv,
                l1.seq,
                l1.bid,
                l1.bid_size,
                l1.ask,
                l1.ask_size,
            )
        )

    # Checkpoint

    def dump(self) -> bytes:
        """Return everything that decides what comes next."""
        return _state_encoder.encode(
            _State(
                now=self._now,
                k=self._k,
                contracts=[(name, size, kind) for name, (size, kind) in self._contracts.items()],
                symbols=[
                    _SymbolState(
                        symbol=symbol.symbol,
                        state=symbol.state,
                        active=None if symbol.active is None else symbol.active.conn,
                        prev=symbol.prev,
                        next_at=symbol.next_at,
                        has_l1=symbol.has_l1,
                        best=symbol.best,
                        top=symbol.top,
                        top_state=symbol.top_state,
                        book_at=symbol.book_at,
                        book_due=symbol.book_due,
                        top_at=symbol.top_at,
                        top_due=symbol.top_due,
                        syncs=[sync.dump() for sync in symbol.syncs.values()],
                    )
                    for symbol in self._symbols.values()
                ],
            )
        )

    def _load(self, state: _State) -> None:
        self._now = state.now
        self._k = state.k
        self._contracts = {name: _Contract(size, kind) for name, size, kind in state.contracts}
        for was in state.symbols:
            symbol = _Symbol(was.symbol, self._contracts.get(was.symbol), has_l1=was.has_l1)
            symbol.syncs = {sync.conn: Sync.load(self._alignment, sync) for sync in was.syncs}
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
            self._symbols[was.symbol] = symbol
            for due in (was.book_due, was.top_due):
                if due != _CLEAN:
                    self._mark(was.symbol, due)
