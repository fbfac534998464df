"""The description of the body of `POST /v1/batches`, which is read by hand."""

from typing import Any, Final

from api.schemas.batch_results import ResultLine
from api.schemas.batches import BatchEnvelope, BatchRequest
from common.domain.batch import MOST_CUSTOM_ID

_PATH: Final = "/v1/batches"
_TEMPLATE: Final = "#/components/schemas/{model}"
_EXAMPLE: Final = {
    "name": "product pictures",
    "defaults": {"prompt": "on a white table, soft light", "strength": 0.6, "output": {"format": "jpeg"}},
    "items": [
        {"custom_id": "chair", "image": {"upload": "upl_0192f3a1b2c37d4e8f90a1b2c3d4e5f6"}, "seed": 42},
        {"custom_id": "lamp", "image": {"url": "https://pictures.example/lamp.png"}, "strength": 0.4},
    ],
}
_LINE: Final = {"custom_id": "chair", "image": {"upload": "upl_0192f3a1b2c37d4e8f90a1b2c3d4e5f6"}, "seed": 42}


def add_batch_bodies(document: dict[str, Any]) -> None:
    """Put it, and the line of results, into an OpenAPI document that has the schema JobRequest."""
    schemas = document["components"]["schemas"]
    fields = {
        name: field
        for name, field in schemas["JobRequest"]["properties"].items()
        if name not in {"priority", "webhook"}
    }
    schemas["BatchDefaults"] = _object("BatchDefaults", fields, "What every line has unless it says otherwise.")
    own_id = {"type": "string", "minLength": 1, "maxLength": MOST_CUSTOM_ID, "description": "Unique in the batch."}
    about = "A line: fields of a job request, over the defaults. null is back to the default of the field."
    schemas["BatchLine"] = _object("BatchLine", {"custom_id": own_id, **fields}, about)
    for model in (BatchEnvelope, BatchRequest, ResultLine):
        schema = model.model_json_schema(ref_template=_TEMPLATE)
        schemas |= schema.pop("$defs") | {model.__name__: schema}
    for name in ("BatchEnvelope", "BatchRequest"):
        schemas[name]["properties"]["defaults"] = _reference("BatchDefaults")
    (items,) = (one for one in schemas["BatchRequest"]["properties"]["items"]["anyOf"] if one.get("type") == "array")
    items["items"] = _reference("BatchLine")
    document["paths"][_PATH]["post"]["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": _reference("BatchRequest"), "example": _EXAMPLE},
            "multipart/form-data": {"schema": _form(), "encoding": {"request": {"contentType": "application/json"}}},
        },
    }


def _form() -> dict[str, Any]:
    manifest = {
        "type": "string",
        "format": "binary",
        "description": "JSON Lines, each a BatchLine; at most 100,000 lines and 200 MiB. Blank lines do not count.",
        "example": str(_LINE).replace("'", '"'),
    }
    properties = {"request": _reference("BatchEnvelope"), "manifest": manifest}
    return {"type": "object", "properties": properties, "required": ["manifest"], "additionalProperties": False}


def _object(title: str, properties: dict[str, Any], description: str) -> dict[str, Any]:
    members = {"title": title, "description": description, "type": "object", "properties": properties}
    return members | {"additionalProperties": False}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _TEMPLATE.format(model=name)}
