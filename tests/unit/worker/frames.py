"""Jobs and frames for tests of engines."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

from PIL import Image

from common.domain.catalogue import Task
from common.domain.job import ClaimedJob, InputRef
from common.domain.params import EditParams, Output
from common.domain.steps import effective_steps
from worker.engine.frames import MayHandLatents, never, prepare_frames
from worker.engine.port import Engine, Event, Finished, Prepared

SIZE = 64
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TXT2IMG = EditParams(
    task=Task.TXT2IMG,
    model="tiny",
    prompt="a red circle",
    negative_prompt="",
    strength=None,
    guidance_scale=5.0,
    num_inference_steps=4,
    effective_steps=4,
    num_images=1,
    seed=7,
    width=SIZE,
    height=SIZE,
    output=Output(),
    deterministic=False,
    previews=False,
)


def txt2img(**changes: Any) -> EditParams:
    """A small txt2img request with some fields changed."""
    return replace(TXT2IMG, **changes)


def img2img(**changes: Any) -> EditParams:
    """A small img2img request with some fields changed; its effective steps follow."""
    params = replace(TXT2IMG, task=Task.IMG2IMG, strength=0.5, num_inference_steps=8)
    params = replace(params, **changes)
    return replace(params, effective_steps=effective_steps(params.num_inference_steps, params.strength))


def gradient(size: int = SIZE, *, blue: int = 128) -> Image.Image:
    """A picture that is different everywhere."""
    ramp = Image.linear_gradient("L").resize((size, size))
    return Image.merge("RGB", (ramp, ramp.rotate(90), Image.new("L", (size, size), blue)))


def png(picture: Image.Image) -> bytes:
    """The picture as PNG."""
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def claimed(params: EditParams, *, job_id: str = "job-1", inputs: dict[str, bytes] | None = None) -> ClaimedJob:
    """A claimed job with these parameters."""
    references = {
        role: InputRef(f"inputs/{role}", hashlib.sha256(data).hexdigest(), len(data), SIZE, SIZE)
        for role, data in (inputs or {}).items()
    }
    return ClaimedJob(
        id=job_id,
        tenant_id="tenant",
        fence=1,
        tries=1,
        max_tries=3,
        solo=False,
        solo_crashes=0,
        created_at=NOW,
        deadline_at=NOW + timedelta(days=7),
        params=params,
        inputs=references,
    )


def frames_of(
    params: EditParams,
    *,
    job_id: str = "job-1",
    picture: Image.Image | None = None,
    mask: Image.Image | None = None,
    may_hand_latents: MayHandLatents = never,
) -> Sequence[Prepared]:
    """The prepared frames of one job; without another picture img2img and inpaint get a gradient."""
    inputs = {} if params.task is Task.TXT2IMG else {"image": png(picture or gradient())}
    inputs |= {} if mask is None else {"mask": png(mask)}
    return prepare_frames(claimed(params, job_id=job_id, inputs=inputs), inputs, may_hand_latents).frames


def run(engine: Engine, frames: Sequence[Prepared]) -> list[Event]:
    """Join frames and tick until the engine is empty; what it reported."""
    events: list[Event] = []
    for frame in frames:
        assert engine.offer(frame).ok
        engine.join(frame)
    while engine.load().frames:
        engine.tick(events.append)
    return events


def pictures(events: Sequence[Event]) -> dict[tuple[str, int], Image.Image]:
    """The finished pictures by job and index."""
    return {
        (event.ref.job_id, event.ref.index): event.pixels
        for event in events
        if isinstance(event, Finished) and event.pixels is not None
    }


def largest_difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel."""
    from PIL import ImageChops

    return max(high for _, high in ImageChops.difference(one, other).getextrema())
