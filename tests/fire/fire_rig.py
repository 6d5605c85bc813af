"""A demo under fire: readers that check every cursor and every trade while processes are killed."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import msgspec
import redis
from demo_rig import FEW, METRICS, ROOT, Demo, await_true
from redis.backoff import NoBackoff
from redis.retry import Retry
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from actors.chaos.places import Control, sums_of
from actors.chaos.stages import agrees
from actors.config import load
from actors.model import codec
from actors.model.events import Book, Cvd, Gap, Status, Trade
from actors.runtime.supervisor import parent_of
from actors.stages.book import BrokenChain, View
from actors.stages.normalize.marks import span
from actors.streams.keys import Cursor, Keys, Partition, Stream
from actors.streams.partition import entry_of
from actors.venues import VENUES
from actors.venues.base import items_of

VENUES_SYMBOLS = {
    name: venue.symbols
    for name, venue in load(ROOT / "config/demo.toml", {"TAPELINE_VENUES": FEW}).venues.items()
    if venue.enabled
}
STREAMS: tuple[Stream, ...] = ("events", "books", "flow")
VENUE = "binance"  # the one that most tests strike
SYMBOLS = tuple(VENUES_SYMBOLS[VENUE])
ROLES = ("connector", "normalizer", "bookbuilder", "analytics", "broadcaster")
TTL_S = 1.0  # of a lease; a supervisor's first back-off is below 0.4 s
BACK_S = TTL_S + 2.0 + 10.0  # the contract, and what a small machine under load may take beyond it
STOPPED_S = 8.0  # everything has ended


class Fire(Demo):
    """One ``tapeline demo`` with short leases; nothing is trimmed before it is compared."""

    def __init__(self, folder: Path, ttl_s: float = TTL_S) -> None:
        super().__init__(folder, FEW)  # whoever reads every cursor keeps up with these
        self.keys = Keys()
        self.ttl_s = ttl_s
        self.control = Control(9700 + self.offset)

    @property
    def env(self) -> dict[str, str]:
        return {
            **super().env,
            "TAPELINE_STREAMS__LEASE_TTL_S": str(self.ttl_s),
            "TAPELINE_STREAMS__RETENTION_S": "3600",
            "TAPELINE_LOG__PRETTY": "false",
        }

    def actor(self, role: str) -> int:
        return self.pid(f"-m actors run {role}")

    def actors(self) -> dict[str, int]:
        return {role: self.actor(role) for role in ROLES}

    def supervisor(self, role: str) -> int:
        return self.pid(f"tapeline supervise {role}")

    def honcho(self) -> int:
        """Return honcho itself; its helpers have the same command line."""
        assert self.process is not None
        guide = self.process.pid
        return next(pid for pid, c in self.processes().items() if "honcho" in c and parent_of(pid) == guide)

    def server(self) -> int:
        return await_true(
            "a Redis server",
            lambda: next((pid for pid, command in self.processes().items() if "-server 127" in command), 0),
        )

    def kill(self, pid: int) -> int:
        """Kill -9; return the time, ns."""
        now = time.time_ns()
        os.kill(pid, signal.SIGKILL)
        return now

    def gone(self) -> float:
        """Wait until none of its processes is left; return after how many seconds."""
        assert self.process is not None
        began = time.monotonic()
        try:
            await_true("nothing is left", lambda: not self.processes(), STOPPED_S)
        except AssertionError as e:
            raise AssertionError(f"{e}: {self.processes()}\n{self.said()}") from e
        took_s = time.monotonic() - began
        self.process.wait()
        return took_s

    def counters(self, role: str) -> dict[str, float]:
        """Return the metrics of a role by name and labels, as they are written."""
        rows = (line.rpartition(" ") for line in self.get("/metrics", METRICS[role]).decode().splitlines())
        return {name: float(value) for name, _, value in rows if not name.startswith("#")}

    def dead(self, venue: str = VENUE) -> list[dict[str, str]]:
        """Return every document of ``dead``."""
        with self.client() as client:
            rows = client.xrange(self.keys.stream(Partition(venue, 0), "dead"))
        return [msgspec.json.decode(line) for _, fields in rows for line in fields["d"].splitlines()]

    def latest(self, symbol: str, venue: str = VENUE) -> dict[str, Any]:
        """Return the latest-book key of a symbol."""
        with self.client() as client:
            key = self.keys.latest(Partition(venue, 0), "book", symbol)
            return msgspec.json.decode(client.get(key) or b"{}")

    def clear_faults(self) -> None:
        """End every fault of the simulator."""
        url = f"http://127.0.0.1:{9700 + self.offset}/control/faults"
        with urlopen(Request(url, method="DELETE"), timeout=5) as answer:
            assert answer.status == 200


@contextmanager
def fire(folder: Path, ttl_s: float = TTL_S) -> Iterator[Fire]:
    """Yield a demo under fire, started and live; nothing of it is left afterwards."""
    made = Fire(folder, ttl_s)
    try:
        made.start().live()
        yield made
    finally:
        made.close()


class Follower(threading.Thread):
    """A thread that is asked to end and joined; what went wrong in it is told by ``close``."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.wrong: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.follow()
        except Exception as e:  # noqa: BLE001 - told to the test
            self.error = e

    def follow(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.over.set()
        self.join(30)
        if self.error is not None:
            raise self.error
        assert not self.is_alive()


class Reader(Follower):
    """Anybody's Redis reader of a venue: one XREAD, a cursor a stream. It notes each ``k`` not the next."""

    def __init__(self, made: Fire, venue: str = VENUE) -> None:
        super().__init__()
        self._made = made
        self.venue = venue
        self.symbols = VENUES_SYMBOLS[venue]
        self.items = items_of(self.symbols, VENUES[venue].channels)
        self.lock = threading.Lock()
        self.cursors = {s: Cursor(0, 0) for s in STREAMS}
        self.lost_connections = 0
        self.trades: dict[str, list[int]] = {symbol: [] for symbol in self.symbols}
        self.gaps: list[tuple[str, Gap]] = []
        self.statuses: list[Status] = []
        self.views = {symbol: View() for symbol in self.symbols}
        self.states: dict[str, list[str]] = {symbol: [] for symbol in self.symbols}
        self.traded_ns = dict.fromkeys(self.symbols, 0)
        self.booked_ns = dict.fromkeys(self.symbols, 0)
        self.sums: dict[str, tuple[Decimal, Decimal]] = {}
        self.epochs: dict[str, set[int]] = {stream: set() for stream in STREAMS}
        self.start()

    def follow(self) -> None:
        place, keys = Partition(self.venue, 0), self._made.keys
        names = {keys.stream(place, stream).encode(): stream for stream in STREAMS}
        client = redis.Redis(
            port=6391 + self._made.offset, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        )
        while not self.over.is_set():
            asked = {name: str(self.cursors[stream]) for name, stream in names.items()}
            try:
                found = client.execute_command(
                    "XREAD", "COUNT", 64, "BLOCK", 200, "STREAMS", *asked, *asked.values(), NEVER_DECODE=[]
                )
            except (redis.ConnectionError, redis.TimeoutError):
                self.lost_connections += 1
                client.close()
                time.sleep(0.05)
                continue
            rows = found.items() if isinstance(found, dict) else found or ()
            for name, entries in rows:
                with self.lock:
                    for identity, fields in entries:
                        flat = (
                            [x for pair in fields.items() for x in pair]
                            if isinstance(fields, dict)
                            else fields
                        )
                        self._take(names[name], entry_of(identity, flat))
        client.close()

    def _take(self, stream: str, entry: Any) -> None:
        cursor = self.cursors[stream]
        if entry.first != cursor.k + 1 or entry.epoch < cursor.epoch:
            self.wrong.append(f"{stream}: {entry.first}..{entry.cursor} after {cursor}")
        self.cursors[stream] = entry.cursor
        self.epochs[stream].add(entry.epoch)
        for k, line in enumerate(entry.lines, entry.first):
            kind = codec.kind_of(line)
            if kind in ("trade", "gap", "status", "cvd") or (kind == "book" and stream == "books"):
                self._event(stream, k, codec.decode(line))

    def _event(self, stream: str, k: int, event: object) -> None:
        match event:
            case Trade(symbol=str(symbol)):
                first, last = span(event)
                self.trades[symbol].extend(range(first, last + 1))
                self.traded_ns[symbol] = event.ts_recv
            case Cvd(symbol=str(symbol)):
                self.sums[symbol] = Decimal(event.delta_base), Decimal(event.delta_quote)
            case Gap():
                self.gaps.append((stream, event))
            case Status():
                self.statuses.append(event)
            case Book(symbol=str(symbol)):
                try:
                    self.views[symbol].apply(event, k)
                except BrokenChain as e:
                    self.wrong.append(f"books: {e}")
                self.booked_ns[symbol] = event.ts_recv
                states = self.states[symbol]
                if not states or states[-1] != event.state:
                    states.append(event.state)

    def flowing(self, since_ns: int) -> bool:
        """Whether every symbol has traded and has a live book, received after ``since_ns``."""
        return all(
            self.traded_ns[symbol] > since_ns
            and self.booked_ns[symbol] > since_ns
            and self.views[symbol].state == "live"
            for symbol in self.symbols
        )

    def all_live(self) -> bool:
        """Whether every item was last said to be live, or is waiting for what seldom comes."""
        last = {(s.channel, s.symbol): s.state for s in list(self.statuses) if s.channel is not None}
        rare = {item for item, state in last.items() if item[0] == "liquidation" and state == "subscribed"}
        return {*last} == {*self.items} and {last[item] for item in {*last} - rare} == {"live"}

    def holes(self) -> dict[str, list[tuple[int, int]]]:
        """Return the ranges of trade ids whose gap is open."""
        found: dict[str, list[tuple[int, int]]] = {symbol: [] for symbol in self.symbols}
        for _, gap in list(self.gaps):
            if gap.channel == "trade" and gap.symbol and gap.first and gap.last:
                span = (int(gap.first), int(gap.last))
                found[gap.symbol].remove(span) if gap.filled else found[gap.symbol].append(span)
        return found

    def gaps_of(self, channel: str, symbol: str, since: int = 0) -> list[Gap]:
        """Return the gaps of an item, of those after the first ``since`` of all."""
        return [gap for _, gap in self.gaps[since:] if gap.channel == channel and gap.symbol == symbol]


class Barter(Follower):
    """A Barter client that keeps what it was sent: trades in order, books folded."""

    def __init__(self, made: Fire) -> None:
        super().__init__()
        self._stack = ExitStack()
        url = f"ws://127.0.0.1:{9001 + made.offset}"
        opening = connect(url, max_size=None, open_timeout=10, close_timeout=1)  # there may be much to come
        self._socket = self._stack.enter_context(opening)
        self.trades: dict[str, list[int]] = {symbol: [] for symbol in SYMBOLS}
        self.books: dict[str, dict[str, dict[Decimal, Decimal]]] = {}
        self.sequences: dict[str, int] = {}
        self.closed = False
        self.start()

    def follow(self) -> None:
        while not self.over.is_set():
            try:
                text = self._socket.recv(timeout=0.2)
            except TimeoutError:
                continue
            except ConnectionClosed:
                self.closed = True
                return
            said = msgspec.json.decode(text)
            if said.get("exchange") != "BinanceSpot":
                continue
            if (kind := said.get("kind")) in ("trade", "order_book_l2"):
                symbol = f"{said['instrument']['base']}-{said['instrument']['quote']}".upper()
                if kind == "trade":
                    self.trades[symbol].append(int(said["data"]["id"]))
                else:
                    self._book(symbol, said["data"])
        self._stack.close()

    def _book(self, symbol: str, data: dict[str, Any]) -> None:
        if "Snapshot" in data:
            self.books[symbol] = {"bids": {}, "asks": {}}
        elif symbol not in self.books:
            self.wrong.append(f"{symbol}: an update before its snapshot")
            return
        said = data.get("Snapshot") or data["Update"]
        for side, levels in self.books[symbol].items():
            for level in said[side]["levels"]:
                price, amount = Decimal(level["price"]), Decimal(level["amount"])
                if amount:
                    levels[price] = amount
                else:
                    levels.pop(price, None)
        self.sequences[symbol] = said["sequence"]

    def shows(self, symbol: str, truth: tuple[Any, Any]) -> bool:
        """Whether its book begins as the true one, 20 levels deep."""
        bids, asks = (self.books[symbol][side] for side in ("bids", "asks"))
        mine = sorted(bids.items(), reverse=True)[:20], sorted(asks.items())[:20]
        theirs = tuple([(Decimal(p), Decimal(s)) for p, s in side[:20]] for side in truth)
        return mine == theirs


def settle(made: Fire, *readers: Reader) -> None:
    """Stop the market and wait until all that it said has come through: trades, and every book at its end."""
    pause(made, *readers)
    for reader in readers:
        last = made.control.last_trades(reader.venue)

        def arrived(reader: Reader = reader, last: dict[str, int] = last) -> bool:
            holes = reader.holes()
            return all(
                last[s] in reader.trades[s] or any(a <= last[s] <= b for a, b in holes[s])
                for s in reader.symbols
            )

        told(made, reader, "the last trades are there", arrived, 30)
        told(made, reader, "the gaps are filled", lambda r=reader: not any(r.holes().values()), 20)


def pause(made: Fire, *readers: Reader) -> None:
    """Stop the market and wait until every book is live and at its end."""
    made.control.post("pause")
    for reader in readers:
        ends = {symbol: made.control.book(reader.venue, symbol) for symbol in reader.symbols}

        def at_end(reader: Reader = reader, ends: dict[str, Any] = ends) -> bool:
            with reader.lock:
                return all(agrees(reader.views[symbol], end) for symbol, end in ends.items())

        told(made, reader, "every book is live and at its end", at_end, 30)


def told(made: Fire, reader: Reader, what: str, probe: Callable[[], object], within_s: float) -> None:
    """Await, and say what is known when it does not come."""
    try:
        await_true(f"{what} ({reader.venue})", probe, within_s)
    except AssertionError as e:
        views = {s: (v.state, v.event and v.event.seq) for s, v in reader.views.items()}
        raise AssertionError(
            f"{e}\ncursors {reader.cursors} books {views} wrong {reader.wrong} error {reader.error!r}\n"
            f"holes {reader.holes()} last statuses {reader.statuses[-12:]}\n{made.said()[-6000:]}"
        ) from e


def check_truth(made: Fire, reader: Reader) -> None:
    """Every book is the simulator's where it stands: in ``books`` and in its latest-book key."""
    for symbol in reader.symbols:
        with reader.lock:
            view = reader.views[symbol]
            assert view.event is not None
            seq, ts = view.event.seq, view.event.ts_event
            assert made.control.shows(reader.venue, symbol, view), f"{reader.venue} {symbol} at {seq} {ts}"
            mine = view.top(20)

        def key_is_there(
            symbol: str = symbol, seq: int | None = seq, ts: int | None = ts if seq is None else None
        ) -> bool:
            latest = made.latest(symbol, reader.venue)
            at = latest["seq"] == seq and ts in (None, latest["ts_event"])
            return latest["state"] == "live" and at

        await_true(f"the latest book of {symbol}", key_is_there, 5)
        latest = made.latest(symbol, reader.venue)
        for told_there, levels in zip((latest["bids"], latest["asks"]), mine, strict=True):
            assert [tuple(level) for level in told_there] == levels
            assert len(levels) == 20


def check_reader(made: Fire, reader: Reader, *, anew: bool = False) -> None:
    """It saw every cursor once; every trade of the tape is in ``events`` once or inside a gap.

    ``anew``: the simulator was started again and has no tape of what it said before.
    """
    assert reader.error is None, reader.error
    assert reader.wrong == []
    symbols, holes = made.control.get("status")["venues"][reader.venue]["symbols"], reader.holes()
    for symbol, every in reader.trades.items():
        assert [i for i, n in Counter(every).items() if n > 1] == [], f"{symbol}: repeated"
        began = symbols[symbol]["first_trade"] if anew else min(every)
        ids = [i for i in every if i >= began]
        tape = made.control.tape(reader.venue, symbol, min(ids))
        on_tape = {*tape}
        assert {*ids} <= on_tape, f"{symbol}: trades that never were"
        missing = [i for i in on_tape - {*ids} if not any(a <= i <= b for a, b in holes[symbol])]
        assert missing == [], f"{symbol}: neither in events nor inside a gap"
        if not anew:
            true = sums_of(tape[i] for i in ids)
            await_true(f"{symbol}: its sums", lambda s=symbol, true=true: reader.sums.get(s) == true, 5)


def check_barter(made: Fire, reader: Reader, client: Barter) -> None:
    """From its first trade to the last, it was sent exactly the trades of ``events``, in their order."""
    assert client.error is None, client.error
    assert client.wrong == []
    assert not client.closed

    def all_sent() -> bool:
        return all(client.trades[s][-1:] == reader.trades[s][-1:] for s in SYMBOLS)

    await_true("the last trades are delivered", all_sent, 10)
    for symbol in SYMBOLS:
        got, want = client.trades[symbol], reader.trades[symbol]
        assert got == want[want.index(got[0]) :], symbol
        assert client.shows(symbol, made.control.book(VENUE, symbol, seq=client.sequences[symbol])), symbol


@dataclass
class Ground:
    """Where it all falls: a demo, with Redis readers and a Barter client that were there from the start.

    ``reader`` is that of ``VENUE``, ``others`` those of the other venues.
    """

    made: Fire
    reader: Reader
    client: Barter
    others: list[Reader]

    @property
    def readers(self) -> list[Reader]:
        """All of them."""
        return [self.reader, *self.others]

    def at(self, venue: str) -> "Ground":
        """Return the same with the reader of another venue, which is then the one to be struck."""
        reader = next(reader for reader in self.readers if reader.venue == venue)
        return replace(self, reader=reader, others=[each for each in self.readers if each is not reader])

    def inject(self, kind: str, **more: object) -> None:
        """Ask the simulator for a fault, of the venue that is watched."""
        self.made.control.post("fault", {"kind": kind, "venue": self.reader.venue, **more})

    def until(self, what: str, probe: Callable[[], object], within_s: float = 15.0) -> None:
        """Await, and say what is known when it does not come."""
        told(self.made, self.reader, what, probe, within_s)

    def flows(self, since_ns: int, what: str = "all flows again") -> None:
        """Wait until every symbol of every venue trades and has a live book, received after ``since_ns``."""
        for reader in self.readers:
            told(self.made, reader, what, lambda reader=reader: reader.flowing(since_ns), BACK_S)

    def all_live(self) -> bool:
        """Whether every item was last said to be live."""
        return self.reader.all_live()

    def trades_whole(self) -> bool:
        """Whether every hole in the trades that was named has been filled: that comes after all is live."""
        open_holes: set[tuple[str | None, str | None, str | None]] = set()
        for _, gap in list(self.reader.gaps):
            if gap.channel == "trade" and gap.last is not None:
                hole = (gap.symbol, gap.first, gap.last)
                open_holes.discard(hole) if gap.filled else open_holes.add(hole)
        return not open_holes

    def drop(self) -> None:
        """Put the connector on a new connection, whose books have never been lost."""
        now = time.time_ns()
        self.inject("drop")
        self.flows(now, "all flows on a new connection")
        self.until("every item is live", self.all_live)

    @contextmanager
    def only(self, symbol: str) -> Iterator[int]:
        """Of other symbols nothing is said but data; then all is live. Yields how many gaps there are.

        Of other venues no gap is told.
        """
        self.until("every item is live", self.all_live)
        self.until("every hole in the trades is filled", self.trades_whole)
        reader = self.reader
        gaps, statuses = len(reader.gaps), len(reader.statuses)
        changes = {each: len(reader.states[each]) for each in reader.symbols}
        elsewhere = [(other, len(other.gaps)) for other in self.others]
        yield gaps
        self.flows(time.time_ns())
        for other, before in elsewhere:
            assert other.gaps[before:] == [], f"{other.venue} suffered"
        for each in reader.symbols:
            assert each == symbol or len(reader.states[each]) == changes[each], f"the book of {each} suffered"
        assert [g for _, g in reader.gaps[gaps:] if g.symbol != symbol] == []
        assert [s for s in reader.statuses[statuses:] if s.symbol != symbol] == []

    def gap(self, channel: str, symbol: str, cause: str, since: int) -> Gap:
        """Wait for such a gap, not one of the first ``since``; return it."""

        def found() -> Gap | None:
            gaps = self.reader.gaps_of(channel, symbol, since)
            return next((gap for gap in gaps if gap.cause == cause and not gap.filled), None)

        self.until(f"a {channel} gap of {symbol}, cause {cause}", found)
        gap = found()
        assert gap is not None
        return gap

    def filled(self) -> None:
        """Wait until no gap of trades is open."""
        self.until("the gaps are filled", lambda: not any(self.reader.holes().values()))

    def count(self, role: str, name: str, **labels: str) -> float:
        """Return the sum of a counter over all of its labels but the given ones."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        rows = self.made.counters(role).items()
        return sum(n for row, n in rows if row.startswith(name + "{") and all(each in row for each in wanted))

    def settle(self) -> None:
        """See ``settle``."""
        settle(self.made, *self.readers)

    def check(self) -> None:
        """Compare everything with the simulator."""
        for reader in self.readers:
            check_reader(self.made, reader)
            check_truth(self.made, reader)
        check_barter(self.made, self.reader, self.client)


@contextmanager
def ground_of(made: Fire) -> Iterator[Ground]:
    """Yield the readers of a demo, once all flows."""
    reader, client = Reader(made), Barter(made)
    ground = Ground(made, reader, client, [Reader(made, venue) for venue in VENUES_SYMBOLS if venue != VENUE])
    try:
        ground.until("a client hears all symbols", lambda: all(client.trades.values()), 20)
        for each in ground.readers:
            told(made, each, "all flows", lambda each=each: each.flowing(0) and each.all_live(), 20)
        yield ground
    finally:
        for each in ground.readers:
            each.over.set()
        client.close()
        for each in ground.readers:
            each.close()
