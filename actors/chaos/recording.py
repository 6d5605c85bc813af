"""A connection that never was: lines of ``raw`` as a connector would write them, from generated frames."""

from typing import Final

import msgspec

from actors.model.events import Channel
from actors.model.instruments import Instrument
from actors.simulator.generate import Generated
from actors.stages import raw
from actors.venues import binance
from actors.venues.base import Answer, Item, Subscription

LEG: Final = "a"
CONN: Final = "a.rec0rded"
CHANNELS: Final[tuple[Channel, ...]] = ("trade", "l1", "book")
_CONN: Final = CONN.encode()
_json = msgspec.json.encode


def opening(generated: Generated, recv: int) -> list[bytes]:
    """Return what comes before the first frame.

    Former connections closed, instruments, open, subscription and its answer, and the snapshots, which
    the first depth frames join.
    """
    venue = binance.VENUE
    rows = _listed(generated)
    items: list[Item] = [(channel, symbol) for symbol in generated.snapshots for channel in CHANNELS]
    asked = Subscription("subscribe", items, "generated", id=1)
    lines = [
        raw.line(recv, f"{LEG}.*", "x", _json(raw.Closed(None, "new owner"))),
        *(raw.line(recv, CONN, "i", _json(rows[symbol])) for symbol in generated.snapshots),
        raw.line(recv, CONN, "o", venue.endpoints.ws.encode()),
        raw.line(recv, CONN, "s", _json(asked)),
        raw.line(recv, CONN, "f", b'{"result":null,"id":1}'),
    ]
    for symbol, body in generated.snapshots.items():
        lines.append(frame_line(recv, _included(rows[symbol], body)))
        lines.append(snapshot_line(recv, rows[symbol], body))
    return lines


def _listed(generated: Generated) -> dict[str, Instrument]:
    """Return the generated instruments by symbol."""
    return {row.symbol: row for row in binance.rows(generated.exchange_info) if isinstance(row, Instrument)}


def snapshot_line(recv: int, row: Instrument, body: bytes) -> bytes:
    """Return the line of a snapshot that was asked for; whoever did not ask has no use for it."""
    assert binance.VENUE.snapshot is not None  # noqa: S101 - Binance has one
    answer = Answer(binance.VENUE.snapshot(row), 200, body.decode(), conn=CONN)
    return raw.line(recv, CONN, "h", _json(answer))


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


class Recording:
    """Generated frames in order, with later snapshots where they belong."""

    def __init__(self, generated: Generated) -> None:
        self._generated = generated
        self._rows = _listed(generated)
        self._later = iter([*generated.later, (len(generated.frames) + 1, "", b"")])
        self._next = next(self._later)
        self.sent = 0

    def take(self, stamps: list[int]) -> list[bytes]:
        """Return the lines of the next frames, one a stamp, fewer at the end; [] after it."""
        frames = self._generated.frames[self.sent : self.sent + len(stamps)]
        self.sent += len(frames)
        lines = [frame_line(at, frame) for at, frame in zip(stamps, frames, strict=False)]
        while self._next[0] <= self.sent:
            _, symbol, body = self._next
            lines.append(snapshot_line(stamps[len(frames) - 1], self._rows[symbol], body))
            self._next = next(self._later)
        return lines
