"""Binance spot as a server: market streams with their control messages, REST with its budget.

Of the streams: trade, aggTrade, bookTicker, depth, depth@100ms and ticker, by path, query or message,
combined or bare, in milli- or microseconds; any other name is acknowledged and stays silent, as there.
Numbers in ``LIMITS`` are the documented ones; where the documents are silent a comment says what was chosen.

Source: Binance spot API documents (web-socket-streams, rest-api, errors), read 2026-07.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from actors.model.events import MS, SECOND, Channel
from actors.simulator.book import Levels
from actors.simulator.faults import Faults
from actors.simulator.house import House, Shop, retry_after, whole
from actors.simulator.listings import PAIRS, pick
from actors.simulator.market import Fill, Fixed, Listing, Live, Market, Print, fixed
from actors.simulator.session import Every, Form, Reply, Session, Topic

NAME: Final = "binance"
US: Final = 1_000
SHOWN: Final = 8  # every price and size is written with eight decimals
LIMITS: Final[dict[str, float]] = {
    "streams_per_connection": 1024,
    "messages": 5,
    "messages_s": 1,
    "connects": 300,
    "connects_s": 300,
    "weight_per_minute": 6000,
    "requests_while_limited": 10,  # chosen: how many after a 429 make a 418
    "ban_s": 120,
    "ping_every_s": 20,
    "pong_within_s": 60,
    "lifetime_s": 86_400,
}
LISTINGS: Final = pick(NAME, lambda symbol: symbol.replace("-", ""), [s for s in PAIRS if s != "USDT-USD"])
_METHODS: Final = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_MOST_ID: Final = 36
_ORDER_TYPES: Final = ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"]


# -- connections and control messages ------------------------------------------------------------


class Stream(Topic):
    """One market stream. A session's form: (time unit in ns, 1 where it wants the combined form)."""

    __slots__ = ("_head",)

    def __init__(self, name: str, channel: Channel, symbol: str) -> None:
        super().__init__(name, channel, symbol)
        self._head = b'{"stream":"%b","data":' % name.encode()

    def framed(self, form: Form, payload: bytes) -> bytes:
        """Return a payload as such sessions want it."""
        return self._head + payload + b"}" if form[1] else payload

    def say(self, encode: Callable[[int], bytes]) -> None:
        """Send to all who listen what ``encode`` makes of a time unit."""
        for form, sessions in self.groups.items():
            self.deliver(sessions, self.framed(form, encode(form[0])))


class _Wrong(Exception):
    """A control message that is answered with an error."""

    def __init__(self, code: int, message: str, **more: object) -> None:
        super().__init__(message)
        self.answer: dict[str, object] = {"code": code, "msg": message, **more}


class Gateway:
    """Connections and control messages; knows streams by name only."""

    def __init__(
        self, house: House, streams: Mapping[str, Stream], mark: Form = (), *, plain: bool = False
    ) -> None:
        """Take the streams by name; ``mark`` ends the form of its sessions, where there are several.

        ``plain``: as the siblings are, which know no microseconds, of request ids only numbers, and announce
        no end: none is documented of theirs.
        """
        self._house = house
        self._streams = streams
        self._mark = mark
        self._plain = plain
        self.asked = 0  # subscriptions ever made

    def open(self, session: Session, path: str, query: Mapping[str, str], _now: int) -> Reply | None:
        """Read the path, which may hold stream names."""
        head, _, rest = path.lstrip("/").partition("/")
        if head not in ("ws", "stream"):
            return Reply(404)
        micro = not self._plain and query.get("timeUnit", "").upper() == "MICROSECOND"
        session.form = (US if micro else MS, int(head == "stream"), *self._mark)
        names = query.get("streams", "") if head == "stream" else rest
        self._subscribe(session, [name for name in names.split("/") if name])
        return None

    def hurried(self, session: Session, _now: int) -> None:
        """Close: pings and pongs are counted too."""
        session.close = (1008, "Too many requests")

    def announce(self, session: Session, now: int) -> None:
        """Say that the connection will be dropped, where there are words for it."""
        if self._plain:
            return
        unit, wrapped = session.form[:2]
        payload = b'{"e":"serverShutdown","E":%d}' % (now // unit)
        session.out.append(b'{"stream":"!serverShutdown","data":%b}' % payload if wrapped else payload)

    def receive(self, session: Session, text: str, _now: int) -> None:
        """Answer a control message."""
        try:
            answer = self._handle(session, text)
        except _Wrong as e:
            answer = e.answer
        if not self._house.find("no_ack"):
            session.out.append(msgspec.json.encode(answer))

    def _handle(self, session: Session, text: str) -> dict[str, object]:
        try:
            fields = msgspec.json.decode(text, type=dict[str, object])
        except msgspec.ValidationError:
            fields = {}
        except msgspec.DecodeError as e:
            raise _Wrong(3, "Invalid JSON: expected value at line 1 column 1") from e
        where = f"at line 1 column {len(text)}"
        if "method" not in fields:
            raise _Wrong(2, f"Invalid request: missing field `method` {where}")
        method = fields["method"]
        if method not in _METHODS:
            names = ", ".join(f"`{name}`" for name in _METHODS)
            raise _Wrong(2, f"Invalid request: unknown variant `{method}`, expected one of {names} {where}")
        request = _request_id(fields.get("id"), plain=self._plain)
        if method == "LIST_SUBSCRIPTIONS":
            return {"result": list(session.topics), "id": request}
        params = _params(fields.get("params"), where)
        if method == "GET_PROPERTY":
            _value(params, 1, request)
            return {"result": bool(session.form[1]), "id": request}
        if method == "SET_PROPERTY":
            _combine(session, _value(params, 2, request))
            return {"result": None, "id": request}
        names = _names(params)
        if method == "SUBSCRIBE":
            self._subscribe(session, names)
        else:
            for name in names:
                session.leave(name)
        return {"result": None, "id": request}

    def _subscribe(self, session: Session, names: Sequence[str]) -> None:
        if len(session.topics.keys() | set(names)) > self._house.limits["streams_per_connection"]:
            session.close = (1008, "Too many streams")  # chosen: no error is documented for it
            return
        for name in names:
            stream = self._streams.get(name)
            if stream is not None and self._silent(stream.symbol):
                stream = None  # an unknown name is acknowledged, and so is this one
            session.join(name, stream)
            self.asked += 1

    def _silent(self, symbol: str) -> bool:
        return any(self._house.find(kind, symbol) for kind in ("refuse", "unlist", "silent_ack"))


def _params(value: object, where: str) -> list[object]:
    try:
        return msgspec.convert(value, list[object])
    except msgspec.ValidationError as e:
        raise _Wrong(2, f"Invalid request: missing field `params` {where}") from e


def _names(params: Sequence[object]) -> list[str]:
    try:
        return msgspec.convert(params, list[str])
    except msgspec.ValidationError as e:
        raise _Wrong(2, "Invalid request: property name must be a string") from e


def _value(params: Sequence[object], most: int, request: object) -> object:
    """Return what stands beside the name of the only property, None where nothing does."""
    if len(params) > most:
        raise _Wrong(2, "Invalid request: too many parameters")
    name, value = [*params, None, None][:2]
    if not isinstance(name, str):
        raise _Wrong(2, "Invalid request: property name must be a string")
    if name != "combined":
        raise _Wrong(0, "Unknown property", id=request)
    return value


def _combine(session: Session, wanted: object) -> None:
    """Change the form of a session, for the streams that it has as well."""
    if not isinstance(wanted, bool):
        raise _Wrong(1, "Invalid value type: expected Boolean")
    topics = dict(session.topics)
    for name in topics:
        session.leave(name)
    session.form = (session.form[0], int(wanted), *session.form[2:])
    for name, topic in topics.items():
        session.join(name, topic)


def _request_id(value: object, *, plain: bool) -> int | str | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not plain and value is None:
        return value
    if not plain and isinstance(value, str) and len(value) <= _MOST_ID and value.isalnum():
        return value
    raise _Wrong(2, "Invalid request: request ID must be an unsigned integer")


def lag(number: int) -> int:
    """Return how long after its match something is sent, ns; ``number``: of the trade or the book."""
    return number % 4 * MS  # chosen: 0 to 3 ms, as in captures of 2024 to 2026


# -- one listing ---------------------------------------------------------------------------------


class _Stand:
    """A shop's streams, and how far its depth was sent."""

    def __init__(self, shop: Shop) -> None:
        name = shop.listing.native.lower()

        def stream(kind: str, channel: Channel) -> Stream:
            return Stream(f"{name}@{kind}", channel, shop.symbol)

        self.shop = shop
        self.aggregate = shop.live.tape.next
        self.trade = stream("trade", "trade")
        self.agg = stream("aggTrade", "trade")
        self.top = stream("bookTicker", "l1")
        self.fast = stream("depth@100ms", "book")
        self.slow = stream("depth", "book")
        self.ticker = stream("ticker", "ticker")
        self.sent = {self.fast: shop.live.book.sequence, self.slow: shop.live.book.sequence}

    def streams(self) -> list[Stream]:
        """Return all of them."""
        return [self.trade, self.agg, self.top, self.fast, self.slow, self.ticker]

    def rows(self, levels: Sequence[tuple[int, int]]) -> bytes:
        """Return levels as Binance writes them."""
        price, size = self.shop.price, self.shop.size
        return b"[" + b",".join([b'["%b","%b"]' % (price(p), size(s)) for p, s in levels]) + b"]"

    def snapshot(self, sequence: int, levels: Levels) -> bytes:
        """Return the body of ``/api/v3/depth``."""
        return b'{"lastUpdateId":%d,"bids":%b,"asks":%b}' % (
            sequence,
            self.rows(levels.bids),
            self.rows(levels.asks),
        )


def _ticker(shop: Shop, now: int, unit: int) -> bytes:
    day = shop.live.day.summary()
    if day is None:
        return b""
    price, size = shop.price, shop.size
    bid, bid_size, ask, ask_size = shop.live.book.top()
    change = day.close - day.open
    return (
        b'{"e":"24hrTicker","E":%d,"s":"%b","p":"%b","P":"%b","w":"%b","x":"%b","c":"%b","Q":"%b",'
        b'"b":"%b","B":"%b","a":"%b","A":"%b","o":"%b","h":"%b","l":"%b","v":"%b","q":"%b",'
        b'"O":%d,"C":%d,"F":%d,"L":%d,"n":%d}'
        % (
            now // unit, shop.native, price(change), fixed(change * 100_000 // day.open, 3),
            price(day.quote // day.volume), price(day.before), price(day.close), size(day.last_size),
            price(bid), size(bid_size), price(ask), size(ask_size), price(day.open), price(day.high),
            price(day.low), size(day.volume), shop.quote(day.quote, SHOWN), day.opened_at // unit,
            now // unit, day.first_id, day.first_id + day.trades - 1, day.trades,
        )
    )  # fmt: skip


def _aggregate(now: int, middle: bytes, maker: bytes, unit: int) -> bytes:
    ts = now // unit
    return b'{"e":"aggTrade","E":%d,%b,"T":%d,"m":%b,"M":true}' % (ts, middle, ts, maker)


def crossed(house: House, payload: bytes) -> bytes:
    """Return a depth frame with a bid that is not there, above the best ask; any other as it is."""
    message = msgspec.json.decode(payload)
    data = message.get("data", message)
    shop = house.shops.get(data.get("s", ""))
    if shop is None or "b" not in data or "U" not in data:
        return payload
    _, _, ask, _ = shop.live.book.top()
    data["b"].insert(0, [shop.price(ask + 10).decode(), shop.size(1).decode()])
    return msgspec.json.encode(message)


# -- REST ----------------------------------------------------------------------------------------


def error(status: int, code: int, message: str) -> Reply:
    """Return a refusal in the venue's words."""
    return Reply(status, msgspec.json.encode({"code": code, "msg": message}))


REFUSAL: Final = error(0, -1003, "The simulator was told to refuse.").body


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
        reply = error(status, -1003, message)
        return msgspec.structs.replace(reply, headers=retry_after(-((now - until) // SECOND)))


def _row(listing: Listing) -> dict[str, object]:
    tick, step = (Fixed(each, SHOWN)(1).decode() for each in (listing.price_step, listing.size_step))
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
                "minPrice": tick,
                "maxPrice": "1000000.00000000",
                "tickSize": tick,
            },
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000000.00000000", "stepSize": step},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


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


def _rest_trade(shop: Shop, trade: Print) -> bytes:
    return (
        b'{"id":%d,"price":"%b","qty":"%b","quoteQty":"%b","time":%d,"isBuyerMaker":%b,"isBestMatch":true}'
        % (
            trade.id,
            shop.price(trade.price),
            shop.size(trade.size),
            shop.quote(trade.price * trade.size, SHOWN),
            trade.ts // MS,
            b"true" if trade.sign < 0 else b"false",
        )
    )


# -- the venue -----------------------------------------------------------------------------------


class Binance:
    """Publishes what the market does and answers requests. Siblings have a name and limits of their own."""

    def __init__(
        self,
        market: Market,
        faults: Faults,
        now: int,
        listings: Sequence[Listing] = LISTINGS,
        *,
        name: str = NAME,
        limits: Mapping[str, float] = LIMITS,
        plain: bool = False,
    ) -> None:
        self.house = House(name, limits, faults, listings, market, shown=SHOWN)
        self.edits = {"crossed": partial(crossed, self.house)}
        self._stands = {native: _Stand(shop) for native, shop in self.house.shops.items()}
        self._by_symbol = {stand.shop.symbol: stand for stand in self._stands.values()}
        streams = {s.name: s for each in self._stands.values() for s in each.streams()}
        gateway = Gateway(self.house, streams, plain=plain)
        self.open = gateway.open
        self.receive = gateway.receive
        self.hurried = gateway.hurried
        self.announce = gateway.announce
        self._weights = Weights(self.house.limits)
        self._routes = {
            "/api/v3/ping": self._weighed(1, lambda _query, _now: Reply(200, b"{}")),
            "/api/v3/time": self._weighed(1, lambda _, now: Reply(200, b'{"serverTime":%d}' % (now // MS))),
            "/api/v3/exchangeInfo": self._weighed(20, self._exchange_info),
            "/api/v3/depth": self._weighed(None, self._depth),
            "/api/v3/trades": self._weighed(25, self._trades),
            "/api/v3/historicalTrades": self._weighed(25, self._trades),
        }
        self._fast, self._slow = Every(100 * MS, now), Every(SECOND, now)
        market.sinks[name] = self.act

    # -- what the market does, and what is due by time ---------------------------------------------

    def act(self, live: Live, sign: int, fills: list[Fill], top: bool, now: int) -> None:
        """Send trades and, where it has changed, the top of the book."""
        stand = self._stands[live.listing.native]
        shop = stand.shop
        if fills:
            if stand.trade.groups:
                self._send_trades(stand, sign, fills, now)
            if stand.agg.groups:
                self._send_aggregates(stand, sign, fills, now)
        if top and stand.top.groups:
            bid, bid_size, ask, ask_size = live.book.top()
            price, size = shop.price, shop.size
            payload = b'{"u":%d,"s":"%b","b":"%b","B":"%b","a":"%b","A":"%b"}' % (
                live.book.sequence, shop.native, price(bid), size(bid_size), price(ask), size(ask_size),
            )  # fmt: skip
            stand.top.say(lambda _unit: payload)

    def _send_trades(self, stand: _Stand, sign: int, fills: list[Fill], now: int) -> None:
        shop, stream = stand.shop, stand.trade
        trade_id = shop.live.tape.next - len(fills)
        maker = b"true" if sign < 0 else b"false"
        for form, sessions in stream.groups.items():
            ts = now // form[0]
            for n, fill in enumerate(fills, trade_id):
                sent = (now + lag(n)) // form[0]
                payload = b'{"e":"trade","E":%d,"s":"%b","t":%d,"p":"%b","q":"%b","T":%d,"m":%b,"M":true}' % (
                    sent, shop.native, n, shop.price(fill.price), shop.size(fill.size), ts, maker,
                )  # fmt: skip
                stream.deliver(sessions, stream.framed(form, payload))

    def _send_aggregates(self, stand: _Stand, sign: int, fills: list[Fill], now: int) -> None:
        shop = stand.shop
        first = shop.live.tape.next - len(fills)
        maker = b"true" if sign < 0 else b"false"
        while fills:
            price = fills[0].price
            run = [fill.size for fill in fills if fill.price == price]
            fills = fills[len(run) :]  # prices only worsen, so equal ones stand together
            last = first + len(run) - 1
            middle = b'"s":"%b","a":%d,"p":"%b","q":"%b","f":%d,"l":%d' % (
                shop.native, stand.aggregate, shop.price(price), shop.size(sum(run)), first, last,
            )  # fmt: skip
            stand.aggregate += 1
            stand.agg.say(partial(_aggregate, now, middle, maker))
            first = last + 1

    def publish(self, now: int) -> None:
        """Send depth every 100 or 1000 ms and tickers every 1000 ms."""
        if not self._fast.due(now):
            return
        slow = self._slow.due(now)
        for stand in self._stands.values():
            self._send_diff(stand, stand.fast, now)
            if slow:
                self._send_diff(stand, stand.slow, now)
                if stand.ticker.groups and stand.shop.live.day.summary():
                    stand.ticker.say(partial(_ticker, stand.shop, now))

    def send_depth(self, symbol: str, now: int) -> None:
        """Send what changed in a book since the last time, to ``@depth@100ms``."""
        stand = self._by_symbol[symbol]
        self._send_diff(stand, stand.fast, now)

    def _send_diff(self, stand: _Stand, stream: Stream, now: int) -> None:
        book, native = stand.shop.live.book, stand.shop.native
        since, stand.sent[stream] = stand.sent[stream], book.sequence
        if not stream.groups or since == book.sequence:
            return
        changed = book.changed(max(since, book.oldest))
        bids, asks = stand.rows(changed.bids), stand.rows(changed.asks)
        stream.say(
            lambda unit: (
                b'{"e":"depthUpdate","E":%d,"s":"%b","U":%d,"u":%d,"b":%b,"a":%b}'
                % (now // unit, native, since + 1, book.sequence, bids, asks)
            )
        )

    # -- requests ----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request, within the weight limit."""
        native = query.get("symbol", "")
        return self.house.answer(self._routes, path, query, now, native=native, refusal=REFUSAL)

    def _weighed(
        self, weight: int | None, handler: Callable[[Mapping[str, str], int], Reply]
    ) -> Callable[[Mapping[str, str], int], Reply]:
        def answer(query: Mapping[str, str], now: int) -> Reply:
            reply = self._weights.spend(weight or _depth_weight(query), now) or handler(query, now)
            used = str(self._weights.used)
            headers = {**reply.headers, "X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}
            return msgspec.structs.replace(reply, headers=headers)

        return answer

    def _exchange_info(self, query: Mapping[str, str], now: int) -> Reply:
        listings = self.house.listings
        wanted: list[str] = list(listings)
        if "symbol" in query:
            wanted = [query["symbol"]]
        elif "symbols" in query:
            try:
                wanted = msgspec.json.decode(query["symbols"], type=list[str])
            except msgspec.DecodeError:
                return error(400, -1100, "Illegal characters found in parameter 'symbols'.")
        elif query.get("symbolStatus"):
            trading = query["symbolStatus"] == "TRADING"
            wanted = [native for native, each in listings.items() if each.trading == trading]
        found = [listing for native in wanted if (listing := self.house.listed(native))]
        if ("symbol" in query or "symbols" in query) and len(found) != len(wanted):
            return error(400, -1121, "Invalid symbol.")
        return Reply(200, exchange_info(found, self.house.limits["weight_per_minute"], now))

    def _stand(self, query: Mapping[str, str]) -> _Stand | Reply:
        native = query.get("symbol", "")
        if not native:
            message = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            return error(400, -1102, message)
        if self.house.shop(native) is None:
            return error(400, -1121, "Invalid symbol.")
        return self._stands[native]

    def _depth(self, query: Mapping[str, str], _now: int) -> Reply:
        stand = self._stand(query)
        if isinstance(stand, Reply):
            return stand
        limit = min(5000, whole(query.get("limit"), 100) or 100)
        book = stand.shop.live.book
        if fault := self.house.find("stale_snapshot", stand.shop.symbol):
            sequence = max(book.oldest, book.sequence - fault.back)
            return Reply(200, stand.snapshot(sequence, book.at(sequence, limit)))
        return Reply(200, stand.snapshot(book.sequence, book.depth(limit)))

    def _trades(self, query: Mapping[str, str], _now: int) -> Reply:
        stand = self._stand(query)
        if isinstance(stand, Reply):
            return stand
        limit = min(1000, whole(query.get("limit"), 500) or 500)
        tape = stand.shop.live.tape
        first = max(whole(query.get("fromId"), tape.next - limit), tape.first)
        trades = tape.read(first, first + limit - 1)
        return Reply(200, b"[" + b",".join([_rest_trade(stand.shop, trade) for trade in trades]) + b"]")

    def snapshot(self, symbol: str, limit: int = 1000) -> bytes:
        """Return the body of ``/api/v3/depth`` as it would be now."""
        stand = self._by_symbol[symbol]
        book = stand.shop.live.book
        return stand.snapshot(book.sequence, book.depth(limit))


def _depth_weight(query: Mapping[str, str]) -> int:
    limit = whole(query.get("limit"), 100)
    return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250


serve = Binance
