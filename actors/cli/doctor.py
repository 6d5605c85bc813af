"""``tapeline doctor``: what of this machine, its Redis, its venues and its master is not as it must be."""

from collections.abc import Mapping
from pathlib import Path

import anyio

from actors.cli import paper
from actors.cli.health import host, net, store
from actors.cli.health.finding import Finding, Level, ok, warn
from actors.cli.session import running
from actors.config import Settings
from actors.config.reader import OFFSET, file_of, read

_SHOWN: Mapping[Level, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warn": ("look", "yellow"),
    "bad": ("BAD", "red"),
}


def show(config: Path | None, env: Mapping[str, str], *, as_json: bool) -> int:
    """Print every finding with its remedy; return 1 when something is bad.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    file, env = running(config, env)
    settings, notes = read(file, env)
    found = [ok("configuration", f"{file_of(file, env)}: {settings.mode}")]
    found += [warn("configuration", note, "correct it, or leave it out") for note in notes]
    found += host.examine(settings, file_of(file, env), int(env.get(OFFSET, "0")))
    found += anyio.run(_ask, settings, backend_options={"use_uvloop": True})
    bad = sum(each.level == "bad" for each in found)
    if as_json:
        paper.json({"ok": not bad, "findings": found})
    else:
        _print(found, bad)
    return 1 if bad else 0


async def _ask(settings: Settings) -> list[Finding]:
    """Ask Redis, every venue and the master, all at once."""
    parts: dict[str, list[Finding]] = {"redis": [], **{name: [] for name in settings.venues}, "master": []}

    async with anyio.create_task_group() as tg:
        tg.start_soon(store.examine, settings, parts["redis"])
        for name, venue in settings.venues.items():
            if venue.enabled:
                tg.start_soon(net.examine_venue, name, venue, parts[name])
        if settings.forwarder.active and settings.forwarder.url is not None:
            tg.start_soon(net.examine_master, settings.forwarder.url, parts["master"])
    return [each for part in parts.values() for each in part]


def _print(found: list[Finding], bad: int) -> None:
    from rich.console import Console  # noqa: PLC0415 - --json needs none of it
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    width = max(len(each.about) for each in found)
    for each in found:
        word, style = _SHOWN[each.level]
        console.print(
            Text(f"{word:<5}", style=style) + Text(f"{each.about:<{width}}  {each.says}"), soft_wrap=True
        )
        if each.remedy and each.level != "ok":
            console.print(Text(f"{'':<5}{'':<{width}}  -> {each.remedy}"), soft_wrap=True)
    looks = sum(each.level == "warn" for each in found)
    console.print(f"{bad} bad, {looks} to look at, {len(found) - bad - looks} ok")
