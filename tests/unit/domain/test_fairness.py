"""Start-time fair queuing: properties over arbitrary backlogs, on the pure part."""

import heapq
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from common.domain.fairness import LANE_WEIGHT, Lane, predicted_seconds, tag

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
