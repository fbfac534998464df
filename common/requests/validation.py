"""From Pydantic's errors to ours: a JSON pointer, a stable code, a sentence, and what is allowed instead."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from common.domain.errors import Invalid, Problem, nearest
from common.requests.base import UNFIT
from common.requests.job import JobRequest

Schema = Mapping[str, Any]
Location = Sequence[str | int]
Model = TypeVar("Model", bound=BaseModel)

MAX_PROBLEMS: Final = 20
_MAX_ECHO: Final = 80
# A guess costs a thousand times as much as what it is for; nobody reads more of them.
_MOST_GUESSES: Final = 5
_OWN_CODES: Final = frozenset({"validation_error", "image_unreadable", "image_too_large"})
_LIMITS: Final = (
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
)
# What Pydantic calls the keywords of JSON Schema where it tells of a parameter, and how it lists what is allowed.
_KEYWORDS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
}
_QUOTED: Final = re.compile("'([^']*)'")
_TYPE_NAMES: Final = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}
_PHRASES: Final = {
    "exclusiveMinimum": "greater than {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "less than {}",
    "maximum": "at most {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} keys",
}


def parse_job_request(members: Mapping[str, Any]) -> JobRequest:
    """The typed request; raises `Invalid` naming every wrong field."""
    return parse_as(JobRequest, members)


def parse_as(model: type[Model], members: Mapping[str, Any]) -> Model:
    """The typed body of any request; raises as `parse_job_request` does."""
    try:
        return model.model_validate(members)
    except ValidationError as error:
        found = error.errors(include_url=False)[:MAX_PROBLEMS]
        raise Invalid([_problem(one, model, guesses=at < _MOST_GUESSES) for at, one in enumerate(found)]) from None


def query_problems(errors: Sequence[Any]) -> list[Problem]:
    """The problems of query parameters and headers, as FastAPI found them; pointers start with `/query/` and so on."""
    return [_query_problem(error) for error in errors[:MAX_PROBLEMS]]


def field_schema(location: Location, model: type[BaseModel] = JobRequest) -> Schema:
    """The JSON Schema of a field of the job request, or of another model; empty for one that does not exist."""
    root = _schema_of(model)
    node = _resolve(root, root)
    for part in location:
        child = node.get("properties", {}).get(part) or node.get("items") or node.get("additionalProperties")
        node = _resolve(child, root) if isinstance(child, dict) else {}
    return node


def unknown_names(pointer: str, names: Iterable[str], known: Sequence[str]) -> list[Problem]:
    """The problems of names that do not exist in the object at `pointer`: at most `MAX_PROBLEMS`."""
    return [
        unknown_name(pointer + pointer_to([name]), name, known, guesses=at < _MOST_GUESSES)
        for at, name in enumerate(islice(names, MAX_PROBLEMS))
    ]


def unknown_name(pointer: str, name: str, known: Sequence[str], *, guesses: bool = True) -> Problem:
    """The problem of a name that does not exist; if it `guesses`, with the known one that was most likely meant."""
    shown = clip(name)
    detail = f"there is no {shown!r}"
    guess = nearest(shown, known) if guesses else None
    detail += f"; did you mean {guess!r}?" if guess else ""
    return Problem(pointer, "unknown_field", detail, None if guess else sorted(known), guess)


def pointer_to(location: Location) -> str:
    """The JSON pointer (RFC 6901) of a place in the body; very long names are cut."""
    return "".join("/" + clip(str(part)).replace("~", "~0").replace("/", "~1") for part in location)


def name_of(location: Location) -> str:
    """How a sentence names a place in the body: its field, and which item of it, such as `events[0]`."""
    names = [number for number, part in enumerate(location) if isinstance(part, str)]
    last = names[-1] if names else 0
    indexes = "".join(f"[{part}]" for part in location[last + bool(names) :])
    return (clip(str(location[last])) if names else "the request") + indexes


def clip(text: str) -> str:
    """At most 80 characters of what a client sent, for repeating it to the client; escaped what nothing can hold."""
    return _escape(text if len(text) <= _MAX_ECHO else text[:_MAX_ECHO] + "…")


def _escape(text: str) -> str:
    return UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@cache
def _schema_of(model: type[BaseModel]) -> Schema:
    return model.model_json_schema()


def _resolve(node: Schema, root: Schema) -> Schema:
    for choice in node.get("anyOf", ()):
        if choice.get("type") != "null":
            node = choice
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return _resolve(root["$defs"][name], root)
    return node


def _problem(error: Any, model: type[BaseModel], *, guesses: bool) -> Problem:
    location = [part for part in error["loc"] if part != "[key]"]
    pointer = pointer_to(location)
    if error["type"] == "extra_forbidden":
        known = list(field_schema(location[:-1], model).get("properties", {}))
        return unknown_name(pointer, str(location[-1]), known, guesses=guesses)
    name = name_of(location)
    if error["type"] in _OWN_CODES:
        return Problem(pointer, error["type"], f"{name}: {_escape(error['msg'])}")
    if error["type"] == "missing":
        return Problem(pointer, "validation_error", f"{name} is required")
    schema = field_schema(location, model)
    detail = f"{name} must be {_describe(schema)}, not {_echo(error['input'])}"
    return Problem(pointer, "validation_error", detail, _allowed(schema))


def _describe(schema: Schema) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    limits = [_PHRASES[name].format(f"{schema[name]:g}") for name in _PHRASES if name in schema]
    kind = _TYPE_NAMES.get(schema.get("type", ""), "valid Unicode text as keys")
    return f"{kind}, {' and '.join(limits)}" if limits else kind


def _allowed(schema: Schema) -> Any:
    if "enum" in schema:
        return list(schema["enum"])
    return {name: schema[name] for name in _LIMITS if name in schema} or None


def _echo(value: Any) -> str:
    if isinstance(value, str):
        return repr(clip(value)) if len(value) <= _MAX_ECHO else f"{len(value)} characters"
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return clip(json.dumps(value, default=lambda _: "that"))


def _query_problem(error: Any) -> Problem:
    location = [str(part) for part in error["loc"]]
    return Problem(pointer_to(location), "validation_error", f"{location[-1]}: {error['msg']}", _query_allowed(error))


def _query_allowed(error: Any) -> Any:
    """As `_allowed` tells it of a field of the body."""
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        return _QUOTED.findall(context["expected"])
    return {keyword: context[name] for name, keyword in _KEYWORDS.items() if name in context} or None
