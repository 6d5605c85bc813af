"""What is asked of the connector where a connection does not give what it was asked for.

The ladder of a silent item: resubscribe, reconnect, resubscribe ..., each wait twice the last, from what its
first frame may take. A frame makes the next step a resubscription again, but no wait shorter: what is quiet
by nature is left alone more and more, and costs its neighbours nothing. A connection that gives nothing at
all, or many silent items, is replaced at once, and again after ever longer.
"""

from typing import Final

from actors.model.events import SECOND
from actors.stages.normalize.sink import Sink
from actors.stages.normalize.statuses import Statuses
from actors.stages.normalize.subscriptions import LADDER_MOST_NS, Conn, Ledger, Sub
from actors.venues.base import Item, Venue

ACK_NS: Final = 10 * SECOND  # chosen: venues answer within one
UNSUBSCRIBE_NS: Final = 5 * SECOND  # DESIGN 7
RECONNECT_NS: Final = 60 * SECOND  # chosen: a connection is not asked to be replaced again before
REFUSED_NS: Final = 60 * SECOND  # chosen: first wait before a refused item is tried again
QUIET_MOST_NS: Final = 300 * SECOND  # chosen: longest wait before a connection that gives nothing is replaced
UNMOVED_NS: Final = 3 * SECOND  # chosen: what REST answers is not so old
DEAF_NS: Final = 60 * SECOND  # chosen: tickers may be ahead of trades, but not by so much
DEAF_MOVES: Final = 3  # chosen: one may come of what is no trade of the book
MANY_SILENT: Final = 8  # chosen: so many silent items at once are the connection's fault


class Repair:
    """Watches connections. ``now`` (fold time) and the way out are the sink's."""

    def __init__(self, venue: Venue, ledger: Ledger, statuses: Statuses, sink: Sink) -> None:
        self._silence = {channel: round(s * SECOND) for channel, s in venue.silence_s.items()}
        self._first = self._silence | {channel: round(s * SECOND) for channel, s in venue.first_s.items()}
        self._quiet = None if venue.quiet_s is None else round(venue.quiet_s * SECOND)
        self._fetched = venue.book_rule.snapshot == "rest"
        self._ledger = ledger
        self._statuses = statuses
        self._sink = sink

    def watch(self, name: str, conn: Conn) -> list[tuple[Item, Sub]]:
        """See to what is overdue on one connection; return those that are known to have missed something."""
        deaf: list[tuple[Item, Sub]] = []
        overdue = [(item, sub) for item, sub in conn.subs.items() if self._overdue(conn, item, sub)]
        for item, sub in overdue:
            if sub.state not in ("stale", "refused"):
                reason = "silent" if sub.heard else "no frame yet" if sub.acked else "no acknowledgement"
                if self._is_deaf(sub):
                    reason = "its ticker moves, and no trade comes"
                    deaf.append((item, sub))
                sub.state = "stale"
                self._ledger.hand_over(item, sub)
                if not self._statuses.tell(item, reason):  # another connection gives it: say which does not
                    self._statuses.of_one(name, item, "stale", reason)
        if self._fetched:
            self._tell_unmoved(name, conn)
        if self._is_quiet(conn):
            if not conn.quiet:
                conn.quiet = True
                self._statuses.connection(name, "stale", "silent")
            self._replace_quiet(name, conn)
        else:
            if conn.quiet:  # heartbeats move no item, and items that were live are not heard anew
                self.speaks(name, conn)
            self._wake(name, conn, overdue)
        self._end_overdue(name, conn)
        return deaf

    def _tell_unmoved(self, name: str, conn: Conn) -> None:
        """Tell of books that were granted and have not changed since: they can be fetched all the same."""
        for item, sub in conn.subs.items():
            waits = sub.state == "subscribed" and self._sink.now - sub.since > UNMOVED_NS
            if item[0] == "book" and waits and not sub.unmoved:
                sub.unmoved = True
                self._statuses.of_one(name, item, "subscribed", "no change yet")

    def _wake(self, name: str, conn: Conn, overdue: list[tuple[Item, Sub]]) -> None:
        """Take the next step of each silent item whose time it is; of many, one step for all."""
        now = self._sink.now
        due = [(item, sub) for item, sub in overdue if self._ledger.ladder(conn.leg, item, now).due <= now]
        many = sum(sub.state == "stale" for _, sub in due) > MANY_SILENT
        if many:
            self.replace(name, conn, f"{len(due)} silent subscriptions")
        for item, sub in due:
            ladder = self._ledger.ladder(conn.leg, item, now)
            if not many:
                self._climb(name, conn, item, sub, ladder.steps)
            ladder.steps += 1
            ladder.due = now + _wait(self._first.get(item[0], REFUSED_NS), ladder.steps)

    def watch_polled(self) -> None:
        """Tell what is asked for by REST and has not been answered for too long."""
        for item, polled in self._ledger.polled.items():
            patience = self._silence.get(item[0])
            if patience is not None and self._sink.now - polled.at > patience:
                self._statuses.say(item, "stale", "no answer")

    def put_off(self, leg: str, item: Item) -> None:
        """Let a while pass before an item that was refused is asked for again."""
        ladder = self._ledger.ladder(leg, item, self._sink.now)
        ladder.due = self._sink.now + _wait(REFUSED_NS, ladder.steps)

    def _overdue(self, conn: Conn, item: Item, sub: Sub) -> bool:
        waited = self._sink.now - sub.since
        match sub.state:
            case "wanted":
                return waited > ACK_NS
            case "subscribed" | "live":
                most = (self._first if sub.state == "subscribed" else self._silence).get(item[0])
                return self._is_deaf(sub) or (most is not None and waited > most)
            case "stale" | "refused":
                return self._ledger.ladder(conn.leg, item, self._sink.now).due <= self._sink.now
            case "resyncing":
                return not sub.acked and waited > ACK_NS
            case _:
                return False

    def _is_deaf(self, sub: Sub) -> bool:
        """Tell whether trades were made that the subscription did not give."""
        return sub.unheard >= DEAF_MOVES and self._sink.now - sub.since > DEAF_NS

    def _end_overdue(self, name: str, conn: Conn) -> None:
        for item, sub in conn.subs.items():
            if sub.state == "resyncing" and sub.acked and self._sink.now - sub.since > UNSUBSCRIBE_NS:
                self.subscribe(name, item, sub)

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

    def _replace_quiet(self, name: str, conn: Conn) -> None:
        now = self._sink.now
        ladder = self._ledger.quiet(conn, now)
        if ladder.due <= now:
            self.replace(name, conn, "silent")
            ladder.due = now + min(RECONNECT_NS << min(ladder.steps, 16), QUIET_MOST_NS)
            ladder.steps += 1

    def _climb(self, name: str, conn: Conn, item: Item, sub: Sub, step: int) -> None:
        if step % 2 and sub.state != "refused":
            self.replace(name, conn, f"{item[0]} of {item[1]} is silent")
        elif sub.acked:
            self._sink.request("resubscribe", symbol=item[1], channel=item[0], conn=name, reason="silent")
        else:
            self.subscribe(name, item, sub)

    def replace(self, name: str, conn: Conn, reason: str) -> None:
        """Ask for another connection in the place of this one; not again for a while."""
        if not conn.asked or self._sink.now - conn.asked > RECONNECT_NS:
            conn.asked = self._sink.now
            self._sink.request("reconnect", conn=name, reason=reason)

    def speaks(self, name: str, conn: Conn) -> None:
        """Note that a connection that was told to be silent is not."""
        conn.quiet = False
        self._statuses.connection(name, "live", "it speaks again")

    def subscribe(self, name: str, item: Item, sub: Sub) -> None:
        """Ask for an item on this connection."""
        sub.acked, sub.since = False, self._sink.now
        self._sink.request("subscribe", symbol=item[1], channel=item[0], conn=name)


def _wait(first: int, steps: int) -> int:
    return min(first << min(steps, 16), LADDER_MOST_NS)
