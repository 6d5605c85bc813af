"""The fold from ``events`` to ``flow``: cumulative volume delta, an event a trade.

Of each symbol two running sums, buys minus sells by aggressor: ``delta_base`` of sizes, ``delta_quote``
of price times size. They never start again: a restart or another connection goes on with them, a
backfilled trade counts where it comes. What cannot be counted any more is told by a ``gap``: trades
that retention took are missing from the sums, trades that a rollback took back are still in them.
"""

from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import ClassVar, Final

import msgspec

from actors.model.errors import Unparseable
from actors.model.events import Aggressor, Cvd, Gap
from actors.stages.fold import JumpCause, Output

ROLE: Final = "analytics"

_EVENTS: Final = "tapeline_events_total"
_CVD: Final = (_EVENTS, "cvd")
# Digits of a sum: prices stand within 10^65 and 10^-128, sizes of contracts within 10^130 and 10^-256
# (model.decimals), so 10^50 products need less than 640. More would not be rounded but raise: poison.
_exact: Final = Context(prec=700, traps=[Inexact, InvalidOperation])
_decimal = _exact.create_decimal
_ZERO: Final = Decimal(0)


class _Taken(msgspec.Struct, gc=False):
    """Of a trade, what is needed here."""

    symbol: str | None
    ts_event: int | None
    ts_recv: int
    seq: int | None
    price: str
    size: str
    aggressor: Aggressor


class _Moment(msgspec.Struct, gc=False):
    ts_recv: int


class _State(msgspec.Struct, array_like=True):
    now: int
    sums: list[tuple[str, str, str]]  # symbol, base, quote


_taken_of = msgspec.json.Decoder(_Taken).decode
_moment_of = msgspec.json.Decoder(_Moment).decode
_encode = msgspec.json.Encoder().encode
_state_encoder = msgspec.msgpack.Encoder()
_state_decoder = msgspec.msgpack.Decoder(_State)


class CumulativeDelta:
    """The sums of one partition: a ``Fold`` over ``events``, into ``flow``."""

    FORMAT: ClassVar[int] = 1

    def __init__(self, venue: str, state: bytes | None = None) -> None:
        """Begin at zero, or where ``dump`` ended.

        Args:
            venue: Name of the venue.
            state: What ``dump`` returned, or None.

        Raises:
            msgspec.MsgspecError: ``state`` is not of this format.
        """
        self._venue = venue
        self._now = 0  # fold time
        self._sums: dict[str, tuple[Decimal, Decimal]] = {}
        if state is not None:
            was = _state_decoder.decode(state)
            self._now = was.now
            self._sums = {symbol: (_decimal(base), _decimal(quote)) for symbol, base, quote in was.sums}

    def fold(self, k: int, line: bytes, out: Output) -> None:  # noqa: ARG002 - nothing here is numbered
        """Take an event of ``events``; only trades and ticks are decoded."""
        kind = line[9:15]
        if kind == b'trade"':
            self._on_trade(_taken_of(line), out)
        elif kind == b'tick",':
            self._now = max(self._now, _moment_of(line).ts_recv)

    def jump(self, first: int, last: int, cause: JumpCause, out: Output) -> None:
        """Go on with the sums as they are, and say what they are not."""
        gap = Gap(self._venue, None, None, self._now, None, "trade", cause, str(first), str(last))
        out.lines["flow"].append(_encode(gap))
        out.counts[_EVENTS, "gap"] += 1
        out.counts["tapeline_gaps_total", f"trade/{cause}"] += 1

    def dump(self) -> bytes:
        """Return the sums, in the order of their first trades."""
        sums = [(symbol, f"{base:f}", f"{quote:f}") for symbol, (base, quote) in self._sums.items()]
        return _state_encoder.encode(_State(self._now, sums))

    def _on_trade(self, trade: _Taken, out: Output) -> None:
        symbol = trade.symbol
        if symbol is None:
            raise Unparseable("a trade without its symbol")
        self._now = max(self._now, trade.ts_recv)
        size = _decimal(trade.size)
        notional = _exact.multiply(size, _decimal(trade.price))
        if not notional.is_finite():
            raise Unparseable(f"not a price and a size: {trade.price[:40]!r}, {trade.size[:40]!r}")
        add = _exact.add if trade.aggressor == "buy" else _exact.subtract
        base, quote = self._sums.get(symbol, (_ZERO, _ZERO))
        # Without trailing zeros: the text follows from the value, not from how trades spelled it.
        base, quote = _exact.normalize(add(base, size)), _exact.normalize(add(quote, notional))
        self._sums[symbol] = base, quote
        cvd = Cvd(self._venue, symbol, trade.ts_event, trade.ts_recv, trade.seq, f"{base:f}", f"{quote:f}")
        out.lines["flow"].append(_encode(cvd))
        out.counts[_CVD] += 1
