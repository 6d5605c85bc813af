"""What subscribers of the native protocol get, and in which order."""

from typing import Any

from broadcaster_rig import running, until
from native_rig import dial

from actors.model import codec
from actors.model.events import L1, Cvd, Gap, Status, Ticker


async def test_states_come_first_and_what_follows_continues_them():
    async with running() as r:
        client = await dial(r.url)
        s = r.script
        await r.tell(s.entry("books", s.book("snapshot", [("9", "1"), ("8", "2")], [("10", "1")], seq=5)))
        l1 = L1("binance", "BTC-USDT", None, 1, None, "9", "1", "10", "1")
        await r.tell(s.entry("books", l1, s.book("delta", [("9", "0"), ("8.5", "3")], [], seq=6)))
        await r.tell(s.entry("flow", Cvd("binance", "BTC-USDT", None, 1, None, "5", "500")))
        await r.tell(s.entry("events", s.trade()))
        ack = await client.subscribe(symbols=["BTC-*"])
        assert ack["symbols"] == {"binance": ["BTC-USDT"]}
        book, top, sums = [await client.next() for _ in range(3)]
        assert book["event"]["bids"] == [["8.5", "3"], ["8", "2"]]
        assert (book["cursor"], book["snapshot"]) == ("binance.0/books/1-3", True)
        assert top == {"id": 1, "cursor": "binance.0/books/1-2", "snapshot": True, "event": top["event"]}
        assert (top["event"]["bid"], sums["event"]["delta_base"]) == ("9", "5")
        assert (await client.next())["live"] == {
            "binance.0/events": "1-1", "binance.0/books": "1-3", "binance.0/flow": "1-1",
        }  # fmt: skip
        await r.tell(s.entry("books", s.book("delta", [("8", "0")], [], seq=7)))
        delta = await client.next()
        assert (delta["cursor"], delta["event"]["prev"]) == ("binance.0/books/1-4", 3)
        assert "snapshot" not in delta
        await client.connection.close()


async def test_an_event_goes_out_as_its_line_stands_in_the_stream():
    async with running() as r:
        client = await dial(r.url)
        await client.subscribe(kinds=["trade"])
        await client.until("live")
        trade = r.script.trade()
        await r.tell(r.script.entry("events", trade))
        raw = await client.connection.recv(decode=False)
        assert raw == b'{"id":1,"cursor":"binance.0/events/1-1","event":' + codec.encode(trade) + b"}"
        await client.connection.close()


async def test_who_gets_a_symbol_gets_its_gaps_and_states_and_nothing_else():
    async with running() as r:
        client = await dial(r.url)
        await client.subscribe(kinds=["trade"], symbols=["BTC-USDT"])
        await client.until("live")
        s = r.script
        await r.tell(
            s.entry(
                "events",
                s.trade("ETH-USDT"),
                Ticker("binance", "BTC-USDT", None, 1, None, last="1"),
                L1("binance", "BTC-USDT", None, 1, None, "9", "1", "10", "1"),
                Gap("binance", "BTC-USDT", None, 1, None, "trade", "sequence", "1", "2"),
                Gap("binance", "ETH-USDT", None, 1, None, "trade", "sequence", "1", "2"),
                Status("binance", None, None, 1, None, None, "down", "gone", conn="a.1"),
                s.trade(),
            )
        )
        await r.tell(
            s.entry("books", Gap("binance", "BTC-USDT", None, 1, None, "book", "sequence", "1", "2"))
        )
        await r.tell(s.entry("events", s.trade()))
        got = [(m["cursor"], m["event"]["kind"]) for m in await client.events(4)]
        assert got == [
            ("binance.0/events/1-4", "gap"),
            ("binance.0/events/1-6", "status"),
            ("binance.0/events/1-7", "trade"),
            ("binance.0/events/1-8", "trade"),
        ]
        await client.connection.close()


async def test_subscriptions_of_one_connection_are_told_apart_by_their_number():
    async with running() as r:
        client = await dial(r.url)
        await client.subscribe(id=1, kinds=["trade"])
        await client.until("live")
        await client.subscribe(id=2, kinds=["trade"], symbols=["eth/usdt"])
        await client.until("live")
        s = r.script
        await r.tell(s.entry("events", s.trade(), s.trade("ETH-USDT")))
        got = sorted((m["id"], m["cursor"][-3:]) for m in await client.events(3))
        assert got == [(1, "1-1"), (1, "1-2"), (2, "1-2")]
        assert (await client.ask(op="unsubscribe", id=1)) == {"op": "unsubscribed", "id": 1}
        await r.tell(s.entry("events", s.trade(), s.trade("ETH-USDT")))
        assert (await client.next())["id"] == 2
        listed = await client.ask(op="list", id=7)
        assert (listed["id"], [sub["id"] for sub in listed["subscriptions"]]) == (7, [2])
        await client.connection.close()


async def test_a_book_that_is_not_live_is_said_to_be_so():
    async with running() as r:
        s = r.script
        await r.tell(s.entry("books", s.book("snapshot", [("9", "1")], [("10", "1")])))
        await r.tell(s.entry("books", s.book("snapshot", [], [], state="resyncing", verified="none")))
        client = await dial(r.url)
        await client.subscribe(kinds=["book"])
        book = await client.next()
        assert (book["snapshot"], book["event"]["state"], book["event"]["bids"]) == (True, "resyncing", [])
        await client.until("live")
        await r.tell(s.entry("books", s.book("snapshot", [("7", "1")], [])))
        assert (await client.next())["event"]["state"] == "live"
        await client.connection.close()


async def test_without_snapshot_only_what_comes_is_told():
    async with running() as r:
        s = r.script
        await r.tell(s.entry("books", s.book("snapshot", [("9", "1")], [("10", "1")])))
        client = await dial(r.url)
        await client.subscribe(kinds=["book"], snapshot=False)
        assert "live" in await client.next()
        await client.connection.close()


async def test_a_view_is_whole_books_of_its_depth_at_its_interval():
    async with running() as r:
        s = r.script
        bids = [(str(90 - i), "1") for i in range(5)]
        await r.tell(s.entry("books", s.book("snapshot", bids, [("100", "1")], seq=1)))
        client = await dial(r.url)
        ack = await client.subscribe(kinds=["book", "l1", "trade"], depth=2, interval_ms=200)
        assert (ack["depth"], ack["interval_ms"]) == (2, 200)
        first = await client.next()
        assert (first["snapshot"], first["event"]["bids"]) == (True, [["90", "1"], ["89", "1"]])
        await client.until("live")
        got: list[Any] = []
        for i in range(50):
            l1 = L1("binance", "BTC-USDT", None, i, None, "9", str(i), "10", "1")
            await r.tell(s.entry("books", s.book("delta", [("90", str(i + 2))], [], seq=2 + i), l1))
            got += await client.events(2 if i == 0 else 0)
        await r.tell(s.entry("events", s.trade()))
        got += await client.events(3)
        trade = next(m for m in got if m["event"]["kind"] == "trade")
        assert trade["cursor"] == "binance.0/events/1-1"
        books = [m for m in got if m["event"]["kind"] == "book"]
        assert [m["event"]["bids"][0] for m in books] == [["90", "2"], ["90", "51"]]
        assert [len(m["event"]["bids"]) for m in books] == [2, 2]
        assert {m["event"]["type"] for m in books} == {"snapshot"}
        tops = [m["event"]["bid_size"] for m in got if m["event"]["kind"] == "l1"]
        assert tops == ["0", "49"]
        assert all(m["snapshot"] for m in got if m["event"]["kind"] != "trade")
        await client.connection.close()


async def test_what_was_missed_or_taken_back_is_told_with_its_range():
    async with running() as r:
        client = await dial(r.url)
        await client.subscribe(kinds=["trade"])
        await client.until("live")
        s = r.script
        await r.tell(s.entry("events", s.trade(), s.trade()))
        s.k["events"] += 10  # retention took these before we read them
        await r.tell(s.entry("events", s.trade()))
        s.epoch, s.k["events"] = 2, 11  # a failover lost 12 and 13
        await r.tell(s.entry("events", s.trade(), s.trade()))
        await client.events(2)
        span = {"after": "1-2", "to": "1-12"}
        assert await client.next() == {"id": 1, "skipped": {"binance.0/events": span}, "reason": "retention"}
        await client.events(1)
        assert await client.next() == {
            "id": 1,
            "rollback": {"binance.0/events": {"after": "1-11", "to": "1-13"}},
        }
        assert [m["cursor"][-4:] for m in await client.events(2)] == ["2-12", "2-13"]
        await client.connection.close()


async def test_heartbeats_tell_the_time_how_far_all_is_and_what_is_stale():
    async with running(heartbeat_s=0.2) as r:
        client = await dial(r.url)
        beat = await client.until("op", "heartbeat")
        assert (beat["stale"], "cursors" in beat) == (["binance.0"], False)
        await client.subscribe(kinds=["trade"], symbols=["ETH-USDT"])
        await client.until("live")
        await r.tick()
        await r.tell(r.script.entry("events", r.script.trade()))
        while (beat := await client.until("op", "heartbeat"))["cursors"]["binance.0/events"] != "1-2":
            pass
        assert beat["stale"] == []
        await client.connection.close()


async def test_a_line_that_is_no_event_is_counted_and_harms_nobody():
    async with running() as r:
        client = await dial(r.url)
        await client.subscribe(kinds=["trade"])
        await client.until("live")
        s = r.script
        stream, entry = s.entry("events", s.trade(), s.trade())
        await r.tell((stream, entry._replace(lines=[b"{]", entry.lines[1]])))
        assert (await client.next())["cursor"] == "binance.0/events/1-2"
        assert r.count("tapeline_skipped_total", reason="untranslatable") == 1
        await client.connection.close()


async def test_nothing_is_kept_while_nobody_is_connected():
    async with running() as r:
        assert not r.native._records
        client = await dial(r.url)
        await client.subscribe()
        assert r.native._records
        await client.connection.close()
        await until(lambda: not r.native._records)
        assert not list(r.native._groups)


async def test_groups_that_come_and_go_take_nothing_from_one_another():
    async with running() as r:
        s = r.script
        first, second = await dial(r.url), await dial(r.url)
        await first.subscribe(kinds=["trade"])
        await first.until("live")
        await r.tell(s.entry("events", s.trade(), s.trade("ETH-USDT")))  # from here on the targets are known
        await second.subscribe(kinds=["trade"], symbols=["ETH-*"])
        await second.until("live")
        await second.subscribe(id=2, kinds=["trade"], depth=1)
        while second.messages[-1].get("live") is None or second.messages[-1]["id"] != 2:
            await second.next()
        await r.tell(s.entry("events", s.trade(), s.trade("ETH-USDT")))
        assert sorted((m["id"], m["cursor"][-3:]) for m in await second.events(3)) == [
            (1, "1-4"), (2, "1-3"), (2, "1-4"),
        ]  # fmt: skip
        await second.connection.close()
        await until(lambda: len(list(r.native._groups)) == 1)
        await r.tell(s.entry("events", s.trade()))
        assert [m["cursor"][-3:] for m in await first.events(5)] == [f"1-{k}" for k in range(1, 6)]
        await first.connection.close()


async def test_a_torn_stream_of_books_is_told_and_its_states_are_said_again():
    async with running() as r:
        s = r.script
        await r.tell(s.entry("books", s.book("snapshot", [("9", "1")], [("10", "1")])))
        client = await dial(r.url)
        await client.subscribe(kinds=["book"])
        await client.until("live")
        s.k["books"] += 50
        await r.tell(s.entry("books", s.book("delta", [("9", "2")], [])))
        assert not r.follower.ready
        newcomer = await dial(r.url)
        await newcomer.subscribe(kinds=["book"])  # waits until the books are whole again
        r.follower.shelf.clear()
        _, entry = s.entry("books", s.book("snapshot", [("8", "3")], []))
        r.follower.shelf.take(entry.epoch, entry.k, entry.lines[0])
        r.follower._stand_at(entry.cursor)
        notice = await client.next()
        assert notice == {
            "id": 1,
            "skipped": {"binance.0/books": {"after": "1-1", "to": "1-53"}},
            "reason": "retention",
        }
        for one in (client, newcomer):
            said = await one.next()
            assert (said["snapshot"], said["event"]["bids"]) == (True, [["8", "3"]])
        await newcomer.until("live")
        await r.tell(s.entry("books", s.book("delta", [("8", "4")], [])))
        for one in (client, newcomer):
            assert (await one.events(1))[0]["cursor"] == "binance.0/books/1-54"
            await one.connection.close()


async def test_books_that_a_failover_took_back_are_told_and_then_what_is_read_back_and_not_sent():
    async with running() as r:
        s = r.script
        await r.tell(s.entry("books", s.book("snapshot", [("9", "1")], [("10", "1")])))
        client = await dial(r.url)
        await client.subscribe(kinds=["book"])
        await client.until("live")
        for size in "23":
            await r.tell(s.entry("books", s.book("delta", [("9", size)], [])))
        await client.events(2)
        s.epoch, s.k["books"], s.prev = 2, 1, {}  # a failover lost 2 and 3
        r.follower.shelf.clear()
        for what, size in (("snapshot", "3"), ("delta", "4")):
            _, entry = s.entry("books", s.book(what, [("8", size)], []))
            await r.tell(("books", entry))
            r.follower.shelf.take(entry.epoch, entry.k, entry.lines[0])
        r.follower._stand_at(entry.cursor)
        assert await client.next() == {
            "id": 1,
            "rollback": {"binance.0/books": {"after": "1-1", "to": "1-3"}},
        }
        assert await client.next() == {
            "id": 1,
            "skipped": {"binance.0/books": {"after": "1-1", "to": "2-3"}},
            "reason": "retention",
        }
        said = await client.next()
        assert (said["snapshot"], said["event"]["bids"]) == (True, [["8", "4"]])
        await client.connection.close()
