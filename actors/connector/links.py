"""Connections to a venue: opened, paced, fed into ``raw``, replaced before they are cut.

A link is one connection's life; a slot is one planned connection, kept by one link after another.

============ =================================== ===================================================
slot is      left by                             to
============ =================================== ===================================================
opening      the handshake, and the greeting     holding; or replacing, where an old link still lives
             a failure (``x`` written)           opening, after the back-off
holding      the link closes (``x`` written)     opening, after the back-off
             ``replace``, or its life is over    opening, with the link as the old one
replacing    the new link carries frames         holding the new; the old is closed after an overlap
             the new closes, or is deaf          opening again; the old stays
============ =================================== ===================================================

The back-off starts anew once a link carried more frames than answers were due. A link that has spent the
subscriptions that its venue allows in an hour is replaced: the next one has an hour's of its own.
"""

import base64
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from actors.connector.clock import Clock
from actors.connector.inflating import Broken, gunzip
from actors.connector.pacing import Window
from actors.connector.rest import Rest, bar_s
from actors.connector.sink import Room, Sink
from actors.connector.sockets import OPEN_S, Refused, Socket, address, dial
from actors.model.instruments import Instrument
from actors.runtime.backoff import backoff
from actors.runtime.metrics import Metrics
from actors.stages.raw import Closed, line
from actors.streams.limit import Limit
from actors.venues.base import Connection, Item, Subscription, Venue, answer_nothing

log = structlog.get_logger()

HOUR_S: Final = 3600.0
TRY_LATER_S: Final = 10.0  # chosen: the least wait after close code 1013
_LIFE_PART: Final = 0.9  # chosen: links of one age are not replaced at once, and never after their time
_POLL_S: Final = 0.05
_Bad = Literal["oversized", "protocol"]
# Close codes of ours for what came in. 1007 is for a close frame; text that is no UTF-8 goes into raw.
_BAD: Final[Mapping[int, _Bad]] = {1002: "protocol", 1007: "protocol", 1009: "oversized"}
_CLOSING: Final[Mapping[_Bad, int]] = {"protocol": 1007, "oversized": 1009}

_LINE_BREAK: Final = ord("\n")  # a number is looked for eight times faster than bytes are
_encoder = msgspec.json.Encoder()


class Side(NamedTuple):
    """What all links of one venue in this process share.

    ``overlap_s``: how long an old link stays beside the one that replaces it. ``carry_s``: how long that
    one may give nothing, while the old one does, before it counts as deaf.
    """

    venue: Venue
    limit: Limit
    metrics: Metrics
    clock: Clock
    room: Room
    connections: "Count"
    rest: Rest
    overlap_s: float
    carry_s: float


class Count:
    """How many connections of one venue are open, as two gauges."""

    def __init__(self, venue: str, metrics: Metrics) -> None:
        self._venue = venue
        self._metrics = metrics
        self._open = 0
        metrics.stand("connector", venue=venue)
        self.add(0)

    def add(self, n: int) -> None:
        """Count ``n`` more as open."""
        self._open += n
        self._metrics.gauge("tapeline_connections", self._open, venue=self._venue)
        self._metrics.gauge("tapeline_venue_up", float(self._open > 0), venue=self._venue)


class Link:
    """One connection's life, from its ``o`` to its ``x``.

    Attributes:
        id: ``<leg>.<random>``.
        url: Where it goes, without what is secret.
        frames: Received so far.
        ready: Whether it may be spoken on: opened, and greeted where the venue greets.
        ended: Set once its ``x`` is written.
        over: Why it ended, for metrics; a word of a closed set.
        code: Close code.
    """

    def __init__(self, side: Side, sink: Sink, leg: str, url: str, changed: Callable[[], None]) -> None:
        self.id = f"{leg}.{secrets.token_hex(4)}"
        self._side = side
        self._sink = sink
        self.url = url
        self._changed = changed
        self._now = side.clock.now
        self._text = b"%d " + self.id.encode() + b" f %b"
        self._put = sink.put
        self._inflates = side.venue.inflate is not None
        self._answer = self._first if side.venue.greeting is not None else _answer_of(side.venue)
        self._welcome: bool | None = None  # None: the first frame, which decides it, has not come
        self._socket: Socket | None = None
        self._window = Window(side.venue.limits.frames_per_s)
        hourly = side.venue.limits.subscriptions_per_hour
        self._hour = None if hourly is None else Window(hourly / HOUR_S, HOUR_S)
        self._muted = False
        self._answers_due = 0 if side.venue.greeting is None else 1
        self._sent_at = 0.0
        self._next_id = 1
        self._counted = 0  # frames that are in the metrics
        self._bytes = 0  # that are not
        self.frames = 0
        self.ready = False
        self.ended = anyio.Event()
        self.opened_at = 0.0
        self.over = "lost"
        self.code: int | None = None

    @property
    def carries(self) -> bool:
        """Whether more came than what answers our frames."""
        return self.frames > self._answers_due

    @property
    def spent(self) -> bool:
        """Whether the venue allows no more subscriptions on this connection for now."""
        return self._hour is not None and self._hour.wait(anyio.current_time()) > 0

    @property
    def next_id(self) -> int:
        """The id for the next frame that wants an answer."""
        return self._next_id

    async def open(self) -> None:
        """Connect, and wait until the venue may be spoken to.

        Raises:
            Refused: It was not had; its ``x`` is written.
        """
        try:
            url = await self._address()
            self._socket = await dial(url, self, self._side.venue.limits.max_frame_bytes)
            if self._side.venue.greeting is not None:
                await self._greeted()
        except Refused as e:
            self._end(e.status, str(e), e.cause)
            raise
        self.ready = True

    async def _address(self) -> str:
        handshake = self._side.venue.handshake
        if handshake is None:
            return self.url
        reply = await self._side.rest.fetch(handshake.request)
        assert reply is not None  # noqa: S101 - it was wanted throughout
        url = address(handshake, self.url, reply, self.id)
        self.url = url.partition("?")[0]
        return url

    async def _greeted(self) -> None:
        with anyio.move_on_after(OPEN_S):
            await _until(lambda: self._welcome is not None or self.ended.is_set())
        if not self._welcome:
            self.leave(1000, "no greeting", "handshake")  # its ``x`` may be written, with a better reason
            raise Refused("handshake", "no greeting")

    def _first(self, frame: bytes) -> str | None:
        """Take the first frame; from now on they are answered as the venue wants it."""
        greeting, self._answer = self._side.venue.greeting, _answer_of(self._side.venue)
        self._welcome = greeting is None or greeting(frame)
        if not self._welcome:
            said = frame[:200].decode("utf-8", "replace")
            self._end(None, f"the first frame was no greeting: {said}", "handshake")
        return None if self._answer is None or self._muted else self._answer(frame)

    # ------------------------------------------------------------------ what the socket tells, in order

    def opened(self) -> None:
        """Write the ``o``."""
        if self._muted:
            return
        self._side.connections.add(1)
        self.opened_at = self._sent_at = anyio.current_time()
        self._sink.note(line(self._now(), self.id, "o", self.url.encode()))

    def frame(self, data: bytes | bytearray, text: bool) -> None:
        """Write a frame. The hot path of this process."""
        if self._muted:
            if self.over == "overflow":
                self._side.metrics.count("tapeline_overflow_frames_total", venue=self._side.venue.name)
            return
        if not text and self._inflates:
            try:
                data, text = gunzip(data, self._side.venue.limits.max_frame_bytes), True
            except Broken as e:
                code = _CLOSING[e.bad]
                self.leave(code, str(e), _over(code, by_us=True), e.bad)
                return
        if text and _LINE_BREAK not in data:
            entry = self._text % (self._now(), data)
        else:
            entry = line(self._now(), self.id, "b", base64.b64encode(data))
        self.frames += 1
        self._bytes += len(data)
        if not self.frames & 255:
            self._tally()
        if not self._put(entry):
            self._overflow()
        elif self._answer is not None and (answer := self._answer(bytes(data))) is not None:
            self._write(answer)

    def closed(self, code: int, reason: str, by_us: bool) -> None:
        """Write the ``x`` of a connection that ended by itself or because the library ended it."""
        if self.opened_at:
            self._side.connections.add(-1)
        self._end(code, reason, _over(code, by_us), _BAD.get(code) if by_us else None)

    # ------------------------------------------------------------------------------- what we do to it

    def leave(self, code: int, reason: str, over: str, bad: _Bad | None = None) -> None:
        """Write the ``x``, take nothing more, close without waiting."""
        if self.opened_at:
            self._end(code, reason, over, bad)
        else:
            self._muted = True
            self.ended.set()
        if self._socket is not None:
            self._socket.leave(code, reason)

    def abandon(self) -> None:
        """Close without a word in ``raw``: its leg is another's."""
        self._muted = True
        self.ended.set()
        if self._socket is not None:
            self._socket.leave(1001, "")

    def _end(self, code: int | None, reason: str, over: str, bad: _Bad | None = None) -> None:
        self._tally()
        if self._muted:
            return
        self._muted = True
        self.code, self.over = code, over
        venue = self._side.venue.name
        how = Closed(code, reason[:500], bad)
        self._sink.note(line(self._now(), self.id, "x", _encoder.encode(how)))
        self._side.metrics.count("tapeline_reconnects_total", venue=venue, reason=over)
        log.info("closed", venue=venue, conn=self.id, code=code, reason=reason[:200], over=over)
        self.ended.set()
        self._changed()

    def _overflow(self) -> None:
        # What follows is missing from raw: the connection must end there, so that the hole has a name.
        self._side.metrics.count("tapeline_overflow_frames_total", venue=self._side.venue.name)
        self.leave(1001, "overflow: Redis took nothing for too long", "overflow")

    def _tally(self) -> None:
        venue, metrics = self._side.venue.name, self._side.metrics
        metrics.count("tapeline_frames_total", self.frames - self._counted, venue=venue)
        metrics.count("tapeline_frame_bytes_total", self._bytes, venue=venue)
        self._counted, self._bytes = self.frames, 0

    # ------------------------------------------------------------------------------------- what we say

    def _write(self, text: str) -> None:
        now = anyio.current_time()
        self._window.note(now)
        self._sent_at = now
        stamp = self._side.venue.stamp
        if self._socket is not None:
            self._socket.write(text if stamp is None else stamp(text, self._now() // 1_000_000_000))

    async def pace(self) -> None:
        """Wait until one more frame may be sent."""
        while True:
            wait_s = self._window.wait(anyio.current_time())
            if wait_s == 0:
                return
            await anyio.sleep(wait_s)

    async def send(self, subscriptions: Sequence[Subscription]) -> int | None:
        """Send ``subscriptions`` in order, each after its ``s`` line; return the ticket of the last.

        What the venue would not allow is not sent.
        """
        ticket: int | None = None
        for subscription in subscriptions:
            await self.pace()
            if self._muted or self.spent:
                return ticket
            if self._hour is not None:
                self._hour.note(anyio.current_time())
            # The record goes first: an acknowledgement can never stand before it in raw.
            ticket = self._sink.note(line(self._now(), self.id, "s", _encoder.encode(subscription)))
            if subscription.id is not None:
                self._next_id = max(self._next_id, subscription.id + 1)
            self._answers_due += subscription.answers
            self._write(subscription.frame)
        return ticket

    async def keep_alive(self) -> None:
        """Send the venue's keepalive frame whenever nothing was sent for its time, while open."""
        keepalive = self._side.venue.keepalive
        if keepalive is None:
            return
        while not self.ended.is_set():
            due = self._sent_at + keepalive.every_s
            with anyio.CancelScope(deadline=due):
                await self.ended.wait()
            if not self._muted and anyio.current_time() >= self._sent_at + keepalive.every_s:
                await self.pace()
                self._answers_due += 1  # by a pong, which proves no subscription
                self._write(keepalive.frame)


class Slot:
    """One planned connection. ``run`` keeps it open until it is cancelled.

    Attributes:
        items: What it is for.
        link: The newest link that is open, or None.
        old: The link that it is replacing, or None.
    """

    def __init__(
        self, side: Side, sink: Sink, leg: str, planned: Connection, instruments: Sequence[Instrument]
    ) -> None:
        self._side = side
        self._sink = sink
        self._leg = leg
        self._planned = planned
        self._instruments = {instrument.symbol: instrument for instrument in instruments}
        self._off: set[Item] = set()
        self._changed = anyio.Event()
        self._wanted: str | None = None  # why the link is to be replaced
        self._failed = False  # the last attempt
        self.items: list[Item] = [item for s in planned.subscriptions for item in s.items]
        self.link: Link | None = None
        self.old: Link | None = None

    @property
    def links(self) -> Iterator[Link]:
        """The links that are open."""
        return (link for link in (self.old, self.link) if link is not None and not link.ended.is_set())

    def replace(self, reason: str) -> None:
        """Ask for another link in place of the present one; nothing to do while one is being opened."""
        if self.link is not None and self._wanted is None:
            self._wanted = reason
            self._wake()

    def leave(self, code: int, reason: str, over: str) -> None:
        """Close whatever is open."""
        for link in self.links:
            link.leave(code, reason, over)

    def abandon(self) -> None:
        """Close whatever is open, saying nothing."""
        for link in self.links:
            link.abandon()

    async def subscribe(self, items: Sequence[Item], conn: str | None = None) -> int | None:
        """Subscribe ``items`` on link ``conn`` or on every open one; return the last record's ticket."""
        self._off.difference_update(items)
        return await self._say(self._side.venue.subscribe, items, conn)

    async def unsubscribe(
        self, items: Sequence[Item], conn: str | None = None, *, for_good: bool = True
    ) -> int | None:
        """End the subscriptions of ``items``; ``for_good``: a later link leaves them out too.

        Where the venue has no word for that the connection is replaced.
        """
        if for_good:
            self._off.update(items)
        if self._side.venue.unsubscribe is None:
            self.replace("a subscription is to end")
            return None
        return await self._say(self._side.venue.unsubscribe, items, conn)

    async def _say(self, frames: "_Frames", items: Sequence[Item], conn: str | None) -> int | None:
        ticket: int | None = None
        for link in list(self.links):
            if link.ready and conn in (None, link.id):  # one that is not will ask for all that is wanted
                ticket = await link.send(frames(items, self._instruments, link.next_id)) or ticket
                if link.spent and link is self.link:
                    self.replace("its subscriptions of an hour are spent")
        return ticket

    # ---------------------------------------------------------------------------------------- its life

    def _wake(self) -> None:
        self._changed.set()

    async def run(self, first_s: float) -> None:
        """Open after ``first_s``, hold, replace, open again."""
        await anyio.sleep(first_s)
        async with anyio.create_task_group() as tg:
            delays = backoff()
            while True:
                fresh, wait_s = await self._open(tg)
                if fresh is not None and await self._hand_over(fresh):
                    await self._hold(fresh)
                    if fresh.carries:
                        delays = backoff()
                    if not fresh.ended.is_set():
                        continue  # it is to be replaced: at once
                    wait_s = TRY_LATER_S if fresh.code == 1013 else 0.0
                await anyio.sleep(max(wait_s, next(delays)))

    async def _open(self, tg: TaskGroup) -> tuple[Link | None, float]:
        """Make one attempt; return the link, or None and the least time to wait."""
        side = self._side
        await _until(lambda: side.room.roomy)  # Redis is away or slow: more sockets would only overflow
        await side.limit.take("connect", 1, side.venue.limits.connects_per_minute)
        link = Link(side, self._sink, self._leg, self._planned.url, self._wake)
        if self.link is not None and not self.link.ended.is_set():
            self.old = self.link
        else:
            self.old = self._wanted = None
        self.link = link
        try:
            await link.open()
        except Refused as e:
            self.link, self.old = self.old, None
            seconds = bar_s(e.status, e.retry_after_s)
            if seconds is not None:
                await side.limit.bar("connect", seconds)
            said = log.warning if self._failed else log.info  # one failure alone is no news
            said("not_connected", venue=side.venue.name, conn=link.id, reason=str(e), status=e.status)
            self._failed = True
            return None, e.retry_after_s or 0.0
        self._failed = False
        log.info("connected", venue=side.venue.name, conn=link.id, url=link.url)
        tg.start_soon(link.keep_alive)
        await link.send(self._subscriptions())
        return link, 0.0

    def _subscriptions(self) -> Sequence[Subscription]:
        if not self._off:
            return self._planned.subscriptions
        items = [item for item in self.items if item not in self._off]
        asks_nothing = [s for s in self._planned.subscriptions if not s.items]
        return [*asks_nothing, *self._side.venue.subscribe(items, self._instruments, 1)]

    async def _hand_over(self, fresh: Link) -> bool:
        """Close the old link once the new one carries frames; False, and the old stays, if it does not."""
        old = self.old
        if old is None:
            return True
        had = old.frames
        with anyio.move_on_after(self._side.carry_s):
            await _until(lambda: fresh.carries or fresh.ended.is_set() or old.ended.is_set())
        if not (fresh.ended.is_set() or fresh.carries or old.ended.is_set()) and old.frames > had:
            fresh.leave(1000, "gave nothing", "deaf")
        elif not (fresh.ended.is_set() or old.ended.is_set()):
            with anyio.move_on_after(self._side.overlap_s):
                await fresh.ended.wait()
        if fresh.ended.is_set():
            self.link, self.old = (None if old.ended.is_set() else old), None
            return False
        old.leave(1000, f"replaced: {self._wanted or 'its life is over'}", "replaced")
        self.old, self._wanted = None, None
        return True

    async def _hold(self, link: Link) -> None:
        """Return when the link has ended, is to be replaced, or has lived long enough."""
        lifetime_s = self._side.venue.limits.lifetime_s
        life_s = float("inf")
        if lifetime_s is not None:
            life_s = lifetime_s * (_LIFE_PART + (1 - _LIFE_PART) * secrets.randbelow(1000) / 1000)
        with anyio.CancelScope(deadline=link.opened_at + life_s):
            while not link.ended.is_set() and self._wanted is None:
                self._changed = anyio.Event()
                await self._changed.wait()
        if link.ended.is_set():
            self.link, self._wanted = None, None


_Frames = Callable[[Sequence[Item], dict[str, Instrument], int], list[Subscription]]


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - rare waits; an event would cost the hot path for each frame
        await anyio.sleep(_POLL_S)


def _answer_of(venue: Venue) -> Callable[[bytes], str | None] | None:
    return None if venue.answer is answer_nothing else venue.answer


def _over(code: int, by_us: bool) -> str:
    """Return why a connection ended, as a word of a closed set."""
    match code:
        case 1009 if by_us:
            return "too_big"
        case 1013:
            return "try_later"
        case 1006:
            return "lost"
        case _ if by_us:
            return "failed"
        case 1000 | 1001 | 1012:
            return "closed"
        case _:
            return "rejected"
