"""Binance spot: trades, books, L1 and the 24 h ticker over one combined socket.

The socket is ``/stream``, which names the stream around each payload (bookTicker and partial depth say
nothing of themselves); subscriptions follow by message. Bare payloads, as ``/ws`` sends them, are
understood too.

Limits: 1024 streams a connection, 24 h of life, 5 messages a second from us (pongs among them), 300
connection attempts in 5 minutes, REST weight 6000 a minute or what exchangeInfo says.
Quirks: an unknown stream is acknowledged and then silent; a connection may stall without a close, while a
symbol may rightly be silent for minutes; bookTicker has no time; ``m`` says that the buyer is the *maker*;
diffs may precede the acknowledgement; a snapshot may be older than the first diff; symbols may hold any
UTF-8; base and quote are never to be guessed from a symbol (BTCTUSD is BTC/TUSD).
Times are ms: microseconds come only to who asks for them, we do not, and such a time is refused.

Source: binance-spot-api-docs web-socket-streams.md, rest-api.md, CHANGELOG.md as of 2026-07-21.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Final, Generic, TypeVar
from urllib.parse import urlencode

import msgspec

from actors.model.decimals import sides_text, size_text, trade_text
from actors.model.errors import Unparseable
from actors.model.events import L1, Aggressor, BookDelta, BookSnapshot, Channel, Event, Level, Ticker, Trade
from actors.model.instruments import Instrument, Unusable
from actors.venues.base import (
    Acked,
    Answer,
    BookRule,
    Closing,
    Decoded,
    Endpoints,
    Ignored,
    Item,
    Limits,
    Refused,
    Request,
    Scratch,
    Subscription,
    Venue,
    decoding,
    read,
)
from actors.venues.common import (
    MS,
    Id,
    Ms,
    Op,
    asked_as,
    asked_for,
    asking,
    parts,
    planner,
    price_or_none,
    quote,
    rows_of,
    spot,
    symbol_of,
    told_ms,
)

NAME: Final = "binance"
PARAMS_PER_FRAME: Final = 200  # what clients keep to; "too many parameters" is documented without a number
SNAPSHOT_LEVELS: Final = 1000  # weight 50; levels beyond it are unknown until they change
BACKFILL_MOST: Final = 1000
STREAMS: Final[dict[Channel, str]] = {
    "trade": "trade",
    "book": "depth@100ms",
    "l1": "bookTicker",
    "ticker": "ticker",
}


Data = TypeVar("Data")


class _Trade(msgspec.Struct, gc=False, tag_field="e", tag="trade"):
    s: str  # native symbol
    t: Id  # trade id, one above the symbol's last
    p: str  # price, quote currency a unit of base
    q: str  # size, base currency
    T: Ms  # time of the match
    m: bool  # the buyer is the maker


class _Depth(msgspec.Struct, gc=False, tag_field="e", tag="depthUpdate"):
    E: Ms  # time of sending
    s: str
    U: Id  # first update id in this frame
    u: Id  # last update id in this frame
    b: list[Level]  # absolute size, base currency; zero removes
    a: list[Level]


class _BookTicker(msgspec.Struct, gc=False):
    u: Id  # of the same ids as a depth's
    s: str
    b: str  # "0.00000000" when the side is empty
    B: str
    a: str
    A: str


class _Ticker(msgspec.Struct, tag_field="e", tag="24hrTicker"):
    E: Ms
    s: str
    c: str  # last
    o: str  # open
    h: str
    l: str  # noqa: E741 - the venue's name
    v: str  # base volume
    q: str  # quote volume


class Push(msgspec.Struct, Generic[Data], gc=False):
    """What stands around each payload of a combined socket."""

    data: Data


class _Error(msgspec.Struct):
    code: int
    msg: str


class Reply(msgspec.Struct):
    """What answers a control frame: a result, or an error in one of two spellings."""

    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: int | str | None = None
    code: int | None = None
    msg: str | None = None
    error: _Error | None = None


class _Bare(Reply):
    """What tells one payload or control frame from another."""

    e: str | None = None
    stream: str | None = None
    u: int | None = None
    B: str | None = None
    last_update_id: int | None = msgspec.field(default=None, name="lastUpdateId")


class _Snapshot(msgspec.Struct, rename="camel"):
    last_update_id: Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]  # -1: never traded
    bids: list[Level]
    asks: list[Level]
    T: Ms | None = None  # of futures only


class _PastTrade(msgspec.Struct, rename="camel"):
    id: Id
    price: str
    qty: str
    time: Ms
    is_buyer_maker: bool


class Filter(msgspec.Struct, rename="camel"):
    """One rule of an instrument."""

    filter_type: str
    tick_size: str | None = None
    step_size: str | None = None


class _Row(msgspec.Struct, rename="camel"):
    symbol: str
    status: str
    base_asset: str
    quote_asset: str
    filters: list[Filter] = []


class _RateLimit(msgspec.Struct, rename="camel"):
    rate_limit_type: str
    interval: str
    interval_num: Annotated[int, msgspec.Meta(ge=1)]
    limit: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]


class _RateLimits(msgspec.Struct, rename="camel"):
    rate_limits: list[msgspec.Raw] = []


class ExchangeInfo(msgspec.Struct):
    """A list of instruments, whose rows are read one by one."""

    symbols: list[msgspec.Raw]


_bare_decoder = msgspec.json.Decoder(_Bare)
_wrapped_decoder = msgspec.json.Decoder(Push[msgspec.Raw])
_snapshot_decoder = msgspec.json.Decoder(_Snapshot)
_past_trades_decoder = msgspec.json.Decoder(list[_PastTrade])
_exchange_info_decoder = msgspec.json.Decoder(ExchangeInfo)
_rate_limits_decoder = msgspec.json.Decoder(_RateLimits)
_rate_limit_decoder = msgspec.json.Decoder(_RateLimit)


def _trade(said: Push[_Trade], scratch: Scratch) -> Trade:
    t, venue, recv = said.data, scratch.venue, scratch.recv
    price, size = trade_text(t.p, t.q)
    side: Aggressor = "sell" if t.m else "buy"  # the taker is whoever is not the maker
    return Trade(venue, symbol_of(t.s, scratch), t.T * MS, recv, t.t, str(t.t), price, size, side)


def _depth(said: Push[_Depth], scratch: Scratch) -> BookDelta:
    d, venue = said.data, scratch.venue
    if d.u < d.U:
        raise Unparseable(f"depth: last update id {d.u} is below the first, {d.U}")
    symbol, recv, conn = symbol_of(d.s, scratch), scratch.recv, scratch.conn
    bids, asks = sides_text(d.b, d.a)
    return BookDelta(venue, symbol, d.E * MS, recv, d.u, conn, bids, asks, first_seq=d.U, last_seq=d.u)


def _book_ticker(said: Push[_BookTicker], scratch: Scratch) -> L1:
    t, venue = said.data, scratch.venue
    bid, bid_size, ask, ask_size = quote(t.b, t.B, t.a, t.A)
    return L1(venue, symbol_of(t.s, scratch), None, scratch.recv, t.u, bid, bid_size, ask, ask_size)


def _ticker(said: Push[_Ticker], scratch: Scratch) -> Ticker:
    t, venue, recv = said.data, scratch.venue, scratch.recv
    symbol, base, counter = symbol_of(t.s, scratch), size_text(t.v), size_text(t.q)
    last, first = price_or_none(t.c), price_or_none(t.o)
    high, low = price_or_none(t.h), price_or_none(t.l)
    return Ticker(venue, symbol, t.E * MS, recv, None, last, first, high, low, base, counter)


_trades = decoding("trade", Push[_Trade], _trade)
_depths = decoding("depth", Push[_Depth], _depth)
_book_tickers = decoding("bookTicker", Push[_BookTicker], _book_ticker)
_tickers = decoding("ticker", Push[_Ticker], _ticker)

_opening: Final = re.compile(rb'\{"stream":"[^@"]*(@[^"]*)"').match  # what stands after the symbol
_STREAMS: Final[dict[bytes, Callable[[bytes, Scratch], Event]]] = {
    b"@trade": _trades,
    b"@depth@100ms": _depths,
    b"@depth": _depths,
    b"@bookTicker": _book_tickers,
    b"@ticker": _tickers,
}
_TYPES: Final[dict[str, Callable[[bytes, Scratch], Event]]] = {
    "trade": _trades,
    "depthUpdate": _depths,
    "24hrTicker": _tickers,
}
_IGNORED: Final = {  # documented payloads that are none of our channels
    "aggTrade": "agg_trade",  # the same fills as @trade: one of the two, never both
    "blockTrade": "block_trade",  # off the book, ids of their own
    "24hrMiniTicker": "mini_ticker",
    "kline": "kline",
    "avgPrice": "average_price",
    "referencePrice": "reference_price",
}


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says; a trade, depth, bookTicker or ticker frame is decoded in one pass.

    Raises:
        Unparseable: It does not mean what its stream or type promises, or is no frame of this venue.
    """
    opening = _opening(frame)
    known = None if opening is None else _STREAMS.get(opening[1])
    return [_decode_other(frame, scratch) if known is None else known(frame, scratch)]


def _decode_other(frame: bytes, scratch: Scratch) -> Decoded:
    bare = read("frame", _bare_decoder, frame)
    if bare.stream is None:
        return _decode_bare(bare, frame, scratch)
    data = bytes(read("frame", _wrapped_decoder, frame).data)
    if not data.startswith(b"{"):
        return Ignored("unknown_channel")  # the "!...@arr" streams
    payload = read(bare.stream[:60], _bare_decoder, data)
    if payload.e is None and payload.last_update_id is None and not _is_book_ticker(payload):
        return Ignored("unknown_channel")
    return _decode_bare(payload, data, scratch)


def _is_book_ticker(bare: _Bare) -> bool:
    return bare.u is not None and bare.B is not None


def _decode_bare(bare: _Bare, data: bytes, scratch: Scratch) -> Decoded:
    known = _TYPES.get(bare.e) if bare.e is not None else _book_tickers if _is_book_ticker(bare) else None
    if known is not None:
        return known(b'{"data":%b}' % data, scratch)  # as a stream would have brought it
    if bare.e == "serverShutdown":
        return Closing(bare.e)
    if bare.e is not None:
        return Ignored(_IGNORED.get(bare.e, "unknown_channel"))
    if bare.last_update_id is not None:
        return Ignored("partial_depth")
    said = answered(bare)
    if said is None:
        raise Unparseable(f"no frame of this venue: {data[:80]!r}")
    return said


def answered(reply: Reply) -> Decoded | None:
    """Return what an answer to a control frame says, None when it is none."""
    error = reply.error
    if error is None and reply.code is not None and reply.msg is not None:
        error = _Error(reply.code, reply.msg)
    ours = reply.id if isinstance(reply.id, int) else None  # we number ours; a text id is none of them
    if error is not None:
        return Refused(f"{error.code}: {error.msg[:200]}", ours)
    if reply.result is msgspec.UNSET:
        return None
    is_ack = ours is not None and bytes(reply.result) == b"null"
    return Acked(ours) if is_ack else Ignored("answer")


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the snapshot, or the trades of the range that was asked for, in order of their ids.

    Raises:
        Unparseable: The body is not what its request promises.
    """
    request = answer.request
    if request.op == "snapshot" and request.symbol is not None:
        return [whole_book(answer.body.encode(errors="replace"), request.symbol, scratch)]
    symbol, body = asked_as("backfill", answer)
    found = asked_for(read("historicalTrades", _past_trades_decoder, body), request, lambda row: row.id)
    return [_past_trade(row, symbol, scratch) for row in found]


def whole_book(body: bytes, symbol: str, scratch: Scratch) -> BookSnapshot:
    """Return the snapshot that an answer to ``depth`` holds.

    Raises:
        Unparseable: The body is none.
    """
    s = read("depth", _snapshot_decoder, body)
    (bids, asks), number = sides_text(s.bids, s.asks), s.last_update_id
    head = (scratch.venue, symbol, told_ms(s.T), scratch.recv, number, scratch.conn)
    return BookSnapshot(*head, bids, asks, last_seq=number, depth=SNAPSHOT_LEVELS)


def _past_trade(row: _PastTrade, symbol: str, scratch: Scratch) -> Trade:
    price, size = trade_text(row.price, row.qty)
    side: Aggressor = "sell" if row.is_buyer_maker else "buy"
    head = (scratch.venue, symbol, row.time * MS, scratch.recv, row.id)
    return Trade(*head, str(row.id), price, size, side, backfilled=True)


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the instruments of one exchangeInfo that trade now.

    Raises:
        Unparseable: The body is no exchangeInfo.
    """
    return rows_of(_Row, listing(body), _pair)


def listing(body: bytes) -> list[msgspec.Raw]:
    """Return the rows of one exchangeInfo.

    Raises:
        Unparseable: The body is none.
    """
    return read("exchangeInfo", _exchange_info_decoder, body).symbols


def granted(body: bytes) -> int | None:
    """Return the REST weight a minute that one exchangeInfo grants, None where it says nothing of use."""
    try:
        said = read("rateLimits", _rate_limits_decoder, body).rate_limits
    except Unparseable:
        return None
    return min((weight for text in said if (weight := _weight_per_minute(text)) is not None), default=None)


def _weight_per_minute(text: msgspec.Raw) -> int | None:
    try:
        limit = read("rateLimit", _rate_limit_decoder, text)
    except Unparseable:
        return None
    of_weight = limit.rate_limit_type == "REQUEST_WEIGHT" and limit.interval == "MINUTE"
    return max(1, limit.limit // limit.interval_num) if of_weight else None


def _pair(row: _Row) -> Instrument | None:
    if row.status != "TRADING":
        return None
    return spot(row.symbol, row.base_asset, row.quote_asset, *steps(row.filters))


def steps(filters: Sequence[Filter]) -> tuple[str | None, str | None]:
    """Return the steps of price and size that an instrument's filters give."""
    by_type = {each.filter_type: each for each in filters}
    price, lot = by_type.get("PRICE_FILTER"), by_type.get("LOT_SIZE")
    return price.tick_size if price else None, lot.step_size if lot else None


def snapshot(instrument: Instrument) -> Request:
    """Return the request for the instrument's book."""
    query = urlencode({"symbol": instrument.native, "limit": SNAPSHOT_LEVELS})
    return Request("snapshot", f"/api/v3/depth?{query}", instrument.symbol, weight=50)


def backfill(instrument: Instrument, first: str, last: str) -> Request:
    """Return the request for trades ``first`` to ``last``, the first ``BACKFILL_MOST`` of them at most."""
    number = min(int(last) - int(first) + 1, BACKFILL_MOST)
    query = urlencode({"symbol": instrument.native, "fromId": first, "limit": number})
    path = f"/api/v3/historicalTrades?{query}"
    return Request("backfill", path, instrument.symbol, weight=25, first=first, last=last)


def frames(
    streams: Mapping[Channel, str],
    op: Op,
    items: Sequence[Item],
    instruments: Mapping[str, Instrument],
    first_id: int,
) -> list[Subscription]:
    """Return the frames that ask for ``items``, whose streams are called as ``streams`` says."""
    subscriptions: list[Subscription] = []
    for number, part in enumerate(parts(items, PARAMS_PER_FRAME), first_id):
        params = [f"{instruments[symbol].native.lower()}@{streams[channel]}" for channel, symbol in part]
        document = {"method": op.upper(), "params": params, "id": number}
        subscriptions.append(asking(op, part, document, number))
    return subscriptions


subscribe = partial(frames, STREAMS, "subscribe")
unsubscribe = partial(frames, STREAMS, "unsubscribe")

LIMITS: Final = Limits(
    items_per_connection=1024,  # documented
    frames_per_s=3,  # documented 5, in which the server counts our pings and pongs, too
    weight_per_minute=6000,  # documented as an example: what exchangeInfo says holds
    connects_per_minute=60,  # documented as 300 in 5 minutes
    lifetime_s=23 * 3600,  # documented 24 h; replaced an hour before
)

plan = planner("/stream", LIMITS.items_per_connection, subscribe)

# A snapshot holds the best 1000; a diff may overlap it or, after an outage of the venue's own, the last
# one ("U > id + 1 is a gap", no more): sizes are absolute, so overlap is harmless.
BOOK_RULE: Final = BookRule(
    snapshot="rest", join="range", chain="range", contained=True, depth=SNAPSHOT_LEVELS
)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=Endpoints("wss://stream.binance.com:9443", "https://api.binance.com"),
    channels=frozenset(STREAMS),
    limits=LIMITS,
    book_rule=BOOK_RULE,
    trade_ids="contiguous",
    # Chosen: a symbol may rightly be silent for minutes, its trades for hours, so it is the connection that
    # is watched. A ticker too may wait for a change: the streams of all symbols tell of changed ones only.
    silence_s={"book": 600.0, "l1": 600.0, "ticker": 600.0},
    first_s={"book": 120.0, "l1": 120.0, "ticker": 120.0},  # chosen: an unknown stream never speaks
    quiet_s=60.0,  # chosen: stalls without a close happen
    plan=plan,
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=decode_rest,
    instruments=(Request("instruments", "/api/v3/exchangeInfo?symbolStatus=TRADING", weight=20),),
    rows=rows,
    granted=granted,
    snapshot=snapshot,
    backfill=backfill,
    backfill_most=BACKFILL_MOST,
)
