"""``tapeline chaos``: kill everything, again and again, and count what came of it.

1. Stages on one ``raw`` stream, their owners killed -9, stopped past their lease, the server killed: every
   output equals an undisturbed fold, by number and text.
2. Connectors against the simulated venues, one leg, then two.
3. All venues of the demo, with faults of 23 kinds, any actor killed meanwhile.
4. Forwarder and master, alone and together, then the master away for a while: its files against the streams.

All of it on loopback, in a folder of its own, with servers and actors that it starts and ends itself.
"""

import sys
import tempfile
from pathlib import Path

import orjson
import structlog

from actors.chaos import connectors, masters, stages, venues
from actors.chaos.report import MUST_BE_ZERO, Report


def main(*, as_json: bool = False, seed: int = 1, short: bool = False, server: str | None = None) -> int:
    """Run all scenarios and print the report. Exit code 1 when a must-be-zero is not.

    Args:
        as_json: One JSON line on stdout; else a line a figure.
        seed: Of the market, of who is killed and when.
        short: A tenth of it, in about a minute.
        server: Path of a Redis or Valkey server; None for the embedded one.
    """
    # Only the report is for stdout.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    report = Report(seed)
    if short:
        plan = stages.Plan(events=20_000, kills=8, stops=2, redis_kills=1)
        legs = (connectors.Plan(kills=2, legs=1), connectors.Plan(kills=2, legs=2))
        trouble = venues.Plan(faults=40, kills=4, venues=("bitfinex", "bitrue", "kucoin", "mexc"))
        master = masters.Plan(kills=4, frames=20_000, frames_per_s=1500, outage_s=2)
    else:
        plan = stages.Plan(events=220_000, kills=100, stops=12, redis_kills=6)
        legs = (connectors.Plan(kills=15, legs=1), connectors.Plan(kills=15, legs=2))
        trouble = venues.Plan(faults=500, kills=60, silent=True)
        master = masters.Plan(kills=50, frames=200_000, frames_per_s=800, outage_s=60)
    with tempfile.TemporaryDirectory(prefix="tapeline-chaos-") as folder:
        _say("stages: owners killed, stopped, the server killed …")
        stages.run(Path(folder) / "stages", report, plan, server)
        for leg_plan in legs:
            _say(f"connectors: {leg_plan.legs} leg(s), {leg_plan.kills} kills …")
            connectors.run(Path(folder) / f"legs{leg_plan.legs}", report, leg_plan, server)
        _say(f"venues: {trouble.faults} faults, {trouble.kills} kills …")
        venues.run(Path(folder) / "venues", report, trouble, server)
        _say(f"forwarder and master: {master.kills} kills, then {master.outage_s:g} s without a master …")
        masters.run(Path(folder) / "master", report, master, server)
    document = report.document()
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(document) + b"\n")
    else:
        for name, value in document.items():
            print(f"{name:26} {value}{'   must be 0' if name in MUST_BE_ZERO else ''}")  # noqa: T201
    return 0 if report.holds else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress, beside the report
