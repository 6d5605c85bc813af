"""The one port: ``/<venue>/...`` speaks as that venue, ``/control/...`` answers about the truth."""

import errno
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from aiohttp import web

from actors.config import ConfigError
from actors.simulator.connection import CLOSE_S
from actors.simulator.control import routes
from actors.simulator.simulation import Simulator


@asynccontextmanager
async def serving(simulator: Simulator, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[int, None]:
    """Serve while the block runs; yield the port, which is any free one for ``port`` 0.

    Raises:
        ConfigError: The port is in use, or the address is none of ours.
    """
    app = web.Application()
    app.add_routes(routes(simulator))
    app.router.add_route("*", "/{venue}", simulator.handle)  # of a venue whose socket has no path
    app.router.add_route("*", "/{venue}/{path:.*}", simulator.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as e:
            raise ConfigError(_cannot_listen(host, port, e)) from e
        async with anyio.create_task_group() as tasks:
            bound = int(runner.addresses[0][1])
            for name, venue in simulator.venues.items():
                venue.house.address = f"{host}:{bound}/{name}"
            tasks.start_soon(simulator.run)
            try:
                yield bound
            finally:
                with anyio.CancelScope(shield=True):
                    await simulator.stop()
                tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


def _cannot_listen(host: str, port: int, e: OSError) -> str:
    if e.errno == errno.EADDRINUSE:
        return (
            f"the simulator cannot listen on {host}:{port}: the port is in use, perhaps by another Tapeline. "
            "Stop it, or set simulator.port (TAPELINE_PORT_OFFSET shifts all ports)"
        )
    return f"the simulator cannot listen on {host}:{port} ({e.strerror or e}): set simulator.host or .port"
