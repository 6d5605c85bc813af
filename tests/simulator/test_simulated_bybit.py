"""Bybit's words, spot and linear: what a client sees of the simulated venue, without a socket."""

import json
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from simulator_rig import Desk, S, heard
from venue_rig import Chain

from actors.model.events import L1, Funding, Gap, Liquidation, OpenInterest, Ticker, Trade
from actors.simulator.session import Reply, Session
from actors.venues import bybit

SPOT, LINEAR = "/v5/public/spot", "/v5/public/linear"
LIST = "/v5/market/instruments-info"


@pytest.fixture
def desk() -> Desk:
    return Desk("bybit", "BTC-USDT", "ETH-USDT", "BTC-TUSD")


@pytest.fixture
def swaps() -> Desk:
    return Desk("bybit_linear", "BTC-USDT-PERP", "BTC-USDC-PERP", "ETH-USDT-PERP")


def ask(desk: Desk, session: Session, *topics: str, op: str = "subscribe") -> list[Any]:
    """Ask; return what was said."""
    session.out.clear()
    desk.tell(session, json.dumps({"req_id": "7", "op": op, "args": topics}))
    return heard(session)


def listen(desk: Desk, url: str, *topics: str) -> Session:
    session = desk.open(url)
    assert [each["success"] for each in ask(desk, session, *topics) if "success" in each] == [True]
    return session


def refusal(desk: Desk, session: Session, *topics: str) -> str:
    [answer] = ask(desk, session, *topics)
    assert (answer["success"], answer["op"]) == (False, "subscribe")
    return answer["ret_msg"]


# ---- requests of a client -------------------------------------------------------------------------------


def test_each_category_answers_in_its_own_words_and_linear_after_the_data(desk: Desk, swaps: Desk) -> None:
    answer, data = ask(desk, desk.open(SPOT), "tickers.BTCUSDT")
    assert {**answer, "conn_id": ""} == {
        "success": True, "ret_msg": "subscribe", "conn_id": "", "req_id": "7", "op": "subscribe"
    }  # fmt: skip
    assert (data["topic"], data["type"]) == ("tickers.BTCUSDT", "snapshot")
    data, answer = ask(swaps, swaps.open(LINEAR), "tickers.BTCUSDT")
    assert (data["topic"], data["type"]) == ("tickers.BTCUSDT", "snapshot")
    assert {**answer, "conn_id": ""} == {
        "success": True, "ret_msg": "", "conn_id": "", "req_id": "", "op": "subscribe"
    }  # fmt: skip


def test_a_ping_is_answered_by_its_own_op(desk: Desk, swaps: Desk) -> None:
    pong = desk.say(desk.open(SPOT), '{"req_id":"100001","op":"ping"}')
    assert {**pong, "conn_id": ""} == {"success": True, "ret_msg": "pong", "conn_id": "", "op": "ping"}
    assert swaps.say(swaps.open(LINEAR), '{"op":"ping"}')["req_id"] == ""


def test_one_bad_topic_fails_its_whole_request(desk: Desk) -> None:
    session = desk.open(SPOT)
    bad = {
        "orderbook.200.NOUSDT": "Invalid symbol :[orderbook.200.NOUSDT]",
        "orderbook.500.BTCUSDT": "Invalid topic: orderbook.500.BTCUSDT",  # none since 2025-09
        "allLiquidation.BTCUSDT": "Invalid topic: allLiquidation.BTCUSDT",
        "tickers.BTCTUSD": "Invalid symbol :[tickers.BTCTUSD]",
    }
    for topic, words in bad.items():
        assert refusal(desk, session, "publicTrade.BTCUSDT", topic) == words
    assert not session.topics
    ask(desk, session, "publicTrade.BTCUSDT")
    words = "error:already subscribed,topic:publicTrade.BTCUSDT"
    assert refusal(desk, session, "tickers.ETHUSDT", "publicTrade.BTCUSDT") == words
    assert [*session.topics] == ["publicTrade.BTCUSDT"]


def test_a_refusal_of_linear_has_other_words_and_no_field_for_a_number(desk: Desk, swaps: Desk) -> None:
    [spot] = ask(desk, desk.open(SPOT), "tickers.NOUSDT")
    assert list(spot) == ["success", "ret_msg", "conn_id", "req_id", "op"]
    [linear] = ask(swaps, swaps.open(LINEAR), "tickers.NOUSDT")
    assert list(linear) == ["success", "ret_msg", "conn_id", "op"]  # as recorded
    assert linear["ret_msg"] == "error:handler not found,topic:tickers.NOUSDT"


def test_only_spot_counts_the_topics_of_a_request_and_both_their_characters(desk: Desk, swaps: Desk) -> None:
    topics = [f"{stream}.{n}USDT" for stream in ("tickers", "orderbook.50", "orderbook.200", "publicTrade")
              for n in ("BTC", "ETH")]  # fmt: skip
    session = desk.open(SPOT)
    assert refusal(desk, session, *topics, *topics[:3]) == "args size >10"
    assert ask(desk, session, *topics)[0]["success"]
    many = [
        f"orderbook.{levels}.{n}" for levels in (1, 50, 200, 1000) for n in ("BTCUSDT", "BTCPERP", "ETHUSDT")
    ]
    assert ask(swaps, swaps.open(LINEAR), *many)[-1]["success"]
    swaps.house.limits["characters"] = 30
    assert refusal(swaps, swaps.open(LINEAR), *many) == "args length too long"


def test_what_is_no_request_is_refused_and_the_connection_stays(desk: Desk) -> None:
    session = desk.open(SPOT)
    assert not desk.say(session, "{nonsense")["success"]
    assert not desk.say(session, '{"op":"mood"}')["success"]
    assert session.close is None


def test_an_end_is_acknowledged_and_nothing_comes_any_more(desk: Desk) -> None:
    session = listen(desk, SPOT, "orderbook.200.BTCUSDT", "publicTrade.BTCUSDT")
    [answer] = ask(desk, session, "orderbook.200.BTCUSDT", "publicTrade.BTCUSDT", op="unsubscribe")
    assert (answer["success"], answer["op"]) == (True, "unsubscribe")
    desk.run(5)
    assert heard(session) == []


def test_faults_refuse_silence_and_leave_unanswered(desk: Desk) -> None:
    desk.fault("refuse", symbol="BTC-USDT")
    assert "Invalid symbol" in refusal(desk, desk.open(SPOT), "tickers.BTCUSDT")
    desk.faults.clear()
    desk.fault("silent_ack", symbol="BTC-USDT")
    quiet = listen(desk, SPOT, "orderbook.1.BTCUSDT")
    desk.faults.clear()
    desk.fault("no_ack")
    unanswered = desk.open(SPOT)
    assert {each["topic"] for each in ask(desk, unanswered, "orderbook.1.BTCUSDT")} == {"orderbook.1.BTCUSDT"}
    desk.run(5)
    assert heard(quiet) == []
    assert heard(unanswered)


def test_each_category_has_its_own_path_and_a_connection_too_many_is_refused(desk: Desk) -> None:
    assert desk.knock(LINEAR) == Reply(404)
    desk.house.limits["connections"] = 2
    assert [isinstance(desk.knock(SPOT), Session) for _ in range(3)] == [True, True, False]
    desk.house.limits["connections"] = 1000
    desk.house.limits["connects"] = 4
    desk.now += 300 * S
    assert [isinstance(desk.knock(SPOT), Session) for _ in range(5)] == [True] * 4 + [False]


# ---- what it tells --------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [50, 200, 1000])
def test_a_book_is_its_snapshot_and_every_change_after_it(swaps: Desk, depth: int) -> None:
    topic = f"orderbook.{depth}.BTCUSDT"
    session = swaps.open(LINEAR)
    frames = [each for each in ask(swaps, session, topic) if "data" in each]
    swaps.run(10, 0.01)
    frames += heard(session)
    sides: dict[str, dict[str, str]] = {"b": {}, "a": {}}
    last = frames[0]["data"]["u"] - 1
    for frame in frames:
        assert frame["type"] == ("delta" if frame is not frames[0] else "snapshot")
        assert frame["data"]["u"] == last + 1
        last += 1
        for side, levels in sides.items():
            levels.update(frame["data"][side])
    assert len(frames) > 30
    shop = swaps.house.by_symbol["BTC-USDT-PERP"]
    truth = shop.book(shop.sequence(frames[-1]["cts"] * 1_000_000), depth)
    for side, levels in (("b", truth.bids), ("a", truth.asks)):
        assert {price: size for price, size in sides[side].items() if size != "0"} == dict(levels)


def test_who_comes_later_joins_where_the_others_are(desk: Desk) -> None:
    early = listen(desk, SPOT, "orderbook.200.BTCUSDT")
    desk.run(1.05, 0.01)
    late = desk.open(SPOT)
    _, whole = ask(desk, late, "orderbook.200.BTCUSDT")
    desk.run(1, 0.01)
    frames = heard(early)
    assert [each["data"]["u"] for each in heard(late)] == [
        each["data"]["u"] for each in frames if each["data"]["u"] > whole["data"]["u"]
    ]
    assert whole["data"]["u"] in {each["data"]["u"] for each in frames}


def test_the_best_prices_are_whole_and_said_again_after_three_seconds(desk: Desk) -> None:
    session = listen(desk, SPOT, "orderbook.1.BTCUSDT")
    desk.run(2, 0.01)
    frames = heard(session)
    assert {each["type"] for each in frames} == {"snapshot"}
    numbers = [each["data"]["u"] for each in frames]
    assert numbers == sorted(set(numbers))
    for _ in range(700):  # nothing moves but the clock
        desk.now += S // 100
        desk.venue.publish(desk.now)
    again = heard(session)
    assert [each["data"]["u"] for each in again] == [numbers[-1]] * 2


def test_the_fills_of_one_order_come_in_one_frame_and_are_those_of_the_tape(desk: Desk, swaps: Desk) -> None:
    for one, url, symbol in ((desk, SPOT, "BTC-USDT"), (swaps, LINEAR, "BTC-USDT-PERP")):
        session = listen(one, url, "publicTrade.BTCUSDT")
        one.run(60)
        frames = heard(session)
        assert max(len(frame["data"]) for frame in frames) > 1
        assert all(len({fill["seq"] for fill in frame["data"]}) == 1 for frame in frames)
        fills = [fill for frame in frames for fill in frame["data"]]
        tape = one.house.by_symbol[symbol].trades(0, 1 << 62)
        assert [(f["i"], f["p"], f["v"], f["S"].lower()) for f in fills] == [
            (t.id, t.price, t.size, t.aggressor) for t in tape[-len(fills) :]
        ]
        assert len({fill["i"] for fill in fills}) == len(fills) > 50
    assert all(fill["i"].count("-") == 4 for fill in fills), "linear: UUIDs"
    assert [f["i"] for f in fills] != sorted(f["i"] for f in fills)
    assert {f["L"] for f in fills} == {"PlusTick", "MinusTick", "ZeroPlusTick", "ZeroMinusTick"}
    assert list(fills[0]) == ["T", "s", "S", "v", "p", "L", "i", "BT", "RPI", "seq"]


def test_tickers_of_spot_are_whole_and_those_of_linear_tell_what_changed(desk: Desk, swaps: Desk) -> None:
    session = listen(desk, SPOT, "tickers.BTCUSDT")
    desk.run(20)
    frames = heard(session)
    assert {each["type"] for each in frames} == {"snapshot"}
    assert len({len(each["data"]) for each in frames}) == 1
    assert not any("bid1Price" in each["data"] for each in frames)

    session = swaps.open(LINEAR)
    first = ask(swaps, session, "tickers.BTCUSDT")[0]
    swaps.run(20)
    deltas = heard(session)
    assert {each["type"] for each in deltas} == {"delta"}
    assert all(1 < len(each["data"]) < len(first["data"]) for each in deltas)
    assert [each["cs"] for each in deltas] == sorted(each["cs"] for each in deltas)
    known = dict(first["data"])
    for delta in deltas:
        assert all(known[name] != text for name, text in delta["data"].items() if name != "symbol")
        known |= delta["data"]
    present = ask(swaps, swaps.open(LINEAR), "tickers.BTCUSDT")[0]["data"]
    assert known == present
    assert Decimal(known["openInterest"]) == 2 * Decimal(known["singleOpenInterest"])
    assert int(known["nextFundingTime"]) % (8 * 3600 * 1000) == 0


# As recorded in 2026.
OF_SPOT = (
    "symbol lastPrice highPrice24h lowPrice24h prevPrice24h volume24h turnover24h price24hPcnt usdIndexPrice"
)
OF_LINEAR = (
    "symbol tickDirection price24hPcnt lastPrice prevPrice24h highPrice24h lowPrice24h prevPrice1h markPrice "
    "indexPrice openInterest openInterestValue turnover24h volume24h fundingIntervalHour fundingCap "
    "singleOpenInterest singleOpenInterestValue nextFundingTime fundingRate bid1Price bid1Size ask1Price "
    "ask1Size preOpenPrice preQty curPreListingPhase"
)


def test_a_ticker_has_the_recorded_fields_in_the_recorded_order(desk: Desk, swaps: Desk) -> None:
    desk.run(10)
    _, spot = ask(desk, desk.open(SPOT), "tickers.BTCUSDT")
    assert " ".join(spot) == "topic ts type cs data"
    assert " ".join(spot["data"]) == OF_SPOT
    swaps.run(10)
    linear, _ = ask(swaps, swaps.open(LINEAR), "tickers.BTCUSDT")
    assert " ".join(linear) == "topic type data cs ts"
    assert " ".join(linear["data"]) == OF_LINEAR


def test_the_price_of_an_hour_ago_and_the_last_tick_are_those_of_the_tape(swaps: Desk) -> None:
    swaps.run(10)
    tape = swaps.house.by_symbol["BTC-USDT-PERP"].live.tape
    price = swaps.house.by_symbol["BTC-USDT-PERP"].price
    for hour, then in ((0, tape[tape.first]), (1, tape[tape.next - 1])):
        swaps.now += hour * 3600 * S
        swaps.venue.publish(swaps.now)
        data = ask(swaps, swaps.open(LINEAR), "tickers.BTCUSDT")[0]["data"]
        assert data["prevPrice1h"] == price(then.price).decode()
        assert data["tickDirection"].endswith("Tick")


# ---- requests -------------------------------------------------------------------------------------------


def test_linear_instruments_come_in_pages_and_spot_in_one(desk: Desk, swaps: Desk) -> None:
    swaps.house.limits["page"] = 1
    [request] = bybit.listing("linear")
    found: list[str] = []
    while request is not None:
        url = urlsplit(request.path)
        reply = swaps.ask(url.path, **dict(parse_qsl(url.query)))
        found += [each.symbol for each in bybit.rows(reply.body)]
        request = bybit.next_page(request, reply.body)
    assert found == ["BTC-USDT-PERP", "ETH-USDT-PERP", "BTC-USDC-PERP"]
    listed = desk.get(LIST, category="spot")["result"]
    assert [row["symbol"] for row in listed["list"]] == ["BTCUSDT", "ETHUSDT"]
    assert "nextPageCursor" not in listed
    assert desk.get(LIST, category="linear")["retCode"] == 10001


def test_a_book_and_the_interest_can_be_asked_for(desk: Desk, swaps: Desk) -> None:
    desk.run(1)
    book = desk.get("/v5/market/orderbook", category="spot", symbol="BTCUSDT", limit="3")["result"]
    shop = desk.house.by_symbol["BTC-USDT"]
    assert [tuple(level) for level in book["b"]] == shop.book(shop.sequence(book["cts"] * 1_000_000), 3).bids
    [row] = swaps.get("/v5/market/open-interest", category="linear", symbol="BTCPERP")["result"]["list"]
    assert Decimal(row["openInterest"]) == 2 * Decimal(row["singleOpenInterest"])
    assert desk.get("/v5/market/orderbook", category="spot", symbol="NOUSDT")["retCode"] == 10001


def test_who_asks_too_often_waits_ten_minutes(desk: Desk) -> None:
    replies = [desk.ask(LIST, category="spot").status for _ in range(601)]
    assert replies == [200] * 600 + [403]
    desk.now += 599 * S
    assert desk.ask(LIST, category="spot") == Reply(403, b"access too frequent")
    desk.now += S
    assert desk.ask(LIST, category="spot").status == 200


# ---- through the adapter and the folds ------------------------------------------------------------------


def test_a_restart_of_the_service_begins_each_book_anew_without_a_gap() -> None:
    for name, symbol in (("bybit", "BTC-USDT"), ("bybit_linear", "BTC-USDT-PERP")):
        chain = Chain(name, symbol)
        chain.run(3)
        chain.desk.fault("renumber", symbol=symbol)
        chain.run(3)
        event = chain.views[symbol].event
        assert event is not None
        assert 1 < (event.seq or 0) < 100
        assert chain.states[symbol] == ["live"]
        assert not chain.of(Gap)
        assert not chain.asked


def test_a_lost_change_is_a_gap_and_the_book_comes_back_by_itself() -> None:
    chain = Chain("bybit", "BTC-USDT", "ETH-USDT")
    chain.run(3)
    chain.fault("gap", channel="book", symbol="BTC-USDT")
    chain.run(5)
    assert [(gap.symbol, gap.channel, gap.cause) for gap in chain.of(Gap)] == [
        ("BTC-USDT", "book", "sequence")
    ]
    assert chain.states == {"BTC-USDT": ["live", "resyncing", "live"], "ETH-USDT": ["live"]}


def test_a_crossed_book_is_never_live_and_comes_back() -> None:
    chain = Chain("bybit_linear", "BTC-USDT-PERP")
    chain.run(4)
    chain.fault("crossed", symbol="BTC-USDT-PERP")
    chain.run(12)
    assert chain.states["BTC-USDT-PERP"][-3:] == ["crossed", "resyncing", "live"]


def test_liquidations_interest_and_funding_are_the_markets() -> None:
    chain = Chain("bybit_linear", "BTC-USDT-PERP")
    while {each.position for each in chain.of(Liquidation)} != {"long", "short"}:
        chain.run(10)
    shop = chain.desk.house.by_symbol["BTC-USDT-PERP"]
    true = [(e.ts // 1_000_000, e.side, e.position, e.price, e.size) for e in shop.liquidations()]
    told = [(e.ts_event // 1_000_000, e.side, e.position, e.price, e.size) for e in chain.of(Liquidation)]
    assert sorted(told) == sorted(true[: len(told)])
    swap = shop.live.perpetual
    assert swap is not None
    interest, funding = chain.of(OpenInterest)[-1], chain.of(Funding)
    assert Decimal(interest.base) == Decimal(shop.size(swap.open_interest).decode())
    assert {e.rate is None for e in funding} == {e.mark is None for e in funding} == {True, False}
    assert chain.of(Ticker)
    assert chain.of(L1)
    assert chain.of(Trade)
