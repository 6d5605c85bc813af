"""What is easiest to get wrong with KuCoin: its address, books that straddle their snapshot, its words."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from chain_rig import Chain

from actors.model.errors import Unparseable
from actors.model.events import SECOND, BookDelta, BookSnapshot, Gap, Trade
from actors.model.instruments import Instrument
from actors.stages.bookbuild.alignment import Alignment
from actors.stages.bookbuild.sync import Sync
from actors.venues import kucoin
from actors.venues.base import Acked, Answer, Closing, Endpoints, Scratch, items_of

BTC = Instrument("BTC-USDT", "BTC-USDT", "BTC", "USDT")
BSV = Instrument("BSV-USDT", "BCHSV-USDT", "BSV", "USDT")
KNOWN = {row.native: row for row in (BTC, BSV)}
BY_SYMBOL = {row.symbol: row for row in (BTC, BSV)}
TOKEN = "2neAiu+YvA/U61==.ymP9=="


def given(endpoint: str = "wss://ws-api-spot.kucoin.com/", token: str = TOKEN) -> bytes:
    data = {"token": token, "instanceServers": [{"endpoint": endpoint, "pingInterval": 18000}]}
    return json.dumps({"code": "200000", "data": data}).encode()


# ---- the address ----------------------------------------------------------------------------------------


def test_the_venue_s_own_address_comes_with_the_token_which_is_encoded():
    url = kucoin.address(kucoin.ENDPOINTS.ws, given("wss://elsewhere.kucoin.com/endpoint"), "a.1")
    assert url.startswith("wss://elsewhere.kucoin.com/endpoint?token=2neAiu%2BYvA%2FU61%3D%3D.ymP9%3D%3D&")
    assert parse_qs(urlsplit(url).query) == {"token": [TOKEN], "connectId": ["a.1"]}


@pytest.mark.parametrize(
    ("configured", "dialed"),
    [
        ("ws://127.0.0.1:9700/kucoin", "ws://127.0.0.1:9700/kucoin?token="),
        ("wss://proxy.lan/?to=kucoin", "wss://proxy.lan/?to=kucoin&token="),
    ],
)
def test_an_address_of_the_configuration_is_dialed_in_its_place(configured: str, dialed: str):
    (planned,) = kucoin.VENUE.plan(Endpoints(configured, ""), [BTC], ["trade"])
    assert kucoin.address(planned.url, given(), "a.1").startswith(dialed)


@pytest.mark.parametrize(
    "endpoint",
    ["", "https://x/", "wss://", "wss://x:99999/", "wss://[x/", "wss://x/ y", "wss://x/#y", "wss://a@x/", "wss://ü/"],
)  # fmt: skip
def test_what_is_no_address_of_a_websocket_is_not_dialed(endpoint: str):
    with pytest.raises(Unparseable, match="bullet-public: no address"):
        kucoin.address(kucoin.ENDPOINTS.ws, given(endpoint), "a.1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'{"code":"200000"}',
        b'{"code":"400100","msg":"no"}',
        b'{"code":"200000","data":{"token":"","instanceServers":[{"endpoint":"wss://x/"}]}}',
        b'{"code":"200000","data":{"token":"x","instanceServers":[]}}',
        b'{"code":"200000","data":{"instanceServers":[{"endpoint":"wss://x/"}]}}',
    ],
)
def test_a_body_without_a_token_is_unparseable(body: bytes):
    with pytest.raises(Unparseable, match="bullet-public"):
        kucoin.address(kucoin.ENDPOINTS.ws, body, "a.1")


# ---- books ----------------------------------------------------------------------------------------------


def said(frame: Any) -> Any:
    (one,) = kucoin.decode(json.dumps(frame).encode(), Scratch("a.1", KNOWN))
    return one


def delta(first: int, last: int, *, asks: Any = (), bids: Any = ()) -> BookDelta:
    changes = {"asks": asks, "bids": bids}
    data = {"changes": changes, "sequenceStart": first, "sequenceEnd": last, "symbol": "BTC-USDT"}
    return said({"topic": "/market/level2:BTC-USDT", "type": "message", "data": data})


def whole(sequence: int, bids: Any = (), asks: Any = ()) -> BookSnapshot:
    data = {"sequence": str(sequence), "bids": bids, "asks": asks, "time": 1729176273859}
    body = json.dumps({"code": "200000", "data": data})
    (event,) = kucoin.decode_rest(Answer(kucoin.snapshot(BTC), 200, body), Scratch("a.1", KNOWN))
    assert isinstance(event, BookSnapshot)
    return event


class Book:
    """A book of KuCoin's, by what is said of it."""

    def __init__(self) -> None:
        self.sync = Sync(Alignment(kucoin.VENUE.book_rule), "a.1", 0)

    def take(self, *events: BookDelta | BookSnapshot) -> str:
        outcome = ""
        for event in events:
            if isinstance(event, BookDelta):
                outcome = self.sync.delta(event, 100, SECOND)
            else:
                outcome = self.sync.snapshot(event, SECOND)
        return outcome

    @property
    def levels(self) -> Any:
        return self.sync.book.best_first()


BIDS = [["98", "1"], ["97", "2"]]
ASKS = [["101", "3"], ["102", "4"]]


@pytest.mark.parametrize("held", [False, True], ids=["buffered before", "after"])
def test_of_a_frame_that_straddles_the_snapshot_only_entries_after_it_apply(held: bool):
    straddling = delta(
        14,
        17,
        asks=[["103", "9", "17"], ["101", "77", "15"], ["0", "0", "16"]],
        bids=[["98", "5", "17"], ["99", "66", "14"], ["98", "55", "16"]],
    )
    book, snapshot = Book(), whole(15, BIDS, ASKS)
    book.take(*([snapshot, straddling] if held else [delta(13, 13), straddling, snapshot]))
    assert book.sync.seq == 17
    # 99 at 14 and 101 at 15 are in the snapshot, or gone from it; 98 is as 17 left it, which came first.
    assert book.levels == ([("98", "5"), ("97", "2")], [("101", "3"), ("102", "4"), ("103", "9")])


def test_placeholders_change_no_level_and_keep_the_sequence():
    book = Book()
    book.take(delta(15, 15), whole(15, BIDS, ASKS), delta(16, 16, asks=[["0", "0", "16"]]))
    assert book.sync.seq == 16
    assert book.take(delta(17, 17, bids=[["0", "0", "17"]])) == "applied"
    assert book.take(delta(18, 18, bids=[["98", "0", "18"]])) == "applied"
    assert book.levels == ([("97", "2")], [("101", "3"), ("102", "4")])


def test_a_hole_is_a_fault_and_a_repetition_is_none():
    book = Book()
    book.take(delta(15, 15), whole(15, BIDS, ASKS))
    assert book.take(delta(16, 17)) == "applied"
    assert book.take(delta(16, 17)) == "old"
    assert book.take(delta(19, 19)) == "lost"
    assert book.sync.fault is not None
    assert (book.sync.fault.first, book.sync.fault.last) == ("18", "18")


def test_a_snapshot_older_than_the_stream_is_asked_for_again():
    book = Book()
    assert book.sync.ask(SECOND)
    assert book.take(delta(20, 20), whole(15, BIDS, ASKS)) == "kept"
    assert not book.sync.joined
    assert book.sync.ask(3 * SECOND)
    assert book.take(whole(21, BIDS, ASKS)) == "joined"


@pytest.mark.parametrize("sequence", [0, -1])
def test_a_new_market_takes_any_first_change(sequence: int):
    book = Book()
    assert book.take(whole(sequence), delta(7, 7, bids=[["1", "1", "7"]])) == "joined"
    assert book.levels == ([("1", "1")], [])


# ---- what is asked --------------------------------------------------------------------------------------


def test_names_are_the_venue_s_and_a_frame_has_a_channel_and_a_number():
    subscriptions = kucoin.subscribe(items_of(BY_SYMBOL, ("trade", "ticker")), BY_SYMBOL, 5)
    assert [json.loads(s.frame) for s in subscriptions] == [
        {"id": 5, "type": "subscribe", "topic": "/market/match:BTC-USDT,BCHSV-USDT",
         "privateChannel": False, "response": True},
        {"id": 6, "type": "subscribe", "topic": "/market/snapshot:BTC-USDT,BCHSV-USDT",
         "privateChannel": False, "response": True},
    ]  # fmt: skip
    assert [s.id for s in subscriptions] == [5, 6]
    (ended,) = kucoin.unsubscribe([("book", "BSV-USDT")], BY_SYMBOL, 7)
    assert json.loads(ended.frame)["type"] == "unsubscribe"
    assert said({"id": "7", "type": "ack"}) == Acked(7)


def test_no_frame_names_more_than_a_hundred_and_no_connection_has_more_than_two_hundred_topics():
    rows = [Instrument(f"A{n}-B", f"A{n}-B", f"A{n}", "B") for n in range(450)]
    for channels in (["trade"], ["trade", "book", "l1", "ticker"]):
        for connection in kucoin.VENUE.plan(kucoin.ENDPOINTS, rows, channels):
            assert sum(len(s.items) for s in connection.subscriptions) <= 200
            assert all(len(s.items) <= 100 for s in connection.subscriptions)


def test_a_ping_bears_the_time_for_an_id_and_a_subscription_its_own():
    keepalive = kucoin.VENUE.keepalive
    assert keepalive is not None
    assert keepalive.every_s <= 18 / 2
    stamp = kucoin.VENUE.stamp
    assert stamp is not None
    assert json.loads(stamp(keepalive.frame, 1_800_000_000)) == {"id": "1800000000", "type": "ping"}
    (asked,) = kucoin.subscribe([("trade", "BTC-USDT")], BY_SYMBOL, 1)
    assert stamp(asked.frame, 1_800_000_000) == asked.frame


@pytest.mark.parametrize("words", ["token is expired", "token is invalid", "ping timeout"])
def test_what_ends_a_connection_asks_for_another(words: str):
    reason = said({"id": "a.1", "type": "error", "code": 401 if "token" in words else 400, "data": words})
    assert isinstance(reason, Closing)


# ---- through the folds ----------------------------------------------------------------------------------

PONG = {"id": "1800000000", "type": "pong"}


def trade(identity: str) -> Any:
    data = {"price": "1", "side": "buy", "size": "2", "symbol": "BTC-USDT", "time": "1729843222921000000",
            "tradeId": identity, "sequence": "7"}  # fmt: skip
    return {"topic": "/market/match:BTC-USDT", "type": "message", "subject": "trade.l3match", "data": data}


def open_chain(*channels: Any, conns: tuple[str, ...] = ("a.1",)) -> Chain:
    chain = Chain(kucoin.VENUE, BTC)
    for conn in conns:
        chain.open(*channels, conn=conn)
        chain.hear({"id": "1", "type": "ack"}, conn=conn)
    return chain


def test_an_unknown_pair_that_is_acknowledged_and_silent_is_told():
    chain = open_chain("book")
    assert chain.states() == {"book BTC-USDT": "subscribed"}
    chain.wait(119, PONG)
    assert chain.states() == {"book BTC-USDT": "subscribed"}
    assert {r.op for r in chain.asked()} == {"snapshot"}  # a quiet book is to be had, too
    chain.wait(2, PONG)
    assert chain.states() == {"book BTC-USDT": "stale"}
    assert [(r.op, r.channel) for r in chain.asked() if r.op != "snapshot"] == [("resubscribe", "book")]


def test_a_topic_that_is_not_found_is_refused_by_the_number_of_its_frame():
    chain = Chain(kucoin.VENUE, BTC)
    chain.open("book", "l1")
    chain.hear({"id": "2", "type": "error", "code": 404, "data": "topic /market/ticker:X is not found"})
    assert chain.states() == {"book BTC-USDT": "wanted", "l1 BTC-USDT": "refused"}


def test_an_expired_token_asks_for_another_connection():
    chain = open_chain("trade")
    chain.hear({"id": "a.1", "type": "error", "code": 401, "data": "token is expired"})
    assert [(r.op, r.conn) for r in chain.asked()] == [("reconnect", "a.1")]


def test_pings_that_nobody_answers_end_the_connection():
    chain = open_chain("trade")
    chain.hear(trade("1"))
    chain.wait(30)
    assert not chain.asked()
    chain.wait(1)
    assert [(r.op, r.conn) for r in chain.asked()] == [("reconnect", "a.1")]


def test_a_change_that_cannot_be_read_costs_no_trade():
    chain = open_chain("trade", "book")
    chain.hear(trade("1"))
    chain.hear({"topic": "/market/level2:BTC-USDT", "type": "message", "data": {"symbol": "BTC-USDT"}})
    assert len(chain.dead()) == 1
    assert not chain.told(Gap)
    chain.hear({"topic": "/market/match:BTC-USDT", "type": "message", "data": {"symbol": "BTC-USDT"}})
    assert [gap.channel for gap in chain.told(Gap)] == ["trade"]


def test_trades_of_two_connections_are_told_apart_by_ids_that_are_no_numbers():
    chain = open_chain("trade", conns=("a.1", "b.1"))
    ids = ["6085c09769bc506996295e36", "11067996711960577", "6085c09769bc506996295e35"]
    chain.hear(*map(trade, ids))
    chain.hear(*map(trade, [*ids, "11067996711960570"]), conn="b.1")
    assert [event.id for event in chain.told(Trade)] == [*ids, "11067996711960570"]


def test_a_disconnect_leaves_a_hole_without_numbers_that_nobody_can_fill():
    chain = open_chain("trade")
    chain.hear(trade("6085c09769bc506996295e36"))
    chain.close()
    assert [(g.channel, g.cause, g.first, g.last) for g in chain.told(Gap)] == [
        ("trade", "disconnect", None, None)
    ]
    assert not chain.asked()
