"""Bitstamp as a server: WebSocket v2 with trades and books, and public REST.

Books bear no sequence: what a book of ours stands for is told by its microtimestamp, noted with the book's
true sequence (``Shop.told``). The book by REST is cached for a second: it may be older than the first diff;
levels are added up by price for ``group=1`` only. A fault that refuses is an invalid channel.
Numbers in ``LIMITS`` and all wording are the documented or probed ones, except where a comment says chosen.

Source: bitstamp.net, WebSocket API v2 and HTTP API, read 2026-09; captures of 2022 to 2026.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from actors.model.events import MS, SECOND
from actors.simulator.faults import Faults
from actors.simulator.house import Handler, House, Shop, trimmed
from actors.simulator.listings import pick
from actors.simulator.market import Fill, Listing, Live, Market, Print
from actors.simulator.session import Every, Rate, Reply, Session, Topic

NAME: Final = "bitstamp"
US: Final = 1_000  # ns
DIFF_MS: Final = 200  # documented as 0.1 to 0.35 s
CACHED_NS: Final = SECOND  # chosen: how old a book by REST may be
TOP: Final = 100  # levels of order_book
LIMITS: Final[dict[str, float]] = {
    "frame_bytes": 512,
    "channels": 1024,
    "ping_every_s": 54,
    "pong_within_s": 20,  # chosen
    "lifetime_s": 90 * 86_400,
    "requests": 400,  # REST
    "requests_s": 1,
    "requests_longer": 10_000,  # as well
    "requests_longer_s": 600,
}
_STEPS: Final = {
    "BTC-USD": ("1", "0.00000001"),
    "ETH-USD": ("0.1", "0.00000001"),
    "SOL-USD": ("0.001", "0.00000001"),
    "XRP-USD": ("0.00001", "0.00000001"),
    "BTC-EUR": ("1", "0.00000001"),
    "ETH-EUR": ("0.1", "0.00000001"),
    "BTC-USDT": ("1", "0.00000001"),
    "ETH-BTC": ("0.00000001", "0.00000001"),
    "LTC-USD": ("0.01", "0.00000001"),
    "LINK-USD": ("0.001", "0.00000001"),
    "ADA-USD": ("0.00001", "0.00000001"),
    "DOGE-USD": ("0.00001", "0.00000001"),
    "USDT-USD": ("0.00001", "0.00001"),
    "1INCH-USD": ("0.00001", "0.00001"),
    "BTC-TUSD": ("1", "0.00000001"),
}
LISTINGS: Final = pick(NAME, lambda symbol: symbol.replace("-", "").lower(), _STEPS, steps=_STEPS, pace=0.3)
_STREAMS: Final = ("live_trades_", "diff_order_book_", "order_book_")

Levels = Sequence[tuple[int, int]]


class _Wanted(msgspec.Struct):
    channel: str = ""


class _Request(msgspec.Struct):
    event: str = ""
    data: _Wanted = msgspec.field(default_factory=_Wanted)


class _Stand:
    """A shop's topics, how far its listeners know the book, and the book that REST has cached."""

    def __init__(self, shop: Shop) -> None:
        native = shop.listing.native
        shop.identity = lambda n: str(_id(n))
        self.shop = shop
        self.trades = Topic(f"live_trades_{native}", "trade", shop.symbol)
        self.diffs = Topic(f"diff_order_book_{native}", "book", shop.symbol)
        self.tops = Topic(f"order_book_{native}", "book", shop.symbol)
        self.sequence = shop.live.book.sequence
        self._cached: dict[bool, tuple[int, bytes]] = {}  # of orders -> when, body

    def diff(self, now: int) -> tuple[bytes, bytes] | None:
        """Return the changes since the last time, and the best levels; None for nothing."""
        book = self.shop.live.book
        changed = book.changed(self.sequence)
        self.sequence = book.sequence
        if not changed.bids and not changed.asks:
            return None
        best = book.depth(TOP)
        at = self._stamp(now)
        changes = self._data(at, changed.bids, changed.asks)
        return _frame(self.diffs, changes), _frame(self.tops, self._data(at, best.bids, best.asks))

    def snapshot(self, now: int, back: int = 0, *, orders: bool = False) -> bytes:
        """Return the body of a book by REST, ``back`` changes ago, or the one of up to a second ago.

        ``orders``: a row for each, not for each price.
        """
        book = self.shop.live.book
        if back:
            levels = book.at(max(book.oldest, book.sequence - back))
            return self._data(self._stamp(now - 60 * SECOND), levels.bids, levels.asks)
        made, body = self._cached.get(orders, (0, b""))
        if now - made > CACHED_NS:
            bids, asks = (_orders(side) if orders else side for side in book.depth())
            body = self._data(self._stamp(now), bids, asks)
            self._cached[orders] = (now, body)
        return body

    def ticker(self, now: int) -> dict[str, str]:
        """Return the last 24 hours; the day is those."""
        shop, day = self.shop, self.shop.live.day.summary()
        bid, _, ask, _ = shop.live.book.top()
        prices = {"bid": bid, "ask": ask}
        names = ("open", "open_24", "high", "low", "last", "vwap")
        if day is None:
            prices |= dict.fromkeys(names, 0)
        else:
            vwap = day.quote // day.volume
            values = (day.open, day.open, day.high, day.low, day.close, vwap)
            prices |= dict(zip(names, values, strict=True))
        said = {name: shop.price(price).decode() for name, price in prices.items()}
        volume = shop.size(0 if day is None else day.volume).decode()
        return {"timestamp": str(now // SECOND), "volume": volume, "side": "0", **said}

    def _stamp(self, now: int) -> int:
        self.shop.told(now - now % US)
        return now // US

    def _data(self, micros: int, bids: Levels, asks: Levels) -> bytes:
        return b'{"timestamp":"%d","microtimestamp":"%d","bids":[%b],"asks":[%b]}' % (
            micros // 1_000_000,
            micros,
            self._rows(bids),
            self._rows(asks),
        )

    def _rows(self, levels: Levels) -> bytes:
        price, size = self.shop.price, self.shop.size
        return b",".join([b'["%b","%b"]' % (price(p), size(s)) for p, s in levels])

    def trade(self, trade: Print) -> bytes:
        """Return one trade: its numbers have lost their zeros, the texts beside them have not."""
        price, size = self.shop.price(trade.price), self.shop.size(trade.size)
        orders = (trade.id * 2, trade.id * 2 + 1)  # the taker's is the later one
        buy, sell = orders[::-1] if trade.sign > 0 else orders
        data = (
            b'{"id":%d,"timestamp":"%d","amount":%b,"amount_str":"%b","price":%b,"price_str":"%b","type":%d,'
            b'"microtimestamp":"%d","buy_order_id":%d,"sell_order_id":%d}'
            % (
                _id(trade.id), trade.ts // SECOND, trimmed(size), size, trimmed(price), price, trade.sign < 0,
                trade.ts // MS * 1000, buy, sell,
            )
        )  # fmt: skip
        return _frame(self.trades, data, b"trade")


def _id(n: int) -> int:
    """Return the id of the ``n``-th trade: one count of all pairs, so that each leaves some out."""
    return 7 * n  # chosen


def _frame(topic: Topic, data: bytes, event: bytes = b"data") -> bytes:
    return b'{"data":%b,"channel":"%b","event":"%b"}' % (data, topic.name.encode(), event)


class Bitstamp:
    """Publishes what the market does and answers requests."""

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.house = House(NAME, LIMITS, faults, listings, market)
        self.edits = {"crossed": _crossed}
        self._stands = {native: _Stand(shop) for native, shop in self.house.shops.items()}
        self._topics = {t.name: t for s in self._stands.values() for t in (s.trades, s.diffs, s.tops)}
        self._diffs = Every(DIFF_MS * MS, now)
        self._requests, self._longer = Rate(), Rate()
        market.sinks[NAME] = self._act

    # -- connections and control messages ----------------------------------------------------------

    def open(self, _session: Session, path: str, _query: Mapping[str, str], _now: int) -> Reply | None:
        """Let anybody in, at the root."""
        return None if path in ("", "/") else Reply(404)

    def announce(self, session: Session, _now: int) -> None:
        """Ask to reconnect: the server goes down."""
        session.out.append(b'{"event":"bts:request_reconnect","channel":"","data":""}')

    def hurried(self, session: Session, now: int) -> None:
        """Say nothing: messages are counted with REST's, generously."""

    def receive(self, session: Session, text: str, _now: int) -> None:
        """Answer a control message."""
        if len(text.encode()) > self.house.limits["frame_bytes"]:
            session.close = (1009, "read limited at 513 bytes")
            return
        try:
            request = msgspec.json.decode(text, type=_Request)
        except msgspec.ValidationError:
            _error(session, "Bad subscription string.")
            return
        except msgspec.DecodeError:
            _error(session, "Incorrect JSON format.")
            return
        channel = request.data.channel
        match request.event:
            case "bts:heartbeat":
                session.out.append(b'{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}')
            case "bts:subscribe" | "bts:unsubscribe" if not channel:
                _error(session, "Bad subscription string.")
            case "bts:subscribe" | "bts:unsubscribe" if channel.startswith("private-"):
                _error(session, "Connection is unauthorized.", 4009)
            case "bts:subscribe" | "bts:unsubscribe" if not _is_channel(channel):
                _error(session, "Invalid channel provided.")
            case "bts:subscribe":
                self._subscribe(session, channel)
            case "bts:unsubscribe":
                session.leave(channel)
                self._ack(session, "unsubscription", channel)
            case _:
                _error(session, "Bad subscription string.")

    def _subscribe(self, session: Session, channel: str) -> None:
        """Let it listen; an unknown market is acknowledged too, and never says anything."""
        topic = self._topics.get(channel) if self.house.listed(_market(channel)) else None
        if topic is not None and self.house.find("refuse", topic.symbol):
            _error(session, "Invalid channel provided.")
            return
        if topic is not None and self.house.find("silent_ack", topic.symbol):
            topic = None
        if len(session.topics) >= self.house.limits["channels"]:
            session.close = (1000, "")  # without a message
            return
        self._ack(session, "subscription", channel)
        session.join(channel, topic)

    def _ack(self, session: Session, what: str, channel: str) -> None:
        if not self.house.find("no_ack"):
            text = b'{"event":"bts:%b_succeeded","channel":"%b","data":{}}'
            session.out.append(text % (what.encode(), channel.encode()))

    # -- what the market does, and what is due by time ---------------------------------------------

    def _act(self, live: Live, _sign: int, fills: list[Fill], _top: bool, _now: int) -> None:
        stand, tape = self._stands[live.listing.native], live.tape
        if fills and stand.trades.groups:
            for trade in tape.read(tape.next - len(fills), tape.next - 1):
                stand.trades.tell(stand.trade(trade))

    def publish(self, now: int) -> None:
        """Send what changed in books, both sides in a frame."""
        if not self._diffs.due(now):
            return
        for stand in self._stands.values():
            if not stand.diffs.groups and not stand.tops.groups:
                stand.sequence = stand.shop.live.book.sequence
            elif told := stand.diff(now):
                stand.diffs.tell(told[0])
                stand.tops.tell(told[1])

    # -- requests ----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request."""
        limits = self.house.limits
        rates = ((self._requests, "requests"), (self._longer, "requests_longer"))
        if wait := max(rate.wait(now, limits[name], limits[f"{name}_s"]) for rate, name in rates):
            again = {"Retry-After": str(-(-wait // SECOND))}
            return Reply(429, _refusal("Too many requests", "400.002"), again)
        native = path.strip("/").rpartition("/")[2]
        stand = self._stands.get(native) if self.house.listed(native) else None
        routes: dict[str, Handler] = {"/api/v2/trading-pairs-info/": self._pairs}
        if stand is not None:
            routes[f"/api/v2/order_book/{native}/"] = partial(self._order_book, stand)
            routes[f"/api/v2/ticker/{native}/"] = partial(_ticker, stand)
            routes[f"/api/v2/transactions/{native}/"] = partial(_transactions, stand)
        refusal = _refusal("Internal error", "500.001")  # chosen: the words
        return self.house.answer(routes, path, query, now, native=native, refusal=refusal)

    def _pairs(self, _query: Mapping[str, str], _now: int) -> Reply:
        listed = [each for native, each in self.house.listings.items() if self.house.listed(native)]
        return Reply(200, msgspec.json.encode([_pair(each) for each in listed]))

    def _order_book(self, stand: _Stand, query: Mapping[str, str], now: int) -> Reply:
        fault = self.house.find("stale_snapshot", stand.shop.symbol)
        back = 0 if fault is None else fault.back
        return Reply(200, stand.snapshot(now, back, orders=query.get("group") != "1"))


def _orders(levels: Levels) -> Levels:
    """Return levels as orders, of which each has two (chosen), or one of a single lot."""
    return [
        (price, part)
        for price, size in levels
        for part in ((size - size // 2, size // 2) if size > 1 else (size,))
    ]


def _market(channel: str) -> str:
    return next(channel.removeprefix(s) for s in _STREAMS if channel.startswith(s))


def _is_channel(channel: str) -> bool:
    return any(channel.startswith(s) for s in _STREAMS) and channel == channel.lower() and "/" not in channel


def _error(session: Session, message: str, code: int | None = None) -> None:
    said = {"event": "bts:error", "channel": "", "data": {"code": code, "message": message}}
    session.out.append(msgspec.json.encode(said))


def _refusal(reason: str, code: str) -> bytes:
    return msgspec.json.encode({"status": "error", "reason": reason, "code": code})


def _crossed(payload: bytes) -> bytes:
    head, bids, rest = payload.partition(b'"bids":[')
    return head + bids + b'["99999999","1.00000000"]' + (b"" if rest[:1] == b"]" else b",") + rest


def _ticker(stand: _Stand, _query: Mapping[str, str], now: int) -> Reply:
    return Reply(200, msgspec.json.encode(stand.ticker(now)))


def _transactions(stand: _Stand, _query: Mapping[str, str], _now: int) -> Reply:
    tape, shop = stand.shop.live.tape, stand.shop
    rows = [
        {
            "date": str(trade.ts // SECOND),
            "tid": shop.identity(trade.id),
            "amount": shop.size(trade.size).decode(),
            "type": "0" if trade.sign > 0 else "1",
            "price": shop.price(trade.price).decode(),
        }
        for trade in tape.read(tape.next - 100, tape.next - 1)[::-1]
    ]
    return Reply(200, msgspec.json.encode(rows))


def _pair(listing: Listing) -> dict[str, object]:
    return {
        "trading": "Enabled" if listing.trading else "Disabled",
        "base_decimals": len(listing.size_step.partition(".")[2]),
        "url_symbol": listing.native,
        "name": f"{listing.base}/{listing.quote}",
        "instant_and_market_orders": "Enabled",
        "minimum_order": f"10 {listing.quote}",
        "counter_decimals": len(listing.price_step.partition(".")[2]),
        "description": f"{listing.base} / {listing.quote}",
    }


serve = Bitstamp
