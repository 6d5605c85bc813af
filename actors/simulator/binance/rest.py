"""Binance's REST answers for market data, and its budget.

Source: Binance spot API documents (rest-api, errors), read 2026-07.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from actors.simulator.binance.gateway import retry_after
from actors.simulator.binance.listings import MS, NAME, SECOND, exchange_info
from actors.simulator.binance.shop import Shop, rest_trade
from actors.simulator.faults import Faults
from actors.simulator.market import Listing
from actors.simulator.venue import Reply


def _error(status: int, code: int, message: str) -> Reply:
    return Reply(status, msgspec.json.encode({"code": code, "msg": message}))


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
        body = msgspec.json.encode({"code": -1003, "msg": message})
        return Reply(status, body, retry_after(-((now - until) // SECOND)))


def _depth_weight(query: Mapping[str, str]) -> int:
    limit = _whole(query.get("limit"), 100)
    return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250


def _whole(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else default


def refused(faults: Faults, path: str, symbol: str | None) -> Reply | None:
    """Return how a fault refuses a request; status 0: it is only to be late."""
    if fault := faults.find("maintenance", NAME):
        return Reply(503, b"", retry_after(fault.retry_after_s))
    fault = faults.find("rest", NAME, symbol, path)
    if fault is None:
        return None
    body = _error(fault.status, -1003, "The simulator was told to refuse.").body
    return Reply(fault.status, body, retry_after(fault.retry_after_s), fault.delay_s)


class Rest:
    """Answers requests about the listings of one market."""

    def __init__(
        self,
        listings: Sequence[Listing],
        shops: Mapping[str, Shop],
        faults: Faults,
        limits: Mapping[str, float],
    ) -> None:
        self._listings = {listing.native: listing for listing in listings}
        self._shops = shops  # by native symbol
        self._faults = faults
        self._limits = limits
        self._weights = Weights(limits)
        self._routes: dict[str, tuple[Callable[[Mapping[str, str], int], Reply], int | None]] = {
            "/api/v3/ping": (self._ping, 1),
            "/api/v3/time": (self._time, 1),
            "/api/v3/exchangeInfo": (self._exchange_info, 20),
            "/api/v3/depth": (self._depth, None),  # by its limit
            "/api/v3/trades": (self._trades, 25),
            "/api/v3/historicalTrades": (self._trades, 25),
        }

    def answer(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer a request, within the weight limit."""
        listing = self._listings.get(query.get("symbol", ""))
        refusal = refused(self._faults, path, listing.symbol if listing else None)
        if refusal is not None and refusal.status:
            return refusal
        route = self._routes.get(path)
        if route is None:
            return Reply(404, b"")
        handler, weight = route
        answer = self._weights.spend(weight or _depth_weight(query), now) or handler(query, now)
        headers = {**answer.headers, "X-MBX-USED-WEIGHT": str(self._weights.used)}
        headers["X-MBX-USED-WEIGHT-1M"] = headers["X-MBX-USED-WEIGHT"]
        return msgspec.structs.replace(answer, headers=headers, delay_s=refusal.delay_s if refusal else 0.0)

    def _ping(self, _query: Mapping[str, str], _now: int) -> Reply:
        return Reply(200, b"{}")

    def _time(self, _query: Mapping[str, str], now: int) -> Reply:
        return Reply(200, b'{"serverTime":%d}' % (now // MS))

    def _listed(self, native: str) -> Listing | None:
        listing = self._listings.get(native)
        if listing is None or self._faults.find("unlist", NAME, listing.symbol):
            return None
        return listing

    def _exchange_info(self, query: Mapping[str, str], now: int) -> Reply:
        wanted: list[str] = list(self._listings)
        if "symbol" in query:
            wanted = [query["symbol"]]
        elif "symbols" in query:
            try:
                wanted = msgspec.json.decode(query["symbols"], type=list[str])
            except msgspec.DecodeError:
                return _error(400, -1100, "Illegal characters found in parameter 'symbols'.")
        elif query.get("symbolStatus"):
            trading = query["symbolStatus"] == "TRADING"
            wanted = [native for native, each in self._listings.items() if each.trading == trading]
        named = "symbol" in query or "symbols" in query
        found = [listing for native in wanted if (listing := self._listed(native))]
        if named and len(found) != len(wanted):
            return _error(400, -1121, "Invalid symbol.")
        return Reply(200, exchange_info(found, self._limits["weight_per_minute"], now))

    def _shop(self, query: Mapping[str, str]) -> Shop | Reply:
        native = query.get("symbol", "")
        if not native:
            message = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            return _error(400, -1102, message)
        shop = self._shops.get(native)
        if shop is None or self._listed(native) is None:
            return _error(400, -1121, "Invalid symbol.")
        return shop

    def _depth(self, query: Mapping[str, str], _now: int) -> Reply:
        shop = self._shop(query)
        if isinstance(shop, Reply):
            return shop
        limit = min(5000, _whole(query.get("limit"), 100) or 100)
        book = shop.live.book
        if fault := self._faults.find("stale_snapshot", NAME, shop.live.listing.symbol):
            sequence = max(book.oldest, book.sequence - fault.back)
            return Reply(200, shop.snapshot(sequence, book.at(sequence, limit)))
        return Reply(200, shop.snapshot(book.sequence, book.depth(limit)))

    def _trades(self, query: Mapping[str, str], _now: int) -> Reply:
        shop = self._shop(query)
        if isinstance(shop, Reply):
            return shop
        limit = min(1000, _whole(query.get("limit"), 500) or 500)
        tape = shop.live.tape
        first = _whole(query.get("fromId"), tape.next - limit)
        first = max(first, tape.first)
        return Reply(
            200, b"[" + b",".join(rest_trade(shop, t) for t in tape.read(first, first + limit - 1)) + b"]"
        )
