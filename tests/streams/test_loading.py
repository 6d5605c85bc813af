"""A server that still loads its data is waited for: it says of itself meanwhile that it keeps none."""

from typing import Any

import pytest

from actors.streams import client as module
from actors.streams.client import connect
from actors.streams.errors import RedisUnusable

pytestmark = pytest.mark.redis


@pytest.fixture
def server(redis_server, monkeypatch):
    """Return a server that loads the first twice that it is asked; INFO as seen of Valkey and Redis."""
    left = [{"loading": 1, "aof_enabled": 0}] * 2
    info = module._info

    async def loading(client: Any, section: str) -> list[dict[str, Any]]:
        return [left.pop()] if section == "persistence" and left else await info(client, section)

    monkeypatch.setattr(module, "_info", loading)
    return redis_server()


async def test_a_server_that_loads_its_data_is_waited_for(server, settings_for):
    await (await connect(settings_for(server), "test", wait_s=5.0)).aclose()


async def test_a_server_that_loads_for_too_long_is_said_to_load(server, settings_for):
    with pytest.raises(RedisUnusable, match="still loads its data"):
        await connect(settings_for(server), "test", wait_s=0.0)
