"""The alignment machine: one book of one connection, put together and proved by its venue's ``BookRule``.

States::

    waiting   there is no book. ``rest``: deltas are buffered; ``stream``, ``every``: dropped
    joined    ``book`` is the venue's at ``seq``, as far as the rule can prove it

Events and what they do::

                waiting                                   joined
    delta       rest: buffer it; try the held snapshot    old: ignored; continues: applied; else, or if
                stream, every: dropped                    no known level is left: a fault -> waiting
    snapshot    touches the buffer -> joined              rest: ignored, unless a new one was asked
                older than the buffer -> ask again        for because the book got thin -> replaced
                rest, no delta yet -> held                stream, every: -> replaced
    tick        asks (again) when due                     crossed or old for too long: a fault -> waiting
                                                          (opened crossed twice by the stream: far longer);
                                                          thin: asks for a new snapshot, stays joined
    fault       a buffer that overflows: dropped,         buffers what showed it (rest), asks
                stays waiting

No pair is illegal: whatever a venue sends leads to a joined book or to a request. A delta that lacks
the numbers its rule reads raises ``Unparseable``: the decoder promised them. Time is fold time, ns.

A snapshot newer than all that is buffered joins at once: the stream is known unbroken from its first
buffered delta, which the snapshot includes, so the next delta touches it or shows a hole. Where no number
tells what touches (join ``none``), one older than anything that was seen is asked for again.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from actors.model.errors import Unparseable
from actors.model.events import SECOND, BookDelta, BookSnapshot, Cause, Level, Unit
from actors.stages.book import Levels
from actors.stages.checksum import CHECKSUMS, Checksum
from actors.venues.base import BookRule

BUFFER_DELTAS: Final = 4096  # chosen: over six minutes of a 100 ms stream
BUFFER_BYTES: Final = 4 * 1024 * 1024  # chosen: of event lines, a candidate
ANSWER_S: Final = 4  # chosen: a request unanswered for so long is made again, then after twice as long
ANSWER_MOST_S: Final = 60
AGAIN_S: Final = 1  # binance.md 5.3: wait 0.5-1 s before asking again for a snapshot that was too old
AGAIN_MOST_S: Final = 30
CALM_S: Final = 60  # chosen: a book joined for so long may ask at once when it is lost again
GRACE_S: Final = 3  # chosen: a stream that opens with a snapshot gets so long to send it
CROSSED_S: Final = 2  # chosen: longer than any venue needs to send both halves of a crossing
AUCTION_S: Final = 600  # chosen: a stream that opens crossed twice running means it (a call auction), so long
OLD_S: Final = 5  # chosen: only old deltas for so long means that the venue began to count anew
OLD_FRESH_S: Final = 30  # the same right after a snapshot, which a late stream has to catch up with
BACKWARDS_NS: Final = SECOND  # binance.md 5.3: resync when the event time jumps back
NEVER_TRADED: Final = -1  # binance.md 5.3: lastUpdateId of a market without any order yet

ITEM: Final = 1  # what is silent
CONNECTION: Final = 2

Outcome = Literal["old", "kept", "applied", "joined", "replaced", "lost"]
Relation = Callable[[BookDelta, int | None], int]

_OLD: Final = -1
_FOLLOWS: Final = 0
_BEYOND: Final = 1


def _number(value: int | None, delta: BookDelta, name: str) -> int:
    if value is None:
        raise Unparseable(f"book_delta of {delta.symbol} has no {name}, which its book rule reads")
    return value


def _range(delta: BookDelta, seq: int | None) -> int:
    first, last = delta.first_seq, delta.last_seq
    if first is None or last is None or seq is None:
        _number(first, delta, "first_seq")
        _number(last, delta, "last_seq")
        raise Unparseable(f"the book of {delta.symbol} has no seq, which its book rule reads")
    if last <= seq:
        return _OLD
    return _FOLLOWS if first <= seq + 1 else _BEYOND


def _next(delta: BookDelta, seq: int | None) -> int:
    last = _number(delta.last_seq, delta, "last_seq")
    at = _number(seq, delta, "seq to follow")
    if last <= at:
        return _OLD
    first = last if delta.first_seq is None else delta.first_seq
    return _FOLLOWS if first == at + 1 else _BEYOND


def _pointer(delta: BookDelta, seq: int | None) -> int:
    # okx.md 5.2: the sequence goes back at a venue's reset, so a lower one proves no age. Old is only
    # what says again what was said last.
    if _number(delta.prev_seq, delta, "prev_seq") == seq:
        return _FOLLOWS
    return _OLD if delta.last_seq is not None and delta.last_seq == seq else _BEYOND


def _overlap(delta: BookDelta, seq: int | None) -> int:
    # binance_usdm.md 5.3: sequences are the engine's, of all its books, so the first change after a
    # snapshot either points at it or began before it.
    if delta.prev_seq == seq:
        return _FOLLOWS
    at = _number(seq, delta, "seq to follow")
    if _number(delta.last_seq, delta, "last_seq") <= at:
        return _OLD
    return _FOLLOWS if _number(delta.first_seq, delta, "first_seq") <= at else _BEYOND


def _none(delta: BookDelta, seq: int | None) -> int:
    return _OLD if delta.last_seq is not None and seq is not None and delta.last_seq <= seq else _FOLLOWS


_RELATIONS: Final[Mapping[str, Relation]] = {
    "range": _range,
    "next": _next,
    "pointer": _pointer,
    "overlap": _overlap,
    "none": _none,
}


class Alignment:
    """A ``BookRule`` made ready: its words looked up once."""

    __slots__ = ("chains", "checksum", "joins", "rule")

    def __init__(self, rule: BookRule, checksums: Mapping[str, Checksum] = CHECKSUMS) -> None:
        """Look the rule's words up.

        Raises:
            ValueError: The rule names a checksum that does not exist.
        """
        if rule.checksum is not None and rule.checksum not in checksums:
            known = ", ".join(sorted(checksums))
            raise ValueError(f"book rule: no checksum is called {rule.checksum!r}; known: {known}")
        self.rule = rule
        self.joins = _RELATIONS[rule.join]
        self.chains = _RELATIONS[rule.chain]
        self.checksum = None if rule.checksum is None else checksums[rule.checksum]


class Fault(NamedTuple):
    """Why a book was lost, and the sequences that are missing or in doubt (None: not known).

    ``cause`` None: nothing of the venue's is missing.
    """

    cause: Cause | None
    first: str | None
    last: str | None
    reason: str


class SyncState(msgspec.Struct, array_like=True):
    """A ``Sync`` as data, for the checkpoint."""

    conn: str
    joined: bool
    fresh: bool
    seq: int | None
    ts_event: int | None
    unit: Unit
    limit: int | None
    bids: tuple[list[Level], str | None]
    asks: tuple[list[Level], str | None]
    buffer: list[BookDelta]
    buffered_bytes: int
    held: BookSnapshot | None
    refreshing: bool
    due: int | None
    attempts: int
    joined_at: int
    crossed_since: int | None
    old_since: int | None
    silence: int
    reason: str
    crossed_openings: int = 0


class Sync:
    """One book of one connection.

    Attributes:
        conn: Connection id.
        book: The levels, in the venue's own digits and unit; meaningful while ``joined``. A join makes
            a new object and never touches the former one.
        seq: The venue's number of the last change in ``book``.
        ts_event: The venue's time of that change.
        changes: What the last applied delta changed: (bids, asks).
        fault: Why the book was lost, after the outcome ``lost``.
        due: Fold time at which to ask for a snapshot (or a new subscription), None: nothing to ask.
        crossed_since: Fold time since when bid and ask are crossed, None: they are not.
        silence: What was reported silent since the last frame: ``ITEM`` (this book), ``CONNECTION``
            (all of it), their sum, or 0.
        reason: What the next request is for.
    """

    __slots__ = (
        "_alignment",
        "_attempts",
        "_buffer",
        "_buffered_bytes",
        "_chains",
        "_crossed_openings",
        "_fresh",
        "_held",
        "_joined_at",
        "_limit",
        "_old_since",
        "_open_end",
        "_refreshing",
        "_rest",
        "book",
        "changes",
        "conn",
        "crossed_since",
        "due",
        "fault",
        "joined",
        "reason",
        "seq",
        "silence",
        "ts_event",
        "unit",
    )

    def __init__(self, alignment: Alignment, conn: str, now: int) -> None:
        rule = alignment.rule
        self._alignment = alignment
        self._chains = alignment.chains
        self._rest = rule.snapshot == "rest"
        self._open_end = self._rest or rule.open_end
        self.conn = conn
        self.joined = False
        self.silence = 0
        self.reason = "first snapshot"
        self.seq: int | None = None
        self.ts_event: int | None = None
        self.unit: Unit = "base"
        self.book = Levels()
        self.changes: tuple[list[Level], list[Level]] = ([], [])
        self.fault: Fault | None = None
        self.crossed_since: int | None = None
        self._crossed_openings = 0  # of the stream, one after another
        self.due: int | None = None
        if rule.snapshot != "every":
            self.due = now if self._rest else now + GRACE_S * SECOND
        self._limit: int | None = None
        self._fresh = False
        self._buffer: list[BookDelta] = []
        self._buffered_bytes = 0
        self._held: BookSnapshot | None = None
        self._refreshing = False
        self._attempts = 0
        self._joined_at = now
        self._old_since: int | None = None

    # What comes in

    def delta(self, delta: BookDelta, weight: int, now: int) -> Outcome:
        """Take a delta of ``weight`` bytes."""
        self.silence = 0
        if not self.joined:
            return self._wait(delta, weight, now)
        step = self._touches(delta, self.seq) if self._fresh else self._chains(delta, self.seq)
        if step == _OLD:
            return self._old(delta, weight, now)
        ts_event = delta.ts_event
        if step == _BEYOND:
            return self._lose(self._hole(delta), now, delta, weight)
        if ts_event is not None:
            if self.ts_event is not None and ts_event < self.ts_event - BACKWARDS_NS:
                fault = Fault("sequence", _text(self.seq), _text(delta.last_seq), "event time went back")
                return self._lose(fault, now, delta, weight)
            self.ts_event = ts_event
        return self._apply(delta, weight, now)

    def _apply(self, delta: BookDelta, weight: int, now: int) -> Outcome:
        book, last = self.book, delta.last_seq
        if delta.level_seqs is None:
            self.changes = book.update(delta.bids, delta.asks)
        else:
            self.changes = book.update(*_newer(delta, self.seq))
        if last is not None:
            self.seq = last
        self._fresh = False
        self._old_since = None
        if self._alignment.checksum is not None and not self._proved(delta.checksum):
            fault = Fault("checksum", _text(self.seq), _text(self.seq), "checksum differs")
            return self._lose(fault, now, None, 0)
        if book.crossed:
            if self.crossed_since is None:
                self.crossed_since = now
        else:
            self.crossed_since = None
            self._crossed_openings = 0
            if not (book.bids.keys and book.asks.keys) and book.spent:
                fault = Fault(None, None, None, "the market left the known levels")
                return self._lose(fault, now, None, 0)
        if self._refreshing and self._rest:
            self._keep(delta, weight)
        return "applied"

    def snapshot(self, snapshot: BookSnapshot, now: int) -> Outcome:
        """Take a snapshot: the answer to a request, or the stream's own."""
        if not self._rest:
            self.silence = 0
            return self._take(snapshot, [], now)
        if self.joined:
            return self._join_later(snapshot, now) if self._refreshing else "old"
        if not self._buffer and not self._is_behind(snapshot):  # not a failure: the next delta decides
            self._held = snapshot
            self.due = None
            return "kept"
        return self._join_later(snapshot, now)

    def tick(self, now: int) -> Outcome:
        """Let time pass."""
        if not self.joined:
            return "kept"
        most_s = AUCTION_S if self._crossed_openings > 1 else CROSSED_S
        if self.crossed_since is not None and now - self.crossed_since > most_s * SECOND:
            fault = Fault("crossed", _text(self.seq), None, f"crossed for more than {most_s} s")
            return self._lose(fault, now, None, 0)
        if not self._refreshing and self.book.thin:
            self._refreshing = True
            self._attempts = 0
            self.reason = "few levels are left of the last snapshot"
            self.due = now
        return "kept"

    def ask(self, now: int) -> bool:
        """Tell whether to ask for a snapshot now (a new subscription where the stream brings it).

        It then counts as asked: the next time is when no answer came in a growing while.
        """
        if self.due is None or now < self.due:
            return False
        self._attempts += 1
        self.due = now + _delay(ANSWER_S, self._attempts, ANSWER_MOST_S)
        return True

    # Waiting

    def _wait(self, delta: BookDelta, weight: int, now: int) -> Outcome:
        if not self._rest:
            return "kept"
        if not self._keep(delta, weight):
            first, last = self._buffer[0], self._buffer[-1]
            self._drop_buffer()
            self._keep(delta, weight)
            self.reason = "too many changes came before a snapshot"
            start = first.last_seq if first.first_seq is None else first.first_seq
            self.fault = Fault("overflow", _text(start), _text(last.last_seq), self.reason)
            return "lost"
        if self._held is not None:
            held, self._held = self._held, None  # what follows it need not have begun before it
            return self._join(held, now)
        return "kept"

    def _keep(self, delta: BookDelta, weight: int) -> bool:
        if len(self._buffer) >= BUFFER_DELTAS or self._buffered_bytes + weight > BUFFER_BYTES:
            if self._refreshing:  # the book stands without; the next tick begins again
                self._refreshing = False
                self.due = None
                self._drop_buffer()
            if self._buffer:
                return False
        self._buffer.append(delta)
        self._buffered_bytes += weight
        return True

    def _drop_buffer(self) -> None:
        self._buffer = []
        self._buffered_bytes = 0

    def _join_later(self, snapshot: BookSnapshot, now: int) -> Outcome:
        """Join a snapshot that was asked for after the first of the buffer had come."""
        before = self._is_before_the_buffer(snapshot, _seq(snapshot))
        return self._ask_again(now) if before else self._join(snapshot, now)

    def _join(self, snapshot: BookSnapshot, now: int) -> Outcome:
        seq = _seq(snapshot)
        newer: list[BookDelta] = []
        at = seq
        for delta in self._buffer:
            step = self._chains(delta, at) if newer else self._touches(delta, at, snapshot)
            if step == _BEYOND:
                return self._ask_again(now)
            if step == _FOLLOWS:
                newer.append(delta)
                at = at if delta.last_seq is None else delta.last_seq
        return self._take(snapshot, newer, now)

    def _is_before_the_buffer(self, snapshot: BookSnapshot, seq: int | None) -> bool:
        if _never_traded(snapshot):
            return False
        if not self._buffer:  # only a refresh gets here: nothing came since it began
            return seq is not None and self.seq is not None and seq < self.seq
        oldest = self._buffer[0]
        match self._alignment.rule.join:
            case "range":
                first = oldest.first_seq
            case "none":
                first = oldest.last_seq
            case _:
                return False
        # binance.md 5.3, step 2: strictly, though one that ends just before would touch
        return seq is not None and first is not None and seq < first

    def _is_behind(self, snapshot: BookSnapshot) -> bool:
        """Tell whether a snapshot lacks what was seen before, where the next delta would not show it."""
        seq = _seq(snapshot)
        blind = self._alignment.rule.join == "none"
        return blind and seq is not None and self.seq is not None and seq < self.seq

    def _ask_again(self, now: int) -> Outcome:
        self.reason = "the snapshot was older than the buffer"
        self.due = now + _delay(AGAIN_S, self._attempts, AGAIN_MOST_S)
        return "kept"

    def _take(self, snapshot: BookSnapshot, newer: list[BookDelta], now: int) -> Outcome:
        depths = [d for d in (self._alignment.rule.depth, snapshot.depth) if d is not None]
        self._limit = min(depths) if depths else None
        self.book = Levels(self._limit, open_end=self._open_end)
        self.book.load(snapshot.bids, snapshot.asks)
        self.seq = _seq(snapshot)
        self.ts_event = snapshot.ts_event
        self.unit = snapshot.unit
        checksum = snapshot.checksum
        for delta in newer:
            self.book.update(*_newer(delta, self.seq))
            self.seq = self.seq if delta.last_seq is None else delta.last_seq
            self.ts_event = self.ts_event if delta.ts_event is None else delta.ts_event
            checksum = delta.checksum
        was_joined = self.joined
        self.joined = True
        self.due = None
        self._fresh = not newer
        self._refreshing = False
        self._held = None
        self._old_since = None
        self._drop_buffer()
        if not was_joined:
            self._joined_at = now
        self.crossed_since = now if self.book.crossed else None
        if self.crossed_since is None:
            self._crossed_openings = 0
        elif not self._rest:
            self._crossed_openings += 1
        if not self._proved(checksum):
            fault = Fault("checksum", _text(self.seq), _text(self.seq), "checksum of the snapshot differs")
            return self._lose(fault, now, None, 0)
        return "replaced" if was_joined else "joined"

    # Joined

    def _touches(self, delta: BookDelta, seq: int | None, snapshot: BookSnapshot | None = None) -> int:
        # A market without any order yet gives no number to touch: any first delta does.
        never_traded = self.book.empty if snapshot is None else _never_traded(snapshot)
        return _FOLLOWS if seq == NEVER_TRADED and never_traded else self._alignment.joins(delta, seq)

    def _old(self, delta: BookDelta, weight: int, now: int) -> Outcome:
        if self._old_since is None:
            self._old_since = now
        elif now - self._old_since > (OLD_FRESH_S if self._fresh else OLD_S) * SECOND:
            at = None if self.seq is None else str(self.seq + 1)
            return self._lose(Fault("sequence", at, None, "the venue counts anew"), now, delta, weight)
        return "old"

    def _hole(self, delta: BookDelta) -> Fault:
        first = None if self.seq is None else str(self.seq + 1)
        if delta.prev_seq is not None:
            last = str(delta.prev_seq)
        else:
            start = delta.first_seq if delta.first_seq is not None else delta.last_seq
            last = None if start is None else str(start - 1)
        return Fault("sequence", first, last, "sequence jumped")

    def _proved(self, checksum: int | None) -> bool:
        named = self._alignment.checksum
        return named is None or checksum is None or named(self.book) == checksum

    def _lose(self, fault: Fault, now: int, delta: BookDelta | None, weight: int) -> Outcome:
        self.fault = fault
        self.reason = fault.reason
        self.joined = False
        self.crossed_since = None
        self._fresh = False
        self._refreshing = False
        self._held = None
        self._old_since = None
        self._drop_buffer()
        if self._rest and delta is not None:
            self._keep(delta, weight)
        if now - self._joined_at > CALM_S * SECOND:
            self._attempts = 0
        if self._alignment.rule.snapshot != "every":
            self.due = now + (_delay(AGAIN_S, self._attempts, AGAIN_MOST_S) if self._attempts > 1 else 0)
        return "lost"

    # Checkpoint

    def dump(self) -> SyncState:
        """Return everything that decides what comes next."""
        return SyncState(
            conn=self.conn,
            joined=self.joined,
            fresh=self._fresh,
            seq=self.seq,
            ts_event=self.ts_event,
            unit=self.unit,
            limit=self._limit,
            bids=self.book.bids.dump() if self.joined else ([], None),
            asks=self.book.asks.dump() if self.joined else ([], None),
            buffer=self._buffer,
            buffered_bytes=self._buffered_bytes,
            held=self._held,
            refreshing=self._refreshing,
            due=self.due,
            attempts=self._attempts,
            joined_at=self._joined_at,
            crossed_since=self.crossed_since,
            old_since=self._old_since,
            silence=self.silence,
            reason=self.reason,
            crossed_openings=self._crossed_openings,
        )

    @classmethod
    def load(cls, alignment: Alignment, state: SyncState) -> "Sync":
        """Return the machine that ``dump`` described."""
        sync = cls(alignment, state.conn, state.joined_at)
        sync.joined = state.joined
        sync.seq = state.seq
        sync.ts_event = state.ts_event
        sync.unit = state.unit
        sync.due = state.due
        sync.crossed_since = state.crossed_since
        sync.silence = state.silence
        sync.reason = state.reason
        sync._crossed_openings = state.crossed_openings
        sync._limit = state.limit
        sync.book = Levels(state.limit, open_end=sync._open_end)
        sync.book.bids.restore(*state.bids)
        sync.book.asks.restore(*state.asks)
        sync._fresh = state.fresh
        sync._buffer = state.buffer
        sync._buffered_bytes = state.buffered_bytes
        sync._held = state.held
        sync._refreshing = state.refreshing
        sync._attempts = state.attempts
        sync._old_since = state.old_since
        return sync


def _delay(first_s: int, attempts: int, most_s: int) -> int:
    return min(first_s << min(max(attempts - 1, 0), 16), most_s) * SECOND


def _newer(delta: BookDelta, seq: int | None) -> tuple[list[Level], list[Level]]:
    """Return what ``delta`` changes after ``seq``; all of it where its levels bear no numbers."""
    numbers = delta.level_seqs
    if numbers is None or seq is None or delta.first_seq is None or delta.first_seq > seq:
        return delta.bids, delta.asks
    of_asks = numbers[len(delta.bids) :]
    return (
        [level for level, number in zip(delta.bids, numbers, strict=False) if number > seq],
        [level for level, number in zip(delta.asks, of_asks, strict=True) if number > seq],
    )


def _seq(snapshot: BookSnapshot) -> int | None:
    return snapshot.seq if snapshot.last_seq is None else snapshot.last_seq


def _never_traded(snapshot: BookSnapshot) -> bool:
    return _seq(snapshot) == NEVER_TRADED and not snapshot.bids and not snapshot.asks


def _text(seq: int | None) -> str | None:
    return None if seq is None else str(seq)
