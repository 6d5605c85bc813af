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
_LEAST_AUDIT_S: Final = 10  # chosen: so long is looked ahead before each
_SYMBOL: Final = re.compile(r"[^\s/-]+-[^\s/-]+(-(PERP|\d{6}))?")  # Binance lists non-ASCII assets too

_SWAP: Final = re.compile(r"([^\s/_-]+)[-_]([^\s/_-]+)[-_](?:SWAP|PERPETUAL|PERP)")  # as others write it


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

    yield from _judge_simulator(tree.get("simulator"), sorted(VENUES))
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
                    book = channel == "l1" and "book" in venue.channels
                    derived = "; its l1 is the top of its book: name book" if book else ""
                    yield Problem(
                        ("venues", name, key), f'{name} has no channel "{channel}" ({has}){derived}'
                    )
        audit_s: object = table.get("audit_s")
        if isinstance(audit_s, int) and 0 < audit_s < _LEAST_AUDIT_S:
            says = f"must be at least {_LEAST_AUDIT_S}, or 0 for never, not {audit_s}"
            yield Problem(("venues", name, "audit_s"), says)
        if venue.audit is None and audit_s is not None:
            proof = venue.book_rule.verified
            why = "each frame is a whole book" if proof == "none" else f"they are proved by their {proof}"
            yield Problem(("venues", name, "audit_s"), f"books of {name} are not audited: {why}")
        symbols: object = table.get("symbols")
        yield from _judge_symbols(
            name, venue.markets, cast("list[object]", symbols) if isinstance(symbols, list) else []
        )


def _judge_simulator(table: object, known: list[str]) -> Iterator[Problem]:
    named: object = cast("dict[str, object]", table).get("venues") if isinstance(table, dict) else None
    for name in cast("list[object]", named) if isinstance(named, list) else ():
        if isinstance(name, str) and name not in known:
            says = f'no such venue as "{name}"{nearest(name, known)} ({", ".join(known)})'
            yield Problem(("simulator", "venues"), says)


def _judge_symbols(name: str, markets: Collection[str], symbols: list[object]) -> Iterator[Problem]:
    path = ("venues", name, "symbols")
    seen: set[str] = set()
    for given in symbols:
        if not isinstance(given, str):
            continue  # pydantic says so
        symbol = canonical(given)
        if not _SYMBOL.fullmatch(symbol):
            swap = _SWAP.fullmatch(symbol)
            write = f"BASE-QUOTE, such as {'BTC-USDT' if swap is None else f'{swap[1]}-{swap[2]}-PERP'}"
            yield Problem(path, f'"{given}" is no symbol: write {write}')
        elif market_kind(symbol) not in markets:
            kinds = " or ".join(sorted(markets))
            pair = "-".join(symbol.split("-")[:2])
            write = pair if "spot" in markets else f"{pair}-PERP"
            says = f'"{symbol}" is no {kinds} symbol, and {name} is a {kinds} venue: write {write}'
            yield Problem(path, says)
        elif symbol in seen:
            yield Problem(path, f'"{symbol}" is named twice')
        seen.add(symbol)


def judge(settings: Settings) -> Iterator[Problem]:
    """Yield what no single key shows."""
    enabled = {name: venue for name, venue in settings.venues.items() if venue.enabled}
    if not enabled and not settings.master.enabled:
        yield Problem(("venues",), "no venue is enabled: there is nothing to do")
    for name, venue in enabled.items():
        if settings.mode == "demo":
            yield from _judge_simulated(name, venue)
        yield from _judge_only(name, venue)
        yield from _judge_wanted(name, venue)
    yield from _judge_ports(settings)
    yield from _judge_forwarder(settings)
    if settings.master.enabled and not settings.master_keys():
        yield Problem(("master",), "needs keys: set keys_file (one a line), or TAPELINE_MASTER__KEYS")
    if (settings.master.tls_certificate is None) != (settings.master.tls_key is None):
        yield Problem(("master",), "tls_certificate and tls_key go together")
    if (settings.broadcaster.tls_certificate is None) != (settings.broadcaster.tls_key is None):
        yield Problem(("broadcaster",), "tls_certificate and tls_key go together")
    if settings.redis.url is not None:
        yield from _judge_redis(settings.redis.url.get_secret_value())


def _judge_redis(url: str) -> Iterator[Problem]:
    """Yield what is wrong with a URL that is a secret."""
    path = ("redis", "url")
    scheme = url.partition("://")[0]
    if scheme not in _REDIS_SCHEMES:
        schemes = ", ".join(f"{known}://" for known in _REDIS_SCHEMES)
        yield Problem(path, f"(or REDIS_URL) must begin with one of {schemes}")
        return
    try:
        split = urlsplit(url)
        port = None if "+" in scheme else split.port  # the others name several hosts
    except ValueError:
        port = 0
    if port == 0:
        yield Problem(path, "(or REDIS_URL) has a host or a port that cannot be: write redis://host:port/0")


def _judge_simulated(name: str, venue: VenueSettings) -> Iterator[Problem]:
    if venue.ws_url is None or venue.rest_url is None:
        says = "needs ws_url and rest_url in a demo, so that simulated and real data never meet"
        yield Problem(("venues", name), says)
    for key, url in (("ws_url", venue.ws_url), ("rest_url", venue.rest_url)):
        if url is not None and not is_loopback(url):
            yield _strange(("venues", name, key), url, "takes simulated venues on 127.0.0.1 only")


def _strange(path: tuple[str, ...], url: str, only: str) -> Problem:
    host = urlsplit(url).hostname
    says = f'"{host}" is not this machine: a demo {only}, so that simulated and real data never meet'
    return Problem(path, says)


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


def _judge_wanted(name: str, venue: VenueSettings) -> Iterator[Problem]:
    """Yield that nothing comes of what is wanted: spot pairs have no channels of contracts."""
    from actors.venues import VENUES  # noqa: PLC0415 - decoders are built at import
    from actors.venues.base import items_of  # noqa: PLC0415

    symbols = [symbol for symbol in venue.symbols if _SYMBOL.fullmatch(symbol)]
    if name not in VENUES or not symbols:
        return
    groups = venue.wanted(VENUES[name].channels, symbols)
    if groups and not any(items_of(of, channels) for channels, of in groups.items()):
        wanted = ", ".join(sorted({channel for channels in groups for channel in channels}))
        spot = ", ".join(channel for channel, _ in items_of(["BASE-QUOTE"], sorted(VENUES[name].channels)))
        path = ("venues", name, "only" if venue.channels is None else "channels")
        yield Problem(path, f"a spot symbol has no {wanted}: name one of {spot}, or a -PERP symbol")


def _judge_forwarder(settings: Settings) -> Iterator[Problem]:
    forwarder = settings.forwarder
    if forwarder.active and not forwarder.demo:
        if not settings.forwarder_key():
            yield Problem(("forwarder",), "needs a key: set key_file, or TAPELINE_FORWARDER__KEY")
        url = forwarder.url or ""
        if settings.mode == "demo" and not is_loopback(url):
            yield _strange(("forwarder", "url"), url, "forwards to 127.0.0.1 only")
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
