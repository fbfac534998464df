"""Images sent ahead of a job: in one request, or announced, put and completed."""

import hashlib
from typing import Any

import pytest
from sqlalchemy import func, select, update

from common.db.jobs import insert_job
from common.db.tables import object_refs, objects, uploads
from common.db.tenants import create_key, create_tenant
from common.db.types import after_now
from common.db.uploads import forget_expired
from common.domain.job import InputRef
from tests.making import make_job
from tests.unit.api.conftest import Api, Json
from tests.unit.api.fakes import picture

UNKNOWN = "upl_" + "0" * 32


def send(api: Api, data: bytes | None = None, **kw: Any) -> Any:
    return api.client.post("/v1/uploads", files={"file": ("cat.png", data or picture())}, **kw)


def declaration(data: bytes, **changes: Any) -> Json:
    declared = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "content_type": "image/png"}
    return declared | changes


def announce(api: Api, data: bytes | None = None, **changes: Any) -> Json:
    response = api.client.post("/v1/uploads/presign", json=declaration(data or picture(), **changes))
    assert response.status_code == 201, response.text
    body: Json = response.json()
    return body


def put(api: Api, upload: Json, data: bytes | None = None) -> Any:
    return api.client.put(upload["put"]["url"], content=data or picture())


def complete(api: Api, upload: Json) -> Any:
    return api.client.post(upload["urls"]["complete"])


def pointers(response: Any) -> list[tuple[str, str]]:
    return [(error["pointer"], error["code"]) for error in response.json()["errors"]]


def rows(api: Api, table: Any) -> int:
    with api.database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def end_lives(api: Api) -> None:
    with api.database.write() as connection:
        connection.execute(update(uploads).values(expires_at=after_now(-1)))


def test_an_image_becomes_a_ready_upload_with_our_own_picture(api: Api) -> None:
    response = send(api)
    body = response.json()
    clean = b"clean " + picture()
    assert response.status_code == 201
    assert response.headers["location"] == body["urls"]["self"]
    assert (body["status"], body["width"], body["height"]) == ("ready", 300, 200)
    assert (body["bytes"], body["sha256"]) == (len(clean), hashlib.sha256(clean).hexdigest())
    assert list(api.store.objects.values()) == [clean]
    assert api.client.get(body["urls"]["self"]).json() == body


def test_the_same_picture_twice_is_two_uploads_of_one_object(api: Api) -> None:
    first, second = send(api).json(), send(api).json()
    assert first["id"] != second["id"]
    assert (rows(api, uploads), rows(api, objects), len(api.store.objects)) == (2, 1, 1)


@pytest.mark.parametrize(
    ("files", "pointer", "code"),
    [
        ({"file": ("a.png", b"no picture")}, "/file", "image_unreadable"),
        ({"image": ("a.png", picture())}, "/image", "unknown_field"),
        ({"file": (None, "text")}, "/file", "validation_error"),
        ([("file", ("a.png", picture())), ("file", ("b.png", picture()))], "/file", "validation_error"),
        ({"file": ("a.png", picture()), "note": (None, "x")}, "/note", "unknown_field"),
    ],
)
def test_what_is_not_one_image_is_refused_and_nothing_is_stored(api: Api, files: Any, pointer: str, code: str) -> None:
    response = api.client.post("/v1/uploads", files=files)
    assert response.status_code == 422
    assert (pointer, code) in pointers(response)
    assert (rows(api, uploads), api.store.objects) == (0, {})


def test_an_image_above_the_limit_is_cut_off(make_api: Any) -> None:
    api = make_api(max_image_bytes=1000)
    response = send(api, picture() + bytes(1000))
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("application/json", b"{}", "unsupported_media_type"),
        ("multipart/form-data; boundary=x", b"--x\r\nnothing", "invalid_multipart"),
        ("multipart/form-data", b"", "invalid_multipart"),
    ],
)
def test_a_body_that_is_no_form_is_refused(api: Api, content_type: str, body: bytes, code: str) -> None:
    response = api.client.post("/v1/uploads", content=body, headers={"Content-Type": content_type})
    assert response.json()["code"] == code


def test_an_announced_image_is_put_to_us_where_the_store_has_no_urls(api: Api) -> None:
    upload = announce(api)
    assert (upload["status"], upload["width"], upload["sha256"]) == ("pending", None, None)
    assert upload["put"]["method"] == "PUT"
    assert upload["put"]["url"] == f"{upload['urls']['self']}/content"
    assert upload["put"]["headers"]["Content-Type"] == "image/png"
    assert put(api, upload).status_code == 204
    response = complete(api, upload)
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["width"]) == ("ready", 300)
    assert list(api.store.objects.values()) == [b"clean " + picture()]


def test_an_announced_image_is_put_to_the_store_where_it_can(api: Api) -> None:
    api.store.presigns = True
    upload = announce(api)
    key = f"uploads/default/{upload['id']}"
    assert upload["put"]["url"].startswith(f"https://store.example/{key}?for=900")
    assert upload["put"]["expires_at"] < upload["expires_at"]
    api.store.objects[key] = picture()
    assert complete(api, upload).json()["status"] == "ready"


def test_completing_again_answers_the_same(api: Api) -> None:
    upload = announce(api)
    put(api, upload)
    first = complete(api, upload)
    assert complete(api, upload).json() == first.json()
    assert api.decoder.decoded == 1


def test_completing_before_anything_came_says_so_and_may_be_repeated(api: Api) -> None:
    upload = announce(api)
    early = complete(api, upload)
    assert (early.status_code, early.json()["code"]) == (409, "not_editable")
    assert "PUT" in early.json()["detail"]
    put(api, upload)
    assert complete(api, upload).status_code == 200


@pytest.mark.parametrize(
    ("came", "pointer", "code"),
    [
        (picture() + b"!", "/bytes", "validation_error"),
        (picture()[:-1], "/bytes", "validation_error"),
        (picture().replace(b"300", b"301"), "/sha256", "validation_error"),
    ],
)
def test_another_file_than_the_declared_one_is_final(api: Api, came: bytes, pointer: str, code: str) -> None:
    api.store.presigns = True
    upload = announce(api)
    api.store.objects[f"uploads/default/{upload['id']}"] = came
    response = complete(api, upload)
    assert response.status_code == 422
    assert pointers(response) == [(pointer, code)]
    assert api.client.get(upload["urls"]["self"]).json()["status"] == "rejected"
    assert api.store.objects == {}
    assert complete(api, upload).status_code == 409
    assert put(api, upload | {"put": {"url": f"{upload['urls']['self']}/content"}}).status_code == 409


def test_an_announced_file_that_is_no_image_is_rejected(api: Api) -> None:
    data = b"a text"
    upload = announce(api, data)
    put(api, upload, data)
    assert pointers(complete(api, upload)) == [("/file", "image_unreadable")]
    assert api.client.get(upload["urls"]["self"]).json()["status"] == "rejected"


def test_more_than_the_declared_bytes_are_not_taken(api: Api) -> None:
    upload = announce(api)
    response = put(api, upload, picture() + b"!")
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert api.store.objects == {}


def test_a_store_that_is_away_leaves_the_upload_pending(api: Api) -> None:
    upload = announce(api)
    put(api, upload)
    api.store.is_away = True
    assert complete(api, upload).status_code == 503
    api.store.is_away = False
    assert complete(api, upload).status_code == 200


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"bytes": 0}, "/bytes", "validation_error"),
        ({"bytes": 21 << 20}, "/bytes", "validation_error"),
        ({"bytes": "10"}, "/bytes", "validation_error"),
        ({"bytes": True}, "/bytes", "validation_error"),
        ({"sha256": "ab"}, "/sha256", "validation_error"),
        ({"sha256": "A" * 64}, "/sha256", "validation_error"),
        ({"content_type": "image/gif"}, "/content_type", "validation_error"),
        ({"name": "cat.png"}, "/name", "unknown_field"),
    ],
)
def test_a_wrong_declaration_is_refused_by_its_field(api: Api, changes: Json, pointer: str, code: str) -> None:
    response = api.client.post("/v1/uploads/presign", json=declaration(picture()) | changes)
    assert response.status_code == 422
    assert pointers(response) == [(pointer, code)]
    assert rows(api, uploads) == 0


def test_a_missing_declaration_is_named(api: Api) -> None:
    response = api.client.post("/v1/uploads/presign", json={})
    assert [pointer for pointer, _ in pointers(response)] == ["/bytes", "/sha256", "/content_type"]
    assert api.client.post("/v1/uploads/presign", content=b"x").status_code == 415


@pytest.mark.parametrize("upload_id", [UNKNOWN, "upl_x", "job_" + "0" * 32])
def test_an_unknown_upload_is_404_everywhere(api: Api, upload_id: str) -> None:
    url = f"/v1/uploads/{upload_id}"
    answers = [
        api.client.get(url),
        api.client.delete(url),
        api.client.post(f"{url}/complete"),
        api.client.put(f"{url}/content", content=b"x"),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "not_found")] * 4


def test_another_tenants_upload_is_404_and_nothing_is_done_to_it(make_api: Any) -> None:
    api = make_api(auth="keys")
    with api.database.write() as connection:
        create_tenant(connection, "other", "Other")
        scopes = ["jobs:read", "jobs:write"]
        mine, theirs = (
            {"Authorization": f"Bearer {create_key(connection, tenant, name='x', scopes=scopes, expires_seconds=None)}"}
            for tenant in ("default", "other")
        )
    url = send(api, headers=mine).json()["urls"]["self"]
    answers = [api.client.get(url, headers=theirs), api.client.delete(url, headers=theirs)]
    answers.append(api.client.post(f"{url}/complete", headers=theirs))
    assert {answer.status_code for answer in answers} == {404}
    assert api.client.get(url, headers=mine).status_code == 200
    assert api.client.get(url).status_code == 401
    send(api, headers=theirs)
    assert len(api.store.objects) == rows(api, objects) == 2


def test_after_its_life_an_upload_is_gone_and_the_sweeper_removes_it(api: Api) -> None:
    url = send(api).json()["urls"]["self"]
    announced = announce(api)
    end_lives(api)
    for gone in (url, announced["urls"]["self"]):
        assert (api.client.get(gone).status_code, api.client.get(gone).json()["code"]) == (410, "gone")
    assert complete(api, announced).status_code == 410
    with api.database.write() as connection:
        assert forget_expired(connection) == 2
        assert forget_expired(connection) == 0
    assert api.client.get(url).status_code == 404


def test_a_deleted_upload_leaves_its_picture_an_hour_unless_another_needs_it(api: Api) -> None:
    first, second = send(api).json(), send(api).json()
    assert api.client.delete(first["urls"]["self"]).status_code == 204
    assert api.client.get(first["urls"]["self"]).status_code == 404
    assert not is_picture_over_within_the_hour(api)
    api.client.delete(second["urls"]["self"])
    assert is_picture_over_within_the_hour(api)


def is_picture_over_within_the_hour(api: Api) -> bool:
    with api.database.read() as connection:
        return bool(connection.execute(select(objects.c.expires_at <= after_now(3600))).scalar_one())


def test_a_job_keeps_the_picture_of_an_upload_that_is_deleted(api: Api) -> None:
    body = send(api).json()
    (key,) = api.store.objects
    reference = InputRef(key, body["sha256"], body["bytes"], body["width"], body["height"])
    with api.database.write() as connection:
        insert_job(connection, make_job(inputs={"image": reference}))
    api.client.delete(body["urls"]["self"])
    assert (rows(api, object_refs), rows(api, objects), list(api.store.objects)) == (1, 1, [key])


def test_deleting_a_pending_upload_drops_the_file_that_came(api: Api) -> None:
    upload = announce(api)
    put(api, upload)
    assert api.client.delete(upload["urls"]["self"]).status_code == 204
    assert api.store.objects == {}
