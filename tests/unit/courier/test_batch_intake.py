"""A result of an earlier job as the image of a line: read from our own store, decoded like any other."""

from io import BytesIO

import pytest
from PIL import Image
from sqlalchemy import update

from common.db import claims
from common.db.engine import Database
from common.db.tables import jobs
from common.db.types import after_now
from common.domain.job import ClaimedJob
from common.domain.lifecycle import JobState
from common.requests.images import result_url, source_of
from courier.intake import fetch_image
from courier.tools import Tools
from tests.making import claim, enlist, make_image
from tests.making import submit as submit_job
from tests.unit.courier.batching import Maker, hand_in, jobs_of, tend
from tests.unit.courier.conftest import look, submit


@pytest.fixture
def tools(make_tools: Maker, database: Database) -> Tools:
    return make_tools(database=database)


def succeed(tools: Tools) -> ClaimedJob:
    """A job with one result of 96 x 48 pixels, which lies in the store."""
    submit_job(tools.database)
    (job,) = claim(tools.database, enlist(tools.database))
    image = make_image(job)
    with tools.database.write() as connection:
        claims.join(connection, job.id, job.fence, "cpu")
        assert claims.finish(connection, job, [image], {})
    file = BytesIO()
    Image.new("RGB", (96, 48), "red").save(file, "PNG")
    tools.store.put(image.key, file.getvalue(), "image/png")
    return job


def test_a_line_takes_the_result_of_an_earlier_job(tools: Tools) -> None:
    earlier = succeed(tools)
    batch_id = hand_in(tools, [{"image": {"job": earlier.id, "index": 0}}])
    tend(tools)
    assert claim(tools.database, enlist(tools.database)) == []
    assert fetch_image(tools) == 1
    (job,) = jobs_of(tools, batch_id)
    (claimed,) = claim(tools.database, enlist(tools.database))
    assert (claimed.id, claimed.inputs["image"].width, claimed.params.task) == (job.id, 96, "img2img")
    assert tools.store.get(claimed.inputs["image"].key)


@pytest.mark.parametrize("fate", ["erased", "expired", "not stored", "without such an index"])
def test_a_result_that_is_gone_fails_the_job_at_once(tools: Tools, fate: str) -> None:
    earlier = succeed(tools)
    index = 3 if fate == "without such an index" else 0
    waiting = submit(tools.database, result_url(earlier.id, index))
    values = {
        "erased": {"erased_at": after_now(-1)},
        "expired": {"expires_at": after_now(-1)},
    }.get(fate)
    with tools.database.write() as connection:
        if values is not None:
            connection.execute(update(jobs).where(jobs.c.id == earlier.id).values(values))
    if fate == "not stored":
        tools.store.delete(make_image(earlier).key)
    assert fetch_image(tools) == 1
    found = look(tools.database, waiting)
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert found.error["code"] == "input_missing"


def test_the_name_of_a_result_says_which_it_is() -> None:
    job_id = "job_" + "0" * 32
    source = source_of(result_url(job_id, 2))
    assert (source.job, source.index, source.url) == (job_id, 2, None)
    assert source_of("https://pictures.example/cat.png").url == "https://pictures.example/cat.png"
