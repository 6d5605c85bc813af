"""Every edge of the alignment machine, on hand-made deltas."""

import msgspec
import pytest
from msgspec.structs import replace

from actors.model.errors import Unparseable
from actors.model.events import SECOND, BookDelta, BookSnapshot
from actors.stages.bookbuild import buffer
from actors.stages.bookbuild.alignment import Alignment, Fault
from actors.stages.bookbuild.sync import Sync, SyncState
from actors.venues.base import BookRule

RANGE = BookRule(snapshot="rest", join="range", chain="range", contained=True, depth=1000)
TOUCHING = replace(RANGE, contained=False)
NEXT = BookRule(snapshot="rest", join="next", chain="next")
POINTER = BookRule(snapshot="stream", join="pointer", chain="pointer")
BLIND = BookRule(snapshot="rest", join="none", chain="none", verified="none")
EVERY = BookRule(snapshot="every", join="none", chain="none")

BIDS = [("99", "1"), ("98", "2")]
ASKS = [("101", "1"), ("102", "2")]


def delta(first=None, last=None, *, prev=None, bids=(), asks=(), ts=None, checksum=None):
    return BookDelta(
        "binance", "BTC-USDT", ts, 0, last, "a.1", list(bids), list(asks),
        first_seq=first, last_seq=last, prev_seq=prev, checksum=checksum,
    )  # fmt: skip


def snapshot(seq, *, bids=BIDS, asks=ASKS, depth=None, checksum=None, now=0):
    return BookSnapshot(
        "binance", "BTC-USDT", None, now, seq, "a.1", list(bids), list(asks),
        last_seq=seq, depth=depth, checksum=checksum,
    )  # fmt: skip


class Book:
    """A machine with a clock that the test moves."""

    def __init__(self, rule=RANGE):
        self.now = 1000 * SECOND
        self.sync = Sync(Alignment(rule), "a.1", self.now)

    def delta(self, first=None, last=None, **fields):
        return self.sync.delta(delta(first, last, **fields), 100, self.now)

    def snapshot(self, seq, **fields):
        return self.sync.snapshot(snapshot(seq, now=self.now, **fields), self.now)

    def ask(self):
        return self.sync.ask(self.now)

    def wait(self, seconds):
        self.now += int(seconds * SECOND)
        return self.sync.tick(self.now)

    @property
    def levels(self):
        return self.sync.book.best_first()


def joined(rule=RANGE, at=100):
    book = Book(rule)
    book.delta(at, at)
    assert book.ask()
    assert book.snapshot(at) == "joined"
    return book


# Binance's procedure


def test_old_deltas_are_dropped_and_the_first_kept_one_contains_the_next_number():
    book = Book()
    book.delta(90, 95, bids=[("1", "1")])
    book.delta(96, 104, bids=[("98", "0")])
    book.delta(105, 106, asks=[("101", "5")])
    assert book.snapshot(100) == "joined"
    assert book.sync.seq == 106
    assert book.levels == ([("99", "1")], [("101", "5"), ("102", "2")])


def test_a_snapshot_that_ends_just_before_the_first_buffered_delta_joins_where_touching_will_do():
    book = Book(TOUCHING)
    book.delta(100, 105, bids=[("99", "7")])
    assert book.ask()
    assert book.snapshot(99) == "joined"
    assert (book.sync.seq, book.levels[0][0]) == (105, ("99", "7"))


@pytest.mark.parametrize(("rule", "seq"), [(TOUCHING, 98), (RANGE, 99)])
def test_a_snapshot_older_than_the_first_buffered_delta_is_asked_for_again(rule, seq):
    book = Book(rule)
    book.delta(100, 105)
    assert book.ask()
    assert book.snapshot(seq) == "kept"
    assert not book.sync.joined
    assert not book.ask()
    book.wait(1)
    assert book.ask()
    assert book.snapshot(100) == "joined"


def test_a_snapshot_newer_than_all_that_is_buffered_joins_and_the_next_delta_continues_it():
    book = Book()
    book.delta(90, 95)
    assert book.snapshot(100) == "joined"
    assert book.delta(96, 99, bids=[("99", "7")]) == "old"
    assert book.delta(100, 103, bids=[("99", "8")]) == "applied"
    assert book.levels[0] == [("99", "8"), ("98", "2")]


def test_a_snapshot_without_any_delta_is_held_until_the_next_one_touches_it():
    book = Book()
    assert book.ask()
    assert book.snapshot(100) == "kept"
    book.wait(2)
    assert not book.ask()
    assert book.delta(101, 101, bids=[("99", "3")]) == "joined"
    assert book.levels[0][0] == ("99", "3")


def test_a_snapshot_that_no_delta_follows_for_a_while_is_the_book():
    book = Book()
    assert book.ask()
    assert book.snapshot(100) == "kept"
    assert book.wait(2) == "kept"
    assert book.wait(2) == "joined"
    assert book.levels == (BIDS, ASKS)
    book.wait(600)
    assert not book.ask()  # a quiet market is not asked about again and again
    assert book.delta(101, 101, bids=[("99", "3")]) == "applied"
    book = Book()
    assert book.ask()
    book.snapshot(100)
    book.wait(4)
    assert book.delta(102, 103) == "lost"  # it shows that one is missing
    assert book.ask()


def test_a_held_snapshot_that_the_next_delta_does_not_touch_is_asked_for_again():
    book = Book()
    assert book.ask()
    book.snapshot(100)
    assert book.delta(102, 103) == "kept"
    book.wait(1)
    assert book.ask()
    assert book.snapshot(103) == "joined"


def test_a_market_that_never_traded_takes_any_first_delta():
    book = Book()
    book.delta(7_000, 7_002, bids=[("5", "1")])
    assert book.snapshot(-1, bids=[], asks=[]) == "joined"
    assert book.levels == ([("5", "1")], [])
    assert book.delta(7_003, 7_003) == "applied"
    assert book.delta(7_005, 7_005) == "lost"


def test_a_hole_inside_the_buffer_waits_for_a_snapshot_beyond_it():
    book = Book()
    book.delta(100, 101)
    book.delta(104, 105)
    assert book.ask()
    assert book.snapshot(101) == "kept"
    book.wait(2)
    assert book.ask()
    assert book.snapshot(104) == "joined"
    assert book.sync.seq == 105


def test_an_overlapping_delta_is_applied_an_old_one_ignored():
    book = joined()
    assert book.delta(101, 103, bids=[("99", "2")]) == "applied"
    assert book.delta(101, 103, bids=[("99", "9")]) == "old"
    assert book.delta(103, 104, bids=[("97", "1")]) == "applied"
    assert book.levels[0] == [("99", "2"), ("98", "2"), ("97", "1")]


def test_a_jump_is_a_fault_that_names_what_is_missing_and_starts_again():
    book = joined()
    assert book.delta(104, 105) == "lost"
    assert book.sync.fault == Fault("sequence", "101", "103", "sequence jumped")
    assert book.ask()
    assert book.snapshot(105) == "joined"  # the delta that showed it is in the buffer, and old


def test_event_time_that_jumps_back_is_a_fault():
    book = joined()
    assert book.delta(101, 101, ts=50 * SECOND) == "applied"
    assert book.delta(102, 102, ts=50 * SECOND - 1_000_000) == "applied"  # jitter is none
    assert book.delta(103, 103, ts=40 * SECOND) == "lost"


def test_a_snapshot_nobody_waits_for_changes_nothing_unless_it_is_newer():
    book = joined()
    assert book.snapshot(100, bids=[("1", "1")]) == "old"
    assert book.snapshot(90, bids=[("1", "1")]) == "old"
    assert book.levels[0] == BIDS
    assert book.snapshot(500, bids=[("1", "1")]) == "replaced"  # gate.md: in the stream, at any time
    assert book.delta(499, 500, bids=[("1", "2")]) == "old"
    assert book.delta(500, 501, bids=[("1", "3")]) == "applied"
    assert book.levels[0] == [("1", "3")]


def test_a_venue_that_counts_anew_is_noticed_though_all_its_deltas_look_old():
    book = joined(at=5_000)
    book.delta(5_001, 5_001)
    for n in range(1, 6):
        book.wait(1)
        assert book.delta(n, n) == "old"
    book.wait(1.5)
    assert book.delta(6, 6) == "lost"
    assert book.sync.fault.first == "5002"


# Asking


def test_requests_are_repeated_with_growing_capped_pauses_until_answered():
    book = Book()
    book.delta(100, 100)
    times = []
    for _ in range(300):
        if book.ask():
            times.append(book.now // SECOND - 1000)
        book.wait(1)
    assert times == [0, 4, 12, 28, 60, 120, 180, 240]


def test_a_book_lost_again_and_again_asks_ever_later_and_a_calm_one_at_once():
    book = joined()
    pauses = []
    for _ in range(6):
        assert book.delta(book.sync.seq + 2, book.sync.seq + 2) == "lost"
        pauses.append((book.sync.due - book.now) // SECOND)
        book.wait(pauses[-1])
        assert book.ask()
        assert book.snapshot(book.sync.seq + 9) == "joined"
    assert pauses == [0, 2, 4, 8, 16, 30]
    book.wait(61)
    assert book.delta(book.sync.seq + 2, book.sync.seq + 2) == "lost"
    assert book.ask()


# Bounds


def test_a_buffer_that_grows_without_a_snapshot_overflows_with_the_range_it_dropped(monkeypatch):
    monkeypatch.setattr(buffer, "BUFFER_DELTAS", 3)
    book = Book()
    for n in (1, 2, 3):
        assert book.delta(n, n) == "kept"
    assert book.delta(4, 4) == "lost"
    assert book.sync.fault[:3] == ("overflow", "1", "3")
    assert book.snapshot(3) == "kept"  # only delta 4 is left
    assert book.snapshot(4) == "joined"


def test_the_buffer_is_bounded_in_bytes_too(monkeypatch):
    monkeypatch.setattr(buffer, "BUFFER_BYTES", 250)
    book = Book()
    outcomes = [book.delta(n, n) for n in (1, 2, 3)]
    assert outcomes == ["kept", "kept", "lost"]


def test_levels_beyond_the_guaranteed_depth_are_pruned_and_their_removal_told():
    rule = msgspec.structs.replace(RANGE, snapshot="stream", depth=2)
    book = Book(rule)
    assert book.snapshot(100) == "joined"
    assert book.delta(101, 101, bids=[("100", "1")]) == "applied"
    assert book.levels[0] == [("100", "1"), ("99", "1")]
    assert book.sync.changes == ([("100", "1"), ("98", "0")], [])


def test_what_lies_beyond_a_full_snapshot_is_unknown_and_ignored():
    book = joined(msgspec.structs.replace(RANGE, depth=2))
    assert book.delta(101, 101, bids=[("97", "5"), ("99", "3")], asks=[("103", "1")]) == "applied"
    assert book.sync.changes == ([("99", "3")], [])
    assert book.levels == ([("99", "3"), ("98", "2")], ASKS)


def test_a_book_that_got_thin_is_refreshed_without_being_lost():
    rule = msgspec.structs.replace(RANGE, depth=4)
    deep = [("99", "1"), ("98", "1"), ("97", "1"), ("96", "1")]
    book = Book(rule)
    book.delta(100, 100)
    assert book.ask()
    assert book.snapshot(100, bids=deep, asks=[]) == "joined"
    book.delta(101, 101, bids=[("99", "0"), ("98", "0"), ("97", "0")])
    assert book.wait(1) == "kept"
    assert book.ask()
    assert book.delta(102, 102, asks=[("105", "1")]) == "applied"
    assert book.snapshot(101, bids=[("96", "1"), ("50", "9")], asks=[]) == "kept"  # older than the delta
    book.wait(1)
    assert book.ask()
    assert book.delta(103, 103, asks=[("106", "1")]) == "applied"
    assert book.snapshot(102, bids=[("96", "1"), ("50", "9")], asks=[("105", "1")]) == "replaced"
    assert book.levels == ([("96", "1"), ("50", "9")], [("105", "1"), ("106", "1")])
    assert book.sync.seq == 103
    assert book.snapshot(103) == "old"


def test_a_refresh_that_overflows_begins_again_with_nothing_kept(monkeypatch):
    monkeypatch.setattr(buffer, "BUFFER_DELTAS", 3)
    deep = [(f"{99 - n}", "1") for n in range(8)]
    book = Book(replace(BLIND, depth=8))
    book.delta(None, 100)
    assert book.snapshot(100, bids=deep) == "joined"
    book.delta(None, 101, bids=[(price, "0") for price, _ in deep[2:]])
    book.wait(1)
    assert book.ask()
    for n in range(102, 106):
        assert book.delta(None, n) == "applied"
    assert book.sync.dump().buffer == []
    book.delta(None, 106, bids=[("98", "9")])  # before the refresh begins again
    book.wait(1)
    assert book.ask()
    book.delta(None, 107)
    assert book.snapshot(105, bids=deep) == "kept"  # lacks 106, as does the buffer
    assert book.levels[0] == [("99", "1"), ("98", "9")]
    book.wait(2)
    assert book.ask()
    assert book.snapshot(107, bids=deep) == "replaced"


def test_a_side_that_left_all_known_levels_is_not_taken_for_an_empty_one():
    rule = msgspec.structs.replace(RANGE, depth=2)
    book = joined(rule)
    assert book.delta(101, 101, bids=[("99", "0"), ("98", "0")], asks=[("101", "0")]) == "lost"
    assert book.sync.fault.cause is None
    assert book.ask()


# Crossed


def test_a_join_that_leaves_no_known_level_on_a_side_is_no_book():
    book = Book(replace(TOUCHING, depth=2))
    book.delta(99, 99)
    book.delta(100, 101, bids=[("99", "0"), ("98", "0")])
    assert book.ask()
    assert book.snapshot(99) == "lost"
    assert book.sync.fault == Fault(None, None, None, "the market left the known levels")
    assert book.ask()
    assert book.snapshot(101, bids=[("97", "1"), ("96", "1")]) == "kept"  # held
    assert book.delta(102, 102) == "joined"


def test_a_crossed_book_is_flagged_heals_by_itself_or_is_lost():
    book = joined()
    book.delta(101, 101, bids=[("101", "1")])  # locked counts as crossed
    assert book.sync.crossed_since == book.now
    book.wait(1)
    book.delta(102, 102, asks=[("101", "0")])
    assert book.sync.crossed_since is None
    book.delta(103, 103, bids=[("103", "1")])
    assert book.wait(2) == "kept"
    assert book.wait(0.1) == "lost"
    assert book.sync.fault.cause == "crossed"


def test_a_stream_that_opens_crossed_twice_means_it_for_the_length_of_an_auction():
    book = Book(POINTER)
    assert book.snapshot(99, bids=[("101", "1")]) == "joined"
    assert book.wait(2.1) == "lost"
    assert book.snapshot(100, bids=[("101", "1")]) == "joined"
    assert book.wait(500) == "kept"
    state = book.sync.dump()
    book.sync = Sync.load(Alignment(POINTER), state)
    assert book.wait(99) == "kept"
    book.delta(101, 101, prev=100, bids=[("101", "0"), ("99", "1")])
    assert book.sync.crossed_since is None
    book.delta(102, 102, prev=101, bids=[("101", "1")])  # not said by a snapshot: ours may be wrong
    assert book.wait(2.1) == "lost"
    book.snapshot(103, bids=[("101", "1")])
    assert book.wait(2.1) == "lost"
    book.snapshot(104, bids=[("101", "1")])
    assert book.wait(601) == "lost"


# Other rules


def test_next_follows_only_the_very_next():
    book = joined(NEXT)
    assert book.delta(101, 102) == "applied"
    assert book.delta(None, 103) == "applied"
    assert book.delta(105, 105) == "lost"


def test_pointer_follows_the_former_number_even_when_the_venue_counts_back():
    book = Book(POINTER)
    assert book.snapshot(100) == "joined"
    assert book.delta(None, 107, prev=100) == "applied"
    assert book.delta(None, 107, prev=100) == "old"
    assert book.delta(None, 3, prev=107) == "applied"
    assert book.delta(None, 3, prev=107) == "old"
    assert book.delta(None, 9, prev=8) == "lost"
    assert book.sync.fault.last == "8"


def test_pointer_takes_a_lower_number_for_a_hole_since_the_venue_may_have_counted_back():
    book = Book(POINTER)
    assert book.snapshot(100) == "joined"
    assert book.delta(None, 7, prev=6) == "lost"
    assert book.sync.fault.cause == "sequence"


def test_a_stream_that_owes_its_snapshot_is_asked_after_a_grace():
    book = Book(POINTER)
    assert book.delta(None, 101, prev=100) == "kept"
    assert not book.ask()
    book.wait(3)
    assert book.ask()
    assert book.snapshot(200) == "joined"
    assert book.snapshot(300, bids=[("1", "1")]) == "replaced"
    assert book.levels[0] == [("1", "1")]


def test_a_blind_rule_takes_whatever_is_not_older():
    book = joined(BLIND)
    assert book.delta(None, 100) == "old"
    assert book.delta(None, 150) == "applied"
    assert book.delta() == "applied"


def test_what_may_lack_a_change_begins_anew():
    book = joined(BLIND)
    assert book.sync.doubt(book.now) == "lost"
    assert book.sync.fault == Fault("sequence", "100", None, "a frame could not be read")
    assert not book.ask()
    assert book.snapshot(120) == "kept"  # perhaps of before the frame that could not be read
    assert not book.sync.joined
    book.wait(2)
    assert not book.ask()  # no answer would do until a change comes
    book.delta(None, 130, bids=[("97", "5")])
    assert book.ask()
    assert book.snapshot(140) == "joined"
    assert book.levels == (BIDS, ASKS)
    book = Book(BLIND)
    book.delta(None, 100)
    assert book.sync.doubt(book.now) == "kept"
    assert book.sync.dump().buffer == []
    stream = Book(replace(POINTER, join="none", chain="none"))
    stream.snapshot(100)
    assert stream.sync.doubt(stream.now) == "lost"
    assert stream.ask()
    assert stream.snapshot(101) == "joined"


def test_without_numbers_that_touch_a_snapshot_older_than_what_was_seen_is_asked_for_again():
    book = Book(BLIND)
    book.delta(None, 150)
    book.delta(None, 160, bids=[("97", "5")])
    assert book.ask()
    assert book.snapshot(149) == "kept"  # what changed between it and 150 nobody has heard
    assert not book.sync.joined
    assert not book.ask()
    book.wait(1)
    assert book.ask()
    assert book.snapshot(150) == "joined"
    assert book.levels == ([*BIDS, ("97", "5")], ASKS)
    book.delta(None, 170, bids=[("103", "1")])
    assert book.wait(3) == "lost"  # crossed; nothing is buffered now
    book.wait(2)
    assert book.ask()
    assert book.snapshot(165) == "kept"  # lacks 170
    book.wait(4)
    assert book.ask()
    assert book.snapshot(170, bids=[]) == "kept"  # held: the next delta decides
    assert book.delta(None, 180, bids=[("98", "1")]) == "joined"
    assert book.levels == ([("98", "1")], ASKS)


@pytest.mark.parametrize("rule", [RANGE, TOUCHING])
def test_a_book_that_was_lost_never_goes_back_to_before_what_it_had(rule):
    book = joined(rule)
    book.delta(101, 110, asks=[("99", "1")])
    assert book.wait(3) == "lost"  # crossed; nothing is buffered now
    assert book.ask()
    assert book.snapshot(105) == "kept"  # REST is behind
    assert book.wait(4) == "kept"  # and no delta comes that would show it
    assert not book.sync.joined
    assert book.ask()
    assert book.snapshot(110) == "kept"
    assert book.wait(4) == "joined"


def test_a_stream_that_tells_more_than_is_kept_is_subscribed_anew_when_little_is_left():
    deep = [("99", "1"), ("98", "1"), ("97", "1"), ("96", "1"), ("95", "1")]
    rule = BookRule(snapshot="stream", join="none", chain="none", depth=4, open_end=True)
    book = Book(rule)
    assert book.snapshot(None, bids=deep) == "joined"
    assert book.delta(bids=[("95", "2"), ("94", "2"), ("99", "2")]) == "applied"
    assert book.levels[0] == [("99", "2"), *deep[1:4]]  # below them nothing is known
    book.delta(bids=[("99", "0"), ("98", "0")])
    book.wait(1)
    assert not book.ask()
    book.delta(bids=[("97", "0")])
    book.wait(1)
    assert book.ask()
    assert book.delta(bids=[("96", "3")]) == "applied"  # it stands meanwhile
    assert book.snapshot(None, bids=[("96", "4"), ("95", "2")]) == "replaced"
    assert book.levels[0] == [("96", "4"), ("95", "2")]
    book.wait(60)
    assert not book.ask()
    assert book.delta(bids=[("96", "0"), ("95", "0")]) == "applied"  # known whole: this side is empty
    assert book.levels == ([], ASKS)


def test_where_every_frame_is_a_whole_book_nothing_is_ever_asked_for():
    book = Book(EVERY)
    assert not book.ask()
    assert book.snapshot(None) == "joined"
    assert book.snapshot(None, bids=[("1", "1")]) == "replaced"
    book.wait(100)
    assert not book.ask()


def test_a_delta_without_the_numbers_its_rule_reads_is_unparseable():
    for rule in (RANGE, NEXT):
        with pytest.raises(Unparseable, match="last_seq"):
            joined(rule).delta(101, None)
    book = Book(POINTER)
    book.snapshot(100)
    with pytest.raises(Unparseable, match="prev_seq"):
        book.delta(101, 101)


# Checksums


def test_a_checksum_is_proved_after_the_join_and_after_each_delta():
    book = Book(msgspec.structs.replace(RANGE, checksum=lambda book: len(book.best_first(9)[0])))
    book.delta(100, 100, checksum=5)
    assert book.snapshot(99) == "kept"
    assert book.snapshot(100, checksum=5) == "lost"
    assert book.sync.fault.cause == "checksum"
    book.delta(101, 101)
    assert book.snapshot(101, checksum=2) == "joined"
    assert book.delta(102, 102, bids=[("97", "1")], checksum=3) == "applied"
    assert book.delta(103, 103) == "applied"  # a delta without one proves nothing
    assert book.delta(104, 104, bids=[("96", "1")], checksum=9) == "lost"


# Checkpoint


def test_a_machine_comes_back_from_its_dump_in_every_state():
    decode = msgspec.msgpack.Decoder(SyncState).decode
    rule = msgspec.structs.replace(RANGE, depth=2)
    steps = [
        lambda book: book.delta(100, 101),
        Book.ask,
        lambda book: book.snapshot(99),
        lambda book: book.wait(1),
        Book.ask,
        lambda book: book.snapshot(101),
        lambda book: book.delta(102, 103, bids=[("99.5", "1"), ("99", "0")], asks=[("101", "0")]),
        lambda book: book.delta(104, 104, asks=[("90.000000000000001", "1")]),
        lambda book: book.wait(3),
        Book.ask,
        lambda book: book.snapshot(104),
        lambda book: book.delta(105, 105, bids=[("99.5", "2")]),
    ]
    book = Book(rule)
    outcomes = []
    for step in steps:
        clone = Book(rule)
        clone.now = book.now
        clone.sync = Sync.load(Alignment(rule), decode(msgspec.msgpack.encode(book.sync.dump())))
        outcomes.append(step(book))
        assert step(clone) == outcomes[-1]
        assert msgspec.msgpack.encode(clone.sync.dump()) == msgspec.msgpack.encode(book.sync.dump())
    assert outcomes[5:9] == ["joined", "applied", "applied", "lost"]
    assert outcomes[-2:] == ["kept", "joined"]
