"""Faults of the database, case 16: restarted under load, commits whose answer is lost, conflicts."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from common.db.engine import Database
from common.db.tables import jobs
from tests.faults.clusters import OwnPostgres, own_postgres, own_redis
from tests.faults.proxy import FaultProxy
from tests.faults.scenes import (
    ANSWER_SECONDS,
    Answer,
    Load,
    accepted,
    ask,
    assert_all_succeeded,
    await_workers,
    for_seconds,
    outcomes,
    running,
    scene,
    submit_once,
    under_load,
)
from tests.processes.harness import eventually

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis]

FULL = [pytest.mark.chaos, pytest.mark.timeout(900)]
# A worker that the database's return finds alive must have the time to renew, on a busy machine too.
LEASE = {"DARKROOM_LEASE_SECONDS": "3"}
REAL = {
    "DARKROOM_LEASE_SECONDS": "30",
    "DARKROOM_HEARTBEAT_SECONDS": "5",
    "DARKROOM_SWEEP_SECONDS": "5",
    "DARKROOM_POLL_SECONDS": "1",
    "DARKROOM_WISH_SECONDS": "0.5",
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[OwnPostgres]:
    with own_postgres(tmp_path) as running_cluster:
        yield running_cluster


@pytest.fixture
def settings(tmp_path: Path, cluster: OwnPostgres) -> Iterator[dict[str, str]]:
    with own_redis(tmp_path) as broker:
        yield {"DARKROOM_DATABASE_URL": cluster.url, "DARKROOM_BROKER_URL": broker.url}


def expect_unavailable(answer: Answer) -> None:
    """503 with Retry-After, and soon."""
    assert answer.status == 503, answer
    assert int(answer.retry_after or 0) >= 1, answer
    assert answer.seconds < ANSWER_SECONDS, answer


@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize(
    ("away_seconds", "clocks", "step_seconds"),
    [pytest.param(4, LEASE, 0.1, id="scaled"), pytest.param(60, REAL, 1.0, id="full", marks=FULL)],
)
def test_a_database_that_restarts_under_load_doubles_nothing_and_leaves_nothing_stuck(
    tmp_path: Path,
    cluster: OwnPostgres,
    settings: dict[str, str],
    away_seconds: float,
    clocks: dict[str, str],
    step_seconds: float,
    mode: Any,
) -> None:
    slow = clocks | {"DARKROOM_STUB_STEP_SECONDS": str(step_seconds)}
    with scene(tmp_path, **settings, **slow) as (built, database, client):
        built.sweeper()
        workers = [built.worker(), built.worker()]
        await_workers(client, 2)
        long = accepted(client, 4, num_inference_steps=80)
        eventually(lambda: len(running(database)) == len(long), what="all of them on a device")
        with under_load(client, patience_seconds=away_seconds + 60) as load:
            eventually(lambda: len(load.acknowledged) >= 5, what="some more jobs")
            cluster.stop(mode)
            during = look_while_away(client, long[0], away_seconds)
            cluster.start()
            accepted_before = len(load.acknowledged)
            eventually(lambda: len(load.acknowledged) >= accepted_before + 5, seconds=60, what="new jobs afterwards")
        assert len(during) >= 3 * away_seconds
        assert_one_job_per_key(database, load, long)
        assert_all_succeeded(built, database, [*long, *load.acknowledged.values()], seconds=180)
        assert [outcomes(database, job_id) for job_id in long] == [["succeeded"]] * len(long)
        assert [worker.popen.poll() for worker in workers] == [None, None]


def look_while_away(client: httpx.Client, job_id: str, seconds: float) -> list[Answer]:
    """Submit, GET and the probe, again and again: each answers 503 with Retry-After within two seconds."""
    answers: list[Answer] = []

    def look() -> None:
        some = [submit_once(client), ask(client, "GET", f"/v1/jobs/{job_id}"), ask(client, "GET", "/readyz")]
        for answer in some:
            expect_unavailable(answer)
        assert ask(client, "GET", "/healthz").status == 200
        answers.extend(some)

    for_seconds(seconds, look, every_seconds=0.2)
    return answers


def assert_one_job_per_key(database: Database, load: Load, others: list[str]) -> None:
    """Every request was accepted in the end, and made exactly one job; no job is there that nobody was told of."""
    ids = [*load.acknowledged.values(), *others]
    with database.read() as connection:
        rows = set(connection.execute(select(jobs.c.id)).scalars())
    assert len(ids) == len(set(ids))
    assert rows == set(ids), f"answers other than 2xx: {load.refusals()}"


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=FULL), pytest.param(3, marks=FULL)])
def test_a_connection_cut_after_its_commit_was_sent_makes_no_second_job_and_no_second_result(
    tmp_path: Path, cluster: OwnPostgres, settings: dict[str, str], seed: int
) -> None:
    tries = {"DARKROOM_MAX_TRIES": "50", "DARKROOM_STUB_STEP_SECONDS": "0.02"}
    with FaultProxy(cluster.port, seed=seed) as wire:
        behind = settings | {"DARKROOM_DATABASE_URL": cluster.url_at(wire.port)}
        with scene(tmp_path, **behind, **tries) as (built, _, client), closing(Database(cluster.url)) as database:
            built.sweeper()
            workers = [built.worker(), built.worker()]
            await_workers(client, 2)
            made = accepted(client, 2)
            assert_all_succeeded(built, database, made)
            wire.cut_when(b"COMMIT", probability=0.1)
            with under_load(client, pause_seconds=0.02) as load:
                eventually(lambda: len(load.acknowledged) >= 40, what="forty jobs")
            cuts = wire.cuts
            wire.heal()
            assert cuts >= 10
            assert_one_job_per_key(database, load, made)
            assert_all_succeeded(built, database, [*made, *load.acknowledged.values()], seconds=120)
            assert [worker.popen.poll() for worker in workers] == [None, None]
            assert set(load.refusals()) <= {503}


CONFLICTS = """
CREATE FUNCTION disturb() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF random() < 0.05 THEN
    IF random() < 0.5 THEN RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001'; END IF;
    RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER disturb AFTER INSERT OR UPDATE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION disturb();
CREATE TRIGGER disturb AFTER INSERT OR UPDATE ON job_events FOR EACH STATEMENT EXECUTE FUNCTION disturb();
CREATE TRIGGER disturb AFTER INSERT OR UPDATE ON attempts FOR EACH STATEMENT EXECUTE FUNCTION disturb();
"""


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=FULL)])
def test_with_deadlocks_and_serialisation_failures_at_5_percent_every_job_is_done_once(
    tmp_path: Path, cluster: OwnPostgres, settings: dict[str, str], count: int
) -> None:
    with scene(tmp_path, **settings, DARKROOM_STUB_STEP_SECONDS="0.01") as (built, database, client):
        built.sweeper()
        workers = [built.worker(), built.worker()]
        await_workers(client, 2)
        with closing(cluster.connect()) as connection:
            connection.execute(CONFLICTS)
        with under_load(client, pause_seconds=0.01) as load:
            eventually(lambda: len(load.acknowledged) >= count, seconds=300, what=f"{count} jobs")
        assert_one_job_per_key(database, load, [])
        assert_all_succeeded(built, database, list(load.acknowledged.values()), seconds=180)
        assert [worker.popen.poll() for worker in workers] == [None, None]
        assert set(load.refusals()) <= {503}, load.refusals()
