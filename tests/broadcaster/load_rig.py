"""What a broadcaster is put under: three streams that grow, and the truth about them."""

import random
from collections import Counter
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

import anyio
from broadcaster_rig import PARTITION, Script
from native_rig import Heard

from actors.model import codec
from actors.model.events import L1, Book, Cvd, Event, Level
from actors.streams.keys import Keys, Stream


class Load:
    """Writes entries of all three streams, and knows what is in them."""

    def __init__(self, server: Any, script: Script, seed: int = 5) -> None:
        self.script = script
        self.rng = random.Random(seed)
        self.stopped = False
        self.books: dict[str, tuple[dict[Decimal, str], dict[Decimal, str]]] = {}
        self.written: dict[str, list[tuple[str, str]]] = {}  # stream -> kind and symbol of its events
        self._client = server.client()
        self._keys = Keys()

    def _book(self, symbol: str) -> Book:
        known = symbol in self.books
        bids, asks = self.books.setdefault(symbol, ({}, {}))
        changes: list[list[Level]] = []
        for mine, start in ((bids, 100), (asks, 200)):
            levels = [
                (f"{start + self.rng.randint(0, 30)}.50", self.rng.choice(["0", "1", "2.5"]))
                for _ in range(self.rng.randint(1, 4))
            ]
            for price, size in levels:
                mine[Decimal(price)] = size
                if size == "0":
                    del mine[Decimal(price)]
            changes.append(levels)
        if known and self.rng.random() > 0.02:
            return self.script.book("delta", *changes, symbol)
        whole = [[(f"{p}", size) for p, size in mine.items()] for mine in (bids, asks)]
        return self.script.book("snapshot", *whole, symbol, periodic=known)

    def write(self, n: int = 8) -> None:
        s = self.script
        pipe = self._client.pipeline(transaction=False)

        def put(stream: Stream, *events: Event) -> None:
            _, entry = s.entry(stream, *events)
            fields = {"n": len(entry.lines), "d": b"\n".join(entry.lines)}
            pipe.xadd(self._keys.stream(PARTITION, stream), fields, id=str(entry.cursor))
            of = self.written.setdefault(f"{PARTITION}/{stream}", [])
            of += [
                (codec.kind_of(line), event.symbol or "")
                for line, event in zip(entry.lines, events, strict=True)
            ]

        trades = [s.trade(self.rng.choice(["BTC-USDT", "ETH-USDT"])) for _ in range(n)]
        put("events", *trades)
        put("flow", *[Cvd("binance", t.symbol, None, t.ts_recv, None, t.id, "1") for t in trades])
        for trade in trades:
            l1 = L1("binance", trade.symbol, None, trade.ts_recv, None, "100", trade.id, "200", "1")
            put("books", self._book(trade.symbol or ""), l1)
        pipe.execute()

    async def run(self, every_s: float = 0.002) -> None:
        while not self.stopped:
            self.write()
            await anyio.sleep(every_s)

    def ends(self) -> dict[str, int]:
        return {stream: len(of) for stream, of in self.written.items()}


def arrived(heard: Heard, load: Load) -> bool:
    """Whether it has been told as much as there is."""
    return all(int(heard.cursors.get(of, "0-0").split("-")[1]) >= k for of, k in load.ends().items())


def each_once(
    heard: Heard, load: Load, first: dict[str, int], kinds: set[str] | None = None, symbols: str = "*"
) -> None:
    """Every event after ``first`` that was asked for was told once, in order."""
    for stream, of in load.written.items():
        wanted = [
            k
            for k, (kind, symbol) in enumerate(of, 1)
            if k > first.get(stream, 0) and (kinds is None or kind in kinds) and fnmatchcase(symbol, symbols)
        ]
        told = heard.ks.get(stream, [])
        assert told == wanted, (stream, Counter(wanted) - Counter(told), Counter(told) - Counter(wanted))


def same_books(heard: Heard, load: Load) -> None:
    """The folded books are the true ones, and no delta came that did not continue them."""
    for symbol, (bids, asks) in load.books.items():
        book = heard.books[f"binance/{symbol}"]
        assert (book.bids, book.asks, book.broken) == (bids, asks, 0), symbol
