"""Kraken spot as a server: WebSocket v2 with trades, books, tickers and instruments, and public REST.

Its books carry no sequence: what a book of ours stands for is told by its ``timestamp``, which is noted
with the book's true sequence whenever levels are sent (``Shop.told``), and proved by its checksum.
Numbers in ``LIMITS`` and all wording are the documented or recorded ones, except where a comment says chosen.

Source: docs.kraken.com, WebSocket v2 and REST market data, read 2026-05; captures of 2024 to 2026.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal
from zlib import crc32

import msgspec

from actors.model.events import MS, SECOND, Channel
from actors.simulator.faults import Faults
from actors.simulator.house import House, Shop, iso, trimmed, whole
from actors.simulator.listings import pick
from actors.simulator.market import Fill, Listing, Live, Market, Print, fixed
from actors.simulator.session import Every, Reply, Session, Topic

NAME: Final = "kraken"
US: Final = 1_000
BOOK_MS: Final = 50  # chosen: the venue sends each change at once, and often several in a frame
DEPTHS: Final = (10, 25, 100, 500, 1000)
PROVED: Final = 10  # levels a side that the checksum covers
HISTORY: Final = 50  # trades in the snapshot of that channel
LIMITS: Final[dict[str, float]] = {
    "messages": 50,  # chosen: documented as dynamic, without a number
    "messages_s": 1,
    "connects": 150,
    "connects_s": 600,
    "connects_bar_s": 600,
    "idle_s": 60,
}
_STEPS: Final = {
    "BTC-USD": ("0.1", "0.00000001"),
    "BTC-EUR": ("0.1", "0.00000001"),
    "BTC-USDT": ("0.1", "0.00000001"),
    "XRP-USD": ("0.00001", "0.00000001"),
    "DOGE-USD": ("0.0000001", "0.00000001"),
    "ADA-USD": ("0.000001", "0.00000001"),
    "TRX-USD": ("0.000001", "0.00000001"),
    "SHIB-USD": ("0.00000001", "0.00001"),
    "USDT-USD": ("0.00001", "0.00000001"),
    "EUR-USD": ("0.00001", "0.00000001"),
}
_OTHERS: Final = (
    "ETH-USD", "SOL-USD", "LTC-USD", "LINK-USD", "DOT-USD", "AVAX-USD", "FLR-USD", "ETH-BTC", "BTC-TUSD"
)  # fmt: skip
LISTINGS: Final = pick(
    NAME,
    lambda symbol: symbol.replace("-", "/"),
    [*_STEPS, *_OTHERS],
    steps=_STEPS,
    size_step="0.00000001",
    pace=0.4,
)
_REST_NAMES: Final = {"BTC": "XBT", "DOGE": "XDG"}  # and of v1
_LEGACY: Final = {"BTC": "X", "ETH": "X", "LTC": "X", "XRP": "X", "DOGE": "X", "USD": "Z", "EUR": "Z"}
_ODD_KEYS: Final = {"DOGE/USD": "XDGUSD", "USDT/USD": "USDTZUSD"}  # recorded: no rule makes them
_NO_TIME: Final = b"1970-01-01T00:00:00.000000Z"  # of a ticker that has nothing to tell

Levels = list[tuple[int, int]]


class _Params(msgspec.Struct):
    channel: str = ""
    symbol: list[str] = []
    depth: int = 10
    snapshot: bool | None = None
    event_trigger: Literal["trades", "bbo"] = "trades"

    def kind(self) -> str:
        """Return which topic of a pair it is about."""
        match self.channel:
            case "book":
                return f"book-{self.depth}"
            case "ticker":
                return f"ticker-{self.event_trigger}"
            case channel:
                return channel

    def result(self, native: str) -> dict[str, object]:
        """Return what an acknowledgement repeats."""
        own: dict[str, dict[str, object]] = {
            "book": {"depth": self.depth},
            "ticker": {"event_trigger": self.event_trigger},
        }
        return {
            "channel": self.channel,
            **own.get(self.channel, {}),
            "snapshot": self.channel != "trade" if self.snapshot is None else self.snapshot,
            "symbol": native,
        }


class _Request(msgspec.Struct):
    method: str = ""
    params: _Params = msgspec.field(default_factory=_Params)
    req_id: int | None = None


class _Book:
    """A book at one depth, as those who listen have it."""

    def __init__(self, shop: Shop, topic: Topic, depth: int) -> None:
        self.topic = topic
        self._shop = shop
        self._depth = depth
        self._bids: dict[int, int] = {}  # price -> size, best first
        self._asks: dict[int, int] = {}
        self._sequence = -1
        self._ts = 0

    def update(self, now: int) -> tuple[Levels, Levels] | None:
        """Go on to the book of now; return what must be sent for it, in no order, None for nothing.

        A level that comes into depth is sent, whether it changed or not; of one that falls out of it
        nothing is said.
        """
        book = self._shop.live.book
        if book.sequence == self._sequence:
            return None
        self._sequence = book.sequence
        levels = book.depth(self._depth)
        bids = [(p, 0) for p in self._bids.keys() - dict(levels.bids).keys() if not book.size(p)]
        asks = [(p, 0) for p in self._asks.keys() - dict(levels.asks).keys() if not book.size(-p)]
        bids += [(p, s) for p, s in reversed(levels.bids) if self._bids.get(p) != s]
        asks += [(p, s) for p, s in reversed(levels.asks) if self._asks.get(p) != s]
        if not bids and not asks:
            return None
        self._bids, self._asks = dict(levels.bids), dict(levels.asks)
        self._ts = now - now % US
        self._shop.told(self._ts)
        return bids, asks

    def frame(self, kind: bytes, bids: Levels, asks: Levels) -> bytes:
        """Return a frame with these levels, the checksum of the whole book and its time."""
        return (
            b'{"channel":"book","type":"%b","data":[{"symbol":"%b","bids":%b,"asks":%b,"checksum":%d,'
            b'"timestamp":"%b"}]}'
            % (kind, self._shop.native, self._rows(bids), self._rows(asks), self.checksum(), iso(self._ts))
        )

    def snapshot(self, now: int) -> bytes:
        """Return the whole book as all who listen have it, or of now if nobody does."""
        if not self.topic.groups:
            self.update(now)
        return self.frame(b"snapshot", [*self._bids.items()], [*self._asks.items()])

    def checksum(self) -> int:
        """Return the CRC32 of the ten best levels, asks before bids, as they are written."""
        price, size = self._shop.price, self._shop.size
        best = [*self._asks.items()][:PROVED] + [*self._bids.items()][:PROVED]
        texts = [text for p, s in best for text in (price(p), size(s))]
        return crc32(b"".join([text.replace(b".", b"").lstrip(b"0") for text in texts]))

    def _rows(self, levels: Levels) -> bytes:
        price, size = self._shop.price, self._shop.size
        return b"[" + b",".join([b'{"price":%b,"qty":%b}' % (price(p), size(s)) for p, s in levels]) + b"]"


class _Stand:
    """A shop's topics and its books at each depth."""

    def __init__(self, shop: Shop) -> None:
        def topic(kind: str, channel: Channel) -> Topic:
            return Topic(f"{kind} {shop.listing.native}", channel, shop.symbol)

        self.shop = shop
        self.topics = {kind: topic(kind, "ticker") for kind in ("ticker-trades", "ticker-bbo")}
        self.topics["trade"] = topic("trade", "trade")
        self.books: dict[str, _Book] = {}
        for depth in DEPTHS:
            self.topics[f"book-{depth}"] = of_book = topic(f"book-{depth}", "book")
            self.books[f"book-{depth}"] = _Book(shop, of_book, depth)
        self.seen: tuple[int, ...] = ()  # next trade and the best prices when tickers were sent

    def snapshot(self, kind: str, now: int) -> bytes:
        """Return the first frame of a topic."""
        if kind in self.books:
            return self.books[kind].snapshot(now)
        if kind == "trade":
            tape = self.shop.live.tape
            return _trades(b"snapshot", self.shop, tape.read(tape.next - HISTORY, tape.next - 1))
        return _ticker(b"snapshot", self.shop, now)


def _trade(shop: Shop, trade: Print) -> bytes:
    return (
        b'{"symbol":"%b","side":"%b","price":%b,"qty":%b,"ord_type":"%b","trade_id":%d,"timestamp":"%b"}'
        % (
            shop.native,
            b"buy" if trade.sign > 0 else b"sell",
            trimmed(shop.price(trade.price)),  # of all numbers only those of a book keep their zeros
            trimmed(shop.size(trade.size)),
            b"market" if trade.id % 8 else b"limit",
            trade.id,
            iso(trade.ts),
        )
    )


def _trades(kind: bytes, shop: Shop, trades: Sequence[Print]) -> bytes:
    rows = b",".join([_trade(shop, trade) for trade in trades])
    return b'{"channel":"trade","type":"%b","data":[%b]}' % (kind, rows)


def _ticker(kind: bytes, shop: Shop, now: int) -> bytes:
    day = shop.live.day.summary()
    if day is None:
        texts = (b"0",) * 11
    else:
        bid, bid_size, ask, ask_size = shop.live.book.top()
        price, size = shop.price, shop.size
        change = day.close - day.open
        texts = tuple(
            trimmed(text)
            for text in (
                price(bid), size(bid_size), price(ask), size(ask_size), price(day.close), size(day.volume),
                price(day.quote // day.volume), price(day.low), price(day.high), price(change),
                fixed(change * 10_000 // day.open, 2),
            )
        )  # fmt: skip
    return (
        b'{"channel":"ticker","type":"%b","data":[{"symbol":"%b","bid":%b,"bid_qty":%b,"ask":%b,"ask_qty":%b,'
        b'"last":%b,"volume":%b,"vwap":%b,"low":%b,"high":%b,"change":%b,"change_pct":%b,"trades":%d,'
        b'"timestamp":"%b"}]}'
        % (kind, shop.native, *texts, day.trades if day else 0, iso(now) if day else _NO_TIME)
    )


class Kraken:
    """Publishes what the market does and answers requests."""

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.house = House(NAME, LIMITS, faults, listings, market)
        self.edits = {"checksum": _wrong_checksum}
        self._stands = {native: _Stand(shop) for native, shop in self.house.shops.items()}
        self._natives = {name: each for each in self.house.listings for name in _rest_names(each)}
        self._books, self._beats = Every(BOOK_MS * MS, now), Every(SECOND, now)
        self._routes = {"/0/public/AssetPairs": self._asset_pairs, "/0/public/Trades": self._past_trades}
        market.sinks[NAME] = self._act

    # -- connections and control messages ----------------------------------------------------------

    def open(self, session: Session, path: str, _query: Mapping[str, str], _now: int) -> Reply | None:
        """Greet: the first frame says how the venue is."""
        if path != "/v2":
            return Reply(404)
        self._status(session, b"online")
        return None

    def announce(self, session: Session, _now: int) -> None:
        """Say that the venue goes into maintenance."""
        self._status(session, b"maintenance")

    def _status(self, session: Session, system: bytes) -> None:
        session.out.append(
            b'{"channel":"status","type":"update","data":[{"version":"2.0.10","system":"%b","api_version":"v2",'
            b'"connection_id":%d}]}' % (system, (1 << 63) + session.number)
        )

    def hurried(self, session: Session, _now: int) -> None:
        """Say so; the connection stays."""
        session.out.append(b'{"Error":"Exceeded msg rate"}')

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a control message."""
        try:
            request = msgspec.json.decode(text, type=_Request)
        except msgspec.MsgspecError:
            self._answer(session, _Request(), now, error="Malformed request")  # chosen: the words
            return
        params = request.params
        match request.method:
            case "ping":
                self._answer(session, msgspec.structs.replace(request, method="pong"), now)
            case "subscribe" | "unsubscribe" if params.channel == "book" and params.depth not in DEPTHS:
                self._answer(session, request, now, error="Subscription depth not supported")
            case "subscribe" if params.channel == "instrument":
                self._answer(session, request, now, result={"channel": "instrument", "snapshot": True})
                self._list(session)
            case "subscribe":
                self._subscribe(session, request, now)
            case "unsubscribe":
                for native in params.symbol:
                    if session.leave(f"{params.kind()} {native}"):
                        self._answer(session, request, now, result=params.result(native))
                    else:  # chosen: the words, as in v1
                        self._answer(session, request, now, error="Subscription Not Found", symbol=native)
            case _:
                self._answer(session, request, now, error="Unsupported method")  # chosen: the words

    def _answer(self, session: Session, request: _Request, now: int, **said: object) -> None:
        if request.method != "pong":
            if self.house.find("no_ack"):
                return
            said["success"] = "error" not in said
        said = {"method": request.method, **said} if request.method else said
        said["time_in"], said["time_out"] = iso(now).decode(), iso(now + 45 * US).decode()
        if request.req_id is not None:
            said["req_id"] = request.req_id
        if "result" not in said:  # recorded: errors and pongs are in alphabetical order, acknowledgements not
            said = dict(sorted(said.items()))
        session.out.append(msgspec.json.encode(said))

    def _subscribe(self, session: Session, request: _Request, now: int) -> None:
        params = request.params
        kind = params.kind()
        accepted: list[_Stand] = []
        for native in params.symbol:
            stand = self._stands.get(native) if self.house.listed(native) else None
            if stand is None:
                error = f"Currency pair not supported {native}"
            elif kind not in stand.topics:
                error = "Unsupported channel"  # chosen: the words, and of the next two
            elif self.house.find("refuse", stand.shop.symbol):
                error = "Subscription refused"
            elif stand.topics[kind].name in session.topics:
                error = "Already subscribed"
            else:
                self._answer(session, request, now, result=params.result(native))
                accepted.append(stand)
                continue
            self._answer(session, request, now, error=error, symbol=native)
        for stand in accepted:
            topic = stand.topics[kind]
            if self.house.find("silent_ack", stand.shop.symbol):
                session.join(topic.name, None)
                continue
            if params.result("")["snapshot"]:
                session.send(topic.channel, topic.symbol, stand.snapshot(kind, now))
            session.join(topic.name, topic)

    def _list(self, session: Session) -> None:
        listed = [each for native, each in self.house.listings.items() if self.house.listed(native)]
        assets = {asset: None for each in listed for asset in (each.base, each.quote)}
        data = {
            "assets": [{"id": asset, "status": "enabled", "precision": 10} for asset in assets],
            "pairs": [_pair(each) for each in listed],
        }
        session.out.append(msgspec.json.encode({"channel": "instrument", "type": "snapshot", "data": data}))
        session.join("instrument", None)  # nothing changes as long as we run

    # -- what the market does, and what is due by time ---------------------------------------------

    def _act(self, live: Live, _sign: int, fills: list[Fill], _top: bool, _now: int) -> None:
        stand = self._stands[live.listing.native]
        topic = stand.topics["trade"]
        if fills and topic.groups:
            tape = live.tape
            topic.tell(_trades(b"update", stand.shop, tape.read(tape.next - len(fills), tape.next - 1)))

    def publish(self, now: int) -> None:
        """Send what changed in books and tickers, and a heartbeat each second, whatever else was sent."""
        if self._books.due(now):
            for stand in self._stands.values():
                for book in stand.books.values():
                    if book.topic.groups and (changes := book.update(now)):
                        book.topic.tell(book.frame(b"update", *changes))
                self._send_tickers(stand, now)
        if self._beats.due(now):
            for session in self.house.sessions.values():
                if session.topics:
                    session.beat(b'{"channel":"heartbeat"}')

    @staticmethod
    def _send_tickers(stand: _Stand, now: int) -> None:
        bid, _, ask, _ = stand.shop.live.book.top()
        before, stand.seen = stand.seen, (stand.shop.live.tape.next, bid, ask)
        if before == stand.seen:
            return
        trades, bbo = stand.topics["ticker-trades"], stand.topics["ticker-bbo"]
        if bbo.groups:
            bbo.tell(_ticker(b"update", stand.shop, now))
        if trades.groups and before[:1] != stand.seen[:1]:
            trades.tell(_ticker(b"update", stand.shop, now))

    # -- requests ----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request."""
        native = self._natives.get(query.get("pair", ""), "")
        refusal = _result(error="EGeneral:Internal error").body
        return self.house.answer(self._routes, path, query, now, native=native, refusal=refusal)

    def _asset_pairs(self, query: Mapping[str, str], _now: int) -> Reply:
        names = query["pair"].split(",") if query.get("pair") else [*self.house.listings]
        found: dict[str, object] = {}
        for name in names:
            listing = self.house.listed(self._natives.get(name, name))
            if listing is not None:
                found[_rest_names(listing.native)[-1]] = _asset_pair(listing)
            elif query.get("pair"):
                return _result(error="EQuery:Unknown asset pair")
        return _result(found)

    def _past_trades(self, query: Mapping[str, str], _now: int) -> Reply:
        """Answer with trades later than ``since`` (ns), oldest first; without it with the last ones."""
        shop = self.house.shop(self._natives.get(query.get("pair", ""), ""))
        if shop is None:
            return _result(error="EQuery:Unknown asset pair")
        tape = shop.live.tape
        count = min(1000, whole(query.get("count"), 1000) or 1000)
        since = whole(query.get("since"), -1)
        first = tape.next - count if since < 0 else tape.after(since)
        trades = tape.read(first, first + count - 1)
        rows = [_rest_trade(shop, trade) for trade in trades]
        return _result(
            {_rest_names(shop.listing.native)[-1]: rows, "last": str(trades[-1].ts if trades else since)}
        )


def _wrong_checksum(payload: bytes) -> bytes:
    return re.sub(rb'(?<="checksum":)\d+', lambda found: b"%d" % (int(found.group()) ^ 1), payload)


def _decimals(step: str) -> int:
    return len(step.partition(".")[2])


def _pair(listing: Listing) -> dict[str, object]:
    return {
        "symbol": listing.native,
        "base": listing.base,
        "quote": listing.quote,
        "status": "online" if listing.trading else "cancel_only",
        "qty_precision": _decimals(listing.size_step),
        "qty_increment": float(listing.size_step),  # written with an exponent, here and nowhere else
        "price_precision": _decimals(listing.price_step),
        "price_increment": float(listing.price_step),
        "qty_min": float(listing.size_step),
    }


def _rest_names(native: str) -> tuple[str, str, str]:
    """Return the names that REST takes for a pair; the last one is the one it answers with."""
    base, quote = native.split("/")
    old = _REST_NAMES.get(base, base), _REST_NAMES.get(quote, quote)
    legacy = base in _LEGACY and quote in _LEGACY
    key = f"{_LEGACY[base]}{old[0]}{_LEGACY[quote]}{old[1]}" if legacy else "".join(old)
    return "".join(old), f"{old[0]}/{old[1]}", _ODD_KEYS.get(native, key)


def _asset_pair(listing: Listing) -> dict[str, object]:
    altname, wsname, _ = _rest_names(listing.native)
    base, quote = wsname.split("/")
    return {
        "altname": altname,
        "wsname": wsname,
        "aclass_base": "currency",
        "base": _LEGACY.get(listing.base, "") + base,
        "aclass_quote": "currency",
        "quote": _LEGACY.get(listing.quote, "") + quote,
        "lot": "unit",
        "pair_decimals": _decimals(listing.price_step),
        "cost_decimals": 5,
        "lot_decimals": _decimals(listing.size_step),
        "lot_multiplier": 1,
        "ordermin": listing.size_step,
        "costmin": "0.5",
        "tick_size": listing.price_step,
        "status": "online" if listing.trading else "cancel_only",
    }


def _rest_trade(shop: Shop, trade: Print) -> list[object]:
    seconds, rest = divmod(trade.ts, SECOND)
    return [
        shop.price(trade.price).decode(),
        shop.size(trade.size).decode(),
        msgspec.Raw(b"%d.%07d" % (seconds, rest // 100)),
        "b" if trade.sign > 0 else "s",
        "m",
        "",
        trade.id,
    ]


def _result(result: object = None, error: str | None = None) -> Reply:
    answer: dict[str, object] = {"error": [] if error is None else [error]}
    return Reply(200, msgspec.json.encode(answer if error else {**answer, "result": result}))


serve = Kraken
