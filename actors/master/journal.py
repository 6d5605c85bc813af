"""One stream of one collector as JSON-lines files: appended in batches, never torn.

A file holds messages, one a line, and after each batch one line of ours that says where it ends::

    {"type":"trade",...,"cursor":"binance.0/events/1732091131000-5001"}
    {"type":"commit","after":"1732091131000-5000","last":"1732091131000-5003","n":1,"crc":2743272264,"ts":1732091131042}

A batch and its commit line are one write. What stands behind the last commit line whose checksum (CRC-32
of the ``n`` lines before it) agrees was never acknowledged: it is cut off when the file is opened. The
stream's cursor is the ``last`` of that line: it cannot disagree with the data.

Files are named by when they begin and a number that grows: ``20261120T103000Z-00000012.jsonl``. Each opens
with an empty commit, so that the cursor outlives the files before it.
"""

import calendar
import os
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from actors.streams.keys import Cursor

log = structlog.get_logger()

COMMIT: Final = b'{"type":"commit",'
_FILE: Final = re.compile(r"\d{8}T\d{6}Z-(\d{8})\.jsonl")
_WINDOW: Final = 1024 * 1024  # chosen: a few batches


class Commit(msgspec.Struct):
    """The line after a batch. ``n`` lines before it, ``crc`` of them with their line ends; ``ts`` in ms."""

    after: str
    last: str
    n: int
    crc: int
    ts: int


class Batch(NamedTuple):
    """What is appended at once: ``lines`` without line ends, and the cursors around them."""

    after: Cursor
    last: Cursor
    lines: Sequence[bytes]


_commit_of = msgspec.json.Decoder(Commit).decode


def files(folder: Path) -> list[Path]:
    """Return the files of a stream, oldest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def framed(batch: Batch) -> bytes:
    """Return a batch with its commit line, as it is written."""
    body = b"".join([b"%b\n" % line for line in batch.lines])
    return body + b'%b"after":"%b","last":"%b","n":%d,"crc":%d,"ts":%d}\n' % (
        COMMIT,
        str(batch.after).encode(),
        str(batch.last).encode(),
        len(batch.lines),
        zlib.crc32(body),
        time.time_ns() // 1_000_000,
    )


def sound_end(path: Path) -> tuple[int, Cursor | None]:
    """Return where the last sound batch of a file ends, and its cursor; (0, None): it has none."""
    size = path.stat().st_size
    window = _WINDOW
    with path.open("rb") as file:
        while True:
            begin = max(0, size - window)
            file.seek(begin)
            end, cursor = _last_sound(file.read(size - begin), whole=begin == 0)
            if cursor is not None or begin == 0:
                return (begin + end, cursor) if cursor is not None else (0, None)
            window *= 4


def _last_sound(data: bytes, *, whole: bool) -> tuple[int, Cursor | None]:
    """Find the last commit line in ``data`` whose batch agrees and lies in it from its first line on."""
    end = len(data)
    while (at := _rfind_commit(data, end)) >= 0:
        stop = data.find(b"\n", at) + 1
        commit = _parsed(data[at:stop]) if stop else None
        if commit is not None:
            begin = _begin_of(data, at, commit.n, whole=whole)
            if begin is None:
                return 0, None
            if zlib.crc32(data[begin:at]) == commit.crc:
                return stop, Cursor.parse(commit.last)
        end = at
    return 0, None


def _rfind_commit(data: bytes, end: int) -> int:
    at = data.rfind(b"\n" + COMMIT, 0, end)
    if at >= 0:
        return at + 1
    return 0 if end > 0 and data.startswith(COMMIT) else -1


def _parsed(line: bytes) -> Commit | None:
    try:
        return _commit_of(line)
    except msgspec.MsgspecError:
        return None


def _begin_of(data: bytes, at: int, n: int, *, whole: bool) -> int | None:
    """Return where the ``n`` lines before ``at`` begin; None: before ``data``."""
    for _ in range(n):
        if at == 0:
            return 0  # fewer lines than it says: its checksum will not agree
        at = data.rfind(b"\n", 0, at - 1) + 1
    # The start of the window may lie within a line: then this line is not whole.
    return at if at > 0 or whole or n == 0 else None


def batches(data: bytes) -> Iterator[tuple[Commit, list[bytes], int]]:
    """Yield the batches of (a part of) a file that begins with one, and where in ``data`` each ends.

    What is not committed yet is left.
    """
    lines: list[bytes] = []
    at = 0
    while end := data.find(b"\n", at) + 1:
        line = data[at : end - 1]
        at = end
        if line.startswith(COMMIT):
            yield _commit_of(line), lines, end
            lines = []
        else:
            lines.append(line)


class Journal:
    """The files of one stream, open for appending. Not for two threads at once."""

    def __init__(self, folder: Path, *, rotate_bytes: int, rotate_s: float, keep_bytes: int | None) -> None:
        """Open a stream's folder, made where it is missing; cut off what was not committed.

        Raises:
            OSError: It cannot be had.
        """
        self.folder = folder
        self.cursor: Cursor | None = None  # of the last batch that was written, None: nothing ever was
        self.cut = 0  # bytes cut off at the start
        self._rotate_bytes = rotate_bytes
        self._rotate_s = rotate_s
        self._keep_bytes = keep_bytes
        self._fd = -1
        self._size = 0
        self._torn = False  # behind ``_size`` may stand what a failed write has left
        self._opened_at = 0.0
        self._number = 0
        _make(folder)
        self._recover()

    def _recover(self) -> None:
        for path in reversed(files(self.folder)):
            self._number = max(self._number, int(path.stem.rpartition("-")[2]))
            end, cursor = sound_end(path)
            size = path.stat().st_size
            if end < size:
                self.cut += size - end
                log.warning("tail_cut_off", file=str(path), bytes=size - end)
                os.truncate(path, end)
            if cursor is None:
                path.unlink()  # it was being made
                continue
            self.cursor = cursor
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._size = end
            self._opened_at = _begun(path)
            return

    @property
    def size(self) -> int:
        """Size of the present file."""
        return self._size

    def append(self, several: Sequence[Batch]) -> int:
        """Write batches, all or nothing; return how many bytes. They are in the kernel's hands then.

        Raises:
            OSError: Not written (disk full, say); what was begun is cut off again.
        """
        if self._fd < 0 or self._due():
            self._rotate(self.cursor if self.cursor is not None else several[0].after)
        data = b"".join(map(framed, several))
        self._write(data)
        self.cursor = several[-1].last
        return len(data)

    def _write(self, data: bytes) -> None:
        if self._torn:
            self._cut_back()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            self._torn = True
            self._cut_back()
            raise
        self._size += len(data)

    def _cut_back(self) -> None:
        os.ftruncate(self._fd, self._size)
        self._torn = False

    def _due(self) -> bool:
        return self._size >= self._rotate_bytes or time.time() - self._opened_at >= self._rotate_s

    def _rotate(self, cursor: Cursor) -> None:
        now = time.time()
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}-{self._number + 1:08d}.jsonl"
        path = self.folder / name
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _all(fd, framed(Batch(cursor, cursor, ())))
            if self._fd >= 0:
                os.fdatasync(self._fd)
            _sync_folder(self.folder)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._number, self._opened_at = fd, self._number + 1, now
        self._size = os.fstat(fd).st_size
        self._forget()

    def _forget(self) -> None:
        """Remove the oldest whole files above ``keep_bytes``."""
        if self._keep_bytes is None:
            return
        paths = files(self.folder)
        sizes = [path.stat().st_size for path in paths]
        excess = sum(sizes) - self._keep_bytes
        for path, size in zip(paths[:-1], sizes, strict=False):
            if excess <= 0:
                return
            path.unlink()
            excess -= size

    def sync(self) -> None:
        """Return once everything written is on the disk.

        Raises:
            OSError: It may not be.
        """
        if self._fd >= 0:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Give the file back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _begun(path: Path) -> float:
    return float(calendar.timegm(time.strptime(path.name[:16], "%Y%m%dT%H%M%SZ")))


def _all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _make(folder: Path) -> None:
    """Make a folder and those above it, each on the disk."""
    if not folder.exists():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
