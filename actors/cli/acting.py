"""The commands that act on a running Tapeline, and those about what it could not use."""

import os
from typing import Annotated

from cyclopts import App, Parameter, validators

from actors.cli.complete import Context, channels
from actors.cli.options import ACT, LOOK, Config, Configured, Json, Symbol, app, configured

Seconds = Annotated[float, Parameter(name="--within", validator=validators.Number(gt=0))]


def _channels(_: Context) -> list[str]:
    return channels()


@app.command(group=ACT)
def resync(
    venue: Configured,
    symbol: Symbol,
    *,
    channel: Annotated[str, Parameter(completer=_channels)] = "book",
    within_s: Seconds = 30.0,
    config: Config = None,
    as_json: Json = False,
) -> int:
    """Subscribe a symbol anew, and wait until it is live again: for a book that you do not trust.

    What the venue sends meanwhile is missing, and named as a gap where its numbers show it.
    Exit code 1 when it is not live again in time.

    Example: tapeline resync binance BTC-USDT

    Parameters
    ----------
    symbol:
        A symbol such as BTC-USDT (or BTC/USDT), or * for all of them.
    channel:
        book, trade, l1, ticker and so on.
    within_s:
        Seconds to wait.
    """
    from actors.cli import control  # noqa: PLC0415 - only this command needs it

    return control.resync(
        config,
        os.environ,
        venue=venue,
        symbol=symbol,
        channel=channel,
        within_s=within_s,
        as_json=as_json,
    )


@app.command(group=ACT)
def reconnect(
    venue: Configured, *, within_s: Seconds = 60.0, config: Config = None, as_json: Json = False
) -> int:
    """Replace every connection to a venue; each closes only once its successor carries data.

    Exit code 1 when one is still open in the end.

    Example: tapeline reconnect binance

    Parameters
    ----------
    within_s:
        Seconds to wait.
    """
    from actors.cli import control  # noqa: PLC0415 - only this command needs it

    return control.reconnect(config, os.environ, venue=venue, within_s=within_s, as_json=as_json)


deadletter_app = App(name="deadletter", help="Look at what could not be understood.", group=LOOK)
app.command(deadletter_app)


@deadletter_app.command(name="list")
def deadletter_list(
    venue: Annotated[str | None, Parameter(completer=configured)] = None,
    *,
    last: Annotated[int, Parameter(name=["--last", "-n"], validator=validators.Number(gte=1))] = 20,
    config: Config = None,
    as_json: Json = False,
) -> int:
    """List the newest records that could not be decoded or folded, with the reason of each.

    Example: tapeline deadletter list binance -n 5

    Parameters
    ----------
    venue:
        Only of this venue.
    last:
        How many.
    """
    from actors.cli import deadletter  # noqa: PLC0415 - only this command needs it

    return deadletter.show_list(config, os.environ, venue=venue, last=last, as_json=as_json)


@deadletter_app.command(name="show")
def deadletter_show(letter: str, *, config: Config = None, as_json: Json = False) -> int:
    """Show one of them whole.

    Example: tapeline deadletter show binance.0/1732091131000-0/1

    Parameters
    ----------
    letter:
        Its id, as tapeline deadletter list names it.
    """
    from actors.cli import deadletter  # noqa: PLC0415 - only this command needs it

    return deadletter.show_one(config, os.environ, letter=letter, as_json=as_json)
