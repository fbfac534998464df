"""For operators and load balancers: alive, ready, metrics; and the way to the documentation."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, RedirectResponse

from api.dependencies import ServicesDep
from api.metrics import CONTENT_TYPE
from api.routes.responses import PROBLEMS
from api.use_cases.look_at_queue import count_workers
from common.domain.errors import NotFound, Unavailable

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> dict[str, str]:
    """Answers while the process can answer at all; looks at nothing else."""
    return {"status": "ok"}


@router.get("/readyz", summary="Should it get requests?", responses=PROBLEMS)
def readyz(services: ServicesDep) -> Response:
    """503 when the database is away or the process is stopping.

    Without workers, or with a broker that takes no bells, it is `degraded`, but ready: jobs are accepted all the same.
    """
    if services.draining.is_set():
        raise Unavailable("the process is stopping")
    ready = count_workers(services)
    broker = "ok" if services.doorbell.is_ok else "degraded"
    status = "ok" if ready and services.doorbell.is_ok else "degraded"
    return JSONResponse({"status": status, "workers_ready": ready, "broker": broker})


@router.get("/metrics", summary="Metrics for Prometheus")
def metrics(services: ServicesDep) -> Response:
    """What this process has counted, in the text format."""
    return Response(services.metrics.render(), media_type=CONTENT_TYPE)


@router.get("/", include_in_schema=False)
async def root(services: ServicesDep) -> Response:
    """To the documentation."""
    if not services.settings.docs:
        raise NotFound("there is nothing here; the API is under /v1")
    return RedirectResponse("/docs", 307)
