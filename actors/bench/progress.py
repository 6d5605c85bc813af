"""Counters that the processes of one benchmark share: a small memory-mapped file, no server involved."""

import mmap
import struct
from pathlib import Path
from typing import Final

_WORD: Final = "q"  # native: one store; "<q" is written byte by byte, and read half written
_SLOTS: Final = ("sent", "received", "stop", "ready", "halt", "age_us")


class Progress:
    """What the processes tell one another.

    Events sent and received; stop asked of all, halt of the feeder (0 or 1); receivers that are ready; how
    old the events are that a client receives.
    One process writes each slot, so plain eight-byte stores are enough.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * len(_SLOTS)))
        with path.open("r+b") as f:
            self._map = mmap.mmap(f.fileno(), 8 * len(_SLOTS))

    def __getitem__(self, slot: str) -> int:
        return struct.unpack_from(_WORD, self._map, 8 * _SLOTS.index(slot))[0]

    def __setitem__(self, slot: str, value: int) -> None:
        struct.pack_into(_WORD, self._map, 8 * _SLOTS.index(slot), value)
