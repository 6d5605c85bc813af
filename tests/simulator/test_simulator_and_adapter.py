"""The pipeline's adapter cannot tell: it understands everything the simulated venue says."""

from collections import Counter
from urllib.parse import parse_qsl, urlsplit

from actors.model.events import BookSnapshot, Trade
from actors.simulator.binance import LISTINGS, Binance
from actors.simulator.faults import Faults
from actors.simulator.market import Market
from actors.simulator.venue import Session, accept, hear
from actors.venues.base import Answer, Request, Scratch
from actors.venues.binance import VENUE

START = 1_767_225_600_000_000_000


def test_the_adapter_plans_subscribes_decodes_and_fetches_without_a_doubt() -> None:
    market = Market(1, LISTINGS, START // 1000)
    venue = Binance(market, Faults(), START)
    rows = VENUE.rows(venue.rest("/api/v3/exchangeInfo", {}, START).body)
    assert {row.symbol for row in rows} >= {"BTC-USDT", "1INCH-USDT", "币安人生-USDT"}
    scratch = Scratch("a.1", {row.native: row for row in rows})
    now = START
    said: Counter[str] = Counter()
    sessions: list[Session] = []
    for plan in VENUE.plan(VENUE.endpoints, rows, sorted(VENUE.channels)):
        url = urlsplit(plan.url)
        session = accept(venue, len(sessions) + 1, url.path, dict(parse_qsl(url.query)), now)
        assert isinstance(session, Session)
        sessions.append(session)
        for subscription in plan.subscriptions:
            now += 1_000_000_000
            hear(venue, session, subscription.frame, now)
    for _ in range(3_000):
        now += 4_000_000
        market.step(now)
        venue.publish(now)
    for session in sessions:
        assert session.close is None
        said.update(type(each).__name__ for frame in session.out for each in VENUE.decode(frame, scratch))
    assert set(said) == {"Acked", "Trade", "L1", "BookDelta", "Ticker"}
    assert VENUE.snapshot is not None
    assert VENUE.backfill is not None

    def fetched(request: Request) -> list[object]:
        url = urlsplit(request.path)
        reply = venue.rest(url.path, dict(parse_qsl(url.query)), now)
        return [*VENUE.decode_rest(Answer(request, reply.status, reply.body.decode()), scratch)]

    row = scratch.instruments["币安人生USDT"]
    assert [type(each) for each in fetched(VENUE.snapshot(row))] == [BookSnapshot]
    row = scratch.instruments["BTCUSDT"]
    first = market.live["binance", "BTC-USDT"].tape.first
    trades = fetched(VENUE.backfill(row, str(first), str(first + 4)))
    assert [each.id for each in trades if isinstance(each, Trade)] == [str(first + n) for n in range(5)]
