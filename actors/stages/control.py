"""Requests from the folds to the connector, the documents of the ``control`` stream."""

from typing import Final, Literal

import msgspec

from actors.model.events import Channel

ControlOp = Literal["subscribe", "unsubscribe", "resubscribe", "reconnect", "snapshot", "audit", "backfill"]

MOST_DELAY_S: Final = 60.0  # chosen: longest wait before a REST request is tried again


class ControlRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request; idempotent by ``id`` (``<role>/<k of the event that caused it>/<n>``).

    ``conn`` names the connection it is for; None: every leg. ``first`` and ``last``: the range of
    trade ids of a backfill, ``after``: the venue's time of the trade before them, ns. ``delay_s``: how
    long the connector waits before it serves it.
    """

    id: str
    op: ControlOp
    symbol: str | None = None
    channel: Channel | None = None
    conn: str | None = None
    first: str | None = None
    last: str | None = None
    reason: str | None = None
    delay_s: float | None = None
    after: int | None = None


def retry_delay_s(failures: int) -> float:
    """Return how long to wait before what failed so often in a row is asked for again, s."""
    return min(2.0 ** (failures - 1), MOST_DELAY_S)
