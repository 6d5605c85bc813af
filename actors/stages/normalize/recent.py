"""Which trades of one symbol have been seen, where no id tells what is missing: the last are remembered."""

from itertools import islice
from typing import Final

import msgspec

from actors.model.events import Trade
from actors.stages.normalize.marks import RESET_BELOW, Duplicate, Reset

MOST_RECENT: Final = 4096  # DESIGN 6; forgotten are the oldest of them, some at a time
_FORGOTTEN: Final = 512  # chosen: at once, which costs a tenth of one by one


class Recent(msgspec.Struct):
    """The last trades seen of one symbol.

    An ``increasing`` id above all others is new without a look; one below, if it was not seen, is of a
    connection that lags, and passes as long as it is among the last ones. ``unordered`` ids are only
    told apart. So are those of before the venue started its ids again, far above with an earlier time.

    Attributes:
        ids: In order of their coming; the ``MOST_RECENT`` last, or some more.
        high: Highest id seen, -1 before the first; of increasing ids only, like the rest.
        ts: Event time of the highest, ns.
        floor: Highest id that was forgotten, -1 for none.
        holed: A hole was named after the last one that passed: it has no end yet.
    """

    ids: dict[str, None] = {}
    high: int = -1
    ts: int | None = None
    floor: int = -1
    holed: bool = False

    def see(self, trade: Trade, *, increasing: bool) -> Duplicate | Reset | None:
        """Take one trade; None: it passes, and so it does after a ``Reset``."""
        told: Reset | None = None
        if increasing:
            number = int(trade.id)
            if number <= self.high:
                if trade.id in self.ids or not self._is_reset(trade, number):
                    return Duplicate() if number <= self.floor else self._note(trade.id)
                self.floor, told = -1, Reset()
            elif number - self.high > RESET_BELOW and self._is_earlier(trade):
                return self._note(trade.id)
            self.high, self.ts = number, trade.ts_event
        return self._note(trade.id) or told

    def miss(self, number: int) -> bool:
        """Take a trade of which nothing but its ``increasing`` id is known; return whether that is new."""
        if number <= self.floor or self._note(str(number)) is not None:
            return False
        self.high = max(self.high, number)
        return True

    def _is_reset(self, trade: Trade, number: int) -> bool:
        later = trade.ts_event is not None and self.ts is not None and trade.ts_event > self.ts
        return later and self.high - number > RESET_BELOW

    def _is_earlier(self, trade: Trade) -> bool:
        return trade.ts_event is not None and self.ts is not None and trade.ts_event < self.ts

    def _note(self, identity: str) -> Duplicate | None:
        ids = self.ids
        if identity in ids:
            return Duplicate()
        ids[identity] = None
        if len(ids) == MOST_RECENT + _FORGOTTEN:
            oldest = list(islice(ids, _FORGOTTEN))
            for forgotten in oldest:
                del ids[forgotten]
            if self.high >= 0:
                highest = max(map(int, oldest))
                if highest > self.high:  # of former ids, which say nothing of those now
                    highest = max((n for n in map(int, oldest) if n <= self.high), default=-1)
                self.floor = max(self.floor, highest)
        return None
