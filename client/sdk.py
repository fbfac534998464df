"""The Python SDK.

from client.sdk import Darkroom

with Darkroom() as darkroom:
    job = darkroom.submit(prompt="a blue square on a white background", image=Path("photo.jpg"), strength=0.6)
    job.wait().download(path=Path("result.png"))
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import httpx

from client.batch import Batch, BatchResult
from client.batches import Batches
from client.delivery_log import DeliveryLog
from client.direct_upload import DirectRoad
from client.errors import ClientError, ConnectionFailed, DarkroomAPIError, WaitTimeout, WebhookVerificationError
from client.job import Job, Progress, ResultImage
from client.saving import save
from client.streaming import JobEvent, JobStream
from client.transport import Transport, quoted, read_body
from client.uploads import DIRECT_BYTES, Source, Upload, declaration_of, read_part, split_sources
from client.waiting import Wait
from client.webhook_endpoints import Delivery, Webhook, Webhooks
from client.webhooks import WebhookEvent, verify_webhook
from common.domain.batch import BatchCounts

__all__ = [
    "Batch",
    "BatchCounts",
    "BatchResult",
    "Batches",
    "ClientError",
    "ConnectionFailed",
    "Darkroom",
    "DarkroomAPIError",
    "Delivery",
    "Job",
    "JobEvent",
    "Progress",
    "ResultImage",
    "Upload",
    "WaitTimeout",
    "Webhook",
    "WebhookEvent",
    "WebhookVerificationError",
    "Webhooks",
    "verify_webhook",
]


class Darkroom(DeliveryLog):
    """A Darkroom server. Safe to share between threads; close it, or use it as a context manager. `webhooks` are the
    endpoints that it tells of every job, `batches` are many jobs handed in at once.

    An answer may take `timeout` seconds. What fails on the way is tried again for up to `retry_seconds`: a submit and a
    retry because they carry an Idempotency-Key, all else because twice is as good as once. Every method raises
    `ClientError`, that is, `DarkroomAPIError` or `ConnectionFailed`.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        timeout: float = 30,
        *,
        retry_seconds: float = 30,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def connect(url: str, key: str | None) -> Transport:
            return Transport(url, key, timeout, retry_seconds, transport=transport, sleep=sleep, clock=clock)

        self._transport = connect(base_url, api_key)
        self._direct = DirectRoad(self._transport, lambda url: connect(url, None))
        self.webhooks = Webhooks(self._transport)
        self.batches = Batches(self._transport, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._direct.close()
        self._transport.close()

    def submit(
        self,
        *,
        prompt: str | None = None,
        image: Source | None = None,
        mask: Source | None = None,
        idempotency_key: str | None = None,
        wait: int | None = None,
        **params: Any,
    ) -> Job:
        """Hand in a job; once this returns it is safe. `params` are the API's fields.

        `image` and `mask` are a file, its bytes, an `Upload`, or what the API takes in their place: `{"upload": …}`,
        `{"url": …}`, `{"job": …, "index": …}`. What is None is left out. The same `idempotency_key` within 24 hours
        gives the same job; without one every call is a new job. With `wait`, 1 to 60 seconds, the answer comes when the
        job is finished, or then as it is. Raises OSError for a file that cannot be read.
        """
        members, files = split_sources({"image": image, "mask": mask})
        wished = {name: value for name, value in ({"prompt": prompt} | params).items() if value is not None}
        request = wished | members
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        content: dict[str, Any] = {"json": request}
        if files:
            document = (None, json.dumps(request), "application/json")
            content = {"files": {"request": document} | {role: file.as_part() for role, file in files.items()}}
        if wait is not None:
            headers["Prefer"] = f"wait={wait}"
            content["timeout"] = self._transport.patience(wait)
        return self._job(self._transport.request("POST", "v1/jobs", may_repeat=True, headers=headers, **content))

    def require_answer(self) -> None:
        """Raise `ConnectionFailed` at once if nothing answers at the address."""
        self._transport.require_answer()

    def check(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the server would make of this job request, with an estimate; nothing is stored. Raises if wrong."""
        asked = {"params": {"dry_run": "true"}, "json": dict(request)}
        return read_body(self._transport.request("POST", "v1/jobs", may_repeat=True, **asked))

    def upload(self, image: str | os.PathLike[str] | bytes, *, directly: bool = False) -> Upload:
        """Send a picture ahead of any number of jobs; the server keeps it for a day.

        One of more than 8 MB, or `directly` any, goes straight to the object store, where the server has one, and
        without the key. Raises OSError for a file that cannot be read.
        """
        file = read_part(image, "image")
        if len(file.data) > DIRECT_BYTES or (directly and self._direct.has_store is not False):
            declared = declaration_of(file.data)
            if declared is not None:
                return self._direct.upload(file, declared)
        part = {"file": file.as_part()}
        return Upload(read_body(self._transport.request("POST", "v1/uploads", may_repeat=True, files=part)))

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return self._job(self._get(f"v1/jobs/{quoted(job_id)}"))

    def jobs(self, **filters: str) -> Iterator[Job]:
        """Every job, newest first, page by page as they are asked for. `filters`: status, task, model, tag, …"""
        return (Job(raw, self) for raw in self._transport.pages("v1/jobs", filters))

    def wait(
        self,
        job_id: str,
        timeout: float | None = None,
        on_progress: Callable[[Job], object] | None = None,
        *,
        since: int | None = None,
    ) -> Job:
        """The job once it is finished, however it ended: look at `status` and `error`.

        Asks the server to answer when something changes; `since` is the version that is known, which saves a look.
        `on_progress` gets the job at every change and at every step, from its events. Where a server does not hold its
        answers, this looks every 0.1 s at first, then up to once a second, less often when the server asks for it.
        Raises `WaitTimeout` after `timeout` seconds; the job goes on.
        """
        waiting = Wait(self._transport, f"v1/jobs/{quoted(job_id)}", since, timeout)
        if on_progress is None:
            return Job(waiting.for_the_end(), self)
        return Job(waiting.with_progress(lambda raw: on_progress(Job(raw, self))), self)

    def events(self, job_id: str, *, since: str | None = None) -> Iterator[JobEvent]:
        """What happens to the job, as it happens and each thing once, until it is finished and `done` has come.

        From the job as it is now, or with `since`, the `id` of an event, from what came after that. Connects again by
        itself whenever the stream breaks, as long as the server is not away for `retry_seconds`.
        """
        return iter(JobStream(self._transport, f"v1/jobs/{quoted(job_id)}/events", since))

    def cancel(self, job_id: str) -> Job:
        """The job as it is after the wish to cancel it; a finished one stays as it is."""
        return self._job(self._transport.request("POST", f"v1/jobs/{quoted(job_id)}/cancel", may_repeat=True))

    def retry(self, job_id: str, /, *, idempotency_key: str | None = None, **overrides: Any) -> Job:
        """A new job with the request of one that failed or was canceled, and `overrides` in place of its fields.

        Other than at `submit`, None is a value: back to the field's default. `image` and `mask` are what they are
        there, a file of more than 10 MB as an `Upload`. The same `idempotency_key` within 24 hours gives the same job.
        """
        inputs, files = split_sources({role: overrides.get(role) for role in ("image", "mask")})
        inputs |= {role: {"data": file.as_data_url()} for role, file in files.items()}
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        content = {"json": {"overrides": overrides | inputs}}
        address = f"v1/jobs/{quoted(job_id)}/retry"
        return self._job(self._transport.request("POST", address, may_repeat=True, headers=headers, **content))

    def edit(
        self,
        job_id: str,
        *,
        priority: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Job:
        """The queued job with another priority, other tags or other metadata, each as a whole; None stays as it is.

        Raises `DarkroomAPIError` (`not_editable`) for a job that is not queued any more.
        """
        changes: dict[str, Any] = {} if priority is None else {"priority": priority}
        changes |= {} if tags is None else {"tags": list(tags)}
        changes |= {} if metadata is None else {"metadata": dict(metadata)}
        return self._job(self._transport.request("PATCH", f"v1/jobs/{quoted(job_id)}", may_repeat=True, json=changes))

    def delete(self, job_id: str) -> None:
        """Cancel the job if need be and erase its inputs, results and prompt; the server then knows it as gone."""
        self._transport.request("DELETE", f"v1/jobs/{quoted(job_id)}", may_repeat=True)

    @overload
    def download(self, job_id: str, index: int = 0, path: None = None) -> bytes: ...

    @overload
    def download(self, job_id: str, index: int = 0, *, path: str | os.PathLike[str]) -> Path: ...

    @overload
    def download(self, job_id: str, index: int, path: str | os.PathLike[str]) -> Path: ...

    def download(self, job_id: str, index: int = 0, path: str | os.PathLike[str] | None = None) -> bytes | Path:
        """One finished picture: its bytes, or with `path` the file that they were written to.

        Follows the server to its object store, to which the key is never sent.
        """
        return self.fetch_image(job_id, index, path)

    def fetch_image(self, job_id: str, index: int, path: str | os.PathLike[str] | None) -> bytes | Path:
        """The one implementation of `download` here and at `Job`."""
        return self._fetch(f"v1/jobs/{quoted(job_id)}/images/{index}", path)

    def save_image(self, job_id: str, index: int, path: str | os.PathLike[str], *, sha256: str | None = None) -> Path:
        """The file that one finished picture was written to, which is whole as soon as it has this name.

        Never in memory as a whole; with `sha256` what comes is compared. Raises OSError, and `ClientError`.
        """
        return save(self._transport, f"v1/jobs/{quoted(job_id)}/images/{index}", Path(path), sha256)

    @overload
    def fetch_grid(self, job_id: str, path: None = None) -> bytes: ...

    @overload
    def fetch_grid(self, job_id: str, path: str | os.PathLike[str]) -> Path: ...

    def fetch_grid(self, job_id: str, path: str | os.PathLike[str] | None = None) -> bytes | Path:
        """The input beside all results, of a job that asked for it with `output={"grid": True}`; as `download`."""
        return self._fetch(f"v1/jobs/{quoted(job_id)}/grid", path)

    def preview(self, job_id: str) -> bytes | None:
        """The newest rough picture (JPEG) of a running job; None when there is none, as before and after the run."""
        answer = self._get(f"v1/jobs/{quoted(job_id)}/preview", headers={"Accept": "*/*"})
        return None if answer.status_code == httpx.codes.NO_CONTENT else answer.content

    def models(self) -> list[dict[str, Any]]:
        """The catalogue: every model with its tasks, defaults and licence."""
        return list(read_body(self._get("v1/models"))["data"])

    def model(self, model_id: str) -> dict[str, Any]:
        """One model; its `parameters` are the JSON Schema of a job request for it."""
        return read_body(self._get(f"v1/models/{quoted(model_id)}"))

    def queue(self) -> dict[str, Any]:
        """How much is waiting, per pool."""
        return read_body(self._get("v1/queue"))

    def usage(self, days: int = 30) -> dict[str, Any]:
        """What you have used in the last `days` (1-90) UTC days, today first, and your limits."""
        return read_body(self._get("v1/usage", params={"days": days}))

    def ready(self) -> dict[str, Any]:
        """The server's own word on its health, `{"status", "workers_ready"}`; raises when it is not ready."""
        return read_body(self._get("readyz"))

    def _get(self, path: str, **options: Any) -> httpx.Response:
        return self._transport.request("GET", path, may_repeat=True, **options)

    def _job(self, answer: httpx.Response) -> Job:
        return Job(read_body(answer), self)

    def _fetch(self, address: str, path: str | os.PathLike[str] | None) -> bytes | Path:
        data = self._get(address, headers={"Accept": "*/*"}).content
        if path is not None:
            Path(path).write_bytes(data)
        return data if path is None else Path(path)
