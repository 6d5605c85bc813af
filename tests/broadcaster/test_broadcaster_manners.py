"""What becomes of clients that read slowly, send rubbish, or should not be there at all."""

import base64
import json
import os
import random
import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from broadcaster_rig import Rig, heard, running, until
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from actors.broadcaster.server import WebSocketServer
from actors.config import ConfigError


async def refusal(rig: Rig, query: str = "", **options: Any) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refused:
        async with rig.client(query, served=False, **options):
            pass
    response = refused.value.response
    return response.status_code, bytes(response.body or b"").decode()


class Raw:
    """A client made of bytes."""

    def __init__(self, stream: Any, head: bytes) -> None:
        self.stream = stream
        self.head = head

    @classmethod
    async def open(cls, rig: Rig, small: bool = False) -> "Raw":
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", rig.server.port))
        stream = await anyio.abc.SocketStream.from_socket(sock)
        key = base64.b64encode(os.urandom(16)).decode()
        await stream.send(
            f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive(1 if small else 4096)
        return cls(stream, head)

    async def close_code(self) -> int | None:
        """Read to the end; the code of the close frame, None without one."""
        data = bytearray(self.head.partition(b"\r\n\r\n")[2])

        async def more(n: int) -> bytes:
            while len(data) < n:
                data.extend(await self.stream.receive())
            taken = bytes(data[:n])
            del data[:n]
            return taken

        try:
            with anyio.fail_after(20):
                while True:
                    opcode, length = await more(2)
                    if length > 125:
                        length = int.from_bytes(await more(2 if length == 126 else 8), "big")
                    payload = await more(length)
                    if opcode == 0x88:
                        return int.from_bytes(payload[:2], "big")
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return None


def frame(opcode: int, data: bytes, *, fin: bool = True, rsv1: bool = False, mask: bool = True) -> bytes:
    head = bytes([(0x80 if fin else 0) | (0x40 if rsv1 else 0) | opcode])
    bit = 0x80 if mask else 0
    if len(data) < 126:
        head += bytes([bit | len(data)])
    elif len(data) < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", len(data))
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", len(data))
    return head + (b"\0\0\0\0" if mask else b"") + data  # a zero mask leaves the data as it is


async def test_a_client_that_never_reads_is_closed_and_costs_the_others_nothing():
    limit, batch = 256 * 1024, 64 * 1024
    async with running(slow_client_bytes=limit, slow_client_deadline_s=0.5) as r, r.client() as good:
        await heard(good)
        idle = [await Raw.open(r, small=True) for _ in range(5)]
        await until(lambda: r.served() == 6)
        s = r.script
        transports = [c.transport for group in r.hub._groups.values() for c in group.clients][1:]
        got = most = 0
        with anyio.fail_after(20):
            while r.served() > 1 or got < 20_000:
                await r.tell(s.entry("events", *[s.trade() for _ in range(100)]))
                most = max(most, *(transport.get_write_buffer_size() for transport in transports))
                for _ in range(100):
                    assert json.loads(await good.recv())["data"]["id"] == str(got + 1)
                    got += 1
        assert r.refused("slow") == 5
        assert most < limit + batch
        await until(lambda: len(r.hub) == 1)
        await until(lambda: not any(transport.get_write_buffer_size() for transport in transports))
        for raw in idle:
            await raw.stream.aclose()


async def test_a_slow_client_that_still_reads_is_told_why():
    async with running(slow_client_bytes=64 * 1024, slow_client_deadline_s=5) as r:
        raw = await Raw.open(r)
        await until(lambda: r.served() == 1)
        s = r.script
        while r.served():
            await r.tell(s.entry("events", *[s.trade() for _ in range(100)]))
            await anyio.lowlevel.checkpoint()
        assert await raw.close_code() == 1013
        await raw.stream.aclose()


async def test_a_client_that_takes_nothing_is_aborted_even_when_little_is_sent():
    async with running(slow_client_deadline_s=0.5) as r:
        raw = await Raw.open(r, small=True)
        await until(lambda: r.served() == 1)
        s = r.script
        client = next(iter(next(iter(r.hub._groups.values())).clients))
        while not client.unread():  # fill what the kernel takes, then hardly send any more
            await r.tell(s.entry("events", *[s.trade() for _ in range(100)]))
            await anyio.lowlevel.checkpoint()
        await until(lambda: r.refused("stalled") == 1)
        await until(lambda: len(r.hub) == 0)
        await raw.stream.aclose()


async def test_large_books_do_not_make_a_newcomer_slow():
    async with running(slow_client_bytes=32 * 1024) as r:
        s = r.script
        whole = [(f"{i}.5", "1.25") for i in range(1, 20_000)]
        await r.tell(s.entry("books", s.book("snapshot", whole, [])))
        async with r.client(max_size=None) as client:
            await heard(client)
            await r.tell(s.entry("events", s.trade()))
            assert len((await heard(client))["data"]["Snapshot"]["bids"]["levels"]) == len(whole)
            assert (await heard(client))["kind"] == "trade"
            (group,) = r.hub._groups.values()
            await until(lambda: next(iter(group.clients)).limit == 32 * 1024)


BAD_FRAMES = [
    ("binary", frame(2, b"\0\1"), 1003, "binary"),
    ("not UTF-8", frame(1, b"\xff\xfe"), 1007, "not_utf8"),
    ("too long", frame(1, b"a" * 20_000), 1009, "too_big"),
    ("announces 2^62 bytes", b"\x81\xff" + struct.pack("!Q", 1 << 62) + b"\0\0\0\0", 1009, "too_big"),
    ("endless fragments", frame(1, b"", fin=False) + frame(0, b"a" * 999, fin=False) * 80, 1009, "too_big"),
    ("unmasked", frame(1, b"hi", mask=False), 1002, "protocol"),
    ("reserved opcode", frame(5, b"hi"), 1002, "protocol"),
    ("compressed unasked", frame(1, b"hi", rsv1=True), 1002, "protocol"),
    ("long ping", frame(9, b"a" * 126), 1002, "protocol"),
    ("a request", frame(1, b'{"op":"subscribe","kinds":["trade"]}'), 1008, "op"),
    ("too many", frame(1, b"hello") * 50, 1008, "rate"),
    ("too many pings", frame(9, b"hello") * 50, 1008, "rate"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("bytes_", "code", "reason"), [b[1:] for b in BAD_FRAMES], ids=[b[0] for b in BAD_FRAMES]
)
async def test_rubbish_is_answered_with_its_close_code_and_others_are_unmoved(
    bytes_: bytes, code: int, reason: str
):
    async with running() as r, r.client() as good:
        await heard(good)
        raw = await Raw.open(r)
        await raw.stream.send(bytes_)
        assert await raw.close_code() == code
        await raw.stream.aclose()
        await until(lambda: r.refused(reason) == 1)
        await until(lambda: len(r.hub) == 1)
        await r.tell(r.script.entry("events", r.script.trade()))
        assert (await heard(good))["kind"] == "trade"


async def test_a_few_words_are_overheard_as_the_predecessor_did():
    async with running() as r, r.client() as client:
        await heard(client)
        for text in ("ping", "{}", "[" * 5000, '{"type":"hello"}'):
            await client.send(text)
        await client.send("")
        await (await client.ping())
        await r.tell(r.script.entry("events", r.script.trade()))
        assert (await heard(client))["kind"] == "trade"


@pytest.mark.parametrize(
    "first",
    [
        b"\x16\x03\x01\x02\x00\x01" + b"\0" * 64 + b"\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        random.Random(1).randbytes(512) + b"\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["TLS", "HTTP/2", "long header", "many headers", "noise", "long path"],
)
async def test_what_is_not_http_is_dropped(first: bytes):
    async with running() as r, r.client() as good:
        await heard(good)
        stream = await anyio.connect_tcp("127.0.0.1", r.server.port)
        await stream.send(first)
        with anyio.fail_after(20):
            try:
                while True:
                    await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
        await stream.aclose()
        await until(lambda: r.refused("handshake") == 1)
        await r.tell(r.script.entry("events", r.script.trade()))
        assert (await heard(good))["kind"] == "trade"


async def test_clients_are_capped_in_all_and_per_address_and_a_place_is_given_back():
    async with running(max_clients=2) as r:
        async with r.client(), r.client():
            status, text = await refusal(r)
            assert (status, r.refused("full")) == (503, 1)
            assert "broadcaster.max_clients" in text
        await until(lambda: len(r.hub) == 0)
        async with r.client():
            pass
    async with running(max_clients_per_address=1) as r, r.client():
        assert (await refusal(r))[0] == 429
        assert r.refused("address") == 1


async def test_sockets_that_say_nothing_are_capped():
    async with running(max_clients=1) as r:
        idle = [await anyio.connect_tcp("127.0.0.1", r.server.port) for _ in range(80)]
        await until(lambda: r.refused("sockets") == 15)
        for stream in idle:
            await stream.aclose()
        await until(lambda: r.server._gate.sockets == 0)
        async with r.client():
            pass


async def test_the_token_is_asked_for_before_the_handshake():
    async with running(token=SecretStr("s3cret")) as r:
        status, text = await refusal(r)
        assert status == 401
        assert "s3cret" not in text
        for wrong in ("Bearer wrong", "s3cret", "Basic s3cret", "Bearer s3cret ü"):
            assert (await refusal(r, additional_headers={"Authorization": wrong}))[0] == 401
        assert (await refusal(r, "/?token=s3cret"))[0] == 401
        assert r.refused("token") == 6
        async with r.client(additional_headers={"Authorization": "Bearer s3cret"}) as client:
            assert (await heard(client))["type"] == "welcome"


async def test_a_foreign_origin_is_refused_and_a_program_has_none():
    async with running(origins=["https://ours.example"]) as r:
        assert (await refusal(r, origin="https://evil.example"))[0] == 403
        assert r.refused("origin") == 1
        async with r.client(origin="https://ours.example"), r.client():
            pass


async def test_an_unknown_filter_is_refused_with_what_is_valid():
    async with running() as r:
        status, text = await refusal(r, "/?kind=trades")
        assert status == 400
        assert "order_book_l1" in text
        assert (await refusal(r, "/?symbol=DOGE-USDT"))[1].count("BTC-USDT") == 1
        assert r.refused("filter") == 2


async def get(rig: Rig, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    stream = await anyio.connect_tcp("127.0.0.1", rig.server.port)
    await stream.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    data = b""
    try:
        with anyio.fail_after(20):
            while True:
                data += await stream.receive()
    except anyio.EndOfStream:
        await stream.aclose()
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


async def test_plain_http_gives_a_page_and_health_and_nothing_else():
    async with running() as r:
        await r.tick()
        status, headers, body = await get(r, "/")
        assert status == 200
        assert r.url.encode() in body
        assert b"binance.0" in body
        assert "Server" not in headers
        assert (await get(r, "/favicon.ico"))[1]["Content-Type"] == "image/svg+xml"
        for target in (
            "/etc/passwd",
            "/../../etc/passwd",
            "/%2e%2e/x",
            "/index.html",
            "/healthz/x",
            "/v1",
            "//",
        ):
            assert (await get(r, target))[0] == 404
        status, headers, body = await get(r, "/", "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 500
        assert (await get(r, "/", "POST"))[0] == 405


async def test_health_follows_the_ticks():
    async with running() as r:
        status, _, body = await get(r, "/healthz")
        assert (status, json.loads(body)["partitions"]["binance.0"]["tick_age_s"]) == (503, None)
        await r.tick()
        await r.tell(r.script.entry("books", r.script.book("snapshot", [("1", "1")], [])))
        status, headers, body = await get(r, "/healthz")
        assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
        health = json.loads(body)
        assert health["ok"]
        assert health["clients"] == 0
        assert health["partitions"]["binance.0"]["books"] == ["BTC-USDT"]
        cursors = {"events": "1-1", "books": "1-1", "flow": "0-0"}
        assert health["partitions"]["binance.0"]["cursors"] == cursors
        await r.tick(age_s=3.5)
        assert (await get(r, "/healthz"))[0] == 503
        r.feed.clock.set(time.time_ns() - 3_000_000_000)  # our clock is ahead of Redis': its time counts
        assert (await get(r, "/healthz"))[0] == 200


async def test_a_taken_port_is_one_plain_message():
    async with running() as r:
        settings = r.settings.model_copy(
            update={"broadcaster": r.settings.broadcaster.model_copy(update={"port": r.server.port})}
        )
        second = WebSocketServer(settings, r.metrics, r.outlet, r.door, dict)
        with pytest.raises(ConfigError, match=f"127.0.0.1:{r.server.port}.*in use.*broadcaster.port"):
            await second.start()
        third = WebSocketServer(settings, r.metrics, r.outlet, r.door, dict, number=3)
        assert third.port == r.server.port + 2


async def test_stopping_says_goodbye_even_to_those_who_do_not_listen():
    async with running() as r, r.client() as client:
        await heard(client)
        raw = await Raw.open(r, small=True)
        await until(lambda: r.served() == 2)
        s = r.script
        stuck = list(next(iter(r.hub._groups.values())).clients)[1]
        while not stuck.unread():
            await r.tell(s.entry("events", *[s.trade() for _ in range(100)]))
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(20):
            await r.server.stop(0.3)
        async for _ in client:
            pass
        assert client.close_code == 1001
        await raw.stream.aclose()


async def test_tls_is_an_option(tmp_path: Path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    try:
        await anyio.run_process([*command, "-keyout", str(key), "-out", str(certificate)])
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    async with running(tls_certificate=certificate, tls_key=key) as r:
        assert r.url.startswith("wss://")
        context = ssl.create_default_context(cafile=str(certificate))
        context.check_hostname = False
        async with connect(r.url, ssl=context, proxy=None) as client:
            assert (await heard(client))["type"] == "welcome"
            await until(lambda: r.served() == 1)
            await r.tell(r.script.entry("events", r.script.trade()))
            assert (await heard(client))["kind"] == "trade"
    with pytest.raises(ConfigError, match="tls_certificate"):
        Rig(tls_certificate=tmp_path / "missing.pem", tls_key=key)
