"""`darkroom api`, `worker`, `courier`, `sweeper`, `migrate`, `up`: the processes of a deployment."""

from typing import Annotated

import typer

from client.commands.failing import Failure, needs, read_settings, require
from client.commands.options import DataDir

app = typer.Typer()

Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port to listen on.")]


@app.command()
def api(host: Host = None, port: Port = None) -> None:
    """Serve the HTTP API."""
    settings = read_settings(host=host, port=port)
    with needs("api"):
        from api.main import serve
        from common.logging import configure_logging
    configure_logging(settings, "api")
    serve(settings)


@app.command()
def worker(
    device: Annotated[
        list[str] | None, typer.Option(help="auto, cpu, mps or cuda:0; may be repeated, one process each.")
    ] = None,
    all_devices: Annotated[bool, typer.Option("--all-devices", help="One process for every device.")] = False,
    pool: Annotated[str | None, typer.Option(help="Pool to serve.")] = None,
) -> None:
    """Develop jobs: one process per device, replaced when it dies."""
    if device and all_devices:
        raise Failure("--device and --all-devices exclude each other", exit_code=2)
    settings = read_settings(pool=pool)
    for one in device or ():
        read_settings(device=one)
    require("worker", "torch", "diffusers")
    with needs("worker"):
        from common.logging import configure_logging
        from worker.launcher import all_devices as list_devices
        from worker.launcher import run
    configure_logging(settings, "launcher")
    raise typer.Exit(run(settings, list_devices() if all_devices else device or [settings.device]))


@app.command()
def courier() -> None:
    """Run the errands that need the network: webhooks, images by URL, batches."""
    settings = read_settings()
    with needs("server"):
        from courier.main import run
    raise typer.Exit(run(settings))


@app.command()
def sweeper() -> None:
    """Heal what was dropped: expired leases, passed deadlines."""
    settings = read_settings()
    with needs("server"):
        from sweeper.main import run
    raise typer.Exit(run(settings))


@app.command()
def migrate(
    revision: Annotated[str, typer.Option(help="Schema revision to go to, also an older one.")] = "head",
    bucket: Annotated[
        bool, typer.Option("--bucket", help="Also make the bucket of the store if it is missing.")
    ] = False,
) -> None:
    """Bring the database to the schema of this release."""
    settings = read_settings()
    with needs("server"):
        from common.db.engine import Database
        from common.db.migrate import migrate as bring_to
        from common.storage.open import open_store
        from common.storage.s3 import S3Store
    store = open_store(settings.store) if bucket else None
    if isinstance(store, S3Store):
        store.ensure_bucket()
    database = Database(settings.database)
    try:
        print(f"the schema is at {bring_to(database, revision)}")
    finally:
        database.close()


@app.command()
def up(
    host: Host = None,
    port: Port = None,
    data: DataDir = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one per device.")] = None,
) -> None:
    """Start everything on this machine, with nothing installed by hand. Ctrl-C stops it."""
    settings = read_settings(host=host, port=port, data_dir=data)
    require("all", "fastapi", "torch")
    with needs("all"):
        from deploy.local.stack import StackError, run_stack
    try:
        raise typer.Exit(run_stack(settings, workers))
    except StackError as error:
        raise Failure(str(error)) from error
