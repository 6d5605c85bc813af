"""What the normalizer says in each situation: connections, trades, books, silence, requests, bad frames."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from actors.model import codec
from actors.model.events import (
    L1,
    BookDelta,
    BookSnapshot,
    Funding,
    Gap,
    InstrumentEvent,
    Status,
    Tick,
    Ticker,
    Trade,
)
from actors.model.instruments import Instrument, UnknownInstrument
from actors.stages import raw
from actors.stages.control import ControlRequest
from actors.stages.fold import Output
from actors.stages.normalize import Normalize
from actors.stages.normalize.connections import MOST_CLOSED
from actors.stages.normalize.marks import MOST_HOLES
from actors.stages.normalize.trades import MOST_UNREAD
from actors.venues import binance, coinbase
from actors.venues.base import (
    Acked,
    Answer,
    Channel,
    Decoded,
    Item,
    Latest,
    Missed,
    Refused,
    Request,
    Scratch,
    Subscription,
    Venue,
)  # fmt: skip

BTC = Instrument("BTC-USDT", "BTCUSDT", "BTC", "USDT")
ETH = Instrument("ETH-USDT", "ETHUSDT", "ETH", "USDT")
KNOWN = {known.symbol: known for known in (BTC, ETH)}
# Binance's words with timings of our own.
WATCHED = replace(
    binance.VENUE, silence_s={"ticker": 30.0, "book": 60.0, "l1": 60.0}, first_s={}, quiet_s=None
)
COINBASE = {"BTC-USD": Instrument("BTC-USD", "BTC-USD", "BTC", "USD")}
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
ALL: tuple[Channel, ...] = ("trade", "book", "l1", "ticker")


class Feed:
    """Writes lines of ``raw`` into a fold and tells what it said since one last looked."""

    def __init__(self, venue: Venue = WATCHED) -> None:
        self.fold = Normalize(venue, "binance.0")
        self.out = Output(("events", "control", "dead"))
        self.k = 0
        self.now = START
        self.ids = 0
        self.say("a.*", "i", BTC)
        self.say("a.*", "i", ETH)

    def say(self, conn: str, kind: str, payload: Any) -> None:
        self.k += 1
        text = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        self.fold.fold(self.k, raw.line(self.now, conn, kind, text), self.out)

    def open(self, conn: str, *channels: Channel, acked: bool = True, symbol: str = "BTC-USDT") -> None:
        self.say(conn, "o", b"ws://x/stream")
        if channels:
            number = self.subscribe(conn, *channels, symbol=symbol)
            if acked:
                self.ack(conn, number)

    def subscribe(
        self, conn: str, *channels: Channel, symbol: str = "BTC-USDT", op: str = "subscribe"
    ) -> int:
        self.ids += 1
        items: list[Item] = [(channel, symbol) for channel in channels]
        frames = binance.subscribe if op == "subscribe" else binance.unsubscribe
        self.say(conn, "s", frames(items, KNOWN, self.ids)[0])
        return self.ids

    def ack(self, conn: str, number: int) -> None:
        self.say(conn, "f", b'{"result":null,"id":%d}' % number)

    def tick(self, *legs: str, after_s: float = 0) -> None:
        self.now += round(after_s * SECOND)
        self.say("-", "k", raw.LegsAlive(list(legs)))

    def wait(self, seconds: int, *legs: str) -> None:
        for _ in range(seconds):
            self.tick(*legs, after_s=1)

    def frame(self, conn: str, stream: str, **data: Any) -> None:
        self.say(conn, "f", json.dumps({"stream": stream, "data": data}).encode())

    def trade(self, conn: str, *ids: int, time: int | None = None) -> None:
        for number in ids:
            at = self.now // 1_000_000 if time is None else time
            self.frame(conn, "btcusdt@trade", e="trade", s="BTCUSDT", t=number, p="1.5", q="2", T=at, m=True)

    def l1(self, conn: str, seq: int) -> None:
        self.frame(conn, "btcusdt@bookTicker", u=seq, s="BTCUSDT", b="1", B="1", a="2", A="1")

    def depth(self, conn: str, first: int, last: int) -> None:
        at = self.now // 1_000_000
        data = {
            "e": "depthUpdate",
            "E": at,
            "s": "BTCUSDT",
            "U": first,
            "u": last,
            "b": [],
            "a": [["2", "1"]],
        }
        self.frame(conn, "btcusdt@depth@100ms", **data)

    def close(self, conn: str, reason: str = "gone", code: int | None = 1006) -> None:
        self.say(conn, "x", raw.Closed(code, reason))

    def answer(self, request: ControlRequest, status: int, body: Any) -> None:
        instrument = KNOWN[request.symbol or ""]
        if request.op == "snapshot":
            rest = binance.snapshot(instrument)
        else:
            rest = binance.backfill(instrument, request.first or "", request.last or "")
        text = body if isinstance(body, str) else json.dumps(body)
        self.say(request.conn or "a.*", "h", Answer(rest, status, text, request.id, request.conn))

    def backfill(self, request: ControlRequest, *ids: int) -> None:
        at = self.now // 1_000_000
        rows = [{"id": n, "price": "1.5", "qty": "2", "time": at, "isBuyerMaker": True} for n in ids]
        self.answer(request, 200, rows)

    def events(self) -> list[Any]:
        events = [codec.decode(line) for line in self.out.lines["events"]]
        self.out.lines["events"].clear()
        return events

    def of(self, *kinds: type) -> list[Any]:
        return [event for event in self.events() if isinstance(event, kinds)]

    def asked(self) -> list[ControlRequest]:
        asked = [msgspec.json.decode(line, type=ControlRequest) for line in self.out.lines["control"]]
        self.out.lines["control"].clear()
        return asked

    def dead(self) -> list[dict[str, Any]]:
        dead = [json.loads(line) for line in self.out.lines["dead"]]
        self.out.lines["dead"].clear()
        return dead

    def said(self) -> list[str]:
        """Return the story in short: trades by id, gaps by range, statuses by state."""
        return [shortly(event) for event in self.events() if not isinstance(event, InstrumentEvent)]


def shortly(event: Any) -> str:
    match event:
        case Trade():
            return f"trade {event.id}{' backfilled' if event.backfilled else ''}"
        case Gap():
            end = " filled" if event.filled else f" {event.cause}"
            return f"gap {event.channel} {event.first}..{event.last}{end}"
        case Status():
            return " ".join(x for x in (event.conn, event.symbol, event.channel, event.state) if x)
        case _:
            return f"{msgspec.to_builtins(event)['kind']}{'' if event.seq is None else f' {event.seq}'}"


@pytest.fixture
def feed() -> Feed:
    return Feed()


# ---- connections and statuses ---------------------------------------------------------------------------


def test_a_subscription_is_wanted_then_subscribed_then_live(feed: Feed) -> None:
    feed.open("a.1", "trade", acked=False)
    feed.ack("a.1", 1)
    feed.trade("a.1", 7, 8)
    assert feed.said() == [
        "a.1 live",
        "BTC-USDT trade wanted",
        "BTC-USDT trade subscribed",
        "BTC-USDT trade live",
        "trade 7",
        "trade 8",
    ]


def test_data_before_its_acknowledgement_is_passed_on_and_is_proof_enough(feed: Feed) -> None:
    feed.open("a.1", "book", acked=False)
    feed.depth("a.1", 1, 2)
    feed.ack("a.1", 1)
    assert feed.said()[-2:] == ["BTC-USDT book live", "book_delta 2"]


def test_instruments_are_told_once_and_on_each_change() -> None:
    feed = Feed()
    assert [event.symbol for event in feed.of(InstrumentEvent)] == ["BTC-USDT", "ETH-USDT"]
    feed.say("b.*", "i", BTC)
    assert feed.events() == []
    feed.say("b.*", "i", msgspec.structs.replace(BTC, price_step="0.1"))
    assert [event.price_step for event in feed.of(InstrumentEvent)] == ["0.1"]


def test_an_unknown_symbol_is_refused_with_the_nearest_names_and_the_others_go_on(feed: Feed) -> None:
    feed.events()
    for _ in range(2):
        feed.say("a.*", "i", UnknownInstrument("BTC-USTD", ["BTC-USDT", "BTC-USDC"]))
    (status,) = feed.of(Status)
    assert (status.symbol, status.channel, status.state) == ("BTC-USTD", None, "refused")
    assert status.reason == "binance lists no BTC-USTD; nearest: BTC-USDT, BTC-USDC"
    feed.open("a.1", "trade")
    feed.trade("a.1", 1)
    assert len(feed.of(Trade)) == 1


def test_an_unusable_instrument_is_refused_with_its_reason(feed: Feed) -> None:
    feed.events()
    feed.say("a.*", "i", UnknownInstrument("BTC-USDT-PERP", [], "ctVal ''"))
    (status,) = feed.of(Status)
    assert (status.symbol, status.state) == ("BTC-USDT-PERP", "refused")
    assert status.reason == "binance lists BTC-USDT-PERP in a way that means nothing: ctVal ''"


def test_a_closed_connection_is_told_before_its_items_are_down(feed: Feed) -> None:
    feed.open("a.1", "trade", "l1")
    feed.trade("a.1", 5)
    feed.l1("a.1", 9)
    feed.events()
    feed.close("a.1", "abnormal closure")
    assert feed.said() == [
        "a.1 down",
        "BTC-USDT trade down",
        "BTC-USDT l1 down",
        "gap l1 9..None disconnect",
    ]


def test_an_item_that_another_connection_gives_is_not_down_and_has_no_gap(feed: Feed) -> None:
    for conn in ("a.1", "b.1"):
        feed.open(conn, "trade", "l1")
        feed.trade(conn, 5)
        feed.l1(conn, 9)
    feed.events()
    feed.close("a.1")
    feed.l1("b.1", 10)
    feed.trade("b.1", 6)
    assert feed.said() == ["a.1 down", "l1 10", "trade 6"]


def test_a_new_owner_of_a_leg_closes_all_its_former_connections_and_no_other(feed: Feed) -> None:
    for conn in ("a.1", "a.2", "b.1"):
        feed.open(conn)
    feed.events()
    feed.close("a.*", "new owner", None)
    assert feed.said() == ["a.1 down", "a.2 down"]


def test_attempts_that_fail_alike_are_told_once_and_success_is_told(feed: Feed) -> None:
    feed.events()
    feed.close("a.x1", "no route to host", None)
    feed.close("a.x2", "no route to host", None)
    feed.close("a.x3", "forbidden", 403)
    feed.open("a.4")
    feed.close("a.4")
    feed.close("a.x5", "forbidden", 403)
    feed.open("a.6")
    feed.close("a.6", "", 1001)
    reasons = [(event.state, event.reason) for event in feed.of(Status)]
    assert reasons == [
        ("down", "no route to host"),
        ("down", "403: forbidden"),
        ("live", "open"),
        ("down", "1006: gone"),
        ("down", "403: forbidden"),
        ("live", "open"),
        ("down", "1001: no reason given"),
    ]


def test_a_leg_that_no_tick_names_counts_as_closed_until_it_speaks_again(feed: Feed) -> None:
    feed.open("a.1", "trade", "book")
    feed.trade("a.1", 5)
    feed.depth("a.1", 1, 2)
    feed.events()
    feed.tick(after_s=1)
    assert feed.said() == [
        "a.1 down",
        "BTC-USDT trade down",
        "BTC-USDT book down",
        "gap book 2..None disconnect",
        "tick",
    ]
    feed.trade("a.1", 6)
    assert feed.said() == ["a.1 live", "BTC-USDT trade live", "trade 6"]


def test_frames_of_a_connection_that_said_goodbye_are_dropped_and_counted(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.close("a.1")
    feed.events()
    feed.trade("a.1", 5)
    assert feed.said() == []
    assert feed.out.counts["tapeline_ignored_total", "closed_connection"] == 1


def test_a_connection_whose_opening_was_lost_is_known_by_its_frames(feed: Feed) -> None:
    feed.fold.jump(3, 900, "retention", feed.out)
    feed.trade("a.7", 5)
    assert feed.said() == [
        "gap None 3..900 retention",
        "a.7 live",
        "BTC-USDT trade live",
        "trade 5",
    ]


def test_a_connection_not_heard_of_after_a_lost_stretch_counts_as_closed(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 5)
    feed.fold.jump(10, 900, "retention", feed.out)
    feed.events()
    feed.wait(32, "a")
    assert "a.1 down" in feed.said()


def test_a_late_tick_closes_no_leg_whose_lease_ran_out_in_the_outage_but_the_next_does(feed: Feed) -> None:
    feed.open("a.1", "trade", "l1")
    feed.l1("a.1", 4)
    feed.tick("a", after_s=1)
    feed.events()
    feed.tick(after_s=60)  # the leg has had no time to renew it
    feed.l1("a.1", 5)
    assert feed.said() == ["tick", "l1 5"]
    feed.tick(after_s=1)
    assert "a.1 down" in feed.said()


def test_after_a_lost_stretch_a_connection_has_its_time_to_be_heard_however_long_that_was(
    feed: Feed,
) -> None:
    feed.open("a.1", "trade")
    feed.open("a.2", "trade", symbol="ETH-USDT")
    feed.tick("a", after_s=1)
    feed.fold.jump(feed.k + 1, feed.k + 900, "retention", feed.out)
    feed.events()
    feed.now += 600 * SECOND
    feed.trade("a.1", 5)
    feed.wait(25, "a")
    assert "a.2 down" not in feed.said()
    feed.wait(10, "a")
    assert "a.2 down" in feed.said()


def test_connections_whose_end_was_lost_are_not_kept_for_ever(feed: Feed) -> None:
    for number in range(3 * MOST_CLOSED):
        feed.say(f"a.{number}", "o", b"ws://x")
        feed.fold.jump(feed.k + 1, feed.k + 9, "retention", feed.out)
        feed.k += 9
        feed.wait(33, "a")
    assert len(feed.fold._state.ledger.conns) == len(feed.fold._open) == MOST_CLOSED + 1
    feed.events()
    feed.trade("a.0", 5)  # it lives, after all
    assert feed.said() == ["a.0 live", "BTC-USDT trade live", "trade 5"]


# ---- trades ---------------------------------------------------------------------------------------------


def test_two_legs_give_each_trade_once(feed: Feed) -> None:
    for conn in ("a.1", "b.1"):
        feed.open(conn, "trade")
    feed.trade("a.1", 1, 2)
    feed.trade("b.1", 1, 2, 3)
    feed.trade("a.1", 3, 4)
    assert [event.id for event in feed.of(Trade)] == ["1", "2", "3", "4"]
    assert feed.out.counts["tapeline_duplicates_total", "trade"] == 3


def test_a_jump_of_ids_is_a_gap_before_the_trade_and_asks_for_a_backfill(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1)
    feed.events()
    feed.trade("a.1", 5)
    assert feed.said() == ["gap trade 2..4 sequence", "trade 5"]
    (request,) = feed.asked()
    assert request == ControlRequest(
        f"normalizer/{feed.k}/0", "backfill", "BTC-USDT", "trade", first="2", last="4"
    )


def test_a_backfill_passes_in_order_marked_and_closes_the_gap(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 5)
    feed.events()
    feed.backfill(feed.asked()[0], 4, 2, 3)
    assert feed.said() == [
        "trade 2 backfilled",
        "trade 3 backfilled",
        "trade 4 backfilled",
        "gap trade 2..4 filled",
    ]
    feed.trade("a.1", 3)
    assert feed.said() == []


def test_a_jump_after_a_close_is_blamed_on_the_disconnect(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1)
    feed.close("a.1")
    feed.open("a.2", "trade")
    feed.events()
    feed.trade("a.2", 5, 7)
    assert feed.said() == [
        "BTC-USDT trade live",
        "gap trade 2..4 disconnect",
        "trade 5",
        "gap trade 6..6 sequence",
        "trade 7",
    ]


def test_a_contiguous_trade_after_a_close_is_no_gap(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1)
    feed.close("a.1")
    feed.open("a.2", "trade")
    feed.trade("a.2", 2, 4)
    assert [event.cause for event in feed.of(Gap)] == ["sequence"]


def test_a_new_connection_ahead_of_a_slower_one_waits_for_it(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 2)
    feed.open("b.1", "trade")
    feed.events()
    feed.trade("b.1", 5, 6)
    assert feed.said() == []
    feed.trade("a.1", 3)
    assert feed.said() == ["trade 3"]
    feed.trade("a.1", 4)
    assert feed.said() == ["trade 4", "trade 5", "trade 6"]
    feed.trade("a.1", 5, 6, 7)
    assert feed.said() == ["trade 7"]
    assert feed.asked() == []


@pytest.mark.parametrize("end", ["passes", "closes", "time"])
def test_waiting_for_a_slower_connection_ends(feed: Feed, end: str) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1)
    feed.open("b.1", "trade")
    feed.trade("b.1", 5)
    feed.events()
    match end:
        case "passes":
            feed.trade("a.1", 5)
        case "closes":
            feed.close("a.1")
        case "time":
            feed.wait(3, "a", "b")
    said = [line for line in feed.said() if line.startswith(("gap", "trade"))]
    assert said == [f"gap trade 2..4 {'disconnect' if end == 'closes' else 'sequence'}", "trade 5"]
    assert [request.op for request in feed.asked()] == ["backfill"]


def test_trades_of_the_slower_leg_at_the_very_start_are_not_lost(feed: Feed) -> None:
    for conn in ("a.1", "b.1"):
        feed.open(conn, "trade")
    feed.events()
    feed.trade("a.1", 10)
    feed.trade("b.1", 8, 9, 10, 11)
    said = [line for line in feed.said() if "BTC" not in line]
    assert said == [
        "trade 10",
        "gap trade 9..9 sequence",
        "trade 8",
        "trade 9",
        "gap trade 9..9 filled",
        "trade 11",
    ]


def test_a_large_backfill_is_asked_for_in_pieces_one_at_a_time(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 2502)
    asked = feed.asked()
    ranges = []
    while asked:
        (request,) = asked
        ranges.append((request.first, request.last))
        feed.backfill(request, *range(int(request.first or 0), int(request.last or 0) + 1))
        asked = feed.asked()
    assert ranges == [("2", "1001"), ("1002", "2001"), ("2002", "2501")]
    assert feed.of(Gap)[-1] == Gap(
        "binance", "BTC-USDT", None, feed.now, None, "trade", "sequence", "2", "2501", filled=True
    )


def test_a_hole_beyond_all_measure_is_named_and_not_asked_for(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 2_000_000)
    assert len(feed.of(Gap)) == 1
    assert feed.asked() == []


def test_a_backfill_that_fails_is_asked_again_ever_later(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 5)
    delays = []
    (request,) = feed.asked()
    for status in (429, 0, 503, 418, 500, 502, 500, 500):
        feed.answer(request, status, "no")
        (request,) = feed.asked()
        delays.append(request.delay_s)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    feed.backfill(request, 2, 3, 4)
    assert feed.of(Gap)[-1].filled


@pytest.mark.parametrize("status", [404, 400])
def test_a_backfill_that_the_venue_will_not_give_leaves_the_gap_open(feed: Feed, status: int) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 5)
    feed.answer(feed.asked()[0], status, "none")
    feed.wait(120, "a")
    assert [request for request in feed.asked() if request.op == "backfill"] == []
    assert not any(gap.filled for gap in feed.of(Gap))


def test_a_backfill_that_brings_nothing_is_given_up_and_the_next_hole_asked_for(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 5, 9)
    (request,) = feed.asked()
    for _ in range(3):
        feed.backfill(request)
        (request,) = feed.asked()
    assert (request.first, request.last) == ("6", "8")


def test_one_id_that_the_venue_has_not_does_not_keep_the_rest_of_a_hole_from_us(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 2502)
    ranges, asked = [], feed.asked()
    while asked:
        [request] = asked
        feed.fold = Normalize(WATCHED, "binance.0", feed.fold.dump())
        first, last = int(request.first or 0), int(request.last or 0)
        ranges.append((first, last))
        feed.backfill(request, *(number for number in range(first, last + 1) if number != 5))
        asked = feed.asked()
    assert ranges == [(2, 1001), (5, 5), (5, 5), (5, 5), (1002, 2001), (2002, 2501)]
    assert len(feed.of(Trade)) == 2501
    assert not any(gap.filled for gap in feed.of(Gap))


def by_time(instrument: Instrument, first: str, last: str, after: int) -> Request:
    return Request("backfill", f"/trades?since={after}", instrument.symbol, first=first, last=last)


def test_what_lies_behind_an_id_that_the_venue_has_not_is_asked_for_by_its_own_time() -> None:
    feed = Feed(replace(WATCHED, backfill=None, backfill_after=by_time, backfill_most=4))
    feed.open("a.1", "trade")
    first, feed.now = feed.now, feed.now + 9 * SECOND
    feed.trade("a.1", 1, time=first // 1_000_000)
    feed.trade("a.1", 10)
    ranges, asked = [], feed.asked()
    while asked:
        [request] = asked
        feed.fold = Normalize(feed.fold._venue, "binance.0", feed.fold.dump())
        after = ((request.after or 0) - first) // SECOND + 1
        ranges.append((request.first, request.last, after))
        page = [n for n in range(after, 10) if n != 2][:4]  # the one before is in it, too (Kraken)
        rows = [
            {
                "id": n,
                "price": "1.5",
                "qty": "2",
                "time": first // 1_000_000 + 1000 * (n - 1),
                "isBuyerMaker": True,
            }
            for n in page
        ]
        rest = by_time(BTC, request.first or "", request.last or "", request.after or 0)
        feed.say("a.*", "h", Answer(rest, 200, json.dumps(rows), request.id))
        asked = feed.asked()
    assert ranges == [
        ("2", "5", 1),
        ("2", "2", 1),
        ("2", "2", 1),
        ("2", "2", 1),
        ("6", "9", 5),
        ("9", "9", 8),
    ]
    assert len(feed.of(Trade)) == 9


def test_a_backfill_that_cannot_be_read_is_given_up_in_the_end_and_the_next_hole_asked_for(
    feed: Feed,
) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 5, 9)
    [request] = feed.asked()
    tries = 0
    while request.first == "2":
        tries += 1
        feed.answer(request, 200, [{"id": 2, "price": None}])
        [request] = feed.asked()
    assert (request.first, request.last) == ("6", "8")
    assert tries == MOST_UNREAD


def test_a_backfill_of_what_came_otherwise_meanwhile_is_no_failure(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.open("b.1", "trade")
    feed.trade("a.1", 1)
    for number in (2, 4):
        feed.trade("b.1", number - 1)
        feed.trade("a.1", number + 1)
        feed.wait(3, "a", "b")
        [request] = feed.asked()
        feed.trade("b.1", number, number + 1)
        feed.backfill(request, number)
        assert not feed.asked()
    feed.trade("a.1", 7)
    feed.wait(3, "a", "b")
    [request] = feed.asked()
    feed.backfill(request)
    assert [request.first for request in feed.asked()] == ["6"]


def test_a_backfill_of_a_part_asks_for_the_rest(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 9)
    feed.backfill(feed.asked()[0], 2, 3)
    assert [(request.first, request.last) for request in feed.asked()] == [("4", "8")]


def test_a_backfill_whose_answer_never_comes_is_asked_again(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 5)
    assert len(feed.asked()) == 1
    feed.wait(61, "a")
    assert [request.first for request in feed.asked() if request.op == "backfill"] == ["2"]


def test_a_trade_that_another_leg_brings_late_fills_the_hole(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1, 5)
    feed.open("b.1", "trade")
    feed.events()
    feed.trade("b.1", 3, 2, 4)
    assert feed.said()[-4:] == ["trade 3", "trade 2", "trade 4", "gap trade 2..4 filled"]


def test_ids_that_start_again_later_are_a_reset_of_the_venue(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1_000_000)
    feed.events()
    feed.now += SECOND
    feed.trade("a.1", 7, 8)
    assert feed.said() == ["gap trade None..None sequence", "trade 7", "trade 8"]
    assert feed.out.counts["tapeline_duplicates_total", "venue_reset"] == 1


def test_what_was_held_at_a_reset_passes_before_it_and_no_trade_twice(feed: Feed) -> None:
    for conn in ("a.1", "b.1"):
        feed.open(conn, "trade")
        feed.trade(conn, 1_000_000)
    feed.trade("a.1", 1_000_003)
    feed.events()
    before, feed.now = feed.now, feed.now + SECOND
    feed.trade("a.1", 7)
    feed.trade("b.1", 1_000_000, 1_000_003, time=before // 1_000_000)  # it lags
    feed.trade("b.1", 7, 8)
    feed.wait(3, "a", "b")
    feed.trade("a.1", 9)
    assert [line for line in feed.said() if line != "tick"] == [
        "gap trade 1000001..1000002 sequence",
        "trade 1000003",
        "gap trade None..None sequence",
        "trade 7",
        "trade 8",
        "trade 9",
    ]


def test_after_a_reset_a_slower_leg_is_waited_for_like_before(feed: Feed) -> None:
    for conn in ("a.1", "b.1"):
        feed.open(conn, "trade")
        feed.trade(conn, 1_000_000)
    feed.now += SECOND
    for conn in ("a.1", "b.1"):
        feed.trade(conn, 7, 8)
    feed.events()
    feed.trade("a.1", 11)
    feed.trade("b.1", 9, 10, 11)
    assert feed.said() == ["trade 9", "trade 10", "trade 11"]


@pytest.mark.parametrize("ids", ["contiguous", "increasing"])
def test_a_leg_that_gives_former_ids_after_a_reset_costs_no_trade_and_no_other_reset(ids: Any) -> None:
    feed = Feed(replace(WATCHED, trade_ids=ids))
    for conn in ("a.1", "b.1"):
        feed.open(conn, "trade")
        feed.trade(conn, 1_000_000)
    feed.trade("a.1", 1_000_001)
    before, feed.now = feed.now // 1_000_000, feed.now + SECOND
    feed.events()
    for number in (7, 8):
        feed.trade("a.1", number)
        feed.trade("b.1", 999_994 + number, time=before)
    feed.trade("a.1", 9)
    feed.trade("b.1", 7, 8, 9)
    passed = ["1000002"] if ids == "increasing" else []  # dropped, it would be missing without a word
    assert [e.id if isinstance(e, Trade) else e.cause for e in feed.of(Trade, Gap)] == [
        "sequence", "7", "8", *passed, "9",
    ]  # fmt: skip
    feed.trade("a.1", 12)  # the other is behind, whatever it gave before
    feed.trade("b.1", 10, 11, 12)
    assert sorted(feed.said()) == ["trade 10", "trade 11", "trade 12"]
    feed.say("b.1", "f", b"{")
    assert [gap.first for gap in feed.of(Gap)] == (["13"] if ids == "increasing" else [])


def test_former_ids_are_forgotten_like_any_and_take_no_new_one_for_old() -> None:
    feed = Feed(replace(WATCHED, trade_ids="increasing"))
    feed.open("a.1", "trade")
    feed.trade("a.1", *range(1_000_000, 1_004_000))
    feed.now += SECOND
    feed.trade("a.1", *range(1, 1_000, 2))
    feed.trade("a.1", *range(1_000, 1_600))
    feed.events()
    feed.trade("a.1", 2)
    assert [trade.id for trade in feed.of(Trade)] == ["2"]


def test_an_old_trade_repeated_is_a_duplicate_not_a_reset(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 500_000)
    feed.trade("a.1", *range(500_001, 500_010))
    feed.events()
    feed.trade("a.1", 500_000, 12, time=feed.now // 1_000_000 - 5)
    assert feed.said() == []


@pytest.mark.parametrize("ids", ["increasing", "unordered"])
def test_where_ids_tell_no_holes_two_legs_give_each_trade_once(ids: Any) -> None:
    venue = replace(WATCHED, trade_ids=ids)
    feed = Feed(venue)
    feed.open("a.1", "trade")
    feed.open("b.1", "trade")
    feed.trade("a.1", 5, 700, 900)
    feed.trade("b.1", 5, 700)
    feed.fold = Normalize(venue, "binance.0", feed.fold.dump())
    feed.close("a.1")
    feed.trade("b.1", 900, 901)
    feed.open("a.2", "trade")
    feed.trade("a.2", 901, 2000, 2003)
    feed.trade("b.1", 1500, 2000, 2003)  # it lags: 1500 came before 2000, and a.2 began later
    told = [(e.id if isinstance(e, Trade) else e.channel) for e in feed.of(Trade, Gap)]
    assert told == ["5", "700", "900", "901", "2000", "2003", "1500"]
    assert feed.out.counts["tapeline_duplicates_total", "trade"] == 6
    assert not feed.asked()


@pytest.mark.parametrize(("ids", "first"), [("increasing", "901"), ("unordered", None)])
def test_where_ids_tell_no_holes_the_end_of_the_last_connection_is_one(ids: Any, first: str | None) -> None:
    feed = Feed(replace(WATCHED, trade_ids=ids))
    feed.open("a.1", "trade")
    feed.open("b.1", "trade")
    feed.trade("a.1", 5, 900)
    feed.trade("b.1", 5)
    feed.close("a.1")
    assert not feed.of(Gap)
    feed.close("b.1")
    [gap] = feed.of(Gap)
    assert (gap.channel, gap.cause, gap.first, gap.last) == ("trade", "disconnect", first, None)
    assert not feed.asked()


def test_what_was_left_to_a_connection_that_never_spoke_is_missing_when_it_ends() -> None:
    venue = replace(WATCHED, trade_ids="increasing")
    feed = Feed(venue)
    for conn in ("a.1", "b.1"):
        feed.open(conn, "trade", "l1")
    feed.trade("a.1", 5)
    feed.l1("a.1", 7)
    feed.close("a.1")  # b.1 would give what comes
    assert not feed.of(Gap)
    feed.fold = Normalize(venue, "binance.0", feed.fold.dump())
    feed.close("b.1")
    gaps = feed.of(Gap)
    assert [(gap.channel, gap.cause, gap.first) for gap in gaps] == [
        ("trade", "disconnect", "6"),
        ("l1", "disconnect", None),
    ]


def test_where_ids_tell_no_holes_a_frame_that_cannot_be_read_may_have_been_a_trade() -> None:
    feed = Feed(replace(WATCHED, trade_ids="increasing"))
    feed.open("a.1", "trade", "l1")
    feed.trade("a.1", 5)
    feed.say("a.1", "f", b"{")
    feed.say("a.1", "f", b"{")  # says nothing more: the hole has no end yet
    feed.trade("a.1", 9)
    feed.open("b.1", "trade")
    feed.now += 3 * SECOND
    feed.say("a.1", "f", b"{")  # b, which has been there for a while, would bring it
    assert [(e.id if isinstance(e, Trade) else (e.channel, e.first)) for e in feed.of(Trade, Gap)] == [
        "5", ("trade", "6"), "9",
    ]  # fmt: skip
    feed = Feed()
    feed.open("a.1", "trade")
    feed.trade("a.1", 5)
    feed.say("a.1", "f", b"{")  # here the next id tells
    assert not feed.of(Gap)


def test_where_no_later_change_would_tell_a_frame_that_cannot_be_read_may_have_been_a_book_s() -> None:
    feed = Feed(replace(WATCHED, book_rule=replace(WATCHED.book_rule, chain="none")))
    feed.open("a.1", "book", "trade")
    feed.open("b.1", "book")
    feed.open("b.2", "book", symbol="ETH-USDT")
    feed.say("b.1", "s", binance.subscribe([("book", "ETH-USDT")], KNOWN, 99)[0])

    def lost(conn: str, frame: bytes) -> list[tuple[str | None, str | None]]:
        feed.say(conn, "f", frame)
        return [(gap.symbol, gap.conn) for gap in feed.of(Gap) if gap.channel == "book"]

    assert lost("a.1", b"{") == [("BTC-USDT", "a.1")]
    assert lost("b.1", b"{") == [("BTC-USDT", "b.1"), ("ETH-USDT", "b.1")]  # of either
    assert lost("b.1", b'{"s":"ETHUSDT","u":') == [("ETH-USDT", "b.1")]  # it names one
    assert lost("b.1", b'{"s":"ETHUSDT') == [
        ("BTC-USDT", "b.1"),
        ("ETH-USDT", "b.1"),
    ]  # or the half of another
    assert lost("b.1", b'{"s":"BTCUSDT-PERP","') == [("BTC-USDT", "b.1"), ("ETH-USDT", "b.1")]
    feed = Feed()
    feed.open("a.1", "book")
    assert lost("a.1", b"{") == []  # here the next number tells


@pytest.mark.parametrize(
    ("frame", "channels"),
    [
        (b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy",null,"1"]]}', ["book"]),
        (b'{"type":"ticker","product_id":"BTC-USD","price":null}', []),
        (b'{"type":"match","product_id":"BTC-USD","price":null}', []),  # its ids tell
        (b'{"type":"l2up', ["book"]),
    ],
)
def test_a_frame_that_cannot_be_read_takes_no_more_than_its_own_channel(
    frame: bytes, channels: list[str]
) -> None:
    feed = Feed(coinbase.VENUE)
    feed.say("a.*", "i", COINBASE["BTC-USD"])
    feed.say("a.1", "o", b"ws://x")
    feed.say("a.1", "s", coinbase.subscribe([("book", "BTC-USD"), ("trade", "BTC-USD")], COINBASE, 1)[0])
    feed.say("a.1", "f", frame)
    assert [gap.channel for gap in feed.of(Gap)] == channels


def test_a_quiet_channel_that_its_successor_has_acknowledged_leaves_no_gap() -> None:
    feed = Feed(replace(WATCHED, trade_ids="increasing"))
    feed.open("a.1", "trade", "ticker")
    feed.trade("a.1", 5)
    feed.open("a.2", "trade", acked=False)
    feed.close("a.1")
    assert [gap.first for gap in feed.of(Gap)] == ["6"]  # what came before the consent nobody heard
    feed.ack("a.2", feed.ids)
    feed.trade("a.2", 7)
    feed.open("a.3", "trade")
    feed.close("a.2")
    assert not feed.of(Gap)


def test_a_channel_that_had_nothing_to_give_yet_leaves_a_gap_when_its_last_connection_closes() -> None:
    feed = Feed(replace(WATCHED, trade_ids="unordered"))
    feed.open("a.1", "trade", "book")
    feed.open("b.1", "trade")
    feed.close("a.1")
    assert not feed.of(Gap)
    feed.close("b.1")
    assert [(gap.channel, gap.cause) for gap in feed.of(Gap)] == [("trade", "disconnect")]


def test_increasing_ids_that_start_again_later_are_a_reset_of_the_venue() -> None:
    feed = Feed(replace(WATCHED, trade_ids="increasing"))
    feed.open("a.1", "trade")
    feed.trade("a.1", 900_000)
    feed.wait(1, "a")
    feed.trade("a.1", 5, 9)
    assert [e.id if isinstance(e, Trade) else e.cause for e in feed.of(Trade, Gap)] == [
        "900000", "sequence", "5", "9",
    ]  # fmt: skip
    assert feed.out.counts["tapeline_duplicates_total", "venue_reset"] == 1
    feed.say("a.1", "f", b"{")
    assert [gap.first for gap in feed.of(Gap)] == ["10"]


def talkative(frame: bytes, scratch: Scratch) -> list[Decoded]:
    """Decode as Binance does, and what only other venues say."""
    said: dict[str, Any] = json.loads(frame)
    head = ("binance", "BTC-USDT", None, scratch.recv, None)
    tells: dict[str, Callable[[Any], Decoded]] = {
        "latest": lambda number: Latest("BTC-USDT", number),
        "missed": lambda _: Missed(),
        "ended": lambda channel: Acked(items=[(channel, "BTC-USDT")], op="unsubscribe"),
        "yes": lambda items: Acked(items=items and [(channel, symbol) for channel, symbol in items]),
        "no": lambda number: Refused("no", number, whole=True),
        "mark": lambda price: Funding(*head, mark=price),
        "rate": lambda rate: Funding(*head, rate=rate),
        "last": lambda price: Ticker(*head, last=price),
    }
    [(name, value), *_] = said.items()
    return [tells[name](value)] if name in tells else binance.decode(frame, scratch)


TALKATIVE = replace(WATCHED, decode=talkative)


def hear(feed: Feed, **said: Any) -> None:
    feed.say("a.1", "f", json.dumps(said).encode())


def test_the_latest_trade_before_the_subscription_is_no_news_and_seeds_the_ids() -> None:
    feed = Feed(TALKATIVE)
    feed.open("a.1", "trade")
    hear(feed, latest=10)
    assert not feed.of(Trade, Gap)
    feed.trade("a.1", 13)
    feed.wait(1, "a")
    assert [(e.id if isinstance(e, Trade) else (e.first, e.last)) for e in feed.of(Trade, Gap)] == [
        ("11", "12"), "13",
    ]  # fmt: skip


@pytest.mark.parametrize("reloaded", [False, True])
def test_a_latest_trade_that_does_not_come_is_a_gap_and_backfilled(reloaded: bool) -> None:
    feed = Feed(TALKATIVE)
    feed.open("a.1", "trade")
    feed.trade("a.1", 5)
    feed.events()
    hear(feed, latest=7)
    if reloaded:
        feed.fold = Normalize(TALKATIVE, "binance.0", feed.fold.dump())
    feed.wait(2, "a")
    hear(feed, latest=9)  # the wait is for 7 still
    assert not feed.of(Trade, Gap)
    feed.wait(1, "a")
    [gap] = feed.of(Trade, Gap)
    assert (gap.cause, gap.first, gap.last) == ("sequence", "6", "7")
    [request] = feed.asked()
    assert (request.op, request.first, request.last) == ("backfill", "6", "7")
    feed.trade("a.1", 6, 8)  # late is as good as backfilled
    feed.backfill(request, 6, 7)
    assert [(e.id if isinstance(e, Trade) else e.filled) for e in feed.of(Trade, Gap)] == [
        "6",
        "8",
        "7",
        True,
    ]


def test_a_latest_trade_of_former_ids_is_not_missed_after_a_reset() -> None:
    feed = Feed(TALKATIVE)
    feed.open("a.1", "trade")
    feed.trade("a.1", 1_000_000)
    hear(feed, latest=1_000_002)
    feed.now += SECOND
    feed.trade("a.1", 7)
    feed.events()
    feed.wait(3, "a")
    hear(feed, latest=9)
    feed.wait(3, "a")
    assert [(gap.first, gap.last) for gap in feed.of(Gap)] == [("8", "9")]


def test_a_latest_trade_that_comes_or_is_not_asked_for_is_no_gap() -> None:
    feed = Feed(TALKATIVE)
    feed.open("a.1", "trade")
    feed.trade("a.1", 5)
    hear(feed, latest=6)
    feed.trade("a.1", 6, 7)
    hear(feed, latest=6)
    feed.wait(5, "a")
    assert not feed.of(Gap)
    feed = Feed(TALKATIVE)
    feed.open("a.1", "book")
    hear(feed, latest=6)
    hear(feed, latest=9)
    feed.wait(5, "a")
    assert not feed.of(Gap)
    assert not feed.asked()


def test_frames_lost_on_the_way_are_a_gap_of_what_no_other_connection_gives() -> None:
    venue = replace(TALKATIVE, trade_ids="increasing")
    feed = Feed(venue)
    feed.open("a.1", "trade", "l1", "book")
    feed.trade("a.1", 5, 900)
    feed.l1("a.1", 7)
    feed.depth("a.1", 1, 2)
    hear(feed, missed=True)
    gaps = {gap.channel: (gap.cause, gap.first, gap.last) for gap in feed.of(Gap)}
    assert gaps == {"trade": ("sequence", "901", None), "l1": ("sequence", "7", None)}
    feed.open("b.1", "trade")
    feed.trade("b.1", 900)
    hear(feed, missed=True)
    assert [gap.channel for gap in feed.of(Gap)] == ["l1"]
    assert feed.out.counts["tapeline_gaps_total", "trade/sequence"] == 1


def test_an_end_acknowledged_by_its_item_is_followed_by_the_new_subscription_at_once() -> None:
    feed = Feed(TALKATIVE)
    feed.open("a.1", "book", "l1")
    feed.subscribe("a.1", "book", op="unsubscribe")
    feed.asked()
    hear(feed, ended="l1")  # of what nobody ended
    assert not feed.asked()
    hear(feed, ended="book")
    assert [(request.op, request.channel) for request in feed.asked()] == [("subscribe", "book")]


def test_a_late_tick_gives_a_slower_leg_its_time_again(feed: Feed) -> None:
    for conn in ("a.1", "b.1"):
        feed.open(conn, "trade")
        feed.trade(conn, 1)
    feed.tick("a", "b", after_s=1)
    feed.trade("a.1", 3)
    feed.events()
    feed.tick("a", "b", after_s=60)  # an outage of ours: what b heard comes after it
    feed.fold = Normalize(WATCHED, "binance.0", feed.fold.dump())
    feed.trade("a.1", 4)
    feed.tick("a", "b", after_s=1)
    feed.trade("b.1", 2)
    assert feed.said() == ["tick", "tick", "trade 2", "trade 3", "trade 4"]
    assert not feed.asked()


def test_a_late_tick_gives_the_latest_trade_its_time_again() -> None:
    feed = Feed(TALKATIVE)
    feed.open("a.1", "trade")
    feed.trade("a.1", 5)
    feed.tick("a", after_s=1)
    hear(feed, latest=6)
    feed.tick("a", after_s=60)
    feed.trade("a.1", 6)
    feed.wait(5, "a")
    assert not feed.of(Gap)


def test_holes_are_bounded(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", *range(1, 500, 2))
    assert len(feed.of(Gap)) == 249
    assert len(feed.fold._state.marks["BTC-USDT"].holes) == MOST_HOLES


# ---- what comes from one connection only ----------------------------------------------------------------


def test_l1_comes_from_the_active_connection_and_books_from_each_with_its_name(feed: Feed) -> None:
    for conn in ("a.1", "b.1"):
        feed.open(conn, "l1", "book")
    feed.events()
    feed.l1("a.1", 1)
    feed.l1("b.1", 1)
    feed.depth("a.1", 1, 1)
    feed.depth("b.1", 1, 1)
    events = feed.of(L1, BookDelta)
    assert [event.seq for event in events if isinstance(event, L1)] == [1]
    assert [event.conn for event in events if isinstance(event, BookDelta)] == ["a.1", "b.1"]


def test_the_other_connection_takes_over_when_the_active_one_falls_silent(feed: Feed) -> None:
    for conn in ("a.1", "b.1"):
        feed.open(conn, "l1", "ticker")
        feed.l1(conn, 1)
    for second in range(62):
        feed.l1("b.1", 2 + second)
        feed.tick("a", "b", after_s=1)
    feed.events()
    feed.l1("b.1", 100)
    assert feed.said() == ["l1 100"]


@pytest.mark.parametrize("end", ["asked for anew", "ended, and refused"])
def test_the_other_connection_takes_over_while_the_active_one_is_subscribed_anew(
    feed: Feed, end: str
) -> None:
    for conn in ("a.1", "b.1"):
        feed.open(conn, "l1")
        feed.l1(conn, 1)
    feed.events()
    if end == "asked for anew":
        feed.subscribe("a.1", "l1")
    else:
        feed.ack("a.1", feed.subscribe("a.1", "l1", op="unsubscribe"))
        number = feed.subscribe("a.1", "l1")
        feed.say("a.1", "f", b'{"code":2,"msg":"no","id":%d}' % number)
    feed.l1("b.1", 2)
    feed.l1("a.1", 3)  # it lives, but is no longer the active one
    assert feed.said() == ["l1 2"]


def test_a_leg_s_silent_item_is_told_with_its_connection_while_another_gives_it(feed: Feed) -> None:
    for conn in ("a.1", "b.1"):
        feed.open(conn, "book")
        feed.depth(conn, 1, 1)
    for second in range(62):
        feed.depth("b.1", 2 + second, 2 + second)
        feed.tick("a", "b", after_s=1)
    stale = [event for event in feed.of(Status) if event.state == "stale"]
    assert {(event.conn, event.channel) for event in stale} == {("a.1", None), ("a.1", "book")}


# ---- silence and refusal --------------------------------------------------------------------------------


def test_an_item_silent_among_others_is_subscribed_anew_then_its_connection_replaced(feed: Feed) -> None:
    feed.open("a.1", "l1", "book")
    story: list[str] = []
    for _ in range(260):
        feed.l1("a.1", feed.k)
        feed.tick("a", after_s=1)
        for request in feed.asked():
            story.append(f"{request.op} {request.channel or request.conn}")
            if request.op == "resubscribe":
                number = feed.subscribe("a.1", "book", op="unsubscribe")
                feed.ack("a.1", number)
            if request.op == "subscribe":
                feed.ack("a.1", feed.subscribe("a.1", "book"))
    assert story == ["resubscribe book", "subscribe book", "reconnect a.1"]
    states = [event.state for event in feed.of(Status) if event.channel == "book" and event.conn is None]
    assert states[:6] == ["wanted", "subscribed", "stale", "resyncing", "wanted", "subscribed"]


def test_the_steps_to_wake_an_item_grow_rarer(feed: Feed) -> None:
    times: list[int] = []
    feed.open("a.1", "l1", "book")
    for second in range(3600):
        if second % 10 == 0:
            feed.l1("a.1", feed.k)
        feed.tick("a", after_s=1)
        times += [second for request in feed.asked() if request.op in ("resubscribe", "reconnect")]
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) <= 7
    assert waits == sorted(waits)


@pytest.mark.parametrize("busy", [True, False])
def test_what_is_quiet_by_nature_is_left_alone_and_costs_its_neighbours_nothing(busy: bool) -> None:
    asked: list[tuple[int, str]] = []
    feed = Feed()
    feed.open("a.1", "l1", "book")
    for second in range(7200):
        if busy and second % 10 == 0:
            feed.l1("a.1", feed.k)
        if second % 90 == 0:
            feed.depth("a.1", second + 1, second + 1)
        feed.tick("a", after_s=1)
        asked += [(second, request.op) for request in feed.asked()]
    times = [second for second, _ in asked]
    waits = [later - earlier for earlier, later in pairwise(times)]
    if busy:  # the book alone is quiet
        assert {op for _, op in asked} == {"resubscribe"}
        assert waits == sorted(waits)
        assert len(times) < 8
    else:
        assert [op for _, op in asked].count("reconnect") < 2 + 7200 / 300
    feed.now += 3600 * SECOND  # well for long: it begins anew
    feed.depth("a.1", 9000, 9000)
    feed.l1("a.1", feed.k)
    for _ in range(200):
        feed.l1("a.1", feed.k)
        feed.tick("a", after_s=1)
    assert [request.op for request in feed.asked()][:1] == ["resubscribe"]


def test_a_book_that_was_granted_and_has_not_changed_is_told_with_its_connection() -> None:
    feed = Feed()
    feed.open("a.1", "book", "l1")
    feed.open("b.1", "book")
    feed.depth("b.1", 1, 1)
    feed.events()
    feed.wait(3, "a", "b")
    assert not feed.of(Status)
    feed.wait(9, "a", "b")
    [status] = feed.of(Status)
    assert (status.channel, status.state, status.conn) == ("book", "subscribed", "a.1")
    assert status.reason == "no change yet"
    streamed = replace(WATCHED, book_rule=replace(WATCHED.book_rule, snapshot="stream"))
    feed = Feed(streamed)
    feed.open("a.1", "book")
    feed.events()
    feed.wait(9, "a")
    assert not feed.of(Status)


def test_a_symbol_s_heartbeat_keeps_its_subscriptions_and_no_other_s() -> None:
    feed = Feed(replace(TALKATIVE, silence_s={"trade": 10.0, "l1": 10.0}, first_s={"l1": 5.0}))
    feed.open("a.1", "trade", "l1")
    feed.open("a.2", "trade", symbol="ETH-USDT")
    feed.trade("a.1", 1)
    feed.events()
    for _ in range(20):
        hear(feed, latest=1)
        feed.frame("a.2", "other")
        feed.tick("a", after_s=1)
    assert [said for said in feed.said() if "stale" in said] == [
        "BTC-USDT l1 stale",  # its first frame never came
        "ETH-USDT trade stale",
    ]
    feed.wait(12, "a")
    assert "BTC-USDT trade stale" in feed.said()


def test_a_mark_price_from_a_channel_of_its_own_proves_nothing_of_the_rate() -> None:
    feed = Feed(replace(TALKATIVE, rate_alone=True, silence_s={"funding": 60.0}))
    feed.open("a.1")
    feed.say("a.1", "s", Subscription("subscribe", [("funding", "BTC-USDT")], ""))
    hear(feed, yes=[["funding", "BTC-USDT"]])
    hear(feed, mark="5")
    assert [event.mark for event in feed.of(Funding)] == ["5"]
    hear(feed, rate="1")
    assert feed.said()[-2:] == ["BTC-USDT funding live", "funding"]
    for _ in range(70):
        hear(feed, mark="6")
        feed.tick("a", after_s=1)
    assert "BTC-USDT funding stale" in feed.said()
    assert [request.op for request in feed.asked()] == ["resubscribe"]


def test_a_connection_that_gives_nothing_is_stale_and_replaced_once_a_minute(feed: Feed) -> None:
    feed.open("a.1", "l1", "book", "ticker")
    feed.l1("a.1", 1)
    feed.events()
    feed.wait(30, "a")
    assert feed.asked() == []
    feed.wait(2, "a")
    assert [(r.op, r.conn, r.reason) for r in feed.asked()] == [("reconnect", "a.1", "silent")]
    assert "a.1 stale" in feed.said()
    feed.wait(50, "a")
    assert feed.asked() == []
    feed.l1("a.1", 2)
    assert {"a.1 live", "BTC-USDT l1 live", "l1 2"} <= set(feed.said())


UNNUMBERED = replace(TALKATIVE, trade_ids="unordered")


def follow(feed: Feed, seconds: int, *prices: str) -> None:
    """Hear a ticker each second, of one price after another and then the last again, and ticks."""
    for n in range(seconds):
        hear(feed, last=prices[min(n, len(prices) - 1)])
        feed.tick("a", "b", after_s=1)


@pytest.mark.parametrize("reloaded", [False, True])
@pytest.mark.parametrize("heard", [True, False])
def test_trades_that_do_not_come_while_their_ticker_moves_are_missing_and_asked_for_anew(
    heard: bool, reloaded: bool
) -> None:
    feed = Feed(UNNUMBERED)
    feed.open("a.1", "trade", "ticker")
    if heard:
        feed.trade("a.1", 1)
    follow(feed, 50, "5", "6", "7", "8")
    assert not feed.of(Gap)
    assert feed.asked() == []
    if reloaded:
        feed.fold = Normalize(UNNUMBERED, "binance.0", feed.fold.dump())
    follow(feed, 15, "8")
    told = feed.of(Gap, Status)
    assert [(s.channel, s.state, s.reason) for s in told if isinstance(s, Status)] == [
        ("trade", "stale", "its ticker moves, and no trade comes")
    ]
    assert [(g.channel, g.cause, g.filled) for g in told if isinstance(g, Gap)] == [
        ("trade", "disconnect", False)
    ]
    assert [(r.op, r.channel, r.conn) for r in feed.asked()] == [("resubscribe", "trade", "a.1")]
    feed.trade("a.1", 9)
    assert "BTC-USDT trade live" in feed.said()
    follow(feed, 100, "8")
    assert not feed.of(Gap)


def test_a_ticker_that_moves_with_its_trades_or_hardly_says_nothing_of_them() -> None:
    feed = Feed(UNNUMBERED)
    feed.open("a.1", "trade", "ticker")
    for n in range(200):
        if n % 50 == 0:
            feed.trade("a.1", n)
        hear(feed, last=f"{n // 25}")  # each trade moves it twice
        feed.tick("a", after_s=1)
    follow(feed, 300, "7", "8")  # the second move since the last trade
    assert not feed.of(Gap)
    assert feed.asked() == []


def test_trades_that_are_silent_for_too_long_are_not_missing_for_one_move_of_their_ticker() -> None:
    feed = Feed(replace(UNNUMBERED, silence_s={"trade": 10.0}))
    feed.open("a.1", "trade", "ticker")
    feed.trade("a.1", 1)
    follow(feed, 12, "5", "6")
    told = feed.of(Gap, Status)
    assert [(s.channel, s.reason) for s in told if isinstance(s, Status) and s.state == "stale"] == [
        ("trade", "silent")
    ]
    assert not [gap for gap in told if isinstance(gap, Gap)]


def test_a_ticker_without_trades_beside_it_is_no_reason_to_act() -> None:
    feed = Feed(UNNUMBERED)
    feed.open("a.1", "ticker")
    feed.open("b.1", "trade")
    follow(feed, 200, *map(str, range(150)))
    assert not feed.of(Gap)
    assert [request.channel for request in feed.asked()] == []


def test_trades_that_another_connection_gives_are_not_missing() -> None:
    feed = Feed(UNNUMBERED)
    feed.open("a.1", "trade", "ticker")
    feed.open("b.1", "trade")
    feed.trade("b.1", 1)
    follow(feed, 65, "5", "6", "7", "8")
    assert not feed.of(Gap)
    assert [(r.op, r.channel, r.conn) for r in feed.asked()] == [("resubscribe", "trade", "a.1")]


def test_tickers_that_are_read_together_with_their_trades_after_an_outage_are_explained_by_them() -> None:
    feed = Feed(TALKATIVE)
    feed.open("a.1", "trade", "ticker")
    feed.trade("a.1", 1)
    hear(feed, last="1.5")
    feed.tick("a", after_s=1)
    feed.tick("a", after_s=50)  # fold time stands there while what was heard meanwhile is read
    for number in range(2, 9):
        feed.trade("a.1", number)
        hear(feed, last=f"1.{number}")
    feed.events()
    for _ in range(70):
        feed.tick("a", after_s=1)
        hear(feed, last="1.8")
    assert not feed.of(Status, Gap)


def test_a_quiet_trade_channel_is_no_reason_to_act(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1)
    feed.wait(600, "a")
    assert feed.asked() == []


def test_a_subscription_never_acknowledged_is_sent_again(feed: Feed) -> None:
    feed.open("a.1", "book", "l1", acked=False)
    for _ in range(12):
        feed.l1("a.1", feed.k)
        feed.tick("a", after_s=1)
    assert [(r.op, r.channel, r.conn) for r in feed.asked()] == [("subscribe", "book", "a.1")]
    assert [line for line in feed.said() if "book stale" in line] == ["BTC-USDT book stale"]


def test_an_end_of_subscription_never_acknowledged_is_followed_by_the_new_one(feed: Feed) -> None:
    feed.open("a.1", "book", "l1")
    feed.depth("a.1", 1, 1)
    feed.subscribe("a.1", "book", op="unsubscribe")
    for _ in range(5):
        feed.l1("a.1", feed.k)
        feed.tick("a", after_s=1)
    assert feed.asked() == []
    feed.tick("a", after_s=1)
    assert [(r.op, r.channel) for r in feed.asked()] == [("subscribe", "book")]


def test_frames_under_way_do_not_put_off_the_new_subscription(feed: Feed) -> None:
    feed.open("a.1", "book")
    feed.depth("a.1", 1, 1)
    feed.subscribe("a.1", "book", op="unsubscribe")
    ops: list[str] = []
    for second in range(7):
        feed.depth("a.1", 2 + second, 2 + second)
        feed.tick("a", after_s=1)
        ops += [request.op for request in feed.asked()]
    assert ops == ["subscribe"]


def test_many_silent_items_replace_the_connection_instead_of_flooding_it(feed: Feed) -> None:
    feed.say("a.1", "o", b"ws://x")
    symbols = [f"S{n}-USDT" for n in range(20)]
    for n, symbol in enumerate(symbols):
        feed.say("a.*", "i", Instrument(symbol, f"S{n}USDT", f"S{n}", "USDT"))
    known = {symbol: Instrument(symbol, symbol.replace("-", ""), symbol[:-5], "USDT") for symbol in symbols}
    for sub in binance.subscribe([("book", symbol) for symbol in symbols], known, 50):
        feed.say("a.1", "s", sub)
        feed.ack("a.1", sub.id or 0)
    ops: list[str] = []
    for _ in range(120):
        feed.l1("a.1", feed.k)
        feed.tick("a", after_s=1)
        ops += [request.op for request in feed.asked()]
    assert ops == ["reconnect"]


def test_a_refusal_is_told_with_its_reason_and_tried_again_seldom(feed: Feed) -> None:
    feed.open("a.1", "l1", acked=True)
    number = feed.subscribe("a.1", "book")
    feed.events()
    feed.say("a.1", "f", b'{"code":2,"msg":"Invalid request","id":%d}' % number)
    (status,) = feed.of(Status)
    assert (status.state, status.channel, status.reason) == ("refused", "book", "2: Invalid request")
    times: list[int] = []
    for second in range(1000):
        feed.l1("a.1", feed.k)
        feed.tick("a", after_s=1)
        for request in feed.asked():
            assert request.op == "subscribe"
            times.append(second)
            number = feed.subscribe("a.1", "book")
            feed.say("a.1", "f", b'{"code":2,"msg":"Invalid request","id":%d}' % number)
    assert 3 <= len(times) <= 5


def test_a_refusal_that_names_nothing_is_of_the_only_thing_unanswered(feed: Feed) -> None:
    feed.open("a.1", "book", acked=False)
    feed.say("a.1", "f", b'{"code":2,"msg":"too many parameters"}')
    assert feed.said()[-1] == "BTC-USDT book refused"
    feed.say("a.1", "f", b'{"code":3,"msg":"Invalid JSON"}')
    assert feed.said() == []
    assert [letter["reason"] for letter in feed.dead()] == ["a refusal of nobody knows what: 3: Invalid JSON"]


def test_a_refusal_of_a_whole_frame_that_names_nothing_is_asked_again_one_by_one() -> None:
    feed = Feed(TALKATIVE)
    feed.open("a.1", "book", "trade", acked=False)
    hear(feed, no=feed.ids)
    assert "refused" not in str(feed.said())
    assert [(r.op, r.channel) for r in feed.asked()] == [("subscribe", "book"), ("subscribe", "trade")]
    first = feed.subscribe("a.1", "book")
    feed.subscribe("a.1", "trade")
    hear(feed, no=None)  # neither number nor name: the oldest
    assert "BTC-USDT book refused" in feed.said()
    feed.ack("a.1", first + 1)
    assert feed.said()[-1] == "BTC-USDT trade subscribed"
    assert feed.asked() == []


def test_consents_without_a_name_go_to_the_oldest_frame_that_is_neither_granted_nor_live() -> None:
    feed = Feed(TALKATIVE)
    feed.open("a.1")
    for channel in ("ticker", "l1", "trade", "book"):
        feed.subscribe("a.1", channel)
    hear(feed, yes=[["ticker", "BTC-USDT"]])  # by its name
    feed.l1("a.1", 1)  # its consent never comes
    hear(feed, yes=None)
    assert feed.said()[-2:] == ["l1 1", "BTC-USDT trade subscribed"]
    hear(feed, yes=None)
    assert feed.said() == ["BTC-USDT book subscribed"]
    feed.subscribe("a.1", "book", op="unsubscribe")
    hear(feed, yes=None)
    assert [(r.op, r.channel) for r in feed.asked()] == [("subscribe", "book")]


def test_frames_without_a_number_are_answered_in_their_order() -> None:
    feed = Feed(TALKATIVE)
    feed.open("a.1")
    for channel in ("book", "trade", "l1"):
        feed.say("a.1", "s", Subscription("subscribe", [(channel, "BTC-USDT")], ""))
    hear(feed, yes=[["book", "BTC-USDT"]])
    hear(feed, no=None)
    assert feed.said()[-1] == "BTC-USDT trade refused"
    hear(feed, no=None)
    assert feed.said() == ["BTC-USDT l1 refused"]
    hear(feed, no=None)
    assert [letter["reason"] for letter in feed.dead()] == ["a refusal of nobody knows what: no"]


def test_a_planned_end_asks_for_another_connection_once(feed: Feed) -> None:
    feed.open("a.1", "trade")
    for _ in range(3):
        feed.say("a.1", "f", b'{"e":"serverShutdown","E":1770123456789}')
    assert [(r.op, r.conn, r.reason) for r in feed.asked()] == [("reconnect", "a.1", "serverShutdown")]


# ---- REST -----------------------------------------------------------------------------------------------


SNAPSHOT = ControlRequest("bookbuilder/1/0", "snapshot", "BTC-USDT", "book", conn="a.1")
BODY = {"lastUpdateId": 7, "bids": [["1.0", "2.0"]], "asks": [["2.0", "1.0"]]}


def test_a_snapshot_carries_the_connection_it_was_asked_for(feed: Feed) -> None:
    feed.open("a.1", "book")
    feed.answer(SNAPSHOT, 200, BODY)
    (snapshot,) = feed.of(BookSnapshot)
    assert (snapshot.conn, snapshot.seq, snapshot.depth, snapshot.ts_event) == ("a.1", 7, 1000, None)
    assert snapshot.ts_recv == feed.now


def test_a_failed_snapshot_is_asked_again_once_and_ever_later(feed: Feed) -> None:
    feed.open("a.1", "book")
    delays = []
    for failure in ((429, "slow down"), (0, "timeout"), (200, "<html>"), (200, {"bids": []})):
        feed.answer(SNAPSHOT, *failure)
        feed.answer(SNAPSHOT, *failure)  # another asker's fails, too: no second chain of requests
        (request,) = feed.asked()
        assert (request.op, request.symbol, request.conn) == ("snapshot", "BTC-USDT", "a.1")
        delays.append(request.delay_s)
        feed.now += round((request.delay_s or 0) * SECOND)
    assert delays == [1, 2, 4, 8]
    assert [letter["stage"] for letter in feed.dead()] == ["normalizer"] * 4


def test_a_snapshot_for_a_closed_connection_is_dropped(feed: Feed) -> None:
    feed.open("a.1", "book")
    feed.close("a.1")
    feed.events()
    feed.answer(SNAPSHOT, 200, BODY)
    feed.answer(SNAPSHOT, 500, "no")
    assert feed.events() == []
    assert feed.asked() == []


# ---- bad frames -----------------------------------------------------------------------------------------


def test_a_bad_frame_is_counted_and_kept_and_disturbs_nothing(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.trade("a.1", 1)
    feed.events()
    bad = [b'{"stream":"btcusdt@tra', b'{"stream":"btcusdt@trade","data":{"e":"trade","p":null}}']
    bad.append(
        bad[1]
        .replace(b"null", b'"0"')
        .replace(b'"trade",', b'"trade","s":"BTCUSDT","t":2,"T":1700000000000,"q":"1","m":true,')
    )
    for frame in bad:
        feed.say("a.1", "f", frame)
    feed.trade("a.1", 2)
    assert feed.said() == ["trade 2"]
    letters = feed.dead()
    assert [letter["id"] for letter in letters] == [feed.k - 3, feed.k - 2, feed.k - 1]
    assert all(letter["partition"] == "binance.0" for letter in letters)
    assert letters[0]["record"].endswith('a.1 f {"stream":"btcusdt@tra')
    counts = {
        reason: n for (name, reason), n in feed.out.counts.items() if name == "tapeline_unparseable_total"
    }
    assert counts == {"malformed": 1, "schema": 1, "value": 1}


def test_a_huge_or_unreadable_record_is_cut_and_made_text(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.say("a.1", "f", b"\xff" * 100_000)
    (letter,) = feed.dead()
    assert len(letter["record"]) == 64 * 1024


def test_a_frame_that_the_connector_would_not_take_is_counted_and_kept(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.say("a.1", "x", raw.Closed(1009, "frame with 3000 bytes exceeds limit of 2000 bytes", "oversized"))
    feed.open("a.2", "trade")
    feed.close("a.2", "your frame is too big", 1009)  # the venue's word on ours
    (letter,) = feed.dead()
    assert letter["reason"] == "oversized: frame with 3000 bytes exceeds limit of 2000 bytes"
    assert 'a.1 x {"code":1009' in letter["record"]
    assert feed.out.counts["tapeline_unparseable_total", "oversized"] == 1


def test_a_binary_frame_is_decoded_like_any(feed: Feed) -> None:
    feed.open("a.1", "trade")
    feed.say("a.1", "b", b"eyJlIjoic2VydmVyU2h1dGRvd24iLCJFIjoxfQ==")
    assert [request.op for request in feed.asked()] == ["reconnect"]


def test_a_line_that_is_none_raises_so_that_the_loop_sets_it_aside(feed: Feed) -> None:
    for line in (b"", b"x", b"1 a.1 q {}", b"soon a.1 f {}", b"1 a.1 s {}", b"1 a.1 b ***"):
        with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
            feed.fold.fold(feed.k + 1, line, feed.out)


def test_time_is_the_largest_seen_and_a_tick_carries_it(feed: Feed) -> None:
    feed.events()
    feed.tick("a", after_s=5)
    feed.now -= 60 * SECOND
    feed.tick("a")
    assert [event.ts_recv for event in feed.of(Tick)] == [START + 5 * SECOND] * 2
