"""Laws that every venue's functions keep, whatever comes in. A new venue is under them by being listed."""

import json
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from venue_law import TABLES, assert_lawful, assert_lawful_request, scratch
from wire_form import frame_of

from actors.model.decimals import levels_text, price_text, size_text
from actors.model.errors import Unparseable
from actors.model.instruments import Instrument
from actors.venues import VENUES, found, kucoin
from actors.venues.base import Answer, Request, Scratch, Venue, items_of

WIRE = Path(__file__).parents[3] / "shared" / "wire"
VENUE = st.sampled_from(sorted(VENUES))


WRITTEN = {
    venue: [case["frame"] for case in cases if "request" not in case and "rows" not in case]
    for venue, (_, cases, _) in TABLES.items()
}
FRAMES = {venue: [frame_of(written) for written in frames] for venue, frames in WRITTEN.items()}


def is_document(written: Any) -> bool:
    try:
        document = json.loads(written) if isinstance(written, str) else written
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and bool(document) and "hex" not in document


DOCUMENTS = {venue: [frame for frame in frames if is_document(frame)] for venue, frames in WRITTEN.items()}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def check(venue: str, frame: bytes) -> None:
    made = scratch(venue)
    try:
        said = VENUES[venue].decode(frame, made)
    except Unparseable:
        with pytest.raises(Unparseable):
            VENUES[venue].decode(frame, scratch(venue))
        return
    assert said == VENUES[venue].decode(frame, scratch(venue))
    assert_lawful(VENUES[venue], said, made)


@given(VENUE, st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
@example("binance", b'{"stream":"')
@example("binance", b'{"stream":"@trade"')
@example("binance", b'{"stream":"@trade","data":{}}')
@example("binance", b"\xff")
@example("binance", b'{"e":"\xff"}')
@example("binance", b'{"stream":"\\ud800","data":{}}')
@example("kraken", b'{"channel":"')
@example("kraken", b'{"channel":"\\ud800"}')
@example("kraken", b'{"channel":"trade"')
@example(
    "kraken", b'{"channel":"ticker","data":[{"symbol":"BTC/USD","last":"","high":1,"low":1,"volume":1}]}'
)
def test_any_bytes_are_events_or_unparseable(venue: str, frame: bytes) -> None:
    check(venue, frame)


@given(VENUE, JSON)
@settings(max_examples=200, deadline=None)
def test_any_json_is_events_or_unparseable(venue: str, document: object) -> None:
    check(venue, json.dumps(document).encode())


@given(VENUE, st.data())
@settings(max_examples=300, deadline=None)
def test_a_frame_with_bytes_changed_is_events_or_unparseable(venue: str, data: st.DataObject) -> None:
    frame = data.draw(st.sampled_from(FRAMES[venue]))
    start = data.draw(st.integers(0, len(frame)))
    end = data.draw(st.integers(start, min(len(frame), start + 6)))
    check(venue, frame[:start] + data.draw(st.binary(max_size=6)) + frame[end:])


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            found += places(document[key], (*path, key))
    return found


@given(VENUE, st.data())
@settings(max_examples=300, deadline=None)
def test_a_frame_with_a_value_replaced_is_events_or_unparseable(venue: str, data: st.DataObject) -> None:
    written = data.draw(st.sampled_from(DOCUMENTS[venue]))
    document = json.loads(written) if isinstance(written, str) else deepcopy(written)
    *way, last = data.draw(st.sampled_from(places(document)))
    inner = document
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(JSON | st.sampled_from(["1E-7", "1e999999999", "-0", "NaN", "0", 1 << 64, -1]))
    check(venue, json.dumps(document).encode() if isinstance(written, str) else frame_of(document))


@given(
    VENUE,
    st.sampled_from(["snapshot", "audit", "backfill", "open_interest", "ticker", "trade"]),
    st.binary(max_size=60) | JSON,
)
@settings(max_examples=200, deadline=None)
def test_any_rest_body_is_events_or_unparseable(venue: str, op: Any, body: object) -> None:
    text = body.decode(errors="replace") if isinstance(body, bytes) else json.dumps(body)
    native, instrument = next(iter(TABLES[venue][0].items()))
    request = Request(op, f"/{native}", instrument.symbol, first="1", last="5")
    with suppress(Unparseable):
        VENUES[venue].decode_rest(Answer(request, 200, text, conn="a.1"), scratch(venue))
    with suppress(Unparseable):
        VENUES[venue].rows(text.encode())


@given(
    st.sampled_from([name for name in sorted(VENUES) if VENUES[name].handshake is not None]),
    st.binary(max_size=60) | JSON | st.text(max_size=12).map(lambda host: f"wss://{host}/"),
)
@settings(max_examples=200, deadline=None)
def test_any_answer_to_a_handshake_is_an_address_or_unparseable(name: str, said: object) -> None:
    venue = VENUES[name]
    assert venue.handshake is not None
    given = {"token": "+/=", "instanceServers": [{"endpoint": said}]}
    wrapped = {"code": "200000", "data": given} if isinstance(said, str) else said
    body = said if isinstance(said, bytes) else json.dumps(wrapped).encode()
    with suppress(Unparseable):
        url = venue.handshake.url(venue.endpoints.ws, body, "a.1")
        assert urlsplit(url).scheme in ("ws", "wss")
        assert url.isascii()


TEXT = (
    st.from_regex(r"[0-9]{0,3}\.?[0-9]{0,3}", fullmatch=True)
    | st.from_regex(r"-?[0-9]{1,70}(\.[0-9]{1,3})?", fullmatch=True)
    | st.sampled_from(
        ["1E-7", "1e3", "0e5", "", ".", "1.", ".5", '1"', "1,2", "\u0661.0", "NaN", " 1.0", "1.0\n"]
    )
)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=4))
@settings(max_examples=300, deadline=None)
def test_levels_in_one_pass_are_what_they_are_one_by_one(levels: list[tuple[str, str]]) -> None:
    try:
        expected = [(price_text(price), size_text(size)) for price, size in levels]
    except Unparseable:
        with pytest.raises(Unparseable):
            levels_text(levels)
    else:
        assert levels_text(levels) == expected


@given(VENUE, st.integers(1, 3000), st.data())
@settings(max_examples=30, deadline=None)
def test_a_plan_asks_for_everything_once_within_the_limits(
    venue_name: str, number: int, data: st.DataObject
) -> None:
    venue: Venue = VENUES[venue_name]
    channels = data.draw(st.lists(st.sampled_from(sorted(venue.channels)), min_size=1, unique=True))
    market = data.draw(st.sampled_from(sorted(venue.markets)))
    end = {"spot": "", "perpetual": "-PERP", "future": "-261225"}[market]
    instruments = [Instrument(f"A{n}-B{end}", f"A{n}B{end}", f"A{n}", "B") for n in range(number)]
    connections = venue.plan(venue.endpoints, instruments, channels)
    asked = Counter(item for conn in connections for sub in conn.subscriptions for item in sub.items)
    channels = [channel for channel in channels if channel not in venue.polls]
    assert asked == Counter(items_of((i.symbol for i in instruments), channels))
    assert all(connection.subscriptions for connection in connections)
    for connection in connections:
        items = sum(len(sub.items) for sub in connection.subscriptions)
        assert items <= venue.limits.items_per_connection
        ids = [sub.id for sub in connection.subscriptions if sub.id is not None]
        assert len(ids) == len(set(ids))
        assert connection.url.startswith(venue.endpoints.ws)
        assert all("\n" not in sub.frame for sub in connection.subscriptions)


@pytest.fixture(params=VENUES)
def venue(request: pytest.FixtureRequest) -> Venue:
    return VENUES[request.param]


def test_a_venue_that_is_not_called_as_its_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kucoin, "VENUE", replace(kucoin.VENUE, name="binance"))
    with pytest.raises(ValueError, match=r"venues/kucoin\.py: VENUE is called 'binance', not as its file"):
        list(found())


@pytest.mark.parametrize("op", ["subscribe", "unsubscribe"])
def test_frames_ask_for_each_item_once_and_for_what_their_function_says(venue: Venue, op: str) -> None:
    make = venue.subscribe if op == "subscribe" else venue.unsubscribe
    if make is None:
        return  # the connection is replaced
    instruments = {
        row.symbol: row for row in (Instrument(f"A{n}-B", f"A{n}B", f"A{n}", "B") for n in range(60))
    }
    items = items_of(instruments, sorted(venue.channels - {*venue.polls}))
    made = make(items, instruments, 7)
    assert Counter(item for each in made for item in each.items) == Counter(items)
    assert {each.op for each in made} == {op}
    ids = [each.id for each in made if each.id is not None]
    assert len(ids) == len({*ids})
    assert all(number >= 7 for number in ids)
    other = venue.unsubscribe if op == "subscribe" else venue.subscribe
    assert other is None or not {s.frame for s in made} & {
        s.frame for s in other(items, instruments, 7) if s.items
    }


def test_what_a_venue_says_of_time_is_of_its_own_channels_and_ends(venue: Venue) -> None:
    assert {*venue.silence_s, *venue.first_s} <= venue.channels
    assert venue.silence_s or venue.quiet_s, "else a connection may be silent for ever"


def test_what_a_venue_asks_by_rest_is_called_what_it_is(venue: Venue) -> None:
    row = Instrument("A-B", "AB", "A", "B")
    asked = {"instruments": [*venue.instruments]}
    asked["snapshot"] = [] if venue.snapshot is None else [venue.snapshot(row)]
    asked["audit"] = [] if venue.audit is None else [venue.audit(row)]
    asked["backfill"] = [] if venue.backfill is None else [venue.backfill(row, "5", "9")]
    asked["backfill"] += [] if venue.backfill_after is None else [venue.backfill_after(row, "5", "9", 10**18)]
    assert asked["instruments"]
    assert len(asked["backfill"]) < 2, "by id or by time"
    for op, requests in asked.items():
        for request in requests:
            assert request.op == op
            assert op == "instruments" or request.symbol == "A-B"
            assert op != "backfill" or (request.first, request.last) == ("5", "9")
            assert_lawful_request(request)
    assert not asked["backfill"] or venue.trade_ids == "contiguous", "which are missing only ids tell"


def test_a_book_by_rest_can_be_asked_for(venue: Venue) -> None:
    assert (venue.snapshot is not None) == (venue.book_rule.snapshot == "rest")


def test_a_book_that_its_stream_does_not_prove_is_audited_unless_each_frame_is_the_whole_of_it(
    venue: Venue,
) -> None:
    rule = venue.book_rule
    proved = rule.chain != "none" or rule.checksum is not None
    assert (rule.audit_s is not None) == (venue.audit is not None) == (rule.verified == "audit")
    assert (rule.audit_s is not None) == (not proved and rule.snapshot != "every")


def test_what_is_polled_is_asked_for_under_its_name_and_pages_of_trades_are_in_order(venue: Venue) -> None:
    assert set(venue.polls) <= venue.channels
    assert "trade" not in venue.polls or venue.trade_ids == "increasing"
    for channel, poll in venue.polls.items():
        assert poll.ask(Instrument("A-B", "AB", "A", "B")).op == channel


# ---- recorded frames ------------------------------------------------------------------------------------


class Everything(dict[str, Instrument]):
    """Knows every instrument."""

    def get(self, key: str, *_: object) -> Instrument:
        return Instrument(key, key, key, "Q")


BINANCE = {
    "spot-aggtrade": {"Ignored": 2},
    "spot-bbo-2026": {"Acked": 2, "L1": 2, "Ignored": 2},
    "spot-bbo": {"L1": 84},
    "spot-book_diff": {"BookDelta": 177, "BookSnapshot": 4},
    "spot-btcusdt-mixed": {"BookDelta": 332, "L1": 2735, "Trade": 611, "BookSnapshot": 1},
    "spot-docs_examples": {"Acked": 1, "Ignored": 3, "Refused": 1, "Closing": 2, "Trade": 1, "Ticker": 1},
    "spot-instruments": {"Instrument": 27},  # of 29, two are in a BREAK
}


@pytest.mark.parametrize("name", BINANCE)
def test_recorded_binance_frames_all_mean_something(name: str) -> None:
    path = WIRE / "binance" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded frames at {path}")
    venue = VENUES["binance"]
    counts: Counter[str] = Counter()
    for line in path.read_text("utf-8").splitlines():
        record = json.loads(line)
        made = Scratch("a.1", Everything(), venue="binance")
        if record["dir"] == "in":
            counts.update(type(said).__name__ for said in venue.decode(record["raw"].encode(), made))
        elif record["dir"] == "http" and "/depth?" in record["url"]:
            answer = Answer(Request("snapshot", record["url"], "A-B"), 200, record["raw"])
            counts.update(type(event).__name__ for event in venue.decode_rest(answer, made))
        elif record["dir"] == "http":
            counts.update(type(row).__name__ for row in venue.rows(record["raw"].encode()))
    assert dict(counts) == BINANCE[name]


def test_recorded_binance_instruments_are_read_from_their_rows() -> None:
    path = WIRE / "binance" / "spot-instruments.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded frames at {path}")
    body = json.loads(path.read_text("utf-8"))["raw"].encode()
    symbols = {row.native: row.symbol for row in VENUES["binance"].rows(body)}
    assert symbols["BTCTUSD"] == "BTC-TUSD"
    assert symbols["USDTBIDR"] == "USDT-BIDR"
    assert symbols["1INCHUSDT"] == "1INCH-USDT"
    assert "TUSDBTC" not in symbols  # in a BREAK
