"""A client of the native protocol that checks what it hears as it hears it."""

import json
from collections import Counter
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from actors.model.instruments import canonical

Side = dict[Decimal, str]


def side(levels: list[list[str]]) -> Side:
    return {Decimal(price): size for price, size in levels if Decimal(size)}


class Book:
    """One book as a client folds it: by dictionary and Decimal, unlike the product."""

    def __init__(self) -> None:
        self.bids: Side = {}
        self.asks: Side = {}
        self.k: int | None = None  # None: not known
        self.state = "unknown"
        self.broken = 0

    def apply(self, k: int, event: dict[str, Any], stands: bool) -> None:
        if event["type"] == "snapshot":
            self.bids, self.asks = side(event["bids"]), side(event["asks"])
        elif self.k is None or event["prev"] != self.k:
            self.broken += self.k is not None
            self.k = None
            return
        else:
            for mine, levels in ((self.bids, event["bids"]), (self.asks, event["asks"])):
                for price, size in levels:
                    if Decimal(size):
                        mine[Decimal(price)] = size
                    else:
                        mine.pop(Decimal(price), None)
        self.k, self.state = k, event["state"]
        assert stands or event["prev"] < k


class Heard:
    """What a subscription has been told over all its connections.

    Every event's cursor must follow the one before in its stream: none twice, none backwards, unless a
    rollback was told.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self.keep = keep  # the messages themselves; numbers always
        self.cursors: dict[str, str] = {}
        self.ks: dict[str, list[int]] = {}  # of events, by stream
        self.events: list[dict[str, Any]] = []
        self.notices: list[dict[str, Any]] = []
        self.states: list[dict[str, Any]] = []
        self.last: dict[tuple[str, str], dict[str, Any]] = {}  # the newest state of each kind and symbol
        self.books: dict[str, Book] = {}
        self.kinds: Counter[str] = Counter()
        self.lives = 0

    def take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._event(message)
        elif "live" in message:
            self.lives += 1
            self.cursors |= message["live"]
        elif "skipped" in message:
            self.notices.append(message)
            for stream, span in message["skipped"].items():
                assert place(span["after"]) >= place(self.cursors.get(stream, "0-0")), message
                self.cursors[stream] = span["to"]
        elif "rollback" in message:
            self.notices.append(message)
            for stream, span in message["rollback"].items():
                self.cursors[stream] = span["after"]
                cut = place(span["after"])[1]
                self.ks[stream] = [k for k in self.ks.get(stream, []) if k <= cut]
        elif message.get("op") == "heartbeat":
            for stream, cursor in message.get("cursors", {}).items():
                assert place(cursor) >= place(self.cursors.get(stream, "0-0"))
                self.cursors[stream] = cursor

    def _event(self, message: dict[str, Any]) -> None:
        stream, _, cursor = message["cursor"].rpartition("/")
        event, stands = message["event"], message.get("snapshot", False)
        epoch, k = place(cursor)
        self.kinds[event["kind"]] += 1
        if stands:
            self.states += [message] if self.keep else []
            self.last[event["kind"], event["symbol"]] = event
        else:
            assert (epoch, k) > place(self.cursors.get(stream, "0-0")), (message, self.cursors.get(stream))
            assert k > (self.ks.get(stream) or [0])[-1], message
            self.cursors[stream] = cursor
            self.ks.setdefault(stream, []).append(k)
            self.events += [message] if self.keep else []
        if event["kind"] == "book":
            name = f"{event['venue']}/{event['symbol']}"
            self.books.setdefault(name, Book()).apply(k, event, stands)


def place(cursor: str) -> tuple[int, int]:
    epoch, _, k = cursor.rpartition("/")[2].partition("-")
    return int(epoch), int(k)


class NativeClient:
    """A connection; ``heard`` may outlive it."""

    def __init__(self, connection: ClientConnection, heard: Heard) -> None:
        self.connection = connection
        self.heard = heard  # of subscription 1
        self.others: dict[int, Heard] = {}
        self.messages: list[dict[str, Any]] = []

    def _take(self, message: dict[str, Any]) -> None:
        of = message.get("id", 1)
        (self.heard if of == 1 else self.others.setdefault(of, Heard())).take(message)

    async def next(self, within_s: float = 30.0) -> dict[str, Any]:
        with anyio.fail_after(within_s):
            message = json.loads(await self.connection.recv())
        self.messages.append(message)
        self._take(message)
        return message

    async def until(self, key: str, value: Any = ..., within_s: float = 30.0) -> dict[str, Any]:
        """The next message that has ``key``, and it this value."""
        with anyio.fail_after(within_s):
            while True:
                message = await self.next(within_s)
                if key in message and value in (..., message[key]):
                    return message

    async def events(self, n: int) -> list[dict[str, Any]]:
        return [(await self.until("event")) for _ in range(n)]

    async def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request; return the answer to it."""
        await self.connection.send(json.dumps(request))
        with anyio.fail_after(30):
            while True:
                message = await self.next()
                if "op" in message and message["op"] != "heartbeat":
                    return message

    async def subscribe(self, **request: Any) -> dict[str, Any]:
        answer = await self.ask(**{"op": "subscribe", "id": 1, **request})
        assert answer["op"] == "subscribed", answer
        return answer

    async def resume(self, **request: Any) -> dict[str, Any]:
        return await self.subscribe(**{"op": "resume", "cursors": self.heard.cursors, **request})

    async def survives(self, waiting: Awaitable[Any]) -> bool:
        """Whether it came before the connection ended."""
        try:
            await waiting
        except ConnectionClosed:
            return False
        return True

    async def pump(self) -> None:
        """Take messages until the connection ends."""
        try:
            while True:
                self._take(json.loads(await self.connection.recv()))
        except ConnectionClosed:
            return


async def dial(url: str, heard: Heard | None = None, **options: Any) -> NativeClient:
    """Connect and take the hello."""
    options = {"proxy": None, "compression": None, "max_size": None, "max_queue": None, **options}
    connection = await connect(f"{url}/v1", **options)
    client = NativeClient(connection, heard or Heard())
    hello = await client.next()
    assert hello["op"] == "hello", hello
    return client


def symbols(*names: str) -> list[str]:
    return [canonical(name) for name in names]
