"""Binary frames of compressed text: within bounds, each kind of damage by its name."""

import gzip
import zlib

import pytest
from fake_venue import FakeVenue, of, running, trade, until
from msgspec.structs import replace

from actors.connector.inflating import Broken, gunzip
from actors.venues import VENUES, bitrue

TEXT = b'{"ping":1784461537875}'
MOST = 1000


def test_text_that_just_fits_comes_out_and_one_byte_more_is_oversized():
    assert gunzip(gzip.compress(bytes(MOST)), MOST) == bytes(MOST)
    assert gunzip(bytearray(gzip.compress(b"")), MOST) == b""
    with pytest.raises(Broken, match="holds more than 1000 bytes") as caught:
        gunzip(gzip.compress(bytes(MOST + 1)), MOST)
    assert caught.value.bad == "oversized"


def test_a_bomb_is_not_inflated():
    bomb = gzip.compress(bytes(1 << 24))
    with pytest.raises(Broken, match=f"a gzip frame of {len(bomb)} bytes holds more than 1000 bytes"):
        gunzip(bomb, MOST)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "cut off"),
        (TEXT, "not gzip"),
        (zlib.compress(TEXT), "not gzip"),
        (gzip.compress(TEXT)[:-4], "cut off"),
        (gzip.compress(TEXT)[:-8] + bytes(8), "not gzip"),  # its checksum
        (gzip.compress(TEXT) + b"more", "4 bytes follow"),
    ],
    ids=["nothing", "text", "zlib", "cut_off", "wrong_checksum", "more"],
)
def test_what_is_no_whole_gzip_stream_is_named(frame: bytes, reason: str):
    with pytest.raises(Broken, match=reason) as caught:
        gunzip(frame, MOST)
    assert caught.value.bad == "protocol"


@pytest.fixture
def deflated(monkeypatch, small_frames):  # noqa: ARG001 - of which this takes the venue
    """Let Binance's frames be gzip, and its pings be those of Bitrue."""
    changed = replace(VENUES["binance"], inflate="gzip", answer=bitrue.answer)
    monkeypatch.setitem(VENUES, "binance", changed)


@pytest.mark.redis
@pytest.mark.usefixtures("deflated")
async def test_inflated_frames_and_text_are_recorded_as_text_and_pings_answered(redis_server, settings_for):
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue())):
                await until(lambda: venue.received)
                plain = TEXT, trade(1).encode(), b"two\nlines"
                await venue.push(trade(0), *map(gzip.compress, plain), trade(2))
                await until(lambda: {"pong": 1784461537875} in [frame for _, frame in venue.received])
                await until(lambda: len(of(client, "f")) == 5)
            texts = [line.payload for line in of(client, "f")]
            (binary,) = of(client, "b")
    assert texts[1:] == [trade(0), TEXT.decode(), trade(1), trade(2)]
    assert binary.payload == "dHdvCmxpbmVz"


@pytest.mark.redis
@pytest.mark.usefixtures("deflated")
@pytest.mark.parametrize(
    ("frame", "how"),
    [
        (gzip.compress(bytes(1 << 20)), (1009, "too_big", "oversized")),
        (gzip.compress(TEXT)[:-4], (1007, "failed", "protocol")),
    ],
    ids=["bomb", "cut_off"],
)
async def test_a_frame_that_cannot_be_inflated_ends_its_connection_only(
    redis_server, settings_for, frame, how
):
    code, over, bad = how
    server = redis_server()
    async with FakeVenue() as venue:
        with server.client() as client:
            async with running(settings_for(server, venue.venue(symbols=["BTC-USDT", "ETH-USDT"]))) as actor:
                await until(lambda: len(venue.received) == 2)
                await venue.sockets[0].send(frame)
                await until(lambda: len(venue.received) == 3)
                assert actor.metric("tapeline_reconnects_total", venue="binance", reason=over) == 1
            closed = of(client, "x")[1]
    assert (closed.json["code"], closed.json["bad"]) == (code, bad)
    assert f"a gzip frame of {len(frame)} bytes" in closed.json["reason"]
    assert venue.sockets[0].close_code == code
    assert venue.sockets[1].close_code == 1001
