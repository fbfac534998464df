"""From a claimed job and its inputs to frames that can join. Needs the CPU only: no model, no torch, any thread."""

from collections.abc import Mapping, Sequence
from io import BytesIO

from PIL import Image

from common.domain.batching import call_key
from common.domain.catalogue import Task
from common.domain.errors import JobFailure
from common.domain.job import ClaimedJob
from common.domain.params import EditParams
from worker.engine.port import FrameRef, Prepared

IMAGE_ROLE = "image"


def prepare_frames(job: ClaimedJob, inputs: Mapping[str, bytes]) -> Sequence[Prepared]:
    """One frame per image of the job; `inputs` are our own PNGs by role.

    Raises `JobFailure`: `input_missing` when an input is not there, `image_unreadable` when it is not a picture.
    """
    params = job.params
    picture = _input_picture(params, inputs) if params.task is Task.IMG2IMG else None
    key = call_key(params, job.id)
    return [
        Prepared(
            ref=FrameRef(job.id, job.fence, index),
            job=job,
            seed=params.seed_of(index),
            image=picture,
            call_key=key,
            steps=params.effective_steps,
        )
        for index in range(params.num_images)
    ]


def strangers(frame: Prepared, company: Sequence[Prepared]) -> int:
    """How many frames of other jobs shared the work of this one: `batched_with` in the job's metrics."""
    return sum(other.ref.job_id != frame.ref.job_id for other in company)


def _input_picture(params: EditParams, inputs: Mapping[str, bytes]) -> Image.Image:
    if IMAGE_ROLE not in inputs:
        raise JobFailure("the job's input image is not there", code="input_missing")
    return _fit(_decode(inputs[IMAGE_ROLE]), params)


def _decode(data: bytes) -> Image.Image:
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise JobFailure("the job's input image cannot be read", code="image_unreadable") from error


def _fit(picture: Image.Image, params: EditParams) -> Image.Image:
    size = (params.width, params.height)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
