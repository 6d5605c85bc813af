"""An actor's life: start, signals, stop; the one way in for every role.

(interface; the body is written by its owner)
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from actors.config import Settings
from actors.runtime.metrics import Metrics
from actors.streams.keys import Keys


@dataclass(frozen=True, slots=True)
class Actor:
    """What a role is given. ``stopping`` is set by SIGTERM and SIGINT: drain, commit, release, return."""

    settings: Settings
    keys: Keys
    role: str
    instance: str  # <role>.<host>.<pid>.<8 random hex>, new at each start: the owner of leases
    number: int  # 1 for the first of its kind on this host (HONCHO_PROCESS_NAME)
    metrics: Metrics
    stopping: anyio.Event


Run = Callable[[Actor], Awaitable[None]]
