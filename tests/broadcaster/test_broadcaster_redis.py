"""The whole role on a real server: streams in, clients and subscribers out, Redis taken away in between."""

import json
import time
from typing import Any

import anyio
import pytest
import redis
from broadcaster_rig import PARTITION, Script, heard, until
from stage_rig import Stage

from actors.broadcaster.publisher import Audience, Publisher, _Box
from actors.model.events import Cvd
from actors.runtime.metrics import Metrics
from actors.streams.keys import Keys

pytestmark = pytest.mark.redis


async def test_books_written_before_the_start_are_there_for_the_first_client(stage: Stage):
    s = stage.script
    stage.write("books", s.book("snapshot", [("1", "1")], [], "ETH-USDT", seq=1, state="empty"))
    stage.write("books", s.book("snapshot", [("9", "1")], [("10", "1")], seq=2))
    stage.write_line("books", b'{"kind":"book","ven')
    for i in range(60):  # several pages back
        stage.write("books", s.book("delta", [("9", str(i + 1))], [], seq=3 + i))
    stage.write("events", s.trade())
    async with stage.broadcasting():
        async with stage.client() as client:
            book = (await heard(client))["data"]["Snapshot"]
            assert book["bids"] == {"levels": [{"amount": "60", "price": "9"}]}
            assert book["sequence"] == 62
            stage.write("books", s.book("delta", [("8", "5")], [], seq=63))
            stage.write("events", s.trade())
            got = {(await heard(client))["kind"] for _ in range(2)}
            assert got == {"order_book_l2", "trade"}  # the trade of before the start is not among them
        assert stage.count("tapeline_trimmed_unread_total", role="broadcaster", partition="binance.0") == 0


async def test_clients_stay_while_redis_is_away_and_miss_nothing(stage: Stage):
    s = stage.script
    stage.write("events", s.trade())
    async with stage.broadcasting(), stage.client("?kind=trade") as client:
        await stage.stands_at("1-1")
        await anyio.to_thread.run_sync(stage.server.kill9)
        await until(lambda: stage.count("tapeline_redis_reconnects_total", role="broadcaster") > 0)
        await anyio.to_thread.run_sync(stage.server.start)
        for _ in range(20):
            stage.write("events", s.trade(), s.trade())
        got = [(await heard(client))["data"]["id"] for _ in range(40)]
        assert got == [str(i) for i in range(2, 42)]


async def test_books_are_read_again_and_said_whole_where_entries_are_missing(stage: Stage):
    s = stage.script
    stage.write("books", s.book("snapshot", [("9", "1")], [], seq=1))
    async with stage.broadcasting(), stage.client("?kind=order_book_l2") as client:
        assert (await heard(client))["data"]["Snapshot"]["sequence"] == 1
        s.k["books"] += 100  # retention took these
        stage.write("books", s.book("snapshot", [("7", "1")], [], seq=50, periodic=True))
        stage.write("books", s.book("delta", [("7", "2")], [], seq=51))
        message = (await heard(client))["data"]
        if message["Snapshot"]["sequence"] == 50:
            message = (await heard(client))["data"]
        ((_, book),) = message.items()
        assert (book["sequence"], book["bids"]["levels"]) == (51, [{"amount": "2", "price": "7"}])
        assert stage.count("tapeline_trimmed_unread_total", role="broadcaster", partition="binance.0") == 100


async def test_a_rollback_is_counted_and_the_books_are_said_whole(stage: Stage):
    s = stage.script
    for i in range(5):
        stage.write("books", s.book("snapshot", [("9", "1")], [], seq=i))
    async with stage.broadcasting(), stage.client("?kind=order_book_l2") as client:
        await heard(client)
        with stage.server.client() as control:
            control.delete(stage.keys.stream(PARTITION, "books"))
        s.epoch, s.k["books"], s.prev = 2, 2, {"BTC-USDT": 2}
        stage.write("books", s.book("snapshot", [("6", "1")], [], seq=70, periodic=True))
        assert (await heard(client))["data"]["Snapshot"]["sequence"] == 70
        assert stage.count("tapeline_rollbacks_total", role="broadcaster", partition="binance.0") == 1


async def messages(subscriber: Any, n: int) -> list[tuple[str, str]]:
    got: list[tuple[str, str]] = []
    with anyio.fail_after(20):
        while len(got) < n:
            message = subscriber.get_message(ignore_subscribe_messages=True)
            if message is None:
                await anyio.sleep(0.005)
                continue
            got.append((message["channel"], json.loads(message["data"])["kind"]))
    return got


async def test_subscribers_get_what_they_asked_for_and_nothing_is_published_for_nobody(stage: Stage):
    s = stage.script
    async with stage.broadcasting():
        stage.write("events", s.trade())
        with stage.server.client() as control:
            by_name = control.pubsub()
            by_name.subscribe("md.trade.binance.ETH-USDT")
            pings = 0
            with anyio.fail_after(20):
                while not stage.count("tapeline_published_total", kind="trade"):
                    stage.write("events", s.trade("ETH-USDT"), s.trade("BTC-USDT"))
                    pings += 1
                    await anyio.sleep(0.05)
            assert await messages(by_name, 1) == [("md.trade.binance.ETH-USDT", "trade")]
            assert stage.count("tapeline_published_total", kind="trade") <= pings  # no BTC-USDT among them

            by_pattern = control.pubsub()
            by_pattern.psubscribe("md.book.*.BTC-USDT")
            with anyio.fail_after(20):
                while not stage.count("tapeline_published_total", kind="book"):
                    stage.write("books", s.book("snapshot", [("1", "1")], []))
                    await anyio.sleep(0.05)
            assert ("md.book.binance.BTC-USDT", "book") in await messages(by_pattern, 1)
            by_name.close()
            by_pattern.close()


async def test_a_channel_that_nobody_received_is_left_out_for_a_second():
    publisher = Publisher(redis.asyncio.Redis(), Keys(), Metrics())
    publisher.listen(Audience(frozenset(), patterns=True))
    s = Script()

    box = publisher._boxes[PARTITION] = _Box()
    _, entry = s.entry("events", s.trade(), s.trade("ETH-USDT"))
    publisher.take(PARTITION, "events", entry.lines)
    assert [m.channel for m in box.empty()] == ["md.trade.binance.BTC-USDT", "md.trade.binance.ETH-USDT"]
    box.deaf["md.trade.binance.BTC-USDT"] = time.monotonic() + 1
    publisher.take(PARTITION, "events", entry.lines)
    assert [m.channel for m in box.empty()] == ["md.trade.binance.ETH-USDT"]
    publisher.listen(Audience(frozenset({"md.trade.binance.BTC-USDT"}), patterns=False))
    publisher.take(PARTITION, "events", entry.lines)
    assert [m.channel for m in box.empty()] == ["md.trade.binance.BTC-USDT"]
    publisher.listen(Audience())
    publisher.take(PARTITION, "events", entry.lines)
    assert not box.messages


async def test_sums_of_flow_are_published():
    publisher = Publisher(redis.asyncio.Redis(), Keys(), Metrics())
    publisher.listen(Audience(frozenset({"md.cvd.binance.BTC-USDT"}), patterns=False))
    box = publisher._boxes[PARTITION] = _Box()
    deltas = [Cvd("binance", name, None, 1, None, "1", "2") for name in ("BTC-USDT", "ETH-USDT")]
    _, entry = Script().entry("flow", *deltas)
    publisher.take(PARTITION, "flow", entry.lines)
    assert [(m.kind, m.channel) for m in box.empty()] == [("cvd", "md.cvd.binance.BTC-USDT")]


async def test_it_stops_in_time_closes_its_clients_and_gives_its_lease_back(stage: Stage):
    async with stage.broadcasting():
        lease = stage.keys.lease(PARTITION, "publisher")
        with stage.server.client() as control:
            await until(lambda: int(control.hget(lease, "until") or 0) > 0)
        async with stage.client() as client:
            began = time.monotonic()
            stage.stopping.set()
            with pytest.raises(Exception, match="1001"):
                await heard(client)
    assert time.monotonic() - began < 2.5
    with stage.server.client() as control:
        seconds, micros = control.time()
        assert int(control.hget(lease, "until") or 0) <= seconds * 1000 + micros // 1000
        assert control.hgetall(stage.keys.members("broadcaster")) == {}
