"""What connections were asked for and what they give, as it is kept: in memory and in a checkpoint.

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
"""

from typing import Final

import msgspec

from actors.model.events import SECOND, Channel, StatusState
from actors.venues.base import Item, Subscription

LADDER_MOST_NS: Final = 1800 * SECOND  # chosen: longest wait between two steps of a ladder
HOLED_NS: Final = 2 * SECOND  # chosen: connections that lose frames so close together may lose the same

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
        heir: One that gave it has closed: what this one loses is a hole, be it heard or not.
        active: Of the connections that carry the item, this is the one whose single-source events pass.
        seq: The venue's number of the last frame.
        last_id: Of trades: the highest id it brought.
        unmoved: Told to have given nothing since it was granted.
        price: Of trades: the last price that the connection's ticker told.
        moves: How often that has changed without a trade ...
        moved_since: ... since this ``since``.
    """

    state: StatusState
    since: int
    acked: bool = False
    heard: bool = False
    active: bool = False
    seq: int | None = None
    last_id: int = 0
    heir: bool = False
    unmoved: bool = False
    price: str | None = None
    moves: int = 0
    moved_since: int = 0

    def priced(self, price: str) -> None:
        """Take the price of the last trade, as a ticker tells it; a trade that was heard explains it."""
        if self.moved_since != self.since:
            self.moved_since, self.moves = self.since, 0
        elif price != self.price:
            self.moves += 1
        self.price = price

    @property
    def unheard(self) -> int:
        """How many trades must have been made that this connection did not give, at least."""
        return self.moves if self.moved_since == self.since else 0


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
    """How often a leg has tried to wake an item, or a connection, and when it may again (fold time)."""

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
        ladders: By leg and item. They outlive a frame, so that what is quiet by nature is left alone.
        quiets: The same of connections, by leg and their first item.
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
    quiets: dict[tuple[str, Channel, str], Ladder] = {}
    ticked: int = 0
    after_outage: bool = False

    def state_of(self, item: Item) -> StatusState:
        """Return the best state of ``item`` over all its connections."""
        states = {
            sub.state
            for conn in self.conns.values()
            if conn.open and (sub := conn.subs.get(item)) is not None
        }
        for state in BEST_FIRST:
            if state in states:
                return state
        return "down"

    def ladder(self, leg: str, item: Item, now: int) -> Ladder:
        """Return the ladder of an item on a leg; a new one is due ``now``."""
        return _ladder(self.ladders, (leg, *item), now)

    def quiet(self, conn: Conn, now: int) -> Ladder:
        """Return the ladder of a connection that gives nothing: that of those before it, too."""
        return _ladder(self.quiets, (conn.leg, *next(iter(conn.subs))), now)

    def woke(self, leg: str, item: Item) -> None:
        """Note that an item speaks again: the next step is no harder one."""
        ladder = self.ladders.get((leg, *item))
        if ladder is not None:
            ladder.steps += ladder.steps % 2

    def _others(self, item: Item, sub: Sub) -> list[tuple[Conn, Sub]]:
        """Return the other open connections that have ``item``, in order of their opening."""
        return [
            (conn, other)
            for conn in self.conns.values()
            if conn.open and (other := conn.subs.get(item)) is not None and other is not sub
        ]

    def bequeath(self, item: Item, sub: Sub) -> bool:
        """Tell whether another open connection gives ``item``, or would if there were anything to give.

        What such a one loses from now on was left to it.
        """
        heirs = [other for _, other in self._others(item, sub) if other.state in ("live", "subscribed")]
        for other in heirs:
            other.heir = True
        return bool(heirs)

    def has_witness(self, item: Item, sub: Sub, now: int) -> bool:
        """Tell whether one has given ``item`` for a while, and has lost nothing meanwhile."""
        since = now - HOLED_NS
        return any(
            other.state in ("live", "subscribed") and conn.holed < since and conn.born < since
            for conn, other in self._others(item, sub)
        )

    def giving(self, item: Item) -> list[Sub]:
        """Return the subscriptions of ``item`` that give it now, or may at any moment for the first time."""
        subs = (conn.subs.get(item) for conn in self.conns.values() if conn.open)
        return [sub for sub in subs if sub is not None and sub.state in ("live", "subscribed", "wanted")]

    def forget_ids(self, item: Item) -> None:
        """Learn that the ids of the trades of ``item`` start again."""
        for conn in self.conns.values():
            if (sub := conn.subs.get(item)) is not None:
                sub.last_id = 0

    def take_over(self, item: Item, sub: Sub) -> None:
        """Make ``sub`` the active one of its item unless another that gives it is."""
        others = [other for _, other in self._others(item, sub) if other.active]
        if not any(other.state == "live" for other in others):
            for other in others:
                other.active = False
            sub.active = True

    def hand_over(self, item: Item, sub: Sub) -> None:
        """Make another connection the active one of ``item``, if one gives it."""
        heirs = [other for _, other in self._others(item, sub) if other.state == "live"]
        if sub.active and heirs:
            sub.active, heirs[0].active = False, True
        elif sub.state == "down":
            sub.active = False


def _ladder(
    ladders: dict[tuple[str, Channel, str], Ladder], key: tuple[str, Channel, str], now: int
) -> Ladder:
    ladder = ladders.get(key)
    if ladder is None or now - ladder.due > LADDER_MOST_NS:  # it was well for longer than any wait
        ladder = ladders[key] = Ladder(0, now)
    return ladder
