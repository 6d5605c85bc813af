"""Tapeline's connector without its sockets: frames from memory through its own ``Link`` and ``Sink``.

``python -m benchmarks.peers.tapeline_side CONFIG REDIS_URL FRAMES BURST``. Each line on stdin asks for so
many passes; the answer is a JSON line once they are in ``raw``: ``cpu_s``, the CPU time that this process
took for them.
"""

import sys
import time
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import msgspec
import orjson

from actors.bench.bare import run_on_uvloop
from actors.config import load
from actors.connector.clock import Clock
from actors.connector.links import Count, Link, Side
from actors.connector.rest import Rest
from actors.connector.sink import Room, Sink
from actors.model.instruments import Instrument
from actors.runtime import log
from actors.runtime.memory import keep_freed
from actors.runtime.metrics import Metrics
from actors.stages.raw import Closed, line
from actors.streams.client import connect, hot
from actors.streams.keys import Keys, Partition
from actors.streams.lease import Lease
from actors.streams.limit import Limit
from actors.streams.partition import Appender
from actors.venues import VENUES
from actors.venues.base import Answer, Subscription
from benchmarks.peers.frames import SYMBOL, read

PARTITION: Final = Partition("binance", 0)
LEG: Final = "a"
_LONG_LEASE_S: Final = 3600.0
_VENUE: Final = VENUES["binance"]
_json = msgspec.json.encode


class Connector:
    """One leg: a sink, and a link for each pass."""

    def __init__(self, side: Side, sink: Sink, row: Instrument) -> None:
        self._side = side
        self._sink = sink
        self._row = row

    async def play(self, rows: list[tuple[str, bytes]], burst: int) -> int:
        """Give it one connection's life; return the ticket of the last line."""
        note, clock = self._sink.note, self._side.clock
        link = Link(self._side, self._sink, LEG, _VENUE.endpoints.ws, lambda: None)
        link.opened()
        asked = Subscription("subscribe", [(c, SYMBOL) for c in ("trade", "l1", "book")], "", id=1)
        note(line(clock.now(), link.id, "s", _json(asked)))
        link.frame(b'{"result":null,"id":1}', True)
        frame = link.frame
        for at, (kind, text) in enumerate(rows):
            if kind == "f":
                frame(text, True)
            else:
                assert _VENUE.snapshot is not None  # noqa: S101 - Binance has one
                answer = Answer(_VENUE.snapshot(self._row), 200, text.decode(), conn=link.id)
                note(line(clock.now(), link.id, "h", _json(answer)))
            if at % burst == 0:
                await anyio.lowlevel.checkpoint()
        link.leave(1000, "the pass is over", "replaced")
        return self._sink.taken


async def _main(config: str, url: str, path: str, burst: int) -> None:
    settings = load(Path(config), {"REDIS_URL": url})
    log.setup("bench", settings)
    keep_freed()  # as every actor does
    keys = Keys(settings.redis.prefix)
    client = await connect(settings, "bench")
    lease = Lease(client, keys, PARTITION, role="connector", leg=LEG, owner="bench", ttl_s=_LONG_LEASE_S)
    await lease.take()
    writing = await hot(settings, keys.stream(PARTITION, "raw"))
    appender = await Appender.open(writing, keys, PARTITION, LEG, lease)
    streams = settings.streams
    room = Room(64 * 1024 * 1024)
    sink = Sink(room, streams.batch_frames, streams.batch_bytes, streams.linger_ms / 1000)
    metrics = Metrics()
    limit = Limit(client, keys, "binance", settings.egress)
    rest = Rest(_VENUE, _VENUE.endpoints, limit, metrics)
    side = Side(_VENUE, limit, metrics, Clock(), room, Count("binance", metrics), rest, 1.0, 1.0)
    listing, blocks = read(Path(path))
    passes = iter(blocks)
    row = _VENUE.rows(listing)[0]
    connector = Connector(side, sink, row)
    sink.note(line(side.clock.now(), f"{LEG}.*", "x", _json(Closed(None, "new owner"))))
    sink.note(line(side.clock.now(), f"{LEG}.*", "i", _json(row)))
    async with anyio.create_task_group() as tg:
        tg.start_soon(sink.run, appender.append)
        for asked in sys.stdin:
            began, ticket = time.process_time(), 0
            for _ in range(int(asked)):
                ticket = await connector.play(next(passes), burst)
            await sink.wait(ticket)
            sys.stdout.buffer.write(orjson.dumps({"cpu_s": time.process_time() - began}) + b"\n")
            sys.stdout.flush()
        tg.cancel_scope.cancel()
    await rest.aclose()
    await writing.aclose()
    await client.aclose()


if __name__ == "__main__":
    run_on_uvloop(_main, *sys.argv[1:4], int(sys.argv[4]))
