"""The fold from ``events`` to ``books``: one candidate book per symbol and connection, one of them published.

What comes in goes to the candidate it is of (``sync``, ``candidates``); what that changes for readers is
said by ``publish``, beside the latest-value keys (``latest``). A jump of the input ends all candidates.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import ClassVar, Final

import msgspec

from actors.model.errors import Unparseable
from actors.model.events import BookDelta, BookSnapshot, BookState, Gap, InstrumentEvent, Status
from actors.model.instruments import ContractKind
from actors.stages.bookbuild.alignment import Alignment
from actors.stages.bookbuild.audit import Step
from actors.stages.bookbuild.candidates import begin, fetch, take_status
from actors.stages.bookbuild.latest import Keys, LatestKeys
from actors.stages.bookbuild.publish import PERIOD_NS, Publish
from actors.stages.bookbuild.symbol import Contract, Symbol, SymbolState
from actors.stages.bookbuild.sync import Outcome, Sync
from actors.stages.control import ControlOp, ControlRequest
from actors.stages.fold import JumpCause, Output
from actors.venues.base import BookRule

ROLE: Final = "bookbuilder"
TICK_LEVELS: Final = 4000  # some 120 KB: periodic snapshots of quiet books in one commit
STATES: Final[tuple[BookState, ...]] = ("live", "resyncing", "stale", "crossed", "empty")


class _Stamp(msgspec.Struct):
    """Of a line that is passed on or only tells the time, what is needed here."""

    symbol: str | None
    ts_recv: int


class _State(msgspec.Struct, array_like=True):
    now: int
    k: int
    contracts: list[tuple[str, str, ContractKind]]
    symbols: list[SymbolState]


_delta_decoder = msgspec.json.Decoder(BookDelta)
_snapshot_decoder = msgspec.json.Decoder(BookSnapshot)
_stamp_decoder = msgspec.json.Decoder(_Stamp)
_status_decoder = msgspec.json.Decoder(Status)
_gap_decoder = msgspec.json.Decoder(Gap)
_instrument_decoder = msgspec.json.Decoder(InstrumentEvent)
_encode = msgspec.json.Encoder().encode
_Handler = Callable[[bytes], None]
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
            msgspec.MsgspecError: ``state`` is not of this format.
        """
        self._alignment = Alignment(rule)
        self._rule = rule
        self._has_l1 = has_l1
        self._in = 0  # number of the event in hand
        self._asked = 0  # requests it has caused
        self._contracts: dict[str, Contract] = {}
        self._symbols: dict[str, Symbol] = {}
        self._latest = LatestKeys(venue, self._symbols)
        self._publish = Publish(venue, self._latest, Output(()))
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
        self._publish.k = counts.get("books", 0)

    def fold(self, k: int, line: bytes, out: Output) -> None:
        """Take event ``k`` of ``events``; kinds that say nothing of books are not decoded."""
        handler = self._handlers.get(line[9:14])
        if handler is None:
            return
        publish = self._publish
        publish.out = out
        self._in = k
        self._asked = 0
        handler(line)
        if publish.now >= self._latest.due:
            self._latest.write(publish.now, out.keys)

    def jump(self, first: int, last: int, cause: JumpCause, out: Output) -> None:
        """Forget every book and doubt every L1: whatever was missed may have changed or ended it."""
        publish = self._publish
        publish.out = out
        publish.recv = publish.now
        publish.gap(None, cause, str(first), str(last))
        for symbol in self._symbols.values():
            self._forget(symbol)

    def _forget(self, symbol: Symbol) -> None:
        self._publish.forget(symbol)
        symbol.top_state = "stale"  # until the venue's own comes again
        self._latest.mark_top(symbol, self._publish.now)

    @property
    def now(self) -> int:
        """Fold time, ns."""
        return self._publish.now

    def stale_keys(self) -> Keys:
        """Return what the latest-value keys have to say while time itself stands still."""
        return self._latest.stale(self._publish.now)

    def states(self) -> dict[BookState, int]:
        """Return how many symbols are in each state."""
        counts: dict[BookState, int] = dict.fromkeys(STATES, 0)
        for symbol in self._symbols.values():
            if symbol.state is not None:
                counts[symbol.state] += 1
        return counts

    def dump(self) -> bytes:
        """Return everything that decides what comes next."""
        return _state_encoder.encode(
            _State(
                now=self._publish.now,
                k=self._publish.k,
                contracts=[(name, size, kind) for name, (size, kind) in self._contracts.items()],
                symbols=[symbol.dump() for symbol in self._symbols.values()],
            )
        )

    def _load(self, state: _State) -> None:
        self._publish.now = state.now
        self._publish.k = state.k
        self._contracts = {name: Contract(size, kind) for name, size, kind in state.contracts}
        for was in state.symbols:
            symbol = Symbol.load(self._alignment, self._contracts.get(was.symbol), was)
            self._symbols[was.symbol] = symbol
            self._latest.restore(symbol)

    def _symbol(self, name: str | None) -> Symbol:
        if name is None:
            raise Unparseable("an event of a book without its symbol")
        symbol = self._symbols.get(name)
        if symbol is None:
            symbol = Symbol(name, self._contracts.get(name), has_l1=self._has_l1)
            self._symbols[name] = symbol
        return symbol

    # Frames

    def _on_book(self, line: bytes) -> None:
        if line[14] != 100:  # "book_d" is a delta
            self._on_snapshot(line)
            return
        delta = _delta_decoder.decode(line)
        publish = self._publish
        now = publish.time(delta.ts_recv)
        # The hot path: most symbols are known, and found without a call.
        symbol = self._symbols.get(delta.symbol or "") or self._symbol(delta.symbol)
        sync = symbol.syncs.get(delta.conn)
        if sync is None:
            sync = begin(symbol, self._alignment, delta.conn, now)
        outcome = sync.delta(delta, len(line), now)
        if outcome == "applied" and symbol.state == "live":
            if sync is not symbol.active:
                return
            if sync.crossed_since is None and not sync.book.empty:
                publish.delta(symbol, sync, sync.changes, delta.ts_event)
                if now >= symbol.next_at:
                    publish.whole(symbol, periodic=True)
                return
        self._follow_up(symbol, sync, outcome)

    def _on_snapshot(self, line: bytes) -> None:
        snapshot = _snapshot_decoder.decode(line)
        now = self._publish.time(snapshot.ts_recv)
        symbol = self._symbol(snapshot.symbol)
        sync = symbol.syncs.get(snapshot.conn)
        if snapshot.audit:
            if sync is not None:
                sync.audited(snapshot, now)
            return
        if sync is None:
            if self._rule.snapshot == "rest":
                return  # the answer to a connection that has ended
            sync = begin(symbol, self._alignment, snapshot.conn, now)
        outcome = sync.snapshot(snapshot, now)
        self._follow_up(symbol, sync, outcome)

    def _on_l1(self, line: bytes) -> None:
        stamp = _stamp_decoder.decode(line)
        symbol = self._symbols.get(stamp.symbol or "") or self._symbol(stamp.symbol)
        self._publish.pass_on(symbol, line, stamp.ts_recv)

    # Time, and what is told of connections

    def _on_tick(self, line: bytes) -> None:
        publish = self._publish
        now = publish.time(_stamp_decoder.decode(line).ts_recv)
        due: list[Symbol] = []
        for symbol in self._symbols.values():
            for sync in symbol.syncs.values():
                outcome = sync.tick(now)
                if (step := sync.audit(now)) is not None:
                    self._audit(symbol, sync, step)
                if outcome in ("lost", "joined") or (sync.due is not None and now >= sync.due):
                    self._follow_up(symbol, sync, outcome)
            if now >= symbol.next_at and symbol.state is not None:
                due.append(symbol)
            if symbol.top is not None and now >= symbol.top_at + PERIOD_NS:
                self._latest.mark_top(symbol, now)  # it may have been set to stale beside the fold
        due.sort(key=attrgetter("next_at"))  # who has waited longest comes first: else the last never would
        levels = 0
        for symbol in due:
            if levels >= TICK_LEVELS:
                break
            publish.whole(symbol, periodic=True)
            shown = symbol.shown
            levels += 0 if shown is None else len(shown.bids.keys) + len(shown.asks.keys)

    def _on_status(self, line: bytes) -> None:
        status = _status_decoder.decode(line)
        publish = self._publish
        now = publish.time(status.ts_recv)
        if status.symbol is None:
            symbols = list(self._symbols.values())
        else:
            if self._is_unmoved(status):
                self._fetch(status, now)
                return
            known = self._symbols.get(status.symbol)
            symbols = [] if known is None else [known]
        for symbol in symbols:
            of_book = status.channel is None or status.channel == "book"
            if of_book and take_status(symbol, self._alignment, status, now):
                publish.settle(symbol)
            if status.channel in (None, "l1") and status.conn is None:
                self._on_l1_status(symbol, status)

    def _is_unmoved(self, status: Status) -> bool:
        """Tell whether the book of one connection was granted and has not changed since."""
        of_book = status.channel == "book" and status.state == "subscribed"
        return self._rule.snapshot == "rest" and of_book and status.conn is not None

    def _fetch(self, status: Status, now: int) -> None:
        symbol = self._symbol(status.symbol)
        sync = fetch(symbol, self._alignment, status.conn or "", now)
        if sync is not None:
            self._follow_up(symbol, sync, "kept")

    def _on_l1_status(self, symbol: Symbol, status: Status) -> None:
        if status.state in ("refused", "unsubscribed"):
            if symbol.has_l1:
                symbol.has_l1 = False  # from now on derived, if the book is there
                symbol.best = None  # told before the venue's own came, if ever
                self._publish.derive_l1(symbol)
        elif status.state not in ("down", "stale"):
            return
        symbol.top_state = "stale"
        self._latest.mark_top(symbol, self._publish.now)

    def _on_gap(self, line: bytes) -> None:
        gap = _gap_decoder.decode(line)
        self._publish.time(gap.ts_recv)
        if gap.channel is not None and gap.channel != "book":
            return
        if gap.conn is not None:  # of one candidate, which may lack a change
            known = self._symbols.get(gap.symbol or "")
            sync = None if known is None else known.syncs.get(gap.conn)
            if known is not None and sync is not None:
                self._follow_up(known, sync, sync.doubt(self._publish.now))
            return
        # Sequences show what they lack; a lost raw line may have been a close, which nothing shows.
        blind = self._rule.blind and gap.cause == "overflow"
        if not blind and gap.cause not in ("retention", "rollback"):
            return
        for symbol in self._symbols.values():
            if gap.symbol is None or gap.symbol == symbol.name:
                self._forget(symbol)

    def _on_instrument(self, line: bytes) -> None:
        event = _instrument_decoder.decode(line)
        self._publish.time(event.ts_recv)
        if event.symbol is None or event.contract_size is None or event.contract_kind is None:
            return
        contract = Contract(event.contract_size, event.contract_kind)
        if self._contracts.get(event.symbol) == contract:
            return
        self._contracts[event.symbol] = contract
        symbol = self._symbols.get(event.symbol)
        if symbol is not None:
            symbol.contract = contract
            symbol.shown = None  # its sizes are others now
            symbol.best = None
            self._publish.settle(symbol)

    # What follows

    def _follow_up(self, symbol: Symbol, sync: Sync, outcome: Outcome) -> None:
        publish = self._publish
        if outcome == "lost" and sync.fault is not None:
            fault = sync.fault
            if sync is symbol.active and fault.cause in {"checksum", None}:
                symbol.shown = None  # the delta that showed it is in these levels, but was not told
            if fault.cause is not None:
                publish.gap(symbol.name, fault.cause, fault.first, fault.last, sync.conn)
            counts = publish.out.counts
            counts["tapeline_resyncs_total", fault.cause or "depth"] += 1
            if fault.cause == "checksum":
                counts["tapeline_checksum_failures_total", ""] += 1
        publish.settle(symbol)
        if sync.due is not None and sync.ask(publish.now):
            op: ControlOp = "snapshot" if self._rule.snapshot == "rest" else "resubscribe"
            self._ask(symbol, sync, op, sync.reason)

    def _audit(self, symbol: Symbol, sync: Sync, step: Step) -> None:
        if step == "ask":
            self._ask(symbol, sync, "audit", "is the book the venue's?")
            return
        self._publish.out.counts["tapeline_book_audits_total", step] += 1
        if step == "differs":
            self._follow_up(symbol, sync, "lost")

    def _ask(self, symbol: Symbol, sync: Sync, op: ControlOp, reason: str) -> None:
        self._asked += 1
        request = ControlRequest(
            id=f"{ROLE}/{self._in}/{self._asked}",
            op=op,
            symbol=symbol.name,
            channel="book",
            conn=sync.conn,
            reason=reason,
        )
        self._publish.out.lines["control"].append(_encode(request))
