"""The native protocol's outlet: who is subscribed to what, and what each is told.

While nobody is connected, nothing is done here. From the first connection on, a line that somebody wants
gets one frame for all who want it under the same number, and every group of subscriptions one write a
client and batch. A newcomer is told the states and joins its group between two batches, in one turn of
the event loop, so that the events continue the states.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import anyio
import structlog

from actors.broadcaster.archive import Archive
from actors.broadcaster.books import Change
from actors.broadcaster.outlet import Missed, Source
from actors.broadcaster.peers import Peer, Peers, Turnstile, frame
from actors.broadcaster.records import Record, Records
from actors.broadcaster.replay import Playback
from actors.broadcaster.seeding import Seeding
from actors.broadcaster.subscriptions import Group, Groups, Place, Subscription, framed, name
from actors.config import Settings
from actors.dialects import native
from actors.dialects.native import StreamName
from actors.model.events import Event
from actors.model.instruments import shard
from actors.runtime.metrics import Metrics
from actors.streams.keys import Cursor, Partition, Stream
from actors.streams.partition import Entry

log: Any = structlog.get_logger()

DIALECT: Final = "native"
_ROUND_S: Final = 0.1  # chosen: how late a slow client may be found to have read, staleness to be told


def _notice(sub: Subscription, record: Record, what: Missed) -> bytes:
    span = (str(what.after), str(what.to))
    if what.cause == "rollback":
        return native.rollback(sub.id, record.name, span)
    return native.skipped(sub.id, what.cause, {record.name: span})


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
        self._records = Records(self._sources)
        self._seeding = Seeding(self._records, self._sources, self._symbols, self._settle)
        self._groups = Groups()
        self._subs: dict[Peer, dict[int, Subscription]] = {}
        self._newcomers: Turnstile[Subscription] = Turnstile(self._admit)
        self._parked: list[Subscription] = []  # wait for a partition that is not ready
        self._behind: dict[Subscription, None] = {}
        self._owed: set[Partition] = set()  # whose states are to be said again
        self._retold: Turnstile[tuple[Subscription, Partition]] = Turnstile(self._retell)
        self._touched: dict[Record, Cursor] = {}
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
            if target.kept:
                latest[start] = epoch, k, line
            if target.groups:
                tail = native.event(where, k, line)
                for head, groups in target.groups.items():
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
        record.missed(what)
        self._touched[record] = record.ring.start
        self._need(partition)
        for group in self._groups:
            some = next(iter(group.subs), None)  # the others have the same number and the same streams
            if some is not None and record.place in some.places:
                group.frames.append(frame(_notice(some, record, what)))
            if what.cause == "rollback":
                for sub in group.behind:
                    if record.place in sub.at and sub.at[record.place].k > what.after.k:
                        sub.peer.write(frame(_notice(sub, record, what._replace(to=sub.at[record.place]))))
                        sub.at[record.place] = what.after

    def renewed(self, partition: Partition) -> None:
        """Say the states of the partition again: what was said before does not lead to them."""
        if not self._records:
            return
        self.flush()
        self._records.stand(partition)
        self._seeding.look()
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
        self._records.forget_books()

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
        tails = (self._records.standing(place, start, group.view.depth) for place, start in changed)
        group.frames += [framed(group.head, tail) for tail in tails if tail is not None]
        if group.frames:
            written = self._write(group)
            self._metrics.count("tapeline_client_frames_total", written, dialect=DIALECT)

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
        return self._records.position(place)

    def reaches(self, place: Place, cursor: Cursor) -> bool:
        """Tell whether everything after ``cursor`` is in memory."""
        return self._records[place].ring.after(cursor) is not None

    def hand_over(self, sub: Subscription, playback: Playback) -> bool:
        """Tell the rest from memory and make it live; False where memory does not reach back."""
        if sub.state != "starting":
            return True  # it has ended meanwhile
        rest: list[tuple[Place, list[Entry]]] = []
        for place, at in playback.at.items():
            position = self.position(place)
            if position is None or at > position:
                return False
            entries = self._records[place].ring.after(at)
            if entries is None:
                return False
            rest.append((place, entries))
        if not self._ready(sub):
            return False
        for place, entries in rest:
            for entry in entries:
                playback.take(place, entry)
        playback.tell()
        fresh = [place for place in sub.places if place not in playback.at]
        self._go_live(sub, sub.places if sub.view is not None else fresh if sub.snapshot else ())
        return True

    def _admit(self, sub: Subscription) -> None:
        if sub.state == "ended":
            return
        if not self._ready(sub):
            self._parked.append(sub)
        elif sub.state == "behind":
            self._catch_up(sub)
        else:
            self._go_live(sub, sub.places if sub.snapshot else ())

    def _ready(self, sub: Subscription) -> bool:
        partitions = {place[0] for place in sub.places}
        return all(self._sources[of].ready and of not in self._seeding for of in partitions)

    def _go_live(self, sub: Subscription, places: Iterable[Place]) -> None:
        """Say what stands of ``places``, and join the others. In one turn: no event is missed or doubled."""
        self._say_states(sub, places)
        sub.peer.write(frame(native.live(sub.id, self._records.cursors(sub.places))))
        self._groups.join(sub)

    def _say_states(self, sub: Subscription, places: Iterable[Place]) -> None:
        data = b"".join(self._records.states(sub, places))
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
        self._records.wake()
        for partition in self._sources:
            self._need(partition)

    def _sleep(self) -> None:
        self._records.sleep()
        self._touched.clear()
        self._seeding.forget()
        self._owed.clear()

    # -- what stood before

    def _need(self, partition: Partition) -> None:
        if self._archive is not None:
            self._seeding.need(partition)

    def _settle(self, partition: Partition) -> None:
        """Go on with whoever waited for a partition, where it is ready."""
        if not self._sources[partition].ready or partition in self._seeding:
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
        if sub.state == "live" and sub.snapshot:
            self._say_states(sub, [place for place in sub.places if place[0] == partition])

    def _symbols(self, partition: Partition) -> list[str]:
        venue, number = partition
        return [symbol for symbol in self.there[venue] if shard(symbol, self._shards[venue]) == number]

    # -- the sign of life

    async def run(self) -> None:
        """Find slow clients that can read again, tell the time, until cancelled."""
        async with anyio.create_task_group() as tg:
            if self._archive is not None:
                tg.start_soon(self._seeding.run, self._archive)
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
        near, far = (frame(native.heartbeat(now, self._stale, of)) for of in (self._records.cursors(), None))
        for peer, subs in self._subs.items():
            everywhere = bool(subs) and all(sub.state == "live" for sub in subs.values())
            if not peer.slow:
                peer.write(near if everywhere else far)
