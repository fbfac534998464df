"""What each model accepts: the cards of `models.toml`. What a model does with it is in `worker.pipelines`."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from common.domain.errors import Invalid, Problem, nearest


class Task(StrEnum):
    """What is made of what."""

    TXT2IMG = "txt2img"
    IMG2IMG = "img2img"


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
class ModelCard:
    """One model as clients see it. `native_size` is the side of its training square, in pixels.

    `seconds_per_megapixel_step` is the starting guess for the cost of a job until runs have been measured.
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


class Catalogue:
    """The closed list of models; a request names an id of it and nothing else."""

    def __init__(self, cards: Mapping[str, ModelCard]) -> None:
        self._cards = dict(cards)

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self._cards.values())

    def get(self, model_id: str) -> ModelCard | None:
        """The card of this id, or None."""
        return self._cards.get(model_id)

    def require(self, model_id: str) -> ModelCard:
        """The card of this id; raises `Invalid` (`unknown_model`) naming what there is."""
        card = self.get(model_id)
        if card is None:
            allowed = sorted(self._cards)
            detail = f"model {model_id!r} is not in the catalogue; there are {', '.join(allowed)}"
            raise Invalid([Problem("/model", "unknown_model", detail, allowed, nearest(model_id, allowed))])
        return card


def parse_catalogue(text: str) -> Catalogue:
    """The catalogue in TOML text: one table per model id. Raises ValueError naming the model and the field."""
    return Catalogue({model_id: _parse_card(model_id, table) for model_id, table in tomllib.loads(text).items()})


def _parse_card(model_id: str, table: dict[str, Any]) -> ModelCard:
    members = dict(table)
    try:
        source = Source(**members.pop("source"))
        tasks = frozenset(Task(task) for task in members.pop("tasks"))
        defaults = Defaults(**members.pop("defaults", {}))
        return ModelCard(id=model_id, source=source, tasks=tasks, defaults=defaults, **members)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"models file, model {model_id!r}: {error}") from error
