"""OKX spot and perpetual swaps over one public socket: all seven channels.

Both markets share the socket and the id ``okx``; the native id tells them apart (``BTC-USDT``,
``BTC-USDT-SWAP``). Swaps are those whose underlying is their base and quote (linear in the settlement
coin, inverse in USD); other families are not listed. ``funding`` stands for three channels of the venue:
the rate, which answers for all, and mark and index price beside it.

Limits: 3 connections a second, 480 subscriptions and their ends an hour and connection, under 30 books a
connection, 64 KB a request, 30 s without a word.
Quirks: sizes of swaps are contracts; a trade may stand for ``count`` fills, whose last id it bears; one
answer an argument, and data may come before it; an error names its argument only in its text; ``ping``
and ``pong`` are bare text; ``seqId`` may go back while ``prevSeqId`` still fits; ``checksum`` is 0 since
2026-05; liquidations are subscribed for all swaps at once, so ending one ends all, and the first message
may be an old one; the latest trade comes at subscription, and its id tells whether it is news; in a call
auction a crossed book is legal, and is told as ``crossed`` all the same.

Source: OKX v5 documentation as mirrored 2026-08-22, sections WebSocket, Public Data, Order Book Trading.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Final, Generic, Literal, TypeVar
from urllib.parse import urlencode

import msgspec

from actors.model.decimals import (
    decimal_text,
    is_zero,
    price_text,
    sides_text,
    size_text,
    to_base,
    trade_text,
)
from actors.model.errors import Unparseable
from actors.model.events import (
    L1,
    Aggressor,
    BookDelta,
    BookSnapshot,
    Channel,
    Event,
    Funding,
    Liquidation,
    OpenInterest,
    Ticker,
    Trade,
)
from actors.model.instruments import ContractKind, Instrument, Unusable
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
    Id,
    Op,
    asked_as,
    asked_for,
    asking,
    instrument_of,
    item_of,
    ms_text,
    no_answer,
    own_number,
    parts,
    planned,
    rows_of,
    spot,
    told_price,
    told_size,
)

NAME: Final = "okx"
BOOK_LEVELS: Final = 400  # documented: what ``books`` holds of a side
BOOKS_PER_CONNECTION: Final = 25  # documented: fewer than 30
ITEMS_PER_FRAME: Final = 100  # chosen: some 20 KB where 64 KB are allowed
BACKFILL_MOST: Final = 100  # documented: most rows of history-trades
EARLY_NS: Final = 2_000_000_000  # chosen: liquidations are told once a second, this is time to travel
SWAP: Final = "-SWAP"
STREAMS: Final[dict[Channel, str]] = {
    "trade": "trades",
    "book": "books",
    "l1": "bbo-tbt",
    "ticker": "tickers",
    "liquidation": "liquidation-orders",
    "open_interest": "open-interest",
    "funding": "funding-rate",
}
_CHANNELS: Final[dict[str, Channel]] = {name: channel for channel, name in STREAMS.items()}
_LIQUIDATED: Final = "liquidated"  # in a connection's memory: liquidations have come
_CONSENT: Final = "liquidations from"  # when they were acknowledged, ns
_COMPANIONS: Final = frozenset(("mark-price", "index-tickers"))  # of funding-rate

# An id, sequence or count may come as text or as a number: the decoders are lax about that, and only that.
_Seq = Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_Crc = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]
_Data = TypeVar("_Data")


class _Arg(msgspec.Struct, rename="camel"):
    channel: str
    inst_id: str | None = None
    inst_type: str | None = None


class _Of(msgspec.Struct, rename="camel"):
    """The subscription that a frame is of."""

    inst_id: str


class _Trade(msgspec.Struct, rename="camel"):
    trade_id: Id  # the last of ``count`` fills
    px: str
    sz: str  # base currency; of swaps: contracts
    side: Aggressor  # the taker's
    ts: str | None = None
    count: _Count = 1
    seq_id: _Seq | None = None  # of the same numbers as the book's; may repeat


class _Level(msgspec.Struct, array_like=True, gc=False):
    px: str
    sz: str  # absolute; base currency, of swaps contracts; "0" removes


class _Book(msgspec.Struct, rename="camel"):
    asks: list[_Level]
    bids: list[_Level]
    seq_id: _Seq
    prev_seq_id: _Seq  # -1 in a snapshot
    ts: str | None = None
    checksum: _Crc = 0  # fixed to 0 since 2026-05


class _Bbo(msgspec.Struct, rename="camel"):
    asks: list[_Level]
    bids: list[_Level]
    ts: str | None = None
    seq_id: _Seq | None = None


class _Ticker(msgspec.Struct, rename="camel"):
    last: str  # all of them "" where there is none
    open24h: str
    high24h: str
    low24h: str
    vol24h: str  # base currency; of swaps contracts
    vol_ccy: str = msgspec.field(name="volCcy24h")  # quote currency; of swaps base currency
    ts: str | None = None


class _Detail(msgspec.Struct, rename="camel"):
    side: Aggressor  # of the forced order
    pos_side: Literal["long", "short", "net"]  # net: only the side tells
    bk_px: str
    sz: str  # contracts
    ts: str | None = None


class _Liquidated(msgspec.Struct, rename="camel"):
    inst_id: str
    details: list[_Detail]


class _OpenInterest(msgspec.Struct, rename="camel"):
    oi: str  # contracts
    oi_ccy: str  # base currency
    oi_usd: str = ""
    ts: str | None = None


class _Funding(msgspec.Struct, rename="camel"):
    funding_rate: str  # paid at fundingTime
    funding_time: str | None = None
    next_funding_rate: str = ""
    ts: str | None = None


class _Mark(msgspec.Struct, rename="camel"):
    mark_px: str
    ts: str | None = None


class _Index(msgspec.Struct, rename="camel"):
    idx_px: str
    ts: str | None = None


class _Push(msgspec.Struct, Generic[_Data], gc=False):
    arg: _Of
    data: list[_Data]


class _Books(msgspec.Struct):
    arg: _Of
    action: Literal["snapshot", "update"]
    data: list[_Book]


class _Liquidations(msgspec.Struct):
    data: list[_Liquidated]


class _Bare(msgspec.Struct):
    """What tells one frame from another."""

    event: str | None = None
    arg: _Arg | None = None
    id: str | int | None = None
    code: str | None = None
    msg: str | None = None


class _Answer(msgspec.Struct, Generic[_Data]):
    code: str
    data: list[_Data]
    msg: str = ""


class _Row(msgspec.Struct, rename="camel"):
    inst_id: str
    inst_type: str
    state: str
    base_ccy: str = ""  # "" of swaps
    quote_ccy: str = ""
    uly: str = ""  # of swaps, mostly
    inst_family: str = ""
    settle_ccy: str = ""
    ct_type: str = ""
    ct_val: str = ""
    ct_mult: str = ""
    ct_val_ccy: str = ""
    tick_sz: str = ""
    lot_sz: str = ""


_bare_decoder = msgspec.json.Decoder(_Bare)
_past_trades_decoder = msgspec.json.Decoder(_Answer[_Trade], strict=False)
_rows_decoder = msgspec.json.Decoder(_Answer[msgspec.Raw])


def _base(size: str, price: str, instrument: Instrument) -> str:
    contract, kind = instrument.contract_size, instrument.contract_kind
    return size if contract is None or kind is None else to_base(size, contract, kind, price)


def _trade(t: _Trade, instrument: Instrument, scratch: Scratch, *, backfilled: bool = False) -> Trade:
    price, size = trade_text(t.px, t.sz)
    if t.count > t.trade_id + 1:
        raise Unparseable(f"trade {t.trade_id} cannot be the last of {t.count}")
    symbol, at, recv = instrument.symbol, ms_text(t.ts), scratch.recv
    number, first = str(t.trade_id), None if t.count == 1 else str(t.trade_id - t.count + 1)
    base, contracts = _base(size, price, instrument), None if instrument.contract_size is None else size
    return Trade(NAME, symbol, at, recv, t.seq_id, number, price, base, t.side, first, contracts, backfilled)


def _books(said: _Books, scratch: Scratch) -> list[Decoded]:
    instrument, whole = instrument_of(said.arg.inst_id, scratch), said.action == "snapshot"
    return [_book(b, whole, instrument, scratch) for b in said.data]


def _book(b: _Book, whole: bool, instrument: Instrument, scratch: Scratch) -> BookSnapshot | BookDelta:
    kind, prev, depth = (BookSnapshot, None, BOOK_LEVELS) if whole else (BookDelta, b.prev_seq_id, None)
    unit = "base" if instrument.contract_size is None else "contracts"
    head = (NAME, instrument.symbol, ms_text(b.ts), scratch.recv, b.seq_id, scratch.conn)
    bids, asks = sides_text([(bid.px, bid.sz) for bid in b.bids], [(ask.px, ask.sz) for ask in b.asks])
    seq, crc = b.seq_id, b.checksum or None
    return kind(*head, bids, asks, unit, last_seq=seq, prev_seq=prev, checksum=crc, depth=depth)


def _touch(levels: list[_Level], instrument: Instrument) -> tuple[str | None, str | None]:
    if not levels:
        return None, None
    price = price_text(levels[0].px)
    return price, _base(size_text(levels[0].sz), price, instrument)


def _bbo(b: _Bbo, instrument: Instrument, scratch: Scratch) -> L1:
    bid, ask = _touch(b.bids, instrument), _touch(b.asks, instrument)
    return L1(NAME, instrument.symbol, ms_text(b.ts), scratch.recv, b.seq_id, *bid, *ask)


def _ticker(t: _Ticker, instrument: Instrument, scratch: Scratch) -> Ticker:
    symbol, at, recv = instrument.symbol, ms_text(t.ts), scratch.recv
    last, first = told_price(t.last), told_price(t.open24h)
    high, low = told_price(t.high24h), told_price(t.low24h)
    base, quote = (t.vol24h, t.vol_ccy) if instrument.contract_size is None else (t.vol_ccy, None)
    return Ticker(NAME, symbol, at, recv, None, last, first, high, low, told_size(base), told_size(quote))


def _liquidations(said: _Liquidations, scratch: Scratch) -> list[Decoded]:
    """Return those that were asked for: whoever subscribes is sent all swaps."""
    before = _history_until(scratch)
    found: list[Decoded] = []
    for row in said.data:
        instrument = scratch.instruments.get(row.inst_id)
        if instrument is None or not scratch.wants("liquidation", instrument.symbol):
            found.append(Ignored("other_instrument"))
            continue
        for detail in row.details:
            event = _liquidation(detail, instrument, scratch)
            old = event.ts_event is not None and event.ts_event < before
            found.append(Ignored("history") if old else event)
    return found


def _history_until(scratch: Scratch) -> int:
    """Return the time (ns) before which a liquidation of this frame is none of the subscription's: 0 mostly.

    The first frame of a subscription may repeat an old one: what is older than the consent is not news, or
    older than ``EARLY_NS`` where data comes before the consent. Later frames may be late, and are news.
    """
    if _LIQUIDATED in scratch.memory:
        return 0
    scratch.memory[_LIQUIDATED] = True
    consent = scratch.memory.pop(_CONSENT, None)
    return consent if isinstance(consent, int) else scratch.recv - EARLY_NS


def _liquidation(d: _Detail, instrument: Instrument, scratch: Scratch) -> Liquidation:
    price, size = price_text(d.bk_px), size_text(d.sz)
    if is_zero(size):
        raise Unparseable(f"a liquidation of size {size}")
    position = "long" if d.pos_side == "long" or (d.pos_side == "net" and d.side == "sell") else "short"
    head = (NAME, instrument.symbol, ms_text(d.ts), scratch.recv, None)
    contracts = None if instrument.contract_size is None else size
    return Liquidation(*head, d.side, position, price, _base(size, price, instrument), contracts)


def _open_interest(o: _OpenInterest, instrument: Instrument, scratch: Scratch) -> OpenInterest:
    contracts, base, notional = size_text(o.oi), told_size(o.oi_ccy), told_size(o.oi_usd)
    symbol, at = instrument.symbol, ms_text(o.ts)
    return OpenInterest(NAME, symbol, at, scratch.recv, None, contracts, base, notional)


def _funding(f: _Funding, instrument: Instrument, scratch: Scratch) -> Funding:
    symbol, at, next_ts = instrument.symbol, ms_text(f.ts), ms_text(f.funding_time)
    rate, predicted = decimal_text(f.funding_rate), f.next_funding_rate
    predicted_rate = decimal_text(predicted) if predicted else None
    return Funding(NAME, symbol, at, scratch.recv, None, rate, predicted_rate, next_ts=next_ts)


def _mark(m: _Mark, instrument: Instrument, scratch: Scratch) -> Funding:
    return Funding(NAME, instrument.symbol, ms_text(m.ts), scratch.recv, None, mark=price_text(m.mark_px))


def _index(i: _Index, instrument: Instrument, scratch: Scratch) -> Funding:
    return Funding(NAME, instrument.symbol, ms_text(i.ts), scratch.recv, None, index=price_text(i.idx_px))


def _rows(
    what: str,
    kind: type[_Push[_Data]],
    make: Callable[[_Data, Instrument, Scratch], Decoded],
    suffix: str = "",
    *,
    strict: bool = True,
) -> Callable[[bytes, Scratch], list[Decoded]]:
    """Return what reads the rows of a channel. ``suffix``: what the instrument's name has beyond its."""

    def made(said: _Push[_Data], scratch: Scratch) -> list[Decoded]:
        instrument = instrument_of(said.arg.inst_id + suffix, scratch)
        return [make(row, instrument, scratch) for row in said.data]

    return decoding(what, kind, made, strict=strict)


_DECODERS: Final[dict[bytes, Callable[[bytes, Scratch], list[Decoded]]]] = {
    b"trades": _rows("trades", _Push[_Trade], _trade, strict=False),
    b"books": decoding("books", _Books, _books, strict=False),
    b"bbo-tbt": _rows("bbo-tbt", _Push[_Bbo], _bbo, strict=False),
    b"tickers": _rows("tickers", _Push[_Ticker], _ticker),
    b"liquidation-orders": decoding("liquidation-orders", _Liquidations, _liquidations),
    b"open-interest": _rows("open-interest", _Push[_OpenInterest], _open_interest),
    b"funding-rate": _rows("funding-rate", _Push[_Funding], _funding),
    b"mark-price": _rows("mark-price", _Push[_Mark], _mark),
    # An index bears the name of a spot pair, and is of the swap whose underlying it is.
    b"index-tickers": _rows("index-tickers", _Push[_Index], _index, SWAP),
}
_OPENING: Final = b'{"arg":{"channel":"'
_DATA: Final = (b'},"data":', b'},"action":')


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says; a frame of a known channel is decoded in one pass.

    Raises:
        Unparseable: It does not mean what its channel promises, or is no frame of this venue.
    """
    known = None
    if frame.startswith(_OPENING):
        end = frame.find(b'"', len(_OPENING))
        if frame.startswith(_DATA, frame.find(b"}", end)):
            known = _DECODERS.get(frame[len(_OPENING) : end])
    elif frame == b"pong":
        return [Ignored("heartbeat")]
    if known is None:
        bare = read("frame", _bare_decoder, frame)
        if bare.event is not None:
            return [_control(bare, bare.event, scratch)]
        if bare.arg is None:
            raise Unparseable(f"no frame of this venue: {frame[:80]!r}")
        known = _DECODERS.get(bare.arg.channel.encode(errors="replace"))
    return [Ignored("unknown_channel")] if known is None else known(frame, scratch) or [Ignored("empty")]


# ---- control frames -------------------------------------------------------------------------------------

_IGNORED: Final = {
    "notice": "notice",
    "channel-conn-count": "connection_count",
    "channel-conn-count-error": "connection_count",
}
_SERVICE: Final = "64008"  # the connection is closed within 60 s
# A 60018 says: Wrong URL or channel:books,instId:BTC-USDT doesn't exist.
_named = re.compile(r"channel:([a-z0-9-]{1,40}),inst(?:Id|Type):([^\s,]{1,40})").search


def _control(bare: _Bare, event: str, scratch: Scratch) -> Decoded:
    ours = own_number(bare.id)
    match event:
        case "subscribe" if bare.arg is not None:
            return _consent(bare.arg, ours, scratch)
        case "unsubscribe":
            return Ignored("unsubscribed") if ours is None else Acked(ours)
        case "error":
            return _refusal(bare, ours, scratch)
        case "notice" if bare.code == _SERVICE:
            return Closing(f"{bare.code}: {(bare.msg or '')[:200]}")
        case _:
            return Ignored(_IGNORED.get(event, "unknown_event"))


def _items(channel: str, inst: str | None, scratch: Scratch) -> list[Item]:
    """Return what of ours an argument is about; a liquidations' is of every swap."""
    ours = _CHANNELS.get(channel)
    if ours == "liquidation":
        swaps = [i.symbol for i in scratch.instruments.values() if i.contract_size is not None]
        return items_of(swaps, [ours])
    item = item_of(ours, inst, scratch)
    return [] if item is None else items_of([item[1]], [item[0]])


def _consent(arg: _Arg, ours: int | None, scratch: Scratch) -> Decoded:
    if arg.channel in _COMPANIONS:
        return Ignored("companion")
    if arg.channel == STREAMS["liquidation"]:
        scratch.memory.pop(_LIQUIDATED, None)  # what comes first of a new subscription may be old again
        scratch.memory[_CONSENT] = scratch.recv
    items = _items(arg.channel, arg.inst_id, scratch)
    return Acked(ours, items) if items else Ignored("not_ours")


def _refusal(bare: _Bare, ours: int | None, scratch: Scratch) -> Decoded:
    text = bare.msg or ""
    reason, named = f"{bare.code}: {text}"[:200], _named(text)
    if named is None:
        return Refused(reason, ours)
    channel, inst = named.groups()
    if channel in _COMPANIONS:
        return Ignored("companion_refused")  # the rate comes without it
    items = _items(channel, inst, scratch)
    return Refused(reason, ours, items) if items else Ignored("refusal_not_ours")


# ---- REST -----------------------------------------------------------------------------------------------


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    """Return the trades of the range that was asked for, in order of their ids.

    Raises:
        Unparseable: The body is not what its request promises, or an error.
    """
    symbol, body = asked_as("backfill", answer)
    instrument = next((i for i in scratch.instruments.values() if i.symbol == symbol), None)
    if instrument is None:
        no_answer(answer)
    past = _data("history-trades", _past_trades_decoder, body)
    found = asked_for(past, answer.request, lambda row: row.trade_id)
    return [_trade(row, instrument, scratch, backfilled=True) for row in found]


def _data(what: str, decoder: msgspec.json.Decoder[_Answer[_Data]], body: bytes) -> list[_Data]:
    told = read(what, decoder, body)
    if told.code != "0":
        raise Unparseable(f"{what}: {told.code[:20]}: {told.msg[:200]}")
    return told.data


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the spot pairs and swaps of one list that are live.

    Unusable are swaps without a contract size, and rows that cannot be read.

    Raises:
        Unparseable: The body is no list of instruments, or an error.
    """
    return rows_of(_Row, _data("instruments", _rows_decoder, body), _listed)


def _listed(row: _Row) -> Instrument | Unusable | None:
    if row.state != "live":
        return None
    tick, lot = row.tick_sz or None, row.lot_sz or None
    if row.inst_type == "SPOT" and row.base_ccy and row.quote_ccy:
        return spot(row.inst_id, row.base_ccy, row.quote_ccy, tick, lot)
    kind: ContractKind
    match row.ct_type:
        case "linear":
            kind, base, quote = "linear", row.ct_val_ccy, row.settle_ccy
        case "inverse":
            kind, base, quote = "inverse", row.settle_ccy, row.ct_val_ccy
        case _:
            return None
    # Of one base and quote there may be several families (BTC-USD, BTC-USD_UM): only the plain one is ours.
    family = row.uly or row.inst_family
    if row.inst_type != "SWAP" or family != f"{base}-{quote}" or row.inst_id != family + SWAP:
        return None
    symbol = f"{base}-{quote}-PERP"
    try:
        contract = to_base(price_text(row.ct_val), price_text(row.ct_mult or "1"), "linear", "1")
    except Unparseable as e:
        return Unusable(symbol, row.inst_id, f"ctVal {row.ct_val[:40]!r}, ctMult {row.ct_mult[:40]!r}: {e}")
    return Instrument(symbol, row.inst_id, base, quote, contract, kind, tick, lot)


def backfill(instrument: Instrument, first: str, last: str) -> Request:
    """Return the request for trades ``first`` to ``last``, the first ``BACKFILL_MOST`` of them at most."""
    number = min(int(last) - int(first) + 1, BACKFILL_MOST)
    before = int(first) + number  # the venue gives what is older, newest first
    query = urlencode({"instId": instrument.native, "type": 1, "after": before, "limit": number})
    path = f"/api/v5/market/history-trades?{query}"
    return Request("backfill", path, instrument.symbol, first=first, last=last)


# ---- subscriptions --------------------------------------------------------------------------------------


def _args(item: Item, instruments: Mapping[str, Instrument]) -> list[dict[str, str]]:
    channel, symbol = item
    if channel == "liquidation":
        return [{"channel": STREAMS[channel], "instType": "SWAP"}]
    native = instruments[symbol].native
    args = [{"channel": STREAMS[channel], "instId": native}]
    if channel == "funding":
        args.append({"channel": "mark-price", "instId": native})
        args.append({"channel": "index-tickers", "instId": native.removesuffix(SWAP)})
    return args


def _frames(
    op: Op, items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int
) -> list[Subscription]:
    liquidations = [item for item in items if item[0] == "liquidation"]
    others = parts([item for item in items if item[0] != "liquidation"], ITEMS_PER_FRAME)
    subscriptions: list[Subscription] = []
    for number, part in enumerate([*others, liquidations] if liquidations else others, first_id):
        named = part[:1] if part is liquidations else part  # one argument is of all swaps
        args = [arg for item in named for arg in _args(item, instruments)]
        document = {"id": str(number), "op": op, "args": args}
        subscriptions.append(asking(op, part, document, number, len(args)))
    return subscriptions


subscribe = partial(_frames, "subscribe")
unsubscribe = partial(_frames, "unsubscribe")


def plan(
    endpoints: Endpoints, instruments: Sequence[Instrument], channels: Sequence[Channel]
) -> list[Connection]:
    """Return the connections that carry all ``channels`` of ``instruments``; a symbol stays on one."""
    most = LIMITS.items_per_connection
    if "book" in channels:
        most = min(most, BOOKS_PER_CONNECTION * len(channels))
    return planned(f"{endpoints.ws}/ws/v5/public", instruments, channels, most, subscribe)


LIMITS: Final = Limits(
    items_per_connection=200,  # chosen: two frames open them all
    frames_per_s=3,  # chosen: each is of many subscriptions, which an hour's budget limits
    subscriptions_per_hour=450,  # documented: 480
    weight_per_minute=300,  # documented: 20 in 2 s for each kind of request; half of that for all
    weight_per_s=10,  # the same: no 2 s may hold more than 20
    connects_per_minute=60,
    connects_per_s=3,  # documented
)

BOOK_RULE: Final = BookRule(snapshot="stream", join="pointer", chain="pointer", depth=BOOK_LEVELS)

VENUE: Final = Venue(
    name=NAME,
    markets=frozenset({"spot", "perpetual"}),
    endpoints=Endpoints("wss://ws.okx.com:8443", "https://www.okx.com"),
    channels=frozenset(STREAMS),
    limits=LIMITS,
    book_rule=BOOK_RULE,
    trade_ids="contiguous",
    # Chosen: an unchanged book and best bid and offer are said again after some 60 s, a mark price after
    # 10 s, a funding rate after 90 s; the rest is sent when it changes.
    silence_s={"book": 150.0, "l1": 150.0, "funding": 200.0},
    # Recorded in 2022: book, ticker and the latest trade come at once, however quiet the market. Of trades it
    # is documented nowhere, and a pair may have none: chosen long, so as not to think it silent too soon.
    first_s={"book": 30.0, "ticker": 30.0, "trade": 600.0},
    quiet_s=45.0,  # documented: no answer to a ping within 30 s at most; ours go out each 20 s
    rate_alone=True,
    plan=plan,
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    decode=decode,
    decode_rest=decode_rest,
    instruments=(
        Request("instruments", "/api/v5/public/instruments?instType=SPOT"),
        Request("instruments", "/api/v5/public/instruments?instType=SWAP"),
    ),
    rows=rows,
    backfill=backfill,
    backfill_most=BACKFILL_MOST,
    keepalive=Keepalive("ping", 20.0),  # documented: within 30 s
)
