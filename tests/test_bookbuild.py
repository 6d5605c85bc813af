"""The fold from events to books: candidates, states, switches, what is asked and what is told."""

import json

import msgspec
import pytest
from msgspec.structs import replace

from actors.model import codec
from actors.model.events import (
    L1,
    Book,
    BookDelta,
    BookSnapshot,
    Gap,
    InstrumentEvent,
    Status,
    Tick,
    Ticker,
    Trade,
)
from actors.stages.book import BrokenChain, View
from actors.stages.bookbuild import Bookbuild
from actors.stages.control import ControlRequest
from actors.stages.fold import Output
from actors.venues.base import BookRule

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
RULE = BookRule(snapshot="rest", join="range", chain="range", depth=1000)
STREAM = BookRule(snapshot="stream", join="pointer", chain="pointer")
BIDS = [("99", "1"), ("98", "2")]
ASKS = [("101", "1"), ("102", "2")]


class Desk:
    """A fold, the events that go in, and a reader of each symbol of what comes out."""

    def __init__(self, rule=RULE, *, has_l1=True, state=None, k=0, now=START):
        self.bookbuild = Bookbuild("binance", rule, state, has_l1=has_l1)
        self.out = Output(("books", "control", "dead"))
        self.rule, self.has_l1 = rule, has_l1
        self.k = k
        self.now = now
        self.told = 0
        self.views = {}
        self.keys = {}

    def take(self, event):
        """Fold one event; return what it said in ``books``, read by the views."""
        self.k += 1
        self.out.clear()
        self.bookbuild.fold(self.k, codec.encode(event), self.out)
        self.keys |= {name: json.loads(text) for name, text in self.out.keys.items()}
        return self.read()

    def read(self):
        events = [codec.decode(line) for line in self.out.lines["books"]]
        for event in events:
            self.told += 1
            if isinstance(event, Book):
                self.views.setdefault(event.symbol, View()).apply(event, self.told)
        return events

    def asked(self):
        decode = msgspec.json.Decoder(ControlRequest).decode
        return [decode(line) for line in self.out.lines["control"]]

    def delta(self, first, last, *, conn="a.1", symbol="BTC-USDT", bids=(), asks=(), **fields):
        return self.take(
            BookDelta(
                "binance", symbol, self.now - 5, self.now, last, conn, list(bids), list(asks),
                first_seq=first, last_seq=last, **fields,
            )
        )  # fmt: skip

    def snapshot(self, seq, *, conn="a.1", symbol="BTC-USDT", bids=BIDS, asks=ASKS, **fields):
        return self.take(
            BookSnapshot(
                "binance", symbol, None, self.now, seq, conn, list(bids), list(asks), last_seq=seq, **fields
            )
        )

    def l1(self, *, symbol="BTC-USDT", bid="99", ask="101"):
        return self.take(L1("binance", symbol, None, self.now, 5, bid, "1", ask, "1"))

    def tick(self, seconds=1.0):
        self.now += int(seconds * SECOND)
        return self.take(Tick("binance", None, None, self.now, None))

    def status(self, state, *, symbol=None, channel=None, conn=None):
        return self.take(Status("binance", symbol, None, self.now, None, channel, state, "test", conn))

    def join(self, at=100, *, conn="a.1", **fields):
        self.delta(at, at, conn=conn, symbol=fields.get("symbol", "BTC-USDT"))
        return self.snapshot(at, conn=conn, **fields)

    def view(self, symbol="BTC-USDT"):
        return self.views[symbol]


def brief(events):
    """Say what was told in few words."""
    return [
        f"{e.type} {e.state}" + (" again" if e.periodic else "") if isinstance(e, Book)
        else f"gap {e.cause} {e.first}-{e.last}" if isinstance(e, Gap)
        else type(e).__name__
        for e in events
    ]  # fmt: skip


# One book


def test_a_book_is_asked_for_joined_and_followed():
    desk = Desk()
    assert brief(desk.delta(99, 100)) == ["snapshot resyncing"]
    request = desk.asked()[0]
    assert (request.id, request.op, request.symbol, request.conn) == (
        "bookbuilder/1/1", "snapshot", "BTC-USDT", "a.1",
    )  # fmt: skip
    whole = desk.snapshot(100)
    assert brief(whole) == ["snapshot live"]
    assert (whole[0].bids, whole[0].asks, whole[0].seq, whole[0].verified) == (BIDS, ASKS, 100, "sequence")
    delta = desk.delta(101, 102, bids=[("99", "0"), ("97.5", "3")])
    assert brief(delta) == ["delta live"]
    assert (delta[0].seq, delta[0].ts_event, delta[0].ts_recv) == (102, desk.now - 5, desk.now)
    assert desk.view().levels == ([("98", "2"), ("97.5", "3")], ASKS)
    assert desk.asked() == []


def test_prev_names_the_books_event_before_whatever_else_was_told_between():
    desk = Desk()
    desk.join()
    desk.join(symbol="ETH-USDT")
    desk.l1()
    first = desk.delta(101, 101, bids=[("97", "1")])[0]
    desk.l1()
    second = desk.delta(102, 102, bids=[("96", "1")])[0]
    assert (first.prev, second.prev) == (2, 6)
    assert desk.view().k == 8


def test_counts_continue_where_the_stream_ended_when_there_is_no_state():
    desk = Desk()
    desk.bookbuild.resume({"books": 1000, "control": 3})
    desk.told = 1000
    desk.join()
    assert desk.view().event.prev == 1001


def test_a_view_refuses_a_delta_that_does_not_continue_it():
    desk = Desk()
    desk.join()
    delta = desk.delta(101, 101, bids=[("97", "1")])[0]
    with pytest.raises(BrokenChain):
        View().apply(delta, 4)
    with pytest.raises(BrokenChain):
        desk.view().apply(delta, 9)
    assert desk.view().levels[0][-1] == ("97", "1")


def test_kinds_that_say_nothing_of_books_are_not_decoded():
    desk = Desk()
    for event in (
        Trade("binance", "BTC-USDT", 1, 2, 3, "3", "1", "1", "buy"),
        Ticker("binance", "BTC-USDT", 1, 2, 3),
    ):
        assert desk.take(event) == []
    desk.bookbuild.fold(9, b'{"kind":"trade", no JSON', desk.out)
    desk.bookbuild.fold(10, b"", desk.out)
    assert desk.read() == []


# Faults


def test_a_hole_is_named_then_the_book_is_resyncing_then_live_again():
    desk = Desk()
    desk.join()
    told = desk.delta(105, 106, bids=[("98", "7")])
    assert brief(told) == ["gap sequence 101-104", "snapshot resyncing"]
    assert (told[0].conn, told[0].channel, told[0].symbol) == ("a.1", "book", "BTC-USDT")
    assert (told[1].bids, told[1].verified) == ([], "none")
    assert desk.asked()[0].reason == "sequence jumped"
    assert desk.delta(107, 107) == []
    assert desk.view().levels == ([], [])
    assert brief(desk.snapshot(106)) == ["snapshot live"]
    assert desk.view().levels == (BIDS, ASKS)
    assert desk.out.counts["tapeline_events_total", "book"] == 1


def test_an_unanswered_request_is_made_again_by_ticks_with_another_id():
    desk = Desk()
    desk.delta(100, 100)
    ids = [desk.asked()[0].id]
    for _ in range(13):
        desk.tick()
        ids += [request.id for request in desk.asked()]
    assert ids == ["bookbuilder/1/1", "bookbuilder/5/1", "bookbuilder/13/1"]


def test_the_answer_to_a_connection_that_ended_makes_no_book():
    desk = Desk()
    desk.join()
    desk.status("down", conn="a.1")
    assert desk.snapshot(200) == []
    assert desk.bookbuild.states()["stale"] == 1


def test_a_crossed_book_is_told_without_levels_and_lost_when_it_lasts():
    desk = Desk()
    desk.join()
    told = desk.delta(101, 101, bids=[("101.5", "1")])
    assert brief(told) == ["snapshot crossed"]
    assert desk.view().levels == ([], [])
    assert desk.delta(102, 102, bids=[("97", "1")]) == []
    assert brief(desk.delta(103, 103, bids=[("101.5", "0")])) == ["snapshot live"]
    assert desk.view().levels == ([*BIDS, ("97", "1")], ASKS)
    desk.delta(104, 104, bids=[("101.5", "1")])
    assert desk.tick(2) == []
    assert brief(desk.tick(1)) == ["gap crossed 104-None", "snapshot resyncing"]
    assert desk.asked()[0].op == "snapshot"


def test_a_buffer_that_overflows_is_told(monkeypatch):
    monkeypatch.setattr("actors.stages.bookbuild.buffer.BUFFER_DELTAS", 2)
    desk = Desk()
    desk.delta(1, 1)
    desk.delta(2, 2)
    assert brief(desk.delta(3, 3)) == ["gap overflow 1-2"]


def test_a_book_that_loses_its_last_level_is_empty_and_live_with_the_next():
    desk = Desk()
    desk.join(bids=[("99", "1")], asks=[])
    assert brief(desk.delta(101, 101, bids=[("99", "0")])) == ["snapshot empty"]
    assert desk.view().verified == "sequence"
    assert brief(desk.delta(102, 102, asks=[("100", "1")])) == ["snapshot live"]
    assert desk.view().levels == ([], [("100", "1")])


def test_a_book_whose_known_levels_are_used_up_resyncs_without_a_gap_or_switches():
    desk = Desk(msgspec.structs.replace(RULE, depth=2))
    desk.join()
    gone = [("99", "0"), ("98", "0")]
    assert brief(desk.delta(101, 101, bids=gone)) == ["snapshot resyncing"]
    desk.snapshot(101, bids=[("97", "1"), ("96", "1")])
    desk.delta(102, 102)
    assert desk.view().levels[0] == [("97", "1"), ("96", "1")]
    desk.join(102, conn="b.1", bids=[("97", "1"), ("96", "1"), ("95", "1")])
    told = desk.delta(103, 103, bids=[("97", "0"), ("96", "0")])
    assert brief(told) == ["snapshot live"]
    assert desk.view().levels[0] == [("97", "1"), ("96", "1")]


def test_a_jump_of_the_input_is_a_gap_and_every_book_begins_again():
    desk = Desk()
    desk.join()
    desk.join(symbol="ETH-USDT")
    desk.out.clear()
    desk.bookbuild.jump(5, 90, "retention", desk.out)
    told = desk.read()
    assert brief(told) == ["gap retention 5-90", "snapshot resyncing", "snapshot resyncing"]
    assert told[0].symbol is None
    assert desk.tick() == []  # no connection is known to be alive: nothing to ask
    desk.k = 90
    desk.delta(700, 701)
    assert [request.op for request in desk.asked()] == ["snapshot"]


def test_what_the_normalizer_never_read_ends_every_book():
    desk = Desk()
    desk.join()
    gap = Gap("binance", None, None, desk.now, None, None, "retention", "1", "9")
    assert brief(desk.take(gap)) == ["snapshot resyncing"]


def test_dropped_frames_end_a_book_only_where_no_sequence_would_show_them():
    gap = Gap("binance", None, None, START, None, None, "overflow", None, None)
    desk = Desk()
    desk.join()
    assert desk.take(gap) == []
    desk = Desk(BookRule(snapshot="rest", join="none", chain="none", verified="none"))
    desk.join()
    assert brief(desk.take(gap)) == ["snapshot resyncing"]


def test_a_book_that_may_lack_a_change_resyncs_and_no_other():
    desk = Desk(BookRule(snapshot="rest", join="none", chain="none", verified="none"))
    desk.join()
    gap = Gap("binance", "BTC-USDT", None, desk.now, None, "book", "sequence", None, None, conn="a.9")
    assert desk.take(gap) == []
    told = desk.take(replace(gap, conn="a.1"))
    assert brief(told) == ["gap sequence 100-None", "snapshot resyncing"]
    assert desk.asked() == []
    desk.delta(None, 101)
    assert [request.op for request in desk.asked()] == ["snapshot"]


def test_a_book_that_was_granted_and_does_not_change_is_fetched_all_the_same():
    desk = Desk()
    desk.status("subscribed", symbol="BTC-USDT", channel="book", conn="a.1")
    assert [(request.op, request.conn) for request in desk.asked()] == [("snapshot", "a.1")]
    desk.snapshot(100)
    desk.tick(2)
    assert brief(desk.tick(2)) == ["snapshot live"]
    desk.status("subscribed", symbol="BTC-USDT", channel="book", conn="a.1")  # nothing new
    desk.status("subscribed", symbol="BTC-USDT", channel="book", conn="a.2")  # its successor
    assert [(request.op, request.conn) for request in desk.asked()] == [("snapshot", "a.2")]
    desk.snapshot(100, conn="a.2")
    desk.tick(4)
    assert brief(desk.status("down", conn="a.1")) == ["snapshot live"]
    assert brief(desk.delta(101, 101, conn="a.2", bids=[("98", "3")])) == ["delta live"]
    desk = Desk(BookRule(snapshot="stream", join="pointer", chain="pointer"))
    desk.status("subscribed", symbol="BTC-USDT", channel="book", conn="a.1")
    assert not desk.asked()  # the stream brings it


@pytest.mark.parametrize("snapshot", ["rest", "stream"])
def test_a_book_that_fell_silent_goes_on_only_where_a_number_would_tell_what_it_missed(snapshot):
    desk = Desk(BookRule(snapshot=snapshot, join="none", chain="none", verified="none"))
    desk.join()
    assert brief(desk.status("stale", symbol="BTC-USDT", channel="book")) == ["snapshot stale"]
    assert brief(desk.delta(None, 150, bids=[("98", "7")])) == ["snapshot resyncing"]
    assert brief(desk.snapshot(150)) == ["snapshot live"]
    desk = Desk()
    desk.join()
    assert brief(desk.status("stale", symbol="BTC-USDT", channel="book")) == ["snapshot stale"]
    assert brief(desk.delta(101, 101, bids=[("98", "7")])) == ["snapshot live"]


def test_a_book_that_never_spoke_is_not_joined_to_what_was_fetched_before_it_does():
    desk = Desk(BookRule(snapshot="rest", join="none", chain="none", verified="none"))
    desk.status("subscribed", symbol="BTC-USDT", channel="book", conn="a.1")
    desk.snapshot(100)
    assert brief(desk.tick(4)) == ["snapshot live"]
    assert brief(desk.status("stale", symbol="BTC-USDT", channel="book")) == ["snapshot stale"]
    desk.tick()
    desk.snapshot(200)  # granted and not served: what changes from now on is not heard
    desk.tick(4)
    desk.status("resyncing", symbol="BTC-USDT", channel="book")
    desk.status("subscribed", symbol="BTC-USDT", channel="book")
    told = [brief(desk.tick(60)), brief(desk.delta(None, 900, bids=[("98", "7")]))]
    assert told == [["snapshot stale again"], ["snapshot resyncing"]]
    assert brief(desk.snapshot(899)) == []
    assert brief(desk.snapshot(900)) == ["snapshot live"]


def test_what_is_fetched_once_it_is_granted_anew_will_do():
    desk = Desk(BookRule(snapshot="rest", join="none", chain="none", verified="none"))
    desk.join()
    desk.status("resyncing", symbol="BTC-USDT", channel="book")
    desk.tick()
    desk.snapshot(200)
    assert desk.tick(4) == []
    desk.status("subscribed", symbol="BTC-USDT", channel="book", conn="a.1")
    assert [(request.op, request.conn) for request in desk.asked()] == [("snapshot", "a.1")]
    desk.snapshot(300)
    assert brief(desk.tick(4)) == ["snapshot live"]
    desk.status("subscribed", symbol="BTC-USDT", channel="book", conn="a.1")
    assert desk.view().state == "live"
    desk.status("stale", symbol="BTC-USDT", channel="book")
    desk.status("subscribed", symbol="BTC-USDT", channel="book", conn="a.1")
    desk.snapshot(400)
    desk.tick(4)
    assert desk.view().state == "stale"  # until it speaks
    assert brief(desk.delta(None, 401, bids=[("98", "7")])) == ["snapshot live"]


# Connections


def test_the_close_of_the_only_connection_makes_books_stale_and_the_next_one_begins_anew():
    desk = Desk()
    desk.join()
    desk.join(symbol="ETH-USDT")
    told = desk.status("down", conn="a.1")
    assert brief(told) == ["snapshot stale", "snapshot stale"]
    assert desk.tick() == []
    assert brief(desk.delta(300, 300, conn="a.2")) == ["snapshot resyncing"]
    assert desk.asked()[0].conn == "a.2"
    assert brief(desk.snapshot(300, conn="a.2")) == ["snapshot live"]
    assert (desk.bookbuild.states()["live"], desk.bookbuild.states()["stale"]) == (1, 1)


def test_the_close_of_the_active_connection_switches_with_the_exact_difference():
    desk = Desk()
    desk.join()
    assert desk.join(conn="b.1", bids=[("99", "4"), ("97", "1")], asks=ASKS) == []
    desk.delta(101, 101, bids=[("99.5", "1")])
    assert desk.delta(101, 101, conn="b.1", bids=[("99.5", "1")]) == []
    told = desk.status("down", conn="a.1")
    assert brief(told) == ["delta live", "snapshot live"]
    assert (told[0].bids, told[0].asks) == ([("99", "4"), ("98", "0"), ("97", "1")], [])
    assert desk.view().levels == ([("99.5", "1"), ("99", "4"), ("97", "1")], ASKS)
    assert brief(desk.delta(102, 102, conn="b.1", asks=[("101", "0")])) == ["delta live"]


def test_a_hole_of_the_active_connection_switches_and_its_book_is_mended_beside():
    desk = Desk()
    desk.join()
    desk.join(conn="b.1")
    told = desk.delta(103, 103)
    assert brief(told) == ["gap sequence 101-102", "snapshot live"]  # no difference: both were at 100
    assert desk.asked()[0].conn == "a.1"
    assert desk.snapshot(103) == []
    assert brief(desk.delta(101, 103, conn="b.1", bids=[("99", "2")])) == ["delta live"]
    assert desk.delta(104, 104) == []


def test_a_switch_goes_to_the_candidate_that_is_furthest():
    desk = Desk()
    desk.join()
    desk.join(90, conn="b.1")
    desk.join(95, conn="b.2")
    desk.status("down", conn="a.1")
    assert desk.view().event.seq == 95


def test_silence_makes_a_book_stale_until_the_connection_speaks_again():
    desk = Desk()
    desk.join()
    assert brief(desk.status("stale", symbol="BTC-USDT", channel="book", conn="a.1")) == ["snapshot stale"]
    assert brief(desk.delta(101, 101, bids=[("99", "5")])) == ["snapshot live"]
    assert desk.view().levels[0][0] == ("99", "5")


def test_a_connection_that_speaks_again_brings_back_the_books_that_were_not_silent_themselves():
    desk = Desk()
    desk.join()
    desk.join(symbol="ETH-USDT")
    desk.status("stale", symbol="ETH-USDT", channel="book")
    assert brief(desk.status("stale", conn="a.1")) == ["snapshot stale"]
    assert brief(desk.status("live", conn="a.1")) == ["snapshot live"]
    assert (desk.bookbuild.states()["live"], desk.bookbuild.states()["stale"]) == (1, 1)
    assert brief(desk.delta(101, 101, symbol="ETH-USDT")) == ["snapshot live"]


def test_a_silent_active_connection_is_left_for_one_that_speaks():
    desk = Desk()
    desk.join()
    desk.join(conn="b.1")
    assert brief(desk.status("stale", conn="a.1")) == ["snapshot live"]
    assert desk.delta(101, 101) == []
    assert brief(desk.delta(101, 101, conn="b.1")) == ["delta live"]


@pytest.mark.parametrize("rule", [RULE, STREAM])
def test_a_book_that_is_subscribed_anew_begins_anew(rule):
    desk = Desk(rule)
    desk.join() if rule is RULE else desk.snapshot(100)
    said = desk.status("resyncing", symbol="BTC-USDT", channel="book")
    assert brief(said) == ["snapshot resyncing"]
    desk.tick(4)
    desk.delta(101, 101, prev_seq=100)  # still of the subscription that ends
    assert desk.view().state == "resyncing"
    said = desk.snapshot(150)
    assert brief(said) == ["snapshot live"]


def test_a_silent_book_that_is_subscribed_anew_stays_stale_until_it_speaks():
    desk = Desk()
    desk.join()
    desk.status("stale", symbol="BTC-USDT", channel="book")
    assert desk.status("resyncing", symbol="BTC-USDT", channel="book") == []
    assert desk.view().state == "stale"


def test_statuses_of_other_channels_and_milder_states_leave_books_alone():
    desk = Desk()
    desk.join()
    for state in ("wanted", "subscribed", "live"):
        assert desk.status(state, symbol="BTC-USDT", channel="book") == []
    assert desk.status("down", symbol="BTC-USDT", channel="trade") == []
    assert desk.status("down", symbol="DOGE-USDT", channel="book") == []
    assert brief(desk.status("unsubscribed", symbol="BTC-USDT", channel="book")) == ["snapshot stale"]


def test_connections_that_are_never_reported_closed_do_not_pile_up():
    desk = Desk()
    desk.join()
    for n in range(2, 40):
        desk.delta(100, 100, conn=f"a.{n}")
    symbol = desk.bookbuild._symbols["BTC-USDT"]
    assert len(symbol.syncs) == 8
    assert "a.1" in symbol.syncs


def test_a_stream_that_brings_its_snapshot_is_subscribed_anew():
    desk = Desk(STREAM)
    assert brief(desk.snapshot(100)) == ["snapshot live"]
    assert brief(desk.delta(None, 105, prev_seq=104)) == ["gap sequence 101-104", "snapshot resyncing"]
    assert [(r.op, r.channel, r.conn) for r in desk.asked()] == [("resubscribe", "book", "a.1")]
    assert brief(desk.snapshot(200)) == ["snapshot live"]
    told = desk.snapshot(300, bids=[("99", "1")])
    assert brief(told) == ["delta live"]  # the venue sent its book again
    assert told[0].bids == [("98", "0")]


# Time


def test_a_snapshot_is_repeated_every_ten_seconds_whatever_the_state():
    desk = Desk()
    desk.join()
    told = [brief(desk.tick()) for _ in range(21)]
    assert [n for n, events in enumerate(told, 1) if events] == [10, 20]
    assert told[9] == ["snapshot live again"]
    desk.now += 9 * SECOND
    assert brief(desk.delta(101, 101, bids=[("99", "3")])) == ["delta live", "snapshot live again"]
    desk.status("down", conn="a.1")
    assert brief(desk.tick(10)) == ["snapshot stale again"]


def test_one_tick_repeats_only_so_many_levels():
    desk = Desk()
    wide = [(f"{900 - n}", "1") for n in range(900)]
    for n in range(6):
        desk.join(symbol=f"A{n}-USDT", bids=wide, asks=[("901", "1")])
    assert len(desk.tick(11)) == 5
    assert len(desk.tick(1)) == 1


def test_where_ticks_cannot_repeat_all_they_repeat_what_has_waited_longest(monkeypatch):
    monkeypatch.setattr("actors.stages.bookbuild.fold.TICK_LEVELS", 1)
    desk = Desk()
    symbols = [f"A{n}-USDT" for n in range(14)]
    for symbol in symbols:
        desk.join(symbol=symbol)
    told = [event.symbol for _ in range(37) for event in desk.tick()]
    assert told == 2 * symbols  # from the tenth tick on one each second


# L1


def test_a_native_l1_is_passed_on_as_it_came():
    desk = Desk()
    line = codec.encode(L1("binance", "BTC-USDT", None, desk.now, 7, "99", "1", None, None))
    desk.bookbuild.fold(1, line, desk.out)
    assert desk.out.lines["books"] == [line]


def test_without_a_native_one_l1_is_derived_where_the_best_changes():
    desk = Desk(has_l1=False)
    desk.delta(100, 100)
    told = desk.snapshot(100)
    assert brief(told) == ["snapshot live", "L1"]
    assert (told[1].bid, told[1].bid_size, told[1].ask, told[1].seq) == ("99", "1", "101", 100)
    assert brief(desk.delta(101, 101, bids=[("97", "1")])) == ["delta live"]
    told = desk.delta(102, 102, asks=[("101", "0"), ("102", "0")])
    assert (told[1].bid, told[1].ask, told[1].ask_size) == ("99", None, None)
    assert brief(desk.delta(110, 110)) == ["gap sequence 103-109", "snapshot resyncing"]
    assert brief(desk.snapshot(110)) == ["snapshot live", "L1"]


@pytest.mark.parametrize("has_l1", [True, False])
def test_l1_is_derived_once_the_venue_refuses_its_own(has_l1):
    desk = Desk(has_l1=has_l1)  # False: the venue gives it to some symbols
    desk.join()
    desk.l1(bid="98")
    told = desk.status("refused", symbol="BTC-USDT", channel="l1")
    assert [(l1.bid, l1.seq) for l1 in told] == [("99", 100)]
    assert desk.status("refused", symbol="BTC-USDT", channel="l1") == []
    desk.tick()
    assert desk.keys["top", "BTC-USDT"]["bid"] == "99"
    assert desk.keys["top", "BTC-USDT"]["state"] == "live"


# Contracts


def test_contracts_are_told_in_base_units_and_not_before_their_size_is_known():
    desk = Desk(has_l1=False)
    desk.delta(100, 100, unit="contracts")
    assert desk.snapshot(100, unit="contracts", bids=[("100", "3")], asks=[("200", "5")]) == []
    instrument = InstrumentEvent(
        "binance", "BTC-USDT", None, desk.now, None, "BTCUSD", "BTC", "USD", "10", "inverse"
    )
    told = desk.take(instrument)
    assert brief(told) == ["snapshot live", "L1"]
    assert (told[0].bids, told[0].asks) == ([("100", "0.3")], [("200", "0.25")])
    assert told[1].ask_size == "0.25"
    told = desk.delta(101, 101, unit="contracts", bids=[("100", "0"), ("90", "1")])
    assert told[0].bids == [("100", "0"), ("90", "0.111111111111")]
    told = desk.take(msgspec.structs.replace(instrument, contract_size="20"))
    assert told[0].bids == [("90", "0.222222222222")]
    assert desk.take(msgspec.structs.replace(instrument, contract_size="20")) == []


# Latest-value keys


def test_latest_keys_hold_the_best_twenty_the_state_and_the_time():
    desk = Desk()
    wide = [(f"{99 - n}", "1") for n in range(30)]
    desk.join(bids=wide)
    desk.tick(0.2)
    book = desk.keys["book", "BTC-USDT"]
    assert book["bids"] == [list(level) for level in wide[:20]]
    assert (book["state"], book["verified"], book["ts"], book["seq"]) == ("live", "sequence", desk.now, 100)
    desk.l1()
    top = desk.keys["top", "BTC-USDT"]
    assert (top["bid"], top["ask"], top["state"], top["ts"]) == ("99", "101", "live", desk.now)
    desk.tick()
    desk.status("down", conn="a.1")
    desk.status("down", symbol="BTC-USDT", channel="l1")
    desk.tick()
    assert desk.keys["book", "BTC-USDT"]["state"] == "stale"
    assert desk.keys["book", "BTC-USDT"]["bids"] == []


def test_latest_keys_are_written_at_most_ten_times_a_second_and_end_true():
    desk = Desk()
    desk.join()
    writes = 0
    for n in range(101, 1101):
        desk.now += SECOND // 500
        desk.delta(n, n, bids=[("99", str(n))])
        writes += ("book", "BTC-USDT") in desk.out.keys
    assert 19 <= writes <= 21  # two seconds
    desk.tick()
    assert desk.keys["book", "BTC-USDT"]["bids"][0] == ["99", "1100"]


def test_an_l1_gone_silent_is_told_in_its_key():
    desk = Desk()
    desk.l1()
    desk.tick()
    desk.status("down", symbol="BTC-USDT", channel="l1")
    assert desk.keys["top", "BTC-USDT"]["state"] == "stale"
    desk.tick()
    desk.l1()
    assert desk.keys["top", "BTC-USDT"]["state"] == "live"
    desk.tick()
    desk.status("refused", symbol="BTC-USDT", channel="l1")  # no book to derive one from
    assert desk.keys["top", "BTC-USDT"]["state"] == "stale"


def test_an_l1_of_a_symbol_that_is_not_listed_any_more_is_told_in_its_key():
    desk = Desk()
    desk.join()
    desk.l1()
    desk.tick()
    desk.status("refused", symbol="BTC-USDT")  # all of it
    desk.tick(11)
    assert desk.keys["top", "BTC-USDT"]["state"] == "stale"
    desk.l1()
    desk.tick()
    assert desk.keys["top", "BTC-USDT"]["state"] == "live"


@pytest.mark.parametrize("read", [True, False])
def test_an_l1_that_a_hole_in_the_input_may_have_changed_is_told_in_its_key(read):
    desk = Desk()
    desk.l1()
    desk.tick()
    if read:  # by the normalizer, which lacks lines
        desk.take(Gap("binance", None, None, desk.now, None, None, "retention", "1", "9"))
    else:
        desk.bookbuild.jump(5, 90, "retention", desk.out)
    desk.tick(11)
    assert desk.keys["top", "BTC-USDT"]["state"] == "stale"
    desk.l1()
    desk.tick()
    assert desk.keys["top", "BTC-USDT"]["state"] == "live"


@pytest.mark.parametrize("has_l1", [True, False])
def test_keys_that_were_set_stale_beside_the_fold_are_written_again(has_l1):
    desk = Desk(has_l1=has_l1)
    desk.join()
    if has_l1:
        desk.l1()
    desk.tick()
    assert {json.loads(text)["state"] for text in desk.bookbuild.stale_keys().values()} == {"stale"}
    desk.keys.clear()
    for _ in range(11):
        desk.tick()
    assert {name: key["state"] for name, key in desk.keys.items()} == {
        ("book", "BTC-USDT"): "live",
        ("top", "BTC-USDT"): "live",
    }


def test_keys_of_an_l1_without_a_book_are_written_again_too():
    desk = Desk()
    desk.l1()
    desk.tick()
    desk.keys.clear()
    for _ in range(11):
        desk.tick()
    assert desk.keys["top", "BTC-USDT"]["ts"] > desk.now - 10 * SECOND
