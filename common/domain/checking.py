"""Whether a model can do what one step asks for, each problem naming the field and what is allowed."""

from collections.abc import Iterator

from common.domain.capabilities import Task
from common.domain.catalogue import ModelCard
from common.domain.errors import Problem, nearest
from common.domain.wishes import StepWishes

_MASK_FIELDS = ("mask_mode", "mask_blur", "mask_grow", "inpaint_area", "inpaint_padding", "preserve_unmasked")


def check_step(
    wish: StepWishes, card: ModelCard, task: Task, *, has_image: bool, has_mask: bool, is_first: bool
) -> list[Problem]:
    """Everything that is wrong with a step; pointers are relative to it."""
    return [
        *_task_problems(card, task),
        *_image_problems(wish, task, has_image=has_image, is_first=is_first),
        *_mask_problems(wish, task, has_mask=has_mask, is_first=is_first),
        *_strength_problems(wish, card, task),
        *_model_problems(wish, card),
    ]


def _task_problems(card: ModelCard, task: Task) -> Iterator[Problem]:
    if task not in card.tasks:
        allowed = sorted(card.tasks)
        detail = f"model {card.id} does {', '.join(allowed)}, not {task}"
        yield Problem("/task", "unsupported_param", detail, allowed)


def _image_problems(wish: StepWishes, task: Task, *, has_image: bool, is_first: bool) -> Iterator[Problem]:
    if task is not Task.TXT2IMG and not has_image:
        yield Problem("/image", "validation_error", f"{task} needs an image")
    if task is Task.TXT2IMG and has_image:
        where = "/image" if is_first else "/task"
        detail = "txt2img takes no image; leave it out or use img2img"
        yield Problem(where, "unsupported_param", detail if is_first else "only the first step of a chain is txt2img")
    if task is Task.TXT2IMG and wish.resize is not None:
        yield Problem("/resize", "unsupported_param", "txt2img has no image to resize")
    if task is Task.TXT2IMG and not (wish.prompt or "").strip():
        yield Problem("/prompt", "validation_error", "txt2img needs a prompt")


def _strength_problems(wish: StepWishes, card: ModelCard, task: Task) -> Iterator[Problem]:
    if wish.strength is not None and task in card.capability.without_strength:
        detail = f"{task} of model {card.id} has no strength; it starts from noise"
        yield Problem("/strength", "unsupported_param", detail)


def _mask_problems(wish: StepWishes, task: Task, *, has_mask: bool, is_first: bool) -> Iterator[Problem]:
    if task is Task.INPAINT and not has_mask:
        detail = "inpaint needs a mask, or mask_mode alpha and an image with transparent parts"
        yield Problem("/mask" if is_first else "/task", "mask_missing", detail)
    if task is not Task.INPAINT and has_mask:
        yield Problem("/mask", "mask_unnecessary", f"{task} takes no mask; leave it out or use inpaint")
    if task is not Task.INPAINT:
        for name in _MASK_FIELDS:
            if getattr(wish, name) is not None:
                yield Problem(f"/{name}", "unsupported_param", f"{task} takes no mask, so {name} means nothing")
    elif wish.inpaint_padding is not None and wish.inpaint_area != "masked":
        detail = "inpaint_padding is for inpaint_area masked"
        yield Problem("/inpaint_padding", "unsupported_param", detail)


def _model_problems(wish: StepWishes, card: ModelCard) -> Iterator[Problem]:
    allowed = list(card.capability.schedulers)
    if wish.scheduler is not None and wish.scheduler not in allowed:
        detail = f"model {card.id} runs with {', '.join(allowed)}, not {wish.scheduler!r}"
        yield Problem("/scheduler", "unsupported_param", detail, allowed, nearest(wish.scheduler, allowed))
    step = card.capability.size_step
    for name in ("width", "height"):
        side = getattr(wish, name)
        if side is not None and side % step:
            detail = f"{name} must be a multiple of {step} for model {card.id}, not {side}"
            yield Problem(f"/{name}", "unsupported_param", detail, {"multipleOf": step})
    known = sorted(card.adapters)
    for number, use in enumerate(wish.adapters or ()):
        if use.id not in card.adapters:
            detail = (
                f"model {card.id} has {'the adapters ' + ', '.join(known) if known else 'no adapters'}, not {use.id!r}"
            )
            yield Problem(f"/adapters/{number}/id", "unsupported_param", detail, known, nearest(use.id, known))
    ids = [use.id for use in wish.adapters or ()]
    if len(set(ids)) < len(ids):
        yield Problem("/adapters", "validation_error", "an adapter is given twice")
