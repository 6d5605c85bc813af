"""Write a configuration file that a person goes on with: every key with what it is for."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from actors.config.describe import SECTIONS, TEXTS

_WIDE: Final = 100
_VALUES: Final = frozenset({"only"})  # tables that read best as dotted keys
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def toml(tree: Mapping[str, Any], head: Sequence[str] = (), hints: Mapping[str, str] | None = None) -> str:
    """Return ``tree`` as a commented TOML file.

    Args:
        tree: Tables of tables and values; a value is text, a number, a truth, a path or a list of text.
        head: Lines of comment at its head.
        hints: Table (``venues.binance``) -> lines to add to it as comments: what might be said there too.
    """
    lines = [*(f"# {line}".rstrip() for line in head), *([""] if head else [])]
    _Writer(lines, hints or {}).table(tree, ())
    return "\n".join(lines).strip() + "\n"


class _Writer:
    """The lines so far, and what was explained: what holds for every venue is said of the first."""

    def __init__(self, lines: list[str], hints: Mapping[str, str]) -> None:
        self._lines = lines
        self._hints = hints
        self._said: set[str] = set()

    def table(self, table: Mapping[str, Any], path: tuple[str, ...]) -> None:
        inner = {key: _as_table(of) for key, of in table.items() if _is_table(key, of)}
        values = {key: value for key, value in table.items() if key not in inner}
        hint = self._hints.get(".".join(path), "")
        if path and (values or hint):
            self._lines.append("")
            self._explain(SECTIONS, path)
            self._lines.append(f"[{'.'.join(map(_key, path))}]")
        for key, value in values.items():
            if value == {}:
                continue
            self._explain(TEXTS, (*path, key))
            self._lines += _entry(key, value)
        self._lines += [f"# {line}" for line in hint.splitlines()]
        for key, of in inner.items():
            self.table(of, (*path, key))

    def _explain(self, texts: Mapping[str, str], path: tuple[str, ...]) -> None:
        text = _text(texts, path)
        if text is not None and text not in self._said:
            self._said.add(text)
            self._lines.append(f"# {text}")


def _is_table(key: str, value: object) -> bool:
    return isinstance(value, Mapping) and key not in _VALUES


def _as_table(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value)


def _entry(key: str, value: object) -> list[str]:
    if key in _VALUES:
        return [f"{_key(key)}.{_key(name)} = {_value(of)}" for name, of in _as_table(value).items()]
    return [f"{_key(key)} = {_value(value)}"]


def _text(texts: Mapping[str, str], path: tuple[str, ...]) -> str | None:
    """Return what is said of ``path``, or of the one that its names stand for."""
    for of in (path, (*path[:1], "*", *path[2:]), (*path[:2], "*", *path[3:])):
        if (text := texts.get(".".join(of))) is not None:
            return text
    return None


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)


def _value(value: object) -> str:
    if isinstance(value, list):
        items = [_value(item) for item in cast("list[object]", value)]
        line = f"[{', '.join(items)}]"
        return line if len(line) <= _WIDE else "[\n" + "".join(f"    {row},\n" for row in _rows(items)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # A TOML string is a JSON string, but for the one character that JSON need not escape.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _rows(items: Sequence[str]) -> list[str]:
    rows: list[str] = []
    for item in items:
        if rows and len(rows[-1]) + len(item) + 2 <= _WIDE:
            rows[-1] += f", {item}"
        else:
            rows.append(item)
    return rows


def put(file: Path, text: str, *, force: bool, secret: bool = False) -> None:
    """Write ``text`` to a file that is not there yet, or is to be replaced.

    Raises:
        FileExistsError: It is there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if force:
        file.unlink(missing_ok=True)
    file.touch(mode=0o600 if secret else 0o644, exist_ok=False)
    file.write_text(text, encoding="utf-8")
