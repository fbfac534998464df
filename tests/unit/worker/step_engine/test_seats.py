"""Who may join, who makes way for whom, and when the parked go on."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.domain.fairness import LANE_WEIGHT, Lane
from common.domain.params import AdapterUse
from tests.unit.worker.frames import NOW, frames_of, txt2img
from worker.engine.coroutines import Coroutine
from worker.engine.port import Admission, Prepared
from worker.engine.row_budget import RowBudget
from worker.engine.running import Running
from worker.engine.seats import Seats

pytest.importorskip("torch")

JOINS = Admission(True)
FOREVER = timedelta(days=7)


def frame_of(
    job_id: str, *, rows: int = 2, lane: Lane = Lane.NORMAL, within: timedelta = FOREVER, **changes: Any
) -> Prepared:
    """A frame that is due within this time."""
    (frame,) = frames_of(txt2img(guidance_scale=5.0 if rows == 2 else 1.0, **changes), job_id=job_id)
    return replace(frame, job=replace(frame.job, lane=lane, deadline_at=NOW + within))


def seat(seats: Seats, frame: Prepared, *, left: int = 10) -> Running:
    """Let a frame in that has so many evaluations before it."""
    one = Running(frame, Coroutine(lambda: None), left=left)
    seats.take(one)
    return one


def names(running: Any) -> list[str]:
    return [one.ref.job_id for one in running]


@pytest.fixture
def budget() -> RowBudget:
    return RowBudget(4)


@pytest.fixture
def seats(budget: RowBudget) -> Seats:
    return Seats(budget, lambda: NOW)


def test_frames_join_until_their_rows_are_taken(seats: Seats) -> None:
    seat(seats, frame_of("a"))
    assert seats.offer(frame_of("b")) == JOINS
    seat(seats, frame_of("b", rows=1))
    assert seats.offer(frame_of("c")) == Admission(False, "full")
    assert seats.offer(frame_of("c", rows=1)) == JOINS


def test_a_lone_frame_joins_even_where_it_does_not_fit() -> None:
    seats = Seats(RowBudget(1), lambda: NOW)
    assert seats.offer(frame_of("a")) == JOINS
    seat(seats, frame_of("a"))
    assert not seats.offer(frame_of("b")).ok


def test_a_size_that_did_not_fit_together_is_let_in_one_by_one_beside_others(seats: Seats, budget: RowBudget) -> None:
    small, wide = frame_of("a", rows=1), frame_of("b", rows=1, width=128)
    seat(seats, small)
    seat(seats, wide)
    budget.lower("tiny:64x64", 1)
    assert not seats.offer(frame_of("c", rows=1)).ok
    assert seats.offer(frame_of("c", rows=1, width=128)).ok


def test_other_adapters_wait_until_the_engine_is_empty(seats: Seats) -> None:
    one = seat(seats, frame_of("a"))
    adapted = frame_of("b", adapters=(AdapterUse("style"),), lane=Lane.HIGH)
    assert seats.offer(adapted) == Admission(False, "other adapters")
    seats.leave([one])
    assert seats.offer(adapted) == JOINS


def test_an_urgent_frame_parks_the_least_urgent_that_has_most_before_it() -> None:
    seats = Seats(RowBudget(8), lambda: NOW)
    seat(seats, frame_of("normal"), left=99)
    seat(seats, frame_of("nearly done", lane=Lane.LOW), left=1)
    seat(seats, frame_of("just begun", lane=Lane.LOW), left=50)
    seat(seats, frame_of("high", lane=Lane.HIGH), left=99)
    assert seats.offer(frame_of("urgent", lane=Lane.HIGH)) == JOINS
    seat(seats, frame_of("urgent", lane=Lane.HIGH))
    assert [one.ref.job_id for one in seats.all() if one.is_parked] == ["just begun"]


def test_as_many_are_parked_as_its_rows_need(seats: Seats) -> None:
    for number in range(4):
        seat(seats, frame_of(str(number), rows=1, lane=Lane.LOW))
    seat(seats, frame_of("urgent", lane=Lane.HIGH))
    assert len(seats.active()) == 3


@pytest.mark.parametrize("lane", [Lane.NORMAL, Lane.LOW])
def test_nobody_is_parked_for_an_equal_or_a_lesser(seats: Seats, lane: Lane) -> None:
    seat(seats, frame_of("a", lane=Lane.NORMAL))
    seat(seats, frame_of("b", lane=Lane.NORMAL))
    assert seats.offer(frame_of("c", lane=lane)) == Admission(False, "full")


def test_nobody_is_parked_where_that_would_not_be_enough(seats: Seats) -> None:
    seat(seats, frame_of("a", rows=1, lane=Lane.LOW))
    seat(seats, frame_of("b", lane=Lane.HIGH))
    seat(seats, frame_of("c", rows=1, lane=Lane.HIGH))
    assert not seats.offer(frame_of("urgent", lane=Lane.HIGH)).ok
    assert names(seats.active()) == ["a", "b", "c"]


def test_the_parked_go_on_before_their_equals_join_but_not_before_their_betters(seats: Seats) -> None:
    seat(seats, frame_of("a", lane=Lane.LOW))
    seat(seats, frame_of("b", lane=Lane.LOW))
    urgent = seat(seats, frame_of("urgent", lane=Lane.HIGH))
    seats.leave([urgent])
    assert seats.offer(frame_of("c", lane=Lane.LOW)) == Admission(False, "parked frames come first")
    assert seats.offer(frame_of("c", lane=Lane.NORMAL)) == JOINS
    seats.wake()
    assert names(seats.active()) == ["a", "b"]


def test_of_the_parked_the_most_urgent_goes_on_first() -> None:
    seats = Seats(RowBudget(2), lambda: NOW)
    seat(seats, frame_of("low", lane=Lane.LOW))
    seat(seats, frame_of("normal", lane=Lane.NORMAL))
    urgent = seat(seats, frame_of("urgent", lane=Lane.HIGH))
    assert names(seats.active()) == ["urgent"]
    seats.leave([urgent])
    seats.wake()
    assert names(seats.active()) == ["normal"]


def test_a_parked_frame_goes_on_alone_even_where_it_no_longer_fits(seats: Seats, budget: RowBudget) -> None:
    seat(seats, frame_of("a", lane=Lane.LOW))
    seat(seats, frame_of("b", lane=Lane.LOW))
    urgent = seat(seats, frame_of("urgent", lane=Lane.HIGH))
    budget.lower("tiny:64x64", 1)
    seats.leave([urgent])
    for one in seats.active():
        one.is_parked = True
    seats.wake()
    assert len(seats.active()) == 1


@pytest.mark.parametrize(
    ("within", "joins"),
    [(9.0, True), (10.0, False), (15.0, False), (20.0, True), (-1.0, True)],
    ids=["late already", "would be late", "would be late too", "in time all the same", "past"],
)
def test_nobody_joins_who_would_cost_a_running_job_its_deadline(
    seats: Seats, budget: RowBudget, within: float, joins: bool
) -> None:
    """Ten evaluations take 10 seconds alone and 20 in company; who is late anyhow keeps nobody out."""
    for rows in [2, 4] * 3:
        budget.note("tiny:64x64", rows, rows / 2, None)
    seat(seats, frame_of("a", within=timedelta(seconds=within)), left=10)
    assert seats.offer(frame_of("b")).ok is joins
    assert seats.offer(frame_of("b", width=128)).ok


def test_deadlines_keep_nobody_out_while_no_pass_was_timed(seats: Seats) -> None:
    seat(seats, frame_of("a", within=timedelta(seconds=1)))
    assert seats.offer(frame_of("b")).ok


class SeatsInUse(RuleBasedStateMachine):
    """Frames that come as they are let in and go as they like, in an engine of six rows."""

    def __init__(self) -> None:
        super().__init__()
        self.seats = Seats(RowBudget(6), lambda: NOW)
        self.present: list[Running] = []
        self.count = 0

    @rule(rows=st.integers(1, 2), lane=st.sampled_from(Lane), left=st.integers(1, 50))
    def offer(self, rows: int, lane: Lane, left: int) -> None:
        self.count += 1
        frame = frame_of(str(self.count), rows=rows, lane=lane)
        before = self.seats.active()
        if self.seats.offer(frame).ok:
            one = seat(self.seats, frame, left=left)
            self.present.append(one)
            assert not one.is_parked
            assert all(not gone.is_parked or gone.urgency < LANE_WEIGHT[lane] for gone in before)
        else:
            assert self.seats.active() == before
            assert self.present

    @precondition(lambda self: self.present)
    @rule(number=st.integers(0, 99))
    def leave(self, number: int) -> None:
        gone = self.present.pop(number % len(self.present))
        self.seats.leave([gone])

    @rule()
    def wake(self) -> None:
        before = self.seats.active()
        self.seats.wake()
        assert set(before) <= set(self.seats.active())
        assert bool(self.seats.active()) == bool(self.present)
        free = 6 - sum(one.rows for one in self.seats.active())
        assert all(one.rows > free for one in self.present if one.is_parked)

    @invariant()
    def nobody_is_lost(self) -> None:
        assert list(self.seats.all()) == self.present
        assert len(self.seats) == len(self.present)

    @invariant()
    def the_rows_are_never_too_many(self) -> None:
        assert sum(one.rows for one in self.seats.active()) <= 6


SeatsInUse.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSeatsInUse = SeatsInUse.TestCase
