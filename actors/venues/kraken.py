"""Kraken spot, WebSocket v2: trades, books with their CRC32, and the 24 h ticker.

Limits: 150 connection attempts in 10 minutes, then a ban of 10; some 20 subscriptions a second; no limit of
symbols and no end of life are published. A connection without activity is closed after a minute.
Quirks: numbers are bare JSON numbers whose digits count for the checksum, so they are taken as text; one
acknowledgement a symbol, whatever one frame asked for; a refusal names the symbol or nothing, never the
channel, and leaves a live, empty socket that goes on with heartbeats; no sequence, the checksum is all the
proof there is, and a level that fell out of the subscribed depth is never deleted; a ``snapshot`` of trades
is history. L1 is derived from the book: the ticker's ``bbo`` trigger is promised for prices only.
REST and v1 call Bitcoin XBT and Dogecoin XDG, v2 calls them BTC and DOGE; nothing else differs. REST gives
past trades by their time only, with the ids that tell which of them are missing.

Source: docs.kraken.com, WebSocket v2 channels book, trade, ticker, status, heartbeat, ping; guides
"book checksum v2" and REST AssetPairs, Trades; as of 2026-05. Read against captures of 2024 to 2026.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Final, Literal
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace

from actors.model.decimals import decimal_text, levels_text, price_text, size_text, trade_text
from actors.model.errors import Unparseable
from actors.model.events import BookDelta, BookSnapshot, Channel, Event, Level, Ticker, Trade
from actors.model.instruments import Instrument
from actors.venues.base import (
    Acked,
    Answer,
    BookRule,
    Connection,
    Decoded,
    Endpoints,
    Ignored,
    Item,
    Keepalive,
    Limits,
    Refused,
    Request,
    Scratch,
    Subscription,
    Venue,
    number_text,
    read,
)
from actors.venues.common import (
    Id,
    asked_for,
    date_ns,
    no_answer,
    planned,
    price_or_none,
    step_text,
    symbol_of,
)

NAME: Final = "kraken"
DEPTHS: Final = (10, 25, 100, 500, 1000)  # any other is refused
DEPTH: Final = 100  # chosen: the checksum proves ten; more than a hundred few readers use
SYMBOLS_PER_FRAME: Final = 50  # chosen: no limit is published
CHANNELS: Final[tuple[Channel, ...]] = ("trade", "book", "ticker")
LISTED: Final = frozenset(("online", "limit_only", "post_only", "reduce_only", None))  # None: before 2022
RENAMED: Final = {"XBT": "BTC", "XDG": "DOGE"}
_OLD_NAMES: Final = {new: old for old, new in RENAMED.items()}
BACKFILL_MOST: Final = 1000  # trades in one answer, documented
_MARGIN_NS: Final = 1_000_000  # of a socket's time, which is cut to microseconds; REST's is not
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_Time = Annotated[datetime, msgspec.Meta(tz=True)]  # RFC 3339, microseconds
_Crc = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_Kind = Literal["snapshot", "update"]


class _Trade(msgspec.Struct):
    symbol: str
    side: Literal["buy", "sell"]  # the taker's
    price: msgspec.Raw  # quote currency a unit of base
    qty: msgspec.Raw  # base currency
    trade_id: Id  # one above the symbol's last
    timestamp: _Time  # of the match


class _Trades(msgspec.Struct):
    type: _Kind
    data: list[_Trade]


class _Level(msgspec.Struct):
    price: msgspec.Raw
    qty: msgspec.Raw  # absolute, base currency; zero removes


class _Book(msgspec.Struct):
    symbol: str
    bids: list[_Level]  # a snapshot's: best first; an update's: in no order, empty for no change
    asks: list[_Level]
    checksum: _Crc  # of the book after this frame
    timestamp: _Time | None = None  # older frames have none


class _Books(msgspec.Struct):
    type: _Kind
    data: list[_Book]


class _Ticker(msgspec.Struct):
    symbol: str
    last: msgspec.Raw
    high: msgspec.Raw
    low: msgspec.Raw
    volume: msgspec.Raw  # base currency
    timestamp: _Time | None = None  # older frames have none


class _Tickers(msgspec.Struct):
    data: list[_Ticker]


class _Result(msgspec.Struct):
    channel: str
    symbol: str | None = None  # the instrument channel has none


class _Status(msgspec.Struct):
    system: str


class _Statuses(msgspec.Struct):
    data: list[_Status]


class _Control(msgspec.Struct):
    """What tells one control frame from another."""

    channel: str | None = None
    method: str | None = None
    success: bool | None = None
    result: _Result | None = None
    error: str | None = None
    rate_error: str | None = msgspec.field(default=None, name="Error")  # {"Error":"Exceeded msg rate"}
    symbol: str | None = None
    req_id: int | None = None


class _Pair(msgspec.Struct):
    pair_decimals: Annotated[int, msgspec.Meta(ge=0, le=32)]
    lot_decimals: Annotated[int, msgspec.Meta(ge=0, le=32)]
    wsname: str | None = None  # of v1; dark pools have none
    tick_size: str | None = None
    status: str | None = None


class _AssetPairs(msgspec.Struct):
    error: list[str]
    result: dict[str, _Pair] = {}


class _PastTrades(msgspec.Struct):
    error: list[str]
    result: dict[str, msgspec.Raw] = {}  # the pair, by whatever name; and "last"


# price, size, time in seconds, the taker's side, market or limit, miscellaneous, trade id
_PastTrade = tuple[str, str, msgspec.Raw, Literal["b", "s"], str, str, Id]

_past_trades_decoder = msgspec.json.Decoder(_PastTrades)
_past_trade_rows_decoder = msgspec.json.Decoder(list[_PastTrade])
_trades_decoder = msgspec.json.Decoder(_Trades)
_books_decoder = msgspec.json.Decoder(_Books)
_tickers_decoder = msgspec.json.Decoder(_Tickers)
_statuses_decoder = msgspec.json.Decoder(_Statuses)
_control_decoder = msgspec.json.Decoder(_Control)
_asset_pairs_decoder = msgspec.json.Decoder(_AssetPairs)


def _ns(time: datetime) -> int:
    ns = date_ns(time)
    if ns is None:
        raise Unparseable(f"no time of a venue: {time}")
    return ns


def _trade(t: _Trade, scratch: Scratch) -> Trade:
    price, size = trade_text(number_text(t.price), number_text(t.qty))
    return Trade(
        NAME,
        symbol_of(t.symbol, scratch),
        _ns(t.timestamp),
        scratch.recv,
        t.trade_id,
        str(t.trade_id),
        price,
        size,
        t.side,
    )


def _trades(frame: bytes, scratch: Scratch) -> list[Decoded]:
    trades = read("trade", _trades_decoder, frame)
    if trades.type == "snapshot":
        return [Ignored("history")]
    return [_trade(t, scratch) for t in trades.data]


def _levels(levels: list[_Level]) -> list[Level]:
    return levels_text([(number_text(level.price), number_text(level.qty)) for level in levels])


def _book(b: _Book, kind: _Kind, scratch: Scratch) -> BookSnapshot | BookDelta:
    return (BookSnapshot if kind == "snapshot" else BookDelta)(
        NAME,
        symbol_of(b.symbol, scratch),
        None if b.timestamp is None else _ns(b.timestamp),
        scratch.recv,
        None,
        scratch.conn,
        _levels(b.bids),
        _levels(b.asks),
        checksum=b.checksum,
    )


def _books(frame: bytes, scratch: Scratch) -> list[Decoded]:
    books = read("book", _books_decoder, frame)
    return [_book(b, books.type, scratch) for b in books.data]


def _price_or_none(raw: msgspec.Raw) -> str | None:
    return price_or_none(number_text(raw))  # 0: a market that sleeps


def _ticker(t: _Ticker, scratch: Scratch) -> Ticker:
    time = t.timestamp
    return Ticker(
        NAME,
        symbol_of(t.symbol, scratch),
        None if time is None or time == _EPOCH else _ns(time),
        scratch.recv,
        None,
        last=_price_or_none(t.last),
        high=_price_or_none(t.high),
        low=_price_or_none(t.low),
        volume_base=size_text(number_text(t.volume)),
    )


def _tickers(frame: bytes, scratch: Scratch) -> list[Decoded]:
    return [_ticker(t, scratch) for t in read("ticker", _tickers_decoder, frame).data]


def _statuses(frame: bytes, _scratch: Scratch) -> list[Decoded]:
    told = read("status", _statuses_decoder, frame).data
    return [Ignored(_SYSTEM.get(status.system, "status")) for status in told]


def _heartbeat(_frame: bytes, _scratch: Scratch) -> list[Decoded]:
    return [Ignored("heartbeat")]


_SYSTEM: Final = {"maintenance": "maintenance", "cancel_only": "cancel_only", "post_only": "post_only"}
_OPENING: Final = b'{"channel":"'
_CHANNELS: Final = {
    b"book": _books,
    b"trade": _trades,
    b"ticker": _tickers,
    b"heartbeat": _heartbeat,
    b"status": _statuses,
}


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says; one of a channel is decoded in one pass.

    Raises:
        Unparseable: It does not mean what its channel promises, or is no frame of this venue.
    """
    if frame.startswith(_OPENING):
        known = _CHANNELS.get(frame[len(_OPENING) : frame.find(b'"', len(_OPENING))])
        if known is not None:
            return known(frame, scratch) or [Ignored("empty")]
    control = read("frame", _control_decoder, frame)
    if control.channel is not None:
        known = _CHANNELS.get(control.channel.encode("utf-8", "replace"))
        return [Ignored("unknown_channel")] if known is None else known(frame, scratch) or [Ignored("empty")]
    return [_decode_control(control, frame, scratch)]


def _decode_control(control: _Control, frame: bytes, scratch: Scratch) -> Decoded:
    error = control.error or control.rate_error
    about_ours = control.method in ("subscribe", "unsubscribe")
    if error is not None and (about_ours or control.method is None):
        items: list[Item] | None = None
        if control.symbol is not None:
            symbol = symbol_of(control.symbol, scratch)
            items = [(channel, symbol) for channel in CHANNELS]  # it does not say which
        return Refused(error[:200], control.req_id, items)
    if about_ours and control.success and control.result is not None:
        return _acked(control, control.result, scratch)
    if control.method == "pong":
        return Ignored("pong")
    if control.method is not None and control.success is not None and not about_ours:
        return Ignored("answer")
    raise Unparseable(f"no frame of this venue: {frame[:80]!r}")


def _acked(control: _Control, result: _Result, scratch: Scratch) -> Decoded:
    channel = _NATIVE.get(result.channel)
    if channel is None or result.symbol is None:
        return Ignored("answer")
    if control.method == "unsubscribe" and control.req_id is None:
        return Ignored("answer")  # by items it would look like consent
    return Acked(control.req_id, [(channel, symbol_of(result.symbol, scratch))])


_NATIVE: Final[dict[str, Channel]] = {"trade": "trade", "book": "book", "ticker": "ticker"}


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the trades of a backfill that were asked for, of those that came.

    Raises:
        Unparseable: It is no such answer, or an error.
    """
    request = answer.request
    if request.op != "backfill" or request.symbol is None:
        no_answer(answer, scratch)
    told = read("Trades", _past_trades_decoder, answer.body.encode())
    if told.error:
        raise Unparseable(f"Trades: {', '.join(told.error)[:200]}")
    pairs = [rows for name, rows in told.result.items() if name != "last"]
    if len(pairs) != 1:
        raise Unparseable(f"Trades: {len(pairs)} pairs in one answer")
    symbol = request.symbol
    trades = asked_for(read("Trades", _past_trade_rows_decoder, pairs[0]), request, lambda row: row[6])
    return [_past_trade(row, symbol, scratch.recv) for row in trades]


def _past_trade(t: _PastTrade, symbol: str, recv: int) -> Trade:
    price, size = trade_text(t[0], t[1])
    aggressor = "buy" if t[3] == "b" else "sell"
    ts, number = _seconds(number_text(t[2])), t[6]
    return Trade(NAME, symbol, ts, recv, number, str(number), price, size, aggressor, backfilled=True)


def _seconds(text: str) -> int:
    whole, _, fraction = decimal_text(text).partition(".")
    ns = int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    if text.startswith("-") or ns >= 1 << 63:
        raise Unparseable(f"no time of a venue: {text[:40]}")
    return ns


def backfill_after(instrument: Instrument, first: str, last: str, after: int) -> Request:
    """Return the request for trades ``first`` to ``last``, which came after a time (ns)."""
    base, _, quote = instrument.native.partition("/")
    pair = _OLD_NAMES.get(base, base) + _OLD_NAMES.get(quote, quote)  # of all pairs the listing's altname
    query = urlencode({"pair": pair, "since": after - _MARGIN_NS, "count": BACKFILL_MOST})
    return Request("backfill", f"/0/public/Trades?{query}", instrument.symbol, first=first, last=last)


def rows(body: bytes) -> list[Instrument]:
    """Return the pairs of one AssetPairs that trade now, by the names that v2 calls them.

    Raises:
        Unparseable: The body is no AssetPairs, or an error.
    """
    listed = read("AssetPairs", _asset_pairs_decoder, body)
    if listed.error:
        raise Unparseable(f"AssetPairs: {', '.join(listed.error)[:200]}")
    return [
        _instrument(pair, pair.wsname)
        for pair in listed.result.values()
        if pair.wsname is not None and pair.status in LISTED
    ]


def _instrument(pair: _Pair, wsname: str) -> Instrument:
    # Not "base" and "quote": their legacy X and Z are on some codes and part of others.
    base, slash, quote = wsname.partition("/")
    if not (base and slash and quote):
        raise Unparseable(f"AssetPairs: {wsname[:40]!r} is no BASE/QUOTE")
    base, quote = RENAMED.get(base, base), RENAMED.get(quote, quote)
    return Instrument(
        symbol=f"{base}-{quote}".upper(),
        native=f"{base}/{quote}",  # AAPLx/USD: case counts
        base=base.upper(),
        quote=quote.upper(),
        price_step=step_text(pair.pair_decimals) if pair.tick_size is None else price_text(pair.tick_size),
        size_step=step_text(pair.lot_decimals),
    )


def _params(channel: Channel, op: str, depth: int) -> dict[str, object]:
    params: dict[str, object] = {"channel": channel}
    if channel == "book":
        params["depth"] = depth
    if op == "subscribe":
        params["snapshot"] = channel != "trade"
    return params


def _frames(
    op: Literal["subscribe", "unsubscribe"],
    items: Sequence[Item],
    instruments: Mapping[str, Instrument],
    first_id: int,
    depth: int,
) -> list[Subscription]:
    by_channel: dict[Channel, list[Item]] = {}
    for item in items:
        by_channel.setdefault(item[0], []).append(item)
    subscriptions: list[Subscription] = []
    for channel, wanted in by_channel.items():
        for start in range(0, len(wanted), SYMBOLS_PER_FRAME):
            part = wanted[start : start + SYMBOLS_PER_FRAME]
            symbols = [instruments[symbol].native for _, symbol in part]
            number = first_id + len(subscriptions)
            params = {**_params(channel, op, depth), "symbol": symbols}
            frame = msgspec.json.encode({"method": op, "params": params, "req_id": number}).decode()
            subscriptions.append(Subscription(op, part, frame, number, len(part)))
    return subscriptions


def subscribe(
    items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int, *, depth: int = DEPTH
) -> list[Subscription]:
    """Return the frames that subscribe ``items``, numbered from ``first_id``; a channel a frame."""
    return _frames("subscribe", items, instruments, first_id, depth)


def unsubscribe(
    items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int, *, depth: int = DEPTH
) -> list[Subscription]:
    """Return the frames that end the subscriptions of ``items``, numbered from ``first_id``."""
    return _frames("unsubscribe", items, instruments, first_id, depth)


def plan(
    endpoints: Endpoints,
    instruments: Sequence[Instrument],
    channels: Sequence[Channel],
    *,
    depth: int = DEPTH,
) -> list[Connection]:
    """Return the connections that carry all ``channels`` of ``instruments``; a symbol stays on one."""
    most = LIMITS.items_per_connection
    return planned(f"{endpoints.ws}/v2", instruments, channels, most, partial(subscribe, depth=depth))


LIMITS: Final = Limits(
    items_per_connection=600,  # chosen: none is published
    frames_per_s=10,  # documented as dynamic; clients keep below 20
    weight_per_minute=30,  # chosen: one request in two seconds; about one a second is documented
    connects_per_minute=12,  # documented as 150 in 10 minutes
)

BOOK_RULE: Final = BookRule(
    snapshot="stream", join="none", chain="none", checksum="kraken", depth=DEPTH, verified="checksum"
)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=Endpoints("wss://ws.kraken.com", "https://api.kraken.com"),
    channels=frozenset(CHANNELS),
    limits=LIMITS,
    book_rule=BOOK_RULE,
    trade_ids="contiguous",
    silence_s={},  # a healthy book was silent for 26 s, and may be for longer
    first_s={"book": 10.0, "ticker": 10.0},  # chosen: both open with a snapshot, at once
    quiet_s=5.0,  # a heartbeat comes each second, 1.1 s at worst
    plan=plan,
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=decode_rest,
    instruments=(Request("instruments", "/0/public/AssetPairs"),),
    rows=rows,
    backfill_after=backfill_after,
    backfill_most=BACKFILL_MOST,
    keepalive=Keepalive('{"method":"ping"}', 30.0),  # where all was refused no heartbeat comes
)


def at_depth(depth: int) -> Venue:
    """Return the venue with books of another depth.

    Raises:
        ValueError: The venue has no such depth.
    """
    if depth not in DEPTHS:
        raise ValueError(f"{NAME} has books of {DEPTHS} levels, not of {depth}")
    return replace(
        VENUE,
        book_rule=replace(BOOK_RULE, depth=depth),
        plan=partial(plan, depth=depth),
        subscribe=partial(subscribe, depth=depth),
        unsubscribe=partial(unsubscribe, depth=depth),
    )
