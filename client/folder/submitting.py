"""Handing in the batch of a run: once, however often the run is killed around it."""

import uuid
from typing import Any, Final

from client.batch import Batch
from client.batches import Batches
from client.errors import DarkroomAPIError
from client.folder.errors import FolderError
from client.folder.journal import write_whole
from client.folder.plan import Entry, Plan
from client.folder.state import State

_MARK: Final = "darkroom_folder_run"
_REFUSED: Final = frozenset({400, 403, 413, 415, 422})


def submit_batch(batches: Batches, state: State, plan: Plan) -> Batch | None:
    """The batch of the plan, of all entries whose files the server has; None when there are none of them.

    The manifest and the key are on the disk before the server hears of them, so that a repetition after any crash is
    the same request and gives the same batch. Raises `FolderError` for a batch that the server will not take, which
    ends the run, and `ClientError`.
    """
    if state.submission is None:
        lines = [
            entry.as_line(uploads_of(state, entry)) for entry in plan.entries if error_before(state, entry) is None
        ]
        if not lines:
            return None
        write_whole(state.manifest, lines)
        state.note_submission(uuid.uuid4().hex)
    batch = _post(batches, state, plan)
    state.note_batch(batch.id)
    return batch


def find_lost_batch(batches: Batches, state: State) -> Batch | None:
    """The batch of a submission whose answer never came, so long ago that its key is forgotten; None if there is none.

    Then the submission is dropped: its uploads are gone too.
    """
    assert state.submission is not None
    for batch in batches.list():
        is_marked = (batch.raw.get("metadata") or {}).get(_MARK) == state.submission.key
        if is_marked and batch.raw.get("retry_of") is None:  # a retry has the metadata of what it retries
            state.note_batch(batch.id)
            return batch
    state.drop_submission()
    return None


def uploads_of(state: State, entry: Entry) -> dict[str, str]:
    """The uploads of an entry's files, by path."""
    found = {path: state.sent[path].upload for path in entry.files.values()}
    return {path: upload for path, upload in found.items() if upload is not None}


def error_before(state: State, entry: Entry) -> dict[str, Any] | None:
    """Why an entry never came into the batch; None if it did or will."""
    for role, path in entry.files.items():
        sent = state.sent.get(path)
        if sent is not None and sent.error is not None:
            return {**sent.error, "pointer": f"/{role}"}
    return None


def end_refused(state: State, error: DarkroomAPIError) -> None:
    """End the run for good, so that the next may ask for something else, if the server will never take this one.

    Raises `FolderError` then; returns for an error that may pass.
    """
    if error.status in _REFUSED:
        state.note_end()
        wrong = "".join(f"\n  {one.get('pointer')}: {one.get('detail')}" for one in error.errors)
        raise FolderError(f"the server refuses this, and nothing is queued: {error}{wrong}") from error


def _post(batches: Batches, state: State, plan: Plan) -> Batch:
    assert state.submission is not None
    settings, key = plan.settings, state.submission.key
    try:
        return batches.submit(
            manifest=state.manifest,
            defaults=settings.defaults,
            name=settings.name,
            priority=settings.priority,
            on_invalid=settings.on_invalid,
            metadata={_MARK: key},
            idempotency_key=key,
        )
    except DarkroomAPIError as error:
        end_refused(state, error)
        raise
