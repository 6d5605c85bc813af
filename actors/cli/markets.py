"""What venues are and list: ``tapeline venues``, ``symbols`` and what ``pairs`` needs."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, get_args

import anyio

from actors.cli import paper
from actors.cli.run import say
from actors.cli.session import running
from actors.config import ConfigError, load
from actors.config.ftsobest import OURS
from actors.config.reader import DEFAULT_PATH
from actors.config.words import nearest
from actors.connector.listing import MOST_PAGES
from actors.connector.rest import MOST_LISTING_BYTES, ask, session_to
from actors.model.errors import Unparseable
from actors.model.events import Channel
from actors.model.instruments import Instrument, canonical, market_kind
from actors.simulator.street import simulated
from actors.venues import VENUES
from actors.venues.base import Venue, listed

if TYPE_CHECKING:
    from rich.table import Table

CHANNELS: Final[tuple[Channel, ...]] = get_args(Channel)
# What others call a venue: FTSOBest's names, and those of feeds.json (ccxt's).
ALIASES: Final[Mapping[str, str]] = {**OURS, "gate": "gateio", "huobi": "htx"}
_HEADS: Final = (
    "venue", "markets", *(channel.replace("_", " ") for channel in CHANNELS), "a book's proof", "offline",
)  # fmt: skip


class Unlisted(Exception):
    """A venue's list could not be had; the message says why."""


class Row(NamedTuple):
    """One venue, as the matrix shows it; ``channels`` in the order of ``CHANNELS``.

    ``derived``: what comes with another channel and cannot be asked for: l1 from the book.
    """

    venue: str
    markets: list[str]
    channels: list[Channel]
    derived: list[Channel]
    book: str | None
    simulated: bool


# --------------------------------------------------------------------------------------------- venues


def matrix() -> list[Row]:
    """Return which venue has which channel."""
    local = {*simulated()}
    rows: list[Row] = []
    for name, venue in sorted(VENUES.items()):
        has: list[Channel] = [channel for channel in CHANNELS if channel in venue.channels]
        proof = venue.book_rule.verified if "book" in venue.channels else None
        derived: list[Channel] = ["l1"] if proof is not None and "l1" not in has else []
        rows.append(Row(name, sorted(venue.markets), has, derived, proof, name in local))
    return rows


def markdown() -> str:
    """Return the matrix as the README has it."""
    lines = [f"| {' | '.join(_HEADS)} |", "|---|---|" + ":-:|" * len(CHANNELS) + "---|:-:|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in matrix()]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    has = ("●" if c in row.channels else "book" if c in row.derived else "" for c in CHANNELS)
    return [row.venue, ", ".join(row.markets), *has, row.book or "", "●" if row.simulated else ""]


def show_venues(*, as_json: bool, as_markdown: bool) -> int:
    """Print the matrix."""
    if as_json:
        paper.json([row._asdict() for row in matrix()])
    elif as_markdown:
        paper.write(markdown())
    else:
        heads = ("venue", "markets", "channels", "a book's proof", "offline")
        paper.show(paper.table("Venues", heads, map(_line, matrix())))
    return 0


def _line(row: Row) -> list[str]:
    """Return a row for a terminal, where a column a channel would not fit."""
    named = (*row.channels, *(f"({channel} from book)" for channel in row.derived))
    return [row.venue, " ".join(row.markets), " ".join(named), row.book or "", "yes" * row.simulated]


# -------------------------------------------------------------------------------------------- symbols


def known(name: str) -> str:
    """Return our name of a venue, which may be given as others write it.

    Raises:
        ConfigError: There is none; names the nearest.
    """
    ours = name if name in VENUES else ALIASES.get(name, name)
    if ours not in VENUES:
        venues = sorted(VENUES)
        if name in ALIASES:
            raise ConfigError(f'there is no adapter for "{name}" yet ({", ".join(venues)})')
        raise ConfigError(f'there is no venue "{name}"{nearest(name, venues)} ({", ".join(venues)})')
    return ours


def addresses(config: Path | None, env: Mapping[str, str]) -> dict[str, str]:
    """Return where the configuration says that venues' REST interfaces are, of those that it names.

    Raises:
        ConfigError: The configuration that was named cannot be used.
    """
    file, env = running(config, env)
    if file is None and "TAPELINE_CONFIG" not in env and not DEFAULT_PATH.exists():
        return {}  # a question about a venue needs no configuration
    venues = load(file, env).venues
    return {name: venue.rest_url for name, venue in venues.items() if venue.rest_url is not None}


async def listing(venue: Venue, rest: str) -> list[Instrument]:
    """Return what a venue lists and we can use, by symbol.

    Raises:
        Unlisted: It does not say; the message has the reason.
    """
    found: dict[str, Instrument] = {}
    async with session_to(rest) as http:
        pages = list(venue.instruments)
        for asked, page in enumerate(pages):  # which grows by what a page says of the next
            if asked == MOST_PAGES:
                raise Unlisted(f"{venue.name} at {rest} has more than {MOST_PAGES} pages of instruments")
            reply, _ = await ask(http, rest + page.path, MOST_LISTING_BYTES)
            if reply.status != 200:
                status = f"HTTP {reply.status}: " if reply.status else ""
                raise Unlisted(f"{venue.name} at {rest}: {status}{reply.text[:200]}")
            try:
                rows = listed(venue, reply.body)
                following = venue.next_page(page, reply.body)
            except Unparseable as e:
                raise Unlisted(f"{venue.name} at {rest} answers something else: {e}") from e
            found |= {row.symbol: row for row in rows if isinstance(row, Instrument)}
            pages += [] if following is None else [following]
    return [found[symbol] for symbol in sorted(found)]


def show_symbols(
    config: Path | None, env: Mapping[str, str], *, venue: str, search: str | None, as_json: bool
) -> int:
    """Print what a venue lists; return 1 when nothing matches or the venue does not say.

    Raises:
        ConfigError: There is no such venue, or the configuration cannot be used.
    """
    name = known(venue)
    rest = addresses(config, env).get(name, VENUES[name].endpoints.rest)
    try:
        rows = anyio.run(listing, VENUES[name], rest)
    except Unlisted as e:
        return say(e, 1)
    found = [row for row in rows if search is None or _matches(row, search)]
    if as_json:
        paper.json(found)
    elif found:
        paper.show(_symbols(name, found))
    if not found:
        every = [row.symbol for row in rows]
        near = nearest(canonical(search or ""), every)
        return say(Unlisted(f'{name} lists nothing like "{search}"{near} ({len(every)} symbols)'), 1)
    return 0


def _matches(row: Instrument, search: str) -> bool:
    wanted = canonical(search)
    pattern = wanted if {*wanted} & {*"*?["} else f"*{wanted}*"
    return fnmatchcase(row.symbol, pattern) or row.native.upper() == search.upper()


def _symbols(name: str, rows: Sequence[Instrument]) -> "Table":
    columns = ("symbol", "market", "native", "price step", "size step", "contract")
    return paper.table(
        f"{name}: {len(rows)} symbols",
        columns,
        (
            (
                *(row.symbol, market_kind(row.symbol), row.native, row.price_step or "", row.size_step or ""),
                "" if row.contract_size is None else f"{row.contract_size} {row.contract_kind}",
            )
            for row in rows
        ),
        right=("price step", "size step"),
    )
