"""What a case table cannot say of MEXC: bytes by hand, and what becomes of bytes that mean nothing."""

import base64
import itertools
import json
import tracemalloc
from typing import Any

import pytest
from chain_rig import Chain
from wire_form import encode

from actors.model import codec
from actors.model.errors import Unparseable
from actors.model.events import L1, AnyEvent, Book, BookDelta, Gap, Ticker, Trade
from actors.model.instruments import Instrument
from actors.stages.fold import Output
from actors.stages.normalize import Normalize
from actors.stages.raw import line
from actors.venues import mexc
from actors.venues.base import Ignored, Scratch

BTC = Instrument("BTC-USDT", "BTCUSDT", "BTC", "USDT")
SENT, DEALT = 1_790_281_246_250_000_000, 1_790_281_246_176_000_000
HEAD = b"\x0a\x08spot@24H\x1a\x07BTCUSDT\x30\xaa\xcc\xcf\xa8\x8d\x34"  # 1: channel 3: symbol 6: sent

# A key is field number << 3 | wire type (0 a varint, 2 a length and bytes); low seven bits come first.
BY_HAND: list[tuple[bytes, AnyEvent]] = [
    (
        (b"\xd2\x13\x18"  # 314, of 24 bytes
        b"\x0a\x16" b"\x0a\x03100" b"\x12\x012" b"\x18\x01" b"\x20\xe0\xcb\xcf\xa8\x8d\x34" b"\x2a\x03A_B"),
        Trade("mexc", "BTC-USDT", DEALT, 7, None, "A_B", "100", "2", "buy"),
    ),
    (
        (b"\xca\x13\x19"  # 313: asks, bids, first and last version
        b"\x0a\x08" b"\x0a\x03101" b"\x12\x013"
        b"\x12\x07" b"\x0a\x0299" b"\x12\x010" b"\x22\x017" b"\x2a\x019"),
        BookDelta(
            "mexc", "BTC-USDT", SENT, 7, 9, "a.1", [("99", "0")], [("101", "3")], first_seq=7, last_seq=9
        ),
    ),
    (
        (b"\xda\x13\x12"  # 315
        b"\x0a\x0299" b"\x12\x014" b"\x1a\x03101" b"\x22\x013" b"\x2a\x019"),
        L1("mexc", "BTC-USDT", SENT, 7, 9, "99", "4", "101", "3"),
    ),
    (
        (b"\xaa\x13\x21"  # 309: symbol, last, high, low, turnover, volume
        b"\x0a\x07BTCUSDT" b"\x12\x03100" b"\x2a\x03110" b"\x32\x0290" b"\x3a\x045000" b"\x42\x0250"),
        Ticker("mexc", "BTC-USDT", SENT, 7, None, "100", None, "110", "90", "50", "5000"),
    ),
]  # fmt: skip


def scratch() -> Scratch:
    made = Scratch("a.1", {"BTCUSDT": BTC})
    made.recv = 7
    return made


@pytest.mark.parametrize(("body", "event"), BY_HAND)
def test_bytes_put_together_by_hand_are_understood(body: bytes, event: AnyEvent) -> None:
    assert mexc.decode(HEAD + body, scratch()) == [event]


def test_of_two_bodies_the_last_counts_as_the_schema_says() -> None:
    for (first, _), (last, event) in itertools.permutations(BY_HAND, 2):
        assert mexc.decode(HEAD + first + last, scratch()) == [event]


@pytest.mark.parametrize("body", ["313", "314"])
def test_a_frame_of_nothing_but_empty_rows_is_refused_before_they_are_made(body: str) -> None:
    most = mexc.LIMITS.max_frame_bytes
    frame = HEAD + encode({body: {"1": [{}] * (most // 2 - 100), "4": "1", "5": "2"}})
    assert 0.9 * most < len(frame) <= most
    tracemalloc.start()
    with pytest.raises(Unparseable, match="changes in one frame: more than 10000"):
        mexc.decode(frame, scratch())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most  # in Python; what the parser holds is bounded by the frame, which the socket bounds


@pytest.mark.parametrize("depth", [90, 5000])
def test_messages_within_messages_are_refused_or_skipped(depth: int) -> None:
    nested: dict[str, Any] = {}
    for _ in range(depth):
        nested = {"900": nested}
    if depth < 100:  # of a field that nobody knows, it is only bytes
        assert mexc.decode(encode({"1": "spot@x", "900": nested}), scratch()) == [Ignored("unknown_channel")]
    groups = b"\xa3\x38" * depth  # 900 again, as groups, which have no length
    with pytest.raises(Unparseable):
        mexc.decode(HEAD + groups, scratch())


def fold(*raw_lines: bytes) -> Output:
    stage, out = Normalize(mexc.VENUE, "mexc.0"), Output(("events", "control", "dead"))
    for k, raw_line in enumerate(raw_lines, 1):
        stage.fold(k, raw_line, out)
    return out


def raw(payload: Any, kind: str) -> bytes:
    return line(SENT, "a.1", kind, payload if isinstance(payload, bytes) else json.dumps(payload).encode())


def test_a_binary_frame_that_means_nothing_is_counted_and_kept_for_people_to_read() -> None:
    instrument = {"symbol": "BTC-USDT", "native": "BTCUSDT", "base": "BTC", "quote": "USDT"}
    sent = {"op": "subscribe", "items": [["trade", "BTC-USDT"]], "frame": "{}"}
    good = HEAD + BY_HAND[0][0]
    out = fold(
        raw(instrument, "i"),
        raw(b"wss://wbs-api.mexc.com/ws", "o"),
        raw(sent, "s"),
        raw(base64.b64encode(good), "b"),
        raw(base64.b64encode(good[:-1]), "b"),
        raw(base64.b64encode(b"\xff" * 40), "b"),
    )
    events = [codec.decode(text) for text in out.lines["events"]]
    assert [event.id for event in events if isinstance(event, Trade)] == ["A_B"]
    assert out.counts["tapeline_unparseable_total", "malformed"] == 2
    letters = [json.loads(text) for text in out.lines["dead"]]
    assert [letter["stage"] for letter in letters] == ["normalizer", "normalizer"]
    assert "no frame of this venue: b'\\n\\x08spot@24H" in letters[0]["reason"]
    kept = letters[0]["record"].split(" ", 3)[3]
    assert base64.b64decode(kept) == good[:-1]
    gaps = [event for event in events if event.__struct_config__.tag == "gap"]
    assert len(gaps) == 1
    assert gaps[0].channel == "trade"


def test_a_connection_takes_seven_instruments_with_all_channels() -> None:
    many = [Instrument(f"A{n}-USDT", f"A{n}USDT", f"A{n}", "USDT") for n in range(20)]
    planned = mexc.VENUE.plan(mexc.VENUE.endpoints, many, list(mexc.STREAMS))
    assert [len(connection.subscriptions) for connection in planned] == [28, 28, 24]
    frame = json.loads(planned[0].subscriptions[3].frame)
    assert frame == {"method": "SUBSCRIPTION", "params": ["spot@public.miniTicker.v3.api.pb@A0USDT@24H"]}


# ---- the chain of versions ------------------------------------------------------------------------------


class Feed(Chain):
    """A market whose book has been put together up to version 20."""

    def __init__(self) -> None:
        super().__init__(mexc.VENUE, BTC)
        self.open("book")
        self.hear({"id": 0, "code": 0, "msg": "spot@public.aggre.depth.v3.api.pb@100ms@BTCUSDT"})
        self.push(1, 10)
        [asked] = [request for request in self.asked() if request.op == "snapshot"]
        self.answer(asked, {"lastUpdateId": 10, "bids": [["99", "1"]], "asks": [["101", "1"]]})
        self.push(11, 20)
        assert self.told(Book, Gap)[-1].state == "live"

    def push(self, first: int, last: int) -> None:
        depths = {"2": [{"1": "99", "2": str(last)}], "4": str(first), "5": str(last)}
        self.say("b", base64.b64encode(HEAD + encode({"313": depths})))


def test_each_change_begins_where_the_last_one_ended() -> None:
    feed = Feed()
    feed.push(21, 21)
    feed.push(22, 30)
    assert [(book.state, book.bids) for book in feed.told(Book)] == [
        ("live", [("99", "21")]), ("live", [("99", "30")]),
    ]  # fmt: skip
    feed.push(21, 30)  # once more
    assert feed.told(Book, Gap) == []


@pytest.mark.parametrize("first", [11, 19, 20, 22, 25])
def test_a_change_that_begins_elsewhere_is_a_gap(first: int) -> None:
    feed = Feed()
    feed.push(first, 30)
    told = feed.told(Book, Gap)
    assert [(gap.channel, gap.cause) for gap in told if isinstance(gap, Gap)] == [("book", "sequence")]
    assert [book.state for book in told if isinstance(book, Book)] == ["resyncing"]


# ---- connections ----------------------------------------------------------------------------------------


def test_without_a_pong_for_three_quarters_of_a_minute_a_connection_is_dead() -> None:
    feed = Feed()
    feed.wait(45)
    assert "reconnect" not in [request.op for request in feed.asked()]
    feed.wait(2)
    assert "reconnect" in [request.op for request in feed.asked()]
    feed = Feed()
    feed.wait(55, {"id": 0, "code": 0, "msg": "PONG"})
    assert "reconnect" not in [request.op for request in feed.asked()]


def test_the_same_deals_without_ids_are_the_same_however_they_are_cut_into_windows() -> None:
    words = [{"1": price, "2": "1", "3": 1, "4": 1_790_281_246_176} for price in ("100", "101", "101")]

    def ids(*deals: Any) -> list[str]:
        said = mexc.decode(HEAD + encode({"314": {"1": [*deals]}}), scratch())
        return [trade.id for trade in said if isinstance(trade, Trade)]

    whole = ids(*words)
    assert len(set(whole)) == 3
    assert ids(words[0]) + ids(*words[1:]) == whole
