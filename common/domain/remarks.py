"""What was asked and is not done as asked: the warnings of a job that only its parameters decide."""

from collections.abc import Iterator

from common.domain.params import EditParams, PassParams
from common.domain.sizes import Size
from common.domain.wishes import StepWishes, Wishes, steps_of

Remark = dict[str, str]

SIZE_CODES = frozenset({"size_adjusted", "mask_resized"})


def remarks(wishes: Wishes, params: EditParams, *, image: Size | None, mask: Size | None) -> list[Remark]:
    """Each as {code, pointer}. `image` and `mask` are (width, height) of the inputs, None where there is none (yet)."""
    first_passes = [one for one in params.passes if not one.refines]
    found = list(_of_mask(params, image, mask))
    for number, (step, one) in enumerate(zip(steps_of(wishes), first_passes, strict=True)):
        at = f"/steps/{number}" if wishes.steps else ""
        found += [{"code": code, "pointer": at + pointer} for code, pointer in _of_step(step, one)]
    return found


def _of_step(step: StepWishes, one: PassParams) -> Iterator[tuple[str, str]]:
    if step.width not in (None, one.width):
        yield "size_adjusted", "/width"
    if step.height not in (None, one.height):
        yield "size_adjusted", "/height"
    if step.negative_prompt and one.guidance_scale <= 1:
        yield "guidance_off", "/negative_prompt"


def _of_mask(params: EditParams, image: Size | None, mask: Size | None) -> Iterator[Remark]:
    if image is not None and mask not in (None, image):
        yield {"code": "mask_resized", "pointer": "/mask"}
    if params.output.format != "png" and params.mask is not None and params.mask.preserve_unmasked:
        yield {"code": "lossy_output", "pointer": "/output/format"}
