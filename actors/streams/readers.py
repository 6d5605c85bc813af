"""Who reads a partition, and trimming its streams to what they still need."""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, cast

from actors.streams.keys import Cursor, Keys, Partition, Stream, literal
from actors.streams.scripts import TRIM
from actors.streams.wire import Hot

_DENSE: Final[tuple[Stream, ...]] = ("raw", "events", "books", "flow")


class Reader(NamedTuple):
    """A registered reader of a partition: its cursors by stream, and when it was last seen."""

    role: str
    cursors: dict[str, Cursor]
    checkpoints: dict[str, Cursor]
    seen_ms: int

    @property
    def holds_back(self) -> bool:
        """Whether trimming waits for it: ``control`` alone, which the server bounds, does not count."""
        return bool(self.checkpoints) or any(stream in self.cursors for stream in _DENSE)


async def readers(hot: Hot, keys: Keys, partition: Partition) -> list[Reader]:
    """Return every role that has written its ``ck`` in this partition and reads something."""
    stem = keys.cursor(partition, "")
    found: list[Reader] = []
    for name in sorted(await _scan(hot, literal(stem) + "*")):
        role = name.removeprefix(stem)
        fields, state = await hot.pipeline(
            [("HGETALL", name), ("HMGET", keys.state(partition, role), *(f"c:{s}" for s in _DENSE))]
        )
        held = {k.decode(): v.decode() for k, v in zip(fields[::2], fields[1::2], strict=True)}
        cursors = {f[2:]: Cursor.parse(v) for f, v in held.items() if f.startswith("c:")}
        marks = {s: Cursor.parse(v) for s, v in zip(_DENSE, state, strict=True) if v is not None}
        if cursors or marks:
            found.append(Reader(role, cursors, marks, int(held.get("seen", 0))))
    return found


async def _scan(hot: Hot, pattern: str) -> set[str]:
    names: set[str] = set()
    at: bytes = b"0"
    while True:
        at, page = cast(
            "tuple[bytes, list[bytes]]", await hot.call("SCAN", at, "MATCH", pattern, "COUNT", 1000)
        )
        names.update(name.decode() for name in page)
        if at == b"0":
            return names


async def forget(hot: Hot, keys: Keys, partition: Partition, role: str) -> bool:
    """Forget how far a reader has come, and its checkpoint; what it has written stays. False: unknown.

    A stage that comes back begins at the oldest entry.
    """
    held: list[bytes] = await hot.call("HGETALL", keys.cursor(partition, role))
    fields = [name for name in held[::2] if name.startswith(b"c:")]
    if not fields:
        return False
    await hot.call("HDEL", keys.cursor(partition, role), *fields)
    await hot.call("DEL", keys.state(partition, role))
    return True


class Trimmed(NamedTuple):
    """What one trim did: entries gone, what decided (``floor``, ``cap``, or nothing), up to where."""

    entries: int
    why: Literal["floor", "cap", ""]
    to: Cursor | None


async def trim(
    hot: Hot,
    keys: Keys,
    partition: Partition,
    *,
    role: str,
    stream: Stream,
    roles: Iterable[str],
    floor_s: float,
    cap_bytes: int,
) -> Trimmed:
    """Trim ``stream``, which ``role`` is the one to trim, to what ``roles`` still need.

    Also marks ``role`` as seen.
    """
    own = keys.cursor(partition, role)
    if stream == "raw":
        written, last, size = keys.writer(partition), "id", "bytes"
    else:
        written, last, size = own, f"i:{stream}", f"b:{stream}"
    names = [keys.stream(partition, stream), own, written]
    for reader in roles:
        names += (keys.cursor(partition, reader), keys.state(partition, reader))
    entries, why, to, _ = await TRIM.on(hot, names, (stream, last, size, int(floor_s * 1000), cap_bytes))
    return Trimmed(entries, why.decode(), Cursor.parse(to) if to else None)
