"""Which connections carry what is wanted: of some symbols only, and no more on one than was said."""

from actors.config import VenueSettings
from actors.connector.planning import endpoints_of, plan
from actors.model.instruments import Instrument
from actors.venues import VENUES
from actors.venues.base import Connection

VENUE = VENUES["binance"]
SYMBOLS = ["BTC-USDT", "ETH-USDT", "SOL-USDT"]
LISTED = [Instrument(s, s.replace("-", ""), s.partition("-")[0], "USDT") for s in SYMBOLS]


def planned(**wanted: object) -> list[Connection]:
    settings = VenueSettings(symbols=SYMBOLS, **wanted)  # type: ignore[arg-type]
    return plan(VENUE, endpoints_of(VENUE, settings), settings, LISTED)


def items(connections: list[Connection]) -> list[set[tuple[str, str]]]:
    return [{item for sent in c.subscriptions for item in sent.items} for c in connections]


def test_all_channels_of_all_symbols_unless_told_otherwise():
    (only,) = items(planned())
    assert only == {(channel, symbol) for channel in VENUE.channels for symbol in SYMBOLS}


def test_a_channel_of_some_symbols_only_is_asked_of_no_other():
    found = items(planned(channels=["trade", "book"], only={"book": ["ETH-USDT"]}))
    assert set().union(*found) == {("trade", symbol) for symbol in SYMBOLS} | {("book", "ETH-USDT")}


def test_no_connection_carries_more_symbols_than_was_said():
    found = items(planned(channels=["trade"], symbols_per_connection=2))
    assert found == [{("trade", "BTC-USDT"), ("trade", "ETH-USDT")}, {("trade", "SOL-USDT")}]
    assert len(planned(symbols_per_connection=100)) == 1


def test_the_configuration_may_name_other_addresses():
    settings = VenueSettings(symbols=SYMBOLS, ws_url="ws://127.0.0.1:1/x/")
    assert endpoints_of(VENUE, settings).ws == "ws://127.0.0.1:1/x"
    assert endpoints_of(VENUE, settings).rest == VENUE.endpoints.rest
