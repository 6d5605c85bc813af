"""The reference master: who may speak, what is held, what is acknowledged, and what a restart keeps."""

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import anyio
import pytest
from master_rig import KEY, Rig, batch, heard, master, plain, stored, trade, until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from actors.config import ConfigError
from actors.dialects import ftsobest
from actors.master import journal, server
from actors.master.store import Store

DEEP = "[" * 5000 + "]" * 5000
# As a line of a file it would end a batch of nothing, whose checksum agrees.
FORGED = '{"type":"commit","after":"0-0","last":"9-900","n":0,"crc":0,"ts":0,"type"'


def acked(last: int, epoch: int = 7) -> dict[str, Any]:
    return {"op": "ack", "partition": "binance.0", "stream": "events", "last": f"{epoch}-{last}"}


async def test_a_batch_is_acknowledged_when_it_is_in_the_files(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector() as socket:
        assert await heard(socket) == {"op": "welcome", "cursors": {}}
        await socket.send(batch(1, 3))
        assert await heard(socket) == acked(3)
        assert rig.ids() == [1, 2, 3]
        assert stored(tmp_path, "acked", "one", "binance.0", "events")[0] == json.loads(trade(1))
        assert rig.count("tapeline_master_messages_total", kind="trade") == 3


async def test_repetitions_are_acknowledged_and_not_kept_twice(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector() as first, rig.collector() as second:
        for socket in (first, second):
            await heard(socket)
        await first.send(batch(1, 3))
        await heard(first)
        await second.send(batch(1, 2))
        assert await heard(second) == acked(3)
        await second.send(batch(2, 6))
        assert await heard(second) == acked(6)
        assert rig.ids() == [1, 2, 3, 4, 5, 6]
        assert rig.count("tapeline_master_duplicates_total") == 4


async def test_what_lies_between_is_asked_for(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector() as socket:
        await heard(socket)
        await socket.send(batch(1, 3))
        assert await heard(socket) == acked(3)
        await socket.send(batch(6, 8))
        assert await heard(socket) == acked(3)
        await socket.send(batch(4, 8))
        assert await heard(socket) == acked(8)
        assert rig.ids() == [*range(1, 9)]
        assert rig.count("tapeline_master_asked_back_total") == 1


async def test_a_hole_that_its_collector_knows_of_is_taken(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector() as socket:
        await heard(socket)
        await socket.send(batch(5, 6, after=4))  # a new stream may begin anywhere
        assert await heard(socket) == acked(6)
        await socket.send(batch(100, 101, after=6))  # retention took the rest
        assert await heard(socket) == acked(101)
        assert rig.ids() == [5, 6, 100, 101]


async def test_a_stream_that_was_rolled_back_goes_on_under_its_new_epoch(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector() as socket:
        await heard(socket)
        await socket.send(batch(1, 9))
        await heard(socket)
        again = ftsobest.batch(
            "binance.0", "events", after="7-9", first="8-5", last="8-6", messages=[trade(5, 8), trade(6, 8)]
        )
        await socket.send(again)
        assert await heard(socket) == acked(6, epoch=8)
        assert rig.ids() == [*range(1, 10), 5, 6]


async def test_cursors_stand_with_the_data_over_a_restart(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector() as socket:
        await heard(socket)
        await socket.send(batch(1, 3))
        await heard(socket)
        await socket.send(batch(1, 2, place=("okx.1", "books")))
        await heard(socket)
    async with master(tmp_path) as rig, rig.collector() as socket:
        assert await heard(socket) == {
            "op": "welcome", "cursors": {"binance.0/events": "7-3", "okx.1/books": "7-2"},
        }  # fmt: skip
        await socket.send(batch(2, 5))
        assert await heard(socket) == acked(5)
        assert rig.ids() == [1, 2, 3, 4, 5]


async def test_the_data_of_two_collectors_never_mix(tmp_path: Path):
    other = ftsobest.login("second", acked=True, source="two")
    async with master(tmp_path) as rig, rig.collector() as first, rig.collector(other) as second:
        for socket in (first, second):
            assert (await heard(socket))["cursors"] == {}
            await socket.send(batch(1, 2))
            assert await heard(socket) == acked(2)
        await second.send(batch(3, 4))
        await heard(second)
        assert (rig.ids("one"), rig.ids("two")) == ([1, 2], [1, 2, 3, 4])


async def test_a_run_without_messages_moves_the_cursor(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector() as socket:
        await heard(socket)
        empty = ftsobest.batch("binance.0", "events", after="7-0", first="7-1", last="7-9", messages=[])
        await socket.send(empty)
        assert await heard(socket) == acked(9)
    async with master(tmp_path) as rig, rig.collector() as socket:
        assert (await heard(socket))["cursors"] == {"binance.0/events": "7-9"}


async def test_the_predecessor_s_collector_is_understood(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector(ftsobest.login(KEY)) as socket:
        await socket.send(ftsobest.PING)
        assert await heard(socket) == {"op": "pong"}
        # its keys come alphabetically, its books may be empty objects, some of it is not JSON at all
        theirs = (
            '{"amount":"0.1","exchange":"okx","price":"1","side":"unknown","symbol":"BTC/USDT",'
            '"timestamp":1,"type":"trade"}'
        )
        for text in (plain(1), plain(2), "{}", "nonsense", '{"type":"trade","exchange":"../x"}', theirs):
            await socket.send(text)
        book = '{"asks":{},"bids":{},"exchange":"okx","symbol":"BTC/USDT","timestamp":1,"type":"book"}'
        await socket.send(book)
        await until(lambda: len(stored(tmp_path, "ftsobest", "okx", "book")) == 1)
    assert stored(tmp_path, "ftsobest", "gateio", "trade") == [json.loads(plain(1)), json.loads(plain(2))]
    assert stored(tmp_path, "ftsobest", "okx", "trade") == [json.loads(theirs)]
    assert rig.count("tapeline_master_rejected_total", reason="message") == 3


async def test_a_message_over_several_lines_is_kept_as_one(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector(ftsobest.login(KEY)) as socket:
        await socket.send(json.dumps(json.loads(plain(1)), indent=2))
        await until(lambda: len(stored(tmp_path, "ftsobest", "gateio", "trade")) == 1)
    assert rig.count("tapeline_master_rejected_total", reason="message") == 0


@pytest.mark.parametrize(
    ("login", "why", "label"),
    [
        ("key=wrong&role=collector", "the key is not one of this master's", "key"),
        ("key=&role=collector", "the key is not one of this master's", "key"),
        (f"key={KEY}&role=reader", "role must be collector", "login"),
        ('{"op":"ping"}', "the first message must be", "login"),
        (f"key={KEY}&role=collector&protocol=acked&source=../../etc", "the first message must be", "login"),
        (f"key={KEY}" + "x" * 5000 + "&role=collector", "the first message must be", "login"),
    ],
)
async def test_a_login_that_will_not_do_is_refused_with_a_reason(
    tmp_path: Path, login: str, why: str, label: str, capfd: pytest.CaptureFixture[str]
):
    async with master(tmp_path) as rig, rig.collector(login) as socket:
        said = await heard(socket)
        assert said["op"] == "refused"
        assert why in said["reason"]
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert why in closed.value.rcvd.reason
    assert rig.count("tapeline_master_refused_total", reason=label) == 1
    out, err = capfd.readouterr()
    assert KEY not in out + err


async def test_who_does_not_log_in_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "_LOGIN_S", 0.05)
    async with master(tmp_path) as rig, connect(rig.url, proxy=None) as socket:
        assert "no login" in (await heard(socket))["reason"]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ("nonsense", "not a frame of this protocol"),
        ('{"op":"btch"}', "not a frame of this protocol"),
        (batch(1, 2).replace('"binance.0"', '"../x"'), "no such stream"),
        (batch(1, 2).replace('"stream":"events"', '"stream":"raw"'), "no such stream"),
        (batch(1, 2).replace('"after":"7-0"', '"after":"7-2"'), "cannot come after"),
        (batch(1, 2).replace('"last":"7-2"', '"last":"x"'), "no cursor"),
        (batch(1, 2).replace("events/7-2", "events/7-9"), "out of order"),
        (batch(1, 2).replace("events/7-2", "events/7-1"), "out of order"),
        (batch(1, 2).replace("events/7-2", "books/7-2"), "needs its type and its cursor"),
        (batch(1, 2).replace('"type":"trade"', '"type":"commit"'), "needs its type and its cursor"),
        ('{"op":"ping","more":' + DEEP + "}", "not a frame of this protocol"),
        (batch(1, 1).replace('{"type"', '{"more":' + DEEP + ',"type"'), "not a"),
        (batch(1, 1).replace('{"type"', FORGED), "needs one type"),
        (b"\x00\x01", "text frames only"),
    ],
)
async def test_what_breaks_the_protocol_ends_the_conversation_and_nothing_else(
    tmp_path: Path, frame: str | bytes, why: str
):
    async with master(tmp_path) as rig, rig.collector() as good, rig.collector() as bad:
        for socket in (good, bad):
            await heard(socket)
        await bad.send(frame)
        assert why in (await heard(bad))["reason"]
        await good.send(batch(1, 2))
        assert await heard(good) == acked(2)
        assert rig.ids() == [1, 2]


async def test_caps_hold(tmp_path: Path):
    async with master(tmp_path, max_connections=1, max_message_bytes=1024) as rig, rig.collector() as socket:
        await heard(socket)
        with pytest.raises(InvalidStatus) as caught:
            await connect(rig.url, proxy=None).__aenter__()
        assert caught.value.response.status_code == 503
        await socket.send("x" * 2000)
        with pytest.raises(ConnectionClosed) as closed:
            await heard(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    assert rig.count("tapeline_master_refused_total", reason="full") == 1
    assert rig.count("tapeline_master_refused_total", reason="too_big") == 1


async def test_too_many_messages_are_read_more_slowly_and_all_kept(tmp_path: Path):
    async with master(tmp_path, max_messages_per_s=200) as rig, rig.collector(ftsobest.login(KEY)) as socket:
        for k in range(300):
            await socket.send(plain(k))
        await until(lambda: len(stored(tmp_path, "ftsobest", "gateio", "trade")) == 300)
        assert rig.count("tapeline_master_throttled_total") > 0


async def test_a_plain_message_that_cannot_be_kept_is_counted_and_the_next_is_kept(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector(ftsobest.login(KEY)) as socket:
        await socket.send(plain(1).replace('{"type"', '{"more":' + DEEP + ',"type"'))
        await socket.send(plain(2).replace('{"type"', FORGED))
        await socket.send(plain(3).replace('{"type"', FORGED.replace(",", ",\n")))
        await socket.send(plain(4))
        await until(lambda: stored(tmp_path, "ftsobest", "gateio", "trade") == [json.loads(plain(4))])
        assert rig.count("tapeline_master_rejected_total", reason="message") == 3


async def test_who_waits_to_be_read_is_not_held_to_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "_PING_S", 0.2)
    async with (
        master(tmp_path, max_messages_per_s=1000) as rig,
        connect(rig.url, proxy=None, compression=None, ping_interval=None, close_timeout=0.1) as socket,
    ):
        await socket.send(ftsobest.login(KEY))
        for k in range(3000):
            await socket.send(plain(k))
        await until(lambda: len(stored(tmp_path, "ftsobest", "gateio", "trade")) == 3000)
        await anyio.sleep(1)  # and then it is silent, and answers
        assert rig.count("tapeline_master_refused_total", reason="no_pong") == 0
        socket.transport.pause_reading()
        await until(lambda: rig.count("tapeline_master_refused_total", reason="no_pong") == 1)


async def test_a_welcome_promises_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = journal.os.fdatasync
    begun, gate = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        begun.set()
        assert gate.wait(10)
        real(fd)

    async with master(tmp_path) as rig, rig.collector() as socket:
        await heard(socket)
        await socket.send(batch(1, 2))
        await heard(socket)
        monkeypatch.setattr(journal.os, "fdatasync", slow)
        await socket.send(batch(3, 4))
        await until(begun.is_set)
        try:
            async with rig.collector() as another:
                assert (await heard(another))["cursors"] == {"binance.0/events": "7-2"}
        finally:
            gate.set()
        assert await heard(socket) == acked(4)


async def test_a_commit_that_is_cancelled_writes_what_it_has_taken(tmp_path: Path):
    rig = Rig(tmp_path)
    rig.store.add(("ftsobest", "gateio", "trade"), plain(1).encode())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await rig.store.commit()
    await rig.store.commit()
    rig.store.close()
    assert stored(tmp_path, "ftsobest", "gateio", "trade") == [json.loads(plain(1))]


async def test_a_disk_that_is_full_withholds_the_acknowledgement_until_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = journal.os.write

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    async with master(tmp_path) as rig, rig.collector() as socket:
        await heard(socket)
        await socket.send(batch(1, 2))
        await heard(socket)
        monkeypatch.setattr(journal.os, "write", full)
        await socket.send(batch(3, 4))
        await until(lambda: rig.store.failing is not None)
        assert "No space left" in str(rig.server.health()["reason"])
        assert status(rig, "/healthz") == 503
        await socket.send(batch(5, 6))
        with anyio.move_on_after(0.05):
            raise AssertionError(await socket.recv())
        monkeypatch.setattr(journal.os, "write", real)
        assert await heard(socket) == acked(6)
        assert rig.ids() == [1, 2, 3, 4, 5, 6]


def status(rig: Rig, path: str) -> int:
    return rig.server._page(path).status_code


async def test_health_is_told_over_plain_http(tmp_path: Path):
    async with master(tmp_path) as rig, rig.collector() as socket:
        await heard(socket)
        await socket.send(batch(1, 2))
        await heard(socket)

        def get(path: str) -> tuple[int, bytes]:
            try:
                url = f"http://127.0.0.1:{rig.server.port}{path}"
                with urllib.request.urlopen(url, timeout=30) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as e:
                return e.code, e.read()

        code, body = await anyio.to_thread.run_sync(get, "/healthz")
        health = json.loads(body)
        assert (code, health["ok"], health["collectors"]) == (200, True, {"ftsobest": 0, "acked": 1})
        assert health["streams"]["acked/one/binance.0/events"]["cursor"] == "7-2"
        assert (await anyio.to_thread.run_sync(get, "/../../etc/passwd"))[0] == 404


async def test_a_folder_has_one_master(tmp_path: Path):
    async with master(tmp_path) as rig:
        with pytest.raises(ConfigError, match="another master"):
            Store(tmp_path, rig.settings.master, rig.metrics)


@pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
async def test_every_way_of_syncing_keeps_what_it_acknowledged(tmp_path: Path, fsync: str):
    async with master(tmp_path, fsync=fsync) as rig, rig.collector() as socket:
        await heard(socket)
        for k in range(1, 20):
            await socket.send(batch(k, k))
        last = 0
        while last < 19:
            last = int((await heard(socket))["last"].partition("-")[2])
            assert rig.ids()[-1] >= last
    assert rig.ids() == [*range(1, 20)]
