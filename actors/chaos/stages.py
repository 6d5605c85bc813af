"""Scenario 1: two instances of each stage on one ``raw`` stream, struck while they work.

Lease holders are killed, or stopped past their lease; the server is killed under them. Every output is
compared, number and text, with an undisturbed fold of the very same ``raw``, as far as it was folded; the
whole recording must have been.
"""

import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Final, NamedTuple, cast

import anyio
import structlog

from actors.chaos.recording import LEG, Recording, opening
from actors.chaos.report import Report
from actors.config import Settings, load
from actors.formation import Child, Formation, await_true
from actors.model import codec
from actors.model.events import Book, Level
from actors.simulator.generate import Generated, generate
from actors.stages.book import View
from actors.stages.bookbuild import Bookbuild
from actors.stages.cvd import CumulativeDelta
from actors.stages.fold import Fold, Output
from actors.stages.normalize import Normalize
from actors.streams.client import connect, hot
from actors.streams.keys import Cursor, Keys, Partition, Stream
from actors.streams.lease import Lease
from actors.streams.partition import Appender, Entry, entry_of
from actors.venues import VENUES

log = structlog.get_logger()

PARTITION: Final = Partition("binance", 0)
READS: Final[dict[str, Stream]] = {"normalizer": "raw", "bookbuilder": "events", "analytics": "events"}
WRITES: Final[dict[str, Stream]] = {"normalizer": "events", "bookbuilder": "books", "analytics": "flow"}
LEASE_TTL_S: Final = 0.5
_BATCH: Final = 64  # small entries: more places to be killed at
_HELD_S: Final = LEASE_TTL_S / 5  # chosen: long before its lease is another's
_LONG_LEASE_S: Final = 3600.0  # the recording's own leg never dies


class Kill(NamedTuple):
    """One blow: which role's owner, and by what."""

    role: str
    how: str  # kill, stop, redis


@dataclass(frozen=True)
class Plan:
    """How much of it."""

    events: int
    kills: int
    stops: int
    redis_kills: int


def config() -> str:
    """Return the configuration of this scenario: short leases, nothing trimmed before it is compared."""
    return f"""mode = "demo"
[streams]
lease_ttl_s = {LEASE_TTL_S}
retention_s = 86400
retention_bytes = 4294967296
[venues.binance]
symbols = ["BTC-USDT", "ETH-USDT", "SOL-USDT"]
channels = ["trade", "book", "l1"]
ws_url = "ws://127.0.0.1:9"  # nobody connects: the frames are recorded
rest_url = "http://127.0.0.1:9"
"""


class Feed:
    """The leg that appends the recording, batch by batch."""

    def __init__(self, appender: Appender, generated: Generated) -> None:
        self._appender = appender
        self._generated = generated
        self._recording = Recording(generated)
        self._one_at_a_time = anyio.Lock()  # lines must be appended as they were taken

    async def begin(self) -> None:
        """Append what comes before the first frame."""
        await self._appender.append(opening(self._generated, time.time_ns()))

    async def push(self, frames: int) -> bool:
        """Append about so many frames; False when there are none left."""
        for _ in range(max(1, frames // _BATCH)):
            async with self._one_at_a_time:
                lines = self._recording.take([time.time_ns()] * _BATCH)
                if not lines:
                    return False
                await self._appender.append(lines)
        return True


class Watch:
    """What the streams and leases say, asked by a plain client."""

    def __init__(self, made: Formation, keys: Keys, partition: Partition = PARTITION) -> None:
        self.partition = partition
        self._made = made
        self._keys = keys
        self.client = made.client()

    def owner(self, role: str) -> str | None:
        """Return who holds the role's lease now."""
        return self._owner(self._keys.lease(self.partition, role))

    def leg_owner(self, leg: str) -> str | None:
        """Return who holds a connector's leg now."""
        return self._owner(self._keys.lease(self.partition, "connector", leg))

    def _owner(self, key: str) -> str | None:
        owner, until = self.client.hmget(key, ["owner", "until"])
        seconds, micros = self.client.time()
        alive = until is not None and int(until) > seconds * 1000 + micros // 1000
        return owner if alive else None

    def holder(self, role: str) -> Child | None:
        """Return the living child that holds the role's lease."""
        owner = self.owner(role)
        child = self._made.child_of(owner) if owner else None
        return child if child is not None and child.running else None

    def cursor(self, role: str) -> Cursor:
        """Return how far the role has come in its input."""
        text = self.client.hget(self._keys.cursor(self.partition, role), f"c:{READS[role]}")
        return Cursor.parse(text) if text else Cursor(0, 0)

    def head(self, stream: Stream) -> Cursor:
        """Return the last number of a stream."""
        last = self.client.xrevrange(self._keys.stream(self.partition, stream), count=1)
        return Cursor.parse(last[0][0]) if last else Cursor(0, 0)

    def newest_entries(self, stream: Stream, count: int) -> list[Entry]:
        """Return the last entries of a stream, newest first."""
        rows = self.client.xrevrange(self._keys.stream(self.partition, stream), count=count)
        return [_entry(row) for row in rows]

    def entries(self, stream: Stream) -> list[Entry]:
        """Return the whole stream."""
        found: list[Entry] = []
        start = "-"
        key = self._keys.stream(self.partition, stream)
        while rows := self.client.xrange(key, min=start, count=500):
            found += [_entry(row) for row in rows]
            start = f"({rows[-1][0]}"
        return found


def _entry(row: tuple[str, dict[str, str]]) -> Entry:
    identity, fields = row
    return entry_of(identity.encode(), [b"n", fields["n"].encode(), b"d", fields["d"].encode()])


def numbered(entries: Iterable[Entry]) -> list[tuple[int, bytes]]:
    """Return (k, line) of every event."""
    return [(entry.first + i, line) for entry in entries for i, line in enumerate(entry.lines)]


def compare(
    watch: Watch, report: Report, *, has_l1: bool, audit_s: int | None = None
) -> dict[Stream, list[Entry]]:
    """Compare all that the stages, which have ended, wrote with one fold of what they have folded.

    Ticks come to the last moment: one that no stage has folded is nothing that it has lost. Returns the
    entries of all streams.
    """
    streams: tuple[Stream, ...] = ("raw", *WRITES.values())
    entries: dict[Stream, list[Entry]] = {stream: watch.entries(stream) for stream in streams}
    ends = {role: watch.cursor(role).k for role in READS}
    raw = (line for _, line in numbered(entries["raw"]))
    expected = undisturbed(watch.partition, raw, has_l1=has_l1, ends=ends, audit_s=audit_s)
    for stream, lines in expected.items():
        report.compare(lines, numbered(entries[stream]))
    return entries


def undisturbed(
    partition: Partition,
    lines: Iterable[bytes],
    *,
    has_l1: bool,
    ends: Mapping[str, int] | None = None,
    audit_s: int | None = None,
) -> dict[Stream, list[bytes]]:
    """Fold ``raw`` in one go, in this process, and return what the streams made of it must be.

    ``ends``: how many events of its input each role has folded; all of them where it is not given.
    ``audit_s``: as configured.
    """
    venue = VENUES[partition.venue]
    normalize = Normalize(venue, str(partition))
    bookbuild = Bookbuild(venue.name, venue.book_rule.audited(audit_s), has_l1=has_l1)
    analytics = CumulativeDelta(venue.name)
    first = Output(("events", "control", "dead"))
    second = Output(("books", "control", "dead"))
    third = Output(("flow", "dead"))

    def fold(role: str, stage: Fold, given: Iterable[bytes], out: Output) -> None:
        for k, line in enumerate(given, 1):
            if ends is not None and k > ends[role]:
                break
            stage.fold(k, line, out)

    fold("normalizer", normalize, lines, first)
    events = first.lines["events"]
    fold("bookbuilder", bookbuild, events, second)
    fold("analytics", analytics, events, third)
    return {"events": events, "books": second.lines["books"], "flow": third.lines["flow"]}


def views(lines: Iterable[tuple[int, bytes]]) -> dict[str, View]:
    """Fold the published books as a reader would."""
    books: dict[str, View] = {}
    for k, line in lines:
        event = codec.decode(line)
        if isinstance(event, Book):
            books.setdefault(cast("str", event.symbol), View()).apply(event, k)
    return books


def agrees(view: View | None, truth: tuple[list[Level], list[Level]]) -> bool:
    """Whether a published book is live and, as deep as it goes (20 levels or more), the true one."""
    return (
        view is not None
        and view.state == "live"
        and all(
            len(mine) >= min(20, len(theirs)) and mine == theirs[: len(mine)]
            for mine, theirs in zip(view.levels, truth, strict=True)
        )
    )


class Zombies:
    """Owners that were stopped past their lease: nothing of theirs may be written after the takeover."""

    def __init__(self) -> None:
        self._deposed: list[tuple[Stream, int, int]] = []

    def depose(self, watch: Watch, role: str) -> None:
        """Note where the streams are just after another owner took over."""
        stream = WRITES[role]
        head = watch.head(stream)
        epoch = int(watch.client.hget(f"tl:{{{PARTITION}}}:lease:{role}", "epoch") or 0)
        self._deposed.append((stream, epoch, head.k))

    def accepted(self, entries: dict[Stream, list[Entry]]) -> int:
        """Count the entries that an earlier epoch wrote after its successor's takeover."""
        return sum(
            entry.epoch < epoch and entry.k > k
            for stream, epoch, k in self._deposed
            for entry in entries[stream]
        )


class Scenario:
    """One run of it."""

    def __init__(self, made: Formation, settings: Settings, report: Report, dice: random.Random) -> None:
        self._made = made
        self._keys = Keys(settings.redis.prefix, settings.redis.pubsub_prefix)
        self._settings = settings
        self._report = report
        self._dice = dice
        self._watch = Watch(made, self._keys)
        self._zombies = Zombies()

    async def run(self, plan: Plan) -> None:
        """Feed, strike, feed the rest, wait until all is folded, compare."""
        generated = generate(self._report.seed, plan.events)
        for role in (*READS, *READS):
            self._made.run(role)
        client = await connect(self._settings, "chaos")
        lease = Lease(
            client, self._keys, PARTITION, role="connector", leg=LEG, owner="chaos", ttl_s=_LONG_LEASE_S
        )
        if not await lease.take():
            raise RuntimeError("the recording's leg is another's")
        wire = await hot(self._settings, self._keys.stream(PARTITION, "raw"))
        appender = await Appender.open(wire, self._keys, PARTITION, LEG, lease)
        feed = Feed(appender, generated)
        await feed.begin()
        await self._strike_all(plan, feed)
        while await feed.push(2048):
            await self._until("the stages keep up", lambda: self._lag("normalizer") < 20_000)
        head = self._watch.head("raw").k
        await self._until("raw is folded", lambda: self._watch.cursor("normalizer").k >= head, 120)
        head = self._watch.head("events").k
        await self._until(
            "events are folded",
            lambda: all(self._watch.cursor(role).k >= head for role, s in READS.items() if s == "events"),
            120,
        )
        await wire.aclose()
        await client.aclose()
        self._made.close_actors()
        self._compare(generated)

    async def _strike_all(self, plan: Plan, feed: Feed) -> None:
        blows = [Kill(role, "kill") for role in islice(cycle(READS), plan.kills)]
        blows += [Kill(self._dice.choice(list(READS)), "stop") for _ in range(plan.stops)]
        blows += [Kill(self._dice.choice(list(READS)), "redis") for _ in range(plan.redis_kills)]
        self._dice.shuffle(blows)
        burst = max(_BATCH, int(plan.events * 0.95 / (len(blows) * 1.1)))
        for i, blow in enumerate(blows, 1):
            for _ in range(20):
                if await self._strike(blow, feed, burst):
                    break
            else:
                raise RuntimeError(f"{blow}: its owner never had unread input; feed faster")
            if i % 20 == 0:
                log.info("chaos", blows=i, of=len(blows))

    async def _strike(self, blow: Kill, feed: Feed, burst: int) -> bool:
        """Strike while the burst comes in; tell whether there was unread input."""
        role = blow.role
        await self._until(f"{role} has an owner", lambda: self._watch.holder(role) is not None)
        struck: list[tuple[Child | None, float, Cursor, bool]] = []
        async with anyio.create_task_group() as tg:
            tg.start_soon(feed.push, burst)
            await anyio.sleep(self._dice.uniform(0.0, 0.03))
            await self._hold(blow, feed)
            victim, at = self._blow(blow), time.monotonic()
            cursor = self._watch.cursor(role)  # now: by the end of the burst another owner may have read it
            struck.append((victim, at, cursor, self._watch.head(READS[role]).k > cursor.k))
        victim, at, cursor, unread = struck[0]
        if blow.how == "stop" and victim is not None:
            await self._until(
                f"another {role} takes over", lambda: self._watch.holder(role) not in (None, victim)
            )
            self._zombies.depose(self._watch, role)
            await feed.push(burst // 4)
            victim.process.send_signal(signal.SIGCONT)  # the zombie wakes and tries to commit what it had
        if not unread and blow.how != "redis":
            return False
        await self._until(f"{role} goes on", lambda: self._watch.cursor(role) > cursor, 30)
        self._report.recoveries_s.append(time.monotonic() - at)
        self._report.kills += blow.how == "kill"
        self._report.stops += blow.how == "stop"
        self._report.redis_kills += blow.how == "redis"
        return True

    async def _hold(self, blow: Kill, feed: Feed) -> None:
        """Stop the owner where it is, and see to it that there is something that it has not read."""
        owner = None if blow.how == "redis" else self._watch.holder(blow.role)
        if owner is not None:
            owner.process.send_signal(signal.SIGSTOP)
            await feed.push(_BATCH)  # a quick one may have read the whole burst by now
            with anyio.move_on_after(_HELD_S):
                while self._lag(blow.role) == 0:  # noqa: ASYNC110 - other processes move it
                    await anyio.sleep(0.001)

    def _blow(self, blow: Kill) -> Child | None:
        if blow.how == "redis":
            self._made.kill_redis()
            self._made.start_redis()
            return None
        victim = self._watch.holder(blow.role)
        if victim is None:
            return None
        if blow.how == "stop":
            victim.process.send_signal(signal.SIGSTOP)
        else:
            victim.kill()
            self._made.run(blow.role)
        return victim

    def _lag(self, role: str) -> int:
        return self._watch.head(READS[role]).k - self._watch.cursor(role).k

    async def _until(self, what: str, probe: Callable[[], bool], within_s: float = 20.0) -> None:
        await anyio.to_thread.run_sync(lambda: await_true(what, probe, within_s, 0.005))

    def _compare(self, generated: Generated) -> None:
        entries = compare(self._watch, self._report, has_l1=True)
        self._report.events += sum(len(entry.lines) for entry in entries["events"])
        self._report.zombie_commits_accepted += self._zombies.accepted(entries)
        shown = views(numbered(entries["books"]))
        for symbol, (sequence, bids, asks) in generated.books.items():
            view = shown.get(symbol)
            at = None if view is None or view.event is None else view.event.seq
            self._report.books_differing += at != sequence or not agrees(view, (bids, asks))


def run(folder: Path, report: Report, plan: Plan, server: str | None = None) -> None:
    """Run the scenario in ``folder`` and add to ``report``."""
    made = Formation(folder, config(), server)
    try:
        made.start_redis()
        settings = load(made.path, {"REDIS_URL": made.url})
        anyio.run(Scenario(made, settings, report, random.Random(report.seed)).run, plan)
    finally:
        made.close()
