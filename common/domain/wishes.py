"""What a client asked for, before anything is settled; None is "the default". Ranges were checked at the edge."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from common.domain.capabilities import Task
from common.domain.params import AdapterUse, Area, EditParams, Keep, MaskMode, Output, Resize, StepsMode


@dataclass(frozen=True, slots=True)
class RefinerWish:
    """A second model that polishes: from `switch_at` of the schedule on, or afterwards with `strength`."""

    model: str
    switch_at: float | None = None
    strength: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWishes:
    """The wishes of one step of a chain, or of a job that is none."""

    task: Task | None = None
    model: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    strength: float | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    steps_mode: StepsMode | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    resize: Resize | None = None
    scheduler: str | None = None
    mask_mode: MaskMode | None = None
    mask_blur: int | None = None
    mask_grow: int | None = None
    inpaint_area: Area | None = None
    inpaint_padding: int | None = None
    preserve_unmasked: bool | None = None
    refiner: RefinerWish | None = None
    adapters: tuple[AdapterUse, ...] | None = None

    def over(self, defaults: "StepWishes") -> "StepWishes":
        """These wishes, and where there is none that of `defaults`."""
        own = {member.name: getattr(self, member.name) for member in fields(self)}
        return StepWishes(**{name: getattr(defaults, name) if value is None else value for name, value in own.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes(StepWishes):
    """The wishes of a job. With `steps` it is a chain, and its own fields are the defaults of every step."""

    num_images: int = 1
    output: Output = field(default_factory=Output)
    deterministic: bool = False
    previews: bool = True
    keep: Keep = "last"
    steps: tuple[StepWishes, ...] = ()


# What belongs to the input image is the first step's alone.
_FIRST_STEP_ONLY = (
    "task",
    "resize",
    "mask_mode",
    "mask_blur",
    "mask_grow",
    "inpaint_area",
    "inpaint_padding",
    "preserve_unmasked",
)


def wishes_of(request: Mapping[str, Any]) -> Wishes:
    """The wishes in a job request as JSON, whose members were checked at the edge; what is not a wish is left out."""
    members = _step_members(Wishes, request)
    if "output" in members:
        members["output"] = Output(**members["output"])
    members["steps"] = tuple(StepWishes(**_step_members(StepWishes, one)) for one in request.get("steps") or ())
    return Wishes(**members)


def steps_of(wishes: Wishes) -> tuple[StepWishes, ...]:
    """The wishes of each step, the job's own taken as defaults; one step for a job that is no chain."""
    common = StepWishes(**{member.name: getattr(wishes, member.name) for member in fields(StepWishes)})
    if not wishes.steps:
        return (common,)
    later = StepWishes(**dict.fromkeys(_FIRST_STEP_ONLY), **_others(common, _FIRST_STEP_ONLY))
    return (wishes.steps[0].over(common), *(one.over(later) for one in wishes.steps[1:]))


def drawn_seed(wishes: Wishes, told: EditParams) -> int:
    """The seed that these parameters, settled from these wishes, were given where a step wished for none."""
    firsts = [one for one in told.passes if not one.refines]
    drawn = [one.seed for one, wish in zip(firsts, steps_of(wishes), strict=True) if wish.seed is None]
    return drawn[0] if drawn else told.seed


def _others(wishes: StepWishes, apart: tuple[str, ...]) -> dict[str, Any]:
    return {member.name: getattr(wishes, member.name) for member in fields(wishes) if member.name not in apart}


def _step_members(kind: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    members = {
        member.name: request[member.name]
        for member in fields(kind)
        if request.get(member.name) is not None and member.name != "steps"
    }
    if "task" in members:
        members["task"] = Task(members["task"])
    if "refiner" in members:
        members["refiner"] = RefinerWish(**members["refiner"])
    if "adapters" in members:
        members["adapters"] = tuple(AdapterUse(**one) for one in members["adapters"])
    return members
