"""What every test may ask for: Redis servers that end with the test, and settings that name them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
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


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


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
