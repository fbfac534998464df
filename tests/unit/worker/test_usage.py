"""How busy the device thread was, by a clock that the test moves."""

import pytest

from worker.usage import Usage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def usage(clock: Clock) -> Usage:
    return Usage(clock)


def work(usage: Usage, clock: Clock, seconds: float, *, waiting: float = 0.0) -> None:
    with usage.working():
        clock.now += seconds
        with usage.waiting():
            clock.now += waiting


def test_a_device_that_has_not_worked_yet_has_no_seconds(usage: Usage, clock: Clock) -> None:
    clock.now += 60.0
    assert usage.seconds() == (0.0, 0.0)


def test_idle_time_before_the_first_and_after_the_last_work_does_not_count(usage: Usage, clock: Clock) -> None:
    clock.now += 60.0
    work(usage, clock, 3.0)
    clock.now += 1.0
    work(usage, clock, 4.0)
    clock.now += 60.0
    assert usage.seconds() == (7.0, 8.0)


def test_waiting_for_others_is_not_work(usage: Usage, clock: Clock) -> None:
    work(usage, clock, 3.0, waiting=5.0)
    assert usage.seconds() == (3.0, 8.0)
    assert usage.waited_seconds() == 5.0


def test_after_a_reset_the_next_work_is_the_first(usage: Usage, clock: Clock) -> None:
    work(usage, clock, 3.0)
    usage.reset()
    assert usage.seconds() == (0.0, 0.0)
    clock.now += 60.0
    work(usage, clock, 2.0)
    assert usage.seconds() == (2.0, 2.0)


def test_work_that_ends_in_an_error_does_not_count(usage: Usage, clock: Clock) -> None:
    def fail() -> None:
        with usage.working():
            clock.now += 1.0
            raise ValueError("the device")

    with pytest.raises(ValueError, match="the device"):
        fail()
    work(usage, clock, 2.0)
    assert usage.seconds() == (2.0, 2.0)
