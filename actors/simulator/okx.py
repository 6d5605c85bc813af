"""OKX v5 as a server: the public socket with its nine channels, and the REST that stands beside it.

Spot pairs and swaps share the socket; a swap's sizes are contracts. A client says ``subscribe`` with any
number of arguments and is answered for each of them, and gets what there is at once: the book, the
ticker, the latest trade, the latest liquidation (an old one, which is no news). Limits are the documented
ones; a comment says what was chosen. What is said of instruments is in ``okx_stands``.

Source: OKX v5 documentation as mirrored 2026-08-22; frames recorded 2022 to 2026.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from actors.model.events import MS, SECOND
from actors.simulator.faults import Faults
from actors.simulator.house import Handler, House, Shop, TrueTrade, whole
from actors.simulator.market import Fill, Listing, Live, Market, Print
from actors.simulator.okx_stands import (
    DEPTH,
    LISTINGS,
    NAME,
    QUIET_NS,
    Liquidations,
    Said,
    Stand,
    SwapStand,
    fields,
)
from actors.simulator.session import Every, Rate, Reply, Session, Topic

__all__ = ["LISTINGS", "NAME", "Okx", "serve"]

LIMITS: Final[dict[str, float]] = {
    "connects": 3,
    "connects_s": 1,
    "subscriptions": 480,
    "subscriptions_s": 3600,
    "request_bytes": 64 * 1024,
    "idle_s": 30,
    "instruments": 20,
    "books": 40,
    "history-trades": 20,
    "open-interest": 20,
    "rest_s": 2,  # the limits above, which are of REST, are in so long
}
_IDLE: Final = (4004, "No data received in 30s")
_MOST_ID: Final = 32


# -- the socket ----------------------------------------------------------------------------------


class _Arg(msgspec.Struct):
    channel: str = ""
    instId: str | None = None  # noqa: N815 - the venue's name
    instType: str | None = None  # noqa: N815


class _Request(msgspec.Struct):
    op: str
    args: list[_Arg] | None = None
    id: str | None = None


class _Offer(msgspec.Struct, frozen=True):
    """What can be subscribed; ``greet``: now in ns -> the frame that comes at once, or nothing."""

    topic: Topic
    symbol: str | None
    greet: Callable[[int], bytes]


_request_decoder = msgspec.json.Decoder(_Request)
_LOGIN: Final = ("books-l2-tbt", "books50-l2-tbt")
_BUSINESS: Final = ("trades-all", "candle", "mark-price-candle", "index-candle")


class Okx:
    """Publishes what the market does, answers the socket and requests."""

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.house = House(NAME, LIMITS, faults, listings, market, trim=True)
        self.house.goodbyes["idle"] = _IDLE
        self.edits = {"crossed": self._crossed}
        self._stands = {native: Stand(shop) for native, shop in self.house.shops.items()}
        self._swaps = {
            native: SwapStand(shop, shop.live.perpetual)
            for native, shop in self.house.shops.items()
            if shop.live.perpetual is not None
        }
        self._liquidations = Liquidations()
        self._offers = dict(self._all_offers())
        self._tbt, self._fast = Every(10 * MS, now), Every(100 * MS, now)
        self._marks, self._second = Every(200 * MS, now), Every(SECOND, now)
        self._interests, self._fundings = Every(3 * SECOND, now), Every(30 * SECOND, now)
        self._routes: dict[str, Handler] = {
            "/api/v5/public/time": lambda _, now: _reply(b'{"ts":"%d"}' % (now // MS)),
            "/api/v5/public/instruments": self._limited("instruments", self._instruments),
            "/api/v5/public/open-interest": self._limited("open-interest", self._open_interest),
            "/api/v5/market/books": self._limited("books", self._book),
            "/api/v5/market/history-trades": self._limited("history-trades", self._history),
        }
        market.sinks[NAME] = self.act

    def _all_offers(self) -> Iterable[tuple[str, _Offer]]:
        for native, stand in self._stands.items():
            data = [(stand.bbo, stand.best), (stand.tickers, stand.day)]
            swap = self._swaps.get(native)
            if swap is not None:
                data += swap.topics()
            offers = [
                _Offer(stand.trades, stand.shop.symbol, partial(_latest, stand.trades)),
                _Offer(stand.books, stand.shop.symbol, stand.snapshot),
                *(_Offer(topic, stand.shop.symbol, partial(_present, topic, make)) for topic, make in data),
            ]
            yield from ((offer.topic.name, offer) for offer in offers)
        liquidations = self._liquidations
        yield liquidations.name, _Offer(liquidations, None, partial(_latest, liquidations))

    # -- what the market does, and what is due by time ---------------------------------------------

    def act(self, live: Live, sign: int, fills: list[Fill], top: bool, now: int) -> None:
        """Send trades: one for all fills of one order at one price."""
        stand = self._stands[live.listing.native]
        stand.moved = stand.moved or top
        last = live.tape.next - len(fills) - 1
        while fills:
            price = fills[0].price
            run = [fill.size for fill in fills if fill.price == price]
            fills = fills[len(run) :]  # prices only worsen, so equal ones stand together
            last += len(run)
            stand.trade(Print(last, now, price, sum(run), sign), len(run))

    def publish(self, now: int) -> None:
        """Send what has changed, each channel at its pace; of one instrument the best prices first."""
        if not self._tbt.due(now):
            return
        for stand in self._stands.values():
            if stand.bbo.groups and (stand.moved or now - stand.bbo.at >= QUIET_NS):
                stand.bbo.say(stand.best(now), now)
            stand.traded = stand.traded or stand.moved
            stand.moved = False
        if not self._fast.due(now):
            return
        for stand in self._stands.values():
            stand.update(now, anew=self.house.find("renumber", stand.shop.symbol) is not None)
            if stand.traded and stand.tickers.groups:
                stand.tickers.say(stand.day(now), now)
            stand.traded = False
        self._publish_swaps(now)

    def _publish_swaps(self, now: int) -> None:
        marks, second = self._marks.due(now), self._second.due(now)
        interests, fundings = self._interests.due(now), self._fundings.due(now)
        for each in self._swaps.values():
            swap, price = each.swap, each.shop.price
            if marks:
                each.offer(each.marks, price(round(swap.mark)), each.mark, 10 * SECOND, now)
                each.offer(each.indexes, price(round(swap.index)), each.index, QUIET_NS, now)
            if interests:
                each.offer(each.interest, swap.open_interest, each.open_interest, QUIET_NS, now)
            if fundings:
                each.offer(each.funding, None, each.rate, 0, now)
        swaps = self._swaps.values() if second else ()
        if forced := {each.shop.symbol: row for each in swaps if (row := each.liquidated())}:
            self._liquidations.say(forced)

    def _crossed(self, payload: bytes) -> bytes:
        message = msgspec.json.decode(payload)
        stand = self._stands.get(message["arg"].get("instId", ""))
        if stand is None or message["arg"]["channel"] != "books":
            return payload
        shop = stand.shop
        _, _, ask, _ = shop.live.book.top()
        message["data"][0]["bids"].insert(0, [shop.price(ask + 10).decode(), shop.size(1).decode(), "0", "1"])
        return msgspec.json.encode(message)

    # -- the socket ---------------------------------------------------------------------------------

    def open(self, _session: Session, path: str, _query: Mapping[str, str], _now: int) -> Reply | None:
        """Serve the public socket only."""
        return None if path == "/ws/v5/public" else Reply(404)

    def hurried(self, session: Session, _now: int) -> None:
        """Refuse: only subscriptions are counted here, see ``receive``."""
        self._error(session, None, "60014", "Requests too frequent")

    def announce(self, session: Session, _now: int) -> None:
        """Say that the connection will be dropped."""
        text = "The connection will soon be closed for a service upgrade. Please reconnect."
        session.out.append(self._event(session, "notice", code="64008", msg=text))

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a frame of the client: the bare ``ping``, or a request, each of its arguments by itself."""
        limits = self.house.limits
        if text == "ping":
            session.out.append(b"pong")
            return
        if len(text.encode()) > limits["request_bytes"]:
            session.close = (1009, "Request message exceeds the maximum frame length")
            return
        try:
            request = _request_decoder.decode(text)
        except msgspec.DecodeError:
            self._error(session, None, "60012", f"Invalid request: {text}")
            return
        if request.op not in ("subscribe", "unsubscribe"):
            self._error(session, request.id, "60019", f"Invalid op: {request.op}")
        elif request.id is not None and not (len(request.id) <= _MOST_ID and request.id.isalnum()):
            self._error(session, None, "60033", "Parameter id error.")
        elif session.rate.wait(now, limits["subscriptions"], limits["subscriptions_s"]):
            self._error(session, request.id, "60014", "Requests too frequent")
        elif request.args is None:
            self._error(session, request.id, "60012", f"Invalid request: {text}")
        elif not request.args:
            self._error(session, request.id, "60013", "Invalid args")
        else:
            for arg in request.args:
                self._take(session, request, arg, now)

    def _take(self, session: Session, request: _Request, arg: _Arg, now: int) -> None:
        kind = "instType" if arg.channel == "liquidation-orders" and arg.instType else "instId"
        inst = arg.instType if kind == "instType" else arg.instId
        offer = self._offers.get(f"{arg.channel}:{inst}")
        error = self._wrong(arg.channel, kind, inst, offer)
        if error is not None or offer is None:
            self._error(session, request.id, *(error or ("", "")))
            return
        reduced = {"channel": arg.channel, kind: inst or ""}
        answer = self._event(session, request.op, request.id, arg=reduced)
        late = session.number % 3 == 0  # chosen: on every third connection data comes before its answer
        answers = not self.house.find("no_ack")
        if answers and not late:
            session.out.append(answer)
        self._turn(session, request.op, offer, now)
        if answers and late:
            session.out.append(answer)

    def _turn(self, session: Session, op: str, offer: _Offer, now: int) -> None:
        if op == "unsubscribe":
            session.leave(offer.topic.name)
        elif self.house.find("silent_ack", offer.symbol):
            session.join(offer.topic.name, None)
        elif session.topics.get(offer.topic.name) is None:
            if greeting := offer.greet(now):
                session.send(offer.topic.channel, offer.symbol or "", greeting)
            session.join(offer.topic.name, offer.topic)

    def _wrong(
        self, channel: str, kind: str, inst: str | None, offer: _Offer | None
    ) -> tuple[str, str] | None:
        """Return the code and the words with which an argument is refused, None where it is not."""
        if not channel:
            return "60027", "Parameter channel can not be empty."
        if channel in _LOGIN:
            return "60011", "Please log in"
        if channel.startswith(_BUSINESS):
            words = (
                "This channel has been migrated to the '/business' URL. Please subscribe using the new URL."
            )
            return "64001", words
        hidden = offer is not None and offer.symbol is not None and self._hides(offer.symbol)
        if offer is None or hidden:
            words = f"Wrong URL or channel:{channel},{kind}:{inst} doesn't exist."
            more = "Please use the correct URL, channel and parameters referring to API document."
            return "60018", f"{words} {more}"
        return None

    def _hides(self, symbol: str) -> bool:
        return any(self.house.find(kind, symbol) for kind in ("refuse", "unlist"))

    def _error(self, session: Session, request: str | None, code: str, words: str) -> None:
        # Recorded: without an id the text comes before the code.
        said = {"msg": words, "code": code} if request is None else {"code": code, "msg": words}
        session.out.append(self._event(session, "error", request, **said))

    @staticmethod
    def _event(session: Session, event: str, request: str | None = None, **more: object) -> bytes:
        head = {} if request is None else {"id": request}
        return msgspec.json.encode({**head, "event": event, **more, "connId": f"{session.number:08x}"})

    # -- requests -----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request."""
        refusal = _failure("50011", "Too Many Requests").body
        native = query.get("instId", "")
        return self.house.answer(self._routes, path, query, now, native=native, refusal=refusal)

    def _limited(self, name: str, handler: Handler) -> Handler:
        rate = Rate()

        def answer(query: Mapping[str, str], now: int) -> Reply:
            if rate.wait(now, self.house.limits[name], self.house.limits["rest_s"]):
                return _failure("50011", "Too Many Requests", 429)
            return handler(query, now)

        return answer

    def _instruments(self, query: Mapping[str, str], _now: int) -> Reply:
        kind, only = query.get("instType", ""), query.get("instId")
        if kind not in ("SPOT", "SWAP", "FUTURES"):
            return _failure("51000", "Parameter instType error")
        rows = [
            _row(listing)
            for native, listing in self.house.listings.items()
            if (listing.contract is None) == (kind == "SPOT")
            and kind != "FUTURES"
            and only in (None, native)
            and self.house.listed(native)
        ]
        if only is not None and not rows:
            return _failure("51001", "Instrument ID does not exist")
        return _reply(*(fields(row) for row in rows))

    def _open_interest(self, query: Mapping[str, str], now: int) -> Reply:
        only = query.get("instId")
        swaps = [each for native, each in self._swaps.items() if only in (None, native)]
        return _reply(*(each.open_interest(now) for each in swaps))

    def _stand(self, query: Mapping[str, str]) -> Stand | None:
        native = query.get("instId", "")
        return None if self.house.shop(native) is None else self._stands[native]

    def _book(self, query: Mapping[str, str], now: int) -> Reply:
        stand = self._stand(query)
        if stand is None:
            return _failure("51001", "Instrument ID does not exist")
        book = stand.shop.book(None, min(DEPTH, whole(query.get("sz"), 1)))
        asks, bids = ([[p, s, "0", "1"] for p, s in side] for side in (book.asks, book.bids))
        row = {"asks": asks, "bids": bids, "ts": str(now // MS), "seqId": book.seq}
        return _reply(msgspec.json.encode(row))

    def _history(self, query: Mapping[str, str], _now: int) -> Reply:
        stand = self._stand(query)
        if stand is None:
            return _failure("51001", "Instrument ID does not exist")
        if query.get("type", "1") != "1":
            return _failure("51000", "Parameter type error")  # by time: nobody here asks so
        tape = stand.shop.live.tape
        limit = min(100, whole(query.get("limit"), 100))
        after = min(whole(query.get("after"), tape.next), tape.next)
        trades = stand.shop.trades(after - limit, after - 1)
        return _reply(*(_past(stand.shop, trade) for trade in reversed(trades)))


def _latest(topic: Said | Liquidations, _now: int) -> bytes:
    return topic.last


def _present(topic: Said, make: Callable[[int], bytes], now: int) -> bytes:
    return topic.framed(make(now))


def _past(shop: Shop, trade: TrueTrade) -> bytes:
    return fields(
        {
            "instId": shop.native,
            "side": trade.aggressor.encode(),
            "sz": trade.size.encode(),
            "source": b"0",
            "px": trade.price.encode(),
            "tradeId": trade.id.encode(),
            "ts": b"%d" % (trade.ts // MS),
        }
    )


def _row(listing: Listing) -> dict[str, bytes]:
    contract = listing.contract
    linear = contract is not None and contract.kind == "linear"
    base, quote = listing.base.encode(), listing.quote.encode()
    family = b"" if contract is None else base + b"-" + quote
    return {
        "instType": b"SPOT" if contract is None else b"SWAP",
        "instId": listing.native.encode(),
        "baseCcy": base if contract is None else b"",
        "quoteCcy": quote if contract is None else b"",
        "uly": family,
        "instFamily": family,
        "settleCcy": b"" if contract is None else quote if linear else base,
        "ctType": b"" if contract is None else contract.kind.encode(),
        "ctVal": b"" if contract is None else contract.size.encode(),
        "ctMult": b"" if contract is None else b"1",
        "ctValCcy": b"" if contract is None else base if linear else quote,
        "tickSz": listing.price_step.encode(),
        "lotSz": listing.size_step.encode(),
        "minSz": listing.size_step.encode(),
        "state": b"live" if listing.trading else b"suspend",
    }


def _reply(*rows: bytes) -> Reply:
    return Reply(200, b'{"code":"0","msg":"","data":[' + b",".join(rows) + b"]}")


def _failure(code: str, words: str, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode({"code": code, "msg": words, "data": []}))


serve = Okx
