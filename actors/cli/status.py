"""``tapeline status``: who does what, how far behind, and what is not as it should be. Reads Redis only."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import orjson

from actors.cli.session import Session, within
from actors.config import VenueSettings
from actors.model import codec
from actors.model.events import STALE_S, Channel, Status
from actors.model.instruments import shard
from actors.stages.connections import Ledger
from actors.stages.normalize import Normalize
from actors.streams.client import hot
from actors.streams.keys import START, Cursor, Partition, Stream, legs, partitions
from actors.streams.partition import closing, entry_of
from actors.streams.wire import Hot
from actors.venues import VENUES
from actors.venues.base import items_of

_PAGE: Final = 256  # entries of events to read at once
_PAGES: Final = 40  # chosen: how far back to look for what the last checkpoint does not know
_STATUS: Final = codec.prefix("status")
_INPUT: Final[dict[str, Stream]] = {"normalizer": "raw", "bookbuilder": "events", "analytics": "events"}
_NEEDED: Final = ("normalizer", "bookbuilder", "analytics")
_LISTED: Final = ("wanted", "subscribed", "live")  # said of no symbol that the venue does not list
_MEMBERS: Final = ("connector", "normalizer", "bookbuilder", "analytics", "broadcaster")


class Instance(msgspec.Struct, frozen=True):
    """One living process."""

    role: str
    instance: str
    host: str
    pid: int
    metrics: str | None


class Lag(msgspec.Struct, frozen=True):
    """How far a stage is behind its input; ``seconds``: age of the first event it has not folded."""

    events: int
    seconds: float


class Place(msgspec.Struct, frozen=True):
    """One partition. ``owners``: lease -> instance, None where nobody holds it."""

    partition: str
    owners: dict[str, str | None]
    lag: dict[str, Lag]
    seconds_since_event: float | None


class Market(msgspec.Struct, frozen=True):
    """One venue. ``channels``: channel -> state -> how many symbols; ``books``: state -> how many."""

    state: str
    reason: str
    channels: dict[Channel, dict[str, int]]
    books: dict[str, int]


class Report(msgspec.Struct, frozen=True):
    """Everything; ``problems`` is empty when all that is configured is live."""

    ok: bool
    mode: str
    problems: list[str]
    instances: list[Instance]
    partitions: list[Place]
    venues: dict[str, Market]


class _Told(msgspec.Struct):
    """The part of the normalizer's checkpoint that says how the channels are."""

    ledger: Ledger = msgspec.field(default_factory=Ledger)
    unknown: dict[str, str] = {}
    now: int = 0


class _Channels(msgspec.Struct):
    """What is known of a partition's channels: item -> (state, reason); and what was said of all of it.

    ``refused``: symbol -> why, of those that the venue does not list.
    """

    items: dict[tuple[Channel, str], tuple[str, str]] = {}
    refused: dict[str, str] = {}
    down: str = ""


def show(config: Path | None, env: Mapping[str, str], *, as_json: bool) -> int:
    """Print the report; return 1 when something configured is not live.

    Raises:
        ConfigError: The configuration cannot be used.
    """

    async def work(session: Session) -> int:
        report = await gather(session)
        if as_json:
            sys.stdout.buffer.write(orjson.dumps(msgspec.to_builtins(report)) + b"\n")
        else:
            _print(report)
        return 0 if report.ok else 1

    return within(config, env, "status", work)


async def gather(session: Session) -> Report:
    """Look at everything and judge it."""
    settings = session.settings
    now_ms = await session.now_ms()
    instances = [i for role in _MEMBERS for i in await _members(session, role, now_ms)]
    places: list[Place] = []
    channels: dict[str, list[_Channels]] = {}
    books: dict[str, Counter[str]] = {}
    for partition in partitions(settings):
        key = session.keys.stream(partition, "events")
        async with closing(await hot(settings, key)) as connection:
            look = _Look(session, connection, partition, now_ms)
            place = await look.place()
            places.append(place)
            channels.setdefault(partition.venue, []).append(await look.channels())
            counted = books.setdefault(partition.venue, Counter())
            counted.update(await look.books(place))
    markets = {
        name: market(name, settings.venues[name], told, books[name]) for name, told in channels.items()
    }
    problems = judge(instances, places, markets)
    return Report(not problems, settings.mode, problems, instances, places, markets)


async def _members(session: Session, role: str, now_ms: int) -> list[Instance]:
    found = cast("dict[bytes, bytes]", await cast("Any", session.client).hgetall(session.keys.members(role)))
    living: list[Instance] = []
    for name, text in sorted(found.items()):
        member: dict[str, Any] = orjson.loads(text)
        if int(member["until"]) > now_ms:
            living.append(
                Instance(role, name.decode(), str(member["host"]), int(member["pid"]), member.get("metrics"))
            )
    return living


class _Look:
    """One partition, through one connection."""

    def __init__(self, session: Session, connection: Hot, partition: Partition, now_ms: int) -> None:
        self._keys = session.keys
        self._hot = connection
        self._partition = partition
        self._venue = session.settings.venues[partition.venue]
        self._legs = legs(session.settings, partition.venue)
        self._now_ms = now_ms

    async def place(self) -> Place:
        """Return owners and lags."""
        leases = [("connector", leg) for leg in self._legs]
        leases += [(role, None) for role in (*_NEEDED, "publisher")]
        held = await self._hot.pipeline(
            [
                ("HMGET", self._keys.lease(self._partition, role, leg), "owner", "until")
                for role, leg in leases
            ]
        )
        owners: dict[str, str | None] = {}
        for (role, leg), (owner, until) in zip(leases, held, strict=True):
            name = role if leg is None else f"{role}:{leg}"
            owners[name] = None if owner is None or int(until) <= self._now_ms else owner.decode()
        lag = {role: await self._lag(role, stream) for role, stream in _INPUT.items()}
        newest = await self._newest("events")
        age = None if newest is None else self._age_s(codec.decode(newest).ts_recv)
        return Place(str(self._partition), owners, lag, age)

    def _age_s(self, ns: int) -> float:
        return max(0.0, round(self._now_ms / 1000 - ns / 1e9, 3))

    async def _newest(self, stream: Stream) -> bytes | None:
        found = await self._hot.call(
            "XREVRANGE", self._keys.stream(self._partition, stream), "+", "-", "COUNT", 1
        )
        return entry_of(*found[0]).lines[-1] if found else None

    async def _lag(self, role: str, stream: Stream) -> Lag:
        key = self._keys.stream(self._partition, stream)
        at, last = await self._hot.pipeline(
            [
                ("HGET", self._keys.cursor(self._partition, role), f"c:{stream}"),
                ("XREVRANGE", key, "+", "-", "COUNT", 1),
            ]
        )
        cursor = START if at is None else Cursor.parse(at)
        head = Cursor.parse(last[0][0]).k if last else 0
        behind = max(0, head - cursor.k)
        if not behind:
            return Lag(0, 0.0)
        unread = await self._hot.call("XRANGE", key, f"({cursor}", "+", "COUNT", 1)
        if not unread:
            return Lag(behind, 0.0)
        line = entry_of(*unread[0]).lines[0]
        ns = int(line.partition(b" ")[0]) if stream == "raw" else codec.decode(line).ts_recv
        return Lag(behind, self._age_s(ns))

    async def channels(self) -> _Channels:
        """Return what the normalizer last said: its checkpoint, and what it has written since."""
        form, blob = await self._hot.call(
            "HMGET", self._keys.state(self._partition, "normalizer"), "format", "blob"
        )
        known = _Channels()
        since = 0
        if blob is not None and int(form) == Normalize.FORMAT:
            told = msgspec.msgpack.decode(blob, type=_Told)
            since = told.now
            known.items = {item: (state, "") for item, state in told.ledger.told.items()}
            known.refused = told.unknown
            known.down = "; ".join(reason for reason in told.ledger.legs.values() if reason)
        for event in reversed(await self._statuses(since)):
            _note(known, event, since)
        return known

    async def _statuses(self, since: int) -> list[Status]:
        """Return what was said after ``since`` (fold time), newest first, as far back as we care to look."""
        key = self._keys.stream(self._partition, "events")
        found: list[Status] = []
        end = "+"
        for _ in range(_PAGES):
            page = await self._hot.call("XREVRANGE", key, end, "-", "COUNT", _PAGE)
            for entry in (entry_of(*fields) for fields in page):
                for line in reversed(entry.lines):
                    if line.startswith(_STATUS):
                        event = codec.decode(line)
                        assert isinstance(event, Status)  # noqa: S101 - by its kind
                        found.append(event)
            if len(page) < _PAGE or codec.decode(entry_of(*page[-1]).lines[0]).ts_recv < since:
                break
            end = f"({page[-1][0].decode()}"
        return found

    async def books(self, place: Place) -> Counter[str]:
        """Return state -> how many books; nothing that stands in Redis is live when time stands still."""
        mine = [s for s in self._venue.symbols if shard(s, self._venue.shards) == self._partition.shard]
        if "book" not in _channels(self._partition.venue, self._venue):
            return Counter()
        old = place.seconds_since_event is None or place.seconds_since_event > STALE_S
        states: Counter[str] = Counter()
        for symbol in mine:
            text = await self._hot.call("GET", self._keys.latest(self._partition, "book", symbol))
            state = "absent" if text is None else str(orjson.loads(text)["state"])
            states["stale" if old and state == "live" else state] += 1
        return states


def _note(known: _Channels, event: Status, since: int) -> None:
    if event.channel is not None and event.symbol is not None:
        state, _ = known.items.get((event.channel, event.symbol), ("", ""))
        if event.ts_recv > since or state == event.state:
            known.items[event.channel, event.symbol] = (event.state, event.reason)
            if event.ts_recv > since and event.state in _LISTED:
                known.refused.pop(event.symbol, None)
    elif event.ts_recv <= since or event.channel is not None:
        return  # the checkpoint knows better
    elif event.state == "refused" and event.symbol is not None:
        known.refused[event.symbol] = event.reason
    elif event.state == "down":
        known.down = event.reason


def _channels(name: str, venue: VenueSettings) -> list[Channel]:
    return sorted(VENUES[name].channels if venue.channels is None else venue.channels)


def healthy(name: str, channel: Channel) -> frozenset[str]:
    """Return the states in which a channel of a venue is as it should be.

    One that may be silent for ever (liquidations, say) says no more than that it was acknowledged.
    """
    venue = VENUES[name]
    watched = channel in venue.silence_s or channel in venue.first_s
    return frozenset(("live",)) if watched else frozenset(("live", "subscribed"))


def market(name: str, venue: VenueSettings, told: Sequence[_Channels], books: Mapping[str, int]) -> Market:
    """Return how a venue is, from what is known of its partitions."""
    items = {item: state for part in told for item, state in part.items.items()}
    refused = {symbol: why for part in told for symbol, why in part.refused.items()}
    states: dict[Channel, dict[str, int]] = {}
    reasons: Counter[str] = Counter()
    everything: Counter[str] = Counter()
    for channel in _channels(name, venue):
        counted: Counter[str] = Counter()
        fine = healthy(name, channel)
        for item in items_of(venue.symbols, [channel]):
            why = refused.get(item[1])
            state, reason = items.get(item, ("unknown", "")) if why is None else ("refused", why)
            counted[state] += 1
            everything["fine" if state in fine else "not"] += 1
            if state not in fine and reason:
                reasons[reason] += 1
        states[channel] = dict(counted)
    down = next((part.down for part in told if part.down), "")
    if not everything["not"]:
        return Market("live", "", states, dict(books))
    state = "down" if not everything["fine"] else "partly live"
    reason = down if down and not everything["fine"] else next(iter(dict(reasons.most_common(1))), down)
    return Market(state, reason or "nothing is known yet", states, dict(books))


def judge(
    instances: Sequence[Instance],
    places: Sequence[Place],
    markets: Mapping[str, Market],
) -> list[str]:
    """Return everything that is configured and not live, as sentences."""
    problems = [
        f"{place.partition}: nobody holds the lease of {lease}"
        for place in places
        for lease, owner in place.owners.items()
        if owner is None and lease != "publisher"
    ]
    if not any(instance.role == "broadcaster" for instance in instances):
        problems.append("no broadcaster runs")
    for place in places:
        age = place.seconds_since_event
        if age is None or age > STALE_S:
            since = "no event yet" if age is None else f"the last event is {age:.0f} s old"
            problems.append(f"{place.partition}: {since}")
    for name, venue in markets.items():
        if venue.state != "live":
            problems.append(f"{name} is {venue.state}: {venue.reason}")
        for channel, states in venue.channels.items():
            fine = healthy(name, channel)
            problems += [
                f"{name} {channel}: {n} of {sum(states.values())} symbols {state}"
                for state, n in states.items()
                if state not in fine and venue.state != "down"
            ]
        problems += [f"{name}: {n} books {state}" for state, n in venue.books.items() if state != "live"]
    return problems


def _print(report: Report) -> None:
    from rich.console import Console  # noqa: PLC0415 - --json needs none of it
    from rich.table import Column, Table  # noqa: PLC0415

    def table(title: str, *names: str) -> Table:
        return Table(*(Column(name, overflow="fold") for name in names), title=title)

    console = Console()
    venues = table("Venues", "venue", "state", "channels (well / all)", "books live", "reason")
    for name, venue in report.venues.items():
        counts = "\n".join(
            f"{channel} {sum(states.get(s, 0) for s in healthy(name, channel))}/{sum(states.values())}"
            for channel, states in venue.channels.items()
        )
        live = f"{venue.books.get('live', 0)}/{sum(venue.books.values())}"
        venues.add_row(name, venue.state, counts, live, venue.reason)
    places = table("Partitions", "partition", "lease", "owner", "lag, events", "lag, s")
    for place in report.partitions:
        for lease, owner in place.owners.items():
            lag = place.lag.get(lease)
            behind = ("", "") if lag is None else (str(lag.events), f"{lag.seconds:.1f}")
            places.add_row(place.partition, lease, owner or "nobody", *behind)
    instances = table("Instances", "instance", "metrics")
    for instance in report.instances:
        instances.add_row(instance.instance, instance.metrics or "none")
    for shown in (venues, places, instances):
        console.print(shown)
    for problem in report.problems:
        console.print(f"not as it should be: {problem}", style="yellow", markup=False, soft_wrap=True)
    if report.ok:
        console.print("all that is configured is live", style="green")
