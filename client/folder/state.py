"""What a run has done so far, in the folder of its results: enough to go on after any end, and to do nothing twice."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from client.folder.errors import FolderError
from client.folder.journal import Journal, write_whole
from client.folder.plan import Entry, Plan, Settings

FOLDER_NAME: Final = ".darkroom-batch"

# Uploads and idempotency keys are kept by the server for 24 hours.
FRESH_SECONDS: Final = 20 * 3600


@dataclass(frozen=True, slots=True)
class Sent:
    """A file as it was sent: its upload, or why the server did not take it."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    at: float
    upload: str | None = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch that is about to be handed in, or was: told to the journal before the server hears of it."""

    key: str
    at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an entry: `written` with its files (name and bytes), or `failed` with an error."""

    kind: Literal["written", "failed"]
    files: dict[str, int]
    error: dict[str, Any] | None = None


class State:
    """The state of the run in the folder `out`. Raises OSError where it cannot be kept."""

    def __init__(self, out: Path, *, wall_clock: Callable[[], float] = time.time) -> None:
        self.out = out
        self.folder = out / FOLDER_NAME
        self.manifest = self.folder / "manifest.jsonl"
        self.plan: Plan | None = None
        self.sent: dict[str, Sent] = {}
        self.submission: Submission | None = None
        self.batch_id: str | None = None
        self.outcomes: dict[str, Outcome] = {}
        self.is_over = False
        self._wall_clock = wall_clock
        self._plan_file = self.folder / "plan.jsonl"
        self._journal = Journal(self.folder / "journal.jsonl")
        self._read()

    def begin(self, plan: Plan) -> None:
        """Start a new run; of the one before only what the same server has taken is kept: what it refused, it may
        take today.
        """
        is_same = self.plan is not None and self.plan.settings.server == plan.settings.server
        kept = [one for one in self.sent.values() if is_same and one.upload is not None]
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("plan.jsonl", "journal.jsonl", "manifest.jsonl"):  # the plan first: without it there is no run
            (self.folder / name).unlink(missing_ok=True)
        self.sent, self.submission, self.batch_id, self.outcomes, self.is_over = {}, None, None, {}, False
        write_whole(self._plan_file, [_head(plan), *(asdict(entry) for entry in plan.entries)])
        self.plan = plan
        for one in kept:
            self.note_sent(one)

    def note_sent(self, sent: Sent) -> None:
        """A file has been taken or refused."""
        self.sent[sent.path] = sent
        self._note("sent", **asdict(sent))

    def note_submission(self, key: str) -> None:
        """A batch is about to be handed in under this idempotency key."""
        self.submission = Submission(key, self._wall_clock())
        self._note("submission", durably=True, **asdict(self.submission))

    def note_batch(self, batch_id: str) -> None:
        """The server has the batch."""
        self.batch_id = batch_id
        self._note("batch", durably=True, id=batch_id)

    def drop_submission(self) -> None:
        """The batch was never made, and will not be under this key."""
        self.submission = None
        self._note("dropped", durably=True)

    def note_outcome(self, custom_id: str, outcome: Outcome) -> None:
        """What became of an entry."""
        self.outcomes[custom_id] = outcome
        self._note("outcome", custom_id=custom_id, **asdict(outcome))

    def note_end(self) -> None:
        """Nothing is left to do."""
        self.is_over = True
        self._note("over", durably=True)

    def fresh_copy(self, path: str) -> Sent | None:
        """What was sent of this file, if it is as it was then and the server still has it, or refused it."""
        sent = self.sent.get(path)
        if sent is None or (sent.error is None and self._wall_clock() - sent.at > FRESH_SECONDS):
            return None
        try:
            now = os.stat(path)
        except OSError:
            return None
        return sent if (now.st_size, now.st_mtime_ns) == (sent.size, sent.mtime_ns) else None

    def submission_is_old(self, files: Iterable[str]) -> bool:
        """Whether the server may have forgotten the key of the submission, or an upload of these files of it."""
        if self.submission is None:
            return False
        uploads = [self.sent[path].at for path in files if path in self.sent and self.sent[path].upload is not None]
        return self._wall_clock() - min([self.submission.at, *uploads]) > FRESH_SECONDS

    def now(self) -> float:
        """Seconds since the epoch, by this machine."""
        return self._wall_clock()

    def _note(self, note: str, /, *, durably: bool = False, **members: Any) -> None:
        self._journal.append({"note": note, **members}, durably=durably)

    def _read(self) -> None:
        if not self._plan_file.exists():
            return
        with self._plan_file.open("rb") as file:
            head, *entries = (json.loads(line) for line in file)
        self.plan = Plan(Settings(**head["settings"]), [Entry(**entry) for entry in entries], head["others"])
        for line in self._journal.read():
            self._take(line.pop("note"), line)

    def _take(self, kind: str, line: dict[str, Any]) -> None:
        if kind == "sent":
            self.sent[line["path"]] = Sent(**line)
        elif kind == "submission":
            self.submission = Submission(**line)
        elif kind == "dropped":
            self.submission = None
        elif kind == "batch":
            self.batch_id = line["id"]
        elif kind == "outcome":
            custom_id = line.pop("custom_id")
            self.outcomes[custom_id] = Outcome(**line)
        elif kind == "over":
            self.is_over = True


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Within the block no other process runs a batch into this folder. Raises `FolderError` if one does."""
    folder = out / FOLDER_NAME
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as file:
        if not _lock(file.fileno()):
            raise FolderError(f"another darkroom batch is writing into {out}")
        yield


def _lock(descriptor: int) -> bool:
    """Whether the file is ours now; it is given back when the process ends, however it does."""
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True  # where locks of this kind are not known, the user has to see to it


def _head(plan: Plan) -> dict[str, Any]:
    return {"settings": asdict(plan.settings), "others": plan.others}
