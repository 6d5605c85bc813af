"""A server that still loads its data is waited for: it says of itself meanwhile that it keeps none."""

import threading
import time

import anyio
import pytest

from actors.streams import client as module
from actors.streams.client import connect
from actors.streams.errors import PASSING, RedisUnusable

pytestmark = pytest.mark.redis


async def test_a_server_that_loads_its_data_is_waited_for(redis_server, settings_for, monkeypatch):
    server = redis_server()
    with server.client() as admin:
        for _ in range(6):
            filling = admin.pipeline(transaction=False)
            for n in range(1000):
                filling.set(f"k{n}", "x" * 100)
            filling.execute()
    server.kill9()
    server._args = ("--key-load-delay", "100")  # it pauses for 100 us after each command that it loads
    told: list[str] = []
    info = module._info

    async def noting(client, section):
        answer = await info(client, section)
        told.extend(f"{section} {each.get('loading')} {each.get('aof_enabled')}" for each in answer)
        return answer

    monkeypatch.setattr(module, "_info", noting)
    starting = threading.Thread(target=server.start)
    starting.start()
    refusals: list[RedisUnusable] = []
    began = time.monotonic()
    while True:  # it is asked all the while, so that it is asked while it loads, too
        try:
            await (await connect(settings_for(server), "test", wait_s=0.0)).aclose()
            break
        except RedisUnusable as e:
            refusals.append(e)
        assert time.monotonic() - began < 20
        await anyio.sleep(0.01)
    await anyio.to_thread.run_sync(starting.join)
    assert [e for e in refusals if not isinstance(e.__cause__, PASSING)] == []
    assert "persistence 1 0" in told, "the premise: it was asked while it loaded"
    assert told[-1] == "persistence 0 1"
