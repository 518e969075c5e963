"""The clock of leases: on faked clocks of a system, and on those that there are."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from electorate.runtime import clock

READING = 50e-9
"""Seconds that it takes to read a clock."""


class System:
    """The clocks of a machine that runs, sleeps, and is slewed; `true` counts all of it, at the true rate."""

    def __init__(self) -> None:
        self.true = 1000.0
        self.asleep = 300.0
        self.slewed = 0.0
        """By how much MONOTONIC and BOOTTIME have run ahead."""
        self.slewing = 0.0
        self.before: dict[int, Callable[[], None]] = {}
        """What happens before a reading, by its number."""
        self.readings = 0

    def run(self, seconds: float) -> None:
        self.true += seconds
        self.slewed += self.slewing * seconds

    def sleep(self, seconds: float) -> None:
        self.true += seconds
        self.asleep += seconds

    def clock_gettime(self, which: int) -> float:
        self.before.get(self.readings, lambda: None)()
        self.readings += 1
        self.run(READING)
        return {
            time.CLOCK_MONOTONIC_RAW: self.true - self.asleep,
            time.CLOCK_MONOTONIC: self.true - self.asleep + self.slewed,
            time.CLOCK_BOOTTIME: self.true + self.slewed,
        }[which]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    made = System()
    monkeypatch.setattr(time, "clock_gettime", made.clock_gettime)
    return made


@pytest.mark.parametrize("slewing", [0.0, 0.083, -0.083])
@pytest.mark.parametrize("reading", range(4))
@pytest.mark.parametrize("what", ["sleep", "run"])
def test_what_happens_between_two_readings_is_in_none(
    system: System, what: str, reading: int, slewing: float
) -> None:
    """Asleep, or while another process runs, for longer than any lease."""
    system.slewing = slewing
    system.before[reading] = lambda: getattr(system, what)(5.0)
    began = system.true
    assert began + 5.0 <= clock.now() <= system.true
    assert system.true - began < 5.0 + clock.TIGHT


@pytest.mark.parametrize("what", ["sleep", "run"])
def test_where_every_reading_takes_long_it_is_not_set_back(system: System, what: str) -> None:
    system.before = {number: lambda: getattr(system, what)(0.01) for number in range(1000)}
    last = 0.0
    for _ in range(20):
        began = system.true
        at = clock.now()
        assert max(last, began) < at < system.true
        assert system.true - at < 0.05, "the last attempt counts, which is the newest"
        last = at
    assert system.readings == 20 * 4 * clock.ATTEMPTS


@pytest.mark.parametrize("slewing", [0.083, 0.02, -0.02, -0.083])
def test_slewing_changes_nothing(system: System, slewing: float) -> None:
    began, first = system.true, clock.now()
    system.slewing = slewing
    for step in range(100):
        (system.run if step % 2 else system.sleep)(1.0)
        assert clock.now() - first == pytest.approx(system.true - began, abs=1e-6)
    assert abs(system.slewed) > 0.9, "the clocks that are slewed are off by as much"


def test_it_is_the_clock_of_this_machine() -> None:
    began = time.clock_gettime(time.CLOCK_MONOTONIC_RAW)
    first = clock.now()
    readings = [clock.now() for _ in range(1000)]
    time.sleep(0.05)
    passed = time.clock_gettime(time.CLOCK_MONOTONIC_RAW) - began
    assert sorted(readings) == readings
    assert 0.05 <= clock.now() - first <= passed + 0.05
