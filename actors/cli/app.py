"""``tapeline``: the commands a person types. Each imports what it needs when it runs."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, CycloptsError, Group, Parameter, validators

from actors.cli.run import LINES, run, say
from actors.config import ConfigError

ROOT: Final = Path(__file__).resolve().parents[2]  # the checkout: Procfile and config/ are there
DEMO: Final = ROOT / "config" / "demo.toml"
LIVE: Final = ROOT / "config" / "tapeline.toml"

_start = Group("Start", sort_key=0)
_look = Group("Look", sort_key=1)
_prove = Group("Prove", sort_key=2)

app = App(
    name="tapeline",
    version=lambda: version("tapeline"),
    help="""Crypto market data: verified books and exact trades, from venue sockets to Redis and to clients.

    Try it offline: tapeline demo. Then look: tapeline status, tapeline tail trade.

    Exit codes: 0 ok, 1 failure, 2 wrong usage or configuration.""",
    help_format="plaintext",
    version_flags=["--version"],
)
config_app = App(name="config", help="Look at a configuration.", group=_look)
app.command(config_app)
master_app = App(name="master", help="Run the reference master, or look into what it holds.", group=_start)
app.command(master_app)

Config = Annotated[
    Path | None,
    # The words of the help, not the folder of this checkout.
    Parameter(name="--config", help="The configuration file (TOML).", show_default=False),
]
Instances = Annotated[
    str | None,
    Parameter(name=["--instances", "-c"], help="How many of each, as in normalizer=2,bookbuilder=2."),
]
Folder = Annotated[Path | None, Parameter(name="--folder", help="The master's files.", show_default=False)]
Switch = Annotated[bool, Parameter(negative="")]
Rows = Annotated[tuple[str, ...], Parameter(negative="", negative_iterable=())]
Json = Annotated[bool, Parameter(name="--json", negative="", help="JSON, for programs.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. What a user can cause is one plain message, no traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not given:
            app.help_print([])
            return 2
        code = app(given, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return 2  # printed already
    except ConfigError as e:
        return say(e, 2)
    except KeyboardInterrupt:
        return 130
    return code if isinstance(code, int) else 0


@app.command(group=_start)
def demo(*, config: Config = DEMO, instances: Instances = None) -> int:
    """Run everything here against local venues: no network, no account.

    Starts Redis, the simulator and all actors, says when data flow and what to try. Ctrl-C stops it all.
    Without --config it takes config/demo.toml.

    Example: TAPELINE_PORT_OFFSET=100 tapeline demo -c normalizer=2
    """
    from actors.demo import guide  # noqa: PLC0415 - only this command needs it

    return guide(DEMO if config is None else config, os.environ, instances)


@app.command(group=_start)
def up(*, config: Config = LIVE, instances: Instances = None) -> int:
    """Run everything here against the real venues of the configuration.

    Without --config it takes config/tapeline.toml. A venue that cannot be reached is tried again for ever.

    Example: REDIS_URL=redis://10.0.0.5:6379/0 tapeline up
    """
    from actors.demo import guide  # noqa: PLC0415 - only this command needs it

    return guide(LIVE if config is None else config, os.environ, instances)


@app.command(name="run", group=_start)
def run_command(role: str, *, config: Config = None) -> int:
    """Run one actor in the foreground, without a supervisor.

    Example: tapeline run connector --config config/tapeline.toml

    Parameters
    ----------
    role:
        redis, connector, normalizer, bookbuilder, analytics, broadcaster, master or simulator.
    """
    return run(role, config, os.environ)


@app.command(group=_start)
def supervise(role: str, *, config: Config = None) -> int:
    """Keep one actor alive: what a line of the Procfile does.

    Example: tapeline supervise normalizer

    Parameters
    ----------
    role:
        redis, connector, normalizer, bookbuilder, analytics, broadcaster, master or simulator.
    """
    from actors.runtime.supervisor import main as supervise_main  # noqa: PLC0415

    if role not in LINES:
        return run(role, config, os.environ)  # says which roles there are
    return supervise_main([role, *(["--config", str(config)] if config is not None else [])])


@app.command(group=_start)
def simulate(
    *,
    config: Config = DEMO,
    seed: int | None = None,
    port: int | None = None,
    events_per_s: float | None = None,
    venues: str | None = None,
    replay: Path | None = None,
) -> int:
    """Serve the venues' protocols on loopback, with truth and faults on demand. Needs no Redis.

    Example: tapeline simulate --seed 7 --port 9800 --events-per-s 5000

    Parameters
    ----------
    seed:
        The same seed gives the same market.
    port:
        Where to listen; 9700 unless the configuration says otherwise.
    events_per_s:
        How fast the market is; its own pace unless given.
    venues:
        Which of them, with commas between; those of the configuration unless given.
    replay:
        Serve the frames of this recording instead.
    """
    given = {
        "seed": seed,
        "port": port,
        "events_per_s": events_per_s,
        "venues": venues,
        "replay": replay,
    }
    over = {
        f"TAPELINE_SIMULATOR__{name.upper()}": str(value)
        for name, value in given.items()
        if value is not None
    }
    return run("simulator", config, {**os.environ, **over})


@master_app.default
def master(*, config: Config = None, folder: Folder = None, port: int | None = None) -> int:
    """Run the reference master in the foreground: it takes what forwarders send and keeps it in files.

    Example: TAPELINE_MASTER__KEYS=secret tapeline master --port 8766

    Parameters
    ----------
    port:
        Where to listen; 8766 unless the configuration says otherwise.
    """
    over = {"TAPELINE_MASTER__ENABLED": "true"}
    over |= {} if folder is None else {"TAPELINE_MASTER__FOLDER": str(folder)}
    over |= {} if port is None else {"TAPELINE_MASTER__PORT": str(port)}
    return run("master", config, {**os.environ, **over})


@master_app.command(name="count")
def master_count(*, config: Config = None, folder: Folder = None, as_json: Json = False) -> int:
    """Count the messages that a master holds, by stream and type.

    Example: tapeline master count --json
    """
    from actors.cli import master as files  # noqa: PLC0415 - only this command needs it

    return files.count(folder, config, os.environ, as_json=as_json)


@master_app.command(name="tail")
def master_tail(
    kind: str = "*",
    exchange: str = "*",
    symbol: str = "*",
    *,
    config: Config = None,
    folder: Folder = None,
    lines: Annotated[int, Parameter(name=["--lines", "-n"], validator=validators.Number(gte=0))] = 10,
    follow: bool = True,
) -> int:
    """Print the newest messages that a master holds, then what comes, until Ctrl-C. One JSON document a line.

    Example: tapeline master tail trade binance BTC/USDT -n 3 --no-follow

    Parameters
    ----------
    kind:
        trade, book, ticker or gap, or a pattern.
    exchange:
        An exchange as the master knows it, or a pattern.
    symbol:
        A symbol such as BTC/USDT, or a pattern such as BTC/*.
    lines:
        How many of the newest.
    """
    from actors.cli import master as files  # noqa: PLC0415 - only this command needs it

    return files.tail(
        folder,
        config,
        os.environ,
        kind=kind,
        exchange=exchange,
        symbol=symbol,
        lines=lines,
        follow=follow,
    )


@app.command(group=_look)
def status(*, config: Config = None, as_json: Json = False) -> int:
    """Show who does what: instances and leases, lag, venues and channels, books.

    Exit code 1 when something that is configured is not live.

    Example: tapeline status --json
    """
    from actors.cli.status import show  # noqa: PLC0415 - only this command needs it

    return show(config, os.environ, as_json=as_json)


@app.command(group=_look)
def tail(
    kind: str = "*", venue: str = "*", symbol: str = "*", *, config: Config = None, as_json: Json = False
) -> int:
    """Follow events as they are written, a line each, until Ctrl-C.

    Example: tapeline tail trade binance BTC-USDT

    Parameters
    ----------
    kind:
        trade, book, l1, ticker, gap, status and so on, or a pattern.
    venue:
        A venue, or a pattern.
    symbol:
        A symbol such as BTC-USDT (or BTC/USDT), or a pattern such as BTC-*.
    """
    from actors.cli.tail import follow  # noqa: PLC0415 - only this command needs it

    return follow(config, os.environ, kind=kind, venue=venue, symbol=symbol, as_json=as_json)


@config_app.command
def check(file: Path | None = None) -> int:
    """Check a configuration and the environment over it: every fault at once.

    Example: tapeline config check config/tapeline.toml

    Parameters
    ----------
    file:
        The file to check; TAPELINE_CONFIG, else config/tapeline.toml, unless given.
    """
    from actors.config import load  # noqa: PLC0415 - only this command needs it

    settings = load(file, os.environ)
    venues = [
        f"{name} ({len(venue.symbols)} symbols)" for name, venue in settings.venues.items() if venue.enabled
    ]
    sys.stdout.write(f"ok: {settings.mode}, {', '.join(venues)}\n")
    return 0


@app.command(group=_look)
def readers(action: str | None = None, role: str | None = None, *, config: Config = None) -> int:
    """Show the registered readers, which hold back trimming; or forget one that will not come back.

    Example: tapeline readers forget archiver

    Parameters
    ----------
    action:
        forget, or nothing to list them.
    role:
        The reader to forget.
    """
    from actors.cli.readers import show  # noqa: PLC0415 - only this command needs it

    return show(config, os.environ, action=action, role=role)


@app.command(group=_prove)
def bench(
    *,
    seconds: float = 15.0,
    runs: int = 5,
    only: Rows = (),
    seed: int = 1,
    as_json: Json = False,
) -> int:
    """Measure what this machine carries: rates, latencies, costs, beside a bare loop in the same run.

    Example: tapeline bench --only book --runs 2

    Parameters
    ----------
    seconds:
        How long each run measures.
    runs:
        How often each row runs.
    only:
        Rows to run; all unless given.
    seed:
        Of the generated market.
    """
    from actors import bench as benchmarks  # noqa: PLC0415 - only this command needs it
    from actors.config.judge import nearest  # noqa: PLC0415

    for row in only:
        if row not in benchmarks.ROWS:
            known = benchmarks.ROWS
            raise ConfigError(f'there is no row "{row}"{nearest(row, known)} ({", ".join(known)})')
    return benchmarks.main(as_json=as_json, seconds=seconds, runs=runs, only=only, seed=seed)


@app.command(group=_prove)
def chaos(*, seed: int = 1, short: Switch = False, server: Path | None = None, as_json: Json = False) -> int:
    """Kill actors and Redis again and again, and count what was lost, repeated or reordered.

    Exit code 1 when a figure that must be zero is not.

    Example: tapeline chaos --short

    Parameters
    ----------
    seed:
        Of the market, of who is killed and when.
    short:
        A tenth of it, in about half a minute.
    server:
        A Redis or Valkey server; the embedded one unless given.
    """
    from actors import chaos as runs  # noqa: PLC0415 - only this command needs it

    binary = None if server is None else str(server)
    return runs.main(as_json=as_json, seed=seed, short=short, server=binary)
