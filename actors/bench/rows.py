"""The rows of the benchmark: each starts what it measures as processes, and ends it again."""

import multiprocessing
import random
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, NamedTuple
from urllib.request import Request, urlopen

import msgspec

from actors.bench import bare, ends, fanout, forward, heard
from actors.bench.progress import Progress
from actors.bench.tape import SYMBOLS, Tape, channels_of, listed
from actors.formation import Child, Formation, await_true, cpu_s, free_port
from actors.stages.book import Levels

_processes: Final = multiprocessing.get_context("spawn")
_ROLES: Final = ("normalizer", "bookbuilder", "analytics")


@dataclass
class Bench:
    """What all rows share: the tape, how long each run lasts, and how the machine felt after each.

    ``decoded``: venues of the row ``venues``.
    """

    tape: Tape
    seconds: float
    runs: int
    say: Callable[[str], None]
    seed: int = 1
    decoded: Sequence[str] = ()
    spins: list[float] = field(default_factory=lambda: [spin_ms()])

    def mood(self) -> str:
        """Run the spin loop, and say how long it took."""
        self.spins.append(spin_ms())
        return f"spin {self.spins[-1]:.0f} ms"


def _config(symbols: Mapping[str, Sequence[str]], port: int, simulator: int) -> str:
    stanzas = (
        f"""[venues.{name}]
symbols = {list(wanted)!r}
channels = {channels_of(name)!r}
ws_url = "ws://127.0.0.1:{simulator}/{name}"
rest_url = "http://127.0.0.1:{simulator}/{name}"
"""
        for name, wanted in symbols.items()
    )
    return f"""mode = "demo"
[broadcaster]
port = {port}
slow_client_bytes = 67108864
[simulator]
port = {simulator}
{"".join(stanzas)}"""


class Stage:
    """A server, actors and helper processes of one run, in a folder that goes with it."""

    def __init__(self, folder: Path, symbols: Mapping[str, Sequence[str]]) -> None:
        self.listen = free_port()
        self.simulator = free_port()
        self.made = Formation(folder, _config(symbols, self.listen, self.simulator))
        self.progress_path = folder / "progress"
        self.progress = Progress(self.progress_path)
        self.helpers: list[BaseProcess] = []
        self.made.start_redis()

    def help(self, target: Callable[..., None], *arguments: object) -> BaseProcess:
        """Start a helper process."""
        process = _processes.Process(target=target, args=arguments, daemon=True)
        process.start()
        self.helpers.append(process)
        return process

    @property
    def websocket(self) -> str:
        """Where the broadcaster listens."""
        return f"ws://127.0.0.1:{self.listen}"

    def close(self) -> None:
        """End the helpers, then the actors and the server."""
        self.progress["stop"] = 1
        for helper in self.helpers:
            helper.join(5)
            if helper.is_alive():
                helper.kill()
                helper.join()
        self.made.close()

    def drained(self, within_s: float = 20.0) -> int:
        """Stop the feeder; return how many events never arrived."""
        sent = self.progress["sent"]

        def settled() -> bool:
            return self.progress["received"] >= self.progress["sent"]

        end = time.monotonic() + within_s
        while not settled() and time.monotonic() < end:
            time.sleep(0.05)
        sent = self.progress["sent"]
        return sent - self.progress["received"]


@contextmanager
def stage(bench: Bench, symbols: Callable[[str], Sequence[str]] = SYMBOLS.__getitem__) -> Generator[Stage]:
    """Yield a fresh stage for the tape's venues; end everything at the end. ``symbols``: venue -> its own."""
    with tempfile.TemporaryDirectory(prefix="tapeline-bench-") as folder:
        made = Stage(Path(folder), {venue: symbols(venue) for venue in bench.tape.venues})
        try:
            yield made
        finally:
            made.close()


def _rate(progress: Progress, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> float:
    """Return events received a second over ``seconds``, after one second of warm-up."""
    await_true("the first event arrives", lambda: progress["received"] > 0, 30)
    _let_pass(1.0, meanwhile)
    begun, first = time.perf_counter(), progress["received"]
    _let_pass(seconds, meanwhile, lambda: progress["stop"] > 0)
    return (progress["received"] - first) / (time.perf_counter() - begun)


def _let_pass(
    seconds: float, meanwhile: Callable[[], None], over: Callable[[], bool] = lambda: False
) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and not over():
        time.sleep(0.05)
        meanwhile()


def _halt_feed(made: Stage, feeder: BaseProcess) -> int:
    """Stop only the feeder and wait for the rest; return what never arrived."""
    made.progress["halt"] = 1
    feeder.join()
    return made.drained()


# -- sustained rates ----------------------------------------------------------------------------------


def events_once(bench: Bench) -> tuple[float, int]:
    """Frames in memory to a plain Redis reader: (events a second, lost)."""
    with stage(bench) as made:
        made.help(ends.read, made.made.path, made.made.url, bench.tape.venues, made.progress_path)
        for role in _ROLES:
            made.made.run(role)
        feeder = made.help(ends.feed, made.made.path, made.made.url, bench.tape, made.progress_path, None)
        rate = _rate(made.progress, bench.seconds)
        return rate, _halt_feed(made, feeder)


def delivered_once(bench: Bench) -> tuple[float, int]:
    """Frames in memory to one Barter client, one frame an event: (events a second, lost)."""
    with stage(bench) as made:
        for role in (*_ROLES, "broadcaster"):
            made.made.run(role)
        _await_listening(made)
        made.help(ends.listen, made.websocket, made.progress_path, None)
        feeder = made.help(ends.feed, made.made.path, made.made.url, bench.tape, made.progress_path, None)
        rate = _rate(made.progress, bench.seconds)
        return rate, _halt_feed(made, feeder)


def bare_once(bench: Bench, *, sockets: bool) -> float:
    """The bare loop of the same length, ending in the same reader or client: events a second."""
    with stage(bench) as made:
        port, path = made.made.port, made.progress_path
        made.help(bare.relay, port, "s0", "s1", path)
        made.help(bare.relay, port, "s1", "s2", path)
        if sockets:
            made.help(bare.deliver, made.made.path, made.made.url, "s2", made.listen, path)
            _await_listening(made)
            made.help(ends.listen_to_all, made.websocket, path)
        else:
            made.help(bare.read, port, "s2", path)
        made.help(bare.feed, port, bench.tape, path)
        return _rate(made.progress, bench.seconds)


def _await_listening(made: Stage) -> None:
    def answers() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", made.listen)) == 0

    await_true("the broadcaster listens", answers, 20, 0.05)


# -- latency and cost at a given rate --------------------------------------------------------------------


def latency_once(bench: Bench, rate: float) -> tuple[float, float, int]:
    """Receive to Barter client at ``rate``: (p50 ms, p99 ms, lost)."""
    with stage(bench) as made:
        for role in (*_ROLES, "broadcaster"):
            made.made.run(role)
        _await_listening(made)
        ages = Path(made.made.folder) / "ages"
        client = made.help(ends.listen, made.websocket, made.progress_path, ages)
        feeder = made.help(ends.feed, made.made.path, made.made.url, bench.tape, made.progress_path, rate)
        _rate(made.progress, bench.seconds)
        lost = _halt_feed(made, feeder)
        made.progress["stop"] = 1
        client.join(10)
        found = msgspec.msgpack.decode(ages.read_bytes(), type=list[int])
        warm = sorted(found[int(rate) :])  # the first second starts processes and joins books
        return warm[len(warm) // 2] / 1e6, warm[int(len(warm) * 0.99)] / 1e6, lost


def cores_once(bench: Bench, rate: float) -> float:
    """CPU of all actors and Redis at ``rate``, the client not counted: cores."""
    with stage(bench) as made:
        children = [made.made.run(role) for role in (*_ROLES, "broadcaster")]
        _await_listening(made)
        made.help(ends.listen, made.websocket, made.progress_path, None)
        feeder = made.help(ends.feed, made.made.path, made.made.url, bench.tape, made.progress_path, rate)
        await_true("the first event arrives", lambda: made.progress["received"] > 0, 30)
        time.sleep(2.0)
        pids = [child.pid for child in children] + [made.made.redis.pid, feeder.pid or 0]

        def used() -> float:
            return sum(cpu_s(pid) for pid in pids)

        before, begun = used(), time.perf_counter()
        time.sleep(bench.seconds)
        return (used() - before) / (time.perf_counter() - begun)


# -- real sockets at both ends ------------------------------------------------------------------------------


class _Pace:
    """Keeps the simulator as fast as the rest follows: about half of ``IN_FLIGHT`` under way.

    Faster, it would take the cores from those who are measured, for events that only wait.
    """

    def __init__(self, made: Stage) -> None:
        self._url = f"http://127.0.0.1:{made.simulator}/control/rate"
        self._progress = made.progress
        self._seen = made.progress["received"]
        self._at = time.monotonic()
        self.per_venue = 3000.0

    def step(self) -> None:
        """Judge by how old events are when they arrive, four times a second at most."""
        now = time.monotonic()
        if now < self._at + 0.25:
            return
        received = self._progress["received"]
        rate = (received - self._seen) / (now - self._at)
        self._seen, self._at = received, now
        under_way = rate * self._progress["age_us"] / 1e6
        self.per_venue *= 0.85 if under_way > bare.IN_FLIGHT / 2 else 1.05
        body = msgspec.json.encode({"events_per_s": self.per_venue})
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(self._url, body, headers), timeout=5) as answer:  # noqa: S310 - our own port
            answer.read()


def sockets_once(bench: Bench) -> float:
    """Simulator, connector, stages, broadcaster and a client on the same cores: deliveries a second."""
    with stage(bench, listed) as made:  # the simulator lets all happen, whether anybody listens or not
        _start_all(made)
        pace = _Pace(made)
        _let_pass(min(5.0, bench.seconds), pace.step)
        return _rate(made.progress, bench.seconds, pace.step)


def _start_all(made: Stage) -> dict[str, Child]:
    """Start everything, with one client; return the actors by role once events arrive."""
    made.made.run("simulator", {"TAPELINE_SIMULATOR__EVENTS_PER_S": "500"})
    actors = {role: made.made.run(role) for role in ("connector", *_ROLES, "broadcaster")}
    _await_listening(made)
    made.help(ends.listen, made.websocket, made.progress_path, None)
    await_true("the first event arrives", lambda: made.progress["received"] > 100, 30)
    return actors


# -- memory -------------------------------------------------------------------------------------------------


def memory_once(bench: Bench, few: int, many: int) -> tuple[dict[str, int], dict[str, int]]:
    """Everything on real sockets until ``many`` events: bytes of each actor after ``few``, and then."""
    with stage(bench, listed) as made:
        actors = _start_all(made)
        pace = _Pace(made)
        found: list[dict[str, int]] = []
        for events in (few, many):
            while made.progress["received"] < events:
                _let_pass(1.0, pace.step)
                if made.progress["stop"] or not all(actor.running for actor in actors.values()):
                    raise RuntimeError("an actor ended: " + "\n".join(a.tail(500) for a in actors.values()))
            found.append({role: _resident(actor.pid) for role, actor in actors.items()})
            bench.say(f"  memory after {made.progress['received']:,} events: {_mib(found[-1])}")
        return found[0], found[1]


_SAMPLES: Final = 21


def _resident(pid: int) -> int:
    """Return the resident memory of a process, bytes: the median of two seconds, as buffers come and go."""
    page = resource.getpagesize()
    samples: list[int] = []
    for _ in range(_SAMPLES):
        samples.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page)
        time.sleep(0.1)
    return int(statistics.median(samples))


def _mib(sizes: dict[str, int]) -> str:
    return ", ".join(f"{role} {used / 2**20:.1f} MiB" for role, used in sizes.items())


def fanout_once(bench: Bench, clients: int = 100) -> float:
    """One broadcaster to ``clients`` clients, about 300 B, one frame an event: deliveries a second."""
    with stage(bench) as made:
        broadcaster = made.made.run("broadcaster")
        _await_listening(made)
        made.help(fanout.listen, made.listen, clients, made.progress_path)
        made.help(fanout.feed, made.made.port, made.progress_path)
        rate = _rate(made.progress, bench.seconds) * clients
        if not broadcaster.running:
            raise RuntimeError(f"the broadcaster ended: {broadcaster.tail()}")
        return rate


def forward_once(bench: Bench) -> tuple[float, int]:
    """Trades in ``events`` to acknowledged lines in the master's files: a second, and how many are lost."""
    with stage(bench) as made:
        files = made.made.folder / "master"
        with made.made.path.open("a") as file:
            file.write(forward.config(files))
        for role in ("master", "forwarder"):
            made.made.run(role)
        made.help(forward.follow, made.made.port, made.progress_path)
        feeder = made.help(fanout.feed, made.made.port, made.progress_path, forward.AHEAD)
        rate = _rate(made.progress, bench.seconds)
        lost = _halt_feed(made, feeder)
        return rate, max(lost, made.progress["sent"] - forward.stored(files))


# -- the book -----------------------------------------------------------------------------------------------


def book_once(_bench: Bench) -> float:
    """Five level updates and a top 20 on a book of 1,000 levels a side: microseconds."""
    dice = random.Random(1)
    book = Levels()
    book.load(
        [(f"{50_000 - i * 0.5:.2f}", "1.00000000") for i in range(1, 1001)],
        [(f"{50_000 + i * 0.5:.2f}", "1.00000000") for i in range(1, 1001)],
    )
    changes: list[tuple[list[tuple[str, str]], list[tuple[str, str]]]] = []
    for _ in range(2000):
        levels: list[tuple[str, str]] = []
        for _ in range(5):
            away = 1 + min(int(dice.expovariate(0.05)), 900)
            levels.append((f"{50_000 - away * 0.5:.2f}", dice.choice(("0.00000000", "0.5", "1.25", "2.0"))))
        mirrored = [(f"{100_000 - float(price):.2f}", size) for price, size in levels[2:]]
        changes.append((levels[:2], mirrored))
    begun = time.process_time()
    for bids, asks in changes:
        book.update(bids, asks)
        book.best_first(20)
    return (time.process_time() - begun) / len(changes) * 1e6


# -- decoding -----------------------------------------------------------------------------------------------

_FRAMES: Final = 3_000  # chosen: half a minute of three busy markets
_PASSES: Final = 4  # chosen: tens of milliseconds a run


class Cost(NamedTuple):
    """Microseconds a frame of one venue, run by run: bare JSON (none of what is none), decode, with books."""

    frames: int
    json_us: list[float]
    decode_us: list[float]
    book_us: list[float]


def decoding_once(bench: Bench, name: str) -> Cost:
    """Decode the frames of one simulated venue again and again, and keep their books."""
    hearing = heard.hear(name, _FRAMES, bench.seed)
    cost = Cost(hearing.frames, [], [], [])
    is_json = heard.parse(hearing)
    heard.keep(hearing)  # warm
    for _ in range(bench.runs):
        if is_json:
            cost.json_us.append(_us_a_frame(hearing, heard.parse))
        cost.decode_us.append(_us_a_frame(hearing, heard.decode))
        cost.book_us.append(_us_a_frame(hearing, heard.keep))
    return cost


def _us_a_frame(hearing: heard.Hearing, play: Callable[[heard.Hearing], object]) -> float:
    begun = time.process_time()
    for _ in range(_PASSES):
        play(hearing)
    return (time.process_time() - begun) / (_PASSES * hearing.frames) * 1e6


def spin_ms() -> float:
    """Time of a fixed loop: the machine's mood at this moment."""
    begun = time.perf_counter()
    total = 0
    for i in range(1_000_000):
        total += i & 7
    return (time.perf_counter() - begun) * 1e3


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)
