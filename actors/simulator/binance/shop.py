"""One listing as Binance shows it: its streams, its numbers as text, its 24 hours."""

from collections.abc import Sequence

from actors.model.events import Channel
from actors.simulator.binance.gateway import Encode, Stream
from actors.simulator.binance.listings import MS, SHOWN
from actors.simulator.book import Levels
from actors.simulator.market import Fixed, Live, Print, fixed


class Shop:
    """One listing as Binance shows it: its streams, its numbers as text, how far its depth was sent."""

    def __init__(self, live: Live) -> None:
        listing = live.listing
        name = listing.native.lower()
        symbol = listing.symbol

        def stream(kind: str, channel: Channel) -> Stream:
            return Stream(f"{name}@{kind}", channel, symbol)

        self.live = live
        self.native = listing.native.encode()
        self.price = Fixed(listing.price_step, SHOWN)
        self.size = Fixed(listing.size_step, SHOWN)
        decimals = len(listing.price_step.partition(".")[2]) + len(listing.size_step.partition(".")[2])
        self._quote = 10 ** (SHOWN - decimals) * self.price.unit * self.size.unit
        self.aggregate = live.tape.next
        self.trade = stream("trade", "trade")
        self.agg = stream("aggTrade", "trade")
        self.top = stream("bookTicker", "l1")
        self.fast = stream("depth@100ms", "book")
        self.slow = stream("depth", "book")
        self.sent = {self.fast: live.book.sequence, self.slow: live.book.sequence}
        self.partials = [(stream(f"depth{n}@100ms", "book"), n, True) for n in (5, 10, 20)]
        self.partials += [(stream(f"depth{n}", "book"), n, False) for n in (5, 10, 20)]
        self.shown: dict[Stream, int] = {}
        self.ticker = stream("ticker", "ticker")
        self.mini = stream("miniTicker", "ticker")
        self.told = live.tape.next  # up to which trade !miniTicker@arr has told

    def streams(self) -> list[Stream]:
        """Return all of them."""
        partial = [each for each, _, _ in self.partials]
        return [self.trade, self.agg, self.top, self.fast, self.slow, self.ticker, self.mini, *partial]

    def rows(self, levels: Sequence[tuple[int, int]]) -> bytes:
        """Return levels as Binance writes them."""
        price, size = self.price, self.size
        return b"[" + b",".join([b'["%b","%b"]' % (price(p), size(s)) for p, s in levels]) + b"]"

    def quote(self, amount: int) -> bytes:
        """Return steps times lots as quote currency."""
        return fixed(amount * self._quote, SHOWN)

    def snapshot(self, sequence: int, levels: Levels) -> bytes:
        """Return a book as ``/api/v3/depth`` and the partial depth streams write it."""
        return b'{"lastUpdateId":%d,"bids":%b,"asks":%b}' % (
            sequence,
            self.rows(levels.bids),
            self.rows(levels.asks),
        )


def mini(shop: Shop, now: int) -> Encode | None:
    """Return what ``@miniTicker`` says now; None before the first trade."""
    day = shop.live.day.summary()
    if day is None:
        return None
    price, size = shop.price, shop.size
    return lambda unit: (
        b'{"e":"24hrMiniTicker","E":%d,"s":"%b","c":"%b","o":"%b","h":"%b","l":"%b","v":"%b","q":"%b"}'
        % (
            now // unit, shop.native, price(day.close), price(day.open), price(day.high), price(day.low),
            size(day.volume), shop.quote(day.quote),
        )
    )  # fmt: skip


def ticker(shop: Shop, now: int) -> Encode | None:
    """Return what ``@ticker`` says now; None before the first trade."""
    day = shop.live.day.summary()
    if day is None:
        return None
    price, size = shop.price, shop.size
    bid, bid_size, ask, ask_size = shop.live.book.top()
    change = day.close - day.open
    percent = fixed(change * 100_000 // day.open, 3)
    return lambda unit: (
        b'{"e":"24hrTicker","E":%d,"s":"%b","p":"%b","P":"%b","w":"%b","x":"%b","c":"%b","Q":"%b",'
        b'"b":"%b","B":"%b","a":"%b","A":"%b","o":"%b","h":"%b","l":"%b","v":"%b","q":"%b",'
        b'"O":%d,"C":%d,"F":%d,"L":%d,"n":%d}'
        % (
            now // unit, shop.native, price(change), percent, price(day.quote // day.volume),
            price(day.before), price(day.close), size(day.last_size), price(bid), size(bid_size),
            price(ask), size(ask_size), price(day.open), price(day.high), price(day.low),
            size(day.volume), shop.quote(day.quote), day.opened_at // unit, now // unit,
            day.first_id, day.first_id + day.trades - 1, day.trades,
        )
    )  # fmt: skip


def rest_trade(shop: Shop, trade: Print) -> bytes:
    """Return one trade as ``/api/v3/trades`` and ``historicalTrades`` write it."""
    return (
        b'{"id":%d,"price":"%b","qty":"%b","quoteQty":"%b","time":%d,"isBuyerMaker":%b,"isBestMatch":true}'
        % (
            trade.id,
            shop.price(trade.price),
            shop.size(trade.size),
            shop.quote(trade.price * trade.size),
            trade.ts // MS,
            b"true" if trade.sign < 0 else b"false",
        )
    )
