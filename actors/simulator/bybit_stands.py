"""Bybit's instruments as a client sees them: the words for what happens to them, and what is spot's own.

Each depth of a book numbers its own updates (``u``), so what a book of ours stands for is told by its time,
noted with the book's true sequence (``Shop.told``).

Source: bybit-exchange/docs v5 as of 2026-07; captures of 2024 to 2026.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from actors.model.events import MS, SECOND
from actors.simulator.derivatives import Forced
from actors.simulator.house import Shop, trimmed
from actors.simulator.market import Listing, Print, fixed
from actors.simulator.session import Topic
from actors.simulator.window import Window

DEPTHS: Final = {50: 20, 200: 100, 1000: 200}  # levels a side -> ms between updates
AGAIN_NS: Final = 3 * SECOND  # the best prices are said again after so long without a change
MOST_FILLS: Final = 1024  # of one frame

Levels = Sequence[tuple[int, int]]  # price and size
Sides = tuple[Levels, Levels]  # bids and asks


class Category(NamedTuple):
    """What differs from one category to the other.

    ``frame``: topic, type, ms, rest of the document -> frame. ``fill``: shop, trade, sequence -> one element
    of ``publicTrade``. ``ticker``: shop, now in ns -> every field of its ticker; ``ticker_frame``: topic,
    type, ms, sequence, data -> its frame; ``deltas``: only what changed is told. ``row``: of the list of
    instruments, which may be ``paged``. ``identity``: a trade's number -> its id. ``numbered``: answers bear
    the number of the request. ``unknown``: how a topic of no instrument is refused. ``data_first``: what a
    topic opens with comes before the answer. ``book_limit``: levels by REST where the request does not say.
    """

    name: str
    frame: Callable[[str, bytes, int, bytes], bytes]
    fill: Callable[[Shop, Print, int], bytes]
    ticker: Callable[[Shop, int], dict[str, bytes]]
    ticker_frame: Callable[[str, bytes, int, int, bytes], bytes]
    ticker_ms: int
    deltas: bool
    row: Callable[[Listing], dict[str, object]]
    identity: Callable[[int], str]
    most_args: int | None
    trim: bool
    paged: bool
    numbered: bool
    unknown: str
    data_first: bool
    book_limit: int


# -- one listing ---------------------------------------------------------------------------------


class Stand:
    """A shop's topics, and what was told of each."""

    def __init__(self, shop: Shop, category: Category) -> None:
        native, symbol = shop.listing.native, shop.symbol
        shop.identity = category.identity
        self.shop = shop
        self.category = category
        self.trades = Topic(f"publicTrade.{native}", "trade", symbol)
        self.tops = Topic(f"orderbook.1.{native}", "l1", symbol)
        self.tickers = Topic(f"tickers.{native}", "ticker", symbol)
        self.liquidations = Topic(f"allLiquidation.{native}", "liquidation", symbol)
        self.books = {levels: Depth(self, levels) for levels in DEPTHS}
        self.moved = True  # its best prices have, since they were told
        self._top_u, self._top_at = 0, 0
        self._ticker: dict[str, bytes] = {}  # as those who listen have it
        swap = shop.live.perpetual
        self._forced = 0 if swap is None else swap.forced_next  # up to which they were told
        self._stamped = (0, 0)

    def stamp(self, now: int) -> int:
        """Return the time of the book as it is now, in ms: another one than of any other book."""
        at, sequence = self._stamped
        present = self.shop.live.book.sequence
        self._stamped = max(now // MS, at + (present != sequence)), present
        self.shop.told(self._stamped[0] * MS)
        return self._stamped[0]

    def traded(self, fills: int, now: int) -> None:
        """Tell the last ``fills`` trades, which are those of one order."""
        live, fill = self.shop.live, self.category.fill
        if self.trades.groups:
            first = live.tape.next - fills
            data = [
                fill(self.shop, each, live.book.sequence) for each in live.tape.read(first, first + fills - 1)
            ]
            for start in range(0, fills, MOST_FILLS):
                self._tell_list(self.trades, data[start : start + MOST_FILLS], now)

    def _tell_list(self, topic: Topic, data: Sequence[bytes], now: int) -> None:
        rest = b'"data":[' + b",".join(data) + b"]"
        topic.tell(self.category.frame(topic.name, b"snapshot", now // MS, rest))

    def levels(self, topic: Topic, kind: bytes, sides: Sides, u: int, ms: int) -> bytes:
        """Return levels of a book as a frame."""
        bids, asks = map(self._rows, sides)
        data = b'"data":{"s":"%b","b":[%b],"a":[%b],"u":%d,"seq":%d},"cts":%d' % (
            self.shop.native, bids, asks, u, self.shop.live.book.sequence, ms,
        )  # fmt: skip
        return self.category.frame(topic.name, kind, ms, data)

    def _rows(self, levels: Levels) -> bytes:
        price, size = self.shop.price, self.shop.size
        return b",".join([b'["%b","%b"]' % (price(p), size(s) if s else b"0") for p, s in levels])

    def top(self, now: int) -> bytes:
        """Return the best bid and offer, a side of which may be empty."""
        bid, bid_size, ask, ask_size = self.shop.live.book.top()
        sides = [(bid, bid_size)] if bid else [], [(ask, ask_size)] if ask else []
        return self.levels(self.tops, b"snapshot", sides, self._top_u, now // MS)

    def tell_top(self, now: int) -> None:
        """Tell the best bid and offer when they are others, or were not told for long."""
        self._top_u += self.moved
        if self.tops.groups and (self.moved or now - self._top_at >= AGAIN_NS):
            self.tops.tell(self.top(now))
            self._top_at = now
        self.moved = False

    def ticker(self, now: int) -> bytes:
        """Return the whole ticker, as those who listen have it."""
        if not self.tickers.groups:
            self._ticker = self.category.ticker(self.shop, now)
        return self._ticker_frame(b"snapshot", self._ticker, now)

    def tell_ticker(self, now: int) -> None:
        """Tell a ticker that is another: what changed in it, or all of it."""
        if not self.tickers.groups:
            return
        present = self.category.ticker(self.shop, now)
        changed = {name: text for name, text in present.items() if self._ticker.get(name) != text}
        self._ticker = present
        if changed and self.category.deltas:
            self.tickers.tell(self._ticker_frame(b"delta", changed, now))
        elif changed:
            self.tickers.tell(self._ticker_frame(b"snapshot", present, now))

    def _ticker_frame(self, kind: bytes, fields: Mapping[str, bytes], now: int) -> bytes:
        texts = b"".join([b',"%b":"%b"' % (name.encode(), text) for name, text in fields.items()])
        data, cs = b'{"symbol":"%b"%b}' % (self.shop.native, texts), self.shop.live.book.sequence
        return self.category.ticker_frame(self.tickers.name, kind, now // MS, cs, data)

    def tell_liquidations(self, now: int) -> None:
        """Tell the positions that were closed by force since the last time; the side is the position's."""
        swap = self.shop.live.perpetual
        if swap is None or swap.forced_next == self._forced:
            return
        forced, self._forced = swap.forced_since(self._forced), swap.forced_next
        if self.liquidations.groups:
            self._tell_list(self.liquidations, [_liquidation(self.shop, each) for each in forced], now)

    def book(self, levels: int, now: int) -> dict[str, object]:
        """Return the best levels as REST tells them."""
        book, ms = self.shop.book(None, levels), self.stamp(now)
        numbers = {"ts": now // MS, "u": self.books[1000].u, "seq": book.seq, "cts": ms}
        return {"s": self.shop.listing.native, "b": book.bids, "a": book.asks, **numbers}

    def offers(self) -> dict[str, tuple[Topic, Callable[[int], bytes]]]:
        """Return each topic by its name, with what it opens with."""
        greets = [(self.trades, _nothing), (self.tops, self.top), (self.tickers, self.ticker)]
        greets += [(book.topic, book.snapshot) for book in self.books.values()]
        greets += [] if self.shop.live.perpetual is None else [(self.liquidations, _nothing)]
        return {topic.name: (topic, greet) for topic, greet in greets}


def _liquidation(shop: Shop, forced: Forced) -> bytes:
    position = b"Buy" if forced.sign < 0 else b"Sell"  # a long was sold
    return b'{"T":%d,"s":"%b","S":"%b","v":"%b","p":"%b"}' % (
        forced.ts // MS, shop.native, position, shop.size(forced.size), shop.price(forced.price),
    )  # fmt: skip


def _nothing(_now: int) -> bytes:
    return b""


class Depth:
    """A book of so many levels a side: who applies every change holds exactly these."""

    def __init__(self, stand: Stand, levels: int) -> None:
        self._stand = stand
        self._levels = levels
        shop = stand.shop
        self.topic = Topic(f"orderbook.{levels}.{shop.listing.native}", "book", shop.symbol)
        self._window: Window | None = None  # None: told to nobody
        self.u = shop.live.book.sequence

    def snapshot(self, now: int) -> bytes:
        """Return all levels, at which those who listen already are by now."""
        self.tell(now)
        if self._window is None:
            self._window = Window(self._stand.shop.live.book, self._levels)
            self.u += 1
        return self._frame(b"snapshot", self._window.levels, self._window, now)

    def tell(self, now: int, *, anew: bool = False) -> None:
        """Tell what changed; ``anew``: the service was restarted, and all begins with ``u`` 1."""
        if not self.topic.groups:
            self._window = None
        elif self._window is None or anew:
            self._window = Window(self._stand.shop.live.book, self._levels)
            self.u = 1 if anew else self.u + 1
            self.topic.tell(self._frame(b"snapshot", self._window.levels, self._window, now))
        elif changed := self._window.follow():
            self.u += 1
            self.topic.tell(self._frame(b"delta", changed, self._window, now))

    def _frame(self, kind: bytes, keys: Sequence[int] | Mapping[int, int], window: Window, now: int) -> bytes:
        ordered = [(key, window.levels.get(key, 0)) for key in sorted(keys, reverse=True)]
        sides = [each for each in ordered if each[0] > 0], [(-key, size) for key, size in ordered if key < 0]
        return self._stand.levels(self.topic, kind, sides, self.u, self._stand.stamp(now))


# -- the category that this file serves ----------------------------------------------------------


def _frame(topic: str, kind: bytes, ms: int, rest: bytes) -> bytes:
    return b'{"topic":"%b","ts":%d,"type":"%b",%b}' % (topic.encode(), ms, kind, rest)


def _ticker_frame(topic: str, kind: bytes, ms: int, cs: int, data: bytes) -> bytes:
    return _frame(topic, kind, ms, b'"cs":%d,"data":%b' % (cs, data))


def _fill(shop: Shop, trade: Print, sequence: int) -> bytes:
    return b'{"i":"%d","T":%d,"p":"%b","v":"%b","S":"%b","seq":%d,"s":"%b","BT":false,"RPI":false}' % (
        trade.id, trade.ts // MS, shop.price(trade.price), shop.size(trade.size),
        b"Buy" if trade.sign > 0 else b"Sell", sequence, shop.native,
    )  # fmt: skip


def day(shop: Shop, decimals: int = 4) -> dict[str, bytes]:
    """Return what both categories tell of the last 24 hours; before the first trade that is nothing.

    ``decimals``: of the change, which is a fraction.
    """
    summary = shop.live.day.summary()
    if summary is None:
        none = ("lastPrice", "highPrice24h", "lowPrice24h", "prevPrice24h")
        return {**dict.fromkeys(none, b""), "volume24h": b"0", "turnover24h": b"0", "price24hPcnt": b"0"}
    return {
        "lastPrice": shop.price(summary.close),
        "highPrice24h": shop.price(summary.high),
        "lowPrice24h": shop.price(summary.low),
        "prevPrice24h": shop.price(summary.open),
        "volume24h": shop.size(summary.volume),
        "turnover24h": trimmed(shop.quote(summary.quote, 8)),
        "price24hPcnt": fraction(summary.close / summary.open - 1, decimals),
    }


def fraction(value: float, decimals: int) -> bytes:
    """Return a fraction as text."""
    return trimmed(fixed(round(value * 10**decimals), decimals))


def _ticker(shop: Shop, _now: int) -> dict[str, bytes]:
    return {**day(shop), "usdIndexPrice": b""}


def _row(listing: Listing) -> dict[str, object]:
    return {
        "symbol": listing.native,
        "baseCoin": listing.base,
        "quoteCoin": listing.quote,
        "innovation": "0",
        "status": "Trading",
        "marginTrading": "utaOnly",
        "lotSizeFilter": {"basePrecision": listing.size_step, "minOrderQty": listing.size_step},
        "priceFilter": {"tickSize": listing.price_step},
    }


SPOT: Final = Category(
    name="spot",
    frame=_frame,
    fill=_fill,
    ticker=_ticker,
    ticker_frame=_ticker_frame,
    ticker_ms=50,
    deltas=False,
    row=_row,
    identity=str,
    most_args=10,
    trim=True,
    paged=False,
    numbered=True,
    unknown="Invalid symbol :[{}]",  # chosen: as other clients tell it, recorded is only that of linear
    data_first=False,
    book_limit=1,
)
