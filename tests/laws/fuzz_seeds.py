"""The frames and bodies that are made wrong: those of a venue's case table, and those recorded of it."""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec
from venue_law import RECV, TABLES
from wire_form import frame_of

from actors.model.errors import Unparseable
from actors.model.instruments import Instrument
from actors.venues import VENUES
from actors.venues.base import Answer, Operation, Request, Scratch, Venue, listed

WIRE = Path(__file__).parents[3] / "shared" / "wire"
_FOLDERS = {"gateio": "gate", "bybit_linear": "bybit"}  # those that are not called as the venue
_ALIKE = 5  # of frames with the same keys that say the same kinds of things
_MOST_BYTES = 256 * 1024
Instruments = dict[str, Instrument]


class Seed(NamedTuple):
    """A frame, or the body of a REST answer.

    Attributes:
        data: As the venue's functions get it.
        use: Which of them: ``decode``, ``decode_rest``, ``rows`` or that of the ``handshake``.
        instruments: What the connection knows.
        memory: What it has noted, as JSON.
        before: The frames that it noted it of, as a case table writes them.
        request: What a body answers.
        binary: It is protobuf.
    """

    data: bytes
    use: Literal["decode", "decode_rest", "rows", "handshake"]
    instruments: Instruments
    memory: bytes = b"{}"
    before: tuple[Any, ...] = ()
    request: Request | None = None
    binary: bool = False

    def scratch(self, venue: Venue) -> Scratch:
        made = Scratch("a.1", self.instruments, msgspec.json.decode(self.memory), venue=venue.name)
        made.recv = RECV
        return made

    def call(self, venue: Venue, data: bytes, scratch: Scratch) -> Iterable[object]:
        """Give ``data`` to the function that the seed is for."""
        match self.use:
            case "decode":
                return venue.decode(data, scratch)
            case "decode_rest":
                assert self.request is not None
                text = data.decode("utf-8", "replace")  # as the connector does
                return venue.decode_rest(Answer(self.request, 200, text, conn="a.1"), scratch)
            case "rows":
                return listed(venue, data)
            case _:
                assert venue.handshake is not None
                return [venue.handshake.url(venue.endpoints.ws, data, "a.1")]


def of_table(name: str) -> list[Seed]:
    """Return what stands in a venue's case table."""
    instruments, cases, first = TABLES[name]
    venue = VENUES[name]
    seeds: list[Seed] = []
    for case in cases:
        data = frame_of(case["frame"])
        if "rows" in case:
            seeds.append(Seed(data, "rows", instruments))
        elif "request" in case:
            request = msgspec.convert(case["request"], Request)
            seeds.append(Seed(data, "decode_rest", instruments, request=request))
        else:
            heard = Scratch("a.1", instruments, venue=name)
            heard.recv = RECV
            before = (*first, *case.get("before", ()))
            for frame in before:
                with suppress(Unparseable):
                    venue.decode(frame_of(frame), heard)
            memory, binary = msgspec.json.encode(heard.memory), not isinstance(case["frame"], str)
            seeds.append(Seed(data, "decode", instruments, memory, before, binary=binary))
    return seeds


class _Learning(dict[str, Instrument]):
    """Knows every instrument that it is asked for, from then on."""

    def __init__(self, venue: Venue) -> None:
        spot, swap = "spot" in venue.markets, len(venue.markets) > 1 or "spot" not in venue.markets
        self._kinds = [kind for kind, has in ((None, spot), ("linear", swap), ("inverse", swap)) if has]

    def get(self, key: str, *_: object) -> Instrument:
        if key not in self:
            n = len(self)
            kind: Any = self._kinds[n % len(self._kinds)]
            end, contract = ("-PERP", "0.01") if kind else ("", None)
            self[key] = Instrument(f"A{n}-B{end}", key, f"A{n}", "B", contract, kind)
        return self[key]


def recorded(name: str) -> Iterator[Path]:
    """Yield the files of a venue's recorded frames."""
    yield from sorted((WIRE / _FOLDERS.get(name, name)).glob("*.jsonl"))


@cache
def of_wire(name: str) -> list[Seed]:
    """Return what was recorded of a venue, a few of all that are alike."""
    return [seed for path in recorded(name) for seed in _of_file(VENUES[name], path)]


def _of_file(venue: Venue, path: Path) -> Iterator[Seed]:
    instruments = _Learning(venue)
    heard = Scratch("a.1", instruments, venue=venue.name)
    heard.recv = RECV
    found: Counter[object] = Counter()
    before: list[Any] = []
    keys: set[str] = set()
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        data = row["raw"].encode() if "raw" in row else base64.b64decode(row["raw_b64"])
        if row["dir"] == "http" and len(data) <= _MOST_BYTES:
            yield from _bodies(venue, data, row["url"], instruments)
        if row["dir"] != "in" or len(data) > _MOST_BYTES:
            continue
        memory = msgspec.json.encode(heard.memory)
        said: tuple[str, ...] = ("Unparseable",)
        with suppress(Unparseable):
            said = tuple({type(one).__name__ for one in venue.decode(data, heard)})
        found[kind := (said, _keys(data))] += 1
        if found[kind] <= _ALIKE:
            yield Seed(data, "decode", instruments, memory, tuple(before), binary="raw" not in row)
        if not keys.issuperset(now := set(_paths(heard.memory))):  # it noted something new
            keys |= now
            before.append(data.decode() if "raw" in row else {"hex": data.hex()})


def _keys(data: bytes) -> object:
    try:
        document = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "no JSON"
    return tuple(sorted({path.partition("/")[0] for path in _paths(document)}))


def _paths(document: object, deep: int = 2) -> Iterator[str]:
    if isinstance(document, dict) and deep:
        for key, value in document.items():
            yield str(key)
            yield from (f"{key}/{path}" for path in _paths(value, deep - 1))


def _bodies(venue: Venue, data: bytes, url: str, instruments: Instruments) -> Iterator[Seed]:
    """Yield what an answer is a seed of: whatever understands it as it is."""
    asked = instruments.get(url)
    assert asked is not None
    requests = [Request(op, url, asked.symbol, first="0", last=str(2**62)) for op in get_args(Operation)]
    tries = [Seed(data, "decode_rest", instruments, request=request) for request in requests]
    tries += [] if venue.handshake is None else [Seed(data, "handshake", instruments)]
    for seed in (*tries, Seed(data, "rows", instruments)):
        try:
            seed.call(venue, data, seed.scratch(venue))
        except Unparseable:
            continue
        yield seed
