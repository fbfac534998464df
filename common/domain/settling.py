"""From what a request wishes to what will run: defaults, sizes, seeds, effective steps, all settled at submit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from common.domain.capabilities import INPAINT_ONLY, MOST_STEPS, Task
from common.domain.catalogue import Catalogue, ModelCard
from common.domain.checking import check_step
from common.domain.errors import Invalid, Problem
from common.domain.params import EditParams, MaskParams, PassParams
from common.domain.sizes import Size, SizeWish, settle_size
from common.domain.steps import TRAINED_STEPS, effective_steps, scheduled_steps, split_at
from common.domain.wishes import RefinerWish, StepWishes, Wishes, steps_of

SWITCH_AT = 0.8

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Given:
    """The inputs of a job: the size of its image, if it has one, and whether it has a mask."""

    image: Size | None = None
    has_mask: bool = False


def settle(wishes: Wishes, catalogue: Catalogue, given: Given, *, random_seed: int) -> EditParams:
    """What will run.

    Raises `Invalid` naming the field when a model is unknown, cannot do it, or nothing would run.
    """
    steps = steps_of(wishes)
    passes: list[PassParams] = []
    for number, (step, own) in enumerate(zip(steps, wishes.steps or steps, strict=True)):
        pointer = f"/steps/{number}" if wishes.steps else ""
        previous = passes[-1] if passes else None
        passes += _Settler(catalogue, given, pointer, random_seed, previous).passes(step, own)
    _check_pools(passes, catalogue)
    first = passes[0]
    return EditParams(
        **{name: getattr(first, name) for name in PassParams.__dataclass_fields__},
        num_images=wishes.num_images,
        output=wishes.output,
        deterministic=wishes.deterministic,
        previews=wishes.previews,
        keep=wishes.keep,
        then=tuple(passes[1:]),
    )


@dataclass(frozen=True, slots=True)
class _Settler:
    """Settles one step: `pointer` is where it stands in the request, `previous` the pass whose picture it takes."""

    catalogue: Catalogue
    given: Given
    pointer: str
    random_seed: int
    previous: PassParams | None

    def passes(self, wish: StepWishes, own: StepWishes) -> list[PassParams]:
        """The step's pass, and its refiner's. `own` is what the step itself says; the job's strength is no mistake in a
        step that has none.
        """
        card = self._card(wish.model, "/model")
        if own.strength is None and self._implied(wish) is Task.TXT2IMG:
            wish = replace(wish, strength=None)
        task = self._task(wish, card)
        whole = self._pass(wish, card, task)
        if wish.refiner is None:
            return [whole]
        return self._refined(whole, wish.refiner, card)

    def _task(self, wish: StepWishes, card: ModelCard) -> Task:
        """The task of a step that is right; a later step of a chain always has an image."""
        task = self._implied(wish)
        has_mask, is_first = self._has_mask(wish), self.previous is None
        problems = check_step(wish, card, task, has_image=self._has_image, has_mask=has_mask, is_first=is_first)
        if problems:
            raise Invalid([replace(problem, pointer=self.pointer + problem.pointer) for problem in problems])
        return task

    @property
    def _has_image(self) -> bool:
        return self.previous is not None or self.given.image is not None

    def _has_mask(self, wish: StepWishes) -> bool:
        return self.previous is None and (self.given.has_mask or wish.mask_mode == "alpha")

    def _implied(self, wish: StepWishes) -> Task:
        """The wished task, or the one that the inputs imply."""
        if wish.task is not None:
            return wish.task
        return Task.INPAINT if self._has_mask(wish) else Task.IMG2IMG if self._has_image else Task.TXT2IMG

    def _pass(self, wish: StepWishes, card: ModelCard, task: Task) -> PassParams:
        steps = wish.num_inference_steps or card.defaults.num_inference_steps
        strength = None
        if task not in card.capability.without_strength:
            strength = _or(wish.strength, card.defaults.strength)
        steps_mode = wish.steps_mode or "scaled"
        width, height = self._size(wish, card)
        return PassParams(
            task=task,
            model=card.id,
            prompt=wish.prompt or "",
            negative_prompt=wish.negative_prompt or "",
            strength=strength,
            guidance_scale=_or(wish.guidance_scale, card.defaults.guidance_scale),
            num_inference_steps=steps,
            effective_steps=self._effective(
                steps, strength, exact=steps_mode == "exact", most=MOST_STEPS.get(wish.scheduler or "", TRAINED_STEPS)
            ),
            seed=self.random_seed if wish.seed is None else wish.seed,
            width=width,
            height=height,
            steps_mode=steps_mode,
            scheduler=wish.scheduler,
            resize=wish.resize or "fit",
            adapters=wish.adapters or (),
            mask=_mask_params(wish) if task is Task.INPAINT else None,
        )

    def _size(self, wish: StepWishes, card: ModelCard) -> Size:
        """A later step keeps the size of the picture it takes, unless its wishes or its model say otherwise."""
        size_wish = SizeWish(wish.width, wish.height, keeps_ratio=(wish.resize or "fit") == "fit")
        if self.previous is not None and wish.width is None and wish.height is None:
            size_wish = SizeWish(self.previous.width, self.previous.height, keeps_ratio=False)
        source = self.given.image if self.previous is None else (self.previous.width, self.previous.height)
        return settle_size(size_wish, input_size=source, native_size=card.native_size, step=card.capability.size_step)

    def _refined(self, base: PassParams, wish: RefinerWish, card: ModelCard) -> list[PassParams]:
        refiner = self._card(wish.model, "/refiner/model")
        task = Task.INPAINT if base.task is Task.INPAINT else Task.IMG2IMG
        self._check_refiner(wish, card, refiner)
        if wish.strength is not None:
            self._check_polisher(base, task, refiner)
        scheduler = base.scheduler if base.scheduler in refiner.capability.schedulers else None
        common = replace(base, task=task, model=refiner.id, adapters=(), refines=True, scheduler=scheduler)
        if wish.strength is not None:
            effective = self._effective(base.num_inference_steps, wish.strength, exact=False, at="/refiner/strength")
            polish = replace(common, strength=wish.strength, steps_mode="scaled", effective_steps=effective)
            return [base, polish]
        switch_at = _or(wish.switch_at, SWITCH_AT)
        early, late = split_at(base.scheduled_steps, base.effective_steps, switch_at)
        if early < 1 or late < 1:
            detail = (
                f"switch_at {switch_at} leaves {early} steps to {card.id} and {late} to {refiner.id}; both need one"
            )
            self._refuse("/refiner/switch_at", "infeasible", detail)
        if card.capability.tasks == INPAINT_ONLY:
            # Such a base never puts the kept picture back into its latents, and an inpainting refiner would keep noise.
            common = replace(common, task=Task.IMG2IMG)
        return [
            replace(base, denoising_end=switch_at, effective_steps=early),
            replace(common, denoising_start=switch_at, effective_steps=late),
        ]

    def _check_refiner(self, wish: RefinerWish, card: ModelCard, refiner: ModelCard) -> None:
        if wish.switch_at is not None and wish.strength is not None:
            detail = "a refiner takes over at switch_at or polishes with strength, not both"
            self._refuse("/refiner", "validation_error", detail)
        if wish.strength is None and refiner.family != card.capability.refined_by:
            able = sorted(one.id for one in self.catalogue if one.family == card.capability.refined_by)
            detail = f"model {card.id} can hand its latents to {', '.join(able) or 'no refiner'}, not to {refiner.id}"
            self._refuse("/refiner/model", "unsupported_param", detail, able)

    def _check_polisher(self, base: PassParams, task: Task, refiner: ModelCard) -> None:
        """Whether a model can go over the picture of another: its task, with a strength, at this size."""
        if task not in refiner.tasks - refiner.capability.without_strength:
            able = sorted(one.id for one in self.catalogue if task in one.tasks - one.capability.without_strength)
            detail = f"model {refiner.id} does no {task} with a strength"
            self._refuse("/refiner/model", "unsupported_param", detail, able)
        step = refiner.capability.size_step
        if base.width % step or base.height % step:
            detail = f"model {refiner.id} needs sides that are multiples of {step}, not {base.width} x {base.height}"
            self._refuse("/refiner/model", "unsupported_param", detail, {"multipleOf": step})

    def _effective(
        self,
        steps: int,
        strength: float | None,
        *,
        exact: bool,
        most: int = TRAINED_STEPS,
        at: str = "/num_inference_steps",
    ) -> int:
        scheduled = scheduled_steps(steps, strength, exact=exact)
        if scheduled > most:
            why = f"{steps} exact steps at strength {strength}" if exact else f"{steps} steps"
            detail = f"{why} need a schedule of {scheduled}; there are at most {most}"
            self._refuse("/steps_mode" if exact else at, "infeasible", detail)
        effective = effective_steps(scheduled, strength)
        if effective < 1:
            detail = f"int(num_inference_steps x strength) = int({steps} x {strength}) is 0: no step would run"
            self._refuse(at, "infeasible", detail)
        return effective

    def _card(self, model_id: str | None, at: str) -> ModelCard:
        return self.catalogue.default if model_id is None else self.catalogue.require(model_id, self.pointer + at)

    def _refuse(self, at: str, code: str, detail: str, allowed: object = None) -> None:
        raise Invalid([Problem(self.pointer + at, code, detail, allowed)])


def _mask_params(wish: StepWishes) -> MaskParams:
    default = MaskParams()
    return MaskParams(
        mode=wish.mask_mode or default.mode,
        blur=_or(wish.mask_blur, default.blur),
        grow=_or(wish.mask_grow, default.grow),
        area=wish.inpaint_area or default.area,
        padding=_or(wish.inpaint_padding, default.padding),
        preserve_unmasked=_or(wish.preserve_unmasked, default.preserve_unmasked),
    )


def _check_pools(passes: list[PassParams], catalogue: Catalogue) -> None:
    """All models of a job run in one worker, so they are served by one pool."""
    pools = dict(_pools(passes, catalogue))
    if len(set(pools.values())) > 1:
        served = ", ".join(f"{model} by {pool}" for model, pool in pools.items())
        raise Invalid([Problem("/steps", "infeasible", f"all models of a chain must be in one pool, but: {served}")])


def _pools(passes: list[PassParams], catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    for one in passes:
        yield one.model, catalogue.require(one.model).pool


def _or(value: Value | None, default: Value) -> Value:
    return default if value is None else value
