"""What tests of the broadcaster on a real server ask for."""

import socket

import pytest
from stage_rig import Stage

from actors.config import BroadcasterSettings, VenueSettings


@pytest.fixture
def stage(redis_server, settings_for) -> Stage:

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = redis_server("valkey")
    venues = {"binance": VenueSettings(symbols=["BTC-USDT", "ETH-USDT"])}
    settings = settings_for(server, venues, lease_ttl_s=0.5)
    return Stage(server, settings.model_copy(update={"broadcaster": BroadcasterSettings(port=port)}))
