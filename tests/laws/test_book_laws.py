"""Laws of books: sides against naive references, and the whole fold against a venue that is known."""

import hashlib
import os
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.model import codec
from actors.model.events import Book, BookDelta, BookSnapshot, Status, Tick
from actors.stages.book import Levels, Side, View, difference
from actors.stages.bookbuild import Bookbuild
from actors.stages.control import ControlRequest
from actors.stages.fold import Output
from actors.venues.base import BookRule

SECOND = 1_000_000_000

plain_prices = st.integers(1, 40).map(lambda n: f"{n / 4:.2f}")
spelled_prices = st.sampled_from(
    ["1", "1.0", "1.00", "10", "10.0", "0.000001", "0.0000010", "100000000000000000"]
)
long_prices = st.integers(0, 5).map(lambda n: f"9.1234567890123456{n}")
longest_prices = st.integers(0, 5).map(lambda n: f"9.{'1' * 30}{n}")  # beyond Decimal's usual 28 digits
prices = st.one_of(plain_prices, plain_prices, spelled_prices, long_prices, longest_prices)
sizes = st.sampled_from(["0", "0.00000000", "1", "0.5", "12.50", "0.00000001"])
changes = st.lists(st.tuples(prices, sizes), max_size=8)


class Naive:
    """One side, the obvious way."""

    def __init__(self, *, is_ask):
        self.levels = {}
        self.is_ask = is_ask

    def update(self, changes):
        for price, size in changes:
            if Decimal(size) == 0:
                self.levels.pop(Decimal(price), None)
            else:
                self.levels[Decimal(price)] = (price, size)

    def best_first(self, most=None):
        return [self.levels[p] for p in sorted(self.levels, reverse=not self.is_ask)][:most]


@given(st.booleans(), changes, st.lists(changes, max_size=12))
def test_snapshot_and_deltas_make_the_book_built_whole(is_ask, whole, deltas):
    side, naive = Side(is_ask=is_ask), Naive(is_ask=is_ask)
    side.load(whole)
    naive.update(whole)
    for delta in deltas:
        assert side.best_first() == naive.best_first()
        assert side.update(delta) is delta
        naive.update(delta)
    assert side.best_first() == naive.best_first()
    assert side.best_first(3) == naive.best_first(3)
    assert side.keys == sorted(side.keys)
    built = Side(is_ask=is_ask)
    built.load(naive.best_first())
    assert built.best_first() == side.best_first()


@given(st.booleans(), changes, changes)
def test_the_difference_of_two_sides_makes_one_the_other(is_ask, one, other):
    old, new = Side(is_ask=is_ask), Side(is_ask=is_ask)
    old.load(one)
    new.load(other)
    reader = Naive(is_ask=is_ask)
    reader.update(old.best_first())
    reader.update(difference(old, new))
    assert reader.best_first() == new.best_first()
    assert difference(new, new) == []


@given(changes, changes)
@example([("9." + "1" * 30 + "0", "1")], [("9." + "1" * 31, "1")])  # equal in 28 digits
def test_crossed_means_that_the_best_bid_is_not_below_the_best_ask(bids, asks):
    levels = Levels()
    levels.load(bids, asks)
    best = levels.best()
    crossed = None not in best and Decimal(best[0][0]) >= Decimal(best[1][0])
    assert levels.crossed is crossed


@given(st.booleans(), st.integers(1, 6), changes, st.lists(changes, max_size=12), st.booleans())
def test_a_side_with_a_horizon_is_always_the_best_levels_of_the_venues(is_ask, limit, whole, deltas, reload):
    venue = Naive(is_ask=is_ask)
    venue.update(whole)
    side = Side(is_ask=is_ask, limit=limit, open_end=True)
    side.load(venue.best_first(limit))
    reader = Naive(is_ask=is_ask)
    reader.update(side.best_first())
    for delta in deltas:
        venue.update(delta)
        reader.update(side.update(delta))
        assert side.best_first() == venue.best_first(len(side.keys))
        assert reader.best_first() == side.best_first()
        assert len(side.keys) <= limit
        if reload:
            levels, horizon = side.dump()
            side = Side(is_ask=is_ask, limit=limit, open_end=True)
            side.restore(list(levels), horizon)
        if side.horizon == float("-inf"):
            assert side.best_first() == venue.best_first()


def test_a_lock_is_seen_though_only_one_side_has_a_price_of_many_digits():
    levels = Levels()
    levels.load([("0.1", "1"), ("0.01234567890123456789", "1")], [("0.1", "1")])
    assert levels.crossed  # Decimal("0.1") is below the double 0.1


# The fold


class Venue:
    """A venue whose every book is known at every sequence; several connections tell of it, unreliably."""

    def __init__(self, seed, *, steps=150, depth=None):
        self.random = random.Random(seed)
        self.depth = depth
        self.steps = steps
        self.now = 1_700_000_000 * SECOND
        self.books = {"BTC-USDT": [({}, {})], "ETH-USDT": [({}, {})]}  # symbol -> book at sequence n
        self.changes = {symbol: [None] for symbol in self.books}
        self.told = {}  # (connection, symbol) -> the last sequence it told
        self.connections = ["a.1", "b.1"]
        self.opened = 1

    def change(self, symbol):
        bids, asks = self.books[symbol][-1]
        other, sign = self.random.choice([(asks, 1), (bids, -1)])
        price = Decimal(self.random.randint(90, 110)) / 10
        size = self.random.choice(["0", "1", "2.50", "3"])
        crossing = any((price - p) * sign >= 0 for p in other)
        if crossing and self.random.random() < 0.98:
            size = "0"
        self.set(symbol, 0 if sign == 1 else 1, price, size)

    def set(self, symbol, side, price, size):
        sides = tuple(dict(levels) for levels in self.books[symbol][-1])
        if size == "0":
            sides[side].pop(price, None)
        else:
            sides[side][price] = size
        self.books[symbol].append(sides)
        self.changes[symbol].append((side, (str(price), size)))

    def sweep(self, symbol):
        for side, levels in enumerate(self.books[symbol][-1]):
            for price in levels:
                self.set(symbol, side, price, "0")

    def trade(self):
        for symbol in self.books:
            for _ in range(self.random.randint(0, 3)):
                self.change(symbol)
            if self.random.random() < 0.02:
                self.sweep(symbol)

    def delta(self, conn, symbol):
        last = len(self.books[symbol]) - 1
        first = self.told.get((conn, symbol), max(0, last - 2)) + 1
        self.told[conn, symbol] = last
        if first > last:
            return None
        run = self.changes[symbol][first : last + 1]
        sides = [[level for side, level in run if side == n] for n in (0, 1)]
        return BookDelta("v", symbol, self.now, self.now, last, conn, *sides, first_seq=first, last_seq=last)

    def levels(self, symbol, seq):
        bids, asks = self.books[symbol][seq]
        return (
            [(str(p), bids[p]) for p in sorted(bids, reverse=True)],
            [(str(p), asks[p]) for p in sorted(asks)],
        )

    def snapshot(self, conn, symbol):
        newest = len(self.books[symbol]) - 1
        seq = max(0, newest - self.random.choice([0, 0, 0, 3, 8]))  # REST may be behind
        bids, asks = self.levels(symbol, seq)
        return BookSnapshot(
            "v", symbol, None, self.now, seq, conn, bids[: self.depth], asks[: self.depth],
            last_seq=seq, depth=self.depth,
        )  # fmt: skip

    def events(self, asked):
        """Yield events, reading the requests in ``asked`` as they come."""
        waiting, former = [], []
        for _ in range(self.steps):
            self.now += self.random.randint(0, SECOND // 2)
            waiting += asked
            asked.clear()
            self.trade()
            chance = self.random.random()
            conn = self.random.choice(self.connections)
            symbol = self.random.choice(list(self.books))
            if chance < 0.55:
                delta = self.delta(conn, symbol)
                if delta is not None and self.random.random() > 0.05:  # else lost on the way
                    former.append(delta)
                    yield delta
            elif chance < 0.65 and former:
                yield self.random.choice(former)  # a duplicate, or far too late
            elif chance < 0.75 and waiting:
                request = waiting.pop(self.random.randrange(len(waiting)))
                yield self.snapshot(request.conn, request.symbol)
            elif chance < 0.80:
                former = [delta for delta in former if delta.conn != conn]
                self.connections.remove(conn)
                self.opened += 1
                self.connections.append(f"{conn[0]}.{self.opened}")
                yield Status("v", None, None, self.now, None, None, "down", "closed", conn)
            elif chance < 0.83:
                what = self.random.choice([(symbol, "book"), (None, None)])
                state = self.random.choice(["stale", "stale", "live"])
                yield Status("v", what[0], None, self.now, None, what[1], state, "silent", conn)
            else:
                yield Tick("v", None, None, self.now, None)


def run(venue, *, reload_every=None):
    """Fold what the venue says; return every line and key, the states seen and the last dump.

    Whenever a book is told as live it is the venue's at that sequence, and its chain is whole.
    """
    rule = BookRule(snapshot="rest", join="range", chain="range", depth=venue.depth)
    fold = Bookbuild("v", rule)
    out = Output(("books", "control", "dead"))
    decode = msgspec.json.Decoder(ControlRequest).decode
    lines, asked, views, states = [], [], {}, []
    told = 0
    for k, event in enumerate(venue.events(asked), 1):
        if reload_every is not None and k % reload_every == 0:
            dump = fold.dump()
            fold = Bookbuild("v", rule, dump)
            assert fold.dump() == dump
        fold.fold(k, codec.encode(event), out)
        for line in out.lines["books"]:
            told += 1
            read = codec.decode(line)
            if not isinstance(read, Book):
                continue
            states.append(read.state)
            view = views.setdefault(read.symbol, View())
            view.apply(read, told)
            bids, asks = view.levels
            if read.state != "live":
                assert (bids, asks) == ([], [])
                continue
            true_bids, true_asks = venue.levels(read.symbol, read.seq)
            assert bids == true_bids[: len(bids)]
            assert asks == true_asks[: len(asks)]
            if venue.depth is None:
                assert (bids, asks) == (true_bids, true_asks)
            assert not bids or not asks or Decimal(bids[0][0]) < Decimal(asks[0][0])
        asked += [decode(line) for line in out.lines["control"]]
        lines += [*out.lines["books"], *out.lines["control"], repr(out.keys).encode()]
        out.clear()
    return lines, states, fold.dump()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([None, 4]))
def test_a_live_book_is_the_venues_whatever_is_lost_repeated_or_closed(seed, depth):
    run(Venue(seed, depth=depth))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([None, 4]), st.integers(1, 7))
def test_dump_and_load_anywhere_change_nothing(seed, depth, reload_every):
    whole = run(Venue(seed, depth=depth))
    assert run(Venue(seed, depth=depth), reload_every=reload_every) == whole


def test_the_venue_of_these_laws_leads_through_every_state():
    states = set()
    for seed in range(6):
        states |= set(run(Venue(seed, steps=400))[1])
    assert states == {"live", "resyncing", "stale", "crossed", "empty"}


def fingerprint():
    digest = hashlib.sha256()
    for seed in range(3):
        lines, _, dump = run(Venue(seed), reload_every=11)
        digest.update(b"\n".join([*lines, dump]))
    return digest.hexdigest()


def test_the_order_of_hashes_changes_nothing():
    root = Path(__file__).parents[2]
    code = "import test_book_laws; print(test_book_laws.fingerprint())"
    path = os.pathsep.join([str(root), str(Path(__file__).parent)])
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert prints == {fingerprint()}
