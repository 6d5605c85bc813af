"""Audits of a book, rule by rule, by a clock that the test moves."""

import pytest
from msgspec import structs

from actors.model.events import SECOND, BookDelta, BookSnapshot
from actors.stages.bookbuild.alignment import Alignment
from actors.stages.bookbuild.audit import AGAIN_S, FIRST_S, LASTING, LEAD_S, SETTLE_S, SPREAD_S, TRIES, WAIT_S
from actors.stages.bookbuild.sync import ITEM, Sync
from actors.venues.base import BookRule

EVERY_S = 300
RULE = BookRule("stream", "none", "none", verified="audit", audit_s=EVERY_S)
BIDS = [("100", "1"), ("99", "2"), ("98", "3")]
ASKS = [("101", "1"), ("102", "2"), ("103", "3")]
START = 1_700_000_000 * SECOND


class Book:
    """A joined book. ``asked``: when it asked, s after the join."""

    def __init__(self, rule=RULE, symbol="BTC-USD", levels=BIDS):
        self.now = START
        self.asked = []
        self.sync = Sync(Alignment(rule), "a.1", self.now, symbol)
        snapshot = self._told(levels, ASKS)
        if rule.snapshot == "rest":
            self.now += SECOND
            self.sync.delta(BookDelta("v", "BTC-USD", self.now, self.now, None, "a.1", [], []), 100, self.now)
        self.sync.snapshot(snapshot, self.now)

    def _told(self, bids, asks, *, made=None, audit=False):
        at = self.now if made is None else made
        return BookSnapshot("v", "BTC-USD", at, self.now, None, "a.1", [*bids], [*asks], audit=audit)

    def change(self, bids=(), asks=(), timed=True):
        at = self.now if timed else None
        delta = BookDelta("v", "BTC-USD", at, self.now, None, "a.1", list(bids), list(asks))
        assert self.sync.delta(delta, 100, self.now) == "applied"

    def hear(self, bids=BIDS, asks=ASKS, made=None):
        self.sync.audited(self._told(bids, asks, made=made, audit=True), self.now)

    def answer(self, bids=BIDS, asks=ASKS, made=None):
        """Hear an answer and wait until it is looked at; return what it means."""
        self.hear(bids, asks, made)
        return self.wait(SETTLE_S)

    def wait(self, seconds):
        """Let time pass; return what the last of it brought."""
        step = None
        for _ in range(seconds):
            self.now += SECOND
            step = self.sync.audit(self.now)
            if step == "ask":
                self.asked.append((self.now - START) // SECOND)
        return step

    def wait_for_question(self):
        before, until = len(self.asked), self.now + 2 * EVERY_S * SECOND
        while len(self.asked) == before:
            assert self.now < until
            self.wait(1)

    def reload(self, rule=RULE, symbol="BTC-USD"):
        self.sync = Sync.load(Alignment(rule), self.sync.dump(), symbol)


@pytest.fixture
def book():
    """A book that has just asked."""
    book = Book()
    book.wait_for_question()
    return book


def test_a_book_is_proved_by_an_answer_that_says_the_same(book):
    assert book.sync.verified == "none"
    assert book.answer() == "passed"
    assert book.sync.verified == "audit"


def test_books_ask_one_after_another_and_then_at_equal_times():
    firsts = set()
    for n in range(40):
        book = Book(symbol=f"A{n}-USD")
        book.wait_for_question()
        assert FIRST_S + LEAD_S <= book.asked[0] <= FIRST_S + LEAD_S + SPREAD_S
        firsts.add(book.asked[0])
        assert book.answer() == "passed"
        book.wait_for_question()
        assert book.asked[1] - book.asked[0] == SETTLE_S + EVERY_S + LEAD_S
    assert len(firsts) > 20


def test_zeros_at_the_end_are_no_difference(book):
    assert book.answer([("100.00", "1.0"), ("99", "2.00"), ("98.0", "3")]) == "passed"


def test_what_changed_after_the_answer_was_made_says_nothing(book):
    made = book.now
    book.wait(2)
    book.change([("99", "0"), ("99.5", "7")], [("101", "9")])
    assert book.answer(made=made) == "passed"


def test_an_answer_may_be_ahead_of_the_stream(book):
    made = book.now
    book.hear([("100", "1"), ("99", "5"), ("98", "3")], made=made)
    book.wait(1)
    late = BookDelta("v", "BTC-USD", made - 5 * SECOND, book.now, None, "a.1", [("99", "5")], [])
    assert book.sync.delta(late, 100, book.now) == "applied"
    assert book.wait(SETTLE_S - 1) == "passed"


def test_what_changed_right_before_the_answer_was_made_says_nothing():
    book = Book()
    book.wait(FIRST_S + SPREAD_S)  # it notes by now
    book.change([("99", "5")])
    book.wait_for_question()
    assert book.answer(made=book.now) == "unclear"  # that was long ago
    other = Book()
    other.wait_for_question()
    other.change([("99", "5")])
    assert other.answer(made=other.now + SECOND // 2) == "passed"


def test_a_change_without_a_time_may_be_later_than_any_answer(book):
    book.change([("99", "5")], timed=False)
    assert book.answer(made=book.now + 100 * SECOND) == "passed"


def test_an_answer_without_a_time_decides_nothing(book):
    for bids in (BIDS, BIDS[1:], BIDS[1:]):
        answer = BookSnapshot("v", "BTC-USD", None, book.now, None, "a.1", bids, ASKS, audit=True)
        book.sync.audited(answer, book.now)
        assert book.wait(SETTLE_S) == "unclear"
        book.wait(AGAIN_S)


def test_what_differs_twice_is_wrong(book):
    wrong = [("100", "1"), ("99", "8"), ("98", "3")]
    assert book.answer(wrong) == "unclear"
    assert book.sync.verified == "none"
    book.wait(AGAIN_S)
    assert len(book.asked) == 2
    assert book.answer(wrong) == "differs"
    assert (book.sync.fault.cause, book.sync.joined) == ("sequence", False)
    assert book.sync.due is not None  # another book is asked for


def test_what_changes_between_two_answers_was_not_missed(book):
    wrong = [("100", "1"), ("99", "8"), ("98", "3")]
    assert book.answer(wrong) == "unclear"
    book.wait(2)
    book.change([("99", "2")])  # what it was before
    book.wait(AGAIN_S - 2)
    assert book.answer(wrong, made=book.now + 9 * SECOND) == "unclear"  # by a clock that is ahead
    book.wait(AGAIN_S)
    assert book.answer(wrong) == "differs"


def test_a_stream_that_is_behind_accuses_no_book(book):
    wrong = [("100", "1"), ("99", "8"), ("98", "3")]
    for _ in range(2):
        assert book.answer(wrong) == "unclear"
        book.wait(AGAIN_S)
        late = BookDelta("v", "BTC-USD", book.now - 20 * SECOND, book.now, None, "a.1", [("98", "3")], [])
        assert book.sync.delta(late, 100, book.now) == "applied"
    book.change([("98", "3")])  # it has caught up
    assert book.answer(wrong) == "differs"


def test_a_book_that_becomes_a_newer_one_is_audited_anew():
    rule = BookRule("rest", "none", "none", depth=12, verified="audit", audit_s=EVERY_S)
    book = Book(rule, levels=[(str(price), "1") for price in range(100, 88, -1)])
    book.wait_for_question()
    asked = len(book.asked)
    assert book.answer(ASKS, ASKS) == "unclear"
    book.change([(str(price), "0") for price in range(100, 90, -1)])
    book.sync.tick(book.now)
    assert book.sync.snapshot(book._told(BIDS, ASKS), book.now) == "replaced"
    book.hear(ASKS, ASKS)
    book.wait(LEAD_S)
    assert len(book.asked) == asked
    book.wait(1)
    assert len(book.asked) == asked + 1
    assert book.answer() == "passed"


@pytest.mark.parametrize(
    "theirs", [[("100", "1"), ("98", "3")], [("100", "1"), ("99", "2"), ("98.5", "4"), ("98", "3")]]
)
def test_a_level_too_many_or_too_few_is_wrong(book, theirs):
    book.answer(theirs)
    book.wait(AGAIN_S)
    assert book.answer(theirs) == "differs"


def test_an_empty_answer_is_no_excuse(book):
    book.answer([], ASKS)
    book.wait(AGAIN_S)
    assert book.answer([], ASKS) == "differs"


def test_an_answer_of_which_nothing_can_be_compared_proves_nothing(book):
    book.change([(price, "7") for price, _ in BIDS])
    assert book.answer([("100", "4"), ("99", "4")], made=book.now) == "unclear"
    assert book.sync.verified == "none"
    book.wait(AGAIN_S)
    assert book.answer([(price, "7") for price, _ in BIDS]) == "passed"


def test_a_side_that_both_have_empty_is_the_same(book):
    book.change([(price, "0") for price, _ in BIDS])
    book.wait(2)
    assert book.answer([]) == "passed"


def test_levels_below_the_answers_deepest_say_nothing(book):
    assert book.answer(BIDS[:1], ASKS[:2]) == "passed"


def test_levels_below_our_deepest_say_nothing():
    rule = BookRule("stream", "none", "none", depth=2, open_end=True, verified="audit", audit_s=EVERY_S)
    book = Book(rule)
    book.wait_for_question()
    assert book.answer([*BIDS, ("97", "4")], [*ASKS, ("110", "1")]) == "passed"


def test_a_cached_answer_is_no_second_one(book):
    made = book.now
    wrong = [("100", "8"), *BIDS[1:]]
    for _ in range(TRIES):
        assert book.answer(wrong, made=made) == "unclear"
        book.wait(AGAIN_S)
    assert book.sync.joined


def test_another_difference_is_not_the_same_one(book):
    assert book.answer([("100", "8"), *BIDS[1:]]) == "unclear"
    book.wait(AGAIN_S)
    assert book.answer([("100", "9"), *BIDS[1:]]) == "unclear"
    book.wait(AGAIN_S)
    assert book.answer([BIDS[0], ("99", "9"), BIDS[2]]) == "unclear"
    book.wait(AGAIN_S)
    assert book.answer() == "passed"


def test_an_answer_from_before_the_notes_says_nothing():
    book = Book()
    old = book.now
    book.wait(2)
    book.change([("99", "5")])
    book.wait_for_question()
    for n in range(3):
        assert book.answer(made=old + n) == "unclear"
        book.wait(AGAIN_S)
    assert len(book.asked) == 4
    assert book.answer([BIDS[0], ("99", "5"), BIDS[2]]) == "passed"


def test_a_book_that_has_not_changed_since_is_told_by_the_time_of_its_last_change(book):
    assert book.answer(made=START) == "passed"


def test_a_question_without_an_answer_is_asked_again_some_times_and_soon_anew(book):
    first = book.asked[0]
    book.wait(WAIT_S * TRIES)
    assert book.asked == [first + WAIT_S * n for n in range(TRIES)]
    assert book.answer() is None  # nobody waits for it any more
    book.wait(SPREAD_S + LEAD_S)
    assert book.asked[TRIES:] == [first + WAIT_S * TRIES + SPREAD_S + LEAD_S]
    assert book.answer() == "passed"


def test_answers_that_decide_nothing_end_an_audit_until_the_next_is_due(book):
    made = book.now
    for _ in range(TRIES):
        assert book.answer([("100", "8"), *BIDS[1:]], made=made) == "unclear"
        book.wait(AGAIN_S)
    ended = book.asked[TRIES - 1] + SETTLE_S + AGAIN_S
    book.wait(EVERY_S + LEAD_S)
    assert book.asked[TRIES:] == [ended + EVERY_S + LEAD_S]


def test_a_proof_does_not_last_for_ever(book):
    book.answer()
    book.wait(LASTING * EVERY_S)
    assert book.sync.verified == "audit"
    book.wait(1)
    assert book.sync.verified == "none"


def test_a_book_that_begins_anew_has_to_be_proved_anew(book):
    book.answer()
    book.sync.snapshot(book._told(BIDS, ASKS), book.now)
    assert book.sync.verified == "none"
    asked = len(book.asked)
    book.wait(FIRST_S + LEAD_S + SPREAD_S)
    assert len(book.asked) > asked


def test_a_silent_book_asks_nothing(book):
    book.answer()
    book.sync.silence = ITEM
    book.wait(2 * EVERY_S)
    assert len(book.asked) == 1


def test_prices_of_many_digits_are_compared_exactly(book):
    long = "99." + "1" * 20
    book.wait(2)
    book.change([(long + "1", "5")])
    book.wait(2)
    assert book.answer([("100", "1"), (long + "1", "5"), ("99", "2"), ("98", "3")]) == "passed"
    book.wait_for_question()
    wrong = [("100", "1"), (long + "2", "5"), ("99", "2"), ("98", "3")]
    assert book.answer(wrong) == "unclear"
    book.wait(AGAIN_S)
    assert book.answer(wrong) == "differs"


def test_what_was_found_outlives_a_restart(book):
    wrong = [("100", "8"), *BIDS[1:]]
    assert book.answer(wrong) == "unclear"
    book.reload()
    book.wait(AGAIN_S)
    book.reload()
    book.hear(wrong)
    book.reload()
    assert book.wait(SETTLE_S) == "differs"


def test_a_proof_outlives_a_restart(book):
    book.answer()
    book.reload()
    assert book.sync.verified == "audit"


def test_books_of_a_checkpoint_from_before_there_were_audits_ask_one_after_another():
    firsts = set()
    for n in range(40):
        book = Book(BookRule("stream", "none", "none", verified="none"), symbol=f"A{n}-USD")
        book.wait(2 * EVERY_S)
        book.reload(symbol=f"A{n}-USD")
        assert book.sync.verified == "none"
        book.wait_for_question()
        firsts.add(book.asked[0])
        assert book.answer() == "passed"
    assert len(firsts) > 20


def test_another_period_holds_from_the_restart_on(book):
    book.reload(structs.replace(RULE, audit_s=86_400))
    book.wait_for_question()
    assert book.answer() == "passed"
    book.wait(60)
    book.reload()
    assert book.sync.verified == "none"
    reloaded = (book.now - START) // SECOND
    book.wait_for_question()
    assert book.asked[-1] - reloaded <= FIRST_S + SPREAD_S + LEAD_S + 1
    assert book.answer() == "passed"


def test_without_audits_nothing_is_asked_and_the_rule_says_what_proves():
    book = Book(BookRule("stream", "none", "none", verified="none"))
    book.wait(1000)
    assert book.asked == []
    assert book.sync.verified == "none"
