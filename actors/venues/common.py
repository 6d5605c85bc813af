"""What several venues' files need: units, and small steps between a venue's words and ours.

In this order: times, numbers, instruments, subscriptions, REST.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, NoReturn, TypeVar

import msgspec

from actors.model.decimals import decimal_text, is_zero, plain_quote, price_text, size_text
from actors.model.errors import Foreign, Unparseable
from actors.model.events import Channel
from actors.model.instruments import Instrument, Unusable
from actors.venues.base import (
    Answer,
    Connection,
    Endpoints,
    Item,
    Operation,
    Request,
    Scratch,
    Subscription,
    items_of,
)

Op = Literal["subscribe", "unsubscribe"]
Row = TypeVar("Row")
Key = TypeVar("Key", bound=Hashable)

Plan = Callable[[Endpoints, Sequence[Instrument], Sequence[Channel]], list[Connection]]
_Subscribe = Callable[[Sequence[Item], Mapping[str, Instrument], int], list[Subscription]]

# ---- times ----------------------------------------------------------------------------------------------

MS: Final = 1_000_000  # ns
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_YEAR: Final = 2001  # "0001-01-01" and "1970-01-01" stand for no time at all
_LAST_YEAR: Final = 2261  # ns in 64 bits end in 2262

# The bounds tell units apart, so that none is guessed: ms of the years 2001 to 2262 (the last that ns in
# 64 bits can say); seconds lie below, microseconds above, and are refused.
Ms = Annotated[int, msgspec.Meta(ge=1_000_000_000_000, lt=9_223_372_036_854)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]  # RFC 3339, which must name its zone


def told_ms(ms: int | None) -> int | None:
    """Return ms as ns, None for what was not told."""
    return None if ms is None else ms * MS


def ms_text(text: str | None) -> int | None:
    """Return ms as ns; None where the venue gives no time, which it may spell ``""`` or ``"0"``.

    Raises:
        Unparseable: Not ms of the years 2001 to 2262.
    """
    if not text or text == "0":
        return None
    # 13 digits, the first no zero, are ms from 2001 on; what ns in 64 bits cannot say ends in 2262.
    digits = len(text) == 13 and text.isdigit() and text.isascii()
    if not (digits and "1000000000000" <= text < "9223372036854"):
        raise Unparseable(f"not a time in ms: {text[:40]!r}")
    return int(text) * MS


def date_ns(time: datetime | None) -> int | None:
    """Return a time with its zone as ns; None for none, and for a year that no venue means."""
    if time is None or not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        return None
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


# ---- numbers --------------------------------------------------------------------------------------------

Id = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]  # what 64 bits hold
IdText = Annotated[str, msgspec.Meta(max_length=64)]  # chosen: of thousands of trades it is remembered
Decimals = Annotated[int, msgspec.Meta(ge=0, le=32)]  # how many digits stand behind the point


def price_or_none(text: str) -> str | None:
    """Return a price as plain text, None for zero: there was no trade, the side is empty.

    Raises:
        Unparseable: No decimal number, or below zero.
    """
    plain = decimal_text(text)
    return None if is_zero(plain) else price_text(plain)


def told_price(text: str | None) -> str | None:
    """Return as ``price_or_none``, None also for what was not told: left out, or ``""``.

    Raises:
        Unparseable: No decimal number, or below zero.
    """
    return price_or_none(text) if text else None


def told_size(text: str | None) -> str | None:
    """Return a size as plain text, None for what was not told: left out, or ``""``.

    Raises:
        Unparseable: No decimal number, or below zero.
    """
    return size_text(text) if text else None


def quote(
    bid: str, bid_size: str, ask: str, ask_size: str
) -> tuple[str | None, str | None, str | None, str | None]:
    """Return best bid and ask with their sizes as ``L1`` orders them; None for a side whose price is zero.

    Raises:
        Unparseable: No decimal numbers, or below zero.
    """
    if plain_quote(f"{bid} {bid_size} {ask} {ask_size}") is not None:
        return bid, bid_size, ask, ask_size
    return (*_side(bid, bid_size), *_side(ask, ask_size))


def _side(price: str, size: str) -> tuple[str | None, str | None]:
    plain = price_or_none(price)
    return (None, None) if plain is None else (plain, size_text(size))


def step_text(decimals: int | None) -> str | None:
    """Return the step that so many decimals allow: ``0.01`` for 2; None for None."""
    return None if decimals is None else f"0.{'1':0>{decimals}}" if decimals else "1"


# ---- instruments ----------------------------------------------------------------------------------------


def instrument_of(native: str, scratch: Scratch) -> Instrument:
    """Return the instrument that the venue calls ``native``.

    Raises:
        Foreign: The connection does not know it.
    """
    instrument = scratch.instruments.get(native)
    if instrument is None:
        raise Foreign(f"a frame of {native[:40]!r}, an instrument that this connection does not know")
    return instrument


def symbol_of(native: str, scratch: Scratch) -> str:
    """Return the canonical symbol of what the venue calls ``native``.

    Raises:
        Foreign: The connection does not know it.
    """
    known = scratch.instruments.get(native)
    return instrument_of(native, scratch).symbol if known is None else known.symbol  # a call less, mostly


def item_of(channel: Channel | None, native: str | None, scratch: Scratch) -> Item | None:
    """Return what an answer is about, None where its channel or its instrument is none of ours."""
    instrument = scratch.instruments.get(native or "")
    return None if channel is None or instrument is None else (channel, instrument.symbol)


def spot(
    native: str, base: str, quote: str, price_step: str | None = None, size_step: str | None = None
) -> Instrument:
    """Return a spot pair, whose codes may be in either case."""
    base, quote = base.upper(), quote.upper()
    return Instrument(f"{base}-{quote}", native, base, quote, None, None, price_step, size_step)


def rows_of(
    kind: type[Row], texts: Iterable[msgspec.Raw], make: Callable[[Row], Instrument | Unusable | None]
) -> list[Instrument | Unusable]:
    """Return what ``make`` makes of each row of a list, None left out; a row that cannot be read is unusable.

    For a listing: one odd row must not cost the others.
    """
    decode = msgspec.json.Decoder(kind).decode
    found: list[Instrument | Unusable] = []
    for text in texts:
        try:
            row = make(decode(text))
        except (msgspec.MsgspecError, UnicodeDecodeError, Unparseable) as e:
            named = str(text, "utf-8", "replace")[:80]
            row = Unusable(named, named, str(e)[:200])
        if row is not None:
            found.append(row)
    return found


# ---- subscriptions --------------------------------------------------------------------------------------


def own_number(number: str | int | None) -> int | None:
    """Return the number of a request as an answer bears it, be it as text; None for what is none of ours."""
    text = str(number)
    return int(text) if text.isdigit() and text.isascii() and len(text) < 16 else None


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return items by what ``key`` says of each, in the order of their coming."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def parts(rows: Sequence[Row], most: int) -> list[list[Row]]:
    """Return ``rows`` in pieces of ``most`` each, the last one with what is left."""
    return [list(rows[start : start + most]) for start in range(0, len(rows), most)]


def asking(
    op: Op, items: list[Item], document: object, number: int | None = None, answers: int = 1
) -> Subscription:
    """Return the frame that says ``document``, for ``items``; the rest as ``Subscription`` has it."""
    return Subscription(op, items, msgspec.json.encode(document).decode(), number, answers)


def planned(
    url: str,
    instruments: Sequence[Instrument],
    channels: Sequence[Channel],
    most: int,
    subscribe: _Subscribe,
) -> list[Connection]:
    """Return connections to ``url`` that carry all ``channels`` of ``instruments``; a symbol stays on one.

    ``most``: items that one may carry.
    """
    by_symbol = {instrument.symbol: instrument for instrument in instruments}
    symbols = list(by_symbol)
    step = most // max(1, len(channels))
    parts = (items_of(symbols[start : start + step], channels) for start in range(0, len(symbols), step))
    return [Connection(url, subscribe(items, by_symbol, 1)) for items in parts if items]


def planner(path: str, most: int, subscribe: _Subscribe, most_symbols: int | None = None) -> Plan:
    """Return the plan of a venue whose one kind of socket is at ``path``, with ``most`` items on each.

    ``most_symbols``: however few items each has, no more of them.
    """

    def plan(
        endpoints: Endpoints, instruments: Sequence[Instrument], channels: Sequence[Channel]
    ) -> list[Connection]:
        here = most if most_symbols is None else min(most, most_symbols * len(channels))
        return planned(endpoints.ws + path, instruments, channels, here, subscribe)

    return plan


# ---- REST -----------------------------------------------------------------------------------------------


def asked_as(op: Operation, answer: Answer) -> tuple[str, bytes]:
    """Return symbol and body of an answer to ``op``, where it can be nothing else.

    Raises:
        Unparseable: Something else was asked.
    """
    request = answer.request
    if request.op != op or request.symbol is None:
        no_answer(answer)
    return request.symbol, answer.body.encode(errors="replace")


def no_answer(answer: Answer, _scratch: Scratch | None = None) -> NoReturn:
    """Refuse a REST answer that this venue is never asked for.

    Raises:
        Unparseable: Always.
    """
    raise Unparseable(f"no answer of this venue: {answer.request.op} of {answer.request.symbol}")


def asked_for(rows: Sequence[Row], request: Request, number: Callable[[Row], int]) -> list[Row]:
    """Return those of a backfill's rows that lie in the range of ``request``, once each, by their number."""
    first, last = int(request.first or 0), int(request.last or -1)
    found = {n: row for row in rows if first <= (n := number(row)) <= last}
    return [found[n] for n in sorted(found)]
