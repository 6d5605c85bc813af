"""kill -9 of everything that runs, while readers look: each cursor once, each trade once, true books."""

import logging
import os
import time
from pathlib import Path

import pytest
from demo_rig import await_true
from fire_rig import (
    BACK_S,
    ROLES,
    SYMBOLS,
    Barter,
    Fire,
    Ground,
    Reader,
    check_barter,
    check_reader,
    check_truth,
    fire,
    pause,
    told,
)

from actors.runtime.supervisor import SETTLED_S

log = logging.getLogger("fire")  # figures: --log-cli-level=info
pytestmark = [pytest.mark.fire, pytest.mark.redis, pytest.mark.timeout(1200)]
ROUNDS = int(os.environ.get("TAPELINE_FIRE_ROUNDS", "1"))  # the longer form: TAPELINE_FIRE_ROUNDS=20
SUPERVISED = ("redis", *ROLES, "simulator")


def recover(ground: Ground, role: str) -> float:
    """Kill the actor of a role; return after how many seconds all symbols trade and have live books."""
    made = ground.made
    others = {each: pid for each, pid in made.actors().items() if each != role}
    old = made.actor(role)
    if ROUNDS > 1:  # what dies again and again, younger than that, is started again more and more slowly
        await_true(f"{role} has settled", lambda: age_s(old) > SETTLED_S, 2 * SETTLED_S)
    at = time.monotonic()
    killed_ns = made.kill(old)
    await_true(f"{role} is started again", lambda: made.actor(role) != old, BACK_S)
    ground.flows(killed_ns, f"all flows after {role} was killed")
    took_s = time.monotonic() - at
    assert {each: made.actor(each) for each in others} == others, "the others went on"
    return took_s


def age_s(pid: int) -> float:
    """Return how long ago a process was started."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def test_no_kill_of_an_actor_or_of_redis_costs_a_reader_anything(ground: Ground):
    made, reader = ground.made, ground.reader
    for n in range(ROUNDS):
        for role in ("connector", "normalizer", "bookbuilder", "analytics"):
            log.info("%s back after %.2f s", role, recover(ground, role))
        for pid in [made.actor(role) for role in ("connector", "normalizer", "bookbuilder", "analytics")]:
            killed_ns = made.kill(pid)
        ground.flows(killed_ns, "all flows after all four were killed at once")
        actors, lost = made.actors(), reader.lost_connections
        at = time.monotonic()
        killed_ns = made.kill(made.server() if n % 2 == 0 else made.actor("redis"))
        ground.flows(killed_ns, "all flows after Redis was killed")
        log.info("redis back after %.2f s", time.monotonic() - at)
        assert reader.lost_connections > lost
        assert made.actors() == actors, "all actors waited for Redis"
        ground.settle()
        ground.check()  # its Barter client has been connected all the while
        made.control.post("resume")


def test_a_killed_broadcaster_is_back_and_serves_whoever_comes(ground: Ground):
    for _ in range(ROUNDS):
        log.info("broadcaster back after %.2f s", recover(ground, "broadcaster"))
        await_true("its clients know", lambda: ground.client.closed, 5)
        ground.client.close()
        ground.client = await_true("clients can come again", lambda: joined(ground.made), BACK_S)
        await_true("and hear all symbols", lambda: all(map(ground.client.trades.get, SYMBOLS)), 10)
        ground.settle()
        ground.check()
        ground.made.control.post("resume")


def test_a_killed_venue_is_told_and_joined_when_it_is_back(ground: Ground):
    made, reader = ground.made, ground.reader
    statuses, actors = len(reader.statuses), made.actors()
    ground.flows(made.kill(made.actor("simulator")))
    assert made.actors() == actors
    down = [s for s in reader.statuses[statuses:] if s.state == "down"]
    assert {s.symbol for s in down} == {None, *SYMBOLS}
    pause(made, *ground.readers)
    for each in ground.readers:
        check_reader(made, each, anew=True)
        check_truth(made, each)
    check_barter(made, reader, ground.client)


def joined(made: Fire) -> Barter | None:
    try:
        return Barter(made)
    except OSError:
        return None


def test_a_killed_supervisor_or_honcho_ends_all_and_the_next_start_loses_nothing(tmp_path: Path):
    with fire(tmp_path) as made:
        reader = Reader(made)
        starts = 1
        for n in range(ROUNDS):
            for what in ("supervisor", "honcho"):
                told(made, reader, "all flows", lambda: reader.flowing(0), 20)
                before = reader.cursors["books"].k
                made.kill(
                    made.honcho() if what == "honcho" else made.supervisor(SUPERVISED[n % len(SUPERVISED)])
                )
                log.info("%s: all ended after %.2f s", what, made.gone())
                stopped_ns = time.time_ns()
                made.start().live()
                log.info("live after %.2f s", (time.time_ns() - stopped_ns) / 1e9)
                starts += 1
                told(made, reader, "all flows again", lambda ns=stopped_ns: reader.flowing(ns), 20)
                assert reader.cursors["books"].k > before
                assert len(reader.epochs["books"]) == starts  # the same stream, by another owner each time
        pause(made, reader)
        check_reader(made, reader, anew=True)
        check_truth(made, reader)
        reader.close()
