"""Binance USD-M perpetuals: trades, books, L1, ticker, liquidations, funding; open interest by REST.

Two sockets carry a symbol, one a route: ``/public`` has books and L1, ``/market`` the rest. A stream asked
for on the wrong one is acknowledged and never speaks.

Limits: 1024 streams a connection, of which 200 are used; 24 h of life, 10 messages a second from us, REST
weight 2400 a minute.
Quirks: sequences are the engine's, of all books, so a diff points back (``pu``) instead of counting on;
depth and partial depth differ by the stream's name only; trades are aggregates of 100 ms; of liquidations
at most one a symbol and second is told, so their sums are lower bounds; ``st`` 2 marks coin-margined
contracts, which are none of ours; a base may be a multiple (1000SHIB). Sizes are in base currency.

Source: Binance USD-M futures documents and change notices to 2026-10.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal
from urllib.parse import urlencode

import msgspec

from actors.model.decimals import decimal_text, is_zero, levels_text, price_text, size_text
from actors.model.decimals import trade_text as both_text
from actors.model.errors import Unparseable
from actors.model.events import (
    L1,
    BookDelta,
    BookSnapshot,
    Channel,
    Event,
    Funding,
    Level,
    Liquidation,
    OpenInterest,
    Ticker,
    Trade,
)
from actors.model.instruments import Instrument
from actors.venues import binance
from actors.venues.base import (
    Answer,
    BookRule,
    Closing,
    Connection,
    Decoded,
    Endpoints,
    Ignored,
    Item,
    Limits,
    Poll,
    Request,
    Scratch,
    Subscription,
    Venue,
    read,
)
from actors.venues.common import MS, Id, Ms, asked_for, ms_text, planned, price_or_none, quote, symbol_of

NAME: Final = "binance_usdm"
SNAPSHOT_LEVELS: Final = 1000
PUBLIC: Final[dict[Channel, str]] = {"book": "depth@100ms", "l1": "bookTicker"}
MARKET: Final[dict[Channel, str]] = {
    "trade": "aggTrade",
    "ticker": "ticker",
    "funding": "markPrice@1s",
    "liquidation": "forceOrder",
}
STREAMS: Final[dict[Channel, str]] = {**PUBLIC, **MARKET}

_COIN_MARGINED: Final = 2


class _Trade(msgspec.Struct):
    s: str  # native symbol
    a: Id  # aggregate id, one above the symbol's last
    p: str  # price, quote currency a unit of base
    q: str  # size, base currency
    T: Ms  # time of the match
    m: bool  # the buyer is the maker
    st: int = 1  # 1: USD-margined


class _Depth(msgspec.Struct):
    T: Ms
    s: str
    U: Id  # first update id in this frame
    u: Id  # last update id in this frame
    pu: Id  # ``u`` of the frame before
    b: list[Level]  # absolute size, base currency; zero removes
    a: list[Level]
    st: int = 1


class _BookTicker(msgspec.Struct):
    u: Id
    s: str
    b: str
    B: str
    a: str
    A: str
    T: Ms
    st: int = 1


class _Ticker(msgspec.Struct):
    E: Ms
    s: str
    c: str  # last
    o: str  # open
    h: str
    l: str  # noqa: E741 - the venue's name
    v: str  # base volume
    q: str  # quote volume
    st: int = 1


class _Mark(msgspec.Struct):
    E: Ms
    s: str
    p: str  # mark price
    i: str  # index price
    r: str  # funding rate as it stands, "" for a dated contract
    T: int  # next funding, ms, 0: none
    st: int = 1


class _Order(msgspec.Struct):
    s: str
    S: Literal["BUY", "SELL"]  # of the order: it sells a long
    ap: str  # average price of what was filled
    z: str  # filled in all, base currency
    T: Ms
    st: int = 1


class _Forced(msgspec.Struct):
    o: _Order


class _Bare(binance.Reply):
    e: str | None = None
    stream: str | None = None


class _Snapshot(msgspec.Struct):
    lastUpdateId: Id  # noqa: N815 - the venue's name
    bids: list[Level]
    asks: list[Level]
    T: Ms | None = None


class _PastTrade(msgspec.Struct):
    a: Id
    p: str
    q: str
    T: Ms
    m: bool


class _Interest(msgspec.Struct):
    openInterest: str  # noqa: N815 - the venue's name
    symbol: str
    time: Ms


class _Row(msgspec.Struct):
    symbol: str
    contractType: str  # noqa: N815 - the venue's name
    status: str
    baseAsset: str  # noqa: N815
    quoteAsset: str  # noqa: N815
    filters: list[binance.Filter] = []


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Row]


class _Wrapped(msgspec.Struct):
    stream: str
    data: msgspec.Raw


_trade_decoder = msgspec.json.Decoder(_Trade)
_depth_decoder = msgspec.json.Decoder(_Depth)
_book_ticker_decoder = msgspec.json.Decoder(_BookTicker)
_ticker_decoder = msgspec.json.Decoder(_Ticker)
_mark_decoder = msgspec.json.Decoder(_Mark)
_forced_decoder = msgspec.json.Decoder(_Forced)
_wrapped_decoder = msgspec.json.Decoder(_Wrapped)
_bare_decoder = msgspec.json.Decoder(_Bare)
_snapshot_decoder = msgspec.json.Decoder(_Snapshot)
_past_trades_decoder = msgspec.json.Decoder(list[_PastTrade])
_interest_decoder = msgspec.json.Decoder(_Interest)
_exchange_info_decoder = msgspec.json.Decoder(_ExchangeInfo)

_NOT_OURS: Final = Ignored("coin_margined")


def _trade(data: msgspec.Raw, scratch: Scratch) -> Decoded:
    t = read("aggTrade", _trade_decoder, data)
    if t.st == _COIN_MARGINED:
        return _NOT_OURS
    price, size = both_text(t.p, t.q)
    # The taker is whoever is not the maker.
    side: Literal["buy", "sell"] = "sell" if t.m else "buy"
    return Trade(NAME, symbol_of(t.s, scratch), t.T * MS, scratch.recv, t.a, str(t.a), price, size, side)


def _depth(data: msgspec.Raw, scratch: Scratch) -> Decoded:
    d = read("depth", _depth_decoder, data)
    if d.st == _COIN_MARGINED:
        return _NOT_OURS
    if d.u < d.U:
        raise Unparseable(f"depth: last update id {d.u} is below the first, {d.U}")
    return BookDelta(
        NAME,
        symbol_of(d.s, scratch),
        d.T * MS,
        scratch.recv,
        d.u,
        scratch.conn,
        levels_text(d.b),
        levels_text(d.a),
        first_seq=d.U,
        last_seq=d.u,
        prev_seq=d.pu,
    )


def _book_ticker(data: msgspec.Raw, scratch: Scratch) -> Decoded:
    t = read("bookTicker", _book_ticker_decoder, data)
    if t.st == _COIN_MARGINED:
        return _NOT_OURS
    symbol, at = symbol_of(t.s, scratch), t.T * MS
    return L1(NAME, symbol, at, scratch.recv, t.u, *quote(t.b, t.B, t.a, t.A))


def _ticker(data: msgspec.Raw, scratch: Scratch) -> Decoded:
    t = read("ticker", _ticker_decoder, data)
    if t.st == _COIN_MARGINED:
        return _NOT_OURS
    last, first, high, low = map(price_or_none, (t.c, t.o, t.h, t.l))
    volumes = size_text(t.v), size_text(t.q)
    symbol = symbol_of(t.s, scratch)
    return Ticker(NAME, symbol, t.E * MS, scratch.recv, None, last, first, high, low, *volumes)


def _mark(data: msgspec.Raw, scratch: Scratch) -> Decoded:
    m = read("markPrice", _mark_decoder, data)
    if m.st == _COIN_MARGINED:
        return _NOT_OURS
    return Funding(
        NAME,
        symbol_of(m.s, scratch),
        m.E * MS,
        scratch.recv,
        None,
        rate=decimal_text(m.r) if m.r else None,
        mark=price_text(m.p),
        index=price_text(m.i),
        next_ts=ms_text(str(m.T)),
    )


def _forced(data: msgspec.Raw, scratch: Scratch) -> Decoded:
    o = read("forceOrder", _forced_decoder, data).o
    if o.st == _COIN_MARGINED:
        return _NOT_OURS
    if is_zero(size_text(o.z)):
        return Ignored("unfilled")  # an order that nobody has met yet: the fill follows
    price, size = both_text(o.ap, o.z)
    sells = o.S == "SELL"
    return Liquidation(
        NAME,
        symbol_of(o.s, scratch),
        o.T * MS,
        scratch.recv,
        None,
        "sell" if sells else "buy",
        "long" if sells else "short",
        price,
        size,
    )


_OF_STREAM: Final[dict[str, Callable[[msgspec.Raw, Scratch], Decoded]]] = {
    "aggTrade": _trade,
    "depth": _depth,
    "depth@0ms": _depth,
    "depth@100ms": _depth,
    "depth@500ms": _depth,
    "bookTicker": _book_ticker,
    "ticker": _ticker,
    "markPrice": _mark,
    "markPrice@1s": _mark,
    "forceOrder": _forced,
}
_IGNORED: Final = {  # documented streams that are none of our channels
    "trade": "single_trade",  # the same fills as aggTrade, and off-book ones: never both
    "miniTicker": "mini_ticker",
}


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame of a combined socket says; payloads are told apart by their stream's name.

    Raises:
        Unparseable: It does not mean what its stream promises, or is no frame of this venue.
    """
    if frame.startswith(b'{"stream":'):
        wrapped = read("frame", _wrapped_decoder, frame)
        kind = wrapped.stream.partition("@")[2]
        known = _OF_STREAM.get(kind)
        if known is not None and not wrapped.stream.startswith("!"):
            return [known(wrapped.data, scratch)]
        return [Ignored(_IGNORED.get(kind, "unknown_channel"))]
    bare = read("frame", _bare_decoder, frame)
    if bare.e is not None:
        return [Closing(bare.e) if bare.e == "serverShutdown" else Ignored("unknown_channel")]
    said = binance.answered(bare)
    if said is None:
        raise Unparseable(f"no frame of this venue: {frame[:80]!r}")
    return [said]


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the snapshot, the open interest, or the trades of the range that was asked for, by their ids.

    Raises:
        Unparseable: The body is not what its request promises.
    """
    request, body = answer.request, answer.body.encode(errors="replace")
    if request.symbol is None:
        raise Unparseable(f"{request.op}: an answer without its symbol")
    match request.op:
        case "snapshot":
            return [_snapshot(body, request.symbol, scratch)]
        case "open_interest":
            o = read("openInterest", _interest_decoder, body)
            size = size_text(o.openInterest)  # a contract is a unit of base
            return [
                OpenInterest(
                    NAME, symbol_of(o.symbol, scratch), o.time * MS, scratch.recv, None, size, size, None
                )
            ]
        case "backfill":
            symbol = request.symbol
            rows = read("aggTrades", _past_trades_decoder, body)
            found = asked_for(rows, request, lambda row: row.a)
            return [_past_trade(row, symbol, scratch) for row in found]
        case _:
            raise Unparseable(f"no answer of this venue: {request.op}")


def _snapshot(body: bytes, symbol: str, scratch: Scratch) -> BookSnapshot:
    s = read("depth", _snapshot_decoder, body)
    return BookSnapshot(
        NAME,
        symbol,
        None if s.T is None else s.T * MS,
        scratch.recv,
        s.lastUpdateId,
        scratch.conn,
        levels_text(s.bids),
        levels_text(s.asks),
        last_seq=s.lastUpdateId,
        depth=SNAPSHOT_LEVELS,
    )


def _past_trade(row: _PastTrade, symbol: str, scratch: Scratch) -> Trade:
    price, size = both_text(row.p, row.q)
    side: Literal["buy", "sell"] = "sell" if row.m else "buy"
    at = row.T * MS
    return Trade(NAME, symbol, at, scratch.recv, row.a, str(row.a), price, size, side, backfilled=True)


def rows(body: bytes) -> list[Instrument]:
    """Return the perpetuals of one exchangeInfo that trade now; dated contracts are none of ours.

    Raises:
        Unparseable: The body is no exchangeInfo.
    """
    listed = read("exchangeInfo", _exchange_info_decoder, body).symbols
    return [_instrument(row) for row in listed if row.status == "TRADING" and row.contractType in _PERPETUALS]


_PERPETUALS: Final = ("PERPETUAL", "TRADIFI_PERPETUAL")


def _instrument(row: _Row) -> Instrument:
    base, quote = row.baseAsset.upper(), row.quoteAsset.upper()
    price_step, size_step = binance.steps(row.filters)
    return Instrument(
        symbol=f"{base}-{quote}-PERP",
        native=row.symbol,
        base=base,
        quote=quote,
        contract_size="1",
        contract_kind="linear",
        price_step=price_step,
        size_step=size_step,
    )


def subscribe(
    items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int
) -> list[Subscription]:
    """Return the frames that subscribe ``items``, numbered from ``first_id``."""
    return binance.frames("subscribe", items, instruments, first_id, STREAMS)


def unsubscribe(
    items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int
) -> list[Subscription]:
    """Return the frames that end the subscriptions of ``items``, numbered from ``first_id``."""
    return binance.frames("unsubscribe", items, instruments, first_id, STREAMS)


def plan(
    endpoints: Endpoints, instruments: Sequence[Instrument], channels: Sequence[Channel]
) -> list[Connection]:
    """Return the connections that carry ``channels`` of ``instruments``, each route's by themselves."""
    connections: list[Connection] = []
    for route, streams in (("public", PUBLIC), ("market", MARKET)):
        ours: list[Channel] = [channel for channel in channels if channel in streams]
        url = f"{endpoints.ws}/{route}/stream"
        connections += planned(url, instruments, ours, LIMITS.items_per_connection, subscribe)
    return connections


def snapshot(instrument: Instrument) -> Request:
    """Return the request for the instrument's book."""
    query = urlencode({"symbol": instrument.native, "limit": SNAPSHOT_LEVELS})
    return Request("snapshot", f"/fapi/v1/depth?{query}", instrument.symbol, weight=20)


def backfill(instrument: Instrument, first: str, last: str) -> Request:
    """Return the request for trades ``first`` to ``last``, the first ``binance.BACKFILL_MOST`` at most."""
    number = min(int(last) - int(first) + 1, binance.BACKFILL_MOST)
    query = urlencode({"symbol": instrument.native, "fromId": first, "limit": number})
    path = f"/fapi/v1/aggTrades?{query}"
    return Request("backfill", path, instrument.symbol, weight=20, first=first, last=last)


def open_interest(instrument: Instrument) -> Request:
    """Return the request for the instrument's open interest."""
    query = urlencode({"symbol": instrument.native})
    return Request("open_interest", f"/fapi/v1/openInterest?{query}", instrument.symbol)


LIMITS: Final = Limits(
    items_per_connection=200,  # documented 1024; what clients keep to
    frames_per_s=8,  # documented 10, of which pongs take their part
    weight_per_minute=2400,  # documented
    connects_per_minute=60,  # chosen as for spot: none is documented
    lifetime_s=23 * 3600,  # documented 24 h; replaced an hour before
)

BOOK_RULE: Final = BookRule(snapshot="rest", join="overlap", chain="pointer", depth=SNAPSHOT_LEVELS)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"perpetual"}),
    endpoints=Endpoints("wss://fstream.binance.com", "https://fapi.binance.com"),
    channels=frozenset({*STREAMS, "open_interest"}),
    limits=LIMITS,
    book_rule=BOOK_RULE,
    trade_ids="contiguous",
    # Chosen: mark prices come each second, tickers every two, and a wrong route never gives any.
    silence_s={"funding": 30.0, "ticker": 30.0, "book": 60.0, "l1": 60.0, "open_interest": 120.0},
    plan=plan,
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=decode_rest,
    instruments=(Request("instruments", "/fapi/v1/exchangeInfo"),),
    rows=rows,
    snapshot=snapshot,
    backfill=backfill,
    backfill_most=binance.BACKFILL_MOST,
    polls={"open_interest": Poll(open_interest, every_s=10.0)},
)
