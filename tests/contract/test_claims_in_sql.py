"""Who is claimed, on both databases: the order of service, company, the urgent and the solitary."""

import threading

import pytest
from sqlalchemy import insert, select, text, update

from common.db.choosing import _NEAR, choose
from common.db.engine import Database
from common.db.tables import jobs, pools, tenants, workers
from common.db.types import after_now
from common.domain.fairness import Lane
from tests.making import claim, enlist, submit


def test_two_workers_never_claim_the_same_job(database: Database) -> None:
    made = {submit(database).id for _ in range(40)}
    taken: list[str] = []

    def work(worker_id: str) -> None:
        while got := claim(database, worker_id, limit=3):
            taken.extend(job.id for job in got)

    threads = [threading.Thread(target=work, args=(enlist(database),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(made)


def test_a_claim_takes_the_head_and_only_jobs_that_may_share_its_call(database: Database) -> None:
    first = submit(database)
    submit(database, params={"width": 128})
    third = submit(database, params={"prompt": "another", "seed": 7})
    assert [job.id for job in claim(database, enlist(database))] == [first.id, third.id]


def test_company_of_a_call_has_its_call_key_and_company_of_a_step_its_step_key_in_order(database: Database) -> None:
    first, other_steps, other_size, alike, other_guidance = (
        submit(database, params=params)
        for params in ({}, {"num_inference_steps": 9}, {"width": 128}, {"prompt": "another"}, {"guidance_scale": 1.5})
    )
    with database.write() as connection:
        chosen = {
            company: list(connection.execute(choose("default", 8, alone=True, company=company, urgent=False)).scalars())
            for company in ("call", "step")
        }
    assert chosen["call"] == [first.id, alike.id]
    assert set(chosen["step"]) == {first.id, other_steps.id, alike.id, other_guidance.id}
    claimed = claim(database, enlist(database), company="step", limit=3)
    assert [job.id for job in claimed] == [first.id, other_steps.id, alike.id]
    assert [job.id for job in claim(database, enlist(database), company="step")] == [other_size.id]


def test_an_urgent_claim_takes_the_lane_high_only_out_of_order_and_serves_no_virtual_time(database: Database) -> None:
    normal, high, low, high_too, other = (
        submit(database, lane=lane, params=params)
        for lane, params in (
            (Lane.NORMAL, {}),
            (Lane.HIGH, {}),
            (Lane.LOW, {}),
            (Lane.HIGH, {"prompt": "another"}),
            (Lane.HIGH, {"width": 128}),
        )
    )
    worker = enlist(database)
    claimed = claim(database, worker, urgent=True, alone=False)
    assert [(job.id, job.lane) for job in claimed] == [(high.id, Lane.HIGH), (high_too.id, Lane.HIGH)]
    assert [job.id for job in claim(database, worker, urgent=True, alone=False)] == [other.id]
    assert claim(database, worker, urgent=True, alone=False) == []
    assert served(database, worker) == 0.0
    assert {job.id: job.lane for job in claim(database, worker)} == {normal.id: Lane.NORMAL, low.id: Lane.LOW}


def test_an_ordinary_claim_serves_the_virtual_time_of_its_head(database: Database) -> None:
    for _ in range(2):
        submit(database, params={"deterministic": True})
    worker = enlist(database)
    assert served(database, worker) == 0.0
    for _ in range(2):
        (job,) = claim(database, worker)
    assert served(database, worker) == vtime(database, job.id) == 0.25


def vtime(database: Database, job_id: str) -> object:
    with database.read() as connection:
        return connection.execute(select(jobs.c.vtime).where(jobs.c.id == job_id)).scalar_one()


def served(database: Database, worker_id: str) -> object:
    with database.read() as connection:
        return connection.execute(select(workers.c.served_vtime).where(workers.c.id == worker_id)).scalar_one()


def test_an_urgent_job_that_must_run_alone_waits_for_an_empty_worker(database: Database) -> None:
    job = submit(database, lane=Lane.HIGH)
    with database.write() as connection:
        connection.execute(update(jobs).values(solo=True))
    worker = enlist(database)
    assert claim(database, worker, urgent=True, alone=False) == []
    assert [got.id for got in claim(database, worker, urgent=True)] == [job.id]


def test_a_paused_pool_gives_no_job_urgent_or_not(database: Database) -> None:
    submit(database, lane=Lane.HIGH)
    worker = enlist(database)
    for paused_at in (after_now(0), None):
        with database.write() as connection:
            connection.execute(update(pools).values(paused_at=paused_at))
        found = [claim(database, worker, urgent=urgent) for urgent in (True, False)]
        assert [len(jobs) for jobs in found] == ([0, 0] if paused_at is not None else [1, 0])


def test_urgent_jobs_are_found_by_their_index(database: Database) -> None:
    submit(database), submit(database, lane=Lane.HIGH, params={"width": 128})
    with database.write() as connection:
        for number in range(9):  # a backlog: each round doubles the rows of the normal lane
            values = [(jobs.c.id + f"-{number}") if one is jobs.c.id else one for one in jobs.c]
            connection.execute(insert(jobs).from_select(jobs.c.keys(), select(*values).where(jobs.c.lane == "normal")))
        connection.execute(text("ANALYZE jobs"))
        query = choose("default", 2, alone=False, company="step", urgent=True)
        words = query.compile(connection, compile_kwargs={"literal_binds": True})
        explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
        plan = " ".join(str(row) for row in connection.execute(text(f"{explain} {words}")))
    assert "ix_jobs_claim_urgent" in plan


def test_a_deterministic_job_is_claimed_without_company(database: Database) -> None:
    first = submit(database, params={"deterministic": True})
    submit(database, params={"deterministic": True})
    assert [job.id for job in claim(database, enlist(database))] == [first.id]


def test_a_job_that_must_run_alone_waits_for_an_empty_worker(database: Database) -> None:
    job = submit(database)
    with database.write() as connection:
        connection.execute(update(jobs).values(solo=True))
    other = submit(database)
    worker = enlist(database)
    # A busy worker gets nothing, not even what stands behind, so that it empties and the job does not starve.
    assert claim(database, worker, alone=False) == []
    assert [got.id for got in claim(database, worker)] == [job.id]
    assert [got.id for got in claim(database, worker, alone=False)] == [other.id]


def test_another_tenants_first_job_does_not_wait_for_a_backlog(database: Database) -> None:
    with database.write() as connection:
        connection.execute(tenants.insert().values(id="other", name="Other"))
    for _ in range(20):
        submit(database, params={"deterministic": True})
    worker = enlist(database)
    claim(database, worker)
    urgent = submit(database, tenant_id="other", params={"deterministic": True})
    assert urgent.id in {claim(database, worker)[0].id for _ in range(2)}


def test_company_fits_into_the_frames_that_the_head_leaves(database: Database) -> None:
    head, two, three, one = (submit(database, params={"num_images": images}) for images in (2, 2, 3, 1))
    worker = enlist(database)
    with database.write() as connection:  # the first that does not fit ends it: order comes before a full device
        got = list(connection.execute(choose("default", 6, alone=True, company="call", urgent=False)).scalars())
    assert got == [head.id, two.id]
    assert [job.id for job in claim(database, worker, limit=7)] == [head.id, two.id, three.id]
    assert [job.id for job in claim(database, worker, limit=7)] == [one.id]


@pytest.mark.parametrize("company", ["call", "step"])
@pytest.mark.parametrize("limit", [1, 3])
def test_a_job_that_is_larger_than_the_room_comes_alone(database: Database, company: str, limit: int) -> None:
    large, small = (submit(database, params={"num_images": images}) for images in (4, 1))
    worker = enlist(database)
    assert [job.id for job in claim(database, worker, limit=limit, company=company)] == [large.id]
    assert [job.id for job in claim(database, worker, limit=limit, company=company)] == [small.id]
    assert claim(database, worker, limit=limit, company=company) == []


def test_two_devices_share_what_one_of_them_cannot_start_now(database: Database) -> None:
    made = [submit(database, params={"num_images": 4}).id for _ in range(4)]
    first, second = enlist(database), enlist(database)
    taken = [[job.id for job in claim(database, worker, limit=8)] for worker in (first, second)]
    assert taken == [made[:2], made[2:]]


def test_company_for_a_call_is_found_near_the_head_only(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_NEAR, "call", 3)
    head, *_, near = (submit(database, params={"num_inference_steps": steps}) for steps in (4, 5, 6, 4))
    submit(database)
    got = claim(database, enlist(database), company="call", limit=2)
    assert [job.id for job in got] == [head.id, near.id]
