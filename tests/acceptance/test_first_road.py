"""The first road through the system, as a user walks it: over HTTP, on real parts, with the shipped demo model."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops, ImageDraw

from tests.processes.full import full_stack, start_api
from tests.processes.harness import eventually, stack
from tests.services.swift import S3Server

pytestmark = [pytest.mark.processes, pytest.mark.postgres, pytest.mark.redis, pytest.mark.s3]

REAL = {"DARKROOM_DEVICE": "cpu", "DARKROOM_TORCH_THREADS": "1"}
WISH = {"prompt": "a blue square on a white background", "strength": 0.6, "seed": 7, "num_inference_steps": 30}


def drawn() -> bytes:
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).ellipse((34, 34, 94, 94), fill=(220, 40, 40))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def embedded(folder: Path) -> Iterator[httpx.Client]:
    with stack(folder, **REAL) as built:
        built.environment["DARKROOM_MODELS_FILE"] = ""
        url = start_api(built)
        built.worker("cpu")
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client


@contextmanager
def full(folder: Path, store_url: str) -> Iterator[httpx.Client]:
    with full_stack(folder, **REAL, DARKROOM_STORE_URL=store_url) as (built, url):
        built.worker("cpu")
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client


def until_done(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        seen: dict[str, Any] = client.get(job["urls"]["self"]).raise_for_status().json()
        return seen if seen["status"] in {"succeeded", "failed", "canceled"} else None

    done = eventually(look, seconds=60, what="the end of the job")
    assert done is not None
    assert done["status"] == "succeeded", done["error"]
    return done


def fetch(client: httpx.Client, job: dict[str, Any]) -> bytes:
    answer = client.get(job["images"][0]["url"], follow_redirects=True).raise_for_status()
    assert answer.headers["content-type"] == "image/png"
    return answer.content


def by_form(client: httpx.Client) -> dict[str, Any]:
    fields = {name: str(value) for name, value in WISH.items()}
    answer = client.post("/v1/jobs", data=fields, files={"image": ("photo.png", drawn())})
    assert answer.status_code == 202
    assert answer.headers["location"] == answer.json()["urls"]["self"]
    return until_done(client, answer.json())


def by_json(client: httpx.Client) -> dict[str, Any]:
    data = "data:image/png;base64," + base64.b64encode(drawn()).decode()
    answer = client.post("/v1/jobs", json=WISH | {"image": {"data": data}})
    assert answer.status_code == 202
    return until_done(client, answer.json())


def test_a_job_gives_the_same_bytes_embedded_and_on_postgresql_redis_and_s3(
    tmp_path: Path, s3_server: S3Server
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with embedded(tmp_path / "a") as client:
        from_form, from_json = by_form(client), by_json(client)
        first = fetch(client, from_form)
        assert fetch(client, from_json) == first
    with full(tmp_path / "b", s3_server.store_url("acceptance")) as client:
        job = by_form(client)
        assert fetch(client, job) == first
        answer = client.get(f"/v1/jobs/{job['id']}/images/0")
        assert answer.status_code == 307
        assert answer.headers["location"].startswith(s3_server.endpoint)
    assert job["images"][0]["sha256"] == from_form["images"][0]["sha256"]
    assert (job["attempt"], job["device"], job["progress"]["value"]) == (1, "cpu", 1.0)
    show_that_it_follows_the_prompt(first)


def show_that_it_follows_the_prompt(picture: bytes) -> None:
    """The red circle became a blue square where it was, and its ground stayed white."""
    image = Image.open(BytesIO(picture)).convert("RGB")
    red, _, blue = image.split()
    is_blue = ImageChops.subtract(blue, red).point(lambda level: 255 if level > 60 else 0)
    box = is_blue.getbbox()
    assert box is not None
    left, top, right, bottom = box
    filled = is_blue.histogram()[255] / ((right - left) * (bottom - top))
    assert filled > 0.87  # a circle fills 0.79 of its box, a triangle half
    assert abs((left + right) / 2 - 64) < 0.12 * 128
    assert abs((top + bottom) / 2 - 64) < 0.12 * 128
    corner = image.resize((1, 1), Image.Resampling.BOX, box=(0, 0, 12, 12)).getpixel((0, 0))
    assert isinstance(corner, tuple)
    assert min(corner) > 200
