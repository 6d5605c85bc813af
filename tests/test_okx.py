"""OKX through the folds: recorded books against a reference and their own checksums, answers by item."""

import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.model import codec
from actors.model.decimals import to_base
from actors.model.errors import Unparseable
from actors.model.events import (
    AnyEvent,
    Book,
    BookDelta,
    Event,
    Funding,
    Gap,
    InstrumentEvent,
    Liquidation,
    OpenInterest,
    Status,
    Trade,
)
from actors.model.instruments import Instrument
from actors.stages import raw
from actors.stages.book import View
from actors.stages.bookbuild import Bookbuild
from actors.stages.control import ControlRequest
from actors.stages.fold import Output
from actors.stages.normalize import Normalize
from actors.venues import okx
from actors.venues.base import Answer, Item, Request, Scratch

WIRE = Path(__file__).parents[2] / "shared" / "wire" / "okx"
SECOND = 1_000_000_000
START = 1_786_540_000 * SECOND
SPOT = Instrument("BTC-USDT", "BTC-USDT", "BTC", "USDT")
PERP = Instrument("BTC-USDT-PERP", "BTC-USDT-SWAP", "BTC", "USDT", "0.01", "linear")
UNI = Instrument("UNI-USD-PERP", "UNI-USD-SWAP", "UNI", "USD", "10", "inverse")
DATED = Instrument("BTC-USD-220527", "BTC-USD-220527", "BTC", "USD", "100", "inverse")
RECORDED = {i.native: i for i in (SPOT, UNI, DATED)}


def recording(name: str) -> list[dict[str, Any]]:
    path = WIRE / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded frames at ../shared/wire/okx/{name}.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def books_of(name: str) -> list[dict[str, Any]]:
    """Return the book frames of a recording, parsed, with their text as ``raw``."""
    frames = [{**json.loads(row["raw"]), "raw": row["raw"]} for row in recording(name) if row["dir"] == "in"]
    return [frame for frame in frames if "data" in frame]


# ---- books ----------------------------------------------------------------------------------------------


class Reference:
    """One book as the documents say to keep it, on two dicts."""

    def __init__(self) -> None:
        self.sides: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}

    def apply(self, action: str, data: dict[str, Any]) -> None:
        for side, levels in self.sides.items():
            if action == "snapshot":
                levels.clear()
            for price, size, *_ in data[side]:
                if float(size):
                    levels[price] = size
                else:
                    levels.pop(price, None)

    @property
    def levels(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        bids = sorted(self.sides["bids"].items(), key=lambda level: -float(level[0]))
        return bids, sorted(self.sides["asks"].items(), key=lambda level: float(level[0]))


def crc(bids: list[tuple[str, str]], asks: list[tuple[str, str]]) -> int:
    """Return the checksum that the venue sent until 2026: of the best 25, as a signed number."""
    words = [side[i] for i in range(25) for side in (bids, asks) if i < len(side)]
    number = zlib.crc32(":".join(":".join(level) for level in words).encode())
    return number - (1 << 32) if number >> 31 else number


def test_every_checksum_of_2022_is_that_of_the_levels_as_decoded():
    """What 2022 sent has checksums and no sequence; decode takes the same with a sequence added."""
    proved, derived = books_of("mixed-books"), books_of("mixed-books-derived_seq")
    scratch = Scratch("a.1", RECORDED)
    books: dict[str, Reference] = {}
    right = 0
    for old, new in zip(proved, derived, strict=True):
        (said,) = okx.decode(new["raw"].encode(), scratch)
        assert isinstance(said, Event)
        book = books.setdefault(said.symbol or "", Reference())
        action = "update" if isinstance(said, BookDelta) else "snapshot"
        book.apply(action, msgspec.structs.asdict(said))
        right += crc(*book.levels) == old["data"][0]["checksum"]
        with pytest.raises(Unparseable, match="seqId"):
            okx.decode(old["raw"].encode(), scratch)
    assert (right, len(proved)) == (290, 290)


class Desk:
    """The bookbuilder with readers of what it says."""

    def __init__(self) -> None:
        self.fold = Bookbuild("okx", okx.BOOK_RULE, has_l1=True)
        self.out = Output(("books", "control", "dead"))
        self.k = 0
        self.views: dict[str, View] = {}
        self.told: list[AnyEvent] = []
        self.asked: list[ControlRequest] = []
        self.scratch = Scratch("a.1", RECORDED)
        self.scratch.recv = START
        for i in RECORDED.values():
            event = InstrumentEvent(
                "okx",
                i.symbol,
                None,
                START,
                None,
                i.native,
                i.base,
                i.quote,
                i.contract_size,
                i.contract_kind,
            )
            self.take(event)

    def frame(self, text: str) -> None:
        self.scratch.recv += 1
        for said in okx.decode(text.encode(), self.scratch):
            assert isinstance(said, Event)
            self.take(said)

    def take(self, event: Event) -> None:
        self.k += 1
        self.fold.fold(self.k, codec.encode(event), self.out)
        for line in self.out.lines["books"]:
            told = codec.decode(line)
            self.told.append(told)
            if isinstance(told, Book):
                self.views.setdefault(told.symbol or "", View()).apply(told, len(self.told))
        self.asked += [msgspec.json.decode(line, type=ControlRequest) for line in self.out.lines["control"]]
        self.out.clear()


def in_base(instrument: Instrument, levels: list[tuple[str, str]]) -> list[tuple[str, str]]:
    size, kind = instrument.contract_size, instrument.contract_kind
    if size is None or kind is None:
        return levels
    return [(price, to_base(contracts, size, kind, price)) for price, contracts in levels]


def test_recorded_books_come_out_whole_in_base_currency_after_every_frame():
    desk = Desk()
    references: dict[str, Reference] = {}
    for frame in books_of("mixed-books-derived_seq"):
        native = frame["arg"]["instId"]
        reference = references.setdefault(native, Reference())
        reference.apply(frame["action"], frame["data"][0])
        desk.frame(frame["raw"])
        view = desk.views[RECORDED[native].symbol]
        bids, asks = (in_base(RECORDED[native], levels) for levels in reference.levels)
        assert view.levels == (bids, asks)
        assert (view.state, view.verified) == ("live", "sequence")
    assert len(references) == 3
    assert not [event for event in desk.told if isinstance(event, Gap)]
    assert not desk.asked


def book(
    action: str,
    prev: int,
    seq: int,
    native: str = "BTC-USDT",
    *,
    bids: Any = (),
    asks: Any = (),
    ts: str = "",
) -> str:
    data = {"asks": asks, "bids": bids, "ts": ts, "checksum": 0, "prevSeqId": prev, "seqId": seq}
    return json.dumps({"arg": {"channel": "books", "instId": native}, "action": action, "data": [data]})


BIDS, ASKS = [["10", "1", "0", "1"]], [["11", "1", "0", "1"]]


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.frame(book("snapshot", -1, 100, bids=BIDS, asks=ASKS))
    return desk


def test_an_update_before_its_snapshot_is_no_book():
    desk = Desk()
    desk.frame(book("update", 99, 100, bids=BIDS, asks=ASKS))
    assert desk.views["BTC-USDT"].state == "resyncing"
    desk.frame(book("snapshot", -1, 101, bids=BIDS, asks=ASKS))
    assert desk.views["BTC-USDT"].state == "live"


def test_a_keep_alive_a_reset_and_a_repetition_are_no_gaps(desk: Desk):
    desk.frame(book("update", 100, 100))
    desk.frame(book("update", 100, 107, bids=[["9", "1", "0", "1"]]))
    desk.frame(book("update", 100, 107, bids=[["9", "1", "0", "1"]]))
    desk.frame(book("update", 107, 3, bids=[["8", "1", "0", "1"]]))
    desk.frame(book("update", 3, 3))
    desk.frame(book("update", 3, 9, bids=[["9", "0", "0", "0"]]))
    view = desk.views["BTC-USDT"]
    assert view.levels[0] == [("10", "1"), ("8", "1")]
    assert not desk.asked
    desk.frame(book("snapshot", -1, 50, bids=BIDS, asks=ASKS))
    assert view.levels[0] == [("10", "1")]
    assert view.state == "live"


@pytest.mark.parametrize(("prev", "seq"), [(101, 102), (5, 6)])
def test_a_pointer_to_anything_else_is_a_gap_of_that_symbol_only(desk: Desk, prev: int, seq: int):
    desk.frame(book("snapshot", -1, 7, "UNI-USD-SWAP", bids=BIDS, asks=ASKS))
    desk.frame(book("update", prev, seq, bids=[["9", "1", "0", "1"]]))
    assert desk.views["BTC-USDT"].state == "resyncing"
    assert desk.views["UNI-USD-PERP"].state == "live"
    (gap,) = [event for event in desk.told if isinstance(event, Gap)]
    assert (gap.symbol, gap.cause, gap.first, gap.last) == ("BTC-USDT", "sequence", "101", str(prev))
    (asked,) = desk.asked
    assert (asked.op, asked.symbol, asked.channel, asked.conn) == ("resubscribe", "BTC-USDT", "book", "a.1")


def test_a_side_of_more_than_400_levels_is_cut(desk: Desk):
    many = [[str(1000 - n), "1", "0", "1"] for n in range(400)]
    desk.frame(book("snapshot", -1, 1, bids=many, asks=[["2000", "1", "0", "1"]]))
    desk.frame(book("update", 1, 2, bids=[["1001", "1", "0", "1"]]))
    bids, _ = desk.views["BTC-USDT"].levels
    assert (len(bids), bids[0], bids[-1]) == (400, ("1001", "1"), ("602", "1"))


# ---- other recorded frames ------------------------------------------------------------------------------

COUNTS = {
    "mixed-books": {"Acked": 3, "Unparseable": 290},  # of 2022: no sequence, so nothing could prove them
    "mixed-books-derived_seq": {"BookSnapshot": 3, "BookDelta": 287},
    "mixed-docs_examples": {
        "Acked": 1,
        "Refused": 1,
        "Ignored": 1,  # the end of a subscription without an id
        "Closing": 1,
        "L1": 1,
        "OpenInterest": 1,
        "Funding": 2,
    },
    "mixed-ticker": {"Acked": 9, "Ticker": 28},
    "mixed-ticker-2026": {"Acked": 2, "Ticker": 4},
    "mixed-trades": {"Acked": 6, "Trade": 74},
    "mixed-trades-2026": {"Acked": 2, "Trade": 4},
    "spot-trades-2025": {"Trade": 2},
    "swap-books5-2026": {"Ignored": 3},
    "swap-liquidation-2026": {"Liquidation": 4, "Refused": 1},
}


def natives() -> dict[str, Instrument]:
    """Return every instrument that the recordings speak of, contract sizes as of then or invented."""
    linear = {n: Instrument(f"{n}-USDT-PERP", f"{n}-USDT-SWAP", n, "USDT", "10", "linear")
              for n in ("LA", "MINA", "CELO", "BCH")}  # fmt: skip
    others = [PERP, Instrument("BTC-USD-PERP", "BTC-USD-SWAP", "BTC", "USD", "100", "inverse"),
              Instrument("LTC-USD-190628", "LTC-USD-190628", "LTC", "USD", "10", "inverse")]  # fmt: skip
    return RECORDED | {i.native: i for i in (*linear.values(), *others)}


def said_in(name: str) -> list[object]:
    scratch = Scratch("a.1", natives())
    said: list[object] = []
    for row in recording(name):
        if row["dir"] != "in":
            continue
        scratch.recv = int((row["recv_ts"] or 0) * SECOND)
        try:
            said += okx.decode(row["raw"].encode(), scratch)
        except Unparseable as e:
            said.append(e)
    return said


@pytest.mark.parametrize("name", COUNTS)
def test_recorded_frames_all_mean_something(name: str):
    assert dict(Counter(type(one).__name__ for one in said_in(name))) == COUNTS[name]


def test_recorded_trades_are_contiguous_when_each_stands_for_its_fills():
    found = [one for one in said_in("mixed-trades-2026") if isinstance(one, Trade)]
    perp = [t for t in found if t.symbol == "BTC-USDT-PERP"]
    assert [(t.first_id, t.id, t.size, t.contracts, t.aggressor) for t in perp] == [
        (None, "2832749635", "0.01", "1", "buy"),
        ("2832749636", "2832749645", "0.3495", "34.95", "sell"),
    ]
    spot = [t for t in found if t.symbol == "BTC-USDT"]
    assert [(t.first_id, t.id, t.size) for t in spot] == [
        ("1040968612", "1040968613", "0.00240857"),
        (None, "1040968614", "0.06681896"),
    ]


def test_recorded_liquidations_and_open_interest_are_in_base_currency():
    liquidated = [one for one in said_in("swap-liquidation-2026") if isinstance(one, Liquidation)]
    assert [(e.symbol, e.side, e.position, e.price, e.size, e.contracts) for e in liquidated] == [
        ("LA-USDT-PERP", "sell", "long", "0.05167", "5080", "508"),
        ("MINA-USDT-PERP", "buy", "short", "0.09859", "109750", "10975"),
        ("CELO-USDT-PERP", "buy", "short", "0.09583", "199790", "19979"),
        ("BTC-USDT-PERP", "sell", "long", "82655.7", "0.0855", "8.55"),
    ]
    (interest,) = [one for one in said_in("mixed-docs_examples") if isinstance(one, OpenInterest)]
    assert (interest.contracts, interest.base) == ("2216113.01000000309", "22161.1301000000309")


def test_recorded_instruments_give_base_quote_and_contract():
    lists = [okx.rows(row["raw"].encode()) for row in recording("mixed-instruments")]
    assert [len(rows) for rows in lists] == [11, 9, 0]
    found = {row.symbol: row for rows in lists for row in rows}
    assert (found["ETH-BTC"].base, found["ETH-BTC"].contract_size) == ("ETH", None)
    assert (found["SHIB-USDT-PERP"].base, found["SHIB-USDT-PERP"].contract_size) == ("SHIB", "1000000")
    inverse = found["BTC-USD-PERP"]
    assert (inverse.base, inverse.quote, inverse.contract_size) == ("BTC", "USD", "100")
    assert inverse.contract_kind == "inverse"


# ---- answers by item, through the normalizer ------------------------------------------------------------


class Feed:
    """Writes lines of ``raw`` into the normalizer's fold; tells what it said since one last looked."""

    def __init__(self) -> None:
        self.fold = Normalize(okx.VENUE, "okx.0")
        self.out = Output(("events", "control", "dead"))
        self.k = 0
        self.now = START
        for instrument in (SPOT, PERP):
            self.say("i", instrument)
        self.say("o", b"ws://x/ws/v5/public")

    def say(self, kind: str, payload: Any) -> None:
        self.k += 1
        text = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        self.fold.fold(self.k, raw.line(self.now, "a.1", kind, text), self.out)

    def send(self, op: str, *items: Item, number: int = 1) -> None:
        frames = okx.subscribe if op == "subscribe" else okx.unsubscribe
        for sub in frames(items, {i.symbol: i for i in (SPOT, PERP, UNI)}, number):
            self.say("s", sub)

    def hear(self, **frame: Any) -> None:
        self.say("f", json.dumps(frame).encode())

    def wait(self, seconds: int, *heard: bytes) -> None:
        """Let time pass; ``heard`` comes in each second."""
        for _ in range(seconds):
            self.now += SECOND
            for frame in heard:
                self.say("f", frame)
            self.say("k", b'{"legs":["a"]}')

    def events(self) -> list[AnyEvent]:
        found = [codec.decode(line) for line in self.out.lines["events"]]
        self.out.lines["events"].clear()
        return found

    def states(self) -> dict[tuple[str | None, str | None], str]:
        return {(e.channel, e.symbol): e.state for e in self.events() if isinstance(e, Status) and e.symbol}

    def asked(self) -> list[tuple[str, str | None, str | None]]:
        found = [msgspec.json.decode(line, type=ControlRequest) for line in self.out.lines["control"]]
        self.out.lines["control"].clear()
        return [(request.op, request.channel, request.symbol) for request in found]


def test_one_frame_is_answered_item_by_item_and_a_refusal_of_one_leaves_the_others():
    feed = Feed()
    feed.send("subscribe", ("book", "BTC-USDT"), ("trade", "BTC-USDT"), ("funding", "BTC-USDT-PERP"))
    feed.states()
    feed.hear(id="1", event="subscribe", arg={"channel": "books", "instId": "BTC-USDT"})
    assert feed.states() == {("book", "BTC-USDT"): "subscribed"}
    feed.hear(
        id="1", event="error", code="60018", msg="Wrong URL or channel:trades,instId:BTC-USDT doesn't exist."
    )
    assert feed.states() == {("trade", "BTC-USDT"): "refused"}
    feed.hear(id="1", event="subscribe", arg={"channel": "mark-price", "instId": "BTC-USDT-SWAP"})
    assert feed.states() == {}
    feed.hear(id="1", event="subscribe", arg={"channel": "funding-rate", "instId": "BTC-USDT-SWAP"})
    assert feed.states() == {("funding", "BTC-USDT-PERP"): "subscribed"}


def test_a_refusal_by_id_is_of_what_was_not_answered_yet():
    feed = Feed()
    feed.send("subscribe", ("book", "BTC-USDT"), ("trade", "BTC-USDT"))
    feed.hear(id="1", event="subscribe", arg={"channel": "books", "instId": "BTC-USDT"})
    feed.states()
    feed.hear(id="1", event="error", code="64007", msg="Operation subscribe failed.")
    assert feed.states() == {("trade", "BTC-USDT"): "refused"}


def test_the_acknowledged_end_of_a_book_is_followed_by_its_new_subscription():
    feed = Feed()
    feed.send("subscribe", ("book", "BTC-USDT"))
    feed.hear(id="1", event="subscribe", arg={"channel": "books", "instId": "BTC-USDT"})
    feed.send("unsubscribe", ("book", "BTC-USDT"), number=2)
    assert feed.asked() == []
    feed.hear(id="2", event="unsubscribe", arg={"channel": "books", "instId": "BTC-USDT"})
    assert feed.asked() == [("subscribe", "book", "BTC-USDT")]


def test_one_argument_asks_for_the_liquidations_of_every_swap_and_its_consent_is_to_all():
    swaps = {i.symbol: i for i in (PERP, UNI)}
    items: list[Item] = [("trade", s) for s in swaps] + [("liquidation", s) for s in swaps]
    trades, liquidations = okx.subscribe(items, swaps, 1)
    assert (trades.answers, liquidations.answers) == (2, 1)
    assert json.loads(liquidations.frame)["args"] == [{"channel": "liquidation-orders", "instType": "SWAP"}]
    assert liquidations.items == items[2:]


def liquidation(at: int, native: str = "BTC-USDT-SWAP") -> dict[str, Any]:
    detail = {"side": "sell", "posSide": "long", "bkPx": "60000", "sz": "2", "ts": str(at // 1_000_000)}
    row = {"instId": native, "details": [detail]}
    return {"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": [row]}


def test_a_liquidation_from_before_the_subscription_is_not_news_however_young():
    feed = Feed()
    consent = {"event": "subscribe", "arg": {"channel": "liquidation-orders", "instType": "SWAP"}}
    feed.send("subscribe", ("liquidation", "BTC-USDT-PERP"))
    feed.hear(id="1", **consent)
    feed.now += SECOND // 10
    feed.hear(**liquidation(START - 3 * SECOND))
    assert not [e for e in feed.events() if isinstance(e, Liquidation)]
    feed.hear(**liquidation(START - 3 * SECOND))  # late, but not said again by the subscription
    feed.hear(**liquidation(START + SECOND // 20))
    assert len([e for e in feed.events() if isinstance(e, Liquidation)]) == 2
    feed.send("subscribe", ("liquidation", "BTC-USDT-PERP"), number=2)
    feed.now += SECOND
    feed.hear(id="2", **consent)
    feed.hear(**liquidation(START + SECOND // 20))
    assert not [e for e in feed.events() if isinstance(e, Liquidation)]


def test_liquidations_of_a_swap_that_nobody_asked_for_are_not_given():
    feed = Feed()
    feed.say("i", UNI)
    feed.send("subscribe", ("trade", "UNI-USD-PERP"), ("liquidation", "BTC-USDT-PERP"))
    feed.hear(id="2", event="subscribe", arg={"channel": "liquidation-orders", "instType": "SWAP"})
    feed.hear(**liquidation(START, "UNI-USD-SWAP"))
    feed.hear(**liquidation(START))
    events = feed.events()
    assert [e.symbol for e in events if isinstance(e, Liquidation)] == ["BTC-USDT-PERP"]
    assert ("liquidation", "UNI-USD-PERP") not in {
        (e.channel, e.symbol) for e in events if isinstance(e, Status)
    }


@pytest.mark.parametrize(("age_s", "told"), [(1, 1), (3, 0)])
def test_a_liquidation_that_comes_before_its_consent_is_judged_by_its_age(age_s: int, told: int):
    feed = Feed()
    feed.send("subscribe", ("liquidation", "BTC-USDT-PERP"))
    feed.hear(**liquidation(START - age_s * SECOND))
    assert len([e for e in feed.events() if isinstance(e, Liquidation)]) == told


def test_a_hole_before_an_aggregate_is_backfilled_by_its_single_fills():
    feed = Feed()
    trade = {"px": "1", "sz": "1", "side": "buy", "ts": "1786540436090"}
    arg = {"channel": "trades", "instId": "BTC-USDT"}
    feed.hear(arg=arg, data=[{**trade, "tradeId": "10"}])
    feed.hear(arg=arg, data=[{**trade, "tradeId": "13", "count": "3"}])
    feed.events()
    feed.hear(arg=arg, data=[{**trade, "tradeId": "20", "count": "5"}])
    feed.now += 3 * SECOND
    feed.say("k", b'{"legs":["a"]}')
    gap, after = [e for e in feed.events() if isinstance(e, Gap | Trade)]
    assert isinstance(gap, Gap)
    assert isinstance(after, Trade)
    assert (gap.first, gap.last, gap.filled, after.first_id, after.id) == ("14", "15", False, "16", "20")
    assert feed.asked() == [("backfill", "trade", "BTC-USDT")]
    request = okx.backfill(SPOT, "14", "15")
    assert request.path == "/api/v5/market/history-trades?instId=BTC-USDT&type=1&after=16&limit=2"
    body = {"code": "0", "msg": "", "data": [{**trade, "tradeId": "15"}, {**trade, "tradeId": "14"}]}
    feed.say("h", Answer(request, 200, json.dumps(body)))
    *fills, closed = [e for e in feed.events() if isinstance(e, Gap | Trade)]
    assert [(e.id, e.backfilled) for e in fills if isinstance(e, Trade)] == [("14", True), ("15", True)]
    assert isinstance(closed, Gap)
    assert closed.filled


def test_an_index_and_a_spot_pair_of_one_name_are_told_apart():
    feed = Feed()
    ts = "1786540436090"
    feed.send("subscribe", ("funding", "BTC-USDT-PERP"), ("ticker", "BTC-USDT"))
    feed.hear(arg={"channel": "index-tickers", "instId": "BTC-USDT"}, data=[{"idxPx": "5", "ts": ts}])
    feed.hear(arg={"channel": "mark-price", "instId": "BTC-USDT-SWAP"}, data=[{"markPx": "6", "ts": ts}])
    found = [e for e in feed.events() if isinstance(e, Funding)]
    assert [(e.symbol, e.index, e.mark) for e in found] == [
        ("BTC-USDT-PERP", "5", None),
        ("BTC-USDT-PERP", None, "6"),
    ]


def live_mark(feed: Feed) -> bytes:
    """Ask for funding; return the mark price that comes all the while."""
    feed.send("subscribe", ("funding", "BTC-USDT-PERP"))
    for channel, native in (("mark-price", "BTC-USDT-SWAP"), ("index-tickers", "BTC-USDT")):
        feed.hear(id="1", event="subscribe", arg={"channel": channel, "instId": native})
    arg = {"channel": "mark-price", "instId": "BTC-USDT-SWAP"}
    return json.dumps({"arg": arg, "data": [{"markPx": "6", "ts": "1786540436090"}]}).encode()


def test_a_rate_that_falls_silent_is_noticed_beside_a_mark_price_that_goes_on():
    feed = Feed()
    mark = live_mark(feed)
    arg = {"channel": "funding-rate", "instId": "BTC-USDT-SWAP"}
    feed.hear(id="1", event="subscribe", arg=arg)
    feed.hear(arg=arg, data=[{"fundingRate": "0.0001", "fundingTime": "", "ts": "1786540436090"}])
    feed.wait(190, mark)
    assert feed.states() == {("funding", "BTC-USDT-PERP"): "live"}
    feed.wait(20, mark)
    events = feed.events()
    assert [e.state for e in events if isinstance(e, Status)] == ["stale"]
    assert [e.mark for e in events if isinstance(e, Funding)] == ["6"] * 20, "a price is a price"
    assert feed.asked() == [("resubscribe", "funding", "BTC-USDT-PERP")]


def test_a_rate_that_is_refused_stays_so_beside_a_mark_price():
    feed = Feed()
    mark = live_mark(feed)
    words = "Wrong URL or channel:funding-rate,instId:BTC-USDT-SWAP doesn't exist."
    feed.hear(id="1", event="error", code="60018", msg=words)
    feed.wait(30, mark)
    events = feed.events()
    assert [e.state for e in events if isinstance(e, Status) and e.symbol][-1] == "refused"
    assert [e.mark for e in events if isinstance(e, Funding)] == ["6"] * 30


def test_a_spot_pair_is_not_asked_for_what_only_contracts_have():
    (connection,) = okx.plan(okx.VENUE.endpoints, [SPOT, PERP], sorted(okx.VENUE.channels))
    asked = {item for sub in connection.subscriptions for item in sub.items}
    assert {channel for channel, symbol in asked if symbol == "BTC-USDT"} == {"trade", "book", "l1", "ticker"}
    assert {channel for channel, symbol in asked if symbol == "BTC-USDT-PERP"} == okx.VENUE.channels
    assert connection.url == "wss://ws.okx.com:8443/ws/v5/public"
    assert okx.plan(okx.VENUE.endpoints, [SPOT], ["funding"]) == []


def test_a_backfill_asks_for_no_more_than_the_venue_gives():
    assert okx.backfill(PERP, "1000", "5000") == Request(
        "backfill",
        "/api/v5/market/history-trades?instId=BTC-USDT-SWAP&type=1&after=1100&limit=100",
        "BTC-USDT-PERP",
        first="1000",
        last="5000",
    )


# ---- what the venue allows, and how long it may be silent -----------------------------------------------


def test_a_connection_that_gives_neither_data_nor_pongs_is_replaced():
    feed = Feed()
    feed.send("subscribe", ("trade", "BTC-USDT"), ("ticker", "BTC-USDT"))
    for channel in ("trades", "tickers"):
        feed.hear(id="1", event="subscribe", arg={"channel": channel, "instId": "BTC-USDT"})
    trade = {"px": "1", "sz": "1", "side": "buy", "ts": "1786540436090", "tradeId": "1"}
    feed.hear(arg={"channel": "trades", "instId": "BTC-USDT"}, data=[trade])
    for _ in range(30):
        feed.wait(1, b"pong")
        feed.wait(19)
        feed.events()
        assert not [op for op in feed.asked() if op[0] == "reconnect"], (
            "it answers: only the ticker is missing"
        )
        feed.hear(
            arg={"channel": "tickers", "instId": "BTC-USDT"},
            data=[dict.fromkeys(("last", "open24h", "high24h", "low24h", "vol24h", "volCcy24h"), "1")],
        )
    feed.wait(40)
    assert feed.asked() == []
    feed.wait(10)
    assert feed.asked() == [("reconnect", None, None)]


def test_a_pair_that_has_not_traded_for_some_minutes_is_not_thought_silent():
    feed = Feed()
    feed.send("subscribe", ("trade", "BTC-USDT"))
    feed.hear(id="1", event="subscribe", arg={"channel": "trades", "instId": "BTC-USDT"})
    feed.wait(590, b"pong")
    assert feed.states() == {("trade", "BTC-USDT"): "subscribed"}
    feed.wait(20, b"pong")
    assert feed.states() == {("trade", "BTC-USDT"): "stale"}, "acknowledged, and perhaps never to come"
    assert feed.asked() == [("resubscribe", "trade", "BTC-USDT")]


def test_we_ask_for_no_more_than_is_documented():
    limits = okx.LIMITS  # sheet 2
    assert limits.subscriptions_per_hour is not None
    assert 400 <= limits.subscriptions_per_hour < 480
    assert limits.connects_per_s == 3
    # REST allows 20 in 2 s of each kind. What is taken in a second and the next is within weight_per_s, so
    # that 2 s, which touch three of them, never hold more than twice that.
    assert limits.weight_per_s is not None
    assert 2 * limits.weight_per_s <= 20
    assert limits.weight_per_minute <= 600
    assert 60 <= limits.connects_per_minute <= 60 * 3
    assert okx.backfill(PERP, "1", "1000").weight == 1


def test_fewer_than_30_books_and_64_kb_of_arguments_go_to_one_connection():
    many = [
        Instrument(f"A{n}-USDT-PERP", f"A{n}-USDT-SWAP", f"A{n}", "USDT", "1", "linear") for n in range(99)
    ]
    for channels in (sorted(okx.VENUE.channels), ["book"], ["book", "trade"]):
        for connection in okx.plan(okx.VENUE.endpoints, many, channels):
            items = [item for subscription in connection.subscriptions for item in subscription.items]
            assert 0 < sum(channel == "book" for channel, _ in items) < 30
            assert all(len(subscription.frame) < 64 * 1024 for subscription in connection.subscriptions)


def test_pings_and_patience_are_as_documented():
    venue = okx.VENUE
    assert venue.keepalive is not None
    assert venue.quiet_s is not None
    assert venue.keepalive.frame == "ping"  # sheet 4
    assert venue.keepalive.every_s < 30, "it is cut off after 30 s without a word"
    assert 2 * venue.keepalive.every_s < venue.quiet_s <= 60, "two pongs are missing"
    # Sheet 5.2: a book and best prices that stand still are said again after 60 s; 5.6: a rate after 90 s.
    assert venue.silence_s.keys() == {"book", "l1", "funding"}, "all else may be silent for ever"
    assert all(2 * 60 < venue.silence_s[channel] <= 180 for channel in ("book", "l1"))
    assert 2 * 90 < venue.silence_s["funding"] <= 300
    assert venue.first_s.keys() == {"book", "ticker", "trade"}
