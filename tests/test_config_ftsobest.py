"""FTSOBest's config.json, unchanged: what it stands for, what is passed over, what is refused."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from actors.cli.write import import_file
from actors.config import ConfigError, Settings, load
from actors.config.ftsobest import OURS, lines_of
from actors.config.reader import read
from actors.venues import VENUES

CANARY = "canary-4c1d"


def exchange(name: str = "binance", trades: Any = ("BTC/USDT",), books: Any = (), **more: Any) -> Any:
    return {
        "name": name,
        "enabled": True,
        "pairs": {"trades": list(trades), "orderbooks": list(books)},
        "chunking": {"trades_per_connection": 10, "orderbooks_per_connection": 1},
    } | more


def config(*exchanges: Any, **more: Any) -> dict[str, Any]:
    master = {"url": "ws://10.0.0.5:8080/ws", "connections": 12, "key": CANARY}
    return {"master": master, "exchanges": list(exchanges or [exchange()])} | more


def written(tmp_path: Path, document: Any) -> Path:
    file = tmp_path / "config.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document, indent=2))
    return file


def loaded(tmp_path: Path, document: Any, **env: str) -> Settings:
    return load(written(tmp_path, document), env)


def notes(tmp_path: Path, document: Any) -> list[str]:
    return [note.replace(f"{tmp_path}/", "") for note in read(written(tmp_path, document), {}).notes]


def faults(tmp_path: Path, document: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, document)
    assert CANARY not in str(caught.value)
    return [line.replace(f"{tmp_path}/", "") for line in str(caught.value).splitlines()]


def test_the_master_is_forwarded_to_as_before(tmp_path: Path):
    settings = loaded(tmp_path, config(debug={"raw": True, "log": True}))
    forwarder = settings.forwarder
    assert (settings.mode, forwarder.active, forwarder.protocol) == ("live", True, "ftsobest")
    assert (forwarder.url, forwarder.connections) == ("ws://10.0.0.5:8080/ws", 12)
    assert settings.forwarder_key() == CANARY
    assert (forwarder.demo, forwarder.debug_log) == (False, True)
    assert settings.secrets() == [CANARY]
    assert CANARY not in repr(settings)


def test_pairs_chunking_and_books_are_taken(tmp_path: Path):
    books = {"depth": 5, "update_interval_ms": 250}
    settings = loaded(
        tmp_path, config(exchange("binance", ["BTC/USDT", "eth/usdt"], ["BTC/USDT"], orderbook=books))
    )
    venue, wanted = settings.venues["binance"], settings.forwarder.venues["binance"]
    assert venue.symbols == ["BTC-USDT", "ETH-USDT"]
    assert venue.channels == ["trade", "book"]
    assert venue.only == {"book": ["BTC-USDT"]}
    assert venue.symbols_per_connection == 10
    assert (wanted.trades, wanted.books, wanted.tickers) == (["BTC-USDT", "ETH-USDT"], ["BTC-USDT"], [])
    assert (wanted.depth, wanted.update_interval_ms) == (5, 250)


def test_books_have_the_predecessors_defaults(tmp_path: Path):
    wanted = loaded(tmp_path, config(exchange(orderbook=None))).forwarder.venues["binance"]
    assert (wanted.depth, wanted.update_interval_ms) == (20, 1000)


def test_its_names_of_venues_become_ours(tmp_path: Path):
    settings = loaded(tmp_path, config(exchange("kraken"), exchange("okx")))
    assert [*settings.venues] == ["kraken", "okx"]


def test_two_blocks_of_one_exchange_are_taken_together(tmp_path: Path):
    both = config(exchange(trades=["BTC/USDT"]), exchange(trades=["ETH/USDT"], books=["BTC/USDT"]))
    settings = loaded(tmp_path, both)
    assert settings.venues["binance"].symbols == ["BTC-USDT", "ETH-USDT"]
    assert settings.venues["binance"].only == {"book": ["BTC-USDT"]}
    assert any('"binance" is named twice' in note for note in notes(tmp_path, both))


def test_demo_needs_neither_url_nor_key(tmp_path: Path):
    document = config()
    document["master"] |= {"demo": True, "url": "", "key": ""}
    forwarder = loaded(tmp_path, document).forwarder
    assert (forwarder.active, forwarder.demo, forwarder.url) == (True, True, None)


def test_every_exchange_of_its_has_an_adapter():
    assert {*OURS.values()} <= {*VENUES}


def test_what_cannot_be_followed_is_named_and_skipped(tmp_path: Path):
    told = notes(tmp_path, config(exchange(), exchange("gateo"), exchange("okx", [], []), debgu={}))
    for says in (
        'exchanges[1].name: there is no exchange "gateo"; did you mean "gateio"? (gateio, binance, ',
        "exchanges[2].pairs: has none for okx; skipped",
        'debgu: is not read; did you mean "debug"? (known here: master, exchanges, debug)',
    ):
        assert any(f": {says}" in note for note in told), says
    assert len(told) == 3
    assert all(note.startswith("config.json:") and note.split(":")[1].isdecimal() for note in told)


def test_krakens_former_names_are_taken_for_what_they_are_called_today(tmp_path: Path):
    document = config(
        exchange("kraken", ["XBT/USD", "BTC/USD", "ETH/XBT", "ETH/USD"]), exchange("okx", ["XBT/USDT"])
    )
    venues = loaded(tmp_path, document).venues
    assert venues["kraken"].symbols == ["BTC-USD", "ETH-BTC", "ETH-USD"]
    assert venues["okx"].symbols == ["XBT-USDT"]
    said = 'exchanges[0].pairs.trades[0]: "XBT/USD" is "BTC/USD" at kraken today, and taken as that'
    assert any(said in note for note in notes(tmp_path, document))


def test_a_file_without_master_or_with_a_wrong_one_has_no_other_fault_for_that(tmp_path: Path):
    [fault] = faults(tmp_path, {"exchanges": [exchange()]})
    assert fault.startswith('config.json:1: master: is missing: write {"url": "ws://host:port"')
    for url, says in (("ws://h:abc", "has no port that can be"), ("wss://[::1", "has a broken host")):
        [fault] = faults(tmp_path, config(master={"url": url, "connections": 1, "key": CANARY}))
        assert f"master.url: {says}" in fault


def test_an_exchange_that_is_off_may_hold_anything(tmp_path: Path):
    off = exchange("nobody", enabled=False, chunking={"trades_per_connection": 0})
    assert notes(tmp_path, config(exchange(), off)) == []


def test_every_fault_is_told_at_once_with_line_key_reason_and_remedy(tmp_path: Path):
    text = """{
  "master": {"url": "http://x", "connections": 0, "key": 12},
  "exchanges": [
    {"name": "binance", "enabled": true,
     "pairs": {"trades": ["BTCUSDT", "ETH/USDT"]},
     "chunking": {"trades_per_connection": 0},
     "orderbook": {"depth": "10",
                   "update_interval_ms": 1}},
    {"name": "okx", "enabled": "yes", "pairs": {"trades": [], "orderbooks": [3]}},
    7
  ],
  "debug": {"log": 1}
}"""
    told = faults(tmp_path, text)
    for line in (
        "config.json:2: master.url: is no WebSocket address: write the master's address, as ws://",
        "config.json:2: master.connections: must be at least 1, not 0: write how many sockets to open",
        "config.json:2: master.key: must be text in quotes: write the key",
        'config.json:5: exchanges[0].pairs.trades[0]: "BTCUSDT" is no pair: write BASE/QUOTE',
        'config.json:5: exchanges[0].pairs.orderbooks: is missing: write ["BTC/USDT"], or [] for none',
        "config.json:6: exchanges[0].chunking.trades_per_connection: must be at least 1, not 0: write how",
        "config.json:7: exchanges[0].orderbook.depth: must be a whole number, not '10'",
        "config.json:8: exchanges[0].orderbook.update_interval_ms: must be at least 10, not 1",
        "config.json:9: exchanges[1].enabled: must be true or false, not 'yes': write true or false",
        "config.json:9: exchanges[1].pairs.orderbooks[0]: must be text in quotes, not 3",
        "config.json:10: exchanges[2]: must be a table, not 7",
        "config.json:12: debug.log: must be true or false, not 1",
    ):
        assert any(fault.startswith(line) for fault in told), line
    assert len(told) == 12


@pytest.mark.parametrize(
    "document",
    [[{"master": {"key": CANARY}}], {"master": [CANARY]}, {"master": {"key": [CANARY]}}, {"master": CANARY}],
)
def test_no_misplaced_key_is_shown(tmp_path: Path, document: Any):
    assert faults(tmp_path, document)


def test_an_empty_key_and_nothing_to_do_are_told(tmp_path: Path):
    document = config(exchange(enabled=False))
    document["master"]["key"] = ""
    told = faults(tmp_path, document)
    assert "master.key: is empty" in told[0]
    assert "exchanges: none of them is enabled, known here and with pairs" in told[1]


def test_what_is_not_json_is_told_with_its_line(tmp_path: Path):
    assert faults(tmp_path, '{\n"master": }')[0] == "config.json:2: not JSON: expecting value"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000 + "]" * 100_000, "nest too deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nest too deep"),
        (f'{{"master": {"9" * 5000}}}', "a number that is too long"),
        ('{"master": {"key": "\\ud800"}}', "half a character"),
    ],
)
def test_json_that_its_reader_cannot_hold_is_told(tmp_path: Path, text: str, why: str):
    [fault] = faults(tmp_path, text)
    assert fault.startswith("config.json: ")
    assert why in fault


def test_the_environment_goes_over_it(tmp_path: Path):
    env = {
        "TAPELINE_FORWARDER__CONNECTIONS": "3",
        "TAPELINE_VENUES__BINANCE__WS_URL": "ws://127.0.0.1:9700/binance",
    }
    settings = loaded(tmp_path, config(), **env)
    assert settings.forwarder.connections == 3
    assert settings.venues["binance"].ws_url == "ws://127.0.0.1:9700/binance"


def test_lines_are_those_of_the_values():
    text = '{"a": [1,\n {"b": "x,]}\\"",\n "c": []}],\n "d": null}'
    assert lines_of(text) == {
        (): 1,
        ("a",): 1,
        ("a", 0): 1,
        ("a", 1): 2,
        ("a", 1, "b"): 2,
        ("a", 1, "c"): 3,
        ("d",): 4,
    }


def test_import_writes_what_reads_the_same_and_keeps_the_key_apart(tmp_path: Path):
    file = written(
        tmp_path,
        config(
            exchange("binance", [f"C{n}/USDT" for n in range(60)], ["C7/USDT"]),
            exchange("kraken"),
            debug={"log": True},
        ),
    )
    out = tmp_path / "mine.toml"
    assert import_file(file, out, force=False) == 0
    text, key = out.read_text(), tmp_path / "mine.key"
    assert CANARY not in text
    assert key.read_text() == f"{CANARY}\n"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "# Sockets to the master.\nconnections = 12\n" in text
    assert max(map(len, text.splitlines())) < 120
    ours, theirs = load(out, {}), load(file, {})
    assert (
        ours.model_copy(update={"forwarder": ours.forwarder.model_copy(update={"key_file": None})}) == theirs
    )


def test_import_replaces_nothing_unless_told(tmp_path: Path):
    file = written(tmp_path, config())
    assert import_file(file, None, force=False) == 0
    (tmp_path / "config.key").unlink()
    with pytest.raises(ConfigError, match="--force replaces it"):
        import_file(file, None, force=False)
    assert not (tmp_path / "config.key").exists()
    assert import_file(file, None, force=True) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "config.key", "config.toml"}
