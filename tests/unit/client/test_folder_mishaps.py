"""`darkroom batch` against lost answers, refusals that pass, odd files, and results without names."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.batches import Batches
from client.errors import DarkroomAPIError
from client.folder.errors import FolderError
from client.folder.state import Sent, State
from client.folder.submitting import find_lost_batch
from client.folder.summary import Summary
from tests.unit.client import batch_server
from tests.unit.client.batch_server import BatchServer, Killed, lines_of, make_folder, run_folder, written
from tests.unit.client.serving import Server, answer, problem

PNG = b"\x89PNG\r\n\x1a\n"
FILES = {"a.png": PNG + b"a", "b.png": PNG + b"b", "c.png": PNG + b"c"}
HOUR = 3600


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos", FILES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "edited"


def require_whole(server: BatchServer, out: Path) -> None:
    """Every picture has its result, from one batch."""
    assert written(out) == {name: b"developed " + data for name, data in FILES.items()}
    assert len(server.batches) == 1


def is_submit(request: httpx.Request) -> bool:
    return (request.method, request.url.path) == ("POST", "/v1/batches")


def test_a_submit_that_arrived_unheard_and_is_refused_when_repeated_is_still_the_batch_of_the_run(
    folder: Path, out: Path
) -> None:
    server = BatchServer()

    def lose(number: int, request: httpx.Request) -> None:
        if is_submit(request) and len(server.asked("POST", "/v1/batches")) == 1:
            raise httpx.ReadError("reset")

    def refuse(number: int, request: httpx.Request) -> httpx.Response | None:
        return problem(422, "queue_changed") if is_submit(request) and server.batches else None

    server.loss, server.fault = lose, refuse
    run_folder(server, out, folder)
    require_whole(server, out)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_may_not_submit_does_not_end_a_run_whose_batch_may_be_there(
    folder: Path, out: Path, status: int
) -> None:
    server = _killed_after_the_submit(folder, out)
    server.fault = lambda number, request: problem(status, "forbidden") if is_submit(request) else None
    with pytest.raises(DarkroomAPIError, match="forbidden"):
        run_folder(server, out, resume=True)
    server.fault = lambda number, request: None
    run_folder(server, out, resume=True)
    require_whole(server, out)


def test_a_resumed_submit_that_is_refused_finds_the_batch_that_arrived(folder: Path, out: Path) -> None:
    server = _killed_after_the_submit(folder, out)
    server.fault = lambda number, request: problem(413, "payload_too_large") if is_submit(request) else None
    run_folder(server, out, resume=True)
    require_whole(server, out)


def _killed_after_the_submit(folder: Path, out: Path) -> BatchServer:
    server = BatchServer()

    def die(number: int, request: httpx.Request) -> None:
        if is_submit(request):
            raise Killed

    server.loss = die
    with pytest.raises(Killed):
        run_folder(server, out, folder)
    server.loss = lambda number, request: None
    return server


def test_a_lost_batch_is_not_looked_for_among_those_of_long_ago(out: Path) -> None:
    state = State(out)
    state.folder.mkdir(parents=True)
    state.note_submission("mine")
    made_at = datetime.fromtimestamp(time.time() - 48 * HOUR, UTC).isoformat()
    server = Server([answer(200, {"data": [{"id": "bat_1", "created_at": made_at}], "has_more": True, "next": "x"})])
    assert find_lost_batch(_batches(server), state) is None
    assert (len(server.requests), state.submission) == (1, None)


def _batches(server: Server) -> Batches:
    return server.client().batches


class Nameless(BatchServer):
    """A server whose lines have numbers alone."""

    def _result(self, batch: batch_server.Batch, number: int) -> dict[str, Any]:
        return super()._result(batch, number) | {"custom_id": None}


def test_results_are_told_apart_by_their_lines(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.folder.following.PAGE", 2)
    server = Nameless()
    run_folder(server, out, folder)
    require_whole(server, out)


def test_what_is_wrong_with_a_whole_batch_is_the_reason_of_every_line(folder: Path, out: Path) -> None:
    server = BatchServer(pace=0)
    gone = {"line": None, "pointer": "", "code": "input_missing", "detail": "the manifest is gone"}

    def reject(number: int, request: httpx.Request) -> None:
        for batch in server.batches.values():
            batch.status, batch.errors = "rejected", [gone]

    server.loss = reject
    summary = run_folder(server, out, folder)
    assert isinstance(summary, Summary)
    assert summary.reasons == [("input_missing: the manifest is gone", 3)]


def test_a_line_that_failed_keeps_its_own_pictures_in_spite_of_the_defaults(folder: Path, out: Path) -> None:
    manifest = folder / "work.jsonl"
    manifest.write_text('{"image": "a.png", "mask": "b.png"}\n{"image": "c.png", "mask": null}\n', encoding="utf-8")
    server = BatchServer(fails=frozenset({"a.png", "c.png"}))
    defaults = {"mask": {"upload": "upl_shared"}, "prompt": "snow"}
    run_folder(server, out, manifest=manifest, defaults=defaults)
    first, second = lines_of(out / "failed.jsonl")
    assert (first["image"], first["mask"]) == (str(folder / "a.png"), str(folder / "b.png"))
    assert (second["image"], second["mask"], second["prompt"]) == (str(folder / "c.png"), None, "snow")


def test_a_picture_that_the_server_refused_is_sent_again_by_the_next_run(folder: Path, out: Path) -> None:
    server = BatchServer()

    def refuse(number: int, request: httpx.Request) -> httpx.Response | None:
        is_b = request.method == "PUT" and request.content == FILES["b.png"]
        return problem(413, "payload_too_large") if is_b else None

    server.has_store, server.fault = True, refuse
    summary = run_folder(server, out, folder)
    assert isinstance(summary, Summary)
    assert (summary.done, summary.failed) == (2, 1)
    server.fault = lambda number, request: None
    summary = run_folder(server, out, manifest=out / "failed.jsonl")
    assert isinstance(summary, Summary)
    assert (summary.done, summary.failed) == (1, 0)


@pytest.mark.parametrize("times", [1, 5])
def test_a_complaint_of_the_object_store_is_not_the_fault_of_the_file(folder: Path, out: Path, times: int) -> None:
    server, left = BatchServer(has_store=True), iter(range(times))

    def complain(number: int, request: httpx.Request) -> httpx.Response | None:
        is_to_store = request.method == "PUT" and next(left, None) is not None
        return httpx.Response(400, content=b"<Error><Code>ExpiredToken</Code></Error>") if is_to_store else None

    server.fault = complain
    if times > 3:
        with pytest.raises(DarkroomAPIError, match="http_400"):
            run_folder(server, out, folder)
    run_folder(server, out, folder, resume=True)
    require_whole(server, out)


def test_a_submission_is_as_old_as_the_oldest_upload_in_it(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = BatchServer()

    def die(number: int, request: httpx.Request) -> None:
        if is_submit(request):
            raise Killed

    server.fault = die
    with monkeypatch.context() as patch:
        _set_clock(patch, -19 * HOUR)
        with pytest.raises(Killed):
            run_folder(server, out, folder)
    State(out).note_submission("made just now, of uploads that are 19 hours old")
    before = set(server.contents)
    server.fault = lambda number, request: None
    with monkeypatch.context() as patch:
        _set_clock(patch, 2 * HOUR)
        run_folder(server, out, resume=True)
    require_whole(server, out)
    assert not before & {line["image"]["upload"] for line in server.batches["bat_0"].lines}


def _set_clock(patch: pytest.MonkeyPatch, ahead_seconds: float) -> None:
    begin = State.__init__

    def elsewhen(self: State, out: Path, **options: Any) -> None:
        begin(self, out, wall_clock=lambda: time.time() + ahead_seconds)

    patch.setattr(State, "__init__", elsewhen)


def test_uploads_of_another_run_do_not_make_a_submission_old(folder: Path, out: Path) -> None:
    state = State(out)
    state.folder.mkdir(parents=True)
    state.note_sent(Sent("/of another", 1, 1, "", time.time() - 23 * HOUR, upload="upl_1"))
    state.note_submission("mine")
    assert not state.submission_is_old(["/mine"])
    assert state.submission_is_old(["/of another"])


def test_a_pipe_and_a_file_that_is_too_large_fail_alone_and_unread(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.folder.uploading._MOST_BYTES", 1 << 20)
    os.mkfifo(folder / "pipe.png")
    (folder / "large.png").write_bytes(PNG + bytes(3 << 20))
    server = BatchServer()
    summary = run_folder(server, out, folder)
    assert isinstance(summary, Summary)
    assert (summary.done, summary.failed) == (3, 2)
    errors = {line["custom_id"]: line["error"] for line in lines_of(out / "failed.jsonl")}
    assert "3 MiB, and more than 1 are not sent" in errors["large.png"]["detail"]
    assert "no regular file" in errors["pipe.png"]["detail"]


def test_a_batch_that_is_refused_and_not_there_ends_the_run(folder: Path, out: Path) -> None:
    server = BatchServer()
    server.fault = lambda number, request: problem(422, "unknown_field") if is_submit(request) else None
    with pytest.raises(FolderError, match="nothing is queued"):
        run_folder(server, out, folder)
    assert State(out).is_over
