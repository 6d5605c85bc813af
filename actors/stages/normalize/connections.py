"""What comes of connections: lines and frames move what is kept of them (``subscriptions``).

What that changes is told by ``statuses``; what is silent is seen to by ``repair``.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from actors.model.events import SECOND, Channel
from actors.stages.normalize.repair import Repair
from actors.stages.normalize.sink import Sink
from actors.stages.normalize.statuses import Statuses
from actors.stages.normalize.subscriptions import Conn, Ledger, Polled, Sub
from actors.stages.raw import Closed
from actors.venues.base import Acked, Item, Refused, Subscription, Venue

LATE_NS: Final = 3 * SECOND  # chosen: a tick comes each second, and one so late after an outage
UNHEARD_NS: Final = 30 * SECOND  # chosen: after a hole in raw, a connection not heard of that long is gone
MOST_CLOSED: Final = 64  # closed connections remembered
_GRANTED: Final = ("subscribed", "live", "stale", "resyncing")
# There may have been nothing to give yet, and what came after the connection closed no later event shows.
_SPARSE: Final[frozenset[Channel]] = frozenset(("trade", "liquidation"))


class Lost(msgspec.Struct, frozen=True):
    """An item that a closed connection had been giving, or of which one may have lost frames.

    ``last``: no other connection gives it, or has it acknowledged. ``seq``: the last it gave. ``last_id``:
    of trades, the highest id it brought.
    """

    item: Item
    last: bool
    seq: int | None
    last_id: int = 0


class Connections:
    """The ledger with what moves it. ``now`` (fold time) and the way out are the sink's."""

    def __init__(self, venue: Venue, ledger: Ledger, sink: Sink) -> None:
        self._channels = sorted(venue.channels)
        self._first = venue.first_s
        self._ledger = ledger
        self._sink = sink
        self._statuses = Statuses(venue.name, ledger, sink)
        self._repair = Repair(venue, ledger, self._statuses, sink)

    # ---- lines of raw -----------------------------------------------------------------------------

    def opened(self, name: str, reason: str = "open", *, known: bool = True) -> Conn:
        """Begin, or find alive again, connection ``name``; ``known``: we see it open."""
        ledger, now = self._ledger, self._sink.now
        leg = name.partition(".")[0]
        conn = ledger.conns.get(name)
        if conn is None:
            gone = [other for other, former in ledger.conns.items() if not former.open]
            for other in gone[:-MOST_CLOSED]:  # their goodbyes a hole in raw took
                del ledger.conns[other]
            conn = ledger.conns[name] = Conn(leg, open=True, last=now, known=known)
            conn.born = now
        conn.open, conn.last = True, now
        for sub in conn.subs.values():  # counted as closed too soon: what it was asked for may still come
            sub.state, sub.since = "wanted", now
        ledger.legs[leg] = ""
        self._statuses.connection(name, "live", reason)
        return conn

    def is_closed(self, name: str) -> bool:
        """Tell whether ``name`` has said goodbye: nothing may come from it."""
        return name in self._ledger.closed

    def is_known(self, name: str) -> bool:
        """Tell whether ``name`` is in the ledger: it has not said goodbye."""
        return name in self._ledger.conns

    def is_open(self, name: str) -> bool:
        """Tell whether ``name`` is known and counted as open."""
        conn = self._ledger.conns.get(name)
        return conn is not None and conn.open

    def closed(self, name: str, how: Closed) -> list[Lost]:
        """Take an ``x`` line: one connection, an attempt that failed, or with ``<leg>.*`` a leg's all."""
        ledger = self._ledger
        reason = how.reason if how.code is None else f"{how.code}: {how.reason or 'no reason given'}"
        leg, _, which = name.partition(".")
        if which == "*":
            names = [n for n, conn in ledger.conns.items() if conn.leg == leg]
            return [lost for n in names for lost in self._forget(n, reason)]
        if name in ledger.conns:
            return self._forget(name, reason)
        if ledger.legs.get(leg) != reason:  # an attempt that failed: told once, not at each try
            ledger.legs[leg] = reason
            self._statuses.connection(name, "down", reason)
        return []

    def _forget(self, name: str, reason: str) -> list[Lost]:
        conn = self._ledger.conns[name]
        lost = self.close(name, conn, reason) if conn.open else []
        del self._ledger.conns[name]
        self._ledger.closed.append(name)
        del self._ledger.closed[:-MOST_CLOSED]
        return lost

    def close(self, name: str, conn: Conn, reason: str) -> list[Lost]:
        """Count ``conn`` as closed. It stays in the ledger: a later line of it proves that it lives."""
        conn.open, conn.quiet, conn.unheard = False, False, None
        self._statuses.connection(name, "down", reason)
        lost: list[Lost] = []
        for item, sub in conn.subs.items():
            gave = sub.heard or sub.heir or (sub.acked and item[0] in _SPARSE)
            gave = gave and sub.state != "down"
            sub.state, sub.acked = "down", False
            self._ledger.hand_over(item, sub)
            if gave:
                lost.append(Lost(item, not self._ledger.bequeath(item, sub), sub.seq))
            self._statuses.tell(item, reason)
        conn.pending.clear()
        return lost

    def sent(self, conn: Conn, subscription: Subscription) -> None:
        """Take an ``s`` line."""
        number = subscription.id
        if number is None:  # its answer names the items, or nothing
            number = min([0, *self._unanswered(conn)]) - 1
        conn.pending[number] = subscription
        for item in subscription.items:
            if subscription.op == "subscribe":
                sub = conn.subs.get(item)
                if sub is None:
                    sub = conn.subs[item] = Sub("wanted", self._sink.now)
                sub.state, sub.since = "wanted", self._sink.now
                self._ledger.hand_over(item, sub)
                self._statuses.tell(item, "asked for")
            elif (sub := conn.subs.get(item)) is not None:
                # Nothing ends a subscription for good today: whoever ends one wants it anew.
                sub.state, sub.since, sub.acked = "resyncing", self._sink.now, True
                self._ledger.hand_over(item, sub)
                self._statuses.tell(item, "subscribing anew")

    def relisted(self, symbol: str) -> None:
        """Learn that a symbol is listed again: tell how it is, and ask anew for its books.

        It was refused as a whole, which ended them; the connections that have it may never have closed.
        """
        for item in self._ledger.told:
            if item[1] == symbol:
                self._statuses.again(item, "listed again")
        for name, conn in self._ledger.conns.items():
            sub = conn.subs.get(("book", symbol))
            if conn.open and sub is not None and sub.acked and sub.state in ("subscribed", "live"):
                self._sink.request(
                    "resubscribe", symbol=symbol, channel="book", conn=name, reason="listed again"
                )

    # ---- frames -----------------------------------------------------------------------------------

    def heard(self, name: str, conn: Conn, item: Item) -> Sub:
        """Take a frame of an item that is not known to be live; return its subscription."""
        sub = conn.subs.get(item)
        if sub is None:  # data before its record, which a hole in raw took
            sub = conn.subs[item] = Sub("wanted", self._sink.now)
        if sub.state == "resyncing" and sub.acked:
            return sub  # still under way from the subscription that is being ended
        sub.state, sub.since, sub.heard, sub.acked = "live", self._sink.now, True, True
        self._ledger.woke(conn.leg, item)
        self._ledger.take_over(item, sub)
        self._statuses.tell(item, "data")
        if conn.quiet:
            self._repair.speaks(name, conn)
        return sub

    def beats(self, conn: Conn, symbol: str) -> None:
        """Take a symbol's heartbeat: its subscriptions live, unless one lacks its first frame."""
        for channel in self._channels:
            sub = conn.subs.get((channel, symbol))
            if sub is not None and (
                sub.state == "live" or (sub.state == "subscribed" and channel not in self._first)
            ):
                sub.since = self._sink.now

    def priced(self, conn: Conn, symbol: str, price: str | None) -> None:
        """Take the price of a symbol's last trade from its ticker: trades are made, be they heard or not."""
        sub = conn.subs.get(("trade", symbol))
        if sub is not None and price is not None and sub.state in ("live", "subscribed"):
            sub.priced(price)

    def priced_by_rest(self, symbol: str, price: str | None) -> None:
        """Take the same from a ticker that was asked for, for every connection with the symbol's trades."""
        for conn in self._ledger.conns.values():
            if conn.open:
                self.priced(conn, symbol, price)

    def beside(self, conn: Conn, item: Item) -> bool:
        """Take a frame that proves nothing of its item; return whether it passes."""
        sub = conn.subs.get(item)
        if sub is not None and not sub.active:
            self._ledger.take_over(item, sub)
        return sub is not None and sub.active

    def acked(self, name: str, conn: Conn, ack: Acked) -> None:
        """Take the venue's consent: by id or items, to some of what was sent, or to the oldest unanswered."""
        number = ack.id
        if number is None and ack.items is None:
            number = next(iter(self._unanswered(conn)), None)
        if (sent := self._answered(conn, number, ack.items)) is not None:
            if sent.op == "subscribe":
                self._consented(conn, sent.items)
            else:
                self._ended(name, conn, sent.items)
        elif ack.items is not None and ack.op == "subscribe":
            self._consented(conn, ack.items)
        elif ack.items is not None:
            self._ended(name, conn, ack.items)

    def _answered(self, conn: Conn, number: int | None, items: Sequence[Item] | None) -> Subscription | None:
        """Return what is answered of the subscription sent with ``number``; the rest stays unanswered."""
        sent = None if number is None else conn.pending.pop(number, None)
        if number is None or sent is None or items is None:
            return sent
        rest = [item for item in sent.items if item not in items]
        if rest:
            conn.pending[number] = replace(sent, items=rest)
        return replace(sent, items=[item for item in sent.items if item in items])

    def _unanswered(self, conn: Conn) -> list[int]:
        """Return the numbers of what is unanswered, oldest first; what data or another answer settled is not.

        An answer may be missing, and what names only items settles frames without saying which.
        """
        settled = [number for number, sent in conn.pending.items() if _is_settled(conn, sent)]
        for number in settled:
            del conn.pending[number]
        return list(conn.pending)

    def _consented(self, conn: Conn, items: Iterable[Item]) -> None:
        for item in items:
            sub = conn.subs.get(item)
            if sub is not None and sub.state != "resyncing":
                sub.acked = True
                if sub.state != "live":
                    sub.state, sub.since, sub.unmoved = "subscribed", self._sink.now, False
                    self._statuses.tell(item, "acknowledged")

    def _ended(self, name: str, conn: Conn, items: Iterable[Item]) -> None:
        for item in items:
            sub = conn.subs.get(item)
            if sub is not None and sub.state == "resyncing" and sub.acked:
                self._repair.subscribe(name, item, sub)

    def refused(self, name: str, conn: Conn, refusal: Refused) -> bool:
        """Take the venue's refusal; return False when nobody can tell what it is of.

        One that names nothing is of the only thing unanswered, if it is one; a ``whole`` one of the oldest.
        """
        items = refusal.items
        number = refusal.id
        if items is None and number is None:
            unanswered = self._unanswered(conn)
            if len(unanswered) == 1 or (refusal.whole and unanswered):
                number = unanswered[0]
        elif items is not None and number is None and refusal.whole:
            number = next((n for n, sub in conn.pending.items() if set(items) & set(sub.items)), None)
        sent = self._answered(conn, number, items)
        if refusal.whole and items is None and sent is not None and len(sent.items) > 1:
            self._ask_without(name, conn, sent)
            return True
        if refusal.whole and number is not None:
            self._ask_without(name, conn, conn.pending.pop(number, None))
        if sent is not None and sent.op == "unsubscribe":
            self._ended(name, conn, sent.items)
            return True
        if sent is not None:
            items = sent.items
        for item in items or ():
            sub = conn.subs.get(item)
            if sub is not None and sub.state != "live":
                sub.state, sub.acked, sub.since = "refused", False, self._sink.now
                self._repair.put_off(conn.leg, item)
                self._statuses.tell(item, refusal.reason)
        return items is not None

    def _ask_without(self, name: str, conn: Conn, rest: Subscription | None) -> None:
        """Ask again, one by one, for what failed only because of what stood beside it."""
        for item in () if rest is None or rest.op == "unsubscribe" else rest.items:
            if (sub := conn.subs.get(item)) is not None and sub.state != "live":
                self._repair.subscribe(name, item, sub)

    def holed(self, conn: Conn) -> list[Lost]:
        """Return what a connection gives that lost frames; but not books, whose numbers tell."""
        lost = [
            Lost(item, not self._ledger.has_witness(item, sub, self._sink.now), sub.seq, sub.last_id)
            for item, sub in conn.subs.items()
            if sub.state in ("live", "subscribed") and item[0] != "book"
        ]
        conn.holed = self._sink.now
        return lost

    def closing(self, name: str, conn: Conn, reason: str) -> None:
        """Take the venue's notice that it will drop this connection."""
        self._repair.replace(name, conn, reason)

    # ---- time -------------------------------------------------------------------------------------

    def tick(self, legs: Iterable[str]) -> list[Lost]:
        """Close the connections of legs that are not alive; see to what is overdue.

        After an outage of ours the first tick may come before what was heard meanwhile, and before the legs
        could renew what had run out: it judges nobody.
        """
        alive = frozenset(legs)
        now, ledger = self._sink.now, self._ledger
        ledger.after_outage = 0 < ledger.ticked < now - LATE_NS and not ledger.after_outage
        ledger.ticked = now
        lost: list[Lost] = []
        for name, conn in self._ledger.conns.items():
            if not conn.open:
                continue
            if ledger.after_outage:
                if conn.unheard is not None:
                    conn.unheard = now
            elif conn.leg not in alive:
                lost += self.close(name, conn, f"the lease of leg {conn.leg} is not alive")
            elif conn.unheard is not None and now - conn.unheard > UNHEARD_NS:
                lost += self.close(name, conn, "nothing heard since a hole in raw")
            else:
                for item, sub in self._repair.watch(name, conn):
                    last = not ledger.has_witness(item, sub, now)
                    lost.append(Lost(item, last, sub.seq, sub.last_id))
        if not ledger.after_outage:
            self._repair.watch_polled()
        return lost

    def answered(self, item: Item, ts_event: int | None) -> bool:
        """Learn that what is asked for by REST was answered; return whether the answer is news."""
        polled = self._ledger.polled.get(item)
        self._ledger.polled[item] = Polled(self._sink.now, ts_event)
        self._statuses.say(item, "live", "answered")
        return polled is None or ts_event is None or polled.ts_event != ts_event

    def unanswered(self, item: Item, reason: str) -> None:
        """Learn that what is asked for by REST was refused, or not answered."""
        if item not in self._ledger.polled:
            self._ledger.polled[item] = Polled(self._sink.now)
            self._statuses.say(item, "down", reason)

    @property
    def after_outage(self) -> bool:
        """Whether the last tick judged nobody."""
        return self._ledger.after_outage

    def missed(self) -> None:
        """Learn that lines are missing: connections may have opened or closed in them."""
        for conn in self._ledger.conns.values():
            conn.unheard = self._sink.now


def _is_settled(conn: Conn, sent: Subscription) -> bool:
    """Tell whether all of what was sent is known to have been granted or refused, or has ended."""
    subs = [sub for item in sent.items if (sub := conn.subs.get(item)) is not None]
    if sent.op == "subscribe":
        return all(sub.state == "refused" or (sub.acked and sub.state in _GRANTED) for sub in subs)
    return not any(sub.acked and sub.state == "resyncing" for sub in subs)
