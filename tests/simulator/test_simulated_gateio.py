"""Gate's words: what a client sees of the simulated venue, without a socket."""

import json
from itertools import pairwise
from typing import Any

import pytest
from simulator_rig import START, Desk, S, heard
from venue_rig import Chain

from actors.model.events import Gap, Status
from actors.simulator import gateio as simulated
from actors.simulator.session import Session
from actors.venues import gateio

URL = "/ws/v4/"
BOOK = "ob.BTC_USDT.400"


@pytest.fixture
def desk() -> Desk:
    return Desk("gateio", "BTC-USDT", "ETH-USDT", "BTC-TUSD")


def ask(channel: str, *payload: str, event: str = "subscribe", time: int = START // S) -> str:
    return json.dumps({"time": time, "id": 7, "channel": channel, "event": event, "payload": payload})


def subscribe(desk: Desk, channel: str, *payload: str) -> tuple[Session, list[Any]]:
    session = desk.open(URL)
    desk.tell(session, ask(channel, *payload))
    return session, heard(session)


def error(desk: Desk, session: Session, text: str) -> tuple[int, str]:
    said = desk.say(session, text)
    assert said["result"] == {"status": "fail"}
    return said["error"]["code"], said["error"]["message"]


@pytest.mark.parametrize("levels", [50, 400])
def test_a_book_opens_before_its_acknowledgement_and_changes_keep_its_window(desk: Desk, levels: int) -> None:
    desk.run(5)
    session, (first, ack) = subscribe(desk, "spot.obu", f"ob.BTC_USDT.{levels}")
    assert (ack["event"], ack["id"], ack["result"]) == ("subscribe", 7, {"status": "success"})
    assert "error" not in ack
    assert "time" not in first
    desk.run(12, 0.02)
    other = desk.open(URL)
    desk.tell(other, ask("spot.obu", f"ob.BTC_USDT.{levels}"))
    late = heard(other)[0]["result"]
    desk.run(12, 0.02)
    shop, sides, last, changes = desk.house.by_symbol["BTC-USDT"], {}, 0, 0
    for frame in [first, *heard(session)]:
        result = frame["result"]
        if result.get("full"):
            sides = {side: dict(result[side]) for side in "ba"}
        else:
            changes += 1
            assert result["U"] == last + 1
            for side in "ba":
                assert result.get(side) != []  # a side without a change is left out
                sides[side].update(result.get(side, ()))
        last = result["u"]
        sides = {side: {p: s for p, s in rows.items() if s != "0"} for side, rows in sides.items()}
        truth = shop.book(last, levels)
        assert (sides["b"], sides["a"]) == (dict(truth.bids), dict(truth.asks))
        if last == late["u"]:
            assert (sides["b"], sides["a"]) == (dict(late["b"]), dict(late["a"]))
    assert changes > 100
    assert [frame["result"]["u"] for frame in heard(other)][-1] == last


def test_a_change_below_the_window_counts_and_shows_neither_side(desk: Desk) -> None:
    session, _ = subscribe(desk, "spot.obu", "ob.BTC_USDT.50")
    desk.run(40, 0.02)
    sides = [frame["result"].keys() & {"a", "b"} for frame in heard(session)]
    assert {frozenset(each) for each in sides} == {frozenset(e) for e in ((), "a", "b", "ab")}


def test_trades_are_those_of_the_tape_with_their_numbers_and_microseconds(desk: Desk) -> None:
    session, _ = subscribe(desk, "spot.trades", "BTC_USDT", "ETH_USDT")
    desk.run(30)
    tape = desk.house.by_symbol["BTC-USDT"].trades(0, 1 << 62)
    results = [frame["result"] for frame in heard(session)]
    ours = [r for r in results if r["currency_pair"] == "BTC_USDT"]
    assert 0 < len(ours) < len(results)
    assert [(str(r["id_market"]), r["price"], r["amount"], r["side"]) for r in ours] == [
        (t.id, t.price, t.size, t.aggressor) for t in tape
    ]
    assert {r["range"] for r in ours} == {f"{t.id}-{t.id}" for t in tape}
    for r, t in zip(ours, tape, strict=True):
        whole, fraction = r["create_time_ms"].split(".")
        assert (int(whole + fraction[:3]), len(fraction)) == (t.ts // 1000, 6)


def test_quotes_and_tickers_come_when_they_are_others(desk: Desk) -> None:
    desk.run(10)
    session, _ = subscribe(desk, "spot.book_ticker", "BTC_USDT")
    desk.tell(session, ask("spot.tickers", "BTC_USDT"))
    session.out.clear()
    desk.run(15, 0.05)
    frames = heard(session)
    tops = [frame["result"] for frame in frames if frame["channel"] == "spot.book_ticker"]
    shop = desk.house.by_symbol["BTC-USDT"]
    for top in tops:
        truth = shop.book(top["u"], 1)
        assert ((top["b"], top["B"]), (top["a"], top["A"])) == (truth.bids[0], truth.asks[0])
    assert all(a != b for a, b in pairwise(tops))
    tickers = [frame["result"] for frame in frames if frame["channel"] == "spot.tickers"]
    assert 2 <= len(tickers) <= 16
    assert {each["last"] for each in tickers} <= {trade.price for trade in shop.trades(0, 1 << 62)}
    assert desk.get("/api/v4/spot/tickers", currency_pair="BTC_USDT")[0].keys() == tickers[-1].keys()


def test_what_is_wrong_fails_its_whole_request_in_the_venues_words(desk: Desk) -> None:
    session = desk.open(URL)
    for text, code, message in (
        (ask("spot.book_ticker", "BTC_USDT", "NOPE_USDT"), 2, "unknown currency pair NOPE_USDT"),
        (ask("spot.tickers", "NOPE_USDT"), 2, "unknown currency pair: NOPE_USDT"),
        (ask("spot.trades", "BTC_TUSD"), 2, "Invalid argument provided"),
        (ask("spot.trades", "BTC_USDT", time=START // S - 61), 2, "Invalid argument provided"),
        (ask("spot.mood", "BTC_USDT"), 2, "Unknown channel spot.mood"),
        (ask("spot.trades"), 2, "Invalid argument provided"),
        (ask("spot.trades", "BTC_USDT", event="mood"), 2, "Invalid argument provided"),
        ("{nonsense", 1, "request message need json scheme"),
        ('{"payload":1}', 1, "Invalid request body format"),
    ):
        assert error(desk, session, text) == (code, message)
    assert session.topics == {}
    desk.tell(session, ask("spot.obu", BOOK))
    session.out.clear()
    assert error(desk, session, ask("spot.obu", BOOK)) == (2, f"Alert sub {BOOK}")
    desk.tell(session, ask("spot.trades", "BTC_USDT"))
    session.out.clear()
    assert error(desk, session, ask("spot.trades", "BTC_USDT")) == (2, "Invalid argument provided")
    assert session.close is None


def test_frames_bear_the_time_of_their_sending_which_the_venue_looks_at() -> None:
    chain = Chain("gateio", "BTC-USDT")  # stamps what it sends as the connector does, with ``VENUE.stamp``
    chain.run(2)
    assert not [status for status in chain.of(Status) if status.state == "refused"]
    assert chain.states == {"BTC-USDT": ["live"]}


def test_what_we_allow_ourselves_is_within_what_the_venue_does() -> None:
    keepalive = gateio.VENUE.keepalive
    assert keepalive is not None
    assert keepalive.every_s * 2 <= simulated.LIMITS["unsubscribed_s"]
    assert (
        gateio.LIMITS.weight_per_minute * simulated.LIMITS["requests_s"] <= simulated.LIMITS["requests"] * 60
    )


def test_an_unknown_book_is_acknowledged_and_never_speaks(desk: Desk) -> None:
    for name in ("ob.NOPE_USDT.400", "ob.BTC_USDT.30", "ob.BTC_TUSD.400"):
        session, (ack,) = subscribe(desk, "spot.obu", name)
        assert ack["result"] == {"status": "success"}
        desk.run(2)
        assert heard(session) == []


def test_a_subscription_ends_and_an_upgrade_has_no_channel(desk: Desk) -> None:
    session, _ = subscribe(desk, "spot.obu", BOOK)
    ended = desk.say(session, ask("spot.obu", BOOK, event="unsubscribe"))
    assert (ended["event"], ended["result"]) == ("unsubscribe", {"status": "success"})
    desk.run(3)
    assert heard(session) == []
    desk.venue.announce(session, desk.now)
    [notice] = heard(session)
    assert notice["type"] == "upgrade"
    assert "channel" not in notice


def test_who_neither_subscribes_nor_pings_is_sent_away(desk: Desk) -> None:
    quiet, pinging, listening = desk.open(URL), desk.open(URL), desk.open(URL)
    desk.tell(listening, ask("spot.obu", "ob.NOPE_USDT.400"))
    for _ in range(4):
        pong = desk.say(pinging, '{"time":1,"channel":"spot.ping"}')
        assert (pong["channel"], pong["event"], pong["result"]) == ("spot.pong", "", None)
        desk.run(10)
    assert quiet.close is not None
    assert (pinging.close, listening.close) == (None, None)
    desk.house.limits["connections"] = 3
    assert desk.knock(URL).status == 429
    assert desk.knock("/").status == 404


def test_pairs_books_and_trades_by_rest_within_the_limit_of_each_endpoint(desk: Desk) -> None:
    pairs = {row["id"]: row for row in desk.get("/api/v4/spot/currency_pairs")}
    assert (pairs["BTC_TUSD"]["trade_status"], pairs["BTC_USDT"]["base"]) == ("untradable", "BTC")
    desk.run(20)
    shop = desk.house.by_symbol["BTC-USDT"]
    book = desk.get("/api/v4/spot/order_book", currency_pair="BTC_USDT", limit="5", with_id="true")
    truth = shop.book(book["id"], 5)
    assert [tuple(level) for level in book["bids"]] == truth.bids
    assert "id" not in desk.get("/api/v4/spot/order_book", currency_pair="BTC_USDT")
    newest = desk.get("/api/v4/spot/trades", currency_pair="BTC_USDT")[0]
    assert newest["id"] == shop.trades(0, 1 << 62)[-1].id
    assert desk.ask("/api/v4/spot/trades", currency_pair="NOPE_USDT").status == 400
    replies = [desk.ask("/api/v4/spot/tickers") for _ in range(201)]
    assert [reply.status for reply in replies] == [200] * 200 + [429]
    left = [reply.headers["X-Gate-RateLimit-Requests-Remain"] for reply in replies]
    assert left == [str(n) for n in [*reversed(range(200)), 0]]
    assert {reply.headers["X-Gate-RateLimit-Limit"] for reply in replies} == {"200"}
    resets = [int(reply.headers["X-Gate-RateLimit-Reset-Timestamp"]) for reply in replies]
    assert (resets[0], resets[-1]) == (desk.now // S, -(-desk.now // S) + 10)
    assert desk.ask("/api/v4/spot/currency_pairs").status == 200
    desk.now += 10 * S
    assert desk.ask("/api/v4/spot/tickers").status == 200


def test_a_refusal_that_names_no_pair_costs_the_other_pairs_nothing() -> None:
    chain = Chain("gateio", "BTC-USDT", "ETH-USDT")
    chain.run(2)
    chain.desk.fault("refuse", symbol="BTC-USDT")
    chain.drop()
    chain.run(8)
    last = {(each.symbol, each.channel): each for each in chain.of(Status) if each.symbol}
    assert {key for key, each in last.items() if each.state == "refused"} == {
        ("BTC-USDT", "trade"), ("BTC-USDT", "l1"), ("BTC-USDT", "ticker"),
    }  # fmt: skip
    assert last["BTC-USDT", "trade"].reason == "2: Invalid argument provided"
    assert {each.state for (symbol, _), each in last.items() if symbol == "ETH-USDT"} == {"live"}


def test_a_lost_change_of_a_book_is_a_gap_and_its_subscription_is_renewed() -> None:
    chain = Chain("gateio", "BTC-USDT", "ETH-USDT")
    chain.run(3)
    chain.fault("gap", channel="book", symbol="BTC-USDT")
    chain.run(8)
    [gap] = chain.of(Gap)
    assert (gap.symbol, gap.channel, gap.cause) == ("BTC-USDT", "book", "sequence")
    assert chain.states == {"BTC-USDT": ["live", "resyncing", "live"], "ETH-USDT": ["live"]}


def test_a_crossed_book_is_not_live_and_comes_back() -> None:
    chain = Chain("gateio", "BTC-USDT")
    chain.run(3)
    chain.fault("crossed", symbol="BTC-USDT")
    chain.run(12)
    assert chain.states["BTC-USDT"][-3:] == ["crossed", "resyncing", "live"]
