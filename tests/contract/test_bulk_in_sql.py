"""Many rows at once, on both databases: they are the rows that single inserts would have made."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Table, select, text
from sqlalchemy.exc import IntegrityError

from common.db.batch_work import NewItem
from common.db.bulk import insert_rows
from common.db.documents import JsonText, ParamsWriter, input_text
from common.db.engine import Database
from common.db.jobs import insert_job
from common.db.tables import batch_items, job_events, job_requests, jobs, object_refs, tenants
from common.domain.errors import Unavailable
from common.domain.fairness import Lane
from common.domain.job import InputRef, NewJob
from common.domain.params import AdapterUse, MaskParams, PassParams
from common.ids import new_id
from tests.contract.batch_making import put, start
from tests.making import PARAMS, make_job

PICTURE = InputRef("inputs/default/one.png", "ab" * 32, 1000, 64, 64)
MASK = InputRef("inputs/default/two.png", "cd" * 32, 1000, 64, 64)
NASTY = 'a\\b\\N\t"x"\r\n\\.\n{}é\u2028😀\x01'
# What a database stores as text: no NUL, and no half of a pair.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_OWN = ("id", "job_id", "call_key", "created_at", "deadline_at", "vtime", "vfinish", "batch_id")


def rows_of(database: Database, table: Table, job_id: str) -> list[dict[str, Any]]:
    key = table.c.id if table is jobs else table.c.job_id
    with database.read() as connection:
        found = [dict(row._mapping) for row in connection.execute(select(table).where(key == job_id))]
    return [{name: value for name, value in row.items() if name not in _OWN} for row in found]


def put_one(database: Database, job: NewJob) -> None:
    put(database, start(database, 1), [NewItem(0, "a", job)])


def assert_alike(database: Database, single: NewJob, bulk: NewJob) -> None:
    for table in (jobs, job_requests, job_events, object_refs):
        one, other = rows_of(database, table, single.id), rows_of(database, table, bulk.id)
        key = (lambda row: row["role"]) if table is object_refs else str
        assert sorted(one, key=key) == sorted(other, key=key), table.name
        assert one or table is object_refs


def insert_both(database: Database, job: NewJob) -> NewJob:
    twin = replace(job, id=new_id("job"))
    with database.write() as connection:
        insert_job(connection, job)
    put_one(database, twin)
    return twin


@pytest.mark.parametrize("inputs", [{}, {"image": PICTURE}, {"image": PICTURE, "mask": MASK}])
def test_a_job_of_a_chunk_has_the_rows_of_one_that_came_alone(database: Database, inputs: dict[str, InputRef]) -> None:
    job = make_job(
        lane=Lane.LOW,
        params={"prompt": NASTY, "adapters": (AdapterUse("style", 0.5),), "strength": 0.25, "scheduler": None},
        inputs=inputs,
        request={"prompt": NASTY, "deep": [{"a": None, "b": [1, 1.5, True]}]},
        tags=("a", NASTY),
        metadata={"note": NASTY, "": ""},
        external_id=NASTY,
        warnings=({"code": "size", "pointer": "/width"},),
        retry_of="job_before",
        cost=1 / 3,
    )
    assert_alike(database, job, insert_both(database, job))


def test_moments_are_the_database_s_own(database: Database) -> None:
    job = make_job(lane=Lane.LOW, deadline_seconds=60)
    twin = insert_both(database, job)
    with database.read() as connection:
        query = select(jobs.c.created_at, jobs.c.deadline_at).order_by(jobs.c.created_at)
        one, other = connection.execute(query).all()
    assert abs((one.created_at - other.created_at).total_seconds()) < 20
    assert all(round((row.deadline_at - row.created_at).total_seconds()) == 60 for row in (one, other))
    assert twin.id != job.id


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(words, words, st.dictionaries(words, words, max_size=2)), min_size=2, max_size=5))
def test_whatever_text_a_request_has_arrives(database: Database, told: list[tuple[str, str, dict[str, str]]]) -> None:
    made = [
        make_job(params={"prompt": prompt}, external_id=name or None, metadata=notes, request={"prompt": prompt})
        for prompt, name, notes in told
    ]
    work = start(database, len(made))
    put(database, work, [NewItem(line, str(line), job) for line, job in enumerate(made)])
    query = select(jobs.c.external_id, job_requests.c.params, job_requests.c.metadata, job_requests.c.request).join(
        job_requests, job_requests.c.job_id == jobs.c.id
    )
    with database.read() as connection:
        for job in made:
            row = connection.execute(query.where(jobs.c.id == job.id)).one()
            assert (row.external_id, row.metadata, row.request) == (job.external_id, job.metadata, job.request)
            assert row.params == json.loads(json.dumps(job.params.as_dict()))


def test_values_and_gaps_of_a_column_keep_their_rows(database: Database) -> None:
    errors = [None, {"code": "x"}, None, {"code": NASTY}]
    names = ["a", None, NASTY, None]
    rows = [
        {"batch_id": "bat_x", "line": line, "tenant_id": "default", "custom_id": names[line], "error": errors[line]}
        for line in range(4)
    ]
    with database.write() as connection:
        insert_rows(connection, batch_items, rows)
        insert_rows(connection, batch_items, [])
        found = connection.execute(select(batch_items).order_by(batch_items.c.line)).all()
    assert [(row.custom_id, row.error) for row in found] == list(zip(names, errors, strict=True))


def test_more_rows_than_one_piece_arrive_each_once(database: Database) -> None:
    rows = [{"batch_id": "bat_x", "line": line, "tenant_id": "default"} for line in range(1203)]
    with database.write() as connection:
        insert_rows(connection, batch_items, rows)
        lines = connection.execute(select(batch_items.c.line).order_by(batch_items.c.line)).scalars().all()
    assert list(lines) == list(range(1203))


def test_a_row_that_stands_already_is_an_integrity_error_and_undoes_the_others(database: Database) -> None:
    row = {"id": "other", "name": "Other", "created_at": datetime(2026, 1, 1, tzinfo=UTC)}
    with pytest.raises(IntegrityError), database.write() as connection:
        insert_rows(connection, tenants, [row | {"id": "third"}, row | {"id": "default"}])
    with database.write() as connection:
        insert_rows(connection, tenants, [row])
        assert set(connection.execute(select(tenants.c.id)).scalars()) == {"default", "other"}


@pytest.mark.postgres
def test_a_connection_that_is_cut_is_a_database_that_is_away(postgres_database: Database) -> None:
    rows = [{"batch_id": "bat_x", "line": line, "tenant_id": "default"} for line in range(5000)]
    with pytest.raises(Unavailable):
        postgres_database.transact(lambda connection: _insert_after_a_cut(postgres_database, connection, rows))
    with postgres_database.write() as connection:
        insert_rows(connection, batch_items, rows)


def _insert_after_a_cut(database: Database, connection: Connection, rows: list[dict[str, Any]]) -> None:
    mine = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with database.write() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": mine})
    insert_rows(connection, batch_items, rows)


later = PassParams(**{name: getattr(PARAMS, name) for name in PassParams.__dataclass_fields__})
passes = st.builds(
    lambda prompt, seed, strength, steps, scheduler, mask, then: replace(
        PARAMS,
        prompt=prompt,
        seed=seed,
        strength=strength,
        num_inference_steps=steps,
        scheduler=scheduler,
        mask=mask,
        then=then,
    ),
    prompt=words,
    seed=st.integers(0, 2**32 - 1),
    strength=st.none() | st.sampled_from([0.25, 0.5]),
    steps=st.integers(1, 3),
    scheduler=st.none() | st.just("euler"),
    mask=st.none() | st.just(MaskParams()),
    then=st.sampled_from([(), (later,)]),
)


@given(st.lists(passes, min_size=1, max_size=6))
def test_parameters_are_written_as_their_dictionary_is(drawn: list[Any]) -> None:
    writer = ParamsWriter()
    for params in drawn:
        written = writer.write(params)
        assert isinstance(written, JsonText)
        assert json.loads(written) == json.loads(json.dumps(params.as_dict()))


def test_an_input_is_written_as_its_dictionary_is() -> None:
    assert json.loads(input_text("image", PICTURE)) == {"image": PICTURE.as_dict()}
    assert json.loads(input_text("mask", MASK)) == {"mask": MASK.as_dict()}
