"""Binance USD-M perpetuals as a server: two routes, each silent about what belongs to the other; public REST.

``/public`` has depth and best prices, ``/market`` trades, tickers, mark prices and liquidations; the unrouted
paths of before 2026-04 give what ``/public`` gives. Any stream is acknowledged everywhere. Numbers of books
are the engine's, of all its books: only ``pu`` leads from one change to the next. Each fill of ours is an
aggregate of one to three trades, so aggregates count on and trades do not. Of liquidations only the largest
of a symbol and second is told, and none that met nobody.
Numbers in ``LIMITS`` are the documented ones, except where a comment says chosen.

Source: Binance USD-M futures documents and change notices to 2026-10; captures of 2024 to 2026.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from actors.model.events import MS, SECOND, Channel
from actors.simulator.binance import REFUSAL, Gateway, Stream, Weights, crossed, error, lag
from actors.simulator.derivatives import Contract, Forced, Perpetual
from actors.simulator.faults import Faults
from actors.simulator.house import Handler, House, Shop, whole
from actors.simulator.listings import pick
from actors.simulator.market import Fill, Listing, Live, Market, Print, fixed
from actors.simulator.session import Every, Reply, Session

NAME: Final = "binance_usdm"
STRIDE: Final = 3  # chosen: how far apart two changes of a book are, in the engine's numbers
SHOWN: Final = 8  # decimals of marks and rates
INTEREST_NS: Final = 3 * SECOND  # chosen: "every few seconds" open interest is counted anew
LIMITS: Final[dict[str, float]] = {
    "streams_per_connection": 1024,
    "messages": 10,
    "messages_s": 1,
    "connects": 300,  # chosen, as for spot
    "connects_s": 300,
    "weight_per_minute": 2400,
    "requests_while_limited": 10,  # chosen: how many after a 429 make a 418
    "ban_s": 120,
    "ping_every_s": 180,
    "pong_within_s": 600,
    "lifetime_s": 86_400,
}
_STEPS: Final = {
    "BTC-USDT-PERP": ("0.10", "0.001"),
    "ETH-USDT-PERP": ("0.01", "0.001"),
    "SOL-USDT-PERP": ("0.0100", "0.01"),
    "XRP-USDT-PERP": ("0.0001", "0.1"),
    "DOGE-USDT-PERP": ("0.000010", "1"),
    "BTC-USDC-PERP": ("0.1", "0.001"),
}
_CONTRACT: Final = Contract(kind="linear", size="1", open_usd=80e6, interest=0.0001, cap=0.003)
_PUBLIC, _MARKET = (0,), (1,)  # what ends the form of a session

Levels = Sequence[tuple[int, int]]


def _listings() -> tuple[Listing, ...]:
    picked = pick(NAME, lambda symbol: "".join(symbol.split("-")[:2]), _STEPS, steps=_STEPS, pace=0.6)
    return tuple(replace(each, contract=_CONTRACT) for each in picked)


LISTINGS: Final = _listings()


def _first_and_last(number: int) -> tuple[int, int]:
    """Return the first and the last trade of an aggregate."""
    return 3 * number, 3 * number + number % 3


_DEPTHS: Final = {100: "depth@100ms", 250: "depth", 500: "depth@500ms"}  # by ms
_MARKS: Final = {1000: "markPrice@1s", 3000: "markPrice"}


class _Stand:
    """A shop's streams, and how far they were told."""

    def __init__(self, shop: Shop, swap: Perpetual) -> None:
        name = shop.listing.native.lower()

        def stream(kind: str, channel: Channel) -> Stream:
            return Stream(f"{name}@{kind}", channel, shop.symbol)

        shop.stride = STRIDE
        self.shop = shop
        self.swap = swap
        self.trade = stream("aggTrade", "trade")
        self.best = stream("bookTicker", "l1")
        self.day = stream("ticker", "ticker")
        self.forced = stream("forceOrder", "liquidation")
        self.depths = {ms: stream(kind, "book") for ms, kind in _DEPTHS.items()}
        self.marks = {ms: stream(kind, "funding") for ms, kind in _MARKS.items()}
        self.sent = dict.fromkeys(_DEPTHS, shop.live.book.sequence)
        self.liquidated = swap.forced_next  # up to which they were told
        self._interest = (0, 0)  # when it was counted, and what it was

    def public(self) -> list[Stream]:
        """Return what ``/public`` has."""
        return [*self.depths.values(), self.best]

    def market(self) -> list[Stream]:
        """Return what ``/market`` has."""
        return [self.trade, self.day, self.forced, *self.marks.values()]

    def tell_trades(self, fills: int) -> None:
        """Tell the last ``fills`` trades."""
        tape = self.shop.live.tape
        for trade in tape.read(tape.next - fills, tape.next - 1):
            sent = (trade.ts + lag(trade.id)) // MS
            without = trade.size - trade.size // 3 if trade.id % 3 == 0 else trade.size
            row = _aggregate(self.shop, trade, b'"nq":"%b",' % self.shop.size(without))
            self._say(self.trade, b'"e":"aggTrade","E":%d,%b' % (sent, row))

    def tell_best(self, now: int) -> None:
        """Tell the best prices."""
        shop, book = self.shop, self.shop.live.book
        sent = (now + lag(book.sequence)) // MS
        bid, bid_size, ask, ask_size = book.top()
        texts = (shop.price(bid), shop.size(bid_size), shop.price(ask), shop.size(ask_size))
        body = b'"e":"bookTicker","u":%d,"s":"%b","b":"%b","B":"%b","a":"%b","A":"%b","T":%d,"E":%d,"ps":"%b"'
        number = shop.number(book.sequence)
        self._say(self.best, body % (number, shop.native, *texts, now // MS, sent, shop.native))

    def tell_depth(self, interval_ms: int, now: int) -> None:
        """Tell what changed in the book since the last frame of this stream."""
        shop, book, stream = self.shop, self.shop.live.book, self.depths[interval_ms]
        since, self.sent[interval_ms] = self.sent[interval_ms], book.sequence
        if not stream.groups or since == book.sequence:
            return
        changed = book.changed(max(since, book.oldest))
        numbers = (shop.number(since + 1), shop.number(book.sequence), shop.number(since))
        body = b'"e":"depthUpdate","E":%d,"T":%d,%b,"U":%d,"u":%d,"pu":%d,"b":%b,"a":%b' % (
            (now + lag(book.sequence)) // MS, now // MS, self._names(), *numbers,
            self.rows(changed.bids), self.rows(changed.asks),
        )  # fmt: skip
        self._say(stream, body)

    def tell_day(self, now: int) -> None:
        """Tell the last 24 hours, without best prices."""
        shop, day = self.shop, self.shop.live.day.summary()
        if day is None or not self.day.groups:
            return
        price, size = shop.price, shop.size
        change = day.close - day.open
        body = (
            b'"e":"24hrTicker","E":%d,%b,"p":"%b","P":"%b","w":"%b","c":"%b","Q":"%b","o":"%b","h":"%b",'
            b'"l":"%b","v":"%b","q":"%b","O":%d,"C":%d,"F":%d,"L":%d,"n":%d'
            % (
                now // MS, self._names(), price(change), fixed(change * 100_000 // day.open, 3),
                price(day.quote // day.volume), price(day.close), size(day.last_size), price(day.open),
                price(day.high), price(day.low), size(day.volume), shop.quote(day.quote, 2),
                day.opened_at // MS, now // MS, _first_and_last(day.first_id)[0],
                _first_and_last(shop.live.tape.next - 1)[1], 2 * day.trades,
            )
        )  # fmt: skip
        self._say(self.day, body)

    def tell_mark(self, interval_ms: int, now: int) -> None:
        """Tell mark and index, the rate as it stands, and when it is paid next."""
        stream, swap = self.marks[interval_ms], self.swap
        if stream.groups:
            mark, index = (self._exact(value) for value in (swap.mark, swap.index))
            rate = fixed(round(swap.rate * 10**SHOWN), SHOWN)
            body = b'"e":"markPriceUpdate","E":%d,%b,"p":"%b","ap":"%b","i":"%b","P":"%b","r":"%b","T":%d' % (
                now // MS, self._names(), mark, mark, index, index, rate, swap.settlement(now) // MS,
            )  # fmt: skip
            self._say(stream, body)

    def tell_forced(self, now: int) -> None:
        """Tell the largest order of the last second that closed a position and met somebody."""
        since, self.liquidated = self.liquidated, self.swap.forced_next
        if self.forced.groups and since != self.liquidated:
            met = [each for each in self.swap.forced_since(since) if each.filled]
            if met:
                self._say(self.forced, self._order(max(met, key=lambda each: each.filled), now))

    def _order(self, forced: Forced, now: int) -> bytes:
        shop = self.shop
        size, filled = shop.size(forced.size), shop.size(forced.filled)
        last = shop.size(forced.filled - forced.filled // 3 if forced.id % 2 else forced.filled)
        return (
            b'"e":"forceOrder","E":%d,"o":{"s":"%b","S":"%b","o":"LIMIT","f":"IOC","q":"%b","p":"%b",'
            b'"ap":"%b","X":"%b","l":"%b","z":"%b","T":%d,"ps":"%b","st":1}'
            % (
                now // MS, shop.native, b"BUY" if forced.sign > 0 else b"SELL", size,
                shop.price(forced.price), shop.price(round(forced.quote / forced.filled)),
                b"FILLED" if forced.filled == forced.size else b"PARTIALLY_FILLED", last, filled,
                forced.ts // MS, shop.native,
            )
        )  # fmt: skip

    def _say(self, stream: Stream, body: bytes) -> None:
        payload = b"{%b}" % body if stream is self.forced else b'{%b,"st":1}' % body
        stream.say(lambda _unit: payload)

    def _names(self) -> bytes:
        return b'"s":"%b","ps":"%b"' % (self.shop.native, self.shop.native)

    def _exact(self, steps: float) -> bytes:
        return b"%.*f" % (SHOWN, steps * float(self.shop.listing.price_step))

    def rows(self, levels: Levels) -> bytes:
        """Return levels as Binance writes them."""
        price, size = self.shop.price, self.shop.size
        return b"[" + b",".join([b'["%b","%b"]' % (price(p), size(s)) for p, s in levels]) + b"]"

    def interest(self, now: int) -> bytes:
        """Return open interest as it was counted last, and when that was."""
        at, counted = self._interest
        if now - at >= INTEREST_NS:
            at, counted = self._interest = now, self.swap.open_interest
        return b'{"openInterest":"%b","symbol":"%b","time":%d}' % (
            self.shop.size(counted), self.shop.native, at // MS,
        )  # fmt: skip


def _aggregate(shop: Shop, trade: Print, more: bytes = b"") -> bytes:
    first, last = _first_and_last(trade.id)
    return b'"s":"%b","a":%d,"p":"%b","q":"%b",%b"f":%d,"l":%d,"T":%d,"m":%b' % (
        shop.native, trade.id, shop.price(trade.price), shop.size(trade.size), more, first, last,
        trade.ts // MS, b"true" if trade.sign < 0 else b"false",
    )  # fmt: skip


class BinanceUsdm:
    """Publishes what the market does and answers requests."""

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.house = House(NAME, LIMITS, faults, listings, market)
        self.edits: Mapping[str, Callable[[bytes], bytes]] = {
            "crossed": lambda payload: crossed(self.house, payload)
        }
        self._stands = {
            native: _Stand(shop, swap)
            for native, shop in self.house.shops.items()
            if (swap := shop.live.perpetual) is not None
        }
        stands = self._stands.values()
        public = {stream.name: stream for stand in stands for stream in stand.public()}
        others = {stream.name: stream for stand in stands for stream in stand.market()}
        self._gateways = (
            Gateway(self.house, public, _PUBLIC, plain=True),
            Gateway(self.house, others, _MARKET, plain=True),
        )
        self._weights = Weights(self.house.limits)
        self._routes = {
            "/fapi/v1/ping": self._weighed(1, lambda _query, _now: Reply(200, b"{}")),
            "/fapi/v1/time": self._weighed(1, lambda _, now: Reply(200, b'{"serverTime":%d}' % (now // MS))),
            "/fapi/v1/exchangeInfo": self._weighed(1, self._exchange_info),
            "/fapi/v1/depth": self._weighed(None, self._depth),
            "/fapi/v1/aggTrades": self._weighed(20, self._trades),
            "/fapi/v1/openInterest": self._weighed(1, self._interest),
        }
        self._timers: list[tuple[Every, Callable[[_Stand, int], None]]] = [
            (Every(2 * SECOND, now), _Stand.tell_day),
            (Every(SECOND, now), _Stand.tell_forced),
            *((Every(ms * MS, now), _depth_of(ms)) for ms in _DEPTHS),
            *((Every(ms * MS, now), _mark_of(ms)) for ms in _MARKS),
        ]
        market.sinks[NAME] = self._act

    # -- connections and control messages ----------------------------------------------------------

    def open(self, session: Session, path: str, query: Mapping[str, str], now: int) -> Reply | None:
        """Read the route, and the rest of the path as spot does."""
        route, _, rest = path.lstrip("/").partition("/")
        if route in ("public", "market"):
            return self._gateways[route == "market"].open(session, rest, query, now)
        return self._gateways[0].open(session, path, query, now)

    def _gateway(self, session: Session) -> Gateway:
        return self._gateways[session.form[-1]]

    def hurried(self, session: Session, now: int) -> None:
        """Close, as spot does."""
        self._gateway(session).hurried(session, now)

    def announce(self, _session: Session, _now: int) -> None:
        """Say nothing: no words for it are documented."""

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a control message."""
        self._gateway(session).receive(session, text, now)

    # -- what the market does, and what is due by time ---------------------------------------------

    def _act(self, live: Live, _sign: int, fills: list[Fill], top: bool, now: int) -> None:
        stand = self._stands[live.listing.native]
        if fills and stand.trade.groups:
            stand.tell_trades(len(fills))
        if top and stand.best.groups:
            stand.tell_best(now)

    def publish(self, now: int) -> None:
        """Send what is due."""
        for timer, tell in self._timers:
            if timer.due(now):
                for stand in self._stands.values():
                    tell(stand, now)

    # -- requests ----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request, within the weight limit."""
        native = query.get("symbol", "")
        return self.house.answer(self._routes, path, query, now, native=native, refusal=REFUSAL)

    def _weighed(self, weight: int | None, handler: Handler) -> Handler:
        def answer(query: Mapping[str, str], now: int) -> Reply:
            reply = self._weights.spend(weight or _depth_weight(query), now) or handler(query, now)
            used = str(self._weights.used)
            return replace(reply, headers={**reply.headers, "X-MBX-USED-WEIGHT-1M": used})

        return answer

    def _exchange_info(self, _query: Mapping[str, str], now: int) -> Reply:
        listed = [each for native, each in self.house.listings.items() if self.house.listed(native)]
        limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1}
        document = {
            "timezone": "UTC",
            "serverTime": now // MS,
            "futuresType": "U_MARGINED",
            "rateLimits": [{**limit, "limit": int(self.house.limits["weight_per_minute"])}],
            "symbols": [row for each in listed for row in _rows(each)],
        }
        return Reply(200, msgspec.json.encode(document))

    def _stand(self, query: Mapping[str, str]) -> _Stand | Reply:
        native = query.get("symbol", "")
        if not native:
            message = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            return error(400, -1102, message)
        return self._stands[native] if self.house.shop(native) else error(400, -1121, "Invalid symbol.")

    def _depth(self, query: Mapping[str, str], now: int) -> Reply:
        stand = self._stand(query)
        if isinstance(stand, Reply):
            return stand
        limit, book = whole(query.get("limit"), 500), stand.shop.live.book
        if limit not in _WEIGHTS:
            return error(400, -4021, f"{limit} is not valid depth limit.")
        fault = self.house.find("stale_snapshot", stand.shop.symbol)
        sequence = book.sequence if fault is None else max(book.oldest, book.sequence - fault.back)
        levels = book.depth(limit) if fault is None else book.at(sequence, limit)
        body = b'{"lastUpdateId":%d,"E":%d,"T":%d,"bids":%b,"asks":%b}' % (
            stand.shop.number(sequence), now // MS, now // MS,
            stand.rows(levels.bids), stand.rows(levels.asks),
        )  # fmt: skip
        return Reply(200, body)

    def _trades(self, query: Mapping[str, str], _now: int) -> Reply:
        stand = self._stand(query)
        if isinstance(stand, Reply):
            return stand
        limit, tape = min(1000, whole(query.get("limit"), 500) or 500), stand.shop.live.tape
        first = max(whole(query.get("fromId"), tape.next - limit), tape.first)
        rows = [b"{%b}" % _aggregate(stand.shop, trade) for trade in tape.read(first, first + limit - 1)]
        return Reply(200, b"[%b]" % b",".join(rows))

    def _interest(self, query: Mapping[str, str], now: int) -> Reply:
        stand = self._stand(query)
        return stand if isinstance(stand, Reply) else Reply(200, stand.interest(now))


def _depth_of(ms: int) -> Callable[[_Stand, int], None]:
    return lambda stand, now: stand.tell_depth(ms, now)


def _mark_of(ms: int) -> Callable[[_Stand, int], None]:
    return lambda stand, now: stand.tell_mark(ms, now)


_WEIGHTS: Final = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}


def _depth_weight(query: Mapping[str, str]) -> int:
    return _WEIGHTS.get(whole(query.get("limit"), 500), 20)


def _rows(listing: Listing) -> list[dict[str, object]]:
    """Return a perpetual, and beside the first of them the dated contract of its pair."""
    tick, step = listing.price_step, listing.size_step
    row: dict[str, object] = {
        "symbol": listing.native,
        "pair": listing.native,
        "contractType": "PERPETUAL",
        "status": "TRADING" if listing.trading else "SETTLING",
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "marginAsset": listing.quote,
        "pricePrecision": len(tick.partition(".")[2]),
        "quantityPrecision": len(step.partition(".")[2]),
        "underlyingType": "COIN",
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "4529764", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "1000", "stepSize": step},
        ],
    }
    if listing.native != "BTCUSDT":
        return [row]
    return [row, {**row, "symbol": "BTCUSDT_261225", "contractType": "CURRENT_QUARTER"}]


serve = BinanceUsdm
