"""What every connection was asked for and what it gives; what to do about those that are silent.

A subscription is one item (channel, symbol) on one connection. Its states, and what moves it:

========== ====================================== ==================================================
state      comes from                             left by
========== ====================================== ==================================================
wanted     the subscription was sent              ack: subscribed; a frame: live; no ack: stale
subscribed its ack                                a frame: live; no first frame: stale
live       a frame (before the ack, too)          silence: stale
stale      silence, or no ack                     a frame: live; the ladder: resyncing, wanted
resyncing  its end was sent, to subscribe anew    ack, or 5 s: asked for again; sent: wanted
refused    the venue said no                      asked for again, seldom: wanted
down       its connection closed                  the connection turns out to live: the frame says so
========== ====================================== ==================================================

A frame moves any state but ``resyncing`` to ``live``: data is proof, acknowledgements are only words. An
ack of something not asked for changes nothing. What is told (event ``status``) is the best state of an
item over all its connections.

The ladder of a silent item: resubscribe, reconnect, resubscribe ..., each wait twice the last, from what
its first frame may take. A
connection that gives nothing at all, or many silent items, is replaced at once.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from actors.model.events import SECOND, Channel, Status, StatusState
from actors.stages.raw import Closed
from actors.stages.sink import Sink
from actors.venues.base import Acked, Item, Refused, Subscription, Venue

ACK_NS: Final = 10 * SECOND  # chosen: venues answer within one
UNSUBSCRIBE_NS: Final = 5 * SECOND  # DESIGN 7
RECONNECT_NS: Final = 60 * SECOND  # chosen: a connection is not asked to be replaced again before
REFUSED_NS: Final = 60 * SECOND  # chosen: first wait before a refused item is tried again
LADDER_MOST_NS: Final = 1800 * SECOND  # chosen: longest wait between two steps of a ladder
LATE_NS: Final = 3 * SECOND  # chosen: a tick comes each second, and one so late after an outage
UNHEARD_NS: Final = 30 * SECOND  # chosen: after a hole in raw, a connection not heard of that long is gone
MANY_SILENT: Final = 8  # chosen: so many silent items at once are the connection's fault
HOLED_NS: Final = 2 * SECOND  # chosen: connections that lose frames so close together may lose the same
MOST_CLOSED: Final = 64  # closed connections remembered

BEST_FIRST: Final[tuple[StatusState, ...]] = (
    "live",
    "subscribed",
    "wanted",
    "resyncing",
    "stale",
    "refused",
    "down",
)


class Sub(msgspec.Struct):
    """One item on one connection.

    Attributes:
        state: See above.
        since: Fold time of the last frame, or of the last change of state before the first.
        acked: The venue has it, as far as we know.
        heard: A frame has come.
        active: Of the connections that carry the item, this is the one whose single-source events pass.
        seq: The venue's number of the last frame.
        last_id: Of trades: the highest id it brought.
    """

    state: StatusState
    since: int
    acked: bool = False
    heard: bool = False
    active: bool = False
    seq: int | None = None
    last_id: int = 0


class Conn(msgspec.Struct):
    """One connection.

    Attributes:
        leg: Whose it is.
        open: False: counted as closed, though it may turn out to live.
        last: Fold time of its last line.
        subs: What it was asked for, in that order.
        pending: Sent and not answered, by the id of the answer.
        memory: The venue's own notes.
        quiet: Told to be silent.
        asked: Fold time of the last request to replace it.
        unheard: Fold time of a hole in the input after which nothing of it has come.
        known: Its opening was seen, and so what it was asked for.
        holed: Fold time when it last lost frames: for a while it is no witness for another that did.
        born: Fold time of its opening: nor is it one for what was before.
    """

    leg: str
    open: bool
    last: int
    subs: dict[Item, Sub] = {}
    pending: dict[int, Subscription] = {}
    memory: dict[str, object] = {}
    quiet: bool = False
    asked: int = 0
    unheard: int | None = None
    known: bool = True
    holed: int = 0
    born: int = 0


class Ladder(msgspec.Struct):
    """How often a leg has tried to wake an item, and when it may again (fold time)."""

    steps: int
    due: int


class Polled(msgspec.Struct):
    """What is asked for by REST: when it was answered last (fold time), and the time that answer bore."""

    at: int
    ts_event: int | None = None


class Ledger(msgspec.Struct):
    """All that is kept: what a checkpoint holds of it.

    Attributes:
        conns: By connection id.
        told: State last told of each item.
        ladders: By leg and item.
        legs: What was last told of a leg whose attempts fail; empty while it is connected.
        closed: Ids of connections that said goodbye, the newest last.
        polled: Items that no connection brings.
        ticked: Fold time of the last tick.
        after_outage: It came late, the one before it did not.
    """

    conns: dict[str, Conn] = {}
    told: dict[Item, StatusState] = {}
    ladders: dict[tuple[str, Channel, str], Ladder] = {}
    legs: dict[str, str] = {}
    closed: list[str] = []
    polled: dict[Item, Polled] = {}
    ticked: int = 0
    after_outage: bool = False


class Lost(msgspec.Struct, frozen=True):
    """An item that a closed connection had been giving, or of which one may have lost frames.

    ``last``: no other connection gives it, or has it acknowledged. ``seq``: the last it gave. ``last_id``:
    of trades, the highest id it brought.
    """

    item: Item
    last: bool
    seq: int | None
    last_id: int = 0


def _best(states: set[StatusState]) -> StatusState:
    for state in BEST_FIRST:
        if state in states:
            return state
    return "down"


class Connections:
    """The ledger with what moves it. ``now`` (fold time) and the way out are the sink's."""

    def __init__(self, venue: Venue, ledger: Ledger, sink: Sink) -> None:
        self._venue = venue.name
        self._silence = {channel: round(s * SECOND) for channel, s in venue.silence_s.items()}
        self._first = self._silence | {channel: round(s * SECOND) for channel, s in venue.first_s.items()}
        self._quiet = None if venue.quiet_s is None else round(venue.quiet_s * SECOND)
        self._ledger = ledger
        self._sink = sink

    # ---- lines of raw -----------------------------------------------------------------------------

    def opened(self, name: str, reason: str = "open", *, known: bool = True) -> Conn:
        """Begin, or find alive again, connection ``name``; ``known``: we see it open."""
        ledger, now = self._ledger, self._sink.now
        leg = name.partition(".")[0]
        conn = ledger.conns.get(name)
        if conn is None:
            conn = ledger.conns[name] = Conn(leg, open=True, last=now, known=known)
            conn.born = now
        conn.open, conn.last = True, now
        for sub in conn.subs.values():  # counted as closed too soon: what it was asked for may still come
            sub.state, sub.since = "wanted", now
        ledger.legs[leg] = ""
        self._tell_connection(name, "live", reason)
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
            self._tell_connection(name, "down", reason)
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
        self._tell_connection(name, "down", reason)
        lost: list[Lost] = []
        for item, sub in conn.subs.items():
            was_live = sub.heard and sub.state != "down"
            sub.state, sub.acked = "down", False
            self._hand_over(item, sub)
            if was_live:
                lost.append(Lost(item, not self._has_heir(item, sub), sub.seq))
            self._tell(item, reason)
        conn.pending.clear()
        return lost

    def sent(self, conn: Conn, subscription: Subscription) -> None:
        """Take an ``s`` line."""
        if subscription.id is not None:
            conn.pending[subscription.id] = subscription
        for item in subscription.items:
            if subscription.op == "subscribe":
                sub = conn.subs.get(item)
                if sub is None:
                    sub = conn.subs[item] = Sub("wanted", self._sink.now)
                sub.state, sub.since = "wanted", self._sink.now
                self._tell(item, "asked for")
            elif (sub := conn.subs.get(item)) is not None:
                # Nothing ends a subscription for good today: whoever ends one wants it anew.
                sub.state, sub.since, sub.acked = "resyncing", self._sink.now, True
                self._tell(item, "subscribing anew")

    # ---- frames -----------------------------------------------------------------------------------

    def heard(self, name: str, conn: Conn, item: Item) -> Sub:
        """Take a frame of an item that is not known to be live; return its subscription."""
        sub = conn.subs.get(item)
        if sub is None:  # data before its record, which a hole in raw took
            sub = conn.subs[item] = Sub("wanted", self._sink.now)
        if sub.state == "resyncing" and sub.acked:
            return sub  # still under way from the subscription that is being ended
        sub.state, sub.since, sub.heard, sub.acked = "live", self._sink.now, True, True
        self._ledger.ladders.pop((conn.leg, *item), None)
        self._take_over(item, sub)
        self._tell(item, "data")
        if conn.quiet:
            self._speaks(name, conn)
        return sub

    def _speaks(self, name: str, conn: Conn) -> None:
        conn.quiet = False
        self._tell_connection(name, "live", "it speaks again")

    def acked(self, name: str, conn: Conn, ack: Acked) -> None:
        """Take the venue's consent: by id or items, to some of what was sent, or to the oldest unanswered."""
        number = ack.id
        if number is None and ack.items is None:
            number = next(iter(conn.pending), None)
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

    def _consented(self, conn: Conn, items: Iterable[Item]) -> None:
        for item in items:
            sub = conn.subs.get(item)
            if sub is not None and sub.state != "resyncing":
                sub.acked = True
                if sub.state != "live":
                    sub.state, sub.since = "subscribed", self._sink.now
                    self._tell(item, "acknowledged")

    def _ended(self, name: str, conn: Conn, items: Iterable[Item]) -> None:
        for item in items:
            sub = conn.subs.get(item)
            if sub is not None and sub.state == "resyncing" and sub.acked:
                self._subscribe(name, item, sub)

    def _subscribe(self, name: str, item: Item, sub: Sub) -> None:
        sub.acked, sub.since = False, self._sink.now
        self._sink.request("subscribe", symbol=item[1], channel=item[0], conn=name)

    def refused(self, name: str, conn: Conn, refusal: Refused) -> bool:
        """Take the venue's refusal; return False when nobody can tell what it is of.

        One that names nothing is of the only thing unanswered, if it is one.
        """
        items = refusal.items
        number = refusal.id
        if items is None and number is None and len(conn.pending) == 1:
            number = next(iter(conn.pending))
        elif items is not None and number is None and refusal.whole:
            number = next((n for n, sub in conn.pending.items() if set(items) & set(sub.items)), None)
        sent = self._answered(conn, number, items)
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
                ladder = self._ladder(conn.leg, item)
                ladder.due = self._sink.now + min(REFUSED_NS << min(ladder.steps, 16), LADDER_MOST_NS)
                self._tell(item, refusal.reason)
        return items is not None

    def _ask_without(self, name: str, conn: Conn, rest: Subscription | None) -> None:
        """Ask again, one by one, for what failed only because of what stood beside it."""
        for item in () if rest is None or rest.op == "unsubscribe" else rest.items:
            if (sub := conn.subs.get(item)) is not None and sub.state != "live":
                self._subscribe(name, item, sub)

    def holed(self, conn: Conn) -> list[Lost]:
        """Return what a connection gives that lost frames; but not books, whose numbers tell."""
        lost = [
            Lost(item, not self._has_witness(item, sub), sub.seq, sub.last_id)
            for item, sub in conn.subs.items()
            if sub.state in ("live", "subscribed") and item[0] != "book"
        ]
        conn.holed = self._sink.now
        return lost

    def closing(self, name: str, conn: Conn, reason: str) -> None:
        """Take the venue's notice that it will drop this connection."""
        self._replace(name, conn, reason)

    # ---- time -------------------------------------------------------------------------------------

    def tick(self, legs: Iterable[str]) -> list[Lost]:
        """Close the connections of legs that are not alive; see to what is overdue.

        After an outage of ours the first tick may come before what was heard meanwhile: it judges nobody.
        """
        alive = frozenset(legs)
        now, ledger = self._sink.now, self._ledger
        ledger.after_outage = now - ledger.ticked > LATE_NS and not ledger.after_outage
        ledger.ticked = now
        lost: list[Lost] = []
        for name, conn in self._ledger.conns.items():
            if not conn.open:
                continue
            if conn.leg not in alive:
                lost += self.close(name, conn, f"the lease of leg {conn.leg} is not alive")
            elif conn.unheard is not None and now - conn.unheard > UNHEARD_NS:
                lost += self.close(name, conn, "nothing heard since a hole in raw")
            elif not ledger.after_outage:
                self._watch(name, conn)
        if not ledger.after_outage:
            self._watch_polled()
        return lost

    def _watch_polled(self) -> None:
        for item, polled in self._ledger.polled.items():
            patience = self._silence.get(item[0])
            if patience is not None and self._sink.now - polled.at > patience:
                self._say(item, "stale", "no answer")

    def answered(self, item: Item, ts_event: int | None) -> bool:
        """Learn that what is asked for by REST was answered; return whether the answer is news."""
        polled = self._ledger.polled.get(item)
        self._ledger.polled[item] = Polled(self._sink.now, ts_event)
        self._say(item, "live", "answered")
        return polled is None or ts_event is None or polled.ts_event != ts_event

    def unanswered(self, item: Item, reason: str) -> None:
        """Learn that what is asked for by REST was refused, or not answered."""
        if item not in self._ledger.polled:
            self._ledger.polled[item] = Polled(self._sink.now)
            self._say(item, "down", reason)

    def missed(self) -> None:
        """Learn that lines are missing: connections may have opened or closed in them."""
        for conn in self._ledger.conns.values():
            conn.unheard = self._sink.now

    def _watch(self, name: str, conn: Conn) -> None:
        overdue = [(item, sub) for item, sub in conn.subs.items() if self._overdue(conn, item, sub)]
        for item, sub in overdue:
            if sub.state not in ("stale", "refused"):
                reason = "silent" if sub.heard else "no frame yet" if sub.acked else "no acknowledgement"
                sub.state = "stale"
                self._hand_over(item, sub)
                if not self._tell(item, reason):  # another connection gives it: say which does not
                    self._sink.event(self._status(item[1], item[0], "stale", reason, name))
        if self._is_quiet(conn):
            if not conn.quiet:
                conn.quiet = True
                self._tell_connection(name, "stale", "silent")
            self._replace(name, conn, "silent")
        else:
            if conn.quiet:  # heartbeats move no item, and items that were live are not heard anew
                self._speaks(name, conn)
            self._wake(name, conn, overdue)
        self._end_overdue(name, conn)

    def _wake(self, name: str, conn: Conn, overdue: list[tuple[Item, Sub]]) -> None:
        """Take the next step of each silent item whose time it is; of many, one step for all."""
        now = self._sink.now
        due = [(item, sub) for item, sub in overdue if self._ladder(conn.leg, item).due <= now]
        many = sum(sub.state == "stale" for _, sub in due) > MANY_SILENT
        if many:
            self._replace(name, conn, f"{len(due)} silent subscriptions")
        for item, sub in due:
            ladder = self._ladder(conn.leg, item)
            if not many:
                self._climb(name, conn, item, sub, ladder.steps)
            ladder.steps += 1
            first = self._first.get(item[0], REFUSED_NS)
            ladder.due = now + min(first << min(ladder.steps, 16), LADDER_MOST_NS)

    def _overdue(self, conn: Conn, item: Item, sub: Sub) -> bool:
        waited = self._sink.now - sub.since
        match sub.state:
            case "wanted":
                return waited > ACK_NS
            case "subscribed" | "live":
                most = (self._first if sub.state == "subscribed" else self._silence).get(item[0])
                return most is not None and waited > most
            case "stale" | "refused":
                return self._ladder(conn.leg, item).due <= self._sink.now
            case "resyncing":
                return not sub.acked and waited > ACK_NS
            case _:
                return False

    def _end_overdue(self, name: str, conn: Conn) -> None:
        for item, sub in conn.subs.items():
            if sub.state == "resyncing" and sub.acked and self._sink.now - sub.since > UNSUBSCRIBE_NS:
                self._subscribe(name, item, sub)

    def _is_quiet(self, conn: Conn) -> bool:
        if self._quiet is not None:
            has_any = any(sub.acked and sub.state != "refused" for sub in conn.subs.values())
            return has_any and self._sink.now - conn.last > self._quiet
        watched = [
            self._silence[item[0]]
            for item, sub in conn.subs.items()
            if sub.acked and sub.state != "refused" and item[0] in self._silence
        ]
        return bool(watched) and self._sink.now - conn.last > min(watched)

    def _ladder(self, leg: str, item: Item) -> Ladder:
        key = (leg, *item)
        ladder = self._ledger.ladders.get(key)
        if ladder is None:
            ladder = self._ledger.ladders[key] = Ladder(0, self._sink.now)
        return ladder

    def _climb(self, name: str, conn: Conn, item: Item, sub: Sub, step: int) -> None:
        if step % 2 and sub.state != "refused":
            self._replace(name, conn, f"{item[0]} of {item[1]} is silent")
        elif sub.acked:
            self._sink.request("resubscribe", symbol=item[1], channel=item[0], conn=name, reason="silent")
        else:
            self._subscribe(name, item, sub)

    def _replace(self, name: str, conn: Conn, reason: str) -> None:
        if not conn.asked or self._sink.now - conn.asked > RECONNECT_NS:
            conn.asked = self._sink.now
            self._sink.request("reconnect", conn=name, reason=reason)

    # ---- who gives what ---------------------------------------------------------------------------

    def _others(self, item: Item, sub: Sub) -> list[tuple[Conn, Sub]]:
        """Return the other open connections that have ``item``, in order of their opening."""
        return [
            (conn, other)
            for conn in self._ledger.conns.values()
            if conn.open and (other := conn.subs.get(item)) is not None and other is not sub
        ]

    def others_live(self, item: Item, sub: Sub) -> list[Sub]:
        """Return the same item's subscriptions on other open connections that give it."""
        return [other for _, other in self._others(item, sub) if other.state == "live"]

    def _has_heir(self, item: Item, sub: Sub) -> bool:
        """Tell whether another open connection gives ``item``, or would if there were anything to give."""
        return any(other.state in ("live", "subscribed") for _, other in self._others(item, sub))

    def _has_witness(self, item: Item, sub: Sub) -> bool:
        """Tell whether one has given ``item`` for a while, and has lost nothing meanwhile."""
        since = self._sink.now - HOLED_NS
        return any(
            other.state in ("live", "subscribed") and conn.holed < since and conn.born < since
            for conn, other in self._others(item, sub)
        )

    def giving(self, item: Item) -> list[Sub]:
        """Return the subscriptions of ``item`` that give it now, or may at any moment for the first time."""
        subs = (conn.subs.get(item) for conn in self._ledger.conns.values() if conn.open)
        return [sub for sub in subs if sub is not None and sub.state in ("live", "subscribed", "wanted")]

    def _take_over(self, item: Item, sub: Sub) -> None:
        """Make ``sub`` the active one of its item unless another that gives it is."""
        others = [other for _, other in self._others(item, sub) if other.active]
        if not any(other.state == "live" for other in others):
            for other in others:
                other.active = False
            sub.active = True

    def _hand_over(self, item: Item, sub: Sub) -> None:
        """Make another connection the active one of ``item``, if one gives it."""
        heirs = self.others_live(item, sub)
        if sub.active and heirs:
            sub.active, heirs[0].active = False, True
        elif sub.state == "down":
            sub.active = False

    # ---- telling ----------------------------------------------------------------------------------

    def _tell(self, item: Item, reason: str) -> bool:
        """Tell the state of ``item`` if it is another than was told; return whether it was."""
        states: set[StatusState] = {
            sub.state
            for conn in self._ledger.conns.values()
            if conn.open and (sub := conn.subs.get(item)) is not None
        }
        return self._say(item, _best(states), reason)

    def _say(self, item: Item, state: StatusState, reason: str) -> bool:
        if self._ledger.told.get(item) == state:
            return False
        self._ledger.told[item] = state
        self._sink.event(self._status(item[1], item[0], state, reason))
        return True

    def _tell_connection(self, name: str, state: StatusState, reason: str) -> None:
        self._sink.event(self._status(None, None, state, reason, name))

    def _status(
        self,
        symbol: str | None,
        channel: Channel | None,
        state: StatusState,
        reason: str,
        conn: str | None = None,
    ) -> Status:
        now = self._sink.now
        return Status(self._venue, symbol, None, now, None, channel, state, reason[:500], conn)
