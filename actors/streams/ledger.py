"""What a stage has stored in one partition, and the commit that moves it on."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

from actors.streams.keys import SERVER_IDS, Cursor, Keys, Partition, Stream
from actors.streams.scripts import COMMIT, Argument
from actors.streams.wire import Command, Hot


class Checkpoint(NamedTuple):
    """A stage's state as it was at ``cursor``."""

    cursor: Cursor
    format: int
    blob: bytes


class Stored(NamedTuple):
    """What Redis holds of a stage."""

    cursor: Cursor | None  # None: it never committed
    counts: dict[str, int]  # output -> number of its last event
    skip: frozenset[int]
    checkpoint: Checkpoint | None


class Ledger:
    """How one stage reads and writes one partition: key names laid out once, commands built fast."""

    def __init__(
        self,
        keys: Keys,
        partition: Partition,
        *,
        role: str,
        lease_key: str,
        reads: Stream,
        writes: Sequence[Stream],
    ) -> None:
        self.reads = reads
        self.input = keys.stream(partition, reads)
        self._ck = keys.cursor(partition, role)
        self._state = keys.state(partition, role)
        self._writes = [s for s in writes if s not in SERVER_IDS]
        self._latest = partial(keys.latest, partition)
        outputs: tuple[Stream, ...] = (*dict.fromkeys((*writes, "dead")),)
        self._keys = [lease_key, self._ck, self._state, *(keys.stream(partition, s) for s in outputs)]
        self._number = {stream: 4 + i for i, stream in enumerate(outputs)}

    async def load(self, hot: Hot) -> Stored:
        """Return what is stored."""
        fields = [f"c:{self.reads}", "skip", *(f"i:{s}" for s in self._writes)]
        ck, state = await hot.pipeline(
            [("HMGET", self._ck, *fields), ("HMGET", self._state, f"c:{self.reads}", "format", "blob")]
        )
        cursor, skip, *ids = ck
        at, form, blob = state
        return Stored(
            cursor=None if cursor is None else Cursor.parse(cursor),
            counts={
                str(s): 0 if last is None else Cursor.parse(last).k
                for s, last in zip(self._writes, ids, strict=True)
            },
            skip=frozenset(int(k) for k in (skip or b"").split()),
            checkpoint=None if at is None else Checkpoint(Cursor.parse(at), int(form), blob),
        )

    def commit(
        self,
        epoch: int,
        cursor: Cursor,
        then: Cursor,
        *,
        entries: Sequence[tuple[Stream, Sequence[bytes]]],
        latest: Mapping[tuple[Literal["book", "top"], str], bytes],
        skip: Iterable[int] | None = None,
        checkpoint: tuple[int, bytes] | None = None,
    ) -> Command:
        """Return the command that moves ``cursor`` to ``then`` with all that goes with it.

        Args:
            epoch: Of the lease.
            cursor: Where the stage stands.
            then: Where it will stand; the same only where there are no ``entries``.
            entries: Output and its lines, one stream entry each.
            latest: Latest values to set.
            skip: The whole new skip list, or None to leave it.
            checkpoint: Format and blob of the state at ``then``, or None.
        """
        args: list[Argument] = [
            epoch,
            self.reads,
            str(cursor),
            str(then),
            "" if skip is None else " ".join(map(str, sorted(skip))) or " ",
            *(("", "") if checkpoint is None else checkpoint),
            len(entries),
        ]
        for stream, lines in entries:
            n = f"*{len(lines)}" if stream in SERVER_IDS else len(lines)
            args += (self._number[stream], stream, n, b"\n".join(lines))
        if not latest:
            return COMMIT.command(self._keys, args)
        keys = self._keys.copy()
        for (kind, symbol), value in latest.items():
            keys.append(self._latest(kind, symbol))
            args += (len(keys), value)
        return COMMIT.command(keys, args)
