"""One simulated venue, our adapter and both folds, without a network and with a clock moved by hand.

It stands in for the connector: opens what the adapter plans, writes lines of ``raw``, serves ``control``.
What is published is compared with the simulator's truth, book by book: at its sequence where the venue has
one, else at the time that the venue told it with.
"""

from collections import Counter
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
from simulator_rig import MS, Desk, S

from actors.model import codec
from actors.model.events import Book, Channel, Event, Gap, Trade
from actors.model.instruments import Instrument
from actors.simulator.venue import Session
from actors.stages import raw
from actors.stages.book import View
from actors.stages.bookbuild import Bookbuild
from actors.stages.control import ControlRequest
from actors.stages.fold import Output
from actors.stages.normalize import Normalize
from actors.stages.trades import span
from actors.venues import VENUES
from actors.venues.base import Answer, Connection, Item, Request


class Wire:
    """One open connection of the stand-in."""

    def __init__(self, name: str, session: Session, plan: Connection, next_id: int) -> None:
        self.name = name
        self.session = session
        self.plan = plan
        self.next_id = next_id


class Chain:
    """What ``symbols`` of a venue become, from its market to ``books``."""

    def __init__(
        self, name: str, *symbols: str, channels: list[Channel] | None = None, seed: int = 1
    ) -> None:
        self.desk = Desk(name, *symbols, seed=seed)
        self.venue = VENUES[name]
        self.normalize = Normalize(self.venue, f"{name}.0")
        self.bookbuild = Bookbuild(name, self.venue.book_rule, has_l1="l1" in self.venue.channels)
        self.first = Output(("events", "control", "dead"))
        self.second = Output(("books", "control", "dead"))
        self.views: dict[str, View] = {}
        self.trades: dict[str, list[int]] = {}
        self.gaps: list[Gap] = []
        self.told: Counter[str] = Counter()  # what was said, by kind (of books with their state)
        self.dead: list[bytes] = []
        self.compared = 0
        self.wires: list[Wire] = []
        self._k = self._events = self._books = self._opened = 0
        self._ticked = 0
        listed = [row for request in self.venue.instruments for row in self.venue.rows(self._fetch(request))]
        self.instruments = {row.symbol: row for row in listed if not symbols or row.symbol in symbols}
        for row in self.instruments.values():
            self._line("a.*", "i", row)
        wanted = channels or sorted(self.venue.channels)
        for plan in self.venue.plan(self.venue.endpoints, [*self.instruments.values()], wanted):
            self._open(plan)

    # -- the connector's part ---------------------------------------------------------------------

    def _fetch(self, request: Request) -> bytes:
        return self._ask(request)[1]

    def _ask(self, request: Request) -> tuple[int, bytes]:
        url = urlsplit(request.path)
        reply = self.desk.ask(url.path, **dict(parse_qsl(url.query)))
        return reply.status, reply.body

    def _line(self, conn: str, kind: str, payload: Any) -> None:
        text = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        self._k += 1
        self.normalize.fold(self._k, raw.line(self.desk.now, conn, kind, text), self.first)
        self._on()

    def _on(self) -> None:
        for line in self.first.lines["events"]:
            self._events += 1
            self.bookbuild.fold(self._events, line, self.second)
            self._heard(codec.decode(line))
        for line in self.second.lines["books"]:
            self._books += 1
            event = codec.decode(line)
            if isinstance(event, Book):
                assert event.symbol is not None
                self.views.setdefault(event.symbol, View()).apply(event, self._books)
                self.told[f"book {event.state}"] += 1
            elif isinstance(event, Gap):
                self._heard(event)
        asked = [*self.first.lines["control"], *self.second.lines["control"]]
        self.dead += [*self.first.lines["dead"], *self.second.lines["dead"]]
        self.first.clear()
        self.second.clear()
        for text in asked:
            self._serve(msgspec.json.decode(text, type=ControlRequest))

    def _heard(self, event: Event) -> None:
        self.told[codec.kind_of(codec.encode(event))] += 1
        if isinstance(event, Gap):
            self.gaps.append(event)
        elif isinstance(event, Trade) and event.symbol:
            first, last = span(event)
            self.trades.setdefault(event.symbol, []).extend(range(first, last + 1))

    def _open(self, plan: Connection) -> None:
        self._opened += 1
        name = f"a.{self._opened}"
        session = self.desk.open(plan.url)
        highest = max((s.id or 0 for s in plan.subscriptions), default=0)
        wire = Wire(name, session, plan, highest + 1)
        self.wires.append(wire)
        self._line(name, "o", plan.url.encode())
        for subscription in plan.subscriptions:
            self._send(wire, subscription)

    def _send(self, wire: Wire, subscription: Any) -> None:
        self._line(wire.name, "s", subscription)
        self.desk.tell(wire.session, subscription.frame)
        self._receive()

    def close(self, wire: Wire) -> None:
        """Let a connection break and open its like."""
        self.wires.remove(wire)
        self.desk.house.closed(wire.session)
        self._line(wire.name, "x", raw.Closed(1006, "broken"))
        self._open(wire.plan)

    def _serve(self, request: ControlRequest) -> None:
        if request.op in ("snapshot", "backfill"):
            row = self.instruments[request.symbol or ""]
            if request.op == "snapshot":
                assert self.venue.snapshot is not None
                question = self.venue.snapshot(row)
            else:
                question = self._backfill(row, request)
            status, body = self._ask(question)
            answer = Answer(question, status, body.decode(), request.id, request.conn)
            self._line(request.conn or "a.*", "h", answer)
            return
        for wire in [w for w in self.wires if request.conn in (None, w.name)]:
            if request.op == "reconnect":
                self.close(wire)
                continue
            planned = [item for subscription in wire.plan.subscriptions for item in subscription.items]
            items: list[Item] = [
                (channel, symbol)
                for channel, symbol in planned
                if request.symbol in (None, symbol) and request.channel in (None, channel)
            ]
            frames = self.venue.subscribe if request.op == "subscribe" else self.venue.unsubscribe
            for subscription in frames(items, self.instruments, wire.next_id) if items else ():
                wire.next_id += 1
                self._send(wire, subscription)

    def _backfill(self, row: Instrument, request: ControlRequest) -> Request:
        first, last = request.first or "", request.last or ""
        if self.venue.backfill_after is not None and request.after is not None:
            return self.venue.backfill_after(row, first, last, request.after)
        assert self.venue.backfill is not None
        return self.venue.backfill(row, first, last)

    def _receive(self) -> None:
        for wire in list(self.wires):
            frames = list(wire.session.out)
            wire.session.out.clear()
            for frame in frames:
                if wire in self.wires:  # what is read of a frame may lead to another connection
                    self._line(wire.name, "f", bytes(frame))
            if wire.session.close is not None and wire in self.wires:
                self.close(wire)

    def run(self, seconds: float, step_s: float = 0.05, *, check: bool = True) -> None:
        """Let time pass; compare every live book after each step."""
        until = self.desk.now + int(seconds * S)
        while self.desk.now < until:
            self.desk.run(step_s)
            self._receive()
            if self.desk.now - self._ticked >= S:
                self._ticked = self.desk.now
                self._line("-", "k", raw.LegsAlive(["a"]))
            if check:
                self.check()

    # -- the truth ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Compare every live book with the truth, as deep as the venue vouches for."""
        for symbol, view in self.views.items():
            if view.state == "live":
                assert self.differs(symbol) is None, self.differs(symbol)
                self.compared += 1

    def differs(self, symbol: str) -> str | None:
        """Return how the published book of ``symbol`` is unlike the venue's; None if it is not."""
        view = self.views[symbol]
        assert view.event is not None
        shop = self.desk.house.by_symbol[symbol]
        seq, ts = view.event.seq, view.event.ts_event
        if seq is None:
            assert ts is not None
            seq = shop.sequence(ts)
        truth = shop.book(seq, self.venue.book_rule.depth)
        bids, asks = view.levels
        # Of a snapshot asked for, what lies below is not known: the venue's best levels without a hole.
        known = (truth.bids[: len(bids)], truth.asks[: len(asks)])
        whole = self.venue.book_rule.snapshot == "rest" or (len(bids), len(asks)) == (
            len(truth.bids), len(truth.asks),
        )  # fmt: skip
        return (
            None if whole and (bids, asks) == known else f"{symbol} at {seq}: {bids[:3]} for {truth.bids[:3]}"
        )

    def missing_trades(self, symbol: str) -> list[int]:
        """Return which trades of the tape since the first told are neither told nor named as missing."""
        seen = self.trades[symbol]
        assert len(seen) == len(set(seen)), "a trade came twice"
        tape = range(min(seen), self.desk.house.by_symbol[symbol].live.tape.next)
        holes = [(first, last) for each, first, last in self.holes() if each == symbol]
        return [i for i in {*tape} - {*seen} if not any(first <= i <= last for first, last in holes)]

    def holes(self) -> list[tuple[str | None, int, int]]:
        """Return what is named as missing and was not filled: symbol, first and last id."""
        holes: list[tuple[str | None, int, int]] = []
        for gap in self.gaps:
            if gap.channel == "trade" and gap.first and gap.last:
                hole = (gap.symbol, int(gap.first), int(gap.last))
                holes.remove(hole) if gap.filled else holes.append(hole)
        return holes


__all__ = ["MS", "Chain", "S"]
