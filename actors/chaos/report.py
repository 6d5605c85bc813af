"""What a chaos run found, and whether it may stand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from statistics import quantiles
from typing import Any, Final

import structlog

log: Any = structlog.get_logger()
_SHOWN: Final = 3  # lines that differ, for people
_SHOWN_BYTES: Final = 300

MUST_BE_ZERO = (
    "lost", "duplicated", "reordered", "books_differing", "sums_differing", "unexplained",
    "zombie_commits_accepted",
)  # fmt: skip

_TIMES = {"recovery_s": "recoveries_s", "master_recovery_s": "master_recoveries_s"}


@dataclass
class Report:
    """Counts over all scenarios of one run.

    ``events``: how many there were in ``events`` (of venues: trades). ``faults``: of the venues. ``lost``,
    ``duplicated``, ``reordered``: lines of the outputs against the undisturbed fold of the same ``raw``.
    ``unexplained``: trades of a venue's tape that are neither in ``events`` nor inside a gap.
    ``books_differing``: published books unlike the truth. ``sums_differing``: cumulative volume deltas unlike
    the sum of the trades on the tape. ``forwarded``: messages in the master's files, which the last
    scenario compares with its streams under the same names.
    """

    seed: int
    events: int = 0
    kills: int = 0
    stops: int = 0
    redis_kills: int = 0
    faults: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    books_differing: int = 0
    sums_differing: int = 0
    unexplained: int = 0
    zombie_commits_accepted: int = 0
    gaps: int = 0
    forwarded: int = 0
    recoveries_s: list[float] = field(default_factory=list[float])
    master_recoveries_s: list[float] = field(default_factory=list[float])

    @property
    def holds(self) -> bool:
        """Whether everything that must be zero is."""
        return not any(getattr(self, name) for name in MUST_BE_ZERO)

    def compare(self, expected: Sequence[bytes], got: Sequence[tuple[int, bytes]]) -> None:
        """Count how ``got``, (k, line) in stream order, differs from the lines that had to be there."""
        there = Counter(text for _, text in got)
        wanted = Counter(expected)
        lost, more = wanted - there, there - wanted
        self.lost += lost.total()
        self.duplicated += more.total()
        for what, lines in (("lost", lost), ("duplicated", more)):
            for line in islice(lines, _SHOWN):
                log.error(
                    "chaos_differs",
                    what=what,
                    of=len(expected),
                    line=line[:_SHOWN_BYTES].decode(errors="replace"),
                )
        if not lost and not more:
            self.reordered += sum(
                k != place or text != expected[place - 1] for place, (k, text) in enumerate(got, 1)
            )

    def document(self) -> dict[str, object]:
        """Return the report as it is printed."""
        fields = asdict(self)
        times = {name: _cuts(fields.pop(of)) for name, of in _TIMES.items()}
        return {**fields, **times}


def _cuts(times: Sequence[float]) -> dict[str, float | None]:
    """Return the median and the 99th percentile of some times, None without any."""
    if len(times) < 2:
        alone = round(times[0], 3) if times else None
        return {"p50": alone, "p99": alone}
    cuts = quantiles(sorted(times), n=100, method="inclusive")
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}
