"""The reference master: takes what collectors forward, in both dialects, and keeps it in JSON-lines files.

It needs no Redis. What it acknowledges is in its files, to the degree that ``master.fsync`` states; where
a collector goes on is decided by these files.
"""

from pathlib import Path
from typing import Final

import anyio

from actors.config import Settings
from actors.master.server import MasterServer
from actors.master.store import Store
from actors.runtime.lifecycle import Actor

_CLOSE_S: Final = 1.0  # of the 2.5 s that SIGTERM gives
_LAST_S: Final = 1.0


def folder_of(settings: Settings) -> Path:
    """Return where the files lie."""
    return settings.master.folder or Path(".tapeline") / settings.mode / "master"


async def run(actor: Actor) -> None:
    """Serve until the actor stops.

    Raises:
        ConfigError: The port or the folder cannot be had.
        Refused: The disk does not take what is written.
    """
    store = Store(folder_of(actor.settings), actor.settings.master, actor.metrics)
    try:
        server = MasterServer(actor.settings, actor.metrics, store)
        await server.start()
        async with anyio.create_task_group() as tg:
            tg.start_soon(store.run)
            await actor.stopping.wait()
            await server.stop(_CLOSE_S)
            tg.cancel_scope.cancel()
        with anyio.move_on_after(_LAST_S, shield=True):
            await store.commit()
    finally:
        store.close()
