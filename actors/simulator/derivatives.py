"""Perpetual swaps: what hangs on a price beside its orders.

Pure and of no venue, in price steps and lots as the book is; the market moves it, venues read it.

The fair price is the index with a basis that strays slowly and comes back. The mark price follows the
middle of the book, smoothed, so that one order does not liquidate anybody. The funding rate is the
smoothed premium of mark over index. Trades open and close interest, some of it by traders whose margin is
small: once the mark price reaches a position's trigger, its owner is closed out by a forced order, which
hits the book as any taker's does, longs as prices fall and shorts as they rise.
"""

import math
import random
from bisect import insort
from collections import deque
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

from actors.model.events import SECOND
from actors.model.instruments import ContractKind

KEEP_FORCED: Final = 1 << 14  # chosen: of one listing, hours at the market's own pace
_BASIS: Final = 0.0003  # chosen: how far a swap strays from its index, a fraction of the price
_BASIS_MEAN: Final = 0.0001  # chosen: longs pay, as in most months
_BASIS_S: Final = 1800.0
_MARK_S: Final = 30.0  # chosen: the mark price follows the book with this time constant
_PREMIUM_S: Final = 3600.0  # chosen: the same of the funding rate after the mark price
_CLAMP: Final = 0.0005  # documented by all venues alike: how far interest pulls at a premium
_POSITIONS: Final = 400  # chosen: leveraged positions a side, the farthest from the price give way
_AT_START: Final = 150
_LEVERAGED: Final = 0.3  # chosen, so that BTC sees some twenty liquidations a minute at its own pace
_NEAREST: Final = 0.0004  # chosen: nobody opens a position nearer to its trigger, a fraction of the price
_AWAY: Final = 0.002  # chosen: the mean distance beyond
_MAINTENANCE: Final = 0.001  # chosen: from the trigger to the price at which nothing is left


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """What one contract of a listing is.

    ``size``: base currency (linear) or quote currency (inverse) a contract, decimal text. ``open_usd``:
    open interest at the start. ``interest``: what the funding rate is drawn to, a fraction an interval;
    None: it is the premium itself. ``cap``: the most that the rate may be, either way. ``funding_s``: the
    interval; settlements are at its multiples since the epoch.
    """

    kind: ContractKind
    size: str
    open_usd: float = 40e6
    interest: float | None = None
    cap: float = 0.00375
    funding_s: int = 8 * 3600


class Forced(NamedTuple):
    """One position that was closed by force, in steps and lots.

    ``sign`` is that of the order: -1 sold a long position. ``price`` is the one at which its owner had
    nothing left; ``filled`` of ``size`` met orders in the book, for ``quote`` steps times lots.
    """

    id: int
    ts: int
    sign: int
    price: int
    size: int
    filled: int
    quote: int


class Position(NamedTuple):
    """A leveraged position that is due: the sign that it held, where its margin ends, its lots."""

    held: int
    price: int
    size: int


class Perpetual:
    """One perpetual swap.

    Attributes:
        contract: What a contract is.
        index: Index price, in price steps.
        mark: Mark price, in price steps.
        rate: What the next settlement would pay now, a fraction.
        settled: What the last one paid.
        open_interest: Lots, one side.
        forced: The last liquidations, the newest last; ``forced_next`` is the next one's id.
    """

    def __init__(self, contract: Contract, seed: str, first_id: int) -> None:
        self.contract = contract
        self.index = self.mark = 0.0
        self.rate = self.settled = 0.0
        self.open_interest = 0
        self.forced: deque[Forced] = deque(maxlen=KEEP_FORCED)
        self.forced_next = first_id
        self._random = random.Random(f"{seed} perpetual")
        self._target = 1
        self._basis = self._smooth = self._premium = _BASIS_MEAN + _BASIS * self._random.gauss(0, 1)
        self._period = 0
        # Of longs and of shorts: (sign * trigger, lots); the one that comes next is the last.
        self._positions: dict[int, list[tuple[int, int]]] = {1: [], -1: []}
        self._held = {1: 0, -1: 0}

    # -- prices --------------------------------------------------------------------------------------

    def move(self, index: float, middle: float, seconds: float) -> float:
        """Let time pass; return the fair price.

        Args:
            index: Index price now, in steps.
            middle: Of the book, in steps; 0 where a side is empty.
            seconds: Since the last time; 0 the first.
        """
        decay = seconds / _BASIS_S
        noise = _BASIS * math.sqrt(2 * decay) * self._random.gauss(0, 1)
        self._basis += noise - (self._basis - _BASIS_MEAN) * decay
        if middle:
            self._smooth += (middle / index - 1 - self._smooth) * min(1.0, seconds / _MARK_S)
        self._premium += (self._smooth - self._premium) * min(1.0, seconds / _PREMIUM_S)
        self.index = index
        self.mark = index * (1 + self._smooth)
        self.rate = self._rate()
        return index * (1 + self._basis)

    def _rate(self) -> float:
        contract = self.contract
        rate = self._premium
        if contract.interest is not None:
            rate += max(-_CLAMP, min(_CLAMP, contract.interest - rate))
        return max(-contract.cap, min(contract.cap, rate))

    def settle(self, now: int) -> None:
        """Pay the rate where a settlement has come since the last time; ``now`` in ns."""
        period = now // (self.contract.funding_s * SECOND)
        if period != self._period:
            self._period = period
            self.settled = self.rate

    def settlement(self, now: int, ahead: int = 1) -> int:
        """Return when the next settlement is (``ahead`` 2: the one after), ns."""
        interval = self.contract.funding_s * SECOND
        return (now // interval + ahead) * interval

    # -- positions -----------------------------------------------------------------------------------

    def open(self, usual: float, lots_a_usd: float) -> None:
        """Let traders be there who came before the start; ``usual``: their usual position, lots."""
        self.open_interest = self._target = max(1, int(self.contract.open_usd * lots_a_usd))
        for held in (1, -1):
            for _ in range(_AT_START):
                self._open(held, self.mark, 1 + int(usual * self._random.expovariate(1)))

    def traded(self, sign: int, price: int, size: int) -> None:
        """Take an order that met others: some open a position with it, some close one."""
        draw = self._random.random
        pull = 0.1 * max(-1.0, min(1.0, 10 * (1 - self.open_interest / self._target)))
        act = draw()
        if act < 0.4 + pull:
            self.open_interest += size
            for held in (sign, -sign):
                if draw() < _LEVERAGED:
                    self._open(held, price, size)
        elif act < 0.8:
            self.open_interest = max(self._held[1], self._held[-1], self.open_interest - size)
            self._leave(1 if draw() < 0.5 else -1)

    def _open(self, held: int, price: float, size: int) -> None:
        away = _NEAREST + self._random.expovariate(1 / _AWAY)
        if self._held[held] + size > self.open_interest:
            return
        positions = self._positions[held]
        insort(positions, (held * max(1, round(price * (1 - held * away))), size))
        self._held[held] += size
        if len(positions) > _POSITIONS:
            self._held[held] -= positions.pop(0)[1]

    def _leave(self, held: int) -> None:
        positions = self._positions[held]
        chosen = int(self._random.random() * _POSITIONS)  # the more there are, the likelier one leaves
        if chosen < len(positions):
            self._held[held] -= positions.pop(chosen)[1]

    def due(self) -> Position | None:
        """Take out the next position whose trigger the mark price has reached, None where there is none."""
        for held, positions in self._positions.items():
            if positions and positions[-1][0] >= held * self.mark:
                key, size = positions.pop()
                self._held[held] -= size
                return Position(held, max(1, round(abs(key) * (1 - held * _MAINTENANCE))), size)
        return None

    def closed(self, position: Position, filled: int, quote: int, now: int) -> None:
        """Record that a position was closed by force; whatever the book did not take, the venue did."""
        self.open_interest = max(self._held[1], self._held[-1], self.open_interest - position.size)
        self.forced.append(
            Forced(self.forced_next, now, -position.held, position.price, position.size, filled, quote)
        )
        self.forced_next += 1

    def forced_since(self, first: int) -> list[Forced]:
        """Return the liquidations with an id of ``first`` or more, as far as they are kept."""
        kept = len(self.forced)
        return [self.forced[i] for i in range(max(0, kept - (self.forced_next - first)), kept)]


def base_text(contract: Contract, size_step: str, lots: int, price: float, places: int = 12) -> bytes:
    """Return ``lots`` of a listing in base currency: exact for linear contracts.

    Args:
        contract: Of the listing.
        size_step: Contracts a lot, decimal text.
        lots: How many.
        price: In quote currency; used for inverse contracts only.
        places: Decimals of inverse contracts.
    """
    value = Decimal(size_step) * lots * Decimal(contract.size)
    if contract.kind == "inverse":
        value = round(value / Decimal(price), places)
    return f"{value:f}".encode()
