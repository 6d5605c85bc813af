"""The scripts, read from their files beside this module, and how they are called.

By EVALSHA; where the server has forgotten them (restart, failover, SCRIPT FLUSH) once by EVAL, which
teaches it again.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from actors.streams.wire import Command, Hot

Argument = str | bytes | int | float


class Script:
    """One Lua script."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()  # what EVALSHA goes by

    def command(self, keys: Sequence[str], args: Sequence[Argument]) -> Command:
        """Return the call by name."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def taught(self, command: Command) -> Command:
        """Return the same call with the text in it, after a NoScriptError."""
        return ("EVAL", self.text, *command[2:])

    async def on(self, hot: Hot, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run it on a hot connection."""
        command = self.command(keys, args)
        try:
            return await hot.call(*command)
        except NoScriptError:
            return await hot.call(*self.taught(command))

    async def by(self, client: Redis, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run it by redis-py."""
        anything = cast("Any", client)
        try:
            return await anything.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await anything.eval(self.text, len(keys), *keys, *args)


def _read(name: str) -> Script:
    return Script((files("actors.streams") / name).read_text(encoding="utf-8"))


ACQUIRE: Final = _read("acquire.lua")
ADVANCE: Final = _read("advance.lua")
APPEND: Final = _read("append.lua")
COMMIT: Final = _read("commit.lua")
TRIM: Final = _read("trim.lua")
