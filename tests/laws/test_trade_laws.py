"""Laws of which trades pass where ids are not contiguous: each once, whoever brings it first."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.model.events import Trade
from actors.stages.normalize.marks import Duplicate, Filled, Marks, Opened, Reset
from actors.stages.normalize.recent import MOST_RECENT, Recent

MS = 1_000_000
START = 1_800_000_000_000 * MS
STEP = st.integers(1, 50_000)  # a venue that numbers all its markets together skips as far as it likes
MOVE = st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 5))
KINDS = ("increasing", "unordered")


def trade(identity: int | str, time: int = 0) -> Trade:
    return Trade("v", "BTC-USD", START + time * MS, START, None, str(identity), "1", "1", "buy")


def tape(kind: str, steps: list[int]) -> list[Trade]:
    number, trades = 0, []
    for at, step in enumerate(steps):
        number += step
        identity = number if kind == "increasing" else f"{number * 7919 % 1_000_003:x}-{at}"
        trades.append(trade(identity, at // 3))  # several of one time
    return trades


def reloaded(recent: Recent) -> Recent:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(recent), type=Recent)


def passed(recent: Recent, one: Trade, kind: str) -> bool:
    step = recent.see(one, increasing=kind == "increasing")
    assert not isinstance(step, Reset)
    return step is None


@given(st.sampled_from(KINDS), st.lists(STEP, min_size=1, max_size=200), st.lists(MOVE, max_size=600))
@settings(max_examples=150, deadline=None)
def test_two_legs_that_lag_break_and_come_back_give_each_trade_once(
    kind: str, steps: list[int], moves: list[tuple[str, int, int]]
) -> None:
    trades = tape(kind, steps)
    recent, seen = Recent(), set[str]()
    at = {"a": 0, "b": 0}
    for leg, what, how in moves:
        if what == 0:  # it broke, and comes back at the newest, or some before where the venue repeats them
            at[leg] = max(0, *(place - how for place in at.values()))
        elif what == 1:
            recent = reloaded(recent)
        elif at[leg] < len(trades):
            one = trades[at[leg]]
            at[leg] += 1
            assert passed(recent, one, kind) == (one.id not in seen)
            seen.add(one.id)


@given(st.lists(st.tuples(STEP, st.booleans()), max_size=80), st.sets(st.integers(0, 79)))
@settings(max_examples=100, deadline=None)
def test_dump_and_load_change_nothing_resets_included(steps: list[tuple[int, bool]], cuts: set[int]) -> None:
    whole, cut, number = Recent(), Recent(), 1_000_000
    for at, (step, back) in enumerate(steps):
        number += -step if back else step
        one = trade(number, at)
        assert whole.see(one, increasing=True) == cut.see(one, increasing=True)
        if at in cuts:
            cut = reloaded(cut)
    assert whole == cut


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_remembered_is_bounded_and_reaches_back_far_enough(kind: str) -> None:
    trades = tape(kind, [7] * 3 * MOST_RECENT)
    recent = Recent()
    for at, one in enumerate(trades):
        assert passed(recent, one, kind)
        assert len(recent.ids) < MOST_RECENT + 512
        if at % 500 == 0:
            assert not any(passed(recent, old, kind) for old in trades[max(0, at - MOST_RECENT + 1) : at])


def test_an_id_too_old_to_be_remembered_is_a_duplicate_unless_its_time_is_later() -> None:
    trades = tape("increasing", [7] * 2 * MOST_RECENT)
    recent = Recent()
    for one in trades:
        recent.see(one, increasing=True)
    assert recent.see(trades[0], increasing=True) == Duplicate()
    assert recent.see(trade(3, 10_000_000), increasing=True) == Reset()
    assert recent.see(trade(3, 10_000_000), increasing=True) == Duplicate()
    assert recent.see(trade(1), increasing=True) is None  # of the new count, late
    assert recent.see(trade(4, 10_000_001), increasing=True) is None


def test_a_late_trade_passes_though_a_later_one_has() -> None:
    recent = Recent()
    told = [recent.see(trade(n, n), increasing=True) for n in (5, 900_000, 12, 12, 3, 900_000)]
    assert told == [None, None, None, Duplicate(), None, Duplicate()]


def test_a_trade_without_a_time_is_never_a_reset() -> None:
    recent = Recent()
    recent.see(trade(900_000, 1), increasing=True)
    timeless = Trade("v", "BTC-USD", None, START, None, "5", "1", "1", "buy")
    assert recent.see(timeless, increasing=True) is None
    assert recent.high == 900_000


FATE = st.sampled_from(("given", "given", "lost", "late"))


@given(st.lists(st.tuples(FATE, st.booleans(), st.booleans()), min_size=1, max_size=80))
@settings(max_examples=200, deadline=None)
def test_what_a_venue_says_is_its_latest_is_passed_or_inside_a_hole(
    fates: list[tuple[str, bool, bool]],
) -> None:
    marks = Marks(101, 100, None)  # as its first word seeds it
    passed: list[int] = []
    holes: set[tuple[int, int]] = set()
    late: list[Trade] = []
    for number, (fate, claimed, given_up) in enumerate(fates, 101):
        one = trade(number, number)
        steps = list(marks.see(one, number, wait=False)) if fate == "given" else []
        late += [one] if fate == "late" else []
        if claimed:
            marks.claim(number, number)
        if given_up:
            steps += marks.miss()
        if given_up and late:
            steps += marks.see(late.pop(), number, wait=False)
        for step in steps:
            match step:
                case Trade():
                    passed.append(int(step.id))
                case Opened():
                    holes.add((step.hole.first, step.hole.last))
                case Filled():
                    holes.remove((step.hole.first, step.hole.last))
                case _:
                    raise AssertionError(step)
    assert len(passed) == len(set(passed))
    inside = {n for first, last in holes for n in range(first, last + 1)}
    assert set(range(101, marks.high + 1)) <= set(passed) | inside
    assert all(set(range(first, last + 1)) - set(passed) for first, last in holes)
