"""The analytics: ``events`` to ``flow``, a partition at a time."""

from actors.runtime.lifecycle import Actor
from actors.runtime.loop import run_stage
from actors.runtime.stage import Stage
from actors.stages.cvd import ROLE, CumulativeDelta
from actors.streams.keys import Partition


async def run(actor: Actor) -> None:
    """Sum trades until the actor stops."""
    await run_stage(actor, Stage(role=ROLE, reads="events", writes=("flow", "dead"), fold=_fold))


def _fold(partition: Partition, state: bytes | None) -> CumulativeDelta:
    return CumulativeDelta(partition.venue, state)
