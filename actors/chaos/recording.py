"""A connection that never was: lines of ``raw`` as a connector would write them, from generated frames."""

from collections.abc import Iterator

import msgspec

from actors.model.events import Channel
from actors.model.instruments import Instrument
from actors.simulator.binance.generate import Generated
from actors.stages import raw
from actors.venues import binance
from actors.venues.base import Answer, Subscription

LEG = "a"
CONN = "a.rec0rded"
CHANNELS: tuple[Channel, ...] = ("trade", "l1", "book")
_json = msgspec.json.encode


def opening(generated: Generated, recv: int) -> list[bytes]:
    """Return what comes before the first frame: former connections closed, instruments, open,
    subscription and its answer, and the snapshots, which the first depth frames join."""
    venue = binance.VENUE
    rows = {row.symbol: row for row in venue.rows(generated.exchange_info)}
    items = [(channel, symbol) for symbol in generated.snapshots for channel in CHANNELS]
    asked = Subscription("subscribe", items, "generated", id=1)
    lines = [
        raw.line(recv, f"{LEG}.*", "x", _json(raw.Closed(None, "new owner"))),
        *(raw.line(recv, CONN, "i", _json(rows[symbol])) for symbol in generated.snapshots),
        raw.line(recv, CONN, "o", venue.endpoints.ws.encode()),
        raw.line(recv, CONN, "s", _json(asked)),
        raw.line(recv, CONN, "f", b'{"result":null,"id":1}'),
    ]
    assert venue.snapshot is not None  # noqa: S101 - Binance has one
    for symbol, body in generated.snapshots.items():
        lines.append(frame_line(recv, _included(rows[symbol], body)))
        answer = Answer(venue.snapshot(rows[symbol]), 200, body.decode(), conn=CONN)
        lines.append(raw.line(recv, CONN, "h", _json(answer)))
    return lines


def _included(row: Instrument, snapshot: bytes) -> bytes:
    """Return a depth frame that the snapshot includes: the book is asked for once its stream speaks."""
    last = msgspec.json.decode(snapshot, type=_Snapshot).lastUpdateId
    return (
        b'{"stream":"%b@depth@100ms","data":{"e":"depthUpdate","E":%d,"s":"%b","U":%d,"u":%d,"b":[],"a":[]}}'
        % (row.native.lower().encode(), last // 1000, row.native.encode(), last, last)
    )


class _Snapshot(msgspec.Struct):
    lastUpdateId: int  # noqa: N815 - the venue's word


def frame_line(recv: int, frame: bytes) -> bytes:
    """Return the line of one frame."""
    return b"%d %b f %b" % (recv, _CONN, frame)


_CONN = CONN.encode()


def batches(frames: list[bytes], size: int) -> Iterator[list[bytes]]:
    """Yield ``frames`` in lists of at most ``size``."""
    for start in range(0, len(frames), size):
        yield frames[start : start + size]
