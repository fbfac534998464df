"""`darkroom webhooks`, `deliveries`, `redeliver`: what they ask, print, and refuse."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from client import cli
from client.commands import webhooks as commands
from common.signing import new_secret
from tests.unit.client.serving import Server, answer
from tests.unit.client.test_webhooks import DELIVERY, WEBHOOK, asked

Run = Callable[..., tuple[int, str, str]]
Serve = Callable[..., Server]
SECRET = new_secret()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """One command line on a wide terminal: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Put a server made of answers behind the commands."""

    def behind(*answers: Any) -> Server:
        server = Server(list(answers))
        monkeypatch.setattr(commands, "open_server", lambda url, key: server.client(api_key=key, retry_seconds=0))
        return server

    return behind


def page(*objects: dict[str, Any]) -> httpx.Response:
    return answer(200, {"data": list(objects), "has_more": False, "next": None})


def test_create_prints_the_id_and_the_secret_alone(run: Run, serve: Serve) -> None:
    server = serve(answer(201, WEBHOOK | {"secret": SECRET}))
    options = ("--event", "job.failed", "--event", "job.succeeded", "--description", "ours")
    code, out, err = run("webhooks", "create", "https://example.com/hook", *options)
    assert (code, out) == (0, f"whe_1 {SECRET}\n")
    assert "shown only now" in err
    wished = {"url": WEBHOOK["url"], "events": ["job.failed", "job.succeeded"], "description": "ours"}
    assert asked(server) == ("POST", "/v1/webhooks", wished)


def test_rotate_prints_the_new_secret(run: Run, serve: Serve) -> None:
    server = serve(answer(200, WEBHOOK | {"secret": SECRET}))
    assert run("webhooks", "rotate", "whe_1")[:2] == (0, f"whe_1 {SECRET}\n")
    assert json.loads(run("webhooks", "rotate", "whe_1", "--secret", SECRET, "--json")[1])["secret"] == SECRET
    assert [asked(server, number)[2] for number in range(2)] == [{}, {"secret": SECRET}]


def test_list_says_why_an_endpoint_is_off(run: Run, serve: Serve) -> None:
    off = WEBHOOK | {"id": "whe_2", "status": "disabled", "disabled_reason": "failing", "url": "https://[::1]/x"}
    serve(page(WEBHOOK, off))
    code, out, _ = run("webhooks", "list")
    assert code == 0
    assert "whe_1    enabled" in out
    assert "disabled (failing)" in out
    assert "https://[::1]/x" in out, "brackets are no markup"
    assert len(json.loads(run("webhooks", "list", "--json")[1])) == 2


def test_test_enable_and_delete_say_what_they_did(run: Run, serve: Serve) -> None:
    server = serve(answer(202, DELIVERY | {"event": "webhook.test", "status": "pending"}))
    assert run("webhooks", "test", "whe_1")[:2] == (0, "whd_1 webhook.test pending\n")
    server.answers = [answer(200, WEBHOOK)]
    assert run("webhooks", "enable", "whe_1")[:2] == (0, "whe_1 enabled\n")
    server.answers = [httpx.Response(204)]
    assert run("webhooks", "delete", "whe_1")[:2] == (0, "whe_1 deleted\n")
    assert [asked(server, number)[:2] for number in range(3)] == [
        ("POST", "/v1/webhooks/whe_1/test"),
        ("POST", "/v1/webhooks/whe_1/enable"),
        ("DELETE", "/v1/webhooks/whe_1"),
    ]


def test_deliveries_are_listed_with_their_last_attempt(run: Run, serve: Serve) -> None:
    broken = DELIVERY | {"id": "whd_2", "job": "job_1", "log": [{"status": None, "error": "timeout"}]}
    server = serve(page(DELIVERY, broken, DELIVERY | {"id": "whd_3", "log": []}))
    code, out, _ = run("deliveries", "--job", "job_1", "--webhook", "whe_1", "--failed", "--limit", "3")
    assert code == 0
    lines = [line.split() for line in out.splitlines()[1:]]
    assert lines == [
        ["whd_1", "job.failed", "failed", "1", "500"],
        ["whd_2", "job.failed", "failed", "1", "timeout"],
        ["job_1"],
        ["whd_3", "job.failed", "failed", "1"],
    ]
    question = {"limit": "100", "job": "job_1", "webhook": "whe_1", "status": "failed"}
    assert dict(server.requests[0].url.params) == question
    assert len(json.loads(run("deliveries", "--limit", "2", "--json")[1])) == 2


def test_redeliver_is_for_one_or_for_all_that_failed(run: Run, serve: Serve) -> None:
    server = serve(answer(202, DELIVERY | {"status": "pending"}))
    assert run("redeliver", "whd_1")[:2] == (0, "whd_1 job.failed pending\n")
    server.answers = [answer(202, {"redelivered": 7})]
    assert run("redeliver", "--failed", "--webhook", "whe_1")[:2] == (0, "7 on their way\n")
    assert asked(server) == ("POST", "/v1/deliveries/redeliver", {"webhook": "whe_1", "status": "failed"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("redeliver",),
        ("redeliver", "whd_1", "--failed"),
        ("redeliver", "whd_1", "--job", "job_1"),
        ("webhooks", "create"),
        ("webhooks", "delete"),
        ("deliveries", "--limit", "0"),
    ],
)
def test_what_is_asked_wrongly_exits_with_two(run: Run, serve: Serve, arguments: tuple[str, ...]) -> None:
    server = serve(answer(200, {}))
    code, _, err = run(*arguments)
    assert (code, server.requests) == (2, [])
    assert "Traceback" not in err
