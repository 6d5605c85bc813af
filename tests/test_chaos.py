"""The chaos command in its short form, and its judge, which must be able to say no."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from actors.chaos import stages, venues
from actors.chaos.places import Control, Place
from actors.chaos.recording import Recording, opening
from actors.chaos.report import MUST_BE_ZERO, Report
from actors.formation import Formation
from actors.model import codec
from actors.model.events import Book, Gap, Trade
from actors.simulator.generate import generate
from actors.stages import raw
from actors.stages.book import View
from actors.streams.keys import Cursor, Keys, Stream
from actors.venues import VENUES


def run(*arguments: str) -> tuple[int, dict[str, object], str]:
    command = [sys.executable, "-m", "actors", "chaos", "--json", "--short", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=280, check=False)
    assert done.stdout, done.stderr.decode()
    return done.returncode, orjson.loads(done.stdout), done.stderr.decode()


@pytest.mark.redis
@pytest.mark.timeout(300)
def test_nothing_is_lost_whoever_is_killed():
    code, report, said = run()
    assert {name: report[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, 0), said
    assert code == 0
    assert report["kills"] >= 8 + 4 + 4 + 5
    assert report["faults"] == 40
    assert report["forwarded"] > 5_000
    assert report["stops"] >= 2
    assert report["redis_kills"] >= 1
    assert report["events"] > 20_000


class TestJudge:
    expected = (b"a", b"b", b"c")

    def report(self, *got: tuple[int, bytes]) -> Report:
        report = Report(1)
        report.compare(self.expected, got)
        return report

    def test_the_same_lines_in_order_hold(self):
        assert self.report((1, b"a"), (2, b"b"), (3, b"c")).holds

    def test_a_missing_line_is_lost(self):
        assert self.report((1, b"a"), (2, b"c")).lost == 1

    def test_a_line_twice_is_duplicated(self):
        assert self.report((1, b"a"), (2, b"b"), (3, b"b"), (4, b"c")).duplicated == 1

    def test_lines_out_of_order_are_reordered(self):
        assert self.report((1, b"b"), (2, b"a"), (3, b"c")).reordered == 2

    def test_a_number_that_is_not_its_place_is_reordered(self):
        assert self.report((1, b"a"), (2, b"b"), (4, b"c")).reordered == 1

    @pytest.mark.parametrize("name", MUST_BE_ZERO)
    def test_anything_that_must_be_zero_fails_the_run(self, name: str):
        report = Report(1)
        setattr(report, name, 1)
        assert not report.holds


@pytest.fixture
def formation(tmp_path: Path) -> Iterator[Formation]:
    made = Formation(tmp_path, stages.config())
    made.start_redis()
    yield made
    made.close()


@pytest.mark.redis
class TestStreamsThatEnded:
    """What the stages left in Redis, against what they have folded."""

    def compare(self, made: Formation, *, unfolded: int = 0, without: Stream | None = None) -> Report:
        """Write a recording with a tick behind it and what the stages make of all but the last lines."""
        generated = generate(1, 200)
        lines = [*opening(generated, 1), *Recording(generated).take([2] * 200)]
        lines.append(raw.line(3, "-", "k", b'{"legs":[]}'))
        folded = stages.undisturbed(stages.PARTITION, lines[: len(lines) - unfolded], has_l1=True)
        keys, client = Keys(), made.client()
        for stream, there in {"raw": lines, **folded}.items():
            cut = there[:-1] if stream == without else there
            fields = {"n": len(cut), "d": b"\n".join(cut)}
            client.xadd(keys.stream(stages.PARTITION, stream), fields, id=f"1-{len(cut)}")
        for role, stream in stages.READS.items():
            end = len(lines) - unfolded if stream == "raw" else len(folded[stream])
            cursor = {f"c:{stream}": str(Cursor(1, end))}
            client.hset(keys.cursor(stages.PARTITION, role), mapping=cursor)
        report = Report(1)
        entries = stages.compare(stages.Watch(made, keys), report, has_l1=True)
        assert len(entries["flow"][0].lines) > 20
        return report

    def test_all_that_was_folded_is_there(self, formation: Formation):
        assert self.compare(formation).holds

    def test_a_tick_that_nobody_has_folded_is_not_lost(self, formation: Formation):
        assert self.compare(formation, unfolded=1).holds

    @pytest.mark.parametrize("stream", stages.WRITES.values())
    def test_a_line_that_was_folded_and_is_not_there_is_lost(self, formation: Formation, stream: Stream):
        assert self.compare(formation, without=stream).lost == 1


class _Known(Control):
    """A simulator that knows three trades of each symbol: 1 to 3, of one coin each, at 100."""

    def __init__(self) -> None:
        super().__init__(0)

    def trades(self, venue: str, symbol: str, first: int | None = None) -> list[dict[str, str]]:  # noqa: ARG002
        row = {"price": "100", "size": "1", "aggressor": "buy"}
        return [row | {"id": str(n)} for n in (1, 2, 3) if first is None or n >= first]


@pytest.mark.redis
class TestPlace:
    """The trades in Redis, against the tape of their venue."""

    def compare(self, made: Formation, venue: str, *said: str | tuple[str, str]) -> Report:
        """Write trades by id and gaps by their ends, and a sum of all that the tape knows once."""
        place = Place(venue, ["BTC-USD"], made, _Known())
        events = [
            Gap(venue, "BTC-USD", None, 1, None, "trade", "disconnect", *each)
            if isinstance(each, tuple)
            else Trade(venue, "BTC-USD", 1, 1, None, each, "100", "1", "buy")
            for each in said
        ]
        n = len({each for each in said if each in ("1", "2", "3")})
        sums = [
            b'{"kind":"cvd","venue":"%b","symbol":"BTC-USD","ts_event":1,"ts_recv":1,"seq":null,'
            b'"delta_base":"%d","delta_quote":"%d"}' % (venue.encode(), n, 100 * n)
        ]
        streams: dict[Stream, list[bytes]] = {"events": [codec.encode(each) for each in events], "flow": sums}
        client, keys = made.client(), Keys()
        for stream, lines in streams.items():
            fields = {"n": len(lines), "d": b"\n".join(lines)}
            client.xadd(keys.stream(place.watch.partition, stream), fields, id=f"1-{len(lines)}")
        report = Report(1)
        place.compare(report)
        return report

    @pytest.mark.parametrize("said", [("1", "2", "3"), ("2", "3"), ("1", ("2", "2"), "3"), ("3", "2", "1")])
    def test_what_is_there_or_in_a_gap_is_explained(self, formation: Formation, said: tuple[str, ...]):
        report = self.compare(formation, "coinbase", *said)
        assert report.holds
        assert report.gaps == (("2", "2") in said)

    def test_a_trade_that_is_neither_is_not(self, formation: Formation):
        assert self.compare(formation, "coinbase", "1", "3").unexplained == 1

    @pytest.mark.parametrize("venue", ["coinbase", "kucoin"])
    def test_a_trade_that_came_twice_and_one_that_never_was(self, formation: Formation, venue: str):
        report = self.compare(formation, venue, "1", "2", "2", "3", "4")
        assert (report.duplicated, report.unexplained) == (1, 1)

    def test_where_ids_tell_nothing_a_missing_one_is_not_seen(self, formation: Formation):
        assert self.compare(formation, "kucoin", "1", "3").holds

    def test_a_trade_that_was_not_summed_differs(self, formation: Formation):
        self.compare(formation, "coinbase", "1", "2")
        place = Place("coinbase", ["BTC-USD"], formation, _Known())
        line = codec.encode(Trade("coinbase", "BTC-USD", 1, 1, None, "3", "100", "1", "sell"))
        key = Keys().stream(place.watch.partition, "events")
        formation.client().xadd(key, {"n": 1, "d": line}, id="1-3")
        report = Report(1)
        place.compare(report)
        assert report.sums_differing == 1


class TestBooks:
    truth = [("100", "1"), ("99.5", "2")], [("101", "1")]

    def view(self, state: str = "live", size: str = "1.0") -> View:
        view = View()
        bids, asks = [("100.00", size), ("99.50", "2")], [("101", "1.00")]
        if state != "live":
            bids, asks = [], []
        book = Book("mexc", "BTC-USD", 1, 1, 1, "snapshot", 0, state, "sequence", bids, asks, periodic=False)
        view.apply(book, 1)
        return view

    def test_the_same_numbers_are_equal_however_they_are_spelled(self):
        assert venues.equal(self.view(), self.truth)

    def test_another_size_a_book_that_is_not_live_and_none_at_all_are_not(self):
        assert not venues.equal(self.view(size="1.1"), self.truth)
        assert not venues.equal(self.view("stale"), self.truth)
        assert not venues.equal(None, self.truth)


def test_all_venues_of_the_demo_are_hurt():
    assert sorted(venues.symbols_of(None)) == sorted(VENUES)
    assert all(venues.symbols_of(None).values())
    assert len({fault["kind"] for fault in venues.FAULTS}) == 23
