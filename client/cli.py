"""The `darkroom` command."""

import sys
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from client.commands import access, batch, batches, doctor, follow, jobs, models, roles, show_params, webhooks
from client.commands.failing import Failure, needs
from client.commands.options import DataDir
from client.errors import ClientError, DarkroomAPIError
from client.plain_text import make_plain
from common.domain.errors import DarkroomError

app = typer.Typer(
    name="darkroom",
    help="An asynchronous job queue for diffusion image editing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for part in (jobs.app, batch.app, follow.app, webhooks.app, show_params.app, roles.app, doctor.app):
    app.add_typer(part)
app.add_typer(batches.app, name="batches")
app.add_typer(models.app, name="models")
app.add_typer(webhooks.endpoints, name="webhooks")
app.add_typer(access.keys, name="keys")
app.add_typer(access.tenants, name="tenants")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    data: DataDir = None,
    photo: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A photograph of yours instead of the sample.")
    ] = None,
) -> None:
    """Show the whole road on this machine: start, submit, develop, fetch, stop."""
    with needs("all"):
        from client.demo import run_demo
    raise typer.Exit(run_demo(out, data, photo))


@app.command()
def version() -> None:
    """Print the version."""
    print(installed_version("darkroom"))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0, 1 for what failed, 2 for what was asked wrongly."""
    try:
        app(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Failure as failure:
        return _say(str(failure), failure.exit_code)
    except DarkroomAPIError as error:
        return _say(error.describe(), 1)
    except (ClientError, DarkroomError, OSError) as error:
        return _say(str(error), 1)
    return 0


def main() -> None:
    """The console script."""
    sys.exit(run())


def _say(text: str, exit_code: int) -> int:
    print(f"darkroom: {make_plain(text, keep_lines=True)}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    main()
