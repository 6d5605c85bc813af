"""The benchmark's input: what three venues say, recorded from the simulator without a server.

One file, so that each process reads it for itself: lines of ``raw`` without their stamps, each with its
venue and how many events it makes that are followed to their delivery: trades, changes of books, and best
prices where the venue has its own. Frames, answers and snapshots come from the simulated venues, asked by
our own adapters.

The mix: what happens at ``PACE`` times the venues' own pace, three instruments each, one of them a swap. A
tape longer than what was recorded holds it several times: each time other connections, with snapshots of
their own and ids that go on where they ended, so that nothing comes twice.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from actors.model.events import L1, SECOND, BookDelta, Channel, Trade
from actors.model.instruments import Instrument
from actors.simulator.faults import Faults
from actors.simulator.market import Market
from actors.simulator.session import Reply, Session
from actors.simulator.street import load
from actors.simulator.venue import Venue, accept, hear
from actors.stages import raw
from actors.stages.normalize.marks import span
from actors.venues import VENUES
from actors.venues.base import Answer, Request, Scratch

# Books of less than 1,000 levels: a tape runs hours of market in seconds, and a larger one would be at the
# end of what its snapshot knows before a tick, of this clock, lets it ask for another.
SYMBOLS: Final[dict[str, tuple[str, ...]]] = {
    "binance": ("ETH-USDT", "SOL-USDT", "XRP-USDT"),
    "kraken": ("ETH-USD", "SOL-USD", "XRP-USD"),
    "okx": ("ETH-USDT", "SOL-USDT", "ETH-USDT-PERP"),
}
PACE: Final = 3.0  # chosen: Binance then sends ten other frames for each of depth, as on a busy day
CHANGES_PER_SNAPSHOT: Final = 500  # chosen: the market moves off a snapshot of 1,000 levels in some 10,000
MOST_CONNECTIONS: Final = 200  # chosen: fit in a byte that is no line break
_CHANNELS: Final[tuple[Channel, ...]] = ("trade", "book", "l1")
_START: Final = 1_767_225_600 * SECOND  # 2026-01-01: a tape never depends on the clock
_PUBLISH_NS: Final = 10_000_000  # as often as the simulator looks what is due by time
_ZERO: Final = ord("0")
_ID: Final = re.compile(rb"\b%d[0-9]{9}\b" % (_START // 10**12))  # ids begin at the microseconds of the start
_SEQUENCES: Final = ""  # whose ids those are that need not go on without a hole
_json = msgspec.json.encode


def channels_of(venue: str) -> list[Channel]:
    """Return the channels of the benchmark that a venue has."""
    return [channel for channel in _CHANNELS if channel in VENUES[venue].channels]


def listed(venue: str) -> list[str]:
    """Return all symbols that a simulated venue lists and that trade."""
    return [listing.symbol for listing in load(venue).LISTINGS if listing.trading]


class Line(NamedTuple):
    """A line of ``raw`` without its stamp.

    Attributes:
        connection: Index of its connection, below 200; of venue ``connection % len(Tape.venues)``.
        events: How many events it makes that are followed, below 200.
        text: Kind and payload.
    """

    connection: int
    events: int
    text: bytes


class Tape(NamedTuple):
    """Where it lies, which venues are in it, and how many of its lines open their first connections."""

    path: Path
    venues: tuple[str, ...]
    opening: int

    def packed(self) -> list[bytes]:
        """Read the lines, packed: as tuples they would take twice the memory."""
        return self.path.read_bytes().split(b"\n")


def packed(line: Line) -> bytes:
    """Return a line as bytes: one each for connection and events, then the text."""
    return bytes((_ZERO + line.connection, _ZERO + line.events)) + line.text


def unpacked(line: bytes) -> Line:
    """Return what ``packed`` was given."""
    return Line(line[0] - _ZERO, line[1] - _ZERO, line[2:])


def conn_of(connection: int) -> str:
    """Return the id of a connection of the tape."""
    return f"a.rec{connection:05}"


def record(
    folder: Path, seed: int, events: int, recorded: int, venues: Sequence[str] = tuple(SYMBOLS)
) -> Tape:
    """Make a tape of ``events`` events in ``folder``; the same for the same arguments.

    Args:
        folder: Where it shall lie.
        seed: Of the market.
        events: How many it shall hold, at least.
        recorded: How many of them are recorded before they come again.
        venues: Of ``SYMBOLS``.
    """
    listings = [
        msgspec.structs.replace(listing, orders_per_s=listing.orders_per_s * PACE)
        for name in venues
        for listing in load(name).LISTINGS
        if listing.symbol in SYMBOLS[name]
    ]
    market = Market(seed, listings, first_id=_START // 1000)
    visits = [_Visit(market, name, number) for number, name in enumerate(venues)]
    said = [line for visit in visits for line in visit.opening()]
    opening, made = len(said), sum(line.events for line, _ in said)
    going_on = _said(market, visits)
    while made < min(recorded, events):
        said.append(next(going_on))
        made += said[-1][0].events
    spans = {symbol: span for visit in visits for symbol, span in visit.spans()}
    path = folder / "tape"
    with path.open("wb") as f:
        f.write(b"\n".join(packed(line) for line, _ in said))
        for life in range(1, -(-events // max(1, made))):
            f.write(b"\n" + b"\n".join(map(packed, _again(said, life, len(venues), spans))))
    return Tape(path, tuple(venues), opening)


_Said = tuple[Line, str]
"""A line, and where it is of trades the venue and symbol, else nothing: whose ids it carries."""


def _again(said: Sequence[_Said], life: int, venues: int, spans: dict[str, int]) -> Iterator[Line]:
    """Yield what was said as other connections would hear it."""
    for venue in range(venues):
        yield Line((life - 1) * venues + venue, 0, b"x " + _json(raw.Closed(1001, "the tape begins again")))
    for line, whose in said:
        moved = life * spans[whose]

        def later(number: re.Match[bytes], moved: int = moved) -> bytes:
            return b"%d" % (int(number[0]) + moved)

        connection = life * venues + line.connection
        text = _ID.sub(later, line.text)
        if text.startswith(b"h"):
            text = text.replace(conn_of(line.connection).encode(), conn_of(connection).encode())
        yield Line(connection, line.events, text)


def _said(market: Market, visits: Sequence["_Visit"]) -> Iterator[_Said]:
    """Let the market go on, and yield what the venues say."""
    due = _START
    while True:
        now = _START + int(market.due * SECOND)
        market.step(now)
        if now >= due:
            due = now + _PUBLISH_NS
            for visit in visits:
                visit.simulated.publish(now)
        for visit in visits:
            yield from visit.lines(now)


class _Visit:
    """One simulated venue, and our connection to it."""

    def __init__(self, market: Market, name: str, number: int) -> None:
        listings = [live.listing for live in market.of(name)]
        self.simulated: Venue = load(name).serve(market, Faults(), _START, listings)
        self._venue = VENUES[name]
        self._number = number
        answers = [self._ask(request, _START) for request in self._venue.instruments]
        listed = {row.symbol: row for answer in answers for row in self._venue.rows(answer)}
        self._rows: dict[str, Instrument] = {}
        for symbol in SYMBOLS[name]:
            row = listed[symbol]
            assert isinstance(row, Instrument)  # noqa: S101 - the simulator lists nothing unusable
            self._rows[symbol] = row
        (self._planned,) = self._venue.plan(self._venue.endpoints, [*self._rows.values()], channels_of(name))
        self._session = self._open()
        self._scratch = Scratch("", {row.native: row for row in self._rows.values()})
        self._changes = dict.fromkeys(self._rows, 0)  # of each book
        self._trades: dict[str, list[int]] = {}  # first and last id of each symbol

    def _ask(self, request: Request, now: int) -> bytes:
        url = urlsplit(request.path)
        return self.simulated.rest(url.path, dict(parse_qsl(url.query)), now).body

    def _open(self) -> Session:
        url = urlsplit(self._planned.url)
        session = accept(self.simulated, 1, url.path, dict(parse_qsl(url.query)), _START)
        if isinstance(session, Reply):
            raise TypeError(f"{self._venue.name} refused the connection: {session.status}")
        for subscription in self._planned.subscriptions:
            hear(self.simulated, session, subscription.frame, _START)
        return session

    def _line(self, text: bytes, events: int = 0, whose: str = _SEQUENCES) -> _Said:
        return Line(self._number, events, text), whose

    def opening(self) -> Iterator[_Said]:
        """Yield what comes first: instruments, open, subscriptions and their answers."""
        yield from (self._line(b"i " + _json(row)) for row in self._rows.values())
        yield self._line(b"o " + self._planned.url.encode())
        yield from (self._line(b"s " + _json(asked)) for asked in self._planned.subscriptions)
        yield from self.lines(_START)

    def lines(self, now: int) -> Iterator[_Said]:
        """Yield what the venue has said since, and the snapshots that a client would have asked for."""
        heard, self._session.out = self._session.out, []
        for frame in heard:
            events, whose = 0, _SEQUENCES
            snapshots: list[_Said] = []
            for each in self._venue.decode(frame, self._scratch):
                match each:
                    case Trade():
                        events += 1
                        whose = self._traded(each)
                    case L1():
                        events += 1
                    case BookDelta(symbol=str(symbol)):
                        snapshots += self._snapshots(symbol, now)
                        # A first change without a book is part of the snapshot that it is the reason for.
                        events += self._venue.snapshot is None or self._changes[symbol] > 0
                        self._changes[symbol] += 1
                    case _:
                        pass
            yield self._line(b"f " + frame, events, whose)
            yield from snapshots

    def _traded(self, trade: Trade) -> str:
        """Note the ids of a trade; return whose they are."""
        whose = f"{trade.venue} {trade.symbol}"
        first, last = span(trade)
        self._trades.setdefault(whose, [first, last])[1] = last
        return whose

    def spans(self) -> Iterator[tuple[str, int]]:
        """Yield how far ids must move so that what was recorded can come again."""
        yield _SEQUENCES, 10**8
        yield from ((whose, last - first + 1) for whose, (first, last) in self._trades.items())

    def _snapshots(self, symbol: str, now: int) -> Iterator[_Said]:
        """Yield a snapshot where it is time, of a venue that gives it by REST."""
        if self._venue.snapshot is not None and self._changes[symbol] % CHANGES_PER_SNAPSHOT == 0:
            request = self._venue.snapshot(self._rows[symbol])
            answer = Answer(request, 200, self._ask(request, now).decode(), conn=conn_of(self._number))
            yield self._line(b"h " + _json(answer))
