"""The alignment machine: one book of one connection, put together and proved by its venue's ``BookRule``.

``alignment`` says what touches what, ``buffer`` keeps what came before its snapshot, ``asking`` when to ask.

States::

    waiting   there is no book. ``rest``: deltas are buffered; ``stream``, ``every``: dropped
    joined    ``book`` is the venue's at ``seq``, as far as the rule can prove it

Events and what they do::

                waiting                                   joined
    delta       rest: buffer it; try the held snapshot    old: ignored; continues: applied; else, or if
                stream, every: dropped                    no known level is left: a fault -> waiting
    snapshot    touches the buffer -> joined              rest: newer, or a new one was asked for because
                older than the buffer -> ask again        the book got thin -> replaced; else ignored
                rest, no delta yet -> held                stream, every: -> replaced
    tick        asks (again) when due; what is held and   crossed or old for too long: a fault -> waiting
                no delta has followed -> joined           (opened crossed twice by the stream: far longer);
                                                          thin: asks for a new snapshot, stays joined
    doubt       the buffer is dropped; rest: asks only    a fault -> waiting
                once another delta has come
    audit       nothing                                   differs: a fault -> waiting
    fault       a buffer that overflows: dropped,         buffers what showed it (rest), asks
                stays waiting

No pair is illegal: whatever a venue sends leads to a joined book or to a request. A delta that lacks
the numbers its rule reads raises ``Unparseable``: the decoder promised them. Time is fold time, ns.

A snapshot newer than all that is buffered joins at once: the stream is known unbroken from its first
buffered delta, which the snapshot includes, so the next delta touches it or shows a hole. One that is older
than anything that was seen is asked for again: it would do until the next delta only.
"""

from typing import Final, Literal
from zlib import crc32

import msgspec

from actors.model.events import SECOND, BookDelta, BookSnapshot, Level, Unit, Verified
from actors.stages.book import Levels
from actors.stages.bookbuild.alignment import (
    FOLLOWS,
    OLD,
    Alignment,
    Fault,
    changes_after,
    hole,
    never_traded,
    seq_of,
)
from actors.stages.bookbuild.asking import Asking
from actors.stages.bookbuild.audit import Audit, Step
from actors.stages.bookbuild.buffer import Buffer

STILL_S: Final = 3  # chosen: a snapshot that no change follows for so long is the book
GRACE_S: Final = 3  # chosen: a stream that opens with a snapshot gets so long to send it
CROSSED_S: Final = 2  # chosen: longer than any venue needs to send both halves of a crossing
AUCTION_S: Final = 600  # chosen: a stream that opens crossed twice running means it (a call auction), so long
OLD_S: Final = 5  # chosen: only old deltas for so long means that the venue began to count anew
OLD_FRESH_S: Final = 30  # the same right after a snapshot, which a late stream has to catch up with
BACKWARDS_NS: Final = SECOND  # binance.md 5.3: resync when the event time jumps back

ITEM: Final = 1  # what is silent
CONNECTION: Final = 2

_LEFT: Final = Fault(None, None, None, "the market left the known levels")

Outcome = Literal["old", "kept", "applied", "joined", "replaced", "lost"]


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
    doubted: bool = False
    audit: Audit | None = None


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
        crossed_since: Fold time since when bid and ask are crossed, None: they are not.
        doubted: Of ``rest``: a snapshot may lack what was not heard or not read, until a delta tells.
        silence: What was reported silent since the last frame: ``ITEM`` (this book), ``CONNECTION``
            (all of it), their sum, or 0.
        verified: What it may claim now.
    """

    __slots__ = (
        "_alignment", "_asking", "_audit", "_buffer", "_chains", "_crossed_openings", "_fresh",
        "_held", "_joined_at", "_limit", "_old_since", "_open_end", "_place", "_refreshing", "_rest", "book",
        "changes", "conn", "crossed_since", "doubted", "fault", "joined", "seq", "silence", "ts_event",
        "unit", "verified",
    )  # fmt: skip

    def __init__(self, alignment: Alignment, conn: str, now: int, symbol: str = "") -> None:
        """Wait for the book of ``symbol``, whose name tells when its audits are due."""
        rule = alignment.rule
        self._alignment = alignment
        self._chains = alignment.chains
        self._rest = rule.snapshot == "rest"
        self._open_end = self._rest or rule.open_end
        self.conn = conn
        self.joined = False
        self.silence = 0
        self.seq: int | None = None
        self.ts_event: int | None = None
        self.unit: Unit = "base"
        self.book = Levels()
        self.changes: tuple[list[Level], list[Level]] = ([], [])
        self.fault: Fault | None = None
        self.crossed_since: int | None = None
        self._crossed_openings = 0  # of the stream, one after another
        first = now if self._rest else now + GRACE_S * SECOND
        self._asking = Asking(None if rule.snapshot == "every" else first)
        self._limit: int | None = None
        self._fresh = False
        self._buffer = Buffer()
        self._held: BookSnapshot | None = None
        self._refreshing = False
        self._joined_at = now
        self._old_since: int | None = None
        self.doubted = False
        self._place = crc32(symbol.encode())
        self._audit: Audit | None = None  # of a joined book
        self.verified: Verified = "none" if rule.audit_s else rule.verified

    # What comes in

    def delta(self, delta: BookDelta, weight: int, now: int) -> Outcome:
        """Take a delta of ``weight`` bytes."""
        self.silence = 0
        if not self.joined:
            return self._wait(delta, weight, now)
        if self._fresh:
            step = self._alignment.touches(delta, self.seq, untraded=self.book.empty)
        else:
            step = self._chains(delta, self.seq)
        if step != FOLLOWS:
            if step == OLD:
                return self._old(delta, weight, now)
            return self._lose(hole(delta, self.seq), now, delta, weight)
        ts_event = delta.ts_event
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
            self.changes = book.update(*changes_after(delta, self.seq))
        if last is not None:
            self.seq = last
        self._fresh = False
        self._old_since = None
        if self._audit is not None and self._audit.noting:
            self._audit.note(delta)
        checksum = delta.checksum
        if checksum is not None and not self._alignment.proves(book, checksum):
            fault = Fault("checksum", _text(self.seq), _text(self.seq), "checksum differs")
            return self._lose(fault, now, None, 0)
        if book.crossed:
            if self.crossed_since is None:
                self.crossed_since = now
        else:
            self.crossed_since = None
            self._crossed_openings = 0
            if not (book.bids.keys and book.asks.keys) and book.spent:
                return self._lose(_LEFT, now, None, 0)
        if self._refreshing and self._rest:
            self._keep(delta, weight)
        return "applied"

    def snapshot(self, snapshot: BookSnapshot, now: int) -> Outcome:
        """Take a snapshot: the answer to a request, or the stream's own."""
        if not self._rest:
            self.silence = 0
            return self._take(snapshot, [], now)
        if self.joined:
            if self._refreshing:
                return self._join_later(snapshot, now)
            return self._take(snapshot, [], now) if self._is_later(snapshot) else "old"
        if not self._buffer.deltas and self.doubted:  # it may be without what was missed
            return self._too_old(now)
        if not self._buffer.deltas and not self._is_before_the_buffer(snapshot):
            self._held = snapshot  # not a failure: the next delta decides
            self._asking.due = None
            return "kept"
        return self._join_later(snapshot, now)

    def audited(self, answer: BookSnapshot, now: int) -> None:
        """Take what the venue's REST interface says of the book; ``audit`` will tell what it means."""
        if self._audit is not None:
            self._audit.take(answer, now)

    def audit(self, now: int) -> Step | None:
        """Let time pass for the audits; return what there is to do, or what one has found; None: nothing.

        After ``differs`` the book is lost.
        """
        if not self.joined or self.silence:
            return None
        audit = self._audit or self._begin_audits(now)  # a checkpoint may have had none
        if audit is None:
            return None
        step = audit.step(self.book, self.ts_event, now)
        self.verified = "none" if audit.passed_at is None else self._alignment.rule.verified
        if step == "differs":
            self._lose(Fault("sequence", _text(self.seq), None, "the book is not the venue's"), now, None, 0)
        return step

    def doubt(self, now: int) -> Outcome:
        """Learn that a change may be missing, and that no later one would show it."""
        reason = "a frame could not be read"
        if self.joined:
            self.doubted = self._rest
            return self._lose(Fault("sequence", _text(self.seq), None, reason), now, None, 0)
        self._buffer.clear()
        self.doubted = self._rest
        if self._held is not None:
            self._held = None
            self._asking.refresh(now, reason)
        return "kept"

    def tick(self, now: int) -> Outcome:
        """Let time pass."""
        if not self.joined:
            held = self._held
            if held is None or now - held.ts_recv < STILL_S * SECOND:
                return "kept"
            return self._take(held, [], now)
        most_s = AUCTION_S if self._crossed_openings > 1 else CROSSED_S
        if self.crossed_since is not None and now - self.crossed_since > most_s * SECOND:
            fault = Fault("crossed", _text(self.seq), None, f"crossed for more than {most_s} s")
            return self._lose(fault, now, None, 0)
        if not self._refreshing and self.book.thin:
            self._refreshing = True
            self._asking.refresh(now, "few levels are left of the last snapshot")
        return "kept"

    @property
    def due(self) -> int | None:
        """Fold time at which to ask for a snapshot (or a new subscription), None: nothing to ask.

        While in doubt no answer would do: the change that ends it asks.
        """
        return None if self.doubted else self._asking.due

    @property
    def reason(self) -> str:
        """What the next request is for."""
        return self._asking.reason

    def ask(self, now: int) -> bool:
        """Tell whether to ask for a snapshot now (a new subscription where the stream brings it)."""
        return not self.doubted and self._asking.ask(now)

    # Waiting

    def _wait(self, delta: BookDelta, weight: int, now: int) -> Outcome:
        if not self._rest:
            return "kept"
        if not self._keep(delta, weight):
            first, last = self._buffer.deltas[0], self._buffer.deltas[-1]
            self._buffer.clear()
            self._keep(delta, weight)
            reason = self._asking.reason = "too many changes came before a snapshot"
            start = first.last_seq if first.first_seq is None else first.first_seq
            self.fault = Fault("overflow", _text(start), _text(last.last_seq), reason)
            return "lost"
        if self._held is not None:
            held, self._held = self._held, None  # what follows it need not have begun before it
            return self._join(held, now)
        return "kept"

    def _keep(self, delta: BookDelta, weight: int) -> bool:
        if self._buffer.is_full(weight):
            if self._refreshing:  # the book stands without; the next tick begins again
                self._refreshing = False
                self._asking.due = None
                self._buffer.clear()  # this one too: those that come before the tick are not kept
                return True
            if self._buffer.deltas:
                return False
        self._buffer.add(delta, weight)
        self.doubted = False
        return True

    def _join_later(self, snapshot: BookSnapshot, now: int) -> Outcome:
        """Join a snapshot that was asked for after the first of the buffer had come."""
        return self._too_old(now) if self._is_before_the_buffer(snapshot) else self._join(snapshot, now)

    def _join(self, snapshot: BookSnapshot, now: int) -> Outcome:
        newer = self._alignment.continuing(snapshot, self._buffer.deltas)
        return self._too_old(now) if newer is None else self._take(snapshot, newer, now)

    def _too_old(self, now: int) -> Outcome:
        self._asking.too_old(now)
        return "kept"

    def _is_before_the_buffer(self, snapshot: BookSnapshot) -> bool:
        if never_traded(snapshot):
            return False
        if not self._buffer.deltas:  # what was seen last is what it must not be without
            return self._is_earlier(snapshot)
        return self._alignment.is_before(snapshot, self._buffer.deltas[0])

    def _is_earlier(self, snapshot: BookSnapshot) -> bool:
        seq = seq_of(snapshot)
        return seq is not None and self.seq is not None and seq < self.seq

    def _is_later(self, snapshot: BookSnapshot) -> bool:
        seq = seq_of(snapshot)
        return seq is not None and self.seq is not None and seq > self.seq

    def _take(self, snapshot: BookSnapshot, newer: list[BookDelta], now: int) -> Outcome:
        depths = [d for d in (self._alignment.rule.depth, snapshot.depth) if d is not None]
        self._limit = min(depths) if depths else None
        self.book = Levels(self._limit, open_end=self._open_end)
        self.book.load(snapshot.bids, snapshot.asks)
        self.seq = seq_of(snapshot)
        self.ts_event = snapshot.ts_event
        self.unit = snapshot.unit
        checksum = snapshot.checksum
        for delta in newer:
            self.book.update(*changes_after(delta, self.seq))
            self.seq = self.seq if delta.last_seq is None else delta.last_seq
            self.ts_event = self.ts_event if delta.ts_event is None else delta.ts_event
            checksum = delta.checksum
        was_joined = self.joined
        self.joined = True
        self._asking.due = None
        self._fresh = not newer
        self._refreshing = False
        self._held = None
        self._old_since = None
        self._buffer.clear()
        if not was_joined:
            self._joined_at = now
        if not (was_joined and self._rest):
            self._begin_audits(now)
        elif self._audit is not None:
            self._audit.restart(now)
        self.crossed_since = now if self.book.crossed else None
        if self.crossed_since is None:
            self._crossed_openings = 0
        elif not self._rest:
            self._crossed_openings += 1
        if not self._alignment.proves(self.book, checksum):
            fault = Fault("checksum", _text(self.seq), _text(self.seq), "checksum of the snapshot differs")
            return self._lose(fault, now, None, 0)
        if self.book.spent:
            return self._lose(_LEFT, now, None, 0)
        return "replaced" if was_joined else "joined"

    def _begin_audits(self, now: int) -> Audit | None:
        every_s = self._alignment.rule.audit_s
        if every_s:
            self._audit = Audit.of(every_s, now, self._place)
            self.verified = "none"
        return self._audit

    # Joined

    def _old(self, delta: BookDelta, weight: int, now: int) -> Outcome:
        if self._old_since is None:
            self._old_since = now
        elif now - self._old_since > (OLD_FRESH_S if self._fresh else OLD_S) * SECOND:
            at = None if self.seq is None else str(self.seq + 1)
            return self._lose(Fault("sequence", at, None, "the venue counts anew"), now, delta, weight)
        return "old"

    def _lose(self, fault: Fault, now: int, delta: BookDelta | None, weight: int) -> Outcome:
        self.fault = fault
        self.joined = False
        self._audit = None
        self.crossed_since = None
        self._fresh = False
        self._refreshing = False
        self._held = None
        self._old_since = None
        self._buffer.clear()
        if self._rest and delta is not None:
            self._keep(delta, weight)
        may_ask = self._alignment.rule.snapshot != "every"
        self._asking.lost(now, fault.reason, self._joined_at, may_ask=may_ask)
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
            buffer=self._buffer.deltas,
            buffered_bytes=self._buffer.weight,
            held=self._held,
            refreshing=self._refreshing,
            due=self._asking.due,
            attempts=self._asking.attempts,
            joined_at=self._joined_at,
            crossed_since=self.crossed_since,
            old_since=self._old_since,
            silence=self.silence,
            reason=self._asking.reason,
            crossed_openings=self._crossed_openings,
            doubted=self.doubted,
            audit=self._audit,
        )

    @classmethod
    def load(cls, alignment: Alignment, state: SyncState, symbol: str = "") -> "Sync":
        """Return the machine of ``symbol`` that ``dump`` described."""
        sync = cls(alignment, state.conn, state.joined_at, symbol)
        sync.joined = state.joined
        sync.seq = state.seq
        sync.ts_event = state.ts_event
        sync.unit = state.unit
        sync.crossed_since = state.crossed_since
        sync.silence = state.silence
        sync._asking = Asking(state.due, state.attempts, state.reason)
        sync._crossed_openings = state.crossed_openings
        sync.doubted = state.doubted
        sync._limit = state.limit
        sync.book = Levels(state.limit, open_end=sync._open_end)
        sync.book.bids.restore(*state.bids)
        sync.book.asks.restore(*state.asks)
        sync._fresh = state.fresh
        sync._buffer.deltas, sync._buffer.weight = state.buffer, state.buffered_bytes
        sync._held = state.held
        sync._refreshing = state.refreshing
        sync._old_since = state.old_since
        sync._load_audits(state.audit)
        return sync

    def _load_audits(self, audit: Audit | None) -> None:
        rule = self._alignment.rule
        if audit is not None and audit.every == (rule.audit_s or 0) * SECOND:  # else they begin anew
            self._audit = audit
            self.verified = rule.verified if audit.passed_at is not None else "none"


def _text(seq: int | None) -> str | None:
    return None if seq is None else str(seq)
