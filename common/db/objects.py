"""Rows of what lies in the object store, and which jobs need it. How they go stands in `common.db.cleaning`."""

from collections.abc import Collection, Iterable
from typing import Any, Final

from sqlalchemy import Connection, case, func, insert, select, update

from common.db.tables import object_refs, objects, uploads
from common.db.types import after_now
from common.db.upsert import upsert
from common.domain.job import InputRef

ANNOUNCED_SECONDS: Final = 3600
_PAGE: Final = 1000


def announce(connection: Connection, tenant_id: str, reference: InputRef) -> None:
    """We are about to make sure that this object lies in the store, and then to use it: nobody may remove it meanwhile.

    To be committed before the store is asked: the object is then there to stay, or gone and stored anew.
    What comes of nothing goes after an hour.
    """
    statement = upsert(connection, objects).values(
        _row(tenant_id, reference) | {"expires_at": after_now(ANNOUNCED_SECONDS)}
    )
    changes = _facts(statement) | {"state": "live", "expires_at": _later_of(statement.excluded.expires_at)}
    connection.execute(statement.on_conflict_do_update(index_elements=[objects.c.key], set_=changes))


def announce_again(connection: Connection, tenant_id: str, key: str) -> bool:
    """The same for an object that was stored before. False when it is gone, or about to go."""
    mine = (objects.c.key == key) & (objects.c.tenant_id == tenant_id) & (objects.c.state == "live")
    statement = update(objects).where(mine).values(expires_at=_later_of(after_now(ANNOUNCED_SECONDS)))
    return connection.execute(statement).rowcount == 1


def announce_all(connection: Connection, tenant_id: str, keys: Collection[str]) -> set[str]:
    """The same for many, at most 10,000; those that are there to stay."""
    mine = objects.c.key.in_(keys) & (objects.c.tenant_id == tenant_id) & (objects.c.state == "live")
    later = update(objects).where(mine).values(expires_at=_later_of(after_now(ANNOUNCED_SECONDS)))
    return set(connection.execute(later.returning(objects.c.key)).scalars()) if keys else set()


def keep_input(
    connection: Connection, tenant_id: str, reference: InputRef, *, expires_seconds: float | None = None
) -> None:
    """The row of a prepared input, live again if it was about to go.

    `expires_seconds`: it may go after that if no job refers to it; the longer of two lives counts. None leaves what an
    earlier keeper said, and without any it lives by references alone.
    """
    statement = upsert(connection, objects).values(_row(tenant_id, reference))
    changes = _facts(statement) | {"state": "live"}
    if expires_seconds is not None:
        statement = statement.values(expires_at=after_now(expires_seconds))
        changes["expires_at"] = _later_of(statement.excluded.expires_at)
    connection.execute(statement.on_conflict_do_update(index_elements=[objects.c.key], set_=changes))


def keep_inputs(connection: Connection, tenant_id: str, references: Iterable[InputRef]) -> None:
    """The same for many, each once, without a wish for their end. They are locked in the order of their keys.

    What lives already is only locked against its end: until the commit nobody may mark it.
    """
    by_key = {reference.key: reference for reference in references}
    keys = sorted(by_key)
    for first in range(0, len(keys), _PAGE):
        page = keys[first : first + _PAGE]
        mine = objects.c.key.in_(page) & (objects.c.state == "live")
        query = select(objects.c.key).where(mine).order_by(objects.c.key).with_for_update(read=True)
        living = set(connection.execute(query).scalars())
        for key in page:
            if key not in living:
                keep_input(connection, tenant_id, by_key[key])


def refer_to_input(connection: Connection, tenant_id: str, job_id: str, role: str, reference: InputRef) -> None:
    """The job needs this input from now on: while it lives, the object stays."""
    keep_input(connection, tenant_id, reference)
    connection.execute(
        insert(object_refs).values(object_key=reference.key, job_id=job_id, tenant_id=tenant_id, role=role)
    )


def shorten_life(connection: Connection, tenant_id: str, key: str) -> None:
    """An upload of this object is gone: it lives as long as the longest of the other uploads, and an hour at least,
    because a submit may just have announced it.

    An object that lives by references alone is left as it is.
    """
    mine = (objects.c.key == key) & (objects.c.tenant_id == tenant_id) & objects.c.expires_at.is_not(None)
    connection.execute(select(objects.c.key).where(mine).with_for_update())  # so that the next look sees all uploads
    others = select(func.max(uploads.c.expires_at)).where(uploads.c.object_key == key)
    longest = connection.execute(others).scalar_one()
    connection.execute(update(objects).where(mine).values(expires_at=after_now(ANNOUNCED_SECONDS)))
    if longest is not None:
        sooner = mine & (objects.c.expires_at < longest)
        connection.execute(update(objects).where(sooner).values(expires_at=longest))


def _row(tenant_id: str, reference: InputRef) -> dict[str, Any]:
    return {
        "key": reference.key,
        "tenant_id": tenant_id,
        "state": "live",
        "kind": "input",
        "sha256": reference.sha256,
        "bytes": reference.bytes,
        "width": reference.width,
        "height": reference.height,
    }


def _facts(statement: Any) -> dict[str, Any]:
    """What is known of the object now: a row of an orphan knows nothing."""
    return {name: statement.excluded[name] for name in ("kind", "sha256", "bytes", "width", "height")}


def _later_of(wished: Any) -> Any:
    """The object's end or the wished one, whichever is later; one that it does not have is none."""
    return case((objects.c.expires_at > wished, objects.c.expires_at), else_=wished)
