"""What a case table cannot say of Binance, its US sibling and USD-M: silence, limits, requests, holes."""

import json
from itertools import product
from typing import Any

import pytest
from chain_rig import START, Chain

from actors.model.events import Book, Channel, Status, Trade
from actors.model.instruments import Instrument
from actors.venues import VENUES
from actors.venues.base import Answer

MS = START // 1_000_000
SPOT = (Instrument("BTC-USDT", "BTCUSDT", "BTC", "USDT"), Instrument("FLR-USDT", "FLRUSDT", "FLR", "USDT"))
SWAPS = tuple(
    Instrument(f"{each.symbol}-PERP", each.native, each.base, each.quote, "1", "linear") for each in SPOT
)
PAIRS = {"binance": SPOT, "binance_us": SPOT, "binance_usdm": SWAPS}
QUIET_S = {"binance": 60, "binance_us": 600, "binance_usdm": 60}


def connected(name: str, *channels: Channel) -> Chain:
    """Return a chain whose one connection has been asked for ``channels`` of a busy and of a quiet symbol."""
    chain = Chain(VENUES[name], *PAIRS[name])
    chain.open(*channels)
    chain.hear({"result": None, "id": 1})
    return chain


def pushed(stream: str, **data: Any) -> dict[str, Any]:
    return {"stream": stream, "data": data}


def best(native: str) -> dict[str, Any]:
    return pushed(
        f"{native.lower()}@bookTicker", e="bookTicker", u=1, s=native, b="1", B="1", a="2", A="1", T=MS, E=MS
    )


def diff(native: str, number: int) -> dict[str, Any]:
    stream = f"{native.lower()}@depth@100ms"
    numbers = {"U": number, "u": number, "pu": number - 1}
    return pushed(stream, e="depthUpdate", E=MS, T=MS, s=native, **numbers, b=[["1", "1"]], a=[])


def day(native: str) -> dict[str, Any]:
    texts = dict.fromkeys("cohlvq", "1.5")
    return pushed(f"{native.lower()}@ticker", e="24hrTicker", E=MS, s=native, **texts)


def mark(native: str) -> dict[str, Any]:
    texts = {"p": "1.5", "i": "1.5", "P": "1.5", "r": "0.0001"}
    return pushed(f"{native.lower()}@markPrice@1s", e="markPriceUpdate", E=MS, s=native, **texts, T=MS)


def repairs(chain: Chain) -> list[tuple[str, str | None]]:
    """Return what was asked of the connector, but for snapshots."""
    return [(asked.op, asked.channel) for asked in chain.asked() if asked.op != "snapshot"]


ALONE = [
    *product(PAIRS, ("trade", "book")),
    ("binance_us", "ticker"),
    ("binance_usdm", "liquidation"),
]


# ---- silence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "channel"), ALONE)
def test_a_connection_that_gives_nothing_is_noticed_whatever_it_carries(name: str, channel: Channel) -> None:
    chain = connected(name, channel)
    chain.wait(QUIET_S[name])
    assert repairs(chain) == []
    chain.wait(1)
    assert repairs(chain)[-1] == ("reconnect", None)
    assert ("stale", "silent") in [(s.state, s.reason) for s in chain.told(Status) if s.symbol is None]


# Tickers of USD-M come on another route than its books do.
WATCHED = [("binance", "book", "l1", "ticker"), ("binance_usdm", "book", "l1"), ("binance_usdm", "ticker")]
OF = {"book": lambda native: diff(native, 1), "l1": best, "ticker": day}


@pytest.mark.parametrize(("name", "channels"), [(name, channels) for name, *channels in WATCHED])
def test_a_symbol_that_changes_each_90_s_is_never_stale_and_costs_no_connection(
    name: str, channels: list[Channel]
) -> None:
    chain = connected(name, *channels)
    busy, slow = (each.native for each in PAIRS[name])
    for _ in range(10):
        chain.hear(*(OF[channel](slow) for channel in channels))
        chain.wait(90, *(OF[channel](busy) for channel in channels))
    assert repairs(chain) == []
    assert "stale" not in {status.state for status in chain.told(Status)}


@pytest.mark.parametrize(
    ("name", "channel"), [(name, channel) for name, *channels in WATCHED for channel in channels]
)
def test_a_symbol_silent_for_ten_minutes_is_told_and_asked_for_anew(name: str, channel: Channel) -> None:
    chain = connected(name, channel)
    busy, slow = (each.native for each in PAIRS[name])
    chain.hear(OF[channel](slow))
    chain.wait(600, OF[channel](busy))
    assert repairs(chain) == []
    chain.told()
    chain.wait(1, OF[channel](busy))
    assert repairs(chain) == [("resubscribe", channel)]
    assert chain.states() == {f"{channel} {PAIRS[name][1].symbol}": "stale"}


def test_quiet_books_of_binance_us_are_healthy() -> None:
    for channels, heartbeat in ((("book",), diff("BTCUSDT", 1)), (("book", "l1"), best("FLRUSDT"))):
        chain = connected("binance_us", *channels)
        chain.hear(diff("FLRUSDT", 1))
        [request] = [asked for asked in chain.asked() if asked.symbol == "FLR-USDT"]
        chain.answer(request, {"lastUpdateId": 1, "bids": [["1", "1"]], "asks": [["2", "1"]]})
        chain.told()
        chain.wait(3600, heartbeat)
        assert repairs(chain) == []
        told = [each for each in chain.told(Status, Book) if each.symbol == "FLR-USDT"]
        assert not {each.state for each in told} & {"stale", "resyncing", "down"}


@pytest.mark.parametrize("name", ["binance", "binance_usdm"])
def test_a_stream_acknowledged_and_silent_is_told_though_others_speak(name: str) -> None:
    chain = connected(name, "book", "l1")
    chain.told()
    chain.wait(120, best(PAIRS[name][0].native))
    assert repairs(chain) == []
    chain.wait(1, best(PAIRS[name][0].native))
    assert ("resubscribe", "book") in repairs(chain)
    assert chain.states()[f"book {PAIRS[name][0].symbol}"] == "stale"


@pytest.mark.parametrize(("channel", "first_s"), [("trade", 600), ("ticker", 120)])
def test_a_wrong_route_of_usd_m_is_told_though_its_marks_come(channel: Channel, first_s: int) -> None:
    chain = connected("binance_usdm", channel, "funding")
    marks = [mark(each.native) for each in SWAPS]
    chain.wait(first_s, *marks)
    assert repairs(chain) == []
    chain.wait(1, *marks)
    assert set(repairs(chain)) == {("resubscribe", channel)}


def test_marks_that_stop_are_told_within_half_a_minute_and_liquidations_may_be_silent_for_hours() -> None:
    chain = connected("binance_usdm", "liquidation", "funding")
    marks = [mark(each.native) for each in SWAPS]
    chain.wait(2 * 3600, *marks)
    assert repairs(chain) == []
    chain.wait(31, marks[0])
    assert repairs(chain) == [("resubscribe", "funding")]


# ---- holes ----------------------------------------------------------------------------------------------


def trade(number: int) -> dict[str, Any]:
    at = MS + number
    return pushed("btcusdt@trade", e="trade", E=at, s="BTCUSDT", t=number, p="1.5", q="2", T=at, m=True)


def past(number: int) -> dict[str, Any]:
    return {"id": number, "price": "1.5", "qty": "2", "time": MS + number, "isBuyerMaker": True}


def test_a_long_hole_of_binance_us_is_filled_as_far_as_the_latest_trades_reach() -> None:
    chain = connected("binance_us", "trade")
    chain.hear(trade(1), trade(2502))
    chain.wait(3, trade(2503))
    asked = [request for request in chain.asked() if request.op == "backfill"]
    assert [(request.first, request.last) for request in asked] == [("2", "2501")]
    chain.told()
    ask = chain.venue.backfill
    assert ask is not None
    for attempt in range(4):
        request = asked[-1]
        rest = ask(SPOT[0], request.first or "", request.last or "")
        body = json.dumps([past(number) for number in range(1504, 2504)])
        chain.say("h", Answer(rest, 200, body, request.id), "a.*")
        found = [int(each.id) for each in chain.told(Trade)]
        assert found == ([] if attempt else [*range(1504, 2502)])
        asked += [request for request in chain.asked() if request.op == "backfill"]
    assert [(request.first, request.last) for request in asked[1:]] == [("2", "1503")] * 3  # then given up


# ---- limits ---------------------------------------------------------------------------------------------

STREAMS = 1024  # binance.md 2, binance_us.md 2, binance_usdm.md 2
DAY_S = 24 * 3600  # the life of a connection, in the same places
CAREFUL = 200  # binance.md 2, binance_usdm.md 2: what clients put into a message, or on a connection
MESSAGES_A_SECOND = {
    "binance": 5,
    "binance_us": 5,
    "binance_usdm": 10,
}  # 2, in each; pings and pongs are some
WEIGHT_A_MINUTE = {"binance": 6000, "binance_us": 1200, "binance_usdm": 2400}  # 2, in each
CONNECTS_IN_5_MINUTES = 300  # binance.md 2
BOOK_WEIGHT = {"binance": 50, "binance_us": 50, "binance_usdm": 20}  # of 1000 levels: 5.3 in each


@pytest.mark.parametrize("name", PAIRS)
def test_limits_are_within_the_documented_ones(name: str) -> None:
    limits = VENUES[name].limits
    assert limits.items_per_connection <= (CAREFUL if name == "binance_usdm" else STREAMS)
    assert limits.frames_per_s + 2 <= MESSAGES_A_SECOND[name]  # a ping of ours and a pong may come between
    assert limits.weight_per_minute <= WEIGHT_A_MINUTE[name]
    assert limits.connects_per_minute * 5 <= CONNECTS_IN_5_MINUTES
    assert limits.lifetime_s is not None
    assert limits.lifetime_s < DAY_S


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_asked_for_is_small_enough_and_counted_as_the_venue_counts_it(name: str) -> None:
    venue, instrument = VENUES[name], PAIRS[name][0]
    known = {f"A{n}-B": Instrument(f"A{n}-B", f"A{n}B", f"A{n}", "B") for n in range(1000)}
    frames = venue.subscribe([("book", symbol) for symbol in known], known, 1)
    assert max(len(json.loads(each.frame)["params"]) for each in frames) <= CAREFUL
    assert venue.snapshot is not None
    request = venue.snapshot(instrument)
    assert "limit=1000" in request.path
    assert request.weight == BOOK_WEIGHT[name]


# ---- books ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["binance", "binance_us"])
def test_a_snapshot_that_ends_before_the_first_change_is_too_old(name: str) -> None:
    chain = connected(name, "book")
    chain.hear(diff("BTCUSDT", 101), diff("BTCUSDT", 102))
    [request] = chain.asked()
    levels = {"bids": [["1", "1"]], "asks": [["2", "1"]]}
    chain.answer(request, {"lastUpdateId": 100, **levels})
    assert "live" not in {book.state for book in chain.told(Book)}
    chain.wait(2)
    [request] = chain.asked()
    chain.answer(request, {"lastUpdateId": 101, **levels})
    [book] = [each for each in chain.told(Book) if each.state == "live"]
    assert (book.seq, book.bids) == (102, [("1", "1")])
