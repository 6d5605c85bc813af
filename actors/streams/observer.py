"""What ``streams`` counts with: handed in, so that nothing here knows Prometheus."""

from typing import Protocol


class Observer(Protocol):
    """The part of ``runtime.metrics.Metrics`` that is used here."""

    def count(self, name: str, n: float = 1, /, **labels: str) -> None:
        """Add ``n`` to a counter."""
        ...

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        ...

    def observe(self, name: str, seconds: float, /, **labels: str) -> None:
        """Add one observation, in seconds, to a histogram."""
        ...
