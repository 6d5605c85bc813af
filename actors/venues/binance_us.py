"""Binance US spot: Binance's protocol on hosts of its own, with thin books.

Limits: 1024 streams a connection, 24 h of life, 5 messages a second from us, REST weight 1200 a minute
or what exchangeInfo says.
Quirks: minutes pass without a change of a book, so a silent symbol is a healthy one; USD, USDT and USDC
quotes stand side by side, and USD is the dollar; native symbols and trade ids are those of no other venue;
past trades by id need a key, so a hole is filled as far as the latest thousand reach back.

Source: binance-us-api-docs web-socket-streams.md, rest-api.md as of 2024-06; see ``binance``.
"""

from typing import Final
from urllib.parse import urlencode

from msgspec.structs import replace

from actors.model.instruments import Instrument
from actors.venues import binance
from actors.venues.base import Endpoints, Request, Venue

NAME: Final = "binance_us"
HOLE_MOST: Final = 1_000_000  # chosen: no hole is asked for in parts, since each answer would be the same


def backfill(instrument: Instrument, first: str, last: str) -> Request:
    """Return the request for the latest trades; what of ``first`` to ``last`` is among them is taken."""
    query = urlencode({"symbol": instrument.native, "limit": binance.BACKFILL_MOST})
    return Request(
        "backfill", f"/api/v3/trades?{query}", instrument.symbol, weight=25, first=first, last=last
    )


VENUE: Final[Venue] = replace(
    binance.VENUE,
    name=NAME,
    endpoints=Endpoints("wss://stream.binance.us:9443", "https://api.binance.us"),
    # As exchangeInfo said in 2021; what it says now holds.
    limits=replace(binance.LIMITS, weight_per_minute=1200),
    silence_s={},  # quiet books are healthy, and a market without a trade has no ticker either
    first_s={},
    quiet_s=600.0,  # chosen: minutes may pass without a change, on a connection of few symbols too
    instruments=(Request("instruments", "/api/v3/exchangeInfo", weight=20),),
    backfill=backfill,
    backfill_most=HOLE_MOST,
)
