"""Every setting, read in one place: a TOML file, then ``TAPELINE_*`` environment, checked as a whole.

``load`` finds all faults at once. Secrets come from the environment or from a file of their own
(``token_file``, ``url_file``, ``key_file``, ``keys_file``), never from the TOML file; no message shows one.
"""

from actors.config.reader import ConfigError, load
from actors.config.settings import (
    BroadcasterSettings,
    ForwarderSettings,
    ForwardVenueSettings,
    LogSettings,
    MasterSettings,
    RedisSettings,
    Settings,
    SimulatorSettings,
    StreamSettings,
    VenueSettings,
)

__all__ = [
    "BroadcasterSettings",
    "ConfigError",
    "ForwardVenueSettings",
    "ForwarderSettings",
    "LogSettings",
    "MasterSettings",
    "RedisSettings",
    "Settings",
    "SimulatorSettings",
    "StreamSettings",
    "VenueSettings",
    "load",
]
