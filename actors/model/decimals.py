"""The law of decimal text: a price or size is what the venue wrote, never a binary float."""

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Final

import msgspec

from actors.model.errors import Unparseable

_Side = list[tuple[str, str]]  # price, size

_MOST_DIGITS = 64  # chosen: no venue needs half of it, and an expanded 1e999999999 must not be built
_encode = msgspec.json.Encoder().encode

# What nearly all texts are is told by one pattern for several at once, at a third of the cost of looking at
# each; what is longer or otherwise written is looked at one by one. Nothing is tried twice (``++``).
_SIZE = r"[0-9]{1,31}+(?:\.[0-9]{1,31}+)?+"
_PRICE = r"(?=[0.]*+[1-9])" + _SIZE  # not zero
_plain_size = re.compile(_SIZE).fullmatch
_plain_price = re.compile(_PRICE).fullmatch
_plain_trade = re.compile(f"{_PRICE} {_PRICE}").fullmatch
_LEVELS = rf'\[(?:\["{_PRICE}","{_SIZE}"\],?+)*+\]'
_plain_levels = re.compile(_LEVELS.encode()).fullmatch
_plain_sides = re.compile(rf"\[{_LEVELS},{_LEVELS}\]".encode()).fullmatch
# "bid bid_size ask ask_size": all four plain as they stand, and both prices above zero
plain_quote: Final = re.compile(f"{_PRICE} {_SIZE} {_PRICE} {_SIZE}").fullmatch
_exact = Context(prec=2 * _MOST_DIGITS, rounding=ROUND_HALF_EVEN)  # one for all: half the cost of a local one
_INVERSE_STEP = Decimal("1e-12")  # DESIGN 6: inverse sizes are rounded half-even to 12 decimals


def decimal_text(text: str) -> str:
    """Return ``text`` as plain decimal text, ``-?digits[.digits]``, with the venue's own digits.

    Text that is already plain comes back unchanged; an exponent is expanded.

    Raises:
        Unparseable: Not a finite decimal number, or one of more than 64 digits.
    """
    whole, dot, fraction = text.partition(".")
    if whole.isdigit() and whole.isascii() and (not dot or (fraction.isdigit() and fraction.isascii())):
        if len(text) <= _MOST_DIGITS:
            return text
        raise Unparseable(f"not a price or size: {text[:40]!r} has more than {_MOST_DIGITS} digits")
    return _expand(text)


def _expand(text: str) -> str:
    stripped = text.strip()
    if not stripped or stripped != text or len(text) > _MOST_DIGITS or "_" in text or not text.isascii():
        raise Unparseable(f"not a decimal number: {text[:40]!r}")
    try:
        number = Decimal(text)
    except InvalidOperation as e:
        raise Unparseable(f"not a decimal number: {text[:40]!r}") from e
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        raise Unparseable(f"not a usable decimal number: {text[:40]!r}")
    return f"{number:f}"


def price_text(text: str) -> str:
    """Return ``text`` as decimal text that is above zero.

    Raises:
        Unparseable: Not a decimal number, or zero or less: a placeholder is not a price.
    """
    if _plain_price(text) is not None:
        return text
    plain = decimal_text(text)
    if plain[0] == "-" or is_zero(plain):
        raise Unparseable(f"not a price: {text[:40]!r}")
    return plain


def size_text(text: str) -> str:
    """Return ``text`` as decimal text that is not below zero; zero removes a level.

    Raises:
        Unparseable: Not a decimal number, or negative.
    """
    if _plain_size(text) is not None:
        return text
    plain = decimal_text(text)
    if plain[0] == "-":
        raise Unparseable(f"a size below zero: {text[:40]!r}")
    return plain


def trade_text(price: str, size: str) -> tuple[str, str]:
    """Return price and size of a trade as decimal text, both above zero.

    Raises:
        Unparseable: One is none: nothing was traded.
    """
    if _plain_trade(f"{price} {size}") is not None:
        return price, size
    plain = size_text(size)
    if is_zero(plain):
        raise Unparseable(f"a trade of size {plain}")
    return price_text(price), plain


def is_zero(plain: str) -> bool:
    """Tell whether decimal text is zero in any of its spellings (``0``, ``0.00``, ``-0``)."""
    return not plain.strip("-0.")


def to_base(contracts: str, contract_size: str, contract_kind: str, price: str) -> str:
    """Return the size in base currency of ``contracts`` at ``price``.

    Args:
        contracts: Number of contracts, decimal text.
        contract_size: Base currency a contract (linear) or quote currency a contract (inverse).
        contract_kind: ``linear`` or ``inverse``.
        price: Decimal text; used for inverse contracts only.

    Returns:
        Exact for linear contracts; rounded half-even to 12 decimals for inverse ones.

    Raises:
        Unparseable: More digits come of it than any venue means, or nothing is left of it.
    """
    value = _exact.multiply(Decimal(contracts), Decimal(contract_size))
    if contract_kind == "inverse":
        try:
            value = _exact.quantize(_exact.divide(value, Decimal(price)), _INVERSE_STEP)
        except InvalidOperation as e:
            raise Unparseable(f"no size: {contracts[:40]} contracts at {price[:40]}") from e
        if not value and not is_zero(contracts):
            raise Unparseable(f"less than any size: {contracts[:40]} contracts at {price[:40]}")
    return f"{_exact.normalize(value):f}"


def levels_text(levels: _Side) -> _Side:
    """Return book levels (price, size) as plain decimal text: prices above zero, sizes not below.

    Levels that are plain already, as nearly all are, come back as the same list: one pass over their
    JSON proves it.

    Raises:
        Unparseable: A price or size is none.
    """
    if not levels or _plain_levels(_encode(levels)) is not None:
        return levels
    return [(price_text(price), size_text(size)) for price, size in levels]


def sides_text(bids: _Side, asks: _Side) -> tuple[_Side, _Side]:
    """Return both sides of a book as ``levels_text`` does each, at the cost of one.

    Raises:
        Unparseable: A price or size is none.
    """
    if _plain_sides(_encode((bids, asks))) is not None:
        return bids, asks
    return levels_text(bids), levels_text(asks)
