"""The connector against a venue of a few lines and a real Redis."""

import json
from functools import partial
from typing import Any

import anyio
import pytest
from fake_venue import CONTROL, KEYS, PARTITION, FakeVenue, ask, kinds, lines, of, running, trade, until
from fake_venue import listing as rows
from msgspec.structs import replace

from actors.connector import listing, role
from actors.connector.rest import Rest
from actors.model.instruments import Instrument, Unusable
from actors.stages.control import ControlRequest
from actors.streams.keys import Cursor
from actors.streams.limit import Limit
from actors.venues import VENUES, binance
from actors.venues.base import Connection, Keepalive, Request, Subscription

pytestmark = pytest.mark.redis


async def test_a_connection_is_opened_subscribed_and_recorded_in_order(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue(channels=["trade", "book"]))):
                await until(lambda: venue.received)
                await venue.push(trade(1), "two\nlines", b"\x00\xff")
                await until(lambda: len(of(client, "b")) == 2)
            found = lines(client)
    assert "".join(line.kind for line in found) == "xiosffbbx"
    new_owner, instrument, opened, subscription, ack, frame, *rest, closed = found
    assert new_owner.conn == "a.*"
    assert new_owner.json == {"code": None, "reason": "new owner"}
    assert instrument.json["native"] == "BTCUSDT"
    assert opened.payload == f"ws://127.0.0.1:{venue.port}/stream"
    assert subscription.json["items"] == [["book", "BTC-USDT"], ["trade", "BTC-USDT"]]
    assert json.loads(subscription.json["frame"]) == venue.received[0][1]
    assert ack.json == {"result": None, "id": 1}
    assert frame.payload == trade(1)
    assert [line.payload for line in rest] == ["dHdvCmxpbmVz", "AP8="]
    assert closed.json == {"code": 1001, "reason": "shutdown"}
    assert len({line.conn for line in found[2:]}) == 1
    assert [line.recv for line in found] == sorted(line.recv for line in found)


async def test_an_unknown_symbol_is_named_with_its_nearest_and_the_others_go_on(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue("BTC-USDT", "ETH-USDT", "SOL-BTC") as venue:
        with server.client() as client:
            symbols = ["BTC-USDT", "ETH-USTD"]
            async with running(settings_for(server, venue.venue(symbols=symbols))):
                await until(lambda: venue.received)
                instruments = of(client, "i")
            listed = json.loads(client.get(KEYS.instruments("binance")))
    assert instruments[1].json == {"symbol": "ETH-USTD", "nearest": ["ETH-USDT"]}
    assert venue.received[0][1]["params"] == ["btcusdt@trade"]
    assert [row["symbol"] for row in listed] == ["BTC-USDT", "ETH-USDT", "SOL-BTC"]


async def test_an_unusable_instrument_is_refused_with_its_reason_counted_and_the_others_go_on(
    redis_server, settings_for, monkeypatch
):
    def listed(body: bytes) -> list[Instrument | Unusable]:
        bad = Unusable("ETH-USDT", "ETHUSDT", "step 'x'")
        return [bad if row.symbol == "ETH-USDT" else row for row in binance.rows(body)]

    monkeypatch.setitem(VENUES, "binance", replace(VENUES["binance"], rows=listed))
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            settings = settings_for(server, venue.venue(symbols=["BTC-USDT", "ETH-USDT"]))
            async with running(settings) as actor:
                await until(lambda: venue.received)
                instruments = of(client, "i")
                assert actor.metric("tapeline_unparseable_total", venue="binance", reason="instrument") == 1
    assert instruments[1].json == {"symbol": "ETH-USDT", "nearest": ["BTC-USDT"], "reason": "step 'x'"}
    assert venue.received[0][1]["params"] == ["btcusdt@trade"]


async def test_a_symbol_that_is_listed_later_is_connected_then(redis_server, settings_for, monkeypatch):
    monkeypatch.setattr(listing, "REFRESH_S", 0.2)
    server = redis_server()
    async with FakeVenue("BTC-USDT") as venue:
        with server.client() as client:
            settings = settings_for(server, venue.venue(symbols=["BTC-USDT", "ETH-USDT"]))
            async with running(settings) as actor:
                await until(lambda: venue.received)
                first = venue.open[0]
                venue.answer("/api/v3/exchangeInfo", "down for a moment", 503)
                venue.listing = rows("BTC-USDT", "ETH-USDT")
                await until(lambda: len(venue.received) == 2)
                assert actor.metric("tapeline_rest_failures_total", venue="binance", reason="5xx") == 1
                assert first.close_code is None
            told = [line.json["symbol"] for line in of(client, "i")]
            closed = of(client, "x")
    assert told == ["BTC-USDT", "ETH-USDT", "ETH-USDT"]
    assert venue.received[1][1]["params"] == ["ethusdt@trade"]
    assert len(closed) == 3  # the new owner's, and two at the stop


async def test_a_symbol_that_is_listed_under_another_name_is_asked_for_by_that(
    redis_server, settings_for, monkeypatch
):
    monkeypatch.setattr(listing, "REFRESH_S", 0.2)
    monkeypatch.setattr(role, "OVERLAP_S", 0.1)
    server = redis_server()
    async with FakeVenue("BTC-USDT", "ETH-USDT") as venue:
        venue.greets = lambda: [trade(1)]
        with server.client() as client:
            settings = settings_for(server, venue.venue(symbols=["BTC-USDT", "ETH-USDT"]))
            async with running(settings):
                await until(lambda: venue.received)
                venue.listing = rows("ETH-USDT")
                await until(lambda: len(of(client, "i")) == 3)
                venue.listing = rows("BTC-USDT", "ETH-USDT").replace("BTCUSDT", "NEWUSDT")
                await until(lambda: venue.sockets[0].close_code is not None)
                ask(client, ControlRequest("r/1/0", "snapshot", "BTC-USDT", conn=of(client, "o")[-1].conn))
                (answer,) = await until(lambda: of(client, "h"))
            told = lines(client)
    assert [frame["params"] for _, frame in venue.received] == [
        ["btcusdt@trade", "ethusdt@trade"],
        ["newusdt@trade", "ethusdt@trade"],
    ]
    assert "symbol=NEWUSDT" in answer.json["request"]["path"]
    first, second = (n for n, line in enumerate(told) if line.kind == "o")
    assert told.index(next(line for line in told if "NEWUSDT" in line.payload)) < second, (
        "known before its frames"
    )
    ended = next(line for line in told if line.kind == "x" and line.conn == told[first].conn)
    assert second < told.index(ended)
    assert ended.json["reason"] == "replaced: BTC-USDT is NEWUSDT now"


async def test_a_closed_connection_is_recorded_and_opened_again(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())) as actor:
                await until(lambda: venue.received)
                await venue.open[0].close(1012, "restart")
                await until(lambda: len(venue.received) == 2)
                assert actor.metric("tapeline_reconnects_total", venue="binance", reason="closed") == 1
                assert actor.metric("tapeline_connections", venue="binance") == 1
            opened = [line.conn for line in of(client, "o")]
            closed = of(client, "x")[1:]
    assert len(set(opened)) == 2
    assert [line.conn for line in closed] == opened
    assert closed[0].json == {"code": 1012, "reason": "restart"}


@pytest.mark.usefixtures("small_frames")
async def test_an_oversized_frame_ends_its_connection_only(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue(symbols=["BTC-USDT", "ETH-USDT"]))) as actor:
                await until(lambda: len(venue.received) == 2)
                await venue.sockets[0].send("x" * 3000)
                await until(lambda: len(venue.received) == 3)
                await venue.push(trade(1))
                assert actor.metric("tapeline_reconnects_total", venue="binance", reason="too_big") == 1
            closed = of(client, "x")[1]
    assert closed.json["code"] == 1009
    assert "3000 bytes" in closed.json["reason"]
    assert closed.json["bad"] == "oversized"
    assert venue.sockets[1].close_code == 1001


async def test_a_venue_that_starts_a_little_later_is_no_failure(redis_server, settings_for):
    server = redis_server()
    venue = FakeVenue()
    await venue.start()
    await venue.stop()
    with server.client() as client:
        async with running(settings_for(server, venue.venue())) as actor:
            await until(
                lambda: actor.metric("tapeline_rest_failures_total", venue="binance", reason="unreachable")
            )
            await venue.start(venue.port)
            await until(lambda: venue.received)
        assert [line.json["reason"] for line in of(client, "x")] == ["new owner", "shutdown"]
        await venue.stop()


async def test_a_venue_that_is_down_is_recorded_with_its_reason_and_recovers(
    redis_server, settings_for, monkeypatch
):
    monkeypatch.setattr(listing, "PATIENCE_S", 0)
    server = redis_server()
    venue = FakeVenue()
    await venue.start()
    await venue.stop()
    with server.client() as client:
        async with running(settings_for(server, venue.venue())) as actor:
            await until(lambda: len(of(client, "x")) >= 2)
            assert actor.metric("tapeline_venue_up", venue="binance") == 0
            await venue.start(venue.port)
            await until(lambda: venue.received)
            await until(lambda: actor.metric("tapeline_venue_up", venue="binance") == 1)
        failed = of(client, "x")[1]
        await venue.stop()
    assert failed.conn.startswith("a.")
    assert failed.json["code"] is None
    assert failed.json["reason"].startswith("instruments: ")
    assert f"no connection to 127.0.0.1:{venue.port}: refused" in failed.json["reason"]


async def test_a_refused_connect_waits_as_long_as_the_venue_asks(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        venue.refusals.append((429, {"Retry-After": "1"}))
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
            refused, opened = of(client, "x")[1], of(client, "o")[0]
    assert refused.json == {"code": 429, "reason": "HTTP 429 said"}
    assert opened.recv - refused.recv >= 1_000_000_000


async def test_a_snapshot_is_answered_for_the_connection_that_asked(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
                conn = (await until(lambda: of(client, "o")))[0].conn
                ask(
                    client,
                    ControlRequest("r/1/0", "snapshot", "BTC-USDT", conn=conn),
                    ControlRequest("r/1/0", "snapshot", "BTC-USDT", conn=conn),
                    ControlRequest("r/2/0", "snapshot", "BTC-USDT", conn="a.00000000"),
                    ControlRequest("r/3/0", "snapshot", "BTC-USDT", conn="b.00000000"),
                )
                answer = (await until(lambda: of(client, "h")))[0]
                last = client.xrevrange(CONTROL, count=1)[0][0]
                ck = KEYS.cursor(PARTITION, "connector:a")
                await until(lambda: client.hget(ck, "c:control") == last)
            assert len(of(client, "h")) == 1
    assert answer.conn == conn
    assert answer.json["conn"] == conn
    assert answer.json["id"] == "r/1/0"
    assert answer.json["status"] == 200
    assert json.loads(answer.json["body"])["lastUpdateId"] == 1
    assert answer.json["request"]["path"] == "/api/v3/depth?symbol=BTCUSDT&limit=1000"


def audit(instrument: Instrument) -> Any:
    return replace(binance.snapshot(instrument), op="audit")


async def test_an_audit_is_answered_for_the_connection_that_asked(redis_server, settings_for, monkeypatch):
    monkeypatch.setitem(VENUES, "binance", replace(VENUES["binance"], audit=audit))
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
                conn = (await until(lambda: of(client, "o")))[0].conn
                ask(client, ControlRequest("r/1/0", "audit", "BTC-USDT", conn=conn))
                answer = (await until(lambda: of(client, "h")))[0]
    assert (answer.json["request"]["op"], answer.json["conn"], answer.json["status"]) == ("audit", conn, 200)


async def test_a_snapshot_that_waits_for_its_turn_is_not_asked_for_twice(
    redis_server, settings_for, monkeypatch
):
    monkeypatch.setattr(role, "Limit", partial(Limit, window_s=3))
    scarce = replace(VENUES["binance"].limits, weight_per_minute=55)  # one book
    monkeypatch.setitem(VENUES, "binance", replace(VENUES["binance"], limits=scarce))
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
                conn = (await until(lambda: of(client, "o")))[0].conn
                asked = (ControlRequest(f"r/{n}/0", "snapshot", "BTC-USDT", conn=conn) for n in range(3))
                ask(client, *asked)  # they wait: the listing has cost too much of the window
                await until(lambda: of(client, "h"))
                ask(client, ControlRequest("r/9/0", "snapshot", "BTC-USDT", conn=conn))
                await until(lambda: of(client, "h")[-1].json["id"] == "r/9/0")
            answered = [line.json["id"] for line in of(client, "h")]
    assert answered == ["r/0/0", "r/9/0"]


async def test_an_answer_does_not_let_a_snapshot_be_asked_for_twice_that_waits_since(
    redis_server, settings_for, monkeypatch
):
    async def slowly(self: Rest, question: Request, *args: Any) -> Any:
        reply = await original(self, question, *args)
        if question.op == "snapshot":
            out.set()
            await back.wait()
        return reply

    original, out, back = Rest._ask, anyio.Event(), anyio.Event()
    monkeypatch.setattr(Rest, "_ask", slowly)
    monkeypatch.setattr(role, "Limit", partial(Limit, window_s=3))
    scarce = replace(VENUES["binance"].limits, weight_per_minute=55)  # one book
    monkeypatch.setitem(VENUES, "binance", replace(VENUES["binance"], limits=scarce))
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                conn = (await until(lambda: of(client, "o")))[0].conn
                snapshots = [ControlRequest(f"r/{n}/0", "snapshot", "BTC-USDT", conn=conn) for n in range(4)]
                ask(client, snapshots[0])
                await out.wait()
                ask(client, snapshots[1])
                await anyio.sleep(0.2)  # it is read, and waits
                back.set()
                await until(lambda: of(client, "h"))
                ask(client, *snapshots[2:])
                last = client.xrevrange(CONTROL, count=1)[0][0]
                ck = KEYS.cursor(PARTITION, "connector:a")
                await until(lambda: client.hget(ck, "c:control") == last, 15)
            answered = [line.json["id"] for line in of(client, "h")]
    assert answered == ["r/0/0", "r/1/0"]


async def test_audits_are_asked_one_by_one_and_few_wait_for_their_turn(
    redis_server, settings_for, monkeypatch
):
    asked: list[str | None] = []
    out: set[str | None] = set()

    async def fetch(self: Rest, question: Request, *args: Any, **wanted: Any) -> Any:
        if question.op == "audit":
            assert not out
            out.add(question.symbol)
            await anyio.sleep(0.2)  # so that the others have to wait
            out.clear()
            asked.append(question.symbol)
        return await original(self, question, *args, **wanted)

    original = Rest.fetch
    monkeypatch.setattr(Rest, "fetch", fetch)
    monkeypatch.setitem(VENUES, "binance", replace(VENUES["binance"], audit=audit))
    symbols = [f"A{n}-USDT" for n in range(12)]
    server = redis_server()
    async with FakeVenue(*symbols) as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue(symbols=symbols))):
                await until(lambda: venue.received)
                conn = (await until(lambda: of(client, "o")))[0].conn
                ask(client, *(ControlRequest(symbol, "audit", symbol, conn=conn) for symbol in symbols))
                last = client.xrevrange(CONTROL, count=1)[0][0]
                ck = KEYS.cursor(PARTITION, "connector:a")
                await until(lambda: client.hget(ck, "c:control") == last)
                answered = [line.json["id"] for line in of(client, "h")]
    assert asked == answered == symbols[:9]  # one, and eight that waited; the rest will be asked for again


async def test_a_429_bars_every_request_until_retry_after(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())) as actor:
                await until(lambda: venue.received)
                conn = (await until(lambda: of(client, "o")))[0].conn
                venue.answer("/api/v3/depth", "slow down", 429, Retry_After="1")
                ask(client, ControlRequest("r/1/0", "snapshot", "BTC-USDT", conn=conn))
                await until(lambda: of(client, "h"))
                ask(client, ControlRequest("r/2/0", "snapshot", "BTC-USDT", conn=conn))
                await until(lambda: len(of(client, "h")) == 2)
                assert actor.metric("tapeline_rest_failures_total", venue="binance", reason="429") == 1
            barred, served = of(client, "h")
    assert (barred.json["status"], barred.json["body"]) == (429, "slow down")
    assert served.json["status"] == 200
    assert served.recv - barred.recv >= 900_000_000


async def test_sockets_are_seen_to_while_rest_has_to_wait(redis_server, settings_for, monkeypatch):
    monkeypatch.setattr(role, "OVERLAP_S", 0.1)
    server = redis_server()
    async with FakeVenue() as venue:
        venue.greets = lambda: [trade(1)]
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                conn = (await until(lambda: of(client, "o")))[0].conn
                venue.answer("/api/v3/depth", "", 429, Retry_After="600")
                ask(client, ControlRequest("r/1/0", "snapshot", "BTC-USDT", conn=conn))
                await until(lambda: of(client, "h"))
                ask(client, ControlRequest("r/2/0", "snapshot", "BTC-USDT", conn=conn))
                before = client.xinfo_stream(CONTROL)["last-generated-id"]
                for n in range(1100):  # asked for again, and what the other leg serves
                    ask(
                        client,
                        ControlRequest(f"r/3/{n}", "snapshot", "BTC-USDT", conn="ab"[n % 2] + conn[1:]),
                    )
                ask(client, ControlRequest("n/1/0", "reconnect", conn=conn, reason="silent"))
                ended = {"code": 1000, "reason": "replaced: silent"}
                await until(lambda: ended in [line.json for line in of(client, "x")])
                stored = client.hget(KEYS.cursor(PARTITION, "connector:a"), "c:control")
    assert Cursor.parse(stored) < Cursor.parse(before), "what waits would be served by an heir"


async def test_what_a_predecessor_left_unserved_is_served_by_its_heir(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        venue.answer("/api/v3/historicalTrades", "[]")
        with server.client() as client:
            ask(
                client,
                ControlRequest("n/0/0", "backfill", "BTC-USDT", "trade", first="one", last="two"),
                ControlRequest("n/1/0", "reconnect"),
                ControlRequest("n/2/0", "backfill", "BTC-USDT", "trade", first="5", last="7"),
            )
            async with running(settings_for(server, venue.venue())):
                answer = (await until(lambda: of(client, "h")))[0]
                assert venue.connects <= 1
    assert answer.json["request"]["first"] == "5"
    assert answer.json["request"]["path"].endswith("symbol=BTCUSDT&fromId=5&limit=3")
    assert "conn" not in answer.json


async def test_subscriptions_are_ended_and_begun_on_request(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(
                settings_for(server, venue.venue(symbols=["BTC-USDT"], channels=["trade", "l1"]))
            ):
                await until(lambda: venue.received)
                conn = (await until(lambda: of(client, "o")))[0].conn
                ask(client, ControlRequest("n/1/0", "resubscribe", "BTC-USDT", "trade", conn))
                await until(lambda: len(venue.received) == 2)
                ask(client, ControlRequest("n/2/0", "subscribe", "BTC-USDT", "trade", conn))
                await until(lambda: len(venue.received) == 3)
                ask(client, ControlRequest("n/3/0", "unsubscribe", "BTC-USDT", "l1"))
                await until(lambda: len(venue.received) == 4)
                await venue.open[0].close(1000)
                await until(lambda: len(venue.received) == 5)
            records = of(client, "s")
    assert [frame["method"] for _, frame in venue.received] == [
        "SUBSCRIBE", "UNSUBSCRIBE", "SUBSCRIBE", "UNSUBSCRIBE", "SUBSCRIBE",
    ]  # fmt: skip
    assert [frame["id"] for _, frame in venue.received] == [1, 2, 3, 4, 1]
    assert venue.received[-1][1]["params"] == ["btcusdt@trade"]
    assert [json.loads(line.json["frame"]) for line in records] == [frame for _, frame in venue.received]


async def test_pings_go_out_however_much_else_is_said(redis_server, settings_for, monkeypatch):
    pinging = replace(
        binance.VENUE,
        keepalive=Keepalive('{"method":"PING"}', 0.4),
        limits=replace(binance.VENUE.limits, frames_per_s=50),
    )
    monkeypatch.setitem(VENUES, "binance", pinging)
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
                conn = (await until(lambda: of(client, "o")))[0].conn
                for n in range(20):  # a word each 0.1 s for two seconds
                    ask(client, ControlRequest(f"n/{n}/0", "subscribe", "BTC-USDT", "trade", conn))
                    await until(lambda n=n: said(venue, "SUBSCRIBE") > n + 1)
                    await anyio.sleep(0.1)
    assert said(venue, "PING") >= 4, "a venue that counts pings alone would have hung up"


def said(venue: FakeVenue, method: str) -> int:
    return [frame["method"] for _, frame in venue.received].count(method)


async def test_where_no_subscription_can_be_ended_the_connection_is_replaced(
    redis_server, settings_for, monkeypatch
):
    hello = Subscription("subscribe", [], '{"method":"HELLO","id":0}')

    def plan(*asked: Any) -> list[Connection]:
        return [Connection(c.url, [hello, *c.subscriptions]) for c in binance.plan(*asked)]

    monkeypatch.setitem(VENUES, "binance", replace(binance.VENUE, unsubscribe=None, plan=plan))
    monkeypatch.setattr(role, "OVERLAP_S", 0.3)
    server = redis_server()
    async with FakeVenue() as venue:
        venue.greets = lambda: [trade(1)]
        with server.client() as client:
            async with running(
                settings_for(server, venue.venue(symbols=["BTC-USDT"], channels=["trade", "l1"]))
            ):
                await until(lambda: len(venue.received) == 2)
                first = (await until(lambda: of(client, "o")))[0].conn
                ask(client, ControlRequest("n/1/0", "resubscribe", "BTC-USDT", "trade", first))
                await until(lambda: len(venue.received) == 4)  # beside the old one
                ask(client, ControlRequest("n/2/0", "resubscribe", "BTC-USDT", "trade", first))
                await until(lambda: first in [line.conn for line in of(client, "x")])
                second = of(client, "o")[1].conn
                ask(client, ControlRequest("n/3/0", "unsubscribe", "BTC-USDT", "l1", second))
                await until(lambda: len(venue.received) == 6)
    assert [frame["method"] for _, frame in venue.received] == ["HELLO", "SUBSCRIBE"] * 3
    assert sorted(venue.received[3][1]["params"]) == ["btcusdt@bookTicker", "btcusdt@trade"]
    assert venue.received[5][1]["params"] == ["btcusdt@trade"]  # what was ended for good is left out


async def test_every_record_of_a_subscription_stands_before_its_answer(redis_server, settings_for):
    server = redis_server()
    symbols = [f"S{n}-USDT" for n in range(3)]
    async with FakeVenue(*symbols) as venue:
        venue.greets = lambda: [trade(1)]
        with server.client() as client:
            async with running(settings_for(server, venue.venue(symbols=symbols))):
                await until(lambda: kinds(client).count("f") >= 2)
            told = kinds(client)
    assert told.index("o") < told.index("s") < told.index("f")


async def test_an_instance_that_is_stopped_frees_its_lease_at_once(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            settings = settings_for(server, venue.venue())
            async with running(settings):
                await until(lambda: venue.received)
            lease = client.hgetall(KEYS.lease(PARTITION, "connector", "a"))
            assert lease["until"] == "0"
            with anyio.fail_after(20):
                async with running(settings, 2):
                    await until(lambda: len(venue.received) == 2)
            assert [line.json["reason"] for line in of(client, "x")] == ["new owner", "shutdown"] * 2


async def test_what_is_asked_at_once_bears_numbers_of_its_own(redis_server, settings_for):
    """Even if it has to wait for its turn: an answer is of one frame."""
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
                asked = (ControlRequest(f"n/{n}/0", "subscribe", "BTC-USDT", "trade") for n in range(5))
                ask(client, *asked)
                await until(lambda: len(venue.received) == 6)
    assert [frame["id"] for _, frame in venue.received] == [1, 2, 3, 4, 5, 6]
