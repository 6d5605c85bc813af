"""``tapeline pairs``: which pairs of Flare's feeds a venue trades, as FTSOBest's helpers printed it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import msgspec

from actors.cli import paper
from actors.cli.markets import Unlisted, addresses, known, listing
from actors.cli.run import say
from actors.config import ConfigError
from actors.config.words import undialable
from actors.connector.rest import MOST_BYTES, ask, session_to
from actors.dialects.ftsobest import EXCHANGES
from actors.model.instruments import canonical
from actors.venues import VENUES

_QUOTES: Final = ("USD", "USDT")
_TITLES: Final = {
    "binance_us": "Binance US",
    "gateio": "Gate.io",
    "htx": "HTX",
    "kucoin": "KuCoin",
    "mexc": "MEXC",
    "okx": "OKX",
}


class _Name(msgspec.Struct):
    name: str


class _Source(msgspec.Struct):
    exchange: str
    symbol: str


class Feed(msgspec.Struct):
    """One feed of feeds.json: ``BTC/USD`` and who quotes it (ccxt's names)."""

    feed: _Name
    sources: list[_Source] = []


class Covered(msgspec.Struct, frozen=True):
    """A feed's sources: listed; not listed by their venue; of venues without an adapter, or not asked.

    ``unknown``: of venues that were asked and did not say.
    """

    feed: str
    listed: list[str]
    unlisted: list[str]
    elsewhere: list[str]
    unknown: list[str]

    @property
    def all(self) -> int:
        """How many sources it has."""
        return len(self.listed) + len(self.unlisted) + len(self.elsewhere) + len(self.unknown)


Listed = Mapping[str, frozenset[str] | str]  # venue -> its symbols, or why they could not be had


def show(
    config: Path | None, env: Mapping[str, str], *, venue: str, feeds: str, coverage: bool, as_json: bool
) -> int:
    """Print the pairs, or how the feeds are covered; return 1 when a venue (or a feed) has none.

    Raises:
        ConfigError: There is no such venue, or ``feeds`` is not what it must be.
    """
    names = _of_spot() if venue == "all" else [known(venue)]
    if names[0] not in _of_spot():
        raise ConfigError(
            f"{names[0]} is a perpetual venue, and the feeds are of spot pairs ({', '.join(_of_spot())})"
        )
    at = addresses(config, env)
    rests = {name: at.get(name, VENUES[name].endpoints.rest) for name in names}

    async def gather() -> tuple[list[Feed], Listed]:
        return await _feeds(feeds), await _listings(rests)

    found, listed = anyio.run(gather)
    if coverage:
        return _show_coverage([cover(feed, listed) for feed in found], listed, as_json=as_json)
    bases = sorted({feed.feed.name.partition("/")[0].upper() for feed in found})
    if as_json:
        made = {n: pairs(bases, symbols) for n, symbols in listed.items() if not isinstance(symbols, str)}
        paper.json(made)
        return 0 if len(made) == len(listed) and all(made.values()) else 1
    return max([_print(name, bases, symbols, group=venue == "all") for name, symbols in listed.items()])


def _of_spot() -> list[str]:
    return sorted(name for name, venue in VENUES.items() if "spot" in venue.markets)


async def _feeds(source: str) -> list[Feed]:
    if source.startswith(("http://", "https://")):
        if (why := undialable(source)) is not None:
            raise ConfigError(f"--feeds {source}: {why}")
        async with session_to(source) as http:
            reply, _ = await ask(http, source, MOST_BYTES)
        if reply.status != 200:
            raise ConfigError(f"--feeds {source}: {reply.text[:200] or f'HTTP {reply.status}'}")
        text = reply.text
    else:
        text = _text(Path(source))
    try:
        return msgspec.json.decode(text, type=list[Feed])
    except (msgspec.DecodeError, RecursionError) as e:
        raise ConfigError(
            f'--feeds {source}: {str(e)[:1].lower()}{str(e)[1:]}: it must be a list of {{"feed": {{"name": '
            '"BTC/USD"}, "sources": [...]}, as Flare publishes it'
        ) from e


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror.lower() if isinstance(e, OSError) and e.strerror else "not UTF-8 text"
        raise ConfigError(f"--feeds {file}: {why}: name Flare's feeds.json, or its address") from e


async def _listings(rests: Mapping[str, str]) -> Listed:
    found: dict[str, frozenset[str] | str] = dict.fromkeys(rests, "")

    async def fetch(name: str) -> None:
        try:
            found[name] = frozenset(row.symbol for row in await listing(VENUES[name], rests[name]))
        except Unlisted as e:
            found[name] = str(e)

    async with anyio.create_task_group() as tg:
        for name in rests:
            tg.start_soon(fetch, name)
    return found


def pairs(bases: Iterable[str], symbols: frozenset[str]) -> list[str]:
    """Return the pairs of ``bases`` against dollars that are among ``symbols``, as a config.json has them."""
    wanted = (f"{base}-{quote}" for base in bases for quote in _QUOTES)
    return [symbol.replace("-", "/") for symbol in wanted if symbol in symbols]


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " ").title())


def _print(name: str, bases: Sequence[str], symbols: frozenset[str] | str, *, group: bool) -> int:
    title = _title(name)
    if group:
        paper.write(f"::group::{EXCHANGES.get(name, name)}_supported_trades\n")
    if isinstance(symbols, str):
        code = say(Unlisted(symbols), 1)
    else:
        found = pairs(bases, symbols)
        paper.write(f"\n[{title.upper()} – SUPPORTED TRADE PAIRS]\n\n")  # noqa: RUF001 - theirs
        paper.write("".join(f'"{pair}",\n' for pair in found))
        if found:
            paper.write(f"\n✅ {len(found)} supported {title} trade pairs found\n")
        else:
            paper.write(f"\n❌ No supported {title} trade pairs found\n")
        code = 0 if found else 1
    if group:
        paper.write("::endgroup::\n")
    return code


# ------------------------------------------------------------------------------------------- coverage


def cover(feed: Feed, listed: Listed) -> Covered:
    """Return how a feed's sources are covered by the venues of ``listed``."""
    parts: dict[str, list[str]] = {"listed": [], "unlisted": [], "elsewhere": [], "unknown": []}
    for source in feed.sources:
        try:
            symbols = listed.get(known(source.exchange))
        except ConfigError:
            symbols = None
        if symbols is None:
            part = "elsewhere"
        elif isinstance(symbols, str):
            part = "unknown"
        else:
            part = "listed" if canonical(source.symbol) in symbols else "unlisted"
        parts[part].append(f"{source.exchange} {source.symbol}")
    return Covered(feed.feed.name, **parts)


def _show_coverage(covered: Sequence[Covered], listed: Listed, *, as_json: bool) -> int:
    failed = [why for why in listed.values() if isinstance(why, str)]
    for why in failed:
        say(Unlisted(why), 1)
    bare = [each.feed for each in covered if not each.listed and not each.unknown]
    if as_json:
        paper.json(covered)
        return 1 if bare or failed else 0
    rows = (
        (
            each.feed,
            f"{len(each.listed)}/{each.all}",
            *map(", ".join, (each.listed, each.unlisted, each.unknown, each.elsewhere)),
        )
        for each in covered
    )
    columns = ("feed", "sources", "listed", "not listed there", "could not ask", "elsewhere")
    paper.show(paper.table("Coverage", columns, rows, right=("sources",)))
    asked = [name for name, symbols in listed.items() if not isinstance(symbols, str)] or ["nobody"]
    have = sum(len(each.listed) for each in covered)
    total = sum(each.all for each in covered)
    share = f" ({100 * have / total:.0f} %)" if total else ""
    paper.write(f"{have} of {total} sources{share} of {len(covered)} feeds, by {', '.join(asked)}\n")
    if bare:
        paper.write(f"without any source: {', '.join(bare)}\n")
    return 1 if bare or failed else 0
