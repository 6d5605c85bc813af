"""Scenario 4: the forwarder, the master, or both killed while events come in; and the master away for long.

``events`` and ``books`` are those of an undisturbed fold of generated frames, written as the stages write
them. Afterwards the master's files must hold, by text, every message that the streams give, once and in
order. Views of books may be more than those due at an interval (a lane that has nothing to read tells
what it holds back), but each must be the book at its cursor, and none that was due may be missing.
"""

import random
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any, Final

import orjson
import redis
import structlog

from actors.chaos.recording import Recording, opening
from actors.chaos.report import Report
from actors.chaos.stages import LEASE_TTL_S, PARTITION, Watch, undisturbed
from actors.config import Settings, load
from actors.dialects import ftsobest
from actors.formation import Child, Formation, await_true, free_port
from actors.forwarder import teller_of
from actors.forwarder.tellers import Message, Teller
from actors.master.journal import batches, files
from actors.model import codec
from actors.model.events import SECOND, Book
from actors.simulator.generate import generate
from actors.stages.book import View
from actors.streams.keys import Cursor, Keys, Stream
from actors.streams.partition import Entry

log: Any = structlog.get_logger()

_STREAMS: Final[tuple[Stream, ...]] = ("events", "books")
_EPOCH: Final = 1
_ENTRY: Final = 32  # lines an entry
_STEP_NS: Final = 5_000_000  # between two frames, by their receive time: books begin anew each 10 s of it
_INTERVAL_MS: Final = 50
_DEPTH: Final = 5
_WHO: Final = (("forwarder",), ("master",), ("forwarder", "master"))


@dataclass(frozen=True)
class Plan:
    """How many kills, how many frames a second meanwhile, how long the master is away at the end."""

    kills: int
    frames: int
    frames_per_s: int
    outage_s: float


def config(port: int, folder: Path) -> str:
    """Return the configuration of this scenario."""
    return f"""mode = "demo"
[streams]
lease_ttl_s = {LEASE_TTL_S}
[forwarder]
url = "ws://127.0.0.1:{port}"
protocol = "acked"
connections = 2
depth = {_DEPTH}
update_interval_ms = {_INTERVAL_MS}
[master]
enabled = true
port = {port}
folder = "{folder}"
rotate_bytes = 1048576
[venues.binance]
symbols = ["BTC-USDT", "ETH-USDT", "SOL-USDT"]
ws_url = "ws://127.0.0.1:9"  # nobody connects: the streams are written by this scenario
rest_url = "http://127.0.0.1:9"
"""


def streams_of(seed: int, frames: int) -> dict[Stream, list[bytes]]:
    """Return the lines of ``events`` and ``books`` that so many frames give."""
    generated = generate(seed, frames)
    now = time.time_ns() - 3600 * SECOND  # all of it is past: nothing is held back for its time
    recording = Recording(generated)
    raw = opening(generated, now)
    while lines := recording.take([now := now + _STEP_NS]):
        raw += lines
    folded = undisturbed(PARTITION, raw, has_l1=True)
    return {stream: list(folded[stream]) for stream in _STREAMS}


class Feeder(threading.Thread):
    """Writes both streams at a pace, then, told to, the rest of them."""

    def __init__(self, port: int, keys: Keys, lines: dict[Stream, list[bytes]], per_s: float) -> None:
        super().__init__(daemon=True)
        self._client = redis.Redis(port=port)
        self._keys = keys
        self._lines = lines
        self._share_per_s = per_s / max(map(len, lines.values()))
        self._done = dict.fromkeys(lines, 0)
        self._hurry = threading.Event()

    def run(self) -> None:
        """Write everything; as fast as it goes once ``finish`` was called."""
        begun = time.monotonic()
        while any(self._done[stream] < len(lines) for stream, lines in self._lines.items()):
            share = 1.0 if self._hurry.is_set() else (time.monotonic() - begun) * self._share_per_s
            for stream, lines in self._lines.items():
                self._write(stream, min(len(lines), int(len(lines) * share)))
            self._hurry.wait(0.002)

    def _write(self, stream: Stream, upto: int) -> None:
        while self._done[stream] < upto:
            part = self._lines[stream][self._done[stream] : min(upto, self._done[stream] + _ENTRY)]
            self._done[stream] += len(part)
            fields: dict[Any, Any] = {"n": len(part), "d": b"\n".join(part)}
            self._client.xadd(
                self._keys.stream(PARTITION, stream), fields, id=f"{_EPOCH}-{self._done[stream]}"
            )

    @property
    def at(self) -> dict[Stream, int]:
        """How many lines of each stream are written."""
        return dict(self._done)

    def finish(self) -> None:
        """Write the rest at once and end."""
        self._hurry.set()
        self.join()
        self._client.close()


class Scenario:
    """One run of it."""

    def __init__(self, made: Formation, settings: Settings, report: Report, dice: random.Random) -> None:
        self._made = made
        self._settings = settings
        self._report = report
        self._dice = dice
        self._keys = Keys()
        self._watch = Watch(made, self._keys)
        self._master: Child

    def run(self, plan: Plan) -> None:
        """Feed, strike, take the master away, feed the rest, compare."""
        lines = streams_of(self._report.seed, plan.frames)
        self._master = self._made.run("master")
        for _ in range(2):
            self._made.run("forwarder")
        await_true("the forwarder is registered", lambda: self._at("events") is not None, 30)
        feeder = Feeder(self._made.port, self._keys, lines, plan.frames_per_s)
        feeder.start()
        try:
            self._until_passed(dict.fromkeys(_STREAMS, 1))
            for who in islice(cycle(_WHO), plan.kills):
                self._strike(who, feeder)
            self._outage(plan.outage_s, feeder)
        finally:
            feeder.finish()
        self._until_passed({"events": len(lines["events"])}, 120)
        self._settle(len(lines["books"]))
        self._made.close_actors()
        for stream in _STREAMS:
            self._compare(stream, lines[stream])

    def _at(self, stream: Stream) -> Cursor | None:
        """Return how far the master has come, as the forwarder has stored it."""
        text = self._watch.client.hget(self._keys.cursor(PARTITION, "forwarder"), f"c:{stream}")
        return None if text is None else Cursor.parse(text)

    def _until_passed(self, at: dict[Stream, int], within_s: float = 40.0) -> None:
        def passed(stream: Stream, k: int) -> bool:
            cursor = self._at(stream)
            return cursor is not None and cursor.k >= k

        for stream, k in at.items():
            await_true(f"{stream} {k} is held", lambda stream=stream, k=k: passed(stream, k), within_s)

    def _settle(self, last: int) -> None:
        """Wait until the last views are told: those that were held back come when nothing else does."""
        await_true("all books are told", lambda: (self._at("books") or Cursor(0, 0)).k >= last, 60)

    def _strike(self, who: Sequence[str], feeder: Feeder) -> None:
        victims = [self._victim(role) for role in who]
        time.sleep(self._dice.uniform(0.0, 0.3))
        at, began = feeder.at["events"], time.monotonic()
        for victim in victims:
            victim.kill()
        self._report.kills += len(victims)
        for role in who:
            self._start(role)
        self._until_passed({"events": at})
        self._report.master_recoveries_s.append(time.monotonic() - began)

    def _victim(self, role: str) -> Child:
        if role == "master":
            return self._master
        return await_true("a forwarder holds the lease", lambda: self._watch.holder("forwarder"), 20)

    def _start(self, role: str) -> None:
        child = self._made.run(role)
        if role == "master":
            self._master = child

    def _outage(self, outage_s: float, feeder: Feeder) -> None:
        self._master.kill()
        self._report.kills += 1
        time.sleep(outage_s)
        at = feeder.at["events"]
        self._start("master")
        self._until_passed({"events": at}, 60)

    # -- what came of it

    def _compare(self, stream: Stream, lines: Sequence[bytes]) -> None:
        got = _held(self._made.folder / "master", stream)
        teller = teller_of(self._settings, PARTITION, stream, acked=True)
        due = _told(teller, lines)
        report = self._report
        report.forwarded += len(got)
        if stream == "events":
            expected = [message.said.text.encode() for message in due]
            report.compare(expected, [*enumerate(got, 1)])
            return
        cursors = [_cursor(line) for line in got]
        report.duplicated += len(cursors) - len({*cursors})
        report.reordered += sum(a > b for a, b in pairwise(cursors))
        lost = {message.cursor for message in due} - {*cursors}
        report.lost += len(lost)
        if lost:
            log.error(
                "chaos_differs", what="lost", stream=stream, first=str(min(lost)), last=str(max(cursors))
            )
        truth = _views_at(lines, {cursor.k for cursor in cursors})
        report.books_differing += sum(
            line.decode() != truth.get(cursor.k) for cursor, line in zip(cursors, got, strict=True)
        )


def _held(folder: Path, stream: Stream) -> list[bytes]:
    """Return every message in a stream's files, as it stands there."""
    (place,) = (folder / "acked").glob(f"*/{PARTITION}/{stream}")
    return [line for path in files(place) for _, lines, _ in batches(path.read_bytes()) for line in lines]


def _cursor(line: bytes) -> Cursor:
    return Cursor.parse(orjson.loads(line)["cursor"].rpartition("/")[2])


def _told(teller: Teller, lines: Sequence[bytes]) -> list[Message]:
    told = teller.take(Entry(_EPOCH, len(lines), [*lines]))
    return [message for part in (*told, *teller.waiting(time.time_ns())) for message in part.messages]


def _views_at(lines: Iterable[bytes], ks: set[int]) -> dict[int, str]:
    """Return the message of the book at each of these events."""
    words = ftsobest.Words(PARTITION.venue, acked=True)
    views: dict[str, View] = {}
    found: dict[int, str] = {}
    for k, line in enumerate(lines, 1):
        event = codec.decode(line)
        if isinstance(event, Book) and event.symbol is not None:
            view = views.setdefault(event.symbol, View())
            view.apply(event, k)
            if k in ks and view.state == "live":
                ts = event.ts_recv if event.ts_event is None else event.ts_event
                said = words.book(event.symbol, ts, *view.top(_DEPTH), f"{PARTITION}/books/{_EPOCH}-{k}")
                found[k] = said.text if said is not None else ""
    return found


def run(folder: Path, report: Report, plan: Plan, server: str | None = None) -> None:
    """Run the scenario in ``folder`` and add to ``report``."""
    made = Formation(folder, config(free_port(), folder / "master"), server)
    try:
        made.start_redis()
        settings = load(made.path, {"REDIS_URL": made.url})
        Scenario(made, settings, report, random.Random(report.seed)).run(plan)
    finally:
        made.close()
