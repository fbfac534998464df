"""Start-time fair queuing: properties over arbitrary backlogs, on the pure part."""

import heapq
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.fairness import LANE_WEIGHT, Lane, Waiting, drawn_together, predicted_seconds, tag

costs = st.floats(0.01, 100)
weights = st.sampled_from([1.0, 2.0, 4.0, 8.0])


@given(st.lists(costs, min_size=1, max_size=50), weights)
def test_tags_of_a_flow_never_go_back(flow: list[float], weight: float) -> None:
    finish, starts = 0.0, []
    for cost in flow:
        drawn = tag(flow_finish=finish, virtual_time=0.0, cost=cost, weight=weight)
        starts.append(drawn.start)
        finish = drawn.finish
    assert starts == sorted(starts)


@given(st.floats(0, 1000), st.floats(0, 1000), costs, weights)
def test_an_idle_flow_earns_no_credit(finish: float, virtual_time: float, cost: float, weight: float) -> None:
    assert tag(flow_finish=finish, virtual_time=virtual_time, cost=cost, weight=weight).start >= virtual_time


@given(st.lists(costs, min_size=20, max_size=60), st.lists(costs, min_size=20, max_size=60), weights, weights)
def test_two_backlogged_flows_get_service_by_weight_within_one_job_each(
    first: list[float], second: list[float], weight_a: float, weight_b: float
) -> None:
    queue: list[tuple[float, int, str, float]] = []
    order = count()
    for name, flow, weight in (("a", first, weight_a), ("b", second, weight_b)):
        finish = 0.0
        for cost in flow:
            drawn = tag(flow_finish=finish, virtual_time=0.0, cost=cost, weight=weight)
            heapq.heappush(queue, (drawn.start, next(order), name, cost))
            finish = drawn.finish
    served, left = {"a": 0.0, "b": 0.0}, {"a": len(first), "b": len(second)}
    bound = max(first) / weight_a + max(second) / weight_b
    while all(left.values()):
        _, _, name, cost = heapq.heappop(queue)
        served[name] += cost
        left[name] -= 1
        assert abs(served["a"] / weight_a - served["b"] / weight_b) <= bound + 1e-6


def test_lanes_weigh_eight_four_one() -> None:
    assert (LANE_WEIGHT[Lane.HIGH], LANE_WEIGHT[Lane.NORMAL], LANE_WEIGHT[Lane.LOW]) == (8, 4, 1)


def test_cost_grows_with_frames_steps_and_pixels_and_is_never_nothing() -> None:
    small = predicted_seconds(frames=1, steps=1, width=64, height=64, seconds_per_megapixel_step=0.001)
    large = predicted_seconds(frames=4, steps=50, width=1024, height=1024, seconds_per_megapixel_step=0.3)
    assert 0 < small < large


queues = st.lists(st.tuples(st.floats(0, 1e4), st.floats(0.001, 100)), max_size=40).map(
    lambda drawn: [Waiting(start, share) for start, share in sorted(drawn)]
)


@given(queues, st.floats(0, 1e4), st.floats(0, 1e4))
def test_drawing_together_raises_no_tag_and_keeps_the_order(
    queue: list[Waiting], end: float, virtual_time: float
) -> None:
    tags, reached = drawn_together(queue, end=end, virtual_time=virtual_time)
    starts = [tag.start for tag in tags]
    assert all(tag.start <= job.start for tag, job in zip(tags, queue, strict=True))
    assert starts == sorted(starts)
    assert reached == (tags[-1].finish if tags else end)


@given(queues, st.floats(0, 1e4))
def test_nothing_is_put_before_what_was_served_unless_it_stood_there(queue: list[Waiting], virtual_time: float) -> None:
    tags, _ = drawn_together(queue, end=0.0, virtual_time=virtual_time)
    assert all(tag.start >= min(virtual_time, job.start) for tag, job in zip(tags, queue, strict=True))


@given(st.lists(st.tuples(st.floats(0.001, 100), st.booleans()), max_size=40), st.floats(0, 1e4))
def test_what_is_drawn_together_stands_as_if_the_others_had_never_come(
    submitted: list[tuple[float, bool]], virtual_time: float
) -> None:
    finish, left, expected = virtual_time, [], []
    alone = virtual_time
    for share, stays in submitted:
        drawn = tag(flow_finish=finish, virtual_time=virtual_time, cost=share, weight=1.0)
        finish = drawn.finish
        if stays:
            left.append(Waiting(drawn.start, share))
            expected.append(alone)
            alone += share
    tags, _ = drawn_together(left, end=0.0, virtual_time=virtual_time)
    assert [tag.start for tag in tags] == pytest.approx(expected)


@given(queues, st.integers(0, 40), st.floats(0, 1e4))
def test_page_by_page_comes_out_as_all_at_once(queue: list[Waiting], cut: int, virtual_time: float) -> None:
    first, end = drawn_together(queue[:cut], end=0.0, virtual_time=virtual_time)
    second, reached = drawn_together(queue[cut:], end=end, virtual_time=virtual_time)
    assert ([*first, *second], reached) == drawn_together(queue, end=0.0, virtual_time=virtual_time)
