"""What is kept of the streams while somebody is connected to the native protocol, and how it is said.

Of every stream: the newest entries, the newest line of each state other than books (those are on the
follower's shelf), and how far everybody has been told. Nothing is kept while nobody is connected.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from actors.broadcaster.books import Standing
from actors.broadcaster.outlet import Missed, Source
from actors.broadcaster.replay import Ring
from actors.broadcaster.subscriptions import Place, Subscription, framed, name
from actors.dialects import native
from actors.model import codec
from actors.streams.keys import Cursor, Partition

_STREAMS: Final = tuple(native.OF_STREAM)


class Record:
    """Of one stream."""

    __slots__ = ("_epoch", "_where", "latest", "name", "place", "ring", "told")

    def __init__(self, place: Place, at: Cursor) -> None:
        self.place = place
        self.name = name(place)
        self.ring = Ring(at)
        self.latest: dict[bytes, Standing] = {}  # by the start of the line, see ``native.topic``
        self.told = at  # what clients have been given, up to
        self._epoch = -1
        self._where = b""

    def where(self, epoch: int) -> bytes:
        """Return the cursor of an event without its number."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._where = native.place(str(self.place[0]), self.place[1], epoch)
        return self._where

    def state(self, standing: Standing) -> bytes:
        """Return the message of a state, but for its head."""
        epoch, k, line = standing
        return native.state(self.where(epoch), k, line)

    def missed(self, what: Missed) -> None:
        """Begin again after what is missing, or before what was taken back."""
        self.latest.clear()
        self.ring.clear(what.after if what.cause == "rollback" else what.to)

    def stand_at(self, cursor: Cursor) -> None:
        """Go on after ``cursor``, wherever that is."""
        if self.told != cursor:
            self.told = cursor
            self.ring.clear(cursor)


class Records:
    """Of all streams."""

    def __init__(self, sources: Mapping[Partition, Source]) -> None:
        """Keep nothing yet of ``sources``, which may still grow."""
        self._sources = sources
        self._of: dict[Place, Record] = {}
        self._books: dict[tuple[Partition, str, int | None], bytes] = {}  # whole, until ``forget_books``

    def __bool__(self) -> bool:
        return bool(self._of)

    def __getitem__(self, place: Place) -> Record:
        return self._of[place]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._of.values())

    def wake(self) -> None:
        """Begin to keep."""
        for partition, source in self._sources.items():
            for stream in _STREAMS:
                self._of[partition, stream] = Record((partition, stream), source.cursors[stream])

    def sleep(self) -> None:
        """Keep nothing any more."""
        self._of.clear()
        self._books.clear()

    def stand(self, partition: Partition) -> None:
        """Go on where the follower of a partition stands now."""
        for stream in _STREAMS:
            self._of[partition, stream].stand_at(self._sources[partition].cursors[stream])

    def cursors(self, places: Iterable[Place] | None = None) -> dict[str, str]:
        """Return how far everybody has been told, of ``places`` or of all, as clients read it."""
        records = self if places is None else (self._of[place] for place in places)
        return {record.name: str(record.told) for record in records}

    def position(self, place: Place) -> Cursor | None:
        """Return how far a stream has been told to everybody, None while that is not known."""
        source = self._sources[place[0]]
        return source.cursors[place[1]] if source.ready and place in self._of else None

    # -- states

    def forget_books(self) -> None:
        """Throw the messages of whole books away: they may be out of date, and are large."""
        self._books.clear()

    def states(self, sub: Subscription, places: Iterable[Place]) -> Iterator[bytes]:
        """Yield the frames of everything that stands now, of what a subscription wants of ``places``."""
        selector = sub.choice.selector
        depth = None if sub.view is None else sub.view.depth
        for place in places:
            partition, stream = place
            record, shelf = self._of[place], self._sources[partition].shelf
            if stream == "books" and "book" in selector.kinds:
                for symbol in [*shelf.live(), *shelf.doubtful]:
                    tail = self._book(record, symbol, depth) if selector.symbol(symbol) else None
                    if tail is not None:
                        yield framed(sub.head, tail)
            for start, standing in record.latest.items():
                if selector.passes(stream, native.topic(start)):
                    yield framed(sub.head, record.state(standing))

    def standing(self, place: Place, start: bytes, depth: int | None) -> bytes | None:
        """Return the message of one state, but for its head; None where nothing is known."""
        record = self._of.get(place)
        if record is None:
            return None
        topic = native.topic(start)
        if topic.kind == "book":
            return self._book(record, topic.symbol or "", depth)
        standing = record.latest.get(start)
        return None if standing is None else record.state(standing)

    def _book(self, record: Record, symbol: str, depth: int | None) -> bytes | None:
        """Return the message of a book whole, or that it is not live."""
        partition = record.place[0]
        shelf = self._sources[partition].shelf
        doubtful = shelf.doubtful.get(symbol)
        if doubtful is not None:
            return record.state(doubtful)
        key = (partition, symbol, depth)
        tail = self._books.get(key)
        if tail is None:
            book = shelf.snapshot(symbol) if depth is None else shelf.top(symbol, depth)
            if book is None:
                return None
            epoch, k = shelf.place(symbol)
            tail = self._books[key] = native.state(record.where(epoch), k, codec.encode(book))
        return tail
