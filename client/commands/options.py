"""Options that several commands share, and the forms in which people write sizes and durations."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from client.sdk import Darkroom

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Url = Annotated[str, typer.Option("--url", envvar="DARKROOM_URL", help="Address of the server.")]
Key = Annotated[
    str | None, typer.Option("--key", envvar="DARKROOM_KEY", help="API key, where the server asks for one.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A field of the request, as JSON or text; null: its default."),
]
DataDir = Annotated[Path | None, typer.Option("--data", help="Folder of everything embedded.")]
Json = Annotated[bool, typer.Option("--json", help="Print the server's JSON.")]

LOCAL_SERVER = "http://127.0.0.1:8000"
_RETRY_SECONDS = 5


def open_server(url: str, key: str | None) -> Darkroom:
    """The server that the options name."""
    return Darkroom(url, key, retry_seconds=_RETRY_SECONDS)


def parse_size(text: str | None) -> tuple[int | None, int | None]:
    """Width and height of `512x768`, in pixels; raises `typer.BadParameter` for anything else."""
    if text is None:
        return None, None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise typer.BadParameter(f"a size is WIDTHxHEIGHT in pixels, such as 512x768, not {text!r}")
    return int(match[1]), int(match[2])


def parse_assignments(texts: Sequence[str]) -> dict[str, str]:
    """The names and values of `name=value`; raises `typer.BadParameter` for anything else, and for a name twice."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise typer.BadParameter(f"give name=value, not {name!r}")
    values = {name: value for name, _, value in pairs}
    if len(values) < len(pairs):
        raise typer.BadParameter("a name is given twice")
    return values


def parse_overrides(texts: Sequence[str] | None) -> dict[str, Any]:
    """The fields of a job request in `field=value`, whose values are JSON or else text. Raises `typer.BadParameter`."""
    fields = {name: _value(text) for name, text in parse_assignments(texts or []).items()}
    if "idempotency_key" in fields:
        raise typer.BadParameter("an idempotency key is a header and no member of a job request")
    return fields


def parse_duration(text: str | None) -> float | None:
    """Seconds of `90s`, `30m`, `12h` or `30d`; raises `typer.BadParameter` for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"a duration is a number with s, m, h or d, such as 30d, not {text!r}")
    return float(int(match[1]) * _SECONDS[match[2]])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
