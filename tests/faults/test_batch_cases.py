"""Case 25 for batches, and what a batch promises while processes die: never half, nothing twice, counts that add up."""

import hashlib
import random
import signal
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image

from common import failpoints
from tests.faults.at_rest import assert_clean_end
from tests.faults.batches import (
    assert_adds_up,
    assert_recount,
    lines,
    look,
    results,
    rows_of,
    send,
    until_status,
    upload,
)
from tests.faults.clients import SOURCES, source_picture
from tests.faults.deployment import Deployment, Part, deployment
from tests.processes.harness import eventually
from worker.engine.stub_engine import picture_from

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis]

API_POINTS = sorted(name for name in failpoints.NAMES if name.startswith("api.batch"))
COURIER_POINTS = sorted(name for name in failpoints.NAMES if name.startswith("courier.batch"))
FULL = [pytest.mark.chaos, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment without any process; batches go in chunks of 100 lines."""
    settings = {"DARKROOM_STUB_STEP_SECONDS": "0.002", "DARKROOM_BATCH_CHUNK": "100"}
    folder = tmp_path_factory.mktemp("batches")
    with deployment(folder, apis=0, workers=0, couriers=0, sweepers=0, **settings) as built:
        yield built


@pytest.fixture(autouse=True)
def without_processes_afterwards(made: Deployment) -> Iterator[None]:
    yield
    for part in made.of_role():
        made.end(part.name)


def start_api(made: Deployment, once: str = "") -> Part:
    part = made.start("api", once=once)
    made.until_ready()
    return part


def until_dead(part: Part) -> None:
    eventually(lambda: not part.is_alive, what=f"the end of {part.name}")
    assert part.process.popen.returncode == -9, part.process.log.read_text()


def accepted(url: str, count: int, key: str) -> str:
    """The id of a batch of so many edits."""
    uploads = [upload(url, number) for number in range(SOURCES)]
    answer = send(url, lines(count, uploads), key)
    assert answer is not None
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def assert_each_once(url: str, batch_id: str, count: int) -> list[str]:
    """Exactly so many result lines, in order, each with the picture that it must be. Returns the jobs."""
    found = results(url, batch_id)
    assert [line["custom_id"] for line in found] == [f"img-{number:05}" for number in range(count)]
    assert {line["status"] for line in found} == {"succeeded"}
    jobs = [line["job"] for line in found]
    assert len(set(jobs)) == count
    return jobs


def assert_right_pictures(made: Deployment, url: str, batch_id: str, sample: int) -> None:
    """Of a sample of the results, the pixels are those of their own line."""
    found = results(url, batch_id)
    for number in random.Random(7).sample(range(len(found)), min(sample, len(found))):
        image = found[number]["images"][0]
        data = httpx.get(image["url"], follow_redirects=True, timeout=60).content
        assert hashlib.sha256(data).hexdigest() == image["sha256"]
        source = source_picture(number % SOURCES)
        wanted = picture_from(source.tobytes(), f"picture {number}", number, source.size)
        assert Image.open(BytesIO(data)).convert("RGB").tobytes() == wanted.tobytes()


def test_a_batch_of_500_with_3_wrong_lines_is_rejected_whole_and_says_where(made: Deployment) -> None:
    before = rows_of(made.database)
    url = start_api(made).url
    made.start("courier")
    manifest = lines(500)
    manifest[7] |= {"strenght": 0.5}
    manifest[250] |= {"num_inference_steps": 0}
    manifest[499] |= {"custom_id": "img-00001"}
    answer = send(url, manifest, "three-wrong")
    assert answer is not None
    assert answer.status_code == 202
    batch = until_status(url, answer.json()["id"], "rejected")
    assert [(error["line"], error["pointer"]) for error in batch["errors"]] == [
        (7, "/strenght"),
        (250, "/num_inference_steps"),
        (499, "/custom_id"),
    ]
    assert batch["error_count"] == 3
    assert_adds_up(batch["counts"])
    after = rows_of(made.database)
    assert (after["jobs"], after["batch_items"]) == (before["jobs"], before["batch_items"])


def until_inserted(url: str, batch_id: str) -> dict[str, Any]:
    """The batch once all its lines stand."""
    made = eventually(lambda: _whole(look(url, batch_id)), seconds=60, what=f"all lines of {batch_id}")
    assert made is not None
    return made


def _whole(batch: dict[str, Any]) -> dict[str, Any] | None:
    lines = batch["lines"]
    return batch if batch["status"] == "running" and lines["inserted"] == lines["total"] else None


def assert_stands_once(url: str, batch_id: str, count: int) -> None:
    """So many lines in order, each with a job of its own; then the batch is canceled."""
    found = results(url, batch_id)
    assert [line["custom_id"] for line in found] == [f"img-{number:05}" for number in range(count)]
    assert {line["status"] for line in found} == {"queued"}
    assert len({line["job"] for line in found}) == count
    httpx.post(f"{url}/v1/batches/{batch_id}/cancel", timeout=60).raise_for_status()
    assert until_status(url, batch_id, "canceled")["counts"]["canceled"] == count


@pytest.mark.parametrize("point", API_POINTS)
def test_an_api_that_dies_while_it_takes_a_batch_leaves_all_of_it_or_nothing(made: Deployment, point: str) -> None:
    """The same request again, at another API, makes it once."""
    before = rows_of(made.database)
    victim = start_api(made, f"{point}:sigkill")
    made.leave_dead(victim.name)
    assert send(victim.url, lines(500), point) is None
    until_dead(victim)
    stands = int(point == "api.batch_committed")
    assert rows_of(made.database)["batches"] == before["batches"] + stands
    url = start_api(made).url
    answers = [send(url, lines(500), point) for _ in range(3)]
    ids = {answer.json()["id"] for answer in answers if answer is not None}
    assert len(ids) == 1
    made.start("courier")
    batch = until_inserted(url, ids.pop())
    after = rows_of(made.database)
    assert after["batches"] == before["batches"] + 1
    assert after["jobs"] == before["jobs"] + 500
    assert_stands_once(url, batch["id"], 500)


@pytest.mark.parametrize("point", COURIER_POINTS)
def test_a_courier_that_dies_over_a_batch_is_followed_by_one_that_goes_on(made: Deployment, point: str) -> None:
    url = start_api(made).url
    batch_id = accepted(url, 500, f"courier-{point}")
    victim = made.start("courier", once=f"{point}:sigkill")
    made.leave_dead(victim.name)
    until_dead(victim)
    assert_recount(made.database, batch_id)
    made.start("courier")
    until_inserted(url, batch_id)
    assert_recount(made.database, batch_id)
    assert_stands_once(url, batch_id, 500)


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=FULL)])
def test_a_batch_whose_worker_is_killed_has_every_result_once_and_in_order(made: Deployment, count: int) -> None:
    """And a worker that dies costs no picture: they are those of their own lines."""
    url = start_api(made).url
    victim = made.start("worker")
    for role in ("worker", "courier", "sweeper"):
        made.start(role)
    made.until_ready()
    batch_id = accepted(url, count, f"killed-{count}")
    eventually(lambda: look(url, batch_id)["counts"]["succeeded"] > count // 10, seconds=300, what="a tenth of it")
    made.leave_dead(victim.name)
    made.kill(victim.name, signal.SIGKILL)
    until_status(url, batch_id, "completed", seconds=1200)
    jobs = assert_each_once(url, batch_id, count)
    assert_right_pictures(made, url, batch_id, 40)
    assert_clean_end(made, jobs)


@pytest.mark.parametrize("moments", [40, pytest.param(1000, marks=FULL)])
def test_the_counts_of_a_batch_equal_a_recount_at_every_moment_of_a_run(made: Deployment, moments: int) -> None:
    """While it is inserted, worked off, paused, resumed, struck and canceled."""
    url = start_api(made).url
    parts = [made.start(role) for role in ("worker", "worker", "courier", "sweeper")]
    made.until_ready()
    chance = random.Random(moments)
    batch_id = accepted(url, moments * 20, f"counts-{moments}")
    with made.keep_alive():
        for moment in range(moments):
            assert_recount(made.database, batch_id)
            assert_adds_up(look(url, batch_id)["counts"])
            if moment % 20 == 10:
                made.kill(chance.choice(parts).name)
            if moment % 20 in (5, 8) and look(url, batch_id)["status"] in ("running", "paused"):
                verb = "pause" if moment % 20 == 5 else "resume"
                assert httpx.post(f"{url}/v1/batches/{batch_id}/{verb}", timeout=60).status_code == 200
        httpx.post(f"{url}/v1/batches/{batch_id}/cancel", timeout=60).raise_for_status()
        batch = until_status(url, batch_id, "canceled", "completed")
    assert_recount(made.database, batch_id)
    assert batch["counts"]["queued"] == batch["counts"]["running"] == 0
