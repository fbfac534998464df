"""Handing in the batch of a run: once, however often the run is killed around it."""

import uuid
from datetime import datetime
from typing import Any, Final

from client.batch import Batch
from client.batches import Batches
from client.errors import DarkroomAPIError
from client.folder.errors import FolderError
from client.folder.journal import write_whole
from client.folder.plan import Entry, Plan
from client.folder.state import State

_MARK: Final = "darkroom_folder_run"
# What the server says of the request, whoever asks; a key that may not may become one that may.
_REFUSED: Final = frozenset({400, 413, 415, 422})
_CLOCKS_DIFFER_SECONDS: Final = 86_400


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
    try:
        batch = _post(batches, state, plan)
    except DarkroomAPIError as error:
        # A try before this one, whose answer was lost, may have arrived all the same.
        lost = find_lost_batch(batches, state) if error.status in _REFUSED else None
        if lost is not None:
            return lost
        end_refused(state, error)
        raise
    state.note_batch(batch.id)
    return batch


def find_lost_batch(batches: Batches, state: State) -> Batch | None:
    """The batch of a submission whose answer never came, found by its mark; None if there is none.

    Then the submission is dropped, and the next one has a key and uploads of its own. Raises `ClientError`.
    """
    assert state.submission is not None
    for batch in batches.list():
        if _is_from_before(batch, state.submission.at):
            break
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
        said = f"the server refuses this, and nothing is queued: {error.describe()}"
        raise FolderError(said, exit_code=2) from error


def _post(batches: Batches, state: State, plan: Plan) -> Batch:
    assert state.submission is not None
    settings, key = plan.settings, state.submission.key
    return batches.submit(
        manifest=state.manifest,
        defaults=settings.defaults,
        name=settings.name,
        priority=settings.priority,
        on_invalid=settings.on_invalid,
        metadata={_MARK: key},
        idempotency_key=key,
    )


def _is_from_before(batch: Batch, moment: float) -> bool:
    """Whether it was made before this moment, however wrong the clock of this machine goes."""
    made_at = batch.raw.get("created_at")
    return made_at is not None and datetime.fromisoformat(made_at).timestamp() < moment - _CLOCKS_DIFFER_SECONDS
