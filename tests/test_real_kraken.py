"""Recorded frames of Kraken: every checksum reproduces, and the books are an independent reference's."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kraken_reference import Reference, frame_of
from msgspec.structs import replace

from actors.model import codec
from actors.model.errors import Unparseable
from actors.model.events import Book, BookDelta, BookSnapshot, Event, Gap
from actors.model.instruments import Instrument
from actors.stages.book import View
from actors.stages.bookbuild import Bookbuild
from actors.stages.bookbuild.alignment import Alignment
from actors.stages.bookbuild.sync import Sync
from actors.stages.fold import Output
from actors.venues import kraken
from actors.venues.base import BookRule, Scratch

WIRE = Path(__file__).parents[2] / "shared" / "wire" / "kraken"
NATIVES = ("BTC/USD", "ETH/USD", "MINA/GBP", "USDG/USD", "BNB/USD", "USDT/USD")
INSTRUMENTS = {n: Instrument(n.replace("/", "-"), n, *n.split("/")) for n in NATIVES}
BOOKS = [("spot-book-d10", 10, 54), ("spot-book-d25-quiet", 25, 30), ("spot-doc-checksum", 10, 1)]


def recording(name: str) -> list[dict[str, Any]]:
    path = WIRE / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded frames at ../shared/wire/kraken/{name}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def decoded(name: str) -> list[Any]:
    scratch = Scratch("a.1", INSTRUMENTS)
    said: list[Any] = []
    for row in recording(name):
        if row["dir"] == "in":
            scratch.recv = round((row["recv_ts"] or 1.8e9) * 1e9)
            said += kraken.decode(row["raw"].encode(), scratch)
    return said


def fold(rule: BookRule, events: list[Any]) -> tuple[View, list[Event]]:
    """Return the readers' book and all that was told, the requests' lines counted among ``told``."""
    bookbuild = Bookbuild("kraken", rule)
    out = Output(("books", "control", "dead"))
    for k, event in enumerate(events, 1):
        bookbuild.fold(k, codec.encode(event), out)
    view, told = View(), [codec.decode(line) for line in out.lines["books"]]
    for k, read in enumerate(told, 1):
        if isinstance(read, Book):
            view.apply(read, k)
    return view, told


def reference(name: str, depth: int) -> tuple[Reference, list[bool]]:
    """Return the book of the venue's guide, and which checksums match on the way."""
    book, matched = Reference(depth), list[bool]()
    for row in recording(name):
        frame = frame_of(row["raw"]) if row["dir"] == "in" else {}
        for data in frame.get("data", ()) if frame.get("channel") == "book" else ():
            book.apply(frame["type"], data)
            matched.append(book.checksum() == int(data["checksum"]))
    return book, matched


@pytest.mark.parametrize(("name", "depth", "checksums"), BOOKS)
def test_every_recorded_checksum_reproduces_and_the_book_is_the_reference_s(
    name: str, depth: int, checksums: int
) -> None:
    events = [said for said in decoded(name) if isinstance(said, BookSnapshot | BookDelta)]
    book, matched = reference(name, depth)
    assert len(events) == len(matched) == checksums
    assert all(matched)
    sync = Sync(Alignment(kraken.at_depth(depth).book_rule), "a.1", 0)
    for event in events:
        if isinstance(event, BookSnapshot):
            assert sync.snapshot(event, event.ts_recv) == "joined"
        else:
            assert sync.delta(event, 1, event.ts_recv) == "applied"
        assert kraken.book_checksum(sync.book) == event.checksum
    view, told = fold(kraken.at_depth(depth).book_rule, events)
    assert not [event for event in told if isinstance(event, Gap)]
    assert sum(isinstance(event, Book) for event in told) >= checksums
    assert (view.state, view.verified) == ("live", "checksum")
    assert view.levels == book.levels


def test_the_recorded_snapshot_of_another_precision_is_proved() -> None:
    snapshots = [said for said in decoded("spot-misc") if isinstance(said, BookSnapshot)]
    assert [(s.symbol, s.checksum) for s in snapshots] == [("USDG-USD", 3225719247)]
    view, told = fold(kraken.at_depth(10).book_rule, snapshots)
    assert view.state == "live"
    assert not [event for event in told if isinstance(event, Gap)]


@pytest.mark.parametrize("depth", [None, 25])
def test_a_book_that_is_not_cut_to_its_depth_is_not_published(depth: int | None) -> None:
    events = [said for said in decoded("spot-book-d10") if isinstance(said, BookSnapshot | BookDelta)]
    view, told = fold(replace(kraken.BOOK_RULE, depth=depth), events)
    assert view.state == "resyncing"
    assert [event.cause for event in told if isinstance(event, Gap)] == ["checksum"]


def test_a_lost_change_is_found_or_was_set_right_by_the_next() -> None:
    events = [said for said in decoded("spot-book-d10") if isinstance(said, BookSnapshot | BookDelta)]
    whole, _ = fold(kraken.at_depth(10).book_rule, events)
    found = 0
    for lost in range(1, len(events) - 1):
        view, told = fold(kraken.at_depth(10).book_rule, events[:lost] + events[lost + 1 :])
        gaps = [event.cause for event in told if isinstance(event, Gap)]
        found += gaps == ["checksum"]
        assert (view.state == "resyncing" and gaps == ["checksum"]) or view.levels == whole.levels
    assert found > 40


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("spot-book-d10", {"BookDelta": 53, "BookSnapshot": 1, "Acked": 1, "Ignored": 7}),
        ("spot-book-d25-quiet", {"BookDelta": 29, "BookSnapshot": 1, "Acked": 1, "Ignored": 61}),
        (
            "spot-misc",
            {"BookSnapshot": 1, "BookDelta": 1, "Ticker": 3, "Acked": 1, "Refused": 1, "Ignored": 1},
        ),
        ("spot-instrument", {"Ignored": 1}),
    ],
)
def test_recorded_frames_all_mean_something(name: str, counts: dict[str, int]) -> None:
    assert Counter(type(said).__name__ for said in decoded(name)) == counts


def test_rest_names_become_those_of_the_recorded_instrument_channel() -> None:
    [channel] = recording("spot-instrument")
    pairs = {pair["symbol"]: pair for pair in json.loads(channel["raw"])["data"]["pairs"]}
    [listing] = recording("spot-http-assetpairs")
    rows = kraken.rows(listing["raw"].encode())
    known = [row for row in rows if row.native in pairs]
    # The list is of 2021, the channel of 2024: what has gone since is 21 pairs under names that were kept.
    assert (len(rows), len(known)) == (293, 272)
    assert all((r.base, r.quote) == (pairs[r.native]["base"], pairs[r.native]["quote"]) for r in known)
    assert not [row for row in rows if "XBT" in row.native or "XDG" in row.native]


def test_recorded_lists_of_a_pair_and_of_a_tokenized_stock_are_read() -> None:
    lists = [row for row in recording("spot-http-misc") if "AssetPairs" in row["url"]]
    rows = [kraken.rows(row["raw"].encode()) for row in lists]
    assert [[(r.symbol, r.native, r.price_step, r.size_step) for r in found] for found in rows] == [
        [("BTC-USDT", "BTC/USDT", "0.1", "0.00000001")],
        [("AAPLX-USD", "AAPLx/USD", "0.01", "0.00000001")],
    ]


def test_what_is_no_list_of_pairs_gives_none() -> None:
    for row in recording("spot-http-misc"):
        if "AssetPairs" not in row["url"]:
            found = kraken.rows(row["raw"].encode())
            assert not [each for each in found if isinstance(each, Instrument)]
    with pytest.raises(Unparseable):
        kraken.rows(b"[]")
