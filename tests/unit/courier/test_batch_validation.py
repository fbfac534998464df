"""A batch is checked whole before anything of it is written: what is wrong is said with its line and place."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from common.db import claims
from common.db.engine import Database
from common.domain.batch import BatchState
from common.storage.port import StoreUnavailable
from courier import batch_writing
from courier.batches import tend_batch
from courier.tools import Tools
from tests.making import claim, enlist, make_image
from tests.making import submit as submit_job
from tests.unit.courier.batching import (
    DEFAULTS,
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
from tests.unit.outbound.hosts import Answers


@pytest.fixture
def tools(make_tools: Maker, database: Database) -> Tools:
    return make_tools(database=database)


def data_url(width: int = 32, height: int = 32) -> str:
    file = BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


def problems(tools: Tools, batch_id: str) -> list[tuple[int, str, str]]:
    found = look(tools, batch_id)
    assert found.state is BatchState.REJECTED
    assert count_jobs(tools) == 0
    assert items_of(tools, batch_id) == []
    assert all(one["detail"] for one in found.errors)
    return [(one["line"], one["pointer"], one["code"]) for one in found.errors]


def test_without_a_due_batch_there_is_nothing_to_do(make_tools: Maker) -> None:
    assert tend_batch(make_tools()) == 0


def test_good_lines_become_jobs_in_their_order(tools: Tools) -> None:
    lines: list[Any] = [{"custom_id": f"img-{number}", "prompt": f"circle {number}"} for number in range(7)]
    lines[2] |= {"external_id": "mine", "seed": 5, "tags": ["a"], "metadata": {"b": "c"}}
    batch_id = hand_in(tools, [*lines, {}])
    tend(tools, chunk=3)
    found = look(tools, batch_id)
    assert (found.state, found.validated, found.inserted, found.counts.queued) == (BatchState.RUNNING, 8, 8, 8)
    assert found.started_at
    assert [item.custom_id for item in items_of(tools, batch_id)] == [*(f"img-{number}" for number in range(7)), "7"]
    jobs = jobs_of(tools, batch_id)
    assert [job.params.prompt for job in jobs] == [*(f"circle {number}" for number in range(7)), "a red circle"]
    assert [job.external_id for job in jobs] == ["img-0", "img-1", "mine", *(f"img-{n}" for n in range(3, 7)), "7"]
    assert {(job.batch_id, job.lane, job.params.model) for job in jobs} == {(batch_id, "low", "demo")}
    assert (jobs[2].params.seed, jobs[2].tags, jobs[2].metadata) == (5, ["a"], {"b": "c"})
    assert len({job.params.seed for job in jobs}) == 8
    assert [job.vtime for job in jobs] == sorted(job.vtime for job in jobs)
    assert sum(number for _, number in tools.doorbell.rings) == 8  # type: ignore[attr-defined]


def test_three_wrong_lines_of_five_hundred_reject_the_batch_and_nothing_is_queued(tools: Tools) -> None:
    lines: list[Any] = [{"custom_id": f"img-{number}"} for number in range(500)]
    lines[4] = {"promt": "a cat"}
    lines[100] = "this is no JSON"
    lines[499] = {"strength": 2, "model": "nonesuch"}
    batch_id = hand_in(tools, lines)
    tend(tools, chunk=120)
    assert problems(tools, batch_id) == [
        (4, "/promt", "unknown_field"),
        (100, "", "invalid_json"),
        (499, "/strength", "validation_error"),
    ]
    assert look(tools, batch_id).error_count == 3


def test_skipping_is_to_be_asked_for_and_makes_items_of_wrong_lines(tools: Tools) -> None:
    lines: list[Any] = [{"prompt": f"{number}"} for number in range(6)]
    lines[1], lines[4] = {"model": "nonesuch"}, {"custom_id": "0"}
    batch_id = hand_in(tools, lines, on_invalid="skip")
    tend(tools, chunk=2, turns=4)
    found = look(tools, batch_id)
    assert (found.state, found.counts.queued, found.counts.failed, found.error_count) == (BatchState.RUNNING, 4, 2, 2)
    items = items_of(tools, batch_id)
    assert [item.line for item in items if item.job_id is None] == [1, 4]
    assert [item.error["errors"][0]["pointer"] for item in items if item.error] == ["/model", "/custom_id"]
    assert (items[1].custom_id, items[4].custom_id) == ("1", None)


@pytest.mark.parametrize("on_invalid", ["reject", "skip"])
def test_a_batch_of_wrong_lines_alone_is_rejected(tools: Tools, on_invalid: str) -> None:
    batch_id = hand_in(tools, [{"strength": 2}, {"seed": -1}, {"x": 1}], on_invalid=on_invalid)
    tend(tools, chunk=2)
    assert [pointer for _, pointer, _ in problems(tools, batch_id)] == ["/strength", "/seed", "/x"]


def test_an_id_that_comes_twice_is_wrong_the_second_time_however_far_apart(tools: Tools) -> None:
    lines = [{"custom_id": "a"}, {"custom_id": "b"}, {}, {"custom_id": "a"}, {"custom_id": "2"}]
    batch_id = hand_in(tools, lines)
    tend(tools, chunk=1)
    assert problems(tools, batch_id) == [
        (3, "/custom_id", "validation_error"),
        (4, "/custom_id", "validation_error"),
    ]


def test_a_hundred_errors_are_kept_and_all_are_counted(tools: Tools) -> None:
    batch_id = hand_in(tools, [{"seed": -1}] * 150)
    tend(tools, chunk=40)
    assert [line for line, _, _ in problems(tools, batch_id)] == list(range(100))
    assert look(tools, batch_id).error_count == 150


def test_what_a_model_cannot_do_is_found_before_anything_is_queued(tools: Tools) -> None:
    picture = upload(tools)
    lines: list[Any] = [
        {"image": {"upload": picture}, "strength": 0.01},
        {"task": "img2img"},
        {"mask_mode": "alpha", "image": {"data": data_url()}},
        {"mask_blur": 3},
    ]
    batch_id = hand_in(tools, lines)
    tend(tools)
    assert problems(tools, batch_id) == [
        (0, "/num_inference_steps", "infeasible"),
        (1, "/image", "validation_error"),
        (2, "/mask", "mask_missing"),
        (3, "/mask_blur", "unsupported_param"),
    ]


def test_images_that_do_not_exist_are_found_with_their_place(tools: Tools) -> None:
    zeros = "0" * 32
    waiting = submit_job(tools.database).id
    lines: list[Any] = [
        {"image": {"upload": f"upl_{zeros}"}},
        {"image": {"upload": upload(tools, seconds=-1)}},
        {"image": {"job": f"job_{zeros}"}},
        {"image": {"job": waiting, "index": 1}},
        {"image": {"url": "ftp://pictures.example/cat.png"}},
        {"image": {"data": "data:image/png;base64,AAAA"}},
        {"mask": {"upload": f"upl_{zeros}"}, "image": {"upload": f"upl_{zeros}"}},
    ]
    batch_id = hand_in(tools, lines)
    tend(tools)
    found = look(tools, batch_id)
    assert [(one["line"], one["pointer"]) for one in found.errors] == [
        (0, "/image/upload"),
        (1, "/image/upload"),
        (2, "/image/job"),
        (3, "/image/job"),
        (4, "/image/url"),
        (5, "/image"),
        (6, "/image/upload"),
        (6, "/mask/upload"),
    ]
    assert found.error_count == 7


def test_each_host_is_looked_up_once(make_tools: Maker) -> None:
    resolver = Answers(pictures_example=[["93.184.216.34"]], inside_example=[["10.0.0.1"]])
    tools = make_tools(443, resolver=resolver)
    hosts = ["pictures.example", "inside.example", "unknown.example"]
    batch_id = hand_in(tools, [{"image": {"url": f"https://{hosts[number % 3]}/{number}.png"}} for number in range(30)])
    tend(tools)
    assert {(line % 3, pointer, code) for line, pointer, code in problems(tools, batch_id)} == {
        (1, "/image/url", "url_blocked")
    }
    assert sorted(resolver.lookups) == sorted(hosts)


def test_images_by_url_and_of_earlier_jobs_are_awaited_and_uploads_and_data_are_there(make_tools: Maker) -> None:
    resolver = Answers(pictures_example=[["93.184.216.34"]])
    tools = make_tools(443, resolver=resolver)
    submit_job(tools.database)
    (done,) = claim(tools.database, enlist(tools.database))
    with tools.database.write() as connection:
        claims.join(connection, done.id, done.fence, "cpu")
        assert claims.finish(connection, done, [make_image(done)], {})
    lines: list[Any] = [
        {"image": {"upload": upload(tools)}},
        {"image": {"data": data_url(96, 48)}},
        {"image": {"url": "https://pictures.example/cat.png"}},
        {"image": {"job": done.id}},
    ]
    batch_id = hand_in(tools, lines)
    tend(tools)
    jobs = jobs_of(tools, batch_id)
    assert [job.held for job in jobs] == [None, None, "intake", "intake"]
    assert (jobs[0].params.width, jobs[0].params.height) == (jobs[1].params.width, jobs[1].params.height) == (184, 88)
    assert sum(number for _, number in tools.doorbell.rings) == 2  # type: ignore[attr-defined]


def test_an_image_among_the_defaults_is_decoded_once_and_a_null_takes_it_away(make_tools: Maker) -> None:
    tools = make_tools()
    counted = Counted(tools.decoder)
    tools = make_tools(decoder=counted, database=tools.database)
    defaults = DEFAULTS | {"image": {"data": data_url(96, 48)}}
    batch_id = hand_in(tools, [{}, {"seed": 1}, {"image": None}], defaults=defaults)
    tend(tools)
    assert [job.params.task for job in jobs_of(tools, batch_id)] == ["img2img", "img2img", "txt2img"]
    assert counted.count == 1


class Counted:
    """A decoder that counts."""

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.count = decoder, 0

    def decode(self, data: bytes) -> Any:
        self.count += 1
        return self.decoder.decode(data)


def test_a_killed_courier_is_followed_by_one_that_goes_on_at_its_cursor(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Any] = [{"custom_id": f"{number}"} for number in range(10)]
    lines[1], lines[8], lines[9] = {"seed": -1}, {"custom_id": "0"}, {"seed": -2}
    batch_id = hand_in(tools, lines)
    with monkeypatch.context() as patch:
        patch.setattr(batch_writing.failpoints, "hit", raises_at("courier.batch_validated_chunk", 2))
        with pytest.raises(Killed):
            tend_batch(tools, chunk=3)
    assert look(tools, batch_id).validated == 6
    assert tend_batch(tools, chunk=3) == 0
    read: list[int] = []
    original = batch_writing.LineReader.read
    monkeypatch.setattr(
        batch_writing.LineReader, "read", lambda s, raws: read.extend(n for n, _ in raws) or original(s, raws)
    )
    tend(tools, chunk=3)
    assert read == [6, 7, 8, 9]
    assert [(line, pointer) for line, pointer, _ in problems(tools, batch_id)] == [
        (1, "/seed"),
        (8, "/custom_id"),
        (9, "/seed"),
    ]


def raises_at(name: str, time: int, error: BaseException | None = None) -> Callable[[str], None]:
    hits: list[str] = []

    def hit(reached: str) -> None:
        hits.append(reached)
        if hits.count(name) == time and reached == name:
            raise error or Killed

    return hit


def test_a_courier_that_stops_lets_go_between_chunks(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = hand_in(tools, [{}] * 9)

    def stop(name: str) -> None:
        if name == "courier.batch_validated_chunk":
            tools.stop.set()

    monkeypatch.setattr(batch_writing.failpoints, "hit", stop)
    assert tend_batch(tools, chunk=4) == 1
    assert look(tools, batch_id).validated == 4
    tools.stop.clear()
    monkeypatch.undo()
    assert tend_batch(tools, chunk=4) == 1  # it was put back at once
    assert look(tools, batch_id).inserted == 9


def test_a_manifest_that_is_gone_rejects_the_batch_as_a_whole(tools: Tools) -> None:
    batch_id = hand_in(tools, [{}] * 3)
    for one in list(tools.store.list("manifests")):
        tools.store.delete(one.key)
    tend(tools)
    found = look(tools, batch_id)
    assert found.state is BatchState.REJECTED
    assert [(one["line"], one["code"]) for one in found.errors] == [(None, "input_missing")]


class Away:
    """A store that is away."""

    def stream(self, key: str) -> Any:
        raise StoreUnavailable(key, "away")


def test_a_store_that_is_away_costs_the_batch_nothing_but_time(make_tools: Maker, tools: Tools) -> None:
    batch_id = hand_in(tools, [{}] * 3)
    away = make_tools(database=tools.database, store=Away())
    assert tend_batch(away) == 1
    assert tend_batch(away) == 0
    tend(tools)
    assert look(tools, batch_id).inserted == 3


def test_a_line_over_which_the_program_falls_is_wrong_alone(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    original = batch_writing.Judge._planned

    def fall(judge: Any, line: Any, found: Any) -> Any:
        if line.number == 1:
            raise ZeroDivisionError
        return original(judge, line, found)

    monkeypatch.setattr(batch_writing.Judge, "_planned", fall)
    batch_id = hand_in(tools, [{}] * 3, on_invalid="skip")
    tend(tools)
    assert [item.error and item.error["code"] for item in items_of(tools, batch_id)] == [None, "internal", None]


def test_a_mistake_of_ours_does_not_bring_the_batch_back_at_once(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(*_: object) -> Sequence[Any]:
        raise ZeroDivisionError

    monkeypatch.setattr(batch_writing.Judge, "judge", fall)
    hand_in(tools, [{}])
    assert tend_batch(tools) == 1
    assert tend_batch(tools) == 0
    make_due(tools.database)
    assert tend_batch(tools) == 1
