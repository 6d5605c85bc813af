"""Coinbase Exchange: trades, level2_batch books and the 24 h ticker over one socket.

Limits: 8 connection attempts a second; the first subscription within 5 s; no more than 10 messages a second
from us. A snapshot is the whole book, several MB of a large market.
Quirks: ``side`` of a match is the *maker's*, of a ticker the taker's; nothing numbers the books, so each is
now and then compared with what REST gives, which in an auction is something else; a removal is written ``0``,
``0.0``, ``0.00`` ...; each request is answered by the list of all that is subscribed, under names of the
venue's choice (``level2_50``); one product that does not exist fails its whole request, hence one product a
request; ``last_match`` is the trade before the subscription, no news; matches can be dropped, which the
``last_trade_id`` of their product's heartbeat shows; a product whose heart does not beat is dead, be the
connection alive.
Kept are the best 1,000 levels a side, whatever the snapshot holds.

Source: docs.cdp.coinbase.com, Exchange: WebSocket channels, rate limits, REST products, product book, trades,
pagination; as of 2026-07. Read against captures of 2021 to 2026.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Literal
from urllib.parse import urlencode

import msgspec

from actors.model.decimals import price_text, sides_text, size_text, trade_text
from actors.model.errors import Unparseable
from actors.model.events import Aggressor, BookDelta, BookSnapshot, Channel, Event, Level, Ticker, Trade
from actors.model.instruments import Instrument, Unusable
from actors.venues.base import (
    Acked,
    Answer,
    BookRule,
    Decoded,
    Endpoints,
    Ignored,
    Item,
    Latest,
    Limits,
    Refused,
    Request,
    Scratch,
    Subscription,
    Venue,
    decoding,
    items_of,
    read,
)
from actors.venues.common import (
    Id,
    Op,
    Time,
    asked_as,
    asked_for,
    asking,
    date_ns,
    grouped,
    item_of,
    planner,
    price_or_none,
    rows_of,
    spot,
    symbol_of,
)

NAME: Final = "coinbase"
LEVELS: Final = 1000  # chosen: what is kept of the tens of thousands that a book has
AUDIT_S: Final = 600  # chosen: a book of a large market is several MB
BACKFILL_MOST: Final = 1000  # documented: most rows of a page
STREAMS: Final[dict[Channel, str]] = {"book": "level2_batch", "trade": "matches", "ticker": "ticker"}

_Side = Literal["buy", "sell"]
_TAKER: Final[dict[_Side, Aggressor]] = {"buy": "sell", "sell": "buy"}  # by the maker's side


class _Match(msgspec.Struct, gc=False):
    trade_id: Id  # one above the product's last
    side: _Side  # the maker's
    size: str  # base currency
    price: str  # quote currency a unit of base
    product_id: str
    sequence: Id  # of all that happens in the product: gaps mean nothing here
    time: Time


class _Snapshot(msgspec.Struct):
    product_id: str
    asks: list[Level]
    bids: list[Level]
    time: Time | None = None


class _Update(msgspec.Struct, gc=False):
    product_id: str
    changes: list[tuple[_Side, str, str]]  # "buy" is a bid; price, absolute size
    time: Time | None = None


class _Ticker(msgspec.Struct, gc=False):
    product_id: str
    price: str
    open_24h: str
    high_24h: str
    low_24h: str
    volume_24h: str  # base currency
    sequence: Id | None = None
    time: Time | None = None


class _Heartbeat(msgspec.Struct):
    product_id: str
    last_trade_id: Id


class _LastMatch(msgspec.Struct):
    product_id: str
    trade_id: Id


class _Subscribed(msgspec.Struct):
    name: str
    product_ids: list[str]


class _Subscriptions(msgspec.Struct):
    channels: list[_Subscribed]


class _Error(msgspec.Struct):
    message: str
    reason: str = ""


class _Bare(msgspec.Struct):
    type: str


class _PastTrade(msgspec.Struct):
    trade_id: Id
    side: _Side  # the maker's
    size: str
    price: str
    time: Time


class _Book(msgspec.Struct):
    bids: list[tuple[str, str, int]]  # price, size, how many orders
    asks: list[tuple[str, str, int]]
    time: Time | None = None
    auction_mode: bool = False  # then all of it is indicative


class _Product(msgspec.Struct):
    id: str
    base_currency: str
    quote_currency: str
    status: str
    trading_disabled: bool = False
    quote_increment: str | None = None
    base_increment: str | None = None


_past_trades_decoder = msgspec.json.Decoder(list[_PastTrade])
_book_decoder = msgspec.json.Decoder(_Book)
_products_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def _trade(
    t: _Match | _PastTrade, symbol: str, seq: int | None, scratch: Scratch, *, backfilled: bool = False
) -> Trade:
    at, recv, number = date_ns(t.time), scratch.recv, str(t.trade_id)
    price, size = trade_text(t.price, t.size)
    return Trade(NAME, symbol, at, recv, seq, number, price, size, _TAKER[t.side], backfilled=backfilled)


def _match(match: _Match, scratch: Scratch) -> list[Decoded]:
    return [_trade(match, symbol_of(match.product_id, scratch), match.sequence, scratch)]


def _last_match(last: _LastMatch, scratch: Scratch) -> list[Decoded]:
    return [Ignored("history"), Latest(symbol_of(last.product_id, scratch), last.trade_id)]


def _heartbeat(beat: _Heartbeat, scratch: Scratch) -> list[Decoded]:
    return [Ignored("heartbeat"), Latest(symbol_of(beat.product_id, scratch), beat.last_trade_id)]


def _best(levels: list[Level], *, descending: bool) -> list[Level]:
    """Return the best levels, best first: to keep them all would cost megabytes every ten seconds."""
    if len(levels) <= LEVELS:
        return levels
    return sorted(levels, key=lambda level: float(level[0]), reverse=descending)[:LEVELS]


def _snapshot(book: _Snapshot, scratch: Scratch) -> list[Decoded]:
    bids, asks, bad = _sides(book.bids, book.asks)  # before the cut: fewer than LEVELS are a whole side
    bids, asks = _best(bids, descending=True), _best(asks, descending=False)
    symbol, at = symbol_of(book.product_id, scratch), date_ns(book.time)
    return [BookSnapshot(NAME, symbol, at, scratch.recv, None, scratch.conn, bids, asks), *bad]


def _update(book: _Update, scratch: Scratch) -> list[Decoded]:
    bids: list[Level] = []
    asks: list[Level] = []
    for side, price, size in book.changes:
        (bids if side == "buy" else asks).append((price, size))
    bids, asks, bad = _sides(bids, asks)
    symbol, at = symbol_of(book.product_id, scratch), date_ns(book.time)
    return [BookDelta(NAME, symbol, at, scratch.recv, None, scratch.conn, bids, asks), *bad]


def _sides(bids: list[Level], asks: list[Level]) -> tuple[list[Level], list[Level], list[Ignored]]:
    """Return both sides as plain decimal text, and a word for each level that was left out."""
    try:
        bids, asks = sides_text(bids, asks)
    except Unparseable:  # rarely a size is no number, and only that level is wrong
        told = len(bids) + len(asks)
        bids, asks = _sound(bids), _sound(asks)
        return bids, asks, [Ignored("bad_level")] * (told - len(bids) - len(asks))
    return bids, asks, []


def _sound(levels: list[Level]) -> list[Level]:
    sound: list[Level] = []
    for price, size in levels:
        checked = price_text(price)
        try:
            sound.append((checked, size_text(size)))
        except Unparseable:
            continue  # counted by its absence
    return sound


def _ticker(t: _Ticker, scratch: Scratch) -> list[Decoded]:
    symbol, at, volume = symbol_of(t.product_id, scratch), date_ns(t.time), size_text(t.volume_24h)
    last, first = price_or_none(t.price), price_or_none(t.open_24h)
    high, low = price_or_none(t.high_24h), price_or_none(t.low_24h)
    return [Ticker(NAME, symbol, at, scratch.recv, t.sequence, last, first, high, low, volume)]


def _subscriptions(told: _Subscriptions, scratch: Scratch) -> list[Decoded]:
    """Return what is new, and what is gone, of the list of all that is subscribed."""
    known = (item_of(_channel(c.name), name, scratch) for c in told.channels for name in c.product_ids)
    now = dict.fromkeys(item for item in known if item is not None)
    before = dict.fromkeys(msgspec.convert(scratch.memory.get("subscribed", []), list[Item]))
    scratch.memory["subscribed"] = [list(item) for item in now]
    new, gone = [i for i in now if i not in before], [i for i in before if i not in now]
    said: list[Decoded] = [Acked(items=new)] if new else []
    if gone:
        said.append(Acked(items=gone, op="unsubscribe"))
    return said or [Ignored("answer")]


def _channel(name: str) -> Channel | None:
    if name.startswith("level2"):  # level2_batch is answered as level2_50
        return "book"
    return "trade" if name == "matches" else "ticker" if name == "ticker" else None


_no_product = re.compile(r"(\S{1,40}) is not a valid product").match


def _error(error: _Error, scratch: Scratch) -> list[Decoded]:
    reason = f"{error.message}: {error.reason}"[:200]
    named = _no_product(error.reason)
    known = None if named is None else scratch.instruments.get(named[1])
    return [Refused(reason, items=None if known is None else items_of([known.symbol], STREAMS))]


def _status(_frame: bytes, _scratch: Scratch) -> list[Decoded]:
    return [Ignored("status")]


_OPENING: Final = b'{"type":"'
_NAME: Final = len(_OPENING)
_TYPES: Final[dict[bytes, Callable[[bytes, Scratch], list[Decoded]]]] = {
    b"l2update": decoding("l2update", _Update, _update, channel="book"),
    b"match": decoding("match", _Match, _match, channel="trade"),
    b"ticker": decoding("ticker", _Ticker, _ticker, channel="ticker"),
    b"heartbeat": decoding("heartbeat", _Heartbeat, _heartbeat, channel="trade"),
    b"snapshot": decoding("snapshot", _Snapshot, _snapshot, channel="book"),
    b"last_match": decoding("last_match", _LastMatch, _last_match, channel="trade"),
    b"subscriptions": decoding("subscriptions", _Subscriptions, _subscriptions),
    b"error": decoding("error", _Error, _error),
    b"status": _status,
}
_OPENINGS: Final = {_OPENING + name: decoder for name, decoder in _TYPES.items()}
_bare_decoder = msgspec.json.Decoder(_Bare)


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says; one of a known type is decoded in one pass.

    Raises:
        Unparseable: It does not mean what its type promises, or is no frame of this venue.
    """
    known = _OPENINGS.get(frame[: frame.find(b'"', _NAME)])
    if known is None:
        known = _TYPES.get(read("frame", _bare_decoder, frame).type.encode(errors="replace"))
    return [Ignored("unknown_channel")] if known is None else known(frame, scratch)


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the trades of the range that was asked for, in order of their ids; or the book, if it is one.

    Raises:
        Unparseable: The body is not what its request promises.
    """
    if answer.request.op == "audit":
        return _audit(*asked_as("audit", answer), scratch)
    symbol, body = asked_as("backfill", answer)
    found = asked_for(read("trades", _past_trades_decoder, body), answer.request, lambda row: row.trade_id)
    return [_trade(row, symbol, None, scratch, backfilled=True) for row in found]


def _audit(symbol: str, body: bytes, scratch: Scratch) -> list[Event]:
    book = read("book", _book_decoder, body)
    if book.auction_mode:
        return []
    bids, asks, _ = _sides([row[:2] for row in book.bids], [row[:2] for row in book.asks])
    bids, asks = _best(bids, descending=True), _best(asks, descending=False)
    head = (NAME, symbol, date_ns(book.time), scratch.recv, None, scratch.conn)
    return [BookSnapshot(*head, bids, asks, audit=True)]


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the products of one list that trade now.

    Raises:
        Unparseable: The body is no list of products.
    """
    return rows_of(_Product, read("products", _products_decoder, body), _product)


def _product(row: _Product) -> Instrument | None:
    if row.status != "online" or row.trading_disabled:
        return None
    return spot(row.id, row.base_currency, row.quote_currency, row.quote_increment, row.base_increment)


def audit(instrument: Instrument) -> Request:
    """Return the request for the instrument's whole book, orders added up by price."""
    return Request("audit", f"/products/{instrument.native}/book?level=2", instrument.symbol)


def backfill(instrument: Instrument, first: str, last: str) -> Request:
    """Return the request for trades ``first`` to ``last``, the first ``BACKFILL_MOST`` of them at most."""
    number = min(int(last) - int(first) + 1, BACKFILL_MOST)
    query = urlencode({"after": int(first) + number, "limit": number})  # older than ``after``, newest first
    path = f"/products/{instrument.native}/trades?{query}"
    return Request("backfill", path, instrument.symbol, first=first, last=last)


def _frames(
    op: Op, items: Sequence[Item], instruments: Mapping[str, Instrument], _first_id: int
) -> list[Subscription]:
    """Return the frames for ``items``, a product each; the venue's answers bear no number."""
    subscriptions: list[Subscription] = []
    for symbol, part in grouped(items, lambda item: item[1]).items():
        channels = [STREAMS[channel] for channel, _ in part]
        if op == "subscribe":
            channels.append("heartbeat")  # each second, and it tells of matches that were dropped
        document = {"type": op, "product_ids": [instruments[symbol].native], "channels": channels}
        subscriptions.append(asking(op, part, document))
    return subscriptions


subscribe = partial(_frames, "subscribe")
unsubscribe = partial(_frames, "unsubscribe")

LIMITS: Final = Limits(
    items_per_connection=300,  # chosen: none is published; a hundred products take 13 s to subscribe
    frames_per_s=8,  # documented as 10
    weight_per_minute=300,  # documented as 10 a second; half of it
    weight_per_s=8,
    connects_per_minute=60,  # chosen
    connects_per_s=8,  # documented
    max_frame_bytes=32 * 1024 * 1024,  # snapshots of 5 MB were seen
)

BOOK_RULE: Final = BookRule(
    snapshot="stream",
    join="none",
    chain="none",
    depth=LEVELS,
    open_end=True,
    verified="audit",
    audit_s=AUDIT_S,
)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=Endpoints("wss://ws-feed.exchange.coinbase.com", "https://api.exchange.coinbase.com"),
    channels=frozenset(STREAMS),
    limits=LIMITS,
    book_rule=BOOK_RULE,
    trade_ids="contiguous",
    # Quiet markets are healthy, but each product's heart beats each second, for all its subscriptions; its
    # silence of 5 s is documented as death, twice that is chosen.
    silence_s={"trade": 10.0, "book": 10.0, "ticker": 10.0},
    first_s={"book": 15.0},  # chosen: a subscription opens with the snapshot
    quiet_s=5.0,  # so much of all products
    plan=planner("", LIMITS.items_per_connection, subscribe),
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=decode_rest,
    instruments=(Request("instruments", "/products"),),
    rows=rows,
    audit=audit,
    backfill=backfill,
    backfill_most=BACKFILL_MOST,
)
