"""Both sides of ``make bench-peers`` get the same frames, and a missing event is told."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import orjson
import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import frames, sides

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"


def capture():
    return frames.generated(200)


def bodies(rows, stream):
    return [row.data["data"] for row in rows if row.data.get("stream", "").endswith(stream)]


def test_ids_and_times_go_on_from_pass_to_pass():
    passes = [frames.moved(capture(), n) for n in range(3)]
    ids = [trade["t"] for rows in passes for trade in bodies(rows, "@trade")]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    times = [trade["T"] for rows in passes for trade in bodies(rows, "@trade")]
    assert times == sorted(times)
    updates = [body["u"] for rows in passes for body in bodies(rows, "@depth@100ms")]
    assert updates == sorted(set(updates))


def test_only_ids_and_times_of_a_pass_are_others():
    first, second = (frames.moved(capture(), n) for n in (0, 1))
    assert first == capture().rows
    for before, after in zip(first, second, strict=True):
        mine, theirs = before.data.get("data", before.data), after.data.get("data", after.data)
        assert {k for k in mine if mine[k] != theirs[k]} <= {"U", "u", "t", "E", "T", "lastUpdateId"}


def test_cryptofeed_is_given_the_same_trades_in_the_form_that_it_subscribes():
    rows = frames.moved(capture(), 0)
    trade, aggregate = bodies(rows, "@trade")[0], bodies(map(frames.as_aggregate, rows), "@aggTrade")[0]
    assert (aggregate["e"], aggregate["a"], aggregate["f"], aggregate["l"]) == ("aggTrade", *[trade["t"]] * 3)
    assert {k: aggregate[k] for k in "EspqTmM"} == {k: trade[k] for k in "EspqTmM"}
    others = [row for row in rows if not row.data.get("stream", "").endswith("@trade")]
    assert [frames.as_aggregate(row) for row in others] == others


def test_a_capture_of_something_else_is_refused_with_its_line(tmp_path, capsys):
    path = tmp_path / "capture.jsonl"
    path.write_text(json.dumps({"dir": "in", "raw": '{"stream":"ethusdt@trade","data":{}}'}) + "\n")
    assert command.main(["--python", sys.executable, "--frames", str(path)]) == 2
    assert "line 1 is no frame of BTCUSDT" in capsys.readouterr().out


def test_a_missing_environment_is_named(capsys):
    assert command.main(["--python", "/nowhere/python"]) == 2
    assert "/nowhere/python is missing; make bench-peers installs it" in capsys.readouterr().out


@pytest.mark.redis
def test_every_event_of_our_side_is_in_redis():
    run = sides.tapeline(capture(), 2, books=True)
    assert run.missing == 0
    assert run.us_per_frame > 0


@pytest.mark.redis
def test_an_event_that_is_not_in_redis_is_told(monkeypatch):
    monkeypatch.setattr(sides, "counts", lambda made, n: frames.counts(made, n) + Counter(trade=3))
    assert sides.tapeline(capture(), 1, books=False).missing == 3


@pytest.mark.redis
@pytest.mark.skipif(not PEERS.exists(), reason="no cryptofeed here: make bench-peers installs it")
def test_both_sides_run_in_pairs_and_lose_nothing():
    arguments = ("--json", "--python", str(PEERS), "--pairs", "1", "--passes", "1")
    module = [sys.executable, "-m", "benchmarks.peers", *arguments]
    done = subprocess.run(module, cwd=ROOT, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    figures = orjson.loads(done.stdout)
    assert figures["missing"] == 0
    for name in ("cpu_us_per_frame", "cpu_us_per_frame_cryptofeed", "ratio", "ratio_median"):
        assert figures[name] > 0
