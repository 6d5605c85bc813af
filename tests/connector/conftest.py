"""Venues with other limits than the real one's."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from actors.venues import VENUES


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``limits(lifetime_s=1, …)`` changes the limits of the venue for this test."""

    def change(**changes: Any) -> None:
        venue = VENUES["binance"]
        monkeypatch.setitem(VENUES, "binance", replace(venue, limits=replace(venue.limits, **changes)))

    return change


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """One symbol a connection, and no frame above 2,000 bytes."""
    venue = VENUES["binance"]
    changed = replace(venue.limits, max_frame_bytes=2000)

    def plan(endpoints: Any, instruments: Any, channels: Any) -> Any:
        return [c for one in instruments for c in venue.plan(endpoints, [one], channels)]

    monkeypatch.setitem(VENUES, "binance", replace(venue, limits=changed, plan=plan))
