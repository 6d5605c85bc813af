"""Redis: whether it answers, keeps what it is given, and has room."""

import time
from collections.abc import Mapping
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from actors.cli.health.finding import Finding, bad, ok, warn
from actors.cli.plan import make
from actors.config import ConfigError, Settings
from actors.runtime.embedded import find_server
from actors.streams.client import connect, server_ms
from actors.streams.errors import RedisUnusable
from actors.streams.url import parse, redis_url

_SLOW_MS: Final = 5.0  # chosen: two round trips a hop, three hops
_SKEW_MS: Final = 2_000
_ABOUT: Final = "redis"


async def examine(settings: Settings, found: list[Finding]) -> None:
    """Add what is found."""
    try:
        shown = parse(redis_url(settings)).shown
        client = await connect(settings, "doctor", wait_s=0, claim=False)
    except RedisUnusable as e:
        found.append(_absent(settings, e))
        return
    try:
        await _measure(client, shown, found)
        for info in await _infos(client):
            found += _judge(info, settings)
        found.append(await _fsync(client))
    except RedisError as e:
        found.append(bad(_ABOUT, f"{shown}: {str(e).partition(chr(10))[0]}", "grant its user INFO and TIME"))
    finally:
        await client.aclose()


def _absent(settings: Settings, error: RedisUnusable) -> Finding:
    says, _, remedy = str(error).rpartition(": ")
    if settings.redis.url is not None or not says.startswith("no Redis answers"):
        return bad(_ABOUT, says, remedy)
    try:
        binary = find_server()
    except ConfigError as e:
        return bad(_ABOUT, str(e), "install valkey-server or redis-server, or set REDIS_URL")
    return ok(_ABOUT, f"not running; tapeline up starts {binary} on port {settings.redis.port}")


async def _measure(client: Redis, shown: str, found: list[Finding]) -> None:
    took: list[float] = []
    offset_ms = 0.0
    for _ in range(5):
        began = time.time()
        theirs_ms = await server_ms(client)
        took.append((time.time() - began) * 1000)
        offset_ms = theirs_ms - (began * 1000 + took[-1] / 2)
    best = min(took)
    says = f"{shown} answers in {best:.1f} ms"
    remedy = "bring it nearer: every event waits for several answers"
    found.append(warn(_ABOUT, says, remedy) if best > _SLOW_MS else ok(_ABOUT, says))
    skewed = abs(offset_ms) > _SKEW_MS
    says = f"Redis' clock is {round(offset_ms):+d} ms from ours"
    found.append(
        Finding(
            "clock", "warn" if skewed else "ok", says, "synchronise both clocks (chrony, systemd-timesyncd)"
        )
    )


async def _infos(client: Redis) -> list[dict[str, Any]]:
    """Return INFO of every node that holds data."""
    answer: dict[str, Any] = await cast("Any", client).info()
    values = list(answer.values())
    return [cast("dict[str, Any]", v) for v in values] if values and isinstance(values[0], dict) else [answer]


def _judge(info: Mapping[str, Any], settings: Settings) -> list[Finding]:
    name = "valkey" if "valkey_version" in info else "redis"
    version = info.get("valkey_version", info["redis_version"])
    policy, clients = info["maxmemory_policy"], info["connected_clients"]
    found = [ok(_ABOUT, f"{name} {version}, policy {policy}, AOF on, {clients} clients")]
    if info.get("role") == "slave":
        found.append(bad(_ABOUT, "it is a replica, which takes no writes", "name its master, or a Sentinel"))
    if info.get("aof_last_write_status", "ok") != "ok":
        found.append(bad(_ABOUT, "its last write to the AOF failed", "make room on its disk"))
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        found.append(warn(_ABOUT, "its last AOF rewrite failed", "give it memory and disk; see its log"))
    return [*found, _memory(info, settings)]


def _memory(info: Mapping[str, Any], settings: Settings) -> Finding:
    """Judge whether the streams fit: it refuses writes when they do not."""
    used, most = int(info["used_memory"]), int(info.get("maxmemory", 0))
    room = most or int(info.get("total_system_memory", 0))
    streams = make(settings, 0).most_stream_bytes
    says = (
        f"it uses {used >> 20} MiB of {'any' if not room else f'{room >> 20} MiB'}; our streams hold up to "
        f"{streams >> 20} MiB"
    )
    if room and streams > room:
        remedy = "lower streams.retention_bytes" + (", or raise its maxmemory" if most else "")
        return warn("memory", says, remedy)
    if most and used > 0.9 * most:
        return bad("memory", says, "raise its maxmemory: when it is full it takes no writes")
    return ok("memory", says)


async def _fsync(client: Redis) -> Finding:
    try:
        answer: dict[Any, Any] = await cast("Any", client).config_get("appendfsync")
    except RedisError:
        return ok(_ABOUT, "appendfsync is not ours to ask (CONFIG is denied); everysec is meant")
    value = next((v.decode() if isinstance(v, bytes) else str(v) for v in answer.values()), "everysec")
    if value == "no":
        says = "appendfsync no: the kernel decides what survives a crash of the machine"
        return warn(_ABOUT, says, "set appendfsync everysec")
    return ok(_ABOUT, f"appendfsync {value}")
