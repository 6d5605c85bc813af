"""What is wrong with a value, in words that say what to write instead."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

_OURS: Final = {  # pydantic's type of an error -> what must be
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a table"),
    "list_type": "must be a list",
    "string_type": "must be text in quotes",
    "too_short": "must name at least {min_length}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
}


class Problem(NamedTuple):
    """One fault: which key (as a path), what is wrong with it and what to do."""

    path: tuple[str, ...]
    says: str


def nearest(word: str, choices: Sequence[str]) -> str:
    """Return ``; did you mean "x"?`` for the choice most like ``word``, or nothing."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def short(given: object) -> str:
    """Return ``given`` as Python writes it, cut where it is long."""
    text = repr(given)
    return text if len(text) <= 60 else text[:57] + "..."


def plain(error: Mapping[str, Any], *, show: bool = True) -> str:
    """Return one of pydantic's errors. ``show``: the value may be shown; whole tables and lists never are."""
    ours = _OURS.get(error["type"])
    if ours is not None:
        says = ours.format(**error.get("ctx", {}))
    else:
        says = str(error["msg"])
        says = f"{says[0].lower()}{says[1:]}"
    given: object = error["input"]
    return f"{says}, not {short(given)}" if show and not isinstance(given, dict | list) else says
