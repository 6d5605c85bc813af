"""What the forwarding row needs besides the feeder: how far the master has come, and what its files hold."""

import time
from pathlib import Path
from typing import Final

import redis

from actors.bench.progress import Progress
from actors.formation import free_port
from actors.master.reading import streams, summary
from actors.streams.keys import Cursor, Keys, Partition

PARTITION: Final = Partition("binance", 0)
AHEAD: Final = 20_000  # trades in flight: the cursor in Redis follows the master's four times a second
_ENTRY: Final = 64  # the feeder's entries: trades, and one tick
_POLL_S: Final = 0.005


def config(folder: Path) -> str:
    """Return the tables that make a forwarder and a master whose files lie in ``folder``."""
    port = free_port()
    return f"""
[forwarder]
url = "ws://127.0.0.1:{port}"
protocol = "acked"
[master]
enabled = true
port = {port}
folder = "{folder}"
"""


def follow(port: int, progress_path: Path) -> None:
    """Tell how many trades the master has acknowledged; be ready once the forwarder is registered."""
    client, progress = redis.Redis(port=port), Progress(progress_path)
    key = Keys().cursor(PARTITION, "forwarder")
    while not progress["stop"]:
        text = client.hget(key, "c:events")
        if isinstance(text, bytes):
            k = Cursor.parse(text).k
            progress["received"] = k - k // _ENTRY
            progress["ready"] = 1
        time.sleep(_POLL_S)


def stored(folder: Path) -> int:
    """Return how many trades are in the files."""
    return sum(summary(folder, place).messages.get("trade", 0) for place in streams(folder))
