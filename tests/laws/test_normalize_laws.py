"""Laws of the normalizer's fold, over inputs of two legs that open, close, skip, repeat and fall silent."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from normalize_input import CHOICES, STREAMS, SYMBOLS, VENUE, Choice, Script, seeded, trade, write

from actors.model import codec
from actors.model.events import Gap, Status, Tick, Trade
from actors.stages import raw
from actors.stages.control import ControlRequest
from actors.stages.fold import Output
from actors.stages.normalize import Normalize

CHOICE = st.tuples(st.integers(0, CHOICES - 1), st.integers(0, 15), st.integers(0, 40))
INPUT = st.lists(CHOICE, max_size=120) | st.builds(seeded, st.integers(0, 1 << 32), st.integers(100, 400))
HERE = Path(__file__).parent


def in_pieces(lines: list[bytes], cuts: set[int]) -> tuple[dict[str, list[bytes]], bytes]:
    """Fold ``lines``, at each cut with a new output and a fold that is loaded from the former one's dump."""
    fold = Normalize(VENUE, "binance.0")
    said: dict[str, list[bytes]] = {stream: [] for stream in STREAMS}
    out = Output(STREAMS)
    for k, line in enumerate(lines, 1):
        fold.fold(k, line, out)
        if k in cuts:
            for stream in STREAMS:
                said[stream] += out.lines[stream]
            out.clear()
            fold = Normalize(VENUE, "binance.0", fold.dump())
    for stream in STREAMS:
        said[stream] += out.lines[stream]
    return said, fold.dump()


@given(INPUT, st.data())
@settings(max_examples=60, deadline=None)
def test_splitting_the_input_dump_and_load_change_nothing(choices: list[Choice], data: st.DataObject) -> None:
    script = write(choices)
    cuts = data.draw(st.sets(st.integers(1, len(script.lines)), max_size=12))
    said, state = in_pieces(script.lines, cuts)
    assert said == script.out.lines
    assert state == script.fold.dump()


def trades_and_gaps(script: Script, symbol: str) -> tuple[list[int], Counter[tuple[int, int]]]:
    ids: list[int] = []
    holes: Counter[tuple[int, int]] = Counter()
    for line in script.out.lines["events"]:
        event = codec.decode(line)
        if event.symbol == symbol and isinstance(event, Trade):
            ids.append(int(event.id))
        elif event.symbol == symbol and isinstance(event, Gap) and event.channel == "trade":
            if event.first is None:
                assert not ids, "of ids that are known it is told which are missing"
                continue
            assert event.last is not None
            holes[int(event.first), int(event.last)] += -1 if event.filled else 1
    return ids, holes


@given(INPUT)
@settings(max_examples=60, deadline=None)
def test_each_trade_passes_once_or_lies_in_an_open_gap(choices: list[Choice]) -> None:
    script = write(choices)
    for symbol in SYMBOLS:
        ids, holes = trades_and_gaps(script, symbol)
        assert len(ids) == len(set(ids)), "a trade passed twice"
        assert all(n in (0, 1) for n in holes.values()), "a gap was opened or closed twice"
        open_holes = [hole for hole, n in holes.items() if n]
        missing = set(range(min(ids, default=0), max(ids, default=-1) + 1)) - set(ids)
        named = {n for low, high in open_holes for n in range(low, high + 1)}
        assert missing <= named, "a trade is missing and no gap names it"
        assert all(missing & set(range(low, high + 1)) for low, high in open_holes), "a filled gap is open"


@given(INPUT)
@settings(max_examples=40, deadline=None)
def test_a_gap_stands_before_the_trades_that_follow_it(choices: list[Choice]) -> None:
    high = dict.fromkeys(SYMBOLS, 0)
    for line in write(choices).out.lines["events"]:
        event = codec.decode(line)
        if isinstance(event, Trade) and event.symbol is not None:
            if high[event.symbol] and int(event.id) > high[event.symbol]:
                assert int(event.id) == high[event.symbol] + 1
            high[event.symbol] = max(high[event.symbol], int(event.id))
        elif isinstance(event, Gap) and event.symbol is not None and event.channel == "trade":
            early = int(event.last or 0) < high[event.symbol]  # of the slower leg, at the very start
            unknown = event.first is None and not high[event.symbol]  # there was none yet
            assert event.filled or early or unknown or int(event.first or 0) == high[event.symbol] + 1
            high[event.symbol] = max(high[event.symbol], int(event.last or 0))


@given(INPUT)
@settings(max_examples=40, deadline=None)
def test_statuses_are_changes_and_requests_have_ids_of_their_own(choices: list[Choice]) -> None:
    script = write(choices)
    told: dict[tuple[str | None, str | None], str] = {}
    times = []
    for line in script.out.lines["events"]:
        event = codec.decode(line)
        if isinstance(event, Status) and event.conn is None and event.channel is not None:
            again = event.reason == "listed again"  # after the refusal of the whole symbol
            assert again or told.get((event.channel, event.symbol)) != event.state
            told[event.channel, event.symbol] = event.state
        if isinstance(event, Tick | Status | Gap):
            times.append(event.ts_recv)
    assert times == sorted(times), "fold time went back"
    asked = [msgspec.json.decode(line, type=ControlRequest) for line in script.out.lines["control"]]
    assert len({request.id for request in asked}) == len(asked)


@given(st.integers(0, 1 << 32))
@settings(max_examples=25, deadline=None)
def test_two_legs_of_which_one_at_a_time_is_killed_leave_no_gap(seed: int) -> None:
    rng = random.Random(seed)
    script = Script()
    head, given_to = 1000, {"a": 1000, "b": 1000}  # the venue's last trade; the last in raw, by leg
    for leg in "ab":
        script.frame(newest(script, leg), "btcusdt@trade", trade("BTC-USDT", 1000))
    dead, back, born = "", 0, 0
    for step in range(600):
        script.now += 10
        head += rng.randrange(3)
        victim = rng.choice("ab")
        if not dead and rng.random() < 0.02 and given_to[victim] >= born:  # what it alone heard is in raw
            dead, back = victim, step + rng.randrange(1, 60)
            if rng.random() < 0.5:  # else it dies without a word
                script.say(newest(script, dead), "x", raw.Closed(1006, "gone"))
        elif dead and step >= back:
            script.say(f"{dead}.*", "x", raw.Closed(None, "new owner"))
            script.open(dead)
            born, given_to[dead], dead = head, head, ""  # it hears what comes from now on
        for leg in rng.sample("ab", 2):
            behind = head - given_to[leg]
            if leg != dead and behind and (behind > 20 or rng.random() < 0.4):  # each lags as it likes
                for _ in range(rng.randrange(1, behind + 1)):
                    given_to[leg] += 1
                    numbers = trade("BTC-USDT", given_to[leg])
                    script.frame(newest(script, leg), "btcusdt@trade", numbers)
        if step % 100 == 99:
            script.say("-", "k", raw.LegsAlive([leg for leg in "ab" if leg != dead]))
    ids, holes = trades_and_gaps(script, "BTC-USDT")
    assert not +holes, "a gap though one leg was always there"
    assert ids == list(range(ids[0], ids[-1] + 1)), "out of order"


def newest(script: Script, leg: str) -> str:
    return [conn for conn in script.conns if conn[0] == leg][-1]


def test_what_the_fold_says_does_not_depend_on_the_hash_seed() -> None:
    said = {
        subprocess.run(
            [sys.executable, str(HERE / "normalize_input.py"), "7", "3000"],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(HERE.parents[1])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(said) == 1
    assert int(said.pop().split()[0]) > 1500


def test_the_inputs_of_these_laws_reach_every_kind_of_outcome() -> None:
    scripts = [write(seeded(seed, 1500)) for seed in range(6)]
    events = [codec.decode(line) for script in scripts for line in script.out.lines["events"]]
    control = [msgspec.json.decode(line)["op"] for script in scripts for line in script.out.lines["control"]]
    kinds = {"trade", "gap", "status", "tick", "book_delta", "l1", "instrument"}
    assert kinds <= {msgspec.to_builtins(event)["kind"] for event in events}
    assert {"backfill", "resubscribe", "reconnect", "subscribe"} <= set(control)
    assert any(isinstance(event, Gap) and event.filled for event in events)
    assert any(isinstance(event, Trade) and event.backfilled for event in events)
    assert {event.state for event in events if isinstance(event, Status)} >= {
        "wanted", "subscribed", "live", "stale", "resyncing", "refused", "down",
    }  # fmt: skip
    assert all(script.out.lines["dead"] for script in scripts)
