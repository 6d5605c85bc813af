"""The same frames through cryptofeed's message handlers and through our decode and books, venue by venue.

Frames are recorded ones of ``../shared/wire`` where there are enough, else what the simulator says. Both
sides are given them in memory, decode all and keep the books; nobody waits, and nothing is sent on. First
both are asked what they told: the trades, and the books at the end, as deep as ours are.

cryptofeed is timed twice: with ``cross_check``, which looks at the best bid and ask after each change as
ours always does, and as it comes: then changes go into a map that nobody looks at, and its order is never
made.
"""

import json
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self, cast

import orjson

from actors.bench import heard
from actors.bench.heard import Hearing, Line
from actors.model.events import Trade  # noqa: TC001 - a block for types alone is dearer
from actors.model.instruments import Instrument
from actors.simulator.street import simulated
from actors.venues import VENUES
from actors.venues.base import Answer, Request, Scratch

WIRE: Final = Path(__file__).parents[3] / "shared" / "wire"
SIDE: Final = Path(__file__).with_name("handler_side.py")
_FRAMES: Final = 3_000  # of the simulator
_RUN_FRAMES: Final = 8_000  # chosen: some tenths of a second of the slower side
_FIRST_MS: Final = 10**12  # 2001: a sequence is less
_CHANNELS: Final = ("trades", "l2_book", "ticker")
Rows = Sequence[Instrument]


class Spoken(NamedTuple):
    """A venue whose protocol both speak.

    Attributes:
        feed: cryptofeed's name of it.
        listing: What cryptofeed's requests for symbols are answered with.
        split: Native symbol -> base and quote, for recordings.
        capture: A recording, where one is long enough.
        told: A frame as cryptofeed would be sent it; None for what it never asks for: then neither gets it.
        channels: What it is subscribed to.
        older: It takes cryptofeed 2.3.2.
        apart: What is known to differ, and why.
    """

    feed: str
    listing: Callable[[Rows], list[Any]]
    split: Callable[[str], tuple[str, str]]
    capture: str | None = None
    told: Callable[[bytes], str | None] = bytes.decode
    channels: Sequence[str] = _CHANNELS
    older: bool = False
    apart: str = ""


def _binance_listing(rows: Rows) -> list[Any]:
    symbols = [
        {
            "symbol": row.native,
            "status": "TRADING",
            "baseAsset": row.base,
            "quoteAsset": row.quote,
            "filters": [{"tickSize": row.price_step}],
        }
        for row in rows
    ]
    return [{"symbols": symbols}]


def _kucoin_listing(rows: Rows) -> list[Any]:
    return [
        {
            "data": [
                {
                    "symbol": row.native,
                    "enableTrading": True,
                    "baseCurrency": row.base,
                    "quoteCurrency": row.quote,
                    "priceIncrement": row.price_step,
                }
                for row in rows
            ]
        }
    ]


def _bitfinex_listing(rows: Rows) -> list[Any]:
    return [[[row.native[1:] for row in rows]], [[]], [[]]]


def _bitstamp_listing(rows: Rows) -> list[Any]:
    return [
        [{"trading": "Enabled", "name": f"{row.base}/{row.quote}", "url_symbol": row.native} for row in rows]
    ]


def _coinbase_listing(rows: Rows) -> list[Any]:
    return [[{"id": row.native, "quote_increment": row.price_step} for row in rows]]


def _hyphened(native: str) -> tuple[str, str]:
    base, _, quote = native.partition("-")
    return base, quote


def _of_three(native: str) -> tuple[str, str]:
    return native[:-3].upper(), native[-3:].upper()


def _of_bitfinex(native: str) -> tuple[str, str]:
    plain = native.removeprefix("t").replace("BCHN", "BCH").replace("UST", "USDT")
    base, colon, quote = plain.partition(":")
    return (base, quote) if colon else (plain[:3], plain[3:])


def _of_bitcoin(_native: str) -> tuple[str, str]:
    return "BTC", "USDT"


def _aggregate(frame: bytes) -> str | None:
    """Return a trade as cryptofeed subscribes it: ``@aggTrade``, one fill each."""
    data = json.loads(frame)
    channel = data.get("stream", "").partition("@")[2]
    if channel != "trade":
        return frame.decode() if channel in ("depth@100ms", "bookTicker") else None
    body = {"a" if key == "t" else key: value for key, value in data["data"].items()}
    body |= {"e": "aggTrade", "f": body["a"], "l": body["a"]}
    stream = data["stream"].removesuffix("@trade") + "@aggTrade"
    return json.dumps({"stream": stream, "data": body}, separators=(",", ":"))


def _of_kucoin(frame: bytes) -> str | None:
    """Return a frame of KuCoin, unless it is of a topic that cryptofeed does not know."""
    topic = json.loads(frame).get("topic", "").partition(":")[0]
    return frame.decode() if topic in ("", "/market/level2", "/market/match", "/market/ticker") else None


def _of_2021(frame: bytes) -> str:
    """Return a frame of Bitfinex as cryptofeed asks for it and knows it: no time, ten numbers in a ticker."""
    data = json.loads(frame)
    if not isinstance(data, list) or data[-1] < _FIRST_MS:
        return frame.decode()
    if isinstance(data[1], list) and len(data[1]) == 11:
        del data[1][10:], data[-1]
        return json.dumps(data, separators=(",", ":"))
    return frame[: frame.rindex(b",")].decode() + "]"


SPOKEN: Final[Mapping[str, Spoken]] = {
    "binance": Spoken("BINANCE", _binance_listing, _of_bitcoin, "binance/spot-btcusdt-mixed", _aggregate),
    "binance_us": Spoken("BINANCE_US", _binance_listing, _of_bitcoin, None, _aggregate),
    "kucoin": Spoken("KUCOIN", _kucoin_listing, _hyphened, "kucoin/spot-session-1", _of_kucoin),
    "bitfinex": Spoken(
        "BITFINEX",
        _bitfinex_listing,
        _of_bitfinex,
        "bitfinex/spot-session-1",
        _of_2021,
        apart="trades of before the subscription are told by cryptofeed, and left out by Tapeline",
    ),
    "bitstamp": Spoken(
        "BITSTAMP",
        _bitstamp_listing,
        _of_three,
        "bitstamp/spot-session-1",
        channels=_CHANNELS[:2],
        apart="a book that no change came for: cryptofeed has its snapshot, Tapeline waits for a change",
    ),
    "coinbase": Spoken(
        "COINBASE",
        _coinbase_listing,
        _hyphened,
        "coinbase/spot-session-1",
        older=True,
        apart="last_match, the trade before the subscription, is a trade to cryptofeed",
    ),
}


# ---- the frames -------------------------------------------------------------------------------------------


class _Asked(dict[str, Instrument]):
    """Knows every instrument that it is asked for."""

    def __init__(self, split: Callable[[str], tuple[str, str]]) -> None:
        self._split = split

    def get(self, key: str, *_: object) -> Instrument:
        if key not in self:
            base, quote = self._split(key)
            self[key] = Instrument(f"{base}-{quote}", key, base, quote, price_step="0.01")
        return self[key]


def recorded(name: str, path: Path) -> Hearing:
    """Return a recording as what one connection heard."""
    venue, lines = VENUES[name], list[Line]()
    known = _Asked(SPOKEN[name].split)
    scratch = Scratch("a.0", known, venue=name)
    for recv, text in enumerate(path.read_text().splitlines(), 10**18):
        row = json.loads(text)
        if row["dir"] == "in":
            venue.decode(row["raw"].encode(), scratch)
            lines.append(Line(recv, 0, row["raw"].encode()))
        elif row["dir"] == "http":
            lines.append(Line(recv, 0, Answer(Request("snapshot", row["url"]), 200, row["raw"], conn="a.0")))
    natives = sorted(known, key=len, reverse=True)
    for at, line in enumerate(lines):
        if isinstance(line.said, Answer):
            path_of = line.said.request.path
            native = next(each for each in natives if each in path_of)
            request = Request("snapshot", path_of, known[native].symbol)
            lines[at] = line._replace(said=Answer(request, 200, line.said.body, conn="a.0"))
    return Hearing(venue, dict(known), 1, lines)


def frames_of(name: str) -> tuple[str, Hearing] | None:
    """Return where the frames of a venue are from, and those that both get; None where there are none."""
    capture, told = SPOKEN[name].capture, SPOKEN[name].told
    path = WIRE / f"{capture}.jsonl"
    if capture is not None and path.exists():
        origin, found = f"recorded: {capture}", recorded(name, path)
    elif name in simulated():
        origin, found = "simulated", heard.hear(name, _FRAMES, 1)
    else:
        return None
    shared = [line for line in found.lines if isinstance(line.said, Answer) or told(line.said) is not None]
    return origin, found._replace(lines=shared)


def document(name: str, hearing: Hearing) -> dict[str, Any]:
    """Return what cryptofeed's side is given."""
    spoken = SPOKEN[name]
    rows = [*hearing.instruments.values()]
    natives = {row.symbol: row.native for row in rows}
    rest: dict[str, list[str]] = defaultdict(list)
    for line in hearing.lines:
        if isinstance(line.said, Answer) and line.said.request.symbol is not None:
            rest[natives[line.said.request.symbol]].append(line.said.body)
    return {
        "feed": spoken.feed,
        "listing": spoken.listing(rows),
        "channels": {channel: [row.native for row in rows] for channel in spoken.channels},
        "rest": rest,
        "frames": [spoken.told(line.said) for line in hearing.lines if isinstance(line.said, bytes)],
    }


# ---- both sides -------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What a side told: trades (symbol, id, aggressor, price, size), and books, best first."""

    trades: Counter[tuple[str, str, str, Decimal, Decimal]]
    books: dict[tuple[str, str], list[tuple[Decimal, Decimal]]]


class Failed(Exception):
    """cryptofeed's side ended; the message has its last words."""


class Peer:
    """cryptofeed's side, a process of its own."""

    def __init__(self, python: Path, path: Path, *options: str) -> None:
        pipe = subprocess.PIPE
        self._log = path.with_suffix(".".join(("", *options, "log")))
        with self._log.open("wb") as errors:
            command = [python, SIDE, path, *options]
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors)  # noqa: S603 - ours

    def _ask(self, what: str) -> Any:
        stdin, stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        stdin.write(f"{what}\n".encode())
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise Failed(self._log.read_text().strip().rpartition("\n")[2][:200])
        return orjson.loads(answer)

    def told(self) -> Told:
        """Return what one pass tells."""
        said = self._ask("check")
        trades = Counter((s, i, side, Decimal(p), Decimal(a)) for s, i, side, p, a in said["trades"])
        books = {
            (symbol, side): _decimals(levels)
            for symbol, book in said["books"].items()
            for side, levels in book.items()
        }
        return Told(trades, {key: sorted(levels, reverse=key[1] == "bids") for key, levels in books.items()})

    def cpu_s(self, passes: int) -> float:
        """Return the CPU time of so many passes."""
        return self._ask(str(passes))["cpu_s"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.communicate()


def _decimals(levels: Iterable[Sequence[str]]) -> list[tuple[Decimal, Decimal]]:
    return [(Decimal(price), Decimal(size)) for price, size in levels]


def ours(hearing: Hearing) -> Told:
    """Return what one pass of ours tells."""
    trades: list[Trade] = []
    kept = heard.keep(hearing, trades.append)
    books: dict[tuple[str, str], list[tuple[Decimal, Decimal]]] = {}
    for symbol, sync in (each for of_one in kept.syncs.values() for each in of_one.items()):
        if sync.joined and symbol is not None:
            bids, asks = sync.book.best_first()
            books[symbol, "bids"], books[symbol, "asks"] = _decimals(bids), _decimals(asks)
    rows = ((t.symbol or "", t.id, t.aggressor, Decimal(t.price), Decimal(t.size)) for t in trades)
    return Told(Counter(rows), books)


def differences(mine: Told, theirs: Told) -> list[str]:
    """Return what the two told otherwise, for people; nothing where they agree."""
    found: list[str] = []
    for side, one, other in (("Tapeline", mine, theirs), ("cryptofeed", theirs, mine)):
        only = one.trades - other.trades
        if only:
            found.append(f"{only.total()} trades only of {side}, such as {next(iter(only))[:3]}")
    found += [
        f"{' '.join(key)} only of {'Tapeline' if key in mine.books else 'cryptofeed'}"
        for key in sorted(mine.books.keys() ^ theirs.books.keys())
    ]
    for key in sorted(mine.books.keys() & theirs.books.keys()):
        deep = mine.books[key]
        other = theirs.books[key][: len(deep)]
        if deep != other:
            wrong = sum(a != b for a, b in zip(deep, other, strict=False)) + abs(len(deep) - len(other))
            found.append(f"{' '.join(key)}: {wrong} of {len(deep)} levels")
    return found


def our_cpu_s(hearing: Hearing, passes: int) -> float:
    """Return the CPU time of so many passes of ours."""
    began = time.process_time()
    for _ in range(passes):
        heard.keep(hearing)
    return time.process_time() - began


class Compared(NamedTuple):
    """One venue: where its frames are from, microseconds a frame run by run, what was told otherwise.

    ``their_us``: with its check for crossed books. ``their_bare_us``: as it comes.
    """

    origin: str
    frames: int
    our_us: list[float]
    their_us: list[float]
    their_bare_us: list[float]
    apart: list[str]


def compare(name: str, python: Path, runs: int) -> Compared | None:
    """Return both sides of one venue, run in pairs; None where there are no frames of it."""
    found = frames_of(name)
    if found is None:
        return None
    origin, hearing = found
    passes = max(1, _RUN_FRAMES // hearing.frames)
    with tempfile.TemporaryDirectory(prefix="tapeline-peers-") as folder:
        path = Path(folder) / "frames.json"
        path.write_bytes(orjson.dumps(document(name, hearing)))
        result = Compared(origin, hearing.frames, [], [], [], [])
        per_us = 1e6 / (passes * hearing.frames)
        try:
            with Peer(python, path) as peer:  # not the one that is timed: malloc remembers
                result.apart.extend(differences(ours(hearing), peer.told()))
            with Peer(python, path, "checked") as checked, Peer(python, path) as bare:
                for _ in range(runs):
                    result.their_us.append(checked.cpu_s(passes) * per_us)
                    result.our_us.append(our_cpu_s(hearing, passes) * per_us)
                    result.their_bare_us.append(bare.cpu_s(passes) * per_us)
        except Failed as e:
            result.apart.append(f"cryptofeed cannot take these frames: {e}")
    return result
