"""``tapeline``: the commands that a person types. Each imports what it needs when it runs."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, cast

from cyclopts import App, CycloptsError, Parameter, validators

from actors.cli import acting, configuring, looking
from actors.cli.options import (
    PROVE,
    SETTINGS,
    START,
    Config,
    Folder,
    Instances,
    Json,
    Names,
    Role,
    Switch,
    app,
)
from actors.cli.run import ALL, LINES, run, run_all, say
from actors.config import ConfigError

__all__ = ["acting", "app", "configuring", "looking", "main"]

Shell = Literal["bash", "zsh", "fish"]

DEMO: Final = Path(__file__).resolve().parents[2] / "config" / "demo.toml"

master_app = App(name="master", help="Run the reference master, or look into what it holds.", group=START)
app.command(master_app)


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


@app.command(group=START)
def demo(*, config: Config = DEMO, instances: Instances = None) -> int:
    """Run everything here against local venues: no network, no account.

    Starts Redis, the simulator and all actors, says when data flow and what to try. Ctrl-C stops it all.
    Without --config it takes config/demo.toml.

    Example: TAPELINE_PORT_OFFSET=100 TAPELINE_VENUES=binance,kraken tapeline demo -c normalizer=2
    """
    from actors.demo import guide  # noqa: PLC0415 - only this command needs it

    return guide(DEMO if config is None else config, os.environ, instances)


@app.command(group=START)
def up(*, config: Config = None, instances: Instances = None) -> int:
    """Run everything here against the real venues of the configuration.

    Without --config it takes TAPELINE_CONFIG, else config/tapeline.toml. FTSOBest's config.json is read as
    it is. A venue that cannot be reached is tried again for ever.

    Example: REDIS_URL=redis://10.0.0.5:6379/0 tapeline up
    """
    return run_all(config, os.environ, instances)


@app.command(name="run", group=START)
def run_command(role: Role, *, config: Config = None, instances: Instances = None) -> int:
    """Run one actor in the foreground, without a supervisor; or all of them, as tapeline up does.

    Example: tapeline run all --config config.json

    Parameters
    ----------
    role:
        redis, connector, normalizer, bookbuilder, analytics, broadcaster, forwarder, master or simulator;
        or all.
    """
    if role == ALL:
        return run_all(config, os.environ, instances)
    if instances is not None:
        raise ConfigError("-c says how many of each role to run: it goes with tapeline run all")
    return run(role, config, os.environ)


@app.command(group=START)
def supervise(role: Role, *, config: Config = None) -> int:
    """Keep one actor alive: what a line of the Procfile does.

    Example: tapeline supervise normalizer

    Parameters
    ----------
    role:
        redis, connector, normalizer, bookbuilder, analytics, broadcaster, forwarder, master or simulator.
    """
    from actors.runtime.supervisor import main as supervise_main  # noqa: PLC0415

    if role not in LINES:
        return run(role, config, os.environ)  # says which roles there are
    return supervise_main([role, *(["--config", str(config)] if config is not None else [])])


@app.command(group=START)
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


@app.command(group=SETTINGS)
def completion(*, shell: Shell | None = None, output: Path | None = None, install: Switch = False) -> int:
    """Print what lets the shell complete commands, venues and symbols at TAB; --install puts it in place.

    Example: source <(tapeline completion)

    Parameters
    ----------
    shell:
        The shell it is for; the one you are in unless given.
    output:
        Write it to this file instead.
    install:
        Write it to your shell's folder, and for bash and zsh a line to ~/.bashrc or ~/.zshrc that loads it.
    """
    from cyclopts.completion import ShellDetectionError, detect_shell  # noqa: PLC0415 - only this needs it

    try:
        shell = cast("Shell", detect_shell()) if shell is None else shell
    except ShellDetectionError as e:
        raise ConfigError("which shell this is cannot be seen: name it with --shell") from e
    if not install and output is None:
        sys.stdout.write(app.generate_completion(shell=shell))
        return 0
    file = app.install_completion(shell=shell, output=output, add_to_startup=install)
    started = f", and ~/.{shell}rc has a line for it: start another shell" * (install and shell != "fish")
    sys.stdout.write(f"wrote {file}{started}\n")
    return 0


@app.command(group=PROVE)
def bench(
    *names: str,
    seconds: float = 15.0,
    runs: int = 5,
    only: Names = (),
    venue: Names = (),
    seed: int = 1,
    as_json: Json = False,
) -> int:
    """Measure what this machine carries: rates, latencies, costs, beside a bare loop in the same run.

    Example: tapeline bench forward --runs 2 --json

    Parameters
    ----------
    names:
        Rows to run, as --only has it.
    seconds:
        How long each run measures.
    runs:
        How often each row runs.
    only:
        Rows to run; unless given all but memory, which takes minutes.
    venue:
        Simulated venues to measure with; binance, kraken and okx unless given, all for the row venues.
    seed:
        Of the generated market.
    """
    from actors import bench as benchmarks  # noqa: PLC0415 - only this command needs it
    from actors.config.words import nearest  # noqa: PLC0415

    only = (*names, *only)
    venues = benchmarks.DECODED if set(only) == {"venues"} else benchmarks.VENUES
    for what, named, known in (("row", only, benchmarks.ROWS), ("venue", venue, venues)):
        for name in named:
            if name not in known:
                raise ConfigError(f'there is no {what} "{name}"{nearest(name, known)} ({", ".join(known)})')
    return benchmarks.main(as_json=as_json, seconds=seconds, runs=runs, only=only, venues=venue, seed=seed)


@app.command(group=PROVE)
def chaos(*, seed: int = 1, short: Switch = False, server: Path | None = None, as_json: Json = False) -> int:
    """Kill actors and Redis again and again, and count what was lost, repeated or reordered.

    Exit code 1 when a figure that must be zero is not.

    Example: tapeline chaos --short

    Parameters
    ----------
    seed:
        Of the market, of who is killed and when.
    short:
        A tenth of it, in about a minute.
    server:
        A Redis or Valkey server; the embedded one unless given.
    """
    from actors import chaos as runs  # noqa: PLC0415 - only this command needs it

    binary = None if server is None else str(server)
    return runs.main(as_json=as_json, seed=seed, short=short, server=binary)
