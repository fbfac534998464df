"""An upload by presigned PUT through a real S3 server, and a job that takes it."""

import hashlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from api.main import create_app
from common.db.engine import Database
from common.settings import Settings
from tests.services.swift import S3Server
from tests.unit.api.fakes import RecordingBell

pytestmark = pytest.mark.s3


@pytest.fixture
def client(tmp_path: Path, s3_server: S3Server, sqlite_database: Database) -> Iterator[TestClient]:
    settings = Settings(_env_file=None, data_dir=tmp_path, store_url=s3_server.store_url("presigned"), decoders=1)
    app = create_app(settings, database=sqlite_database, doorbell=RecordingBell())
    with TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False) as client:
        yield client


def drawn(colour: str = "red") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (96, 64), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def announce(client: TestClient, data: bytes, content_type: str = "image/jpeg") -> dict[str, Any]:
    declared = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "content_type": content_type}
    answer = client.post("/v1/uploads/presign", json=declared)
    assert answer.status_code == 201, answer.text
    upload: dict[str, Any] = answer.json()
    return upload


def test_a_file_put_straight_to_the_store_becomes_the_image_of_a_job(client: TestClient) -> None:
    upload = announce(client, drawn())
    assert httpx.put(upload["put"]["url"], content=drawn(), headers=upload["put"]["headers"]).is_success
    ready = client.post(upload["urls"]["complete"]).json()
    assert (ready["status"], ready["width"], ready["height"]) == ("ready", 96, 64)
    job = client.post("/v1/jobs", json={"prompt": "x", "image": {"upload": upload["id"]}})
    assert (job.status_code, job.json()["task"]) == (202, "img2img")


def test_the_same_picture_sent_twice_is_one_object(client: TestClient) -> None:
    shas = set()
    for _ in range(2):
        upload = announce(client, drawn("blue"))
        httpx.put(upload["put"]["url"], content=drawn("blue"), headers=upload["put"]["headers"]).raise_for_status()
        shas.add(client.post(upload["urls"]["complete"]).json()["sha256"])
    assert len(shas) == 1


def test_another_file_than_the_declared_one_does_not_become_an_image(client: TestClient) -> None:
    upload = announce(client, drawn())
    other = drawn("green")
    put = httpx.put(
        upload["put"]["url"], content=other, headers=upload["put"]["headers"] | {"Content-Length": str(len(other))}
    )
    answer = client.post(upload["urls"]["complete"])
    assert not put.is_success or answer.status_code == 422
    assert answer.status_code in {409, 422}
