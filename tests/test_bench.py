"""The benchmark measures, loses nothing and says what it promises. No figure is asserted: machines differ."""

import subprocess
import sys
from collections import Counter

import orjson
import pytest

from actors.bench import heard, rows, tape
from actors.bench.ends import Counted, Fresh, received
from actors.bench.progress import Progress
from actors.model.codec import decode
from actors.model.events import L1, BookDelta, BookSnapshot, Gap, Trade
from actors.simulator.street import simulated
from actors.stages.fold import Output
from actors.stages.normalize import Normalize
from actors.venues import VENUES


@pytest.mark.redis
@pytest.mark.timeout(150)
def test_the_rows_have_their_names_and_nothing_is_lost():
    chosen = ("forward", "--only", "book", "--only", "delivered", "--only", "fanout", "--only", "demo")
    command = [sys.executable, "-m", "actors", "bench", "--json", "--seconds", "0.5", "--runs", "1", *chosen]
    done = subprocess.run(command, capture_output=True, timeout=140, check=False)
    assert done.returncode == 0, done.stderr.decode()
    figures = orjson.loads(done.stdout)
    assert figures["lost"] == 0
    assert figures["venues"] == "binance kraken okx"
    for name in (
        "book_us",
        "delivered_per_s",
        "delivered_per_s_median",
        "delivered_per_s_ratio_to_bare",
        "spin_ms",
        "fanout_per_s",
        "forward_per_s",
        "demo_cores",
        "demo_mib",
    ):
        assert figures[name] > 0


def folded(made):
    """Fold a tape with the normalizer of each venue; return its events."""
    folds = [Normalize(VENUES[name], f"{name}.0") for name in made.venues]
    events = []
    for k, packed in enumerate(made.packed(), 1):
        connection, _, text = tape.unpacked(packed)
        out = Output(("events", "control", "dead"))
        stamp = b"%d %b " % (1_795_000_000_000_000_000 + k, tape.conn_of(connection).encode())
        folds[connection % len(folds)].fold(k, stamp + text, out)
        assert not out.lines["dead"]
        events += map(decode, out.lines["events"])
    return events


def test_a_tape_longer_than_what_was_recorded_repeats_nothing_and_misses_nothing(tmp_path):
    made = tape.record(tmp_path, 1, 3000, 1000)
    events = folded(made)
    trades = [(e.venue, e.symbol, e.id) for e in events if isinstance(e, Trade)]
    assert len(set(trades)) == len(trades)
    assert {(venue, symbol) for venue, symbol, _ in trades} == {
        (venue, symbol) for venue, symbols in tape.SYMBOLS.items() for symbol in symbols
    }
    assert not [e for e in events if isinstance(e, Gap) and e.channel == "trade"]
    snapshots = Counter((e.venue, e.symbol) for e in events if isinstance(e, BookSnapshot))
    assert min(snapshots.values()) >= 3  # one for each life of the connection
    followed = sum(tape.unpacked(line).events for line in made.packed())
    begun = sum(snapshots[venue, symbol] for venue, symbol in snapshots if venue == "binance")
    assert followed == sum(isinstance(e, Trade | L1 | BookDelta) for e in events) - begun


@pytest.mark.redis
def test_memory_is_told_of_every_actor_on_real_sockets(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_SAMPLES", 1)
    bench = rows.Bench(tape.record(tmp_path, 1, 0, 0), 1.0, 1, lambda _: None)
    few, many = rows.memory_once(bench, 500, 2000)
    assert few.keys() == many.keys()
    assert set(many) == {"connector", "normalizer", "bookbuilder", "analytics", "broadcaster"}
    assert min(*few.values(), *many.values()) > 2**20


def message(exchange, kind, data=b"{}"):
    return (
        b'{"time_exchange":"x","time_received":"y","exchange":"%b","instrument":{"base":"eth","quote":"usd",'
        b'"kind":"Spot"},"kind":"%b","data":%b}' % (exchange, kind, data)
    )


def test_a_client_counts_what_is_followed_and_each_change_once():
    counts = Counted()
    change = b'{"Update":{"asks":{"levels":[]},"bids":{"levels":[]},"sequence":%d,"time_engine":null}}'
    assert counts(message(b"Kraken", b"trade"))
    assert counts(message(b"Okx", b"order_book_l1"))
    assert not counts(message(b"Kraken", b"order_book_l1"))  # comes of its book
    assert not counts(message(b"Okx", b"cumulative_volume_delta"))
    assert not counts(message(b"Okx", b"order_book_l2", b'{"Snapshot":{}}'))
    assert [counts(message(b"Okx", b"order_book_l2", change % 0)) for _ in range(2)] == [True, True]
    assert [counts(message(b"BinanceSpot", b"order_book_l2", change % n)) for n in (7, 7, 8)] == [
        True,
        False,
        True,
    ]


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
    assert now - received(message) == 1_016_542_916


@pytest.mark.parametrize("name", simulated())
def test_what_is_heard_of_a_venue_comes_the_same_again_and_every_book_is_joined(name):
    first, again = heard.hear(name, 400, 1), heard.hear(name, 400, 1)
    assert first.lines == again.lines
    trades = [[], []]
    kept = [heard.keep(first, each.append) for each in trades]
    assert trades[0] == trades[1]
    books = {symbol: sync for of_one in kept[0].syncs.values() for symbol, sync in of_one.items()}
    assert books.keys() == {row.symbol for row in first.instruments.values()}
    assert all(sync.joined for sync in books.values())
    assert {trade.symbol for trade in trades[0]} <= books.keys()


def test_the_cost_of_a_frame_is_told_of_each_venue_that_can_be_simulated():
    command = [
        sys.executable,
        "-m",
        "actors",
        "bench",
        "venues",
        "--json",
        "--runs",
        "2",
        "--venue",
        "bitfinex",
    ]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    figures = orjson.loads(done.stdout)
    assert (figures["venues"], list(figures["decode"])) == ("bitfinex", ["bitfinex"])
    assert figures["decode"]["bitfinex"].pop("frames") >= 3_000
    names = {"decode_us", "decode_us_median", "book_us", "book_us_median"}
    assert set(figures["decode"]["bitfinex"]) == names | {"json_us", "json_us_median", "decode_ratio_to_json"}
    assert all(value > 0 for value in figures["decode"]["bitfinex"].values())
    assert set(figures["decode_missing"]) == set(VENUES) - set(simulated())
