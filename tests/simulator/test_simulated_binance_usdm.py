"""Binance USD-M's words: what a client sees of the simulated venue, without a socket."""

from itertools import groupby, pairwise
from typing import Any

import msgspec
import pytest
from simulator_rig import MS, Desk, S, heard
from venue_rig import Chain

from actors.model.events import Funding, Gap, Liquidation, OpenInterest
from actors.simulator.book import Forgotten
from actors.simulator.session import Reply, Session


@pytest.fixture
def desk() -> Desk:
    return Desk("binance_usdm", "BTC-USDT-PERP", "ETH-USDT-PERP")


def subscribe(desk: Desk, path: str, *streams: str) -> Session:
    session = desk.open(path)
    text = msgspec.json.encode({"method": "SUBSCRIBE", "params": streams, "id": 7}).decode()
    assert desk.say(session, text) == {"result": None, "id": 7}
    return session


def data(session: Session) -> list[dict[str, Any]]:
    return [frame["data"] for frame in heard(session)]


def assert_sent_later(frames: list[dict[str, Any]]) -> None:
    """Assert that the time of sending is not the time of the match, so that nobody confuses them unseen."""
    lags = {frame["E"] - frame["T"] for frame in frames}
    assert lags <= {0, 1, 2, 3}
    assert lags != {0}


def test_a_stream_on_the_wrong_route_is_acknowledged_and_silent(desk: Desk) -> None:
    public, market = (
        ("btcusdt@depth@100ms", "btcusdt@bookTicker"),
        ("btcusdt@aggTrade", "btcusdt@markPrice@1s"),
    )
    sessions = {
        path: subscribe(desk, path, *public, *market)
        for path in ("/public/stream", "/market/stream", "/stream")
    }
    desk.run(30)
    kinds = {path: {frame["e"] for frame in data(session)} for path, session in sessions.items()}
    assert kinds == {
        "/public/stream": {"depthUpdate", "bookTicker"},
        "/market/stream": {"aggTrade", "markPriceUpdate"},
        "/stream": {"depthUpdate", "bookTicker"},  # as before 2026-04, and no more
    }
    bare = desk.open("/market/ws/btcusdt@aggTrade")
    desk.run(30)
    assert {frame["e"] for frame in heard(bare)} == {"aggTrade"}
    for path in ("/private/stream", "/public", "/public/nothing"):
        assert isinstance(desk.knock(path), Reply)


def test_changes_point_back_and_never_count_on_and_make_the_true_book_of_a_snapshot(desk: Desk) -> None:
    session = subscribe(desk, "/public/stream", "btcusdt@depth@100ms")
    desk.run(2)
    whole = desk.get("/fapi/v1/depth", symbol="BTCUSDT", limit="1000")
    desk.run(20)
    frames = data(session)
    assert all(after["pu"] == before["u"] for before, after in pairwise(frames))
    assert all(frame["pu"] + 1 < frame["U"] <= frame["u"] for frame in frames)
    assert {(frame["st"], frame["ps"]) for frame in frames} == {(1, "BTCUSDT")}
    assert_sent_later(frames)
    at = whole["lastUpdateId"]
    later = [frame for frame in frames if frame["u"] >= at]
    assert later[0]["U"] <= at <= later[0]["u"] or later[0]["pu"] == at
    sides = {"b": dict(whole["bids"]), "a": dict(whole["asks"])}
    for frame in later:
        for side, levels in sides.items():
            levels.update(frame[side])
    shop = desk.house.by_symbol["BTC-USDT-PERP"]
    with pytest.raises(Forgotten, match="no change of BTC-USDT-PERP has number"):
        shop.book(frames[-1]["u"] + 1)  # another book's
    truth = shop.book(frames[-1]["u"])
    for side, rows in (("b", truth.bids), ("a", truth.asks)):
        assert {price: size for price, size in sides[side].items() if float(size)} == dict(rows)


def test_each_speed_of_depth_has_a_chain_of_its_own(desk: Desk) -> None:
    names = {
        f"btcusdt@{kind}": most for kind, most in {"depth": 4, "depth@100ms": 10, "depth@500ms": 2}.items()
    }
    session = subscribe(desk, "/public/stream", *names)
    desk.run(3, 0.05)
    session.out.clear()
    desk.run(10, 0.05)
    told = {name: [*rows] for name, rows in groupby(sorted(heard(session), key=_stream), key=_stream)}
    for name, most in names.items():
        frames = [each["data"] for each in told[name]]
        assert 5 * most < len(frames) <= 10 * most
        assert all(after["pu"] == before["u"] for before, after in pairwise(frames))


def _stream(frame: dict[str, Any]) -> str:
    return frame["stream"]


def test_aggregates_count_on_and_the_same_ones_are_given_by_rest(desk: Desk) -> None:
    session = subscribe(desk, "/market/stream", "btcusdt@aggTrade")
    desk.run(60)
    trades = data(session)
    tape = desk.house.by_symbol["BTC-USDT-PERP"].trades(0, 1 << 62)
    assert [(str(t["a"]), t["p"], t["q"], "sell" if t["m"] else "buy") for t in trades] == [
        (t.id, t.price, t.size, t.aggressor) for t in tape
    ]
    assert all(after["f"] > before["l"] >= before["f"] for before, after in pairwise(trades))
    assert {t["l"] - t["f"] for t in trades} == {0, 1, 2}
    assert {t["st"] for t in trades} == {1}
    assert [*trades[0]] == ["e", "E", "s", "a", "p", "q", "nq", "f", "l", "T", "m", "st"]
    assert all(0 < float(t["nq"]) <= float(t["q"]) for t in trades)
    assert 0 < sum(t["nq"] != t["q"] for t in trades) < len(trades), "some met retail improvement"
    assert_sent_later(trades)
    first = trades[3]["a"]
    past = desk.get("/fapi/v1/aggTrades", symbol="BTCUSDT", fromId=str(first), limit="2")
    assert [(row["a"], row["p"], row["q"], row["m"]) for row in past] == [
        (t["a"], t["p"], t["q"], t["m"]) for t in trades[3:5]
    ]


def test_marks_come_each_second_and_tickers_each_two_without_best_prices(desk: Desk) -> None:
    session = subscribe(desk, "/market/stream", "btcusdt@markPrice@1s", "btcusdt@markPrice", "btcusdt@ticker")
    best = subscribe(desk, "/public/stream", "btcusdt@bookTicker")
    desk.run(60)
    frames = data(session)
    marks = [frame for frame in frames if frame["e"] == "markPriceUpdate"]
    days = [frame for frame in frames if frame["e"] == "24hrTicker"]
    assert 78 <= len(marks) <= 82  # 60 and 20, and what the moment of asking adds
    assert 28 <= len(days) <= 32
    assert not {"b", "B", "a", "A"} & set(days[-1])
    assert marks[-1]["T"] % (8 * 3600 * 1000) == 0
    assert marks[-1]["T"] * MS > desk.now
    assert abs(float(marks[-1]["p"]) / float(marks[-1]["i"]) - 1) < 0.01
    tops = data(best)
    assert {(top["e"], top["st"]) for top in tops} == {("bookTicker", 1)}
    assert [*tops[0]] == ["e", "u", "s", "b", "B", "a", "A", "T", "E", "ps", "st"]
    assert_sent_later(tops)
    assert all(after["u"] > before["u"] for before, after in pairwise(tops))
    assert all(float(top["b"]) < float(top["a"]) for top in tops)


def test_of_a_second_s_liquidations_the_largest_is_told_and_its_side_is_the_order_s(desk: Desk) -> None:
    session = subscribe(desk, "/market/stream", "btcusdt@forceOrder", "ethusdt@forceOrder")
    shop = desk.house.by_symbol["BTC-USDT-PERP"]
    desk.run(300)
    orders = [frame["o"] for frame in data(session) if frame["o"]["s"] == "BTCUSDT"]
    truth = shop.live.perpetual
    assert truth is not None
    by_second: dict[int, list[Any]] = {}
    for forced in truth.forced_since(0):
        if forced.filled:
            by_second.setdefault(-(-forced.ts // S), []).append(forced)
    assert len(orders) == len(by_second) > 20
    for order, (_, there) in zip(orders, by_second.items(), strict=True):
        largest = max(there, key=lambda forced: forced.filled)
        assert (order["z"], order["q"]) == (
            shop.size(largest.filled).decode(),
            shop.size(largest.size).decode(),
        )
        assert order["S"] == ("BUY" if largest.sign > 0 else "SELL")
        assert order["X"] == ("FILLED" if largest.filled == largest.size else "PARTIALLY_FILLED")
        assert order["st"] == 1
        assert float(order["ap"]) > 0
        assert 0 < float(order["l"]) <= float(order["z"]) <= float(order["q"])
    assert {order["S"] for order in orders} == {"BUY", "SELL"}
    assert {order["l"] == order["z"] for order in orders} == {True, False}


def test_instruments_books_and_open_interest_are_given_within_a_weight(desk: Desk) -> None:
    listed = {row["symbol"]: row for row in desk.get("/fapi/v1/exchangeInfo")["symbols"]}
    assert {name: row["contractType"] for name, row in listed.items()} == {
        "BTCUSDT": "PERPETUAL",
        "BTCUSDT_261225": "CURRENT_QUARTER",
        "ETHUSDT": "PERPETUAL",
    }
    desk.run(5)
    first = desk.get("/fapi/v1/openInterest", symbol="BTCUSDT")
    desk.run(1)
    assert desk.get("/fapi/v1/openInterest", symbol="BTCUSDT") == first  # counted anew every few seconds only
    desk.run(5)
    assert desk.get("/fapi/v1/openInterest", symbol="BTCUSDT")["time"] > first["time"]
    for path, query, code in (
        ("/fapi/v1/depth", {"symbol": "NOPE"}, -1121),
        ("/fapi/v1/openInterest", {}, -1102),
        ("/fapi/v1/depth", {"symbol": "BTCUSDT", "limit": "7"}, -4021),
    ):
        refused = desk.ask(path, **query)
        assert (refused.status, msgspec.json.decode(refused.body)["code"]) == (400, code)
    desk.now += 60 * S
    replies = [desk.ask("/fapi/v1/depth", symbol="BTCUSDT", limit="1000") for _ in range(132)]
    assert [reply.status for reply in replies] == [200] * 120 + [429] * 10 + [418] * 2
    assert replies[119].headers["X-MBX-USED-WEIGHT-1M"] == "2400"
    assert int(replies[-1].headers["Retry-After"]) > 60


def test_a_lost_change_is_found_and_a_stale_snapshot_is_asked_for_again() -> None:
    chain = Chain("binance_usdm", "BTC-USDT-PERP")
    chain.run(3)
    chain.fault("gap", channel="book")
    chain.desk.fault("stale_snapshot", symbol="BTC-USDT-PERP", back=300, for_s=3)
    chain.run(3)
    assert chain.states["BTC-USDT-PERP"][-1] == "resyncing"
    chain.desk.faults.clear()
    chain.run(8)
    assert chain.states["BTC-USDT-PERP"][-2:] == ["resyncing", "live"]
    assert [(gap.channel, gap.cause) for gap in chain.of(Gap)] == [("book", "sequence")]


def test_liquidations_funding_and_open_interest_reach_whoever_reads() -> None:
    chain = Chain("binance_usdm", "BTC-USDT-PERP")
    chain.run(120)
    forced = {(each.side, each.position) for each in chain.of(Liquidation)}
    assert forced
    assert forced <= {("sell", "long"), ("buy", "short")}
    funding = chain.of(Funding)[-1]
    assert None not in (funding.rate, funding.mark, funding.index, funding.next_ts)
    times = [each.ts_event for each in chain.of(OpenInterest)]
    assert len(times) == len(set(times)) > 5
    assert not chain.dead
