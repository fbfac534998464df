"""Planning many requests of few shapes: what differs in prompt, seed and notes alone is settled once."""

from dataclasses import replace
from typing import Final

from common.domain.catalogue import Catalogue
from common.domain.params import EditParams
from common.requests.job import JobRequest
from common.requests.planning import Inputs, Plan, make_plan

_MOST_TEMPLATES: Final = 1000
# What never decides how a job of one step is settled, or does in a way that `_with` repeats.
_FREE: Final = {
    "prompt",
    "seed",
    "image",
    "mask",
    "tags",
    "metadata",
    "external_id",
    "deadline_seconds",
    "expires_in_seconds",
    "priority",
    "webhook",
}


class Planner:
    """Plans as `make_plan` does, and remembers the shapes that it has seen. Not for use by several threads."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._templates: dict[tuple[str, bool, Inputs], Plan] = {}

    def plan(self, request: JobRequest, inputs: Inputs, *, random_seed: int) -> Plan:
        """The plan of `make_plan`; raises as that does."""
        if request.steps is not None:
            return make_plan(request, self._catalogue, inputs, random_seed=random_seed)
        shape = request.model_dump_json(exclude=_FREE, exclude_unset=True)
        prompt = request.prompt or ""
        key = (shape, bool(prompt.strip()), inputs)
        template = self._templates.get(key)
        if template is not None:
            seed = random_seed if request.seed is None else request.seed
            return replace(template, params=_with(template.params, prompt, seed))
        plan = make_plan(request, self._catalogue, inputs, random_seed=random_seed)
        if len(self._templates) >= _MOST_TEMPLATES:
            self._templates.clear()
        self._templates[key] = plan
        return plan


def _with(params: EditParams, prompt: str, seed: int) -> EditParams:
    """These parameters for another prompt and seed; in one step, the passes of base and refiner share both."""
    then = tuple(replace(one, prompt=prompt, seed=seed) for one in params.then)
    return replace(params, prompt=prompt, seed=seed, then=then)
