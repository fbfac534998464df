"""Whether the stub's pictures are what was ordered: they follow from the input's pixels, the prompt and the seed."""

from collections.abc import Iterator, Mapping
from io import BytesIO

from PIL import Image
from sqlalchemy import select

from client.sdk import Darkroom
from common.db.engine import Database
from common.db.tables import images, job_requests
from common.domain.params import EditParams
from common.storage.port import ObjectStore
from tests.faults.clients import PATIENCE_SECONDS, Order
from worker.engine.stub_engine import picture_from


def wrong_in_store(database: Database, store: ObjectStore) -> Iterator[str]:
    """Every stored result of a job of one pass that is not the picture of its request. Inputs must fit already."""
    with database.read() as connection:
        query = select(images, job_requests.c.params, job_requests.c.inputs)
        rows = list(connection.execute(query.join(job_requests, job_requests.c.job_id == images.c.job_id)))
    for row in rows:
        params = EditParams.from_dict(row.params)
        source = row.inputs.get("image")
        pixels = _opened(store.get(source["key"])).tobytes() if source else b""
        expected = picture_from(pixels, params.prompt, params.seed_of(row.index), (params.width, params.height))
        if not _is_same(_opened(store.get(row.key)), expected):
            yield f"P1 {row.job_id} has a wrong picture {row.index} in the store"


def wrong_as_served(url: str, orders: Mapping[str, Order], *, api_key: str | None = None) -> Iterator[str]:
    """What the API serves of these jobs, picture by picture, where it is not what was ordered."""
    with Darkroom(url, api_key, retry_seconds=PATIENCE_SECONDS) as server:
        for job_id, order in orders.items():
            job = server.job(job_id)
            if job.status != "succeeded":
                continue
            if len(job.images) != order.count:
                yield f"P1 {job_id} has {len(job.images)} pictures and not {order.count}"
            for image in job.images:
                if not _is_same(_opened(server.download(job_id, image.index)), order.expected(image.index)):
                    yield f"P1 {job_id} was served with a wrong picture {image.index}"


def _opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data)).convert("RGB")


def _is_same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()
