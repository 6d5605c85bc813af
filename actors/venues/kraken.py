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

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Annotated, Final, Generic, Literal, TypeVar
from urllib.parse import urlencode
from zlib import crc32

import msgspec
from msgspec.structs import replace

from actors.model.decimals import decimal_text, levels_text, size_text, trade_text
from actors.model.errors import Unparseable
from actors.model.events import Aggressor, BookDelta, BookSnapshot, Channel, Event, Level, Ticker, Trade
from actors.model.instruments import Instrument, Unusable
from actors.venues.base import (
    Acked,
    Answer,
    Book,
    BookRule,
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
    decoding,
    number_text,
    read,
)
from actors.venues.common import (
    Decimals,
    Id,
    Op,
    Time,
    asked_as,
    asked_for,
    asking,
    date_ns,
    grouped,
    parts,
    planner,
    price_or_none,
    rows_of,
    spot,
    step_text,
    symbol_of,
)

NAME: Final = "kraken"
DEPTHS: Final = (10, 25, 100, 500, 1000)  # any other is refused
PROVED: Final = 10  # levels a side of which the checksum is, whatever depth is subscribed
DEPTH: Final = 100  # chosen: the checksum proves ten; more than a hundred few readers use
SYMBOLS_PER_FRAME: Final = 50  # chosen: no limit is published
CHANNELS: Final[tuple[Channel, ...]] = ("trade", "book", "ticker")
_NATIVE: Final[dict[str, Channel]] = {channel: channel for channel in CHANNELS}
LISTED: Final = frozenset(("online", "limit_only", "post_only", "reduce_only", None))  # None: before 2022
RENAMED: Final = {"XBT": "BTC", "XDG": "DOGE"}
_OLD_NAMES: Final = {new: old for old, new in RENAMED.items()}
BACKFILL_MOST: Final = 1000  # trades in one answer, documented
_MARGIN_NS: Final = 1_000_000  # of a socket's time, which is cut to microseconds; REST's is not
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_Crc = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_Kind = Literal["snapshot", "update"]
_Row = TypeVar("_Row")


class _Told(msgspec.Struct, Generic[_Row], gc=False):
    data: list[_Row]


class _Push(msgspec.Struct, Generic[_Row], gc=False):
    type: _Kind
    data: list[_Row]


class _Trade(msgspec.Struct):
    symbol: str
    side: Aggressor  # the taker's
    price: msgspec.Raw  # quote currency a unit of base
    qty: msgspec.Raw  # base currency
    trade_id: Id  # one above the symbol's last
    timestamp: Time  # of the match


class _Level(msgspec.Struct):
    price: msgspec.Raw
    qty: msgspec.Raw  # absolute, base currency; zero removes


class _Book(msgspec.Struct):
    symbol: str
    bids: list[_Level]  # a snapshot's: best first; an update's: in no order, empty for no change
    asks: list[_Level]
    checksum: _Crc  # of the book after this frame
    timestamp: Time | None = None  # older frames have none


class _Ticker(msgspec.Struct):
    symbol: str
    last: msgspec.Raw
    high: msgspec.Raw
    low: msgspec.Raw
    volume: msgspec.Raw  # base currency
    timestamp: Time | None = None  # older frames have none


class _Result(msgspec.Struct):
    channel: str | None = None  # an answer to a ping has none
    symbol: str | None = None  # the instrument channel has none


class _Status(msgspec.Struct):
    system: str


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


class _Answer(msgspec.Struct):
    error: list[str]
    result: dict[str, msgspec.Raw] = {}  # pairs by name; of Trades also "last"


class _Pair(msgspec.Struct):
    pair_decimals: Decimals | None = None
    lot_decimals: Decimals | None = None
    wsname: str | None = None  # of v1; dark pools have none
    tick_size: str | None = None
    status: str | None = None


class _PastTrade(msgspec.Struct, array_like=True):
    price: str
    size: str
    time: msgspec.Raw  # s
    side: Literal["b", "s"]  # the taker's
    type: str
    note: str
    id: Id


_control_decoder = msgspec.json.Decoder(_Control)
_answer_decoder = msgspec.json.Decoder(_Answer)
_past_trade_rows_decoder = msgspec.json.Decoder(list[_PastTrade])


def _ns(time: datetime | None) -> int | None:
    ns = date_ns(time)
    if ns is None and time is not None:
        raise Unparseable(f"no time of a venue: {time}")
    return ns


def _told_ns(time: datetime | None) -> int | None:
    return None if time == _EPOCH else _ns(time)  # 1970: nothing has happened there yet


def _trade(t: _Trade, scratch: Scratch) -> Trade:
    symbol, at, number = symbol_of(t.symbol, scratch), _ns(t.timestamp), t.trade_id
    price, size = trade_text(number_text(t.price), number_text(t.qty))
    return Trade(NAME, symbol, at, scratch.recv, number, str(number), price, size, t.side)


def _trades(said: _Push[_Trade], scratch: Scratch) -> list[Decoded]:
    if said.type == "snapshot":
        return [Ignored("history")]
    return [_trade(t, scratch) for t in said.data]


def _levels(levels: list[_Level]) -> list[Level]:
    return levels_text([(number_text(level.price), number_text(level.qty)) for level in levels])


def _book(b: _Book, kind: type[BookSnapshot | BookDelta], scratch: Scratch) -> Decoded:
    symbol, at = symbol_of(b.symbol, scratch), _told_ns(b.timestamp)
    bids, asks = _levels(b.bids), _levels(b.asks)
    return kind(NAME, symbol, at, scratch.recv, None, scratch.conn, bids, asks, checksum=b.checksum)


def _books(said: _Push[_Book], scratch: Scratch) -> list[Decoded]:
    kind = BookSnapshot if said.type == "snapshot" else BookDelta
    return [_book(b, kind, scratch) for b in said.data]


@lru_cache(maxsize=8192)  # of the best levels few change from one checksum to the next
def _digits(level: Level) -> str:
    """Return price and size without points and leading zeros, in one text."""
    price, size = level
    return price.replace(".", "").lstrip("0") + size.replace(".", "").lstrip("0")


def book_checksum(book: Book) -> int:
    """Return the CRC32 of the ten best asks, then the ten best bids, best first.

    Source: Kraken, guide "Spot WebSocket book checksum (v2)", read 2026-05.
    """
    bids, asks = book.best_first(PROVED)
    return crc32("".join(map(_digits, asks + bids)).encode())


def _ticker(t: _Ticker, scratch: Scratch) -> Ticker:
    symbol, volume = symbol_of(t.symbol, scratch), size_text(number_text(t.volume))
    at = _told_ns(t.timestamp)
    # A price of 0: a market that sleeps.
    last, high, low = (price_or_none(number_text(each)) for each in (t.last, t.high, t.low))
    return Ticker(NAME, symbol, at, scratch.recv, None, last, None, high, low, volume)


def _statuses(said: _Told[_Status], _scratch: Scratch) -> list[Decoded]:
    return [Ignored(status.system if status.system in _NOT_OPEN else "status") for status in said.data]


_NOT_OPEN: Final = ("maintenance", "cancel_only", "post_only")
_OPENING: Final = b'{"channel":"'
_CHANNELS: Final[dict[bytes, Callable[[bytes, Scratch], list[Decoded]]]] = {
    b"book": decoding("book", _Push[_Book], _books, channel="book"),
    b"trade": decoding("trade", _Push[_Trade], _trades, channel="trade"),
    b"ticker": decoding(
        "ticker", _Told[_Ticker], lambda said, s: [_ticker(t, s) for t in said.data], channel="ticker"
    ),
    b"heartbeat": lambda _frame, _scratch: [Ignored("heartbeat")],
    b"status": decoding("status", _Told[_Status], _statuses),
}


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says; one of a channel is decoded in one pass.

    Raises:
        Unparseable: It does not mean what its channel promises, or is no frame of this venue.
    """
    known = None
    if frame.startswith(_OPENING):
        known = _CHANNELS.get(frame[len(_OPENING) : frame.find(b'"', len(_OPENING))])
    if known is None:
        control = read("frame", _control_decoder, frame)
        if control.channel is None:
            return [_decode_control(control, frame, scratch)]
        known = _CHANNELS.get(control.channel.encode(errors="replace"))
    return [Ignored("unknown_channel")] if known is None else known(frame, scratch) or [Ignored("empty")]


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
    channel = _NATIVE.get(result.channel or "")
    if channel is None or result.symbol is None:
        return Ignored("answer")
    if control.method == "unsubscribe" and control.req_id is None:
        return Ignored("answer")  # by items it would look like consent
    return Acked(control.req_id, [(channel, symbol_of(result.symbol, scratch))])


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the trades of a backfill that were asked for, of those that came.

    Raises:
        Unparseable: It is no such answer, or an error.
    """
    symbol, body = asked_as("backfill", answer)
    pairs = [rows for name, rows in _result("Trades", body).items() if name != "last"]
    if len(pairs) != 1:
        raise Unparseable(f"Trades: {len(pairs)} pairs in one answer")
    trades = read("Trades", _past_trade_rows_decoder, pairs[0])
    return [_past_trade(t, symbol, scratch) for t in asked_for(trades, answer.request, lambda t: t.id)]


def _result(what: str, body: bytes) -> dict[str, msgspec.Raw]:
    told = read(what, _answer_decoder, body)
    if told.error:
        raise Unparseable(f"{what}: {', '.join(told.error)[:200]}")
    return told.result


def _past_trade(t: _PastTrade, symbol: str, scratch: Scratch) -> Trade:
    price, size = trade_text(t.price, t.size)
    head = (NAME, symbol, _seconds(number_text(t.time)), scratch.recv, t.id)
    return Trade(*head, str(t.id), price, size, "buy" if t.side == "b" else "sell", backfilled=True)


_FIRST_NS: Final = 978_307_200 * 1_000_000_000  # 2001


def _seconds(text: str) -> int:
    whole, _, fraction = decimal_text(text).partition(".")
    ns = int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    if not _FIRST_NS <= ns < 1 << 63:
        raise Unparseable(f"no time of a venue: {text[:40]}")
    return ns


def backfill_after(instrument: Instrument, first: str, last: str, after: int) -> Request:
    """Return the request for trades ``first`` to ``last``, which came after a time (ns)."""
    base, _, quote = instrument.native.partition("/")
    pair = _OLD_NAMES.get(base, base) + _OLD_NAMES.get(quote, quote)  # of all pairs the listing's altname
    query = urlencode({"pair": pair, "since": after - _MARGIN_NS, "count": BACKFILL_MOST})
    return Request("backfill", f"/0/public/Trades?{query}", instrument.symbol, first=first, last=last)


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the pairs of one AssetPairs that trade now, by the names that v2 calls them.

    Raises:
        Unparseable: The body is no AssetPairs, or an error.
    """
    return rows_of(_Pair, _result("AssetPairs", body).values(), _instrument)


def _instrument(pair: _Pair) -> Instrument | Unusable | None:
    if pair.wsname is None or pair.status not in LISTED:
        return None
    # Not "base" and "quote": their legacy X and Z are on some codes and part of others.
    base, slash, quote = pair.wsname.partition("/")
    if not (base and slash and quote):
        return Unusable(pair.wsname[:80], pair.wsname[:80], f"{pair.wsname[:40]!r} is no BASE/QUOTE")
    base, quote = RENAMED.get(base, base), RENAMED.get(quote, quote)
    price_step = step_text(pair.pair_decimals) if pair.tick_size is None else pair.tick_size
    native = f"{base}/{quote}"  # AAPLx/USD: case counts
    return spot(native, base, quote, price_step, step_text(pair.lot_decimals))


def _params(channel: str, op: Op, depth: int) -> dict[str, object]:
    params: dict[str, object] = {"channel": channel}
    if channel == "book":
        params["depth"] = depth
    if op == "subscribe":
        params["snapshot"] = channel != "trade"
    return params


def _frames(
    depth: int, op: Op, items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int
) -> list[Subscription]:
    """Return the frames for ``items``, numbered from ``first_id``; a channel a frame."""
    subscriptions: list[Subscription] = []
    for channel, wanted in grouped(items, lambda item: item[0]).items():
        for part in parts(wanted, SYMBOLS_PER_FRAME):
            symbols = [instruments[symbol].native for _, symbol in part]
            number = first_id + len(subscriptions)
            params = {**_params(channel, op, depth), "symbol": symbols}
            document = {"method": op, "params": params, "req_id": number}
            subscriptions.append(asking(op, part, document, number, len(part)))
    return subscriptions


subscribe = partial(_frames, DEPTH, "subscribe")
unsubscribe = partial(_frames, DEPTH, "unsubscribe")

LIMITS: Final = Limits(
    items_per_connection=600,  # chosen: none is published
    frames_per_s=10,  # documented as dynamic; clients keep below 20
    weight_per_minute=30,  # chosen: one request in two seconds; about one a second is documented
    weight_per_s=1,
    connects_per_minute=12,  # documented as 150 in 10 minutes
)

BOOK_RULE: Final = BookRule(
    snapshot="stream", join="none", chain="none", checksum=book_checksum, depth=DEPTH, verified="checksum"
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
    plan=planner("/v2", LIMITS.items_per_connection, subscribe),
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
    subscribe = partial(_frames, depth, "subscribe")
    return replace(
        VENUE,
        book_rule=replace(BOOK_RULE, depth=depth),
        plan=planner("/v2", LIMITS.items_per_connection, subscribe),
        subscribe=subscribe,
        unsubscribe=partial(_frames, depth, "unsubscribe"),
    )
