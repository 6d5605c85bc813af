"""Bitrue spot: whole books over one socket, in gzip; trades and the 24 h ticker only for the asking.

Limits: several channels a connection, no number is published, so 50 books a connection and 5 messages a
second are kept to; REST 1,200 of weight a minute. The server pings each 15 s and ends who does not answer
within 60.
Quirks: every frame of the server is binary, gzip of JSON; the end of a subscription is not answered; any
``status`` but ``ok`` is a refusal; bids are called ``buys``; base and quote may be lower case in the list of
instruments. A book is whole in each frame, best 40 levels or so, and bears no sequence: nothing tells of one
that was lost, and nothing proves one, but its time orders them. One that is crossed is dropped, until they
have been crossed for a while. The socket has no trades that are documented: the latest are asked for by REST,
and a page that does not reach back to the last one known is a gap, as trade ids increase (assumed).

Source: Bitrue-exchange, Spot-official-api-docs (2023-07) and Market-API (2021); notes of a live collector of
2026-07. Read against frames of 2022 and 2026.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Final, Literal, cast
from urllib.parse import urlencode

import msgspec

from actors.model.decimals import sides_text, trade_text
from actors.model.errors import Unparseable
from actors.model.events import BookSnapshot, Channel, Event, Gap, Level, Ticker, Trade
from actors.model.instruments import Instrument, Unusable
from actors.venues.base import (
    Acked,
    Answer,
    BookRule,
    Connection,
    Decoded,
    Endpoints,
    Ignored,
    Item,
    Limits,
    Poll,
    Refused,
    Request,
    Scratch,
    Subscription,
    Venue,
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
    item_of,
    planned,
    rows_of,
    spot,
    step_text,
    symbol_of,
    told_price,
    told_size,
)

NAME: Final = "bitrue"
HEAD, TAIL = "market_", "_simple_depth_step0"  # around the pair's name in lower case
PAGE: Final = 500  # trades; chosen: 330 a second without a hole
MOST_PAGE: Final = 1000  # documented; at twice the bytes
LATE_MS: Final = 10_000  # chosen: a book so much older is no straggler, the venue's clock was set
CROSSED_MS: Final = 2_000  # chosen: books that are crossed for so long are a mishap and dropped
MOST_PING: Final = 200  # chosen: bytes; whatever is longer is a book
_PING: Final = re.compile(rb'"ping"\s*:\s*"?([0-9]{1,19})\b')


class _Frame(msgspec.Struct):
    channel: str | None = None
    tick: msgspec.Raw = msgspec.Raw(b"null")
    ts: object = None  # ms of a book; of no meaning in an answer
    status: object = None
    event_rep: str | None = None
    ping: int | str | None = None


class _Book(msgspec.Struct):
    buys: list[Level]  # price, size in base currency; best first
    asks: list[Level]


class _Known(msgspec.Struct):
    id: Id


class _Trade(_Known, rename="camel"):
    price: str
    qty: str  # base currency
    time: Ms
    is_buyer_maker: bool


class _Ticker(msgspec.Struct, rename="camel"):
    symbol: str
    last_price: str | None = None
    open_price: str | None = None
    high_price: str | None = None
    low_price: str | None = None
    volume: str | None = None  # base currency
    quote_volume: str | None = None
    close_time: Ms | None = None


class _Filter(msgspec.Struct, rename="camel"):
    filter_type: str = ""
    price_scale: Decimals | None = None
    volume_scale: Decimals | None = None


class _Row(msgspec.Struct, rename="camel"):
    symbol: str
    status: str
    base_asset: str
    quote_asset: str
    filters: list[_Filter] = []


class _ExchangeInfo(msgspec.Struct):
    symbols: list[msgspec.Raw]


_frame_decoder = msgspec.json.Decoder(_Frame)
_book_decoder = msgspec.json.Decoder(_Book)
_page_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_trade_decoder = msgspec.json.Decoder(_Trade)
_known_decoder = msgspec.json.Decoder(_Known)
_ticker_decoder: msgspec.json.Decoder[_Ticker | list[_Ticker]] = msgspec.json.Decoder(_Ticker | list[_Ticker])
_exchange_info_decoder = msgspec.json.Decoder(_ExchangeInfo)


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame, inflated, says.

    Raises:
        Unparseable: It does not mean what its channel promises, or is no frame of this venue.
    """
    said = read("frame", _frame_decoder, frame)
    if said.ping is not None:
        return [Ignored("heartbeat")]
    channel = said.channel
    item = None if channel is None else _item(channel, scratch)
    if said.status not in (None, "ok"):
        reason = f"status {str(said.status)[:40]}: {frame[:160]!r}"
        return [Refused(reason, items=None if item is None else [item])]
    if channel is None:
        raise Unparseable(f"no frame of this venue: {frame[:80]!r}")
    if said.event_rep == "subed":
        return [Ignored("answer") if item is None else Acked(items=[item])]
    if not (channel.startswith(HEAD) and channel.endswith(TAIL)):
        return [Ignored("unknown_channel")]
    return [_book(said, symbol_of(_native(channel), scratch), scratch)]


def _native(channel: str) -> str:
    return channel[len(HEAD) : -len(TAIL)].upper()


def _item(channel: str, scratch: Scratch) -> Item | None:
    return item_of("book", _native(channel), scratch) if channel.endswith(TAIL) else None


def _book(said: _Frame, symbol: str, scratch: Scratch) -> Decoded:
    at = _ms(said.ts)
    book = read("depth", _book_decoder, said.tick)
    bids, asks = sides_text(book.buys, book.asks)
    # By symbol, ms of the last book that was passed on, and of the first of those crossed since a sound one.
    passed = cast("dict[str, int]", scratch.memory.setdefault("passed", {}))
    crossed = cast("dict[str, int]", scratch.memory.setdefault("crossed", {}))
    last = passed.get(symbol)
    if last is not None and at < last < at + LATE_MS:
        return Ignored("older_book")
    if not (bids and asks and Decimal(bids[0][0]) >= Decimal(asks[0][0])):
        crossed.pop(symbol, None)
    elif abs(at - crossed.setdefault(symbol, at)) < CROSSED_MS:
        return Ignored("crossed_book")
    passed[symbol] = at
    return BookSnapshot(NAME, symbol, at * MS, scratch.recv, at, scratch.conn, bids, asks, last_seq=at)


def _ms(ts: object) -> int:
    try:
        return msgspec.convert(ts, Ms)
    except msgspec.ValidationError as e:
        raise Unparseable(f"depth: ts: {e}") from e


def answer(frame: bytes) -> str | None:
    """Return the pong for a ping of the server."""
    ping = None if len(frame) > MOST_PING else _PING.search(frame)
    return None if ping is None else f'{{"pong":{ping[1].decode()}}}'


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the trades of a page, oldest first and once each, or the ticker.

    A trade that cannot be read is a gap of its id: the others are not to wait until newer ones push it out.

    Raises:
        Unparseable: The body is not what its request promises: no trade of it can be read, or one has no id.
    """
    if answer.request.op == "trade":
        return _page(*asked_as("trade", answer), scratch)
    symbol, body = asked_as("ticker", answer)
    said = read("ticker/24hr", _ticker_decoder, body)
    # Documented is an object; clients of this venue find it in a list of one.
    each = said if isinstance(said, list) else [said]
    if len(each) != 1 or symbol_of(each[0].symbol.upper(), scratch) != symbol:
        raise Unparseable(f"ticker/24hr: not the ticker of {symbol}")
    return [_ticker(each[0], symbol, scratch)]


def _page(symbol: str, body: bytes, scratch: Scratch) -> list[Event]:
    trades: dict[int, Trade] = {}
    gaps: dict[int, Gap] = {}
    wrong: Unparseable | None = None
    for row in read("trades", _page_decoder, body):
        try:
            trade = read("trades", _trade_decoder, row)
            trades[trade.id] = _trade(trade, symbol, scratch)
        except Unparseable as e:
            number, wrong = read("trades", _known_decoder, row).id, e
            ends = str(number), str(number)
            gaps[number] = Gap(NAME, symbol, None, scratch.recv, None, "trade", "sequence", *ends)
    if wrong is not None and not trades:
        raise wrong
    page = gaps | trades
    return [page[number] for number in sorted(page)]


def _trade(t: _Trade, symbol: str, scratch: Scratch) -> Trade:
    price, size = trade_text(t.price, t.qty)
    side: Literal["buy", "sell"] = "sell" if t.is_buyer_maker else "buy"
    return Trade(NAME, symbol, t.time * MS, scratch.recv, t.id, str(t.id), price, size, side)


def _ticker(t: _Ticker, symbol: str, scratch: Scratch) -> Ticker:
    prices = map(told_price, (t.last_price, t.open_price, t.high_price, t.low_price))
    volumes = map(told_size, (t.volume, t.quote_volume))
    at = None if t.close_time is None else t.close_time * MS
    return Ticker(NAME, symbol, at, scratch.recv, None, *prices, *volumes)


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the pairs of one exchangeInfo that trade now.

    Raises:
        Unparseable: The body is no exchangeInfo.
    """
    return rows_of(_Row, read("exchangeInfo", _exchange_info_decoder, body).symbols, _instrument)


def _instrument(row: _Row) -> Instrument | Unusable | None:
    if row.status != "TRADING":
        return None
    by_type = {each.filter_type: each for each in row.filters}
    price, size = (by_type.get(name, _Filter()) for name in ("PRICE_FILTER", "LOT_SIZE"))
    steps = step_text(price.price_scale), step_text(size.volume_scale)
    pair = spot(row.symbol, row.base_asset, row.quote_asset, *steps)
    if row.symbol != row.symbol.upper():  # its channel is in lower case, and would not lead back
        return Unusable(pair.symbol, row.symbol, f"{row.symbol[:40]!r} is not upper case")
    return pair


def _frames(
    op: Op, items: Sequence[Item], instruments: Mapping[str, Instrument], _first_id: int
) -> list[Subscription]:
    event, answers = ("sub", 1) if op == "subscribe" else ("unsub", 0)
    frames: list[Subscription] = []
    for item in items:
        name = instruments[item[1]].native.lower()
        params = {"cb_id": name, "channel": f"{HEAD}{name}{TAIL}"}
        frames.append(asking(op, [item], {"event": event, "params": params}, answers=answers))
    return frames


subscribe = partial(_frames, "subscribe")


def plan(
    endpoints: Endpoints, instruments: Sequence[Instrument], channels: Sequence[Channel]
) -> list[Connection]:
    """Return the connections that carry the books of ``instruments``; all else is polled."""
    ours: list[Channel] = [channel for channel in channels if channel == "book"]
    url = f"{endpoints.ws}/market/ws"
    return planned(url, instruments, ours, LIMITS.items_per_connection, subscribe)


def _asked(op: Literal["ticker", "trade"], path: str, instrument: Instrument, **more: int) -> Request:
    query = urlencode({"symbol": instrument.native, **more})
    return Request(op, f"/api/v1/{path}?{query}", instrument.symbol)


def latest_trades(instrument: Instrument, most: int = PAGE) -> Request:
    """Return the request for the instrument's latest trades."""
    return _asked("trade", "trades", instrument, limit=most)


def ticker(instrument: Instrument) -> Request:
    """Return the request for the instrument's last 24 hours."""
    return _asked("ticker", "ticker/24hr", instrument)


LIMITS: Final = Limits(
    items_per_connection=50,  # chosen: none is published
    frames_per_s=5,  # chosen: none is published
    weight_per_minute=1200,  # documented
    connects_per_minute=60,  # chosen: none is published
)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=Endpoints("wss://ws.bitrue.com", "https://openapi.bitrue.com"),
    channels=frozenset({"book", "ticker", "trade"}),
    limits=LIMITS,
    book_rule=BookRule(snapshot="every", join="none", chain="none", verified="none"),
    trade_ids="increasing",
    silence_s={"trade": 30.0, "ticker": 60.0},  # chosen: of answers; a quiet book is pushed each 18 s or less
    first_s={"book": 120.0},  # chosen: a book is pushed when it changes
    quiet_s=40.0,  # the server pings each 15 s
    plan=plan,
    subscribe=subscribe,
    unsubscribe=partial(_frames, "unsubscribe"),
    decode=decode,
    decode_rest=decode_rest,
    instruments=(Request("instruments", "/api/v1/exchangeInfo"),),
    rows=rows,
    polls={
        "trade": Poll(latest_trades, every_s=1.5, catch_up=partial(latest_trades, most=MOST_PAGE)),
        "ticker": Poll(ticker, every_s=10.0),
    },
    answer=answer,
    inflate="gzip",
)
