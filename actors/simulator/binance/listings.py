"""What the simulated Binance lists, its numbers and its instrument list.

Numbers in ``LIMITS`` are the documented ones; where the documents are silent a comment says what was
chosen. Source: Binance spot API documents (web-socket-streams, rest-api), read 2026-07.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from actors.simulator.market import Fixed, Listing

NAME: Final = "binance"
MS: Final = 1_000_000
US: Final = 1_000
SECOND: Final = 1_000_000_000
SHOWN: Final = 8  # Binance writes every price and size with eight decimals

LIMITS: Final[dict[str, float]] = {
    "streams_per_connection": 1024,
    "messages_per_s": 5,
    "connects_per_5min": 300,
    "weight_per_minute": 6000,
    "requests_while_limited": 10,  # chosen: how many after a 429 make a 418
    "ban_s": 120,
    "ping_every_s": 20,
    "pong_within_s": 60,
    "lifetime_s": 86_400,
}


def _listing(symbol: str, price_step: str, size_step: str, rate: float, levels: int) -> Listing:
    base, quote = symbol.split("-")
    return Listing(
        venue=NAME,
        symbol=symbol,
        native=base + quote,
        base=base,
        quote=quote,
        price_step=price_step,
        size_step=size_step,
        orders_per_s=rate,
        levels=levels,
        trading=rate > 0,
    )


LISTINGS: Final[tuple[Listing, ...]] = (
    _listing("BTC-USDT", "0.01", "0.00001", 70, 1200),
    _listing("ETH-USDT", "0.01", "0.0001", 50, 800),
    _listing("SOL-USDT", "0.01", "0.001", 35, 500),
    _listing("XRP-USDT", "0.0001", "0.1", 25, 300),
    _listing("BNB-USDT", "0.01", "0.001", 15, 400),
    _listing("DOGE-USDT", "0.00001", "1", 12, 300),
    _listing("ADA-USDT", "0.0001", "0.1", 8, 200),
    _listing("LTC-USDT", "0.01", "0.001", 5, 200),
    _listing("LINK-USDT", "0.01", "0.01", 5, 200),
    _listing("DOT-USDT", "0.001", "0.01", 3, 200),
    _listing("AVAX-USDT", "0.01", "0.01", 3, 200),
    _listing("TRX-USDT", "0.0001", "0.1", 3, 200),
    _listing("SHIB-USDT", "0.00000001", "1", 3, 200),
    _listing("1INCH-USDT", "0.0001", "0.1", 0.5, 100),
    _listing("FLR-USDT", "0.00001", "0.1", 1, 100),
    _listing("USDC-USDT", "0.0001", "1", 2, 50),
    _listing("EUR-USDT", "0.0001", "0.1", 2, 100),
    _listing("ETH-BTC", "0.00001", "0.0001", 3, 200),
    _listing("BNB-BTC", "0.000001", "0.001", 1, 100),
    _listing("BTC-USDC", "0.01", "0.00001", 6, 400),
    _listing("币安人生-USDT", "0.0001", "0.1", 1, 100),  # names beyond ASCII exist since 2025
    _listing("BTC-TUSD", "0.01", "0.00001", 0, 0),  # halted, and a trap for splitters by suffix
    _listing("TUSD-BTC", "0.00000001", "1", 0, 0),
)


_ORDER_TYPES: Final = ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"]


def _row(listing: Listing) -> dict[str, object]:
    return {
        "symbol": listing.native,
        "status": "TRADING" if listing.trading else "BREAK",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": _ORDER_TYPES,
        "icebergAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": _padded(listing.price_step),
                "maxPrice": "1000000.00000000",
                "tickSize": _padded(listing.price_step),
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": _padded(listing.size_step),
                "maxQty": "9000000.00000000",
                "stepSize": _padded(listing.size_step),
            },
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


def _padded(step: str) -> str:
    return Fixed(step, SHOWN)(1).decode()


def exchange_info(listings: Iterable[Listing], weight_per_minute: float, now: int) -> bytes:
    """Return the body of ``/api/v3/exchangeInfo``."""
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1}
    return msgspec.json.encode(
        {
            "timezone": "UTC",
            "serverTime": now // MS,
            "rateLimits": [{**limit, "limit": int(weight_per_minute)}],
            "exchangeFilters": [],
            "symbols": [_row(listing) for listing in listings],
        }
    )
