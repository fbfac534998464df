"""What the routes work with: one frozen container of services, and the query parameters that each one accepts."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from threading import Event
from typing import Annotated, Any, Protocol

from anyio import CapacityLimiter
from fastapi import Depends, Request

from api.metrics import Metrics
from api.validation import clip, unknown_name
from common.db.engine import Database
from common.domain.catalogue import Catalogue
from common.domain.errors import Invalid, Problem
from common.images.untrusted import DecodedImage
from common.settings import Settings
from common.storage.port import ObjectStore


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


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a request may need. `submits` bounds the threads that accept jobs, so that reads stay quick."""

    settings: Settings
    database: Database
    store: ObjectStore
    doorbell: Bell
    decoder: Decoder
    catalogue: Catalogue
    metrics: Metrics
    draining: Event
    submits: CapacityLimiter


def services_of(request: Request) -> Services:
    """The services of the app that answers this request."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]


def accepts_query(*names: str) -> Any:
    """A dependency that refuses every query parameter but these, and these when given twice."""
    return Depends(_query_check(names))


def base_url(request: Request) -> str:
    """The address that the client reached us at, without the final slash; every URL of an answer starts with it."""
    return str(request.base_url).rstrip("/")


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
