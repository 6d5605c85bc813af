"""``tapeline config``: check, plan, write and import configurations."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from actors.cli.options import SETTINGS, Json, Switch, Venue, app

config_app = App(name="config", help="Check, plan, write or import a configuration.", group=SETTINGS)
app.command(config_app)

Force = Annotated[Switch, Parameter(help="Replace a file that is there.")]
File = Annotated[Path | None, Parameter(name="--config", show_default=False)]  # or just the file
Output = Annotated[Path | None, Parameter(name=["--output", "-o"], help="The file to write.")]


@config_app.command
def check(file: File = None, *, as_json: Json = False) -> int:
    """Check a configuration and the environment over it: every fault at once.

    Each fault is a line: where it stands, its key, the reason, the nearest valid choice. Exit code 2 then.

    Example: tapeline config check config/tapeline.toml

    Parameters
    ----------
    file:
        The file to check; TAPELINE_CONFIG, else config/tapeline.toml, unless given.
    """
    from actors.cli import plan  # noqa: PLC0415 - only this command needs it

    return plan.check(file, os.environ, as_json=as_json)


@config_app.command(name="plan")
def plan_command(file: File = None, *, as_json: Json = False) -> int:
    """Show what a configuration would open: connections, streams, ports. Asks nobody.

    Example: tapeline config plan config/tapeline.toml

    Parameters
    ----------
    file:
        TAPELINE_CONFIG, else config/tapeline.toml, unless given.
    """
    from actors.cli import plan  # noqa: PLC0415 - only this command needs it

    return plan.show(file, os.environ, as_json=as_json)


@config_app.command
def schema() -> int:
    """Print the JSON Schema of a configuration, for editors: docs/schemas/tapeline.schema.json.

    Example: tapeline config schema
    """
    from actors.cli import plan  # noqa: PLC0415 - only this command needs it

    sys.stdout.write(plan.schema_text())
    return 0


@config_app.command(name="import")
def import_command(file: Path, *, output: Output = None, force: Force = False) -> int:
    """Write FTSOBest's config.json as a commented TOML file of ours.

    The master's key goes to a file of its own beside it (mode 0600), which the TOML names.

    Example: tapeline config import config.json -o config/mine.toml

    Parameters
    ----------
    file:
        FTSOBest's file.
    output:
        The file to write; the same name with .toml unless given.
    """
    from actors.cli import write  # noqa: PLC0415 - only this command needs it

    return write.import_file(file, output, force=force)


@config_app.command
def init(
    file: Path = Path("tapeline.toml"),
    *,
    venues: Annotated[list[Venue] | None, Parameter(name="--venue", negative="")] = None,
    symbols: Annotated[list[str] | None, Parameter(name="--symbol", negative="")] = None,
    books: Annotated[bool | None, Parameter(show_default=False)] = None,
    redundancy: int | None = None,
    redis_url: str | None = None,
    master: str | None = None,
    key_file: Path | None = None,
    demo: Switch = False,
    force: Force = False,
) -> int:
    """Write a commented configuration from a few questions, or from flags where --venue is given.

    Example: tapeline config init mine.toml --venue binance --symbol BTC/USDT --symbol ETH/USDT

    Parameters
    ----------
    file:
        The file to write.
    venues:
        A venue to follow; may be repeated.
    symbols:
        A symbol to follow on each of them, such as BTC/USDT; may be repeated.
    books:
        Whether order books are wanted beside trades.
    redundancy:
        2: two connections carry the same, and one may die without a gap.
    redis_url:
        A Redis of yours, without a password; Tapeline starts one itself unless given.
    master:
        The address of a master to forward to.
    key_file:
        The file with the key for it.
    demo:
        For the local simulator rather than the real venues.
    """
    from actors.cli import write  # noqa: PLC0415 - only this command needs it

    wishes = write.Wishes(
        venues=venues,
        symbols=symbols,
        books=books,
        redundancy=redundancy,
        redis_url=redis_url,
        master=master,
        key_file=key_file,
        demo=demo,
    )
    return write.init(file, wishes, force=force)
