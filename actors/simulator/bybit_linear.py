"""Bybit linear perpetuals as a server: ``bybit``, with liquidations, and tickers that tell what changed.

Trades have UUIDs in no order. Open interest counts both sides, beside it stands that of one. What a topic
opens with comes before the answer, which bears no number; a refusal has not even the field for one.

Source: as of ``bybit``.
"""

from functools import partial
from typing import Final

from msgspec.structs import replace

from actors.model.events import MS, SECOND
from actors.simulator.bybit import Bybit
from actors.simulator.bybit_stands import Category, day, fraction
from actors.simulator.derivatives import Contract
from actors.simulator.house import Shop, trimmed
from actors.simulator.listings import pick
from actors.simulator.market import Listing, Print

NAME: Final = "bybit_linear"
_STEPS: Final = {
    "BTC-USDT-PERP": ("0.10", "0.001"),
    "ETH-USDT-PERP": ("0.01", "0.01"),
    "SOL-USDT-PERP": ("0.010", "0.1"),
    "XRP-USDT-PERP": ("0.0001", "0.1"),
    "DOGE-USDT-PERP": ("0.00001", "1"),
    "BTC-USDC-PERP": ("0.10", "0.001"),
}
_CONTRACT: Final = Contract(kind="linear", size="1", open_usd=60e6, interest=0.0001, cap=0.005)


def _native(symbol: str) -> str:
    base, quote, _ = symbol.split("-")
    return f"{base}PERP" if quote == "USDC" else base + quote


def _listings() -> tuple[Listing, ...]:
    picked = pick(NAME, _native, _STEPS, steps=_STEPS, pace=0.5)
    return tuple(replace(each, contract=_CONTRACT) for each in picked)


LISTINGS: Final = _listings()


def identity(number: int) -> str:
    """Return a trade's id, which tells nothing of the order."""
    mixed = number * 0x9E37_79B9 & 0xFFFF_FFFF  # chosen: spreads neighbours apart
    low, high = number & 0xFFFF_FFFF_FFFF, number >> 48
    return f"{mixed:08x}-{mixed & 0xFFFF:04x}-5{mixed >> 20:03x}-8{high:03x}-{low:012x}"


def _frame(topic: str, kind: bytes, ms: int, rest: bytes) -> bytes:
    return b'{"topic":"%b","type":"%b","ts":%d,%b}' % (topic.encode(), kind, ms, rest)


def _ticker_frame(topic: str, kind: bytes, ms: int, cs: int, data: bytes) -> bytes:
    return b'{"topic":"%b","type":"%b","data":%b,"cs":%d,"ts":%d}' % (topic.encode(), kind, data, cs, ms)


def _tick(shop: Shop, trade: Print) -> bytes:
    """Return how a price stands to the one before it."""
    tape = shop.live.tape
    at = trade.id
    while at > tape.first and trade.id - at < _LOOK_BACK:
        at -= 1
        before = tape[at].price
        if before != trade.price:
            zero = b"" if at == trade.id - 1 else b"Zero"
            return zero + (b"PlusTick" if trade.price > before else b"MinusTick")
    return b"ZeroPlusTick"


_LOOK_BACK: Final = 16  # chosen: trades at one price


def _fill(shop: Shop, trade: Print, sequence: int) -> bytes:
    return (
        b'{"T":%d,"s":"%b","S":"%b","v":"%b","p":"%b","L":"%b","i":"%b","BT":false,"RPI":false,"seq":%d}'
        % (
            trade.ts // MS, shop.native, b"Buy" if trade.sign > 0 else b"Sell", shop.size(trade.size),
            shop.price(trade.price), _tick(shop, trade), identity(trade.id).encode(), sequence,
        )
    )  # fmt: skip


def _ticker(shop: Shop, now: int) -> dict[str, bytes]:
    swap, live, price, size = shop.live.perpetual, shop.live, shop.price, shop.size
    if swap is None:
        raise ValueError(f"{shop.symbol} is no perpetual")
    bid, bid_size, ask, ask_size = live.book.top()
    interest, mark = swap.open_interest, round(swap.mark)
    told = day(shop, 6)
    return {
        "tickDirection": _direction(shop),
        **{name: told[name] for name in _PRICES},
        "prevPrice1h": _hour_ago(shop, now),
        "markPrice": price(mark),
        "indexPrice": price(round(swap.index)),
        "openInterest": size(2 * interest),
        "openInterestValue": shop.quote(2 * interest * mark, 2),
        "turnover24h": told["turnover24h"],
        "volume24h": told["volume24h"],
        "fundingIntervalHour": b"%d" % (swap.contract.funding_s // 3600),
        "fundingCap": trimmed(f"{swap.contract.cap:f}".encode()),
        "singleOpenInterest": size(interest),
        "singleOpenInterestValue": shop.quote(interest * mark, 2),
        "nextFundingTime": b"%d" % (swap.settlement(now) // MS),
        "fundingRate": fraction(swap.rate, 8),
        "bid1Price": price(bid) if bid else b"",
        "bid1Size": size(bid_size) if bid else b"",
        "ask1Price": price(ask) if ask else b"",
        "ask1Size": size(ask_size) if ask else b"",
        "preOpenPrice": b"",
        "preQty": b"",
        "curPreListingPhase": b"",
    }


_PRICES: Final = ("price24hPcnt", "lastPrice", "prevPrice24h", "highPrice24h", "lowPrice24h")


def _direction(shop: Shop) -> bytes:
    tape = shop.live.tape
    return _tick(shop, tape[tape.next - 1]) if tape.next > tape.first else b""


def _hour_ago(shop: Shop, now: int) -> bytes:
    """Return the price of an hour ago, or the oldest that is kept."""
    tape = shop.live.tape
    then = max(tape.after(now - 3600 * SECOND) - 1, tape.first)
    return shop.price(tape[then].price) if tape.next > tape.first else b""


def _row(listing: Listing) -> dict[str, object]:
    return {
        "symbol": listing.native,
        "contractType": "LinearPerpetual",
        "status": "Trading",
        "baseCoin": listing.base,
        "quoteCoin": listing.quote,
        "settleCoin": listing.quote,
        "priceFilter": {"tickSize": listing.price_step},
        "lotSizeFilter": {"qtyStep": listing.size_step, "minOrderQty": listing.size_step},
        "fundingInterval": 480,
    }


LINEAR: Final = Category(
    name="linear",
    frame=_frame,
    fill=_fill,
    ticker=_ticker,
    ticker_frame=_ticker_frame,
    ticker_ms=100,
    deltas=True,
    row=_row,
    identity=identity,
    most_args=None,
    trim=False,
    paged=True,
    numbered=False,
    unknown="error:handler not found,topic:{}",
    data_first=True,
    book_limit=25,
)

serve = partial(Bybit, name=NAME, category=LINEAR)
