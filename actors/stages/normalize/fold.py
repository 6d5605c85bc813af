"""The normalizer's fold: lines of ``raw`` become events, requests to the connector and dead letters.

Frames are decoded by the venue with their connection's notes. What they say goes to ``trades``, each of
which passes once, and to ``connections``, where it is kept what each was asked for and whether it gives it.
Book frames of every connection pass, with its name; of all else only the active connection's. Answers by
REST go to ``answers``.
"""

import base64
import binascii
from collections.abc import Iterable
from typing import ClassVar, Final, cast

import msgspec

from actors.model.errors import Foreign, Unparseable
from actors.model.events import (
    L1,
    BookDelta,
    BookSnapshot,
    Cause,
    Channel,
    Event,
    Funding,
    Liquidation,
    OpenInterest,
    StatusState,
    Tick,
    Ticker,
    Trade,
)
from actors.model.instruments import Instrument
from actors.stages.fold import JumpCause, Output
from actors.stages.normalize.answers import Answers, Retry
from actors.stages.normalize.connections import Connections, Lost
from actors.stages.normalize.instruments import Instruments
from actors.stages.normalize.marks import Marks
from actors.stages.normalize.recent import Recent
from actors.stages.normalize.sink import Sink
from actors.stages.normalize.subscriptions import BEST_FIRST, Conn, Ledger
from actors.stages.normalize.trades import Trades
from actors.stages.raw import Closed, LegsAlive
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
_TELLING: Final[frozenset[Channel]] = frozenset(("ticker", "funding"))  # perhaps of more than themselves


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
    snapshots: dict[tuple[str, str], Retry] = {}


class Normalize:
    """The fold of one partition. ``state``: an earlier ``dump``, or None to begin."""

    FORMAT: ClassVar[int] = 1

    def __init__(self, venue: Venue, partition: str, state: bytes | None = None) -> None:
        self._venue = venue
        self._decode = venue.decode
        was = self._state = _State() if state is None else msgspec.msgpack.decode(state, type=_State)
        sink = self._sink = Sink(ROLE, venue.name, partition, Output(()))
        sink.now = was.now
        self._connections = Connections(venue, was.ledger, sink)
        self._instruments = Instruments(venue.name, was.instruments, was.unknown, sink)
        self._trades = Trades(venue, was.marks, was.recent, was.ledger, sink)
        self._take_trade = self._trades.take
        self._answers = Answers(
            venue,
            was.instruments,
            was.snapshots,
            connections=self._connections,
            trades=self._trades,
            sink=sink,
        )
        self._rate_alone = venue.rate_alone
        # Of these nothing later would tell that a frame is missing.
        self._blind: set[Channel] = set()
        if venue.trade_ids != "contiguous":
            self._blind.add("trade")
        if venue.book_rule.blind:
            self._blind.add("book")
        self._open: dict[bytes, tuple[str, Conn, Scratch]] = {}
        for name, conn in was.ledger.conns.items():
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
        if len(self._open) > len(self._state.ledger.conns):
            self._let_go()
        return bound

    def _let_go(self) -> None:
        """Let go of connections that the ledger has forgotten."""
        conns = self._state.ledger.conns
        self._open = {text: bound for text, bound in self._open.items() if bound[0] in conns}

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
        self._sink.gap(None, None, cause, first, last)
        self._trades.missed(cause)
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
                if (again := self._instruments.take(payload)) is not None:
                    self._connections.relisted(again)
            case b"h":
                self._answers.take(name, recv, msgspec.json.decode(payload, type=Answer), line)
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
        self._let_go()
        self._answers.forget_closed()

    def _lost(self, items: Iterable[Lost], cause: Cause = "disconnect") -> None:
        """Say what connections leave missing."""
        for lost in items:
            channel, symbol = lost.item
            if channel == "trade":
                self._trades.lost(lost, cause)
            elif lost.last:
                self._sink.gap(symbol, channel, cause, lost.seq)

    def _tick(self, legs: list[str]) -> None:
        self._lost(self._connections.tick(legs))
        if self._connections.after_outage:
            self._trades.wait_anew()
        else:
            self._trades.tick()
        self._sink.event(Tick(self._venue.name, None, None, self._sink.now, None))

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
            self._sink.unparseable(e, line)
            self._unread(name, conn, frame, e)
            return
        for said in decoded:
            if not isinstance(said, Event):
                self._control(name, conn, said, line)
                continue
            channel, symbol = _CHANNELS[type(said)], said.symbol or ""
            if channel in _TELLING and self._tells(conn, said, (channel, symbol)):
                continue
            sub = conn.subs.get((channel, symbol))
            if sub is None or sub.state != "live":
                sub = self._connections.heard(name, conn, (channel, symbol))
            else:
                sub.since = now
            sub.seq = said.seq
            if channel == "trade":
                sub.moved_since = 0  # it explains what its ticker says
                self._take_trade(symbol, cast("Trade", said), sub)
            elif sub.active or channel == "book":
                self._sink.event(said)

    def _tells(self, conn: Conn, said: Event, item: Item) -> bool:
        """Look at what an event tells of other items than its own; return whether of those alone."""
        if isinstance(said, Ticker):
            self._connections.priced(conn, item[1], said.last)
        elif self._rate_alone and cast("Funding", said).rate is None:
            if self._connections.beside(conn, item):
                self._sink.event(said)
            return True
        return False

    def _unread(self, name: str, conn: Conn, frame: bytes, e: Unparseable) -> None:
        """Say what may be missing with a frame that cannot be read, where nothing later would tell.

        That is of the instruments that it names, and of all where it names none at all.
        """
        may_be = self._blind if e.channel is None else self._blind & {e.channel}
        if not may_be:
            return
        named = self._instruments.named(frame)
        if not named and isinstance(e, Foreign):
            return
        if "trade" in may_be:
            lost = (one for one in self._connections.holed(conn) if one.item[0] == "trade")
            self._lost([one for one in lost if not named or one.item[1] in named], "sequence")
        if "book" in may_be:
            for of, symbol in conn.subs:
                if of == "book" and (not named or symbol in named):
                    self._sink.gap(symbol, "book", "sequence", conn=name)

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
                self._connections.beats(conn, said.symbol)
                self._trades.latest(conn, said)
            case Missed():
                self._lost(self._connections.holed(conn), "sequence")
            case Ignored():
                self._sink.count("tapeline_ignored_total", said.reason)
