"""Every event of the pipeline: frozen structs, a tagged union on ``kind``.

Times are ns since the epoch, UTC; ``ts_event`` is the venue's (None: it gave none), ``ts_recv`` ours.
Prices and sizes are decimal text with the venue's own digits. ``seq`` is the venue's own number.
An event's own number ``k`` is not in it: it is its place in its stream (see ``streams``).
The schema only grows by optional fields; anything else raises ``SCHEMA_VERSION``.
"""

from typing import Final, Literal

import msgspec

SCHEMA_VERSION = 1
SECOND: Final = 1_000_000_000  # ns
MS: Final = 1_000_000  # ns
STALE_S: Final = 3.0  # DESIGN 4: no tick for so long, and what is delivered is stale

Level = tuple[str, str]  # price, size
Aggressor = Literal["buy", "sell"]  # the taker: "buy" crossed the spread upwards
Unit = Literal["base", "contracts"]
BookState = Literal["live", "resyncing", "stale", "crossed", "empty"]
Verified = Literal["sequence", "checksum", "audit", "none"]
Cause = Literal["disconnect", "sequence", "checksum", "crossed", "retention", "rollback", "overflow"]
StatusState = Literal["wanted", "subscribed", "live", "stale", "resyncing", "refused", "unsubscribed", "down"]
Channel = Literal["trade", "book", "l1", "ticker", "liquidation", "open_interest", "funding"]


class Event(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True, gc=False):
    """What all events have. ``symbol`` None: the event is about a whole connection or venue."""

    venue: str
    symbol: str | None
    ts_event: int | None
    ts_recv: int
    seq: int | None


class Trade(Event, frozen=True, tag="trade", gc=False):
    """One trade, or a run of fills the venue reports as one (``first_id`` to ``id``)."""

    id: str
    price: str
    size: str  # base currency
    aggressor: Aggressor
    first_id: str | None = None
    contracts: str | None = None
    backfilled: bool = False


class BookSnapshot(Event, frozen=True, tag="book_snapshot", gc=False):
    """A whole book as the venue sent it. Levels best first; ``conn`` is the connection it joins.

    ``depth``: levels a side that the venue guarantees, None for all. ``audit``: to compare the book of
    ``conn`` with, which goes on; it may be cut at any level.
    """

    conn: str
    bids: list[Level]
    asks: list[Level]
    unit: Unit = "base"
    first_seq: int | None = None
    last_seq: int | None = None
    prev_seq: int | None = None
    checksum: int | None = None
    depth: int | None = None
    audit: bool = False


class BookDelta(Event, frozen=True, tag="book_delta", gc=False):
    """Changed levels in the venue's order. Sizes are absolute, zero removes the level.

    ``level_seqs``: the venue's number of each level of ``bids``, then of ``asks``, where it gives them and
    a snapshot may fall in between.
    """

    conn: str
    bids: list[Level]
    asks: list[Level]
    unit: Unit = "base"
    first_seq: int | None = None
    last_seq: int | None = None
    prev_seq: int | None = None
    checksum: int | None = None
    depth: int | None = None
    level_seqs: list[int] | None = None


class L1(Event, frozen=True, tag="l1", gc=False):
    """Best bid and offer; None in a pair when that side is empty. Sizes in base currency."""

    bid: str | None
    bid_size: str | None
    ask: str | None
    ask_size: str | None


class Ticker(Event, frozen=True, tag="ticker", gc=False):
    """A venue's rolling 24 h summary; None where the venue is silent."""

    last: str | None = None
    open: str | None = None
    high: str | None = None
    low: str | None = None
    volume_base: str | None = None
    volume_quote: str | None = None


class Liquidation(Event, frozen=True, tag="liquidation", gc=False):
    """A forced order: ``side`` is the order's, ``position`` the one liquidated."""

    side: Aggressor
    position: Literal["long", "short"]
    price: str
    size: str  # base currency
    contracts: str | None = None


class OpenInterest(Event, frozen=True, tag="open_interest", gc=False):
    """Open contracts, in contracts, base currency and quote notional; None where unknown."""

    contracts: str | None
    base: str | None
    notional: str | None


class Funding(Event, frozen=True, tag="funding", gc=False):
    """What one frame said of funding, mark and index; at least one is there."""

    rate: str | None = None
    predicted_rate: str | None = None
    mark: str | None = None
    index: str | None = None
    next_ts: int | None = None


class Book(Event, frozen=True, tag="book", gc=False):
    """The published book: a snapshot, or the change since event ``prev`` of the same symbol.

    Sizes in base currency. A snapshot's levels stand best first; a delta's stand as the venue ordered
    them, zero removes one. ``prev`` is the ``k`` of the symbol's ``book`` event before this one in
    ``books``, 0 for the first. Only ``live`` books may be traded on; an event in another state carries
    no levels. ``periodic``: a snapshot that only repeats what the deltas say.
    """

    type: Literal["snapshot", "delta"]
    prev: int
    state: BookState
    verified: Verified
    bids: list[Level]
    asks: list[Level]
    periodic: bool = False


class Cvd(Event, frozen=True, tag="cvd", gc=False):
    """Cumulative volume delta after one trade: buys minus sells by aggressor, running sums."""

    delta_base: str
    delta_quote: str


class Gap(Event, frozen=True, tag="gap", gc=False):
    """A hole: what of ``channel`` is missing, from ``first`` to ``last`` (None: not known).

    ``filled`` False when found; a second gap with the same range and True closes it. For trades the
    range is trade ids, for books sequences, for ``retention`` and ``rollback`` the input's ``k``.
    """

    channel: Channel | None
    cause: Cause
    first: str | None
    last: str | None
    filled: bool = False
    conn: str | None = None


class Status(Event, frozen=True, tag="status", gc=False):
    """The state of a channel, or with ``channel`` None of a whole connection (``conn``)."""

    channel: Channel | None
    state: StatusState
    reason: str
    conn: str | None = None


class Tick(Event, frozen=True, tag="tick", gc=False):
    """Time, and only time (``ts_recv``); never delivered."""


class InstrumentEvent(Event, frozen=True, tag="instrument", gc=False):
    """An instrument before its first event and on each change; never delivered."""

    native: str
    base: str
    quote: str
    contract_size: str | None = None
    contract_kind: Literal["linear", "inverse"] | None = None
    price_step: str | None = None
    size_step: str | None = None


AnyEvent = (
    Trade
    | BookSnapshot
    | BookDelta
    | L1
    | Ticker
    | Liquidation
    | OpenInterest
    | Funding
    | Book
    | Cvd
    | Gap
    | Status
    | Tick
    | InstrumentEvent
)
