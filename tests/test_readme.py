"""Every command of the README runs: against a demo here, or in the test that is named beside it."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_rig import BIN, FEW, ROOT, Demo, await_true, demo, free_offset
from websockets.sync.client import connect

from actors.cli.app import app
from actors.cli.markets import markdown
from actors.config import load

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the blocks of the README that are marked so."""
    fenced = re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [block[2] for block in fenced if block[1] == language]


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line]
SEEN, TOLD = (block.splitlines() for block in blocks("")[:2])  # what `make demo` and `tail` show
# Command -> what its output must hold within a few seconds.
HERE = {
    ".venv/bin/websockets ws://127.0.0.1:9001": '"type":"welcome"',
    "redis-cli -p 6391 psubscribe 'md.trade.*'": '{"kind":"trade"',
    "redis-cli -p 6391 xrevrange 'tl:{binance.0}:books' + - count 1": '{"kind":"',
    "redis-cli -p 6391 get 'tl:{binance.0}:book:BTC-USDT'": '"state":"live"',
    ".venv/bin/tapeline tail": " ticker ",
    ".venv/bin/tapeline tail trade binance BTC-USDT": " trade ",
    ".venv/bin/tapeline tail book binance BTC-USDT --json": '{"kind":"book"',
    ".venv/bin/tapeline status": "all that is configured is live",
    ".venv/bin/websockets 'ws://127.0.0.1:9001/?kind=trade&symbol=BTC-USDT'": '"kind":"trade"',
    ".venv/bin/websockets "
    "'ws://127.0.0.1:9001/?kind=liquidation,open_interest,funding_rate&exchange=Okx'": '"open_interest"',
    ".venv/bin/tapeline master tail trade binance": '{"type":"trade","exchange":"binance"',
    ".venv/bin/tapeline master count": " messages in ",
    ".venv/bin/tapeline config check config/tapeline.toml": "ok: live",
}
ELSEWHERE = {
    **dict.fromkeys(
        (
            ".venv/bin/tapeline doctor",
            ".venv/bin/tapeline symbols binance --search BTC",
            ".venv/bin/tapeline resync binance BTC-USDT",
            ".venv/bin/tapeline reconnect binance",
            ".venv/bin/tapeline deadletter list",
            ".venv/bin/tapeline pairs all --feeds feeds.json --coverage",
            ".venv/bin/tapeline completion --install",
        ),
        "cli/test_commands_live.py",
    ),
    ".venv/bin/tapeline config plan config/tapeline.toml": "cli/test_config_commands.py",
    ".venv/bin/tapeline config init mine.toml --venue binance --symbol BTC/USDT": "the same",
    "make chaos ARGS=--json": "test_chaos.py runs its short form and its judge; test_fire_*.py the rest",
    ".venv/bin/python examples/native.py": "test_examples.py, while the broadcaster is killed",
    "node examples/native.mjs": "test_examples.py, in node and in a browser",
    "make demo": "test_demo.py starts what it starts; .ci/run installs the lock files",
    ".venv/bin/tapeline simulate --seed 7 --port 9800": "test_the_simulator_runs_alone",
    "TAPELINE_MASTER__KEYS=secret .venv/bin/tapeline master --config config/tapeline.toml": (
        "test_a_master_runs_alone_on_its_keys"
    ),
    "pkill -9 -f 'actors run normalizer'": "test_demo.py kills every actor by its command line",
    ".venv/bin/tapeline demo -c normalizer=2,bookbuilder=2": "test_instances_share",
    "REDIS_URL=redis://user:password@10.0.0.5:6379/0 make up": "test_up_without_its_redis_says_so",
}


def test_every_command_is_tried_somewhere():
    assert sorted(COMMANDS) == sorted({**HERE, **ELSEWHERE})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with demo(tmp_path_factory.mktemp("demo"), FEW) as made:
        made.start("-c", "normalizer=2,bookbuilder=2").live()
        await_true("all is live", lambda: made.status()["ok"])
        yield made
        assert made.interrupt() == 0
        assert made.processes() == {}


def shifted(command: str, offset: int) -> list[str]:
    for port in (6391, 9001, 9800):
        command = command.replace(str(port), str(port + offset))
    return [word.replace(".venv/bin/", f"{BIN}/") for word in shlex.split(command)]


@pytest.mark.parametrize("command", HERE)
def test_a_command_of_the_readme_shows_what_it_promises(running: Demo, command: str):
    words = shifted(command, running.offset)
    if shutil.which(words[0]) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {words[0]} on this machine")
    if "config" in words:
        words[-1] = str(ROOT / words[-1])
    out = running.folder / "out-of-command"
    env = {
        k: v for k, v in running.env.items() if k != "TAPELINE_PORT_OFFSET"
    }  # the guide tells it to others
    with out.open("wb") as file:
        process = subprocess.Popen(
            words, cwd=running.folder, env=env, stdin=subprocess.PIPE, stdout=file, stderr=file
        )
    try:
        await_true(command, lambda: HERE[command] in out.read_text() or process.poll() is not None)
        assert HERE[command] in out.read_text()
    finally:
        process.kill()
        process.wait()


def alike(line: str) -> str:
    """Return a pattern of lines that differ from ``line`` only by numbers, and by who bought."""
    escaped = (re.escape(word).replace(r"\.", ".") for word in line.split())
    words = (re.sub(r"\d[\d.:]*", r"\\d[\\d.:]*", word) for word in escaped)
    return "^ *" + " +".join("(buy|sell)" if word in {"buy", "sell"} else word for word in words)


def test_the_demo_says_what_the_readme_shows(running: Demo):
    said = running.said()
    for line in SEEN:
        assert line == "..." or re.search(alike(line), said, re.MULTILINE), line


def test_the_tail_shows_lines_like_those_of_the_readme(running: Demo):
    out = running.folder / "out-of-tail"
    env = {k: v for k, v in running.env.items() if k != "TAPELINE_PORT_OFFSET"}
    with out.open("wb") as file:
        process = subprocess.Popen([BIN / "tapeline", "tail"], cwd=running.folder, env=env, stdout=file)
    try:
        for line in TOLD:
            pattern = re.compile(alike(line), re.MULTILINE)
            await_true(line, lambda pattern=pattern: pattern.search(out.read_text()))
    finally:
        process.kill()
        process.wait()


def test_the_python_of_the_readme_prints_events(running: Demo):
    (program,) = blocks("python")
    process = subprocess.Popen(
        [sys.executable, "-uc", program.replace("6391", str(6391 + running.offset))],
        cwd=running.folder,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20)]
        assert all(line.startswith(b"{'kind': '") for line in lines), lines
    finally:
        process.kill()
        process.communicate()


def test_the_message_of_the_readme_is_answered_with_events(running: Demo):
    (message,) = blocks("json")
    with connect(f"ws://127.0.0.1:{9001 + running.offset}/v1") as socket:
        socket.send(message)
        while "event" not in (said := json.loads(socket.recv(10))):
            assert said["op"] in {"hello", "subscribed", "heartbeat"}, said
        assert said["event"]["kind"] in {"trade", "l1"}
        assert said["event"]["symbol"].startswith("BTC-")


def test_instances_share(running: Demo):
    roles = [instance["role"] for instance in running.status()["instances"]]
    assert (roles.count("normalizer"), roles.count("bookbuilder"), roles.count("connector")) == (2, 2, 1)


def test_the_simulator_runs_alone(tmp_path: Path, running: Demo):
    port = 9800 + running.offset
    process = subprocess.Popen(
        [BIN / "tapeline", "simulate", "--seed", "7", "--port", str(port)],
        cwd=tmp_path,
        env={k: v for k, v in running.env.items() if k != "TAPELINE_PORT_OFFSET"},
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline() + process.stderr.readline()
        assert b"simulator_ready" in said
        assert json.loads(running.get("/control/status", 9800))["seed"] == 7
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_up_without_its_redis_says_so(tmp_path: Path, running: Demo):
    env = running.env | {"REDIS_URL": "redis://user:canary-9d@127.0.0.1:1/0"}
    env["TAPELINE_PORT_OFFSET"] = str(free_offset())
    done = subprocess.run(
        [BIN / "tapeline", "up"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "tapeline: no Redis answers at redis://127.0.0.1:1/0 (connection refused): start it, or correct "
    )
    assert "canary" not in done.stderr + done.stdout


def test_the_settings_that_the_readme_names_exist_with_the_defaults_it_gives():
    table = README.partition("## Configuration")[2].partition("## More")[0]
    settings = load(ROOT / "config" / "tapeline.toml", {})
    for keys in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE):
        head, *others = re.findall(r"`([\w.<>]+)`", keys)
        for key in [head, *(f"{head.rpartition('.')[0]}.{other.rpartition('.')[2]}" for other in others)]:
            at: object = settings
            for part in key.replace("<name>", "binance").split("."):
                at = at[part] if isinstance(at, dict) else getattr(at, part)
    assert (settings.redis.port, settings.broadcaster.port) == (6391, 9001)
    assert settings.streams.lease_ttl_s == 3
    assert (settings.streams.retention_s, settings.streams.retention_bytes) == (60, 256 << 20)


def test_every_make_target_that_the_documents_name_is_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        named = set(
            re.findall(r"\bmake ([a-z]+)\b(?= does|`|$| {2,})", (ROOT / document).read_text(), re.MULTILINE)
        )
        assert named <= targets, document


def test_every_tapeline_command_that_the_documents_name_is_there():
    commands = {*app}
    documents = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "ARCHITECTURE.md")
    for document in (*documents, "docs/migrate-ftsobest.md", "docs/migrate-barter.md"):
        for command in re.findall(
            r"(?:bin/|`)tapeline ([a-z]+)", (ROOT / document).read_text(encoding="utf-8")
        ):
            assert command in commands, (document, command)


def test_the_table_of_venues_is_the_codes():
    table = README.partition("## Venues")[2].partition("\n\n| ")[2].partition("\n\n")[0]
    assert f"| {table}\n" == markdown(), "tapeline venues --markdown prints what must stand there"
