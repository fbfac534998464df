"""Trying a job again: its request as it was accepted, and what shall be otherwise."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from common.domain.errors import Invalid
from common.domain.job import AcceptedRequest
from common.domain.params import SEED_LIMIT, EditParams
from common.domain.wishes import drawn_seed, wishes_of
from common.requests.images import ImageSource, source_of
from common.requests.job import JobRequest
from common.requests.jobs import ROLES
from common.requests.validation import parse_job_request, unknown_names

OVERRIDES: Final = "/overrides"
_APART: Final = frozenset({*ROLES, "external_id"})


@contextmanager
def pointing_into_overrides() -> Iterator[None]:
    """Every wrong field is mended there, also one that was right when the first job was submitted."""
    try:
        yield
    except Invalid as error:
        raise Invalid([replace(one, pointer=OVERRIDES + one.pointer) for one in error.problems]) from None


def merge_request(accepted: AcceptedRequest, notes: Mapping[str, Any], overrides: Mapping[str, Any]) -> JobRequest:
    """The new request: what was accepted, over that `notes`, over that the overrides; None is back to the default.

    Images and external id stand in it only where they are overridden: those of then were not all given in a request.
    Raises `Invalid`.
    """
    fields = list(JobRequest.model_fields)
    unknown = unknown_names("", (name for name in overrides if name not in fields), fields)
    if unknown:
        raise Invalid(unknown)
    stored = {name: value for name, value in accepted.request.items() if name not in _APART}
    members = stored | dict(notes) | dict(overrides)
    return parse_job_request({name: value for name, value in members.items() if value is not None})


def awaited_source(accepted: AcceptedRequest, role: str) -> ImageSource | None:
    """Where the image of the first job was to come from, if that had not been done."""
    url = None if role in accepted.inputs else accepted.request.get(role, {}).get("url")
    return None if url is None else source_of(url)


def seed_of_retry(accepted: AcceptedRequest, told: EditParams, overrides: Mapping[str, Any]) -> int:
    """The seed for what the new request gives none: that which the first job was told, unless a new one is wished."""
    if "seed" in overrides:  # if it is null, a new one is wished
        return secrets.randbelow(SEED_LIMIT)
    return drawn_seed(wishes_of(accepted.request), told)
