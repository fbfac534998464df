"""From a claimed job and its inputs to frames that can join. Needs the CPU only: no model, no torch, any thread."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from common.domain.batching import pass_key
from common.domain.capabilities import Task
from common.domain.errors import JobFailure
from common.domain.job import ClaimedJob
from common.domain.params import EditParams, PassParams
from common.images.canonical import on_white, open_canonical
from worker.engine.port import Finished, FrameRef, HandsOn, Prepared
from worker.handover import Handover, unpack
from worker.pictures.canvas import Canvas, make_canvas
from worker.pictures.geometry import prepare_picture

IMAGE_ROLE = "image"
MASK_ROLE = "mask"

MayHandLatents = Callable[[PassParams, PassParams], bool]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a job begins or goes on: the frames that may join, and pictures of earlier passes that are results."""

    frames: Sequence[Prepared]
    kept: Sequence[Finished] = ()


def step_role(number: int) -> str:
    """The name of the stored output of pass `number` among a job's inputs."""
    return f"step-{number}"


def never(_before: PassParams, _after: PassParams) -> bool:
    """Hand pixels on, always."""
    return False


def prepare_frames(job: ClaimedJob, inputs: Mapping[str, bytes], may_hand_latents: MayHandLatents = never) -> Start:
    """One frame per image of the job, in its first pass or in the first that no earlier attempt has finished.

    `inputs` are our own PNGs by role, and stored steps by `step_role`; a step that is missing or damaged is run again.
    Raises `JobFailure`: `input_missing` when an input is not there, `image_unreadable` when it is not a picture.
    """
    frames = _first_frames(job, inputs, _handovers(job.params, may_hand_latents))
    done = _readable_steps(job, inputs)
    while done and not _is_enough(done[-1], frames[0].handovers[len(done) - 1]):
        done.pop()
    if not done:
        return Start(frames)
    kept = [one for number, step in enumerate(done) for one in _kept(job, number, step)]
    last = len(done) - 1
    # As in an uninterrupted run, the canvas stays for the refiners that follow its own pass at once.
    is_refining = all(one.refines for one in job.params.passes[1 : last + 1])
    resumed = [replace(frame, number=last, canvas=frame.canvas if is_refining else None) for frame in frames]
    return Start([next_frame(frame, _output(frame, last, done[last])) for frame in resumed], kept)


def next_frame(frame: Prepared, made: Finished) -> Prepared:
    """The frame in its next pass, from what the pass before made of it."""
    number = frame.number + 1
    params = frame.job.params.passes[number]
    canvas = frame.canvas if params.refines else None
    latents = made.latents if frame.hands_on == "latents" else None
    picture = None
    if latents is None:
        if made.pixels is None:
            raise ValueError("a pass that hands pixels on has made none")
        picture = prepare_picture(made.pixels, (params.width, params.height), params.resize)
        if canvas is not None:
            canvas = canvas.over(picture)
            picture = canvas.model_image
    return replace(
        frame,
        number=number,
        params=params,
        seed=params.seed_of(frame.ref.index),
        image=picture,
        mask=canvas.model_mask if canvas and params.task is Task.INPAINT else None,
        latents=latents,
        canvas=canvas,
        call_key=_key(frame.job, params),
    )


def complete(frame: Prepared, picture: Image.Image) -> Image.Image:
    """What was made of a masked picture, back in its place; any other picture as it is."""
    return picture if frame.canvas is None else frame.canvas.complete(picture)


def strangers(frame: Prepared, company: Sequence[Prepared]) -> int:
    """How many frames of other jobs shared the work of this one: `batched_with` in the job's metrics."""
    return sum(other.ref.job_id != frame.ref.job_id for other in company)


def _first_frames(job: ClaimedJob, inputs: Mapping[str, bytes], handovers: tuple[HandsOn, ...]) -> list[Prepared]:
    params = job.params
    canvas = _canvas(params, inputs) if params.task is Task.INPAINT else None
    picture = canvas.model_image if canvas else _picture(params, inputs) if params.task is Task.IMG2IMG else None
    return [
        Prepared(
            ref=FrameRef(job.id, job.fence, index),
            job=job,
            number=0,
            params=params,
            seed=params.seed_of(index),
            image=picture,
            mask=canvas.model_mask if canvas else None,
            latents=None,
            canvas=canvas,
            call_key=_key(job, params),
            handovers=handovers,
            original=canvas.prepared if canvas else picture,
        )
        for index in range(params.num_images)
    ]


def _key(job: ClaimedJob, params: PassParams) -> str:
    return pass_key(params, job.id, deterministic=job.params.deterministic)


def _handovers(params: EditParams, may_hand_latents: MayHandLatents) -> tuple[HandsOn, ...]:
    pairs = zip(params.passes, params.then, strict=False)
    return tuple(_handover(before, after, may_hand_latents) for before, after in pairs)


def _handover(before: PassParams, after: PassParams, may_hand_latents: MayHandLatents) -> HandsOn:
    """Unfinished latents must be handed on as they are; finished ones where nothing was laid over their pixels."""
    if after.denoising_start is not None:
        return "latents"
    same_size = (before.width, before.height) == (after.width, after.height)
    is_plain = before.task is not Task.INPAINT and after.task is Task.IMG2IMG
    return "latents" if same_size and is_plain and may_hand_latents(before, after) else "pixels"


def _picture(params: EditParams, inputs: Mapping[str, bytes]) -> Image.Image:
    return prepare_picture(on_white(_decode(inputs, IMAGE_ROLE)), (params.width, params.height), params.resize)


def _canvas(params: EditParams, inputs: Mapping[str, bytes]) -> Canvas:
    mask = _decode(inputs, MASK_ROLE) if MASK_ROLE in inputs else None
    return make_canvas(_decode(inputs, IMAGE_ROLE), mask, params)


def _decode(inputs: Mapping[str, bytes], role: str) -> Image.Image:
    if role not in inputs:
        raise JobFailure(f"the job's input {role} is not there", code="input_missing")
    try:
        return open_canonical(inputs[role])
    except (OSError, ValueError, SyntaxError) as error:
        raise JobFailure(f"the job's input {role} cannot be read", code="image_unreadable") from error


def _readable_steps(job: ClaimedJob, inputs: Mapping[str, bytes]) -> list[Handover]:
    """The finished passes from the first on; the row ends where one cannot be used."""
    found: list[Handover] = []
    for step in job.done_steps:
        data = inputs.get(step_role(step.number))
        if data is None or step.number != len(found) or hashlib.sha256(data).hexdigest() != step.sha256:
            break
        try:
            found.append(unpack(data))
        except ValueError:
            break
    return found


def _is_enough(step: Handover, wanted: HandsOn) -> bool:
    """False when this worker hands on what the attempt that stored the step did not."""
    return (step.latents if wanted == "latents" else step.pictures) is not None


def _kept(job: ClaimedJob, number: int, step: Handover) -> list[Finished]:
    if number not in job.params.kept_passes or step.pictures is None:
        return []
    return [
        Finished(FrameRef(job.id, job.fence, index), picture, {}, number=number, is_stored=True)
        for index, picture in enumerate(step.pictures)
    ]


def _output(frame: Prepared, number: int, step: Handover) -> Finished:
    index = frame.ref.index
    pixels = None if step.pictures is None else step.pictures[index]
    latents = None if step.latents is None else step.latents[index]
    return Finished(frame.ref, pixels, {}, latents, number)
