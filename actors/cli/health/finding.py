"""What an examination finds."""

from typing import Literal

import msgspec

Level = Literal["ok", "warn", "bad"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``bad``: it will not work so; ``warn``: it may not, or not for long."""

    about: str
    level: Level
    says: str
    remedy: str = ""


def ok(about: str, says: str) -> Finding:
    """Return that something is as it must be."""
    return Finding(about, "ok", says)


def warn(about: str, says: str, remedy: str) -> Finding:
    """Return that something may not work, or not for long."""
    return Finding(about, "warn", says, remedy)


def bad(about: str, says: str, remedy: str) -> Finding:
    """Return that something does not work."""
    return Finding(about, "bad", says, remedy)
