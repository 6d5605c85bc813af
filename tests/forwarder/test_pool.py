"""What the pool of sockets to a master says of one that is not there."""

import anyio
import pytest
from redis_rig import free_port
from structlog.testing import capture_logs

from actors.forwarder.pool import Pool
from actors.runtime.metrics import Metrics


@pytest.mark.parametrize("acked", [True, False])
async def test_a_master_that_is_not_there_is_worth_a_warning_from_the_second_attempt_on(acked: bool):
    pool = Pool(f"ws://127.0.0.1:{free_port()}/x", "{}", Metrics(), connections=1, acked=acked)
    with capture_logs() as said:
        async with anyio.create_task_group() as tg:
            tg.start_soon(pool.run)
            with anyio.fail_after(20):
                while len(said) < 3:
                    await anyio.sleep(0.01)
            tg.cancel_scope.cancel()
    assert [(each["event"], each["log_level"]) for each in said[:3]] == [
        ("master_lost", "info"), ("master_lost", "warning"), ("master_lost", "warning"),
    ]  # fmt: skip
    assert {each["reason"] for each in said} == {"unreachable"}
