"""The clock of receive times, when the machine's is set."""

import time

import pytest

from actors.connector.clock import Clock

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
START = 1_790_000_000 * SECOND


class Machine:
    """Its two clocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = START
        self.monotonic = 5 * SECOND
        monkeypatch.setattr(time, "time_ns", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.monotonic)

    def wait(self, seconds: float) -> None:
        self.wall += round(seconds * SECOND)
        self.monotonic += round(seconds * SECOND)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_it_is_the_system_clock_as_long_as_that_goes_forward(machine: Machine):
    clock = Clock()
    assert clock.now() == START
    machine.wait(1)
    assert clock.now() == START + SECOND
    machine.wall += HOUR
    assert clock.now() == START + SECOND + HOUR


def test_set_back_it_goes_on_at_half_pace_until_the_system_clock_has_come_up(machine: Machine):
    clock = Clock()
    clock.now()
    machine.wall -= HOUR
    told = [clock.now()]
    for _ in range(7300):
        machine.wait(1)
        told.append(clock.now())
    assert told == sorted(told)
    assert [time - START for time in told[:4]] == [0, SECOND // 2, SECOND, 3 * SECOND // 2]
    assert told[7200] == machine.wall - 100 * SECOND
    assert told[7300] == machine.wall
    machine.wall -= 2 * SECOND
    assert clock.now() == told[-1]
    machine.wait(1)
    assert clock.now() == told[-1] + SECOND // 2


def test_set_back_twice_it_never_goes_back(machine: Machine):
    clock = Clock()
    told = [clock.now()]
    for back in (10, 0, 20, 0, 0):
        machine.wall -= back * SECOND
        machine.wait(4)
        told.append(clock.now())
    assert [time - START for time in told] == [n * SECOND for n in (0, 0, 2, 4, 6, 8)]
