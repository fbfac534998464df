"""Trying jobs again, changing and erasing them, from the SDK and from the command line."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import cli
from client.commands import jobs as job_commands
from client.errors import DarkroomAPIError
from client.job import Job
from tests.unit.client.serving import Server, answer, job, problem

Run = Callable[..., tuple[int, str, str]]


def sent(server: Server, number: int = 0) -> tuple[str, str, Any]:
    request = server.requests[number]
    return request.method, request.url.path, json.loads(request.content) if request.content else None


def test_a_retry_is_a_new_job_with_overrides_where_none_is_a_value() -> None:
    server = Server([answer(202, job(id="job_2", retry_of="job_1"))])
    made = server.client().retry("job_1", strength=0.4, seed=None)
    assert made.id == "job_2"
    assert sent(server) == ("POST", "/v1/jobs/job_1/retry", {"overrides": {"strength": 0.4, "seed": None}})


def test_the_inputs_of_a_retry_are_whatever_those_of_a_submit_may_be(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xffjpeg")
    server = Server([answer(202, job())])
    server.client().retry("job_1", image=photo, mask={"upload": "upl_1"})
    server.client().retry("job_1", image=None)
    data = "data:image/jpeg;base64," + base64.b64encode(photo.read_bytes()).decode()
    assert sent(server)[2] == {"overrides": {"image": {"data": data}, "mask": {"upload": "upl_1"}}}
    assert sent(server, 1)[2] == {"overrides": {"image": None}}


def test_a_retry_is_repeated_with_the_same_key_until_it_is_through() -> None:
    server = Server([httpx.ReadError("cut"), problem(503, "unavailable"), answer(202, job())])
    server.client().retry("job_1")
    server.client().retry("job_1", idempotency_key="mine")
    keys = [request.headers["Idempotency-Key"] for request in server.requests]
    assert (len(set(keys[:3])), keys[3]) == (1, "mine")


def test_an_edit_says_only_what_shall_change() -> None:
    server = Server([answer(200, job(version=2))])
    server.client().edit("job_1", priority="high")
    server.client().edit("job_1", tags=(), metadata={})
    assert sent(server) == ("PATCH", "/v1/jobs/job_1", {"priority": "high"})
    assert sent(server, 1)[2] == {"tags": [], "metadata": {}}


def test_a_job_that_has_started_cannot_be_changed() -> None:
    server = Server([problem(409, "not_editable")])
    with pytest.raises(DarkroomAPIError) as caught:
        server.client().edit("job_1", priority="high")
    assert (caught.value.code, len(server.requests)) == ("not_editable", 1)


def test_a_delete_is_repeated_when_the_answer_was_lost() -> None:
    server = Server([httpx.ReadError("cut"), httpx.Response(204)])
    server.client().delete("job_1")
    assert [sent(server, number) for number in range(2)] == [("DELETE", "/v1/jobs/job_1", None)] * 2


def test_a_job_can_do_all_this_by_itself() -> None:
    server = Server([answer(202, job(id="job_2")), answer(200, job(tags=["x"])), httpx.Response(204)])
    own = Job(job("failed"), server.client())
    assert own.retry(seed=7).id == "job_2"
    assert own.edit(tags=["x"]).raw["tags"] == ["x"]
    own.delete()
    assert [request.method for request in server.requests] == ["POST", "PATCH", "DELETE"]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    """Put a server made of answers behind the commands."""

    def behind(*answers: Any) -> Server:
        server = Server(list(answers))
        monkeypatch.setattr(job_commands, "open_server", lambda url, key: server.client(retry_seconds=0))
        return server

    return behind


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """One command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_the_command_retry_takes_values_as_json_or_as_text(run: Run, serve: Callable[..., Server]) -> None:
    server = serve(answer(202, job(id="job_2")))
    sets = ("prompt=a dog", "strength=0.4", "seed=null", 'output={"format": "jpeg"}')
    code, out, _ = run("retry", "job_1", *(part for one in sets for part in ("--set", one)), "--no-wait")
    assert (code, out) == (0, "job_2\n")
    wished = {"prompt": "a dog", "strength": 0.4, "seed": None, "output": {"format": "jpeg"}}
    assert sent(server)[2] == {"overrides": wished}


def test_the_command_retry_waits_and_saves(run: Run, serve: Callable[..., Server]) -> None:
    done = job("succeeded", id="job_2", images=[{"index": 0, "content_type": "image/png"}])
    serve(answer(202, job(id="job_2")), answer(200, done), httpx.Response(200, content=b"result"))
    code, out, _ = run("retry", "job_1")
    assert (code, Path(out.strip()).read_bytes()) == (0, b"result")


def test_the_command_edit_changes_and_shows_the_job(run: Run, serve: Callable[..., Server]) -> None:
    server = serve(answer(200, job()))
    assert run("edit", "job_1", "--priority", "high", "--tag", "a", "--tag", "b", "--metadata", "k=v=w")[0] == 0
    assert sent(server)[2] == {"priority": "high", "tags": ["a", "b"], "metadata": {"k": "v=w"}}
    assert run("edit", "job_1", "--tag", "", "--metadata", "") == (0, "job_1 queued, 0%\n", "")
    assert sent(server, 1)[2] == {"tags": [], "metadata": {}}


def test_the_command_delete_says_so(run: Run, serve: Callable[..., Server]) -> None:
    server = serve(httpx.Response(204))
    assert run("delete", "job_1")[:2] == (0, "job_1 erased\n")
    assert sent(server)[0] == "DELETE"


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry", "job_1", "--set", "strength"),
        ("retry", "job_1", "--set", "=1"),
        ("retry", "job_1", "--set", "seed=1", "--set", "seed=2"),
        ("retry", "job_1", "--set", "idempotency_key=k"),
        ("edit", "job_1"),
        ("edit", "job_1", "--metadata", "k"),
        ("delete",),
    ],
)
def test_what_is_asked_wrongly_exits_with_two(
    run: Run, serve: Callable[..., Server], arguments: tuple[str, ...]
) -> None:
    server = serve(answer(200, job()))
    code, _, err = run(*arguments)
    assert (code, server.requests) == (2, [])
    assert "Traceback" not in err
