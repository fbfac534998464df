"""Many jobs handed in at once, as `Darkroom.batches`."""

import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import httpx

from client.batch import Batch, BatchResult
from client.errors import ClientError, ConnectionFailed, DarkroomAPIError, WaitTimeout
from client.job import Job, JobClient
from client.patience import parse_retry_after, poll_wait, retry_wait
from client.saving import save
from client.transport import Transport, may_pass, quoted, read_body
from client.uploads import Upload
from common.domain.batch import MOST_ITEMS

_JSONL: Final = "application/jsonl"
# The server counts and stores the whole manifest before it answers.
_TAKE_SECONDS: Final = 300


class Batches:
    """The batches of the key's tenant. Every method raises `ClientError`; a `batch` is one, or its id."""

    def __init__(self, transport: Transport, client: JobClient) -> None:
        self._transport = transport
        self._client = client

    def submit(
        self,
        *,
        items: Sequence[Mapping[str, Any]] | None = None,
        manifest: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None = None,
        matrix: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        name: str | None = None,
        priority: str | None = None,
        on_invalid: str | None = None,
        webhook: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Hand in up to 100,000 jobs; once this returns they are safe, and are judged and queued by the server.

        Give one of `items`, a `manifest` (a JSON Lines file, or lines as they are made) and a `matrix`. A line has the
        fields of a job over the `defaults`, and may have a `custom_id`; its `image` and `mask` are an `Upload` or what
        the API takes. The same `idempotency_key` within 24 hours gives the same batch. Raises ValueError when not
        exactly one of the three is given, and for a file in place of its upload; OSError for a manifest that cannot be
        read.
        """
        if sum(given is not None for given in (items, manifest, matrix)) != 1:
            raise ValueError("give one of items, manifest and matrix")
        wishes = {"name": name, "priority": priority, "on_invalid": on_invalid, "webhook": webhook}
        wishes |= {
            "defaults": None if defaults is None else _plain(defaults),
            "metadata": metadata,
            "matrix": None if matrix is None else _plain(matrix),
        }
        request: dict[str, Any] = {name: value for name, value in wishes.items() if value is not None}
        key = idempotency_key or uuid.uuid4().hex
        if items is not None and len(items) > MOST_ITEMS:
            items, manifest = None, items
        if manifest is None:
            return self._post(key, json=request | ({} if items is None else {"items": [_plain(one) for one in items]}))
        with _opened(manifest) as file:
            parts = {
                "request": (None, json.dumps(request), "application/json"),
                "manifest": ("manifest.jsonl", file, _JSONL),
            }
            return self._post(key, files=parts)

    def get(self, batch_id: str) -> Batch:
        """The batch as it is now."""
        return self._batch(self._transport.request("GET", _address(batch_id), may_repeat=True))

    def list(self, *, status: str | None = None) -> Iterator[Batch]:
        """Every batch, newest first, page by page as they are asked for."""
        return (Batch(raw, self) for raw in self._transport.pages("v1/batches", {"status": status}))

    def wait(
        self,
        batch: Batch | str,
        timeout: float | None = None,
        on_progress: Callable[[Batch], object] | None = None,
    ) -> Batch:
        """The batch once it is finished, however it ended: look at `status` and `counts`.

        Looks about once a second, less often when the server asks for it; `on_progress` gets the batch whenever it
        changed. Raises `WaitTimeout` after `timeout` seconds; the batch goes on.
        """
        end_at = None if timeout is None else self._transport.clock() + timeout
        seen: Batch | None = None
        looks = 0
        while True:
            answer = self._transport.request("GET", _address(batch), may_repeat=True)
            found = self._batch(answer)
            if on_progress is not None and found != seen:
                on_progress(found)
            seen = found
            if found.is_finished:
                return found
            pause = poll_wait(looks, parse_retry_after(answer.headers))
            looks += 1
            left = float("inf") if end_at is None else end_at - self._transport.clock()
            if left <= 0:
                raise WaitTimeout(f"{found.id} is not finished after {timeout:g} seconds")
            self._transport.sleep(min(pause, left))

    def results(
        self,
        batch: Batch | str,
        *,
        after: str | None = None,
        after_line: int | None = None,
        limit: int | None = None,
    ) -> Iterator[BatchResult]:
        """What became of each line, in the order of the manifest, with the state that it has now; also while it runs.

        From the line behind the one called `after`, or behind number `after_line` (from 0), up to `limit` lines; the
        lines that are not queued yet are not there. Asks on behind the last line that came when the connection breaks,
        each line comes once. Raises ValueError when both `after` and `after_line` are given.
        """
        if after is not None and after_line is not None:
            raise ValueError("give one of after and after_line")
        behind = {"after": after, "after_line": None if after_line is None else str(after_line)}
        begin = {name: value for name, value in behind.items() if value is not None}
        return iter(_Results(self._transport, f"{_address(batch)}/results", begin, limit))

    def archive(self, batch: Batch | str, path: str | os.PathLike[str]) -> Path:
        """The zip file with every finished picture and `results.jsonl`, which is whole as soon as it has this name."""
        return save(self._transport, f"{_address(batch)}/archive", Path(path))

    def jobs(self, batch: Batch | str, *, status: str | None = None) -> Iterator[Job]:
        """Its jobs, newest first, page by page as they are asked for."""
        pages = self._transport.pages(f"{_address(batch)}/jobs", {"status": status})
        return (Job(raw, self._client) for raw in pages)

    def pause(self, batch: Batch | str) -> Batch:
        """Start no more of its jobs; those that run go on. Raises `DarkroomAPIError` (`not_editable`) if it is over."""
        return self._change(batch, "pause")

    def resume(self, batch: Batch | str) -> Batch:
        """Go on after `pause`."""
        return self._change(batch, "resume")

    def cancel(self, batch: Batch | str) -> Batch:
        """The batch as it is after the wish to cancel it; a finished one stays as it is."""
        return self._change(batch, "cancel")

    def retry(
        self,
        batch: Batch | str,
        *,
        overrides: Mapping[str, Any] | None = None,
        include_canceled: bool = False,
        on_invalid: str | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """A new batch of the jobs that failed in a finished one, with `overrides` in place of their fields.

        None is a value there: back to the field's default. A line that cannot be tried again fails by itself, unless
        `on_invalid` is `reject`. The same `idempotency_key` within 24 hours gives the same batch.
        """
        wishes: dict[str, Any] = {"overrides": _plain(overrides)} if overrides else {}
        wishes |= {"include_canceled": True} if include_canceled else {}
        wishes |= {"on_invalid": on_invalid} if on_invalid is not None else {}
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        address = f"{_address(batch)}/retry"
        return self._batch(self._transport.request("POST", address, may_repeat=True, headers=headers, json=wishes))

    def _post(self, key: str, **content: Any) -> Batch:
        headers, timeout = {"Idempotency-Key": key}, self._transport.patience(_TAKE_SECONDS)
        answer = self._transport.request(
            "POST", "v1/batches", may_repeat=True, headers=headers, timeout=timeout, **content
        )
        return self._batch(answer)

    def _change(self, batch: Batch | str, wish: str) -> Batch:
        return self._batch(self._transport.request("POST", f"{_address(batch)}/{wish}", may_repeat=True))

    def _batch(self, answer: httpx.Response) -> Batch:
        return Batch(read_body(answer), self)


class _Results:
    """One read of results, over as many connections as that takes; `begin` is behind which line, as a query."""

    def __init__(self, transport: Transport, address: str, begin: Mapping[str, str], limit: int | None) -> None:
        self._transport = transport
        self._address = address
        self._behind = begin
        self._left = limit
        self._failing_since: float | None = None
        self._tries = 0

    def __iter__(self) -> Iterator[BatchResult]:
        while self._left != 0:
            try:
                yield from self._connection()
                return
            except ClientError as error:
                if not may_pass(error):
                    raise
                self._wait(error)

    def _connection(self) -> Iterator[BatchResult]:
        params = {**self._behind, **({} if self._left is None else {"limit": str(self._left)})}
        with self._transport.download(self._address, accept=_JSONL, params=params) as answer:
            for line in _lines(answer.iter_bytes()):
                result = _read(line)
                self._behind, self._failing_since, self._tries = {"after_line": str(result.line)}, None, 0
                self._left = None if self._left is None else self._left - 1
                yield result

    def _wait(self, error: ClientError) -> None:
        now = self._transport.clock()
        self._failing_since = now if self._failing_since is None else self._failing_since
        self._tries += 1
        pause = retry_wait(self._tries, error.retry_after_seconds if isinstance(error, DarkroomAPIError) else None)
        if now + pause > self._failing_since + self._transport.retry_seconds:
            raise error
        self._transport.sleep(pause)


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Each whole line. Raises `ConnectionFailed` for an answer that ends within one."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        raise ConnectionFailed("the results ended within a line")


def _read(line: bytes) -> BatchResult:
    try:
        raw = json.loads(line)
    except ValueError:
        raw = None
    if not isinstance(raw, dict) or not isinstance(raw.get("line"), int) or "status" not in raw:
        raise ClientError("the results are not as a Darkroom server writes them")
    return BatchResult(raw)


@contextmanager
def _opened(manifest: str | os.PathLike[str] | Iterable[Mapping[str, Any]]) -> Iterator[IO[bytes]]:
    """The manifest as a file to read from its beginning, as often as it takes."""
    if isinstance(manifest, str | os.PathLike):
        with Path(manifest).open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        for line in manifest:
            file.write(json.dumps(_plain(line)).encode() + b"\n")
        file.seek(0)
        yield file


def _plain(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in line.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Upload):
        return value.as_input()
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, list | tuple):
        return [_plain_value(one) for one in value]
    if isinstance(value, bytes | bytearray | os.PathLike):
        raise ValueError("a batch takes no files: hand in what `Darkroom.upload` returns for them")
    return value


def _address(batch: Batch | str) -> str:
    return f"v1/batches/{quoted(batch if isinstance(batch, str) else batch.id)}"
