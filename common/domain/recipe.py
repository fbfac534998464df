"""The recipe of a finished image: the job request that makes it again, alone."""

from collections.abc import Sequence
from typing import Any

from common.domain.capabilities import Task
from common.domain.params import EditParams, MaskParams, Output, PassParams


def recipe_of(params: EditParams, index: int) -> dict[str, Any]:
    """A job request (JSON members) that makes image `index` (0 to num_images - 1) of a job of these `params` again.

    With the same image and mask, which are not in it, it settles to the same parameters with `num_images` 1 and the
    seeds of that image; only `fit` becomes `stretch` (see `_resize_member`). A chain is all in `steps`, so that nothing
    of the first step becomes a default of the others.
    """
    steps = _steps_of(params)
    shared: dict[str, Any] = {"output": _output_members(params.output)}
    if params.deterministic:
        shared["deterministic"] = True
    if not params.previews:
        shared["previews"] = False
    if params.keep != "last" or len(steps) > 1:
        shared["keep"] = params.keep
    members = [_step_members(step, index) for step in steps]
    return (members[0] if len(members) == 1 else {"steps": members}) | shared


def _steps_of(params: EditParams) -> list[list[PassParams]]:
    """The passes of each step: its own, and that of its refiner if it has one."""
    steps: list[list[PassParams]] = []
    for one in params.passes:
        if one.refines:
            steps[-1].append(one)
        else:
            steps.append([one])
    return steps


def _step_members(passes: Sequence[PassParams], index: int) -> dict[str, Any]:
    first = passes[0]
    wished = {
        "strength": first.strength,
        "scheduler": first.scheduler,
        "resize": _resize_member(first),
        "steps_mode": first.steps_mode if first.steps_mode != "scaled" else None,
        "negative_prompt": first.negative_prompt or None,
        "adapters": [{"id": use.id, "weight": use.weight} for use in first.adapters] or None,
        "refiner": _refiner_member(passes[1]) if len(passes) > 1 else None,
    }
    return {
        "task": first.task.value,
        "model": first.model,
        "prompt": first.prompt,
        "guidance_scale": first.guidance_scale,
        "num_inference_steps": first.num_inference_steps,
        "seed": first.seed_of(index),
        "width": first.width,
        "height": first.height,
        **{name: value for name, value in wished.items() if value is not None},
        **(_mask_members(first.mask) if first.mask else {}),
    }


def _resize_member(one: PassParams) -> str | None:
    """Both sides are given, and `fit` would fit the picture once more inside them, where a rounded side may shrink.

    `stretch` takes the sides as they are, and is the same geometry: `fit` is only a way to choose the sides.
    """
    if one.task is Task.TXT2IMG:
        return None
    return "stretch" if one.resize == "fit" else one.resize


def _refiner_member(refining: PassParams) -> dict[str, Any]:
    if refining.denoising_start is not None:
        return {"model": refining.model, "switch_at": refining.denoising_start}
    return {"model": refining.model, "strength": refining.strength}


def _mask_members(mask: MaskParams) -> dict[str, Any]:
    members: dict[str, Any] = {
        "mask_mode": mask.mode,
        "mask_blur": mask.blur,
        "mask_grow": mask.grow,
        "inpaint_area": mask.area,
        "preserve_unmasked": mask.preserve_unmasked,
    }
    return members | ({"inpaint_padding": mask.padding} if mask.area == "masked" else {})


def _output_members(output: Output) -> dict[str, Any]:
    return {
        "format": output.format,
        "quality": output.quality,
        "metadata": output.metadata,
        "grid": output.grid,
    }
