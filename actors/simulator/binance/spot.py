"""The venue: publishes what the market does, answers requests, knows the truth."""

from collections.abc import Sequence
from functools import partial

import msgspec

from actors.simulator.binance.gateway import Encode, Gateway, Stream
from actors.simulator.binance.listings import LIMITS, LISTINGS, MS, NAME, SECOND
from actors.simulator.binance.rest import Rest
from actors.simulator.binance.shop import Shop, mini, ticker
from actors.simulator.book import Levels
from actors.simulator.faults import Faults
from actors.simulator.market import Fill, Fixed, Listing, Live, Market
from actors.simulator.venue import TrueTrade, Truth


class Binance:
    """The venue: publishes what the market does, answers requests, knows the truth."""

    name = NAME

    def __init__(
        self, market: Market, faults: Faults, now: int, listings: Sequence[Listing] = LISTINGS
    ) -> None:
        self.limits = dict(LIMITS)
        self.edits = {"crossed": self._crossed}
        self._shops = {live.listing.native: Shop(live) for live in market.of(NAME)}
        self._by_symbol = {shop.live.listing.symbol: shop for shop in self._shops.values()}
        self._all = Stream("!miniTicker@arr", "ticker", "")
        streams = {stream.name: stream for shop in self._shops.values() for stream in shop.streams()}
        streams[self._all.name] = self._all
        self.gateway = Gateway(streams, faults, self.limits)
        self.rest = Rest(listings, self._shops, faults, self.limits).answer
        self._fast_at = self._slow_at = now
        self.accept = self.gateway.accept
        self.receive = self.gateway.receive
        self.heartbeat = self.gateway.heartbeat
        self.closed = self.gateway.closed
        self.announce = self.gateway.announce
        market.sinks[NAME] = self._act

    # -- what the market does --------------------------------------------------------------------

    def _act(self, live: Live, sign: int, fills: list[Fill], top: bool, now: int) -> None:
        shop = self._shops[live.listing.native]
        if fills:
            if shop.trade.groups:
                self._send_trades(shop, sign, fills, now)
            if shop.agg.groups:
                self._send_aggregates(shop, sign, fills, now)
        if top and shop.top.groups:
            bid, bid_size, ask, ask_size = live.book.top()
            price, size = shop.price, shop.size
            payload = b'{"u":%d,"s":"%b","b":"%b","B":"%b","a":"%b","A":"%b"}' % (
                live.book.sequence, shop.native, price(bid), size(bid_size), price(ask), size(ask_size),
            )  # fmt: skip
            shop.top.send(lambda _unit: payload)

    def _send_trades(self, shop: Shop, sign: int, fills: list[Fill], now: int) -> None:
        trade_id = shop.live.tape.next - len(fills)
        maker = b"true" if sign < 0 else b"false"
        for unit, (wrapped, bare) in shop.trade.groups.items():
            ts = now // unit
            for n, fill in enumerate(fills):
                payload = b'{"e":"trade","E":%d,"s":"%b","t":%d,"p":"%b","q":"%b","T":%d,"m":%b,"M":true}' % (
                    ts, shop.native, trade_id + n, shop.price(fill.price), shop.size(fill.size), ts, maker,
                )  # fmt: skip
                if wrapped:
                    shop.trade.deliver(wrapped, shop.trade.head + payload + b"}")
                if bare:
                    shop.trade.deliver(bare, payload)

    def _send_aggregates(self, shop: Shop, sign: int, fills: list[Fill], now: int) -> None:
        first = shop.live.tape.next - len(fills)
        maker = b"true" if sign < 0 else b"false"
        while fills:
            price = fills[0].price
            run = [fill.size for fill in fills if fill.price == price]
            fills = fills[len(run) :]  # prices only worsen, so equal ones stand together
            last = first + len(run) - 1
            tail = b'"s":"%b","a":%d,"p":"%b","q":"%b","f":%d,"l":%d' % (
                shop.native, shop.aggregate, shop.price(price), shop.size(sum(run)), first, last,
            )  # fmt: skip
            shop.aggregate += 1
            shop.agg.send(partial(_aggregate, now, tail, maker))
            first = last + 1

    # -- what is due by time ---------------------------------------------------------------------

    def publish(self, now: int) -> None:
        """Send depth every 100 or 1000 ms and tickers every 1000 ms."""
        if now < self._fast_at:
            return
        self._fast_at = now - now % (100 * MS) + 100 * MS
        slow = now >= self._slow_at
        if slow:
            self._slow_at = now - now % SECOND + SECOND
        for shop in self._shops.values():
            self.send_depth(shop.live.listing.symbol, now)
            for stream, levels, fast in shop.partials:
                if stream.groups and (fast or slow):
                    self._send_partial(shop, stream, levels)
            if slow:
                self._send_diff(shop, shop.slow, now)
                self._send_day(shop, now)
        if slow and self._all.groups:
            self._send_all(now)

    def send_depth(self, symbol: str, now: int) -> None:
        """Send what changed in a book since the last time, to ``@depth@100ms``."""
        shop = self._by_symbol[symbol]
        self._send_diff(shop, shop.fast, now)

    def _send_diff(self, shop: Shop, stream: Stream, now: int) -> None:
        book = shop.live.book
        since, shop.sent[stream] = shop.sent[stream], book.sequence
        if not stream.groups or since == book.sequence:
            return
        changed = book.changed(max(since, book.oldest))
        bids, asks = shop.rows(changed.bids), shop.rows(changed.asks)
        stream.send(
            lambda unit: (
                b'{"e":"depthUpdate","E":%d,"s":"%b","U":%d,"u":%d,"b":%b,"a":%b}'
                % (now // unit, shop.native, since + 1, book.sequence, bids, asks)
            )
        )

    def _send_partial(self, shop: Shop, stream: Stream, levels: int) -> None:
        sequence = shop.live.book.sequence
        if shop.shown.get(stream) == sequence:
            return
        shop.shown[stream] = sequence
        payload = shop.snapshot(sequence, shop.live.book.depth(levels))
        stream.send(lambda _unit: payload)

    def _send_day(self, shop: Shop, now: int) -> None:
        if shop.mini.groups and (day := mini(shop, now)):
            shop.mini.send(day)
        if shop.ticker.groups and (day := ticker(shop, now)):
            shop.ticker.send(day)

    def _send_all(self, now: int) -> None:
        minis: list[Encode] = []
        for shop in self._shops.values():
            if shop.told != shop.live.tape.next and (day := mini(shop, now)):
                minis.append(day)
            shop.told = shop.live.tape.next
        if not minis:
            return
        self._all.send(lambda unit: b"[" + b",".join([day(unit) for day in minis]) + b"]")

    # -- the truth -------------------------------------------------------------------------------

    def truths(self) -> dict[str, Truth]:
        """Return what there is to be asked, by canonical symbol."""
        return {
            symbol: Truth(
                shop.live.book.oldest, shop.live.book.sequence, shop.live.tape.first, shop.live.tape.next
            )
            for symbol, shop in self._by_symbol.items()
        }

    def book(self, symbol: str, sequence: int | None, most: int | None) -> tuple[int, Levels, Fixed, Fixed]:
        """Return a book as it was at a sequence, see ``venue.Venue``."""
        shop = self._by_symbol[symbol]
        book = shop.live.book
        if sequence is None:
            return book.sequence, book.depth(most), shop.price, shop.size
        return sequence, book.at(sequence, most), shop.price, shop.size

    def trades(self, symbol: str, first: int, last: int) -> list[TrueTrade]:
        """Return trades of the tape by id, both ends included."""
        shop = self._by_symbol[symbol]
        return [
            TrueTrade(
                id=str(trade.id),
                ts=trade.ts,
                price=shop.price(trade.price).decode(),
                size=shop.size(trade.size).decode(),
                aggressor="buy" if trade.sign > 0 else "sell",
            )
            for trade in shop.live.tape.read(first, last)
        ]

    def snapshot(self, symbol: str, limit: int = 1000) -> bytes:
        """Return the body of ``/api/v3/depth`` as it would be now."""
        shop = self._by_symbol[symbol]
        return shop.snapshot(shop.live.book.sequence, shop.live.book.depth(limit))

    def _crossed(self, payload: bytes) -> bytes:
        message = msgspec.json.decode(payload)
        data = message.get("data", message)
        shop = self._shops.get(data.get("s", ""))
        if shop is None or "b" not in data or "U" not in data:
            return payload
        _, _, ask, _ = shop.live.book.top()
        data["b"].insert(0, [shop.price(ask + 10).decode(), shop.size(1).decode()])
        return msgspec.json.encode(message)


def _aggregate(now: int, middle: bytes, maker: bytes, unit: int) -> bytes:
    ts = now // unit
    return b'{"e":"aggTrade","E":%d,%b,"T":%d,"m":%b,"M":true}' % (ts, middle, ts, maker)
