"""Entries of one partition's streams: what they are, how they are appended and followed."""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import anyio
from redis import exceptions

from actors.streams.errors import FAULTS, Corrupt, Fenced, is_passing
from actors.streams.keys import SERVER_IDS, START, Cursor, Keys, Partition, Stream
from actors.streams.lease import Lease
from actors.streams.scripts import ADVANCE, APPEND
from actors.streams.wire import Command, Hot

T = TypeVar("T")

_FIRST_DELAY_S: Final = 0.02  # chosen: a restart of the server on loopback takes 0.1 s
_MOST_DELAY_S: Final = 1.0  # chosen: back within 2 s of the server


class Entry(NamedTuple):
    """One entry: ``lines``, the last of which is event ``k``."""

    epoch: int
    k: int
    lines: list[bytes]

    @property
    def first(self) -> int:
        """The number of the first line."""
        return self.k - len(self.lines) + 1

    @property
    def cursor(self) -> Cursor:
        """The place after this entry."""
        return Cursor(self.epoch, self.k)


def entry_of(identity: bytes, fields: Sequence[bytes]) -> Entry:
    """Return the entry that Redis gave as an id and a flat list of fields.

    Raises:
        Corrupt: It is not ``n`` and ``d``, or ``n`` is not how many lines ``d`` has.
    """
    try:
        n_name, n, d_name, d = fields
        epoch, _, k = identity.partition(b"-")
        entry = Entry(int(epoch), int(k), d.split(b"\n"))
        if n_name == b"n" and d_name == b"d" and int(n) == len(entry.lines):
            return entry
    except ValueError as e:
        raise Corrupt(f"entry {identity.decode()} was not written by Tapeline: {e}") from e
    raise Corrupt(f"entry {identity.decode()} was not written by Tapeline: its fields are not n and d")


def xread(keys: Sequence[str], cursors: Iterable[Cursor], block_ms: int, count: int) -> Command:
    """Return a blocking read of what is after ``cursors``."""
    return ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *keys, *map(str, cursors))


def entries_of(answer: Any) -> dict[bytes, list[Entry]]:
    """Return stream key -> entries of an answer to XREAD (None: nothing came)."""
    if answer is None:
        return {}
    return {key: [entry_of(*entry) for entry in entries] for key, entries in answer}


def after(entry: Entry, cursor: Cursor) -> Entry:
    """Return the part of ``entry`` that is after ``cursor``: a cursor may lie within an entry."""
    if entry.epoch == cursor.epoch and entry.first <= cursor.k:
        return Entry(entry.epoch, entry.k, entry.lines[cursor.k - entry.first + 1 :])
    return entry


def rolled_back(entry: Entry, cursor: Cursor) -> bool:
    """Tell whether ``entry`` stands where ``cursor`` has already been: a failover lost what was there."""
    return entry.epoch > cursor.epoch and entry.first <= cursor.k


# -------------------------------------------------------------------------------------------- outages


def delays() -> Iterator[float]:
    """Yield the delays of the reconnect loop: short at first, capped, jittered. Never ends."""
    delay = _FIRST_DELAY_S
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, _MOST_DELAY_S)


async def persist(hot: Hot, attempt: Callable[[], Awaitable[T]], lost: Callable[[Exception], None]) -> T:
    """Return what ``attempt`` returns, however long Redis is away; dial again between attempts.

    ``attempt`` must be safe to repeat after an unclear outcome. ``lost`` is told of each failure.
    """
    waits: Iterator[float] | None = None
    while True:
        try:
            if hot.lost:
                await hot.reconnect()
            return await attempt()
        except FAULTS as e:
            if not is_passing(e):
                raise
            lost(e)
            if isinstance(e, exceptions.MovedError | exceptions.AskError | exceptions.ReadOnlyError):
                await hot.aclose()  # the wrong node: resolve again
        waits = waits or delays()
        await anyio.sleep(next(waits))


def _unheard(_error: Exception) -> None:
    return


# ------------------------------------------------------------------------------------------ first hop


class Appender:
    """The way into ``raw`` of one leg. One append at a time.

    A connection that was dialled again may lead to a server that lost the end of ``raw``, and this leg need
    not have written any of that: what it appends then is under a new epoch. Under the old one it would
    stand at numbers that readers have been at, where they do not look again.
    """

    def __init__(self, hot: Hot, keys: Keys, partition: Partition, leg: str, lease: Lease) -> None:
        """Use ``open``."""
        self._hot = hot
        self._leg = leg
        self._lease = lease
        self._keys = [lease.key, keys.writer(partition), keys.stream(partition, "raw")]
        self._batch = 0
        self._sent: Sequence[bytes] | None = None
        self._unsure = False  # an append was cancelled: nobody knows whether its batch is in
        self._dialled = 0  # the connection that our epoch belongs to
        self.rollbacks = 0  # how often a failover took back what had been acknowledged
        self.outages = 0  # how often the connection broke or Redis could not write
        self.lost: Callable[[Exception], None] = _unheard

    @classmethod
    async def open(cls, hot: Hot, keys: Keys, partition: Partition, leg: str, lease: Lease) -> "Appender":
        """Return an appender that goes on with the leg's batch numbers."""
        appender = cls(hot, keys, partition, leg, lease)
        await persist(hot, appender._resume, appender._note)
        return appender

    async def _resume(self) -> None:
        number = await self._hot.call("HGET", self._keys[1], f"batch:{self._leg}")
        self._batch = int(number or 0)
        self._dialled = self._hot.dialled

    def _note(self, error: Exception) -> None:
        self.outages += 1
        self.lost(error)

    async def append(self, lines: Sequence[bytes]) -> Cursor:
        """Append ``lines`` once, whatever happens to the connection; return the place after them.

        Waits for as long as Redis is away: what comes in meanwhile is the caller's to bound. When it is
        cancelled meanwhile, ``lines`` may or may not be in, but not later than the next append.

        Raises:
            Fenced: The lease is another's.
        """
        return await persist(self._hot, lambda: self._append(lines), self._note)

    async def _append(self, lines: Sequence[bytes]) -> Cursor:
        body = b"\n".join(lines)
        if self._dialled != self._hot.dialled:
            dialled = self._hot.dialled
            await self._lease.force()
            self._dialled = dialled
        if self._unsure and self._sent is not lines:
            # The former batch may still be on its way and would take our number: fence it off.
            await self._lease.force()
            await self._resume()
        self._unsure, self._sent = True, lines
        cursor = await self._settle(lines, body)
        self._unsure, self._sent = False, None
        return cursor

    async def _settle(self, lines: Sequence[bytes], body: bytes) -> Cursor:
        while True:
            number = self._batch + 1
            epoch = self._lease.epoch
            if not self._lease.held:
                raise Fenced(f"{self._lease} is another's")
            answer = await APPEND.on(self._hot, self._keys, (self._leg, epoch, number, len(lines), body))
            match answer[0]:
                case b"OK" | b"DUP":
                    self._batch = number
                    return Cursor.parse(answer[1])
                case b"FENCED":
                    await self._lease.refenced(epoch)
                case _:  # STALE: what was acknowledged is gone, and with it the number
                    self.rollbacks += 1
                    await self._lease.force()
                    self._batch = int(answer[1])


# ---------------------------------------------------------------------------------------- following


class Tail:
    """A plain follower of some streams of one partition, on a connection of its own (it blocks).

    What it returns is never before the cursor of its stream. Compare ``entry.first`` with the cursor
    before: larger than ``k + 1`` is what retention took; ``rolled_back`` tells the rest.
    """

    def __init__(self, hot: Hot, keys: Keys, partition: Partition, cursors: Mapping[Stream, Cursor]) -> None:
        self._hot = hot
        self._streams: dict[bytes, Stream] = {keys.stream(partition, s).encode(): s for s in cursors}
        self._names = [name.decode() for name in self._streams]
        self.cursors: dict[Stream, Cursor] = dict(cursors)
        self.lost: Callable[[Exception], None] = _unheard

    async def read(self, block_ms: int = 1000, count: int = 16) -> list[tuple[Stream, Entry]]:
        """Return what came, advancing the cursors; empty when nothing did in ``block_ms``.

        An outage of Redis is waited out.
        """
        return await persist(self._hot, lambda: self._read(block_ms, count), self.lost)

    async def _read(self, block_ms: int, count: int) -> list[tuple[Stream, Entry]]:
        cursors = (self.cursors[stream] for stream in self._streams.values())
        command = xread(self._names, cursors, block_ms, count)
        answer = await self._hot.call(*command, block_s=block_ms / 1000)
        found: list[tuple[Stream, Entry]] = []
        for key, entries in entries_of(answer).items():
            stream = self._streams[key]
            for entry in entries:
                part = entry if stream in SERVER_IDS else after(entry, self.cursors[stream])
                self.cursors[stream] = part.cursor
                found.append((stream, part))
        return found


async def newest(hot: Hot, keys: Keys, partition: Partition, stream: Stream) -> Cursor:
    """Return the place after the last entry, ``START`` of an empty stream."""
    last = await hot.call("XREVRANGE", keys.stream(partition, stream), "+", "-", "COUNT", 1)
    return Cursor.parse(last[0][0]) if last else START


class Progress:
    """How far a delivering role has come in the streams of one partition, written under its lease."""

    def __init__(self, hot: Hot, keys: Keys, lease: Lease) -> None:
        self._hot = hot
        self._lease = lease
        self._key = keys.cursor(lease.partition, lease.role)
        self._lock = anyio.Lock()  # of the connection: two that dial at once would leave one open
        self.lost: Callable[[Exception], None] = _unheard

    async def load(self, fields: Sequence[str]) -> list[Cursor | None]:
        """Return the cursors in ``fields``, None where there is none."""
        command = ("HMGET", self._key, *fields)
        found = await persist(self._hot, lambda: self._hot.call(*command), self.lost)
        return [None if text is None else Cursor.parse(text) for text in found]

    async def save(self, cursors: Mapping[str, Cursor]) -> None:
        """Write cursors by field: ``c:<stream>``, which holds trimming back, or another.

        Raises:
            Fenced: The lease is another's.
        """
        pairs = [text for field, cursor in cursors.items() for text in (field, str(cursor))]
        async with self._lock:
            while True:
                epoch = self._lease.epoch
                if not self._lease.held:
                    raise Fenced(f"{self._lease} is another's")
                command = partial(ADVANCE.on, self._hot, [self._lease.key, self._key], (epoch, *pairs))
                answer = await persist(self._hot, command, self.lost)
                if answer[0] == b"OK":
                    return
                await persist(self._hot, partial(self._lease.refenced, epoch), self.lost)


async def read_back(hot: Hot, key: str, end: Cursor, enough: Callable[[Entry], bool]) -> list[Entry]:
    """Return the last entries up to ``end``, oldest first; the last of them may go beyond it.

    Args:
        hot: A connection.
        key: Of the stream.
        end: Where to read back from.
        enough: Asked of each entry, newest first: whether to go no further back.
    """
    found: list[Entry] = []
    over = await hot.call("XRANGE", key, str(end), "+", "COUNT", 1)  # ``end`` may lie within an entry
    before = str(end)
    if over:
        before = over[0][0].decode()
    while True:
        page = [entry_of(*entry) for entry in await hot.call("XREVRANGE", key, before, "-", "COUNT", 16)]
        for entry in page:
            found.append(entry)
            if enough(entry):
                return found[::-1]
        if not page:
            return found[::-1]
        before = f"({page[-1].cursor}"


async def remember(
    hot: Hot, keys: Keys, partition: Partition, role: str, cursors: Mapping[Stream, Cursor]
) -> None:
    """Store how far a role that is no stage has come. This registers it as a reader for trimming."""
    now = await _server_ms(hot)
    pairs = [text for stream, cursor in cursors.items() for text in (f"c:{stream}", str(cursor))]
    await hot.call("HSET", keys.cursor(partition, role), *pairs, "seen", now)


async def remembered(hot: Hot, keys: Keys, partition: Partition, role: str, stream: Stream) -> Cursor | None:
    """Return how far a role has come, None when it never stored it."""
    text = await hot.call("HGET", keys.cursor(partition, role), f"c:{stream}")
    return None if text is None else Cursor.parse(text)


async def _server_ms(hot: Hot) -> int:
    seconds, micros = await hot.call("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


@asynccontextmanager
async def closing(hot: Hot) -> AsyncGenerator[Hot]:
    """Close ``hot`` at the end of the block, whatever happens."""
    try:
        yield hot
    finally:
        with anyio.CancelScope(shield=True):
            await hot.aclose()
