"""One collector's conversation: what its frames mean to the store, and what it is told.

Which batch is taken (``head``: up to where the stream is held or about to be)::

    after <= head, last > head    what is beyond head; the rest is a repetition, counted
    last <= head                  nothing: all of it is a repetition; the ack says what is held
    after > head                  nothing: what lies between is missing here, and the ack asks for it
    the stream is new             everything

A frame that does not keep to the protocol ends the conversation with a reason; a message of version 1
that cannot be read is counted and left out, for its sender listens to nothing.
"""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio
import msgspec
import structlog

from actors.dialects import ftsobest
from actors.master.journal import COMMIT, Batch
from actors.master.store import Store, StoreFull
from actors.runtime.metrics import Metrics
from actors.streams.keys import Cursor

log: Any = structlog.get_logger()

_PARTITION: Final = re.compile(r"[a-z0-9_]{1,32}\.\d{1,4}")
_EXCHANGE: Final = re.compile(r"[a-z0-9_]{1,32}")
_STREAMS: Final = ("events", "books", "flow")
_NOT_READ: Final = (msgspec.MsgspecError, RecursionError)  # the latter: nested too deep

Send = Callable[[str], Awaitable[None]]


class Misbehaved(Exception):
    """The collector does not keep to the protocol; says how, in words it may be told."""


class Collector:
    """A collector of version 1: it says one message a frame and is told nothing."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    def hear(self, frame: str) -> str | None:
        """Take a frame; return what to answer."""
        try:
            said = _plain(frame)
        except _NOT_READ:
            return self._reject("message")
        if said.op == "ping":
            return ftsobest.PONG
        if said.type not in ftsobest.TYPES or not _EXCHANGE.fullmatch(said.exchange):
            return self._reject("message")
        try:
            self._store.add(("ftsobest", said.exchange, said.type), _line(frame.encode()))
        except Misbehaved:
            return self._reject("message")
        except StoreFull as e:
            log.warning("message_rejected", reason=str(e))
            return self._reject("full")
        self._metrics.count("tapeline_master_messages_total", kind=said.type)
        return None

    def _reject(self, reason: str) -> None:
        self._metrics.count("tapeline_master_rejected_total", reason=reason)

    async def tell(self, _send: Send) -> None:
        """Have nothing to say."""
        await anyio.sleep_forever()


class _Plain(msgspec.Struct):
    op: str | None = None
    type: str | None = None
    exchange: str = ""


_plain: Final[Callable[[str], _Plain]] = msgspec.json.Decoder(_Plain).decode


class AckedCollector:
    """A collector of version 2: it says batches and waits to hear that they are held."""

    def __init__(self, store: Store, metrics: Metrics, source: str) -> None:
        self._store = store
        self._metrics = metrics
        self._source = source
        self._acks: dict[tuple[str, str], Cursor] = {}
        self._held = anyio.Event()

    def welcome(self) -> str:
        """Return the answer to the login."""
        return ftsobest.encode(ftsobest.Welcome(self._store.cursors(self._source))).decode()

    def hear(self, frame: str) -> str | None:
        """Take a frame; return what to answer at once.

        Raises:
            Misbehaved: It is none.
        """
        try:
            said = ftsobest.from_collector(frame)
        except _NOT_READ as e:
            raise Misbehaved(f"not a frame of this protocol: {e}") from e
        match said:
            case ftsobest.Ping():
                return ftsobest.PONG
            case ftsobest.Pong():
                return None
            case ftsobest.Batch():
                self._take(said)
                return None

    def _take(self, said: ftsobest.Batch) -> None:
        if not _PARTITION.fullmatch(said.partition) or said.stream not in _STREAMS:
            raise Misbehaved(f"no such stream: {said.partition[:64]}/{said.stream[:16]}")
        place = ("acked", self._source, said.partition, said.stream)
        after, last = _place(said.after), _place(said.last)
        if last <= after or not after < _place(said.first) <= last:
            raise Misbehaved(f"a batch from {said.first} to {said.last} cannot come after {said.after}")
        head = self._store.head(place)
        batch: Batch | None = None
        if head is None or after <= head:
            batch = self._news(said, after if head is None else head, last)
        else:
            self._metrics.count("tapeline_master_asked_back_total")
            log.warning("asked_back", stream="/".join(place[1:]), held=str(head), sent_after=said.after)
        try:
            self._store.offer(place, batch, partial(self._hold, (said.partition, said.stream)))
        except StoreFull as e:
            raise Misbehaved(str(e)) from e

    def _news(self, said: ftsobest.Batch, head: Cursor, last: Cursor) -> Batch | None:
        """Return what of a batch is beyond ``head``."""
        stem = f"{said.partition}/{said.stream}/"
        lines: list[bytes] = []
        counts: dict[str, int] = {}
        before = Cursor(-1, -1)
        for raw in said.messages:
            type_, cursor = _head(raw, stem)
            if not before < cursor <= last:
                raise Misbehaved(f"the message at {stem}{cursor} is out of order in its batch")
            before = cursor
            if cursor > head:
                lines.append(_line(bytes(raw)))
                counts[type_] = counts.get(type_, 0) + 1
        repeated = len(said.messages) - len(lines)
        if repeated:
            self._metrics.count("tapeline_master_duplicates_total", repeated)
        if last <= head:
            return None
        for type_, n in counts.items():
            self._metrics.count("tapeline_master_messages_total", n, kind=type_)
        return Batch(head, last, lines)

    def _hold(self, stream: tuple[str, str], cursor: Cursor) -> None:
        self._acks[stream] = cursor
        self._held.set()

    async def tell(self, send: Send) -> None:
        """Send acknowledgements until cancelled: of each stream the last only."""
        while True:
            await self._held.wait()
            self._held = anyio.Event()
            acks, self._acks = self._acks, {}
            for (partition, stream), cursor in acks.items():
                await send(ftsobest.encode(ftsobest.Ack(partition, stream, str(cursor))).decode())


def _place(text: str) -> Cursor:
    try:
        return Cursor.parse(text)
    except ValueError as e:
        raise Misbehaved(f"no cursor: {text[:64]!r}") from e


def _head(raw: msgspec.Raw, stem: str) -> tuple[str, Cursor]:
    try:
        head = ftsobest.head_of(raw)
    except _NOT_READ as e:
        raise Misbehaved(f"not a message: {e}") from e
    if head.cursor is None or not head.cursor.startswith(stem) or head.type not in ftsobest.TYPES:
        raise Misbehaved(f"a message of {stem} needs its type and its cursor")
    return head.type, _place(head.cursor[len(stem) :])


def _line(message: bytes) -> bytes:
    """Return a JSON document as one line.

    Raises:
        Misbehaved: The files would take it for the end of a batch (it names its type twice).
    """
    if b"\n" in message or b"\r" in message:
        message = msgspec.json.format(message, indent=-1)
    if message.startswith(COMMIT):
        raise Misbehaved("a message needs one type")
    return message
