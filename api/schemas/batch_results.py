"""What comes out of a batch, as clients see it; `common.result_document` builds it."""

from typing import Any, Literal

from api.schemas.job import Answer, Image


class ResultLine(Answer):
    """One item of a batch as it is now.

    `line` is its number in the manifest, from 0. `job` is null for a line that was wrong (`failed`) or that the batch
    was canceled before (`canceled`). `images` are those of a success, until they expire; `error` is the problem object
    of a failure.
    """

    line: int
    custom_id: str | None
    job: str | None
    status: Literal["queued", "running", "succeeded", "failed", "canceled"]
    images: list[Image]
    error: dict[str, Any] | None
