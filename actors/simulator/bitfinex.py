"""Bitfinex v2 as a server: trades told twice, books with sequence and checksum, tickers, lists by REST.

Frames are each session's own: channel numbers, flags, and one sequence through all of them. What a book of
ours stands for is told by the server's time (flag TIMESTAMP), noted with the book's true sequence.
Numbers in ``LIMITS`` and all wording are the documented or probed ones, except where a comment says chosen.

Source: docs.bitfinex.com v2, read 2026-09; captures of 2021 to 2026.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final
from zlib import crc32

import msgspec

from actors.model.events import MS, SECOND, Channel
from actors.simulator.faults import Faults
from actors.simulator.house import House, Shop, trimmed
from actors.simulator.listings import pick
from actors.simulator.market import Fill, Listing, Live, Market, Print
from actors.simulator.session import Every, Rate, Reply, Session

NAME: Final = "bitfinex"
TIMESTAMP, SEQ_ALL, OB_CHECKSUM = 32_768, 65_536, 131_072
BOOK_MS: Final = 100  # chosen: the venue sends each change at once
LEVELS: Final = 100
PROVED: Final = 25  # levels a side that the checksum covers
HISTORY: Final = 30  # trades in the snapshot of that channel
CHECKSUM_NS: Final = SECOND  # chosen: some 2.5 s were seen, documented is each change
AGAIN_NS: Final = 1500 * MS  # a trade's second telling
BEAT_NS: Final = 15 * SECOND
LIMITS: Final[dict[str, float]] = {
    "connects": 20,
    "connects_s": 60,
    "connects_bar_s": 60,
    "channels": 30,
    "unsubscribed_s": 60,  # how long a connection may have no channel
    "requests": 10,  # REST; documented as 10 to 90, by endpoint
    "requests_s": 60,
}
_STEPS: Final = {  # of five digits: what the venue rounds to
    "BTC-USD": ("1", "0.00000001"),
    "ETH-USD": ("0.1", "0.00000001"),
    "SOL-USD": ("0.01", "0.00000001"),
    "XRP-USD": ("0.00001", "0.00000001"),
    "BTC-USDT": ("1", "0.00000001"),
    "ETH-USDT": ("0.1", "0.00000001"),
    "BTC-EUR": ("1", "0.00000001"),
    "ETH-BTC": ("0.00001", "0.00000001"),
    "LTC-USD": ("0.01", "0.00000001"),
    "DOGE-USD": ("0.00001", "0.00000001"),
    "AVAX-USD": ("0.001", "0.00000001"),
    "SHIB-USD": ("0.00000001", "0.00000001"),
}
_CODES: Final = {"USDT": "UST"}


def _native(symbol: str) -> str:
    base, quote = (_CODES.get(code, code) for code in symbol.split("-"))
    return f"t{base}{quote}" if len(base) == len(quote) == 3 else f"t{base}:{quote}"


LISTINGS: Final = pick(NAME, _native, _STEPS, steps=_STEPS, pace=0.4)
_CHANNELS: Final[dict[str, Channel]] = {"trades": "trade", "book": "book", "ticker": "ticker"}

Levels = dict[int, int]


class _Request(msgspec.Struct, omit_defaults=True):
    event: str
    channel: str | None = None
    symbol: str | None = None
    prec: str | None = None
    freq: str | None = None
    len: str | None = None
    chanId: int | None = None  # noqa: N815 - the venue's name
    flags: int | None = None
    cid: int | None = None


def _number(text: bytes) -> bytes:
    """Return a number as JavaScript writes it."""
    plain = trimmed(text)
    if not plain.startswith(b"0.000000"):
        return plain
    digits = plain[2:].lstrip(b"0")
    exponent = len(plain) - 2 - len(digits) + 1
    return digits[:1] + (b"." + digits[1:] if digits[1:] else b"") + b"e-%d" % exponent


class _Stand:
    """A shop, and its best levels as those who listen have them."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.bids: Levels = {}
        self.asks: Levels = {}
        self.sequence = -1
        self.changed = False  # since the last checksum
        self.again: deque[tuple[int, bytes]] = deque()  # trades to be told a second time, and when

    def update(self, now: int) -> list[bytes]:
        """Go on to the book of now; return a payload for each level that is another, removals first."""
        book = self.shop.live.book
        if book.sequence == self.sequence:
            return []
        self.sequence = book.sequence
        levels = book.depth(LEVELS)
        payloads: list[bytes] = []
        sides = ((1, self.bids, dict(levels.bids)), (-1, self.asks, dict(levels.asks)))
        for sign, old, new in sides:
            payloads += [b"[%b,0,%d]" % (self._price(p), sign) for p in old if p not in new]
        for sign, old, new in sides:
            payloads += [self._row(sign, p, s) for p, s in new.items() if old.get(p) != s]
        self.bids, self.asks = sides[0][2], sides[1][2]
        self.changed |= bool(payloads)
        if payloads:
            self.shop.told(now - now % MS)
        return payloads

    def snapshot(self, now: int) -> bytes:
        """Return all levels, as those who listen have them."""
        self.shop.told(now - now % MS)
        rows = [self._row(1, p, s) for p, s in self.bids.items()]
        rows += [self._row(-1, p, s) for p, s in self.asks.items()]
        return b"[" + b",".join(rows) + b"]"

    def checksum(self) -> bytes:
        """Return the signed CRC32 of the best levels, bid and ask in turn."""
        size = self.shop.size
        bids = [b"%b:%b" % (self._price(p), _number(size(s))) for p, s in self.bids.items()][:PROVED]
        asks = [b"%b:-%b" % (self._price(p), _number(size(s))) for p, s in self.asks.items()][:PROVED]
        most = max(len(bids), len(asks))
        turns = [level for n in range(most) for level in (*bids[n : n + 1], *asks[n : n + 1])]
        crc = crc32(b":".join(turns))
        return b'"cs",%d' % (crc - (1 << 32) if crc >> 31 else crc)

    def _price(self, price: int) -> bytes:
        return _number(self.shop.price(price))

    def _row(self, sign: int, price: int, size: int) -> bytes:
        orders = max(1, self.shop.live.book.orders_at(sign * price))
        amount = _number(self.shop.size(size))
        return b"[%b,%d,%b%b]" % (self._price(price), orders, b"-" if sign < 0 else b"", amount)

    def trade(self, trade: Print) -> bytes:
        """Return one trade: an amount below zero was sold by the taker."""
        amount = _number(self.shop.size(trade.size))
        sign = b"-" if trade.sign < 0 else b""
        return b"[%d,%d,%b%b,%b]" % (trade.id, trade.ts // MS, sign, amount, self._price(trade.price))

    def history(self) -> bytes:
        """Return the last trades, newest first."""
        tape = self.shop.live.tape
        rows = [self.trade(trade) for trade in tape.read(tape.next - HISTORY, tape.next - 1)[::-1]]
        return b"[" + b",".join(rows) + b"]"

    def ticker(self) -> bytes:
        """Return the last 24 hours; sizes are sums of the best levels."""
        day, size = self.shop.live.day.summary(), self.shop.size
        bid, _, ask, _ = self.shop.live.book.top()
        sums = [sum([*side.values()][:PROVED]) for side in (self.bids, self.asks)]
        best = (self._price(bid), _number(size(sums[0])), self._price(ask), _number(size(sums[1])))
        if day is None:
            return b"[%b,%b,%b,%b,0,0,null,0,null,null,null]" % best
        change = trimmed(self.shop.price(day.close - day.open))
        rest = (change, self._price(day.close), _number(size(day.volume)), self._price(day.high))
        return b"[%b,%b,%b,%b,%b,0.01,%b,%b,%b,%b,null]" % (*best, *rest, self._price(day.low))


class _Client:
    """What a session has subscribed, under which numbers, and how far its sequence is."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.flags = self.seq = 0
        self.chans: dict[int, tuple[str, _Stand | None, int]] = {}  # channel, of what, when it beats next

    def frame(self, chan: int, payload: bytes, now: int) -> bytes:
        """Return the next data frame."""
        self.seq += 1
        seq = b",%d" % self.seq if self.flags & SEQ_ALL else b""
        time = b",%d" % (now // MS) if self.flags & TIMESTAMP else b""
        return b"[%d,%b%b%b]" % (chan, payload, seq, time)

    def tell(self, channel: str, stand: _Stand, payloads: Sequence[bytes], now: int) -> None:
        """Send payloads of one channel if it is subscribed."""
        for chan, (name, of, _) in self.chans.items():
            if name == channel and of is stand:
                for payload in payloads:
                    frame = self.frame(chan, payload, now)
                    self.session.send(_CHANNELS[channel], stand.shop.symbol, frame)


class Bitfinex:
    """Publishes what the market does and answers requests."""

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.house = House(NAME, LIMITS, faults, listings, market, trim=True)
        self.edits = {"checksum": _wrong_checksum}
        self._stands = {native: _Stand(shop) for native, shop in self.house.shops.items()}
        self._clients: dict[int, _Client] = {}
        self._last_chan = 16
        self._requests = Rate()
        self._books, self._proofs = Every(BOOK_MS * MS, now), Every(CHECKSUM_NS, now)
        self._tickers = Every(BEAT_NS, now)
        self._routes = {"/v2/conf/pub:list:pair:exchange,pub:map:currency:sym": self._lists}
        market.sinks[NAME] = self._act

    # -- connections and control messages ----------------------------------------------------------

    def open(self, session: Session, path: str, _query: Mapping[str, str], _now: int) -> Reply | None:
        """Greet: the first frame says whether the venue works."""
        if path != "/ws/2":
            return Reply(404)
        self._clients[session.number] = _Client(session)
        said = {"event": "info", "version": 2, "serverId": "simulated", "platform": {"status": 1}}
        session.out.append(msgspec.json.encode(said))
        return None

    def announce(self, session: Session, _now: int) -> None:
        """Say that the server restarts."""
        said = {"event": "info", "code": 20051, "msg": "Stopping. Please try to reconnect"}
        session.out.append(msgspec.json.encode(said))

    def hurried(self, session: Session, now: int) -> None:
        """Say nothing: there is no such limit."""

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a control message; what is no JSON is not answered at all."""
        try:
            request = msgspec.json.decode(text, type=_Request)
        except msgspec.MsgspecError:
            return
        client = self._clients[session.number]
        match request.event:
            case "conf":
                client.flags = request.flags or 0
                self._say(session, {"event": "conf", "status": "OK", "flags": client.flags})
            case "ping":
                self._say(session, {"event": "pong", "ts": now // MS, "cid": request.cid})
            case "subscribe":
                self._subscribe(client, request, now)
            case "unsubscribe" if client.chans.pop(request.chanId or 0, None):
                self._say(session, {"event": "unsubscribed", "status": "OK", "chanId": request.chanId})
            case "unsubscribe":
                self._refuse(session, request, 10400, "unsubscribe: invalid")
            case event:
                self._refuse(session, request, 10000, f"event: invalid ({event})")

    @staticmethod
    def _say(session: Session, said: object) -> None:
        session.out.append(msgspec.json.encode(said))

    def _refuse(self, session: Session, request: _Request, code: int, why: str, **more: object) -> None:
        echo = msgspec.to_builtins(request) | {"event": "error", "msg": why, "code": code}
        echo |= {} if request.symbol is None else {"pair": request.symbol.removeprefix("t")}
        self._say(session, echo | more)

    def _subscribe(self, client: _Client, request: _Request, now: int) -> None:
        native = request.symbol or ""
        native = native if native.startswith("t") else f"t{native}"
        stand = self._stands.get(native) if self.house.listed(native) else None
        channel = request.channel or ""
        known = [chan for chan, (name, of, _) in client.chans.items() if name == channel and of is stand]
        if channel not in _CHANNELS:
            self._refuse(client.session, request, 10300, "channel: unknown")
        elif stand is None or self.house.find("refuse", stand.shop.symbol):
            self._refuse(client.session, request, 10300, "symbol: invalid")
        elif channel == "book" and (request.prec, request.len) != ("P0", str(LEVELS)):
            why = "precision: invalid" if request.prec != "P0" else "length: invalid"
            self._refuse(client.session, request, 10300, why)
        elif known:
            self._refuse(client.session, request, 10301, "subscribe: dup", chanId=known[0])
        elif len(client.chans) >= self.house.limits["channels"]:
            self._refuse(client.session, request, 10305, "subscribe: limit")
        else:
            self._join(client, request, stand, native, now)

    def _join(self, client: _Client, request: _Request, stand: _Stand, native: str, now: int) -> None:
        self._last_chan += 1
        chan, channel, session = self._last_chan, request.channel or "", client.session
        if chan % 7 == 0:  # seen: a heartbeat before its acknowledgement
            session.beat(client.frame(chan, b'"hb"', now))
        if not self.house.find("no_ack"):
            own = {"prec": "P0", "freq": "F0", "len": str(LEVELS)} if channel == "book" else {}
            said = {"event": "subscribed", "channel": channel, "chanId": chan, "symbol": native, **own}
            self._say(session, said | {"pair": native[1:]})
        if self.house.find("silent_ack", stand.shop.symbol):
            client.chans[chan] = (channel, None, now + BEAT_NS)
            return
        self._update(stand, now)  # so that all who listen are where the snapshot is
        client.chans[chan] = (channel, stand, now + BEAT_NS)
        opening = {"book": lambda: stand.snapshot(now), "trades": stand.history, "ticker": stand.ticker}
        client.tell(channel, stand, [opening[channel]()], now)

    # -- what the market does, and what is due by time ---------------------------------------------

    def _tell(self, channel: str, stand: _Stand, payloads: Sequence[bytes], now: int) -> None:
        for client in self._clients.values():
            client.tell(channel, stand, payloads, now)

    def _act(self, live: Live, _sign: int, fills: list[Fill], _top: bool, now: int) -> None:
        if not fills or not self._clients:
            return
        stand, tape = self._stands[live.listing.native], live.tape
        for trade in tape.read(tape.next - len(fills), tape.next - 1):
            payload = stand.trade(trade)
            self._tell("trades", stand, [b'"te",' + payload], now)
            stand.again.append((now + AGAIN_NS, b'"tu",' + payload))

    def _update(self, stand: _Stand, now: int) -> None:
        payloads = stand.update(now)
        if payloads:
            self._tell("book", stand, payloads, now)

    def publish(self, now: int) -> None:
        """Send what changed in books, its proof, second tellings of trades, tickers and heartbeats."""
        if not self._books.due(now):
            return
        self._clients = {n: client for n, client in self._clients.items() if n in self.house.sessions}
        prove, tickers = self._proofs.due(now), self._tickers.due(now)
        for stand in self._stands.values():
            if self._clients:
                self._update(stand, now)
            if prove and stand.changed:
                self._prove(stand, now)
            if tickers:
                self._tell("ticker", stand, [stand.ticker()], now)
            while stand.again and stand.again[0][0] <= now:
                self._tell("trades", stand, [stand.again.popleft()[1]], now)
        for client in self._clients.values():
            self._beat(client, now)

    def _prove(self, stand: _Stand, now: int) -> None:
        stand.changed = False
        stand.shop.told(now - now % MS)
        for client in self._clients.values():
            if client.flags & OB_CHECKSUM:
                client.tell("book", stand, [stand.checksum()], now)

    def _beat(self, client: _Client, now: int) -> None:
        for chan, (channel, stand, due) in client.chans.items():
            if now >= due:
                client.chans[chan] = (channel, stand, due + BEAT_NS)
                client.session.beat(client.frame(chan, b'"hb"', now))
        limit = self.house.limits["unsubscribed_s"] * SECOND
        if not client.chans and now - client.session.opened > limit:
            client.session.close = (1000, "")  # chosen: code and words; seen was a bare end

    # -- requests ----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request, so many a minute."""
        limits = self.house.limits
        if wait := self._requests.wait(now, limits["requests"], limits["requests_s"]):
            words = b'["error",11010,"ratelimit: error"]'  # chosen
            return Reply(429, words, {"Retry-After": str(-(-wait // SECOND))})
        refusal = b'["error",10020,"internal: error"]'  # chosen: the words
        return self.house.answer(self._routes, path, query, now, native="", refusal=refusal)

    def _lists(self, _query: Mapping[str, str], _now: int) -> Reply:
        listed = [each for native, each in self.house.listings.items() if self.house.listed(native)]
        pairs = ["AAABBB", *(each.native[1:] for each in listed if each.trading), "TESTBTC:TESTUSD"]
        return Reply(200, msgspec.json.encode([pairs, [["UST", "USDt"], ["ALG", "ALGO"]]]))


def _wrong_checksum(payload: bytes) -> bytes:
    return re.sub(rb'(?<="cs",)-?\d+', lambda found: b"%d" % (int(found.group()) ^ 1), payload)


serve = Bitfinex
