"""What the shell offers at TAB: roles, kinds, venues, symbols. Nothing of it may fail or take long."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, get_args

from actors.config import ConfigError, Settings, load


class Context(Protocol):
    """What is typed already: cyclopts' ``CompletionContext``."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return the argument ``name``, with its ``raw`` text; ``default`` where the command has none."""
        ...


def _typed(context: Context, name: str) -> str | None:
    argument = context.get(name)
    return None if argument is None else argument.raw


def roles() -> list[str]:
    """Return what a Procfile line may name, and ``all``."""
    from actors.cli.run import ALL, LINES  # noqa: PLC0415 - only TAB needs it

    return [*LINES, ALL]


def kinds() -> list[str]:
    """Return the kinds of events that people look at."""
    from actors.cli.tail import KINDS  # noqa: PLC0415 - only TAB needs it

    return [*KINDS]


def venues() -> list[str]:
    """Return every venue that has an adapter."""
    from actors.venues import VENUES  # noqa: PLC0415 - only TAB needs it

    return sorted(VENUES)


def configured(env: Mapping[str, str], context: Context) -> list[str]:
    """Return the venues of the configuration that the command would read."""
    settings = _settings(env, context)
    if settings is None:
        return venues()
    return [name for name, venue in settings.venues.items() if venue.enabled]


def symbols(env: Mapping[str, str], context: Context) -> list[str]:
    """Return the configured symbols: of the venue that is typed already, where one is."""
    settings = _settings(env, context)
    if settings is None:
        return []
    wanted = settings.venues.get(_typed(context, "venue") or "")
    if wanted is not None:
        return wanted.symbols
    return sorted({symbol for venue in settings.venues.values() for symbol in venue.symbols})


def _settings(env: Mapping[str, str], context: Context) -> Settings | None:
    from actors.cli.session import running  # noqa: PLC0415 - only TAB needs it

    named = _typed(context, "config")
    file = None if named is None else Path(named)
    try:
        return load(*running(file, env))
    except ConfigError:
        return None


def channels() -> list[str]:
    """Return every channel."""
    from actors.model.events import Channel  # noqa: PLC0415 - only TAB needs it

    return [*get_args(Channel)]
