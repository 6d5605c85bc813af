"""The commands that look: at a running Tapeline, at venues, at what is wrong."""

import os
from typing import Annotated

from cyclopts import Parameter, validators

from actors.cli.options import LOOK, Config, Configured, Json, Kind, Switch, Symbol, Venue, app


@app.command(group=LOOK)
def status(
    *,
    config: Config = None,
    as_json: Json = False,
    watch: Switch = False,
    every: Annotated[float, Parameter(validator=validators.Number(gte=0.1))] = 2.0,
) -> int:
    """Show who does what: instances and leases, lag, venues and channels, books, clients, master.

    Exit code 1 when something that is configured is not live.

    Example: tapeline status --watch

    Parameters
    ----------
    watch:
        Again and again until Ctrl-C; with --json a document a line.
    every:
        Seconds between two looks of --watch.
    """
    from actors.cli.status import show  # noqa: PLC0415 - only this command needs it

    return show(config, os.environ, as_json=as_json, watch_s=every if watch else None)


@app.command(group=LOOK)
def tail(
    kind: Kind = "*",
    venue: Configured = "*",
    symbol: Symbol = "*",
    *,
    config: Config = None,
    as_json: Json = False,
) -> int:
    """Follow events as they are written, a line each, until Ctrl-C.

    Example: tapeline tail trade binance BTC-USDT

    Parameters
    ----------
    kind:
        trade, book, l1, ticker, gap, status and so on, or a pattern.
    venue:
        A venue, or a pattern.
    symbol:
        A symbol such as BTC-USDT (or BTC/USDT), or a pattern such as BTC-*.
    """
    from actors.cli.tail import follow  # noqa: PLC0415 - only this command needs it

    return follow(config, os.environ, kind=kind, venue=venue, symbol=symbol, as_json=as_json)


@app.command(group=LOOK)
def readers(action: str | None = None, role: str | None = None, *, config: Config = None) -> int:
    """Show the registered readers, which hold back trimming; or forget one that will not come back.

    Example: tapeline readers forget archiver

    Parameters
    ----------
    action:
        forget, or nothing to list them.
    role:
        The reader to forget.
    """
    from actors.cli.readers import show  # noqa: PLC0415 - only this command needs it

    return show(config, os.environ, action=action, role=role)


@app.command(group=LOOK)
def doctor(*, config: Config = None, as_json: Json = False) -> int:
    """Examine this machine, its Redis, every venue and the master; say what to do about what is found.

    Looks at ports, leftovers of an earlier run, file limits, disk, secrets; Redis' version, policy, AOF and
    memory; each venue's name, TLS, handshake and symbols; the clocks. Exit code 1 when something is bad.

    Example: tapeline doctor --json
    """
    from actors.cli.doctor import show  # noqa: PLC0415 - only this command needs it

    return show(config, os.environ, as_json=as_json)


@app.command(group=LOOK)
def venues(
    *, as_json: Json = False, as_markdown: Annotated[Switch, Parameter(name="--markdown")] = False
) -> int:
    """Show which venue has which channel, and how its books are proved.

    Example: tapeline venues

    Parameters
    ----------
    as_markdown:
        As the README has it.
    """
    from actors.cli.markets import show_venues  # noqa: PLC0415 - only this command needs it

    return show_venues(as_json=as_json, as_markdown=as_markdown)


@app.command(group=LOOK)
def symbols(venue: Venue, *, search: str | None = None, config: Config = None, as_json: Json = False) -> int:
    """List what a venue trades, as it says at this moment. Exit code 1 when nothing matches.

    Example: tapeline symbols binance --search BTC

    Parameters
    ----------
    venue:
        A venue; names that FTSOBest or ccxt have for it are understood.
    search:
        A part of a symbol, or a pattern such as *-USDT.
    """
    from actors.cli.markets import show_symbols  # noqa: PLC0415 - only this command needs it

    return show_symbols(config, os.environ, venue=venue, search=search, as_json=as_json)


@app.command(group=LOOK)
def pairs(
    venue: Venue,
    *,
    feeds: str,
    coverage: Switch = False,
    config: Config = None,
    as_json: Json = False,
) -> int:
    """Print which pairs of Flare's feeds a venue trades, ready to paste into FTSOBest's config.json.

    Exit code 1 when a venue has none of them, or with --coverage when a feed has no source.

    Example: tapeline pairs all --feeds feeds.json --coverage

    Parameters
    ----------
    venue:
        A venue, or all.
    feeds:
        Flare's feeds.json: a file, or an address to fetch it from.
    coverage:
        Show instead, for each feed, which of its sources are to be had here.
    """
    from actors.cli.pairs import show  # noqa: PLC0415 - only this command needs it

    return show(config, os.environ, venue=venue, feeds=feeds, coverage=coverage, as_json=as_json)
