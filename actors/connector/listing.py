"""What a venue lists: fetched once for all legs of this process, and again now and then."""

import random
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, cast

import anyio
import msgspec
import structlog
from redis.asyncio import Redis

from actors.connector.rest import MOST_LISTING_BYTES, Rest
from actors.model.errors import Unparseable
from actors.model.instruments import Instrument, UnknownInstrument, Unusable
from actors.runtime.backoff import backoff
from actors.runtime.metrics import Metrics
from actors.stages.raw import Closed
from actors.streams.errors import FAULTS, is_passing
from actors.streams.keys import Keys
from actors.venues.base import Request, Venue, listed

log = structlog.get_logger()

REFRESH_S: Final = 3600.0  # chosen: listings change a few times a day
MISSING_S: Final = 60.0  # chosen: a symbol whose trading is halted is back within minutes, or not for long
PATIENCE_S: Final = 2.0  # chosen: a simulator that starts with us takes one
_SOON_S: Final = 0.3
_NEAREST: Final = 3
MOST_PAGES: Final = 50  # chosen: tens of thousands of instruments; a cursor that never ends


class Unlisted(Exception):
    """The instruments could not be had; ``status`` as in ``Closed.code``, ``there``: somebody answered."""

    def __init__(self, status: int | None, reason: str, *, there: bool = True) -> None:
        super().__init__(reason)
        self.status = status
        self.there = there


class Listing:
    """The instruments of one venue by canonical symbol.

    Attributes:
        rows: None until they were fetched once.
        failure: Why the last attempt failed, None after one that did not.
        unusable: Why instruments cannot be used that it lists all the same.
    """

    def __init__(
        self,
        venue: Venue,
        rest: Rest,
        client: Redis,
        keys: Keys,
        metrics: Metrics,
        *,
        symbols: Collection[str] = (),
    ) -> None:
        """``symbols``: what is wanted of it; while one is missing it is fetched again sooner."""
        self._venue = venue
        self._symbols = symbols
        self._missing: set[str] = set()
        self._sooner = backoff()
        self._metrics = metrics
        self._rest = rest
        self._client = client
        self._key = keys.instruments(venue.name)
        self._news = anyio.Event()
        self._wanted = anyio.Event()
        self.rows: Mapping[str, Instrument] | None = None
        self.failure: Closed | None = None
        self.unusable: Mapping[str, str] = {}

    async def run(self) -> None:
        """Fetch once somebody asks, then refresh for ever; what failed is tried again soon."""
        await self._wanted.wait()
        delays, patient_until = backoff(), anyio.current_time() + PATIENCE_S
        while True:
            try:
                self.rows = await self._patiently(patient_until)
                self.failure = None
                delays, pause_s = backoff(), self._pause_s(self.rows)
            except Unlisted as e:
                self.failure = Closed(e.status, f"instruments: {e}"[:300])
                pause_s = next(delays)
                log.warning("no_instruments", venue=self._venue.name, reason=str(e), status=e.status)
            news, self._news = self._news, anyio.Event()
            news.set()
            if self.failure is None:
                await self._publish()
            await anyio.sleep(pause_s)

    def _pause_s(self, rows: Mapping[str, Instrument]) -> float:
        """Return when to fetch again; ever later, up to the usual time, where the same are missing."""
        missing = {symbol for symbol in self._symbols if symbol not in rows}
        if missing != self._missing:
            self._missing, self._sooner = missing, backoff(min(MISSING_S, REFRESH_S), 2.0, REFRESH_S)
        return next(self._sooner) if missing else REFRESH_S * random.uniform(0.9, 1.1)

    async def next(self) -> None:
        """Return after the next attempt, whether it succeeded or not."""
        self._wanted.set()
        await self._news.wait()

    async def _patiently(self, until: float) -> dict[str, Instrument]:
        """Fetch; a venue that is not there yet when we start has until then before that is a failure."""
        while True:
            try:
                return await self._fetch()
            except Unlisted as e:
                if e.there or anyio.current_time() >= until:
                    raise
                log.info("not_there_yet", venue=self._venue.name, reason=str(e))
            await anyio.sleep(_SOON_S)

    async def _fetch(self) -> dict[str, Instrument]:
        found: dict[str, Instrument] = {}
        unusable: dict[str, str] = {}
        for request in self._venue.instruments:
            async for rows in self._pages(request):
                found.update((row.symbol, row) for row in rows if isinstance(row, Instrument))
                unusable.update((row.symbol, row.reason) for row in rows if isinstance(row, Unusable))
        if not found:
            why = next((f": {reason}" for reason in unusable.values()), "")
            raise Unlisted(None, f"the venue lists none that can be used{why}")
        self._complain(unusable)
        return found

    async def _pages(self, request: Request) -> AsyncIterator[Sequence[Instrument | Unusable]]:
        """Yield the rows of each page of one listing.

        Raises:
            Unlisted: One could not be had or read, or they do not end.
        """
        page: Request | None = request
        for _ in range(MOST_PAGES):
            reply = await self._rest.fetch(page, MOST_LISTING_BYTES)
            assert reply is not None  # noqa: S101 - it was wanted throughout
            if reply.status != 200:
                reason = reply.text[:200] or f"HTTP {reply.status}"
                raise Unlisted(reply.status or None, reason, there=reply.status != 0)
            try:
                rows = listed(self._venue, reply.body)
                page = self._venue.next_page(page, reply.body)
            except Unparseable as e:
                raise Unlisted(None, str(e)) from e
            granted = self._venue.granted(reply.body)
            if granted is not None:
                self._rest.weight_per_minute = granted
            yield rows
            if page is None:
                return
        raise Unlisted(None, f"a listing of more than {MOST_PAGES} pages")

    def _complain(self, unusable: Mapping[str, str]) -> None:
        self.unusable = unusable
        if unusable:
            name, symbol = self._venue.name, next(iter(unusable))
            self._metrics.count("tapeline_unparseable_total", len(unusable), venue=name, reason="instrument")
            log.warning(
                "unusable_instruments", venue=name, n=len(unusable), first=symbol, reason=unusable[symbol]
            )

    async def _publish(self) -> None:
        rows = sorted((self.rows or {}).values(), key=lambda row: row.symbol)
        try:
            await cast("Any", self._client).set(self._key, msgspec.json.encode(rows))
        except FAULTS as e:
            if not is_passing(e):
                raise
            # For people only, and written again at the next refresh.
            log.warning("listing_not_stored", venue=self._venue.name, reason=type(e).__name__)


def select(
    rows: Mapping[str, Instrument], symbols: Iterable[str], unusable: Mapping[str, str]
) -> list[Instrument | UnknownInstrument]:
    """Return each of ``symbols`` as the venue lists it, or as unknown with the nearest it lists.

    Args:
        rows: By symbol, what it lists.
        symbols: What is wanted.
        unusable: By symbol, why what it lists cannot be used.
    """
    found: list[Instrument | UnknownInstrument] = []
    for symbol in symbols:
        row = rows.get(symbol)
        found.append(row or UnknownInstrument(symbol, _nearest(symbol, rows), unusable.get(symbol)))
    return found


def _nearest(symbol: str, rows: Mapping[str, Instrument]) -> list[str]:
    # The same base or quote first: of 3,000 symbols hundreds look alike by letters alone.
    base, _, quote = symbol.partition("-")
    related = [row.symbol for row in rows.values() if row.base == base or row.quote == quote]
    near = get_close_matches(symbol, related, _NEAREST)
    return near or get_close_matches(symbol, rows, _NEAREST)
