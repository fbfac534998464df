"""Jobs of a batch are inserted chunk by chunk: each once, whoever dies, and as the batch is wished to be."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from common.db import claims
from common.db.batch_wishes import cancel_batch, pause_batch, resume_batch
from common.db.engine import Database
from common.db.tables import jobs, objects, uploads
from common.db.types import after_now
from common.domain.batch import BatchState
from common.domain.lifecycle import JobState
from courier import batch_writing
from courier.batches import tend_batch
from courier.tools import Tools
from tests.making import claim, enlist, make_image
from tests.unit.courier.batching import (
    Killed,
    Maker,
    count_jobs,
    hand_in,
    items_of,
    jobs_of,
    look,
    make_due,
    tend,
    upload,
)

WRITTEN = "courier.batch_chunk_inserted"
COMMITTED = "courier.batch_chunk_committed"


@pytest.fixture
def tools(make_tools: Maker, database: Database) -> Tools:
    return make_tools(database=database)


def at(name: str, time: int, act: Callable[[], None]) -> Callable[[str], None]:
    """Acts when this place is reached for the so-manieth time."""
    hits: list[str] = []

    def hit(reached: str) -> None:
        hits.append(reached)
        if reached == name and hits.count(name) == time:
            act()

    return hit


def die() -> None:
    raise Killed


def change(tools: Tools, wish: Callable[..., Any], batch_id: str, *more: Any) -> None:
    with tools.database.write() as connection:
        assert wish(connection, "default", batch_id, *more)


def scale(pool: str, model: str) -> float:
    return 1.0


def states(tools: Tools, batch_id: str) -> list[tuple[str, str | None]]:
    return [(str(job.state), job.held) for job in jobs_of(tools, batch_id)]


@pytest.mark.parametrize(("place", "inserted"), [(WRITTEN, 2), (COMMITTED, 4)])
def test_a_courier_that_dies_between_two_chunks_leaves_none_out_and_none_twice(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, place: str, inserted: int
) -> None:
    batch_id = hand_in(tools, [{"custom_id": f"{number}", "prompt": f"{number}"} for number in range(7)])
    with monkeypatch.context() as patch:
        patch.setattr(batch_writing.failpoints, "hit", at(place, 2, die))
        with pytest.raises(Killed):
            tend_batch(tools, chunk=2)
    assert (look(tools, batch_id).inserted, count_jobs(tools)) == (inserted, inserted)
    assert len(claim(tools.database, enlist(tools.database))) == inserted  # what stands may run at once
    tend(tools, chunk=3)
    assert count_jobs(tools) == 7
    assert [item.line for item in items_of(tools, batch_id)] == list(range(7))
    assert [job.params.prompt for job in jobs_of(tools, batch_id)] == [str(number) for number in range(7)]


def test_a_courier_whose_batch_another_has_taken_writes_nothing_more(
    tools: Tools, make_tools: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = hand_in(tools, [{}] * 6)
    other = make_tools(database=tools.database, worker_id="wrk_b")

    def overtake() -> None:
        monkeypatch.undo()
        make_due(tools.database)
        assert tend_batch(other, chunk=2) == 1

    monkeypatch.setattr(batch_writing.failpoints, "hit", at(COMMITTED, 1, overtake))
    assert tend_batch(tools, chunk=2) == 1
    assert (look(tools, batch_id).inserted, count_jobs(tools)) == (6, 6)


def test_a_batch_paused_while_it_is_inserted_holds_all_its_jobs_and_goes_on_when_resumed(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = hand_in(tools, [{}] * 6)
    pause = at(COMMITTED, 1, lambda: change(tools, pause_batch, batch_id))
    monkeypatch.setattr(batch_writing.failpoints, "hit", pause)
    tend(tools, chunk=2)
    assert look(tools, batch_id).state is BatchState.PAUSED
    assert states(tools, batch_id) == [("queued", "paused")] * 6
    assert claim(tools.database, enlist(tools.database)) == []
    change(tools, resume_batch, batch_id, scale)
    tend(tools)
    assert states(tools, batch_id) == [("queued", None)] * 6


def test_a_batch_canceled_while_it_is_inserted_has_no_job_left_that_may_run(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = hand_in(tools, [{"custom_id": f"{number}"} for number in range(6)])
    cancel = at(COMMITTED, 1, lambda: change(tools, cancel_batch, batch_id))
    monkeypatch.setattr(batch_writing.failpoints, "hit", cancel)
    tend(tools, chunk=2)
    found = look(tools, batch_id)
    assert (found.state, found.counts.canceled) == (BatchState.CANCELED, 6)
    assert states(tools, batch_id) == [("canceled", None)] * 2
    assert [item.custom_id for item in items_of(tools, batch_id)] == [str(number) for number in range(6)]


def test_a_canceled_batch_is_over_when_its_last_job_has_let_go(tools: Tools) -> None:
    batch_id = hand_in(tools, [{}] * 3)
    tend(tools)
    (running,) = claim(tools.database, enlist(tools.database), limit=1)
    with tools.database.write() as connection:
        claims.join(connection, running.id, running.fence, "cpu")
    change(tools, cancel_batch, batch_id)
    tend(tools)
    assert look(tools, batch_id).state is BatchState.RUNNING
    with tools.database.write() as connection:
        assert claims.cancel_running(connection, running.id, running.fence)
    tend(tools, turns=1)
    found = look(tools, batch_id)
    assert (found.state, found.counts.canceled) == (BatchState.CANCELED, 3)
    make_due(tools.database)
    assert tend_batch(tools) == 0


def test_a_batch_is_completed_when_its_last_job_is_done(tools: Tools) -> None:
    batch_id = hand_in(tools, [{}] * 2)
    tend(tools)
    for job in claim(tools.database, enlist(tools.database)):
        assert look(tools, batch_id).state is BatchState.RUNNING
        with tools.database.write() as connection:
            claims.join(connection, job.id, job.fence, "cpu")
            assert claims.finish(connection, job, [make_image(job)], {})
        tend(tools, turns=1)
    found = look(tools, batch_id)
    assert (found.state, found.counts.succeeded) == (BatchState.COMPLETED, 2)


def test_an_upload_whose_life_ended_since_it_was_checked_makes_its_item_wrong_and_no_other(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = upload(tools, 96, 48), upload(tools, 64, 64)
    batch_id = hand_in(tools, [{"image": {"upload": first}}, {"image": {"upload": second}}])

    def expire() -> None:
        with tools.database.write() as connection:
            connection.execute(update(uploads).where(uploads.c.id == first).values(expires_at=after_now(-1)))

    monkeypatch.setattr(batch_writing.failpoints, "hit", at("courier.batch_validated_chunk", 1, expire))
    tend(tools)
    wrong, right = items_of(tools, batch_id)
    assert (wrong.job_id, wrong.error["errors"][0]["pointer"]) == (None, "/image/upload")
    assert right.job_id
    assert look(tools, batch_id).counts.failed == 1


def test_a_picture_that_is_about_to_go_is_not_given_to_a_job(tools: Tools) -> None:
    picture = upload(tools)
    batch_id = hand_in(tools, [{"image": {"upload": picture}}, {}], on_invalid="skip")
    with tools.database.write() as connection:
        connection.execute(update(objects).where(objects.c.kind == "input").values(state="deleting"))
    tend(tools)
    assert [item.job_id is None for item in items_of(tools, batch_id)] == [True, False]


def test_a_manifest_that_goes_while_it_is_inserted_fails_the_lines_that_remain(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = hand_in(tools, [{}] * 6)
    with monkeypatch.context() as patch:
        patch.setattr(batch_writing.failpoints, "hit", at(COMMITTED, 1, die))
        with pytest.raises(Killed):
            tend_batch(tools, chunk=2)
    for one in list(tools.store.list("manifests")):
        tools.store.delete(one.key)
    tend(tools, chunk=3)
    assert [item.error and item.error["code"] for item in items_of(tools, batch_id)] == [None] * 2 + [
        "input_missing"
    ] * 4


def failed_batch(tools: Tools, lines: list[Any], **request: Any) -> tuple[str, list[str]]:
    """A batch whose jobs have all failed, and these."""
    batch_id = hand_in(tools, lines, **request)
    tend(tools)
    with tools.database.write() as connection:
        connection.execute(update(jobs).values(state=JobState.FAILED, finished_at=after_now(0), error={"code": "x"}))
    tend(tools)
    assert look(tools, batch_id).state is BatchState.COMPLETED
    return batch_id, [item.job_id for item in items_of(tools, batch_id)]


def test_a_retry_has_the_requests_seeds_notes_and_inputs_of_the_jobs_and_the_overrides(tools: Tools) -> None:
    picture = upload(tools)
    lines: list[Any] = [
        {"custom_id": "a" * 255, "image": {"upload": picture}, "tags": ["x"]},
        {"custom_id": "b", "prompt": "a square", "external_id": "mine"},
    ]
    batch_id, job_ids = failed_batch(tools, lines)
    old = jobs_of(tools, batch_id)
    with tools.database.write() as connection:
        connection.execute(update(uploads).values(expires_at=after_now(-1)))  # not asked for again
    again = [{"custom_id": job.external_id, "retry_of": job.id} for job in old]
    again[0]["custom_id"], again[1]["custom_id"] = "a", "b"
    retry_id = hand_in(tools, again, retry_of=batch_id, overrides={"num_inference_steps": 20, "tags": None})
    tend(tools, chunk=1)
    new = jobs_of(tools, retry_id)
    assert [job.retry_of for job in new] == job_ids
    assert [job.params.seed for job in new] == [job.params.seed for job in old]
    assert [job.params.num_inference_steps for job in new] == [20, 20]
    assert [(job.params.task, job.params.prompt) for job in new] == [
        ("img2img", "a red circle"),
        ("txt2img", "a square"),
    ]
    assert [(job.tags, job.external_id) for job in new] == [([], "a" * 255), ([], "mine")]
    assert [item.custom_id for item in items_of(tools, retry_id)] == ["a", "b"]


def test_what_is_wrong_with_a_retry_stands_in_its_overrides(tools: Tools) -> None:
    batch_id, job_ids = failed_batch(tools, [{}, {}])
    lines = [{"custom_id": job_id, "retry_of": job_id} for job_id in job_ids]
    retry_id = hand_in(tools, lines, retry_of=batch_id, overrides={"mask_blur": 3})
    tend(tools)
    found = look(tools, retry_id)
    assert found.state is BatchState.REJECTED
    assert [(one["line"], one["pointer"]) for one in found.errors] == [
        (0, "/overrides/mask_blur"),
        (1, "/overrides/mask_blur"),
    ]


def test_a_retried_job_that_was_erased_since_is_a_wrong_line(tools: Tools) -> None:
    batch_id, job_ids = failed_batch(tools, [{}, {}])
    with tools.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_ids[0]).values(erased_at=after_now(0)))
    lines = [{"custom_id": job_id, "retry_of": job_id} for job_id in job_ids]
    retry_id = hand_in(tools, lines, retry_of=batch_id, overrides={"seed": None}, on_invalid="skip")
    tend(tools)
    assert [item.error and item.error["code"] for item in items_of(tools, retry_id)] == ["gone", None]
