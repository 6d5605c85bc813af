"""Bybit linear perpetuals: ``bybit``, and beside it liquidations, open interest and funding.

Prices of USDT and USDC contracts; sizes are in base currency, a base may be a multiple (1000PEPE).
Liquidations are complete, in batches of 500 ms. Mark and index price come with the funding rate.
Dated contracts are left out.

Source: as of ``bybit``.
"""

from typing import Final

from msgspec.structs import replace

from actors.venues import bybit
from actors.venues.base import Venue

NAME: Final = "bybit_linear"

VENUE: Final[Venue] = replace(
    bybit.VENUE,
    name=NAME,
    markets=frozenset({"perpetual"}),
    channels=frozenset(bybit.STREAMS),
    # Chosen: mark and index price move each second.
    silence_s={"l1": 20.0, "funding": 60.0},
    first_s={"book": 15.0, "ticker": 15.0, "open_interest": 15.0, "funding": 15.0},
    plan=bybit.plan("linear"),
    instruments=bybit.listing("linear"),
)
