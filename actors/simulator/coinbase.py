"""Coinbase Exchange as a server: matches, level2_batch, tickers and heartbeats, and public REST.

Its books carry no sequence: what a book of ours stands for is told by its ``time``, noted with the book's
true sequence whenever levels are sent (``Shop.told``); the snapshot bears one, as newer ones of the venue do.
Numbers in ``LIMITS`` and all wording are the documented or recorded ones, except where a comment says chosen.

Source: docs.cdp.coinbase.com, Exchange, read 2026-07; captures of 2021 to 2026.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Final

import msgspec

from actors.model.events import MS, SECOND, Channel
from actors.simulator.book import Levels
from actors.simulator.faults import Faults
from actors.simulator.house import Handler, House, Shop, iso, whole
from actors.simulator.listings import pick
from actors.simulator.market import Fill, Listing, Live, Market, Print
from actors.simulator.session import Every, Rate, Reply, Session, Topic

NAME: Final = "coinbase"
US: Final = 1_000  # ns
BATCH_MS: Final = 50
ZEROS: Final = (b"0", b"0.0", b"0.00", b"0.000", b"0.00000000")  # all of them occur, product by product
NO_TIME: Final = b"0001-01-01T00:00:00.000000Z"
ODD_UPDATES: Final = 1000  # chosen, as the next: one in so many has no time, one a level whose size is none
ODD_SNAPSHOTS: Final = 5  # one in so many has such a level
LIMITS: Final[dict[str, float]] = {
    "messages": 1000,  # documented as 10 a second with bursts of 1,000
    "messages_s": 100,
    "connects": 20,  # documented as 8 a second with bursts of 20
    "connects_s": 2.5,
    "subscribe_s": 5,  # by then something must have been asked for
    "requests": 15,  # REST
    "requests_s": 1.5,
    "far_levels": 0,  # that a whole book has a side, away from the market: 90,000 of BTC-USD make 4.8 MB
}
_STEPS: Final = {
    "BTC-USD": ("0.01", "0.00000001"),
    "ETH-USD": ("0.01", "0.00000001"),
    "SOL-USD": ("0.01", "0.00000001"),
    "XRP-USD": ("0.0001", "0.000001"),
    "DOGE-USD": ("0.00001", "0.1"),
    "ADA-USD": ("0.0001", "0.00000001"),
    "LTC-USD": ("0.01", "0.00000001"),
    "LINK-USD": ("0.001", "0.01"),
    "DOT-USD": ("0.001", "0.00000001"),
    "AVAX-USD": ("0.01", "0.00000001"),
    "SHIB-USD": ("0.00000001", "1"),
    "1INCH-USD": ("0.001", "0.01"),
    "FLR-USD": ("0.00001", "1"),
    "BTC-USDT": ("0.01", "0.00000001"),
    "ETH-USDT": ("0.01", "0.00000001"),
    "BTC-EUR": ("0.01", "0.00000001"),
    "ETH-BTC": ("0.00001", "0.00000001"),
    "USDT-USD": ("0.00001", "0.01"),
    "BTC-TUSD": ("0.01", "0.00000001"),
}
LISTINGS: Final = pick(NAME, lambda symbol: symbol, _STEPS, steps=_STEPS, pace=0.6)

_CHANNELS: Final[dict[str, Channel | None]] = {  # the venue's own name -> ours
    "level2_batch": "book",
    "level2_50": "book",
    "matches": "trade",
    "ticker": "ticker",
    "heartbeat": None,
}
_ANSWERED: Final = {"level2_batch": "level2_50"}
_LOGIN: Final = ("level2", "level3", "full", "user", "rfq_matches")


class _Named(msgspec.Struct):
    name: str
    product_ids: list[str] = []


class _Request(msgspec.Struct):
    type: str
    product_ids: list[str] = []
    channels: list[str | _Named] = []

    def wanted(self) -> list[tuple[str, str]]:
        """Return what it is about: channel and product."""
        named = [each if isinstance(each, _Named) else _Named(each) for each in self.channels]
        return [(each.name, product) for each in named for product in each.product_ids or self.product_ids]


class _Stand:
    """A shop's topics, and how far its listeners know the book. ``zero``: how the product writes it."""

    def __init__(self, shop: Shop, zero: bytes) -> None:
        self.shop = shop
        self._zero = zero
        self._updates = self._snapshots = 0
        self.topics: dict[str, Topic] = {
            name: Topic(f"{name} {shop.listing.native}", channel or "ticker", shop.symbol)
            for name, channel in _CHANNELS.items()
            if name != "level2_50"
        }
        self.sequence = shop.live.book.sequence

    def update(self, now: int) -> bytes | None:
        """Return what changed in the book since the last time; None for nothing."""
        book = self.shop.live.book
        changed = book.changed(self.sequence)
        self.sequence = book.sequence
        rows = [*self._rows(b"buy", changed.bids), *self._rows(b"sell", changed.asks)]
        if not rows:
            return None
        self._updates += 1
        if self._updates % ODD_UPDATES == 0:
            rows.append(b'["buy","%b","NaN"]' % self.shop.price(1))  # where nobody wants to buy
        timeless = self._updates % ODD_UPDATES == ODD_UPDATES // 2
        return b'{"type":"l2update","product_id":"%b","changes":[%b],"time":"%b"}' % (
            self.shop.native,
            b",".join(rows),
            self._timeless() if timeless else self._told(now),
        )

    def snapshot(self, now: int, far: int) -> bytes:
        """Return the whole book, which all who listen know by now, with ``far`` more levels a side."""
        levels = _whole(self.shop, far)
        asks, bids = (
            [b'["%b","%b"]' % (self.shop.price(p), self.shop.size(s)) for p, s in side]
            for side in (levels.asks, levels.bids)
        )
        self._snapshots += 1
        if self._snapshots % ODD_SNAPSHOTS == 0:
            bids.append(b'["%b","NaN"]' % self.shop.price(1))
        return b'{"type":"snapshot","product_id":"%b","asks":[%b],"bids":[%b],"time":"%b"}' % (
            self.shop.native,
            b",".join(asks),
            b",".join(bids),
            self._told(now),
        )

    def _rows(self, side: bytes, levels: Sequence[tuple[int, int]]) -> list[bytes]:
        price, size = self.shop.price, self.shop.size
        return [b'["%b","%b","%b"]' % (side, price(p), size(s) if s else self._zero) for p, s in levels]

    def _told(self, now: int) -> bytes:
        self.shop.told(now - now % US)
        return iso(now)

    def _timeless(self) -> bytes:
        self.shop.told(0)
        return NO_TIME

    def match(self, trade: Print, sequence: int, kind: bytes = b"match") -> bytes:
        """Return one trade, with the side of its maker."""
        return (
            b'{"type":"%b","trade_id":%d,"maker_order_id":"%b","taker_order_id":"%b","side":"%b",'
            b'"size":"%b","price":"%b","product_id":"%b","sequence":%d,"time":"%b"}'
            % (
                kind,
                trade.id,
                _uuid(trade.id, 1),
                _uuid(trade.id, 2),
                _maker(trade),
                self.shop.size(trade.size),
                self.shop.price(trade.price),
                self.shop.native,
                sequence,
                iso(trade.ts),
            )
        )

    def ticker(self, now: int) -> bytes | None:
        """Return the last 24 hours as of the last trade; None before the first."""
        live, price, size = self.shop.live, self.shop.price, self.shop.size
        day = live.day.summary()
        if day is None:
            return None
        last = live.tape[live.tape.next - 1]
        bid, bid_size, ask, ask_size = live.book.top()
        return (
            b'{"type":"ticker","sequence":%d,"product_id":"%b","price":"%b","open_24h":"%b",'
            b'"volume_24h":"%b","low_24h":"%b","high_24h":"%b","volume_30d":"%b","best_bid":"%b",'
            b'"best_bid_size":"%b","best_ask":"%b","best_ask_size":"%b","side":"%b","time":"%b",'
            b'"trade_id":%d,"last_size":"%b"}'
            % (
                live.book.sequence, self.shop.native, price(day.close), price(day.open), size(day.volume),
                price(day.low), price(day.high), size(day.volume * 30), price(bid), size(bid_size),
                price(ask), size(ask_size), b"buy" if last.sign > 0 else b"sell", iso(now), last.id,
                size(last.size),
            )
        )  # fmt: skip

    def heartbeat(self, now: int) -> bytes:
        """Return the beat of one product: its last trade's id."""
        live = self.shop.live
        return b'{"type":"heartbeat","last_trade_id":%d,"product_id":"%b","sequence":%d,"time":"%b"}' % (
            live.tape.next - 1,
            self.shop.native,
            live.book.sequence,
            iso(now),
        )


class Coinbase:
    """Publishes what the market does and answers requests."""

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.house = House(NAME, LIMITS, faults, listings, market)
        self.edits = {"crossed": _crossed}
        zeros = cycle(ZEROS)
        self._stands = {native: _Stand(shop, next(zeros)) for native, shop in self.house.shops.items()}
        self._batches, self._beats = Every(BATCH_MS * MS, now), Every(SECOND, now)
        self._requests = Rate()
        market.sinks[NAME] = self._act

    # -- connections and control messages ----------------------------------------------------------

    def open(self, _session: Session, path: str, _query: Mapping[str, str], _now: int) -> Reply | None:
        """Let anybody in, at the root."""
        return None if path in ("", "/") else Reply(404)

    def announce(self, session: Session, now: int) -> None:
        """Say nothing: the venue has no words for it."""

    def hurried(self, session: Session, _now: int) -> None:
        """Refuse; the connection stays."""
        _error(session, "Rate limit exceeded")  # chosen: the words

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a request with the list of all that is subscribed, or refuse the whole of it."""
        try:
            request = msgspec.json.decode(text, type=_Request)
        except msgspec.MsgspecError:
            _error(session, "Malformed JSON")
            return
        if request.type == "unsubscribe":
            for channel, product in request.wanted():
                session.leave(f"{channel} {product}")
            self._list(session)
        elif request.type != "subscribe":
            _error(session, "Unknown message type", f"{request.type} is not a valid message type")  # chosen
        elif reason := self._refusal(request):
            _error(session, "Failed to subscribe", reason)
        else:
            self._subscribe(session, request, now)

    def _refusal(self, request: _Request) -> str | None:
        for channel, product in request.wanted():
            if channel in _LOGIN:
                return f"{channel} now requires authentication"
            if channel not in _CHANNELS:
                return f"{channel} is not a valid channel"  # chosen: the words
            listed = self._stands.get(product) if self.house.listed(product) else None
            if listed is None or self.house.find("refuse", listed.shop.symbol):
                return f"{product} is not a valid product"
        return None

    def _subscribe(self, session: Session, request: _Request, now: int) -> None:
        joined: list[tuple[_Stand, str]] = []
        for channel, product in request.wanted():
            stand = self._stands[product]
            name = "level2_batch" if channel == "level2_50" else channel
            topic = stand.topics[name]
            if topic.name in session.topics:
                continue
            if self.house.find("silent_ack", stand.shop.symbol):
                session.topics[topic.name] = None
            else:
                joined.append((stand, name))
                session.topics[topic.name] = None  # listed at once, and heard from below
        self._list(session)
        for stand, name in joined:
            topic = stand.topics[name]
            del session.topics[topic.name]
            self._greet(session, stand, name, now)
            session.join(topic.name, topic)

    def _greet(self, session: Session, stand: _Stand, name: str, now: int) -> None:
        """Send what a subscription opens with: the book, the trade before it, the ticker."""
        topic, tape = stand.topics[name], stand.shop.live.tape
        match name:
            case "level2_batch":
                self._update(stand, now)  # so that all who listen are where the snapshot is
                far = int(self.house.limits["far_levels"])
                session.send(topic.channel, topic.symbol, stand.snapshot(now, far))
            case "matches" if tape.next > tape.first:
                frame = stand.match(tape[tape.next - 1], stand.shop.live.book.sequence, b"last_match")
                session.send(topic.channel, topic.symbol, frame)
            case "ticker" if ticker := stand.ticker(now):
                session.send(topic.channel, topic.symbol, ticker)
            case _:
                pass

    def _list(self, session: Session) -> None:
        if self.house.find("no_ack"):
            return
        listed: dict[str, list[str]] = {}
        for name in session.topics:
            channel, product = name.split(" ")
            listed.setdefault(_ANSWERED.get(channel, channel), []).append(product)
        channels = [
            {"name": name, "product_ids": products, "account_ids": None} for name, products in listed.items()
        ]
        session.out.append(msgspec.json.encode({"type": "subscriptions", "channels": channels}))

    # -- what the market does, and what is due by time ---------------------------------------------

    def _act(self, live: Live, _sign: int, fills: list[Fill], _top: bool, now: int) -> None:
        stand = self._stands[live.listing.native]
        if not fills:
            return
        matches, tickers, tape = stand.topics["matches"], stand.topics["ticker"], live.tape
        if matches.groups:
            for n, trade in enumerate(tape.read(tape.next - len(fills), tape.next - 1)):
                matches.tell(stand.match(trade, live.book.sequence + n))
        if tickers.groups and (ticker := stand.ticker(now)):
            tickers.tell(ticker)

    @staticmethod
    def _update(stand: _Stand, now: int) -> None:
        topic = stand.topics["level2_batch"]
        if topic.groups and (frame := stand.update(now)):
            topic.tell(frame)
        stand.sequence = stand.shop.live.book.sequence

    def publish(self, now: int) -> None:
        """Send what changed in books, a heartbeat each second and product; close whoever asks for nothing."""
        if self._batches.due(now):
            for stand in self._stands.values():
                self._update(stand, now)
        if not self._beats.due(now):
            return
        beats = {f"heartbeat {native}": stand.heartbeat(now) for native, stand in self._stands.items()}
        for session in self.house.sessions.values():
            for name, topic in session.topics.items():
                if topic is not None and name in beats:
                    session.beat(beats[name], topic.symbol)
            if not session.topics and now - session.opened > self.house.limits["subscribe_s"] * SECOND:
                session.close = (1008, "nothing was subscribed in time")  # chosen: code and words

    # -- requests ----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request."""
        limits = self.house.limits
        if self._requests.wait(now, limits["requests"], limits["requests_s"]):
            return Reply(429, b'{"message":"Public rate limit exceeded"}', {"Retry-After": "1"})
        native = path.removeprefix("/products/").partition("/")[0]
        shop = self.house.shop(native)
        routes: dict[str, Handler] = {"/products": self._products}
        if shop is not None:
            routes[f"/products/{native}/trades"] = partial(_past_trades, shop)
            routes[f"/products/{native}/book"] = partial(_book, shop, int(limits["far_levels"]))
        refusal = b'{"message":"Internal server error"}'
        reply = self.house.answer(routes, path, query, now, native=native, refusal=refusal)
        return Reply(404, b'{"message":"NotFound"}') if reply.status == 404 else reply

    def _products(self, _query: Mapping[str, str], _now: int) -> Reply:
        listed = [each for native, each in self.house.listings.items() if self.house.listed(native)]
        return Reply(200, msgspec.json.encode([_product(each) for each in listed]))


def _maker(trade: Print) -> bytes:
    return b"sell" if trade.sign > 0 else b"buy"


def _uuid(number: int, kind: int) -> bytes:
    return b"%08x-%04x-4000-8000-%012x" % (number & 0xFFFF_FFFF, kind, number)


def _error(session: Session, message: str, reason: str | None = None) -> None:
    said = {"type": "error", "message": message} | ({} if reason is None else {"reason": reason})
    session.out.append(msgspec.json.encode(said))


def _crossed(payload: bytes) -> bytes:
    for opening, level in ((b'"changes":[', b'["buy","%b","1"],'), (b'"bids":[', b'["%b","1"],')):
        payload = payload.replace(opening, opening + level % b"99999999", 1)
    return payload


def _past_trades(shop: Shop, query: Mapping[str, str], _now: int) -> Reply:
    """Return a page of trades, newest first: those older than ``after``, or those newer than ``before``."""
    tape = shop.live.tape
    limit = max(1, min(1000, whole(query.get("limit"), 1000)))
    end = min(tape.next, whole(query.get("after"), tape.next))
    first = max(end - limit, whole(query.get("before"), -1) + 1)
    trades = tape.read(first, end - 1)[::-1]
    rows = [
        {
            "time": iso(trade.ts).decode(),
            "trade_id": trade.id,
            "price": shop.price(trade.price).decode(),
            "size": shop.size(trade.size).decode(),
            "side": _maker(trade).decode(),
        }
        for trade in trades
    ]
    pages = {"CB-BEFORE": str(trades[0].id), "CB-AFTER": str(trades[-1].id)} if trades else {}
    return Reply(200, msgspec.json.encode(rows), pages)


def _whole(shop: Shop, far: int) -> Levels:
    """Return the whole book, with ``far`` more levels a side."""
    levels = shop.live.book.depth()
    if far:
        (worst_bid, _), (worst_ask, _) = levels.bids[-1], levels.asks[-1]
        levels.bids.extend((worst_bid - n, 1) for n in range(1, min(far + 1, worst_bid)))
        levels.asks.extend((worst_ask + n, 1) for n in range(1, far + 1))
    return levels


def _book(shop: Shop, far: int, query: Mapping[str, str], now: int) -> Reply:
    levels = shop.live.book.depth(1) if query.get("level", "1") == "1" else _whole(shop, far)
    bids, asks = (
        [[shop.price(p).decode(), shop.size(s).decode(), 1] for p, s in side]
        for side in (levels.bids, levels.asks)
    )
    body = {
        "bids": bids,
        "asks": asks,
        "sequence": shop.live.book.sequence,
        "auction_mode": False,
        "auction": None,
        "time": iso(now).decode(),
    }
    return Reply(200, msgspec.json.encode(body))


def _product(listing: Listing) -> dict[str, object]:
    return {
        "id": listing.native,
        "base_currency": listing.base,
        "quote_currency": listing.quote,
        "quote_increment": listing.price_step,
        "base_increment": listing.size_step,
        "display_name": f"{listing.base}/{listing.quote}",
        "min_market_funds": "1",
        "margin_enabled": False,
        "post_only": False,
        "limit_only": False,
        "cancel_only": False,
        "status": "online" if listing.trading else "delisted",
        "status_message": "",
        "trading_disabled": not listing.trading,
    }


serve = Coinbase
