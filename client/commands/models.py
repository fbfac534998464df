"""`darkroom models list|pull|verify`: the catalogue, and the weights on this machine."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.commands.failing import Failure, needs, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.domain.catalogue import ModelCard
    from common.settings import Settings
    from worker.checkpoints import Shelf

app = typer.Typer(no_args_is_help=True, help="The catalogue, and the weights on this machine.")
_console = Console()

ModelIds = Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Ids of the catalogue.")]


@app.command(name="list")
def list_models() -> None:
    """List the catalogue."""
    table = Table("model", "title", "tasks", "size", "licence", "weights", box=None)
    for card in _cards(read_settings()):
        source = card.source
        where = source.repository or source.directory or "ships with Darkroom"
        table.add_row(card.id, card.title, ", ".join(sorted(card.tasks)), str(card.native_size), card.licence, where)
    _console.print(table)


@app.command()
def pull(models: ModelIds = None) -> None:
    """Fetch the weights of models from the hub before they are needed."""
    if not models:
        raise Failure("which model? `darkroom models list` shows what there is", exit_code=2)
    settings = read_settings()
    cards = _cards(settings, models)
    with needs("worker"):
        from worker.checkpoints import pull as fetch
        from worker.device import pick_device
    device = pick_device(settings.device)
    for card in cards:
        folder = fetch(card, _shelf(settings), variant=device.variant_of(card.variant))
        print(f"{card.id}: {folder}")


@app.command()
def verify(models: ModelIds = None) -> None:
    """Check the weights on this machine without loading them; by default those of every model."""
    settings = read_settings()
    cards = _cards(settings, models)
    with needs("worker"):
        from worker.checkpoints import verify as examine
    shelf = _shelf(settings)
    problems = {card.id: examine(card, shelf) for card in cards}
    for model_id, found in problems.items():
        print("\n".join(found) or f"{model_id}: ok")
    if any(problems.values()):
        raise typer.Exit(1)


def _cards(settings: "Settings", models: "Sequence[str] | None" = None) -> "list[ModelCard]":
    from common.catalogue_file import load_catalogue

    try:
        catalogue = load_catalogue(settings)
    except ValueError as error:
        raise Failure(str(error), exit_code=2) from error
    return [catalogue.require(model_id) for model_id in models] if models else list(catalogue)


def _shelf(settings: "Settings") -> "Shelf":
    from worker.checkpoints import Shelf

    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    return Shelf(settings.models_dir, token, may_download=True)
