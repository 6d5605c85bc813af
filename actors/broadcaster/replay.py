"""How a subscription gets from where its client was to where everybody is.

What is far back is read from Redis by a reader of the subscription's own, page by page, at the pace of
its client; what came last is in a ring in memory. When the ring reaches back to where the subscription
stands in all its streams, the rest is told from it and the subscription goes live, in one turn of the
event loop: nothing can come in between, so there is no hole and no overlap.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import anyio

from actors.broadcaster.archive import Archive, Reader
from actors.broadcaster.subscriptions import Matches, Place, Subscription, framed, name
from actors.dialects import native
from actors.streams.keys import Cursor
from actors.streams.partition import Entry, after, rolled_back

_RING_BYTES: Final = 256 * 1024  # chosen: some 20 ms of a stream at full speed; a page takes a few
_ID: Final = 2**63  # what an id's parts stay below
_WAIT_S: Final = 0.02  # chosen: between looks at a follower that is not there yet


class Ring:
    """The newest entries of one stream, without a hole, from after ``start``."""

    __slots__ = ("_bytes", "_entries", "start")

    def __init__(self, start: Cursor) -> None:
        self._entries: deque[tuple[Entry, int]] = deque()
        self._bytes = 0
        self.start = start

    def clear(self, start: Cursor) -> None:
        """Begin again after ``start``."""
        self._entries.clear()
        self._bytes = 0
        self.start = start

    def append(self, entry: Entry) -> None:
        """Take the next entry; let the oldest go where they are too many."""
        size = sum(map(len, entry.lines))
        self._entries.append((entry, size))
        self._bytes += size
        while self._bytes > _RING_BYTES:
            oldest, size = self._entries.popleft()
            self._bytes -= size
            self.start = oldest.cursor

    def after(self, cursor: Cursor) -> list[Entry] | None:
        """Return the entries that have something after ``cursor``, None where that is further back."""
        if cursor < self.start:
            return None
        found: list[Entry] = []
        for entry, _ in reversed(self._entries):
            if entry.cursor <= cursor:
                break
            found.append(entry)
        return found[::-1]


class Playback:
    """What a subscription is told of entries that it goes through by itself; ``at``: how far it is."""

    def __init__(self, sub: Subscription, at: Mapping[Place, Cursor]) -> None:
        self.at = dict(at)
        self._events = 0  # not told yet
        self._sub = sub
        passed = sub.choice.selector if sub.view is None else sub.choice.selector.split()[0]
        self._matches = {stream: Matches(passed, stream) for stream in native.OF_STREAM}
        self._frames: list[bytes] = []

    def take(self, place: Place, entry: Entry) -> None:
        """Go through an entry, told of what is missing before it."""
        at = self.at[place]
        entry = after(entry, at)
        if rolled_back(entry, at):
            self.void(place, Cursor(at.epoch, entry.first - 1))
        elif entry.first > at.k + 1:
            self.gone(place, Cursor(entry.epoch, entry.first - 1))
        partition, stream = place
        matches = self._matches[stream]
        where = native.place(str(partition), stream, entry.epoch)
        head = self._sub.head
        for k, line in enumerate(entry.lines, entry.first):
            start = line[: line.find(native.AFTER_TOPIC)]
            if matches[start]:
                self._frames.append(framed(head, native.event(where, k, line)))
                self._events += 1
        self.at[place] = entry.cursor

    def gone(self, place: Place, to: Cursor) -> None:
        """Say that the events after where it is, up to ``to``, are not retained any more."""
        span = {name(place): (str(self.at[place]), str(to))}
        self._say(native.skipped(self._sub.id, "retention", span))
        self.at[place] = to

    def void(self, place: Place, to: Cursor) -> None:
        """Say that the events after ``to``, up to where it is, have been taken back."""
        self._say(native.rollback(self._sub.id, name(place), (str(to), str(self.at[place]))))
        self.at[place] = to

    def _say(self, message: bytes) -> None:
        self._frames.append(framed(b"", message))

    def tell(self) -> int:
        """Write what has come together to the client; return how many events there were."""
        events, self._events = self._events, 0
        if self._frames:
            self._sub.peer.write(b"".join(self._frames))
            self._frames.clear()
        return events


class Live(Protocol):
    """What a replay must know of those who are live."""

    def position(self, place: Place) -> Cursor | None:
        """Return how far a stream has been told to everybody, None while that is not known."""
        ...

    def reaches(self, place: Place, cursor: Cursor) -> bool:
        """Tell whether everything after ``cursor`` is in memory."""
        ...

    def hand_over(self, sub: Subscription, playback: Playback) -> bool:
        """Tell the rest from memory and make it live; False where memory does not reach back."""
        ...


async def replay(
    live: Live, archive: Archive, sub: Subscription, playback: Playback, told: Callable[[int], None]
) -> None:
    """Bring a subscription from ``playback.at`` to the live position.

    Args:
        live: Those it is to join.
        archive: The retained streams.
        sub: The subscription; whoever ends it cancels this.
        playback: Where it stands.
        told: Is given the number of events told, page by page.

    Raises:
        Corrupt: A stream holds what no writer of ours wrote.
    """
    async with archive.reader() as reader:
        while sub.state == "starting":
            arrived = True
            for place in playback.at:
                arrived = await _advance(live, reader, place, playback) and arrived
                if sub.state != "starting":
                    return
                told(playback.tell())
                await sub.peer.connection.drain()
            if arrived and live.hand_over(sub, playback):
                return
            await anyio.sleep(_WAIT_S if arrived else 0)


async def _advance(live: Live, reader: Reader, place: Place, playback: Playback) -> bool:
    """Go a page further in one stream; True where memory has the rest."""
    position, at = live.position(place), playback.at[place]
    if position is None:
        await anyio.sleep(_WAIT_S)
        return False
    if at == position or (at < position and live.reaches(place, at)):
        return True
    if at > position:
        newest = await reader.newest(place)
        if newest < at:
            playback.void(place, newest)  # a failover lost it, or it never was
        else:
            await anyio.sleep(_WAIT_S)  # our follower will be there soon
        return False
    entries = await reader.page(place, at, position)
    for entry in entries:
        playback.take(place, entry)
    if not entries:
        playback.gone(place, position)
    return False


def first_cursors(
    sub: Subscription, cursors: Mapping[str, str], places: Mapping[str, Place]
) -> dict[Place, Cursor]:
    """Return where a ``resume`` stands in the streams that its subscription reads.

    Raises:
        native.Refusal: A cursor is none, or of no stream that there is.
    """
    at: dict[Place, Cursor] = {}
    for stream, text in cursors.items():
        place = places.get(stream)
        if place is None:
            raise native.Refusal("bad_cursor", f"no stream {stream[:64]!r} here", sub.id)
        try:
            cursor = Cursor.parse(text.removeprefix(f"{stream}/"))
        except ValueError as e:
            raise native.Refusal(
                "bad_cursor", f"{stream}: a cursor is <epoch>-<k>, not {text[:64]!r}", sub.id
            ) from e
        if not (0 <= cursor.epoch < _ID and 0 <= cursor.k < _ID):
            raise native.Refusal("bad_cursor", f"{stream}: no such place: {text[:64]!r}", sub.id)
        if place in sub.places:
            at[place] = cursor
    return at
