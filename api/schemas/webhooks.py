"""Webhooks and deliveries: the bodies of requests, and both as clients see them; `api.presenters` builds them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.schemas.job import Answer
from api.schemas.moments import BodyMoment
from common.ids import is_id
from common.requests.base import Strict, Text
from common.requests.images import JobId, Url
from common.requests.webhooks import JobEvent, Secret, check_distinct

Event = Literal[JobEvent, "batch.completed", "batch.canceled"]
DeliveryStatus = Literal["pending", "delivered", "failed", "disabled"]


def check_webhook_id(text: str) -> str:
    """Refuse what cannot be the id of a webhook."""
    if not is_id(text, "whe"):
        raise PydanticCustomError("validation_error", "must be the id of a webhook, whe_ and 32 hexadecimal digits")
    return text


def check_batch_id(text: str) -> str:
    """Refuse what cannot be the id of a batch."""
    if not is_id(text, "bat"):
        raise PydanticCustomError("validation_error", "must be the id of a batch, bat_ and 32 hexadecimal digits")
    return text


WebhookId = Annotated[
    str, AfterValidator(check_webhook_id), WithJsonSchema({"type": "string", "pattern": "^whe_[0-9a-f]{32}$"})
]
BatchId = Annotated[
    str, AfterValidator(check_batch_id), WithJsonSchema({"type": "string", "pattern": "^bat_[0-9a-f]{32}$"})
]
Events = Annotated[list[Event], Field(min_length=1, max_length=6), AfterValidator(check_distinct)]


class WebhookRequest(Strict):
    """A standing endpoint: it hears of every job and batch of its tenant."""

    url: Url = Field(description="A public https address; it is checked now and again before every call.")
    events: Events | None = Field(None, description="Default: all but `job.started`.")
    secret: Secret | None = Field(
        None, description="`whsec_` and the base64 of 24 to 64 random bytes. Default: one is made."
    )
    description: Text | None = Field(None, max_length=200, description="For people.")


class RotateRequest(Strict):
    """What signs from now on."""

    secret: Secret | None = Field(
        None, description="`whsec_` and the base64 of 24 to 64 random bytes. Default: one is made."
    )


class RedeliverRequest(Strict):
    """Which deliveries to send again: those that all of these are true of."""

    webhook: WebhookId | None = Field(None, description="Of this endpoint.")
    job: JobId | None = Field(None, description="Of this job.")
    batch: BatchId | None = Field(None, description="Of this batch itself; not beside `job`.")
    status: DeliveryStatus = Field("failed", description="That are in this state.")
    created_after: BodyMoment | None = Field(None, description="Of events after this moment.")
    created_before: BodyMoment | None = Field(None, description="Of events before this moment.")


class WebhookUrls(Answer):
    """Where to go from here."""

    self: str
    test: str
    rotate: str
    enable: str
    deliveries: str


class Webhook(Answer):
    """An endpoint. `old_secret_until`: until then a replaced secret signs too; `failing_since`: no call succeeded."""

    id: str
    url: str
    description: str | None
    events: list[str]
    status: Literal["enabled", "disabled"]
    disabled_reason: Literal["gone", "failing"] | None
    failing_since: str | None
    created_at: str
    old_secret_until: str | None
    urls: WebhookUrls


class WebhookWithSecret(Webhook):
    """An endpoint whose secret was just set: keep it, it is shown only here."""

    secret: str


class WebhookPage(Answer):
    """One page of webhooks, newest first; `next` is the next page's `after`."""

    data: list[Webhook]
    has_more: bool
    next: str | None


class Attempt(Answer):
    """One call: `status` and the first 1 kB of the `response` where there was one, else the `error`."""

    at: str
    status: int | None
    ms: int
    response: str | None
    error: str | None


class Delivery(Answer):
    """One event on its way to one endpoint. `event_id` is the `webhook-id` header of every attempt.

    `job` and `batch`: what it tells of; both null for `webhook.test`.
    """

    id: str
    webhook: str
    job: str | None
    batch: str | None
    event: str
    event_id: str
    url: str
    status: DeliveryStatus
    attempt: int
    next_at: str | None
    created_at: str
    ended_at: str | None
    log: list[Attempt]


class DeliveryDetail(Delivery):
    """A delivery with what is sent: null before the first attempt, and once its job is erased."""

    body: str | None


class DeliveryPage(Answer):
    """One page of deliveries, newest first; `next` is the next page's `after`."""

    data: list[Delivery]
    has_more: bool
    next: str | None


class Redelivered(Answer):
    """How many deliveries are on their way again."""

    redelivered: int
