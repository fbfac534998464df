"""How long frames will still be on the device, by a clock that the test moves, and how many more are wanted then."""

from types import SimpleNamespace
from typing import Any

import pytest

from worker.engine.building import Capacity
from worker.engine.port import FrameRef
from worker.executor import Executor
from worker.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ref(job_id: str = "a", index: int = 0) -> FrameRef:
    return FrameRef(job_id, 1, index)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    """A pace that knows a step to take two seconds, with frame `a` five steps from its end."""
    made = Pace(clock)
    made.join(ref(), 7)
    made.step(ref(), 6)
    clock.now += 2.0
    made.step(ref(), 5)
    return made


def test_an_empty_device_is_free_now(clock: Clock) -> None:
    pace = Pace(clock)
    assert (pace.running(), pace.leaving_within(60.0), pace.seconds_left()) == (0, 0, 0.0)


def test_until_a_step_has_been_timed_nothing_is_said_of_the_end(clock: Clock) -> None:
    """The first step of a frame is not timed: it begins with encoding."""
    pace = Pace(clock)
    pace.join(ref(), 4)
    clock.now += 50.0
    pace.step(ref(), 3)
    assert (pace.running(), pace.leaving_within(1e9), pace.seconds_left()) == (1, 0, None)


def test_the_steps_left_and_the_time_of_one_tell_the_end(pace: Pace) -> None:
    assert pace.seconds_left() == pytest.approx(10.0)
    assert [pace.leaving_within(seconds) for seconds in (9.9, 10.1)] == [0, 1]


def test_the_device_is_free_when_the_frame_with_most_before_it_is_through(pace: Pace) -> None:
    pace.join(ref("b"), 20)
    assert pace.seconds_left() == pytest.approx(40.0)
    assert [pace.leaving_within(seconds) for seconds in (9.9, 10.1, 40.1)] == [0, 1, 2]


def test_several_steps_that_are_told_at_once_share_their_time(clock: Clock) -> None:
    pace = Pace(clock)
    pace.join(ref(), 10)
    pace.step(ref(), 9)
    clock.now += 6.0
    pace.step(ref(), 6)
    assert pace.seconds_left() == pytest.approx(6 * 2.0)


def test_a_step_of_another_length_is_learned_within_a_few(pace: Pace, clock: Clock) -> None:
    pace.join(ref("b"), 101)
    for left in range(100, 80, -1):
        pace.step(ref("b"), left)
        clock.now += 0.5
    pace.step(ref("b"), 80)
    assert pace.seconds_left() == pytest.approx(80 * 0.5, rel=0.01)


def test_a_step_that_is_told_twice_teaches_nothing(pace: Pace, clock: Clock) -> None:
    clock.now += 1000.0
    pace.step(ref(), 5)
    assert pace.seconds_left() == pytest.approx(10.0)


def test_a_frame_is_never_taken_to_be_through_before_it_has_left(pace: Pace, clock: Clock) -> None:
    clock.now += 8.0
    pace.step(ref(), 0)
    assert pace.seconds_left() == pytest.approx(2.0)
    pace.leave(ref())
    assert pace.seconds_left() == 0.0


def test_frames_that_are_not_there_are_ignored(pace: Pace) -> None:
    pace.step(ref("nobody"), 3)
    pace.leave(ref("nobody"))
    assert (pace.running(), pace.seconds_left()) == (1, pytest.approx(10.0))
    pace.leave(ref())
    pace.join(ref(index=1), 1)
    assert pace.leaving_within(2.0) == 1  # what was learned stays


@pytest.mark.parametrize("has_late_join", [True, False])
def test_as_many_frames_are_wanted_as_could_start_soon(pace: Pace, clock: Clock, has_late_join: bool) -> None:
    """Into a call that runs nobody can join: only what leaves makes room."""
    roster = SimpleNamespace(waiting_count=lambda: waiting, charge=None)
    others: Any = dict.fromkeys(("catalogue", "residency", "sink", "watchdog", "wake_claimer"))
    device = Executor(capacity=Capacity(8, has_late_join=has_late_join), pace=pace, roster=roster, **others)
    waiting = 0
    assert device.wanted() == (7 if has_late_join else 0)
    pace.join(ref("b"), 1)
    assert device.wanted() == (6 if has_late_join else 0)
    for left in (4, 3, 2, 1):
        clock.now += 0.5
        pace.step(ref(), left)
    assert device.wanted() == (8 if has_late_join else 2)  # both leave within the time that is looked ahead
    waiting = 3
    assert device.wanted() == (5 if has_late_join else -1)
    pace.leave(ref())
    pace.leave(ref("b"))
    assert device.wanted() == 5
