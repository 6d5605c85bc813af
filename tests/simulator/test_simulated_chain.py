"""Every simulated venue through its adapter and both folds: books are the venue's, trades whole, no doubt."""

import random

import pytest
from chain import Chain, S

from actors.model.events import Channel
from actors.simulator.street import load, simulated
from actors.venues import VENUES

KINDS: dict[Channel, str] = {"trade": "trade", "book": "book_delta", "l1": "l1", "ticker": "ticker"}


def busiest(name: str, most: int = 3) -> list[str]:
    """Return the symbols of spot pairs that trade most on a venue."""
    spot = [each for each in load(name).LISTINGS if each.trading and each.contract is None]
    return [each.symbol for each in sorted(spot, key=lambda each: -each.orders_per_s)[:most]]


@pytest.mark.parametrize("name", simulated())
def test_all_that_is_said_is_understood_and_every_book_is_true(name: str) -> None:
    chain = Chain(name, *busiest(name))
    chain.run(15)
    assert chain.compared > 200
    assert chain.gaps == []
    assert chain.dead == []
    assert all(chain.told[kind] for channel, kind in KINDS.items() if channel in VENUES[name].channels)
    assert {chain.views[symbol].verified for symbol in chain.views} == {VENUES[name].book_rule.verified}
    for symbol in busiest(name):
        assert chain.missing_trades(symbol) == []


@pytest.mark.parametrize("name", simulated())
def test_books_are_true_and_holes_are_named_whatever_breaks(name: str) -> None:
    chain = Chain(name, *busiest(name))
    dice = random.Random(name)
    for _ in range(20):
        chain.run(dice.uniform(0.3, 1.5))
        match dice.choice(("drop", "duplicate", "corrupt", "gap", "null_price", "pause")):
            case "drop":
                chain.close(dice.choice(chain.wires))
            case "pause":
                chain.desk.now += 2 * S  # a moment of which nothing is heard
            case kind:
                chain.desk.fault(kind, chain.wires[0].session, count=dice.choice((1, 3)), channel="trade")
    chain.run(5)
    assert {view.state for view in chain.views.values()} == {"live"}
    assert chain.compared > 500
    for symbol in busiest(name):
        assert chain.missing_trades(symbol) == []
    if VENUES[name].backfill or VENUES[name].backfill_after:
        assert any(gap.filled for gap in chain.gaps)
        assert not chain.holes()


@pytest.mark.parametrize("name", [each for each in simulated() if VENUES[each].book_rule.checksum])
def test_a_wrong_checksum_is_found_and_only_that_book_suffers(name: str) -> None:
    chain = Chain(name, *busiest(name))
    hurt, *others = busiest(name)
    for _ in range(5):
        chain.run(2)
        resyncs, gaps = chain.told["book resyncing"], len(chain.gaps)
        chain.desk.fault("checksum", chain.wires[0].session, symbol=hurt)
        chain.run(2)
        while chain.views[hurt].state != "live":  # the more often, the later it is asked for anew
            chain.run(1)
        assert chain.told["book resyncing"] == resyncs + 1
        assert [(g.symbol, g.channel, g.cause) for g in chain.gaps[gaps:]] == [(hurt, "book", "checksum")]
    assert {chain.views[symbol].state for symbol in others} == {"live"}
