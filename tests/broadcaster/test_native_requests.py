"""What clients of the native protocol may ask, and what becomes of those who ask for something else."""

import json
from fnmatch import fnmatchcase
from typing import Any

import anyio
import pytest
from broadcaster_rig import SYMBOLS, heard, running, until
from native_rig import NativeClient, dial
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from actors.dialects import native
from actors.model.events import SCHEMA_VERSION


async def test_hello_says_what_there_is():
    async with running(heartbeat_s=7) as r:
        client = await dial(r.url)
        hello = client.messages[0]
        assert (hello["protocol"], hello["schema"], hello["heartbeat_s"]) == (1, SCHEMA_VERSION, 7)
        assert hello["symbols"] == {"binance": SYMBOLS}
        assert hello["streams"] == ["binance.0/events", "binance.0/books", "binance.0/flow"]
        assert hello["kinds"] == list(native.KINDS)
        assert hello["limits"]["subscriptions"] == 64
        assert (await client.ask(op="ping", id=3))["id"] == 3
        assert "id" not in await client.ask(op="ping")
        assert await client.ask(op="list") == {"op": "subscriptions", "subscriptions": []}
        await client.connection.close()


BAD: list[tuple[str, str, str]] = [
    ("{", "bad_json", "one JSON object"),
    ("", "bad_json", "one JSON object"),
    ("[" * 5000, "bad_request", "Expected `object`"),
    ('{"op":"ping","x":' + "[" * 5000, "bad_json", "one JSON object"),
    ('{"op":"ping","id":' + "[" * 5000, "bad_json", "one JSON object"),
    ('"hello"', "bad_request", "Expected `object`"),
    ("[]", "bad_request", "Expected `object`"),
    ("{}", "bad_request", "missing required field `op`"),
    ('{"op":1}', "bad_request", "$.op"),
    ('{"op":"subscrib","id":4}', "unknown_op", "nearest is 'subscribe'"),
    ('{"op":"subscribe"}', "bad_request", "`id`"),
    ('{"op":"subscribe","id":4,"kind":["trade"]}', "bad_request", "`kind`"),
    ('{"op":"subscribe","id":4,"kinds":[]}', "bad_request", "$.kinds"),
    ('{"op":"subscribe","id":4,"kinds":["trades"]}', "unknown_kind", "nearest is 'trade'"),
    ('{"op":"subscribe","id":4,"kinds":["book_delta"]}', "unknown_kind", "nearest is 'book'"),
    ('{"op":"subscribe","id":4,"venues":["binanse"]}', "unknown_venue", "nearest is 'binance'"),
    ('{"op":"subscribe","id":4,"symbols":["BTC-USDC"]}', "unknown_symbol", "nearest is 'BTC-USDT'"),
    ('{"op":"subscribe","id":4,"symbols":["DOGE-*"]}', "unknown_symbol", "BTC-USDT, ETH-USDT"),
    ('{"op":"subscribe","id":4,"slow":"skipp"}', "unknown_slow", "nearest is 'skip'"),
    ('{"op":"subscribe","id":4,"depth":0}', "bad_request", "$.depth"),
    ('{"op":"subscribe","id":4,"interval_ms":1}', "bad_request", "$.interval_ms"),
    ('{"op":"subscribe","id":-1}', "bad_request", "$.id"),
    ('{"op":"subscribe","id":4,"cursors":{}}', "bad_request", "takes no cursors"),
    ('{"op":"resume","id":4}', "bad_request", "needs cursors"),
    ('{"op":"resume","id":4,"cursors":{"okx.0/events":"1-1"}}', "bad_cursor", "okx.0/events"),
    ('{"op":"resume","id":4,"cursors":{"binance.0/events":"1"}}', "bad_cursor", "<epoch>-<k>"),
    ('{"op":"resume","id":4,"cursors":{"binance.0/events":"1-x"}}', "bad_cursor", "<epoch>-<k>"),
    ('{"op":"resume","id":4,"cursors":{"binance.0/raw":"1-1"}}', "bad_cursor", "binance.0/raw"),
    ('{"op":"resume","id":4,"cursors":{"binance.0/events":"1--2"}}', "bad_cursor", "no such place"),
    (f'{{"op":"resume","id":4,"cursors":{{"binance.0/events":"{2**63}-1"}}}}', "bad_cursor", "no such place"),
    ('{"op":"unsubscribe","id":4}', "unknown_id", "no subscription 4"),
]


@pytest.mark.parametrize(("text", "code", "says"), BAD, ids=[f"{i}-{b[1]}" for i, b in enumerate(BAD)])
async def test_a_request_that_cannot_be_followed_is_answered_with_its_code(text: str, code: str, says: str):
    async with running() as r:
        client, good = await dial(r.url), await dial(r.url)
        await good.subscribe(kinds=["trade"])
        await good.until("live")
        await client.connection.send(text)
        error = await client.next()
        assert (error["op"], error["code"]) == ("error", code)
        assert says in error["message"]
        assert error.get("id") == (json.loads(text)["id"] if code != "bad_json" and '"id":' in text else None)
        assert r.count("tapeline_request_errors_total", reason=code) == 1
        await r.tell(r.script.entry("events", r.script.trade()))
        await good.events(1)
        assert (await client.ask(op="ping"))["op"] == "pong"  # it may go on
        await client.connection.close()
        await good.connection.close()


async def test_a_number_serves_once_and_subscriptions_are_capped():
    async with running(max_subscriptions=2) as r:
        client = await dial(r.url)
        await client.subscribe(id=1)
        assert (await client.ask(op="subscribe", id=1))["code"] == "duplicate_id"
        await client.subscribe(id=2)
        assert (await client.ask(op="subscribe", id=3))["code"] == "too_many_subscriptions"
        await client.ask(op="unsubscribe", id=2)
        await client.subscribe(id=3)
        await client.connection.close()


async def code_of(client: NativeClient) -> tuple[int, str]:
    with anyio.fail_after(20):
        await client.pump()
    assert client.connection.close_code is not None
    return client.connection.close_code, client.connection.close_reason or ""


@pytest.mark.parametrize(
    ("message", "times", "code", "reason"),
    [("x" * 20_000, 1, 1009, "too_big"), (b"\0", 1, 1003, "binary"), ('{"op":"ping"}', 50, 1008, "rate")],
    ids=["too large", "binary", "too fast"],
)
async def test_who_sends_too_much_is_closed_and_counted(message: Any, times: int, code: int, reason: str):
    async with running() as r:
        client, good = await dial(r.url), await dial(r.url)
        for _ in range(times):
            await client.connection.send(message)
        assert (await code_of(client))[0] == code
        await until(lambda: r.refused(reason) == 1)
        await until(lambda: len(r.native.peers) == 1)
        assert (await good.ask(op="ping"))["op"] == "pong"
        await good.connection.close()


async def test_a_browser_shows_its_token_as_a_subprotocol():
    token = "s3cret/ü"
    offers: Any = ["tapeline", "bearer.s3cret%2F%C3%BC"]
    async with running(token=SecretStr(token)) as r:
        for path in ("/v1", "/"):
            for wrong in (["tapeline"], ["tapeline", "bearer.x"], offers[1:], [*offers, "bearer.x"]):
                with pytest.raises(InvalidStatus) as refused:
                    await connect(r.url + path, proxy=None, subprotocols=wrong)
                assert refused.value.response.status_code == 401
        async with connect(r.url, proxy=None, subprotocols=offers) as barter:
            assert barter.subprotocol == "tapeline"
            assert (await heard(barter))["type"] == "welcome"
        client = await dial(r.url, subprotocols=offers)
        assert client.connection.subprotocol == "tapeline"
        assert token not in str(client.messages)
        await client.connection.close()
        client = await dial(
            r.url, additional_headers={"Authorization": "Bearer s3cret/ü".encode().decode("latin-1")}
        )
        await client.connection.close()


async def test_a_query_is_refused_where_subscribe_is_meant():
    async with running() as r:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{r.url}/v1?kind=trade", proxy=None)
        assert refused.value.response.status_code == 400
        async with r.client("/v12"):  # any other path is Barter's
            pass


def test_symbols_cost_each_client_little_however_many_it_names(monkeypatch: pytest.MonkeyPatch):
    compared = 0

    def counted(symbol: str, glob: str) -> bool:
        nonlocal compared
        compared += 1
        return fnmatchcase(symbol, glob)

    monkeypatch.setattr(native, "fnmatchcase", counted)
    symbols = [f"S{n}-USDT" for n in range(300)]
    there = {f"v{n}": symbols for n in range(14)}
    named = native.Subscribe(op="subscribe", id=1, symbols=symbols)
    assert native.choose(named, there).symbols == there
    assert compared == 0
    globs = native.Subscribe(op="subscribe", id=1, symbols=[f"{symbol[:-1]}?" for symbol in symbols])
    selector = native.choose(globs, there).selector
    most = len(symbols) ** 2 + len(symbols)  # once to see that each matches, once to see what does
    assert compared <= most
    for venue in there:
        assert all(selector.passes("events", native.Topic("trade", venue, symbol)) for symbol in symbols)
    assert compared <= most
    assert selector == native.choose(globs, there).selector  # so they share a group


def test_globs_are_over_canonical_symbols_and_every_one_must_match():
    there = {"binance": ["BTC-USDT", "ETH-USDT"], "okx": ["BTC-USDT", "BTC-USDT-PERP"]}

    def chosen(**fields: Any) -> dict[str, list[str]]:
        request = native.parse(json.dumps({"op": "subscribe", "id": 1, **fields}))
        assert isinstance(request, native.Subscribe)
        return native.choose(request, there).symbols

    assert chosen() == there
    assert chosen(symbols=["btc/usdt"]) == {"binance": ["BTC-USDT"], "okx": ["BTC-USDT"]}
    assert chosen(symbols=["*-PERP"]) == {"okx": ["BTC-USDT-PERP"]}
    assert chosen(symbols=["?TH-*", "*-PERP"]) == {"binance": ["ETH-USDT"], "okx": ["BTC-USDT-PERP"]}
    with pytest.raises(native.Refusal, match="ETH"):
        chosen(symbols=["*-PERP", "ETH-*"], venues=["okx"])


def test_every_kind_that_is_delivered_stands_in_a_stream_and_no_other_kind_is_taken():
    request = native.parse('{"op":"subscribe","id":1}')
    assert isinstance(request, native.Subscribe)
    selector = native.choose(request, {"binance": ["BTC-USDT"]}).selector
    for stream, kinds in native.OF_STREAM.items():
        for kind in (*native.KINDS, "tick", "instrument", "book_delta", "book_snapshot"):
            topic = native.Topic(kind, "binance", "BTC-USDT")
            assert selector.passes(stream, topic) == (kind in kinds)
