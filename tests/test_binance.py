"""What a case table cannot say of Binance, its US sibling and USD-M: silence, limits, requests, holes."""

from itertools import product
from typing import Any

import pytest
from chain_rig import START, Chain

from actors.model.events import Book, Channel, Status
from actors.model.instruments import Instrument
from actors.venues import VENUES

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


@pytest.mark.parametrize("name", ["binance", "binance_usdm"])
def test_a_symbol_that_changes_each_90_s_is_never_stale_and_costs_no_connection(name: str) -> None:
    chain = connected(name, "book", "l1")
    busy, slow = (each.native for each in PAIRS[name])
    for number in range(1, 11):
        chain.hear(diff(slow, number), best(slow))
        chain.wait(90, best(busy), diff(busy, number))
    assert repairs(chain) == []
    assert "stale" not in {status.state for status in chain.told(Status)}


@pytest.mark.parametrize(("name", "channel"), [("binance", "book"), ("binance_usdm", "book")])
def test_a_symbol_silent_for_ten_minutes_is_told_and_asked_for_anew(name: str, channel: Channel) -> None:
    chain = connected(name, channel)
    busy, slow = (each.native for each in PAIRS[name])
    chain.hear(diff(slow, 1))
    chain.wait(600, diff(busy, 1))
    assert repairs(chain) == []
    chain.told()
    chain.wait(1, diff(busy, 1))
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
