"""Images given by URL, from a real host on the loopback to a job that can be claimed, or that says why it failed."""

import hashlib
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import pytest
import structlog
from PIL import Image
from sqlalchemy import select, update

from common.db.engine import Database
from common.db.jobs import cancel_job
from common.db.tables import intakes
from common.db.types import after_now
from common.domain.job import NewJob
from common.domain.lifecycle import JobState
from common.images.sandbox import DecoderUnavailable
from common.outbound.errors import LookupsBusy
from common.storage.port import StoreUnavailable
from courier.intake import MOST_TRIES, fetch_image
from courier.tools import Tools
from tests.making import claim, enlist
from tests.unit.courier.conftest import MAX_BYTES, look, submit
from tests.unit.outbound.hosts import Answers, Host, answer, sends, unused_port
from tests.unit.outbound.loopback import HERE, TRAP, second_loopback

Maker = Callable[..., Tools]


def png(width: int = 96, height: int = 48) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


GOOD = sends(answer(body=png()))


def error_code(tools: Tools, job: NewJob) -> object:
    found = look(tools.database, job)
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert found.error["detail"]
    return found.error["code"]


def make_due(database: Database, **columns: Any) -> None:
    with database.write() as connection:
        connection.execute(update(intakes).values(next_at=after_now(-1), **columns))


def awaited(database: Database) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(intakes)))


def test_without_due_images_there_is_nothing_to_do(make_tools: Maker) -> None:
    assert fetch_image(make_tools()) == 0


def test_a_good_url_ends_in_a_job_that_can_be_claimed_with_the_true_size(make_tools: Maker) -> None:
    with Host(GOOD) as host:
        tools = make_tools(host.port)
        job = submit(tools.database, f"http://pictures.example:{host.port}/cat.png")
        assert fetch_image(tools) == 1
    (claimed,) = claim(tools.database, enlist(tools.database))
    reference = claimed.inputs["image"]
    assert (claimed.id, reference.width, reference.height) == (job.id, 96, 48)
    assert claimed.params.width == pytest.approx(2 * claimed.params.height, rel=0.1)
    stored = tools.store.get(reference.key)
    assert (len(stored), hashlib.sha256(stored).hexdigest()) == (reference.bytes, reference.sha256)
    assert tools.doorbell.rings == [("default", 1)]  # type: ignore[attr-defined]
    assert fetch_image(tools) == 0


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (answer(404), "input_fetch_failed"),
        (answer(410), "input_fetch_failed"),
        (answer(body=b"hello, I am a text file"), "image_unreadable"),
        (answer(body=b"\x89PNG\r\n\x1a\n and then nothing that is a picture"), "image_unreadable"),
        (answer(body=b"\x89PNG\r\n\x1a\n" + bytes(MAX_BYTES)), "image_too_large"),
        (answer(length=1 << 30), "image_too_large"),
        (answer(302, headers=[("Location", "http://10.0.0.1/cat.png")]), "url_blocked"),
    ],
    ids=["404", "410", "text", "broken", "long", "long by its word", "redirect inside"],
)
def test_what_will_not_pass_fails_the_job_at_once(make_tools: Maker, reply: bytes, code: str) -> None:
    with Host(sends(reply)) as host:
        tools = make_tools(host.port)
        job = submit(tools.database, f"http://pictures.example:{host.port}/cat.png")
        assert fetch_image(tools) == 1
        assert len(host.visits) == 1
    assert error_code(tools, job) == code
    assert awaited(tools.database) == []
    assert list(tools.store.list()) == []


@second_loopback
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2:{port}/",
        "http://trap.example:{port}/",
        "http://0x7f.0.0.2:{port}/",
        "http://2130706434:{port}/",
        "http://0177.0.0.02:{port}/",
        "http://[::ffff:127.0.0.2]:{port}/",
        "http://[64:ff9b::7f00:2]:{port}/",
        "http://[2002:7f00:2::]:{port}/",
        "http://[::1]:{port}/",
        "http://user:secret@trap.example:{port}/",
        "http://user@pictures.example:{port}/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://pictures.example:22/",
        "http://metadata/",
        "file:///etc/passwd",
        "gopher://pictures.example/",
    ],
)
def test_a_url_that_leads_inside_fails_the_job_and_nobody_is_visited(make_tools: Maker, url: str) -> None:
    with Host(GOOD, TRAP) as trap:
        tools = make_tools(trap.port)
        job = submit(tools.database, url.format(port=trap.port))
        assert fetch_image(tools) == 1
    assert error_code(tools, job) == "url_blocked"
    assert trap.visits == []


@second_loopback
def test_a_redirect_to_the_inside_is_not_followed(make_tools: Maker) -> None:
    with Host(GOOD, TRAP) as trap:
        location = ("Location", f"http://trap.example:{trap.port}/")
        with Host(sends(answer(302, headers=[location]))) as host:
            tools = make_tools(host.port, trap.port)
            job = submit(tools.database, f"http://pictures.example:{host.port}/")
            fetch_image(tools)
            assert len(host.visits) == 1
    assert error_code(tools, job) == "url_blocked"
    assert trap.visits == []


@second_loopback
def test_a_name_that_changed_its_mind_since_the_submit_is_refused_at_the_connection(make_tools: Maker) -> None:
    resolver = Answers(rebound_example=[[HERE], [TRAP]])
    with Host(GOOD, TRAP) as trap:
        tools = make_tools(trap.port, resolver=resolver)
        url = f"http://rebound.example:{trap.port}/"
        assert tools.outbound.check(url)
        job = submit(tools.database, url)
        fetch_image(tools)
    assert error_code(tools, job) == "url_blocked"
    assert trap.visits == []


@second_loopback
def test_the_socket_goes_to_the_address_that_was_judged_whatever_the_name_means_by_then(make_tools: Maker) -> None:
    with Host(GOOD) as host:
        tools = make_tools(host.port, resolver=Answers(rebound_example=[[HERE], [TRAP]]))
        submit(tools.database, f"http://rebound.example:{host.port}/")
        fetch_image(tools)
        assert [visit.peer for visit in host.visits] == [HERE]
    assert len(claim(tools.database, enlist(tools.database))) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_three_times_with_growing_pauses(make_tools: Maker, status: int) -> None:
    with Host(sends(answer(status))) as host:
        tools = make_tools(host.port)
        job = submit(tools.database, f"http://pictures.example:{host.port}/")
        for attempt in range(1, MOST_TRIES):
            assert fetch_image(tools) == 1
            assert fetch_image(tools) == 0
            (row,) = awaited(tools.database)
            assert (row.attempt, row.worker_id) == (attempt, None)
            assert look(tools.database, job).state is JobState.QUEUED
            make_due(tools.database)
        fetch_image(tools)
        assert len(host.visits) == MOST_TRIES
    assert error_code(tools, job) == "input_fetch_failed"


def test_a_host_that_comes_back_is_forgiven(make_tools: Maker) -> None:
    replies = iter([answer(503), answer(body=png())])
    with Host(lambda visit: visit.send(next(replies))) as host:
        tools = make_tools(host.port)
        submit(tools.database, f"http://pictures.example:{host.port}/")
        fetch_image(tools)
        make_due(tools.database)
        fetch_image(tools)
    assert len(claim(tools.database, enlist(tools.database))) == 1


def test_nobody_at_the_address_may_pass(make_tools: Maker) -> None:
    with unused_port() as port:
        tools = make_tools(port)
        job = submit(tools.database, f"http://pictures.example:{port}/")
        fetch_image(tools)
    assert look(tools.database, job).state is JobState.QUEUED


def test_an_unknown_name_may_pass(make_tools: Maker) -> None:
    tools = make_tools(80)
    job = submit(tools.database, "http://nowhere.example/")
    fetch_image(tools)
    assert look(tools.database, job).state is JobState.QUEUED


class Broken:
    """A store and a decoder that are away."""

    def put(self, key: str, *_: object, **__: object) -> None:
        raise StoreUnavailable(key, "away")

    def decode(self, data: bytes) -> Any:
        raise DecoderUnavailable("away")


@pytest.mark.parametrize("part", ["store", "decoder"])
def test_that_our_own_parts_are_away_spends_no_try(make_tools: Maker, part: str) -> None:
    with Host(GOOD) as host:
        tools = make_tools(host.port, **{part: Broken()})
        job = submit(tools.database, f"http://pictures.example:{host.port}/")
        for _ in range(2 * MOST_TRIES):
            assert fetch_image(tools) == 1
            make_due(tools.database)
    assert look(tools.database, job).state is JobState.QUEUED
    assert awaited(tools.database)[0].attempt == 0


def test_the_image_of_a_killed_courier_is_taken_again_after_its_lease(make_tools: Maker) -> None:
    class Killed(BaseException):
        pass

    class Deadly:
        def decode(self, data: bytes) -> Any:
            raise Killed

    with Host(GOOD) as host:
        tools = make_tools(host.port)
        submit(tools.database, f"http://pictures.example:{host.port}/")
        with pytest.raises(Killed):
            fetch_image(make_tools(host.port, decoder=Deadly()))
        other = make_tools(host.port, worker_id="wrk_b")
        assert fetch_image(other) == 0
        make_due(tools.database, lease_until=after_now(-1))
        assert fetch_image(other) == 1
    assert len(claim(tools.database, enlist(tools.database))) == 1


def test_an_image_over_which_couriers_die_again_and_again_fails_its_job(make_tools: Maker) -> None:
    with Host(GOOD) as host:
        tools = make_tools(host.port)
        job = submit(tools.database, f"http://pictures.example:{host.port}/")
        make_due(tools.database, attempt=6)
        fetch_image(tools)
        assert host.visits == []
    assert error_code(tools, job) == "input_fetch_failed"


def test_a_job_canceled_while_its_image_comes_stays_canceled(make_tools: Maker) -> None:
    tools = make_tools()

    def cancel_and_answer(visit: Any) -> None:
        with tools.database.write() as connection:
            cancel_job(connection, "default", job.id)
        visit.send(answer(body=png()))

    with Host(cancel_and_answer) as host:
        job = submit(tools.database, f"http://pictures.example:{host.port}/")
        tools = make_tools(host.port)
        assert fetch_image(tools) == 1
    assert look(tools.database, job).state is JobState.CANCELED
    assert awaited(tools.database) == []
    assert tools.doorbell.rings == []  # type: ignore[attr-defined]


def test_a_job_that_the_model_refuses_at_its_true_size_fails_with_the_field(make_tools: Maker) -> None:
    with Host(GOOD) as host:
        tools = make_tools(host.port)
        job = submit(tools.database, f"http://pictures.example:{host.port}/", role="mask")
        fetch_image(tools)
    assert error_code(tools, job)
    error = look(tools.database, job).error
    assert error is not None
    assert error["errors"][0]["pointer"]


def test_too_many_lookups_of_our_own_spend_no_try(make_tools: Maker) -> None:
    class Busy:
        def addresses(self, host: str, *, limit_seconds: float) -> Sequence[Any]:
            raise LookupsBusy

    tools = make_tools(resolver=Busy())
    job = submit(tools.database, "https://pictures.example/cat.png")
    with structlog.testing.capture_logs() as logs:
        assert fetch_image(tools) == 1
    assert "intake.postponed" in {line["event"] for line in logs}
    assert look(tools.database, job).error is None
    with tools.database.read() as connection:
        assert connection.execute(select(intakes.c.attempt)).scalar_one() == 0
