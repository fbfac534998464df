"""Opening what the API stands on, and closing it again. Heavy modules are imported here, when they are used."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Final

from anyio import CapacityLimiter

from api.batch_outlooks import BatchOutlooks
from api.dependencies import Bell, Decoder, Services, UrlCheck
from api.descriptors import places_to_wait
from api.live.batches import BatchWatch
from api.live.room import WaitingRoom
from api.metrics import Metrics
from api.outlooks import Outlooks
from common.catalogue_file import load_catalogue
from common.db.engine import Database
from common.db.workers import count_live
from common.domain.catalogue import Catalogue
from common.paces import Paces
from common.settings import Settings
from common.storage.port import ObjectStore
from common.vault import Vault, open_vault

_SUBMIT_THREADS: Final = 8
_BODIES: Final = 8
_MANIFESTS: Final = 4
_DOWNLOADS: Final = 4


@dataclass(frozen=True, slots=True)
class Parts:
    """What a caller hands in; None is opened from the settings, and closed, by us."""

    database: Database | None = None
    store: ObjectStore | None = None
    doorbell: Bell | None = None
    decoder: Decoder | None = None
    catalogue: Catalogue | None = None
    outbound: UrlCheck | None = None
    vault: Vault | None = None


@contextmanager
def open_services(settings: Settings, parts: Parts, metrics: Metrics, draining: Event) -> Iterator[Services]:
    """Every service, for as long as the block runs."""
    with ExitStack() as stack:
        database = parts.database or _open_database(settings, stack)
        catalogue = parts.catalogue or load_catalogue(settings)
        outlooks = Outlooks(database, catalogue, fresh_seconds=settings.lease_seconds)
        batch_outlooks = BatchOutlooks(database, outlooks)
        room = WaitingRoom(places_to_wait(settings.max_waiters), metrics)
        yield Services(
            settings=settings,
            database=database,
            store=parts.store or _open_store(settings),
            doorbell=parts.doorbell or _open_doorbell(settings, database, stack),
            decoder=parts.decoder or _open_decoder(settings, stack),
            catalogue=catalogue,
            outbound=parts.outbound or _open_outbound(settings),
            vault=parts.vault or open_vault(settings),
            paces=Paces(database, catalogue, fresh_seconds=settings.lease_seconds),
            outlooks=outlooks,
            batch_outlooks=batch_outlooks,
            room=room,
            batch_watch=BatchWatch(database, batch_outlooks, room),
            metrics=metrics,
            draining=draining,
            submits=CapacityLimiter(_SUBMIT_THREADS),
            bodies=CapacityLimiter(_BODIES),
            manifests=CapacityLimiter(_MANIFESTS),
            downloads=CapacityLimiter(_DOWNLOADS),
        )


def _open_database(settings: Settings, stack: ExitStack) -> Database:
    database = Database(settings.database)
    stack.callback(database.close)
    return database


def _open_store(settings: Settings) -> ObjectStore:
    from common.storage.open import open_store

    return open_store(settings.store, settings.store_public_url)


def _open_doorbell(settings: Settings, database: Database, stack: ExitStack) -> Bell:
    from common.queue.doorbell import open_doorbell

    doorbell = open_doorbell(settings, _worker_counter(settings, database))
    stack.callback(doorbell.close)
    return doorbell


def _open_decoder(settings: Settings, stack: ExitStack) -> Decoder:
    from common.images.sandbox import ImageDecoder, ImageLimits

    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    decoder = ImageDecoder(processes=settings.decoders, limits=limits)
    stack.callback(decoder.close)
    decoder.warm_up()
    return decoder


def _open_outbound(settings: Settings) -> UrlCheck:
    from common.outbound.fetching import Outbound
    from common.outbound.policy import outbound_policy

    return Outbound(outbound_policy(settings))


def _worker_counter(settings: Settings, database: Database) -> Callable[[str], int]:
    def count(pool: str) -> int:
        with database.read() as connection:
            return count_live(connection, pool, settings.lease_seconds)

    return count
