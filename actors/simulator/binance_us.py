"""Binance US spot as a server: Binance's protocol with other limits, thin books and quotes in dollars.

Source: binance-us-api-docs (web-socket-streams, rest-api) as of 2024-06; see ``binance``.
"""

from functools import partial
from typing import Final

from actors.simulator import binance
from actors.simulator.listings import pick

NAME: Final = "binance_us"
LIMITS: Final = {**binance.LIMITS, "weight_per_minute": 1200, "ping_every_s": 180, "pong_within_s": 600}
LISTINGS: Final = pick(
    NAME,
    lambda symbol: symbol.replace("-", ""),
    ("BTC-USDT", "BTC-USD", "ETH-USDT", "ETH-USD", "SOL-USD", "XRP-USD", "ADA-USDT", "ETH-BTC", "USDC-USDT"),
    pace=0.25,
)

serve = partial(binance.Binance, name=NAME, limits=LIMITS, plain=True)
