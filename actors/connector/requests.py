"""What the folds ask for on ``control``: subscriptions, other connections, REST answers.

A socket's request is served by the leg that owns the connection, or by every leg when it names none.
A REST request is served by the leg whose connection is to have the answer; one that names none by leg a,
or by another leg while leg a's lease is not alive. The cursor in ``ck:connector:<leg>`` moves past a
request once what it led to is in ``raw``, so a killed connector's successor serves what it left.
"""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Final, NamedTuple

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from actors.connector.clock import Clock
from actors.connector.links import Link
from actors.connector.rest import Reply, Rest, answer_to
from actors.connector.sink import Sink
from actors.connector.slots import Slot
from actors.model.instruments import Instrument
from actors.stages.control import ControlRequest
from actors.stages.raw import line
from actors.streams.errors import FAULTS, is_passing
from actors.streams.keys import LEGS, Cursor, Keys, Partition
from actors.streams.lease import living
from actors.streams.partition import Tail, remember
from actors.streams.wire import Hot
from actors.venues.base import Item, Request, Venue

log = structlog.get_logger()

FIRST_LEG: Final = LEGS[0]
_REST: Final = frozenset({"snapshot", "audit", "backfill"})
_OF_BOOKS: Final = frozenset({"snapshot", "audit"})  # whose answers are of now, not of what was asked
_MOST_OPEN: Final = 1024  # chosen: requests under way, above the books of a partition; reading waits beyond
_MOST_AUDITS: Final = 8  # chosen: that wait for their turn
_MOST_KNOWN: Final = 4096  # ids remembered, so that one served twice is served once
_MOST_DELAY_S: Final = 300.0  # chosen: nobody means more

_decoder = msgspec.json.Decoder(ControlRequest)
_encoder = msgspec.json.Encoder()
_Subject = tuple[str, str | None, str | None]  # operation, connection, symbol


class _Open(NamedTuple):
    """A request that is not done yet: where the cursor will stand after it."""

    cursor: Cursor
    done: anyio.Event


class Requests:
    """Serves the requests of one leg.

    ``born`` is the end of ``control`` when this owner began: requests up to there about sockets were
    about its predecessor's.
    """

    def __init__(
        self,
        *,
        venue: Venue,
        partition: Partition,
        leg: str,
        keys: Keys,
        rest: Rest,
        sink: Sink,
        clock: Clock,
        slots: list[Slot],
        instruments: Mapping[str, Instrument],
        hot: Hot,
        born: Cursor,
    ) -> None:
        self._venue = venue
        self._partition = partition
        self._leg = leg
        self._keys = keys
        self._rest = rest
        self._sink = sink
        self._clock = clock
        self._slots = slots
        self._instruments = instruments
        self._hot = hot
        self._born = born
        self._known: OrderedDict[str, None] = OrderedDict()
        self._waiting: set[_Subject] = set()  # of books whose turn has not come
        self._auditing = anyio.Lock()  # one at a time: nothing else of the budget waits for more than one
        self._open: deque[_Open] = deque()
        self._slot_free = anyio.Event()
        self._moved = anyio.Event()

    async def run(self, tail: Tail) -> None:
        """Read and serve until cancelled."""
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._store)
            while True:
                for _, entry in await tail.read(count=16):
                    await self._take(tg, entry.cursor, entry.lines)

    async def _take(self, tg: TaskGroup, cursor: Cursor, lines: Iterable[bytes]) -> None:
        for text in lines:
            try:
                request = _decoder.decode(text)
            except (msgspec.MsgspecError, UnicodeDecodeError) as e:
                log.warning("request_not_read", partition=str(self._partition), reason=str(e))
                continue
            serve = self._choose(request, cursor)
            if serve is None or request.id in self._known:
                continue
            self._known[request.id] = None
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
            opened = _Open(cursor, anyio.Event())
            self._open.append(opened)
            tg.start_soon(self._serve, serve, request, opened.done)
        if not self._open or self._open[-1].cursor != cursor:  # nothing of it for us: passed over at once
            done = anyio.Event()
            done.set()
            self._open.append(_Open(cursor, done))
            self._advance()
        while not self._has_room():
            self._slot_free = anyio.Event()
            await self._slot_free.wait()

    def _has_room(self) -> bool:
        """Tell whether more may be under way.

        One that waits (for a venue that wants to be left alone) holds up the cursor, but nothing else: of
        those behind it that are done, one after another, only the last is kept.
        """
        if len(self._open) >= _MOST_OPEN:
            kept: deque[_Open] = deque()
            for opened in self._open:
                if kept and kept[-1].done.is_set() and opened.done.is_set():
                    kept.pop()
                kept.append(opened)
            self._open = kept
        return len(self._open) < _MOST_OPEN

    def _choose(self, request: ControlRequest, cursor: Cursor) -> "_Serve | None":
        """Return what serves ``request`` here, None when it is not ours or too old."""
        if request.conn is not None and request.conn.partition(".")[0] != self._leg:
            return None
        if request.op in _REST:
            return self._answer
        return self._tell if cursor > self._born else None

    async def _serve(self, serve: "_Serve", request: ControlRequest, done: anyio.Event) -> None:
        if request.delay_s is not None:
            await anyio.sleep(min(max(0.0, request.delay_s), _MOST_DELAY_S))
        ticket = await serve(request)
        if ticket is not None:
            await self._sink.wait(ticket)
        done.set()
        self._slot_free.set()
        self._advance()

    # ----------------------------------------------------------------------------------------- cursor

    def _advance(self) -> None:
        if self._open and self._open[0].done.is_set():
            self._moved.set()

    async def _store(self) -> None:
        """Store the cursor whenever the oldest requests are done."""
        while True:
            await self._moved.wait()
            self._moved = anyio.Event()
            cursor: Cursor | None = None
            while self._open and self._open[0].done.is_set():
                passed = self._open.popleft().cursor
                if not self._open or self._open[0].cursor != passed:
                    cursor = passed
            self._slot_free.set()
            if cursor is not None:
                await self._remember(cursor)

    async def _remember(self, cursor: Cursor) -> None:
        role = f"connector:{self._leg}"
        try:
            await remember(self._hot, self._keys, self._partition, role, {"control": cursor})
        except FAULTS as e:
            if not is_passing(e):
                raise
            # Left where it is: the next one stores more, and what is served again is known by its id.
            log.warning("cursor_not_stored", partition=str(self._partition), reason=type(e).__name__)

    # ---------------------------------------------------------------------------------------- sockets

    def _link(self, conn: str) -> tuple[Slot, Link] | None:
        for slot in self._slots:
            for link in slot.links:
                if link.id == conn:
                    return slot, link
        return None

    async def _tell(self, request: ControlRequest) -> int | None:
        """Serve what is about sockets; return the ticket of the last line it wrote."""
        slots: Iterable[Slot] = self._slots
        if request.conn is not None:
            found = self._link(request.conn)
            if found is None:
                return None  # the connection is gone, and with it what was asked
            slots = (found[0],)
        if request.op == "reconnect":
            for slot in slots:
                slot.replace(request.reason or "asked", request.conn)
            return None
        ticket: int | None = None
        for slot in slots:
            items = [item for item in slot.items if _matches(item, request)]
            if items:
                ticket = await self._subscribe(slot, items, request) or ticket
        return ticket

    async def _subscribe(self, slot: Slot, items: list[Item], request: ControlRequest) -> int | None:
        only = request.conn
        match request.op:
            case "subscribe":
                return await slot.subscribe(items, only)
            case "resubscribe":  # its second half is asked for once this is acknowledged
                return await slot.unsubscribe(items, only, for_good=False)
            case _:
                return await slot.unsubscribe(items, only, for_good=True)

    # ------------------------------------------------------------------------------------------- REST

    async def _answer(self, request: ControlRequest) -> int | None:
        """Ask the venue and write its answer; None when nobody waits for it any more."""
        if request.conn is None and self._leg != FIRST_LEG and await self._first_leg_lives():
            return None
        try:
            question = self._question(request)
        except ValueError as e:  # a range that is no range of ids
            log.warning("request_not_served", partition=str(self._partition), id=request.id, reason=str(e))
            return None
        if _subject(request) in self._waiting:
            return None  # that one waits for the budget still: its answer will be newer than this request
        if request.op == "audit" and self._auditing.statistics().tasks_waiting >= _MOST_AUDITS:
            return None  # asked for again, as nothing comes
        if request.op in _OF_BOOKS:
            self._waiting.add(_subject(request))
        async with self._auditing if request.op == "audit" else nullcontext():
            reply = await self._rest.fetch(question, wanted=lambda: self._is_wanted(request))
        return None if reply is None else self._write(request, question, reply)

    def _question(self, request: ControlRequest) -> Request:
        """Return the REST request for what is asked.

        Raises:
            ValueError: There is none.
        """
        instrument = self._instruments.get(request.symbol or "")
        if instrument is None:
            raise ValueError(f"{request.symbol} is not listed")
        if request.op == "snapshot" and self._venue.snapshot is not None:
            return self._venue.snapshot(instrument)
        if request.op == "audit" and self._venue.audit is not None:
            return self._venue.audit(instrument)
        if request.op == "backfill":
            if request.first is None or request.last is None:
                raise ValueError("a backfill without its range")
            if self._venue.backfill_after is not None and request.after is not None:
                return self._venue.backfill_after(instrument, request.first, request.last, request.after)
            if self._venue.backfill is not None:
                return self._venue.backfill(instrument, request.first, request.last)
        raise ValueError(f"{self._venue.name} has no {request.op}")

    def _is_wanted(self, request: ControlRequest) -> bool:
        """Tell whether its answer would still be of use, now that it is its turn."""
        self._waiting.discard(_subject(request))
        return request.conn is None or self._link(request.conn) is not None

    def _write(self, request: ControlRequest, question: Request, reply: Reply) -> int:
        answer = answer_to(question, reply, request.id, request.conn)
        name = request.conn or f"{self._leg}.*"
        return self._sink.note(line(self._clock.now(), name, "h", _encoder.encode(answer)))

    async def _first_leg_lives(self) -> bool:
        try:
            _, alive = await living(self._hot, self._keys, self._partition, "connector", [FIRST_LEG])
        except FAULTS as e:
            if not is_passing(e):
                raise
            return False  # asked twice does no harm, not at all does
        return FIRST_LEG in alive


_Serve = Callable[[ControlRequest], Awaitable[int | None]]


def _subject(request: ControlRequest) -> _Subject:
    return request.op, request.conn, request.symbol


def _matches(item: Item, request: ControlRequest) -> bool:
    channel, symbol = item
    return request.symbol in (None, symbol) and request.channel in (None, channel)
