"""Frames as a case table writes them, made into bytes.

Text stands as it is. Protocol buffers stand as objects of field number -> value: text or an object is
length-delimited, a whole number a varint, a fraction 64 bits, a list one field for each, null none. Whatever
else is binary is ``{"hex": ...}``. Nothing here knows a schema, and nothing is the venues': the numbers in a
table are those of the venue's documents.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any


def frame_of(written: str | Mapping[str, Any]) -> bytes:
    if isinstance(written, str):
        return written.encode()
    return bytes.fromhex(written["hex"]) if "hex" in written else encode(written)


def encode(message: Mapping[str, Any]) -> bytes:
    return b"".join(_field(_number(key), value) for key, value in message.items())


def _number(key: str) -> int:
    return int(key) if key.isdecimal() and 0 < int(key) < 1 << 29 else 1 + len(key)


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, value: Any) -> bytes:
    match value:
        case None:
            return b""
        case list():
            return b"".join(_field(number, each) for each in value)
        case int():
            return _varint(number << 3) + _varint(value)
        case float():
            return _varint(number << 3 | 1) + struct.pack("<d", value)
        case _:
            data = encode(value) if isinstance(value, dict) else value.encode(errors="surrogatepass")
            return _varint(number << 3 | 2) + _varint(len(data)) + data


def walk(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield field numbers and values of one message, of varints and what is length-delimited."""
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(data):
        number, kind = divmod(varint(), 8)
        value = varint()
        if kind == 2:
            at += value
            yield number, data[at - value : at]
        else:
            assert kind == 0
            yield number, value
