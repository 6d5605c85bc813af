"""From the lines of a stream to the messages that a master is told of them. Pure: time is in the lines.

``events`` are told one by one. Of ``books`` a master gets complete views: whenever the receive time of
the events passes a multiple of the interval, the best levels of every book that has changed since the
last time, each with the cursor of its last change. So what is told depends on the stream alone, not on
when it was read: after a restart the very same views follow.
"""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, Protocol, cast

import msgspec

from actors.dialects.ftsobest import Said, Words
from actors.model import codec
from actors.model.errors import Unparseable
from actors.model.events import Book, Gap
from actors.stages.book import BrokenChain, View
from actors.streams.keys import Cursor, Partition, Stream
from actors.streams.partition import Entry


class Message(NamedTuple):
    """What a master is told, and where in the stream it stands."""

    cursor: Cursor
    said: Said


class Told(NamedTuple):
    """Messages up to a place of the stream; ``ts_recv``: of what is behind them, ns."""

    last: Cursor
    messages: list[Message]
    ts_recv: int


class Teller(Protocol):
    """One stream's translation."""

    skipped: int  # events that the dialect has no word for
    unreadable: int  # lines that are no event

    def take(self, entry: Entry) -> list[Told]:
        """Return what is to be told because of an entry: nothing yet, or in one or several parts."""
        ...

    def waiting(self, now_ns: int) -> list[Told]:
        """Return what was kept back for its time, which by this clock is over; asked when nothing comes."""
        ...

    def hole(self, gap: Gap, at: Cursor) -> list[Told]:
        """Learn that entries up to ``at`` are missing; return how the master is told of it."""
        ...


class _Common:
    """What both tellers do alike."""

    def __init__(self, words: Words, partition: Partition, stream: Stream) -> None:
        self.skipped = 0
        self.unreadable = 0
        self._words = words
        self._stem = f"{partition}/{stream}/"

    def _tell(self, line: bytes, at: Cursor, wanted: Collection[str] | None) -> Message | None:
        try:
            event = codec.decode(line)
        except Unparseable:
            self.unreadable += 1
            return None
        if wanted is not None and event.symbol is not None and event.symbol not in wanted:
            return None
        said = self._words.say(event, f"{self._stem}{at}")
        if said is None:
            self.skipped += 1
            return None
        return Message(at, said)

    def _gap(self, gap: Gap, at: Cursor) -> list[Message]:
        said = self._words.say(gap, f"{self._stem}{at}")
        return [] if said is None else [Message(at, said)]


class Happenings(_Common):
    """Trades, tickers and gaps of ``events``."""

    def __init__(self, words: Words, partition: Partition, wanted: dict[str, Collection[str] | None]) -> None:
        """Make a teller.

        Args:
            words: The dialect.
            partition: Whose.
            wanted: Kind -> symbols, None for all; a kind that is not in it is not told.
        """
        super().__init__(words, partition, "events")
        self._wanted = {kind.encode(): symbols for kind, symbols in wanted.items()}

    def take(self, entry: Entry) -> list[Told]:
        """Return what is to be told because of an entry."""
        messages: list[Message] = []
        wanted, epoch = self._wanted, entry.epoch
        for k, line in enumerate(entry.lines, entry.first):
            kind = line[9 : line.find(b'"', 9)]  # see codec.kind_of; without its two calls
            if kind in wanted:
                message = self._tell(line, Cursor(epoch, k), wanted[kind])
                if message is not None:
                    messages.append(message)
        return [Told(entry.cursor, messages, received(entry.lines[0]))]

    def waiting(self, now_ns: int) -> list[Told]:  # noqa: ARG002 - as any teller
        """Return nothing: nothing is kept back."""
        return []

    def hole(self, gap: Gap, at: Cursor) -> list[Told]:
        """Return how the master is told of a hole."""
        return [Told(at, self._gap(gap, at), gap.ts_recv)]


class Views(_Common):
    """Complete views of the books of ``books``, and its gaps."""

    def __init__(
        self,
        words: Words,
        partition: Partition,
        *,
        wanted: Collection[str] | None,
        depth: int,
        interval_ms: int,
    ) -> None:
        """Make a teller that knows no book.

        Args:
            words: The dialect.
            partition: Whose.
            wanted: Symbols, None for all.
            depth: Levels a side.
            interval_ms: Between two views of a book.
        """
        super().__init__(words, partition, "books")
        self._wanted = wanted
        self._depth = depth
        self._interval_ns = interval_ms * 1_000_000
        self._views: dict[str, View] = {}
        self._changed: dict[str, Cursor] = {}  # since they were told, in the order of their last change
        self._gaps: list[Message] = []
        self._at: Cursor | None = None  # the last event, None: nothing has come since it was all told
        self._now = 0  # the largest receive time
        self._due = 0  # when to tell next

    def restore(self, entries: Sequence[Entry], end: Cursor) -> None:
        """Become what reading up to ``end`` has made: the books of ``entries``, nothing of them to tell."""
        self._views.clear()
        self._due = 0
        for entry in entries:
            for k, line in enumerate(entry.lines, entry.first):
                if Cursor(entry.epoch, k) <= end:
                    self._fold(line, Cursor(entry.epoch, k))
        self._changed.clear()
        self._gaps.clear()
        self._at = None

    def take(self, entry: Entry) -> list[Told]:
        """Return what is due at an event of the entry, and learn of it."""
        told: list[Told] = []
        for k, line in enumerate(entry.lines, entry.first):
            ts = received(line)
            if ts >= self._due:
                told += self._tell_all()
                self._due = ts - ts % self._interval_ns + self._interval_ns
            self._now = max(self._now, ts)
            self._at = Cursor(entry.epoch, k)
            self._fold(line, self._at)
        return told

    def waiting(self, now_ns: int) -> list[Told]:
        """Return the views that were kept back for their time, once that is over."""
        return self._tell_all() if now_ns >= self._due else []

    def hole(self, gap: Gap, at: Cursor) -> list[Told]:
        """Learn that entries up to ``at`` are missing: no book is known any more."""
        told = self._tell_all()
        self._views.clear()
        self._gaps += self._gap(gap, at)
        self._at = at
        return told

    def _tell_all(self) -> list[Told]:
        if self._at is None:
            return []
        messages = self._gaps
        for symbol, at in self._changed.items():
            event = cast("Book", self._views[symbol].event)
            bids, asks = self._views[symbol].top(self._depth)
            ts = event.ts_recv if event.ts_event is None else event.ts_event
            said = self._words.book(symbol, ts, bids, asks, f"{self._stem}{at}")
            if said is None:
                self.skipped += 1
            else:
                messages.append(Message(at, said))
        told = Told(self._at, sorted(messages), self._now)
        self._changed, self._gaps, self._at = {}, [], None
        return [told]

    def _fold(self, line: bytes, at: Cursor) -> None:
        kind = line[9 : line.find(b'"', 9)]
        if kind == b"gap":
            message = self._tell(line, at, self._wanted)
            if message is not None:
                self._gaps.append(message)
        elif kind == b"book":
            try:
                event = _book_of(line)
            except msgspec.MsgspecError:
                self.unreadable += 1
                return
            symbol = cast("str", event.symbol)
            if self._wanted is None or symbol in self._wanted:
                self._apply(symbol, event, at)

    def _apply(self, symbol: str, event: Book, at: Cursor) -> None:
        view = self._views.setdefault(symbol, View())
        try:
            view.apply(event, at.k)
        except BrokenChain:
            # Before its first snapshot, or behind a hole that ``hole`` has told: a snapshot will come.
            del self._views[symbol]
            self._changed.pop(symbol, None)
            return
        self._changed.pop(symbol, None)
        if event.state == "live":
            self._changed[symbol] = at
        # A book that is not live has no levels to tell: its last view stands until it is live again.


_book_of: Final = msgspec.json.Decoder(Book).decode


def received(line: bytes) -> int:
    """Return when the event of a line was received; 0 where it does not say."""
    at = line.find(b'"ts_recv":')
    digits = line[at + 10 : at + 29] if at >= 0 else b""
    return int(digits) if digits.isdigit() else 0


class _BookHead(msgspec.Struct, gc=False):
    symbol: str
    type: str
    state: str


_BOOK: Final = codec.prefix("book")
_head_of: Final = msgspec.json.Decoder(_BookHead).decode


def _begins(line: bytes) -> str | None:
    """Return whose book begins with this line, None: it goes on, or cannot be read (counted elsewhere)."""
    try:
        head = _head_of(line)
    except msgspec.MsgspecError:
        return None
    return head.symbol if head.type == "snapshot" or head.state != "live" else None


class Enough:
    """Tells when reading back has found what every book begins with."""

    def __init__(self, symbols: Collection[str], end: Cursor, most_ns: int, most_bytes: int) -> None:
        """Expect the books of ``symbols`` up to ``end``, at most ``most_ns`` and ``most_bytes`` back."""
        self._missing: set[str | None] = {*symbols}
        self._end = end  # it may lie within an entry: a book that begins after it has another beginning
        self._newest_ns = 0
        self._most_ns = most_ns
        self._left = most_bytes

    def __call__(self, entry: Entry) -> bool:
        """Learn of an entry; tell whether it is enough."""
        for k in range(entry.k, entry.first - 1, -1):
            line = entry.lines[k - entry.first]
            self._left -= len(line)
            if line.startswith(_BOOK) and Cursor(entry.epoch, k) <= self._end:
                self._missing.discard(_begins(line))
        ts = received(entry.lines[0])
        self._newest_ns = self._newest_ns or ts
        return not self._missing or self._newest_ns - ts > self._most_ns or self._left < 0
