"""From a request to what will run: pure checks and choices before anything is stored."""

from dataclasses import dataclass
from typing import Final

from api.schemas.job_request import JobRequest
from common.db.tenants import Caller
from common.domain.catalogue import Catalogue, ModelCard, Task
from common.domain.errors import Denied, Invalid, Problem
from common.domain.fairness import Lane, predicted_seconds
from common.domain.params import EditParams, Output, Wishes, settle

_ORDER: Final = (Lane.LOW, Lane.NORMAL, Lane.HIGH)


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run, what of the request it leaves unused, and its cost in predicted device seconds."""

    card: ModelCard
    params: EditParams
    warnings: tuple[dict[str, str], ...]
    cost: float


def choose_card(request: JobRequest, catalogue: Catalogue) -> ModelCard:
    """The card of the wished model, by default the first; raises `Invalid` (`unknown_model`)."""
    return next(iter(catalogue)) if request.model is None else catalogue.require(request.model)


def choose_lane(request: JobRequest, caller: Caller) -> Lane:
    """The lane of the job; raises `Denied` (`forbidden`) above what the key may use."""
    highest = Lane(caller.max_priority)
    if request.priority is None:
        return min(Lane.NORMAL, highest, key=_ORDER.index)
    lane = Lane(request.priority)
    if _ORDER.index(lane) > _ORDER.index(highest):
        raise Denied(f"the key may use priority {highest} at most, not {lane}", code="forbidden")
    return lane


def make_plan(request: JobRequest, card: ModelCard, *, input_size: tuple[int, int] | None, random_seed: int) -> Plan:
    """Settle everything. `input_size` is that of the decoded image. Raises `Invalid` naming the field."""
    params = settle(_wishes(request), card, input_size=input_size, random_seed=random_seed)
    if params.task is Task.TXT2IMG and not params.prompt.strip():
        raise Invalid([Problem("/prompt", "validation_error", "txt2img needs a prompt")])
    cost = predicted_seconds(
        frames=params.num_images,
        steps=params.effective_steps,
        width=params.width,
        height=params.height,
        seconds_per_megapixel_step=card.seconds_per_megapixel_step,
    )
    return Plan(card, params, tuple(_warnings(request, params)), cost)


def _wishes(request: JobRequest) -> Wishes:
    return Wishes(
        prompt=request.prompt,
        task=Task(request.task) if request.task else None,
        negative_prompt=request.negative_prompt,
        strength=request.strength,
        guidance_scale=request.guidance_scale,
        num_inference_steps=request.num_inference_steps,
        num_images=request.num_images,
        seed=request.seed,
        width=request.width,
        height=request.height,
        output=Output(request.output.format, request.output.quality, request.output.metadata),
        deterministic=request.deterministic,
    )


def _warnings(request: JobRequest, params: EditParams) -> list[dict[str, str]]:
    """What was asked and is not done as asked."""
    found = {
        "/width": request.width not in (None, params.width) and "size_adjusted",
        "/height": request.height not in (None, params.height) and "size_adjusted",
        "/negative_prompt": request.negative_prompt and params.guidance_scale <= 1 and "guidance_off",
        "/output/quality": "quality" in request.output.model_fields_set
        and params.output.format == "png"
        and "lossless_format",
    }
    return [{"code": code, "pointer": pointer} for pointer, code in found.items() if code]
