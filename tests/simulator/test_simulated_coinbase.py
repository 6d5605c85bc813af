"""Coinbase's words: what a client sees of the simulated venue, without a socket."""

import re
from typing import Any

import msgspec
import pytest
import websockets
from simulator_rig import Desk, S, heard, rig
from simulator_rig import frame as next_frame
from venue_rig import Chain

from actors.model.events import BookSnapshot, Gap, Status, Trade
from actors.simulator.session import Reply, Session
from actors.simulator.simulation import Simulator
from actors.simulator.venue import hear
from actors.venues import coinbase

BTC, ETH = "BTC-USD", "ETH-USD"
FAR = 92_000  # levels: the snapshot of BTC-USD has 4.8 MB, as one that was recorded


@pytest.fixture
def desk() -> Desk:
    return Desk("coinbase", "BTC-USD", "ETH-USD", "BTC-TUSD")


def ask(op: str, products: list[str], *channels: object) -> str:
    return msgspec.json.encode({"type": op, "product_ids": products, "channels": channels}).decode()


def subscribe(desk: Desk, products: list[str], *channels: object) -> Session:
    session = desk.open("/")
    desk.tell(session, ask("subscribe", products, *channels))
    return session


def of(frames: list[dict[str, Any]], *types: str) -> list[dict[str, Any]]:
    return [frame for frame in frames if frame["type"] in types]


def lists(frame: dict[str, Any]) -> dict[str, set[str]]:
    assert frame["type"] == "subscriptions"
    assert all(channel["account_ids"] is None for channel in frame["channels"])
    return {channel["name"]: set(channel["product_ids"]) for channel in frame["channels"]}


def test_each_request_is_answered_by_the_list_of_all_that_is_subscribed(desk: Desk) -> None:
    session = desk.open("/")
    both = [BTC, ETH]
    assert lists(desk.say(session, ask("subscribe", [BTC], "matches"))) == {"matches": {BTC}}
    desk.tell(session, ask("subscribe", both, "level2_batch", {"name": "ticker", "product_ids": [ETH]}))
    first, *rest = heard(session)
    assert lists(first) == {"matches": {BTC}, "level2_50": {*both}, "ticker": {ETH}}
    assert {frame["type"] for frame in rest} == {"snapshot"}, "nothing has traded yet"
    ended = desk.say(session, ask("unsubscribe", [BTC], "level2_batch", "matches"))
    assert lists(ended) == {"level2_50": {ETH}, "ticker": {ETH}}


def test_one_product_that_is_none_fails_its_whole_request_and_the_connection_stays(desk: Desk) -> None:
    session = desk.open("/")
    for products, channel, reason in (
        ([BTC, "GIBBERISH-USD"], "matches", "GIBBERISH-USD is not a valid product"),
        (["BTC-TUSD"], "matches", "BTC-TUSD is not a valid product"),
        ([BTC], "level2", "level2 now requires authentication"),
        ([BTC], "candles", "candles is not a valid channel"),
    ):
        said = desk.say(session, ask("subscribe", products, channel))
        assert said == {"type": "error", "message": "Failed to subscribe", "reason": reason}
    desk.run(3)
    assert heard(session) == []
    assert desk.say(session, "{")["message"] == "Malformed JSON"
    assert desk.say(session, '{"type":"buy"}')["type"] == "error"
    assert session.close is None or session.close[0] == 1008, "it had asked for nothing"


def test_who_asks_for_nothing_within_five_seconds_is_closed(desk: Desk) -> None:
    idle, busy = desk.open("/"), desk.open("/")
    desk.tell(busy, ask("subscribe", [BTC], "heartbeat"))
    desk.run(4)
    assert idle.close is None
    desk.run(2)
    assert idle.close is not None
    assert busy.close is None


def sizes(frame: dict[str, Any]) -> list[str]:
    """Return every size of a frame of a book."""
    return [level[-1] for side in ("bids", "asks", "changes") for level in frame.get(side, ())]


def is_size(text: str) -> bool:
    return text != "NaN"  # of all that may stand there the one that the simulator writes


def test_a_book_is_a_snapshot_then_what_changed(desk: Desk) -> None:
    session = subscribe(desk, [BTC, ETH], "level2_batch")
    desk.run(20, 0.05)
    frames = heard(session)
    for product in (BTC, ETH):
        first, *updates = [f for f in of(frames, "snapshot", "l2update") if f["product_id"] == product]
        assert first["type"] == "snapshot"
        assert len(updates) > 100
        sides = {"buy": dict(first["bids"]), "sell": dict(first["asks"])}
        for update in updates:
            for side, price, size in update["changes"]:
                if is_size(size):
                    sides[side][price] = size
        truth = desk.house.by_symbol[product].book()
        for side, levels in (("buy", truth.bids), ("sell", truth.asks)):
            left = {price: size for price, size in sides[side].items() if float(size)}
            assert left == dict(levels)


def test_a_product_always_writes_zero_in_one_way_and_products_in_many() -> None:
    desk = Desk("coinbase")
    products = [*desk.house.shops]
    session = subscribe(desk, products, "level2_batch")
    desk.run(10, 0.05)
    zeros: dict[str, set[str]] = {product: set() for product in products}
    for frame in of(heard(session), "l2update"):
        zeros[frame["product_id"]] |= {size for size in sizes(frame) if is_size(size) and not float(size)}
    assert all(len(each) <= 1 for each in zeros.values())
    assert set[str]().union(*zeros.values()) == {"0", "0.0", "0.00", "0.000", "0.00000000"}


def test_rarely_an_update_has_no_time_or_a_size_that_is_none_and_so_has_a_snapshot(desk: Desk) -> None:
    session = subscribe(desk, [BTC], "level2_batch")
    desk.run(90, 0.05)
    updates = of(heard(session), "l2update")
    assert len(updates) > 1500
    timeless = [n for n, update in enumerate(updates, 1) if update["time"] == "0001-01-01T00:00:00.000000Z"]
    assert timeless == [*range(500, len(updates) + 1, 1000)]
    odd = [n for n, update in enumerate(updates, 1) if not all(map(is_size, sizes(update)))]
    assert odd == [*range(1000, len(updates) + 1, 1000)]
    snapshots = [heard(subscribe(desk, [BTC], "level2_batch"))[-1] for _ in range(9)]
    assert [n for n, each in enumerate(snapshots, 2) if not all(map(is_size, sizes(each)))] == [5, 10]


def test_who_comes_later_has_the_same_book(desk: Desk) -> None:
    first = subscribe(desk, [BTC], "level2_batch")
    desk.run(2.03, 0.01)
    second = subscribe(desk, [BTC], "level2_batch")
    desk.run(2, 0.01)
    books = []
    for session in (first, second):
        sides: dict[str, dict[str, str]] = {"buy": {}, "sell": {}}
        for frame in of(heard(session), "snapshot", "l2update"):
            for side, name in (("buy", "bids"), ("sell", "asks")):
                sides[side].update(frame.get(name, ()))
            for side, price, size in frame.get("changes", ()):
                if is_size(size):
                    sides[side][price] = size
        books.append([{p: s for p, s in side.items() if float(s)} for side in sides.values()])
    assert books[0] == books[1]


def test_the_last_match_comes_before_all_others_and_its_like_only_once(desk: Desk) -> None:
    desk.run(20)
    session = subscribe(desk, [BTC], "matches", "ticker")
    newest = desk.house.by_symbol[BTC].truth().next_trade - 1
    _, last, ticker = heard(session)
    assert (last["type"], last["trade_id"]) == ("last_match", newest)
    assert (ticker["type"], ticker["trade_id"]) == ("ticker", newest)
    desk.run(20)
    matches = of(heard(session), "match", "last_match")
    assert {match["type"] for match in matches} == {"match"}
    assert [match["trade_id"] for match in matches] == list(range(newest + 1, newest + 1 + len(matches)))


def test_the_side_of_a_match_is_its_makers_and_that_of_a_ticker_the_takers(desk: Desk) -> None:
    session = subscribe(desk, [BTC], "matches", "ticker")
    desk.run(30)
    frames = heard(session)
    matches = {match["trade_id"]: match for match in of(frames, "match")}
    tape = {int(trade.id): trade for trade in desk.house.by_symbol[BTC].trades(0, 1 << 62)}
    assert len(matches) == len(tape) > 20
    for ticker in of(frames, "ticker"):
        match = matches[ticker["trade_id"]]
        assert {match["side"], ticker["side"]} == {"buy", "sell"}
        assert ticker["side"] == tape[ticker["trade_id"]].aggressor
    assert {match["side"] for match in matches.values()} == {"buy", "sell"}
    assert all(match["maker_order_id"] != match["taker_order_id"] for match in matches.values())


def test_a_heart_beats_each_second_a_product_and_tells_the_last_trade(desk: Desk) -> None:
    session = subscribe(desk, [BTC, ETH], "heartbeat")
    desk.run(10.5)
    beats = of(heard(session), "heartbeat")
    assert sum(beat["product_id"] == BTC for beat in beats) in (10, 11)
    assert sum(beat["product_id"] == ETH for beat in beats) in (10, 11)
    last = [beat for beat in beats if beat["product_id"] == BTC][-1]
    assert last["last_trade_id"] <= desk.house.by_symbol[BTC].truth().next_trade - 1
    desk.fault("silence", session, symbol=BTC)
    desk.run(3)
    assert {beat["product_id"] for beat in heard(session)} == {ETH}
    desk.fault("silence", session)
    desk.run(3)
    assert heard(session) == []


def test_past_trades_come_newest_first_by_pages(desk: Desk) -> None:
    desk.run(60)
    tape = desk.house.by_symbol[BTC].trades(0, 1 << 62)
    reply = desk.ask(f"/products/{BTC}/trades", limit="5", after=tape[10].id)
    rows = msgspec.json.decode(reply.body)
    assert [row["trade_id"] for row in rows] == [int(trade.id) for trade in tape[5:10][::-1]]
    assert {row["side"] for row in desk.get(f"/products/{BTC}/trades")} == {"buy", "sell"}
    for row, trade in zip(rows, tape[5:10][::-1], strict=True):
        assert row["side"] != trade.aggressor, "the maker's, here too"
    assert reply.headers == {"CB-BEFORE": tape[9].id, "CB-AFTER": tape[5].id}
    newer = desk.get(f"/products/{BTC}/trades", before=tape[-3].id)
    assert [row["trade_id"] for row in newer] == [int(tape[-1].id), int(tape[-2].id)]


def test_products_are_listed_and_what_is_none_is_not_found(desk: Desk) -> None:
    products = {row["id"]: row for row in desk.get("/products")}
    assert (products[BTC]["status"], products["BTC-TUSD"]["trading_disabled"]) == ("online", True)
    assert [len(level) for level in desk.get(f"/products/{BTC}/book", level="2")["bids"][:2]] == [3, 3]
    for path in ("/nothing", "/products/NO-USD/trades", f"/products/{BTC}/nothing"):
        assert desk.ask(path).status == 404
    desk.now += 10 * S
    assert [desk.ask("/products").status for _ in range(17)][-3:] == [200, 429, 429]


def test_limits_of_connections_and_messages_are_kept(desk: Desk) -> None:
    assert isinstance(desk.knock("/ws"), Reply)
    desk.house.limits["messages"] = 2
    session = desk.open("/")
    for _ in range(3):
        hear(desk.venue, session, ask("subscribe", [BTC], "heartbeat"), desk.now)
    assert heard(session)[-1]["message"] == "Rate limit exceeded"
    doors = [desk.knock("/") for _ in range(20)]
    assert isinstance(doors[-1], Reply)
    assert doors[-1].status == 429


def test_faults_are_the_venues_own(desk: Desk) -> None:
    desk.fault("refuse", symbol=BTC)
    assert "not a valid product" in desk.say(desk.open("/"), ask("subscribe", [BTC], "matches"))["reason"]
    desk.faults.clear()
    desk.fault("silent_ack", symbol=BTC)
    silent = subscribe(desk, [BTC], "level2_batch", "matches")
    assert lists(heard(silent)[0]) == {"level2_50": {BTC}, "matches": {BTC}}
    desk.run(5)
    assert heard(silent) == []
    desk.faults.clear()
    session = subscribe(desk, [ETH], "level2_batch")
    session.out.clear()
    desk.fault("crossed", session)
    desk.run(1, 0.05)
    assert len(re.findall(rb'\["buy","99999999","1"\]', b"".join(session.out))) == 1


async def test_a_snapshot_of_several_megabytes_goes_out_and_ends_who_does_not_take_it() -> None:
    async with rig(Simulator(seed=1, venues=["coinbase"])) as it:
        it.simulator.venues["coinbase"].house.limits["far_levels"] = FAR
        url = f"ws://127.0.0.1:{it.port}/coinbase/"
        async with websockets.connect(url, max_size=coinbase.LIMITS.max_frame_bytes) as ws:
            await ws.send(ask("subscribe", [BTC], "level2_batch"))
            snapshot = await next_frame(ws, lambda said: said["type"] == "snapshot")
            assert len(snapshot["bids"]) > FAR
            assert len(msgspec.json.encode(snapshot)) > 4_800_000
        async with websockets.connect(url) as ws:  # with the library's own limit, a MiB
            await ws.send(ask("subscribe", [BTC], "level2_batch"))
            with pytest.raises(websockets.ConnectionClosedError) as caught:
                await next_frame(ws, lambda said: said["type"] == "snapshot")
            assert caught.value.sent is not None
            assert caught.value.sent.code == 1009


def test_a_snapshot_of_several_megabytes_is_the_book_of_its_best_levels() -> None:
    chain = Chain("coinbase", BTC)
    chain.desk.house.limits["far_levels"] = FAR
    chain.drop()
    chain.run(5)
    [_, whole] = chain.of(BookSnapshot)
    assert len(whole.bids) == len(whole.asks) == coinbase.LEVELS
    assert chain.compared > 10
    assert chain.states[BTC][-1] == "live"
    while not chain.asked["audit"]:
        chain.run(5)
    chain.run(5)
    [audit] = [event for event in chain.of(BookSnapshot) if event.audit]
    assert len(audit.bids) == len(audit.asks) == coinbase.LEVELS
    assert chain.views[BTC].verified == "audit"
    assert not chain.dead


def test_a_match_that_never_came_is_found_by_the_heartbeat_and_fetched() -> None:
    chain = Chain("coinbase", "1INCH-USD")  # some trades a minute: the next one would tell too late
    trades = 0
    while trades < 3:
        chain.run(5)
        trades = len(chain.of(Trade))
    chain.fault("gap", channel="trade")
    truth = chain.desk.house.by_symbol["1INCH-USD"]
    lost = truth.truth().next_trade
    while truth.truth().next_trade == lost:
        chain.run(1)
    chain.run(6)
    gaps = [gap for gap in chain.of(Gap) if int(gap.first) == lost]
    assert [gap.filled for gap in gaps] == [False, True]
    [fetched] = [trade for trade in chain.of(Trade) if int(trade.id) == lost]
    assert fetched.backfilled
    assert not chain.unexplained("1INCH-USD")


def test_a_crossed_book_is_never_live_and_comes_back() -> None:
    chain = Chain("coinbase", BTC)
    chain.run(3)
    chain.fault("crossed", symbol=BTC)
    chain.run(12)
    assert chain.states[BTC] == ["live", "crossed", "resyncing", "live"]
    assert [gap.cause for gap in chain.of(Gap)] == ["crossed"]
    assert chain.asked["resubscribe"] == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_update_that_cannot_be_read_costs_its_own_book_a_moment(seed: int) -> None:
    chain = Chain("coinbase", BTC, ETH, seed=seed)
    chain.run(3)
    chain.fault("corrupt", symbol=BTC, channel="book", how="truncated")
    chain.run(60)
    assert (chain.states[BTC], chain.states[ETH]) == (["live", "resyncing", "live"], ["live"])
    assert {(gap.symbol, gap.cause) for gap in chain.of(Gap)} == {(BTC, "sequence")}
    assert chain.asked["resubscribe"] == 1
    assert len(chain.dead) == 1
    assert chain.compared > 200


def test_a_product_of_which_nothing_comes_is_stale_and_asked_for_until_it_comes() -> None:
    chain = Chain("coinbase", BTC, ETH)
    chain.run(3)
    chain.fault("silence", symbol=BTC)
    chain.run(12)
    assert (chain.states[BTC], chain.states[ETH]) == (["live", "stale"], ["live"])
    told = [(status.symbol, status.channel) for status in chain.of(Status) if status.state == "stale"]
    assert sorted(told) == [(BTC, "book"), (BTC, "ticker"), (BTC, "trade")]
    assert (chain.asked["resubscribe"], chain.asked["reconnect"]) == (3, 0)
    chain.run(25)  # the connection itself is deaf to it: another one brings all
    assert chain.asked["reconnect"] == 1
    assert chain.states[BTC] == ["live", "stale", "live"]
    assert not chain.unexplained(BTC)
    assert not chain.unexplained(ETH)
