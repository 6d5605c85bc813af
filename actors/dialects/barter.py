"""Barter Data Server's words: its welcome, its event messages, and the filters a client may put in the query.

Field order, capitals and number formats are the predecessor's to the letter, since its clients parse
them strictly: the outer fields in the order below, ``data`` keys alphabetically, prices and sizes of
trades as JSON numbers (here with the venue's own digits), those of books as text. Times are RFC 3339,
UTC, microseconds. It has no word for gaps, status or staleness; those are not translated.
"""

from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from actors.model.events import (
    L1,
    Book,
    Cvd,
    Event,
    Funding,
    Level,
    Liquidation,
    OpenInterest,
    Trade,
)
from actors.model.instruments import canonical, market_kind

# Ours -> theirs.
KINDS: Final[dict[str, str]] = {
    "trade": "trade",
    "l1": "order_book_l1",
    "book": "order_book_l2",
    "liquidation": "liquidation",
    "open_interest": "open_interest",
    "cvd": "cumulative_volume_delta",
    "funding": "funding_rate",
}

# Theirs where it is not our id in capitals (``binance_us`` is BinanceUs, ``okx`` is Okx).
_EXCHANGES: Final = {
    "binance": "BinanceSpot",
    "binance_usdm": "BinanceFuturesUsd",
    "bybit": "BybitSpot",
    "bybit_linear": "BybitPerpetualsUsd",
    "gateio": "GateioSpot",
}
_INSTRUMENT_KINDS: Final = {"spot": "Spot", "perpetual": "Perpetual", "future": "Future"}
_SIDES: Final = {"buy": "Buy", "sell": "Sell"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Topic(NamedTuple):
    """What a message is about, in the dialect's words; ``symbol`` is canonical (``BTC-USDT``)."""

    kind: str
    exchange: str
    symbol: str


Said = tuple[Topic, bytes]  # one message


class FilterError(ValueError):
    """A filter that would never match; says which value and what there is."""


class Filter(NamedTuple):
    """What a client wants; None: everything."""

    kinds: frozenset[str] | None = None
    exchanges: frozenset[str] | None = None
    symbols: frozenset[str] | None = None

    def kind(self, kind: str) -> bool:
        """Tell whether any messages of this kind are wanted."""
        return self.kinds is None or kind in self.kinds

    def passes(self, topic: Topic) -> bool:
        """Tell whether messages of ``topic`` are wanted."""
        return (
            self.kind(topic.kind)
            and (self.exchanges is None or topic.exchange in self.exchanges)
            and (self.symbols is None or topic.symbol in self.symbols)
        )


EVERYTHING: Final = Filter()


def exchange(venue: str) -> str:
    """Return the dialect's name of a venue."""
    return _EXCHANGES.get(venue) or "".join(part.capitalize() for part in venue.split("_"))


def parse_filter(query: str, venues: Iterable[str], symbols: Iterable[str]) -> Filter:
    """Return the filter of a query such as ``kind=trade,liquidation&exchange=Okx&symbol=BTC-USDT``.

    Args:
        query: What follows the ``?``; values separated by commas, a key may come more than once.
        venues: Our ids of the venues there are.
        symbols: Canonical symbols there are; ``btc/usdt`` is understood.

    Raises:
        FilterError: A key or value that nothing here has, with the ones that are valid.
    """
    if not query:
        return EVERYTHING
    there: dict[str, Collection[str]] = {
        "kind": list(KINDS.values()),
        "exchange": sorted({exchange(venue) for venue in venues}),
        "symbol": sorted({canonical(symbol) for symbol in symbols}),
    }
    wanted: dict[str, set[str]] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=32)
    except ValueError as e:
        raise FilterError(f"the query cannot be read: {e}") from e
    for key, text in pairs:
        if key not in there:
            raise FilterError(f"unknown filter {key[:40]!r}: valid are {', '.join(there)}")
        for part in text.split(","):
            value = canonical(part) if key == "symbol" else part.strip()
            if value not in there[key]:
                raise FilterError(f"unknown {key} {value[:40]!r}: valid are {', '.join(there[key])}")
            wanted.setdefault(key, set()).add(value)
    kinds, exchanges, chosen = (
        frozenset(wanted[key]) if key in wanted else None for key in ("kind", "exchange", "symbol")
    )
    return Filter(kinds, exchanges, chosen)


@lru_cache(maxsize=1024)
def _second(s: int | str) -> str:
    return (_EPOCH + timedelta(seconds=int(s))).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(ns: int) -> str:
    """Return ns since the epoch as RFC 3339, UTC, microseconds.

    Raises:
        OverflowError: Outside the years 1 to 9999.
    """
    digits = str(ns)
    if len(digits) == 19 and ns > 0:  # since 2001: its digits are the text, at half the cost of dividing
        return f"{_second(digits[:10])}.{digits[10:16]}Z"
    s, us = divmod(ns // 1000, 1_000_000)
    return f"{_second(s)}.{us:06d}Z"


def _number(text: str) -> str:
    """Decimal text as a JSON number, digits kept; JSON knows no leading zeros."""
    if text[0] > "0" or text[:2] == "0.":
        return text
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text)
    digits = digits.lstrip("0")
    return f"{sign}0{digits}" if not digits or digits[0] == "." else sign + digits


def _text(text: str) -> str:
    return f'"{text}"' if text.isalnum() else msgspec.json.encode(text).decode()


def _time(ns: int | None) -> str:
    return "null" if ns is None else f'"{rfc3339(ns)}"'


def _levels(levels: list[Level]) -> str:
    return ",".join([f'{{"amount":"{size}","price":"{price}"}}' for price, size in levels])


def _best(price: str | None, size: str | None) -> str:
    return "null" if price is None or size is None else f'{{"amount":"{size}","price":"{price}"}}'


def welcome(now: int) -> bytes:
    """Return the first message of every connection; ``now`` in ns."""
    return (
        f'{{"type":"welcome","message":"Connected to barter-data market feed","timestamp":"{rfc3339(now)}"}}'
    ).encode()


class Words:
    """Translates the events of one venue; keeps only text that never changes."""

    def __init__(self, venue: str) -> None:
        self.exchange = exchange(venue)
        self._fixed: dict[tuple[str, str], tuple[Topic, str]] = {}
        self._others: dict[type[Event], tuple[str, Callable[..., str | None]]] = {
            L1: ("l1", _l1),
            Liquidation: ("liquidation", _liquidation),
            OpenInterest: ("open_interest", _open_interest),
            Cvd: ("cvd", _cvd),
            Funding: ("funding", _funding),
        }

    def _of(self, kind: str, symbol: str) -> tuple[Topic, str]:
        fixed = self._fixed.get((kind, symbol))
        if fixed is None:
            base, quote, *_ = symbol.lower().split("-")
            theirs = KINDS[kind]
            middle = (
                f'","exchange":"{self.exchange}","instrument":{{"base":{_text(base)},"quote":{_text(quote)},'
                f'"kind":"{_INSTRUMENT_KINDS[market_kind(symbol)]}"}},"kind":"{theirs}","data":{{'
            )
            fixed = self._fixed[kind, symbol] = Topic(theirs, self.exchange, symbol), middle
        return fixed

    def topic(self, kind: str, symbol: str) -> Topic:
        """Return what the messages of our ``kind`` about ``symbol`` are about."""
        return self._of(kind, symbol)[0]

    def say(self, event: Event) -> Said | None:
        """Return the message of an event, None where the dialect has no words for it.

        Books are said by ``update`` and ``snapshot``. No words: any other kind, funding without a
        rate, open interest without a number of contracts (the predecessor's clients need both).

        Raises:
            OverflowError: A time outside the calendar.
            ValueError: A symbol that is not BASE-QUOTE.
        """
        if type(event) is Trade:
            return self._trade(event)
        words = self._others.get(type(event))
        if words is None:
            return None
        kind, data = words
        said = data(event)
        return None if said is None else self._message(kind, event, said)

    def _trade(self, event: Trade) -> Said:
        topic, fixed = self._of("trade", event.symbol or "")
        received = rfc3339(event.ts_recv)
        at = event.ts_event
        price, size = event.price, event.size
        return topic, (
            f'{{"time_exchange":"{received if at is None else rfc3339(at)}","time_received":"{received}'
            f'{fixed}"amount":{size if size[0] > "0" else _number(size)},"id":{_text(event.id)},'
            f'"price":{price if price[0] > "0" else _number(price)},"side":"{_SIDES[event.aggressor]}"}}}}'
        ).encode()

    def _message(self, kind: str, event: Event, data: str) -> Said:
        topic, fixed = self._of(kind, event.symbol or "")
        received = rfc3339(event.ts_recv)
        at = event.ts_event
        return topic, (
            f'{{"time_exchange":"{received if at is None else rfc3339(at)}","time_received":"{received}'
            f"{fixed}{data}}}}}"
        ).encode()

    def update(self, event: Book) -> Said:
        """Return the message of a change of a live book."""
        return self._book("Update", event)

    def snapshot(self, event: Book) -> Said:
        """Return the message of a whole live book, levels best first."""
        return self._book("Snapshot", event)

    def _book(self, what: str, event: Book) -> Said:
        data = (
            f'"{what}":{{"asks":{{"levels":[{_levels(event.asks)}]}},'
            f'"bids":{{"levels":[{_levels(event.bids)}]}},'
            f'"sequence":{event.seq or 0},"time_engine":{_time(event.ts_event)}}}'
        )
        return self._message("book", event, data)


def _l1(event: L1) -> str:
    at = event.ts_recv if event.ts_event is None else event.ts_event
    return (
        f'"best_ask":{_best(event.ask, event.ask_size)},"best_bid":{_best(event.bid, event.bid_size)},'
        f'"last_update_time":"{rfc3339(at)}"'
    )


def _liquidation(event: Liquidation) -> str:
    at = event.ts_recv if event.ts_event is None else event.ts_event
    return (
        f'"price":{_number(event.price)},"quantity":{_number(event.size)},'
        f'"side":"{_SIDES[event.side]}","time":"{rfc3339(at)}"'
    )


def _open_interest(event: OpenInterest) -> str | None:
    if event.contracts is None:
        return None
    notional = "null" if event.notional is None else _number(event.notional)
    return f'"contracts":{_number(event.contracts)},"notional":{notional},"time":{_time(event.ts_event)}'


def _cvd(event: Cvd) -> str:
    return f'"delta_base":{_number(event.delta_base)},"delta_quote":{_number(event.delta_quote)}'


def _funding(event: Funding) -> str | None:
    if event.rate is None:
        return None
    at = event.ts_recv if event.ts_event is None else event.ts_event
    return f'"next_time":{_time(event.next_ts)},"rate":{_number(event.rate)},"time":"{rfc3339(at)}"'
