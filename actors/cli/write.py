"""``tapeline config import`` and ``init``: write a configuration that a person goes on with."""

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from actors.config import ConfigError, load
from actors.config import ftsobest as dialect
from actors.config.reader import text_of
from actors.config.settings import SimulatorSettings
from actors.config.words import nearest
from actors.config.writer import put, toml
from actors.model.instruments import canonical
from actors.venues import VENUES

_HEAD: Final = (
    "Check it:   tapeline config check {file}",
    "Look at it: tapeline config plan {file}",
    "Run it:     tapeline up --config {file}",
    "",
    "Every setting: docs/schemas/tapeline.schema.json. Secrets stand in files of their own.",
)
_VENUE_HINT: Final = """channels = {channels}  # all it has unless given
redundancy = 2  # two connections carry the same, and one may die without a gap
shards = 2  # partitions to share between instances"""


class Wishes(msgspec.Struct):
    """What is known of the file to write; None: to be asked."""

    venues: list[str] | None = None
    symbols: list[str] | None = None
    books: bool | None = None
    redundancy: int | None = None
    redis_url: str | None = None
    master: str | None = None
    key_file: Path | None = None
    demo: bool = False


def import_file(file: Path, output: Path | None, *, force: bool) -> int:
    """Write FTSOBest's ``file`` as TOML, the key beside it.

    Raises:
        ConfigError: It cannot be used, or what is to be written is there.
    """
    out = file.with_suffix(".toml") if output is None else output
    try:
        found = dialect.read(str(file), text_of(file))
    except dialect.Unusable as e:
        raise ConfigError(str(e)) from e
    for note in found.notes:
        sys.stderr.write(f"tapeline: {note}\n")
    forwarder: dict[str, Any] = found.tree["forwarder"]
    key = str(forwarder.pop("key"))
    key_file = out.with_suffix(".key")
    if key:
        _put(key_file, f"{key}\n", force=force, secret=True)
        forwarder["key_file"] = key_file
    head = [f"Imported from {file.name}, a file of FTSOBest's collector.", *_head(out)]
    try:
        _put(out, toml(found.tree, head), force=force)
    except ConfigError:
        if key:
            key_file.unlink()
        raise
    load(out, {})  # what was written is what we read
    written = f"{out} and {key_file} (the key, for you only)" if key else str(out)
    sys.stdout.write(f"wrote {written}\n")
    return 0


def _head(file: Path) -> list[str]:
    return [line.format(file=file) for line in _HEAD]


def _put(file: Path, text: str, *, force: bool, secret: bool = False) -> None:
    try:
        put(file, text, force=force, secret=secret)
    except FileExistsError as e:
        raise ConfigError(f"{file} is there already: name another, or --force replaces it") from e
    except OSError as e:
        raise ConfigError(f"{file} cannot be written: {e.strerror}") from e


def init(file: Path, wishes: Wishes, *, force: bool) -> int:
    """Write a configuration from ``wishes``, asking for what is missing where somebody can answer.

    Raises:
        ConfigError: Nobody can, or what was wished for cannot be.
    """
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already: name another, or --force replaces it")
    if wishes.venues is None:
        if not sys.stdin.isatty():
            raise ConfigError("there is no terminal to ask at: say what to follow with --venue and --symbol")
        _ask(wishes)
    text = toml(_tree(wishes), ["Tapeline's configuration.", *_head(file)], _hints(wishes))
    draft = file.with_name(f".{file.name}.draft.toml")
    _put(draft, text, force=True)
    try:
        load(draft, {})
    except ConfigError as e:
        raise ConfigError(str(e).replace(str(draft), str(file))) from e
    finally:
        draft.unlink()
    _put(file, text, force=force)
    sys.stdout.write(f"wrote {file}\n")
    return 0


def _tree(wishes: Wishes) -> dict[str, Any]:
    """Return the file's keys and values."""
    for name in wishes.venues or ():
        if name not in VENUES:
            known = sorted(VENUES)
            raise ConfigError(
                f'--venue: there is no venue "{name}"{nearest(name, known)} ({", ".join(known)})'
            )
    if not wishes.symbols:
        raise ConfigError("--symbol: say what to follow, such as --symbol BTC/USDT")
    tree: dict[str, Any] = {"mode": "demo" if wishes.demo else "live", "redis": {}, "forwarder": {}}
    if wishes.redis_url:
        tree["redis"] = {"url": wishes.redis_url}
    if wishes.master:
        tree["forwarder"] = {"url": wishes.master, "connections": 1}
        tree["forwarder"] |= {} if wishes.key_file is None else {"key_file": wishes.key_file}
    tree["venues"] = {name: _venue(name, wishes) for name in wishes.venues or ()}
    return tree


def _venue(name: str, wishes: Wishes) -> dict[str, Any]:
    symbols = [*dict.fromkeys(canonical(symbol) for symbol in wishes.symbols or ())]
    table: dict[str, Any] = {"symbols": symbols}
    if wishes.books is False:
        table["channels"] = [channel for channel in _channels(name) if channel != "book"]
    if wishes.redundancy is not None:
        table["redundancy"] = wishes.redundancy
    if wishes.demo:
        at = f"127.0.0.1:{SimulatorSettings().port}/{name}"
        table |= {"ws_url": f"ws://{at}", "rest_url": f"http://{at}"}
    return table


def _channels(name: str) -> list[str]:
    return sorted(VENUES[name].channels)


def _hints(wishes: Wishes) -> dict[str, str]:
    """Return what might be said besides, of the first venue and at the end."""
    first = next(iter(wishes.venues or ()))
    channels = ", ".join(f'"{channel}"' for channel in _channels(first))
    hint = _VENUE_HINT.format(channels=f"[{channels}]")
    said = _venue(first, wishes)
    kept = [line for line in hint.splitlines() if line.partition(" ")[0] not in said]
    return {f"venues.{first}": "\n".join(kept)}


def _ask(wishes: Wishes) -> None:
    """Ask for what is missing."""
    from rich.prompt import Confirm, Prompt  # noqa: PLC0415 - only a person needs it

    known = sorted(VENUES)
    wishes.venues = _words(Prompt.ask(f"Venues ({' '.join(known)})", default="binance"))
    if wishes.symbols is None:
        wishes.symbols = _words(Prompt.ask("Symbols on each", default="BTC/USDT ETH/USDT"))
    if wishes.books is None:
        wishes.books = Confirm.ask("Order books too?", default=True)
    if wishes.redis_url is None:
        wishes.redis_url = Prompt.ask("URL of a Redis of yours (empty: one is started)", default="") or None
    if wishes.master is None:
        wishes.master = Prompt.ask("Address of a master to forward to (empty: none)", default="") or None
    if wishes.master and wishes.key_file is None:
        wishes.key_file = Path(Prompt.ask("File with the key for it"))


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()
