"""Venues and the master: name, TLS, handshake, REST, the clock, and whether the symbols are listed."""

import asyncio
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio

from actors.cli.health.finding import Finding, bad, ok, warn
from actors.cli.markets import Unlisted, listing
from actors.cli.plan import stand_in
from actors.config import VenueSettings
from actors.config.words import nearest
from actors.connector.planning import endpoints_of, plan
from actors.connector.rest import MOST_BYTES, ask, is_loopback, session_to
from actors.connector.sockets import Refused, address, dial
from actors.venues import VENUES
from actors.venues.base import Venue

_STEP_S: Final = 10.0
_MOST_FRAME: Final = 4 << 20
_SKEW_S: Final = 2.0  # the header has whole seconds
_DAYS: Final = 14
_REMEDIES: Final[Mapping[int, str]] = {
    403: "the venue refuses this address: use another egress, or a proxy (HTTPS_PROXY)",
    418: "this address is banned for asking too often: wait, and ask less (one egress name a host)",
    429: "asked too often: wait, and see that nothing else on this address asks",
    451: "the venue does not serve this region: use another egress, or a proxy (HTTPS_PROXY)",
}
_LOCAL: Final = "start what serves it (tapeline demo, or tapeline simulate), or correct the URL"
_AWAY: Final = "check the network, the firewall and the URL; HTTPS_PROXY names a proxy"


class _Trouble(Exception):
    """A step failed; nothing after it is tried."""

    def __init__(self, says: str, remedy: str) -> None:
        super().__init__(says)
        self.remedy = remedy


async def examine_venue(name: str, wanted: VenueSettings, found: list[Finding]) -> None:
    """Add what is found about one venue."""
    venue = VENUES[name]
    endpoints = endpoints_of(venue, wanted)
    connections = plan(venue, endpoints, wanted, [stand_in(symbol) for symbol in wanted.symbols])
    urls = {_short(connection.url): connection.url for connection in connections}  # one of each route
    if not urls:
        found.append(ok(name, "no socket is to be opened: all that is wanted is asked for by REST"))
    for url in urls.values():
        try:
            await _socket(name, await _address(venue, url, endpoints.rest), found)
        except _Trouble as e:
            found.append(bad(name, str(e), e.remedy))
    await _rest(name, wanted, endpoints.rest, found)


async def examine_master(url: str, found: list[Finding]) -> None:
    """Add what is found about the master that is forwarded to."""
    try:
        await _socket("master", url, found)
    except _Trouble as e:
        found.append(bad("master", str(e), e.remedy))


async def _address(venue: Venue, planned: str, rest: str) -> str:
    """Return what to dial, as the connector learns it."""
    if venue.handshake is None:
        return planned
    request = venue.handshake.request
    async with session_to(rest) as session:
        reply, _ = await ask(session, rest + request.path, MOST_BYTES, post=request.post)
    try:
        return address(venue.handshake, planned, reply, "doctor")
    except Refused as e:
        remedy = _REMEDIES.get(reply.status, _LOCAL if is_loopback(rest) else _AWAY)
        raise _Trouble(f"{rest}{request.path}: {e}", remedy) from e


async def _socket(about: str, url: str, found: list[Finding]) -> None:
    """Resolve, connect, shake hands."""
    split = urlsplit(url)
    host, secure = split.hostname or "", split.scheme == "wss"
    port = split.port or (443 if secure else 80)
    where = f"{split.scheme}://{split.netloc}{split.path}"
    steps: list[str] = []
    proxy = None if is_loopback(url) else proxy_of(host, secure=secure)
    if proxy is not None:
        steps.append(f"through the proxy {proxy}")
    else:
        steps.append(await _resolve(host, port))
        if secure:
            text, days = await _tls(host, port)
            steps.append(text)
            if days < _DAYS:
                found.append(warn(about, f"{host}'s certificate ends in {days:.0f} days", "theirs to renew"))
    steps.append(await _handshake(url))
    found.append(ok(about, f"{where}: {', '.join(steps)}"))


def proxy_of(host: str, *, secure: bool) -> str | None:
    """Return the proxy that the environment names for ``host``, without its password."""
    proxies = getproxies()
    names = ("wss", "socks", "https") if secure else ("ws", "socks", "https", "http")  # as sockets take them
    proxy = next((proxies[name] for name in names if name in proxies), None)
    if proxy is None or proxy_bypass(host):
        return None
    try:
        split = urlsplit(proxy)
        return f"{split.scheme}://{split.hostname}" + (f":{split.port}" if split.port else "")
    except ValueError:
        return "of the environment"  # whoever uses it says what is wrong with it


async def _resolve(host: str, port: int) -> str:
    began = time.monotonic()
    try:
        with anyio.fail_after(_STEP_S):
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as e:
        raise _Trouble(
            f"the name {host} is not resolved within {_STEP_S:g} s", "check DNS and the network"
        ) from e
    except OSError as e:
        why = (e.strerror or str(e)).lower()
        raise _Trouble(
            f"the name {host} cannot be resolved ({why})", "check DNS, the network and the URL"
        ) from e
    return f"name in {_ms(began)} ({found[0][4][0]})"


async def _tls(host: str, port: int) -> tuple[str, float]:
    """Return what to say and for how many days the certificate still holds."""
    began = time.monotonic()
    context = ssl.create_default_context()
    try:
        with anyio.fail_after(_STEP_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except TimeoutError as e:
        raise _Trouble(f"{host}:{port} does not answer within {_STEP_S:g} s", _AWAY) from e
    except ssl.SSLCertVerificationError as e:
        remedy = "check this machine's clock and certificates (ca-certificates), and who stands between"
        raise _Trouble(f"the certificate of {host} is not trusted: {e.verify_message}", remedy) from e
    except OSError as e:
        raise _Trouble(f"no TLS with {host}:{port}: {e.strerror or e}", _AWAY) from e
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = cast("dict[str, Any]", tls.getpeercert() or {})
    version = tls.version()
    writer.close()
    ends = (
        ssl.cert_time_to_seconds(str(certificate["notAfter"])) if "notAfter" in certificate else float("inf")
    )
    return f"{version} in {_ms(began)}", (ends - time.time()) / 86400


class _Deaf:
    """Takes what a venue says, and keeps nothing."""

    def opened(self) -> None:
        """Pass over that it is open."""

    def frame(self, data: bytes | bytearray, text: bool) -> None:
        """Pass over a frame."""

    def closed(self, code: int, reason: str, by_us: bool) -> None:
        """Pass over the end."""


async def _handshake(url: str) -> str:
    """Shake hands as the connector does, by the same proxy."""
    began = time.monotonic()
    away = _LOCAL if is_loopback(url) else _AWAY
    try:
        opened = await dial(url, _Deaf(), _MOST_FRAME)
    except Refused as e:
        if e.status is not None:
            remedy = _REMEDIES.get(e.status, _AWAY)
            raise _Trouble(f"{_short(url)} refuses the handshake: HTTP {e.status}", remedy) from e
        why = str(e)
        raise _Trouble(f"{_short(url)}: {why[:1].lower()}{why[1:]}", away) from e
    took = _ms(began)
    await opened.close()
    return f"handshake in {took}"


def _short(url: str) -> str:
    split = urlsplit(url)
    return f"{split.scheme}://{split.netloc}{split.path}"


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"


async def _rest(name: str, wanted: VenueSettings, rest: str, found: list[Finding]) -> None:
    """Ask for the list of instruments, as the connector does; look at the clock and for our symbols."""
    began = time.monotonic()
    try:
        rows = await listing(VENUES[name], rest)
    except Unlisted as e:
        status = next((code for code in _REMEDIES if f"HTTP {code}:" in str(e)), 0)
        remedy = _REMEDIES.get(status, _LOCAL if is_loopback(rest) else _AWAY)
        found.append(bad(name, str(e), remedy))
        return
    found.append(ok(name, f"{rest}: {len(rows)} symbols in {_ms(began)}"))
    symbols = {row.symbol for row in rows}
    for symbol in wanted.symbols:
        if symbol not in symbols:
            near = nearest(symbol, sorted(symbols))
            says = f"{symbol} is not listed{near}"
            found.append(bad(name, says, f"correct venues.{name}.symbols; tapeline symbols {name}"))
    await _clock(name, rest, found)


async def _clock(name: str, rest: str, found: list[Finding]) -> None:
    """Compare our clock with the venue's, by the Date of any answer of its."""
    timeout = aiohttp.ClientTimeout(total=_STEP_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=not is_loopback(rest)) as http:
            began = time.time()
            async with http.head(rest, allow_redirects=False) as answer:
                date = answer.headers.get("Date")
            middle = (began + time.time()) / 2
    except (aiohttp.ClientError, TimeoutError, OSError):
        return  # the list was had: only the clock stays unknown
    try:
        theirs_s = parsedate_to_datetime(date or "").timestamp() + 0.5  # the header is cut to seconds
    except (ValueError, OverflowError):  # none, or of no meaning
        return
    offset_s = theirs_s - middle
    says = f"{name}'s clock is {round(offset_s):+d} s from ours"
    skewed = abs(offset_s) > _SKEW_S
    found.append(
        Finding("clock", "warn" if skewed else "ok", says, "synchronise this machine's clock (chrony)")
    )
