"""REST requests to one venue: within its budget, bounded in time and size, never in a tight loop."""

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, NamedTuple

import aiohttp
from aiohttp import ClientSession, ClientTimeout

from actors.config.judge import is_loopback
from actors.runtime.metrics import Metrics
from actors.streams.limit import Limit
from actors.venues.base import Answer, Endpoints, Limits, Request, Venue

USER_AGENT: Final = "tapeline"
TIMEOUT_S: Final = 10.0  # FAULTS V19
MOST_BYTES: Final = 8 * 1024 * 1024  # chosen: a whole book of Coinbase is some 5 MB
MOST_LISTING_BYTES: Final = 64 * 1024 * 1024  # chosen: Binance lists its instruments in some 10 MB
_MOST_COMPLAINT: Final = 2000  # characters kept of an answer that is no answer: 403 brings whole pages
_MOST_WAIT_S: Final = 3 * 86400.0  # documented: the longest ban (Binance)
# Statuses that say "stop asking", and how long where neither the answer nor the venue says. 418: the
# address is banned (Binance); 412: too much was asked (Bitrue).
_BARRING: Final[Mapping[int, float]] = {429: 15.0, 412: 15.0, 418: 120.0, 403: 60.0}
_OF_THE_ADDRESS: Final = (418, 403)  # not the pace, nor the service that was asked, is what they refuse


class Reply(NamedTuple):
    """What came back. ``status`` 0: nothing did, and ``body`` says why.

    ``reached``: somebody took the connection, so that the venue may have counted the request.
    """

    status: int
    body: bytes
    reached: bool = True

    @property
    def text(self) -> str:
        """The body as text; what is no UTF-8 is marked, and then fails to decode."""
        return self.body.decode("utf-8", "replace")


def answer_to(question: Request, reply: Reply, id_: str | None = None, conn: str | None = None) -> Answer:
    """Return what ``raw`` keeps of a reply: of an error only as much as a person reads."""
    body = reply.text if reply.status == 200 else reply.text[:_MOST_COMPLAINT]
    return Answer(question, reply.status, body, id_, conn)


def retry_after(text: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, None where there is none to read."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, seconds), _MOST_WAIT_S) if seconds == seconds else None  # noqa: PLR0124 - not NaN


def bar_s(status: int | None, wait_s: float | None, limits: Limits) -> float | None:
    """Return how long this status forbids to ask again, None when it does not."""
    if status is None or (status not in _BARRING and wait_s is None):
        return None
    if wait_s is not None:
        return wait_s
    return limits.forbidden_s if status == HTTPStatus.FORBIDDEN else _BARRING[status]


def session_to(url: str) -> ClientSession:
    """Return a session for requests to ``url``; inside a running event loop only."""
    return ClientSession(
        timeout=ClientTimeout(total=TIMEOUT_S),
        headers={"User-Agent": USER_AGENT},
        trust_env=not is_loopback(url),
        auto_decompress=True,
    )


class Rest:
    """The way to one venue's REST interface. ``open`` it once for the process, ``aclose`` at the end.

    Attributes:
        weight_per_minute: The venue's budget: as it is documented, or as the venue has granted it since.
    """

    def __init__(self, venue: Venue, endpoints: Endpoints, limit: Limit, metrics: Metrics) -> None:
        self._venue = venue
        self._base = endpoints.rest
        self._limit = limit
        self._metrics = metrics
        self._session = session_to(endpoints.rest)
        self.weight_per_minute = venue.limits.weight_per_minute

    async def aclose(self) -> None:
        """Close its connections."""
        await self._session.close()

    async def fetch(
        self, request: Request, most_bytes: int = MOST_BYTES, wanted: Callable[[], bool] = lambda: True
    ) -> Reply | None:
        """Return the answer, of whatever status; whoever asked decides whether to ask again.

        Waits for the budget, and for as long as the venue has asked everybody to wait. None, and nothing
        was asked, when it was not ``wanted`` any more after that.
        """
        weights = self.weight_per_minute, self._venue.limits.weight_per_s
        taken = await self._limit.take("weight", request.weight, *weights)
        reply = await self._ask(request, most_bytes) if wanted() else None
        if reply is None or not reply.reached:
            await self._limit.give_back("weight", request.weight, taken)
        return reply

    async def _ask(self, request: Request, most_bytes: int) -> Reply:
        self._metrics.count("tapeline_rest_requests_total", venue=self._venue.name, reason=request.op)
        url = self._base + request.path
        reply, wait_s = await ask(self._session, url, most_bytes, post=request.post)
        if reply.status != 200:
            self._metrics.count(
                "tapeline_rest_failures_total", venue=self._venue.name, reason=_reason(reply.status)
            )
            await self._heed(reply.status, wait_s)
        return reply

    async def _heed(self, status: int, wait_s: float | None) -> None:
        seconds = bar_s(status, wait_s, self._venue.limits)
        if seconds is not None:
            await self._limit.bar("weight", seconds)
            if status in _OF_THE_ADDRESS:
                await self._limit.bar("connect", seconds)


async def ask(
    session: ClientSession, url: str, most_bytes: int, *, post: bool = False
) -> tuple[Reply, float | None]:
    """Return the answer and how long it asks to wait before the next request, where it does."""
    wait_s: float | None = None
    try:
        async with session.request("POST" if post else "GET", url, allow_redirects=False) as response:
            wait_s = retry_after(response.headers.get("Retry-After"))
            body = await _read(response, most_bytes)
        if body is None:
            return Reply(0, b"larger than %d bytes" % most_bytes), wait_s
        return Reply(response.status, body), wait_s
    except TimeoutError:
        reply = Reply(0, b"no answer within %g s" % TIMEOUT_S)
    except aiohttp.ClientConnectorError as e:
        refused = isinstance(e.os_error, ConnectionRefusedError)  # its text only repeats the address
        why = "refused" if refused else e.os_error.strerror or type(e.os_error).__name__
        text = f"no connection to {e.host}:{e.port}: {why}"
        reply = Reply(0, text.encode(), reached=isinstance(e, aiohttp.ClientSSLError))
    except aiohttp.InvalidURL:  # its text has what it was, and a proxy's has a password
        why = (
            b"neither the URL nor a proxy of the environment (HTTPS_PROXY) may be so: write http://host:port"
        )
        reply = Reply(0, why, reached=False)
    except (aiohttp.ClientError, OSError, ValueError) as e:
        # ValueError: a URL or header that cannot be. The rest is the network and what it brings.
        reply = Reply(0, f"{type(e).__name__}: {e}".encode())
    return reply, wait_s


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
    """Return the body, None when it is larger than ``most_bytes`` (inflated)."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > most_bytes:
            return None
    return bytes(body)


def _reason(status: int) -> str:
    """Return the status as a word of a closed set."""
    if status == 0:
        return "unreachable"
    return str(status) if status in _BARRING else f"{status // 100}xx"
