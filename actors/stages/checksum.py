"""Checksums by which venues let a book be proved, each over the digits the venue sent.

A function takes the book after a change, pruned to the subscribed depth, and returns what the venue's
``checksum`` must be. Levels keep the venue's own text, so trailing zeros count as sent and no precision
of the instrument is needed.
"""

from collections.abc import Callable, Mapping
from typing import Final
from zlib import crc32

from actors.model.events import Level
from actors.stages.book import Levels

Checksum = Callable[[Levels], int]

KRAKEN_LEVELS: Final = 10  # whatever depth is subscribed


def _digits(best_first: list[Level]) -> str:
    """Return price and size of each level without points and leading zeros, in one text."""
    return "".join([text.replace(".", "").lstrip("0") for level in best_first for text in level])


def kraken(book: Levels) -> int:
    """Return the CRC32 of the ten best asks, then the ten best bids, best first.

    Source: Kraken, guide "Spot WebSocket book checksum (v2)", read 2026-05.
    """
    bids, asks = book.best_first(KRAKEN_LEVELS)
    return crc32((_digits(asks) + _digits(bids)).encode())


CHECKSUMS: Final[Mapping[str, Checksum]] = {"kraken": kraken}  # by the name in BookRule.checksum
