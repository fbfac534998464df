"""What a tenant has used, as clients see it."""

from pydantic import BaseModel


class UsageDay(BaseModel):
    """A UTC day: jobs that ended, results that were made, device seconds of attempts that ended.

    Jobs that shared the device share its seconds. An attempt whose worker was lost is not counted.
    """

    day: str
    jobs: int
    images: int
    device_seconds: float


class UsageLimits(BaseModel):
    """The limits of the tenant; null: it has none of its own."""

    requests_per_minute: int | None
    max_queued: int | None
    images_per_day: int | None
    device_seconds_per_day: float | None
    max_stored_bytes: int | None


class Usage(BaseModel):
    """The last days, today first; days without use are there with zeros."""

    data: list[UsageDay]
    limits: UsageLimits
