"""The native protocol's words (``docs/native.md``): requests, answers, and the envelope of an event.

An event goes out as it stands in its stream, undecoded, in an envelope with its subscription and cursor::

    {"id":1,"cursor":"binance.0/events/1763712000000-55","event":{"kind":"trade",...}}

``"snapshot":true`` between the two marks a state, not an event: what to begin with, or what replaces
what was not sent. Every other message of the server has ``op``, or ``live``, ``skipped`` or ``rollback``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from actors.model.instruments import canonical

PROTOCOL: Final = 1
StreamName = Literal["events", "books", "flow"]
Code = Literal[
    "bad_json", "bad_request", "unknown_op", "unknown_kind", "unknown_venue", "unknown_symbol",
    "unknown_slow", "unknown_id", "duplicate_id", "bad_cursor", "too_many_subscriptions", "unavailable",
]  # fmt: skip

# What may be delivered of each stream. The venue's raw books and its own L1 (in ``events``) are the
# bookbuilder's business; ticks and instruments nobody's.
OF_STREAM: Final[dict[StreamName, tuple[str, ...]]] = {
    "events": ("trade", "ticker", "liquidation", "open_interest", "funding", "gap", "status"),
    "books": ("book", "l1", "gap"),
    "flow": ("cvd", "gap"),
}
KINDS: Final = tuple(dict.fromkeys(kind for kinds in OF_STREAM.values() for kind in kinds))
# Said without being asked for: who gets a symbol gets its holes and doubts.
DOUBTS: Final = frozenset({"gap", "status"})
# Each event replaces the one before; ``funding`` does not: a frame tells a part of it.
STATES: Final = frozenset({"book", "l1", "cvd", "ticker", "open_interest"})
SLOW: Final = ("close", "skip", "conflate")

_WILD: Final = frozenset("*?[")
_INTERVAL_MS: Final = 100  # of a view that names a depth only
_Names = Annotated[
    list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(min_length=1, max_length=1024)
]
_Id = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Refusal(Exception):
    """A request that cannot be followed; the connection goes on."""

    def __init__(self, code: Code, text: str, identity: int | None = None) -> None:
        super().__init__(text)
        self.code: Code = code
        self.id = identity


class View(NamedTuple):
    """States at most every ``interval_ms``, the newest of each; books whole, ``depth`` levels a side."""

    depth: int | None
    interval_ms: int


class Subscribe(msgspec.Struct, forbid_unknown_fields=True):
    """What is wanted; None: everything. ``cursors``: where to go on (``resume``), partition/stream -> id."""

    op: Literal["subscribe", "resume"]
    id: _Id
    kinds: _Names | None = None
    venues: _Names | None = None
    symbols: _Names | None = None
    snapshot: bool = True
    depth: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    interval_ms: Annotated[int, msgspec.Meta(ge=10, le=60_000)] | None = None
    slow: str = "close"
    cursors: dict[str, str] | None = None

    @property
    def view(self) -> View | None:
        """How states are to be thinned out, None: every change."""
        if self.depth is None and self.interval_ms is None:
            return None
        return View(self.depth, self.interval_ms or _INTERVAL_MS)


class Unsubscribe(msgspec.Struct, forbid_unknown_fields=True):
    """End a subscription."""

    op: Literal["unsubscribe"]
    id: _Id


class Ask(msgspec.Struct, forbid_unknown_fields=True):
    """``ping`` or ``list``; ``id`` comes back in the answer."""

    op: Literal["ping", "list"]
    id: _Id | None = None


Request = Subscribe | Unsubscribe | Ask
_OPS: Final[dict[str, type[Request]]] = {
    "subscribe": Subscribe, "resume": Subscribe, "unsubscribe": Unsubscribe, "ping": Ask, "list": Ask,
}  # fmt: skip


class _Head(msgspec.Struct):
    op: str
    id: Any = None


def _nearest(what: str, given: str, valid: Collection[str]) -> str:
    close = get_close_matches(given, valid, 1, 0.5)
    near = f", nearest is {close[0]!r}" if close else ""
    shown = [*valid][:20]
    more = f" and {len(valid) - len(shown)} more" if len(valid) > len(shown) else ""
    return f"unknown {what} {given[:64]!r}{near}: there are {', '.join(shown)}{more}"


def parse(text: str) -> Request:
    """Return the request that a client wrote.

    Raises:
        Refusal: It is none; says what is wrong and what is valid.
    """
    identity: int | None = None
    try:
        head = msgspec.json.decode(text, type=_Head)
        if isinstance(head.id, int) and not isinstance(head.id, bool):
            identity = head.id
        if head.op not in _OPS:
            raise Refusal("unknown_op", _nearest("op", head.op, _OPS), identity)
        request = msgspec.json.decode(text, type=_OPS[head.op])
    except msgspec.ValidationError as e:
        raise Refusal("bad_request", str(e), identity) from e
    except (msgspec.DecodeError, RecursionError) as e:
        raise Refusal("bad_json", f"a request is one JSON object: {e}", identity) from e
    if isinstance(request, Subscribe):
        _check(request)
    return request


def _check(request: Subscribe) -> None:
    if request.slow not in SLOW:
        raise Refusal("unknown_slow", _nearest("slow", request.slow, SLOW), request.id)
    for kind in request.kinds or ():
        if kind not in KINDS:
            raise Refusal("unknown_kind", _nearest("kind", kind, KINDS), request.id)
    if (request.cursors is None) == (request.op == "resume"):
        has = "needs" if request.op == "resume" else "takes no"
        raise Refusal("bad_request", f"{request.op} {has} cursors", request.id)


class Globs:
    """Symbols as a client names them. Each is held against the globs once: every line has one."""

    __slots__ = ("_globs", "_hash", "_known", "_wild")

    def __init__(self, globs: tuple[str, ...]) -> None:
        self._globs = globs
        self._hash = hash(globs)
        self._wild = [glob for glob in globs if not _WILD.isdisjoint(glob)]
        self._known: dict[str, bool] = dict.fromkeys(set(globs).difference(self._wild), True)

    def __contains__(self, symbol: str) -> bool:
        known = self._known.get(symbol)
        if known is None:
            known = self._known[symbol] = any(fnmatchcase(symbol, glob) for glob in self._wild)
        return known

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Globs) and self._globs == other._globs

    def __hash__(self) -> int:
        return self._hash

    def unmatched(self, symbols: Collection[str]) -> str | None:
        """Return a glob that matches none of ``symbols``, None: there is no such glob."""
        there = frozenset(symbols)
        for glob in self._globs:
            wild = not _WILD.isdisjoint(glob)
            if glob not in there and not (wild and any(fnmatchcase(symbol, glob) for symbol in symbols)):
                return glob
        return None


class Selector(NamedTuple):
    """Which events are wanted. ``symbols``: canonical ones; None: all."""

    kinds: frozenset[str]
    venues: frozenset[str]
    symbols: Globs | None

    @property
    def streams(self) -> list[StreamName]:
        """The streams that must be read for it: doubts alone do not ask for one more."""
        wanted = self.kinds - DOUBTS
        if not wanted:
            return [stream for stream, kinds in OF_STREAM.items() if self.kinds.intersection(kinds)]
        return [s for s, kinds in OF_STREAM.items() if s == "events" or wanted.intersection(kinds)]

    def passes(self, stream: StreamName, topic: "Topic") -> bool:
        """Tell whether an event of ``stream`` is wanted. One without a symbol concerns all of its venue."""
        return (
            topic.kind in self.kinds
            and topic.kind in OF_STREAM[stream]
            and topic.venue in self.venues
            and (topic.symbol is None or self.symbol(topic.symbol))
        )

    def symbol(self, symbol: str) -> bool:
        """Tell whether a symbol is wanted."""
        return self.symbols is None or symbol in self.symbols

    def split(self) -> tuple["Selector", "Selector"]:
        """Return what a view passes on as it comes, and what it thins out."""
        return (
            self._replace(kinds=self.kinds - STATES),
            self._replace(kinds=self.kinds & STATES),
        )


class Choice(NamedTuple):
    """A request, and what it means here: venue -> canonical symbols, in the order of the configuration."""

    request: Subscribe
    selector: Selector
    symbols: dict[str, list[str]]


def choose(request: Subscribe, there: Mapping[str, Sequence[str]]) -> Choice:
    """Return what a subscription matches of the venues and symbols that there are.

    Raises:
        Refusal: A venue or symbol that nothing here has.
    """
    for venue in request.venues or ():
        if venue not in there:
            raise Refusal("unknown_venue", _nearest("venue", venue, there), request.id)
    venues = [venue for venue in there if request.venues is None or venue in request.venues]
    kinds = frozenset(request.kinds or KINDS) | DOUBTS
    globs = None if request.symbols is None else Globs(tuple(map(canonical, request.symbols)))
    every = list(dict.fromkeys(symbol for venue in venues for symbol in there[venue]))
    strange = None if globs is None else globs.unmatched(every)
    if strange is not None:
        raise Refusal("unknown_symbol", _nearest("symbol", strange, every), request.id)
    wanted = Selector(kinds, frozenset(venues), globs)
    symbols = {venue: [s for s in there[venue] if wanted.symbol(s)] for venue in venues}
    matched = {venue: those for venue, those in symbols.items() if those}
    return Choice(request, wanted._replace(venues=frozenset(matched)), matched)


# ------------------------------------------------------------------------------------------ envelopes


class Topic(NamedTuple):
    """What an event is about, read from the first bytes of its line."""

    kind: str
    venue: str
    symbol: str | None


class _Topic(msgspec.Struct):
    kind: str
    venue: str
    symbol: str | None


AFTER_TOPIC: Final = b',"ts_event"'  # in every event line, right after kind, venue and symbol
NOT_A_TOPIC: Final = (msgspec.MsgspecError, UnicodeDecodeError)
_topic_of = msgspec.json.Decoder(_Topic).decode


def topic(start: bytes) -> Topic:
    """Return what a line is about. ``start``: it up to ``AFTER_TOPIC``.

    Raises:
        NOT_A_TOPIC: It is no event line.
    """
    read = _topic_of(start + b"}")
    return Topic(read.kind, read.venue, read.symbol)


def head(identity: int) -> bytes:
    """Return how every message of a subscription begins."""
    return b'{"id":%d,' % identity


def place(partition: str, stream: str, epoch: int) -> bytes:
    """Return the cursor of an event without its number."""
    return f'"cursor":"{partition}/{stream}/{epoch}-'.encode()


def event(where: bytes, k: int, line: bytes) -> bytes:
    """Return the message of event ``k``, but for its ``head``; ``where`` from ``place``."""
    return b'%b%d","event":%b}' % (where, k, line)


def state(where: bytes, k: int, line: bytes) -> bytes:
    """Return the same for a state as of event ``k``, which is no event itself."""
    return b'%b%d","snapshot":true,"event":%b}' % (where, k, line)


_encode = msgspec.json.Encoder().encode
Span = tuple[str, str]  # after, to: the events after the one, up to and with the other


def _spans(spans: Mapping[str, Span]) -> dict[str, dict[str, str]]:
    return {stream: {"after": after, "to": to} for stream, (after, to) in spans.items()}


def skipped(identity: int, reason: str, spans: Mapping[str, Span], events: int | None = None) -> bytes:
    """Return the notice of what is not sent: by ``<partition>/<stream>``, and how many where it is known."""
    said: dict[str, Any] = {"id": identity, "skipped": _spans(spans), "reason": reason}
    return _encode(said if events is None else said | {"events": events})


def rollback(identity: int, stream: str, span: Span) -> bytes:
    """Return the notice that events already sent never were."""
    return _encode({"id": identity, "rollback": _spans({stream: span})})


def live(identity: int, cursors: Mapping[str, str]) -> bytes:
    """Return the message that all up to ``cursors`` has been sent, and everything after them will be."""
    return _encode({"id": identity, "live": cursors})


def hello(**fields: Any) -> bytes:
    """Return the first message of a connection."""
    return _encode({"op": "hello", "protocol": PROTOCOL} | fields)


def heartbeat(now: int, stale: Iterable[str], cursors: Mapping[str, str] | None) -> bytes:
    """Return the sign of life: partitions not to be trusted now; how far all subscriptions have come."""
    said: dict[str, Any] = {"op": "heartbeat", "time": now, "stale": sorted(stale)}
    return _encode(said if cursors is None else said | {"cursors": cursors})


def subscribed(choice: Choice) -> bytes:
    """Return the answer to a subscription: what it matches."""
    return _encode({"op": "subscribed", "id": choice.request.id} | _described(choice))


def _described(choice: Choice) -> dict[str, Any]:
    request = choice.request
    view = request.view
    said: dict[str, Any] = {
        "kinds": [kind for kind in KINDS if kind in choice.selector.kinds],
        "symbols": choice.symbols,
        "slow": request.slow,
    }
    if view is not None:
        said |= {"depth": view.depth, "interval_ms": view.interval_ms}
    return said


def subscriptions(identity: int | None, choices: Iterable[Choice]) -> bytes:
    """Return the answer to ``list``."""
    of = [{"id": choice.request.id} | _described(choice) for choice in choices]
    return _encode(_answer("subscriptions", identity) | {"subscriptions": of})


def unsubscribed(identity: int) -> bytes:
    """Return the answer to ``unsubscribe``: nothing of it comes after this."""
    return _encode(_answer("unsubscribed", identity))


def pong(identity: int | None, now: int) -> bytes:
    """Return the answer to ``ping``."""
    return _encode(_answer("pong", identity) | {"time": now})


def error(refusal: Refusal) -> bytes:
    """Return the answer to a request that cannot be followed."""
    return _encode(_answer("error", refusal.id) | {"code": refusal.code, "message": str(refusal)})


def _answer(op: str, identity: int | None) -> dict[str, Any]:
    return {"op": op} if identity is None else {"op": op, "id": identity}
