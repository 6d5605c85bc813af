"""The simulated OKX through its adapter and the folds: books are the truth, trades the tape, units exact."""

import random
from decimal import Decimal
from typing import Any

import pytest
from simulator_rig import MS
from venue_rig import Chain

from actors.model.events import (
    L1,
    Book,
    BookDelta,
    Funding,
    Gap,
    Liquidation,
    OpenInterest,
    Status,
    Ticker,
    Trade,
)

SYMBOLS = ("BTC-USDT", "ETH-USDT", "BTC-USDT-PERP", "ETH-USDT-PERP", "BTC-USD-PERP")
SWAPS = SYMBOLS[2:]
THREE = SYMBOLS[::2]  # spot, linear, inverse


@pytest.fixture(scope="module")
def undisturbed() -> Chain:
    """A minute and a half without a fault; to be looked at only."""
    chain = Chain("okx", *SYMBOLS)
    chain.run(95)
    return chain


def test_everything_that_the_venue_says_is_understood_and_all_of_it_comes(undisturbed: Chain) -> None:
    chain = undisturbed
    assert {type(e) for e in chain.events} >= {
        Trade, BookDelta, L1, Ticker, Liquidation, OpenInterest, Funding, Status
    }  # fmt: skip
    assert chain.check_books() == len(SYMBOLS)
    assert len(chain.of(Book, "BTC-USDT-PERP")) > 500
    for symbol in SYMBOLS:
        assert chain.unexplained(symbol) == []
        assert chain.states[symbol][-1] == "live"
    assert not chain.of(Gap)
    assert not [name for name, _ in chain.counts if name == "tapeline_unparseable_total"]
    assert not chain.asked
    states = {(e.channel, e.symbol): e.state for e in chain.of(Status) if e.symbol}
    assert set(states.values()) == {"live"}
    assert len(states) == 2 * 4 + 3 * 7


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("gap", {"channel": "book"}),
    ("gap", {"channel": "trade", "count": 3}),
    ("gap", {}),
    ("duplicate", {"count": 5}),
    ("reorder", {"channel": "book"}),
    ("corrupt", {"how": "truncated"}),
    ("corrupt", {"how": "number"}),
    ("null_price", {}),
    ("crossed", {}),
    ("renumber", {}),
    ("silent_ack", {"for_s": 5}),
    ("no_ack", {"for_s": 15}),
    ("drop", {}),
]


@pytest.mark.parametrize("seed", [2, 3])
def test_hundreds_of_updates_with_random_faults_never_show_a_wrong_book_as_live(seed: int) -> None:
    dice = random.Random(seed)
    chain = Chain("okx", *THREE, seed=seed)
    chain.run(5)
    for _ in range(25):
        kind, more = dice.choice(FAULTS)
        symbol = dice.choice(THREE)
        if kind == "drop":
            chain.drop(dice.choice([1006, 1001, 4005]))
        elif kind in ("renumber", "silent_ack", "no_ack"):
            chain.desk.fault(kind, **more, **({} if kind == "no_ack" else {"symbol": symbol}))
        else:
            chain.fault(kind, **more, symbol=symbol)
        chain.run(dice.uniform(0.3, 4))
        chain.desk.faults.expired(chain.desk.now)
    chain.desk.faults.clear()
    chain.run(80)
    for symbol in THREE:
        assert chain.views[symbol].state == "live", (symbol, chain.states[symbol][-5:])
        assert len([b for b in chain.of(Book, symbol) if b.state == "live"]) > 300
    chain.drop()  # trades that were acknowledged and are silent may be so for ten minutes
    chain.run(10)
    for symbol in THREE:
        assert chain.unexplained(symbol) == []


def test_an_injected_gap_is_detected_and_told_once_and_resyncs_exactly_that_symbol() -> None:
    chain = Chain("okx", *SYMBOLS)
    chain.run(5)
    for n, symbol in enumerate(SYMBOLS, 1):
        before = {name: list(states) for name, states in chain.states.items()}
        told = len(chain.of(Book, symbol))
        chain.fault("gap", channel="book", symbol=symbol)
        chain.run(1.5)
        gaps = [gap for gap in chain.of(Gap) if gap.channel == "book"]
        assert len(gaps) == n, "injected = told"
        assert chain.counts["tapeline_gaps_total", "book/sequence"] == n, "injected = counted"
        assert (gaps[-1].symbol, gaps[-1].cause) == (symbol, "sequence")
        after = chain.of(Book, symbol)[told:]
        broken = next(i for i, book in enumerate(after) if book.state == "resyncing")
        whole = next(i for i, book in enumerate(after) if i > broken and book.state != "resyncing")
        assert (after[whole].type, after[whole].state, after[whole].verified) == (
            "snapshot",
            "live",
            "sequence",
        )
        assert all(not book.bids and not book.asks for book in after[broken:whole])
        assert {name for name, states in chain.states.items() if states != before[name]} == {symbol}
    assert chain.asked["resubscribe"] == chain.asked["subscribe"] == len(SYMBOLS)
    assert not chain.asked["reconnect"]


def test_a_gap_of_trades_is_told_and_filled_by_single_fills() -> None:
    chain = Chain("okx", *SYMBOLS)
    chain.run(5)
    chain.fault("gap", channel="trade", symbol="BTC-USDT-PERP", count=4)
    chain.run(30)
    opened, closed = [gap for gap in chain.of(Gap) if gap.channel == "trade"]
    assert (opened.symbol, opened.filled, closed.filled) == ("BTC-USDT-PERP", False, True)
    assert (opened.first, opened.last) == (closed.first, closed.last)
    filled = [t for t in chain.of(Trade, "BTC-USDT-PERP") if t.backfilled]
    assert [int(t.id) for t in filled] == list(range(int(opened.first), int(opened.last) + 1))
    assert chain.unexplained("BTC-USDT-PERP") == []


def test_a_dropped_connection_is_a_gap_of_what_cannot_be_fetched_and_of_nothing_else() -> None:
    chain = Chain("okx", *SYMBOLS)
    chain.run(10)
    chain.drop()
    chain.run(10)
    gaps = {
        (gap.channel, gap.symbol) for gap in chain.of(Gap) if gap.cause == "disconnect" and not gap.filled
    }
    assert {channel for channel, _ in gaps} >= {"book", "l1", "ticker", "open_interest", "funding", "trade"}
    assert chain.check_books() == len(SYMBOLS)
    assert [chain.unexplained(symbol) for symbol in SYMBOLS] == [[]] * len(SYMBOLS)


def test_liquidations_are_those_of_the_truth_in_base_currency(undisturbed: Chain) -> None:
    chain = undisturbed
    for symbol in SWAPS:
        shop = chain.desk.house.by_symbol[symbol]
        true = {(e.ts // MS, e.price, e.contracts): e for e in shop.liquidations()}
        told = chain.of(Liquidation, symbol)
        assert len(told) > 3
        for each in told:
            one = true[each.ts_event // MS, each.price, each.contracts]
            assert (each.side, each.position) == (one.side, one.position)
            size, contracts, price = Decimal(each.size), Decimal(each.contracts), Decimal(each.price)
            if symbol == "BTC-USD-PERP":
                assert abs(size - contracts * 100 / price) <= Decimal("5e-13")
            else:
                assert size == contracts * Decimal("0.01" if symbol.startswith("BTC") else "0.1")
        assert len({(e.ts_event, e.price, e.contracts) for e in told}) == len(told)
    assert not chain.of(Liquidation, "BTC-USDT")


def test_an_old_liquidation_that_comes_with_a_subscription_is_not_news() -> None:
    chain = Chain("okx", "BTC-USDT-PERP")
    while len(chain.of(Liquidation)) < 3:
        chain.run(1)
    chain.drop()
    chain.run(2)
    assert chain.counts["tapeline_ignored_total", "history"] == 1
    events = chain.of(Liquidation)
    assert len({(e.symbol, e.ts_event, e.price, e.contracts) for e in events}) == len(events)


def test_interest_and_funding_are_the_markets_with_their_units(undisturbed: Chain) -> None:
    chain = undisturbed
    for symbol, size in (("BTC-USDT-PERP", "0.01"), ("ETH-USDT-PERP", "0.1")):
        swap = chain.desk.house.by_symbol[symbol].live.perpetual
        assert swap is not None
        interest = chain.of(OpenInterest, symbol)
        assert len(interest) > 10
        for each in interest:
            assert Decimal(each.base) == Decimal(each.contracts) * Decimal(size)
            assert float(each.notional) == pytest.approx(
                float(each.base) * swap.index * 10 ** -(2 - (size == "0.01")), rel=0.01
            )
        funding = chain.of(Funding, symbol)
        rates = [e for e in funding if e.rate is not None]
        assert 4 <= len(rates) <= 5, "at once, and each half minute"
        assert all(e.next_ts % (8 * 3600 * 1_000_000_000) == 0 for e in rates)
        assert len([e for e in funding if e.mark is not None]) > 50
        assert len([e for e in funding if e.index is not None]) > 50


def test_a_book_whose_numbers_begin_anew_goes_on_without_a_gap() -> None:
    chain = Chain("okx", *SYMBOLS)
    chain.run(5)
    chain.desk.fault("renumber", symbol="BTC-USDT-PERP")
    chain.run(5)
    view = chain.views["BTC-USDT-PERP"]
    assert view.event is not None
    assert (view.event.seq or 0) < 10**6
    assert not chain.of(Gap)
    assert not chain.asked


def test_a_refused_symbol_is_told_with_the_venues_words_and_the_others_go_on() -> None:
    chain = Chain("okx", "BTC-USDT", "ETH-USDT")
    chain.run(2)
    chain.desk.fault("refuse", symbol="ETH-USDT")
    chain.drop()
    chain.run(20)
    refused = [e for e in chain.of(Status, "ETH-USDT") if e.state == "refused"]
    assert {e.channel for e in refused} == {"trade", "book", "l1", "ticker"}
    assert "channel:books,instId:ETH-USDT doesn't exist" in " ".join(e.reason for e in refused)
    assert [chain.views[symbol].state for symbol in chain.symbols] == ["live", "stale"]
    chain.desk.faults.clear()
    chain.run(60)
    assert chain.views["ETH-USDT"].state == "live"


def test_a_service_upgrade_that_is_announced_replaces_the_connection() -> None:
    chain = Chain("okx", *SYMBOLS)
    chain.run(2)
    session = next(iter(chain.desk.house.sessions.values()))
    chain.desk.venue.announce(session, chain.desk.now)
    chain.run(3)
    assert chain.asked["reconnect"] == 1
    assert chain.check_books() == len(SYMBOLS)
