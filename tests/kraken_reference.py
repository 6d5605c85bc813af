"""Kraken's guide to its books in a few lines, on dicts of the text of numbers; nothing of ours is used."""

import re
from typing import Any
from zlib import crc32

import msgspec

Levels = list[tuple[str, str]]


def frame_of(raw: str | bytes) -> Any:
    """Return a frame with every number as text, digits as they were sent."""
    text = raw if isinstance(raw, str) else raw.decode()
    return msgspec.json.decode(re.sub(r"(?<=[:\[,])-?\d+(\.\d+)?(?=[,}\]])", r'"\g<0>"', text))


class Reference:
    """One book, as deep as it is subscribed."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.sides: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}

    def apply(self, kind: str, data: dict[str, Any]) -> None:
        """Take one element of a frame; cut what has fallen out of depth."""
        for side, levels in self.sides.items():
            if kind == "snapshot":
                levels.clear()
            for level in data[side]:
                levels[level["price"]] = level["qty"]
            kept = sorted(((p, q) for p, q in levels.items() if float(q)), key=lambda x: float(x[0]))
            best = kept[::-1] if side == "bids" else kept
            self.sides[side] = dict(best[: self.depth])

    @property
    def levels(self) -> tuple[Levels, Levels]:
        """Bids and asks, best first."""
        return list(self.sides["bids"].items()), list(self.sides["asks"].items())

    def checksum(self) -> int:
        """Return what the venue's must be."""
        bids, asks = self.levels
        texts = (text for level in (*asks[:10], *bids[:10]) for text in level)
        return crc32("".join(text.replace(".", "").lstrip("0") for text in texts).encode())
