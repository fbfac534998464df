"""Which jobs may come before the first in order because their model is loaded."""

from hypothesis import given
from hypothesis import strategies as st

from common.domain.affinity import AFFINITY_JOBS, NO_AFFINITY, Affinity, Waiting, preferred
from common.domain.fairness import LANE_WEIGHT, Lane

LOADED = Affinity(frozenset({"loaded"}), patience_seconds=30.0)

queues = st.lists(
    st.builds(
        Waiting,
        id=st.uuids().map(str),
        vtime=st.floats(0, 100),
        model=st.sampled_from(["loaded", "other", "third"]),
        lane=st.sampled_from(list(Lane)),
        solo=st.sampled_from([False, False, True]),
        passed_over_seconds=st.none() | st.floats(0, 60),
    ),
    max_size=40,
)


def waiting(name: str, model: str = "other", lane: Lane = Lane.NORMAL, **changes: object) -> Waiting:
    return Waiting(name, 0.0, model, lane, **changes)  # type: ignore[arg-type]


def names(first: list[Waiting], affinity: Affinity = LOADED) -> list[str]:
    return [job.id for job in preferred(first, affinity)]


def test_a_loaded_model_comes_before_the_first_and_in_order() -> None:
    assert names([waiting("a"), waiting("b", "loaded"), waiting("c"), waiting("d", "loaded")]) == ["b", "d"]


def test_order_decides_when_nothing_is_loaded_or_the_first_is() -> None:
    queue = [waiting("a", "loaded"), waiting("b"), waiting("c", "loaded")]
    assert names(queue) == []
    assert names(queue[1:], NO_AFFINITY) == []
    assert names(queue[1:], Affinity(frozenset({"third"}))) == []
    assert names(queue[1:], Affinity(frozenset({"loaded"}), patience_seconds=0)) == []
    assert names([]) == []


def test_patience_ends() -> None:
    rest = [waiting("b", "loaded")]
    assert names([waiting("a", passed_over_seconds=29.9), *rest]) == ["b"]
    assert names([waiting("a", passed_over_seconds=30.0), *rest]) == []


def test_an_urgent_job_is_passed_over_by_none_that_is_less_so() -> None:
    queue = [waiting("a", lane=Lane.NORMAL), waiting("b", "loaded", Lane.LOW), waiting("c", "loaded", Lane.HIGH)]
    assert names(queue) == ["c"]


def test_a_job_that_must_run_alone_neither_waits_longer_nor_passes() -> None:
    assert names([waiting("a", solo=True), waiting("b", "loaded")]) == []
    assert names([waiting("a"), waiting("b", "loaded", solo=True)]) == []


@given(queues, st.floats(0, 60))
def test_what_is_preferred_is_loaded_near_the_head_and_no_less_urgent(queue: list[Waiting], patience: float) -> None:
    affinity = Affinity(frozenset({"loaded"}), patience)
    found = preferred(queue, affinity)
    assert all(job in queue[1:AFFINITY_JOBS] and job.model == "loaded" and not job.solo for job in found)
    if found:
        assert queue[0].model != "loaded"
        assert (queue[0].passed_over_seconds or 0) < patience
        assert all(LANE_WEIGHT[job.lane] >= LANE_WEIGHT[queue[0].lane] for job in found)
