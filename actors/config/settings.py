"""What can be set: the model of a configuration, as one frozen tree."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from actors.model.events import Channel
from actors.model.instruments import canonical


class Section(BaseModel):
    """One table of the file: frozen, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RedisSettings(Section):
    """Where the state lives. ``url`` None: the embedded server on ``port``."""

    url: SecretStr | None = None
    url_file: Path | None = None
    port: int = Field(default=6391, ge=0, le=65535)
    prefix: str = Field(default="tl", min_length=1, pattern=r"^[^{}\s]+$")
    pubsub_prefix: str = Field(default="md", min_length=1, pattern=r"^[^{}\s*?\[\]]+$")


class StreamSettings(Section):
    """How entries are packed, leased and kept."""

    lease_ttl_s: float = Field(default=3.0, ge=0.2, le=60)
    linger_ms: float = Field(default=1.0, ge=0, le=1000)
    batch_frames: int = Field(default=256, ge=1, le=4096)
    batch_bytes: int = Field(default=64 * 1024, ge=1024, le=1024 * 1024)
    retention_s: float = Field(default=60.0, ge=1)
    retention_bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)


class BroadcasterSettings(Section):
    """The WebSocket server.

    Instance n listens on ``port`` + n - 1; with ``reuse_port`` all share ``port``.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=9001, ge=0, le=65535)
    reuse_port: bool = False
    max_clients: int = Field(default=1000, ge=1)
    max_clients_per_address: int = Field(default=200, ge=1)
    max_message_bytes: int = Field(default=16 * 1024, ge=1)
    max_messages_per_s: float = Field(default=20, gt=0)
    slow_client_bytes: int = Field(default=1024 * 1024, ge=1)
    slow_client_deadline_s: float = Field(default=5.0, gt=0)
    origins: list[str] | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None


class SimulatorSettings(Section):
    """The local venues. ``events_per_s`` None: the market's own pace."""

    host: str = "127.0.0.1"
    port: int = Field(default=9700, ge=0, le=65535)
    seed: int = 1
    events_per_s: float | None = Field(default=None, gt=0)
    replay: Path | None = None  # serve the frames of this recording instead of the market


class LogSettings(Section):
    """What is logged. ``pretty`` None: where standard error is a terminal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    pretty: bool | None = None


class VenueSettings(Section):
    """One venue: what is wanted of it and how."""

    enabled: bool = True
    symbols: list[str] = Field(min_length=1)
    channels: list[Channel] | None = Field(default=None, min_length=1)  # None: all that the venue has
    shards: int = Field(default=1, ge=1, le=64)
    redundancy: int = Field(default=1, ge=1, le=2)  # connections ("legs") that carry the same
    ws_url: str | None = Field(default=None, pattern=r"^wss?://[^\s/]+")
    rest_url: str | None = Field(default=None, pattern=r"^https?://[^\s/]+")

    @field_validator("symbols")
    @classmethod
    def _canonical(cls, symbols: list[str]) -> list[str]:
        return [canonical(symbol) for symbol in symbols]

    @field_validator("ws_url", "rest_url")
    @classmethod
    def _no_slash(cls, url: str | None) -> str | None:
        return url if url is None else url.rstrip("/")


class Settings(Section):
    """The whole configuration."""

    mode: Literal["demo", "live"]
    egress: str = Field(default="default", min_length=1, pattern=r"^[^{}:\s]+$")
    redis: RedisSettings = RedisSettings()
    streams: StreamSettings = StreamSettings()
    broadcaster: BroadcasterSettings = BroadcasterSettings()
    simulator: SimulatorSettings = SimulatorSettings()
    log: LogSettings = LogSettings()
    venues: dict[str, VenueSettings]

    def secrets(self) -> list[str]:
        """Return every secret text, for the log to strike out."""
        found = [self.broadcaster.token.get_secret_value()] if self.broadcaster.token else []
        if self.redis.url:
            found.append(urlsplit(self.redis.url.get_secret_value()).password or "")
        return [secret for secret in found if secret]
