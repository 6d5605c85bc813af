"""Answers of the venue's REST interface: snapshots of books, missing trades, what no connection brings."""

import msgspec

from actors.model.errors import Unparseable
from actors.model.events import SECOND, Event, Gap, Ticker, Trade
from actors.model.instruments import Instrument
from actors.stages.control import retry_delay_s
from actors.stages.normalize.connections import Connections
from actors.stages.normalize.sink import Sink
from actors.stages.normalize.trades import Trades
from actors.venues.base import Answer, Item, Scratch, Venue


class Retry(msgspec.Struct):
    """A snapshot that failed: how often in a row, and when the request that repeats it is sent."""

    failures: int
    at: int


class Answers:
    """What is done with answers. ``now`` (fold time) and the way out are the sink's."""

    def __init__(
        self,
        venue: Venue,
        instruments: dict[str, Instrument],
        retries: dict[tuple[str, str], Retry],
        *,
        connections: Connections,
        trades: Trades,
        sink: Sink,
    ) -> None:
        """Go on with ``retries``, by connection and symbol, which are changed in place."""
        self._venue = venue
        self._instruments = instruments
        self._retries = retries
        self._connections = connections
        self._trades = trades
        self._sink = sink

    def forget_closed(self) -> None:
        """Forget what failed for connections that have said goodbye."""
        for key in [key for key in self._retries if not self._connections.is_known(key[0])]:
            del self._retries[key]

    def take(self, name: str, recv: int, answer: Answer, line: bytes) -> None:
        """Take an ``h`` line, which came as ``line`` from connection ``name``."""
        conn = name if answer.conn is None else answer.conn
        events: list[Event] | None = None
        if answer.status == 200:
            scratch = Scratch(conn, self._instruments, venue=self._venue.name)
            scratch.recv = recv
            try:
                events = self._venue.decode_rest(answer, scratch)
            except Unparseable as e:
                self._sink.unparseable(e, line)
        symbol = answer.request.symbol
        match answer.request.op:
            case "snapshot" if symbol is not None:
                self._snapshot(conn, symbol, events)
            case "audit" if symbol is not None:
                self._audit(conn, events)
            case "backfill" if symbol is not None:
                self._trades.backfilled(symbol, answer, events)
            case "open_interest" | "ticker" | "trade" as channel if symbol is not None:
                self._polled((channel, symbol), answer, events, line)
            case _:
                self._sink.count("tapeline_ignored_total", "answer")

    def _polled(self, item: Item, answer: Answer, events: list[Event] | None, line: bytes) -> None:
        if events is None:
            reason = "no answer" if not answer.status else f"HTTP {answer.status}"
            self._connections.unanswered(item, f"{reason}: {answer.body[:200]}")
        elif item[0] == "trade":
            self._connections.answered(item, None)
            page = [event for event in events if isinstance(event, Trade | Gap)]
            if unread := self._trades.page(item[1], page):
                self._sink.unparseable(Unparseable(f"trades of {item[1]}: {', '.join(unread)[:200]}"), line)
        else:
            for event in events:
                if not self._connections.answered(item, event.ts_event):
                    continue  # asked more often than it changes
                self._sink.event(event)
                if isinstance(event, Ticker):
                    self._connections.priced_by_rest(item[1], event.last)

    def _snapshot(self, conn: str, symbol: str, events: list[Event] | None) -> None:
        key = (conn, symbol)
        if not self._connections.is_open(conn):
            self._sink.count("tapeline_ignored_total", "closed_connection")
        elif events is None:
            self._repeat(key)
        else:
            self._retries.pop(key, None)
            for event in events:
                self._sink.event(event)

    def _audit(self, conn: str, events: list[Event] | None) -> None:
        """Pass on what a book is compared with; whoever wants it asks again where nothing came."""
        if events is None or not self._connections.is_open(conn):
            self._sink.count("tapeline_ignored_total", "answer")
            return
        for event in events:
            self._sink.event(event)

    def _repeat(self, key: tuple[str, str]) -> None:
        """Ask again for a snapshot; once, though others may be asking and failing, too."""
        conn, symbol = key
        retry = self._retries.setdefault(key, Retry(0, 0))
        if retry.at <= self._sink.now:
            retry.failures += 1
            delay_s = retry_delay_s(retry.failures)
            retry.at = self._sink.now + round(delay_s * SECOND)
            self._sink.request("snapshot", symbol=symbol, channel="book", conn=conn, delay_s=delay_s)
