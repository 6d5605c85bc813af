"""The frames that both sides are given: recorded ones of Binance spot, or generated ones in their shape."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from actors.simulator.generate import generate

RECORDED: Final = Path(__file__).parents[3] / "shared" / "wire" / "binance" / "spot-btcusdt-mixed.jsonl"
SYMBOL: Final = "BTC-USDT"
NATIVE: Final = "BTCUSDT"
_GENERATED: Final = 3_700  # chosen: about as many as were recorded
_LISTING: Final = {
    "symbols": [
        {
            "symbol": NATIVE,
            "status": "TRADING",
            "baseAsset": "BTC",
            "quoteAsset": "USDT",
            "filters": [
                {"filterType": "PRICE_FILTER", "tickSize": "0.01000000"},
                {"filterType": "LOT_SIZE", "stepSize": "0.00001000"},
            ],
        }
    ]
}


class Row(NamedTuple):
    """A frame of the combined stream, or the answer to the request for a snapshot."""

    kind: Literal["frame", "snapshot"]
    data: dict[str, Any]


class Capture(NamedTuple):
    """Rows in the order in which they came, and where they are from."""

    origin: str
    rows: list[Row]

    @property
    def frames(self) -> int:
        """How many rows are frames."""
        return sum(row.kind == "frame" for row in self.rows)


def recorded(path: Path) -> Capture:
    """Return a capture of one symbol: a JSON line each, ``dir`` (in, http) and ``raw``.

    Raises:
        OSError, ValueError: It cannot be read, or holds something else.
    """
    rows: list[Row] = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        line = json.loads(text)
        data = json.loads(line["raw"])
        if line["dir"] == "http" and "lastUpdateId" in data:
            rows.append(Row("snapshot", data))
        elif line["dir"] == "in" and data.get("stream", "").startswith(f"{NATIVE.lower()}@"):
            rows.append(Row("frame", data))
        else:
            raise ValueError(f"{path}: line {number} is no frame of {NATIVE} and no snapshot")
    if sum(row.kind == "snapshot" for row in rows) != 1:
        raise ValueError(f"{path}: not exactly one snapshot")
    return Capture(f"recorded: {path.name}", rows)


def generated(n: int = _GENERATED) -> Capture:
    """Return ``n`` generated frames, their snapshot after the first depth frame, as a client would get it."""
    made = generate(1, n, (SYMBOL,))
    rows = [Row("frame", json.loads(frame)) for frame in made.frames]
    first = next(i for i, row in enumerate(rows) if _stream(row) == "depth")
    rows.insert(first + 1, Row("snapshot", json.loads(made.snapshots[SYMBOL])))
    return Capture("generated: no recording was given, and none lies in ../shared", rows)


def _stream(row: Row) -> str:
    return row.data["stream"].split("@")[1] if row.kind == "frame" else "snapshot"


# Fields that count on from pass to pass, by stream: of updates, of trades, of time (ms).
_UPDATES: Final = {"depth": ("U", "u"), "bookTicker": ("u",), "snapshot": ("lastUpdateId",)}
_TRADES: Final = {"trade": ("t",)}
_TIMES: Final = {"depth": ("E",), "trade": ("E", "T")}


def _span(capture: Capture, fields: dict[str, tuple[str, ...]]) -> int:
    values = [
        _body(row)[name] for row in capture.rows for name in fields.get(_stream(row), ())
    ]  # a capture without one of them has nothing to move either
    return max(values) - min(values) + 1 if values else 0


def _body(row: Row) -> dict[str, Any]:
    return row.data["data"] if row.kind == "frame" else row.data


def moved(capture: Capture, n: int) -> list[Row]:
    """Return the rows of pass ``n``: ids and times go on where those of the pass before ended."""
    by = [(fields, n * _span(capture, fields)) for fields in (_UPDATES, _TRADES, _TIMES)]
    rows: list[Row] = []
    for row in capture.rows:
        body = dict(_body(row))
        for fields, distance in by:
            for name in fields.get(_stream(row), ()):
                body[name] += distance
        rows.append(Row(row.kind, {**row.data, "data": body} if row.kind == "frame" else body))
    return rows


def as_aggregate(row: Row) -> Row:
    """Return the row as cryptofeed subscribes it: it takes trades from ``@aggTrade``, not from ``@trade``."""
    if _stream(row) != "trade":
        return row
    body = {"a" if k == "t" else k: v for k, v in _body(row).items()}
    body |= {"e": "aggTrade", "f": body["a"], "l": body["a"]}
    return Row("frame", {"stream": f"{NATIVE.lower()}@aggTrade", "data": body})


def write(path: Path, passes: Sequence[Sequence[Row]]) -> Path:
    """Write the listing and the passes, apart by empty lines; a row is ``f`` or ``h`` and its text."""
    letter = {"frame": "f", "snapshot": "h"}
    blocks = ["\n".join(f"{letter[row.kind]} {_text(row.data)}" for row in rows) for rows in passes]
    path.write_text("\n\n".join([_text(_LISTING), *blocks]))
    return path


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"))


def read(path: Path) -> tuple[bytes, list[list[tuple[str, bytes]]]]:
    """Return the listing and the passes, each a list of (``f`` or ``h``, text)."""
    listing, *blocks = path.read_bytes().split(b"\n\n")
    return listing, [[(chr(line[0]), line[2:]) for line in block.split(b"\n")] for block in blocks]


def counts(capture: Capture, passes: int) -> Counter[str]:
    """Return how many rows of each stream ``passes`` hold; ``fresh``: changes not in the snapshot."""
    one = Counter(_stream(row) for row in capture.rows)
    last = next(row.data["lastUpdateId"] for row in capture.rows if row.kind == "snapshot")
    one["fresh"] = sum(_stream(row) == "depth" and _body(row)["u"] > last for row in capture.rows)
    return Counter({name: n * passes for name, n in one.items()})
