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
from typing import Annotated, Final, Literal
from urllib.parse import urlencode

import msgspec

from actors.model.decimals import (
    decimal_text,
    is_zero,
    levels_text,
    price_text,
    size_text,
    to_base,
    trade_text,
)
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
    items_of,
    read,
)
from actors.venues.common import (
    Id,
    asked_for,
    instrument_of,
    ms_text,
    no_answer,
    planned,
    price_or_none,
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
_Side = Literal["buy", "sell"]


class _Arg(msgspec.Struct):
    channel: str
    instId: str | None = None  # noqa: N815 - the venue's name
    instType: str | None = None  # noqa: N815


class _Of(msgspec.Struct):
    """The subscription that a frame is of."""

    instId: str  # noqa: N815 - the venue's name


class _Trade(msgspec.Struct):
    tradeId: Id  # noqa: N815 - the last of ``count`` fills
    px: str
    sz: str  # base currency; of swaps: contracts
    side: _Side  # the taker's
    ts: str | None = None
    count: _Count = 1
    seqId: _Seq | None = None  # noqa: N815 - of the same numbers as the book's; may repeat


class _Level(msgspec.Struct, array_like=True, gc=False):
    px: str
    sz: str  # absolute; base currency, of swaps contracts; "0" removes


class _Book(msgspec.Struct):
    asks: list[_Level]
    bids: list[_Level]
    seqId: _Seq  # noqa: N815
    prevSeqId: _Seq  # noqa: N815 - -1 in a snapshot
    ts: str | None = None
    checksum: _Crc = 0  # fixed to 0 since 2026-05


class _Bbo(msgspec.Struct):
    asks: list[_Level]
    bids: list[_Level]
    ts: str | None = None
    seqId: _Seq | None = None  # noqa: N815


class _Ticker(msgspec.Struct):
    last: str  # all of them "" where there is none
    open24h: str
    high24h: str
    low24h: str
    vol24h: str  # base currency; of swaps contracts
    volCcy24h: str  # noqa: N815 - quote currency; of swaps base currency
    ts: str | None = None


class _Detail(msgspec.Struct):
    side: _Side  # of the forced order
    posSide: Literal["long", "short", "net"]  # noqa: N815 - net: only the side tells
    bkPx: str  # noqa: N815
    sz: str  # contracts
    ts: str | None = None


class _Liquidated(msgspec.Struct):
    instId: str  # noqa: N815
    details: list[_Detail]


class _OpenInterest(msgspec.Struct):
    oi: str  # contracts
    oiCcy: str  # noqa: N815 - base currency
    oiUsd: str = ""  # noqa: N815
    ts: str | None = None


class _Funding(msgspec.Struct):
    fundingRate: str  # noqa: N815 - paid at fundingTime
    fundingTime: str | None = None  # noqa: N815
    nextFundingRate: str = ""  # noqa: N815
    ts: str | None = None


class _Mark(msgspec.Struct):
    markPx: str  # noqa: N815
    ts: str | None = None


class _Index(msgspec.Struct):
    idxPx: str  # noqa: N815
    ts: str | None = None


class _Trades(msgspec.Struct):
    arg: _Of
    data: list[_Trade]


class _Books(msgspec.Struct):
    arg: _Of
    action: Literal["snapshot", "update"]
    data: list[_Book]


class _Bbos(msgspec.Struct):
    arg: _Of
    data: list[_Bbo]


class _Tickers(msgspec.Struct):
    arg: _Of
    data: list[_Ticker]


class _Liquidations(msgspec.Struct):
    data: list[_Liquidated]


class _OpenInterests(msgspec.Struct):
    arg: _Of
    data: list[_OpenInterest]


class _Fundings(msgspec.Struct):
    arg: _Of
    data: list[_Funding]


class _Marks(msgspec.Struct):
    arg: _Of
    data: list[_Mark]


class _Indexes(msgspec.Struct):
    arg: _Of
    data: list[_Index]


class _Bare(msgspec.Struct):
    """What tells one frame from another."""

    event: str | None = None
    arg: _Arg | None = None
    id: str | int | None = None
    code: str | None = None
    msg: str | None = None


class _PastTrades(msgspec.Struct):
    code: str
    data: list[_Trade]
    msg: str = ""


class _Row(msgspec.Struct):
    instId: str  # noqa: N815 - the venue's name
    instType: str  # noqa: N815
    state: str
    baseCcy: str = ""  # noqa: N815 - "" of swaps
    quoteCcy: str = ""  # noqa: N815
    uly: str = ""
    settleCcy: str = ""  # noqa: N815
    ctType: str = ""  # noqa: N815
    ctVal: str = ""  # noqa: N815
    ctMult: str = ""  # noqa: N815
    ctValCcy: str = ""  # noqa: N815
    tickSz: str = ""  # noqa: N815
    lotSz: str = ""  # noqa: N815


class _Rows(msgspec.Struct):
    code: str
    data: list[_Row]
    msg: str = ""


_trades_decoder = msgspec.json.Decoder(_Trades, strict=False)
_books_decoder = msgspec.json.Decoder(_Books, strict=False)
_bbos_decoder = msgspec.json.Decoder(_Bbos, strict=False)
_tickers_decoder = msgspec.json.Decoder(_Tickers)
_liquidations_decoder = msgspec.json.Decoder(_Liquidations)
_open_interests_decoder = msgspec.json.Decoder(_OpenInterests)
_fundings_decoder = msgspec.json.Decoder(_Fundings)
_marks_decoder = msgspec.json.Decoder(_Marks)
_indexes_decoder = msgspec.json.Decoder(_Indexes)
_bare_decoder = msgspec.json.Decoder(_Bare)
_past_trades_decoder = msgspec.json.Decoder(_PastTrades, strict=False)
_rows_decoder = msgspec.json.Decoder(_Rows)


def _base(size: str, price: str, instrument: Instrument) -> str:
    contract, kind = instrument.contract_size, instrument.contract_kind
    return size if contract is None or kind is None else to_base(size, contract, kind, price)


def _some(text: str) -> str | None:
    return None if not text else size_text(text)


def _trade(t: _Trade, instrument: Instrument, scratch: Scratch, *, backfilled: bool = False) -> Trade:
    price, size = trade_text(t.px, t.sz)
    if t.count > t.tradeId + 1:
        raise Unparseable(f"trade {t.tradeId} cannot be the last of {t.count}")
    return Trade(
        NAME,
        instrument.symbol,
        ms_text(t.ts),
        scratch.recv,
        t.seqId,
        str(t.tradeId),
        price,
        _base(size, price, instrument),
        t.side,
        first_id=None if t.count == 1 else str(t.tradeId - t.count + 1),
        contracts=None if instrument.contract_size is None else size,
        backfilled=backfilled,
    )


def _trades(frame: bytes, scratch: Scratch) -> Sequence[Decoded]:
    said = read("trades", _trades_decoder, frame)
    instrument = instrument_of(said.arg.instId, scratch)
    return [_trade(t, instrument, scratch) for t in said.data]


def _levels(levels: list[_Level]) -> list[Level]:
    return levels_text([(level.px, level.sz) for level in levels])


def _books(frame: bytes, scratch: Scratch) -> Sequence[Decoded]:
    said = read("books", _books_decoder, frame)
    instrument = instrument_of(said.arg.instId, scratch)
    whole = said.action == "snapshot"
    return [_book(b, instrument, scratch, whole=whole) for b in said.data]


def _book(b: _Book, instrument: Instrument, scratch: Scratch, *, whole: bool) -> Event:
    kind = BookSnapshot if whole else BookDelta
    return kind(
        NAME,
        instrument.symbol,
        ms_text(b.ts),
        scratch.recv,
        b.seqId,
        scratch.conn,
        _levels(b.bids),
        _levels(b.asks),
        "base" if instrument.contract_size is None else "contracts",
        last_seq=b.seqId,
        prev_seq=None if whole else b.prevSeqId,
        checksum=b.checksum or None,
        depth=BOOK_LEVELS if whole else None,
    )


def _touch(levels: list[_Level], instrument: Instrument) -> tuple[str | None, str | None]:
    if not levels:
        return None, None
    price = price_text(levels[0].px)
    return price, _base(size_text(levels[0].sz), price, instrument)


def _bbos(frame: bytes, scratch: Scratch) -> Sequence[Decoded]:
    said = read("bbo-tbt", _bbos_decoder, frame)
    instrument = instrument_of(said.arg.instId, scratch)
    return [
        L1(
            NAME,
            instrument.symbol,
            ms_text(b.ts),
            scratch.recv,
            b.seqId,
            *_touch(b.bids, instrument),
            *_touch(b.asks, instrument),
        )
        for b in said.data
    ]


def _tickers(frame: bytes, scratch: Scratch) -> Sequence[Decoded]:
    said = read("tickers", _tickers_decoder, frame)
    instrument = instrument_of(said.arg.instId, scratch)
    spot = instrument.contract_size is None
    return [
        Ticker(
            NAME,
            instrument.symbol,
            ms_text(t.ts),
            scratch.recv,
            None,
            last=price_or_none(t.last) if t.last else None,
            open=price_or_none(t.open24h) if t.open24h else None,
            high=price_or_none(t.high24h) if t.high24h else None,
            low=price_or_none(t.low24h) if t.low24h else None,
            volume_base=_some(t.vol24h if spot else t.volCcy24h),
            volume_quote=_some(t.volCcy24h) if spot else None,
        )
        for t in said.data
    ]


def _liquidations(frame: bytes, scratch: Scratch) -> Sequence[Decoded]:
    """Return those of our instruments: whoever subscribes is sent all swaps."""
    said = read("liquidation-orders", _liquidations_decoder, frame)
    before = _history_until(scratch)
    found: list[Decoded] = []
    for row in said.data:
        instrument = scratch.instruments.get(row.instId)
        if instrument is None:
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
    price, size = price_text(d.bkPx), size_text(d.sz)
    if is_zero(size):
        raise Unparseable(f"a liquidation of size {size}")
    long = d.posSide == "long" or (d.posSide == "net" and d.side == "sell")
    return Liquidation(
        NAME,
        instrument.symbol,
        ms_text(d.ts),
        scratch.recv,
        None,
        d.side,
        "long" if long else "short",
        price,
        _base(size, price, instrument),
        None if instrument.contract_size is None else size,
    )


def _open_interests(frame: bytes, scratch: Scratch) -> Sequence[Decoded]:
    said = read("open-interest", _open_interests_decoder, frame)
    symbol = instrument_of(said.arg.instId, scratch).symbol
    return [
        OpenInterest(
            NAME, symbol, ms_text(o.ts), scratch.recv, None, size_text(o.oi), _some(o.oiCcy), _some(o.oiUsd)
        )
        for o in said.data
    ]


def _fundings(frame: bytes, scratch: Scratch) -> Sequence[Decoded]:
    said = read("funding-rate", _fundings_decoder, frame)
    symbol = instrument_of(said.arg.instId, scratch).symbol
    return [
        Funding(
            NAME,
            symbol,
            ms_text(f.ts),
            scratch.recv,
            None,
            rate=decimal_text(f.fundingRate),
            predicted_rate=decimal_text(f.nextFundingRate) if f.nextFundingRate else None,
            next_ts=ms_text(f.fundingTime),
        )
        for f in said.data
    ]


def _marks(frame: bytes, scratch: Scratch) -> Sequence[Decoded]:
    said = read("mark-price", _marks_decoder, frame)
    symbol = instrument_of(said.arg.instId, scratch).symbol
    return [
        Funding(NAME, symbol, ms_text(m.ts), scratch.recv, None, mark=price_text(m.markPx)) for m in said.data
    ]


def _indexes(frame: bytes, scratch: Scratch) -> Sequence[Decoded]:
    """Return the index price of the swap whose underlying it is: an index bears the name of a spot pair."""
    said = read("index-tickers", _indexes_decoder, frame)
    symbol = instrument_of(said.arg.instId + SWAP, scratch).symbol
    return [
        Funding(NAME, symbol, ms_text(i.ts), scratch.recv, None, index=price_text(i.idxPx)) for i in said.data
    ]


_DECODERS: Final[dict[bytes, Callable[[bytes, Scratch], Sequence[Decoded]]]] = {
    b"trades": _trades,
    b"books": _books,
    b"bbo-tbt": _bbos,
    b"tickers": _tickers,
    b"liquidation-orders": _liquidations,
    b"open-interest": _open_interests,
    b"funding-rate": _fundings,
    b"mark-price": _marks,
    b"index-tickers": _indexes,
}
_OPENING: Final = b'{"arg":{"channel":"'
_DATA: Final = (b'},"data":', b'},"action":')


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Return what one frame says; a frame of a known channel is decoded in one pass.

    Raises:
        Unparseable: It does not mean what its channel promises, or is no frame of this venue.
    """
    if frame.startswith(_OPENING):
        end = frame.find(b'"', len(_OPENING))
        known = _DECODERS.get(frame[len(_OPENING) : end])
        if known is not None and frame.startswith(_DATA, frame.find(b"}", end)):
            return [*known(frame, scratch)] or [Ignored("empty")]
    elif frame == b"pong":
        return [Ignored("heartbeat")]
    return _decode_other(frame, scratch)


def _decode_other(frame: bytes, scratch: Scratch) -> list[Decoded]:
    bare = read("frame", _bare_decoder, frame)
    if bare.event is not None:
        return [_control(bare, bare.event, scratch)]
    if bare.arg is None:
        raise Unparseable(f"no frame of this venue: {frame[:80]!r}")
    known = _DECODERS.get(bare.arg.channel.encode(errors="replace"))
    if known is None:
        return [Ignored("unknown_channel")]
    return [*known(frame, scratch)] or [Ignored("empty")]


# ---- control frames -------------------------------------------------------------------------------------

_IGNORED: Final = {
    "channel-conn-count": "connection_count",
    "channel-conn-count-error": "connection_count",
}
_SERVICE: Final = "64008"  # the connection is closed within 60 s
# A 60018 says: Wrong URL or channel:books,instId:BTC-USDT doesn't exist.
_named = re.compile(r"channel:([a-z0-9-]{1,40}),inst(?:Id|Type):([^\s,]{1,40})").search


def _control(bare: _Bare, event: str, scratch: Scratch) -> Decoded:
    number = str(bare.id)
    ours = int(number) if number.isdigit() and number.isascii() and len(number) < 16 else None
    match event:
        case "subscribe" if bare.arg is not None:
            return _consent(bare.arg, ours, scratch)
        case "unsubscribe":
            return Ignored("unsubscribed") if ours is None else Acked(ours)
        case "error":
            return _refusal(f"{bare.code}: {bare.msg or ''}"[:200], bare.msg or "", ours, scratch)
        case "notice" if bare.code == _SERVICE:
            return Closing(f"{bare.code}: {(bare.msg or '')[:200]}")
        case "notice":
            return Ignored("notice")
        case _:
            return Ignored(_IGNORED.get(event, "unknown_event"))


def _items(channel: str, inst: str | None, scratch: Scratch) -> list[Item]:
    """Return what of ours an argument is about; a liquidations' is of every swap."""
    ours = _CHANNELS.get(channel)
    if ours is None:
        return []
    if ours == "liquidation":
        symbols = [i.symbol for i in scratch.instruments.values() if i.contract_size is not None]
    else:
        instrument = scratch.instruments.get(inst or "")
        symbols = [] if instrument is None else [instrument.symbol]
    return items_of(symbols, [ours])


def _consent(arg: _Arg, ours: int | None, scratch: Scratch) -> Decoded:
    if arg.channel in _COMPANIONS:
        return Ignored("companion")
    if arg.channel == STREAMS["liquidation"]:
        scratch.memory.pop(_LIQUIDATED, None)  # what comes first of a new subscription may be old again
        scratch.memory[_CONSENT] = scratch.recv
    items = _items(arg.channel, arg.instId, scratch)
    return Acked(ours, items) if items else Ignored("not_ours")


def _refusal(reason: str, text: str, ours: int | None, scratch: Scratch) -> Decoded:
    named = _named(text)
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
    request = answer.request
    instrument = next((i for i in scratch.instruments.values() if i.symbol == request.symbol), None)
    if request.op != "backfill" or instrument is None:
        no_answer(answer, scratch)
    body = read("history-trades", _past_trades_decoder, answer.body.encode(errors="replace"))
    if body.code != "0":
        raise Unparseable(f"history-trades: {body.code[:20]}: {body.msg[:200]}")
    found = asked_for(body.data, request, lambda row: row.tradeId)
    return [_trade(row, instrument, scratch, backfilled=True) for row in found]


def rows(body: bytes) -> list[Instrument | Unusable]:
    """Return the spot pairs and swaps of one list that are live; unusable are swaps without a contract size.

    Raises:
        Unparseable: The body is no list of instruments, or an error.
    """
    listed = read("instruments", _rows_decoder, body)
    if listed.code != "0":
        raise Unparseable(f"instruments: {listed.code[:20]}: {listed.msg[:200]}")
    found = (_listed(row) for row in listed.data if row.state == "live")
    return [instrument for instrument in found if instrument is not None]


def _listed(row: _Row) -> Instrument | Unusable | None:
    if row.instType == "SPOT" and row.baseCcy and row.quoteCcy:
        base, quote = row.baseCcy.upper(), row.quoteCcy.upper()
        return Instrument(
            f"{base}-{quote}", row.instId, base, quote, None, None, row.tickSz or None, row.lotSz or None
        )
    kind: ContractKind
    match row.ctType:
        case "linear":
            kind, base, quote = "linear", row.ctValCcy, row.settleCcy
        case "inverse":
            kind, base, quote = "inverse", row.settleCcy, row.ctValCcy
        case _:
            return None
    # Of one base and quote there may be several families (BTC-USD, BTC-USD_UM): only the plain one is ours.
    if row.instType != "SWAP" or row.uly != f"{base}-{quote}" or row.instId != row.uly + SWAP:
        return None
    symbol = f"{base}-{quote}-PERP"
    try:
        contract = to_base(price_text(row.ctVal), price_text(row.ctMult or "1"), "linear", "1")
    except Unparseable as e:
        return Unusable(symbol, row.instId, f"ctVal {row.ctVal[:40]!r}, ctMult {row.ctMult[:40]!r}: {e}")
    return Instrument(
        symbol,
        row.instId,
        base,
        quote,
        contract,
        kind,
        row.tickSz or None,
        row.lotSz or None,
    )


def backfill(instrument: Instrument, first: str, last: str) -> Request:
    """Return the request for trades ``first`` to ``last``, the first ``BACKFILL_MOST`` of them at most."""
    number = min(int(last) - int(first) + 1, BACKFILL_MOST)
    query = urlencode(
        {"instId": instrument.native, "type": 1, "after": int(first) + number, "limit": number}
    )  # older than ``after``, newest first
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
    op: Literal["subscribe", "unsubscribe"],
    items: Sequence[Item],
    instruments: Mapping[str, Instrument],
    first_id: int,
) -> list[Subscription]:
    liquidations = [item for item in items if item[0] == "liquidation"]
    others = [item for item in items if item[0] != "liquidation"]
    parts = [others[start : start + ITEMS_PER_FRAME] for start in range(0, len(others), ITEMS_PER_FRAME)]
    subscriptions: list[Subscription] = []
    for part in [*parts, liquidations] if liquidations else parts:
        named = part[:1] if part is liquidations else part  # one argument is of all swaps
        args = [arg for item in named for arg in _args(item, instruments)]
        number = first_id + len(subscriptions)
        frame = msgspec.json.encode({"id": str(number), "op": op, "args": args}).decode()
        subscriptions.append(Subscription(op, part, frame, number, len(args)))
    return subscriptions


def subscribe(
    items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int
) -> list[Subscription]:
    """Return the frames that subscribe ``items``, numbered from ``first_id``."""
    return _frames("subscribe", items, instruments, first_id)


def unsubscribe(
    items: Sequence[Item], instruments: Mapping[str, Instrument], first_id: int
) -> list[Subscription]:
    """Return the frames that end the subscriptions of ``items``, numbered from ``first_id``."""
    return _frames("unsubscribe", items, instruments, first_id)


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
    connects_per_minute=60,  # documented: 3 a second
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
    # Recorded in 2022: book, ticker and the latest trade come at once, however quiet the market.
    first_s={"book": 30.0, "ticker": 30.0, "trade": 30.0},
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
