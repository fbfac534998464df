"""Images by URL in SQL, on both databases: one courier each, fenced, and a job is claimable after its last."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from common.db import intakes as sql
from common.db import rescue
from common.db.batch_work import NewItem
from common.db.engine import Database
from common.db.intakes import Intake
from common.db.jobs import cancel_job, find_job, insert_job
from common.db.tables import intakes, job_events, job_requests, jobs, object_refs, objects
from common.db.types import after_now
from common.domain.batching import step_key
from common.domain.catalogue import parse_catalogue
from common.domain.errors import Invalid, JobFailure
from common.domain.fairness import Lane
from common.domain.job import InputRef, NewJob
from common.domain.lifecycle import JobState
from common.domain.snapshot import JobSnapshot
from tests.contract.batch_making import put, start
from tests.making import claim, enlist, make_job

URL = "https://pictures.example/cat.png"
REQUEST = {"prompt": "a red circle", "model": "demo", "strength": 0.5, "num_inference_steps": 10}
CATALOGUE = parse_catalogue(
    """
    [demo]
    title = "A model that does everything"
    family = "stable_diffusion"
    source = { bundled = "demo" }
    tasks = ["txt2img", "img2img", "inpaint"]
    native_size = 128
    licence = "Apache-2.0"
    """
)
ERROR = JobFailure("the host is gone", code="input_fetch_failed").as_dict()


def picture(width: int = 400, height: int = 200, role: str = "image") -> InputRef:
    digest = f"{width:032x}{height:031x}{'a' if role == 'image' else 'b'}"
    return InputRef(f"inputs/default/{digest}.png", digest, 10, width, height)


def submit(database: Database, *roles: str, **request: Any) -> NewJob:
    """A job that awaits images of these roles."""
    job = make_job(request=REQUEST | request)
    with database.write() as connection:
        insert_job(connection, job)
        sql.insert_intakes(connection, job.id, job.tenant_id, dict.fromkeys(roles or ("image",), URL))
    return job


def take(database: Database, courier: str = "wrk_a") -> Intake | None:
    with database.write() as connection:
        return sql.take(connection, courier, 60)


def must_take(database: Database, courier: str = "wrk_a") -> Intake:
    taken = take(database, courier)
    assert taken is not None
    return taken


def complete(database: Database, intake: Intake, **size: int) -> str | None:
    with database.write() as connection:
        return sql.complete(connection, intake, picture(role=intake.role, **size), CATALOGUE)


def fail(database: Database, intake: Intake) -> bool:
    with database.write() as connection:
        return sql.fail(connection, intake, ERROR)


def look(database: Database, job: NewJob) -> JobSnapshot:
    with database.read() as connection:
        found = find_job(connection, "default", job.id)
    assert found is not None
    return found


def row(database: Database, job: NewJob) -> Any:
    query = select(jobs, job_requests.c.inputs).join(job_requests, job_requests.c.job_id == jobs.c.id)
    with database.read() as connection:
        return connection.execute(query.where(jobs.c.id == job.id)).one()


def count(database: Database, table: Any) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def shift(database: Database, **columns: Any) -> None:
    with database.write() as connection:
        connection.execute(update(intakes).values(**columns))


def test_a_job_whose_image_is_awaited_is_held_and_cannot_be_claimed(database: Database) -> None:
    job = submit(database)
    assert row(database, job).held == "intake"
    assert claim(database, enlist(database)) == []


def test_no_urls_hold_nothing(database: Database) -> None:
    job = make_job()
    with database.write() as connection:
        insert_job(connection, job)
        sql.insert_intakes(connection, job.id, "default", {})
    assert row(database, job).held is None


def test_a_taken_image_is_taken_by_nobody_else(database: Database) -> None:
    job = submit(database)
    intake = must_take(database)
    assert (intake.job_id, intake.role, intake.url, intake.attempt) == (job.id, "image", URL, 1)
    assert take(database, "wrk_b") is None


def test_couriers_at_once_share_the_images_without_doubles(database: Database) -> None:
    made = {submit(database).id for _ in range(20)}
    taken: list[str] = []

    def work(courier: str) -> None:
        while intake := take(database, courier):
            taken.append(intake.job_id)

    threads = [threading.Thread(target=work, args=(f"wrk_{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(made)


def queue_up(database: Database, count: int, lane: Lane, pool: str = "default") -> list[str]:
    """A batch of so many jobs that await an image."""
    lines = [NewItem(line, None, make_job(lane=lane, pool=pool), {"image": URL}) for line in range(count)]
    put(database, start(database, count), lines)
    return [line.job.id for line in lines if line.job is not None]


def test_images_come_in_the_order_of_service_not_of_their_submits(database: Database) -> None:
    behind = queue_up(database, 1500, Lane.LOW)
    in_flight = [must_take(database, f"wrk_{number}").job_id for number in range(4)]
    urgent = submit(database).id
    assert in_flight == behind[:4]
    assert must_take(database).job_id == urgent
    assert must_take(database).job_id == behind[4]


@pytest.mark.postgres
def test_a_take_walks_along_the_index_before_and_after_the_planner_has_counted(postgres_database: Database) -> None:
    queue_up(postgres_database, 1500, Lane.LOW)
    statement = sql._take_first("default", "wrk_a", 60)
    with postgres_database.write() as connection:
        explained = statement.compile(connection.engine, compile_kwargs={"literal_binds": True})
        for _ in range(2):
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {explained}").scalars())
            assert "ix_jobs_intake" in plan
            assert "Sort" not in plan
            connection.exec_driver_sql("ANALYZE jobs, intakes")


def test_nobody_starves_while_others_keep_coming(database: Database) -> None:
    (waiting,) = queue_up(database, 1, Lane.LOW)
    taken = []
    for _ in range(40):
        queue_up(database, 1, Lane.HIGH)
        taken.append(must_take(database).job_id)
    assert waiting in taken


def test_a_pool_with_many_images_does_not_keep_those_of_another_waiting(database: Database) -> None:
    queue_up(database, 30, Lane.HIGH)
    (other,) = queue_up(database, 1, Lane.LOW, pool="other")
    assert other in [must_take(database).job_id for _ in range(31)][:25]  # by chance: wrong once in 2 ** 25


def test_the_true_size_decides_what_runs_and_the_job_can_be_claimed(database: Database) -> None:
    job = submit(database)
    assert complete(database, must_take(database), width=400, height=200) == "default"
    found, stored = look(database, job), row(database, job)
    assert found.params.task == "img2img"
    assert found.params.width == pytest.approx(2 * found.params.height, rel=0.1)
    assert found.params.seed == job.params.seed
    assert (stored.held, stored.step_key) == (None, step_key(found.params))
    assert stored.call_key != job.call_key
    assert stored.cost != job.cost
    (claimed,) = claim(database, enlist(database))
    assert claimed.inputs == {"image": picture(400, 200)}
    assert claimed.params == found.params
    assert (count(database, intakes), count(database, object_refs), count(database, objects)) == (0, 1, 1)


def test_the_release_is_a_version_of_its_own_with_an_event(database: Database) -> None:
    job = submit(database)
    complete(database, must_take(database))
    assert look(database, job).version == 2
    with database.read() as connection:
        query = select(job_events.c.kind).where(job_events.c.job_id == job.id).order_by(job_events.c.version)
        assert list(connection.execute(query).scalars()) == ["job.queued", "job.prepared"]


def test_of_two_images_the_last_one_releases_the_job(database: Database) -> None:
    job = submit(database, "image", "mask")
    first, second = must_take(database), must_take(database, "wrk_b")
    assert {first.role, second.role} == {"image", "mask"}
    assert complete(database, first) is None
    assert row(database, job).held == "intake"
    assert complete(database, second) == "default"
    assert set(row(database, job).inputs) == {"image", "mask"}
    assert look(database, job).params.task == row(database, job).task == "inpaint"


def test_an_opaque_image_cannot_be_its_own_mask(database: Database) -> None:
    submit(database, mask_mode="alpha")
    intake = must_take(database)
    with pytest.raises(Invalid) as caught:
        complete(database, intake)
    assert caught.value.code == "mask_missing"
    with database.write() as connection:
        assert sql.complete(connection, intake, picture(), CATALOGUE, has_alpha=True) == "default"


def test_both_couriers_of_one_job_at_once_leave_it_released(database: Database) -> None:
    job = submit(database, "image", "mask")
    taken = [must_take(database, "wrk_a"), must_take(database, "wrk_b")]
    with ThreadPoolExecutor(2) as couriers:
        pools = set(couriers.map(lambda intake: complete(database, intake), taken))
    assert pools == {None, "default"}
    assert row(database, job).held is None


def test_the_lease_of_a_dead_courier_runs_out_and_its_late_writes_do_nothing(database: Database) -> None:
    job = submit(database)
    dead = must_take(database)
    shift(database, lease_until=after_now(-1))
    alive = must_take(database, "wrk_b")
    assert (alive.job_id, alive.attempt) == (job.id, 2)
    assert complete(database, dead) is None
    assert not fail(database, dead)
    with database.write() as connection:
        assert not sql.retry_later(connection, dead, 0)
    assert row(database, job).held == "intake"
    assert complete(database, alive) == "default"


def test_an_image_given_back_comes_again_after_its_pause(database: Database) -> None:
    submit(database)
    with database.write() as connection:
        assert sql.retry_later(connection, must_take_in(connection), 60)
    assert take(database) is None
    shift(database, next_at=after_now(-1))
    assert must_take(database).attempt == 2


def test_a_try_that_is_not_spent_does_not_count(database: Database) -> None:
    submit(database)
    with database.write() as connection:
        assert sql.retry_later(connection, must_take_in(connection), -1, spend=False)
    assert must_take(database).attempt == 1


def must_take_in(connection: Any) -> Intake:
    taken = sql.take(connection, "wrk_a", 60)
    assert taken is not None
    return taken


def test_an_image_that_cannot_be_had_fails_the_job(database: Database) -> None:
    job = submit(database, "image", "mask")
    assert fail(database, must_take(database))
    found = look(database, job)
    assert found.state is JobState.FAILED
    assert found.error == ERROR
    assert count(database, intakes) == 0


def test_a_job_that_the_model_refuses_at_its_true_size_can_still_be_failed(database: Database) -> None:
    job = submit(database, model="gone")
    intake = must_take(database)
    with pytest.raises(Invalid):
        complete(database, intake)
    assert (row(database, job).inputs, count(database, object_refs)) == ({}, 0)
    assert fail(database, intake)
    assert look(database, job).state is JobState.FAILED


def test_a_canceled_job_wants_no_image(database: Database) -> None:
    job = submit(database)
    intake = must_take(database)
    with database.write() as connection:
        cancel_job(connection, "default", job.id)
    shift(database, lease_until=after_now(-1))
    assert take(database) is None
    assert complete(database, intake) is None
    assert look(database, job).state is JobState.CANCELED
    assert count(database, intakes) == count(database, object_refs) == 0


def test_a_passed_deadline_ends_the_job_and_the_sweeper_forgets_its_images(database: Database) -> None:
    job, other = submit(database), submit(database)
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(deadline_at=after_now(-1)))
    assert must_take(database).job_id == other.id
    with database.write() as connection:
        assert rescue.end_queued(connection) == 1
        assert sql.forget_intakes(connection) == 1
        assert sql.forget_intakes(connection) == 0
    assert look(database, job).state is JobState.FAILED
    assert count(database, intakes) == 1
