"""`darkroom batch` and `darkroom batches`: options, exit codes, and what is printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from client import cli
from client.batch import Batch
from client.commands import batch as batch_command
from client.commands import batches as batches_command
from client.folder.display import Display
from client.folder.patience import Patience
from tests.unit.client.batch_server import BROKEN, BatchServer, Instant, make_folder
from tests.unit.client.serving import Server, answer, problem
from tests.unit.client.test_batches import batch, result

Run = Callable[..., tuple[int, str, str]]

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """One command line in a folder with `photos`: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos", {"a.png": PNG + b"a", "b.png": PNG + b"b"})

    def command(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> BatchServer:
    """The server behind `darkroom batch`."""
    built = BatchServer()

    def connect(url: str, key: str | None, patience: Patience) -> Any:
        return built.client(patience)

    monkeypatch.setattr(batch_command, "open_server", connect)
    monkeypatch.setattr(batch_command, "Patience", lambda say, server: Instant())
    return built


def test_every_option_becomes_a_default_of_the_batch(run: Run, server: BatchServer) -> None:
    options = (
        "--model sd15 --strength 0.5 --seed 7 --steps 20 --guidance 5 --num-images 2 --size 512x640 --format webp "
        "--quality 80 --name winter --priority normal --on-invalid skip --out edited"
    )
    code, out, err = run("batch", "photos", "--prompt", "snow", *options.split())
    assert code == 0
    assert out.startswith("2 done, 0 failed: 2 files in edited\n2 in ")
    assert "pictures per minute" in out
    assert "2 pictures" in err
    request = server.batches["bat_0"].request
    assert request["defaults"] == {
        "prompt": "snow",
        "model": "sd15",
        "strength": 0.5,
        "seed": 7,
        "num_inference_steps": 20,
        "guidance_scale": 5.0,
        "num_images": 2,
        "width": 512,
        "height": 640,
        "output": {"format": "webp", "quality": 80},
    }
    assert (request["name"], request["priority"], request["on_invalid"]) == ("winter", "normal", "skip")


def test_what_failed_is_said_with_its_reasons_and_how_to_feed_it_back(
    run: Run, server: BatchServer, tmp_path: Path
) -> None:
    (tmp_path / "photos" / "a.png").write_bytes(BROKEN)
    code, out, _ = run("batch", "photos", "--prompt", "snow")
    assert code == 1
    assert "1 done, 1 failed" in out
    assert "1 × image_unreadable: about image_unreadable (a.png)" in out
    assert "; again: darkroom batch --manifest out/failed.jsonl --out out\n" in out


def test_without_waiting_the_id_is_printed_and_the_results_come_later(run: Run, server: BatchServer) -> None:
    assert run("batch", "photos", "--prompt", "snow", "--no-wait")[:2] == (0, "bat_0\n")
    assert run("batch", "--resume")[:2] == (0, "2 done, 0 failed: 2 files in out\n"), "no pace of the rest of a run"


def test_ctrl_c_says_how_to_go_on(run: Run, server: BatchServer) -> None:
    def interrupt(number: int, request: httpx.Request) -> None:
        if request.url.path == "/v1/batches/bat_0":
            raise KeyboardInterrupt

    server.fault = interrupt
    code, out, err = run("batch", "photos", "--prompt", "snow", "--out", "edited")
    assert (code, out) == (130, "")
    assert "what is handed in goes on at the server. Go on with: darkroom batch --out edited --resume" in err
    server.fault = lambda number, request: None
    assert run("batch", "--out", "edited", "--resume")[0] == 0


def test_a_failure_says_how_to_go_on(run: Run, server: BatchServer) -> None:
    server.fault = lambda number, request: httpx.Response(401, json={"code": "unauthorized", "detail": "no such key"})
    code, _, err = run("batch", "photos", "--prompt", "snow")
    assert code == 1
    assert "no such key (unauthorized)\nGo on with: darkroom batch --out out --resume" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a FOLDER of pictures, or a --manifest"),
        (("photos", "--out", "photos"), "--out is the FOLDER itself"),
        (("--resume",), "nothing to resume"),
        (("--manifest", "work.csv", "--mask-dir", "photos"), "--mask-dir goes with a FOLDER"),
        (("photos", "--request", "shared.json"), "a file as image cannot be shared"),
        (("photos", "--request", "grid.json"), "output.grid is not for batches of files"),
        (("photos", "--mask-dir", "empty"), "2 of 2 pictures have no mask"),
        (("empty",), "there are no pictures"),
        (("--manifest", "broken.jsonl"), "line 1 is not JSON"),
    ],
)
def test_what_is_asked_wrongly_is_told_with_exit_code_2(
    run: Run, server: BatchServer, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "work.csv").write_text("prompt\nx\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jsonl").write_text("{")
    (tmp_path / "grid.json").write_text('{"output": {"grid": true}}')
    (tmp_path / "shared.json").write_text('{"image": {"file": "a.png"}}')
    code, out, err = run("batch", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert server.requests == []


def test_what_the_server_refuses_is_said_once_with_exit_code_2(run: Run, server: BatchServer) -> None:
    errors = [{"pointer": "/strength", "detail": "about validation_error"}]
    server.verdict = problem(422, "validation_error", errors=errors)
    code, _, err = run("batch", "photos", "--strength", "5")
    assert (code, err.count("about validation_error")) == (2, 1)


def test_an_address_where_nothing_is_is_named_at_once_and_leaves_nothing_to_resume(
    run: Run, server: BatchServer
) -> None:
    def refuse(number: int, request: httpx.Request) -> None:
        raise httpx.ConnectError("refused")

    server.fault = refuse
    code, _, err = run("batch", "photos", "--prompt", "snow")
    assert (code, len(server.requests)) == (1, 1)
    assert "no answer from http://darkroom.test" in err
    assert "--resume" not in err
    server.fault = lambda number, request: None
    assert run("batch", "photos", "--prompt", "snow")[0] == 0


def test_ctrl_c_before_anything_is_handed_in_does_not_say_that_it_goes_on(run: Run, server: BatchServer) -> None:
    def interrupt(number: int, request: httpx.Request) -> None:
        if request.url.path == "/v1/jobs":
            raise KeyboardInterrupt

    server.fault = interrupt
    err = run("batch", "photos", "--prompt", "snow")[2]
    assert "stopped. Go on with: darkroom batch --out out --resume" in err


def test_uploads_are_counted_to_their_end_and_never_anew(run: Run, server: BatchServer) -> None:
    err = run("batch", "photos", "--prompt", "snow")[2]
    assert [line for line in err.splitlines() if line.startswith("uploaded")] == ["uploaded 0 of 2", "uploaded 2 of 2"]


def test_what_was_canceled_is_not_said_to_have_failed(run: Run, server: BatchServer) -> None:
    server.fails, server.failure = frozenset({"a.png"}), {"code": "canceled", "detail": "the job was canceled"}
    out = run("batch", "photos", "--prompt", "snow")[1]
    assert out.startswith("1 done, 0 failed, 1 canceled: 1 file in out\n")


def test_kinds_of_failure_beyond_the_first_are_counted(run: Run, server: BatchServer, tmp_path: Path) -> None:
    make_folder(tmp_path / "many", {f"{number}.png": PNG + b"%d" % number for number in range(7)})
    server.fault = lambda number, request: (
        problem(413, f"refused_{request.content[-1:].decode()}") if request.method == "PUT" else None
    )
    server.has_store = True
    out = run("batch", "many", "--prompt", "snow")[1]
    assert out.count(" × ") == 5
    assert "\n  and 2 more kinds in failed.jsonl\n" in out


def test_a_manifest_alone_is_enough(run: Run, server: BatchServer, tmp_path: Path) -> None:
    (tmp_path / "work.csv").write_text("image,prompt\nphotos/a.png,snow\nphotos/b.png,rain\n")
    assert run("batch", "--manifest", "work.csv", "--out", "edited")[0] == 0
    assert [line["prompt"] for line in server.batches["bat_0"].lines] == ["snow", "rain"]
    assert (tmp_path / "edited" / "a.png").exists()


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    console = Console(record=True, quiet=False, width=200, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    moment = 0.0
    with Display(console, lambda: moment) as display:
        display.show_uploads(0, 3)
        display.count_upload()
        moment = 6.0
        display.count_upload()
        raw = batch(eta_seconds=90.0)
        moment = 12.0
        display.show_batch(Batch(raw, None), failed_before=2, written=1)  # type: ignore[arg-type]
        display.count_written()
        done = batch("completed", counts={"total": 3, "succeeded": 2, "failed": 1}, eta_seconds=None)
        display.show_batch(Batch(done, None), failed_before=2, written=2)  # type: ignore[arg-type]
    console.file.close()
    assert console.export_text().splitlines() == [
        "uploaded 0 of 3",
        "uploaded 2 of 3",
        "1 queued, 0 running, 1 developed, 1 of 5 fetched, 3 failed, 2 min left",
        "completed, 0 queued, 0 running, 2 developed, 2 of 5 fetched, 3 failed",
    ]


def test_progress_in_a_terminal_is_one_line_that_moves() -> None:
    console = Console(record=True, width=200, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with Display(console) as display:
        display.show_uploads(1, 4)
        display.say("no answer")
        display.show_uploads(4, 4)
        assert display._bar is not None
        assert not display._bar.finished, "a finished bar has stopped its clock"
    text = console.export_text()
    console.file.close()
    assert "uploaded 4 of 4" in text
    assert "no answer" in text


def test_a_long_wait_is_said_once_in_a_while() -> None:
    said: list[str] = []
    moments = iter((0.0, 0.0, 5.0, 30.0, 30.0))
    patience = Patience(said.append, lambda: next(moments), server="http://far.test")
    patience.stop()
    for _ in range(3):
        with pytest.raises(Exception, match="stopped"):
            patience.sleep_until_retry(5)
    with pytest.raises(Exception, match="stopped"):
        patience.sleep_until_retry(0.2)
    assert said == ["no answer from http://far.test; trying again for up to 15 minutes"] * 2


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    """Put a server made of answers behind `darkroom batches`."""

    def behind(*answers: Any) -> Server:
        built = Server(list(answers))
        monkeypatch.setattr(batches_command, "open_server", lambda url, key: built.client(retry_seconds=0))
        return built

    return behind


def test_batches_are_listed_shown_and_changed(run: Run, serve: Callable[..., Server]) -> None:
    serve(answer(200, {"data": [batch(name="winter")], "has_more": False}))
    code, out, _ = run("batches", "list")
    assert code == 0
    assert "winter" in out
    server = serve(answer(200, batch("paused")))
    for command in ("show", "pause", "resume", "cancel", "retry"):
        assert run("batches", command, "bat_1")[:2] == (
            0,
            "bat_1 paused: 1 queued, 0 running, 1 done, 1 failed, 2 s left\n",
        )
    assert [request.url.path.rpartition("/")[2] for request in server.requests] == [
        "bat_1",
        "pause",
        "resume",
        "cancel",
        "retry",
    ]
    assert json.loads(run("batches", "show", "bat_1", "--json")[1]) == batch("paused")


def test_what_would_steer_a_terminal_is_not_printed(run: Run, serve: Callable[..., Server]) -> None:
    steering = "x\x1b]0;owned\x07\x9b2J"
    serve(answer(200, {"data": [batch(name=steering)], "has_more": False}))
    listed = run("batches", "list")[1]
    errors = [
        {"line": 0, "pointer": f"/a{steering}", "detail": f"wrong {steering}"},
        {"line": None, "pointer": "", "detail": f"all {steering}"},
    ]
    serve(answer(200, batch("rejected", errors=errors)))
    shown = run("batches", "show", "bat_1")[1]
    serve(problem(422, steering, errors=[{"pointer": "/b", "detail": f"no {steering}"}]))
    refused = run("batches", "show", "bat_1")[2]
    assert "line 0 /ax ]0;owned  2J: wrong x ]0;owned  2J\n  all x ]0;owned" in shown
    assert "\n  /b: no x ]0;owned" in refused
    assert not {"\x1b", "\x07", "\x9b"} & set(listed + shown + refused)


def test_names_of_files_and_texts_of_the_server_do_not_steer_the_terminal(
    run: Run, server: BatchServer, tmp_path: Path
) -> None:
    make_folder(tmp_path / "photos", {"c\x1b[2J.png": PNG + b"c"})
    (tmp_path / "manifest.jsonl").write_text('{"image": "missing\\u001b[2J.png"}\n')
    assert "missing [2J.png" in run("batch", "--manifest", "manifest.jsonl")[2]
    server.fails = frozenset({"c\x1b[2J.png"})
    server.failure = {"code": "out_of_memory", "detail": "too\x1b[2J large"}
    code, out, err = run("batch", "photos", "--prompt", "snow", "--out", "edi\x1b[2Jted")
    assert "1 × out_of_memory: too [2J large (c [2J.png)\n" in out
    assert (code, "\x1b" in out + err) == (1, False)


def test_a_retry_says_what_is_to_be_done_with_wrong_lines(run: Run, serve: Callable[..., Server]) -> None:
    server = serve(answer(200, batch()))
    assert run("batches", "retry", "bat_1", "--on-invalid", "reject")[0] == 0
    assert json.loads(server.requests[0].content) == {"on_invalid": "reject"}


def test_a_retry_has_fields_of_its_own(run: Run, serve: Callable[..., Server]) -> None:
    server = serve(answer(200, batch()))
    assert run("batches", "retry", "bat_1", "--set", "strength=0.4", "--set", "prompt=rain")[0] == 0
    assert json.loads(server.requests[0].content) == {"overrides": {"strength": 0.4, "prompt": "rain"}}
    assert run("batches", "retry", "bat_1", "--set", "strength")[0] == 2


def test_a_retry_of_what_was_only_canceled_says_how(run: Run, serve: Callable[..., Server]) -> None:
    canceled = batch("canceled", counts={"total": 2, "canceled": 2})
    serve(problem(409, "conflict"), answer(200, canceled))
    code, _, err = run("batches", "retry", "bat_1")
    assert code == 1
    assert "about conflict (conflict); what was canceled is tried again with --canceled" in err


def test_the_results_and_the_archive_of_a_batch_are_fetched(
    run: Run, serve: Callable[..., Server], tmp_path: Path
) -> None:
    serve(httpx.Response(200, content=result("a") + result("b")))
    code, out, _ = run("batches", "results", "bat_1")
    assert (code, [json.loads(line)["custom_id"] for line in out.splitlines()]) == (0, ["a", "b"])
    serve(httpx.Response(200, content=b"zip"))
    assert run("batches", "archive", "bat_1", "all.zip")[:2] == (0, "all.zip\n")
    assert (tmp_path / "all.zip").read_bytes() == b"zip"
