"""A batch as its owner sees it, and one line of its results."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from client.job import Job, ResultImage
from common.domain.batch import BatchCounts, BatchState
from common.domain.lifecycle import TERMINAL

_OVER = frozenset(state.value for state in BatchState if state.is_terminal)


class BatchClient(Protocol):
    """What a batch asks of the `Batches` that it came from."""

    def get(self, batch_id: str) -> "Batch":
        """See `Batches.get`."""

    def wait(
        self,
        batch: "Batch | str",
        timeout: float | None = None,
        on_progress: "Callable[[Batch], object] | None" = None,
    ) -> "Batch":
        """See `Batches.wait`."""

    def results(
        self,
        batch: "Batch | str",
        *,
        after: str | None = None,
        after_line: int | None = None,
        limit: int | None = None,
    ) -> "Iterator[BatchResult]":
        """See `Batches.results`."""

    def archive(self, batch: "Batch | str", path: str | os.PathLike[str]) -> Path:
        """See `Batches.archive`."""

    def jobs(self, batch: "Batch | str", *, status: str | None = None) -> Iterator[Job]:
        """See `Batches.jobs`."""

    def pause(self, batch: "Batch | str") -> "Batch":
        """See `Batches.pause`."""

    def resume(self, batch: "Batch | str") -> "Batch":
        """See `Batches.resume`."""

    def cancel(self, batch: "Batch | str") -> "Batch":
        """See `Batches.cancel`."""

    def retry(
        self,
        batch: "Batch | str",
        *,
        overrides: dict[str, Any] | None = None,
        include_canceled: bool = False,
        on_invalid: str | None = None,
        idempotency_key: str | None = None,
    ) -> "Batch":
        """See `Batches.retry`."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """One line of a batch with what became of it; `raw` is the server's JSON.

    `Darkroom.download(result.job_id, image.index)` fetches a picture.
    """

    raw: dict[str, Any]

    @property
    def line(self) -> int:
        """Its number in the manifest, from 0."""
        return int(self.raw["line"])

    @property
    def custom_id(self) -> str | None:
        """The name of the line; None for a wrong one whose name another line has, or that cannot be one."""
        return self.raw.get("custom_id")

    @property
    def job_id(self) -> str | None:
        """Its job, `job_…`; None for a wrong line, which has none."""
        return self.raw.get("job")

    @property
    def status(self) -> str:
        """As of a job: `queued`, `running`, `succeeded`, `failed` or `canceled`."""
        return str(self.raw["status"])

    @property
    def is_finished(self) -> bool:
        """True when the status will not change any more."""
        return self.status in TERMINAL

    @property
    def images(self) -> tuple[ResultImage, ...]:
        """The finished pictures, in the order of their indices; none once they have expired."""
        return tuple(
            ResultImage(**{name: image.get(name) for name in ResultImage.__slots__})
            for image in self.raw.get("images") or ()
        )

    @property
    def error(self) -> dict[str, Any] | None:
        """Why it failed, an RFC 9457 problem; None unless it did."""
        return self.raw.get("error")


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch at one version; `raw` is the server's JSON. It never changes: `refresh`, `wait`, `pause` … give newer
    ones.
    """

    raw: dict[str, Any]
    client: BatchClient = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        """The id, `bat_…`."""
        return str(self.raw["id"])

    @property
    def status(self) -> str:
        """`validating`, `running`, `paused`, `completed`, `canceled` or `rejected`."""
        return str(self.raw["status"])

    @property
    def is_finished(self) -> bool:
        """True when the status will not change any more. A `completed` batch may have failed lines: see `counts`."""
        return self.status in _OVER

    @property
    def counts(self) -> BatchCounts:
        """How many lines are where; `total` is the sum of the others."""
        members = self.raw.get("counts") or {}
        return BatchCounts(**{name: int(members.get(name) or 0) for name in BatchCounts.__slots__})

    @property
    def inserted(self) -> int:
        """So many lines stand with their jobs, from the first on; the others are still to be queued."""
        return int((self.raw.get("lines") or {}).get("inserted") or 0)

    @property
    def eta_seconds(self) -> float | None:
        """The server's guess of how long until the last job is done; None when it cannot tell."""
        return self.raw.get("eta_seconds")

    @property
    def errors(self) -> tuple[dict[str, Any], ...]:
        """The first wrong lines: `line` from 0, None for what is wrong with all; `pointer`, `code`, `detail`."""
        return tuple(self.raw.get("errors") or ())

    def refresh(self) -> "Batch":
        """The batch as it is now."""
        return self.client.get(self.id)

    def wait(self, timeout: float | None = None, on_progress: "Callable[[Batch], object] | None" = None) -> "Batch":
        """The finished batch; see `Batches.wait`."""
        return self.client.wait(self, timeout, on_progress)

    def results(
        self, *, after: str | None = None, after_line: int | None = None, limit: int | None = None
    ) -> Iterator[BatchResult]:
        """What became of each line, in the order of the manifest; see `Batches.results`."""
        return self.client.results(self, after=after, after_line=after_line, limit=limit)

    def archive(self, path: str | os.PathLike[str]) -> Path:
        """Every finished picture in one zip file; see `Batches.archive`."""
        return self.client.archive(self, path)

    def jobs(self, *, status: str | None = None) -> Iterator[Job]:
        """Its jobs, newest first; see `Batches.jobs`."""
        return self.client.jobs(self, status=status)

    def pause(self) -> "Batch":
        """Start no more of its jobs; those that run go on."""
        return self.client.pause(self)

    def resume(self) -> "Batch":
        """Go on after `pause`."""
        return self.client.resume(self)

    def cancel(self) -> "Batch":
        """The batch as it is after the wish to cancel it; a finished one stays as it is."""
        return self.client.cancel(self)

    def retry(
        self,
        *,
        overrides: dict[str, Any] | None = None,
        include_canceled: bool = False,
        on_invalid: str | None = None,
        idempotency_key: str | None = None,
    ) -> "Batch":
        """A new batch of what failed; see `Batches.retry`."""
        return self.client.retry(
            self,
            overrides=overrides,
            include_canceled=include_canceled,
            on_invalid=on_invalid,
            idempotency_key=idempotency_key,
        )
