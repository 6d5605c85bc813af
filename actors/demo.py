"""``tapeline demo`` and ``tapeline up``: run the Procfile through honcho and guide a newcomer.

We start honcho, pass its output on without its own housekeeping, and follow the events: a line for each
venue as it comes alive or fails to, then where to look and what to try. Everything ends with us: Ctrl-C
goes to honcho, and the supervisors watch us (``TAPELINE_GUIDE``) for the case that we are killed.
"""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import IO, Final

import anyio
import msgspec

from actors.config import ConfigError, Settings, VenueSettings
from actors.config.reader import OFFSET, ONLY, read
from actors.config.words import nearest
from actors.model import codec
from actors.model.events import Status, Trade
from actors.model.instruments import shard
from actors.runtime import embedded, log
from actors.runtime.supervisor import CONFIG_ERROR, GUIDE, STOP, die_with_parent
from actors.streams.client import connect, hot, parse, redis_url
from actors.streams.errors import RedisUnusable
from actors.streams.keys import Cursor, Keys, Partition, Stream, partitions
from actors.streams.partition import Tail, closing, newest
from actors.venues import VENUES
from actors.venues.base import items_of

ROOT: Final = Path(__file__).resolve().parents[1]  # the checkout: Procfile and config/ are there
PROCFILE: Final = ROOT / "Procfile"
DEMO: Final = ROOT / "config" / "demo.toml"
LIVE: Final = ROOT / "config" / "tapeline.toml"
RUNNING: Final = Path(".tapeline/running.json")
METRICS_PORT: Final = 7400  # honcho's -p: 7400 for the first line, 7500 for the second
_SLOW_S: Final = 8.0  # a venue that gives nothing for so long is said to be down
_TOGETHER_S: Final = 2.0  # how long the last symbols may take after the first trade
_HICCUP_S: Final = 2.0  # how long a venue may be down before that is news
_STOP_S: Final = 7.0  # honcho kills at 5 s
_REDIS_S: Final = 60.0
_ALONE: Final = ("redis", "simulator", "master")  # each has one port
_HOUSEKEEPING: Final = re.compile(
    rb"system *\| ([\w.-]+ started \(pid=|sending SIG|[\w.-]+ stopped \(rc=(0|-15)\)|SIG)"
)


class Running(msgspec.Struct, frozen=True):
    """What stands in ``RUNNING`` while a guide runs, so that commands need not be told what to look at."""

    pid: int
    config: str
    port_offset: str
    venues: str | None = None  # those named for it, of the configured ones


class Life:
    """How one venue comes alive, from its events: at its first trade; at anything, where none is wanted."""

    def __init__(self, venue: str, symbols: Collection[str], began_ns: int, *, trades: bool = True) -> None:
        self.venue = venue
        self._trades = trades
        self._missing = {*symbols}
        self._all = len(symbols)
        self._began_ns = self._asked_ns = began_ns
        self._asked = False
        self._trade_ns: int | None = None
        self._heard: tuple[int, str] | None = None  # the first item that was live: when, its channel
        self.refused: dict[str, str] = {}
        self._down = ""
        self._down_ns = 0
        self._again = False  # it was live, and down since
        self.said: str | None = None

    @property
    def wants_trades(self) -> bool:
        """Whether a trade would be news."""
        return self._trades and bool(self._trade_ns is None or self._missing or self._down)

    @property
    def _first(self) -> tuple[int, str] | None:
        """When it came alive, and by what."""
        if not self._trades:
            return self._heard
        return None if self._trade_ns is None else (self._trade_ns, "trade")

    def take(self, event: Status | Trade) -> None:
        """Learn from one event."""
        if not self._asked and isinstance(event, Status):
            self._asked_ns, self._asked = max(self._asked_ns, event.ts_recv), True
        if isinstance(event, Trade):
            self._down = ""
            self._missing.discard(event.symbol or "")
            if self._trade_ns is None:
                self._trade_ns = event.ts_recv
        elif event.state == "live" and event.symbol is not None:
            self._down = ""
            self._missing.discard(event.symbol)
            if self._heard is None:
                self._heard = event.ts_recv, (event.channel or "event").replace("_", " ")
        elif event.state == "refused" and event.symbol is not None:
            self.refused[event.symbol] = event.reason
        elif event.state == "down" and event.channel is None and event.ts_recv >= self._began_ns:
            if not self._down:  # (before we began: an earlier run's close, told late)
                self._down_ns = event.ts_recv
            self._down = event.reason.rstrip(": ") or "it gave no reason"

    def news(self, now_ns: int, waited_s: float) -> str | None:
        """Return the line to print now, None when there is nothing new to say."""
        said = self._state(now_ns, waited_s)
        if said is None or said == self.said:
            return None
        self._again = self._again or (self.said or "").startswith("live")
        self.said = said
        return f"{self.venue} {said}"

    def _state(self, now_ns: int, waited_s: float) -> str | None:
        waiting = self._missing - {*self.refused}
        if self._down:
            # A connection that is replaced, or one of two, is no news.
            return None if (now_ns - self._down_ns) / 1e9 < _HICCUP_S else f"down: {self._down}"
        if self._first is not None:
            return self._alive(*self._first, waiting, now_ns)
        if waited_s <= _SLOW_S:
            return None
        if self._heard is not None:
            return f"live: {self._symbols(waiting)}, no trade yet"
        return f"down: no {'trade' if self._trades else 'data'} yet (tapeline status says more)"

    def _alive(self, at_ns: int, what: str, waiting: set[str], now_ns: int) -> str | None:
        if waiting and (now_ns - at_ns) / 1e9 < _TOGETHER_S:
            return None
        if self._again and not (self.said or "").startswith("live:"):
            return f"live again: {self._symbols(waiting)}"
        ms = max(0, at_ns - self._asked_ns) // 1_000_000
        refused = "".join(f"; {symbol} refused: {why}" for symbol, why in sorted(self.refused.items()))
        return f"live: {self._symbols(waiting)}, first {what} after {ms} ms{refused}"

    def _symbols(self, waiting: set[str]) -> str:
        live = self._all - len(self.refused) - len(waiting)
        plural = "" if self._all == 1 else "s"
        return f"{live} symbol{plural}" if live == self._all else f"{live} of {self._all} symbol{plural}"


def guide(config: Path, env: Mapping[str, str], instances: str | None) -> int:
    """Run everything until Ctrl-C; return the exit code. ``instances`` are honcho's (``-c``).

    Raises:
        ConfigError: The configuration cannot be used, or a port is taken.
    """
    settings, notes = read(config, env)
    lines = formation_lines()
    _check_instances(instances, lines)
    offset = env.get(OFFSET, "0")
    port = METRICS_PORT + int(offset)
    for note in notes:
        _say(note)
    _check_ports(settings, port, lines)
    log.setup("guide", settings)
    embedded.check_free(settings)
    start = partial(_start_honcho, config, PROCFILE, port, instances, env)
    running = Running(os.getpid(), str(config.resolve()), offset, env.get(ONLY))
    try:
        RUNNING.parent.mkdir(parents=True, exist_ok=True)
        RUNNING.write_bytes(msgspec.json.encode(running))
    except OSError as e:
        raise ConfigError(embedded.unwritable(RUNNING, e)) from e
    try:
        return anyio.run(_guide, settings, start, backend_options={"use_uvloop": True})
    except RedisUnusable as e:
        sys.stderr.write(f"tapeline: {e}\n")
        return 1
    finally:
        RUNNING.unlink(missing_ok=True)


def formation_lines() -> list[str]:
    """Return the roles of the formation, in the order of the Procfile.

    Raises:
        ConfigError: There is none.
    """
    if not PROCFILE.exists():
        raise ConfigError(f"{PROCFILE} is missing: tapeline demo and tapeline up run from a checkout")
    return [line.partition(":")[0] for line in PROCFILE.read_text().splitlines() if ":" in line]


def _check_instances(instances: str | None, lines: Sequence[str]) -> None:
    """Say what honcho would pass over in silence."""
    for part in () if instances is None else instances.split(","):
        role, _, number = part.partition("=")
        if not number.isdecimal():
            raise ConfigError(f"-c takes role=number, with commas between, not {instances!r}")
        if role not in lines:
            raise ConfigError(f'-c: there is no role "{role}"{nearest(role, lines)} ({", ".join(lines)})')
        if role in _ALONE and int(number) > 1:
            raise ConfigError(f"-c: there can be only one {role}")


def ports_of(settings: Settings, metrics_port: int, lines: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return what the formation listens on but for its Redis: setting or purpose -> host and port.

    ``metrics_port``: of the first of ``lines``, the Procfile's.
    """
    ports = {"broadcaster.port": (settings.broadcaster.host, settings.broadcaster.port)}
    if settings.mode == "demo":
        ports["simulator.port"] = (settings.simulator.host, settings.simulator.port)
    if settings.master.enabled:
        ports["master.port"] = (settings.master.host, settings.master.port)
    for number, line in enumerate(lines):
        if line != "redis":  # a server of its own, without metrics of ours
            ports[f"metrics of {line}"] = ("127.0.0.1", metrics_port + 100 * number)
    return ports


def check_clashes(settings: Settings, offset: int) -> None:
    """Say which port of the configuration is that of a process' metrics.

    Raises:
        ConfigError: One is.
    """
    ports = ports_of(settings, METRICS_PORT + offset, formation_lines())
    metrics = {port: what for what, (_, port) in ports.items() if what.startswith("metrics")}
    if settings.redis.url is None:
        ports["redis.port"] = ("127.0.0.1", settings.redis.port)
    clashes = [
        f"{what}: {port} is the port of the {metrics[port]} too: take another"
        for what, (_, port) in ports.items()
        if port in metrics and not what.startswith("metrics")
    ]
    if clashes:
        raise ConfigError("\n".join(clashes))


def _check_ports(settings: Settings, metrics_port: int, lines: Sequence[str]) -> None:
    """Say at once, and once, what each of nine processes would say otherwise."""
    check_clashes(settings, metrics_port - METRICS_PORT)
    for what, (host, port) in ports_of(settings, metrics_port, lines).items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    remedy = f"correct {what.replace('.port', '.host')}, or take another port"
                    raise ConfigError(
                        f"{what}: nothing can listen on port {port} of {host} ({e.strerror}): {remedy}"
                    ) from e
                setting = "" if what.startswith("metrics") else f" {what} sets it, and"
                raise ConfigError(
                    f"port {port} of {host} ({what}) is not free: {e.strerror}. Perhaps another Tapeline "
                    f"runs: stop it.{setting} TAPELINE_PORT_OFFSET shifts all ports"
                ) from e


async def _guide(settings: Settings, start: Callable[[], "subprocess.Popen[bytes]"]) -> int:
    if settings.redis.url is not None:
        # Not ours to start: whether it will do is said before anything else starts.
        await (await connect(settings, "guide", wait_s=2)).aclose()
    honcho = start()
    reader = threading.Thread(target=_pass_on, args=(honcho.stdout,), daemon=True)
    reader.start()
    told, over = anyio.Event(), anyio.Event()
    try:
        async with anyio.create_task_group() as tg:
            tg.start_soon(_until_told, told, over)
            tg.start_soon(_until_ended, honcho, over)
            tg.start_soon(_follow, settings)
            await over.wait()
            tg.cancel_scope.cancel()
    finally:
        if told.is_set():
            _say("stopping ...")
        _end(honcho)
        reader.join(1)
    if told.is_set():
        _say("all stopped")
        return 0
    _say("stopped: one of its processes could not go on (see above)")
    return CONFIG_ERROR if honcho.returncode == CONFIG_ERROR else 1


async def _until_told(told: anyio.Event, over: anyio.Event) -> None:
    with anyio.open_signal_receiver(*STOP) as signals:
        async for _ in signals:
            told.set()
            over.set()


async def _until_ended(honcho: "subprocess.Popen[bytes]", over: anyio.Event) -> None:
    await anyio.to_thread.run_sync(honcho.wait, abandon_on_cancel=True)
    over.set()


def _end(honcho: "subprocess.Popen[bytes]") -> None:
    """End honcho and with it everything; impatience (another Ctrl-C) changes nothing."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
    honcho.terminate()
    try:
        honcho.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        honcho.kill()  # the supervisors see it and end their actors
        honcho.wait()


def _start_honcho(
    config: Path, procfile: Path, port: int, instances: str | None, env: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "honcho", "start", "-f", str(procfile), "-p", str(port)]
    if instances is not None:
        command += ["-c", instances]
    bin_folder = Path(sys.executable).parent
    children = {
        **env,
        "PATH": f"{bin_folder}{os.pathsep}{env.get('PATH', os.defpath)}",  # `tapeline` of this installation
        "PYTHONUNBUFFERED": "1",
        "TAPELINE_CONFIG": str(config.resolve()),
        "TAPELINE_LOG__LEVEL": env.get(
            "TAPELINE_LOG__LEVEL", "warning"
        ),  # the guide speaks of what goes well
        GUIDE: str(os.getpid()),
    }
    if sys.stdout.isatty():
        children.setdefault("TAPELINE_LOG__PRETTY", "true")
    return subprocess.Popen(  # noqa: S603 - our own command line
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=children,
        process_group=0,  # Ctrl-C comes to us, and honcho hears it once
        preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509 - no thread of ours runs yet
    )


def _pass_on(output: IO[bytes]) -> None:
    """Print honcho's lines but its own housekeeping."""
    for line in output:
        if not _HOUSEKEEPING.search(line):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _follow(settings: Settings) -> None:
    """Tell how the venues come alive; then where to look; then what goes wrong and right again."""
    try:
        client = await connect(settings, "guide", wait_s=_REDIS_S, claim=False)
    except RedisUnusable as e:
        _say(f"tapeline: {e}")  # the actors find the same, and honcho ends
        return
    await client.aclose()
    began, began_ns = time.monotonic(), time.time_ns()
    lives = {name: _life(name, venue, began_ns) for name, venue in settings.venues.items() if venue.enabled}
    keys = Keys(settings.redis.prefix, settings.redis.pubsub_prefix)
    guided = False
    async with anyio.create_task_group() as tg:
        for partition in partitions(settings):
            tg.start_soon(_read, settings, keys, partition, lives[partition.venue])
        while True:
            await anyio.sleep(0.1)
            for life in lives.values():
                if news := life.news(time.time_ns(), time.monotonic() - began):
                    _say(news)
            if not guided and all(life.said for life in lives.values()):
                guided = True
                refused = {symbol for life in lives.values() for symbol in life.refused}
                _say(hints(settings, keys, shutil.which("redis-cli") is not None, refused))


def _life(name: str, venue: VenueSettings, began_ns: int) -> Life:
    groups = venue.wanted(VENUES[name].channels, venue.symbols)
    items = [item for channels, symbols in groups.items() for item in items_of(symbols, channels)]
    trades = any(channel == "trade" for channel, _ in items)
    return Life(name, {symbol for _, symbol in items}, began_ns, trades=trades)


async def _read(settings: Settings, keys: Keys, partition: Partition, life: Life) -> None:
    async with closing(await hot(settings, keys.stream(partition, "events"))) as connection:
        cursors: dict[Stream, Cursor] = {"events": await newest(connection, keys, partition, "events")}
        tail = Tail(connection, keys, partition, cursors)
        while True:
            for _, entry in await tail.read():
                for line in entry.lines:
                    kind = codec.kind_of(line)
                    if kind == "status" or (kind == "trade" and life.wants_trades):
                        event = codec.decode(line)
                        assert isinstance(event, Status | Trade)  # noqa: S101 - by its kind
                        life.take(event)


def hints(settings: Settings, keys: Keys, redis_cli: bool, refused: AbstractSet[str] = frozenset()) -> str:
    """Return where to look and three commands to try, of those that are there.

    Args:
        settings: What runs.
        keys: The names in Redis.
        redis_cli: There is one on this machine.
        refused: Symbols that would show nothing.
    """
    host = settings.broadcaster.host
    socket_url = f"ws://{host}:{settings.broadcaster.port}"
    bin_folder = Path(sys.executable).parent
    here = Path(os.path.relpath(bin_folder)) if bin_folder.is_relative_to(Path.cwd()) else bin_folder
    embedded = settings.redis.url is None
    look = {
        socket_url: "trades and books as JSON (Barter Data Server's format)",
        f"http://{host}:{settings.broadcaster.port}/": "a page about it, and /healthz",
        parse(redis_url(settings)).shown: "streams, latest books, pub/sub",
    }
    cli = f"redis-cli -p {settings.redis.port}" if embedded else "redis-cli -u $REDIS_URL"
    pattern = keys.channel("trade", "*", "*").removesuffix(".*.*") + ".*"
    commands = [f"{cli} psubscribe '{pattern}'" if redis_cli else f"{here}/tapeline tail trade"]
    for name, venue in [each for each in settings.venues.items() if each[1].enabled][:1]:
        symbol = next((s for s in venue.symbols if s not in refused), venue.symbols[0])
        book = keys.latest(Partition(name, shard(symbol, venue.shards)), "book", symbol)
        commands.append(f"{cli} get '{book}'" if redis_cli else f"{here}/tapeline tail book {name} {symbol}")
    lines = ["", "Where to look"]
    lines += [f"  {place:<28} {what}" for place, what in look.items()]
    lines += ["", f"{'Two' if len(commands) == 1 else 'Three'} commands to try, in another terminal"]
    lines += [f"  {command}" for command in (f"{here}/websockets {socket_url}", *commands)]
    return "\n".join(
        [*lines, "", f"Ctrl-C stops everything. {here}/tapeline status shows who does what.", ""]
    )
