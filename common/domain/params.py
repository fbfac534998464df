"""What will run: the value that is stored with a job and decides its pixels. `common.domain.settling` makes it."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from common.domain.capabilities import Task
from common.domain.steps import scheduled_steps

SEED_LIMIT = 2**32

ImageFormat = Literal["png", "jpeg", "webp"]
StepsMode = Literal["scaled", "exact"]
Resize = Literal["fit", "fill", "pad", "stretch"]
MaskMode = Literal["white_repaints", "black_repaints", "alpha"]
Area = Literal["whole", "masked"]
Keep = Literal["last", "all"]


@dataclass(frozen=True, slots=True)
class Output:
    """How results are encoded.

    `quality` (1-100) is for jpeg and webp; `grid` adds a picture of the input beside the results; `metadata` embeds
    prompt and parameters.
    """

    format: ImageFormat = "png"
    quality: int = 90
    metadata: bool = True
    grid: bool = False


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """One LoRA of the model's card and how strongly it acts (1: as trained)."""

    id: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class MaskParams:
    """How a mask is read and applied; `grow`, `blur` and `padding` in pixels of the prepared picture.

    `mode` says what is repainted: white, black, or what is transparent. `area` `masked` develops only the surroundings
    of the mask, at full size. `preserve_unmasked` puts the prepared input back outside of the grown and blurred mask.
    """

    mode: MaskMode = "white_repaints"
    blur: int = 0
    grow: int = 0
    area: Area = "whole"
    padding: int = 32
    preserve_unmasked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PassParams:
    """One run of one model. Image k uses the seed (seed + k) mod 2^32; sizes are pixels.

    `num_inference_steps` is the schedule's length, or with `steps_mode` `exact` the steps that run; `effective_steps`
    are run either way. `denoising_end` and `denoising_start` (shares of the schedule) cut it where a base model hands
    unfinished latents to its refiner. `refines`: it polishes the pass before it and belongs to the same step.
    """

    task: Task
    model: str
    prompt: str
    negative_prompt: str
    strength: float | None
    guidance_scale: float
    num_inference_steps: int
    effective_steps: int
    seed: int
    width: int
    height: int
    steps_mode: StepsMode = "scaled"
    scheduler: str | None = None
    resize: Resize = "fit"
    adapters: tuple[AdapterUse, ...] = ()
    mask: MaskParams | None = None
    denoising_end: float | None = None
    denoising_start: float | None = None
    refines: bool = False

    @property
    def scheduled_steps(self) -> int:
        """The schedule's length, as diffusers is told."""
        return scheduled_steps(self.num_inference_steps, self.strength, exact=self.steps_mode == "exact")

    def seed_of(self, index: int) -> int:
        """The seed of image `index`, so that it can be made again alone."""
        return (self.seed + index) % SEED_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class EditParams(PassParams):
    """Everything that decides the pixels of a job: its first pass, what follows it, and what is common to all.

    A pass without `refines` begins a step of the chain; `then` is empty for a job of one pass.
    """

    num_images: int
    output: Output
    deterministic: bool
    previews: bool = True
    keep: Keep = "last"
    then: tuple[PassParams, ...] = field(default=())

    @property
    def passes(self) -> tuple[PassParams, ...]:
        """All passes in order."""
        return (self, *self.then)

    @property
    def final(self) -> PassParams:
        """The pass that makes the results."""
        return self.passes[-1]

    @property
    def kept_passes(self) -> tuple[int, ...]:
        """The numbers of the passes whose pictures are results: the last, or the end of every step."""
        last = len(self.then)
        if self.keep == "last":
            return (last,)
        return (*(number for number in range(last) if not self.then[number].refines), last)

    @property
    def total_steps(self) -> int:
        """The denoising steps of one image over all passes."""
        return sum(one.effective_steps for one in self.passes)

    @property
    def result_count(self) -> int:
        """How many pictures a success has."""
        return self.num_images * len(self.kept_passes)

    def as_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` reads it back."""
        return asdict(self)

    @staticmethod
    def from_dict(members: dict[str, Any]) -> "EditParams":
        """The parameters that `as_dict` wrote, in this release or the next: what it does not know it leaves out."""
        then = tuple(PassParams(**_pass_members(PassParams, one)) for one in members.get("then", ()))
        output = Output(**_known(Output, members["output"]))
        return EditParams(**_pass_members(EditParams, members) | {"output": output, "then": then})


def _pass_members(kind: type, members: dict[str, Any]) -> dict[str, Any]:
    own = _known(kind, members)
    own["task"] = Task(own["task"])
    own["adapters"] = tuple(AdapterUse(**_known(AdapterUse, one)) for one in own.get("adapters", ()))
    own["mask"] = MaskParams(**_known(MaskParams, own["mask"])) if own.get("mask") else None
    return own


def _known(kind: Any, members: dict[str, Any]) -> dict[str, Any]:
    return {member.name: members[member.name] for member in fields(kind) if member.name in members}
