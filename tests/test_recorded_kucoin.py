"""The recorded session of KuCoin, nine markets, through the whole pipeline in a real Redis; other frames."""

import json
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from recorded_rig import assert_nothing_is_missing, best_first, read, through
from replay import Manner, Replay, recording

from actors.model.errors import Unparseable
from actors.model.events import L1, Book, BookDelta, Trade
from actors.model.instruments import Instrument
from actors.venues import kucoin
from actors.venues.base import Scratch

NATIVES = {
    f"{base}-{quote}": (base, quote)
    for base, quote in (
        ("EQZ", "BTC"), ("ANKR", "BTC"), ("SNX", "BTC"), ("FET", "BTC"), ("NRG", "BTC"),
        ("CAPP", "BTC"), ("DAPPT", "BTC"), ("COV", "BTC"), ("LTX", "USDT"),
    )
} | {"BCHSV-USDT": ("BSV", "USDT")}  # fmt: skip
QUIET = "LTX-USDT"  # acknowledged, then silent
CHANNELS = ("trade", "book", "l1")


def _market(url: str) -> str:
    return parse_qs(urlsplit(url).query).get("symbol", [""])[0] if "/orderbook/" in url else ""


def _token() -> str:
    return next(row["raw"] for row in recording("kucoin/spot-http-sdk") if "bullet" in row["url"])


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return recording("kucoin/spot-session-1")


def reference(rows: list[dict[str, Any]], native: str) -> tuple[dict[str, str], dict[str, str], int]:
    """Follow the venue's procedure on plain dicts: bids, asks, the last sequence."""
    whole = next(json.loads(row["raw"])["data"] for row in rows if _market(row["url"]) == native)
    at, sides = int(whole["sequence"]), {"bids": dict(whole["bids"]), "asks": dict(whole["asks"])}
    for row in rows:
        frame = json.loads(row["raw"])
        if frame.get("topic") != f"/market/level2:{native}" or row["dir"] != "in":
            continue
        data = frame["data"]
        if data["sequenceEnd"] > at:
            assert data["sequenceStart"] == at + 1
            at = data["sequenceEnd"]
            for side, levels in sides.items():
                levels.update({price: size for price, size, _ in data["changes"][side] if price != "0"})
    left = [{price: size for price, size in sides[side].items() if float(size)} for side in ("bids", "asks")]
    return left[0], left[1], at


@pytest.mark.redis
async def test_the_recorded_session_comes_out_whole(rows, redis_server):
    welcome = next(row["raw"] for row in rows if '"welcome"' in row["raw"])
    manner = Manner(
        ("/api/v2/symbols", lambda _: recording("kucoin/spot-http-symbols-v1")[0]["raw"]),
        _market,
        also=("/api/v1/bullet-public", _token()),
        greeting=welcome,
    )
    played = [row for row in rows if row["raw"] != welcome]
    replay = Replay(played, NATIVES, manner, asks=len(CHANNELS))
    passed = await through("kucoin", replay, CHANNELS, redis_server(), live=len(NATIVES) - 1)
    assert_nothing_is_missing(passed)

    frames = [json.loads(row["raw"]) for row in rows if row["dir"] == "in"]
    sent = [frame["data"] for frame in frames if frame.get("subject") == "trade.l3match"]
    trades = [event for event in passed.events if isinstance(event, Trade)]
    assert len(sent) == 18
    assert [(t.id, t.ts_event, t.price, t.size, t.aggressor) for t in trades] == [
        (d["tradeId"], int(d["time"]), d["price"], d["size"], d["side"]) for d in sent
    ]
    assert sum(isinstance(event, L1) for event in passed.events) == 830
    deltas = [event for event in passed.events if isinstance(event, BookDelta)]
    assert len(deltas) == 3853
    assert sum(not event.bids and not event.asks for event in deltas) == 1355  # placeholders

    readers = read(passed.books)
    assert set(readers) == {f"{b}-{q}" for b, q in NATIVES.values()} - {QUIET}
    for native, (base, quote) in NATIVES.items():
        if f"{base}-{quote}" == QUIET:
            continue
        *sides, at = reference(rows, native)
        reader = readers[f"{base}-{quote}"]
        assert (reader.state, reader.seq) == ("live", at)
        for whole, ours in zip(best_first(*sides), reader.levels, strict=True):
            assert 60 <= len(ours) <= kucoin.LEVELS
            assert ours == whole[: len(ours)]
    live = [event for event in passed.books if isinstance(event, Book) and event.state == "live"]
    assert {event.verified for event in live} == {"sequence"}


COUNTS = {
    "spot-sdk-frames": {"L1": 2, "Ticker": 2, "BookDelta": 1, "Trade": 1, "Ignored": 5},
    "spot-misc": {"L1": 2, "Ticker": 5, "BookDelta": 1, "Trade": 1, "Refused": 1, "Ignored": 3},
    # The unified protocol is another, with frames that have no type.
    "spot-uta-frames": {"Unparseable": 4},
}


class Everything(dict[str, Instrument]):
    """Knows every pair."""

    def get(self, key: str, *_: object) -> Instrument:  # type: ignore[override]
        return Instrument(key, key, *key.split("-"))


@pytest.mark.parametrize("name", COUNTS)
def test_recorded_frames_all_mean_something(name: str) -> None:
    said: Counter[str] = Counter()
    for row in recording(f"kucoin/{name}"):
        if row["dir"] == "in":
            try:
                decoded = kucoin.decode(row["raw"].encode(), Scratch("a.1", Everything()))
                said.update(type(one).__name__ for one in decoded)
            except Unparseable:
                said["Unparseable"] += 1
    assert said == COUNTS[name]


def test_recorded_answers_are_read() -> None:
    for row in recording("kucoin/spot-http-sdk"):
        body = row["raw"].encode()
        if "bullet" in row["url"]:
            url = kucoin.address(kucoin.ENDPOINTS.ws, body, "a.1")
            given = json.loads(body)["data"]
            assert url.startswith(given["instanceServers"][0]["endpoint"] + "?token=")
            assert parse_qs(urlsplit(url).query) == {"token": [given["token"]], "connectId": ["a.1"]}
        elif "/symbols" in row["url"]:
            assert [each.symbol for each in kucoin.rows(body)] == ["BTC-USDT"]


def test_recorded_ids_that_are_no_names_are_not_split() -> None:
    body = recording("kucoin/spot-http-symbols-v1")[0]["raw"]
    listed = {row.native: row.symbol for row in kucoin.rows(body.encode())}
    renamed = {native: symbol for native, symbol in listed.items() if native != symbol}
    assert len(renamed) == 15 - 2  # LYXE is called LYXe: the same symbol
    assert renamed["BCHSV-USDT"] == "BSV-USDT"
    assert renamed["WAX-BTC"] == "WAXP-BTC"
    assert renamed["R-BTC"] == "REV-BTC"
    assert len(set(listed.values())) == len(listed)
