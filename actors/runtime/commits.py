"""The commits of one stage in one partition: what was folded moves on with its cursor, once, or not at all.

======================= ===================================================================================
answer OK or DUP        it is in
answer FENCED           renew: still mine (it had run out) - the same commit under the new epoch; another's -
                        stop
answer STALE            the stored cursor is not mine: a failover took commits back (new epoch, counted);
                        restore
outcome unclear         dial again, send the same commit again: its answer tells
======================= ===================================================================================
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import structlog
from redis.exceptions import NoScriptError, ResponseError

from actors.runtime.folding import COMMIT_BYTES, Folding
from actors.runtime.meter import Meter
from actors.runtime.poison import Again, Poison
from actors.streams.client import BLOCK_S
from actors.streams.keys import START, Cursor, Stream
from actors.streams.lease import Lease
from actors.streams.ledger import Ledger, Stored
from actors.streams.partition import persist
from actors.streams.scripts import COMMIT
from actors.streams.wire import Command, Hot, Reply

log = structlog.get_logger()

_CHECKPOINT_SHARE: Final = 0.01  # DESIGN 5: of time
_CHECKPOINT_LEAST_S: Final = 1.0  # chosen: refolding a second takes well under one


@dataclass(frozen=True, slots=True)
class _Step:
    """What one commit holds besides the latest values."""

    then: Cursor
    entries: list[tuple[Stream, Sequence[bytes]]]
    skip: frozenset[int]
    checkpoint: tuple[int, bytes] | None
    large: tuple[int, bytes] | None  # a checkpoint that the outputs shall not wait for: it follows alone
    cost_s: float  # of making the checkpoint


class Commits:
    """Commits what ``folding`` has said.

    Attributes:
        committed: The last event whose outputs are in.
    """

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        folding: Folding,
        poison: Poison,
        meter: Meter,
        *,
        hot: Hot,
        side: Hot,
        whose: Mapping[str, str],
    ) -> None:
        """Take ``hot`` for commits, ``side`` for what must not wait behind a read that blocks."""
        self.committed = START
        self._ledger = ledger
        self._lease = lease
        self._folding = folding
        self._poison = poison
        self._meter = meter
        self._hot = hot
        self._side = side
        self._whose = whose
        self._checkpointed = START
        self._checkpoint_due = 0.0
        self._stored_skip: frozenset[int] = frozenset()

    def begin(self, stored: Stored, checkpointed: Cursor) -> None:
        """Go on from what is stored; the last usable checkpoint is of ``checkpointed``."""
        self.committed = stored.cursor or START
        self._checkpointed = checkpointed
        self._stored_skip = stored.skip

    def checkpoint_is_due(self, now: float) -> bool:
        """Tell whether it is time for a checkpoint at ``now`` of ``time.perf_counter``."""
        return self._folding.must_checkpoint or now >= self._checkpoint_due

    async def commit(self, read: Command | None) -> Reply | None:
        """Commit what has been folded; return the read that was sent along."""
        step = self._step()
        began = time.perf_counter()
        reading, dup = await self._see_through(step, read=read)
        took_s = time.perf_counter() - began
        self._meter.committed(took_s, self._folding.out, dup=dup)
        self.committed, self._stored_skip = step.then, step.skip
        self._poison.passed(step.then)
        self._folding.out.clear()
        if step.large is not None:
            await self._store(step.large, step.cost_s)
        elif step.checkpoint is not None:
            self._note_checkpoint(step.then, step.cost_s + took_s)
        return reading

    def _step(self) -> "_Step":
        then = self._folding.cursor
        entries: list[tuple[Stream, Sequence[bytes]]] = [
            (cast("Stream", s), some)
            for s, lines in self._folding.out.lines.items()
            for some in _split(lines)
        ]
        if dead := self._poison.letters(then):
            entries.append(("dead", dead))
        skip = self._folding.skip_after(self._checkpointed.k)
        checkpoint, cost_s = self._checkpoint()
        if checkpoint is not None and len(checkpoint[1]) > COMMIT_BYTES and not self._folding.must_checkpoint:
            return _Step(then, entries, skip, None, checkpoint, cost_s)
        return _Step(then, entries, skip, checkpoint, None, cost_s)

    async def _see_through(self, step: "_Step", *, read: Command | None) -> tuple[Reply | None, bool]:
        """Send until it is in; return the read that went along, and whether an earlier sending was it."""
        while True:
            send = partial(self._send, step, read=read)
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

    async def _send(self, step: "_Step", *, read: Command | None) -> tuple[list[Any], int, Reply | None]:
        epoch = self._lease.epoch
        command = self._ledger.commit(
            epoch,
            self.committed,
            step.then,
            entries=step.entries,
            latest=self._folding.out.keys,
            skip=None if step.skip == self._stored_skip else step.skip,
            checkpoint=step.checkpoint,
        )
        reading: Reply | None = None
        if read is not None:
            reply, reading = self._hot.send((command, read), BLOCK_S)
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
            await self.new_epoch(str(e))
            raise Again from e

    async def _stale(self, stored: Cursor) -> None:
        """The stored cursor is not mine: find out why. Always raises."""
        if stored >= self.committed:
            await persist(self._hot, partial(self._lease.refenced, self._lease.epoch), self._meter.lost)
        raise Again

    async def new_epoch(self, reason: str) -> None:
        """Take a new epoch: what stands above ours was taken back."""
        log.warning("rollback", **self._whose, reason=reason)
        await persist(self._hot, self._lease.force, self._meter.lost)

    def _checkpoint(self) -> tuple[tuple[int, bytes] | None, float]:
        """Return format and state, if it is time, and what that has cost in seconds."""
        began = time.perf_counter()
        if not self.checkpoint_is_due(began):
            return None, 0.0
        blob = self._folding.fold.dump()
        return (self._folding.fold.FORMAT, blob), time.perf_counter() - began

    def _note_checkpoint(self, at: Cursor, cost_s: float) -> None:
        self._checkpointed = at
        self._folding.must_checkpoint = False
        self._checkpoint_due = time.perf_counter() + max(_CHECKPOINT_LEAST_S, cost_s / _CHECKPOINT_SHARE)
        self._meter.checkpointed(cost_s)

    async def checkpoint_alone(self) -> None:
        """Checkpoint where there is nothing to commit: at the end, and while nothing comes.

        What a jump said and no commit took yet is left for the heir to find.
        """
        if self._checkpointed == self.committed or any(self._folding.out.lines.values()):
            return
        began = time.perf_counter()
        blob = self._folding.fold.dump()
        await self._store((self._folding.fold.FORMAT, blob), time.perf_counter() - began)

    async def _store(self, checkpoint: tuple[int, bytes], cost_s: float) -> None:
        """Store a checkpoint of what is committed, in a commit of its own."""
        began = time.perf_counter()
        command = self._ledger.commit(
            self._lease.epoch,
            self.committed,
            self.committed,
            entries=(),
            latest={},
            checkpoint=checkpoint,
        )
        # Not on the hot connection, which may still block in a read.
        answer = await persist(self._side, lambda: _taught(self._side, command), self._meter.lost)
        if answer[0] in {b"OK", b"DUP"}:
            self._note_checkpoint(self.committed, cost_s + time.perf_counter() - began)
        else:
            self._meter.refused(answer[0].decode())  # the next commit finds out why


async def _taught(hot: Hot, command: Command) -> Any:
    try:
        return await hot.call(*command)
    except NoScriptError:
        return await hot.call(*COMMIT.taught(command))


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
