"""Binance spot: trades, books, L1 and the 24 h ticker over one combined socket.

The socket is ``/stream``, which names the stream around each payload (bookTicker and partial depth say
nothing of themselves); subscriptions follow by message. Bare payloads, as ``/ws`` sends them, are
understood too.

Limits: 1024 streams a connection, 24 h of life, 5 messages a second from us (pongs among them), 300
connection attempts in 5 minutes, REST weight 6000 a minute.
Quirks: an unknown stream is acknowledged and then silent; bookTicker has no time; ``m`` says that the
buyer is the *maker*; diffs may precede the acknowledgement; a snapshot may be older than the first diff;
symbols may hold any UTF-8; base and quote are never to be guessed from a symbol (BTCTUSD is BTC/TUSD).
Times are ms: microseconds come only to who asks for them, we do not, and such a time is refused.

Source: binance-spot-api-docs web-socket-streams.md, rest-api.md, CHANGELOG.md as of 2026-07-21.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, Literal
from urllib.parse import urlencode

import msgspec

from actors.model.decimals import (
    levels_text,
    size_text,
    trade_text,
)
from actors.model.errors import Unparseable
from actors.model.events import L1, BookDelta, BookSnapshot, Channel, Event, Level, Ticker, Trade
from actors.model.instruments import Instrument
from actors.venues.base import (
    Acked,
    Answer,
    BookRule,
    Closing,
    Connection,
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
    read,
)
from actors.venues.common import MS, Id, Ms, asked_for, planned, price_or_none, quote, symbol_of

NAME: Final = "binance"
PARAMS_PER_FRAME: Final = 200  # what clients keep to; a message of more is refused as "too many parameters"
SNAPSHOT_LEVELS: Final = 1000  # weight 50; levels beyond it are unknown until they change
BACKFILL_MOST: Final = 1000
STREAMS: Final[dict[Channel, str]] = {
    "trade": "trade",
    "book": "depth@100ms",
    "l1": "bookTicker",
    "ticker": "ticker",
}


class _Trade(msgspec.Struct, tag_field="e", tag="trade"):
    s: str  # native symbol
    t: Id  # trade id, one above the symbol's last
    p: str  # price, quote currency a unit of base
    q: str  # size, base currency
    T: Ms  # time of the match
    m: bool  # the buyer is the maker


class _Depth(msgspec.Struct, tag_field="e", tag="depthUpdate"):
    E: Ms  # time of sending
    s: str
    U: Id  # first update id in this frame
    u: Id  # last update id in this frame
    b: list[Level]  # absolute size, base currency; zero removes
    a: list[Level]


class _BookTicker(msgspec.Struct):
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


class _Wrapped(msgspec.Struct):
    stream: str
    data: msgspec.Raw


class _WrappedTrade(msgspec.Struct):
    data: _Trade


class _WrappedDepth(msgspec.Struct):
    data: _Depth


class _WrappedBookTicker(msgspec.Struct):
    data: _BookTicker


class _WrappedTicker(msgspec.Struct):
    data: _Ticker


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
    lastUpdateId: int | None = None  # noqa: N815 - the venue's name


class _Snapshot(msgspec.Struct):
    lastUpdateId: Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]  # noqa: N815 - -1: never traded
    bids: list[Level]
    asks: list[Level]


class _PastTrade(msgspec.Struct):
    id: Id
    price: str
    qty: str
    time: Ms
    isBuyerMaker: bool  # noqa: N815 - the venue's name


class Filter(msgspec.Struct):
    """One rule of an instrument."""

    filterType: str  # noqa: N815 - the venue's name
    tickSize: str | None = None  # noqa: N815
    stepSize: str | None = None  # noqa: N815


class _Row(msgspec.Struct):
    symbol: str
    status: str
    baseAsset: str  # noqa: N815 - the venue's name
    quoteAsset: str  # noqa: N815
    filters: list[Filter] = []


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Row]


_trade_decoder = msgspec.json.Decoder(_Trade)
_depth_decoder = msgspec.json.Decoder(_Depth)
_book_ticker_decoder = msgspec.json.Decoder(_BookTicker)
_ticker_decoder = msgspec.json.Decoder(_Ticker)
_wrapped_decoder = msgspec.json.Decoder(_Wrapped)
_wrapped_trade_decoder = msgspec.json.Decoder(_WrappedTrade)
_wrapped_depth_decoder = msgspec.json.Decoder(_WrappedDepth)
_wrapped_book_ticker_decoder = msgspec.json.Decoder(_WrappedBookTicker)
_wrapped_ticker_decoder = msgspec.json.Decoder(_WrappedTicker)
_bare_decoder = msgspec.json.Decoder(_Bare)
_snapshot_decoder = msgspec.json.Decoder(_Snapshot)
_past_trades_decoder = msgspec.json.Decoder(list[_PastTrade])
_exchange_info_decoder = msgspec.json.Decoder(_ExchangeInfo)


def _trade(t: _Trade, scratch: Scratch) -> Trade:
    price, size = trade_text(t.p, t.q)
    return Trade(
        scratch.venue,
        symbol_of(t.s, scratch),
        t.T * MS,
        scratch.recv,
        t.t,
        str(t.t),
        price,
        size,
        "sell" if t.m else "buy",  # the taker is whoever is not the maker
    )


def _depth(d: _Depth, scratch: Scratch) -> BookDelta:
    if d.u < d.U:
        raise Unparseable(f"depth: last update id {d.u} is below the first, {d.U}")
    return BookDelta(
        scratch.venue,
        symbol_of(d.s, scratch),
        d.E * MS,
        scratch.recv,
        d.u,
        scratch.conn,
        levels_text(d.b),
        levels_text(d.a),
        first_seq=d.U,
        last_seq=d.u,
    )


def _book_ticker(t: _BookTicker, scratch: Scratch) -> L1:
    symbol = symbol_of(t.s, scratch)
    return L1(scratch.venue, symbol, None, scratch.recv, t.u, *quote(t.b, t.B, t.a, t.A))


def _ticker(t: _Ticker, scratch: Scratch) -> Ticker:
    return Ticker(
        scratch.venue,
        symbol_of(t.s, scratch),
        t.E * MS,
        scratch.recv,
        None,
        last=price_or_none(t.c),
        open=price_or_none(t.o),
        high=price_or_none(t.h),
        low=price_or_none(t.l),
        volume_base=size_text(t.v),
        volume_quote=size_text(t.q),
    )


def _wrapped_trade(frame: bytes, scratch: Scratch) -> Event:
    return _trade(read("trade", _wrapped_trade_decoder, frame).data, scratch)


def _wrapped_depth(frame: bytes, scratch: Scratch) -> Event:
    return _depth(read("depth", _wrapped_depth_decoder, frame).data, scratch)


def _wrapped_book_ticker(frame: bytes, scratch: Scratch) -> Event:
    return _book_ticker(read("bookTicker", _wrapped_book_ticker_decoder, frame).data, scratch)


def _wrapped_ticker(frame: bytes, scratch: Scratch) -> Event:
    return _ticker(read("ticker", _wrapped_ticker_decoder, frame).data, scratch)


_WRAPPED: Final[dict[bytes, Callable[[bytes, Scratch], Event]]] = {
    b"@trade": _wrapped_trade,
    b"@depth@100ms": _wrapped_depth,
    b"@depth": _wrapped_depth,
    b"@bookTicker": _wrapped_book_ticker,
    b"@ticker": _wrapped_ticker,
}
_OPENING: Final = b'{"stream":"'
_NAME: Final = len(_OPENING)

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
    if frame.startswith(_OPENING):
        known = _WRAPPED.get(frame[frame.find(b"@", _NAME) : frame.find(b'"', _NAME)])
        if known is not None:
            return [known(frame, scratch)]
    return [_decode_other(frame, scratch)]


def _decode_other(frame: bytes, scratch: Scratch) -> Decoded:
    bare = read("frame", _bare_decoder, frame)
    if bare.stream is not None:
        wrapped = read("frame", _wrapped_decoder, frame)
        return _decode_stream(wrapped.stream, bytes(wrapped.data), scratch)
    return _decode_bare(bare, frame, scratch)


def _decode_stream(stream: str, data: bytes, scratch: Scratch) -> Decoded:
    if not data.startswith(b"{"):
        return Ignored("unknown_channel")  # the "!...@arr" streams
    bare = read(stream[:60], _bare_decoder, data)
    if bare.e is None and (bare.u is None or bare.B is None):
        return Ignored("unknown_channel" if bare.lastUpdateId is None else "partial_depth")
    return _decode_bare(bare, data, scratch)


def _decode_bare(bare: _Bare, data: bytes, scratch: Scratch) -> Decoded:
    match bare.e:
        case "trade":
            return _trade(read("trade", _trade_decoder, data), scratch)
        case "depthUpdate":
            return _depth(read("depth", _depth_decoder, data), scratch)
        case "24hrTicker":
            return _ticker(read("ticker", _ticker_decoder, data), scratch)
        case "serverShutdown":
            return Closing("serverShutdown")
        case None:
            return _decode_untyped(bare, data, scratch)
        case _:
            return Ignored(_IGNORED.get(bare.e, "unknown_channel"))


def _decode_untyped(bare: _Bare, data: bytes, scratch: Scratch) -> Decoded:
    if bare.u is not None and bare.B is not None:
        return _book_ticker(read("bookTicker", _book_ticker_decoder, data), scratch)
    if bare.lastUpdateId is not None:
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
    body = answer.body.encode()
    symbol = request.symbol
    if symbol is None:
        raise Unparseable(f"{request.op}: an answer without its symbol")
    match request.op:
        case "snapshot":
            return [_snapshot(read("snapshot", _snapshot_decoder, body), symbol, scratch)]
        case "backfill":
            rows = read("historicalTrades", _past_trades_decoder, body)
            found = asked_for(rows, request, lambda row: row.id)
            return [_past_trade(row, symbol, scratch) for row in found]
        case _:
            raise Unparseable(f"no answer of this venue: {request.op}")


def _snapshot(s: _Snapshot, symbol: str, scratch: Scratch) -> BookSnapshot:
    return BookSnapshot(
        scratch.venue,
        symbol,
        None,
        scratch.recv,
        s.lastUpdateId,
        scratch.conn,
        levels_text(s.bids),
        levels_text(s.asks),
        last_seq=s.lastUpdateId,
        depth=SNAPSHOT_LEVELS,
    )


def _past_trade(row: _PastTrade, symbol: str, scratch: Scratch) -> Trade:
    price, size = trade_text(row.price, row.qty)
    return Trade(
        scratch.venue,
        symbol,
        row.time * MS,
        scratch.recv,
        row.id,
        str(row.id),
        price,
        size,
        "sell" if row.isBuyerMaker else "buy",
        backfilled=True,
    )


def rows(body: bytes) -> list[Instrument]:
    """Return the instruments of one exchangeInfo that trade now.

    Raises:
        Unparseable: The body is no exchangeInfo.
    """
    listed = read("exchangeInfo", _exchange_info_decoder, body).symbols
    return [_instrument(row) for row in listed if row.status == "TRADING"]


def _instrument(row: _Row) -> Instrument:
    base, quote = row.baseAsset.upper(), row.quoteAsset.upper()
    price_step, size_step = steps(row.filters)
    return Instrument(
        symbol=f"{base}-{quote}",
        native=row.symbol,
        base=base,
        quote=quote,
        price_step=price_step,
        size_step=size_step,
    )


def steps(filters: Sequence[Filter]) -> tuple[str | None, str | None]:
    """Return the steps of price and size that an instrument's filters give."""
    by_type = {each.filterType: each for each in filters}
    price, lot = by_type.get("PRICE_FILTER"), by_type.get("LOT_SIZE")
    return price.tickSize if price else None, lot.stepSize if lot else None


def frames(
    op: Literal["subscribe", "unsubscribe"],
    items: Sequence[Item],
    instruments: Mapping[str, Instrument],
    first_id: int,
    streams: Mapping[Channel, str],
) -> list[Subscription]:
    """Return the frames that ask for ``items``, whose streams are called as ``streams`` says."""
    subscriptions: list[Subscription] = []
    for start in range(0, len(items), PARAMS_PER_FRAME):
        part = list(items[start : start + PARAMS_PER_FRAME])
        params = [f"{instruments[symbol].native.lower()}@{streams[channel]}" for channel, symbol in part]
        number = first_id + len(subscriptions)
        frame = msgspec.json.encode({"method": op.upper(), "params": params, "id": number}).decode()
        subscriptions.append(Subscription(op, part, frame, number))
    return subscriptions


def subscribe(
    items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int
) -> list[Subscription]:
    """Return the frames that subscribe ``items``, numbered from ``first_id``."""
    return frames("subscribe", items, instruments, first_id, STREAMS)


def unsubscribe(
    items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int
) -> list[Subscription]:
    """Return the frames that end the subscriptions of ``items``, numbered from ``first_id``."""
    return frames("unsubscribe", items, instruments, first_id, STREAMS)


def plan(
    endpoints: Endpoints, instruments: Sequence[Instrument], channels: Sequence[Channel]
) -> list[Connection]:
    """Return the connections that carry all ``channels`` of ``instruments``; a symbol stays on one."""
    url = f"{endpoints.ws}/stream"
    return planned(url, instruments, channels, LIMITS.items_per_connection, subscribe)


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


LIMITS: Final = Limits(
    items_per_connection=1024,  # documented
    frames_per_s=4,  # documented 5, of which pongs take their part
    weight_per_minute=6000,  # documented
    connects_per_minute=60,  # documented as 300 in 5 minutes
    lifetime_s=23 * 3600,  # documented 24 h; replaced an hour before
)

# A snapshot holds the best 1000; a diff may overlap it or, after an outage of the venue's own, the last
# one ("U > id + 1 is a gap", no more): sizes are absolute, so overlap is harmless.
BOOK_RULE: Final = BookRule(snapshot="rest", join="range", chain="range", depth=SNAPSHOT_LEVELS)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=Endpoints("wss://stream.binance.com:9443", "https://api.binance.com"),
    channels=frozenset(STREAMS),
    limits=LIMITS,
    book_rule=BOOK_RULE,
    trade_ids="contiguous",
    # Chosen: the ticker comes each second, book and L1 whenever they change; trades of a quiet symbol
    # may pause for hours, so nothing is said of them.
    silence_s={"ticker": 30.0, "book": 60.0, "l1": 60.0},
    plan=plan,
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=decode_rest,
    instruments=(Request("instruments", "/api/v3/exchangeInfo?symbolStatus=TRADING", weight=20),),
    rows=rows,
    snapshot=snapshot,
    backfill=backfill,
    backfill_most=BACKFILL_MOST,
)
