"""The SDK against a server made of answers."""

import json
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import httpx
import pytest

from client.sdk import ClientError, ConnectionFailed, DarkroomAPIError, WaitTimeout
from tests.unit.client.serving import Server, answer, job, problem


def parts(request: httpx.Request) -> dict[str, Message]:
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    form = BytesParser().parsebytes(head + request.content)
    return {str(part.get_param("name", header="content-disposition")): part for part in form.walk() if part is not form}


def test_a_job_without_a_picture_is_handed_in_as_json() -> None:
    server = Server([answer(202, job())])
    handed_in = server.client().submit(prompt="a blue square", model="demo", strength=None)
    assert (handed_in.id, handed_in.status, handed_in.is_finished) == ("job_1", "queued", False)
    assert json.loads(server.requests[0].content) == {"prompt": "a blue square", "model": "demo"}


def test_a_picture_travels_as_a_file_beside_the_request(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"jpeg bytes")
    server = Server([answer(202, job())])
    server.client().submit(prompt="snow", image=photo, strength=0.6)
    sent = parts(server.requests[0])
    assert json.loads(str(sent["request"].get_payload())) == {"prompt": "snow", "strength": 0.6}
    assert sent["request"].get_content_type() == "application/json"
    assert (sent["image"].get_filename(), sent["image"].get_content_type()) == ("photo.jpg", "image/jpeg")
    assert sent["image"].get_payload(decode=True) == b"jpeg bytes"


def test_every_submit_has_an_idempotency_key_of_its_own() -> None:
    server = Server([answer(202, job())])
    client = server.client()
    client.submit(prompt="a")
    client.submit(prompt="a")
    client.submit(prompt="a", idempotency_key="mine")
    first, second, third = (request.headers["Idempotency-Key"] for request in server.requests)
    assert first != second
    assert third == "mine"


def test_a_submit_is_repeated_with_the_same_key_until_it_is_through() -> None:
    server = Server([httpx.ReadError("cut"), problem(503, "unavailable"), answer(202, job())])
    assert server.client().submit(prompt="a", image=b"bytes").id == "job_1"
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 1
    assert len({request.content.split(b"\r\n", 1)[1][:20] for request in server.requests}) == 1


def test_a_passing_trouble_is_waited_out_as_long_as_the_server_asks() -> None:
    server = Server([answer(503, {}, Retry_After="3"), httpx.ConnectError("refused"), answer(200, job())])
    server.client().job("job_1")
    assert server.waits == [3.0, 0.4]


def test_patience_ends() -> None:
    server = Server([httpx.ConnectError("refused")])
    with pytest.raises(ConnectionFailed, match=r"no answer from http://darkroom\.test.*refused"):
        server.client(retry_seconds=4).job("job_1")
    assert sum(server.waits) <= 4
    assert len(server.requests) > 3


def test_a_wait_longer_than_the_patience_is_not_begun() -> None:
    server = Server([answer(429, {"code": "quota_exceeded", "detail": "enough for today"}, Retry_After="3600")])
    with pytest.raises(DarkroomAPIError, match="enough for today"):
        server.client().job("job_1")
    assert server.waits == []


def test_a_refusal_is_raised_at_once_with_all_that_it_says() -> None:
    wrong = {"pointer": "/strength", "code": "out_of_range", "detail": "too much"}
    server = Server([problem(422, "validation_error", errors=[wrong], request_id="req_1", retryable=False)])
    with pytest.raises(DarkroomAPIError) as caught:
        server.client().submit(prompt="a", strength=1.5)
    error = caught.value
    assert (error.status, error.code, error.detail) == (422, "validation_error", "about validation_error")
    assert (error.errors, error.request_id, error.retryable) == ((wrong,), "req_1", False)
    assert len(server.requests) == 1


def test_an_error_that_is_no_problem_document_is_readable_too() -> None:
    server = Server([httpx.Response(500, text="<html>oops</html>", headers={"X-Request-Id": "req_2"})])
    with pytest.raises(DarkroomAPIError, match="Internal Server Error") as caught:
        server.client().job("job_1")
    assert (caught.value.code, caught.value.request_id) == ("http_500", "req_2")


def test_a_server_that_is_no_darkroom_is_recognised() -> None:
    with pytest.raises(ClientError, match="does not answer as a Darkroom server does"):
        Server([httpx.Response(200, text="<html>hello</html>")]).client().job("job_1")


def test_wait_looks_ever_less_often_and_reports_every_change() -> None:
    half = job("running", progress={"value": 0.5, "step": 5, "steps": 10})
    unchanged = httpx.Response(304, headers={"ETag": '"2"', "Retry-After": "1"})
    server = Server(
        [
            answer(200, job(), ETag='"1"'),
            answer(200, half, ETag='"2"'),
            *[unchanged] * 12,
            answer(200, job("succeeded")),
        ]
    )
    seen: list[tuple[str, float]] = []
    finished = server.client().wait("job_1", on_progress=lambda one: seen.append((one.status, one.progress.value)))
    assert finished.status == "succeeded"
    assert seen == [("queued", 0.0), ("running", 0.5), ("succeeded", 0.0)]
    assert [request.headers.get("If-None-Match") for request in server.requests[:4]] == [None, '"1"', '"2"', '"2"']
    assert server.waits[0] == pytest.approx(0.1)
    assert server.waits == sorted(server.waits)
    assert server.waits[-1] == 1.0


def test_wait_returns_a_failed_job_with_its_reason() -> None:
    server = Server([answer(200, job("failed", error={"code": "out_of_memory", "detail": "too large"}))])
    finished = server.client().wait("job_1")
    assert finished.error == {"code": "out_of_memory", "detail": "too large"}
    assert server.waits == []


def test_wait_gives_up_in_time() -> None:
    server = Server([answer(200, job("running"))])
    with pytest.raises(WaitTimeout, match="job_1 is not finished after 5 seconds"):
        server.client().wait("job_1", timeout=5)
    assert sum(server.waits) <= 5


def test_a_job_can_be_waited_for_cancelled_and_fetched_by_itself(tmp_path: Path) -> None:
    image = {"index": 0, "seed": 42, "width": 8, "height": 8, "content_type": "image/png", "sha256": "0", "url": "u"}
    done = answer(200, job("succeeded", images=[image]))
    server = Server([answer(202, job()), done, httpx.Response(200, content=b"png"), done])
    finished = server.client().submit(prompt="a").wait()
    assert (finished.images[0].index, finished.images[0].seed) == (0, 42)
    assert finished.download(0, tmp_path / "out.png") == tmp_path / "out.png"
    assert (tmp_path / "out.png").read_bytes() == b"png"
    assert finished.cancel().status == "succeeded"
    assert [request.url.path for request in server.requests] == [
        "/v1/jobs",
        "/v1/jobs/job_1",
        "/v1/jobs/job_1/images/0",
        "/v1/jobs/job_1/cancel",
    ]


def test_a_download_follows_to_the_store_but_the_key_does_not() -> None:
    there = httpx.Response(307, headers={"Location": "http://store.test/bucket/key?X-Amz-Signature=1"})
    server = Server([there, httpx.Response(200, content=b"png")])
    assert server.client(api_key="dk_secret").download("job_1") == b"png"
    to_us, to_store = server.requests
    assert to_us.headers["Authorization"] == "Bearer dk_secret"
    assert to_store.url.host == "store.test"
    assert "Authorization" not in to_store.headers


def test_jobs_are_listed_page_by_page() -> None:
    first = answer(200, {"data": [job(id="job_2")], "has_more": True, "next": "job_2"})
    last = answer(200, {"data": [job(id="job_1")], "has_more": False, "next": None})
    server = Server([first, last])
    assert [one.id for one in server.client().jobs(status="queued")] == ["job_2", "job_1"]
    assert "after" not in server.requests[0].url.params
    assert server.requests[1].url.params["after"] == "job_2"
    assert server.requests[1].url.params["status"] == "queued"


def test_models_queue_and_readiness_are_asked_for() -> None:
    assert Server([answer(200, {"data": [{"id": "demo"}]})]).client().models() == [{"id": "demo"}]
    assert Server([answer(200, {"lanes": []})]).client().queue() == {"lanes": []}
    assert Server([answer(200, {"workers_ready": 1})]).client().ready() == {"workers_ready": 1}


def test_an_id_from_a_stranger_stays_one_part_of_the_path() -> None:
    server = Server([answer(200, job())])
    server.client().job("../admin?x=1")
    assert server.requests[0].url.raw_path == b"/v1/jobs/..%2Fadmin%3Fx%3D1"
