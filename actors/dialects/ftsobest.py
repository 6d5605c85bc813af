"""FTSOBest's words between a collector and its master, and the acknowledged form of the same.

Version 1 is the predecessor's collector to the letter: a login as plain text, ``{"op":"ping"}`` at once
and every 30 s, then one JSON object a frame; nothing that the master says is listened to. It knows twelve
spot venues by names of their own and has no word for a gap.

Version 2 (``protocol=acked``) says the same objects with a ``cursor`` each, in batches of one stream::

    collector  key=<KEY>&role=collector&protocol=acked&source=<id of the collector's data>
    master     {"op":"welcome","cursors":{"binance.0/events":"1732091131000-5000"}}
               or {"op":"refused","reason":"..."}, and closes
    collector  {"op":"batch","partition":"binance.0","stream":"events","after":"1732091131000-5000",
                "first":"1732091131000-5001","last":"1732091131000-5003","messages":[...]}
    master     {"op":"ack","partition":"binance.0","stream":"events","last":"1732091131000-5003"}

A batch is all there is to say of the events after ``after`` up to ``last`` (most of a stream is not
forwarded); ``first`` is the place of its first message, ``last`` where it has none. An ack says up to
where the master holds the stream: when that is before ``after`` it wants what lies between first, when
it is beyond ``last`` it has more already.
Besides, version 2 has ``gap`` messages and names the venues that version 1 does not know by our ids.
The shapes of both as JSON Schema: ``docs/schemas``.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from actors.model.events import Event, Gap, Level, Ticker, Trade
from actors.model.instruments import canonical, market_kind

# Ours -> theirs.
EXCHANGES: Final = {
    "gateio": "gateio",
    "binance": "binance",
    "binance_us": "binanceus",
    "okx": "okx",
    "bitrue": "bitrue",
    "kucoin": "kucoin",
    "coinbase": "coinbase",
    "bybit": "bybit",
    "mexc": "mexc",
    "kraken": "kraken",
    "bitstamp": "bitstamp",
    "bitfinex": "bitfinex",
}
PING: Final = '{"op":"ping"}'
PONG: Final = '{"op":"pong"}'
PING_S: Final = 30.0
TYPES: Final = ("trade", "book", "ticker", "gap")
METRICS_S: Final = 10.0

_MS: Final = 1_000_000  # ns
_LOGIN: Final = re.compile(r"key=(?P<key>.*)&role=(?P<role>\w*)(?P<more>(&\w+=[\w.-]*)*)", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z0-9][\w-]{0,63}")  # becomes a folder


class LoginError(ValueError):
    """A login that cannot be read; says why, without what was sent."""


class Login(NamedTuple):
    """What a collector presents. ``source``: whose data these are; cursors of different ones differ."""

    key: str
    acked: bool
    source: str


def login(key: str, *, acked: bool = False, source: str = "") -> str:
    """Return the first frame of a collector."""
    return f"key={key}&role=collector" + (f"&protocol=acked&source={source}" if acked else "")


def parse_login(text: str) -> Login:
    """Read the first frame of a collector.

    Raises:
        LoginError: It is none.
    """
    found = _LOGIN.fullmatch(text)
    if found is None:
        raise LoginError("the first message must be key=<KEY>&role=collector")
    more = dict(part.split("=", 1) for part in found["more"].split("&") if part)
    protocol, source = more.get("protocol", "ftsobest"), more.get("source", "default")
    if found["role"] != "collector":
        raise LoginError("role must be collector")
    if protocol not in ("ftsobest", "acked"):
        raise LoginError("protocol must be acked, or left out")
    if not _NAME.fullmatch(source):
        raise LoginError("source must be up to 64 letters, digits, - and _")
    return Login(found["key"], protocol == "acked", source)


# ------------------------------------------------------------------------------------------- messages


def exchange(venue: str) -> str | None:
    """Return version 1's name of a venue, None for one that it does not know."""
    return EXCHANGES.get(venue)


def symbol_of(symbol: str) -> str:
    """Return the dialect's spelling: ``BTC/USDT``, in version 2 ``BTC/USDT-PERP`` too."""
    return symbol.replace("-", "/", 1)


def ours(symbol: str) -> str:
    """Return our spelling of the dialect's symbol."""
    return canonical(symbol)


class Said(NamedTuple):
    """One message: its type and its JSON text."""

    type: str
    text: str


def _text(text: str | None) -> str:
    if text is None:
        return "null"
    return f'"{text}"' if text.isalnum() else msgspec.json.encode(text).decode()


def _levels(levels: Iterable[Level]) -> str:
    return ",".join([f'["{price}","{size}"]' for price, size in levels])


class Words:
    """Translates what happens at one venue. ``acked``: version 2."""

    def __init__(self, venue: str, *, acked: bool) -> None:
        self._venue = venue
        self._acked = acked
        self._heads: dict[tuple[str, str | None], str | None] = {}
        self._says: dict[type[Event], Callable[..., Said | None]] = {
            Trade: self._trade,
            Ticker: self._ticker,
            Gap: self._gap,
        }

    def say(self, event: Event, cursor: str) -> Said | None:
        """Return the message of an event, None where the dialect has no word for it.

        Args:
            event: A trade, ticker or gap.
            cursor: Of the event (``binance.0/events/<epoch>-<k>``); version 1 leaves it out.
        """
        return self._says[type(event)](event, cursor)

    def book(
        self, symbol: str, ts: int, bids: Iterable[Level], asks: Iterable[Level], cursor: str
    ) -> Said | None:
        """Return the message of a book's best levels, best first; ``ts`` in ns. None as with ``say``."""
        head = self._head("book", symbol)
        if head is None:
            return None
        text = f'{head}{ts // _MS},"asks":[{_levels(asks)}],"bids":[{_levels(bids)}]{self._end(cursor)}'
        return Said("book", text)

    def knows(self, symbol: str) -> bool:
        """Tell whether the dialect can speak of a symbol."""
        return self._head("trade", symbol) is not None

    def _head(self, type_: str, symbol: str | None) -> str | None:
        """The text of a message up to the timestamp's digits."""
        try:
            return self._heads[type_, symbol]
        except KeyError:
            head = self._heads[type_, symbol] = self._make_head(type_, symbol)
            return head

    def _make_head(self, type_: str, symbol: str | None) -> str | None:
        name = exchange(self._venue)
        if self._acked:
            name = name or self._venue
        elif name is None or symbol is None or market_kind(symbol) != "spot":
            return None
        theirs = _text(None if symbol is None else symbol_of(symbol))
        return f'{{"type":"{type_}","exchange":"{name}","symbol":{theirs},"timestamp":'

    def _end(self, cursor: str) -> str:
        return f',"cursor":"{cursor}"}}' if self._acked else "}"

    def _trade(self, event: Trade, cursor: str) -> Said | None:
        head = self._head("trade", event.symbol)
        if head is None:
            return None
        ts = event.ts_recv if event.ts_event is None else event.ts_event
        text = (
            f'{head}{ts // _MS},"price":"{event.price}","amount":"{event.size}",'
            f'"side":"{event.aggressor}"{self._end(cursor)}'
        )
        return Said("trade", text)

    def _ticker(self, event: Ticker, cursor: str) -> Said | None:
        head = self._head("ticker", event.symbol)
        if head is None:
            return None
        ts = event.ts_recv if event.ts_event is None else event.ts_event
        text = (
            f'{head}{ts // _MS},"bid":null,"ask":null,"last":{_text(event.last)},'
            f'"vol_24h":{_text(event.volume_base)}{self._end(cursor)}'
        )
        return Said("ticker", text)

    def _gap(self, event: Gap, cursor: str) -> Said | None:
        head = self._head("gap", event.symbol)
        if head is None or not self._acked:
            return None
        ts = event.ts_recv if event.ts_event is None else event.ts_event
        text = (
            f'{head}{ts // _MS},"channel":{_text(event.channel)},"cause":"{event.cause}",'
            f'"first":{_text(event.first)},"last":{_text(event.last)},'
            f'"filled":{"true" if event.filled else "false"}{self._end(cursor)}'
        )
        return Said("gap", text)


def demo_line(text: str) -> str:
    """Return what a collector in demo mode prints of a message."""
    return f"DEMO → {text}"


DEMO_NOTICE: Final = "MasterPool running in DEMO mode"


# ------------------------------------------------------------------------------------------ version 2


class Ping(msgspec.Struct, tag_field="op", tag="ping"):
    """Either side: are you there."""


class Pong(msgspec.Struct, tag_field="op", tag="pong"):
    """The answer to it."""


class Welcome(msgspec.Struct, tag_field="op", tag="welcome"):
    """The master lets in. ``cursors``: ``<partition>/<stream>`` -> the cursor up to which it holds it."""

    cursors: dict[str, str]


class Refused(msgspec.Struct, tag_field="op", tag="refused"):
    """The master does not let in, or no longer."""

    reason: str


class Ack(msgspec.Struct, tag_field="op", tag="ack"):
    """The master holds the stream up to ``last``."""

    partition: str
    stream: str
    last: str


class Batch(msgspec.Struct, tag_field="op", tag="batch"):
    """A run of one stream; ``messages`` undecoded, each of the form of ``Head``."""

    partition: str
    stream: str
    after: str
    first: str
    last: str
    messages: list[msgspec.Raw]


class Head(msgspec.Struct):
    """What the master must know of any message; ``cursor`` None: version 1."""

    type: str
    exchange: str
    cursor: str | None = None


FromMaster = Welcome | Refused | Ack | Pong | Ping
FromCollector = Batch | Ping | Pong

from_master: Final[Callable[[str | bytes], FromMaster]] = msgspec.json.Decoder(FromMaster).decode
from_collector: Final[Callable[[str | bytes], FromCollector]] = msgspec.json.Decoder(FromCollector).decode
head_of: Final = msgspec.json.Decoder(Head).decode
encode: Final = msgspec.json.Encoder().encode


def batch(partition: str, stream: str, *, after: str, first: str, last: str, messages: Iterable[str]) -> str:
    """Return the frame of a batch; ``messages`` in order, as ``Words`` made them."""
    return (
        f'{{"op":"batch","partition":"{partition}","stream":"{stream}","after":"{after}","first":"{first}",'
        f'"last":"{last}","messages":[{",".join(messages)}]}}'
    )


# ------------------------------------------------------------------------------------------- counters


class Counters(NamedTuple):
    """What the collector's ten-second line says; counts since its start."""

    ex: int  # venues that send
    ws: int  # sockets open to them
    tp: int  # pairs with trades
    ob: int  # pairs with books
    recv: int  # frames received of venues
    sent: int  # messages given to the master
    dropped: int  # of these, lost with a socket
    parse_err: int
    send_err: int  # sockets to the master that broke
    reconnects: int  # to venues
    sub_send: int  # subscriptions sent
    sub_send_err: int  # and refused


def metrics_line(counters: Counters) -> str:
    """Return the collector's ten-second line."""
    return "[METRICS] " + " ".join(f"{name}={value}" for name, value in counters._asdict().items())
