"""The demo as a newcomer has it: data flow, commands show them, Ctrl-C and kill -9 leave nothing behind."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from demo_rig import BIN, FEW, METRICS, ROOT, Demo, await_true, demo
from websockets.sync.client import connect

from actors.config import Settings, VenueSettings, load
from actors.demo import Life, hints
from actors.model.events import Status, Trade
from actors.streams.keys import Keys

SECOND = 1_000_000_000


def trade(symbol: str, at_ms: int) -> Trade:
    return Trade("binance", symbol, None, at_ms * 1_000_000, None, "1", "1", "1", "buy")


def status(state: str, reason: str = "", symbol: str | None = None, at_ms: int = 0) -> Status:
    channel = None if symbol is None else "trade"
    return Status("binance", symbol, None, at_ms * 1_000_000, None, channel, state, reason)  # type: ignore[arg-type]


def test_a_venue_is_live_once_every_symbol_is():
    life = Life("binance", ["BTC-USDT", "ETH-USDT"], 0)
    life.take(status("wanted", symbol="BTC-USDT", at_ms=1000))
    life.take(trade("BTC-USDT", 1240))
    assert life.news(1300 * 1_000_000, 1) is None
    life.take(status("live", symbol="ETH-USDT", at_ms=1300))
    assert life.news(1300 * 1_000_000, 1) == "binance live: 2 symbols, first trade after 240 ms"
    assert life.news(1400 * 1_000_000, 1) is None  # said once


def test_a_venue_is_live_without_its_quiet_and_refused_symbols():
    life = Life("binance", ["BTC-USDT", "ETH-USDT", "XXX-USDT"], 0)
    life.take(status("refused", "no such symbol, nearest XRP-USDT", symbol="XXX-USDT", at_ms=10))
    life.take(trade("BTC-USDT", 30))
    assert life.news(5 * SECOND, 5) == (
        "binance live: 1 of 3 symbols, first trade after 20 ms; "
        "XXX-USDT refused: no such symbol, nearest XRP-USDT"
    )


def test_a_venue_that_fails_is_down_with_its_reason_and_comes_back():
    life = Life("binance", ["BTC-USDT"], 0)
    life.take(status("down", "no route to host", at_ms=10))
    assert life.news(1 * SECOND, 5) is None  # it may be a hiccup
    life.take(status("down", "still no route to host", at_ms=2000))
    assert life.news(3 * SECOND, 7) == "binance down: still no route to host"
    life.take(trade("BTC-USDT", 9000))
    assert str(life.news(9 * SECOND, 9)).startswith("binance live: 1 symbol")


def test_a_venue_whose_every_item_is_live_still_wants_its_first_trade():
    life = Life("binance", ["BTC-USDT"], 0)
    life.take(status("live", symbol="BTC-USDT", at_ms=10))
    assert life.wants_trades
    life.take(trade("BTC-USDT", 30))
    assert not life.wants_trades


def test_a_venue_that_an_earlier_run_closed_is_not_down_for_that():
    life = Life("binance", ["BTC-USDT"], 10 * SECOND)
    life.take(status("down", "1001: shutdown", at_ms=2000))
    assert life.news(17 * SECOND, 7) is None


def test_a_venue_that_comes_back_is_live_again_and_a_hiccup_is_no_news():
    life = Life("binance", ["BTC-USDT"], 0)
    life.take(status("wanted", symbol="BTC-USDT", at_ms=10))
    life.take(trade("BTC-USDT", 30))
    assert life.news(SECOND, 1) == "binance live: 1 symbol, first trade after 20 ms"
    life.take(status("down", "1001: no reason given", at_ms=5000))
    assert life.news(6 * SECOND, 6) is None
    life.take(status("live", symbol="BTC-USDT", at_ms=6500))
    assert life.news(9 * SECOND, 9) is None
    for at_s in (10, 20):
        life.take(status("down", "1001: no reason given", at_ms=at_s * 1000))
        assert life.news((at_s + 3) * SECOND, 9) == "binance down: 1001: no reason given"
        life.take(trade("BTC-USDT", at_s * 1000 + 4000))
        assert life.news((at_s + 4) * SECOND, 9) == "binance live again: 1 symbol"
        assert life.news((at_s + 5) * SECOND, 9) is None


def test_a_venue_that_says_nothing_is_down():
    life = Life("binance", ["BTC-USDT"], 0)
    assert life.news(0, 7) is None
    assert str(life.news(0, 9)).startswith("binance down: no trade yet")


def test_a_venue_without_trades_is_live_by_what_it_has():
    life = Life("bitfinex", ["BTC-USD"], 0, trades=False)
    assert life.news(0, 7) is None
    assert str(life.news(0, 9)).startswith("bitfinex down: no data yet")
    life.take(status("wanted", symbol="BTC-USD", at_ms=10))
    life.take(Status("bitfinex", "BTC-USD", None, 73_000_000, None, "open_interest", "live", ""))
    assert not life.wants_trades
    assert life.news(SECOND, 10) == "bitfinex live: 1 symbol, first open interest after 63 ms"


def test_a_venue_that_is_live_but_quiet_is_not_down():
    life = Life("kraken", ["BTC-USD"], 0)
    life.take(status("live", symbol="BTC-USD", at_ms=10))
    assert life.news(7 * SECOND, 7) is None
    assert life.news(9 * SECOND, 9) == "kraken live: 1 symbol, no trade yet"
    life.take(trade("BTC-USD", 12_000))
    assert str(life.news(12 * SECOND, 12)).startswith("kraken live: 1 symbol, first trade after ")


@pytest.mark.parametrize("redis_cli", [True, False])
def test_hints_name_commands_that_are_there(*, redis_cli: bool):
    settings = Settings(mode="live", venues={"binance": VenueSettings(symbols=["BTC-USDT"])})
    said = hints(settings, Keys(), redis_cli)
    assert ("redis-cli -p 6391 psubscribe 'md.trade.*'" in said) is redis_cli
    assert ("tapeline tail trade" in said) is not redis_cli
    assert "ws://127.0.0.1:9001" in said


def test_hints_of_a_master_alone_name_no_venue():
    off = {"binance": VenueSettings(symbols=["BTC-USDT"], enabled=False)}
    assert "Two commands to try" in hints(Settings(mode="live", venues=off), Keys(), redis_cli=True)


def test_hints_name_a_symbol_that_the_venue_lists():
    settings = Settings(mode="live", venues={"binance": VenueSettings(symbols=["X-USDT", "BTC-USDT"])})
    assert "'tl:{binance.0}:book:BTC-USDT'" in hints(settings, Keys(), True, {"X-USDT"})


@pytest.mark.parametrize(
    ("instances", "says"),
    [
        ("normaliser=2", 'there is no role "normaliser"; did you mean "normalizer"?'),
        ("normalizer", "-c takes role=number"),
        ("normalizer=2,redis=2", "there can be only one redis"),
    ],
)
def test_instances_that_cannot_be_are_refused_at_once(tmp_path: Path, instances: str, says: str):
    with demo(tmp_path) as made:
        made.start("-c", instances)
        assert made.process.wait(10) == 2
        assert says in made.said()


def test_a_taken_port_of_redis_is_one_message_before_anything_starts(tmp_path: Path):
    with demo(tmp_path) as made, socket.socket() as other:
        other.bind(("127.0.0.1", 6391 + made.offset))
        other.listen()
        made.start()
        assert made.process.wait(10) == 2
        assert re.fullmatch(r"tapeline: port \d+ of 127\.0\.0\.1 is in use .*redis\.port.*\n", made.said())


def test_a_venue_out_of_reach_is_down_with_its_reason_and_comes_back_by_itself(tmp_path: Path):
    config = tmp_path / "tapeline.toml"
    config.write_text(
        'mode = "live"\n[venues.binance]\nsymbols = ["BTC-USDT"]\n'
        'ws_url = "ws://127.0.0.1:9700/binance"\nrest_url = "http://127.0.0.1:9700/binance"\n'
    )
    with demo(tmp_path) as made:
        made.start("--config", str(config), command="up")
        why = f"no connection to 127.0.0.1:{9700 + made.offset}: refused"
        await_true("the guide says so", lambda: f"binance down: instruments: {why}" in made.said(), 30)
        await_true("the log says so", lambda: '"event":"no_instruments"' in made.said())
        venue_up = b'tapeline_venue_up{venue="binance"}'
        assert venue_up + b" 0.0" in made.get("/metrics", METRICS["connector"])
        look = [BIN / "tapeline", "status", "--json", "--config", config]
        status = subprocess.run(look, env=made.env, capture_output=True, check=False)
        assert status.returncode == 1
        report = json.loads(status.stdout)["venues"]["binance"]
        assert (report["state"], why in report["reason"]) == ("down", True)

        simulate = subprocess.Popen(
            [BIN / "tapeline", "simulate", "--port", "9700"],
            env=made.env,
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        try:
            await_true("it is live", lambda: "binance live: 1 symbol" in made.said(), 40)
            await_true(
                "metrics agree", lambda: venue_up + b" 1.0" in made.get("/metrics", METRICS["connector"])
            )
        finally:
            simulate.kill()
            simulate.wait()
        assert made.interrupt() == 0
        assert made.processes() == {}


def test_a_venue_that_fails_at_start_does_not_stop_the_others(tmp_path: Path):
    config = tmp_path / "tapeline.toml"
    config.write_text(
        """
mode = "demo"

[venues.binance]
symbols = ["BTC-USDT", "NONE-USDT"]
ws_url = "ws://127.0.0.1:9700/binance"
rest_url = "http://127.0.0.1:9700/binance"

[venues.kraken]
symbols = ["BTC-USD"]
ws_url = "ws://127.0.0.1:9700/kraken"
rest_url = "http://127.0.0.1:1"
"""
    )
    with demo(tmp_path) as made:
        made.start("--config", str(config)).live()
        assert "kraken down: instruments: no connection to 127.0.0.1:1: refused" in made.said()
        refused = r"NONE-USDT refused: binance lists no NONE-USDT"
        assert re.search(rf"binance live: 1 of 2 symbols, first trade .*; {refused}", made.said())
        assert made.interrupt() == 0


CONFIGURED = load(ROOT / "config/demo.toml", {}).venues


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest):
    with demo(tmp_path, request.param) as made:
        yield made.start().live()


def last_k(running: Demo, stream: str) -> int:
    with running.client() as client:
        found = client.xrevrange(f"tl:{{binance.0}}:{stream}", count=1)
        return int(found[0][0].partition("-")[2]) if found else 0


@pytest.mark.parametrize("running", [None], indirect=True, ids=["every venue"])
def test_a_newcomer_sees_data_everywhere_and_ctrl_c_leaves_nothing(running: Demo):
    for venue, settings in CONFIGURED.items():  # told of fewer where the rest took its time, and then of all
        number = len(settings.symbols)
        live = f"{venue} live: {number} symbol{'s' * (number > 1)}, first trade after "
        await_true(live, lambda live=live: live in running.said())

    def all_live() -> dict:
        report = running.status()
        return report if report["ok"] else {}

    report = await_true("all that is configured is live", all_live)
    with connect(f"ws://127.0.0.1:{9001 + running.offset}", proxy=None) as client:
        assert json.loads(client.recv(30))["type"] == "welcome"
        kinds: set[str] = set()
        while not kinds >= {"trade", "order_book_l1", "Snapshot", "Update", "cumulative_volume_delta"}:
            message = json.loads(client.recv(30))
            kinds.add(message["kind"])
            if message["kind"] == "order_book_l2":
                kinds |= {*message["data"]}

    with running.client() as client:
        book = json.loads(client.get("tl:{binance.0}:book:BTC-USDT"))
        assert (book["state"], len(book["bids"]), len(book["asks"])) == ("live", 20, 20)
        assert json.loads(client.xrevrange("tl:{binance.0}:books", count=1)[0][1]["d"].splitlines()[0])[
            "kind"
        ]

    assert {i["role"] for i in report["instances"]} == {
        "connector",
        "normalizer",
        "bookbuilder",
        "analytics",
        "broadcaster",
        "forwarder",
    }
    assert {name: venue["books"] for name, venue in report["venues"].items()} == {
        name: {"live": len(venue.symbols)} for name, venue in CONFIGURED.items()
    }
    assert "all that is configured is live" in running.tapeline("status").stdout
    assert "bookbuilder" in running.tapeline("readers").stdout

    for role, port in METRICS.items():
        assert b"tapeline_loop_lag_seconds" in running.get("/metrics", port), role
        assert (running.folder / f".tapeline/targets/{role}.1.json").exists()
    assert json.loads(running.get("/healthz"))

    began = time.monotonic()
    assert running.interrupt() == 0
    assert time.monotonic() - began < 7.0
    assert running.said().rstrip().endswith("all stopped")
    assert running.processes() == {}
    assert list((running.folder / ".tapeline/targets").iterdir()) == []
    assert "Traceback" not in running.said()


@pytest.mark.parametrize("running", [FEW], indirect=True)
def test_a_killed_actor_comes_back_and_a_killed_honcho_or_guide_ends_all(running: Demo):
    for role in ("connector", "normalizer", "bookbuilder", "analytics", "broadcaster"):
        before = last_k(running, "books")
        summed = last_k(running, "flow")
        old = running.pid(f"actors run {role}")
        os.kill(old, signal.SIGKILL)
        await_true(f"{role} is back", lambda old=old, role=role: running.pid(f"actors run {role}") != old)
        await_true("books go on", lambda before=before: last_k(running, "books") > before, 10)
        await_true("sums go on", lambda summed=summed: last_k(running, "flow") > summed, 10)

    def books_live() -> bool:
        with running.client() as client:
            texts = client.mget([f"tl:{{binance.0}}:book:{s}-USDT" for s in ("BTC", "ETH", "SOL")])
            return all(text and json.loads(text)["state"] == "live" for text in texts)

    await_true("all books are live again", books_live, 15)
    events = last_k(running, "events")
    honcho = next(
        pid
        for pid, command in running.processes().items()
        if "honcho start" in command and f"/{running.process.pid}/" in f"/{parent(pid)}/"
    )
    os.kill(honcho, signal.SIGKILL)
    await_true("nothing is left", lambda: not running.processes(), 8)
    running.start().live()
    assert last_k(running, "events") > events
    running.process.kill()  # what all of it hangs on
    running.process.wait()
    await_true("nothing is left", lambda: not running.processes(), 8)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
