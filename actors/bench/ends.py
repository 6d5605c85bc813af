"""Both ends of the measured pipeline, each a process: what stands for the sockets, and who reads.

The feeder appends frames from memory as the connector does, with at most ``IN_FLIGHT`` events between
itself and the reader. A reader counts each event once: trades and L1 as they come, books by their deltas.
"""

import sys
import time
from pathlib import Path
from typing import Final

import anyio
import msgspec
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed

from actors.bench.bare import BATCH, IN_FLIGHT, run_on_uvloop
from actors.bench.progress import Progress
from actors.bench.tape import Tape
from actors.chaos.recording import LEG, Recording, opening
from actors.config import load
from actors.model import codec
from actors.streams.client import connect, hot
from actors.streams.keys import Cursor, Keys, Partition
from actors.streams.lease import Lease
from actors.streams.partition import Appender, Tail

PARTITION: Final = Partition("binance", 0)
_LONG_LEASE_S: Final = 3600.0
_SLEEP_S: Final = 0.0005


def feed(config: Path, url: str, tape: Tape, progress_path: Path, rate: float | None) -> None:
    """Append the tape at ``rate`` frames a second, or as fast as the reader follows."""
    run_on_uvloop(_feed, config, url, tape, Progress(progress_path), rate)


async def _feed(config: Path, url: str, tape: Tape, progress: Progress, rate: float | None) -> None:
    settings = load(config, {"REDIS_URL": url})
    keys = Keys(settings.redis.prefix)
    client = await connect(settings, "bench")
    lease = Lease(client, keys, PARTITION, role="connector", leg=LEG, owner="bench", ttl_s=_LONG_LEASE_S)
    await lease.take()
    wire = await hot(settings, keys.stream(PARTITION, "raw"))
    appender = await Appender.open(wire, keys, PARTITION, LEG, lease)
    generated = tape.load()
    recording, total = Recording(generated), len(generated.frames)
    await appender.append(opening(generated, time.time_ns()))
    while not progress["ready"]:  # noqa: ASYNC110 - another process sets it
        await anyio.sleep(0.01)
    begun, sent = time.time_ns(), 0
    while not (progress["halt"] or progress["stop"]) and sent < total:
        room = min(BATCH, IN_FLIGHT - (sent - progress["received"]), total - sent)
        if rate is not None:
            room = min(room, int((time.time_ns() - begun) / 1e9 * rate) - sent)
        if room <= 0:
            await anyio.sleep(_SLEEP_S if rate is None else settings.streams.linger_ms / 1000)
            continue
        # A frame is received when it is due; what waited for this append has waited since then.
        now = time.time_ns()
        due = (
            [now] * room if rate is None else [begun + int(i / rate * 1e9) for i in range(sent, sent + room)]
        )
        await appender.append(recording.take(due))
        sent = progress["sent"] = recording.sent
    await wire.aclose()
    await client.aclose()


def read(config: Path, url: str, progress_path: Path) -> None:
    """Read ``events`` and ``books`` plainly and count."""
    run_on_uvloop(_read, config, url, Progress(progress_path))


async def _read(config: Path, url: str, progress: Progress) -> None:
    settings = load(config, {"REDIS_URL": url})
    keys = Keys(settings.redis.prefix)
    wire = await hot(settings, keys.stream(PARTITION, "events"))
    tail = Tail(wire, keys, PARTITION, {"events": Cursor(0, 0), "books": Cursor(0, 0)})
    seen = 0
    fresh = Fresh(b'"symbol":', b'"seq":')
    progress["ready"] = 1
    while not progress["stop"]:
        for stream, entry in await tail.read(200):
            if stream == "events":
                seen += sum(line.startswith(codec.TRADE) for line in entry.lines)
            else:
                seen += sum(
                    line.startswith(_L1) or (_DELTA in line[:240] and fresh(line)) for line in entry.lines
                )
        progress["received"] = seen
    await wire.aclose()


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


def listen(url: str, progress_path: Path, latencies: Path | None) -> None:
    """Be one Barter client on ``websockets``: count, and note how old each event was."""
    run_on_uvloop(_listen, url, Progress(progress_path), latencies)


async def _listen(url: str, progress: Progress, latencies: Path | None) -> None:
    ages: list[int] = []
    seen = 0
    fresh = Fresh(b'"base":', _SEQUENCE)
    async with ws_connect(url, proxy=None, compression=None, max_size=None, max_queue=1024) as socket:
        await socket.recv()
        progress["ready"] = 1
        try:
            while not progress["stop"]:
                with anyio.move_on_after(0.2):
                    while not progress["stop"]:
                        message = await socket.recv(decode=False)
                        if _L2 in message[:300] and (_WHOLE in message[:330] or not fresh(message)):
                            continue
                        seen += 1
                        progress["received"] = seen
                        if latencies is not None:
                            ages.append(time.time_ns() - _received(message))
        except ConnectionClosed as e:
            progress["stop"] = 2
            print(f"the broadcaster closed the benchmark's client: {e}", file=sys.stderr)  # noqa: T201
    if latencies is not None:
        latencies.write_bytes(msgspec.msgpack.encode(ages))  # noqa: ASYNC240 - nothing else runs any more


_L2: Final = b'"kind":"order_book_l2"'
_WHOLE: Final = b'"Snapshot"'
_SEQUENCE: Final = b'"sequence":'
_DAY_NS: Final = 86_400_000_000_000
_TIME: Final = b'"time_received":"'


def _received(message: bytes) -> int:
    """Return the receive time that a Barter message carries, ns since the epoch."""
    at = message.index(_TIME) + len(_TIME) + 11  # after the date
    text = message[at : message.index(b"Z", at)]
    seconds = int(text[:2]) * 3600 + int(text[3:5]) * 60 + int(text[6:8])
    nanos = int(text[9:].ljust(9, b"0")) if len(text) > 8 else 0
    of_day = seconds * 1_000_000_000 + nanos
    today = time.time_ns()
    midnight = today - today % _DAY_NS
    return midnight + of_day if midnight + of_day <= today + _DAY_NS // 2 else midnight - _DAY_NS + of_day
