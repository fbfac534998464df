"""The SDK's batches: how they are handed in, looked at, and read to the last line over a bad connection."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.errors import ClientError, ConnectionFailed, DarkroomAPIError, WaitTimeout
from client.sdk import Batch, BatchCounts, Darkroom, Upload
from tests.unit.client.serving import Server, answer, problem
from tests.unit.client.test_sdk import parts


def batch(status: str = "running", **members: Any) -> dict[str, Any]:
    """A batch as the API shows it."""
    counts = {"total": 3, "queued": 1, "running": 0, "succeeded": 1, "failed": 1, "canceled": 0}
    return {"id": "bat_1", "status": status, "counts": counts, "eta_seconds": 2.5, **members}


def result(custom_id: str | None, status: str = "succeeded", *, line: int = 0) -> bytes:
    """A line of results."""
    members = {"custom_id": custom_id, "job": f"job_{custom_id}", "status": status, "images": [{"index": 0}]}
    return json.dumps({"line": line, **members}, ensure_ascii=False).encode() + b"\n"


class Broken(httpx.SyncByteStream):
    """An answer whose connection breaks after these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        raise httpx.ReadError("reset")


def streamed(*answers: bytes | Broken | httpx.Response) -> tuple[Darkroom, list[httpx.Request], list[float]]:
    """A client whose server gives these answers in turn, its requests, and its waits."""
    requests: list[httpx.Request] = []
    waits: list[float] = []

    def give(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        given = answers[min(len(requests), len(answers)) - 1]
        if isinstance(given, httpx.Response):
            return given
        return httpx.Response(200, stream=given) if isinstance(given, Broken) else httpx.Response(200, content=given)

    client = Darkroom(
        "http://darkroom.test",
        transport=httpx.MockTransport(give),
        sleep=waits.append,
        clock=lambda: sum(waits),
    )
    return client, requests, waits


def test_a_few_items_travel_as_json_with_a_key() -> None:
    server = Server([answer(202, batch())])
    made = server.client().batches.submit(
        items=[{"prompt": "a", "image": Upload({"id": "upl_1"})}, {"prompt": "b"}],
        defaults={"strength": 0.5},
        name="two",
        priority="normal",
        on_invalid="skip",
        metadata={"for": "me"},
        idempotency_key="mine",
    )
    assert json.loads(server.requests[0].content) == {
        "items": [{"prompt": "a", "image": {"upload": "upl_1"}}, {"prompt": "b"}],
        "defaults": {"strength": 0.5},
        "name": "two",
        "priority": "normal",
        "on_invalid": "skip",
        "metadata": {"for": "me"},
    }
    assert server.requests[0].headers["Idempotency-Key"] == "mine"
    assert (made.id, made.status, made.is_finished, made.eta_seconds) == ("bat_1", "running", False, 2.5)
    assert made.counts == BatchCounts(total=3, queued=1, running=0, succeeded=1, failed=1, canceled=0)


def test_a_matrix_travels_as_it_is() -> None:
    server = Server([answer(202, batch())])
    matrix = {"zip": {"prompt": ["a", "b"]}, "product": {"seed": [1, 2]}}
    server.client().batches.submit(matrix=matrix)
    assert json.loads(server.requests[0].content) == {"matrix": matrix}


def test_many_items_lines_and_files_travel_as_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "work.jsonl"
    path.write_bytes(b'{"prompt": "file"}\n')
    server = Server([answer(202, batch())])
    client = server.client()
    client.batches.submit(items=[{"seed": seed} for seed in range(1001)], name="many")
    client.batches.submit(manifest=({"seed": seed} for seed in range(2)))
    client.batches.submit(manifest=path)
    sent = [parts(request) for request in server.requests]
    manifests = [bytes(one["manifest"].get_payload(decode=True)) for one in sent]
    assert manifests[0].splitlines()[-1] == b'{"seed": 1000}'
    assert manifests[1:] == [b'{"seed": 0}\n{"seed": 1}\n', b'{"prompt": "file"}\n']
    assert [json.loads(str(one["request"].get_payload())) for one in sent] == [{"name": "many"}, {}, {}]
    assert sent[0]["manifest"].get_content_type() == "application/jsonl"


def test_a_manifest_whose_answer_was_lost_goes_out_again_as_a_whole_under_the_same_key() -> None:
    bodies: list[bytes] = []

    def take(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read().split(b"\r\n\r\n", 2)[2].split(b"\r\n")[0])
        if len(bodies) < 3:
            raise httpx.ReadError("reset")
        return answer(202, batch())

    server = Server([take])
    server.client().batches.submit(manifest=[{"prompt": "x" * 100}] * 5000)
    assert bodies[0] == bodies[2]
    assert bodies[0].count(b"\n") >= 4999
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 1


def test_exactly_one_form_must_be_given() -> None:
    batches = Server([answer(202, batch())]).client().batches
    with pytest.raises(ValueError, match="one of items, manifest and matrix"):
        batches.submit()
    with pytest.raises(ValueError, match="one of items, manifest and matrix"):
        batches.submit(items=[{}], matrix={})


def test_waiting_tells_every_change_and_ends_with_the_batch() -> None:
    answers = [answer(200, one) for one in (batch(), batch(), batch("paused"), batch("completed"))]
    server = Server([*answers])
    seen: list[str] = []
    done = server.client().batches.wait("bat_1", on_progress=lambda one: seen.append(one.status))
    assert (done.status, done.is_finished, seen) == ("completed", True, ["running", "paused", "completed"])
    assert len(server.waits) == 3
    with pytest.raises(WaitTimeout, match="bat_1 is not finished after 5 seconds"):
        Server([answer(200, batch())]).client().batches.wait("bat_1", timeout=5)


def test_a_batch_is_listed_changed_and_tried_again() -> None:
    listed = answer(200, {"data": [batch()], "has_more": False, "next": None})
    server = Server([listed, answer(200, batch("paused"))])
    client = server.client()
    (found,) = client.batches.list(status="running")
    for change in (found.pause, found.resume, found.cancel, found.refresh):
        assert isinstance(change(), Batch)
    wishes: dict[str, Any] = {"overrides": {"strength": 0.4, "seed": None}, "include_canceled": True}
    found.retry(**wishes, on_invalid="reject", idempotency_key="again")
    client.batches.retry("bat_1")
    asked = [(one.method, one.url.raw_path.decode()) for one in server.requests]
    assert asked == [
        ("GET", "/v1/batches?limit=100&status=running"),
        ("POST", "/v1/batches/bat_1/pause"),
        ("POST", "/v1/batches/bat_1/resume"),
        ("POST", "/v1/batches/bat_1/cancel"),
        ("GET", "/v1/batches/bat_1"),
        ("POST", "/v1/batches/bat_1/retry"),
        ("POST", "/v1/batches/bat_1/retry"),
    ]
    assert json.loads(server.requests[5].content) == {**wishes, "on_invalid": "reject"}
    assert server.requests[5].headers["Idempotency-Key"] == "again"
    assert json.loads(server.requests[6].content) == {}


def test_the_jobs_of_a_batch_come_page_by_page() -> None:
    pages = [
        answer(200, {"data": [{"id": "job_1", "status": "queued"}], "has_more": True, "next": "job_1"}),
        answer(200, {"data": [{"id": "job_2", "status": "queued"}], "has_more": False, "next": None}),
    ]
    server = Server([*pages])
    assert [one.id for one in server.client().batches.jobs("bat_1", status="queued")] == ["job_1", "job_2"]
    assert server.requests[1].url.params["after"] == "job_1"


def test_results_that_break_go_on_behind_the_last_whole_line_also_one_without_a_name() -> None:
    odd = "b and a line separator"
    first = Broken(result("a") + result(odd, line=1) + result(None, "failed", line=2) + result("d", line=3)[:10])
    last = result("d", line=3) + result("e", "failed", line=4)
    client, requests, waits = streamed(first, httpx.Response(503), Broken(b""), last)
    found = list(client.batches.results("bat_1"))
    assert [(one.line, one.custom_id) for one in found] == [(0, "a"), (1, odd), (2, None), (3, "d"), (4, "e")]
    assert [one.is_finished for one in found] == [True] * 5
    assert (found[0].job_id, found[0].images[0].index, found[0].error) == ("job_a", 0, None)
    assert [dict(request.url.params) for request in requests] == [{}] + [{"after_line": "2"}] * 3
    assert len(waits) == 3


def test_a_limit_of_results_holds_over_broken_connections() -> None:
    client, requests, _ = streamed(Broken(result("b", line=1) + result("c", line=2)), result("d", line=3))
    assert [one.custom_id for one in client.batches.results("bat_1", after="a", limit=3)] == ["b", "c", "d"]
    assert [dict(one.url.params) for one in requests] == [
        {"after": "a", "limit": "3"},
        {"after_line": "2", "limit": "1"},
    ]


def test_results_begin_behind_a_name_or_a_number_and_not_both() -> None:
    client, requests, _ = streamed(b"")
    assert list(Batch(batch(), client.batches).results(after_line=0)) == []
    assert dict(requests[0].url.params) == {"after_line": "0"}
    with pytest.raises(ValueError, match="one of after and after_line"):
        client.batches.results("bat_1", after="a", after_line=0)


def test_results_of_what_is_not_there_are_refused_at_once_and_of_who_is_away_after_a_while() -> None:
    client, requests, _ = streamed(problem(404, "not_found"))
    with pytest.raises(DarkroomAPIError, match="not_found"):
        list(client.batches.results("bat_2"))
    assert len(requests) == 1
    client, requests, waits = streamed(Broken(b""))
    with pytest.raises(ConnectionFailed):
        list(client.batches.results("bat_1"))
    assert sum(waits) <= 30 < sum(waits) + 5


@pytest.mark.parametrize("line", [b"<html>\n", b"[]\n", b'{"status": "queued", "custom_id": "a"}\n'])
def test_what_is_no_result_is_told(line: bytes) -> None:
    client, *_ = streamed(line)
    with pytest.raises(ClientError, match="not as a Darkroom server writes them"):
        list(client.batches.results("bat_1"))


def test_an_archive_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "all.zip"
    client, requests, _ = streamed(Broken(b"half"), b"the whole zip")
    assert client.batches.archive("bat_1", target) == target
    assert (target.read_bytes(), len(requests)) == (b"the whole zip", 2)
    client, *_ = streamed(problem(409, "not_editable"))
    with pytest.raises(DarkroomAPIError):
        client.batches.archive("bat_1", tmp_path / "none.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["all.zip"]


def test_a_picture_is_saved_only_as_the_server_has_it(tmp_path: Path) -> None:
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of foo
    client, requests, _ = streamed(b"fo", b"foo")
    assert client.save_image("job_1", 2, tmp_path / "a.png", sha256=digest).read_bytes() == b"foo"
    assert requests[0].url.path == "/v1/jobs/job_1/images/2"
    client, requests, _ = streamed(b"bar")
    with pytest.raises(ClientError, match="SHA-256"):
        client.save_image("job_1", 0, tmp_path / "b.png", sha256=digest)
    assert (len(requests), [path.name for path in tmp_path.iterdir()]) == (3, ["a.png"])


@pytest.mark.parametrize("file", [Path("a.png"), b"png"])
def test_a_file_in_place_of_its_upload_is_refused_with_what_to_do(file: Any) -> None:
    server = Server([])
    for wishes in (
        {"items": [{"image": file}]},
        {"manifest": [{"image": file}]},
        {"matrix": {"zip": {"image": [file]}}},
    ):
        with pytest.raises(ValueError, match=r"Darkroom\.upload"):
            server.client().batches.submit(**wishes)
    assert server.requests == []
