"""What a batch may expect: against sums over arbitrary pools, and against simulated devices."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.batch import BatchOutlook
from common.domain.batch_outlook import UNKNOWN, Flow, Part, Share, outlook_of
from common.domain.fairness import LANE_WEIGHT, Lane
from common.domain.outlook import Forecast, PoolLook, QueuedJob, RunningJob
from tests.unit.domain.service import Device, Job, Service, Ways, run

GUESSES = {"m": 1.0}
LOOK = 1000

costs = st.floats(0.1, 100)
queues = st.lists(st.tuples(st.integers(0, 50), costs, st.booleans()), min_size=1, max_size=30)
workers = st.integers(1, 4)


def forecast(queue: list[QueuedJob], *, number: int = 1, is_cut: bool = False, **changes: Any) -> Forecast:
    ordered = sorted(queue, key=lambda job: (job.vtime, job.id))
    return Forecast(PoolLook(ordered, is_cut=is_cut, paces=[{}] * number, **changes), GUESSES)


def part_of(own: list[QueuedJob], **changes: Any) -> Part:
    """The part of a batch that has these jobs."""
    first = min(((job.vtime, job.id) for job in own), default=None)
    cost = sum(job.cost for job in own)
    shares = [Share("m", len(own), cost, cost)] if own else []
    last = max((job.vtime for job in own), default=0.0)
    return replace(Part("p", shares, first=first, last=last), **changes)


def drawn(rows: list[tuple[int, float, bool]]) -> tuple[list[QueuedJob], list[QueuedJob]]:
    """All jobs of a pool, and those of the batch."""
    made = [(QueuedJob(float(vtime), f"job_{at}", "m", cost), own) for at, (vtime, cost, own) in enumerate(rows)]
    return [job for job, _ in made], [job for job, own in made if own]


@given(queues, workers)
def test_within_the_look_it_ends_when_all_up_to_its_tail_is_done(
    rows: list[tuple[int, float, bool]], number: int
) -> None:
    queue, own = drawn(rows)
    outlook = outlook_of([part_of(own)] if own else [], {"p": forecast(queue, number=number)}, 0)
    if not own:
        assert outlook == BatchOutlook(eta_seconds=0.0)
        return
    tail, mean = max(job.vtime for job in own), sum(job.cost for job in own) / len(own)
    before = sum(job.cost for job in queue if job.vtime <= tail) - mean
    assert outlook.eta_seconds == pytest.approx(before / number + mean)
    first = min((job.vtime, job.id) for job in own)
    assert outlook.position == sum((job.vtime, job.id) < first for job in queue)
    assert not outlook.is_lower_bound


@given(queues, workers, st.integers(1, 50))
def test_lines_without_a_job_yet_put_the_end_off_and_more_workers_bring_it_nearer(
    rows: list[tuple[int, float, bool]], number: int, missing: int
) -> None:
    queue, own = drawn([(0, 1.0, True), *rows])
    flows = [Flow(1.0, 60.0, is_own=True)]
    ends = [
        outlook_of([part_of(own, flows=flows)], {"p": forecast(queue, number=count)}, more).eta_seconds
        for count, more in ((number, 0), (number, missing), (number + 1, missing))
    ]
    sooner, later, shared = (end for end in ends if end is not None)
    assert sooner < later
    assert shared <= later


def test_of_what_runs_alone_the_longest_decides() -> None:
    running = [RunningJob("m", 10.0, 0.5), RunningJob("m", 8.0, 0.0)]
    part = Part("p", running=running)
    assert outlook_of([part], {"p": forecast([], running=running)}, 0) == BatchOutlook(eta_seconds=8.0)


def test_the_pool_that_is_done_last_decides_and_the_nearest_first_job_is_the_position() -> None:
    near, far = QueuedJob(1.0, "job_1", "m", 1.0), QueuedJob(2.0, "job_2", "m", 50.0)
    parts = [part_of([near]), replace(part_of([far]), pool="q")]
    forecasts = {"p": forecast([near]), "q": forecast([QueuedJob(0.0, "job_0", "m", 5.0), far])}
    assert outlook_of(parts, forecasts, 0) == BatchOutlook(0, eta_seconds=55.0)


@pytest.mark.parametrize("changes", [{"number": 0}, {"is_paused": True}], ids=["no worker", "paused"])
def test_without_anybody_at_work_it_has_a_place_and_no_end(changes: dict[str, Any]) -> None:
    own = [QueuedJob(1.0, "job_1", "m", 1.0)]
    assert outlook_of([part_of(own)], {"p": forecast(own, **changes)}, 0) == BatchOutlook(0)


def test_before_the_first_job_stands_and_without_a_look_at_its_pool_nothing_is_known() -> None:
    assert outlook_of([], {}, 5) == UNKNOWN
    assert outlook_of([part_of([QueuedJob(1.0, "job_1", "m", 1.0)])], {}, 0) == UNKNOWN


@pytest.mark.parametrize("lane", list(Lane))
@pytest.mark.parametrize("inserted", [1.0, 0.4])
def test_beyond_the_look_it_ends_about_when_simulated_devices_end_it(lane: Lane, inserted: float) -> None:
    """3,000 jobs of 2 s in competition with 4,000 of 1 s of another tenant over three devices; the look sees 1,000.

    `inserted`: the share of the batch whose jobs stand; the others come at once, which the forecast does not see.
    """
    service, flows = Service(), {"own": ("p", "a", lane), "other": ("p", "b", Lane.NORMAL)}
    made = [Job(number, flows["own"], 2.0, batch="b") for number in range(3_000)]
    others = [Job(10_000 + number, flows["other"], 1.0, key="o") for number in range(4_000)]
    standing = made[: int(len(made) * inserted)]
    for job in (*standing, *others):
        service.submit(job)
    queue = [QueuedJob(job.tag.start, f"{job.number:06}", "m", job.cost) for job in service.queues["p"]]
    forecast_ = forecast(queue[:LOOK], number=3, is_cut=True)
    part = Part(
        "p",
        [Share("m", len(standing), 2.0 * len(standing), 2.0 * len(standing))],
        first=(standing[0].tag.start, f"{standing[0].number:06}"),
        last=standing[-1].tag.start,
        flows=[Flow(LANE_WEIGHT[flow[2]], service.finish[flow], flow == flows["own"]) for flow in flows.values()],
    )
    eta = outlook_of([part], {"p": forecast_}, len(made) - len(standing)).eta_seconds
    for job in made[len(standing) :]:
        service.submit(job)
    run(service, [], [Device(str(place)) for place in range(3)], Ways(has_bells=False))
    end = max(job.claimed_at + job.cost for job in made if job.claimed_at is not None)
    assert eta == pytest.approx(end, rel=0.03)
