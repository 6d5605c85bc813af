"""What every test may ask for: Redis servers that end with the test, and settings that name them."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal

import anyio
import pytest
import structlog
from redis_rig import Binary, Server

from actors.config import RedisSettings, Settings, StreamSettings, VenueSettings

# A file is one worker's: those that take longest go first, so that no worker is left alone with one.
LONGEST = (
    "test_chaos",
    "test_examples",
    "test_bench",
    "test_demo",
    "test_fire_faults",
    "test_fire_kills",
    "test_readme",
    "test_dashboards",
    "test_commands_live",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = in_time(item.obj, limit_s(item))


def limit_s(item: pytest.Item) -> float:
    """Return what pytest-timeout allows ``item``, and a little less."""
    marker = item.get_closest_marker("timeout")
    own = marker.args[0] if marker else item.config.getoption("timeout") or item.config.getini("timeout")
    return 0.9 * float(own)


def in_time(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Awaitable[None]]:
    """End a test that waits for ever: uvloop swallows what pytest-timeout's alarm raises in its callbacks."""

    @functools.wraps(test)
    async def limited(*args: object, **fixtures: object) -> None:
        with anyio.fail_after(seconds):
            await test(*args, **fixtures)

    return limited


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    """See that no test sets up the log of the whole process: loggers would keep a file that is closed."""
    yield
    assert not structlog.get_config()["cache_logger_on_first_use"], "log.setup was called and not undone"


StartServer = Callable[..., Server]


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[StartServer]:
    """``redis_server(binary="valkey", *more_arguments, password=None) -> Server``, started."""
    started: list[Server] = []

    def start(binary: Binary = "valkey", *args: str, password: str | None = None) -> Server:
        folder = tmp_path / f"redis-{len(started)}"
        folder.mkdir()
        server = Server(binary, folder, *args, password=password)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.close()


SettingsFor = Callable[..., Settings]


@pytest.fixture
def settings_for() -> SettingsFor:
    """``settings_for(server_or_url, venues={...}, mode="demo", **streams) -> Settings``."""

    def make(
        server: Server | str,
        venues: dict[str, VenueSettings] | None = None,
        mode: Literal["demo", "live"] = "demo",
        **streams: float,
    ) -> Settings:
        return Settings(
            mode=mode,
            redis=RedisSettings(url=server if isinstance(server, str) else server.url),
            streams=StreamSettings(**streams),
            venues=venues or {"binance": VenueSettings(symbols=["BTC-USDT"])},
        )

    return make
