"""Gate spot v4 as a server: trades, books (order book V2), L1 and tickers over one socket; and its REST.

A book opens with all of its levels, before the acknowledgement; what leaves its window is removed by name,
and a change that lies below it still counts. An unknown book is acknowledged and never speaks.
Numbers in ``LIMITS`` and all wording are the documented or recorded ones, some of the futures gateway of the
same family, except where a comment says chosen. ``spot.order_book_update`` is not served. A bad pair of
``spot.trades`` is refused in the words that are documented for spot, which do not name it.

Source: gate.com, Spot WebSocket v4 and REST v4 as of 2026-05; captures of 2026-08; a probe of 2026-09.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from actors.model.events import MS, SECOND
from actors.simulator.faults import Faults
from actors.simulator.house import Handler, House, Shop, trimmed, whole
from actors.simulator.listings import PAIRS, pick
from actors.simulator.market import Fill, Listing, Live, Market, Print, fixed
from actors.simulator.session import Every, Rate, Reply, Session, Topic
from actors.simulator.window import Window

NAME: Final = "gateio"
DEPTHS: Final = {50: 20, 400: 100}  # levels a side -> ms between updates
TOP_MS: Final = 10
TICKER_MS: Final = 1000
LIMITS: Final[dict[str, float]] = {
    "connections": 300,
    "unsubscribed_s": 30.5,  # of life, without a subscription or a ping
    "ping_every_s": 30,  # chosen: the interval is not stated
    "pong_within_s": 30,  # chosen
    "time_within_s": 60,  # of ours, a request's; documented
    "requests": 200,  # REST, an endpoint
    "requests_s": 10,
}
LISTINGS: Final = pick(
    NAME,
    lambda symbol: symbol.replace("-", "_"),
    [symbol for symbol in PAIRS if symbol not in ("USDT-USD", "EUR-USDT")],
    pace=0.4,
)
_NO_PAIR: Final = {
    "spot.trades": "Invalid argument provided",
    "spot.book_ticker": "unknown currency pair {}",
    "spot.tickers": "unknown currency pair: {}",
}
_UPGRADE: Final = msgspec.json.encode(
    {
        "type": "upgrade",
        "msg": "The connection will soon be closed for a service upgrade. Please reconnect.",
    }
)


class _Request(msgspec.Struct):
    time: int = 0
    channel: str = ""
    event: str = ""
    payload: list[str] = []
    id: int | str | None = None


class _Offer:
    """A topic by its name, and what it opens with."""

    def __init__(self, topic: Topic, greet: Callable[[int], bytes] | None = None) -> None:
        self.topic = topic
        self.greet = greet


class _Depth:
    """A book of so many levels a side: who applies every change holds exactly these."""

    def __init__(self, shop: Shop, levels: int) -> None:
        self.topic = Topic(f"ob.{shop.listing.native}.{levels}", "book", shop.symbol)
        self._shop = shop
        self._levels = levels
        self._window: Window | None = None  # None: told to nobody
        self._u = 0

    def snapshot(self, now: int) -> bytes:
        """Return all levels, at which those who listen already are by now."""
        self.tell(now)
        if self._window is None:
            self._window = Window(self._shop.live.book, self._levels)
            self._u = self._shop.live.book.sequence
        levels = self._window.levels
        rows = b'"b":[%b],"a":[%b]' % self._sides(levels, sorted(levels, reverse=True))
        return self._frame(now, b'"full":true,"s":"%b","u":%d,%b' % (self._name, self._u, rows))

    def tell(self, now: int) -> None:
        """Tell what changed: sides that are as they were, and be it both, are left out."""
        if not self.topic.groups:
            self._window = None
        window, sequence = self._window, self._shop.live.book.sequence
        if window is None or sequence == self._u:
            return
        bids, asks = self._sides(window.levels, window.follow())
        sides = (b',"b":[%b]' % bids if bids else b"") + (b',"a":[%b]' % asks if asks else b"")
        first, self._u = self._u + 1, sequence
        self.topic.tell(self._frame(now, b'"s":"%b","u":%d,"U":%d%b' % (self._name, sequence, first, sides)))

    @property
    def _name(self) -> bytes:
        return self.topic.name.encode()

    def _sides(self, levels: Mapping[int, int], keys: Sequence[int]) -> tuple[bytes, bytes]:
        price, size = self._shop.price, self._shop.size
        sides: tuple[list[bytes], list[bytes]] = [], []
        for key in keys:
            left = levels.get(key)
            sides[key < 0].append(b'["%b","%b"]' % (price(abs(key)), size(left) if left else b"0"))
        return b",".join(sides[0]), b",".join(sides[1])

    def _frame(self, now: int, rest: bytes) -> bytes:
        ms = now // MS
        text = b'{"channel":"spot.obu","result":{"t":%d,%b},"time_ms":%d,"event":"update"}'
        return text % (ms, rest, ms)


class _Stand:
    """A shop's topics, and what was told of each."""

    def __init__(self, shop: Shop) -> None:
        native, symbol = shop.listing.native, shop.symbol
        self.shop = shop
        self.trades = Topic(native, "trade", symbol)
        self.tops = Topic(native, "l1", symbol)
        self.tickers = Topic(native, "ticker", symbol)
        self.books = {levels: _Depth(shop, levels) for levels in DEPTHS}
        self.moved = True  # its best prices have, since they were told
        self._ticker = b""

    def offers(self) -> dict[tuple[str, str], _Offer]:
        """Return each topic by its channel and the name it is asked for by."""
        native = self.shop.listing.native
        books = {
            ("spot.obu", each.topic.name): _Offer(each.topic, each.snapshot) for each in self.books.values()
        }
        named = {"spot.trades": self.trades, "spot.book_ticker": self.tops, "spot.tickers": self.tickers}
        return books | {(channel, native): _Offer(topic) for channel, topic in named.items()}

    def trade(self, trade: Print, now: int) -> bytes:
        """Return one trade, which stands for itself alone."""
        price, size = self.shop.price(trade.price), self.shop.size(trade.size)
        number, micros = trade.id, trade.ts // 1000
        return _update(
            b"trades",
            now,
            b'{"id":%d,"id_market":%d,"create_time":%d,"create_time_ms":"%d.%03d000","side":"%b",'
            b'"currency_pair":"%b","amount":"%b","price":"%b","range":"%d-%d"}'
            % (
                number, number, trade.ts // SECOND, micros // 1000, micros % 1000,
                b"buy" if trade.sign > 0 else b"sell", self.shop.native, size, price, number, number,
            ),
        )  # fmt: skip

    def top(self, now: int) -> bytes:
        """Return the best bid and offer; a side that is empty has neither price nor size."""
        bid, bid_size, ask, ask_size = self.shop.live.book.top()
        price, size = self.shop.price, self.shop.size
        result = b'{"t":%d,"u":%d,"s":"%b","b":"%b","B":"%b","a":"%b","A":"%b"}' % (
            now // MS, self.shop.live.book.sequence, self.shop.native,
            price(bid) if bid else b"", size(bid_size) if bid else b"",
            price(ask) if ask else b"", size(ask_size) if ask else b"",
        )  # fmt: skip
        return _update(b"book_ticker", now, result)

    def tell_ticker(self, now: int) -> None:
        """Tell the last 24 hours, when they are others than was told."""
        if self.tickers.groups and (present := self.ticker()) != self._ticker:
            self._ticker = present
            self.tickers.tell(_update(b"tickers", now, present))

    def ticker(self) -> bytes:
        """Return the last 24 hours."""
        shop, day = self.shop, self.shop.live.day.summary()
        bid, _, ask, _ = shop.live.book.top()
        change = volume = turnover = b"0"
        last = high = low = b"0"
        if day is not None:
            last, high, low = map(shop.price, (day.close, day.high, day.low))
            change = trimmed(fixed((day.close - day.open) * 1_000_000 // day.open, 4))  # percent
            volume, turnover = shop.size(day.volume), trimmed(shop.quote(day.quote, 8))
        return (
            b'{"currency_pair":"%b","last":"%b","lowest_ask":"%b","highest_bid":"%b","change_percentage":"%b",'
            b'"base_volume":"%b","quote_volume":"%b","high_24h":"%b","low_24h":"%b"}'
            % (shop.native, last, shop.price(ask), shop.price(bid), change, volume, turnover, high, low)
        )

    def book(self, most: int, now: int, *, with_id: bool) -> bytes:
        """Return the book as REST gives it: numbered only for who asks for that."""
        book, ms = self.shop.book(None, most), now // MS
        number = {"id": book.seq} if with_id else {}
        return msgspec.json.encode(
            number | {"current": ms, "update": ms, "asks": book.asks, "bids": book.bids}
        )


def _update(channel: bytes, now: int, result: bytes) -> bytes:
    ms = now // MS
    text = b'{"time":%d,"time_ms":%d,"channel":"spot.%b","event":"update","result":%b}'
    return text % (ms // 1000, ms, channel, result)


class Gate:
    """Publishes what the market does, answers the socket and requests."""

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.house = House(NAME, LIMITS, faults, listings, market, trim=True)
        self.edits = {"crossed": _crossed}
        self._stands = {native: _Stand(shop) for native, shop in self.house.shops.items()}
        self._offers = {name: offer for s in self._stands.values() for name, offer in s.offers().items()}
        self._tops, self._tickers = Every(TOP_MS * MS, now), Every(TICKER_MS * MS, now)
        self._books = {levels: Every(ms * MS, now) for levels, ms in DEPTHS.items()}
        self._heard: dict[int, int] = {}  # by session without a subscription: ns of its last word
        self._requests: dict[str, Rate] = {}
        market.sinks[NAME] = self._act

    # -- what the market does, and what is due by time ---------------------------------------------

    def _act(self, live: Live, _sign: int, fills: list[Fill], top: bool, now: int) -> None:
        stand = self._stands[live.listing.native]
        stand.moved = stand.moved or top
        if fills and stand.trades.groups:
            for trade in live.tape.read(live.tape.next - len(fills), live.tape.next - 1):
                stand.trades.tell(stand.trade(trade, now))

    def publish(self, now: int) -> None:
        """Send what has changed, each topic at its pace."""
        if not self._tops.due(now):
            return
        for stand in self._stands.values():
            if stand.moved and stand.tops.groups:
                stand.tops.tell(stand.top(now))
            stand.moved = False
        for levels, every in self._books.items():
            if every.due(now):
                for stand in self._stands.values():
                    stand.books[levels].tell(now)
        if self._tickers.due(now):
            for stand in self._stands.values():
                stand.tell_ticker(now)
            self._send_away(now)

    def _send_away(self, now: int) -> None:
        """Close what asks for nothing and says nothing."""
        idle = {n: self._heard.get(n, s.opened) for n, s in self.house.sessions.items() if not s.topics}
        for number, since in idle.items():
            if now - since > self.house.limits["unsubscribed_s"] * SECOND:
                self.house.sessions[number].close = (1000, "")  # chosen: seen as 1006
        self._heard = idle

    # -- the socket ---------------------------------------------------------------------------------

    def open(self, _session: Session, path: str, _query: Mapping[str, str], _now: int) -> Reply | None:
        """Let in so many, at its one address."""
        if path != "/ws/v4/":
            return Reply(404)
        return Reply(429) if len(self.house.sessions) > self.house.limits["connections"] else None  # chosen

    def hurried(self, session: Session, now: int) -> None:
        """Say nothing: messages are not counted."""

    def announce(self, session: Session, _now: int) -> None:
        """Announce an upgrade, in a frame without a channel."""
        session.out.append(_UPGRADE)

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a request: all that it names is subscribed, or nothing; what opens a book comes first."""
        self._heard[session.number] = now
        try:
            request = msgspec.json.decode(text, type=_Request)
        except msgspec.ValidationError:
            _answer(session, _Request(), now, (1, "Invalid request body format"))
            return
        except msgspec.DecodeError:
            _answer(session, _Request(), now, (1, "request message need json scheme"))
            return
        if request.channel == "spot.ping":
            said = {"time": now // SECOND, "channel": "spot.pong", "event": "", "error": None, "result": None}
            session.out.append(msgspec.json.encode(said))
            return
        error = self._wrong(session, request, now)
        if error is None:
            for name in request.payload:
                self._take(session, request, name, now)
        if error is not None or not self.house.find("no_ack"):
            _answer(session, request, now, error)

    def _wrong(self, session: Session, request: _Request, now: int) -> tuple[int, str] | None:
        """Return why a request fails as a whole, None where it does not."""
        channel = request.channel
        if channel not in {known for known, _ in self._offers}:
            return 2, f"Unknown channel {channel}"
        off = abs(request.time - now // SECOND) > self.house.limits["time_within_s"]  # chosen: the words
        if off or request.event not in ("subscribe", "unsubscribe") or not request.payload:
            return 2, "Invalid argument provided"
        if request.event == "unsubscribe":
            return None
        for name in request.payload:
            if f"{channel} {name}" in session.topics:
                return 2, f"Alert sub {name}" if channel == "spot.obu" else "Invalid argument provided"
            if channel != "spot.obu" and self._offer(channel, name) is None:
                return 2, _NO_PAIR[channel].format(name)
        return None

    def _offer(self, channel: str, name: str) -> _Offer | None:
        offer = self._offers.get((channel, name))
        if offer is None or any(self.house.find(kind, offer.topic.symbol) for kind in ("refuse", "unlist")):
            return None
        return offer

    def _take(self, session: Session, request: _Request, name: str, now: int) -> None:
        known = f"{request.channel} {name}"
        if request.event == "unsubscribe":
            session.leave(known)
            return
        offer = self._offer(request.channel, name)
        if offer is None or self.house.find("silent_ack", offer.topic.symbol):
            session.join(known, None)
            return
        topic = offer.topic
        if offer.greet is not None:
            session.send(topic.channel, topic.symbol, offer.greet(now))
        session.join(known, topic)

    # -- requests -----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request, so many of one endpoint; headers say how many more."""
        limits = self.house.limits
        rate = self._requests.setdefault(path, Rate()) if path in _ROUTES else Rate()
        most = int(limits["requests"])
        wait = rate.wait(now, most, limits["requests_s"])
        headers = {
            "X-Gate-RateLimit-Requests-Remain": str(max(0, most - rate.counted)),
            "X-Gate-RateLimit-Limit": str(most),
            # Chosen: now, where nothing has to wait.
            "X-Gate-RateLimit-Reset-Timestamp": str(-(-(now + wait) // SECOND) if wait else now // SECOND),
        }
        if wait:
            refusal = _failure(429, "TOO_MANY_REQUESTS", "Request Rate limit Exceeded")  # chosen: the words
            return msgspec.structs.replace(refusal, headers=headers)
        native = query.get("currency_pair", "")
        routes: dict[str, Handler] = {name: handler(self) for name, handler in _ROUTES.items()}
        refusal = _failure(500, "SERVER_ERROR", "Internal server error").body  # chosen: the words
        reply = self.house.answer(routes, path, query, now, native=native, refusal=refusal)
        return msgspec.structs.replace(reply, headers={**headers, **reply.headers})

    def pairs(self, _query: Mapping[str, str], _now: int) -> Reply:
        """Return what is listed, in whatever state."""
        listed = [_pair(each) for native, each in self.house.listings.items() if self.house.listed(native)]
        return Reply(200, msgspec.json.encode(listed))

    def order_book(self, query: Mapping[str, str], now: int) -> Reply:
        """Return the best levels of a pair."""
        stand = self._stand(query)
        if stand is None:
            return _no_pair(query)
        most = min(1000, whole(query.get("limit"), 10) or 10)
        return Reply(200, stand.book(most, now, with_id=query.get("with_id") == "true"))

    def tickers(self, query: Mapping[str, str], _now: int) -> Reply:
        """Return the last 24 hours of a pair, or of all."""
        if "currency_pair" not in query:
            return Reply(200, b"[%b]" % b",".join([each.ticker() for each in self._stands.values()]))
        stand = self._stand(query)
        return _no_pair(query) if stand is None else Reply(200, b"[%b]" % stand.ticker())

    def trades(self, query: Mapping[str, str], _now: int) -> Reply:
        """Return the latest trades of a pair, the newest first."""
        stand = self._stand(query)
        if stand is None:
            return _no_pair(query)
        tape, shop = stand.shop.live.tape, stand.shop
        latest = tape.read(tape.next - min(1000, whole(query.get("limit"), 100) or 100), tape.next - 1)
        return Reply(200, msgspec.json.encode([_past(shop, each) for each in reversed(latest)]))

    def _stand(self, query: Mapping[str, str]) -> _Stand | None:
        native = query.get("currency_pair", "")
        return self._stands[native] if self.house.shop(native) is not None else None


_ROUTES: Final[dict[str, Callable[[Gate], Handler]]] = {
    "/api/v4/spot/currency_pairs": lambda gate: gate.pairs,
    "/api/v4/spot/order_book": lambda gate: gate.order_book,
    "/api/v4/spot/tickers": lambda gate: gate.tickers,
    "/api/v4/spot/trades": lambda gate: gate.trades,
}


def _answer(session: Session, request: _Request, now: int, error: tuple[int, str] | None) -> None:
    ms, number = now // MS, f"{session.number:016x}"
    said: dict[str, object] = {"time": ms // 1000, "time_ms": ms}
    said |= {} if request.id is None else {"id": request.id}
    said |= {"conn_id": number, "trace_id": number * 2, "channel": request.channel, "event": request.event}
    said |= {"payload": request.payload}
    if error is not None:
        said["error"] = {"code": error[0], "message": error[1]}
    said |= {"result": {"status": "success" if error is None else "fail"}, "requestId": number * 2}
    session.out.append(msgspec.json.encode(said))


def _failure(status: int, label: str, message: str) -> Reply:
    return Reply(status, msgspec.json.encode({"label": label, "message": message}))


def _no_pair(query: Mapping[str, str]) -> Reply:
    # Chosen: the words.
    return _failure(400, "INVALID_CURRENCY_PAIR", f"Invalid currency pair {query.get('currency_pair', '')}")


def _past(shop: Shop, trade: Print) -> dict[str, str]:
    return {
        "id": str(trade.id),
        "create_time": str(trade.ts // SECOND),
        "create_time_ms": f"{trade.ts // MS}.{trade.ts // 1000 % 1000:03}000",
        "currency_pair": shop.listing.native,
        "side": "buy" if trade.sign > 0 else "sell",
        "amount": shop.size(trade.size).decode(),
        "price": shop.price(trade.price).decode(),
        "sequence_id": str(trade.id),
    }


def _pair(listing: Listing) -> dict[str, object]:
    price, size = (len(step.partition(".")[2]) for step in (listing.price_step, listing.size_step))
    return {
        "id": listing.native,
        "base": listing.base,
        "quote": listing.quote,
        "fee": "0.2",
        "min_quote_amount": "1.0",
        "amount_precision": size,
        "precision": price,
        "trade_status": "tradable" if listing.trading else "untradable",
        "sell_start": 1516378650,
        "buy_start": 1516378650,
        "delisting_time": 0,
        "type": "normal",
    }


def _crossed(payload: bytes) -> bytes:
    head, bids, rest = payload.partition(b'"b":[')
    if not bids or b'"channel":"spot.obu"' not in payload:
        return payload
    return head + bids + b'["99999999","1"]' + (b"" if rest[:1] == b"]" else b",") + rest


serve = Gate
