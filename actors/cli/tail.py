"""``tapeline tail``: follow events, a readable line each, as ``redis-cli psubscribe`` would show them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, get_args

import anyio
import msgspec

from actors.cli.session import Session, peeled, within
from actors.config import ConfigError, Settings
from actors.config.words import nearest
from actors.model import codec
from actors.model.errors import Unparseable
from actors.model.events import L1, AnyEvent, Book, Gap, Level, Status, Ticker, Trade
from actors.model.instruments import canonical, shard
from actors.streams.client import hot
from actors.streams.keys import Cursor, Keys, Partition, Stream, partitions
from actors.streams.partition import Tail, closing, newest

_STREAM_OF: Final[dict[str, tuple[Stream, ...]]] = {
    "book": ("books",),
    "l1": ("books",),
    "cvd": ("flow",),
    "gap": ("events", "books", "flow"),
}
_BY_NAME_ONLY: Final = frozenset({"tick", "instrument", "book_snapshot", "book_delta"})  # not for people
KINDS: Final = tuple(str(kind.__struct_config__.tag) for kind in get_args(AnyEvent))
_PATTERN: Final = frozenset("*?[")

Keep = Callable[[Stream, bytes], AnyEvent | None]


def follow(
    config: Path | None, env: Mapping[str, str], *, kind: str, venue: str, symbol: str, as_json: bool
) -> int:
    """Print what is written from now on, until interrupted.

    Raises:
        ConfigError: A kind, venue or symbol that is not to be had.
    """

    async def work(session: Session) -> int:
        keep = _keep(kind, symbol)
        show = _json if as_json else text
        try:
            async with anyio.create_task_group() as tg:
                for partition in chosen(session.settings, kind, venue, symbol):
                    tg.start_soon(_follow, session.settings, session.keys, partition, keep, show)
        except* Exception as group:
            raise peeled(group) from group
        return 0

    return within(config, env, "tail", work)


def chosen(settings: Settings, kind: str, venue: str, symbol: str) -> list[Partition]:
    """Return the partitions to follow.

    Raises:
        ConfigError: Nothing of the configuration matches; says what is nearest.
    """
    if not _PATTERN & {*kind} and kind not in KINDS:
        raise ConfigError(f'there is no kind "{kind}"{nearest(kind, KINDS)} ({", ".join(KINDS)})')
    venues = {name: v for name, v in settings.venues.items() if v.enabled and fnmatchcase(name, venue)}
    if not venues:
        known = [name for name, v in settings.venues.items() if v.enabled]
        raise ConfigError(f'no configured venue is "{venue}"{nearest(venue, known)} ({", ".join(known)})')
    wanted = canonical(symbol)
    symbols = {s for v in venues.values() for s in v.symbols}
    if not any(fnmatchcase(s, wanted) for s in symbols):
        near = nearest(wanted, sorted(symbols))
        raise ConfigError(f'no configured symbol is "{symbol}"{near} ({", ".join(sorted(symbols))})')
    found = [partition for partition in partitions(settings) if partition.venue in venues]
    if _PATTERN & {*wanted}:
        return found
    return [p for p in found if shard(wanted, settings.venues[p.venue].shards) == p.shard]


def _keep(kind: str, symbol: str) -> Keep:
    """Return what picks the events to show out of lines, decoding as few as it can."""
    wanted = canonical(symbol)

    def keep(stream: Stream, line: bytes) -> AnyEvent | None:
        name = codec.kind_of(line)
        if not fnmatchcase(name, kind) or (name in _BY_NAME_ONLY and name != kind):
            return None
        if stream not in _STREAM_OF.get(name, ("events",)):
            return None  # a venue's own l1 is in both, and counts in books
        event = codec.decode(line)
        if event.symbol is not None and not fnmatchcase(event.symbol, wanted):
            return None
        return event

    return keep


async def _follow(
    settings: Settings, keys: Keys, partition: Partition, keep: Keep, show: Callable[[AnyEvent], str]
) -> None:
    streams: Sequence[Stream] = ("events", "books", "flow")
    async with closing(await hot(settings, keys.stream(partition, "events"))) as connection:
        cursors: dict[Stream, Cursor] = {
            stream: await newest(connection, keys, partition, stream) for stream in streams
        }
        tail = Tail(connection, keys, partition, cursors)
        while True:
            out: list[str] = []
            for stream, entry in await tail.read():
                for line in entry.lines:
                    try:
                        event = keep(stream, line)
                    except Unparseable as e:
                        out.append(f"not understood: {e}\n")
                        continue
                    if event is not None:
                        out.append(show(event) + "\n")
            if out:
                sys.stdout.write("".join(out))
                sys.stdout.flush()


def _json(event: AnyEvent) -> str:
    return codec.encode(event).decode()


def text(event: AnyEvent) -> str:
    """Return one event as a line for a person."""
    at = datetime.fromtimestamp(event.ts_recv / 1e9, UTC).strftime("%H:%M:%S.%f")[:-3]
    kind = str(event.__struct_config__.tag)
    return f"{at} {event.venue:<10} {event.symbol or '-':<14} {kind:<8} {_said(event)}"


def _said(event: AnyEvent) -> str:  # noqa: PLR0911 - a line a kind
    match event:
        case Trade():
            mark = " backfilled" if event.backfilled else ""
            return f"{event.aggressor:<4} {event.size} @ {event.price}  id {event.id}{mark}"
        case L1():
            return f"{_top(event.bid, event.bid_size)} | {_top(event.ask, event.ask_size)}"
        case Book():
            levels = f"{_levels(event.bids, 'bids')}, {_levels(event.asks, 'asks')}"
            return f"{event.type} {event.state}, {levels}, proof {event.verified}, seq {event.seq}"
        case Gap():
            where = f"{event.channel or 'all channels'} {event.first or '?'} to {event.last or '?'}"
            return f"{where}, cause {event.cause}{', filled' if event.filled else ''}"
        case Status():
            return f"{event.channel or event.conn or 'all'} {event.state}: {event.reason}"
        case Ticker():
            return f"last {event.last}  24 h: {event.low} to {event.high}, {event.volume_base} traded"
        case _:
            common = {"kind", "venue", "symbol", "ts_event", "ts_recv", "seq"}
            fields = msgspec.to_builtins(event)
            return " ".join(f"{name}={value}" for name, value in fields.items() if name not in common)


def _top(price: str | None, size: str | None) -> str:
    return "empty" if price is None else f"{size} @ {price}"


def _levels(levels: list[Level], name: str) -> str:
    return f"{len(levels)} {name}" + (f" ({levels[0][1]} @ {levels[0][0]})" if levels else "")
