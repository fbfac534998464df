"""What a webhook says: short whatever the job holds, and never a word of the prompt."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from common.db.engine import Database
from common.db.jobs import find_job
from common.domain.job import StoredImage
from common.domain.lifecycle import JobState
from common.domain.snapshot import JobSnapshot
from common.settings import Settings
from common.webhook_body import MAX_BYTES, base_url, body_text, job_data
from tests.making import submit

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
MARKER = "an unmistakable prompt"


def snapshot(database: Database, **changes: Any) -> JobSnapshot:
    job = submit(database, params={"prompt": MARKER, "negative_prompt": MARKER})
    with database.read() as connection:
        found = find_job(connection, "default", job.id)
    assert found is not None
    return replace(found, state=JobState.SUCCEEDED, **changes)


def body_of(job: JobSnapshot, kind: str = "job.succeeded") -> tuple[str, Any]:
    text = body_text(kind, NOW, job_data(kind, job.version, NOW, job, "https://a.example", None))
    return text, json.loads(text)


def images(count: int) -> list[StoredImage]:
    return [StoredImage(index, "k", index, 512, 512, "image/png", 10**6, "ab" * 32) for index in range(count)]


def test_a_usual_job_is_told_in_full(sqlite_database: Database) -> None:
    warning = {"code": "mask_resized", "pointer": MARKER}
    job = snapshot(sqlite_database, images=images(16), metadata={"a": "b"}, tags=["red"], warnings=[warning])
    text, document = body_of(job)
    assert document["type"] == "job.succeeded"
    assert document["timestamp"] == "2026-11-21T08:00:00.000Z"
    data = document["data"]
    assert (len(data["images"]), data["metadata"], data["tags"]) == (16, {"a": "b"}, ["red"])
    assert not {"params", "warnings", "truncated"} & set(data)
    assert MARKER not in text


def test_what_does_not_fit_is_left_out_in_order_and_named(sqlite_database: Database) -> None:
    plain = snapshot(sqlite_database)
    many = replace(plain, images=images(160))
    wide = replace(many, metadata={f"key{number}": "ü" * 1000 for number in range(16)})
    error = {"code": "internal", "title": "t", "detail": "ü" * 30_000, "errors": [{"detail": "x" * 30_000}]}
    worst = replace(wide, tags=["t" * 3000] * 10, error=error)
    named = [body_of(job)[1]["data"].get("truncated", []) for job in (plain, many, wide, worst)]
    assert named == [[], ["images"], ["images", "metadata"], ["images", "metadata", "tags", "error"]]
    data = body_of(worst)[1]["data"]
    assert (data["images"], data["metadata"], data["tags"], data["error"]["errors"]) == ([], {}, [], [])
    assert (data["error"]["code"], len(data["error"]["detail"])) == ("internal", 300)


@given(st.dictionaries(st.text(max_size=64), st.text(max_size=500), max_size=16), st.integers(0, 160))
def test_no_body_reaches_20_kb(metadata: dict[str, str], count: int) -> None:
    data = {"id": "job_1", "images": [{"url": "u" * 300}] * count, "metadata": metadata, "tags": [], "error": None}
    text = body_text("job.succeeded", NOW, data)
    assert len(text.encode()) < MAX_BYTES
    told = json.loads(text)["data"]
    for name in ("images", "metadata"):
        assert told[name] == data[name] or name in told["truncated"]


def test_urls_begin_with_the_public_address_or_the_one_that_the_api_listens_on() -> None:
    assert base_url(Settings(_env_file=None, public_url="https://a.example/")) == "https://a.example"
    assert base_url(Settings(_env_file=None, port=8123)) == "http://127.0.0.1:8123"
