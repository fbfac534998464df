"""Batches in SQL, on both databases: handing in, looking, listing, and counts that always add up."""

import re
import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select, text, update

from common.db import batch_work, claims
from common.db.batch_moves import ENDED_MANIFEST_SECONDS
from common.db.batch_wishes import cancel_batch, pause_batch, resume_batch
from common.db.batches import announce_manifest, find_batch, find_states, keep_manifest, list_batches
from common.db.engine import Database
from common.db.jobs import list_jobs
from common.db.objects import ANNOUNCED_SECONDS
from common.db.tables import batches, jobs, objects, tenants
from common.db.types import read_clock
from common.domain.batch import BatchCounts, BatchState
from common.domain.fairness import Lane
from tests.contract.batch_making import even, fill, hand_in, look, make_items, put, start, take
from tests.making import claim, enlist, make_image

KEY = "manifests/default/one.jsonl"


def sum_of(counts: BatchCounts) -> int:
    return counts.queued + counts.running + counts.succeeded + counts.failed + counts.canceled


def test_a_batch_is_found_as_it_was_handed_in(database: Database) -> None:
    batch_id = hand_in(database, 7, name="holiday", lane=Lane.NORMAL, retry_of="bat_of_before")
    found = look(database, batch_id)
    assert (found.name, found.lane, found.state, found.version) == ("holiday", "normal", BatchState.VALIDATING, 1)
    assert (found.total, found.validated, found.inserted) == (7, 0, 0)
    assert found.counts == BatchCounts(total=7, queued=7, running=0, succeeded=0, failed=0, canceled=0)
    assert (found.on_invalid, found.metadata, found.retry_of) == ("reject", {"of": "a test"}, "bat_of_before")
    assert (found.errors, found.error_count, found.cancel_requested) == ([], 0, False)
    assert found.started_at is None
    assert found.finished_at is None


def test_another_tenant_does_not_find_it(database: Database) -> None:
    batch_id = hand_in(database, 1)
    with database.read() as connection:
        assert find_batch(connection, "other", batch_id) is None
        assert list_batches(connection, "other", limit=9, after=None, filters={}) == []


def test_lists_are_newest_first_by_pages_and_by_state(database: Database) -> None:
    ids = sorted(hand_in(database, 1) for _ in range(4))
    with database.write() as connection:
        assert cancel_batch(connection, "default", ids[1])
    with database.read() as connection:
        page = list_batches(connection, "default", limit=2, after=None, filters={})
        assert [one.id for one in page] == [ids[3], ids[2]]
        following = list_batches(connection, "default", limit=9, after=ids[2], filters={})
        assert [one.id for one in following] == [ids[1], ids[0]]
        ended = list_batches(connection, "default", limit=9, after=None, filters={"state": BatchState.CANCELED})
        assert [one.id for one in ended] == [ids[1]]


def test_states_are_found_without_counting_and_of_any_tenant(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(tenants).values(id="other", name="Other"))
    mine, others = hand_in(database, 1), hand_in(database, 1, tenant_id="other")
    with database.write() as connection:
        cancel_batch(connection, "default", mine)
    with database.read() as connection:
        assert find_states(connection, [mine, others, "bat_unknown"]) == {
            mine: (BatchState.CANCELED, 2),
            others: (BatchState.VALIDATING, 1),
        }


def life_of(database: Database, key: str) -> timedelta:
    with database.read() as connection:
        row = connection.execute(select(objects.c.expires_at, objects.c.kind).where(objects.c.key == key)).one()
        assert row.kind == "manifest"
        return row.expires_at - read_clock(connection)


def test_a_manifest_is_announced_for_an_hour_and_kept_while_it_is_needed(database: Database) -> None:
    slack = timedelta(seconds=30)
    with database.write() as connection:
        announce_manifest(connection, "default", KEY, 10, "ab" * 32)
        announce_manifest(connection, "default", KEY, 10, "ab" * 32)
    assert abs(life_of(database, KEY) - timedelta(seconds=ANNOUNCED_SECONDS)) < slack
    with database.write() as connection:
        keep_manifest(connection, KEY, 7 * 86400)
    assert abs(life_of(database, KEY) - timedelta(days=7)) < slack
    batch_id = hand_in(database, 1, manifest_key=KEY)
    with database.write() as connection:
        cancel_batch(connection, "default", batch_id)
    assert abs(life_of(database, KEY) - timedelta(seconds=ENDED_MANIFEST_SECONDS)) < slack


def test_lines_without_a_job_count_as_queued_wrong_ones_as_failed(database: Database) -> None:
    work = start(database, 5)
    put(database, work, [*make_items(0, 2), batch_work.NewItem(2, "c", error={"code": "unknown_model"})])
    assert look(database, work.id).counts == BatchCounts(5, queued=4, running=0, succeeded=0, failed=1, canceled=0)
    (held, _) = claim(database, enlist(database), limit=2, company="step")
    counts = look(database, work.id).counts
    assert (counts.queued, counts.running) == (2, 2)
    with database.write() as connection:
        assert claims.finish(connection, held, [make_image(held)], {})
    counts = look(database, work.id).counts
    assert (counts.queued, counts.running, counts.succeeded) == (2, 1, 1)


def kept_counts(database: Database, batch_id: str) -> dict[str, int] | None:
    with database.read() as connection:
        found: dict[str, int] | None = connection.execute(
            select(batches.c.final_counts).where(batches.c.id == batch_id)
        ).scalar_one()
    return found


def test_what_is_over_has_its_counts_kept_and_is_counted_no_more(database: Database) -> None:
    work = start(database, 3)
    put(database, work, [*make_items(0, 2), batch_work.NewItem(2, None, error={"code": "unknown_model"})])
    worker = enlist(database)
    for _ in range(2):
        (held,) = claim(database, worker, limit=1)
        with database.write() as connection:
            assert claims.join(connection, held.id, held.fence, "cpu")
            assert claims.finish(connection, held, [make_image(held)], {})
    assert kept_counts(database, work.id) is None
    with database.write() as connection:
        assert batch_work.settle_batch(connection, work) is BatchState.COMPLETED
    expected = BatchCounts(3, queued=0, running=0, succeeded=2, failed=1, canceled=0)
    assert kept_counts(database, work.id) == asdict(expected)
    assert look(database, work.id).counts == expected
    with database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.batch_id == work.id).values(batch_id=None))
        (listed,) = list_batches(connection, "default", limit=9, after=None, filters={})
    assert listed.counts == expected, "nobody has counted its jobs again"


def test_a_batch_that_ends_before_its_jobs_stand_has_its_counts_kept_too(database: Database) -> None:
    canceled = hand_in(database, 7)
    with database.write() as connection:
        assert cancel_batch(connection, "default", canceled)
    rejected = hand_in(database, 5)
    work = take(database)
    assert work is not None
    with database.write() as connection:
        assert batch_work.reject(connection, work, [], 0)
    assert look(database, canceled).counts == BatchCounts(7, 0, 0, 0, failed=0, canceled=7)
    assert look(database, rejected).counts == BatchCounts(5, 0, 0, 0, failed=5, canceled=0)
    for batch_id in (canceled, rejected):
        assert kept_counts(database, batch_id) == asdict(look(database, batch_id).counts)


@pytest.mark.postgres
def test_a_list_of_batches_that_are_over_touches_no_jobs(postgres_database: Database) -> None:
    for _ in range(3):
        batch_id = hand_in(postgres_database, 1)
        with postgres_database.write() as connection:
            cancel_batch(connection, "default", batch_id)
    plan = explain(postgres_database, lambda c: list_batches(c, "default", limit=9, after=None, filters={}))
    scans = [line for line in plan if " on jobs" in line or "using ix_jobs" in line or " on batch_items" in line]
    assert len(scans) == 6
    assert all("never executed" in line for line in scans), scans


@pytest.mark.postgres
def test_a_page_of_an_old_batch_does_not_read_newer_jobs(postgres_database: Database) -> None:
    work, made = fill(postgres_database, 1000)
    for _ in range(2):
        fill(postgres_database, 1000)
    with postgres_database.write() as connection:
        connection.execute(text("ANALYZE"))
    after = sorted(job.id for job in made)[500]
    wishes: list[tuple[str | None, dict[str, str]]] = [(None, {}), (after, {}), (None, {"state": "queued"})]
    for place, filters in wishes:
        wanted = {"batch": work.id, **filters}
        look_at = partial(list_jobs, tenant_id="default", limit=20, after=place, filters=wanted)
        plan = explain(postgres_database, look_at)
        left_out = [int(one) for line in plan for one in re.findall(r"Rows Removed by Filter: (\d+)", line)]
        assert any("using ix_jobs_of_batch" in line for line in plan), "\n".join(plan)
        assert max(left_out, default=0) < 20, "\n".join(plan)


def test_a_batch_is_listed_page_by_page(database: Database) -> None:
    _, others = fill(database, 3)
    work, made = fill(database, 7, tags=("x",))
    fill(database, 3)
    ids, after, found = sorted((job.id for job in made), reverse=True), None, []
    while page := page_of(database, work.id, after):
        found += page
        after = page[-1]
    assert found == ids
    assert page_of(database, work.id, min(job.id for job in others)) == []
    assert page_of(database, work.id, max(ids), tag="x", state="queued") == ids[1:4]
    assert page_of(database, work.id, None, tag="y") == []


def page_of(database: Database, batch_id: str, after: str | None, **filters: str) -> list[str]:
    with database.read() as connection:
        page = list_jobs(connection, "default", limit=3, after=after, filters={"batch": batch_id, **filters})
    return [job.id for job in page]


def explain(database: Database, work: Callable[[Connection], object]) -> list[str]:
    """The plans, with what they did, of the statements that `work` executes."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_others: Any) -> None:
        seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        with database.read() as connection:
            work(connection)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    plan: list[str] = []
    with database.read() as connection:
        for statement, parameters in seen:
            if "SELECT" in statement:
                found = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, COSTS OFF) {statement}", parameters)
                plan += [row[0] for row in found]
    return plan


@pytest.mark.postgres
def test_the_counts_of_one_look_are_of_one_moment(postgres_database: Database) -> None:
    """Jobs move all the time while others look: no look sees one of them twice or not at all."""
    work, _ = fill(postgres_database, 60)
    worker, stop = enlist(postgres_database), threading.Event()
    failed: list[BaseException] = []

    def serve() -> None:
        try:
            while held := claim(postgres_database, worker, limit=2, company="step"):
                for job in held:
                    with postgres_database.write() as connection:
                        claims.finish(connection, job, [make_image(job)], {})
        except BaseException as error:  # a failure here must fail the test
            failed.append(error)
        finally:
            stop.set()

    def change() -> None:
        while not stop.is_set():
            postgres_database.transact(lambda c: pause_batch(c, "default", work.id))
            postgres_database.transact(lambda c: resume_batch(c, "default", work.id, even))

    threads = [threading.Thread(target=serve), threading.Thread(target=change)]
    for thread in threads:
        thread.start()
    looks = 0
    while not stop.is_set() or looks == 0:
        counts = look(postgres_database, work.id).counts
        assert sum_of(counts) == counts.total == 60
        assert min(counts.queued, counts.running, counts.succeeded, counts.failed, counts.canceled) >= 0
        looks += 1
    for thread in threads:
        thread.join(30)
    assert not failed


@pytest.mark.postgres
def test_counts_and_probes_are_answered_by_the_index(postgres_database: Database) -> None:
    work, _ = fill(postgres_database, 300)
    with postgres_database.write() as connection:
        connection.execute(text("ANALYZE jobs"))
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        for more in ("", "AND held IS NULL", "AND held = 'paused'"):
            mine = f"batch_id = '{work.id}' AND state = 'queued' {more}"
            query = f"EXPLAIN SELECT id FROM jobs WHERE {mine} ORDER BY held, id LIMIT 10"
            plan = "\n".join(row[0] for row in connection.execute(text(query)))
            assert "ix_jobs_batch_state" in plan, plan
            assert "Sort" not in plan, plan


def test_a_terminal_batch_needs_its_moment(database: Database) -> None:
    batch_id = hand_in(database, 1)
    broken: Any = update(batches).where(batches.c.id == batch_id).values({"state": BatchState.COMPLETED})
    with pytest.raises(Exception, match=r"(?i)check"), database.write() as connection:
        connection.execute(broken)
