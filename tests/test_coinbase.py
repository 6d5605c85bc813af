"""Coinbase's ways through the folds: silence, snapshots that stay away, sizes that are none; its limits."""

import json
from typing import Any

import pytest
from chain_rig import Chain

from actors.model.events import Book, BookSnapshot, Gap, Status
from actors.model.instruments import Instrument
from actors.stages.book import View
from actors.stages.control import ControlRequest
from actors.venues import coinbase
from actors.venues.base import Ignored, Limits, Scratch

BTC = Instrument("BTC-USD", "BTC-USD", "BTC", "USD")
ETH = Instrument("ETH-USD", "ETH-USD", "ETH", "USD")
TIME = "2026-07-04T23:34:58.071539Z"


def beat(of: Instrument, last: int = 7) -> dict[str, Any]:
    return {
        "type": "heartbeat", "last_trade_id": last, "product_id": of.native, "sequence": 9, "time": TIME
    }  # fmt: skip


def listed(*channels: str, of: tuple[Instrument, ...] = (BTC, ETH)) -> dict[str, Any]:
    names = [instrument.native for instrument in of]
    return {
        "type": "subscriptions",
        "channels": [{"name": channel, "product_ids": names, "account_ids": None} for channel in channels],
    }


def snapshot(of: Instrument, bids: list[Any], asks: list[Any]) -> dict[str, Any]:
    return {"type": "snapshot", "product_id": of.native, "asks": asks, "bids": bids}


def update(of: Instrument, *changes: tuple[str, str, str]) -> dict[str, Any]:
    return {"type": "l2update", "product_id": of.native, "changes": changes, "time": TIME}


@pytest.fixture
def chain() -> Chain:
    """Return a chain with one connection, all acknowledged, both books there."""
    chain = Chain(coinbase.VENUE, BTC, ETH)
    chain.open("trade", "book", "ticker")
    chain.hear(listed("level2_50", "matches", "ticker", "heartbeat"))
    for of in (BTC, ETH):
        chain.hear(snapshot(of, [["1", "1"]], [["2", "1"]]), beat(of))
    chain.asked()
    chain.told()
    return chain


def test_a_connection_is_dead_after_five_seconds_without_a_frame_and_not_before(chain: Chain) -> None:
    chain.wait(5)
    assert chain.asked() == []
    chain.wait(1)
    assert [request.op for request in chain.asked()] == ["reconnect"]
    assert {(s.state, s.conn) for s in chain.told(Status) if s.channel is None} == {("stale", "a.1")}


def test_a_book_without_its_snapshot_is_asked_for_anew_after_fifteen_seconds() -> None:
    chain = Chain(coinbase.VENUE, BTC)
    chain.open("trade", "book")
    chain.hear(listed("level2_50", "matches", "heartbeat", of=(BTC,)))
    chain.wait(15, beat(BTC))
    assert chain.states()["book BTC-USD"] == "subscribed"
    chain.wait(1, beat(BTC))
    assert [(request.op, request.channel) for request in chain.asked()] == [("resubscribe", "book")]


def test_sizes_that_are_none_cost_a_book_their_levels_only() -> None:
    chain = Chain(coinbase.VENUE, BTC)
    chain.open("book")
    chain.hear(snapshot(BTC, [["9", "NaN"], ["8", "1"]], [["10", "-1"], ["11", "2"]]))
    chain.hear(update(BTC, ("buy", "7", "x"), ("sell", "12", "3")))
    view = View()
    for event in chain.told(Book):
        view.apply(event)
    assert (view.state, view.levels) == ("live", ([("8", "1")], [("11", "2"), ("12", "3")]))
    assert chain.first.counts["tapeline_ignored_total", "bad_level"] == 3


def test_a_snapshot_that_is_cut_has_all_its_levels_though_sizes_are_none() -> None:
    bids = [(str(5000 - n), "NaN" if n % 3 == 0 else "1") for n in range(3 * coinbase.LEVELS)]
    asks = [(str(5001 + n), "1") for n in range(coinbase.LEVELS + 1)]
    scratch = Scratch("a.1", {BTC.native: BTC})
    frame = json.dumps(snapshot(BTC, bids, asks)).encode()
    book, *words = coinbase.decode(frame, scratch)
    assert isinstance(book, BookSnapshot)
    # As many as are kept: to the book that says that there is more.
    assert book.bids == [level for level in bids if level[1] == "1"][: coinbase.LEVELS]
    assert book.asks == asks[: coinbase.LEVELS]
    assert words == [Ignored("bad_level")] * coinbase.LEVELS


def test_an_update_that_cannot_be_read_is_a_gap_and_the_book_begins_anew(chain: Chain) -> None:
    text = json.dumps(update(BTC, ("buy", "1.5", "1")), separators=(",", ":"))
    chain.hear(text[:60])
    assert [(g.symbol, g.channel, g.cause) for g in chain.told(Gap)] == [("BTC-USD", "book", "sequence")] * 2
    assert [(r.op, r.symbol, r.channel) for r in chain.asked()] == [("resubscribe", "BTC-USD", "book")]


@pytest.mark.parametrize("odd", [{"type": "heartbeat"}, {"type": "last_match", "trade_id": None}])
def test_a_word_of_trades_that_cannot_be_read_costs_no_book(chain: Chain, odd: dict[str, Any]) -> None:
    chain.hear({**odd, "product_id": "BTC-USD", "sequence": 9, "time": TIME})
    assert chain.told(Gap, Book) == []
    assert chain.asked() == []


def test_no_limit_is_above_the_documented_one() -> None:
    # Exchange, rate limits: 10 messages a second; 8 connections a second; REST 10 requests a second.
    limits = coinbase.LIMITS
    assert limits.frames_per_s <= 10
    assert limits.connects_per_s is not None, "a minute's budget may be spent in a second"
    assert limits.connects_per_s <= 8
    assert limits.weight_per_s is not None
    assert limits.weight_per_s <= 10
    assert limits.weight_per_minute <= 10 * 60
    # A snapshot of 4.8 MB was recorded; what is chosen for other venues would not take it.
    assert limits.max_frame_bytes > 4_800_000 > Limits(1, 1, 1, 1).max_frame_bytes


def test_a_product_whose_heart_stops_is_silent_and_the_other_one_is_not(chain: Chain) -> None:
    chain.wait(10, beat(ETH))
    assert chain.asked() == []
    chain.wait(1, beat(ETH))
    assert chain.states() == {f"{channel} BTC-USD": "stale" for channel in ("trade", "book", "ticker")}
    assert {(r.op, r.symbol) for r in chain.asked()} == {("resubscribe", "BTC-USD")}


def test_a_quiet_product_whose_heart_beats_is_well(chain: Chain) -> None:
    chain.wait(120, beat(BTC), beat(ETH))
    assert {r.op for r in chain.asked()} == {"audit"}
    assert chain.states() == {}


def test_an_audit_that_is_not_answered_is_asked_for_again_and_proves_when_it_is(chain: Chain) -> None:
    def asked() -> list[ControlRequest]:
        chain.wait(31, beat(BTC), beat(ETH))
        return [request for request in chain.asked() if request.symbol == "BTC-USD"]

    chain.wait(70, beat(BTC), beat(ETH))
    first = next(request for request in chain.asked() if request.symbol == "BTC-USD")
    assert (first.op, first.channel, first.conn) == ("audit", "book", "a.1")
    chain.answer(first, "busy", status=503)
    [second] = asked()
    chain.answer(second, {"bids": "?"})
    assert len(chain.dead()) == 1
    [third] = asked()
    book = {"bids": [["1", "1", 1]], "asks": [["2", "1", 1]], "sequence": 9, "time": TIME}
    chain.answer(third, {**book, "auction_mode": True})
    [fourth] = asked()
    assert {event.verified for event in chain.told(Book)} == {"none"}
    chain.answer(fourth, book)
    chain.wait(3, beat(BTC), beat(ETH))
    chain.told()
    chain.hear(update(BTC, ("buy", "0.5", "1")))
    [changed] = [event for event in chain.told(Book) if event.type == "delta"]
    assert changed.verified == "audit"
    assert asked() == []


def test_a_price_that_is_none_among_more_levels_than_are_kept_is_a_word_for_people(chain: Chain) -> None:
    chain.wait(70, beat(BTC), beat(ETH))
    first = next(request for request in chain.asked() if request.symbol == "BTC-USD")
    bids = [["-", "1", 1], *([str(n), "1", 1] for n in range(1, coinbase.LEVELS + 1))]
    chain.answer(first, {"bids": bids, "asks": [], "sequence": 9, "time": TIME})
    assert len(chain.dead()) == 1


def test_an_audit_that_finds_a_difference_twice_is_a_gap_and_another_book_is_asked_for(chain: Chain) -> None:
    wrong = {"bids": [["1", "8", 1]], "asks": [["2", "1", 1]], "sequence": 9}
    chain.wait(70, beat(BTC), beat(ETH))
    first = next(request for request in chain.asked() if request.symbol == "BTC-USD")
    chain.answer(first, {**wrong, "time": "2026-07-04T23:40:00Z"})
    chain.wait(8, beat(BTC), beat(ETH))  # it is looked at after 3 s, and asked for again 5 s later
    second = next(request for request in chain.asked() if request.symbol == "BTC-USD")
    chain.told()
    chain.answer(second, {**wrong, "time": "2026-07-04T23:40:06Z"})
    chain.wait(3, beat(BTC), beat(ETH))
    assert [(g.symbol, g.channel, g.cause) for g in chain.told(Gap)] == [("BTC-USD", "book", "sequence")]
    assert [(r.op, r.symbol) for r in chain.asked()] == [("resubscribe", "BTC-USD")]
