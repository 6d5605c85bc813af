"""Open interest that no socket brings: asked in turn, told as live, stale or down, given once."""

import json
from typing import Any

import anyio
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
    assert feed.tick(100) == []
    (stale,) = feed.tick(30)
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
    assert pause_s(venue, "open_interest", question, 10) == venue.polls["open_interest"].every_s / 10
    assert 60 / pause_s(venue, "open_interest", question, 5000) == venue.limits.weight_per_minute / 2


def test_channels_share_that_half_by_how_often_each_is_to_be_asked():
    venue = bitrue.VENUE
    asked_per_minute = {
        channel: 60 / pause_s(venue, channel, poll.ask(BTC), 5000) for channel, poll in venue.polls.items()
    }
    assert sum(asked_per_minute.values()) == pytest.approx(venue.limits.weight_per_minute / 2)
    ratio = venue.polls["ticker"].every_s / venue.polls["trade"].every_s
    assert asked_per_minute["trade"] / asked_per_minute["ticker"] == pytest.approx(ratio)
