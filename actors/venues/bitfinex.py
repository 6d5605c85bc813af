"""Bitfinex spot, WebSocket v2: trades, books proved by sequence and CRC32, and the 24 h ticker.

Limits: 25 channels a connection (36 were accepted once), 20 connections a minute.
Quirks: data name a channel number that only its acknowledgement tells, and that an end must name: so nothing
is unsubscribed here, the connection is replaced. One sequence runs through all frames of a connection,
heartbeats included: a jump loses every book of it, and trades and tickers may lack something. Each trade
comes twice, ``te`` at once and ``tu`` a second later: ``te`` counts. A count of 0 deletes a level, and its
amount of 1 or -1 tells the side only. Numbers are bare and may have exponents. A heartbeat may come before
its channel's acknowledgement. Prices of books are rounded to 5 significant digits (P0), so BTC is in whole
dollars. The ticker's sizes are sums of 25 levels, no L1. USDT is called UST; other codes have other names.

Source: docs.bitfinex.com v2, ws-general, ws-public, ws-websocket-checksum, rest-public-conf; as of 2026-09.
Read against captures of 2021 to 2026.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import zip_longest
from typing import Annotated, Any, Final
from zlib import crc32

import msgspec

from actors.model.decimals import is_zero, price_text, size_text, trade_text
from actors.model.errors import Unparseable
from actors.model.events import Aggressor, BookDelta, BookSnapshot, Channel, Level, Ticker, Trade
from actors.model.instruments import Instrument, Unusable
from actors.venues.base import (
    Acked,
    Book,
    BookRule,
    Closing,
    Connection,
    Decoded,
    Endpoints,
    Ignored,
    Item,
    Limits,
    Missed,
    Refused,
    Request,
    Scratch,
    Subscription,
    Venue,
    number_text,
    read,
)
from actors.venues.common import (
    MS,
    Id,
    Ms,
    asking,
    item_of,
    no_answer,
    planned,
    price_or_none,
    rows_of,
    spot,
)

NAME: Final = "bitfinex"
LEVELS: Final = 100  # the venue deletes what falls out of them
PROVED: Final = 25  # levels a side of which the checksum is
TIMESTAMP, SEQ_ALL, OB_CHECKSUM = 32_768, 65_536, 131_072
FLAGS: Final = TIMESTAMP | SEQ_ALL | OB_CHECKSUM
STREAMS: Final[dict[Channel, str]] = {"trade": "trades", "book": "book", "ticker": "ticker"}
_CHANNELS: Final[dict[str, Channel]] = {name: channel for channel, name in STREAMS.items()}
_RESTART, _PAUSE, _RESUME = 20_051, 20_060, 20_061  # codes of info
_DUPLICATE: Final = 10_301  # of an error: it is subscribed already
_PAIR: Final = 6  # letters without a colon
_TESTS: Final = frozenset(("AAA", "BBB", "TESTBTC", "TESTUSD", "TESTUSDT"))

_Int32 = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]


class _Fill(msgspec.Struct, array_like=True):
    id: Id  # increases over all pairs
    mts: Ms
    amount: msgspec.Raw  # base currency; below zero the taker sold
    price: msgspec.Raw  # quote currency a unit of base


class _Level(msgspec.Struct, array_like=True, gc=False):
    price: msgspec.Raw
    count: Id  # 0 deletes
    amount: msgspec.Raw  # base currency, absolute; below zero it is an ask


class _Ticker(msgspec.Struct, array_like=True):
    bid: msgspec.Raw
    bid_size: msgspec.Raw
    ask: msgspec.Raw
    ask_size: msgspec.Raw
    change: msgspec.Raw
    relative: msgspec.Raw
    last: msgspec.Raw
    volume: msgspec.Raw  # base currency
    high: msgspec.Raw
    low: msgspec.Raw


class _Platform(msgspec.Struct):
    status: int


class _Event(msgspec.Struct):
    """A frame that is no data."""

    event: str
    channel: str | None = None
    chan_id: Id | None = msgspec.field(default=None, name="chanId")
    symbol: str | None = None
    code: int | None = None
    msg: str = ""
    status: str | None = None
    flags: int | None = None
    platform: _Platform | None = None


class _Name(msgspec.Struct, array_like=True):
    """What the venue calls a currency, and what others do."""

    code: str
    name: str


_parts_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_fill_decoder = msgspec.json.Decoder(_Fill)
_level_decoder = msgspec.json.Decoder(_Level)
_levels_decoder = msgspec.json.Decoder(list[_Level])
_ticker_decoder = msgspec.json.Decoder(_Ticker)
_event_decoder = msgspec.json.Decoder(_Event)
_seq_decoder = msgspec.json.Decoder(Id)
_ms_decoder = msgspec.json.Decoder(Ms)
_checksum_decoder = msgspec.json.Decoder(_Int32)
_lists_decoder = msgspec.json.Decoder(tuple[list[msgspec.Raw], list[_Name]])


class _Data(msgspec.Struct):
    """A data frame taken apart: whose it is, its word (``te``, ``hb``, ...) or none, and what it holds."""

    chan: str
    word: bytes
    payload: bytes
    seq: int | None
    ts_event: int | None


def _taken_apart(frame: bytes) -> _Data:
    parts = read("frame", _parts_decoder, frame)
    if len(parts) < 2:
        raise Unparseable(f"no frame of this venue: {frame[:80]!r}")
    word = bytes(parts[1]) if bytes(parts[1])[:1] == b'"' else b""
    at = 1 if word in (b"", b'"hb"') else 2
    if len(parts) <= at:
        raise Unparseable(f"no frame of this venue: {frame[:80]!r}")
    extras = parts[at + 1 :]  # the sequence, then the time, as the flags ask
    seq = read("sequence", _seq_decoder, extras[0]) if extras else None
    time = read("timestamp", _ms_decoder, extras[1]) * MS if len(extras) > 1 else None
    return _Data(str(parts[0], "latin-1"), word, bytes(parts[at]), seq, time)


def _channels(scratch: Scratch) -> dict[str, list[Any]]:
    """Return what is known by channel number: [channel, symbol, sequence of a book's last frame]."""
    channels: Any = scratch.memory.setdefault("channels", {})
    return channels


def _lost(scratch: Scratch, seq: int) -> list[Decoded]:
    """Note ``seq``; where it does not follow the last one, say so, and that no book of it can be trusted."""
    last: Any = scratch.memory.get("seq", 0)
    scratch.memory["seq"] = seq
    if seq == last + 1:
        return []
    missing = max(last + 1, seq - 1)  # the last one that was lost: no book is at it
    said: list[Decoded] = [Missed()]
    for known in _channels(scratch).values():
        if known[0] == "book":
            known[2] = missing
            said.append(_delta(scratch, known[1], seq=missing, prev=missing))
    return said


def _delta(
    scratch: Scratch,
    symbol: str,
    *,
    seq: int,
    prev: int,
    levels: Sequence[_Level] = (),
    ts_event: int | None = None,
    checksum: int | None = None,
) -> BookDelta:
    bids, asks = _sides(levels)
    recv, conn = scratch.recv, scratch.conn
    return BookDelta(
        NAME, symbol, ts_event, recv, seq, conn, bids, asks, last_seq=seq, prev_seq=prev, checksum=checksum
    )


def _sides(levels: Sequence[_Level]) -> tuple[list[Level], list[Level]]:
    bids: list[Level] = []
    asks: list[Level] = []
    for level in levels:
        amount = number_text(level.amount)
        size = size_text(amount.removeprefix("-"))
        if is_zero(size):
            raise Unparseable("a level of no size: nobody knows its side")
        side = asks if amount[0] == "-" else bids
        side.append((price_text(number_text(level.price)), size if level.count else "0"))
    return bids, asks


def _whole_sides(payload: bytes) -> tuple[list[Level], list[Level]]:
    """Return both sides of a snapshot, at a third of the cost where all is written as it mostly is."""
    text = str(payload, "latin-1")
    if _plain_levels(text) is None:
        return _sides(read("book", _levels_decoder, payload))
    bids: list[Level] = []
    asks: list[Level] = []
    for level in text[2:-2].split("],["):
        price, _count, amount = level.split(",")
        size = amount.removeprefix("-")
        if "e" in level:  # 2e-7
            price, size = price_text(price), size_text(size)
        (asks if amount[0] == "-" else bids).append((price, size))
    return bids, asks


def _book(data: _Data, known: list[Any], scratch: Scratch) -> list[Decoded]:
    symbol, at, seq, ts_event = known[1], known[2], data.seq, data.ts_event
    if data.word not in (b"", b'"cs"'):
        return [Ignored("unknown_word")]
    if seq is None:
        raise Unparseable("a book without its sequence, which was asked for")
    known[2] = seq  # even if the rest cannot be read: then the next change does not follow
    said: list[Decoded]
    if not data.word and data.payload[1:2] in (b"[", b"]"):
        bids, asks = _whole_sides(data.payload)
        book = (NAME, symbol, ts_event, scratch.recv, seq, scratch.conn, bids, asks)
        said = [BookSnapshot(*book, last_seq=seq)]
    elif at is None:
        raise Unparseable("a change of a book before its snapshot")
    elif data.word:
        crc = read("checksum", _checksum_decoder, data.payload) & 0xFFFF_FFFF
        said = [_delta(scratch, symbol, seq=seq, prev=at, ts_event=ts_event, checksum=crc)]
    else:
        level = read("book", _level_decoder, data.payload)
        said = [_delta(scratch, symbol, seq=seq, prev=at, ts_event=ts_event, levels=[level])]
    return said


def _as_javascript(text: str) -> str:
    """Return a number as JavaScript writes it: the fewest digits that read back as the same double."""
    number = float(text)
    digits = repr(number)
    if digits.endswith(".0"):
        return digits[:-2]
    mantissa, e, exponent = digits.partition("e")
    if not e:
        return digits
    if -6 <= int(exponent) < 21:
        return f"{Decimal(digits):f}"
    return f"{mantissa}e{int(exponent):+d}"


def book_checksum(book: Book) -> int:
    """Return the CRC32 of the 25 best levels: bid, ask, bid, ask, each as ``price:amount``, asks negative.

    Where a side has fewer levels, those there are. The venue sends it as a signed number of 32 bits; this
    is the same without its sign.

    Source: Bitfinex, "Websocket checksum", read 2026-09.
    """
    bids, asks = book.best_first(PROVED)
    told = [[f"{_as_javascript(price)}:{_as_javascript(size)}" for price, size in bids]]
    told.append([f"{_as_javascript(price)}:-{_as_javascript(size)}" for price, size in asks])
    return crc32(":".join(level for pair in zip_longest(*told) for level in pair if level).encode())


def _trade(data: _Data, known: list[Any], scratch: Scratch) -> list[Decoded]:
    if data.word != b'"te"':
        words = {b"": "history", b'"tu"': "trade_update"}
        return [Ignored(words.get(data.word, "unknown_word"))]
    fill = read("te", _fill_decoder, data.payload)
    amount = number_text(fill.amount)
    price, size = trade_text(number_text(fill.price), amount.removeprefix("-"))
    aggressor: Aggressor = "sell" if amount[0] == "-" else "buy"
    ts_event, identity = fill.mts * MS, str(fill.id)
    return [Trade(NAME, known[1], ts_event, scratch.recv, fill.id, identity, price, size, aggressor)]


def _price_or_none(raw: msgspec.Raw) -> str | None:
    text = number_text(raw)
    return None if text == "null" else price_or_none(text)


def _ticker(data: _Data, known: list[Any], scratch: Scratch) -> list[Decoded]:
    t = read("ticker", _ticker_decoder, data.payload)
    last, high, low = _price_or_none(t.last), _price_or_none(t.high), _price_or_none(t.low)
    volume = number_text(t.volume)
    size = None if volume == "null" else size_text(volume)
    return [Ticker(NAME, known[1], data.ts_event, scratch.recv, None, last, None, high, low, size)]


def _other(_data: _Data, _known: list[Any], _scratch: Scratch) -> list[Decoded]:
    return [Ignored("not_ours")]


_DATA: Final = {"book": _book, "trade": _trade, "ticker": _ticker, "": _other}


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says, and what the jump of the sequence before it does.

    Raises:
        Unparseable: It does not mean what its channel promises, or is no frame of this venue.
    """
    change = _changed(frame, scratch)
    if change is not None:
        return change
    if not frame.startswith(b"["):
        return [_event(read("frame", _event_decoder, frame), scratch)]
    data = _taken_apart(frame)
    last = scratch.memory.get("seq", 0)
    said = [] if data.seq is None else _lost(scratch, data.seq)
    known = _channels(scratch).get(data.chan)
    if data.word == b'"hb"':  # it may come before its channel is known
        return [*said, Ignored("heartbeat")]
    if known is None:
        return [*said, Ignored("unknown_channel"), Closing(f"a frame of channel {data.chan[:20]}, unknown")]
    try:
        return [*said, *_DATA[known[0]](data, known, scratch)]
    except Unparseable as e:
        e.channel = known[0]
        if said:
            scratch.memory["seq"] = last  # so that the next frame tells of the jump
        raise


_ABOVE_ZERO: Final = r"(?=[0.]*+[1-9])(?:0|[1-9][0-9]{0,30}+)(?:\.[0-9]{1,31}+)?+"
_NUMBER: Final = r"[1-9][0-9]{0,17}+"  # in 64 bits
_MTS: Final = r"[1-8][0-9]{12}"  # of the years 2001 to 2255
_SMALL: Final = _ABOVE_ZERO + "(?:e-[0-9]{1,2}+)?+"
_plain_levels = re.compile(rf"\[(?:\[{_SMALL},{_NUMBER},-?{_SMALL}\],?+)++\]").fullmatch
# [channel, [price, count, amount], sequence, time]: nearly all frames; what looks otherwise is taken apart
_change = re.compile(
    rf"\[({_NUMBER}),\[({_ABOVE_ZERO}),(0|{_NUMBER}),(-?)({_ABOVE_ZERO})\],({_NUMBER})(?:,({_MTS}))?\]"
).fullmatch


def _changed(frame: bytes, scratch: Scratch) -> list[Decoded] | None:
    """Return what a change of one level says, read at half the cost; None for any other frame."""
    change = _change(str(frame, "latin-1"))
    if change is None:
        return None
    chan, price, count, minus, size, number, mts = change.groups()
    memory: dict[str, Any] = scratch.memory
    known = memory["channels"].get(chan) if "channels" in memory else None
    if known is None or known[2] is None:  # no book, or one without its snapshot
        return None
    seq = int(number)
    said: list[Decoded] = [] if memory.get("seq") == seq - 1 else _lost(scratch, seq)
    memory["seq"] = seq
    before, known[2] = known[2], seq
    level: list[Level] = [(price, "0" if count == "0" else size)]
    bids, asks = ([], level) if minus else (level, [])
    ts_event = None if mts is None else int(mts) * MS
    recv, conn = scratch.recv, scratch.conn
    said.append(
        BookDelta(NAME, known[1], ts_event, recv, seq, conn, bids, asks, last_seq=seq, prev_seq=before)
    )
    return said


def _event(event: _Event, scratch: Scratch) -> Decoded:
    match event.event:
        case "subscribed" | "unsubscribed":
            return _answer(event, scratch)
        case "error":
            return _refusal(event, scratch)
        case "info":
            return _info(event)
        case "conf" if event.status != "OK" or not (event.flags or 0) & SEQ_ALL:
            return Closing(f"the sequence was asked for and not given: {event.status}, {event.flags}"[:200])
        case "conf" | "pong":
            return Ignored(event.event)
        case _:
            return Ignored("unknown_event")


def _info(event: _Event) -> Decoded:
    if event.code in (_RESTART, _RESUME):
        return Closing(f"{event.code}: {event.msg[:200]}")
    stopped = event.code == _PAUSE or (event.platform is not None and not event.platform.status)
    return Ignored("maintenance" if stopped else "info")


def _item(event: _Event, scratch: Scratch) -> Item | None:
    return item_of(_CHANNELS.get(event.channel or ""), event.symbol, scratch)


def _answer(event: _Event, scratch: Scratch) -> Decoded:
    if event.chan_id is None:
        raise Unparseable(f"{event.event} without its chanId")
    channels, chan = _channels(scratch), str(event.chan_id)
    if event.event == "unsubscribed":
        channels.pop(chan, None)
        return Ignored("answer")
    item = _item(event, scratch)
    channels[chan] = ["", "", None] if item is None else [*item, None]
    return Ignored("answer") if item is None else Acked(items=[item])


def _refusal(event: _Event, scratch: Scratch) -> Decoded:
    if event.code == _DUPLICATE:
        return Ignored("duplicate")
    item = _item(event, scratch)
    return Refused(f"{event.code}: {event.msg}"[:200], items=None if item is None else [item])


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the pairs of the list, under the names that the map beside it has for their codes.

    Raises:
        Unparseable: The body is not these two lists.
    """
    pairs, names = read("conf", _lists_decoder, body)
    return rows_of(str, pairs, partial(_instrument, {each.code: each.name for each in names}))


def _instrument(names: Mapping[str, str], pair: str) -> Instrument | Unusable | None:
    codes = pair.split(":") if ":" in pair or len(pair) != _PAIR else [pair[:3], pair[3:]]
    if _TESTS & {*codes}:
        return None
    if len(codes) != 2 or not all(codes):
        return Unusable(pair, f"t{pair}", f"{pair[:40]!r} is neither BASE:QUOTE nor three letters of each")
    base, quote = (names.get(code, code) for code in codes)
    return spot(f"t{pair}", base, quote)


def subscribe(
    items: Sequence[Item], instruments: Mapping[str, Instrument], _first_id: int
) -> list[Subscription]:
    """Return the frames that subscribe ``items``, a channel each; the venue's answers bear no number."""
    return [_subscription(item, instruments[item[1]].native) for item in items]


def _subscription(item: Item, native: str) -> Subscription:
    document = {"event": "subscribe", "channel": STREAMS[item[0]], "symbol": native}
    if item[0] == "book":
        document |= {"prec": "P0", "freq": "F0", "len": str(LEVELS)}
    return asking("subscribe", [item], document)


def plan(
    endpoints: Endpoints, instruments: Sequence[Instrument], channels: Sequence[Channel]
) -> list[Connection]:
    """Return the connections that carry all ``channels`` of ``instruments``; a symbol stays on one."""
    url, most = f"{endpoints.ws}/ws/2", LIMITS.items_per_connection
    connections = planned(url, instruments, channels, most, subscribe)
    return [Connection(url, [_CONF, *connection.subscriptions]) for connection in connections]


_CONF: Final = Subscription("subscribe", [], f'{{"event":"conf","flags":{FLAGS}}}', answers=2)  # and info

LIMITS: Final = Limits(
    items_per_connection=25,  # documented as 25 and as 30
    frames_per_s=10,  # chosen: none is published
    weight_per_minute=10,  # documented as 10 to 90, by endpoint
    connects_per_minute=15,  # documented as 20, then a minute's ban
)

BOOK_RULE: Final = BookRule(snapshot="stream", join="pointer", chain="pointer", checksum=book_checksum)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=Endpoints("wss://api-pub.bitfinex.com", "https://api-pub.bitfinex.com"),
    channels=frozenset(STREAMS),
    limits=LIMITS,
    book_rule=BOOK_RULE,
    trade_ids="increasing",
    silence_s={},  # a heartbeat comes for each channel, however quiet
    first_s={"book": 15.0, "ticker": 15.0},  # chosen: both open with a snapshot, at once
    quiet_s=20.0,  # a heartbeat comes each 15 s
    plan=plan,
    subscribe=subscribe,
    unsubscribe=None,
    decode=decode,
    decode_rest=no_answer,
    instruments=(Request("instruments", "/v2/conf/pub:list:pair:exchange,pub:map:currency:sym"),),
    rows=rows,
)
