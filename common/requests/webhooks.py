"""The webhook that a request brings along: where to tell of this one job or batch."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from common.requests.base import Strict
from common.requests.images import Url
from common.signing import key_of

JobEvent = Literal["job.started", "job.succeeded", "job.failed", "job.canceled"]
BatchEvent = Literal["batch.completed", "batch.canceled"]


def check_secret(secret: SecretStr) -> SecretStr:
    """Refuse what is no secret of Standard Webhooks, without repeating it."""
    try:
        key_of(secret.get_secret_value())
    except ValueError as error:
        raise PydanticCustomError("validation_error", "{why}", {"why": str(error)}) from None
    return secret


def check_distinct(events: list[Any]) -> list[Any]:
    """Refuse a list that names an event twice."""
    if len(set(events)) != len(events):
        raise PydanticCustomError("validation_error", "names an event twice")
    return events


Secret = Annotated[
    SecretStr,
    AfterValidator(check_secret),
    WithJsonSchema({"type": "string", "pattern": "^whsec_[A-Za-z0-9+/]{32,86}={0,2}$", "writeOnly": True}),
]
JobEvents = Annotated[list[JobEvent], Field(min_length=1, max_length=4), AfterValidator(check_distinct)]
BatchEvents = Annotated[list[BatchEvent], Field(min_length=1, max_length=2), AfterValidator(check_distinct)]


class OwnWebhook(Strict):
    """Where to tell of one thing."""

    url: Url = Field(description="A public https address; it is checked now and again before every call.")
    secret: Secret | None = Field(
        None,
        description="`whsec_` and the base64 of 24 to 64 random bytes. Default: that of your newest enabled webhook of "
        "`POST /v1/webhooks`; without one of those it is required.",
    )


class JobWebhookRequest(OwnWebhook):
    """Where to tell of this one job."""

    events: JobEvents | None = Field(None, description="Default: all but `job.started`.")


class BatchWebhookRequest(OwnWebhook):
    """Where to tell of this one batch."""

    events: BatchEvents | None = Field(None, description="Default: both.")
