"""What the tests of all venues' functions share: their case tables, and what every outcome must be like."""

import json
import re
from collections.abc import Iterable

import msgspec
from case_table import table
from wire_form import frame_of

from actors.model import codec
from actors.model.events import (
    L1,
    BookDelta,
    BookSnapshot,
    Event,
    Funding,
    Gap,
    Liquidation,
    OpenInterest,
    Ticker,
    Trade,
)
from actors.model.instruments import Instrument, Unusable
from actors.venues import VENUES
from actors.venues.base import Acked, Closing, Ignored, Latest, Refused, Request, Said, Scratch, Venue

RECV = 1_800_000_000_000_000_000
DECIMAL = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
FIRST_NS, LAST_NS = 978_307_200 * 10**9, 2**63 - 1  # 2001 to what 64 bits can say
MOST_DIGITS = 200  # chosen: sizes of contracts are products of two numbers of 64 digits
MOST_REASON = 1_000
WORD = re.compile(r"[a-z0-9_:.-]{1,40}", re.IGNORECASE)


TABLES = {venue: table(venue) for venue in VENUES}


def scratch(venue: str) -> Scratch:
    made = Scratch("a.1", TABLES[venue].instruments, venue=venue)
    made.recv = RECV
    for earlier in TABLES[venue].before:
        VENUES[venue].decode(frame_of(earlier), made)
    return made


def texts(event: Event) -> list[str]:
    """Return every price and size of an event."""
    match event:
        case Trade():
            return [event.price, event.size]
        case BookSnapshot() | BookDelta():
            return [text for level in (*event.bids, *event.asks) for text in level]
        case L1():
            values = [event.bid, event.bid_size, event.ask, event.ask_size]
        case Ticker():
            values = [event.last, event.open, event.high, event.low, event.volume_base, event.volume_quote]
        case Liquidation():
            return [event.price, event.size]
        case OpenInterest():
            values = [event.contracts, event.base, event.notional]
        case Funding():
            values = [event.rate, event.predicted_rate, event.mark, event.index]
        case _:
            return []
    return [value for value in values if value is not None]


def _is_time(ns: int | None) -> bool:
    return ns is None or FIRST_NS <= ns <= LAST_NS


def _above_zero(*numbers: str | None) -> bool:
    return all(text is None or (text[0] != "-" and text.strip("0.")) for text in numbers)


def _not_below_zero(*numbers: str | None) -> bool:
    return all(text is None or text[0] != "-" for text in numbers)


def assert_lawful(venue: Venue, said: Iterable[object], scratch: Scratch) -> int:
    """Check all that one frame or answer said, in meaning too; return how many bytes it makes of events."""
    known = {instrument.symbol for instrument in scratch.instruments.values()}
    size = 0
    for one in said:
        assert isinstance(one, Event | Said)
        if isinstance(one, Event):
            line = codec.encode(one)
            size += len(line)
            assert codec.decode(line) == one
            assert b"\n" not in line
            assert all(DECIMAL.fullmatch(text) and len(text) <= MOST_DIGITS for text in texts(one))
            assert (one.venue, one.ts_recv) == (venue.name, scratch.recv)
            assert one.symbol in known
            assert _is_time(one.ts_event)
            assert one.seq is None or -(2**63) <= one.seq < 2**63
            _assert_means_something(venue, one, scratch)
            continue
        match one:
            case Acked(items=items) | Refused(items=items):
                assert all(c in venue.channels and symbol in known for c, symbol in items or ())
            case Latest(symbol, number):
                assert symbol in known
                assert 0 <= number < 2**63
            case _:
                pass
        match one:
            case Refused(reason=reason) | Closing(reason):
                assert len(reason.encode()) <= MOST_REASON
            case Ignored(reason):
                assert WORD.fullmatch(reason), "a label of a metric"
            case _:
                pass
    assert msgspec.json.decode(msgspec.json.encode(scratch.memory)) == json.loads(json.dumps(scratch.memory))
    return size


def _assert_means_something(venue: Venue, event: Event, scratch: Scratch) -> None:
    match event:
        case Trade():
            assert _above_zero(event.price, event.size, event.contracts)
            assert 0 < len(event.id) <= MOST_DIGITS
            if venue.trade_ids != "unordered":  # they are counted with
                assert 0 <= int(event.first_id or event.id) <= int(event.id) < 2**63
        case Liquidation():
            assert _above_zero(event.price, event.size, event.contracts)
        case BookSnapshot() | BookDelta():
            assert event.conn == scratch.conn
            for price, size in (*event.bids, *event.asks):
                assert _above_zero(price)
                assert _not_below_zero(size)
            numbers = (event.first_seq, event.last_seq, event.prev_seq)
            assert all(number is None or -1 <= number < 2**63 for number in numbers)
            assert event.checksum is None or -(2**31) <= event.checksum < 2**32
        case L1():
            assert _above_zero(event.bid, event.ask)
            assert _not_below_zero(event.bid_size, event.ask_size)
            assert (event.bid is None, event.ask is None) == (event.bid_size is None, event.ask_size is None)
        case Ticker() | OpenInterest():
            assert _not_below_zero(*texts(event))
        case Funding():
            assert texts(event) or event.next_ts
            assert _above_zero(event.mark, event.index)
            assert _is_time(event.next_ts)
        case Gap():  # of a page whose other trades can be read
            assert (event.channel, event.cause, event.filled) == ("trade", "sequence", False)
            assert event.first == event.last
            assert "trade" in venue.polls
        case _:
            raise AssertionError(f"no event of a frame: {event}")


def assert_lawful_row(row: object) -> int:
    """Check an instrument of a list; return how many bytes it takes."""
    line = msgspec.json.encode(row)
    if isinstance(row, Unusable):
        assert len(row.reason.encode()) <= MOST_REASON
        return len(line)
    assert isinstance(row, Instrument)
    assert msgspec.json.decode(line, type=Instrument) == row
    assert row.native
    assert row.base
    assert row.quote
    assert row.symbol.startswith(f"{row.base}-{row.quote}")
    assert (row.contract_size is None) == (row.contract_kind is None)
    numbers = [text for text in (row.contract_size, row.price_step, row.size_step) if text is not None]
    assert all(DECIMAL.fullmatch(text) for text in numbers)
    assert _above_zero(row.contract_size)
    return len(line)


def assert_lawful_request(request: Request | None) -> None:
    """Check what is asked for next."""
    if request is not None:
        assert request.path.startswith("/")
        assert request.path.isascii()
        assert request.path.isprintable()
        assert len(request.path) < 8_192


def assert_lawful_address(url: object) -> int:
    """Check what is dialed after a handshake; return its length."""
    assert isinstance(url, str)
    assert url.startswith(("ws://", "wss://"))
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url
    return len(url)
