"""The role that forwards to a master: trades, tickers and books of all partitions, over a pool of sockets.

A partition belongs to the instance that holds its lease ``forwarder``; each of its streams is one lane:
a reader, what waits, a sender. How far the master has come is stored in ``ck:forwarder`` under the lease,
which holds trimming back; with version 2 the master's own word counts for more.
"""

import sys
import time
from collections.abc import Collection
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import anyio
import structlog

from actors.config import ForwardVenueSettings, Settings
from actors.dialects import ftsobest
from actors.forwarder.pool import Pool, Printer, Way
from actors.forwarder.reader import Reader
from actors.forwarder.report import print_metrics
from actors.forwarder.senders import AckedSender, PlainSender
from actors.forwarder.tellers import Happenings, Teller, Views
from actors.model.instruments import shard
from actors.runtime.lifecycle import Actor
from actors.streams.client import cold, connect, identity
from actors.streams.keys import Cursor, Partition, Stream, partitions
from actors.streams.lease import Lease, keep
from actors.streams.partition import Progress, closing, newest, persist
from actors.streams.wire import Hot

log: Any = structlog.get_logger()

_STREAMS: Final[tuple[Stream, ...]] = ("events", "books")
_SAVE_S: Final = 0.25  # chosen: how much is sent twice after a kill
_ANYWAY_S: Final = 10.0  # a cursor that stands still is stored all the same: we live
_MEASURE_S: Final = 1.0
_DRAIN_S: Final = 1.3  # of the 2.5 s that SIGTERM gives
_CLOSE_S: Final = 0.6
Sender = AckedSender | PlainSender


async def run(actor: Actor) -> None:
    """Forward until the actor stops.

    Raises:
        RedisUnusable: At the start.
    """
    async with anyio.create_task_group() as tg:
        if actor.settings.forwarder.debug_log:
            tg.start_soon(print_metrics, actor, _print)
        if actor.settings.forwarder.demo:
            sys.stderr.write(ftsobest.DEMO_NOTICE + "\n")
            sys.stderr.flush()
            await _forward(actor, Printer(_print))
        else:
            pool = await _pool(actor)
            tg.start_soon(pool.run)
            await _forward(actor, pool)
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await pool.close()
        tg.cancel_scope.cancel()


async def _forward(actor: Actor, way: Way) -> None:
    places = [(partition, None) for partition in partitions(actor.settings)]
    await keep(actor, places, partial(_work, actor, way), lease_role=actor.role)


async def _pool(actor: Actor) -> Pool:
    settings = actor.settings.forwarder
    return Pool(
        settings.url or "",
        await _login(actor),
        actor.metrics,
        connections=settings.connections,
        acked=settings.protocol == "acked",
    )


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def _login(actor: Actor) -> str:
    """Return what to log in with."""
    acked = actor.settings.forwarder.protocol == "acked"
    client = await connect(actor.settings, actor.role)
    try:
        source = await identity(client, actor.keys)
    finally:
        await client.aclose()
    return ftsobest.login(actor.settings.forwarder_key(), acked=acked, source=source)


async def _work(actor: Actor, way: Way, lease: Lease) -> None:
    """Forward one partition while its lease is held."""
    await _Partition(actor, way, lease).run()


class _Partition:
    """One partition under one lease."""

    def __init__(self, actor: Actor, way: Way, lease: Lease) -> None:
        self._actor = actor
        self._way = way
        self._lease = lease
        self._partition = lease.partition
        self._acked = actor.settings.forwarder.protocol == "acked" and not actor.settings.forwarder.demo
        self._readers: list[Reader] = []
        self._senders: list[Sender] = []
        self._stored: dict[str, Cursor] = {}
        self._stored_at = 0.0
        actor.metrics.stand(actor.role, partition=str(lease.partition))

    async def run(self) -> None:
        """Forward until the lease ends or is lost."""
        settings, keys = self._actor.settings, self._actor.keys
        key = keys.stream(self._partition, "events")
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(closing(await cold(settings, key))) for _ in range(4)
            ]
            side, look, *hots = connections
            progress = Progress(side, keys, self._lease)
            progress.lost = self._lost
            await self._prepare(progress, look)
            async with anyio.create_task_group() as tg:
                for reader, sender, hot in zip(self._readers, self._senders, hots, strict=True):
                    tg.start_soon(reader.run, hot, keys, self._lost)
                    tg.start_soon(sender.run)
                tg.start_soon(self._save_forever, progress)
                tg.start_soon(self._measure, look)
                await self._lease.ending.wait()
                await self._drain()
                tg.cancel_scope.cancel()
            await self._save(progress)

    def _lost(self, error: Exception) -> None:
        self._actor.metrics.count("tapeline_redis_reconnects_total", role=self._actor.role)
        log.warning("redis_away", partition=str(self._partition), reason=str(error))

    async def _prepare(self, progress: Progress, hot: Hot) -> None:
        """Make the lanes and let them begin where Redis says, or at the newest."""
        fields = [f"{mark}:{stream}" for stream in _STREAMS for mark in "cd"]
        found = dict(zip(fields, await progress.load(fields), strict=True))
        fresh: dict[str, Cursor] = {}
        for stream in _STREAMS:
            at = found[f"c:{stream}"]
            if at is None:
                at = await persist(
                    hot, partial(newest, hot, self._actor.keys, self._partition, stream), self._lost
                )
                fresh |= {f"{mark}:{stream}": at for mark in "cd"}
            reader = self._reader(stream)
            sender = self._sender(reader, progress)
            if isinstance(sender, AckedSender):
                sender.begin(at)
            else:
                sender.begin(at, found[f"d:{stream}"])
            self._readers.append(reader)
            self._senders.append(sender)
        if fresh:
            await progress.save(fresh)

    def _sender(self, reader: Reader, progress: Progress) -> Sender:
        if self._acked:
            return AckedSender(self._partition, reader, self._way, self._actor.metrics)
        return PlainSender(self._partition, reader, self._way, self._actor.metrics, progress)

    def _reader(self, stream: Stream) -> Reader:
        settings = self._actor.settings
        teller = teller_of(settings, self._partition, stream, acked=self._acked)
        symbols = _symbols(settings, self._partition)
        return Reader(self._partition, stream, teller, self._actor.metrics, symbols)

    # -- beside

    async def _save_forever(self, progress: Progress) -> None:
        while True:
            await anyio.sleep(_SAVE_S)
            await self._save(progress)

    async def _save(self, progress: Progress) -> None:
        fields = {name: at for sender in self._senders for name, at in sender.fields.items()}
        now = time.monotonic()
        if fields != self._stored or now - self._stored_at > _ANYWAY_S:
            await progress.save(fields)
            self._stored, self._stored_at = fields, now

    async def _drain(self) -> None:
        """Read no more and wait, but not for long, until what is on its way has arrived."""
        for reader in self._readers:
            reader.stop()
        with anyio.move_on_after(_DRAIN_S):
            while not all(sender.done for sender in self._senders):  # noqa: ASYNC110 - a second, once
                await anyio.sleep(0.02)

    async def _measure(self, hot: Hot) -> None:
        metrics, place = self._actor.metrics, {"role": self._actor.role, "partition": str(self._partition)}
        try:
            while True:
                behind = 0
                for reader, sender in zip(self._readers, self._senders, strict=True):
                    head = await persist(
                        hot,
                        partial(newest, hot, self._actor.keys, self._partition, reader.stream),
                        self._lost,
                    )
                    at = next(iter(sender.fields.values()))
                    behind = max(behind, head.k - at.k)
                metrics.gauge("tapeline_lag_events", behind, **place)
                waiting = [ns for sender in self._senders if (ns := sender.oldest_ns) is not None]
                age_s = max(0.0, time.time() - min(waiting) / 1e9) if waiting else 0.0
                metrics.gauge("tapeline_forward_unacked_seconds", age_s, partition=place["partition"])
                await anyio.sleep(_MEASURE_S)
        finally:
            metrics.gauge("tapeline_lag_events", 0, **place)  # another shows them now
            metrics.gauge("tapeline_forward_unacked_seconds", 0, partition=place["partition"])


def teller_of(settings: Settings, partition: Partition, stream: Stream, *, acked: bool) -> Teller:
    """Return what makes messages of a stream of one partition."""
    forwarder = settings.forwarder
    venue = forwarder.venues.get(partition.venue, ForwardVenueSettings())
    words = ftsobest.Words(partition.venue, acked=acked)
    if stream == "books":
        return Views(
            words,
            partition,
            wanted=_set(venue.books),
            depth=venue.depth or forwarder.depth,
            interval_ms=venue.update_interval_ms or forwarder.update_interval_ms,
        )
    wanted: dict[str, Collection[str] | None] = {
        "trade": _set(venue.trades),
        "ticker": _set(venue.tickers),
    }
    return Happenings(words, partition, wanted | ({"gap": None} if acked else {}))


def _set(symbols: list[str] | None) -> Collection[str] | None:
    return None if symbols is None else frozenset(symbols)


def _symbols(settings: Settings, partition: Partition) -> list[str]:
    """Return whose books there may be."""
    venue = settings.venues[partition.venue]
    wanted = settings.forwarder.venues.get(partition.venue, ForwardVenueSettings()).books
    return [
        symbol
        for symbol in (venue.symbols if wanted is None else wanted)
        if venue.wants("book", symbol) and shard(symbol, venue.shards) == partition.shard
    ]
