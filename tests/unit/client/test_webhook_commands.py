"""`darkroom webhooks`, `deliveries`, `redeliver`: what they ask, print, and refuse."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from client import cli
from client.commands import webhooks as commands
from common.domain.webhook_events import DEFAULT_EVENTS, EVENTS
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
    assert "whe_1 enabled" in out
    assert "disabled (failing)" in out
    assert "https://[::1]/x" in out, "brackets are no markup"
    assert len(json.loads(run("webhooks", "list", "--json")[1])) == 2


def test_a_list_is_readable_on_a_narrow_terminal(run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = "https://example.com/" + "a-long-path/" * 8 + "hook"
    usual = WEBHOOK | {
        "id": "whe_" + "0" * 32,
        "url": long,
        "events": list(DEFAULT_EVENTS),
        "description": "the [shop]",
    }
    serve(page(usual, WEBHOOK | {"events": list(EVENTS), "description": None}))
    lines = run("webhooks", "list")[1].splitlines()
    assert lines[:4] == [f"whe_{'0' * 32} enabled", f"  {long}", "  every end", "  the [shop]"]
    assert [name for line in lines[6:] for name in line.strip().rstrip(",").split(", ")] == list(EVENTS)
    serve(page())
    assert run("webhooks", "list") == (0, "", "There are no webhooks.\n")


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


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("days", [0, 2])
def test_a_delivery_that_waits_says_until_when(
    run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch, columns: int, days: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    next_at = datetime.now(UTC) + timedelta(days=days)
    waits = DELIVERY | {"id": "whd_" + "1" * 32, "job": "job_" + "2" * 32, "event": "job.succeeded", "attempt": 11}
    waits |= {"status": "pending", "next_at": next_at.isoformat().replace("+00:00", "Z")}
    server = serve(page(waits))
    out = run("deliveries", "--status", "pending")[1]
    words = [line.split() for line in out.splitlines()[1:]]
    assert [word for line in words for word in line if word.startswith(("whd_", "job_"))] == [
        waits["id"],
        waits["job"],
    ], "no id is broken"
    moment = f"{next_at.astimezone():%H:%M}"
    assert ("pending," in words[0], moment in out, f"{next_at.astimezone():%a}" in out) == (True, True, days > 0)
    assert max(map(len, out.splitlines())) <= columns
    assert server.requests[0].url.params["status"] == "pending"


def test_one_delivery_is_shown_with_every_attempt(run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    log = [
        {"at": "2026-11-21T08:00:00Z", "status": None, "ms": 15000, "response": None, "error": "timeout"},
        {"at": "2026-11-21T08:00:20Z", "status": 500, "ms": 3, "response": "\x1b[2J[oops]\nmore", "error": None},
        {"at": "2026-11-21T08:01:20Z", "status": 502, "ms": 4, "response": "x" * 200, "error": None},
    ]
    one = DELIVERY | {"id": "whd_" + "1" * 32, "job": None, "url": "https://example.com/hook", "log": log, "body": "{}"}
    server = serve(answer(200, one))
    code, out, _ = run("deliveries", one["id"])
    lines = out.splitlines()
    assert (code, lines[:2]) == (0, [f"{one['id']} job.failed failed", "  https://example.com/hook"])
    at = f"{datetime(2026, 11, 21, 8, tzinfo=UTC).astimezone():%Y-%m-%d %H:%M:%S}"
    assert lines[3].split() == [*at.split(), "15000", "timeout"]
    assert lines[4].split()[2:] == ["500", "3", "[2J[oops]"], "the first line, and nothing that steers the terminal"
    assert (len(lines), max(map(len, lines)) <= 80) == (6, True)
    assert asked(server)[:2] == ("GET", f"/v1/deliveries/{one['id']}")
    assert json.loads(run("deliveries", one["id"], "--json")[1]) == one
    serve(answer(200, one | {"log": []}))
    assert "no attempt yet" in run("deliveries", one["id"])[1]


def test_what_waits_is_sent_at_once_and_nothing_is_said_to_be_nothing(run: Run, serve: Serve) -> None:
    server = serve(answer(202, {"redelivered": 2}), answer(202, {"redelivered": 0}))
    assert run("redeliver", "--pending", "--job", "job_1")[:2] == (0, "2 on their way\n")
    assert asked(server) == ("POST", "/v1/deliveries/redeliver", {"job": "job_1", "status": "pending"})
    assert run("redeliver", "--pending")[:2] == (0, "nothing to send again\n")
    code, out, _ = run("redeliver", "--failed")
    assert (code, out.startswith("nothing to send again"), "--pending" in out) == (0, True, True)


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
        ("redeliver", "whd_1", "--pending"),
        ("redeliver", "--failed", "--pending"),
        ("deliveries", "whd_1", "--failed"),
        ("deliveries", "--failed", "--status", "pending"),
        ("deliveries", "--status", "lost"),
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
