"""Events at which a fold raises: tried again, and laid aside the third time."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import structlog

from actors.runtime.meter import Meter
from actors.stages.dead import letter
from actors.streams.keys import Cursor, Stream

log = structlog.get_logger()

_TRIES: Final = 3  # DESIGN 5: then the event is poison


class Again(Exception):
    """Drop the fold and restore: what is in memory is no longer what is stored."""


class Raised(Again):
    """Folding the event at ``at`` raised."""

    def __init__(self, at: Cursor, line: bytes) -> None:
        super().__init__(at, line)
        self.at = at
        self.line = line


class Poison:
    """What one stage has tried in vain. ``whose``: its ``role`` and ``partition``, for people."""

    def __init__(self, reads: Stream, meter: Meter, whose: Mapping[str, str]) -> None:
        self._reads: Stream = reads
        self._meter = meter
        self._whose = whose
        self._tries: Counter[Cursor] = Counter()
        self._buried: list[tuple[Cursor, bytes]] = []  # that no commit has passed yet, for ``dead``

    @property
    def skip(self) -> frozenset[int]:
        """Numbers of the events that were laid aside and that no commit has passed yet."""
        return frozenset(at.k for at, _ in self._buried)

    def letters(self, until: Cursor) -> list[bytes]:
        """Return the documents for ``dead`` of what was laid aside, as far as ``until``."""
        return [record for at, record in self._buried if at <= until]

    def passed(self, until: Cursor) -> None:
        """Learn that a commit has passed ``until``."""
        self._buried = [(at, record) for at, record in self._buried if at > until]

    def forget_tries(self) -> None:
        """Learn that the numbers are other events now."""
        self._tries.clear()

    def count(self, raised: Raised) -> None:
        """Count a try; at the third lay the event aside."""
        self._tries[raised.at] += 1
        tries = self._tries[raised.at]
        cause = raised.__cause__
        log.error(
            "fold_raised",
            **self._whose,
            k=raised.at.k,
            tries=tries,
            reason=repr(cause),
            exc_info=cause if tries == _TRIES else None,
        )
        if tries < _TRIES:
            return
        role, partition = self._whose["role"], self._whose["partition"]
        identity = f"{partition}/{self._reads}/{raised.at}"
        self._buried.append((raised.at, letter(f"poison: {cause!r}", role, partition, identity, raised.line)))
        self._meter.poisoned()
