"""The lines of a batch as far as each can be read by itself: a job request and where its images come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from common.db.batch_work import BatchWork
from common.db.earlier_jobs import RetriedJob, find_retried
from common.domain.errors import Invalid, Problem
from common.requests.images import ImageSource
from common.requests.job import JobRequest
from common.requests.jobs import ROLES
from common.requests.lines import json_bytes, read_line, read_retried
from common.requests.retrying import awaited_source, merge_request, pointing_into_overrides, seed_of_retry
from courier.batch_pictures import DataPictures, Picture
from courier.tools import Tools

Source = ImageSource | Picture | Problem
"""Where an image comes from; of a problem, nowhere."""
Raw = tuple[int, bytes]
INTERNAL: Final = Problem("", "internal", "something went wrong on our side")
_RETRIED_AT_ONCE: Final = 500

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its request without images, which stand in `sources`, or what is wrong with it.

    `custom_id` is None when it is of no use; `bytes_` is about what its request has. A line that tries a job again has
    that job's id, seed and external id.
    """

    number: int
    custom_id: str | None
    request: JobRequest | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    retry_of: str | None = None
    random_seed: int | None = None
    external_id: str | None = None
    bytes_: int = 0


class LineReader:
    """Reads the lines of a batch."""

    def __init__(self, tools: Tools, work: BatchWork) -> None:
        self._tools = tools
        self._work = work
        self._pictures = DataPictures(tools, work.tenant_id)
        self._defaults: Mapping[str, Any] = work.request.get("defaults") or {}
        self._overrides: Mapping[str, Any] = work.request.get("overrides") or {}
        self._defaults_bytes = json_bytes(self._defaults)

    @property
    def at_once(self) -> int:
        """How many lines are better read together."""
        return 1 if self._work.retry_of is None else _RETRIED_AT_ONCE

    def read(self, raws: Sequence[Raw]) -> list[Line]:
        """These lines. Raises `StoreUnavailable`, `DecoderUnavailable`."""
        if self._work.retry_of is None:
            return [self._read(number, raw) for number, raw in raws]
        named = [(number, *read_retried(raw)) for number, raw in raws]
        with self._tools.database.read() as connection:
            found = find_retried(connection, self._work.tenant_id, {job_id for _, _, job_id in named})
        return [self._retry(number, custom_id, job_id, found) for number, custom_id, job_id in named]

    def _taken_in(self, source: ImageSource, role: str) -> Source:
        return source if source.data is None else self._pictures.take_in(source.data, f"/{role}")

    def _read(self, number: int, raw: bytes) -> Line:
        try:
            read = read_line(number, raw, self._defaults)
        except Exception as error:  # the edge of one line: the others go on
            return Line(number, None, problems=(stumbled(error, number),))
        request = read.request
        if request is None:
            return Line(number, read.custom_id, problems=read.problems)
        sources = self._sources(request)
        if sources:
            request = request.model_copy(update=dict.fromkeys(ROLES))  # frees the bytes of images
        return Line(number, read.custom_id, request, sources, bytes_=self._defaults_bytes + len(raw))

    def _sources(self, request: JobRequest) -> dict[str, Source]:
        given = {role: getattr(request, role) for role in ROLES}
        return {role: self._taken_in(source, role) for role, source in given.items() if source is not None}

    def _retry(self, number: int, custom_id: str, job_id: str, found: Mapping[str, RetriedJob]) -> Line:
        retried = found.get(job_id)
        if retried is None:
            gone = Problem("", "gone", "the job that was to be tried again has been erased")
            return Line(number, custom_id, problems=(gone,), retry_of=job_id)
        accepted, overrides = retried.accepted, self._overrides
        try:
            with pointing_into_overrides():
                request = merge_request(accepted, retried.notes | {"priority": None}, overrides)
        except Invalid as error:
            return Line(number, custom_id, problems=error.problems, retry_of=job_id)
        sources: dict[str, Source] = {}
        for role in ROLES:
            source = self._retried_source(role, request, retried)
            if source is not None:
                sources[role] = source
        seed = seed_of_retry(accepted, retried.params, overrides)
        request = request.model_copy(update=dict.fromkeys(ROLES))
        external_id = None if "external_id" in overrides else retried.external_id
        return Line(
            number,
            custom_id,
            request,
            sources,
            retry_of=job_id,
            random_seed=seed,
            external_id=external_id,
            bytes_=len(request.model_dump_json()),
        )

    def _retried_source(self, role: str, request: JobRequest, retried: RetriedJob) -> Source | None:
        """The overridden image, else the one of then: as it was prepared, or still to be fetched."""
        if role in self._overrides:
            source = getattr(request, role)
            return None if source is None else self._taken_in(source, role)
        if role in retried.accepted.inputs:
            return Picture(retried.accepted.inputs[role])
        return awaited_source(retried.accepted, role)


def stumbled(error: Exception, number: int) -> Problem:
    """The problem of a line over which this program fell, which is a mistake of ours."""
    _log.error("batch.line_stumbled", line=number, exc_info=error)
    return INTERNAL


def without_id(line: Line) -> Line:
    """The line whose id an earlier one has."""
    detail = f"custom_id {line.custom_id!r} is that of an earlier line; each is unique in its batch"
    problem = Problem("/custom_id", "validation_error", detail)
    return replace(line, custom_id=None, problems=(*line.problems, problem))
