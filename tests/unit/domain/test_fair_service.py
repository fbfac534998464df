"""The promises of the order of service, on simulated pools with 1 to 8 workers, in company, by affinity, with cancels.

Service is counted when it is claimed. A claim in company takes jobs out of their turn, and so do claims by affinity,
so the bounds say by how much: a claim for each key of a flow, and what affinity looks at.
"""

import random
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain.affinity import AFFINITY_JOBS, NO_AFFINITY, Affinity
from common.domain.fairness import LANE_WEIGHT, Lane
from tests.unit.domain.service import Device, Flow, Job, Service, Ways, list_schedule, run

A_LOW: Flow = ("p", "a", Lane.LOW)
B_NORMAL: Flow = ("p", "b", Lane.NORMAL)

FLOWS: list[Flow] = [(pool, tenant, lane) for pool in ("p", "q") for tenant in ("a", "b") for lane in Lane]
FEWER = settings(max_examples=50, deadline=None)
costs = st.floats(0.1, 10)
lanes = st.sampled_from(list(Lane))
numbers = st.integers(0, 1000)


@st.composite
def backlogs(draw: st.DrawFn, most_keys: int) -> list[list[Job]]:
    """Flows of one pool with many jobs each; every flow has one model and 1 to `most_keys` keys."""
    count, made = draw(st.integers(2, 4)), []
    for place in range(count):
        flow = ("p", f"t{place}", draw(lanes))
        keys, model = draw(st.integers(1, most_keys)), draw(st.sampled_from("mn"))
        chosen = draw(st.lists(costs, min_size=20, max_size=60))
        made.append(
            [
                Job(1000 * place + number, flow, cost, model, f"{model}{place if keys == 1 else ''}.{number % keys}")
                for number, cost in enumerate(chosen)
            ]
        )
    return made


def submit_in_turns(service: Service, flows: list[list[Job]]) -> None:
    for place in range(max(map(len, flows))):
        for flow in flows:
            for job in flow[place : place + 1]:
                service.submit(job)


def check_shares(flows: list[list[Job]], limit: int, affinity: bool, draws: random.Random) -> None:
    """Claim until a flow is empty; at every moment any two flows have had the same cost per weight, within bounds."""
    service = Service()
    submit_in_turns(service, flows)
    workers = draws.randint(1, 8)
    charge, left = defaultdict[Flow, float](float), {flow[0].flow: len(flow) for flow in flows}
    bounds = {flow[0].flow: _most_ahead(flow, limit, affinity=affinity) for flow in flows}
    while all(left.values()):
        service.now += draws.random()
        if draws.random() < 0.05:
            service.paused ^= {"p"}
        wishes = Affinity(frozenset({draws.choice("mn")}), 5.0) if affinity else NO_AFFINITY
        size = draws.randint(1, limit)
        for job in service.claim("p", f"w{draws.randrange(workers)}", limit=size, affinity=wishes):
            charge[job.flow] += job.cost / job.weight
            left[job.flow] -= 1
        for one, other in ((a, b) for a in bounds for b in bounds if a < b):
            assert abs(charge[one] - charge[other]) <= bounds[one] + bounds[other] + 1e-6


def _most_ahead(flow: list[Job], limit: int, *, affinity: bool) -> float:
    """Cost per weight that a flow may be off by: a claim for each of its keys, and what affinity skips."""
    most = max(job.cost for job in flow) / flow[0].weight
    skipped = AFFINITY_JOBS - 1 if affinity else 0
    return (limit * len({job.key for job in flow}) + skipped) * most


@FEWER
@given(backlogs(most_keys=1), st.randoms(use_true_random=False))
def test_backlogged_flows_share_by_weight_within_one_job_each(flows: list[list[Job]], draws: random.Random) -> None:
    check_shares(flows, 1, False, draws)


@FEWER
@given(backlogs(most_keys=1), st.randoms(use_true_random=False))
def test_with_company_within_one_claim_each(flows: list[list[Job]], draws: random.Random) -> None:
    check_shares(flows, 8, False, draws)


@FEWER
@given(backlogs(most_keys=3), st.randoms(use_true_random=False))
def test_flows_of_many_keys_are_ahead_by_a_claim_for_each_at_most(flows: list[list[Job]], draws: random.Random) -> None:
    check_shares(flows, 4, False, draws)


@FEWER
@given(backlogs(most_keys=2), st.randoms(use_true_random=False))
def test_affinity_skips_no_more_than_it_looks_at(flows: list[list[Job]], draws: random.Random) -> None:
    check_shares(flows, 4, True, draws)


commands = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from(FLOWS), costs),
        st.tuples(st.just("claim"), st.sampled_from(FLOWS), numbers),
        st.tuples(st.just("cancel"), st.just(FLOWS[0]), numbers),
        st.tuples(st.just("pause"), st.sampled_from(FLOWS), numbers),
    ),
    max_size=120,
)


@settings(max_examples=200, deadline=None)
@given(commands)
def test_any_history_keeps_tags_in_order_gives_no_credit_and_serves_each_job_once(
    history: list[tuple[str, Flow, float]],
) -> None:
    service, made, standing = Service(), list[Job](), dict[Flow, list[Job]]()
    claimed, times = list[int](), {"p": 0.0, "q": 0.0}
    for what, flow, number in history:
        pool, draw = flow[0], int(number)
        service.now += 1.0
        if what == "submit":
            job = Job(len(made), flow, number, "mn"[draw % 2], "kl"[draw % 2])
            service.submit(job)
            assert job.tag.start >= service.virtual_time(pool)  # an idle flow earns no credit
            made.append(job)
            standing.setdefault(flow, []).append(job)
        elif what == "claim":
            loaded = Affinity(frozenset("mn"[draw % 2 : draw % 2 + 1]), 5.0 if draw % 3 else 0.0)
            taken = service.claim(pool, f"w{draw % 8}", limit=1 + draw % 4, affinity=loaded)
            assert not (taken and pool in service.paused)
            claimed += [job.number for job in taken]
        elif what == "cancel" and made:
            job = made[draw % len(made)]
            if service.cancel(job):
                standing[job.flow].remove(job)
        elif what == "pause":
            service.paused ^= {pool}
        for name, known in times.items():
            assert service.virtual_time(name) >= known
            times[name] = service.virtual_time(name)
    assert len(claimed) == len(set(claimed))
    for jobs in standing.values():
        assert all(later.tag.start > sooner.tag.start for sooner, later in pairwise(jobs))
    service.paused.clear()
    while rest := [job for pool in times for job in service.claim(pool, "w", limit=8)]:
        claimed += [job.number for job in rest]
    assert sorted(claimed) == sorted(job.number for jobs in standing.values() for job in jobs)


@settings(deadline=None)
@given(st.lists(st.tuples(lanes, costs), min_size=1, max_size=6), lanes, costs, st.integers(1, 8))
def test_no_lane_starves(others: list[tuple[Lane, float]], lane: Lane, cost: float, workers: int) -> None:
    """Others never cease; before a newcomer of any lane each of them is served one job at most."""
    service, number = Service(), iter(range(10_000))
    flows = [(("p", f"t{place}", kind), price) for place, (kind, price) in enumerate(others)]

    def top_up() -> None:
        for flow, price in flows:
            while sum(job.flow == flow for job in service.queues["p"]) < 3:
                service.submit(Job(next(number), flow, price))

    for turn in range(20):
        top_up()
        service.claim("p", f"w{turn % workers}")
    first, second = (Job(next(number), ("p", "newcomer", lane), cost) for _ in range(2))
    service.submit(first)
    service.submit(second)
    before = defaultdict[Flow, float](float)
    while second.claimed_at is None:
        top_up()
        for job in service.claim("p", "w"):
            before[job.flow] += job.cost / job.weight
        if first.claimed_at is None:
            assert all(before[flow] <= price / LANE_WEIGHT[flow[2]] + 1e-6 for flow, price in flows)
    share = cost / LANE_WEIGHT[lane]
    assert all(before[flow] <= share + 2 * price / LANE_WEIGHT[flow[2]] + 1e-6 for flow, price in flows)


@pytest.mark.parametrize("devices", range(1, 9))
@pytest.mark.parametrize("limit", [1, 8])
def test_behind_ten_thousand_low_jobs_a_normal_one_starts_within_two_job_times(devices: int, limit: int) -> None:
    """F3. With company a claim of eight is on the device for eight job-times: what is on it is not taken off."""
    service, chance = Service(), random.Random(devices)
    flood = [Job(number, A_LOW, arrives_at=0.0) for number in range(10_000)]
    moments = sorted(chance.uniform(10, 400) / devices for _ in range(20))
    normal = [Job(20_000 + place, B_NORMAL, key="b", arrives_at=at) for place, at in enumerate(moments)]
    fleet = [Device(str(place)) for place in range(devices)]
    end = run(service, [*flood, *normal], fleet, Ways(limit=limit))
    lone = [job for job, last in zip(normal, [-99.0, *moments], strict=False) if job.arrives_at - last > 2 * limit]
    assert all(job.claimed_at - job.arrives_at <= 2 * limit for job in lone if job.claimed_at is not None)
    assert end <= (10_020 / devices) * 1.01 + 2 * limit


@pytest.mark.parametrize("devices", range(1, 9))
def test_a_flood_of_normal_jobs_leaves_the_low_ones_their_share(devices: int) -> None:
    """F3. B has four times the weight of A, so that A keeps a fifth of all devices while both wait."""
    service = Service()
    flood = [Job(number, A_LOW) for number in range(2_000)]
    normal = [Job(20_000 + number, B_NORMAL, key="b", arrives_at=100 / devices) for number in range(400)]
    run(service, [*flood, *normal], [Device(str(place)) for place in range(devices)], Ways())
    began, ended = 100 / devices, max(job.claimed_at or 0 for job in normal)
    kept = sum(began < (job.claimed_at or 0) <= ended for job in flood)
    assert kept == pytest.approx(100, abs=devices + 1)


@pytest.mark.parametrize("has_bells", [True, False], ids=["bells", "polls"])
@pytest.mark.parametrize(("limit", "patience"), [(1, 0.0), (1, 30.0), (8, 30.0)], ids=["plain", "affinity", "company"])
def test_devices_are_busy_and_a_mixed_backlog_is_done_as_soon_as_a_list_schedule(
    has_bells: bool, limit: int, patience: float
) -> None:
    """F6. 1,000 jobs of 1 to 20 s (5.3 s on average) of three models over four devices that hold two models each.

    Polls are a second apart; a device that has finished looks at once, so that they only matter after a look in vain.

    600 are there at first, the others come later. Loads take 4 s and count against the makespan, not as idle. A claim
    takes along what starts within two seconds. The reference knows no loads and no fairness: the best of three lists.
    """
    chance = random.Random(7)
    lengths = [max(1.0, min(20.0, chance.lognormvariate(1.5, 0.6))) for _ in range(1_000)]
    flows = [("p", tenant, lane) for tenant in "abc" for lane in Lane]
    jobs = []
    for number, cost in enumerate(lengths):
        arrives_at = 0.0 if number < 600 else chance.uniform(0, 700)
        model = chance.choice("xyz")
        key = f"{model}{chance.randrange(3)}"
        jobs.append(Job(number, chance.choice(flows), cost, model, key, arrives_at))
    fleet = [Device(str(place)) for place in range(4)]
    ways = Ways(limit, 2.0, load_seconds=4.0, has_bells=has_bells, patience_seconds=patience)
    makespan = run(Service(), jobs, fleet, ways)
    best = min(list_schedule(one, 4) for one in (lengths, sorted(lengths), sorted(lengths, reverse=True)))
    assert all(job.claimed_at is not None for job in jobs)
    assert max(device.idle_seconds for device in fleet) <= 0.02 * makespan
    if patience:  # without affinity most jobs would wait for a load
        assert makespan <= 1.05 * best
