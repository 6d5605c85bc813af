"""Binance USD-M perpetuals: trades, books, L1, ticker, liquidations, funding; open interest by REST.

Two sockets carry a symbol, one a route: ``/public`` has books and L1, ``/market`` the rest. A stream asked
for on the wrong one is acknowledged and never speaks.

Limits: 1024 streams a connection, of which 200 are used; 24 h of life, 10 messages a second from us, REST
weight 2400 a minute.
Quirks: sequences are the engine's, of all books, so a diff points back (``pu``) instead of counting on;
depth and partial depth differ by the stream's name only; trades are aggregates of 100 ms; of liquidations
at most one a symbol and second is told, so their sums are lower bounds, but for an order that is told in one
second as filled in part and in the next as filled: nothing names it, so both count (``z``, all that was
filled so far); ``st`` 2 marks coin-margined contracts, which are none of ours; a base may be a multiple
(1000SHIB). Sizes are in base currency.

Source: Binance USD-M futures documents and change notices to 2026-10.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace

from actors.model.decimals import decimal_text, is_zero, price_text, sides_text, size_text, trade_text
from actors.model.errors import Unparseable
from actors.model.events import (
    L1,
    Aggressor,
    BookDelta,
    Channel,
    Event,
    Funding,
    Level,
    Liquidation,
    OpenInterest,
    Ticker,
    Trade,
)
from actors.model.instruments import Instrument, Unusable
from actors.venues import binance
from actors.venues.base import (
    Answer,
    BookRule,
    Closing,
    Connection,
    Decoded,
    Endpoints,
    Ignored,
    Limits,
    Poll,
    Request,
    Scratch,
    Venue,
    decoding,
    read,
)
from actors.venues.common import (
    MS,
    Id,
    Ms,
    asked_as,
    asked_for,
    ms_text,
    planned,
    price_or_none,
    quote,
    rows_of,
    spot,
    symbol_of,
)

NAME: Final = "binance_usdm"
PUBLIC: Final[dict[Channel, str]] = {"book": "depth@100ms", "l1": "bookTicker"}
MARKET: Final[dict[Channel, str]] = {
    "trade": "aggTrade",
    "ticker": "ticker",
    "funding": "markPrice@1s",
    "liquidation": "forceOrder",
}
STREAMS: Final[dict[Channel, str]] = {**PUBLIC, **MARKET}

_COIN_MARGINED: Final = 2
_NOT_OURS: Final = Ignored("coin_margined")


class _Payload(msgspec.Struct, kw_only=True):
    s: str  # native symbol
    st: int = 1  # 1: USD-margined


P = TypeVar("P", bound=_Payload)


class _Trade(_Payload):
    a: Id  # aggregate id, one above the symbol's last
    p: str  # price, quote currency a unit of base
    q: str  # size, base currency
    T: Ms  # time of the match
    m: bool  # the buyer is the maker


class _Depth(_Payload):
    T: Ms
    U: Id  # first update id in this frame
    u: Id  # last update id in this frame
    pu: Id  # ``u`` of the frame before
    b: list[Level]  # absolute size, base currency; zero removes
    a: list[Level]


class _BookTicker(_Payload):
    u: Id
    b: str
    B: str
    a: str
    A: str
    T: Ms


class _Ticker(_Payload):
    E: Ms
    c: str  # last
    o: str  # open
    h: str
    l: str  # noqa: E741 - the venue's name
    v: str  # base volume
    q: str  # quote volume


class _Mark(_Payload):
    E: Ms
    p: str  # mark price
    i: str  # index price
    r: str  # funding rate as it stands, "" for a dated contract
    T: int  # next funding, ms, 0: none


class _Order(_Payload):
    S: Literal["BUY", "SELL"]  # of the order: it sells a long
    ap: str  # average price of what was filled
    z: str  # filled in all, base currency
    T: Ms


class _Forced(msgspec.Struct):
    o: _Order


class _Bare(binance.Reply):
    e: str | None = None
    stream: str | None = None


class _PastTrade(msgspec.Struct):
    a: Id
    p: str
    q: str
    T: Ms
    m: bool


class _Interest(msgspec.Struct, rename="camel"):
    open_interest: str
    symbol: str
    time: Ms


class _Row(msgspec.Struct, rename="camel"):
    symbol: str
    contract_type: str
    status: str
    base_asset: str
    quote_asset: str
    filters: list[binance.Filter] = []


_bare_decoder = msgspec.json.Decoder(_Bare)
_past_trades_decoder = msgspec.json.Decoder(list[_PastTrade])
_interest_decoder = msgspec.json.Decoder(_Interest)


def _trade(t: _Trade, scratch: Scratch) -> Trade:
    price, size = trade_text(t.p, t.q)
    side: Aggressor = "sell" if t.m else "buy"  # the taker is whoever is not the maker
    return Trade(NAME, symbol_of(t.s, scratch), t.T * MS, scratch.recv, t.a, str(t.a), price, size, side)


def _depth(d: _Depth, scratch: Scratch) -> BookDelta:
    if d.u < d.U:
        raise Unparseable(f"depth: last update id {d.u} is below the first, {d.U}")
    symbol, (bids, asks) = symbol_of(d.s, scratch), sides_text(d.b, d.a)
    at, recv, conn, seq = d.T * MS, scratch.recv, scratch.conn, d.u
    return BookDelta(
        NAME, symbol, at, recv, seq, conn, bids, asks, first_seq=d.U, last_seq=seq, prev_seq=d.pu
    )


def _book_ticker(t: _BookTicker, scratch: Scratch) -> L1:
    symbol, at = symbol_of(t.s, scratch), t.T * MS
    return L1(NAME, symbol, at, scratch.recv, t.u, *quote(t.b, t.B, t.a, t.A))


def _ticker(t: _Ticker, scratch: Scratch) -> Ticker:
    last, first, high, low = map(price_or_none, (t.c, t.o, t.h, t.l))
    volumes = size_text(t.v), size_text(t.q)
    symbol = symbol_of(t.s, scratch)
    return Ticker(NAME, symbol, t.E * MS, scratch.recv, None, last, first, high, low, *volumes)


def _mark(m: _Mark, scratch: Scratch) -> Funding:
    symbol, at, next_ts = symbol_of(m.s, scratch), m.E * MS, ms_text(str(m.T))
    rate, mark, index = decimal_text(m.r) if m.r else None, price_text(m.p), price_text(m.i)
    return Funding(NAME, symbol, at, scratch.recv, None, rate, mark=mark, index=index, next_ts=next_ts)


def _forced(said: binance.Push[_Forced], scratch: Scratch) -> Decoded:
    o = said.data.o
    if o.st == _COIN_MARGINED:
        return _NOT_OURS
    if is_zero(size_text(o.z)):
        return Ignored("unfilled")  # an order that nobody has met yet: the fill follows
    price, size = trade_text(o.ap, o.z)
    head = (NAME, symbol_of(o.s, scratch), o.T * MS, scratch.recv, None)
    side, position = ("sell", "long") if o.S == "SELL" else ("buy", "short")
    return Liquidation(*head, side, position, price, size)


def _ours(
    what: str, kind: type[binance.Push[P]], make: Callable[[P, Scratch], Decoded]
) -> Callable[[bytes, Scratch], Decoded]:
    def of_usd(said: binance.Push[P], scratch: Scratch) -> Decoded:
        return _NOT_OURS if said.data.st == _COIN_MARGINED else make(said.data, scratch)

    return decoding(what, kind, of_usd)


_depths = _ours("depth", binance.Push[_Depth], _depth)
_marks = _ours("markPrice", binance.Push[_Mark], _mark)
_STREAMS: Final[dict[bytes, Callable[[bytes, Scratch], Decoded]]] = {
    b"aggTrade": _ours("aggTrade", binance.Push[_Trade], _trade),
    b"depth": _depths,
    b"depth@0ms": _depths,
    b"depth@100ms": _depths,
    b"depth@500ms": _depths,
    b"bookTicker": _ours("bookTicker", binance.Push[_BookTicker], _book_ticker),
    b"ticker": _ours("ticker", binance.Push[_Ticker], _ticker),
    b"markPrice": _marks,
    b"markPrice@1s": _marks,
    b"forceOrder": decoding("forceOrder", binance.Push[_Forced], _forced),
}
_IGNORED: Final = {  # documented streams that are none of our channels
    "trade": "single_trade",  # the same fills as aggTrade, and off-book ones: never both
    "miniTicker": "mini_ticker",
}
_OPENING: Final = b'{"stream":"'
_NAME: Final = len(_OPENING)


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame of a combined socket says; payloads are told apart by their stream's name.

    Raises:
        Unparseable: It does not mean what its stream promises, or is no frame of this venue.
    """
    known = None
    if frame.startswith(_OPENING):
        known = _STREAMS.get(frame[frame.find(b"@", _NAME) + 1 : frame.find(b'"', _NAME)])
    if known is None:
        bare = read("frame", _bare_decoder, frame)
        if bare.stream is None:
            return [_control(bare, frame)]
        kind = bare.stream.partition("@")[2]
        known = _STREAMS.get(kind.encode(errors="replace"))
        if known is None:
            return [_of_no_channel(bare.stream, kind)]
    return [known(frame, scratch)]


def _of_no_channel(stream: str, kind: str) -> Decoded:
    if stream == "!serverShutdown":
        return Closing("serverShutdown")
    return Ignored(_IGNORED.get(kind, "unknown_channel"))


def _control(bare: _Bare, frame: bytes) -> Decoded:
    if bare.e is not None:
        return Closing(bare.e) if bare.e == "serverShutdown" else Ignored("unknown_channel")
    said = binance.answered(bare)
    if said is None:
        raise Unparseable(f"no frame of this venue: {frame[:80]!r}")
    return said


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the snapshot, the open interest, or the trades of the range that was asked for, by their ids.

    Raises:
        Unparseable: The body is not what its request promises.
    """
    request, symbol, body = answer.request, answer.request.symbol, answer.body.encode(errors="replace")
    if request.op == "snapshot" and symbol is not None:
        return [binance.whole_book(body, symbol, scratch)]
    if request.op == "open_interest":
        o = read("openInterest", _interest_decoder, body)
        head = (NAME, symbol_of(o.symbol, scratch), o.time * MS, scratch.recv, None)
        size = size_text(o.open_interest)  # a contract is a unit of base
        return [OpenInterest(*head, size, size, None)]
    symbol, body = asked_as("backfill", answer)
    found = asked_for(read("aggTrades", _past_trades_decoder, body), request, lambda row: row.a)
    return [_past_trade(row, symbol, scratch) for row in found]


def _past_trade(row: _PastTrade, symbol: str, scratch: Scratch) -> Trade:
    price, size = trade_text(row.p, row.q)
    side: Aggressor = "sell" if row.m else "buy"
    head = (NAME, symbol, row.T * MS, scratch.recv, row.a)
    return Trade(*head, str(row.a), price, size, side, backfilled=True)


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the perpetuals of one exchangeInfo that trade now; dated contracts are none of ours.

    Raises:
        Unparseable: The body is no exchangeInfo.
    """
    return rows_of(_Row, binance.listing(body), _perpetual)


def _perpetual(row: _Row) -> Instrument | None:
    if row.status != "TRADING" or row.contract_type not in ("PERPETUAL", "TRADIFI_PERPETUAL"):
        return None
    pair = spot(row.symbol, row.base_asset, row.quote_asset, *binance.steps(row.filters))
    return replace(pair, symbol=f"{pair.symbol}-PERP", contract_size="1", contract_kind="linear")


def snapshot(instrument: Instrument) -> Request:
    """Return the request for the instrument's book."""
    query = urlencode({"symbol": instrument.native, "limit": binance.SNAPSHOT_LEVELS})
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


subscribe = partial(binance.frames, STREAMS, "subscribe")
unsubscribe = partial(binance.frames, STREAMS, "unsubscribe")


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


LIMITS: Final = Limits(
    items_per_connection=200,  # documented 1024; what clients keep to
    frames_per_s=8,  # documented 10, of which pongs take their part
    weight_per_minute=2400,  # documented
    connects_per_minute=60,  # chosen as for spot: none is documented
    lifetime_s=23 * 3600,  # documented 24 h; replaced an hour before
)

BOOK_RULE: Final = BookRule(snapshot="rest", join="overlap", chain="pointer", depth=binance.SNAPSHOT_LEVELS)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"perpetual"}),
    endpoints=Endpoints("wss://fstream.binance.com", "https://fapi.binance.com"),
    channels=frozenset({*STREAMS, "open_interest"}),
    limits=LIMITS,
    book_rule=BOOK_RULE,
    trade_ids="contiguous",
    # Chosen: mark prices come each second, whatever trades; the rest of a symbol may be silent for minutes,
    # its liquidations for hours, so it is the connection that is watched.
    silence_s={"funding": 30.0, "ticker": 600.0, "book": 600.0, "l1": 600.0, "open_interest": 120.0},
    # Chosen: a stream on the wrong route is acknowledged and never speaks.
    first_s={"ticker": 120.0, "book": 120.0, "l1": 120.0, "trade": 600.0},
    quiet_s=60.0,  # chosen: stalls without a close happen
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
