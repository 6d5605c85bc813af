"""The commands that look: at a running Tapeline, at venues, at what is wrong."""

import os

from actors.cli.options import LOOK, Config, Configured, Json, Kind, Symbol, app


@app.command(group=LOOK)
def status(*, config: Config = None, as_json: Json = False) -> int:
    """Show who does what: instances and leases, lag, venues and channels, books.

    Exit code 1 when something that is configured is not live.

    Example: tapeline status --json
    """
    from actors.cli.status import show  # noqa: PLC0415 - only this command needs it

    return show(config, os.environ, as_json=as_json)


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
