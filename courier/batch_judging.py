"""Whether the lines of a batch can run: their references exist, their models can do it; and what will run."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from common.clock import monotonic_seconds
from common.db.batch_work import BatchWork
from common.db.earlier_jobs import EarlierJob, find_earlier
from common.db.objects import announce_all
from common.db.uploads import Upload, find_uploads
from common.domain.errors import Invalid, Problem
from common.domain.job import InputRef
from common.domain.params import SEED_LIMIT
from common.domain.sizes import Size
from common.outbound.errors import FetchFailed, UrlBlocked
from common.requests.images import ImageSource, result_url
from common.requests.planning import Inputs, Plan
from common.requests.references import LIFE_OVER, require_picture, require_result
from common.requests.retrying import OVERRIDES
from common.requests.templates import Planner
from courier.batch_lines import Line, Source, stumbled
from courier.batch_pictures import Picture
from courier.tools import Tools


@dataclass(frozen=True, slots=True)
class Verdict:
    """A line with what will run, its stored inputs and those to be fetched, by role; or with what is wrong."""

    line: Line
    plan: Plan | None = None
    inputs: Mapping[str, InputRef] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Input:
    """One resolved image: stored, or with the URL of an intake."""

    reference: InputRef | None = None
    url: str | None = None
    size: Size | None = None
    is_opaque: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says of all references of a chunk; `live` are keys of objects that are there to stay."""

    uploads: Mapping[str, Upload] = field(default_factory=dict)
    earlier: Mapping[str, EarlierJob] = field(default_factory=dict)
    live: frozenset[str] = frozenset()


class Judge:
    """Judges the lines of one batch, chunk by chunk. Shapes that it has settled and hosts looked up are remembered."""

    def __init__(self, tools: Tools, work: BatchWork) -> None:
        self._tools = tools
        self._tenant_id = work.tenant_id
        self._planner = Planner(tools.catalogue)
        self._hosts: dict[str, str | None] = {}
        self._looks_until = 0.0

    def judge(self, lines: Sequence[Line]) -> list[Verdict]:
        """The verdict of each line. Inputs that are stored stay so for an hour at least. Raises `Unavailable`."""
        known = self._look_up(lines)
        # Lookups may hang; the lease is for all of the chunk. What is not looked up now is judged when it is fetched.
        self._looks_until = monotonic_seconds() + self._tools.settings.lease_seconds / 4
        return [self._judge(line, known) for line in lines]

    def _look_up(self, lines: Sequence[Line]) -> _Known:
        sources = [source for line in lines for source in line.sources.values()]
        named = [source for source in sources if isinstance(source, ImageSource)]
        upload_ids = {one.upload for one in named if one.upload is not None}
        job_ids = {one.job for one in named if one.job is not None}
        keys = {one.reference.key for one in sources if isinstance(one, Picture)}
        if not (upload_ids or job_ids or keys):
            return _Known()
        with self._tools.database.read() as connection:
            uploads = find_uploads(connection, self._tenant_id, upload_ids)
            earlier = find_earlier(connection, self._tenant_id, job_ids)
        keys |= {one.picture.key for one in uploads.values() if one.picture is not None}
        live = self._tools.database.transact(lambda connection: announce_all(connection, self._tenant_id, keys))
        return _Known(uploads, earlier, frozenset(live))

    def _judge(self, line: Line, known: _Known) -> Verdict:
        if line.request is None or line.problems:
            return Verdict(line, problems=line.problems)
        found: dict[str, _Input] = {}
        problems: list[Problem] = []
        for role, source in line.sources.items():
            try:
                found[role] = self._resolve(source, known, f"/{role}")
            except Invalid as error:
                problems += error.problems
        if not problems:
            try:
                return self._planned(line, found)
            except Invalid as error:
                problems += error.problems
            except Exception as error:  # the edge of one line: the others go on
                problems.append(stumbled(error, line.number))
        prefix = "" if line.retry_of is None else OVERRIDES
        return Verdict(line, problems=tuple(replace(one, pointer=prefix + one.pointer) for one in problems))

    def _planned(self, line: Line, found: Mapping[str, _Input]) -> Verdict:
        assert line.request is not None
        image, mask = found.get("image"), found.get("mask")
        inputs = Inputs(
            has_image=image is not None,
            has_mask=mask is not None,
            image_size=image.size if image else None,
            mask_size=mask.size if mask else None,
            is_opaque=image is not None and image.is_opaque,
        )
        seed = secrets.randbelow(SEED_LIMIT) if line.random_seed is None else line.random_seed
        return Verdict(
            line,
            plan=self._planner.plan(line.request, inputs, random_seed=seed),
            inputs={role: one.reference for role, one in found.items() if one.reference is not None},
            urls={role: one.url for role, one in found.items() if one.url is not None},
        )

    def _resolve(self, source: Source, known: _Known, pointer: str) -> _Input:
        if isinstance(source, Problem):
            raise Invalid([source])
        if isinstance(source, Picture):
            return _stored(source.reference, known, pointer, is_opaque=source.has_alpha is False)
        if source.upload is not None:
            return _stored(require_picture(known.uploads.get(source.upload), pointer), known, pointer)
        if source.job is not None:
            image = require_result(known.earlier.get(source.job), source.index or 0, pointer)
            return _Input(url=result_url(source.job, image.index), size=(image.width, image.height))
        assert source.url is not None
        self._check_url(source.url, f"{pointer}/url")
        return _Input(url=source.url)

    def _check_url(self, url: str, pointer: str) -> None:
        try:
            host = self._tools.outbound.read(url).host
        except UrlBlocked as error:
            raise Invalid([Problem(pointer, error.code, error.detail)]) from None
        if host not in self._hosts and monotonic_seconds() < self._looks_until:
            self._hosts[host] = self._look_at(url)
        if detail := self._hosts.get(host):
            raise Invalid([Problem(pointer, UrlBlocked.code, detail)])

    def _look_at(self, url: str) -> str | None:
        """Why its host may not be called. One that cannot be looked up right now may."""
        try:
            self._tools.outbound.check(url)
        except UrlBlocked as error:
            return error.detail
        except FetchFailed:
            pass
        return None


def _stored(reference: InputRef, known: _Known, pointer: str, *, is_opaque: bool = False) -> _Input:
    if reference.key not in known.live:
        raise Invalid([Problem(pointer, "validation_error", LIFE_OVER)])
    return _Input(reference, size=(reference.width, reference.height), is_opaque=is_opaque)
