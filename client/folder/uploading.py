"""The pictures of a plan on their way to the server: several at once, each content once."""

import hashlib
import stat
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from client.errors import DarkroomAPIError
from client.folder.crew import Crew
from client.folder.display import Display
from client.folder.patience import Patience
from client.folder.state import Sent, State
from client.uploads import Upload

# What the server says of a file; anything else it says of us, or of itself.
_OF_THE_FILE: Final = frozenset({400, 413, 415, 422})
_MOST_BYTES: Final = 512 << 20
_STORE_TRIES: Final = 3
_STORE_REST_SECONDS: Final = 1.0


class Uploader(Protocol):
    """The one method of the SDK that this needs."""

    def upload(self, image: bytes, *, directly: bool = False) -> Upload:
        """See `Darkroom.upload`."""


class Uploading:
    """Sends files and notes in the state what became of each. Goes the straight way into the object store, if there is
    one.
    """

    def __init__(self, server: Uploader, state: State, patience: Patience, display: Display) -> None:
        self._server = server
        self._state = state
        self._patience = patience
        self._display = display
        self._lock = threading.Lock()
        self._contents: dict[str, Future[Sent]] = {}

    def send(self, files: Sequence[str], concurrency: int) -> None:
        """Send all of these that the server does not have yet. A file that it refuses, or that cannot be read, is noted
        and stops nothing. Raises `ClientError` for all else.
        """
        for sent in self._state.sent.values():
            if sent.upload is not None and self._state.fresh_copy(sent.path) == sent:
                self._contents[sent.sha256] = _known(sent)
        waiting = [path for path in files if self._state.fresh_copy(path) is None]
        with Crew(concurrency, self._patience) as crew:
            # The first one alone: it shows whether there is an object store to send the others to.
            crew.give(self._send, waiting[:1])
            crew.finish()
            crew.give(self._send, waiting[1:])
            crew.finish()

    def _send(self, path: str) -> None:
        self._patience.check()
        try:
            sent = self._send_file(path)
        except (OSError, _Unfit) as error:
            reason = error.strerror or error if isinstance(error, OSError) else error
            detail = f"the file cannot be read: {reason}"
            sent = Sent(path, -1, -1, "", self._state.now(), error={"code": "unreadable", "detail": detail})
        self._state.note_sent(sent)
        self._display.count_upload()

    def _send_file(self, path: str) -> Sent:
        about = Path(path).stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for
            raise _Unfit("it is no regular file")
        if about.st_size > _MOST_BYTES:
            raise _Unfit(f"it has {about.st_size >> 20} MiB, and more than {_MOST_BYTES >> 20} are not sent")
        data = Path(path).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            known = self._contents.get(digest)
            ours = self._contents.setdefault(digest, Future())
        if known is None:
            self._send_content(ours, Sent(path, about.st_size, about.st_mtime_ns, digest, self._state.now()), data)
        return replace(ours.result(), path=path, size=about.st_size, mtime_ns=about.st_mtime_ns)

    def _send_content(self, promise: "Future[Sent]", sent: Sent, data: bytes) -> None:
        try:
            promise.set_result(replace(sent, upload=self._upload(data)))
        except DarkroomAPIError as error:
            if error.status not in _OF_THE_FILE or _is_of_a_store(error):
                promise.set_exception(error)
                raise
            promise.set_result(replace(sent, error=describe_refusal(error)))
        except BaseException as error:
            promise.set_exception(error)
            raise

    def _upload(self, data: bytes) -> str:
        """The id. What an object store complains of, such as a signature that is out of date, is tried anew."""
        for left in reversed(range(_STORE_TRIES)):
            try:
                return self._server.upload(data, directly=True).id
            except DarkroomAPIError as error:
                if not _is_of_a_store(error) or not left:
                    raise
            self._patience.rest(_STORE_REST_SECONDS)
        raise AssertionError("the last try returns or raises")


def describe_refusal(error: DarkroomAPIError) -> dict[str, Any]:
    """A refusal as it stands in `failed.jsonl`."""
    members = {"status": error.status, "code": error.code, "detail": error.detail, "errors": list(error.errors)}
    return {name: value for name, value in members.items() if value != []}


def _is_of_a_store(error: DarkroomAPIError) -> bool:
    """Whether a 400 is not in the words of our API, which give it a code."""
    return error.status == 400 and error.code == "http_400"


class _Unfit(Exception):
    """Why a file is not even read."""


def _known(sent: Sent) -> "Future[Sent]":
    promise: Future[Sent] = Future()
    promise.set_result(sent)
    return promise
