"""Results on their way into files beside the names of their pictures."""

import hashlib
import threading
from pathlib import Path
from typing import Final, Protocol

from client.batch import BatchResult
from client.errors import ClientError, DarkroomAPIError
from client.folder.display import Display
from client.folder.errors import Stopped
from client.folder.names import ENDINGS, name_files
from client.folder.patience import Patience
from client.folder.plan import Entry
from client.folder.state import Outcome, State
from client.transport import may_pass

# What the server says of us, and not of a picture.
_OF_THE_RUN: Final = frozenset({401, 403})


class ImageSource(Protocol):
    """The one method of the SDK that this needs."""

    def save_image(self, job_id: str, index: int, path: Path, *, sha256: str | None = None) -> Path:
        """See `Darkroom.save_image`."""


class Writing:
    """Writes finished results and notes in the state what became of them. Safe to share between threads."""

    def __init__(
        self, server: ImageSource, state: State, patience: Patience, display: Display, *, overwrite: bool
    ) -> None:
        self._server = server
        self._state = state
        self._patience = patience
        self._display = display
        self._overwrite = overwrite
        self._lock = threading.Lock()

    def write(self, found: tuple[Entry, BatchResult]) -> None:
        """Fetch the pictures of a finished result, or note why there are none.

        Raises OSError where nothing can be written, and `ClientError` where the server cannot be asked.
        """
        self._patience.check()
        entry, result = found
        if result.status != "succeeded":
            self._fail(entry, result.error or {"code": result.status, "detail": f"the job was {result.status}"})
            return
        try:
            files = self._fetch(entry, result)
        except (_Missing, _InTheWay) as error:
            self._fail(entry, {"code": error.code, "detail": str(error)})
        except Stopped:
            raise
        except ClientError as error:
            if may_pass(error) or (isinstance(error, DarkroomAPIError) and error.status in _OF_THE_RUN):
                raise
            code = error.code if isinstance(error, DarkroomAPIError) else "not_fetched"
            self._fail(entry, {"code": code, "detail": f"its result cannot be fetched: {error}"})
        else:
            self._state.note_outcome(entry.custom_id, Outcome("written", files))
            self._display.count_written()

    def _fetch(self, entry: Entry, result: BatchResult) -> dict[str, int]:
        """The files with their sizes."""
        images = result.images
        if result.job_id is None or not images:
            raise _Missing("its result has expired or was erased")
        names = name_files(entry.stem, [ENDINGS.get(image.content_type or "", ".png") for image in images])
        written: dict[str, int] = {}
        for name, image in zip(names, images, strict=True):
            path = self._state.out / name
            if not self._is_there(path, image.sha256):
                self._make_folder(path.parent)
                self._server.save_image(result.job_id, image.index, path, sha256=image.sha256)
            written[name] = path.stat().st_size
        return written

    def _is_there(self, path: Path, sha256: str | None) -> bool:
        """Whether a run that was killed has written this file already."""
        if not path.exists():
            return False
        if sha256 is not None and path.is_file():
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                    return True
        if self._overwrite and path.is_file():
            return False
        raise _InTheWay(f"{path} is in the way, and is not overwritten")

    def _make_folder(self, folder: Path) -> None:
        with self._lock:
            folder.mkdir(parents=True, exist_ok=True)

    def _fail(self, entry: Entry, error: dict[str, object]) -> None:
        self._state.note_outcome(entry.custom_id, Outcome("failed", {}, error))


class _Missing(Exception):
    code = "gone"


class _InTheWay(Exception):
    code = "file_exists"
