"""The benchmark measures, loses nothing and says what it promises. No figure is asserted: machines differ."""

import subprocess
import sys

import orjson
import pytest

from actors.bench.ends import Fresh, _received
from actors.bench.progress import Progress


@pytest.mark.redis
@pytest.mark.timeout(150)
def test_the_rows_have_their_names_and_nothing_is_lost():
    rows = ("--only", "book", "--only", "delivered", "--only", "fanout")
    command = [sys.executable, "-m", "actors", "bench", "--json", "--seconds", "1", "--runs", "1", *rows]
    done = subprocess.run(command, capture_output=True, timeout=140, check=False)
    assert done.returncode == 0, done.stderr.decode()
    figures = orjson.loads(done.stdout)
    assert figures["lost"] == 0
    for name in ("book_us", "delivered_per_s", "delivered_median", "delivered_ratio_to_bare", "fanout_per_s"):
        assert figures[name] > 0


def test_processes_share_their_counters(tmp_path):
    mine, theirs = Progress(tmp_path / "progress"), Progress(tmp_path / "progress")
    mine["sent"] = 2**40
    theirs["halt"] = 1
    assert (theirs["sent"], mine["halt"], mine["received"]) == (2**40, 1, 0)


def test_a_change_at_the_same_sequence_counts_once():
    fresh = Fresh(b'"symbol":', b'"seq":')
    lines = [
        b'{"symbol":"A","seq":1,"x":0}',
        b'{"symbol":"A","seq":1,"x":1}',
        b'{"symbol":"B","seq":1,"x":0}',
    ]
    assert [fresh(line) for line in lines] == [True, False, True]


def test_the_receive_time_of_a_message_is_read_to_the_nanosecond(monkeypatch):
    now = 1_795_232_044_516_542_916
    monkeypatch.setattr("actors.bench.ends.time.time_ns", lambda: now)
    message = b'{"time_exchange":"x","time_received":"2026-11-21T03:34:03.5Z","exchange":"y"}'
    assert now - _received(message) == 1_016_542_916
