"""Laws of audits: a book that is the venue's is never accused, one that missed a change always is."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.model import codec
from actors.model.events import Book, BookDelta, BookSnapshot, Gap, Tick
from actors.stages.book import View
from actors.stages.bookbuild import Bookbuild
from actors.stages.bookbuild.audit import FIRST_S, LEAD_S
from actors.stages.control import ControlRequest
from actors.stages.fold import Output
from actors.venues.base import BookRule

SECOND = 1_000_000_000
SYMBOL = "BTC-USD"
EVERY_S = 30
RULES = {
    "stream": BookRule("stream", "none", "none", open_end=True, verified="audit", audit_s=EVERY_S),
    "rest": BookRule("rest", "none", "none", verified="audit", audit_s=EVERY_S),
}
_request = msgspec.json.Decoder(ControlRequest).decode


class Venue:
    """One book, changed all the time; its REST answers are cached for a while, and come late, as its stream.

    ``lose``: (second, price): from then on changes of that price are not told.
    """

    def __init__(self, kind, seed, lose=None, depth=12):
        self.random = random.Random(seed)
        self.rule = msgspec.structs.replace(RULES[kind], depth=depth)
        self.now = 1_700_000_000 * SECOND
        self.start = self.now
        self.lose = lose
        self.bids = dict.fromkeys(range(80, 100), "5")
        self.asks = dict.fromkeys(range(101, 121), "5")
        self.changes = []
        self.fold = Bookbuild("v", self.rule)
        self.out = Output(("books", "control", "dead"))
        self.waiting = []  # (when, answer)
        self.late_s = self.random.choice([0, 0.3, 1.5])
        self.ahead_s = 0  # how far the clock of REST is ahead
        self.on_the_way = []  # (when, change)
        self.cached = None
        self.cache_s = self.random.choice([1, 3, 14])
        self.events = []
        self.view = View()
        self.counts = {}
        self.k = 0

    @property
    def since(self):
        return (self.now - self.start) / SECOND

    def levels(self, most=None):
        bids = [(str(p), self.bids[p]) for p in sorted(self.bids, reverse=True)]
        return bids[:most], [(str(p), self.asks[p]) for p in sorted(self.asks)][:most]

    def change(self):
        """Change some levels, most of them near the touch; tell of it but for what is lost."""
        bids, asks = [], []
        for _ in range(self.random.randint(1, 3)):
            side, told = self.random.choice([(self.bids, bids), (self.asks, asks)])
            ours = 100 - self.random.randint(1, 20) if side is self.bids else 100 + self.random.randint(1, 20)
            size = self.random.choice(["0", "1", "2.50", "3"])
            if size == "0":
                side.pop(ours, None)
            else:
                side[ours] = size
            if not self.is_lost(ours):
                told.append((str(ours), size if size != "0" else "0.00"))
        if bids or asks:
            delta = BookDelta("v", SYMBOL, self.now, self.now, None, "a.1", bids, asks, last_seq=self.now)
            self.on_the_way.append((self.now + int(self.late_s * SECOND), delta))

    def arrive(self):
        while self.on_the_way and self.on_the_way[0][0] <= self.now:
            at, delta = self.on_the_way.pop(0)
            self.tell(msgspec.structs.replace(delta, ts_recv=at))

    def is_lost(self, price):
        return self.lose is not None and self.since >= self.lose[0] and price == self.lose[1]

    def snapshot(self, *, audit=False, depth=None):
        made = self.now + self.ahead_s * SECOND if audit else self.now
        return BookSnapshot(
            "v", SYMBOL, made, self.now, self.now, "a.1", *self.levels(depth), last_seq=self.now,
            depth=self.rule.depth, audit=audit,
        )  # fmt: skip

    def tell(self, event, reload=False):
        self.k += 1
        if reload:
            self.fold = Bookbuild("v", self.rule, self.fold.dump())
        self.fold.fold(self.k, codec.encode(event), self.out)
        for line in self.out.lines["books"]:
            said = codec.decode(line)
            self.events.append((self.since, said))
            if isinstance(said, Book):
                self.view.apply(said)
        for (name, reason), n in self.out.counts.items():
            if name == "tapeline_book_audits_total":
                self.counts[reason] = self.counts.get(reason, 0) + n
        for line in self.out.lines["control"]:
            self.serve(_request(line))
        self.out.clear()

    def serve(self, request):
        late = int(self.random.uniform(0, 2) * SECOND)
        if request.op == "audit":
            if self.cached is None or self.now - self.cached.ts_recv > self.cache_s * SECOND:
                depth = self.random.choice([None, 12, 5])
                self.cached = self.snapshot(audit=True, depth=depth)
            if self.random.random() < 0.9:  # else it never comes
                self.waiting.append((self.now + late, self.cached))
        elif request.op == "snapshot":
            self.waiting.append((self.now + late, self.snapshot()))
        else:
            self.waiting.append((self.now + SECOND // 10, None))  # the stream begins anew

    def run(self, seconds, *, reload_every=0):
        ticked = self.now
        until = self.now + seconds * SECOND
        while self.now < until:
            self.now += self.random.randint(1, SECOND // 2)
            if self.random.random() < 0.7:
                self.change()  # first: what is made at the same time has it
            self.arrive()
            due = [each for each in self.waiting if each[0] <= self.now]
            self.waiting = [each for each in self.waiting if each[0] > self.now]
            for _, answer in due:
                if answer is None:
                    self.lose = None
                self.tell(msgspec.structs.replace(answer or self.snapshot(), ts_recv=self.now))
            while self.now - ticked >= SECOND:
                ticked += SECOND
                reload = reload_every > 0 and self.random.randrange(reload_every) == 0
                self.tell(Tick("v", None, None, ticked, None), reload)
        return self


def opened(kind, seed, lose=None, depth=12):
    venue = Venue(kind, seed, lose, depth)
    venue.tell(venue.snapshot())
    return venue


@pytest.mark.parametrize("kind", RULES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), reload_every=st.sampled_from([0, 3]))
def test_a_book_that_is_the_venues_is_never_accused_and_soon_proved(kind, seed, reload_every):
    venue = opened(kind, seed).run(150, reload_every=reload_every)
    assert [said for _, said in venue.events if isinstance(said, Gap)] == []
    assert "differs" not in venue.counts
    assert venue.counts["passed"] >= 1
    proofs = [said.verified for _, said in venue.events if isinstance(said, Book)]
    first = proofs.index("audit")
    assert set(proofs[:first]) == {"none"}  # nothing had been compared yet
    assert venue.events[first][0] >= FIRST_S + LEAD_S


@pytest.mark.parametrize("kind", RULES)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    late_and_ahead=st.tuples(st.sampled_from([0, 1.5]), st.integers(-9, 9))
    | st.tuples(st.sampled_from([3, 6, 12, 25]), st.integers(-1, 1)),
)
def test_a_late_stream_or_another_clock_is_no_error_of_the_book(kind, seed, late_and_ahead):
    venue = opened(kind, seed)
    venue.late_s, venue.ahead_s = late_and_ahead
    venue.run(150)
    assert [said for _, said in venue.events if isinstance(said, Gap)] == []
    assert "differs" not in venue.counts


@pytest.mark.parametrize("kind", RULES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), price=st.sampled_from([99, 101]))
def test_a_change_that_was_missed_is_found_and_the_book_begins_anew(kind, seed, price):
    venue = opened(kind, seed, lose=(20, price), depth=30).run(20)  # none is fetched anew
    side = venue.bids if price < 100 else venue.asks
    side[price] = "7.25"  # nobody is told
    venue.random = random.Random(0)  # and it does not move
    choose = venue.random.randint
    venue.random.randint = lambda low, high: choose(2, high) if high == 20 else choose(low, high)
    venue.run(150)
    venue.now += 2 * SECOND
    venue.arrive()
    causes = [(said.channel, said.cause, said.conn) for _, said in venue.events if isinstance(said, Gap)]
    assert causes == [("book", "sequence", "a.1")]
    assert venue.counts["differs"] == 1
    assert venue.view.state == "live"
    truth = venue.levels()
    for ours, theirs in zip(venue.view.levels, truth, strict=True):
        assert ours == theirs[: len(ours)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from([*RULES]))
def test_dump_and_load_anywhere_change_nothing(seed, kind):
    def told(reload_every):
        venue = opened(kind, seed, lose=(60, 99))
        venue.random = random.Random(seed)
        dice = random.Random(seed)
        ticked = venue.now
        for n in range(400):
            venue.now += dice.randint(1, SECOND // 2)
            venue.arrive()
            due = [each for each in venue.waiting if each[0] <= venue.now]
            venue.waiting = [each for each in venue.waiting if each[0] > venue.now]
            for _, answer in due:
                venue.tell(answer or venue.snapshot(), reload=bool(reload_every))
            venue.change()
            if venue.now - ticked >= SECOND:
                ticked = venue.now
                reload = reload_every > 0 and n % reload_every == 0
                venue.tell(Tick("v", None, None, ticked, None), reload)
        return [codec.encode(said) for _, said in venue.events], venue.fold.dump()

    assert told(1) == told(0)
