"""The native protocol's outlet: who is subscribed to what, and what each is told.

While nobody is connected, nothing is done here. From the first connection on, of every stream the newest
entries and the newest line of each state are kept (``_Record``); a line that somebody wants gets one
frame for all who want it under the same number, and every group of subscriptions one write a client and
batch. A newcomer is told the states and joins its group between two batches, in one turn of the event
loop, so that the events continue the states.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

import anyio
import structlog

from actors.broadcaster.archive import Archive
from actors.broadcaster.books import Change, Standing
from actors.broadcaster.outlet import Missed, Source
from actors.broadcaster.peers import Peer, Peers, Turnstile, frame
from actors.broadcaster.replay import Playback, Ring
from actors.broadcaster.subscriptions import (
    Group,
    Groups,
    Place,
    Subscription,
    framed,
    name,
)
from actors.config import Settings
from actors.dialects import native
from actors.dialects.native import StreamName
from actors.model import codec
from actors.model.events import Event
from actors.model.instruments import shard
from actors.runtime.metrics import Metrics
from actors.streams.keys import Cursor, Partition, Stream
from actors.streams.partition import Entry

log: Any = structlog.get_logger()

DIALECT: Final = "native"
_STREAMS: Final = tuple(native.OF_STREAM)
_ROUND_S: Final = 0.1  # chosen: how late a slow client may be found to have read, staleness to be told
# Kinds of which the newest line of before the first connection is looked for, by stream.
_SEEDS: Final[dict[StreamName, str]] = {"books": "l1", "flow": "cvd"}


class _Record:
    """What is kept of one stream while somebody is connected."""

    __slots__ = ("_epoch", "_where", "latest", "name", "place", "ring", "told")

    def __init__(self, place: Place, at: Cursor) -> None:
        self.place = place
        self.name = name(place)
        self.ring = Ring(at)
        self.latest: dict[bytes, Standing] = {}
        self.told = at  # what clients have been given, up to
        self._epoch = -1
        self._where = b""

    def where(self, epoch: int) -> bytes:
        if epoch != self._epoch:
            self._epoch = epoch
            self._where = native.place(str(self.place[0]), self.place[1], epoch)
        return self._where


class NativeOutlet:
    """All connections of the native protocol."""

    def __init__(self, settings: Settings, metrics: Metrics, archive: Archive | None) -> None:
        """Make it empty.

        Args:
            settings: What there is to subscribe to, limits, and the heartbeat's interval.
            metrics: What it counts with.
            archive: Where states of before the first connection are looked for; None: nowhere.
        """
        of = settings.broadcaster
        self.peers: Peers[Peer] = Peers(
            DIALECT, metrics, slow_bytes=of.slow_client_bytes, deadline_s=of.slow_client_deadline_s,
            slow=self._too_slow, gone=self._gone,
        )  # fmt: skip
        venues = {venue: its for venue, its in settings.venues.items() if its.enabled}
        self.there = {venue: its.symbols for venue, its in venues.items()}
        self._shards = {venue: its.shards for venue, its in venues.items()}
        self._metrics = metrics
        self._archive = archive
        self._heartbeat_s = of.heartbeat_s
        self._sources: dict[Partition, Source] = {}
        self._records: dict[Place, _Record] = {}  # empty while nobody is connected
        self._unseeded: set[Partition] = set()
        self._to_seed = anyio.Event()
        self._era = 0  # how often somebody has come to nobody
        self._groups = Groups()
        self._subs: dict[Peer, dict[int, Subscription]] = {}
        self._newcomers: Turnstile[Subscription] = Turnstile(self._admit)
        self._parked: list[Subscription] = []  # wait for a partition that is not ready
        self._behind: dict[Subscription, None] = {}
        self._owed: set[Partition] = set()  # whose states are to be said again
        self._retold: Turnstile[tuple[Subscription, Partition]] = Turnstile(self._retell)
        self._touched: dict[_Record, Cursor] = {}
        self._tails: dict[tuple[Partition, str, int | None], bytes] = {}  # whole books, until the next flush
        self._stale: frozenset[str] = frozenset()

    # -- what the followers say

    def add(self, partition: Partition, source: Source) -> None:
        """Learn of a partition and what is known of it."""
        self._sources[partition] = source

    def wanted(self, stream: Stream) -> frozenset[bytes]:  # noqa: ARG002 - the same for all
        """Return nothing: lines are passed on as they are."""
        return frozenset()

    def event(self, event: Event) -> None:
        """Do nothing: see ``entry``."""

    def change(self, partition: Partition, change: Change) -> None:
        """Do nothing: see ``entry``."""

    def entry(self, partition: Partition, stream: Stream, entry: Entry) -> None:
        """Frame those lines that somebody wants, and keep what those who come will want."""
        if not self._records:
            return
        record = self._records[partition, cast("StreamName", stream)]
        record.ring.append(entry)
        self._touched[record] = entry.cursor
        targets, latest = self._groups.targets[record.place[1]], record.latest
        epoch, where = entry.epoch, record.where(entry.epoch)
        for k, line in enumerate(entry.lines, entry.first):
            start = line[: line.find(native.AFTER_TOPIC)]
            try:
                target = targets[start]
            except native.NOT_A_TOPIC as e:
                self._metrics.count("tapeline_skipped_total", reason="untranslatable")
                log.warning("untranslatable_event", stream=record.name, k=k, reason=str(e))
                continue
            if target is None:
                continue
            if target.kept:
                latest[start] = epoch, k, line
            if target.groups:
                tail = native.event(where, k, line)
                for head, groups in target.groups:
                    whole = framed(head, tail)
                    for group in groups:
                        group.frames.append(whole)
            for thinned in target.thinned:
                self._mark(thinned, record.place, start)

    def missed(self, partition: Partition, stream: Stream, what: Missed) -> None:
        """Tell everybody whom it concerns what is missing, or was taken back."""
        if not self._records:
            return
        record = self._records[partition, cast("StreamName", stream)]
        record.latest.clear()
        record.ring.clear(what.after if what.cause == "rollback" else what.to)
        self._touched[record] = record.ring.start
        self._seed_soon(partition)
        span = (str(what.after), str(what.to))
        for group in self._groups:
            for sub in [*group.subs][:1]:  # the others have the same number and the same streams
                if record.place in sub.places:
                    notice = (
                        native.rollback(sub.id, record.name, span)
                        if what.cause == "rollback"
                        else native.skipped(sub.id, what.cause, {record.name: span})
                    )
                    group.frames.append(frame(notice))

    def renewed(self, partition: Partition) -> None:
        """Say the states of the partition again: what was said before does not lead to them."""
        if not self._records:
            return
        self.flush()
        for stream, cursor in self._sources[partition].cursors.items():
            record = self._records[partition, cast("StreamName", stream)]
            if record.told != cursor:  # it did not stand anywhere before
                record.told = cursor
                record.ring.clear(cursor)
        self._to_seed.set()
        self._owed.add(partition)
        self._settle(partition)

    def flush(self) -> None:
        """Send what was said since the last flush."""
        if not self._touched:
            return
        written = 0
        for group in self._groups:
            if group.frames:
                written += self._write(group)
        if written:
            self._metrics.count("tapeline_client_frames_total", written, dialect=DIALECT)
        for record, cursor in self._touched.items():
            record.told = cursor
        self._touched.clear()
        self._tails.clear()

    def _write(self, group: Group) -> int:
        data, frames = b"".join(group.frames), len(group.frames)
        group.frames.clear()
        slow = [sub for sub in group.subs if sub.peer.slow]
        for sub in slow:
            self._fall_behind(sub)
        for sub in group.subs:
            sub.peer.write(data)
        group.told += frames
        return frames * len(group.subs)

    # -- views

    def _mark(self, group: Group, place: Place, start: bytes) -> None:
        group.changed[place, start] = None
        if not group.armed:
            group.armed = True
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time(), group.due_at), self._fire, group)

    def _fire(self, group: Group) -> None:
        """Tell the members of a view what has changed since they were told last."""
        group.armed = False
        changed, group.changed = group.changed, {}
        if not group.subs or group.view is None:
            return
        group.due_at = asyncio.get_running_loop().time() + group.view.interval_ms / 1000
        tails = (self._standing(place, start, group.view.depth) for place, start in changed)
        group.frames += [framed(group.head, tail) for tail in tails if tail is not None]
        if group.frames:
            written = self._write(group)
            self._metrics.count("tapeline_client_frames_total", written, dialect=DIALECT)

    def _standing(self, place: Place, start: bytes, depth: int | None) -> bytes | None:
        topic, record = native.topic(start), self._records.get(place)
        if record is None:
            return None
        if topic.kind == "book" and topic.symbol is not None:
            return self._book(record, topic.symbol, depth)
        standing = record.latest.get(start)
        return None if standing is None else self._state(record, standing)

    def _state(self, record: _Record, standing: Standing) -> bytes:
        epoch, k, line = standing
        return native.state(record.where(epoch), k, line)

    def _book(self, record: _Record, symbol: str, depth: int | None) -> bytes | None:
        """Return the message of a book whole, or that it is not live; None where nothing is known."""
        partition = record.place[0]
        shelf = self._sources[partition].shelf
        doubtful = shelf.doubtful.get(symbol)
        if doubtful is not None:
            return self._state(record, doubtful)
        key = (partition, symbol, depth)
        tail = self._tails.get(key)
        if tail is None:
            book = shelf.snapshot(symbol) if depth is None else shelf.top(symbol, depth)
            if book is None:
                return None
            epoch, k = shelf.place(symbol)
            tail = self._tails[key] = native.state(record.where(epoch), k, codec.encode(book))
        return tail

    def _states(self, sub: Subscription, places: Iterable[Place]) -> Iterator[bytes]:
        """Yield the messages of everything that stands now, of what a subscription wants of ``places``."""
        selector = sub.choice.selector
        depth = None if sub.view is None else sub.view.depth
        for place in places:
            partition, stream = place
            record, shelf = self._records[place], self._sources[partition].shelf
            if stream == "books" and "book" in selector.kinds:
                for symbol in [*shelf.live(), *shelf.doubtful]:
                    tail = self._book(record, symbol, depth) if selector.symbol(symbol) else None
                    if tail is not None:
                        yield framed(sub.head, tail)
            for start, standing in record.latest.items():
                if selector.passes(stream, native.topic(start)):
                    yield framed(sub.head, self._state(record, standing))

    # -- subscriptions

    def places(self, symbols: Mapping[str, Sequence[str]], streams: Sequence[StreamName]) -> list[Place]:
        """Return the places in which such streams of such symbols are."""
        partitions = {
            Partition(venue, shard(symbol, self._shards[venue])): None
            for venue, those in symbols.items()
            for symbol in those
        }
        return [(partition, stream) for partition in partitions for stream in streams]

    def start(self, sub: Subscription) -> None:
        """Begin a subscription with what stands now, when its turn has come."""
        self._newcomers.add(sub)

    def end(self, sub: Subscription) -> None:
        """Tell a subscription nothing any more."""
        self._newcomers.remove(sub)
        self._behind.pop(sub, None)
        if sub in self._parked:
            self._parked.remove(sub)
        self._groups.leave(sub)

    def position(self, place: Place) -> Cursor | None:
        """Return how far a stream has been told to everybody, None while that is not known."""
        source = self._sources[place[0]]
        return source.cursors[place[1]] if source.ready and place in self._records else None

    def reaches(self, place: Place, cursor: Cursor) -> bool:
        """Tell whether everything after ``cursor`` is in memory."""
        return self._records[place].ring.after(cursor) is not None

    def hand_over(self, sub: Subscription, playback: Playback) -> bool:
        """Tell the rest from memory and make it live; False where memory does not reach back."""
        rest: list[tuple[Place, list[Entry]]] = []
        for place, at in playback.at.items():
            position = self.position(place)
            entries = self._records[place].ring.after(at)
            if position is None or at > position or entries is None:
                return False
            rest.append((place, entries))
        if not self._ready(sub):
            return False
        for place, entries in rest:
            for entry in entries:
                playback.take(place, entry)
        playback.tell()
        fresh = [place for place in sub.places if place not in playback.at]
        self._go_live(sub, sub.places if sub.view is not None else fresh)
        return True

    def _admit(self, sub: Subscription) -> None:
        if sub.state == "ended":
            return
        if not self._ready(sub):
            self._parked.append(sub)
        elif sub.state == "behind":
            self._catch_up(sub)
        else:
            self._go_live(sub, sub.places)

    def _ready(self, sub: Subscription) -> bool:
        partitions = {place[0] for place in sub.places}
        return all(self._sources[partition].ready for partition in partitions) and not (
            partitions & self._unseeded
        )

    def _go_live(self, sub: Subscription, places: Iterable[Place], *, whole: bool = False) -> None:
        """Say what stands of ``places``, and join the others. In one turn: no event is missed or doubled."""
        if whole or sub.choice.request.snapshot or sub.view is not None:
            self._say_states(sub, places)
        cursors = {self._records[place].name: str(self._records[place].told) for place in sub.places}
        sub.peer.write(frame(native.live(sub.id, cursors)))
        self._groups.join(sub)

    def _say_states(self, sub: Subscription, places: Iterable[Place]) -> None:
        data = b"".join(self._states(sub, places))
        sub.peer.write(data)
        sub.peer.allow(len(data))

    # -- those who do not read

    def _too_slow(self, peer: Peer) -> None:
        live = [sub for sub in self._subs.get(peer, {}).values() if sub.state == "live"]
        for sub in live:
            self._fall_behind(sub)
        if not live and peer.unread() > peer.limit + self.peers.slow_bytes:
            self.peers.close_slow(peer)  # it asks and does not read the answers

    def _fall_behind(self, sub: Subscription) -> None:
        if sub.state != "live":
            return
        if sub.slow == "close":
            self.peers.close_slow(sub.peer)
            return
        sub.at = {place: self._records[place].told for place in sub.places}
        self._groups.fall_behind(sub)
        self._behind[sub] = None
        log.info("slow_client_skips", unread_bytes=sub.peer.unread(), policy=sub.slow)

    def _catch_up(self, sub: Subscription) -> None:
        """Tell a subscription that can read again what it was not told, and go on."""
        events = self._groups.missed(sub)
        spans = {
            name(place): (str(at), str(self._records[place].told))
            for place, at in sub.at.items()
            if at != self._records[place].told
        }
        self._metrics.count("tapeline_skipped_total", events, reason="slow")
        sub.peer.write(frame(native.skipped(sub.id, "slow", spans, events)))
        self._go_live(sub, sub.places if sub.slow == "conflate" or sub.view is not None else ())

    # -- connections

    def join(self, peer: Peer, hello: bytes) -> None:
        """Take a new connection in."""
        if not self._records:
            self._wake()
        self._subs[peer] = {}
        peer.write(frame(hello))
        self.peers.add(peer)

    def subscriptions(self, peer: Peer) -> dict[int, Subscription]:
        """Return the subscriptions of a connection, for its session to keep."""
        return self._subs.get(peer, {})

    def _gone(self, peer: Peer) -> None:
        for sub in self._subs.pop(peer, {}).values():
            self.end(sub)
        if not self._subs:
            self._sleep()

    def _wake(self) -> None:
        self._era += 1
        for partition, source in self._sources.items():
            for stream in _STREAMS:
                self._records[partition, stream] = _Record((partition, stream), source.cursors[stream])
            self._seed_soon(partition)

    def _sleep(self) -> None:
        self._records.clear()
        self._touched.clear()
        self._tails.clear()
        self._unseeded.clear()
        self._owed.clear()

    # -- what stood before

    def _seed_soon(self, partition: Partition) -> None:
        if self._archive is not None:
            self._unseeded.add(partition)
            self._to_seed.set()

    def _settle(self, partition: Partition) -> None:
        """Go on with whoever waited for a partition, where it is ready."""
        if not self._sources[partition].ready or partition in self._unseeded:
            return
        parked, self._parked = self._parked, []
        for sub in parked:
            self._newcomers.add(sub)
        if partition in self._owed:
            self._owed.remove(partition)
            for group in self._groups:
                for sub in group.subs:
                    self._retold.add((sub, partition))

    def _retell(self, owed: tuple[Subscription, Partition]) -> None:
        sub, partition = owed
        if sub.state == "live" and (sub.choice.request.snapshot or sub.view is not None):
            self._say_states(sub, [place for place in sub.places if place[0] == partition])

    async def _seed(self, archive: Archive) -> None:
        """Look for what stands, whenever it is not known. Never ends."""
        while True:
            await self._to_seed.wait()
            self._to_seed = anyio.Event()
            for partition in sorted(self._unseeded):
                if self._sources[partition].ready:
                    await self._seed_one(archive, partition)

    async def _seed_one(self, archive: Archive, partition: Partition) -> None:
        venue, number = partition
        symbols = [s for s in self.there[venue] if shard(s, self._shards[venue]) == number]
        cursors, era = self._sources[partition].cursors, self._era
        async with archive.opened() as reader:
            tops = await reader.tops(partition, symbols)  # first: what is not in the pages then is older
            found: dict[StreamName, dict[bytes, Standing]] = {
                stream: await reader.standing(
                    (partition, stream), kind, len(symbols), partial(cursors.__getitem__, stream)
                )
                for stream, kind in _SEEDS.items()
            }
        if era != self._era or not self._records:
            return  # whoever it was for has gone; for others there are lines between
        for line in tops:
            start = line[: line.find(native.AFTER_TOPIC)]
            found["books"].setdefault(start, (cursors["books"].epoch, cursors["books"].k, line))
        for stream, standings in found.items():
            for start, standing in standings.items():
                self._records[partition, stream].latest.setdefault(start, standing)
        self._unseeded.discard(partition)
        self._settle(partition)

    # -- the sign of life

    async def run(self) -> None:
        """Find slow clients that can read again, tell the time, until cancelled."""
        async with anyio.create_task_group() as tg:
            if self._archive is not None:
                tg.start_soon(self._seed, self._archive)
            beat_at = 0.0
            while True:
                await anyio.sleep(_ROUND_S)
                for sub in [*self._behind]:
                    if sub.peer.unread() * 2 <= self.peers.slow_bytes:
                        del self._behind[sub]
                        self._newcomers.add(sub)
                stale = frozenset(str(p) for p, source in self._sources.items() if source.stale())
                for state, n in self._states_of_all().items():
                    self._metrics.gauge("tapeline_subscribers", n, state=state)
                if time.monotonic() >= beat_at or stale != self._stale:
                    beat_at, self._stale = time.monotonic() + self._heartbeat_s, stale
                    self._beat()

    def _states_of_all(self) -> Counter[str]:
        counts = Counter(starting=0, live=0, behind=0)
        counts.update(sub.state for subs in self._subs.values() for sub in subs.values())
        return counts

    def _beat(self) -> None:
        now = time.time_ns()
        cursors = {record.name: str(record.told) for record in self._records.values()}
        near, far = (frame(native.heartbeat(now, self._stale, of)) for of in (cursors, None))
        for peer, subs in self._subs.items():
            everywhere = bool(subs) and all(sub.state == "live" for sub in subs.values())
            if not peer.slow:
                peer.write(near if everywhere else far)
