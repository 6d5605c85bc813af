"""What a role that folds one stream into others says of itself, for the stage loop to run it."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from actors.stages.fold import Fold
from actors.streams.keys import Partition, Stream
from actors.streams.lease import Lease
from actors.streams.wire import Hot

Lost = Callable[[Exception], None]
Beside = Callable[[Lease, Hot, Lost], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A role that folds one stream of each partition into others.

    Attributes:
        role: Names lease, cursor and checkpoint.
        reads: The one input.
        writes: The outputs, ``control`` and ``dead`` among them where the fold uses them.
        fold: (partition, an earlier ``dump()`` or None) -> the fold.
        beside: Runs beside the loop while the lease is held, with a connection of its own; to be
            told of each failure of that.
    """

    role: str
    reads: Stream
    writes: tuple[Stream, ...]
    fold: Callable[[Partition, bytes | None], Fold]
    beside: Beside | None = None


@runtime_checkable
class Counting(Protocol):
    """A fold that numbers its outputs itself; told where they stand when it starts without a state."""

    def resume(self, counts: dict[str, int]) -> None:
        """Learn how many events each output has."""
        ...
