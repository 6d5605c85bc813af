"""``tapeline resync`` and ``reconnect``: ask the connectors for something, and tell what became of it."""

import secrets
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, cast

import anyio
import msgspec

from actors.cli import paper
from actors.cli.partition import checkpoint
from actors.cli.run import say
from actors.cli.session import Session, within
from actors.cli.status import healthy
from actors.config import ConfigError, Settings
from actors.config.words import nearest
from actors.model import codec
from actors.model.events import Book, Channel, Status
from actors.model.instruments import canonical, shard
from actors.stages.control import ControlRequest
from actors.streams.client import hot
from actors.streams.keys import Cursor, Partition, Stream, partitions
from actors.streams.partition import Tail, closing, newest
from actors.venues import VENUES
from actors.venues.base import Item, Subscription

_MOST_ENTRIES: Final = 10_000  # of ``control``, as everybody who writes it keeps it
_STATUS: Final = codec.prefix("status")
_BOOK: Final = codec.prefix("book")
_POLL_S: Final = 0.1


class Outcome(msgspec.Struct, frozen=True):
    """What became of one thing that was asked for. ``ms`` None: nothing, in the time that was given."""

    what: str
    ms: int | None
    says: str


class Unanswered(Exception):
    """Not everything that was asked for happened in time."""


def resync(
    config: Path | None,
    env: Mapping[str, str],
    *,
    venue: str,
    symbol: str,
    channel: str,
    within_s: float,
    as_json: bool,
) -> int:
    """Subscribe a symbol's channel anew, and wait until it is live again; 1 when it is not in time.

    Raises:
        ConfigError: The configuration has no such venue, symbol or channel.
    """

    async def work(session: Session) -> int:
        wanted = _wanted(session.settings, venue, symbol, channel)
        return await _resync(session, *wanted, within_s=within_s, as_json=as_json)

    return within(config, env, "resync", work)


def reconnect(
    config: Path | None, env: Mapping[str, str], *, venue: str, within_s: float, as_json: bool
) -> int:
    """Replace every connection of a venue, and wait until the old ones are closed; 1 when one is not.

    Raises:
        ConfigError: The configuration has no such venue.
    """

    async def work(session: Session) -> int:
        return await _reconnect(session, _configured(session.settings, venue), within_s, as_json)

    return within(config, env, "reconnect", work)


def _configured(settings: Settings, venue: str) -> str:
    known = [name for name, of in settings.venues.items() if of.enabled]
    if venue not in known:
        raise ConfigError(f'no configured venue is "{venue}"{nearest(venue, known)} ({", ".join(known)})')
    return venue


def _wanted(settings: Settings, venue: str, symbol: str, channel: str) -> tuple[str, list[str], Channel]:
    """Return venue, symbols and channel, checked."""
    of = settings.venues[_configured(settings, venue)]
    channels: list[Channel] = sorted(VENUES[venue].channels if of.channels is None else of.channels)
    found: Channel | None = next((known for known in channels if known == channel), None)
    if found is None:
        derived = channel == "l1" and "book" in channels
        near = "; its l1 is the top of its book: resync the book" if derived else nearest(channel, channels)
        raise ConfigError(f'{venue} gives no channel "{channel}" here{near} ({", ".join(channels)})')
    if found in VENUES[venue].polls:
        raise ConfigError(f"{venue}'s {found} is polled by REST: there is no subscription to begin anew")
    having = [each for each in of.symbols if of.wants(found, each)]
    if symbol == "*":
        return venue, having, found
    if canonical(symbol) not in having:
        near = nearest(canonical(symbol), having)
        raise ConfigError(f'{venue} gives no {found} of "{symbol}" here{near} ({", ".join(having)})')
    return venue, [canonical(symbol)], found


# ------------------------------------------------------------------------------------ ask, and listen


async def _ask(session: Session, partition: Partition, request: ControlRequest) -> None:
    """Put a request on ``control``."""
    key = session.keys.stream(partition, "control")
    fields = {"n": 1, "d": msgspec.json.encode(request)}
    await cast("Any", session.client).xadd(key, fields, maxlen=_MOST_ENTRIES, approximate=True)


def _identity() -> str:
    return f"person/{secrets.token_hex(8)}"


class _Ear:
    """Listens to a partition from now on: raw lines as they are, and the events that matter here."""

    def __init__(self, session: Session, partition: Partition, hear: "_Hear") -> None:
        self._session = session
        self._partition = partition
        self._hear = hear
        self.ready = anyio.Event()

    async def run(self) -> None:
        """Listen until cancelled."""
        keys, settings = self._session.keys, self._session.settings
        streams: tuple[Stream, ...] = ("raw", "events", "books")
        async with closing(await hot(settings, keys.stream(self._partition, "raw"))) as connection:
            cursors: dict[Stream, Cursor] = {
                stream: await newest(connection, keys, self._partition, stream) for stream in streams
            }
            tail = Tail(connection, keys, self._partition, cursors)
            self.ready.set()
            while True:
                for stream, entry in await tail.read():
                    for line in entry.lines:
                        if stream == "raw":
                            self._raw(line)
                        elif line.startswith((_STATUS, _BOOK)):
                            event = codec.decode(line)
                            assert isinstance(event, Status | Book)  # noqa: S101 - by its kind
                            self._hear(event)

    def _raw(self, line: bytes) -> None:
        _, conn, kind, payload = line.split(b" ", 3)
        if kind == b"s":
            self._hear((conn.decode(), msgspec.json.decode(payload, type=Subscription)))


_Hear = Callable[[Status | Book | tuple[str, Subscription]], None]


class _Wait:
    """Things that are to happen, and when they did."""

    def __init__(self, what: list[str]) -> None:
        self._began = anyio.current_time()
        self.open = dict.fromkeys(what, "")
        self.done: dict[str, Outcome] = {}

    def note(self, what: str, says: str) -> None:
        """Keep the last that was said of ``what``."""
        if what in self.open:
            self.open[what] = says

    def end(self, what: str, says: str) -> None:
        """Count ``what`` as done."""
        if self.open.pop(what, None) is not None:
            ms = round((anyio.current_time() - self._began) * 1000)
            self.done[what] = Outcome(what, ms, says)

    async def over(self, within_s: float) -> None:
        """Return once all has happened, or ``within_s`` have passed."""
        with anyio.move_on_after(within_s):
            while self.open:  # noqa: ASYNC110 - some seconds at most, for a person
                await anyio.sleep(_POLL_S)

    def tell(self, within_s: float, *, as_json: bool) -> int:
        """Print what became of everything; return the exit code."""
        missing = [Outcome(what, None, says or "nothing happened") for what, says in self.open.items()]
        outcomes = [*self.done.values(), *missing]
        if as_json:
            paper.json({"ok": not missing, "outcomes": outcomes})
            return 1 if missing else 0
        for each in self.done.values():
            paper.write(f"{each.what}: {each.says} after {each.ms} ms\n")
        if not missing:
            return 0
        said = "; ".join(f"{each.what}: {each.says}" for each in missing)
        return say(Unanswered(f"not within {within_s:g} s: {said} (tapeline status says more)"), 1)


class _Renewal:
    """How one symbol's channel is subscribed anew, on all connections that carry it.

    Args:
        item: What.
        well: The states in which it is as it should be.
        stays: It may be live all the while: another connection gives it.
        replaced: The connections that must close, where the venue has no word for an end of it and others
            take their place.
    """

    def __init__(
        self, item: Item, *, well: frozenset[str], stays: bool, replaced: Collection[str] = ()
    ) -> None:
        self._item = item
        self._well = well
        self._ended = stays  # it was not live for a while, or need not be
        self._lives = True
        self._replaced = {*replaced}
        self._open: dict[str, bool] = {}  # connection -> subscribed again
        self.says = "no connection carries it"

    def hear(self, told: Status | Book | tuple[str, Subscription]) -> None:
        """Learn."""
        channel, symbol = self._item
        if isinstance(told, tuple):
            conn, sent = told
            if self._item in sent.items:
                self._open[conn] = sent.op == "subscribe"
                self.says = f"{sent.op} sent on {conn}"
            return
        if isinstance(told, Status) and told.conn is not None:
            if told.state == "down" and told.channel is None:
                self._replaced.discard(told.conn)
                self._open.pop(told.conn, None)  # what takes its place subscribes it too
            return
        if told.symbol != symbol or isinstance(told, Book) != (channel == "book"):
            return
        if isinstance(told, Status) and told.channel != channel:
            return
        self._lives = told.state in self._well
        self._ended = self._ended or not self._lives
        self.says = told.state

    @property
    def done(self) -> bool:
        """Whether every connection has it again, and it is live."""
        renewed = bool(self._open) and all(self._open.values()) and not self._replaced
        return renewed and self._lives and self._ended


async def _resync(
    session: Session, venue: str, symbols: list[str], channel: Channel, *, within_s: float, as_json: bool
) -> int:
    of = session.settings.venues[venue]
    well = frozenset(("live",)) if channel == "book" else healthy(venue, channel)
    by_another = (
        VENUES[venue].unsubscribe is None
    )  # the connection is replaced, and the old one stays so long
    wait = _Wait(symbols)
    renewals: dict[str, _Renewal] = {}

    def hear(told: Status | Book | tuple[str, Subscription]) -> None:
        for symbol, renewal in renewals.items():
            renewal.hear(told)
            wait.note(symbol, renewal.says)
            if renewal.done:
                wait.end(symbol, f"{channel} live again")

    async with anyio.create_task_group() as tg:
        for partition in [p for p in partitions(session.settings) if p.venue == venue]:
            mine = [symbol for symbol in symbols if shard(symbol, of.shards) == partition.shard]
            carrying = await _open(session, partition)
            for symbol in mine:
                item = (channel, symbol)
                replaced = [name for name, items in carrying.items() if by_another and item in items]
                stays = by_another or of.redundancy > 1
                renewals[symbol] = _Renewal(item, well=well, stays=stays, replaced=replaced)
            ear = _Ear(session, partition, hear)
            tg.start_soon(ear.run)
            await ear.ready.wait()
            for symbol in mine:
                asked = ControlRequest(_identity(), "resubscribe", symbol, channel, reason="asked for")
                await _ask(session, partition, asked)
        await wait.over(within_s)
        tg.cancel_scope.cancel()
    return wait.tell(within_s, as_json=as_json)


async def _reconnect(session: Session, venue: str, within_s: float, as_json: bool) -> int:
    places = [partition for partition in partitions(session.settings) if partition.venue == venue]
    carrying: dict[str, Partition] = {}
    for partition in places:
        for conn in await _open(session, partition):
            carrying[conn] = partition
    if not carrying:
        return say(Unanswered(f"{venue} has no open connection (tapeline status says more)"), 1)
    wait = _Wait([*carrying])
    fresh: list[str] = []

    def hear(told: Status | Book | tuple[str, Subscription]) -> None:
        if not isinstance(told, Status) or told.channel is not None or told.conn is None:
            return
        if told.state == "live" and told.conn not in carrying:
            fresh.append(told.conn)
        elif told.state == "down":
            wait.end(told.conn, f"closed ({told.reason})")

    async with anyio.create_task_group() as tg:
        for partition in places:
            ear = _Ear(session, partition, hear)
            tg.start_soon(ear.run)
            await ear.ready.wait()
            await _ask(session, partition, ControlRequest(_identity(), "reconnect", reason="asked for"))
        await wait.over(within_s)
        tg.cancel_scope.cancel()
    if not as_json:
        paper.write("".join(f"{conn}: open\n" for conn in fresh))
    return wait.tell(within_s, as_json=as_json)


async def _open(session: Session, partition: Partition) -> dict[str, Collection[Item]]:
    """Return the connections that were open at the normalizer's last checkpoint, and what each carries."""
    key = session.keys.stream(partition, "raw")
    async with closing(await hot(session.settings, key)) as connection:
        told = await checkpoint(connection, session.keys, partition)
    return {} if told is None else {name: conn.subs for name, conn in told.ledger.conns.items() if conn.open}
