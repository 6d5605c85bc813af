"""Binance US spot as a server: Binance's protocol with other limits, thin books and quotes in dollars.

Source: binance-us-api-docs (web-socket-streams, rest-api) as of 2024-06; see ``binance``.
"""

from functools import partial
from typing import Final

from actors.simulator import binance
from actors.simulator.listings import pick

NAME: Final = "binance_us"
LIMITS: Final = {**binance.LIMITS, "weight_per_minute": 1200, "ping_every_s": 180, "pong_within_s": 600}
_BUSY: Final = (
    "BTC-USDT", "BTC-USD", "ETH-USDT", "ETH-USD", "SOL-USD", "XRP-USD", "ADA-USDT", "ETH-BTC", "USDC-USDT",
)  # fmt: skip
_QUIET: Final = ("LTC-USD",)  # something happens each 100 s: a healthy book all the same
LISTINGS: Final = tuple(
    each
    for symbols, pace in ((_BUSY, 0.25), (_QUIET, 0.002))
    for each in pick(NAME, lambda symbol: symbol.replace("-", ""), symbols, pace=pace)
)

serve = partial(binance.Binance, name=NAME, limits=LIMITS, plain=True)
