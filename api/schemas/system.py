"""Models and queues as clients see them."""

from typing import Any, Literal

from pydantic import BaseModel


class ModelDefaults(BaseModel):
    """The parameters that a request leaves out."""

    strength: float
    guidance_scale: float
    num_inference_steps: int


class AdapterSummary(BaseModel):
    """A LoRA of a model."""

    id: str
    title: str
    licence: str
    note: str


class ModelSummary(BaseModel):
    """A model of the catalogue. Sides are multiples of `size_step` pixels; `resident_workers` have it in memory now.

    `engine`: with `step`, unlike jobs share forward passes and start between two steps of those that run; with
    `pipeline`, jobs share a call when they differ in prompt, picture and seed only.
    """

    id: str
    title: str
    tasks: list[str]
    native_size: int
    licence: str
    note: str
    family: str
    engine: Literal["step", "pipeline"]
    pool: str
    defaults: ModelDefaults
    schedulers: list[str]
    size_step: int
    adapters: list[AdapterSummary]
    resident_workers: int


class ModelDetail(ModelSummary):
    """A model with the JSON Schema of its job request, its own defaults in place."""

    parameters: dict[str, Any]


class ModelList(BaseModel):
    """The whole catalogue; the first is the default."""

    data: list[ModelSummary]


class LaneDepth(BaseModel):
    """One lane of one pool; `held` of the `queued` jobs wait for something else than a worker."""

    pool: str
    lane: str
    queued: int
    held: int
    oldest_seconds: float


class ModelDepth(LaneDepth):
    """One model in one lane of one pool."""

    model: str


class PoolState(BaseModel):
    """One pool."""

    pool: str
    running: int
    workers_ready: int


class QueueState(BaseModel):
    """All tenants' jobs, as totals."""

    lanes: list[LaneDepth]
    models: list[ModelDepth]
    pools: list[PoolState]
