"""OKX's instruments as a client sees them: what is listed, and the words for what happens to it.

Numbers come without needless zeros. ``books`` are the best 400 levels; what leaves them is removed, so
that a client who applies every update holds exactly these.

Source: OKX v5 documentation as mirrored 2026-08-22; frames recorded 2022 to 2026.
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Final

from msgspec.structs import replace

from actors.model.events import MS, SECOND, Channel
from actors.simulator.derivatives import Contract, Forced, Perpetual
from actors.simulator.house import Shop
from actors.simulator.listings import pick
from actors.simulator.market import Listing, Print, fixed
from actors.simulator.session import Topic
from actors.simulator.window import Window

NAME: Final = "okx"
DEPTH: Final = 400  # levels a side of ``books``
QUIET_NS: Final = 60 * SECOND  # what has not changed for so long is said again
SWAP: Final = "-SWAP"
MOST_FORCED: Final = 2  # chosen: liquidations told of one swap at once
_RENUMBERED: Final = 1_000  # chosen: where the numbers of a book begin anew


# -- what is listed ------------------------------------------------------------------------------

_SPOT: Final = {
    "BTC-USDT": ("0.1", "0.00000001"),
    "ETH-USDT": ("0.01", "0.000001"),
    "SOL-USDT": ("0.01", "0.000001"),
    "XRP-USDT": ("0.0001", "0.000001"),
    "DOGE-USDT": ("0.00001", "0.000001"),
    "ETH-BTC": ("0.00001", "0.000001"),
}
_SWAPS: Final = {
    "BTC-USDT-PERP": ("0.1", "0.01", Contract(kind="linear", size="0.01")),
    "ETH-USDT-PERP": ("0.01", "0.01", Contract(kind="linear", size="0.1")),
    "SOL-USDT-PERP": ("0.01", "0.01", Contract(kind="linear", size="1")),
    "DOGE-USDT-PERP": ("0.00001", "0.01", Contract(kind="linear", size="1000", open_usd=9e6)),
    "BTC-USD-PERP": ("0.1", "1", Contract(kind="inverse", size="100")),
}


def _listings() -> tuple[Listing, ...]:
    steps = {symbol: (price, size) for symbol, (price, size, _) in _SWAPS.items()}
    spot = pick(NAME, str, _SPOT, steps=_SPOT, pace=0.5)
    swaps = pick(NAME, lambda symbol: symbol.removesuffix("PERP") + "SWAP", _SWAPS, steps=steps, pace=0.5)
    return (*spot, *(replace(each, contract=_SWAPS[each.symbol][2]) for each in swaps))


LISTINGS: Final = _listings()


# -- one listing ---------------------------------------------------------------------------------


def _opening(channel: str, inst: str, kind: str = "instId") -> bytes:
    return b'{"arg":{"channel":"%b","%b":"%b"}' % (channel.encode(), kind.encode(), inst.encode())


class Said(Topic):
    """A topic that knows what it said last, and when."""

    __slots__ = ("at", "head", "last")

    def __init__(self, channel: str, inst: str, ours: Channel, symbol: str) -> None:
        super().__init__(f"{channel}:{inst}", ours, symbol)
        self.head = _opening(channel, inst)
        self.last = b""
        self.at = 0

    def framed(self, data: bytes) -> bytes:
        """Return one element as a frame."""
        return self.head + b',"data":[' + data + b"]}"

    def say(self, data: bytes, now: int) -> None:
        """Send one element to all who listen."""
        self.last, self.at = self.framed(data), now
        self.deliver_all(self.last)

    def deliver_all(self, frame: bytes) -> None:
        """Hand a finished frame to all who listen."""
        for sessions in self.groups.values():
            self.deliver(sessions, frame)


class Stand:
    """A shop's topics, and what was said of its book."""

    def __init__(self, shop: Shop) -> None:
        inst, symbol = shop.listing.native, shop.symbol
        self.shop = shop
        self.trades = Said("trades", inst, "trade", symbol)
        self.books = Said("books", inst, "book", symbol)
        self.bbo = Said("bbo-tbt", inst, "l1", symbol)
        self.tickers = Said("tickers", inst, "ticker", symbol)
        self.moved = True  # its top or its last trade has, since it was told of
        self.traded = True
        self._window: Window | None = None  # the book as told, None: to nobody
        self._told = 0  # the venue's sequence of what was told last

    @property
    def sequence(self) -> int:
        """The venue's number of the book as it is now."""
        return self.shop.live.book.sequence - self.shop.offset

    # -- the book

    def snapshot(self, now: int) -> bytes:
        """Return the book as those who listen already have it; as it is now where nobody does."""
        if self._window is None or not self.books.groups:
            self._window = Window(self.shop.live.book, DEPTH)
            self._told, self.books.at = self.sequence, now
        levels = self._window.levels
        return self._frame(b"snapshot", levels, levels, -1, now)

    def update(self, now: int, *, anew: bool = False) -> None:
        """Tell what changed in the best levels; after a minute without a change, that nothing did.

        ``anew``: the numbers begin anew, which an update says that continues the old ones.
        """
        book, before = self.shop.live.book, self._told
        if anew:
            self.shop.offset = book.sequence - _RENUMBERED
        if not self.books.groups or self._window is None:
            self._window = None
            return
        changed = self._window.follow()
        if changed or anew:
            self._told = self.sequence
        elif now - self.books.at < QUIET_NS:
            return
        self.books.at = now
        self.books.deliver_all(self._frame(b"update", changed, self._window.levels, before, now))

    def _frame(
        self, action: bytes, keys: Iterable[int], view: Mapping[int, int], before: int, now: int
    ) -> bytes:
        ordered = sorted(keys, reverse=True)  # bids from the best down, then asks (below zero) likewise
        return b'%b,"action":"%b","data":[{"asks":%b,"bids":%b,"ts":"%d","checksum":0,%b}]}' % (
            self.books.head,
            action,
            self._rows([key for key in ordered if key < 0], view),
            self._rows([key for key in ordered if key > 0], view),
            now // MS,
            b'"prevSeqId":%d,"seqId":%d' % (before, self._told),
        )

    def _rows(self, keys: Iterable[int], view: Mapping[int, int]) -> bytes:
        price, size, orders = self.shop.price, self.shop.size, self.shop.live.book.orders_at
        rows = [
            b'["%b","%b","0","%d"]' % (price(abs(key)), size(view[key]), orders(key))
            if key in view
            else b'["%b","0","0","0"]' % price(abs(key))
            for key in keys
        ]
        return b"[" + b",".join(rows) + b"]"

    def best(self, now: int) -> bytes:
        """Return the best bid and offer, a side of which may be empty."""
        book = self.shop.live.book
        bid, bid_size, ask, ask_size = book.top()
        view = {key: size for key, size in ((bid, bid_size), (-ask, ask_size)) if key}
        asks, bids = (self._rows([key] if key else [], view) for key in (-ask, bid))
        return b'{"asks":%b,"bids":%b,"ts":"%d","seqId":%d}' % (asks, bids, now // MS, self.sequence)

    # -- the rest

    def trade(self, trade: Print, count: int) -> None:
        """Tell of ``count`` fills at one price as one trade, whose id is the last one's."""
        shop = self.shop
        side = b"buy" if trade.sign > 0 else b"sell"
        data = (
            b'{"instId":"%b","tradeId":"%d","px":"%b","sz":"%b","side":"%b","ts":"%d","count":"%d",'
            b'"source":"0","seqId":%d}'
            % (
                shop.native, trade.id, shop.price(trade.price), shop.size(trade.size), side,
                trade.ts // MS, count, self.sequence,
            )
        )  # fmt: skip
        self.trades.say(data, trade.ts)
        self.traded = True

    def day(self, now: int) -> bytes:
        """Return the last 24 hours; what there is none of is empty."""
        shop, day = self.shop, self.shop.live.day.summary()
        bid, bid_size, ask, ask_size = shop.live.book.top()
        price, size = shop.price, shop.size
        spot = shop.listing.contract is None
        text: dict[str, bytes] = {
            "instType": b"SPOT" if spot else b"SWAP",
            "instId": shop.native,
            "last": b"" if day is None else price(day.close),
            "lastSz": b"" if day is None else size(day.last_size),
            "askPx": price(ask) if ask else b"",
            "askSz": size(ask_size) if ask else b"",
            "bidPx": price(bid) if bid else b"",
            "bidSz": size(bid_size) if bid else b"",
            "open24h": b"" if day is None else price(day.open),
            "high24h": b"" if day is None else price(day.high),
            "low24h": b"" if day is None else price(day.low),
            "sodUtc0": b"" if day is None else price(day.open),  # chosen: the days begin with the market
            "sodUtc8": b"" if day is None else price(day.open),
            # Of a swap, the one is contracts and the other base currency; of a pair, base and quote.
            "volCcy24h": b"0" if day is None else self._money(day.volume, day.quote),
            "vol24h": b"0" if day is None else size(day.volume),
            "ts": b"%d" % (now // MS),
        }
        return fields(text)

    def _money(self, volume: int, quote: int) -> bytes:
        if self.shop.listing.contract is None:
            return self.shop.quote(quote, 9)
        return self.shop.base(volume, quote / volume)


def fields(texts: Mapping[str, bytes]) -> bytes:
    """Return an object whose values are all text, as they are here."""
    return b"{" + b",".join([b'"%b":"%b"' % (name.encode(), text) for name, text in texts.items()]) + b"}"


# -- what only swaps have ------------------------------------------------------------------------


class SwapStand:
    """A swap's other topics."""

    def __init__(self, shop: Shop, swap: Perpetual) -> None:
        inst, symbol = shop.listing.native, shop.symbol
        self.shop = shop
        self.swap = swap
        self.interest = Said("open-interest", inst, "open_interest", symbol)
        self.funding = Said("funding-rate", inst, "funding", symbol)
        self.marks = Said("mark-price", inst, "funding", symbol)
        self.indexes = Said("index-tickers", inst.removesuffix(SWAP), "funding", symbol)
        self._liquidated = swap.forced_next  # up to which they were told
        self._was: dict[Said, object] = {}

    def offer(
        self, topic: Said, value: object, encode: Callable[[int], bytes], quiet_ns: int, now: int
    ) -> None:
        """Tell a value to who listens, if it is another than was told, or was told long ago."""
        if topic.groups and (self._was.get(topic) != value or now - topic.at >= quiet_ns):
            self._was[topic] = value
            topic.say(encode(now), now)

    def open_interest(self, now: int) -> bytes:
        """Return the open interest: contracts, base currency, dollars."""
        shop, lots, index = self.shop, self.swap.open_interest, self.swap.index
        base = shop.base(lots, index)
        usd = Decimal(base.decode()) * Decimal(shop.price(round(index)).decode())
        return fields(
            {
                "instId": shop.native,
                "instType": b"SWAP",
                "oi": shop.size(lots),
                "oiCcy": base,
                "oiUsd": f"{usd:f}".encode(),
                "ts": b"%d" % (now // MS),
            }
        )

    def rate(self, now: int) -> bytes:
        """Return the funding rate of the next settlement, and when it and the one after are."""
        swap = self.swap
        cap = swap.contract.cap
        return fields(
            {
                "formulaType": b"noRate",
                "fundingRate": _fraction(swap.rate),
                "fundingTime": b"%d" % (swap.settlement(now) // MS),
                "impactValue": b"",
                "instId": self.shop.native,
                "instType": b"SWAP",
                "interestRate": b"",
                "method": b"current_period",
                "maxFundingRate": f"{cap}".encode(),
                "minFundingRate": f"{-cap}".encode(),
                "nextFundingRate": b"",
                "nextFundingTime": b"%d" % (swap.settlement(now, 2) // MS),
                "premium": _fraction(swap.mark / swap.index - 1),
                "settFundingRate": _fraction(swap.settled),
                "settState": b"settled",
                "ts": b"%d" % (now // MS),
            }
        )

    def mark(self, now: int) -> bytes:
        """Return the mark price."""
        return fields(
            {
                "instType": b"SWAP",
                "instId": self.shop.native,
                "markPx": self.shop.price(round(self.swap.mark)),
                "ts": b"%d" % (now // MS),
            }
        )

    def index(self, now: int) -> bytes:
        """Return the index price, under the name of what the swap is of."""
        price = self.shop.price(round(self.swap.index))
        return fields(
            {
                "instId": self.shop.native.removesuffix(SWAP.encode()),
                "idxPx": price,
                "high24h": price,  # chosen: nobody here asks for an index' day
                "sodUtc0": price,
                "open24h": price,
                "low24h": price,
                "sodUtc8": price,
                "ts": b"%d" % (now // MS),
            }
        )

    def topics(self) -> list[tuple[Said, Callable[[int], bytes]]]:
        """Return each topic with what makes its present data."""
        return [
            (self.interest, self.open_interest),
            (self.funding, self.rate),
            (self.marks, self.mark),
            (self.indexes, self.index),
        ]

    def liquidated(self) -> bytes | None:
        """Return the last liquidations since one last looked, in no order of time; None if there were none.

        No more than ``MOST_FORCED``: the venue's do not represent the total.
        """
        forced = self.swap.forced_since(self._liquidated)[-MOST_FORCED:]
        self._liquidated = self.swap.forced_next
        if not forced:
            return None
        family = self.shop.native.removesuffix(SWAP.encode())
        details = b",".join([self._detail(each) for each in reversed(forced)])
        return b'{"details":[%b],"instFamily":"%b","instId":"%b","instType":"SWAP","uly":"%b"}' % (
            details, family, self.shop.native, family,
        )  # fmt: skip

    def _detail(self, forced: Forced) -> bytes:
        """Return one liquidation; its side is the order's, its size contracts."""
        sold = forced.sign < 0
        net = forced.id % 4 == 0  # chosen: so many hold positions that only the side tells
        return fields(
            {
                "bkLoss": b"0",
                "bkPx": self.shop.price(forced.price),
                "ccy": b"",
                "posSide": b"net" if net else b"long" if sold else b"short",
                "side": b"sell" if sold else b"buy",
                "sz": self.shop.size(forced.size),
                "ts": b"%d" % (forced.ts // MS),
            }
        )


def _fraction(value: float) -> bytes:
    return fixed(round(value * 10**16), 16)


class Liquidations(Topic):
    """All swaps' liquidations."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        super().__init__(f"liquidation-orders:{SWAP[1:]}", "liquidation", "")
        self.last = b""

    def say(self, rows: Mapping[str, bytes]) -> None:
        """Send those of several swaps, by symbol: in one frame, but one by one where a fault may hit one."""
        self.last = _forced(rows.values())
        for sessions in self.groups.values():
            for session in sessions:
                if not session.wounds:
                    session.out.append(self.last)
                    continue
                for symbol, row in rows.items():
                    session.send(self.channel, symbol, _forced([row]))


def _forced(rows: Iterable[bytes]) -> bytes:
    return b'%b,"data":[%b]}' % (_opening("liquidation-orders", SWAP[1:], "instType"), b",".join(rows))
