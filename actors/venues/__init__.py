"""One file a venue, pure: bytes in, events and requests out. ``VENUES`` holds each file's ``VENUE``."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from actors.venues.base import Venue


def found() -> Iterator[Venue]:
    """Yield what the files hold, so that a new venue is its file and no line anywhere else.

    Raises:
        ValueError: One is not called as its file: it would stand for another.
    """
    for module in iter_modules(__path__):
        venue: object = getattr(import_module(f"{__name__}.{module.name}"), "VENUE", None)
        if not isinstance(venue, Venue):
            continue
        if venue.name != module.name:
            raise ValueError(f"venues/{module.name}.py: VENUE is called {venue.name!r}, not as its file")
        yield venue


VENUES: dict[str, Venue] = {venue.name: venue for venue in found()}
