"""Batches in SQL, on both databases: handing in, looking, listing, and counts that always add up."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from common.db import batch_work, claims
from common.db.batch_moves import ENDED_MANIFEST_SECONDS
from common.db.batch_wishes import cancel_batch, pause_batch, resume_batch
from common.db.batches import announce_manifest, find_batch, find_states, keep_manifest, list_batches
from common.db.engine import Database
from common.db.objects import ANNOUNCED_SECONDS
from common.db.tables import batches, objects, tenants
from common.db.types import read_clock
from common.domain.batch import BatchCounts, BatchState
from common.domain.fairness import Lane
from tests.contract.batch_making import even, fill, hand_in, look, make_items, put, start
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
