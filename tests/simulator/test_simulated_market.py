"""The market: the same seed is the same market, prices agree, books live."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from actors.simulator.binance import LISTINGS
from actors.simulator.book import Fill
from actors.simulator.market import Day, Fixed, Listing, Live, Market, fixed
from actors.simulator.street import load, simulated


def told(market: Market, steps: int) -> list[object]:
    happened: list[object] = []

    def sink(live: Live, sign: int, fills: list[Fill], top: bool, _now: int) -> None:
        happened.append((live.listing.symbol, sign, fills, top, live.book.top()))

    market.sinks["binance"] = sink
    for step in range(steps):
        market.step(step)
    return happened


def test_the_same_seed_is_the_same_market() -> None:
    assert told(Market(7, LISTINGS, 1), 3_000) == told(Market(7, LISTINGS, 1), 3_000)


def test_another_seed_is_another_market() -> None:
    assert told(Market(7, LISTINGS, 1), 500) != told(Market(8, LISTINGS, 1), 500)


def test_another_venue_changes_nothing_and_trades_at_about_the_same_price() -> None:
    here = [each for each in LISTINGS if each.symbol in ("BTC-USDT", "ETH-USDT")]
    there = Listing(
        venue="other",
        symbol="BTC-USDT",
        native="tBTC",
        base="BTC",
        quote="USDT",
        price_step="0.5",
        size_step="0.001",
        orders_per_s=40.0,
    )
    alone, both = Market(3, here, 1), Market(3, [*here, there], 1)
    told_alone, told_both = told(alone, 4_000), told(both, 6_000)
    assert told_both[: len(told_alone)] == told_alone[: len(told_both)]
    bid, _, ask, _ = both.live["other", "BTC-USDT"].book.top()
    ours, _, _, _ = both.live["binance", "BTC-USDT"].book.top()
    assert abs((bid + ask) / 2 * 0.5 / (ours * 0.01) - 1) < 0.005


def test_every_venue_that_is_simulated_leaves_the_others_as_they_were() -> None:
    every = [listing for name in simulated() for listing in load(name).LISTINGS]
    steps = 2_000 * len(simulated())
    both = told(Market(3, every, 1), steps)
    alone = told(Market(3, LISTINGS, 1), steps)
    assert 500 < len(both) < len(alone)
    assert alone[: len(both)] == both


def test_books_stay_deep_and_trades_have_both_aggressors_and_several_fills() -> None:
    market = Market(1, LISTINGS, 1)
    happened = told(market, 30_000)
    fills = [(sign, len(fills)) for _, sign, fills, _, _ in happened if fills]  # type: ignore[misc]
    assert {sign for sign, _ in fills} == {1, -1}
    assert max(n for _, n in fills) > 3
    book = market.live["binance", "BTC-USDT"].book
    assert min(map(len, book.sides())) > 500
    assert market.published < market.acts
    for live in market.live.values():
        bid, _, ask, _ = live.book.top()
        assert abs((bid + ask) / 2 / live.fair - 1) < 0.02, live.listing.symbol


def test_a_book_can_hold_a_thousand_levels_a_side() -> None:
    market = Market(1, [each for each in LISTINGS if each.symbol == "BTC-USDT"], 1)
    told(market, 5_000)
    assert min(map(len, market.live["binance", "BTC-USDT"].book.sides())) >= 900
    assert max(map(len, market.live["binance", "BTC-USDT"].book.sides())) >= 1000


def test_the_tape_has_every_fill_with_ids_without_holes() -> None:
    market = Market(1, LISTINGS, 5_000)
    happened = told(market, 5_000)
    live = market.live["binance", "ETH-USDT"]
    fills = [fill for symbol, _, fs, _, _ in happened if symbol == "ETH-USDT" for fill in fs]  # type: ignore[misc]
    tape = live.tape.read(0, live.tape.next)
    assert [trade.id for trade in tape] == list(range(5_000, 5_000 + len(fills)))
    assert [(trade.price, trade.size) for trade in tape] == [(f.price, f.size) for f in fills]


@given(st.integers(-(10**12), 10**12), st.integers(0, 8))
def test_text_of_steps_is_exact(n: int, decimals: int) -> None:
    text = fixed(n, decimals).decode()
    assert Decimal(text) == Decimal(n).scaleb(-decimals)
    assert len(text.partition(".")[2]) == decimals


def test_steps_that_are_no_power_of_ten_are_written_exactly() -> None:
    assert Fixed("0.05", 8)(3) == b"0.15000000"
    assert Fixed("10")(7) == b"70"
    assert Fixed("0.00000001")(1734) == b"0.00001734"


def test_a_day_rolls_minute_by_minute() -> None:
    day = Day()
    minute = 60_000_000_000
    assert day.summary() is None
    day.add(0, 100, 1, 1)
    day.add(5 * minute, 300, 2, 2)
    day.add(10 * minute, 200, 3, 3)
    whole = day.summary()
    assert whole is not None
    assert whole[1:5] == (100, 300, 100, 200), "open, high, low, close"
    assert (whole.volume, whole.trades) == (6, 3)
    day.add(1442 * minute, 250, 1, 4)
    rolled = day.summary()
    assert rolled is not None
    assert (rolled.open, rolled.before, rolled.first_id, rolled.trades, rolled.volume) == (300, 100, 2, 3, 6)
