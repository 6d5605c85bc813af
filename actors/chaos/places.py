"""What stands in the streams of the simulator's venues, and what the simulator knows of them."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import orjson
import structlog

from actors.chaos.report import Report
from actors.chaos.stages import LEASE_TTL_S, READS, Watch, agrees, numbered, views
from actors.formation import Formation, Unfinished, await_true
from actors.model import codec
from actors.model.events import Cvd, Gap, Level, Trade
from actors.stages.book import View
from actors.stages.normalize.marks import span
from actors.streams.keys import Keys, Partition
from actors.venues import VENUES

log: Any = structlog.get_logger()

_NEWEST: Final = 400  # entries of raw to look for a leg's frames in

Id = int | str  # of a trade: a number where the venue's ids are contiguous, else its text
Tape = Mapping[Id, Mapping[str, str]]


def config(
    simulator: int, venues: Mapping[str, Sequence[str]], also: Mapping[str, str] | None = None, pace: str = ""
) -> str:
    """Return a configuration with short leases, in which nothing is trimmed before it is compared.

    Args:
        simulator: Its port.
        venues: Venue -> symbols.
        also: Venue -> what else its table says.
        pace: What else the simulator's table says.
    """
    head = f"""mode = "demo"
[streams]
lease_ttl_s = {LEASE_TTL_S}
retention_s = 86400
retention_bytes = 4294967296
[simulator]
port = {simulator}
{pace}
"""
    return head + "".join(
        f"""[venues.{venue}]
symbols = {list(symbols)!r}
ws_url = "ws://127.0.0.1:{simulator}/{venue}"
rest_url = "http://127.0.0.1:{simulator}/{venue}"
{(also or {}).get(venue, "")}
"""
        for venue, symbols in venues.items()
    )


class Control:
    """The simulator's control port."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/control"

    def get(self, path: str, **query: object) -> Any:
        """Ask."""
        return self._say("GET", f"{path}?{urlencode({k: v for k, v in query.items() if v is not None})}")

    def post(self, path: str, document: object | None = None) -> Any:
        """Tell."""
        return self._say("POST", path, orjson.dumps(document or {}))

    def delete(self, path: str) -> Any:
        """End something."""
        return self._say("DELETE", path)

    def _say(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = Request(f"{self._base}/{path}", body, method=method)  # noqa: S310 - loopback
        with urlopen(request, timeout=20) as answer:  # noqa: S310
            return orjson.loads(answer.read())

    def book(self, venue: str, symbol: str, **at: int | None) -> tuple[list[Level], list[Level]]:
        """Return the true book, (bids, asks): at ``seq``, as it was told with a time ``ts`` (ns), or now."""
        truth = self.get("truth", venue=venue, symbol=symbol, **at)
        return [(p, s) for p, s in truth["bids"]], [(p, s) for p, s in truth["asks"]]

    def shows(self, venue: str, symbol: str, view: View | None) -> bool:
        """Whether a published book is live and the venue's own, where its last event says that it stands."""
        if view is None or view.event is None:
            return False
        seq, ts = view.event.seq, view.event.ts_event
        return agrees(view, self.book(venue, symbol, seq=seq, ts=ts or 0 if seq is None else None))

    def trades(self, venue: str, symbol: str, first: int | None = None) -> list[dict[str, str]]:
        """Return every trade of the tape, from number ``first`` on."""
        return self.get("tape", venue=venue, symbol=symbol, first=first)["trades"]

    def tape(self, venue: str, symbol: str, first: int) -> dict[int, dict[str, str]]:
        """Return every trade from id ``first`` on, by id, where ids are contiguous."""
        return {int(trade["id"]): trade for trade in self.trades(venue, symbol, first)}

    def last_trades(self, venue: str) -> dict[str, int]:
        """Return the number of each symbol's last trade."""
        symbols = self.get("status")["venues"][venue]["symbols"]
        return {symbol: symbols[symbol]["last_trade"] for symbol in symbols}


class Trades(NamedTuple):
    """What ``events`` says of the trades of one symbol."""

    seen: Counter[Id]  # how often each came
    holes: list[tuple[int, int]]  # ranges of the gaps that are still open
    gaps: int  # how many were ever told


class Place:
    """What stands in the streams of one venue."""

    def __init__(self, venue: str, symbols: Sequence[str], made: Formation, control: Control) -> None:
        self.venue = venue
        self.symbols = symbols
        self.contiguous = VENUES[venue].trade_ids == "contiguous"
        self.watch = Watch(made, Keys(), Partition(venue, 0))
        self._control = control

    def speaks(self, leg: str, after_k: int) -> bool:
        """Whether a leg has written data after number ``after_k`` of raw."""
        mark = f" {leg}.".encode()
        return any(
            entry.k > after_k and any(mark in line[:24] and _is_data(line) for line in entry.lines)
            for entry in self.watch.newest_entries("raw", _NEWEST)
        )

    def apart(self, legs: list[str]) -> bool:
        """Whether no process holds two legs: else its kill would be that of both."""
        owners = [self.watch.leg_owner(leg) for leg in legs]
        return None not in owners and len(set(owners)) == len(owners)

    def folded(self) -> bool:
        """Whether the stages have come to the end of what they read, but for the last ticks."""
        watch = self.watch
        return all(watch.cursor(role).k >= watch.head(stream).k - 2 for role, stream in READS.items())

    def all_trade(self) -> bool:
        """Whether every symbol has traded."""
        return {trade.symbol for trade in self._found() if isinstance(trade, Trade)} == {*self.symbols}

    def _found(self) -> Iterator[Trade | Gap]:
        for _, line in numbered(self.watch.entries("events")):
            if line.startswith((codec.TRADE, b'{"kind":"gap"')):
                event = codec.decode(line)
                if isinstance(event, Trade | Gap):
                    yield event

    def trades(self) -> dict[str, Trades]:
        """Return what ``events`` says of the trades of each symbol."""
        seen: dict[str, Counter[Id]] = {symbol: Counter() for symbol in self.symbols}
        holes: dict[str, list[tuple[int, int]]] = {symbol: [] for symbol in self.symbols}
        gaps: Counter[str] = Counter()
        for event in self._found():
            symbol = event.symbol or ""
            if isinstance(event, Trade):
                seen[symbol].update(self._ids(event))
            elif event.channel == "trade" and symbol in seen:
                gaps[symbol] += not event.filled
                if self.contiguous and event.first and event.last:
                    hole = (int(event.first), int(event.last))
                    holes[symbol].remove(hole) if event.filled else holes[symbol].append(hole)
        return {symbol: Trades(seen[symbol], holes[symbol], gaps[symbol]) for symbol in self.symbols}

    def _ids(self, trade: Trade) -> Iterable[Id]:
        if not self.contiguous:
            return [trade.id]
        first, last = span(trade)
        return range(first, last + 1)

    def tape(self, symbol: str, trades: Trades) -> Tape:
        """Return the venue's trades of a symbol; where ids are contiguous from the first that was seen."""
        if not self.contiguous:
            return {trade["id"]: trade for trade in self._control.trades(self.venue, symbol)}
        return {**self._control.tape(self.venue, symbol, min(int(each) for each in trades.seen))}

    def arrived(self) -> bool:
        """Whether the last trade of each tape has come, or is inside a gap."""
        found = self.trades()
        if not all(trades.seen for trades in found.values()):
            return False
        for symbol, trades in found.items():
            last = [*self.tape(symbol, trades)][-1]
            if last not in trades.seen and not _inside(last, trades.holes):
                return False
        return True

    def filled(self) -> bool:
        """Whether no gap is open."""
        return not any(trades.holes for trades in self.trades().values())

    def books(self) -> dict[str, View]:
        """Return the published books, as a reader of all of ``books`` has them."""
        return views(numbered(self.watch.entries("books")))

    def sums(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Return the last sums of each symbol."""
        events = (codec.decode(line) for _, line in numbered(self.watch.entries("flow")))
        cvds = (event for event in events if isinstance(event, Cvd))
        return {cvd.symbol or "": (Decimal(cvd.delta_base), Decimal(cvd.delta_quote)) for cvd in cvds}

    def compare(self, report: Report) -> None:
        """Compare the trades with the tape, and the sums with the trades."""
        sums = self.sums()
        for symbol, trades in self.trades().items():
            tape, seen = self.tape(symbol, trades), trades.seen
            report.events += seen.total()
            report.gaps += trades.gaps
            report.duplicated += seen.total() - len(seen)
            self._unexplained(report, symbol, "invented", {*seen} - {*tape})
            report.sums_differing += sums.get(symbol) != sums_of(tape[i] for i in seen if i in tape)
            if not self.contiguous:
                continue  # which are missing their ids do not tell
            unnamed = {each for each in {*tape} - {*seen} if not _inside(each, trades.holes)}
            self._unexplained(report, symbol, "missing", unnamed)
            numbers = [int(each) for each in tape]
            torn = {*range(numbers[0], numbers[-1] + 1)} - {*numbers}  # the tape itself is whole
            report.lost += len(torn)
            if torn:
                log.error("chaos_differs", what="tape", venue=self.venue, symbol=symbol, ids=sorted(torn)[:3])

    def _unexplained(self, report: Report, symbol: str, what: str, ids: Collection[Id]) -> None:
        report.unexplained += len(ids)
        if ids:
            first = sorted(ids, key=str)[:3]
            log.error(
                "chaos_differs", what=f"{what} trades", venue=self.venue, symbol=symbol, n=len(ids), ids=first
            )


def all_of(places: Iterable[Place], holds: Callable[[Place], bool]) -> Callable[[], bool]:
    """Return what tells whether something holds of all places."""
    return lambda: all(holds(place) for place in places)


def calm(places: Sequence[Place], control: Control) -> None:
    """Stop the market, and wait until its last trade has come through, and all is folded."""
    control.post("pause")
    await_true("the last trades arrive", all_of(places, Place.arrived), 60, 0.3)
    for place in places:
        try:
            await_true("the gaps are filled", place.filled, 10, 0.3)
        except Unfinished:
            holes = {symbol: trades.holes for symbol, trades in place.trades().items()}
            log.info("chaos_gaps_stay_open", venue=place.venue, gaps=holes)
    time.sleep(1.0)
    await_true("all is folded", all_of(places, Place.folded), 30, 0.1)


def sums_of(trades: Iterable[Mapping[str, str]]) -> tuple[Decimal, Decimal]:
    """Return what the cumulative volume delta of these trades of a tape is, in base and in quote."""
    base = quote = Decimal(0)
    for trade in trades:
        size = Decimal(trade["size"]) * (1 if trade["aggressor"] == "buy" else -1)
        base += size
        quote += size * Decimal(trade["price"])
    return base, quote


def _inside(trade: Id, holes: Iterable[tuple[int, int]]) -> bool:
    return isinstance(trade, int) and any(first <= trade <= last for first, last in holes)


def _is_data(line: bytes) -> bool:
    return b" f {" in line[:60] and b'"data":' in line and b'"channel":"status"' not in line
