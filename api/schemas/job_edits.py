"""The bodies of what is done to a job that stands: `PATCH /v1/jobs/{id}` and `POST /v1/jobs/{id}/retry`."""

from typing import Any

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from common.requests.base import Strict
from common.requests.job import Lane, MetadataValue, Tag


class JobEditRequest(Strict):
    """What shall change; what is left out stays as it is. At least one of these."""

    priority: Lane | None = Field(
        None, description="Another one puts the job where one of that priority, submitted now, would stand."
    )
    tags: list[Tag] | None = Field(None, max_length=10, description="In place of the ones it has.")
    metadata: dict[Tag, MetadataValue] | None = Field(
        None, max_length=16, description="In place of what it has, as a whole."
    )

    @field_validator("*")
    @classmethod
    def _check_value(cls, value: Any) -> Any:
        if value is None:
            raise PydanticCustomError("validation_error", "null is no value; leave out what shall stay as it is")
        return value

    @model_validator(mode="after")
    def _check_any(self) -> "JobEditRequest":
        if not self.model_fields_set:
            raise PydanticCustomError("validation_error", "needs at least one of priority, tags and metadata")
        return self


class RetryRequest(Strict):
    """What the new job does otherwise."""

    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Fields of a job request, each as a whole; null is back to its default."
    )
