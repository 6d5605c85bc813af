"""Events to text and back: one UTF-8 JSON document a line, ``kind`` first."""

from collections.abc import Callable
from typing import Final

import msgspec

from actors.model.errors import Unparseable
from actors.model.events import AnyEvent, Event

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEvent)

encode_into = _encoder.encode_into
encode: Final[Callable[[Event], bytes]] = _encoder.encode  # the line of an event, without its line end


def decode(line: bytes) -> AnyEvent:
    """Return the event of one line.

    Raises:
        Unparseable: The line is no event of this schema.
    """
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise Unparseable(f"not an event: {e}: {line[:80]!r}") from e


def prefix(kind: str) -> bytes:
    """Return how every line of this kind begins, so that a reader can skip lines undecoded."""
    return b'{"kind":"%b"' % kind.encode()


TRADE: Final = prefix("trade")
TICK: Final = prefix("tick") + b","


def kind_of(line: bytes) -> str:
    """Return the ``kind`` of an event line without decoding the rest of it."""
    return line[9 : line.index(b'"', 9)].decode()
