"""Which connections carry what is wanted of a venue."""

from collections.abc import Sequence

from actors.config import VenueSettings
from actors.model.instruments import Instrument
from actors.venues.base import Connection, Endpoints, Venue


def endpoints_of(venue: Venue, wanted: VenueSettings) -> Endpoints:
    """Return where ``venue`` listens: its own addresses, or those that the configuration names."""
    return Endpoints(wanted.ws_url or venue.endpoints.ws, wanted.rest_url or venue.endpoints.rest)


def plan(
    venue: Venue, endpoints: Endpoints, wanted: VenueSettings, instruments: Sequence[Instrument]
) -> list[Connection]:
    """Return the connections of one leg: ``instruments`` with the channels that are wanted of each.

    The venue's own limits split them; ``symbols_per_connection`` may split them further.
    """
    by_symbol = {instrument.symbol: instrument for instrument in instruments}
    connections: list[Connection] = []
    for channels, symbols in wanted.wanted(venue.channels, by_symbol).items():
        most = wanted.symbols_per_connection or len(symbols)
        for start in range(0, len(symbols), most):
            part = [by_symbol[symbol] for symbol in symbols[start : start + most]]
            connections += venue.plan(endpoints, part, channels)
    return connections
