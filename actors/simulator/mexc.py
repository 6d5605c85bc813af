"""MEXC spot as a server: windows of 100 ms as protocol buffers, answers in JSON, and public REST.

A push's numbers have no zeros at their end, those of REST all decimals. Of the streams: aggregated deals,
depth and best prices each 100 ms, and the ticker of the rolling day; others are refused, as retired ones are.
Numbers in ``LIMITS`` and all wording are the documented or observed ones, except where a comment says chosen.

Source: MEXC spot v3 documents, read 2026-11; observed answers and captures of 2025 and 2026.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from actors.model.errors import Unparseable
from actors.model.events import MS, SECOND, Channel
from actors.simulator.faults import Faults
from actors.simulator.house import Handler, House, Shop, retry_after, trimmed, whole
from actors.simulator.listings import pick
from actors.simulator.market import Listing, Market, Print
from actors.simulator.session import Binary, Every, Reply, Session, Topic
from actors.venues.mexc_push import Push, parse, push_type

NAME: Final = "mexc"
WINDOW_MS: Final = 100
TICKER_MS: Final = 3000
SHOWN: Final = 8  # decimals of turnover
LIMITS: Final[dict[str, float]] = {
    "channels": 30,
    "messages": 100,  # of a client
    "messages_s": 1,
    "unsubscribed_s": 30,  # how long a connection may have no channel
    "silent_s": 60,  # how long neither side may say anything; pings of the protocol's own count for nothing
    "lifetime_s": 86_400,
    "weight": 500,  # REST
    "weight_s": 10,
}
_SYMBOLS: Final = (
    "BTC-USDT", "ETH-USDT", "SOL-USDT", "XRP-USDT", "DOGE-USDT", "ADA-USDT", "LTC-USDT", "LINK-USDT",
    "DOT-USDT", "AVAX-USDT", "TRX-USDT", "SHIB-USDT", "1INCH-USDT", "FLR-USDT", "USDC-USDT", "ETH-BTC",
    "BTC-USDC", "BTC-TUSD",
)  # fmt: skip
LISTINGS: Final = pick(NAME, lambda symbol: symbol.replace("-", ""), _SYMBOLS, pace=0.5)
_DEALS: Final = "spot@public.aggre.deals.v3.api.pb@100ms"
_DEPTH: Final = "spot@public.aggre.depth.v3.api.pb@100ms"
_BEST: Final = "spot@public.aggre.bookTicker.v3.api.pb@100ms"
_TICKER: Final = "spot@public.miniTicker.v3.api.pb"

_Rows = Sequence[tuple[int, int]]
_push = cast("Callable[..., Push]", push_type())  # fields by name


class _Request(msgspec.Struct):
    method: str = ""
    params: list[str] = []


class _Stream(Topic):
    """A topic, and when it last said something, ns."""

    __slots__ = ("told",)

    def __init__(self, name: str, channel: Channel, symbol: str) -> None:
        super().__init__(name, channel, symbol)
        self.told = 0


class _Stand:
    """A shop's topics, and how far those who listen know it."""

    def __init__(self, shop: Shop) -> None:
        native, symbol = shop.listing.native, shop.symbol
        shop.identity = _identity
        self.shop = shop
        self.deals = _Stream(f"{_DEALS}@{native}", "trade", symbol)
        self.depth = _Stream(f"{_DEPTH}@{native}", "book", symbol)
        self.best = _Stream(f"{_BEST}@{native}", "l1", symbol)
        self.ticker = _Stream(f"{_TICKER}@{native}@24H", "ticker", symbol)
        self.next_trade = shop.live.tape.next
        self.sequence = shop.live.book.sequence
        self.top = shop.live.book.top()

    @property
    def topics(self) -> tuple[_Stream, ...]:
        """All of them."""
        return self.deals, self.depth, self.best, self.ticker

    def window(self, now: int) -> None:
        """Tell what the last window brought to whoever listens."""
        book, tape = self.shop.live.book, self.shop.live.tape
        first, self.next_trade = self.next_trade, tape.next
        since, self.sequence = self.sequence, book.sequence
        top, self.top = self.top, book.top()
        if self.deals.groups and first < tape.next:
            deals = [self._deal(trade) for trade in tape.read(first, tape.next - 1)]
            self._tell(self.deals, now, deals={"deals": deals, "event_type": _DEALS})
        if self.depth.groups and since < book.sequence:
            changed = book.changed(max(since, book.oldest))
            depths = {
                "asks": self._levels(changed.asks),
                "bids": self._levels(changed.bids),
                "event_type": _DEPTH,
                "from_version": b"%d" % (since + 1),
                "to_version": b"%d" % book.sequence,
            }
            self._tell(self.depth, now, depths=depths)
        if self.best.groups and top != self.top:
            bid, bid_size, ask, ask_size = self.top
            sides = {"version": b"%d" % book.sequence}
            sides |= {"bid_price": self.price(bid), "bid_quantity": self.size(bid_size)} if bid else {}
            sides |= {"ask_price": self.price(ask), "ask_quantity": self.size(ask_size)} if ask else {}
            self._tell(self.best, now, book_ticker=sides)

    def price(self, steps: int) -> bytes:
        """Return a price as pushes write it."""
        return trimmed(self.shop.price(steps))

    def size(self, lots: int) -> bytes:
        """Return a size as pushes write it."""
        return trimmed(self.shop.size(lots))

    def _levels(self, rows: _Rows) -> list[dict[str, bytes]]:
        return [{"price": self.price(p), "quantity": self.size(s)} for p, s in rows]

    def _deal(self, trade: Print) -> dict[str, object]:
        return {
            "price": self.price(trade.price),
            "quantity": self.size(trade.size),
            "trade_type": 1 if trade.sign > 0 else 2,
            "time": trade.ts // MS,
            "trade_id": _identity(trade.id),
        }

    def day(self, now: int) -> None:
        """Tell the rolling day's summary to whoever listens."""
        day = self.shop.live.day.summary()
        if day is not None and self.ticker.groups:
            ticker = {
                "symbol": self.shop.native,
                "price": self.price(day.close),
                "high": self.price(day.high),
                "low": self.price(day.low),
                "volume": trimmed(self.shop.quote(day.quote, SHOWN)),
                "quantity": self.size(day.volume),
            }
            self._tell(self.ticker, now, mini_ticker=ticker)

    def _tell(self, topic: _Stream, now: int, **body: object) -> None:
        push = _push(channel=topic.name, symbol=self.shop.native, send_time=now // MS, **body)
        topic.told = now
        topic.tell(Binary(push.SerializeToString()))

    def rows(self, levels: _Rows) -> bytes:
        """Return levels as REST writes them."""
        price, size = self.shop.price, self.shop.size
        return b"[" + b",".join([b'["%b","%b"]' % (price(p), size(s)) for p, s in levels]) + b"]"


def _identity(number: int) -> str:
    return f"{2 * number}X0_{2 * number + 1}X0"


class _Weights:
    """The REST budget of one address."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self._limits = limits
        self._window = 0
        self._used = 0.0

    def wait_s(self, weight: int, now: int) -> int:
        """Count a request and return 0, or in how many seconds there is a budget again."""
        length = int(self._limits["weight_s"] * SECOND)
        window = now // length
        if window != self._window:
            self._window, self._used = window, 0.0
        self._used += weight
        return 0 if self._used <= self._limits["weight"] else 1 + (length - now % length) // SECOND


class Mexc:
    """Publishes what the market does and answers requests."""

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.house = House(NAME, LIMITS, faults, listings, market)
        self.edits = {
            "crossed": self._crossed,
            "null_price": _first_price(None),
            "nan": _first_price("NaN"),
            "huge": _first_price("1e400"),
            "negative": _first_price("-1"),
        }
        self._stands = {native: _Stand(shop) for native, shop in self.house.shops.items()}
        self._topics = {topic.name: topic for stand in self._stands.values() for topic in stand.topics}
        self._windows = Every(WINDOW_MS * MS, now)
        self._days = Every(TICKER_MS * MS, now)
        self._seconds = Every(SECOND, now)
        self._heard: dict[int, int] = {}  # when a session said something
        self._empty: dict[int, int] = {}  # since when a session has no channel
        self._weights = _Weights(self.house.limits)
        self._routes: dict[str, Handler] = {
            "/api/v3/ping": self._weighed(1, lambda _query, _now: Reply(200, b"{}")),
            "/api/v3/time": self._weighed(1, lambda _, now: Reply(200, b'{"serverTime":%d}' % (now // MS))),
            "/api/v3/exchangeInfo": self._weighed(10, self._exchange_info),
            "/api/v3/depth": self._weighed(5, self._depth),  # chosen: documented is that it depends on limit
            "/api/v3/trades": self._weighed(5, self._trades),
        }

    # -- connections and control messages ----------------------------------------------------------

    def open(self, session: Session, path: str, _query: Mapping[str, str], now: int) -> Reply | None:
        """Let anybody in, at ``/ws``."""
        if path.rstrip("/") != "/ws":
            return Reply(404)
        self._heard[session.number] = self._empty[session.number] = now
        return None

    def announce(self, _session: Session, _now: int) -> None:
        """Say nothing: it is closed without a word."""

    def hurried(self, session: Session, _now: int) -> None:
        """Close."""
        session.close = (1008, "too many requests")  # chosen: the words

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a control message."""
        self._heard[session.number] = now
        try:
            request = msgspec.json.decode(text, type=_Request)
        except msgspec.DecodeError:
            self._answer(session, "Invalid request")  # chosen: the words
            return
        match request.method.upper():
            case "PING":
                session.beat(b'{"id":0,"code":0,"msg":"PONG"}')
            case "SUBSCRIPTION" if request.params:
                self._subscribe(session, request.params)
            case "UNSUBSCRIPTION" if request.params:
                for name in request.params:
                    session.leave(name)
                self._answer(session, ",".join(request.params))
            case _:
                self._answer(session, "Invalid request")

    def _subscribe(self, session: Session, names: Sequence[str]) -> None:
        """Let it listen; what is accepted is answered in one message, what is not in another."""
        known = [name for name in names if self._is_known(name)]
        room = int(self.house.limits["channels"])
        new = [name for name in known if name not in session.topics][: max(0, room - len(session.topics))]
        accepted = [name for name in known if name in session.topics or name in new]
        for name in new:
            topic = self._topics[name]
            session.join(name, None if self.house.find("silent_ack", topic.symbol) else topic)
        if accepted:
            self._answer(session, ",".join(accepted))
        if refused := [name for name in names if name not in accepted]:  # one too many: chosen, as the rest
            why = f"Not Subscribed successfully! [{','.join(refused)}].  Reason\N{FULLWIDTH COLON} Blocked! "
            self._answer(session, why)

    def _is_known(self, name: str) -> bool:
        topic = self._topics.get(name)
        return topic is not None and not any(
            self.house.find(kind, topic.symbol) for kind in ("refuse", "unlist")
        )

    def _answer(self, session: Session, said: str) -> None:
        if not self.house.find("no_ack"):  # whatever it says, the code is 0
            session.out.append(msgspec.json.encode({"id": 0, "code": 0, "msg": said}))

    # -- what is due by time -----------------------------------------------------------------------

    def publish(self, now: int) -> None:
        """Send windows and days, and close who has no channel or has been silent."""
        if self._windows.due(now):
            for stand in self._stands.values():
                stand.window(now)
        if self._days.due(now):
            for stand in self._stands.values():
                stand.day(now)
        if self._seconds.due(now):
            self._watch(now)

    def _watch(self, now: int) -> None:
        sessions, limits = self.house.sessions, self.house.limits
        self._heard = {number: at for number, at in self._heard.items() if number in sessions}
        self._empty = {number: at for number, at in self._empty.items() if number in sessions}
        for number, session in sessions.items():
            topics = session.topics.values()
            if topics:
                self._empty[number] = now
            told = max((topic.told for topic in topics if isinstance(topic, _Stream)), default=0)
            silent = now - max(told, self._heard[number]) > limits["silent_s"] * SECOND
            if silent or now - self._empty[number] > limits["unsubscribed_s"] * SECOND:
                session.close = (1000, "")  # chosen: the code

    # -- faults in pushes --------------------------------------------------------------------------

    def _crossed(self, payload: bytes) -> bytes:
        push = _read(payload)
        stand = None if push is None else self._stands.get(push.symbol)
        if push is None or stand is None or not push.HasField("depths"):
            return payload
        _, _, ask, _ = stand.shop.live.book.top()
        push.depths.bids.add(price=stand.price(ask + 10), quantity=stand.size(1))
        return push.SerializeToString()

    # -- requests ----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request, within the weight limit."""
        native = query.get("symbol", "")
        return self.house.answer(self._routes, path, query, now, native=native, refusal=_TOO_MANY)

    def _weighed(self, weight: int, handler: Handler) -> Handler:
        def answer(query: Mapping[str, str], now: int) -> Reply:
            wait_s = self._weights.wait_s(weight, now)
            return Reply(429, _TOO_MANY, retry_after(wait_s)) if wait_s else handler(query, now)

        return answer

    def _exchange_info(self, query: Mapping[str, str], now: int) -> Reply:
        wanted = [query["symbol"]] if "symbol" in query else self.house.listings
        listed = [_row(each) for native in wanted if (each := self.house.listed(native))]
        said = {"timezone": "CST", "serverTime": now // MS, "symbols": listed}
        return Reply(200, msgspec.json.encode(said))

    def _depth(self, query: Mapping[str, str], now: int) -> Reply:
        native = query.get("symbol", "")
        if self.house.shop(native) is None:
            return _error(-1121, "Invalid symbol.")
        stand = self._stands[native]
        limit = min(5000, whole(query.get("limit"), 100) or 100)
        book = stand.shop.live.book
        fault = self.house.find("stale_snapshot", stand.shop.symbol)
        sequence = book.sequence if fault is None else max(book.oldest, book.sequence - fault.back)
        levels = book.depth(limit) if fault is None else book.at(sequence, limit)
        version = b'"%d"' % sequence if sequence & 1 else b"%d" % sequence  # both occur
        body = b'{"lastUpdateId":%b,"bids":%b,"asks":%b,"timestamp":%d}'
        return Reply(200, body % (version, stand.rows(levels.bids), stand.rows(levels.asks), now // MS))

    def _trades(self, query: Mapping[str, str], _now: int) -> Reply:
        shop = self.house.shop(query.get("symbol", ""))
        if shop is None:
            return _error(-1121, "Invalid symbol.")
        limit, tape = min(1000, whole(query.get("limit"), 500) or 500), shop.live.tape
        newest = tape.read(max(tape.first, tape.next - limit), tape.next - 1)[::-1]
        return Reply(200, msgspec.json.encode([_past(shop, trade) for trade in newest]))


def _read(payload: bytes) -> Any:
    """Return a push, None where another fault has left none."""
    try:
        return parse(payload)
    except Unparseable:
        return None


def _first_price(text: str | None) -> Callable[[bytes], bytes]:
    """Return what makes the first price of a push another one, or takes it away."""

    def edit(payload: bytes) -> bytes:
        push = _read(payload)
        if push is None:
            return payload
        body = getattr(push, push.ListFields()[-1][0].name)  # bodies have the highest numbers
        rows = [*getattr(body, "deals", ()), *getattr(body, "asks", ()), *getattr(body, "bids", ())]
        row = rows[0] if rows else body
        name = next((each for each in ("price", "bid_price") if hasattr(row, each)), None)
        if name is None:  # only the versions of a book moved on
            return payload
        if text is None:
            row.ClearField(name)
        else:
            setattr(row, name, text)
        return push.SerializeToString()

    return edit


def _error(code: int, message: str, status: int = 400) -> Reply:
    return Reply(status, msgspec.json.encode({"code": code, "msg": message}))


_TOO_MANY: Final = _error(429, "Too Many Requests").body


def _row(listing: Listing) -> dict[str, object]:
    decimals = [len(step.partition(".")[2]) for step in (listing.price_step, listing.size_step)]
    return {
        "symbol": listing.native,
        "status": "1" if listing.trading else "2",
        "baseAsset": listing.base,
        "baseAssetPrecision": decimals[1],
        "quoteAsset": listing.quote,
        "quotePrecision": decimals[0],
        "quoteAssetPrecision": decimals[0],
        "orderTypes": ["LIMIT", "MARKET", "LIMIT_MAKER"],
        "isSpotTradingAllowed": listing.trading,
        "isMarginTradingAllowed": False,
        "permissions": ["SPOT"],
        "fullName": listing.base,
    }


def _past(shop: Shop, trade: Print) -> dict[str, object]:
    return {
        "id": None,
        "price": shop.price(trade.price).decode(),
        "qty": shop.size(trade.size).decode(),
        "quoteQty": shop.quote(trade.price * trade.size, SHOWN).decode(),
        "time": trade.ts // MS,
        "isBuyerMaker": trade.sign < 0,
        "isBestMatch": True,
        "tradeType": "BID" if trade.sign > 0 else "ASK",
    }


serve = Mexc
