"""The JSON Schema of a job request for one model: what its weights can do, its ranges, its own defaults."""

from typing import Any

from common.domain.capabilities import Task
from common.domain.catalogue import Catalogue, ModelCard
from common.requests.job import JobRequest

_MASK_FIELDS = (
    "mask",
    "mask_mode",
    "mask_blur",
    "mask_grow",
    "inpaint_area",
    "inpaint_padding",
    "preserve_unmasked",
)


def model_schema(card: ModelCard, catalogue: Catalogue) -> dict[str, Any]:
    """The schema. Fields that mean nothing to the model are left out; a chain's later steps may name other models."""
    schema = JobRequest.model_json_schema()
    fields = schema["properties"]
    for name in ("guidance_scale", "num_inference_steps"):
        fields[name]["default"] = getattr(card.defaults, name)
    fields["task"] = _choice(fields["task"], sorted(card.tasks))
    fields["scheduler"] = _choice(fields["scheduler"], list(card.capability.schedulers))
    fields["model"] = {"const": card.id, "default": card.id, "title": "Model"}
    for name in ("width", "height"):
        _restrict(fields[name], "integer", multipleOf=card.capability.size_step)
    _shape_inputs(fields, card)
    _shape_extras(schema, card, catalogue)
    return schema


def _shape_inputs(fields: dict[str, Any], card: ModelCard) -> None:
    if card.tasks - card.capability.without_strength:
        fields["strength"]["default"] = card.defaults.strength
    else:
        del fields["strength"]
    if Task.INPAINT not in card.tasks:
        for name in _MASK_FIELDS:
            del fields[name]
    if card.tasks == {Task.TXT2IMG}:
        del fields["image"]


def _shape_extras(schema: dict[str, Any], card: ModelCard, catalogue: Catalogue) -> None:
    fields, definitions = schema["properties"], schema["$defs"]
    refiners = [one.id for one in catalogue if one.family == card.capability.refined_by]
    if refiners:
        definitions["RefinerRequest"]["properties"]["model"]["examples"] = refiners
    else:
        del fields["refiner"]
    if card.adapters:
        definitions["AdapterRequest"]["properties"]["id"] |= {"enum": sorted(card.adapters)}
    else:
        del fields["adapters"]


def _choice(field: dict[str, Any], allowed: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: field[name] for name in ("title", "default", "description") if name in field}
    return {"anyOf": [{"enum": allowed, "type": "string"}, {"type": "null"}], **kept}


def _restrict(field: dict[str, Any], kind: str, **limits: Any) -> None:
    for choice in field["anyOf"]:
        if choice.get("type") == kind:
            choice |= limits
