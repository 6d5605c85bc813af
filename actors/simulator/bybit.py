"""Bybit v5 as a server: the public socket of one category, and the REST beside it.

``bybit`` serves spot; ``bybit_linear`` is the same server with another ``Category``. Numbers in ``LIMITS``
and all wording are the documented or recorded ones, except where a comment says chosen.

Source: bybit-exchange/docs v5 as of 2026-07; captures of 2024 to 2026.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from actors.model.events import MS, SECOND
from actors.simulator.bybit_stands import DEPTHS, SPOT, Category, Stand
from actors.simulator.faults import Faults
from actors.simulator.house import Handler, House, whole
from actors.simulator.listings import pick
from actors.simulator.market import Fill, Listing, Live, Market
from actors.simulator.session import Every, Rate, Reply, Session

NAME: Final = "bybit"
LIMITS: Final[dict[str, float]] = {
    "connects": 500,
    "connects_s": 300,
    "connections": 1000,
    "characters": 21_000,  # of a connection's topics together
    "idle_s": 600,
    "requests": 600,  # REST
    "requests_s": 5,
    "banned_s": 600,
    "page": 1000,  # most instruments of a page
}
_STEPS: Final = {
    "BTC-USDT": ("0.1", "0.000001"),
    "ETH-USDT": ("0.01", "0.00001"),
    "SOL-USDT": ("0.01", "0.001"),
    "XRP-USDT": ("0.0001", "0.01"),
    "DOGE-USDT": ("0.00001", "0.1"),
    "ADA-USDT": ("0.0001", "0.01"),
    "LTC-USDT": ("0.01", "0.00001"),
    "LINK-USDT": ("0.001", "0.001"),
    "AVAX-USDT": ("0.01", "0.001"),
    "FLR-USDT": ("0.00001", "0.01"),
    "BTC-USDC": ("0.01", "0.000001"),
    "USDC-USDT": ("0.0001", "0.01"),
    "ETH-BTC": ("0.000001", "0.0001"),
    "BTC-TUSD": ("0.01", "0.000001"),
}
LISTINGS: Final = pick(NAME, lambda symbol: symbol.replace("-", ""), _STEPS, steps=_STEPS, pace=0.5)


class _Request(msgspec.Struct):
    op: str
    args: list[str] = []
    req_id: str | int | None = None


class Bybit:
    """Publishes what the market does, answers the socket and requests."""

    def __init__(
        self,
        market: Market,
        faults: Faults,
        now: int,
        listings: Sequence[Listing] = LISTINGS,
        *,
        name: str = NAME,
        category: Category = SPOT,
    ) -> None:
        self.house = House(name, LIMITS, faults, listings, market, trim=category.trim)
        self.edits = {"crossed": _crossed}
        self._category = category
        self._stands = {native: Stand(shop, category) for native, shop in self.house.shops.items()}
        self._offers = {name: each for s in self._stands.values() for name, each in s.offers().items()}
        self._streams = {name.rpartition(".")[0] for name in self._offers}
        self._tops = Every(10 * MS, now)
        self._books = {levels: Every(ms * MS, now) for levels, ms in DEPTHS.items()}
        self._tickers, self._forced = Every(category.ticker_ms * MS, now), Every(500 * MS, now)
        self._requests = Rate()
        self._banned_until = 0
        self._routes: dict[str, Handler] = {
            "/v5/market/instruments-info": self._instruments,
            "/v5/market/orderbook": self._orderbook,
            "/v5/market/open-interest": self._open_interest,
        }
        market.sinks[name] = self._act

    # -- what the market does, and what is due by time ---------------------------------------------

    def _act(self, live: Live, _sign: int, fills: list[Fill], top: bool, now: int) -> None:
        stand = self._stands[live.listing.native]
        stand.moved = stand.moved or top
        if fills:
            stand.traded(len(fills), now)

    def publish(self, now: int) -> None:
        """Send what has changed, each topic at its pace."""
        if not self._tops.due(now):
            return
        stands = self._stands.values()
        for stand in stands:
            stand.tell_top(now)
        for levels, every in self._books.items():
            if every.due(now):
                for stand in stands:
                    book = stand.books[levels]
                    anew = book.topic.groups and self.house.find("renumber", stand.shop.symbol)
                    book.tell(now, anew=bool(anew))
        if self._tickers.due(now):
            for stand in stands:
                stand.tell_ticker(now)
        if self._forced.due(now):
            for stand in stands:
                stand.tell_liquidations(now)

    # -- the socket ---------------------------------------------------------------------------------

    def open(self, _session: Session, path: str, _query: Mapping[str, str], _now: int) -> Reply | None:
        """Serve the public socket of the category, to so many at once."""
        if path != f"/v5/public/{self._category.name}":
            return Reply(404)
        return Reply(403) if len(self.house.sessions) > self.house.limits["connections"] else None

    def hurried(self, session: Session, _now: int) -> None:
        """Say nothing: messages are not counted."""

    def announce(self, session: Session, _now: int) -> None:
        """Say nothing: the venue has no words for it."""

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a request: all of its topics are subscribed, or none."""
        try:
            request = msgspec.json.decode(text, type=_Request)
        except msgspec.DecodeError:
            self._answer(session, _Request(""), "Invalid request")  # chosen: the words
            return
        if request.op == "ping":
            self._answer(session, _Request("ping"))
        elif request.op not in ("subscribe", "unsubscribe"):
            self._answer(session, request, "Invalid op")  # chosen: the words
        elif error := self._wrong(session, request):
            self._answer(session, request, error)
        else:
            answers = not self.house.find("no_ack")
            if answers and not self._category.data_first:
                self._answer(session, request)
            for topic in request.args:
                self._take(session, request.op, topic, now)
            if answers and self._category.data_first:
                self._answer(session, request)

    def _answer(self, session: Session, request: _Request, error: str | None = None) -> None:
        words = "pong" if request.op == "ping" else request.op if self._category.numbered else ""
        number = f"{session.number:012x}"
        answer: dict[str, object] = {"success": error is None, "ret_msg": error or words}
        answer |= {"conn_id": f"{number[:8]}-{number[8:]}-4000-8000-{number}"}
        if not self._category.numbered:
            answer |= {} if error else {"req_id": ""}
        elif request.req_id is not None:
            answer["req_id"] = str(request.req_id)
        session.out.append(msgspec.json.encode(answer | {"op": request.op}))

    def _wrong(self, session: Session, request: _Request) -> str | None:
        """Return why a request fails as a whole, None where it does not."""
        most = self._category.most_args
        if most is not None and len(request.args) > most:
            return f"args size >{most}"  # chosen: the words
        if request.op == "unsubscribe":
            return None
        if sum(map(len, (*session.topics, *request.args))) > self.house.limits["characters"]:
            return "args length too long"  # chosen: the words
        return next(filter(None, (self._refusal(session, topic) for topic in request.args)), None)

    def _refusal(self, session: Session, topic: str) -> str | None:
        if topic.rpartition(".")[0] not in self._streams:
            return f"Invalid topic: {topic}"
        offer = self._offers.get(topic)
        if offer is None or any(self.house.find(kind, offer[0].symbol) for kind in ("refuse", "unlist")):
            return self._category.unknown.format(topic)
        return f"error:already subscribed,topic:{topic}" if topic in session.topics else None

    def _take(self, session: Session, op: str, name: str, now: int) -> None:
        if op == "unsubscribe":
            session.leave(name)
            return
        topic, greet = self._offers[name]
        if self.house.find("silent_ack", topic.symbol):
            session.join(name, None)
            return
        if greeting := greet(now):
            session.send(topic.channel, topic.symbol, greeting)
        session.join(name, topic)

    # -- requests -----------------------------------------------------------------------------------

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request; who asks too often gets nothing for ten minutes."""
        limits = self.house.limits
        if now >= self._banned_until and self._requests.wait(now, limits["requests"], limits["requests_s"]):
            self._banned_until = now + int(limits["banned_s"] * SECOND)
        if now < self._banned_until:
            return Reply(403, b"access too frequent")
        refusal = _failure(10006, "Too many visits!").body
        native = query.get("symbol", "")
        return self.house.answer(self._routes, path, query, now, native=native, refusal=refusal)

    def _instruments(self, query: Mapping[str, str], _now: int) -> Reply:
        category = self._category.name
        if query.get("category") != category:
            return _failure(10001, "params error: Category is invalid")
        only = query.get("symbol")
        rows = [
            self._category.row(listing)
            for native, listing in self.house.listings.items()
            if listing.trading and only in (None, native) and self.house.listed(native)
        ]
        if self._category.paged:
            after = dict(parse_qsl(unquote(query.get("cursor", "")))).get("last", "")
            names = [str(row["symbol"]) for row in rows]
            begin = names.index(after) + 1 if after in names else 0
            end = begin + int(max(1, min(self.house.limits["page"], whole(query.get("limit"), 500))))
            cursor = quote(f"first={names[begin]}&last={names[end - 1]}") if end < len(names) else ""
            return _result({"category": category, "list": rows[begin:end], "nextPageCursor": cursor})
        return _result({"category": category, "list": rows})

    def _stand(self, query: Mapping[str, str]) -> Stand | None:
        native = query.get("symbol", "")
        known = query.get("category") == self._category.name and self.house.shop(native) is not None
        return self._stands[native] if known else None

    def _orderbook(self, query: Mapping[str, str], now: int) -> Reply:
        stand = self._stand(query)
        if stand is None:
            return _failure(10001, "params error: Symbol Invalid")
        return _result(stand.book(whole(query.get("limit"), self._category.book_limit), now))

    def _open_interest(self, query: Mapping[str, str], now: int) -> Reply:
        stand = self._stand(query)
        swap = None if stand is None else stand.shop.live.perpetual
        if stand is None or swap is None:
            return _failure(10001, "params error: Symbol Invalid")
        single, both = (stand.shop.size(n * swap.open_interest).decode() for n in (1, 2))
        row = {"openInterest": both, "singleOpenInterest": single, "timestamp": str(now // MS)}
        return _result({"symbol": query["symbol"], "category": self._category.name, "list": [row]})


def _result(result: Mapping[str, object]) -> Reply:
    return Reply(200, msgspec.json.encode({"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}}))


def _failure(code: int, words: str) -> Reply:
    return Reply(200, msgspec.json.encode({"retCode": code, "retMsg": words, "result": {}, "retExtInfo": {}}))


def _crossed(payload: bytes) -> bytes:
    head, bids, rest = payload.partition(b'"b":[')
    return head + bids + b'["99999999","1"]' + (b"" if rest[:1] == b"]" else b",") + rest


serve = Bybit
