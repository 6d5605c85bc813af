"""Frames of Binance without a server, for benchmarks and tests: the same for the same arguments."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from actors.model.events import SECOND
from actors.simulator.binance import LIMITS, LISTINGS, NAME, Binance, exchange_info
from actors.simulator.faults import Faults
from actors.simulator.house import TrueBook
from actors.simulator.market import Fill, Live, Market
from actors.simulator.session import Reply
from actors.simulator.venue import accept


class Generated(NamedTuple):
    """Frames of one combined connection, and what a client would have fetched beside.

    ``snapshots`` (by canonical symbol) are from before the first frame, so that the first depth frame
    of each symbol joins it; ``books`` are the true ones after the last depth frame of each symbol:
    sequence, then (price, size) texts, best first. ``later``: more snapshots, each as of a depth frame:
    (how many frames are before it, symbol, body), for a book whose market has moved off the first.
    """

    frames: list[bytes]
    exchange_info: bytes
    snapshots: dict[str, bytes]
    books: dict[str, TrueBook]
    later: list[tuple[int, str, bytes]]


_GENERATED: Final = ("trade", "bookTicker", "depth@100ms")
FRAMES_PER_DEPTH: Final = 10  # as in a capture of BTCUSDT in 2024: 332 depth to 3,346 others
FRAMES_PER_SNAPSHOT: Final = 5_000  # chosen: the market moves off a snapshot of 1,000 levels in some 100,000
_START: Final = 1_767_225_600 * SECOND  # 2026-01-01: generated frames never depend on the clock
DEMO_SYMBOLS: Final = ("BTC-USDT", "ETH-USDT", "SOL-USDT")


def generate(seed: int, n: int, symbols: Sequence[str] = DEMO_SYMBOLS, start: int = _START) -> Generated:
    """Return ``n`` combined-stream frames and their surroundings; the same for the same arguments.

    The mix of each symbol: ``FRAMES_PER_DEPTH`` frames of ``@trade`` and ``@bookTicker``, about two in
    five of them trades, then one ``@depth@100ms`` with what changed meanwhile. Times are the market's own.

    Raises:
        KeyError: A symbol that is not listed, or halted.
    """
    chosen = [listing for listing in LISTINGS if listing.symbol in symbols and listing.trading]
    if missing := set(symbols) - {listing.symbol for listing in chosen}:
        raise KeyError(f"not listed: {', '.join(sorted(missing))}")
    market = Market(seed, chosen, first_id=start // 1000)
    venue = Binance(market, Faults(), start, chosen)
    natives = [listing.native.lower() for listing in chosen]
    names = "/".join(f"{native}@{kind}" for native in natives for kind in _GENERATED)
    session = accept(venue, 1, "/stream", {"streams": names}, start)
    if isinstance(session, Reply):
        raise TypeError(f"the gateway refused: {session.status}")
    snapshots = {symbol: venue.snapshot(symbol) for symbol in symbols}
    sequences = {symbol: shop.live.book.sequence for symbol, shop in venue.house.by_symbol.items()}
    others = dict.fromkeys(symbols, 0)
    later: list[tuple[int, str, bytes]] = []
    due = dict.fromkeys(symbols, FRAMES_PER_SNAPSHOT)
    publish = market.sinks[NAME]

    def act(live: Live, sign: int, fills: list[Fill], top: bool, now: int) -> None:
        symbol = live.listing.symbol
        before = len(session.out)
        publish(live, sign, fills, top, now)
        others[symbol] += len(session.out) - before
        if others[symbol] >= FRAMES_PER_DEPTH:
            others[symbol] = 0
            venue.send_depth(symbol, now)
            if len(session.out) <= n:
                sequences[symbol] = live.book.sequence
            if due[symbol] <= len(session.out) <= n:
                due[symbol] += FRAMES_PER_SNAPSHOT
                later.append((len(session.out), symbol, venue.snapshot(symbol)))

    market.sinks[NAME] = act
    while len(session.out) < n:
        market.step(start + int(market.due * SECOND))
    books = {symbol: venue.house.by_symbol[symbol].book(sequences[symbol]) for symbol in symbols}
    info = exchange_info(chosen, LIMITS["weight_per_minute"], start)
    return Generated(session.out[:n], info, snapshots, books, later)


def frames(seed: int, n: int, symbols: Sequence[str] = DEMO_SYMBOLS) -> list[bytes]:
    """Return ``n`` combined-stream frames, see ``generate``."""
    return generate(seed, n, symbols).frames
