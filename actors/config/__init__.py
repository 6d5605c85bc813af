"""Every setting, read in one place: a TOML file, then ``TAPELINE_*`` environment, checked as a whole.

``load`` finds all faults at once. Secrets come from the environment or from a file of their own
(``token_file``, ``url_file``), never from the TOML file, and no message shows one.
"""

from actors.config.reader import ConfigError, load
from actors.config.settings import (
    BroadcasterSettings,
    LogSettings,
    RedisSettings,
    Settings,
    SimulatorSettings,
    StreamSettings,
    VenueSettings,
)

__all__ = [
    "BroadcasterSettings",
    "ConfigError",
    "LogSettings",
    "RedisSettings",
    "Settings",
    "SimulatorSettings",
    "StreamSettings",
    "VenueSettings",
    "load",
]
