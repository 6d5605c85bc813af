"""Local venues that a client cannot tell from real ones, over one market whose truth is known."""

from actors.simulator.role import run

__all__ = ["run"]
