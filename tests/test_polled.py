"""Open interest that no socket brings: asked in turn, told as live, stale or down, given once."""

import heapq
import json
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from msgspec import structs

from actors.connector.polling import pause_s, poll
from actors.connector.rest import Reply
from actors.model import codec
from actors.model.events import Channel, OpenInterest, Status
from actors.model.instruments import Instrument
from actors.stages import raw
from actors.stages.fold import Output
from actors.stages.normalize import Normalize
from actors.venues import binance_usdm, bitrue
from actors.venues.base import Answer, Poll, Request

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
BTC = Instrument("BTC-USDT-PERP", "BTCUSDT", "BTC", "USDT", "1", "linear")
ETH = Instrument("ETH-USDT-PERP", "ETHUSDT", "ETH", "USDT", "1", "linear")


class Feed:
    def __init__(self) -> None:
        self.fold = Normalize(binance_usdm.VENUE, "binance_usdm.0")
        self.now = START
        self.k = 0
        self.say("i", BTC)
        self.news()

    def say(self, kind: str, payload: Any) -> list[Any]:
        self.k += 1
        self.out = Output(("events", "control", "dead"))
        self.fold.fold(self.k, raw.line(self.now, "a.*", kind, msgspec.json.encode(payload)), self.out)
        return self.news()

    def news(self) -> list[Any]:
        events = [codec.decode(line) for line in self.out.lines.get("events", ())]
        return [event for event in events if isinstance(event, OpenInterest | Status)]

    def answer(self, interest: str, time_ms: int, status: int = 200) -> list[Any]:
        body = json.dumps({"openInterest": interest, "symbol": "BTCUSDT", "time": time_ms})
        question = binance_usdm.open_interest(BTC)
        return self.say("h", Answer(question, status, body if status == 200 else "gone"))

    def tick(self, seconds: float) -> list[Any]:
        self.now += int(seconds * SECOND)
        return self.say("k", raw.LegsAlive(["a"]))


def test_an_answer_is_live_and_one_that_says_the_same_again_gives_nothing():
    feed = Feed()
    state, first = feed.answer("10659.509", 1_790_000_000_000)
    assert (state.channel, state.symbol, state.state) == ("open_interest", "BTC-USDT-PERP", "live")
    assert (first.contracts, first.base) == ("10659.509", "10659.509")
    assert feed.answer("10659.509", 1_790_000_000_000) == []
    (second,) = feed.answer("10660", 1_790_000_005_000)
    assert second.base == "10660"


def test_what_is_not_answered_for_long_is_stale_and_comes_back_with_the_next_answer():
    feed = Feed()
    feed.answer("1", 1_790_000_000_000)
    assert feed.tick(1) == []
    assert feed.tick(129) == []  # after an outage of ours
    (stale,) = feed.tick(1)
    assert (stale.channel, stale.state) == ("open_interest", "stale")
    assert feed.tick(30) == []
    live, event = feed.answer("2", 1_790_000_160_000)
    assert (live.state, event.base) == ("live", "2")


def test_a_refusal_before_the_first_answer_is_down_with_its_reason_and_survives_a_restart():
    feed = Feed()
    (down,) = feed.answer("1", 1_790_000_000_000, status=400)
    assert (down.state, down.reason) == ("down", "HTTP 400: gone")
    feed.fold = Normalize(binance_usdm.VENUE, "binance_usdm.0", feed.fold.dump())
    live, _ = feed.answer("1", 1_790_000_000_000)
    assert live.state == "live"


async def test_each_instrument_is_asked_in_turn_whatever_the_answer(monkeypatch: pytest.MonkeyPatch):
    polls: dict[Channel, Poll] = {"open_interest": Poll(binance_usdm.open_interest, 0.002)}
    venue = structs.replace(binance_usdm.VENUE, polls=polls)
    written: list[tuple[str | None, int]] = []
    enough = anyio.Event()
    instruments: dict[str, Instrument] = {BTC.symbol: BTC}
    monkeypatch.setattr("actors.connector.polling._SHARE", 1e9)

    async def fetch(question: Request) -> Reply | None:
        return Reply(400, b"{}") if question.symbol == BTC.symbol else Reply(200, b"{}")

    def wanted(_channel: Channel) -> list[Instrument]:
        return list(instruments.values())

    def write(question: Request, reply: Reply) -> None:
        written.append((question.symbol, reply.status))
        instruments[ETH.symbol] = ETH  # listed later
        if len(written) == 5:
            enough.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(poll, venue, "open_interest", fetch, write, wanted)
        with anyio.fail_after(30):
            await enough.wait()
        tg.cancel_scope.cancel()
    btc, eth = ("BTC-USDT-PERP", 400), ("ETH-USDT-PERP", 200)
    assert written == [btc, btc, eth, btc, eth]


async def test_a_longer_page_is_asked_for_where_the_last_answer_was_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actors.connector.polling._SHARE", 1e9)
    polls: dict[Channel, Poll] = {"trade": structs.replace(bitrue.VENUE.polls["trade"], every_s=0.001)}
    venue = structs.replace(bitrue.VENUE, polls=polls)
    pair = Instrument("BTC-USDT", "BTCUSDT", "BTC", "USDT")
    replies = iter([Reply(503, b""), Reply(200, b"[]"), Reply(200, b"[]"), None, Reply(200, b"[]")])
    asked: list[str] = []

    async def fetch(question: Request) -> Reply | None:
        asked.append(question.path.partition("limit=")[2])
        return next(replies, None)

    def wanted(_channel: Channel) -> list[Instrument]:
        if len(asked) >= 6:
            enough.set()
        return [pair]

    enough = anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(poll, venue, "trade", fetch, lambda _question, _reply: None, wanted)
        with anyio.fail_after(30):
            await enough.wait()
        tg.cancel_scope.cancel()
    assert asked[:6] == ["1000", "1000", "500", "500", "1000", "500"]


def test_half_of_the_budget_stays_for_books_and_backfills():
    venue = binance_usdm.VENUE
    question = binance_usdm.open_interest(BTC)
    few, many = (pause_s(venue, "open_interest", question, n, ["open_interest"]) for n in (10, 5000))
    assert few == venue.polls["open_interest"].every_s / 10
    assert 60 / many == venue.limits.weight_per_minute / 2


def test_partitions_share_that_half():
    venue = binance_usdm.VENUE
    question = binance_usdm.open_interest(BTC)
    each = pause_s(venue, "open_interest", question, 5000, ["open_interest"], shards=4)
    assert 4 * 60 / each == venue.limits.weight_per_minute / 2
    assert pause_s(venue, "open_interest", question, 10, ["open_interest"], shards=4) == 1.0


def test_channels_share_that_half_by_how_often_each_is_to_be_asked():
    venue = bitrue.VENUE
    asked_per_minute = {
        channel: 60 / pause_s(venue, channel, poll.ask(BTC), 5000, venue.polls)
        for channel, poll in venue.polls.items()
    }
    assert sum(asked_per_minute.values()) == pytest.approx(venue.limits.weight_per_minute / 2)
    ratio = venue.polls["ticker"].every_s / venue.polls["trade"].every_s
    assert asked_per_minute["trade"] / asked_per_minute["ticker"] == pytest.approx(ratio)


# ---- many pairs, in a time of the test's own ------------------------------------------------------------

PAIRS = [Instrument(f"A{n}-USDT", f"A{n}USDT", f"A{n}", "USDT") for n in range(59)]


class FakeTime:
    """Sleeps that last no time: whoever wakes first does when all others sleep, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._slept = 0
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        monkeypatch.setattr("anyio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        woken = anyio.Event()
        self._slept += 1
        heapq.heappush(self._sleepers, (self.now + seconds, self._slept, woken))
        await woken.wait()

    async def until(self, seconds: float) -> None:
        while True:
            for _ in range(10):  # more than anything here does between two sleeps
                await anyio.lowlevel.checkpoint()
            if not self._sleepers or self._sleepers[0][0] > seconds:
                break
            self.now, _, woken = heapq.heappop(self._sleepers)
            woken.set()
        self.now = seconds


class Asked:
    """Polls Bitrue for ``pairs``; answers take ``takes_s``.

    Attributes:
        at: By channel and symbol, when it was asked for.
        written: What was answered, by number, in the order of the answers.
        most: How many questions were out at once.
    """

    def __init__(self, time: FakeTime, takes_s: float, *channels: Channel, pairs: int = 59) -> None:
        self.time, self.takes_s, self.channels, self.pairs = time, takes_s, channels, PAIRS[:pairs]
        self.at: dict[tuple[str, str], list[float]] = {}
        self.written: list[tuple[str, int]] = []
        self.out: list[str | None] = []
        self.most = 0

    async def fetch(self, question: Request) -> Reply | None:
        assert question.symbol is not None
        times = self.at.setdefault((question.op, question.symbol), [])
        times.append(self.time.now)
        number = len(times)
        assert question.symbol not in self.out
        self.out.append(question.symbol)
        self.most = max(self.most, len(self.out))
        await anyio.sleep(self.takes_s)
        self.out.remove(question.symbol)
        return Reply(200, str(number).encode())

    def write(self, question: Request, reply: Reply) -> None:
        self.written.append((question.symbol or "", int(reply.body)))

    def wanted(self, channel: Channel) -> list[Instrument]:
        return self.pairs if channel in self.channels else []

    async def run(self, seconds: float, channel: Channel) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(poll, bitrue.VENUE, channel, self.fetch, self.write, self.wanted)
            await self.time.until(seconds)
            tg.cancel_scope.cancel()

    def longest_s(self) -> float:
        assert len(self.at) == len(self.pairs)
        return max(b - a for times in self.at.values() for a, b in pairwise(times))


async def test_many_pairs_are_asked_at_the_pace_of_the_budget_however_slow_the_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked(FakeTime(monkeypatch), 0.6, "trade", "ticker")
    await asked.run(60, "trade")
    assert sum(map(len, asked.at.values())) == pytest.approx(
        60 / (0.1 * 1.15), abs=2
    )  # 15 of 115 are tickers'
    assert asked.longest_s() < 7
    asked = Asked(asked.time, 0.6, "trade", "ticker")
    asked.time.now = 0.0
    await asked.run(200, "ticker")
    assert asked.longest_s() < 0.8 * bitrue.VENUE.silence_s["ticker"]


async def test_what_nobody_wants_has_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(FakeTime(monkeypatch), 0.3, "trade")
    await asked.run(60, "trade")
    assert sum(map(len, asked.at.values())) == pytest.approx(600, abs=2)


async def test_eight_questions_are_out_at_most_and_one_of_a_pair_whose_answers_stay_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked(FakeTime(monkeypatch), 10.0, "trade")
    await asked.run(300, "trade")
    assert asked.most == 8
    pages = {pair.symbol: [n for symbol, n in asked.written if symbol == pair.symbol] for pair in PAIRS}
    assert all(numbers == sorted(numbers) for numbers in pages.values())
    assert sum(map(len, asked.at.values())) == pytest.approx(8 * 300 / 10, abs=8)


async def test_a_single_pair_is_not_asked_again_before_it_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked(FakeTime(monkeypatch), 4.0, "trade", pairs=1)
    await asked.run(60, "trade")
    assert asked.most == 1
    assert asked.longest_s() == 4.5
