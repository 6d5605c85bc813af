"""The chaos command in its short form, and its judge, which must be able to say no."""

import subprocess
import sys

import orjson
import pytest

from actors.chaos.report import MUST_BE_ZERO, Report


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
