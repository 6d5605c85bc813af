"""Bybit spot, v5: trades, books, L1 and the 24 h ticker over one public socket of the category.

Both categories of ours share this file; what ``bybit_linear`` has besides stands here, too, because one
decoder reads the frames of both: nothing in a frame says of which category it is, only the URL does.

Limits: 10 topics a request (documented for spot), 21,000 characters of topics a connection, 500 connection
attempts in 5 minutes, a ping each 20 s.
Quirks: keys come in any order; one topic that does not exist fails its whole request; answers of linear
bear no number, and data may come before them or without; a refusal names its topic in its text, if at all,
and not always in the same words; ``type`` of trades means nothing; a snapshot may
come at any time and replaces the book, ``u`` 1 then says that the service was restarted; ``orderbook.1``
is snapshots, said again each 3 s; deltas of a ticker leave out what is unchanged; one ticker stands for
three of our channels; open interest counts both sides, ``singleOpenInterest`` one, as other venues do;
the side of a liquidation is that of the *position*, its price that of bankruptcy. Trade ids are no numbers
(linear) or not said to count (spot), so what is missing has no name, and nothing is fetched. Block trades
are off the book, and a trade has no mark to tell them by: they are left out, counted as ``block_trade``.

Source: bybit-exchange/docs v5 (websocket/public, market, rate-limit, changelog) as of 2026-07. Read
against captures of 2024 to 2026.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Final, Generic, Literal, TypeVar, cast
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace

from actors.model.decimals import decimal_text, is_zero, levels_text, size_text, to_base, trade_text
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
from actors.model.instruments import Instrument, Unusable
from actors.venues.base import (
    Acked,
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
    items_of,
    read,
)
from actors.venues.common import (
    MS,
    Id,
    IdText,
    Ms,
    Op,
    Plan,
    asking,
    grouped,
    ms_text,
    no_answer,
    own_number,
    parts,
    planner,
    rows_of,
    spot,
    symbol_of,
    told_price,
    told_size,
)

NAME: Final = "bybit"
BOOK: Final = "orderbook.200"  # chosen: each 100 ms; 50 levels come each 20 ms, 1,000 each 200 ms
_DEPTH_OF: Final = {f"orderbook.{depth}": depth for depth in (50, 200, 500, 1000)}  # 500 until 2025-09
TOPICS_PER_FRAME: Final = 10
STREAMS: Final[dict[Channel, str]] = {
    "trade": "publicTrade",
    "book": BOOK,
    "l1": "orderbook.1",
    "ticker": "tickers",
    "liquidation": "allLiquidation",
    "open_interest": "tickers",
    "funding": "tickers",
}
_Data = TypeVar("_Data")
_Side = Literal["Buy", "Sell"]
_Kind = Literal["snapshot", "delta"]
_Head = tuple[str, str, int, int, int | None]  # what an event begins with


class _Batch(msgspec.Struct, Generic[_Data]):
    data: list[_Data]


class _Trade(msgspec.Struct):
    i: IdText  # id: digits of spot, a UUID of linear
    T: Ms  # time of the match
    p: str  # price, quote currency a unit of base
    v: str  # size, base currency
    S: _Side  # the taker's
    s: str  # native symbol
    seq: Id | None = None  # the same for all fills of one match
    BT: bool = False  # a block trade


class _Levels(msgspec.Struct):
    s: str
    b: list[Level]  # absolute size, base currency; zero removes
    a: list[Level]
    u: Id  # of this depth's updates: one above the last


class _Book(msgspec.Struct):
    topic: str
    type: _Kind
    ts: Ms  # of sending
    data: _Levels
    cts: Ms | None = None  # of the matching engine


class _Ticker(msgspec.Struct, omit_defaults=True, rename="camel"):
    """What a ticker says; None for what a delta leaves out. ``""`` does not apply."""

    symbol: str
    last_price: str | None = None
    prev_price24h: str | None = msgspec.field(default=None, name="prevPrice24h")
    high_price24h: str | None = msgspec.field(default=None, name="highPrice24h")
    low_price24h: str | None = msgspec.field(default=None, name="lowPrice24h")
    volume24h: str | None = None  # base currency
    turnover24h: str | None = None  # quote currency
    mark_price: str | None = None
    index_price: str | None = None
    funding_rate: str | None = None
    next_funding_time: str | None = None  # ms
    open_interest: str | None = None  # base currency, both sides
    open_interest_value: str | None = None
    single_open_interest: str | None = None  # one side; since 2026-06
    single_open_interest_value: str | None = None


class _Tickers(msgspec.Struct):
    type: _Kind
    ts: Ms
    data: _Ticker
    cs: Id | None = None  # a delta below the last is old


class _Liquidation(msgspec.Struct):
    T: Ms
    s: str
    S: _Side  # of the position: "Buy" is a long
    v: str  # base currency
    p: str  # where the position was bankrupt


class _Bare(msgspec.Struct):
    """What tells one frame from another."""

    topic: str | None = None
    op: str | None = None
    success: bool | None = None
    ret_msg: str | None = None
    req_id: str | int | None = None


class _PriceFilter(msgspec.Struct, rename="camel", frozen=True):
    tick_size: str | None = None


class _LotSize(msgspec.Struct, rename="camel", frozen=True):
    base_precision: str | None = None  # of spot
    qty_step: str | None = None


class _Row(msgspec.Struct, rename="camel"):
    symbol: str
    status: str
    base_coin: str
    quote_coin: str
    contract_type: str | None = None  # none of spot
    price_filter: _PriceFilter = _PriceFilter()
    lot_size_filter: _LotSize = _LotSize()


class _List(msgspec.Struct, rename="camel"):
    rows: list[msgspec.Raw] = msgspec.field(name="list", default_factory=list[msgspec.Raw])
    next_page_cursor: Annotated[str, msgspec.Meta(max_length=1000)] | None = None


class _Listing(msgspec.Struct, rename="camel"):
    ret_code: int
    ret_msg: str = ""
    result: _List = msgspec.field(default_factory=_List)


_bare_decoder = msgspec.json.Decoder(_Bare)
_listing_decoder = msgspec.json.Decoder(_Listing)


# ---- channels -------------------------------------------------------------------------------------------


def _trade(t: _Trade, scratch: Scratch) -> Decoded:
    if t.BT:
        return Ignored("block_trade")
    price, size = trade_text(t.p, t.v)
    if not t.i:
        raise Unparseable("a trade without its id")
    aggressor = "buy" if t.S == "Buy" else "sell"
    symbol = symbol_of(t.s, scratch)
    return Trade(scratch.venue, symbol, t.T * MS, scratch.recv, t.seq, t.i, price, size, aggressor)


def _time(said: _Book) -> int:
    return (said.ts if said.cts is None else said.cts) * MS


def _book(said: _Book, scratch: Scratch) -> list[Decoded]:
    book, whole = said.data, said.type == "snapshot"
    kind = BookSnapshot if whole else BookDelta
    depth = _DEPTH_OF.get(said.topic.rpartition(".")[0]) if whole else None
    symbol, bids, asks = symbol_of(book.s, scratch), levels_text(book.b), levels_text(book.a)
    head = (scratch.venue, symbol, _time(said), scratch.recv, book.u)
    return [kind(*head, scratch.conn, bids, asks, last_seq=book.u, depth=depth)]


def _tops(said: _Book, scratch: Scratch) -> list[Decoded]:
    """Return the best bid and offer of a book of one level; deltas of it came until 2025-03."""
    book, symbol = said.data, symbol_of(said.data.s, scratch)
    known = cast("dict[str, list[Level | None]]", scratch.memory.setdefault("tops", {}))
    top = known.get(symbol)
    if said.type == "delta" and top is None:
        return [Ignored("no_snapshot")]
    if said.type == "snapshot" or top is None:
        top = [None, None]
    known[symbol] = top = [_best(top[0], levels_text(book.b)), _best(top[1], levels_text(book.a))]
    bid, ask = ((None, None) if level is None else level for level in top)
    return [L1(scratch.venue, symbol, _time(said), scratch.recv, book.u, *bid, *ask)]


def _best(last: Level | None, changes: list[Level]) -> Level | None:
    for level in changes:
        if not is_zero(level[1]):
            last = level
        elif last is not None and last[0] == level[0]:
            last = None
    return last


def _tickers(said: _Tickers, scratch: Scratch) -> list[Decoded]:
    """Return what of our channels a ticker tells, put together with what was said before."""
    now, symbol = said.data, symbol_of(said.data.symbol, scratch)
    notes = cast("dict[str, dict[str, str]]", scratch.memory.setdefault("tickers", {}))
    known = notes.get(symbol)
    if said.type == "delta":
        if known is None:
            return [Ignored("no_snapshot")]
        if said.cs is not None and said.cs < int(known["cs"]):
            return [Ignored("old")]
    changed = cast("dict[str, str]", msgspec.to_builtins(now))
    merged = changed if known is None or said.type == "snapshot" else known | changed
    whole = msgspec.convert(merged, _Ticker)
    head = (scratch.venue, symbol, said.ts * MS, scratch.recv, said.cs)
    told = [make(head, now, whole) for channel, make in _OF_TICKER.items() if scratch.wants(channel, symbol)]
    last = str(said.cs) if said.cs is not None else (known or {}).get("cs", "0")
    notes[symbol] = merged | {"cs": last}  # not before all of it was read
    return [*filter(None, told)] or [Ignored("unchanged")]


def _ticker(head: _Head, now: _Ticker, whole: _Ticker) -> Ticker | None:
    prices_now = (now.last_price, now.prev_price24h, now.high_price24h, now.low_price24h)
    if not any((*prices_now, now.volume24h, now.turnover24h)):
        return None
    prices = (whole.last_price, whole.prev_price24h, whole.high_price24h, whole.low_price24h)
    last, first, high, low = map(told_price, prices)
    return Ticker(*head, last, first, high, low, told_size(whole.volume24h), told_size(whole.turnover24h))


def _one_side(single: str | None, both: str | None) -> str | None:
    return told_size(single) or (to_base(size_text(both), "0.5", "linear", "1") if both else None)


def _open_interest(head: _Head, now: _Ticker, whole: _Ticker) -> OpenInterest | None:
    """Return one side's open interest. Its value alone changes with each price, and is no news."""
    if not (now.open_interest or now.single_open_interest):
        return None
    base = _one_side(whole.single_open_interest, whole.open_interest)
    value = _one_side(whole.single_open_interest_value, whole.open_interest_value)
    return OpenInterest(*head, base, base, value)


def _funding(head: _Head, now: _Ticker, whole: _Ticker) -> Funding | None:
    rate = decimal_text(now.funding_rate) if now.funding_rate else None
    mark, index = told_price(now.mark_price), told_price(now.index_price)
    # The next time still holds when only the rate is new.
    next_ts = ms_text(now.next_funding_time if rate is None else whole.next_funding_time)
    if rate is None and mark is None and index is None and next_ts is None:
        return None
    return Funding(*head, rate=rate, mark=mark, index=index, next_ts=next_ts)


_OF_TICKER: Final[dict[Channel, Callable[[_Head, _Ticker, _Ticker], Event | None]]] = {
    "ticker": _ticker,
    "open_interest": _open_interest,
    "funding": _funding,
}


def _liquidation(d: _Liquidation, scratch: Scratch) -> Liquidation:
    price, size = trade_text(d.p, d.v)
    head = (scratch.venue, symbol_of(d.s, scratch), d.T * MS, scratch.recv, None)
    side, position = ("sell", "long") if d.S == "Buy" else ("buy", "short")
    return Liquidation(*head, side, position, price, size)


_DECODERS: Final[dict[bytes, Callable[[bytes, Scratch], list[Decoded]]]] = {
    b"publicTrade": decoding(
        "publicTrade", _Batch[_Trade], lambda said, s: [_trade(t, s) for t in said.data], channel="trade"
    ),
    b"orderbook.1": decoding("orderbook.1", _Book, _tops, channel="l1"),
    **dict.fromkeys(
        (name.encode() for name in _DEPTH_OF), decoding("orderbook", _Book, _book, channel="book")
    ),
    b"tickers": decoding("tickers", _Tickers, _tickers, channel="ticker"),
    b"allLiquidation": decoding(
        "allLiquidation",
        _Batch[_Liquidation],
        lambda said, s: [_liquidation(d, s) for d in said.data],
        channel="liquidation",
    ),
}
_OPENING: Final = b'{"topic":"'
_NAME: Final = len(_OPENING)


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says; one whose topic comes first, as nearly all do, is decoded in one pass.

    Raises:
        Unparseable: It does not mean what its topic promises, or is no frame of this venue.
    """
    known = None
    if frame.startswith(_OPENING):
        known = _DECODERS.get(frame[_NAME : frame.rfind(b".", _NAME, frame.find(b'"', _NAME))])
    if known is None:
        bare = read("frame", _bare_decoder, frame)
        if bare.topic is None:
            return [_control(bare, frame, scratch)]
        known = _DECODERS.get(bare.topic.rpartition(".")[0].encode(errors="replace"))
    if known is None:
        return [Ignored("unknown_channel")]
    return known(frame, scratch) or [Ignored("empty")]


# ---- control frames -------------------------------------------------------------------------------------


_OURS: Final = ("subscribe", "unsubscribe", "", None)  # "": it could not read what was asked
_topics = re.compile(rf"({'|'.join(map(re.escape, {*STREAMS.values()}))})\.([\w-]{{1,40}})").findall


def _control(bare: _Bare, frame: bytes, scratch: Scratch) -> Decoded:
    words = bare.ret_msg or ""
    if words == "pong" or bare.op == "pong":
        return Ignored("heartbeat")
    if bare.success is None:
        raise Unparseable(f"no frame of this venue: {frame[:80]!r}")
    if bare.op not in _OURS:
        return Ignored("unknown_event")  # the answer to a ping that failed, or to what nobody asks
    ours = own_number(bare.req_id)
    if bare.success:
        return Acked(ours)
    items = _named(words, scratch)
    if "already subscribed" in words and items is not None:
        return Acked(ours, items)
    return Refused(words[:200], ours, items, whole=True)


def _named(reason: str, scratch: Scratch) -> list[Item] | None:
    """Return what a refusal is about, None where it does not say: a topic stands anywhere in its text."""
    return [
        item
        for stream, native in _topics(reason)
        if (instrument := scratch.instruments.get(native)) is not None
        for item in items_of([instrument.symbol], [c for c, name in STREAMS.items() if name == stream])
    ] or None


# ---- REST -----------------------------------------------------------------------------------------------


def _listed(body: bytes) -> _List:
    listed = read("instruments-info", _listing_decoder, body)
    if listed.ret_code != 0:
        raise Unparseable(f"instruments-info: {listed.ret_code}: {listed.ret_msg[:200]}")
    return listed.result


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the spot pairs and linear perpetuals of one page that trade now.

    Raises:
        Unparseable: The body is no page of instruments, or an error.
    """
    return rows_of(_Row, _listed(body).rows, _instrument)


def _instrument(row: _Row) -> Instrument | None:
    if row.status != "Trading" or row.contract_type not in (None, "LinearPerpetual"):
        return None
    tick, lot = row.price_filter.tick_size, row.lot_size_filter
    pair = spot(row.symbol, row.base_coin, row.quote_coin, tick, lot.base_precision or lot.qty_step)
    if row.contract_type is None:
        return pair
    return replace(pair, symbol=f"{pair.symbol}-PERP", contract_size="1", contract_kind="linear")


def next_page(request: Request, body: bytes) -> Request | None:
    """Return the request for the page after ``body``.

    Raises:
        Unparseable: The body is no page of instruments.
    """
    cursor = _listed(body).next_page_cursor
    if not cursor:
        return None
    first = request.path.partition("&cursor=")[0]
    return Request("instruments", f"{first}&{urlencode({'cursor': cursor})}")


def listing(category: str) -> tuple[Request, ...]:
    """Return the request for the first page of a category."""
    return (Request("instruments", f"/v5/market/instruments-info?category={category}&limit=1000"),)


# ---- subscriptions --------------------------------------------------------------------------------------


def _frames(
    op: Op, items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int
) -> list[Subscription]:
    by_topic = grouped(items, lambda item: f"{STREAMS[item[0]]}.{instruments[item[1]].native}")
    subscriptions: list[Subscription] = []
    for number, topics in enumerate(parts(list(by_topic), TOPICS_PER_FRAME), first_id):
        asked = [item for topic in topics for item in by_topic[topic]]
        document = {"req_id": str(number), "op": op, "args": topics}
        subscriptions.append(asking(op, asked, document, number))
    return subscriptions


subscribe = partial(_frames, "subscribe")
unsubscribe = partial(_frames, "unsubscribe")


LIMITS: Final = Limits(
    items_per_connection=400,  # documented: 21,000 characters of topics; these are some 14,000
    frames_per_s=10,  # chosen: none is published
    weight_per_minute=600,  # documented: 600 requests in 5 s
    connects_per_minute=60,  # documented: 500 in 5 minutes
    forbidden_s=600.0,  # documented: whoever is told 403 waits 10 minutes
)


def plan(category: str) -> Plan:
    """Return the plan of a category's sockets."""
    return planner(f"/v5/public/{category}", LIMITS.items_per_connection, subscribe)


# The documents promise no hole-free ``u`` but for the full book; captures have none. Each loss is counted,
# and asks for a new subscription after a growing while.
BOOK_RULE: Final = BookRule(snapshot="stream", join="next", chain="next")

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=Endpoints("wss://stream.bybit.com", "https://api.bybit.com"),
    channels=frozenset(("trade", "book", "l1", "ticker")),
    limits=LIMITS,
    book_rule=BOOK_RULE,
    trade_ids="unordered",
    silence_s={"l1": 20.0},  # documented: said again after 3 s without a change
    first_s={"book": 15.0, "ticker": 15.0},  # chosen: both open with a snapshot, at once
    quiet_s=50.0,  # our pings, each 20 s, are answered within one
    plan=plan("spot"),
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=no_answer,
    instruments=listing("spot"),
    rows=rows,
    next_page=next_page,
    keepalive=Keepalive('{"op":"ping"}', 20.0),
)
