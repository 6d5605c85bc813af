"""Every setting, read in one place: a TOML file, then ``TAPELINE_*`` environment, checked as a whole."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from actors.model.events import Channel


class ConfigError(Exception):
    """The configuration cannot be used; the message says key, reason and remedy. Exit code 2."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RedisSettings(_Section):
    """Where the state lives. ``url`` None: the embedded server on ``port``."""

    url: SecretStr | None = None
    port: int = 6391
    prefix: str = "tl"
    pubsub_prefix: str = "md"


class StreamSettings(_Section):
    """How entries are packed, leased and kept."""

    lease_ttl_s: float = Field(3.0, ge=0.2, le=60)
    linger_ms: float = Field(1.0, ge=0, le=1000)
    batch_frames: int = Field(256, ge=1, le=4096)
    batch_bytes: int = Field(64 * 1024, ge=1024, le=1024 * 1024)
    retention_s: float = Field(60.0, ge=1)
    retention_bytes: int = Field(256 * 1024 * 1024, ge=1024 * 1024)


class BroadcasterSettings(_Section):
    """The WebSocket server."""

    host: str = "127.0.0.1"
    port: int = 9001
    reuse_port: bool = False
    max_clients: int = 1000
    max_clients_per_address: int = 200
    max_message_bytes: int = 16 * 1024
    max_messages_per_s: float = 20
    slow_client_bytes: int = 1024 * 1024
    slow_client_deadline_s: float = 5.0
    origins: list[str] | None = None
    token: SecretStr | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None


class SimulatorSettings(_Section):
    """The local venues. ``events_per_s`` None: the market's own pace."""

    host: str = "127.0.0.1"
    port: int = 9700
    seed: int = 1
    events_per_s: float | None = None


class VenueSettings(_Section):
    """One venue: what is wanted of it and how."""

    enabled: bool = True
    symbols: list[str]
    channels: list[Channel] | None = None  # None: all that the venue has
    shards: int = Field(1, ge=1, le=64)
    redundancy: int = Field(1, ge=1, le=2)  # connections ("legs") that carry the same
    ws_url: str | None = None
    rest_url: str | None = None


class Settings(_Section):
    """The whole configuration."""

    mode: Literal["demo", "live"]
    egress: str = "default"
    redis: RedisSettings = RedisSettings()
    streams: StreamSettings = StreamSettings()
    broadcaster: BroadcasterSettings = BroadcasterSettings()
    simulator: SimulatorSettings = SimulatorSettings()
    venues: dict[str, VenueSettings]
