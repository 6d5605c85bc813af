"""Read a TOML file, then ``TAPELINE_*`` environment, and check them as a whole.

``TAPELINE_PORT_OFFSET`` is applied here and nowhere else: the ports of ``Settings`` are the ones to bind.
``TAPELINE_VENUES`` enables the venues that it names, of those configured, and no other.
"""

import re
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final, NamedTuple, Union, cast, get_args, get_origin

import msgspec
from pydantic import ValidationError

from actors.config import ftsobest
from actors.config.judge import judge, judge_venues, venue_tables
from actors.config.settings import (
    BroadcasterSettings,
    MasterSettings,
    RedisSettings,
    Settings,
    SimulatorSettings,
    fields_of,
)
from actors.config.words import Problem, beyond, nearest, plain, printable

DEFAULT_PATH: Final = Path("config/tapeline.toml")
_PREFIX: Final = "TAPELINE_"
_MOST_DEEP: Final = 50  # chosen: no setting lies below five tables
OFFSET: Final = "TAPELINE_PORT_OFFSET"
ONLY: Final = "TAPELINE_VENUES"
_OF_MAKE: Final = "DEMO_VENUES"  # what a person sets for `make demo`, which sets the other
_MISSING: Final = {  # what to write
    "mode": ': write mode = "live" or mode = "demo"',
    "venues": ": write [venues.<name>] with its symbols",
    "symbols": ': write symbols = ["BTC-USDT"]',
}
_EMPTY: Final = {  # what to write instead of an empty list
    "symbols": ': write symbols = ["BTC-USDT"], or enabled = false',
    "channels": ": leave it out for all that the venue has",
    "venues": ": leave it out for those configured",
}
_CHARACTERS: Final = {  # key -> what may not be in its text
    "egress": "{ } : or a blank",
    "prefix": "{ } or a blank",
    "pubsub_prefix": "{ } * ? [ ] or a blank",
}
_FOR_PROCESSES: Final = {  # TAPELINE_ names that are no settings
    "TAPELINE_CONFIG",  # the file, where no --config says so
    OFFSET,
    ONLY,
    "TAPELINE_LIFELINE",  # supervisor to actor: the pipe whose end means that it is gone
    "TAPELINE_RESTARTS",  # supervisor to actor: how often it was started again
    "TAPELINE_GUIDE",  # demo and up to supervisors: the process that all hangs on
}


_SECRETS: Final = {  # key -> how it may be given
    ("redis", "url"): "url_file, or REDIS_URL in the environment",
    ("broadcaster", "token"): "token_file, or TAPELINE_BROADCASTER__TOKEN",
    ("forwarder", "key"): "key_file, or TAPELINE_FORWARDER__KEY",
    ("master", "keys"): "keys_file (one a line), or TAPELINE_MASTER__KEYS",
}


class ConfigError(Exception):
    """The configuration cannot be used; the message says key, reason and remedy. Exit code 2."""


class _Sources(NamedTuple):
    """Where each key was set: the file's line or the variable's name."""

    file: str
    lines: Mapping[tuple[str, ...], int]
    variables: Mapping[tuple[str, ...], str]

    def place(self, path: tuple[str, ...]) -> str:
        """Return where ``path``, or the nearest thing around it, was set."""
        if path in {(OFFSET,), (ONLY,), (_OF_MAKE,)}:
            return "environment"
        for length in range(len(path), 0, -1):
            if (variable := self.variables.get(path[:length])) is not None:
                return variable
            if (line := self.lines.get(path[:length])) is not None:
                return f"{self.file}:{line}"
        return self.file


class Loaded(NamedTuple):
    """The settings, and what of their file was passed over, a line each."""

    settings: Settings
    notes: Sequence[str]


class _Tree(NamedTuple):
    """A file's keys and values, and where they stand."""

    tree: dict[str, Any]
    lines: Mapping[tuple[str, ...], int]
    notes: Sequence[str]
    problems: list[Problem]


def load(path: Path | None, env: Mapping[str, str]) -> Settings:
    """Return the settings of ``path``, as ``read`` does."""
    return read(path, env).settings


def read(path: Path | None, env: Mapping[str, str]) -> Loaded:
    """Return the settings of ``path`` (None: ``TAPELINE_CONFIG``, else config/tapeline.toml) under ``env``.

    A file whose name ends with .json is FTSOBest's.

    Raises:
        ConfigError: The message has a line for every fault: where it stands, its key, the reason, the
            nearest valid choice. No secret is in it.
    """
    file = file_of(path, env)
    tree, lines, notes, problems = _tree_of(file)
    variables = _overlay(tree, env, problems)
    sources = _Sources(str(file), lines, variables)
    if ONLY in env:
        _narrow(tree, env, problems)
    offset = _offset_of(env, problems)
    if offset:
        _shift(tree, offset, problems)
    for section, key in _SECRETS:
        _read_secret(tree, section, key, problems)
    if url := env.get("REDIS_URL"):
        _section(tree, "redis")["url"] = url
    mistyped: list[Problem] = []
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as e:
        mistyped = [_told(error) for error in e.errors(include_url=False, include_context=True)]
        settings = _sound(tree, mistyped)
    problems += [*mistyped, *judge_venues(tree)]
    if settings is not None:
        problems += [found for found in judge(settings) if not any(_meet(found, of) for of in mistyped)]
    if problems or settings is None:
        raise ConfigError(_message(problems, sources))
    return Loaded(settings, notes)


def _sound(tree: dict[str, Any], mistyped: Sequence[Problem]) -> Settings | None:
    """Return what can be judged of ``tree``: all but the values that are of a wrong type.

    A port among them is 0, which is nobody's. None where the mode is among them: all else hangs on it.
    """
    rest = deepcopy(tree)
    for path, _ in mistyped:
        match path:
            case ("mode", *_):
                return None
            case ("venues", name, "symbols", *_):
                venue_tables(rest).pop(name, None)
                _section(rest, "venues").pop(name, None)
                _section(rest, "forwarder", "venues").pop(name, None)
            case ("venues",):
                rest["venues"] = {}
            case (section, "port"):
                _section(rest, section)["port"] = 0
            case _:
                _take_out(rest, path)
    try:
        return Settings.model_validate(rest)
    except ValidationError:
        return None


def _take_out(tree: dict[str, Any], path: Sequence[str]) -> None:
    """Take out what stands at ``path``, whole where it is a list with something wrong in it."""
    for part in path:
        inner: object = tree.get(part)
        if not isinstance(inner, dict) or part == path[-1]:
            tree.pop(part, None)
            return
        tree = cast("dict[str, Any]", inner)


def _meet(one: Problem, other: Problem) -> bool:
    """Tell whether one is about the same key as the other, or about something around it."""
    return all(a == b for a, b in zip(one.path, other.path, strict=False))


def file_of(path: Path | None, env: Mapping[str, str]) -> Path:
    """Return the file to read."""
    return Path(env.get("TAPELINE_CONFIG", DEFAULT_PATH)) if path is None else path


def _tree_of(file: Path) -> _Tree:
    text = text_of(file)
    if file.suffix == ".json":
        try:
            found = ftsobest.read(str(file), text)
        except ftsobest.Unusable as e:
            raise ConfigError(str(e)) from e
        return _Tree(found.tree, found.lines, found.notes, [])
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(_at_line(str(file), str(e))) from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{file}: {beyond(e)}") from e
    if _is_deep(tree):
        raise ConfigError(f"{file}: {beyond(RecursionError())}")
    return _Tree(tree, _lines(text), (), [*_secrets_in_file(tree)])


def _is_deep(tree: object) -> bool:
    """Tell whether something nests deeper than any setting: dotted keys do so without a bracket."""
    inside = [tree]
    for _ in range(_MOST_DEEP):
        inside = [part for each in inside for part in _parts_of(each)]
    return bool(inside)


def _parts_of(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def text_of(file: Path) -> str:
    """Return what is in ``file``.

    Raises:
        ConfigError: It cannot be read; names what lies beside it.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as e:
        beside = sorted(str(other) for other in file.parent.glob("*.toml") if other.name != "pyproject.toml")
        raise ConfigError(
            f"{file}: no such file{nearest(str(file), beside)}"
            + (f" (beside it: {', '.join(beside)})" if beside else "")
            + "; name one with --config or TAPELINE_CONFIG"
        ) from e
    except OSError as e:
        raise ConfigError(f"{file}: cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{file}: is not UTF-8 text (byte {e.start})") from e


def _at_line(file: str, says: str) -> str:
    found = re.search(r" \(at line (\d+), column \d+\)$", says)
    if found is None:
        return f"{file}: not TOML: {says}"
    return f"{file}:{found[1]}: not TOML: {says[: found.start()]}"


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line of every table head and key, as far as a glance tells (tomllib keeps none)."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"\s*\[+\s*([^\[\]]+?)\s*\]+\s*(#.*)?$", line):
            table = _parts(head[1])
            found.setdefault(table, number)
        elif key := re.match(r"""\s*([\w."' -]+?)\s*=""", line):
            found.setdefault((*table, *_parts(key[1])), number)
    return found


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _section(tree: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the table at ``names``, made where absent; a detached one where something else stands."""
    for name in names:
        inner: object = tree.setdefault(name, {})
        tree = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}
    return tree


def _overlay(
    tree: dict[str, Any], env: Mapping[str, str], problems: list[Problem]
) -> dict[tuple[str, ...], str]:
    """Put ``TAPELINE_A__B`` over ``a.b`` of the tree; return which variable set which key."""
    variables: dict[tuple[str, ...], str] = {}
    for name in sorted(env):
        if not name.startswith(_PREFIX) or name in _FOR_PROCESSES:
            continue
        path = tuple(name.removeprefix(_PREFIX).lower().split("__"))
        annotation = _annotation(path)
        variables[path] = name
        if annotation is None:
            near = nearest(name, [*_variables(tree), *_FOR_PROCESSES])
            problems.append(Problem(path, f"no setting has this name{near}"))
        else:
            _section(tree, *path[:-1])[path[-1]] = _value(env[name], annotation)
    return variables


def _annotation(path: tuple[str, ...]) -> object | None:
    """Return the type of the value at ``path``, None where there is none or a whole section."""
    at: object = Settings
    for part in path:
        fields = fields_of(at)
        if fields is not None:
            at = fields.get(part)
        elif get_origin(at) is dict:
            at = get_args(at)[1]
        else:
            return None
    return None if fields_of(at) is not None or get_origin(at) is dict else at


def _variables(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield the name of every variable that sets something."""

    def under(model: object, path: tuple[str, ...]) -> Iterator[str]:
        fields = fields_of(model)
        if fields is not None:
            for name, annotation in fields.items():
                yield from under(annotation, (*path, name))
        elif get_origin(model) is dict:
            names, inner = get_args(model)
            venues: object = tree.get("venues") if names is str else dict.fromkeys(get_args(names))
            for name in cast("dict[str, Any]", venues) if isinstance(venues, dict) else ():
                yield from under(inner, (*path, name))
        else:
            yield _PREFIX + "__".join(path).upper()

    yield from under(Settings, ())


def _value(text: str, annotation: object) -> object:
    """Return what pydantic should see: a list for a list (commas, or JSON), else the text itself."""
    options = get_args(annotation) if get_origin(annotation) in {Union, types.UnionType} else (annotation,)
    if not any(get_origin(option) is list for option in options):
        return text
    if text.lstrip().startswith("["):
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _narrow(tree: Mapping[str, Any], env: Mapping[str, str], problems: list[Problem]) -> None:
    """Enable the venues named, with commas between, and disable the others."""
    tables = venue_tables(tree)
    named = [name.strip() for name in env[ONLY].split(",") if name.strip()]
    variable = _OF_MAKE if env.get(_OF_MAKE) == env[ONLY] else ONLY
    if not named:
        says = f"names no venue: name some of those configured ({', '.join(tables)}), or leave it out"
        problems.append(Problem((variable,), says))
    for name in named:
        if name not in tables:
            near = nearest(name.lower(), [*tables])
            problems.append(Problem((variable,), f'"{name}" is not configured{near} ({", ".join(tables)})'))
    for name, table in tables.items():
        table["enabled"] = name in named


def _offset_of(env: Mapping[str, str], problems: list[Problem]) -> int:
    text = env.get(OFFSET, "0")
    if re.fullmatch(r"\d{1,5}", text):
        return int(text)
    problems.append(Problem((OFFSET,), f"must be a number from 0 to 99999, not {text!r}"))
    return 0


def _shift(tree: dict[str, Any], offset: int, problems: list[Problem]) -> None:
    """Add ``offset`` to every port of ours, and to the URLs that lead to our simulator and our master."""
    ports: dict[str, int] = {}
    for name, model in (
        ("redis", RedisSettings),
        ("broadcaster", BroadcasterSettings),
        ("master", MasterSettings),
        ("simulator", SimulatorSettings),
    ):
        section = _section(tree, name)
        port: object = section.get("port", model.model_fields["port"].default)
        if isinstance(port, str) and port.isdecimal():
            port = int(port)
        if not isinstance(port, int):
            continue
        ports[name] = port
        section["port"] = port + offset
        if port <= 65535 < port + offset:
            problems.append(Problem((name, "port"), f"{port} + {OFFSET} {offset} is above 65535"))
            section["port"] = port
    for venue in venue_tables(tree).values():
        for key in ("ws_url", "rest_url"):
            _shift_url(venue, key, ports.get("simulator", 0), offset)
    _shift_url(_section(tree, "forwarder"), "url", ports.get("master", 0), offset)


def _shift_url(table: dict[str, Any], key: str, port: int, offset: int) -> None:
    url: object = table.get(key)
    if isinstance(url, str):
        table[key] = re.sub(
            rf"^(\w+://(?:127\.0\.0\.1|localhost)):{port}(?=/|$)", rf"\1:{port + offset}", url
        )


def _secrets_in_file(tree: Mapping[str, Any]) -> Iterator[Problem]:
    for (section, key), how in _SECRETS.items():
        table: object = tree.get(section)
        given: object = cast("dict[str, object]", table).get(key) if isinstance(table, dict) else None
        if (section, key) != ("redis", "url"):
            if given is not None:
                yield Problem((section, key), f"is a secret and may not stand here: use {how}")
        elif isinstance(given, str) and "@" in given:
            yield Problem((section, key), f"holds a password, which may not stand here: use {how}")


def _read_secret(tree: dict[str, Any], section: str, key: str, problems: list[Problem]) -> None:
    """Read ``<key>_file`` into ``<key>`` where only the file is named; ``keys`` are one a line."""
    table = _section(tree, section)
    file: object = table.get(f"{key}_file")
    if not isinstance(file, str) or key in table:
        return
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        problems.append(Problem((section, f"{key}_file"), f"{file}: cannot be read: {why}"))
        return
    table[key] = text.split("\n") if key == "keys" else text
    if not text:
        problems.append(Problem((section, f"{key}_file"), f"{file}: is empty"))


def _told(error: Mapping[str, Any]) -> Problem:
    """Return one of pydantic's errors in our words. Inputs of secret keys are never shown."""
    path = tuple(str(part) for part in error["loc"] if part != "[key]")  # pydantic's mark of a table's key
    context: dict[str, Any] = error.get("ctx", {})
    given: object = error["input"]
    if path[:2] in _SECRETS:
        return Problem(path, "is not usable text")
    match error["type"]:
        case "missing":
            says = f"is missing{_MISSING.get(path[-1], '')}"
        case "extra_forbidden":
            known = _fields_at(path[:-1])
            return Problem(path, f"no such setting{nearest(path[-1], known)} ({', '.join(known)})")
        case "literal_error":
            near = nearest(str(given), re.findall(r"'([^']+)'", str(context["expected"])))
            return Problem(path, f"must be {context['expected']}, not {given!r}{near}")
        case "string_pattern_mismatch" if path[-1].endswith("url"):
            schemes = "http:// or https://" if path[-1] == "rest_url" else "ws:// or wss://"
            return Problem(path, f"must begin with {schemes} and name a host, not {given!r}")
        case "string_pattern_mismatch" if path[-1] in _CHARACTERS:
            says = f"may not hold {_CHARACTERS[path[-1]]}, as {given!r} does"
        case "url_unusable":
            says = f"{given!r} {context['why']}"
        case "too_short" if path[-1] in _EMPTY:
            says = f"{plain(error)}{_EMPTY[path[-1]]}"
        case _:
            says = plain(error)
    return Problem(path, says)


def _fields_at(path: tuple[str, ...]) -> list[str]:
    at: object = Settings
    for part in path:
        fields = fields_of(at)
        at = fields.get(part) if fields is not None else get_args(at)[1]
    return list(fields_of(at) or ())


def _message(problems: Sequence[Problem], sources: _Sources) -> str:
    lines: dict[str, None] = {}  # in order, each once
    for path, says in problems:
        key = ".".join(path)
        lines[printable(f"{sources.place(path)}: {key + ': ' if key else ''}{says}")] = None
    return "\n".join(lines)
