"""The connector: venues' sockets and REST into ``raw``; frames are never looked into."""

from actors.connector.role import run

__all__ = ["run"]
