"""What stands beside Redis: clients, sockets to the master, the master. Asked over HTTP on loopback."""

import socket
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from actors.config import Settings

_TIMEOUT_S: Final = 2.0
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Instance(msgspec.Struct, frozen=True):
    """One living process."""

    role: str
    instance: str
    host: str
    pid: int
    metrics: str | None


class Forwarding(msgspec.Struct, frozen=True):
    """The way to the master. ``sockets``: state -> how many; None: nobody here could be asked."""

    to: str
    protocol: str
    sockets: dict[str, int] | None
    unacked_seconds: float | None


class Master(msgspec.Struct, frozen=True):
    """The master that runs here. ``collectors``: dialect -> how many; ``streams``: how many."""

    address: str
    ok: bool
    reason: str
    collectors: dict[str, int] = {}
    streams: int = 0


class Beside(msgspec.Struct, frozen=True):
    """``clients``: dialect -> how many; None: no broadcaster here could be asked."""

    clients: dict[str, int] | None
    forwarding: Forwarding | None
    master: Master | None


Samples = list[tuple[str, dict[str, str], float]]


async def look(settings: Settings, instances: Sequence[Instance]) -> Beside:
    """Ask what runs on this host."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as http:
        clients = await _samples(http, instances, "broadcaster")
        forwarding = await _forwarding(http, settings, instances)
        master = await _master(http, settings) if settings.master.enabled else None
    by_dialect = None if clients is None else _sums(clients, "tapeline_clients", "dialect")
    return Beside(by_dialect, forwarding, master)


async def _forwarding(
    http: aiohttp.ClientSession, settings: Settings, instances: Sequence[Instance]
) -> Forwarding | None:
    forwarder = settings.forwarder
    if not forwarder.active:
        return None
    to = "standard output" if forwarder.demo else forwarder.url or ""
    found = await _samples(http, instances, "forwarder")
    if found is None or forwarder.demo:
        return Forwarding(to, forwarder.protocol, None, None)
    ages = [value for name, _, value in found if name == "tapeline_forward_unacked_seconds"]
    return Forwarding(
        to,
        forwarder.protocol,
        _sums(found, "tapeline_forward_connections", "state"),
        round(max(ages), 3) if ages else None,
    )


async def _samples(http: aiohttp.ClientSession, instances: Iterable[Instance], role: str) -> Samples | None:
    """Return what the instances of a role on this host measure; None where none answers."""
    found: Samples | None = None
    here = socket.gethostname()
    for instance in instances:
        if instance.role != role or instance.metrics is None or instance.host != here:
            continue  # it listens on its own host's loopback
        try:
            async with http.get(f"http://{instance.metrics}/metrics") as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            continue
        families = cast("Any", text_string_to_metric_families)(text)
        found = (found or []) + [
            (sample.name, sample.labels, sample.value) for of in families for sample in of.samples
        ]
    return found


def _sums(samples: Samples, name: str, label: str) -> dict[str, int]:
    sums: dict[str, int] = {}
    for sample, labels, value in samples:
        if sample == name:
            sums[labels[label]] = sums.get(labels[label], 0) + int(value)
    return sums


async def _master(http: aiohttp.ClientSession, settings: Settings) -> Master:
    master = settings.master
    address = f"{_ANY.get(master.host, master.host)}:{master.port}"
    scheme = "https" if master.tls_certificate else "http"
    try:
        # What it presents is its own matter: we ask ourselves.
        async with http.get(f"{scheme}://{address}/healthz", ssl=False) as answer:
            said: dict[str, Any] = msgspec.json.decode(await answer.read())
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as e:
        return Master(address, ok=False, reason=f"it does not answer ({type(e).__name__})")
    return Master(
        address,
        ok=bool(said.get("ok")),
        reason=str(said.get("reason") or ""),
        collectors=said.get("collectors", {}),
        streams=len(said.get("streams", ())),
    )
