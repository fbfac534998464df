"""Every example is a request that the API takes and the built-in catalogue can run, and the pages know all fields.

The programs do what they say.
"""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from client.sdk import JobEvent, WebhookEvent
from common.catalogue_file import BUILT_IN
from common.domain.capabilities import FAMILIES, SCHEDULERS
from common.domain.catalogue import parse_catalogue
from common.domain.params import EditParams
from common.domain.settling import Given, settle
from common.domain.wishes import wishes_of
from common.requests.job import AdapterRequest, JobRequest, OutputRequest, RefinerRequest
from common.requests.validation import parse_job_request
from common.signing import new_secret, sign
from examples import batch, follow, webhook_receiver
from tests.architecture.source import ROOT
from tests.unit.client.serving import Server, answer, job
from tests.unit.client.streams import STORY, telling

EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.rglob("*.json"))
UPLOAD = {"upload": "upl_" + "0" * 32}

names = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))


def load(path: Path) -> dict[str, Any]:
    request = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(request, dict)
    return request


def local_files(path: Path) -> dict[str, Path]:
    """The pictures on this machine that a request names, by role."""
    sources = {role: load(path).get(role) for role in ("image", "mask")}
    return {role: path.parent / source["file"] for role, source in sources.items() if source and "file" in source}


def settled(path: Path) -> EditParams:
    """What the request settles to, its local pictures replaced by uploads of a fake size."""
    files = local_files(path)
    request = parse_job_request(load(path) | dict.fromkeys(files, UPLOAD))
    wishes = wishes_of(request.model_dump(mode="json", exclude={"image", "mask"}))
    given = Given((600, 400) if request.image else None, has_mask=request.mask is not None)
    return settle(wishes, parse_catalogue(BUILT_IN.read_text(encoding="utf-8")), given, random_seed=1)


def page(place: str) -> str:
    return (ROOT / place).read_text(encoding="utf-8")


def test_there_are_examples() -> None:
    assert len(FILES) >= 10


@names
def test_an_example_settles_with_the_built_in_catalogue(path: Path) -> None:
    params = settled(path)
    assert all(one.effective_steps > 0 for one in params.passes)
    assert params.seed == 42, "an example can be repeated"


@names
def test_the_pictures_of_an_example_are_there(path: Path) -> None:
    for file in local_files(path).values():
        with Image.open(file) as picture:
            picture.verify()


@names
def test_an_example_is_explained_in_the_readme(path: Path) -> None:
    assert str(path.relative_to(EXAMPLES)) in page("examples/README.md")


def test_the_mask_lies_on_its_picture() -> None:
    files = local_files(EXAMPLES / "inpaint.json")
    sizes = set()
    for file in files.values():
        with Image.open(file) as picture:
            sizes.add(picture.size)
    assert len(files) == 2
    assert len(sizes) == 1


def test_the_chains_keep_what_they_show() -> None:
    assert [one.model for one in settled(EXAMPLES / "text-to-kandinsky.json").passes] == ["sd15", "kandinsky22"]
    comic = settled(EXAMPLES / "comic-to-pixel-art.json")
    assert [one.model for one in comic.passes] == ["sd15", "comic-diffusion", "pixel-art"]
    assert len({(one.width, one.height) for one in comic.passes}) == 1, "latents can be handed on"
    assert comic.kept_passes == (0, 1, 2)


@pytest.mark.parametrize("folder", ["strength", "guidance", "negative-prompt"])
def test_a_comparison_changes_one_field(folder: str) -> None:
    requests = [load(path) for path in sorted((EXAMPLES / folder).glob("*.json"))]
    fields = {name for request in requests for name in request}
    varied = [name for name in fields if len({json.dumps(request.get(name)) for request in requests}) > 1]
    assert len(requests) == 3
    assert len(varied) == 1


def test_every_link_of_the_readme_resolves() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page("examples/README.md"))
    assert not [link for link in links if not (EXAMPLES / link).exists()]


@pytest.mark.parametrize("model", [JobRequest, OutputRequest, RefinerRequest, AdapterRequest])
def test_the_page_of_parameters_names_every_field_and_scheduler(model: Any) -> None:
    text = page("docs/parameters.md")
    assert not [name for name in (*model.model_fields, *SCHEDULERS) if f"`{name}`" not in text]


def test_the_page_of_models_names_every_family_and_model() -> None:
    text = page("docs/models.md")
    catalogue = parse_catalogue(BUILT_IN.read_text(encoding="utf-8"))
    expected = [*(name for name in FAMILIES if name != "stub"), *(card.id for card in catalogue)]
    assert not [name for name in expected if f"`{name}`" not in text]


SECRET = new_secret()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The receiver of the examples, with this secret."""
    monkeypatch.setenv("DARKROOM_WEBHOOK_SECRET", SECRET)
    with TestClient(webhook_receiver.create_receiver()) as client:
        yield client


def deliver(receiver: TestClient, number: int, version: int, *, age: int = 0, tampered: bool = False) -> int:
    """Deliver the event with this number as the courier does; the status of the answer."""
    data = {"id": "job_1", "version": version, "urls": {"self": f"https://darkroom.test/v1/jobs/{number}"}}
    document = {"type": "job.succeeded", "timestamp": "2026-11-21T08:00:00Z", "data": data}
    body = json.dumps(document, indent=1).encode()
    event_id, timestamp = f"evt_{number:032x}", int(time.time()) - age
    headers = {"webhook-id": event_id, "webhook-timestamp": str(timestamp)}
    headers["webhook-signature"] = sign([SECRET], event_id, timestamp, body)
    return int(receiver.post("/darkroom", content=body + b" " * tampered, headers=headers).status_code)


def test_the_receiver_takes_an_event_once_and_none_that_is_out_of_date(
    receiver: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [deliver(receiver, 1, 3), deliver(receiver, 1, 3), deliver(receiver, 2, 2), deliver(receiver, 4, 4)]
    assert first == [204] * 4, "what is no news is thanked for too"
    assert [line.split("/")[-1] for line in capsys.readouterr().out.splitlines()] == ["1", "4"]


def test_the_receiver_refuses_what_it_cannot_trust(receiver: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert deliver(receiver, 1, 3, tampered=True) == 401
    assert deliver(receiver, 1, 3, age=301) == 401
    assert receiver.post("/darkroom", content=b"{}").status_code == 401
    assert receiver.post("/darkroom", content=b" " * 70_000).status_code == 413
    assert capsys.readouterr().out == ""
    assert deliver(receiver, 1, 3) == 204, "a refused delivery does not use its id up"


def test_the_receiver_does_not_start_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DARKROOM_WEBHOOK_SECRET", raising=False)
    with pytest.raises(KeyError):
        webhook_receiver.create_receiver()


def test_the_receiver_does_not_remember_for_ever(receiver: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_receiver, "REMEMBERED", 2)
    assert [deliver(receiver, number, 1) for number in range(5)] == [204] * 5


def test_following_prints_every_event(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server([answer(202, job(version=1))], streams=[telling(*STORY)])
    monkeypatch.setattr(follow, "Darkroom", lambda url, key: server.client(api_key=key))
    follow.main("a blue square")
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [(event_id, kind) for event_id, kind, _ in lines] == [(event_id, kind) for kind, event_id, _ in STORY]
    assert lines[5][2] == "denoising: 4 of 10, 6.0 s left"


def test_what_the_server_does_not_know_is_printed_as_a_question_mark() -> None:
    queued = {"status": "queued", "progress": {}, "queue": {"position": None, "eta_seconds": None}}
    running = {"status": "running", "stage": "denoising", "queue": {}}
    running["progress"] = {"step": 1, "steps": 10, "eta_seconds": None}
    told = [follow.describe(JobEvent(kind="progress", id="1.1", data=data)) for data in (queued, running)]
    assert told == ["? before it, starts in ? s", "denoising: 1 of 10, ? s left"]


def test_a_sheet_of_variations_is_handed_in_shown_and_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    made = {"id": "bat_1", "status": "running", "counts": {"total": 2, "queued": 2}}
    done = made | {"status": "completed", "counts": {"total": 2, "succeeded": 1, "failed": 1}}
    lines = (
        {"line": 0, "custom_id": "0", "job": "job_1", "status": "succeeded", "images": [{"index": 0}], "error": None},
        {
            "line": 1,
            "custom_id": "1",
            "job": "job_2",
            "status": "failed",
            "images": [],
            "error": {"detail": "too large"},
        },
    )
    results = httpx.Response(200, content="".join(json.dumps(line) + "\n" for line in lines))
    server = Server([answer(202, made), answer(200, done), results, httpx.Response(200, content=b"zip")])
    monkeypatch.setattr(batch, "Darkroom", lambda url, key: server.client(api_key=key))
    batch.main("a blue square")
    assert capsys.readouterr().out.splitlines() == [
        "completed: 1 of 2 done, 1 failed",
        "0: succeeded, pictures: 1",
        "1: failed, too large",
        "bat_1.zip",
    ]
    assert json.loads(server.requests[0].content)["matrix"] == batch.MATRIX


def test_a_test_event_is_printed_with_its_webhook(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(2026, 11, 21, 8, tzinfo=UTC)
    webhook_receiver.handle(WebhookEvent("evt_1", "webhook.test", moment, {"webhook": "whe_1"}))
    assert capsys.readouterr().out == "08:00:00 webhook.test whe_1\n"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_a_program_is_explained_in_the_readme(path: Path) -> None:
    assert f"### {path.name}" in page("examples/README.md")
