"""From a request to what will run: pure checks and choices before anything is stored."""

from dataclasses import dataclass
from typing import Final

from common.db.tenants import Caller
from common.domain.catalogue import Catalogue, ModelCard
from common.domain.errors import Denied, Invalid, Problem
from common.domain.fairness import Lane, predicted_cost
from common.domain.params import EditParams
from common.domain.remarks import SIZE_CODES, remarks
from common.domain.settling import Given, settle
from common.domain.sizes import Size
from common.domain.wishes import Wishes, wishes_of
from common.requests.job import JobRequest

_ORDER: Final = (Lane.LOW, Lane.NORMAL, Lane.HIGH)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The pictures of a job: their (width, height) where there is one, None where it is not known yet.

    `is_opaque`: the image is known to have no transparent part.
    """

    has_image: bool = False
    has_mask: bool = False
    image_size: Size | None = None
    mask_size: Size | None = None
    is_opaque: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run, what of the request it leaves unused, and its cost in predicted device seconds."""

    card: ModelCard
    params: EditParams
    warnings: tuple[dict[str, str], ...]
    cost: float


def choose_lane(priority: str | None, caller: Caller) -> Lane:
    """The lane of this priority; raises `Denied` (`forbidden`) above what the key may use."""
    if priority is None:
        return bounded_lane(Lane.NORMAL, caller)
    lane = Lane(priority)
    if lane is not bounded_lane(lane, caller):
        raise Denied(f"the key may use priority {caller.max_priority} at most, not {lane}", code="forbidden")
    return lane


def bounded_lane(lane: Lane, caller: Caller) -> Lane:
    """This lane, or the highest that the key may use if that is lower."""
    return min(lane, Lane(caller.max_priority), key=_ORDER.index)


def make_plan(request: JobRequest, catalogue: Catalogue, inputs: Inputs, *, random_seed: int) -> Plan:
    """Settle everything. Raises `Invalid` naming the field.

    An image whose size is not known yet (a URL) counts as one of the model's native size; its courier settles again.
    """
    if request.mask_mode == "alpha" and inputs.is_opaque and not inputs.has_mask:
        detail = "mask_mode alpha needs a mask, or an image with transparent parts"
        raise Invalid([Problem("/mask", "mask_missing", detail)])
    wishes = wishes_of(request.model_dump(mode="json", exclude={"image", "mask"}))
    size = inputs.image_size
    if inputs.has_image and size is None:
        native = catalogue.default if request.model is None else catalogue.require(request.model)
        size = (native.native_size, native.native_size)
    params = settle(wishes, catalogue, Given(size, has_mask=inputs.has_mask), random_seed=random_seed)
    card = catalogue.require(params.model)
    return Plan(card, params, tuple(_warnings(request, wishes, params, inputs)), predicted_cost(params, catalogue))


def _warnings(request: JobRequest, wishes: Wishes, params: EditParams, inputs: Inputs) -> list[dict[str, str]]:
    """What is not done as asked. Sizes are spoken of only when that of the image is known."""
    found = remarks(wishes, params, image=inputs.image_size, mask=inputs.mask_size)
    if inputs.has_image and inputs.image_size is None:
        found = [one for one in found if one["code"] not in SIZE_CODES]
    if "quality" in request.output.model_fields_set and params.output.format == "png":
        found.append({"code": "lossless_format", "pointer": "/output/quality"})
    return found
