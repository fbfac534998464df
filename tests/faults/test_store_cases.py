"""Faults of the object store, case 19: errors, silence, lost replies, inputs that are gone or altered, a full disk."""

import base64
import hashlib
import io
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from sqlalchemy import select

from common.db.engine import Database
from common.db.tables import images, job_requests
from common.domain.lifecycle import JobState
from common.storage.open import open_store
from tests.faults.invariants import orphans, violations
from tests.faults.proxy import FaultProxy
from tests.faults.scenes import accepted, assert_all_succeeded, await_workers, for_seconds, outcomes, scene, submit_once
from tests.processes.full import fresh_postgres
from tests.processes.harness import Stack, eventually, until_finished
from tests.services.swift import S3Server

pytestmark = [pytest.mark.processes, pytest.mark.postgres]

FULL = [pytest.mark.chaos, pytest.mark.timeout(900)]
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
# Longer than boto3 waits for an answer: only then does silence become an error.
SILENCE_SECONDS = 45


@pytest.fixture
def database_url() -> Iterator[str]:
    with fresh_postgres() as url:
        yield url


@pytest.fixture
def wire(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(urlsplit(s3_server.endpoint).port or 0, seed=19) as proxy:
        yield proxy


@pytest.fixture
def settings(s3_server: S3Server, wire: FaultProxy, database_url: str, tmp_path: Path) -> dict[str, str]:
    """A stack whose store is S3 behind the proxy, below a prefix of its own."""
    url = s3_server.store_url(tmp_path.name).replace(s3_server.endpoint, f"http://127.0.0.1:{wire.port}")
    return {"DARKROOM_DATABASE_URL": database_url, "DARKROOM_STORE_URL": url}


def picture(shade: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, 40, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def submit_edit(client: httpx.Client, **fields: str) -> str:
    """The id of a job that edits a picture."""
    form = {"prompt": "a red square", "model": "stub", "num_inference_steps": "4", "strength": "1"} | fields
    answer = client.post("/v1/jobs", data=form, files={"image": ("cat.png", picture(), "image/png")})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


@pytest.mark.s3
@pytest.mark.parametrize("count", [20, pytest.param(200, marks=FULL)])
def test_a_store_that_answers_half_of_all_requests_with_500_costs_no_job(
    tmp_path: Path, settings: dict[str, str], wire: FaultProxy, count: int
) -> None:
    with scene(tmp_path, **settings, DARKROOM_MAX_TRIES="20") as (built, database, client):
        built.sweeper()
        worker = built.worker()
        await_workers(client, 1)
        edited = submit_edit(client)
        wire.answer(FAILURE, probability=0.5)
        made = accepted(client, count)
        eventually(lambda: stored(database) >= count // 2, seconds=120, what="half of the results")
        wire.heal()
        assert_all_succeeded(built, database, [*made, edited], seconds=120)
        assert worker.popen.poll() is None


def stored(database: Database) -> int:
    with database.read() as connection:
        return len(connection.execute(select(images.c.key)).all())


@pytest.mark.s3
@pytest.mark.parametrize("silent_seconds", [3, pytest.param(SILENCE_SECONDS, marks=FULL)])
def test_a_store_that_falls_silent_costs_no_job(
    tmp_path: Path, settings: dict[str, str], wire: FaultProxy, silent_seconds: float
) -> None:
    with scene(tmp_path, **settings) as (built, database, client):
        built.sweeper()
        worker = built.worker()
        await_workers(client, 1)
        made = [submit_edit(client)]
        wire.blackhole()
        made += accepted(client, 10)
        for_seconds(silent_seconds)
        assert stored(database) == 0
        wire.heal()
        assert_all_succeeded(built, database, made, seconds=180)
        assert worker.popen.poll() is None


@pytest.mark.s3
@pytest.mark.parametrize("answered_bytes", [0, 200])
def test_a_store_whose_replies_are_lost_has_each_result_once(
    tmp_path: Path, settings: dict[str, str], wire: FaultProxy, answered_bytes: int
) -> None:
    with scene(tmp_path, **settings) as (built, database, client):
        made = [submit_edit(client) for _ in range(3)]
        wire.cut_after(answered_bytes, times=6)
        built.worker()
        assert_all_succeeded(built, database, made)
        assert wire.cuts == 6
        assert [outcomes(database, job_id) for job_id in made] == [["succeeded"]] * 3
        assert orphans(database, open_store(built.settings.store, None)) == []


@pytest.mark.s3
def test_a_submit_whose_image_cannot_be_stored_is_answered_503_and_its_key_stays_free(
    tmp_path: Path, settings: dict[str, str], wire: FaultProxy
) -> None:
    with scene(tmp_path, **settings) as (built, database, client):
        data = base64.b64encode(picture()).decode()
        wish = {"image": {"data": f"data:image/png;base64,{data}"}, "task": "img2img", "strength": 1}
        wire.refuse()
        refused = submit_once(client, "one-key", **wish)
        assert (refused.status, refused.retry_after is not None) == (503, True)
        assert client.get("/v1/jobs").json()["data"] == []
        wire.heal()
        answers = [submit_once(client, "one-key", **wish) for _ in range(2)]
        assert {answer.status for answer in answers} == {202}
        assert len({answer.body["id"] for answer in answers}) == 1
        built.worker()
        assert_all_succeeded(built, database, [answers[0].body["id"]])


@pytest.mark.parametrize("replacement", [None, b"", picture(91)], ids=["missing", "empty", "altered"])
def test_an_input_that_is_missing_or_altered_fails_the_job_without_a_retry(
    tmp_path: Path, database_url: str, replacement: bytes | None
) -> None:
    with scene(tmp_path, DARKROOM_DATABASE_URL=database_url) as (built, database, client):
        spoiled = submit_edit(client)
        spoil(built, database, spoiled, replacement)
        built.worker()
        done = until_finished(database, spoiled)
        assert (done.state, done.images) == (JobState.FAILED, [])
        assert done.error is not None
        assert done.error["code"] == "input_missing"
        assert outcomes(database, spoiled) == ["failed"]
        others = accepted(client, 1)
        assert until_finished(database, others[0]).state is JobState.SUCCEEDED
        found = list(violations(database, open_store(built.settings.store, None), [spoiled, *others]))
        assert [violation for violation in found if not violation.startswith("I9 inputs/")] == []


def spoil(built: Stack, database: Database, job_id: str, replacement: bytes | None) -> None:
    """Take the job's input from the store, or put something else in its place."""
    with database.read() as connection:
        query = select(job_requests.c.inputs).where(job_requests.c.job_id == job_id)
        (reference,) = connection.execute(query).scalar_one().values()
    store = open_store(built.settings.store, None)
    assert hashlib.sha256(store.get(reference["key"])).hexdigest() == reference["sha256"]
    if replacement is None:
        store.delete(reference["key"])
    else:
        store.put(reference["key"], replacement, "image/png")


def test_a_job_whose_result_finds_the_disk_full_is_done_once_there_is_room(tmp_path: Path, database_url: str) -> None:
    with (
        small_disk(tmp_path / "data") as disk,
        scene(tmp_path, DARKROOM_DATABASE_URL=database_url) as (built, database, client),
    ):
        fill(disk)
        built.sweeper()
        built.worker()
        job_id = accepted(client, 1)[0]
        eventually(lambda: "retried" in outcomes(database, job_id), what="a try that found no room")
        assert stored(database) == 0
        (disk / "filler").unlink()
        assert_all_succeeded(built, database, [job_id])


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 256 KiB at this place. Skips who may not mount one."""
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"mounting takes a privilege: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Take all the room there is."""
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_job_whose_worker_may_write_no_file_is_done_once_it_may(tmp_path: Path, database_url: str) -> None:
    quiet = {"DARKROOM_LOG_LEVEL": "error"}  # the limit holds for its log too
    with scene(tmp_path, DARKROOM_DATABASE_URL=database_url) as (built, database, client):
        built.sweeper()
        worker = built.worker(**quiet)
        await_workers(client, 1)
        assert_all_succeeded(built, database, accepted(client, 1))
        limits = resource.prlimit(worker.popen.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(worker.popen.pid, resource.RLIMIT_FSIZE, (1, limits[1]))
        job_id = accepted(client, 1)[0]
        eventually(lambda: "retried" in outcomes(database, job_id), what="a try that could write nothing")
        assert worker.popen.poll() is None
        resource.prlimit(worker.popen.pid, resource.RLIMIT_FSIZE, limits)
        assert_all_succeeded(built, database, [job_id])
