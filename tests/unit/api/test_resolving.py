"""From where a request says that an image is, to our own picture of it."""

from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select, update

from api.use_cases.resolve_input import PendingUrl, prepare_input, resolve_input
from common.db.jobs import insert_job
from common.db.tables import intakes, jobs, uploads
from common.db.tenants import OPERATOR, Caller
from common.db.types import after_now
from common.domain.errors import Invalid
from common.outbound.addresses import Policy
from common.outbound.fetching import Outbound
from common.requests.images import ImageSource
from tests.making import make_job
from tests.unit.api.conftest import Api, data_url
from tests.unit.api.fakes import picture
from tests.unit.outbound.hosts import Answers

STRANGER = Caller("other", frozenset(), "high")
JOB = "job_" + "0" * 32
PUBLIC = "93.184.215.14"


def resolve(api: Api, caller: Caller = OPERATOR, **source: Any) -> Any:
    return resolve_input(api.app.state.services, caller, ImageSource.model_validate(source), "/image")


def refusal(api: Api, caller: Caller = OPERATOR, **source: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        resolve(api, caller, **source)
    (problem,) = caught.value.problems
    assert problem.detail
    return problem.pointer, problem.code


def upload(api: Api) -> str:
    return str(api.client.post("/v1/uploads", files={"file": ("cat.png", picture())}).json()["id"])


def develop(api: Api, content: bytes) -> str:
    with api.database.write() as connection:
        insert_job(connection, make_job())
    return api.develop(content)


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"data": None},
        {"data": data_url()["data"], "url": "https://example.org/a.png"},
        {"upload": "upl_" + "0" * 32, "job": JOB},
        {"index": 0},
        {"upload": "upl_" + "0" * 32, "index": 0},
        {"upload": "cat"},
        {"job": "cat"},
        {"job": JOB, "index": 160},
        {"job": JOB, "index": -1},
        {"job": JOB, "index": "0"},
        {"job": JOB, "index": True},
        {"url": ""},
        {"url": "https://example.org/" + "a" * 2000},
        {"url": 7},
        {"file": "/etc/passwd"},
    ],
)
def test_a_source_is_exactly_one_well_formed_way(source: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImageSource.model_validate(source)


def test_data_is_decoded_and_stored(api: Api) -> None:
    reference = resolve(api, **data_url())
    assert (reference.width, reference.height) == (300, 200)
    assert api.store.objects == {reference.key: b"clean " + picture()}
    assert refusal(api, **data_url(b"no picture")) == ("/image", "image_unreadable")


def test_preparing_alone_stores_nothing(api: Api) -> None:
    prepare_input(api.app.state.services, OPERATOR, ImageSource.model_validate(data_url()), "/image")
    assert api.store.objects == {}


def test_an_upload_is_its_picture(api: Api) -> None:
    reference = resolve(api, upload=upload(api))
    assert reference.key in api.store.objects
    assert (reference.width, reference.height) == (300, 200)


def test_an_upload_that_is_not_there_for_this_tenant_is_refused(api: Api) -> None:
    wrong = ("/image/upload", "validation_error")
    mine = upload(api)
    assert refusal(api, upload="upl_" + "0" * 32) == wrong
    assert refusal(api, STRANGER, upload=mine) == wrong
    declared = {"bytes": 5, "sha256": "0" * 64, "content_type": "image/png"}
    assert refusal(api, upload=api.client.post("/v1/uploads/presign", json=declared).json()["id"]) == wrong
    with api.database.write() as connection:
        connection.execute(update(uploads).values(expires_at=after_now(-1)))
    assert refusal(api, upload=mine) == wrong


def test_an_earlier_result_is_decoded_into_a_picture_of_its_own(api: Api) -> None:
    job_id = develop(api, picture(64, 64))
    reference = resolve(api, job=job_id)
    assert api.store.objects[reference.key] == b"clean " + picture(64, 64)
    assert resolve(api, job=job_id, index=0) == reference


def test_a_result_that_is_not_there_for_this_tenant_is_refused(api: Api) -> None:
    with api.database.write() as connection:
        waiting = make_job()
        insert_job(connection, waiting)
    assert refusal(api, job=JOB) == ("/image/job", "validation_error")
    assert refusal(api, job=waiting.id) == ("/image/job", "validation_error")
    done = api.develop(picture(64, 64))
    assert done == waiting.id
    assert refusal(api, STRANGER, job=done) == ("/image/job", "validation_error")
    assert refusal(api, job=done, index=1) == ("/image/index", "validation_error")
    with api.database.write() as connection:
        connection.execute(update(jobs).values(expires_at=after_now(-1)))
    assert refusal(api, job=done) == ("/image/job", "validation_error")


def test_a_result_that_left_the_store_is_refused(api: Api) -> None:
    job_id = develop(api, picture(64, 64))
    api.store.objects.clear()
    assert refusal(api, job=job_id) == ("/image/job", "validation_error")


@pytest.fixture
def outside(make_api: Any) -> Api:
    """An API as the internet sees it: public https only."""
    names = Answers(pictures_example=[[PUBLIC]], inside_example=[["10.0.0.1"]], both_example=[[PUBLIC, "127.0.0.1"]])
    api: Api = make_api(outbound=Outbound(Policy(), names))
    return api


def test_a_public_url_is_left_to_a_courier(outside: Api) -> None:
    url = "https://pictures.example/cat.png?size=2"
    assert resolve(outside, url=url) == PendingUrl(url)


def test_a_name_that_cannot_be_looked_up_now_is_left_to_a_courier_too(outside: Api) -> None:
    url = "https://nowhere.example/cat.png"
    assert resolve(outside, url=url) == PendingUrl(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://pictures.example/cat.png",
        "ftp://pictures.example/cat.png",
        "file:///etc/passwd",
        "pictures.example/cat.png",
        "https://user:secret@pictures.example/",
        "https://pictures.example:22/",
        "https://inside.example/",
        "https://both.example/",
        "https://localhost/",
        "https://metadata/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://017700000001/",
        "https://0x7f.1/",
        "https://10.0.0.1/",
        "https://192.168.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fd00:ec2::254]/",
    ],
)
def test_a_url_that_leads_inside_is_refused_at_submit(outside: Api, url: str) -> None:
    assert refusal(outside, url=url) == ("/image/url", "url_blocked")


def test_a_job_with_an_upload_or_an_earlier_result_may_be_claimed_at_once(api: Api) -> None:
    first = api.submit(image={"upload": upload(api)})
    assert first["task"] == "img2img"
    assert api.bell.rings == [("default", 1)]
    assert api.submit(image={"job": api.develop(picture(64, 64))})["task"] == "img2img"
    assert api.bell.courier_rings == 0


def test_a_job_with_a_url_is_held_for_the_courier_who_is_rung(outside: Api) -> None:
    job = outside.submit(image={"url": "https://pictures.example/cat.png"})
    with outside.database.read() as connection:
        row = connection.execute(select(jobs.c.held, intakes.c.url).join(intakes)).one()
    assert tuple(row) == ("intake", "https://pictures.example/cat.png")
    assert (job["status"], outside.bell.rings, outside.bell.courier_rings) == ("queued", [], 1)


def test_a_job_with_a_url_that_leads_inside_is_refused_and_nothing_is_stored(outside: Api) -> None:
    response = outside.client.post("/v1/jobs", json={"prompt": "x", "image": {"url": "https://169.254.169.254/"}})
    assert (response.status_code, response.json()["code"]) == (422, "url_blocked")
    assert response.json()["errors"][0]["pointer"] == "/image/url"
    assert outside.has_stored_nothing()
