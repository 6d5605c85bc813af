"""cryptofeed's message handler of one venue, run by the Python of its own environment; nothing of ours.

``handler_side.py DOCUMENT``, a JSON file: ``feed``, ``listing`` (answers to its requests for symbols),
``channels`` (cryptofeed's name -> native symbols), ``rest`` (native symbol -> answers to its requests for a
book) and ``frames``. ``handler_side.py DOCUMENT checked``: with its check for crossed books. Each line on
stdin is answered by a JSON line. ``check``: the ``trades`` that it told in one pass over the frames, and the
``books`` that it holds after it. A number: the CPU time of so many passes, ``cpu_s``, with callbacks that do
nothing.
"""

import asyncio
import json
import logging
import sys
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptofeed.connection import HTTPSync
from cryptofeed.defines import TRADES
from cryptofeed.exchanges import EXCHANGE_MAP, bitstamp

KEYS = {"key_id": "none", "key_secret": "none", "key_passphrase": "none"}  # KuCoin's books ask for them
TOKEN = {"data": {"token": "none", "instanceServers": [{"endpoint": "ws://none", "pingInterval": 18000}]}}


class Wire:
    """Stands for its connections: swallows what it says, answers what it asks."""

    uuid = "1"
    conn_type = "wss"

    def __init__(self, subscription: dict[str, list[str]], rest: dict[str, list[str]]) -> None:
        self.subscription = subscription
        self._rest = rest
        self._asked: dict[str, int] = {}

    async def write(self, *_: Any, **__: Any) -> None:
        """Swallow."""

    async def read(self, url: str, **_: Any) -> str:
        """Return the next answer for the symbol in ``url``; the last one again and again."""
        native = max((each for each in self._rest if each in url), key=len)
        at = self._asked[native] = self._asked.get(native, 0) + 1
        return self._rest[native][min(at, len(self._rest[native])) - 1]

    def forget(self) -> None:
        """Begin the answers anew."""
        self._asked = {}


async def _no_pause(_seconds: float) -> None:
    """Wait for nobody: there is no venue to be polite to."""


async def _ignore(_told: Any, _timestamp: float) -> None:
    """Take what a handler tells."""


class Feed:
    """One of its feeds and the frames of it."""

    def __init__(self, document: dict[str, Any], *, checked: bool) -> None:
        answers = iter(document["listing"])
        HTTPSync.read = lambda *_args, **_options: next(answers)
        HTTPSync.write = lambda *_args, **_options: TOKEN
        logging.disable()  # what it finds odd is no matter here
        bitstamp.asyncio = SimpleNamespace(sleep=_no_pause)
        kind = EXCHANGE_MAP[document["feed"]]
        symbols = {native: str(name) for name, native in kind.symbol_mapping().items()}
        subscription = {c: [symbols[each] for each in natives] for c, natives in document["channels"].items()}
        config = {"log": {"disabled": True}, document["feed"].lower(): KEYS}
        callbacks = dict.fromkeys(subscription, _ignore)
        self.feed = kind(subscription=subscription, callbacks=callbacks, config=config, cross_check=checked)
        natives = {kind.std_channel_to_exchange(c): natives for c, natives in document["channels"].items()}
        self.wire = Wire(natives, document["rest"])
        self.feed.http_conn = self.wire
        self.frames: list[str] = document["frames"]

    async def play(self) -> None:
        """Subscribe anew, and take all frames."""
        self.wire.forget()
        await self.feed.subscribe(self.wire)
        handle, wire = self.feed.message_handler, self.wire
        for frame in self.frames:
            await handle(frame, wire, 0.0)

    async def check(self) -> dict[str, Any]:
        """Return what a pass tells."""
        trades: list[list[str | None]] = []

        async def traded(t: Any, _timestamp: float) -> None:
            trades.append([t.symbol, t.id, t.side, str(t.price), str(t.amount)])

        self.feed.callbacks[TRADES] = [traded]
        await self.play()
        self.feed.callbacks[TRADES] = [_ignore]
        books = {symbol: _sides(book.book) for symbol, book in self.feed._l2_book.items()}  # noqa: SLF001
        return {"trades": trades, "books": books}


def _sides(book: Any) -> dict[str, list[tuple[str, str]]]:
    sides = {"bids": book.bids, "asks": book.asks}
    return {name: [(str(price), str(Decimal(side[price]))) for price in side] for name, side in sides.items()}


async def main(feed: Feed) -> None:
    """Do what is asked for on stdin."""
    for asked in sys.stdin:
        if asked.strip() == "check":
            answer = await feed.check()
        else:
            began = time.process_time()
            for _ in range(int(asked)):
                await feed.play()
            answer = {"cpu_s": time.process_time() - began}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Feed(json.loads(Path(sys.argv[1]).read_text()), checked="checked" in sys.argv[2:])))
