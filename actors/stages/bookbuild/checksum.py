"""Checksums by which venues let a book be proved, each over the digits the venue sent.

A function takes the book after a change, pruned to the subscribed depth, and returns what the venue's
``checksum`` must be. Levels keep the venue's own text, so trailing zeros count as sent and no precision
of the instrument is needed.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from itertools import zip_longest
from typing import Final
from zlib import crc32

from actors.model.events import Level
from actors.stages.book import Levels

Checksum = Callable[[Levels], int]

KRAKEN_LEVELS: Final = 10  # whatever depth is subscribed
BITFINEX_LEVELS: Final = 25


@lru_cache(maxsize=8192)  # of the best levels few change from one checksum to the next
def _digits(level: Level) -> str:
    """Return price and size without points and leading zeros, in one text."""
    price, size = level
    return price.replace(".", "").lstrip("0") + size.replace(".", "").lstrip("0")


def kraken(book: Levels) -> int:
    """Return the CRC32 of the ten best asks, then the ten best bids, best first.

    Source: Kraken, guide "Spot WebSocket book checksum (v2)", read 2026-05.
    """
    bids, asks = book.best_first(KRAKEN_LEVELS)
    return crc32("".join(map(_digits, asks + bids)).encode())


def _as_javascript(text: str) -> str:
    """Return a number as JavaScript writes it: the fewest digits that read back as the same double."""
    number = float(text)
    digits = repr(number)
    if digits.endswith(".0"):
        return digits[:-2]
    mantissa, e, exponent = digits.partition("e")
    if not e:
        return digits
    if -6 <= int(exponent) < 21:
        return f"{Decimal(digits):f}"
    return f"{mantissa}e{int(exponent):+d}"


def bitfinex(book: Levels) -> int:
    """Return the CRC32 of the 25 best levels: bid, ask, bid, ask, each as ``price:amount``, asks negative.

    Where a side has fewer levels, those there are. The venue sends it as a signed number of 32 bits; this
    is the same without its sign.

    Source: Bitfinex, "Websocket checksum", read 2026-09.
    """
    bids, asks = book.best_first(BITFINEX_LEVELS)
    told = [[f"{_as_javascript(price)}:{_as_javascript(size)}" for price, size in bids]]
    told.append([f"{_as_javascript(price)}:-{_as_javascript(size)}" for price, size in asks])
    return crc32(":".join(level for pair in zip_longest(*told) for level in pair if level).encode())


CHECKSUMS: Final[Mapping[str, Checksum]] = {
    "bitfinex": bitfinex,
    "kraken": kraken,
}  # by the name in BookRule.checksum
