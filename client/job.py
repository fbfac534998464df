"""A job as its owner sees it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, overload

from client.streaming import JobEvent
from common.domain.lifecycle import TERMINAL


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job is: `value` from 0 to 1, denoising steps done and in all, a guess of what is left."""

    value: float
    step: int | None
    steps: int | None
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class ResultImage:
    """One finished picture, of this step of a chain. `seed` makes it again alone; `Job.download` outlives `url`."""

    index: int
    step: int | None
    seed: int | None
    width: int | None
    height: int | None
    content_type: str | None
    sha256: str | None
    url: str | None


class JobClient(Protocol):
    """What a job asks of the client that it came from."""

    def wait(
        self,
        job_id: str,
        timeout: float | None = None,
        on_progress: "Callable[[Job], object] | None" = None,
        *,
        since: int | None = None,
    ) -> "Job":
        """See `Darkroom.wait`."""

    def events(self, job_id: str, *, since: str | None = None) -> Iterator[JobEvent]:
        """See `Darkroom.events`."""

    def cancel(self, job_id: str) -> "Job":
        """See `Darkroom.cancel`."""

    def retry(self, job_id: str, /, *, idempotency_key: str | None = None, **overrides: Any) -> "Job":
        """See `Darkroom.retry`."""

    def edit(
        self,
        job_id: str,
        *,
        priority: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> "Job":
        """See `Darkroom.edit`."""

    def delete(self, job_id: str) -> None:
        """See `Darkroom.delete`."""

    def fetch_image(self, job_id: str, index: int, path: str | os.PathLike[str] | None) -> bytes | Path:
        """See `Darkroom.download`."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job at one version; `raw` is the server's JSON. It never changes: `wait`, `cancel`, `edit` give newer ones."""

    raw: dict[str, Any]
    client: JobClient = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        """The id, `job_…`."""
        return str(self.raw["id"])

    @property
    def status(self) -> str:
        """`queued`, `running`, `succeeded`, `failed` or `canceled`."""
        return str(self.raw["status"])

    @property
    def is_finished(self) -> bool:
        """True when the status will not change any more."""
        return self.status in TERMINAL

    @property
    def progress(self) -> Progress:
        """How far it is; all zero for a job that has not started."""
        members = self.raw.get("progress") or {}
        value = float(members.get("value") or 0)
        return Progress(value, members.get("step"), members.get("steps"), members.get("eta_seconds"))

    @property
    def images(self) -> tuple[ResultImage, ...]:
        """The finished pictures, in the order of their indices."""
        return tuple(
            ResultImage(**{name: image.get(name) for name in ResultImage.__slots__})
            for image in self.raw.get("images") or ()
        )

    @property
    def error(self) -> dict[str, Any] | None:
        """Why it failed, an RFC 9457 problem with `code` and `detail`; None unless it did."""
        return self.raw.get("error")

    def wait(self, timeout: float | None = None, on_progress: "Callable[[Job], object] | None" = None) -> "Job":
        """The finished job; see `Darkroom.wait`."""
        return self.client.wait(self.id, timeout, on_progress, since=self.raw.get("version"))

    def events(self) -> Iterator[JobEvent]:
        """What happens to it from now on, until it is finished; see `Darkroom.events`."""
        return self.client.events(self.id)

    def cancel(self) -> "Job":
        """The job as it is after the wish to cancel it."""
        return self.client.cancel(self.id)

    def retry(self, *, idempotency_key: str | None = None, **overrides: Any) -> "Job":
        """A new job with this one's request and the `overrides`, of one that failed or was canceled."""
        return self.client.retry(self.id, idempotency_key=idempotency_key, **overrides)

    def edit(
        self,
        *,
        priority: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> "Job":
        """The queued job with these in place of its own; None stays as it is."""
        return self.client.edit(self.id, priority=priority, tags=tags, metadata=metadata)

    def delete(self) -> None:
        """Cancel it if need be and erase its inputs, results and prompt."""
        self.client.delete(self.id)

    @overload
    def download(self, index: int = 0, path: None = None) -> bytes: ...

    @overload
    def download(self, index: int = 0, *, path: str | os.PathLike[str]) -> Path: ...

    @overload
    def download(self, index: int, path: str | os.PathLike[str]) -> Path: ...

    def download(self, index: int = 0, path: str | os.PathLike[str] | None = None) -> bytes | Path:
        """One finished picture: its bytes, or with `path` the file that they were written to."""
        return self.client.fetch_image(self.id, index, path)
