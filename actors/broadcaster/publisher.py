"""Pub/sub: one event a message on ``md.<kind>.<venue>.<symbol>``, fire and forget, where somebody listens.

Of a partition whoever holds its lease ``publisher`` publishes, from its own follower's lines. Redis is
asked each second which channels have subscribers. Of patterns it only tells how many there are, so while
there is one, the answer to each PUBLISH (how many received it) tells: a channel that nobody received is
left out for a second. In a cluster a node knows its own subscribers only, so there a pattern opens all.
"""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple, cast

import anyio
import msgspec
import structlog
from redis.asyncio import Redis, RedisCluster

from actors.dialects.native import OF_STREAM
from actors.runtime.metrics import Metrics
from actors.streams.client import cold
from actors.streams.errors import FAULTS, is_passing
from actors.streams.keys import Keys, Partition, Stream
from actors.streams.lease import Holder, Lease, keep
from actors.streams.wire import Hot

log: Any = structlog.get_logger()

_KINDS: Final[dict[Stream, tuple[str, ...]]] = {**OF_STREAM}
_NO_SYMBOL: Final = "-"  # stands where an event is about a whole connection or venue
_DEAF_S: Final = 1.0  # how long a channel is left out that nobody received
_MOST_BYTES: Final = 8 * 1024 * 1024  # chosen: a second of everything; above it messages are dropped
_RETRY_S: Final = 0.5


class _Head(msgspec.Struct, gc=False):
    symbol: str | None


_head_of = msgspec.json.Decoder(_Head).decode


class Audience(NamedTuple):
    """Who listens now: channels by name, and whether there is any pattern."""

    channels: frozenset[str] = frozenset()
    patterns: bool = False


class _Message(NamedTuple):
    kind: str
    channel: str
    line: bytes


class _Box:
    """What waits to be published of one partition."""

    def __init__(self) -> None:
        self.messages: list[_Message] = []
        self.bytes = 0
        self.ready = anyio.Event()
        self.deaf: dict[str, float] = {}  # channel -> until when it is left out, monotonic

    def empty(self) -> list[_Message]:
        messages, self.messages, self.bytes = self.messages, [], 0
        self.ready = anyio.Event()
        return messages


class Publisher:
    """Publishes the partitions whose lease this instance holds."""

    def __init__(self, client: Redis, keys: Keys, metrics: Metrics) -> None:
        self._client = client
        self._keys = keys
        self._metrics = metrics
        self._boxes: dict[Partition, _Box] = {}
        self._channels: dict[tuple[str, str, str], str] = {}
        self._cluster = isinstance(client, RedisCluster)
        self._kinds: dict[Stream, frozenset[bytes]] = dict.fromkeys(_KINDS, frozenset[bytes]())
        self.audience = Audience()

    async def ask(self) -> None:
        """Ask Redis who listens.

        Raises:
            FAULTS: It does not answer.
        """
        client = cast("Any", self._client)
        prefix = self._keys.pubsub_prefix
        every = {"target_nodes": RedisCluster.ALL_NODES} if self._cluster else {}
        channels: Collection[bytes] = await client.pubsub_channels(f"{prefix}.*", **every)
        patterns: int = await client.pubsub_numpat(**every)
        self.listen(Audience(frozenset(channel.decode() for channel in channels), patterns > 0))

    def listen(self, audience: Audience) -> None:
        """Learn who listens."""
        self.audience = audience
        named = {
            channel[len(self._keys.pubsub_prefix) + 1 :].partition(".")[0] for channel in audience.channels
        }
        for stream, kinds in _KINDS.items():
            heard = kinds if audience.patterns else [kind for kind in kinds if kind in named]
            self._kinds[stream] = frozenset(kind.encode() for kind in heard)

    def take(self, partition: Partition, stream: Stream, lines: Sequence[bytes]) -> None:
        """Keep the lines that somebody listens to until they are written; never waits."""
        kinds, box = self._kinds[stream], self._boxes.get(partition)
        if box is None or not kinds:
            return
        now = time.monotonic()
        channels, patterns = self.audience
        for line in lines:
            kind = line[9 : line.find(b'"', 9)]
            if kind not in kinds:
                continue
            name = kind.decode()
            channel = self._channel(name, partition.venue, _head_of(line).symbol or _NO_SYMBOL)
            if channel not in channels and not (patterns and box.deaf.get(channel, 0.0) <= now):
                continue
            if box.bytes > _MOST_BYTES:
                self._metrics.count("tapeline_skipped_total", reason="pubsub")
                continue
            box.messages.append(_Message(name, channel, line))
            box.bytes += len(line)
        if box.messages:
            box.ready.set()

    def _channel(self, kind: str, venue: str, symbol: str) -> str:
        channel = self._channels.get((kind, venue, symbol))
        if channel is None:
            channel = self._channels[kind, venue, symbol] = self._keys.channel(kind, venue, symbol)
        return channel

    async def run(self, actor: Holder, places: Sequence[Partition]) -> None:
        """Hold a fair share of the leases and publish, until the actor stops."""

        async def work(lease: Lease) -> None:
            await self._publish(actor, lease)

        await keep(actor, [(partition, None) for partition in places], work, lease_role="publisher")

    async def _publish(self, actor: Holder, lease: Lease) -> None:
        hot = await cold(actor.settings, self._keys.stream(lease.partition, "events"))
        box = self._boxes[lease.partition] = _Box()
        try:
            while not lease.ending.is_set():
                with anyio.move_on_after(_RETRY_S):
                    await box.ready.wait()
                if box.messages:
                    await self._write(hot, box)
        finally:
            del self._boxes[lease.partition]
            await hot.aclose()

    async def _write(self, hot: Hot, box: _Box) -> None:
        messages = box.empty()
        try:
            if hot.lost:
                await hot.reconnect()
            received = await hot.pipeline([("PUBLISH", m.channel, m.line) for m in messages])
        except FAULTS as e:
            if not is_passing(e):
                raise
            # Sending again might say things twice: pub/sub is at most once.
            self._metrics.count("tapeline_skipped_total", len(messages), reason="pubsub")
            log.warning("not_published", events=len(messages), reason=str(e))
            await anyio.sleep(_RETRY_S)
            return
        if not self._cluster:
            until = time.monotonic() + _DEAF_S
            box.deaf |= {m.channel: until for m, heard in zip(messages, received, strict=True) if not heard}
        for kind, n in Counter(m.kind for m in messages).items():
            self._metrics.count("tapeline_published_total", n, kind=kind)
