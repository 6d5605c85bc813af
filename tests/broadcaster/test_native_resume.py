"""Going on where one was: nothing missing, nothing twice, or told exactly what is gone."""

import random

import anyio
import pytest
from broadcaster_rig import PARTITION, until
from load_rig import Load, arrived, each_once, same_books
from native_rig import Heard, side
from stage_rig import Stage

from actors.model.events import L1, Cvd

pytestmark = pytest.mark.redis


async def test_a_client_that_comes_back_misses_nothing_and_hears_nothing_twice(stage: Stage):
    load = Load(stage.server, stage.script)
    for _ in range(3):
        load.write()
    async with stage.broadcasting(), anyio.create_task_group() as tg:
        client = await stage.native()
        await client.subscribe()
        await client.until("live")
        heard = client.heard
        first = {stream: int(cursor.split("-")[1]) for stream, cursor in heard.cursors.items()}
        tg.start_soon(load.run)
        for i in range(12):
            await client.events(random.Random(i).randint(1, 300))
            await client.connection.close() if i % 2 else client.connection.transport.abort()
            await anyio.sleep(0.02 * (i % 3))
            client = await stage.native(heard)
            await client.resume()
        load.stopped = True
        while not arrived(heard, load):
            await client.next()
        each_once(heard, load, first)
        same_books(heard, load)
        assert not heard.notices
        assert stage.count("tapeline_replayed_events_total") > 0
        await client.connection.close()


async def test_what_is_not_retained_any_more_is_named_and_the_rest_comes(stage: Stage):
    load = Load(stage.server, stage.script)
    load.write(40)
    load.write(1)
    async with stage.broadcasting():
        heard = Heard()
        heard.cursors = {"binance.0/events": "1-5", "binance.0/books": "1-7", "binance.0/flow": "0-0"}
        with stage.server.client() as control:
            control.xtrim(stage.keys.stream(PARTITION, "books"), minid="1-39", approximate=False)
            control.xtrim(stage.keys.stream(PARTITION, "events"), minid="1-41", approximate=False)
        client = await stage.native(heard)
        hello = client.messages[0]
        assert hello["retained"]["binance.0"]["books"] == {"after": "1-38", "to": "1-82"}
        await client.resume()
        load.write()
        await client.until("live")
        while heard.ks["binance.0/books"][-1] < stage.script.k["books"]:
            await client.next()
        assert heard.notices == [
            {"id": 1, "skipped": {"binance.0/events": {"after": "1-5", "to": "1-40"}}, "reason": "retention"},
            {"id": 1, "skipped": {"binance.0/books": {"after": "1-7", "to": "1-38"}}, "reason": "retention"},
        ]
        each_once(heard, load, {"binance.0/events": 40, "binance.0/books": 38})
        await client.connection.close()


async def test_a_stream_that_is_gone_takes_back_all_of_it(stage: Stage):
    load = Load(stage.server, stage.script)
    async with stage.broadcasting():
        heard = Heard()
        heard.cursors = {"binance.0/events": "1-5"}
        client = await stage.native(heard)
        await client.resume(kinds=["trade"])
        assert await client.until("rollback") == {
            "id": 1, "rollback": {"binance.0/events": {"after": "0-0", "to": "1-5"}},
        }  # fmt: skip
        await client.until("live")
        stage.script.epoch = 2
        load.write(1)
        assert (await client.events(1))[0]["cursor"] == "binance.0/events/2-1"
        await client.connection.close()


async def test_what_a_failover_took_back_is_told_to_whoever_resumes(stage: Stage):
    s = stage.script
    stage.write("events", *[s.trade() for _ in range(20)])
    stage.write("events", *[s.trade() for _ in range(10)])
    with stage.server.client() as control:
        control.xdel(stage.keys.stream(PARTITION, "events"), "1-30")
    s.epoch, s.k["events"] = 5, 20
    async with stage.broadcasting():
        heard = Heard()
        heard.cursors = {"binance.0/events": "1-28"}
        client = await stage.native(heard)
        await client.resume(kinds=["trade"])  # what was lost is not written again yet
        assert (await client.until("rollback"))["rollback"] == {
            "binance.0/events": {"after": "1-20", "to": "1-28"}
        }
        await client.until("live")
        stage.write("events", s.trade(), s.trade())
        assert [m["cursor"][-4:] for m in await client.events(2)] == ["5-21", "5-22"]

        later = Heard()
        later.cursors = {"binance.0/events": "1-28"}
        again = await stage.native(later)
        await again.resume(kinds=["trade"])
        assert (await again.until("rollback"))["rollback"] == {
            "binance.0/events": {"after": "1-20", "to": "1-28"}
        }
        assert [m["cursor"][-4:] for m in await again.events(2)] == ["5-21", "5-22"]
        for one in (client, again):
            await one.connection.close()


async def test_what_stood_before_the_first_connection_is_read_back(stage: Stage):
    s = stage.script
    stage.write("flow", Cvd("binance", "ETH-USDT", None, 1, None, "3", "30"))
    stage.write("flow", *[Cvd("binance", "BTC-USDT", None, 1, None, str(i), "1") for i in range(400)])
    stage.write("books", L1("binance", "BTC-USDT", None, 1, None, "9", "1", "10", "1"))
    stage.write("books", s.book("snapshot", [("9", "1")], [("10", "1")]))
    with stage.server.client() as control:  # an L1 that is retained no more
        top = stage.keys.latest(PARTITION, "top", "ETH-USDT")
        control.set(
            top,
            '{"venue":"binance","symbol":"ETH-USDT","state":"live","ts":5,"ts_event":null,"ts_recv":4,'
            '"seq":null,"bid":"5","bid_size":"1","ask":"6","ask_size":"1"}',
        )
    async with stage.broadcasting():
        client = await stage.native()
        await client.subscribe()
        await client.until("live")
        said = {(m["event"]["kind"], m["event"]["symbol"]): m["event"] for m in client.heard.states}
        assert said.keys() == {(k, s) for k in ("l1", "cvd") for s in ("BTC-USDT", "ETH-USDT")} | {
            ("book", "BTC-USDT")
        }
        assert said["cvd", "BTC-USDT"]["delta_base"] == "399"
        assert said["cvd", "ETH-USDT"]["delta_base"] == "3"
        assert (said["l1", "BTC-USDT"]["bid"], said["l1", "ETH-USDT"]["bid"]) == ("9", "5")
        await client.connection.close()


async def test_who_is_far_back_delays_nobody_and_is_not_kept_in_memory(stage: Stage):
    load = Load(stage.server, stage.script)
    with stage.server.client() as control:
        pipe = control.pipeline()
        for _ in range(300):  # 30,000 events, some 6 MB
            _, entry = stage.script.entry("events", *[stage.script.trade() for _ in range(100)])
            fields = {"n": 100, "d": b"\n".join(entry.lines)}
            pipe.xadd(stage.keys.stream(PARTITION, "events"), fields, id=str(entry.cursor))
        pipe.execute()
    async with stage.broadcasting(), anyio.create_task_group() as tg:
        live = await stage.native()
        await live.subscribe(kinds=["trade"])
        await live.until("live")
        tg.start_soon(load.run)
        heard = Heard()
        heard.cursors = {"binance.0/events": "0-0"}
        back = await stage.native(heard)
        await back.resume(kinds=["trade"])
        most = 0

        async def read_slowly() -> None:
            while heard.lives == 0:
                await back.next()

        async def watch() -> None:
            nonlocal most
            while heard.lives == 0:
                before = len(live.heard.events)
                await live.events(20)
                assert len(live.heard.events) >= before + 20
                most = max(most, int(stage.count("tapeline_client_buffer_bytes")))

        async with anyio.create_task_group() as both:
            both.start_soon(read_slowly)
            both.start_soon(watch)
        load.stopped = True
        await until(lambda: heard.lives == 1)
        while heard.ks["binance.0/events"][-1] < stage.script.k["events"]:
            await back.next()
        assert heard.ks["binance.0/events"] == list(range(1, stage.script.k["events"] + 1))
        assert most < 2 * 1024 * 1024
        for one in (live, back):
            await one.connection.close()


async def test_a_line_that_is_no_event_stops_no_replay(stage: Stage):
    stage.write("events", stage.script.trade())
    stage.write_line("events", b"{]")
    stage.write("events", stage.script.trade())
    async with stage.broadcasting():
        heard = Heard()
        heard.cursors = {"binance.0/events": "0-0"}
        client = await stage.native(heard)
        await client.resume(kinds=["trade"])
        await client.until("live")
        assert heard.ks == {"binance.0/events": [1, 3]}
        await client.connection.close()


async def test_who_leaves_in_the_middle_of_a_replay_leaves_nothing_behind(stage: Stage):
    load = Load(stage.server, stage.script)
    for _ in range(60):
        load.write(40)
    async with stage.broadcasting():
        for leave in ("unsubscribe", "cut"):
            heard = Heard()
            heard.cursors = {"binance.0/events": "0-0", "binance.0/books": "0-0"}
            client = await stage.native(heard)
            await client.resume()
            await client.events(10)
            if leave == "unsubscribe":
                answer = await client.ask(op="unsubscribe", id=1)
                assert answer == {"op": "unsubscribed", "id": 1}
                assert (await client.ask(op="list"))["subscriptions"] == []
                told = len(heard.events)
                load.write(40)
                assert (await client.ask(op="ping"))["op"] == "pong"
                assert len(heard.events) == told
                await client.connection.close()
            else:
                client.connection.transport.abort()
        await until(lambda: stage.count("tapeline_clients", dialect="native") == 0)
        assert stage.count("tapeline_subscribers", state="live") == 0
        again = await stage.native()
        await again.subscribe(kinds=["trade"])
        await again.until("live")
        load.write(1)
        await again.events(1)
        await again.connection.close()


async def test_a_view_that_resumes_gets_its_events_and_the_books_as_they_are(stage: Stage):
    load = Load(stage.server, stage.script)
    load.write(30)
    async with stage.broadcasting():
        heard = Heard()
        heard.cursors = {"binance.0/events": "1-10", "binance.0/books": "1-3"}
        client = await stage.native(heard)
        await client.resume(kinds=["trade", "book"], depth=3)
        await client.until("live")
        assert heard.ks == {"binance.0/events": list(range(11, 31))}
        for symbol, (bids, asks) in load.books.items():
            (said,) = [m["event"] for m in heard.states if m["event"]["symbol"] == symbol]
            assert side(said["bids"]) == {p: bids[p] for p in sorted(bids, reverse=True)[:3]}
            assert side(said["asks"]) == {p: asks[p] for p in sorted(asks)[:3]}
        await client.connection.close()
