"""Cases 23 and 25: one key makes one job, at once and after a crash before the reply; a submit is never half there."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from common.db.engine import Database
from common.db.tables import flows, idempotency_keys, job_events, job_requests, jobs, object_refs
from tests.acceptance.studio import as_data_url, photo
from tests.processes.full import answers, free_port, start_api
from tests.processes.harness import Process, Stack, eventually, stack

pytestmark = pytest.mark.processes

CLIENTS = 50
REQUEST: dict[str, Any] = {"prompt": "a blue square", "model": "stub", "image": as_data_url(photo()), "seed": 3}
TABLES = (jobs, job_requests, job_events, object_refs, idempotency_keys, flows)


@pytest.fixture(params=["embedded", pytest.param("full", marks=[pytest.mark.postgres, pytest.mark.redis])])
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    """The embedded stack, and one on PostgreSQL and Redis, without any process."""
    services: dict[str, str] = {}
    if request.param == "full":
        request.getfixturevalue("postgres_database").close()  # empties it
        url = request.getfixturevalue("postgres_url")
        services = {"DARKROOM_DATABASE_URL": url, "DARKROOM_BROKER_URL": request.getfixturevalue("redis_url")}
    with stack(tmp_path, **services) as built:
        yield built


@pytest.fixture
def database(deployment: Stack) -> Iterator[Database]:
    opened = deployment.database
    yield opened
    opened.close()


def start_to_die(deployment: Stack, point: str) -> tuple[Process, str]:
    """An API that is killed at this failpoint, ready, and its base URL."""
    port = free_port()
    url, armed = f"http://127.0.0.1:{port}", f"{point}:sigkill"
    api = deployment.start("client.cli", "api", "--port", str(port), DARKROOM_FAILPOINTS=armed)
    eventually(lambda: answers(url), what="the API's first answer")
    return api, url


def submit(url: str, key: str) -> httpx.Response | None:
    """The answer; None when the connection ended without one."""
    try:
        return httpx.post(f"{url}/v1/jobs", json=REQUEST, headers={"Idempotency-Key": key}, timeout=60)
    except httpx.TransportError:
        return None


def submit_many(url: str, key: str) -> list[httpx.Response | None]:
    """As many clients as there are, with one key, at once."""
    with ThreadPoolExecutor(CLIENTS) as threads:
        return list(threads.map(lambda _: submit(url, key), range(CLIENTS)))


def only_job(replies: list[httpx.Response | None]) -> set[str]:
    """The ids in these replies, each of which is a job or 409 and asks to come again."""
    seen = [reply for reply in replies if reply is not None]
    told = Counter(reply.status_code for reply in seen)
    assert set(told) <= {202, 409}, [reply.text for reply in seen if reply.status_code not in {202, 409}][:3]
    assert all(reply.json()["code"] == "idempotency_in_flight" for reply in seen if reply.status_code == 409)
    return {reply.json()["id"] for reply in seen if reply.status_code == 202}


def rows(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in TABLES
        }


ONE_JOB = dict.fromkeys((table.name for table in TABLES), 1)
NOTHING = dict.fromkeys((table.name for table in TABLES), 0)


def test_one_key_50_times_at_once_makes_one_job_and_every_answer_is_the_job_or_409(
    deployment: Stack, database: Database
) -> None:
    replies = submit_many(start_api(deployment), "fifty")
    assert None not in replies
    assert len(only_job(replies)) == 1
    assert rows(database) == ONE_JOB


@pytest.mark.chaos
@pytest.mark.parametrize("number", range(5))
def test_one_key_50_times_at_once_at_two_apis_makes_one_job(deployment: Stack, database: Database, number: int) -> None:
    urls = [start_api(deployment), start_api(deployment)]
    with ThreadPoolExecutor(2) as threads:
        replies = [reply for both in threads.map(submit_many, urls, [f"key-{number}"] * 2) for reply in both]
    assert len(only_job(replies)) == 1
    assert rows(database) == ONE_JOB


@pytest.mark.parametrize("point", ["api.inserted", "api.committed", "api.rang"])
def test_a_key_whose_first_request_crashed_before_its_reply_makes_one_job_all_the_same(
    deployment: Stack, database: Database, point: str
) -> None:
    api, url = start_to_die(deployment, point)
    assert submit(url, "once") is None
    assert api.wait() == -9
    assert rows(database) == (NOTHING if point == "api.inserted" else ONE_JOB)
    url = start_api(deployment)
    again = submit(url, "once")
    assert again is not None
    assert only_job([again, *submit_many(url, "once")]) == {again.json()["id"]}
    assert rows(database) == ONE_JOB


def test_an_api_that_is_killed_amid_an_insert_leaves_nothing_half_also_with_50_clients_at_once(
    deployment: Stack, database: Database
) -> None:
    api, url = start_to_die(deployment, "api.inserted")
    assert set(submit_many(url, "half")) == {None}
    assert api.wait() == -9
    assert rows(database) == NOTHING
