"""Connections and control messages of Binance's market streams.

Source: Binance spot API documents (web-socket-streams), read 2026-07.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from actors.model.events import Channel
from actors.simulator.binance.listings import MS, NAME, SECOND, US
from actors.simulator.faults import Faults
from actors.simulator.venue import Reply, Session

Encode = Callable[[int], bytes]
"""Time unit in ns -> payload."""


class Stream:
    """One market stream and who listens, by time unit: (wrapped, bare)."""

    __slots__ = ("channel", "groups", "head", "name", "symbol")

    def __init__(self, name: str, channel: Channel, symbol: str) -> None:
        self.name = name
        self.channel: Channel = channel
        self.symbol = symbol
        self.head = b'{"stream":"%b","data":' % name.encode()
        self.groups: dict[int, tuple[list[BinanceSession], list[BinanceSession]]] = {}

    def add(self, session: "BinanceSession") -> None:
        """Let a session listen."""
        wrapped, bare = self.groups.setdefault(session.unit, ([], []))
        (wrapped if session.combined else bare).append(session)

    def remove(self, session: "BinanceSession") -> None:
        """Let a session listen no more."""
        wrapped, bare = self.groups[session.unit]
        (wrapped if session.combined else bare).remove(session)
        if not wrapped and not bare:
            del self.groups[session.unit]

    def send(self, encode: Encode) -> None:
        """Send one payload to all who listen."""
        for unit, (wrapped, bare) in self.groups.items():
            payload = encode(unit)
            if wrapped:
                self.deliver(wrapped, self.head + payload + b"}")
            if bare:
                self.deliver(bare, payload)

    def deliver(self, sessions: Iterable[Session], frame: bytes) -> None:
        """Hand a finished frame to sessions."""
        for session in sessions:
            if session.wounds:
                session.send(self.channel, self.symbol, frame)
            else:
                session.out.append(frame)


class BinanceSession(Session):
    """One connection. ``streams`` holds all names asked for; None: there is no such stream."""

    __slots__ = ("combined", "stamps", "streams", "unit")

    def __init__(self, number: int, opened: int, *, combined: bool, unit: int, burst: int) -> None:
        super().__init__(number, opened)
        self.combined = combined
        self.unit = unit
        self.streams: dict[str, Stream | None] = {}
        self.stamps: deque[int] = deque(maxlen=burst)

    def subscribed(self) -> list[str]:
        """Return the streams asked for."""
        return list(self.streams)


class _Wrong(Exception):
    """A control message that is answered with an error."""

    def __init__(self, code: int, message: str, request: "int | str | None" = None) -> None:
        super().__init__(message)
        self.answer: dict[str, object] = {"code": code, "msg": message}
        if code == 0:
            self.answer["id"] = request


_METHODS: Final = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_MOST_ID: Final = 36


class Gateway:
    """Connections and control messages; knows streams by name only."""

    def __init__(self, streams: Mapping[str, Stream], faults: Faults, limits: Mapping[str, float]) -> None:
        self._streams = streams
        self._faults = faults
        self._limits = limits
        self._connects: deque[int] = deque()
        self.sessions: dict[int, BinanceSession] = {}
        self.asked = 0  # subscriptions ever made

    def accept(self, number: int, path: str, query: Mapping[str, str], now: int) -> BinanceSession | Reply:
        """Return a new session, or how the handshake is refused. ``path`` may hold stream names."""
        if fault := self._faults.find("maintenance", NAME):
            return Reply(503, b"", retry_after(fault.retry_after_s))
        if fault := self._faults.find("connect", NAME):
            return Reply(fault.status, b"", retry_after(fault.retry_after_s))
        head, _, rest = path.lstrip("/").partition("/")
        if head not in ("ws", "stream"):
            return Reply(404, b"")
        while self._connects and self._connects[0] <= now - 300 * SECOND:
            self._connects.popleft()
        if len(self._connects) >= self._limits["connects_per_5min"]:
            return Reply(429, b"", retry_after(-((now - self._connects[0] - 300 * SECOND) // SECOND)))
        self._connects.append(now)
        micro = query.get("timeUnit", "").upper() == "MICROSECOND"
        session = BinanceSession(
            number,
            now,
            combined=head == "stream",
            unit=US if micro else MS,
            burst=int(self._limits["messages_per_s"]),
        )
        self.sessions[number] = session
        names = query.get("streams", "") if head == "stream" else rest
        self._subscribe(session, [name for name in names.split("/") if name])
        return session

    def closed(self, session: Session) -> None:
        """Forget a session."""
        mine = self.sessions.pop(session.number, None)
        if mine is not None:
            self._unsubscribe(mine, list(mine.streams))

    def heartbeat(self, session: Session, now: int) -> None:
        """Count a message of the client and close where they are too many."""
        stamps = self.sessions[session.number].stamps
        if len(stamps) == stamps.maxlen and now - stamps[0] < SECOND:
            session.close = (1008, "Too many requests")
        stamps.append(now)

    def receive(self, session: Session, text: str, now: int) -> None:
        """Answer a control message."""
        self.heartbeat(session, now)
        try:
            answer = self._handle(self.sessions[session.number], text)
        except _Wrong as e:
            answer = e.answer
        if not self._faults.find("no_ack", NAME):
            session.out.append(msgspec.json.encode(answer))

    def _handle(self, session: BinanceSession, text: str) -> dict[str, object]:
        try:
            message: object = msgspec.json.decode(text)
        except msgspec.DecodeError as e:
            raise _Wrong(3, "Invalid JSON: expected value at line 1 column 1") from e
        fields = _fields(message)
        if fields is None or "method" not in fields:
            raise _Wrong(2, f"Invalid request: missing field `method` at line 1 column {len(text)}")
        method = fields["method"]
        if method not in _METHODS:
            names = ", ".join(f"`{name}`" for name in _METHODS)
            wrong = f"unknown variant `{method}`, expected one of {names} at line 1 column {len(text)}"
            raise _Wrong(2, f"Invalid request: {wrong}")
        request = _request_id(fields.get("id"))
        params = fields.get("params")
        match method:
            case "LIST_SUBSCRIPTIONS":
                return {"result": list(session.streams), "id": request}
            case "GET_PROPERTY" | "SET_PROPERTY":
                return {"result": self._property(session, method, params, request), "id": request}
            case _:
                names = _names(params, len(text))
                if method == "SUBSCRIBE":
                    self._subscribe(session, names)
                else:
                    self._unsubscribe(session, names)
                return {"result": None, "id": request}

    def _property(
        self, session: BinanceSession, method: str, params: object, request: int | str | None
    ) -> bool | None:
        values = _items(params)
        if not values or not isinstance(values[0], str):
            raise _Wrong(2, "Invalid request: property name must be a string")
        if len(values) > (1 if method == "GET_PROPERTY" else 2):
            raise _Wrong(2, "Invalid request: too many parameters")
        if values[0] != "combined":
            raise _Wrong(0, "Unknown property", request)
        if method == "GET_PROPERTY":
            return session.combined
        if len(values) < 2 or not isinstance(values[1], bool):
            raise _Wrong(1, "Invalid value type: expected Boolean")
        heard = [stream for stream in session.streams.values() if stream is not None]
        for stream in heard:
            stream.remove(session)
        session.combined = values[1]
        for stream in heard:
            stream.add(session)
        return None

    def _subscribe(self, session: BinanceSession, names: Sequence[str]) -> None:
        if len(session.streams.keys() | set(names)) > self._limits["streams_per_connection"]:
            session.close = (1008, "Too many streams")  # chosen: no error is documented for it
            return
        for name in names:
            stream = self._streams.get(name)
            if session.streams.get(name) is not None:
                continue
            if stream is not None and self._silent(stream.symbol):
                stream = None  # an unknown name is acknowledged, and so is this one
            session.streams[name] = stream
            self.asked += 1
            if stream is not None:
                stream.add(session)

    def _silent(self, symbol: str) -> bool:
        find = self._faults.find
        return any(find(kind, NAME, symbol) for kind in ("refuse", "unlist", "silent_ack"))

    def _unsubscribe(self, session: BinanceSession, names: Iterable[str]) -> None:
        for name in names:
            stream = session.streams.pop(name, None)
            if stream is not None:
                stream.remove(session)

    def announce(self, session: Session, now: int) -> None:
        """Say that the connection will be dropped."""
        mine = self.sessions[session.number]
        payload = b'{"e":"serverShutdown","E":%d}' % (now // mine.unit)
        wrapped = b'{"stream":"!serverShutdown","data":%b}' % payload
        mine.out.append(wrapped if mine.combined else payload)


def _fields(message: object) -> dict[str, object] | None:
    return message if isinstance(message, dict) else None  # pyright: ignore[reportUnknownVariableType]


def _items(params: object) -> list[object]:
    return params if isinstance(params, list) else []  # pyright: ignore[reportUnknownVariableType]


def _names(params: object, column: int) -> list[str]:
    if not isinstance(params, list):
        raise _Wrong(2, f"Invalid request: missing field `params` at line 1 column {column}")
    items = _items(params)  # pyright: ignore[reportUnknownArgumentType]
    names = [item for item in items if isinstance(item, str)]
    if len(names) != len(items):
        raise _Wrong(2, "Invalid request: property name must be a string")
    return names


def _request_id(value: object) -> int | str | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if isinstance(value, str) and len(value) <= _MOST_ID and value.isalnum():
        return value
    raise _Wrong(2, "Invalid request: request ID must be an unsigned integer")


def retry_after(seconds: float | None) -> dict[str, str]:
    """Return the header that says when to come back; none for None."""
    return {} if seconds is None else {"Retry-After": str(int(seconds))}
