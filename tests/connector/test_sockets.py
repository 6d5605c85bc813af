"""Sockets against servers of a few bytes: what no library's server would say."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any
from unittest.mock import AsyncMock

import anyio
import pytest

from actors.connector.clock import Clock
from actors.connector.links import Count, Link, Side
from actors.connector.rest import retry_after
from actors.connector.sink import Room, Sink
from actors.connector.sockets import Refused, dial
from actors.runtime.metrics import Metrics
from actors.venues import VENUES

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Server:
    """Answers a handshake with ``said``; "KEY" stands for what the client's key wants.

    ``ended``: a client has closed its side.
    """

    def __init__(self, said: bytes) -> None:
        self.said = said
        self.url = ""
        self.ended = anyio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        key = next(
            (line[19:] for line in asked.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key: ")), b""
        )
        writer.write(self.said.replace(b"KEY", b64encode(sha1(key + GUID, usedforsecurity=False).digest())))
        while await reader.read(1000):
            pass
        self.ended.set()
        writer.close()


@asynccontextmanager
async def saying(said: bytes) -> AsyncGenerator[Server]:
    server = Server(said)
    async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listening:
        server.url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/x"
        yield server


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        (b"Retry-After: 7\r\nRetry-After: 7\r\n", 7.0),
        (b"Retry-After: Mon, 99999999999999999999 Jan 2020 00:00:00 GMT\r\n", None),
        (b"Retry-After: \xff\r\n", None),
    ],
)
async def test_odd_headers_of_a_refusal_are_a_refusal_all_the_same(headers: bytes, wait_s: float | None):
    async with saying(b"HTTP/1.1 429 no\r\n" + headers + b"Content-Length: 0\r\n\r\n") as server:
        with pytest.raises(Refused) as caught:
            await dial(server.url, Link.__new__(Link), 1000)
    assert (caught.value.status, caught.value.retry_after_s) == (429, wait_s)


async def test_a_redirection_to_two_places_is_a_refusal():
    said = b"HTTP/1.1 302 there\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"
    async with saying(said) as server:
        with pytest.raises(Refused) as caught:
            await dial(server.url, Link.__new__(Link), 1000)
    assert caught.value.cause == "handshake"


@pytest.mark.parametrize("text", ["Mon, 01 Jan 2020 00:00:00 +99999999999999", "soon", "nan", ""])
def test_a_time_to_wait_that_is_none_is_none(text: str):
    assert retry_after(text) is None


async def test_a_connection_that_ends_for_its_first_frame_is_closed():
    """The frame comes with the handshake, before whoever dials has the socket in hand."""
    venue, metrics, room = VENUES["bitrue"], Metrics(), Room(100_000)
    nobody: Any = None
    budgets: Any = AsyncMock()
    side = Side(venue, budgets, metrics, Clock(), room, Count(venue.name, metrics), nobody, 1, 1)
    greeting = b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: KEY\r\n\r\n"
    async with saying(b"HTTP/1.1 101 ok\r\n" + greeting + b"\x82\x03\x00\x01\x02") as server:
        link = Link(side, Sink(room, 256, 65536, 0.001), "a", server.url, lambda: None)
        await link.open()
        assert link.ended.is_set()
        with anyio.fail_after(5):
            await server.ended.wait()
    assert metrics.registry.get_sample_value("tapeline_connections", {"venue": venue.name}) == 0
