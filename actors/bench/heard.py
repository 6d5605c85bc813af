"""What one simulated venue says on our own connections, in memory: the frames of the row ``venues``.

Our own adapter asks for it: the instruments, the handshake where there is one, every channel, and snapshots
whenever the alignment machine wants one. What comes can be played to it again and again, and gives the same
each time.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from actors.connector.inflating import gunzip
from actors.model.events import SECOND, BookDelta, BookSnapshot, Event, Trade
from actors.model.instruments import Instrument
from actors.simulator.faults import Faults
from actors.simulator.market import Market
from actors.simulator.session import Binary, Reply, Session
from actors.simulator.street import load
from actors.simulator.venue import Venue as Simulated
from actors.simulator.venue import accept
from actors.simulator.venue import hear as hear_client
from actors.stages.bookbuild.alignment import Alignment
from actors.stages.bookbuild.sync import Sync
from actors.venues import VENUES
from actors.venues.base import Answer, Connection, Request, Scratch, Venue

SYMBOLS: Final = 3  # chosen: the busiest of a venue, spot and contracts together
_START: Final = 1_767_225_600 * SECOND  # 2026-01-01: nothing depends on the clock
_STEP_NS: Final = SECOND // 10
_MOST_S: Final = 600  # chosen: of market time; a venue that says less has fewer frames

_parse: Final = msgspec.json.Decoder().decode


class Line(NamedTuple):
    """A frame (inflated), or the answer to a request for a snapshot, on one of the connections.

    ``recv``: ns.
    """

    recv: int
    connection: int
    said: bytes | Answer


class Hearing(NamedTuple):
    """What was heard of a venue."""

    venue: Venue
    instruments: dict[str, Instrument]  # by native symbol
    connections: int
    lines: list[Line]

    @property
    def frames(self) -> int:
        """How many lines are frames."""
        return sum(isinstance(line.said, bytes) for line in self.lines)

    def scratches(self) -> list[Scratch]:
        """Return a fresh scratch for each connection."""
        return [Scratch(f"a.{n}", self.instruments, venue=self.venue.name) for n in range(self.connections)]


class Kept:
    """The books of some connections, each put together and proved by the venue's rule."""

    def __init__(self, venue: Venue) -> None:
        self._alignment = Alignment(venue.book_rule)
        self.syncs: dict[str, dict[str | None, Sync]] = defaultdict(dict)  # by connection id, by symbol

    def of(self, event: BookDelta | BookSnapshot) -> Sync:
        """Return the book that a change, or a whole book, is of."""
        books = self.syncs[event.conn]
        sync = books.get(event.symbol)
        if sync is None:
            sync = books[event.symbol] = Sync(self._alignment, event.conn, event.ts_recv)
        return sync


def parse(hearing: Hearing) -> bool:
    """Make each frame whatever JSON it is, as a measure; False if one is none."""
    try:
        for line in hearing.lines:
            if isinstance(line.said, bytes):
                _parse(line.said)
    except msgspec.DecodeError:
        return False
    return True


def decode(hearing: Hearing) -> None:
    """Decode every frame, and do nothing with what it says."""
    scratches, decode = hearing.scratches(), hearing.venue.decode
    for recv, connection, said in hearing.lines:
        if isinstance(said, bytes):
            scratch = scratches[connection]
            scratch.recv = recv
            decode(said, scratch)


def keep(hearing: Hearing, traded: Callable[[Trade], object] = lambda _: None) -> Kept:
    """Decode every line and keep the books; ``traded`` is told of each trade."""
    kept = Kept(hearing.venue)
    of = kept.of
    scratches, decode = hearing.scratches(), hearing.venue.decode
    books = [kept.syncs[scratch.conn] for scratch in scratches]
    for recv, connection, said in hearing.lines:
        scratch = scratches[connection]
        scratch.recv = recv
        if not isinstance(said, bytes):
            for event in hearing.venue.decode_rest(said, scratch):
                if isinstance(event, BookSnapshot):
                    of(event).snapshot(event, recv)
            continue
        for event in decode(said, scratch):  # by its type: to ask a Struct for its class is dear
            if type(event) is BookDelta:
                (books[connection].get(event.symbol) or of(event)).delta(event, len(said), recv)
            elif type(event) is Trade:
                traded(event)
            elif type(event) is BookSnapshot:
                of(event).snapshot(event, recv)
    return kept


def hear(name: str, frames: int, seed: int, symbols: int = SYMBOLS) -> Hearing:
    """Return at least ``frames`` frames of a simulated venue, where it says so many in ten minutes.

    Args:
        name: Of the venue.
        frames: How many to wait for.
        seed: Of the market.
        symbols: How many instruments to ask for.
    """
    return _Visit(name, seed, symbols).stay(frames)


class _Visit:
    """One venue in a market of its own, and our connections to it."""

    def __init__(self, name: str, seed: int, symbols: int) -> None:
        file = load(name)
        traded = sorted((each for each in file.LISTINGS if each.trading), key=lambda each: -each.orders_per_s)
        listings = traded[:symbols]
        self._market = Market(seed, listings, first_id=_START // 1000)
        self._now = _START
        self._simulated: Simulated = file.serve(self._market, Faults(), _START, listings)
        self._venue = VENUES[name]
        bodies = (self._ask(request) for request in self._venue.instruments)
        listed = [row for body in bodies for row in self._venue.rows(body) if isinstance(row, Instrument)]
        self._rows = {row.symbol: row for row in listed if row.symbol in {each.symbol for each in listings}}
        planned = self._venue.plan(
            self._venue.endpoints, list(self._rows.values()), sorted(self._venue.channels)
        )
        self._kept = Kept(self._venue)
        self._sessions = [self._open(n, connection) for n, connection in enumerate(planned)]
        self._spoken = self._now
        natives = {row.native: row for row in self._rows.values()}
        self._hearing = Hearing(self._venue, natives, len(planned), [])
        self._scratches = self._hearing.scratches()

    def _ask(self, request: Request) -> bytes:
        url = urlsplit(request.path)
        return self._simulated.rest(url.path, dict(parse_qsl(url.query)), self._now).body

    def _open(self, number: int, planned: Connection) -> Session:
        handshake = self._venue.handshake
        url = planned.url
        if handshake is not None:
            url = handshake.url(planned.url, self._ask(handshake.request), f"a.{number}")
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        session = accept(self._simulated, number + 1, parts.path, query, self._now)
        if isinstance(session, Reply):
            raise TypeError(f"{self._venue.name} refused a connection: {session.status}")
        self._simulated.publish(self._now)  # its greeting, where nothing may be said before
        for subscription in planned.subscriptions:
            self._now += SECOND  # never too fast
            self._tell(session, subscription.frame)
        return session

    def _tell(self, session: Session, frame: str) -> None:
        """Say what bears the time of its sending, where the venue wants it."""
        stamp = self._venue.stamp
        text = frame if stamp is None else stamp(frame, self._now // SECOND)
        hear_client(self._simulated, session, text, self._now)

    def stay(self, frames: int) -> Hearing:
        """Let the market go on until so much was said."""
        heard = 0
        until = self._now + _MOST_S * SECOND
        while heard < frames and self._now < until:
            while _START + self._market.due * SECOND <= self._now:
                self._market.step(_START + int(self._market.due * SECOND))
            self._simulated.publish(self._now)
            for number, session in enumerate(self._sessions):
                heard += len(session.out)
                self._listen(number, session)
            self._keep_alive()
            self._now += _STEP_NS
        return self._hearing

    def _keep_alive(self) -> None:
        keepalive = self._venue.keepalive
        if keepalive is not None and self._now >= self._spoken + keepalive.every_s * SECOND:
            self._spoken = self._now
            for session in self._sessions:
                self._tell(session, keepalive.frame)

    def _listen(self, number: int, session: Session) -> None:
        said, session.out[:] = list(session.out), []
        for frame in map(self._plain, said):
            reply = self._venue.answer(frame)
            if reply is not None:
                hear_client(self._simulated, session, reply, self._now)
            scratch = self._scratches[number]
            scratch.recv = self._now
            self._hearing.lines.append(Line(self._now, number, frame))
            self._follow(number, (e for e in self._venue.decode(frame, scratch) if isinstance(e, Event)))

    def _plain(self, frame: bytes) -> bytes:
        inflates = self._venue.inflate is not None and isinstance(frame, Binary)
        return gunzip(frame, self._venue.limits.max_frame_bytes) if inflates else bytes(frame)

    def _follow(self, number: int, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, BookDelta):
                sync = self._kept.of(event)
                sync.delta(event, 0, self._now)
                self._wanted(number, event.symbol, sync)
            elif isinstance(event, BookSnapshot):
                self._kept.of(event).snapshot(event, self._now)

    def _wanted(self, number: int, symbol: str | None, sync: Sync) -> None:
        """Ask for a snapshot where the book wants one."""
        if self._venue.snapshot is None or symbol is None or not sync.ask(self._now):
            return
        request = self._venue.snapshot(self._rows[symbol])
        answer = Answer(request, 200, self._ask(request).decode(), conn=sync.conn)
        self._hearing.lines.append(Line(self._now, number, answer))
        for event in self._venue.decode_rest(answer, self._scratches[number]):
            if isinstance(event, BookSnapshot):
                self._kept.of(event).snapshot(event, self._now)
