"""Recorded frames of OKX, spot and swaps, through the whole pipeline in a real Redis."""

import json
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from recorded_rig import Levels, Passed, Reader, assert_nothing_is_missing, best_first, read, through
from replay import Manner, Natives, Replay, recording

from actors.model.events import (
    L1,
    AnyEvent,
    Book,
    Channel,
    Funding,
    Gap,
    Liquidation,
    OpenInterest,
    Ticker,
    Trade,
)

pytestmark = pytest.mark.redis

CONTRACTS = {"BTC-USDT-SWAP": "0.01", "BTC-USD-SWAP": "100", "UNI-USD-SWAP": "10"}  # others: invented
BOOKS = {"BTC-USDT": ("BTC", "USDT"), "UNI-USD-SWAP": ("UNI", "USD-PERP")}
ALL = {
    "BTC-USDT": ("BTC", "USDT"),
    "BTC-USD-SWAP": ("BTC", "USD-PERP"),
    **{f"{base}-USDT-SWAP": (base, "USDT-PERP") for base in ("BTC", "BCH", "LA", "MINA", "CELO")},
}


def listing(natives: Natives) -> Any:
    rows: list[dict[str, str]] = []
    for native, (base, kind) in natives.items():
        quote, swap = kind.removesuffix("-PERP"), kind.endswith("-PERP")
        linear = quote == "USDT"
        row = {"instId": native, "instType": "SPOT", "state": "live", "baseCcy": base, "quoteCcy": quote}
        if swap:
            row |= {
                "instType": "SWAP", "baseCcy": "", "quoteCcy": "", "uly": f"{base}-{quote}", "ctMult": "1",
                "ctVal": CONTRACTS.get(native, "10"), "ctType": "linear" if linear else "inverse",
                "settleCcy": quote if linear else base, "ctValCcy": base if linear else quote,
            }  # fmt: skip
        rows.append(row)
    return {"code": "0", "msg": "", "data": rows}


OKX = Manner(("/api/v5/public/instruments", listing))


def data_of(rows: list[dict[str, Any]], channel: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield native id, action and each element of a channel's frames."""
    for row in rows:
        frame = json.loads(row["raw"]) if row["dir"] == "in" else {}
        if frame.get("arg", {}).get("channel") == channel:
            for each in frame.get("data", ()):
                yield frame["arg"].get("instId", ""), frame.get("action", ""), each


def base(native: str, size: str, price: str) -> Decimal:
    contracts = Decimal(size)
    if "-SWAP" not in native:
        return contracts
    worth = contracts * Decimal(CONTRACTS.get(native, "10"))
    if "-USDT" in native:
        return worth
    return (worth / Decimal(price)).quantize(Decimal("1e-12"), ROUND_HALF_EVEN)


def steps(rows: list[dict[str, Any]], native: str) -> dict[int, tuple[Levels, Levels]]:
    """Return the book after each frame as the documents say to keep it, on plain dicts, by its seqId."""
    sides: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}
    after: dict[int, tuple[Levels, Levels]] = {}
    last = -1
    for inst, action, data in data_of(rows, "books"):
        if inst != native:
            continue
        assert data["prevSeqId"] == (-1 if action == "snapshot" else last)
        last = data["seqId"]
        for side, levels in sides.items():
            if action == "snapshot":
                levels.clear()
            for price, size, *_ in data[side]:
                if float(size):
                    levels[price] = size
                else:
                    levels.pop(price, None)
        after[last] = best_first(sides["bids"], sides["asks"])
    return after


def exact(native: str, levels: Levels) -> list[tuple[str, Decimal]]:
    return [(price, base(native, size, price)) for price, size in levels]


def books_only(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "BTC-USD-220527" not in row["raw"]]  # a dated contract is not ours


def symbol_of(native: str) -> str:
    return native.replace("-SWAP", "-PERP")


async def test_recorded_books_are_the_references_in_base_currency_after_each_frame(redis_server):
    rows = books_only(recording("okx/mixed-books-derived_seq"))
    passed = await through("okx", Replay(rows, BOOKS, OKX), ["book"], redis_server())
    assert_nothing_is_missing(passed)
    for native in BOOKS:
        wanted = steps(rows, native)
        reader, compared = Reader(), set[int]()
        for event in passed.books:
            if not isinstance(event, Book) or event.symbol != symbol_of(native):
                continue
            reader.apply(event)
            if event.state != "live":
                continue
            assert (event.verified, event.seq is None) == ("sequence", False)
            bids, asks = wanted[event.seq or 0]
            ours = [[(price, Decimal(size)) for price, size in side] for side in reader.levels]
            assert ours == [exact(native, bids), exact(native, asks)]
            compared.add(event.seq or 0)
        assert compared == set(wanted)
        assert len(wanted) > 90


async def test_one_frame_left_out_is_a_gap_of_that_symbol_and_the_other_goes_on(redis_server):
    rows = books_only(recording("okx/mixed-books-derived_seq"))
    frames = [i for i, row in enumerate(rows) if '"instId":"BTC-USDT"' in row["raw"]]
    missing = rows.pop(frames[40])
    passed = await through("okx", Replay(rows, BOOKS, OKX), ["book"], redis_server())
    (gap,) = [event for event in passed.books if isinstance(event, Gap)]
    assert (gap.symbol, gap.cause, gap.channel) == ("BTC-USDT", "sequence", "book")
    assert gap.last == str(json.loads(missing["raw"])["data"][0]["seqId"])
    live = [b for b in passed.books if isinstance(b, Book) and b.symbol == "BTC-USDT" and b.state == "live"]
    assert len(live) == 40
    readers = read(passed.books)
    assert (readers["BTC-USDT"].state, readers["UNI-USD-PERP"].state) == ("resyncing", "live")


def of(passed: Passed, kind: type[Any], symbol: str | None = None) -> list[Any]:
    events: list[AnyEvent] = passed.events
    return [event for event in events if isinstance(event, kind) and symbol in (None, event.symbol)]


async def test_everything_else_that_was_recorded_comes_out_in_its_units(redis_server):
    names = ("mixed-trades-2026", "mixed-ticker-2026", "swap-liquidation-2026", "mixed-docs_examples")
    rows = [
        row
        for name in names
        for row in recording(f"okx/{name}")
        if row["dir"] == "in" and '"event"' not in row["raw"] and "LTC-USD-190628" not in row["raw"]
    ]
    channels: list[Channel] = ["trade", "ticker", "l1", "liquidation", "open_interest", "funding"]
    passed = await through("okx", Replay(rows, ALL, OKX, asks=2), channels, redis_server())
    assert_nothing_is_missing(passed)

    trades = {(t.symbol, t.id): t for t in of(passed, Trade)}
    for native, _, data in data_of(rows, "trades"):
        trade = trades.pop((symbol_of(native), data["tradeId"]))
        assert (trade.price, trade.aggressor) == (data["px"], data["side"])
        assert Decimal(trade.size) == base(native, data["sz"], data["px"])
        assert trade.contracts == (data["sz"] if "SWAP" in native else None)
        fills = int(trade.id) - int(trade.first_id or trade.id) + 1
        assert (fills, trade.ts_event) == (int(data["count"]), int(data["ts"]) * 1_000_000)
    assert trades == {}

    tickers = of(passed, Ticker)
    sent = list(data_of(rows, "tickers"))
    assert [(t.symbol, t.last, t.high) for t in tickers] == [
        (symbol_of(native), data["last"], data["high24h"]) for native, _, data in sent
    ]
    for ticker, (native, _, data) in zip(tickers, sent, strict=True):
        swap = "SWAP" in native
        assert ticker.volume_base == data["volCcy24h" if swap else "vol24h"]
        assert ticker.volume_quote == (None if swap else data["volCcy24h"])

    told = [(e.symbol, e.side, e.price, e.contracts, Decimal(e.size)) for e in of(passed, Liquidation)]
    liquidated = [
        (symbol_of(row["instId"]), d["side"], d["bkPx"], d["sz"], base(row["instId"], d["sz"], d["bkPx"]))
        for _, _, row in data_of(rows, "liquidation-orders")
        for d in row["details"]
    ]
    assert told == liquidated[1:], "what comes first of a subscription and is old, is no news"

    (interest,) = of(passed, OpenInterest)
    ((_, _, data),) = data_of(rows, "open-interest")
    assert (interest.contracts, interest.base, interest.notional) == (
        data["oi"],
        data["oiCcy"],
        data["oiUsd"],
    )
    (rate,) = [event for event in of(passed, Funding) if event.rate is not None]
    ((_, _, data),) = data_of(rows, "funding-rate")
    assert (rate.symbol, rate.rate) == ("BTC-USD-PERP", data["fundingRate"])
    assert rate.next_ts == int(data["fundingTime"]) * 1_000_000
    (top,) = of(passed, L1)
    ((native, _, data),) = data_of(rows, "bbo-tbt")
    (bid, bid_size, *_), (ask, ask_size, *_) = data["bids"][0], data["asks"][0]
    assert (top.symbol, top.bid, top.ask) == (symbol_of(native), bid, ask)
    assert (Decimal(top.bid_size), Decimal(top.ask_size)) == (
        base(native, bid_size, bid),
        base(native, ask_size, ask),
    )


async def test_recorded_trades_of_2022_come_out_once_each_with_their_holes_named(redis_server):
    rows = [row for row in recording("okx/mixed-trades") if "BTC-USDT" in row["raw"] and row["dir"] == "in"]
    passed = await through("okx", Replay(rows, BOOKS, OKX), ["trade"], redis_server())
    sent = [(data["tradeId"], data["px"], data["sz"], data["side"]) for _, _, data in data_of(rows, "trades")]
    told = of(passed, Trade, "BTC-USDT")
    assert [(t.id, t.price, t.size, t.aggressor) for t in told] == list(dict.fromkeys(sent))
    ids = [int(t.id) for t in told]
    holes = {n for gap in of(passed, Gap, "BTC-USDT") for n in range(int(gap.first), int(gap.last) + 1)}
    assert holes == set(range(ids[0], ids[-1] + 1)) - set(ids)
