"""Budgets that all instances behind one address share: REST weight and connection attempts of a venue.

A strict rolling window by the server's clock, and bars: what a venue said in Retry-After holds for
everybody at once, so N actors never storm. While Redis is away nothing is granted.
"""

import random
from importlib.resources import files
from typing import Final, Literal

import anyio
from redis.asyncio import Redis

from actors.streams.errors import FAULTS, is_passing
from actors.streams.keys import Keys
from actors.streams.scripts import Script

Budget = Literal["weight", "connect"]
_WINDOW_S: Final = 60  # venues count by the minute; one that rolls is inside whatever minute they count
_AGAIN_S: Final = 0.5  # chosen: how often a Redis that is away is asked again
_LIMIT: Final = Script((files("actors.streams") / "limit.lua").read_text(encoding="utf-8"))


class Limit:
    """The budgets of one venue and egress."""

    def __init__(self, client: Redis, keys: Keys, venue: str, egress: str, window_s: int = _WINDOW_S) -> None:
        self._client = client
        self._window_s = window_s
        self._key = keys.limit(venue, egress)

    async def take(self, budget: Budget, cost: int, most: int, per_s: int | None = None) -> int:
        """Wait until ``cost`` of ``most`` in a window is ours to spend, and until no bar holds.

        Args:
            budget: Of what.
            cost: How much.
            most: In any window.
            per_s: In any second; None: as ``most``.

        Returns:
            When it was taken, for ``give_back``: a second of the server's clock.
        """
        windows = [most, self._window_s] if per_s is None else [per_s, 1, most, self._window_s]
        while True:
            wait_ms, second = await self._ask("take", budget, cost, *windows)
            if wait_ms == 0:
                return second
            # Jitter: those who wait for the same second do not come back in the same millisecond.
            await anyio.sleep(wait_ms / 1000 + random.uniform(0, 0.1))

    async def give_back(self, budget: Budget, cost: int, taken: int) -> None:
        """Let others have what was taken and not spent: the venue was never reached."""
        await self._ask("back", budget, cost, taken)

    async def bar(self, budget: Budget, seconds: float) -> None:
        """Let nobody spend of ``budget`` for ``seconds``; a longer bar stays."""
        await self._ask("bar", budget, int(seconds * 1000))

    async def _ask(self, *args: str | int) -> tuple[int, int]:
        while True:
            try:
                wait_ms, second = await _LIMIT.by(self._client, [self._key], args)
                return int(wait_ms), int(second)
            except FAULTS as e:
                if not is_passing(e):
                    raise
                await anyio.sleep(_AGAIN_S * random.uniform(0.5, 1.0))
