"""Jobs of every kind that the catalogue knows, and frames of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from common.domain.capabilities import FAMILIES, Task
from common.domain.fairness import Lane
from common.domain.params import EditParams, MaskParams
from common.domain.steps import effective_steps
from tests.unit.worker.frames import SIZE, TXT2IMG, frames_of, gradient
from tests.unit.worker.pipelines.still import box
from worker.engine.port import Prepared

# Schedules whose lengths differ, so that in company nobody stays in step with the others.
_STEPS = (4, 5, 3)
_STRENGTHS = (1.0, 0.7, 0.8)
# Guidance of 1 is one row instead of two.
_GUIDANCES = (5.0, 3.0, 1.0, 2.5, 4.0)
_PROMPTS = ("a red circle", "two blue squares on a white ground", "rain", "")
_NEGATIVE_PROMPTS = ("blurry", "", "grey, dull")


@dataclass(frozen=True, slots=True)
class Case:
    """One job: `checkpoint` is the name of its tiny weights, which is the family's own or a variety of it."""

    family: str
    task: Task
    scheduler: str | None = None
    checkpoint: str = ""
    prompt: str = "a red circle"
    negative_prompt: str = "blurry"
    guidance_scale: float = 5.0
    steps: int = 4
    strength: float | None = None
    seed: int = 11
    size: int = SIZE
    blue: int = 128

    def __str__(self) -> str:
        return f"{self.weights}-{self.task}-{self.scheduler}-{self.seed}"

    @property
    def weights(self) -> str:
        """The name of its checkpoint."""
        return self.checkpoint or self.family

    @property
    def picture(self) -> Image.Image | None:
        """What it begins with."""
        return None if self.task is Task.TXT2IMG else gradient(self.size, blue=self.blue)

    @property
    def mask(self) -> Image.Image | None:
        """What it repaints."""
        return box((self.size, self.size)) if self.task is Task.INPAINT else None

    def params(self, **changes: Any) -> EditParams:
        """As they would be settled."""
        return replace(
            TXT2IMG,
            task=self.task,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.steps,
            effective_steps=effective_steps(self.steps, self.strength),
            strength=self.strength,
            scheduler=self.scheduler,
            seed=self.seed,
            width=self.size,
            height=self.size,
            mask=MaskParams() if self.task is Task.INPAINT else None,
            **changes,
        )

    def frames(self, job_id: str | None = None, *, lane: Lane = Lane.NORMAL, **changes: Any) -> Sequence[Prepared]:
        """The frames of a job of this kind."""
        mask = None if self.mask is None else self.mask.convert("RGB")
        made = frames_of(self.params(**changes), job_id=job_id or str(self), picture=self.picture, mask=mask)
        return [replace(frame, job=replace(frame.job, lane=lane)) for frame in made]

    def frame(self, job_id: str | None = None, **changes: Any) -> Prepared:
        """The only frame of such a job. Its latents come out beside its picture, as for a next pass that takes them."""
        (frame,) = self.frames(job_id, **changes)
        following = replace(frame.job.params, keep="all", then=(frame.job.params,))
        return replace(frame, job=replace(frame.job, params=following), handovers=("latents",))


def cases_of(family: str, *, checkpoint: str = "", varieties: int = 1) -> list[Case]:
    """A case for each task and scheduler of a family, no two alike; `varieties` of each."""
    able = FAMILIES[family]
    kinds = [(task, name) for _ in range(varieties) for name in able.schedulers for task in sorted(able.tasks)]
    return [_case(family, checkpoint, task, name, number) for number, (task, name) in enumerate(kinds)]


def _case(family: str, checkpoint: str, task: Task, scheduler: str, number: int) -> Case:
    has_strength = task not in FAMILIES[family].without_strength
    return Case(
        family=family,
        task=task,
        scheduler=scheduler,
        checkpoint=checkpoint,
        prompt=_pick(_PROMPTS, number),
        negative_prompt=_pick(_NEGATIVE_PROMPTS, number),
        guidance_scale=_pick(_GUIDANCES, number),
        steps=_pick(_STEPS, number),
        strength=_pick(_STRENGTHS, number) if has_strength else None,
        seed=100 + number,
        blue=number * 37 % 256,
    )


def _pick(values: Sequence[Any], number: int) -> Any:
    return values[number % len(values)]


EVERY: Mapping[str, Sequence[Case]] = {
    "stable_diffusion": cases_of("stable_diffusion"),
    # The calls of 1.5 on other weights.
    "stable_diffusion_2": cases_of("stable_diffusion", checkpoint="stable_diffusion_2")[::4],
    "stable_diffusion_inpaint": cases_of("stable_diffusion_inpaint"),
    "sdxl": cases_of("sdxl"),
    "sdxl_inpaint": cases_of("sdxl_inpaint"),
    "sdxl_refiner": cases_of("sdxl_refiner"),
    "kandinsky": cases_of("kandinsky", varieties=2),
    "kandinsky_inpaint": cases_of("kandinsky_inpaint", varieties=4),
}
ALL = [case for cases in EVERY.values() for case in cases]


def has_steady_decoder(case: Case) -> bool:
    """False for Kandinsky, whose decoder of random weights makes a thousand times as much of every rounding."""
    return not case.family.startswith("kandinsky")
