"""Batches: the bodies of requests, and a batch as clients see it; `common.batch_document` builds it."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from api.schemas.job import Answer
from common.domain.batch import MOST_ITEMS, OnInvalid
from common.requests.base import Strict, Text
from common.requests.job import Lane, MetadataValue, Tag
from common.requests.webhooks import BatchWebhookRequest

BatchStatus = Literal["validating", "running", "paused", "completed", "canceled", "rejected"]
Column = Annotated[list[Any], Field(min_length=1)]


class MatrixRequest(Strict):
    """Values by field of a job; a line for each row of `zip` with each combination of `product`."""

    zip: dict[str, Column] = Field(
        default_factory=dict,
        description="These go together: the first of each list, the second, … `custom_id` may be among them.",
    )
    product: dict[str, Column] = Field(
        default_factory=dict, description="All combinations of these, the last field changing fastest."
    )


class BatchEnvelope(Strict):
    """What is said of all lines of a batch. As the part `request` of a form, with its lines in the part `manifest`."""

    name: Text | None = Field(None, min_length=1, max_length=200, description="For people.")
    defaults: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of a job request, which every line has unless it says otherwise; null in a line is back to "
        "the default of the field. Without `priority` and `webhook`, which are the batch's.",
    )
    priority: Lane | None = Field(None, description="Of all jobs. Default: low.")
    on_invalid: OnInvalid = Field(
        "reject",
        description="`reject`: one wrong line, and nothing is queued. `skip`: wrong lines count as failed, the others "
        "are queued.",
    )
    webhook: BatchWebhookRequest | None = Field(None, description="Where to tell of this batch, signed and retried.")
    metadata: dict[Tag, MetadataValue] = Field(
        default_factory=dict, max_length=16, description="Your own keys, echoed in the batch."
    )


class BatchRequest(BatchEnvelope):
    """Many jobs at once, given as `items` or as a `matrix`. More than 1000 items are sent as a manifest."""

    items: list[dict[str, Any]] | None = Field(
        None,
        min_length=1,
        max_length=MOST_ITEMS,
        description="Fields of a job request each, and `custom_id`: your own id of the line, unique in the batch, "
        "1 to 255 characters. Default: the number of the line, from 0.",
    )
    matrix: MatrixRequest | None = Field(None, description="In place of items: lists of values, 100,000 lines at most.")

    @model_validator(mode="after")
    def _check_one_way(self) -> "BatchRequest":
        if (self.items is None) == (self.matrix is None):
            found = "it has none" if self.items is None else "not both"
            raise PydanticCustomError("validation_error", f"needs exactly one of items and matrix, {found}")
        return self


class BatchRetryRequest(Strict):
    """What the new batch does otherwise."""

    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of a job request, each as a whole, for every line; null is back to its default.",
    )
    include_canceled: bool = Field(False, description="Also what was canceled.")
    on_invalid: OnInvalid = Field(
        "skip",
        description="`skip`: a line that cannot be tried again, as one whose job was erased, counts as failed, the "
        "others are queued. `reject`: then nothing is queued.",
    )


class LineProblem(Answer):
    """What is wrong with a line, which is counted from 0; `pointer` leads into it. `line` is null where the batch as a
    whole is wrong.
    """

    line: int | None
    pointer: str
    code: str
    detail: str
    allowed: Any = None
    did_you_mean: str | None = None


class BatchLines(Answer):
    """Lines of the manifest: all of them, how many are checked, and how many stand with their jobs."""

    total: int
    validated: int
    inserted: int


class Counts(Answer):
    """Where the lines are, by a recount; `total` is the sum of the others.

    `queued` has those whose job does not stand yet, `failed` the wrong lines that were skipped.
    """

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    canceled: int


class BatchQueue(Answer):
    """Jobs before the first waiting one of the batch, or with `is_lower_bound` at least so many; null: not known."""

    position: int | None
    is_lower_bound: bool


class BatchUrls(Answer):
    """Where to go from here."""

    self: str
    events: str
    jobs: str
    results: str
    archive: str
    cancel: str
    pause: str
    resume: str
    retry: str


class Batch(Answer):
    """A batch at one version. `errors` are the first 100 of `error_count`; `eta_seconds` until its last job is done."""

    id: str
    name: str | None
    status: BatchStatus
    version: int
    priority: Lane
    created_at: str
    started_at: str | None
    finished_at: str | None
    cancel_requested: bool
    lines: BatchLines
    counts: Counts
    queue: BatchQueue
    eta_seconds: float | None
    on_invalid: OnInvalid
    errors: list[LineProblem]
    error_count: int
    retry_of: str | None
    metadata: dict[str, str]
    urls: BatchUrls


class BatchPage(Answer):
    """One page of batches, newest first; `next` is the next page's `after`."""

    data: list[Batch]
    has_more: bool
    next: str | None
