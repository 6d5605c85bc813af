"""How commands write: tables for people, one JSON document for programs."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
import orjson

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> "Table":
    """Return a table for a terminal; columns named in ``right`` hold numbers."""
    from rich import box  # noqa: PLC0415 - --json needs none of it
    from rich.table import Column, Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    heads = (
        Column(name, overflow="fold", no_wrap=not n, justify="right" if name in right else "left")
        for n, name in enumerate(columns)
    )
    made = Table(*heads, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def show(*shown: "RenderableType") -> None:
    """Print tables and lines."""
    from rich.console import Console  # noqa: PLC0415 - --json needs none of it
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    for each in shown:
        console.print(each, soft_wrap=isinstance(each, Text))  # a line is a line, for grep


def write(text: str) -> None:
    """Print text as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def json(document: object) -> None:
    """Print one document, a line."""
    sys.stdout.buffer.write(orjson.dumps(msgspec.to_builtins(document)) + b"\n")
    sys.stdout.buffer.flush()
