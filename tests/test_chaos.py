"""The chaos command in its short form, and its judge, which must be able to say no."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from actors.chaos import stages
from actors.chaos.recording import Recording, opening
from actors.chaos.report import MUST_BE_ZERO, Report
from actors.formation import Formation
from actors.simulator.generate import generate
from actors.stages import raw
from actors.streams.keys import Cursor, Keys, Stream


def run(*arguments: str) -> tuple[int, dict[str, object], str]:
    command = [sys.executable, "-m", "actors", "chaos", "--json", "--short", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=170, check=False)
    assert done.stdout, done.stderr.decode()
    return done.returncode, orjson.loads(done.stdout), done.stderr.decode()


@pytest.mark.redis
@pytest.mark.timeout(180)
def test_nothing_is_lost_whoever_is_killed():
    code, report, said = run()
    assert {name: report[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, 0), said
    assert code == 0
    assert report["kills"] >= 8 + 4 + 5
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


@pytest.mark.redis
class TestStreamsThatEnded:
    """What the stages left in Redis, against what they have folded."""

    @pytest.fixture
    def formation(self, tmp_path: Path) -> Iterator[Formation]:
        made = Formation(tmp_path, stages.config())
        made.start_redis()
        yield made
        made.close()

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
