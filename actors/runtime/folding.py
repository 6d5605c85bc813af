"""One partition's fold in memory: how far it has come, and what it has said since the last commit."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import structlog

from actors.runtime.meter import Meter
from actors.runtime.poison import Again, Poison, Raised
from actors.runtime.stage import Counting
from actors.stages.fold import Fold, Output
from actors.streams.keys import START, Cursor
from actors.streams.ledger import Stored
from actors.streams.partition import Entry, after, rolled_back

log = structlog.get_logger()

COMMIT_BYTES: Final = 256 * 1024  # DESIGN 5: outputs a commit
SLICE: Final = 16  # lines folded between two looks at how much there is to commit
_FOLD_S: Final = 0.025  # chosen: nothing else of the process (lease renewals) waits longer for a fold


class Folding:
    """What is folded.

    Attributes:
        fold: The fold.
        out: What it has said.
        cursor: The last event folded.
        must_checkpoint: The next commit must hold a checkpoint: a refold could not come by here.
    """

    def __init__(
        self, fold: Fold, out: Output, poison: Poison, meter: Meter, *, whose: Mapping[str, str]
    ) -> None:
        self.fold = fold
        self.out = out
        self.cursor = START
        self.must_checkpoint = True
        self._poison = poison
        self._meter = meter
        self._whose = whose
        self._fresh = False  # no cursor is stored: whatever comes first is the beginning
        self._skip: frozenset[int] = frozenset()
        self._doubted = START

    def begin(self, fold: Fold, stored: Stored) -> None:
        """Begin anew with ``fold``, which is at its checkpoint, where ``stored`` says."""
        self.out.clear()
        self.fold = fold
        self.cursor = stored.cursor or START
        self.must_checkpoint = True  # before this version of the code folds on
        self._fresh = stored.cursor is None
        self._skip = stored.skip | self._poison.skip

    def skip_after(self, k: int) -> frozenset[int]:
        """Forget what is skipped up to ``k``, which no refold will meet; return the rest."""
        self._skip = frozenset(skipped for skipped in self._skip if skipped > k)
        return self._skip

    def fold_up(self, entries: list[Entry]) -> Iterator[bool]:
        """Fold on; yield wherever there is enough to commit, True where it is the last time."""
        outputs = list(self.out.lines.values())
        size, seen, folded = 0, [0] * len(outputs), False
        until = time.perf_counter() + _FOLD_S
        for entry in entries:
            part = after(entry, self.cursor)
            self._mind_the_gap(part)
            at, step = 0, SLICE
            while at < len(part.lines):
                lines = part.lines[at : at + step]
                self.fold_lines(part.epoch, part.first + at, lines)
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

    def fold_lines(self, epoch: int, first: int, lines: Sequence[bytes]) -> None:
        """Fold a few lines.

        Raises:
            Raised: The fold did.
        """
        fold, out, skip = self.fold.fold, self.out, self._skip
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
            raise Raised(Cursor(epoch, k), line) from e
        self.cursor = Cursor(epoch, first + len(lines) - 1)

    def jump_over(self, fold: Fold, begin: Cursor, end: Cursor, counts: dict[str, int]) -> None:
        """Go on at ``end`` with a state from before it: say so instead of guessing.

        Args:
            fold: Its state is of ``begin``.
            begin: The last event it has seen.
            end: Where to go on.
            counts: How many events each output has.
        """
        missing = end.k - begin.k
        log.warning("refold_impossible", **self._whose, checkpoint=str(begin), cursor=str(end))
        self.out.clear()
        if isinstance(fold, Counting):
            fold.resume(counts)
        self.fold, self.cursor = fold, end
        if missing > 0:
            fold.jump(begin.k + 1, end.k, "retention", self.out)
            self._meter.trimmed(missing)

    def _mind_the_gap(self, part: Entry) -> None:
        """Tell the fold what it will never see between the cursor and ``part``."""
        last, fresh = self.cursor, self._fresh
        self._fresh = False
        if part.first == last.k + 1 or fresh:  # fresh: it begins here; what was before is not missing
            return
        if rolled_back(part, last):
            if self._doubted != part.cursor:
                self._doubted = part.cursor  # our own cursor may have been taken back with it: look first
                raise Again
            log.warning("input_rolled_back", **self._whose, at=str(last))
            self._meter.rolled_back()
            self._skip = frozenset()  # those numbers are other events now
            self._poison.forget_tries()
            self.fold.jump(part.first, last.k, "rollback", self.out)
        else:
            missing = part.first - last.k - 1
            log.warning("trimmed_unread", **self._whose, events=missing)
            self._meter.trimmed(missing)
            self.fold.jump(last.k + 1, part.first - 1, "retention", self.out)
        self.must_checkpoint = True  # a refold could not find the same jump again: not to need it


def _step_for(room: int, bytes_a_line: float) -> int:
    """Return how many lines to fold before looking again: fewer where each says much."""
    return SLICE if bytes_a_line * SLICE <= room else max(1, int(room / bytes_a_line))
