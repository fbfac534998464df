"""What the cleaner does in SQL: rows of expired jobs, and objects that nobody needs any more.

An object goes in two steps: marked `deleting` in a transaction of its own, then removed from the store under its row's
lock. Who wants to keep an object says so (`announce`) before looking whether it lies in the store, and so either turns
the mark back or finds the object gone and stores it anew. `expires_at` of an object is null while only references keep
it, and set to now when the last of these goes.
"""

from collections.abc import Callable, Collection

from sqlalchemy import Connection, delete, exists, select, text, update

from common.clock import to_rfc3339
from common.db.erasing import scrub_errors
from common.db.tables import images, job_progress, job_steps, jobs, object_refs, objects, tenants, uploads
from common.db.types import now
from common.db.upsert import upsert
from common.domain.lifecycle import TERMINAL, JobState
from common.storage.keys import KeyParts

PAGE = 100
STORE_SECONDS = 300  # above what any store takes to answer or to give up, all its own tries included

_REFERRED_TO = exists().where(object_refs.c.object_key == objects.c.key)


def clean_jobs(connection: Connection) -> int:
    """Let go of everything that one page of expired jobs kept: images, steps, references. Returns how many jobs."""
    due = (jobs.c.cleaned_at.is_(None)) & (jobs.c.expires_at <= now()) & jobs.c.state.in_(TERMINAL)
    query = select(jobs.c.id, jobs.c.erased_at).where(due).order_by(jobs.c.expires_at).limit(PAGE)
    page = list(connection.execute(query.with_for_update(skip_locked=True)))
    ids = [row.id for row in page]
    if not ids:
        return 0
    for row in page:
        if row.erased_at is not None:  # what an attempt said that ended after the erasure
            scrub_errors(connection, row.id)
    connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(cleaned_at=now()))
    for table in (images, job_steps, job_progress):
        connection.execute(delete(table).where(table.c.job_id.in_(ids)))
    gone = delete(object_refs).where(object_refs.c.job_id.in_(ids)).returning(object_refs.c.object_key)
    keys = set(connection.execute(gone).scalars())
    unneeded = objects.c.key.in_(keys) & objects.c.expires_at.is_(None) & ~_REFERRED_TO
    connection.execute(update(objects).where(unneeded).values(expires_at=now()))
    return len(ids)


def mark_expired(connection: Connection) -> int:
    """Mark one page of objects whose life is over; those that a job refers to live on by that. Returns how many."""
    over = (objects.c.state == "live") & (objects.c.expires_at <= now())
    query = select(objects.c.key).where(over).order_by(objects.c.expires_at).limit(PAGE)
    keys = list(connection.execute(query.with_for_update(skip_locked=True)).scalars())
    page = objects.c.key.in_(keys) & over
    connection.execute(update(objects).where(page, _REFERRED_TO).values(expires_at=None))
    connection.execute(update(objects).where(page, ~_REFERRED_TO).values(state="deleting"))
    return len(keys)


def marked_keys(connection: Connection, after: str) -> list[str]:
    """One page of the keys that are marked, behind `after`."""
    query = select(objects.c.key).where(objects.c.state == "deleting", objects.c.key > after)
    return list(connection.execute(query.order_by(objects.c.key).limit(PAGE)).scalars())


def remove_marked(connection: Connection, key: str, delete_object: Callable[[str], object]) -> bool:
    """Delete one marked object and then its row, unless it is wanted again. False when another cleaner is at it.

    The row stays locked while the store is asked, however long that takes: nobody may take the object up meanwhile.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{STORE_SECONDS}s'"))
    mine = (objects.c.key == key) & (objects.c.state == "deleting")
    if connection.execute(select(objects.c.key).where(mine).with_for_update(skip_locked=True)).one_or_none() is None:
        return False
    if connection.execute(update(objects).where(mine, _REFERRED_TO).values(state="live", expires_at=None)).rowcount:
        return False
    delete_object(key)
    connection.execute(delete(objects).where(mine))
    return True


def installation(connection: Connection) -> str:
    """What tells this database from others: when it was made."""
    made = connection.execute(select(tenants.c.created_at).order_by(tenants.c.created_at).limit(1)).scalar_one()
    return f"a Darkroom of {to_rfc3339(made)}"


def mark_orphans(connection: Connection, found: Collection[KeyParts]) -> int:
    """Mark those of these objects in the store that no row knows and no attempt that runs may have put there."""
    keys = {parts.key: parts for parts in found}
    known = select(objects.c.key).where(objects.c.key.in_(keys))
    staged = select(uploads.c.staging_key).where(uploads.c.staging_key.in_(keys))
    for key in connection.execute(known.union(staged)).scalars():
        del keys[key]
    names = {parts.job_id for parts in keys.values() if parts.job_id}
    at_work = select(jobs.c.id).where(jobs.c.id.in_(names), jobs.c.state == JobState.RUNNING)
    running = set(connection.execute(at_work).scalars())
    owners = set(connection.execute(select(tenants.c.id)).scalars())
    orphans = [one for one in keys.values() if one.job_id not in running and one.tenant_id in owners]
    for one in orphans:
        connection.execute(upsert(connection, objects).values(_orphan_row(one)).on_conflict_do_nothing())
    return len(orphans)


def mark_staged(connection: Connection, found: Collection[KeyParts]) -> None:
    """Mark files of uploads that are forgotten, whether they came or not: to delete what is not there does no harm."""
    for one in found:
        connection.execute(upsert(connection, objects).values(_orphan_row(one)).on_conflict_do_nothing())


def _orphan_row(parts: KeyParts) -> dict[str, object]:
    row = {"key": parts.key, "tenant_id": parts.tenant_id, "kind": parts.kind}
    return row | {"state": "deleting", "sha256": "", "bytes": 0}
