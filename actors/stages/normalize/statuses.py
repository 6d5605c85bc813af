"""What is told of connections and items: the ``status`` events of the normalizer."""

from actors.model.events import Channel, Status, StatusState
from actors.stages.normalize.sink import Sink
from actors.stages.normalize.subscriptions import Ledger
from actors.venues.base import Item


class Statuses:
    """Tells each state once. ``now`` (fold time) and the way out are the sink's."""

    def __init__(self, venue: str, ledger: Ledger, sink: Sink) -> None:
        self._venue = venue
        self._ledger = ledger
        self._sink = sink

    def tell(self, item: Item, reason: str) -> bool:
        """Tell the state of ``item`` if it is another than was told; return whether it was."""
        return self.say(item, self._ledger.state_of(item), reason)

    def say(self, item: Item, state: StatusState, reason: str) -> bool:
        """Tell that ``item`` is in ``state`` if another was told; return whether it was."""
        if self._ledger.told.get(item) == state:
            return False
        self._ledger.told[item] = state
        self._sink.event(self._status(item[1], item[0], state, reason))
        return True

    def again(self, item: Item, reason: str) -> None:
        """Tell once more what was told of ``item`` last."""
        self._sink.event(self._status(item[1], item[0], self._ledger.told[item], reason))

    def of_one(self, name: str, item: Item, state: StatusState, reason: str) -> None:
        """Tell how ``item`` is on one connection; that is not its state over all of them."""
        self._sink.event(self._status(item[1], item[0], state, reason, name))

    def connection(self, name: str, state: StatusState, reason: str) -> None:
        """Tell how a connection is."""
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
