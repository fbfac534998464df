"""The client against real processes: following and waiting over the death of an API; the receiver of the examples."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.errors import WaitTimeout
from client.sdk import Darkroom, Job, JobEvent
from common.signing import new_secret
from tests.processes.full import answers, free_port
from tests.processes.harness import Process, Stack, eventually, stack

pytestmark = pytest.mark.processes


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Stack]:
    """An embedded stub stack of slow steps, with nothing started."""
    linger = {"DARKROOM_LINGER_SECONDS": "0", "DARKROOM_STUB_STEP_SECONDS": "0.2"}
    with stack(tmp_path, DARKROOM_AUTH="none", **linger) as made:
        yield made


def start_api(built: Stack, port: int) -> Process:
    process = built.start("client.cli", "api", "--port", str(port))
    eventually(lambda: answers(f"http://127.0.0.1:{port}"), what="the API's first answer")
    return process


def position(event: JobEvent) -> tuple[int, ...]:
    return tuple(map(int, event.id.split(".")))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_events_go_on_where_an_api_ended(built: Stack, number: signal.Signals) -> None:
    port = free_port()
    api = start_api(built, port)
    built.worker()
    with Darkroom(f"http://127.0.0.1:{port}") as darkroom:
        seen = []
        for event in darkroom.submit(prompt="a", model="stub", num_inference_steps=20).events():
            seen.append(event)
            if event.kind == "progress" and event.data["progress"]["step"] and api.popen.poll() is None:
                api.signal(number)
                assert api.wait() == (0 if number is signal.SIGTERM else -number)
                start_api(built, port)
    settled = [event for event in seen if event.kind in {"status", "output", "done"}]
    assert [(event.kind, event.data["status"]) for event in settled if event.kind != "output"] == [
        ("status", "queued"),
        *[("status", "running")] * (len(settled) - 4),
        ("status", "succeeded"),
        ("done", "succeeded"),
    ]
    assert [event.kind for event in settled].count("output") == 1
    assert len({event.id for event in settled}) == len(settled)
    assert [position(event) for event in seen] == sorted(position(event) for event in seen)
    versions = [event.data["version"] for event in settled if event.kind == "status"]
    assert versions == list(range(versions[0], versions[-1] + 1))


def test_waiting_outlives_an_api(built: Stack) -> None:
    port = free_port()
    api = start_api(built, port)
    with Darkroom(f"http://127.0.0.1:{port}") as darkroom:
        job = darkroom.submit(prompt="a", model="stub", num_inference_steps=10)
        api.signal(signal.SIGTERM)
        assert api.wait() == 0
        start_api(built, port)
        built.worker()
        assert job.wait(timeout=60).status == "succeeded"


def test_a_wait_ends_in_time_though_the_stream_says_nothing(built: Stack) -> None:
    port = free_port()
    start_api(built, port)
    with Darkroom(f"http://127.0.0.1:{port}") as darkroom:
        seen: list[Job] = []
        job = darkroom.submit(prompt="a", model="stub")
        for on_progress in (seen.append, None):
            began = time.monotonic()
            with pytest.raises(WaitTimeout):
                job.wait(timeout=1.5, on_progress=on_progress)
            assert 1 <= time.monotonic() - began <= 4.5
        assert {one.status for one in seen} == {"queued"}
        assert darkroom.job(job.id).status == "queued", "the client works on"


def test_the_receiver_of_the_examples_is_told(built: Stack) -> None:
    port, own, secret = free_port(), free_port(), new_secret()
    start_api(built, port)
    built.worker()
    built.start("client.cli", "courier")
    factory = ("uvicorn", "examples.webhook_receiver:create_receiver", "--factory", "--port", str(own))
    receiver = built.start(*factory, DARKROOM_WEBHOOK_SECRET=secret)
    eventually(lambda: "Uvicorn running" in receiver.log.read_text(), what="the receiver")
    with Darkroom(f"http://127.0.0.1:{port}") as darkroom:
        endpoint = darkroom.webhooks.create(f"http://127.0.0.1:{own}/darkroom", secret=secret)
        assert darkroom.webhooks.test(endpoint.id).event == "webhook.test"
        job = darkroom.submit(prompt="a", model="stub", num_inference_steps=1).wait(timeout=30)

        def is_told() -> bool:
            told = {one.event: one.status for one in darkroom.deliveries(webhook=endpoint.id)}
            return told == {"webhook.test": "delivered", "job.succeeded": "delivered"}

        eventually(is_told, what="the deliveries")
        log = next(one for one in darkroom.deliveries(job=job.id)).log
        assert [attempt["status"] for attempt in log] == [204]
    said = receiver.log.read_text()
    assert f"/v1/jobs/{job.id}\n" in said
    assert said.count("job.succeeded") == 1
