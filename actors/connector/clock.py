"""The receive time of everything that enters ``raw``."""

import time


class Clock:
    """The system clock in ns since the epoch, never stepping back within this process.

    Folds take the largest time seen for the present. So that theirs does not stand still, and nothing is
    judged silent, while a clock that was set back comes up to where it was, ours then runs at half its pace.
    """

    __slots__ = ("_ahead", "_last")

    def __init__(self) -> None:
        self._last = 0
        self._ahead: tuple[int, int] | None = None  # time told, and of the monotonic clock, when set back

    def now(self) -> int:
        """Return the time, not below the one returned before."""
        now = time.time_ns()
        if now >= self._last:
            self._ahead = None
        else:
            now = self._slowly()
        self._last = now
        return now

    def _slowly(self) -> int:
        monotonic = time.monotonic_ns()
        if self._ahead is None:
            self._ahead = self._last, monotonic
        told, since = self._ahead
        return told + (monotonic - since) // 2
