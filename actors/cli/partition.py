"""One partition as it stands in Redis: who owns it, how far behind, its channels and its books."""

from collections.abc import Iterable
from typing import Final

import msgspec
import orjson

from actors.cli.session import Session
from actors.config import Settings
from actors.model import codec
from actors.model.events import STALE_S, Status
from actors.model.instruments import shard
from actors.stages.normalize import Normalize
from actors.stages.normalize.subscriptions import Ledger
from actors.streams.keys import START, Cursor, Keys, Partition, Stream, legs
from actors.streams.partition import entry_of
from actors.streams.wire import Hot
from actors.venues.base import Item

NEEDED: Final = ("normalizer", "bookbuilder", "analytics")
OPTIONAL: Final = frozenset({"publisher"})  # a lease that a broadcaster takes when somebody listens

_PAGE: Final = 256  # entries of events to read at once
_PAGES: Final = 40  # chosen: how far back to look for what the last checkpoint does not know
_REASON_PAGES: Final = 10  # chosen: how much further for the reason of what is not live
_STATUS: Final = codec.prefix("status")
_INPUTS: Final[tuple[tuple[str, Stream], ...]] = (
    ("normalizer", "raw"),
    ("bookbuilder", "events"),
    ("analytics", "events"),
)
_FORWARDED: Final[tuple[tuple[str, Stream], ...]] = (("forwarder", "events"), ("forwarder", "books"))
_LISTED: Final = ("wanted", "subscribed", "live")  # said of no symbol that the venue does not list


class Lag(msgspec.Struct, frozen=True):
    """How far a reader is behind its input; ``seconds``: age of the first event it has not taken."""

    events: int
    seconds: float


class Place(msgspec.Struct, frozen=True):
    """One partition. ``owners``: lease -> instance, None where nobody holds it."""

    partition: str
    owners: dict[str, str | None]
    lag: dict[str, Lag]
    seconds_since_event: float | None


class Told(msgspec.Struct):
    """What is known of a partition's channels: item -> (state, reason); and what was said of all of it.

    ``refused``: symbol -> why, of those that the venue does not list.
    """

    items: dict[Item, tuple[str, str]] = {}
    refused: dict[str, str] = {}
    down: str = ""


class Checkpoint(msgspec.Struct):
    """The part of the normalizer's checkpoint that says how connections and channels are."""

    ledger: Ledger = msgspec.field(default_factory=Ledger)
    unknown: dict[str, str] = {}
    now: int = 0


async def checkpoint(hot: Hot, keys: Keys, partition: Partition) -> Checkpoint | None:
    """Return the normalizer's last checkpoint, None where there is none that we can read."""
    form, blob = await hot.call("HMGET", keys.state(partition, "normalizer"), "format", "blob")
    if blob is None or int(form) != Normalize.FORMAT:
        return None
    return msgspec.msgpack.decode(blob, type=Checkpoint)


def leases_of(settings: Settings, venue: str) -> list[tuple[str, str | None]]:
    """Return the leases of each of a venue's partitions: role and leg."""
    held: list[tuple[str, str | None]] = [("connector", leg) for leg in legs(settings, venue)]
    held += [(role, None) for role in NEEDED]
    held += [("forwarder", None)] if settings.forwarder.active else []
    return [*held, *((role, None) for role in sorted(OPTIONAL))]


class _Pages:
    """What was said in ``events``, read backwards."""

    def __init__(self, connection: Hot, key: str) -> None:
        self._hot = connection
        self._key = key
        self._end = "+"
        self._oldest: int | None = None  # time of the oldest event read, ns

    async def _next(self) -> list[Status] | None:
        """Return what one page further back says, newest first; None at the beginning of the stream."""
        found = await self._hot.call("XREVRANGE", self._key, self._end, "-", "COUNT", _PAGE)
        if not found:
            return None
        page = [entry_of(*fields) for fields in found]
        self._end = f"({page[-1].cursor}"
        self._oldest = codec.decode(page[-1].lines[0]).ts_recv
        lines = (line for entry in page for line in reversed(entry.lines) if line.startswith(_STATUS))
        return [event for event in map(codec.decode, lines) if isinstance(event, Status)]

    async def until(self, since: int) -> list[Status]:
        """Return what was said after ``since`` (fold time), newest first, as far back as we care to look."""
        said: list[Status] = []
        for _ in range(_PAGES):
            page = await self._next()
            if page is None:
                break
            said += page
            if self._oldest is not None and self._oldest < since:
                break
        return said

    async def reasons(self, known: Told, lacking: set[Item]) -> None:
        """Fill in, from further back, why the items of ``lacking`` are as they are."""
        for _ in range(_REASON_PAGES):
            page = await self._next() if lacking else None
            if page is None:
                return
            for event in page:
                if event.channel is None or event.symbol is None or event.conn is not None:
                    continue
                item: Item = (event.channel, event.symbol)
                if item in lacking:
                    lacking.discard(item)
                    known.items[item] = (known.items[item][0], event.reason)


class Look:
    """Looks at one partition, through one connection."""

    def __init__(self, session: Session, connection: Hot, partition: Partition, now_ms: int) -> None:
        self._settings = session.settings
        self._keys = session.keys
        self._hot = connection
        self._partition = partition
        self._venue = session.settings.venues[partition.venue]
        self._now_ms = now_ms

    async def place(self) -> Place:
        """Return owners and lags."""
        leases = leases_of(self._settings, self._partition.venue)
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
        inputs = _INPUTS + (_FORWARDED if self._settings.forwarder.active else ())
        lag: dict[str, Lag] = {}
        for role, stream in inputs:
            found = await self._lag(role, stream)
            lag[role] = max(lag.get(role, found), found, key=lambda each: each.events)
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

    # ------------------------------------------------------------------------------------- channels

    async def channels(self, unwell: Iterable[str]) -> Told:
        """Return what the normalizer last said: its checkpoint, and what it has written since.

        Args:
            unwell: States whose reason is looked for further back.
        """
        told = await checkpoint(self._hot, self._keys, self._partition)
        known = Told()
        since = 0
        if told is not None:
            since = told.now
            known.items = {item: (state, "") for item, state in told.ledger.told.items()}
            known.refused = told.unknown
            known.down = "; ".join(reason for reason in told.ledger.legs.values() if reason)
        pages = _Pages(self._hot, self._keys.stream(self._partition, "events"))
        for event in reversed(await pages.until(since)):
            _note(known, event, since)
        states = frozenset(unwell)
        lacking = {item for item, (state, reason) in known.items.items() if state in states and not reason}
        await pages.reasons(known, lacking)
        return known

    # ---------------------------------------------------------------------------------------- books

    async def books(self, place: Place) -> dict[str, list[str]]:
        """Return state -> symbols; nothing that stands in Redis is live when time stands still."""
        venue = self._venue
        mine = [s for s in venue.symbols if shard(s, venue.shards) == self._partition.shard]
        old = place.seconds_since_event is None or place.seconds_since_event > STALE_S
        states: dict[str, list[str]] = {}
        for symbol in mine:
            if venue.wants("book", symbol):
                text = await self._hot.call("GET", self._keys.latest(self._partition, "book", symbol))
                state = "absent" if text is None else str(orjson.loads(text)["state"])
                states.setdefault("stale" if old and state == "live" else state, []).append(symbol)
        return states


def _note(known: Told, event: Status, since: int) -> None:
    if event.channel is not None and event.conn is not None:
        return  # of one connection; another gives the channel
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
