"""The normalizer: ``raw`` to ``events``, a partition at a time, and the clock of each partition.

Beside the fold its owner appends a tick to ``raw`` each second, connector or not: Redis' time and the
legs whose lease is alive. What a tick does not name counts as closed.
"""

from collections.abc import Mapping
from functools import partial
from typing import Final

import anyio
import msgspec

from actors.model.events import Channel, StatusState
from actors.runtime.lifecycle import Actor
from actors.runtime.loop import run_stage
from actors.runtime.stage import Lost, Stage
from actors.stages import raw
from actors.stages.normalize import ROLE, Normalize
from actors.streams.keys import Partition, legs
from actors.streams.lease import Lease, living
from actors.streams.partition import Appender, persist
from actors.streams.wire import Hot
from actors.venues import VENUES

TICK_LEG: Final = "tick"  # ticks are counted in raw as a leg of their own, under this role's lease
TICK_S: Final = 1.0  # DESIGN 4


async def run(actor: Actor) -> None:
    """Normalize until the actor stops."""
    folds: dict[Partition, Normalize] = {}  # the newest of each partition, for its gauges

    def fold(partition: Partition, state: bytes | None) -> Normalize:
        folds[partition] = Normalize(VENUES[partition.venue], str(partition), state)
        return folds[partition]

    stage = Stage(
        role=ROLE,
        reads="raw",
        writes=("events", "control", "dead"),
        fold=fold,
        beside=partial(_tick, actor, folds),
    )
    await run_stage(actor, stage)


async def _tick(
    actor: Actor, folds: Mapping[Partition, Normalize], lease: Lease, hot: Hot, lost: Lost
) -> None:
    """Append a tick each second, for as long as the lease is held; show what is subscribed."""
    partition = lease.partition
    carriers = legs(actor.settings, partition.venue)
    appender = await Appender.open(hot, actor.keys, partition, TICK_LEG, lease)
    appender.lost = lost
    try:
        while True:
            began = anyio.current_time()
            now, alive = await persist(
                hot, lambda: living(hot, actor.keys, partition, "connector", carriers), lost
            )
            await appender.append([raw.line(now, "-", "k", msgspec.json.encode(raw.LegsAlive(alive)))])
            _show(actor, partition, folds[partition].gauges())
            await anyio.sleep(max(0.0, began + TICK_S - anyio.current_time()))
    finally:
        _show(actor, partition, dict.fromkeys(folds[partition].gauges(), 0))  # another shows them now


def _show(actor: Actor, partition: Partition, counts: Mapping[tuple[Channel, StatusState], int]) -> None:
    for (channel, state), n in counts.items():
        actor.metrics.gauge(
            "tapeline_subscriptions", n, partition=str(partition), channel=channel, state=state
        )
