"""`darkroom submit`: what the options and request files become, and what is saved."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import cli
from client.commands import jobs as job_commands
from tests.unit.client.serving import Server, answer, job
from tests.unit.client.test_sdk import parts

Run = Callable[..., tuple[int, str, str]]
Serve = Callable[..., Server]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`darkroom submit` in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["submit", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Put a server made of answers behind the command."""

    def behind(*answers: Any) -> Server:
        server = Server(list(answers))
        monkeypatch.setattr(job_commands, "open_server", lambda url, key: server.client(api_key=key, retry_seconds=0))
        return server

    return behind


def write(path: Path, request: Any) -> str:
    path.write_text(json.dumps(request), encoding="utf-8")
    return str(path)


def test_every_option_becomes_its_field(run: Run, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"photo")
    (tmp_path / "mask.png").write_bytes(b"mask")
    server = serve(answer(202, job()))
    options = (
        "--model sd15 --strength 0.5 --seed 7 --steps 20 --steps-mode exact --guidance 5 --scheduler euler "
        "--num-images 2 --size 512x640 --resize fill --mask mask.png --mask-mode black_repaints --mask-blur 4 "
        "--mask-grow 8 --inpaint-area masked --format jpeg --quality 80 --grid --no-wait"
    )
    assert run("photo.png", "--prompt", "snow", "--negative-prompt", "rain", *options.split())[:2] == (0, "job_1\n")
    sent = parts(server.requests[0])
    assert json.loads(str(sent["request"].get_payload())) == {
        "prompt": "snow",
        "model": "sd15",
        "negative_prompt": "rain",
        "strength": 0.5,
        "seed": 7,
        "num_inference_steps": 20,
        "steps_mode": "exact",
        "guidance_scale": 5.0,
        "scheduler": "euler",
        "num_images": 2,
        "width": 512,
        "height": 640,
        "resize": "fill",
        "mask_mode": "black_repaints",
        "mask_blur": 4,
        "mask_grow": 8,
        "inpaint_area": "masked",
        "output": {"format": "jpeg", "quality": 80, "grid": True},
    }
    assert sent["image"].get_payload(decode=True) == b"photo"
    assert sent["mask"].get_payload(decode=True) == b"mask"


def test_a_request_file_is_sent_whole_and_its_local_pictures_are_uploaded(
    run: Run, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "photo.png").write_bytes(b"photo")
    steps = [{"prompt": "a"}, {"prompt": "b", "model": "kandinsky22"}]
    request = {"image": {"file": "photo.png"}, "steps": steps, "keep": "all"}
    path = write(tmp_path / "requests" / "chain.json", request)
    server = serve(answer(201, {"id": "upl_1", "status": "ready"}), answer(202, job()))
    assert run("--request", path, "--no-wait")[0] == 0
    upload, submit = server.requests
    assert parts(upload)["file"].get_payload(decode=True) == b"photo"
    assert json.loads(submit.content) == request | {"image": {"upload": "upl_1"}}


def test_options_override_a_request_file(run: Run, serve: Serve, tmp_path: Path) -> None:
    request = {"prompt": "a", "strength": 0.3, "image": {"file": "gone.png"}, "output": {"format": "webp"}}
    path = write(tmp_path / "request.json", request)
    server = serve(answer(202, job()))
    url = "https://example.com/a.png"
    assert run("--request", path, "--strength", "0.9", "--image-url", url, "--grid", "--no-wait")[0] == 0
    expected = {"prompt": "a", "strength": 0.9, "image": {"url": url}, "output": {"format": "webp", "grid": True}}
    assert json.loads(server.requests[0].content) == expected


def test_what_is_not_a_local_picture_is_left_to_the_server(run: Run, serve: Serve, tmp_path: Path) -> None:
    request = {"prompt": "a", "image": {"job": "job_1", "index": 1}, "mask": {"file": 5}}
    server = serve(answer(202, job()))
    assert run("--request", write(tmp_path / "request.json", request), "--no-wait")[0] == 0
    assert json.loads(server.requests[0].content) == request


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a job request"),
        ('{"output": 1}', "is not a job request"),
        ('{"image": "photo.png"}', "image must be an object"),
        ('{"idempotency_key": 1}', "an idempotency key is a header"),
    ],
)
def test_a_file_that_holds_no_request_is_named(run: Run, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "request.json").write_text(content)
    code, _, err = run("--request", "request.json")
    assert code == 2
    assert words in " ".join(err.replace("│", " ").split())


def test_a_local_picture_that_is_not_there_is_one_line(run: Run, serve: Serve, tmp_path: Path) -> None:
    serve(answer(202, job()))
    path = write(tmp_path / "request.json", {"prompt": "a", "image": {"file": "gone.png"}})
    code, out, err = run("--request", path)
    assert (code, out) == (1, "")
    assert "gone.png" in err
    assert "Traceback" not in err


def test_a_picture_is_not_given_twice(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"photo")
    assert run("photo.png", "--image-url", "https://example.com/a.png")[0] == 2


def test_results_grid_and_warnings_are_handed_over(run: Run, serve: Serve, tmp_path: Path) -> None:
    images = [{"index": number, "content_type": "image/webp"} for number in (0, 1)]
    warnings = [{"code": "prompt_truncated", "pointer": "/prompt", "detail": "cut: '…a hat'"}]
    done = job("succeeded", images=images, grid={"content_type": "image/webp"}, warnings=warnings)
    results = [httpx.Response(200, content=name) for name in (b"first", b"second", b"sheet")]
    server = serve(answer(202, job()), answer(200, done), *results)
    code, out, err = run("--prompt", "a", "--num-images", "2", "--format", "webp", "--grid")
    saved = [f"job_1-{name}.webp" for name in ("0", "1", "grid")]
    assert code == 0
    assert out.split() == [str(Path("out") / name) for name in saved]
    assert [(tmp_path / "out" / name).read_bytes() for name in saved] == [b"first", b"second", b"sheet"]
    assert "warning: prompt_truncated at /prompt: cut: '…a hat'" in " ".join(err.split())
    assert server.requests[-1].url.path == "/v1/jobs/job_1/grid"
