"""How often something may be done, decided without a clock of its own."""

from collections import deque


class Window:
    """At most ``most`` in any span of ``window_s``, wherever it begins."""

    def __init__(self, per_s: float, span_s: float = 1.0) -> None:
        """``span_s``: what ``per_s`` gives in so long may be done at once."""
        # A rate below one a span is one in a longer window.
        self.most = max(1, int(per_s * span_s))
        self.window_s = self.most / per_s
        self._times: deque[float] = deque(maxlen=self.most)

    def wait(self, now: float) -> float:
        """Return the seconds until the next may be done; 0: now."""
        if len(self._times) < self.most:
            return 0.0
        return max(0.0, self._times[0] + self.window_s - now)

    def note(self, now: float) -> None:
        """Count one as done."""
        self._times.append(now)
