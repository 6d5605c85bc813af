"""Recorded frames of Bybit, spot and linear: what all of them mean, and books through the whole pipeline."""

import json
from collections import Counter
from typing import Any

import pytest
from recorded_rig import assert_nothing_is_missing, best_first, read, through
from replay import Manner, Natives, Replay, recording

from actors.model.errors import Unparseable
from actors.model.events import L1, BookDelta, Funding, Liquidation, OpenInterest, Ticker, Trade
from actors.model.instruments import Instrument
from actors.venues import bybit
from actors.venues.base import Scratch

NATIVES = {"BTCUSDT": ("BTC", "USDT"), "XRPUSDT": ("XRP", "USDT"), "ROSEUSDT": ("ROSE", "USDT"),
           "BTCPERP": ("BTC", "USDC"), "MNTUSDT": ("MNT", "USDT")}  # fmt: skip
COUNTS = {
    "linear-allLiquidation-2026": {"Liquidation": 3},
    "linear-orderbook1000-derived": {"BookSnapshot": 1, "BookDelta": 49},
    "linear-orderbook500": {"BookSnapshot": 1, "BookDelta": 49},
    # One delta tells best bid and offer only; one has a time with a digit missing.
    "linear-tickers-2024": {"Ticker": 2, "OpenInterest": 2, "Funding": 3, "Unparseable": 1},
    "linear-tickers-2026": {"Ticker": 1, "OpenInterest": 1, "Funding": 2},
    "mixed-docs_examples": {"Ignored": 3, "Acked": 2, "Refused": 1, "Trade": 1},
    "spot-orderbook1-2026": {"Acked": 1, "L1": 2},
    "spot-tickers-2026": {"Acked": 1, "Ticker": 2},
    "spot-trades-2026": {"Acked": 1, "Trade": 11},
}


def known(linear: bool) -> dict[str, Instrument]:
    end, contract = ("-PERP", ("1", "linear")) if linear else ("", (None, None))
    return {n: Instrument(f"{b}-{q}{end}", n, b, q, *contract) for n, (b, q) in NATIVES.items()}


def said_in(name: str) -> list[Any]:
    said: list[Any] = []
    scratch = Scratch("a.1", known("linear" in name), venue="bybit")
    for row in recording(f"bybit/{name}"):
        if row["dir"] == "in":
            try:
                said += bybit.decode(row["raw"].encode(), scratch)
            except Unparseable as e:
                said.append(e)
    return said


def test_recorded_frames_all_mean_something() -> None:
    counts = {name: dict(Counter(type(one).__name__ for one in said_in(name))) for name in COUNTS}
    # The documents' book delta comes without the snapshot before it; that is the folds' matter.
    counts["mixed-docs_examples"].pop("BookDelta")
    assert counts == COUNTS


def test_the_fills_of_one_match_are_all_kept() -> None:
    trades = [one for one in said_in("spot-trades-2026") if isinstance(one, Trade)]
    assert [int(trade.id) for trade in trades] == list(range(2290000001190010739, 2290000001190010750))
    assert Counter(trade.seq for trade in trades) == {112571834644: 10, 112571834997: 1}
    assert {trade.aggressor for trade in trades} == {"sell"}


def test_open_interest_is_of_one_side_and_a_ticker_is_put_together() -> None:
    interest = [one for one in said_in("linear-tickers-2026") if isinstance(one, OpenInterest)]
    assert [(one.base, one.notional) for one in interest] == [("28899.069", "1848343994.54")]
    funding = [one for one in said_in("linear-tickers-2026") if isinstance(one, Funding)]
    assert [(one.rate, one.mark, one.index) for one in funding] == [
        ("0.0000544", "63958.60", "63986.67"),
        (None, None, "63986.66"),
    ]
    older = [one for one in said_in("linear-tickers-2024") if isinstance(one, OpenInterest)]
    assert [(one.symbol, one.base) for one in older] == [
        ("BTC-USDT-PERP", "29058.511"),
        ("BTC-USDC-PERP", "263.403"),
    ]
    tickers = [one for one in said_in("linear-tickers-2024") if isinstance(one, Ticker)]
    assert [(one.symbol, one.open, one.last) for one in tickers] == [
        ("BTC-USDT-PERP", "62484.60", "61874.00"),
        ("BTC-USDC-PERP", "61991.20", "61945.70"),
    ]


def test_the_recorded_side_of_a_liquidation_is_the_position_s() -> None:
    told = [one for one in said_in("linear-allLiquidation-2026") if isinstance(one, Liquidation)]
    assert [(one.side, one.position, one.price, one.size) for one in told] == [
        ("sell", "long", "82396.90", "0.006"),
        ("sell", "long", "82394.30", "0.038"),
        ("buy", "short", "0.04499", "20000"),
    ]


def test_recorded_instruments_are_read_from_their_pages() -> None:
    pages = [row for row in recording("bybit/mixed-docs_examples") if "instruments-info" in row["url"]]
    rows = [bybit.rows(row["raw"].encode()) for row in pages]
    assert [[(i.symbol, i.native, i.price_step, i.size_step) for i in page] for page in rows] == [
        [("BTC-USDT-PERP", "BTCUSDT", "0.10", "0.001")],
        [("BTC-USDT", "BTCUSDT", "0.1", "0.000001")],
    ]


# ---- through the whole pipeline -------------------------------------------------------------------------


MS = 1_000_000


def linear(natives: Natives) -> Any:
    rows = [
        {"symbol": n, "baseCoin": b, "quoteCoin": q, "contractType": "LinearPerpetual", "status": "Trading"}
        for n, (b, q) in natives.items()
    ]
    return {"retCode": 0, "retMsg": "OK", "result": {"list": rows, "nextPageCursor": ""}}


def spot(natives: Natives) -> Any:
    rows = [
        {"symbol": n, "baseCoin": b, "quoteCoin": q, "status": "Trading"} for n, (b, q) in natives.items()
    ]
    return {"retCode": 0, "retMsg": "OK", "result": {"list": rows}}


def acked(asked: Any) -> Any:
    return {"success": True, "ret_msg": "", "conn_id": "x", "req_id": "", "op": asked["op"]}


LIST = "/v5/market/instruments-info"
XRP = {"XRPUSDT": ("XRP", "USDT")}


def frames_of(rows: list[dict[str, Any]], stream: str) -> list[dict[str, Any]]:
    frames = [json.loads(row["raw"]) for row in rows if row["dir"] == "in"]
    return [frame for frame in frames if frame.get("topic", "").startswith(f"{stream}.")]


@pytest.mark.redis
async def test_recorded_spot_trades_best_prices_and_tickers_come_out_as_they_were(redis_server: Any) -> None:
    rows = [
        row for kind in ("trades", "orderbook1", "tickers") for row in recording(f"bybit/spot-{kind}-2026")
    ]
    acks = [row for row in rows if "success" in row["raw"] and row["dir"] == "in"]
    rows = [row for row in rows if row not in acks[1:]]  # one request asks for all three
    replay = Replay(rows, {"BTCUSDT": ("BTC", "USDT")}, Manner((LIST, spot)))
    passed = await through("bybit", replay, ["trade", "l1", "ticker"], redis_server())
    assert_nothing_is_missing(passed)
    fills = [fill for frame in frames_of(rows, "publicTrade") for fill in frame["data"]]
    assert [
        (t.id, t.price, t.size, t.aggressor, t.ts_event) for t in passed.events if isinstance(t, Trade)
    ] == [(fill["i"], fill["p"], fill["v"], fill["S"].lower(), fill["T"] * MS) for fill in fills]
    tops = [e for e in passed.events if isinstance(e, L1)]
    assert [(e.bid, e.bid_size, e.ask, e.ask_size, e.seq, e.ts_event) for e in tops] == [
        (*frame["data"]["b"][0], *frame["data"]["a"][0], frame["data"]["u"], frame["cts"] * MS)
        for frame in frames_of(rows, "orderbook")
    ]
    names = ("lastPrice", "prevPrice24h", "highPrice24h", "lowPrice24h", "volume24h", "turnover24h")
    days = [e for e in passed.events if isinstance(e, Ticker)]
    assert [(e.last, e.open, e.high, e.low, e.volume_base, e.volume_quote) for e in days] == [
        tuple(frame["data"][name] for name in names) for frame in frames_of(rows, "tickers")
    ]


@pytest.mark.redis
async def test_recorded_linear_tickers_and_liquidations_come_out_as_they_were(redis_server: Any) -> None:
    rows = [row for kind in ("tickers", "allLiquidation") for row in recording(f"bybit/linear-{kind}-2026")]
    natives = {"BTCUSDT": ("BTC", "USDT"), "ROSEUSDT": ("ROSE", "USDT")}
    replay = Replay(rows, natives, Manner((LIST, linear), answer=acked))
    passed = await through(
        "bybit_linear",
        replay,
        ["ticker", "open_interest", "funding", "liquidation"],
        redis_server(),
        end="-PERP",
    )
    assert_nothing_is_missing(passed)
    forced = [e for e in passed.events if isinstance(e, Liquidation)]
    assert [(e.position, e.price, e.size, e.ts_event) for e in forced] == [
        ({"Buy": "long", "Sell": "short"}[each["S"]], each["p"], each["v"], each["T"] * MS)
        for frame in frames_of(rows, "allLiquidation")
        for each in frame["data"]
    ]
    whole, change = (frame["data"] for frame in frames_of(rows, "tickers"))
    [interest] = [e for e in passed.events if isinstance(e, OpenInterest)]
    assert (interest.base, interest.notional) == (
        whole["singleOpenInterest"],
        whole["singleOpenInterestValue"],
    )
    assert [e.last for e in passed.events if isinstance(e, Ticker)] == [whole["lastPrice"]]
    funding = [e for e in passed.events if isinstance(e, Funding)]
    assert [(e.rate, e.mark, e.index) for e in funding] == [
        (whole["fundingRate"], whole["markPrice"], whole["indexPrice"]),
        (None, None, change["indexPrice"]),
    ]


@pytest.mark.redis
@pytest.mark.parametrize("name", ["linear-orderbook1000-derived", "linear-orderbook500"])
async def test_the_recorded_book_comes_out_whole(name: str, redis_server: Any) -> None:
    rows = recording(f"bybit/{name}")
    replay = Replay(rows, XRP, Manner((LIST, linear), answer=acked))
    passed = await through("bybit_linear", replay, ["book"], redis_server(), end="-PERP")
    assert_nothing_is_missing(passed)
    assert sum(isinstance(event, BookDelta) for event in passed.events) == 49
    bids: dict[str, str] = {}
    asks: dict[str, str] = {}
    last = 0
    for row in rows:
        frame = json.loads(row["raw"])
        assert frame["type"] == "snapshot" or frame["data"]["u"] == last + 1
        last = frame["data"]["u"]
        for side, changes in ((bids, frame["data"]["b"]), (asks, frame["data"]["a"])):
            side.update(dict(changes))
    reference = best_first(*({p: s for p, s in side.items() if float(s)} for side in (bids, asks)))
    reader = read(passed.books)["XRP-USDT-PERP"]
    assert (reader.state, reader.seq) == ("live", last)
    for ours, theirs in zip(reader.levels, reference, strict=True):
        assert ours == theirs[: len(ours)]
        assert len(ours) in (len(theirs), 500, 1000)
