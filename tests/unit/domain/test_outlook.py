"""What jobs may expect: against naive counts and sums over arbitrary pools, on the pure part."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.job import Progress
from common.domain.lifecycle import JobState
from common.domain.outlook import UNKNOWN, Forecast, Outlook, PoolLook, QueuedJob, RunningJob, poll_seconds
from common.domain.snapshot import JobSnapshot
from tests.making import PARAMS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GUESSES = {"fast": 0.1, "slow": 2.0}

models = st.sampled_from(["fast", "slow", "unheard-of"])
costs = st.floats(0.001, 1000)
vtimes = st.integers(0, 5).map(float)  # few, so that many jobs share a tag and their ids decide
ids = st.uuids().map(lambda one: f"job_{one.hex}")
queued = st.builds(QueuedJob, vtimes, ids, models, costs)
queues = st.lists(queued, max_size=40, unique_by=lambda job: job.id).map(
    lambda jobs: sorted(jobs, key=lambda job: (job.vtime, job.id))
)
running = st.lists(st.builds(RunningJob, models, costs, st.floats(0, 1)), max_size=10)
paces = st.lists(st.dictionaries(models, st.floats(0.001, 100)), min_size=1, max_size=4)


def snapshot(*, model: str = "fast", **changes: Any) -> JobSnapshot:
    """A queued job that may be claimed, with some members changed."""
    made: dict[str, Any] = dict.fromkeys(JobSnapshot.__dataclass_fields__)
    made |= {"id": "job_5", "state": JobState.QUEUED, "vtime": 0.0, "cost": 10.0, "progress": None}
    return JobSnapshot(**made | {"params": replace(PARAMS, model=model)} | changes)


def scale(look_paces: list[dict[str, float]], model: str) -> float:
    """Measured pace over guess, the long way."""
    seen = [one[model] for one in look_paces if model in one]
    return sum(seen) / len(seen) / GUESSES[model] if seen and model in GUESSES else 1.0


@given(queues, vtimes, ids, st.booleans())
def test_the_position_is_the_count_of_those_before(
    queue: list[QueuedJob], vtime: float, job_id: str, is_cut: bool
) -> None:
    outlook = Forecast(PoolLook(queue, is_cut=is_cut), GUESSES).of(snapshot(id=job_id, vtime=vtime))
    before = [job for job in queue if (job.vtime, job.id) < (vtime, job_id)]
    assert outlook.position == len(before)
    assert outlook.is_lower_bound == (is_cut and len(before) == len(queue))


@given(queues)
def test_every_job_of_the_look_has_its_own_position(queue: list[QueuedJob]) -> None:
    forecast = Forecast(PoolLook(queue, is_cut=True), GUESSES)
    outlooks = [forecast.of(snapshot(id=job.id, vtime=job.vtime)) for job in queue]
    assert [(one.position, one.is_lower_bound) for one in outlooks] == [(at, False) for at in range(len(queue))]


@given(queues, vtimes)
def test_a_new_job_is_behind_all_of_its_tag(queue: list[QueuedJob], vtime: float) -> None:
    outlook = Forecast(PoolLook(queue), GUESSES).of_new(vtime, "fast", 1.0)
    assert outlook.position == sum(job.vtime <= vtime for job in queue)


@given(queues, running, paces, vtimes, ids)
def test_the_wait_is_all_that_comes_before_shared_by_the_workers(
    queue: list[QueuedJob], at_work: list[RunningJob], measured: list[dict[str, float]], vtime: float, job_id: str
) -> None:
    look = PoolLook(queue, running=at_work, paces=measured)
    outlook = Forecast(look, GUESSES).of(snapshot(id=job_id, vtime=vtime, model="slow", cost=3.0))
    rest = sum(job.cost * (1 - job.done) * scale(measured, job.model) for job in at_work)
    before = sum(job.cost * scale(measured, job.model) for job in queue if (job.vtime, job.id) < (vtime, job_id))
    assert outlook.start_seconds == pytest.approx((rest + before) / len(measured))
    assert outlook.run_seconds == pytest.approx(3.0 * scale(measured, "slow"))


@given(queues, running, paces)
def test_nobody_is_told_to_start_before_those_in_front(
    queue: list[QueuedJob], at_work: list[RunningJob], measured: list[dict[str, float]]
) -> None:
    forecast = Forecast(PoolLook(queue, running=at_work, paces=measured), GUESSES)
    starts = [forecast.of(snapshot(id=job.id, vtime=job.vtime)).start_seconds for job in queue]
    assert None not in starts
    assert starts == sorted(starts)  # type: ignore[type-var]
    assert all(start >= 0 for start in starts if start is not None)


def test_a_pace_is_averaged_over_the_workers_that_measured_it() -> None:
    look = PoolLook(paces=[{"fast": 0.2}, {"fast": 0.4, "slow": 1.0}, {}])
    forecast = Forecast(look, GUESSES)
    assert forecast.seconds("fast", 10.0) == pytest.approx(30.0)
    assert forecast.seconds("slow", 10.0) == pytest.approx(5.0)
    assert forecast.seconds("unheard-of", 10.0) == 10.0


@pytest.mark.parametrize("look", [PoolLook(), PoolLook(paces=[{}], is_paused=True)], ids=["no worker", "paused"])
def test_without_anybody_to_start_it_a_job_has_a_place_and_no_start(look: PoolLook) -> None:
    assert Forecast(look, GUESSES).of(snapshot()) == Outlook(position=0, start_seconds=None, run_seconds=10.0)


def test_a_job_that_may_not_be_claimed_has_neither_place_nor_start() -> None:
    look = PoolLook([QueuedJob(0.0, "job_1", "fast", 1.0)], paces=[{}])
    assert Forecast(look, GUESSES).of(snapshot(held="intake")) == Outlook(run_seconds=10.0)


@pytest.mark.parametrize(
    ("progress", "left"),
    [(None, 10.0), (Progress("preparing", 0, 0), 10.0), (Progress("denoising", 3, 12), 7.5), (Progress("x", 9, 4), 0)],
)
def test_of_a_running_job_is_told_what_is_left(progress: Progress | None, left: float) -> None:
    job = snapshot(state=JobState.RUNNING, progress=progress)
    assert Forecast(PoolLook(paces=[{}]), GUESSES).of(job) == Outlook(run_seconds=left)


@pytest.mark.parametrize("state", [state for state in JobState if state.is_terminal])
def test_a_finished_job_expects_nothing(state: JobState) -> None:
    assert Forecast(PoolLook(paces=[{}]), GUESSES).of(snapshot(state=state)) == UNKNOWN


@pytest.mark.parametrize(
    ("outlook", "seconds"),
    [
        (UNKNOWN, 1),
        (Outlook(0, start_seconds=0.0, run_seconds=500.0), 1),
        (Outlook(3, start_seconds=10.0, run_seconds=1.0), 3),
        (Outlook(999, start_seconds=9999.0, run_seconds=1.0), 30),
    ],
)
def test_a_queued_job_is_looked_at_after_a_third_of_its_wait(outlook: Outlook, seconds: int) -> None:
    assert poll_seconds(snapshot(), outlook) == seconds


@pytest.mark.parametrize(("left", "seconds"), [(None, 1), (0.0, 1), (12.0, 4), (1e9, 30)])
def test_a_running_job_is_looked_at_after_a_third_of_what_is_left(left: float | None, seconds: int) -> None:
    assert poll_seconds(snapshot(state=JobState.RUNNING), Outlook(run_seconds=left)) == seconds
