"""Connections to Redis: one node, TLS, a unix socket, Sentinel or Cluster, and whether it will do.

The least an ACL user needs (prefix ``tl`` and ``md``)::

    ~tl:* &md.* -@all +eval +evalsha +script|load +xread +xrange +xrevrange +xadd +xtrim +xlen +hget
    +hgetall +hmget +hset +hsetnx +hdel +get +mget +set +del +time +ping +info +scan +hello +auth +select
    +client +publish +psubscribe +punsubscribe +subscribe +unsubscribe +pubsub

(Cluster: ``+cluster|slots +cluster|shards +cluster|nodes +command`` besides, Sentinel nothing more.)
"""

import asyncio
import os
import re
import secrets
import ssl
from collections.abc import Awaitable
from ssl import SSLContext
from typing import Any, Final, cast

import anyio
from redis import exceptions
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff

from actors.config import Settings
from actors.model.events import SCHEMA_VERSION
from actors.streams.errors import FAULTS, RedisUnusable, is_passing
from actors.streams.keys import Keys
from actors.streams.url import Target, parse, redis_url
from actors.streams.wire import Hot, Wire

BLOCK_S: Final = 1.0  # chosen: a dead socket is noticed within block + 2 s (see FAULTS R4)
TIMEOUT_S: Final = 2.0
_TIMEOUT_S: Final = BLOCK_S + TIMEOUT_S
_LEAST: Final = (6, 2)  # XTRIM MINID
_WAIT_S: Final = 10.0  # chosen: the embedded server starts together with the actors


def _settings_of_client(name: str | None, timeout_s: float) -> dict[str, Any]:
    # A retrying client behind a write duplicates it; what to do after an outage is decided by the caller.
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 3,
        "legacy_responses": False,
        "decode_responses": False,
        "client_name": name,
    }


def _sentinel(target: Target, name: str | None = None, timeout_s: float = _TIMEOUT_S) -> Sentinel:
    options = dict(target.options)
    own = {k.removeprefix("sentinel_"): options.pop(k) for k in list(options) if k.startswith("sentinel_")}
    common = _settings_of_client(name, timeout_s)
    return Sentinel(
        target.hosts, sentinel_kwargs={**common, **own}, **common, **options, **_tls_options(target)
    )


def _tls_options(target: Target) -> dict[str, Any]:
    return {"ssl": True} if target.tls else {}


async def server_ms(client: Redis) -> int:
    """Return the server's time."""
    seconds, micros = await cast("Any", client).time()
    return int(seconds) * 1000 + int(micros) // 1000


def make_client(target: Target, name: str | None = None, timeout_s: float = _TIMEOUT_S) -> Redis:
    """Return a client that has not connected yet. A cluster's has the same commands and is cast."""
    common = _settings_of_client(name, timeout_s)
    match target.kind:
        case "cluster":
            nodes = [ClusterNode(host, port) for host, port in target.hosts]
            options = {k: v for k, v in target.options.items() if k != "db"} | _tls_options(target)
            cluster = RedisCluster(startup_nodes=nodes, require_full_coverage=False, **common, **options)
            return cast("Redis", cluster)
        case "sentinel":
            assert target.master is not None  # noqa: S101 - parse saw to it
            master = cast("Any", _sentinel(target, name, timeout_s)).master_for(target.master)
            return cast("Redis", master)
        case "node":
            options = target.options | _tls_options(target)
            if "path" in options:
                return Redis(unix_socket_path=options.pop("path"), **common, **options)
            host, port = target.hosts[0]
            return Redis(host=host, port=port, **common, **options)


async def connect(
    settings: Settings,
    role: str,
    *,
    wait_s: float = _WAIT_S,
    claim: bool = True,
    timeout_s: float = _TIMEOUT_S,
) -> Redis:
    """Return a client of a Redis that will do.

    Args:
        settings: Which Redis, and what this process believes of mode and shards.
        role: Names the connection (CLIENT LIST).
        wait_s: How long to wait for a server that is not there or still loads.
        claim: Write ``tl:meta`` where nobody has; else only compare.
        timeout_s: How long an answer may take.

    Raises:
        RedisUnusable: Absent, refused, too old, it may evict, it keeps nothing, or it belongs to another
            configuration. The message has the remedy and no secret.
    """
    target = parse(redis_url(settings))
    keys = Keys(settings.redis.prefix, settings.redis.pubsub_prefix)
    deadline = anyio.current_time() + wait_s
    while True:
        client = make_client(target, f"tapeline-{role}", timeout_s)
        try:
            await _check_server(client, target)
            await _check_meta(client, settings, keys, claim)
        except RedisUnusable:
            await client.aclose()
            raise
        except FAULTS as e:
            await client.aclose()
            if not is_passing(e) or anyio.current_time() >= deadline:
                raise _unusable(e, target, settings) from e
            await anyio.sleep(0.1)
        except BaseException:
            await client.aclose()
            raise
        else:
            return client


def _unusable(error: Exception, target: Target, settings: Settings) -> RedisUnusable:
    shown, prefix = target.shown, settings.redis.prefix
    match error:
        case exceptions.BusyLoadingError():
            says = f"Redis at {shown} still loads its data: wait, then start again"
        case exceptions.AuthenticationError():
            says = (
                f"Redis at {shown} refuses the user or password: correct them in REDIS_URL "
                "(redis://user:password@host:port/0)"
            )
        case exceptions.NoPermissionError():
            says = (
                f"Redis at {shown} denies its user a command or key ({_first_line(error)}): grant it "
                "(ACL SETUSER; the list stands in actors/streams/client.py)"
            )
        case (
            exceptions.ConnectionError()
            | exceptions.TimeoutError()
            | exceptions.RedisClusterException()
            | OSError()
            | TimeoutError()
        ):
            remedy = (
                "start it, or correct REDIS_URL"
                if settings.redis.url is not None
                else "start it (honcho's redis line does), or set REDIS_URL"
            )
            says = f"no Redis answers at {shown} ({_why(error)}): {remedy}"
        case exceptions.InvalidResponse():
            says = f"what answers at {shown} is not Redis: correct REDIS_URL"
        case exceptions.ReadOnlyError():
            says = f"Redis at {shown} is a replica, which takes no writes: name its master, or a Sentinel"
        case exceptions.OutOfMemoryError():
            says = (
                f"Redis at {shown} is full, and takes no writes: raise its maxmemory, or lower "
                "streams.retention_bytes"
            )
        case exceptions.ResponseError() if str(error).startswith("WRONGTYPE"):
            says = f"Redis at {shown} has another program's data under {prefix}: set another redis.prefix"
        case _:
            says = f"Redis at {shown} refuses ({_first_line(error)}): correct REDIS_URL, or that server"
    return RedisUnusable(says)


def _why(error: BaseException) -> str:
    """Return the network's reason, without what the libraries wrap round it."""
    found: BaseException | None = error
    while found is not None and not _tells(found):
        found = found.__cause__ or found.__context__
    match found:
        case exceptions.TimeoutError() | TimeoutError(errno=None):
            says = f"no answer within {TIMEOUT_S:g} s"
        case MasterNotFoundError():
            says = "no Sentinel of it knows the master"
        case ssl.SSLCertVerificationError():
            says = f"its certificate: {found.verify_message}"
        case ssl.SSLError():
            says = "it does not speak TLS as we do"
        case OSError(errno=int(number)) if number > 0:
            says = os.strerror(number).lower()
        case OSError():  # a name that cannot be resolved has numbers of its own
            says = (found.strerror or type(found).__name__).lower()
        case _:
            says = _first_line(error).rstrip(".").lower()
    return says


def _tells(error: BaseException) -> bool:
    if isinstance(error, exceptions.TimeoutError | TimeoutError | MasterNotFoundError):
        return True
    return isinstance(error, OSError) and error.errno is not None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _all(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """INFO of one node as a list; of a cluster it comes as node -> INFO."""
    values = list(answer.values())
    return values if values and isinstance(values[0], dict) else [answer]


async def _info(client: Redis, section: str) -> list[dict[str, Any]]:
    if isinstance(client, RedisCluster):
        try:
            answer = await cast("Any", client).info(section, target_nodes=RedisCluster.PRIMARIES)
        except IndexError as e:  # redis-py, where no node owns a slot
            raise exceptions.ClusterDownError("no node of the cluster owns a slot") from e
        # One primary's answer comes bare, several come by node name.
        return [info for info in _all(answer) if info]
    return [await cast("Any", client).info(section)]


def _told(info: dict[str, Any], name: str, shown: str) -> str:
    value = info.get(name)
    if value is None:
        raise RedisUnusable(
            f"what answers at {shown} is no Redis that we know (its INFO has no {name}): correct REDIS_URL"
        )
    return str(value)


def _check_kind(info: dict[str, Any], target: Target) -> None:
    shown = target.shown
    version = _told(info, "redis_version", shown)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < _LEAST:
        raise RedisUnusable(f"Redis at {shown} is {version}: 6.2 or newer is needed, or any Valkey")
    mode = info.get("server_mode", info.get("redis_mode"))  # Valkey has another name for it since 8
    if mode == "cluster" and target.kind != "cluster":
        raise RedisUnusable(f"Redis at {shown} is a node of a cluster: write redis+cluster://host1,host2")
    if mode == "sentinel":
        raise RedisUnusable(
            f"what answers at {shown} is a Sentinel: write redis+sentinel://host1,host2/master with the name "
            "that it has for the master"
        )


async def _check_server(client: Redis, target: Target) -> None:
    shown = target.shown
    for info in await _info(client, "server"):
        _check_kind(info, target)
    for info in await _info(client, "memory"):
        policy = _told(info, "maxmemory_policy", shown)
        if policy != "noeviction":
            raise RedisUnusable(
                f"Redis at {shown} may evict keys (maxmemory-policy {policy}), streams and cursors "
                "among them: set maxmemory-policy noeviction"
            )
    for info in await _info(client, "persistence"):
        # While it loads it answers INFO, and says aof_enabled:0.
        if _told(info, "loading", shown) != "0":
            raise exceptions.BusyLoadingError(f"Redis at {shown} still loads its data")
        if _told(info, "aof_enabled", shown) == "0":
            raise RedisUnusable(
                f"Redis at {shown} keeps nothing over a restart (appendonly no): set appendonly yes, "
                "appendfsync everysec"
            )


async def _check_meta(client: Redis, settings: Settings, keys: Keys, claim: bool) -> None:
    """Claim or compare ``tl:meta``: schema version, mode, shards of every enabled venue."""
    ours = {"schema": str(SCHEMA_VERSION), "mode": settings.mode}
    ours |= {f"shards:{name}": str(v.shards) for name, v in settings.venues.items() if v.enabled}
    theirs = await _meta(client, keys)
    if claim:
        missing = [field for field in ours if field not in theirs]
        for field in missing:
            await client.hsetnx(keys.meta(), field, ours[field])
        if missing:
            theirs = await _meta(client, keys)
    for field, value in ours.items():
        if field in theirs and theirs[field] != value:
            raise RedisUnusable(_disagreement(field, value, theirs[field], settings.redis.prefix))


async def _meta(client: Redis, keys: Keys) -> dict[str, str]:
    raw = await cast("Awaitable[dict[bytes, bytes]]", client.hgetall(keys.meta()))
    return {field.decode(): value.decode() for field, value in raw.items()}


def _disagreement(field: str, ours: str, theirs: str, prefix: str) -> str:
    if field == "schema":
        return (
            f"the data under {prefix}: in Redis has schema version {theirs}, this program writes {ours}: "
            "run the version that wrote it, or set another redis.prefix"
        )
    name = "mode" if field == "mode" else f"venues.{field.removeprefix('shards:')}.shards"
    return (
        f"{name} is {ours} here, but the data under {prefix}: in Redis was written with {theirs}: set it "
        f"back to {theirs}, or set another redis.prefix"
    )


async def identity(client: Redis, keys: Keys) -> str:
    """Return the name of the data under this prefix: random, the same for ever, another once it is wiped."""
    await client.hsetnx(keys.meta(), "id", secrets.token_hex(8))
    return (await _meta(client, keys))["id"]


# ------------------------------------------------------------------------------------ hot connections


async def hot(settings: Settings, partition_key: str) -> Hot:
    """Return a connection to the node that owns ``partition_key``.

    Raises:
        redis.exceptions.RedisError, OSError: It cannot be had now.
    """
    connection = await cold(settings, partition_key)
    await connection.reconnect()
    return connection


async def cold(settings: Settings, partition_key: str) -> Hot:
    """Return the same, not dialled yet: ``reconnect`` does."""
    target = parse(redis_url(settings))

    async def dial() -> Wire:
        try:
            with anyio.fail_after(TIMEOUT_S):
                host, port = await _address(target, partition_key)
                return await _dial(target, host, port)
        except TimeoutError as e:
            raise exceptions.TimeoutError(f"no connection to Redis at {target.shown} in time") from e
        except OSError as e:
            raise exceptions.ConnectionError(f"no Redis answers at {target.shown}: {e.strerror}") from e
        except exceptions.RedisClusterException as e:
            raise exceptions.ConnectionError(f"the cluster at {target.shown} does not answer") from e

    return Hot(dial, TIMEOUT_S)


async def _address(target: Target, key: str) -> tuple[str, int]:
    """Return host and port of the node that owns ``key`` now."""
    match target.kind:
        case "node":
            return target.hosts[0] if target.hosts else ("", 0)
        case "sentinel":
            sentinel = _sentinel(target)
            try:
                host, port = cast(
                    "tuple[str, int]", await cast("Any", sentinel).discover_master(target.master)
                )
                return host, port
            finally:
                for one in sentinel.sentinels:
                    await one.aclose()
        case "cluster":
            cluster = cast("RedisCluster", make_client(target))
            try:
                await cluster.initialize()
                node = cluster.get_node_from_key(key)
                if node is None:
                    raise exceptions.ClusterDownError("no node of the cluster owns the slot")
                return str(node.host), int(node.port)
            finally:
                await cluster.aclose()


async def _dial(target: Target, host: str, port: int) -> Wire:
    loop = asyncio.get_running_loop()
    if "path" in target.options:
        _, wire = await loop.create_unix_connection(Wire, target.options["path"])
    else:
        tls = _context(target)
        name = host if tls is not None else None
        _, wire = await loop.create_connection(Wire, host, port, ssl=tls, server_hostname=name)
    options = target.options
    commands: list[tuple[str | bytes | int | float, ...]] = []
    if options.get("password"):
        user = (options["username"],) if options.get("username") else ()
        commands.append(("AUTH", *user, options["password"]))
    if options.get("db") and target.kind != "cluster":
        commands.append(("SELECT", options["db"]))
    if commands:
        try:
            for reply in wire.send(commands, TIMEOUT_S):
                await reply
        except BaseException:
            wire.drop(exceptions.ConnectionError("the login failed"))
            raise
    return wire


def _context(target: Target) -> SSLContext | None:
    if not target.tls:
        return None
    # redis-py knows how to make a context of its ssl_ options: one place that reads them.
    tls = {k: v for k, v in target.options.items() if k.startswith("ssl_")}
    return cast("SSLContext", cast("Any", SSLConnection(**tls)).ssl_context.get())
