"""Bitstamp spot: trades and books over one socket, the 24 h ticker for the asking; no best bid and offer.

Limits: 1,024 channels a connection, a client's frame under 512 bytes, 10,000 requests in 10 minutes, 90 days
of life.
Quirks: an unknown market is acknowledged and then silent; errors name neither channel nor request, so their
order alone tells; the server sends no heartbeat but answers ours; before it goes down it asks to reconnect.
Books bear no sequence: the microtimestamp orders their changes, and the snapshot by REST, which is cached,
may be older than the first of them, and then there is a hole; so each is now and then compared with what REST
gives. Sizes and prices as numbers have lost their trailing zeros; the texts beside them have not. Trade ids
are of all markets together. A ticker's ``open`` is the day's, ``open_24`` is of 24 hours ago.
Kept are the best 1,000 levels a side.

Source: bitstamp.net, WebSocket API v2 and HTTP API order_book, ticker, trading-pairs-info; as of 2026-09.
Read against captures of 2022 to 2026.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Literal

import msgspec

from actors.model.decimals import levels_text, sides_text, trade_text
from actors.model.errors import Unparseable
from actors.model.events import BookDelta, BookSnapshot, Channel, Event, Level, Ticker, Trade
from actors.model.instruments import Instrument, Unusable
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
    Keepalive,
    Limits,
    Poll,
    Refused,
    Request,
    Scratch,
    Subscription,
    Venue,
    number_text,
    read,
)
from actors.venues.common import (
    Decimals,
    Id,
    Op,
    asked_as,
    asking,
    item_of,
    planned,
    rows_of,
    spot,
    step_text,
    symbol_of,
    told_price,
    told_size,
)

NAME: Final = "bitstamp"
US: Final = 1000  # ns
LEVELS: Final = 1000  # chosen: a book has some 2,000 a side
AUDIT_S: Final = 300  # chosen
STREAMS: Final[dict[Channel, str]] = {"trade": "live_trades_", "book": "diff_order_book_"}


class _Trade(msgspec.Struct):
    id: Id  # increases over all markets
    type: Literal[0, 1]  # 0: the taker bought
    microtimestamp: str
    price: msgspec.Raw  # quote currency a unit of base
    amount: msgspec.Raw  # base currency
    price_str: str | None = None
    amount_str: str | None = None
    id_str: str | None = None  # where the number may have been rounded


class _Diff(msgspec.Struct):
    microtimestamp: str
    bids: list[Level]  # absolute size, base currency; zero removes
    asks: list[Level]


class _Snapshot(msgspec.Struct):
    timestamp: str  # s
    bids: list[Level]
    asks: list[Level]
    microtimestamp: str | None = None  # older answers have none


class _Ticker(msgspec.Struct):
    timestamp: str  # s
    last: str | None = None
    open_24: str | None = None
    high: str | None = None
    low: str | None = None
    volume: str | None = None  # base currency


class _Frame(msgspec.Struct):
    event: str
    channel: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Error(msgspec.Struct):
    message: str
    code: int | str | None = None


class _Pair(msgspec.Struct):
    url_symbol: str
    name: str
    trading: str
    base_decimals: Decimals | None = None
    counter_decimals: Decimals | None = None


_frame_decoder = msgspec.json.Decoder(_Frame)
_trade_decoder = msgspec.json.Decoder(_Trade)
_diff_decoder = msgspec.json.Decoder(_Diff)
_error_decoder = msgspec.json.Decoder(_Error)
_snapshot_decoder = msgspec.json.Decoder(_Snapshot)
_ticker_decoder = msgspec.json.Decoder(_Ticker)
_pairs_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def _micros(text: str) -> int:
    # 16 digits, the first no zero, are microseconds from 2001 on; what ns in 64 bits cannot say ends in 2262.
    digits = len(text) == 16 and text.isdigit() and text.isascii()
    if not (digits and "1000000000000000" <= text < "9223372036854775"):
        raise Unparseable(f"not a time in microseconds: {text[:40]!r}")
    return int(text)


def _seconds(text: str) -> int:
    return _micros(f"{text}000000")


def _number(text: str) -> int:
    if not (text.isdigit() and text.isascii()) or len(text) > 18:
        raise Unparseable(f"not an id: {text[:40]!r}")
    return int(text)


def _trade(data: msgspec.Raw, symbol: str, scratch: Scratch) -> Trade:
    t = read("trade", _trade_decoder, data)
    price, size = trade_text(
        number_text(t.price) if t.price_str is None else t.price_str,
        number_text(t.amount) if t.amount_str is None else t.amount_str,
    )
    number = t.id if t.id_str is None else _number(t.id_str)
    at, side = _micros(t.microtimestamp) * US, "sell" if t.type else "buy"
    return Trade(NAME, symbol, at, scratch.recv, number, str(number), price, size, side)


def _diff(data: msgspec.Raw, symbol: str, scratch: Scratch) -> BookDelta:
    d = read("diff_order_book", _diff_decoder, data)
    at = _micros(d.microtimestamp)
    bids, asks = sides_text(d.bids, d.asks)
    return BookDelta(NAME, symbol, at * US, scratch.recv, at, scratch.conn, bids, asks, last_seq=at)


_MAKERS: Final[Sequence[tuple[Channel, str, Callable[[msgspec.Raw, str, Scratch], Event]]]] = (
    ("book", "data", _diff),
    ("trade", "trade", _trade),
)


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says.

    Raises:
        Unparseable: It does not mean what its channel promises, or is no frame of this venue.
    """
    said = read("frame", _frame_decoder, frame)
    match said.event:
        case "data" | "trade":
            return [_of_channel(said, scratch)]
        case "bts:subscription_succeeded" | "bts:unsubscription_succeeded":
            item = _item(said.channel, scratch)
            op = "subscribe" if said.event == "bts:subscription_succeeded" else "unsubscribe"
            return [Ignored("answer") if item is None else Acked(items=[item], op=op)]
        case "bts:request_reconnect":
            return [Closing(said.event)]
        case "bts:heartbeat":
            return [Ignored("heartbeat")]
        case "bts:error":
            error = read("bts:error", _error_decoder, said.data)
            code = "" if error.code is None else f"{error.code}: "
            return [Refused(f"{code}{error.message}"[:200], whole=True)]
        case _:
            return [Ignored("unknown_event")]


def _of_channel(said: _Frame, scratch: Scratch) -> Decoded:
    for channel, event, make in _MAKERS:
        stream = STREAMS[channel]
        if said.channel.startswith(stream) and said.event == event:
            symbol = symbol_of(said.channel[len(stream) :], scratch)  # which may have a "_" of its own
            try:
                return make(said.data, symbol, scratch)
            except Unparseable as e:
                e.channel = channel
                raise
    return Ignored("unknown_channel")


def _item(channel: str, scratch: Scratch) -> Item | None:
    for ours, stream in STREAMS.items():
        if channel.startswith(stream):
            return item_of(ours, channel[len(stream) :], scratch)
    return None


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the book or the ticker that was asked for.

    Raises:
        Unparseable: The body is not what its request promises.
    """
    if answer.request.op == "ticker":
        symbol, body = asked_as("ticker", answer)
        return [_ticker(read("ticker", _ticker_decoder, body), symbol, scratch)]
    audit = answer.request.op == "audit"
    symbol, body = asked_as("audit" if audit else "snapshot", answer)
    s = read("order_book", _snapshot_decoder, body)
    # Seconds are too early a time: what is applied twice for it is absolute, and soon made good.
    at = _seconds(s.timestamp) if s.microtimestamp is None else _micros(s.microtimestamp)
    head = (NAME, symbol, at * US, scratch.recv, at, scratch.conn)
    bids, asks = levels_text(s.bids), levels_text(s.asks)
    return [BookSnapshot(*head, bids, asks, last_seq=at, depth=LEVELS, audit=audit)]


def _ticker(t: _Ticker, symbol: str, scratch: Scratch) -> Ticker:
    last, opened, high, low = map(told_price, (t.last, t.open_24, t.high, t.low))
    at, volume = _seconds(t.timestamp) * US, told_size(t.volume)
    return Ticker(NAME, symbol, at, scratch.recv, None, last, opened, high, low, volume)


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the spot pairs of one list that trade now; a perpetual's id has a hyphen.

    Raises:
        Unparseable: The body is no list.
    """
    return rows_of(_Pair, read("trading-pairs-info", _pairs_decoder, body), _instrument)


def _instrument(row: _Pair) -> Instrument | Unusable | None:
    if row.trading != "Enabled" or "-" in row.url_symbol:
        return None
    base, slash, quote = row.name.upper().partition("/")
    if not (base and slash and quote):
        return Unusable(row.name, row.url_symbol, f"{row.name[:40]!r} is no BASE/QUOTE")
    return spot(row.url_symbol, base, quote, step_text(row.counter_decimals), step_text(row.base_decimals))


def _book(op: Literal["snapshot", "audit"], instrument: Instrument) -> Request:
    """Return the request for the instrument's book, levels added up by price."""
    return Request(op, f"/api/v2/order_book/{instrument.native}/?group=1", instrument.symbol)


snapshot = partial(_book, "snapshot")
audit = partial(_book, "audit")


def ticker(instrument: Instrument) -> Request:
    """Return the request for the instrument's last 24 hours."""
    return Request("ticker", f"/api/v2/ticker/{instrument.native}/", instrument.symbol)


def _frames(
    op: Op, items: Sequence[Item], instruments: Mapping[str, Instrument], _first_id: int
) -> list[Subscription]:
    """Return the frames for ``items``, a channel each; the venue's answers bear no number."""
    documents = (
        {"event": f"bts:{op}", "data": {"channel": STREAMS[channel] + instruments[symbol].native}}
        for channel, symbol in items
    )
    return [asking(op, [item], document) for item, document in zip(items, documents, strict=True)]


subscribe = partial(_frames, "subscribe")
unsubscribe = partial(_frames, "unsubscribe")


def plan(
    endpoints: Endpoints, instruments: Sequence[Instrument], channels: Sequence[Channel]
) -> list[Connection]:
    """Return the connections that carry the trades and books of ``instruments``; all else is polled."""
    ours: list[Channel] = [channel for channel in channels if channel in STREAMS]
    return planned(endpoints.ws, instruments, ours, LIMITS.items_per_connection, subscribe)


LIMITS: Final = Limits(
    items_per_connection=1000,  # documented as 1,024
    frames_per_s=20,  # chosen: documented are 1,000 requests a minute, of all kinds
    weight_per_minute=500,  # chosen: half of them
    weight_per_s=200,  # chosen: half of the documented 400
    connects_per_minute=60,  # chosen: none is published
    lifetime_s=89 * 86_400,  # documented as 90 days
)

BOOK_RULE: Final = BookRule(
    snapshot="rest", join="none", chain="none", depth=LEVELS, verified="audit", audit_s=AUDIT_S
)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=Endpoints("wss://ws.bitstamp.net", "https://www.bitstamp.net"),
    channels=frozenset({*STREAMS, "ticker"}),
    limits=LIMITS,
    book_rule=BOOK_RULE,
    trade_ids="increasing",
    silence_s={"ticker": 60.0},  # chosen: of answers; healthy books were silent for 8 s, and may be longer
    first_s={"book": 120.0},  # chosen: an unknown market is acknowledged and never speaks
    quiet_s=25.0,  # ours goes out after 15 s, and is to be answered within 10: mostly it is within one
    plan=plan,
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=decode_rest,
    instruments=(Request("instruments", "/api/v2/trading-pairs-info/"),),
    rows=rows,
    snapshot=snapshot,
    audit=audit,
    polls={"ticker": Poll(ticker, every_s=10.0)},
    keepalive=Keepalive('{"event":"bts:heartbeat"}', 15.0),
)
