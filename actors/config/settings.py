"""What can be set: the model of a configuration, as one frozen tree."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from actors.config.words import undialable
from actors.model.events import Channel
from actors.model.instruments import canonical

Groups = dict[tuple[Channel, ...], list[str]]  # channels -> the symbols that they are wanted of

_DEMO_KEY: Final = "demo"  # no secret: simulated data on loopback


def _dialable(url: str) -> str:
    why = undialable(url)
    if why is not None:
        raise PydanticCustomError("url_unusable", "{why}", {"why": why})
    return url


_WsUrl = Annotated[str, Field(pattern=r"^wss?://[^\s/]+"), AfterValidator(_dialable)]
_RestUrl = Annotated[str, Field(pattern=r"^https?://[^\s/]+"), AfterValidator(_dialable)]
_MasterUrl = Annotated[str, Field(pattern=r"^wss?://[^\s/@]+(/[^\s]*)?$"), AfterValidator(_dialable)]


# What is beyond these is a slip of the pen, and some of it more than a clock, a queue or a log can hold.
_MOST_S: Final = 366 * 86_400.0
_MOST_COUNT: Final = 1_000_000
_MOST_KEPT: Final = 1 << 50  # bytes, on a disk or in Redis
_MOST_HELD: Final = 1 << 30  # bytes, in memory


class Section(BaseModel):
    """One table of the file: frozen, no key that it does not know, no number without end."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false for numbers, which pydantic takes for 1 and 0."""
        if isinstance(value, bool):
            annotation = cls.model_fields[info.field_name or ""].annotation
            kinds = set(get_args(annotation) or (annotation,))
            if int in kinds:
                raise PydanticCustomError("int_type", "a whole number")
            if float in kinds:
                raise PydanticCustomError("float_type", "a number")
        return value


def fields_of(model: object) -> Mapping[str, Any] | None:
    """Return name -> annotation of a section, or None for what is no section."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    return None


class RedisSettings(Section):
    """Where the state lives. ``url`` None: the embedded server on ``port``."""

    url: SecretStr | None = None
    url_file: Path | None = None
    port: int = Field(default=6391, ge=0, le=65535)
    prefix: str = Field(default="tl", min_length=1, max_length=100, pattern=r"^[^{}\s]+$")
    pubsub_prefix: str = Field(default="md", min_length=1, max_length=100, pattern=r"^[^{}\s*?\[\]]+$")


class StreamSettings(Section):
    """How entries are packed, leased and kept."""

    lease_ttl_s: float = Field(default=3.0, ge=0.2, le=60)
    linger_ms: float = Field(default=1.0, ge=0, le=1000)
    batch_frames: int = Field(default=256, ge=1, le=4096)
    batch_bytes: int = Field(default=64 * 1024, ge=1024, le=1024 * 1024)
    retention_s: float = Field(default=60.0, ge=1, le=_MOST_S)
    retention_bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024, le=_MOST_KEPT)


class BroadcasterSettings(Section):
    """The WebSocket server.

    Instance n listens on ``port`` + n - 1; with ``reuse_port`` all share ``port``.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=9001, ge=0, le=65535)
    reuse_port: bool = False
    max_clients: int = Field(default=1000, ge=1, le=_MOST_COUNT)
    max_clients_per_address: int = Field(default=200, ge=1, le=_MOST_COUNT)
    max_message_bytes: int = Field(default=16 * 1024, ge=1, le=_MOST_HELD)
    max_messages_per_s: float = Field(default=20, gt=0, le=_MOST_COUNT)
    max_subscriptions: int = Field(default=64, ge=1, le=_MOST_COUNT)  # of one client of the native protocol
    heartbeat_s: float = Field(default=5.0, gt=0, le=_MOST_S)
    slow_client_bytes: int = Field(default=1024 * 1024, ge=1, le=_MOST_HELD)
    slow_client_deadline_s: float = Field(default=5.0, gt=0, le=_MOST_S)
    origins: list[str] | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None


class ForwardVenueSettings(Section):
    """What of one venue goes to the master; None: all that its channels give, or the forwarder's own."""

    trades: list[str] | None = None
    books: list[str] | None = None
    tickers: list[str] | None = None
    depth: int | None = Field(default=None, ge=1, le=1000)
    update_interval_ms: int | None = Field(default=None, ge=10, le=3_600_000)

    @field_validator("trades", "books", "tickers")
    @classmethod
    def _canonical(cls, symbols: list[str] | None) -> list[str] | None:
        return None if symbols is None else [canonical(symbol) for symbol in symbols]


class ForwarderSettings(Section):
    """The way to a master service. With neither ``url`` nor ``demo`` the role idles.

    ``protocol``: ``ftsobest`` speaks to any master of FTSOBest's collector; ``acked`` to one that answers.
    ``demo``: no socket; every message goes to standard output. ``debug_log``: a ``[METRICS]`` line there
    every ten seconds, as FTSOBest's collector printed it.
    """

    enabled: bool = True
    url: _MasterUrl | None = None
    key: SecretStr | None = None
    key_file: Path | None = None
    protocol: Literal["ftsobest", "acked"] = "ftsobest"
    connections: int = Field(default=1, ge=1, le=256)
    depth: int = Field(default=20, ge=1, le=1000)
    update_interval_ms: int = Field(default=1000, ge=10, le=3_600_000)
    demo: bool = False
    debug_log: bool = False
    venues: dict[str, ForwardVenueSettings] = {}

    @property
    def active(self) -> bool:
        """Whether there is anything to forward to."""
        return self.enabled and (self.demo or self.url is not None)


class MasterSettings(Section):
    """The reference master. ``folder`` None: ``.tapeline/demo/master`` or ``.tapeline/live/master``.

    ``keys``: what a collector may log in with. ``fsync``: what an acknowledgement promises: ``always``
    that the batch is on the disk, ``everysec`` that it is within a second, ``no`` that the kernel has it.
    ``keep_bytes``: how much of each stream is kept, in whole files; None: everything.
    """

    enabled: bool = False
    host: str = "127.0.0.1"
    port: int = Field(default=8766, ge=0, le=65535)
    keys: list[SecretStr] | None = Field(default=None, min_length=1)
    keys_file: Path | None = None
    folder: Path | None = None
    fsync: Literal["always", "everysec", "no"] = "always"
    rotate_bytes: int = Field(default=64 * 1024 * 1024, ge=4096, le=_MOST_KEPT)
    rotate_s: float = Field(default=3600.0, ge=1, le=_MOST_S)
    keep_bytes: int | None = Field(default=None, ge=4096, le=_MOST_KEPT)
    max_connections: int = Field(default=256, ge=1, le=_MOST_COUNT)
    max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=_MOST_HELD)
    max_messages_per_s: float = Field(default=50_000, gt=0, le=_MOST_COUNT)
    tls_certificate: Path | None = None
    tls_key: Path | None = None


class SimulatorSettings(Section):
    """The local venues. ``events_per_s`` None: the market's own pace. ``venues`` None: those configured."""

    host: str = "127.0.0.1"
    port: int = Field(default=9700, ge=0, le=65535)
    seed: int = Field(default=1, ge=-(1 << 63), le=(1 << 63) - 1)
    events_per_s: float | None = Field(default=None, gt=0, le=_MOST_COUNT)
    venues: list[str] | None = Field(default=None, min_length=1)
    replay: Path | None = None  # serve the frames of this recording instead of the market


class LogSettings(Section):
    """What is logged. ``pretty`` None: where standard error is a terminal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    pretty: bool | None = None


class VenueSettings(Section):
    """One venue: what is wanted of it and how.

    ``channels`` None: all that the venue has. ``only``: channel -> the symbols it is wanted of, where that
    is not all of them. ``redundancy``: connections ("legs") that carry the same.
    ``symbols_per_connection`` None: as many as the venue allows. ``audit_s``: how often a book that nothing
    else proves is compared with the venue's own, s; 0 for never, None: as often as the venue's file says.
    """

    enabled: bool = True
    symbols: list[str] = Field(min_length=1)
    channels: list[Channel] | None = Field(default=None, min_length=1)
    only: dict[Channel, list[str]] = {}
    shards: int = Field(default=1, ge=1, le=64)
    redundancy: int = Field(default=1, ge=1, le=2)
    symbols_per_connection: int | None = Field(default=None, ge=1, le=10_000)
    audit_s: int | None = Field(default=None, ge=0, le=86_400)
    ws_url: _WsUrl | None = None
    rest_url: _RestUrl | None = None

    @field_validator("symbols")
    @classmethod
    def _canonical(cls, symbols: list[str]) -> list[str]:
        return [canonical(symbol) for symbol in symbols]

    @field_validator("only")
    @classmethod
    def _canonical_only(cls, only: dict[Channel, list[str]]) -> dict[Channel, list[str]]:
        return {channel: [canonical(symbol) for symbol in symbols] for channel, symbols in only.items()}

    @field_validator("ws_url", "rest_url")
    @classmethod
    def _no_slash(cls, url: str | None) -> str | None:
        return url if url is None else url.rstrip("/")

    def wants(self, channel: Channel, symbol: str) -> bool:
        """Return whether ``channel`` is wanted of ``symbol``, where the venue has it."""
        named = self.channels is None or channel in self.channels
        return named and (channel not in self.only or symbol in self.only[channel])

    def wanted(self, has: Iterable[Channel], symbols: Iterable[str]) -> Groups:
        """Return ``symbols`` by the channels that are wanted of them, of those that the venue ``has``.

        Symbols of which nothing is wanted are left out.
        """
        channels: list[Channel] = sorted(has)
        groups: Groups = {}
        for symbol in symbols:
            mine: tuple[Channel, ...] = tuple(channel for channel in channels if self.wants(channel, symbol))
            if mine:
                groups.setdefault(mine, []).append(symbol)
        return groups


class Settings(Section):
    """The whole configuration."""

    mode: Literal["demo", "live"]
    egress: str = Field(default="default", min_length=1, max_length=100, pattern=r"^[^{}:\s]+$")
    redis: RedisSettings = RedisSettings()
    streams: StreamSettings = StreamSettings()
    broadcaster: BroadcasterSettings = BroadcasterSettings()
    forwarder: ForwarderSettings = ForwarderSettings()
    master: MasterSettings = MasterSettings()
    simulator: SimulatorSettings = SimulatorSettings()
    log: LogSettings = LogSettings()
    venues: dict[str, VenueSettings]

    def forwarder_key(self) -> str:
        """Return the key to log in to the master with; a demo needs none of its own."""
        key = self.forwarder.key
        return key.get_secret_value() if key is not None else _DEMO_KEY if self.mode == "demo" else ""

    def master_keys(self) -> list[str]:
        """Return the keys that the master accepts; a demo needs none of its own."""
        if self.master.keys is not None:
            return [key.get_secret_value() for key in self.master.keys]
        return [_DEMO_KEY] if self.mode == "demo" else []

    def secrets(self) -> list[str]:
        """Return every secret text, for the log to strike out."""
        found = [self.broadcaster.token.get_secret_value()] if self.broadcaster.token else []
        found += [key.get_secret_value() for key in (self.forwarder.key, *(self.master.keys or ())) if key]
        if self.redis.url:
            found.append(urlsplit(self.redis.url.get_secret_value()).password or "")
        return [secret for secret in found if secret]
