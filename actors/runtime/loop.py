"""The one stage loop: lease, restore, read, fold, commit.

Starting fresh, recovering and taking over are the same lines. What happens when:

=========================== ===============================================================================
lease won                   load what is stored; checkpoint, refold to the cursor emitting nothing, go on
a commit's answer           see ``commits``
fold raises                 drop the state, restore, refold; the third time the event goes to the skip list
                            and to ``dead``, in the commit that passes it
numbers jump                ``fold.jump(..., "retention")``; a checkpoint with the next commit
numbers fall, higher epoch  ``fold.jump(..., "rollback")``; new epoch, a checkpoint with the next commit
checkpoint of newer format  refused with a plain message
checkpoint gone or too old  what lies between it and the cursor cannot be folded again: ``jump`` over it
lease ending                stop reading, checkpoint, return
=========================== ===============================================================================
"""

import time
from typing import Any, Final

import anyio
import anyio.lowlevel
import structlog

from actors.runtime.commits import Commits
from actors.runtime.folding import SLICE, Folding
from actors.runtime.housekeeping import Housekeeping
from actors.runtime.lifecycle import Actor, Refused
from actors.runtime.meter import Meter
from actors.runtime.poison import Again, Poison, Raised
from actors.runtime.stage import Counting, Stage
from actors.stages.fold import Fold, Output
from actors.streams.client import BLOCK_S, cold
from actors.streams.keys import START, Cursor, partitions
from actors.streams.lease import Lease, keep
from actors.streams.ledger import Ledger, Stored
from actors.streams.partition import Entry, after, closing, entries_of, persist, xread
from actors.streams.wire import Command, Hot, Reply

log = structlog.get_logger()

READ_COUNT: Final = 16  # DESIGN 5: entries a read


async def run_stage(actor: Actor, stage: Stage) -> None:
    """Run ``stage`` for a fair share of all partitions until the actor stops."""

    async def work(lease: Lease) -> None:
        await _hold(actor, stage, lease)

    wanted = [(partition, None) for partition in partitions(actor.settings)]
    await keep(actor, wanted, work, lease_role=stage.role)


async def _hold(actor: Actor, stage: Stage, lease: Lease) -> None:
    """Work until the lease ends or is lost."""
    partition = lease.partition
    meter = Meter(actor.metrics, partition, role=stage.role, reads=stage.reads)
    ledger = Ledger(
        actor.keys, partition, role=stage.role, lease_key=lease.key, reads=stage.reads, writes=stage.writes
    )
    settings, key = actor.settings, ledger.input
    async with (
        closing(await cold(settings, key)) as hot,
        closing(await cold(settings, key)) as side,
        closing(await cold(settings, key)) as third,
        anyio.create_task_group() as tg,
    ):
        work = _Work(stage, lease, ledger, meter, hot=hot, side=side)
        tg.start_soon(work.watch_ending)
        housekeeping = Housekeeping(
            actor, partition, meter, role=stage.role, reads=stage.reads, writes=stage.writes
        )
        tg.start_soon(housekeeping.run, side, lambda: work.committed)
        if stage.beside is not None:
            await persist(third, _nothing, meter.lost)
            tg.start_soon(stage.beside, lease, third, meter.lost)
        await work.run()
        tg.cancel_scope.cancel()


class _Work:
    """One partition under one lease: what is read is folded, what was folded is committed."""

    def __init__(
        self, stage: Stage, lease: Lease, ledger: Ledger, meter: Meter, *, hot: Hot, side: Hot
    ) -> None:
        self._stage = stage
        self._lease = lease
        self._ledger = ledger
        self._meter = meter
        self._hot = hot
        self._whose = {"role": stage.role, "partition": str(lease.partition)}
        self._poison = Poison(stage.reads, meter, self._whose)
        out = Output(tuple(dict.fromkeys((*stage.writes, "dead"))))
        fold = stage.fold(lease.partition, None)
        self._folding = Folding(fold, out, self._poison, meter, whose=self._whose)
        self._commits = Commits(
            ledger, lease, self._folding, self._poison, meter, hot=hot, side=side, whose=self._whose
        )
        self._waiting: Reply | None = None  # the read that blocks now

    @property
    def committed(self) -> Cursor:
        """The last event whose outputs are in."""
        return self._commits.committed

    async def watch_ending(self) -> None:
        """Give up a read that blocks when the lease is to end."""
        await self._lease.ending.wait()
        if self._waiting is not None:
            self._waiting.give_up()

    async def run(self) -> None:
        """Work until the lease is to end."""
        while True:
            try:
                await self._restore()
                await self._go_on()
            except Raised as e:
                self._poison.count(e)
            except Again:
                log.info("restoring", **self._whose)
            else:
                return
            await self._hot.aclose()  # a read may still block it

    # ---------------------------------------------------------------------------------------- restore

    async def _restore(self) -> None:
        """Make the fold what it was at the stored cursor."""
        stored = await persist(self._hot, lambda: self._ledger.load(self._hot), self._meter.lost)
        commits = self._commits
        if (stored.cursor or START) < commits.committed:
            self._meter.rolled_back()
            await commits.new_epoch(f"the cursor fell from {commits.committed} to {stored.cursor}")
        fold, checkpointed = self._load(stored)
        begin = START if checkpointed is None else checkpointed
        commits.begin(stored, begin)
        self._folding.begin(fold, stored)
        if stored.cursor is None:
            return
        if checkpointed is None or not await self._refold(begin, stored.cursor):
            fold, _ = self._load(stored)
            self._folding.jump_over(fold, begin, stored.cursor, stored.counts)

    def _load(self, stored: Stored) -> tuple[Fold, Cursor | None]:
        """Return the fold at its checkpoint, and where that is; None: there was no usable one."""
        fold = self._stage.fold(self._lease.partition, None)
        checkpoint = stored.checkpoint
        if checkpoint is not None:
            if checkpoint.format > fold.FORMAT:
                raise Refused(
                    f"the checkpoint of {self._stage.role} in {self._lease.partition} has format "
                    f"{checkpoint.format}, this program knows up to {fold.FORMAT}: run the newer version, "
                    "which wrote it"
                )
            if checkpoint.format >= getattr(fold, "OLDEST", fold.FORMAT):
                try:
                    return self._stage.fold(self._lease.partition, checkpoint.blob), checkpoint.cursor
                except Exception:  # to go on without a state beats to stand still
                    log.exception("checkpoint_unreadable", **self._whose)
        if isinstance(fold, Counting):
            fold.resume(stored.counts)
        return fold, None

    async def _refold(self, begin: Cursor, end: Cursor) -> bool:
        """Fold from ``begin`` to ``end`` once more, emitting nothing. False: not all of it is there."""
        folding = self._folding
        folding.cursor = begin
        while folding.cursor < end:
            entries = await self._fetch(folding.cursor)
            for entry in entries:
                part = after(entry, folding.cursor)
                if part.first != folding.cursor.k + 1 or (part.epoch, part.first) > end:
                    return False
                lines = part.lines if part.cursor <= end else part.lines[: end.k - part.first + 1]
                for at in range(0, len(lines), SLICE):
                    folding.fold_lines(part.epoch, part.first + at, lines[at : at + SLICE])
                    folding.out.clear()
                if folding.cursor >= end:
                    break
            if not entries:
                return False
            await anyio.lowlevel.checkpoint()
        return folding.cursor == end

    async def _fetch(self, cursor: Cursor) -> list[Entry]:
        command = ("XREAD", "COUNT", READ_COUNT, "STREAMS", self._ledger.input, str(cursor))
        answer = await persist(self._hot, lambda: self._hot.call(*command), self._meter.lost)
        return _only(answer)

    # ---------------------------------------------------------------------------------- read and fold

    async def _go_on(self) -> None:
        """Read, fold and commit until the lease is to end."""
        entries = await self._read(None)
        while not self._lease.ending.is_set():
            entries = await self._advance(entries)
            if not entries and self._commits.checkpoint_is_due(time.perf_counter()):
                await self._commits.checkpoint_alone()
        await self._commits.checkpoint_alone()

    def _xread(self) -> Command:
        return xread((self._ledger.input,), (self._folding.cursor,), int(BLOCK_S * 1000), READ_COUNT)

    async def _read(self, sent: Reply | None) -> list[Entry]:
        """Return what comes next, [] after a while or when the lease is to end. ``sent``: asked already."""

        async def attempt() -> Any:
            nonlocal sent
            self._waiting, sent = sent or self._hot.send((self._xread(),), BLOCK_S)[0], None
            if self._lease.ending.is_set():
                self._waiting.give_up()
            try:
                return await self._waiting
            finally:
                self._waiting = None

        answer = await persist(self._hot, attempt, self._meter.lost)
        return _only(answer)

    async def _advance(self, entries: list[Entry]) -> list[Entry]:
        """Fold what was read, in as many commits as it takes; return what was read with the last one."""
        reading: Reply | None = None
        for is_last in self._folding.fold_up(entries):
            reading = await self._commits.commit(self._xread() if is_last else None)
            if not is_last and self._lease.ending.is_set():
                return []
        return await self._read(reading)


def _only(answer: Any) -> list[Entry]:
    for entries in entries_of(answer).values():
        return entries
    return []


async def _nothing() -> None:
    return
