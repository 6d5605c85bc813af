"""Bitfinex's words: what a client sees of the simulated venue, without a socket."""

import re
from typing import Any

import msgspec
import pytest
from simulator_rig import Desk, S, heard
from venue_rig import Chain

from actors.simulator import bitfinex as simulated
from actors.simulator.bitfinex import OB_CHECKSUM, SEQ_ALL, TIMESTAMP
from actors.simulator.session import Reply, Session
from actors.venues import bitfinex

BTC, ETH = "tBTCUSD", "tETHUSD"
ALL = TIMESTAMP | SEQ_ALL | OB_CHECKSUM


@pytest.fixture
def desk() -> Desk:
    return Desk("bitfinex", "BTC-USD", "ETH-USD", "SHIB-USD")


def ask(event: str, **more: object) -> str:
    return msgspec.json.encode({"event": event, **more}).decode()


def enter(desk: Desk, flags: int = ALL) -> Session:
    session = desk.open("/ws/2")
    [info] = heard(session)
    assert (info["event"], info["version"], info["platform"]) == ("info", 2, {"status": 1})
    conf = desk.say(session, ask("conf", flags=flags))
    assert conf == {"event": "conf", "status": "OK", "flags": flags}
    return session


def subscribe(desk: Desk, session: Session, channel: str, symbol: str) -> list[Any]:
    book = {"prec": "P0", "freq": "F0", "len": "100"} if channel == "book" else {}
    desk.tell(session, ask("subscribe", channel=channel, symbol=symbol, **book))
    return heard(session)


def data(frames: list[Any]) -> list[Any]:
    return [frame for frame in frames if isinstance(frame, list)]


def test_one_sequence_runs_through_all_frames_of_a_connection(desk: Desk) -> None:
    session = enter(desk)
    frames = [
        f for c in ("trades", "book", "ticker") for s in (BTC, ETH) for f in subscribe(desk, session, c, s)
    ]
    desk.run(40)
    frames += heard(session)
    assert [frame[-2] for frame in data(frames)] == list(range(1, len(data(frames)) + 1))
    beats = [frame for frame in data(frames) if frame[1] == "hb"]
    assert len(beats) >= 12, "each channel, busy or quiet"
    plain = enter(desk, 0)
    assert [len(frame) for frame in data(subscribe(desk, plain, "book", BTC))] == [2]


def test_each_trade_is_told_twice_with_one_id_and_below_zero_was_sold(desk: Desk) -> None:
    session = enter(desk)
    subscribe(desk, session, "trades", BTC)
    desk.run(40)
    frames = [frame for frame in data(heard(session)) if frame[1] in ("te", "tu")]
    tape = desk.house.by_symbol["BTC-USD"].trades(0, 1 << 62)
    first = [frame[2] for frame in frames if frame[1] == "te"]
    again = [frame[2] for frame in frames if frame[1] == "tu"]
    assert [(str(row[0]), "buy" if row[2] > 0 else "sell") for row in first] == [
        (trade.id, trade.aggressor) for trade in tape
    ]
    assert again == first[: len(again)]
    assert len(again) > 5


def test_a_book_deletes_with_a_count_of_zero_and_holds_a_hundred_levels(desk: Desk) -> None:
    session = enter(desk)
    *_, opening = subscribe(desk, session, "book", BTC)
    desk.run(30)
    sides: dict[int, dict[float, float]] = {1: {}, -1: {}}
    removed = 0
    for row in [*opening[1], *(f[1] for f in data(heard(session)) if isinstance(f[1], list))]:
        price, count, amount = row
        side = sides[1 if amount > 0 else -1]
        if count:
            side[price] = abs(amount)
        else:
            assert abs(amount) == 1
            del side[price]
            removed += 1
        assert len(side) <= 100
    truth = desk.house.by_symbol["BTC-USD"].book(most=100)
    assert sides[1] == {float(p): float(s) for p, s in truth.bids}
    assert sides[-1] == {float(p): float(s) for p, s in truth.asks}
    assert removed > 5


def test_small_numbers_have_exponents_as_javascript_writes_them(desk: Desk) -> None:
    session = enter(desk)
    desk.tell(session, ask("subscribe", channel="book", symbol="tSHIB:USD", prec="P0", len="100"))
    assert not re.search(rb"[\[,-]0\.000000\d", session.out[-1])
    desk.market.live["bitfinex", "SHIB-USD"].book.submit(45, 1)
    desk.run(1)
    assert b"[4.5e-7," in b"".join(session.out) or b"e-" in b"".join(session.out)


def test_refusals_are_worded_and_echo_what_was_asked(desk: Desk) -> None:
    session = enter(desk)
    for request, code, message in (
        ({"channel": "book", "symbol": "tNOPE", "prec": "P0", "len": "100"}, 10300, "symbol: invalid"),
        ({"channel": "book", "symbol": BTC, "prec": "P9", "len": "100"}, 10300, "precision: invalid"),
        ({"channel": "book", "symbol": BTC, "prec": "P0", "len": "7"}, 10300, "length: invalid"),
        ({"channel": "mood", "symbol": BTC}, 10300, "channel: unknown"),
    ):
        said = desk.say(session, ask("subscribe", **request))
        assert (said["event"], said["code"], said["msg"], said["symbol"], said["pair"]) == (
            "error", code, message, request["symbol"], request["symbol"][1:],
        )  # fmt: skip
    subscribe(desk, session, "trades", BTC)
    dup = desk.say(session, ask("subscribe", channel="trades", symbol="BTCUSD"))
    assert (dup["code"], dup["msg"]) == (10301, "subscribe: dup")
    ended = desk.say(session, ask("unsubscribe", chanId=dup["chanId"]))
    assert ended == {"event": "unsubscribed", "status": "OK", "chanId": dup["chanId"]}
    assert desk.say(session, ask("unsubscribe", chanId=5))["code"] == 10400
    assert desk.say(session, ask("nope"))["msg"] == "event: invalid (nope)"
    assert desk.say(session, ask("ping", cid=7))["cid"] == 7
    desk.tell(session, "no JSON")
    assert heard(session) == []
    desk.house.limits["channels"] = 1
    subscribe(desk, session, "trades", BTC)
    assert desk.say(session, ask("subscribe", channel="ticker", symbol=BTC))["code"] == 10305
    desk.venue.announce(session, desk.now)
    assert heard(session)[0]["code"] == 20051


def test_who_subscribes_nothing_for_a_minute_is_closed_and_pairs_are_listed(desk: Desk) -> None:
    idle = enter(desk)
    desk.run(61)
    assert idle.close is not None
    pairs, names = desk.get("/v2/conf/pub:list:pair:exchange,pub:map:currency:sym")
    assert {"BTCUSD", "SHIB:USD", "AAABBB", "TESTBTC:TESTUSD"} <= set(pairs)
    assert ["UST", "USDt"] in names


def test_who_connects_too_often_is_kept_out_for_a_minute_from_then_on(desk: Desk) -> None:
    for _ in range(20):
        desk.open("/ws/2")
        desk.now += S
    assert isinstance(desk.knock("/ws/2"), Reply)
    desk.now += 59 * S  # the twenty are a minute ago
    assert isinstance(desk.knock("/ws/2"), Reply)
    desk.now += S
    desk.open("/ws/2")


def test_what_we_allow_ourselves_is_within_what_the_venue_does(desk: Desk) -> None:
    ours, theirs = bitfinex.LIMITS, simulated.LIMITS
    assert ours.items_per_connection <= 25 < theirs["channels"], "the documents name both"
    assert ours.connects_per_minute < theirs["connects"], "who exceeds it is blocked for a minute"
    assert ours.weight_per_minute <= theirs["requests"]
    [asked] = bitfinex.VENUE.instruments
    statuses = [desk.ask(asked.path).status for _ in range(11)]
    assert statuses == [200] * 10 + [429]
    openings = [desk.knock("/ws/2") for _ in range(21)]
    assert [getattr(each, "status", 101) for each in openings] == [101] * 20 + [429]


def test_a_lost_frame_loses_the_books_of_its_connection_which_is_replaced_beside_the_old_one() -> None:
    chain = Chain("bitfinex", "BTC-USD", "ETH-USD")
    chain.run(3)
    chain.fault("gap", channel="ticker")
    chain.fault("gap", channel="book", symbol="BTC-USD")
    chain.run(8)
    for symbol in ("BTC-USD", "ETH-USD"):
        assert chain.states[symbol] == ["live", "resyncing", "live"]
        assert not chain.unexplained(symbol)
