"""Both ends of the measured pipeline, each a process: what stands for the sockets, and who reads.

The feeder appends frames from memory as the connector does, with at most ``IN_FLIGHT`` events between
itself and the reader. A reader counts each event once: trades as they come, best prices of venues that have
their own, books by their changes. Sums of trades (CVD) and best prices that come of a book are delivered
too, and not counted.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import msgspec
from redis.asyncio import Redis
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed

from actors.bench.bare import BATCH, IN_FLIGHT, run_on_uvloop
from actors.bench.progress import Progress
from actors.bench.tape import MOST_CONNECTIONS, SYMBOLS, Tape, channels_of, conn_of, unpacked
from actors.config import Settings, load
from actors.connector.sink import Room, Sink
from actors.dialects.barter import exchange
from actors.model import codec
from actors.streams.client import connect, hot
from actors.streams.keys import START, Cursor, Keys, Partition, Stream
from actors.streams.lease import Lease
from actors.streams.partition import Appender, Tail, closing
from actors.venues import VENUES

_LEG: Final = "a"
_LONG_LEASE_S: Final = 3600.0
_MOST_WAITING: Final = 64 * 1024 * 1024  # as the connector's; ``IN_FLIGHT`` keeps far below
_SLEEP_S: Final = 0.0005


# -- the feeder -----------------------------------------------------------------------------------------


def feed(config: Path, url: str, tape: Tape, progress_path: Path, rate: float | None) -> None:
    """Append the tape at ``rate`` events a second, or as fast as the reader follows."""
    run_on_uvloop(_feed, config, url, tape, Progress(progress_path), rate)


async def _feed(config: Path, url: str, tape: Tape, progress: Progress, rate: float | None) -> None:
    settings = load(config, {"REDIS_URL": url})
    streams = settings.streams
    room = Room(_MOST_WAITING)
    async with AsyncExitStack() as stack:
        client = await connect(settings, "bench")
        stack.push_async_callback(client.aclose)
        tg = await stack.enter_async_context(anyio.create_task_group())
        sinks: list[Sink] = []
        for venue in tape.venues:
            # Without a linger: frames are put in when the connector's would have ended.
            sinks.append(Sink(room, streams.batch_frames, streams.batch_bytes, 0.0))
            appender = await _appender(settings, client, Partition(venue, 0), stack)
            tg.start_soon(sinks[-1].run, appender.append)
        await _play(tape, sinks, progress, rate, _SLEEP_S if rate is None else streams.linger_ms / 1000)
        for sink in sinks:
            sink.finish()


async def _appender(
    settings: Settings, client: Redis, partition: Partition, stack: AsyncExitStack
) -> Appender:
    keys = Keys(settings.redis.prefix)
    lease = Lease(client, keys, partition, role="connector", leg=_LEG, owner="bench", ttl_s=_LONG_LEASE_S)
    await lease.take()
    wire = await hot(settings, keys.stream(partition, "raw"))
    stack.push_async_callback(wire.aclose)
    return await Appender.open(wire, keys, partition, _LEG, lease)


async def _play(
    tape: Tape, sinks: Sequence[Sink], progress: Progress, rate: float | None, sleep_s: float
) -> None:
    lines = tape.packed()
    conns = [conn_of(connection).encode() for connection in range(MOST_CONNECTIONS)]
    while not progress["ready"]:  # noqa: ASYNC110 - another process sets it
        await anyio.sleep(0.01)
    at, sent, begun = 0, 0, time.time_ns()
    while not (progress["halt"] or progress["stop"]) and at < len(lines):
        room = min(BATCH * len(sinks), IN_FLIGHT - (sent - progress["received"]))
        now = time.time_ns()
        if rate is not None:
            room = min(room, int((now - begun) / 1e9 * rate) - sent)
        if at == 0:
            room = tape.opening
        if room <= 0:
            await anyio.sleep(sleep_s)
            continue
        for line in lines[at : at + room]:
            connection, events, text = unpacked(line)
            # A frame is received when it is due; what waited for this append has waited since then.
            stamp = now if rate is None else min(now, begun + int(sent / rate * 1e9))
            sinks[connection % len(sinks)].note(b"%d %b %b" % (stamp, conns[connection], text))
            sent += events
        at += room
        progress["sent"] = sent
        await anyio.lowlevel.checkpoint()


# -- a plain reader of Redis ------------------------------------------------------------------------------


def read(config: Path, url: str, venues: Sequence[str], progress_path: Path) -> None:
    """Read ``events`` and ``books`` of all partitions plainly and count."""
    run_on_uvloop(_read, config, url, venues, Progress(progress_path))


async def _read(config: Path, url: str, venues: Sequence[str], progress: Progress) -> None:
    settings = load(config, {"REDIS_URL": url})
    async with anyio.create_task_group() as tg:
        for venue in venues:
            tg.start_soon(_follow, settings, venue, progress)
        progress["ready"] = 1


async def _follow(settings: Settings, venue: str, progress: Progress) -> None:
    keys, partition = Keys(settings.redis.prefix), Partition(venue, 0)
    own_l1 = "l1" in channels_of(venue)
    fresh = Fresh(b'"symbol":', b'"seq":') if _is_filled_later(venue) else None
    begin: dict[Stream, Cursor] = {"events": START, "books": START}
    async with closing(await hot(settings, keys.stream(partition, "events"))) as wire:
        tail = Tail(wire, keys, partition, begin)
        while not progress["stop"]:
            seen = 0
            for stream, entry in await tail.read(200):
                for line in entry.lines:
                    if stream == "events":
                        seen += line.startswith(codec.TRADE)
                    elif line.startswith(_L1):
                        seen += own_l1
                    else:
                        seen += _DELTA in line[:240] and (fresh is None or fresh(line))
            progress["received"] += seen  # the tasks of this process take turns


def _is_filled_later(venue: str) -> bool:
    """Whether a newer snapshot may fill up a book, which is told as a second change at its sequence."""
    return VENUES[venue].snapshot is not None


_L1: Final = codec.prefix("l1")
_DELTA: Final = b'"type":"delta"'


class Fresh:
    """Tells a book's change from a second one at the same sequence (levels of a newer snapshot)."""

    def __init__(self, name: bytes, number: bytes) -> None:
        self._name = name
        self._number = number
        self._last: dict[bytes, bytes] = {}

    def __call__(self, line: bytes) -> bool:
        """Whether the sequence is another than the last of this instrument."""
        at = line.index(self._name)
        name = line[at : line.index(b",", at)]
        at = line.rindex(self._number) if self._number == _SEQUENCE else line.index(self._number)
        number = line[at : line.index(b",", at)]
        if self._last.get(name) == number:
            return False
        self._last[name] = number
        return True


# -- a client of the broadcaster --------------------------------------------------------------------------


def listen(url: str, progress_path: Path, latencies: Path | None) -> None:
    """Be one Barter client on ``websockets``: count, and note how old each event was."""
    run_on_uvloop(_listen, url, Progress(progress_path), Counted(), latencies)


def listen_to_all(url: str, progress_path: Path) -> None:
    """Be the same client at the end of the bare loop: each message counts."""
    run_on_uvloop(_listen, url, Progress(progress_path), None, None)


async def _listen(url: str, progress: Progress, counts: "Counted | None", latencies: Path | None) -> None:
    ages: list[int] = []
    seen = 0
    async with ws_connect(url, proxy=None, compression=None, max_size=None, max_queue=1024) as socket:
        await socket.recv()
        progress["ready"] = 1
        try:
            while not progress["stop"]:
                with anyio.move_on_after(0.2):
                    while not progress["stop"]:
                        message = await socket.recv(decode=False)
                        if counts is not None and not counts(message):
                            continue
                        seen += 1
                        progress["received"] = seen
                        if latencies is not None:
                            ages.append(time.time_ns() - received(message))
                        elif counts is not None and not seen & 255:
                            progress["age_us"] = (time.time_ns() - received(message)) // 1000
        except ConnectionClosed as e:
            progress["stop"] = 2
            print(f"the broadcaster closed the benchmark's client: {e}", file=sys.stderr)  # noqa: T201
    if latencies is not None:
        latencies.write_bytes(msgspec.msgpack.encode(ages))  # noqa: ASYNC240 - nothing else runs any more


class Counted:
    """Tells the messages that are counted from the others."""

    def __init__(self) -> None:
        names = {name: b'"exchange":"%b"' % exchange(name).encode() for name in SYMBOLS}
        self._derived = [text for name, text in names.items() if "l1" not in channels_of(name)]
        self._filled = [text for name, text in names.items() if _is_filled_later(name)]
        self._fresh = Fresh(b'"base":', _SEQUENCE)

    def __call__(self, message: bytes) -> bool:
        """Whether it is one of the events that are followed."""
        at = message.index(_KIND) + len(_KIND)
        if message.startswith(b"trade", at):
            return True
        if message.startswith(b"order_book_l1", at):
            return not any(name in message[:at] for name in self._derived)
        if not message.startswith(b"order_book_l2", at) or _WHOLE in message[at : at + 40]:
            return False
        return not any(name in message[:at] for name in self._filled) or self._fresh(message)


_KIND: Final = b'},"kind":"'
_WHOLE: Final = b'"Snapshot"'
_SEQUENCE: Final = b'"sequence":'
_DAY_NS: Final = 86_400_000_000_000
_TIME: Final = b'"time_received":"'


def received(message: bytes) -> int:
    """Return the receive time that a Barter message carries, ns since the epoch."""
    at = message.index(_TIME) + len(_TIME) + 11  # after the date
    text = message[at : message.index(b"Z", at)]
    seconds = int(text[:2]) * 3600 + int(text[3:5]) * 60 + int(text[6:8])
    nanos = int(text[9:].ljust(9, b"0")) if len(text) > 8 else 0
    of_day = seconds * 1_000_000_000 + nanos
    today = time.time_ns()
    midnight = today - today % _DAY_NS
    return midnight + of_day if midnight + of_day <= today + _DAY_NS // 2 else midnight - _DAY_NS + of_day
