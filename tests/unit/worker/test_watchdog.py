"""The watchdog barks at a silent device, and only then."""

from worker.watchdog import LOAD_SECONDS, Watchdog


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_device_at_rest_is_never_overdue() -> None:
    clock = Clock()
    watchdog = Watchdog(60, clock)
    watchdog.expect_a_step()
    watchdog.rest()
    clock.now = 1e6
    assert not watchdog.is_overdue()


def test_a_step_without_a_sign_is_overdue_after_the_floor() -> None:
    clock = Clock()
    watchdog = Watchdog(60, clock)
    watchdog.expect_a_step()
    clock.now = 59
    assert not watchdog.is_overdue()
    clock.now = 61
    assert watchdog.is_overdue()


def test_slow_steps_may_take_twenty_times_as_long() -> None:
    clock = Clock()
    watchdog = Watchdog(60, clock)
    watchdog.expect_a_step()
    clock.now = 10
    watchdog.expect_a_step()
    clock.now = 10 + 199
    assert not watchdog.is_overdue()
    clock.now = 10 + 201
    assert watchdog.is_overdue()


def test_a_load_has_its_own_bound() -> None:
    clock = Clock()
    watchdog = Watchdog(60, clock)
    watchdog.expect_a_load()
    clock.now = LOAD_SECONDS - 1
    assert not watchdog.is_overdue()
