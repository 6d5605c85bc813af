"""Whatever clients do, what they fold is what the broadcaster has.

Random subscriptions, cuts, resumes, views, retention and rollbacks against a broadcaster that is fed by
hand; the retained streams are in memory.
"""

import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from broadcaster_rig import PARTITION, SYMBOLS, Rig, running, until
from load_rig import Load
from native_rig import Heard, NativeClient, dial, place, side

from actors.model import codec
from actors.streams.keys import START, Cursor, Stream
from actors.streams.partition import Entry

STREAMS: tuple[Stream, ...] = ("events", "books", "flow")


class Retained:
    """The streams as Redis would keep them: what ``Archive`` reads."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Entry]] = {stream: [] for stream in STREAMS}

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncIterator["Retained"]:
        await anyio.sleep(random.uniform(0, 0.003))
        yield self

    opened = reader

    async def retained(self) -> None:
        return None

    async def newest(self, of: Any) -> Cursor:
        entries = self.entries[of[1]]
        return entries[-1].cursor if entries else START

    async def page(self, of: Any, after: Cursor, to: Cursor) -> list[Entry]:
        await anyio.sleep(random.uniform(0, 0.003))
        return [entry for entry in self.entries[of[1]] if after < entry.cursor <= to][:2]

    async def standing(self, of: Any, kind: str, _symbols: int, position: Any) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        await anyio.sleep(random.uniform(0, 0.003))
        for entry in reversed(self.entries[of[1]]):
            for k in range(entry.k, entry.first - 1, -1):
                line = entry.lines[k - entry.first]
                if line.startswith(codec.prefix(kind)) and (entry.epoch, k) <= position():
                    found.setdefault(line[: line.find(b',"ts_event"')], (entry.epoch, k, line))
        return found

    async def tops(self, *_: Any) -> list[bytes]:
        return []


class Market(Load):
    """Feeds the follower instead of Redis."""

    def __init__(self, rig: Rig, retained: Retained, seed: int) -> None:
        self.entries = retained.entries
        self.rig = rig
        super().__init__(self, rig.script, seed)

    def client(self) -> "Market":  # what Load takes for a connection to Redis
        return self

    def pipeline(self, **_: Any) -> "Market":
        self.batch: list[tuple[Stream, Entry]] = []
        return self

    def xadd(self, key: str, fields: dict[str, Any], id: str) -> None:  # noqa: A002 - Redis' name
        stream: Any = key.rpartition(":")[2]
        self.batch.append((stream, Entry(*Cursor.parse(id), fields["d"].split(b"\n"))))

    def execute(self) -> None:
        for stream, entry in self.batch:
            self.entries[stream].append(entry)

    async def go(self, n: int) -> None:
        """Write; the follower reads it a little later, or together with the next."""
        self.write(n)
        await anyio.sleep(random.uniform(0, 0.002))
        await self.rig.follower.take(self.batch)

    def trim(self, rng: random.Random) -> None:
        for entries in self.entries.values():
            del entries[: rng.randint(0, max(0, len(entries) - 1))]


class Someone:
    """One client and its one subscription at a time."""

    def __init__(self, rig: Rig, rng: random.Random) -> None:
        self.rig = rig
        self.rng = rng
        self.heard = Heard()
        self.wishes: dict[str, Any] = {}
        self.client: NativeClient | None = None

    async def act(self, tg: anyio.abc.TaskGroup) -> None:
        if self.client is not None:
            self.client.connection.transport.abort()
            self.client = None
        elif self.heard.lives and self.rng.random() < 0.7:
            self.client = await dial(self.rig.url, self.heard)
            await self.client.resume(**self.wishes)
            tg.start_soon(self.client.pump)
        else:
            self.heard = Heard()
            self.wishes = self.rng.choice(
                [{}, {"symbols": ["BTC-*"]}, {"kinds": ["book", "cvd"]}, {"depth": 3, "interval_ms": 10}]
            )
            self.client = await dial(self.rig.url, self.heard)
            await self.client.subscribe(**self.wishes)
            tg.start_soon(self.client.pump)

    def arrived(self) -> bool:
        if self.client is None:
            return True
        follower = self.rig.follower
        there = {f"{PARTITION}/{stream}": cursor for stream, cursor in follower.cursors.items()}
        return self.heard.lives > 0 and all(
            place(self.heard.cursors[stream]) >= cursor
            for stream, cursor in there.items()
            if stream in self.heard.cursors
        )

    def view_is_true(self) -> bool:
        """Whether the last state of each book is the book."""
        if self.client is None or "depth" not in self.wishes:
            return True
        shelf = self.rig.follower.shelf
        last = {m["event"]["symbol"]: m["event"] for m in self.heard.states if m["event"]["kind"] == "book"}
        tops = {symbol: shelf.top(symbol, 3) for symbol in shelf.live()}
        return all(
            top is not None
            and (last[s]["bids"], last[s]["asks"]) == ([*map(list, top.bids)], [*map(list, top.asks)])
            for s, top in tops.items()
        )

    def check(self) -> None:
        if self.client is None or "depth" in self.wishes:
            return
        shelf = self.rig.follower.shelf
        for symbol in shelf.live():
            mine = self.heard.books.get(f"binance/{symbol}")
            if symbol not in (s for s in SYMBOLS if self.wishes.get("symbols", ["*"])[0][0] in ("*", s[0])):
                assert mine is None
                continue
            assert mine is not None
            if mine.k is None:
                assert self.heard.notices, "a chain broke and nobody said why"
                continue
            whole = shelf.snapshot(symbol)
            assert whole is not None
            assert (mine.k, mine.bids, mine.asks) == (
                shelf.place(symbol)[1], side(whole.bids), side(whole.asks),
            )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
async def test_what_a_client_folds_is_the_book_of_the_broadcaster(seed: int):
    rng, retained = random.Random(seed), Retained()
    async with running(heartbeat_s=0.05, slow_client_bytes=2**20) as r:
        market = Market(r, retained, seed)
        r.native._archive = r.door.archive = retained  # type: ignore[assignment]
        await market.go(4)
        people = [Someone(r, rng) for _ in range(5)]
        checks = 0
        async with anyio.create_task_group() as tg:
            for round_ in range(60):
                await market.go(rng.randint(1, 6))
                if rng.random() < 0.5:
                    await rng.choice(people).act(tg)
                if rng.random() < 0.1:
                    market.trim(rng)
                if round_ % 6 == 5:
                    await until(lambda: all(someone.arrived() for someone in people))
                    await until(lambda: all(someone.view_is_true() for someone in people))
                    for someone in people:
                        someone.check()
                    checks += sum(someone.client is not None for someone in people)
            for someone in people:
                if someone.client is not None:
                    someone.client.connection.transport.abort()
        assert checks > 10
