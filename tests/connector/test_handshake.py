"""What comes before a connection may be used: an address asked for by REST, and the venue's greeting."""

import json
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fake_venue import CONTROL, KEYS, PARTITION, FakeVenue, ask, lines, of, running, trade, until
from msgspec.structs import replace

from actors.connector import links, slots
from actors.connector.links import Link
from actors.connector.sockets import Refused, dial
from actors.stages.control import ControlRequest
from actors.venues import VENUES, kucoin
from actors.venues.base import Handshake, Request

pytestmark = pytest.mark.redis

WELCOME = '{"id":"x","type":"welcome"}'
TOKEN = Request("handshake", "/token", post=True)


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Binance, as if it were guarded like KuCoin."""
    shaken = replace(
        VENUES["binance"], handshake=Handshake(TOKEN, kucoin.address), greeting=kucoin.is_welcome
    )
    monkeypatch.setitem(VENUES, "binance", shaken)


def token(text: str) -> str:
    return json.dumps(
        {"code": "200000", "data": {"token": text, "instanceServers": [{"endpoint": "wss://x"}]}}
    )


def guard(*tokens: str, welcome: str | None = WELCOME) -> FakeVenue:
    venue = FakeVenue()
    venue.welcome = welcome
    for text in tokens:
        venue.answer("/token", token(text))
    return venue


def query(path: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(path).query)


def failed(client: Any) -> list[dict[str, Any]]:
    return [line.json for line in of(client, "x")[1:]]


async def test_each_connection_has_a_token_of_its_own_that_nobody_reads(redis_server, settings_for, capfd):
    server = redis_server()
    async with guard("se+cret/1==", "se+cret/2==") as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
                await venue.open[0].close(1012, "restart")
                await until(lambda: len(venue.received) == 2)
            found = lines(client)
            opened = [line for line in found if line.kind == "o"]
    assert venue.posted == ["/token"] * 2
    assert [query(path)["token"] for path in venue.dialed] == [["se+cret/1=="], ["se+cret/2=="]]
    assert "token=se%2Bcret%2F1%3D%3D" in venue.dialed[0]
    assert [query(path)["connectId"] for path in venue.dialed] == [[line.conn] for line in opened]
    assert {line.payload for line in opened} == {f"ws://127.0.0.1:{venue.port}/stream"}
    assert not [line for line in found if "cret" in line.payload]
    assert "cret" not in "".join(capfd.readouterr())


async def test_nothing_is_sent_before_the_greeting(redis_server, settings_for):
    server = redis_server()
    async with guard("1", welcome=None) as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: of(client, "o"))
                ask(client, ControlRequest("n/1/0", "subscribe", "BTC-USDT", "trade"))
                asked = client.xinfo_stream(CONTROL)["last-generated-id"]
                served = KEYS.cursor(PARTITION, "connector:a")
                await until(lambda: client.hget(served, "c:control") == asked)
                assert not venue.received
                assert not of(client, "s")
                await venue.push(WELCOME, trade(1))
                await until(lambda: venue.received)
            kinds = "".join(line.kind for line in lines(client))
    assert kinds == "xioffsfx"  # greeting, trade, subscription, answer


async def test_a_redirection_that_repeats_a_token_does_not_tell_it(redis_server, settings_for):
    server = redis_server()
    async with guard("cret", "other") as venue:
        venue.refusals.append((302, {"Location": "http://elsewhere/?token=cret"}))
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
            assert not [line for line in lines(client) if "cret" in line.payload]
            assert "http://elsewhere/?..." in failed(client)[0]["reason"]


@pytest.mark.parametrize("url", ["ws://a..b/", "ws://127.0.0.1:1/?token=cret", "ws://.x:1/?token=cret"])
async def test_a_host_that_cannot_be_is_a_refusal(url: str):
    with pytest.raises(Refused) as caught:
        await dial(url, Link.__new__(Link), 1000)
    assert caught.value.cause == "unreachable"
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (503, "down for a moment", "before dialing: HTTP 503: down for a moment"),
        (200, '{"code":"500000","msg":"no"}', "before dialing: bullet-public: 500000: no"),
        (200, "<html>", "before dialing: bullet-public: JSON is malformed"),
    ],
)
async def test_a_handshake_that_fails_is_a_failed_attempt(redis_server, settings_for, status, body, reason):
    server = redis_server()
    async with guard() as venue:
        venue.answer("/token", body, status)
        venue.answer("/token", token("1"))
        with server.client() as client:
            async with running(settings_for(server, venue.venue())) as actor:
                await until(lambda: venue.received)
                assert actor.metric("tapeline_reconnects_total", venue="binance", reason="handshake") == 1
            first = failed(client)[0]
    assert first["reason"].startswith(reason)
    assert len(venue.dialed) == 1


async def test_a_429_on_a_token_bars_until_retry_after_and_no_longer(redis_server, settings_for):
    server = redis_server()
    async with guard() as venue:
        venue.answer("/token", "", 429, Retry_After="1")
        venue.answer("/token", token("1"))
        with server.client():
            async with running(settings_for(server, venue.venue())) as actor:
                await until(lambda: venue.received)  # 15 s, were no time given, are more than a test waits
                assert actor.metric("tapeline_rest_failures_total", venue="binance", reason="429") == 1
    assert len(venue.posted) == 2


async def test_connections_that_waited_for_their_tokens_are_not_dialed_at_once(
    redis_server, settings_for, limits
):
    limits(connects_per_minute=1000, connects_per_s=1)
    symbols = ["BTC-USDT", "ETH-USDT", "SOL-USDT"]
    server = redis_server()
    venue = FakeVenue(*symbols)
    venue.welcome = WELCOME
    async with venue:
        venue.answer("/token", "", 429, Retry_After="5")  # bars the others, too
        for symbol in symbols:
            venue.answer("/token", token(symbol))
        with server.client() as client:
            wanted = venue.venue(symbols=symbols, symbols_per_connection=1)
            async with running(settings_for(server, wanted)):
                await until(lambda: len(venue.received) == 3, 20)
            opened = [line.recv for line in of(client, "o")]
    assert all(later - earlier > 0.9e9 for earlier, later in pairwise(opened))


async def test_another_first_frame_than_the_greeting_is_a_failed_attempt(redis_server, settings_for):
    server = redis_server()
    async with guard("1", "2", welcome='{"type":"error","code":401,"data":"token is expired"}') as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())) as actor:
                await until(lambda: failed(client))
                venue.welcome = WELCOME
                await until(lambda: venue.received)
                assert actor.metric("tapeline_reconnects_total", venue="binance", reason="handshake") == 1
                assert actor.metric("tapeline_connections", venue="binance") == 1
            told = failed(client)[0]
    assert told["reason"].startswith('the first frame was no greeting: {"type":"error","code":401,')
    assert [number for number, _ in venue.received] == [1]


async def test_a_greeting_that_never_comes_is_a_failed_attempt(redis_server, settings_for, monkeypatch):
    monkeypatch.setattr(links, "OPEN_S", 0.2)
    server = redis_server()
    async with guard("1", "2", welcome=None) as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: failed(client))
                venue.welcome = WELCOME
                await until(lambda: venue.received)
            assert failed(client)[0] == {"code": 1000, "reason": "no greeting"}


async def test_a_venue_that_says_try_again_later_for_a_greeting_is_left_alone_for_a_while(
    redis_server, settings_for, monkeypatch
):
    monkeypatch.setattr(slots, "TRY_LATER_S", 2.0)
    server = redis_server()
    async with guard("1", "2", welcome=None) as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.open)
                await venue.open[0].close(1013)
                await until(lambda: len(venue.sockets) == 2)
            told = lines(client)
    end = next(line for line in told if line.kind == "x" and line.json["code"] == 1013)
    assert next(line for line in told[told.index(end) :] if line.kind == "o").recv - end.recv > 1.9e9


async def test_a_venue_that_only_greets_does_not_start_the_back_off_anew(
    redis_server, settings_for, monkeypatch
):
    made: list[int] = []
    real = slots.backoff
    monkeypatch.setattr(slots, "backoff", lambda: made.append(1) or real(first=0.01))
    server = redis_server()
    async with guard("1", "2", "3") as venue:
        venue.acknowledges = False
        with server.client():
            async with running(settings_for(server, venue.venue())):
                for n in range(1, 3):
                    await until(lambda n=n: len(venue.received) == n)
                    await venue.open[0].close(1012, "restart")
                await until(lambda: len(venue.received) == 3)
    assert len(made) == 1
