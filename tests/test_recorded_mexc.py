"""Recorded frames of MEXC, read field by field without a schema, and through the whole pipeline in Redis.

No run of book changes was recorded: those two are examples of other clients, made into bytes anew.
"""

import json
from typing import Any

import pytest
from recorded_rig import assert_nothing_is_missing, best_first, read, through
from replay import Manner, Natives, Replay, frame_in, recording
from wire_form import walk

from actors.model.events import L1, Book, BookDelta, Event, Trade
from actors.model.instruments import Instrument
from actors.venues import mexc
from actors.venues.base import Ignored, Scratch

NATIVES = {"BTCUSDT": ("BTC", "USDT"), "BTCUSDC": ("BTC", "USDC")}
KNOWN = {
    native: Instrument(f"{base}-{quote}", native, base, quote) for native, (base, quote) in NATIVES.items()
}
Fields = dict[int, list[Any]]


def frames(*names: str) -> list[dict[str, Any]]:
    return [row for name in names for row in recording(f"mexc/spot-{name}") if row["dir"] == "in"]


def fields(data: bytes) -> Fields:
    """Return what stands at each number of a message, in order, text as text."""
    found: Fields = {}
    for number, value in walk(data):
        found.setdefault(number, []).append(value)
    return found


def text(message: Fields, number: int) -> str:
    return message[number][0].decode()


def levels(message: Fields, number: int) -> list[tuple[str, str]]:
    return [(text(level, 1), text(level, 2)) for level in map(fields, message.get(number, []))]


def expected(data: bytes) -> list[tuple[Any, ...]]:
    """Return what one recorded frame says, by the numbers of the venue's documents alone."""
    whole = fields(data)
    symbol, sent = text(whole, 3), whole.get(6, [0])[0]
    if 314 in whole:
        deals = [fields(deal) for deal in fields(whole[314][0])[1]]
        return [
            ("trade", symbol, d[4][0], text(d, 5), text(d, 1), text(d, 2), {1: "buy", 2: "sell"}[d[3][0]])
            for d in deals
        ]
    if 315 in whole:
        t = fields(whole[315][0])
        return [("l1", symbol, sent, int(text(t, 5)), *(text(t, n) for n in (1, 2, 3, 4)))]
    if 313 in whole:
        d = fields(whole[313][0])
        first, last = int(text(d, 4)), int(text(d, 5))
        return [("book", symbol, sent, first, last, levels(d, 2), levels(d, 1))]
    return []


def told(event: Event) -> tuple[Any, ...]:
    assert event.symbol is not None
    assert event.ts_event is not None
    head = (event.symbol.replace("-", ""), event.ts_event // 1_000_000)
    match event:
        case Trade():
            return ("trade", *head, event.id, event.price, event.size, event.aggressor)
        case L1():
            return ("l1", *head, event.seq, event.bid, event.bid_size, event.ask, event.ask_size)
        case BookDelta():
            return ("book", *head, event.first_seq, event.last_seq, event.bids, event.asks)
    raise AssertionError(event)


def test_every_recorded_frame_is_what_its_bytes_say() -> None:
    rows = frames("deals", "bookticker", "aggredepth-reencoded")
    binary = [row for row in rows if "raw_b64" in row]
    assert len(binary) == 6
    for row in binary:
        said = mexc.decode(frame_in(row), Scratch("a.1", KNOWN))
        assert [told(event) for event in said if isinstance(event, Event)] == expected(frame_in(row)) != []
    for row in frames("limitdepth5", "kline"):
        assert mexc.decode(frame_in(row), Scratch("a.1", KNOWN)) == [Ignored("unknown_channel")]


def listing(natives: Natives) -> Any:
    rows = [
        {"symbol": native, "status": "1", "baseAsset": base, "quoteAsset": quote}
        for native, (base, quote) in natives.items()
    ]
    return {"symbols": rows}


def _native(url: str) -> str:
    return url.partition("symbol=")[2].partition("&")[0] if "/depth?" in url else ""


MANNER = Manner(("/api/v3/exchangeInfo", listing), _native, waits=False)


def snapshot(change: tuple[Any, ...]) -> dict[str, list[list[str]]]:
    """Return a book, in the documented shape, that holds what one change is about, and more.

    Its prices have zeros that a change's have not.
    """
    *_, bids, asks = change
    return {
        "bids": [[f"{bids[0][0]}0", "0.5"], ["100.00", "1"]],
        "asks": [[f"{asks[0][0]}0", "0.5"], ["999999.99", "1"]],
    }


def trimmed(rows: list[list[str]]) -> dict[str, str]:
    return {price.rstrip("0").rstrip("."): size for price, size in rows}


@pytest.mark.redis
async def test_the_recorded_frames_come_out_whole(redis_server):
    changes = frames("aggredepth-reencoded")
    deltas = {change[1]: change for row in changes for change in expected(frame_in(row))}
    answers = [
        {
            "dir": "http",
            "url": f"/api/v3/depth?symbol={native}&limit=1000",
            "raw": json.dumps({"lastUpdateId": str(change[3]), **snapshot(change)}),
        }
        for native, change in deltas.items()
    ]
    rows = [*answers, *frames("deals", "bookticker"), *changes, *frames("limitdepth5", "kline")]
    channels = [channel for channel in mexc.STREAMS if channel != "ticker"]
    replay = Replay(rows, NATIVES, MANNER, asks=len(channels) * len(NATIVES))
    passed = await through("mexc", replay, channels, redis_server(), live=2)
    assert_nothing_is_missing(passed)

    events = [event for event in passed.events if isinstance(event, Trade | L1 | BookDelta)]
    sent = [one for row in rows if "raw_b64" in row for one in expected(frame_in(row))]
    assert [told(event) for event in events] == sent
    assert len(sent) == 4 + 2 + 2
    readers = read(passed.books)
    for native, change in deltas.items():
        *_, last, bids, asks = change
        whole = snapshot(change)  # on plain dicts, as the venue says
        sides = trimmed(whole["bids"]) | dict(bids), trimmed(whole["asks"]) | dict(asks)
        left = [{price: size for price, size in side.items() if float(size)} for side in sides]
        reader = readers["-".join(NATIVES[native])]
        assert (reader.state, reader.seq) == ("live", last)
        assert reader.levels == best_first(*left)
    live = [event for event in passed.books if isinstance(event, Book) and event.state == "live"]
    assert {event.verified for event in live} == {"sequence"}
