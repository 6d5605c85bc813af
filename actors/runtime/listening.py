"""What every listening socket of ours needs: room for clients, TLS, a plain word when it cannot be had."""

import errno
import resource
import ssl
import time
from pathlib import Path
from typing import Any, Final

import structlog

from actors.config import ConfigError

log: Any = structlog.get_logger()

_OTHER_FILES: Final = 128  # chosen: Redis connections, the listening socket, logs


class Rate:
    """A token bucket: ``per_s`` on average, a second's worth at once."""

    __slots__ = ("_at", "_left", "_per_s")

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = max(1.0, per_s)
        self._at = time.monotonic()

    def take(self) -> bool:
        """Take one; False when there was none left."""
        return self.owe() == 0

    def owe(self, n: float = 1) -> float:
        """Take ``n``, there or not; return for how many seconds to pause because of it."""
        now = time.monotonic()
        self._left = min(max(1.0, self._per_s), self._left + (now - self._at) * self._per_s) - n
        self._at = now
        return max(0.0, -self._left / self._per_s)


def make_room(sockets: int, setting: str) -> None:
    """Raise the soft limit of open files so that the cap on clients (``setting``) is what is met first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sockets + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            log.warning("few_files_allowed", allowed=most, wanted=wanted, setting=setting)


def tls_context(section: str, certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return how a server of ``section`` shows who it is, None where it does not.

    Raises:
        ConfigError: The files cannot be used.
    """
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as e:  # ssl.SSLError is one
        raise ConfigError(
            f"{section}.tls_certificate {certificate} with {section}.tls_key {key or '(none)'} cannot be "
            f"used: {e.strerror or e}"
        ) from e
    return context


def cannot_listen(section: str, host: str, port: int, e: OSError) -> ConfigError:
    """Return what to say when the port of ``section`` cannot be had."""
    where = f"{host}:{port}"
    if e.errno == errno.EADDRINUSE:
        return ConfigError(
            f"the {section} cannot listen on {where}: the port is in use, perhaps by another Tapeline. "
            f"Stop it, or set {section}.port (TAPELINE_PORT_OFFSET shifts all ports)"
        )
    return ConfigError(
        f"the {section} cannot listen on {where} ({e.strerror or e}): set {section}.host or .port"
    )
