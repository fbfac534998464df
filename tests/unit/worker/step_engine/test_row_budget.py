"""How many rows share a pass: the knee of the measured times, and what memory has been seen to allow."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from worker.engine.row_budget import RowBudget, TickTimes

KEY, OTHER = "tiny:64x64", "tiny:128x64"
SECONDS = st.floats(1e-3, 1.0)
ROWS = st.integers(1, 64)


def taught(a: float, b: float, rows: set[int]) -> TickTimes:
    """Times that have seen T(rows) = a + b x rows three times at each of these."""
    times = TickTimes()
    for seen in [*rows] * 3:
        times.learn(seen, a + b * seen)
    return times


@given(SECONDS, SECONDS, st.sets(ROWS, min_size=2, max_size=6), ROWS)
def test_times_on_a_line_are_known_everywhere(a: float, b: float, seen: set[int], rows: int) -> None:
    times = taught(a, b, seen)
    assert times.line() == pytest.approx((a, b), rel=1e-6, abs=1e-6)
    assert times.seconds(rows) == pytest.approx(a + b * rows, rel=1e-5, abs=1e-5)


@given(st.floats(1e-4, 10), st.floats(1e-4, 10), st.integers(1, 128))
def test_the_knee_is_the_fewest_rows_of_nearly_the_best_rate(a: float, b: float, most: int) -> None:
    knee = taught(a, b, {1, 2}).knee(most)
    good_enough = 0.95 * most / (a + b * most)
    assert min(2, most) <= knee <= most
    assert knee / (a + b * knee) >= good_enough * (1 - 1e-6)
    if knee > 2:
        assert (knee - 1) / (a + b * (knee - 1)) <= good_enough * (1 + 1e-6)


def test_where_a_pass_costs_nothing_but_its_rows_more_of_them_do_not_pay() -> None:
    assert taught(0.0, 1.0, {2, 4}).knee(64) == 2
    assert taught(-0.1, 1.0, {2, 4}).knee(64) == 2


def test_where_rows_cost_nothing_all_of_them_pay() -> None:
    assert taught(1.0, 0.0, {2, 4}).knee(64) == 64


def test_two_passes_or_one_number_of_rows_say_nothing_of_the_knee() -> None:
    times = TickTimes()
    assert (times.seconds(4), times.line(), times.knee(64)) == (None, None, 64)
    for rows in (2, 2, 2, 4, 4):
        times.learn(rows, rows)
    assert (times.line(), times.knee(64)) == (None, 64)
    assert times.seconds(63) == 4


def test_times_follow_a_device_that_changes() -> None:
    times = TickTimes()
    for seconds in [1.0, *[2.0] * 30]:
        times.learn(2, seconds)
    assert times.seconds(2) == pytest.approx(2.0, rel=0.01)


@given(
    st.integers(1, 64),
    st.one_of(st.none(), st.integers(0, 10**6)),
    st.lists(st.tuples(ROWS, SECONDS, st.one_of(st.none(), st.integers(0, 10**6))), max_size=20),
    st.lists(ROWS, max_size=4),
)
def test_a_limit_is_at_least_a_row_and_never_more_than_fits(
    most: int, room: int | None, passes: list[tuple[int, float, int | None]], lowered: list[int]
) -> None:
    budget = RowBudget(most, room)
    for rows, seconds, used in passes:
        budget.note(KEY, rows, seconds, used)
    for rows in lowered:
        budget.lower(KEY, rows)
    assert 1 <= budget.limit(KEY) <= budget.fitting(KEY) <= most
    assert budget.fitting(KEY) <= min(lowered, default=most)


@given(st.integers(1, 64), st.lists(ROWS, min_size=1, max_size=8))
def test_what_does_not_fit_only_ever_lowers_the_limit_and_only_of_its_own_size(most: int, rows: list[int]) -> None:
    budget = RowBudget(most)
    for one in rows:
        before = budget.fitting(KEY)
        budget.lower(KEY, one)
        assert budget.fitting(KEY) <= before
    assert budget.fitting(OTHER) == most


@given(st.integers(1, 30), st.integers(1, 400))
def test_after_every_two_hundred_good_passes_at_the_limit_two_more_rows_are_tried(lowered: int, good: int) -> None:
    budget = RowBudget(32)
    budget.lower(KEY, lowered)
    for _ in range(good):
        budget.note(KEY, budget.fitting(KEY), 1.0, None)
    assert budget.fitting(KEY) == min(32, lowered + 2 * (good // 200))


def test_passes_far_below_the_limit_prove_nothing_about_it() -> None:
    budget = RowBudget(32)
    budget.lower(KEY, 16)
    for _ in range(500):
        budget.note(KEY, 4, 1.0, None)
    assert budget.fitting(KEY) == 16


def test_another_pass_that_does_not_fit_begins_the_count_anew() -> None:
    budget = RowBudget(32)
    for _ in range(3):
        budget.lower(KEY, 16)
        for _ in range(199):
            budget.note(KEY, 16, 1.0, None)
    assert budget.fitting(KEY) == 16


@given(st.integers(1, 10**6), ROWS, st.integers(1, 10**5))
def test_no_more_rows_than_the_room_holds_of_what_one_has_taken(room: int, rows: int, each: int) -> None:
    budget = RowBudget(64, room)
    assume(each * rows <= room or rows == 1)
    budget.note(KEY, rows, 1.0, each * rows)
    assert budget.fitting(KEY) == max(1, min(64, room // each))
    assert not budget.is_unmeasured(KEY, rows)
    assert budget.is_unmeasured(KEY, rows + 1)


def test_a_size_that_was_never_measured_begins_with_few_rows() -> None:
    assert RowBudget(64, room_bytes=10**9).fitting(KEY) == 4
    assert RowBudget(64).fitting(KEY) == 64


def test_a_newcomer_does_not_wait_for_a_knee_of_few_rows() -> None:
    budget = RowBudget(64)
    for rows in [2, 4] * 3:
        budget.note(KEY, rows, float(rows), None)
    assert budget.limit(KEY) == 16


def test_a_slow_moment_is_forgotten_after_a_thousand_passes() -> None:
    times = taught(a=0.01, b=0.001, rows={2, 4, 8})
    for _ in range(3):
        times.learn(32, 9.0)
    assert times.knee(32) < 8
    for number in range(1001):
        times.learn((2, 4, 8)[number % 3], 0.01 + 0.001 * (2, 4, 8)[number % 3])
    assert times.knee(32) == taught(a=0.01, b=0.001, rows={2, 4, 8}).knee(32) > 8
