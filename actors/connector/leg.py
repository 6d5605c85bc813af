"""One leg of one partition, for as long as its lease is ours: sockets and REST into ``raw``.

Leg a and, with ``redundancy = 2``, leg b carry the same; each has its lease, its connections and its
batch numbers. Nothing here survives the lease: an heir opens connections of its own.
"""

import random
from functools import partial
from typing import Final

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from actors.config import Settings
from actors.connector.links import Side
from actors.connector.listing import Listing, select
from actors.connector.planning import plan
from actors.connector.polling import poll
from actors.connector.requests import FIRST_LEG, Requests
from actors.connector.rest import Reply, Rest, answer_to
from actors.connector.sink import Sink
from actors.connector.slots import Slot
from actors.model.events import Channel
from actors.model.instruments import Instrument, UnknownInstrument, shard
from actors.stages.raw import Closed, line
from actors.streams.client import cold
from actors.streams.keys import START, Cursor, Keys
from actors.streams.lease import Lease
from actors.streams.partition import Appender, Tail, closing, newest, persist, remembered
from actors.streams.wire import Hot
from actors.venues.base import Endpoints, Request

log = structlog.get_logger()

FLUSH_S: Final = 1.5  # chosen: of the 2.5 s that SIGTERM gives

_encoder = msgspec.json.Encoder()


class Leg:
    """What one lease of the connector is about."""

    def __init__(
        self,
        lease: Lease,
        *,
        settings: Settings,
        keys: Keys,
        side: Side,
        endpoints: Endpoints,
        rest: Rest,
        listing: Listing,
    ) -> None:
        if lease.leg is None:
            raise ValueError("the connector's leases name their leg")
        self._settings = settings
        self._keys = keys
        self._side = side
        self._endpoints = endpoints
        self._rest = rest
        self._listing = listing
        self._lease = lease
        self._leg = lease.leg
        self._partition = lease.partition
        streams = settings.streams
        self._sink = Sink(side.room, streams.batch_frames, streams.batch_bytes, streams.linger_ms / 1000)
        self._wanted = venue = settings.venues[lease.partition.venue]
        self._symbols = [s for s in venue.symbols if shard(s, venue.shards) == lease.partition.shard]
        self._slots: list[Slot] = []
        self._instruments: dict[str, Instrument] = {}
        self._listed = anyio.Event()  # our symbols are known: requests can be served
        self._told: dict[str, Instrument | UnknownInstrument] = {}

    async def run(self) -> None:
        """Work until the lease is to end or is lost.

        Raises:
            Fenced: The lease is another's.
        """
        key = self._keys.stream(self._partition, "raw")
        async with (
            closing(await cold(self._settings, key)) as writing,
            closing(await cold(self._settings, key)) as reading,
        ):
            appender = await Appender.open(writing, self._keys, self._partition, self._leg, self._lease)
            appender.lost = self._outage
            try:
                await self._work(appender, reading, writing)
            finally:
                # Whatever the way out: no socket stays, and after the flush nothing is written.
                for slot in self._slots:
                    slot.abandon()
                self._sink.forget()

    async def _work(self, appender: Appender, reading: Hot, writing: Hot) -> None:
        async with anyio.create_task_group() as flushing:
            flushing.start_soon(self._sink.run, appender.append)
            # For whatever my predecessor left open: nobody else can say that it is closed.
            self._note("x", _encoder.encode(Closed(None, "new owner")))
            async with anyio.create_task_group() as working:
                working.start_soon(self._connect, working)
                working.start_soon(self._serve, reading, writing)
                working.start_soon(self._poll)
                await self._lease.ending.wait()
                for slot in self._slots:
                    slot.leave(1001, "shutdown", "shutdown")
                working.cancel_scope.cancel()
            self._sink.finish()
            flushing.cancel_scope.deadline = anyio.current_time() + FLUSH_S

    def _note(self, kind: str, payload: bytes, conn: str | None = None) -> None:
        self._sink.note(line(self._side.clock.now(), conn or f"{self._leg}.*", kind, payload))

    def _outage(self, error: Exception) -> None:
        self._side.metrics.count("tapeline_redis_reconnects_total", role="connector")
        log.warning("redis_away", partition=str(self._partition), leg=self._leg, reason=str(error))

    # ------------------------------------------------------------------------------ what is connected

    async def _connect(self, tg: TaskGroup) -> None:
        """Open what the listing makes possible, and again what a later one adds."""
        while self._listing.rows is None:
            await self._listing.next()
            if self._listing.failure is not None:  # later ones disturb no connection: log and metrics say so
                self._fail(self._listing.failure)
        while True:
            self._open(tg, self._learn())
            self._listed.set()
            await self._listing.next()

    def _fail(self, failure: Closed) -> None:
        name = f"{self._leg}.{random.getrandbits(32):08x}"
        self._note("x", _encoder.encode(failure), name)
        self._side.metrics.count(
            "tapeline_reconnects_total", venue=self._side.venue.name, reason="no_instruments"
        )

    def _learn(self) -> list[Instrument]:
        """Write what is new of our symbols; return the instruments that have no connection yet."""
        fresh: list[Instrument] = []
        for row in select(self._listing.rows or {}, self._symbols, self._listing.unusable):
            if self._told.get(row.symbol) == row:
                continue
            self._told[row.symbol] = row
            self._note("i", _encoder.encode(row))
            if isinstance(row, UnknownInstrument):
                log.error(
                    "no_such_symbol",
                    venue=self._side.venue.name,
                    symbol=row.symbol,
                    nearest=", ".join(row.nearest),
                    reason=row.reason or "not listed",
                )
                continue
            if row.symbol not in self._instruments:
                fresh.append(row)
            self._instruments[row.symbol] = row
            for slot in self._slots:
                slot.learn(row)
        return fresh

    def _open(self, tg: TaskGroup, instruments: list[Instrument]) -> None:
        if not instruments:
            return
        # Openings are spread over the time that the venue's pace gives them; the budget is the bound.
        gap_s = 60 / self._side.venue.limits.connects_per_minute
        for n, planned in enumerate(plan(self._side.venue, self._endpoints, self._wanted, instruments)):
            slot = Slot(self._side, self._sink, self._leg, planned, instruments)
            self._slots.append(slot)
            tg.start_soon(slot.run, n * gap_s * random.uniform(0.5, 1.0))

    async def _poll(self) -> None:
        """Ask for what no socket brings; one leg's asking is enough."""
        venue = self._side.venue
        if self._leg != FIRST_LEG:
            return
        await self._listed.wait()

        def write(question: Request, reply: Reply) -> None:
            self._note("h", _encoder.encode(answer_to(question, reply)))

        def wanted(channel: Channel) -> list[Instrument]:
            if not self._side.room.roomy:  # Redis is away or slow: answers are not to take its sockets' room
                return []
            return [each for s, each in self._instruments.items() if self._wanted.wants(channel, s)]

        async with anyio.create_task_group() as tg:
            asking = partial(poll, shards=self._wanted.shards)
            for channel in venue.polls:
                tg.start_soon(asking, venue, channel, self._rest.fetch, write, wanted)

    # --------------------------------------------------------------------------------------- requests

    async def _serve(self, reading: Hot, writing: Hot) -> None:
        keys, partition = self._keys, self._partition
        role = f"connector:{self._leg}"

        async def place() -> tuple[Cursor, Cursor]:
            end = await newest(reading, keys, partition, "control")
            return end, await remembered(reading, keys, partition, role, "control") or START

        born, cursor = await persist(reading, place, self._outage)
        requests = Requests(
            venue=self._side.venue,
            partition=partition,
            leg=self._leg,
            keys=keys,
            rest=self._rest,
            sink=self._sink,
            clock=self._side.clock,
            slots=self._slots,
            instruments=self._instruments,
            hot=writing,
            born=born,
        )
        tail = Tail(reading, keys, partition, {"control": cursor})
        tail.lost = self._outage
        await self._listed.wait()
        await requests.run(tail)
