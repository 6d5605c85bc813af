"""cryptofeed's side, run by the Python of its own environment; it imports nothing of ours.

``cryptofeed_side.py REDIS_PORT FRAMES BURST``. Each line on stdin asks for so many passes; the answer is a
JSON line once all their events are in Redis: ``cpu_s``, the CPU time that this process took for them.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from cryptofeed.backends.redis import BookStream, TickerStream, TradeStream
from cryptofeed.connection import HTTPSync
from cryptofeed.defines import L2_BOOK, TICKER, TRADES
from cryptofeed.exchanges import Binance

SYMBOL = "BTC-USDT"
Pass = list[tuple[str, str]]


class Snapshots:
    """Stands for its HTTP connection, which it asks for a snapshot at the first change of a book."""

    def __init__(self, body: str) -> None:
        self._body = body

    async def read(self, _address: str) -> str:
        """Return the one snapshot of the pass."""
        return self._body


def make_feed(listing: str, port: int) -> tuple[Binance, list[Any]]:
    """Return its feed and its Redis backends; REST answers are ours, all else is its own."""
    HTTPSync.read = lambda *_args, **_options: json.loads(listing)
    backends = [kind(host="127.0.0.1", port=port) for kind in (TradeStream, TickerStream, BookStream)]
    callbacks = dict(zip((TRADES, TICKER, L2_BOOK), backends, strict=True))
    config = {"log": {"disabled": True}}
    feed = Binance(symbols=[SYMBOL], channels=list(callbacks), callbacks=callbacks, config=config)
    return feed, backends


async def play(feed: Binance, rows: Pass, burst: int) -> None:
    """Give it one pass: what its connection handler does for each frame, after subscribing anew."""
    await feed.subscribe(None)
    feed.http_conn = Snapshots(next(text for kind, text in rows if kind == "h"))
    handle = feed.message_handler
    for at, (kind, text) in enumerate(rows):
        if kind == "f":
            await handle(text, None, time.time())
        if at % burst == 0:
            await asyncio.sleep(0)


async def main(port: int, listing: str, passes: list[Pass], burst: int) -> None:
    """Play what is asked for on stdin."""
    feed, backends = make_feed(listing, port)
    loop = asyncio.get_running_loop()
    for backend in backends:
        backend.start(loop)
    due = iter(passes)
    for asked in sys.stdin:
        began = time.process_time()
        for _ in range(int(asked)):
            await play(feed, next(due), burst)
        for backend in backends:
            await backend.queue.join()
        sys.stdout.write(json.dumps({"cpu_s": time.process_time() - began}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _listing, *_blocks = Path(sys.argv[2]).read_text().split("\n\n")
    _passes = [[(line[0], line[2:]) for line in block.split("\n")] for block in _blocks]
    uvloop.install()
    asyncio.run(main(int(sys.argv[1]), _listing, _passes, int(sys.argv[3])))
