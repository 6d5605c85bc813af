"""Instruments and their canonical symbols: ``BTC-USDT``, ``BTC-USDT-PERP``, ``BTC-USD-261225``."""

import zlib
from typing import Literal

import msgspec

ContractKind = Literal["linear", "inverse"]
MarketKind = Literal["spot", "perpetual", "future"]


class Instrument(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tradable instrument as its venue lists it; the payload of an ``i`` line in ``raw``.

    ``contract_size`` is base currency a contract (linear) or quote currency a contract (inverse).
    ``price_step`` and ``size_step`` are decimal text, None where the venue does not say.
    """

    symbol: str  # canonical
    native: str
    base: str  # upper case
    quote: str
    contract_size: str | None = None
    contract_kind: ContractKind | None = None
    price_step: str | None = None
    size_step: str | None = None


class Unusable(msgspec.Struct, frozen=True):
    """An instrument that its venue lists with numbers that mean nothing; ``reason`` says which."""

    symbol: str  # canonical
    native: str
    reason: str


class UnknownInstrument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A wanted symbol that is not to be had; the other payload of an ``i`` line.

    ``reason``: why, where the venue lists it all the same.
    """

    symbol: str
    nearest: list[str]  # canonical symbols of the venue, best first; may be empty
    reason: str | None = None


def canonical(text: str) -> str:
    """Return the symbol a person typed in canonical spelling: ``btc/usdt`` is ``BTC-USDT``."""
    return text.strip().replace("/", "-").upper()


def market_kind(symbol: str) -> MarketKind:
    """Tell a spot pair, a perpetual and a dated contract apart by their canonical symbol."""
    parts = symbol.split("-")
    if len(parts) == 2:
        return "spot"
    return "perpetual" if parts[2] == "PERP" else "future"


def shard(symbol: str, shards: int) -> int:
    """Return the shard of a canonical symbol, 0 to ``shards - 1``; the same everywhere, for ever."""
    return zlib.crc32(symbol.encode()) % shards
