"""Gate spot, v4: trades, books (order book V2), L1 and the 24 h ticker over one socket.

Limits: 300 connections an address; nothing else is published, so 100 pairs a connection and 8 messages a
second are kept to. REST 200 requests in 10 s.
Quirks: requests bear the time of sending; the first book may come before the acknowledgement; a change of
the book leaves out the side that is as it was, or both; an unknown book is acknowledged and then silent;
one bad pair fails its whole request, and may not be named; times of trades are text, in ms with a fraction;
the ticker has no time but the gateway's and no opening price; an upgrade is announced in a frame without a
channel. ``id_market`` counts the trades of a pair; past ones are not fetched: in 2022 REST told another side
of a trade than the socket, and than itself when asked by id (gateio/rest-v4, issue 10, still open).
``OLDER`` takes books as the European host still sends them (it has no ``spot.obu``): changes by
``spot.order_book_update``, the snapshot by REST. No configuration selects it: that host is not documented.

Source: gate.com, Spot WebSocket v4 and REST v4 as of 2026-05. Read against captures of 2021 and 2026.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Generic, Literal, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace

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
    read,
)
from actors.venues.common import (
    MS,
    Decimals,
    Id,
    Ms,
    Op,
    asked_as,
    asking,
    grouped,
    item_of,
    ms_text,
    parts,
    planner,
    price_or_none,
    quote,
    rows_of,
    spot,
    step_text,
    symbol_of,
    told_ms,
)

NAME: Final = "gateio"
LEVELS: Final = 400  # documented: each 100 ms; 50 levels come each 20 ms
OLDER_LEVELS: Final = 100
NAMES_PER_FRAME: Final = 50  # chosen: none is published
PAIRS_PER_CONNECTION: Final = 100  # chosen: none is published
STREAMS: Final[dict[Channel, str]] = {
    "trade": "spot.trades",
    "book": "spot.obu",
    "l1": "spot.book_ticker",
    "ticker": "spot.tickers",
}
OLDER_BOOK: Final = "spot.order_book_update"
OLDER_STREAMS: Final[dict[Channel, str]] = {**STREAMS, "book": OLDER_BOOK}
_CHANNELS: Final[dict[str, Channel]] = {OLDER_BOOK: "book", **{name: c for c, name in STREAMS.items()}}
_NO_TIME: Final = '"time":0'  # where the time of sending goes
_MOST_LEVEL: Final = 4  # digits
_words = re.compile(r"""[^\s,:;"'\[\](){}]+""").findall  # of the text of a refusal
_Data = TypeVar("_Data")


class _Update(msgspec.Struct, Generic[_Data]):
    result: _Data


class _Trade(msgspec.Struct):
    id_market: Id  # one above the pair's last
    create_time_ms: str
    side: Literal["buy", "sell"]  # the taker's
    currency_pair: str
    amount: str  # base currency
    price: str
    range: str | None = None  # "first-last" of ``id_market`` that this stands for


class _Book(msgspec.Struct):
    t: Ms
    s: str  # ob.<pair>.<levels>
    u: Id  # last update id
    U: Id | None = None  # first; none of a snapshot
    full: bool = False
    b: list[Level] | None = None  # absolute size, base currency; zero removes
    a: list[Level] | None = None


class _Older(msgspec.Struct):
    t: Ms
    s: str
    U: Id
    u: Id
    full: bool = False
    b: list[Level] | None = None
    a: list[Level] | None = None


class _BookTicker(msgspec.Struct):
    t: Ms
    u: Id
    s: str
    b: str  # "" or "0" when the side is empty
    B: str
    a: str
    A: str


class _Ticker(msgspec.Struct):
    currency_pair: str
    last: str
    high_24h: str
    low_24h: str
    base_volume: str
    quote_volume: str


class _Tickers(msgspec.Struct):
    result: _Ticker
    time_ms: Ms | None = None  # of sending; older frames have none


class _Error(msgspec.Struct):
    code: int
    message: str = ""


class _Bare(msgspec.Struct):
    """What tells one frame from another."""

    channel: str | None = None
    event: str | None = None
    id: int | str | None = None
    error: _Error | None = None
    type: str | None = None
    msg: str = ""


class _Snapshot(msgspec.Struct):
    id: Id
    bids: list[Level]
    asks: list[Level]
    update: Ms | None = None


class _Pair(msgspec.Struct):
    id: str
    base: str
    quote: str
    trade_status: str
    precision: Decimals | None = None
    amount_precision: Decimals | None = None


_bare_decoder = msgspec.json.Decoder(_Bare)
_snapshot_decoder = msgspec.json.Decoder(_Snapshot)
_pairs_decoder = msgspec.json.Decoder(list[msgspec.Raw])


# ---- channels -------------------------------------------------------------------------------------------


def _fractional_ms(text: str) -> int:
    """Return ms with a fraction, as text, as ns."""
    whole, _, fraction = text.partition(".")
    ns = ms_text(whole)
    if ns is None or (fraction and not (fraction.isdigit() and fraction.isascii())):
        raise Unparseable(f"not a time in ms: {text[:40]!r}")
    return ns + int(fraction[:6].ljust(6, "0"))


def _span(t: _Trade) -> tuple[int, int]:
    """Return the first and last of what a trade stands for."""
    if t.range is None:
        return t.id_market, t.id_market
    first, dash, last = t.range.partition("-")
    if not dash or not all(n.isdigit() and n.isascii() and len(n) < 19 for n in (first, last)):
        raise Unparseable(f"not a range of trades: {t.range[:40]!r}")
    if not int(first) <= t.id_market <= int(last):
        raise Unparseable(f"trade {t.id_market} is not in its range {t.range[:40]}")
    return int(first), int(last)


def _trade(said: _Update[_Trade], scratch: Scratch) -> Decoded:
    t = said.result
    symbol, at = symbol_of(t.currency_pair, scratch), _fractional_ms(t.create_time_ms)
    price, size = trade_text(t.price, t.amount)
    first, last = _span(t)
    first_id = None if first == last else str(first)
    head = (scratch.venue, symbol, at, scratch.recv, t.id_market)
    return Trade(*head, str(last), price, size, t.side, first_id=first_id)


def _book(said: _Update[_Book], scratch: Scratch) -> Decoded:
    book = said.result
    pair, _, level = book.s.removeprefix("ob.").rpartition(".")
    if not (level.isdigit() and level.isascii() and len(level) <= _MOST_LEVEL):
        raise Unparseable(f"obu: no book is called {book.s[:60]!r}")
    return _change(book, pair, int(level), scratch)


def _older(said: _Update[_Older], scratch: Scratch) -> Decoded:
    return _change(said.result, said.result.s, OLDER_LEVELS, scratch)


def _change(book: _Book | _Older, pair: str, levels: int, scratch: Scratch) -> Event:
    bids, asks = sides_text(book.b or [], book.a or [])
    head = (scratch.venue, symbol_of(pair, scratch), book.t * MS, scratch.recv, book.u, scratch.conn)
    if book.full:
        return BookSnapshot(*head, bids, asks, last_seq=book.u, depth=levels)
    if book.U is None or book.u < book.U:
        raise Unparseable(f"a change of the book from {book.U} to {book.u}")
    return BookDelta(*head, bids, asks, first_seq=book.U, last_seq=book.u)


def _book_ticker(said: _Update[_BookTicker], scratch: Scratch) -> Decoded:
    t = said.result
    best = quote(t.b or "0", t.B, t.a or "0", t.A)
    return L1(scratch.venue, symbol_of(t.s, scratch), t.t * MS, scratch.recv, t.u, *best)


def _ticker(said: _Tickers, scratch: Scratch) -> Decoded:
    t, at = said.result, told_ms(said.time_ms)
    last, high, low = map(price_or_none, (t.last, t.high_24h, t.low_24h))
    volumes = size_text(t.base_volume), size_text(t.quote_volume)
    symbol = symbol_of(t.currency_pair, scratch)
    return Ticker(scratch.venue, symbol, at, scratch.recv, None, last, None, high, low, *volumes)


_DECODERS: Final[dict[str, Callable[[bytes, Scratch], Decoded]]] = {
    "spot.trades": decoding("trades", _Update[_Trade], _trade, channel="trade"),
    "spot.obu": decoding("obu", _Update[_Book], _book, channel="book"),
    OLDER_BOOK: decoding("order_book_update", _Update[_Older], _older, channel="book"),
    "spot.book_ticker": decoding("book_ticker", _Update[_BookTicker], _book_ticker, channel="l1"),
    "spot.tickers": decoding("tickers", _Tickers, _ticker, channel="ticker"),
}


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says.

    Raises:
        Unparseable: It does not mean what its channel promises, or is no frame of this venue.
    """
    bare = read("frame", _bare_decoder, frame)
    if bare.event in ("subscribe", "unsubscribe") or bare.error is not None:
        return [_answer(bare, scratch)]
    if bare.channel is None:
        if bare.type == "upgrade":
            return [Closing(f"upgrade: {bare.msg[:200]}")]
        raise Unparseable(f"no frame of this venue: {frame[:80]!r}")
    if bare.channel == "spot.pong":
        return [Ignored("heartbeat")]
    known = _DECODERS.get(bare.channel)
    if known is None or bare.event not in ("update", None):
        return [Ignored("unknown_channel" if known is None else "unknown_event")]
    return [known(frame, scratch)]


# ---- control frames -------------------------------------------------------------------------------------


def _answer(bare: _Bare, scratch: Scratch) -> Decoded:
    ours = bare.id if isinstance(bare.id, int) else None  # we number ours; a text id is none of them
    error = bare.error
    if error is None:
        return Acked(ours) if bare.channel in _CHANNELS else Ignored("answer")
    items = _named(bare.channel, error.message, scratch)
    if "Alert sub" in error.message and items is not None:
        return Acked(ours, items)  # it is subscribed already
    return Refused(f"{error.code}: {error.message[:200]}", ours, items, whole=True)


def _named(channel: str | None, reason: str, scratch: Scratch) -> list[Item] | None:
    """Return the one that a refusal is about: a pair or a book somewhere in its text."""
    natives = (word.rstrip(".") for word in _words(reason))
    names = {n[3:].rpartition(".")[0] if n.startswith("ob.") else n for n in natives}
    found = [item for n in names if (item := item_of(_CHANNELS.get(channel or ""), n, scratch)) is not None]
    return found if len(found) == 1 else None  # all of what was asked for names none


# ---- REST -----------------------------------------------------------------------------------------------


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the snapshot that was asked for.

    Raises:
        Unparseable: The body is not what its request promises.
    """
    symbol, body = asked_as("snapshot", answer)
    s = read("order_book", _snapshot_decoder, body)
    bids, asks = sides_text(s.bids, s.asks)
    head = (scratch.venue, symbol, told_ms(s.update), scratch.recv, s.id, scratch.conn)
    return [BookSnapshot(*head, bids, asks, last_seq=s.id, depth=OLDER_LEVELS)]


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the pairs of one list that trade now; one that may only be sold trades, too.

    Raises:
        Unparseable: The body is no list.
    """
    return rows_of(_Pair, read("currency_pairs", _pairs_decoder, body), _instrument)


def _instrument(row: _Pair) -> Instrument | None:
    if row.trade_status not in ("tradable", "sellable"):
        return None
    return spot(row.id, row.base, row.quote, step_text(row.precision), step_text(row.amount_precision))


def snapshot(instrument: Instrument) -> Request:
    """Return the request for the instrument's book, with the number of its last change."""
    query = urlencode({"currency_pair": instrument.native, "limit": OLDER_LEVELS, "with_id": "true"})
    return Request("snapshot", f"/api/v4/spot/order_book?{query}", instrument.symbol)


# ---- subscriptions --------------------------------------------------------------------------------------


def stamp(frame: str, now_s: int) -> str:
    """Return ``frame`` with the time of its sending."""
    return frame.replace(_NO_TIME, f'"time":{now_s}', 1)


def _payload(pairs: list[str], channel: str) -> list[str]:
    if channel == OLDER_BOOK:
        return [*pairs, "100ms"]
    return [f"ob.{pair}.{LEVELS}" for pair in pairs] if channel == STREAMS["book"] else pairs


def _frames(
    streams: Mapping[Channel, str],
    op: Op,
    items: Sequence[Item],
    instruments: Mapping[str, Instrument],
    first_id: int,
) -> list[Subscription]:
    subscriptions: list[Subscription] = []
    for channel, wanted in grouped(items, lambda item: streams[item[0]]).items():
        for part in parts(wanted, 1 if channel == OLDER_BOOK else NAMES_PER_FRAME):
            payload = _payload([instruments[symbol].native for _, symbol in part], channel)
            number = first_id + len(subscriptions)
            document = {"time": 0, "id": number, "channel": channel, "event": op, "payload": payload}
            subscriptions.append(asking(op, part, document, number))
    return subscriptions


subscribe = partial(_frames, STREAMS, "subscribe")
unsubscribe = partial(_frames, STREAMS, "unsubscribe")
_subscribe_older = partial(_frames, OLDER_STREAMS, "subscribe")

LIMITS: Final = Limits(
    items_per_connection=PAIRS_PER_CONNECTION * len(STREAMS),
    frames_per_s=8,  # chosen: none is published
    weight_per_minute=600,  # documented: 200 requests in 10 s an endpoint; half of it
    connects_per_minute=60,  # chosen: 300 connections at once are documented
)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=Endpoints("wss://api.gateio.ws", "https://api.gateio.ws"),
    channels=frozenset(STREAMS),
    limits=LIMITS,
    book_rule=BookRule(snapshot="stream", join="next", chain="next"),
    trade_ids="contiguous",
    silence_s={},  # a healthy book was silent for 36 s, and may be for longer
    first_s={"book": 15.0},  # chosen: an unknown book is acknowledged and never speaks
    quiet_s=45.0,  # our pings, each 15 s, are answered within one
    plan=planner("/ws/v4/", LIMITS.items_per_connection, subscribe, PAIRS_PER_CONNECTION),
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=decode_rest,
    instruments=(Request("instruments", "/api/v4/spot/currency_pairs"),),
    rows=rows,
    keepalive=Keepalive('{"time":0,"channel":"spot.ping"}', 15.0),
    stamp=stamp,
)

OLDER: Final = replace(
    VENUE,
    book_rule=BookRule(snapshot="rest", join="range", chain="range", depth=OLDER_LEVELS),
    plan=planner("/ws/v4/", LIMITS.items_per_connection, _subscribe_older, PAIRS_PER_CONNECTION),
    subscribe=_subscribe_older,
    unsubscribe=partial(_frames, OLDER_STREAMS, "unsubscribe"),
    snapshot=snapshot,
)
