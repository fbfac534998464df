"""The order of service with batches that are paused, resumed and canceled, on several pools and workers."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain.affinity import Affinity
from common.domain.fairness import Lane
from tests.unit.domain.service import Device, Flow, Job, Service, Ways, run

FLOWS: list[Flow] = [(pool, tenant, lane) for pool in ("p", "q") for tenant in ("a", "b") for lane in Lane]
BATCHES = ["b1", "b2"]
numbers = st.integers(0, 1000)
OFTEN = ("submit",) * 5 + ("claim",) * 4 + ("hold", "release", "release", "cancel_batch", "cancel")

commands = st.lists(
    st.tuples(st.sampled_from(OFTEN), st.sampled_from(FLOWS), numbers, st.floats(0.1, 10)), max_size=120
)


def check(service: Service, times: dict[str, float]) -> None:
    """Tags of a flow are in order and end by its finish tag, nobody is before V, and V never goes back."""
    for pool in ("p", "q"):
        now = service.virtual_time(pool)
        assert now >= times[pool]
        times[pool] = now
        queue = service.queues[pool]
        assert [job.order for job in queue] == sorted(job.order for job in queue)
        for flow in {job.flow for job in queue}:
            own = [job for job in queue if job.flow == flow]
            assert all(later.tag.start > sooner.tag.start for sooner, later in pairwise(own))
            assert own[-1].tag.finish <= service.finish[flow] + 1e-9


class History:
    """What happens to a service, and what became of its jobs."""

    def __init__(self) -> None:
        self.service = Service()
        self.made: list[Job] = []
        self.claimed: list[int] = []
        self.gone: set[int] = set()

    def submit(self, flow: Flow, draw: int, cost: float) -> None:
        own = (None, *BATCHES)[draw % 3]
        job = Job(len(self.made), flow, cost, "mn"[draw % 2], "kl"[draw % 2], frames=1 + draw % 3, batch=own)
        self.service.submit(job)
        self.made.append(job)

    def claim(self, flow: Flow, draw: int, _cost: float) -> None:
        loaded = Affinity(frozenset("mn"[draw % 2]), 5.0 if draw % 3 else 0.0)
        taken = self.service.claim(flow[0], f"w{draw % 4}", limit=1 + draw % 6, affinity=loaded)
        assert sum(job.frames for job in taken) <= 1 + draw % 6 or len(taken) == 1
        self.claimed += [job.number for job in taken]

    def hold(self, _flow: Flow, draw: int, _cost: float) -> None:
        batch = BATCHES[draw % 2]
        self.service.hold(batch)
        assert all(job.batch != batch for queue in self.service.queues.values() for job in queue)

    def release(self, _flow: Flow, draw: int, _cost: float) -> None:
        """Behind all that its flow has, and with no credit."""
        before = {job.flow: self.service.finish[job.flow] for job in self.made}
        for job in self.service.release(BATCHES[draw % 2]):
            assert job.tag.start >= max(before[job.flow], self.service.virtual_time(job.flow[0]))

    def cancel_batch(self, _flow: Flow, draw: int, _cost: float) -> None:
        """No tag is raised, and none is put before V."""
        before = {job.number: job.tag.start for job in self.made}
        self.gone |= {job.number for job in self.service.cancel_batch(BATCHES[draw % 2])}
        for job in self.made:
            now = self.service.virtual_time(job.flow[0])
            assert min(before[job.number], now) <= job.tag.start <= before[job.number]

    def cancel(self, _flow: Flow, draw: int, _cost: float) -> None:
        if self.made:
            job = self.made[draw % len(self.made)]
            self.gone |= {job.number} if self.service.cancel(job) else set()

    def end(self) -> None:
        """All that is held goes on, and all that waits is claimed."""
        for batch in BATCHES:
            self.service.release(batch)
        while rest := [job.number for pool in ("p", "q") for job in self.service.claim(pool, "w", limit=8)]:
            self.claimed += rest


@settings(max_examples=150, deadline=None)
@given(commands)
def test_any_history_of_batches_keeps_tags_in_order_and_serves_each_job_once(
    events: list[tuple[str, Flow, int, float]],
) -> None:
    history, times = History(), {"p": 0.0, "q": 0.0}
    for what, flow, draw, cost in events:
        history.service.now += 1.0
        getattr(history, what)(flow, draw, cost)
        check(history.service, times)
    history.end()
    assert sorted(history.claimed) == sorted({job.number for job in history.made} - history.gone)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_a_canceled_batch_leaves_its_tenants_own_jobs_next(devices: int) -> None:
    """Behind 5,000 jobs of its batch a tenant's single job would wait for all; the cancel draws it to the front."""
    service, low = Service(), ("p", "a", Lane.LOW)
    for number in range(5_000):
        service.submit(Job(number, low, batch="b1"))
    own = Job(9_000, low, key="own")
    service.submit(own)
    other = [Job(10_000 + number, ("p", "b", Lane.LOW), key="other") for number in range(100)]
    for job in other:
        service.submit(job)
    service.cancel_batch("b1")
    run(service, [], [Device(str(place)) for place in range(devices)], Ways(has_bells=False))
    assert own.claimed_at is not None
    assert own.claimed_at <= 3.0
    assert all(job.claimed_at is not None for job in other)


def test_a_resumed_batch_makes_up_for_nothing() -> None:
    """While a batch was paused another tenant was served; when it goes on it is never ahead of that one."""
    service = Service()
    paused, other = ("p", "a", Lane.LOW), ("p", "b", Lane.LOW)
    for number in range(400):
        service.submit(Job(number, paused, key="a", batch="b1"))
        service.submit(Job(1_000 + number, other, key="b"))
    service.hold("b1")
    for _ in range(200):
        service.claim("p", "w")
    service.release("b1")
    served = [job.flow for _ in range(600) for job in service.claim("p", "w")]
    assert len(served) == 600
    assert all(served[:end].count(paused) <= served[:end].count(other) + 200 + 2 for end in range(600))
    assert all(served[:end].count(paused) <= served[:end].count(other) + 2 for end in range(200))
