"""The errand of images that jobs await: read, decode in a child process, store our own picture, let the job be claimed.

They are given by URL, or by a line of a batch as the result of an earlier job.

What may pass is tried again, up to three times; what will not fails the job. That our own store or decoder is away is
not the image's fault and spends no try; that couriers die over an image is, so that ends too.
"""

from typing import Any, Final

import structlog

from common import failpoints
from common.db.earlier_jobs import find_earlier
from common.db.intakes import Intake, complete, fail, retry_later, take
from common.domain.errors import Invalid, JobFailure, problem_document
from common.images.sandbox import DecoderUnavailable
from common.images.untrusted import ImageRejected
from common.outbound.errors import FileTooLong, LookupsBusy, OutboundError
from common.requests.images import RESULT_SCHEME, source_of
from common.requests.references import require_result
from common.storage.port import ObjectMissing, StoreUnavailable
from courier.pictures import store_picture
from courier.tools import Tools

MOST_TRIES: Final = 3
BACKOFF_SECONDS: Final = (2.0, 10.0)
FETCH_SECONDS: Final = 30.0
# Above the tries, because a courier that was stopped in the middle has spent one too.
_MOST_TAKES: Final = 6
_PAUSE_SECONDS: Final = 5.0

_log = structlog.get_logger()


def fetch_image(tools: Tools) -> int:
    """Take one image that is due and bring it to its job. Returns how many were taken."""
    with tools.database.write() as connection:
        intake = take(connection, tools.worker_id, FETCH_SECONDS + tools.settings.lease_seconds)
    if intake is None:
        return 0
    with structlog.contextvars.bound_contextvars(job_id=intake.job_id, role=intake.role, attempt=intake.attempt):
        _run(tools, intake)
    return 1


def _run(tools: Tools, intake: Intake) -> None:
    if intake.attempt > _MOST_TAKES:
        _fail(tools, intake, JobFailure("fetching the image never came to an end", code="input_fetch_failed").as_dict())
        return
    try:
        pool = _bring(tools, intake)
    except OutboundError as error:
        _on_outbound_error(tools, intake, error)
    except ImageRejected as error:
        # An unknown format is a matter of headers at the API; here it is an image that cannot be read.
        code = "image_too_large" if error.code == "image_too_large" else "image_unreadable"
        _fail(tools, intake, JobFailure(error.detail, code=code).as_dict())
    except JobFailure as error:
        _fail(tools, intake, error.as_dict())
    except Invalid as error:
        _fail(tools, intake, problem_document(error.code, error.detail, problems=error.problems))
    except (StoreUnavailable, DecoderUnavailable) as error:
        _log.warning("intake.postponed", error=type(error).__name__)
        _retry(tools, intake, _PAUSE_SECONDS, spend=False)
    else:
        _log.info("intake.completed", is_last=pool is not None)
        if pool is not None:
            tools.doorbell.ring(pool, 1)


def _bring(tools: Tools, intake: Intake) -> str | None:
    """The pool to ring, if the job may be claimed now."""
    image = tools.decoder.decode(_read(tools, intake))
    reference = store_picture(tools, intake.tenant_id, image)
    failpoints.hit("courier.stored")
    with tools.database.write() as connection:
        return complete(connection, intake, reference, tools.catalogue, has_alpha=image.has_alpha)


def _read(tools: Tools, intake: Intake) -> bytes:
    """The file: from the net, or a result of an earlier job from our own store."""
    if not intake.url.startswith(RESULT_SCHEME):
        max_bytes = tools.settings.max_image_bytes
        return tools.outbound.fetch(intake.url, max_bytes=max_bytes, total_seconds=FETCH_SECONDS).body
    source = source_of(intake.url)
    assert source.job is not None
    try:
        with tools.database.read() as connection:
            job = find_earlier(connection, intake.tenant_id, [source.job]).get(source.job)
        return tools.store.get(require_result(job, source.index or 0, f"/{intake.role}").key)
    except (Invalid, ObjectMissing):
        raise JobFailure("the image of the earlier job is no longer there", code="input_missing") from None


def _on_outbound_error(tools: Tools, intake: Intake, error: OutboundError) -> None:
    if isinstance(error, LookupsBusy):
        _log.warning("intake.postponed", error=type(error).__name__)
        _retry(tools, intake, _PAUSE_SECONDS, spend=False)
        return
    if error.retryable and intake.attempt < MOST_TRIES:
        seconds = BACKOFF_SECONDS[intake.attempt - 1]
        _log.info("intake.retried", detail=error.detail, seconds=seconds)
        _retry(tools, intake, seconds)
        return
    code = "image_too_large" if isinstance(error, FileTooLong) else error.code
    _fail(tools, intake, JobFailure(error.detail, code=code).as_dict())


def _retry(tools: Tools, intake: Intake, seconds: float, *, spend: bool = True) -> None:
    with tools.database.write() as connection:
        retry_later(connection, intake, seconds, spend=spend)


def _fail(tools: Tools, intake: Intake, error: dict[str, Any]) -> None:
    with tools.database.write() as connection:
        has_failed = fail(connection, intake, error)
    _log.info("intake.failed", code=error["code"], has_failed=has_failed)
