"""What the routes work with: one frozen container of services, and the query parameters that each one accepts."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from threading import Event
from typing import Annotated, Any, Final, Protocol

from anyio import CapacityLimiter, fail_after
from fastapi import Depends, Request

from api.batch_outlooks import BatchOutlooks
from api.live.batches import BatchWatch
from api.live.room import WaitingRoom
from api.metrics import Metrics
from api.outlooks import Outlooks
from common.db.engine import Database
from common.domain.catalogue import Catalogue
from common.domain.errors import Invalid, Problem, Unavailable
from common.images.untrusted import DecodedImage
from common.paces import Paces
from common.requests.validation import clip, unknown_name
from common.settings import Settings
from common.storage.port import ObjectStore
from common.vault import Vault

_BODY_WAIT_SECONDS: Final = 10


class Decoder(Protocol):
    """What decodes untrusted images, see `common.images.sandbox.ImageDecoder`."""

    def decode(self, data: bytes) -> DecodedImage:
        """Raises `ImageRejected` or `DecoderUnavailable`."""

    def close(self) -> None:
        """End its processes."""


class Bell(Protocol):
    """What says that there is work, see `common.queue.doorbell`. Never blocks, never raises."""

    @property
    def is_ok(self) -> bool:
        """False after a bell that the broker did not take."""

    def ring(self, pool: str, jobs: int = 1) -> None:
        """There are `jobs` new jobs in this pool."""

    def ring_courier(self) -> None:
        """There is something for a courier."""


class UrlCheck(Protocol):
    """What judges URLs of users before they are kept, see `common.outbound.fetching.Outbound`."""

    def check(self, url: str) -> object:
        """Raises `UrlBlocked`, or `FetchFailed` when the name cannot be looked up."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a request may need.

    `submits` bounds the threads that accept jobs, so that reads stay quick; `bodies` the request bodies in memory,
    `manifests` those that are written to temporary files, `downloads` the threads that make long answers.
    """

    settings: Settings
    database: Database
    store: ObjectStore
    doorbell: Bell
    decoder: Decoder
    catalogue: Catalogue
    outbound: UrlCheck
    vault: Vault
    paces: Paces
    outlooks: Outlooks
    batch_outlooks: BatchOutlooks
    room: WaitingRoom
    batch_watch: BatchWatch
    metrics: Metrics
    draining: Event
    submits: CapacityLimiter
    bodies: CapacityLimiter
    manifests: CapacityLimiter
    downloads: CapacityLimiter


def services_of(request: Request) -> Services:
    """The services of the app that answers this request."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]


@asynccontextmanager
async def room_for_a_body(services: Services) -> AsyncIterator[None]:
    """One of the few places for a body that is being read; raises `Unavailable` when none is free for ten seconds."""
    async with _place(services.bodies):
        yield


@asynccontextmanager
async def room_for_a_manifest(services: Services) -> AsyncIterator[None]:
    """The same for a manifest, which may be long on its way and takes no place from the bodies of jobs."""
    async with _place(services.manifests):
        yield


def accepts_query(*names: str) -> Any:
    """A dependency that refuses every query parameter but these, and these when given twice."""
    return Depends(_query_check(names))


async def refuse_body(request: Request) -> None:
    """A dependency of routes that take no body; raises `Invalid` for one that is not empty."""
    async for chunk in request.stream():
        if chunk:
            raise Invalid([Problem("", "validation_error", "this address takes no body")])


def base_url(request: Request) -> str:
    """The address that clients reach us at, without the final slash; every URL of an answer starts with it."""
    return (services_of(request).settings.public_url or str(request.base_url)).rstrip("/")


@asynccontextmanager
async def _place(places: CapacityLimiter) -> AsyncIterator[None]:
    try:
        with fail_after(_BODY_WAIT_SECONDS):
            await places.acquire()
    except TimeoutError:
        raise Unavailable("too many uploads at once") from None
    try:
        yield
    finally:
        places.release()


def _query_check(names: tuple[str, ...]) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        given = [name for name, _ in request.query_params.multi_items()]
        problems = [unknown_name(f"/query/{clip(name)}", name, names) for name in given if name not in names]
        problems += [_given_twice(name) for name in names if given.count(name) > 1]
        if problems:
            raise Invalid(problems[:20])

    return check


def _given_twice(name: str) -> Problem:
    return Problem(f"/query/{name}", "validation_error", f"{name} is given twice")
