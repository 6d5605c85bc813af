"""The law of decimal text: a price or size is what the venue wrote, never a binary float."""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from itertools import chain

from actors.model.errors import Unparseable

_MOST_DIGITS = 64  # chosen: no venue needs half of it, and an expanded 1e999999999 must not be built
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
    plain = decimal_text(text)
    if plain[0] == "-" or is_zero(plain):
        raise Unparseable(f"not a price: {text[:40]!r}")
    return plain


def size_text(text: str) -> str:
    """Return ``text`` as decimal text that is not below zero; zero removes a level.

    Raises:
        Unparseable: Not a decimal number, or negative.
    """
    plain = decimal_text(text)
    if plain[0] == "-":
        raise Unparseable(f"a size below zero: {text[:40]!r}")
    return plain


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
    """
    with localcontext() as context:
        context.prec = 2 * _MOST_DIGITS
        value = Decimal(contracts) * Decimal(contract_size)
        if contract_kind == "inverse":
            value = (value / Decimal(price)).quantize(_INVERSE_STEP, rounding=ROUND_HALF_EVEN)
        return f"{value.normalize():f}"


def levels_text(levels: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return book levels (price, size) as plain decimal text: prices above zero, sizes not below.

    Levels that are plain already, as nearly all are, come back as the same list: one pass in C over
    all of them proves it, at a tenth of the cost of looking at each text.

    Raises:
        Unparseable: A price or size is none.
    """
    if not levels:
        return levels
    texts = list(chain.from_iterable(levels))
    joined = f",{','.join(texts)},"
    without_digits = joined.encode().translate(None, b"0123456789")
    if (
        without_digits == b"," + b".," * len(texts)  # so no text holds a comma, and each exactly one dot
        and ",." not in joined
        and ".," not in joined
        and max(map(len, texts)) <= _MOST_DIGITS
    ):
        for price, _ in levels:
            if price[0] == "0" and is_zero(price):
                raise Unparseable(f"not a price: {price[:40]!r}")
        return levels
    return [(price_text(price), size_text(size)) for price, size in levels]
