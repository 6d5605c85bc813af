"""Runs of either side, each with a server of its own: CPU a frame, and proof that nothing is missing."""

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple, cast

import orjson

from actors.config import load
from actors.formation import Child, Formation, await_true
from actors.model.codec import kind_of
from actors.streams.keys import Keys, Partition
from benchmarks.peers.frames import SYMBOL, Capture, as_aggregate, counts, moved, write

PARTITION: Final = Partition("binance", 0)
BURST: Final = 256  # chosen: what a socket's buffer of 64 KiB holds of such frames
_CRYPTOFEED: Final = Path(__file__).with_name("cryptofeed_side.py")
_WHOLE_BOOK_EVERY: Final = 1000  # cryptofeed's default: so many changes of a book, then all of it
_CONFIG: Final = f"""mode = "demo"
[venues.binance]
symbols = ["{SYMBOL}"]
channels = ["trade", "book", "l1"]
ws_url = "ws://127.0.0.1:9"  # nobody connects: frames come from memory
rest_url = "http://127.0.0.1:9"
"""


class Run(NamedTuple):
    """What one run found: CPU of the client processes a frame, and how many events are missing."""

    us_per_frame: float
    missing: int


class Missing(Exception):
    """A side did not do what is asked of it; the message says which, and what it printed."""


class _Player:
    """A child that plays passes when asked, and answers with the CPU time it took."""

    def __init__(self, command: Sequence[str], errors: IO[bytes]) -> None:
        self._command = command
        self._errors = Path(errors.name)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors)  # noqa: S603 - ours

    def play(self, passes: int) -> float:
        """Return the CPU seconds of ``passes``."""
        stdin, stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        stdin.write(b"%d\n" % passes)
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise Missing(f"{' '.join(self._command[:3])} ended:\n{self._errors.read_text()[-2000:]}")
        return orjson.loads(answer)["cpu_s"]

    def close(self) -> None:
        """End it."""
        cast("IO[bytes]", self._process.stdin).close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        cast("IO[bytes]", self._process.stdout).close()


@contextmanager
def _stage(command: Callable[[Formation, Path], Sequence[str]]) -> Generator[tuple[Formation, _Player]]:
    with tempfile.TemporaryDirectory(prefix="tapeline-peers-") as name:
        folder = Path(name)
        made = Formation(folder, _CONFIG)
        made.start_redis()
        try:
            with (folder / "player.log").open("wb") as errors:
                player = _Player(command(made, folder / "frames"), errors)
                try:
                    yield made, player
                finally:
                    player.close()
        finally:
            made.close()


def cryptofeed(python: Path, capture: Capture, passes: int) -> Run:
    """Play one pass to warm up, then ``passes``; return what these took."""

    def command(made: Formation, path: Path) -> Sequence[str]:
        write(path, [[as_aggregate(row) for row in moved(capture, n)] for n in range(passes + 1)])
        return (str(python), str(_CRYPTOFEED), str(made.port), str(path), str(BURST))

    with _stage(command) as (made, player):
        player.play(1)
        cpu_s = player.play(passes)
        wanted = counts(capture, passes + 1)
        books = wanted["fresh"] + wanted["snapshot"] + wanted["fresh"] // _WHOLE_BOOK_EVERY
        client = made.client()
        missing = sum(
            max(0, n - client.xlen(f"{name}-BINANCE-{SYMBOL}"))
            for name, n in (("trades", wanted["trade"]), ("ticker", wanted["bookTicker"]), ("book", books))
        )
        client.close()
    return Run(cpu_s / (capture.frames * passes) * 1e6, missing)


def tapeline(capture: Capture, passes: int, *, books: bool) -> Run:
    """Play one pass to warm up, then ``passes``; return what these took, up to ``events`` or to ``books``."""

    def command(made: Formation, path: Path) -> Sequence[str]:
        write(path, [moved(capture, n) for n in range(passes + 1)])
        module = ("-m", "benchmarks.peers.tapeline_side")
        return (sys.executable, *module, str(made.path), made.url, str(path), str(BURST))

    with _stage(command) as (made, player):
        actors = [made.run("normalizer"), *([made.run("bookbuilder")] if books else [])]
        player.play(1)
        _drain(made, books=books)
        before = sum(map(_cpu_s, actors))
        cpu_s = player.play(passes)
        _drain(made, books=books)
        cpu_s += sum(map(_cpu_s, actors)) - before
        missing = _missing(made, counts(capture, passes + 1))
    return Run(cpu_s / (capture.frames * passes) * 1e6, missing)


def _cpu_s(child: Child) -> float:
    """Return the CPU time of another process, to the nanosecond (/proc counts in hundredths)."""
    return time.clock_gettime(~child.pid << 3 | 2)  # Linux: the clock CPUCLOCK_SCHED of a process


def _keys(made: Formation) -> Keys:
    return Keys(load(made.path, {"REDIS_URL": made.url}).redis.prefix)


def _drain(made: Formation, *, books: bool) -> None:
    """Wait until every line of ``raw`` is folded and committed, and every event too with ``books``."""
    keys, client = _keys(made), made.client()
    normalizer, bookbuilder = (keys.cursor(PARTITION, role) for role in ("normalizer", "bookbuilder"))

    def drained() -> bool:
        events = client.hget(normalizer, "i:events")
        return client.hget(normalizer, "c:raw") == client.hget(keys.writer(PARTITION), "id") and (
            not books or client.hget(bookbuilder, "c:events") == events
        )

    await_true("all frames are folded", drained, 60, 0.002)
    client.close()


def _missing(made: Formation, wanted: Counter[str]) -> int:
    client = made.client()
    found: Counter[str] = Counter()
    after = "-"
    while entries := client.xrange(_keys(made).stream(PARTITION, "events"), after, count=64):
        for identity, fields in entries:
            found.update(kind_of(line.encode()) for line in fields["d"].split("\n"))
            after = f"({identity}"
    client.close()
    kinds = {"trade": "trade", "l1": "bookTicker", "book_delta": "depth", "book_snapshot": "snapshot"}
    return sum(max(0, wanted[stream] - found[kind]) for kind, stream in kinds.items())
