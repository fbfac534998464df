"""What `darkroom doctor` looks at: each check asks one part of the deployment, and says what to do when it is ill."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

from sqlalchemy import make_url, select

from common.catalogue_file import load_catalogue
from common.db.engine import Database
from common.db.migrate import current_revision, head_revision
from common.db.types import now
from common.db.workers import list_workers
from common.queue.celery_app import create_celery
from common.settings import Settings
from common.storage.open import open_store

_BROKER_SECONDS = 3


class Health(StrEnum):
    """How a part is. `absent` is no failure: the part is not used or not installed here."""

    OK = "ok"
    ABSENT = "absent"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `remedy` is one line on what to do, empty when there is nothing to do."""

    part: str
    health: Health
    detail: str
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check in turn; a check that raises is a failure of its part."""
    yield _guarded("database", check_database, settings, "start the database, or correct DARKROOM_DATABASE_URL")
    yield _guarded(
        "broker", check_broker, settings, "start the broker, or correct DARKROOM_BROKER_URL; workers poll meanwhile"
    )
    yield _guarded(
        "store", check_store, settings, "start the object store, or correct DARKROOM_STORE_URL and its credentials"
    )
    yield _guarded("webhooks", check_webhooks, settings, "correct DARKROOM_SECRET_KEY")
    yield _guarded("device", check_device, settings, "set DARKROOM_DEVICE to one of this machine, such as cpu")
    yield from _check_models(settings)


def check_database(settings: Settings) -> Finding:
    """Whether the database answers, and with the schema of this release."""
    url = make_url(settings.database)
    where = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return Finding(
            "database", Health.FAIL, f"{where} does not exist yet", "run `darkroom migrate`, or `darkroom up`"
        )
    with closing(Database(settings.database, pool_size=1)) as database, database.read() as connection:
        current, head = current_revision(connection), head_revision()
    if current != head:
        detail = f"{where} has schema {current or 'none'}, this release needs {head}"
        return Finding("database", Health.FAIL, detail, "run `darkroom migrate`")
    return Finding("database", Health.OK, f"{where}, schema {head}")


def check_broker(settings: Settings) -> Finding:
    """Whether the broker takes a connection."""
    if not settings.doorbells:
        return Finding("broker", Health.ABSENT, "DARKROOM_DOORBELLS is off: workers poll once a second")
    with create_celery(settings).connection_for_write(connect_timeout=_BROKER_SECONDS) as connection:
        connection.ensure_connection(max_retries=1, timeout=_BROKER_SECONDS)
        return Finding("broker", Health.OK, connection.as_uri())


def check_store(settings: Settings) -> Finding:
    """Whether an object that is written can be read back and deleted."""
    store = open_store(settings.store, settings.store_public_url)
    key, data = f"doctor/{uuid4().hex}", uuid4().bytes
    store.put(key, data, "application/octet-stream")
    read = store.get(key)
    store.delete(key)
    if read != data or store.head(key) is not None:
        return Finding(
            "store", Health.FAIL, "an object came back altered or stayed", "look at what else writes to this store"
        )
    scheme = settings.store.partition("://")[0]
    return Finding("store", Health.OK, f"{scheme}: written, read, deleted")


def check_webhooks(settings: Settings) -> Finding:
    """Whether there is a key to encrypt the secrets of webhooks with."""
    if settings.secret_key is not None:
        return Finding("webhooks", Health.OK, "secrets are encrypted with DARKROOM_SECRET_KEY")
    if make_url(settings.database).get_backend_name() == "sqlite":
        return Finding("webhooks", Health.OK, "secrets are encrypted with a key in the data folder")
    detail = "without DARKROOM_SECRET_KEY they are refused; everything else works"
    return Finding("webhooks", Health.ABSENT, detail, "set it, the same for the API and the couriers")


def check_device(settings: Settings) -> Finding:
    """Whether the device of the settings is there."""
    try:
        from worker.device import pick_device

        device = pick_device(settings.device)
    except ModuleNotFoundError as error:
        return Finding("device", Health.ABSENT, f"{error.name} is not installed: no worker can run here", "")
    return Finding("device", Health.OK, f"{device.spec}: {device.name}, {str(device.dtype).removeprefix('torch.')}")


def check_worker(settings: Settings) -> Finding:
    """Whether a worker of this host has lately said that it lives: the health check of a worker's container."""
    with closing(Database(settings.database, pool_size=1)) as database, database.read() as connection:
        moment = connection.execute(select(now())).scalar_one()
        workers = [worker for worker in list_workers(connection) if worker.hostname == socket.gethostname()]
    ages = [(moment - worker.heartbeat_at).total_seconds() for worker in workers]
    if min(ages, default=float("inf")) <= settings.lease_seconds:
        return Finding("worker", Health.OK, f"{len(ages)} on this host")
    return Finding("worker", Health.FAIL, "no worker of this host has a fresh heartbeat", "look at its log")


def _check_models(settings: Settings) -> Iterator[Finding]:
    try:
        from worker.checkpoints import Shelf, verify
    except ModuleNotFoundError as error:
        yield Finding("models", Health.ABSENT, f"{error.name} is not installed: no worker can run here")
        return
    shelf = Shelf(settings.models_dir, None)
    for card in load_catalogue(settings):
        part = f"model {card.id}"
        problems = verify(card, shelf)
        if not problems:
            yield Finding(part, Health.OK, card.title)
        elif card.source.repository is not None:
            yield Finding(part, Health.ABSENT, "its weights are not on this machine", f"darkroom models pull {card.id}")
        else:
            yield Finding(part, Health.FAIL, problems[0], "install Darkroom again, or correct the models file")


def _guarded(part: str, check: Callable[[Settings], Finding], settings: Settings, remedy: str) -> Finding:
    try:
        return check(settings)
    except Exception as error:  # the edge of a check: whatever a part does wrong is a finding
        lines = str(error).strip().splitlines() or [""]
        return Finding(part, Health.FAIL, f"{type(error).__name__}: {lines[0]}", remedy)
