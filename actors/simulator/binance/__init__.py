"""Binance spot as a server: market streams, REST, their limits, and frames for benchmarks."""

from actors.simulator.binance.generate import DEMO_SYMBOLS, FRAMES_PER_DEPTH, Generated, frames, generate
from actors.simulator.binance.listings import LIMITS, LISTINGS
from actors.simulator.binance.spot import Binance

__all__ = [
    "DEMO_SYMBOLS",
    "FRAMES_PER_DEPTH",
    "LIMITS",
    "LISTINGS",
    "Binance",
    "Generated",
    "frames",
    "generate",
]
