"""Recorded frames of Binance spot, served over the URLs of the simulated one.

A recording is JSON lines: ``{"recv_ts": s or null, "dir": "in" | "out" | "http", "url", "raw"}``. All
connections share one clock, as at a venue: it starts a moment after the first subscription, and who
comes later has missed what went before. REST answers do not age: the latest one recorded up to now is
served, or the first. What nobody recorded is what an unknown name is: acknowledged, then silent.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from actors.model.events import MS, SECOND, Channel
from actors.simulator.binance import LIMITS, LISTINGS, NAME, REFUSAL, Gateway, Stream, exchange_info
from actors.simulator.faults import Faults
from actors.simulator.generate import Generated
from actors.simulator.house import House
from actors.simulator.market import Listing
from actors.simulator.session import Edit, Reply

SETTLE_S: Final = 1.0  # chosen: time for the other subscriptions of a client that has just made one
_UNTIMED_S: Final = 0.01  # chosen: what lies between two frames where the recording does not say
_EACH_TIME: Final = 500  # chosen: frames sent at once at most, so that buffers stay small at any speed
_QUOTES: Final = ("USDT", "USDC", "BUSD", "TUSD", "FDUSD", "BTC", "ETH", "BNB", "EUR", "TRY", "BRL", "USD")


class Record(msgspec.Struct, frozen=True):
    """One line of a recording."""

    dir: Literal["in", "out", "http"]
    url: str
    raw: str
    recv_ts: float | None = None


class Timed(NamedTuple):
    """One frame to send: seconds after the start, its stream, its bare payload."""

    at_s: float
    stream: str
    payload: bytes


class Recording(NamedTuple):
    """What a file holds. ``answers``: (path, native symbol) -> when and what, in order."""

    frames: list[Timed]
    answers: dict[tuple[str, str], list[tuple[float, bytes]]]


class RecordingError(Exception):
    """A recording that cannot be served; says file, line and why."""


class _Data(msgspec.Struct):
    e: str = ""
    s: str = ""
    u: int | None = None
    B: str | None = None


_KINDS: Final = {
    "trade": "trade",
    "aggTrade": "aggTrade",
    "depthUpdate": "depth@100ms",
    "24hrTicker": "ticker",
    "24hrMiniTicker": "miniTicker",
}


def read(path: Path) -> Recording:
    """Return a recording.

    Raises:
        RecordingError: The file cannot be read, or a line of it.
    """
    frames: list[Timed] = []
    answers: dict[tuple[str, str], list[tuple[float, bytes]]] = {}
    began: float | None = None
    at = 0.0
    try:
        lines = path.read_bytes().splitlines()
    except OSError as e:
        raise RecordingError(f"{path}: {e.strerror or e}") from e
    for number, line in enumerate(lines, 1):
        try:
            record = msgspec.json.decode(line, type=Record)
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            raise RecordingError(f"{path}, line {number}: {e}") from e
        if record.recv_ts is None:
            at += _UNTIMED_S
        else:
            began = record.recv_ts - at if began is None else began
            at = max(at, record.recv_ts - began)
        if record.dir == "http":
            url = urlsplit(record.url)
            key = url.path, dict(parse_qsl(url.query)).get("symbol", "")
            answers.setdefault(key, []).append((at, record.raw.encode()))
        elif record.dir == "in" and (frame := _frame(at, record)):
            frames.append(frame)
    return Recording(frames, answers)


def paced(recording: Recording, frames_per_s: float) -> Recording:
    """Return the recording with its frames evenly spaced, and its answers still between the same two."""
    times = [frame.at_s for frame in recording.frames]
    frames = [frame._replace(at_s=n / frames_per_s) for n, frame in enumerate(recording.frames)]
    answers = {
        key: [(bisect_left(times, at) / frames_per_s, body) for at, body in rows]
        for key, rows in recording.answers.items()
    }
    return Recording(frames, answers)


def written(generated: Generated) -> Iterator[bytes]:
    """Yield the lines of a recording of generated frames: cheap to serve at any pace."""
    rest = "https://api.binance.com/api/v3"
    yield _line("http", f"{rest}/exchangeInfo", generated.exchange_info)
    natives = {listing.symbol: listing.native for listing in LISTINGS}
    for symbol, body in generated.snapshots.items():
        yield _line("http", f"{rest}/depth?symbol={natives[symbol]}&limit=1000", body)
    for frame in generated.frames:
        yield _line("in", "wss://stream.binance.com:9443/stream", frame)


def _line(direction: Literal["in", "http"], url: str, raw: bytes) -> bytes:
    return msgspec.json.encode(Record(direction, url, raw.decode())) + b"\n"


_DATA: Final = b',"data":'


def _frame(at: float, record: Record) -> Timed | None:
    raw = record.raw.encode()
    if raw.startswith(b'{"stream":"'):
        name, found, payload = raw[len(b'{"stream":"') :].partition(b'"' + _DATA)
        return Timed(at, name.decode(), payload[:-1]) if found else None
    try:
        data = msgspec.json.decode(raw, type=_Data)
    except msgspec.MsgspecError:
        return None  # an array or an answer: of no single stream
    kind = _KINDS.get(data.e)
    if kind is None and data.u is not None and data.B is not None:
        kind = "bookTicker"
    return Timed(at, f"{data.s.lower()}@{kind}", raw) if kind and data.s else None


def _channel(kind: str) -> Channel:
    if kind.startswith("depth"):
        return "book"
    if kind == "bookTicker":
        return "l1"
    return "ticker" if kind.endswith("icker") else "trade"


def _row(native: str) -> Listing:
    known = next((each for each in LISTINGS if each.native == native), None)
    if known is not None:
        return known
    quote = next((quote for quote in _QUOTES if native.endswith(quote) and native != quote), "")
    base = native.removesuffix(quote)  # a recording without its instrument list leaves only the guess
    return Listing(
        venue=NAME,
        symbol=f"{base}-{quote}",
        native=native,
        base=base,
        quote=quote,
        price_step="0.00000001",
        size_step="0.00000001",
    )


class Replay:
    """The venue that serves a recording.

    Attributes:
        speed: 2.0 is twice as fast as recorded; 0 as fast as it goes.
        position: How many frames have been sent, of ``total``.
    """

    def __init__(self, recording: Recording, faults: Faults, speed: float = 1.0) -> None:
        self.edits: dict[str, Edit] = {}
        self.speed = speed
        self.position = 0
        self.total = len(recording.frames)
        self.paused = False
        self._frames = recording.frames
        self._answers = recording.answers
        self._elapsed = 0.0  # recorded seconds
        self._last: int | None = None
        self._start: int | None = None
        self._streams: dict[str, Stream] = {}
        natives = {symbol for _, symbol in recording.answers if symbol}
        natives |= {frame.stream.partition("@")[0].upper() for frame in recording.frames}
        self._rows = {native: _row(native) for native in sorted(natives)}
        for name in {frame.stream: None for frame in recording.frames}:
            native, _, kind = name.partition("@")
            self._streams[name] = Stream(name, _channel(kind), self._rows[native.upper()].symbol)
        # Its shops are empty: a recording does not know the truth.
        self.house = House(NAME, LIMITS, faults, [*self._rows.values()])
        self._gateway = Gateway(self.house, self._streams)
        self.open = self._gateway.open
        self.receive = self._gateway.receive
        self.hurried = self._gateway.hurried
        self.announce = self._gateway.announce

    def publish(self, now: int) -> None:
        """Send the frames that are due."""
        if self._start is None:
            if not self._gateway.asked:
                return
            self._start = now + int(SETTLE_S * SECOND)
        if now < self._start or self.paused:
            self._last = now
            return
        if self._last is not None:
            self._elapsed += (now - self._last) / SECOND * self.speed
        self._last = now
        for frame in self._frames[self.position : self.position + _EACH_TIME]:
            if self.speed and frame.at_s > self._elapsed:
                break
            self._streams[frame.stream].say(lambda _unit, payload=frame.payload: payload)
            self.position += 1

    def rest(self, path: str, query: Mapping[str, str], now: int) -> Reply:
        """Answer as recorded; the instrument list is made up where there is none."""
        native = query.get("symbol", "")
        answer = partial(self._answer, path, native)
        return self.house.answer({path: answer}, path, query, now, native=native, refusal=REFUSAL)

    def _answer(self, path: str, native: str, _query: Mapping[str, str], now: int) -> Reply:
        rows = self._answers.get((path, native))
        if rows is not None:
            index = bisect_right(rows, self._elapsed, key=lambda row: row[0])
            return Reply(200, rows[max(0, index - 1)][1])
        match path:
            case "/api/v3/ping":
                return Reply(200, b"{}")
            case "/api/v3/time":
                return Reply(200, b'{"serverTime":%d}' % (now // MS))
            case "/api/v3/exchangeInfo":
                info = exchange_info(self._rows.values(), self.house.limits["weight_per_minute"], now)
                return Reply(200, info)
            case _:
                return Reply(400, b'{"code":-1121,"msg":"Invalid symbol."}')
