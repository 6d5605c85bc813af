"""Frames of a venue made wrong: bytes, JSON values and protobuf fields changed, cut, repeated, blown up.

``mutated`` is the door. All chance comes from the ``random.Random`` that it is given.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import NamedTuple

Span = tuple[int, int]
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^\s"\[\]{}:,]++|[\[\]{}:,]', re.DOTALL)

# What stands where another value is meant: types, bounds, spellings, none of them too long to read.
ATOMS = [
    *b"null true false 0 -0 -1 1 2 0.1 1.50 -1.5 1e-7 1E5 0e5 1e999 -1e999 1e999999999 1e-999999999".split(),
    *b"NaN Infinity -Infinity 01 1. .5 +1 0x10 1_000 nul tru [] {} [[]] [null] [0] [[0,0]]".split(),
    *b"4294967296 9007199254740993 9223372036854775807 9223372036854775808 18446744073709551616".split(),
    *b"-9223372036854775809 1767225600 1767225600000 1767225600000000 1767225600000000000 86400".split(),
    *b'"" "0" "-0" "0.000" "-1" "1E-7" "1e999999999" "NaN" "Infinity" "-Infinity" "1,5" "1." ".5"'.split(),
    *b'"+1" "0x10" "1_000" "null" "[]" "{}" "1767225600000" "9223372036854775808" "a\\nb"'.split(),
    *b'"2026-02-30T00:00:00Z" "9999-12-31T23:59:59.999999999Z" "0001-01-01T00:00:00Z" "12:00"'.split(),
    *b'"2026-01-01T00:00:00+23:59" "\\ud800" "\\udc00\\ud800" "\\u0661" "\\uff11" "1\\u2028"'.split(),
    *b'"a\\u0000" "\xff" "\xed\xa0\x80" "\xc0\x80" "\xd9\xa3" {"":null}'.split(),
    *(b'" 1"', b'"1 "', b'"1\\n"', b"9" * 65, b"9" * 400, b"0.%b1" % (b"0" * 70), b'"0.%b1"' % (b"0" * 70)),
    *(b'"%b"' % (b"9" * 65), b'"%be5"' % (b"1" * 63), b'{"code":1,"msg":"%b"}' % (b"x" * 500)),
]
# The same where size is the matter; each is a few 100 kB at most, as large as a venue's largest frames.
HUGE = [
    *(b"1" * 5_000, b"1" * 100_000, b"0.%b" % (b"3" * 100_000), b"1e%b" % (b"9" * 5_000)),
    *(b'"%b"' % (text * 50_000) for text in (b"1", b"x", b"\\n", b"\\u0000", b"[{")),
    *(b"[" * n + b"]" * n for n in (60, 900, 1_200)),
    *(b"[" * 100_000, b'{"a":' * 30_000, b'[{"a":' * 900 + b"1" + b"}]" * 900),
    *(b"[%b%b]" % (text * 10_000, text[:-1]) for text in (b"0,", b"[],", b"{},", b'["1","1"],')),
    b'{%b"a":2}' % (b'"a":1,' * 20_000),
    b'{%b"z":1}' % b"".join(b'"k%d":1,' % n for n in range(10_000)),
]
_BYTES = [
    *(b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b"\\u", b"\\ud800", b"//"),
    *(bytes([byte]) for byte in b" \n\t\x7f\\\"'{}[],:-.e0"),
]


class Parts(NamedTuple):
    """Where a JSON text has its parts; as far as it is any, for text that is none."""

    values: list[Span]
    members: list[Span]  # of lists and objects, keys included
    keys: list[Span]


@lru_cache(64)
def parts(text: bytes) -> Parts:
    found = Parts([], [], [])
    opened: list[tuple[int, int | None]] = []
    key: int | None = None
    for token in _TOKEN.finditer(text):
        match text[token.start()]:
            case 0x5B | 0x7B:  # [ {
                opened.append((token.start(), key))
                key = None
                continue
            case 0x2C:  # ,
                continue
            case 0x3A:  # :
                if found.values:
                    found.keys.append(found.values.pop())
                    found.members.pop()
                    key = found.keys[-1][0]
                continue
            case 0x5D | 0x7D:  # ] }
                if not opened:
                    continue
                start, key = opened.pop()
            case _:
                start = token.start()
        found.values.append((start, token.end()))
        found.members.append((start if key is None else key, token.end()))
        key = None
    return found


def put(text: bytes, where: Span, what: bytes) -> bytes:
    return text[: where[0]] + what + text[where[1] :]


Change = Callable[[Random, bytes, Sequence[bytes]], bytes]  # dice, frame, other frames of the venue


# ---- of any frame -----------------------------------------------------------------------------------------


def _flip(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(frame)
    for _ in range(dice.choice((1, 1, 2, 8))):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _cut(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(frame))
    return frame[:at] if dice.random() < 0.7 else frame[at:]


def _remove(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(frame))
    return frame[:at] + frame[at + dice.choice((1, 2, 9)) :]


def _insert(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(frame) + 1)
    what = dice.choice(_BYTES) if dice.random() < 0.8 else dice.randbytes(dice.choice((1, 4, 40)))
    return frame[:at] + what * dice.choice((1, 1, 1, 3)) + frame[at:]


def _splice(dice: Random, frame: bytes, others: Sequence[bytes]) -> bytes:
    other = dice.choice(others)
    return frame[: dice.randrange(len(frame) + 1)] + other[dice.randrange(len(other) + 1) :]


def _dress(dice: Random, frame: bytes, others: Sequence[bytes]) -> bytes:
    match dice.randrange(6):
        case 0:
            return frame + dice.choice((frame, dice.choice(others), b"\n" + frame, b"\x00"))
        case 1:
            return dice.choice((b" ", b"\n", b"\xef\xbb\xbf", b"\t\r\n")) + frame
        case 2:
            return b"[%b]" % frame
        case 3:
            return b'{"data":%b}' % frame
        case 4:
            return frame.decode("latin-1").encode("utf-16")
        case _:
            return frame.swapcase()


# ---- of JSON ----------------------------------------------------------------------------------------------


def _replace(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    return put(frame, dice.choice(parts(frame).values), dice.choice(ATOMS))


def _blow_up(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    return put(frame, dice.choice(parts(frame).values), dice.choice(HUGE))


def _swap(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    values = parts(frame).values
    (a, b), (c, d) = sorted((dice.choice(values), dice.choice(values)))
    if b > c:  # the one holds the other
        return frame[:a] + frame[c:d] + frame[b:] if d <= b else frame
    return frame[:a] + frame[c:d] + frame[b:c] + frame[a:b] + frame[d:]


def _transplant(dice: Random, frame: bytes, others: Sequence[bytes]) -> bytes:
    other = dice.choice(others)
    values = parts(other).values
    start, end = dice.choice(values) if values else (0, len(other))
    return put(frame, dice.choice(parts(frame).values), other[start:end])


def _drop(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    start, end = dice.choice(parts(frame).members)
    if frame[end : end + 1] == b",":
        end += 1
    elif frame[start - 1 : start] == b",":
        start -= 1
    return frame[:start] + frame[end:]


def _repeat(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    start, end = dice.choice(parts(frame).members)
    times = dice.choice((1, 1, 1, 2, 50)) if end - start < 400 else 1
    return frame[:end] + (b"," + frame[start:end]) * times + frame[end:]


def _key_twice(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    start, end = dice.choice(parts(frame).keys)
    again = b"%b:%b," % (frame[start:end], dice.choice(ATOMS))
    return frame[:start] + again + frame[start:]


def _rename(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    keys = parts(frame).keys
    start, end = dice.choice(keys)
    name = frame[slice(*dice.choice(keys))]
    odd = (frame[start:end].swapcase(), b'"zz"', b'""', name, name, frame[start : end - 1] + b'\\u0000"')
    return put(frame, (start, end), dice.choice(odd))


def _wrap(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    start, end = dice.choice(parts(frame).values)
    before, after = dice.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'"', b'"'), (b"[[", b"]]"), (b"-", b"")))
    return frame[:start] + before + frame[start:end] + after + frame[end:]


def _retype(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    """Put a bare value into quotes, take a quoted one out of them."""
    start, end = dice.choice(parts(frame).values)
    text = frame[start:end]
    if text.startswith(b'"'):
        return put(frame, (start, end), text[1:-1])
    return put(frame, (start, end), b'"%b"' % text.replace(b'"', b'\\"'))


_LEAF = re.compile(rb'"?-?[0-9]')
_TAILS = [*b"0 9 .5 e1 e-3 e400 E+2 . -1 a 0000000000".split(), b"9" * 20, b"9" * 60]


def _nudge(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    """Change a number a little: its digits, sign, length or exponent."""
    numbers = [span for span in parts(frame).values if _LEAF.match(frame, span[0])]
    if not numbers:
        return _replace(dice, frame, ())
    start, end = dice.choice(numbers)
    quoted = frame[start : start + 1] == b'"'
    text = frame[start + quoted : end - quoted]
    match dice.randrange(4):
        case 0:
            text = (b"-" + text).replace(b"--", b"")
        case 1:
            text += dice.choice(_TAILS)
        case 2:
            text = text[: dice.randrange(len(text))] or b"0"
        case _:
            text = re.sub(
                rb"[0-9]", lambda one: b"%d" % dice.randrange(10) if dice.random() < 0.4 else one[0], text
            )
    return frame[: start + quoted] + text + frame[end - quoted :]


# ---- of protobuf ------------------------------------------------------------------------------------------


class Field(NamedTuple):
    """One field on the wire: where its tag, its payload and the whole of it stand."""

    start: int
    payload: int
    end: int
    wire: int


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varint_at(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    number = 0
    for n, byte in enumerate(data[at : min(end, at + 10)]):
        number |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            return number, at + n + 1
    return None


def _fields(data: bytes, at: int, end: int, deep: int = 8) -> list[Field] | None:
    """Return the fields of one message, outermost first and those of messages in it too; None: it is none."""
    found: list[Field] = []
    inner: list[Field] = []
    while at < end:
        tag = _varint_at(data, at, end)
        if tag is None or tag[0] < 8 or tag[0] & 7 not in (0, 1, 2, 5):
            return None
        payload, wire = tag[1], tag[0] & 7
        if wire == 2:
            length = _varint_at(data, payload, end)
            if length is None or length[1] + length[0] > end:
                return None
            payload, stop = length[1], length[1] + length[0]
            inner += (deep and _fields(data, payload, stop, deep - 1)) or ()
        else:
            number = _varint_at(data, payload, end) if wire == 0 else None
            stop = number[1] if number else payload + (8 if wire == 1 else 4) if wire else end + 1
            if stop > end:
                return None
        found.append(Field(at, payload, stop, wire))
        at = stop
    return found + inner


@lru_cache(64)
def fields(data: bytes) -> tuple[Field, ...]:
    return tuple(_fields(data, 0, len(data)) or ())


_LENGTHS = [0, 1, 127, 128, 1 << 14, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 35, 1 << 63, (1 << 64) - 1]


def _length_lie(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    field = dice.choice(fields(frame))
    length = field.end - field.payload
    lie = dice.choice((length + 1, max(0, length - 1), 2 * length, *_LENGTHS))
    tag = frame[field.start]
    return frame[: field.start] + bytes([tag & 0xF8 | 2]) + varint(lie) + frame[field.payload :]


def _field_again(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    field = dice.choice(fields(frame))
    whole = frame[field.start : field.end]
    return frame[: field.start] + whole * dice.choice((0, 0, 2, 2, 3, 300)) + frame[field.end :]


def _nest(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    field = dice.choice(fields(frame))
    tag = bytes([frame[field.start] & 0xF8 | 2])
    inner = frame[field.start : field.end]
    for _ in range(dice.choice((1, 2, 90, 110, 3_000))):
        inner = tag + varint(len(inner)) + inner
    return frame[: field.start] + inner + frame[field.end :]


def _other_payload(dice: Random, frame: bytes, others: Sequence[bytes]) -> bytes:
    field = dice.choice(fields(frame))
    if field.wire == 2:
        plain, other = dice.choice(ATOMS).strip(b'"'), dice.choice(others)
        what = dice.choice(
            (plain, plain, plain, b"\xff\xfe", b"\xed\xa0\x80", dice.randbytes(8), b"9" * 5_000, other)
        )
        tag = frame[field.start : field.start + 1]
        return put(frame, (field.start, field.end), tag + varint(len(what)) + what)
    odd = (*map(varint, _LENGTHS), b"\x80" * 9 + b"\x01", b"\x80" * 20, b"\xff" * 9 + b"\x7f", b"")
    return frame[: field.payload] + dice.choice(odd) + frame[field.end :]


def _other_tag(dice: Random, frame: bytes, _: Sequence[bytes]) -> bytes:
    field = dice.choice(fields(frame))
    return put(frame, (field.start, field.start + 1), bytes([dice.randrange(256)]))


# ---- the door ---------------------------------------------------------------------------------------------

_ANY = {_flip: 4, _cut: 3, _remove: 3, _insert: 4, _splice: 2, _dress: 2}
_JSON = {_replace: 24, _nudge: 12, _swap: 6, _transplant: 6, _drop: 8, _repeat: 5, _wrap: 4, _retype: 5}
_KEYED = {_key_twice: 5, _rename: 4}
_PROTOBUF = {_length_lie: 8, _field_again: 8, _nest: 4, _other_payload: 14, _other_tag: 5}


def _changes(frame: bytes, *, binary: bool) -> dict[Change, int]:
    """Return what can be done to a frame, each with its weight."""
    if not frame:
        return {}
    if binary:
        return _ANY | (_PROTOBUF if fields(frame) else {})
    found = parts(frame)
    return _ANY | (_JSON if found.values else {}) | (_KEYED if found.keys else {})


def mutated(dice: Random, frame: bytes, others: Sequence[bytes], *, binary: bool = False) -> bytes:
    """Return ``frame`` with one to three changes, now and then with one that makes it huge.

    ``others``: more frames, of which parts may come in. ``binary``: it is protobuf.
    """
    if not binary and dice.random() < 0.01 and parts(frame).values:
        return _blow_up(dice, frame, others)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        changes = _changes(frame, binary=binary)
        if changes:
            (change,) = dice.choices(list(changes), list(changes.values()))
            frame = change(dice, frame, others)
    return frame
