"""What every venue has: listings as it shows them, visitors, limits, faults, and the truth about it all."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from actors.model.events import SECOND
from actors.simulator.book import Forgotten
from actors.simulator.derivatives import base_text
from actors.simulator.faults import Fault, Faults, VenueKind
from actors.simulator.market import Fixed, Listing, Live, Market, fixed
from actors.simulator.session import Rate, Reply, Session

GOODBYES: Final[Mapping[str, tuple[int, str]]] = {
    "pong": (1008, "Pong timeout"),
    "idle": (1000, "nothing was said for too long"),
    "age": (1001, "the connection has reached its age"),
}
KEEP_TOLD: Final = 1 << 16  # chosen: an hour and more of one book, 10 MiB at worst

Handler = Callable[[Mapping[str, str], int], Reply]
"""Query of a request, now in ns -> answer."""


class Truth(NamedTuple):
    """What a venue knows of one of its instruments, for the control port."""

    oldest: int  # the first sequence that can be asked for
    newest: int
    first_trade: int
    next_trade: int


class TrueTrade(msgspec.Struct, frozen=True):
    """One trade of the tape; ``ts`` in ns."""

    id: str
    ts: int
    price: str
    size: str
    aggressor: str


class TrueLiquidation(msgspec.Struct, frozen=True):
    """One position that was closed by force; ``side`` is that of the order, ``size`` base currency."""

    id: str
    ts: int
    side: str
    position: str
    price: str
    contracts: str
    size: str


class TrueBook(NamedTuple):
    """A book as it was: texts of price and size, best first."""

    seq: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


class Shop:
    """One listing as its venue shows it: numbers as text, and the truth.

    A venue whose books carry no sequence notes with ``told`` which one stood behind which time, so that
    a book can be asked for by what its readers know of it.
    """

    def __init__(self, live: Live, shown: int | None = None, *, trim: bool = False) -> None:
        """Take how many decimals the venue writes; None: those of the listing's steps.

        ``trim``: without the zeros that mean nothing.
        """
        listing = live.listing
        self.live = live
        self.listing = listing
        self.symbol = listing.symbol
        self.native = listing.native.encode()
        self.price = Fixed(listing.price_step, shown, trim=trim)
        self.size = Fixed(listing.size_step, shown, trim=trim)
        self.identity: Callable[[int], str] = str  # a trade's number -> its id, in the venue's words
        self.stride = 1  # from one change's number to the next one's, where the venue counts all its books
        self.offset = 0  # the market's sequence less the venue's, which may have begun anew
        self._decimals = sum(len(step.partition(".")[2]) for step in (listing.price_step, listing.size_step))
        self._told: dict[int, int] = {}

    def quote(self, amount: int, decimals: int) -> bytes:
        """Return steps times lots as quote currency."""
        exact = amount * self.price.unit * self.size.unit
        more = decimals - self._decimals
        return fixed(exact * 10**more if more >= 0 else exact // 10**-more, decimals)

    def told(self, ts: int) -> None:
        """Note that the book of now is what the venue tells with time ``ts`` (ns)."""
        if len(self._told) >= KEEP_TOLD:
            del self._told[next(iter(self._told))]
        self._told[ts] = self.number(self.live.book.sequence)

    @property
    def timed(self) -> bool:
        """Whether its books are told by their time: the venue's own numbers are not the book's."""
        return bool(self._told)

    def sequence(self, ts: int) -> int:
        """Return the sequence of the book that was told with a time.

        Raises:
            Forgotten: None was, or it is too long ago.
        """
        try:
            return self._told[ts]
        except KeyError:
            raise Forgotten(f"no book of {self.symbol} was told with time {ts}") from None

    def truth(self) -> Truth:
        """Return what there is to be asked."""
        book, tape = self.live.book, self.live.tape
        oldest = max(0, self.number(book.oldest))
        return Truth(oldest, self.number(book.sequence), tape.first, tape.next)

    def number(self, sequence: int) -> int:
        """Return the venue's number of a change of the book."""
        return (sequence - self.offset) * self.stride

    def book(self, sequence: int | None = None, most: int | None = None, *, base: bool = False) -> TrueBook:
        """Return the best ``most`` levels a side as they were at a sequence (None: now).

        ``base``: sizes in base currency, whatever the venue counts.

        Raises:
            Forgotten: That sequence is not known, or not any more.
        """
        book = self.live.book
        at = book.sequence if sequence is None else sequence // self.stride + self.offset
        if sequence is not None and self.number(at) != sequence:
            raise Forgotten(f"no change of {self.symbol} has number {sequence}")
        levels = book.depth(most) if sequence is None else book.at(at, most)
        bids, asks = (self.texts(side, base=base) for side in levels)
        return TrueBook(self.number(at), bids, asks)

    def texts(self, levels: Iterable[tuple[int, int]], *, base: bool = False) -> list[tuple[str, str]]:
        """Return levels as the venue writes their numbers; ``base``: sizes in base currency."""
        if base:
            return [(self.price(p).decode(), self.base(s, p).decode()) for p, s in levels]
        return [(self.price(p).decode(), self.size(s).decode()) for p, s in levels]

    def trades(self, first: int, last: int, *, base: bool = False) -> list[TrueTrade]:
        """Return trades of the tape by id, both ends included; ``base``: sizes in base currency."""
        return [
            TrueTrade(
                id=self.identity(trade.id),
                ts=trade.ts,
                price=self.price(trade.price).decode(),
                size=(self.base(trade.size, trade.price) if base else self.size(trade.size)).decode(),
                aggressor="buy" if trade.sign > 0 else "sell",
            )
            for trade in self.live.tape.read(first, last)
        ]

    def liquidations(self, first: int = 0) -> list[TrueLiquidation]:
        """Return the positions closed by force with an id of ``first`` or more; none of a spot pair."""
        swap = self.live.perpetual
        return [
            TrueLiquidation(
                id=str(forced.id),
                ts=forced.ts,
                side="buy" if forced.sign > 0 else "sell",
                position="short" if forced.sign > 0 else "long",
                price=self.price(forced.price).decode(),
                contracts=self.size(forced.size).decode(),
                size=self.base(forced.size, forced.price).decode(),
            )
            for forced in (() if swap is None else swap.forced_since(first))
        ]

    def base(self, lots: int, price: float) -> bytes:
        """Return lots as base currency; ``price`` in steps."""
        contract = self.listing.contract
        if contract is None or (contract.size == "1" and contract.kind == "linear"):
            return self.size(lots)
        step = float(self.listing.price_step)
        return trimmed(base_text(contract, self.listing.size_step, lots, price * step))


class House:
    """A venue's shops and visitors, and what it enforces.

    Attributes:
        limits: What it enforces; the control port may change a value. Known to all venues, none of
            them a must: ``connects`` within ``connects_s`` of one address, which is kept out for
            ``connects_bar_s`` if it exceeds them, or else until there is room again; ``messages`` of a
            client within ``messages_s``; ``ping_every_s`` and ``pong_within_s`` (the server's pings);
            ``idle_s`` (neither side says anything); ``lifetime_s``.
        pack: How a payload becomes the binary frame that goes out, None where it is text; called for each
            listener. Faults hurt the payload before it is packed.
        posted: Paths that are asked for by POST alone.
        goodbyes: Code and reason for a client that does not answer a ping (``pong``), is ``idle`` or has
            reached its ``age``.
        listings: All of them, halted ones too, by native symbol.
        shops: Those that trade, by native symbol.
        by_symbol: The same by canonical symbol.
        address: Host, port and path at which it is served, for venues that tell.
    """

    def __init__(
        self,
        name: str,
        limits: Mapping[str, float],
        faults: Faults,
        listings: Sequence[Listing],
        market: Market | None = None,
        *,
        shown: int | None = None,
        trim: bool = False,
    ) -> None:
        self.name = name
        self.limits = dict(limits)
        self.pack: Callable[[bytes], bytes] | None = None
        self.posted: frozenset[str] = frozenset()
        self.goodbyes: dict[str, tuple[int, str]] = dict(GOODBYES)
        self.faults = faults
        self.listings = {each.native: each for each in listings if each.venue == name}
        shops = () if market is None else (Shop(live, shown, trim=trim) for live in market.of(name))
        self.shops = {shop.listing.native: shop for shop in shops}
        self.by_symbol = {shop.symbol: shop for shop in self.shops.values()}
        self.sessions: dict[int, Session] = {}
        self.address = "127.0.0.1"
        self._connects = Rate()
        self._barred_until = 0  # ns

    # -- visitors --------------------------------------------------------------------------------

    def admit(self, number: int, now: int) -> Session | Reply:
        """Return a new session, or the refusal: maintenance, a fault, too many attempts."""
        if fault := self.find("maintenance"):
            return Reply(503, headers=retry_after(fault.retry_after_s))
        if fault := self.find("connect"):
            return Reply(fault.status, headers=retry_after(fault.retry_after_s))
        if wait := self._kept_out(now):
            return Reply(429, headers=retry_after(-(-wait // SECOND)))
        session = self.sessions[number] = Session(number, now)
        return session

    def _kept_out(self, now: int) -> int:
        """Count an attempt to connect; return for how many ns there may be no other, 0: it is let in."""
        limits = self.limits
        if "connects" not in limits:
            return 0
        if now < self._barred_until:
            return self._barred_until - now
        wait = self._connects.wait(now, limits["connects"], limits["connects_s"])
        if wait and "connects_bar_s" in limits:
            wait = int(limits["connects_bar_s"] * SECOND)
            self._barred_until = now + wait
        return wait

    def closed(self, session: Session) -> None:
        """Forget a session."""
        self.sessions.pop(session.number, None)
        for name in list(session.topics):
            session.leave(name)

    def hurries(self, session: Session, now: int) -> bool:
        """Count a message of the client; True where it is one too many."""
        if "messages" not in self.limits:
            return False
        return session.rate.wait(now, self.limits["messages"], self.limits["messages_s"]) > 0

    # -- faults ----------------------------------------------------------------------------------

    def find(self, kind: VenueKind, symbol: str | None = None, path: str = "") -> Fault | None:
        """Return the first such fault that is active here, and count one request of it."""
        return self.faults.find(kind, self.name, symbol, path)

    def listed(self, native: str) -> Listing | None:
        """Return a listing, unless a fault hides it."""
        listing = self.listings.get(native)
        return None if listing is None or self.find("unlist", listing.symbol) else listing

    def shop(self, native: str) -> Shop | None:
        """Return the shop of a listing that trades, unless a fault hides it."""
        return self.shops.get(native) if self.listed(native) else None

    def answer(
        self,
        routes: Mapping[str, Handler],
        path: str,
        query: Mapping[str, str],
        now: int,
        *,
        native: str,
        refusal: bytes,
    ) -> Reply:
        """Answer a REST request by its route, unless a fault does.

        Args:
            routes: Path -> handler; any other path is not found.
            path: Of the request.
            query: Of the request.
            now: ns.
            native: What the request is about, "" for nothing in particular: faults may be for one symbol.
            refusal: The body with which a fault refuses, in the venue's words.
        """
        if fault := self.find("maintenance"):
            return Reply(503, headers=retry_after(fault.retry_after_s))
        listing = self.listings.get(native)
        fault = self.find("rest", listing.symbol if listing else None, path)
        if fault is not None and fault.status:
            return Reply(fault.status, refusal, retry_after(fault.retry_after_s), fault.delay_s)
        handler = routes.get(path)
        reply = Reply(404) if handler is None else handler(query, now)
        return reply if fault is None else msgspec.structs.replace(reply, delay_s=fault.delay_s)


def retry_after(seconds: float | None) -> dict[str, str]:
    """Return the header that says when to come back; none for None."""
    return {} if seconds is None else {"Retry-After": str(int(seconds))}


@lru_cache(maxsize=8)
def _seconds(seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode()


def iso(ns: int) -> bytes:
    """Return a time in UTC as text with microseconds, such as 2026-08-16T23:37:04.334090Z."""
    seconds, rest = divmod(ns, SECOND)
    return b"%b.%06dZ" % (_seconds(seconds), rest // 1000)


def trimmed(number: bytes) -> bytes:
    """Return a number without zeros at the end of its decimals."""
    return number.rstrip(b"0").rstrip(b".") if b"." in number else number


def whole(text: str | None, default: int) -> int:
    """Return a number of a query, ``default`` where it is none."""
    return int(text) if text and text.isascii() and text.isdigit() else default
