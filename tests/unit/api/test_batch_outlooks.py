"""What batches may expect, and the cache that it comes from."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from api.batch_outlooks import BatchOutlooks
from api.outlooks import Outlooks
from common.db.tables import jobs
from common.db.workers import beat
from common.domain.batch import BatchCounts, BatchOutlook, BatchSnapshot, BatchState
from common.domain.batch_outlook import UNKNOWN
from common.domain.errors import Unavailable
from tests.contract.test_batch_outlook_in_sql import BATCH
from tests.unit.api.conftest import WORKER, Api


class Clock:
    """Monotonic seconds that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def outlooks_of(api: Api, clock: Clock) -> BatchOutlooks:
    services = api.app.state.services
    pools = Outlooks(services.database, services.catalogue, fresh_seconds=30.0)
    return BatchOutlooks(services.database, pools, clock=clock)


def add(api: Api, count: int) -> None:
    """So many queued jobs of the batch, and a worker."""
    for _ in range(count):
        api.submit(priority="low")
    with api.database.write() as connection:
        connection.execute(update(jobs).values(batch_id=BATCH.id))
        for _ in range(2):  # the first only registers it
            beat(connection, WORKER, state="ready", resident=(), paces=None)


def batch_of(count: int, **changes: Any) -> BatchSnapshot:
    counts = BatchCounts(count, count, 0, 0, 0, 0)
    return replace(BATCH, total=count, inserted=count, counts=counts, **changes)


def test_a_running_batch_is_told_its_place_and_its_end(api: Api) -> None:
    add(api, 3)
    with api.database.read() as connection:
        cost = sum(connection.execute(select(jobs.c.cost)).scalars())
    outlook = outlooks_of(api, Clock()).of(batch_of(3))
    assert (outlook.position, outlook.is_lower_bound) == (0, False)
    assert outlook.eta_seconds == pytest.approx(cost)


def test_one_look_serves_a_second_and_a_new_version_is_looked_at_at_once(api: Api) -> None:
    clock = Clock()
    outlooks = outlooks_of(api, clock)
    over = BatchOutlook(eta_seconds=0.0)
    assert outlooks.of(batch_of(1)) == over
    add(api, 1)
    assert outlooks.of(batch_of(1)) == over
    assert outlooks.of(batch_of(1, version=9)).position == 0
    clock.now += 2.0
    assert outlooks.of(batch_of(1)).position == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"state": BatchState.VALIDATING},
        {"state": BatchState.PAUSED},
        {"state": BatchState.COMPLETED},
        {"cancel_requested": True},
    ],
)
def test_a_batch_that_does_not_go_on_expects_nothing(api: Api, changes: dict[str, Any]) -> None:
    add(api, 1)
    assert outlooks_of(api, Clock()).of(batch_of(1, **changes)) == UNKNOWN


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("odd")])
def test_without_the_database_nothing_is_known_and_nothing_is_raised(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("api.batch_outlooks.look_at_batch", fail)
    assert outlooks_of(api, Clock()).of(batch_of(1)) == UNKNOWN
