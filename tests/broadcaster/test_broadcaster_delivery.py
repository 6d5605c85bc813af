"""What clients get, and in which order."""

import json
import random
from decimal import Decimal
from typing import Any

import anyio
from broadcaster_rig import PARTITION, SYMBOLS, Script, heard, running, until

from actors.model.events import L1, Book, Cvd, Event, Gap, Level, Status, Ticker
from actors.streams.partition import Entry


def levels(side: dict[str, Any]) -> list[tuple[str, str]]:
    return [(level["price"], level["amount"]) for level in side["levels"]]


class Folded:
    """What a client makes of one book's messages."""

    def __init__(self) -> None:
        self.snapshots = 0
        self.sequences: list[int] = []
        self.bids: dict[Decimal, str] = {}
        self.asks: dict[Decimal, str] = {}

    def apply(self, data: dict[str, Any]) -> None:
        ((what, book),) = data.items()
        if what == "Snapshot":
            self.snapshots += 1
            self.bids, self.asks = {}, {}
        assert self.snapshots, "an update before the first snapshot"
        self.sequences.append(book["sequence"])
        for side, changed in ((self.bids, book["bids"]), (self.asks, book["asks"])):
            for price, amount in levels(changed):
                if Decimal(amount):
                    side[Decimal(price)] = amount
                else:
                    side.pop(Decimal(price), None)


async def test_a_client_gets_the_welcome_then_every_event_once_in_order():
    async with running() as r, r.client() as client:
        assert (await heard(client))["type"] == "welcome"
        for _ in range(10):
            await r.tell(r.script.entry("events", *[r.script.trade() for _ in range(7)]))
        got = [(await heard(client))["data"]["id"] for _ in range(70)]
        assert got == [str(i + 1) for i in range(70)]
        assert r.count("tapeline_client_frames_total", dialect="barter") == 70


async def test_only_what_the_dialect_has_words_for_is_sent():
    async with running() as r, r.client() as client:
        await heard(client)
        s = r.script
        native = L1("binance", "BTC-USDT", None, 1, None, "1", "1", "2", "1")
        others: list[Event] = [
            native,  # of ``events``: the bookbuilder's business
            Ticker("binance", "BTC-USDT", None, 1, None, last="1"),
            Gap("binance", "BTC-USDT", None, 1, None, "trade", "sequence", "1", "2"),
            Status("binance", None, None, 1, None, None, "down", "gone", conn="a.1"),
        ]
        await r.tick()
        await r.tell(s.entry("events", *others))
        await r.tell(s.entry("books", native))
        await r.tell(s.entry("events", s.trade()))
        assert [(await heard(client))["kind"] for _ in range(2)] == ["order_book_l1", "trade"]


async def test_a_newcomer_gets_the_books_whole_and_then_their_updates():
    async with running() as r:
        s = r.script
        await r.tell(s.entry("books", s.book("snapshot", [("9", "1"), ("8", "2")], [("10", "1")], seq=5)))
        await r.tell(s.entry("books", s.book("delta", [("9.00", "0"), ("8.5", "3")], [("11", "4")], seq=6)))
        async with r.client() as client:
            assert (await heard(client))["type"] == "welcome"
            snapshot = (await heard(client))["data"]["Snapshot"]
            assert levels(snapshot["bids"]) == [("8.5", "3"), ("8", "2")]
            assert levels(snapshot["asks"]) == [("10", "1"), ("11", "4")]
            assert snapshot["sequence"] == 6
            await r.tell(s.entry("books", s.book("delta", [("8", "0")], [], seq=7)))
            assert (await heard(client))["data"]["Update"]["sequence"] == 7


async def test_a_periodic_snapshot_is_not_sent_and_a_plain_one_is():
    async with running() as r:
        s = r.script
        await r.tell(s.entry("books", s.book("snapshot", [("9", "1")], [], seq=1)))
        async with r.client("/?kind=order_book_l2") as client:
            await heard(client)
            assert "Snapshot" in (await heard(client))["data"]
            await r.tell(s.entry("books", s.book("snapshot", [("9", "1")], [], seq=2, periodic=True)))
            await r.tell(s.entry("books", s.book("delta", [("9", "2")], [], seq=3)))
            await r.tell(s.entry("books", s.book("snapshot", [("9", "2")], [], seq=4)))
            assert (await heard(client))["data"]["Update"]["sequence"] == 3
            assert (await heard(client))["data"]["Snapshot"]["sequence"] == 4


async def test_a_book_that_is_not_live_is_silent_until_its_next_snapshot():
    async with running() as r, r.client("/?kind=order_book_l2") as client:
        await heard(client)
        s = r.script
        await r.tell(s.entry("books", s.book("snapshot", [("9", "1")], [], seq=1)))
        await r.tell(s.entry("books", s.book("snapshot", [], [], seq=2, state="resyncing")))
        async with r.client("/?kind=order_book_l2") as newcomer:
            await r.tell(s.entry("books", s.book("snapshot", [("7", "1")], [], seq=3)))
            assert [(await heard(newcomer)).get("type")] == ["welcome"]
            assert (await heard(newcomer))["data"]["Snapshot"]["sequence"] == 3
        assert [(await heard(client))["data"]["Snapshot"]["sequence"] for _ in range(2)] == [1, 3]


async def test_a_delta_that_does_not_continue_its_book_is_not_sent():
    async with running() as r, r.client("/?kind=order_book_l2") as client:
        await heard(client)
        s = r.script
        await r.tell(s.entry("books", s.book("snapshot", [("9", "1")], [], seq=1)))
        await r.tell(s.entry("books", s.book("delta", [("9", "5")], [], seq=2, prev=77)))
        await r.tell(s.entry("books", s.book("delta", [("9", "6")], [], seq=3)))
        await r.tell(s.entry("books", s.book("snapshot", [("9", "6")], [], seq=4, periodic=True)))
        assert [(await heard(client))["data"]["Snapshot"]["sequence"] for _ in range(2)] == [1, 4]
        assert r.count("tapeline_gaps_total", venue="binance", channel="book", reason="broken_chain") == 1


class Market:
    """Random books and the truth about them."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.rng = random.Random(7)
        self.sequence = 0
        self.truth: dict[str, tuple[dict[Decimal, str], dict[Decimal, str]]] = {s: ({}, {}) for s in SYMBOLS}

    def side(self, of: dict[Decimal, str], start: int) -> list[Level]:
        changes: list[Level] = []
        for _ in range(self.rng.randint(0, 3)):
            price, size = f"{start + self.rng.randint(0, 20)}.50", self.rng.choice(["0", "0.000", "1.5", "2"])
            changes.append((price, size))
            of[Decimal(price)] = size
            if not Decimal(size):
                del of[Decimal(price)]
        return changes

    def next(self) -> Book:
        self.sequence += 1
        symbol = self.rng.choice(SYMBOLS)
        bids, asks = self.truth[symbol]
        begun = symbol in self.script.prev
        if begun and self.rng.random() > 0.05:
            changes = self.side(bids, 100), self.side(asks, 200)
            return self.script.book("delta", *changes, symbol, seq=self.sequence)
        whole = ([(f"{price:f}", size) for price, size in side.items()] for side in (bids, asks))
        periodic = begun and self.rng.random() < 0.8
        return self.script.book("snapshot", *whole, symbol, seq=self.sequence, periodic=periodic)


async def test_whoever_joins_whenever_has_the_true_book_without_hole_or_repetition():
    last = 9999
    async with running() as r:
        market = Market(r.script)
        all_of: dict[int, dict[str, list[int]]] = {}

        async def join(at: int) -> None:
            await until(lambda: market.sequence >= at)
            async with r.client(served=False) as client:
                books = {symbol: Folded() for symbol in SYMBOLS}
                assert (await heard(client))["type"] == "welcome"
                while books["BTC-USDT"].sequences[-1:] != [last]:
                    message = await heard(client)
                    books[message["instrument"]["base"].upper() + "-USDT"].apply(message["data"])
            for symbol, book in books.items():
                assert (book.bids, book.asks) == market.truth[symbol]
                assert book.sequences == sorted(set(book.sequences))
            all_of[at] = {symbol: book.sequences for symbol, book in books.items()}

        async with anyio.create_task_group() as tg:
            for at in (0, *market.rng.sample(range(1, 1500), 13)):
                tg.start_soon(join, at)
            await until(lambda: r.served() == 1)
            while market.sequence < 1500:
                await r.tell(r.script.entry("books", market.next()))
                await anyio.sleep(0.0005)
            await until(lambda: r.served() == 14)
            for symbol in reversed(SYMBOLS):
                end = r.script.book("delta", [], [], symbol, seq=last)
                await r.tell(r.script.entry("books", end))
        for got in all_of.values():
            for symbol, sequences in got.items():
                assert sequences[1:] == [one for one in all_of[0][symbol] if one > sequences[0]]


async def test_filters_choose_kinds_and_symbols():
    async with running() as r, r.client("/any/path?kind=trade&symbol=eth/usdt") as client:
        await heard(client)
        s = r.script
        await r.tell(s.entry("events", s.trade("BTC-USDT"), s.trade("ETH-USDT")))
        await r.tell(s.entry("books", s.book("snapshot", [("1", "1")], [], "ETH-USDT")))
        await r.tell(s.entry("events", s.trade("ETH-USDT")))
        assert [(await heard(client))["data"]["id"] for _ in range(2)] == ["2", "3"]
        async with r.client("/?exchange=BinanceSpot&kind=order_book_l2") as other:
            await heard(other)
            assert "Snapshot" in (await heard(other))["data"]


async def test_sums_of_flow_are_sent_to_who_wants_them_and_its_gaps_to_nobody():
    async with (
        running() as r,
        r.client() as all_of_it,
        r.client("/?kind=cumulative_volume_delta&symbol=ETH-USDT") as sums,
    ):
        s = r.script
        gap = Gap("binance", None, None, 1, None, "trade", "retention", "1", "9")
        deltas = [Cvd("binance", name, None, 1, None, f"{i}.5", "-7") for i, name in enumerate(SYMBOLS)]
        await r.tell(s.entry("events", s.trade()), s.entry("flow", gap, *deltas))
        assert [(await heard(all_of_it)).get("kind") for _ in range(4)] == [
            None, "trade", "cumulative_volume_delta", "cumulative_volume_delta",
        ]  # fmt: skip
        await heard(sums)
        message = await heard(sums)
        assert message["instrument"]["base"] == "eth"
        assert message["data"] == {"delta_base": 1.5, "delta_quote": -7}
        assert r.follower.events == 1  # of ``events`` only
        s.k["flow"] += 5  # retention took these
        await r.tell(s.entry("flow", deltas[1]))
        assert (await heard(sums))["data"] == {"delta_base": 1.5, "delta_quote": -7}
        assert r.count("tapeline_trimmed_unread_total", role="broadcaster", partition="binance.0") == 5


async def test_nothing_is_encoded_for_nobody():
    async with running() as r:
        assert r.outlet.wanted("events") == frozenset()
        async with r.client("/?kind=trade"):
            assert r.outlet.wanted("events") == {b"trade"}
            assert r.outlet.wanted("books") == r.outlet.wanted("flow") == frozenset()
        await until(lambda: len(r.hub) == 0)
        assert r.outlet.wanted("events") == frozenset()


async def test_an_event_that_cannot_be_said_is_counted_and_the_next_is_sent():
    async with running() as r, r.client() as client:
        await heard(client)
        s = r.script
        await r.tell(s.entry("events", s.trade(ts_event=10**22)))
        r.script.k["events"] += 1
        await r.tell(("events", Entry(1, r.script.k["events"], [b'{"kind":"trade","ven'])))
        await r.tell(s.entry("events", s.trade()))
        assert (await heard(client))["data"]["id"] == "2"
        assert r.count("tapeline_skipped_total", reason="untranslatable") == 2


async def test_after_a_change_that_cannot_be_said_a_book_waits_for_its_next_snapshot():
    async with running() as r, r.client("/?kind=order_book_l2") as client:
        await heard(client)
        s = r.script
        await r.tell(s.entry("books", s.book("snapshot", [("9", "1")], [], seq=1)))
        await r.tell(s.entry("books", s.book("delta", [("9", "5")], [], seq=2, ts_event=10**22)))
        await r.tell(s.entry("books", s.book("delta", [("9", "6")], [], seq=3)))
        await r.tell(s.entry("books", s.book("snapshot", [("9", "6")], [], seq=4, periodic=True)))
        assert [(await heard(client))["data"]["Snapshot"]["sequence"] for _ in range(2)] == [1, 4]
        assert r.count("tapeline_skipped_total", reason="untranslatable") == 1


async def test_missing_entries_are_counted():
    async with running() as r:
        s = r.script
        await r.tell(s.entry("events", s.trade()))
        s.k["events"] += 40
        await r.tell(s.entry("events", s.trade()))
        place = {"role": "broadcaster", "partition": str(PARTITION)}
        assert r.count("tapeline_trimmed_unread_total", **place) == 40
        s.epoch, s.k["events"] = 2, 10
        await r.tell(s.entry("events", s.trade()))
        assert r.count("tapeline_rollbacks_total", **place) == 1


async def test_a_crowd_of_newcomers_is_let_in_one_lot_after_the_other():
    async with running() as r:
        s = r.script
        whole = [(f"{i}.5", "1") for i in range(1, 500)]
        await r.tell(s.entry("books", s.book("snapshot", whole, [])))
        got = 0

        async def one() -> None:
            nonlocal got
            async with r.client("/?kind=order_book_l2", served=False) as client:
                await heard(client)
                assert len((await heard(client))["data"]["Snapshot"]["bids"]["levels"]) == 499
                got += 1
                await until(lambda: got == 100, 20)

        async with anyio.create_task_group() as tg:
            for _ in range(100):
                tg.start_soon(one)
        assert json.dumps(got) == "100"
