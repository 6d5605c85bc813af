"""From an outbox to the master: one socket at a time, in order. One sender a stream and dialect.

Version 2 (``AckedSender``):

=========================== ============================================================================
socket breaks               on another one, everything that is not acknowledged once more
ack of the oldest runs      they are done, and the cursor follows
ack before the oldest run   the master lacks what lies between: the reader goes back there
ack beyond the newest run   the master has more: the reader goes on there
no ack for 30 s             the socket is given up
another socket is idler     once nothing is on its way, on that one
=========================== ============================================================================

Version 1 (``PlainSender``) is told nothing. A run is claimed in Redis (``c:<stream>``) before it is sent
and noted (``d:<stream>``) when the socket has proved that it arrived; what was sent and not proved when
the socket breaks is not sent again. Whoever takes over counts what lies between the two as lost.
"""

import time
from collections import Counter
from typing import Any, Final

import anyio
import structlog

from actors.dialects import ftsobest
from actors.forwarder.pool import Key, Link, Lost, Way
from actors.forwarder.reader import Reader, Run
from actors.runtime.metrics import Metrics
from actors.streams.keys import START, Cursor, Partition
from actors.streams.partition import Progress

log: Any = structlog.get_logger()

_ACK_S: Final = 30.0  # chosen: a disk that stalls takes seconds


class AckedSender:
    """Version 2."""

    def __init__(self, partition: Partition, reader: Reader, way: Way, metrics: Metrics) -> None:
        self.key: Key = (str(partition), reader.stream)
        self.held = START  # up to here the master has it
        self._reader = reader
        self._outbox = reader.outbox
        self._way = way
        self._metrics = metrics
        self._sent = 0  # of the runs in the outbox, on the present socket
        self._ever = START  # up to here everything was sent before
        self._heard_at = 0.0  # when an ack came, or the oldest run was sent

    def begin(self, at: Cursor) -> None:
        """Start where Redis says; the master's word counts for more as soon as it is heard."""
        self.held = at
        self._reader.go(at)

    @property
    def fields(self) -> dict[str, Cursor]:
        """What to store."""
        return {f"{mark}:{self._reader.stream}": self.held for mark in "cd"}

    @property
    def done(self) -> bool:
        """Whether nothing is on its way."""
        return not self._outbox.runs

    @property
    def oldest_ns(self) -> int | None:
        """When the oldest run on its way was received, None: none is."""
        return self._outbox.runs[0].ts_recv if self._outbox.runs else None

    def wake(self) -> None:
        """Look again: the socket has changed."""
        self._outbox.wake()

    def proved(self, last: Cursor) -> None:
        """Take no notice: an ack tells more."""

    def acked(self, last: Cursor) -> None:
        """Learn that the master holds the stream up to ``last``."""
        self._heard_at = time.monotonic()
        runs = self._outbox.runs
        while runs and runs[0].last <= last:
            run = self._outbox.pop()
            self._sent = max(0, self._sent - 1)
            for kind, n in Counter(message.said.type for message in run.messages).items():
                self._metrics.count("tapeline_forward_acked_total", n, kind=kind)
        if (runs and last < runs[0].after) or (not runs and last > self._reader.position):
            log.warning("goes_on_elsewhere", stream="/".join(self.key), held=str(last))
            self._sent = 0
            self._reader.go(last)
        self.held = last
        self._outbox.wake()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            async with self._way.use(self) as link:
                self._sent = 0
                known = link.cursor(self.key)
                if known is not None and known > self.held:
                    self.acked(known)
                try:
                    await self._serve(link)
                except Lost:
                    continue

    async def _serve(self, link: Link) -> None:
        while link.up:
            runs, moving = self._outbox.runs, link.crowded
            if moving and not self._sent:
                return
            if self._sent < len(runs) and not moving:
                run = runs[self._sent]
                self._sent += 1
                if self._sent == 1:
                    self._heard_at = time.monotonic()
                await self._send(link, run)
                continue
            with anyio.move_on_after(_ACK_S):
                await self._outbox.changed()
            if self._sent and time.monotonic() - self._heard_at > _ACK_S:
                link.drop(f"no acknowledgement of {'/'.join(self.key)} for {_ACK_S:g} s")
                return

    async def _send(self, link: Link, run: Run) -> None:
        count = self._metrics.count
        kinds = Counter(message.said.type for message in run.messages)
        for kind, n in kinds.items():
            count("tapeline_forward_sent_total", n, kind=kind)
        if run.last <= self._ever:
            count("tapeline_forward_resent_total", len(run.messages))
        else:
            self._ever = run.last
        first = run.messages[0].cursor if run.messages else run.last
        text = ftsobest.batch(
            *self.key,
            after=str(run.after),
            first=str(first),
            last=str(run.last),
            messages=[message.said.text for message in run.messages],
        )
        await link.send(text, len(run.messages))


class PlainSender:
    """Version 1."""

    def __init__(
        self, partition: Partition, reader: Reader, way: Way, metrics: Metrics, progress: Progress
    ) -> None:
        self.key: Key = (str(partition), reader.stream)
        self._reader = reader
        self._outbox = reader.outbox
        self._way = way
        self._metrics = metrics
        self._progress = progress
        self._claimed = START  # up to here it may have been sent, by us or whoever was here before
        self._before = START  # up to here it was claimed before us
        self._arrived = START
        self._given = 0  # messages of the oldest run that were given to a socket

    def begin(self, claimed: Cursor, arrived: Cursor | None) -> None:
        """Start where Redis says; count what was claimed and not proved."""
        self._claimed = self._before = claimed
        self._arrived = claimed if arrived is None else min(arrived, claimed)
        self._reader.go(self._arrived)

    @property
    def fields(self) -> dict[str, Cursor]:
        """What to store besides the claims."""
        return {f"d:{self._reader.stream}": self._arrived}

    @property
    def done(self) -> bool:
        """Whether nothing is on its way."""
        return not self._outbox.runs and self._arrived >= self._claimed

    @property
    def oldest_ns(self) -> int | None:
        """When the oldest run on its way was received, None: none is."""
        return self._outbox.runs[0].ts_recv if self._outbox.runs else None

    def wake(self) -> None:
        """Look again: the socket has changed."""
        self._outbox.wake()

    def proved(self, last: Cursor) -> None:
        """Learn that what was sent up to ``last`` has arrived, or was counted as lost."""
        self._arrived = max(self._arrived, last)
        self._outbox.wake()

    def acked(self, last: Cursor) -> None:
        """Take no notice: this master says nothing."""

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            async with self._way.use(self) as link:
                try:
                    await self._serve(link)
                except Lost:
                    continue

    async def _serve(self, link: Link) -> None:
        while link.up:
            moving = link.crowded
            if moving and not link.owes(self):
                return
            if moving or not self._outbox.runs:
                await self._outbox.changed()
                continue
            run = self._outbox.runs[0]
            if run.last > self._claimed:
                await self._progress.save({f"c:{self._reader.stream}": run.last})
                self._claimed = run.last
            await self._give(link, run)
            self._outbox.pop()
            self._given = 0
            link.sent(self, run.last)

    async def _give(self, link: Link, run: Run) -> None:
        lost = 0
        for message in run.messages[self._given :]:
            if not link.up:
                raise Lost
            self._given += 1  # from here on it may have arrived: it is not sent again
            if message.cursor <= self._before:
                lost += 1
                continue
            await link.send(message.said.text, 1)
            self._metrics.count("tapeline_forward_sent_total", 1, kind=message.said.type)
        if lost:
            self._metrics.count("tapeline_forward_lost_total", lost, reason="restart")
            log.warning("perhaps_lost", stream="/".join(self.key), messages=lost)
