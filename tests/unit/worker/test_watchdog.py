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


LARGE, SMALL = ("sdxl", 1024, 1024), ("sd15", 512, 512)


def tick(watchdog: Watchdog, clock: Clock, kind: tuple[str, int, int], *silences: float) -> None:
    """One tick: `kind` begins, a sign after each silence but the last, then rest."""
    watchdog.expect_a_step(kind)
    for seconds in silences[:-1]:
        clock.now += seconds
        watchdog.expect_a_step()
    clock.now += silences[-1]
    watchdog.rest()


def test_a_step_may_take_twenty_times_the_median_of_its_model_and_size() -> None:
    clock = Clock()
    watchdog = Watchdog(60, clock)
    for seconds in (10, 10, 500, 9, 10):
        tick(watchdog, clock, LARGE, 0.1, seconds, 0.1)
    began = clock.now
    watchdog.expect_a_step(LARGE)
    clock.now = began + 199
    assert not watchdog.is_overdue()
    clock.now = began + 201
    assert watchdog.is_overdue()
    watchdog.rest()
    began = clock.now
    watchdog.expect_a_step(SMALL)
    clock.now = began + 61
    assert watchdog.is_overdue()


def test_waiting_amid_a_tick_is_no_tick_of_its_own() -> None:
    clock = Clock()
    watchdog = Watchdog(60, clock)
    for _ in range(3):
        watchdog.expect_a_step(LARGE)
        clock.now += 10
        for _ in range(4):  # four frames of the call are done, and the store is slow
            watchdog.pause()
            clock.now += 1000
            assert not watchdog.is_overdue()
            watchdog.expect_a_step()
        watchdog.rest()
    watchdog.expect_a_step(LARGE)
    clock.now += 199
    assert not watchdog.is_overdue()
    clock.now += 2
    assert watchdog.is_overdue()


def test_quick_ticks_do_not_make_it_impatient() -> None:
    clock = Clock()
    watchdog = Watchdog(60, clock)
    for _ in range(100):
        tick(watchdog, clock, SMALL, 0.01)
    watchdog.expect_a_step(SMALL)
    clock.now += 59
    assert not watchdog.is_overdue()


def test_a_load_has_its_own_bound() -> None:
    clock = Clock()
    watchdog = Watchdog(60, clock)
    watchdog.expect_a_load()
    clock.now = LOAD_SECONDS - 1
    assert not watchdog.is_overdue()
