"""From a request to what will run: pure checks and choices before anything is stored."""

from dataclasses import dataclass
from typing import Any, Final

from api.schemas.job_request import JobRequest
from common.db.tenants import Caller
from common.domain.catalogue import Catalogue, ModelCard
from common.domain.errors import Denied
from common.domain.fairness import Lane, predicted_cost
from common.domain.params import EditParams
from common.domain.settling import Given, settle
from common.domain.sizes import Size
from common.domain.wishes import wishes_of

_ORDER: Final = (Lane.LOW, Lane.NORMAL, Lane.HIGH)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The pictures of a job: their (width, height) where there is one, None where it is not known yet."""

    has_image: bool = False
    has_mask: bool = False
    image_size: Size | None = None
    mask_size: Size | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run, what of the request it leaves unused, and its cost in predicted device seconds."""

    card: ModelCard
    params: EditParams
    warnings: tuple[dict[str, str], ...]
    cost: float


def choose_lane(request: JobRequest, caller: Caller) -> Lane:
    """The lane of the job; raises `Denied` (`forbidden`) above what the key may use."""
    highest = Lane(caller.max_priority)
    if request.priority is None:
        return min(Lane.NORMAL, highest, key=_ORDER.index)
    lane = Lane(request.priority)
    if _ORDER.index(lane) > _ORDER.index(highest):
        raise Denied(f"the key may use priority {highest} at most, not {lane}", code="forbidden")
    return lane


def make_plan(request: JobRequest, catalogue: Catalogue, inputs: Inputs, *, random_seed: int) -> Plan:
    """Settle everything. Raises `Invalid` naming the field.

    An image whose size is not known yet (a URL) counts as one of the model's native size; its courier settles again.
    """
    wishes = wishes_of(request.model_dump(mode="json", exclude={"image", "mask"}))
    size = inputs.image_size
    if inputs.has_image and size is None:
        native = catalogue.default if request.model is None else catalogue.require(request.model)
        size = (native.native_size, native.native_size)
    params = settle(wishes, catalogue, Given(size, has_mask=inputs.has_mask), random_seed=random_seed)
    card = catalogue.require(params.model)
    return Plan(card, params, tuple(_warnings(request, params, inputs)), predicted_cost(params, catalogue))


def _warnings(request: JobRequest, params: EditParams, inputs: Inputs) -> list[dict[str, str]]:
    """What was asked and is not done as asked."""
    is_lossy = params.output.format != "png"
    preserves = params.mask is not None and params.mask.preserve_unmasked
    found: dict[str, Any] = {
        "/width": request.width not in (None, params.width) and "size_adjusted",
        "/height": request.height not in (None, params.height) and "size_adjusted",
        "/negative_prompt": request.negative_prompt and params.guidance_scale <= 1 and "guidance_off",
        "/output/quality": "quality" in request.output.model_fields_set and not is_lossy and "lossless_format",
        "/mask": inputs.mask_size not in (None, inputs.image_size) and "mask_resized",
        "/output/format": is_lossy and preserves and "lossy_output",
    }
    return [{"code": code, "pointer": pointer} for pointer, code in found.items() if code]
