"""Bitrue's words: what a client sees of the simulated venue, and gzip over real sockets."""

import gzip
import json
from itertools import pairwise
from typing import Any

import anyio
import msgspec
import pytest
from recorded_rig import READ_BY, lines, pipeline, read
from simulator_rig import DEADLINE_S, Desk, S, heard, rig
from venue_rig import Chain

from actors.config import Settings, VenueSettings
from actors.model import codec
from actors.model.events import Book, Gap, Status, Ticker, Trade
from actors.simulator import bitrue
from actors.simulator.session import Session
from actors.simulator.simulation import Simulator
from actors.streams.keys import Partition

BTC, ETH = "market_btcusdt_simple_depth_step0", "market_ethusdt_simple_depth_step0"
TWO = [each for each in bitrue.LISTINGS if each.symbol in ("BTC-USDT", "ETH-USDT")]


@pytest.fixture
def desk() -> Desk:
    return Desk("bitrue", "BTC-USDT", "ETH-USDT", "BTC-TUSD")


def ask(channel: str, event: str = "sub") -> str:
    params = {"cb_id": channel.partition("_")[2].partition("_")[0], "channel": channel}
    return msgspec.json.encode({"event": event, "params": params}).decode()


def subscribe(desk: Desk, channel: str = BTC) -> tuple[Session, list[Any]]:
    session = desk.open("/market/ws")
    desk.tell(session, ask(channel))
    return session, heard(session)


def test_an_acknowledgement_and_then_the_whole_book_each_time_it_has_changed(desk: Desk) -> None:
    session, (ack, first) = subscribe(desk)
    assert ack == {
        "channel": BTC, "cb_id": "btcusdt", "event_rep": "subed", "status": "ok", "ts": ack["ts"],
    }  # fmt: skip
    desk.run(10, 0.05)
    frames = [first, *[frame for frame in heard(session) if "tick" in frame]]
    assert len(frames) > 20
    shop = desk.house.by_symbol["BTC-USDT"]
    for frame in frames:
        truth = shop.book(shop.sequence(frame["ts"] * 1_000_000), bitrue.LEVELS)
        assert [tuple(level) for level in frame["tick"]["buys"]] == truth.bids
        assert [tuple(level) for level in frame["tick"]["asks"]] == truth.asks
    assert all(a["tick"] != b["tick"] and a["ts"] < b["ts"] for a, b in pairwise(frames))


def test_another_pair_is_refused_nonsense_is_not_answered_and_an_end_neither(desk: Desk) -> None:
    session = desk.open("/market/ws")
    for channel in ("market_nousd_simple_depth_step0", "market_btctusd_simple_depth_step0", "mood"):
        refusal = desk.say(session, ask(channel))
        assert (refusal["event_rep"], refusal["status"], refusal["channel"]) == ("subed", "error", channel)
    for text in ("{nonsense", "[1]", "{}", '{"event":"mood"}', ask(ETH, "unsub")):
        desk.tell(session, text)
    assert heard(session) == []
    desk.tell(session, ask(BTC))
    desk.tell(session, ask(BTC, "unsub"))
    session.out.clear()
    desk.run(5)
    assert not [frame for frame in heard(session) if "ping" not in frame]
    assert desk.knock("/kline-api/ws").status == 404


def test_who_answers_no_ping_for_a_minute_is_sent_away(desk: Desk) -> None:
    deaf, polite = desk.open("/market/ws"), desk.open("/market/ws")
    desk.run(1)
    for _ in range(4):
        assert deaf.close is None
        [ping] = heard(polite)
        assert list(ping) == ["ping"]
        desk.now -= S
        desk.tell(polite, json.dumps({"pong": ping["ping"]}))
        desk.run(15, 1)
    assert deaf.close is not None
    assert polite.close is None


def test_pages_overlap_are_in_no_order_to_be_relied_on_and_hold_the_tape(desk: Desk) -> None:
    seen: dict[int, Any] = {}
    repeated = 0
    for _ in range(10):
        desk.run(6)
        page = desk.get("/api/v1/trades", symbol="BTCUSDT", limit="100")
        assert len(page) <= 100
        repeated += len(page) - len({row["id"] for row in page})
        seen |= {row["id"]: row for row in page}
    tape = desk.house.by_symbol["BTC-USDT"].trades(0, 1 << 62)
    assert repeated == 10
    assert len(tape) > 20
    assert [
        (str(n), seen[n]["price"], seen[n]["qty"], "sell" if seen[n]["isBuyerMaker"] else "buy")
        for n in sorted(seen)
    ] == [(t.id, t.price, t.size, t.aggressor) for t in tape if int(t.id) >= min(seen)]


def test_the_list_is_in_lower_case_and_names_what_does_not_trade(desk: Desk) -> None:
    rows = {row["symbol"]: row for row in desk.get("/api/v1/exchangeInfo")["symbols"]}
    assert (rows["BTCTUSD"]["baseAsset"], rows["BTCTUSD"]["quoteAsset"]) == ("btc", "tusd")
    assert {name: row["status"] for name, row in rows.items()} == {
        "BTCUSDT": "TRADING", "ETHUSDT": "TRADING", "BTCTUSD": "HALT",
    }  # fmt: skip
    for path in ("trades", "ticker/24hr", "depth", "ticker/bookTicker"):
        reply = desk.ask(f"/api/v1/{path}", symbol="NOUSDT")
        assert (reply.status, json.loads(reply.body)["code"]) == (400, -1121)
    top = desk.get("/api/v1/ticker/bookTicker", symbol="BTCUSDT")
    depth = desk.get("/api/v1/depth", symbol="BTCUSDT", limit="5")
    assert depth["bids"][0] == [top["bidPrice"], top["bidQty"], []]
    desk.run(20)
    assert [row["symbol"] for row in desk.get("/api/v1/ticker/24hr")] == ["BTCUSDT", "ETHUSDT"]


def test_too_much_weight_is_429_and_going_on_is_a_ban(desk: Desk) -> None:
    desk.house.limits |= {"weight_per_minute": 80, "refused_per_minute": 3}
    assert desk.ask("/api/v1/ticker/24hr").status == 200  # of weight 40
    statuses = [desk.ask("/api/v1/trades", symbol="BTCUSDT").status for _ in range(45)]
    assert statuses == [200] * 40 + [429] * 4 + [418]
    desk.now += 61 * S
    assert desk.ask("/api/v1/trades", symbol="BTCUSDT").status == 418
    desk.now += 60 * S
    assert desk.ask("/api/v1/trades", symbol="BTCUSDT").status == 200
    desk.house.limits["weight_per_minute"] = 1
    assert desk.ask("/api/v1/trades", symbol="BTCUSDT").headers == {"rate_limit_p": "1"}


def test_what_was_traded_while_nobody_could_ask_is_a_hole_only_where_a_page_does_not_reach_back() -> None:
    chain = Chain("bitrue", "BTC-USDT")
    chain.run(10)
    chain.desk.fault("rest", path="/api/v1/trades", status=503, for_s=60)
    chain.run(20)
    chain.desk.faults.clear()
    chain.run(10)
    assert not chain.of(Gap)
    assert not chain.unexplained("BTC-USDT")
    tape = chain.desk.house.by_symbol["BTC-USDT"].live.tape
    chain.desk.fault("rest", path="/api/v1/trades", status=503, for_s=600)
    begun = tape.next
    while tape.next < begun + 700:
        chain.run(10)
    chain.desk.faults.clear()
    chain.run(10)
    [gap] = chain.of(Gap)
    assert (gap.channel, gap.cause, gap.filled) == ("trade", "sequence", False)
    assert int(gap.last) - int(gap.first) > 150
    assert not chain.unexplained("BTC-USDT")
    states = [e.state for e in chain.of(Status, "BTC-USDT") if e.channel == "trade"]
    assert states == ["live", "stale", "live"]


def test_a_crossed_book_is_not_shown() -> None:
    chain = Chain("bitrue", "BTC-USDT")
    chain.run(3)
    chain.fault("crossed", count=3)
    chain.run(10)
    assert chain.states["BTC-USDT"] == ["live"]
    assert chain.counts["tapeline_ignored_total", "crossed_book"] == 3


async def test_every_frame_goes_out_in_gzip_once_for_all_and_faults_are_inside() -> None:
    async with (
        rig(Simulator(seed=1, events_per_s=2_000, listings=TWO)) as r,
        r.connect("/market/ws", "bitrue") as one,
        r.connect("/market/ws", "bitrue") as other,
    ):
        with anyio.fail_after(DEADLINE_S):
            for ws in (one, other):
                await ws.send(ask(BTC))
                while b'"status":"ok"' not in gzip.decompress(await ws.recv()):
                    pass  # a ping may come first
            theirs = {await other.recv() for _ in range(5)}
            while await one.recv() not in theirs:
                pass
            assert bitrue._small.cache_info().hits > 0
            await r.fault("corrupt", venue="bitrue", how="truncated", count=1)
            while gzip.decompress(await one.recv())[-1:] == b"}":
                pass
            await r.fault("oversize", venue="bitrue", count=1)
            while len(gzip.decompress(frame := await one.recv())) < 1 << 20:
                pass
            assert len(frame) < 100_000
            assert len(gzip.decompress(frame)) == 8 << 20


@pytest.mark.redis
async def test_the_pipeline_gets_books_trades_and_tickers_of_it_over_real_sockets(redis_server) -> None:
    server = redis_server()
    partition = Partition("bitrue", 0)

    def said(client: Any) -> list[Any]:
        return [codec.decode(line.encode()) for _, s in READ_BY[1:] for line in lines(client, partition, s)]

    async with rig(Simulator(seed=1, events_per_s=60, listings=TWO)) as r:
        url = f"127.0.0.1:{r.port}/bitrue"
        settings = Settings(
            mode="live",
            redis={"url": server.url},
            venues={
                "bitrue": VenueSettings(
                    symbols=["BTC-USDT", "ETH-USDT"], ws_url=f"ws://{url}", rest_url=f"http://{url}"
                )
            },
        )
        async with pipeline(settings):
            with server.client() as client, anyio.fail_after(25):
                while len({(type(e), e.symbol) for e in said(client) if isinstance(e, Trade | Ticker)}) < 4:
                    await anyio.sleep(0.2)
                books = [codec.decode(line.encode()) for line in lines(client, partition, "books")]
                events = said(client)
    trades = [int(e.id) for e in events if isinstance(e, Trade) and e.symbol == "BTC-USDT"]
    assert trades == list(range(trades[0], trades[0] + len(trades)))
    assert not [event for event in events if isinstance(event, Gap)]
    assert {symbol: reader.state for symbol, reader in read(books).items()} == {
        "BTC-USDT": "live", "ETH-USDT": "live",
    }  # fmt: skip
    assert {b.verified for b in books if isinstance(b, Book) and b.state == "live"} == {"none"}
