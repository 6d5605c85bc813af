"""The normalizer's fold: lines of ``raw`` become events, requests to the connector and dead letters.

Frames are decoded by the venue with their connection's notes. Trades pass once each, by id, whichever
connection brings them first; where ids are contiguous a hole is named before its successor and filled by
backfill. Book frames of every connection pass, with its name; of all else only the active connection's.
What connections were asked for and whether they give it is kept in ``connections``.
"""

import base64
import binascii
from collections.abc import Iterable
from typing import ClassVar, Final, cast

import msgspec

from actors.model.errors import Unparseable
from actors.model.events import (
    L1,
    SECOND,
    BookDelta,
    BookSnapshot,
    Cause,
    Channel,
    Event,
    Funding,
    Gap,
    InstrumentEvent,
    Liquidation,
    OpenInterest,
    Status,
    StatusState,
    Tick,
    Ticker,
    Trade,
)
from actors.model.instruments import Instrument, UnknownInstrument
from actors.stages.connections import BEST_FIRST, Conn, Connections, Ledger, Lost, Sub
from actors.stages.fold import JumpCause, Output
from actors.stages.raw import Closed, LegsAlive
from actors.stages.sink import Sink
from actors.stages.trades import Duplicate, Filled, Hole, Marks, Opened, Recent, Reset, Step
from actors.venues.base import (
    Acked,
    Answer,
    Closing,
    Ignored,
    Item,
    Latest,
    Missed,
    Refused,
    Said,
    Scratch,
    Subscription,
    Venue,
)

ROLE: Final = "normalizer"
HOLD_NS: Final = 2 * SECOND  # chosen: how long a lagging leg may take to bring what another skipped
MOST_BACKFILL_CHUNKS: Final = 1000  # chosen: beyond, the venue started anew or was away for half a day
BACKFILL_OVERDUE_NS: Final = 60 * SECOND  # chosen: an answer that long missing was lost
MOST_EMPTY: Final = 3  # chosen: a venue's REST may lag its socket by a second or two
MOST_DELAY_S: Final = 60.0  # chosen: longest wait before a REST request is tried again

_CHANNELS: Final[dict[type, Channel]] = {
    Trade: "trade",
    BookDelta: "book",
    BookSnapshot: "book",
    L1: "l1",
    Ticker: "ticker",
    Liquidation: "liquidation",
    OpenInterest: "open_interest",
    Funding: "funding",
}
_HOPELESS: Final = frozenset((400, 404))  # the venue will not give it, however often asked


class _Retry(msgspec.Struct):
    """A snapshot that failed: how often in a row, and when the request that repeats it is sent."""

    failures: int
    at: int


class _State(msgspec.Struct):
    """What a checkpoint holds.

    Attributes:
        now: Fold time, ns.
        instruments: By native symbol.
        unknown: Symbols that the venue does not list, with what was told of them.
        ledger: Connections and subscriptions.
        marks: Of trades with contiguous ids, by symbol.
        recent: Of trades with other ids, by symbol.
        snapshots: Those that failed, by connection and symbol.
    """

    now: int = 0
    instruments: dict[str, Instrument] = {}
    unknown: dict[str, str] = {}
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    marks: dict[str, Marks] = {}
    recent: dict[str, Recent] = {}
    snapshots: dict[tuple[str, str], _Retry] = {}


class Normalize:
    """The fold of one partition. ``state``: an earlier ``dump``, or None to begin."""

    FORMAT: ClassVar[int] = 1

    def __init__(self, venue: Venue, partition: str, state: bytes | None = None) -> None:
        self._venue = venue
        self._decode = venue.decode
        self._state = _State() if state is None else msgspec.msgpack.decode(state, type=_State)
        self._sink = Sink(ROLE, partition, Output(()))
        self._sink.now = self._state.now
        self._connections = Connections(venue, self._state.ledger, self._sink)
        self._numbers = venue.trade_ids == "contiguous"
        self._trade = self._numbered if self._numbers else self._unnumbered
        self._increasing = venue.trade_ids == "increasing"
        self._open: dict[bytes, tuple[str, Conn, Scratch]] = {}
        for name, conn in self._state.ledger.conns.items():
            self._bind(name, conn)

    def dump(self) -> bytes:
        """Return the whole state: MessagePack, mappings in order of insertion."""
        self._state.now = self._sink.now
        return msgspec.msgpack.encode(self._state)

    def gauges(self) -> dict[tuple[Channel, StatusState], int]:
        """Return how many items of each channel are in each state, those with none included."""
        counts: dict[tuple[Channel, StatusState], int] = {
            (channel, state): 0 for channel in sorted(self._venue.channels) for state in BEST_FIRST
        }
        for (channel, _), state in self._state.ledger.told.items():
            counts[channel, state] = counts.get((channel, state), 0) + 1
        return counts

    def _bind(self, name: str, conn: Conn) -> tuple[str, Conn, Scratch]:
        asked = conn.subs if conn.known else None
        scratch = Scratch(name, self._state.instruments, conn.memory, self._venue.name, asked)
        bound = self._open[name.encode()] = (name, conn, scratch)
        return bound

    # ---- the input --------------------------------------------------------------------------------

    def fold(self, k: int, line: bytes, out: Output) -> None:
        """Take one line of ``raw``."""
        recv_text, conn_text, kind, payload = line.split(b" ", 3)
        recv = int(recv_text)
        sink = self._sink
        sink.begin(k, out)
        if recv > sink.now:  # noqa: PLR1730 - a call of max() for each line
            sink.now = recv
        if kind == b"f":
            self._frame(conn_text, recv, payload, line)
        elif kind == b"b":
            self._binary(conn_text, recv, payload, line)
        else:
            self._record(kind, conn_text.decode(), recv, payload, line)

    def jump(self, first: int, last: int, cause: JumpCause, out: Output) -> None:
        """Learn that lines ``first`` to ``last`` will never be seen."""
        self._sink.begin(last, out)
        self._sink.event(
            Gap(self._venue.name, None, None, self._sink.now, None, None, cause, str(first), str(last))
        )
        self._count_gap(None, cause)
        for marks in self._state.marks.values():
            marks.cause = cause
        self._connections.missed()

    def _record(self, kind: bytes, name: str, recv: int, payload: bytes, line: bytes) -> None:
        match kind:
            case b"k":
                self._tick(msgspec.json.decode(payload, type=LegsAlive).legs)
            case b"o":
                self._bind(name, self._connections.opened(name))
            case b"x":
                self._closed(name, msgspec.json.decode(payload, type=Closed), line)
            case b"s":
                bound = self._bound(name) or self._reopened(name)
                self._connections.sent(bound[1], msgspec.json.decode(payload, type=Subscription))
            case b"i":
                self._instrument(payload)
            case b"h":
                self._answer(name, recv, msgspec.json.decode(payload, type=Answer), line)
            case _:
                raise ValueError(f"no kind of raw line: {kind!r}")

    # ---- connections ------------------------------------------------------------------------------

    def _bound(self, name: str) -> tuple[str, Conn, Scratch] | None:
        """Return the open connection ``name``, and note that it was heard of."""
        bound = self._open.get(name.encode())
        if bound is not None and bound[1].open:
            bound[1].unheard = None
            return bound
        return None

    def _reopened(self, name: str) -> tuple[str, Conn, Scratch]:
        """Open a connection whose opening a hole in ``raw`` took, or that a tick gave up too soon."""
        return self._bind(name, self._connections.opened(name, "heard of", known=False))

    def _closed(self, name: str, how: Closed, line: bytes) -> None:
        if how.bad is not None:  # the frame itself was not taken: its close stands for it
            self._sink.count("tapeline_unparseable_total", how.bad)
            self._sink.dead(f"{how.bad}: {how.reason}", line)
        self._lost(self._connections.closed(name, how))
        conns = self._state.ledger.conns
        self._open = {text: bound for text, bound in self._open.items() if bound[0] in conns}
        self._state.snapshots = {k: n for k, n in self._state.snapshots.items() if k[0] in conns}

    def _lost(self, items: Iterable[Lost], cause: Cause = "disconnect") -> None:
        """Say what connections leave missing. Trades of contiguous ids tell it by their next."""
        for lost in items:
            channel, symbol = lost.item
            marks = self._state.marks.get(symbol) if channel == "trade" else None
            if marks is not None:
                marks.cause = cause
                self._resolve(symbol, marks)
            elif lost.last:
                first = None if lost.seq is None else str(lost.seq)
                if channel == "trade" and (recent := self._state.recent.get(symbol)) is not None:
                    if recent.holed:
                        continue
                    recent.holed = True
                    after = lost.last_id if cause == "sequence" and lost.last_id else recent.high
                    first = str(after + 1) if self._increasing else None
                now = self._sink.now
                self._sink.event(Gap(self._venue.name, symbol, None, now, None, channel, cause, first, None))
                self._count_gap(channel, cause)

    def _count_gap(self, channel: Channel | None, cause: Cause) -> None:
        self._sink.count("tapeline_gaps_total", f"{channel or 'all'}/{cause}")

    def _tick(self, legs: list[str]) -> None:
        self._lost(self._connections.tick(legs))
        for symbol, marks in self._state.marks.items():
            if marks.held or marks.asked is not None or marks.claimed > marks.high:
                self._resolve(symbol, marks)
        self._sink.event(Tick(self._venue.name, None, None, self._sink.now, None))

    # ---- instruments ------------------------------------------------------------------------------

    def _instrument(self, payload: bytes) -> None:
        if b'"nearest"' in payload:  # a key of the one; the other's texts cannot hold a bare quote
            self._unknown(msgspec.json.decode(payload, type=UnknownInstrument))
            return
        instrument = msgspec.json.decode(payload, type=Instrument)
        self._state.unknown.pop(instrument.symbol, None)
        if self._state.instruments.get(instrument.native) == instrument:
            return
        self._state.instruments[instrument.native] = instrument
        self._sink.event(
            InstrumentEvent(
                self._venue.name,
                instrument.symbol,
                None,
                self._sink.now,
                None,
                instrument.native,
                instrument.base,
                instrument.quote,
                instrument.contract_size,
                instrument.contract_kind,
                instrument.price_step,
                instrument.size_step,
            )
        )

    def _unknown(self, unknown: UnknownInstrument) -> None:
        nearest = f"; nearest: {', '.join(unknown.nearest)}" if unknown.nearest else ""
        reason = f"{self._venue.name} lists no {unknown.symbol}{nearest}"
        if unknown.reason is not None:
            reason = (
                f"{self._venue.name} lists {unknown.symbol} in a way that means nothing: {unknown.reason}"
            )
        if self._state.unknown.get(unknown.symbol) != reason:
            self._state.unknown[unknown.symbol] = reason
            now = self._sink.now
            self._sink.event(
                Status(self._venue.name, unknown.symbol, None, now, None, None, "refused", reason)
            )

    # ---- frames -----------------------------------------------------------------------------------

    def _binary(self, conn_text: bytes, recv: int, payload: bytes, line: bytes) -> None:
        try:
            frame = base64.b64decode(payload, validate=True)
        except binascii.Error as e:
            raise ValueError(f"a b line that is not base64: {e}") from e
        self._frame(conn_text, recv, frame, line)

    def _frame(self, conn_text: bytes, recv: int, frame: bytes, line: bytes) -> None:
        bound = self._open.get(conn_text)
        if bound is None or not bound[1].open:
            name = conn_text.decode()
            if self._connections.is_closed(name):
                self._sink.count("tapeline_ignored_total", "closed_connection")
                return
            bound = self._reopened(name)
        name, conn, scratch = bound
        now = self._sink.now
        conn.last, conn.unheard = now, None
        scratch.recv = recv
        try:
            decoded = self._decode(frame, scratch)
        except Unparseable as e:
            self._unparseable(e, line)
            if not self._numbers:  # it may have been a trade, and no later one would tell
                lost = self._connections.holed(conn)
                self._lost([one for one in lost if one.item[0] == "trade"], "sequence")
            return
        for said in decoded:
            if not isinstance(said, Event):
                self._control(name, conn, said, line)
                continue
            channel, symbol = _CHANNELS[type(said)], said.symbol or ""
            sub = conn.subs.get((channel, symbol))
            if sub is None or sub.state != "live":
                sub = self._connections.heard(name, conn, (channel, symbol))
            else:
                sub.since = now
            sub.seq = said.seq
            if channel == "trade":
                self._trade(symbol, cast("Trade", said), sub)
            elif sub.active or channel == "book":
                self._sink.event(said)

    def _control(self, name: str, conn: Conn, said: Said, line: bytes) -> None:
        match said:
            case Acked():
                self._connections.acked(name, conn, said)
            case Refused():
                if not self._connections.refused(name, conn, said):
                    self._sink.count("tapeline_ignored_total", "refusal")
                    self._sink.dead(f"a refusal of nobody knows what: {said.reason}", line)
            case Closing():
                self._connections.closing(name, conn, said.reason)
            case Latest():
                self._latest(conn, said)
            case Missed():
                self._lost(self._connections.holed(conn), "sequence")
            case Ignored():
                self._sink.count("tapeline_ignored_total", said.reason)

    def _unparseable(self, e: Unparseable, line: bytes) -> None:
        """Count and keep what could not be decoded: not JSON, not of its schema, or no such value."""
        cause = e.__cause__
        schema = isinstance(cause, msgspec.ValidationError)
        self._sink.count(
            "tapeline_unparseable_total", "schema" if schema else "value" if cause is None else "malformed"
        )
        self._sink.dead(str(e), line)

    # ---- trades -----------------------------------------------------------------------------------

    def _unnumbered(self, symbol: str, trade: Trade, sub: Sub) -> None:
        recent = self._state.recent.get(symbol)
        if recent is None:
            recent = self._state.recent[symbol] = Recent()
        if self._increasing:
            sub.last_id = max(sub.last_id, int(trade.id))
        if not self._news(symbol, recent, trade):
            self._sink.count("tapeline_duplicates_total", "trade")

    def _news(self, symbol: str, recent: Recent, trade: Trade) -> bool:
        """Let ``trade`` pass unless it was seen; return whether it did."""
        step = recent.see(trade, increasing=self._increasing)
        if isinstance(step, Duplicate):
            return False
        if step is not None:
            self._restarted(symbol)
        recent.holed = False
        self._sink.event(trade)
        return True

    def _numbered(self, symbol: str, trade: Trade, sub: Sub) -> None:
        marks = self._state.marks.get(symbol)
        if marks is None:
            marks = self._state.marks[symbol] = Marks.of(trade)
        elif not marks.passes(trade):
            sub.last_id = max(sub.last_id, int(trade.id))
            self._steps(symbol, marks, marks.see(trade, self._sink.now, wait=True))
            if marks.held:
                self._resolve(symbol, marks)
            return
        sub.last_id = marks.high
        self._sink.event(trade)

    def _latest(self, conn: Conn, said: Latest) -> None:
        sub = conn.subs.get(("trade", said.symbol))
        if sub is None or sub.state == "refused":
            return  # its trades are not asked for, so none of them is missing
        marks = self._state.marks.get(said.symbol)
        if marks is None:
            self._state.marks[said.symbol] = Marks(said.id + 1, said.id, None)
        else:
            marks.claim(said.id, self._sink.now)

    def _resolve(self, symbol: str, marks: Marks) -> None:
        """Stop waiting for what no connection can bring any more, ask again for what was not answered."""
        if marks.held and not self._may_come(symbol, marks):
            self._steps(symbol, marks, marks.declare())
        if marks.claimed > marks.high and self._sink.now - marks.claimed_at > HOLD_NS:
            self._steps(symbol, marks, marks.miss())
        if marks.asked is not None and self._sink.now > marks.asked_at:
            marks.asked = None
            self._backfill(symbol, marks)

    def _may_come(self, symbol: str, marks: Marks) -> bool:
        """Tell whether a connection that is behind the hole lives, and has had no time to say so."""
        if self._sink.now - marks.held_since > HOLD_NS:
            return False
        return any(sub.last_id <= marks.high for sub in self._connections.giving(("trade", symbol)))

    def _steps(self, symbol: str, marks: Marks, steps: Iterable[Step]) -> None:
        opened = False
        for step in steps:
            match step:
                case Trade():
                    self._sink.event(step)
                case Opened():
                    hole, opened = step.hole, True
                    hole.hopeless = not self._can_fill(hole)
                    self._gap(symbol, hole.cause, hole.first, hole.last, filled=False)
                case Filled():
                    self._gap(symbol, step.hole.cause, step.hole.first, step.hole.last, filled=True)
                case Duplicate():
                    self._sink.count("tapeline_duplicates_total", "trade")
                case Reset():
                    self._restarted(symbol)
        if opened:
            self._backfill(symbol, marks)

    def _can_fill(self, hole: Hole) -> bool:
        venue = self._venue
        by_time = venue.backfill_after is not None and hole.after is not None
        few = hole.last - hole.first < MOST_BACKFILL_CHUNKS * venue.backfill_most
        return few and (by_time or venue.backfill is not None)

    def _restarted(self, symbol: str) -> None:
        self._sink.count("tapeline_duplicates_total", "venue_reset")
        self._gap(symbol, "sequence", None, None, filled=False)

    def _gap(self, symbol: str, cause: Cause, first: int | None, last: int | None, *, filled: bool) -> None:
        ends = (None if first is None else str(first), None if last is None else str(last))
        now = self._sink.now
        self._sink.event(Gap(self._venue.name, symbol, None, now, None, "trade", cause, *ends, filled))
        if not filled:
            self._count_gap("trade", cause)

    # ---- REST answers -----------------------------------------------------------------------------

    def _backfill(self, symbol: str, marks: Marks, delay_s: float | None = None) -> None:
        """Ask for the next missing trades, one request of a symbol at a time."""
        if marks.asked is None and (wanted := marks.wanted(self._venue.backfill_most)) is not None:
            first, last, after = wanted
            marks.asked = first, last
            marks.asked_at = self._sink.now + BACKFILL_OVERDUE_NS + round((delay_s or 0) * SECOND)
            self._sink.request(
                "backfill",
                symbol=symbol,
                channel="trade",
                first=str(first),
                last=str(last),
                after=None if self._venue.backfill_after is None else after,
                delay_s=delay_s,
            )

    def _answer(self, name: str, recv: int, answer: Answer, line: bytes) -> None:
        conn = name if answer.conn is None else answer.conn
        events: list[Event] | None = None
        if answer.status == 200:
            scratch = Scratch(conn, self._state.instruments, venue=self._venue.name)
            scratch.recv = recv
            try:
                events = self._venue.decode_rest(answer, scratch)
            except Unparseable as e:
                self._unparseable(e, line)
        symbol = answer.request.symbol
        match answer.request.op:
            case "snapshot" if symbol is not None:
                self._snapshot(conn, symbol, events)
            case "backfill" if symbol is not None:
                self._backfilled(symbol, answer, events)
            case "open_interest" | "ticker" | "trade" as channel if symbol is not None:
                self._polled((channel, symbol), answer, events)
            case _:
                self._sink.count("tapeline_ignored_total", "answer")

    def _polled(self, item: Item, answer: Answer, events: list[Event] | None) -> None:
        if events is None:
            reason = "no answer" if not answer.status else f"HTTP {answer.status}"
            self._connections.unanswered(item, f"{reason}: {answer.body[:200]}")
        elif item[0] == "trade":
            self._connections.answered(item, None)
            self._page(item[1], [event for event in events if isinstance(event, Trade)])
        else:
            for event in events:
                if self._connections.answered(item, event.ts_event):  # asked more often than it changes
                    self._sink.event(event)

    def _page(self, symbol: str, page: list[Trade]) -> None:
        """Take the latest trades, oldest first: those that are new pass.

        Pages overlap. One that does not reach back to the highest id seen may have missed some; what is
        in the very first was before anybody asked.
        """
        recent = self._state.recent.get(symbol)
        if recent is None:
            recent = self._state.recent[symbol] = Recent()
            for trade in page:
                recent.see(trade, increasing=self._increasing)
            return
        if page and -1 < recent.high < int(page[0].id) - 1:
            self._gap(symbol, "sequence", recent.high + 1, int(page[0].id) - 1, filled=False)
        for trade in page:
            if not self._news(symbol, recent, trade):
                self._sink.count("tapeline_duplicates_total", "page")

    def _snapshot(self, conn: str, symbol: str, events: list[Event] | None) -> None:
        held = self._state.ledger.conns.get(conn)
        key = (conn, symbol)
        if held is None or not held.open:
            self._sink.count("tapeline_ignored_total", "closed_connection")
        elif events is None:
            self._repeat(key)
        else:
            self._state.snapshots.pop(key, None)
            for event in events:
                self._sink.event(event)

    def _repeat(self, key: tuple[str, str]) -> None:
        """Ask again for a snapshot; once, though others may be asking and failing, too."""
        conn, symbol = key
        retry = self._state.snapshots.setdefault(key, _Retry(0, 0))
        if retry.at <= self._sink.now:
            retry.failures += 1
            delay_s = _delay_s(retry.failures)
            retry.at = self._sink.now + round(delay_s * SECOND)
            self._sink.request("snapshot", symbol=symbol, channel="book", conn=conn, delay_s=delay_s)

    def _backfilled(self, symbol: str, answer: Answer, events: list[Event] | None) -> None:
        marks = self._state.marks.get(symbol)
        if marks is None:
            return
        steps = [step for event in events or () if isinstance(event, Trade) for step in marks.fill(event)]
        self._steps(symbol, marks, steps)
        request = answer.request
        asked = marks.asked
        if asked is None or (str(asked[0]), str(asked[1])) != (request.first, request.last):
            return  # an answer to a question that has been asked anew since
        marks.asked = None
        if any(isinstance(step, Trade) for step in steps):
            marks.failures = 0
            self._backfill(symbol, marks)
            return
        marks.failures += 1
        if answer.status in _HOPELESS or (events is not None and marks.failures >= MOST_EMPTY):
            marks.failures = 0
            for hole in marks.holes:
                if hole.missing[0][0] == asked[0]:
                    hole.hopeless = True
            self._backfill(symbol, marks)
        else:
            self._backfill(symbol, marks, _delay_s(marks.failures))


def _delay_s(failures: int) -> float:
    return min(2.0 ** (failures - 1), MOST_DELAY_S)
