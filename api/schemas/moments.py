"""Moments in queries and bodies."""

import re
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import Query
from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

_RFC3339: Final = re.compile(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")


def parse_moment(value: Any) -> datetime:
    """The moment of an RFC 3339 text, from the year 2000 on. Raises `PydanticCustomError`."""
    try:
        if _RFC3339.fullmatch(value):
            return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        pass
    raise PydanticCustomError("validation_error", "must be a moment such as 2026-01-31T12:00:00Z")


BodyMoment = Annotated[
    datetime, BeforeValidator(parse_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
Moment = Annotated[
    datetime, BeforeValidator(parse_moment), Query(description="Such as `2026-01-31T12:00:00Z`; a `+` must be `%2B`.")
]
