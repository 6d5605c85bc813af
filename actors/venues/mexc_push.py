"""The frames that MEXC pushes, as protocol buffers: an annotation's number is the field's on the wire.

Built from these classes when the first frame comes: no other venue's processes pay for the library. A field
that is not here is skipped, as an unknown one is. Proto3 does not tell what is absent from ``""`` and 0. An
int32 of the venue's stands as int64: both are one varint on the wire.

Source: field numbers of mexcdevelop/websocket-proto as of 2026-06.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Final, Protocol, Self, cast, get_args, get_origin, get_type_hints

from google.protobuf.message import DecodeError

from actors.model.errors import Unparseable

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import DescriptorProto


class Level(Protocol):
    """One price of a book."""

    price: Annotated[str, 1]
    quantity: Annotated[str, 2]  # absolute, base currency; zero removes


class Depths(Protocol):
    """What changed in a book. A side without changes is absent."""

    asks: Annotated[Sequence[Level], 1]  # before the bids
    bids: Annotated[Sequence[Level], 2]
    event_type: Annotated[str, 3]
    from_version: Annotated[str, 4]  # one above the last frame's ``to_version``
    to_version: Annotated[str, 5]


class Deal(Protocol):
    """One trade."""

    price: Annotated[str, 1]
    quantity: Annotated[str, 2]  # base currency
    trade_type: Annotated[int, 3]  # 1: the taker bought, 2: sold
    time: Annotated[int, 4]  # ms
    trade_id: Annotated[str, 5]  # opaque; since 2026-06


class Deals(Protocol):
    """The trades of one window, oldest first."""

    deals: Annotated[Sequence[Deal], 1]
    event_type: Annotated[str, 2]


class BookTicker(Protocol):
    """Best bid and ask; an empty side is absent."""

    bid_price: Annotated[str, 1]
    bid_quantity: Annotated[str, 2]
    ask_price: Annotated[str, 3]
    ask_quantity: Annotated[str, 4]
    version: Annotated[str, 5]  # since 2026-06


class MiniTicker(Protocol):
    """A day's summary."""

    symbol: Annotated[str, 1]
    price: Annotated[str, 2]  # last
    high: Annotated[str, 5]
    low: Annotated[str, 6]
    volume: Annotated[str, 7]  # quote currency, whatever the name says
    quantity: Annotated[str, 8]  # base currency


class Push(Protocol):
    """One frame: who it is about, and one body."""

    channel: Annotated[str, 1]
    symbol: Annotated[str, 3]
    send_time: Annotated[int, 6]  # ms
    mini_ticker: Annotated[MiniTicker, 309]
    depths: Annotated[Depths, 313]
    deals: Annotated[Deals, 314]
    book_ticker: Annotated[BookTicker, 315]

    @classmethod
    def FromString(cls, s: bytes) -> Self:  # noqa: N802 - the library's name
        """Return what the bytes say."""
        ...

    def HasField(self, name: str) -> bool:  # noqa: N802
        """Tell whether a body is there."""
        ...

    def SerializeToString(self) -> bytes:  # noqa: N802
        """Return the bytes that say it."""
        ...


_KINDS: Final = (Level, Depths, Deal, Deals, BookTicker, MiniTicker, Push)


@cache
def push_type() -> type[Push]:
    """Return the class of frames; its fields may be given by name."""
    from google.protobuf import (  # noqa: PLC0415 - 20 ms and 3 MiB, which only MEXC's processes are to pay
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )

    file = descriptor_pb2.FileDescriptorProto(name="mexc", package="mexc", syntax="proto3")
    for kind in _KINDS:
        _describe(kind, file.message_type.add(name=kind.__name__))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"mexc.{Push.__name__}"))
    return cast("type[Push]", found)


def _describe(kind: type, message: "DescriptorProto") -> None:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner, number = get_args(hint)
        field = message.field.add(name=name, number=number)
        several = get_origin(inner) is not None
        field.label = field.LABEL_REPEATED if several else field.LABEL_OPTIONAL
        one = get_args(inner)[0] if several else inner
        if one is str:
            field.type = field.TYPE_STRING
        elif one is int:
            field.type = field.TYPE_INT64
        else:
            field.type, field.type_name = field.TYPE_MESSAGE, f".mexc.{one.__name__}"
            if not several:  # a body, of which the last on the wire counts
                field.oneof_index = 0
    if kind is Push:
        message.oneof_decl.add(name="body")


def parse(frame: bytes) -> Push:
    """Return what a frame says.

    Raises:
        Unparseable: No such message: cut off, a length beyond its end, nested without end, text not UTF-8.
    """
    try:
        return push_type().FromString(frame)
    except DecodeError as e:
        raise Unparseable(f"no frame of this venue: {frame[:80]!r}: {e}") from e
