"""What a master is told of a stream depends on the stream alone."""

import json
from collections.abc import Iterator

import pytest
from forwarder_rig import BEGIN, MS, PARTITION, SYMBOLS, Script
from hypothesis import example, given, settings
from hypothesis import strategies as st
from schemas import conforms

from actors.dialects.ftsobest import Words
from actors.forwarder.tellers import Enough, Happenings, Message, Told, Views
from actors.model import codec
from actors.model.events import Gap
from actors.stages.book import View
from actors.streams.keys import Cursor
from actors.streams.partition import Entry


def views(*, acked: bool = True, depth: int = 5, interval_ms: int = 100, wanted=None) -> Views:
    return Views(
        Words("binance", acked=acked), PARTITION, wanted=wanted, depth=depth, interval_ms=interval_ms
    )


def happenings(*, acked: bool = True, **wanted) -> Happenings:
    kinds = wanted or {"trade": None, "ticker": None, "gap": None}
    return Happenings(Words("binance", acked=acked), PARTITION, kinds)


def messages(told: list[Told]) -> list[Message]:
    return [message for part in told for message in part.messages]


def at_the_end(teller: Views) -> list[Told]:
    return teller.waiting(2**63)


def cut(entry: Entry, *places: int) -> Iterator[Entry]:
    """The same lines as several entries."""
    ends = sorted({*(place for place in places if 0 < place < len(entry.lines)), len(entry.lines)})
    begin = 0
    for end in ends:
        yield Entry(entry.epoch, entry.first + end - 1, entry.lines[begin:end])
        begin = end


def test_trades_are_told_one_by_one_with_their_cursors():
    entry = Script().events(5)
    (told,) = happenings().take(entry)
    assert told.last == Cursor(7, 5)
    assert [message.cursor for message in told.messages] == [Cursor(7, k) for k in (1, 2, 3, 4)]
    for message in told.messages:
        said = conforms("acked", message.said.text, "message")
        assert said["cursor"] == f"binance.0/events/{message.cursor}"


def test_only_what_is_wanted_is_told():
    entry = Script().events(50)
    (told,) = happenings(trade={"ETH-USDT"}).take(entry)
    assert {json.loads(message.said.text)["symbol"] for message in told.messages} == {"ETH/USDT"}
    (told,) = happenings(ticker=None).take(entry)
    assert told.messages == []


def test_what_cannot_be_read_or_said_is_counted():
    teller = happenings(acked=False, trade=None, gap=None)
    gap = codec.encode(Gap("binance", None, None, BEGIN, None, None, "sequence", "1", "2"))
    (told,) = teller.take(
        Entry(7, 3, [b'{"kind":"trade","nonsense":1}', gap, codec.encode(Script().trade())])
    )
    assert len(told.messages) == 1
    assert (teller.unreadable, teller.skipped) == (1, 1)


def test_views_are_complete_and_come_at_the_interval():
    script = Script(3)
    teller, truth = views(), {symbol: View() for symbol in SYMBOLS}
    shown: dict[str, list[int]] = {symbol: [] for symbol in SYMBOLS}
    at: dict[tuple[str, int], View] = {}
    entry = script.books(600)
    for k, line in enumerate(entry.lines, 1):
        event = codec.decode(line)
        truth[event.symbol].apply(event, k)
        at[event.symbol, k] = truth[event.symbol].top(5)
    told = teller.take(entry) + at_the_end(teller)
    assert [message.cursor for message in messages(told)] == sorted(m.cursor for m in messages(told))
    for message in messages(told):
        said = conforms("acked", message.said.text, "message")
        symbol = said["symbol"].replace("/", "-")
        bids, asks = at[symbol, message.cursor.k]
        assert [tuple(level) for level in said["bids"]] == bids
        assert [tuple(level) for level in said["asks"]] == asks
        shown[symbol].append(said["timestamp"])
    for stamps in shown.values():
        windows = [stamp // 100 for stamp in stamps]
        assert windows == sorted({*windows}), "one view a book and interval"
        assert len(windows) > 10


def test_a_book_that_is_not_live_is_not_told():
    script = Script(1)
    entry = script.books(30)
    teller = views()
    teller.take(entry)
    broken = json.loads(entry.lines[-1]) | {
        "type": "snapshot", "state": "stale", "bids": [], "asks": [], "symbol": "BTC-USDT",
        "ts_recv": script.now + 1,
    }  # fmt: skip
    told = teller.take(Entry(7, 31, [json.dumps(broken, separators=(",", ":")).encode()]))
    told += at_the_end(teller)
    last = [m for m in messages(told) if m.cursor.k > 0 and '"BTC/USDT"' in m.said.text]
    assert all(json.loads(message.said.text)["bids"] for message in last)
    delta = json.loads(entry.lines[-1]) | {
        "symbol": "BTC-USDT",
        "type": "delta",
        "prev": 17,
        "ts_recv": 2**62,
    }
    assert messages(teller.take(Entry(7, 32, [json.dumps(delta).encode()]))) == []


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 50),
    places=st.lists(st.integers(1, 199), max_size=4),
    restart=st.integers(1, 199),
)
@example(seed=47, places=[], restart=33)  # a book's next snapshot stands in the same entry, after the end
@example(seed=0, places=[], restart=41)
def test_the_same_is_told_however_it_is_cut_and_wherever_it_starts_again(
    seed: int, places: list[int], restart: int
):
    entry = Script(seed).books(200, step_ms=20)
    whole = views()
    once = whole.take(entry) + at_the_end(whole)
    pieces = views()
    told = [part for piece in cut(entry, *places) for part in pieces.take(piece)] + at_the_end(pieces)
    assert messages(told) == messages(once)
    assert [part.last for part in told] == [part.last for part in once]
    # killed after any run: the next one reads back, stands there, and tells the very same
    ends = [Cursor(7, 0), *(message.cursor for message in messages(once)), *(part.last for part in once)]
    end = ends[restart % len(ends)]
    again = views()
    enough = Enough(SYMBOLS, end, 30 * 10**9, 1 << 26)
    back = []
    # as ``read_back`` gives them: the entry that holds ``end`` is whole
    for piece in reversed([piece for piece in cut(entry, *range(50, 200, 50)) if piece.first <= end.k]):
        back.append(piece)
        if enough(piece):
            break
    again.restore(back[::-1], end)
    rest = Entry(7, 200, entry.lines[end.k :])
    told = (again.take(rest) if rest.lines else []) + at_the_end(again)
    assert messages(told) == [message for message in messages(once) if message.cursor > end]


def test_a_hole_ends_all_books_until_their_next_snapshot():
    script = Script(2)
    teller = views()
    teller.take(script.books(40))
    gap = Gap("binance", None, None, script.now, None, None, "retention", "41", "90")
    told = teller.hole(gap, Cursor(7, 90))
    assert told[-1].last == Cursor(7, 40)
    script.k["books"] = 90
    after = script.books(10)
    told = teller.take(after) + at_the_end(teller)
    said = [json.loads(message.said.text) for message in messages(told)]
    assert said[0]["type"] == "gap"
    assert said[0]["cursor"] == "binance.0/books/7-90"
    whole = {json.loads(line)["symbol"] for line in after.lines if b'"snapshot"' in line}
    assert {m["symbol"].replace("/", "-") for m in said[1:]} <= whole


@pytest.mark.parametrize("acked", [False, True])
def test_the_plain_dialect_is_told_of_no_gap(acked: bool):
    gap = Gap("binance", None, None, BEGIN, None, None, "retention", "1", "2")
    (told,) = happenings(acked=acked).hole(gap, Cursor(7, 2))
    assert len(told.messages) == acked
    assert told.ts_recv == BEGIN
    assert MS
