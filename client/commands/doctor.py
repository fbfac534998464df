"""`darkroom doctor`: is everything there that this machine needs, and if not, what to do."""

import typer
from rich.console import Console
from rich.table import Table

from client.commands.failing import needs, read_settings

app = typer.Typer()
_console = Console()

_STYLES = {"ok": "green", "absent": "yellow", "fail": "bold red"}


@app.command()
def doctor() -> None:
    """Check database, broker, store, webhooks, device and models of these settings; exit 1 when one fails."""
    settings = read_settings()
    with needs("server"):
        from client.checks import Health, examine
    findings = list(examine(settings))
    table = Table("part", "", box=None)
    table.add_column("what was found", overflow="fold")
    table.add_column("what to do", overflow="fold")
    for finding in findings:
        style = _STYLES[finding.health]
        table.add_row(finding.part, f"[{style}]{finding.health}[/]", finding.detail, finding.remedy)
    _console.print(table)
    if any(finding.health is Health.FAIL for finding in findings):
        raise typer.Exit(1)


@app.command()
def alive() -> None:
    """Whether a worker of this host lives, for the health checks of containers; exit 1 when none does."""
    settings = read_settings()
    with needs("server"):
        from client.checks import Health, check_worker
    finding = check_worker(settings)
    print(finding.detail)
    if finding.health is Health.FAIL:
        raise typer.Exit(1)
