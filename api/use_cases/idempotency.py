"""One request with one Idempotency-Key makes one job or batch, however often it is sent."""

import re
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from common.db.idempotency import recall, remember
from common.db.jobs import find_job
from common.domain.errors import Invalid, Problem, Refusal
from common.domain.snapshot import JobSnapshot

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A key that the client chose, and the fingerprint of the request that it sent with it."""

    key: str
    fingerprint: str


def check_keys(keys: list[str]) -> str | None:
    """The one key of a request's headers, if any; raises `Invalid` for one that is malformed or for several."""
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        detail = "Idempotency-Key is given once, as 1 to 255 visible ASCII characters"
        raise Invalid([Problem("/header/Idempotency-Key", "validation_error", detail)])
    return keys[0]


def find_original(
    connection: Connection, tenant_id: str, idempotency: Idempotency, *, take_for: str | None = None
) -> JobSnapshot | None:
    """The job that the first request with this key made, as it is now, or None when the key is free.

    With `take_for`, a free key is taken for that job in this transaction. Raises `Refusal` (`idempotency_mismatch`)
    when the first request was another one, (`gone`) when its job is no longer there.
    """
    job_id = find_first(connection, tenant_id, idempotency, take_for)
    if job_id is None:
        return None
    job = find_job(connection, tenant_id, job_id)
    if job is None or job.erased_at is not None:
        raise gone("job")
    return job


def find_first(connection: Connection, tenant_id: str, idempotency: Idempotency, take_for: str | None) -> str | None:
    """The id of what the first request with this key made, or None when the key is free.

    What it is, the fingerprint tells, which has the path. `take_for` and what is raised: see `find_original`.
    """
    key, fingerprint = idempotency.key, idempotency.fingerprint
    if take_for is None:
        remembered = recall(connection, tenant_id, key)
    else:
        remembered = remember(connection, tenant_id, key, fingerprint, take_for)
    if remembered is None:
        return None
    if remembered.fingerprint != fingerprint:
        raise Refusal("this Idempotency-Key was used with another request", code="idempotency_mismatch")
    return remembered.resource_id


def gone(thing: str) -> Refusal:
    """What the first request made has been removed."""
    return Refusal(f"the {thing} of this Idempotency-Key is no longer there", code="gone")
