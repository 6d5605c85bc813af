"""The deltas of one book that wait for a snapshot to join."""

from typing import Final

from actors.model.events import BookDelta

BUFFER_DELTAS: Final = 4096  # chosen: over six minutes of a 100 ms stream
BUFFER_BYTES: Final = 4 * 1024 * 1024  # chosen: of event lines, a candidate


class Buffer:
    """Deltas in the order of their coming.

    Attributes:
        deltas: Oldest first.
        weight: Of their lines, bytes.
    """

    __slots__ = ("deltas", "weight")

    def __init__(self) -> None:
        self.deltas: list[BookDelta] = []
        self.weight = 0

    def is_full(self, weight: int) -> bool:
        """Tell whether ``weight`` bytes more are too many."""
        return len(self.deltas) >= BUFFER_DELTAS or self.weight + weight > BUFFER_BYTES

    def add(self, delta: BookDelta, weight: int) -> None:
        """Keep a delta whose line has ``weight`` bytes."""
        self.deltas.append(delta)
        self.weight += weight

    def clear(self) -> None:
        """Forget them. The list that was is left to whoever holds it."""
        self.deltas = []
        self.weight = 0
