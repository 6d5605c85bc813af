"""Thousands of frames of each venue made wrong: what comes of one is lawful, or ``Unparseable``, and soon.

Nothing is drawn but from a seed (``TAPELINE_FUZZ_SEED``, 1). A frame that breaks a law is printed as a line
for the venue's case table.
"""

import gzip
import json
import os
import signal
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from random import Random
from types import FrameType
from typing import Any

import pytest
from fuzz_seeds import WIRE, Seed, of_table, of_wire, recorded
from mutations import HUGE, mutated, parts, put
from venue_law import assert_lawful, assert_lawful_address, assert_lawful_request, assert_lawful_row

from actors.connector.inflating import Broken, gunzip
from actors.model.errors import Unparseable
from actors.venues import VENUES

SEED = os.environ.get("TAPELINE_FUZZ_SEED", "1")
CPU_S = 10.0  # chosen: hundreds of times what the slowest takes; it tells a hang, not a speed
MOST_PER_BYTE, MOST_BESIDE = 100, 64 * 1024  # chosen: an exponent makes 64 digits of 3
MANY = [2_000, pytest.param(100_000, marks=[pytest.mark.fuzz, pytest.mark.timeout(1_800)])]


class Hung(Exception):
    """It takes too long."""


@contextmanager
def hangs_told() -> Iterator[None]:
    """Let ``within`` raise where it takes too long; pytest-timeout has the other timer."""

    def told(_signal: int, _frame: FrameType | None) -> None:
        raise Hung(f"more than {CPU_S:g} s of CPU")

    former = signal.signal(signal.SIGVTALRM, told)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, former)


def attempt(name: str, seed: Seed, data: bytes) -> bool:
    """Give ``data`` to a venue, check what it says of it; False: ``Unparseable``."""
    venue, scratch = VENUES[name], seed.scratch(VENUES[name])
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S)
    if seed.use == "decode":
        answer = venue.answer(data)
        assert answer is None or isinstance(answer, str)
        assert venue.greeting is None or isinstance(venue.greeting(data), bool)
    try:
        said = seed.call(venue, data, scratch)
        if seed.use == "rows":
            assert_lawful_request(venue.next_page(venue.instruments[0], data))
            size = sum(map(assert_lawful_row, said))
        elif seed.use == "handshake":
            size = sum(map(assert_lawful_address, said))
        else:
            size = assert_lawful(venue, said, scratch)
    except Unparseable as e:
        str(e).encode()  # it goes into ``dead``
        return False
    assert size <= MOST_BESIDE + MOST_PER_BYTE * len(data)
    return True


def case_of(seed: Seed, data: bytes) -> str:
    """Return a case of ``data``, for the case table."""
    case: dict[str, Any] = {"why": "...", "source": "fuzz"}
    try:
        case["frame"] = data.decode()
    except UnicodeDecodeError:
        case["frame"] = {"hex": data.hex()}
    if seed.before:
        case["before"] = seed.before
    if seed.request is not None:
        case["request"] = {"op": seed.request.op, "path": seed.request.path, "symbol": seed.request.symbol}
    return json.dumps(case | {"rows" if seed.use == "rows" else "events": [{"unparseable": ""}]})


def told(name: str, seed: Seed, data: bytes, e: Exception) -> str:
    """Return what happened, where, and to what."""
    at = traceback.extract_tb(e.__traceback__)[-1]
    known = {native: row.symbol for native, row in list(seed.instruments.items())[:20]}
    return (
        f"{name}, {seed.use}: {type(e).__name__} {e}\n{at.filename}:{at.lineno}: {at.line}\n"
        f"instruments: {known}\nwas: {seed.data[:4000]!r}\ncase:\n{case_of(seed, data)}"
    )


def held(name: str, seed: Seed, data: bytes) -> bool:
    """Return as ``attempt``; a law that is broken is told."""
    try:
        return attempt(name, seed, data)
    except Exception as e:  # noqa: BLE001 - any is what is looked for
        pytest.fail(told(name, seed, data, e), pytrace=False)


def drawn(dice: Random, seeds: Sequence[Seed], n: int) -> Iterator[tuple[Seed, bytes]]:
    """Yield ``n`` mutated frames with the seed of each: of long ones, which take long, fewer."""
    frames = [seed.data for seed in seeds]
    weights = list(accumulate(1 / (1 + len(frame) / 1_000) for frame in frames))
    for seed in dice.choices(seeds, cum_weights=weights, k=n):
        yield seed, mutated(dice, seed.data, frames, binary=seed.binary)


def fuzz(name: str, seeds: Sequence[Seed], n: int) -> Counter[bool]:
    """Try ``n`` frames made of ``seeds``; tell which broke a law. Return how many were understood."""
    dice = Random(f"{name} {SEED}")
    understood: Counter[bool] = Counter()
    with hangs_told():
        for seed, data in drawn(dice, seeds, n):
            understood[held(name, seed, data)] += 1
    return understood


def assert_both(understood: Counter[bool], n: int) -> None:
    """Some frames still mean something, others do not; else nothing was tried."""
    assert understood[True] > n // 50
    assert understood[False] > n // 50


def split(seeds: Sequence[Seed]) -> tuple[list[Seed], list[Seed]]:
    """Return frames and bodies."""
    return [s for s in seeds if s.use == "decode"], [s for s in seeds if s.use != "decode"]


@pytest.mark.parametrize("n", MANY)
@pytest.mark.parametrize("name", VENUES)
def test_a_wrong_frame_of_the_table_is_events_or_unparseable(name: str, n: int) -> None:
    frames, bodies = split(of_table(name))
    assert frames, "a venue without frames is not tried"
    assert bodies
    assert_both(fuzz(name, frames, n), n)
    assert_both(fuzz(name, bodies, n // 4), n // 4)


@pytest.mark.parametrize("n", MANY)
@pytest.mark.parametrize("name", VENUES)
def test_a_wrong_frame_of_a_recording_is_events_or_unparseable(name: str, n: int) -> None:
    if not list(recorded(name)):
        pytest.skip(f"no recorded frames of {name} at {WIRE}")
    frames, bodies = split(of_wire(name))
    assert frames, "a venue without frames is not tried"
    assert_both(fuzz(name, frames, n), n)
    if bodies:
        fuzz(name, bodies, n // 4)


@pytest.mark.parametrize("name", [name for name in VENUES if VENUES[name].inflate])
def test_a_wrong_compressed_frame_is_a_frame_or_broken(name: str) -> None:
    dice, most = Random(f"{name} gzip {SEED}"), VENUES[name].limits.max_frame_bytes
    seeds = split(of_table(name))[0]
    whole = [gzip.compress(seed.data) for seed in seeds]
    inflated: Counter[bool] = Counter()
    with hangs_told():
        for seed, text in drawn(dice, seeds, 2_000):
            frame = gzip.compress(text)
            if dice.random() < 0.8:
                frame = mutated(dice, frame, whole, binary=True)
            try:
                found = gunzip(frame, most)
            except Broken:
                inflated[False] += 1
                continue
            inflated[True] += 1
            held(name, seed, found)
    assert_both(inflated, 2_000)


@pytest.mark.parametrize("name", [name for name in VENUES if VENUES[name].inflate])
def test_a_bomb_takes_no_more_memory_than_the_largest_frame(name: str) -> None:
    most = VENUES[name].limits.max_frame_bytes
    once = gzip.compress(bytes(16 * most))
    bombs = [once, gzip.compress(once), once * 20, gzip.compress(b"[" * 16 * most)]
    tracemalloc.start()
    try:
        for bomb in bombs:
            tracemalloc.reset_peak()
            with suppress(Broken):
                gunzip(bomb, most)
            assert tracemalloc.get_traced_memory()[1] < 3 * most + 2 * len(bomb)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", VENUES)
def test_a_huge_frame_takes_memory_in_proportion(name: str) -> None:
    dice = Random(f"{name} {SEED}")
    seeds = [seed for seed in of_table(name) if parts(seed.data).values]
    tracemalloc.start()
    try:
        with hangs_told():
            for huge in HUGE:
                seed = dice.choice(seeds)
                data = put(seed.data, dice.choice(parts(seed.data).values), huge)
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                held(name, seed, data)
                taken = tracemalloc.get_traced_memory()[1] - before
                assert taken < 4 * 2**20 + 60 * len(data), case_of(seed, data)
    finally:
        tracemalloc.stop()
