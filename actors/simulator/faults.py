"""What can go wrong on purpose, and what is wrong at the moment.

A fault is asked for at the control port. Some live in the frames of a session (``Hurt``), some in what
a venue answers (it asks ``Faults.find``), some in the sockets, which the server does by itself.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from typing import Final, Literal, get_args

import msgspec

from actors.model.events import Channel
from actors.simulator.session import Binary

FrameKind = Literal[
    "gap", "duplicate", "reorder", "corrupt", "null_price", "oversize", "crossed", "checksum", "silence"
]
SocketKind = Literal["drop", "reset", "half_open", "slow", "shutdown"]
VenueKind = Literal[
    "refuse",
    "unlist",
    "silent_ack",
    "no_ack",
    "rest",
    "stale_snapshot",
    "maintenance",
    "connect",
    "clock",
    "renumber",
]
Kind = FrameKind | SocketKind | VenueKind
Corruption = Literal["truncated", "garbage", "utf8", "binary", "nan", "huge", "negative", "number"]

FRAME_KINDS: Final[tuple[str, ...]] = get_args(FrameKind)
_TIMED_S: Final = {"silence": 10.0, "half_open": 120.0, "slow": 10.0, "maintenance": 10.0, "shutdown": 3.0}
_COUNTED: Final = {
    "gap", "duplicate", "reorder", "corrupt", "null_price", "oversize", "crossed", "checksum", "renumber"
}  # fmt: skip
EDITS: Final = ("crossed", "checksum")  # only a venue knows how


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fault, as the control port takes it.

    ======================== ===========================================================================
    kind                     what happens
    ======================== ===========================================================================
    gap                      the next ``count`` frames are not sent
    duplicate                ... are sent twice
    reorder                  ... change places with the one that follows
    corrupt                  ... are damaged, see ``how``
    null_price               ... carry null for the first price
    oversize                 ... grow to ``size`` bytes
    crossed                  ... of a book carry a bid above the best ask that is not there
    checksum                 ... of a book carry a wrong checksum, where the venue sends one
    silence                  frames are withheld and lost for ``for_s``; pings are answered
    drop                     connections close with ``code`` (1001) and ``reason``
    reset                    connections are reset (RST)
    half_open                connections neither read nor write, then are reset after ``for_s``
    slow                     connections get ``bytes_per_s`` for ``for_s``
    shutdown                 connections are told of the shutdown and close after ``for_s``
    refuse                   subscriptions are refused; where the venue never does, they stay silent
    unlist                   ``symbol`` is not listed
    silent_ack               as ``refuse``, for everything
    no_ack                   requests are honoured and not answered
    rest                     requests (``path``: only those that begin so) are answered after ``delay_s``
                             with ``status`` (0: normally) and ``retry_after_s``
    stale_snapshot           book snapshots are as they were ``back`` changes ago
    maintenance              everybody is dropped, connections and requests get 503 for ``for_s``
    connect                  handshakes are refused with ``status``
    clock                    the venue's clock is off by ``offset_s``
    renumber                 a book's sequence begins anew at a low number, where that may happen (OKX)
    ======================== ===========================================================================

    ``venue``, ``symbol``, ``channel``, ``connection`` narrow it; none given means all. ``count`` frames
    (default 1 where frames are counted) or requests, ``for_s`` seconds; neither: until it is cleared.
    It begins after ``after_s`` and comes ``times`` times, ``every_s`` apart.
    """

    kind: Kind
    venue: str | None = None
    symbol: str | None = None
    channel: Channel | None = None
    connection: int | Literal["oldest", "newest"] | None = None
    count: int | None = None
    for_s: float | None = None
    after_s: float = 0.0
    times: int = 1
    every_s: float = 0.0
    how: Corruption = "truncated"
    code: int = 1001
    reason: str = ""
    status: int = 429
    retry_after_s: int | None = None
    delay_s: float = 0.0
    path: str = ""
    size: int = 8 * 1024 * 1024
    bytes_per_s: float = 5_000.0
    back: int = 1_000
    offset_s: float = 0.0

    def __post_init__(self) -> None:
        """Check what the types cannot say."""
        for name in ("count", "for_s", "after_s", "every_s", "delay_s", "size", "bytes_per_s", "back"):
            value: float | None = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, it is {value}")
        if self.count == 0 or self.times < 1:
            raise ValueError("count and times are at least 1")
        if self.times > 1 and not self.every_s:
            raise ValueError("times needs every_s")
        if self.kind in ("drop", "shutdown") and not (1000 <= self.code < 5000):
            raise ValueError(f"code is a WebSocket close code, 1000 to 4999, not {self.code}")

    def seconds(self) -> float | None:
        """Return how long it lasts; None where something else ends it."""
        return self.for_s if self.for_s is not None else _TIMED_S.get(self.kind)

    def frames(self) -> int | None:
        """Return how many frames or requests it is good for; None where time ends it."""
        if self.count is not None or self.kind not in _COUNTED or self.for_s is not None:
            return self.count
        return 1


_DECIMAL: Final = re.compile(rb'"\d+\.\d+"|(?<=[:\[,])\d+\.\d+(?=[,}\]])')  # in quotes, or bare


def _price(replacement: bytes) -> Callable[[bytes], bytes]:
    return lambda payload: _DECIMAL.sub(replacement, payload, count=1)


def _number(payload: bytes) -> bytes:
    def other(found: re.Match[bytes]) -> bytes:
        text = found.group()
        return text[1:-1] if text.startswith(b'"') else b'"%b"' % text

    return _DECIMAL.sub(other, payload, count=1)


def _negative(payload: bytes) -> bytes:
    return _DECIMAL.sub(lambda found: re.sub(rb"\d", rb"-\g<0>", found.group(), count=1), payload, count=1)


_CORRUPTIONS: Final[dict[Corruption, Callable[[bytes], bytes]]] = {
    "truncated": lambda payload: payload[: len(payload) // 2],
    "garbage": lambda payload: payload[::-1],
    "utf8": lambda payload: payload[: len(payload) // 2] + b"\xff\xfe" + payload[len(payload) // 2 :],
    "binary": Binary,
    "nan": _price(b'"NaN"'),
    "huge": _price(b'"1e400"'),
    "negative": _negative,
    "number": _number,
}


def _oversize(size: int) -> Callable[[bytes], bytes]:
    def grow(payload: bytes) -> bytes:
        pad = b"x" * max(0, size - len(payload) - len(b',"pad":""'))
        return payload[:-1] + b',"pad":"' + pad + b'"}'

    return grow


class Hurt:
    """One fault in the frames of one session."""

    __slots__ = ("_channel", "_edit", "_held", "_kind", "_left", "_symbol", "id")

    def __init__(self, fault_id: int, fault: Fault, edits: Mapping[str, Callable[[bytes], bytes]]) -> None:
        self.id = fault_id
        self._kind = fault.kind
        self._channel = fault.channel
        self._symbol = fault.symbol
        self._left = fault.frames()
        self._held: bytes | None = None
        if fault.kind in EDITS:
            self._channel = "book"
        self._edit = {
            "null_price": _price(b"null"),
            "oversize": _oversize(fault.size),
            **_CORRUPTIONS,
            **edits,
        }.get(fault.how if fault.kind == "corrupt" else fault.kind)

    def matches(self, channel: Channel, symbol: str) -> bool:
        """Tell whether it is about such frames."""
        return self._channel in (None, channel) and self._symbol in (None, symbol)

    def mutes(self, symbol: str | None) -> bool:
        """Tell whether nothing at all of a symbol comes through, None: of none: a silence of no channel."""
        return self._kind == "silence" and self._channel is None and self._symbol in (None, symbol)

    @property
    def spent(self) -> bool:
        """True when it has done what it was told."""
        return self._left is not None and self._left <= 0

    def apply(self, payload: bytes) -> list[bytes]:
        """Return what goes out instead."""
        if self.spent:
            return [payload]
        if self._kind == "reorder":
            if self._held is None:
                self._held = payload
                return []
            held, self._held = self._held, None
            self._count()
            return [payload, held]
        if self._kind in EDITS and self._edit is not None and self._edit(payload) == payload:
            return [payload]  # a frame that cannot have it: the next one may
        self._count()
        if self._edit is not None:
            edited = self._edit(payload)
            return [Binary(edited) if type(payload) is Binary else edited]
        return [payload, payload] if self._kind == "duplicate" else []

    def _count(self) -> None:
        if self._left is not None:
            self._left -= 1


class Active:
    """A fault that has begun."""

    __slots__ = ("fault", "hit", "id", "left", "until")

    def __init__(self, fault_id: int, fault: Fault, now: int) -> None:
        self.id = fault_id
        self.fault = fault
        self.hit: list[int] = []  # numbers of the connections
        seconds = fault.seconds()
        self.until = None if seconds is None else now + int(seconds * 1e9)
        self.left = fault.frames() if fault.kind not in FRAME_KINDS else None


class Faults:
    """Everything that is wrong now, and what will be."""

    def __init__(self) -> None:
        self.active: dict[int, Active] = {}
        self._waiting: list[tuple[int, int, Fault]] = []  # a heap: when, id, what
        self._last = 0

    def ask(self, fault: Fault, now: int) -> int:
        """Take a request; it begins when ``due`` returns it. Return its id."""
        self._last += 1
        for n in range(fault.times):
            at = now + int((fault.after_s + n * fault.every_s) * 1e9)
            heappush(self._waiting, (at, self._last, fault))
        return self._last

    def due(self, now: int) -> list[Active]:
        """Return what begins now; it is active from here on."""
        begun: list[Active] = []
        while self._waiting and self._waiting[0][0] <= now:
            _, fault_id, fault = heappop(self._waiting)
            active = Active(fault_id, fault, now)
            self.active[fault_id] = active
            begun.append(active)
        return begun

    def expired(self, now: int) -> list[Active]:
        """Return what ends now; it is not active any more."""
        ended = [
            active for active in self.active.values() if active.until is not None and active.until <= now
        ]
        for active in ended:
            del self.active[active.id]
        return ended

    def done(self, active: Active) -> None:
        """Take note that a fault has no more to do; its repetitions still come."""
        self.active.pop(active.id, None)

    def clear(self, fault_id: int | None = None) -> list[Active]:
        """End one fault, or all, at once, the waiting ones too; return those that were active."""
        ended = [active for active in self.active.values() if fault_id in (None, active.id)]
        for active in ended:
            del self.active[active.id]
        self._waiting = [each for each in self._waiting if fault_id not in (None, each[1])]
        return ended

    def waiting(self) -> Iterable[tuple[int, int, Fault]]:
        """Return what has not begun: when (ns), id, what; soonest first."""
        return sorted(self._waiting, key=lambda each: each[:2])

    def find(self, kind: VenueKind, venue: str, symbol: str | None = None, path: str = "") -> Fault | None:
        """Return the first such fault that is active, and count one request of it."""
        for active in list(self.active.values()):
            fault = active.fault
            if (
                fault.kind == kind
                and fault.venue in (None, venue)
                and (fault.symbol is None or fault.symbol == symbol)
                and path.startswith(fault.path)
            ):
                if active.left is not None:
                    active.left -= 1
                    if active.left <= 0:
                        del self.active[active.id]
                return fault
        return None
