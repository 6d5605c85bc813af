"""``tapeline status``: who does what, how far behind, and what is not as it should be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import msgspec
import orjson

from actors.cli import beside, paper
from actors.cli.beside import Beside, Instance
from actors.cli.partition import OPTIONAL, Look, Place, Told
from actors.cli.session import Session, within
from actors.config import Settings, VenueSettings
from actors.model.events import STALE_S, Channel
from actors.stages.normalize.subscriptions import BEST_FIRST
from actors.streams.client import hot
from actors.streams.errors import FAULTS, is_passing
from actors.streams.keys import partitions
from actors.streams.partition import closing
from actors.venues import VENUES
from actors.venues.base import items_of

if TYPE_CHECKING:
    from rich.console import RenderableType

_MEMBERS: Final = ("connector", "normalizer", "bookbuilder", "analytics", "broadcaster", "forwarder")
_NAMED: Final = 5  # symbols that are named where more are not well


class Unwell(msgspec.Struct, frozen=True):
    """Symbols of a channel that are in one state for one reason; the first few are named."""

    channel: Channel
    state: str
    reason: str
    n: int
    symbols: list[str]


class Market(msgspec.Struct, frozen=True):
    """One venue.

    ``channels``: channel -> state -> how many symbols; ``books``: state -> how many; ``unwell``: what is
    not as it should be, the most first.
    """

    state: str
    reason: str
    channels: dict[Channel, dict[str, int]]
    books: dict[str, int]
    unwell: list[Unwell] = []


class Report(msgspec.Struct, frozen=True):
    """Everything; ``problems`` is empty when all that is configured is live."""

    ok: bool
    mode: str
    problems: list[str]
    instances: list[Instance]
    partitions: list[Place]
    venues: dict[str, Market]
    beside: Beside


def show(config: Path | None, env: Mapping[str, str], *, as_json: bool, watch_s: float | None = None) -> int:
    """Print the report; return 1 when something configured is not live.

    ``watch_s``: again and again, so many seconds apart, until interrupted.

    Raises:
        ConfigError: The configuration cannot be used.
    """

    async def work(session: Session) -> int:
        if watch_s is not None:
            await _watch(session, watch_s, as_json=as_json)
        report = await gather(session)
        if as_json:
            paper.json(report)
        else:
            paper.show(*tables(report))
        return 0 if report.ok else 1

    return within(config, env, "status", work)


async def _watch(session: Session, watch_s: float, *, as_json: bool) -> None:
    """Show the report until cancelled. While Redis is away that is what is shown."""
    from rich.console import Console, Group  # noqa: PLC0415 - only watching needs it
    from rich.live import Live  # noqa: PLC0415

    console = Console()
    on_screen = console.is_terminal and not as_json
    with Live(console=console, screen=on_screen, auto_refresh=False) as live:
        while True:
            try:
                report = await gather(session)
            except FAULTS as e:
                if not is_passing(e):
                    raise
                shown: list[RenderableType] = [f"Redis does not answer: {e}"]
                report = None
            else:
                shown = tables(report)
            if on_screen:
                live.update(Group(*shown), refresh=True)
            elif as_json:
                paper.json(report if report is not None else {"ok": False, "problems": shown})
            else:
                paper.show(*shown)
            await anyio.sleep(watch_s)


async def gather(session: Session) -> Report:
    """Look at everything and judge it."""
    settings = session.settings
    now_ms = await session.now_ms()
    instances = [i for role in _MEMBERS for i in await _members(session, role, now_ms)]
    places: list[Place] = []
    told: dict[str, list[Told]] = {}
    books: dict[str, dict[str, list[str]]] = {}
    for partition in partitions(settings):
        key = session.keys.stream(partition, "events")
        async with closing(await hot(settings, key)) as connection:
            look = Look(session, connection, partition, now_ms)
            place = await look.place()
            places.append(place)
            unwell = frozenset[str](BEST_FIRST) - {"live", "subscribed"}
            told.setdefault(partition.venue, []).append(await look.channels(unwell))
            for state, symbols in (await look.books(place)).items():
                books.setdefault(partition.venue, {}).setdefault(state, []).extend(symbols)
    markets = {
        name: market(name, settings.venues[name], of, books.get(name, {})) for name, of in told.items()
    }
    around = await beside.look(settings, instances)
    problems = judge(settings, instances, places, markets, around)
    return Report(not problems, settings.mode, problems, instances, places, markets, around)


async def _members(session: Session, role: str, now_ms: int) -> list[Instance]:
    found = cast("dict[bytes, bytes]", await cast("Any", session.client).hgetall(session.keys.members(role)))
    living: list[Instance] = []
    for name, text in sorted(found.items()):
        member: dict[str, Any] = orjson.loads(text)
        if int(member["until"]) > now_ms:
            living.append(
                Instance(role, name.decode(), str(member["host"]), int(member["pid"]), member.get("metrics"))
            )
    return living


# ------------------------------------------------------------------------------------------- verdicts


def _channels(name: str, venue: VenueSettings) -> list[Channel]:
    return sorted(VENUES[name].channels if venue.channels is None else venue.channels)


def healthy(name: str, channel: Channel) -> frozenset[str]:
    """Return the states in which a channel of a venue is as it should be.

    One that may be silent for ever (liquidations, say) says no more than that it was acknowledged.
    """
    venue = VENUES[name]
    watched = channel in venue.silence_s or channel in venue.first_s
    return frozenset(("live",)) if watched else frozenset(("live", "subscribed"))


def market(
    name: str, venue: VenueSettings, told: Sequence[Told], books: Mapping[str, Sequence[str]]
) -> Market:
    """Return how a venue is, from what is known of its partitions; ``books``: state -> symbols."""
    items = {item: state for part in told for item, state in part.items.items()}
    refused = {symbol: why for part in told for symbol, why in part.refused.items()}
    states: dict[Channel, dict[str, int]] = {}
    unwell: dict[tuple[Channel, str, str], list[str]] = {}
    fine = 0
    for channel in _channels(name, venue):
        counted = states.setdefault(channel, {})
        well = healthy(name, channel)
        for item in items_of([s for s in venue.symbols if venue.wants(channel, s)], [channel]):
            symbol = item[1]
            state, reason = (
                ("refused", refused[symbol]) if symbol in refused else items.get(item, ("unknown", ""))
            )
            counted[state] = counted.get(state, 0) + 1
            if state in well:
                fine += 1
            else:
                unwell.setdefault((channel, state, reason), []).append(symbol)
    worst = sorted(unwell.items(), key=lambda each: -len(each[1]))
    listed = [Unwell(*key, len(symbols), sorted(symbols)[:_NAMED]) for key, symbols in worst]
    how_many = {state: len(symbols) for state, symbols in books.items()}
    if not listed:
        return Market("live", "", states, how_many)
    state = "partly live" if fine else "down"
    reasons = [each.reason for each in listed if each.reason]
    down = [part.down for part in told if part.down]
    reason = next(iter([*reasons, *down] if fine else [*down, *reasons]), "nothing is known yet")
    return Market(state, reason, states, how_many, listed)


def judge(
    settings: Settings,
    instances: Sequence[Instance],
    places: Sequence[Place],
    markets: Mapping[str, Market],
    around: Beside,
) -> list[str]:
    """Return everything that is configured and not live, as sentences."""
    problems = [
        f"{place.partition}: nobody holds the lease of {lease}"
        for place in places
        for lease, owner in place.owners.items()
        if owner is None and lease not in OPTIONAL
    ]
    if not any(instance.role == "broadcaster" for instance in instances):
        problems.append("no broadcaster runs")
    for place in places:
        age = place.seconds_since_event
        if age is None or age > STALE_S:
            since = "no event yet" if age is None else f"the last event is {age:.0f} s old"
            problems.append(f"{place.partition}: {since}")
    for name, venue in markets.items():
        problems += judge_market(name, venue)
    forwarding, master = around.forwarding, around.master
    if forwarding is not None and forwarding.sockets is not None and not forwarding.sockets.get("ready"):
        wanted = settings.forwarder.connections
        problems.append(f"forwarder: none of {wanted} sockets to {forwarding.to} is logged in")
    if master is not None and not master.ok:
        problems.append(f"master at {master.address}: {master.reason}")
    return problems


def judge_market(name: str, venue: Market) -> list[str]:
    """Return what of a venue is not as it should be."""
    problems: list[str] = []
    if venue.state != "live":
        problems.append(f"{name} is {venue.state}: {venue.reason}")
    if venue.state != "down":
        for each in venue.unwell:
            all_of = sum(venue.channels[each.channel].values())
            more = ", ..." if each.n > len(each.symbols) else ""
            why = f": {each.reason}" if each.reason else ""
            problems.append(
                f"{name} {each.channel}: {each.n} of {all_of} symbols {each.state} "
                f"({', '.join(each.symbols)}{more}){why}"
            )
    return problems + [f"{name}: {n} books {state}" for state, n in venue.books.items() if state != "live"]


# ------------------------------------------------------------------------------------------- for people


def tables(report: Report) -> "list[RenderableType]":
    """Return the report as it is shown on a terminal."""
    from rich.text import Text  # noqa: PLC0415 - --json needs none of it

    shown: list[RenderableType] = [_venues(report), _partitions(report), _instances(report)]
    shown += [Text(line) for line in _around(report.beside)]
    shown += [Text(f"not as it should be: {problem}", style="yellow") for problem in report.problems]
    if report.ok:
        shown.append(Text("all that is configured is live", style="green"))
    return shown


def _venues(report: Report) -> "RenderableType":
    def row(name: str, venue: Market) -> tuple[str, ...]:
        counts = "\n".join(
            f"{channel} {sum(states.get(s, 0) for s in healthy(name, channel))}/{sum(states.values())}"
            for channel, states in venue.channels.items()
        )
        live = f"{venue.books.get('live', 0)}/{sum(venue.books.values())}"
        return name, venue.state, counts, live, venue.reason

    columns = ("venue", "state", "channels (well / all)", "books live", "reason")
    return paper.table("Venues", columns, (row(*each) for each in report.venues.items()))


def _partitions(report: Report) -> "RenderableType":
    rows: list[tuple[str, ...]] = []
    for place in report.partitions:
        for lease, owner in place.owners.items():
            lag = place.lag.get(lease)
            behind = ("", "") if lag is None else (str(lag.events), f"{lag.seconds:.1f}")
            if owner is not None or lease not in OPTIONAL:
                rows.append((place.partition, lease, owner or "nobody", *behind))
    columns = ("partition", "lease", "owner", "lag, events", "lag, s")
    return paper.table("Partitions", columns, rows, right=columns[3:])


def _instances(report: Report) -> "RenderableType":
    rows = [(each.instance, each.host, str(each.pid), each.metrics or "none") for each in report.instances]
    return paper.table("Instances", ("instance", "host", "pid", "metrics"), rows, right=("pid",))


def _around(around: Beside) -> list[str]:
    lines: list[str] = []
    if around.clients is not None:
        by_dialect = ", ".join(f"{n} {dialect}" for dialect, n in around.clients.items() if n)
        lines.append(f"clients: {sum(around.clients.values())}{f' ({by_dialect})' if by_dialect else ''}")
    if (way := around.forwarding) is not None:
        sockets = "" if way.sockets is None else ", ".join(f"{n} {state}" for state, n in way.sockets.items())
        late = "" if way.unacked_seconds is None else f"; oldest unacknowledged {way.unacked_seconds:g} s"
        lines.append(f"forwarder: to {way.to} ({way.protocol}); sockets: {sockets or 'not known'}{late}")
    if (master := around.master) is not None:
        state = "ok" if master.ok else master.reason
        held = f"{sum(master.collectors.values())} collectors, {master.streams} streams"
        lines.append(f"master: {master.address} {state}; {held}")
    return lines
