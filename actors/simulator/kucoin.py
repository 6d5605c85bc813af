"""KuCoin spot as a server, classic protocol: a token by REST, then matches, books, L1 and 24 h summaries.

A token, asked for by POST, is good for one connection (chosen) and for 24 h. Nothing is heard before the
welcome was sent. The book's sequence counts more than changes of levels: what is none of a level's goes out
at price 0.
Numbers in ``LIMITS`` and all wording are the documented or probed ones, except where a comment says chosen.

Source: kucoin.com/docs-new, classic WebSocket, spot REST, error codes, rate limits, read 2026-08; a probe of
2026-09; captures of 2021 to 2024.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from actors.model.events import MS, SECOND
from actors.simulator.book import Levels
from actors.simulator.faults import Faults
from actors.simulator.house import Handler, House, Shop
from actors.simulator.listings import PAIRS, pick
from actors.simulator.market import Fill, Listing, Live, Market, Print, fixed
from actors.simulator.session import Every, Reply, Session, Topic

NAME: Final = "kucoin"
BOOK_MS: Final = 50  # chosen: documented as real time
TOP_MS: Final = 100
DAY_MS: Final = 2000
MOST_CHANGES: Final = 8  # chosen: in one frame; there may be as few as one
CACHED_NS: Final = SECOND // 4  # chosen: how old a book by REST may be
LIMITS: Final[dict[str, float]] = {
    "connects": 30,
    "connects_s": 60,
    "connections": 800,
    "messages": 100,
    "messages_s": 10,
    "topics": 300,
    "topics_per_message": 100,
    "ping_within_s": 60,
    "token_s": 86_400,
    "lifetime_s": 86_400,
    "weight": 2000,  # REST
    "weight_s": 30,
}
# The ids that pairs have kept when they were renamed.
RENAMED: Final = {"FLR-USDT": "SPARK-USDT", "TRX-USDT": "TRON-USDT"}
LISTINGS: Final = pick(
    NAME,
    lambda symbol: RENAMED.get(symbol, symbol),
    [s for s in PAIRS if s not in ("USDT-USD", "TUSD-BTC", "币安人生-USDT")],
    pace=0.5,
)
_NO_TOPIC: Final = "topic does not exist"
_crossable: Final = re.compile(rb'"bids":\[.*?\]\},"sequenceEnd":(\d+)')


class _Request(msgspec.Struct):
    type: str = ""
    id: str | int | None = None
    topic: str = ""
    response: bool = False


class _Guest:
    """Who a session is: the name it has given itself, whether it was greeted, its last ping."""

    def __init__(self, session: Session, name: str, now: int) -> None:
        self.session = session
        self.name = name
        self.greeted = False
        self.pinged = now


class _Stand:
    """A shop's topics, how far its listeners know the book, and the book that REST has cached."""

    def __init__(self, shop: Shop) -> None:
        native = shop.listing.native
        self.shop = shop
        self.match = Topic(f"/market/match:{native}", "trade", shop.symbol)
        self.level2 = Topic(f"/market/level2:{native}", "book", shop.symbol)
        self.ticker = Topic(f"/market/ticker:{native}", "l1", shop.symbol)
        self.day = Topic(f"/market/snapshot:{native}", "ticker", shop.symbol)
        self.topics = (self.match, self.level2, self.ticker, self.day)
        self.sequence = shop.live.book.sequence
        self._top = (0, 0, 0, 0)
        self._cached: dict[int, tuple[int, bytes]] = {}  # levels -> when, body

    def tell_book(self, now: int) -> None:
        """Send what changed in the book since the last time."""
        book = self.shop.live.book
        since, self.sequence = self.sequence, book.sequence
        if not self.level2.groups:
            return
        changes = book.changes(since)
        start = 0
        while start < len(changes):
            end = start + 1 + changes[start][0] % MOST_CHANGES
            self.level2.tell(self._changes(changes[start:end], now))
            start = end

    def _changes(self, changes: Sequence[tuple[int, int, int]], now: int) -> bytes:
        """Return one frame: a level's last change stands for the earlier ones, in the order of prices."""
        last = {key: number for number, key, _ in changes}
        sides: tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]] = ([], [])
        price, size = self.shop.price, self.shop.size
        for number, key, left in changes:
            if key and last[key] == number:
                row = b'["%b","%b","%d"]' % (price(abs(key)), size(left) if left else b"0", number)
            else:
                row = b'["0","0","%d"]' % number
            sides[key > 0].append((abs(key), row))
        asks, bids = (b",".join([row for _, row in sorted(side)]) for side in sides)
        return _frame(
            self.level2,
            b"trade.l2update",
            b'{"changes":{"asks":[%b],"bids":[%b]},"sequenceEnd":%d,"sequenceStart":%d,"symbol":"%b","time":%d}'
            % (asks, bids, changes[-1][0], changes[0][0], self.shop.native, now // MS),
        )

    def tell_top(self, now: int) -> None:
        """Send the best bid and offer, if they changed; null for an empty side."""
        shop, book = self.shop, self.shop.live.book
        if not self.ticker.groups or book.top() == self._top:
            return
        self._top = bid, bid_size, ask, ask_size = book.top()
        day = shop.live.day.summary()
        data = (
            b'{"bestAsk":%b,"bestAskSize":%b,"bestBid":%b,"bestBidSize":%b,"price":"%b","sequence":"%d",'
            b'"size":"%b","time":%d}'
            % (
                *_side(shop, ask, ask_size), *_side(shop, bid, bid_size), shop.price(day.close if day else 0),
                book.sequence, shop.size(day.last_size if day else 0), now // MS,
            )
        )  # fmt: skip
        self.ticker.tell(_frame(self.ticker, b"trade.ticker", data))

    def tell_day(self, now: int) -> None:
        """Send the last 24 hours; numbers, not texts."""
        day = self.shop.live.day.summary()
        if day is None or not self.day.groups:
            return
        listing, price, size = self.shop.listing, self.shop.price, self.shop.size
        data = (
            b'{"sequence":"%d","data":{%b"baseCurrency":"%b","changePrice":%b,"changeRate":%b,"close":%b,'
            b'"datetime":%d,"high":%b,'
            b'"lastTradedPrice":%b,"low":%b,"market":"%b","open":%b,"quoteCurrency":"%b","symbol":"%b",'
            b'"symbolCode":"%b","trading":true,"vol":%b,"volValue":%b}}'
            % (
                self.shop.live.book.sequence, self._best(), listing.base.encode(),
                price(day.close - day.open), fixed((day.close - day.open) * 10_000 // day.open, 4),
                price(day.close), now // MS, price(day.high), price(day.close), price(day.low),
                _market(listing).encode(), price(day.open), listing.quote.encode(), self.shop.native,
                self.shop.native, size(day.volume), self.shop.quote(day.quote, 14),
            )
        )  # fmt: skip
        self.day.tell(_frame(self.day, b"trade.snapshot", data))

    def _best(self) -> bytes:
        """Return the best prices as the summary has them; a side that is empty is left out (chosen)."""
        bid, bid_size, ask, ask_size = self.shop.live.book.top()
        price, size = self.shop.price, self.shop.size
        buy = b'"bidSize":%b,"buy":%b,' % (size(bid_size), price(bid)) if bid else b""
        sell = b'"askSize":%b,"sell":%b,' % (size(ask_size), price(ask)) if ask else b""
        return buy + sell

    def trade(self, trade: Print) -> bytes:
        """Return one match; its id is its number on the tape, and so is its sequence."""
        shop, orders = self.shop, (trade.id * 2, trade.id * 2 + 1)
        data = (
            b'{"makerOrderId":"%024x","price":"%b","sequence":"%d","side":"%b","size":"%b","symbol":"%b",'
            b'"takerOrderId":"%024x","time":"%d","tradeId":"%d","type":"match"}'
            % (
                orders[0], shop.price(trade.price), trade.id, b"buy" if trade.sign > 0 else b"sell",
                shop.size(trade.size), shop.native, orders[1], trade.ts, trade.id,
            )
        )  # fmt: skip
        return _frame(self.match, b"trade.l3match", data)

    def snapshot(self, most: int, now: int, back: int = 0) -> bytes:
        """Return a book by REST: ``back`` changes ago, or as it was a moment ago."""
        book = self.shop.live.book
        if back:
            sequence = max(book.oldest, book.sequence - back)
            return self._whole(sequence, book.at(sequence, most), now)
        made, body = self._cached.get(most, (0, b""))
        if now - made > CACHED_NS:
            body = self._whole(book.sequence, book.depth(most), now)
            self._cached[most] = now, body
        return body

    def _whole(self, sequence: int, levels: Levels, now: int) -> bytes:
        price, size = self.shop.price, self.shop.size
        bids, asks = (b",".join([b'["%b","%b"]' % (price(p), size(s)) for p, s in side]) for side in levels)
        body = b'{"code":"200000","data":{"time":%d,"sequence":"%d","bids":[%b],"asks":[%b]}}'
        return body % (now // MS, sequence, bids, asks)


def _side(shop: Shop, price: int, size: int) -> tuple[bytes, bytes]:
    return (b'"%b"' % shop.price(price), b'"%b"' % shop.size(size)) if size else (b"null", b"null")


def _frame(topic: Topic, subject: bytes, data: bytes) -> bytes:
    return b'{"topic":"%b","type":"message","subject":"%b","data":%b}' % (topic.name.encode(), subject, data)


class _Pool:
    """The REST budget of one address: so much weight in a window that its first request opens."""

    def __init__(self) -> None:
        self._opened = 0
        self._spent = 0

    def spend(self, weight: int, limits: Mapping[str, float], now: int) -> Reply | None:
        """Count one request; return the refusal, if it is one."""
        window = int(limits["weight_s"] * SECOND)
        if now - self._opened >= window:
            self._opened, self._spent = now, 0
        self._spent += weight
        if self._spent <= limits["weight"]:
            return None
        headers = {
            "gw-ratelimit-limit": str(int(limits["weight"])),
            "gw-ratelimit-remaining": "0",
            "gw-ratelimit-reset": str((self._opened + window - now) // MS),
        }
        return Reply(429, _refusal("429000", "Too many requests in a short period of time"), headers)


class Kucoin:
    """Publishes what the market does and answers requests."""

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.house = House(NAME, LIMITS, faults, listings, market, trim=True)
        self.house.posted = frozenset({"/api/v1/bullet-public"})
        self.edits = {"crossed": _crossed}
        self._stands = {native: _Stand(shop) for native, shop in self.house.shops.items()}
        self._topics = {topic.name: topic for stand in self._stands.values() for topic in stand.topics}
        self._guests: dict[int, _Guest] = {}
        self._new: list[_Guest] = []  # not greeted yet
        self._tokens: dict[str, int] = {}  # not used yet -> when given
        self._given = 0
        self._pool = _Pool()
        self._books, self._tops, self._days, self._rounds = (
            Every(ms * MS, now) for ms in (BOOK_MS, TOP_MS, DAY_MS, 1000)
        )
        market.sinks[NAME] = self._act

    # -- connections and control messages ----------------------------------------------------------

    def open(self, session: Session, path: str, query: Mapping[str, str], now: int) -> Reply | None:
        """Let in who has a token; who has a bad one is told on the socket, and put out."""
        if path not in ("", "/"):
            return Reply(404)
        if len(self.house.sessions) > self.house.limits["connections"]:
            return Reply(429)  # chosen
        if "token" not in query:
            return Reply(401, _refusal("401", "token is required"))  # chosen: the words
        name = query.get("connectId") or f"{session.number:x}"
        given = self._tokens.pop(query["token"], None)
        if given is None or now - given > self.house.limits["token_s"] * SECOND:
            why = "token is invalid" if given is None else "token is expired"
            session.out.append(_error(name, 401, why))
            session.close = (1000, "Bye")
            return None
        guest = self._guests[session.number] = _Guest(session, name, now)
        self._new.append(guest)
        return None

    def announce(self, session: Session, _now: int) -> None:
        """Say that the token is expired: the venue has no other words before it drops a connection."""
        guest = self._guests.get(session.number)
        if guest is not None:
            session.out.append(_error(guest.name, 401, "token is expired"))

    def hurried(self, session: Session, _now: int) -> None:
        """Refuse to hear it."""
        guest = self._guests.get(session.number)
        if guest is not None:
            session.out.append(_error(guest.name, 509, "exceed max permits per second"))

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a control message; before the welcome none is heard."""
        guest = self._guests.get(session.number)
        if guest is None or not guest.greeted:
            return
        try:
            request = msgspec.json.decode(text, type=_Request)
        except msgspec.ValidationError:
            session.out.append(_error(guest.name, 400, "topic is invalid"))
            return
        except msgspec.DecodeError:
            session.out.append(_error(guest.name, 400, f"Unrecognized token '{text[:20]}'"))
            return
        number = str(guest.name if request.id is None else request.id)
        match request.type:
            case "ping":
                guest.pinged = now
                session.beat(b'{"id":%b,"type":"pong"}' % msgspec.json.encode(number))
            case "subscribe" | "unsubscribe":
                self._listen(session, request, number)
            case _:
                session.out.append(_error(number, 415, "type is not supported"))

    def _listen(self, session: Session, request: _Request, number: str) -> None:
        """Begin or end what a topic names; an unknown pair is acknowledged and never says anything."""
        stream, _, rest = request.topic.partition(":")
        names = [f"{stream}:{native}" for native in rest.split(",")]
        if refusal := self._refusal(session, request, stream, names):
            session.out.append(_error(number, *refusal))
            return
        for name in names:
            if request.type == "subscribe":
                session.join(name, self._heard(name))
            else:
                session.leave(name)
        if request.response and not self.house.find("no_ack"):
            session.out.append(b'{"id":%b,"type":"ack"}' % msgspec.json.encode(number))

    def _refusal(
        self, session: Session, request: _Request, stream: str, names: Sequence[str]
    ) -> tuple[int, str] | None:
        limits, too_many = self.house.limits, "exceed max subscription count limitation of"
        if not request.topic:
            return 406, "topic is required"
        if stream not in _STREAMS:
            return 404, _NO_TOPIC
        if len(names) > limits["topics_per_message"]:
            return 509, f"{too_many} {limits['topics_per_message']:.0f} per time"
        if request.type == "subscribe" and len(session.topics.keys() | set(names)) > limits["topics"]:
            return 509, f"{too_many} {limits['topics']:.0f} per session"
        return None

    def _heard(self, name: str) -> Topic | None:
        topic = self._topics.get(name)
        if topic is None or not self.house.listed(name.partition(":")[2]):
            return None
        return (
            None if any(self.house.find(kind, topic.symbol) for kind in ("refuse", "silent_ack")) else topic
        )

    # -- what the market does, and what is due by time ---------------------------------------------

    def _act(self, live: Live, _sign: int, fills: list[Fill], _top: bool, _now: int) -> None:
        stand, tape = self._stands[live.listing.native], live.tape
        if live.book.sequence % 3 == 0:  # chosen: a capture of 2021 has one in three
            live.book.count()
        if fills and stand.match.groups:
            for trade in tape.read(tape.next - len(fills), tape.next - 1):
                stand.match.tell(stand.trade(trade))

    def publish(self, now: int) -> None:
        """Greet newcomers, send what is due, put out who has not pinged."""
        books, tops, days = self._books.due(now), self._tops.due(now), self._days.due(now)
        if self._new:
            self._greet()
        if self._rounds.due(now):
            self._look(now)
        for stand in self._stands.values():
            if books:
                stand.tell_book(now)
            if tops:
                stand.tell_top(now)
            if days:
                stand.tell_day(now)

    def _greet(self) -> None:
        for guest in self._new:
            guest.greeted = True
            guest.session.out.append(b'{"id":%b,"type":"welcome"}' % msgspec.json.encode(guest.name))
        self._new.clear()

    def _look(self, now: int) -> None:
        """Forget who has gone; close whoever has sent no ping, though data is streaming."""
        self._guests = {n: guest for n, guest in self._guests.items() if n in self.house.sessions}
        for guest in self._guests.values():
            if now - guest.pinged > self.house.limits["ping_within_s"] * SECOND:
                guest.session.out.append(_error(guest.name, 400, "ping timeout"))
                guest.session.close = (1000, "Bye")

    # -- requests ----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request."""
        weight = {"/api/v1/bullet-public": 10, "/api/v2/symbols": 4}.get(path, 2)
        if refusal := self._pool.spend(weight, self.house.limits, now):
            return refusal
        native = query.get("symbol", "")
        routes: dict[str, Handler] = {
            "/api/v1/bullet-public": self._token,
            "/api/v1/timestamp": _time,
            "/api/v2/symbols": self._symbols,
            "/api/v1/market/orderbook/level2_20": partial(self._book, 20),
            "/api/v1/market/orderbook/level2_100": partial(self._book, 100),
        }
        return self.house.answer(
            routes, path, query, now, native=native, refusal=_refusal("500000", "Internal Server Error")
        )

    def _token(self, _query: Mapping[str, str], now: int) -> Reply:
        oldest = now - int(self.house.limits["token_s"] * SECOND)
        while self._tokens and next(iter(self._tokens.values())) < oldest - SECOND:
            del self._tokens[next(iter(self._tokens))]
        self._given += 1
        token = f"2neAiu+{now:x}/{self._given:x}==.sim+/=="  # with what must be encoded in a URL
        self._tokens[token] = now
        server = {
            "endpoint": f"ws://{self.house.address}/",
            "encrypt": False,
            "protocol": "websocket",
            "pingInterval": 18000,
            "pingTimeout": 10000,
        }
        return _success({"token": token, "instanceServers": [server]})

    def _symbols(self, _query: Mapping[str, str], _now: int) -> Reply:
        listed = [each for native, each in self.house.listings.items() if self.house.listed(native)]
        return _success([_row(each) for each in listed])

    def _book(self, most: int, query: Mapping[str, str], now: int) -> Reply:
        native = query.get("symbol", "")
        stand = self._stands.get(native) if self.house.listed(native) else None
        if stand is None:
            return Reply(200, _refusal("900001", "symbol not exists"))
        fault = self.house.find("stale_snapshot", stand.shop.symbol)
        return Reply(200, stand.snapshot(most, now, 0 if fault is None else fault.back))


_STREAMS: Final = ("/market/match", "/market/level2", "/market/ticker", "/market/snapshot")


def _error(name: str, code: int, why: str) -> bytes:
    return msgspec.json.encode({"id": name, "type": "error", "code": code, "data": why})


def _success(data: object) -> Reply:
    return Reply(200, msgspec.json.encode({"code": "200000", "data": data}))


def _refusal(code: str, message: str) -> bytes:
    return msgspec.json.encode({"code": code, "msg": message})


def _time(_query: Mapping[str, str], now: int) -> Reply:
    return _success(now // MS)


def _crossed(payload: bytes) -> bytes:
    """Put a bid above all asks into a change of the book."""
    return _crossable.sub(rb'"bids":[["99999999.5","1","\1"]]},"sequenceEnd":\1', payload, count=1)


def _market(listing: Listing) -> str:
    return "USDS" if listing.quote in ("USDT", "USDC", "TUSD") else listing.quote


def _row(listing: Listing) -> dict[str, object]:
    return {
        "symbol": listing.native,
        "name": f"{listing.base}-{listing.quote}",
        "baseCurrency": listing.base,
        "quoteCurrency": listing.quote,
        "feeCurrency": listing.quote,
        "market": _market(listing),
        "baseMinSize": listing.size_step,
        "baseIncrement": listing.size_step,
        "priceIncrement": listing.price_step,
        "isMarginEnabled": False,
        "enableTrading": listing.trading,
        "st": False,
    }


serve = Kucoin
