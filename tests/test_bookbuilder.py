"""The role on a real server: events in, books and keys out, and keys that go stale when time stands still."""

import json

import anyio
import msgspec
import pytest

from actors import bookbuilder
from actors.model import codec
from actors.model.events import Book, BookDelta, BookSnapshot, Tick
from actors.runtime.lifecycle import make_actor
from actors.runtime.metrics import Metrics
from actors.stages.book import View
from actors.stages.control import ControlRequest

SECOND = 1_000_000_000
EVENTS, BOOKS, CONTROL = ("tl:{binance.0}:" + name for name in ("events", "books", "control"))
KEY = "tl:{binance.0}:book:BTC-USDT"

pytestmark = pytest.mark.redis


class Events:
    """The stream ``events``, written by the test."""

    def __init__(self, client):
        self.client = client
        self.k = 0
        self.now = 1_700_000_000 * SECOND

    def write(self, *events):
        self.k += len(events)
        lines = b"\n".join(map(codec.encode, events))
        self.client.xadd(EVENTS, {"n": len(events), "d": lines}, id=f"1-{self.k}")

    def delta(self, seq, *bids):
        return BookDelta(
            "binance", "BTC-USDT", None, self.now, seq, "a.1", list(bids), [], first_seq=seq, last_seq=seq
        )

    def snapshot(self, seq):
        bids, asks = [("99", "1")], [("101", "1")]
        return BookSnapshot("binance", "BTC-USDT", None, self.now, seq, "a.1", bids, asks, last_seq=seq)

    def tick(self):
        self.now += SECOND
        return Tick("binance", None, None, self.now, None)


async def until(condition):
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.02)


def book_of(client):
    view, k = View(), 0
    for _, fields in client.xrange(BOOKS):
        for line in fields["d"].splitlines():
            k += 1
            event = codec.decode(line.encode())
            if isinstance(event, Book):
                view.apply(event, k)
    return view


async def test_events_become_books_and_keys_that_are_stale_without_ticks(
    redis_server, settings_for, monkeypatch
):
    monkeypatch.setattr(bookbuilder, "STALE_S", 0.5)
    server = redis_server()
    actor = make_actor("bookbuilder", settings_for(server), Metrics())
    with server.client() as client:
        events = Events(client)

        def state():
            return json.loads(client.get(KEY) or "{}").get("state")

        async with anyio.create_task_group() as tg:
            tg.start_soon(bookbuilder.run, actor)
            events.write(events.delta(100))
            await until(lambda: client.xlen(CONTROL))
            fields = client.xrange(CONTROL)[0][1]
            request = msgspec.json.decode(fields["d"], type=ControlRequest)
            assert (request.op, request.symbol, request.conn) == ("snapshot", "BTC-USDT", "a.1")
            events.write(events.snapshot(100), events.delta(101, ("98", "2")), events.tick())
            await until(lambda: state() == "live")
            await until(lambda: state() == "stale")
            assert json.loads(client.get(KEY))["bids"] == []
            events.write(events.tick(), events.delta(102, ("97", "3")))
            await until(lambda: state() == "live")
            assert json.loads(client.get(KEY))["bids"][2] == ["97", "3"]
            gauge = {"partition": "binance.0", "state": "live"}
            await until(lambda: actor.metrics.registry.get_sample_value("tapeline_books", gauge) == 1)
            actor.stopping.set()
        assert actor.metrics.registry.get_sample_value("tapeline_books", gauge) == 0
        # Another instance goes on where this one ended, without asking for the book again.
        events.write(events.delta(103, ("99", "0")))
        heir = make_actor("bookbuilder", settings_for(server), Metrics())
        async with anyio.create_task_group() as tg:
            tg.start_soon(bookbuilder.run, heir)
            await until(lambda: book_of(client).event.seq == 103)
            heir.stopping.set()
        assert book_of(client).levels == ([("98", "2"), ("97", "3")], [("101", "1")])
        assert client.xlen(CONTROL) == 1
