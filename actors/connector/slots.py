"""Planned connections: each a slot, kept open by one link after another, replaced before it is cut.

============ =================================== ===================================================
slot is      left by                             to
============ =================================== ===================================================
opening      the handshake, and the greeting     holding; or replacing, where an old link still lives
             a failure (``x`` written)           opening, after the back-off
holding      the link closes (``x`` written)     opening, after the back-off
             ``replace``, or its life is over    opening, with the link as the old one
replacing    the new link carries frames         holding the new; the old is closed after an overlap
             the new closes, or is deaf          opening again; the old stays
============ =================================== ===================================================

The back-off starts anew once a link carried more frames than answers were due. A link that has spent the
subscriptions that its venue allows in an hour is replaced: the next one has an hour's of its own.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup

from actors.connector.links import Link, Side, until
from actors.connector.rest import bar_s
from actors.connector.sink import Sink
from actors.connector.sockets import Refused
from actors.model.instruments import Instrument
from actors.runtime.backoff import backoff
from actors.venues.base import Connection, Item, Subscription

log = structlog.get_logger()

TRY_LATER_S: Final = 10.0  # chosen: the least wait after close code 1013
_LIFE_PART: Final = 0.9  # chosen: links of one age are not replaced at once, and never after their time


class Slot:
    """One planned connection. ``run`` keeps it open until it is cancelled.

    Attributes:
        items: What it is for.
        link: The newest link that is open, or None.
        old: The link that it is replacing, or None.
    """

    def __init__(
        self, side: Side, sink: Sink, leg: str, planned: Connection, instruments: Sequence[Instrument]
    ) -> None:
        self._side = side
        self._sink = sink
        self._leg = leg
        self._planned = planned
        self._instruments = {instrument.symbol: instrument for instrument in instruments}
        self._off: set[Item] = set()
        self._renamed = False  # a symbol has another native name than it was planned with
        self._changed = anyio.Event()
        self._failed = False  # the last attempt
        self.items: list[Item] = [item for s in planned.subscriptions for item in s.items]
        self.link: Link | None = None
        self.old: Link | None = None

    @property
    def links(self) -> Iterator[Link]:
        """The links that are open."""
        return (link for link in (self.old, self.link) if link is not None and not link.ended.is_set())

    def replace(self, reason: str, conn: str | None = None) -> None:
        """Ask for another link in place of ``conn``, or of every one that was told what is wanted.

        One that is replacing another takes its place first, and is then replaced in its turn.
        """
        for link in self.links:
            if link.unwanted is None and (link.ready if conn is None else link.id == conn):
                link.unwanted = reason
        self._wake()

    def learn(self, row: Instrument) -> None:
        """Take what its venue lists now of a symbol; one with another name is asked for on another link."""
        was = self._instruments.get(row.symbol)
        if was is None or all(symbol != row.symbol for _, symbol in self.items):
            return
        self._instruments[row.symbol] = row
        if row.native != was.native:
            self._renamed = True
            self.replace(f"{row.symbol} is {row.native} now")

    def leave(self, code: int, reason: str, over: str) -> None:
        """Close whatever is open."""
        for link in self.links:
            link.leave(code, reason, over)

    def abandon(self) -> None:
        """Close whatever is open, saying nothing."""
        for link in self.links:
            link.abandon()

    async def subscribe(self, items: Sequence[Item], conn: str | None = None) -> int | None:
        """Subscribe ``items`` on link ``conn`` or on every open one; return the last record's ticket."""
        self._off.difference_update(items)
        return await self._say(self._side.venue.subscribe, items, conn)

    async def unsubscribe(
        self, items: Sequence[Item], conn: str | None = None, *, for_good: bool = True
    ) -> int | None:
        """End the subscriptions of ``items``; ``for_good``: a later link leaves them out too.

        Where the venue has no word for that the connection is replaced.
        """
        if for_good:
            self._off.update(items)
        if self._side.venue.unsubscribe is None:
            self.replace("a subscription is to end", conn)
            return None
        return await self._say(self._side.venue.unsubscribe, items, conn)

    async def _say(self, frames: "_Frames", items: Sequence[Item], conn: str | None) -> int | None:
        ticket: int | None = None
        for link in list(self.links):
            if link.ready and conn in (None, link.id):  # one that is not will ask for all that is wanted
                ticket = await link.send(frames(items, self._instruments, link.next_id)) or ticket
                if link.spent:
                    self.replace("its subscriptions of an hour are spent", link.id)
        return ticket

    # ---------------------------------------------------------------------------------------- its life

    def _wake(self) -> None:
        self._changed.set()

    async def run(self, first_s: float) -> None:
        """Open after ``first_s``, hold, replace, open again."""
        await anyio.sleep(first_s)
        async with anyio.create_task_group() as tg:
            delays = backoff()
            while True:
                fresh, wait_s = await self._open(tg)
                if fresh is not None:
                    if await self._hand_over(fresh):
                        await self._hold(fresh)
                        if fresh.carries:
                            delays = backoff()
                        if not fresh.ended.is_set():
                            continue  # it is to be replaced: at once
                    wait_s = _least_s(fresh)
                await anyio.sleep(max(wait_s, next(delays)))

    async def _open(self, tg: TaskGroup) -> tuple[Link | None, float]:
        """Make one attempt; return the link, or None and the least time to wait."""
        side = self._side
        await until(lambda: side.room.roomy)  # Redis is away or slow: more sockets would only overflow
        link = Link(side, self._sink, self._leg, self._planned.url, self._wake)
        if self.link is not None and not self.link.ended.is_set():
            self.old = self.link
        else:
            self.old = None
        self.link = link
        try:
            await link.open()
        except Refused as e:
            self.link, self.old = self.old, None
            seconds = bar_s(e.status, e.retry_after_s, side.venue.limits)
            if seconds is not None:
                await side.limit.bar("connect", seconds)
            said = log.warning if self._failed else log.info  # one failure alone is no news
            said("not_connected", venue=side.venue.name, conn=link.id, reason=str(e), status=e.status)
            self._failed = True
            return None, max(e.retry_after_s or 0.0, _least_s(link))
        self._failed = False
        log.info("connected", venue=side.venue.name, conn=link.id, url=link.url)
        tg.start_soon(link.keep_alive)
        await link.send(self._subscriptions())
        return link, 0.0

    def _subscriptions(self) -> Sequence[Subscription]:
        if not (self._off or self._renamed):
            return self._planned.subscriptions
        items = [item for item in self.items if item not in self._off]
        asks_nothing = [s for s in self._planned.subscriptions if not s.items]
        return [*asks_nothing, *self._side.venue.subscribe(items, self._instruments, 1)]

    async def _hand_over(self, fresh: Link) -> bool:
        """Close the old link once the new one carries frames; False, and the old stays, if it does not."""
        old = self.old
        if old is None:
            return True
        had = old.given
        with anyio.move_on_after(self._side.carry_s):
            await until(lambda: fresh.carries or fresh.ended.is_set() or old.ended.is_set())
        if not (fresh.ended.is_set() or fresh.carries or old.ended.is_set()) and old.given > had:
            fresh.leave(1000, "gave nothing", "deaf")
        elif not (fresh.ended.is_set() or old.ended.is_set()):
            with anyio.move_on_after(self._overlap_s()):
                await until(lambda: fresh.ended.is_set() or old.ended.is_set())
        if fresh.ended.is_set():
            self.link, self.old = (None if old.ended.is_set() else old), None
            return False
        old.leave(1000, f"replaced: {old.unwanted or 'its life is over'}", "replaced")
        self.old = None
        return True

    def _overlap_s(self) -> float:
        """Return how long the old link stays: until the new one's books can be had within the budget."""
        venue = self._side.venue
        if venue.snapshot is None:
            return self._side.overlap_s
        books = (self._instruments[symbol] for channel, symbol in self.items if channel == "book")
        weight = sum(venue.snapshot(instrument).weight for instrument in books)
        return max(self._side.overlap_s, weight / self._side.rest.weight_per_minute * 60)

    async def _hold(self, link: Link) -> None:
        """Return when the link has ended, is to be replaced, or has lived long enough."""
        lifetime_s = self._side.venue.limits.lifetime_s
        life_s = float("inf")
        if lifetime_s is not None:
            life_s = lifetime_s * (_LIFE_PART + (1 - _LIFE_PART) * secrets.randbelow(1000) / 1000)
        with anyio.CancelScope(deadline=link.opened_at + life_s):
            while not link.ended.is_set() and link.unwanted is None:
                self._changed = anyio.Event()
                await self._changed.wait()
        if link.ended.is_set():
            self.link = None


def _least_s(link: Link) -> float:
    """Return how long its venue wants to be left alone after ``link``."""
    return TRY_LATER_S if link.code == 1013 else 0.0


_Frames = Callable[[Sequence[Item], dict[str, Instrument], int], list[Subscription]]
