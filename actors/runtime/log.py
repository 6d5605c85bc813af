"""Logs: events with fields, pretty where a person reads, JSON where a program does.

Everywhere else: ``log = structlog.get_logger()`` and ``log.warning("gap", venue="kraken", expected=1041)``.
Repeats are rate-limited and counted, secrets are struck out whatever field they stand in.
"""

import logging
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

import orjson
import structlog

from actors.config import Settings

_WINDOW_S: Final = 10.0  # chosen: a person can read it, a storm cannot fill a disk
_MOST_WINDOW_S: Final = 60.0  # chosen: while it goes on, a line a minute
_IN_A_WINDOW: Final = 3
_MOST_KEYS: Final = 1024
_PASSWORD_IN_URL: Final = re.compile(r"(?<=://)[^/@\s]*@")
_SAME: Final = ("venue", "partition", "channel", "role", "reason")  # what makes two events alike

_Event = MutableMapping[str, Any]


class _Seen:
    """Events that are alike, in the present window."""

    __slots__ = ("dropped", "last", "passed", "start", "window_s")

    def __init__(self, start: float, window_s: float, last: _Event) -> None:
        self.start = start
        self.window_s = window_s
        self.last = dict(last)
        self.passed = 1
        self.dropped = 0


class Repeats:
    """Let the first few of alike events through a window, count the rest and say so afterwards.

    Of those that are the same in every field only the first. The windows of a storm grow.
    """

    def __init__(self, in_a_window: int = _IN_A_WINDOW, window_s: float = _WINDOW_S) -> None:
        self._in_a_window = in_a_window
        self._window_s = window_s
        self._seen: dict[tuple[object, ...], _Seen] = {}

    def __call__(self, _logger: object, level: str, event: _Event) -> _Event:
        """Drop the event, or return it with ``repeats``: how many alike were dropped before it."""
        key = (level, event.get("event"), *(str(event.get(name)) for name in _SAME))
        now = time.monotonic()
        seen = self._seen.pop(key, None)
        if seen is None or now - seen.start >= seen.window_s:
            self._begin(key, now, event, seen)
            if seen is not None and seen.dropped:
                event["repeats"] = seen.dropped
            return event
        self._seen[key] = seen  # the last again: those not heard of for longest are forgotten
        if seen.passed >= self._in_a_window or event == seen.last:
            seen.dropped += 1
            raise structlog.DropEvent
        seen.passed += 1
        seen.last = dict(event)
        return event

    def _begin(self, key: tuple[object, ...], now: float, event: _Event, before: _Seen | None) -> None:
        goes_on = before is not None and before.dropped and now - before.start < 2 * before.window_s
        window_s = min(2 * before.window_s, _MOST_WINDOW_S) if before and goes_on else self._window_s
        if len(self._seen) >= _MOST_KEYS:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = _Seen(now, window_s, event)


class Strike:
    """Strike secrets out of every text of an event: the ones it is given and any password in a URL."""

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = sorted((s for s in secrets if s), key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return ``text`` without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _PASSWORD_IN_URL.sub("***@", text) if "://" in text else text

    def _value(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.text(value if isinstance(value, str) else str(value))

    def __call__(self, _logger: object, _level: str, event: _Event) -> _Event:
        """Return the event with every value struck; what is no plain value becomes text."""
        return {name: self._value(value) for name, value in event.items()}


class _Forward(logging.Handler):
    """Pass what libraries log by the standard module on, so that it is struck and limited too."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), library=record.name)


def setup(role: str, settings: Settings, output: TextIO | None = None) -> None:
    """Set up logging of this process, once. ``output`` None: standard error."""
    out = sys.stderr if output is None else output
    pretty = settings.log.pretty if settings.log.pretty is not None else out.isatty()
    level = logging.getLevelNamesMapping()[settings.log.level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        Repeats(),
        structlog.processors.format_exc_info,
        Strike(settings.secrets()),
    ]
    if pretty:
        render = [structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=1, sort_keys=False)]
    else:
        render = [_stamp(role), structlog.processors.JSONRenderer(_dumps)]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_Forward()], force=True)


def _stamp(role: str) -> structlog.typing.Processor:
    utc = structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts")

    def stamp(logger: object, level: str, event: _Event) -> Mapping[str, Any]:
        head = {"level": event.pop("level", level), "event": event.pop("event", "")}
        return {**utc(logger, level, {}), "role": role, **head, **event}

    return stamp


def _dumps(event: object, **_: object) -> str:
    return orjson.dumps(event, default=str).decode()
