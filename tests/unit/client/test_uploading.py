"""The SDK: pictures sent ahead, and the ways in which a job names its pictures."""

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.sdk import DarkroomAPIError, Upload
from client.uploads import DIRECT_BYTES, declaration_of
from tests.unit.client.serving import Server, answer, job, problem
from tests.unit.client.test_sdk import parts

PNG = b"\x89PNG\r\n\x1a\n"
LARGE = PNG + b"x" * DIRECT_BYTES
HEADERS = {"Content-Type": "image/png", "Content-Length": str(len(LARGE))}


def upload(status: str = "ready", base: str = "http://darkroom.test", **members: Any) -> dict[str, Any]:
    """An upload as the API shows it."""
    urls = {"self": f"{base}/v1/uploads/upl_1", "complete": None}
    return {"id": "upl_1", "status": status, "width": 8, "height": 6, "urls": urls, **members}


def awaited(url: str, base: str = "http://darkroom.test") -> httpx.Response:
    """The answer to a presign that asks for one PUT to `url`."""
    return answer(201, upload("pending", base, put={"url": url, "method": "PUT", "headers": HEADERS}))


def test_a_file_becomes_an_upload_that_a_job_names(tmp_path: Path) -> None:
    photo = tmp_path / "photo.webp"
    photo.write_bytes(b"webp bytes")
    server = Server([answer(201, upload()), answer(202, job())])
    client = server.client()
    sent = client.upload(photo)
    assert (sent.id, sent.status, sent.width, sent.height) == ("upl_1", "ready", 8, 6)
    client.submit(prompt="snow", image=sent)
    part = parts(server.requests[0])["file"]
    assert (part.get_filename(), part.get_content_type()) == ("photo.webp", "image/webp")
    assert part.get_payload(decode=True) == b"webp bytes"
    assert json.loads(server.requests[1].content) == {"prompt": "snow", "image": {"upload": "upl_1"}}


@pytest.mark.parametrize(
    "source", [{"upload": "upl_2"}, {"url": "https://example.com/a.png"}, {"job": "job_1", "index": 3}]
)
def test_what_the_api_takes_in_place_of_a_picture_passes_as_it_is(source: dict[str, Any]) -> None:
    server = Server([answer(202, job())])
    server.client().submit(image=source, mask=Upload(upload()), strength=0.5)
    assert json.loads(server.requests[0].content) == {"strength": 0.5, "image": source, "mask": {"upload": "upl_1"}}


def test_image_and_mask_travel_in_one_form_or_each_in_its_own_way() -> None:
    server = Server([answer(202, job())])
    client = server.client()
    client.submit(image=b"picture", mask=b"mask", task="inpaint")
    client.submit(image={"url": "https://example.com/a.png"}, mask=b"mask")
    both, mixed = (parts(request) for request in server.requests)
    assert json.loads(str(both["request"].get_payload())) == {"task": "inpaint"}
    assert both["image"].get_payload(decode=True) == b"picture"
    assert both["mask"].get_payload(decode=True) == b"mask"
    assert json.loads(str(mixed["request"].get_payload())) == {"image": {"url": "https://example.com/a.png"}}
    assert set(mixed) == {"request", "mask"}


def test_a_chain_needs_no_prompt_of_its_own() -> None:
    server = Server([answer(202, job())])
    server.client().submit(steps=[{"prompt": "a"}, {"prompt": "b"}], keep="all")
    assert json.loads(server.requests[0].content) == {"steps": [{"prompt": "a"}, {"prompt": "b"}], "keep": "all"}


def test_a_large_file_goes_to_the_store_and_the_key_does_not() -> None:
    store = "http://store.test/bucket/key?X-Amz-Signature=1"
    server = Server([awaited(store), answer(200), answer(200, upload())])
    assert server.client(api_key="dk_secret").upload(LARGE).status == "ready"
    presign, put, complete = server.requests
    declared = {"bytes": len(LARGE), "sha256": hashlib.sha256(LARGE).hexdigest(), "content_type": "image/png"}
    assert json.loads(presign.content) == declared
    assert (put.method, str(put.url), put.content) == ("PUT", store, LARGE)
    assert {name: put.headers[name] for name in HEADERS} == HEADERS
    assert "Authorization" not in put.headers
    assert complete.url.path == "/v1/uploads/upl_1/complete"
    assert complete.headers["Authorization"] == "Bearer dk_secret"


@pytest.mark.parametrize("base", ["http://darkroom.test", "https://public.test"])
def test_a_server_without_such_a_store_takes_the_file_itself_at_the_address_that_we_know(base: str) -> None:
    server = Server([awaited(f"{base}/v1/uploads/upl_1/content", base), httpx.Response(204), answer(200, upload())])
    server.client(api_key="dk_secret").upload(LARGE)
    put = server.requests[1]
    assert str(put.url) == "http://darkroom.test/v1/uploads/upl_1/content"
    assert put.headers["Authorization"] == "Bearer dk_secret"
    assert put.content == LARGE


def test_a_store_that_only_looks_like_the_server_gets_no_key() -> None:
    server = Server([awaited("http://darkroom.test/v1/uploads/upl_11"), answer(200), answer(200, upload())])
    server.client(api_key="dk_secret").upload(LARGE)
    assert "Authorization" not in server.requests[1].headers


def test_what_fails_on_the_way_to_the_store_is_tried_again() -> None:
    way = [awaited("http://store.test/key"), answer(503), answer(200), answer(200, upload())]
    server = Server([way[0], httpx.ReadError("cut"), *way[1:]])
    assert server.client().upload(LARGE).status == "ready"
    assert [request.content for request in server.requests[1:4]] == [LARGE] * 3


def test_a_store_that_refuses_is_an_error() -> None:
    server = Server([awaited("http://store.test/key"), httpx.Response(403, text="<Error/>")])
    with pytest.raises(DarkroomAPIError, match="Forbidden"):
        server.client().upload(LARGE)


def test_a_file_that_was_not_what_it_seemed_is_refused_with_its_reason() -> None:
    server = Server([awaited("http://store.test/key"), answer(200), problem(422, "image_unreadable")])
    with pytest.raises(DarkroomAPIError, match="about image_unreadable"):
        server.client().upload(LARGE)


def test_a_large_file_of_no_known_kind_is_left_to_the_server_to_refuse() -> None:
    server = Server([problem(415, "unsupported_media_type")])
    with pytest.raises(DarkroomAPIError, match="unsupported_media_type"):
        server.client().upload(b"x" * (DIRECT_BYTES + 1))
    assert server.requests[0].url.path == "/v1/uploads"


@pytest.mark.parametrize(
    ("data", "content_type"),
    [(PNG, "image/png"), (b"\xff\xd8\xff\xe0", "image/jpeg"), (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp")],
)
def test_a_file_is_declared_as_what_its_bytes_are(data: bytes, content_type: str) -> None:
    declared = declaration_of(data)
    assert declared is not None
    assert declared["content_type"] == content_type
    assert declaration_of(b"RIFF\x00\x00\x00\x00WAVE") is None


def test_the_grid_is_fetched_as_bytes_or_to_a_file(tmp_path: Path) -> None:
    server = Server([httpx.Response(200, content=b"sheet")])
    assert server.client().fetch_grid("job_1") == b"sheet"
    assert server.client().fetch_grid("job_1", tmp_path / "grid.png") == tmp_path / "grid.png"
    assert (tmp_path / "grid.png").read_bytes() == b"sheet"
    assert server.requests[0].url.path == "/v1/jobs/job_1/grid"


def test_a_preview_is_there_or_not() -> None:
    server = Server([httpx.Response(204), httpx.Response(200, content=b"jpeg")])
    client = server.client()
    assert client.preview("job_1") is None
    assert client.preview("job_1") == b"jpeg"
    assert server.requests[0].url.path == "/v1/jobs/job_1/preview"


def test_one_model_is_asked_for() -> None:
    server = Server([answer(200, {"id": "sd15", "parameters": {}})])
    assert server.client().model("sd15") == {"id": "sd15", "parameters": {}}
    assert server.requests[0].url.path == "/v1/models/sd15"
