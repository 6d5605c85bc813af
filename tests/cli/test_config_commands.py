"""``tapeline config``: check, plan, schema, init, import, as a person runs them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_rig import Tapeline
from demo_rig import free_offset

from actors.config import load

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "config" / "demo.toml"


def test_check_tells_a_program_every_fault(tapeline: Tapeline, tmp_path: Path):
    file = tmp_path / "x.toml"
    file.write_text('mode = "liv"\n[venues.binanc]\nsymbols = ["BTC-USDT"]\n')
    done = tapeline("config", "check", file, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], len(told["problems"])) == (2, False, 2)
    assert "x.toml:1: mode: must be" in told["problems"][0]
    assert json.loads(tapeline("config", "check", DEMO, "--json").stdout)["ok"]


def test_a_port_of_a_process_metrics_is_refused(tapeline: Tapeline, tmp_path: Path):
    file = tmp_path / "x.toml"
    file.write_text('mode = "live"\n[venues.binance]\nsymbols = ["BTC-USDT"]\n')
    done = tapeline("config", "check", file, TAPELINE_BROADCASTER__PORT="7600")
    assert done.returncode == 2
    assert "broadcaster.port: 7600 is the port of the metrics of connector too: take another" in done.stderr


@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_redis_url_that_cannot_be_used_is_told(tapeline: Tapeline, tmp_path: Path, command: str):
    file = tmp_path / "x.toml"
    file.write_text('mode = "live"\n[venues.binance]\nsymbols = ["BTC-USDT"]\n')
    done = tapeline("config", command, file, REDIS_URL="redis+sentinel://:canary@127.0.0.1")
    said = "tapeline: the Redis URL redis+sentinel://127.0.0.1 cannot be read: check its hosts, ports and"
    assert (done.returncode, done.stderr.strip()) == (2, f"{said} path")


def test_plan_shows_connections_streams_and_ports_without_asking_anybody(tapeline: Tapeline, tmp_path: Path):
    file = tmp_path / "x.toml"
    file.write_text(
        """mode = "live"
[venues.binance]
symbols = ["BTC-USDT", "ETH-USDT", "SOL-USDT"]
channels = ["trade", "book"]
only.book = ["BTC-USDT"]
symbols_per_connection = 1
redundancy = 2
[forwarder]
demo = true
"""
    )
    made = json.loads(tapeline("config", "plan", file, "--json", TAPELINE_PORT_OFFSET="100").stdout)
    legs = [
        (row["partition"], row["leg"], row["connections"], row["subscriptions"]) for row in made["sockets"]
    ]
    assert legs == [("binance.0", "a", 3, 4), ("binance.0", "b", 3, 4)]
    assert made["sockets"][0]["address"] == "wss://stream.binance.com:9443/stream"
    assert made["sockets"][0]["ready_s"] > 0
    assert [kept["key"] for kept in made["streams"]][:2] == ["tl:{binance.0}:raw", "tl:{binance.0}:events"]
    assert made["most_stream_bytes"] == 4 * (256 << 20)
    assert made["ports"]["broadcaster.port"] == "127.0.0.1:9101"
    assert made["ports"]["metrics of connector"] == "127.0.0.1:7700"
    assert made["forwards_to"] == "standard output (1 sockets)"
    shown = tapeline("config", "plan", file).stdout
    assert "wss://stream.binance.com:9443/stream" in shown
    assert "tl:{binance.0}:events" in shown


def test_plan_counts_what_every_adapter_would_open(tapeline: Tapeline, tmp_path: Path):
    from actors.venues import VENUES  # noqa: PLC0415 - only this test needs them

    for name, venue in VENUES.items():
        symbol = "BTC-USDT" if "spot" in venue.markets else "BTC-USDT-PERP"
        file = tmp_path / f"{name}.toml"
        file.write_text(f'mode = "live"\n[venues.{name}]\nsymbols = ["{symbol}"]\n')
        done = tapeline("config", "plan", file, "--json")
        assert done.returncode == 0, (name, done.stderr)
        assert json.loads(done.stdout)["sockets"][0]["connections"] >= 1


def test_schema_is_the_one_in_the_repository(tapeline: Tapeline):
    kept = (ROOT / "docs/schemas/tapeline.schema.json").read_text(encoding="utf-8")
    assert tapeline("config", "schema").stdout == kept


INIT = ("config", "init", "mine.toml", "--venue", "binance", "--venue", "kraken", "--symbol", "btc/usdt")


def test_init_writes_a_commented_file_from_flags(tapeline: Tapeline, tmp_path: Path):
    done = tapeline(*INIT, "--no-books", "--redundancy", "2", "--redis-url", "redis://10.0.0.5:6379/0")
    assert (done.returncode, done.stdout) == (0, "wrote mine.toml\n")
    text = (tmp_path / "mine.toml").read_text()
    assert "# BTC-USDT spot, BTC-USDT-PERP perpetual" in text
    assert "# shards = 2" in text
    settings = load(tmp_path / "mine.toml", {})
    assert [*settings.venues] == ["binance", "kraken"]
    assert settings.venues["binance"].symbols == ["BTC-USDT"]
    assert "book" not in (settings.venues["binance"].channels or ())
    assert settings.venues["kraken"].redundancy == 2
    assert tapeline("config", "check", "mine.toml").returncode == 0
    assert tapeline("config", "check", "--config", "mine.toml").returncode == 0  # as all commands have it


def test_init_for_the_simulator_reaches_no_real_venue(tapeline: Tapeline, tmp_path: Path):
    tapeline(*INIT, "--demo")
    settings = load(tmp_path / "mine.toml", {})
    assert settings.mode == "demo"
    assert settings.venues["binance"].ws_url == "ws://127.0.0.1:9700/binance"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("config", "init"), "there is no terminal to ask at"),
        (("config", "init", "x.toml", "--venue", "binance"), "--symbol: say what to follow"),
        (("config", "init", "x.toml", "--venue", "binanc", "--symbol", "A/B"), 'did you mean "binance"?'),
        (
            ("config", "init", "x.toml", "--venue", "binance", "--symbol", "BTCUSDT"),
            "is no symbol",
        ),
        ((*INIT, "--master", "ws://10.0.0.5:80"), "forwarder: needs a key: set key_file"),
        ((*INIT, "--redundancy", "3"), "redundancy: must be at most 2, not 3"),
        (("config", "import", "none.json"), "none.json: no such file"),
    ],
)
def test_what_cannot_be_written_is_told_and_leaves_nothing(
    tapeline: Tapeline, tmp_path: Path, arguments: tuple[str, ...], says: str
):
    done = tapeline(*arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_init_replaces_nothing_unless_told(tapeline: Tapeline, tmp_path: Path):
    (tmp_path / "mine.toml").write_text("mine")
    assert "is there already" in tapeline(*INIT).stderr
    assert (tmp_path / "mine.toml").read_text() == "mine"
    assert tapeline(*INIT, "--force").returncode == 0


def test_init_asks_a_person_for_what_is_missing(
    tapeline: Tapeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    answers: Iterator[str] = iter(
        ["binance, okx", "BTC/USDT ETH/USDT", "n", "", "ws://10.0.0.5:8080", "master.key"]
    )
    (tmp_path / "master.key").write_text("k")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda *_: next(answers))
    done = tapeline("config", "init", "mine.toml")
    assert done.returncode == 0, done.stderr
    settings = load(tmp_path / "mine.toml", {})
    assert settings.venues["okx"].symbols == ["BTC-USDT", "ETH-USDT"]
    assert settings.forwarder.url == "ws://10.0.0.5:8080"
    assert settings.forwarder_key() == "k"


def test_import_says_what_it_wrote_and_what_it_passed_over(tapeline: Tapeline, tmp_path: Path):
    pairs = {"trades": ["BTC/USDT"], "orderbooks": []}
    exchanges = [{"name": name, "enabled": True, "pairs": pairs} for name in ("binance", "gateo")]
    master = {"url": "ws://10.0.0.5:80", "connections": 1, "key": "canary-11"}
    (tmp_path / "config.json").write_text(json.dumps({"master": master, "exchanges": exchanges}))
    done = tapeline("config", "import", "config.json")
    assert done.stdout == "wrote config.toml and config.key (the key, for you only)\n"
    assert 'did you mean "gateio"?' in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert tapeline("config", "check", "config.toml").stdout == "ok: live, binance (1 symbol)\n"
    assert tapeline("config", "check", "config.json").stdout == "ok: live, binance (1 symbol)\n"


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ("http://[::1", "has a broken host: write an IPv6 address as [::1]"),
        ("http://127.0.0.1:99999/feeds.json", "has no port that can be"),
        ("deep.json", "maximum recursion depth exceeded"),
    ],
)
def test_feeds_that_cannot_be_read_are_told(tapeline: Tapeline, tmp_path: Path, feeds: str, says: str):
    (tmp_path / "deep.json").write_text(
        '[{"feed": {"name": "x"}, "y": ' + "[" * 100_000 + "]" * 100_000 + "}]"
    )
    done = tapeline("pairs", "mexc", "--feeds", feeds)
    assert (done.returncode, f"--feeds {feeds}" in done.stderr, says in done.stderr) == (2, True, True)


@pytest.mark.parametrize("host", ["nonsense host", "203.0.113.9"])
def test_an_address_that_is_not_ours_is_told(tapeline: Tapeline, tmp_path: Path, host: str):
    (tmp_path / "x.toml").write_text('mode = "live"\n[venues.binance]\nsymbols = ["BTC-USDT"]\n')
    env = {"TAPELINE_BROADCASTER__HOST": host, "TAPELINE_PORT_OFFSET": str(free_offset())}
    done = tapeline("up", "--config", tmp_path / "x.toml", **env)
    assert done.returncode == 2
    assert "tapeline: broadcaster.port: nothing can listen on port " in done.stderr
    assert f" of {host} (" in done.stderr
    assert "correct broadcaster.host" in done.stderr


@pytest.mark.parametrize("name", [".tapeline", ".tapeline/live", ".tapeline/running.json/x"])
def test_a_folder_that_cannot_be_written_is_told(
    tapeline: Tapeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setattr("actors.runtime.log.setup", lambda *_: None)  # of this process, for good
    (tmp_path / "x.toml").write_text('mode = "live"\n[venues.binance]\nsymbols = ["BTC-USDT"]\n')
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    done = tapeline("up", "--config", tmp_path / "x.toml", TAPELINE_PORT_OFFSET=str(free_offset()))
    assert done.returncode == 2
    assert " cannot be written (" in done.stderr
    assert "start in a folder of yours" in done.stderr
