"""Everything a venue can do wrong, in one running demo: what is missing is named, nothing else is touched."""

import os
import time

import pytest
from fire_rig import BACK_S, SYMBOLS, Ground

pytestmark = [pytest.mark.fire, pytest.mark.redis, pytest.mark.timeout(300), pytest.mark.usefixtures("whole")]
LONG = int(os.environ.get("TAPELINE_FIRE_ROUNDS", "1")) > 1
AS_LONG_AS_SILENCE = pytest.mark.skipif(
    not LONG, reason="waits for silence to be told: TAPELINE_FIRE_ROUNDS=2"
)
HIT, OTHERS = SYMBOLS[0], SYMBOLS[1:]


def test_trades_that_did_not_come_are_named_and_filled(ground: Ground):
    with ground.only(HIT) as since:
        ground.inject("gap", symbol=HIT, channel="trade", count=3)
        gap = ground.gap("trade", HIT, "sequence", since)
        assert gap.first is not None
        assert gap.last is not None
        assert int(gap.last) - int(gap.first) == 2
        ground.filled()


def test_a_book_whose_sequence_breaks_is_fetched_anew(ground: Ground):
    states = ground.reader.states[HIT]
    before = len(states)
    with ground.only(HIT) as since:
        ground.inject("gap", symbol=HIT, channel="book")
        assert ground.gap("book", HIT, "sequence", since).first is not None
    assert states[before:] == ["resyncing", "live"]


def test_what_comes_twice_is_told_once(ground: Ground):
    def counted() -> float:
        return ground.count("normalizer", "tapeline_duplicates_total", reason="trade")

    before = counted()
    with ground.only(HIT) as since:
        ground.inject("duplicate", symbol=HIT, channel="trade", count=5)
        ground.inject("duplicate", symbol=HIT, channel="book", count=2)
        ground.until("five are counted", lambda: counted() >= before + 5)
    assert ground.reader.gaps[since:] == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "null_price"}, "schema"),
        ({"kind": "corrupt", "how": "truncated"}, "malformed"),
        ({"kind": "corrupt", "how": "nan"}, "value"),
    ],
)
def test_an_unreadable_frame_is_counted_and_kept_and_its_trade_fetched(
    ground: Ground, fault: dict[str, str], reason: str
):
    def counted() -> float:
        return ground.count("normalizer", "tapeline_unparseable_total", reason=reason)

    before, dead = counted(), len(ground.made.dead())
    with ground.only(HIT) as since:
        ground.inject(**fault, symbol=HIT, channel="trade")
        ground.gap("trade", HIT, "sequence", since)
        ground.until("it is counted", lambda: counted() > before)
        ground.filled()
    kept = ground.made.dead()[dead:]
    assert [(each["stage"], each["partition"]) for each in kept] == [("normalizer", "binance.0")]
    assert kept[0]["reason"]
    assert "@trade" in kept[0]["record"]


def test_a_null_in_a_book_costs_that_book_a_resync(ground: Ground):
    ground.drop()
    dead = len(ground.made.dead())
    with ground.only(HIT) as since:
        ground.inject("null_price", symbol=HIT, channel="book")
        ground.gap("book", HIT, "sequence", since)
    assert len(ground.made.dead()) == dead + 1


@pytest.mark.parametrize(
    ("venue", "fault", "cause"),
    [("kraken", {"kind": "checksum"}, "checksum"), ("okx", {"kind": "gap", "channel": "book"}, "sequence")],
)
def test_each_broken_proof_is_found_once_and_costs_that_book_alone_a_new_subscription(
    ground: Ground, venue: str, fault: dict[str, str], cause: str
):
    there = ground.at(venue)
    hit = there.reader.symbols[0]
    states = there.reader.states[hit]

    def counted() -> float:
        return there.count("bookbuilder", "tapeline_gaps_total", venue=venue, channel="book", reason=cause)

    found = counted()
    for n in range(1, 4):
        before = len(states)
        with there.only(hit) as since:
            there.inject(**fault, symbol=hit)
            there.gap("book", hit, cause, since)
            there.until("it is live again", lambda before=before: states[before:][-1:] == ["live"], 20)
        assert states[before:] == ["resyncing", "live"]
        assert [gap.cause for gap in there.reader.gaps_of("book", hit, since)] == [cause]
        there.until("injected, detected, reported", lambda n=n: counted() >= found + n)
    assert counted() == found + 3


def test_a_crossed_book_is_not_live(ground: Ground):
    ground.drop()
    states = ground.reader.states[HIT]
    before = len(states)
    with ground.only(HIT):
        ground.inject("crossed", symbol=HIT)
        ground.until("it is said", lambda: len(states) >= before + 2)
    assert states[before] == "crossed"


def test_a_venue_that_has_enough_of_our_requests_is_given_time(ground: Ground):
    ground.drop()
    before = ground.count("connector", "tapeline_rest_failures_total")
    with ground.only(HIT) as since:
        ground.inject("rest", status=429, retry_after_s=1, count=1)
        ground.inject("gap", symbol=HIT, channel="book")
        ground.gap("book", HIT, "sequence", since)
        ground.until(
            "it is counted", lambda: ground.count("connector", "tapeline_rest_failures_total") > before
        )


def test_one_silent_symbol_is_made_whole_when_it_speaks_again(ground: Ground):
    ground.drop()
    with ground.only(HIT) as since:
        ground.inject("silence", symbol=HIT, for_s=1.0)
        ground.gap("book", HIT, "sequence", since)
        ground.gap("trade", HIT, "sequence", since)
        ground.filled()


@pytest.mark.parametrize("kind", ["drop", "reset", "oversize"])
def test_a_lost_connection_is_told_and_replaced(ground: Ground, kind: str):
    reader = ground.reader
    ground.until("every item is live", ground.all_live)
    since, statuses, began_ns = len(reader.gaps), len(reader.statuses), time.time_ns()
    dead = len(ground.made.dead())
    ground.inject(kind, **({"symbol": HIT, "channel": "trade"} if kind == "oversize" else {}))
    ground.until("it is told", lambda: any(s.state == "down" for s in reader.statuses[statuses:]))
    ground.flows(began_ns)
    ground.until("every item is live", ground.all_live)  # what came before the loss does not count
    down = [s for s in reader.statuses[statuses:] if s.state == "down"]
    assert {s.symbol for s in down if s.channel == "book"} == {*SYMBOLS}
    connection = [s for s in down if s.symbol is None]
    assert len(connection) == 1
    assert connection[0].conn is not None
    assert connection[0].reason
    for symbol in SYMBOLS:
        assert [g.cause for g in reader.gaps_of("book", symbol, since)] == ["disconnect"]
    if kind == "oversize":
        ground.until("it is among the dead", lambda: ground.made.dead()[dead:])
        assert [d["reason"].partition(":")[0] for d in ground.made.dead()[dead:]] == ["oversized"]


def test_requests_that_are_honoured_in_silence_do_no_harm(ground: Ground):
    ground.inject("no_ack", for_s=5.0)
    ground.drop()


def test_a_symbol_that_the_venue_takes_off_its_list_is_refused_alone(ground: Ground):
    made, reader = ground.made, ground.reader
    ground.inject("unlist", symbol=HIT)
    statuses = len(reader.statuses)
    killed_ns = made.kill(made.actor("connector"))  # the next one reads the list anew

    def refused() -> list[str | None]:
        return [s.symbol for s in reader.statuses[statuses:] if s.state == "refused" and HIT in s.reason]

    ground.until("it is refused", refused, BACK_S)
    ground.until(
        "the others flow",
        lambda: all(reader.traded_ns[s] > killed_ns and reader.views[s].state == "live" for s in OTHERS),
        BACK_S,
    )
    assert {*refused()} == {HIT}
    assert reader.views[HIT].state != "live"
    assert made.latest(HIT)["state"] != "live"
    made.clear_faults()
    ground.flows(made.kill(made.actor("connector")), "it is back")


@AS_LONG_AS_SILENCE
def test_a_connection_that_says_nothing_is_replaced(ground: Ground):
    reader = ground.reader
    ground.until("every item is live", ground.all_live)
    statuses = len(reader.statuses)
    ground.inject("silence", for_s=120.0, connection="newest")
    ground.until(
        "it is told",
        lambda: any(s.state == "stale" and s.symbol is None for s in reader.statuses[statuses:]),
        90,
    )
    ground.flows(time.time_ns(), "it is replaced")


@AS_LONG_AS_SILENCE
def test_a_subscription_that_is_acknowledged_and_silent_is_asked_for_anew(ground: Ground):
    reader = ground.reader
    statuses, began_ns = len(reader.statuses), time.time_ns()
    ground.inject("refuse", symbol=HIT, channel="book", count=1)
    ground.inject("drop")
    ground.until(
        "the others flow",
        lambda: all(reader.views[s].state == "live" and reader.booked_ns[s] > began_ns for s in OTHERS),
    )

    def told_stale() -> bool:
        new = reader.statuses[statuses:]
        return any(s.state == "stale" and s.symbol == HIT and s.channel == "book" for s in new)

    ground.until("its silence is told", told_stale, 150)
    assert reader.views[HIT].state != "live"
    now = time.time_ns()
    ground.until("it is asked for anew", lambda: reader.flowing(now), 90)
