"""Both sides of ``make bench-peers`` get the same frames, and a missing event is told."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import orjson
import pytest
from replay import recording

from actors.bench import heard
from benchmarks.peers import __main__ as command
from benchmarks.peers import frames, handlers, sides

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
    arguments = ("--json", "--python", str(PEERS), "--pairs", "1", "--passes", "1", "--only", "redis")
    module = [sys.executable, "-m", "benchmarks.peers", *arguments]
    done = subprocess.run(module, cwd=ROOT, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    figures = orjson.loads(done.stdout)
    assert figures["missing"] == 0
    for name in ("cpu_us_per_frame", "cpu_us_per_frame_cryptofeed", "ratio", "ratio_median"):
        assert figures[name] > 0


# ---- handlers against decode ------------------------------------------------------------------------------


def test_a_trade_that_one_side_lacks_and_a_level_that_differs_are_told():
    hearing = heard.hear("binance", 300, 1)
    mine = handlers.ours(hearing)
    assert handlers.differences(mine, mine) == []
    trade = next(iter(mine.trades))
    key = ("BTC-USDT", "bids")
    (price, size), *deeper = mine.books[key]
    books = mine.books | {key: [(price, size + 1), *deeper]}
    theirs = handlers.Told(mine.trades - Counter([trade]), books)
    assert handlers.differences(mine, theirs) == [
        f"1 trades only of Tapeline, such as {trade[:3]}",
        f"BTC-USDT bids: 1 of {len(deeper) + 1} levels",
    ]
    without = {other: levels for other, levels in mine.books.items() if other != key}
    assert handlers.differences(mine, mine._replace(books=without)) == ["BTC-USDT bids only of Tapeline"]


def test_neither_side_is_given_what_cryptofeed_does_not_ask_for(monkeypatch, tmp_path):
    monkeypatch.setattr(handlers, "WIRE", tmp_path)
    origin, hearing = handlers.frames_of("binance_us")
    assert origin == "simulated"
    made = handlers.document("binance_us", hearing)
    streams = Counter(json.loads(frame)["stream"].partition("@")[2] for frame in made["frames"])
    assert set(streams) == {"aggTrade", "depth@100ms", "bookTicker"}
    assert len(made["frames"]) == hearing.frames


@pytest.mark.parametrize("name", handlers.SPOKEN)
def test_what_stands_in_the_recording_is_what_both_are_given(name):
    capture = handlers.SPOKEN[name].capture
    if capture is None:
        pytest.skip("no recording of it is long enough")
    rows = recording(capture)
    origin, hearing = handlers.frames_of(name)
    made = handlers.document(name, hearing)
    assert origin == f"recorded: {capture}"
    assert hearing.frames == len(made["frames"]) > 0.99 * sum(row["dir"] == "in" for row in rows)
    assert sum(map(len, made["rest"].values())) == sum(row["dir"] == "http" for row in rows)
    assert handlers.ours(hearing).books


@pytest.mark.skipif(not PEERS.exists(), reason="no cryptofeed here: make bench-peers installs it")
@pytest.mark.parametrize("name", [each for each, spoken in handlers.SPOKEN.items() if not spoken.older])
def test_both_told_the_same_but_for_what_is_known(name):
    found = handlers.compare(name, PEERS, 1)
    if found is None:
        pytest.skip("no recorded frames, and no simulator")
    assert not found.apart or handlers.SPOKEN[name].apart
    assert min(*found.our_us, *found.their_us, *found.their_bare_us) > 0


@pytest.mark.skipif(not PEERS.exists(), reason="no cryptofeed here: make bench-peers installs it")
def test_frames_that_cryptofeed_cannot_take_are_told(monkeypatch):
    spoken = handlers.SPOKEN["binance_us"]
    broken = {"binance_us": spoken._replace(told=lambda _: '{"no":"stream"}')}
    monkeypatch.setattr(handlers, "SPOKEN", broken)
    found = handlers.compare("binance_us", PEERS, 1)
    assert found.apart == ["cryptofeed cannot take these frames: KeyError: 'stream'"]
    assert not found.our_us
