"""FTSOBest's ``config.json``, read as the settings it stands for.

Its twelve exchange names are mapped to ours; one that nobody knows is noted and passed over, as its
collector did. What its collector ignored (``debug.raw``,
``chunking.orderbooks_per_connection``, keys it has no use for) is ignored too, the last with a note. The
values it could not live with (``connections: 0``) are refused. The key of the master may stand in this
file, because there it always did; it is in no message.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from actors.config.words import beyond, nearest, plain, printable, undialable
from actors.dialects.ftsobest import EXCHANGES
from actors.model.instruments import canonical

OURS: Final = {theirs: ours for ours, theirs in EXCHANGES.items()}

_URL: Final = re.compile(r"wss?://[^\s/@]+(/[^\s]*)?")
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_REMEDIES: Final = {
    "connections": "write how many sockets to open to the master, 1 to 256",
    "trades_per_connection": "write how many pairs one socket to the exchange carries, 1 or more",
    "update_interval_ms": "write the time between two books of a pair, 10 ms or more",
    "depth": "write how many levels of a side to send, 1 to 1000",
    "pairs": 'write {"trades": ["BTC/USDT"], "orderbooks": []}',
    "trades": 'write ["BTC/USDT"], or [] for none',
    "orderbooks": 'write ["BTC/USDT"], or [] for none',
    "enabled": "write true or false",
    "name": "write one of " + " ".join(EXCHANGES.values()),
    "master": 'write {"url": "ws://host:port", "connections": 1, "key": "..."}',
    "exchanges": "write a list of exchanges",
    "url": "write the master's address, as ws://host:port or wss://host",
    "key": "write the key that the master knows this collector by",
}

Path = tuple[str | int, ...]
_Pair = Annotated[str, Field(pattern=r"^\s*[^\s/-]+/[^\s/-]+\s*$")]
_B = TypeVar("_B", bound="_Block")


class Unusable(Exception):
    """The file cannot be used; a line for every fault, with its place, key, reason and remedy."""


class Imported(NamedTuple):
    """What a file stands for.

    ``tree`` has the shape of our own files, the key in it; ``lines``: where each of its keys came from.
    ``notes``: what was passed over, a line each.
    """

    tree: dict[str, Any]
    lines: Mapping[tuple[str, ...], int]
    notes: Sequence[str]


class _Block(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class _Master(_Block):
    url: str
    connections: Annotated[int, Field(ge=1, le=256)]
    key: SecretStr
    demo: bool | None = None


class _Pairs(_Block):
    trades: list[_Pair]
    orderbooks: list[_Pair]


class _Chunking(_Block):
    trades_per_connection: Annotated[int, Field(ge=1, le=10_000)] | None = None
    orderbooks_per_connection: int | None = None


class _Orderbook(_Block):
    depth: Annotated[int, Field(ge=1, le=1000)] = 20
    update_interval_ms: Annotated[int, Field(ge=10, le=3_600_000)] = 1000


class _Exchange(_Block):
    name: str
    enabled: bool
    pairs: _Pairs
    chunking: _Chunking | None = None
    orderbook: _Orderbook | None = None


class _Debug(_Block):
    raw: bool | None = None
    log: bool | None = None


class _File(_Block):
    master: object
    exchanges: list[object]
    debug: object = None


def read(file: str, text: str) -> Imported:
    """Return what ``text`` of ``file`` stands for.

    Raises:
        Unusable: It cannot be used; every fault is in the message.
    """
    try:
        document: object = json.loads(text)
        json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError as e:
        raise Unusable(f"{file}:{e.lineno}: not JSON: {e.msg[0].lower()}{e.msg[1:]}") from e
    except (ValueError, RecursionError) as e:
        raise Unusable(f"{file}: {beyond(e)}") from e
    return _Reading(file, lines_of(text)).read(document)


def lines_of(text: str) -> dict[Path, int]:
    """Return the line of every value of a JSON document that is known to be one, by its path."""
    found: dict[Path, int] = {}
    within: list[tuple[bool, list[str | int]]] = []  # each: is it an object; its present key, if any
    line, seen = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        part = match[0]
        if part in "}]":
            within.pop()
        elif part == ",":
            is_object, key = within[-1]
            key[:] = [] if is_object else [cast("int", key[0]) + 1]
        elif part != ":":
            if within and within[-1][0] and not within[-1][1]:
                within[-1][1].append(json.loads(part))
                continue
            found.setdefault(tuple(key[0] for _, key in within), line)
            if part in "{[":
                within.append((part == "{", [] if part == "{" else [0]))
    return found


def _shown(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _table(given: object) -> dict[str, object]:
    return cast("dict[str, object]", given) if isinstance(given, dict) else {}


def _told(path: Path, error: Mapping[str, Any]) -> str:
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    remedy = _REMEDIES.get(key)
    match error["type"]:
        case "missing":
            says = "is missing"
        case "string_pattern_mismatch":
            return f'"{error["input"]}" is no pair: write BASE/QUOTE, such as BTC/USDT'
        case _:
            hide = path[:1] == ("master",) and (isinstance(error["input"], str) or key == "key")
            says = plain(error, show=not hide)
    return f"{says}: {remedy}" if remedy else says


def _renamed(symbol: str) -> str:
    from actors.venues.kraken import RENAMED  # noqa: PLC0415 - decoders are built at import

    return "-".join(RENAMED.get(asset, asset) for asset in symbol.split("-"))


class _Reading:
    """One file, while it is read."""

    def __init__(self, file: str, lines: Mapping[Path, int]) -> None:
        self._file = file
        self._at = lines
        self._problems: dict[Path, str] = {}
        self._notes: list[str] = []
        self._tree: dict[str, Any] = {"mode": "live", "venues": {}, "forwarder": {"venues": {}}}
        self._lines: dict[tuple[str, ...], int] = {}

    def read(self, document: object) -> Imported:
        self._block((), document, _File)
        tree = _table(document)
        if "master" in tree:
            self._master(tree["master"])
        debug = self._block(("debug",), {} if (given := tree.get("debug")) is None else given, _Debug)
        self._set(("forwarder", "debug_log"), ("debug", "log"), bool(debug is not None and debug.log))
        listed = tree.get("exchanges")  # whatever is wrong with the rest
        for number, exchange in enumerate(cast("list[object]", listed) if isinstance(listed, list) else ()):
            self._exchange(("exchanges", number), exchange)
        self._lines["venues",] = self._line(("exchanges",))
        if not self._tree["venues"] and not any(path[:1] == ("exchanges",) for path in self._problems):
            self._problem(
                ("exchanges",),
                "none of them is enabled, known here and with pairs: there is nothing to do",
            )
        if self._problems:
            raise Unusable("\n".join([*self._problems.values(), *self._notes]))
        return Imported(self._tree, self._lines, self._notes)

    # --------------------------------------------------------------------------------- what is said

    def _line(self, path: Path) -> int:
        while path not in self._at and path:
            path = path[:-1]
        return self._at.get(path, 1)

    def _place(self, path: Path) -> str:
        key = _shown(path)
        return f"{self._file}:{self._line(path)}: {key + ': ' if key else ''}"

    def _problem(self, path: Path, says: str) -> None:
        self._problems[path] = printable(f"{self._place(path)}{says}")

    def _note(self, path: Path, says: str) -> None:
        self._notes.append(printable(f"{self._place(path)}{says}"))

    def _block(self, path: Path, given: object, model: type[_B]) -> _B | None:
        """Return ``given`` as a ``model``; None, and everything that is wrong with it is said."""
        try:
            found = model.model_validate(given)
        except ValidationError as e:
            for error in e.errors(include_url=False, include_context=True):
                at = (*path, *error["loc"])
                self._problem(at, _told(at, cast("Mapping[str, Any]", error)))
            return None
        self._note_extra(path, found)
        return found

    def _note_extra(self, path: Path, block: _Block) -> None:
        known = [*type(block).model_fields]
        for key in block.model_extra or {}:
            if not key.startswith(("_", "//", "$")):  # what people write as a comment
                self._note((*path, key), f"is not read{nearest(key, known)} (known here: {', '.join(known)})")
        for key, part in block:
            if isinstance(part, _Block):
                self._note_extra((*path, key), part)

    # ------------------------------------------------------------------------------- what it stands for

    def _set(self, ours: tuple[str, ...], theirs: Path, value: object) -> None:
        at = self._tree
        for part in ours[:-1]:
            at = cast("dict[str, Any]", at.setdefault(part, {}))
        at[ours[-1]] = value
        self._lines[ours] = self._line(theirs)

    def _master(self, given: object) -> None:
        path: Path = ("master",)
        self._lines["forwarder",] = self._line(path)
        master = self._block(path, given, _Master)
        raw = _table(given)
        if not raw.get("demo"):
            url = raw.get("url")
            if isinstance(url, str) and not _URL.fullmatch(url):
                self._problem((*path, "url"), f"is no WebSocket address: {_REMEDIES['url']}")
            elif isinstance(url, str) and (why := undialable(url)) is not None:
                self._problem((*path, "url"), why)
            if raw.get("key") == "":
                self._problem((*path, "key"), f"is empty: {_REMEDIES['key']}")
        if master is not None:
            ours = {"connections": master.connections, "key": master.key.get_secret_value()}
            ours |= {"demo": True} if master.demo else {"url": master.url}
            for key, value in ours.items():
                self._set(("forwarder", key), (*path, key), value)

    def _exchange(self, path: Path, given: object) -> None:
        raw = _table(given)
        name = raw.get("name")
        if raw.get("enabled") is False or (isinstance(name, str) and not self._has(path, name)):
            return
        found = self._block(path, given, _Exchange)
        if found is None:
            return
        trades = [*self._pairs((*path, "pairs", "trades"), found.name, found.pairs.trades)]
        books = [*self._pairs((*path, "pairs", "orderbooks"), found.name, found.pairs.orderbooks)]
        if trades or books:
            self._take_exchange(path, OURS[found.name], found, trades, books)
        else:
            self._note((*path, "pairs"), f"has none for {found.name}; skipped")

    def _has(self, path: Path, name: str) -> bool:
        if name not in OURS:
            near = nearest(name.lower(), [*OURS])
            self._note((*path, "name"), f'there is no exchange "{name}"{near} ({", ".join(OURS)}); skipped')
            return False
        return True

    def _pairs(self, path: Path, exchange: str, pairs: Sequence[str]) -> Iterator[str]:
        seen: set[str] = set()
        for number, pair in enumerate(pairs):
            given = canonical(pair)
            symbol = _renamed(given) if exchange == "kraken" else given
            if symbol != given:
                now = symbol.replace("-", "/")
                self._note((*path, number), f'"{pair}" is "{now}" at {exchange} today, and taken as that')
            if symbol in seen:
                self._note((*path, number), f'"{pair}" is named twice')
            else:
                seen.add(symbol)
                yield symbol

    def _take_exchange(
        self, path: Path, venue: str, found: _Exchange, trades: list[str], books: list[str]
    ) -> None:
        """Put one exchange into the tree, or together with what another block said of it."""
        former: dict[str, Any] = self._tree["forwarder"]["venues"].get(venue, {})
        if former:
            self._note((*path, "name"), f'"{found.name}" is named twice; both together are taken')
        trades = [*dict.fromkeys([*former.get("trades", ()), *trades])]
        books = [*dict.fromkeys([*former.get("books", ()), *books])]
        symbols = [*dict.fromkeys([*trades, *books])]
        parts = {"trade": trades, "book": books}
        self._lines["venues", venue] = self._lines["forwarder", "venues", venue] = self._line(path)
        pairs: Path = (*path, "pairs")
        self._set(("venues", venue, "symbols"), pairs, symbols)
        self._set(("venues", venue, "channels"), pairs, [channel for channel, some in parts.items() if some])
        only = {channel: some for channel, some in parts.items() if some and len(some) < len(symbols)}
        self._set(("venues", venue, "only"), pairs, only)
        chunking = found.chunking
        if chunking is not None and chunking.trades_per_connection is not None:
            chunk: Path = (*path, "chunking", "trades_per_connection")
            self._set(("venues", venue, "symbols_per_connection"), chunk, chunking.trades_per_connection)
        orderbook = found.orderbook or _Orderbook()
        book: Path = (*path, "orderbook")
        for key, theirs, value in (
            ("trades", (*pairs, "trades"), trades),
            ("books", (*pairs, "orderbooks"), books),
            ("tickers", pairs, []),
            ("depth", (*book, "depth"), orderbook.depth),
            ("update_interval_ms", (*book, "update_interval_ms"), orderbook.update_interval_ms),
        ):
            self._set(("forwarder", "venues", venue, key), theirs, value)
