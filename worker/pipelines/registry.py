"""Every pipeline family there is, by the name that the catalogue uses."""

from collections.abc import Iterable, Mapping

from common.domain.catalogue import ModelCard
from common.domain.errors import JobFailure
from worker.pipelines import (
    kandinsky,
    kandinsky_inpaint,
    sdxl,
    sdxl_inpaint,
    sdxl_refiner,
    stable_diffusion,
    stable_diffusion_inpaint,
)
from worker.pipelines.family import Family


def register(families: Iterable[Family]) -> Mapping[str, Family]:
    """The families by name. Raises ValueError when two share one, which stops the start."""
    registry: dict[str, Family] = {}
    for family in families:
        if family.NAME in registry:
            raise ValueError(f"two pipeline families are called {family.NAME!r}")
        registry[family.NAME] = family
    return registry


FAMILIES = register(
    [
        stable_diffusion,
        stable_diffusion_inpaint,
        sdxl,
        sdxl_inpaint,
        sdxl_refiner,
        kandinsky,
        kandinsky_inpaint,
    ]
)


def pipeline_for(family: str) -> Family:
    """The family of this name; raises KeyError."""
    return FAMILIES[family]


def family_of(card: ModelCard) -> Family:
    """The family of a model; raises `JobFailure` (`model_unavailable`) when this worker has none of that name."""
    if card.family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise JobFailure(
            f"model {card.id}: this worker knows no family {card.family!r}, only {known}", code="model_unavailable"
        )
    return FAMILIES[card.family]
