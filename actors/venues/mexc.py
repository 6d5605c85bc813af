"""MEXC spot: trades, books, L1 and the 24 h ticker as protocol buffers; answers to what we send are JSON.

Limits: 30 subscriptions a connection, 24 h of life, 30 s without a subscription, 60 s without data unless we
ping, REST weight 500 in 10 s.
Quirks: a refusal bears code 0, only its text tells; answers name channels and bear no number of ours; the end
of a subscription is answered as its beginning is. A side without changes, or without orders, is absent. One
price may have zeros at its end in one channel and none in another: in books it has none. Of tickers only the
rolling day's (``@24H``) is taken, which has no opening price; those of time zones start anew at midnight.
Their ``volume`` is the turnover. REST gives trades without ids, so holes stay. Deals of before 2026-06, in
older captures only, bear none either: ms, price and size stand for it, so that of equal ones of one ms those
in a later frame are lost.

Source: MEXC spot v3 documents, "Websocket market streams" and "How to properly maintain a local copy of the
order book", as of 2026; ``mexc_push`` for the frames. Read against captures of 2026-07 to 2026-09.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final
from urllib.parse import urlencode

import msgspec

from actors.model.decimals import levels_text, trade_text
from actors.model.errors import Unparseable
from actors.model.events import L1, Aggressor, BookDelta, BookSnapshot, Channel, Event, Level, Ticker, Trade
from actors.model.instruments import Instrument, Unusable
from actors.venues import mexc_push
from actors.venues.base import (
    Acked,
    Answer,
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
    read,
)
from actors.venues.common import (
    MS,
    Decimals,
    Op,
    asked_as,
    asking,
    item_of,
    planner,
    quote,
    rows_of,
    spot,
    step_text,
    symbol_of,
    told_price,
    told_size,
)

NAME: Final = "mexc"
SNAPSHOT_LEVELS: Final = 1000  # of 5,000 at most; levels beyond it are unknown until they change
MOST_PUSHED: Final = 10_000  # chosen: changes in one frame; what a window brings is a few hundred
MOST_ID: Final = 64  # chosen: of thousands of trades it is remembered
STREAMS: Final[dict[Channel, tuple[str, str]]] = {  # what stands before and after the symbol
    "trade": ("spot@public.aggre.deals.v3.api.pb@100ms@", ""),
    "book": ("spot@public.aggre.depth.v3.api.pb@100ms@", ""),
    "l1": ("spot@public.aggre.bookTicker.v3.api.pb@100ms@", ""),
    "ticker": ("spot@public.miniTicker.v3.api.pb@", "@24H"),
}
_AGGRESSORS: Final[dict[int, Aggressor]] = {1: "buy", 2: "sell"}
_NAMES: Final = re.compile(r"spot@[^\s,\[\]]+")


class _Reply(msgspec.Struct):
    msg: str  # the channels that were accepted, or why not
    code: int = 0


class _Snapshot(msgspec.Struct):
    lastUpdateId: int | str  # noqa: N815 - the venue's name
    bids: list[Level]
    asks: list[Level]
    timestamp: int | None = None  # ms


class _Row(msgspec.Struct, rename="camel"):
    symbol: str
    status: str | int
    base_asset: str
    quote_asset: str
    is_spot_trading_allowed: bool = True
    base_asset_precision: Decimals | None = None
    quote_asset_precision: Decimals | None = None


class _ExchangeInfo(msgspec.Struct):
    symbols: list[msgspec.Raw]


_reply_decoder = msgspec.json.Decoder(_Reply)
_snapshot_decoder = msgspec.json.Decoder(_Snapshot)
_exchange_info_decoder = msgspec.json.Decoder(_ExchangeInfo)


# ---- frames ---------------------------------------------------------------------------------------------


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says: JSON is an answer, anything else is data.

    Raises:
        Unparseable: It does not mean what its channel promises, or is no frame of this venue.
    """
    if frame.startswith(b"{"):
        return [_control(read("answer", _reply_decoder, frame), scratch)]
    push = mexc_push.parse(frame)
    if push.HasField("depths"):
        return [_depths(push, push.depths, scratch)]
    if push.HasField("book_ticker"):
        return [_book_ticker(push, push.book_ticker, scratch)]
    if push.HasField("deals"):
        return [*_deals(push, push.deals.deals, scratch)] or [Ignored("empty")]
    if push.HasField("mini_ticker"):
        rolling = push.channel.endswith("@24H")
        return [_mini_ticker(push, push.mini_ticker, scratch) if rolling else Ignored("other_day")]
    if not push.channel.startswith("spot@"):
        raise Unparseable(f"no frame of this venue: {frame[:80]!r}")
    if any(push.channel.startswith(before) for before, _ in STREAMS.values()):
        raise Unparseable(f"{push.channel[:80]} without what it promises")
    return [Ignored("unknown_channel")]


def _depths(push: mexc_push.Push, d: mexc_push.Depths, scratch: Scratch) -> BookDelta:
    first, last = _version(d.from_version), _version(d.to_version)
    if last < first:
        raise Unparseable(f"depth: version {last} is below the first, {first}")
    bids, asks = d.bids, d.asks
    _bounded(len(bids) + len(asks))
    head = (NAME, symbol_of(push.symbol, scratch), _ns(push.send_time), scratch.recv, last, scratch.conn)
    return BookDelta(*head, _pushed(bids), _pushed(asks), first_seq=first, last_seq=last)


def _pushed(side: Sequence[mexc_push.Level]) -> list[Level]:
    return _levels([(level.price, level.quantity) for level in side])


def _levels(rows: list[Level]) -> list[Level]:
    # REST writes 84270.00, and pushes 84270: a reader that keeps prices as text is to find the level again.
    return [
        level if level[0][-1] != "0" or "." not in level[0] else (level[0].rstrip("0").rstrip("."), level[1])
        for level in levels_text(rows)
    ]


def _book_ticker(push: mexc_push.Push, t: mexc_push.BookTicker, scratch: Scratch) -> L1:
    bid, ask = t.bid_price, t.ask_price
    sides = quote(bid or "0", t.bid_quantity if bid else "0", ask or "0", t.ask_quantity if ask else "0")
    seq = _version(t.version) if t.version else None
    return L1(NAME, symbol_of(push.symbol, scratch), _ns(push.send_time), scratch.recv, seq, *sides)


def _deals(push: mexc_push.Push, deals: Sequence[mexc_push.Deal], scratch: Scratch) -> list[Trade]:
    _bounded(len(deals))
    symbol = symbol_of(push.symbol, scratch)
    equals: dict[str, int] = {}  # in this frame
    return [_deal(deal, equals, symbol, scratch) for deal in deals]


def _deal(d: mexc_push.Deal, equals: dict[str, int], symbol: str, scratch: Scratch) -> Trade:
    aggressor = _AGGRESSORS.get(d.trade_type)
    if aggressor is None:
        raise Unparseable(f"deals: neither bought nor sold: {d.trade_type}")
    price, size = trade_text(d.price, d.quantity)
    if len(d.trade_id) > MOST_ID:
        raise Unparseable(f"deals: an id of {len(d.trade_id)} characters")
    identity = d.trade_id
    if not identity:  # the place among its equals, as another connection may have cut the window elsewhere
        words = f"{d.time}-{price}-{size}"
        place = equals[words] = equals.get(words, -1) + 1
        identity = f"{words}-{place}"
    return Trade(NAME, symbol, _ns(d.time), scratch.recv, None, identity, price, size, aggressor)


def _mini_ticker(push: mexc_push.Push, t: mexc_push.MiniTicker, scratch: Scratch) -> Ticker:
    head = (NAME, symbol_of(push.symbol, scratch), _ns(push.send_time), scratch.recv, None)
    last, high, low = map(told_price, (t.price, t.high, t.low))
    return Ticker(*head, last, None, high, low, told_size(t.quantity), told_size(t.volume))


def _bounded(number: int) -> None:
    if number > MOST_PUSHED:
        raise Unparseable(f"{number} changes in one frame: more than {MOST_PUSHED}")


def _version(text: str) -> int:
    if not (text.isdigit() and text.isascii()) or len(text) > 18:
        raise Unparseable(f"not a version: {text[:40]!r}")
    return int(text)


def _ns(ms: int) -> int | None:
    if 1_000_000_000_000 <= ms < 9_223_372_036_854:  # as ``Ms``
        return ms * MS
    if ms:
        raise Unparseable(f"not a time in ms: {ms}")
    return None  # absent


def _control(reply: _Reply, scratch: Scratch) -> Decoded:
    text = reply.msg.strip()
    if text.upper() == "PONG":
        return Ignored("heartbeat")
    names = _NAMES.findall(text)
    items = [item for name in names if (item := _item(name, scratch)) is not None]
    if reply.code == 0 and names and ",".join(names) == text:
        return Acked(items=items) if items else Ignored("answer")
    return Refused(text[:200] if reply.code == 0 else f"{reply.code}: {text[:200]}", items=items or None)


def _item(name: str, scratch: Scratch) -> Item | None:
    for channel, (before, after) in STREAMS.items():
        if name.startswith(before) and name.endswith(after):
            return item_of(channel, name[len(before) : len(name) - len(after)], scratch)
    return None


# ---- REST -----------------------------------------------------------------------------------------------


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the snapshot that was asked for.

    Raises:
        Unparseable: The body is not what its request promises.
    """
    symbol, body = asked_as("snapshot", answer)
    s = read("depth", _snapshot_decoder, body)
    at, version = _ns(s.timestamp or 0), _version(str(s.lastUpdateId))
    levels = _levels(s.bids), _levels(s.asks)
    head = (NAME, symbol, at, scratch.recv, version, scratch.conn)
    return [BookSnapshot(*head, *levels, last_seq=version, depth=SNAPSHOT_LEVELS)]


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the instruments of one exchangeInfo that trade now; older ones spell that ``ENABLED``.

    Raises:
        Unparseable: The body is no exchangeInfo.
    """
    return rows_of(_Row, read("exchangeInfo", _exchange_info_decoder, body).symbols, _instrument)


def _instrument(row: _Row) -> Instrument | None:
    if str(row.status) not in ("1", "ENABLED") or not row.is_spot_trading_allowed:
        return None
    price_step, size_step = map(step_text, (row.quote_asset_precision, row.base_asset_precision))
    return spot(row.symbol, row.base_asset, row.quote_asset, price_step, size_step)


def snapshot(instrument: Instrument) -> Request:
    """Return the request for the instrument's book."""
    query = urlencode({"symbol": instrument.native, "limit": SNAPSHOT_LEVELS})
    return Request("snapshot", f"/api/v3/depth?{query}", instrument.symbol, weight=5)


# ---- subscriptions --------------------------------------------------------------------------------------


def _frames(
    op: Op, items: Sequence[Item], instruments: Mapping[str, Instrument], _first_id: int
) -> list[Subscription]:
    """Return a frame for each of ``items``: a refusal then costs the others nothing."""
    method = {"subscribe": "SUBSCRIPTION", "unsubscribe": "UNSUBSCRIPTION"}[op]
    subscriptions: list[Subscription] = []
    for channel, symbol in items:
        before, after = STREAMS[channel]
        params = [f"{before}{instruments[symbol].native}{after}"]
        subscriptions.append(asking(op, [(channel, symbol)], {"method": method, "params": params}))
    return subscriptions


subscribe = partial(_frames, "subscribe")
unsubscribe = partial(_frames, "unsubscribe")

LIMITS: Final = Limits(
    items_per_connection=30,  # documented
    frames_per_s=20,  # chosen: 100 are said to be allowed
    weight_per_minute=1500,  # chosen: half of the documented 500 in 10 s
    weight_per_s=80,  # so that no 10 s hold more: they touch at most six spans of the 2 s that it is kept for
    connects_per_minute=60,  # chosen: none is published
    lifetime_s=23 * 3600,  # documented 24 h; replaced an hour before
    max_frame_bytes=512 * 1024,  # chosen: a message takes up to 30 times its bytes in memory
)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot"}),
    endpoints=Endpoints("wss://wbs-api.mexc.com", "https://api.mexc.com"),
    channels=frozenset(STREAMS),
    limits=LIMITS,
    # The first change must reach the snapshot and may begin before it; each next begins where the last ended.
    book_rule=BookRule(snapshot="rest", join="range", chain="next", contained=True, depth=SNAPSHOT_LEVELS),
    trade_ids="unordered",
    # Chosen: tickers come each 3 s; a book that stalls looks like a quiet one, and makers quote everywhere.
    silence_s={"ticker": 60.0, "book": 60.0},
    quiet_s=45.0,  # our pings are answered
    plan=planner("/ws", LIMITS.items_per_connection, subscribe),
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=decode_rest,
    instruments=(Request("instruments", "/api/v3/exchangeInfo", weight=10),),
    rows=rows,
    snapshot=snapshot,
    keepalive=Keepalive('{"method":"PING"}', 15.0),
)
