"""``tapeline config check``, ``plan`` and ``schema``: what a configuration says and what would come of it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import orjson

from actors.cli import paper
from actors.config import ConfigError, Settings, VenueSettings
from actors.config.describe import schema
from actors.config.reader import OFFSET, read
from actors.connector.planning import endpoints_of, plan
from actors.demo import METRICS_PORT, check_clashes, formation_lines, ports_of
from actors.model.instruments import Instrument, market_kind, shard
from actors.streams.errors import RedisUnusable
from actors.streams.keys import Keys, Partition, Stream, legs, partitions
from actors.streams.url import parse, redis_url
from actors.venues import VENUES

_ROLES: Mapping[Stream, tuple[str, str]] = {  # stream -> who writes it, who reads it
    "raw": ("connector", "normalizer"),
    "events": ("normalizer", "bookbuilder, analytics, broadcaster, forwarder"),
    "books": ("bookbuilder", "broadcaster, forwarder"),
    "flow": ("analytics", "broadcaster"),
    "control": ("normalizer, bookbuilder, you", "connector"),
    "dead": ("normalizer, bookbuilder, analytics", "you: tapeline deadletter"),
}
_MOST_ENTRIES = ("control", "dead")  # these keep 10,000 entries; the others bytes


class Sockets(msgspec.Struct, frozen=True):
    """The connections of one leg of one partition.

    ``subscriptions``: items on all of them; ``frames``: what asks for these; ``ready_s``: the least time
    in which the venue's limits let all of them open and ask.
    """

    partition: str
    leg: str
    address: str
    connections: int
    symbols: int
    subscriptions: int
    frames: int
    ready_s: float


class Kept(msgspec.Struct, frozen=True):
    """One stream."""

    key: str
    written_by: str
    read_by: str
    keeps: str


class Plan(msgspec.Struct, frozen=True):
    """What a configuration would open. ``ports``: purpose -> host:port."""

    mode: str
    redis: str
    sockets: list[Sockets]
    rest: dict[str, str]
    streams: list[Kept]
    most_stream_bytes: int
    ports: dict[str, str]
    forwards_to: str | None


def check(file: Path | None, env: Mapping[str, str], *, as_json: bool) -> int:
    """Say what is wrong with a configuration, or what it is of.

    Raises:
        ConfigError: Something is, and it is for people.
    """
    try:
        settings, notes = read(file, env)
        check_clashes(settings, int(env.get(OFFSET, "0")))
        _shown(settings)
    except ConfigError as e:
        if not as_json:
            raise
        paper.json({"ok": False, "problems": str(e).splitlines()})
        return 2
    enabled = {name: len(venue.symbols) for name, venue in settings.venues.items() if venue.enabled}
    if as_json:
        paper.json({"ok": True, "mode": settings.mode, "venues": enabled, "notes": list(notes)})
        return 0
    for note in notes:
        sys.stderr.write(f"tapeline: {note}\n")
    venues = (f"{name} ({n} symbol{'' if n == 1 else 's'})" for name, n in enabled.items())
    paper.write(f"ok: {settings.mode}, {', '.join(venues)}\n")
    return 0


def schema_text() -> str:
    """Return the JSON Schema as it stands in the repository."""
    return orjson.dumps(schema(), option=orjson.OPT_INDENT_2).decode() + "\n"


def show(file: Path | None, env: Mapping[str, str], *, as_json: bool) -> int:
    """Print the plan.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    settings = read(file, env).settings
    made = make(settings, int(env.get(OFFSET, "0")))
    if as_json:
        paper.json(made)
    else:
        _print(made)
    return 0


def make(settings: Settings, offset: int) -> Plan:
    """Return what ``settings`` would open; ``offset``: of the ports."""
    enabled = {name: venue for name, venue in settings.venues.items() if venue.enabled}
    sockets = [
        _sockets(partition, leg, enabled[partition.venue])
        for partition in partitions(settings)
        for leg in legs(settings, partition.venue)
    ]
    streams = [kept for partition in partitions(settings) for kept in _streams(settings, partition)]
    ports = {
        what: f"{host}:{port}"
        for what, (host, port) in ports_of(settings, METRICS_PORT + offset, formation_lines()).items()
    }
    if settings.redis.url is None:
        ports["redis.port"] = f"127.0.0.1:{settings.redis.port}"
    forwarder = settings.forwarder
    to = "standard output" if forwarder.demo else forwarder.url
    return Plan(
        mode=settings.mode,
        redis=_shown(settings),
        sockets=sockets,
        rest={name: endpoints_of(VENUES[name], venue).rest for name, venue in enabled.items()},
        streams=streams,
        most_stream_bytes=settings.streams.retention_bytes
        * sum(not kept.key.endswith(_MOST_ENTRIES) for kept in streams),
        ports=ports,
        forwards_to=f"{to} ({forwarder.connections} sockets)" if forwarder.active else None,
    )


def _shown(settings: Settings) -> str:
    try:
        return parse(redis_url(settings)).shown
    except RedisUnusable as e:
        raise ConfigError(str(e)) from e


def _sockets(partition: Partition, leg: str, wanted: VenueSettings) -> Sockets:
    venue = VENUES[partition.venue]
    symbols = [symbol for symbol in wanted.symbols if shard(symbol, wanted.shards) == partition.shard]
    connections = plan(venue, endpoints_of(venue, wanted), wanted, [stand_in(symbol) for symbol in symbols])
    subscriptions = [sent for connection in connections for sent in connection.subscriptions]
    url = urlsplit(connections[0].url if connections else endpoints_of(venue, wanted).ws)
    slowest = max((len(connection.subscriptions) for connection in connections), default=0)
    ready_s = (
        max(0, len(connections) - 1) * 60 / venue.limits.connects_per_minute
        + slowest / venue.limits.frames_per_s
    )
    return Sockets(
        partition=str(partition),
        leg=leg,
        address=f"{url.scheme}://{url.netloc}{url.path}",
        connections=len(connections),
        symbols=len(symbols),
        subscriptions=sum(len(sent.items) for sent in subscriptions),
        frames=len(subscriptions),
        ready_s=round(ready_s, 1),
    )


def stand_in(symbol: str) -> Instrument:
    """Return an instrument for counting, without asking the venue what it calls ``symbol``."""
    base, quote, *_ = symbol.split("-")
    if market_kind(symbol) == "spot":
        return Instrument(symbol, f"{base}{quote}", base, quote)
    kind = "inverse" if quote == "USD" else "linear"
    return Instrument(symbol, symbol, base, quote, contract_size="1", contract_kind=kind)


def _streams(settings: Settings, partition: Partition) -> list[Kept]:
    keys = Keys(settings.redis.prefix, settings.redis.pubsub_prefix)
    streams = settings.streams
    size = f"{streams.retention_s:g} s, or {streams.retention_bytes / (1 << 20):g} MiB"
    return [
        Kept(keys.stream(partition, stream), *who, "10,000 entries" if stream in _MOST_ENTRIES else size)
        for stream, who in _ROLES.items()
    ]


def _print(made: Plan) -> None:
    columns = ("partition", "leg", "sockets", "symbols", "items", "ready in, s", "address")
    sockets = paper.table(
        "Connections",
        columns,
        (
            (
                *(row.partition, row.leg, str(row.connections), str(row.symbols), str(row.subscriptions)),
                *(f"{row.ready_s:g}", row.address),
            )
            for row in made.sockets
        ),
        right=columns[2:6],
    )
    first = made.sockets[0].partition
    of_first = (kept for kept in made.streams if f"{{{first}}}" in kept.key)
    streams = paper.table(
        f"Streams of {first}, and the same of every other partition",
        ("key", "written by", "read by", "keeps"),
        ((kept.key, kept.written_by, kept.read_by, kept.keeps) for kept in of_first),
    )
    ports = paper.table("Ports", ("what", "where"), made.ports.items())
    paper.show(sockets, streams, ports)
    paper.write(
        f"Redis: {made.redis}; all streams together hold {made.most_stream_bytes >> 20} MiB at most\n"
    )
    for name, rest in made.rest.items():
        paper.write(f"REST of {name}: {rest}\n")
    if made.forwards_to is not None:
        paper.write(f"Forwards to {made.forwards_to}\n")
