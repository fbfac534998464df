"""`darkroom batch` from its pictures to its results, and after every end that a process can come to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.errors import ConnectionFailed, DarkroomAPIError
from client.folder.errors import FolderError
from client.folder.session import Handed
from client.folder.state import State
from client.folder.summary import Summary
from tests.unit.client.batch_server import (
    BROKEN,
    BatchServer,
    Killed,
    lines_of,
    make_folder,
    run_folder,
    written,
)
from tests.unit.client.serving import problem

PNG = b"\x89PNG\r\n\x1a\n"
FILES = {
    "a.png": PNG + b"a",
    "b.jpg": b"\xff\xd8\xffb",
    "broken.png": BROKEN,
    "deep/c.webp": b"RIFF----WEBPc",
    "deep/same as a.png": PNG + b"a",
    "notes.txt": b"no picture at all",
    "z/1.png": PNG + b"1",
    "z/2.png": PNG + b"2",
}
RESULTS = {
    "a.png": PNG + b"a",
    "b.png": b"\xff\xd8\xffb",
    "deep/c.png": b"RIFF----WEBPc",
    "deep/same as a.png": PNG + b"a",
    "z/1.png": PNG + b"1",
    "z/2.png": PNG + b"2",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos", FILES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "edited"


def require_whole(server: BatchServer, out: Path, folder: Path) -> None:
    """Every picture has its result, none was developed twice, and the broken one is in failed.jsonl."""
    found = written(out)
    failed = found.pop("failed.jsonl")
    assert found == {name: b"developed " + data for name, data in RESULTS.items()}
    (line,) = [json.loads(text) for text in failed.splitlines()]
    assert (line["custom_id"], line["image"]) == ("broken.png", str(folder.resolve() / "broken.png"))
    assert line["error"]["code"] == "image_unreadable"
    (batch,) = server.batches.values()
    assert sorted(line["custom_id"] for line in batch.lines) == sorted(set(FILES) - {"broken.png", "notes.txt"})


def test_every_picture_gets_its_result_beside_its_name(folder: Path, out: Path) -> None:
    server = BatchServer()
    summary = run_folder(server, out, folder, defaults={"prompt": "snow"}, name="winter", priority="normal")
    assert isinstance(summary, Summary)
    require_whole(server, out, folder)
    assert (summary.done, summary.failed, summary.files, summary.exit_code) == (6, 1, 6, 1)
    request = server.batches["bat_0"].request
    assert (request["defaults"], request["name"], request["priority"]) == ({"prompt": "snow"}, "winter", "normal")


def test_the_pictures_of_equal_content_are_sent_once(folder: Path, out: Path) -> None:
    server = BatchServer()
    run_folder(server, out, folder)
    lines = {line["custom_id"]: line["image"]["upload"] for line in server.batches["bat_0"].lines}
    assert lines["a.png"] == lines["deep/same as a.png"]
    assert len(server.contents) == 5


@pytest.mark.parametrize("has_store", [True, False])
def test_pictures_go_straight_into_a_store_where_there_is_one(folder: Path, out: Path, has_store: bool) -> None:
    server = BatchServer(has_store=has_store)
    (folder / "broken.png").unlink()
    run_folder(server, out, folder)
    straight = [one for one in server.requests if one.url.host == "store.test"]
    assert (len(straight), len(server.asked("POST", "/v1/uploads"))) == ((5, 0) if has_store else (0, 4))


def test_without_a_failure_there_is_no_failed_jsonl(folder: Path, out: Path) -> None:
    (folder / "broken.png").unlink()
    summary = run_folder(BatchServer(), out, folder)
    assert isinstance(summary, Summary)
    assert (summary.exit_code, summary.failed_file, (out / "failed.jsonl").exists()) == (0, None, False)


def test_what_failed_can_be_fed_back_into_the_same_folder(folder: Path, out: Path) -> None:
    server = BatchServer(fails=frozenset({"b.jpg"}))
    run_folder(server, out, folder, defaults={"prompt": "snow", "strength": 0.5})
    assert [line["error"]["code"] for line in lines_of(out / "failed.jsonl")] == ["out_of_memory", "image_unreadable"]
    (folder / "broken.png").write_bytes(PNG + b"mended")
    server.fails = frozenset()
    summary = run_folder(server, out, manifest=out / "failed.jsonl")
    assert isinstance(summary, Summary)
    assert (summary.done, summary.failed) == (2, 0)
    assert written(out)["broken.png"] == b"developed " + PNG + b"mended"
    assert "failed.jsonl" not in written(out)
    again = server.batches["bat_1"].lines
    assert [(line["custom_id"], line["prompt"], line["strength"]) for line in again] == [
        ("b.jpg", "snow", 0.5),
        ("broken.png", "snow", 0.5),
    ]
    assert all("error" not in line for line in again)


class Killer:
    """Ends the process at one request: nothing goes out any more, and no answer comes."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.is_dead = False

    def __call__(self, number: int, request: httpx.Request) -> None:
        self.is_dead = self.is_dead or number == self.at
        if self.is_dead:
            raise Killed


def _is_dead(killer: Killer) -> Callable[[int, httpx.Request], None]:
    def refuse(number: int, request: httpx.Request) -> None:
        if killer.is_dead:
            raise Killed

    return refuse


def _count_requests(tmp_path: Path) -> int:
    server = BatchServer(pace=2)
    run_folder(server, tmp_path / "counted", make_folder(tmp_path / "counted photos", FILES), concurrency=1)
    return len(server.requests)


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("did_arrive", [False, True], ids=["request lost", "answer lost"])
def test_killed_at_any_request_and_resumed_nothing_is_doubled_or_missing(
    tmp_path: Path, did_arrive: bool, concurrency: int
) -> None:
    for number in range(_count_requests(tmp_path)):
        place = tmp_path / f"killed at {number}"
        folder, out = make_folder(place / "photos", FILES), place / "edited"
        server, killer = BatchServer(pace=2), Killer(number)
        if did_arrive:
            server.loss, server.fault = killer, _is_dead(killer)
        else:
            server.fault = killer
        with pytest.raises(Killed):
            run_folder(server, out, folder, concurrency=concurrency)
        server.fault = server.loss = lambda number, request: None
        uploaded, fetched = len(server.contents), len(_pictures(out))
        asked = len(server.requests)
        run_folder(server, out, resume=True)
        require_whole(server, out, folder)
        assert uploaded <= len(server.contents) <= 5 + concurrency  # what was under way is sent again
        again = [one for one in server.requests[asked:] if "/images/" in one.url.path]
        assert len(again) == len(RESULTS) - fetched


def _pictures(out: Path) -> list[str]:
    return [name for name in written(out) if name.endswith(".png")] if out.exists() else []


def test_a_torn_last_line_of_the_journal_is_no_harm(folder: Path, out: Path) -> None:
    server, killer = BatchServer(pace=2), Killer(12)
    server.fault = killer
    with pytest.raises(Killed):
        run_folder(server, out, folder, concurrency=1)
    with (out / ".darkroom-batch" / "journal.jsonl").open("ab") as file:
        file.write(b'{"note": "outcome", "custom')
    server.fault = lambda number, request: None
    run_folder(server, out, resume=True)
    require_whole(server, out, folder)


def test_a_network_that_is_away_for_minutes_costs_nothing_but_time(folder: Path, out: Path) -> None:
    server, outage = BatchServer(), iter(range(200))

    def away(number: int, request: httpx.Request) -> httpx.Response | None:
        if number > 4 and number % 3 and next(outage, None) is not None:
            raise httpx.ConnectError("network is unreachable")
        return problem(503, "unavailable") if number % 11 == 0 else None

    server.fault = away
    run_folder(server, out, folder)
    require_whole(server, out, folder)


def test_what_ends_a_run_for_good_is_told_and_can_be_resumed(folder: Path, out: Path) -> None:
    server = BatchServer()
    server.fault = lambda number, request: problem(401, "unauthorized") if number == 3 else None
    with pytest.raises(DarkroomAPIError, match="unauthorized"):
        run_folder(server, out, folder)
    run_folder(server, out, folder, resume=True)
    require_whole(server, out, folder)


def test_a_second_run_into_an_unfinished_folder_is_refused_with_what_to_do(folder: Path, out: Path) -> None:
    server = BatchServer()
    assert isinstance(run_folder(server, out, folder, wait=False), Handed)
    with pytest.raises(FolderError, match=r"bat_0, 0 of 7 done.*--resume"):
        run_folder(server, out, folder)
    run_folder(server, out, resume=True)
    require_whole(server, out, folder)


def test_a_resumed_run_with_other_settings_is_refused(folder: Path, out: Path) -> None:
    server = BatchServer()
    run_folder(server, out, folder, defaults={"prompt": "snow"}, wait=False)
    with pytest.raises(FolderError, match="defaults differ"):
        run_folder(server, out, folder, defaults={"prompt": "rain"}, resume=True)
    with pytest.raises(FolderError, match="folder differ"):
        run_folder(server, out, out.parent, defaults={"prompt": "snow"}, resume=True)
    run_folder(server, out, folder, defaults={"prompt": "snow"}, resume=True)
    require_whole(server, out, folder)


def test_a_finished_run_that_is_resumed_asks_for_nothing(folder: Path, out: Path) -> None:
    server = BatchServer()
    first = run_folder(server, out, folder)
    asked = len(server.requests)
    second = run_folder(server, out, resume=True)
    assert len(server.requests) == asked
    assert isinstance(first, Summary)
    assert isinstance(second, Summary)
    assert (second.done, second.failed, second.written_now) == (first.done, first.failed, 0)


def test_there_must_be_something_to_resume_or_to_begin_with(folder: Path, out: Path) -> None:
    with pytest.raises(FolderError, match="nothing to resume"):
        run_folder(BatchServer(), out, resume=True)
    server = BatchServer()
    run_folder(server, out, folder, resume=True)
    require_whole(server, out, folder)


def test_files_that_are_there_are_not_overwritten(folder: Path, out: Path) -> None:
    make_folder(out, {"b.png": b"mine", "deep/c-1.jpg": b"mine too"})
    server = BatchServer()
    with pytest.raises(FolderError, match=r"2 files .* would be overwritten \(b.png, deep/c-1.jpg\)"):
        run_folder(server, out, folder)
    assert server.requests == []
    run_folder(server, out, folder, overwrite=True)
    (out / "deep" / "c-1.jpg").unlink()
    require_whole(server, out, folder)


def test_a_file_that_comes_in_the_way_later_stays_and_the_line_fails(folder: Path, out: Path) -> None:
    server = BatchServer()
    run_folder(server, out, folder, wait=False)
    make_folder(out, {"b.png": b"mine"})
    run_folder(server, out, resume=True)
    assert written(out)["b.png"] == b"mine"
    assert [line["error"]["code"] for line in lines_of(out / "failed.jsonl")] == ["file_exists", "image_unreadable"]


def test_a_result_that_was_lost_meanwhile_is_fetched_again(folder: Path, out: Path) -> None:
    server, killer = BatchServer(pace=2), Killer(20)
    server.fault = killer
    with pytest.raises(Killed):
        run_folder(server, out, folder, concurrency=1)
    assert len(_pictures(out)) > 1
    (out / _pictures(out)[0]).write_bytes(b"")
    (out / _pictures(out)[1]).unlink()
    (out / "a.png").unlink(missing_ok=True)
    server.fault = lambda number, request: None
    run_folder(server, out, resume=True)
    require_whole(server, out, folder)


def test_only_one_run_at_a_time_writes_into_a_folder(folder: Path, out: Path) -> None:
    server = BatchServer()

    def meet(number: int, request: httpx.Request) -> None:
        if number == 3:
            with pytest.raises(FolderError, match="another darkroom batch"):
                run_folder(BatchServer(), out, folder)

    server.loss = meet
    run_folder(server, out, folder)
    require_whole(server, out, folder)


def test_a_rejected_batch_says_which_lines_are_wrong_and_the_next_run_may_begin(folder: Path, out: Path) -> None:
    server = BatchServer(pace=0)
    wrong = {"line": 1, "pointer": "/strength", "code": "validation_error", "detail": "0 < strength"}

    def reject(number: int, request: httpx.Request) -> None:
        for batch in server.batches.values():
            batch.status, batch.errors = "rejected", [wrong]

    server.loss = reject
    summary = run_folder(server, out, folder, defaults={"strength": 0})
    assert isinstance(summary, Summary)
    assert (summary.done, summary.failed) == (0, 7)
    errors = {line["custom_id"]: line["error"] for line in lines_of(out / "failed.jsonl")}
    assert errors["b.jpg"] == {name: value for name, value in wrong.items() if name != "line"}
    assert errors["a.png"]["code"] == "batch_rejected"
    server.loss = lambda number, request: None
    server.pace = 3
    server.batches.clear()
    sent = len(server.contents)
    run_folder(server, out, folder)
    require_whole(server, out, folder)
    assert len(server.contents) == sent


def test_a_batch_that_the_server_refuses_ends_the_run_and_the_next_may_begin(folder: Path, out: Path) -> None:
    server = BatchServer()
    errors = [{"pointer": "/defaults/strenght", "detail": "did you mean strength?"}]

    def refuse(number: int, request: httpx.Request) -> httpx.Response | None:
        is_ours = (request.method, request.url.path) == ("POST", "/v1/batches")
        return problem(422, "unknown_field", errors=errors) if is_ours else None

    server.fault = refuse
    with pytest.raises(FolderError, match=r"nothing is queued.*\n  /defaults/strenght: did you mean"):
        run_folder(server, out, folder, defaults={"strenght": 0.5})
    server.fault = lambda number, request: None
    run_folder(server, out, folder, defaults={"strength": 0.5})
    require_whole(server, out, folder)


def test_settings_that_are_wrong_for_all_are_told_after_the_first_picture(folder: Path, out: Path) -> None:
    errors = [{"pointer": "/strength", "detail": "must be at most 1"}]
    server = BatchServer(verdict=problem(422, "validation_error", errors=errors))
    with pytest.raises(FolderError, match="/strength: must be at most 1"):
        run_folder(server, out, folder, defaults={"strength": 5, "prompt": "snow"})
    (asked,) = server.asked("POST", "/v1/jobs")
    assert asked.url.params["dry_run"] == "true"
    assert json.loads(asked.content) == {"strength": 5, "prompt": "snow", "image": {"upload": "upl_0"}}
    assert (len(server.contents), server.batches) == (1, {})
    server.verdict = None
    run_folder(server, out, folder, defaults={"strength": 0.5})
    require_whole(server, out, folder)


def test_when_every_picture_is_refused_there_is_no_batch(tmp_path: Path, out: Path) -> None:
    folder = make_folder(tmp_path / "photos", {"a.png": BROKEN, "b.jpg": b"b" + BROKEN})
    server = BatchServer()
    summary = run_folder(server, out, folder)
    assert isinstance(summary, Summary)
    assert (summary.done, summary.failed, server.batches) == (0, 2, {})


def test_a_submit_whose_answer_was_lost_a_day_ago_finds_its_batch(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = _lose_the_submit(folder, out, did_arrive=True)
    server.keys.clear()
    _let_a_day_pass(monkeypatch)
    run_folder(server, out, resume=True)
    require_whole(server, out, folder)


def test_a_submit_that_never_arrived_a_day_ago_is_made_again_with_fresh_uploads(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = _lose_the_submit(folder, out, did_arrive=False)
    before = set(server.contents)
    _let_a_day_pass(monkeypatch)
    run_folder(server, out, resume=True)
    require_whole(server, out, folder)
    assert not before & {line["image"]["upload"] for line in server.batches["bat_0"].lines}


def _lose_the_submit(folder: Path, out: Path, *, did_arrive: bool) -> BatchServer:
    server = BatchServer()

    def die(number: int, request: httpx.Request) -> None:
        if request.url.path == "/v1/batches":
            raise Killed

    if did_arrive:
        server.loss = die
    else:
        server.fault = die
    with pytest.raises(Killed):
        run_folder(server, out, folder)
    server.fault = server.loss = lambda number, request: None
    return server


def _let_a_day_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = State.__init__

    def later(self: State, out: Path, **options: Any) -> None:
        import time

        begin(self, out, wall_clock=lambda: time.time() + 86_400)

    monkeypatch.setattr(State, "__init__", later)


def test_pages_that_are_complete_are_not_asked_for_again(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.folder.following.PAGE", 2)
    folder = make_folder(tmp_path / "photos", {f"{number}.png": PNG + b"%d" % number for number in range(6)})
    server = BatchServer(pace=2)
    run_folder(server, out, folder)
    pages = [one.url.params.get("after_line") for one in server.asked("GET", "/results")]
    assert pages == [None, "1", "3"]


def test_a_server_that_stays_away_ends_the_run_in_a_state_to_resume(folder: Path, out: Path) -> None:
    server = BatchServer()

    def gone(number: int, request: httpx.Request) -> None:
        if number > 6:
            raise httpx.ConnectError("away")

    server.fault = gone
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.transport.Transport.insist", lambda self, attempt: attempt())
        patch.setattr("client.transport.retry_wait", lambda attempt, asked: 1000.0)
        with pytest.raises(ConnectionFailed):
            run_folder(server, out, folder)
    server.fault = lambda number, request: None
    run_folder(server, out, resume=True)
    require_whole(server, out, folder)
