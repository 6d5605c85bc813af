"""Bitrue spot as a server: whole books in gzip over WebSocket, trades and tickers by REST.

Books bear no sequence: what a book of ours stands for is told by its time, noted with the book's true
sequence (``Shop.told``). A page of trades is the newest first, and has one of them twice: the venue vouches
neither for their order nor that each comes once. Numbers in ``LIMITS`` and all wording are the documented
ones, except where a comment says chosen.

Source: Bitrue-exchange, Spot-official-api-docs (2023-07) and Market-API (2021); a live collector's notes of
2026-07.
"""

import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Final

import msgspec

from actors.model.events import MS, SECOND
from actors.simulator.faults import Faults
from actors.simulator.house import Handler, House, Shop, whole
from actors.simulator.listings import pick
from actors.simulator.market import Fill, Listing, Live, Market, Print
from actors.simulator.session import Every, Rate, Reply, Session, Topic

NAME: Final = "bitrue"
PUSH_MS: Final = 300  # chosen: a book is pushed when it has changed
LEVELS: Final = 40  # documented for the older channel
PAGE: Final = 1000  # trades, the most
LIMITS: Final[dict[str, float]] = {
    "ping_s": 15,
    "pong_s": 60,
    "weight_per_minute": 1200,
    "refused_per_minute": 50,  # chosen: who asks on while refused is banned
    "ban_s": 120,  # documented as 2 minutes to 3 days
}
_SYMBOLS: Final = (
    "BTC-USDT", "ETH-USDT", "SOL-USDT", "XRP-USDT", "DOGE-USDT", "ADA-USDT", "LTC-USDT", "TRX-USDT",
    "FLR-USDT", "1INCH-USDT", "ETH-BTC", "BTC-USDC", "BTC-TUSD",
)  # fmt: skip
LISTINGS: Final = pick(NAME, lambda symbol: symbol.replace("-", ""), _SYMBOLS, pace=0.15)
_HEAD, _TAIL = "market_", "_simple_depth_step0"
_NO_SYMBOL: Final = (-1121, "Invalid symbol.")

Levels = tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]


class _Params(msgspec.Struct):
    channel: str = ""
    cb_id: str = ""


class _Request(msgspec.Struct):
    event: str = ""
    params: _Params = msgspec.field(default_factory=_Params)
    pong: int | str | None = None


@lru_cache(maxsize=128)  # each listener in turn is given the frames of one moment
def _small(payload: bytes) -> bytes:
    return zlib.compress(payload, 1, 31)


def packed(payload: bytes) -> bytes:
    """Return a frame as it goes out: gzip, made once for all who listen."""
    return _small(payload) if len(payload) < 1 << 16 else zlib.compress(payload, 1, 31)


class _Stand:
    """A shop's book as it was pushed last, and its latest trades as REST writes them."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.channel = f"{_HEAD}{shop.listing.native.lower()}{_TAIL}"
        self.books = Topic(self.channel, "book", shop.symbol)
        self._pushed: Levels | None = None
        self._trades: deque[bytes] = deque(maxlen=PAGE)
        self._next = 0

    def changed(self) -> bool:
        """Tell whether the book is another than the last time that this was asked."""
        before, self._pushed = self._pushed, self.shop.live.book.depth(LEVELS)
        return self._pushed != before

    def book(self, now: int) -> bytes:
        """Return the book as a frame."""
        self.shop.told(now - now % MS)
        best = self.shop.live.book.depth(LEVELS)
        return b'{"channel":"%b","tick":{"buys":[%b],"asks":[%b]},"ts":%d}' % (
            self.channel.encode(),
            self._rows(best.bids),
            self._rows(best.asks),
            now // MS,
        )

    def _rows(self, levels: Sequence[tuple[int, int]], end: bytes = b"") -> bytes:
        price, size = self.shop.price, self.shop.size
        return b",".join([b'["%b","%b"%b]' % (price(p), size(s), end) for p, s in levels])

    def depth(self, most: int) -> bytes:
        """Return the book as REST gives it: each level with an empty third element."""
        book = self.shop.live.book
        best = book.depth(most)
        bids, asks = self._rows(best.bids, b",[]"), self._rows(best.asks, b",[]")
        return b'{"lastUpdateId":%d,"bids":[%b],"asks":[%b]}' % (book.sequence, bids, asks)

    def page(self, most: int) -> bytes:
        """Return the latest trades, the newest first, and that one once more."""
        tape = self.shop.live.tape
        self._trades.extendleft(map(self._trade, tape.read(max(self._next, tape.next - PAGE), tape.next - 1)))
        self._next = tape.next
        latest = list(islice(self._trades, most - 1))
        return b"[%b]" % b",".join([*latest[:1], *latest])

    def _trade(self, trade: Print) -> bytes:
        return b'{"id":%d,"price":"%b","qty":"%b","time":%d,"isBuyerMaker":%b,"isBestMatch":true}' % (
            trade.id,
            self.shop.price(trade.price),
            self.shop.size(trade.size),
            trade.ts // MS,
            b"true" if trade.sign < 0 else b"false",
        )

    def ticker(self, now: int) -> dict[str, object]:
        """Return the last 24 hours."""
        shop, day = self.shop, self.shop.live.day.summary()
        bid, _, ask, _ = shop.live.book.top()
        said: dict[str, object] = {"symbol": shop.listing.native, "openTime": now // MS - 86_400_000}
        prices = {"bidPrice": bid, "askPrice": ask}
        if day is not None:
            prices |= {
                "lastPrice": day.close,
                "openPrice": day.open,
                "highPrice": day.high,
                "lowPrice": day.low,
            }
            said["volume"] = shop.size(day.volume).decode()
            said["quoteVolume"] = shop.quote(day.quote, 8).decode()
        said |= {name: shop.price(price).decode() for name, price in prices.items()}
        return said | {"closeTime": now // MS}

    def top(self) -> dict[str, str]:
        """Return the best bid and ask."""
        shop = self.shop
        bid, bid_size, ask, ask_size = shop.live.book.top()
        return {
            "symbol": shop.listing.native,
            "bidPrice": shop.price(bid).decode(),
            "bidQty": shop.size(bid_size).decode(),
            "askPrice": shop.price(ask).decode(),
            "askQty": shop.size(ask_size).decode(),
        }


class Bitrue:
    """Publishes what the market does and answers requests."""

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.house = House(NAME, LIMITS, faults, listings, market)
        self.house.pack = packed
        self.edits = {"crossed": _crossed}
        self._stands = {native: _Stand(shop) for native, shop in self.house.shops.items()}
        self._by_channel = {stand.channel: stand for stand in self._stands.values()}
        self._push = Every(PUSH_MS * MS, now)
        self._ping = Every(int(LIMITS["ping_s"]) * SECOND, now)
        self._unanswered: dict[int, int] = {}  # by session: ns of its oldest ping without a pong
        self._weight = Rate()
        self._refused = Rate()
        self._banned_until = 0
        market.sinks[NAME] = self._act

    # -- connections and control messages ----------------------------------------------------------

    def open(self, _session: Session, path: str, _query: Mapping[str, str], _now: int) -> Reply | None:
        """Let anybody in, at its one address."""
        return None if path == "/market/ws" else Reply(404)

    def announce(self, session: Session, now: int) -> None:
        """Say nothing: there are no words for it."""

    def hurried(self, session: Session, now: int) -> None:
        """Say nothing: no number of messages is published."""

    def receive(self, session: Session, text: str, now: int) -> None:
        """Take a frame; what means nothing is not answered, and the end of a subscription neither."""
        try:
            request = msgspec.json.decode(text, type=_Request)
        except msgspec.DecodeError:
            return
        if request.pong is not None:
            self._unanswered.pop(session.number, None)
        elif request.event == "sub":
            self._subscribe(session, request.params, now)
        elif request.event == "unsub":
            session.leave(request.params.channel)

    def _subscribe(self, session: Session, params: _Params, now: int) -> None:
        stand = self._by_channel.get(params.channel)
        if stand is not None and not self.house.listed(stand.shop.listing.native):
            stand = None
        silent = stand is not None and self.house.find("silent_ack", stand.shop.symbol)
        if stand is None or self.house.find("refuse", stand.shop.symbol):
            self._answer(session, params, "error", now)  # chosen: the word
            return
        self._answer(session, params, "ok", now)
        session.join(params.channel, None if silent else stand.books)
        if not silent:
            session.send("book", stand.shop.symbol, stand.book(now))

    def _answer(self, session: Session, params: _Params, status: str, now: int) -> None:
        if not self.house.find("no_ack"):
            said = {"channel": params.channel, "cb_id": params.cb_id, "event_rep": "subed", "status": status}
            session.out.append(msgspec.json.encode(said | {"ts": now // MS}))

    # -- what the market does, and what is due by time ---------------------------------------------

    def _act(self, live: Live, sign: int, fills: list[Fill], top: bool, now: int) -> None:
        """Nothing of it is told at once."""

    def publish(self, now: int) -> None:
        """Push the books that have changed; ping everybody, and send away who answers no ping."""
        if self._push.due(now):
            for stand in self._stands.values():
                if stand.books.groups and stand.changed():
                    stand.books.tell(stand.book(now))
            self._send_away(now)
        if self._ping.due(now):
            for number, session in self.house.sessions.items():
                session.beat(b'{"ping":%d}' % (now // MS))
                self._unanswered.setdefault(number, now)

    def _send_away(self, now: int) -> None:
        for number, since in list(self._unanswered.items()):
            session = self.house.sessions.get(number)
            if session is None:
                del self._unanswered[number]
            elif now - since > self.house.limits["pong_s"] * SECOND:
                session.close = (1000, "")  # chosen

    # -- requests ----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request, within the weight of its address."""
        native = query.get("symbol", "")
        weight = 40 if path == "/api/v1/ticker/24hr" and not native else 1
        if refusal := self._limited(weight, now):
            return refusal
        stand = self._stands.get(native) if self.house.listed(native) else None
        routes: dict[str, Handler] = {"/api/v1/exchangeInfo": self._exchange_info}
        for name, handler in _OF_PAIR.items():
            routes[f"/api/v1/{name}"] = partial(handler, stand) if stand else _unknown
        if not native:
            routes["/api/v1/ticker/24hr"] = self._tickers
        refusal = _error(503, -1000, "An unknown error occurred.").body  # chosen: the words
        return self.house.answer(routes, path, query, now, native=native, refusal=refusal)

    def _limited(self, weight: int, now: int) -> Reply | None:
        limits = self.house.limits
        if now < self._banned_until:
            return _error(418, -1003, "Way too many requests; IP banned.")  # chosen: status and words
        if not max(self._weight.wait(now, limits["weight_per_minute"], 60) for _ in range(weight)):
            return None
        if self._refused.wait(now, limits["refused_per_minute"], 60):
            self._banned_until = now + int(limits["ban_s"] * SECOND)
        reply = _error(429, -1003, "Too many requests.")
        return msgspec.structs.replace(reply, headers={"rate_limit_p": str(int(limits["weight_per_minute"]))})

    def _exchange_info(self, _query: Mapping[str, str], now: int) -> Reply:
        weight = {"rateLimitType": "REQUESTS_WEIGHT", "interval": "MINUTE"}
        said = {
            "timezone": "CTT",
            "serverTime": now // MS,
            "rateLimits": [weight | {"limit": int(self.house.limits["weight_per_minute"])}],
            "exchangeFilters": [],
            "symbols": [
                _row(each) for native, each in self.house.listings.items() if self.house.listed(native)
            ],
            "coins": [],
        }
        return Reply(200, msgspec.json.encode(said))

    def _tickers(self, _query: Mapping[str, str], now: int) -> Reply:
        return Reply(200, msgspec.json.encode([stand.ticker(now) for stand in self._stands.values()]))


def _error(status: int, code: int, message: str) -> Reply:
    return Reply(status, msgspec.json.encode({"code": code, "msg": message}))


def _unknown(_query: Mapping[str, str], _now: int) -> Reply:
    return _error(400, *_NO_SYMBOL)


def _trades(stand: _Stand, query: Mapping[str, str], _now: int) -> Reply:
    return Reply(200, stand.page(min(PAGE, whole(query.get("limit"), 500) or 500)))


def _ticker(stand: _Stand, _query: Mapping[str, str], now: int) -> Reply:
    return Reply(200, msgspec.json.encode(stand.ticker(now)))


def _book_ticker(stand: _Stand, _query: Mapping[str, str], _now: int) -> Reply:
    return Reply(200, msgspec.json.encode(stand.top()))


def _depth(stand: _Stand, query: Mapping[str, str], _now: int) -> Reply:
    return Reply(200, stand.depth(min(1000, whole(query.get("limit"), 100) or 100)))


_OF_PAIR: Final = {
    "trades": _trades,
    "ticker/24hr": _ticker,
    "ticker/bookTicker": _book_ticker,
    "depth": _depth,
}


def _row(listing: Listing) -> dict[str, object]:
    price, size = (len(step.partition(".")[2]) for step in (listing.price_step, listing.size_step))
    return {
        "symbol": listing.native,
        "status": "TRADING" if listing.trading else "HALT",
        "baseAsset": listing.base.lower(),
        "baseAssetPrecision": size,
        "quoteAsset": listing.quote.lower(),
        "quotePrecision": price,
        "orderTypes": ["MARKET", "LIMIT"],
        "icebergAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": listing.price_step, "priceScale": price},
            {"filterType": "LOT_SIZE", "minQty": listing.size_step, "volumeScale": size},
        ],
    }


def _crossed(payload: bytes) -> bytes:
    head, buys, rest = payload.partition(b'"buys":[')
    return (
        head + buys + b'["99999999","1.00000"]' + (b"" if rest[:1] == b"]" else b",") + rest
        if buys
        else payload
    )


serve = Bitrue
