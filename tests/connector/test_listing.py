"""Listings that come in pages: followed to their end, and never for ever."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest

from actors.cli import markets
from actors.connector import listing
from actors.connector.listing import Listing
from actors.connector.rest import Reply, Rest
from actors.runtime.metrics import Metrics
from actors.streams.keys import Keys
from actors.venues import binance, binance_us, bybit_linear
from actors.venues.base import Request, Venue


class Pages:
    """Answers with page after page, ``most`` in all; None: for ever."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.cursors: list[str] = []

    async def fetch(self, request: Request, _most_bytes: int) -> Reply:
        cursor = parse_qs(urlsplit(request.path).query).get("cursor", ["0"])[0]
        self.cursors.append(cursor)
        base = f"C{cursor}"
        after = int(cursor) + 1
        row = {"symbol": base, "baseCoin": base, "quoteCoin": "USDT", "status": "Trading"}
        more = str(after) if self.most is None or after < self.most else ""
        page = {"list": [row | {"contractType": "LinearPerpetual"}], "nextPageCursor": more}
        return Reply(200, json.dumps({"retCode": 0, "result": page}).encode())


class Store:
    async def set(self, *_: Any) -> None:
        return


async def listed(answers: Any, venue: Venue = bybit_linear.VENUE) -> Listing:
    store: Any = Store()
    listing = Listing(venue, answers, store, Keys(), Metrics())
    async with anyio.create_task_group() as tg:
        tg.start_soon(listing.run)
        with anyio.fail_after(30):
            await listing.next()
        tg.cancel_scope.cancel()
    return listing


class Whole:
    """Answers with one body, and is told what the venue grants."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = json.dumps(body).encode()
        self.weight_per_minute = 1200

    async def fetch(self, _request: Request, _most_bytes: int) -> Reply:
        return Reply(200, self.body)


ROW = {"symbol": "BTCUSD", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USD"}
WEIGHT = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 600}
ORDERS = {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": 7}


@pytest.mark.parametrize(
    ("said", "granted"),
    [
        ([ORDERS, WEIGHT], 600),
        ([WEIGHT | {"limit": 6000}], 6000),
        ([WEIGHT | {"intervalNum": 5}], 120),
        ([WEIGHT, WEIGHT | {"intervalNum": 2, "limit": 1000}], 500),
        ([WEIGHT | {"interval": "SECOND"}], 1200),
        ([WEIGHT | {"limit": 0}], 1200),
        ([WEIGHT | {"limit": "600"}], 1200),
        ([7, WEIGHT], 600),
        ([ORDERS], 1200),
        ([], 1200),
        (None, 1200),
    ],
)
@pytest.mark.parametrize("venue", [binance.VENUE, binance_us.VENUE], ids=lambda venue: venue.name)
async def test_a_budget_is_what_the_venue_s_own_listing_grants(venue: Venue, said: Any, granted: int) -> None:
    rest = Whole({"rateLimits": said, "symbols": [ROW]})
    listing = await listed(rest, venue)
    assert list(listing.rows or {}) == ["BTC-USD"]
    assert rest.weight_per_minute == granted


async def test_a_listing_that_lacks_what_is_wanted_is_fetched_again_soon_and_then_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "MISSING_S", 0.2)
    rest: Any = Whole({"symbols": [ROW]})
    store: Any = Store()
    halted = Listing(binance.VENUE, rest, store, Keys(), Metrics(), symbols=["BTC-USD", "ETH-USD"])
    began = anyio.current_time()
    async with anyio.create_task_group() as tg:
        tg.start_soon(halted.run)
        with anyio.fail_after(30):
            for _ in range(3):
                await halted.next()
            assert anyio.current_time() - began > 0.2
            both = [ROW, ROW | {"symbol": "ETHUSD", "baseAsset": "ETH"}]
            rest.body = json.dumps({"symbols": both}).encode()
            await halted.next()
        assert list(halted.rows or {}) == ["BTC-USD", "ETH-USD"]
        with anyio.move_on_after(1) as waited:
            await halted.next()
        assert waited.cancelled_caught, "nothing is missing any more"
        tg.cancel_scope.cancel()


async def test_what_was_granted_is_what_requests_are_held_to() -> None:
    taken: list[int] = []

    class Books:
        async def take(self, _budget: str, _cost: int, most: int, _per_s: int | None = None) -> int:
            taken.append(most)
            return 0

        async def give_back(self, *_: Any) -> None:
            return

    books: Any = Books()
    rest = Rest(binance.VENUE, binance.VENUE.endpoints, books, Metrics())
    for granted in (6000, 55):
        rest.weight_per_minute = granted
        assert await rest.fetch(binance.VENUE.instruments[0], wanted=lambda: False) is None
    await rest.aclose()
    assert taken == [6000, 55]


async def test_all_pages_of_a_listing_are_fetched() -> None:
    pages = Pages(3)
    listing = await listed(pages)
    assert pages.cursors == ["0", "1", "2"]
    assert sorted(listing.rows or {}) == ["C0-USDT-PERP", "C1-USDT-PERP", "C2-USDT-PERP"]


async def test_pages_without_end_are_a_failure_that_is_told() -> None:
    pages = Pages(None)
    listing = await listed(pages)
    assert listing.rows is None
    assert listing.failure is not None
    assert "more than 50 pages" in listing.failure.reason
    assert len(pages.cursors) == 50


@pytest.mark.parametrize(("most", "listed"), [(3, 3), (None, 0)])
async def test_a_person_who_asks_for_the_list_gets_all_its_pages(
    most: int | None, listed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = Pages(most)

    async def ask(_http: Any, url: str, most_bytes: int) -> tuple[Reply, None]:
        return await pages.fetch(Request("instruments", url), most_bytes), None

    monkeypatch.setattr(markets, "ask", ask)
    if listed:
        found = await markets.listing(bybit_linear.VENUE, "http://127.0.0.1:1")
        assert len(found) == listed
    else:
        with pytest.raises(markets.Unlisted, match="more than 50 pages"):
            await markets.listing(bybit_linear.VENUE, "http://127.0.0.1:1")


@pytest.mark.parametrize("code", [10006, 10001])
async def test_an_error_with_status_200_is_no_listing(code: int) -> None:
    class Busy(Pages):
        async def fetch(self, _request: Request, _most_bytes: int) -> Reply:
            return Reply(200, json.dumps({"retCode": code, "retMsg": "no", "result": {}}).encode())

    listing = await listed(Busy(1))
    assert listing.failure is not None
    assert f"{code}: no" in listing.failure.reason
