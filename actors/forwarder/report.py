"""The ten-second ``[METRICS]`` line of FTSOBest's collector, for those who watch its standard output.

What the venues' side has done stands in the connectors' and normalizers' own metrics: they are asked for
them, each at the address it has registered, which is one of its own host. What cannot be had counts as 0.
"""

import urllib.request
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException
from typing import Any, Final, cast

import anyio
import msgspec
import structlog
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from actors.config import ForwardVenueSettings, Settings
from actors.dialects.ftsobest import METRICS_S, Counters, metrics_line
from actors.model.events import Channel
from actors.runtime.lifecycle import Actor
from actors.streams.client import connect, server_ms
from actors.streams.errors import FAULTS, is_passing

log: Any = structlog.get_logger()

_ASKED: Final = ("connector", "normalizer")
_TIMEOUT_S: Final = 2.0
_open: Final = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # our own hosts: no proxy


async def print_metrics(actor: Actor, write: Callable[[str], object], every_s: float = METRICS_S) -> None:
    """Write the line every ten seconds until cancelled."""
    client = await connect(actor.settings, actor.role)
    try:
        while True:
            await anyio.sleep(every_s)
            sums = Sums(actor.metrics.registry.collect())
            for address in await _addresses(actor, client):
                sums.add(await anyio.to_thread.run_sync(_ask, address))
            write(metrics_line(counters(actor.settings, sums)) + "\n")
    finally:
        with anyio.CancelScope(shield=True):
            await client.aclose()


async def _addresses(actor: Actor, client: Redis) -> list[str]:
    found: list[str] = []
    try:
        now = await server_ms(client)
        for role in _ASKED:
            members = await cast("Any", client).hgetall(actor.keys.members(role))
            for text in cast("dict[bytes, bytes]", members).values():
                member = msgspec.json.decode(text)
                if member["until"] > now and member["metrics"]:
                    found.append(str(member["metrics"]))
    except FAULTS as e:
        if not is_passing(e):
            raise
    return found


def _ask(address: str) -> list[Metric]:
    try:
        with _open(f"http://{address}/metrics", timeout=_TIMEOUT_S) as answer:
            return [*text_string_to_metric_families(answer.read().decode())]
    except (OSError, ValueError, HTTPException) as e:  # the last: it was killed in the midst of its answer
        log.debug("metrics_not_had", address=address, reason=str(e))
        return []


class Sums:
    """Samples of several processes, added up by name; of some labels also by their value."""

    def __init__(self, families: Iterable[Metric] = ()) -> None:
        self._samples: list[tuple[str, dict[str, str], float]] = []
        self.add(families)

    def add(self, families: Iterable[Metric]) -> None:
        """Take another process' metrics in."""
        self._samples += [
            (sample.name, dict(sample.labels), sample.value)
            for family in families
            for sample in family.samples
            if sample.name.startswith("tapeline_")
        ]

    def _of(self, name: str, labels: dict[str, str]) -> Iterator[tuple[dict[str, str], float]]:
        for found, given, value in self._samples:
            if found == name and labels.items() <= given.items():
                yield given, value

    def total(self, name: str, **labels: str) -> int:
        """Return the sum of a metric over all labels but the ones given."""
        return int(sum(value for _, value in self._of(name, labels)))

    def up(self, name: str, label: str) -> int:
        """Return how many values of ``label`` have a sample above zero."""
        return len({given[label] for given, value in self._of(name, {}) if value > 0})


def counters(settings: Settings, sums: Sums) -> Counters:
    """Return what the line says: of the venues what connectors and normalizers say, of the master our own."""
    return Counters(
        ex=sums.up("tapeline_venue_up", "venue"),
        ws=sums.total("tapeline_connections"),
        tp=_pairs(settings, "trade"),
        ob=_pairs(settings, "book"),
        recv=sums.total("tapeline_frames_total"),
        sent=sums.total("tapeline_forward_sent_total"),
        dropped=sums.total("tapeline_forward_lost_total")
        + sums.total("tapeline_trimmed_unread_total", role="forwarder"),
        parse_err=sums.total("tapeline_unparseable_total"),
        send_err=sums.total("tapeline_forward_reconnects_total"),
        reconnects=sums.total("tapeline_reconnects_total"),
        sub_send=sums.total("tapeline_subscriptions"),
        sub_send_err=sums.total("tapeline_subscriptions", state="refused"),
    )


def _pairs(settings: Settings, channel: Channel) -> int:
    """Return of how many symbols a channel is forwarded."""
    total = 0
    for name, venue in settings.venues.items():
        if venue.enabled:
            own = settings.forwarder.venues.get(name, ForwardVenueSettings())
            chosen = own.trades if channel == "trade" else own.books
            symbols = venue.symbols if chosen is None else chosen
            total += sum(venue.wants(channel, symbol) for symbol in symbols)
    return total
