"""kill -9 of everything that runs, while readers look: each cursor once, each trade once, true books."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from demo_rig import await_true
from fire_rig import (
    BACK_S,
    ROLES,
    Barter,
    Fire,
    Reader,
    check_barter,
    check_reader,
    check_truth,
    fire,
    settle,
    told,
)

pytestmark = [pytest.mark.redis, pytest.mark.timeout(600)]
ROUNDS = int(os.environ.get("TAPELINE_FIRE_ROUNDS", "1"))  # the longer form: TAPELINE_FIRE_ROUNDS=20

Note = Callable[[str, object], None]


def recover(made: Fire, reader: Reader, role: str) -> float:
    """Kill the actor of a role; return after how many seconds all symbols trade and have live books."""
    others = {each: pid for each, pid in made.actors().items() if each != role}
    old = made.actor(role)
    at = time.monotonic()
    killed_ns = made.kill(old)
    await_true(f"{role} is started again", lambda: made.actor(role) != old, BACK_S)
    told(made, reader, f"all flows after {role} was killed", lambda: reader.flowing(killed_ns), BACK_S)
    assert {each: made.actor(each) for each in others} == others, "the others went on"
    return time.monotonic() - at


def test_no_kill_of_an_actor_or_of_redis_costs_a_reader_anything(tmp_path: Path, record_property: Note):
    with fire(tmp_path) as made:
        reader = Reader(made)
        client = Barter(made)
        told(made, reader, "a client hears all symbols", lambda: all(client.trades.values()), 20)
        for n in range(ROUNDS):
            for role in ("connector", "normalizer", "bookbuilder"):
                record_property(f"{role} back after s", round(recover(made, reader, role), 2))
            check_truth_now(made, reader)

            pids = made.actors()
            lost = reader.lost_connections
            killed_ns = made.kill(made.server() if n % 2 == 0 else made.actor("redis"))
            told(
                made, reader, "all flows after Redis was killed", lambda ns=killed_ns: reader.flowing(ns), 30
            )
            assert reader.lost_connections > lost
            assert made.actors() == pids, "all actors waited for Redis"

        settle(made, reader)
        check_reader(made, reader)
        check_truth(made, reader)
        check_barter(made, reader, client)  # it stayed connected all the while
        client.close()

        made.control.post("resume")
        client = Barter(made)
        record_property("broadcaster back after s", round(recover(made, reader, "broadcaster"), 2))
        await_true("its clients are told", lambda: client.closed, 5)
        client = await_true("clients can come again", lambda: joined(made), BACK_S)
        await_true("and hear all symbols", lambda: all(client.trades.values()), 10)
        settle(made, reader)
        check_reader(made, reader)
        check_barter(made, reader, client)
        client.close()
        reader.close()
        assert made.interrupt() == 0
        assert made.processes() == {}


def joined(made: Fire) -> Barter | None:
    try:
        return Barter(made)
    except OSError:
        return None


def check_truth_now(made: Fire, reader: Reader) -> None:
    settle(made, reader)
    check_truth(made, reader)
    made.control.post("resume")


@pytest.mark.parametrize("what", ["supervisor", "honcho"])
def test_a_killed_supervisor_or_honcho_ends_all_and_the_next_start_loses_nothing(tmp_path: Path, what: str):
    with fire(tmp_path) as made:
        reader = Reader(made)
        for n in range(ROUNDS):
            told(made, reader, "all flows", lambda: reader.flowing(0), 20)
            before = reader.cursors["books"].k
            role = ROLES[n % len(ROLES)]
            made.kill(made.supervisor(role) if what == "supervisor" else made.honcho())
            made.gone()
            stopped_ns = time.time_ns()
            made.start().live()
            told(made, reader, "all flows again", lambda ns=stopped_ns: reader.flowing(ns), 20)
            assert reader.cursors["books"].k > before
            assert len(reader.epochs["books"]) > n + 1  # the same streams, further on
        settle_after_restart(made, reader)
        reader.close()


def settle_after_restart(made: Fire, reader: Reader) -> None:
    """The simulator began anew, too: its former trades are on no tape, but every cursor came once."""
    made.control.post("pause")
    seqs = made.seqs()

    def at_end() -> bool:
        with reader.lock:
            return all((v := reader.views[s]).event and v.event.seq == seqs[s] for s in seqs)

    told(made, reader, "every book is at its end", at_end, 20)
    check_truth(made, reader)
    assert reader.wrong == []
    for ids in reader.trades.values():
        assert len(ids) == len({*ids})
