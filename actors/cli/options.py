"""What all commands share: the app itself, its groups, and the options that several have."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Group, Parameter

from actors.cli import complete
from actors.cli.complete import Context

START: Final = Group("Start", sort_key=0)
LOOK: Final = Group("Look", sort_key=1)
ACT: Final = Group("Act", sort_key=2)
SETTINGS: Final = Group("Set up", sort_key=3)
PROVE: Final = Group("Prove", sort_key=4)

app = App(
    name="tapeline",
    version=lambda: version("tapeline"),
    help="""Crypto market data: verified books and exact trades, from venue sockets to Redis and to clients.

    Try it offline: tapeline demo. Then look: tapeline status, tapeline tail trade.

    Exit codes: 0 ok, 1 failure or not as it should be, 2 wrong usage or configuration, 130 Ctrl-C.""",
    help_format="plaintext",
    version_flags=["--version"],
)

Config = Annotated[
    Path | None,
    # The words of the help, not the folder of this checkout.
    Parameter(
        name="--config",
        help="The configuration: TOML, or FTSOBest's config.json.",
        show_default=False,
    ),
]
Instances = Annotated[
    str | None,
    Parameter(name=["--instances", "-c"], help="How many of each, as in normalizer=2,bookbuilder=2."),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="JSON, for programs.")]
Switch = Annotated[bool, Parameter(negative="")]
Names = Annotated[tuple[str, ...], Parameter(negative="", negative_iterable=())]
Folder = Annotated[Path | None, Parameter(name="--folder", help="The master's files.", show_default=False)]


def _roles(_: Context) -> list[str]:
    return complete.roles()


def _kinds(_: Context) -> list[str]:
    return complete.kinds()


def _venues(_: Context) -> list[str]:
    return complete.venues()


def configured(context: Context) -> list[str]:
    """Offer the venues of the configuration."""
    return complete.configured(os.environ, context)


def _symbols(context: Context) -> list[str]:
    return complete.symbols(os.environ, context)


Role = Annotated[str, Parameter(completer=_roles)]
Kind = Annotated[str, Parameter(completer=_kinds)]
Venue = Annotated[str, Parameter(completer=_venues)]
Configured = Annotated[str, Parameter(completer=configured)]
Symbol = Annotated[str, Parameter(completer=_symbols)]
