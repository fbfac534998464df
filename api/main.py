"""The API process: the app, and serving it. Importing this opens nothing and loads no model library."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from threading import Event
from typing import Final

from anyio import to_thread
from fastapi import FastAPI

from api.auth import check_door
from api.batch_bodies import MOST_BODY_BYTES
from api.body_pace import BodyPace
from api.dependencies import Bell, Decoder, UrlCheck
from api.errors import install_error_handlers
from api.head import HeadAsGet
from api.live.poller import Poller, running
from api.metrics import Metrics
from api.middleware import BodyLimit, Envelope
from api.openapi import describe
from api.parts import Parts, open_services
from api.routes import batch_results, batches, deliveries, events, images, jobs, operations, uploads, usage, webhooks
from api.routes import catalogue as catalogue_routes
from api.server import run_server
from common import failpoints
from common.db.engine import Database
from common.domain.catalogue import Catalogue
from common.settings import Settings
from common.storage.port import ObjectStore
from common.vault import Vault

_READ_THREADS: Final = 16


def create_app(
    settings: Settings,
    *,
    database: Database | None = None,
    store: ObjectStore | None = None,
    doorbell: Bell | None = None,
    decoder: Decoder | None = None,
    catalogue: Catalogue | None = None,
    outbound: UrlCheck | None = None,
    vault: Vault | None = None,
    draining: Event | None = None,
) -> FastAPI:
    """The app. What is not handed in is opened when it starts and closed when it ends.

    `draining`, once set, turns the readiness probe. Raises ValueError for an address that is open without keys.
    """
    check_door(settings)
    metrics, draining = Metrics(), draining or Event()
    parts = Parts(database, store, doorbell, decoder, catalogue, outbound, vault)
    app = FastAPI(
        title="Darkroom",
        summary="An asynchronous job queue for diffusion image editing.",
        version="0.1.0",
        openapi_url="/openapi.json" if settings.docs else None,
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        lifespan=_lifespan(settings, parts, metrics, draining),
    )
    for part in (
        batch_results,
        batches,
        jobs,
        events,
        images,
        uploads,
        webhooks,
        deliveries,
        catalogue_routes,
        usage,
        operations,
    ):
        app.include_router(part.router)
    install_error_handlers(app)
    app.add_middleware(HeadAsGet)
    manifests = {batches.router.prefix: max(MOST_BODY_BYTES, settings.max_body_bytes)}
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, exceptions=manifests)
    app.add_middleware(BodyPace)
    app.add_middleware(Envelope, metrics=metrics, draining=draining)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Exits with a message when the settings leave the door open."""
    failpoints.arm(settings.failpoints, settings.failpoint_seed)
    draining = Event()
    try:
        app = create_app(settings, draining=draining)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if not run_server(app, settings, draining):
        raise SystemExit(3)


def _lifespan(
    settings: Settings, parts: Parts, metrics: Metrics, draining: Event
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = _READ_THREADS
        with open_services(settings, parts, metrics, draining) as services:
            app.state.services = services
            poller = Poller(services.database, services.outlooks, services.room)
            closing = services.room.close_after(draining, settings.linger_seconds)
            async with running(poller.run(), services.batch_watch.run(), closing):
                yield

    return lifespan
