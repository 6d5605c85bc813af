"""The forwarder between a real Redis and a master: each event once and in order, whatever breaks."""

import json
import socketserver
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from forwarder_rig import (
    KEY,
    SYMBOLS,
    Predecessor,
    Script,
    StartServer,
    Streams,
    forwarding,
    settings_of,
    until,
)
from master_rig import master, stored
from redis_rig import free_port
from schemas import conforms
from websockets.asyncio.server import ServerConnection, serve

from actors import forwarder
from actors.config import VenueSettings
from actors.dialects import ftsobest
from actors.forwarder import report, senders
from actors.forwarder.pool import Pool
from actors.runtime.exporter import exporting
from actors.runtime.lifecycle import Actor
from actors.runtime.metrics import Metrics
from actors.streams.keys import Cursor

pytestmark = pytest.mark.redis


def cursors(folder: Path, stream: str = "events") -> list[Cursor]:
    """Cursors of everything that a master holds of a stream, in the order it stands there."""
    sources = [*(folder / "acked").iterdir()] if (folder / "acked").exists() else []
    assert len(sources) <= 1
    found = [m for source in sources for m in stored(source, "binance.0", stream)]
    return [Cursor.parse(message["cursor"].rpartition("/")[2]) for message in found]


def tellable(k: int, per_entry: int) -> list[Cursor]:
    """The trades among ``k`` events of a script whose entries end with a tick."""
    return [Cursor(7, i) for i in range(1, k + 1) if i % per_entry]


async def test_everything_after_the_first_start_reaches_the_files_in_order(
    redis_server: StartServer, tmp_path: Path
):
    server = redis_server()
    script, streams = Script(), Streams(server)
    streams.add("events", script.events(10))  # before anybody forwards: the newest is where it begins
    async with master(tmp_path / "m") as rig, forwarding(settings_of(server, rig.url)) as made:
        await until(lambda: streams.cursor("events") == Cursor(7, 10))
        for _ in range(30):
            streams.add("events", script.events(10))
            streams.add("books", script.books(20))
        await until(lambda: streams.cursor("events") == Cursor(7, 310))
        await until(lambda: streams.cursor("books") == Cursor(7, 600))
        assert cursors(tmp_path / "m") == tellable(310, 10)[9:]
        assert made.count("tapeline_forward_acked_total", kind="trade") == 270
        assert made.count("tapeline_forward_connections", state="ready") == 1
        assert made.count("tapeline_forward_reconnects_total", reason="dropped") == 0
    views = cursors(tmp_path / "m", "books")
    assert views == sorted({*views})
    assert len(views) > 20


async def test_a_restart_goes_on_where_the_master_is(redis_server: StartServer, tmp_path: Path):
    server = redis_server()
    script, streams = Script(), Streams(server)
    async with master(tmp_path / "m") as rig:
        settings = settings_of(server, rig.url, ttl_s=0.3)
        for killed in (True, False, True, False):
            async with forwarding(settings, kill=killed):
                await until(lambda: streams.cursor("events") is not None)
                for _ in range(10):
                    streams.add("events", script.events(10))
                if not killed:
                    last = Cursor(7, script.k["events"])
                    await until(lambda last=last: streams.cursor("events") == last)
    assert cursors(tmp_path / "m") == tellable(400, 10)


async def test_the_master_s_cursor_wins_over_that_in_redis(redis_server: StartServer, tmp_path: Path):
    server = redis_server()
    script, streams = Script(), Streams(server)
    ck = streams.keys.cursor(streams.partition, "forwarder")
    async with master(tmp_path / "m") as rig:
        settings = settings_of(server, rig.url, ttl_s=0.3)
        async with forwarding(settings):
            await until(lambda: streams.cursor("events") is not None)
            for _ in range(10):
                streams.add("events", script.events(10))
            await until(lambda: streams.cursor("events") == Cursor(7, 100))
        streams.client.hset(ck, "c:events", "7-30")  # Redis was restored: the master has more
        async with forwarding(settings) as made:
            streams.add("events", script.events(10))
            await until(lambda: streams.cursor("events") == Cursor(7, 110))
            assert made.count("tapeline_forward_sent_total", kind="trade") == 9
        assert cursors(tmp_path / "m") == tellable(110, 10)
    # another master, restored from a copy that is older than what it once acknowledged
    async with master(tmp_path / "old") as rig:
        settings = settings_of(server, rig.url, ttl_s=0.3)
        streams.client.hset(ck, "c:events", "7-0")
        async with forwarding(settings):
            await until(lambda: streams.cursor("events") == Cursor(7, 110))
        streams.client.hset(ck, "c:events", "7-110")
        streams.add("events", script.events(10))
    (file,) = (tmp_path / "old/acked").glob("*/binance.0/events/*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    kept = [i for i, line in enumerate(lines) if b'"commit"' in line][1]
    file.write_bytes(b"".join(lines[: kept + 1]))
    assert len(cursors(tmp_path / "old")) < 99
    async with master(tmp_path / "old") as rig, forwarding(settings_of(server, rig.url)) as made:
        await until(lambda: streams.cursor("events") == Cursor(7, 120))
    assert cursors(tmp_path / "old") == tellable(120, 10)


async def test_an_outage_of_the_master_loses_nothing(redis_server: StartServer, tmp_path: Path):
    server = redis_server()
    script, streams, port = Script(), Streams(server), free_port()
    settings = settings_of(server, f"ws://127.0.0.1:{port}", connections=2)
    async with forwarding(settings) as made:
        await until(lambda: streams.cursor("events") is not None)
        for _ in range(3):
            for _ in range(20):
                streams.add("events", script.events(10))
                streams.add("books", script.books(10))
            async with master(tmp_path / "m", port=port):
                last = Cursor(7, script.k["events"])
                await until(lambda last=last: streams.cursor("events") == last)
                for _ in range(5):
                    streams.add("events", script.events(10))
        async with master(tmp_path / "m", port=port):
            await until(lambda: streams.cursor("events") == Cursor(7, 750))
        assert made.count("tapeline_forward_reconnects_total", reason="unreachable") > 0
    assert cursors(tmp_path / "m") == tellable(750, 10)
    views = cursors(tmp_path / "m", "books")
    assert views == sorted({*views})


async def test_an_acknowledgement_that_never_comes_gives_the_socket_up(
    redis_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(senders, "_ACK_S", 0.2)
    server = redis_server()
    script, streams = Script(), Streams(server)
    async with (
        master(tmp_path / "m") as rig,
        forwarding(settings_of(server, rig.url, connections=2)) as made,
    ):
        await until(lambda: made.count("tapeline_forward_connections", state="ready") == 2)
        await until(lambda: streams.cursor("events") is not None)
        commit, calls = rig.store.commit, 0

        async def stuck() -> None:
            nonlocal calls
            calls += 1
            if calls < 3:
                await anyio.sleep(0.5)
            await commit()

        monkeypatch.setattr(rig.store, "commit", stuck)
        streams.add("events", script.events(10))
        await until(lambda: streams.cursor("events") == Cursor(7, 10))
        assert made.count("tapeline_forward_reconnects_total", reason="dropped") > 0
        assert made.count("tapeline_forward_resent_total") > 0
    assert cursors(tmp_path / "m") == tellable(10, 10)


async def test_what_retention_took_is_a_gap_in_the_files(redis_server: StartServer, tmp_path: Path):
    server = redis_server()
    script, streams, port = Script(), Streams(server), free_port()
    async with forwarding(settings_of(server, f"ws://127.0.0.1:{port}")) as made:
        await until(lambda: streams.cursor("events") is not None)
        async with master(tmp_path / "m", port=port):
            streams.add("events", script.events(10))
            await until(lambda: streams.cursor("events") == Cursor(7, 10))
        await made.stop()
        for _ in range(5):
            streams.add("events", script.events(10))
        streams.trim("events", Cursor(7, 40))
    async with master(tmp_path / "m", port=port) as rig, forwarding(settings_of(server, rig.url)) as made:
        await until(lambda: streams.cursor("events") == Cursor(7, 60))
        assert made.count("tapeline_trimmed_unread_total", role="forwarder", partition="binance.0") == 20
    (source,) = (tmp_path / "m/acked").iterdir()
    said = stored(source, "binance.0", "events")
    (gap,) = [message for message in said if message["type"] == "gap"]
    assert (gap["cause"], gap["first"], gap["last"], gap["cursor"]) == (
        "retention", "11", "30", "binance.0/events/7-30",
    )  # fmt: skip
    assert said.index(gap) == 9


async def test_a_rollback_is_told_and_what_follows_it_is_forwarded(redis_server: StartServer, tmp_path: Path):
    server = redis_server()
    script, streams = Script(), Streams(server)
    async with master(tmp_path / "m") as rig, forwarding(settings_of(server, rig.url)) as made:
        await until(lambda: streams.cursor("events") is not None)
        streams.add("events", script.events(10))
        await until(lambda: streams.cursor("events") == Cursor(7, 10))
        script.epoch, script.k["events"] = 8, 5  # a failover took the last five back
        streams.add("events", script.events(10))
        await until(lambda: streams.cursor("events") == Cursor(8, 15))
        assert made.count("tapeline_rollbacks_total", role="forwarder", partition="binance.0") == 1
    (source,) = (tmp_path / "m/acked").iterdir()
    said = stored(source, "binance.0", "events")
    assert [(m["type"], m["cursor"].rpartition("/")[2]) for m in said][9:11] == [
        ("gap", "8-5"), ("trade", "8-6"),
    ]  # fmt: skip
    assert said[9]["cause"] == "rollback"


async def test_several_instances_share_the_work_and_take_over(redis_server: StartServer, tmp_path: Path):
    server = redis_server()
    script, streams = Script(), Streams(server)
    async with master(tmp_path / "m") as rig:
        settings = settings_of(server, rig.url, ttl_s=0.3)
        async with forwarding(settings):
            async with forwarding(settings, kill=True):
                await until(lambda: streams.cursor("events") is not None)
                for _ in range(10):
                    streams.add("events", script.events(10))
                    await anyio.sleep(0.01)
            for _ in range(10):
                streams.add("events", script.events(10))
            await until(lambda: streams.cursor("events") == Cursor(7, 200))
    assert cursors(tmp_path / "m") == tellable(200, 10)


@pytest.mark.parametrize("protocol", ["acked", "ftsobest"])
async def test_lanes_spread_over_the_sockets_as_these_come_back(
    redis_server: StartServer, tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
):
    pools: list[Pool] = []

    async def noted(actor: Actor) -> Pool:
        pools.append(await made_pool(actor))
        return pools[0]

    made_pool = forwarder._pool
    monkeypatch.setattr(forwarder, "_pool", noted)
    server, port = redis_server(), free_port()
    venues = {venue: VenueSettings(symbols=SYMBOLS) for venue in ("binance", "okx", "kraken", "bybit")}
    settings = settings_of(server, f"ws://127.0.0.1:{port}", protocol=protocol, connections=4)
    settings = settings.model_copy(update={"venues": venues})
    script, streams = Script(), Streams(server)
    n = 0

    def spread() -> bool:  # under load: there is always something on its way
        nonlocal n
        streams.add("events", script.events(10))
        n += 9
        return [len(socket.lanes) for socket in pools[0].sockets] == [2, 2, 2, 2]

    async with forwarding(settings) as made:
        await until(lambda: streams.cursor("books") is not None)
        for _ in range(2):
            async with master(tmp_path / "m", port=port):
                await until(spread)
                await until(lambda: made.count("tapeline_forward_sent_total", kind="trade") >= n)
                await anyio.sleep(1.5)  # version 1: until it is proved
    if protocol == "acked":
        assert cursors(tmp_path / "m") == tellable(script.k["events"], 10)
    else:
        held = [m["timestamp"] for m in stored(tmp_path / "m", "ftsobest", "binance", "trade")]
        assert held == sorted({*held})
        assert len(held) + made.count("tapeline_forward_lost_total", reason="socket") >= n


async def test_a_refused_key_is_said_and_tried_again_slowly(
    redis_server: StartServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    server = redis_server()
    async with (
        master(tmp_path / "m", keys=["another"]) as rig,
        forwarding(settings_of(server, rig.url)) as made,
    ):
        await until(lambda: made.count("tapeline_forward_reconnects_total", reason="refused") >= 2)
        assert rig.count("tapeline_master_refused_total", reason="key") <= 4
    out, err = capfd.readouterr()
    assert KEY not in out + err


async def test_a_master_that_does_not_speak_the_acknowledged_form_is_not_believed(redis_server: StartServer):
    server = redis_server()
    async with (
        Predecessor().serving() as theirs,
        forwarding(settings_of(server, theirs.url)) as made,
    ):
        await until(lambda: len(theirs.sockets) == 1)
        await theirs.sockets[0].send('{"hello":1}')
        await until(lambda: made.count("tapeline_forward_reconnects_total", reason="refused") == 1)
        assert made.count("tapeline_forward_connections", state="ready") == 0


ACK = '{"op":"ack","partition":"binance.0","stream":"events","last":'
WELCOME = '{"op":"welcome","cursors":{"binance.0/events":'


@pytest.mark.parametrize(
    "nonsense",
    [
        [WELCOME + '"x"}}'],
        [WELCOME + '"7--3"}}'],  # Redis would refuse to read after it
        [WELCOME + '"7-1"}}', ACK + '"7"}'],
        [WELCOME + '"7-1"}}', ACK + '"99999999999999999999999-1"}'],
        [WELCOME + '"7-1"}}', ACK + '"7-1","more":' + "[" * 5000 + "]" * 5000 + "}"],
    ],
)
async def test_a_master_that_talks_nonsense_costs_its_socket_and_not_the_forwarder(
    redis_server: StartServer, nonsense: list[str]
):
    server = redis_server()
    streams = Streams(server)

    async def talk(socket: ServerConnection) -> None:
        await socket.recv()
        await until(lambda: streams.cursor("books") is not None)  # there are lanes
        for text in nonsense:
            await socket.send(text)
        await socket.wait_closed()

    async with (
        serve(talk, "127.0.0.1", 0) as theirs,
        forwarding(settings_of(server, f"ws://127.0.0.1:{theirs.sockets[0].getsockname()[1]}")) as made,
    ):
        await until(lambda: made.count("tapeline_forward_reconnects_total", reason="refused") >= 2)


async def test_a_master_s_ping_is_answered(redis_server: StartServer):
    heard: list[str | bytes] = []

    async def ask(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"op":"welcome","cursors":{}}')
        await socket.send('{"op":"ping"}')
        heard.append(await socket.recv())
        heard.append(await socket.recv())
        await socket.wait_closed()

    server = redis_server()
    async with (
        serve(ask, "127.0.0.1", 0) as theirs,
        forwarding(settings_of(server, f"ws://127.0.0.1:{theirs.sockets[0].getsockname()[1]}")),
    ):
        await until(lambda: '{"op":"pong"}' in heard)


# ---------------------------------------------------------------------------------------- version 1


def in_order(frames: list[list[str]]) -> bool:
    """Whether every symbol's trades stand in order on every socket."""
    for socket in frames:
        last: dict[Any, int] = {}
        for frame in socket[1:]:
            message = json.loads(frame)
            if message.get("type") == "trade":
                key = message["symbol"]
                if message["timestamp"] <= last.get(key, 0):
                    return False
                last[key] = message["timestamp"]
    return True


async def test_the_predecessor_s_master_sees_its_own_collector(redis_server: StartServer):
    server = redis_server()
    script, streams = Script(), Streams(server)
    async with Predecessor().serving() as theirs:
        settings = settings_of(server, theirs.url, protocol="ftsobest", connections=3)
        async with forwarding(settings) as made:
            await until(lambda: streams.cursor("events") is not None)
            await until(lambda: len(theirs.frames) == 3)
            for _ in range(20):
                streams.add("events", script.events(10))
                streams.add("books", script.books(20))
            await until(lambda: streams.cursor("events", "d") == Cursor(7, 200))
            await until(lambda: streams.cursor("books", "d") == Cursor(7, 400))
            assert made.count("tapeline_forward_lost_total", reason="socket") == 0
    for frames in theirs.frames:
        assert frames[:2] == [f"key={KEY}&role=collector", ftsobest.PING]
        for frame in frames[1:]:
            conforms("ftsobest", frame)
    trades = [m for m in theirs.messages() if m["type"] == "trade"]
    assert [m["timestamp"] for m in trades] == sorted({m["timestamp"] for m in trades})
    assert len(trades) == 180
    books = [m for m in theirs.messages() if m["type"] == "book"]
    assert {m["symbol"] for m in books} == {symbol.replace("-", "/") for symbol in SYMBOLS}
    assert all(len(m["asks"]) <= 20 for m in books)


async def test_to_the_predecessor_s_master_a_broken_socket_loses_at_most_what_is_counted(
    redis_server: StartServer,
):
    server = redis_server()
    script, streams = Script(), Streams(server)
    async with Predecessor().serving() as theirs:
        settings = settings_of(server, theirs.url, protocol="ftsobest", connections=4)
        async with forwarding(settings) as made:
            await until(lambda: streams.cursor("events") is not None)
            for i in range(120):
                streams.add("events", script.events(10))
                await anyio.sleep(0.002)
                if i % 10 == 5:
                    await until(lambda: theirs.sockets)
                    script.dice.choice(theirs.sockets).transport.abort()
            await until(lambda: streams.cursor("events", "d") == Cursor(7, 1200))
            counted = made.count("tapeline_forward_lost_total", reason="socket")
    trades = [m["timestamp"] for m in theirs.messages() if m["type"] == "trade"]
    assert len(trades) == len({*trades}), "at most once"
    assert 1080 - len(trades) <= counted
    assert in_order(theirs.frames)


async def test_a_master_that_refuses_the_key_is_given_nothing(redis_server: StartServer, tmp_path: Path):
    server, port = redis_server(), free_port()
    script, streams = Script(), Streams(server)
    settings = settings_of(server, f"ws://127.0.0.1:{port}", protocol="ftsobest", connections=3)
    async with forwarding(settings) as made:
        async with master(tmp_path / "m", port=port, keys=["another"]) as rig:
            await until(lambda: streams.cursor("events") is not None)
            for _ in range(3):
                streams.add("events", script.events(10))
            await until(lambda: rig.count("tapeline_master_refused_total", reason="key") >= 6)
            assert made.count("tapeline_forward_sent_total", kind="trade") == 0
        async with master(tmp_path / "m", port=port):
            await until(lambda: len(stored(tmp_path / "m", "ftsobest", "binance", "trade")) == 27)


async def test_a_killed_forwarder_counts_what_it_may_have_lost(redis_server: StartServer):
    server = redis_server()
    script, streams = Script(), Streams(server)
    async with Predecessor().serving() as theirs:
        settings = settings_of(server, theirs.url, protocol="ftsobest", ttl_s=0.3)
        async with forwarding(settings, kill=True):
            await until(lambda: streams.cursor("events") is not None and theirs.sockets)
            for _ in range(30):
                streams.add("events", script.events(10))
            await until(lambda: len(theirs.messages()) > 50)
        async with forwarding(settings) as made:
            await until(lambda: streams.cursor("events", "d") == Cursor(7, 300))
            counted = made.count("tapeline_forward_lost_total", reason="restart")
    trades = [m["timestamp"] for m in theirs.messages() if m["type"] == "trade"]
    assert len(trades) == len({*trades})
    assert 270 - len(trades) <= counted


# ------------------------------------------------------------------------------------ standard output


async def test_debug_log_prints_the_predecessor_s_metrics_line(
    redis_server: StartServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(forwarder, "print_metrics", partial(report.print_metrics, every_s=0.05))
    server = redis_server()
    script, streams = Script(), Streams(server)
    others = Metrics()
    others.gauge("tapeline_venue_up", 1, venue="binance")
    others.gauge("tapeline_connections", 2, venue="binance")
    others.count("tapeline_frames_total", 40, venue="binance")
    monkeypatch.setenv("PORT", "0")
    with exporting(others, "connector") as address:
        member = {"metrics": address, "until": time.time_ns() // 10**6 + 60_000}
        streams.client.hset(streams.keys.members("connector"), "one", json.dumps(member))
        settings = settings_of(server, None, demo=True, protocol="ftsobest", debug_log=True)
        async with forwarding(settings) as made:
            await until(lambda: streams.cursor("events") is not None)
            streams.add("events", script.events(10))
            await until(lambda: made.count("tapeline_forward_sent_total", kind="trade") == 9)
            said = ""

            def told() -> bool:
                nonlocal said
                said += capfd.readouterr().out
                return "recv=40 sent=9 " in said

            await until(told)
    line = next(line for line in said.splitlines() if "recv=40 sent=9 " in line)
    assert line == (
        "[METRICS] ex=1 ws=2 tp=3 ob=3 recv=40 sent=9 dropped=0 parse_err=0 send_err=0 reconnects=0 "
        "sub_send=0 sub_send_err=0"
    )


def test_an_actor_that_is_killed_while_it_answers_counts_as_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # these addresses are of this host
    with socketserver.TCPServer(("127.0.0.1", 0), Dying) as server:
        threading.Thread(target=server.handle_request).start()
        assert report._ask(f"127.0.0.1:{server.server_address[1]}") == []
        assert Dying.asked


class Dying(socketserver.StreamRequestHandler):
    """Promises more than it says."""

    asked = False

    def handle(self) -> None:
        Dying.asked = self.rfile.readline().startswith(b"GET /metrics")
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ntapeline_x 1")


async def test_a_demo_prints_what_it_would_send(redis_server: StartServer, capfd: pytest.CaptureFixture[str]):
    server = redis_server()
    script, streams = Script(), Streams(server)
    async with forwarding(settings_of(server, None, demo=True, protocol="ftsobest")):
        await until(lambda: streams.cursor("events") is not None)
        streams.add("events", script.events(10))
        await until(lambda: streams.cursor("events", "d") == Cursor(7, 10))
    out, err = capfd.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("DEMO ")]
    assert len(lines) == 9
    for line in lines:
        conforms("ftsobest", line.removeprefix("DEMO → "))
    assert err.startswith("MasterPool running in DEMO mode\n")
