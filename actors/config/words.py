"""What is wrong with a value, in words that say what to write instead."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

_OURS: Final = {  # pydantic's type of an error -> what must be
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a table"),
    "int_parsing_size": "must be a smaller number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "path_type": "must be the path of a file, in quotes",
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


def printable(text: str) -> str:
    """Return ``text`` as one line that a terminal shows and does not obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def beyond(error: ValueError | RecursionError) -> str:
    """Return why a file of the right form cannot be read all the same, as its reader's error tells."""
    if isinstance(error, RecursionError):
        return "tables or lists nest too deep: no setting lies so deep"
    if isinstance(error, UnicodeError):
        return (
            "holds half a character (\\ud800 to \\udfff without its other half): write the character itself"
        )
    return "holds a number that is too long to be read: write a smaller one"


def undialable(url: str) -> str | None:
    """Return why nobody can connect to ``url``, and what to write; None where one can."""
    if any(character.isspace() or not character.isprintable() for character in url):
        return "holds a blank: take it out, or write %20 in a path"
    try:
        split = urlsplit(url)
        host = split.hostname or ""
    except ValueError:
        return "has a broken host: write an IPv6 address as [::1]"
    try:
        port = split.port
    except ValueError:
        port = 0
    if port == 0:
        return "has no port that can be: write a number from 1 to 65535 after the host's colon, or no colon"
    try:
        host.encode("idna")
    except UnicodeError:
        host = ""
    return None if host else "names no host: write one, such as 127.0.0.1 or venue.example"


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
