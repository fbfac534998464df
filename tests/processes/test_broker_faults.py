"""The broker may do what it likes: a worker neither dies of it nor loses a try."""

import signal
from pathlib import Path

import httpx
import pytest
import redis

from common.domain.lifecycle import JobState
from tests.making import submit
from tests.processes.full import full_stack
from tests.processes.harness import eventually, stack, until_finished

pytestmark = pytest.mark.processes


def test_an_empty_and_a_forged_message_file_are_skipped(tmp_path: Path) -> None:
    with stack(tmp_path) as built:
        worker = built.worker()
        database = built.database
        assert until_finished(database, submit(database).id).state is JobState.SUCCEEDED
        queue = tmp_path / "data" / "broker" / "queue"
        eventually(queue.is_dir, what="the queue's folder")
        (queue / "0.darkroom.pool.default.msg").write_bytes(b"")
        (queue / "1.darkroom.pool.default.msg").write_bytes(b'{"body": "gASV", "headers": {}}')
        eventually(lambda: not list(queue.glob("*.msg")), what="the end of the messages")
        assert until_finished(database, submit(database).id).state is JobState.SUCCEEDED
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        database.close()


@pytest.mark.redis
def test_a_broker_that_answers_nonsense_costs_no_job_and_sigterm_still_drains(tmp_path: Path, redis_url: str) -> None:
    key = "darkroom:darkroom.pool.default"
    client = redis.Redis.from_url(redis_url)
    with stack(tmp_path, DARKROOM_BROKER_URL=redis_url, DARKROOM_STUB_STEP_SECONDS="0.1") as built:
        worker = built.worker()
        database = built.database
        assert until_finished(database, submit(database).id).state is JobState.SUCCEEDED
        client.set(key, "nonsense")
        try:
            done = until_finished(database, submit(database).id)
            assert (done.state, done.attempt) == (JobState.SUCCEEDED, 1)
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
        finally:
            client.delete(key)
            client.close()
        database.close()


@pytest.mark.postgres
def test_submits_are_accepted_and_done_while_the_broker_is_away(tmp_path: Path) -> None:
    with full_stack(tmp_path, DARKROOM_BROKER_URL="redis://127.0.0.1:1/0") as (built, url):
        worker = built.worker()
        database = built.database
        with httpx.Client(base_url=url, timeout=10) as client:
            made = [client.post("/v1/jobs", json={"prompt": "a blue square"}) for _ in range(3)]
            assert [answer.status_code for answer in made] == [202, 202, 202]
            for answer in made:
                assert until_finished(database, answer.json()["id"]).state is JobState.SUCCEEDED
            eventually(lambda: client.get("/readyz").json()["broker"] == "degraded", what="the report")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        database.close()
