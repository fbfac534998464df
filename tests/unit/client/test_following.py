"""Following a job in the terminal: what is shown, and `darkroom follow` and `submit --follow`."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from client import cli
from client.commands import follow as follow_commands
from client.commands import jobs as job_commands
from client.job import Job
from client.progress import describe, describe_outlook, shown_progress
from client.sdk import Darkroom
from tests.unit.client.serving import Server, answer, job, problem
from tests.unit.client.streams import DONE, IMAGES, STORY, status, telling

Run = Callable[..., tuple[int, str, str]]
Serve = Callable[..., Server]


def one(word: str, **members: Any) -> Job:
    return Job(job(word, **members), Server([]).client())


def queued(**queue: Any) -> Job:
    return one("queued", queue={"position": None, "is_lower_bound": False, "eta_seconds": None} | queue)


def running(step: int, eta_seconds: float | None = None) -> Job:
    members = {"value": step / 10, "step": step, "steps": 10, "eta_seconds": eta_seconds}
    return one("running", stage="denoising", progress=members)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (queued(), "queued"),
        (queued(position=0), "queued, next"),
        (queued(position=3, eta_seconds=40.2), "queued, 3 before it, starts in 40 s"),
        (
            queued(position=1000, is_lower_bound=True, eta_seconds=7300),
            "queued, at least 1000 before it, starts in 2.0 h",
        ),
        (one("queued"), "queued"),
        (one("running", progress=None), "running"),
        (running(5), "denoising 5/10"),
        (running(5, 12.4), "denoising 5/10, 12 s left"),
        (running(9, 0.4), "denoising 9/10, less than 1 s left"),
        (running(5, 150), "denoising 5/10, 2 min left"),
        (one("failed", progress={"value": None, "eta_seconds": None}), "failed"),
        (one("succeeded", progress={"value": 1.0, "eta_seconds": 0.0}), "succeeded"),
    ],
)
def test_a_job_is_described_by_where_it_is_and_what_is_left(shown: Job, words: str) -> None:
    assert describe(shown) + describe_outlook(shown) == words


def test_without_a_terminal_there_is_a_line_for_every_change_and_none_for_a_guess_that_moves() -> None:
    output = io.StringIO()
    with shown_progress(Console(file=output, width=40), "[job]") as show:
        for eta_seconds in (40, 39, 38):
            show(queued(position=2, eta_seconds=eta_seconds))
        for step in (1, 1, 2):
            show(running(step, eta_seconds=9))
        show(one("succeeded"))
    assert output.getvalue().splitlines() == [
        "[job]: queued, 2 before it, starts in 40 s",
        "[job]: denoising 1/10, 9 s left",
        "[job]: denoising 2/10, 9 s left",
        "[job]: succeeded",
    ]


def test_in_a_terminal_the_bar_moves() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, legacy_windows=False, _environ={"TERM": "xterm"})
    with shown_progress(console, "[job]") as show:
        show(queued(position=2, eta_seconds=40))
        show(running(4, eta_seconds=6))
        show(one("succeeded"))
    assert "[job]: succeeded" in output.getvalue()
    assert "100%" in output.getvalue()


def test_in_a_terminal_a_long_name_leaves_room_for_the_bar() -> None:
    output, name = io.StringIO(), "job_" + "0" * 32
    console = Console(file=output, force_terminal=True, width=80, legacy_windows=False, _environ={"TERM": "xterm"})
    with shown_progress(console, name) as show:
        show(queued(position=1000, is_lower_bound=True, eta_seconds=3700))
        show(running(5, eta_seconds=150))
    assert output.getvalue().startswith(f"{name}\n")
    assert output.getvalue().count(name) == 1
    assert "denoising 5/10, 2 min left" in output.getvalue()
    assert "0:00:00" in output.getvalue()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """One command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Put a server of answers and streams behind the commands."""

    def behind(*answers: Any, streams: Any = None) -> Server:
        server = Server(list(answers), streams=streams)

        def connect(url: str, key: str | None) -> Darkroom:
            return server.client(api_key=key, retry_seconds=0)

        for module in (job_commands, follow_commands):
            monkeypatch.setattr(module, "open_server", connect)
        return server

    return behind


RESULTS = [httpx.Response(200, content=f"picture {image['index']}".encode()) for image in IMAGES]


def test_follow_shows_the_events_and_saves_the_results(run: Run, serve: Serve, tmp_path: Path) -> None:
    server = serve(answer(200, job(version=1)), *RESULTS, streams=[telling(*STORY)])
    code, out, err = run("follow", "job_1", "--out", "there")
    assert code == 0
    assert out.split() == [str(Path("there") / f"job_1-{number}.png") for number in range(2)]
    assert (tmp_path / "there" / "job_1-1.png").read_bytes() == b"picture 1"
    for words in ("queued", "denoising 1/10", "denoising 7/10", "succeeded"):
        assert f"job_1: {words}" in err
    assert len(server.requests) == 3, "no polls"


@pytest.mark.parametrize("option", [[], ["--follow"], ["--wait", "--follow"]])
def test_submit_follows_what_it_waits_for(run: Run, serve: Serve, option: list[str]) -> None:
    server = serve(answer(202, job(version=1)), *RESULTS, streams=[telling(*STORY)])
    code, _, err = run("submit", "--prompt", "a", *option)
    assert (code, len(server.connections)) == (0, 1)
    assert "denoising 4/10" in err


def test_submit_without_following_waits_quietly(run: Run, serve: Serve) -> None:
    server = serve(answer(202, job(version=1)), answer(200, DONE), *RESULTS)
    code, out, err = run("submit", "--prompt", "a", "--no-follow")
    assert (code, len(out.split()), err) == (0, 2, "")
    assert server.requests[1].url.params["since"] == "1"
    assert not server.connections


def test_a_job_that_fails_while_it_is_followed_says_why(run: Run, serve: Serve) -> None:
    failed = job("failed", version=2, error={"code": "out_of_memory", "detail": "too large"})
    serve(answer(200, job(version=1)), streams=[telling(STORY[0], status(2, "failed"), ("done", "2.1", failed))])
    code, out, err = run("follow", "job_1")
    assert (code, out) == (1, "")
    assert err.endswith("darkroom: job_1 failed: too large (out_of_memory)\n")


def test_the_newest_preview_is_kept_beside(run: Run, serve: Serve, tmp_path: Path) -> None:
    server = serve(
        answer(202, job(version=1)), httpx.Response(200, content=b"rough"), *RESULTS, streams=[telling(*STORY)]
    )
    assert run("submit", "--prompt", "a", "--preview", "rough.jpg")[0] == 0
    assert (tmp_path / "rough.jpg").read_bytes() == b"rough"
    assert server.requests[1].url.path == "/v1/jobs/job_1/preview"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rough.jpg"]


@pytest.mark.parametrize("trouble", [httpx.Response(204), problem(404, "not_found")])
def test_a_preview_that_is_not_there_stops_nothing(run: Run, serve: Serve, tmp_path: Path, trouble: Any) -> None:
    serve(answer(202, job(version=1)), trouble, *RESULTS, streams=[telling(*STORY)])
    assert run("submit", "--prompt", "a", "--preview", "rough.jpg")[0] == 0
    assert not (tmp_path / "rough.jpg").exists()


def test_ctrl_c_says_how_to_come_back(run: Run, serve: Serve) -> None:
    def interrupt(request: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    serve(answer(202, job(version=1)), streams=[interrupt])
    code, out, err = run("submit", "--prompt", "a")
    assert (code, out) == (130, "")
    assert "job_1 goes on: darkroom follow job_1, or darkroom cancel job_1" in " ".join(err.split())
