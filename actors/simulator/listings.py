"""One universe of pairs, from which each venue picks what it lists.

Prices come from the market's assets, so a pair costs about the same everywhere; how much is going on in
it and how finely it is quoted starts from here and is each venue's own.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from actors.simulator.market import Listing


class Pair(NamedTuple):
    """How a pair is traded where nothing else is said; ``rate`` in acts a second, 0: halted."""

    price_step: str
    size_step: str
    rate: float
    levels: int


PAIRS: Final[dict[str, Pair]] = {
    "BTC-USDT": Pair("0.01", "0.00001", 70, 1200),
    "ETH-USDT": Pair("0.01", "0.0001", 50, 800),
    "SOL-USDT": Pair("0.01", "0.001", 35, 500),
    "XRP-USDT": Pair("0.0001", "0.1", 25, 300),
    "BNB-USDT": Pair("0.01", "0.001", 15, 400),
    "DOGE-USDT": Pair("0.00001", "1", 12, 300),
    "ADA-USDT": Pair("0.0001", "0.1", 8, 200),
    "LTC-USDT": Pair("0.01", "0.001", 5, 200),
    "LINK-USDT": Pair("0.01", "0.01", 5, 200),
    "DOT-USDT": Pair("0.001", "0.01", 3, 200),
    "AVAX-USDT": Pair("0.01", "0.01", 3, 200),
    "TRX-USDT": Pair("0.0001", "0.1", 3, 200),
    "SHIB-USDT": Pair("0.00000001", "1", 3, 200),
    "1INCH-USDT": Pair("0.0001", "0.1", 0.5, 100),
    "FLR-USDT": Pair("0.00001", "0.1", 1, 100),
    "USDC-USDT": Pair("0.0001", "1", 2, 50),
    "EUR-USDT": Pair("0.0001", "0.1", 2, 100),
    "ETH-BTC": Pair("0.00001", "0.0001", 3, 200),
    "BNB-BTC": Pair("0.000001", "0.001", 1, 100),
    "BTC-USDC": Pair("0.01", "0.00001", 6, 400),
    "币安人生-USDT": Pair("0.0001", "0.1", 1, 100),  # names beyond ASCII exist since 2025
    "BTC-TUSD": Pair("0.01", "0.00001", 0, 0),  # halted, and a trap for splitters by suffix
    "TUSD-BTC": Pair("0.00000001", "1", 0, 0),
    "USDT-USD": Pair("0.0001", "0.01", 2, 50),
}


def pick(
    venue: str,
    native: Callable[[str], str],
    symbols: Iterable[str],
    *,
    steps: Mapping[str, tuple[str, str]] | None = None,
    size_step: str | None = None,
    pace: float = 1.0,
) -> tuple[Listing, ...]:
    """Return what a venue lists.

    Args:
        venue: Its name.
        native: Canonical symbol -> the venue's.
        symbols: Canonical; a pair in dollars or euros stands for the one in USDT where the universe has
            no own entry. What follows a second dash (``-PERP``) does not count.
        steps: By symbol, price and size step where they differ from the universe's.
        size_step: Of all symbols that ``steps`` does not name.
        pace: How much is going on here, of what the universe says.

    Raises:
        KeyError: A pair that is not in the universe.
    """
    made: list[Listing] = []
    for symbol in symbols:
        base, quote = symbol.split("-")[:2]
        pair = PAIRS.get(f"{base}-{quote}") or PAIRS[f"{base}-USDT"]
        price, size = (steps or {}).get(symbol, (pair.price_step, size_step or pair.size_step))
        made.append(
            Listing(
                venue=venue,
                symbol=symbol,
                native=native(symbol),
                base=base,
                quote=quote,
                price_step=price,
                size_step=size,
                orders_per_s=pair.rate * pace,
                levels=pair.levels,
                trading=pair.rate > 0,
            )
        )
    return tuple(made)
