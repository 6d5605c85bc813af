"""Binance spot as a server: market streams, REST, their limits, and frames for benchmarks.

Numbers in ``LIMITS`` are the documented ones; where the documents are silent a comment says what was
chosen. Source: Binance spot API documents (web-socket-streams, rest-api, errors), read 2026-07.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from actors.model.events import Channel
from actors.simulator.book import Levels
from actors.simulator.faults import Faults
from actors.simulator.market import Fill, Fixed, Listing, Live, Market, Print, fixed
from actors.simulator.venue import Reply, Session, TrueTrade, Truth

NAME: Final = "binance"
MS: Final = 1_000_000
US: Final = 1_000
SECOND: Final = 1_000_000_000
_SHOWN: Final = 8  # Binance writes every price and size with eight decimals

LIMITS: Final[dict[str, float]] = {
    "streams_per_connection": 1024,
    "messages_per_s": 5,
    "connects_per_5min": 300,
    "weight_per_minute": 6000,
    "requests_while_limited": 10,  # chosen: how many after a 429 make a 418
    "ban_s": 120,
    "ping_every_s": 20,
    "pong_within_s": 60,
    "lifetime_s": 86_400,
}

Encode = Callable[[int], bytes]
"""Time unit in ns -> payload."""


def _listing(symbol: str, price_step: str, size_step: str, rate: float, levels: int) -> Listing:
    base, quote = symbol.split("-")
    return Listing(
        venue=NAME,
        symbol=symbol,
        native=base + quote,
        base=base,
        quote=quote,
        price_step=price_step,
        size_step=size_step,
        orders_per_s=rate,
        levels=levels,
        trading=rate > 0,
    )


LISTINGS: Final[tuple[Listing, ...]] = (
    _listing("BTC-USDT", "0.01", "0.00001", 70, 1200),
    _listing("ETH-USDT", "0.01", "0.0001", 50, 800),
    _listing("SOL-USDT", "0.01", "0.001", 35, 500),
    _listing("XRP-USDT", "0.0001", "0.1", 25, 300),
    _listing("BNB-USDT", "0.01", "0.001", 15, 400),
    _listing("DOGE-USDT", "0.00001", "1", 12, 300),
    _listing("ADA-USDT", "0.0001", "0.1", 8, 200),
    _listing("LTC-USDT", "0.01", "0.001", 5, 200),
    _listing("LINK-USDT", "0.01", "0.01", 5, 200),
    _listing("DOT-USDT", "0.001", "0.01", 3, 200),
    _listing("AVAX-USDT", "0.01", "0.01", 3, 200),
    _listing("TRX-USDT", "0.0001", "0.1", 3, 200),
    _listing("SHIB-USDT", "0.00000001", "1", 3, 200),
    _listing("1INCH-USDT", "0.0001", "0.1", 0.5, 100),
    _listing("FLR-USDT", "0.00001", "0.1", 1, 100),
    _listing("USDC-USDT", "0.0001", "1", 2, 50),
    _listing("EUR-USDT", "0.0001", "0.1", 2, 100),
    _listing("ETH-BTC", "0.00001", "0.0001", 3, 200),
    _listing("BNB-BTC", "0.000001", "0.001", 1, 100),
    _listing("BTC-USDC", "0.01", "0.00001", 6, 400),
    _listing("币安人生-USDT", "0.0001", "0.1", 1, 100),  # names beyond ASCII exist since 2025
    _listing("BTC-TUSD", "0.01", "0.00001", 0, 0),  # halted, and a trap for splitters by suffix
    _listing("TUSD-BTC", "0.00000001", "1", 0, 0),
)


class Stream:
    """One market stream and who listens, by time unit: (wrapped, bare)."""

    __slots__ = ("channel", "groups", "head", "name", "symbol")

    def __init__(self, name: str, channel: Channel, symbol: str) -> None:
        self.name = name
        self.channel: Channel = channel
        self.symbol = symbol
        self.head = b'{"stream":"%b","data":' % name.encode()
        self.groups: dict[int, tuple[list[BinanceSession], list[BinanceSession]]] = {}

    def add(self, session: "BinanceSession") -> None:
        """Let a session listen."""
        wrapped, bare = self.groups.setdefault(session.unit, ([], []))
        (wrapped if session.combined else bare).append(session)

    def remove(self, session: "BinanceSession") -> None:
        """Let a session listen no more."""
        wrapped, bare = self.groups[session.unit]
        (wrapped if session.combined else bare).remove(session)
        if not wrapped and not bare:
            del self.groups[session.unit]

    def send(self, encode: Encode) -> None:
        """Send one payload to all who listen."""
        for unit, (wrapped, bare) in self.groups.items():
            payload = encode(unit)
            if wrapped:
                self.deliver(wrapped, self.head + payload + b"}")
            if bare:
                self.deliver(bare, payload)

    def deliver(self, sessions: Iterable[Session], frame: bytes) -> None:
        """Hand a finished frame to sessions."""
        for session in sessions:
            if session.wounds:
                session.send(self.channel, self.symbol, frame)
            else:
                session.out.append(frame)


class BinanceSession(Session):
    """One connection. ``streams`` holds all names asked for; None: there is no such stream."""

    __slots__ = ("combined", "stamps", "streams", "unit")

    def __init__(self, number: int, opened: int, *, combined: bool, unit: int, burst: int) -> None:
        super().__init__(number, opened)
        self.combined = combined
        self.unit = unit
        self.streams: dict[str, Stream | None] = {}
        self.stamps: deque[int] = deque(maxlen=burst)

    def subscribed(self) -> list[str]:
        """Return the streams asked for."""
        return list(self.streams)


class _Wrong(Exception):
    """A control message that is answered with an error."""

    def __init__(self, code: int, message: str, request: "int | str | None" = None) -> None:
        super().__init__(message)
        self.answer: dict[str, object] = {"code": code, "msg": message}
        if code == 0:
            self.answer["id"] = request


_METHODS: Final = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_MOST_ID: Final = 36


class Gateway:
    """Connections and control messages; knows streams by name only."""

    def __init__(self, streams: Mapping[str, Stream], faults: Faults, limits: Mapping[str, float]) -> None:
        self._streams = streams
        self._faults = faults
        self._limits = limits
        self._connects: deque[int] = deque()
        self.sessions: dict[int, BinanceSession] = {}
        self.asked = 0  # subscriptions ever made

    def accept(self, number: int, path: str, query: Mapping[str, str], now: int) -> BinanceSession | Reply:
        """Return a new session, or how the handshake is refused. ``path`` may hold stream names."""
        if fault := self._faults.find("maintenance", NAME):
            return Reply(503, b"", _retry(fault.retry_after_s))
        if fault := self._faults.find("connect", NAME):
            return Reply(fault.status, b"", _retry(fault.retry_after_s))
        head, _, rest = path.lstrip("/").partition("/")
        if head not in ("ws", "stream"):
            return Reply(404, b"")
        while self._connects and self._connects[0] <= now - 300 * SECOND:
            self._connects.popleft()
        if len(self._connects) >= self._limits["connects_per_5min"]:
            return Reply(429, b"", _retry(int((self._connects[0] + 300 * SECOND - now) / SECOND) + 1))
        self._connects.append(now)
        micro = query.get("timeUnit", "").upper() == "MICROSECOND"
        session = BinanceSession(
            number,
            now,
            combined=head == "stream",
            unit=US if micro else MS,
            burst=int(self._limits["messages_per_s"]),
        )
        self.sessions[number] = session
        names = query.get("streams", "") if head == "stream" else rest
        self._subscribe(session, [name for name in names.split("/") if name])
        return session

    def closed(self, session: Session) -> None:
        """Forget a session."""
        mine = self.sessions.pop(session.number, None)
        if mine is not None:
            self._unsubscribe(mine, list(mine.streams))

    def heartbeat(self, session: Session, now: int) -> None:
        """Count a message of the client and close where they are too many."""
        stamps = self.sessions[session.number].stamps
        if len(stamps) == stamps.maxlen and now - stamps[0] < SECOND:
            session.close = (1008, "Too many requests")
        stamps.append(now)

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a control message."""
        self.heartbeat(session, now)
        try:
            answer = self._handle(self.sessions[session.number], text)
        except _Wrong as e:
            answer = e.answer
        if not self._faults.find("no_ack", NAME):
            session.out.append(msgspec.json.encode(answer))

    def _handle(self, session: BinanceSession, text: str) -> dict[str, object]:
        try:
            message: object = msgspec.json.decode(text)
        except msgspec.DecodeError as e:
            raise _Wrong(3, "Invalid JSON: expected value at line 1 column 1") from e
        fields = _fields(message)
        if fields is None or "method" not in fields:
            raise _Wrong(2, f"Invalid request: missing field `method` at line 1 column {len(text)}")
        method = fields["method"]
        if method not in _METHODS:
            names = ", ".join(f"`{name}`" for name in _METHODS)
            wrong = f"unknown variant `{method}`, expected one of {names} at line 1 column {len(text)}"
            raise _Wrong(2, f"Invalid request: {wrong}")
        request = _request_id(fields.get("id"))
        params = fields.get("params")
        match method:
            case "LIST_SUBSCRIPTIONS":
                return {"result": list(session.streams), "id": request}
            case "GET_PROPERTY" | "SET_PROPERTY":
                return {"result": self._property(session, method, params, request), "id": request}
            case _:
                names = _names(params, len(text))
                if method == "SUBSCRIBE":
                    self._subscribe(session, names)
                else:
                    self._unsubscribe(session, names)
                return {"result": None, "id": request}

    def _property(
        self, session: BinanceSession, method: str, params: object, request: int | str | None
    ) -> bool | None:
        values = _items(params)
        if not values or not isinstance(values[0], str):
            raise _Wrong(2, "Invalid request: property name must be a string")
        if len(values) > (1 if method == "GET_PROPERTY" else 2):
            raise _Wrong(2, "Invalid request: too many parameters")
        if values[0] != "combined":
            raise _Wrong(0, "Unknown property", request)
        if method == "GET_PROPERTY":
            return session.combined
        if len(values) < 2 or not isinstance(values[1], bool):
            raise _Wrong(1, "Invalid value type: expected Boolean")
        heard = [stream for stream in session.streams.values() if stream is not None]
        for stream in heard:
            stream.remove(session)
        session.combined = values[1]
        for stream in heard:
            stream.add(session)
        return None

    def _subscribe(self, session: BinanceSession, names: Sequence[str]) -> None:
        if len(session.streams.keys() | set(names)) > self._limits["streams_per_connection"]:
            session.close = (1008, "Too many streams")  # chosen: no error is documented for it
            return
        for name in names:
            stream = self._streams.get(name)
            if session.streams.get(name) is not None:
                continue
            if stream is not None and self._silent(stream.symbol):
                stream = None  # an unknown name is acknowledged, and so is this one
            session.streams[name] = stream
            self.asked += 1
            if stream is not None:
                stream.add(session)

    def _silent(self, symbol: str) -> bool:
        find = self._faults.find
        return any(find(kind, NAME, symbol) for kind in ("refuse", "unlist", "silent_ack"))

    def _unsubscribe(self, session: BinanceSession, names: Iterable[str]) -> None:
        for name in names:
            stream = session.streams.pop(name, None)
            if stream is not None:
                stream.remove(session)

    def announce(self, session: Session, now: int) -> None:
        """Say that the connection will be dropped."""
        mine = self.sessions[session.number]
        payload = b'{"e":"serverShutdown","E":%d}' % (now // mine.unit)
        wrapped = b'{"stream":"!serverShutdown","data":%b}' % payload
        mine.out.append(wrapped if mine.combined else payload)


def _fields(message: object) -> dict[str, object] | None:
    return message if isinstance(message, dict) else None  # pyright: ignore[reportUnknownVariableType]


def _items(params: object) -> list[object]:
    return params if isinstance(params, list) else []  # pyright: ignore[reportUnknownVariableType]


def _names(params: object, column: int) -> list[str]:
    if not isinstance(params, list):
        raise _Wrong(2, f"Invalid request: missing field `params` at line 1 column {column}")
    items = _items(params)  # pyright: ignore[reportUnknownArgumentType]
    names = [item for item in items if isinstance(item, str)]
    if len(names) != len(items):
        raise _Wrong(2, "Invalid request: property name must be a string")
    return names


def _request_id(value: object) -> int | str | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if isinstance(value, str) and len(value) <= _MOST_ID and value.isalnum():
        return value
    raise _Wrong(2, "Invalid request: request ID must be an unsigned integer")


def _retry(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(int(seconds))}


def _error(status: int, code: int, message: str) -> Reply:
    return Reply(status, msgspec.json.encode({"code": code, "msg": message}))


class Weights:
    """The REST budget of one address: 429 above it, 418 for those who do not stop."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self._limits = limits
        self._minute = 0
        self._offences = 0
        self._banned_until = 0
        self.used = 0

    def spend(self, weight: int, now: int) -> Reply | None:
        """Count one request; return the refusal, if it is one."""
        minute = now // (60 * SECOND)
        if minute != self._minute:
            self._minute, self.used, self._offences = minute, 0, 0
        if now < self._banned_until:
            return self._refusal(418, self._banned_until, now)
        self.used += weight
        if self.used <= self._limits["weight_per_minute"]:
            return None
        self._offences += 1
        if self._offences > self._limits["requests_while_limited"]:
            self._banned_until = now + int(self._limits["ban_s"] * SECOND)
            return self._refusal(418, self._banned_until, now)
        return self._refusal(429, (minute + 1) * 60 * SECOND, now)

    def _refusal(self, status: int, until: int, now: int) -> Reply:
        most = int(self._limits["weight_per_minute"])
        message = (
            f"Way too much request weight used; IP banned until {until // MS}."
            if status == 418
            else f"Too much request weight used; current limit is {most} request weight per 1 MINUTE."
        ) + " Please use WebSocket Streams for live updates to avoid polling the API."
        body = msgspec.json.encode({"code": -1003, "msg": message})
        return Reply(status, body, _retry((until - now) // SECOND + 1))


def _depth_weight(query: Mapping[str, str]) -> int:
    limit = _whole(query.get("limit"), 100)
    return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250


def _whole(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else default


class _Shop:
    """One listing as Binance shows it: its streams, its numbers as text, how far its depth was sent."""

    def __init__(self, live: Live) -> None:
        listing = live.listing
        name = listing.native.lower()
        symbol = listing.symbol

        def stream(kind: str, channel: Channel) -> Stream:
            return Stream(f"{name}@{kind}", channel, symbol)

        self.live = live
        self.native = listing.native.encode()
        self.price = Fixed(listing.price_step, _SHOWN)
        self.size = Fixed(listing.size_step, _SHOWN)
        decimals = len(listing.price_step.partition(".")[2]) + len(listing.size_step.partition(".")[2])
        self._quote = 10 ** (_SHOWN - decimals) * self.price.unit * self.size.unit
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
        return fixed(amount * self._quote, _SHOWN)


_ORDER_TYPES: Final = ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"]


def _row(listing: Listing) -> dict[str, object]:
    return {
        "symbol": listing.native,
        "status": "TRADING" if listing.trading else "BREAK",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": _ORDER_TYPES,
        "icebergAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": _padded(listing.price_step),
                "maxPrice": "1000000.00000000",
                "tickSize": _padded(listing.price_step),
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": _padded(listing.size_step),
                "maxQty": "9000000.00000000",
                "stepSize": _padded(listing.size_step),
            },
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


def _padded(step: str) -> str:
    return Fixed(step, _SHOWN)(1).decode()


def exchange_info(listings: Iterable[Listing], weight_per_minute: float, now: int) -> bytes:
    """Return the body of ``/api/v3/exchangeInfo``."""
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1}
    return msgspec.json.encode(
        {
            "timezone": "UTC",
            "serverTime": now // MS,
            "rateLimits": [{**limit, "limit": int(weight_per_minute)}],
            "exchangeFilters": [],
            "symbols": [_row(listing) for listing in listings],
        }
    )


class Binance:
    """The venue: publishes what the market does, answers requests, knows the truth."""

    name = NAME

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.limits = dict(LIMITS)
        self.edits = {"crossed": self._crossed}
        self._faults = faults
        self._listings = {listing.native: listing for listing in listings}
        self._shops = {live.listing.native: _Shop(live) for live in market.of(NAME)}
        self._by_symbol = {shop.live.listing.symbol: shop for shop in self._shops.values()}
        self._all = Stream("!miniTicker@arr", "ticker", "")
        streams = {stream.name: stream for shop in self._shops.values() for stream in shop.streams()}
        streams[self._all.name] = self._all
        self.gateway = Gateway(streams, faults, self.limits)
        self._weights = Weights(self.limits)
        self._fast_at = self._slow_at = now
        self._routes: dict[str, tuple[Callable[[Mapping[str, str], int], Reply], int | None]] = {
            "/api/v3/ping": (self._ping, 1),
            "/api/v3/time": (self._time, 1),
            "/api/v3/exchangeInfo": (self._exchange_info, 20),
            "/api/v3/depth": (self._depth, None),  # by its limit
            "/api/v3/trades": (self._trades, 25),
            "/api/v3/historicalTrades": (self._trades, 25),
        }
        self.accept = self.gateway.accept
        self.receive = self.gateway.receive
        self.heartbeat = self.gateway.heartbeat
        self.closed = self.gateway.closed
        self.announce = self.gateway.announce
        market.sinks[NAME] = self._act

    # -- what the market does --------------------------------------------------------------------

    def _act(self, live: Live, sign: int, fills: list[Fill], top: bool, now: int) -> None:
        shop = self._shops[live.listing.native]
        if fills:
            if shop.trade.groups:
                self._send_trades(shop, sign, fills, now)
            if shop.agg.groups:
                self._send_aggregates(shop, sign, fills, now)
        if top and shop.top.groups:
            bid, bid_size, ask, ask_size = live.book.top()
            price, size = shop.price, shop.size
            payload = b'{"u":%d,"s":"%b","b":"%b","B":"%b","a":"%b","A":"%b"}' % (
                live.book.sequence, shop.native, price(bid), size(bid_size), price(ask), size(ask_size),
            )  # fmt: skip
            shop.top.send(lambda _unit: payload)

    def _send_trades(self, shop: _Shop, sign: int, fills: list[Fill], now: int) -> None:
        trade_id = shop.live.tape.next - len(fills)
        maker = b"true" if sign < 0 else b"false"
        for unit, (wrapped, bare) in shop.trade.groups.items():
            ts = now // unit
            for n, fill in enumerate(fills):
                payload = b'{"e":"trade","E":%d,"s":"%b","t":%d,"p":"%b","q":"%b","T":%d,"m":%b,"M":true}' % (
                    ts, shop.native, trade_id + n, shop.price(fill.price), shop.size(fill.size), ts, maker,
                )  # fmt: skip
                if wrapped:
                    shop.trade.deliver(wrapped, shop.trade.head + payload + b"}")
                if bare:
                    shop.trade.deliver(bare, payload)

    def _send_aggregates(self, shop: _Shop, sign: int, fills: list[Fill], now: int) -> None:
        first = shop.live.tape.next - len(fills)
        maker = b"true" if sign < 0 else b"false"
        while fills:
            price = fills[0].price
            run = [fill.size for fill in fills if fill.price == price]
            fills = fills[len(run) :]  # prices only worsen, so equal ones stand together
            last = first + len(run) - 1
            tail = b'"s":"%b","a":%d,"p":"%b","q":"%b","f":%d,"l":%d' % (
                shop.native, shop.aggregate, shop.price(price), shop.size(sum(run)), first, last,
            )  # fmt: skip
            shop.aggregate += 1
            shop.agg.send(partial(_aggregate, now, tail, maker))
            first = last + 1

    # -- what is due by time ---------------------------------------------------------------------

    def publish(self, now: int) -> None:
        """Send depth every 100 or 1000 ms and tickers every 1000 ms."""
        if now < self._fast_at:
            return
        self._fast_at = now - now % (100 * MS) + 100 * MS
        slow = now >= self._slow_at
        if slow:
            self._slow_at = now - now % SECOND + SECOND
        for shop in self._shops.values():
            self.send_depth(shop.live.listing.symbol, now)
            for stream, levels, fast in shop.partials:
                if stream.groups and (fast or slow):
                    self._send_partial(shop, stream, levels)
            if slow:
                self._send_diff(shop, shop.slow, now)
                self._send_day(shop, now)
        if slow and self._all.groups:
            self._send_all(now)

    def send_depth(self, symbol: str, now: int) -> None:
        """Send what changed in a book since the last time, to ``@depth@100ms``."""
        shop = self._by_symbol[symbol]
        self._send_diff(shop, shop.fast, now)

    def _send_diff(self, shop: _Shop, stream: Stream, now: int) -> None:
        book = shop.live.book
        since, shop.sent[stream] = shop.sent[stream], book.sequence
        if not stream.groups or since == book.sequence:
            return
        changed = book.changed(max(since, book.oldest))
        bids, asks = shop.rows(changed.bids), shop.rows(changed.asks)
        stream.send(
            lambda unit: (
                b'{"e":"depthUpdate","E":%d,"s":"%b","U":%d,"u":%d,"b":%b,"a":%b}'
                % (now // unit, shop.native, since + 1, book.sequence, bids, asks)
            )
        )

    def _send_partial(self, shop: _Shop, stream: Stream, levels: int) -> None:
        sequence = shop.live.book.sequence
        if shop.shown.get(stream) == sequence:
            return
        shop.shown[stream] = sequence
        payload = self._snapshot(shop, sequence, shop.live.book.depth(levels))
        stream.send(lambda _unit: payload)

    @staticmethod
    def _snapshot(shop: _Shop, sequence: int, levels: Levels) -> bytes:
        return b'{"lastUpdateId":%d,"bids":%b,"asks":%b}' % (
            sequence,
            shop.rows(levels.bids),
            shop.rows(levels.asks),
        )

    def _send_day(self, shop: _Shop, now: int) -> None:
        if shop.mini.groups and (mini := _mini(shop, now)):
            shop.mini.send(mini)
        if shop.ticker.groups and (ticker := _ticker(shop, now)):
            shop.ticker.send(ticker)

    def _send_all(self, now: int) -> None:
        minis: list[Encode] = []
        for shop in self._shops.values():
            if shop.told != shop.live.tape.next and (mini := _mini(shop, now)):
                minis.append(mini)
            shop.told = shop.live.tape.next
        if not minis:
            return
        self._all.send(lambda unit: b"[" + b",".join([mini(unit) for mini in minis]) + b"]")

    # -- REST ------------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request, within the weight limit."""
        if fault := self._faults.find("maintenance", NAME):
            return Reply(503, b"", _retry(fault.retry_after_s))
        native = query.get("symbol", "")
        listing = self._listings.get(native)
        fault = self._faults.find("rest", NAME, listing.symbol if listing else None, path)
        if fault and fault.status:
            answer = _error(fault.status, -1003, "Too many requests; the simulator was told to say so.")
            return msgspec.structs.replace(answer, headers=_retry(fault.retry_after_s), delay_s=fault.delay_s)
        route = self._routes.get(path)
        if route is None:
            return Reply(404, b"")
        handler, weight = route
        answer = self._weights.spend(weight or _depth_weight(query), now) or handler(query, now)
        headers = {**answer.headers, "X-MBX-USED-WEIGHT": str(self._weights.used)}
        headers["X-MBX-USED-WEIGHT-1M"] = headers["X-MBX-USED-WEIGHT"]
        return msgspec.structs.replace(answer, headers=headers, delay_s=fault.delay_s if fault else 0.0)

    def _ping(self, _query: Mapping[str, str], _now: int) -> Reply:
        return Reply(200, b"{}")

    def _time(self, _query: Mapping[str, str], now: int) -> Reply:
        return Reply(200, b'{"serverTime":%d}' % (now // MS))

    def _listed(self, native: str) -> Listing | None:
        listing = self._listings.get(native)
        if listing is None or self._faults.find("unlist", NAME, listing.symbol):
            return None
        return listing

    def _exchange_info(self, query: Mapping[str, str], now: int) -> Reply:
        wanted: list[str] = list(self._listings)
        if "symbol" in query:
            wanted = [query["symbol"]]
        elif "symbols" in query:
            try:
                wanted = msgspec.json.decode(query["symbols"], type=list[str])
            except msgspec.DecodeError:
                return _error(400, -1100, "Illegal characters found in parameter 'symbols'.")
        elif query.get("symbolStatus"):
            trading = query["symbolStatus"] == "TRADING"
            wanted = [native for native, each in self._listings.items() if each.trading == trading]
        named = "symbol" in query or "symbols" in query
        found = [listing for native in wanted if (listing := self._listed(native))]
        if named and len(found) != len(wanted):
            return _error(400, -1121, "Invalid symbol.")
        return Reply(200, exchange_info(found, self.limits["weight_per_minute"], now))

    def _shop(self, query: Mapping[str, str]) -> _Shop | Reply:
        native = query.get("symbol", "")
        if not native:
            message = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            return _error(400, -1102, message)
        shop = self._shops.get(native)
        if shop is None or self._listed(native) is None:
            return _error(400, -1121, "Invalid symbol.")
        return shop

    def _depth(self, query: Mapping[str, str], _now: int) -> Reply:
        shop = self._shop(query)
        if isinstance(shop, Reply):
            return shop
        limit = min(5000, _whole(query.get("limit"), 100) or 100)
        book = shop.live.book
        if fault := self._faults.find("stale_snapshot", NAME, shop.live.listing.symbol):
            sequence = max(book.oldest, book.sequence - fault.back)
            return Reply(200, self._snapshot(shop, sequence, book.at(sequence, limit)))
        return Reply(200, self._snapshot(shop, book.sequence, book.depth(limit)))

    def _trades(self, query: Mapping[str, str], _now: int) -> Reply:
        shop = self._shop(query)
        if isinstance(shop, Reply):
            return shop
        limit = min(1000, _whole(query.get("limit"), 500) or 500)
        tape = shop.live.tape
        first = _whole(query.get("fromId"), tape.next - limit)
        first = max(first, tape.first)
        return Reply(
            200, b"[" + b",".join(_rest_trade(shop, t) for t in tape.read(first, first + limit - 1)) + b"]"
        )

    # -- the truth -------------------------------------------------------------------------------

    def truths(self) -> dict[str, Truth]:
        """Return what there is to be asked, by canonical symbol."""
        return {
            symbol: Truth(
                shop.live.book.oldest, shop.live.book.sequence, shop.live.tape.first, shop.live.tape.next
            )
            for symbol, shop in self._by_symbol.items()
        }

    def book(self, symbol: str, sequence: int | None, most: int | None) -> tuple[int, Levels, Fixed, Fixed]:
        """Return a book as it was at a sequence, see ``venue.Venue``."""
        shop = self._by_symbol[symbol]
        book = shop.live.book
        if sequence is None:
            return book.sequence, book.depth(most), shop.price, shop.size
        return sequence, book.at(sequence, most), shop.price, shop.size

    def trades(self, symbol: str, first: int, last: int) -> list[TrueTrade]:
        """Return trades of the tape by id, both ends included."""
        shop = self._by_symbol[symbol]
        return [
            TrueTrade(
                id=str(trade.id),
                ts=trade.ts,
                price=shop.price(trade.price).decode(),
                size=shop.size(trade.size).decode(),
                aggressor="buy" if trade.sign > 0 else "sell",
            )
            for trade in shop.live.tape.read(first, last)
        ]

    def snapshot(self, symbol: str, limit: int = 1000) -> bytes:
        """Return the body of ``/api/v3/depth`` as it would be now."""
        shop = self._by_symbol[symbol]
        return self._snapshot(shop, shop.live.book.sequence, shop.live.book.depth(limit))

    def _crossed(self, payload: bytes) -> bytes:
        message = msgspec.json.decode(payload)
        data = message.get("data", message)
        shop = self._shops.get(data.get("s", ""))
        if shop is None or "b" not in data or "U" not in data:
            return payload
        _, _, ask, _ = shop.live.book.top()
        data["b"].insert(0, [shop.price(ask + 10).decode(), shop.size(1).decode()])
        return msgspec.json.encode(message)


def _aggregate(now: int, middle: bytes, maker: bytes, unit: int) -> bytes:
    ts = now // unit
    return b'{"e":"aggTrade","E":%d,%b,"T":%d,"m":%b,"M":true}' % (ts, middle, ts, maker)


def _mini(shop: _Shop, now: int) -> Encode | None:
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


def _ticker(shop: _Shop, now: int) -> Encode | None:
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


def _rest_trade(shop: _Shop, trade: Print) -> bytes:
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


# -- frames without a server ---------------------------------------------------------------------


class Generated(NamedTuple):
    """Frames of one combined connection, and what a client would have fetched beside.

    ``snapshots`` (by canonical symbol) are from before the first frame, so that the first depth frame
    of each symbol joins it; ``books`` are the true ones after the last depth frame of each symbol:
    sequence, then (price, size) texts, best first.
    """

    frames: list[bytes]
    exchange_info: bytes
    snapshots: dict[str, bytes]
    books: dict[str, tuple[int, list[tuple[str, str]], list[tuple[str, str]]]]


_GENERATED: Final = ("trade", "bookTicker", "depth@100ms")
FRAMES_PER_DEPTH: Final = 10  # as in a capture of BTCUSDT in 2024: 332 depth to 3,346 others
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
    session = venue.accept(1, "/stream", {"streams": names}, start)
    if isinstance(session, Reply):
        raise TypeError(f"the gateway refused: {session.status}")
    snapshots = {symbol: venue.snapshot(symbol) for symbol in symbols}
    sequences = {live.listing.symbol: live.book.sequence for live in market.of(NAME)}
    others = dict.fromkeys(symbols, 0)
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

    market.sinks[NAME] = act
    while len(session.out) < n:
        market.step(start + int(market.due * SECOND))
    books = {symbol: _texts(*venue.book(symbol, sequences[symbol], None)) for symbol in symbols}
    info = exchange_info(chosen, LIMITS["weight_per_minute"], start)
    return Generated(session.out[:n], info, snapshots, books)


def _texts(
    sequence: int, levels: Levels, price: Fixed, size: Fixed
) -> tuple[int, list[tuple[str, str]], list[tuple[str, str]]]:
    bids = [(price(p).decode(), size(s).decode()) for p, s in levels.bids]
    return sequence, bids, [(price(p).decode(), size(s).decode()) for p, s in levels.asks]


def frames(seed: int, n: int, symbols: Sequence[str] = DEMO_SYMBOLS) -> list[bytes]:
    """Return ``n`` combined-stream frames, see ``generate``."""
    return generate(seed, n, symbols).frames
