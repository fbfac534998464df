"""Case 2: a process is killed at each failpoint in turn. Nothing is lost or doubled; an orphan at most, then none."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sqlalchemy import func, select

from client.sdk import Darkroom
from common import failpoints
from common.db.tables import intakes, jobs
from common.domain.lifecycle import JobState
from tests.faults.at_rest import assert_clean_end, let_intake_leases_pass, states_of, submit_many, until_all_over
from tests.faults.clients import PATIENCE_SECONDS, source_png
from tests.faults.deployment import Deployment, Part, Role, deployment
from tests.processes.harness import eventually

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis]

WORKER_POINTS = sorted(name for name in failpoints.NAMES if name.startswith("worker."))
API_POINTS = sorted(name for name in failpoints.NAMES if name.startswith("api.") and ".batch_" not in name)
JOBS = 6
SIZES = [JOBS, pytest.param(60, marks=pytest.mark.chaos)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment without any process: each case starts what it kills, and what heals it."""
    settings = {"DARKROOM_STUB_STEP_SECONDS": "0.02", "DARKROOM_ALLOW_PRIVATE_URLS": "true"}
    folder = tmp_path_factory.mktemp("failpoints")
    with deployment(folder, apis=0, workers=0, couriers=0, sweepers=0, **settings) as built:
        yield built


@pytest.fixture(autouse=True)
def without_processes_afterwards(made: Deployment) -> Iterator[None]:
    yield
    for part in made.of_role():
        made.end(part.name)


def heal(made: Deployment, *roles: Role) -> None:
    """Start healthy processes of these roles, and let them bring every job to its end."""
    for role in roles:
        made.start(role)
    until_all_over(made)


def until_dead(part: Part) -> None:
    eventually(lambda: not part.is_alive, what=f"the end of {part.name}")
    assert part.process.popen.returncode == -9, part.process.log.read_text()


def known_jobs(made: Deployment) -> set[str]:
    with made.database.read() as connection:
        return set(connection.execute(select(jobs.c.id)).scalars())


def test_every_failpoint_is_a_case_here() -> None:
    others = {"sweeper.page", "courier.stored", "cleaner.deleting"}
    others |= {"courier.posted"}  # in `test_webhook_cases`
    others |= {name for name in failpoints.NAMES if ".batch_" in name}  # in `test_batch_cases`
    assert {*WORKER_POINTS, *API_POINTS, *others} == failpoints.NAMES


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize(
    ("point", "action"), [*((point, "sigkill") for point in WORKER_POINTS), ("worker.in_commit", "sigkill_soon")]
)
def test_a_worker_that_is_killed_there_loses_and_doubles_nothing(
    made: Deployment, point: str, action: str, count: int
) -> None:
    ids = submit_many(made, count, prefix=f"{point} {action}")
    victim = made.start("worker", once=f"{point}:{action}")
    until_dead(victim)
    heal(made, "sweeper", "worker")
    assert set(states_of(made.database, ids).values()) == {JobState.SUCCEEDED}
    assert_clean_end(made, known_jobs(made))


@pytest.mark.parametrize("point", API_POINTS)
def test_a_submit_whose_api_is_killed_there_is_repeated_and_makes_one_job(made: Deployment, point: str) -> None:
    before = known_jobs(made)
    api = made.start("api", once=f"{point}:sigkill")
    made.until_ready()
    with made.keep_alive(), Darkroom(api.url, retry_seconds=PATIENCE_SECONDS) as server:
        wish = {"prompt": point, "seed": 1, "num_inference_steps": 4, "image": source_png(1), "strength": 1.0}
        job = server.submit(**wish, idempotency_key=f"once-{point}")
        assert [life.name for life in made.lives].count(api.name) == 2
        assert server.submit(**wish, idempotency_key=f"once-{point}").id == job.id
    assert known_jobs(made) - before == {job.id}
    heal(made, "worker")
    assert states_of(made.database, [job.id]) == {job.id: JobState.SUCCEEDED}
    assert_clean_end(made, known_jobs(made))


def test_a_sweeper_that_is_killed_amid_a_page_has_rescued_none_of_it_and_the_next_rescues_all(made: Deployment) -> None:
    ids = submit_many(made, JOBS, prefix="page", num_images=1)
    until_dead(made.start("worker", once="worker.step:sigkill"))
    until_dead(made.start("sweeper", once="sweeper.page:sigkill"))
    assert set(states_of(made.database, ids).values()) == {JobState.RUNNING}
    heal(made, "sweeper", "worker")
    assert set(states_of(made.database, ids).values()) == {JobState.SUCCEEDED}
    assert_clean_end(made, known_jobs(made))


def test_a_courier_that_is_killed_with_an_image_in_the_store_is_followed_by_one_that_finishes(made: Deployment) -> None:
    made.start("api")
    made.until_ready()
    with picture_server() as url, Darkroom(made.of_role("api")[-1].url) as server:
        job = server.submit(prompt="from afar", image={"url": url}, strength=1.0, num_inference_steps=4)
        until_dead(made.start("courier", once="courier.stored:sigkill"))
        assert count_intakes(made) == 1
        let_intake_leases_pass(made.database)
        heal(made, "courier", "worker")
    assert states_of(made.database, [job.id]) == {job.id: JobState.SUCCEEDED}
    assert_clean_end(made, known_jobs(made))


def test_a_cleaner_that_is_killed_between_an_object_and_its_row_is_followed_by_one_that_finishes(
    made: Deployment,
) -> None:
    submit_many(made, JOBS, prefix="dust")
    until_dead(made.start("worker", once="worker.put:sigkill"))
    heal(made, "sweeper", "worker")
    often = {"DARKROOM_CLEAN_SECONDS": "0.2", "DARKROOM_ORPHAN_SECONDS": "0.1"}
    until_dead(made.start("sweeper", once="cleaner.deleting:sigkill", **often))
    assert_clean_end(made, known_jobs(made))


def count_intakes(made: Deployment) -> int:
    with made.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(intakes)).scalar_one())


@contextmanager
def picture_server() -> Iterator[str]:
    """The URL of a picture on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = source_png(2)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/picture.png"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
