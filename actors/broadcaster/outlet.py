"""What every dialect must do with the events of the streams, and Barter's way of doing it."""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, Protocol

from actors.broadcaster.books import Change, Shelf, decode_book
from actors.broadcaster.clients import Hub, Wants
from actors.broadcaster.peers import frame
from actors.config import BroadcasterSettings
from actors.dialects import barter
from actors.model.events import Book, Event
from actors.runtime.metrics import Metrics
from actors.streams.keys import Cursor, Partition, Stream
from actors.streams.partition import Entry

# l1 stands in both streams: the one in ``events`` is the venue's own, read by the bookbuilder only.
_OF_STREAM: Final[dict[Stream, tuple[str, ...]]] = {
    "events": ("trade", "liquidation", "open_interest", "funding"),
    "books": ("l1", "book"),
    "flow": ("cvd",),
}


class Source(Protocol):
    """What an outlet may look at of a partition's follower; never changes within a turn of the loop.

    Attributes:
        shelf: The books.
        cursors: How far each stream has been told.
        ready: Cursors and books are of use.
    """

    shelf: Shelf
    cursors: dict[Stream, Cursor]
    ready: bool

    def stale(self) -> bool:
        """Tell whether what is delivered of this partition is not to be trusted now."""
        ...


class Missed(NamedTuple):
    """Events after ``after``, up to and with ``to``: not seen (retention), or seen and taken back."""

    cause: Literal["retention", "rollback"]
    after: Cursor
    to: Cursor


class Outlet(Protocol):
    """One dialect. It is told events in order and sends what it made of them at ``flush``.

    Nobody awaits between the first event of a batch and its ``flush``, so a newcomer, who is greeted
    between batches, gets each book whole and then exactly what comes after it.
    """

    def add(self, partition: Partition, source: Source) -> None:
        """Learn of a partition and what is known of it."""
        ...

    def entry(self, partition: Partition, stream: Stream, entry: Entry) -> None:
        """Take an entry as it stands, before its events are told one by one."""
        ...

    def missed(self, partition: Partition, stream: Stream, what: Missed) -> None:
        """Learn that events are missing here, or never were."""
        ...

    def wanted(self, stream: Stream) -> frozenset[bytes]:
        """Return our kinds of this stream that somebody wants now decoded."""
        ...

    def event(self, event: Event) -> None:
        """Take an event other than a book."""
        ...

    def change(self, partition: Partition, change: Change) -> None:
        """Take a change of a book."""
        ...

    def renewed(self, partition: Partition) -> None:
        """Say all books of the partition whole: what was said before does not lead to them."""
        ...

    def flush(self) -> None:
        """Send what was said since the last flush."""
        ...


class BarterOutlet:
    """Barter Data Server's dialect."""

    def __init__(self, settings: BroadcasterSettings, metrics: Metrics) -> None:
        self.hub: Hub[barter.Topic] = Hub(
            "barter",
            metrics,
            barter.EVERYTHING,
            self._greet,
            slow_bytes=settings.slow_client_bytes,
            deadline_s=settings.slow_client_deadline_s,
        )
        self._sources: dict[Partition, Source] = {}
        self._words: dict[str, barter.Words] = {}
        self._topics: list[barter.Topic] = []
        self._frames: list[bytes] = []
        self._whole: dict[barter.Topic, tuple[Book, bytes]] = {}  # until the next batch: the book, its frame
        self._wanted: dict[Stream, frozenset[bytes]] = {}
        self._asked = -1  # hub.version that _wanted is of

    def add(self, partition: Partition, source: Source) -> None:
        """Learn of a partition and what is known of it."""
        self._sources[partition] = source
        self._words.setdefault(partition.venue, barter.Words(partition.venue))

    def entry(self, partition: Partition, stream: Stream, entry: Entry) -> None:
        """Do nothing: its clients know nothing of streams."""

    def missed(self, partition: Partition, stream: Stream, what: Missed) -> None:
        """Do nothing: it has no word for it."""

    def wanted(self, stream: Stream) -> frozenset[bytes]:
        """Return our kinds of this stream that somebody wants now decoded."""
        if self._asked != self.hub.version:
            self._asked = self.hub.version
            wants = list(self.hub.wants())
            for of, kinds in _OF_STREAM.items():
                theirs = {kind for kind in kinds for filter_ in wants if filter_.kind(barter.KINDS[kind])}
                self._wanted[of] = frozenset(kind.encode() for kind in theirs)
        return self._wanted[stream]

    def event(self, event: Event) -> None:
        """Take an event other than a book."""
        said = self._words[event.venue].say(event)
        if said is not None:
            self._say(said)

    def _say(self, said: barter.Said) -> None:
        self._topics.append(said[0])
        self._frames.append(frame(said[1]))

    def change(self, partition: Partition, change: Change) -> None:
        """Take a change of a book."""
        if b"book" in self.wanted("books"):
            words, event = self._words[partition.venue], decode_book(change.line)
            self._say(words.update(event) if change.what == "update" else words.snapshot(event))

    def renewed(self, partition: Partition) -> None:
        """Say all books of the partition whole: what was said before does not lead to them."""
        for topic, framed in self._wholes(partition, barter.EVERYTHING):
            self._topics.append(topic)
            self._frames.append(framed)
        self.flush()

    def flush(self) -> None:
        """Send what was said since the last flush."""
        if self._frames:
            self.hub.send(self._topics, self._frames)
            self._topics.clear()
            self._frames.clear()
            self._whole.clear()  # large, and most of it is out of date by now

    def _greet(self, wants: Wants[barter.Topic]) -> Iterable[bytes]:
        for partition in self._sources:
            for _, framed in self._wholes(partition, wants):
                yield framed

    def _wholes(
        self, partition: Partition, wants: Wants[barter.Topic]
    ) -> Iterable[tuple[barter.Topic, bytes]]:
        words, shelf = self._words[partition.venue], self._sources[partition].shelf
        for symbol in shelf.live():
            topic = words.topic("book", symbol)
            if not wants.passes(topic):
                continue
            book = shelf.snapshot(symbol)
            if book is None:
                continue
            kept = self._whole.get(topic)
            if kept is None or kept[0] is not book:
                kept = self._whole[topic] = book, frame(words.snapshot(book)[1])
            yield topic, kept[1]
