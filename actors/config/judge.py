"""What is wrong with a configuration beyond the types of its values."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Final, cast, get_args
from urllib.parse import urlsplit

from actors.config.settings import Settings, VenueSettings
from actors.config.words import Problem, nearest
from actors.model.events import Channel
from actors.model.instruments import canonical, market_kind

_REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
_SYMBOL: Final = re.compile(r"[^\s/-]+-[^\s/-]+(-(PERP|\d{6}))?")  # Binance lists non-ASCII assets too


def is_loopback(url: str) -> bool:
    """Tell whether ``url`` leads to this host: no proxy stands between."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def venue_tables(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the venue tables that are tables."""
    venues: object = tree.get("venues")
    if not isinstance(venues, dict):
        return {}
    tables = cast("dict[str, object]", venues)
    return {name: cast("dict[str, Any]", table) for name, table in tables.items() if isinstance(table, dict)}


def judge_venues(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with venues' names, channels and symbols, whatever else is."""
    from actors.venues import VENUES  # noqa: PLC0415 - decoders are built at import; only checking needs them

    for name, table in venue_tables(tree).items():
        venue = VENUES.get(name)
        if venue is None:
            known = sorted(VENUES)
            yield Problem(("venues", name), f"no such venue{nearest(name, known)} ({', '.join(known)})")
            continue
        for key in ("channels", "only"):
            channels: object = table.get(key)
            for channel in cast("Iterable[object]", channels) if isinstance(channels, list | dict) else ():
                if (
                    isinstance(channel, str)
                    and channel in get_args(Channel)
                    and channel not in venue.channels
                ):
                    has = ", ".join(sorted(venue.channels))
                    yield Problem(("venues", name, key), f'{name} has no channel "{channel}" ({has})')
        symbols: object = table.get("symbols")
        yield from _judge_symbols(
            name, venue.markets, cast("list[object]", symbols) if isinstance(symbols, list) else []
        )


def _judge_symbols(name: str, markets: Collection[str], symbols: list[object]) -> Iterator[Problem]:
    path = ("venues", name, "symbols")
    seen: set[str] = set()
    for given in symbols:
        if not isinstance(given, str):
            continue  # pydantic says so
        symbol = canonical(given)
        if not _SYMBOL.fullmatch(symbol):
            yield Problem(path, f'"{given}" is no symbol: write BASE-QUOTE, such as BTC-USDT')
        elif market_kind(symbol) not in markets:
            kinds = " or ".join(sorted(markets))
            yield Problem(path, f'"{symbol}" is no {kinds} symbol, and {name} is a {kinds} venue')
        elif symbol in seen:
            yield Problem(path, f'"{symbol}" is named twice')
        seen.add(symbol)


def judge(settings: Settings) -> Iterator[Problem]:
    """Yield what no single key shows."""
    enabled = {name: venue for name, venue in settings.venues.items() if venue.enabled}
    if not enabled and not settings.master.enabled:
        yield Problem(("venues",), "no venue is enabled: there is nothing to do")
    for name, venue in enabled.items():
        if settings.mode == "demo" and (venue.ws_url is None or venue.rest_url is None):
            yield Problem(
                ("venues", name),
                "needs ws_url and rest_url in a demo, so that simulated and real data never meet",
            )
        yield from _judge_only(name, venue)
    yield from _judge_ports(settings)
    yield from _judge_forwarder(settings)
    if settings.master.enabled and not settings.master_keys():
        yield Problem(("master",), "needs keys: set keys_file (one a line), or TAPELINE_MASTER__KEYS")
    if (settings.master.tls_certificate is None) != (settings.master.tls_key is None):
        yield Problem(("master",), "tls_certificate and tls_key go together")
    if (settings.broadcaster.tls_certificate is None) != (settings.broadcaster.tls_key is None):
        yield Problem(("broadcaster",), "tls_certificate and tls_key go together")
    if settings.redis.url is not None:
        scheme = settings.redis.url.get_secret_value().partition("://")[0]
        if scheme not in _REDIS_SCHEMES:
            schemes = ", ".join(f"{known}://" for known in _REDIS_SCHEMES)
            yield Problem(("redis", "url"), f"(or REDIS_URL) must begin with one of {schemes}")


def _judge_only(name: str, venue: VenueSettings) -> Iterator[Problem]:
    for channel, symbols in venue.only.items():
        path = ("venues", name, "only", channel)
        if venue.channels is not None and channel not in venue.channels:
            named = ", ".join(venue.channels)
            yield Problem(path, f"{channel} is not among venues.{name}.channels ({named}): name it there too")
        for symbol in symbols:
            if symbol not in venue.symbols:
                near = nearest(symbol, venue.symbols)
                yield Problem(path, f'"{symbol}" is not among venues.{name}.symbols{near}')
    if not venue.wanted(venue.channels or get_args(Channel), venue.symbols):
        yield Problem(("venues", name, "only"), "leaves no symbol with any channel: set enabled = false")


def _judge_forwarder(settings: Settings) -> Iterator[Problem]:
    forwarder = settings.forwarder
    if forwarder.active and not forwarder.demo:
        if not settings.forwarder_key():
            yield Problem(("forwarder",), "needs a key: set key_file, or TAPELINE_FORWARDER__KEY")
        url = forwarder.url or ""
        if settings.mode == "demo" and not is_loopback(url):
            yield Problem(
                ("forwarder", "url"),
                f'"{urlsplit(url).hostname}" is not this machine: a demo forwards to 127.0.0.1 only, so that '
                "simulated and real data never meet",
            )
    for name, wanted in forwarder.venues.items():
        venue = settings.venues.get(name)
        if venue is None:
            known = [*settings.venues]
            near = nearest(name, known)
            yield Problem(
                ("forwarder", "venues", name), f"no such venue is configured{near} ({', '.join(known)})"
            )
            continue
        for what in ("trades", "books", "tickers"):
            for symbol in getattr(wanted, what) or ():
                if symbol not in venue.symbols:
                    yield Problem(
                        ("forwarder", "venues", name, what),
                        f'"{symbol}" is not among venues.{name}.symbols{nearest(symbol, venue.symbols)}',
                    )


def _judge_ports(settings: Settings) -> Iterator[Problem]:
    ports = {"broadcaster": settings.broadcaster.port}
    if settings.redis.url is None:
        ports["redis"] = settings.redis.port
    if settings.master.enabled:
        ports["master"] = settings.master.port
    if settings.mode == "demo":
        ports["simulator"] = settings.simulator.port
    taken: dict[int, str] = {}
    for section, port in ports.items():
        if port in taken and port != 0:
            yield Problem((section, "port"), f"{port} is {taken[port]}.port too")
        taken[port] = section
