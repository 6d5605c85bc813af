"""What a chaos run found, and whether it may stand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import quantiles

MUST_BE_ZERO = (
    "lost", "duplicated", "reordered", "books_differing", "sums_differing", "unexplained",
    "zombie_commits_accepted",
)  # fmt: skip


@dataclass
class Report:
    """Counts over all scenarios of one run.

    ``events``: how many there were in ``events`` (of the second scenario: trades). ``lost``,
    ``duplicated``, ``reordered``: lines of the outputs against the undisturbed fold of the same ``raw``.
    ``unexplained``: trades of a venue's tape that are neither in ``events`` nor inside a gap.
    ``books_differing``: published books unlike the truth. ``sums_differing``: cumulative volume deltas unlike
    the sum of the trades on the tape.
    """

    seed: int
    events: int = 0
    kills: int = 0
    stops: int = 0
    redis_kills: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    books_differing: int = 0
    sums_differing: int = 0
    unexplained: int = 0
    zombie_commits_accepted: int = 0
    gaps: int = 0
    recoveries_s: list[float] = field(default_factory=list[float])

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
        if not lost and not more:
            self.reordered += sum(
                k != place or text != expected[place - 1] for place, (k, text) in enumerate(got, 1)
            )

    def document(self) -> dict[str, object]:
        """Return the report as it is printed."""
        fields = asdict(self)
        times = sorted(fields.pop("recoveries_s"))
        cuts = (
            quantiles(times, n=100, method="inclusive")
            if len(times) > 1
            else [times[0]] * 99
            if times
            else None
        )
        p50, p99 = (round(cuts[49], 3), round(cuts[98], 3)) if cuts else (None, None)
        return {**fields, "recovery_s": {"p50": p50, "p99": p99}}
