"""The `darkroom` command: what it prints and how it exits."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import cli
from client.commands import failing
from client.commands import jobs as job_commands
from common.db.migrate import head_revision
from tests.unit.client.serving import Server, answer, job, problem

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """One command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(tmp_path / "data"))

    def command(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    """Put a server made of answers behind the client commands."""

    def behind(*answers: Any) -> Server:
        server = Server(list(answers))
        monkeypatch.setattr(job_commands, "open_server", lambda url, key: server.client(api_key=key, retry_seconds=0))
        return server

    return behind


def test_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name in ("submit", "follow", "webhooks", "up", "doctor", "demo", "models", "keys", "migrate", "worker"):
        assert name in out


def test_version_is_the_distributions(run: Run) -> None:
    assert run("version")[:2] == (0, "0.1.0\n")


def test_submit_waits_shows_progress_and_saves_the_results(
    run: Run, serve: Callable[..., Server], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"pixels")
    images = [{"index": 0, "content_type": "image/png"}]
    server = serve(
        answer(202, job()),
        answer(200, job("running", stage="denoising", progress={"value": 0.5, "step": 5, "steps": 10})),
        answer(200, job("succeeded", images=images)),
        httpx.Response(200, content=b"result"),
    )
    code, out, err = run("submit", str(photo), "--prompt", "snow", "--size", "64x96", "--out", str(tmp_path / "out"))
    assert code == 0
    assert out.strip() == str(tmp_path / "out" / "job_1-0.png")
    assert (tmp_path / "out" / "job_1-0.png").read_bytes() == b"result"
    assert "denoising 5/10" in err
    assert b'"width": 64, "height": 96' in server.requests[0].content


def test_submit_without_waiting_prints_the_id(run: Run, serve: Callable[..., Server]) -> None:
    server = serve(answer(202, job()))
    assert run("submit", "--prompt", "a square", "--no-wait", "--key", "dk_1")[:2] == (0, "job_1\n")
    assert server.requests[0].headers["Authorization"] == "Bearer dk_1"


def test_a_failed_job_ends_submit_with_its_reason(run: Run, serve: Callable[..., Server]) -> None:
    serve(answer(202, job()), answer(200, job("failed", error={"code": "out_of_memory", "detail": "too large"})))
    code, out, err = run("submit", "--prompt", "a square")
    assert (code, out) == (1, "")
    assert err.endswith("darkroom: job_1 failed: too large (out_of_memory)\n")


def test_a_refusal_names_the_field(run: Run, serve: Callable[..., Server]) -> None:
    serve(problem(422, "validation_error", errors=[{"pointer": "/strength", "code": "range", "detail": "at most 1"}]))
    code, _, err = run("submit", "--prompt", "a", "--strength", "1.5", "--no-wait")
    assert code == 1
    assert err == "darkroom: about validation_error (validation_error)\n  /strength: at most 1\n"


def test_a_server_that_is_not_there_is_one_line(run: Run, serve: Callable[..., Server]) -> None:
    serve(httpx.ConnectError("refused"))
    code, out, err = run("status", "job_1")
    assert (code, out) == (1, "")
    assert err == "darkroom: no answer from http://darkroom.test: refused\n"


def test_status_and_cancel_show_the_job(run: Run, serve: Callable[..., Server]) -> None:
    serve(answer(200, job("canceled")))
    assert run("status", "job_1")[:2] == (0, "job_1 canceled\n")
    assert json.loads(run("cancel", "job_1", "--json")[1])["status"] == "canceled"


def test_jobs_lists_whole_ids(run: Run, serve: Callable[..., Server]) -> None:
    long = "job_" + "0" * 32
    serve(answer(200, {"data": [job(id=long), job()], "has_more": True, "next": "job_1"}))
    code, out, _ = run("jobs", "--limit", "1")
    assert code == 0
    assert long in out
    assert "job_1" not in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit",),
        ("submit", "missing.png", "--prompt", "a"),
        ("submit", "--prompt", "a", "--size", "64"),
        ("keys", "create", "--name", "n", "--expires", "soon"),
        ("keys", "create", "--name", "n", "--scopes", "everything"),
        ("worker", "--device", "toaster"),
        ("worker", "--device", "cpu", "--all-devices"),
        ("models", "pull"),
        ("nonsense",),
    ],
)
def test_what_is_asked_wrongly_exits_with_two(run: Run, arguments: tuple[str, ...]) -> None:
    run("migrate")
    code, _, err = run(*arguments)
    assert code == 2
    assert "Traceback" not in err


def test_a_wrong_setting_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "many")
    code, _, err = run("sweeper")
    assert code == 2
    assert err.startswith("darkroom: settings: DARKROOM_PORT: ")


def test_a_missing_part_is_answered_with_the_line_that_installs_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "api.main", None)
    monkeypatch.setattr(failing, "_OURS", frozenset())
    code, _, err = run("api")
    assert code == 2
    assert err.strip().endswith("pip install 'darkroom[api]'")


def test_keys_belong_to_tenants_and_are_printed_alone(run: Run) -> None:
    assert run("migrate")[:2] == (0, f"the schema is at {head_revision()}\n")
    assert run("keys", "create", "--tenant", "acme", "--name", "ci")[0] == 1
    assert run("tenants", "create", "acme")[:2] == (0, "acme\n")
    assert run("tenants", "create", "acme")[0] == 1
    code, out, _ = run("keys", "create", "--tenant", "acme", "--name", "ci", "--expires", "30d")
    assert code == 0
    assert out.startswith("dk_")


def test_a_database_without_a_schema_is_one_line(run: Run) -> None:
    code, _, err = run("keys", "create", "--name", "ci")
    assert code == 1
    assert err == "darkroom: the database has no schema yet: darkroom migrate\n"


def test_the_catalogue_is_listed(run: Run) -> None:
    code, out, _ = run("models", "list")
    assert code == 0
    assert "demo" in out
    assert "sd15" in out


def test_the_doctor_says_what_to_do(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 1
    assert "does not exist yet" in " ".join(out.split())
    run("migrate")
    _, out, _ = run("doctor")
    healthy = {line.split()[0] for line in out.splitlines() if line.split()[1:2] == ["ok"]}
    assert {"database", "broker", "store", "device"} <= healthy


def test_the_doctor_finds_a_broker_that_is_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_BROKER_URL", "redis://127.0.0.1:1/0")
    code, out, _ = run("doctor")
    assert code == 1
    assert "DARKROOM_BROKER_URL" in out
