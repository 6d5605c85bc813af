"""Which venues can be simulated: those of ``actors.venues`` that have a file of the same name here.

Such a file has ``NAME``, ``LISTINGS`` (what it lists) and ``serve``, which makes the venue.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from actors.simulator.faults import Faults
from actors.simulator.market import Listing, Market
from actors.simulator.venue import Venue
from actors.venues import VENUES


class VenueFile(Protocol):
    """One venue's file.

    ``serve``: (market, faults, now in ns, all listings, of which it takes its own) -> the venue, which puts
    itself into ``market.sinks``.
    """

    NAME: str
    LISTINGS: Sequence[Listing]
    serve: Callable[[Market, Faults, int, Sequence[Listing]], Venue]


def simulated() -> list[str]:
    """Return the names of all venues that can be simulated."""
    here = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return [name for name in VENUES if name in here]


def load(name: str) -> VenueFile:
    """Return a venue's file; only those that are served are imported."""
    return cast("VenueFile", import_module(f"actors.simulator.{name}"))
