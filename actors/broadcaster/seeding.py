"""What stood before anybody was connected: the newest L1 and sum of each symbol, looked for in Redis."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import anyio

from actors.broadcaster.archive import Archive
from actors.broadcaster.outlet import Source
from actors.broadcaster.records import Records
from actors.dialects.native import AFTER_TOPIC, StreamName
from actors.streams.keys import Partition

_SEEDS: Final[dict[StreamName, str]] = {"books": "l1", "flow": "cvd"}


class Seeding:
    """Fills the records of partitions that need it, one after the other."""

    def __init__(
        self,
        records: Records,
        sources: Mapping[Partition, Source],
        symbols: Callable[[Partition], Sequence[str]],
        done: Callable[[Partition], None],
    ) -> None:
        """Make it; nothing is needed yet.

        Args:
            records: What is to be filled.
            sources: Where the partitions stand.
            symbols: The symbols of a partition.
            done: Is told when a partition is filled.
        """
        self._records = records
        self._sources = sources
        self._symbols = symbols
        self._done = done
        self._needed: dict[Partition, object] = {}  # partition -> the need: a later one is another
        self._awake = anyio.Event()

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._needed

    def need(self, partition: Partition) -> None:
        """Look for what stands in a partition, as soon as it is ready."""
        self._needed[partition] = object()
        self._awake.set()

    def look(self) -> None:
        """Look whether a partition has become ready."""
        self._awake.set()

    def forget(self) -> None:
        """Need nothing any more: everybody has gone."""
        self._needed.clear()

    async def run(self, archive: Archive) -> None:
        """Look for what is needed, for ever."""
        while True:
            await self._awake.wait()
            self._awake = anyio.Event()
            for partition in [*self._needed]:
                if self._sources[partition].ready:
                    await self._fill(archive, partition)

    async def _fill(self, archive: Archive, partition: Partition) -> None:
        need = self._needed.get(partition)
        symbols, cursors = self._symbols(partition), self._sources[partition].cursors
        async with archive.opened() as reader:
            tops = await reader.tops(partition, symbols)  # first: what is not in the pages then is older
            found = [
                await reader.standing(
                    (partition, stream), kind, len(symbols), partial(cursors.__getitem__, stream)
                )
                for stream, kind in _SEEDS.items()
            ]
        if need is None or self._needed.get(partition) is not need:
            return  # whoever it was for has gone, or more was missed: there are lines between
        for stream, standings in zip(_SEEDS, found, strict=True):
            latest = self._records[partition, stream].latest
            for start, standing in standings.items():
                latest.setdefault(start, standing)
        latest, at = self._records[partition, "books"].latest, cursors["books"]
        for line in tops:
            latest.setdefault(line[: line.find(AFTER_TOPIC)], (at.epoch, at.k, line))
        del self._needed[partition]
        self._done(partition)
