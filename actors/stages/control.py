"""Requests from the folds to the connector, the documents of the ``control`` stream."""

from typing import Literal

import msgspec

from actors.model.events import Channel

ControlOp = Literal["subscribe", "unsubscribe", "resubscribe", "reconnect", "snapshot", "backfill"]


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
