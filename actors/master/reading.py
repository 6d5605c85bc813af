"""Looking into a master's files, while it runs or not: nothing is written, only whole batches are seen."""

from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from actors.master.journal import batches, files

_DEPTH: Final = {"acked": 3, "ftsobest": 2}  # dialect -> folders below it
_TYPE: Final = b'{"type":"'


class Summary(msgspec.Struct):
    """What is held of a stream. ``first``, ``last``: cursors around it; version 1 counts messages."""

    stream: str
    messages: dict[str, int]
    files: int
    bytes: int
    first: str | None
    last: str | None


class _Type(msgspec.Struct):
    type: str


_type = msgspec.json.Decoder(_Type).decode


def streams(folder: Path) -> list[Path]:
    """Return the folder of every stream."""
    return sorted(
        path
        for dialect, depth in _DEPTH.items()
        for path in (folder / dialect).glob("/".join("*" * depth))
        if path.is_dir()
    )


def type_of(line: bytes) -> str:
    """Return a message's type."""
    if line.startswith(_TYPE):
        return line[9 : line.index(b'"', 9)].decode()
    return _type(line).type


def summary(folder: Path, place: Path) -> Summary:
    """Count what a stream holds."""
    counts: Counter[str] = Counter()
    first: str | None = None
    last: str | None = None
    size = 0
    paths = files(place)
    for path in paths:
        data = path.read_bytes()
        size += len(data)
        for commit, lines, _ in batches(data):
            first, last = first or commit.after, commit.last
            counts.update(map(type_of, lines))
    return Summary(
        str(place.relative_to(folder)), dict(sorted(counts.items())), len(paths), size, first, last
    )


class Follower:
    """One stream, read on from where it was left."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._path: Path | None = None
        self._at = 0
        self._end = 0  # of the last whole batch that was read

    def last(self, most: int) -> list[bytes]:
        """Return the newest messages, oldest first, and stand behind them. Once, at the beginning."""
        kept: deque[bytes] = deque(maxlen=most)
        before: list[bytes] = []
        for path in reversed(files(self._place)):
            kept.clear()
            for lines in self._read(path, 0):
                kept.extend(lines)
            if self._path is None:
                self._path, self._at = path, self._end
            before = [*kept, *before][-most:] if most else []
            if len(before) >= most:
                break
        return before

    def more(self) -> Iterator[bytes]:
        """Yield what has come since."""
        paths = files(self._place)
        todo = paths[paths.index(self._path) :] if self._path in paths else paths
        for path in todo:
            at = self._at if path == self._path else 0
            for lines in self._read(path, at):
                yield from lines
            self._path, self._at = path, self._end

    def _read(self, path: Path, at: int) -> Iterator[list[bytes]]:
        self._end = at
        try:
            with path.open("rb") as file:
                file.seek(at)
                data = file.read()
        except FileNotFoundError:  # master.keep_bytes took it meanwhile
            return
        for _, lines, end in batches(data):
            self._end = at + end
            yield lines
