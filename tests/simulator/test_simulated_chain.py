"""Every simulated venue through its adapter and both folds: books are the venue's, trades whole, no doubt."""

import random

import msgspec
import pytest
from case_table import table
from simulator_rig import S
from venue_rig import Chain

from actors.model.events import (
    L1,
    BookDelta,
    BookSnapshot,
    Channel,
    Event,
    Funding,
    Gap,
    Liquidation,
    OpenInterest,
    Status,
    Ticker,
    Trade,
)
from actors.simulator.street import load, simulated
from actors.venues import VENUES

KINDS: dict[Channel, type[Event]] = {
    "trade": Trade,
    "book": BookDelta,
    "l1": L1,
    "ticker": Ticker,
    "liquidation": Liquidation,
    "open_interest": OpenInterest,
    "funding": Funding,
}


def is_blind(name: str) -> bool:
    """Tell whether nothing there shows that trades never came: no ids without a hole, no word of it."""
    said = [each for case in table(name).cases for each in case.get("events", ())]
    return VENUES[name].trade_ids != "contiguous" and not any("missed" in each for each in said)


def busiest(name: str, most: int = 2) -> list[str]:
    """Return the symbols of spot pairs and of swaps that trade most on a venue."""
    traded = sorted(load(name).LISTINGS, key=lambda each: -each.orders_per_s)
    spot = [each.symbol for each in traded if each.contract is None and each.trading]
    return spot[:most] + [each.symbol for each in traded if each.contract is not None][:most]


@pytest.mark.parametrize("name", simulated())
def test_all_that_is_said_is_understood_and_every_book_is_true(name: str) -> None:
    symbols = busiest(name)
    symbols += [each.symbol for each in load(name).LISTINGS if not each.symbol.isascii()]
    chain = Chain(name, *symbols)
    chain.run(20)
    assert chain.compared > 60
    assert not chain.of(Gap)
    assert not chain.dead
    assert not [name for name, _ in chain.counts if name == "tapeline_unparseable_total"]
    for channel in VENUES[name].channels - {"liquidation"}:  # which may not come for a while
        whole = channel == "book" and VENUES[name].book_rule.snapshot == "every"
        assert chain.of(BookSnapshot if whole else KINDS[channel]), channel
    for symbol in symbols:
        assert chain.views[symbol].state == "live"
        audited = VENUES[name].book_rule.audit_s is not None  # later: below
        assert chain.views[symbol].verified == ("none" if audited else VENUES[name].book_rule.verified)
        assert not chain.unexplained(symbol)


@pytest.mark.parametrize(
    "updates", [500, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
@pytest.mark.parametrize("name", simulated())
def test_books_are_true_and_holes_are_named_whatever_breaks(name: str, updates: int) -> None:
    symbols = busiest(name, 1)
    chain = Chain(name, *symbols)
    dice = random.Random(name)
    kinds = ["drop", "duplicate", "corrupt", "null_price", "pause"]
    kinds += [] if is_blind(name) else ["gap"]
    kinds += ["checksum"] if VENUES[name].book_rule.checksum else []
    while chain.told_books < updates:
        chain.run(dice.uniform(0.3, 1.5))
        match dice.choice(kinds):
            case "drop":
                chain.drop()
            case "pause":
                chain.desk.now += 2 * S  # a moment of which nothing is heard
            case "checksum":
                chain.fault("checksum")
            case kind:
                unseen = kind == "gap" and VENUES[name].book_rule.blind
                channel = "trade" if unseen else dice.choice(("trade", "book"))
                chain.fault(kind, count=dice.choice((1, 3)), channel=channel)
    chain.run(10)
    while any(chain.views[symbol].state != "live" for symbol in symbols):
        chain.run(1)  # the more often a book was lost, the later it is asked for anew
    assert chain.compared > updates // 20
    for symbol in symbols:
        assert not chain.unexplained(symbol)
    if VENUES[name].backfill or VENUES[name].backfill_after:
        assert any(gap.filled for gap in chain.of(Gap))
        assert not any(chain.holes(symbol) for symbol in symbols)


@pytest.mark.parametrize("name", simulated())
def test_a_market_that_stands_still_has_its_books_after_a_reconnect(name: str) -> None:
    symbols = busiest(name, 2)
    chain = Chain(name, *symbols)
    chain.run(3)
    chain.desk.still = True
    chain.run(2)
    chain.drop()
    chain.run(20)
    for symbol in symbols:
        assert chain.states[symbol][-1] == "live"
    assert chain.check_books() == len(symbols)


@pytest.mark.parametrize("name", ["binance", "bitstamp", "gateio", "kucoin", "mexc"])
def test_trades_that_are_granted_and_do_not_come_are_missed(name: str) -> None:
    symbol = busiest(name, 1)[0]
    chain = Chain(name, symbol)
    chain.run(10)
    chain.fault("silence", channel="trade")  # as long as the connection lives
    chain.run(90, check=False)
    stale = [s for s in chain.of(Status) if (s.channel, s.state) == ("trade", "stale")]
    assert [s.reason for s in stale] == ["its ticker moves, and no trade comes"]
    assert chain.asked["resubscribe"] >= 1
    while not chain.asked["reconnect"]:
        chain.run(1, check=False)
    chain.run(10)
    assert [s.state for s in chain.of(Status, symbol) if s.channel == "trade"][-1] == "live"
    assert chain.of_trades(symbol)
    assert not chain.unexplained(symbol)


@pytest.mark.parametrize("name", [each for each in simulated() if VENUES[each].book_rule.checksum])
def test_a_wrong_checksum_is_found_and_only_that_book_suffers(name: str) -> None:
    hurt, *others = busiest(name, 3)
    chain = Chain(name, hurt, *others)
    chain.run(2)
    for n in range(1, 6):
        chain.fault("checksum", symbol=hurt)
        chain.run(2)
        while chain.states[hurt][-1] != "live":  # the more often, the later it is asked for anew
            chain.run(1)
        assert chain.states[hurt] == ["live", *["resyncing", "live"] * n]
        assert [(g.symbol, g.channel, g.cause) for g in chain.of(Gap)] == [(hurt, "book", "checksum")] * n
        assert chain.counts["tapeline_gaps_total", "book/checksum"] == n
    assert {symbol: chain.states[symbol] for symbol in others} == {each: ["live"] for each in others}


@pytest.mark.parametrize("name", [each for each in simulated() if VENUES[each].audit])
def test_books_are_audited_and_a_change_that_was_missed_is_found(name: str) -> None:
    hurt, well = symbols = busiest(name)
    chain = Chain(name, *symbols, rule=msgspec.structs.replace(VENUES[name].book_rule, audit_s=40))
    chain.run(90)
    assert {symbol: chain.views[symbol].verified for symbol in symbols} == dict.fromkeys(symbols, "audit")
    assert not chain.of(Gap)
    assert chain.asked["audit"] >= 3
    for _ in range(10):  # most of what is missed is soon made good by the next change of the same price
        chain.fault("gap", symbol=hurt, channel="book")
        chain.run(5, check=False)
    chain.run(60, check=False)  # the book is wrong until it is found out
    assert (hurt, "book", "sequence") in {(gap.symbol, gap.channel, gap.cause) for gap in chain.of(Gap)}
    assert {gap.symbol for gap in chain.of(Gap)} == {hurt}
    assert chain.counts["tapeline_book_audits_total", "differs"] >= 1
    chain.run(100)
    assert chain.states[hurt][-3:] == ["live", "resyncing", "live"]
    assert chain.states[well].count("live") == 1
    assert {symbol: chain.views[symbol].verified for symbol in symbols} == dict.fromkeys(symbols, "audit")
