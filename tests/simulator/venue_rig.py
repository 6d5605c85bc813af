"""A simulated venue, its adapter and the folds, joined by a connector of a few lines: no socket, no clock.

The connector does what the real one does with ``raw`` and ``control``, one market step after another, so
that a run is the same each time. A venue's words and the pipeline's are all the real ones.
"""

import heapq
from base64 import b64encode
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
from simulator_rig import Desk, S

from actors.model import codec
from actors.model.decimals import to_base
from actors.model.events import AnyEvent, Book, BookSnapshot, Gap, Trade
from actors.model.instruments import Instrument
from actors.simulator.house import trimmed
from actors.simulator.session import Binary, Reply, Session
from actors.simulator.venue import ask, hear
from actors.stages import raw
from actors.stages.book import View
from actors.stages.bookbuild import Bookbuild
from actors.stages.control import ControlRequest
from actors.stages.fold import Output
from actors.stages.normalize import Normalize
from actors.venues import VENUES
from actors.venues.base import Answer, BookRule, Connection, Request, Subscription, Venue

BACK_S = 1.0  # a connection that ended is opened again after so long
OVERLAP_S = 3.0  # one that is replaced stays beside the new one for so long
STEP_S = 0.1
WINDOWS = {"bitfinex": 100}  # levels that a venue keeps by telling of each that leaves, and says nowhere

SPELT_TWICE = {"mexc"}  # numbers have zeros at their end by REST, and none in pushes


class Line:
    """One planned connection and the socket that is open for it."""

    def __init__(self, planned: Connection) -> None:
        self.planned = planned
        self.items = [item for s in planned.subscriptions for item in s.items]
        self.session: Session | None = None
        self.pinged = 0  # when its keepalive was last sent, at first when it was opened, ns
        self.name = ""
        self.next_id = 1
        self.replaced = False


class Chain:
    """Runs a venue through the folds.

    Attributes:
        events: What the normalizer said, in order.
        books: What the bookbuilder said.
        views: By symbol, what a reader of ``books`` holds.
        counts: What both counted.
        asked: How often each operation was asked of the connector.
        states: By symbol, every state that its book was told in, in order.
        dead: What could not be understood.
        compared: How often a live book was compared with the venue's.
        told_books: How many changes of books were told.
    """

    def __init__(self, name: str, *symbols: str, seed: int = 1, rule: BookRule | None = None) -> None:
        """Begin with ``symbols``; ``rule``: of the books, if not the venue's own."""
        self.desk = Desk(name, *symbols, seed=seed)
        self.venue: Venue = VENUES[name]
        self.symbols = symbols
        self.events: list[AnyEvent] = []
        self.books: list[AnyEvent] = []
        self.views: dict[str, View] = defaultdict(View)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.asked: Counter[str] = Counter()
        self.states: dict[str, list[str]] = defaultdict(list)
        self.dead: list[bytes] = []
        self.compared = self.told_books = 0
        self.instruments: dict[str, Instrument] = {}
        self._normalize = Normalize(self.venue, f"{name}.0")
        self._bookbuild = Bookbuild(name, rule or self.venue.book_rule, has_l1="l1" in self.venue.channels)
        self._said = Output(("events", "control", "dead"))
        self._built = Output(("books", "control", "dead"))
        self._raw = self._k = self._opened = 0
        self._lines: list[Line] = []
        self._later: list[tuple[int, int, Any]] = []  # when, in which order, a request or a line to open
        self._orders = 0
        self._ticked = self.desk.now
        self._polled = dict.fromkeys(self.venue.polls, self.desk.now)
        self._steps = 0
        self._depths: dict[str, int | None] = {}  # levels that a snapshot said there are
        self._odd: dict[str, int | None] = {}  # not the venue's: time of the last event
        self._checked: dict[str, int] = {}  # how many states each book had been in
        self._list()

    # -- the connector

    def _list(self) -> None:
        for request in self.venue.instruments:
            for row in self.venue.rows(self._get(request)):
                assert isinstance(row, Instrument)
                if row.symbol in self.symbols:
                    self.instruments[row.symbol] = row
                    self._write("a.*", "i", msgspec.json.encode(row))
        assert set(self.instruments) == set(self.symbols)
        planned = self.venue.plan(
            self.venue.endpoints, list(self.instruments.values()), sorted(self.venue.channels)
        )
        self._lines = [Line(each) for each in planned]
        for line in self._lines:
            self._open(line)

    def _ask(self, request: Request) -> Reply:
        url = urlsplit(request.path)
        return ask(self.desk.venue, url.path, dict(parse_qsl(url.query)), self.desk.now, post=request.post)

    def _get(self, request: Request) -> bytes:
        reply = self._ask(request)
        assert reply.status == 200, reply
        return reply.body

    def _open(self, line: Line) -> None:
        self._opened += 1
        name, url, handshake = f"a.{self._opened:08x}", line.planned.url, self.venue.handshake
        if handshake is not None:
            url = handshake.url(url, self._get(handshake.request), name)
        session = self.desk.knock(url)
        if not isinstance(session, Session):
            self._after(BACK_S, line)
            return
        line.session, line.name, line.next_id, line.pinged = session, name, 1, self.desk.now
        self._write(line.name, "o", line.planned.url.encode())
        if self.venue.greeting is not None:
            self.desk.venue.publish(self.desk.now)
            self._drain(line)
        if line.session is not None:
            self._send(line, line.planned.subscriptions)

    def _send(self, line: Line, subscriptions: list[Subscription]) -> None:
        assert line.session is not None
        for subscription in subscriptions:
            line.next_id = max(line.next_id, (subscription.id or 0) + 1)
            self._write(line.name, "s", msgspec.json.encode(subscription))
            self._say(line, line.session, subscription.frame)

    def _say(self, line: Line, session: Session, frame: str) -> None:
        stamp = self.venue.stamp
        text = frame if stamp is None else stamp(frame, self.desk.now // S)
        hear(self.desk.venue, session, text, self.desk.now)
        self._drain(line)

    def _keep_alive(self) -> None:
        keepalive = self.venue.keepalive
        for line in list(self._lines):
            session = line.session
            if keepalive and session and self.desk.now - line.pinged >= keepalive.every_s * S:
                line.pinged = self.desk.now
                self._say(line, session, keepalive.frame)

    def _drain(self, line: Line) -> None:
        session = line.session
        if session is None:
            return
        frames, session.out[:] = list(session.out), []
        for frame in frames:
            binary = isinstance(frame, Binary)
            self._write(line.name, "b" if binary else "f", b64encode(frame) if binary else bytes(frame))
            if (reply := self.venue.answer(bytes(frame))) is not None:
                hear(self.desk.venue, session, reply, self.desk.now)
        if session.close is not None:
            self._close(line, *session.close)

    def _close(self, line: Line, code: int, reason: str) -> None:
        assert line.session is not None
        self.desk.house.closed(line.session)
        line.session = None
        self._write(line.name, "x", msgspec.json.encode(raw.Closed(code, reason)))
        if line.replaced:
            self._lines.remove(line)
        else:
            self._after(BACK_S, line)

    def _replace(self, line: Line) -> None:
        """Open the like of a connection beside it, and close it later: as the connector does."""
        if not line.replaced:
            line.replaced = True
            self._lines.append(Line(line.planned))
            self._open(self._lines[-1])
            self._after(OVERLAP_S, line)

    def _after(self, seconds: float, what: Any) -> None:
        self._orders += 1
        heapq.heappush(self._later, (self.desk.now + int(seconds * S), self._orders, what))

    def _turn(self, line: Line) -> None:
        """Do what was put off: open a connection, or close one that was replaced."""
        if not line.replaced:
            self._open(line)
        elif line.session is not None:
            self._close(line, 1000, "replaced")

    def _serve(self, request: ControlRequest) -> None:
        instrument = self.instruments.get(request.symbol or "")
        if request.op in ("backfill", "snapshot", "audit"):
            assert instrument is not None
            self._fetch(request, instrument)
            return
        for line in list(self._lines):
            if line.session is None or request.conn not in (None, line.name):
                continue
            if request.op == "reconnect":
                self._close(line, 1000, "replaced")
                continue
            if request.op == "resubscribe" and self.venue.unsubscribe is None:
                self._replace(line)
                continue
            items = [
                item
                for item in line.items
                if request.channel in (None, item[0]) and request.symbol in (None, item[1])
            ]
            frames = self.venue.subscribe if request.op == "subscribe" else self.venue.unsubscribe
            if items and frames is not None:
                self._send(line, frames(items, self.instruments, line.next_id))

    def _poll(self) -> None:
        for channel, poll in self.venue.polls.items():
            if self._polled[channel] <= self.desk.now:
                self._polled[channel] = self.desk.now + int(poll.every_s * S)
                for instrument in self.instruments.values():
                    question = poll.ask(instrument)
                    reply = self._ask(question)
                    answer = Answer(question, reply.status, reply.body.decode())
                    self._write("a.*", "h", msgspec.json.encode(answer))

    def _fetch(self, request: ControlRequest, instrument: Instrument) -> None:
        question: Request
        if request.op == "snapshot":
            assert self.venue.snapshot is not None
            question = self.venue.snapshot(instrument)
        elif request.op == "audit":
            assert self.venue.audit is not None
            question = self.venue.audit(instrument)
        else:
            question = self._backfill(instrument, request)
        reply = self._ask(question)
        if reply.status == 429:  # the connector keeps to the budget, and waits like this
            self._after(float(reply.headers["Retry-After"]), request)
            return
        assert reply.status == 200, reply
        answer = Answer(question, 200, reply.body.decode(), request.id, request.conn)
        self._write(request.conn or "a.*", "h", msgspec.json.encode(answer))

    def _backfill(self, instrument: Instrument, request: ControlRequest) -> Request:
        first, last = request.first or "", request.last or ""
        if self.venue.backfill_after is not None and request.after is not None:
            return self.venue.backfill_after(instrument, first, last, request.after)
        assert self.venue.backfill is not None
        return self.venue.backfill(instrument, first, last)

    # -- the folds

    def _write(self, conn: str, kind: str, payload: bytes) -> None:
        self._raw += 1
        # Text goes as it is: what is none, or has a line break, a socket would bring otherwise.
        self._normalize.fold(self._raw, raw.line(self.desk.now, conn, kind, payload), self._said)
        said, asked = self._said.lines["events"][:], self._said.lines["control"][:]
        self.counts.update(self._said.counts)
        self.dead += self._said.lines["dead"]
        self._said.clear()
        for text in said:
            event = codec.decode(text)
            self.events.append(event)
            if isinstance(event, BookSnapshot) and event.symbol is not None:
                self._depths[event.symbol] = event.depth
            self._k += 1
            self._bookbuild.fold(self._k, text, self._built)
        for text in self._built.lines["books"]:
            event = codec.decode(text)
            self.books.append(event)
            if isinstance(event, Book):
                self.told_books += event.type == "delta"
                self.views[event.symbol or ""].apply(event, len(self.books))
                states = self.states[event.symbol or ""]
                if not states or states[-1] != event.state:
                    states.append(event.state)
        asked += self._built.lines["control"]
        self.counts.update(self._built.counts)
        self.dead += self._built.lines["dead"]
        self._built.clear()
        for text in asked:
            request = msgspec.json.decode(text, type=ControlRequest)
            self.asked[request.op] += 1
            self._after(request.delay_s or 0.0, request)

    # -- what a test does

    def run(self, seconds: float, *, check: bool = True) -> None:
        """Let the market, the connector and the folds go on.

        ``check`` books: one after another, one in three steps, and at once each that changed its state.
        """
        until = self.desk.now + int(seconds * S)
        while self.desk.now < until:
            self.desk.run(STEP_S, STEP_S)
            for line in list(self._lines):
                self._drain(line)
            while self._later and self._later[0][0] <= self.desk.now:
                what = heapq.heappop(self._later)[2]
                if isinstance(what, Line):
                    self._turn(what)
                else:
                    self._serve(what)
            self._poll()
            self._keep_alive()
            if self.desk.now - self._ticked >= S:
                self._ticked = self.desk.now
                self._write("-", "k", msgspec.json.encode(raw.LegsAlive(["a"])))
            if check:
                self.compared += self.check_books(self._due())

    def fault(self, kind: str, **more: Any) -> None:
        """Begin a fault in the frames of every open connection."""
        self.desk.fault(kind, *(line.session for line in self._lines if line.session), **more)

    def drop(self, code: int = 1006) -> None:
        """End every connection."""
        for line in list(self._lines):
            if line.session is not None:
                self._close(line, code, "dropped")

    def _due(self) -> list[str]:
        self._steps += 1
        lengths = {symbol: len(self.states[symbol]) for symbol in self.symbols}
        due = [symbol for symbol in self.symbols if lengths[symbol] != self._checked.get(symbol)]
        self._checked = lengths
        n, rest = divmod(self._steps, 3)
        return due if rest else list({*due, self.symbols[n % len(self.symbols)]})

    def check_books(self, symbols: Sequence[str] | None = None) -> int:
        """Compare live books with the venue's where they stand; return how many there were.

        That is at the same sequence, or as they were told with the same time where there is none. Of several
        changes of one time the last may be lost: then the next one must show it.
        """
        live = 0
        for symbol in self.symbols if symbols is None else symbols:
            view = self.views[symbol]
            if view.state != "live" or view.event is None:
                self._odd.pop(symbol, None)
                continue
            live += 1
            at = view.event.seq
            timed = at is None or self.desk.house.by_symbol[symbol].timed
            if self._is_true(symbol, view.event, view.levels):
                self._odd.pop(symbol, None)
            else:
                assert timed, (symbol, at)
                assert self._odd.setdefault(symbol, view.event.ts_event) == view.event.ts_event, (symbol, at)
        return live

    def _is_true(self, symbol: str, event: Book, levels: Sequence[list[tuple[str, str]]]) -> bool:
        shop, at, rule = self.desk.house.by_symbol[symbol], event.seq, self.venue.book_rule
        if at is None or shop.timed:
            at = shop.sequence(event.ts_event or 0)
        truth = shop.book(at, rule.depth or self._depths.get(symbol) or WINDOWS.get(self.venue.name))
        whole = rule.snapshot == "stream" and not rule.open_end
        row = self.instruments[symbol]
        return all(
            self._spelt(ours) == self._spelt(_base(row, theirs[: len(ours)]))
            and (not whole or len(ours) == len(theirs))
            for ours, theirs in zip(levels, (truth.bids, truth.asks), strict=True)
        )

    def _spelt(self, levels: list[tuple[str, str]]) -> list[tuple[str, ...]]:
        """Return levels as they are, or without the zeros that the venue writes in one place only."""
        if self.venue.name not in SPELT_TWICE:
            return [*levels]
        return [tuple(trimmed(text.encode()).decode() for text in level) for level in levels]

    def of(self, kind: type[Any], symbol: str | None = None) -> list[Any]:
        """Return events of one kind, from both streams."""
        found = [e for e in (*self.events, *self.books) if isinstance(e, kind)]
        return [e for e in found if symbol in (None, e.symbol)]

    def unexplained(self, symbol: str) -> list[int]:
        """Return the ids of the tape, from the first that was told, in no event and in no open gap."""
        told: Counter[int] = Counter()
        number = self._numbers(symbol)
        for trade in self.of(Trade, symbol):
            told.update(range(number[trade.first_id or trade.id], number[trade.id] + 1))
        for first, last in self.holes(symbol):
            told.update(n for n in range(first, last + 1) if not told[n])  # a hole without an end may overlap
        truth = self.desk.house.by_symbol[symbol].truth()
        last = max(told)
        assert last >= truth.next_trade - 20, "the tape was followed to its end"
        return [n for n in range(min(told), last + 1) if told[n] != 1]

    def holes(self, symbol: str) -> list[tuple[int, int]]:
        """Return what is named as missing of the trades of a symbol, and was not filled.

        A hole without an end ends before the next trade, one without a beginning begins after the last.
        """
        holes: list[tuple[int, int]] = []
        number = self._numbers(symbol)
        begun: int | None = None
        last = 0
        for event in self.of_trades(symbol):
            if isinstance(event, Trade):
                last = number[event.id]
                if begun is not None and last > begun:
                    holes.append((begun, last - 1))
                begun = None
            elif event.first and event.last:
                hole = (_place(number, event.first), _place(number, event.last, after=True) - 1)
                holes.remove(hole) if event.filled else holes.append(hole)
            else:
                begun = _place(number, event.first) if event.first else last + 1
        last = self.desk.house.by_symbol[symbol].truth().next_trade - 1
        return holes if begun is None else [*holes, (begun, last)]

    def _numbers(self, symbol: str) -> dict[str, int]:
        """Return the place on the tape of each trade, by its id in the venue's words."""
        shop = self.desk.house.by_symbol[symbol]
        truth = shop.truth()
        return {shop.identity(n): n for n in range(truth.first_trade, truth.next_trade)}

    def of_trades(self, symbol: str) -> list[Any]:
        """Return trades and their gaps of one symbol, in order."""
        return [e for e in self.events if e.symbol == symbol and getattr(e, "channel", "trade") == "trade"
                and isinstance(e, Trade | Gap)]  # fmt: skip


def _place(number: dict[str, int], trade: str, *, after: bool = False) -> int:
    """Return the place on the tape of the first trade whose id is ``trade``, or ``after`` it.

    Ids may leave some out, so that ``trade`` itself need not be there.
    """
    first = min(number.values())
    ids = sorted(map(int, number))
    return first + (bisect_right if after else bisect_left)(ids, int(trade))


_to_base = lru_cache(1 << 16)(to_base)


def _base(row: Instrument, levels: list[tuple[str, str]]) -> list[tuple[str, str]]:
    if row.contract_size in (None, "1") or row.contract_kind is None:
        return levels  # these venues count base currency
    return [(price, _to_base(size, row.contract_size, row.contract_kind, price)) for price, size in levels]
