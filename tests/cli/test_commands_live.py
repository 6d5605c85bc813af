"""Commands against a running formation: FTSOBest's config.json, unchanged, on simulated venues.

The documents for those who come from FTSOBest and Barter are tried here, command by command.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_rig import Done, Tapeline
from demo_rig import BIN, ROOT, Demo, await_true
from websockets.sync.client import connect

from actors.config import load

KEY = "canary-63af"
CONFIG = {
    "master": {"url": "ws://127.0.0.1:8766", "connections": 3, "key": KEY},
    "exchanges": [
        {
            "name": "binance",
            "enabled": True,
            "pairs": {"trades": ["BTC/USDT", "ETH/USDT"], "orderbooks": ["BTC/USDT"]},
            "chunking": {"trades_per_connection": 1, "orderbooks_per_connection": 1},
            "orderbook": {"depth": 5, "update_interval_ms": 200},
        },
        {
            "name": "kraken",
            "enabled": True,
            "pairs": {"trades": ["BTC/USD"], "orderbooks": ["BTC/USD"]},
            "chunking": {"trades_per_connection": 50, "orderbooks_per_connection": 1},
        },
        {"name": "gateo", "enabled": True, "pairs": {"trades": ["BTC/USDT"], "orderbooks": []}},
        {"name": "bitfinex", "enabled": True, "pairs": {"trades": [], "orderbooks": ["BTC/USD"]}},
    ],
    "debug": {"raw": False, "log": False},
}
FEEDS = [
    {"feed": {"category": 1, "name": "XRP/USD"}, "sources": [{"exchange": "kraken", "symbol": "XRP/USD"}]},
    {
        "feed": {"category": 1, "name": "BTC/USD"},
        "sources": [
            {"exchange": "binance", "symbol": "BTC/USDT"},
            {"exchange": "gate", "symbol": "BTC/USDT"},
            {"exchange": "kraken", "symbol": "BTC/XXX"},
        ],
    },
    {"feed": {"category": 1, "name": "NOPE/USD"}, "sources": [{"exchange": "htx", "symbol": "NOPE/USDT"}]},
]
SIMULATED = {  # the one thing that such a user's shell would not have: his venues are real
    "TAPELINE_MODE": "demo",
    "TAPELINE_MASTER__ENABLED": "true",
    "TAPELINE_MASTER__KEYS": KEY,
    **{
        f"TAPELINE_VENUES__{venue.upper()}__{kind}_URL": f"{scheme}://127.0.0.1:9700/{venue}"
        for venue in ("binance", "kraken", "bitfinex")
        for kind, scheme in (("WS", "ws"), ("REST", "http"))
    },
}


class Collector(Demo):
    """``tapeline run all --config config.json`` in a folder of its own."""

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, **SIMULATED}


Command = Callable[..., Done]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    made = Collector(tmp_path_factory.mktemp("collector"))
    (made.folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    (made.folder / "config.json").chmod(0o644)
    (made.folder / "feeds.json").write_text(json.dumps(FEEDS))
    try:
        made.start("all", "--config", "config.json", command="run").live()
        assert made.process is not None
        yield made
        assert made.interrupt() == 0
        assert made.processes() == {}
    finally:
        made.close()


@pytest.fixture
def command(there: Collector, tapeline: Tapeline) -> Command:
    """Run a command in this process, as if in the collector's folder."""

    def run(*arguments: str) -> Done:
        env = SIMULATED | {"TAPELINE_PORT_OFFSET": str(there.offset)}
        return tapeline(*arguments, cwd=str(there.folder), **env)

    return run


def status(command: Command) -> Any:
    return json.loads(command("status", "--json").stdout)


def test_it_starts_and_says_what_it_passes_over(there: Collector):
    said = there.said()
    assert 'config.json:46: exchanges[2].name: there is no exchange "gateo"; did you mean "gateio"?' in said
    assert re.search(r"^binance live: 2 symbols, first trade after \d+ ms", said, re.MULTILINE)
    assert re.search(r"^kraken live: 1 symbol, first trade after \d+ ms", said, re.MULTILINE)
    assert re.search(r"^bitfinex live: 1 symbol, first book after \d+ ms", said, re.MULTILINE)  # no trades
    assert KEY not in said


def test_status_says_that_all_is_live_and_who_does_what(there: Collector, command: Command):
    with connect(f"ws://127.0.0.1:{9001 + there.offset}") as client:
        client.recv(timeout=30)
        await_true("all is live", lambda: (found := status(command))["ok"] and found["beside"]["clients"])
        report = status(command)
    roles = [instance["role"] for instance in report["instances"]]
    assert roles == ["connector", "normalizer", "bookbuilder", "analytics", "broadcaster", "forwarder"]
    assert {place["partition"] for place in report["partitions"]} == {"binance.0", "kraken.0", "bitfinex.0"}
    for place in report["partitions"]:
        assert all(owner for lease, owner in place["owners"].items() if lease != "publisher")
        assert {*place["lag"]} == {"normalizer", "bookbuilder", "analytics", "forwarder"}
    binance = report["venues"]["binance"]
    assert binance["channels"] == {"book": {"live": 1}, "trade": {"live": 2}}  # a book of one pair only
    assert (binance["books"], binance["unwell"]) == ({"live": 1}, [])
    beside = report["beside"]
    assert sum(beside["clients"].values()) == 1
    assert beside["forwarding"]["sockets"]["ready"] == 3
    assert (beside["master"]["address"], beside["master"]["ok"]) == (f"127.0.0.1:{8766 + there.offset}", True)
    assert beside["master"]["collectors"]["ftsobest"] == 3
    done = command("status")
    assert done.returncode == 0
    for said in ("all that is configured is live", "binance.0", "forwarder: to ws://127.0.0.1", "clients: "):
        assert said in done.stdout
    assert KEY not in done.stdout + json.dumps(report)


# A shell's job in the background ignores SIGINT, and so would what it starts.
HEARING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_status_watches_until_interrupted(there: Collector):
    words = [BIN / "tapeline", "status", "--watch", "--every", "0.2", "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", HEARING, *words], cwd=there.folder, env=there.env, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            reports = [json.loads(process.stdout.readline()) for _ in range(3)]
            assert all(report["mode"] == "demo" for report in reports)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()


def test_the_master_hears_what_it_heard_before(command: Command):
    def held() -> dict[str, int]:
        counted: dict[str, int] = {}
        for row in json.loads(command("master", "count", "--json").stdout or "[]"):
            for kind, n in row["messages"].items():
                counted[kind] = counted.get(kind, 0) + n
        return counted

    await_true("trades and books are there", lambda: held().keys() >= {"trade", "book"})
    lines = command("master", "tail", "-n", "400", "--no-follow").stdout.splitlines()
    messages = [json.loads(line) for line in lines]
    pairs = {(m["exchange"], m["type"], m["symbol"]) for m in messages}
    assert pairs <= {
        ("binance", "trade", "BTC/USDT"), ("binance", "trade", "ETH/USDT"), ("binance", "book", "BTC/USDT"),
        ("kraken", "trade", "BTC/USD"), ("kraken", "book", "BTC/USD"), ("bitfinex", "book", "BTC/USD"),
    }  # fmt: skip
    books = [m for m in messages if m["type"] == "book" and m["exchange"] == "binance"]
    assert {len(book["bids"]) for book in books} == {5}


def test_chunking_makes_so_many_sockets(there: Collector, command: Command):
    opened = re.compile(rb"^tapeline_connections\{venue=\"(\w+)\"\} (\d+)", re.MULTILINE)
    found = dict(opened.findall(there.get("/metrics", 7600)))
    assert found == {b"binance": b"2", b"kraken": b"1", b"bitfinex": b"1"}
    planned = json.loads(command("config", "plan", "config.json", "--json").stdout)
    assert [row["connections"] for row in planned["sockets"]] == [2, 1, 1]


def test_a_book_is_subscribed_anew_and_its_outcome_told(command: Command):
    done = command("resync", "binance", "btc/usdt")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"BTC-USDT: book live again after \d+ ms\n", done.stdout)
    done = command("resync", "binance", "*", "--channel", "trade", "--json")
    assert {each["what"] for each in json.loads(done.stdout)["outcomes"]} == {"BTC-USDT", "ETH-USDT"}
    assert json.loads(done.stdout)["ok"]


def test_a_book_is_subscribed_anew_where_only_another_connection_can(command: Command):
    done = command("resync", "bitfinex", "BTC/USD", "--json")
    assert done.returncode == 0, done.stdout
    [outcome] = json.loads(done.stdout)["outcomes"]
    assert (outcome["what"], outcome["says"]) == ("BTC-USD", "book live again")


def test_connections_are_replaced_and_that_is_told(command: Command):
    done = command("reconnect", "kraken")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^a\.\w+: open$", done.stdout, re.MULTILINE)
    assert re.search(
        r"^a\.\w+: closed \(1000: replaced: asked for\) after \d+ ms$", done.stdout, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("resync binance ETH/USDT", 'binance gives no book of "ETH/USDT" here; did you mean "BTC-USDT"?'),
        ("resync binance BTC-USDT --channel bok", 'gives no channel "bok" here; did you mean "book"?'),
        ("resync bitfinex BTC-USD --channel l1", "its l1 is the top of its book: resync the book (book)"),
        ("resync krakn BTC-USD", 'did you mean "kraken"?'),
        ("reconnect krakn", 'did you mean "kraken"?'),
        ("deadletter list krakn", 'did you mean "kraken"?'),
        ("deadletter show 17", "is no letter"),
        ("symbols bianance", 'did you mean "binance"?'),
        ("symbols huobi", 'there is no adapter for "huobi" yet'),
        ("pairs binance --feeds none.json", "none.json: no such file or directory: name Flare's feeds.json"),
        ("pairs binance_usdm --feeds feeds.json", "binance_usdm is a perpetual venue, and the feeds are of"),
        ("pairs binance --feeds config.json", "it must be a list of"),
    ],
)
def test_what_cannot_be_is_one_plain_message_and_code_2(command: Command, words: str, says: str):
    done = command(*shlex.split(words))
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def fault(there: Collector, **fields: object) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{9700 + there.offset}/control/fault", json.dumps(fields).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 200


def test_a_frame_that_means_nothing_is_kept_and_shown(there: Collector, command: Command):
    fault(there, kind="corrupt", venue="kraken", how="truncated", count=1)
    letters = await_true(
        "a dead letter", lambda: json.loads(command("deadletter", "list", "kraken", "--json").stdout)
    )
    letter = letters[-1]
    assert letter["stage"] == "normalizer"
    assert letter["id"] in command("deadletter", "list").stdout
    shown = command("deadletter", "show", letter["id"]).stdout
    assert letter["record"] in shown
    assert letter["reason"] in shown
    assert json.loads(command("deadletter", "show", letter["id"], "--json").stdout) == letter
    gone = command("deadletter", "show", "kraken.0/1-1/1")
    assert (gone.returncode, "there is no letter" in gone.stderr) == (1, True)


def test_symbols_are_those_that_the_venue_lists(command: Command):
    rows = json.loads(command("symbols", "kraken", "--json").stdout)
    assert {"symbol": "BTC-USD", "native": "BTC/USD"}.items() <= next(
        row for row in rows if row["symbol"] == "BTC-USD"
    ).items()
    shown = command("symbols", "binance", "--search", "eth").stdout
    assert "ETHUSDT" in shown
    assert "SOL" not in shown
    assert "ETH-BTC" in command("symbols", "binance", "--search", "*-BTC").stdout
    none = command("symbols", "binance", "--search", "ETH-USDX")
    assert (none.returncode, 'did you mean "ETH-USDT"?' in none.stderr) == (1, True)


def test_pairs_print_what_the_predecessors_helper_printed(command: Command):
    done = command("pairs", "binance", "--feeds", "feeds.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        '\n[BINANCE – SUPPORTED TRADE PAIRS]\n\n"BTC/USDT",\n"XRP/USDT",\n\n'  # noqa: RUF001
        "✅ 2 supported Binance trade pairs found\n"
    )


def test_pairs_of_a_venue_that_has_none_end_with_code_1(there: Collector, command: Command):
    (there.folder / "nope.json").write_text(json.dumps(FEEDS[-1:]))
    done = command("pairs", "kraken", "--feeds", "nope.json")
    assert (done.returncode, "❌ No supported Kraken trade pairs found" in done.stdout) == (1, True)


def test_coverage_says_which_source_of_a_feed_is_to_be_had(command: Command, monkeypatch: pytest.MonkeyPatch):
    from actors.venues import VENUES  # noqa: PLC0415 - only this test changes them

    for name in {*VENUES} - {"binance", "kraken", "bitfinex"}:
        monkeypatch.delitem(VENUES, name)
    done = command("pairs", "all", "--feeds", "feeds.json", "--coverage", "--json")
    assert done.returncode == 1  # NOPE/USD has no source
    assert json.loads(done.stdout) == [
        {"feed": "XRP/USD", "listed": ["kraken XRP/USD"], "unlisted": [], "elsewhere": [], "unknown": []},
        {
            "feed": "BTC/USD",
            "listed": ["binance BTC/USDT"],
            "unlisted": ["kraken BTC/XXX"],
            "elsewhere": ["gate BTC/USDT"],
            "unknown": [],
        },
        {"feed": "NOPE/USD", "listed": [], "unlisted": [], "elsewhere": ["htx NOPE/USDT"], "unknown": []},
    ]
    shown = command("pairs", "all", "--feeds", "feeds.json", "--coverage").stdout
    assert "2 of 5 sources (40 %) of 3 feeds, by binance, bitfinex, kraken" in shown
    assert "without any source: NOPE/USD" in shown
    groups = command("pairs", "all", "--feeds", "feeds.json").stdout
    assert re.findall(r"^::group::(\w+)$", groups, re.MULTILINE) == [
        "binance_supported_trades",
        "bitfinex_supported_trades",
        "kraken_supported_trades",
    ]
    assert groups.count("::endgroup::") == 3
    made = json.loads(command("pairs", "all", "--feeds", "feeds.json", "--json").stdout)
    assert made["binance"] == ["BTC/USDT", "XRP/USDT"]


def test_doctor_finds_nothing_bad_in_what_runs(there: Collector, command: Command):
    done = command("doctor", "--json")
    report = json.loads(done.stdout)
    bad = [each for each in report["findings"] if each["level"] == "bad"]
    assert (done.returncode, report["ok"], bad) == (0, True, [])
    said = "\n".join(f"{each['about']}: {each['says']}" for each in report["findings"])
    for expected in (
        "ports: used by the Tapeline of this folder: ",
        "leftovers: none",
        f"redis: redis://127.0.0.1:{6391 + there.offset}/0 answers in ",
        "redis: valkey ",
        "redis: appendfsync everysec",
        "memory: it uses ",
        "handshake in ",
        "clock: binance's clock is +0 s from ours",
        "master: ws://127.0.0.1:",
        "config.json can be read by others",
        'exchanges[2].name: there is no exchange "gateo"',
    ):
        assert expected in said, expected
    assert KEY not in done.stdout
    assert re.search(r"^0 bad, \d+ to look at, \d+ ok$", command("doctor").stdout, re.MULTILINE)


def test_the_shell_offers_roles_venues_and_symbols(command: Command):
    def offered(*words: str) -> list[str]:
        lines = command("__complete", *words).stdout.partition("\x1fbegin\n")[2].splitlines()
        return [line.partition("\t")[0] for line in lines]

    assert offered("tail", "trade", "") == ["binance", "kraken", "bitfinex"]
    assert offered("tail", "trade", "binance", "") == ["BTC-USDT", "ETH-USDT"]
    assert offered("resync", "kraken", "") == ["BTC-USD"]
    assert "okx" in offered("symbols", "")
    assert {"all", "normalizer"} <= {*offered("run", "")}
    assert "liquidation" in offered("tail", "")


def test_the_completion_is_a_script_that_bash_takes(there: Collector, tapeline: Tapeline, tmp_path: Path):
    script = tmp_path / "tapeline.bash"
    printed = tapeline("completion", "--shell", "bash", HOME=str(tmp_path / "home")).stdout
    assert not (tmp_path / "home").exists()
    assert tapeline("completion", "--shell", "bash", "--output", script, HOME=str(tmp_path)).returncode == 0
    assert script.read_text() == printed
    assert [*tmp_path.iterdir()] == [script]  # nothing else of the user's is touched
    done = tapeline("completion", "--shell", "bash", "--install", HOME=str(tmp_path))
    assert ".bashrc has a line for it" in done.stdout
    assert "tapeline" in (tmp_path / ".bashrc").read_text()
    ask = (
        f"source {script}; COMP_WORDS=({BIN}/tapeline resync kr); COMP_CWORD=2; "
        "$(complete -p tapeline | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(
        ["bash", "-c", ask],
        cwd=there.folder,
        env=there.env,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    assert done.stdout.split() == ["kraken"], done.stderr


# ------------------------------------------------------------------------------------ the documents

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SAID = {  # command that ends -> what it prints
    ".venv/bin/tapeline config check config.json": "ok: ",
    ".venv/bin/tapeline config plan config.json": "Connections",
    ".venv/bin/tapeline status": "all that is configured is live",
    ".venv/bin/tapeline config import config.json": "wrote config.toml and config.key",
    ".venv/bin/tapeline pairs binance --feeds feeds.json": "supported Binance trade pairs found",
    ".venv/bin/tapeline config check barter.toml": (
        "ok: live, okx (6 symbols), binance_usdm (4 symbols), bybit_linear (3 symbols)"
    ),
}
FOLLOWED = {  # command that goes on -> what it prints within a few seconds
    ".venv/bin/tapeline tail trade": " trade ",
    ".venv/bin/websockets ws://127.0.0.1:9001": '"type":"welcome","message":"Connected to barter-data',
    ".venv/bin/websockets 'ws://127.0.0.1:9001/?kind=trade,order_book_l1&symbol=BTC-USDT'": '"kind":"trade"',
}
ELSEWHERE = {
    ".venv/bin/tapeline run all --config config.json": "the fixture `there`",
    ".venv/bin/tapeline up --config config.toml": "test_config_ftsobest.py: the same settings",
    ".venv/bin/tapeline up --config barter.toml": "the real venues",
    ".venv/bin/tapeline pairs all --feeds feeds.json": "test_coverage_...: the others are real venues",
    ".venv/bin/tapeline pairs all --feeds feeds.json --coverage": "test_coverage_...",
    "make demo": "test_demo.py",
}
DOCUMENTS = ("migrate-ftsobest.md", "migrate-barter.md")


def commands_of(document: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line]


def test_every_command_of_the_documents_is_tried_somewhere():
    named = {command for document in DOCUMENTS for command in commands_of(document)}
    assert named == {*SAID, *FOLLOWED, *ELSEWHERE}


@pytest.mark.parametrize("line", SAID)
def test_a_command_of_the_documents_says_what_they_promise(
    there: Collector, command: Command, tapeline: Tapeline, line: str
):
    text = (ROOT / "docs/migrate-barter.md").read_text(encoding="utf-8")
    block = re.search(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    (there.folder / "barter.toml").write_text(block[1])
    words = shlex.split(line)[1:]
    # That file is of the real venues: nothing of this formation goes over it.
    done = tapeline(*words, cwd=str(there.folder)) if "barter.toml" in words else command(*words)
    assert (done.returncode, SAID[line] in done.stdout) == (0, True), done
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("line", FOLLOWED)
def test_a_command_of_the_documents_shows_what_they_promise(there: Collector, line: str):
    words = [word.replace(".venv/bin/", f"{BIN}/") for word in shlex.split(line)]
    words = [word.replace("9001", str(9001 + there.offset)) for word in words]
    out = there.folder / "out-of-command"
    with out.open("wb") as file:
        process = subprocess.Popen(
            words, cwd=there.folder, env=there.env, stdin=subprocess.PIPE, stdout=file, stderr=file
        )
    try:
        await_true(line, lambda: FOLLOWED[line] in out.read_text() or process.poll() is not None, 10)
        assert FOLLOWED[line] in out.read_text()
    finally:
        process.kill()
        process.wait()


def test_the_imported_file_says_the_same_as_the_original(there: Collector, command: Command, tmp_path: Path):
    assert command("config", "import", "config.json", "-o", str(tmp_path / "mine.toml")).returncode == 0
    ours, theirs = load(tmp_path / "mine.toml", {}), load(there.folder / "config.json", {})
    assert ours.venues == theirs.venues
    assert ours.forwarder_key() == theirs.forwarder_key() == KEY


def test_make_up_takes_the_file_by_its_name():
    for target in ("demo", "up"):
        words = ["make", "-ns", "-o", "install", target, "CONFIG=my config.json"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        assert f"tapeline {target} --config 'my config.json'" in done.stdout
    words = ["make", "-ns", "--no-print-directory", "-o", "install", "up"]
    plain = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert plain.stdout.strip().endswith("tapeline up")


def test_the_barter_document_names_every_kind_that_is_sent(there: Collector):
    text = (ROOT / "docs/migrate-barter.md").read_text(encoding="utf-8")
    seen: dict[str, Any] = {}
    with connect(f"ws://127.0.0.1:{9001 + there.offset}") as client:
        welcome = json.loads(client.recv(timeout=30))
        assert f'"message":"{welcome["message"]}"' in text
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and len(seen) < 4:
            event = json.loads(client.recv(timeout=30))
            seen.setdefault(event["kind"], event)
    assert {*seen} == {"trade", "order_book_l1", "order_book_l2", "cumulative_volume_delta"}
    for kind, event in seen.items():
        assert f"`{kind}`" in text
        assert {*event} == {"time_exchange", "time_received", "exchange", "instrument", "kind", "data"}
        assert event["instrument"]["base"].islower()


# ------------------------------------------------------------------------------- last: a venue is away


def test_status_of_a_venue_that_is_away_says_why_and_ends_with_code_1(there: Collector, command: Command):
    fault(there, kind="maintenance", venue="kraken", for_s=30)
    done = await_true("kraken is down", lambda: (d := command("status")).returncode == 1 and d)
    assert "kraken is down: " in await_true(
        "and it is said", lambda: (out := command("status").stdout) and "kraken is down" in out and out
    )
    assert done.returncode == 1
    report = status(command)
    assert report["venues"]["kraken"]["reason"]
    assert report["venues"]["binance"]["state"] == "live"
