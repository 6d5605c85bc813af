"""Laws of the matching engine, for any orders."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.simulator.book import Book, Fill, Forgotten, Levels

LIMIT = st.tuples(
    st.just("limit"), st.sampled_from([1, -1]), st.integers(90, 110), st.integers(1, 50), st.booleans()
)
CANCEL = st.tuples(st.just("cancel"), st.integers(1, 60))
OPERATIONS = st.lists(LIMIT | CANCEL, max_size=80)


def play(book: Book, operation: tuple) -> list[Fill]:
    if operation[0] == "cancel":
        book.cancel(operation[1])
        return []
    _, side, price, size, rest = operation
    return book.submit(side * price, size, rest=rest)[1]


@given(OPERATIONS)
def test_a_book_is_never_crossed_and_its_levels_are_sorted(operations: list[tuple]) -> None:
    book = Book()
    for operation in operations:
        play(book, operation)
        bid, bid_size, ask, ask_size = book.top()
        assert not (bid and ask) or bid < ask
        assert bool(bid) == bool(bid_size)
        assert bool(ask) == bool(ask_size)
        levels = book.depth()
        assert [p for p, _ in levels.bids] == sorted({p for p, _ in levels.bids}, reverse=True)
        assert [p for p, _ in levels.asks] == sorted({p for p, _ in levels.asks})


@given(OPERATIONS)
def test_size_is_conserved(operations: list[tuple]) -> None:
    """What was submitted rests, was filled twice over (maker and taker), cancelled, or dropped."""
    book = Book()
    left: dict[int, int] = {}
    for operation in operations:
        if operation[0] == "cancel":
            assert book.cancel(operation[1]) == (left.pop(operation[1], 0) > 0)
        else:
            _, side, price, size, rest = operation
            order_id, fills = book.submit(side * price, size, rest=rest)
            taken = sum(fill.size for fill in fills)
            assert taken <= size
            for fill in fills:
                assert (price - fill.price) * side >= 0, "nobody pays more than his limit"
                left[fill.maker] -= fill.size
                assert left[fill.maker] >= 0
                if not left[fill.maker]:
                    del left[fill.maker]
            assert bool(order_id) == (rest and taken < size)
            if order_id:
                left[order_id] = size - taken
        assert {order_id: size for order_id, _, size in book.orders()} == left
        totals: dict[int, int] = defaultdict(int)
        for _, key, size in book.orders():
            totals[key] += size
        levels = book.depth()
        assert {**dict(levels.bids), **{-p: s for p, s in levels.asks}} == totals


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9), st.integers(1, 60))
def test_makers_of_a_price_are_filled_in_the_order_they_came(sizes: list[int], taken: int) -> None:
    book = Book()
    ids = [book.submit(-100, size)[0] for size in sizes]
    _, fills = book.submit(100, taken, rest=False)
    assert [fill.maker for fill in fills] == ids[: len(fills)]
    assert [fill.size for fill in fills[:-1]] == sizes[: len(fills) - 1]
    assert sum(fill.size for fill in fills) == min(taken, sum(sizes))


@given(OPERATIONS, st.integers(2, 16))
@settings(max_examples=50)
def test_the_record_gives_the_book_at_every_sequence_it_keeps(operations: list[tuple], keep: int) -> None:
    book = Book(sequence=1000, keep=keep)
    seen: dict[int, Levels] = {1000: book.depth()}
    for operation in operations:
        play(book, operation)
        seen[book.sequence] = book.depth()
    assert book.sequence - book.oldest < 2 * keep
    for sequence, levels in seen.items():
        if sequence >= book.oldest:
            assert book.at(sequence) == levels
            bids, asks = dict(levels.bids), dict(levels.asks)
            changed = book.changed(sequence)
            bids.update(changed.bids)
            asks.update(changed.asks)
            now = book.depth()
            assert {p: s for p, s in bids.items() if s} == dict(now.bids)
            assert {p: s for p, s in asks.items() if s} == dict(now.asks)
        else:
            with pytest.raises(Forgotten):
                book.at(sequence)
    with pytest.raises(Forgotten):
        book.at(book.sequence + 1)


def test_a_taker_walks_the_book_level_by_level() -> None:
    book = Book()
    for price in (101, 102, 103):
        book.submit(-price, 5)
    _, fills = book.submit(102, 12)
    assert [(fill.price, fill.size) for fill in fills] == [(101, 5), (102, 5)]
    assert book.top() == (102, 2, 103, 5), "the remainder rests at its limit"
