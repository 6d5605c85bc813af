"""The one stage loop: lease, restore, read, fold, commit.

Starting fresh, recovering and taking over are the same lines. What happens when:

=========================== ===============================================================================
lease won                   load what is stored; checkpoint, refold to the cursor emitting nothing, go on
commit OK or DUP            it is in: read on
commit FENCED               renew: still mine (it had run out) - the same commit under the new epoch;
                            another's - stop
commit STALE                the stored cursor is not mine: a failover took commits back (new epoch, counted);
                            restore
outcome unclear             dial again, send the same commit again: its answer tells
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
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, cast, runtime_checkable

import anyio
import anyio.lowlevel
import structlog
from redis.exceptions import NoScriptError, ResponseError

from actors.runtime.housekeeping import Housekeeping
from actors.runtime.lifecycle import Actor, Refused
from actors.runtime.meter import Meter
from actors.stages.fold import Fold, Output
from actors.stages.sink import letter
from actors.streams.client import BLOCK_S, cold
from actors.streams.keys import START, Cursor, Partition, Stream, partitions
from actors.streams.lease import Lease, keep
from actors.streams.ledger import Ledger, Stored
from actors.streams.partition import Entry, after, closing, entries_of, persist, rolled_back, xread
from actors.streams.scripts import COMMIT
from actors.streams.wire import Command, Hot, Reply

log = structlog.get_logger()

READ_COUNT: Final = 16  # DESIGN 5: entries a read
COMMIT_BYTES: Final = 256 * 1024  # DESIGN 5: outputs a commit
_SLICE: Final = 16  # lines folded between two looks at how much there is to commit
_FOLD_S: Final = 0.025  # chosen: nothing else of the process (lease renewals) waits longer for a fold
_TRIES: Final = 3  # DESIGN 5: then the event is poison
_CHECKPOINT_SHARE: Final = 0.01  # DESIGN 5: of time
_CHECKPOINT_LEAST_S: Final = 1.0  # chosen: refolding a second takes well under one

Lost = Callable[[Exception], None]
Beside = Callable[[Lease, Hot, Lost], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A role that folds one stream of each partition into others.

    Attributes:
        role: Names lease, cursor and checkpoint.
        reads: The one input.
        writes: The outputs, ``control`` and ``dead`` among them where the fold uses them.
        fold: (partition, an earlier ``dump()`` or None) -> the fold.
        beside: Runs beside the loop while the lease is held, with a connection of its own; to be
            told of each failure of that.
    """

    role: str
    reads: Stream
    writes: tuple[Stream, ...]
    fold: Callable[[Partition, bytes | None], Fold]
    beside: Beside | None = None


@runtime_checkable
class _Counting(Protocol):
    """A fold that numbers its outputs itself; told where they stand when it starts without a state."""

    def resume(self, counts: dict[str, int]) -> None: ...


async def run_stage(actor: Actor, stage: Stage) -> None:
    """Run ``stage`` for a fair share of all partitions until the actor stops."""

    async def work(lease: Lease) -> None:
        await _Work(actor, stage, lease).run()

    wanted = [(partition, None) for partition in partitions(actor.settings)]
    await keep(actor, wanted, work, lease_role=stage.role)


class _Again(Exception):
    """Internal: drop the fold and restore. Raised where what is in memory is no longer what is stored."""


class _Raised(_Again):
    """Internal: folding event ``k`` raised."""

    def __init__(self, at: Cursor, line: bytes) -> None:
        super().__init__(at, line)
        self.at = at
        self.line = line


@dataclass(frozen=True, slots=True)
class _Step:
    """What one commit holds besides the latest values."""

    then: Cursor
    entries: list[tuple[Stream, Sequence[bytes]]]
    skip: frozenset[int]
    checkpoint: tuple[int, bytes] | None
    large: tuple[int, bytes] | None  # a checkpoint that the outputs shall not wait for: it follows alone
    cost_s: float  # of making the checkpoint


class _Work:
    """One partition under one lease."""

    def __init__(self, actor: Actor, stage: Stage, lease: Lease) -> None:
        self._actor = actor
        self._stage = stage
        self._lease = lease
        self._partition = lease.partition
        self._meter = Meter(actor.metrics, lease.partition, role=stage.role, reads=stage.reads)
        self._ledger = Ledger(
            actor.keys,
            lease.partition,
            role=stage.role,
            lease_key=lease.key,
            reads=stage.reads,
            writes=stage.writes,
        )
        self._fold: Fold = stage.fold(lease.partition, None)
        self._out = Output(tuple(dict.fromkeys((*stage.writes, "dead"))))
        self._cursor = START  # what has been folded
        self._committed = START  # what has been committed
        self._checkpointed = START
        self._checkpoint_due = 0.0
        self._fresh = False  # no cursor is stored: whatever comes first is the beginning
        self._stored_skip: frozenset[int] = frozenset()
        self._skip: frozenset[int] = frozenset()
        self._doubted = START
        self._tries: Counter[Cursor] = Counter()
        self._buried: list[tuple[Cursor, bytes]] = []  # poison that no commit has passed yet, for ``dead``
        self._waiting: Reply | None = None  # the read that blocks now
        self._hot: Hot
        self._side: Hot

    async def run(self) -> None:
        """Work until the lease ends or is lost."""
        settings, key = self._actor.settings, self._ledger.input
        async with (
            closing(await cold(settings, key)) as self._hot,
            closing(await cold(settings, key)) as self._side,
            closing(await cold(settings, key)) as third,
            anyio.create_task_group() as tg,
        ):
            tg.start_soon(self._watch_ending)
            housekeeping = Housekeeping(
                self._actor,
                self._partition,
                self._meter,
                role=self._stage.role,
                reads=self._stage.reads,
                writes=self._stage.writes,
            )
            tg.start_soon(housekeeping.run, self._side, lambda: self._committed)
            if self._stage.beside is not None:
                await persist(third, _nothing, self._meter.lost)
                tg.start_soon(self._stage.beside, self._lease, third, self._meter.lost)
            await self._fold_until_ending()
            tg.cancel_scope.cancel()

    async def _watch_ending(self) -> None:
        await self._lease.ending.wait()
        if self._waiting is not None:
            self._waiting.give_up()

    async def _fold_until_ending(self) -> None:
        while True:
            try:
                await self._restore()
                await self._go_on()
            except _Raised as e:
                self._poisoned(e)
            except _Again:
                log.info("restoring", role=self._stage.role, partition=str(self._partition))
            else:
                return
            await self._hot.aclose()  # a read may still block it

    # ---------------------------------------------------------------------------------------- restore

    async def _restore(self) -> None:
        """Make the fold what it was at the stored cursor."""
        self._out.clear()
        stored = await persist(self._hot, lambda: self._ledger.load(self._hot), self._meter.lost)
        if (stored.cursor or START) < self._committed:
            self._meter.rolled_back()
            await self._new_epoch(f"the cursor fell from {self._committed} to {stored.cursor}")
        self._fresh = stored.cursor is None
        self._cursor = self._committed = stored.cursor or START
        self._checkpoint_due = 0.0  # with the first commit: before this version of the code folds on
        self._stored_skip = stored.skip
        self._skip = stored.skip | {at.k for at, _ in self._buried}
        self._fold, usable = self._load(stored)
        self._checkpointed = stored.checkpoint.cursor if stored.checkpoint and usable else START
        if stored.cursor is None:
            return
        if not usable or not await self._refold(self._checkpointed, stored.cursor):
            self._fold, _ = self._load(stored)
            self._jump_over(stored, stored.cursor)

    def _load(self, stored: Stored) -> tuple[Fold, bool]:
        """Return the fold at its checkpoint, and whether there was a usable one."""
        fold = self._stage.fold(self._partition, None)
        checkpoint = stored.checkpoint
        if checkpoint is not None:
            if checkpoint.format > fold.FORMAT:
                raise Refused(
                    f"the checkpoint of {self._stage.role} in {self._partition} has format "
                    f"{checkpoint.format}, this program knows up to {fold.FORMAT}: run the newer version, "
                    "which wrote it"
                )
            if checkpoint.format >= getattr(fold, "OLDEST", fold.FORMAT):
                try:
                    return self._stage.fold(self._partition, checkpoint.blob), True
                except (
                    Exception
                ):  # a state that its own fold cannot read: to go on without beats to stand still
                    log.exception(
                        "checkpoint_unreadable", role=self._stage.role, partition=str(self._partition)
                    )
        if isinstance(fold, _Counting):
            fold.resume(stored.counts)
        return fold, False

    async def _refold(self, begin: Cursor, end: Cursor) -> bool:
        """Fold from ``begin`` to ``end`` once more, emitting nothing. False: not all of it is there."""
        self._cursor = begin
        while self._cursor < end:
            entries = await self._fetch(self._cursor)
            for entry in entries:
                part = after(entry, self._cursor)
                if part.first != self._cursor.k + 1 or (part.epoch, part.first) > end:
                    return False
                lines = part.lines if part.cursor <= end else part.lines[: end.k - part.first + 1]
                for at in range(0, len(lines), _SLICE):
                    self._fold_lines(part.epoch, part.first + at, lines[at : at + _SLICE])
                    self._out.clear()
                if self._cursor >= end:
                    break
            if not entries:
                return False
            await anyio.lowlevel.checkpoint()
        return self._cursor == end

    async def _fetch(self, cursor: Cursor) -> list[Entry]:
        command = ("XREAD", "COUNT", READ_COUNT, "STREAMS", self._ledger.input, str(cursor))
        answer = await persist(self._hot, lambda: self._hot.call(*command), self._meter.lost)
        return _only(answer)

    def _jump_over(self, stored: Stored, cursor: Cursor) -> None:
        """Go on at the stored cursor with a state from before it: say so instead of guessing."""
        missing = cursor.k - self._checkpointed.k
        log.warning(
            "refold_impossible",
            role=self._stage.role,
            partition=str(self._partition),
            checkpoint=str(self._checkpointed),
            cursor=str(cursor),
        )
        self._out.clear()
        if isinstance(self._fold, _Counting):
            self._fold.resume(stored.counts)
        self._cursor = cursor
        if missing > 0:
            self._fold.jump(self._checkpointed.k + 1, cursor.k, "retention", self._out)
            self._meter.trimmed(missing)

    # ---------------------------------------------------------------------------------- read and fold

    async def _go_on(self) -> None:
        """Read, fold and commit until the lease is to end."""
        entries = await self._read(None)
        while not self._lease.ending.is_set():
            entries = await self._advance(entries)
            if not entries and time.perf_counter() >= self._checkpoint_due:
                await self._checkpoint_alone()
        await self._checkpoint_alone()

    def _xread(self) -> Command:
        return xread((self._ledger.input,), (self._cursor,), int(BLOCK_S * 1000), READ_COUNT)

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
        for is_last in self._fold_up(entries):
            reading = await self._commit(then_read=is_last)
            if not is_last and self._lease.ending.is_set():
                return []
        return await self._read(reading)

    def _fold_up(self, entries: list[Entry]) -> Iterator[bool]:
        """Fold on; yield wherever there is enough to commit, True where it is the last time."""
        outputs = list(self._out.lines.values())
        size, seen, folded = 0, [0] * len(outputs), False
        until = time.perf_counter() + _FOLD_S
        for entry in entries:
            part = after(entry, self._cursor)
            self._mind_the_gap(part)
            at, step = 0, _SLICE
            while at < len(part.lines):
                lines = part.lines[at : at + step]
                self._fold_lines(part.epoch, part.first + at, lines)
                at += len(lines)
                folded, before = True, size
                for i, said in enumerate(outputs):
                    if len(said) > seen[i]:
                        size += sum(map(len, said[seen[i] :]))
                        seen[i] = len(said)
                a_line = (size - before) / len(lines)
                if size >= COMMIT_BYTES or time.perf_counter() >= until:
                    self._meter.newest(lines[-1])
                    yield False
                    size, seen, folded = 0, [0] * len(outputs), False
                    until = time.perf_counter() + _FOLD_S
                step = _step_for(COMMIT_BYTES - size, a_line)
        if folded:
            self._meter.newest(entries[-1].lines[-1])
            yield True

    def _fold_lines(self, epoch: int, first: int, lines: Sequence[bytes]) -> None:
        fold, out, skip = self._fold.fold, self._out, self._skip
        k, line = first, b""
        try:
            if skip:
                for k, line in enumerate(lines, first):
                    if k not in skip:
                        fold(k, line, out)
            else:
                for line in lines:
                    fold(k, line, out)
                    k += 1
        except Exception as e:
            raise _Raised(Cursor(epoch, k), line) from e
        self._cursor = Cursor(epoch, first + len(lines) - 1)

    def _mind_the_gap(self, part: Entry) -> None:
        """Tell the fold what it will never see between the cursor and ``part``."""
        last, fresh = self._cursor, self._fresh
        self._fresh = False
        if part.first == last.k + 1 or fresh:  # fresh: it begins here; what was before is not missing
            return
        if rolled_back(part, last):
            if self._doubted != part.cursor:
                self._doubted = part.cursor  # our own cursor may have been taken back with it: look first
                raise _Again
            log.warning(
                "input_rolled_back", role=self._stage.role, partition=str(self._partition), at=str(last)
            )
            self._meter.rolled_back()
            self._skip = frozenset()  # those numbers are other events now
            self._tries.clear()
            self._fold.jump(part.first, last.k, "rollback", self._out)
        else:
            missing = part.first - last.k - 1
            log.warning(
                "trimmed_unread", role=self._stage.role, partition=str(self._partition), events=missing
            )
            self._meter.trimmed(missing)
            self._fold.jump(last.k + 1, part.first - 1, "retention", self._out)
        self._checkpoint_due = 0.0  # a refold could not find the same jump again: not to need it

    # ----------------------------------------------------------------------------------------- commit

    async def _commit(self, *, then_read: bool) -> Reply | None:
        """Commit what has been folded; return the read that was sent along."""
        step = self._step()
        began = time.perf_counter()
        reading, dup = await self._see_through(step, then_read=then_read)
        took_s = time.perf_counter() - began
        self._meter.committed(took_s, self._out, dup=dup)
        self._committed, self._fresh, self._stored_skip = step.then, False, step.skip
        self._buried = [(at, record) for at, record in self._buried if at > step.then]
        self._out.clear()
        if step.large is not None:
            await self._store(step.large, step.cost_s)
        elif step.checkpoint is not None:
            self._note_checkpoint(step.then, step.cost_s + took_s)
        return reading

    def _step(self) -> "_Step":
        then = self._cursor
        entries: list[tuple[Stream, Sequence[bytes]]] = [
            (cast("Stream", s), some) for s, lines in self._out.lines.items() for some in _split(lines)
        ]
        dead = [record for at, record in self._buried if at <= then]
        if dead:
            entries.append(("dead", dead))
        # A checkpoint has passed those before it: no refold will meet them.
        self._skip = frozenset(k for k in self._skip if k > self._checkpointed.k)
        needed = self._checkpoint_due == 0.0  # with this commit, or a refold could not come by here
        checkpoint, cost_s = self._checkpoint()
        if checkpoint is not None and len(checkpoint[1]) > COMMIT_BYTES and not needed:
            return _Step(then, entries, self._skip, None, checkpoint, cost_s)
        return _Step(then, entries, self._skip, checkpoint, None, cost_s)

    async def _see_through(self, step: "_Step", *, then_read: bool) -> tuple[Reply | None, bool]:
        """Send until it is in; return the read that went along, and whether an earlier sending was it."""
        while True:
            send = partial(self._send, step, then_read=then_read)
            answer, epoch, reading = await persist(self._hot, send, self._meter.lost)
            match answer[0]:
                case b"OK":
                    return reading, False
                case b"DUP":
                    return reading, True
                case b"FENCED":
                    self._meter.refused("FENCED")
                    await persist(self._hot, partial(self._lease.refenced, epoch), self._meter.lost)
                case _:
                    self._meter.refused("STALE")
                    await self._stale(Cursor.parse(answer[1]))

    async def _send(self, step: "_Step", *, then_read: bool) -> tuple[list[Any], int, Reply | None]:
        epoch = self._lease.epoch
        command = self._ledger.commit(
            epoch,
            self._committed,
            step.then,
            entries=step.entries,
            latest=self._out.keys,
            skip=None if step.skip == self._stored_skip else step.skip,
            checkpoint=step.checkpoint,
        )
        reading: Reply | None = None
        if then_read:
            reply, reading = self._hot.send((command, self._xread()), BLOCK_S)
        else:
            reply = self._hot.send((command,))[0]
        try:
            try:
                return await reply, epoch, reading
            except NoScriptError:
                # On the other connection: on this one it would wait behind the blocking read.
                teach = partial(self._side.call, *COMMIT.taught(command))
                return await persist(self._side, teach, self._meter.lost), epoch, reading
        except ResponseError as e:
            if "equal or smaller" not in str(e):
                raise
            # An output stands above our epoch: its counts were lost (deleted by hand, a clock set back).
            await self._new_epoch(str(e))
            raise _Again from e

    async def _stale(self, stored: Cursor) -> None:
        """The stored cursor is not mine: find out why. Always raises."""
        if stored >= self._committed:
            await persist(self._hot, partial(self._lease.refenced, self._lease.epoch), self._meter.lost)
        raise _Again

    async def _new_epoch(self, reason: str) -> None:
        log.warning("rollback", role=self._stage.role, partition=str(self._partition), reason=reason)
        await persist(self._hot, self._lease.force, self._meter.lost)

    def _checkpoint(self) -> tuple[tuple[int, bytes] | None, float]:
        """Return format and state, if it is time, and what that has cost in seconds."""
        began = time.perf_counter()
        if began < self._checkpoint_due:
            return None, 0.0
        blob = self._fold.dump()
        return (self._fold.FORMAT, blob), time.perf_counter() - began

    def _note_checkpoint(self, at: Cursor, cost_s: float) -> None:
        self._checkpointed = at
        self._checkpoint_due = time.perf_counter() + max(_CHECKPOINT_LEAST_S, cost_s / _CHECKPOINT_SHARE)
        self._meter.checkpointed(cost_s)

    async def _checkpoint_alone(self) -> None:
        """Checkpoint where there is nothing to commit: at the end, and while nothing comes.

        What a jump said and no commit took yet is left for the heir to find.
        """
        if self._checkpointed == self._committed or any(self._out.lines.values()):
            return
        began = time.perf_counter()
        blob = self._fold.dump()
        await self._store((self._fold.FORMAT, blob), time.perf_counter() - began)

    async def _store(self, checkpoint: tuple[int, bytes], cost_s: float) -> None:
        """Store a checkpoint of what is committed, in a commit of its own."""
        began = time.perf_counter()
        command = self._ledger.commit(
            self._lease.epoch,
            self._committed,
            self._committed,
            entries=(),
            latest={},
            checkpoint=checkpoint,
        )
        # Not on the hot connection, which may still block in a read.
        answer = await persist(self._side, lambda: _taught(self._side, command), self._meter.lost)
        if answer[0] in {b"OK", b"DUP"}:
            self._note_checkpoint(self._committed, cost_s + time.perf_counter() - began)
        else:
            self._meter.refused(answer[0].decode())  # the next commit finds out why

    # ----------------------------------------------------------------------------------------- poison

    def _poisoned(self, raised: _Raised) -> None:
        """Count a try; at the third lay the event aside."""
        self._tries[raised.at] += 1
        tries = self._tries[raised.at]
        log.error(
            "fold_raised",
            role=self._stage.role,
            partition=str(self._partition),
            k=raised.at.k,
            tries=tries,
            reason=repr(raised.__cause__),
            exc_info=raised.__cause__ if tries == _TRIES else None,
        )
        if tries < _TRIES:
            return
        identity = f"{self._partition}/{self._stage.reads}/{raised.at}"
        reason = f"poison: {raised.__cause__!r}"
        record = letter(reason, self._stage.role, str(self._partition), identity, raised.line)
        self._buried.append((raised.at, record))
        self._meter.poisoned()


def _only(answer: Any) -> list[Entry]:
    for entries in entries_of(answer).values():
        return entries
    return []


async def _nothing() -> None:
    return


async def _taught(hot: Hot, command: Command) -> Any:
    try:
        return await hot.call(*command)
    except NoScriptError:
        return await hot.call(*COMMIT.taught(command))


def _step_for(room: int, bytes_a_line: float) -> int:
    """Return how many lines to fold before looking again: fewer where each says much."""
    return _SLICE if bytes_a_line * _SLICE <= room else max(1, int(room / bytes_a_line))


def _split(lines: list[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield ``lines`` in runs of at most ``COMMIT_BYTES``, a longer line by itself."""
    if sum(map(len, lines)) <= COMMIT_BYTES:
        if lines:
            yield lines
        return
    run: list[bytes] = []
    size = 0
    for line in lines:
        if run and size + len(line) > COMMIT_BYTES:
            yield run
            run, size = [], 0
        run.append(line)
        size += len(line)
    yield run
