"""One file a venue, pure: bytes in, events and requests out. ``VENUES`` names them all."""

from actors.venues import binance
from actors.venues.base import Venue

VENUES: dict[str, Venue] = {venue.name: venue for venue in (binance.VENUE,)}
