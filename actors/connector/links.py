"""One connection's life, from its ``o`` to its ``x``: dialed, greeted, paced, fed into ``raw``."""

import base64
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import anyio
import msgspec
import structlog

from actors.connector.clock import Clock
from actors.connector.inflating import Broken, gunzip
from actors.connector.pacing import Window
from actors.connector.rest import Rest
from actors.connector.sink import Room, Sink
from actors.connector.sockets import OPEN_S, Refused, Socket, address, dial
from actors.runtime.metrics import Metrics
from actors.stages.raw import Closed, line
from actors.streams.limit import Limit
from actors.venues.base import Subscription, Venue, answer_nothing

log = structlog.get_logger()

HOUR_S: Final = 3600.0
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
        unwanted: Why another is to take its place, None while none is.
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
        self._next_id = 1
        self._counted = 0  # frames that are in the metrics
        self._bytes = 0  # that are not
        self.frames = 0
        self.ready = False
        self.unwanted: str | None = None
        self.ended = anyio.Event()
        self.opened_at = 0.0
        self.over = "lost"
        self.code: int | None = None

    @property
    def given(self) -> int:
        """How many frames came that answer none of ours; below zero while answers are under way."""
        return self.frames - self._answers_due

    @property
    def carries(self) -> bool:
        """Whether more came than what answers our frames."""
        return self.given > 0

    @property
    def spent(self) -> bool:
        """Whether the venue allows no more subscriptions on this connection for now."""
        return self._hour is not None and self._hour.wait(anyio.current_time()) > 0

    @property
    def next_id(self) -> int:
        """The id for the next frame that wants an answer."""
        return self._next_id

    async def open(self) -> None:
        """Connect, once the venue's budget has room, and wait until the venue may be spoken to.

        Raises:
            Refused: It was not had; its ``x`` is written.
        """
        limit, limits = self._side.limit, self._side.venue.limits
        taken: int | None = None
        try:
            url = await self._address()
            # Just before dialing: those who wait for a token together would else be dialed together.
            taken = await limit.take("connect", 1, limits.connects_per_minute, limits.connects_per_s)
            self._socket = await dial(url, self, limits.max_frame_bytes)
            if self.ended.is_set():  # by a frame that came with the handshake: there was no socket to close
                self._socket.leave(self.code or 1000, "")
            if self._side.venue.greeting is not None:
                await self._greeted()
        except Refused as e:
            self._end(e.status, str(e), e.cause)
            if taken is not None and not e.reached:
                await limit.give_back("connect", 1, taken)
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
            await until(lambda: self._welcome is not None or self.ended.is_set())
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
        self.opened_at = anyio.current_time()
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
        self._window.note(anyio.current_time())
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
        # All at once, before the first wait: what somebody else asks for meanwhile bears numbers above.
        self._next_id = max([self._next_id, *(s.id + 1 for s in subscriptions if s.id is not None)])
        ticket: int | None = None
        for subscription in subscriptions:
            await self.pace()
            if self._muted or self.spent:
                return ticket
            if self._hour is not None:
                self._hour.note(anyio.current_time())
            # The record goes first: an acknowledgement can never stand before it in raw.
            ticket = self._sink.note(line(self._now(), self.id, "s", _encoder.encode(subscription)))
            self._answers_due += subscription.answers
            self._write(subscription.frame)
        return ticket

    async def keep_alive(self) -> None:
        """Send the venue's keepalive frame each time its interval is over, while open."""
        keepalive = self._side.venue.keepalive
        if keepalive is None:
            return
        sent_at = self.opened_at
        while not self.ended.is_set():
            with anyio.CancelScope(deadline=sent_at + keepalive.every_s):
                await self.ended.wait()
            if not self._muted:
                await self.pace()
                sent_at = anyio.current_time()
                self._answers_due += 1  # by a pong, which proves no subscription
                self._write(keepalive.frame)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds; for what is rare."""
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
