"""The description of the surface: FastAPI's own, and the request bodies that are read by hand."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.schemas.job_request import JobRequest
from api.schemas.webhooks import JobWebhookRequest

_EXAMPLE: Final = {
    "prompt": "a red circle on a white background",
    "image": {"data": "data:image/png;base64,iVBORw0KGgo…"},
    "strength": 0.6,
    "seed": 42,
    "output": {"format": "jpeg", "quality": 90},
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
        )
        _add_job_bodies(document)
        _mark_problems(document)
        app.openapi_schema = document
    return app.openapi_schema


def _add_job_bodies(document: dict[str, Any]) -> None:
    schema = JobRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= schema.pop("$defs") | {"JobRequest": schema, "JobForm": _form(schema)}
    document["paths"]["/v1/jobs"]["post"]["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": _reference("JobRequest"), "example": _EXAMPLE},
            "multipart/form-data": {"schema": _reference("JobForm")},
        },
    }


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    """The same fields in a form: the image is a file, members of objects have a dot in their names."""
    fields = {
        name: field
        for name, field in schema["properties"].items()
        if name not in {"image", "mask", "output", "refiner", "adapters", "steps", "webhook"}
    }
    image = {"type": "string", "format": "binary", "description": "PNG, JPEG or WebP."}
    output = {
        "output.format": {"type": "string", "enum": ["png", "jpeg", "webp"]},
        "output.quality": {"type": "integer", "minimum": 1, "maximum": 100},
        "output.metadata": {"type": "boolean"},
        "output.grid": {"type": "boolean"},
    }
    webhook = {
        "webhook.url": {"type": "string", "format": "uri", "description": "Where to tell of this job."},
        "webhook.events": JobWebhookRequest.model_json_schema()["properties"]["events"],
        "webhook.secret": {"type": "string", "writeOnly": True},
    }
    whole = {"type": "string", "description": "Instead of flat fields: the JSON request as one part."}
    properties = {"image": image, "mask": image, **fields, **output, **webhook, "request": whole}
    return {"title": "JobForm", "type": "object", "properties": properties}


def _mark_problems(document: dict[str, Any]) -> None:
    """Refusals are `application/problem+json`."""
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status[0] in "45" and "application/json" in response.get("content", {}):
                    response["content"] = {"application/problem+json": response["content"]["application/json"]}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
