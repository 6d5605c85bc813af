"""Laws of cumulative volume delta: exact sums, whatever is cut, dumped, loaded or hashed."""

import hashlib
import os
import random
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model import codec
from actors.model.events import L1, BookDelta, Cvd, Gap, Status, Tick, Trade
from actors.stages.cvd import CumulativeDelta
from actors.stages.fold import Output

SYMBOLS = ("BTC-USDT", "ETH-USDT", "BTC-USDT-PERP")

plain = st.integers(1, 10**12).map(lambda n: f"{n // 10**8}.{n % 10**8:08d}")
wholes = st.integers(1, 10**6).map(str)
longest = st.integers(1, 10**20).map(lambda n: f"{n}.{'1' * 30}{n % 10}")  # beyond Decimal's usual 28 digits
extremes = st.sampled_from(["0." + "0" * 61 + "1", "9" * 64, "100000000000000000000", "0.00000010"])
numbers = st.one_of(plain, plain, wholes, longest, extremes)
sizes = st.one_of(numbers, st.sampled_from(["0", "0.000"]))
times = st.integers(1, 10**19)
trades = st.builds(
    Trade,
    venue=st.just("v"), symbol=st.sampled_from(SYMBOLS), ts_event=st.none() | times, ts_recv=times,
    seq=st.none() | st.integers(0, 2**53), id=st.just("1"), price=numbers, size=sizes,
    aggressor=st.sampled_from(["buy", "sell"]), contracts=st.none() | numbers, backfilled=st.booleans(),
)  # fmt: skip
others = st.sampled_from(
    [
        Tick("v", None, None, 10**18, None),
        L1("v", "BTC-USDT", None, 1, None, "1", "1", "2", "1"),
        BookDelta("v", "BTC-USDT", None, 1, 5, "a.1", [("1", "1")], []),
        Gap("v", "BTC-USDT", None, 1, None, "trade", "sequence", "5", "7"),
        Status("v", None, None, 1, None, None, "down", "closed", "a.1"),
    ]
)
tapes = st.lists(st.one_of(trades, trades, others), max_size=30)


def folded(events, *, cut_every=None, reload_every=None):
    """Return every line of ``flow`` and the last dump."""
    fold, out, lines = CumulativeDelta("v"), Output(("flow", "dead")), []
    for k, event in enumerate(events, 1):
        if reload_every is not None and k % reload_every == 0:
            dump = fold.dump()
            fold = CumulativeDelta("v", dump)
            assert fold.dump() == dump
        fold.fold(k, codec.encode(event), out)
        if cut_every is not None and k % cut_every == 0:
            lines += out.lines["flow"]
            out.clear()
    assert out.lines["dead"] == []
    return lines + out.lines["flow"], fold.dump()


def exact(text):
    assert "E" not in text
    assert text == "0" or "." not in text or text[-1] != "0"
    return Fraction(text)


@given(tapes)
def test_the_sums_are_those_of_a_reference_one_event_a_trade(events):
    base, quote = dict.fromkeys(SYMBOLS, Fraction(0)), dict.fromkeys(SYMBOLS, Fraction(0))
    lines = iter(folded(events)[0])
    for event in events:
        if not isinstance(event, Trade):
            continue
        signed = Fraction(event.size) * (1 if event.aggressor == "buy" else -1)
        base[event.symbol] += signed
        quote[event.symbol] += signed * Fraction(event.price)
        said = codec.decode(next(lines))
        assert isinstance(said, Cvd)
        assert (said.venue, said.symbol, said.ts_event, said.ts_recv, said.seq) == (
            "v", event.symbol, event.ts_event, event.ts_recv, event.seq,
        )  # fmt: skip
        assert (exact(said.delta_base), exact(said.delta_quote)) == (base[event.symbol], quote[event.symbol])
    assert next(lines, None) is None


@given(tapes, st.integers(1, 9), st.integers(1, 9))
def test_cutting_dumping_and_loading_anywhere_change_nothing(events, cut_every, reload_every):
    assert folded(events, cut_every=cut_every, reload_every=reload_every) == folded(events)


def test_trades_that_cancel_out_leave_zero_however_they_are_spelled():
    def trade(size, aggressor):
        return Trade("v", "BTC-USDT", None, 1, None, "1", "95000.10", size, aggressor)

    lines, _ = folded([trade("0", "sell"), trade("1.50000000", "buy"), trade("1.5", "sell")])
    said = [codec.decode(line) for line in lines]
    assert [(e.delta_base, e.delta_quote) for e in said] == [("0", "0"), ("1.5", "142500.15"), ("0", "0")]


@pytest.mark.parametrize("cause", ["retention", "rollback"])
def test_a_jump_is_a_gap_in_flow_and_the_sums_go_on(cause):
    fold, out = CumulativeDelta("v"), Output(("flow", "dead"))
    trade = codec.encode(Trade("v", "BTC-USDT", None, 7, None, "1", "2", "3", "buy"))
    fold.fold(1, trade, out)
    fold.fold(2, codec.encode(Tick("v", None, None, 9, None)), out)
    fold.jump(3, 40, cause, out)
    fold.fold(41, trade, out)
    first, gap, second = (codec.decode(line) for line in out.lines["flow"])
    assert gap == Gap("v", None, None, 9, None, "trade", cause, "3", "40")
    assert (first.delta_base, second.delta_base, second.delta_quote) == ("3", "6", "12")
    assert out.counts["tapeline_gaps_total", f"trade/{cause}"] == 1
    assert out.counts["tapeline_events_total", "cvd"] == 2


@pytest.mark.parametrize(
    "change",
    [{"symbol": None}, {"price": "NaN"}, {"size": "Infinity"}, {"size": "x"}, {"aggressor": "none"}],
)
def test_a_trade_that_cannot_be_summed_raises_and_leaves_the_sums(change):
    fold, out = CumulativeDelta("v"), Output(("flow", "dead"))
    good = Trade("v", "BTC-USDT", None, 7, None, "1", "2", "3", "buy")
    fold.fold(1, codec.encode(good), out)
    before = fold.dump()
    with pytest.raises((ArithmeticError, ValueError, msgspec.MsgspecError)):
        fold.fold(2, codec.encode(msgspec.structs.replace(good, **change)), out)
    assert len(out.lines["flow"]) == 1
    assert fold.dump() == before


def tape(seed, length=300):
    dice = random.Random(seed)
    return [
        Trade(
            "v", dice.choice(SYMBOLS), None, 1000 + i, i, str(i), f"{dice.randint(1, 10**7) / 100:.2f}",
            f"{Decimal(dice.randint(0, 10**9)).scaleb(-dice.randint(0, 8)):f}", dice.choice(["buy", "sell"]),
        )
        for i in range(length)
    ]  # fmt: skip


def fingerprint():
    digest = hashlib.sha256()
    for seed in range(3):
        lines, dump = folded(tape(seed), cut_every=7, reload_every=11)
        digest.update(b"\n".join([*lines, dump]))
    return digest.hexdigest()


def test_the_order_of_hashes_changes_nothing():
    root = Path(__file__).parents[2]
    code = "import test_cvd_laws; print(test_cvd_laws.fingerprint())"
    path = os.pathsep.join([str(root), str(Path(__file__).parent)])
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert prints == {fingerprint()}
