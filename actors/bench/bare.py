"""The bare loop: a packed XADD/XREAD chain of the pipeline's length that does no work of ours.

feeder -> s0 -> relay -> s1 -> relay -> s2 -> a plain reader, or a relay that ends in a WebSocket server
(the ``websockets`` library) with one frame an event. It tells what this machine gives at this moment;
the pipeline's figures are put in relation to it.
"""

import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, cast

import anyio
import hiredis
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

from actors.bench.progress import Progress
from actors.bench.tape import Tape
from actors.config import load
from actors.streams.client import hot

IN_FLIGHT: Final = 8000  # DESIGN 16: sustained means at most this many events between sender and receiver
BATCH: Final = 256  # as the connector packs

_Command = tuple[str | bytes | int, ...]
_pack = cast("Callable[[_Command], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]
Fields = list[bytes]
Rows = list[tuple[bytes, Fields]]


class _Wire:
    """One blocking connection: commands out in one write, replies in order."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def send(self, *commands: _Command) -> None:
        self._socket.sendall(b"".join(map(_pack, commands)))

    def reply(self) -> object:
        while (answer := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(262144))
        if isinstance(answer, Exception):
            raise answer
        return answer


def _rows(answer: object) -> Rows:
    return answer[0][1] if isinstance(answer, list) and answer else []  # pyright: ignore[reportUnknownVariableType]


def _xread(stream: str, cursor: bytes) -> _Command:
    return ("XREAD", "COUNT", 16, "BLOCK", 200, "STREAMS", stream, cursor)


def feed(port: int, tape: Tape, progress_path: Path) -> None:
    """Send the tape into ``s0``, again and again, until asked to stop."""
    lines, progress, wire = tape.packed(), Progress(progress_path), _Wire(port)
    while not progress["ready"]:
        time.sleep(0.01)
    sent = 0
    while not progress["stop"]:
        at = sent % len(lines)
        room = min(BATCH, IN_FLIGHT - (sent - progress["received"]), len(lines) - at)
        if room <= 0:
            time.sleep(0.0005)
            continue
        stamp = time.time_ns()
        batch = b"\n".join(b"%d %b" % (stamp, line) for line in lines[at : at + room])
        wire.send(("XADD", "s0", "MAXLEN", "~", 1000, "*", "n", room, "d", batch))
        wire.reply()
        sent += room
        progress["sent"] = sent


def relay(port: int, source: str, target: str, progress_path: Path) -> None:
    """Pass entries from one stream to the next: the last write and the next read in one go."""
    wire, progress = _Wire(port), Progress(progress_path)
    cursor = b"0"
    wire.send(_xread(source, cursor))
    while not progress["stop"]:
        rows = _rows(wire.reply())
        commands: list[_Command] = []
        for entry, fields in rows:
            cursor = entry
            commands.append(("XADD", target, "MAXLEN", "~", 1000, "*", *fields))
        wire.send(*commands, _xread(source, cursor))
        for _ in commands:
            wire.reply()


def read(port: int, source: str, progress_path: Path) -> None:
    """Read to the end of the chain and count."""
    wire, progress = _Wire(port), Progress(progress_path)
    cursor, seen = b"0", 0
    progress["ready"] = 1
    while not progress["stop"]:
        wire.send(_xread(source, cursor))
        for entry, fields in _rows(wire.reply()):
            cursor = entry
            seen += fields[3].count(b"\n") + 1
        progress["received"] = seen


def deliver(config: Path, url: str, source: str, listen: int, progress_path: Path) -> None:
    """Serve the last stream to WebSocket clients, one frame an event, one write a batch."""
    run_on_uvloop(_deliver, config, url, source, listen, Progress(progress_path))


def run_on_uvloop(main: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """Run an async function as the actors do."""
    anyio.run(main, *arguments, backend_options={"loop_factory": uvloop.new_event_loop})


async def _deliver(config: Path, url: str, source: str, listen: int, progress: Progress) -> None:
    clients: set[ServerConnection] = set()

    async def client(connection: ServerConnection) -> None:
        await connection.send("welcome")
        clients.add(connection)
        await connection.wait_closed()

    wire = await hot(load(config, {"REDIS_URL": url}), source)
    cursor = b"0"
    async with serve(client, "127.0.0.1", listen, compression=None):
        while not progress["stop"]:
            for entry, fields in _rows(await wire.call(*_xread(source, cursor), block_s=0.2)):
                cursor = entry
                frames = (Frame(Opcode.TEXT, line).serialize(mask=False) for line in fields[3].split(b"\n"))
                data = b"".join(frames)
                for connection in clients:
                    connection.transport.write(data)
    await wire.aclose()
