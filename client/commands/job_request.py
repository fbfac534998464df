"""The job request of `darkroom submit`: what a request file says, and the options over it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer

from client.commands.options import parse_size
from client.sdk import Darkroom

_ROLES: Final = ("image", "mask")
_OUTPUT: Final = ("format", "quality", "grid")
_FIELDS: Final = (
    "prompt",
    "model",
    "negative_prompt",
    "strength",
    "seed",
    "num_inference_steps",
    "steps_mode",
    "guidance_scale",
    "scheduler",
    "num_images",
    "resize",
    "mask_mode",
    "mask_blur",
    "mask_grow",
    "inpaint_area",
)


def build_request(options: Mapping[str, Any]) -> dict[str, Any]:
    """The members of the request, for `Darkroom.submit`; local pictures are paths, or `{"file": path}`.

    `options` are the values of the command line by parameter name. Raises `typer.BadParameter` for what cannot be meant
    and for a file that holds no request.
    """
    request = build_fields(options) | _inputs(options)
    if not request:
        raise typer.BadParameter("give a picture, a --prompt or a --request")
    return request


def build_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The members of the request that are no pictures of the command line. Raises as `build_request`."""
    request = read_request(Path(options["request"])) if options["request"] else {}
    request |= {name: options[name] for name in _FIELDS if options[name] is not None}
    width, height = parse_size(options["size"])
    request |= {"width": width, "height": height} if width else {}
    output = {name: options[name] for name in _OUTPUT if options[name] not in (None, False)}
    if output:
        request["output"] = {**request.get("output", {}), **output}
    return request


def read_request(path: Path) -> dict[str, Any]:
    """The job request in a JSON file, where `{"file": …}` is relative to it. Raises `typer.BadParameter`, OSError."""
    try:
        request = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("output", {}), dict):
        raise typer.BadParameter(f"{path} is not a job request: a JSON object, and so is its output")
    if "idempotency_key" in request:
        raise typer.BadParameter(f"{path}: an idempotency key is a header and no member of a job request")
    for role in _ROLES:
        if role in request:
            request[role] = _located(request[role], path, role)
    return request


def send_files(server: Darkroom, request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with each `{"file": path}` uploaded and named. Raises OSError for one that cannot be read."""
    files = {role: _file_of(request.get(role)) for role in _ROLES}
    uploads = {role: server.upload(file) for role, file in files.items() if file is not None}
    return {**request, **uploads}


def _inputs(options: Mapping[str, Any]) -> dict[str, Any]:
    if options["file"] and options["image_url"]:
        raise typer.BadParameter("the picture is given twice: as a file and as --image-url")
    given = {
        "image": {"url": options["image_url"]} if options["image_url"] else options["file"],
        "mask": options["mask"],
    }
    return {role: source for role, source in given.items() if source is not None}


def _located(source: Any, path: Path, role: str) -> Any:
    if not isinstance(source, dict | None):
        raise typer.BadParameter(f'{path}: {role} must be an object such as {{"file": "photo.jpg"}} or {{"url": "…"}}')
    file = _file_of(source)
    return source if file is None else {"file": path.parent / file}


def _file_of(source: Any) -> Path | None:
    """The path of `{"file": path}`; None for any other source."""
    if not isinstance(source, dict) or source.keys() != {"file"} or not isinstance(source["file"], str | Path):
        return None
    return Path(source["file"])
