"""The receive time of everything that enters ``raw``."""

import time


class Clock:
    """The system clock in ns since the epoch, never stepping back within this process."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> int:
        """Return the time, not below the one returned before."""
        now = time.time_ns()
        if now < self._last:  # the clock was set back: folds take the largest time seen, so hold it
            return self._last
        self._last = now
        return now
