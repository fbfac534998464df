"""`darkroom show-params`: what made this picture, read from the picture itself."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from client.commands.failing import Failure, needs

app = typer.Typer()


@app.command()
def show_params(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A PNG, JPEG or WebP that Darkroom made.")],
) -> None:
    """Print the job request that makes this picture again, as JSON; its inputs are not in it."""
    with needs("server"):
        from common.images.encode import read_metadata
    try:
        recipe = read_metadata(file.read_bytes())
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise Failure(f"{file} is {error}") from error
    if recipe is None:
        raise Failure(f"{file} does not say how it was made: it is not Darkroom's, or was made with metadata off")
    print(_shown(recipe))


def _shown(recipe: dict[str, Any]) -> str:
    """Readable JSON; escaped to ASCII if the terminal could not show it, or would take it for a command."""
    text = json.dumps(recipe, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(recipe, indent=2)
    is_harmless = all(line.isprintable() for line in text.split("\n"))
    return text if is_harmless else json.dumps(recipe, indent=2)
