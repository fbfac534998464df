"""What came of a batch: its lines one by one, its images as an archive, and a stream of how far it is."""

from collections.abc import Iterator
from typing import Final

from anyio import to_thread
from sqlalchemy import Connection

from api.archive import archive_pieces
from api.dependencies import Services
from api.live.batches import BatchSighting
from api.use_cases.look_at_batches import no_such_batch, require_batch
from common.db.batch_results import ResultLine, line_of, read_results
from common.db.tenants import Caller
from common.domain.batch import BatchState
from common.domain.errors import Conflict, Invalid, Problem
from common.ids import is_id
from common.result_document import line_text, present_line

_PAGE: Final = 1000
_WITHOUT_IMAGES: Final = frozenset({BatchState.VALIDATING, BatchState.REJECTED})


def open_results(
    services: Services,
    caller: Caller,
    batch_id: str,
    base: str,
    *,
    after: str | None,
    after_line: int | None,
    limit: int | None,
) -> Iterator[bytes]:
    """The lines of the batch behind the item `after` or the line `after_line`, at most `limit`, as JSON Lines in pieces
    of some hundred lines.

    Each piece says how things stand when it is made. Raises `NotFound`, `Invalid` when there is no item `after`, or
    both are given.
    """
    if after is not None and after_line is not None:
        raise Invalid([Problem("/query/after_line", "validation_error", "either after or after_line, not both")])
    with services.database.read() as connection:
        require_batch(connection, caller.tenant_id, batch_id)
        line = -1 if after_line is None else after_line
        if after is not None:
            line = _line_of(connection, caller.tenant_id, batch_id, after)
    pages = _pages(services, caller.tenant_id, batch_id, after_line=line, limit=limit)
    return (b"".join(line_text(present_line(one, base)) for one in page) for page in pages)


def open_archive(services: Services, caller: Caller, batch_id: str, base: str) -> Iterator[bytes]:
    """The archive of the images that there are, in pieces. Raises `NotFound`, `Conflict` while there can be none."""
    with services.database.read() as connection:
        state = require_batch(connection, caller.tenant_id, batch_id).state
    if state in _WITHOUT_IMAGES:
        raise Conflict(f"the batch is {state}: it has no images")
    pages = _pages(services, caller.tenant_id, batch_id, after_line=-1, limit=None)
    return archive_pieces((one for page in pages for one in page), services.store, base)


async def sight_batch(services: Services, caller: Caller, batch_id: str, *, at_least: int = 0) -> BatchSighting:
    """The caller's batch as it was half a second ago at most; as it is now if it was not at this version yet by then.

    Raises `NotFound`, or `Unavailable`.
    """
    fresh = services.batch_watch.find_fresh(caller.tenant_id, batch_id)
    if fresh is not None and fresh.batch.version >= at_least:
        return fresh
    sight = services.batch_watch.sight
    found = await to_thread.run_sync(sight, caller.tenant_id, batch_id) if is_id(batch_id, "bat") else None
    if found is None:
        raise no_such_batch()
    return found


def _pages(
    services: Services, tenant_id: str, batch_id: str, *, after_line: int, limit: int | None
) -> Iterator[list[ResultLine]]:
    """Page by page, each with a short transaction of its own."""
    while limit is None or limit > 0:
        wanted = _PAGE if limit is None else min(_PAGE, limit)
        with services.database.read() as connection:
            page = read_results(connection, tenant_id, batch_id, after_line=after_line, limit=wanted)
        if page:
            yield page
        if len(page) < wanted:
            return
        after_line = page[-1].line
        limit = None if limit is None else limit - wanted


def _line_of(connection: Connection, tenant_id: str, batch_id: str, custom_id: str) -> int:
    line = None if "\0" in custom_id else line_of(connection, tenant_id, batch_id, custom_id)
    if line is None:
        raise Invalid([Problem("/query/after", "validation_error", "the batch has no item with this custom_id (yet)")])
    return line
