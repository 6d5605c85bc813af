"""The command line: help with examples, plain messages, exit codes 0, 1 and 2."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from redis.exceptions import RedisClusterException

from actors.__main__ import main
from actors.cli import control, pairs, partition, session, status, tail
from actors.cli.app import app
from actors.cli.run import LINES
from actors.config import ConfigError, Settings, VenueSettings
from actors.model.events import L1, Book, Cvd, Event, Gap, Status, Trade
from actors.streams.keys import Partition
from actors.venues.base import Item, Subscription

ROOT = Path(__file__).resolve().parents[1]
CANARY = "canary-51be"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Tapeline = Callable[..., Done]


@pytest.fixture
def tapeline(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Tapeline:
    """Run a command in this process, from the project's folder and a clean environment."""

    def run(*arguments: str, **env: str) -> Done:
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv("COLUMNS", "100")
        for name in list(os.environ):
            if name.startswith("TAPELINE_") or name == "REDIS_URL":
                monkeypatch.delenv(name)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["tapeline", *arguments])
        try:
            code = main()
        except SystemExit as e:
            code = int(e.code or 0)
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return run


def commands() -> list[str]:
    return sorted(name for name in app if not name.startswith("-"))


def test_every_command_is_there():
    assert commands() == [
        "bench", "chaos", "completion", "config", "deadletter", "demo", "doctor", "master", "pairs",
        "readers", "reconnect", "resync", "run", "simulate", "status", "supervise", "symbols", "tail",
        "up", "venues",
    ]  # fmt: skip


def test_no_command_shows_help_and_is_wrong_usage(tapeline: Tapeline):
    done = tapeline()
    assert done.returncode == 2
    assert "tapeline COMMAND" in done.stdout


@pytest.mark.parametrize(
    "command", [("demo",), ("run",), ("status",), ("tail",), ("config", "check"), ("master", "tail")]
)
def test_help_has_an_example(tapeline: Tapeline, command: tuple[str, ...]):
    done = tapeline(*command, "--help")
    assert done.returncode == 0
    assert "Example: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("stats",), "Unknown command"),
        (("status", "--jsn"), "Did you mean --json?"),
        (("run", "conector"), 'did you mean "connector"?'),
        (("supervise", "conector"), 'did you mean "connector"?'),
        (("run",), "requires an argument"),
        (("config", "check", "config/dmo.toml"), 'did you mean "config/demo.toml"?'),
        (("bench", "--only", "latencies"), 'did you mean "latency"?'),
        (("bench", "--venue", "okex"), 'there is no venue "okex"'),
        (("readers", "forgt", "x"), 'did you mean "forget"?'),
        (("readers", "forget"), "forget which reader?"),
    ],
)
def test_wrong_usage_is_a_plain_message_and_code_2(tapeline: Tapeline, arguments: tuple[str, ...], says: str):
    done = tapeline(*arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_config_check_says_what_it_found(tapeline: Tapeline):
    done = tapeline("config", "check", "config/demo.toml")
    assert done.returncode == 0
    assert done.stdout.startswith("ok: demo, binance (3 symbols), binance_us (2 symbols), ")


@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("readers",), ("tail", "trade")])
def test_no_redis_is_one_plain_message_and_code_1(tapeline: Tapeline, command: tuple[str, ...]):
    done = tapeline(*command, REDIS_URL=f"redis://:{CANARY}@127.0.0.1:1/0")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert CANARY not in done.stderr + done.stdout


def test_an_actor_with_a_wrong_configuration_ends_with_code_2(tapeline: Tapeline, tmp_path: Path):
    file = tmp_path / "x.toml"
    file.write_text("mode = 1\n")
    done = tapeline("run", "normalizer", "--config", str(file))
    assert done.returncode == 2
    assert "x.toml:1: mode" in done.stderr


def test_a_role_that_idles_is_no_target_of_prometheus(tmp_path: Path):
    file = tmp_path / "x.toml"
    file.write_text('mode = "live"\n[venues.binance]\nsymbols = ["BTC-USDT"]\n')
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TAPELINE_")}
    with subprocess.Popen(
        [sys.executable, "-m", "actors", "supervise", "master", "--config", file],
        cwd=tmp_path,
        env={**kept, "PORT": "7499"},
        stderr=subprocess.PIPE,
    ) as supervisor:
        try:
            assert supervisor.stderr is not None
            assert b"master_idle" in supervisor.stderr.readline()
            assert list((tmp_path / ".tapeline/targets").iterdir()) == []
        finally:
            supervisor.terminate()
            assert supervisor.wait(10) == 0


def test_every_line_of_the_procfile_is_a_role():
    lines = (ROOT / "Procfile").read_text().splitlines()
    assert {*lines} == {f"{role}: exec tapeline supervise {role}" for role in LINES}
    assert len(lines) == len(LINES)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            Trade("binance", "BTC-USDT", None, 1_700_000_000_123_000_000, 5, "5", "1.50", "0.2", "buy"),
            "22:13:20.123 binance    BTC-USDT       trade    buy  0.2 @ 1.50  id 5",
        ),
        (
            L1("binance", "BTC-USDT", None, 0, 5, "1", "2", None, None),
            "00:00:00.000 binance    BTC-USDT       l1       2 @ 1 | empty",
        ),
        (
            Book("binance", "BTC-USDT", None, 0, 5, "delta", 3, "live", "sequence", [("1", "2")], []),
            (
                "00:00:00.000 binance    BTC-USDT       book     delta live, 1 bids (2 @ 1), 0 asks, "
                "proof sequence, seq 5"
            ),
        ),
        (
            Cvd("binance", "BTC-USDT", None, 0, 5, "1.5", "-142500.15"),
            "00:00:00.000 binance    BTC-USDT       cvd      delta_base=1.5 delta_quote=-142500.15",
        ),
        (
            Gap("binance", "BTC-USDT", None, 0, None, "trade", "sequence", "3", "4"),
            "00:00:00.000 binance    BTC-USDT       gap      trade 3 to 4, cause sequence",
        ),
        (
            Status("binance", None, None, 0, None, None, "down", "no route", conn="a.x"),
            "00:00:00.000 binance    -              status   a.x down: no route",
        ),
    ],
)
def test_tail_prints_events_for_people(event: Event, said: str):
    assert tail.text(event) == said  # type: ignore[arg-type]


SETTINGS = Settings(
    mode="live", venues={"binance": VenueSettings(symbols=["BTC-USDT", "ETH-USDT"], shards=2)}
)


def test_tail_follows_only_the_shard_of_a_symbol():
    assert tail.chosen(SETTINGS, "*", "*", "*") == [Partition("binance", 0), Partition("binance", 1)]
    assert len(tail.chosen(SETTINGS, "trade", "bin*", "btc/usdt")) == 1


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("trad", "*", "*"), 'did you mean "trade"?'),
        (("*", "binanc", "*"), 'did you mean "binance"?'),
        (("*", "*", "BTC-USD"), 'did you mean "BTC-USDT"?'),
    ],
)
def test_tail_names_the_nearest_of_what_there_is(words: tuple[str, str, str], near: str):
    with pytest.raises(ConfigError) as caught:
        tail.chosen(SETTINGS, *words)
    assert near in str(caught.value)


def test_no_traceback_and_no_secret_when_redis_refuses_the_password(tapeline: Tapeline, redis_server):
    server = redis_server(password="right")
    url = server.url.replace("right", CANARY)
    done = tapeline("status", "--json", REDIS_URL=url)
    assert done.returncode == 1
    assert "password" in done.stderr
    assert CANARY not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_that_is_away_is_one_plain_message(tapeline: Tapeline, monkeypatch: pytest.MonkeyPatch):
    async def connect(*_: object, **__: object) -> None:
        raise RedisClusterException("no node of the cluster answers")

    monkeypatch.setattr(session, "connect", connect)
    done = tapeline("status")
    assert done.returncode == 1
    assert "no node of the cluster answers" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_says_which_symbol_a_venue_does_not_list():
    told = partition.Told({("trade", "BTC-USDT"): ("live", "")}, {"BTC-USDX": "binance lists no BTC-USDX"})
    venue = VenueSettings(symbols=["BTC-USDT", "BTC-USDX"], channels=["trade"])
    market = status.market("binance", venue, [told], {})
    assert market.channels == {"trade": {"live": 1, "refused": 1}}
    assert (market.state, market.reason) == ("partly live", "binance lists no BTC-USDX")


def test_status_counts_an_acknowledged_channel_as_well_that_may_be_silent_for_ever():
    items = {
        ("liquidation", "BTC-USDT-PERP"): ("subscribed", "acknowledged"),
        ("book", "BTC-USDT-PERP"): ("live", ""),
    }
    venue = VenueSettings(symbols=["BTC-USDT-PERP"], channels=["liquidation", "book"])
    market = status.market("okx", venue, [partition.Told(items)], {})
    assert (market.state, market.channels["liquidation"]) == ("live", {"subscribed": 1})
    assert status.judge_market("okx", market) == []
    items["book", "BTC-USDT-PERP"] = ("subscribed", "acknowledged")  # a book opens with a snapshot
    market = status.market("okx", venue, [partition.Told(items)], {})
    assert (market.state, market.reason) == ("partly live", "acknowledged")
    said = "okx book: 1 of 1 symbols subscribed (BTC-USDT-PERP): acknowledged"
    assert said in status.judge_market("okx", market)


def test_help_names_no_folder_of_this_machine(tapeline: Tapeline):
    for command in ("demo", "up", "simulate"):
        assert str(ROOT) not in tapeline(command, "--help").stdout.replace("\n", "")


def test_status_of_an_empty_redis_says_what_is_missing(tapeline: Tapeline, redis_server):
    url = redis_server().url
    done = tapeline("status", "--json", REDIS_URL=url)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert not report["ok"]
    assert report["venues"]["binance"]["state"] == "down"
    assert "binance.0: nobody holds the lease of normalizer" in report["problems"]
    shown = tapeline("status", REDIS_URL=url)
    assert "not as it should be: no broadcaster runs" in shown.stdout


def test_the_best_prices_that_come_with_the_book_are_shown_as_that(tapeline: Tapeline):
    rows = {row["venue"]: row for row in json.loads(tapeline("venues", "--json").stdout)}
    assert (rows["kraken"]["derived"], rows["binance"]["derived"]) == (["l1"], [])
    [kraken] = [line for line in tapeline("venues", "--markdown").stdout.splitlines() if "| kraken |" in line]
    assert kraken.startswith("| kraken | spot | ● | ● | book | ● |")
    assert "(l1 from book)" in tapeline("venues", COLUMNS="160").stdout


def test_coverage_tells_what_a_venue_does_not_list_from_what_it_did_not_say():
    sources = [("binance", "BTC/USDT"), ("kraken", "BTC/XXX"), ("okx", "BTC/USD")]
    document = {
        "feed": {"name": "BTC/USD"},
        "sources": [{"exchange": exchange, "symbol": symbol} for exchange, symbol in sources],
    }
    feed = msgspec.convert(document, pairs.Feed)
    listed = {"binance": frozenset(("BTC-USDT",)), "kraken": frozenset(("BTC-USD",)), "okx": "okx: HTTP 403"}
    assert pairs.cover(feed, listed) == pairs.Covered(
        "BTC/USD", ["binance BTC/USDT"], ["kraken BTC/XXX"], [], ["okx BTC/USD"]
    )


def test_what_is_polled_cannot_be_subscribed_anew_and_that_is_said_at_once():
    settings = Settings(mode="live", venues={"bitrue": VenueSettings(symbols=["BTC-USDT"])})
    with pytest.raises(ConfigError, match="bitrue's trade is polled by REST: there is no subscription"):
        control._wanted(settings, "bitrue", "BTC-USDT", "trade")
    with pytest.raises(ConfigError, match="its l1 is the top of its book: resync the book"):
        control._wanted(settings, "bitrue", "BTC-USDT", "l1")


def test_a_connection_that_takes_the_place_of_another_renews_what_it_carries():
    item: Item = ("book", "BTC-USD")
    renewal = control._Renewal(item, well=frozenset(("live",)), stays=True, replaced=["a.1", "b.1"])
    told = {"channel": None, "state": "down", "reason": "1000: replaced: a subscription is to end"}
    closed = {conn: Status("bitfinex", None, None, 0, None, **told, conn=conn) for conn in ("a.1", "b.1")}
    for fresh, old in (("a.2", "a.1"), ("b.2", "b.1")):
        renewal.hear((fresh, Subscription("subscribe", [item], "")))
        assert not renewal.done
        renewal.hear(closed[old])
    assert renewal.done
    renewal.hear(Book("bitfinex", "BTC-USD", None, 0, None, "snapshot", 0, "resyncing", "none", [], []))
    assert not renewal.done
