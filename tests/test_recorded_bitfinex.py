"""The recorded session of Bitfinex, seven pairs, through the folds and through the whole pipeline."""

import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from chain_rig import Chain
from recorded_rig import Passed, Reader, assert_nothing_is_missing, best_first, read, through
from replay import Manner, Replay, recording

from actors.model.events import AnyEvent, Book, BookDelta, Gap, Ticker
from actors.model.instruments import Instrument
from actors.venues import bitfinex
from actors.venues.base import Scratch

NATIVES = {
    "tBFTUSD": ("BFT", "USD"), "tIOTETH": ("IOTA", "ETH"), "tDOGUSD": ("DOG", "USD"),
    "tMNABTC": ("MANA", "BTC"), "tODEUSD": ("ODE", "USD"), "tSNGUSD": ("SNG", "USD"),
}  # fmt: skip
TEST_PAIR = {"tTESTBTC:TESTUSD": ("TESTBTC", "TESTUSD")}  # test assets, which no listing of ours has
CODES = [["UST", "USDt"], ["IOT", "IOTA"], ["MNA", "MANA"]]  # of the venue's map, which was not recorded


def _listing(_natives: Any) -> str:
    [pairs] = json.loads(recording("bitfinex/spot-http-conf")[0]["raw"])
    return json.dumps([pairs, CODES])


MANNER = Manner(("/v2/conf/pub:list:pair:exchange,pub:map:currency:sym", _listing))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return recording("bitfinex/spot-session-1")


def reference(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, str]]]:
    """Keep the books on plain dicts, exponents written out: by symbol of the venue, then by side."""
    chans: dict[str, str] = {}
    books: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        frame = json.loads(row["raw"], parse_float=str, parse_int=str)
        if isinstance(frame, dict):
            if frame["event"] == "subscribed" and frame["channel"] == "book":
                chans[frame["chanId"]] = frame["symbol"]
            continue
        if row["dir"] == "out" or frame[0] not in chans or frame[1] == "hb":
            continue
        book = books.setdefault(chans[frame[0]], {"bids": {}, "asks": {}})
        for number, count, amount in (
            frame[1] if not frame[1] or isinstance(frame[1][0], list) else [frame[1]]
        ):
            side, price = book["asks" if amount.startswith("-") else "bids"], f"{Decimal(number):f}"
            if count == "0":
                del side[price]  # every removal is of a level that is there
            else:
                side[price] = f"{abs(Decimal(amount)):f}"
    return books


def assert_books_are_the_reference(
    rows: list[dict[str, Any]], natives: dict[str, tuple[str, str]], books: list[AnyEvent]
) -> None:
    expected, readers = reference(rows), read(books)
    assert set(readers) == {f"{base}-{quote}" for base, quote in natives.values()}
    for native, (base, quote) in natives.items():
        reader: Reader = readers[f"{base}-{quote}"]
        assert reader.state == "live"
        assert reader.levels == best_first(expected[native]["bids"], expected[native]["asks"])
        assert all(len(side) <= bitfinex.LEVELS for side in reader.levels)
    live = [event for event in books if isinstance(event, Book) and event.state == "live"]
    assert {event.verified for event in live} == {"sequence"}


@pytest.mark.redis
async def test_the_recorded_session_comes_out_whole(rows, redis_server):
    replay = Replay(rows, NATIVES, MANNER, asks=1 + 3 * len(NATIVES))  # the flags, then a frame a channel
    passed: Passed = await through("bitfinex", replay, bitfinex.STREAMS, redis_server())
    assert_nothing_is_missing(passed)
    assert_books_are_the_reference(rows, NATIVES, passed.books)


def test_all_seven_pairs_fold_without_a_gap_and_every_change_counts(rows):
    natives = NATIVES | TEST_PAIR
    chain = Chain(bitfinex.VENUE, *(Instrument(f"{b}-{q}", n, b, q) for n, (b, q) in natives.items()))
    chain.open(*bitfinex.STREAMS)
    chain.hear(*(row["raw"] for row in rows if row["dir"] == "in"))
    told = chain.told(Book, BookDelta, Gap, Ticker)
    assert not [event for event in told if isinstance(event, Gap)]
    assert not chain.dead()
    assert not chain.asked()
    kinds = Counter(type(event).__name__ for event in told)
    assert (kinds["BookDelta"], kinds["Ticker"]) == (1593, 21)
    assert sum(event.bids == [] == event.asks for event in told if isinstance(event, BookDelta)) == 0
    assert_books_are_the_reference(rows, natives, told)


@pytest.mark.parametrize("lost", [400, 700, 1500])
def test_one_frame_left_out_of_the_recording_is_found_at_once(rows, lost):
    frames = [row["raw"] for row in rows if row["dir"] == "in"]
    chain = Chain(bitfinex.VENUE, *(Instrument(f"{b}-{q}", n, b, q) for n, (b, q) in NATIVES.items()))
    chain.open(*bitfinex.STREAMS)
    chain.hear(*frames[:lost])
    told = chain.told(Gap, Book)
    live = {event.symbol for event in told if isinstance(event, Book)}
    assert len(live) >= 4
    assert not [event for event in told if isinstance(event, Gap)]
    chain.hear(*frames[lost + 1 : lost + 2])
    assert {gap.symbol for gap in chain.told(Gap) if gap.channel == "book"} == live
    assert {(request.op, request.conn) for request in chain.asked()} == {("resubscribe", "a.1")}


def test_recorded_single_frames_all_mean_something():
    known = {"tBTCUSD": Instrument("BTC-USD", "tBTCUSD", "BTC", "USD")}
    scratch = Scratch("a.1", known)
    for channel, chan in (("trades", 420191), ("trades", 917), ("book", 43824), ("ticker", 105)):
        ack = {"event": "subscribed", "channel": channel, "chanId": chan, "symbol": "tBTCUSD"}
        bitfinex.decode(json.dumps(ack).encode(), scratch)
    said: Counter[str] = Counter()
    for row in (*recording("bitfinex/spot-misc"), *recording("bitfinex/mixed-ticker-2026")):
        frame = row["raw"].encode()
        if not frame.startswith((b"[43824", b"[18788")):  # without their sequence, or of another connection
            said.update(type(one).__name__ for one in bitfinex.decode(frame, scratch))
    assert (said["Trade"], said["Ticker"], said["Acked"], said["Refused"]) == (2, 1, 1, 1)
