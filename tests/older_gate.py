"""Gate's older books, for a recording of 2021: changes by ``spot.order_book_update``, the snapshot by REST.

The venue's file takes books by ``spot.obu``, of which no long recording exists; all but the book is its own.
Source: gate.com, Spot WebSocket v4 and REST v4, "order_book_update", "order_book".
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from actors.model.decimals import sides_text
from actors.model.events import BookDelta, BookSnapshot, Event, Level
from actors.model.instruments import Instrument
from actors.venues import gateio
from actors.venues.base import Acked, Answer, BookRule, Decoded, Item, Request, Scratch, Subscription
from actors.venues.common import MS, asking, planner, symbol_of, told_ms

LEVELS: Final = 100
CHANNEL: Final = "spot.order_book_update"


class _Change(msgspec.Struct):
    t: int
    s: str
    U: int
    u: int
    b: list[Level]
    a: list[Level]


class _Frame(msgspec.Struct):
    event: str
    result: msgspec.Raw


class _Snapshot(msgspec.Struct):
    id: int
    bids: list[Level]
    asks: list[Level]
    update: int | None = None


def decode(frame: bytes, scratch: Scratch) -> list[Decoded]:
    said = msgspec.json.decode(frame, type=_Frame)
    if said.event != "update":
        return [Acked()]
    c = msgspec.json.decode(said.result, type=_Change)
    head = (scratch.venue, symbol_of(c.s, scratch), c.t * MS, scratch.recv, c.u, scratch.conn)
    return [BookDelta(*head, *sides_text(c.b, c.a), first_seq=c.U, last_seq=c.u)]


def decode_rest(answer: Answer, scratch: Scratch) -> list[Event]:
    s = msgspec.json.decode(answer.body, type=_Snapshot)
    head = (scratch.venue, answer.request.symbol or "", told_ms(s.update), scratch.recv, s.id, scratch.conn)
    return [BookSnapshot(*head, *sides_text(s.bids, s.asks), last_seq=s.id, depth=LEVELS)]


def subscribe(
    items: Sequence[Item], instruments: Mapping[str, Instrument], _first_id: int
) -> list[Subscription]:
    documents = (
        {"channel": CHANNEL, "event": "subscribe", "payload": [instruments[symbol].native, "100ms"]}
        for _, symbol in items
    )
    return [asking("subscribe", [item], document) for item, document in zip(items, documents, strict=True)]


def snapshot(instrument: Instrument) -> Request:
    query = f"currency_pair={instrument.native}&limit={LEVELS}&with_id=true"
    return Request("snapshot", f"/api/v4/spot/order_book?{query}", instrument.symbol)


VENUE: Final = replace(
    gateio.VENUE,
    book_rule=BookRule(snapshot="rest", join="range", chain="range", depth=LEVELS),
    plan=planner("/ws/v4/", 100, subscribe),
    subscribe=subscribe,
    unsubscribe=None,
    decode=decode,
    decode_rest=decode_rest,
    snapshot=snapshot,
)
