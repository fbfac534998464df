"""Taking jobs in: from the body of a request to its job. What a body was stays here, so that nobody waits with it."""

from anyio import to_thread
from fastapi import Request

from api.bodies import Body, read_body, read_json_body
from api.dependencies import Services, room_for_a_body
from api.schemas.job_edits import RetryRequest
from api.use_cases.idempotency import Idempotency
from api.use_cases.retry_job import Retry, retry_job
from api.use_cases.submit_job import Preview, Submission, Submitted, preview_submit, submit_job
from common.db.tenants import Caller
from common.domain.errors import Invalid, Problem
from common.requests.validation import parse_as, parse_job_request


async def take_job(
    request: Request, services: Services, caller: Caller, key: str | None, *, dry_run: bool
) -> Submitted | Preview:
    """The job that the body asks for, or what it would be. Once this returns, nothing holds the body's bytes."""
    async with room_for_a_body(services):
        body = await read_body(request)

        def work() -> Submitted | Preview:
            submission = _submission(request, body, key)
            if dry_run:
                return preview_submit(services, caller, submission)
            return _with_outlook(services, submit_job(services, caller, submission))

        return await to_thread.run_sync(work, limiter=services.submits)


async def take_retry(request: Request, services: Services, caller: Caller, job_id: str, key: str | None) -> Submitted:
    """The job that takes the place of another one, with the overrides of the body."""
    async with room_for_a_body(services):
        body = await read_json_body(request, may_be_empty=True)
        overrides = parse_as(RetryRequest, body.members).overrides
        wish = Retry(job_id, overrides, _idempotency(request, body, key))

        def work() -> Submitted:
            return _with_outlook(services, retry_job(services, caller, wish))

        return await to_thread.run_sync(work, limiter=services.submits)


def _submission(request: Request, body: Body, key: str | None) -> Submission:
    parsed = parse_job_request(body.members)
    for role in body.files:
        if getattr(parsed, role) is not None:
            raise Invalid([Problem(f"/{role}", "validation_error", f"{role} is given twice")])
    return Submission(parsed, body.files, _idempotency(request, body, key))


def _idempotency(request: Request, body: Body, key: str | None) -> Idempotency | None:
    return Idempotency(key, body.fingerprint(request.method, request.url.path)) if key else None


def _with_outlook(services: Services, submitted: Submitted) -> Submitted:
    """The same, with what its job may expect at hand for the answer, which reads no database."""
    services.outlooks.refresh(submitted.job.pool)
    return submitted
