"""Models and queues: what there is, and how busy it is."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.auth import Reader
from api.dependencies import ServicesDep, accepts_query
from api.model_schema import model_schema
from api.presenters import present_depth, present_model
from api.routes.responses import PROBLEMS
from api.schemas.system import ModelDetail, ModelList, QueueState
from api.use_cases.look_at_queue import look_at_queue, look_at_residents
from common.db.queue_stats import lane_totals
from common.domain.errors import NotFound

router = APIRouter(prefix="/v1", tags=["system"], responses=PROBLEMS, dependencies=[accepts_query()])


@router.get("/models", summary="List the models", responses={200: {"model": ModelList}})
def models(services: ServicesDep, caller: Reader) -> Response:
    """The closed list of models; the first is the default of a request that names none."""
    resident = look_at_residents(services)
    return JSONResponse({"data": [present_model(card, resident.get(card.id, 0)) for card in services.catalogue]})


@router.get("/models/{model_id}", summary="Look at a model", responses={200: {"model": ModelDetail}})
def model(services: ServicesDep, caller: Reader, model_id: str) -> Response:
    """One model with the JSON Schema of its job request: ranges, and its own defaults."""
    card = services.catalogue.get(model_id)
    if card is None:
        raise NotFound("there is no such model")
    resident = look_at_residents(services).get(card.id, 0)
    return JSONResponse(present_model(card, resident) | {"parameters": model_schema(card, services.catalogue)})


@router.get("/queue", summary="Look at the queues", responses={200: {"model": QueueState}})
def queue(services: ServicesDep, caller: Reader) -> Response:
    """Depth and age by pool and lane, and by model in each, over all tenants."""
    look = look_at_queue(services)
    names = sorted({depth.pool for depth in look.depths} | look.running.keys() | look.workers_ready.keys())
    pools = [
        {"pool": name, "running": look.running.get(name, 0), "workers_ready": look.workers_ready.get(name, 0)}
        for name in names
    ]
    lanes, models = ([present_depth(one) for one in found] for found in (lane_totals(look.depths), look.depths))
    return JSONResponse({"lanes": lanes, "models": models, "pools": pools})
