"""KuCoin spot, classic protocol: trades, books, L1 and the 24 h ticker over one socket.

Limits: 30 new connections a minute, 100 messages in 10 s and 300 topics on one, 100 names a message; REST
2,000 units in 30 s. A connection lives 24 h at most, and so does the token that one is dialed with.
Quirks: a socket's address and token come by REST, anew for each connection; nothing may be sent before the
server's welcome; it closes whoever has sent no ping for 60 s, though data is streaming; ids come back as
text; an unknown pair is acknowledged and then silent. A pair keeps its id when it is renamed (``BCHSV-USDT``
is BSV/USDT), so only the list tells what an id stands for. A change of the book at price 0 only counts. Times
are ms, but ns as text in trades. Trade ids are opaque, and past trades are not to be had by them: trades
that come twice are told apart, missing ones cannot be fetched.
``ws_url`` of the configuration is dialed in place of the address that comes with the token.
Books by REST have 100 levels a side without a key.

Source: kucoin.com/docs-new, classic WebSocket and spot REST, error codes and rate limits, as of 2026-08; a
probe of 2026-09. Read against captures of 2021 to 2024.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Annotated, Final, Generic, Literal, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec

from actors.model.decimals import sides_text, size_text, trade_text
from actors.model.errors import Unparseable
from actors.model.events import L1, BookDelta, BookSnapshot, Channel, Event, Level, Ticker, Trade
from actors.model.instruments import Instrument, Unusable
from actors.venues.base import (
    Acked,
    Answer,
    BookRule,
    Closing,
    Decoded,
    Endpoints,
    Handshake,
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
    Id,
    IdText,
    Ms,
    Op,
    asked_as,
    asking,
    grouped,
    own_number,
    parts,
    planner,
    price_or_none,
    quote,
    rows_of,
    spot,
    symbol_of,
    told_ms,
)

NAME: Final = "kucoin"
LEVELS: Final = 100
NAMES_PER_FRAME: Final = 100  # documented
SUCCESS: Final = "200000"
STREAMS: Final[dict[Channel, str]] = {
    "trade": "/market/match",
    "book": "/market/level2",
    "l1": "/market/ticker",
    "ticker": "/market/snapshot",
}
ENDPOINTS: Final = Endpoints("wss://ws-api-spot.kucoin.com", "https://api.kucoin.com")
_NO_TIME: Final = '"id":0'  # where the time of a ping goes
_NULL: Final = msgspec.Raw(b"null")
_sequence: Final = itemgetter(2)  # of an entry
_NEVER_TRADED: Final = -1  # what the alignment calls a market without any order yet

# ns of the years 2001 to 2262. Numbers come bare or in quotes: decoders of them are not strict.
Ns = Annotated[int, msgspec.Meta(ge=1_000_000_000_000_000_000, le=(1 << 63) - 1)]
Entry = tuple[str, str, Id]  # price, absolute size, sequence
Data = TypeVar("Data")


class _Push(msgspec.Struct, Generic[Data], gc=False):
    """A frame that brings data."""

    type: Literal["message"]
    topic: str
    data: Data
    subject: str = ""


class _Frame(msgspec.Struct):
    """Any frame."""

    type: str
    id: str | int | None = None
    code: int | str | None = None
    topic: str = ""
    data: msgspec.Raw = _NULL


class _Trade(msgspec.Struct, rename="camel", gc=False):
    symbol: str
    side: Literal["buy", "sell"]  # the taker's
    price: str  # quote currency a unit of base
    size: str  # base currency
    trade_id: IdText
    time: Ns
    sequence: Id | None = None


class _Changes(msgspec.Struct, gc=False):
    asks: list[Entry] | None
    bids: list[Entry] | None


class _Level2(msgspec.Struct, rename="camel", gc=False):
    symbol: str
    sequence_start: Id
    sequence_end: Id
    changes: _Changes
    time: Ms | None = None  # of 2023 and later


class _Ticker(msgspec.Struct, rename="camel", gc=False):
    best_bid: str | None  # null: the side is empty
    best_bid_size: str | None
    best_ask: str | None
    best_ask_size: str | None
    sequence: Id | None = None
    time: Ms | None = None
    capital_time: Ms | None = msgspec.field(name="Time", default=None)  # so in one of the documents


class _Day(msgspec.Struct, rename="camel"):
    symbol: str
    last_traded_price: msgspec.Raw = _NULL
    open: msgspec.Raw = _NULL
    high: msgspec.Raw = _NULL
    low: msgspec.Raw = _NULL
    vol: msgspec.Raw = _NULL  # base currency
    vol_value: msgspec.Raw = _NULL  # quote currency
    datetime: Ms | None = None


class _Snapshot(msgspec.Struct):
    data: _Day
    sequence: Id | None = None


class _Said(msgspec.Struct):
    """What tells a REST answer from a refusal."""

    code: str
    msg: str = ""
    data: msgspec.Raw = _NULL


class _Book(msgspec.Struct):
    sequence: Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]
    bids: list[Level] | None
    asks: list[Level] | None
    time: Ms | None = None


class _Pair(msgspec.Struct, rename="camel"):
    symbol: str
    base_currency: str
    quote_currency: str
    enable_trading: bool
    price_increment: str | None = None
    base_increment: str | None = None


class _Server(msgspec.Struct):
    endpoint: str


class _Token(msgspec.Struct, rename="camel"):
    token: Annotated[str, msgspec.Meta(min_length=1)]
    instance_servers: Annotated[list[_Server], msgspec.Meta(min_length=1)]


_frame_decoder = msgspec.json.Decoder(_Frame)
_error_decoder = msgspec.json.Decoder(str)
_said_decoder = msgspec.json.Decoder(_Said)
_book_decoder = msgspec.json.Decoder(_Book, strict=False)
_pairs_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_token_decoder = msgspec.json.Decoder(_Token)


# ---- channels -------------------------------------------------------------------------------------------


def _trade(said: _Push[_Trade], scratch: Scratch) -> Event:
    t = said.data
    if not t.trade_id:
        raise Unparseable("match: a trade without an id")
    price, size = trade_text(t.price, t.size)
    symbol = symbol_of(t.symbol, scratch)
    return Trade(NAME, symbol, t.time, scratch.recv, t.sequence, t.trade_id, price, size, t.side)


def _side(entries: list[Entry] | None) -> tuple[list[Level], list[int]]:
    """Return levels and their sequences, which order them, without the entries that only count."""
    levels: list[Level] = []
    numbers: list[int] = []
    if entries and len(entries) > 1:
        entries.sort(key=_sequence)
    for price, size, number in entries or ():
        if price[:1] != "0" or price.strip("0."):
            levels.append((price, size))
            numbers.append(number)
    return levels, numbers


def _level2(said: _Push[_Level2], scratch: Scratch) -> Event:
    d = said.data
    first, last = d.sequence_start, d.sequence_end
    bids, bid_numbers = _side(d.changes.bids)
    asks, ask_numbers = _side(d.changes.asks)
    bids, asks = sides_text(bids, asks)
    if last < first:
        raise Unparseable(f"level2: changes from {first} to {last}")
    numbers = None if first == last else bid_numbers + ask_numbers
    symbol, at, recv, conn = symbol_of(d.symbol, scratch), told_ms(d.time), scratch.recv, scratch.conn
    return BookDelta(
        NAME, symbol, at, recv, last, conn, bids, asks, first_seq=first, last_seq=last, level_seqs=numbers
    )


def _ticker(said: _Push[_Ticker], scratch: Scratch) -> Event:
    t, name = said.data, said.topic.partition(":")[2]
    symbol = symbol_of(said.subject if name == "all" else name, scratch)
    at = t.capital_time if t.time is None else t.time
    bid, bid_size = _best(t.best_bid, t.best_bid_size)
    ask, ask_size = _best(t.best_ask, t.best_ask_size)
    bid, bid_size, ask, ask_size = quote(bid, bid_size, ask, ask_size)
    return L1(NAME, symbol, told_ms(at), scratch.recv, t.sequence, bid, bid_size, ask, ask_size)


def _best(price: str | None, size: str | None) -> tuple[str, str]:
    if price is None:
        return "0", "0"
    if size is None:
        raise Unparseable("ticker: a best price without its size")
    return price, size


def _day(said: _Push[_Snapshot], scratch: Scratch) -> Event:
    d = said.data.data
    symbol = symbol_of(d.symbol, scratch)  # the topic may be a whole market's
    return Ticker(
        NAME,
        symbol,
        told_ms(d.datetime),
        scratch.recv,
        said.data.sequence,
        last=_told(d.last_traded_price, price_or_none),
        open=_told(d.open, price_or_none),
        high=_told(d.high, price_or_none),
        low=_told(d.low, price_or_none),
        volume_base=_told(d.vol, size_text),
        volume_quote=_told(d.vol_value, size_text),
    )


def _told(number: msgspec.Raw, plain: Callable[[str], str | None]) -> str | None:
    return None if bytes(number) == b"null" else plain(number_text(number))


_DECODERS: Final[dict[bytes, Callable[[bytes, Scratch], Event]]] = {
    STREAMS["trade"].encode(): decoding("match", _Push[_Trade], _trade, strict=False, channel="trade"),
    STREAMS["book"].encode(): decoding("level2", _Push[_Level2], _level2, strict=False, channel="book"),
    STREAMS["l1"].encode(): decoding("ticker", _Push[_Ticker], _ticker, strict=False, channel="l1"),
    STREAMS["ticker"].encode(): decoding("snapshot", _Push[_Snapshot], _day, strict=False, channel="ticker"),
}
_TOPIC: Final = b'"topic":"'


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says; a message of a known topic is decoded in one pass.

    Raises:
        Unparseable: It does not mean what its topic promises, or is no frame of this venue.
    """
    at = frame.rfind(_TOPIC) + len(_TOPIC)  # in the older frames it stands last
    known = _DECODERS.get(frame[at : frame.find(b":", at)])
    if known is not None:
        try:
            return [known(frame, scratch)]
        except Unparseable:
            return [_decode_other(frame, scratch)]  # it may be another type of frame
    return [_decode_other(frame, scratch)]


def _decode_other(frame: bytes, scratch: Scratch) -> Decoded:
    said = read("frame", _frame_decoder, frame)
    match said.type:
        case "message":
            known = _DECODERS.get(said.topic.partition(":")[0].encode(errors="replace"))
            return Ignored("unknown_channel") if known is None else known(frame, scratch)
        case "pong":
            return Ignored("heartbeat")
        case "ack":
            number = own_number(said.id)
            return Ignored("answer") if number is None else Acked(number)
        case "error":
            return _error(said)
        case "welcome":
            return Ignored("welcome")
        case _:
            return Ignored("unknown_event")


def _error(said: _Frame) -> Decoded:
    data = read("error", _error_decoder, said.data)
    reason = (data if said.code is None else f"{said.code}: {data}")[:200]
    if said.code in (401, "401") or "token is" in data or data == "ping timeout":
        return Closing(reason)  # another connection has a token of its own
    return Refused(reason, own_number(said.id))


# ---- REST -----------------------------------------------------------------------------------------------


def _data(what: str, decoder: msgspec.json.Decoder[Data], body: bytes) -> Data:
    said = read(what, _said_decoder, body)
    if said.code != SUCCESS:
        raise Unparseable(f"{what}: {said.code[:20]}: {said.msg[:200]}")
    return read(what, decoder, said.data)


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the snapshot that was asked for.

    Raises:
        Unparseable: The body is not what its request promises.
    """
    symbol, body = asked_as("snapshot", answer)
    s = _data("orderbook", _book_decoder, body)
    bids, asks = sides_text(s.bids or [], s.asks or [])
    seq = s.sequence if s.sequence > 0 or bids or asks else _NEVER_TRADED
    head = (NAME, symbol, told_ms(s.time), scratch.recv, seq, scratch.conn)
    return [BookSnapshot(*head, bids, asks, last_seq=seq, depth=LEVELS)]


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the pairs of one list that trade now, by what they are called today.

    Raises:
        Unparseable: The body is no list.
    """
    return rows_of(_Pair, _data("symbols", _pairs_decoder, body), _instrument)


def _instrument(row: _Pair) -> Instrument | None:
    if not row.enable_trading:
        return None
    steps = row.price_increment, row.base_increment
    return spot(row.symbol, row.base_currency, row.quote_currency, *steps)


def snapshot(instrument: Instrument) -> Request:
    """Return the request for the best levels of the instrument's book."""
    path = f"/api/v1/market/orderbook/level2_{LEVELS}?symbol={quote_plus(instrument.native)}"
    return Request("snapshot", path, instrument.symbol, weight=2)


def address(planned: str, body: bytes, unique: str) -> str:
    """Return the URL to dial: the venue's own, or the one that is configured, with the token.

    Args:
        planned: What the plan says; another than the venue's own is kept.
        body: Answer to the request for a token.
        unique: Name of the connection.

    Raises:
        Unparseable: The body brings no token, or no address of a WebSocket.
    """
    given = _data("bullet-public", _token_decoder, body)
    base = given.instance_servers[0].endpoint if planned == ENDPOINTS.ws else planned
    try:
        url = urlsplit(base)
        good = url.scheme in ("wss", "ws") and url.hostname and url.port != 0 and not url.fragment
    except ValueError as e:
        raise Unparseable(f"bullet-public: no address: {base[:100]!r}") from e
    if not good or "@" in url.netloc or " " in base or not (base.isascii() and base.isprintable()):
        raise Unparseable(f"bullet-public: no address of a WebSocket: {base[:100]!r}")
    query = urlencode({"token": given.token, "connectId": unique})
    return f"{base}{'&' if url.query else '?'}{query}"


def is_welcome(frame: bytes) -> bool:
    """Tell whether a frame is the one before which nothing may be sent."""
    return b'"welcome"' in frame[:200]


# ---- subscriptions --------------------------------------------------------------------------------------


def stamp(frame: str, now_s: int) -> str:
    """Return a ping with the time of its sending for an id."""
    return frame.replace(_NO_TIME, f'"id":"{now_s}"', 1)


def _frames(
    op: Op, items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int
) -> list[Subscription]:
    """Return the frames that ask for ``items``, numbered from ``first_id``; each is of one channel."""
    subscriptions: list[Subscription] = []
    for stream, wanted in grouped(items, lambda item: STREAMS[item[0]]).items():
        for part in parts(wanted, NAMES_PER_FRAME):
            number = first_id + len(subscriptions)
            names = ",".join(instruments[symbol].native for _, symbol in part)
            topic = f"{stream}:{names}"
            document = {"id": number, "type": op, "topic": topic, "privateChannel": False, "response": True}
            subscriptions.append(asking(op, part, document, number))
    return subscriptions


subscribe = partial(_frames, "subscribe")
unsubscribe = partial(_frames, "unsubscribe")

LIMITS: Final = Limits(
    items_per_connection=200,  # chosen: documented are 300, and 400 elsewhere
    frames_per_s=8,  # documented: 100 in 10 s
    weight_per_minute=2000,  # documented: 2,000 in 30 s an address; half of it
    connects_per_minute=24,  # documented: 30
    lifetime_s=23.5 * 3600,  # documented as 24 h
)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=ENDPOINTS,
    channels=frozenset(STREAMS),
    limits=LIMITS,
    book_rule=BookRule(snapshot="rest", join="range", chain="range", depth=LEVELS, open_end=True),
    trade_ids="unordered",
    silence_s={},  # a quiet book may be silent for minutes
    first_s={"book": 120.0, "ticker": 120.0},  # chosen: an unknown pair is acknowledged and never speaks
    quiet_s=30.0,  # our pings, each 9 s, are answered within 10
    plan=planner("", LIMITS.items_per_connection, subscribe),
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=decode_rest,
    instruments=(Request("instruments", "/api/v2/symbols", weight=4),),
    rows=rows,
    snapshot=snapshot,
    keepalive=Keepalive(f'{{{_NO_TIME},"type":"ping"}}', 9.0),  # documented: each 18 s
    stamp=stamp,
    handshake=Handshake(Request("handshake", "/api/v1/bullet-public", weight=10, post=True), address),
    greeting=is_welcome,
)
