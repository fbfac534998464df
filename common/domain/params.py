"""From what a request wishes to what will run: defaults, size, seed, effective steps, all settled at submit."""

from dataclasses import asdict, dataclass, field
from math import sqrt
from typing import Any, Literal, TypeVar

from common.domain.catalogue import ModelCard, Task
from common.domain.errors import Invalid, Problem

SIZE_STEP = 8
MIN_SIDE = 64
MAX_SIDE = 2048
SEED_LIMIT = 2**32

ImageFormat = Literal["png", "jpeg", "webp"]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Output:
    """How results are encoded. `quality` (1-100) is for jpeg and webp; `metadata` embeds prompt and parameters."""

    format: ImageFormat = "png"
    quality: int = 90
    metadata: bool = True


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the client asked for; None is "the default". Ranges have been checked at the edge."""

    prompt: str
    task: Task | None = None
    negative_prompt: str = ""
    strength: float | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    num_images: int = 1
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    output: Output = field(default_factory=Output)
    deterministic: bool = False


@dataclass(frozen=True, slots=True)
class EditParams:
    """Everything that decides the pixels. Image k uses the seed (seed + k) mod 2^32; sizes are pixels."""

    task: Task
    model: str
    prompt: str
    negative_prompt: str
    strength: float | None
    guidance_scale: float
    num_inference_steps: int
    effective_steps: int
    num_images: int
    seed: int
    width: int
    height: int
    output: Output
    deterministic: bool

    def seed_of(self, index: int) -> int:
        """The seed of image `index`, so that it can be made again alone."""
        return (self.seed + index) % SEED_LIMIT

    def as_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` reads it back."""
        return asdict(self)

    @staticmethod
    def from_dict(members: dict[str, Any]) -> "EditParams":
        """The parameters that `as_dict` wrote, in this release or the next: what it does not know it leaves out."""
        known = {name: members[name] for name in EditParams.__dataclass_fields__ if name in members}
        output = {name: value for name, value in members["output"].items() if name in Output.__dataclass_fields__}
        return EditParams(**known | {"task": Task(members["task"]), "output": Output(**output)})


def settle(wishes: Wishes, card: ModelCard, *, input_size: tuple[int, int] | None, random_seed: int) -> EditParams:
    """What will run. `input_size` is the (width, height) of the prepared input, None without one.

    Raises `Invalid` naming the field when the model cannot do it or nothing would run.
    """
    task = _settle_task(wishes, card, has_image=input_size is not None)
    steps = wishes.num_inference_steps or card.defaults.num_inference_steps
    strength = None if task is Task.TXT2IMG else _given(wishes.strength, card.defaults.strength)
    width, height = settle_size(wishes.width, wishes.height, input_size=input_size, native_size=card.native_size)
    return EditParams(
        task=task,
        model=card.id,
        prompt=wishes.prompt,
        negative_prompt=wishes.negative_prompt,
        strength=strength,
        guidance_scale=_given(wishes.guidance_scale, card.defaults.guidance_scale),
        num_inference_steps=steps,
        effective_steps=_settle_steps(steps, strength),
        num_images=wishes.num_images,
        seed=random_seed if wishes.seed is None else wishes.seed,
        width=width,
        height=height,
        output=wishes.output,
        deterministic=wishes.deterministic,
    )


def effective_steps(steps: int, strength: float | None) -> int:
    """The denoising steps that run: min(int(steps x strength), steps), as the img2img pipelines of diffusers do."""
    return steps if strength is None else min(int(steps * strength), steps)


def settle_size(
    width: int | None, height: int | None, *, input_size: tuple[int, int] | None, native_size: int
) -> tuple[int, int]:
    """The (width, height) that will run: multiples of 8, 64-2048.

    Without an input, missing sides are native. With one, its ratio is kept: fitted to the native area, to the one
    side that is given, or inside the box of both.
    """
    if input_size is None:
        return _snap(width or native_size), _snap(height or native_size)
    input_width, input_height = input_size
    scale = _scale(width, height, input_width, input_height, native_size)
    return _snap(input_width * scale), _snap(input_height * scale)


def _scale(width: int | None, height: int | None, input_width: int, input_height: int, native_size: int) -> float:
    bounds = [side / own for side, own in ((width, input_width), (height, input_height)) if side is not None]
    return min(bounds) if bounds else sqrt(native_size**2 / (input_width * input_height))


def _snap(side: float) -> int:
    return min(MAX_SIDE, max(MIN_SIDE, round(side / SIZE_STEP) * SIZE_STEP))


def _given(value: Number | None, default: Number) -> Number:
    return default if value is None else value


def _settle_task(wishes: Wishes, card: ModelCard, *, has_image: bool) -> Task:
    task = wishes.task or (Task.IMG2IMG if has_image else Task.TXT2IMG)
    problems = list(_task_problems(task, wishes, card, has_image=has_image))
    if problems:
        raise Invalid(problems)
    return task


def _task_problems(task: Task, wishes: Wishes, card: ModelCard, *, has_image: bool) -> list[Problem]:
    problems = []
    if task not in card.tasks:
        allowed = sorted(card.tasks)
        detail = f"model {card.id} does {', '.join(allowed)}, not {task}"
        problems.append(Problem("/task", "unsupported_param", detail, allowed))
    if task is Task.IMG2IMG and not has_image:
        problems.append(Problem("/image", "validation_error", "img2img needs an image"))
    if task is Task.TXT2IMG and has_image:
        problems.append(Problem("/image", "unsupported_param", "txt2img takes no image; leave it out or use img2img"))
    if task is Task.TXT2IMG and wishes.strength is not None:
        problems.append(Problem("/strength", "unsupported_param", "txt2img has no strength; it starts from noise"))
    return problems


def _settle_steps(steps: int, strength: float | None) -> int:
    effective = effective_steps(steps, strength)
    if effective < 1:
        detail = f"int(num_inference_steps x strength) = int({steps} x {strength}) is 0: no step would run"
        raise Invalid([Problem("/num_inference_steps", "infeasible", detail)])
    return effective
