"""What a venue is: one frozen record of values and pure functions (sans-I/O).

The connector opens what ``plan`` says and never looks into a frame; the normalizer calls ``decode``
with the connection's ``Scratch``; the bookbuilder reads ``book_rule``. Nothing else knows a venue.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from actors.model.decimals import price_text
from actors.model.errors import Unparseable
from actors.model.events import Channel, Event, Level, Verified
from actors.model.instruments import Instrument, MarketKind, Unusable, market_kind

Item = tuple[Channel, str]  # what one subscription is about: channel, canonical symbol
Operation = Literal[
    "instruments", "snapshot", "audit", "backfill", "open_interest", "ticker", "trade", "handshake"
]
T = TypeVar("T")
R = TypeVar("R")

_OF_CONTRACTS: Final[frozenset[Channel]] = frozenset(("liquidation", "open_interest", "funding"))


def items_of(symbols: Iterable[str], channels: Iterable[Channel]) -> list[Item]:
    """Return what there is to subscribe of ``symbols``, symbol by symbol, in the order of ``channels``.

    A spot pair has no liquidations, open interest or funding, on any venue.
    """
    every: list[Channel] = list(channels)
    spot: list[Channel] = [channel for channel in every if channel not in _OF_CONTRACTS]
    return [(c, symbol) for symbol in symbols for c in (spot if market_kind(symbol) == "spot" else every)]


class Endpoints(msgspec.Struct, frozen=True):
    """Where a venue listens, without a trailing slash; both overridable in the config."""

    ws: str
    rest: str


class Subscription(msgspec.Struct, frozen=True):
    """One frame to send and what it asks for. ``id``: what its answer will carry, or None.

    Without ``items`` it asks for nothing and is sent on each connection. ``answers``: how many frames the
    venue answers it with. Also the payload of an ``s`` line in ``raw``.
    """

    op: Literal["subscribe", "unsubscribe"]
    items: list[Item]
    frame: str
    id: int | None = None
    answers: int = 1


class Connection(msgspec.Struct, frozen=True):
    """One socket to open and what to send on it, in order."""

    url: str
    subscriptions: list[Subscription]


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """One REST request. ``path`` is appended to ``Endpoints.rest`` and carries the query.

    ``post``: by POST, with an empty body.
    """

    op: Operation
    path: str
    symbol: str | None = None  # canonical
    weight: int = 1
    first: str | None = None  # of a backfill: the range asked for, both ends included
    last: str | None = None
    post: bool = False


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A REST answer with its request: the payload of an ``h`` line in ``raw``.

    ``status`` 0: there was no answer, ``body`` says why. ``id`` is that of the control request,
    ``conn`` the connection that the answer is for.
    """

    request: Request
    status: int
    body: str
    id: str | None = None
    conn: str | None = None


class Scratch:
    """What ``decode`` may read of one connection, and the little it may keep.

    Attributes:
        conn: Connection id.
        recv: When the present frame came in, ns.
        instruments: By native symbol: what the connection may speak of.
        memory: The venue's own notes (channel ids and the like); JSON values only, they are checkpointed.
        venue: What its events are to say, for the venues that share a ``decode``.
        asked: What the connection was asked for, None where that is not known.
    """

    __slots__ = ("asked", "conn", "instruments", "memory", "recv", "venue")

    def __init__(
        self,
        conn: str,
        instruments: Mapping[str, Instrument],
        memory: dict[str, object] | None = None,
        venue: str = "",
        asked: Container[Item] | None = None,
    ) -> None:
        self.asked = asked
        self.conn = conn
        self.venue = venue
        self.recv = 0
        self.instruments = instruments
        self.memory: dict[str, object] = {} if memory is None else memory

    def wants(self, channel: Channel, symbol: str) -> bool:
        """Tell whether to give this, where a stream of the venue's brings several of our channels."""
        return self.asked is None or (channel, symbol) in self.asked


class Acked(msgspec.Struct, frozen=True):
    """The venue accepted: the subscription sent with ``id``, or ``items`` where it names them.

    With neither: the oldest that is unanswered, for venues that answer in order and without a name.
    With both: of what was sent with ``id`` those that are in ``items``; the rest is still unanswered.
    ``op``: what it accepted, where only ``items`` tell.
    """

    id: int | None = None
    items: Sequence[Item] | None = None
    op: Literal["subscribe", "unsubscribe"] = "subscribe"


class Refused(msgspec.Struct, frozen=True):
    """The venue refused: by ``id``, by ``items``, or (both None) what it does not say.

    What it does not say is the one thing unanswered; of several nobody can tell, and the frame is ``dead``.

    With both: of what was sent with ``id`` those that are in ``items``; the rest is still unanswered.
    ``whole``: the rest of that frame failed with ``items``, and is to be asked for again without them; with
    no ``items`` all of it, one by one, and with no ``id`` either it was the oldest that is unanswered.
    """

    reason: str
    id: int | None = None
    items: Sequence[Item] | None = None
    whole: bool = False


class Closing(msgspec.Struct, frozen=True):
    """The venue announced that it will drop this connection: open another at once."""

    reason: str


class Latest(msgspec.Struct, frozen=True):
    """``id`` is the latest trade of ``symbol``: those up to it that never came, and do not soon, are missing.

    For contiguous ids only.
    """

    symbol: str
    id: int


class Missed(msgspec.Struct, frozen=True):
    """Frames of this connection were lost on the way, nobody knows of which subscriptions.

    Books show it by their own numbers; all else is missing something unless another connection gives it.
    """


class Ignored(msgspec.Struct, frozen=True):
    """A frame that rightly gives nothing: ``heartbeat``, ``history``, ``unknown_channel``, ... Counted."""

    reason: str


Said = Acked | Refused | Closing | Latest | Missed | Ignored  # what a frame says that is no event
Decoded = Event | Said


class Book(Protocol):
    """What a checksum reads of a book: levels in the venue's own digits, whatever they were sent with."""

    def best_first(self, most: int, /) -> tuple[list[Level], list[Level]]:
        """Return bids and asks, best first, at most ``most`` a side."""
        ...


class BookRule(msgspec.Struct, frozen=True):
    """How a venue's book is put together and proved.

    Attributes:
        snapshot: ``rest`` (asked for), ``stream`` (the stream opens with one), ``every`` (each frame
            is a whole book).
        join: How the first delta touches the snapshot. ``range``: first_seq <= seq + 1 <= last_seq;
            ``next``: first_seq (or last_seq where there is none) == seq + 1; ``pointer``: prev_seq ==
            seq; ``overlap``: that, or first_seq <= seq < last_seq; ``none``: any delta that is not older.
        contained: With ``range``: a snapshot that ends just before the first delta does not do, it must have
            that delta's first number (Binance's words).
        chain: How a delta follows another; the same words. A delta with last_seq <= seq is old.
        checksum: The book after a change, pruned to ``depth`` -> what the event's ``checksum`` must be. None:
            nothing of the kind.
        depth: Levels a side that the venue guarantees; deeper ones are pruned. None: all.
        open_end: The stream tells of changes below ``depth``, too: what is left of the pruned ones is
            unknown, so a book that lost most of its levels wants another snapshot. Always so with ``rest``,
            and to be said where it is not documented: it costs snapshots, and no book is wrong.
        verified: What a live book of this venue may claim; ``audit`` once it has passed one.
        audit_s: How often a book is compared with what the venue's ``audit`` gives, s: where nothing in the
            stream proves it. None: never.
    """

    snapshot: Literal["rest", "stream", "every"]
    join: Literal["range", "next", "pointer", "overlap", "none"]
    chain: Literal["range", "next", "pointer", "none"]
    contained: bool = False
    checksum: Callable[[Book], int] | None = None
    depth: int | None = None
    open_end: bool = False
    verified: Verified = "sequence"
    audit_s: int | None = None

    def audited(self, every_s: int | None) -> "BookRule":
        """Return the rule with audits as often as a user says: 0 for never, None as the venue has it."""
        if self.audit_s is None or every_s is None:
            return self
        if every_s == 0:
            return msgspec.structs.replace(self, audit_s=None, verified="none")
        return msgspec.structs.replace(self, audit_s=every_s)

    @property
    def blind(self) -> bool:
        """No later frame shows for sure that a change is missing: a checksum is only of the best levels."""
        return self.snapshot != "every" and self.chain == "none"


class Limits(msgspec.Struct, frozen=True):
    """A venue's limits, each from its sheet.

    ``lifetime_s``: the venue cuts a connection at this age; ours is replaced before. ``frames_per_s``:
    what we may send on one connection. ``weight_per_minute``: REST budget of one address.
    ``connects_per_minute``: connection attempts of one address. ``weight_per_s``, ``connects_per_s``: in
    any second of it, where the venue counts so finely. ``subscriptions_per_hour``: frames that subscribe or
    end it, on one connection; at the last of them it is replaced. ``forbidden_s``: how long an address that
    is told 403 stays away.
    """

    items_per_connection: int
    frames_per_s: float
    weight_per_minute: int
    connects_per_minute: int
    lifetime_s: float | None = None
    max_frame_bytes: int = 4 * 1024 * 1024
    subscriptions_per_hour: int | None = None
    weight_per_s: int | None = None
    connects_per_s: int | None = None
    forbidden_s: float = 60.0  # chosen: a web firewall took offence


class Poll(msgspec.Struct, frozen=True):
    """A channel that no socket brings: asked of each instrument in turn, its request's ``op`` the channel's.

    ``every_s``: how often, where the budget leaves room. Of trades each answer is a page of the latest;
    ``catch_up`` asks for a longer one where there was no answer before, or none of use.
    """

    ask: Callable[[Instrument], Request]
    every_s: float
    catch_up: Callable[[Instrument], Request] | None = None


class Keepalive(msgspec.Struct, frozen=True):
    """A frame that the client must send each ``every_s``: some venues count nothing else as life."""

    frame: str
    every_s: float


class Handshake(msgspec.Struct, frozen=True):
    """What is asked by REST before each dial, and the address that comes of it.

    ``url``: (planned URL, body of the answer, an id that no other connection has) -> the URL to dial; raises
    only ``Unparseable``. Its query is a secret: it is neither logged nor recorded, nor is the answer.
    """

    request: Request
    url: Callable[[str, bytes, str], str]


_WRONG: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what a decoder raises


def read(what: str, decoder: msgspec.json.Decoder[T], text: bytes | msgspec.Raw) -> T:
    """Return ``text`` as ``decoder`` types it; whatever is wrong with it is ``Unparseable``.

    Args:
        what: Names the frame or body in the error.
        decoder: Of the typed payload; it checks presence and type of every field in one pass.
        text: One JSON document.

    Raises:
        Unparseable: Malformed, cut off, not UTF-8, nested without end, a field missing or of another type.
    """
    try:
        return decoder.decode(text)
    except _WRONG as e:
        raise Unparseable(f"{what}: {e}") from e


def decoding(
    what: str,
    kind: type[T],
    make: Callable[[T, Scratch], R],
    *,
    strict: bool = True,
    channel: Channel | None = None,
) -> Callable[[bytes | msgspec.Raw, Scratch], R]:
    """Return what reads a text as ``kind``, as ``read`` does, and gives what ``make`` makes of it.

    For tables that say what to do with which frame. ``channel``: all that is lost if it cannot be read.
    """
    decode = msgspec.json.Decoder(kind, strict=strict).decode

    def decoded(text: bytes | msgspec.Raw, scratch: Scratch) -> R:
        try:
            return make(decode(text), scratch)
        except Unparseable as e:
            e.channel = channel
            raise
        except _WRONG as e:
            raise Unparseable(f"{what}: {e}", channel) from e

    return decoded


def number_text(number: msgspec.Raw) -> str:
    """Return the digits of a JSON number as they were sent, whether it is bare or in quotes.

    For prices and sizes that come as numbers: a float would lose digits and trailing zeros. What is no
    number comes back as text that is none.
    """
    text = str(number, "latin-1")  # fails for no bytes
    return text[1:-1] if text[0] == '"' else text


def only_page(_request: Request, _body: bytes) -> Request | None:
    """Ask for no further page: what a venue that lists all at once does."""
    return None


def grant_nothing(_body: bytes) -> int | None:
    """Tell no budget: what a venue does whose listing says nothing of it."""
    return None


def answer_nothing(_frame: bytes) -> str | None:
    """Answer no frame: what a venue without pings of its own does."""
    return None


class Venue(msgspec.Struct, frozen=True, kw_only=True):
    """A venue. Siblings by ``msgspec.structs.replace``, not by inheritance.

    Attributes:
        markets: What it trades under this name, and so which symbols may be asked of it.
        plan: (endpoints, instruments, channels) -> connections with all ``items_of`` them; splits by
            ``limits``.
        subscribe: (items, instruments by symbol, first id) -> frames for an open connection.
        unsubscribe: The same, the other way. None: what an end must name only the venue's frames tell, so
            the connection is replaced.
        decode: (frame, scratch) -> what it says; raises only ``Unparseable``.
        decode_rest: (answer, scratch) -> events of a snapshot, backfill or poll (trades oldest first; a gap
            of its id for one that cannot be read); raises only ``Unparseable``. Called for answers of status
            200 only.
        instruments: REST requests that list the instruments; ``rows`` reads one such body, through
            ``listed``. An instrument that cannot be used is told apart (``Unusable``) and costs the others
            nothing.
        next_page: (request, its body) -> request for what a listing says of the rest, None at its end.
        granted: (body of a listing) -> the REST weight a minute that it grants an address, to be kept to
            instead of ``limits``; None where it says nothing that can be used.
        snapshot: Instrument -> request, or None where the stream brings it.
        audit: Instrument -> request for the book that ours is compared with, each ``book_rule.audit_s``.
        backfill: (instrument, first id, last id) -> request for at most ``backfill_most`` trades, or None.
        backfill_after: The same where trades are given by time only: (instrument, first id, last id, ns of
            the trade before them); of what comes ``decode_rest`` takes those ids.
        polls: Channels that are asked for by REST; ``trade`` only where ids are ``increasing``.
        answer: What must be sent back for this frame (inflated) at once (a ping), else None; a prefix test.
        inflate: How its binary frames are compressed text; None: they are not. Text is taken as it is.
        silence_s: Channel -> how long a subscription may be silent before it counts as silent; a
            channel not named may be silent for ever (quiet markets). ``Latest`` is a sign of life of all
            of its symbol.
        first_s: Channel -> how long its first frame may take after the acknowledgement, where the venue
            opens each subscription with one; where not named, as ``silence_s`` says.
        quiet_s: How long a connection that has a subscription may give nothing at all, heartbeats
            included, before it counts as dead; None: as long as the least of ``silence_s``. Where there are
            no heartbeats its markets may only be quiet: it is then replaced ever more rarely.
        rate_alone: Mark and index come on channels of their own, and prove nothing of the funding rate.
        handshake: What a connection needs before it is dialed, None for nothing.
        greeting: Tells whether the first frame is the one before which nothing may be sent; a prefix test.
            What else the venue says first is a refusal. None: one may speak at once.
        stamp: (frame, s since the epoch) -> the frame with the time of its sending, where one must bear it.
        trade_ids: ``contiguous`` (each id one above the last: a jump is a hole), ``increasing``,
            ``unordered``.
    """

    name: str
    markets: frozenset[MarketKind]
    endpoints: Endpoints
    channels: frozenset[Channel]
    limits: Limits
    book_rule: BookRule
    trade_ids: Literal["contiguous", "increasing", "unordered"]
    silence_s: Mapping[str, float]
    plan: Callable[[Endpoints, Sequence[Instrument], Sequence[Channel]], list[Connection]]
    subscribe: Callable[[Sequence[Item], Mapping[str, Instrument], int], list[Subscription]]
    unsubscribe: Callable[[Sequence[Item], Mapping[str, Instrument], int], list[Subscription]] | None
    decode: Callable[[bytes, Scratch], list[Decoded]]
    decode_rest: Callable[[Answer, Scratch], list[Event]]
    instruments: Sequence[Request]
    rows: Callable[[bytes], Sequence[Instrument | Unusable]]
    next_page: Callable[[Request, bytes], Request | None] = only_page
    granted: Callable[[bytes], int | None] = grant_nothing
    snapshot: Callable[[Instrument], Request] | None = None
    audit: Callable[[Instrument], Request] | None = None
    backfill: Callable[[Instrument, str, str], Request] | None = None
    backfill_after: Callable[[Instrument, str, str, int], Request] | None = None
    backfill_most: int = 1000
    polls: Mapping[Channel, Poll] = {}
    first_s: Mapping[str, float] = {}
    quiet_s: float | None = None
    rate_alone: bool = False
    answer: Callable[[bytes], str | None] = answer_nothing
    inflate: Literal["gzip"] | None = None
    keepalive: Keepalive | None = None
    stamp: Callable[[str, int], str] | None = None
    handshake: Handshake | None = None
    greeting: Callable[[bytes], bool] | None = None


def listed(venue: Venue, body: bytes) -> list[Instrument | Unusable]:
    """Return the instruments of one page of a venue's list, with steps that are plain decimal text.

    A step that is no number is none: it only informs. One without a name cannot be used.

    Raises:
        Unparseable: The body is no such page.
    """
    return [_judged(row) if isinstance(row, Instrument) else row for row in venue.rows(body)]


def _judged(row: Instrument) -> Instrument | Unusable:
    if not (row.native and row.base and row.quote):
        reason = f"no name: {row.native!r} of {row.base!r} and {row.quote!r}"
        return Unusable(row.symbol, row.native, reason[:200])
    steps = _step(row.price_step), _step(row.size_step)
    if steps == (row.price_step, row.size_step):
        return row
    return msgspec.structs.replace(row, price_step=steps[0], size_step=steps[1])


def _step(text: str | None) -> str | None:
    try:
        return None if text is None else price_text(text)
    except Unparseable:
        return None
