"""What a stage does beside folding, once a second: trim, forget dead readers, measure."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import anyio
import structlog

from actors.runtime.lifecycle import Actor
from actors.runtime.meter import Meter
from actors.streams.keys import SERVER_IDS, Cursor, Keys, Partition, Stream
from actors.streams.partition import newest, persist
from actors.streams.readers import Reader, forget, readers, trim
from actors.streams.wire import Hot

log = structlog.get_logger()

_TRIM_S: Final = 1.0
_READERS_S: Final = 30.0  # chosen: a new reader holds trimming back from then on; the floor covers it before
_UNSEEN_S: Final = 24 * 3600.0  # DESIGN 5


class Housekeeping:
    """Once a second: trim what this role writes, forget dead readers, measure."""

    def __init__(
        self,
        actor: Actor,
        partition: Partition,
        meter: Meter,
        *,
        role: str,
        reads: Stream,
        writes: Sequence[Stream],
    ) -> None:
        self._actor = actor
        self._keys: Keys = actor.keys
        self._settings = actor.settings.streams
        self._role = role
        self._reads: Stream = reads
        self._partition = partition
        self._meter = meter
        self._trims: list[Stream] = [s for s in writes if s not in SERVER_IDS]
        if reads == "raw":
            self._trims.append("raw")  # several connectors write it: its reader trims
        self._roles: list[str] = []
        self._roles_due = 0.0
        self._unseen: dict[str, tuple[int, float]] = {}  # role -> when it was seen, since when we know

    async def run(self, hot: Hot, where: Callable[[], Cursor]) -> None:
        """Run until cancelled."""
        try:
            while True:
                began = time.monotonic()
                try:
                    await persist(hot, partial(self._once, hot, where), self._meter.lost)
                finally:
                    self._meter.flush()
                await anyio.sleep(max(0.0, began + _TRIM_S - time.monotonic()))
        finally:
            self._meter.leave()

    async def _once(self, hot: Hot, where: Callable[[], Cursor]) -> None:
        if time.monotonic() >= self._roles_due:
            await self._look_for_readers(hot)
        for stream in self._trims:
            trimmed = await trim(
                hot,
                self._keys,
                self._partition,
                role=self._role,
                stream=stream,
                roles=self._roles,
                floor_s=self._settings.retention_s,
                cap_bytes=self._settings.retention_bytes,
            )
            if trimmed.entries and trimmed.why == "cap":
                log.debug("trimmed_by_cap", partition=str(self._partition), stream=stream)
        head = await newest(hot, self._keys, self._partition, self._reads)
        self._meter.lag(head.k - where().k)
        memory = await hot.call("INFO", "memory")
        self._meter.memory(int(memory.partition(b"used_memory:")[2].split(b"\r\n", 1)[0]))

    async def _look_for_readers(self, hot: Hot) -> None:
        """Learn who reads here. Who has not been seen for a day in which we looked is forgotten.

        Not so who holds nothing back: a connector of which nothing is asked stores no cursor for days, and
        without one its successor would serve all of ``control`` again.
        """
        now = time.monotonic()
        self._roles_due = now + min(_READERS_S, self._settings.retention_s / 2)
        known = await readers(hot, self._keys, self._partition)
        found = [reader for reader in known if reader.holds_back]
        self._unseen = {r.role: self._since(r, now) for r in found}
        self._roles = []
        for reader in found:
            if reader.role != self._role and now - self._unseen[reader.role][1] > _UNSEEN_S:
                log.warning("reader_forgotten", partition=str(self._partition), reader=reader.role)
                await forget(hot, self._keys, self._partition, reader.role)
            else:
                self._roles.append(reader.role)

    def _since(self, reader: Reader, now: float) -> tuple[int, float]:
        # By our own watching, not by the stored time: after a weekend in which all was off nobody is dead.
        known = self._unseen.get(reader.role)
        return known if known is not None and known[0] == reader.seen_ms else (reader.seen_ms, now)
