"""Bitstamp's words: what a client sees of the simulated venue, without a socket."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from simulator_rig import Desk, S, heard
from venue_rig import Chain

from actors.model.events import Gap, Status
from actors.model.instruments import Instrument
from actors.simulator import bitstamp as simulated
from actors.simulator.session import Session
from actors.venues import bitstamp

HEARTBEAT = {"event": "bts:heartbeat", "channel": "", "data": {"status": "success"}}


@pytest.fixture
def desk() -> Desk:
    return Desk("bitstamp", "BTC-USD", "ETH-USD", "BTC-TUSD")


def ask(channel: str, op: str = "subscribe") -> str:
    return msgspec.json.encode({"event": f"bts:{op}", "data": {"channel": channel}}).decode()


def subscribe(desk: Desk, *channels: str) -> Session:
    session = desk.open("/")
    for channel in channels:
        said = desk.say(session, ask(channel))
        assert said == {"event": "bts:subscription_succeeded", "channel": channel, "data": {}}
    return session


def error(desk: Desk, session: Session, text: str) -> tuple[int | None, str]:
    said: Any = desk.say(session, text)
    assert (said["event"], said["channel"]) == ("bts:error", "")
    return said["data"]["code"], said["data"]["message"]


def test_diffs_follow_one_another_by_time_and_make_the_true_book_of_a_snapshot(desk: Desk) -> None:
    session = subscribe(desk, "diff_order_book_btcusd")
    desk.run(3, 0.05)
    whole = desk.get("/api/v2/order_book/btcusd/", group="1")
    desk.run(20, 0.05)
    sides = {side: dict(whole[side]) for side in ("bids", "asks")}
    last = 0
    for frame in heard(session):
        data = frame["data"]
        assert int(data["microtimestamp"]) > last
        last = int(data["microtimestamp"])
        if last > int(whole["microtimestamp"]):
            for side, levels in sides.items():
                levels.update(data[side])
    shop = desk.house.by_symbol["BTC-USD"]
    truth = shop.book(shop.sequence(last * 1000))
    for side, levels in (("bids", truth.bids), ("asks", truth.asks)):
        assert {price: size for price, size in sides[side].items() if float(size)} == dict(levels)


def test_a_book_by_rest_is_cached_and_may_be_older_than_the_first_diff(desk: Desk) -> None:
    first = desk.get("/api/v2/order_book/btcusd/")["microtimestamp"]
    desk.run(0.9, 0.05)
    assert desk.get("/api/v2/order_book/btcusd/")["microtimestamp"] == first
    desk.run(0.2, 0.05)
    assert desk.get("/api/v2/order_book/btcusd/")["microtimestamp"] > first


def test_trades_are_those_of_the_tape_and_the_takers_order_is_the_later_one(desk: Desk) -> None:
    session = subscribe(desk, "live_trades_btcusd")
    desk.run(60)
    tape = desk.house.by_symbol["BTC-USD"].trades(0, 1 << 62)
    data = [frame["data"] for frame in heard(session)]
    assert [(str(d["id"]), d["price_str"], d["amount_str"]) for d in data] == [
        (t.id, t.price, t.size) for t in tape
    ]
    assert ["sell" if d["type"] else "buy" for d in data] == [t.aggressor for t in tape]
    assert all((d["buy_order_id"] > d["sell_order_id"]) == (d["type"] == 0) for d in data)
    assert {d["microtimestamp"][-3:] for d in data} == {"000"}


def test_an_unknown_market_is_acknowledged_and_silent(desk: Desk) -> None:
    session = subscribe(desk, "diff_order_book_nousd", "live_trades_btctusd")
    desk.run(10)
    assert heard(session) == []
    desk.fault("unlist", symbol="BTC-USD")
    quiet = subscribe(desk, "diff_order_book_btcusd")
    desk.run(3)
    assert heard(quiet) == []


def test_what_means_nothing_is_an_error_without_a_channel(desk: Desk) -> None:
    session = desk.open("/")
    for text, message in (
        (ask("diff_order_book_BTCUSD"), "Invalid channel provided."),
        (ask("diff_order_book_btc/usd"), "Invalid channel provided."),
        (ask("mood"), "Invalid channel provided."),
        ("{nonsense", "Incorrect JSON format."),
        ('{"event":"bts:subscribe"}', "Bad subscription string."),
        ('{"event":"bts:mood","data":{"channel":"live_trades_btcusd"}}', "Bad subscription string."),
        ("[1]", "Bad subscription string."),
    ):
        assert error(desk, session, text) == (None, message)
    assert error(desk, session, ask("private-my_orders_btcusd")) == (4009, "Connection is unauthorized.")
    assert desk.say(session, '{"event":"bts:heartbeat"}') == HEARTBEAT


def test_a_long_frame_and_a_channel_too_many_end_the_connection(desk: Desk) -> None:
    session = desk.open("/")
    desk.tell(session, ask("diff_order_book_" + "x" * 500))
    assert session.close == (1009, "read limited at 513 bytes")
    desk.house.limits["channels"] = 2
    full = subscribe(desk, "live_trades_btcusd", "live_trades_ethusd")
    desk.tell(full, ask("diff_order_book_ethusd"))
    assert full.close == (1000, "")


def test_a_subscription_ends_and_a_shutdown_asks_to_reconnect(desk: Desk) -> None:
    session = subscribe(desk, "diff_order_book_btcusd")
    ended = desk.say(session, ask("diff_order_book_btcusd", "unsubscribe"))
    assert ended["event"] == "bts:unsubscription_succeeded"
    desk.run(3)
    assert heard(session) == []
    desk.venue.announce(session, desk.now)
    assert heard(session) == [{"event": "bts:request_reconnect", "channel": "", "data": ""}]


def test_pairs_and_past_trades_are_listed(desk: Desk) -> None:
    pairs = {row["url_symbol"]: row for row in desk.get("/api/v2/trading-pairs-info/")}
    assert (pairs["btcusd"]["name"], pairs["btctusd"]["trading"]) == ("BTC/USD", "Disabled")
    desk.run(30)
    newest = desk.get("/api/v2/transactions/btcusd/")[0]
    assert newest["tid"] == desk.house.by_symbol["BTC-USD"].trades(0, 1 << 62)[-1].id
    assert desk.ask("/api/v2/order_book/nousd/").status == 404


def test_levels_are_added_up_for_group_1_only(desk: Desk) -> None:
    desk.run(3)
    added, orders = (desk.get("/api/v2/order_book/btcusd/", group=group)["bids"] for group in "10")
    prices = [price for price, _ in added]
    assert len({*prices}) == len(prices) < len(orders)
    best = [Decimal(size) for price, size in orders if price == prices[0]]
    assert (len(best), sum(best)) == (2, Decimal(added[0][1]))
    assert bitstamp.VENUE.snapshot is not None
    asked = bitstamp.VENUE.snapshot(Instrument("BTC-USD", "btcusd", "BTC", "USD"))
    assert asked.path == "/api/v2/order_book/btcusd/?group=1"


def test_24_hours_are_told_for_the_asking(desk: Desk) -> None:
    desk.run(30)
    day = desk.house.by_symbol["BTC-USD"].live.day.summary()
    assert day is not None
    said = desk.get("/api/v2/ticker/btcusd/")
    assert (said["last"], said["open_24"]) == (str(day.close), str(day.open))
    assert int(said["timestamp"]) == desk.now // S
    assert Decimal(said["low"]) <= Decimal(said["vwap"]) <= Decimal(said["high"])
    assert desk.ask("/api/v2/ticker/nousd/").status == 404


def test_more_requests_than_a_second_or_ten_minutes_may_have_are_refused(desk: Desk) -> None:
    assert [desk.ask("/x").status for _ in range(401)] == [404] * 400 + [429]
    desk.now += S
    desk.house.limits["requests_longer"] = 402
    assert desk.ask("/x").status == 404
    refused = desk.ask("/x")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "599")


def test_what_we_allow_ourselves_is_within_what_the_venue_does(desk: Desk) -> None:
    ours, theirs, keepalive = bitstamp.LIMITS, simulated.LIMITS, bitstamp.VENUE.keepalive
    assert ours.items_per_connection <= theirs["channels"]
    assert ours.lifetime_s is not None
    assert ours.lifetime_s < theirs["lifetime_s"]
    assert ours.weight_per_minute * 10 <= theirs["requests_longer"]
    assert ours.weight_per_s is not None, "a minute's budget may be spent in a second"
    assert ours.weight_per_s <= theirs["requests"]
    assert keepalive is not None
    assert keepalive.every_s <= 15, "as the documents advise"
    assert desk.say(desk.open("/"), keepalive.frame) == HEARTBEAT


def test_a_refused_channel_is_named_and_the_others_live() -> None:
    chain = Chain("bitstamp", "BTC-USD", "ETH-USD")
    chain.desk.fault("refuse", symbol="BTC-USD")
    chain.drop()
    chain.run(5)
    refused = [status for status in chain.of(Status) if status.state == "refused"]
    assert {(each.symbol, each.channel) for each in refused} == {("BTC-USD", "trade"), ("BTC-USD", "book")}
    assert {each.reason for each in refused} == {"Invalid channel provided."}
    assert chain.states["ETH-USD"][-1] == "live"


def test_a_stale_snapshot_is_asked_for_again_and_no_wrong_book_is_shown() -> None:
    chain = Chain("bitstamp", "BTC-USD")
    chain.desk.fault("stale_snapshot", symbol="BTC-USD", back=300, for_s=5)
    chain.run(3)
    assert "live" not in chain.states["BTC-USD"]
    chain.desk.faults.clear()
    chain.run(10)
    assert chain.states["BTC-USD"] == ["resyncing", "live"]
    assert chain.asked["snapshot"] > 1
    assert not chain.of(Gap)


def test_a_crossed_book_is_never_live_and_comes_back() -> None:
    chain = Chain("bitstamp", "BTC-USD")
    chain.run(4)
    chain.fault("crossed", symbol="BTC-USD")
    chain.run(12)
    assert chain.states["BTC-USD"][-3:] == ["crossed", "resyncing", "live"]
    assert [gap.cause for gap in chain.of(Gap)] == ["crossed"]
