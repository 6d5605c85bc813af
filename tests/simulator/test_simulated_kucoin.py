"""KuCoin's words: what a client sees of the simulated venue, without a socket; and its door over one."""

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from simulator_rig import Desk, S, closed, frame, heard, rig
from venue_rig import Chain

from actors.cli.health.net import examine_venue
from actors.config import VenueSettings
from actors.model.events import Gap
from actors.simulator import kucoin as simulated
from actors.simulator.kucoin import RENAMED
from actors.simulator.session import Reply, Session
from actors.simulator.simulation import Simulator
from actors.venues import kucoin

if TYPE_CHECKING:
    from actors.cli.health.finding import Finding


@pytest.fixture
def desk() -> Desk:
    return Desk("kucoin", "BTC-USDT", "ETH-USDT", "FLR-USDT", "BTC-TUSD")


def token(desk: Desk) -> str:
    return desk.get("/api/v1/bullet-public")["data"]["token"]


def enter(desk: Desk, name: str = "me", **query: str) -> Session:
    """Knock with a token, and be greeted."""
    session = desk.open("/?" + urlencode({"token": token(desk), "connectId": name} | query))
    desk.venue.publish(desk.now)
    return session


def ask(topic: str, op: str = "subscribe", *, number: object = 1, response: bool = True) -> str:
    asked = {"id": number, "type": op, "topic": topic, "privateChannel": False, "response": response}
    return json.dumps(asked)


def listen(desk: Desk, *topics: str) -> Session:
    session = enter(desk)
    for topic in topics:
        assert desk.say(session, ask(topic)) == {"id": "1", "type": "ack"}
    return session


def error(code: int, words: str, number: str = "1") -> dict[str, Any]:
    return {"id": number, "type": "error", "code": code, "data": words}


# ---- the door -------------------------------------------------------------------------------------------


def test_a_token_opens_one_connection_and_the_welcome_bears_its_name(desk: Desk) -> None:
    one, other = token(desk), token(desk)
    assert one != other
    first = desk.open(f"/?{urlencode({'token': one, 'connectId': 'a.1'})}")
    desk.tell(first, ask("/market/match:BTC-USDT"))
    assert heard(first) == []  # before the welcome nothing is heard
    desk.venue.publish(desk.now)
    assert heard(first) == [{"id": "a.1", "type": "welcome"}]
    again = desk.open(f"/?{urlencode({'token': one, 'connectId': 'a.2'})}")
    assert heard(again) == [error(401, "token is invalid", "a.2")]
    assert again.close == (1000, "Bye")
    desk.now += 86_401 * S
    late = desk.open(f"/?{urlencode({'token': other, 'connectId': 'a.3'})}")
    assert heard(late) == [error(401, "token is expired", "a.3")]
    refused = desk.knock("/?connectId=a.4")
    assert isinstance(refused, Reply)
    assert refused.status == 401


def test_the_31st_connection_of_a_minute_is_refused(desk: Desk) -> None:
    for _ in range(30):
        enter(desk)
    refused = desk.knock("/?" + urlencode({"token": token(desk)}))
    assert isinstance(refused, Reply)
    assert refused.status == 429


def test_the_801st_connection_is_refused(desk: Desk) -> None:
    desk.house.limits["connections"] = 1
    enter(desk)
    refused = desk.knock("/?" + urlencode({"token": token(desk)}))
    assert isinstance(refused, Reply)
    assert refused.status == 429


def test_what_we_allow_ourselves_is_within_what_the_venue_does() -> None:
    ours, theirs, keepalive = kucoin.LIMITS, simulated.LIMITS, kucoin.VENUE.keepalive
    assert ours.items_per_connection <= theirs["topics"]
    assert theirs["topics_per_message"] >= kucoin.NAMES_PER_FRAME
    assert ours.frames_per_s * theirs["messages_s"] <= theirs["messages"]
    assert ours.connects_per_minute * theirs["connects_s"] <= theirs["connects"] * 60
    assert ours.weight_per_minute * theirs["weight_s"] <= theirs["weight"] * 60
    assert ours.lifetime_s is not None
    assert ours.lifetime_s < theirs["lifetime_s"]
    assert keepalive is not None
    assert keepalive.every_s * 2 <= theirs["ping_within_s"]


def test_with_our_pings_a_connection_lives() -> None:
    chain = Chain("kucoin", "BTC-USDT")
    chain.run(130)
    assert list(chain.desk.house.sessions) == [1]
    assert chain.states["BTC-USDT"][-1] == "live"


def test_without_pings_the_connection_ends_though_data_streams(desk: Desk) -> None:
    session = listen(desk, "/market/level2:BTC-USDT")
    desk.run(50)
    assert desk.say(session, '{"id":"1767225600000","type":"ping"}') == {
        "id": "1767225600000",
        "type": "pong",
    }
    desk.run(59)
    assert session.close is None
    desk.run(3)
    said = heard(session)
    assert error(400, "ping timeout", "me") in said
    assert sum(each["type"] == "message" for each in said) > 500
    assert session.close == (1000, "Bye")


def test_what_is_said_too_fast_is_not_heard(desk: Desk) -> None:
    chatty = enter(desk)
    desk.house.limits["messages"] = 3
    for _ in range(4):
        desk.now -= S  # ``tell`` lets a second pass
        desk.tell(chatty, '{"id":"7","type":"ping"}')
    assert heard(chatty)[1:] == [
        *[{"id": "7", "type": "pong"}] * 3,
        error(509, "exceed max permits per second", "me"),
    ]


# ---- what is asked --------------------------------------------------------------------------------------


def test_an_unknown_pair_is_acknowledged_and_silent(desk: Desk) -> None:
    session = listen(desk, "/market/level2:NO-USDT", "/market/match:BTC-TUSD", "/market/ticker:FLR-USDT")
    desk.run(10)
    assert heard(session) == []  # FLR is called otherwise there
    desk.fault("unlist", symbol="BTC-USDT")
    quiet = listen(desk, "/market/level2:BTC-USDT")
    desk.run(3)
    assert heard(quiet) == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (ask("/market/mood:BTC-USDT"), error(404, "topic does not exist")),
        (ask(""), error(406, "topic is required")),
        (ask("/market/match:BTC-USDT", "guess"), error(415, "type is not supported")),
        ("not JSON", error(400, "Unrecognized token 'not JSON'", "me")),
        ('{"topic":1}', error(400, "topic is invalid", "me")),
        (
            ask("/market/match:" + ",".join(f"A{n}-B" for n in range(101))),
            error(509, "exceed max subscription count limitation of 100 per time"),
        ),
    ],
)
def test_what_means_nothing_is_an_error_with_the_number_of_the_message(
    desk: Desk, text: str, answer: Any
) -> None:
    assert desk.say(enter(desk), text) == answer


def test_more_topics_than_a_session_may_have_are_refused_together(desk: Desk) -> None:
    session = enter(desk)
    desk.house.limits["topics"] = 3
    assert desk.say(session, ask("/market/match:BTC-USDT,ETH-USDT"))["type"] == "ack"
    words = "exceed max subscription count limitation of 3 per session"
    assert desk.say(session, ask("/market/level2:BTC-USDT,ETH-USDT", number=2)) == error(509, words, "2")
    assert desk.say(session, ask("/market/match:BTC-USDT", "unsubscribe", number="x")) == {
        "id": "x",
        "type": "ack",
    }
    session.out.clear()
    desk.tell(session, ask("/market/level2:BTC-USDT", response=False))
    desk.run(3)
    assert {each["topic"] for each in heard(session)} <= {"/market/level2:BTC-USDT", "/market/match:ETH-USDT"}


# ---- what is told ---------------------------------------------------------------------------------------


def test_changes_have_placeholders_and_no_order_and_make_the_true_book_of_a_snapshot(desk: Desk) -> None:
    session = listen(desk, "/market/level2:BTC-USDT")
    desk.run(3, 0.05)
    whole = desk.get("/api/v1/market/orderbook/level2_100", symbol="BTC-USDT")["data"]
    desk.run(20, 0.05)
    assert len(whole["bids"]) == len(whole["asks"]) == 100
    at, last = int(whole["sequence"]), 0
    sides = {side: dict(whole[side]) for side in ("bids", "asks")}
    entries = alone = unsorted = 0
    for data in (each["data"] for each in heard(session)):
        assert last in (0, data["sequenceStart"] - 1)
        last = data["sequenceEnd"]
        numbers = [[int(entry[2]) for entry in data["changes"][side]] for side in sides]
        assert sorted([*numbers[0], *numbers[1]]) == [*range(data["sequenceStart"], last + 1)]
        unsorted += any(each != sorted(each) for each in numbers)
        prices = [entry[0] for side in sides for entry in data["changes"][side]]
        entries += prices.count("0")
        alone += set(prices) == {"0"}
        for side, levels in sides.items():
            for price, size, number in data["changes"][side]:
                if price != "0" and int(number) > at:
                    levels[price] = size
    assert entries > 100
    assert alone > 0
    assert unsorted > 10
    truth = desk.house.by_symbol["BTC-USDT"].book(last, 40)
    for side, levels in (("bids", truth.bids), ("asks", truth.asks)):
        known = {price: size for price, size in sides[side].items() if float(size)}
        best = sorted(known.items(), key=lambda level: float(level[0]), reverse=side == "bids")
        assert best[:40] == levels


def test_a_book_by_rest_may_be_older_than_the_stream(desk: Desk) -> None:
    path, pair = "/api/v1/market/orderbook/level2_100", {"symbol": "BTC-USDT"}
    first = desk.get(path, **pair)
    session = enter(desk)
    desk.run(0.2, 0.05)
    assert desk.get(path, **pair) == first
    desk.tell(session, ask("/market/level2:BTC-USDT"))
    desk.run(0.3, 0.05)
    assert int(desk.get(path, **pair)["data"]["sequence"]) > int(first["data"]["sequence"])
    assert len(desk.get("/api/v1/market/orderbook/level2_20", **pair)["data"]["bids"]) == 20


def test_trades_are_those_of_the_tape_in_ns(desk: Desk) -> None:
    session = listen(desk, "/market/match:BTC-USDT")
    desk.run(30)
    tape = desk.house.by_symbol["BTC-USDT"].trades(0, 1 << 62)
    data = [each["data"] for each in heard(session)]
    assert [(d["tradeId"], d["price"], d["size"], d["side"], int(d["time"])) for d in data] == [
        (t.id, t.price, t.size, t.aggressor, t.ts) for t in tape[-len(data) :]
    ]
    assert len(data) > 50


def test_the_best_prices_and_24_hours_are_told_with_a_renamed_pair_under_its_old_id(desk: Desk) -> None:
    native = RENAMED["FLR-USDT"]
    session = listen(desk, f"/market/ticker:{native}", "/market/snapshot:BTC-USDT")
    desk.run(30)
    said = heard(session)
    tops = [each["data"] for each in said if each["subject"] == "trade.ticker"]
    assert len(tops) > 3
    assert all(float(top["bestBid"]) < float(top["bestAsk"]) for top in tops)
    days = [each["data"]["data"] for each in said if each["subject"] == "trade.snapshot"]
    assert 14 <= len(days) <= 16
    day = desk.house.by_symbol["BTC-USDT"].live.day.summary()
    assert day is not None
    assert days[-1]["symbol"] == "BTC-USDT"
    assert days[-1]["low"] <= days[-1]["lastTradedPrice"] <= days[-1]["high"]
    assert days[-1]["buy"] < days[-1]["sell"]
    assert min(days[-1]["bidSize"], days[-1]["askSize"]) > 0
    assert abs(days[-1]["changeRate"] - days[-1]["changePrice"] / days[-1]["open"]) < 1e-4, "a fraction"
    rows = {row["symbol"]: row for row in desk.get("/api/v2/symbols")["data"]}
    assert (rows[native]["name"], rows[native]["baseCurrency"]) == ("FLR-USDT", "FLR")
    assert not rows["BTC-TUSD"]["enableTrading"]


def test_requests_are_refused_in_words_with_and_without_a_status(desk: Desk) -> None:
    assert desk.get("/api/v1/market/orderbook/level2_100", symbol="NO-USDT")["code"] == "900001"
    assert desk.ask("/api/v1/mood").status == 404
    assert int(desk.get("/api/v1/timestamp")["data"]) == desk.now // 1_000_000
    desk.house.limits["weight"] = 10
    refused = desk.ask("/api/v1/bullet-public")
    assert (refused.status, json.loads(refused.body)["code"]) == (429, "429000")
    assert 0 < int(refused.headers["gw-ratelimit-reset"]) <= 30_000
    desk.now += 30 * S
    assert desk.get("/api/v1/bullet-public")["code"] == "200000"


# ---- with its adapter -----------------------------------------------------------------------------------


def test_a_stale_snapshot_is_asked_for_again_and_no_wrong_book_is_shown() -> None:
    chain = Chain("kucoin", "BTC-USDT")
    chain.desk.fault("stale_snapshot", symbol="BTC-USDT", back=300, for_s=5)
    chain.run(3)
    assert "live" not in chain.states["BTC-USDT"]
    chain.desk.faults.clear()
    chain.run(10)
    assert chain.states["BTC-USDT"] == ["resyncing", "live"]
    assert not chain.of(Gap)


def test_a_crossed_book_is_never_live_and_comes_back() -> None:
    chain = Chain("kucoin", "BTC-USDT")
    chain.run(4)
    chain.fault("crossed", symbol="BTC-USDT")
    chain.run(12)
    assert chain.states["BTC-USDT"][-3:] == ["crossed", "resyncing", "live"]
    assert [gap.cause for gap in chain.of(Gap)] == ["crossed"]


def test_an_expired_token_leads_to_another_connection_with_another_token() -> None:
    chain = Chain("kucoin", "BTC-USDT")
    chain.run(4)
    before = list(chain.desk.house.sessions)
    for session in chain.desk.house.sessions.values():
        chain.desk.venue.announce(session, chain.desk.now)
    chain.run(4)
    assert chain.asked["reconnect"] == 1
    assert list(chain.desk.house.sessions) != before
    assert chain.states["BTC-USDT"][-1] == "live"


# ---- over sockets ---------------------------------------------------------------------------------------


async def test_the_address_in_the_answer_is_the_simulator_s_own() -> None:
    async with rig(Simulator(venues=["kucoin"])) as at:
        assert (await at.ask("/kucoin/api/v1/bullet-public"))[0] == 405, "by POST alone"
        given = await at.post("/kucoin/api/v1/bullet-public")
        url = kucoin.address(kucoin.ENDPOINTS.ws, json.dumps(given).encode(), "a.1")
        assert url.startswith(f"ws://127.0.0.1:{at.port}/kucoin/?token=")
        path = url.partition("/kucoin")[2]
        async with at.connect(path, "kucoin") as ws:
            assert await frame(ws) == {"id": "a.1", "type": "welcome"}
            await ws.send(ask("/market/level2:BTC-USDT"))
            assert (await frame(ws))["type"] == "ack"
            assert (await frame(ws))["subject"] == "trade.l2update"
        async with at.connect(path, "kucoin") as ws:
            assert await frame(ws) == error(401, "token is invalid", "a.1")
            assert await closed(ws) == (1000, "Bye")


async def test_the_doctor_asks_for_a_token_before_it_knocks() -> None:
    async with rig(Simulator(venues=["kucoin"])) as at:
        base = f"127.0.0.1:{at.port}/kucoin"
        wanted = VenueSettings(symbols=["BTC-USDT"], ws_url=f"ws://{base}", rest_url=f"http://{base}")
        found: list[Finding] = []
        await examine_venue("kucoin", wanted, found)
        assert not [each for each in found if each.level == "bad"]
        assert any("handshake in" in each.says for each in found)
        assert "token" not in str(found)
        at.simulator.venues["kucoin"].house.limits["weight"] = 0
        found.clear()
        await examine_venue("kucoin", wanted, found)
        assert "bullet-public: before dialing: HTTP 429" in found[0].says
