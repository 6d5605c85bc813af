"""Kraken's words: what a client sees of the simulated venue, without a socket."""

import re
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from kraken_reference import Reference, frame_of
from replay import recording
from simulator_rig import Desk, S, heard

from actors.simulator.session import Reply, Session
from actors.simulator.venue import hear

BTC, ETH = "BTC/USD", "ETH/USD"


@pytest.fixture
def desk() -> Desk:
    return Desk("kraken", "BTC-USD", "ETH-USD", "DOGE-USD", "BTC-TUSD")


def ask(method: str, channel: str, *symbols: str, req_id: int | None = None, **more: object) -> str:
    document: dict[str, object] = {
        "method": method,
        "params": {"channel": channel, "symbol": symbols, **more},
    }
    return msgspec.json.encode(document if req_id is None else {**document, "req_id": req_id}).decode()


def subscribe(desk: Desk, channel: str, *symbols: str, **more: object) -> Session:
    """Return a session that has been told everything up to its first update."""
    session = desk.open("/v2")
    session.out.clear()
    desk.tell(session, ask("subscribe", channel, *symbols, **more))
    return session


def said(frames: list[bytes], channel: str) -> list[dict[str, Any]]:
    """Return frames of one channel with the digits of their numbers kept as text."""
    return [document for each in frames if (document := frame_of(each)).get("channel") == channel]


@pytest.mark.parametrize("depth", [10, 25, 100, 500, 1000])
def test_a_book_of_any_depth_is_proved_by_each_checksum_and_true_at_each_time(desk: Desk, depth: int) -> None:
    session = subscribe(desk, "book", BTC, depth=depth)
    reference = Reference(depth)
    shop = desk.house.by_symbol["BTC-USD"]
    updates = 0
    for _ in range(600):
        for document in said(session.out, "book"):
            for data in document["data"]:
                reference.apply(document["type"], data)
                assert reference.checksum() == int(data["checksum"])
                updates += document["type"] == "update"
        session.out.clear()
        if updates:
            truth = shop.book(shop.sequence(nanoseconds(data["timestamp"])), depth)
            assert reference.levels == (truth.bids, truth.asks)
        desk.run(0.05, 0.05)
    assert updates > 150


def nanoseconds(timestamp: str) -> int:
    at = datetime.fromisoformat(timestamp[:19] + "+00:00")
    return int(at.timestamp()) * S + int(timestamp[20:26]) * 1000


def test_what_comes_into_depth_is_sent_and_of_what_falls_out_nothing_is_said(desk: Desk) -> None:
    session = subscribe(desk, "book", BTC, depth=10)
    known = Reference(10)
    again = fell_out = 0
    for _ in range(400):
        desk.run(0.05, 0.05)
        for document in said(session.out, "book"):
            [data] = document["data"]
            before = {side: dict(levels) for side, levels in known.sides.items()}
            known.apply(document["type"], data)
            if document["type"] == "snapshot":
                continue
            for side in ("bids", "asks"):
                removed = {level["price"] for level in data[side] if not float(level["qty"])}
                lost = before[side].keys() - known.sides[side].keys()
                fell_out += bool(lost - removed)
                again += len(known.sides[side].keys() - before[side].keys()) > 0 and bool(removed)
        session.out.clear()
    assert again > 5
    assert fell_out > 5


def test_two_sessions_have_the_same_book_whenever_they_came(desk: Desk) -> None:
    first = subscribe(desk, "book", BTC, depth=25)
    mine, theirs = Reference(25), Reference(25)
    desk.run(3)
    second = subscribe(desk, "book", BTC, depth=25)
    desk.run(3)
    for session, book in ((first, mine), (second, theirs)):
        for document in said(session.out, "book"):
            book.apply(document["type"], document["data"][0])
    assert mine.sides == theirs.sides


def test_one_acknowledgement_a_symbol_then_the_snapshots(desk: Desk) -> None:
    session = desk.open("/v2")
    [status] = heard(session)
    assert (status["channel"], status["data"][0]["system"]) == ("status", "online")
    assert status["data"][0]["connection_id"] > 1 << 53, "no safe double"
    desk.tell(session, ask("subscribe", "book", BTC, "FOO/BAR", ETH, depth=10, req_id=7))
    acks = heard(session)
    assert [(a.get("result", {}).get("symbol"), a.get("success"), a.get("error")) for a in acks] == [
        (BTC, True, None),
        (None, False, "Currency pair not supported FOO/BAR"),
        (ETH, True, None),
        (None, None, None),
        (None, None, None),
    ]
    assert acks[0]["result"] == {"channel": "book", "depth": 10, "snapshot": True, "symbol": BTC}
    assert {a["req_id"] for a in acks[:3]} == {7}
    assert [*acks[0]] == ["method", "result", "success", "time_in", "time_out", "req_id"]
    assert [*acks[1]] == ["error", "method", "req_id", "success", "symbol", "time_in", "time_out"]
    assert acks[1]["symbol"] == "FOO/BAR"
    assert [a["type"] for a in acks[3:]] == ["snapshot", "snapshot"]


def test_a_depth_that_is_not_there_is_refused_and_the_socket_lives_on_empty(desk: Desk) -> None:
    session = subscribe(desk, "book", BTC, depth=27)
    [refusal] = heard(session)
    assert (refusal["success"], refusal["error"]) == (False, "Subscription depth not supported")
    assert [*refusal] == ["error", "method", "success", "time_in", "time_out"]
    desk.tell(session, ask("subscribe", "ticker", ETH))
    desk.run(5)
    assert session.close is None
    assert {document.get("channel", "ack") for document in heard(session)} == {"ack", "ticker", "heartbeat"}


def test_a_subscription_ends_and_begins_anew(desk: Desk) -> None:
    session = subscribe(desk, "book", BTC, depth=100)
    heard(session)
    assert desk.say(session, ask("unsubscribe", "book", BTC))["error"] == "Subscription Not Found", "depth 10"
    assert desk.say(session, ask("subscribe", "book", BTC, depth=100))["error"] == "Already subscribed"
    ended = desk.say(session, ask("unsubscribe", "book", BTC, depth=100, req_id=3))
    assert (ended["method"], ended["success"], ended["req_id"]) == ("unsubscribe", True, 3)
    desk.run(3)
    assert heard(session) == [], "not even a heartbeat"
    desk.tell(session, ask("subscribe", "book", BTC, depth=100))
    assert [document.get("type") for document in heard(session)][-1] == "snapshot"


def test_trades_are_those_of_the_tape_several_in_a_frame(desk: Desk) -> None:
    session = subscribe(desk, "trade", BTC, ETH)
    desk.run(30)
    frames = said(session.out, "trade")
    rows = [row for frame in frames for row in frame["data"]]
    assert max(len(frame["data"]) for frame in frames) > 2
    assert {frame["type"] for frame in frames} == {"update"}
    for symbol in ("BTC-USD", "ETH-USD"):
        mine = [row for row in rows if row["symbol"] == symbol.replace("-", "/")]
        tape = desk.house.by_symbol[symbol].trades(0, 1 << 62)
        assert [(r["trade_id"], r["side"]) for r in mine] == [(t.id, t.aggressor) for t in tape]
        assert [(Decimal(r["price"]), Decimal(r["qty"])) for r in mine] == [
            (Decimal(t.price), Decimal(t.size)) for t in tape
        ]
        assert {r["side"] for r in mine} == {"buy", "sell"}
    assert any(not row["qty"].endswith("0") and len(row["qty"]) < 10 for row in rows), "zeros are not kept"


def test_history_comes_only_to_who_asks_for_it(desk: Desk) -> None:
    desk.run(30)
    assert [d.get("channel") for d in heard(subscribe(desk, "trade", BTC))] == [None]
    ack, history = heard(subscribe(desk, "trade", BTC, snapshot=True))
    assert ack["result"]["snapshot"] is True
    last = desk.house.by_symbol["BTC-USD"].truth().next_trade - 1
    assert history["type"] == "snapshot"
    assert [row["trade_id"] for row in history["data"]] == list(range(last - 49, last + 1))


def test_tickers_follow_trades_or_the_best_prices(desk: Desk) -> None:
    empty = said(subscribe(desk, "ticker", BTC).out, "ticker")[0]["data"][0]
    assert (empty["bid"], empty["last"], empty["timestamp"]) == ("0", "0", "1970-01-01T00:00:00.000000Z")
    by_trade = subscribe(desk, "ticker", BTC)
    by_best = subscribe(desk, "ticker", BTC, event_trigger="bbo")
    desk.run(20)
    trades = [d["data"][0] for d in said(by_trade.out, "ticker") if d["type"] == "update"]
    best = [d["data"][0] for d in said(by_best.out, "ticker") if d["type"] == "update"]
    assert len(best) > len(trades) > 20
    last = trades[-1]
    tape = desk.house.by_symbol["BTC-USD"].trades(0, 1 << 62)
    told = [t for t in tape if t.ts <= nanoseconds(last["timestamp"])]
    assert Decimal(last["last"]) == Decimal(told[-1].price)
    assert Decimal(last["volume"]) == sum(Decimal(t.size) for t in told)
    assert Decimal(last["high"]) == max(Decimal(t.price) for t in told)
    assert int(last["trades"]) == len(told)


def test_a_heart_beats_each_second_once_anything_is_subscribed(desk: Desk) -> None:
    idle = desk.open("/v2")
    session = subscribe(desk, "trade", "DOGE/USD")
    heard(idle)
    desk.run(1)
    session.out.clear()
    desk.run(10)
    assert sum(document == {"channel": "heartbeat"} for document in heard(session)) == 10
    assert heard(idle) == []


def test_silence_of_everything_stops_hearts_and_of_one_symbol_does_not(desk: Desk) -> None:
    session = subscribe(desk, "trade", BTC)
    desk.fault("silence", session, symbol="BTC-USD")
    session.out.clear()
    desk.run(3)
    assert {document["channel"] for document in heard(session)} == {"heartbeat"}
    desk.fault("silence", session)
    desk.run(3)
    assert heard(session) == []


def test_pings_and_what_means_nothing_are_answered(desk: Desk) -> None:
    session = desk.open("/v2")
    pong = desk.say(session, '{"method":"ping","req_id":42}')
    assert [*pong] == ["method", "req_id", "time_in", "time_out"]
    assert (pong["method"], pong["req_id"]) == ("pong", 42)
    for text in ("{nonsense", "[1]", '{"method":1}', '{"params":[]}', '{"method":"buy"}'):
        assert desk.say(session, text)["success"] is False
    assert desk.say(session, ask("subscribe", "candles", BTC))["error"] == "Unsupported channel"
    assert session.close is None


def test_instruments_are_listed_with_exponents(desk: Desk) -> None:
    session = subscribe(desk, "instrument")
    raw = session.out[-1]
    assert b'"qty_increment":1e-8' in raw
    pairs = {pair["symbol"]: pair for pair in msgspec.json.decode(raw)["data"]["pairs"]}
    assert pairs["DOGE/USD"]["price_precision"] == 7
    assert pairs["BTC/TUSD"]["status"] == "cancel_only"


def test_rest_names_are_the_old_ones(desk: Desk) -> None:
    pairs = desk.get("/0/public/AssetPairs")["result"]
    assert {key: pair["wsname"] for key, pair in pairs.items()} == {
        "XXBTZUSD": "XBT/USD",
        "XETHZUSD": "ETH/USD",
        "XDGUSD": "XDG/USD",
        "XBTTUSD": "XBT/TUSD",
    }
    assert pairs["XXBTZUSD"]["tick_size"] == "0.1"
    assert [*desk.get("/0/public/AssetPairs", pair="XBTUSD,XDG/USD")["result"]] == ["XXBTZUSD", "XDGUSD"]
    assert desk.get("/0/public/AssetPairs", pair="FOOBAR") == {"error": ["EQuery:Unknown asset pair"]}
    assert desk.ask("/0/public/Nothing").status == 404


def test_every_rest_name_is_the_recorded_one() -> None:
    [row] = recording("kraken/spot-http-assetpairs")
    recorded = {pair.get("wsname"): key for key, pair in msgspec.json.decode(row["raw"])["result"].items()}
    ours = {pair["wsname"]: key for key, pair in Desk("kraken").get("/0/public/AssetPairs")["result"].items()}
    both = ours.keys() & recorded.keys()
    assert {"XBT/USD", "XDG/USD", "XRP/USD", "LTC/USD", "EUR/USD", "ETH/XBT", "XBT/USDT"} <= both
    assert {name: ours[name] for name in both} == {name: recorded[name] for name in both}


def test_past_trades_are_those_later_than_asked_for_oldest_first(desk: Desk) -> None:
    desk.run(60)
    path = "/0/public/Trades"
    tape = desk.house.by_symbol["BTC-USD"].trades(0, 1 << 62)
    since = tape[10].ts
    answer = desk.get(path, pair="XBTUSD", since=str(since), count="20")["result"]
    wanted = [t for t in tape if t.ts > since][:20]
    assert [(str(row[6]), row[0], row[3]) for row in answer["XXBTZUSD"]] == [
        (t.id, t.price, t.aggressor[0]) for t in wanted
    ]
    assert answer["last"] == str(wanted[-1].ts)
    assert [row[6] for row in desk.get(path, pair="XBTUSD", count="3")["result"]["XXBTZUSD"]] == [
        int(t.id) for t in tape[-3:]
    ]
    assert desk.get(path, pair="NOPE")["error"]


def test_a_client_that_says_too_much_is_told_so_and_stays(desk: Desk) -> None:
    session = desk.open("/v2")
    session.out.clear()
    desk.house.limits["messages"] = 3
    for _ in range(4):
        hear(desk.venue, session, '{"method":"ping"}', desk.now)
    assert heard(session)[-1] == {"Error": "Exceeded msg rate"}
    assert session.close is None


def test_connection_attempts_are_limited_and_paths_too(desk: Desk) -> None:
    assert isinstance(desk.knock("/v1"), Reply)
    desk.house.limits["connects"] = 2
    desk.now += 300 * S
    desk.open("/v2")
    refused = desk.knock("/v2")
    assert isinstance(refused, Reply)
    assert refused.status == 429
    desk.now += 599 * S
    still = desk.knock("/v2")
    assert isinstance(still, Reply), "banned for ten minutes"
    assert still.headers["Retry-After"] == "1"
    desk.now += 2 * S
    desk.open("/v2")


def test_a_refused_an_unlisted_and_a_silent_symbol(desk: Desk) -> None:
    for kind, symbol in (("refuse", "BTC-USD"), ("unlist", "ETH-USD"), ("silent_ack", "DOGE-USD")):
        desk.fault(kind, symbol=symbol)
    session = subscribe(desk, "book", BTC, ETH, "DOGE/USD")
    assert [(a["success"], a.get("error")) for a in heard(session)] == [
        (False, "Subscription refused"),
        (False, "Currency pair not supported ETH/USD"),
        (True, None),
    ]
    desk.run(5)
    assert {document["channel"] for document in heard(session)} == {"heartbeat"}
    assert "XETHZUSD" not in desk.get("/0/public/AssetPairs")["result"]


def test_a_subscription_is_honoured_and_not_answered(desk: Desk) -> None:
    desk.fault("no_ack")
    session = subscribe(desk, "book", BTC)
    assert [document["channel"] for document in heard(session)] == ["book"]


def test_a_wrong_checksum_is_wrong_once_and_a_shutdown_is_announced(desk: Desk) -> None:
    session = subscribe(desk, "book", BTC)
    desk.fault("checksum", session, symbol="BTC-USD")
    book = Reference(10)
    wrong = 0
    desk.run(5)
    for document in said(session.out, "book"):
        book.apply(document["type"], document["data"][0])
        wrong += book.checksum() != int(document["data"][0]["checksum"])
    assert wrong == 1
    session.out.clear()
    desk.venue.announce(session, desk.now)
    assert heard(session)[0]["data"][0]["system"] == "maintenance"


@pytest.mark.parametrize(("how", "wrong"), [("nan", '"NaN"'), ("negative", "-"), ("number", '"')])
def test_bare_numbers_can_be_damaged_too(desk: Desk, how: str, wrong: str) -> None:
    session = subscribe(desk, "trade", BTC)
    session.out.clear()
    desk.fault("corrupt", session, how=how)
    desk.run(5)
    prices = [re.search(rb'"price":([^,]+),', frame) for frame in session.out if b'"trade"' in frame]
    hurt = [m.group(1).decode() for m in prices if m is not None and not m.group(1)[:1].isdigit()]
    assert len(hurt) == 1
    assert hurt[0].startswith(wrong)
