"""``make bench-peers``: both sides in alternating pairs; figures for people, or JSON.

``handlers`` in the JSON has by venue ``frames`` (where they are from), ``frames_per_run``, ``us_per_frame``
and ``us_per_frame_cryptofeed`` (the best runs), ``ratio`` (the best pair's, ours to theirs), each with its
``_median``, ``same`` (both told the same trades and hold the same books), ``apart`` (what was told otherwise)
and ``why`` (what is known of it).
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from actors.bench.rows import spin_ms
from benchmarks.peers import frames, handlers, sides


def main(arguments: Sequence[str]) -> int:
    """Run and print. Exit code 0, 1 when an event is missing, 2 for what cannot be run."""
    parser = argparse.ArgumentParser(prog="make bench-peers", description=sides.__doc__)
    parser.add_argument("--python", type=Path, default=Path(".venv-peers/bin/python"), help="with cryptofeed")
    older = Path(".venv-peers-older/bin/python")
    parser.add_argument("--older", type=Path, default=older, help="with cryptofeed 2.3.2, for Coinbase")
    parser.add_argument("--only", choices=("redis", "handlers"), help="one of the two comparisons")
    parser.add_argument("--venue", action="append", choices=handlers.SPOKEN, help="whose handlers; else all")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--passes", type=int, default=10, help="over the frames, in each run")
    parser.add_argument("--frames", type=Path, help="a capture; without: the recorded one, else generated")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    out = sys.stderr if chosen.json else sys.stdout

    def say(text: str) -> None:
        print(text, file=out, flush=True)

    if not chosen.python.exists():
        say(f"no cryptofeed: {chosen.python} is missing; make bench-peers installs it")
        return 2
    figures: dict[str, object] = {}
    if chosen.only != "handlers":
        try:
            capture = _capture(chosen.frames)
        except (OSError, ValueError) as e:
            say(f"no frames to play: {e}")
            return 2
        say(f"{capture.origin}, {capture.frames} frames, {chosen.passes} passes a run")
        figures |= measure(chosen.python, capture, pairs=chosen.pairs, passes=chosen.passes, say=say)
    if chosen.only != "redis":
        pythons = {False: chosen.python, True: chosen.older}
        figures["handlers"] = {
            name: _handlers(name, pythons[handlers.SPOKEN[name].older], chosen.pairs, say)
            for name in chosen.venue or handlers.SPOKEN
        }
    if chosen.json:
        sys.stdout.buffer.write(orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        for name, value in figures.items():
            if name != "handlers":
                say(f"{name:40} {value}")
    return 1 if figures.get("missing") else 0


def _handlers(name: str, python: Path, pairs: int, say: Callable[[str], None]) -> dict[str, object]:
    """Return the figures of one venue's handlers, after checking that they tell the same."""
    found = handlers.compare(name, python, pairs) if python.exists() else None
    if found is None:
        reason = "no recorded frames, and no simulator" if python.exists() else f"{python} is missing"
        say(f"  {name}: {reason}")
        return {"frames": None, "why": reason}
    if not found.our_us:
        say(f"  {name} ({found.origin}): {found.apart[0]}")
        return {"frames": found.origin, "same": False, "apart": found.apart}
    # The best pair is one in which the other side was slowed: the median is what holds.
    ratio = statistics.median(_ratios(found.our_us, found.their_us))
    bare = statistics.median(_ratios(found.our_us, found.their_bare_us))
    say(
        f"  {name} ({found.origin}): cryptofeed {statistics.median(found.their_us):.2f} us a frame, tapeline "
        f"{statistics.median(found.our_us):.2f}, ratio {ratio:.2f}; cryptofeed without a look at its books "
        f"{statistics.median(found.their_bare_us):.2f}, ratio {bare:.2f}; "
        f"{'; '.join(found.apart) or 'the same trades and books'}"
    )
    return {
        "frames": found.origin,
        "frames_per_run": found.frames,
        **_figures("us_per_frame", found.our_us, 2),
        **_figures("us_per_frame_cryptofeed", found.their_us, 2),
        **_figures("us_per_frame_cryptofeed_bare", found.their_bare_us, 2),
        "ratio": round(ratio, 3),
        "ratio_bare": round(bare, 3),
        "same": not found.apart,
        "apart": found.apart,
        "why": handlers.SPOKEN[name].apart if found.apart else "",
    }


def measure(
    python: Path, capture: frames.Capture, *, pairs: int, passes: int, say: Callable[[str], None]
) -> dict[str, object]:
    """Return the figures of ``pairs`` runs of each side, alternating.

    Plain names hold the best run (microseconds of CPU a frame) or the best pair (ratios: ours to theirs).
    """
    theirs: list[float] = []
    ours: list[float] = []
    with_books: list[float] = []
    missing = 0
    for n in range(pairs):
        runs = (
            sides.cryptofeed(python, capture, passes),
            sides.tapeline(capture, passes, books=False),
            sides.tapeline(capture, passes, books=True),
        )
        for found, run in zip((theirs, ours, with_books), runs, strict=True):
            found.append(run.us_per_frame)
            missing += run.missing
        say(
            f"  {n + 1}/{pairs}: cryptofeed {theirs[-1]:.1f} us a frame, tapeline {ours[-1]:.1f} "
            f"(1/{theirs[-1] / ours[-1]:.1f}), books included {with_books[-1]:.1f} "
            f"(1/{theirs[-1] / with_books[-1]:.1f})"
        )
    return {
        "frames": capture.origin,
        "frames_per_run": capture.frames * passes,
        "pairs": pairs,
        "spin_ms": round(spin_ms(), 1),
        **_figures("cpu_us_per_frame", ours, 2),
        **_figures("cpu_us_per_frame_with_books", with_books, 2),
        **_figures("cpu_us_per_frame_cryptofeed", theirs, 2),
        **_figures("ratio", _ratios(ours, theirs), 3),
        **_figures("ratio_with_books", _ratios(with_books, theirs), 3),
        "missing": missing,
    }


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def _figures(name: str, found: Sequence[float], digits: int) -> dict[str, float]:
    return {name: round(min(found), digits), f"{name}_median": round(statistics.median(found), digits)}


def _capture(path: Path | None) -> frames.Capture:
    """Return what ``path`` holds, else the recorded frames where there are any, else generated ones."""
    if path is None and not frames.RECORDED.exists():
        return frames.generated()
    return frames.recorded(path or frames.RECORDED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
