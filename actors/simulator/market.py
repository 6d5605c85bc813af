"""One seeded market for all venues: a price for each asset, and orders that hit a real book.

What happens depends on the seed and the listings only; the clock decides when it happens. So a test can
ask for the same market again, and a venue that is added changes nothing for the others.
"""

import math
import random
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heapreplace
from statistics import NormalDist
from typing import Final, NamedTuple

import msgspec

from actors.simulator.book import Book, Fill, Forgotten
from actors.simulator.derivatives import Contract, Perpetual

DAY_S: Final = 86_400
MINUTE_NS: Final = 60_000_000_000
KEEP_CHANGES: Final = 1 << 19  # chosen: of all books together, 16 MiB; BTC-USDT: 20 minutes at its own pace
KEEP_TRADES: Final = 1 << 19  # chosen: of all tapes together, 24 MiB; BTC-USDT: hours at its own pace
_KEEP_LEAST: Final = 4096
_REPRICE_S: Final = 0.1  # chosen: fair prices move ten times a second of market time
_MOST_FORCED: Final = 4  # chosen: liquidations of one listing at a time; what is left waits for the next move


class Asset(NamedTuple):
    """What one unit costs in US dollars at the start, and how far it moves in a day (a fraction)."""

    usd: float
    daily: float


ASSETS: Final[dict[str, Asset]] = {
    "USD": Asset(1.0, 0.0),
    "USDT": Asset(1.0, 0.0004),
    "USDC": Asset(0.9998, 0.0002),
    "TUSD": Asset(0.9991, 0.0006),
    "EUR": Asset(1.084, 0.004),
    "BTC": Asset(64_000.0, 0.025),
    "ETH": Asset(3_150.0, 0.032),
    "SOL": Asset(148.0, 0.045),
    "XRP": Asset(0.5612, 0.040),
    "BNB": Asset(572.0, 0.028),
    "ADA": Asset(0.4021, 0.045),
    "DOGE": Asset(0.1234, 0.055),
    "LTC": Asset(71.3, 0.035),
    "LINK": Asset(13.91, 0.045),
    "DOT": Asset(6.21, 0.045),
    "AVAX": Asset(27.4, 0.050),
    "TRX": Asset(0.1318, 0.025),
    "SHIB": Asset(0.00001734, 0.060),
    "1INCH": Asset(0.3411, 0.050),
    "FLR": Asset(0.0211, 0.050),
    "币安人生": Asset(0.1442, 0.120),
}


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """An instrument on one venue. Steps are decimal text, in quote currency; and base currency or contracts.

    ``orders_per_s``: orders and cancellations at the market's own pace. ``levels``: about how many a
    side. ``usual_usd``: the median order. ``trading`` False: listed, but halted. ``contract``: None of a
    spot pair.
    """

    venue: str
    symbol: str  # canonical
    native: str
    base: str
    quote: str
    price_step: str
    size_step: str
    orders_per_s: float = 2.0
    levels: int = 300
    usual_usd: float = 900.0
    trading: bool = True
    contract: Contract | None = None

    def unit_usd(self, usd: Mapping[str, float]) -> float:
        """Return what a unit of size (base currency, or a contract) costs; ``usd``: the assets' prices."""
        contract = self.contract
        if contract is None:
            return usd[self.base]
        return usd[self.base if contract.kind == "linear" else self.quote] * float(contract.size)


class Fixed:
    """Whole steps to decimal text; texts are kept. Its decimals are fixed, unless zeros are trimmed."""

    _MOST = 1 << 12  # chosen: half a MiB at worst, and there are two for each listing

    def __init__(self, step: str, shown: int | None = None, *, trim: bool = False) -> None:
        """Take the step as decimal text; ``shown`` decimals, by default the step's own."""
        _, _, fraction = step.partition(".")
        own = len(fraction)
        self.unit = int(step.replace(".", ""))
        self.decimals = own if shown is None else shown
        if self.decimals < own:
            raise ValueError(f"{step} cannot be shown with {shown} decimals")
        self._factor = self.unit * 10 ** (self.decimals - own)
        self._trim = trim and self.decimals > 0
        self._known: dict[int, bytes] = {}

    def __call__(self, n: int) -> bytes:
        """Return ``n`` steps as text."""
        text = self._known.get(n)
        if text is None:
            if len(self._known) >= self._MOST:
                self._known.clear()
            text = fixed(n * self._factor, self.decimals)
            if self._trim:
                text = text.rstrip(b"0").rstrip(b".")
            self._known[n] = text
        return text


def fixed(n: int, decimals: int) -> bytes:
    """Return ``n`` units of ``10 ** -decimals`` as text with that many decimals."""
    if decimals == 0:
        return b"%d" % n
    sign = b"-" if n < 0 else b""
    whole, rest = divmod(abs(n), 10**decimals)
    return b"%b%d.%0*d" % (sign, whole, decimals, rest)


class Print(NamedTuple):
    """One trade on the tape, in steps and lots; ``sign`` +1 when the taker bought."""

    id: int
    ts: int
    price: int
    size: int
    sign: int


class Tape:
    """Every trade of one listing, the last ``keep`` or more of them. Ids have no holes."""

    def __init__(self, next_id: int, keep: int) -> None:
        self.first = next_id  # the oldest one kept
        self.next = next_id
        self._keep = keep
        self._ts = array("q")
        self._price = array("q")
        self._size = array("q")  # negative when the taker sold

    def add(self, ts: int, price: int, size: int, sign: int) -> None:
        """Append one trade."""
        self._ts.append(ts)
        self._price.append(price)
        self._size.append(size * sign)
        self.next += 1
        if len(self._ts) >= 2 * self._keep:
            del self._ts[: self._keep], self._price[: self._keep], self._size[: self._keep]
            self.first += self._keep

    def read(self, first: int, last: int) -> list[Print]:
        """Return the trades of a range of ids, both included, as far as they exist and are kept."""
        return [self[i] for i in range(max(first, self.first), min(last + 1, self.next))]

    def after(self, ts: int) -> int:
        """Return the id of the first trade later than a time, among those kept; ``next`` if there is none."""
        return self.first + bisect_right(self._ts, ts)

    def __getitem__(self, trade_id: int) -> Print:
        i = trade_id - self.first
        if not 0 <= i < len(self._ts):
            raise Forgotten(f"trade {trade_id} is outside {self.first} to {self.next - 1}")
        size = self._size[i]
        return Print(trade_id, self._ts[i], self._price[i], abs(size), 1 if size > 0 else -1)


class Summary(NamedTuple):
    """The last 24 hours, in steps and lots; ``quote`` in steps times lots."""

    opened_at: int
    open: int
    high: int
    low: int
    close: int
    last_size: int
    before: int  # price of the last trade before the window
    volume: int
    quote: int
    first_id: int
    trades: int


class _Minute:
    __slots__ = ("close", "first_id", "high", "low", "minute", "open", "quote", "trades", "volume")

    def __init__(self, minute: int, price: int, first_id: int) -> None:
        self.minute = minute
        self.open = self.high = self.low = self.close = price
        self.volume = self.quote = self.trades = 0
        self.first_id = first_id


class Day:
    """Rolls the last 24 hours minute by minute."""

    def __init__(self) -> None:
        self._minutes: deque[_Minute] = deque()
        self._high = self._low = self._volume = self._quote = self._trades = 0
        self._last_size = self._before = 0

    def add(self, ts: int, price: int, size: int, trade_id: int) -> None:
        """Take one trade."""
        minute = ts // MINUTE_NS
        minutes = self._minutes
        if not minutes or minutes[-1].minute != minute:
            self._roll(minute, price, trade_id)
        now = minutes[-1]
        now.high = max(now.high, price)
        now.low = min(now.low, price)
        now.volume += size
        now.quote += price * size
        now.trades += 1
        now.close = price
        self._high = max(self._high, price)
        self._low = min(self._low, price)
        self._volume += size
        self._quote += price * size
        self._trades += 1
        self._last_size = size

    def _roll(self, minute: int, price: int, trade_id: int) -> None:
        minutes = self._minutes
        minutes.append(_Minute(minute, price, trade_id))
        while minutes[0].minute <= minute - DAY_S // 60:
            gone = minutes.popleft()
            self._before = gone.close
            self._volume -= gone.volume
            self._quote -= gone.quote
            self._trades -= gone.trades
        self._high = max(m.high for m in minutes)
        self._low = min(m.low for m in minutes)

    def summary(self) -> Summary | None:
        """Return the window as it is now; None before the first trade."""
        if not self._minutes:
            return None
        first = self._minutes[0]
        return Summary(
            opened_at=first.minute * MINUTE_NS,
            open=first.open,
            high=self._high,
            low=self._low,
            close=self._minutes[-1].close,
            last_size=self._last_size,
            before=self._before or first.open,
            volume=self._volume,
            quote=self._quote,
            first_id=first.first_id,
            trades=self._trades,
        )


class Prices:
    """A price in US dollars for each asset: correlated random walks that return slowly."""

    _COMMON = 0.6  # chosen: how much of a move all coins share
    _RETURN_S = 6 * 3600.0  # chosen: keeps a demo that runs for months near where it began

    def __init__(self, seed: int) -> None:
        self.usd: dict[str, float] = {name: asset.usd for name, asset in ASSETS.items()}
        self._away = dict.fromkeys(ASSETS, 0.0)  # log of the distance from the start
        self._random = random.Random(f"{seed} prices")

    def move(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        gauss = self._random.gauss
        common = self._COMMON * gauss(0, 1)
        own = math.sqrt(1 - self._COMMON**2)
        root = math.sqrt(seconds / DAY_S)
        back = seconds / self._RETURN_S
        for name, asset in ASSETS.items():
            if asset.daily:
                away = self._away[name]
                away += asset.daily * root * (common + own * gauss(0, 1)) - away * back
                self._away[name] = away
                self.usd[name] = asset.usd * math.exp(away)


# Quantiles, from which drawing costs a third of what random.gauss costs: log-normal sizes, exponential waits.
_DRAWS: Final = 4096
_MIDDLES: Final = [(i + 0.5) / _DRAWS for i in range(_DRAWS)]
_SIZES: Final = [math.exp(1.2 * NormalDist().inv_cdf(u)) for u in _MIDDLES]
_WAITS: Final = [-math.log(1 - u) for u in _MIDDLES]


class Live:
    """A listing with its book, its tape and the people who trade it."""

    _TAKERS = 0.07  # chosen, so that about two published events in five are trades
    _NOTICED = 0.0002  # chosen: takers lean towards the fair price from about this far, a fraction of it
    _BASIS = 0.00008  # chosen: how far a venue strays from the others, a fraction of the price
    _BASIS_S = 60.0

    def __init__(self, listing: Listing, seed: int, first_id: int, share: float) -> None:
        """``share``: of what all listings keep together."""
        self.listing = listing
        self.book = Book(first_id, max(_KEEP_LEAST, int(KEEP_CHANGES * share)))
        self.tape = Tape(first_id, max(_KEEP_LEAST, int(KEEP_TRADES * share)))
        self.day = Day()
        self.fair = 0.0  # in price steps
        name = f"{seed} {listing.venue} {listing.symbol}"
        self._random = random.Random(name)
        self._basis = 0.0
        self._price_step = float(listing.price_step)
        self._size_step = float(listing.size_step)
        self._usual = 1.0  # lots
        self.perpetual = None if listing.contract is None else Perpetual(listing.contract, name, first_id)
        self._resting: list[int] = []  # ids, some of them gone
        self._target = int(2 * listing.levels * 1.25)

    def reprice(self, usd: dict[str, float], seconds: float) -> None:
        """Move what an informed trader thinks the price is."""
        listing = self.listing
        decay = seconds / self._BASIS_S
        noise = self._BASIS * math.sqrt(2 * decay) * self._random.gauss(0, 1) if seconds else 0.0
        self._basis += noise - self._basis * decay
        fair = usd[listing.base] / usd[listing.quote]
        self._usual = listing.usual_usd / listing.unit_usd(usd) / self._size_step
        if self.perpetual is not None:
            bid, _, ask, _ = self.book.top()
            middle = (bid + ask) / 2 if bid and ask else 0.0
            fair = self.perpetual.move(fair / self._price_step, middle, seconds) * self._price_step
        self.fair = fair * (1 + self._basis) / self._price_step

    def open(self) -> None:
        """Fill the book before the first moment; nothing trades."""
        if self.perpetual is not None:
            self.perpetual.open(self._usual, self._usual / self.listing.usual_usd)
        for _ in range(self._target // 2):
            for side in (1, -1):
                self._rest(side * max(1, math.floor(self.fair - side * (1 + self._away())) + (side < 0)))

    def _rest(self, key: int) -> list[Fill]:
        order_id, fills = self.book.submit(key, self._size())
        if order_id:
            self._resting.append(order_id)
        return fills

    def _size(self) -> int:
        return 1 + int(self._usual * _SIZES[int(self._random.random() * _DRAWS)])

    def _away(self) -> float:
        draw = self._random.random()
        scale = 0.0002 if draw < 0.5 else 0.003 if draw < 0.9 else 0.03
        return self.fair * scale * _WAITS[int(self._random.random() * _DRAWS)]

    def wait(self) -> float:
        """Return the market seconds until somebody acts again."""
        return _WAITS[int(self._random.random() * _DRAWS)] / self.listing.orders_per_s

    def act(self) -> tuple[int, list[Fill]]:
        """Let somebody act; return the taker's sign and what it filled."""
        bid, _, ask, _ = self.book.top()
        draw = self._random.random()
        lean = 0.0
        if bid and ask:
            lean = (self.fair - (bid + ask) / 2) / max(ask - bid, self.fair * self._NOTICED, 1.0)
            if draw < (self._TAKERS if -1.5 < lean < 1.5 else 3 * self._TAKERS):
                return self._take(bid, ask, lean)
        if self._random.random() < min(0.9, 0.5 * len(self.book) / self._target):
            self._withdraw()
            return 0, []
        return self._make(bid, ask)

    def _take(self, bid: int, ask: int, lean: float) -> tuple[int, list[Fill]]:
        sign = 1 if self._random.random() < 0.5 + 0.45 * max(-1.0, min(1.0, lean)) else -1
        reach = self.fair * 0.002
        worst = max(ask, int(self.fair + reach)) if sign > 0 else -min(bid, int(self.fair - reach) + 1)
        if self._random.random() < 0.1:
            return sign, self._rest(ask if sign > 0 else -bid)  # a limit order: its remainder rests
        _, fills = self.book.submit(worst, 1 + self._size() // 2, rest=False)
        return sign, fills

    def _make(self, bid: int, ask: int) -> tuple[int, list[Fill]]:
        side = 1 if self._random.random() < 0.5 else -1
        inside = math.floor(self.fair) if side > 0 else math.ceil(self.fair)
        if bid and ask and self._random.random() < 0.45:
            room = int((ask - bid - 1) * self._random.random() ** 2) + 1 if ask - bid > 1 else 0
            better = room if self._random.random() < 0.6 else 0
            price = min(bid + better, inside, ask - 1) if side > 0 else max(ask - better, inside, bid + 1)
        else:
            price = math.floor(self.fair - side * self._away()) + (side < 0)
            if bid and ask:
                price = min(price, ask - 1) if side > 0 else max(price, bid + 1)
        return side, self._rest(side * max(1, price))

    def close_out(self, held: int, size: int) -> list[Fill]:
        """Close a position at what the book gives, not too far from the fair price; ``held`` is its sign."""
        bid, _, ask, _ = self.book.top()
        worst = max(ask, int(self.fair * 1.01)) if held < 0 else -max(1, min(bid, int(self.fair * 0.99)))
        return self.book.submit(worst, size, rest=False)[1]

    def _withdraw(self) -> None:
        resting = self._resting
        while resting:
            i = int(self._random.random() * len(resting))
            order_id = resting[i]
            last = resting.pop()
            if last != order_id:
                resting[i] = last
            if self.book.cancel(order_id):
                return


Sink = Callable[[Live, int, list[Fill], bool, int], None]
"""What a venue does with one act: listing, taker's sign, fills (already on the tape), whether the top
of the book changed, now in ns."""


def nothing(_live: Live, _sign: int, _fills: list[Fill], _top: bool, _now: int) -> None:
    """Publish nothing."""


class Market:
    """All listings of all venues.

    Attributes:
        time: Market seconds since the start.
        live: By venue and canonical symbol; halted listings are not in it.
        sinks: By venue, what it does with each act.
        acts: How many there were.
        published: Trades and changes of a book's top so far, all venues.
    """

    def __init__(self, seed: int, listings: Sequence[Listing], first_id: int) -> None:
        self.seed = seed
        self.time = 0.0
        self.acts = 0
        self.published = 0
        self.live: dict[tuple[str, str], Live] = {}
        self.sinks: dict[str, Sink] = {}
        self._prices = Prices(seed)
        self._repriced = 0.0
        acts_per_s = sum(listing.orders_per_s for listing in listings if listing.trading)
        for listing in listings:
            if listing.trading:
                live = Live(listing, seed, first_id, listing.orders_per_s / acts_per_s)
                live.reprice(self._prices.usd, 0.0)
                live.open()
                self.live[listing.venue, listing.symbol] = live
        self._order = list(self.live.values())
        self._perpetuals = [i for i, live in enumerate(self._order) if live.perpetual is not None]
        self._tops = [live.book.top() for live in self._order]
        self._next = [(live.wait(), i) for i, live in enumerate(self._order)]
        heapify(self._next)

    def of(self, venue: str) -> Iterator[Live]:
        """Yield the live listings of one venue."""
        return (live for (name, _), live in self.live.items() if name == venue)

    @property
    def due(self) -> float:
        """Market seconds at which the next act happens."""
        return self._next[0][0]

    def step(self, now: int) -> None:
        """Let the next act happen, stamped ``now`` (ns)."""
        at, i = self._next[0]
        self.time = at
        while self._repriced + _REPRICE_S <= at:
            self._repriced += _REPRICE_S
            self._prices.move(_REPRICE_S)
            for live in self._order:
                live.reprice(self._prices.usd, _REPRICE_S)
            for j in self._perpetuals:
                self._liquidate(j, now)
        live = self._order[i]
        sign, fills = live.act()
        if fills and live.perpetual is not None:
            live.perpetual.traded(sign, fills[0].price, sum(fill.size for fill in fills))
        self._tell(i, sign, fills, now)
        self.acts += 1
        heapreplace(self._next, (at + live.wait(), i))

    def _liquidate(self, i: int, now: int) -> None:
        live = self._order[i]
        perpetual = live.perpetual
        if perpetual is None:
            return
        perpetual.settle(now)
        for _ in range(_MOST_FORCED):
            position = perpetual.due()
            if position is None:
                return
            fills = live.close_out(position.held, position.size)
            filled, quote = sum(f.size for f in fills), sum(f.size * f.price for f in fills)
            perpetual.closed(position, filled, quote, now)
            self._tell(i, -position.held, fills, now)

    def _tell(self, i: int, sign: int, fills: list[Fill], now: int) -> None:
        """Put what was filled on the tape and tell the venue what there is to publish."""
        live = self._order[i]
        tape = live.tape
        for fill in fills:
            live.day.add(now, fill.price, fill.size, tape.next)
            tape.add(now, fill.price, fill.size, sign)
        top = live.book.top()
        changed = top != self._tops[i]
        self._tops[i] = top
        self.published += len(fills) + changed
        if changed or fills:
            self.sinks.get(live.listing.venue, nothing)(live, sign, fills, changed, now)
