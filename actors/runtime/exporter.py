"""Metrics over HTTP on loopback, and how late the event loop runs."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager

import anyio
from prometheus_client import ProcessCollector, start_http_server

from actors.config import ConfigError
from actors.runtime.metrics import Metrics

HOST = "127.0.0.1"
_PROBE_S = 0.25  # chosen: fine enough to see a stall, four wake-ups a second


@contextmanager
def exporting(metrics: Metrics, role: str) -> Generator[str | None]:
    """Serve ``metrics`` while the block runs; yield ``host:port``.

    The port is ``PORT`` of the environment, as honcho hands it out (7400 + 100 a Procfile line + 1 an
    instance); ``0`` takes a free one, and without ``PORT`` nothing is served and None is yielded.

    Raises:
        ConfigError: The port is taken, or ``PORT`` is no port.
    """
    metrics.stand(role)
    metrics.count("tapeline_restarts_total", int(os.environ.get("TAPELINE_RESTARTS", "0")), role=role)
    text = os.environ.get("PORT")
    if text is None:
        yield None
        return
    if not text.isdecimal() or int(text) > 65535:
        raise ConfigError(f"PORT is {text!r}: it must be a port number (0: any free one), or not be set")
    try:
        server, thread = start_http_server(int(text), HOST, metrics.registry)
    except OSError as e:
        raise ConfigError(
            f"the metrics of {role} cannot listen on {HOST}:{text} ({e.strerror}). Another program has the "
            "port, perhaps another Tapeline: stop it, or set TAPELINE_PORT_OFFSET (or honcho's -p)"
        ) from e
    ProcessCollector(registry=metrics.registry)
    try:
        yield f"{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def watch_loop(metrics: Metrics, role: str) -> None:
    """Keep ``tapeline_loop_lag_seconds`` true; runs until cancelled."""
    while True:
        due = time.monotonic() + _PROBE_S
        await anyio.sleep(_PROBE_S)
        metrics.gauge("tapeline_loop_lag_seconds", max(0.0, time.monotonic() - due), role=role)
