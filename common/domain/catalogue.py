"""What each model accepts: the cards of `models.toml`. What a model does with it is in `worker.pipelines`."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from common.domain.capabilities import FAMILIES, Capability, Task
from common.domain.errors import Invalid, Problem, nearest

__all__ = ["AdapterCard", "Catalogue", "Defaults", "ModelCard", "Source", "Task", "parse_catalogue"]

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights are: exactly one of a hub repository, a folder, or a folder bundled with the worker."""

    repository: str | None = None
    revision: str | None = None
    directory: str | None = None
    bundled: str | None = None

    def __post_init__(self) -> None:
        if sum(place is not None for place in (self.repository, self.directory, self.bundled)) != 1:
            raise ValueError("a model's source names exactly one of repository, directory, bundled")


@dataclass(frozen=True, slots=True)
class Defaults:
    """The parameters that a request leaves out."""

    strength: float = 0.8
    guidance_scale: float = 7.5
    num_inference_steps: int = 50


@dataclass(frozen=True, slots=True)
class AdapterCard:
    """One LoRA that fits one model. `weights` is the safetensors file inside its source."""

    id: str
    title: str
    source: Source
    weights: str
    licence: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model as clients see it. `native_size` is the side of its training square, in pixels.

    `prior` is where Kandinsky's prior is. `seconds_per_megapixel_step` is the starting guess for the cost of a job
    until runs have been measured.
    """

    id: str
    title: str
    family: str
    source: Source
    tasks: frozenset[Task]
    native_size: int
    licence: str
    defaults: Defaults = field(default_factory=Defaults)
    pool: str = "default"
    variant: str | None = None
    seconds_per_megapixel_step: float = 0.3
    note: str = ""
    prior: Source | None = None
    adapters: Mapping[str, AdapterCard] = field(default_factory=dict)

    @property
    def capability(self) -> Capability:
        """What the weights of its family can do; KeyError for a family that is in no table."""
        return FAMILIES[self.family]


class Catalogue:
    """The closed list of models; a request names an id of it and nothing else."""

    def __init__(self, cards: Mapping[str, ModelCard]) -> None:
        self._cards = dict(cards)

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self._cards.values())

    def get(self, model_id: str) -> ModelCard | None:
        """The card of this id, or None."""
        return self._cards.get(model_id)

    @property
    def default(self) -> ModelCard:
        """The card of a request that names no model: the first."""
        return next(iter(self))

    def require(self, model_id: str, pointer: str = "/model") -> ModelCard:
        """The card of this id; raises `Invalid` (`unknown_model`) naming what there is."""
        card = self.get(model_id)
        if card is None:
            allowed = sorted(self._cards)
            detail = f"model {model_id!r} is not in the catalogue; there are {', '.join(allowed)}"
            raise Invalid([Problem(pointer, "unknown_model", detail, allowed, nearest(model_id, allowed))])
        return card


def parse_catalogue(text: str) -> Catalogue:
    """The catalogue in TOML text: one table per model id. Raises ValueError naming the model and the field."""
    return Catalogue({model_id: _parse_card(model_id, table) for model_id, table in tomllib.loads(text).items()})


def _parse_card(model_id: str, table: dict[str, Any]) -> ModelCard:
    members = dict(table)
    try:
        source = Source(**members.pop("source"))
        prior = Source(**members.pop("prior")) if "prior" in members else None
        tasks = frozenset(Task(task) for task in members.pop("tasks"))
        defaults = Defaults(**members.pop("defaults", {}))
        adapters = {name: _parse_adapter(name, table) for name, table in members.pop("adapters", {}).items()}
        card = ModelCard(
            id=model_id, source=source, tasks=tasks, defaults=defaults, prior=prior, adapters=adapters, **members
        )
        _check_card(card)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"models file, model {model_id!r}: {error}") from error
    return card


def _parse_adapter(adapter_id: str, table: dict[str, Any]) -> AdapterCard:
    if not _ID.fullmatch(adapter_id):
        raise ValueError(f"adapter {adapter_id!r}: an id is letters, digits, dots, dashes and underscores")
    adapter = AdapterCard(id=adapter_id, **{**table, "source": Source(**table["source"])})
    if not adapter.weights.endswith(".safetensors") or "/" in adapter.weights or "\\" in adapter.weights:
        raise ValueError(f"adapter {adapter_id!r}: weights must name a .safetensors file, not {adapter.weights!r}")
    return adapter


def _check_card(card: ModelCard) -> None:
    if card.family not in FAMILIES:
        raise ValueError(f"family {card.family!r} is not one of {', '.join(sorted(FAMILIES))}")
    impossible = card.tasks - card.capability.tasks
    if impossible or not card.tasks:
        can = ", ".join(sorted(card.capability.tasks))
        raise ValueError(f"tasks: weights of family {card.family} can do {can}, not {', '.join(sorted(impossible))}")
    if card.adapters and not card.capability.has_adapters:
        raise ValueError(f"adapters: family {card.family} takes none")
    if (card.prior is not None) != card.family.startswith("kandinsky"):
        raise ValueError("prior: the Kandinsky families need one, others have none")
