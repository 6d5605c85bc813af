"""Delays between attempts, as a value."""

import random
from collections.abc import Iterator


def backoff(first: float = 0.5, factor: float = 1.6, most: float = 30.0) -> Iterator[float]:
    """Yield delays between attempts, in seconds, each jittered by up to half. Never ends."""
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * factor, most)
