"""Recorded frames of the venue, decoded and folded into books, against an independent few-line reference."""

import json
from bisect import bisect_right
from pathlib import Path

import pytest

from actors.model import codec
from actors.model.events import L1, Book, Gap
from actors.model.instruments import Instrument
from actors.stages.book import View
from actors.stages.bookbuild import Bookbuild
from actors.stages.fold import Output
from actors.venues.base import Answer, Request, Scratch
from actors.venues.binance import VENUE

WIRE = Path(__file__).parents[2] / "shared" / "wire" / "binance"
NATIVE = {
    "BTCUSDT": ("BTC", "USDT"),
    "NKNUSDT": ("NKN", "USDT"),
    "BLZETH": ("BLZ", "ETH"),
    "LRCBTC": ("LRC", "BTC"),
    "RUNEEUR": ("RUNE", "EUR"),
}
INSTRUMENTS = {n: Instrument(f"{base}-{quote}", n, base, quote) for n, (base, quote) in NATIVE.items()}


def recording(name):
    path = WIRE / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded frames at ../shared/wire/binance/{name}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def events_of(rows):
    scratch = Scratch("a.1", INSTRUMENTS)
    for row in rows:
        scratch.recv = int(row["recv_ts"] * 1e9)
        if row["dir"] == "in":
            yield from VENUE.decode(row["raw"].encode(), scratch)
        elif row["dir"] == "http":
            native = row["url"].split("symbol=")[1].split("&")[0]
            request = Request("snapshot", row["url"], symbol=INSTRUMENTS[native].symbol)
            yield from VENUE.decode_rest(Answer(request, 200, row["raw"]), scratch)


def reference(rows, native):
    """The venue's procedure in a few lines, on dicts: price -> size a side, and the last update id."""
    body = next(json.loads(r["raw"]) for r in rows if r["dir"] == "http" and native in r["url"])
    book, last = (dict(body[side]) for side in ("bids", "asks")), body["lastUpdateId"]
    bids, asks = book
    for row in rows:
        data = json.loads(row["raw"]).get("data", {}) if row["dir"] == "in" else {}
        if data.get("e") != "depthUpdate" or data["s"] != native or data["u"] <= last:
            continue
        assert data["U"] <= last + 1
        for side, changes in ((bids, data["b"]), (asks, data["a"])):
            for price, size in changes:
                side.pop(price, None) if float(size) == 0 else side.update({price: size})
        last = data["u"]
    return (
        sorted(bids.items(), key=lambda x: -float(x[0])),
        sorted(asks.items(), key=lambda x: float(x[0])),
        last,
    )


def fold(rows):
    """Return the readers' books by symbol, all that was told, and (seq, best bid, best ask) after each."""
    bookbuild = Bookbuild("binance", VENUE.book_rule, has_l1=True)
    out = Output(("books", "control", "dead"))
    views, told, tops = {}, [], []
    for k, event in enumerate(events_of(rows), 1):
        bookbuild.fold(k, codec.encode(event), out)
        for line in out.lines["books"]:
            read = codec.decode(line)
            told.append(read)
            if isinstance(read, Book):
                view = views.setdefault(read.symbol, View())
                view.apply(read, len(told))
                if read.state == "live":
                    bids, asks = view.top(1)
                    tops.append((read.seq, bids[0], asks[0]))
        out.clear()
    return views, told, tops


@pytest.mark.parametrize(
    ("name", "natives"),
    [
        ("spot-btcusdt-mixed", ["BTCUSDT"]),
        ("spot-book_diff", ["NKNUSDT", "BLZETH", "LRCBTC", "RUNEEUR"]),
    ],
)
def test_recorded_books_are_what_an_independent_reference_makes_of_them(name, natives):
    rows = recording(name)
    views, told, _ = fold(rows)
    assert not [event for event in told if isinstance(event, Gap)]
    assert len(views) == len(natives)
    for native in natives:
        view = views[INSTRUMENTS[native].symbol]
        bids, asks, last = reference(rows, native)
        ours = view.levels
        assert (view.state, view.event.seq) == ("live", last)
        # Deeper than the snapshot's 1,000 levels nothing is known, so nothing is told there.
        assert ours == (bids[: len(ours[0])], asks[: len(ours[1])])
        assert len(ours[0]) >= min(len(bids), 800)
        assert len(ours[1]) >= min(len(asks), 800)


def test_recorded_books_agree_with_the_recorded_best_bid_and_offer():
    rows = recording("spot-btcusdt-mixed")
    _, told, tops = fold(rows)
    native = sorted((e.seq, (e.bid, e.bid_size), (e.ask, e.ask_size)) for e in told if isinstance(e, L1))
    assert len(native) == 2735
    sequences = [row[0] for row in native]
    compared = 0
    for seq, bid, ask in tops:
        i = bisect_right(sequences, seq) - 1
        if 0 <= i < len(native) - 1:  # every change of the best is sent: the last at or before seq holds
            assert native[i][1:] == (bid, ask)
            compared += 1
    assert compared > 300
