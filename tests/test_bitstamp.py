"""Bitstamp's ways through the folds: old snapshots, silent markets, heartbeats, a reconnection asked for."""

import json
from typing import Any

import pytest
from chain_rig import START, Chain

from actors.model.events import Book, Gap, Status, Trade
from actors.model.instruments import Instrument
from actors.venues import bitstamp
from actors.venues.base import Answer

BTC = Instrument("BTC-USD", "btcusd", "BTC", "USD")
HEARTBEAT = {"event": "bts:heartbeat", "channel": "", "data": {"status": "success"}}
AT = START // 1000  # microseconds


@pytest.fixture
def chain() -> Chain:
    made = Chain(bitstamp.VENUE, BTC)
    made.open("trade", "book")
    for channel in ("live_trades_btcusd", "diff_order_book_btcusd"):
        made.hear({"event": "bts:subscription_succeeded", "channel": channel, "data": {}})
    return made


def diff(at: int, bids: Any = (), asks: Any = ()) -> dict[str, Any]:
    data = {"timestamp": "0", "microtimestamp": str(AT + at), "bids": list(bids), "asks": list(asks)}
    return {"data": data, "channel": "diff_order_book_btcusd", "event": "data"}


def book(at: int, bids: Any = (), asks: Any = ()) -> dict[str, Any]:
    return {"timestamp": "0", "microtimestamp": str(AT + at), "bids": list(bids), "asks": list(asks)}


def trade(identity: int) -> dict[str, Any]:
    data = {"id": identity, "type": 0, "price": 1.5, "amount": 2, "microtimestamp": str(AT + identity)}
    return {"data": data, "channel": "live_trades_btcusd", "event": "trade"}


def test_a_snapshot_older_than_the_first_change_is_asked_for_again_a_second_later(chain: Chain) -> None:
    chain.hear(diff(100, [["9", "1.0"]]))
    [request] = chain.asked()
    assert (request.op, request.symbol, request.conn) == ("snapshot", "BTC-USD", "a.1")
    chain.answer(request, book(99, [["8", "1"]], [["11", "1"]]))
    assert {event.state for event in chain.told(Book)} == {"resyncing"}
    assert not chain.asked()
    chain.wait(1)
    [request] = chain.asked()
    chain.hear(diff(200, [["8", "0.00000000"]]), diff(300, [["7", "2"]]))
    chain.answer(request, book(200, [["9", "1.0"]], [["11", "1"]]))
    [joined] = [event for event in chain.told(Book) if event.state == "live"]
    assert (joined.bids, joined.asks) == ([("9", "1.0"), ("7", "2")], [("11", "1")])  # 100 and 200 are in it
    assert joined.verified == "none"
    assert not chain.told(Gap)


def test_changes_that_come_late_do_not_go_back(chain: Chain) -> None:
    chain.hear(diff(100, [["9", "1"]]))
    chain.answer(chain.asked()[0], book(500, [["9", "3"]], [["11", "1"]]))
    chain.told()
    chain.hear(diff(400, [["9", "2"]]), diff(600, [], [["11", "4"]]))
    assert [(event.bids, event.asks) for event in chain.told(Book)] == [([], [("11", "4")])]


def test_an_error_is_of_the_oldest_that_is_unanswered_as_it_names_none() -> None:
    eth = Instrument("ETH-USD", "ethusd", "ETH", "USD")
    chain = Chain(bitstamp.VENUE, BTC, eth)
    chain.open("trade", "book")
    chain.hear({"event": "bts:subscription_succeeded", "channel": "live_trades_btcusd", "data": {}})
    invalid = {"code": None, "message": "Invalid channel provided."}
    chain.hear({"event": "bts:error", "channel": "", "data": invalid})
    chain.hear({"event": "bts:subscription_succeeded", "channel": "live_trades_ethusd", "data": {}})
    chain.hear({"event": "bts:error", "channel": "", "data": invalid})
    assert chain.states() == {
        "trade BTC-USD": "subscribed", "book BTC-USD": "refused",
        "trade ETH-USD": "subscribed", "book ETH-USD": "refused",
    }  # fmt: skip


def test_the_ticker_is_polled_and_takes_no_place_on_a_socket() -> None:
    channels = sorted(bitstamp.VENUE.channels)
    [connection] = bitstamp.VENUE.plan(bitstamp.VENUE.endpoints, [BTC], channels)
    asked = {item[0] for subscription in connection.subscriptions for item in subscription.items}
    assert asked | {*bitstamp.VENUE.polls} == {*channels}
    assert not asked & {*bitstamp.VENUE.polls}
    assert bitstamp.VENUE.plan(bitstamp.VENUE.endpoints, [BTC], ["ticker"]) == []


def test_a_reconnection_asked_for_is_made_at_once(chain: Chain) -> None:
    chain.hear({"event": "bts:request_reconnect", "channel": "", "data": ""})
    assert [(request.op, request.conn) for request in chain.asked()] == [("reconnect", "a.1")]


def test_a_market_acknowledged_and_silent_is_told_though_heartbeats_are_answered(chain: Chain) -> None:
    chain.told()
    chain.wait(119, HEARTBEAT)
    assert chain.states() == {"book BTC-USD": "subscribed"}
    assert {request.op for request in chain.asked()} == {"snapshot"}  # a quiet book is to be had, too
    chain.wait(2, HEARTBEAT)
    assert chain.states() == {"book BTC-USD": "stale"}
    assert [(r.op, r.channel) for r in chain.asked() if r.op != "snapshot"] == [("resubscribe", "book")]
    [ended] = bitstamp.unsubscribe([("book", "BTC-USD")], chain.known, 1)
    chain.say("s", ended)
    chain.hear({"event": "bts:unsubscription_succeeded", "channel": "diff_order_book_btcusd", "data": {}})
    assert [(r.op, r.channel) for r in chain.asked() if r.op != "snapshot"] == [("subscribe", "book")]


def test_a_silent_market_costs_no_request_that_no_answer_to_would_do(chain: Chain) -> None:
    asked = 0
    for _ in range(1200):
        chain.wait(1, HEARTBEAT)
        chain.told()
        for request in [request for request in chain.asked() if request.op == "snapshot"]:
            asked += 1
            chain.answer(request, book(5, [["9", "1"]], [["11", "1"]]))
    assert asked == 1  # when it was granted; it was told stale two minutes later
    chain.hear(diff(2_000_000, [["9", "2"]]))
    assert [request.op for request in chain.asked()] == ["snapshot"]


def ask_ticker(chain: Chain, last: str) -> None:
    """Let ten seconds pass, and have the ticker answered."""
    chain.wait(10, HEARTBEAT)
    body = {"timestamp": str(chain.now // 1_000_000_000), "last": last, "volume": "1"}
    chain.say("h", Answer(bitstamp.ticker(BTC), 200, json.dumps(body)))


def test_trades_that_do_not_come_while_the_ticker_that_is_asked_for_moves_are_missing(chain: Chain) -> None:
    chain.hear(trade(7))
    for last in "1", "2", "3", "4", "4", "4":
        assert not chain.told(Gap)
        ask_ticker(chain, last)
    chain.wait(1)
    assert [(gap.channel, gap.cause) for gap in chain.told(Gap)] == [("trade", "disconnect")]
    assert ("resubscribe", "trade") in [(request.op, request.channel) for request in chain.asked()]


def test_a_ticker_that_comes_from_a_cache_accuses_no_quiet_trades(chain: Chain) -> None:
    chain.hear(trade(7))
    for last in "1", "2", "3", *"3" * 20:  # two trades that were heard are told half a minute later
        ask_ticker(chain, last)
    told = [each for each in chain.told(Gap, Status) if each.channel == "trade"]
    assert [each.state for each in told if isinstance(each, Status)][-1] == "live"
    assert not any(isinstance(each, Gap) for each in told)


def test_heartbeats_that_nobody_answers_end_the_connection(chain: Chain) -> None:
    chain.hear(trade(7))
    chain.told()
    chain.wait(25)  # the heartbeat went out after 15 s, and is to be answered within 10
    assert [s for s in chain.told(Status) if s.channel is None] == []
    chain.wait(1)
    assert [(s.state, s.conn) for s in chain.told(Status) if s.channel is None] == [("stale", "a.1")]
    assert [request.op for request in chain.asked() if request.op != "snapshot"] == ["reconnect"]


def test_two_connections_give_each_trade_once_and_the_last_to_go_leaves_a_gap(chain: Chain) -> None:
    chain.open("trade", "book", conn="b.1")
    chain.hear(trade(10), trade(900))
    chain.hear(trade(10), trade(900), trade(905), conn="b.1")
    chain.close("a.1")
    assert [event.id for event in chain.told(Trade, Gap)] == ["10", "900", "905"]
    chain.close("b.1")
    gaps = [(event.channel, event.first, event.last) for event in chain.told(Gap)]
    assert gaps == [("trade", "906", None)]


def test_every_frame_is_shorter_than_the_venue_reads() -> None:
    longest = Instrument("LONGESTNAME-LONGESTNAME", "longestname" * 2, "LONGESTNAME", "LONGESTNAME")
    for make in (bitstamp.subscribe, bitstamp.unsubscribe):
        items = [("trade", longest.symbol), ("book", longest.symbol)]
        frames = [subscription.frame for subscription in make(items, {longest.symbol: longest}, 1)]
        assert len(frames) == 2
        assert all(len(frame) < 512 for frame in frames)
        assert all(json.loads(frame)["data"]["channel"].endswith("longestname") for frame in frames)
    assert bitstamp.VENUE.keepalive is not None
    assert len(bitstamp.VENUE.keepalive.frame) < 512
