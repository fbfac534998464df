"""Deliveries sent again while their job is being erased: no word of its owner is kept or sent, in whatever order."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, update

from common.db.deliveries import redeliver, redeliver_many
from common.db.engine import Database
from common.db.erasing import erase_job
from common.db.outcomes import scrub_deliveries
from common.db.tables import deliveries
from common.db.types import after_now
from common.domain.errors import Conflict
from tests.contract.test_deliveries_in_sql import canceled, end
from tests.endpoints import rows_of, subscribe
from tests.waiting import wait_until

Way = Callable[[Connection, str], Any]


def send_one(connection: Connection, delivery_id: str) -> object:
    try:
        return redeliver(connection, "default", delivery_id)
    except Conflict:
        return None


def send_many(connection: Connection, _: str) -> object:
    return redeliver_many(connection, "default", filters={}, created_after=None, created_before=None)


def revive(connection: Connection, delivery_id: str) -> object:
    """As somebody does who looks at neither job nor body."""
    own = deliveries.c.id == delivery_id
    values = {"state": "pending", "ended_at": None, "next_at": after_now(0)}
    return connection.execute(update(deliveries).where(own).values(values))


def ended(database: Database) -> tuple[str, str]:
    """A job and its delivery, which failed and says something."""
    subscribe(database)
    job = canceled(database)
    (row,) = rows_of(database)
    end(database, row.id, body="words")
    return job.id, row.id


def waits(database: Database) -> bool:
    with database.read() as connection:
        return bool(connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar_one())


@pytest.mark.postgres
@pytest.mark.parametrize("send", [send_one, send_many, revive])
def test_an_erasure_that_meets_a_delivery_being_sent_again_empties_it(postgres_database: Database, send: Way) -> None:
    database = postgres_database
    job_id, delivery_id = ended(database)

    def erase() -> None:
        with database.write() as connection:
            assert erase_job(connection, "default", job_id)

    erasing = threading.Thread(target=erase)
    with database.write() as connection:
        assert send(connection, delivery_id)
        erasing.start()
        wait_until(lambda: waits(database), what="the erasure, behind the one who sends again")
    erasing.join(20)
    (row,) = rows_of(database)
    assert (row.state, row.body) == ("pending", None)


@pytest.mark.postgres
@pytest.mark.parametrize("send", [send_one, send_many])
@pytest.mark.parametrize("erase", [erase_job, lambda connection, _, job_id: scrub_deliveries(connection, job_id)])
def test_a_delivery_whose_job_is_being_erased_is_not_sent_again(
    postgres_database: Database, send: Way, erase: Callable[[Connection, str, str], Any]
) -> None:
    database = postgres_database
    job_id, delivery_id = ended(database)
    sent: list[object] = []

    def send_again() -> None:
        with database.write() as connection:
            sent.append(send(connection, delivery_id))

    sending = threading.Thread(target=send_again)
    with database.write() as connection:
        erase(connection, "default", job_id)
        sending.start()
        wait_until(lambda: waits(database), what="the one who sends again, behind the erasure")
    sending.join(20)
    assert not any(sent)
    (row,) = rows_of(database)
    assert (row.state, row.body) == ("failed", "")
