"""Usage: what the caller's tenant has used by day, and its limits."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from api.auth import Reader
from api.dependencies import ServicesDep, accepts_query
from api.routes.responses import PROBLEMS
from api.schemas.usage import Usage
from api.use_cases.look_at_usage import look_at_usage

router = APIRouter(prefix="/v1", tags=["system"], responses=PROBLEMS)

Days = Annotated[int, Query(ge=1, le=90, description="How many UTC days, with today.")]


@router.get(
    "/usage",
    summary="Look at your usage",
    responses={200: {"model": Usage}},
    dependencies=[accepts_query("days")],
)
def usage(services: ServicesDep, caller: Reader, days: Days = 30) -> Response:
    """Jobs, images and device seconds by UTC day, today first, and the limits of your tenant.

    A day without use is there with zeros.
    """
    return JSONResponse(look_at_usage(services, caller, days))
