"""Where a fold says what it says while it takes one input event: events, requests, counts, dead letters."""

from typing import Final, get_args

import msgspec

from actors.model.codec import encode
from actors.model.errors import Unparseable
from actors.model.events import AnyEvent, Cause, Channel, Event, Gap
from actors.stages.control import ControlOp, ControlRequest
from actors.stages.dead import letter
from actors.stages.fold import Output

_encode = msgspec.json.encode
_COUNTED: Final[dict[type, tuple[str, str]]] = {
    kind: ("tapeline_events_total", str(kind.__struct_config__.tag)) for kind in get_args(AnyEvent)
}


class Sink:
    """The outputs of one input event.

    Attributes:
        out: Where it goes.
        k: Number of the input event: requests are named by it, so that a refold names them alike.
        now: Fold time, ns.
    """

    __slots__ = ("_partition", "_requests", "_role", "_venue", "k", "now", "out")

    def __init__(self, role: str, venue: str, partition: str, out: Output) -> None:
        self._role = role
        self._venue = venue
        self._partition = partition
        self._requests = 0
        self.out = out
        self.k = 0
        self.now = 0

    def begin(self, k: int, out: Output) -> None:
        """Turn to input event ``k``."""
        self.k = k
        self.out = out
        self._requests = 0

    def event(self, event: Event) -> None:
        """Emit one event."""
        out = self.out
        out.lines["events"].append(encode(event))
        out.counts[_COUNTED[type(event)]] += 1

    def gap(
        self,
        symbol: str | None,
        channel: Channel | None,
        cause: Cause,
        first: int | None = None,
        last: int | None = None,
        *,
        filled: bool = False,
        conn: str | None = None,
    ) -> None:
        """Name what is missing, or was and no longer is (``filled``); ``conn``: on one connection only."""
        ends = (None if first is None else str(first), None if last is None else str(last))
        self.event(Gap(self._venue, symbol, None, self.now, None, channel, cause, *ends, filled, conn))
        if not filled:
            self.count("tapeline_gaps_total", f"{channel or 'all'}/{cause}")

    def request(
        self,
        op: ControlOp,
        *,
        symbol: str | None = None,
        channel: Channel | None = None,
        conn: str | None = None,
        first: str | None = None,
        last: str | None = None,
        reason: str | None = None,
        delay_s: float | None = None,
        after: int | None = None,
    ) -> None:
        """Ask the connector for something."""
        number = f"{self._role}/{self.k}/{self._requests}"
        self._requests += 1
        request = ControlRequest(number, op, symbol, channel, conn, first, last, reason, delay_s, after)
        self.out.lines["control"].append(_encode(request))

    def count(self, metric: str, reason: str) -> None:
        """Add one to a counter; ``reason``: its labels beyond venue and partition, apart by ``/``."""
        self.out.counts[(metric, reason)] += 1

    def unparseable(self, e: Unparseable, line: bytes) -> None:
        """Count and keep what could not be decoded: not JSON, not of its schema, or no such value."""
        cause = e.__cause__
        schema = isinstance(cause, msgspec.ValidationError)
        self.count(
            "tapeline_unparseable_total", "schema" if schema else "value" if cause is None else "malformed"
        )
        self.dead(str(e), line)

    def dead(self, reason: str, record: bytes) -> None:
        """Keep a record that means nothing, with the reason, for people to look at."""
        self.out.lines["dead"].append(letter(reason, self._role, self._partition, self.k, record))
