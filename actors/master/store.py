"""Everything that the master holds: a journal a stream, and the one place where they are written.

::

    <folder>/acked/<source>/<partition>/<stream>/   version 2: cursors are the collector's
    <folder>/ftsobest/<exchange>/<type>/            version 1: cursors only count the messages

What comes in is kept in memory until the next commit: one write a stream and, with ``fsync = "always"``,
one sync, in a thread, while more comes in. Acknowledgements are sent after that and never before. A
journal that cannot be written (a full disk) is tried again for as long as it takes; meanwhile what waits
is bounded, and collectors are not read from.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import structlog

from actors.config import ConfigError, MasterSettings
from actors.master.journal import Batch, Journal
from actors.runtime.lifecycle import Refused
from actors.runtime.metrics import Metrics
from actors.streams.keys import START, Cursor

log: Any = structlog.get_logger()

_MOST_WAITING: Final = 64 * 1024 * 1024  # bytes; chosen: a second of everything
_MOST_JOURNALS: Final = 1024  # chosen: each is an open file
_LINGER_S: Final = 0.02  # chosen: version 1 says one message a frame, and nobody waits for an answer
_SYNC_S: Final = 1.0
_RETRY_S: Final = 1.0
_PART: Final = re.compile(r"[A-Za-z0-9_][\w.-]{0,63}")

Place = tuple[str, ...]  # the folder below the store's
Done = Callable[[Cursor], None]


class StoreFull(Exception):
    """There are as many streams as the store takes."""


class _Waiting:
    """What waits to be written to one journal: batches in order, who is told of each; loose lines."""

    __slots__ = ("batches", "bytes", "done", "lines")

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.done: list[Done] = []
        self.lines: list[bytes] = []
        self.bytes = 0


class Stream(NamedTuple):
    """What ``/healthz`` says of a stream."""

    cursor: str
    bytes: int


class Store:
    """The journals below one folder; this process alone writes them."""

    def __init__(self, folder: Path, settings: MasterSettings, metrics: Metrics) -> None:
        """Open everything that is there.

        Raises:
            ConfigError: The folder cannot be had, or is another master's.
        """
        self.folder = folder
        self.failing: str | None = None  # why something cannot be written now
        self._metrics = metrics
        self._fsync = settings.fsync
        self._journal = partial(
            Journal,
            rotate_bytes=settings.rotate_bytes,
            rotate_s=settings.rotate_s,
            keep_bytes=settings.keep_bytes,
        )
        self._journals: dict[Place, Journal] = {}
        self._heads: dict[Place, Cursor] = {}  # up to where each is written or waits to be
        self._held: dict[Place, Cursor] = {}  # up to where each is written, and on the disk as ``fsync`` says
        self._waiting: dict[Place, _Waiting] = {}
        self._bytes = 0
        self._wake = anyio.Event()
        self._room = anyio.Event()
        self._unsynced: set[Journal] = set()
        self._synced_at = 0.0
        try:
            self._lock = _locked(folder)
            self._open_all()
        except OSError as e:
            raise ConfigError(
                f"the master cannot use its folder {folder} ({e.strerror or e}): set master.folder, or free "
                "it"
            ) from e

    def _open_all(self) -> None:
        for depth, dialect in ((3, "acked"), (2, "ftsobest")):
            for path in sorted((self.folder / dialect).glob("/".join("*" * depth))):
                if path.is_dir():
                    self._open(path.relative_to(self.folder).parts)

    def _open(self, place: Place) -> Journal:
        journal = self._journals[place] = self._journal(self.folder.joinpath(*place))
        if journal.cut:
            self._metrics.count("tapeline_master_cut_bytes_total", journal.cut)
        if journal.cursor is not None:
            self._heads[place] = self._held[place] = journal.cursor
        return journal

    def cursors(self, source: str) -> dict[str, str]:
        """Return ``<partition>/<stream>`` -> cursor of what is held of one collector's data."""
        return {
            f"{place[2]}/{place[3]}": str(cursor)
            for place, cursor in self._held.items()
            if place[:2] == ("acked", source)
        }

    def streams(self) -> dict[str, Stream]:
        """Return everything that is held, by folder."""
        return {
            "/".join(place): Stream(str(self._held.get(place, START)), journal.size)
            for place, journal in sorted(self._journals.items())
        }

    def head(self, place: Place) -> Cursor | None:
        """Return up to where a stream is held or waits to be; None: nothing is known of it."""
        return self._heads.get(place)

    @property
    def waiting_bytes(self) -> int:
        """How much is not written yet."""
        return self._bytes

    # -- what comes in

    def offer(self, place: Place, batch: Batch | None, done: Done) -> None:
        """Take a batch that continues ``head``; ``done`` is told the journal's cursor once it is held.

        Args:
            place: The stream.
            batch: None: only tell, in turn, what is held.
            done: Called from ``run``.

        Raises:
            StoreFull: The stream is new, and there are too many.
        """
        waiting = self._waiting_of(place)
        if batch is not None:
            waiting.batches.append(batch)
            size = sum(map(len, batch.lines)) + 200
            waiting.bytes += size
            self._bytes += size
            self._heads[place] = batch.last
        waiting.done.append(done)
        self._wake.set()

    def add(self, place: Place, line: bytes) -> None:
        """Take one message of version 1.

        Raises:
            StoreFull: The stream is new, and there are too many.
        """
        waiting = self._waiting_of(place)
        waiting.lines.append(line)
        waiting.bytes += len(line)
        self._bytes += len(line)
        self._wake.set()

    def _waiting_of(self, place: Place) -> _Waiting:
        waiting = self._waiting.get(place)
        if waiting is None:
            if place not in self._journals:
                if len({*self._journals, *self._waiting}) >= _MOST_JOURNALS:
                    raise StoreFull(f"the master holds {_MOST_JOURNALS} streams already")
                if not all(map(_PART.fullmatch, place)):
                    raise ValueError(f"no folder may be called {place}")
            waiting = self._waiting[place] = _Waiting()
        return waiting

    async def room(self) -> None:
        """Wait until what waits is below its bound."""
        while self._bytes > _MOST_WAITING:
            await self._room.wait()

    # -- what goes out

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            with anyio.move_on_after(_SYNC_S if self._unsynced else None):
                await self._wake.wait()
            if self._waiting and all(
                waiting.lines and not waiting.done for waiting in self._waiting.values()
            ):
                await anyio.sleep(_LINGER_S)
            await self.commit()
            if self.failing is not None:
                await anyio.sleep(_RETRY_S)

    async def commit(self) -> None:
        """Write what waits now and tell whom it concerns."""
        self._wake = anyio.Event()
        taken, self._waiting = self._waiting, {}
        for place, waiting in taken.items():
            self._number(place, waiting)
        began = time.perf_counter()
        self.failing = None
        failed = self._open_new(taken)
        with anyio.CancelScope(shield=True):  # what was taken is in nobody else's hands
            failed |= await anyio.to_thread.run_sync(self._write, taken.keys() - failed, taken)
        self._metrics.observe("tapeline_master_commit_seconds", time.perf_counter() - began)
        self._put_back({place: taken[place] for place in failed})
        for place, waiting in taken.items():
            if place in failed:
                continue
            self._bytes -= waiting.bytes
            if waiting.batches:
                self._held[place] = waiting.batches[-1].last
            for done in waiting.done:
                done(self._held.get(place, START))
        self._room.set()
        self._room = anyio.Event()

    def _number(self, place: Place, waiting: _Waiting) -> None:
        """Make a batch of what came one by one."""
        if not waiting.lines:
            return
        head = self._heads.get(place, START)
        last = Cursor(0, head.k + len(waiting.lines))
        waiting.batches.append(Batch(head, last, waiting.lines))
        waiting.lines = []
        self._heads[place] = last

    def _open_new(self, taken: Mapping[Place, _Waiting]) -> set[Place]:
        failed: set[Place] = set()
        for place, waiting in taken.items():
            if place not in self._journals and waiting.batches:
                try:
                    self._open(place)
                except OSError as e:
                    failed.add(place)
                    self._fails(place, e)
        return failed

    def _fails(self, place: Place, e: OSError) -> None:
        self.failing = f"{self.folder.joinpath(*place)}: {e.strerror or e}"

    def _write(self, places: Collection[Place], taken: Mapping[Place, _Waiting]) -> set[Place]:
        """Write and sync, in a thread; return what could not be written.

        Raises:
            Refused: It is not known what is on the disk: only reading it again tells.
        """
        failed: set[Place] = set()
        for place in places:
            batches = taken[place].batches
            if not batches:
                continue
            journal = self._journals[place]
            try:
                size = journal.append(batches)
            except OSError as e:
                failed.add(place)
                self._fails(place, e)
                continue
            self._unsynced.add(journal)
            self._metrics.count("tapeline_master_bytes_total", size)
        if self._fsync == "always" or time.monotonic() - self._synced_at >= _SYNC_S:
            self._sync()
        return failed

    def _sync(self) -> None:
        for journal in self._unsynced if self._fsync != "no" else ():
            try:
                journal.sync()
            except OSError as e:
                raise Refused(
                    f"the disk did not take what was written to {journal.folder} ({e.strerror or e}): look "
                    "at it; the next start keeps what is sound"
                ) from e
        self._unsynced.clear()
        self._synced_at = time.monotonic()

    def _put_back(self, failed: Mapping[Place, _Waiting]) -> None:
        for place, waiting in failed.items():
            self._metrics.count("tapeline_master_write_failures_total")
            log.error("not_written", stream="/".join(place), reason=self.failing)
            newer = self._waiting.get(place)
            if newer is not None:
                waiting.batches += newer.batches
                waiting.done += newer.done
                waiting.lines += newer.lines
                waiting.bytes += newer.bytes
            self._waiting[place] = waiting
        if failed:
            self._wake.set()

    def close(self) -> None:
        """Sync and give everything back."""
        for journal in self._journals.values():
            if self._fsync != "no":
                journal.sync()
            journal.close()
        os.close(self._lock)


def _locked(folder: Path) -> int:
    """Return the lock of a folder, which is made where it is missing.

    Raises:
        ConfigError: Another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(fd)
        raise ConfigError(
            f"another master writes to {folder}: stop it, or set master.folder to another one"
        ) from e
    return fd
