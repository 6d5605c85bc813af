r"""Lines of the ``raw`` stream: ``<recv ns> <connection> <kind> <payload to end of line>``.

Connection id: ``<leg>.<random>``; ``<leg>.*`` in an ``x`` line closes all former ones of that leg.

===== ==================================================================================
kind  payload
===== ==================================================================================
``f`` text frame, already inflated, no line break in it
``b`` base64 of a frame that a line cannot hold (binary, or with a line break)
``h`` REST answer with its request: ``venues.base.Answer`` as JSON
``o`` open: the URL
``x`` close or failed attempt: ``Closed`` as JSON
``s`` subscription sent: ``venues.base.Subscription`` as JSON
``i`` ``model.instruments.Instrument`` or ``UnknownInstrument`` as JSON
``k`` tick: ``LegsAlive`` as JSON; connection id ``-``
===== ==================================================================================
"""

from typing import Literal

import msgspec


class Closed(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a connection ended or was not had.

    Attributes:
        code: WebSocket close code or HTTP status, or None.
        reason: For people.
        bad: What the venue sent that we would not take and closed for; it is nowhere else in ``raw``.
    """

    code: int | None
    reason: str
    bad: Literal["oversized", "protocol"] | None = None


class LegsAlive(msgspec.Struct, frozen=True):
    """The payload of a tick: legs whose lease was alive. Connections of other legs count as closed."""

    legs: list[str]


def line(recv: int, conn: str, kind: str, payload: bytes) -> bytes:
    """Return one line of ``raw``; ``payload`` must not hold a line break."""
    return b"%d %b %b %b" % (recv, conn.encode(), kind.encode(), payload)


def split(raw_line: bytes) -> tuple[int, str, str, bytes]:
    """Return (recv ns, connection id, kind, payload) of one line.

    Raises:
        ValueError: The line has not these four parts.
    """
    recv, conn, kind, payload = raw_line.split(b" ", 3)
    return int(recv), conn.decode(), kind.decode(), payload
