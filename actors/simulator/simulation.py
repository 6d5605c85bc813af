"""The simulation: the market runs, its venues speak to whoever is connected, faults strike.

Data does not wait for anybody: what a step of the market gives a connection is written at once, one
write a step. A client that leaves more than ``MOST_BUFFERED`` unread is cut off, as venues do.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import anyio
import structlog
from aiohttp import WSMsgType, web

from actors.model.events import SECOND
from actors.simulator.connection import CLOSE_S, Connection, Headers
from actors.simulator.faults import FRAME_KINDS, Active, Fault, Faults
from actors.simulator.market import Listing, Market
from actors.simulator.replay import Replay
from actors.simulator.session import Reply, Session
from actors.simulator.street import load, simulated
from actors.simulator.venue import Venue, accept, ask, hear

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

log = structlog.get_logger()

_IDLE_S: Final = 0.01  # chosen: how often the market looks at the clock at its own pace
_BUSY_S: Final = 0.001  # chosen: the same at the highest pace
_CATCH_UP_S: Final = 0.25  # chosen: what a late loop makes up for; more is dropped
_SLICE_S: Final = 0.02  # chosen: the longest the market runs before sockets get their turn
_MOST_MESSAGE: Final = 256 * 1024  # chosen: 1024 streams in one SUBSCRIBE fit


class Simulator:
    """All venues, their market, their faults and their clients.

    Attributes:
        venues: By name.
        events_per_s: Trades and changes of a book's top a second and venue; None: the market's own pace.
        paused: Nothing happens at the venues; timers and pings go on.
    """

    def __init__(
        self,
        seed: int = 1,
        events_per_s: float | None = None,
        replay: Replay | None = None,
        faults: Faults | None = None,
        *,
        venues: Sequence[str] | None = None,
        listings: Sequence[Listing] | None = None,
    ) -> None:
        """Take which venues to serve (None: all that can be), and of what (None: all that they list)."""
        now = time.time_ns()
        self.started = now
        self.events_per_s = events_per_s
        self.paused = False
        self.faults = faults if faults is not None else Faults()
        self.replay = replay
        self.venues: dict[str, Venue] = {}
        if replay is not None:
            self.market = Market(seed, (), first_id=now // 1000)
            self.venues[replay.house.name] = replay
        else:
            files = [load(name) for name in (simulated() if venues is None else venues)]
            if listings is None:
                listings = [listing for file in files for listing in file.LISTINGS]
            self.market = Market(seed, listings, first_id=now // 1000)
            for file in files:
                if any(listing.venue == file.NAME for listing in listings):
                    self.venues[file.NAME] = file.serve(self.market, self.faults, now, listings)
        self.connections: dict[int, Connection] = {}
        self.clock_offset = 0
        self._accepted = 0
        self._until = 0.0  # market seconds that may have passed
        self._due = 0.0  # events that may be published, where a pace is set
        self._headers = Headers()
        self._tasks: TaskGroup | None = None

    # -- the market's pace -----------------------------------------------------------------------

    def set_pace(self, events_per_s: float | None) -> None:
        """Change the pace; None: the market's own."""
        self.events_per_s = events_per_s
        self._until = self.market.time
        self._due = 0.0

    def set_paused(self, paused: bool) -> None:
        """Stop or go on."""
        self.paused = paused
        self.set_pace(self.events_per_s)
        if self.replay is not None:
            self.replay.paused = paused

    def _interval(self) -> float:
        pace = self.events_per_s
        if pace is None:
            return _IDLE_S if self.replay is None else _BUSY_S
        return min(_IDLE_S, max(_BUSY_S, 10 / pace))

    def advance(self, elapsed_s: float) -> None:
        """Let the market do what is due after so many seconds."""
        if self.paused or not self.market.live:
            return
        market = self.market
        now = time.time_ns() + self.clock_offset
        deadline = time.perf_counter() + _SLICE_S
        acts = 0
        if self.events_per_s is None:
            self._until = min(self._until + elapsed_s, market.due + _CATCH_UP_S)
            while market.due <= self._until:
                market.step(now)
                acts += 1
                if not acts % 64 and time.perf_counter() > deadline:
                    return
            return
        pace = self.events_per_s * len(self.venues)
        self._due = min(self._due + elapsed_s * pace, max(_CATCH_UP_S * pace, 1.0))
        until = market.published + self._due
        while market.published + 1 <= until:
            market.step(now)
            acts += 1
            if not acts % 64 and time.perf_counter() > deadline:
                break
        self._due = until - market.published

    async def run(self) -> None:
        """Run venues until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            before = time.perf_counter()
            checked = 0.0
            while True:
                await anyio.sleep(self._interval())
                at = time.perf_counter()
                elapsed, before = at - before, at
                self.advance(elapsed)
                now = time.time_ns()
                for venue in self.venues.values():
                    venue.publish(now + self.clock_offset)
                self._faults(now)
                if at - checked > 0.25:
                    checked = at
                    self._check(now)
                self.flush(elapsed)

    def flush(self, elapsed_s: float = 0.0) -> None:
        """Write to every connection what its session has said."""
        for connection in list(self.connections.values()):
            connection.flush(self._headers, elapsed_s)
            if connection.session.close is not None and not connection.closing:
                self._close([connection], *connection.session.close)

    def _check(self, now: int) -> None:
        for connection in self.connections.values():
            connection.check(now)

    def _close(self, connections: Iterable[Connection], code: int, reason: str) -> None:
        if self._tasks is None:
            return
        for connection in connections:
            self._tasks.start_soon(connection.close, code, reason)

    # -- faults ----------------------------------------------------------------------------------

    def inject(self, fault: Fault) -> tuple[int, list[int]]:
        """Take a fault; return its id and the connections it has hit by now."""
        now = time.time_ns()
        fault_id = self.faults.ask(fault, now)
        hit = self._faults(now)
        return fault_id, hit.get(fault_id, [])

    def clear(self, fault_id: int | None = None) -> int:
        """End a fault, or all; return how many were active."""
        ended = self.faults.clear(fault_id)
        self._undo(ended)
        return len(ended)

    def _faults(self, now: int) -> dict[int, list[int]]:
        hit: dict[int, list[int]] = {}
        for active in self.faults.due(now):
            chosen = self._chosen(active.fault)
            active.hit = [connection.session.number for connection in chosen]
            hit[active.id] = active.hit
            log.info("fault", kind=active.fault.kind, id=active.id, connections=len(chosen))
            self._apply(active, chosen, now)
        self._undo(self.faults.expired(now))
        return hit

    def _chosen(self, fault: Fault) -> list[Connection]:
        here = [
            connection
            for connection in self.connections.values()
            if fault.venue in (None, connection.venue.house.name) and not connection.closing
        ]
        match fault.connection:
            case None:
                return here
            case "oldest":
                return here[:1]
            case "newest":
                return here[-1:]
            case number:
                return [connection for connection in here if connection.session.number == number]

    def _apply(self, active: Active, chosen: list[Connection], now: int) -> None:
        fault = active.fault
        if fault.kind in FRAME_KINDS:
            for connection in chosen:
                connection.hurt(active)
        elif fault.kind in ("drop", "maintenance"):
            self._close(chosen, fault.code, fault.reason)
        elif fault.kind == "clock":
            self.clock_offset = int(fault.offset_s * SECOND)
        else:
            for connection in chosen:
                connection.suffer(fault, now + self.clock_offset)
        if fault.kind in ("drop", "reset") or (fault.kind in FRAME_KINDS and active.until is None):
            self.faults.done(active)  # it has happened, or the sessions have it and count for themselves

    def _undo(self, ended: Iterable[Active]) -> None:
        for active in ended:
            hit = [each for number in active.hit if (each := self.connections.get(number))]
            if active.fault.kind == "shutdown":
                self._close(hit, active.fault.code, active.fault.reason)
            elif active.fault.kind == "clock":
                self.clock_offset = 0
            else:
                for connection in hit:
                    connection.recover(active)

    # -- clients ---------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve ``/<venue>/...``: a WebSocket where the client asks for one, else REST."""
        venue = self.venues.get(request.match_info["venue"])
        if venue is None:
            raise web.HTTPNotFound(text=f"no such venue; there are {', '.join(self.venues)}")
        path = "/" + request.match_info.get("path", "")
        now = time.time_ns() + self.clock_offset
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return await self._answer(ask(venue, path, request.query, now, post=request.method == "POST"))
        session = accept(venue, self._accepted + 1, path, request.query, now)
        if isinstance(session, Reply):
            return await self._answer(session)
        self._accepted += 1
        try:
            return await self._converse(request, venue, session)
        finally:
            self.connections.pop(session.number, None)
            venue.house.closed(session)

    @staticmethod
    async def _answer(reply: Reply) -> web.Response:
        if reply.delay_s:
            await anyio.sleep(reply.delay_s)
        headers: Mapping[str, str] = {"Content-Type": "application/json;charset=UTF-8", **reply.headers}
        return web.Response(status=reply.status, body=reply.body, headers=headers)

    async def _converse(self, request: web.Request, venue: Venue, session: Session) -> web.StreamResponse:
        ws = web.WebSocketResponse(
            autoping=False, compress=False, max_msg_size=_MOST_MESSAGE, timeout=CLOSE_S
        )
        await ws.prepare(request)
        session.opened = time.time_ns()
        connection = Connection(venue, session, ws, request)
        self.connections[session.number] = connection
        for active in self.faults.active.values():
            self._inherit(active, connection)
        async for message in ws:
            if connection.half_open:
                continue
            connection.talked = time.time_ns()
            now = connection.talked + self.clock_offset
            match message.type:
                case WSMsgType.TEXT:
                    hear(venue, session, message.data, now)
                case WSMsgType.PING:
                    hear(venue, session, None, now)
                    connection.pong(message.data)
                case WSMsgType.PONG:
                    hear(venue, session, None, now)
                    if message.data:  # an empty one is allowed and does not count
                        connection.pinged = None
                case _:
                    session.close = (1003, "text only")
            connection.flush(self._headers, 0.0)
            if session.close is not None:
                self._close([connection], *session.close)
        return ws

    def _inherit(self, active: Active, connection: Connection) -> None:
        """Give a new connection the faults that time ends: they are the venue's, not a socket's."""
        fault = active.fault
        if fault.connection is None and fault.venue in (None, connection.venue.house.name):
            if fault.kind in FRAME_KINDS:
                connection.hurt(active)
            elif fault.kind == "slow":
                connection.bytes_per_s = fault.bytes_per_s
            active.hit.append(connection.session.number)

    async def stop(self) -> None:
        """Close every connection, going away."""
        async with anyio.create_task_group() as tasks:
            for connection in list(self.connections.values()):
                tasks.start_soon(connection.close, 1001, "the simulator stops")
