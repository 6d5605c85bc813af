"""OKX's words: what a client sees of the simulated venue, without a socket."""

import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from simulator_rig import MS, START, Desk, S, heard

from actors.simulator import okx_stands
from actors.simulator.session import Reply, Session

PUBLIC = "/ws/v5/public"
SPOT, PERP, COIN = "BTC-USDT", "BTC-USDT-SWAP", "BTC-USD-SWAP"


@pytest.fixture
def desk() -> Desk:
    return Desk("okx", "BTC-USDT", "ETH-USDT", "BTC-USDT-PERP", "BTC-USD-PERP")


def ask(desk: Desk, session: Session, op: str, *args: dict[str, str], number: str | None = "1") -> list[Any]:
    """Send a request; return what came at once."""
    session.out.clear()
    head = {} if number is None else {"id": number}
    desk.tell(session, msgspec.json.encode({**head, "op": op, "args": list(args)}).decode())
    return heard(session)


def of(channel: str, inst: str) -> dict[str, str]:
    return {"channel": channel, "instType" if inst == "SWAP" else "instId": inst}


def listening(desk: Desk, *args: dict[str, str]) -> tuple[Session, list[Any]]:
    session = desk.open(PUBLIC)
    return session, ask(desk, session, "subscribe", *args)


def data(documents: list[Any], channel: str) -> list[Any]:
    return [
        {**row, "action": document.get("action")}
        for document in documents
        if document.get("arg", {}).get("channel") == channel
        for row in document.get("data", ())
    ]


# -- the book


class Reader:
    """What the documents tell a client to do."""

    def __init__(self) -> None:
        self.sides: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}
        self.seq = -1

    def take(self, row: dict[str, Any]) -> None:
        if row["action"] == "snapshot":
            assert row["prevSeqId"] == -1
            self.sides = {"bids": {}, "asks": {}}
        else:
            assert row["prevSeqId"] == self.seq
        assert row["checksum"] == 0
        self.seq = row["seqId"]
        for side, levels in self.sides.items():
            for price, size, deprecated, orders in row[side]:
                assert deprecated == "0"
                assert (orders == "0") == (size == "0")
                if size == "0":
                    del levels[price]
                else:
                    levels[price] = size

    def best(self) -> dict[str, list[tuple[str, str]]]:
        bids = sorted(self.sides["bids"].items(), key=lambda level: -float(level[0]))
        return {"bids": bids, "asks": sorted(self.sides["asks"].items(), key=lambda level: float(level[0]))}


@pytest.mark.parametrize(("inst", "symbol"), [(SPOT, "BTC-USDT"), (PERP, "BTC-USDT-PERP")])
def test_a_book_of_400_levels_and_500_updates_is_the_truth_at_each(inst: str, symbol: str) -> None:
    desk = Desk("okx", symbol)
    session, told = listening(desk, of("books", inst))
    reader, applied, widest = Reader(), 0, 0
    shop = desk.house.by_symbol[symbol]
    for _ in range(570):
        for row in data(told, "books"):
            reader.take(row)
            truth = shop.book(reader.seq, 400)
            assert reader.best() == {"bids": truth.bids, "asks": truth.asks}
            applied += 1
            widest = max(widest, *map(len, reader.sides.values()))
        desk.run(0.1)
        told = heard(session)
    assert applied >= 500
    assert widest == 400


@pytest.mark.parametrize("depth", [5, 70])
def test_what_leaves_the_best_levels_is_removed_and_what_enters_them_told(
    monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    monkeypatch.setattr(okx_stands, "DEPTH", depth)  # of a market that has some 70 levels a side
    desk = Desk("okx", "XRP-USDT")
    session, told = listening(desk, of("books", "XRP-USDT"))
    reader, widths = Reader(), set[int]()
    for _ in range(400):
        for row in data(told, "books"):
            reader.take(row)
        truth = desk.house.by_symbol["XRP-USDT"].book(reader.seq, depth)
        assert reader.best() == {"bids": truth.bids, "asks": truth.asks}
        widths |= {*map(len, reader.sides.values())}
        desk.run(0.1)
        told = heard(session)
    assert max(widths) == depth
    assert (len(widths) > 1) == (depth > 5)


def test_who_comes_later_joins_the_same_numbers(desk: Desk) -> None:
    first, _ = listening(desk, of("books", SPOT))
    desk.run(1.05, 0.05)
    heard(first)
    second, told = listening(desk, of("books", SPOT))
    reader = Reader()
    desk.run(2)
    for row in data(told, "books") + data(heard(second), "books"):
        reader.take(row)
    early = data(heard(first), "books")
    assert early[-1]["seqId"] == reader.seq
    assert {row["seqId"] for row in early} > {reader.seq}


def test_a_quiet_book_is_kept_alive_each_minute_and_a_resting_top_said_again(desk: Desk) -> None:
    session, told = listening(desk, of("books", SPOT), of("bbo-tbt", SPOT))
    seq = data(told, "books")[0]["seqId"]
    for _ in range(130):
        desk.now += S
        desk.venue.publish(desk.now)
    told = heard(session)
    assert [(r["prevSeqId"], r["seqId"], r["bids"], r["asks"]) for r in data(told, "books")] == [
        (seq, seq, [], [])
    ] * 2
    assert len(data(told, "bbo-tbt")) == 3, "once after it moved, and each minute"


def test_after_maintenance_the_numbers_begin_anew_and_the_book_goes_on(desk: Desk) -> None:
    session, told = listening(desk, of("books", SPOT), of("trades", SPOT))
    reader = Reader()
    desk.run(2)
    desk.fault("renumber", symbol="BTC-USDT")
    desk.run(5)
    rows = data(told + heard(session), "books")
    for row in rows:
        reader.take(row)
    resets = [row for row in rows if row["action"] == "update" and row["seqId"] < row["prevSeqId"]]
    assert len(resets) == 1
    assert reader.seq < START // 1000
    truth = desk.house.by_symbol["BTC-USDT"].book(reader.seq, 400)
    assert reader.best() == {"bids": truth.bids, "asks": truth.asks}


def test_the_best_bid_and_offer_share_the_numbers_of_the_book(desk: Desk) -> None:
    session, told = listening(desk, of("bbo-tbt", PERP))
    desk.run(10, 0.01)
    tops = data(told + heard(session), "bbo-tbt")
    assert len(tops) > 20
    assert [t["seqId"] for t in tops] == sorted({t["seqId"] for t in tops})
    for top in tops:
        truth = desk.house.by_symbol["BTC-USDT-PERP"].book(top["seqId"], 1)
        assert [tuple(level[:2]) for level in top["bids"] + top["asks"]] == truth.bids + truth.asks


# -- trades and tickers


@pytest.mark.parametrize(("inst", "symbol"), [(SPOT, "BTC-USDT"), (PERP, "BTC-USDT-PERP")])
def test_trades_stand_for_all_fills_of_one_order_at_one_price(desk: Desk, inst: str, symbol: str) -> None:
    session, _ = listening(desk, of("trades", inst))
    desk.run(60)
    trades = data(heard(session), "trades")
    shop = desk.house.by_symbol[symbol]
    assert max(int(t["count"]) for t in trades) > 1
    assert {t["side"] for t in trades} == {"buy", "sell"}
    for before, after in pairwise(trades):
        assert int(after["tradeId"]) == int(before["tradeId"]) + int(after["count"])
    for told in trades:
        last, count = int(told["tradeId"]), int(told["count"])
        fills = shop.trades(last - count + 1, last)
        assert {(f.price, f.aggressor, f.ts // MS) for f in fills} == {
            (told["px"], told["side"], int(told["ts"]))
        }
        assert sum(Decimal(f.size) for f in fills) == Decimal(told["sz"])
        assert shop.truth().oldest <= told["seqId"] <= shop.truth().newest


def test_rest_gives_the_single_fills_newest_first(desk: Desk) -> None:
    desk.run(30)
    shop = desk.house.by_symbol["BTC-USDT-PERP"]
    last = shop.truth().next_trade
    rows = desk.get("/api/v5/market/history-trades", instId=PERP, type="1", after=str(last - 5), limit="3")
    assert [int(row["tradeId"]) for row in rows["data"]] == [last - 6, last - 7, last - 8]
    (true,) = shop.trades(last - 6, last - 6)
    assert rows["data"][0] == {
        "instId": PERP, "side": true.aggressor, "sz": true.size, "source": "0", "px": true.price,
        "tradeId": true.id, "ts": str(true.ts // MS),
    }  # fmt: skip
    assert len(desk.get("/api/v5/market/history-trades", instId=PERP)["data"]) == min(
        100, last - shop.truth().first_trade
    )


def test_the_latest_trade_and_the_ticker_come_with_the_subscription(desk: Desk) -> None:
    session, told = listening(desk, of("trades", SPOT), of("tickers", SPOT))
    assert data(told, "trades") == []
    assert data(told, "tickers")[0]["last"] == ""
    desk.run(20)
    trades = data(heard(session), "trades")
    _, told = listening(desk, of("trades", SPOT), of("tickers", SPOT))
    assert data(told, "trades") == trades[-1:]
    assert data(told, "tickers")[0]["last"] == trades[-1]["px"]


@pytest.mark.parametrize("inst", [SPOT, PERP, COIN])
def test_the_volumes_of_a_day_are_of_base_and_quote_or_contracts_and_base(desk: Desk, inst: str) -> None:
    session, _ = listening(desk, of("tickers", inst), of("trades", inst))
    desk.run(60)
    told = heard(session)
    last = data(told, "tickers")[-1]
    trades = [(Decimal(t["px"]), Decimal(t["sz"])) for t in data(told, "trades")]
    assert Decimal(last["vol24h"]) == sum(size for _, size in trades)
    money = {
        SPOT: sum(price * size for price, size in trades),
        PERP: sum(size for _, size in trades) * Decimal("0.01"),
        COIN: sum(size * 100 / price for price, size in trades),
    }[inst]
    assert float(last["volCcy24h"]) == pytest.approx(float(money), rel=1e-5)
    assert last["instType"] == ("SPOT" if inst == SPOT else "SWAP")


# -- swaps


def test_interest_rate_mark_and_index_come_at_once_and_at_their_pace(desk: Desk) -> None:
    args = [of(c, PERP) for c in ("open-interest", "funding-rate", "mark-price")] + [
        of("index-tickers", SPOT)
    ]
    session, told = listening(desk, *args)
    assert [len(data(told, arg["channel"])) for arg in args] == [1, 1, 1, 1]
    desk.run(60)
    swap = desk.house.by_symbol["BTC-USDT-PERP"].live.perpetual
    assert swap is not None
    told = heard(session)
    interest, rate, mark, index = ([*data(told, arg["channel"])] for arg in args)
    assert (2 <= len(rate) <= 3, 10 <= len(interest) <= 21, 100 < len(mark) <= 301) == (True, True, True)
    last = interest[-1]
    assert Decimal(last["oiCcy"]) == Decimal(last["oi"]) * Decimal("0.01"), "contracts times ctVal, exactly"
    assert float(last["oiUsd"]) == pytest.approx(float(last["oiCcy"]) * float(index[-1]["idxPx"]), rel=0.01)
    assert float(mark[-1]["markPx"]) == round(swap.mark) / 10
    assert rate[-1]["instId"] == PERP
    assert float(rate[-1]["fundingRate"]) == pytest.approx(swap.rate, abs=1e-4)
    eight_hours = 8 * 3600 * 1000
    assert int(rate[-1]["fundingTime"]) == START // MS + eight_hours
    assert int(rate[-1]["nextFundingTime"]) == START // MS + 2 * eight_hours
    assert all(len(row["fundingRate"].partition(".")[2]) == 16 for row in rate)


def test_liquidations_of_all_swaps_come_by_their_type_some_of_each_in_a_second(desk: Desk) -> None:
    session, told = listening(desk, of("liquidation-orders", "SWAP"))
    assert data(told, "liquidation-orders") == []
    desk.run(240)
    frames = heard(session)
    assert {len(frame["data"]) for frame in frames} == {1, 2}, "of one swap, and of both"
    rows = data(frames, "liquidation-orders")
    assert {row["instId"] for row in rows} == {PERP, COIN}
    assert {len(row["details"]) for row in rows} == {1, 2}
    true = {
        (listing.native, each.price, each.contracts, each.ts // MS): each
        for shop in desk.house.by_symbol.values()
        for each in shop.liquidations()
        if (listing := shop.listing)
    }
    positions: set[str] = set()
    for row in rows:
        assert row["instFamily"] == row["uly"] == row["instId"].removesuffix("-SWAP")
        for detail in row["details"]:
            each = true[row["instId"], detail["bkPx"], detail["sz"], int(detail["ts"])]
            assert detail["side"] == each.side
            assert detail["posSide"] in (each.position, "net")
            assert (each.side, each.position) in (("sell", "long"), ("buy", "short"))
            positions.add(detail["posSide"])
    assert positions == {"long", "short", "net"}
    perps = [int(row["details"][0]["ts"]) for row in rows if row["instId"] == PERP]
    assert len(perps) > 5
    assert len({ts // 1000 for ts in perps}) == len(perps)
    _, told = listening(desk, of("liquidation-orders", "SWAP"))
    assert told[1:] == frames[-1:], "whoever comes is told an old one"


def test_the_truth_of_liquidations_is_in_contracts_and_base_currency(desk: Desk) -> None:
    desk.run(240)
    (*_, last) = desk.house.by_symbol["BTC-USDT-PERP"].liquidations()
    assert Decimal(last.size) == Decimal(last.contracts) * Decimal("0.01")
    (*_, coin) = desk.house.by_symbol["BTC-USD-PERP"].liquidations()
    assert float(coin.size) == pytest.approx(float(coin.contracts) * 100 / float(coin.price))
    assert desk.house.by_symbol["BTC-USDT-PERP"].liquidations(int(last.id)) == [last]
    assert desk.house.by_symbol["BTC-USDT"].liquidations() == []


# -- the socket


def test_each_argument_is_answered_by_itself_and_a_wrong_one_costs_the_others_nothing(desk: Desk) -> None:
    wrong, swap_only = of("books", "NO-COIN"), {"channel": "liquidation-orders", "instId": PERP}
    extra = {**of("liquidation-orders", "SWAP"), "instFamily": "BTC-USDT"}
    told = listening(desk, wrong, of("trades", SPOT), swap_only, extra)[1]
    assert [each.get("event") for each in told] == ["error", "subscribe", "error", "subscribe"]
    assert told[0] == {
        "id": "1", "event": "error", "code": "60018",
        "msg": "Wrong URL or channel:books,instId:NO-COIN doesn't exist. Please use the correct URL, "
        "channel and parameters referring to API document.", "connId": "00000001",
    }  # fmt: skip
    assert told[1] == {"id": "1", "event": "subscribe", "arg": of("trades", SPOT), "connId": "00000001"}
    assert "channel:liquidation-orders,instId:BTC-USDT-SWAP doesn't exist" in told[2]["msg"]
    assert told[3]["arg"] == of("liquidation-orders", "SWAP"), "what counts for nothing is not echoed"


def test_an_error_without_an_id_has_its_text_before_its_code(desk: Desk) -> None:
    session = desk.open(PUBLIC)
    (known,) = ask(desk, session, "subscribe", of("books", "NO-COIN"))
    assert list(known) == ["id", "event", "code", "msg", "connId"]
    (nameless,) = ask(desk, session, "subscribe", of("books", "NO-COIN"), number=None)
    assert list(nameless) == ["event", "msg", "code", "connId"], "as recorded"


def test_on_every_third_connection_data_comes_before_its_answer(desk: Desk) -> None:
    first = [listening(desk, of("books", SPOT))[1][0] for _ in range(3)]
    assert [each.get("event") for each in first] == ["subscribe", "subscribe", None]
    assert first[2]["action"] == "snapshot"


def test_an_answer_without_an_id_has_none_and_what_is_ended_is_silent_until_it_begins_anew(
    desk: Desk,
) -> None:
    session = desk.open(PUBLIC)
    assert "id" not in ask(desk, session, "subscribe", of("books", SPOT), number=None)[0]
    assert ask(desk, session, "subscribe", of("books", SPOT))[1:] == [], "no second snapshot"
    (ended,) = ask(desk, session, "unsubscribe", of("books", SPOT), number="b2")
    assert (ended["event"], ended["id"], ended["arg"]) == ("unsubscribe", "b2", of("books", SPOT))
    desk.run(1)
    assert heard(session) == []
    assert session.topics == {}
    assert ask(desk, session, "subscribe", of("books", SPOT))[1]["action"] == "snapshot"


ERRORS = [
    ("{nonsense", "60012", "Invalid request: {nonsense"),
    ('{"op":"subscribe","argss":[]}', "60012", "Invalid request: "),
    ('{"op":"subscribe","args":"books"}', "60012", "Invalid request: "),
    ('{"op":"subscribe","args":[]}', "60013", "Invalid args"),
    ('{"op":"buy","args":[]}', "60019", "Invalid op: buy"),
    ('{"op":"subscribe","id":"a-b","args":[]}', "60033", "Parameter id error."),
    (f'{{"op":"subscribe","id":"{"a" * 33}","args":[]}}', "60033", "Parameter id error."),
    ('{"op":"subscribe","args":[{"instId":"BTC-USDT"}]}', "60027", "Parameter channel can not be empty."),
    ('{"op":"subscribe","args":[{"channel":"books-l2-tbt","instId":"BTC-USDT"}]}', "60011", "Please log in"),
    ('{"op":"subscribe","args":[{"channel":"trades-all","instId":"BTC-USDT"}]}', "64001", "migrated"),
    ('{"op":"subscribe","args":[{"channel":"candle1m","instId":"BTC-USDT"}]}', "64001", "migrated"),
    ('{"op":"subscribe","args":[{"channel":"funding-rate","instId":"BTC-USDT"}]}', "60018", "Wrong URL"),
]


@pytest.mark.parametrize(("text", "code", "words"), ERRORS)
def test_wrong_requests_get_the_documented_error(desk: Desk, text: str, code: str, words: str) -> None:
    answer = desk.say(desk.open(PUBLIC), text)
    assert (answer["event"], answer["code"]) == ("error", code)
    assert answer["msg"].startswith(words) or words in answer["msg"]


def test_a_bare_ping_is_answered_by_a_bare_pong(desk: Desk) -> None:
    session = desk.open(PUBLIC)
    desk.tell(session, "ping")
    assert session.out == [b"pong"]


def test_more_than_480_requests_an_hour_are_refused_and_pings_are_none(desk: Desk) -> None:
    session = desk.open(PUBLIC)
    for _ in range(480):
        ask(desk, session, "unsubscribe", of("trades", SPOT))
        desk.tell(session, "ping")
    (refused,) = ask(desk, session, "subscribe", of("trades", SPOT))
    assert (refused["code"], refused["msg"]) == ("60014", "Requests too frequent")
    assert ask(desk, desk.open(PUBLIC), "subscribe", of("trades", SPOT))[0]["event"] == "subscribe"
    desk.now += 3600 * S
    assert ask(desk, session, "subscribe", of("trades", SPOT))[0]["event"] == "subscribe"


def test_a_request_that_is_too_long_ends_the_connection(desk: Desk) -> None:
    session = desk.open(PUBLIC)
    ask(desk, session, "subscribe", *[of("trades", SPOT)] * 2000)
    assert session.close == (1009, "Request message exceeds the maximum frame length")


def test_a_service_upgrade_is_announced_and_other_paths_are_not_served(desk: Desk) -> None:
    session = desk.open(PUBLIC)
    desk.venue.announce(session, desk.now)
    (notice,) = heard(session)
    assert (notice["event"], notice["code"]) == ("notice", "64008")
    assert "service upgrade" in notice["msg"]
    desk.now += S
    assert desk.knock("/ws/v5/private") == Reply(404)


def test_the_fourth_connection_of_a_second_is_refused(desk: Desk) -> None:
    assert [isinstance(desk.knock(PUBLIC), Session) for _ in range(4)] == [True, True, True, False]
    desk.now += S
    assert isinstance(desk.knock(PUBLIC), Session)


# -- faults


@pytest.mark.parametrize(
    ("kind", "answers", "data_comes"),
    [("refuse", ["error"], False), ("unlist", ["error"], False), ("silent_ack", ["subscribe"], False),
     ("no_ack", [], True)],
)  # fmt: skip
def test_a_subscription_can_be_refused_silent_or_not_acknowledged(
    desk: Desk, kind: str, answers: list[str], data_comes: bool
) -> None:
    desk.fault(kind, **({} if kind == "no_ack" else {"symbol": "BTC-USDT"}))
    session, told = listening(desk, of("books", SPOT))
    assert [each["event"] for each in told if "event" in each] == answers
    desk.run(2)
    assert bool(data(told + heard(session), "books")) == data_comes
    if kind != "no_ack":
        assert len(ask(desk, session, "subscribe", of("books", "ETH-USDT"))) == 2


def test_a_crossed_book_has_a_bid_that_is_not_there(desk: Desk) -> None:
    session, _ = listening(desk, of("books", SPOT), of("trades", SPOT))
    desk.fault("crossed", session, count=1)
    desk.run(2)
    rows = data(heard(session), "books")
    truth = desk.house.by_symbol["BTC-USDT"].book(rows[0]["seqId"], 1)
    assert float(rows[0]["bids"][0][0]) > float(truth.asks[0][0])


def test_a_fault_of_one_symbols_liquidations_leaves_the_others(desk: Desk) -> None:
    session, _ = listening(desk, of("liquidation-orders", "SWAP"))
    desk.fault("gap", session, symbol="BTC-USDT-PERP", channel="liquidation", count=1000)
    desk.run(240)
    assert {row["instId"] for row in data(heard(session), "liquidation-orders")} == {COIN}


# -- requests


def test_instruments_are_listed_by_their_type_with_what_a_contract_is(desk: Desk) -> None:
    path = "/api/v5/public/instruments"
    spot, swaps = (desk.get(path, instType=kind)["data"] for kind in ("SPOT", "SWAP"))
    assert [row["instId"] for row in spot] == ["BTC-USDT", "ETH-USDT"]
    assert (spot[0]["baseCcy"], spot[0]["quoteCcy"], spot[0]["ctVal"]) == ("BTC", "USDT", "")
    linear, inverse = swaps
    names = ("instId", "baseCcy", "uly", "settleCcy", "ctType", "ctVal", "ctMult", "ctValCcy")
    assert [linear[name] for name in names] == [PERP, "", SPOT, "USDT", "linear", "0.01", "1", "BTC"]
    assert [inverse[name] for name in names] == [COIN, "", "BTC-USD", "BTC", "inverse", "100", "1", "USD"]
    assert desk.get(path, instType="FUTURES")["data"] == []
    assert desk.get(path, instType="SWAP", instId=PERP)["data"] == [linear]
    desk.fault("unlist", symbol="BTC-USDT-PERP")
    assert desk.get(path, instType="SWAP")["data"] == [inverse]


def test_rest_has_books_interest_and_time(desk: Desk) -> None:
    desk.run(5)
    (book,) = desk.get("/api/v5/market/books", instId=SPOT, sz="3")["data"]
    truth = desk.house.by_symbol["BTC-USDT"].book(book["seqId"], 3)
    assert [tuple(level[:2]) for level in book["bids"]] == truth.bids
    (interest,) = desk.get("/api/v5/public/open-interest", instType="SWAP", instId=PERP)["data"]
    assert Decimal(interest["oiCcy"]) == Decimal(interest["oi"]) * Decimal("0.01")
    assert desk.get("/api/v5/public/time")["data"] == [{"ts": str(desk.now // MS)}]


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/api/v5/public/instruments", {}, "51000"),
        ("/api/v5/public/instruments", {"instType": "SPOT", "instId": "NO-COIN"}, "51001"),
        ("/api/v5/market/books", {"instId": "NO-COIN"}, "51001"),
        ("/api/v5/market/history-trades", {"instId": "NO-COIN"}, "51001"),
        ("/api/v5/market/history-trades", {"instId": SPOT, "type": "2"}, "51000"),
    ],
)
def test_wrong_questions_get_a_code(desk: Desk, path: str, query: dict[str, str], code: str) -> None:
    assert desk.get(path, **query)["code"] == code


def test_a_path_asked_too_often_is_refused_and_only_that(desk: Desk) -> None:
    replies = [desk.ask("/api/v5/public/instruments", instType="SPOT").status for _ in range(21)]
    assert replies == [200] * 20 + [429]
    reply = desk.ask("/api/v5/public/instruments", instType="SPOT")
    assert json.loads(reply.body) == {"code": "50011", "msg": "Too Many Requests", "data": []}
    assert desk.ask("/api/v5/market/books", instId=SPOT).status == 200
    desk.now += 2 * S
    assert desk.ask("/api/v5/public/instruments", instType="SPOT").status == 200
