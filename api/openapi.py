"""The description of the surface: FastAPI's own, and the request bodies that are read by hand."""

from typing import Any, Final, get_args

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.batch_openapi import add_batch_bodies
from common.domain.webhook_events import TEST_EVENT
from common.requests.job import JobRequest
from common.requests.webhooks import BatchEvent, JobEvent, JobWebhookRequest
from common.webhook_body import LEFT_OUT

_EXAMPLE: Final = {
    "prompt": "a red circle on a white background",
    "image": {"data": "data:image/png;base64,iVBORw0KGgo…"},
    "strength": 0.6,
    "seed": 42,
    "output": {"format": "jpeg", "quality": 90},
}

_JOB_EVENTS: Final = get_args(JobEvent)
_DELIVERY_HEADERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "webhook-id": (
        "Of the event: the same for every webhook and at every attempt.",
        {"type": "string", "pattern": "^evt_[0-9a-f]{32}$"},
    ),
    "webhook-timestamp": ("When this attempt was made, in Unix seconds.", {"type": "integer"}),
    "webhook-signature": (
        "One signature for each secret in use, with a space between: `v1,` and the base64 of HMAC-SHA256 over "
        "`<webhook-id>.<webhook-timestamp>.<body>`.",
        {"type": "string", "pattern": "^v1,[A-Za-z0-9+/]{43}=( v1,[A-Za-z0-9+/]{43}=)*$"},
    ),
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
        )
        _add_job_bodies(document)
        add_batch_bodies(document)
        _mark_problems(document)
        _add_deliveries(document)
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


def _add_deliveries(document: dict[str, Any]) -> None:
    """What we send: one entry for each kind of event, as OpenAPI 3.1 has it."""
    schemas = document["components"]["schemas"]
    schemas["JobEventData"] = _event_data(schemas["Job"])
    schemas["BatchEventData"] = _batch_event_data(schemas["Batch"])
    kinds = (*_JOB_EVENTS, *get_args(BatchEvent), TEST_EVENT)
    document["webhooks"] = {kind: {"post": _delivery(kind)} for kind in kinds}


def _event_data(job: dict[str, Any]) -> dict[str, Any]:
    """The Job without what may quote the request."""
    shown = {name: field for name, field in job["properties"].items() if name not in LEFT_OUT}
    names = {"type": "array", "items": {"type": "string"}}
    truncated = {**names, "description": "Members that were cut so that the body stays below 20 kB."}
    return {
        "title": "JobEventData",
        "description": "The Job as it was when the event came about, without `params` and `warnings`.",
        "type": "object",
        "properties": {**shown, "truncated": truncated},
        "required": [name for name in job["required"] if name in shown],
    }


def _batch_event_data(batch: dict[str, Any]) -> dict[str, Any]:
    """The Batch, of which line errors and metadata may be cut."""
    truncated = {"type": "array", "items": {"type": "string"}, "description": "Members that were cut."}
    return {
        "title": "BatchEventData",
        "description": "The Batch at its end; `status` says which: a rejected one is told as `batch.completed` too.",
        "type": "object",
        "properties": {**batch["properties"], "truncated": truncated},
        "required": batch["required"],
    }


def _data_of(kind: str) -> dict[str, Any]:
    if kind == TEST_EVENT:
        return {"type": "object", "properties": {"webhook": {"type": "string"}}, "required": ["webhook"]}
    return _reference("BatchEventData" if kind in get_args(BatchEvent) else "JobEventData")


def _delivery(kind: str) -> dict[str, Any]:
    members = {
        "type": {"type": "string", "const": kind},
        "timestamp": {"type": "string", "format": "date-time", "description": "When it came about."},
        "data": _data_of(kind),
    }
    schema = {"type": "object", "properties": members, "required": list(members)}
    return {
        "tags": ["webhooks"],
        "summary": "Sent when somebody asks for it" if kind == TEST_EVENT else "Sent to webhooks that want this event",
        "description": "Signed as Standard Webhooks has it. Events may come twice and in another order.",
        "operationId": kind,
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": form}
            for name, (text, form) in _DELIVERY_HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "2XX": {"description": "Delivered."},
            "410": {"description": "Nothing is to be sent here any more: the webhook is disabled."},
            "default": {"description": "Tried again later."},
        },
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
