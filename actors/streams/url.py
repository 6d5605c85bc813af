"""A ``REDIS_URL`` taken apart: one node, TLS, a unix socket, Sentinel or Cluster."""

import re
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url

from actors.config import Settings
from actors.streams.errors import RedisUnusable

_Kind = Literal["node", "sentinel", "cluster"]

_LOGIN: Final = frozenset({"db", "username", "password"})
_TLS: Final = frozenset({
    "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname",
    "ssl_ciphers", "ssl_keyfile", "ssl_min_version", "ssl_password",
})  # fmt: skip
_OF_SENTINEL: Final = frozenset(f"sentinel_{name}" for name in {"username", "password", "ssl"} | _TLS)
_NOT_OF_CLUSTER: Final = frozenset({"ssl_ca_path", "ssl_password"})  # its client takes none


class Target(NamedTuple):
    """A ``REDIS_URL`` taken apart. ``options`` are redis-py's (password, db, TLS): never show them."""

    kind: _Kind
    hosts: list[tuple[str, int]]  # empty for a unix socket
    master: str | None
    options: dict[str, Any]
    tls: bool
    shown: str  # the URL without its secret


def redis_url(settings: Settings) -> str:
    """Return the URL to connect to: the configured one, else the embedded server's."""
    if settings.redis.url is not None:
        return settings.redis.url.get_secret_value()
    return f"redis://127.0.0.1:{settings.redis.port}/0"


def parse(url: str) -> Target:
    """Take a URL apart.

    Raises:
        RedisUnusable: It is none of ``redis:// rediss:// unix:// redis+sentinel:// redis+cluster://``
            (``rediss+…`` for TLS), or asks for what is not its to say.
    """
    shown = re.sub(r"(?<=://)[^/]*@", "", url).partition("?")[0]
    scheme, _, rest = url.partition("://")
    transport, _, kind = scheme.partition("+")
    try:
        if not kind:
            options = cast("dict[str, Any]", dict(parse_url(url)))
            tls = options.pop("connection_class", None) is SSLConnection
            unix = scheme == "unix"
            if not unix:  # the library takes database 0 for what is no number
                int(urlsplit(url).path.strip("/") or 0)
            host, port = options.pop("host", "localhost"), options.pop("port", 6379)
            _check_options([name for name in options if not (unix and name == "path")], "node", tls, shown)
            return Target("node", [] if unix else [(host, port)], None, options, tls, shown)
        if transport in {"redis", "rediss"} and kind in {"sentinel", "cluster"}:
            several = _several(transport == "rediss", cast("_Kind", kind), rest, shown)
            _check_options([*several.options], several.kind, several.tls, shown)
            return several
    except ValueError as e:
        # The text of a ValueError may quote the URL; its type and the URL without its secret say enough.
        raise RedisUnusable(f"the Redis URL {shown} cannot be read: check its hosts, ports and path") from e
    raise RedisUnusable(
        f"the Redis URL {shown} must begin with redis://, rediss://, unix://, redis+sentinel:// or "
        "redis+cluster://: correct REDIS_URL"
    )


def _check_options(options: Sequence[str], kind: _Kind, tls: bool, shown: str) -> None:
    """Say which word of the query the client would trip over, or turn against us.

    Raises:
        RedisUnusable: There is one.
    """
    known = _LOGIN | _TLS if tls else _LOGIN
    if kind == "sentinel":
        known |= _OF_SENTINEL
    elif kind == "cluster":
        known -= _NOT_OF_CLUSTER
    for name in options:
        if name in _TLS and not tls:
            raise RedisUnusable(f"the Redis URL {shown} has {name} and no TLS: write rediss, or leave it out")
        if name not in known:
            raise RedisUnusable(
                f"the Redis URL {shown} may not have the option {name[:40]!r}: leave it out "
                f"({', '.join(sorted(known))})"
            )


def _several(tls: bool, kind: _Kind, rest: str, shown: str) -> Target:
    credentials, _, place = rest.rpartition("@")
    where = urlsplit("//" + place.replace(",", "%2C"))
    hosts: list[tuple[str, int]] = []
    for host in unquote(where.netloc).split(","):
        split = urlsplit("//" + host)
        if not split.hostname:
            raise ValueError("a host is missing")
        hosts.append((split.hostname, split.port or (26379 if kind == "sentinel" else 6379)))
    user, _, password = credentials.partition(":")
    # parse_url turns the query's words into redis-py's options, with their types.
    options = cast("dict[str, Any]", dict(parse_url(f"redis://h?{where.query}")))
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    options |= {k: v for k, v in parse_qsl(where.query) if k.startswith("sentinel_")}
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    path = [part for part in where.path.split("/") if part]
    master = None
    if kind == "sentinel":
        if not path:
            raise ValueError("the name of the master is missing")
        master = path.pop(0)
    if path:
        options["db"] = int(path[0])
    return Target(kind, hosts, master, options, tls, shown)
