"""The shelf of books, line by line."""

import random
from decimal import Decimal

from broadcaster_rig import Script

from actors.broadcaster import books
from actors.broadcaster.books import Shelf
from actors.model import codec


def file(shelf: Shelf, script: Script, *events: books.Book) -> list[str | None]:
    _, entry = script.entry("books", *events)
    changes = (shelf.take(1, k, line) for k, line in enumerate(entry.lines, entry.first))
    return [None if change is None else change.what for change in changes]


def test_a_book_of_many_deltas_is_folded_piece_by_piece_and_keeps_few_lines():
    shelf, script, rng = Shelf(), Script(), random.Random(3)
    truth: dict[Decimal, str] = {Decimal(1): "1"}
    file(shelf, script, script.book("snapshot", [("1", "1")], []))
    for i in range(3 * books._MOST_LINES):
        price, size = f"{rng.randint(1, 300)}.10", rng.choice(["0.0", "2", "3"])
        truth[Decimal(price)] = size
        if not Decimal(size):
            del truth[Decimal(price)]
        assert file(shelf, script, script.book("delta", [(price, size)], [], seq=i)) == ["update"]
        assert len(shelf._books["BTC-USDT"].lines) <= books._MOST_LINES
    book = shelf.snapshot("BTC-USDT")
    assert book is not None
    assert {Decimal(price): size for price, size in book.bids} == truth
    assert [Decimal(price) for price, _ in book.bids] == sorted(truth, reverse=True)
    assert (book.type, book.periodic, book.seq) == ("snapshot", False, 3 * books._MOST_LINES - 1)


def test_the_same_price_in_two_spellings_is_one_level():
    shelf, script = Shelf(), Script()
    file(
        shelf,
        script,
        script.book("snapshot", [("100.10", "1"), ("90", "1")], [("200.000000000000000001", "1")]),
    )
    file(
        shelf,
        script,
        script.book("delta", [("100.1", "0"), ("90.00", "4")], [("200.000000000000000002", "1")]),
    )
    book = shelf.snapshot("BTC-USDT")
    assert book is not None
    assert book.bids == [("90.00", "4")]
    assert len(book.asks) == 2  # a float could not tell these apart


def test_a_newcomers_book_is_made_once_until_the_next_line():
    shelf, script = Shelf(), Script()
    file(shelf, script, script.book("snapshot", [("1", "1")], []))
    assert shelf.snapshot("BTC-USDT") is shelf.snapshot("BTC-USDT")
    first = shelf.snapshot("BTC-USDT")
    file(shelf, script, script.book("delta", [("1", "2")], []))
    assert shelf.snapshot("BTC-USDT") is not first
    assert shelf.snapshot("ETH-USDT") is None


def test_levels_that_are_none_make_a_hole_and_not_a_wrong_book():
    shelf, script = Shelf(), Script()
    file(shelf, script, script.book("snapshot", [("1", "1")], []))
    _, entry = script.entry("books", script.book("delta", [("1", "2")], []))
    broken = codec.encode(codec.decode(entry.lines[0])).replace(b'[["1","2"]]', b"[[1]]")
    assert shelf.take(1, entry.k, broken) is not None  # its head is well
    assert shelf.snapshot("BTC-USDT") is None
    assert (shelf.holes, shelf.live()) == (1, [])
    assert file(shelf, script, script.book("delta", [("1", "3")], [])) == [None]
    assert file(shelf, script, script.book("snapshot", [("1", "3")], [], periodic=True)) == ["snapshot"]
