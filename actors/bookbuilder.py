"""The bookbuilder: ``events`` to ``books``, a partition at a time, and the latest-value keys.

The keys are the one thing of it that is read without events, so they have an edge of their own: where no
tick has come for 3 s by this process' clock, they are set to ``stale`` beside the fold. The fold writes
them again with the next change, at the latest with the next periodic snapshot.
"""

from collections.abc import Mapping
from functools import partial
from typing import Final

import anyio
import structlog

from actors.model.events import STALE_S, BookState
from actors.runtime.lifecycle import Actor
from actors.runtime.loop import run_stage
from actors.runtime.stage import Lost, Stage
from actors.stages.bookbuild import ROLE, STATES, Bookbuild
from actors.streams.keys import Partition
from actors.streams.lease import Lease
from actors.streams.partition import persist
from actors.streams.wire import Hot
from actors.venues import VENUES

WATCH_S: Final = 0.5

log = structlog.get_logger()


async def run(actor: Actor) -> None:
    """Build books until the actor stops."""
    folds: dict[Partition, Bookbuild] = {}  # the newest of each partition

    def fold(partition: Partition, state: bytes | None) -> Bookbuild:
        venue = VENUES[partition.venue]
        wanted = actor.settings.venues[partition.venue]
        named = wanted.channels is None or "l1" in wanted.channels
        # Where it is wanted of some symbols only, a symbol has it from its first on.
        has_l1 = "l1" in venue.channels and named and "l1" not in wanted.only
        rule = venue.book_rule.audited(wanted.audit_s)
        folds[partition] = Bookbuild(venue.name, rule, state, has_l1=has_l1)
        return folds[partition]

    stage = Stage(
        role=ROLE,
        reads="events",
        writes=("books", "control", "dead"),
        fold=fold,
        beside=partial(_watch, actor, folds),
    )
    await run_stage(actor, stage)


async def _watch(
    actor: Actor, folds: Mapping[Partition, Bookbuild], lease: Lease, hot: Hot, lost: Lost
) -> None:
    """Show the states of the books; set their keys to ``stale`` where time stands still."""
    partition = lease.partition
    seen, since, told = 0, anyio.current_time(), False
    try:
        while True:
            fold = folds[partition]
            _show(actor, partition, fold.states())
            if fold.now != seen:
                seen, since, told = fold.now, anyio.current_time(), False
            elif not told and anyio.current_time() - since >= STALE_S:
                told = await persist(hot, partial(_set_stale, actor, fold, lease, hot), lost)
            await anyio.sleep(WATCH_S)
    finally:
        _show(actor, partition, dict.fromkeys(STATES, 0))


async def _set_stale(actor: Actor, fold: Bookbuild, lease: Lease, hot: Hot) -> bool:
    """Write the keys if the lease is still mine; False: try again."""
    # A process that was stopped for a while must not overwrite what the new owner says.
    await hot.call("WATCH", lease.key)
    if await hot.call("HGET", lease.key, "owner") != lease.owner.encode():
        await hot.call("UNWATCH")
        return False
    keys = fold.stale_keys()
    sets = [("SET", actor.keys.latest(lease.partition, *name), value) for name, value in keys.items()]
    replies = await hot.pipeline([("MULTI",), *sets, ("EXEC",)])
    if replies[-1] is not None:
        log.warning("no_tick", partition=str(lease.partition), stale_keys=len(sets))
    return replies[-1] is not None


def _show(actor: Actor, partition: Partition, states: Mapping[BookState, int]) -> None:
    for state, n in states.items():
        actor.metrics.gauge("tapeline_books", n, partition=str(partition), state=state)
