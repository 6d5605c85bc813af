"""The Barter dialect against its contract, message by message, written by hand."""

import json

import pytest

from actors.dialects import barter
from actors.model.events import (
    L1,
    Book,
    Cvd,
    Event,
    Funding,
    Gap,
    Liquidation,
    OpenInterest,
    Status,
    Ticker,
    Trade,
)

AT = 1_762_333_822_037_873_000  # 2025-11-05T09:10:22.037873Z
RECEIVED = 1_762_333_822_037_890_999  # the nanoseconds are cut, not rounded


def said(venue: str, event: Event) -> str:
    message = barter.Words(venue).say(event)
    assert message is not None
    json.loads(message[1])
    return message[1].decode()


def head(exchange: str, kind: str, base: str = "btc", quote: str = "usdt", market: str = "Spot") -> str:
    return (
        '{"time_exchange":"2025-11-05T09:10:22.037873Z","time_received":"2025-11-05T09:10:22.037890Z",'
        f'"exchange":"{exchange}","instrument":{{"base":"{base}","quote":"{quote}","kind":"{market}"}},'
        f'"kind":"{kind}","data":'
    )


def trade(**changes: object) -> Trade:
    fields: dict[str, object] = {
        "venue": "binance",
        "symbol": "BTC-USDT",
        "ts_event": AT,
        "ts_recv": RECEIVED,
        "seq": None,
        "id": "123",
        "price": "95000.10",
        "size": "1.50",
        "aggressor": "buy",
    }
    return Trade(**{**fields, **changes})  # type: ignore[arg-type]


def book(**changes: object) -> Book:
    fields: dict[str, object] = {
        "venue": "binance",
        "symbol": "BTC-USDT",
        "ts_event": AT,
        "ts_recv": RECEIVED,
        "seq": 42,
        "type": "delta",
        "prev": 7,
        "state": "live",
        "verified": "sequence",
        "bids": [("95000.0", "1.2"), ("94999.9", "0")],
        "asks": [("95000.1", "0.30")],
    }
    return Book(**{**fields, **changes})  # type: ignore[arg-type]


def test_welcome_is_the_predecessors():
    assert barter.welcome(AT).decode() == (
        '{"type":"welcome","message":"Connected to barter-data market feed",'
        '"timestamp":"2025-11-05T09:10:22.037873Z"}'
    )


def test_trade_keeps_the_venues_digits_as_json_numbers():
    assert said("binance", trade()) == head("BinanceSpot", "trade") + (
        '{"amount":1.50,"id":"123","price":95000.10,"side":"Buy"}}'
    )


def test_a_sell_and_a_backfilled_trade_are_trades():
    message = said("binance", trade(aggressor="sell", backfilled=True))
    assert message == head("BinanceSpot", "trade") + (
        '{"amount":1.50,"id":"123","price":95000.10,"side":"Sell"}}'
    )


def test_a_missing_venue_time_is_sent_as_the_receive_time():
    message = json.loads(said("binance", trade(ts_event=None)))
    assert message["time_exchange"] == message["time_received"] == "2025-11-05T09:10:22.037890Z"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", "0"),
        ("0.00", "0.00"),
        ("0.010", "0.010"),
        ("007.50", "7.50"),
        ("00.5", "0.5"),
        ("000", "0"),
        ("12", "12"),
    ],
)
def test_every_spelling_of_a_size_is_a_json_number(text: str, number: str):
    message = said("binance", trade(size=text))
    assert f'"amount":{number},' in message


def test_a_trade_id_is_escaped():
    assert json.loads(said("binance", trade(id='a"\\é-1')))["data"]["id"] == 'a"\\é-1'


def test_perpetual_liquidation():
    event = Liquidation("okx", "BTC-USDT-PERP", AT, RECEIVED, None, "buy", "short", "95000.0", "0.5", "50")
    assert said("okx", event) == head("Okx", "liquidation", market="Perpetual") + (
        '{"price":95000.0,"quantity":0.5,"side":"Buy","time":"2025-11-05T09:10:22.037873Z"}}'
    )


def test_open_interest():
    event = OpenInterest("bybit_linear", "BTC-USDT-PERP", AT, RECEIVED, None, "123.0", "1.23", None)
    assert said("bybit_linear", event) == head("BybitPerpetualsUsd", "open_interest", market="Perpetual") + (
        '{"contracts":123.0,"notional":null,"time":"2025-11-05T09:10:22.037873Z"}}'
    )
    timeless = OpenInterest("bybit_linear", "BTC-USDT-PERP", None, RECEIVED, None, "123.0", None, "11.5")
    data = json.loads(said("bybit_linear", timeless))["data"]
    assert data == {"contracts": 123.0, "notional": 11.5, "time": None}


def test_cumulative_volume_delta_is_two_json_numbers():
    event = Cvd("binance", "BTC-USDT", AT, RECEIVED, None, "12.3", "-1168500.05")
    assert said("binance", event) == head("BinanceSpot", "cumulative_volume_delta") + (
        '{"delta_base":12.3,"delta_quote":-1168500.05}}'
    )
    small = json.loads(said("binance", Cvd("binance", "BTC-USDT", None, RECEIVED, None, "-0.00001", "0")))
    assert small["data"] == {"delta_base": -0.00001, "delta_quote": 0}
    assert small["time_exchange"] == small["time_received"]


def test_funding_rate():
    event = Funding("okx", "BTC-USDT-PERP", AT, RECEIVED, None, rate="-0.0001", next_ts=AT + 1_000_000_000)
    assert said("okx", event) == head("Okx", "funding_rate", market="Perpetual") + (
        '{"next_time":"2025-11-05T09:10:23.037873Z","rate":-0.0001,"time":"2025-11-05T09:10:22.037873Z"}}'
    )


def test_order_book_l1_with_an_empty_side():
    event = L1("kraken", "BTC-USDT", AT, RECEIVED, None, "95000.0", "1.20", None, None)
    assert said("kraken", event) == head("Kraken", "order_book_l1") + (
        '{"best_ask":null,"best_bid":{"amount":"1.20","price":"95000.0"},'
        '"last_update_time":"2025-11-05T09:10:22.037873Z"}}'
    )


def test_order_book_l2_update_and_snapshot():
    levels = (
        '{"asks":{"levels":[{"amount":"0.30","price":"95000.1"}]},'
        '"bids":{"levels":[{"amount":"1.2","price":"95000.0"},{"amount":"0","price":"94999.9"}]},'
    )
    words = barter.Words("binance")
    assert words.update(book())[1].decode() == head("BinanceSpot", "order_book_l2") + (
        f'{{"Update":{levels}"sequence":42,"time_engine":"2025-11-05T09:10:22.037873Z"}}}}}}'
    )
    empty = words.snapshot(book(ts_event=None, seq=None, bids=[], asks=[]))[1].decode()
    assert json.loads(empty)["data"] == {
        "Snapshot": {"asks": {"levels": []}, "bids": {"levels": []}, "sequence": 0, "time_engine": None}
    }


@pytest.mark.parametrize(
    "event",
    [
        Ticker("binance", "BTC-USDT", AT, RECEIVED, None, last="1"),
        Gap("binance", "BTC-USDT", AT, RECEIVED, None, "trade", "sequence", "1", "2"),
        Status("binance", None, None, RECEIVED, None, None, "down", "why", conn="a.1"),
        Funding("okx", "BTC-USDT-PERP", AT, RECEIVED, None, mark="1"),
        OpenInterest("okx", "BTC-USDT-PERP", AT, RECEIVED, None, None, "1", None),
    ],
)
def test_what_the_dialect_has_no_words_for_is_not_said(event: Event):
    assert barter.Words("binance").say(event) is None


def test_a_time_outside_the_calendar_is_refused():
    with pytest.raises(OverflowError):
        barter.Words("binance").say(trade(ts_event=10**21))


@pytest.mark.parametrize(
    ("venue", "name"),
    [
        ("binance", "BinanceSpot"),
        ("binance_usdm", "BinanceFuturesUsd"),
        ("binance_us", "BinanceUs"),
        ("bybit", "BybitSpot"),
        ("bybit_linear", "BybitPerpetualsUsd"),
        ("okx", "Okx"),
        ("gateio", "GateioSpot"),
        ("mexc", "Mexc"),
    ],
)
def test_venues_have_the_predecessors_names(venue: str, name: str):
    assert barter.exchange(venue) == name


def test_a_filter_passes_what_it_names():
    chosen = barter.parse_filter(
        "kind=trade,order_book_l1&kind=liquidation&symbol=btc/usdt", ["binance"], ["BTC-USDT"]
    )
    assert chosen.passes(barter.Topic("trade", "BinanceSpot", "BTC-USDT"))
    assert chosen.passes(barter.Topic("liquidation", "Okx", "BTC-USDT"))
    assert not chosen.passes(barter.Topic("order_book_l2", "BinanceSpot", "BTC-USDT"))
    assert not chosen.passes(barter.Topic("trade", "BinanceSpot", "ETH-USDT"))
    assert barter.parse_filter("", ["binance"], ["BTC-USDT"]) is barter.EVERYTHING


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("kind=trades", "order_book_l1"),
        ("exchange=Binance", "BinanceSpot"),
        ("symbol=BTCUSDT", "BTC-USDT"),
        ("symbols=BTC-USDT", "kind, exchange, symbol"),
        ("kind=", "liquidation"),
        ("&".join(["kind=trade"] * 40), "cannot be read"),
    ],
)
def test_an_unknown_filter_names_the_valid_ones(query: str, named: str):
    with pytest.raises(barter.FilterError, match=named):
        barter.parse_filter(query, ["binance"], ["BTC-USDT"])
