"""A connector that is stopped, or killed for good: soon no book says that it is live; then all is well."""

import logging
import os
import signal
import time

import pytest
from fire_rig import SYMBOLS, TTL_S, Ground

log = logging.getLogger("fire")  # figures: --log-cli-level=info
pytestmark = [pytest.mark.fire, pytest.mark.redis, pytest.mark.timeout(300), pytest.mark.usefixtures("whole")]
STALE_S = TTL_S + 2.0
SLACK_S = 2.0  # what a small machine under load may take to notice, and this test to look


def live_keys(ground: Ground) -> list[str]:
    return [symbol for symbol in SYMBOLS if ground.made.latest(symbol)["state"] == "live"]


def goes_stale(ground: Ground) -> float:
    """Wait until no book is live, in the stream and in its key; return after how many seconds."""
    began = time.monotonic()
    views = ground.reader.views
    ground.until(
        "no book is live",
        lambda: all(views[s].state != "live" for s in SYMBOLS) and not live_keys(ground),
        STALE_S + SLACK_S,
    )
    assert all(ground.made.latest(symbol)["bids"] == [] for symbol in SYMBOLS)
    return time.monotonic() - began


def test_no_book_stays_live_when_its_connector_is_stopped(ground: Ground):
    statuses = len(ground.reader.statuses)
    connector = ground.made.actor("connector")
    os.kill(connector, signal.SIGSTOP)
    log.info("stale after %.2f s", goes_stale(ground))
    down = [s for s in ground.reader.statuses[statuses:] if s.state == "down"]
    assert {s.symbol for s in down if s.channel == "book"} == {*SYMBOLS}
    now = time.time_ns()
    os.kill(connector, signal.SIGCONT)
    ground.flows(now)
    assert ground.made.actor("connector") == connector, "a lost lease is no reason to end"


def test_no_book_stays_live_when_its_connector_is_killed_for_good(ground: Ground):
    supervisor = ground.made.supervisor("connector")
    os.kill(supervisor, signal.SIGSTOP)  # nobody starts the next one
    ground.made.kill(ground.made.actor("connector"))
    log.info("stale after %.2f s", goes_stale(ground))
    now = time.time_ns()
    os.kill(supervisor, signal.SIGCONT)
    ground.flows(now)


@pytest.mark.parametrize("role", ["normalizer", "bookbuilder"])
def test_a_stopped_stage_goes_on_where_it_was(ground: Ground, role: str):
    stopped = ground.made.actor(role)
    os.kill(stopped, signal.SIGSTOP)
    if role == "normalizer":  # no tick: whoever delivers knows by its own clock that time stands still
        ground.until("no latest book says live", lambda: not live_keys(ground))
    else:
        time.sleep(TTL_S * 1.5)  # past its lease: nothing to be seen of it
    now = time.time_ns()
    os.kill(stopped, signal.SIGCONT)
    ground.flows(now)
    assert ground.made.actor(role) == stopped, "a lost lease is no reason to end"
