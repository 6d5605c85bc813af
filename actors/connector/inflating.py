"""Binary frames that hold compressed text: taken apart within bounds, so that no small frame fills memory."""

import zlib
from typing import Final, Literal

_GZIP: Final = 16 + zlib.MAX_WBITS  # with gzip's header and checksum, and nothing else


class Broken(Exception):
    """A frame that cannot be inflated. ``bad``: what was wrong with it, as ``Closed`` says it."""

    def __init__(self, bad: Literal["oversized", "protocol"], reason: str) -> None:
        super().__init__(reason)
        self.bad: Literal["oversized", "protocol"] = bad


def gunzip(frame: bytes | bytearray, most_bytes: int) -> bytes:
    """Return what a gzip frame holds.

    Raises:
        Broken: It holds more than ``most_bytes``, or is no whole gzip stream and nothing but that.
    """
    stream = zlib.decompressobj(_GZIP)
    try:
        text = stream.decompress(frame, most_bytes + 1)
    except zlib.error as e:
        raise Broken("protocol", f"a binary frame of {len(frame)} bytes is not gzip: {e}") from e
    if len(text) > most_bytes:
        raise Broken("oversized", f"a gzip frame of {len(frame)} bytes holds more than {most_bytes} bytes")
    if not stream.eof:
        raise Broken("protocol", f"a gzip frame of {len(frame)} bytes is cut off")
    if stream.unused_data:
        raise Broken("protocol", f"{len(stream.unused_data)} bytes follow the gzip stream of a frame")
    return text
