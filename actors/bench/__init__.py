"""``tapeline bench``: what the pipeline does on this machine, in relation to a bare loop in the same run.

Each row runs several times; plain names hold the best run, ``<name>_median`` and ``<name>_ratio_to_bare``
stand beside, and a spin loop's time tells the machine's mood.
What the venues say is recorded from the simulator first, so it runs anywhere and needs no network.

``demo`` is the whole of ``tapeline demo``: processor time and memory of all its processes, Redis included.
``forward`` is the way to a master: trades in ``events`` to acknowledged lines in its files, each synced.
``venues`` is what a frame costs each venue's decode (CPU, microseconds), and with its book kept: joined,
proved, its levels set. Frames are those of the simulator, inflated: every channel of the three busiest
instruments. In the JSON ``decode`` has by venue ``frames``, ``decode_us``, ``book_us`` (decode included),
``json_us`` (the same frames as whatever JSON they are; absent where they are none), each with its
``_median``, and ``decode_ratio_to_json``, the median of the runs'; ``decode_missing`` lists the venues that
have no simulator.
All rows but ``book``, ``demo``, ``venues``, ``fanout`` and ``forward`` are about three venues, a partition
each, with one normalizer, one bookbuilder and one analytics, which sums trades (CVD) into ``flow``; the
broadcaster delivers those sums too, one more message a trade, and they are not counted as events. The row
``memory`` takes minutes and runs only when it is named.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import orjson

from actors.bench import rows
from actors.bench.demo import demo_once
from actors.bench.tape import SYMBOLS, record
from actors.simulator.street import simulated
from actors.venues import VENUES as ADAPTERS

ROWS: Final = (
    *("book", "venues", "events", "delivered", "latency"),
    *("cores", "fanout", "forward", "sockets", "demo", "memory"),
)
VENUES: Final = tuple(SYMBOLS)
DECODED: Final = tuple(simulated())
_LONG: Final = frozenset({"memory"})  # only where it is named
_OF_ALL: Final = frozenset({"venues", "demo"})  # rows of every venue
_TAPELESS: Final = frozenset({"book", "venues", "fanout", "forward", "sockets", "demo", "memory"})
_MOST_EVENTS_PER_S: Final = 90_000  # chosen: what a run's tape is long enough for
_RECORDED_PER_S: Final = 12_000  # chosen: so that it begins again once a run at the rate of the latency row
_MEMORY_EVENTS: Final = (1_000_000, 10_000_000)  # DESIGN 16


def main(
    *,
    as_json: bool = False,
    seconds: float = 15.0,
    runs: int = 5,
    only: Sequence[str] = (),
    venues: Sequence[str] = (),
    seed: int = 1,
) -> int:
    """Run the rows and print their figures. Exit code 0, or 1 when an event was lost.

    Args:
        as_json: One JSON document on stdout; else lines for people.
        seconds: How long each run measures.
        runs: How often each row runs; a bare loop alternates with it.
        only: Rows to run, of ``ROWS``; empty for all but those that take minutes.
        venues: Of ``VENUES``, for the row ``venues`` of ``DECODED``; empty for all.
        seed: Of the generated market.
    """

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    chosen = [row for row in ROWS if row in only or not (only or row in _LONG)]
    with tempfile.TemporaryDirectory(prefix="tapeline-bench-") as folder:
        needed = 0 if _TAPELESS.issuperset(chosen) else seconds + 3
        say("recording the simulated venues …")
        tape = record(
            Path(folder),
            seed,
            int(_MOST_EVENTS_PER_S * needed),
            int(_RECORDED_PER_S * needed),
            tuple(name for name in VENUES if name in venues) or VENUES,
        )
        bench = rows.Bench(tape, seconds, runs, say, seed, tuple(venues or DECODED))
        figures: dict[str, object] = {
            "runs": runs,
            "seconds": seconds,
            "venues": " ".join(bench.decoded if _OF_ALL.issuperset(chosen) else tape.venues),
        }
        lost = 0
        for row in chosen:
            figures |= _MEASURES[row](bench)
            lost += cast("int", figures.pop("lost", 0))
            say(f"{row}: done")
        figures |= _figures("spin_ms", bench.spins, 1, low=True)
        figures["lost"] = lost
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        for name, value in _flat(figures):
            say(f"{name:24} {value}")
    return 1 if lost else 0


def _flat(figures: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, object]", value), f"{before}{name} ")
        else:
            yield before + name, value


def _figures(name: str, found: Sequence[float], digits: int, *, low: bool = False) -> dict[str, object]:
    """Return the best under ``name``, the median beside it."""
    best = min(found) if low else max(found)
    return {name: round(best, digits), f"{name}_median": round(rows.median(found), digits)}


def _paired(
    bench: rows.Bench, name: str, run: Callable[[rows.Bench], tuple[float, int]], *, sockets: bool
) -> dict[str, object]:
    """Alternate a row with its bare loop; the ratio is the median of the pairs'."""
    found: list[float] = []
    ratios: list[float] = []
    lost = 0
    for i in range(bench.runs):
        rate, missing = run(bench)
        bare = rows.bare_once(bench, sockets=sockets)
        lost += missing
        found.append(rate)
        ratios.append(rate / bare)
        pair = f"{rate:,.0f}, bare {bare:,.0f}, lost {missing}"
        bench.say(f"  {name} {i + 1}/{bench.runs}: {pair} ({bench.mood()})")
    ratio = round(rows.median(ratios), 3)
    return {**_figures(name, found, 0), f"{name}_ratio_to_bare": ratio, "lost": lost}


def _several(
    bench: rows.Bench, name: str, run: Callable[[rows.Bench], float], *, low: bool = False
) -> dict[str, object]:
    found: list[float] = []
    for i in range(bench.runs):
        found.append(run(bench))
        bench.say(f"  {name} {i + 1}/{bench.runs}: {found[-1]:,.2f} ({bench.mood()})")
    return _figures(name, found, 2, low=low)


def _latency(bench: rows.Bench) -> dict[str, object]:
    """Return both percentiles of the run with the best p99."""
    figures: dict[str, object] = {}
    lost = 0
    for rate, p50_name, p99_name in ((10_000.0, "p50_ms", "p99_ms"), (20_000.0, "p50_20k_ms", "p99_20k_ms")):
        found: list[tuple[float, float]] = []
        for i in range(bench.runs):
            p50, p99, missing = rows.latency_once(bench, rate)
            lost += missing
            found.append((p50, p99))
            run = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, lost {missing}"
            bench.say(f"  at {rate:,.0f}/s {i + 1}/{bench.runs}: {run} ({bench.mood()})")
        best = min(found, key=lambda pair: pair[1])
        figures |= {p50_name: round(best[0], 2), p99_name: round(best[1], 2)}
        figures[f"{p50_name}_median"] = round(rows.median([p50 for p50, _ in found]), 2)
        figures[f"{p99_name}_median"] = round(rows.median([p99 for _, p99 in found]), 2)
    return {**figures, "lost": lost}


def _forward(bench: rows.Bench) -> dict[str, object]:
    found: list[float] = []
    lost = 0
    for i in range(bench.runs):
        rate, missing = rows.forward_once(bench)
        lost += missing
        found.append(rate)
        bench.say(f"  forward_per_s {i + 1}/{bench.runs}: {rate:,.0f}, lost {missing} ({bench.mood()})")
    return {**_figures("forward_per_s", found, 0), "lost": lost}


def _memory(bench: rows.Bench) -> dict[str, object]:
    """Run once, however many runs were asked for; the plain name holds the worst actor's."""
    few, many = rows.memory_once(bench, *_MEMORY_EVENTS)
    ratios = {f"memory_ratio_{role}": round(many[role] / few[role], 3) for role in few}
    sizes = {f"memory_mib_{role}": round(used / 2**20, 1) for role, used in many.items()}
    return {"memory_ratio": max(ratios.values()), **ratios, **sizes}


def _venues(bench: rows.Bench) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in bench.decoded:
        frames, bare, decode, book = rows.decoding_once(bench, name)
        figures: dict[str, object] = {"frames": frames}
        figures |= _figures("decode_us", decode, 2, low=True) | _figures("book_us", book, 2, low=True)
        if bare:
            ratios = [ours / parsed for ours, parsed in zip(decode, bare, strict=True)]
            figures |= _figures("json_us", bare, 2, low=True)
            figures["decode_ratio_to_json"] = round(rows.median(ratios), 2)
        found[name] = figures
        bench.say(f"  {name}: decode {min(decode):.2f} us, book {min(book):.2f} us ({bench.mood()})")
    return {"decode": found, "decode_missing": [name for name in ADAPTERS if name not in DECODED]}


def _demo(bench: rows.Bench) -> dict[str, object]:
    found = [demo_once(bench.seconds) for _ in range(bench.runs)]
    cores, mib = zip(*found, strict=True)
    return {**_figures("demo_cores", cores, 2, low=True), **_figures("demo_mib", mib, 0, low=True)}


_MEASURES: Final[dict[str, Callable[[rows.Bench], dict[str, object]]]] = {
    "venues": _venues,
    "book": lambda bench: _several(bench, "book_us", rows.book_once, low=True),
    "events": lambda bench: _paired(bench, "events_per_s", rows.events_once, sockets=False),
    "delivered": lambda bench: _paired(bench, "delivered_per_s", rows.delivered_once, sockets=True),
    "latency": _latency,
    "cores": lambda bench: _several(bench, "cores_at_2k", lambda b: rows.cores_once(b, 2000.0), low=True),
    "fanout": lambda bench: _several(bench, "fanout_per_s", rows.fanout_once),
    "forward": _forward,
    "sockets": lambda bench: _several(bench, "socket_events_per_s", rows.sockets_once),
    "demo": _demo,
    "memory": _memory,
}
