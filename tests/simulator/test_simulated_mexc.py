"""MEXC's words: what a client sees of the simulated venue, read field by field without its schema."""

from itertools import pairwise
from typing import Any

import anyio
import msgspec
import pytest
from simulator_rig import DEADLINE_S, MS, Desk, S, rig
from venue_rig import Chain
from wire_form import walk

from actors.model.events import Gap
from actors.simulator.mexc import LIMITS, LISTINGS
from actors.simulator.session import Binary, Session
from actors.simulator.simulation import Simulator
from actors.venues.base import Ignored, Scratch
from actors.venues.mexc import VENUE, decode
from actors.venues.mexc_push import parse

DEALS, DEPTH, BEST = (
    f"spot@public.aggre.{kind}.v3.api.pb@100ms@BTCUSDT" for kind in ("deals", "depth", "bookTicker")
)
DAY = "spot@public.miniTicker.v3.api.pb@BTCUSDT@24H"
Message = dict[int, list[Any]]


@pytest.fixture
def desk() -> Desk:
    return Desk("mexc", "BTC-USDT", "ETH-USDT", "BTC-TUSD")


def ask(*channels: str, method: str = "SUBSCRIPTION") -> str:
    return msgspec.json.encode({"method": method, "params": channels}).decode()


def subscribe(desk: Desk, *channels: str) -> Session:
    session = desk.open("/ws")
    assert desk.say(session, ask(*channels)) == {"id": 0, "code": 0, "msg": ",".join(channels)}
    return session


def message(data: bytes) -> Message:
    found: Message = {}
    for number, value in walk(data):
        found.setdefault(number, []).append(value)
    return found


def pushed(session: Session, body: int) -> list[tuple[Message, Message]]:
    """Return the pushes that a session was sent, and their bodies."""
    assert all(type(frame) is Binary for frame in session.out)
    wholes = [message(frame) for frame in session.out]
    session.out.clear()
    return [(whole, message(whole[body][0])) for whole in wholes]


def levels(body: Message, side: int) -> dict[float, str]:
    rows = [message(row) for row in body.get(side, [])]
    return {float(row[1][0]): row[2][0].decode() for row in rows}


def book_of(rows: list[list[str]]) -> dict[float, str]:
    return {float(price): size for price, size in rows}


def test_windows_follow_one_another_and_make_the_true_book_of_a_snapshot(desk: Desk) -> None:
    session = subscribe(desk, DEPTH)
    desk.run(2)
    whole = desk.get("/api/v3/depth", symbol="BTCUSDT", limit="5000")
    at = int(whole["lastUpdateId"])
    desk.run(20)
    sides = {1: book_of(whole["asks"]), 2: book_of(whole["bids"])}
    last = 0
    for frame, body in pushed(session, 313):
        first, end = int(body[4][0]), int(body[5][0])
        assert frame[1] == [DEPTH.encode()]
        assert frame[3] == [b"BTCUSDT"]
        assert last in (0, first - 1)
        last = end
        if end > at:
            for side, kept in sides.items():
                kept.update(levels(body, side))
    truth = desk.house.by_symbol["BTC-USDT"].book(last)
    for side, rows in ((1, truth.asks), (2, truth.bids)):
        left = {price: float(size) for price, size in sides[side].items() if float(size)}
        assert left == {float(price): float(size) for price, size in rows}


def test_deals_are_those_of_the_tape_and_told_once_a_window(desk: Desk) -> None:
    session = subscribe(desk, DEALS)
    desk.run(60)
    tape = desk.house.by_symbol["BTC-USDT"].trades(0, 1 << 62)
    frames = pushed(session, 314)
    deals = [message(deal) for _, body in frames for deal in body[1]]
    assert [(d[5][0].decode(), d[4][0], float(d[1][0]), float(d[2][0])) for d in deals] == [
        (t.id, t.ts // MS, float(t.price), float(t.size)) for t in tape
    ]
    assert [{1: "buy", 2: "sell"}[d[3][0]] for d in deals] == [t.aggressor for t in tape]
    assert {t.aggressor for t in tape} == {"buy", "sell"}
    assert len(frames) < len(deals)  # some come together
    assert not any(d[n][0].endswith(b"0") for d in deals for n in (1, 2) if b"." in d[n][0])


def test_best_prices_are_told_when_they_changed_and_the_day_each_three_seconds(desk: Desk) -> None:
    session = subscribe(desk, BEST)
    desk.run(20)
    tops = [body for _, body in pushed(session, 315)]
    assert all(a != b for a, b in pairwise(tops))
    bid, size, ask_, ask_size = desk.house.by_symbol["BTC-USDT"].live.book.top()
    shop = desk.house.by_symbol["BTC-USDT"]
    assert [float(tops[-1][n][0]) for n in (1, 2, 3, 4)] == [
        float(text) for text in (shop.price(bid), shop.size(size), shop.price(ask_), shop.size(ask_size))
    ]
    day = subscribe(desk, DAY)
    desk.run(9)
    told = [body for _, body in pushed(day, 309)]
    assert len(told) == 3
    assert float(told[-1][6][0]) <= float(told[-1][2][0]) <= float(told[-1][5][0])
    assert float(told[-1][7][0]) > 1000 * float(told[-1][8][0])  # the turnover is in dollars


def test_whatever_is_refused_is_refused_with_code_0(desk: Desk) -> None:
    session = desk.open("/ws")

    def blocked(*channels: str) -> dict[str, object]:
        text = f"Not Subscribed successfully! [{','.join(channels)}].  Reason\N{FULLWIDTH COLON} Blocked! "
        return {"id": 0, "code": 0, "msg": text}

    old, halted = "spot@public.deals.v3.api@BTCUSDT", DEALS.replace("BTCUSDT", "BTCTUSD")
    assert desk.say(session, ask(old, halted)) == blocked(old, halted)
    desk.tell(session, ask(DEALS, old, DEPTH))
    answers = [msgspec.json.decode(answer) for answer in session.out]
    assert answers == [{"id": 0, "code": 0, "msg": f"{DEALS},{DEPTH}"}, blocked(old)]
    session.out.clear()
    desk.house.limits["channels"] = 3
    assert desk.say(session, ask(BEST))["msg"] == BEST
    assert desk.say(session, ask(DAY)) == blocked(DAY)
    assert desk.say(session, ask(BEST))["msg"] == BEST  # it has that one already
    assert desk.say(session, ask(DEPTH, BEST, method="UNSUBSCRIPTION"))["msg"] == f"{DEPTH},{BEST}"
    assert [*session.topics] == [DEALS]
    for text, answer in (
        ('{"method":"PING"}', "PONG"),
        ('{"method":"ping"}', "PONG"),
        ("{", "Invalid request"),
    ):
        assert desk.say(session, text) == {"id": 0, "code": 0, "msg": answer}
    desk.fault("refuse", symbol="BTC-USDT")
    assert desk.say(session, ask(DEPTH)) == blocked(DEPTH)


def test_who_has_no_channel_is_sent_away_and_who_says_nothing_while_nothing_happens(desk: Desk) -> None:
    idle, kept = desk.open("/ws"), subscribe(desk, DEALS)
    desk.run(25)
    assert idle.close is None
    desk.run(10)
    assert idle.close == (1000, "")
    desk.run(60)
    assert kept.close is None  # it is being told something
    desk.fault("silent_ack")
    quiet, pinging = subscribe(desk, DEPTH), subscribe(desk, DEPTH)
    desk.run(40)
    desk.say(pinging, '{"method":"PING"}')
    desk.run(30)
    assert (quiet.close, pinging.close) == ((1000, ""), None)


def test_the_adapter_keeps_a_connection_on_which_nothing_happens(desk: Desk) -> None:
    desk.fault("silent_ack")
    pinging, keepalive = subscribe(desk, DEPTH), VENUE.keepalive
    assert keepalive is not None
    for _ in range(20):
        desk.run(keepalive.every_s)
        assert pinging.close is None
        desk.tell(pinging, keepalive.frame)
        [pong] = pinging.out
        assert decode(bytes(pong), Scratch("a.1", {})) == [Ignored("heartbeat")]
        pinging.out.clear()
    assert VENUE.quiet_s is not None
    assert 2 * keepalive.every_s < VENUE.quiet_s < LIMITS["silent_s"]


def test_the_adapter_keeps_to_all_limits() -> None:
    limits = VENUE.limits
    assert limits.items_per_connection <= LIMITS["channels"]
    assert limits.frames_per_s <= LIMITS["messages"] / LIMITS["messages_s"]
    assert limits.lifetime_s is not None
    assert limits.lifetime_s <= LIMITS["lifetime_s"] - 600
    assert limits.weight_per_minute <= LIMITS["weight"] * 60 / LIMITS["weight_s"]
    assert limits.weight_per_s is not None  # kept for any second and the one before: six times in any ten
    assert limits.weight_per_s * (LIMITS["weight_s"] / 2 + 1) <= LIMITS["weight"]


def test_instruments_books_and_past_trades_are_given_within_a_weight(desk: Desk) -> None:
    listed = {row["symbol"]: row for row in desk.get("/api/v3/exchangeInfo")["symbols"]}
    assert (listed["BTCTUSD"]["status"], listed["BTCTUSD"]["quoteAsset"]) == ("2", "TUSD")
    assert (listed["BTCUSDT"]["status"], listed["BTCUSDT"]["isSpotTradingAllowed"]) == ("1", True)
    desk.run(30)
    versions = set()
    for _ in range(20):
        desk.run(0.3)
        versions.add(type(desk.get("/api/v3/depth", symbol="BTCUSDT", limit="5")["lastUpdateId"]))
    assert versions == {int, str}
    newest = desk.get("/api/v3/trades", symbol="BTCUSDT")[0]
    assert (newest["id"], newest["price"]) == (
        None,
        desk.house.by_symbol["BTC-USDT"].trades(0, 1 << 62)[-1].price,
    )
    refused = desk.ask("/api/v3/depth", symbol="NOPEUSDT")
    assert (refused.status, msgspec.json.decode(refused.body)["code"]) == (400, -1121)
    desk.now += 10 * S
    statuses = [desk.ask("/api/v3/depth", symbol="BTCUSDT").status for _ in range(101)]
    assert statuses == [200] * 100 + [429]
    assert desk.ask("/api/v3/ping").headers["Retry-After"].isdigit()
    desk.now += 10 * S
    assert desk.ask("/api/v3/ping").status == 200


DAMAGES: list[dict[str, str]] = [
    {"kind": "null_price"},
    *({"kind": "corrupt", "how": how} for how in ("truncated", "garbage", "nan")),
]


@pytest.mark.parametrize("fault", DAMAGES)
def test_a_push_that_means_nothing_is_kept_and_its_trades_are_named_as_missing(fault: dict[str, str]) -> None:
    chain = Chain("mexc", "BTC-USDT")
    chain.run(3)
    chain.fault(**fault, channel="trade")
    chain.run(5)
    assert len(chain.dead) == 1
    assert [(gap.channel, gap.cause) for gap in chain.of(Gap)] == [("trade", "sequence")]
    assert not chain.unexplained("BTC-USDT")


def test_a_damaged_push_is_still_binary(desk: Desk) -> None:
    session = subscribe(desk, DEPTH)
    desk.fault("corrupt", session, how="garbage")
    desk.run(0.3)
    assert [type(frame) for frame in session.out] == [Binary] * 3
    assert [frame.startswith(b"\n") for frame in session.out] == [False, True, True]


def test_a_lost_window_is_found_by_its_versions_and_the_book_comes_back() -> None:
    chain = Chain("mexc", "BTC-USDT", "ETH-USDT")
    chain.run(3)
    chain.fault("gap", channel="book", symbol="BTC-USDT")
    chain.run(5)
    assert [(gap.symbol, gap.channel, gap.cause) for gap in chain.of(Gap)] == [
        ("BTC-USDT", "book", "sequence")
    ]
    assert chain.states["BTC-USDT"][-3:] == ["live", "resyncing", "live"]
    assert chain.states["ETH-USDT"][-1] == "live"
    assert "resyncing" not in chain.states["ETH-USDT"][1:]


def test_a_window_that_overlaps_the_last_one_is_found_by_its_versions_and_the_book_comes_back() -> None:
    def overlapping(payload: bytes) -> bytes:
        push = parse(payload)
        push.depths.from_version = str(int(push.depths.from_version) - 1)
        return push.SerializeToString()

    chain = Chain("mexc", "BTC-USDT")
    chain.run(3)
    chain.desk.venue.edits = {"crossed": overlapping}
    chain.fault("crossed", channel="book")
    chain.run(5)
    assert [(gap.channel, gap.cause) for gap in chain.of(Gap)] == [("book", "sequence")]
    assert chain.states["BTC-USDT"][-3:] == ["live", "resyncing", "live"]


def test_a_crossed_book_is_never_live_and_comes_back() -> None:
    chain = Chain("mexc", "BTC-USDT")
    chain.run(4)
    chain.fault("crossed", symbol="BTC-USDT")
    chain.run(12)
    assert chain.states["BTC-USDT"][-3:] == ["crossed", "resyncing", "live"]
    assert [gap.cause for gap in chain.of(Gap)] == ["crossed"]


def test_a_stale_snapshot_is_asked_for_again_and_no_wrong_book_is_shown() -> None:
    chain = Chain("mexc", "BTC-USDT")
    chain.desk.fault("stale_snapshot", symbol="BTC-USDT", back=300, for_s=5)
    chain.run(3)
    assert "live" not in chain.states["BTC-USDT"]
    chain.desk.faults.clear()
    chain.run(10)
    assert chain.states["BTC-USDT"] == ["resyncing", "live"]
    assert chain.asked["snapshot"] > 1
    assert not chain.of(Gap)


async def test_pushes_are_binary_on_a_socket_and_answers_text() -> None:
    btc = [each for each in LISTINGS if each.symbol == "BTC-USDT"]
    async with rig(Simulator(listings=btc, venues=["mexc"])) as r, r.connect("/ws", "mexc") as socket:
        with anyio.fail_after(DEADLINE_S):
            await socket.send(ask(DEPTH))
            assert await socket.recv() == f'{{"id":0,"code":0,"msg":"{DEPTH}"}}'
            frame = await socket.recv()
            assert isinstance(frame, bytes)
            assert message(frame)[1] == [DEPTH.encode()]
