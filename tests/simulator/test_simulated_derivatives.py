"""Perpetual swaps of the simulated market: prices that agree, interest, funding, forced orders."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.simulator.binance import LISTINGS
from actors.simulator.book import Fill
from actors.simulator.derivatives import Contract, Forced, Perpetual, Position, base_text
from actors.simulator.market import Listing, Live, Market

START = 1_767_225_600_000_000_000
HOURS_8 = 8 * 3600 * 1_000_000_000
LINEAR = Contract(kind="linear", size="0.01")
INVERSE = Contract(kind="inverse", size="100")
PERP = Listing(
    venue="other", symbol="BTC-USDT-PERP", native="BTC-USDT-SWAP", base="BTC", quote="USDT",
    price_step="0.1", size_step="0.01", orders_per_s=40.0, usual_usd=2_000.0, contract=LINEAR,
)  # fmt: skip
COIN = Listing(
    venue="other", symbol="BTC-USD-PERP", native="BTC-USD-SWAP", base="BTC", quote="USD",
    price_step="0.1", size_step="1", orders_per_s=20.0, usual_usd=2_000.0, contract=INVERSE,
)  # fmt: skip
SPOT = [each for each in LISTINGS if each.symbol in ("BTC-USDT", "ETH-USDT")]


class Trading:
    """A market that runs at its own pace, and what it told."""

    def __init__(self, *listings: Listing, seed: int = 1) -> None:
        self.market = Market(seed, listings, 1)
        self.told: list[tuple[str, int, list[Fill]]] = []
        for venue in {listing.venue for listing in listings}:
            self.market.sinks[venue] = self._take

    def _take(self, live: Live, sign: int, fills: list[Fill], _top: bool, _now: int) -> None:
        self.told.append((live.listing.symbol, sign, fills))

    def run(self, seconds: float) -> None:
        until = self.market.time + seconds
        while self.market.due <= until:
            self.market.step(START + int(self.market.due * 1e9))

    def swap(self, listing: Listing) -> tuple[Live, Perpetual]:
        live = self.market.live[listing.venue, listing.symbol]
        assert live.perpetual is not None
        return live, live.perpetual


@pytest.fixture(scope="module")
def ten_minutes() -> Trading:
    trading = Trading(PERP, COIN)
    trading.run(600)
    return trading


def test_swaps_change_nothing_for_the_others_and_are_the_same_again() -> None:
    alone, both, again = Trading(*SPOT), Trading(*SPOT, PERP, COIN), Trading(*SPOT, PERP, COIN)
    for trading in (alone, both, again):
        trading.run(30)
    assert [each for each in both.told if "PERP" not in each[0]] == alone.told
    assert both.told == again.told
    assert both.swap(PERP)[1].forced == again.swap(PERP)[1].forced


def test_a_swap_trades_near_its_index_and_is_marked_between() -> None:
    trading = Trading(PERP, COIN)
    for _ in range(20):
        trading.run(30)
        for listing in (PERP, COIN):
            live, swap = trading.swap(listing)
            bid, _, ask, _ = live.book.top()
            assert abs((bid + ask) / 2 / swap.index - 1) < 0.004
            assert abs(swap.mark / swap.index - 1) < 0.003
            assert swap.index * 0.1 == pytest.approx(64_000, rel=0.05)


def test_forced_orders_are_trades_of_the_tape_and_follow_the_price(ten_minutes: Trading) -> None:
    for listing in (PERP, COIN):
        live, swap = ten_minutes.swap(listing)
        forced = list(swap.forced)
        assert len(forced) > 10
        assert {each.sign for each in forced} == {1, -1}
        assert [each.id for each in forced] == list(range(1, swap.forced_next))
        tape = live.tape.read(0, live.tape.next)
        for each in forced:
            met = [(t.sign, t.price, t.size) for t in tape if t.ts == each.ts and t.sign == each.sign]
            assert sum(size for _, _, size in met) >= each.filled > 0
            assert each.filled <= each.size
            # A sold long was worth nothing any more below the price that it got, and the other way round.
            assert each.sign * (each.price - each.quote / each.filled) > -0.005 * each.price


def test_falling_prices_liquidate_longs_and_rising_ones_shorts() -> None:
    swap = Perpetual(LINEAR, "1", 1)
    swap.move(640_000.0, 0.0, 0.0)
    swap.open(300.0, 10.0)
    assert swap.due() is None
    for direction in (-1, 1):
        price = 640_000.0
        for _ in range(40):
            price *= 1 + direction * 0.0001
            swap.move(price, price, 1.0)
            while (position := swap.due()) is not None:
                assert position.held == -direction
                assert position.held * (swap.mark - position.price) > 0, "the trigger comes before the end"
                swap.closed(position, position.size, position.size * position.price, START)
        price = 640_000.0
        swap.move(price, price, 1e9)  # back, and every mean where it belongs
    assert {each.sign for each in swap.forced} == {1, -1}


def test_interest_moves_with_trades_and_with_liquidations() -> None:
    trading = Trading(PERP)
    _, swap = trading.swap(PERP)
    begun = swap.open_interest
    assert begun == pytest.approx(40e6 / 6.4, rel=0.01), "lots of 0.01 contracts of 0.01 BTC"
    seen = {begun}
    for _ in range(200):
        trading.run(0.5)
        seen.add(swap.open_interest)
    assert max(seen) > begun > min(seen)
    before, forced = swap.open_interest, swap.forced_next
    swap.closed(_position(swap), 1, 1, START)
    assert (swap.open_interest, swap.forced_next) == (before - 5, forced + 1)


def test_interest_that_is_nearly_nothing_does_not_fall_below_it() -> None:
    few = msgspec.structs.replace(PERP, contract=msgspec.structs.replace(LINEAR, open_usd=500.0))
    trading = Trading(few)
    _, swap = trading.swap(few)
    for _ in range(100):
        trading.run(1)
        assert swap.open_interest >= 0
    assert swap.open_interest != 78


def _position(swap: Perpetual) -> Position:
    return Position(1, int(swap.mark), 5)


def test_the_rate_follows_the_premium_and_is_paid_at_the_settlement() -> None:
    swap = Perpetual(LINEAR, "1", 1)
    for premium in (0.001, -0.002, 0.01):
        swap.move(1000.0, 1000.0 * (1 + premium), 1e9)
        assert swap.mark == pytest.approx(1000 * (1 + premium))
        assert swap.rate == pytest.approx(max(-0.00375, min(0.00375, premium)))
    swap.settle(START)
    assert swap.settled == swap.rate == 0.00375
    swap.move(1000.0, 1000.0, 1e9)
    swap.settle(START + HOURS_8 - 1)
    assert (swap.settled, swap.rate) == (0.00375, 0.0)
    swap.settle(START + HOURS_8)
    assert swap.settled == 0.0
    assert swap.settlement(START + 1) == START + HOURS_8
    assert swap.settlement(START + HOURS_8, 2) == START + 3 * HOURS_8


def test_a_rate_with_interest_is_drawn_to_it() -> None:
    swap = Perpetual(Contract(kind="linear", size="1", interest=0.0001), "1", 1)
    for premium, rate in ((0.0004, 0.0001), (0.0010, 0.0005), (-0.0010, -0.0005)):
        swap.move(1000.0, 1000.0 * (1 + premium), 1e9)
        assert swap.rate == pytest.approx(rate)


def test_liquidations_are_read_by_id_as_far_as_they_are_kept() -> None:
    swap = Perpetual(LINEAR, "1", 100)
    swap.move(1000.0, 0.0, 0.0)
    for n in range(5):
        swap.closed(_position(swap), n, n, START)
    assert [each.id for each in swap.forced_since(103)] == [103, 104]
    assert [each.id for each in swap.forced_since(0)] == [100, 101, 102, 103, 104]
    assert swap.forced_since(105) == []
    assert swap.forced[0] == Forced(100, START, -1, 1000, 5, 0, 0)


@given(st.integers(0, 10**12), st.sampled_from(["0.01", "1", "0.1", "1000000"]))
def test_lots_of_linear_contracts_are_exact_in_base_currency(lots: int, size: str) -> None:
    text = base_text(Contract(kind="linear", size=size), "0.01", lots, 1.0).decode()
    assert Decimal(text) == Decimal("0.01") * lots * Decimal(size)
    assert "E" not in text


def test_lots_of_inverse_contracts_are_rounded_in_base_currency() -> None:
    assert base_text(INVERSE, "1", 7, 64_000.5) == b"0.010937414551"
