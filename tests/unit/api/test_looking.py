"""Looking at jobs, listing them, canceling them."""

import pytest
from sqlalchemy import update

from api.schemas.job import Job, JobPage
from common.db.tables import jobs
from common.db.types import after_now
from common.ids import new_id
from tests.unit.api.conftest import Api, data_url


def test_the_answer_is_what_the_description_says_in_every_state(api: Api) -> None:
    url = api.submit(image=data_url(), tags=["a"], metadata={"k": "v"})["urls"]["self"]
    Job.model_validate(api.client.get(url).json())
    job = api.start()
    Job.model_validate(api.client.get(url).json())
    api.report(job, 3, 18)
    running = Job.model_validate(api.client.get(url).json())

    assert (running.status, running.stage, running.progress.step) == ("running", "denoising", 3)
    assert running.progress.value == pytest.approx(3 / 18, abs=1e-4)


def test_a_finished_job_shows_its_images(api: Api) -> None:
    api.submit()
    job_id = api.develop(b"pixels")

    job = Job.model_validate(api.client.get(f"/v1/jobs/{job_id}").json())

    assert (job.status, job.progress.value, job.device) == ("succeeded", 1.0, "cpu")
    assert job.images[0].url == f"http://127.0.0.1:8000/v1/jobs/{job_id}/images/0"
    assert job.images[0].url_expires_at == job.expires_at


def test_an_unchanged_job_is_304(api: Api) -> None:
    url = api.submit()["urls"]["self"]
    tag = api.client.get(url).headers["etag"]

    again = api.client.get(url, headers={"If-None-Match": f'"other", W/{tag}'})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)


def test_304_says_when_to_look_again_as_long_as_there_is_something_to_see(api: Api) -> None:
    url = api.submit()["urls"]["self"]
    first = api.client.get(url)
    again = api.client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.headers["retry-after"]) == (304, first.headers["retry-after"])
    assert again.headers["cache-control"] == first.headers["cache-control"]

    over = api.client.post(f"{url}/cancel")
    again = api.client.get(url, headers={"If-None-Match": over.headers["etag"]})
    assert (again.status_code, "retry-after" in again.headers) == (304, False)


def test_the_tag_changes_with_state_progress_and_wish(api: Api) -> None:
    url = api.submit()["urls"]["self"]
    tags = [api.client.get(url).headers["etag"]]
    job = api.start()
    tags.append(api.client.get(url).headers["etag"])
    api.report(job, 1, 30)
    tags.append(api.client.get(url).headers["etag"])
    api.client.post(f"{url}/cancel")
    tags.append(api.client.get(url).headers["etag"])

    assert len(set(tags)) == 4


def test_the_poll_interval_is_suggested_until_the_end(api: Api) -> None:
    url = api.submit()["urls"]["self"]
    assert api.client.get(url).headers["retry-after"] == "1"
    api.develop()

    assert "retry-after" not in api.client.get(url).headers


@pytest.mark.parametrize("job_id", ["x", "job_1", new_id("job"), new_id("bat"), "job_%00", "%FF", "a" * 5000])
def test_unknown_and_malformed_ids_are_404_alike(api: Api, job_id: str) -> None:
    answers = [api.client.get(f"/v1/jobs/{job_id}"), api.client.post(f"/v1/jobs/{job_id}/cancel")]

    assert {answer.status_code for answer in answers} == {404}
    assert {answer.json()["code"] for answer in answers} == {"not_found"}


def test_pages_are_whole_and_end(api: Api) -> None:
    made = [api.submit()["id"] for _ in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        page = JobPage.model_validate(api.client.get(f"/v1/jobs?limit=2{after}").json())
        seen += [job.id for job in page.data]
        if not page.has_more:
            break
        after = f"&after={page.next}"

    assert seen == sorted(made, reverse=True)
    assert page.next is None


def test_lists_filter(api: Api) -> None:
    api.submit()
    done = api.develop()
    api.submit(image=data_url())

    assert [job["id"] for job in api.client.get("/v1/jobs?status=succeeded").json()["data"]] == [done]
    assert [job["task"] for job in api.client.get("/v1/jobs?task=img2img").json()["data"]] == ["img2img"]
    assert api.client.get("/v1/jobs?model=sd15").json()["data"] == []


def test_lists_filter_by_tag_and_by_moment(api: Api) -> None:
    first, second, third = (api.submit(tags=tags) for tags in (["a", "ü'\""], ["a"], ["aa"]))
    with api.database.write() as connection:
        for number, job in enumerate((third, second, first)):
            mine = jobs.c.id == job["id"]
            connection.execute(update(jobs).where(mine).values(created_at=after_now(-60 * number)))
    moment = api.client.get(second["urls"]["self"]).json()["created_at"]

    def listed(**filters: str) -> list[str]:
        answer = api.client.get("/v1/jobs", params=filters)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["data"]]

    assert listed(tag="a") == [second["id"], first["id"]]
    assert listed(tag="ü'\"") == [first["id"]]
    assert listed(created_after=moment) == [third["id"]]
    assert listed(created_before=moment) == [first["id"]]
    assert listed(created_after="2999-12-31T23:59:59-23:59") == []
    assert listed(created_before="2000-01-01T00:00:00.123+23:59", tag="a") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("created_after", value) for value in ("", "yesterday", "2026-01-31", "2026-01-31T12:00:00", "1700000000")),
        *(("created_before", value) for value in ("2026-02-31T12:00:00Z", "0001-01-01T00:00:00+23:59")),
        *(("tag", value) for value in ("", "a" * 101, "a\0")),
    ],
)
def test_a_wrong_filter_is_refused(api: Api, name: str, value: str) -> None:
    answer = api.client.get("/v1/jobs", params={name: value})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/query/{name}"


def test_a_queued_job_is_canceled_at_once_and_again_harmlessly(api: Api) -> None:
    url = api.submit()["urls"]["cancel"]

    first, second = api.client.post(url), api.client.post(url)

    assert (first.status_code, first.json()["status"]) == (200, "canceled")
    assert second.json() == first.json()


def test_a_running_job_takes_the_wish(api: Api) -> None:
    url = api.submit()["urls"]["cancel"]
    api.start()

    job = api.client.post(url).json()

    assert (job["status"], job["cancel_requested"]) == ("running", True)


def test_a_finished_job_stays_finished(api: Api) -> None:
    url = api.submit()["urls"]["cancel"]
    api.develop()

    assert api.client.post(url).json()["status"] == "succeeded"
