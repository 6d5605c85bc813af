"""Binance's words: what a client sees of the simulated venue, without a socket."""

from itertools import groupby, pairwise
from typing import Any

import msgspec
import pytest
from simulator_rig import MS, Desk, S, heard
from venue_rig import Chain

from actors.connector.pacing import Window
from actors.simulator.generate import frames, generate
from actors.simulator.session import Reply
from actors.simulator.venue import hear
from actors.venues import VENUES


@pytest.fixture
def desk() -> Desk:
    return Desk("binance", "BTC-USDT", "ETH-USDT", "ETH-BTC")


def apply(side: dict[str, str], rows: list[list[str]]) -> None:
    for price, size in rows:
        if float(size):
            side[price] = size
        else:
            side.pop(price, None)


def test_snapshot_and_500_updates_agree_with_the_truth_at_each(desk: Desk) -> None:
    session = desk.open("/stream?streams=btcusdt@depth@100ms/btcusdt@bookTicker")
    desk.run(2)
    snapshot = desk.get("/api/v3/depth", symbol="BTCUSDT", limit="5000")
    bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
    book_id = snapshot["lastUpdateId"]
    applied = 0
    for _ in range(600):
        desk.run(0.1)
        for wrapped in heard(session):
            data = wrapped["data"]
            if wrapped["stream"] == "btcusdt@bookTicker" or data["u"] <= book_id:
                continue
            assert data["U"] <= book_id + 1 <= data["u"] if applied == 0 else data["U"] == book_id + 1
            apply(bids, data["b"])
            apply(asks, data["a"])
            book_id = data["u"]
            applied += 1
            truth = desk.house.by_symbol["BTC-USDT"].book(book_id)
            assert (bids, asks) == (dict(truth.bids), dict(truth.asks))
    assert applied >= 500


def test_trade_ids_have_no_holes_and_agree_with_the_tape_and_rest(desk: Desk) -> None:
    session = desk.open("/stream?streams=ethusdt@trade")
    desk.run(20)
    trades = [each["data"] for each in heard(session)]
    assert len(trades) > 50
    assert [t["t"] for t in trades] == list(range(trades[0]["t"], trades[0]["t"] + len(trades)))
    assert {t["m"] for t in trades} == {True, False}
    tape = desk.house.by_symbol["ETH-USDT"].trades(trades[0]["t"], trades[-1]["t"])
    for told, true in zip(trades, tape, strict=True):
        assert (str(told["t"]), told["p"], told["q"]) == (true.id, true.price, true.size)
        assert told["T"] == true.ts // MS
        assert 0 <= told["E"] - told["T"] <= 3
        assert true.aggressor == ("sell" if told["m"] else "buy")
    assert any(told["E"] != told["T"] for told in trades)
    first = trades[3]["t"]
    rows = desk.get("/api/v3/historicalTrades", symbol="ETHUSDT", fromId=str(first), limit="7")
    assert [row["id"] for row in rows] == list(range(first, first + 7))
    assert [(r["price"], r["qty"], r["isBuyerMaker"]) for r in rows] == [
        (t["p"], t["q"], t["m"]) for t in trades[3:10]
    ]
    assert desk.get("/api/v3/trades", symbol="ETHUSDT", limit="2")[-1]["id"] == trades[-1]["t"]


def test_aggregates_stand_for_all_trades_of_one_price(desk: Desk) -> None:
    session = desk.open("/stream?streams=btcusdt@aggTrade/btcusdt@trade")
    desk.run(20)
    documents = [each["data"] for each in heard(session)]
    aggregates = [d for d in documents if d["e"] == "aggTrade"]
    prices = {d["t"]: d["p"] for d in documents if d["e"] == "trade"}
    assert [a["a"] for a in aggregates] == list(range(aggregates[0]["a"], aggregates[-1]["a"] + 1))
    for before, after in pairwise(aggregates):
        assert after["f"] == before["l"] + 1
    for each in aggregates:
        assert {prices[i] for i in range(each["f"], each["l"] + 1)} == {each["p"]}
    assert any(each["l"] > each["f"] for each in aggregates)


def test_the_best_prices_share_the_ids_of_the_book(desk: Desk) -> None:
    session = desk.open("/ws/btcusdt@bookTicker")
    desk.run(10)
    tops = heard(session)
    assert [t["u"] for t in tops] == sorted({t["u"] for t in tops})
    for top in tops:
        assert set(top) == {"u", "s", "b", "B", "a", "A"}, "no time and no event type"
        truth = desk.house.by_symbol["BTC-USDT"].book(top["u"], 1)
        assert [(top["b"], top["B"])] == truth.bids
        assert [(top["a"], top["A"])] == truth.asks


def test_slow_depth_comes_once_a_second(desk: Desk) -> None:
    session = desk.open("/stream?streams=btcusdt@depth")
    desk.run(5)
    slow = [d["data"] for d in heard(session)]
    assert 4 <= len(slow) <= 6
    for before, after in pairwise(slow):
        assert after["U"] == before["u"] + 1


def test_tickers_tell_the_day(desk: Desk) -> None:
    session = desk.open("/stream?streams=btcusdt@ticker")
    desk.run(10)
    last = {d["stream"]: d["data"] for d in heard(session)}
    day = last["btcusdt@ticker"]
    trades = desk.house.by_symbol["BTC-USDT"].trades(0, 1 << 62)
    assert (day["F"], day["L"], day["n"]) == (int(trades[0].id), int(trades[-1].id), len(trades))
    assert (day["o"], day["c"], day["Q"]) == (trades[0].price, trades[-1].price, trades[-1].size)
    assert day["h"] == max((t.price for t in trades), key=float)
    assert float(day["v"]) == pytest.approx(sum(float(t.size) for t in trades))
    assert float(day["q"]) == pytest.approx(sum(float(t.size) * float(t.price) for t in trades))


def test_wrapping_follows_the_path(desk: Desk) -> None:
    bare, wrapped = desk.open("/ws/btcusdt@trade/ethusdt@trade"), desk.open("/stream?streams=btcusdt@trade")
    desk.run(5)
    assert all(d["e"] == "trade" for d in heard(bare))
    assert all(d["data"]["e"] == "trade" for d in heard(wrapped))


def test_microseconds_come_to_who_asks_for_them(desk: Desk) -> None:
    micro = desk.open("/stream?streams=btcusdt@trade/btcusdt@depth@100ms&timeUnit=microsecond")
    milli = desk.open("/stream?streams=btcusdt@trade/btcusdt@depth@100ms")
    desk.run(5)
    for fine, coarse in zip(heard(micro), heard(milli), strict=True):
        assert fine["data"]["E"] // 1000 == coarse["data"]["E"]


def test_subscriptions_are_acknowledged_listed_and_ended(desk: Desk) -> None:
    session = desk.open("/stream")
    names = ["btcusdt@trade", "nosuchcoin@trade", "btcusdt@nosuchkind", "BTCUSDT@trade"]
    say = lambda **m: desk.say(session, msgspec.json.encode(m).decode())  # noqa: E731
    assert say(method="SUBSCRIBE", params=names, id=1) == {"result": None, "id": 1}
    assert say(method="LIST_SUBSCRIPTIONS", id="abc")["result"] == names
    desk.run(5)
    assert {d["stream"] for d in heard(session)} == {"btcusdt@trade"}, "unknown names stay silent"
    assert say(method="UNSUBSCRIBE", params=names[:2], id=None) == {"result": None, "id": None}
    desk.run(5)
    assert heard(session) == []


ERRORS = [
    ("{nonsense", 3, "Invalid JSON"),
    ('{"id":1}', 2, "missing field `method`"),
    ("[1]", 2, "missing field `method`"),
    ('{"method":"BUY","id":1}', 2, "unknown variant `BUY`, expected one of `SUBSCRIBE`"),
    ('{"method":["SUBSCRIBE"],"id":1}', 2, "unknown variant"),
    ('{"method":"SUBSCRIBE","params":["a@b"],"id":-1}', 2, "request ID must be an unsigned integer"),
    ('{"method":"SUBSCRIBE","params":["a@b"],"id":1.5}', 2, "request ID must be an unsigned integer"),
    ('{"method":"SUBSCRIBE","params":"a@b","id":1}', 2, "missing field `params`"),
    ('{"method":"SUBSCRIBE","params":[1],"id":1}', 2, "must be a string"),
    ('{"method":"GET_PROPERTY","params":[1],"id":1}', 2, "property name must be a string"),
    ('{"method":"GET_PROPERTY","params":[],"id":1}', 2, "property name must be a string"),
    ('{"method":"GET_PROPERTY","params":["combined",true],"id":1}', 2, "too many parameters"),
    ('{"method":"SET_PROPERTY","params":["combined",true,1],"id":1}', 2, "too many parameters"),
    ('{"method":"SET_PROPERTY","params":["combined",1],"id":1}', 1, "Invalid value type: expected Boolean"),
    ('{"method":"SET_PROPERTY","params":["combined"],"id":1}', 1, "Invalid value type: expected Boolean"),
]


@pytest.mark.parametrize(("text", "code", "message"), ERRORS)
def test_wrong_control_messages_get_the_documented_error(
    desk: Desk, text: str, code: int, message: str
) -> None:
    answer = desk.say(desk.open("/stream"), text)
    assert answer["code"] == code
    assert message in answer["msg"]
    assert set(answer) == {"code", "msg"}


def test_a_client_that_talks_too_much_or_wants_too_much_is_closed(desk: Desk) -> None:
    session = desk.open("/stream")
    for _ in range(5):
        hear(desk.venue, session, None, desk.now)
    assert session.close is None
    hear(desk.venue, session, None, desk.now)
    assert session.close == (1008, "Too many requests")
    greedy = desk.open("/stream?streams=" + "/".join(f"coin{n}@trade" for n in range(1024)))
    assert greedy.close is None
    desk.say(greedy, '{"method":"SUBSCRIBE","params":["one@more"],"id":1}')
    assert greedy.close == (1008, "Too many streams")


def test_an_unknown_method_is_told_all_that_there_are_and_an_unknown_property_which_request_it_was(
    desk: Desk,
) -> None:
    session = desk.open("/stream")
    text = '{"method":"BUY","id":1}'
    assert desk.say(session, text)["msg"] == (
        "Invalid request: unknown variant `BUY`, expected one of `SUBSCRIBE`, `UNSUBSCRIBE`, "
        f"`LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY` at line 1 column {len(text)}"
    )
    unknown = desk.say(session, '{"method":"GET_PROPERTY","params":["colour"],"id":7}')
    assert unknown == {"code": 0, "msg": "Unknown property", "id": 7}


def test_whether_payloads_are_wrapped_can_be_asked_and_changed(desk: Desk) -> None:
    session = desk.open("/stream?streams=btcusdt@trade/nosuchcoin@trade")
    say = lambda **m: desk.say(session, msgspec.json.encode(m).decode())  # noqa: E731
    for change in (None, False, True):
        if change is not None:
            assert say(method="SET_PROPERTY", params=["combined", change], id=5) == {"result": None, "id": 5}
        wanted = change is not False
        assert say(method="GET_PROPERTY", params=["combined"], id=2) == {"result": wanted, "id": 2}
        desk.run(5)
        assert {"stream" in frame for frame in heard(session)} == {wanted}
    assert list(session.topics) == ["btcusdt@trade", "nosuchcoin@trade"]


@pytest.mark.parametrize("name", ["binance_us", "binance_usdm"])
@pytest.mark.parametrize("request_id", ['"id":"abc",', '"id":null,', ""])
def test_the_siblings_number_requests_with_whole_numbers_only(name: str, request_id: str) -> None:
    desk = Desk(name)
    text = '{"method":"SUBSCRIBE",%s"params":["btcusdt@bookTicker"]}'
    session = desk.open("/stream")
    assert desk.say(session, text % request_id) == {
        "code": 2,
        "msg": "Invalid request: request ID must be an unsigned integer",
    }
    desk.run(5)
    assert heard(session) == []
    assert desk.say(session, text % '"id":0,') == {"result": None, "id": 0}


@pytest.mark.parametrize("name", ["binance_us", "binance_usdm"])
def test_the_siblings_announce_no_end_of_a_connection(name: str) -> None:
    desk = Desk(name)
    for path in ("/stream", "/ws"):
        session = desk.open(path)
        desk.venue.announce(session, desk.now)
        assert heard(session) == []


def test_binance_us_knows_no_microseconds() -> None:
    desk = Desk("binance_us", "BTC-USDT")
    session = desk.open("/stream?streams=btcusdt@depth@100ms&timeUnit=MICROSECOND")
    desk.run(5)
    assert {frame["data"]["E"] < 10**13 for frame in heard(session)} == {True}


@pytest.mark.parametrize("name", ["binance", "binance_us", "binance_usdm"])
def test_frames_as_fast_as_we_send_them_leave_room_for_a_ping_and_a_pong(name: str) -> None:
    desk = Desk(name)
    session = desk.open("/stream")
    window = Window(VENUES[name].limits.frames_per_s)
    for tick in range(300):  # ten a second
        now_s = tick / 10
        while window.wait(now_s) == 0:
            window.note(now_s)
            hear(desk.venue, session, '{"method":"LIST_SUBSCRIPTIONS","id":1}', desk.now + tick * S // 10)
        if tick % 10 == 5:
            for _ in range(2):  # a ping of ours and a pong, which come when they come
                hear(desk.venue, session, None, desk.now + tick * S // 10)
    assert session.close is None
    hear(desk.venue, session, None, desk.now + 296 * S // 10)
    assert session.close == (1008, "Too many requests"), "and for no more than that"


def test_connection_attempts_are_limited(desk: Desk) -> None:
    desk.house.limits["connects"] = 3
    for _ in range(3):
        desk.open("/stream")
    refused = desk.knock("/ws")
    assert isinstance(refused, Reply)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "300")
    desk.now += 301 * S
    desk.open("/stream")


def test_the_instrument_list_names_base_and_quote() -> None:
    info = Desk("binance").get("/api/v3/exchangeInfo")
    rows = {row["symbol"]: row for row in info["symbols"]}
    assert (rows["BTCTUSD"]["baseAsset"], rows["BTCTUSD"]["quoteAsset"]) == ("BTC", "TUSD")
    assert rows["BTCTUSD"]["status"] == "BREAK"
    assert rows["币安人生USDT"]["status"] == "TRADING"
    filters = {f["filterType"]: f for f in rows["BTCUSDT"]["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
    assert filters["LOT_SIZE"]["stepSize"] == "0.00001000"
    assert info["rateLimits"][0]["limit"] == 6000


def test_the_instrument_list_can_be_narrowed(desk: Desk) -> None:
    path = "/api/v3/exchangeInfo"
    assert [r["symbol"] for r in desk.get(path, symbol="ETHBTC")["symbols"]] == ["ETHBTC"]
    both = desk.get(path, symbols='["ETHBTC","BTCUSDT"]')["symbols"]
    assert [r["symbol"] for r in both] == ["ETHBTC", "BTCUSDT"]
    halted = Desk("binance").get(path, symbolStatus="BREAK")["symbols"]
    assert [r["symbol"] for r in halted] == ["BTCTUSD", "TUSDBTC"]
    for query in ({"symbol": "NOPE"}, {"symbols": '["NOPE"]'}):
        assert desk.ask(path, **query).status == 400


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("/api/v3/depth", {}, 400, -1102),
        ("/api/v3/depth", {"symbol": "btcusdt"}, 400, -1121),
        ("/api/v3/historicalTrades", {"symbol": "BTCTUSD"}, 400, -1121),
        ("/api/v3/exchangeInfo", {"symbols": "nonsense"}, 400, -1100),
        ("/api/v1/depth", {"symbol": "BTCUSDT"}, 404, None),
    ],
)
def test_wrong_requests_get_the_documented_error(
    desk: Desk, path: str, query: dict[str, str], status: int, code: int | None
) -> None:
    reply = desk.ask(path, **query)
    assert reply.status == status
    assert (msgspec.json.decode(reply.body)["code"] if reply.body else None) == code


def test_weights_add_up_and_lead_to_429_then_418(desk: Desk) -> None:
    def depth(limit: int) -> Reply:
        return desk.ask("/api/v3/depth", symbol="BTCUSDT", limit=str(limit))

    used = [depth(limit).headers["X-MBX-USED-WEIGHT-1M"] for limit in (100, 500, 1000, 5000, 9999)]
    assert used == ["5", "30", "80", "330", "580"]
    desk.now += 60 * S
    assert depth(5).headers["X-MBX-USED-WEIGHT-1M"] == "5"
    desk.house.limits["weight_per_minute"] = 10
    assert depth(5).status == 200
    refused = depth(5)
    assert refused.status == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert [depth(5).status for _ in range(11)][-1] == 418
    desk.now += 60 * S
    assert depth(5).status == 418, "a ban outlives the minute"
    desk.now += 120 * S
    assert depth(5).status == 200


def test_a_refused_symbol_is_acknowledged_and_silent_until_the_fault_ends(desk: Desk) -> None:
    desk.fault("refuse", symbol="BTC-USDT")
    session = desk.open("/stream?streams=btcusdt@trade/ethusdt@trade")
    desk.run(3)
    assert {d["stream"] for d in heard(session)} == {"ethusdt@trade"}
    assert [r["symbol"] for r in desk.get("/api/v3/exchangeInfo", symbol="BTCUSDT")["symbols"]] == ["BTCUSDT"]
    desk.faults.clear()
    desk.say(session, '{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}')
    desk.run(3)
    assert "btcusdt@trade" in {d["stream"] for d in heard(session)}


def test_an_unlisted_symbol_is_not_known(desk: Desk) -> None:
    desk.fault("unlist", symbol="BTC-USDT")
    assert [r["symbol"] for r in desk.get("/api/v3/exchangeInfo")["symbols"]] == ["ETHUSDT", "ETHBTC"]
    assert desk.ask("/api/v3/depth", symbol="BTCUSDT").status == 400


def test_silent_acknowledgements_and_missing_ones(desk: Desk) -> None:
    desk.fault("silent_ack")
    session = desk.open("/stream")
    subscribe = '{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}'
    assert desk.say(session, subscribe) == {"result": None, "id": 1}
    desk.run(3)
    assert heard(session) == []
    desk.faults.clear()
    desk.fault("no_ack")
    desk.tell(session, subscribe)
    desk.run(3)
    assert {d.get("stream") for d in heard(session)} == {"btcusdt@trade"}, "honoured, not answered"


def test_rest_faults_say_when_to_come_back_and_end_by_count(desk: Desk) -> None:
    desk.fault("rest", status=429, retry_after_s=7, count=1, path="/api/v3/depth", symbol="BTC-USDT")
    assert desk.ask("/api/v3/ping").status == 200
    assert desk.ask("/api/v3/depth", symbol="ETHUSDT").status == 200
    refused = desk.ask("/api/v3/depth", symbol="BTCUSDT")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "7")
    assert desk.ask("/api/v3/depth", symbol="BTCUSDT").status == 200


def test_a_stale_snapshot_is_a_true_book_of_the_past(desk: Desk) -> None:
    desk.run(20)
    desk.fault("stale_snapshot", back=100, count=1)
    stale = desk.get("/api/v3/depth", symbol="BTCUSDT", limit="5")
    newest = desk.house.by_symbol["BTC-USDT"].truth().newest
    assert stale["lastUpdateId"] == newest - 100
    truth = desk.house.by_symbol["BTC-USDT"].book(newest - 100, 5)
    assert stale["bids"] == [[*row] for row in truth.bids]
    assert desk.get("/api/v3/depth", symbol="BTCUSDT")["lastUpdateId"] == newest


@pytest.fixture(scope="module")
def generated() -> Any:
    return generate(5, 6_000)


def test_generated_frames_join_their_snapshots_and_end_at_the_true_books(generated: Any) -> None:
    assert len(generated.frames) == 6_000
    books: dict[str, tuple[int, dict[str, str], dict[str, str]]] = {}
    for symbol, body in generated.snapshots.items():
        snapshot = msgspec.json.decode(body)
        books[symbol.replace("-", "")] = (
            snapshot["lastUpdateId"],
            dict(snapshot["bids"]),
            dict(snapshot["asks"]),
        )
    whole = {s: b for s, b in books.items() if max(len(b[1]), len(b[2])) < 1000}
    assert whole, "some snapshot holds all levels"
    kinds: dict[str, int] = {}
    for payload in generated.frames:
        document = msgspec.json.decode(payload)
        kind = document["stream"].partition("@")[2]
        kinds[kind] = kinds.get(kind, 0) + 1
        if kind != "depth@100ms":
            continue
        data = document["data"]
        book_id, bids, asks = books[data["s"]]
        assert data["U"] == book_id + 1
        apply(bids, data["b"])
        apply(asks, data["a"])
        books[data["s"]] = (data["u"], bids, asks)
    for symbol, (sequence, bids, asks) in generated.books.items():
        book = books[symbol.replace("-", "")]
        assert book[0] == sequence
        if symbol.replace("-", "") in whole:
            assert (book[1], book[2]) == (dict(bids), dict(asks))
    assert 8 < (kinds["trade"] + kinds["bookTicker"]) / kinds["depth@100ms"] < 13
    assert kinds["trade"] > 1_000


def test_generated_frames_are_the_same_for_the_same_seed_only(generated: Any) -> None:
    assert generate(5, 6_000) == generated
    assert frames(6, 100) != generated.frames[:100]


def test_frames_are_generated_for_listed_symbols_only() -> None:
    with pytest.raises(KeyError, match="NO-COIN"):
        generate(1, 10, ["BTC-USDT", "NO-COIN"])


def test_a_book_of_binance_us_that_is_quiet_for_minutes_stays_live_and_true() -> None:
    chain = Chain("binance_us", "LTC-USD", "USDC-USDT")
    while not chain.states["LTC-USD"]:
        chain.run(10)
    changes: list[int] = []
    for _ in range(90):
        changes.append(chain.desk.house.by_symbol["LTC-USD"].truth().newest)
        chain.run(10)
    longest = max(len([*same]) for _, same in groupby(changes))
    assert longest > 12, "for two minutes at least"
    assert chain.states["LTC-USD"] == ["resyncing", "live"]  # once, at its first change
    assert not {"resubscribe", "subscribe", "reconnect"} & set(chain.asked)
    assert chain.views["LTC-USD"].state == "live"
