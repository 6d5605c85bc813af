"""The contract between a pure fold and the one stage loop that runs it.

A fold reads one stream of one partition, event by event, and appends lines to its outputs. It has no
clock, no I/O, no randomness. The loop commits what it says, all or nothing, and restores it from
``dump`` plus refold; how the input is cut into batches must change nothing.
"""

from collections import defaultdict
from typing import ClassVar, Literal, Protocol

JumpCause = Literal["retention", "rollback"]


class Output:
    """What a fold asks to be committed; the loop empties it after each commit.

    Attributes:
        lines: Output stream (``events``, ``books``, ``flow``, ``control``, ``dead``) -> documents in order.
        keys: Latest-value keys to set: (``book`` or ``top``, symbol) -> JSON. The last one wins.
        counts: (metric, its labels beyond role, venue and partition, apart by ``/``) -> how many; for
            metrics only, never part of the state. ``tapeline_events_total`` included.
    """

    __slots__ = ("counts", "keys", "lines")

    def __init__(self, streams: tuple[str, ...]) -> None:
        self.lines: dict[str, list[bytes]] = {stream: [] for stream in streams}
        self.keys: dict[tuple[Literal["book", "top"], str], bytes] = {}
        self.counts: defaultdict[tuple[str, str], int] = defaultdict(int)  # half the cost of a Counter

    def clear(self) -> None:
        """Forget everything said so far."""
        for lines in self.lines.values():
            lines.clear()
        self.keys.clear()
        self.counts.clear()


class Fold(Protocol):
    """One partition's fold of one role.

    ``FORMAT`` is the version of ``dump``; an unknown newer one is refused by the loop.
    """

    FORMAT: ClassVar[int]

    def fold(self, k: int, line: bytes, out: Output) -> None:
        """Take input event ``k``. May raise anything: the loop restores and, at last, skips it."""
        ...

    def jump(self, first: int, last: int, cause: JumpCause, out: Output) -> None:
        """Learn that input events ``first`` to ``last`` will never be seen."""
        ...

    def dump(self) -> bytes:
        """Return the whole state, deterministically (no set or hash order)."""
        ...
