"""How a delta touches a snapshot or the change before it, by the words of a venue's ``BookRule``. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from actors.model.errors import Unparseable
from actors.model.events import BookDelta, BookSnapshot, Cause, Level
from actors.stages.book import Levels
from actors.venues.base import BookRule

NEVER_TRADED: Final = -1  # binance.md 5.3: lastUpdateId of a market without any order yet

OLD: Final = -1
FOLLOWS: Final = 0
BEYOND: Final = 1

Relation = Callable[[BookDelta, int | None], int]


class Fault(NamedTuple):
    """Why a book was lost, and the sequences that are missing or in doubt (None: not known).

    ``cause`` None: nothing of the venue's is missing.
    """

    cause: Cause | None
    first: str | None
    last: str | None
    reason: str


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
        return OLD
    return FOLLOWS if first <= seq + 1 else BEYOND


def _next(delta: BookDelta, seq: int | None) -> int:
    last = _number(delta.last_seq, delta, "last_seq")
    at = _number(seq, delta, "seq to follow")
    if last <= at:
        return OLD
    first = last if delta.first_seq is None else delta.first_seq
    return FOLLOWS if first == at + 1 else BEYOND


def _pointer(delta: BookDelta, seq: int | None) -> int:
    # okx.md 5.2: the sequence goes back at a venue's reset, so a lower one proves no age. Old is only
    # what says again what was said last.
    prev = delta.prev_seq
    if prev is None:
        _number(prev, delta, "prev_seq")
    if prev == seq:
        return FOLLOWS
    return OLD if delta.last_seq is not None and delta.last_seq == seq else BEYOND


def _overlap(delta: BookDelta, seq: int | None) -> int:
    # binance_usdm.md 5.3: sequences are the engine's, of all its books, so the first change after a
    # snapshot either points at it or began before it.
    if delta.prev_seq == seq:
        return FOLLOWS
    at = _number(seq, delta, "seq to follow")
    if _number(delta.last_seq, delta, "last_seq") <= at:
        return OLD
    return FOLLOWS if _number(delta.first_seq, delta, "first_seq") <= at else BEYOND


def _none(delta: BookDelta, seq: int | None) -> int:
    last = delta.last_seq
    return OLD if last is not None and seq is not None and last <= seq else FOLLOWS


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

    def __init__(self, rule: BookRule) -> None:
        self.rule = rule
        self.joins = _RELATIONS[rule.join]
        self.chains = _RELATIONS[rule.chain]
        self.checksum = rule.checksum

    def touches(self, delta: BookDelta, seq: int | None, *, untraded: bool) -> int:
        """Tell how the first delta after a snapshot relates to it.

        A market without any order yet gives no number to touch: any first delta does.
        """
        return FOLLOWS if untraded and seq == NEVER_TRADED else self.joins(delta, seq)

    def continuing(self, snapshot: BookSnapshot, deltas: Sequence[BookDelta]) -> list[BookDelta] | None:
        """Return those of ``deltas`` (in order) that continue ``snapshot``; None: one is beyond it."""
        newer: list[BookDelta] = []
        untraded = never_traded(snapshot)
        at = seq_of(snapshot)
        for delta in deltas:
            step = self.chains(delta, at) if newer else self.touches(delta, at, untraded=untraded)
            if step == BEYOND:
                return None
            if step == FOLLOWS:
                newer.append(delta)
                at = at if delta.last_seq is None else delta.last_seq
        return newer

    def is_before(self, snapshot: BookSnapshot, oldest: BookDelta) -> bool:
        """Tell whether ``snapshot`` was made before ``oldest``, the first delta that was buffered."""
        if self.rule.contained:
            first = oldest.first_seq
        elif self.rule.join == "none":
            first = oldest.last_seq
        else:
            return False  # the join itself tells
        seq = seq_of(snapshot)
        return seq is not None and first is not None and seq < first

    def proves(self, book: Levels, checksum: int | None) -> bool:
        """Tell whether nothing speaks against ``book``: no checksum, or the right one."""
        return self.checksum is None or checksum is None or self.checksum(book) == checksum


def changes_after(delta: BookDelta, seq: int | None) -> tuple[list[Level], list[Level]]:
    """Return what ``delta`` changes after ``seq``; all of it where its levels bear no numbers."""
    numbers = delta.level_seqs
    if numbers is None or seq is None or delta.first_seq is None or delta.first_seq > seq:
        return delta.bids, delta.asks
    of_asks = numbers[len(delta.bids) :]
    return (
        [level for level, number in zip(delta.bids, numbers, strict=False) if number > seq],
        [level for level, number in zip(delta.asks, of_asks, strict=True) if number > seq],
    )


def seq_of(snapshot: BookSnapshot) -> int | None:
    """Return the last update that ``snapshot`` includes."""
    return snapshot.seq if snapshot.last_seq is None else snapshot.last_seq


def never_traded(snapshot: BookSnapshot) -> bool:
    """Tell whether ``snapshot`` is of a market without any order yet."""
    return seq_of(snapshot) == NEVER_TRADED and not snapshot.bids and not snapshot.asks


def hole(delta: BookDelta, seq: int | None) -> Fault:
    """Return what is missing between ``seq`` and ``delta``."""
    if delta.prev_seq is not None:
        last = str(delta.prev_seq)
    else:
        start = delta.first_seq if delta.first_seq is not None else delta.last_seq
        last = None if start is None else str(start - 1)
    return Fault("sequence", None if seq is None else str(seq + 1), last, "sequence jumped")
