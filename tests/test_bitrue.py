"""Bitrue: recorded frames through the pipeline in a real Redis, and pages of trades through the folds."""

import json
from collections import Counter
from typing import Any

import pytest
from chain_rig import Chain
from recorded_rig import assert_nothing_is_missing, read, through
from replay import Manner, Replay, recording

from actors.model.events import Book, Gap, Status, Ticker, Trade
from actors.model.instruments import Instrument
from actors.stages.normalize import Normalize
from actors.venues import bitrue
from actors.venues.base import Answer, Ignored, Scratch

BTC = Instrument("BTC-USDT", "BTCUSDT", "BTC", "USDT")
NATIVES = {"TAOUSDT": ("TAO", "USDT"), "ETHBTC": ("ETH", "BTC")}


def listing(natives: Any) -> Any:
    [recorded] = [row for row in recording("bitrue/spot-http-docshape") if "exchangeInfo" in row["url"]]
    [shape] = json.loads(recorded["raw"])["symbols"]
    return {
        "symbols": [
            shape | {"symbol": native, "baseAsset": base.lower(), "quoteAsset": quote.lower()}
            for native, (base, quote) in natives.items()
        ]
    }


@pytest.mark.redis
async def test_the_recorded_books_come_out_of_gzip_whole(redis_server) -> None:
    rows = recording("bitrue/spot-depth")
    replay = Replay(rows, NATIVES, Manner(("/api/v1/exchangeInfo", listing)), asks=2)
    passed = await through("bitrue", replay, ["book"], redis_server(), live=2)
    assert_nothing_is_missing(passed)
    readers = read(passed.books)
    frames = [json.loads(row["raw"]) for row in rows if row["dir"] == "in"]
    books = {f["channel"].split("_")[1].upper(): f for f in frames if "tick" in f}
    assert set(books) == set(NATIVES)
    for native, (base, quote) in NATIVES.items():
        reader, tick = readers[f"{base}-{quote}"], books[native]["tick"]
        assert (reader.state, reader.seq) == ("live", books[native]["ts"])
        assert reader.bids == dict(tick["buys"])
        assert reader.asks == dict(tick["asks"])
    live = [event for event in passed.books if isinstance(event, Book) and event.state == "live"]
    assert {event.verified for event in live} == {"none"}


def test_recorded_frames_all_mean_something() -> None:
    known = {native: Instrument(f"{b}-{q}", native, b, q) for native, (b, q) in NATIVES.items()}
    said: dict[str, Counter[str]] = {}
    for name in ("spot-depth", "spot-legacy-klineapi", "perp-docshape"):
        said[name] = Counter()
        for row in recording(f"bitrue/{name}"):
            if row["dir"] == "in":
                for one in bitrue.decode(row["raw"].encode(), Scratch("a.1", known)):
                    said[name][getattr(one, "reason", type(one).__name__)] += 1
    assert said == {
        "spot-depth": {"Acked": 1, "BookSnapshot": 2, "heartbeat": 1},
        "spot-legacy-klineapi": {"answer": 1, "unknown_channel": 3},
        "perp-docshape": {"unknown_channel": 2},
    }


def test_recorded_answers_are_a_trade_a_ticker_and_a_pair() -> None:
    bodies = {
        row["url"].split("/")[-1].partition("?")[0]: row["raw"]
        for row in recording("bitrue/spot-http-docshape")
    }
    bnb = Instrument("BNB-BTC", "BNBBTC", "BNB", "BTC")
    scratch = Scratch("a.1", {"BTCUSDT": BTC, "BNBBTC": bnb})
    [trade] = bitrue.decode_rest(Answer(bitrue.latest_trades(BTC), 200, bodies["trades"]), scratch)
    assert isinstance(trade, Trade)
    assert (trade.id, trade.aggressor, trade.size) == ("28457", "sell", "12.00000000")
    [ticker] = bitrue.decode_rest(Answer(bitrue.ticker(bnb), 200, bodies["24hr"]), scratch)
    assert isinstance(ticker, Ticker)
    assert (ticker.symbol, ticker.last, ticker.volume_quote) == ("BNB-BTC", "4.00000200", "15.30000000")
    assert [row.symbol for row in bitrue.rows(bodies["exchangeInfo"].encode())] == ["SHA-BTC"]


# ---- pages of trades ------------------------------------------------------------------------------------


class Feed(Chain):
    """A market whose trades are asked for."""

    def __init__(self) -> None:
        super().__init__(bitrue.VENUE, BTC)
        self.told()

    def told(self, *kinds: Any) -> list[Any]:
        return super().told(*(kinds or (Trade, Gap, Status)))

    def page(self, *ids: int, bad: tuple[int, ...] = (), status: int = 200, later_s: int = 0) -> list[Any]:
        """Let a page come in; return what is new, trades as their ids and gaps as their ends."""
        rows = [
            {
                "id": number, "price": "?" if number in bad else "4.01", "qty": "12.0",
                "isBuyerMaker": number % 2 == 0, "time": 1_799_999_000_000 + number + later_s * 1000,
            }
            for number in (*ids, *bad)
        ]  # fmt: skip
        body = json.dumps(rows) if status == 200 else "busy"
        self.say("h", Answer(bitrue.latest_trades(BTC), status, body), "a.*")
        return [
            int(event.id) if isinstance(event, Trade) else (event.first, event.last)
            for event in self.told(Trade, Gap)
        ]


def test_the_first_page_is_history_and_of_each_later_one_what_is_new_passes_in_order() -> None:
    feed = Feed()
    assert feed.page(3, 1, 2) == []
    assert feed.page(2, 3, 5, 4) == [4, 5]
    assert feed.page(2, 3, 4, 5) == []
    assert feed.page(5, 9) == [9]  # ids of one market need not be contiguous
    assert feed.first.counts["tapeline_duplicates_total", "page"] == 2 + 4 + 1


def test_a_page_that_does_not_reach_back_names_the_hole_before_what_follows() -> None:
    feed = Feed()
    feed.page(1, 2, 3)
    assert feed.page(7, 8) == [("4", "6"), 7, 8]
    assert feed.page(9, 10) == [9, 10]
    assert feed.first.counts["tapeline_gaps_total", "trade/sequence"] == 1


def test_what_a_page_left_out_passes_with_the_next_and_only_once() -> None:
    feed = Feed()
    feed.page(1, 2)
    assert feed.page(2, 3, 5) == [3, 5]
    assert feed.page(2, 3, 4, 5) == [4]
    assert feed.page(2, 3, 4, 5) == []


def test_a_market_without_trades_misses_not_its_first() -> None:
    feed = Feed()
    assert feed.page() == []
    assert feed.page(7) == [7]


def test_ids_that_begin_anew_are_told_and_pass() -> None:
    feed = Feed()
    feed.page(50_000, 50_001)
    assert feed.page(1, 2, later_s=100) == [(None, None), 1, 2]
    assert feed.page(2, 3, later_s=100) == [3]


def test_a_failed_question_is_no_hole_and_long_silence_is_stale() -> None:
    feed = Feed()
    feed.page(1)
    assert feed.page(status=503) == []
    assert feed.page(1, 2) == [2]
    feed.wait(40)
    assert feed.states() == {"trade BTC-USDT": "stale"}
    feed.page(1, 2, 3)
    assert feed.page(3, 4) == [4]


def test_pages_go_on_where_they_were_after_a_restart() -> None:
    feed = Feed()
    feed.page(1, 2, 3)
    feed.normalize = Normalize(bitrue.VENUE, "bitrue.0", feed.normalize.dump())
    assert feed.page(2, 3, 4) == [4]
    assert feed.page(6) == [("5", "5"), 6]


def book(ms: int, bid: str = "9") -> dict[str, Any]:
    tick = {"buys": [[bid, "1"]], "asks": [["10", "1"]]}
    return {"channel": "market_btcusdt_simple_depth_step0", "tick": tick, "ts": 1_799_999_000_000 + ms}


def test_one_trade_that_cannot_be_read_silences_no_other() -> None:
    feed = Feed()
    feed.page(1)
    rows = [
        {"id": n, "price": price, "qty": "1", "isBuyerMaker": True, "time": 1_799_999_000_000 + n}
        for n, price in ((1, "4.01"), (2, "4.02"), (3, "?"), (4, "4.03"))
    ]
    body = json.dumps(rows)
    feed.say("h", Answer(bitrue.latest_trades(BTC), 200, body), "a.*")
    assert [event.id for event in feed.told(Trade)] == ["2", "4"]
    feed.say("h", Answer(bitrue.latest_trades(BTC), 200, body), "a.*")
    assert feed.told(Trade, Gap) == []


def test_a_trade_of_a_page_that_cannot_be_read_is_named_in_its_place_and_once() -> None:
    feed = Feed()
    assert feed.page(1, bad=(0,)) == []
    assert feed.page(1, 2, 4, bad=(3,)) == [2, ("3", "3"), 4]
    assert feed.dead() == ["trades of BTC-USDT: 3"]
    assert feed.page(1, 2, 4, 5, bad=(3,)) == [5]
    assert feed.page(5, bad=(6,)) == [("6", "6")]
    assert feed.page(7, 8) == [7, 8]
    assert feed.first.counts["tapeline_gaps_total", "trade/sequence"] == 2
    assert feed.first.counts["tapeline_unparseable_total", "value"] == 2


# ---- books ----------------------------------------------------------------------------------------------


def test_a_crossed_book_is_dropped_and_one_that_stays_crossed_is_told() -> None:
    feed = Feed()
    feed.open("book")
    feed.hear(book(0), book(100, "11"), book(200, "8"), book(150, "7"))
    assert [e.bids for e in feed.told(Book) if e.state == "live"] == [[("9", "1")], [("9", "0"), ("8", "1")]]
    ignored = {key[1]: n for key, n in feed.first.counts.items() if key[0] == "tapeline_ignored_total"}
    assert ignored == {"crossed_book": 1, "older_book": 1}
    feed.hear(book(20_000, "11"), book(21_900, "11"))
    assert feed.told(Book) == []
    feed.hear(book(22_000, "11"))
    assert [event.state for event in feed.told(Book)] == ["crossed"]
    feed.hear(book(22_100))
    assert [event.state for event in feed.told(Book)] == ["live"]


def test_one_crossed_book_of_a_quiet_pair_makes_no_gap() -> None:
    feed = Feed()
    feed.open("book")
    feed.hear(book(0), book(18_000, "11"), book(36_000), book(54_000, "11"), book(72_000, "8"))
    assert [event.state for event in feed.told(Book)] == ["live", "live"]
    assert feed.told(Gap) == []


def test_a_book_crossed_from_its_first_frame_on_is_told_after_a_while() -> None:
    feed = Feed()
    feed.open("book")
    feed.hear(book(0, "11"), book(1900, "11"))
    assert "crossed" not in [event.state for event in feed.told(Book)]
    feed.hear(book(2000, "11"))
    assert [event.state for event in feed.told(Book)] == ["crossed"]


# ---- connections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ping",
    [
        b'{"ping":1784461537875}',
        b'{"ping":"1784461537875"}',
        b'{ "ping": 1784461537875 }',
        b'{"ping":1784461537875,"ts":7}',
        b'{"ts":7,"ping":1784461537875}\n',
    ],
)
def test_whatever_is_a_ping_is_answered(ping: bytes) -> None:
    assert bitrue.decode(ping, Scratch("a.1", {})) == [Ignored("heartbeat")]
    assert bitrue.answer(ping) == '{"pong":1784461537875}'


def test_nothing_else_is_answered() -> None:
    words = ("{}", '{"ping":null}', '{"ping":"soon"}', '{"pinged":1784461537875}', json.dumps(book(0)))
    padded = f'{{"note":"{"x" * bitrue.MOST_PING}","ping":1}}'
    assert [bitrue.answer(word.encode()) for word in (*words, padded)] == [None] * 6


def test_without_a_ping_for_forty_seconds_a_connection_is_dead() -> None:
    feed = Feed()
    feed.open("book")
    feed.hear(subscribed(), book(0))
    feed.wait(40)
    assert "reconnect" not in [request.op for request in feed.asked()]
    feed.wait(2)
    assert "reconnect" in [request.op for request in feed.asked()]


def test_a_pair_without_a_change_has_two_minutes_for_its_first_book() -> None:
    feed = Feed()
    feed.open("book")
    feed.hear(subscribed())
    feed.wait(119, {"ping": 1})
    assert feed.states()["book BTC-USDT"] == "subscribed"
    feed.wait(3, {"ping": 1})
    assert feed.states() == {"book BTC-USDT": "stale"}
    feed.hear(book(0))
    feed.wait(600, {"ping": 1})  # and may be quiet after it
    assert feed.states() == {"book BTC-USDT": "live"}


def subscribed() -> dict[str, Any]:
    return {"channel": "market_btcusdt_simple_depth_step0", "event_rep": "subed", "status": "ok", "ts": 1}


def test_no_more_is_asked_than_is_documented() -> None:
    assert bitrue.LIMITS.weight_per_minute <= 1200
    questions = [bitrue.latest_trades(BTC), bitrue.latest_trades(BTC, bitrue.MOST_PAGE), bitrue.ticker(BTC)]
    assert [question.weight for question in questions] == [1, 1, 1]
    assert bitrue.MOST_PAGE <= 1000
