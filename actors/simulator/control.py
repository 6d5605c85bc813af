"""The control port: ``/control/...``, JSON in and out.

==================== ======================================================================================
GET  status          seed, pace, connections, symbols with their sequences and trade ids, faults
GET  truth           the book of ``venue``, ``symbol`` at ``seq``, or as it was told with time ``ts`` in ns
                     (by default now), its best ``depth`` levels (all); sizes in base currency
GET  tape            the trades of ``venue``, ``symbol`` from id ``first`` to ``last`` (all that are kept);
                     sizes in base currency
GET  liquidations    what was closed by force of ``venue``, ``symbol``, from id ``first`` (all that are kept)
GET  faults          what is wrong, and what will be
POST fault           a ``faults.Fault``, or a list of them (a schedule)
DELETE faults        ends the fault ``id``, or all
POST pause, resume   stops the market, lets it go on
POST rate            ``{"events_per_s": number or null}``; a replay: ``{"speed": number}``
POST limits          ``{"venue": ..., "<limit>": number}``; answers with all limits of the venue
==================== ======================================================================================
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeVar

import msgspec
from aiohttp import web

from actors.model.events import SECOND
from actors.model.instruments import canonical
from actors.simulator.book import Forgotten
from actors.simulator.connection import Connection
from actors.simulator.faults import EDITS, Fault
from actors.simulator.house import Shop, Truth
from actors.simulator.simulation import Simulator
from actors.simulator.venue import Venue

_Body = TypeVar("_Body")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MOST_TRADES = 100_000  # chosen: 10 MiB of JSON


class _Bad(Exception):
    """A request that cannot be served: status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    events_per_s: float | None = None
    speed: float | None = None


def routes(simulator: Simulator) -> list[web.RouteDef]:
    """Return the routes of the control port."""
    control = _Control(simulator)
    posts = {
        "fault": control.fault,
        "pause": control.pause,
        "resume": control.resume,
        "rate": control.rate,
        "limits": control.limits,
    }
    gets = {
        "status": control.status,
        "truth": control.truth,
        "tape": control.tape,
        "liquidations": control.liquidations,
        "faults": control.faults,
    }
    return [
        *(web.get(f"/control/{name}", _guarded(handler)) for name, handler in gets.items()),
        *(web.post(f"/control/{name}", _guarded(handler)) for name, handler in posts.items()),
        web.delete("/control/faults", _guarded(control.clear)),
    ]


def _guarded(handler: Callable[[web.Request], Awaitable[object]]) -> _Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return _json(200, await handler(request))
        except _Bad as e:
            return _json(e.status, {"error": str(e)})

    return answer


def _json(status: int, document: object) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type="application/json")


def _decode(text: bytes, shape: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise _Bad(400, str(e)) from e


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit()):
        raise _Bad(400, f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)


class _Control:
    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def _venue(self, name: str) -> Venue:
        venues = self._simulator.venues
        if name not in venues:
            raise _Bad(404, f"there is no venue {name!r}; there are {', '.join(venues)}")
        return venues[name]

    def _asked(self, request: web.Request) -> Shop:
        house = self._venue(request.query.get("venue", "binance")).house
        symbol = canonical(request.query.get("symbol", ""))
        if symbol not in house.by_symbol:
            raise _Bad(404, f"{house.name} knows no truth about {symbol!r}")
        return house.by_symbol[symbol]

    async def status(self, _request: web.Request) -> object:
        simulator = self._simulator
        now = time.time_ns()
        replay = simulator.replay
        return {
            "seed": simulator.market.seed,
            "up_s": round((now - simulator.started) / SECOND, 3),
            "paused": simulator.paused,
            "events_per_s": simulator.events_per_s,
            "published": simulator.market.published,
            "replay": None
            if replay is None
            else {"position": replay.position, "total": replay.total, "speed": replay.speed},
            "connections": [_connection(each, now) for each in simulator.connections.values()],
            "venues": {
                name: {
                    "limits": venue.house.limits,
                    "symbols": {
                        symbol: {
                            "seq": truth.newest,
                            "oldest_seq": truth.oldest,
                            "first_trade": truth.first_trade,
                            "last_trade": truth.next_trade - 1,
                        }
                        for symbol, truth in _truths(venue)
                    },
                }
                for name, venue in simulator.venues.items()
            },
            "faults": await self.faults(_request),
        }

    async def truth(self, request: web.Request) -> object:
        shop = self._asked(request)
        sequence, depth = _number(request.query, "seq"), _number(request.query, "depth")
        ts = _number(request.query, "ts")
        try:
            book = shop.book(sequence if ts is None else shop.sequence(ts), depth, base=True)
        except Forgotten as e:
            raise _Bad(404, str(e)) from e
        return {"venue": shop.listing.venue, "symbol": shop.symbol, **book._asdict()}

    async def tape(self, request: web.Request) -> object:
        shop = self._asked(request)
        truth = shop.truth()
        first, last = _number(request.query, "first"), _number(request.query, "last")
        first = max(truth.first_trade, truth.first_trade if first is None else first)
        last = min(truth.next_trade - 1, truth.next_trade - 1 if last is None else last)
        if last - first >= _MOST_TRADES:
            raise _Bad(400, f"at most {_MOST_TRADES} trades at once: name first and last")
        return {
            "venue": shop.listing.venue,
            "symbol": shop.symbol,
            "first": first,
            "last": last,
            "trades": shop.trades(first, last, base=True),
        }

    async def liquidations(self, request: web.Request) -> object:
        shop = self._asked(request)
        found = shop.liquidations(_number(request.query, "first") or 0)
        return {"venue": shop.listing.venue, "symbol": shop.symbol, "liquidations": found}

    async def faults(self, _request: web.Request) -> object:
        faults = self._simulator.faults
        now = time.time_ns()
        return {
            "active": [
                {
                    "id": active.id,
                    "ends_in_s": None if active.until is None else (active.until - now) / SECOND,
                    "fault": active.fault,
                }
                for active in faults.active.values()
            ],
            "waiting": [
                {"id": fault_id, "begins_in_s": (at - now) / SECOND, "fault": fault}
                for at, fault_id, fault in faults.waiting()
            ],
        }

    async def fault(self, request: web.Request) -> object:
        text = await request.read()
        many = text.lstrip().startswith(b"[")
        given = _decode(text, list[Fault]) if many else [_decode(text, Fault)]
        for fault in given:
            if fault.venue is None:
                continue
            edits = self._venue(fault.venue).edits
            if fault.kind in EDITS and fault.kind not in edits:
                raise _Bad(400, f"{fault.venue} sends nothing that could have the fault {fault.kind!r}")
        done: list[dict[str, object]] = []
        for fault in given:
            if fault.symbol is not None:
                fault = msgspec.structs.replace(fault, symbol=canonical(fault.symbol))  # noqa: PLW2901
            fault_id, hit = self._simulator.inject(fault)
            done.append({"id": fault_id, "connections": hit})
        return done if many else done[0]

    async def clear(self, request: web.Request) -> object:
        return {"ended": self._simulator.clear(_number(request.query, "id"))}

    async def pause(self, _request: web.Request) -> object:
        self._simulator.set_paused(True)
        return {"paused": True}

    async def resume(self, _request: web.Request) -> object:
        self._simulator.set_paused(False)
        return {"paused": False}

    async def rate(self, request: web.Request) -> object:
        rate = _decode(await request.read(), _Rate)
        if rate.events_per_s is not None and not 0 < rate.events_per_s <= 1e6:
            raise _Bad(400, "events_per_s must be above 0 and at most 1,000,000, or null")
        replay = self._simulator.replay
        if rate.speed is not None:
            if replay is None or rate.speed < 0:
                raise _Bad(400, "speed, 0 or more, is for a replay")
            replay.speed = rate.speed
        else:
            self._simulator.set_pace(rate.events_per_s)
        return rate

    async def limits(self, request: web.Request) -> object:
        wanted = _decode(await request.read(), dict[str, float | str])
        limits = self._venue(str(wanted.pop("venue", "binance"))).house.limits
        for name, value in wanted.items():
            if name not in limits or not isinstance(value, int | float) or value < 0:
                raise _Bad(400, f"{name}: a number, and one of {', '.join(limits)}")
        limits.update({name: float(value) for name, value in wanted.items()})
        return limits


def _truths(venue: Venue) -> Iterator[tuple[str, Truth]]:
    return ((symbol, shop.truth()) for symbol, shop in venue.house.by_symbol.items())


def _connection(connection: Connection, now: int) -> dict[str, object]:
    session = connection.session
    return {
        "number": session.number,
        "venue": connection.venue.house.name,
        "peer": connection.peer,
        "path": connection.path,
        "age_s": round((now - session.opened) / SECOND, 3),
        "subscribed": list(session.topics),
        "frames": connection.frames,
        "bytes": connection.sent_bytes,
        "half_open": connection.half_open,
    }
