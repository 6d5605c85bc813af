"""One file a venue, pure: bytes in, events and requests out. ``VENUES`` holds each file's ``VENUE``."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from actors.venues.base import Venue


def _found() -> Iterator[Venue]:
    """Yield what the files hold, so that a new venue is its file and no line anywhere else."""
    for module in iter_modules(__path__):
        venue: object = getattr(import_module(f"{__name__}.{module.name}"), "VENUE", None)
        if isinstance(venue, Venue):
            yield venue


VENUES: dict[str, Venue] = {venue.name: venue for venue in _found()}
